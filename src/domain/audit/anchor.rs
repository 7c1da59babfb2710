//! What a chain is compared with: the checkpoint in place of its oldest entries, and its heads as they were
//! written down elsewhere.

use super::{Head, Key, Mac};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Stands for the oldest entries, which were removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// So many: up to this number.
    pub n: u64,
    /// The last one's.
    pub mac: Mac,
    /// The id of the key that the next entry is under.
    pub next_key: String,
    /// The id of the key that this was made with.
    pub key: String,
    /// It fits all of that.
    pub check: Mac,
}

impl Checkpoint {
    /// In place of all entries up to this head.
    pub fn new(key: &Key, host: &str, last: &Head) -> Self {
        Self {
            n: last.n,
            mac: last.mac,
            next_key: last.key.clone(),
            key: key.id().to_owned(),
            check: Self::fitting(key, host, last.n, &last.mac, &last.key),
        }
    }

    pub(super) fn fitting(key: &Key, host: &str, n: u64, mac: &Mac, next_key: &str) -> Mac {
        Mac::of(
            key,
            &[
                b"stratavore-audit-checkpoint-1\0",
                host.as_bytes(),
                b"\0",
                &n.to_be_bytes(),
                &mac.0,
                next_key.as_bytes(),
            ],
        )
    }

    pub(super) fn fits(&self, key: &Key, host: &str) -> bool {
        self.check == Self::fitting(key, host, self.n, &self.mac, &self.next_key)
    }
}

/// A head as it was written down somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Whose chain.
    pub host: String,
    /// The entry.
    pub n: u64,
    /// Its MAC.
    pub mac: Mac,
}

impl Anchor {
    /// From a line of JSON: an event `audit.anchored` (`events -o jsonl`, or as a broker has it), with what it says
    /// of other hosts' chains, a line of the journal (`journalctl -o json`), or an object with `host`, `n` and `mac`.
    pub fn all(line: &str) -> Vec<Self> {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            return Vec::new();
        };
        let others = [&value["data"]["witnessed"], &value["witnessed"]];
        let others = others.into_iter().filter_map(Value::as_array).flatten();
        others.chain([&value]).filter_map(Self::of).collect()
    }

    /// From JSON; `None`: it is none.
    pub fn of(value: &Value) -> Option<Self> {
        let made = |of: &Value, host: &str, n: &str, mac: &str| {
            let number = &of[n];
            let n = number
                .as_u64()
                .or_else(|| number.as_str().and_then(|n| n.parse().ok()))?;
            Some(Self {
                host: of[host].as_str()?.to_owned(),
                n,
                mac: of[mac].as_str()?.parse().ok()?,
            })
        };
        made(value, "host", "n", "mac")
            .or_else(|| made(&value["data"], "host", "n", "mac"))
            .or_else(|| {
                made(
                    value,
                    "STRATAVORE_AUDIT_HOST",
                    "STRATAVORE_AUDIT_N",
                    "STRATAVORE_AUDIT_MAC",
                )
            })
    }
}
