//! Verdicts: one chain, entry by entry, in little memory however long it is.
//!
//! The first thing that is wrong is the verdict. A key that is missing, and what the chain itself tells of
//! entries that were lost before, are the verdict only where nothing else is wrong: they hide nothing.

pub use super::verdict::Verdict;
use super::{Anchor, Checkpoint, Entry, Head, Key, Mac, Said, said};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

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
    /// The first entry whose key is missing.
    unknown: Option<Verdict>,
    /// What the chain tells of its own past.
    told: Option<Verdict>,
    first: u64,
    entries: u64,
    last: u64,
    /// Of the last; `None` = the one before the next is missing.
    before: Option<Mac>,
    mac: Mac,
    /// The id of the key that is in force.
    key: Option<String>,
    /// Those that were, and were replaced: nothing is begun with them again.
    replaced: BTreeSet<String>,
    /// What stands for the oldest entries was signed with this one, which was not in force yet so far.
    signed_with: Option<(String, u64)>,
    compared: u64,
    unsigned: Vec<u64>,
}

/// So many replaced keys are told.
const UNSIGNED_MAX: usize = 16;
/// And so many are remembered.
const REPLACED_MAX: usize = 1_024;

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
            unknown: None,
            told: None,
            first: 0,
            entries: 0,
            last: 0,
            before: Some(Mac::NONE),
            mac: Mac::NONE,
            key: None,
            replaced: BTreeSet::new(),
            signed_with: None,
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
        let which = match verdict {
            Verdict::WrongKey { .. } => &mut self.unknown,
            _ => &mut self.fault,
        };
        which.get_or_insert(verdict);
    }

    /// From here on this key is in force.
    fn key_is(&mut self, id: &str) {
        if self.signed_with.as_ref().is_some_and(|(key, _)| key == id) {
            self.signed_with = None;
        }
        if let Some(former) = self.key.replace(id.to_owned())
            && former != id
            && self.replaced.len() < REPLACED_MAX
        {
            self.replaced.insert(former);
        }
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
        // It was signed with the key of its time, which is that of an entry that is still there.
        self.signed_with =
            Some((checkpoint.key.clone(), n)).filter(|(key, _)| *key != checkpoint.next_key);
        self.compare(n, &checkpoint.mac);
        // What was removed since can't be compared any more.
        self.anchors = self.anchors.split_off(&n.saturating_add(1));
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
        let next = self.last.saturating_add(1);
        if n > next {
            self.fails(Verdict::Removed {
                from: next,
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
            self.key_is(key);
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
                    // Who has a key that was replaced could have begun anew with it.
                    Said::Begun(key) if self.replaced.contains(key) => {
                        self.fails(Verdict::Changed { n });
                    }
                    Said::Begun(_) if n > 1 && self.unsigned.len() < UNSIGNED_MAX => {
                        self.unsigned.push(n);
                    }
                    Said::Differed(expected, found) => {
                        let verdict = match expected > found {
                            true => Verdict::Cut {
                                last: *found,
                                head: *expected,
                            },
                            false => Verdict::Changed { n: n - 1 },
                        };
                        self.told.get_or_insert(verdict);
                    }
                    _ => {}
                }
            }
            (Some(key), _) => {
                // The entry that named another key was not as it was written.
                let first = match self.unknown.take() {
                    Some(Verdict::WrongKey { n, .. }) => n,
                    _ => n,
                };
                self.fails(Verdict::Changed { n: first });
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
            self.key_is(key);
        }
    }

    /// What is wrong with what was seen so far, or can't be known without another key.
    pub fn fault(&self) -> Option<&Verdict> {
        self.fault.as_ref().or(self.unknown.as_ref())
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
        let n = self.last.saturating_add(1);
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
        let later = self.anchors.split_off(&last.saturating_add(1));
        if let Some((anchor, _)) = later.last_key_value() {
            self.fails(Verdict::Short {
                last,
                anchor: *anchor,
            });
        }
        // Its key may have been in what is missing.
        if let Some((_, n)) = self.signed_with.take() {
            self.fails(Verdict::CheckpointChanged { n });
        }
        if last == 0 {
            self.fails(Verdict::Empty);
        }
        Report {
            host: self.host,
            verdict: self
                .fault
                .or(self.unknown)
                .or(self.told)
                .unwrap_or(Verdict::Whole),
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
