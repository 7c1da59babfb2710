//! A lane: the one task that does everything about one live runner, in order.

use super::launch::Launched;
use super::{Shared, now};
use crate::crash;
use crate::domain::budget::Tokens;
use crate::domain::event::Actor;
use crate::domain::exit::{Cause, Exit, Record, Usage};
use crate::domain::kinds;
use crate::domain::policy::Verdict;
use crate::domain::reconcile::NOTHING_RAN;
use crate::domain::runner::{Change, Step};
use crate::domain::{Error, ErrorKind, Limits, Runner, State};
use crate::ports::HostError;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// First pause before a step is written again, doubled up to [`RETRY_MAX`].
pub(super) const RETRY_MIN: Duration = Duration::from_millis(200);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a lane is told.
#[derive(Debug)]
pub(super) enum Command {
    Stop {
        actor: Actor,
        reply: Answer<()>,
    },
    Kill {
        signal: i32,
        actor: Actor,
        reply: Answer<()>,
    },
    Freeze {
        actor: Actor,
        reply: Answer<()>,
    },
    Thaw {
        actor: Actor,
        reply: Answer<()>,
    },
    Limit {
        change: Limits,
        actor: Actor,
        reply: Answer<Vec<String>>,
    },
    /// The shim's own word on the ending.
    Ended(Box<Record>),
    /// The ending by reconciliation.
    End(Box<Exit>, Usage),
    /// The shim is gone without a record, the scope is empty.
    Lost,
    /// The cgroup is frozen, or not, whoever did it.
    Frozen(bool),
    /// Reconciliation found it alive and well.
    Adopted,
    /// It should be stopping; the order may have been lost.
    StopAgain,
    /// Its shim waits at a gate that must not be opened any more.
    CloseGate,
    /// Its scope lives without a shim.
    StopScope,
    /// This host has joined its fleet again: what waits is written now.
    Flush,
    /// And its row is no longer a live one.
    LookUp,
    /// Holds or budgets may want something of it.
    Look,
    /// It has reported what it has used.
    Used(Tokens),
}

/// The caller of a launch whose outcome is to be told later.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) reply: Answer<Launched>,
    /// Then it is told what is known.
    pub(super) until: Instant,
    /// The exec failed; `None` = nobody knows yet whether it was tried.
    pub(super) error: Option<Error>,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) runner: Runner,
    pub(super) inbox: mpsc::UnboundedReceiver<Command>,
    /// Steps taken and not yet in the store, oldest first.
    pub(super) backlog: VecDeque<Change>,
    pub(super) retry_at: Option<Instant>,
    pub(super) pause: Duration,
    pub(super) pending: Option<Pending>,
    /// When the command started, on a clock that is not set: known as well as the wall clock
    /// was when this lane was opened.
    pub(super) started: Option<Instant>,
    /// When its launch arrived, if that was here.
    pub(super) began: Option<Instant>,
    /// The runtime limit was enforced on a frozen runner already.
    pub(super) overtime: bool,
    /// This host keeps what its launch needs, until its command may run: it could wait.
    pub(super) kept: bool,
    /// How often its launch was begun again.
    pub(super) again: u32,
    /// Its command was exec'd: whoever says that nothing ran tells of an earlier beginning.
    pub(super) runs: bool,
    /// Its row is to be looked at before anything else is written.
    pub(super) look_up: bool,
    /// The store has ended it, whatever runs here.
    pub(super) given_up: bool,
    /// What the policy wanted and could not be done, how long nobody tries again, and until when.
    pub(super) failed: Option<(Verdict, Duration, Instant)>,
    /// What came in while its launch was begun again, and is still meant.
    pub(super) saved: VecDeque<Command>,
}

impl Lane {
    pub(super) fn new(
        shared: Arc<Shared>,
        runner: Runner,
        inbox: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let ago = now().0.saturating_sub(runner.started_at.0);
        let started = runner
            .started_at
            .set()
            .and_then(|_| Instant::now().checked_sub(Duration::from_micros(ago)));
        Self {
            shared,
            runner,
            inbox,
            backlog: VecDeque::new(),
            retry_at: None,
            pause: RETRY_MIN,
            pending: None,
            started,
            began: None,
            overtime: false,
            kept: false,
            again: 0,
            runs: false,
            look_up: false,
            given_up: false,
            failed: None,
            saved: VecDeque::new(),
        }
    }

    /// Lives until the ending is in the store.
    pub(super) async fn run(mut self) {
        while self.runner.state().is_live() || !self.backlog.is_empty() {
            if let Some(command) = self.saved.pop_front() {
                self.obey(command).await;
                continue;
            }
            let overtime_at = self.overtime_at();
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => break,
                },
                () = until(self.retry_at) => self.flush().await,
                () = until(self.pending.as_ref().map(|p| p.until)) => self.uncertain(),
                () = until(overtime_at) => self.stop_overtime().await,
            }
        }
        let id = self.runner.id;
        crash::point("daemon.after-t3");
        self.throw_away().await;
        self.shared.write(|live| live.remove(&id));
        // Should this fail, the next reconciliation forgets it.
        if let Err(error) = self.shared.host.forget(id).await {
            tracing::debug!(runner = %id, %error, "What an ended runner left stays until the next reconciliation");
        }
        if self.given_up {
            // If it lives, it is stopped.
            self.shared.recheck.notify_one();
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Stop { actor, reply } => {
                let result = self.stop(actor).await;
                let _ = reply.send(result);
            }
            Command::Kill {
                signal,
                actor,
                reply,
            } => {
                let result = self.kill(signal, actor).await;
                let _ = reply.send(result);
            }
            Command::Freeze { actor, reply } => {
                let result = self.freeze(true, actor).await;
                let _ = reply.send(result);
            }
            Command::Thaw { actor, reply } => {
                let result = self.freeze(false, actor).await;
                let _ = reply.send(result);
            }
            Command::Limit {
                change,
                actor,
                reply,
            } => {
                let result = self.limit(change, actor).await;
                let _ = reply.send(result);
            }
            Command::Ended(record)
                if record.never_started && record.asked.is_none() && self.may_begin_again() =>
            {
                self.begin_again().await;
            }
            Command::End(exit, _)
                if exit.cause == Cause::LaunchFailed && self.may_begin_again() =>
            {
                self.begin_again().await;
            }
            Command::Ended(record) if record.never_started && self.runs => {}
            Command::End(exit, _) if exit.cause == Cause::LaunchFailed && self.runs => {}
            Command::End(exit, _)
                if exit.message == NOTHING_RAN && self.runner.state() != State::Starting =>
            {
                // It was concluded before its launch was begun again.
                self.shared.recheck.notify_one();
            }
            Command::Ended(record) => {
                crash::point("daemon.before-t3");
                self.end(record.exit(), record.usage).await;
            }
            Command::End(exit, usage) => self.end(*exit, usage).await,
            Command::Lost => {
                let exit = Exit {
                    cause: Cause::SupervisorLost,
                    code: None,
                    signal: None,
                    message: "Its shim was killed, so nobody saw how the command ended; its processes were stopped.".to_owned(),
                };
                self.end(exit, Usage::default()).await;
            }
            // Before the policy is known it can't be told whose freeze it is: the next look sees it again.
            Command::Frozen(true) if !self.shared.policy.is_known() => {}
            Command::Frozen(true) if self.runner.state() == State::Running => {
                // An order of the policy whose answer was lost, or somebody's own wish.
                let by = match self.shared.policy.verdict(&self.runner) {
                    Verdict::Freeze(by) => Some(by),
                    _ => None,
                };
                self.step(Step::Freeze(by), Actor::host()).await;
            }
            Command::Frozen(false) if self.runner.state() == State::Frozen => {
                self.step(Step::Thaw, Actor::host()).await;
            }
            Command::Frozen(_) => {}
            Command::Adopted => {
                self.runs |= self.runner.state() != State::Starting;
                // Alive past its gate: whoever still waits for the launch has it.
                if self.pending.as_ref().is_some_and(|p| p.error.is_none()) {
                    self.answer(Ok(self.runner.clone()));
                }
            }
            Command::StopAgain => {
                let asked = self.asked().await;
                self.note(self.shared.host.stop(self.runner.id, asked).await);
            }
            Command::CloseGate => self.note(self.shared.host.abort(self.runner.id).await),
            Command::Flush => self.flush().await,
            Command::LookUp => {
                self.look_up = true;
                self.flush().await;
            }
            Command::Look => self.look().await,
            Command::Used(tokens) => {
                self.runner.tokens = self.runner.tokens.advance(tokens);
                self.show();
                self.look().await;
            }
            Command::StopScope => {
                self.note(self.shared.host.stop_scope(self.runner.id).await);
                // The next plan sees an empty scope, or a record, and ends the runner.
                self.shared.recheck.notify_one();
            }
        }
    }

    /// Takes a step here and writes it, now or when the store is back. `false` = it was not legal.
    pub(super) async fn step(&mut self, step: Step, actor: Actor) -> bool {
        let at = now();
        if self.runner.apply(&step, at).is_err() {
            return false;
        }
        self.show();
        self.backlog.push_back(Change {
            id: self.runner.id,
            step,
            actor,
            at,
        });
        if self.retry_at.is_none() {
            self.flush().await;
        }
        true
    }

    /// Puts the lane's copy where everybody sees it.
    pub(super) fn show(&self) {
        let runner = Arc::new(self.runner.clone());
        self.shared.write(|live| {
            if let Some(entry) = live.get_mut(&runner.id) {
                entry.runner = runner;
            }
        });
    }

    async fn end(&mut self, exit: Exit, usage: Usage) {
        let launched = match exit.cause {
            Cause::LaunchFailed => Err(Error::new(
                ErrorKind::LaunchFailed,
                format!("{} (runner {})", exit.message, self.runner.id),
            )),
            _ => Ok(self.runner.clone()),
        };
        self.step(Step::End(exit, usage), Actor::host()).await;
        self.answer(launched);
    }

    fn uncertain(&mut self) {
        self.answer(Err(Error::new(
            ErrorKind::HostUnavailable,
            format!("The agent broke off while starting runner {0}; whether it runs will be known when the agent is back. See: stratavorectl show {0}.", self.runner.id),
        )));
    }

    /// Tells a launch's caller, if it still waits. A failed exec stays what it is.
    pub(super) fn answer(&mut self, launched: Result<Runner, Error>) {
        if let Some(pending) = self.pending.take() {
            if pending.error.is_none() && launched.is_ok() {
                self.launched();
            }
            let result = match pending.error {
                Some(error) => Err(error),
                None => launched.map(|runner| Launched {
                    runner,
                    repeated: false,
                }),
            };
            let _ = pending.reply.send(result);
        }
    }

    fn note(&self, result: Result<(), HostError>) {
        if let Err(error) = result {
            tracing::warn!(message_id = kinds::ORDER_FAILED.id, runner = %self.runner.id, project = %self.runner.spec.project, %error, "An order of the reconciliation failed; it is given again when the agent is back");
        }
    }
}

/// Sleeps until then, or for ever.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
