//! A turn that has come: the saga from `starting` on, with what this host has kept, and once more if
//! it was cut off before the command could run.

use super::lane::{Command, Lane};
use super::{Shared, digest};
use crate::crash;
use crate::domain::event::Event;
use crate::domain::exit::Cause;
use crate::domain::kinds;
use crate::domain::{Error, ErrorKind, Limits, Runner, State};
use crate::ports::LaunchOrder;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a launch is begun again whose beginning was cut off.
pub(super) const AGAIN_MAX: u32 = 5;

/// Why a runner that had waited can't be started.
pub(super) const NOTHING_KEPT: &str = "What this host kept of its launch (environment, files) is lost, so it can't be started; launch it again.";

/// Starts a runner whose turn has come.
pub(super) fn begin(
    shared: &Arc<Shared>,
    runner: Runner,
    event: Option<Event>,
    project_limits: Limits,
    changes: u64,
) {
    let share = shared.keep_share(runner.id, &runner.spec);
    shared.queue.ids().remove(&runner.id);
    shared.publish(event, Some(Arc::new(runner.clone())), Some(State::Queued));
    let Some(mut lane) = shared.open_lane(runner, true) else {
        return;
    };
    drop(share);
    lane.kept = true;
    lane.began = Some(Instant::now());
    let (turns, launches) = (
        Arc::clone(&shared.queue.turns),
        Arc::clone(&shared.launches),
    );
    tokio::spawn(async move {
        // Never closed. Those under way at a stop of the daemon are waited for, too.
        let turn = turns.acquire_owned().await;
        let permit = launches.acquire_owned().await;
        let recheck = lane.start_kept(project_limits, changes).await;
        lane.has_begun(recheck);
        drop((permit, turn));
        lane.run().await;
    });
}

/// Why a launch whose row has been tampered with fails.
const CHANGED: &str = "Its row in the store says another command or user than what was asked for here; nothing was run. Who has write access to the store?";

impl Lane {
    /// Whether its launch, cut off before its command could run, is begun again.
    pub(super) fn may_begin_again(&self) -> bool {
        self.kept && self.again < AGAIN_MAX && self.runner.state() == State::Starting
    }

    /// Begins the launch again of a runner that is `starting`, and of which nothing runs.
    pub(super) async fn begin_again(&mut self) {
        let shared = Arc::clone(&self.shared);
        let id = self.runner.id;
        let changes = shared.project_changes.load(Ordering::SeqCst);
        let project = shared.store.project(&self.runner.spec.project).await;
        self.again += u32::from(project.is_ok());
        let (Ok(project), Ok(())) = (project, shared.host.forget(id).await) else {
            // The next reconciliation sees it as it is.
            shared.recheck.notify_one();
            tokio::time::sleep(AGAIN).await;
            return;
        };
        shared.write(|live| {
            if let Some(entry) = live.get_mut(&id) {
                entry.launching = true;
                entry.launches += 1;
            }
        });
        let limits = project.map(|p| p.settings.limits).unwrap_or_default();
        let recheck = self.start_kept(limits, changes).await;
        self.forget_beginnings();
        self.has_begun(recheck);
    }

    /// That nothing ran was said of an earlier beginning; a new look tells of this one.
    fn forget_beginnings(&mut self) {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::End(exit, _) if exit.cause == Cause::LaunchFailed => {}
                Command::Ended(record) if record.never_started => {}
                other => self.saved.push_back(other),
            }
        }
    }

    /// As [`Lane::start`], with what this host has kept.
    async fn start_kept(&mut self, project_limits: Limits, changes: u64) -> bool {
        let id = self.runner.id;
        let why = match self.shared.queue.drawer.get(id).await {
            // Whoever can write the store's rows does not choose what runs here, or as whom.
            Ok(Some(kept))
                if !kept.identity.is_empty()
                    && kept.identity != digest::identity(&self.runner.spec) =>
            {
                CHANGED.to_owned()
            }
            Ok(Some(kept)) => {
                let order = LaunchOrder {
                    id,
                    spec: self.runner.spec.clone(),
                    setenv: kept.setenv,
                    project_limits,
                    inputs: kept.inputs,
                    streams: Default::default(),
                    fence: self.shared.lease.deadline(),
                };
                crash::point("queue.before-prepare");
                let (reply, _nobody) = tokio::sync::oneshot::channel();
                return self.start(order, changes, kept.actor, reply).await;
            }
            Ok(None) => NOTHING_KEPT.to_owned(),
            Err(error) => error.message,
        };
        let error = Error::new(ErrorKind::LaunchFailed, why);
        tracing::warn!(message_id = kinds::RUNNER_LAUNCH_FAILED.id, runner = %id, project = %self.runner.spec.project, "{}", error.message);
        self.give_up(&error).await;
        false
    }

    /// What is kept of its launch is needed no more.
    pub(super) async fn throw_away(&mut self) {
        if std::mem::take(&mut self.kept) {
            self.shared.queue.throw_away(self.runner.id).await;
        }
    }
}
