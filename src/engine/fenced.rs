//! A host that was given up: its epoch is over, it joins again, and finds out what became of its
//! runners meanwhile. The rows decide: a lane whose row lives goes on, with every step that was not
//! written yet; one whose row has ended closes, and what of it still runs is stopped.

use super::Shared;
use super::hub;
use super::lane::{Command, Lane};
use crate::domain::kinds;
use crate::domain::{Error, ErrorKind, Runner, RunnerId, State};
use crate::ports::StoreError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Shared {
    /// A write of this epoch was refused: the host was given up meanwhile.
    pub(super) fn fenced(&self, epoch: Option<u64>) {
        let news = self.lease.with(|known| {
            let current = known.writer.as_ref().map(|w| w.epoch);
            let news = current.is_some() && current == epoch;
            if news {
                known.writer = None;
                known.lease.is_fenced();
            }
            news
        });
        if news {
            tracing::error!(
                message_id = kinds::HOST_FENCED.id,
                epoch,
                "This host was given up by its fleet (epoch {} is over): it joins again",
                epoch.unwrap_or(0)
            );
            self.health.send_modify(|health| health.adopted = false);
            self.note_lease();
            self.lease.hurry.notify_one();
        }
    }

    /// What the store's answer tells of the epoch it was asked in.
    pub(super) fn note_fenced<T>(&self, epoch: Option<u64>, answer: &Result<T, StoreError>) {
        if matches!(answer, Err(StoreError::Fenced)) {
            self.fenced(epoch);
        }
    }

    /// This host had been given up and has joined again: what the rows say against the lanes there are.
    /// A lane whose runner lives in the store goes on, another looks at its row and closes.
    pub(super) fn adopt_again(
        &self,
        stored: BTreeMap<RunnerId, Runner>,
        lanes: BTreeMap<RunnerId, Runner>,
    ) -> BTreeMap<RunnerId, Runner> {
        let all: BTreeSet<RunnerId> = self.read(|live| live.keys().copied().collect());
        for id in &all {
            let command = match stored.contains_key(id) {
                true => Command::Flush,
                false => Command::LookUp,
            };
            hub::tell(self, *id, command);
        }
        let known = lanes.into_iter().filter(|(id, _)| stored.contains_key(id));
        let mut rows: BTreeMap<_, _> = known.collect();
        // One that starts and has no lane yet is about to get it from its launch.
        let others = stored
            .into_iter()
            .filter(|(id, row)| !all.contains(id) && row.state() != State::Starting);
        rows.extend(others);
        rows
    }
}

impl Lane {
    /// The store has ended it while this host was given up, and may have given its slot to another.
    pub(super) fn give_way(&mut self, row: Runner) {
        let here = match &self.runner.exit {
            Some(exit) => format!("it ended here: {}", exit.public().message),
            None => "it has not ended here and is stopped".to_owned(),
        };
        tracing::warn!(message_id = kinds::ENDED_MEANWHILE.id, runner = %row.id, project = %row.spec.project, dropped = self.backlog.len(), "The store has ended a runner of this host, which had been given up; {here}");
        let old = std::mem::replace(&mut self.runner, row).state();
        self.backlog.clear();
        (self.retry_at, self.look_up, self.given_up) = (None, false, true);
        self.show();
        self.answer(Err(Error::new(
            ErrorKind::StoreUnavailable,
            format!(
                "This host was given up by its fleet while it launched runner {}, which has ended.",
                self.runner.id
            ),
        )));
        self.shared.metrics.ended(&self.runner);
        let runner = Arc::new(self.runner.clone());
        self.shared.publish(None, Some(runner), Some(old));
    }
}
