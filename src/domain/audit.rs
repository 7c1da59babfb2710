//! The audit chain of a host: what was done, by whom, on what, with what result; in an order that
//! nobody without the key can change unseen.
//!
//! Each entry carries a MAC (HMAC-SHA256) over its number, its time, its text, its host and the MAC of
//! the entry before. So a changed, added, moved or removed entry does not fit any more; that the newest
//! ones were cut off shows by the head, which is written down elsewhere too ([`Anchor`]). Who has the key
//! can write another chain; that one differs from the anchors.
//!
//! | file | what |
//! |---|---|
//! | this one | keys, entries, heads |
//! | `anchor` | what a chain is compared with: checkpoints, heads written down elsewhere |
//! | [`verify`] | verdicts about a chain, entry by entry |
//! | [`file`] | a chain as a file |

mod anchor;
pub mod file;
mod verdict;
pub mod verify;

pub use anchor::{Anchor, Checkpoint};
pub use verdict::{Source, Verdict, not_kept};

use super::event::{Actor, Draft};
use super::{Error, Timestamp};
use hmac::{Hmac, KeyInit, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use std::fmt;
use std::str::FromStr;

/// The shortest key, in bytes: as long as what comes out of SHA-256.
pub const KEY_MIN: usize = 32;
/// The longest: more is some other file.
pub const KEY_MAX: usize = 4_096;
/// Of the longest text of an entry, in bytes. Events are far smaller.
pub const TEXT_MAX: usize = 1 << 20;

/// Entries that are about the chain itself.
const BEGUN: &str = "audit.begun";
const ROTATED: &str = "audit.rotated";
const HEAD_DIFFERED: &str = "audit.head-differed";

/// What an entry is checked by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 32]);

impl Mac {
    /// Before the first entry.
    pub const NONE: Self = Self([0; 32]);

    fn of(key: &Key, parts: &[&[u8]]) -> Self {
        let mut mac = key.keyed.clone();
        parts.iter().for_each(|part| mac.update(part));
        Self(mac.finalize().into_bytes().into())
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::invalid("A MAC of the audit is 64 hexadecimal digits.");
        let digits = text.as_bytes();
        if digits.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let mut out = [0; 32];
        for (byte, two) in out.iter_mut().zip(digits.chunks(2)) {
            let two = std::str::from_utf8(two).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(two, 16).map_err(|_| wrong())?;
        }
        Ok(Self(out))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map_err(|e: Error| serde::de::Error::custom(e.message))
    }
}

/// What a chain is kept with. Nothing shows it; its id says which one it is and no more.
#[derive(Clone)]
pub struct Key {
    keyed: Hmac<Sha256>,
    id: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// All bytes of a file or credential. The error does not show them.
    pub fn new(secret: &[u8]) -> Result<Self, Error> {
        if !(KEY_MIN..=KEY_MAX).contains(&secret.len()) {
            return Err(Error::invalid(format!(
                "A key of the audit has {KEY_MIN} to {KEY_MAX} bytes, and this one {}. Make one: head -c 32 /dev/urandom",
                secret.len()
            )));
        }
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err(Error::invalid(
                "A key of the audit is random bytes, and these are all the same. Make one: head -c 32 /dev/urandom",
            ));
        }
        let keyed = Hmac::<Sha256>::new_from_slice(secret)
            .map_err(|_| Error::invalid("The key of the audit can't be used."))?;
        let mut key = Self {
            keyed,
            id: String::new(),
        };
        let whole = Mac::of(&key, &[b"stratavore-audit-key-id\0"]).to_string();
        key.id = whole.chars().take(16).collect();
        Ok(key)
    }

    /// 16 hexadecimal digits: the same for the same key, and the key can't be had back from them.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Something to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// When it happened.
    pub at: Timestamp,
    /// All of it: JSON whose keys are sorted.
    pub text: String,
}

/// Something that was done, or refused, and is no change of state with an event of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// When.
    pub at: Timestamp,
    /// What: `act.kill`, ….
    pub kind: &'static str,
    /// The project concerned, if there is one.
    pub project: String,
    /// `<kind>/<id>`.
    pub subject: String,
    /// Who.
    pub actor: Actor,
    /// `ok`, or why not.
    pub result: String,
    /// The particulars. Nothing secret.
    pub data: Value,
}

/// The text of an entry; the fields stand in the order of their names.
#[derive(Serialize)]
struct Text<'a> {
    actor: Who<'a>,
    at: u64,
    data: &'a Value,
    kind: &'a str,
    project: &'a str,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    subject: &'a str,
}

#[derive(Serialize)]
struct Who<'a> {
    host: Option<&'a str>,
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    /// In its place where it is not sure.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_by_pid: Option<&'a str>,
    user: Option<&'a str>,
}

impl<'a> From<&'a Actor> for Who<'a> {
    fn from(actor: &'a Actor) -> Self {
        let unit = |sure| {
            let unit = actor.unit.as_ref().filter(|unit| unit.sure == sure);
            unit.map(|unit| unit.name.as_str())
        };
        Self {
            host: actor.host.as_deref(),
            uid: actor.uid,
            unit: unit(true),
            unit_by_pid: unit(false),
            user: actor.user.as_deref(),
        }
    }
}

fn written(text: &Text<'_>) -> String {
    // Plain data can always be written.
    serde_json::to_string(text).unwrap_or_default()
}

impl Note {
    /// An event as it is written down.
    pub fn of_event(event: &Draft) -> Self {
        let text = Text {
            actor: (&event.actor).into(),
            at: event.at.0,
            data: &event.data,
            kind: event.kind.short(),
            project: &event.project,
            result: match event.kind {
                super::event::EventType::AdmissionDenied => "refused",
                _ => "ok",
            },
            seq: Some(event.seq),
            subject: &event.subject,
        };
        Self {
            at: event.at,
            text: written(&text),
        }
    }

    /// Anything else that was done or refused.
    pub fn of_act(act: &Act) -> Self {
        let text = Text {
            actor: (&act.actor).into(),
            at: act.at.0,
            data: &act.data,
            kind: act.kind,
            project: &act.project,
            result: &act.result,
            seq: None,
            subject: &act.subject,
        };
        Self {
            at: act.at,
            text: written(&text),
        }
    }

    fn of_chain(kind: &'static str, host: &str, at: Timestamp, data: Value) -> Self {
        Self::of_act(&Act {
            at,
            kind,
            project: String::new(),
            subject: format!("audit/{host}"),
            actor: Actor::host(),
            result: "ok".to_owned(),
            data,
        })
    }

    /// The first entry of a chain, or of one whose former key is lost; under the key it names.
    pub fn begun(host: &str, key: &Key, former: Option<&str>, at: Timestamp) -> Self {
        let data = json!({ "key": key.id(), "former": former });
        Self::of_chain(BEGUN, host, at, data)
    }

    /// The last entry under a key: it names the next one.
    pub fn rotated(host: &str, key: &Key, former: &Key, at: Timestamp) -> Self {
        let data = json!({ "key": key.id(), "former": former.id() });
        Self::of_chain(ROTATED, host, at, data)
    }

    /// The store's head is not the one that was written last: entries were taken away behind our back.
    pub fn head_differed(host: &str, expected: &Head, found: &Head, at: Timestamp) -> Self {
        let data = json!({ "expected": expected, "found": found });
        Self::of_chain(HEAD_DIFFERED, host, at, data)
    }
}

/// What an entry says of the chain itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    /// Nothing: it is about something else.
    Nothing,
    /// It is the first one under this key.
    Begun(String),
    /// It is the last one before this key.
    Rotated(String),
    /// Entries from the second number up to the first are gone.
    Differed(u64, u64),
}

fn said(text: &str) -> Said {
    // Nearly all are about something else, and need not be taken apart.
    if !text.contains("\"audit.") {
        return Said::Nothing;
    }
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return Said::Nothing;
    };
    let (data, key) = (&value["data"], value["data"]["key"].as_str());
    let number = |which: &str| data[which]["n"].as_u64();
    match (value["kind"].as_str(), key) {
        (Some(BEGUN), Some(key)) => Said::Begun(key.to_owned()),
        (Some(ROTATED), Some(key)) => Said::Rotated(key.to_owned()),
        (Some(HEAD_DIFFERED), _) => match (number("expected"), number("found")) {
            (Some(expected), Some(found)) => Said::Differed(expected, found),
            _ => Said::Nothing,
        },
        _ => Said::Nothing,
    }
}

/// An entry of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 1, 2, 3 … in this chain.
    pub n: u64,
    /// When it happened, µs.
    pub at: Timestamp,
    /// What: JSON text.
    pub entry: String,
    /// It fits all of that and the entry before.
    pub mac: Mac,
}

/// The end of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of its last entry; 0 = there is none.
    pub n: u64,
    /// That one's.
    pub mac: Mac,
    /// The id of the key that the next entry is under.
    pub key: String,
}

impl Head {
    /// Of a chain without entries.
    pub fn none() -> Self {
        Self {
            n: 0,
            mac: Mac::NONE,
            key: String::new(),
        }
    }

    /// Adds an entry, under this key.
    pub fn append(&mut self, key: &Key, host: &str, note: Note) -> Entry {
        let n = self.n + 1;
        let mac = fitting(key, host, n, note.at, &note.text, &self.mac);
        *self = Self {
            n,
            mac,
            key: match said(&note.text) {
                Said::Begun(next) | Said::Rotated(next) => next,
                Said::Nothing | Said::Differed(..) => std::mem::take(&mut self.key),
            },
        };
        Entry {
            n,
            at: note.at,
            entry: note.text,
            mac,
        }
    }
}

fn fitting(key: &Key, host: &str, n: u64, at: Timestamp, text: &str, before: &Mac) -> Mac {
    Mac::of(
        key,
        &[
            b"stratavore-audit-1\0",
            host.as_bytes(),
            b"\0",
            &n.to_be_bytes(),
            &at.0.to_be_bytes(),
            &before.0,
            text.as_bytes(),
        ],
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::event::Unit;

    #[test]
    fn keys_are_long_and_never_shown() {
        let said = |bytes: &[u8]| Key::new(bytes).unwrap_err().message;
        assert!(said(b"hunter2").contains("32 to 4096"));
        assert!(!said(b"hunter2").contains("hunter"));
        assert!(said(&[0; 32]).contains("all the same"));
        assert!(said(&[1; 5_000]).contains("5000"));
        let key = Key::new(b"correct horse battery staple, and more").unwrap();
        assert!(key.id().len() == 16 && key.id().bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(!format!("{key:?}").contains("horse"));
    }

    #[test]
    fn the_mac_is_hmac_sha256() {
        // As python3 -c "hmac.new(bytes(range(32)), b'Hi There', 'sha256')" has it.
        let secret: Vec<u8> = (0..32).collect();
        let mac = Mac::of(&Key::new(&secret).unwrap(), &[b"Hi ", b"There"]);
        assert_eq!(
            mac.to_string(),
            "278639ec02309d3afded1b273f1349ba63b9089c12476d716bee3ecc94673e9e"
        );
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        for wrong in ["", "5a", &"g".repeat(64), &"A".repeat(64), &"é".repeat(32)] {
            assert!(wrong.parse::<Mac>().is_err());
        }
    }

    #[test]
    fn texts_are_canonical() {
        let of = |unit: Option<(&str, bool)>| {
            let unit = unit.map(|(name, sure)| Unit {
                name: name.to_owned(),
                sure,
            });
            let note = Note::of_act(&Act {
                at: Timestamp(7),
                kind: "act.kill",
                project: "p".to_owned(),
                subject: "runner/1".to_owned(),
                actor: Actor {
                    uid: Some(1000),
                    user: Some("alice".to_owned()),
                    host: None,
                    unit,
                },
                result: "ok".to_owned(),
                data: json!({ "signal": "SIGKILL", "again": [1, { "b": 1, "a": 2 }] }),
            });
            let sorted: Value = serde_json::from_str(&note.text).unwrap();
            assert_eq!(serde_json::to_string(&sorted).unwrap(), note.text);
            sorted["actor"].clone()
        };
        // As every release has written it.
        let nobody = json!({ "host": null, "uid": 1000, "user": "alice" });
        assert_eq!(of(None), nobody);
        let sure = of(Some(("a.service", true)));
        assert_eq!(sure["unit"], "a.service");
        assert_eq!(sure["unit_by_pid"], Value::Null);
        let unsure = of(Some(("a.service", false)));
        assert_eq!(unsure["unit"], Value::Null);
        assert_eq!(unsure["unit_by_pid"], "a.service");
    }

    #[test]
    fn anchors_come_from_anywhere() {
        let mac = "ab".repeat(32);
        let anchor = |host: &str, n| Anchor {
            host: host.to_owned(),
            n,
            mac: mac.parse().unwrap(),
        };
        for line in [
            json!({ "host": "h", "n": 3, "mac": mac }),
            json!({ "type": "org.stratavore.audit.anchored", "data": { "host": "h", "n": 3, "mac": mac } }),
            json!({ "STRATAVORE_AUDIT_HOST": "h", "STRATAVORE_AUDIT_N": "3", "STRATAVORE_AUDIT_MAC": mac, "host": "x" }),
        ] {
            assert_eq!(Anchor::all(&line.to_string()), [anchor("h", 3)]);
        }
        // With what it says of others.
        let line = json!({ "data": { "host": "h", "n": 3, "mac": mac, "witnessed": [{ "host": "i", "n": 9, "mac": mac }] } });
        let both = [anchor("i", 9), anchor("h", 3)];
        assert_eq!(Anchor::all(&line.to_string()), both);
        for line in ["", "{}", "3", "{\"host\":\"h\",\"n\":-1,\"mac\":\"\"}"] {
            assert_eq!(Anchor::all(line), []);
        }
    }
}
