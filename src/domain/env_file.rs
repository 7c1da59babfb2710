//! Files of `NAME=VALUE` lines, in the format of systemd's EnvironmentFile=: comments begin with
//! `#` or `;`, values may be quoted, a backslash escapes, at a line's end it joins two lines.
//!
//! Where systemd passes over what it does not understand, this is an error: a line that is no
//! assignment, a name that is none, a quote that is not closed.

use super::spec::{Setenv, is_variable};

/// Where a file is wrong. What is on the line is not told: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// The first is 1.
    pub line: usize,
    /// What it does.
    pub what: &'static str,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {} {}", self.line, self.what)
    }
}

const NO_ASSIGNMENT: &str = "is not of the form NAME=VALUE";
const NO_NAME: &str = "has before its “=” what is no name of a variable (letters, digits and “_”, no digit first; “export” is the shell's)";
const OPEN_QUOTE: &str = "has a quote that is not closed";

/// The variables, later ones of the same name last.
pub fn parse(bytes: &[u8]) -> Result<Vec<Setenv>, Wrong> {
    let wrong = |at: usize, what| {
        let before = bytes.get(..at).unwrap_or_default();
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        Wrong { line, what }
    };
    let text =
        std::str::from_utf8(bytes).map_err(|e| wrong(e.valid_up_to(), "is not UTF-8 text"))?;
    if let Some(at) = text.find('\0') {
        return Err(wrong(at, "has a NUL byte"));
    }
    let mut parser = Parser::default();
    for c in text.chars() {
        parser.take(c)?;
        parser.line += usize::from(c == '\n');
    }
    match parser.state {
        State::Name => Err(parser.wrong(NO_ASSIGNMENT)),
        State::Single | State::Double | State::DoubleEscape => Err(Wrong {
            line: parser.opened + 1,
            what: OPEN_QUOTE,
        }),
        State::Begin | State::Comment | State::CommentEscape => Ok(parser.found),
        State::Before | State::Value | State::Escape => parser.push().map(|()| parser.found),
    }
}

#[derive(Debug, Default)]
enum State {
    /// Of a line.
    #[default]
    Begin,
    Name,
    /// Of a value, or after a quoted part.
    Before,
    Value,
    Escape,
    Single,
    Double,
    DoubleEscape,
    Comment,
    CommentEscape,
}

#[derive(Default)]
struct Parser {
    state: State,
    line: usize,
    /// The line on which the name began.
    began: usize,
    /// The line on which a quote was opened last.
    opened: usize,
    name: String,
    value: String,
    /// How much of the value stays when blanks at its end go.
    kept: usize,
    found: Vec<Setenv>,
}

impl Parser {
    fn wrong(&self, what: &'static str) -> Wrong {
        Wrong {
            line: self.began + 1,
            what,
        }
    }

    fn take(&mut self, c: char) -> Result<(), Wrong> {
        let newline = matches!(c, '\n' | '\r');
        let blank = newline || matches!(c, ' ' | '\t');
        let next = match self.state {
            State::Begin if matches!(c, '#' | ';') => State::Comment,
            State::Begin if blank => State::Begin,
            State::Begin => {
                self.began = self.line;
                self.name = c.to_string();
                State::Name
            }
            State::Name if newline => return Err(self.wrong(NO_ASSIGNMENT)),
            State::Name if c == '=' => State::Before,
            State::Name => {
                self.name.push(c);
                State::Name
            }
            State::Before | State::Value if newline => {
                self.push()?;
                State::Begin
            }
            State::Before => match c {
                '\'' | '"' => {
                    self.opened = self.line;
                    if c == '"' {
                        State::Double
                    } else {
                        State::Single
                    }
                }
                '\\' => State::Escape,
                _ if blank => State::Before,
                _ => self.keep(c),
            },
            State::Value if c == '\\' => {
                // Blanks before it stay, whatever it escapes.
                self.kept = self.value.len();
                State::Escape
            }
            State::Value if blank => {
                self.value.push(c);
                State::Value
            }
            State::Value => self.keep(c),
            // An escaped end of line is as if it were not there.
            State::Escape if newline => State::Value,
            State::Escape => self.keep(c),
            State::Single if c == '\'' => State::Before,
            State::Single => {
                self.keep(c);
                State::Single
            }
            State::Double => match c {
                '"' => State::Before,
                '\\' => State::DoubleEscape,
                _ => {
                    self.keep(c);
                    State::Double
                }
            },
            State::DoubleEscape => {
                if !matches!(c, '"' | '\\' | '`' | '$' | '\n') {
                    self.keep('\\');
                }
                if c != '\n' {
                    self.keep(c);
                }
                State::Double
            }
            State::Comment if c == '\\' => State::CommentEscape,
            State::Comment | State::CommentEscape if newline => State::Begin,
            State::Comment | State::CommentEscape => State::Comment,
        };
        self.state = next;
        Ok(())
    }

    /// A character that stays, whatever comes after it.
    fn keep(&mut self, c: char) -> State {
        self.value.push(c);
        self.kept = self.value.len();
        State::Value
    }

    fn push(&mut self) -> Result<(), Wrong> {
        let name = self.name.trim_end_matches([' ', '\t']).to_owned();
        if !is_variable(&name) {
            return Err(self.wrong(NO_NAME));
        }
        self.value.truncate(self.kept);
        self.kept = 0;
        let value = std::mem::take(&mut self.value);
        self.found.push(Setenv { name, value });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Option<String> {
        let mut found = parse(text.as_bytes()).ok()?;
        let Setenv { name, value } = found.pop()?;
        (name == "A" && found.is_empty()).then_some(value)
    }

    #[test]
    fn as_systemd_reads_them() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=b\n", "b"),
            ("  A = b c \t\n\n", "b c"),
            ("A=", ""),
            ("A=\n", ""),
            ("# x=y\n;z=w\nA=b # no comment\n", "b # no comment"),
            ("A='b  c'", "b  c"),
            ("A=\"b  c \" \n", "b  c "),
            ("A='b'\"c\"d", "bcd"),
            ("A=\"b\\\"c\\\\d\\$e\\n\"", "b\"c\\d$e\\n"),
            ("A=\"b\nc\"", "b\nc"),
            ("A=\"b\\\nc\"", "bc"),
            ("A='b\\nc'", "b\\nc"),
            ("A=b\\\nc\n", "bc"),
            ("A=b\\ \n", "b "),
            ("A=b\\'c", "b'c"),
            ("A=b=c", "b=c"),
            ("A=b'c'", "b'c'"),
            ("#comment \\\nA=b", "b"),
            ("A=b\r\n", "b"),
        ] {
            assert_eq!(one(text).as_deref(), Some(value), "{text:?}");
        }
        assert_eq!(parse(b"A=1\nB=2\nA=3").map(|f| f.len()), Ok(3));
        assert_eq!(parse(b"").map(|f| f.len()), Ok(0));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line() {
        for (text, line) in [
            ("A=1\nsecret\n", 2),
            ("secret", 1),
            ("\n\nexport A=b", 3),
            ("1A=b", 1),
            ("=b", 1),
            ("A=1\n\nB-C=2\n", 3),
            ("A='1\n2'\nx y=1", 3),
            ("A=1\nB=\0", 2),
            ("A=1\n B='secret\nC=2\n", 2),
            ("A='1\n2'\nB=\"x\ny\\", 3),
            ("A=1\n=\n", 2),
        ] {
            let wrong = parse(text.as_bytes());
            assert!(
                matches!(wrong, Err(w) if w.line == line && !w.to_string().contains("secret")),
                "{text:?}: {wrong:?}"
            );
        }
        assert_eq!(parse(b"A=1\nB=\xff").map_err(|w| w.line), Err(2));
        let told = parse(b"A=1\nexport B=x").map_err(|w| w.to_string());
        assert!(matches!(&told, Err(why) if why.contains("line 2") && why.contains("export")));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "([A-Z =#;'\"\\\\$\n]){0,40}") {
            let _ = parse(&bytes);
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn single_quotes_keep_all(value in "[^'\0]{0,40}") {
            prop_assert_eq!(one(&format!("A='{value}'\n")), Some(value));
        }

        #[test]
        fn double_quotes_keep_what_is_escaped(value in "[^\0]{0,40}") {
            let escaped: String = value
                .chars()
                .flat_map(|c| matches!(c, '"' | '\\' | '`' | '$').then_some('\\').into_iter().chain([c]))
                .collect();
            prop_assert_eq!(one(&format!("A=\"{escaped}\"")), Some(value));
        }

        #[test]
        fn what_a_file_says_can_be_passed_by_setenv(text in "([A-C]=|[a-d =#;'\"\\\\$\n]){0,40}") {
            if let Ok(found) = parse(text.as_bytes()) {
                let entries: Vec<_> = found.iter().map(|e| format!("{}={}", e.name, e.value)).collect();
                prop_assert!(crate::domain::spec::parse_setenv(&entries).is_ok());
            }
        }

        #[test]
        fn plain_values_come_as_they_are(value in "[a-zA-Z0-9/+=_-]{0,40}") {
            prop_assert_eq!(one(&format!("A={value}")), Some(value));
        }
    }
}
