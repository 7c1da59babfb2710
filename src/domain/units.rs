//! Sizes and time spans in systemd's notation (systemd.syntax(7), systemd.time(7)).

use super::error::Error;
use super::name::shown;

/// "No limit", on the bus and in the store.
pub const INFINITY: u64 = u64::MAX;

const SIZES: [(&str, u64); 7] = [
    ("", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("P", 1 << 50),
    ("E", 1 << 60),
];

const COUNTS: [(&str, u64); 5] = [
    ("", 1),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

const SECOND: u64 = 1_000_000;
const SPANS: [(&[&str], u64); 9] = [
    (&["us", "usec", "µs", "μs"], 1),
    (&["ms", "msec"], 1_000),
    (&["s", "sec", "second", "seconds", ""], SECOND),
    (&["m", "min", "minute", "minutes"], 60 * SECOND),
    (&["h", "hr", "hour", "hours"], 3_600 * SECOND),
    (&["d", "day", "days"], 86_400 * SECOND),
    (&["w", "week", "weeks"], 604_800 * SECOND),
    (&["M", "month", "months"], 2_629_800 * SECOND),
    (&["y", "year", "years"], 31_557_600 * SECOND),
];

/// Bytes from `1G`, `512M`, `1.5G`, `1048576` or `infinity`. The suffixes are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, Error> {
    match text {
        "infinity" => Ok(INFINITY),
        _ => size(text, ", or “infinity”"),
    }
}

/// The same where there is no infinity, and nobody is told of one.
pub fn parse_finite_size(text: &str) -> Result<u64, Error> {
    size(text, "")
}

fn size(text: &str, or: &str) -> Result<u64, Error> {
    let bad = || {
        Error::invalid(format!(
            "“{}” is not a size; give bytes, or a number with K, M, G, T, P or E (powers of 1024){or}.",
            shown(text)
        ))
    };
    let (number, unit) = split_number(text.trim());
    let unit = unit.trim().trim_end_matches('B');
    let factor = SIZES
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(bad)?
        .1;
    scaled(number, factor).ok_or_else(bad)
}

/// A count of tokens from `2M`, `1.5M`, `200k` or `2000000`. The suffixes are powers of 1000.
pub fn parse_count(text: &str) -> Result<u64, Error> {
    let bad = || {
        Error::invalid(format!(
            "“{}” is not a number of tokens; give a whole number, or one with k, M, G or T (powers of 1000).",
            shown(text)
        ))
    };
    let (number, unit) = split_number(text.trim());
    let unit = if unit == "K" { "k" } else { unit };
    let factor = COUNTS.iter().find(|(name, _)| *name == unit);
    let factor = factor.ok_or_else(bad)?.1;
    // Nobody has half a token.
    let places = number.split_once('.').map_or(0, |(_, places)| places.len());
    let whole = 10u64.checked_pow(places as u32);
    if whole.is_none_or(|whole| factor % whole != 0) {
        return Err(bad());
    }
    scaled(number, factor).ok_or_else(bad)
}

/// `2M`, `1.5M`, `200k`, `999`: rounded to three digits or so, for people.
pub fn show_count(count: u64) -> String {
    let fits = COUNTS.iter().rev().find(|(_, factor)| count >= *factor);
    let (unit, factor) = fits.unwrap_or(&COUNTS[0]);
    let hundredths = (u128::from(count) * 100 + u128::from(*factor) / 2) / u128::from(*factor);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match rest {
        0 => format!("{whole}{unit}"),
        rest if rest % 10 == 0 => format!("{whole}.{}{unit}", rest / 10),
        rest => format!("{whole}.{rest:02}{unit}"),
    }
}

/// Microseconds of CPU time per second from `200%`, or the plain number.
pub fn parse_cpu_quota(text: &str) -> Result<u64, Error> {
    if text == "infinity" {
        return Ok(INFINITY);
    }
    let bad = || {
        Error::invalid(format!(
            "“{}” is not a CPU quota; give a percentage of one CPU such as 150%, microseconds per second, or “infinity”.",
            shown(text)
        ))
    };
    match text.trim().strip_suffix('%') {
        Some(percent) => scaled(percent, 10_000).ok_or_else(bad),
        None => text.trim().parse().map_err(|_| bad()),
    }
}

/// Microseconds from `90s`, `1h 30min`, `500ms`, a plain number of seconds, or `infinity`.
pub fn parse_span(text: &str) -> Result<u64, Error> {
    match text {
        "infinity" => Ok(INFINITY),
        _ => span(text, ", or “infinity”"),
    }
}

/// The same where there is no infinity, and nobody is told of one.
pub fn parse_finite_span(text: &str) -> Result<u64, Error> {
    span(text, "")
}

/// Whichever of the two fits the most there may be.
pub fn parse_span_up_to(text: &str, most: u64) -> Result<u64, Error> {
    match most {
        INFINITY => parse_span(text),
        _ => parse_finite_span(text),
    }
}

fn span(text: &str, or: &str) -> Result<u64, Error> {
    let bad = || {
        Error::invalid(format!(
            "“{}” is not a time span; write it as systemd does: 90s, 15min, 1h 30min, 2d{or}.",
            shown(text)
        ))
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    let mut sum = 0u64;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let tail = tail.trim_start();
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c.is_whitespace())
            .unwrap_or(tail.len());
        let unit = &tail[..end];
        let factor = SPANS
            .iter()
            .find(|(names, _)| names.contains(&unit))
            .ok_or_else(bad)?
            .1;
        let part = scaled(number, factor).ok_or_else(bad)?;
        sum = sum
            .checked_add(part)
            .filter(|s| *s != INFINITY)
            .ok_or_else(bad)?;
        rest = tail[end..].trim_start();
    }
    Ok(sum)
}

/// The longest prefix that looks like a decimal number, and what follows it.
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `number × factor`, exactly, for a decimal number with up to nine places; `None` if it is
/// no number or does not fit.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((w, f)) if !w.is_empty() && !f.is_empty() && f.len() <= 9 => (w, f),
        Some(_) => return None,
        None => (number, ""),
    };
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let base: u128 = whole.parse::<u64>().ok()?.into();
    let mut value = base * u128::from(factor);
    if !fraction.is_empty() {
        let parts: u128 = fraction.parse::<u64>().ok()?.into();
        value += parts * u128::from(factor) / 10u128.pow(fraction.len() as u32);
    }
    u64::try_from(value).ok().filter(|v| *v != INFINITY)
}

/// `1.5G`, `512M`, `100` …: the shortest exact form with at most one decimal, else rounded.
pub fn show_size(bytes: u64) -> String {
    if bytes == INFINITY {
        return "infinity".to_owned();
    }
    let (unit, factor) = SIZES
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor)
        .unwrap_or(&SIZES[0]);
    let tenths = (u128::from(bytes) * 10 + u128::from(*factor) / 2) / u128::from(*factor);
    match tenths % 10 {
        0 => format!("{}{unit}", tenths / 10),
        rest => format!("{}.{rest}{unit}", tenths / 10),
    }
}

/// `200%`, `12.5%`, …: a CPU quota, rounded to hundredths of a percent.
pub fn show_cpu_quota(usec: u64) -> String {
    if usec == INFINITY {
        return "infinity".to_owned();
    }
    let (whole, rest) = (usec / 10_000, usec % 10_000 / 100);
    match rest {
        0 => format!("{whole}%"),
        rest if rest % 10 == 0 => format!("{whole}.{}%", rest / 10),
        rest => format!("{whole}.{rest:02}%"),
    }
}

/// `1h 30min`, `250ms`, …: at most two units, as systemd's tools show spans.
pub fn show_span(usec: u64) -> String {
    if usec == INFINITY {
        return "infinity".to_owned();
    }
    if usec == 0 {
        return "0".to_owned();
    }
    let mut rest = usec;
    let mut parts = Vec::new();
    for (names, factor) in SPANS.iter().rev() {
        let name = match names[0] {
            "m" => "min",
            other => other,
        };
        if rest >= *factor {
            parts.push(format!("{}{name}", rest / factor));
            rest %= factor;
            if parts.len() == 2 {
                break;
            }
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_systemd_reads_them() {
        for (text, bytes) in [
            ("1G", 1 << 30),
            ("1.5G", 3 << 29),
            ("512M", 512 << 20),
            ("4096", 4096),
            ("1K", 1024),
            ("infinity", INFINITY),
            ("16E", 0),
            ("", 0),
            ("-1", 0),
            ("1Q", 0),
            ("1e9", 0),
            (".5G", 0),
            ("18446744073709551615", 0),
        ] {
            match bytes {
                0 => assert!(parse_size(text).is_err(), "{text}"),
                _ => assert_eq!(parse_size(text), Ok(bytes), "{text}"),
            }
        }
    }

    #[test]
    fn spans_as_systemd_reads_them() {
        for (text, usec) in [
            ("90", 90 * SECOND),
            ("1h 30min", 5_400 * SECOND),
            ("1h30m", 5_400 * SECOND),
            ("500ms", 500_000),
            ("1.5s", 1_500_000),
            ("2 d", 172_800 * SECOND),
            ("infinity", INFINITY),
        ] {
            assert_eq!(parse_span(text), Ok(usec), "{text}");
        }
        for bad in ["", " ", "1x", "min", "1h-", "1..5s", "99999999999y", "--"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_of_tokens() {
        for (text, count) in [
            ("2M", 2_000_000),
            ("1.5M", 1_500_000),
            ("200k", 200_000),
            ("1K", 1_000),
            ("0", 0),
            ("0.001k", 1),
            ("18446744073709551614", u64::MAX - 1),
        ] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for bad in [
            "",
            "M",
            "-1",
            "1.5",
            "0.0001k",
            "1e6",
            "1Mi",
            "2 x",
            "infinity",
            "99999999999T",
            "1.0000000000T",
        ] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
        for (count, shown) in [
            (0, "0"),
            (999, "999"),
            (1_500, "1.5k"),
            (2_000_000, "2M"),
            (1_234_567, "1.23M"),
            (1_070_000, "1.07M"),
        ] {
            assert_eq!(show_count(count), shown);
        }
    }

    #[test]
    fn quotas() {
        assert_eq!(parse_cpu_quota("200%"), Ok(2_000_000));
        assert_eq!(parse_cpu_quota("12.5%"), Ok(125_000));
        assert_eq!(parse_cpu_quota("500000"), Ok(500_000));
        assert!(parse_cpu_quota("-5%").is_err());
        for (usec, shown) in [
            (2_000_000, "200%"),
            (125_000, "12.5%"),
            (10_300, "1.03%"),
            (INFINITY, "infinity"),
        ] {
            assert_eq!(show_cpu_quota(usec), shown);
        }
    }

    #[test]
    fn infinity_is_named_where_it_may_be_said() {
        for (may, may_not) in [
            (parse_size("10X"), parse_finite_size("10X")),
            (parse_span("10X"), parse_finite_span("10X")),
        ] {
            assert!(may.unwrap_err().message.contains("infinity"));
            assert!(!may_not.unwrap_err().message.contains("infinity"));
        }
        assert_eq!(parse_finite_size("64M"), Ok(64 << 20));
        assert_eq!(parse_finite_span("2min"), Ok(120 * SECOND));
        assert!(parse_finite_size("infinity").is_err() && parse_finite_span("infinity").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,30}|[0-9.]{0,12}[a-zKMGT% ]{0,6}[0-9]{0,4}") {
            let _ = parse_size(&text);
            let _ = parse_span(&text);
            let _ = parse_cpu_quota(&text);
            let _ = parse_count(&text);
        }

        #[test]
        fn whole_sizes_read_back(n in 0u64..1 << 40) {
            prop_assert_eq!(parse_size(&n.to_string()), Ok(n));
            prop_assert_eq!(parse_span(&format!("{n}us")), Ok(n));
        }

        #[test]
        fn shown_sizes_are_near(n in 1u64..INFINITY) {
            if let Ok(back) = parse_size(&show_size(n)) {
                prop_assert!(back.abs_diff(n) <= n / 10 + 1, "{n} {back}");
            } else {
                prop_assert!(n > INFINITY - (1 << 60) / 10);
            }
        }
    }
}
