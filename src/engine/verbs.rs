//! What a lane does when it is asked: stop, kill, freeze, thaw, other limits.

use super::audit::Noted;
use super::lane::{Lane, RETRY_MAX};
use super::{host_error, now};
use crate::crash;
use crate::domain::event::Actor;
use crate::domain::exit::Asked;
use crate::domain::kinds;
use crate::domain::runner::Step;
use crate::domain::units::INFINITY;
use crate::domain::{Error, ErrorKind, Limits, State};
use crate::ports::HostError;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Steps a lane keeps while the store is away; more are refused, endings never.
const BACKLOG_MAX: usize = 64;

impl Lane {
    pub(super) async fn stop(&mut self, actor: Actor) -> Result<(), Error> {
        // Whoever wants it to stop does not want it to be begun again.
        self.throw_away().await;
        match self.runner.state() {
            State::Ended => return Err(self.ended()),
            State::Stopping => {}
            _ => {
                self.room()?;
                self.step(Step::Stop, actor).await;
            }
        }
        crash::point("daemon.stop-recorded");
        match self.shared.host.stop(self.runner.id, Asked::Stop).await {
            Ok(()) => Ok(()),
            // Recorded: the order is given again when the agent is back.
            Err(HostError::Unavailable(_)) if self.backlog.is_empty() => Ok(()),
            Err(error) => Err(host_error(error)),
        }
    }

    pub(super) async fn kill(&mut self, signal: i32, actor: Actor) -> Result<(), Error> {
        if self.runner.state() == State::Ended {
            return Err(self.ended());
        }
        let id = self.runner.id;
        self.shared
            .host
            .kill(id, signal)
            .await
            .map_err(host_error)?;
        tracing::info!(message_id = kinds::RUNNER_SIGNALLED.id, runner = %id, project = %self.runner.spec.project, signal, uid = actor.uid, user = actor.user, "Signal sent to a runner");
        let spec = &self.runner.spec;
        let noted = Noted {
            project: spec.project.to_string(),
            subject: format!("runner/{id}"),
            result: "ok".to_owned(),
            data: json!({ "runner": id.to_string(), "host": self.runner.host, "signal": crate::domain::signal::name(signal) }),
        };
        self.shared.note(noted.act("act.kill", actor));
        Ok(())
    }

    pub(super) async fn freeze(&mut self, freeze: bool, actor: Actor) -> Result<(), Error> {
        let step = if freeze {
            Step::Freeze(None)
        } else {
            Step::Thaw
        };
        // Somebody else may have frozen or thawed it meanwhile: the host is asked in any case.
        let already = matches!(
            (self.runner.state(), freeze),
            (State::Frozen, true) | (State::Running, false)
        );
        if !already {
            self.runner.clone().apply(&step, now())?;
        }
        self.room()?;
        if !freeze && self.runner.state() == State::Frozen {
            self.shared.policy.may_thaw(&self.runner)?;
        }
        let id = self.runner.id;
        let done = match freeze {
            true => self.shared.host.freeze(id).await,
            false => self.shared.host.thaw(id).await,
        };
        done.map_err(host_error)?;
        crash::point("daemon.frozen");
        if !already {
            self.step(step, actor).await;
        } else if freeze && self.runner.frozen_by.is_some() {
            // From now on it is somebody's wish, and outlasts the hold or budget.
            self.step(Step::Keep(None), actor).await;
        }
        Ok(())
    }

    pub(super) async fn limit(
        &mut self,
        change: Limits,
        actor: Actor,
    ) -> Result<Vec<String>, Error> {
        if self.runner.state() == State::Ended {
            return Err(self.ended());
        }
        self.room()?;
        let limits = change.or(&self.runner.spec.limits);
        self.shared.check_fence(&limits)?;
        let warnings = self
            .shared
            .host
            .set_limits(self.runner.id, limits.clone())
            .await
            .map_err(host_error)?;
        self.overtime = false;
        self.step(Step::Limit(limits, warnings.clone()), actor)
            .await;
        Ok(warnings)
    }

    /// The shim keeps the runtime limit, but it is frozen with its runner, and frozen time
    /// counts: then it is ours to keep.
    pub(super) fn overtime_at(&self) -> Option<Instant> {
        let max = self
            .runner
            .spec
            .limits
            .runtime_max
            .filter(|m| *m != INFINITY)?;
        if self.runner.state() != State::Frozen || self.overtime {
            return None;
        }
        self.started?.checked_add(Duration::from_micros(max))
    }

    pub(super) async fn stop_overtime(&mut self) {
        match self.shared.host.stop(self.runner.id, Asked::Timeout).await {
            Ok(()) => {
                self.overtime = true;
                self.step(Step::Stop, Actor::host()).await;
            }
            Err(error) => {
                tracing::warn!(message_id = kinds::ORDER_FAILED.id, runner = %self.runner.id, project = %self.runner.spec.project, %error, "A frozen runner is past its runtime limit and can't be stopped yet");
                tokio::time::sleep(RETRY_MAX).await;
            }
        }
    }

    pub(super) fn ended(&self) -> Error {
        Error::new(
            ErrorKind::WrongState,
            format!("Runner {} has ended.", self.runner.id),
        )
    }

    /// While the store is away only so many steps are kept.
    pub(super) fn room(&self) -> Result<(), Error> {
        if self.backlog.len() < BACKLOG_MAX {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::StoreUnavailable,
            format!(
                "The store has been away for {BACKLOG_MAX} steps of this runner; try again when it is back."
            ),
        ))
    }
}
