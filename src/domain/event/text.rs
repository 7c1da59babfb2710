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
    /// With its particulars taken apart; without them where one can't be represented, as a number beyond all bounds.
    pub fn parsed(&self) -> Event {
        let draft = &self.draft;
        Event {
            position: self.position,
            draft: Draft {
                kind: draft.kind,
                project: draft.project.clone(),
                subject: draft.subject.clone(),
                seq: draft.seq,
                at: draft.at,
                actor: draft.actor.clone(),
                data: serde_json::from_str(&draft.data.0).unwrap_or_default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Actor, EventType};
    use super::*;
    use crate::domain::Timestamp;

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

    #[test]
    fn what_can_not_be_represented_hides_no_event() {
        let parsed = |text| {
            let draft = Draft {
                kind: EventType::HoldSet,
                project: "p".to_owned(),
                subject: "hold/p".to_owned(),
                seq: 1,
                at: Timestamp(1),
                actor: Actor::host(),
                data: Text(String::from(text)),
            };
            let event = Event { position: 1, draft };
            event.parsed().draft.data
        };
        assert_eq!(parsed(r#"{"a": 1}"#), serde_json::json!({"a": 1}));
        assert_eq!(parsed(r#"{"a": 1e999}"#), Value::Null);
    }
}
