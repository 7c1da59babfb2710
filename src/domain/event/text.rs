//! What events tell, as text: most of them are only passed on.

use super::{Draft, Event};
use serde::de::IgnoredAny;
use serde_json::Value;
use std::borrow::Cow;

/// The particulars of an event.
pub trait Particulars {
    /// As JSON.
    fn json(&self) -> Cow<'_, str>;
}

impl Particulars for Value {
    fn json(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
}

/// Particulars as a store keeps them: JSON that nobody has taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// An error where it is no JSON.
    pub fn new(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<IgnoredAny>(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl Particulars for Text {
    fn json(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.0)
    }
}

impl Event<Text> {
    /// With its particulars taken apart; an error where one can't be represented (a number beyond all bounds).
    pub fn parsed(&self) -> Result<Event, serde_json::Error> {
        let draft = &self.draft;
        Ok(Event {
            position: self.position,
            draft: Draft {
                kind: draft.kind,
                project: draft.project.clone(),
                subject: draft.subject.clone(),
                seq: draft.seq,
                at: draft.at,
                actor: draft.actor.clone(),
                data: serde_json::from_str(&draft.data.0)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_refused() {
        for (text, good) in [
            ("{}", true),
            (r#"{"a": [1]}"#, true),
            ("", false),
            ("{", false),
            ("{} {}", false),
        ] {
            assert_eq!(Text::new(text).is_ok(), good, "{text}");
        }
    }
}
