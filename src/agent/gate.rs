//! The gate of a prepared runner: opened once, or closed for ever.

use super::hub::{Agent, Phase, Runner};
use super::launch::failed;
use super::policy::refusal;
use super::undo::LEAVE;
use crate::crash::point;
use crate::domain::{Cause, RunnerId};
use crate::wire::{Answer, Refusal, RefusalCode, ShimRequest};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the exec may take (it may be on a slow file system).
const EXEC: Duration = Duration::from_secs(60);

impl Agent {
    /// Opens the gate; returns when the command has been exec'd.
    pub(super) async fn go(&self, id: RunnerId) -> Result<Answer, Refusal> {
        point("agent.go-received");
        let runner = self.runner(id)?;
        let phase = runner.phase.borrow().clone();
        match phase {
            // An adopted one was at the gate of an agent that is gone, and so is the gate.
            Phase::Gated if runner.owner == 0 || runner.given_up.load(Ordering::Relaxed) => {
                return Err(failed(format!("The launch of {id} was given up.")));
            }
            Phase::Gated => {
                let link = runner
                    .link()
                    .ok_or_else(|| failed(format!("The shim of {id} is gone.")))?;
                runner.becomes(Phase::Opened);
                runner.set_killer(None);
                if let Err(e) = link.send(&ShimRequest::Go, &[]).await {
                    // It has not been sent, and nobody will send it again.
                    link.close_gate();
                    return Err(failed(format!("The shim of {id} does not start: {e}.")));
                }
                point("agent.go-sent");
            }
            Phase::Preparing => return Err(failed(format!("Runner {id} is not at its gate yet."))),
            _ => {}
        }
        let told = runner
            .wait(EXEC, |p| {
                matches!(p, Phase::Started | Phase::Failed(_)) || p.is_over()
            })
            .await;
        point("agent.before-go-reply");
        let phase = runner.phase.borrow().clone();
        match (told, phase) {
            (false, _) => Err(failed(format!(
                "The shim of {id} did not say within {} s whether the command runs.",
                EXEC.as_secs()
            ))),
            (true, Phase::Started) => Ok(Answer::Done),
            (true, Phase::Failed(error)) => Err(refusal(RefusalCode::LaunchFailed, error.message)),
            // It was over before that was heard: only the record knows whether it ran.
            (true, Phase::Ended) => match self.exits.record(id).ok().flatten().flatten() {
                Some(record) if record.exit().cause != Cause::LaunchFailed => Ok(Answer::Done),
                Some(record) => Err(refusal(RefusalCode::LaunchFailed, record.exit().message)),
                None => Err(failed(format!(
                    "Runner {id} has ended, and its record can't be read."
                ))),
            },
            (true, _) => Err(failed(format!("The shim of {id} is gone."))),
        }
    }

    /// Closes the gate; returns when the shim is gone.
    pub(super) async fn abort(&self, runner: &Arc<Runner>) -> Result<Answer, Refusal> {
        runner.give_up();
        let most = LEAVE + Duration::from_secs(60);
        let at_gate = |p: &Phase| matches!(p, Phase::Preparing);
        if !runner.wait(most, |p| !at_gate(p)).await {
            return Err(failed(format!("The launch of {} hangs.", runner.id)));
        }
        let phase = runner.phase.borrow().clone();
        match phase {
            Phase::Gated => {}
            phase if phase.is_over() => return Ok(Answer::Done),
            _ => {
                return Err(failed(format!(
                    "The gate of {} is open already; stop it.",
                    runner.id
                )));
            }
        }
        runner.give_up();
        if runner.is_child() {
            self.let_leave(runner).await;
        }
        match runner.wait(LEAVE, Phase::is_over).await {
            true => Ok(Answer::Done),
            false => Err(failed(format!("The shim of {} does not leave.", runner.id))),
        }
    }
}
