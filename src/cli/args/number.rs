//! Whole numbers as options, with a sentence for what is none.

/// Reads one that is `least` or more.
pub(super) fn from<N: TryFrom<u64>>(
    least: u64,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static {
    move |text| {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err("give a whole number".to_owned());
        }
        let number = text.parse::<u64>().map_err(|_| TOO_LARGE)?;
        if number < least {
            return Err(format!("it must be at least {least}"));
        }
        N::try_from(number).map_err(|_| TOO_LARGE.to_owned())
    }
}

const TOO_LARGE: &str = "the number is too large";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_told_in_words() {
        let read = from::<u32>(1);
        assert_eq!(read("7"), Ok(7));
        for (text, said) in [
            ("abc", "give a whole number"),
            ("", "give a whole number"),
            ("-1", "give a whole number"),
            ("0", "it must be at least 1"),
            ("4294967296", TOO_LARGE),
            ("18446744073709551616", TOO_LARGE),
        ] {
            assert_eq!(read(text), Err(said.to_owned()), "{text}");
        }
        assert_eq!(from::<u64>(0)("18446744073709551615"), Ok(u64::MAX));
    }
}
