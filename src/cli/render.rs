//! Printing: tables, blocks, times, and a broken pipe without a noise.

use super::args::Format;
use super::failure::Result;
use crate::domain::units;
use serde_json::Value;
use std::io::{IsTerminal, Write};

/// Standard output.
#[derive(Debug)]
pub(super) struct Out {
    format: Format,
    /// Columns of the terminal; `None` = no terminal.
    pub(super) width: Option<usize>,
}

impl Out {
    pub(super) fn new(format: Format) -> Self {
        let stdout = std::io::stdout();
        let width = match stdout.is_terminal() {
            true => rustix::termios::tcgetwinsize(&stdout)
                .ok()
                .map(|size| usize::from(size.ws_col))
                .filter(|w| *w >= 20)
                .or(Some(80)),
            false => None,
        };
        Self { format, width }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format != Format::Table
    }

    /// One line.
    pub(super) fn line(&self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
        quiet(written)
    }

    /// Text that has its line ends already.
    pub(super) fn text(&self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        let written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
        quiet(written)
    }

    /// One object.
    pub(super) fn object(&self, value: &Value) -> Result<()> {
        match self.format {
            Format::Jsonl => self.line(&value.to_string()),
            _ => self.line(&format!("{value:#}")),
        }
    }

    /// A list: an array, or a line each.
    pub(super) fn objects(&self, values: Vec<Value>) -> Result<()> {
        match self.format {
            Format::Jsonl => {
                let lines: String = values.iter().map(|v| format!("{v}\n")).collect();
                self.text(&lines)
            }
            _ => self.line(&format!("{:#}", Value::Array(values))),
        }
    }

    /// Rows under headings; the last column takes what is left of the line.
    pub(super) fn table(&self, head: &[&str], rows: &[Vec<String>]) -> Result<()> {
        self.text(&table(head, rows, self.width))
    }
}

/// Nobody reads any more: that is no failure, and no reason to go on.
fn quiet(written: std::io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

fn table(head: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| columns(h)).collect();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            widths[at] = widths[at].max(columns(cell));
        }
    }
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let last = at + 1 == row.len();
            match (last, width) {
                (true, Some(width)) => {
                    let left = width.saturating_sub(columns(&line)).max(8);
                    line.push_str(&cut(cell, left));
                }
                (true, None) => line.push_str(cell),
                (false, _) => {
                    line.push_str(cell);
                    line.push_str(&" ".repeat(widths[at] - columns(cell) + 2));
                }
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// How wide a text is; every character is taken for one column.
fn columns(text: &str) -> usize {
    text.chars().count()
}

/// A text in at most so many columns.
pub(super) fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => {
            let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
            out.push('…');
            out
        }
    }
}

/// `KEY: value` lines, the colons below each other. Empty values are left out.
pub(super) fn block(entries: &[(&str, String)]) -> String {
    let wide = entries.iter().map(|(key, _)| columns(key)).max();
    let wide = wide.unwrap_or_default();
    let mut out = String::new();
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_empty()) {
        out.push_str(&format!("{key:>wide$}: {value}\n"));
    }
    out
}

/// A command as one would type it in a shell.
pub(super) fn command(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| quote(w)).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if word.chars().any(char::is_control) {
        return format!("$'{}'", word.escape_default());
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Text of strangers on a terminal: without control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
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

/// `5min`, `2h 3min`: how long ago, in at most two units of whole seconds.
pub(super) fn ago(usec: u64) -> String {
    let now = jiff::Timestamp::now().as_microsecond();
    let passed = u64::try_from(now).unwrap_or_default().saturating_sub(usec);
    span(passed)
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

    fn rows(cells: &[&[&str]]) -> Vec<Vec<String>> {
        let row = |r: &&[&str]| r.iter().map(|c| (*c).to_owned()).collect();
        cells.iter().map(row).collect()
    }

    #[test]
    fn columns_stand_below_each_other() {
        let text = table(
            &["ID", "COMMAND"],
            &rows(&[&["ä1", "x"], &["long-one", "y z"]]),
            None,
        );
        assert_eq!(text, "ID        COMMAND\nä1        x\nlong-one  y z\n");
        let text = table(
            &["ID", "COMMAND"],
            &rows(&[&["1", &"x".repeat(99)]]),
            Some(20),
        );
        assert!(text.lines().all(|l| l.chars().count() <= 20), "{text}");
        assert!(text.contains('…'));
    }

    #[test]
    fn commands_can_be_typed_again() {
        let words = ["sh", "-c", "echo 'a b'; x", "", "a\nb"].map(str::to_owned);
        assert_eq!(command(&words), r"sh -c 'echo '\''a b'\''; x' '' $'a\nb'");
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
        fn nothing_panics(text in "\\PC{0,40}", width in 0usize..50, n: u64) {
            let _ = parse_time(&text);
            prop_assert!(cut(&text, width).chars().count() <= width.max(1));
            let _ = (time(n), ago(n), span(n));
            let escaped = clean(&text).contains('\x1b');
            prop_assert!(!escaped);
            let _ = table(&["A", "B"], &[vec![text.clone(), text]], Some(width));
        }
    }
}
