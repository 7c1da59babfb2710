//! Denials, bounded: a storm of refused launches must not fill the disk.
//!
//! At most one `admission.denied` is written per second for each (project, gate, user of a host). Those that
//! follow within the second are counted, answered with the event that stands for them, and added
//! to the `count` of the next one. A count that nothing follows is lost with the process.

use crate::domain::Timestamp;
use crate::domain::event::{Actor, Event};
use std::collections::HashMap;

/// What was refused, by which gate, to whom: the same uid is somebody else on another host.
type Which = (String, &'static str, Option<u32>, Option<String>);

fn which(project: &str, gate: &'static str, actor: &Actor) -> Which {
    (project.to_owned(), gate, actor.uid, actor.host.clone())
}

/// Between two events of one project, gate and user, µs.
const INTERVAL: u64 = 1_000_000;
/// More projects than this being refused within one second are not told apart for long.
const KEPT_MAX: usize = 4_096;

/// What was refused lately.
#[derive(Debug, Default)]
pub(super) struct Denials {
    last: HashMap<Which, Last>,
    /// As it was when [`Self::remember`] was called.
    before: HashMap<Which, Last>,
}

#[derive(Debug, Clone)]
struct Last {
    event: Event,
    unsaid: u64,
}

impl Denials {
    /// The event that already stands for a denial at this time, which is counted; or how many
    /// denials the event to be written stands for.
    pub(super) fn note(
        &mut self,
        project: &str,
        gate: &'static str,
        actor: &Actor,
        at: Timestamp,
    ) -> Result<Event, u64> {
        let Some(last) = self.last.get_mut(&which(project, gate, actor)) else {
            return Err(1);
        };
        let since = last.event.draft.at;
        if (since..since.plus_usec(INTERVAL)).contains(&at) {
            last.unsaid += 1;
            return Ok(last.event.clone());
        }
        Err(last.unsaid + 1)
    }

    /// An event was written (and will be committed, or [`Self::forget`] is called).
    pub(super) fn wrote(&mut self, project: &str, gate: &'static str, event: &Event) {
        if self.last.len() >= KEPT_MAX {
            let now = event.draft.at;
            self.last
                .retain(|_, l| l.event.draft.at.plus_usec(INTERVAL) > now);
            if self.last.len() >= KEPT_MAX {
                self.last.clear();
            }
        }
        let last = Last {
            event: event.clone(),
            unsaid: 0,
        };
        let which = which(project, gate, &event.draft.actor);
        self.last.insert(which, last);
    }

    /// What is noted from here on may be taken back.
    pub(super) fn remember(&mut self) {
        self.before.clone_from(&self.last);
    }

    /// Takes back what was noted since: it is undone with its transaction, and done again.
    pub(super) fn take_back(&mut self) {
        self.last = std::mem::take(&mut self.before);
    }

    /// The transaction was lost, and with it perhaps an event: the next denial writes one.
    pub(super) fn forget(&mut self) {
        self.last.clear();
    }
}
