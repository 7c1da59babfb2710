//! Names people give: projects, runners, labels. What may be in them and why not.

use super::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest name, in bytes.
pub const NAME_MAX: usize = 63;
/// The longest value of a label, in bytes.
pub const LABEL_VALUE_MAX: usize = 255;

/// The name of a project: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectName(String);

impl ProjectName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The project's slice, `stratavore-<escaped>.slice`. A `-` nests slices, so it is
    /// escaped as `systemd-escape` does it.
    pub fn slice(&self) -> String {
        format!("stratavore-{}.slice", escape(&self.0))
    }

    /// The project that has this slice.
    pub fn from_slice(slice: &str) -> Option<Self> {
        let escaped = slice.strip_prefix("stratavore-")?.strip_suffix(".slice")?;
        // Of what a name may have, a dash alone is escaped.
        let name: Self = escaped.replace("\\x2d", "-").parse().ok()?;
        (name.slice() == slice).then_some(name)
    }

    /// The last element of the project's object path, escaped as sd_bus_path_encode(3) does it.
    pub fn path_element(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        for (at, byte) in self.0.bytes().enumerate() {
            if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("_{byte:02x}"));
            }
        }
        out
    }
}

/// systemd's unit name escaping for the characters a project name may have: letters,
/// digits, `_` and `.` stand for themselves (a leading `.` cannot occur here), the rest is `\xNN`.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ProjectName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        check(text, "project name", legal, |c| {
            legal(c) || matches!(c, '.' | '_' | '-')
        })?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ProjectName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ProjectName> for String {
    fn from(name: ProjectName) -> Self {
        name.0
    }
}

/// Checks the name of a runner: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`.
pub fn check_runner_name(text: &str) -> Result<(), Error> {
    check(
        text,
        "runner name",
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
    )
}

/// Checks the name of a session: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`.
pub fn check_session_name(text: &str) -> Result<(), Error> {
    check(
        text,
        "session name",
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
    )
}

/// Checks the key of a label: `[A-Za-z0-9][A-Za-z0-9._/-]{0,62}`.
pub fn check_label_key(text: &str) -> Result<(), Error> {
    check(
        text,
        "label",
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'),
    )
}

/// Checks the value of a label: at most 255 bytes without control characters.
pub fn check_label_value(key: &str, text: &str) -> Result<(), Error> {
    if text.len() > LABEL_VALUE_MAX {
        return Err(Error::invalid(format!(
            "The value of label “{key}” has {} bytes; at most {LABEL_VALUE_MAX} are allowed.",
            text.len()
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "The value of label “{key}” has a control character."
        )));
    }
    Ok(())
}

fn check(
    text: &str,
    what: &str,
    first: impl Fn(char) -> bool,
    rest: impl Fn(char) -> bool,
) -> Result<(), Error> {
    let shown = shown(text);
    if text.is_empty() {
        return Err(Error::invalid(format!("The {what} is empty.")));
    }
    if text.len() > NAME_MAX {
        return Err(Error::invalid(format!(
            "The {what} “{shown}” has {} bytes; at most {NAME_MAX} are allowed.",
            text.len()
        )));
    }
    if let Some(bad) = text.chars().find(|c| !rest(*c)) {
        return Err(Error::invalid(format!(
            "The {what} “{shown}” has the character {bad:?}; allowed are {}.",
            allowed(&rest)
        )));
    }
    if !text.starts_with(first) {
        return Err(Error::invalid(format!(
            "The {what} “{shown}” must begin with a letter or a digit."
        )));
    }
    Ok(())
}

fn allowed(rest: &impl Fn(char) -> bool) -> String {
    let mut out = String::from("a–z");
    if rest('A') {
        out.push_str(", A–Z");
    }
    out.push_str(", 0–9");
    for c in ['.', '_', '-', '/'] {
        if rest(c) {
            out.push_str(&format!(" and “{c}”").replace(" and", ","));
        }
    }
    out
}

/// Text of a stranger as it may stand in a message: short, and on one line.
pub fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(40)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(40).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slices_are_escaped_as_systemd_escape_does_it() {
        let slice = |name: &str| name.parse::<ProjectName>().map(|n| n.slice());
        assert_eq!(slice("acme").as_deref(), Ok("stratavore-acme.slice"));
        assert_eq!(slice("a-b").as_deref(), Ok("stratavore-a\\x2db.slice"));
        assert_eq!(slice("a.b_c").as_deref(), Ok("stratavore-a.b_c.slice"));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (name, part) in [
            ("", "is empty"),
            ("-x", "must begin"),
            ("a/b", "'/'"),
            ("Ä", "'Ä'"),
            ("A", "'A'"),
            ("a\0b", "'\\0'"),
        ] {
            let error = name.parse::<ProjectName>().map_err(|e| e.message);
            assert!(
                matches!(&error, Err(message) if message.contains(part)),
                "{name:?}: {error:?}"
            );
        }
        assert!("x".repeat(64).parse::<ProjectName>().is_err());
        assert!("x".repeat(63).parse::<ProjectName>().is_ok());
    }

    proptest! {
        #[test]
        fn a_project_name_is_what_the_contract_says(text in "\\PC{0,70}|[a-z0-9._-]{0,70}") {
            let legal = text.len() <= 63
                && text.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
            prop_assert_eq!(text.parse::<ProjectName>().is_ok(), legal);
        }

        #[test]
        fn different_projects_have_different_slices_and_paths(a in "[a-z0-9][a-z0-9._-]{0,10}", b in "[a-z0-9][a-z0-9._-]{0,10}") {
            let (a, b) = (ProjectName(a), ProjectName(b));
            prop_assert_eq!(a == b, a.slice() == b.slice());
            prop_assert_eq!(a == b, a.path_element() == b.path_element());
            // A bare '-' would nest the slice below another one.
            prop_assert_eq!(a.slice().matches('-').count(), 1);
        }
    }
}
