//! How things look for people: blocks of keys and values, times, spans.

use super::text::{clean, width};
use crate::domain::units;

/// `KEY: value` lines, the colons below each other. Empty values are left out. On a terminal long
/// values go on below their beginning.
pub(super) fn block(entries: &[(&str, String)], columns: Option<usize>) -> String {
    let wide = entries.iter().map(|(key, _)| width(key)).max();
    let wide = wide.unwrap_or_default();
    let mut out = String::new();
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_empty()) {
        let room = columns.map_or(usize::MAX, |c| c.saturating_sub(wide + 2).max(20));
        let harmless: Vec<String> = value.split('\n').map(clean).collect();
        let lines = wrap(&harmless.join("\n"), room).join(&format!("\n{}", " ".repeat(wide + 2)));
        out.push_str(&format!("{key:>wide$}: {lines}\n"));
    }
    out
}

/// Lines of at most so many columns, broken at blanks; a longer word has a line of its own.
pub(super) fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut words = paragraph.split(' ');
        let mut line = words.next().unwrap_or_default().to_owned();
        let mut used = width(&line);
        for word in words {
            let w = width(word);
            if used + 1 + w > room {
                lines.push(std::mem::take(&mut line));
                used = w;
            } else {
                line.push(' ');
                used += 1 + w;
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// A point in time in the user's zone.
pub(super) fn time(usec: u64) -> String {
    let at = i64::try_from(usec)
        .ok()
        .and_then(|t| jiff::Timestamp::from_microsecond(t).ok());
    match at {
        Some(at) => at
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%a %Y-%m-%d %H:%M:%S %Z")
            .to_string(),
        None => "-".to_owned(),
    }
}

/// The same without year and zone, for narrow terminals.
pub(super) fn day_time(usec: u64) -> String {
    let at = i64::try_from(usec).ok();
    let at = at.and_then(|t| jiff::Timestamp::from_microsecond(t).ok());
    at.map_or("-".to_owned(), |at| {
        let at = at.to_zoned(jiff::tz::TimeZone::system());
        at.strftime("%m-%d %H:%M:%S").to_string()
    })
}

/// The time of day.
pub(super) fn clock() -> String {
    jiff::Zoned::now().strftime("%H:%M:%S").to_string()
}

/// Now, in µs since 1970.
pub(super) fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default()
}

/// `5min`, `2h 3min`: how long ago, in at most two units of whole seconds.
pub(super) fn ago(usec: u64) -> String {
    span(now().saturating_sub(usec))
}

/// A span without fractions of a second.
pub(super) fn span(usec: u64) -> String {
    match usec {
        0..1_000_000 => "0s".to_owned(),
        _ => units::show_span(usec / 1_000_000 * 1_000_000),
    }
}

/// A time given by the user, in µs since 1970.
pub(super) fn parse_time(text: &str) -> Option<u64> {
    let now = jiff::Timestamp::now();
    let zone = jiff::tz::TimeZone::system();
    let today = now.to_zoned(zone.clone()).date();
    let usec = |t: jiff::Timestamp| u64::try_from(t.as_microsecond()).ok();
    let local = |t: jiff::civil::DateTime| usec(t.to_zoned(zone.clone()).ok()?.timestamp());
    let back = text
        .strip_prefix('-')
        .or_else(|| text.strip_suffix(" ago"))
        .and_then(|span| units::parse_span(span).ok());
    if let Some(span) = back {
        return Some(usec(now)?.saturating_sub(span));
    }
    let ahead = text.strip_prefix('+');
    if let Some(span) = ahead.and_then(|span| units::parse_span(span).ok()) {
        return usec(now)?.checked_add(span);
    }
    match text {
        "now" => return usec(now),
        "today" => return local(today.at(0, 0, 0, 0)),
        "yesterday" => return local(today.yesterday().ok()?.at(0, 0, 0, 0)),
        _ => {}
    }
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse::<u64>().ok()?.checked_mul(1_000_000);
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return usec(at);
    }
    if let Ok(at) = text.parse::<jiff::civil::DateTime>() {
        return local(at);
    }
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        return local(day.at(0, 0, 0, 0));
    }
    let clock = text.parse::<jiff::civil::Time>().ok()?;
    local(today.to_datetime(clock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_values() {
        let entries = [
            ("A", "x".to_owned()),
            ("Long", "one two\nthree".to_owned()),
            ("B", String::new()),
        ];
        assert_eq!(
            block(&entries, None),
            "   A: x\nLong: one two\n      three\n"
        );
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("seventeen-and-more x", 7), ["seventeen-and-more", "x"]);
    }

    #[test]
    fn times_as_people_give_them() {
        for text in [
            "2026-11-22",
            "2026-11-22 10:00",
            "2026-11-22T10:00:00Z",
            "yesterday",
            "today",
            "now",
            "-2h",
            "5min ago",
            "10:30",
            "@1700000000",
        ] {
            assert!(parse_time(text).is_some(), "{text}");
        }
        for text in ["", "soon", "2026-13-01", "-", "@x", "25:00"] {
            assert!(parse_time(text).is_none(), "{text}");
        }
        assert_eq!(parse_time("@1"), Some(1_000_000));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}", n: u64) {
            let _ = parse_time(&text);
            let _ = (time(n), ago(n), span(n));
        }

        #[test]
        fn nothing_is_lost_in_wrapping(text in "[a-z日 ]{0,60}", room in 1usize..20) {
            let lines = wrap(&text, room);
            prop_assert_eq!(lines.join(" "), text);
            prop_assert!(lines.iter().all(|l| width(l) <= room || !l.contains(' ')));
        }
    }
}
