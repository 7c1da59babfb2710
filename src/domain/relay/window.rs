//! The rows that a relay has in hand.

use super::{Limits, Offer, Outcome, Row, Settlement, Why};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// The most refused events of one project that are kept in hand.
const REFUSED_KEPT: usize = 4;
/// Where more projects than these have some, it is one of each.
const FULL_MANY: usize = 64;
/// A window that was full is filled again when this part of it is free: many messages together cost the broker
/// and this host less than one after each confirm.
const REFILL: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    UnderWay,
    Done,
    Parked(Why),
}

#[derive(Debug)]
struct Entry<T> {
    subject: Arc<str>,
    project: Arc<str>,
    seq: u64,
    state: State,
    /// The broker has refused it, and nothing of its project since.
    refused: bool,
    what: T,
}

/// The rows a relay has in hand, each with `T`.
#[derive(Debug)]
pub struct Window<T> {
    limits: Limits,
    /// Unroutable events are parked; else they count as confirmed.
    park: bool,
    rows: BTreeMap<u64, Entry<T>>,
    /// Positions by number.
    subjects: HashMap<Arc<str>, BTreeMap<u64, u64>>,
    /// What may be published now.
    ready: BTreeSet<u64>,
    /// What was refused and is not tried again yet, the longest ago first.
    refused: VecDeque<u64>,
    /// Projects with something refused, and how much of that is in hand.
    full: HashMap<Arc<str>, usize>,
    under_way: usize,
    /// As many as may be are under way, or were and not enough of them are confirmed yet.
    is_full: bool,
    done: usize,
    parked: usize,
    /// What was settled since the page under way was asked for: it may still be on it.
    settled: HashSet<u64>,
    /// The last number of each subject that was confirmed among it.
    confirmed: HashMap<Arc<str>, u64>,
}

impl<T> Window<T> {
    /// Nothing in hand.
    pub fn new(limits: Limits, park: bool) -> Self {
        Self {
            limits,
            park,
            rows: BTreeMap::new(),
            subjects: HashMap::new(),
            ready: BTreeSet::new(),
            refused: VecDeque::new(),
            full: HashMap::new(),
            under_way: 0,
            is_full: false,
            done: 0,
            parked: 0,
            settled: HashSet::new(),
            confirmed: HashMap::new(),
        }
    }

    /// How many more rows may be offered. Those that were refused take no room from others: however many
    /// projects' queues are full, the rest goes on.
    pub fn room(&self) -> usize {
        (self.limits.rows + self.refused()).saturating_sub(self.rows.len())
    }

    /// Whether nothing is in hand.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many messages the broker has not confirmed.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// A page of rows is asked for now.
    pub fn asking(&mut self) {
        self.settled.clear();
        self.confirmed.clear();
    }

    /// Offers a row of that page; `what` is made of it if it is taken.
    pub fn offer(&mut self, row: Row, what: impl FnOnce() -> T) -> Offer {
        if self.rows.contains_key(&row.position) || self.settled.contains(&row.position) {
            return Offer::Known;
        }
        let line = self.subjects.get(&row.subject);
        // The page may tell of one that was there when it was asked for, and was settled since.
        let confirmed = self.confirmed.get(&row.subject).copied();
        let is_known = |seq| {
            line.is_some_and(|line| line.contains_key(&seq)) || confirmed.is_some_and(|c| c >= seq)
        };
        let follows = row.behind_unroutable && self.park;
        if self.full.contains_key(&row.project)
            || (!follows && row.behind.is_some_and(|seq| !is_known(seq)))
        {
            return Offer::Waits;
        }
        let line = self.subjects.entry(Arc::clone(&row.subject)).or_default();
        line.insert(row.seq, row.position);
        let entry = Entry {
            subject: row.subject,
            project: row.project,
            seq: row.seq,
            state: State::Queued,
            refused: false,
            what: what(),
        };
        self.rows.insert(row.position, entry);
        if follows {
            self.park(row.position, Why::Follows);
        } else {
            self.look(row.position);
        }
        Offer::Taken
    }

    /// Decides whether a queued row may go now.
    fn look(&mut self, position: u64) {
        let Some(entry) = self.rows.get(&position) else {
            return;
        };
        let line = &self.subjects[&entry.subject];
        let before = line.range(..entry.seq).next_back();
        let before = before
            .and_then(|(_, at)| self.rows.get(at))
            .map(|e| e.state);
        match (entry.state, before) {
            (State::Queued, None | Some(State::Done)) => {
                self.ready.insert(position);
            }
            (State::Queued, Some(State::Parked(_))) => self.park(position, Why::Follows),
            _ => {}
        }
    }

    /// Looks at the row behind this one.
    fn look_behind(&mut self, position: u64) {
        let next = self.rows.get(&position).and_then(|entry| {
            let line = &self.subjects[&entry.subject];
            line.range(entry.seq + 1..).next().map(|(_, at)| *at)
        });
        if let Some(next) = next {
            self.look(next);
        }
    }

    fn park(&mut self, position: u64, why: Why) {
        let mut next = Some((position, why));
        while let Some((position, why)) = next.take() {
            let Some(entry) = self.rows.get_mut(&position) else {
                return;
            };
            // One behind another host's row may have been parked before one in front of it.
            if !matches!(entry.state, State::Parked(_)) {
                entry.state = State::Parked(why);
                self.parked += 1;
                self.ready.remove(&position);
            }
            let line = &self.subjects[&entry.subject];
            next = line
                .range(entry.seq + 1..)
                .next()
                .map(|(_, at)| (*at, Why::Follows));
        }
    }

    /// The next row to be published, which is under way from now on.
    pub fn take(&mut self) -> Option<(u64, &T)> {
        let room = match self.is_full {
            true => (self.limits.window / REFILL).max(1),
            false => 1,
        };
        self.is_full = self.under_way + room > self.limits.window;
        if self.is_full || self.under_way + self.done >= self.limits.batch {
            return None;
        }
        let position = self.ready.pop_first()?;
        let entry = self.rows.get_mut(&position)?;
        entry.state = State::UnderWay;
        self.under_way += 1;
        Some((position, &entry.what))
    }

    /// What the broker said of one that is under way.
    pub fn outcome(&mut self, position: u64, outcome: Outcome) {
        let Some(entry) = self.rows.get_mut(&position) else {
            return;
        };
        if entry.state != State::UnderWay {
            return;
        }
        self.under_way -= 1;
        if outcome == Outcome::Refused {
            return self.refuse(position);
        }
        if entry.refused {
            let project = Arc::clone(&entry.project);
            self.reopen(&project);
        }
        if outcome == Outcome::Returned && self.park {
            return self.park(position, Why::Unroutable);
        }
        if let Some(entry) = self.rows.get_mut(&position) {
            entry.state = State::Done;
            self.done += 1;
            self.look_behind(position);
        }
    }

    /// A few of what is refused stay in hand; the rest of the project is left to the store.
    fn refuse(&mut self, position: u64) {
        let Some(entry) = self.rows.get_mut(&position) else {
            return;
        };
        entry.state = State::Queued;
        let project = Arc::clone(&entry.project);
        if entry.refused {
            self.refused.push_back(position);
            return;
        }
        let most = if self.full.len() < FULL_MANY {
            REFUSED_KEPT
        } else {
            1
        };
        let kept = self.full.entry(Arc::clone(&project)).or_default();
        if *kept < most {
            entry.refused = true;
            *kept += 1;
            self.refused.push_back(position);
        }
        self.drop_queued(|entry| entry.project == project && !entry.refused);
    }

    /// Something of the project was taken.
    fn reopen(&mut self, project: &str) {
        self.full.remove(project);
        let rows = &mut self.rows;
        for (position, entry) in rows.iter_mut().filter(|(_, e)| &*e.project == project) {
            if std::mem::take(&mut entry.refused) && entry.state == State::Queued {
                self.ready.insert(*position);
            }
        }
        self.refused
            .retain(|position| rows.get(position).is_some_and(|entry| entry.refused));
    }

    /// How many of those in hand the broker has refused.
    pub fn refused(&self) -> usize {
        self.full.values().sum()
    }

    /// Whether something that was refused is not tried again yet.
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// How many are parked that the store has not heard of yet.
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Has so many of what was refused tried again.
    pub fn again(&mut self, most: usize) {
        let most = most.min(self.refused.len());
        self.ready.extend(self.refused.drain(..most));
    }

    /// Rows are another host's by now, or were changed by somebody else: what is not under way is to be read
    /// again.
    pub fn doubt(&mut self) {
        self.drop_queued(|_| true);
        self.refused.clear();
        self.full.clear();
        self.rows
            .values_mut()
            .for_each(|entry| entry.refused = false);
    }

    /// With a row go those behind it in its subject.
    fn drop_queued(&mut self, which: impl Fn(&Entry<T>) -> bool) {
        let mut gone = Vec::new();
        for line in self.subjects.values() {
            let mut drops = false;
            for position in line.values() {
                let queued = self.rows.get(position).filter(|e| e.state == State::Queued);
                drops |= queued.is_some_and(&which);
                gone.extend(queued.filter(|_| drops).map(|_| *position));
            }
        }
        for position in gone {
            self.ready.remove(&position);
            if let Some(entry) = self.rows.remove(&position) {
                leave(&mut self.subjects, &entry);
            }
        }
    }

    /// The connection is gone: what was under way has to be published again.
    pub fn lost(&mut self) {
        for (position, entry) in &mut self.rows {
            if entry.state == State::UnderWay {
                entry.state = State::Queued;
                match entry.refused {
                    true => self.refused.push_back(*position),
                    false => drop(self.ready.insert(*position)),
                }
            }
        }
        self.under_way = 0;
    }

    /// How much of it the store has not heard of yet.
    pub fn unsettled(&self) -> usize {
        self.done + self.parked
    }

    /// What the store has not heard of yet.
    pub fn settlement(&self) -> Settlement {
        let mut settlement = Settlement::default();
        if self.unsettled() == 0 {
            return settlement;
        }
        for (position, entry) in &self.rows {
            match entry.state {
                State::Done => settlement.done.push(*position),
                State::Parked(why) => settlement.parked.push((*position, why)),
                State::Queued | State::UnderWay => {}
            }
        }
        settlement
    }

    /// The store has written it down.
    pub fn settled(&mut self, settlement: &Settlement) {
        let parked = settlement.parked.iter().map(|(position, _)| position);
        for position in settlement.done.iter().chain(parked) {
            let Some(entry) = self.rows.remove(position) else {
                continue;
            };
            match entry.state {
                State::Done => {
                    self.done -= 1;
                    let last = self
                        .confirmed
                        .entry(Arc::clone(&entry.subject))
                        .or_default();
                    *last = entry.seq.max(*last);
                }
                State::Parked(_) => self.parked -= 1,
                State::Queued | State::UnderWay => {}
            }
            self.settled.insert(*position);
            leave(&mut self.subjects, &entry);
        }
    }
}

/// The entry is no longer in its subject's line.
fn leave<T>(subjects: &mut HashMap<Arc<str>, BTreeMap<u64, u64>>, entry: &Entry<T>) {
    if let Some(line) = subjects.get_mut(&entry.subject) {
        line.remove(&entry.seq);
        if line.is_empty() {
            subjects.remove(&entry.subject);
        }
    }
}

#[cfg(test)]
mod tests;
