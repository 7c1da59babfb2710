//! An event as the broker gets it: a CloudEvent 1.0 in structured JSON, its routing key, its id.

use super::event::{Draft, Event};
use super::time::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::fmt::Write as _;

/// The content type of the body.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
/// The content type of the data in it.
pub const DATA_CONTENT_TYPE: &str = "application/json";
/// What stands before [`super::event::EventType::short`] in `type`.
pub const TYPE_PREFIX: &str = "org.stratavore.";

/// A message for the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The event's place in the store.
    pub position: u64,
    /// The event's id, `message_id`: the store that it was written in, and its position there.
    pub id: String,
    /// `org.stratavore.<kind>.<what>`.
    pub kind: String,
    /// `<project>.<host>.<kind>.<what>`.
    pub routing_key: String,
    /// When it happened, in seconds since 1970.
    pub at: u64,
    /// The CloudEvent.
    pub body: Vec<u8>,
}

/// The body as it is written; made for each event that is published, so nothing in it is copied first.
#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'a str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    time: String,
    datacontenttype: &'a str,
    dataschema: String,
    runnerseq: u64,
    hostepoch: u64,
    storeid: &'a str,
    data: Data<'a>,
}

/// The particulars, with who it was among them.
struct Data<'a>(&'a Draft);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Value::Object(fields) = &self.0.data else {
            return self.0.data.serialize(to);
        };
        let fields = fields.iter().filter(|(name, _)| *name != "actor");
        let mut map = to.serialize_map(None)?;
        for (name, value) in fields {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("actor", &self.0.actor)?;
        map.end()
    }
}

impl Message {
    /// The message about an event that this host has written in this epoch into this store.
    pub fn new(event: &Event, store: &str, source: &str, epoch: u64) -> Self {
        let draft = &event.draft;
        let id = format!("{store}-{}", event.position);
        let kind = format!("{TYPE_PREFIX}{}", draft.kind.short());
        let envelope = Envelope {
            specversion: "1.0",
            id: &id,
            source: format!("/hosts/{source}"),
            kind: &kind,
            subject: &draft.subject,
            time: rfc3339(draft.at),
            datacontenttype: DATA_CONTENT_TYPE,
            dataschema: schema_id(draft.kind.short()),
            runnerseq: draft.seq,
            hostepoch: epoch,
            storeid: store,
            data: Data(draft),
        };
        // Of text, numbers and maps by text: nothing in it can't be JSON.
        let body = serde_json::to_vec(&envelope).unwrap_or_default();
        Self {
            position: event.position,
            routing_key: routing_key(&draft.project, source, draft.kind.short()),
            id,
            kind,
            at: draft.at.0 / 1_000_000,
            body,
        }
    }
}

/// The id of the JSON schema of the data of such events, [`super::event::EventType::short`].
pub fn schema_id(short: &str) -> String {
    format!("urn:stratavore:event:{short}:1")
}

/// `<project>.<host>.<kind>.<what>`; `_` stands for none. `short` is `<kind>.<what>`.
pub fn routing_key(project: &str, host: &str, short: &str) -> String {
    format!("{}.{}.{short}", word(project), word(host))
}

/// A text as one word of a routing key: what has a meaning there is percent-encoded.
pub fn word(text: &str) -> String {
    if text.is_empty() {
        return "_".to_owned();
    }
    let mut word = String::with_capacity(text.len());
    for c in text.chars() {
        if ".*#%".contains(c) || c.is_whitespace() || c.is_control() || text == "_" {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(word, "%{byte:02X}");
            }
        } else {
            word.push(c);
        }
    }
    word
}

fn rfc3339(at: Timestamp) -> String {
    let usec = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(usec).map_or_else(|_| String::new(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Actor, EventType};
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_cloudevent() {
        let event = Event {
            position: 7,
            draft: Draft {
                kind: EventType::RunnerEnded,
                project: "web.example".to_owned(),
                subject: "runner/1".to_owned(),
                seq: 3,
                at: Timestamp(1_767_225_600_000_001),
                actor: Actor::host(),
                data: json!({"state": "ended"}),
            },
        };
        let message = Message::new(&event, "s1", "h1", 2);
        assert_eq!(message.routing_key, "web%2Eexample.h1.runner.ended");
        assert_eq!(message.id, "s1-7");
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        assert_eq!(
            body,
            json!({
                "specversion": "1.0", "id": "s1-7", "source": "/hosts/h1",
                "type": "org.stratavore.runner.ended", "subject": "runner/1",
                "time": "2026-01-01T00:00:00.000001Z", "datacontenttype": "application/json",
                "dataschema": "urn:stratavore:event:runner.ended:1", "runnerseq": 3, "hostepoch": 2, "storeid": "s1",
                "data": {"state": "ended", "actor": {"uid": null, "user": null}},
            })
        );
    }

    proptest! {
        #[test]
        fn words_are_words_and_differ(a in "[a-z0-9._*#% -]{0,8}", b in "[a-z0-9._*#% -]{0,8}") {
            let (one, other) = (word(&a), word(&b));
            prop_assert!(!one.is_empty() && !one.contains(['.', '*', '#', ' ']), "{}", one);
            prop_assert_eq!(a == b, one == other);
        }

        #[test]
        fn the_longest_key_fits(project in "[a-z0-9._-]{63}") {
            for kind in EventType::ALL {
                prop_assert!(routing_key(&project, &"f".repeat(32), kind.short()).len() <= 255);
            }
        }
    }
}
