//! Small things about sentences.

/// With this begins what a service says of itself that ends and is not started again by itself.
pub const GAVE_UP: &str = "Gave up: ";

/// The kernel's word for an error is enough; Rust adds its number.
pub fn without_number(mut message: String) -> String {
    const BEGIN: &str = " (os error ";
    while let Some(at) = message.find(BEGIN) {
        let rest = &message[at + BEGIN.len()..];
        match rest.split_once(')') {
            Some((number, _)) if number.bytes().all(|b| b.is_ascii_digit()) => {
                let end = at + BEGIN.len() + number.len() + 1;
                message.replace_range(at..end, "");
            }
            _ => break,
        }
    }
    message
}

/// `1 runner`, `0 runners`, `7 runners`.
pub fn counted(n: u64, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1, "runner"), "1 runner");
        assert_eq!(counted(0, "runner"), "0 runners");
        assert_eq!(counted(12, "event"), "12 events");
    }

    #[test]
    fn numbers_of_errors_are_left_out() {
        for (given, said) in [
            ("x: Is a directory (os error 21).", "x: Is a directory."),
            ("a (os error 2), b (os error 111)", "a, b"),
            ("x (os error", "x (os error"),
            ("x (os error y)", "x (os error y)"),
        ] {
            assert_eq!(without_number(given.to_owned()), said);
        }
    }
}
