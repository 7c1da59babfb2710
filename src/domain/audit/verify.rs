//! Verdicts: one chain, entry by entry, in little memory however long it is.
//!
//! The first thing that is wrong is the verdict. What comes after it is looked at all the same: it
//! tells a wrong key (nothing fits) from a changed entry (the others do).

use super::{Anchor, Checkpoint, Entry, Head, Key, Mac, Said, said};
use serde::Serialize;
use std::collections::BTreeMap;
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

/// A verdict with what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The host's id.
    pub host: String,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Entries that were seen.
    pub entries: u64,
    /// The first number that was seen, 0 = none.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// The last one's MAC: an anchor.
    pub mac: Mac,
    /// Anchors it was compared with.
    pub anchors: u64,
    /// Entries at which the key was replaced without the former one.
    pub unsigned_keys: Vec<u64>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.verdict == Verdict::Whole
    }
}

/// Looks at one chain.
#[derive(Debug)]
pub struct Verifier<'k> {
    host: String,
    keys: &'k [Key],
    head: Option<Head>,
    anchors: BTreeMap<u64, Mac>,
    /// The first thing that was wrong.
    fault: Option<Verdict>,
    first: u64,
    entries: u64,
    last: u64,
    /// Of the last; `None` = the one before the next is missing.
    before: Option<Mac>,
    mac: Mac,
    /// The id of the key that is in force.
    key: Option<String>,
    compared: u64,
    unsigned: Vec<u64>,
}

/// So many replaced keys are told.
const UNSIGNED_MAX: usize = 16;

impl<'k> Verifier<'k> {
    /// For the chain of this host, with what is known of it. Anchors of other hosts are left out.
    pub fn new(
        host: &str,
        keys: &'k [Key],
        checkpoint: Option<&Checkpoint>,
        head: Option<&Head>,
        anchors: impl IntoIterator<Item = Anchor>,
    ) -> Self {
        let mut this = Self {
            host: host.to_owned(),
            keys,
            head: head.cloned(),
            anchors: BTreeMap::new(),
            fault: None,
            first: 0,
            entries: 0,
            last: 0,
            before: Some(Mac::NONE),
            mac: Mac::NONE,
            key: None,
            compared: 0,
            unsigned: Vec::new(),
        };
        for anchor in anchors.into_iter().filter(|a| a.host == host && a.n > 0) {
            // Two that differ can't both be right.
            match this.anchors.insert(anchor.n, anchor.mac) {
                Some(other) if other != anchor.mac => {
                    this.fails(Verdict::Rewritten { n: anchor.n });
                }
                _ => {}
            }
        }
        if let Some(checkpoint) = checkpoint {
            this.begin_at(checkpoint);
        }
        this
    }

    fn fails(&mut self, verdict: Verdict) {
        self.fault.get_or_insert(verdict);
    }

    fn key(&self, id: &str) -> Option<&'k Key> {
        self.keys.iter().find(|key| key.id() == id)
    }

    fn begin_at(&mut self, checkpoint: &Checkpoint) {
        let n = checkpoint.n;
        match self.key(&checkpoint.key) {
            Some(key) if checkpoint.fits(key, &self.host) => {}
            Some(_) => self.fails(Verdict::CheckpointChanged { n }),
            None => self.fails(Verdict::WrongKey {
                key: checkpoint.key.clone(),
                n,
            }),
        }
        (self.last, self.mac) = (n, checkpoint.mac);
        self.before = Some(checkpoint.mac);
        self.key = Some(checkpoint.next_key.clone());
        self.compare(n, &checkpoint.mac);
        // What was removed since can't be compared any more.
        self.anchors = self.anchors.split_off(&(n + 1));
    }

    /// With an anchor of this entry.
    fn compare(&mut self, n: u64, mac: &Mac) {
        if let Some(anchored) = self.anchors.get(&n) {
            self.compared += 1;
            if anchored != mac {
                self.fails(Verdict::Rewritten { n });
            }
        }
    }

    /// The next entry.
    pub fn feed(&mut self, entry: &Entry) {
        let n = entry.n;
        if n > self.last + 1 {
            self.fails(Verdict::Removed {
                from: self.last + 1,
                to: n - 1,
            });
            self.before = None;
        } else if n <= self.last {
            // It stands where it does not belong.
            self.fails(Verdict::Changed { n });
            self.before = None;
        }
        if self.entries == 0 {
            self.first = n;
        }
        self.entries += 1;
        let says = said(&entry.entry);
        if let Some(before) = self.before {
            self.check(entry, &before, &says);
        } else if let Said::Begun(key) | Said::Rotated(key) = &says {
            self.key = Some(key.clone());
        }
        self.last = self.last.max(n);
        (self.before, self.mac) = (Some(entry.mac), entry.mac);
    }

    fn check(&mut self, entry: &Entry, before: &Mac, says: &Said) {
        let n = entry.n;
        let fits = |key: &Key| {
            entry.mac == super::fitting(key, &self.host, n, entry.at, &entry.entry, before)
        };
        let under = match says {
            Said::Begun(key) => Some(key.clone()),
            _ => self.key.clone(),
        };
        let named = under.as_deref().and_then(|id| self.key(id));
        // One that fits is the right one, whatever was said: then what said so is not true.
        let fitting = match named {
            Some(key) if fits(key) => Some(key),
            _ => self.keys.iter().find(|key| fits(key)),
        };
        match (fitting, named) {
            (Some(key), _) if under.as_deref() == Some(key.id()) => {
                self.compare(n, &entry.mac);
                match says {
                    Said::Begun(_) if n > 1 && self.unsigned.len() < UNSIGNED_MAX => {
                        self.unsigned.push(n);
                    }
                    Said::Differed(expected, found) if expected > found => {
                        self.fails(Verdict::Cut {
                            last: *found,
                            head: *expected,
                        });
                    }
                    Said::Differed(..) => self.fails(Verdict::Changed { n: n - 1 }),
                    _ => {}
                }
            }
            (Some(key), _) => {
                // The entry that named another key was not as it was written.
                if let Some(Verdict::WrongKey { n, .. }) = self.fault {
                    self.fault = Some(Verdict::Changed { n });
                }
                self.fails(Verdict::Changed { n });
                self.key = Some(key.id().to_owned());
            }
            (None, Some(_)) => self.fails(Verdict::Changed { n }),
            (None, None) => self.fails(match under {
                Some(key) => Verdict::WrongKey { key, n },
                // Each chain begins with an entry that names its key.
                None => Verdict::Changed { n },
            }),
        }
        if let Said::Begun(key) | Said::Rotated(key) = says {
            self.key = Some(key.clone());
        }
    }

    /// What is wrong with what was seen so far.
    pub fn fault(&self) -> Option<&Verdict> {
        self.fault.as_ref()
    }

    /// The end of what was seen so far.
    pub fn passed(&self) -> Head {
        Head {
            n: self.last,
            mac: self.mac,
            key: self.key.clone().unwrap_or_default(),
        }
    }

    /// The file breaks off inside the next entry.
    pub fn torn(&mut self) {
        let last = self.last;
        self.fails(Verdict::Torn { last });
    }

    /// The next entry can't be understood.
    pub fn unreadable(&mut self) {
        let n = self.last + 1;
        self.fails(Verdict::Changed { n });
        self.before = None;
    }

    /// There are no more.
    pub fn finish(mut self) -> Report {
        let last = self.last;
        let head = self.head.take();
        match &head {
            None if last > 0 => self.fails(Verdict::HeadDiffers { head: 0, last }),
            None => {}
            Some(head) if head.n > last => self.fails(Verdict::Cut { last, head: head.n }),
            Some(head) if head.n < last || head.mac != self.mac => {
                self.fails(Verdict::HeadDiffers { head: head.n, last });
            }
            Some(_) => {}
        }
        let later = self.anchors.split_off(&(last + 1));
        if let Some((anchor, _)) = later.last_key_value() {
            self.fails(Verdict::Short {
                last,
                anchor: *anchor,
            });
        }
        if last == 0 {
            self.fails(Verdict::Empty);
        }
        Report {
            host: self.host,
            verdict: self.fault.unwrap_or(Verdict::Whole),
            entries: self.entries,
            first: self.first,
            last,
            mac: self.mac,
            anchors: self.compared,
            unsigned_keys: self.unsigned,
        }
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
