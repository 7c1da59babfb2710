//! What the relay's task does with what it hears.

use super::chores::{Chore, Swept};
use super::{COUNT, SAY, STORE_AGAIN, SWEEPS, Task, random};
use crate::crash;
use crate::domain::cloudevent::Message;
use crate::domain::kinds;
use crate::domain::relay::{Offer, Outcome, Row, Settlement};
use crate::engine::relay::BrokerState;
use crate::ports::{Backlog, BrokerError, Page, Publisher, StoreError, Told};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

impl Task {
    pub(super) fn settled(&mut self, settlement: &Settlement, answer: Result<u64, StoreError>) {
        self.settle_at = None;
        self.uncounted = true;
        match answer {
            Ok(found) => {
                crash::point("relay.settled");
                self.window.settled(settlement);
                if !settlement.parked.is_empty() {
                    self.say_parked(settlement.parked.len());
                }
                if found < (settlement.done.len() + settlement.parked.len()) as u64 {
                    // Another host has taken some over, or an answer was lost.
                    self.window.doubt();
                    self.tell_refused();
                    self.rescan();
                }
                self.note_empty();
            }
            Err(error) => {
                if let Some(retry) = self.retry.take_if(|retry| !retry.begun) {
                    let _ = retry.reply.send(Err(error.clone()));
                }
                self.store_away(&error);
            }
        }
    }

    fn store_away(&mut self, error: &StoreError) {
        tracing::debug!(%error, "The outbox can't be read or written now");
        self.read_at = Instant::now() + STORE_AGAIN;
    }

    fn say_parked(&mut self, count: usize) {
        if self.said_parked.is_none_or(|at| at.elapsed() > SAY) {
            self.said_parked = Some(Instant::now());
            tracing::warn!(
                message_id = kinds::EVENTS_PARKED.id,
                count,
                "Events are parked: no queue is bound for them at the broker's exchange. See: stratavorectl outbox show --parked"
            );
        }
    }

    pub(super) fn read(&mut self, page: Result<Page, StoreError>) {
        let stale = std::mem::take(&mut self.stale);
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.store_away(&error),
        };
        if stale {
            // What it says of other rows may not be so any more.
            return;
        }
        crash::point("relay.read");
        let short = page.rows.len() + page.unreadable < self.asked;
        self.at_end = short && !self.missed;
        self.cursor = page.last.unwrap_or(self.cursor);
        // What can't be read is looked at again, too: something that can may follow it by then.
        let (mut taken, mut deferred) = (false, page.unreadable > 0);
        for row in page.rows {
            let draft = &row.event.draft;
            let offered = Row {
                position: row.event.position,
                subject: draft.subject.as_str().into(),
                project: draft.project.as_str().into(),
                seq: draft.seq,
                behind: row.behind,
                behind_unroutable: row.behind_unroutable,
            };
            let message = || Arc::new(Message::new(&row.event, &row.store, &row.source, row.epoch));
            match self.window.offer(offered, message) {
                Offer::Taken => taken = true,
                Offer::Known => {}
                Offer::Waits => deferred = true,
            }
        }
        if taken {
            self.look_again.reset();
        }
        self.deferred |= deferred;
        if short {
            if !std::mem::replace(&mut self.passed, true) {
                self.pass.1 = self.pass.0.elapsed();
            }
            if self.deferred && self.look_at.is_none() {
                // Never more than a fifth of the time.
                let pause = self.look_again.pause(random()).max(self.pass.1 * 4);
                self.look_at = Some(Instant::now() + pause);
            }
        }
        self.note_empty();
    }

    /// Nothing is left: that need not be counted.
    fn note_empty(&mut self) {
        if !self.at_end || !self.window.is_empty() || self.deferred || self.reading.is_some() {
            return;
        }
        self.state
            .send_if_modified(|state| match &mut state.backlog {
                Some(backlog) if backlog.pending > 0 => {
                    (backlog.pending, backlog.oldest) = (0, None);
                    true
                }
                _ => false,
            });
    }

    pub(super) fn connected(&mut self, connected: Result<Box<dyn Publisher>, BrokerError>) {
        match connected {
            Ok(publisher) => {
                self.publisher = Some(publisher);
                self.blocked = false;
                self.broker_is(BrokerState::Up);
                self.rescan();
            }
            Err(error) => self.down(error.0),
        }
    }

    fn down(&mut self, why: String) {
        self.reconnect_at = Instant::now() + self.reconnect.pause(random());
        self.broker_is(BrokerState::Down(why));
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, why: String) {
        self.publisher = None;
        self.blocked = false;
        self.window.lost();
        self.down(why);
    }

    /// Says it once for each change.
    fn broker_is(&mut self, now: BrokerState) {
        self.state.send_if_modified(|state| {
            if state.broker == now {
                return false;
            }
            match (&state.broker, &now) {
                (BrokerState::Blocked(_), BrokerState::Up) => {
                    tracing::info!(message_id = kinds::BROKER_UP.id, "The broker takes events again");
                }
                (_, BrokerState::Up) => {
                    tracing::info!(message_id = kinds::BROKER_UP.id, "Connected to the broker");
                }
                (_, BrokerState::Blocked(why)) => {
                    tracing::warn!(message_id = kinds::BROKER_BLOCKED.id, %why, "The broker takes no events for now: they are kept until it does");
                }
                (_, BrokerState::Down(why)) => {
                    tracing::warn!(message_id = kinds::BROKER_DOWN.id, %why, "The broker is not reached: events are kept, and it is tried again");
                }
            }
            state.broker = now;
            true
        });
    }

    pub(super) fn heard(&mut self, told: Result<Told, BrokerError>) {
        match told {
            Err(error) => self.lost(error.0),
            Ok(Told::Blocked(Some(why))) => {
                self.blocked = true;
                self.broker_is(BrokerState::Blocked(why));
            }
            Ok(Told::Blocked(None)) => {
                self.blocked = false;
                self.broker_is(BrokerState::Up);
            }
            Ok(Told::Settled(outcomes)) => {
                let (mut confirmed, mut refused) = (0, 0);
                let refused_before = self.window.refused();
                for (position, outcome) in outcomes {
                    self.window.outcome(position, outcome);
                    match outcome {
                        Outcome::Returned if self.settings.park => {}
                        Outcome::Confirmed | Outcome::Returned => confirmed += 1,
                        Outcome::Refused => refused += 1,
                    }
                }
                self.published.fetch_add(confirmed, Ordering::Relaxed);
                self.reconnect.reset();
                if self.window.refused() < refused_before {
                    // There is room again: the rest of the project can be read.
                    self.refused.reset();
                    self.deferred = true;
                    self.look_at = Some(Instant::now());
                }
                if refused > 0 {
                    self.say_refused(refused);
                    self.deferred = true;
                    if self.look_at.is_none() {
                        self.look_at = Some(Instant::now() + self.look_again.pause(random()));
                    }
                }
                self.tell_refused();
            }
        }
    }

    fn tell_refused(&self) {
        let refused = self.window.refused() as u64;
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.refused, refused) != refused);
    }

    fn say_refused(&mut self, count: usize) {
        if self.said_refused.is_none_or(|at| at.elapsed() > SAY) {
            self.said_refused = Some(Instant::now());
            tracing::warn!(
                message_id = kinds::EVENTS_REFUSED.id,
                count,
                "The broker refuses events: a queue that is bound for them is full. They are kept, and tried again"
            );
        }
    }

    pub(super) fn did(&mut self, chore: Chore) {
        match chore {
            Chore::Counted(backlog, took) => self.counted(backlog, took),
            Chore::Swept(swept) => self.swept(swept),
            Chore::Retried(answer) => {
                self.said_parked = None;
                self.uncounted = true;
                self.count_at = Instant::now();
                self.sweep_at = Instant::now();
                self.parked_at = 0;
                self.rescan();
                if let Some(retry) = self.retry.take() {
                    let _ = retry.reply.send(answer);
                }
            }
        }
    }

    fn counted(&mut self, backlog: Result<Backlog, StoreError>, took: Duration) {
        self.count_at = Instant::now() + COUNT.max(took * 50);
        self.uncounted |= backlog.is_err();
        // An old number would say that all is well.
        let backlog = backlog.ok();
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.backlog, backlog) != backlog);
        self.note_empty();
    }

    fn swept(&mut self, swept: Result<Swept, StoreError>) {
        let swept = match swept {
            Ok(swept) => swept,
            Err(error) => {
                tracing::debug!(%error, "Events of hosts that were given up, and parked ones, stay for now");
                return;
            }
        };
        self.sweeps += 1;
        self.parked_at = swept.parked_at;
        if swept.adopted > 0 {
            tracing::info!(
                message_id = kinds::EVENTS_ADOPTED.id,
                count = swept.adopted,
                "Events of hosts that were given up are published from here"
            );
        }
        if swept.adopted > 0 || swept.let_go > 0 {
            self.uncounted = true;
            self.sweep_at = Instant::now();
            self.rescan();
        } else if self.sweeps.is_multiple_of(SWEEPS) && self.passed {
            // Once in a while whatever may have been overlooked is read, too.
            self.rescan();
        }
    }
}
