//! What to say about a file that can't be read, or is no TOML.

use crate::domain::name::shown;
use std::io::ErrorKind;

pub(super) fn unreadable(error: &std::io::Error) -> String {
    if error.kind() == ErrorKind::InvalidData {
        return "it is no text in UTF-8".to_owned();
    }
    let error = error.to_string();
    let words = error.split(" (os error").next().unwrap_or_default();
    format!("it can't be read: {words}")
}

/// Where in the text, and what. The parser leaves out which key is there twice.
pub(super) fn of_text(text: &str, error: &toml::de::Error) -> (usize, String) {
    let span = error.span().unwrap_or_default();
    let at = span.start;
    match (error.message(), text.get(span)) {
        ("duplicate key", Some(key)) => (
            at,
            format!(
                "the key {} is there twice",
                shown(key.trim_matches(['[', ']', ' ']))
            ),
        ),
        (message, _) => (at, message.to_owned()),
    }
}
