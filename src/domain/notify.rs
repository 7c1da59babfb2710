//! Notifications: which events a rule is about, and how many messages it makes of them.
//!
//! Events that are **alike** (the same type, project and cause; or the same budget, hold or host) make
//! one message, and then none for a while; what came meanwhile is told in one more, with its number.
//! Beyond so many messages an hour a rule tells nothing but, in the next message, how many it kept back.
//! Nothing here is ever needed for the work: who must see every event reads the event log or the broker.
//!
//! | file | what |
//! |---|---|
//! | this one | rules, and how often they speak |
//! | `message` | what a message says, in each format |
//! | `address` | where it goes |
//! | `sign` | how a receiver knows that it is from us |

mod address;
mod message;
mod sign;

pub use address::Address;
pub use message::{Format, Message, Posting};
pub use sign::{SECRET_MAX, SECRET_MIN, signature};

use super::event::{Event, EventType};
use super::exit::Cause;
use super::name::shown;
use super::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// In µs.
const HOUR: u64 = 3_600_000_000;
/// Kinds of events that a rule remembers at a time; of more, the one that is over first is forgotten.
const ALIKE_MAX: usize = 512;
/// So many of the newest events are known when they come again: as many as there are denials that stand for others.
const TOLD_MAX: usize = 4_096;

/// A name, or the beginning of one with `*` behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Refuses an empty one, and a `*` elsewhere than at the end.
    pub fn parse(text: &str) -> Result<Self, String> {
        let stem = text.strip_suffix('*').unwrap_or(text);
        match text.is_empty() || stem.contains('*') {
            true => Err(format!(
                "“{}” is no pattern: give a name, or the beginning of one with * behind it",
                shown(text)
            )),
            false => Ok(Self(text.to_owned())),
        }
    }

    /// Whether it is about this name.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(stem) => name.starts_with(stem),
            None => self.0 == name,
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is told: `[notify.rules.<name>]` of the configuration, without address and format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Types of events, without `org.stratavore.`; at least one.
    pub types: Vec<Pattern>,
    /// Projects; none = all, and what belongs to none.
    pub projects: Vec<Pattern>,
    /// Of `runner.ended`: the causes; none = all but `success`, `stopped` and `cancelled`.
    pub causes: Vec<Cause>,
    /// Of `budget.threshold`: from how many percent on.
    pub percent: u64,
    /// For how long like events make no message of their own, µs.
    pub repeat: u64,
    /// Messages in an hour at most.
    pub per_hour: u32,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            types: Vec::new(),
            projects: Vec::new(),
            causes: Vec::new(),
            percent: 80,
            repeat: HOUR / 6,
            per_hour: 30,
        }
    }
}

impl Rule {
    /// Whether it is about this event.
    pub fn wants(&self, event: &Event) -> bool {
        let draft = &event.draft;
        if !self.types.iter().any(|t| t.matches(draft.kind.short())) {
            return false;
        }
        if !self.projects.is_empty() && !self.projects.iter().any(|p| p.matches(&draft.project)) {
            return false;
        }
        match draft.kind {
            EventType::RunnerEnded => {
                let cause = cause(event).and_then(Cause::parse);
                match self.causes.is_empty() {
                    true => !matches!(
                        cause,
                        Some(Cause::Success | Cause::Stopped | Cause::Cancelled)
                    ),
                    false => cause.is_some_and(|cause| self.causes.contains(&cause)),
                }
            }
            EventType::BudgetThreshold => {
                draft.data["percent"].as_u64().unwrap_or(100) >= self.percent
            }
            _ => true,
        }
    }
}

fn cause(event: &Event) -> Option<&str> {
    event.draft.data["exit"]["cause"].as_str()
}

/// What like events have in common.
fn alike(event: &Event) -> String {
    let draft = &event.draft;
    let of = match draft.kind.short().split_once('.') {
        Some(("runner", _)) => cause(event).unwrap_or_default(),
        Some(("admission", _)) => draft.data["gate"].as_str().unwrap_or_default(),
        _ => &draft.subject,
    };
    let percent = draft.data["percent"].as_u64().unwrap_or_default();
    format!("{} {} {of} {percent}", draft.kind.short(), draft.project)
}

/// Like events that were told, and those since.
#[derive(Debug, Clone)]
struct Alike {
    /// Until then the next ones are only counted.
    until: u64,
    /// How many there were since, and the last one.
    since: Option<(u64, Event)>,
}

/// What a rule has told. Times are of a clock that never goes back.
#[derive(Debug, Clone, Default)]
pub struct Told {
    alike: BTreeMap<String, Alike>,
    /// When the messages of the last hour were made.
    sent: VecDeque<u64>,
    /// Events that made no message as there were too many: how many, and the last one.
    kept_back: Option<(u64, Event)>,
    /// Where the last events stand: one that stands for several denials comes as often, in turns with those of others.
    told: BTreeSet<u64>,
}

impl Told {
    /// An event that the rule wants: the message about it, if there is to be one now.
    pub fn event(&mut self, rule: &Rule, event: &Event, now: u64) -> Option<Message> {
        if !self.told.insert(event.position) {
            return None;
        }
        if self.told.len() > TOLD_MAX {
            self.told.pop_first();
        }
        let key = alike(event);
        if let Some(before) = self.alike.get_mut(&key)
            && now < before.until
        {
            let so_far = before.since.take().map_or(0, |(count, _)| count);
            before.since = Some((so_far + 1, event.clone()));
            return None;
        }
        let since = self.alike.remove(&key).and_then(|alike| alike.since);
        let more = since.map_or(0, |(count, _)| count);
        self.tell(rule, key, event, more, now)
    }

    /// When there is something to say that came meanwhile; `None` = not before another event.
    pub fn due(&self) -> Option<u64> {
        let waiting = self.alike.values().filter(|alike| alike.since.is_some());
        let window = self.kept_back.as_ref().and(self.sent.front());
        let window = window.map(|at| at.saturating_add(HOUR));
        waiting.map(|alike| alike.until).chain(window).min()
    }

    /// The messages about what came meanwhile and is due.
    pub fn overdue(&mut self, rule: &Rule, now: u64) -> Vec<Message> {
        self.alike
            .retain(|_, alike| now < alike.until || alike.since.is_some());
        let due: Vec<_> = self
            .alike
            .iter()
            .filter(|(_, alike)| alike.until <= now)
            .map(|(key, _)| key.clone())
            .collect();
        let mut messages = Vec::new();
        for key in due {
            if let Some((count, event)) = self.alike.remove(&key).and_then(|alike| alike.since) {
                messages.extend(self.tell(rule, key, &event, count - 1, now));
            }
        }
        // Of what was kept back the last one is told, when there may be messages again.
        if let Some((count, event)) = self.kept_back.take() {
            match self.has_room(rule, now) {
                true => messages.extend(self.tell(rule, alike(&event), &event, 0, now).map(
                    |mut message| {
                        message.kept_back += count - 1;
                        message
                    },
                )),
                false => self.kept_back = Some((count, event)),
            }
        }
        messages
    }

    /// The messages about all that came meanwhile, due or not: there will be no other time. No more of them than the
    /// rule may make in an hour.
    pub fn rest(&mut self, rule: &Rule, now: u64) -> Vec<Message> {
        let all = self.alike.values_mut();
        all.for_each(|alike| alike.until = alike.until.min(now));
        self.overdue(rule, now)
    }

    fn tell(
        &mut self,
        rule: &Rule,
        key: String,
        event: &Event,
        more: u64,
        now: u64,
    ) -> Option<Message> {
        if !self.has_room(rule, now) {
            self.keep_back(more + 1, event.clone());
            return None;
        }
        self.sent.push_back(now);
        let first = self.alike.iter().min_by_key(|(_, alike)| alike.until);
        if self.alike.len() >= ALIKE_MAX
            && let Some(first) = first.map(|(key, _)| key.clone())
            && let Some((count, event)) = self.alike.remove(&first).and_then(|a| a.since)
        {
            self.keep_back(count, event);
        }
        let until = now.saturating_add(rule.repeat);
        self.alike.insert(key, Alike { until, since: None });
        Some(Message {
            event: event.clone(),
            more,
            kept_back: self.kept_back.take().map_or(0, |(count, _)| count),
        })
    }

    /// Whether there may be one more message in this hour.
    fn has_room(&mut self, rule: &Rule, now: u64) -> bool {
        while self
            .sent
            .front()
            .is_some_and(|at| at.saturating_add(HOUR) <= now)
        {
            self.sent.pop_front();
        }
        self.sent.len() < rule.per_hour as usize
    }

    fn keep_back(&mut self, count: u64, last: Event) {
        let before = self.kept_back.take().map_or(0, |(count, _)| count);
        self.kept_back = Some((before + count, last));
    }

    /// How many events wait to be told, or were kept back.
    pub fn untold(&self) -> u64 {
        let waiting = self.alike.values().filter_map(|alike| alike.since.as_ref());
        let waiting = waiting.chain(&self.kept_back);
        waiting.map(|(count, _)| count).sum()
    }
}

/// For the test of a rule: an event that nothing has caused.
pub fn test_event(host: &str, at: Timestamp) -> Event {
    use super::event::{Actor, Draft};
    Event {
        position: 0,
        draft: Draft {
            kind: EventType::HostJoined,
            project: String::new(),
            subject: format!("host/{host}"),
            seq: 0,
            at,
            actor: Actor::host(),
            data: serde_json::json!({ "host": host, "test": true }),
        },
    }
}

#[cfg(test)]
mod tests;
