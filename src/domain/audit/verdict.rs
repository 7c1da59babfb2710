//! What can be wrong with a chain, and the words for it.

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

/// The sentence for people: what it is, and what to do.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LOOK: &str = "Somebody with access to the store has changed it: compare with an earlier export or a backup, and find out who could write there.";
        match self {
            Self::Whole => write!(f, "whole"),
            Self::Empty => write!(
                f,
                "empty: no audit is kept of it. It needs a key: see stratavored(8), AUDIT."
            ),
            Self::Changed { n } => write!(f, "changed: entry {n} is not as it was written. {LOOK}"),
            Self::CheckpointChanged { n } => write!(
                f,
                "checkpoint changed: what stands for the entries up to {n} is not as it was written. {LOOK}"
            ),
            Self::Removed { from, to } if from == to => write!(
                f,
                "removed: entry {from} is missing, and later ones are there. {LOOK}"
            ),
            Self::Removed { from, to } => write!(
                f,
                "removed: entries {from} to {to} are missing, and later ones are there. {LOOK}"
            ),
            Self::Cut { last, head } => write!(
                f,
                "cut: its last entry is {last}, and there were {head}; the newest are missing. {LOOK} A standby that took over without the last transactions looks the same."
            ),
            Self::Short { last, anchor } => write!(
                f,
                "shorter than its anchor: its last entry is {last}, and entry {anchor} was anchored; the newest are missing. {LOOK} A store put back from a backup looks the same."
            ),
            Self::Rewritten { n } => write!(
                f,
                "rewritten: entry {n} fits its key and is another one than was anchored. Somebody with the key has written the chain anew from there or before: compare with an earlier export."
            ),
            Self::HeadDiffers { head, last } => write!(
                f,
                "head differs: the store's head is entry {head}, and the last that is there is {last}. {LOOK}"
            ),
            Self::Torn { last } => write!(
                f,
                "torn: the file breaks off inside the entry after {last}. It was not written to its end: export it again."
            ),
            Self::WrongKey { key, n } => write!(
                f,
                "wrong key: entry {n} needs the key {key}, which was not given. Give it: --key FILE; of a key that was replaced, too."
            ),
        }
    }
}
