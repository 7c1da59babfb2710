//! Text of strangers on a terminal: how wide it is, how it is shortened, what in it could do harm.

use unicode_width::UnicodeWidthChar;

/// How many columns a text takes on a terminal. What takes none (combining marks) counts none.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(wide).sum()
}

fn wide(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// A text in at most so many columns; what had to give ends in `…`.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.len() <= columns || width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else {
        return String::new();
    };
    let (mut out, mut used) = (String::new(), 0);
    for c in text.chars() {
        if used + wide(c) > room {
            break;
        }
        used += wide(c);
        out.push(c);
    }
    out.push('…');
    out
}

/// Whether a character moves the cursor, changes the terminal or turns the text around it.
fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// A text without anything that could do harm; each such character is shown as `\u{fffd}`.
pub(super) fn clean(text: &str) -> String {
    let safe = |c| if harmful(c) { '\u{fffd}' } else { c };
    text.chars().map(safe).collect()
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
    if !word.chars().any(harmful) {
        return format!("'{}'", word.replace('\'', "'\\''"));
    }
    let mut out = String::from("$'");
    for c in word.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' | '\'' => out.extend(['\\', c]),
            c if harmful(c) && c.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if harmful(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wide_characters_are_measured() {
        assert_eq!(width("abc"), 3);
        assert_eq!(width("日本"), 4);
        assert_eq!(width("e\u{301}"), 1);
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("abc", 1), "…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn commands_can_be_typed_again() {
        let words = ["sh", "-c", "echo 'a b'; x", "", "a\nb"].map(str::to_owned);
        assert_eq!(command(&words), r"sh -c 'echo '\''a b'\''; x' '' $'a\nb'");
        let words = ["a\x1b'\\\u{202e}"].map(str::to_owned);
        assert_eq!(command(&words), r"$'a\x1b\'\\\u202e'");
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_asked(text in any::<String>(), columns in 0usize..50) {
            let short = cut(&clean(&text), columns);
            prop_assert!(width(&short) <= columns);
            prop_assert!(width(&clean(&text)) > columns || short == clean(&text));
        }

        #[test]
        fn nothing_does_harm(words in proptest::collection::vec(any::<String>(), 0..4)) {
            prop_assert!(!command(&words).chars().any(harmful));
            prop_assert!(!words.iter().any(|w| clean(w).chars().any(harmful)));
        }

        /// The shell reads back what was shown.
        #[test]
        fn shells_read_commands_back(word in "[a-z '\"\\\\$`\n\t\x1b\u{202e}é日]{0,12}") {
            let script = format!("printf %s {}", command(std::slice::from_ref(&word)));
            let said = std::process::Command::new("bash").env("LC_ALL", "C.UTF-8").args(["-c", &script]).output();
            let said = said.map_err(|e| TestCaseError::fail(format!("this test needs bash: {e}")))?;
            prop_assert_eq!(String::from_utf8_lossy(&said.stdout), word);
        }
    }
}
