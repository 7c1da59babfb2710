//! What a lane has done and not written yet: it is written in order, now or when the store is back.

use super::lane::{Lane, RETRY_MAX, RETRY_MIN};
use crate::domain::exit::Cause;
use crate::domain::kinds::{self, Kind};
use crate::domain::{Runner, State};
use crate::ports::{Applied, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

impl Lane {
    /// Writes what waits, in order, until the store fails.
    pub(super) async fn flush(&mut self) {
        if self.shared.closed.load(Ordering::SeqCst) {
            return self.later();
        }
        if self.look_up {
            match self.shared.store.runner(self.runner.id).await {
                Ok(Some(row)) if !row.state().is_live() => return self.give_way(row),
                Ok(_) => self.look_up = false,
                Err(_) => return self.later(),
            }
        }
        while let Some(change) = self.backlog.front() {
            let epoch = self.shared.lease.epoch();
            let applied = self.shared.store.apply(change.clone()).await;
            self.shared.note_fenced(epoch, &applied);
            match applied {
                Ok(applied) => {
                    self.backlog.pop_front();
                    self.pause = RETRY_MIN;
                    self.retry_at = None;
                    self.publish(applied);
                }
                Err(StoreError::Unavailable(why)) => {
                    self.shared.note_store(Some(why));
                    return self.later();
                }
                // It is told when this host has joined again; this is for the case that it was not.
                Err(StoreError::Fenced) => return self.later(),
                Err(StoreError::Refused(error)) => {
                    let row = self.shared.store.runner(self.runner.id).await;
                    if let Ok(Some(row)) = &row
                        && !row.state().is_live()
                        && row
                            .exit
                            .as_ref()
                            .is_some_and(|e| e.cause == Cause::HostLost)
                    {
                        return self.give_way(row.clone());
                    }
                    // Lane and row agree on every state, so this is a defect or a meddled store:
                    // the row is right, and the rest of the lane's steps would be refused too.
                    tracing::error!(message_id = kinds::STORE_FAULT.id, runner = %self.runner.id, project = %self.runner.spec.project, %error, "A step was refused by the store");
                    self.backlog.clear();
                    self.retry_at = None;
                    match row {
                        Ok(Some(row)) => self.runner = row,
                        _ => return,
                    }
                    self.show();
                }
            }
        }
        self.retry_at = None;
    }

    pub(super) fn later(&mut self) {
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RETRY_MAX);
    }

    /// T2 was written: the row is the runner.
    pub(super) fn take_over(&mut self, applied: Applied) {
        self.runner = applied.runner.clone();
        self.started = Some(Instant::now());
        self.show();
        self.publish(applied);
    }

    pub(super) fn publish(&mut self, applied: Applied) {
        self.runner.seq = applied.runner.seq;
        if applied.runner.state() == State::Ended {
            tell_ending(&applied.runner);
            self.shared.metrics.ended(&applied.runner);
        }
        self.shared.publish(
            applied.event,
            Some(Arc::new(applied.runner)),
            Some(applied.old),
        );
    }
}

/// Says how it ended, without what could name its command.
pub(super) fn tell_ending(runner: &Runner) {
    let Some(exit) = &runner.exit else { return };
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                message_id = Kind::ended(exit.cause).id,
                runner = %runner.id,
                project = %runner.spec.project,
                cause = exit.cause.as_str(),
                "Runner ended: {}",
                exit.public().message
            )
        };
    }
    match exit.cause {
        Cause::OomKill
        | Cause::HostRebooted
        | Cause::HostLost
        | Cause::SupervisorLost
        | Cause::Unknown => say!(warn),
        _ => say!(info),
    }
}
