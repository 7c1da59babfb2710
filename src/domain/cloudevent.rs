//! An event as the broker gets it: a CloudEvent 1.0 in structured JSON, its routing key, its id.

use super::event::{Actor, Event, Particulars};
use super::time::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The content type of the body.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
/// The content type of the data in it.
pub const DATA_CONTENT_TYPE: &str = "application/json";
/// What a body takes besides its data, about.
const BESIDES: usize = 700;
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

/// The body but for its data.
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
}

/// The particulars, with who it was among them.
fn write_data(data: &str, by: &Actor, to: &mut Vec<u8>) {
    let fields = data
        .trim()
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'));
    // A member of that name gives way; none has one today.
    let parsed = fields.filter(|fields| fields.contains("\"actor\""));
    let parsed = parsed.and_then(|_| serde_json::from_str::<Map<String, Value>>(data).ok());
    match (fields, parsed) {
        // What is no object stays as it is.
        (None, _) => to.extend_from_slice(data.as_bytes()),
        (_, Some(mut parsed)) => {
            parsed.insert("actor".to_owned(), json!(by));
            to.extend_from_slice(Value::Object(parsed).to_string().as_bytes());
        }
        (Some(fields), None) => {
            let actor = serde_json::to_string(by).unwrap_or_default();
            let comma = if fields.trim().is_empty() { "" } else { "," };
            for part in ["{", fields, comma, "\"actor\":", &actor, "}"] {
                to.extend_from_slice(part.as_bytes());
            }
        }
    }
}

impl Message {
    /// The message about an event that this host has written in this epoch into this store.
    pub fn new<D: Particulars>(event: &Event<D>, store: &str, source: &str, epoch: u64) -> Self {
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
        };
        let data = draft.data.json();
        let mut body = Vec::with_capacity(BESIDES + data.len());
        // Of text and numbers, and into memory: nothing in it can fail.
        let _ = serde_json::to_writer(&mut body, &envelope);
        body.pop();
        body.extend_from_slice(b",\"data\":");
        write_data(&data, &draft.actor, &mut body);
        body.push(b'}');
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
    use crate::domain::event::{Draft, EventType};
    use proptest::prelude::*;

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

    fn data_of(text: &str) -> Value {
        let actor = Actor::host();
        let mut data = Vec::new();
        write_data(text, &actor, &mut data);
        serde_json::from_slice(&data).unwrap_or_default()
    }

    #[test]
    fn who_it_was_is_among_the_particulars() {
        let actor = json!({"uid": null, "user": null});
        for empty in ["{}", " { } "] {
            assert_eq!(data_of(empty), json!({"actor": actor}));
        }
        assert_eq!(data_of("[{}]"), json!([{}]), "no object");
        let data = data_of(r#"{"actor": 7, "b": 1}"#);
        assert_eq!(data, json!({"b": 1, "actor": actor}), "once");
        let data = data_of(r#"{"a": "\"actor\"", "b": {"actor": 1}}"#);
        let whole = json!({"a": "\"actor\"", "b": {"actor": 1}, "actor": actor});
        assert_eq!(data, whole);
    }

    proptest! {
        #[test]
        fn particulars_stay(names in prop::collection::vec("\\PC{0,6}|actor", 0..5), values in prop::collection::vec("\\PC{0,8}", 5)) {
            let fields = names.into_iter().zip(values.into_iter().map(Value::String));
            let mut data = Value::Object(fields.collect());
            let told = data_of(&data.to_string());
            data["actor"] = json!(Actor::host());
            prop_assert_eq!(told, data);
        }

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
