//! What can be wrong with a chain, and the words for it.

use crate::domain::{Error, ErrorKind};
use serde::Serialize;
use std::fmt;

/// What became of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// Every entry is as it was written, none is missing.
    Whole,
    /// There is no chain.
    Empty,
    /// This entry is not as it was written, or was put there by somebody without the key.
    Changed {
        /// Which.
        n: u64,
    },
    /// The checkpoint that stands for the oldest entries is not as it was written.
    CheckpointChanged {
        /// The number it names.
        n: u64,
    },
    /// These entries were taken out, and later ones are there.
    Removed {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// The newest entries were cut off: the chain's head knows later ones.
    Cut {
        /// The last that is there.
        last: u64,
        /// The last there was.
        head: u64,
    },
    /// The newest entries were cut off, and the head was put back: an anchor knows later ones.
    Short {
        /// The last that is there.
        last: u64,
        /// The last there was, at least.
        anchor: u64,
    },
    /// This entry is another one than was anchored: the chain was written anew by somebody with the key.
    Rewritten {
        /// Which.
        n: u64,
    },
    /// The head is not that of the last entry.
    HeadDiffers {
        /// What it says is the last.
        head: u64,
        /// The last that is there.
        last: u64,
    },
    /// The file breaks off inside an entry.
    Torn {
        /// The last that is whole.
        last: u64,
    },
    /// No key that was given is the one of these entries.
    WrongKey {
        /// The id of the one that is needed.
        key: String,
        /// The first entry it is needed for.
        n: u64,
    },
}

impl Verdict {
    /// Its name.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Empty => "empty",
            Self::Changed { .. } => "changed",
            Self::CheckpointChanged { .. } => "checkpoint-changed",
            Self::Removed { .. } => "removed",
            Self::Cut { .. } => "cut",
            Self::Short { .. } => "short",
            Self::Rewritten { .. } => "rewritten",
            Self::HeadDiffers { .. } => "head-differs",
            Self::Torn { .. } => "torn",
            Self::WrongKey { .. } => "wrong-key",
        }
    }
}

/// There is no chain of this host.
pub fn not_kept(host: &str) -> Error {
    let message =
        format!("No audit is kept of host {host}. It needs a key: see stratavored(8), AUDIT.");
    Error::new(ErrorKind::NoSuchHost, message)
}

/// Where a chain was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the store, or as the daemon exported it just now.
    Store,
    /// In a file that was exported before.
    File,
}

impl Source {
    fn look(self) -> &'static str {
        match self {
            Self::Store => {
                "Somebody with access to the store has changed it: compare with an earlier export or a backup, and find out who could write there."
            }
            Self::File => {
                "Somebody has changed the file, or the store before it was exported: compare with another export, and with the store: stratavorectl audit verify."
            }
        }
    }
}

/// What it is and what to do, of a chain in the store. It goes on after “The audit of host NAME”.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(Source::Store))
    }
}

impl Verdict {
    /// As `Display` has it, of a chain that was read there.
    pub fn told(&self, source: Source) -> String {
        let look = source.look();
        match self {
            Self::Whole => "is whole.".to_owned(),
            Self::Empty => {
                "is not kept: there is no entry. It needs a key: see stratavored(8), AUDIT."
                    .to_owned()
            }
            Self::Changed { n } => {
                format!("was changed: entry {n} is not as it was written. {look}")
            }
            Self::CheckpointChanged { n } => format!(
                "was changed: what stands for the entries up to {n} is not as it was written. {look}"
            ),
            Self::Removed { from, to } if from == to => {
                format!("lacks entry {from}, and later ones are there. {look}")
            }
            Self::Removed { from, to } => {
                format!("lacks the entries {from} to {to}, and later ones are there. {look}")
            }
            Self::Cut { last, head } => format!(
                "was cut: its last entry is {last}, and there were {head}; the newest are missing. {look} A standby that took over without the last transactions looks the same."
            ),
            Self::Short { last, anchor } => format!(
                "is shorter than its anchor: its last entry is {last}, and entry {anchor} was anchored; the newest are missing. {look} A store put back from a backup looks the same."
            ),
            Self::Rewritten { n } => format!(
                "was written anew: entry {n} fits its key and is another one than was anchored. Somebody with the key has written the chain anew from there or before: compare with an earlier export."
            ),
            Self::HeadDiffers { head, last } => format!(
                "does not end at its head: the head is entry {head}, and the last that is there is {last}. {look}"
            ),
            Self::Torn { last } => format!(
                "breaks off inside the entry after {last}. It was not written to its end: export it again."
            ),
            Self::WrongKey { key, n } => format!(
                "can't be verified with the keys that were given: entry {n} needs the key {key}. Give it: --key FILE; of a key that was replaced, too."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goes_on_after_whose_audit_it_is() {
        let removed = Verdict::Removed { from: 3, to: 3 };
        assert!(removed.to_string().starts_with("lacks entry 3,"));
        assert!(removed.to_string().contains("access to the store"));
        // Nobody needs the store to change a file.
        let file = removed.told(Source::File);
        assert!(
            file.contains("changed the file") && !file.contains("access to"),
            "{file}"
        );
        let key = "ab".to_owned();
        for verdict in [
            Verdict::Whole,
            Verdict::Empty,
            Verdict::Changed { n: 1 },
            Verdict::CheckpointChanged { n: 1 },
            Verdict::Removed { from: 1, to: 2 },
            Verdict::Cut { last: 1, head: 2 },
            Verdict::Short { last: 1, anchor: 2 },
            Verdict::Rewritten { n: 1 },
            Verdict::HeadDiffers { head: 1, last: 2 },
            Verdict::Torn { last: 1 },
            Verdict::WrongKey { key, n: 1 },
        ] {
            let said = verdict.to_string();
            let verb = said.split(' ').next().unwrap_or_default();
            assert!(
                ["is", "was", "lacks", "does", "breaks", "can't"].contains(&verb),
                "{said}"
            );
            assert!(said.ends_with('.'), "{said}");
        }
    }
}
