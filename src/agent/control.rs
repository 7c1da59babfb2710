//! Orders about a live runner.

use super::hub::{Agent, Phase, Runner, lock};
use super::policy::{self, refusal};
use super::systemd::SCOPE;
use super::{properties, readback};
use crate::crash::point;
use crate::domain::exit::Asked;
use crate::domain::kinds;
use crate::domain::limits::MAX_STOP_TIMEOUT;
use crate::domain::{Limits, RunnerId, signal};
use crate::wire::{Answer, Refusal, RefusalCode, ShimRequest, Unenforced};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long a killed scope may take to be empty: a process may sit in the kernel for a while.
const EMPTY: Duration = Duration::from_secs(30);

fn failed(why: impl std::fmt::Display) -> Refusal {
    refusal(RefusalCode::Failed, why.to_string())
}

impl Agent {
    /// Begins the stop of the whole tree.
    pub(super) async fn stop(
        self: &Arc<Self>,
        id: RunnerId,
        asked: Asked,
    ) -> Result<Answer, Refusal> {
        point("agent.stop-received");
        let runner = self.live(id)?;
        if matches!(*runner.phase.borrow(), Phase::Preparing | Phase::Gated) {
            runner.give_up();
            return Ok(Answer::Done);
        }
        self.thaw_now(&runner).await?;
        self.tell(&runner, &ShimRequest::Stop { asked }).await?;
        point("agent.stop-sent");
        self.oversee(&runner);
        Ok(Answer::Done)
    }

    /// Sees to it that a stop comes to an end, even where the tree leaves its shim no time.
    pub(super) fn oversee(self: &Arc<Self>, runner: &Arc<Runner>) {
        if runner.overseen.swap(true, Ordering::Relaxed) {
            return;
        }
        let (agent, runner) = (self.clone(), runner.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            let mut next = begun;
            loop {
                let due = next.max(begun + agent.patience(&runner).await);
                let rest = due.saturating_duration_since(Instant::now());
                if runner.wait(rest, Phase::is_over).await {
                    return;
                }
                // A new timeout may have come meanwhile.
                if Instant::now() >= begun + agent.patience(&runner).await {
                    agent.finish_off(&runner).await;
                    next = Instant::now() + EMPTY;
                }
            }
        });
    }

    /// How long a stop may take until the shim must have ended it.
    async fn patience(&self, runner: &Runner) -> Duration {
        let known = runner.stop_timeout.load(Ordering::Relaxed);
        let most = MAX_STOP_TIMEOUT + properties::STOP_MARGIN;
        let usec = if known == u64::MAX {
            let unit = runner.id.unit();
            let told = self.systemd.property(&unit, SCOPE, "TimeoutStopUSec").await;
            told.unwrap_or(most)
        } else {
            known.saturating_add(properties::STOP_MARGIN)
        };
        Duration::from_micros(usec.min(most))
    }

    /// Kills all of a scope but its shim, which should have done so by now.
    async fn finish_off(&self, runner: &Runner) {
        let _changing = runner.changing.lock().await;
        let cgroup = &runner.cgroup;
        // Frozen by somebody: then the shim's time stands still, too.
        if self.cgroups.freezing(cgroup) || self.cgroups.frozen(cgroup) {
            return;
        }
        // Without a shim it is lost anyway.
        if self.cgroups.shim(cgroup).is_none() {
            return;
        }
        // An earlier agent may have given it another timeout; then one that answers knows best.
        if runner.stop_timeout.load(Ordering::Relaxed) == u64::MAX {
            runner.heard.send_replace(false);
            let asked = self.tell(runner, &ShimRequest::Query).await;
            if asked.is_ok() && runner.has_spoken(EMPTY).await {
                return;
            }
        }
        self.kill_rest(runner).await;
    }

    /// Kills all of a scope but its shim, which has its record to write; also if it is frozen.
    pub(super) async fn kill_rest(&self, runner: &Runner) {
        let cgroup = &runner.cgroup;
        let shim = self.cgroups.shim(cgroup);
        let others = self.cgroups.processes(cgroup);
        if others.into_iter().any(|pid| Some(pid) != shim) {
            runner.warning(
                kinds::SHIM_UNREACHABLE,
                "its shim does not come to its turn; the agent kills the rest of the scope",
            );
        } else if !self.cgroups.freezing(cgroup) {
            return;
        }
        let killed = async {
            // Frozen, nobody can fork away.
            let freezes = self.cgroups.freeze(cgroup, true);
            let deadline = Instant::now() + Duration::from_secs(5);
            loop {
                let all = freezes.is_err() || self.cgroups.frozen(cgroup);
                self.cgroups.signal(cgroup, Signal::KILL, shim)?;
                if all || Instant::now() >= deadline {
                    return freezes;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let killed: std::io::Result<()> = killed.await;
        let thawed = self.cgroups.freeze(cgroup, false);
        if let Err(e) = killed.and(thawed) {
            runner.error(
                kinds::SCOPE_NOT_EMPTY,
                format_args!("it can't be finished off: {e}"),
            );
        }
    }

    /// Signals the whole tree.
    pub(super) async fn kill(&self, id: RunnerId, number: i32) -> Result<Answer, Refusal> {
        signal::check(number).map_err(|e| failed(e.message))?;
        let runner = self.live(id)?;
        if !self.cgroups.frozen(&runner.cgroup) {
            self.tell(&runner, &ShimRequest::Kill { signal: number })
                .await?;
            return Ok(Answer::Done);
        }
        // The shim is frozen, too. What is frozen gets SIGKILL at once and others when thawed.
        let signal = Signal::from_named_raw(number);
        let Some(signal) = signal else {
            return Err(failed(
                "A frozen runner can't be sent a real-time signal; thaw it first.",
            ));
        };
        let spare = self.cgroups.shim(&runner.cgroup);
        self.cgroups
            .signal(&runner.cgroup, signal, spare)
            .map_err(failed)?;
        Ok(Answer::Done)
    }

    /// Freezes; returns when it is frozen.
    pub(super) async fn freeze(&self, id: RunnerId) -> Result<Answer, Refusal> {
        let runner = self.live(id)?;
        let _changing = runner.changing.lock().await;
        if self.missed(&runner).is_some() {
            return Err(failed(format!(
                "Runner {id} can't be frozen: it stops, since its host has not reached its store for too long (fleet.stop_on_disconnect_after)."
            )));
        }
        if self.cgroups.freezing(&runner.cgroup) && self.cgroups.frozen(&runner.cgroup) {
            return Ok(Answer::Done);
        }
        if let Err(fault) = self.systemd.freeze(&id.unit()).await {
            // Half frozen is worse than not at all.
            let _ = self.systemd.thaw(&id.unit()).await;
            return Err(failed(format!("Runner {id} can't be frozen: {fault}.")));
        }
        Ok(Answer::Done)
    }

    /// Thaws; returns when it goes on.
    pub(super) async fn thaw(&self, id: RunnerId) -> Result<Answer, Refusal> {
        let runner = self.live(id)?;
        let _changing = runner.changing.lock().await;
        self.thaw_now(&runner).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn thaw_now(&self, runner: &Runner) -> Result<(), Refusal> {
        let (id, cgroup) = (runner.id, &runner.cgroup);
        if !self.cgroups.frozen(cgroup) && !self.cgroups.freezing(cgroup) {
            return Ok(());
        }
        let thawed = self.systemd.thaw(&id.unit()).await;
        // Not frozen by systemd, which leaves it then: an agent was killed while it finished off.
        if thawed.is_ok()
            && self.cgroups.freezing(cgroup)
            && self.cgroups.freeze(cgroup, false).is_ok()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if self.cgroups.frozen(cgroup) {
            let why = match thawed {
                Err(fault) => fault.to_string(),
                Ok(()) => "a slice above it is frozen (see systemctl thaw)".to_owned(),
            };
            return Err(failed(format!("Runner {id} can't be thawed: {why}.")));
        }
        Ok(())
    }

    /// Puts limits in force on a live runner, all or none.
    pub(super) async fn set_limits(
        &self,
        id: RunnerId,
        limits: &Limits,
        unenforced: Unenforced,
    ) -> Result<Answer, Refusal> {
        policy::check_limits(limits)?;
        let config = self.config();
        let ceilings = &config.ceilings;
        let limits = policy::clamp(limits, ceilings)?;
        readback::judge(&self.lacking(&limits), unenforced, ceilings)?;
        let runner = self.live(id)?;
        if *runner.phase.borrow() == Phase::Preparing {
            return Err(failed(format!("Runner {id} is not at its gate yet.")));
        }
        let _changing = runner.changing.lock().await;
        let unit = id.unit();
        let bus = |fault| failed(format!("The limits of {id} can't be changed: {fault}."));
        let tasks = self.systemd.default_tasks_max().await.map_err(bus)?;
        let before = self
            .systemd
            .numbers(&unit, SCOPE, &properties::LIVE)
            .await
            .map_err(bus)?;
        let wanted = properties::live(&properties::of_scope(&limits), tasks);
        let mut warnings = self.fixed_at_launch(&unit, &limits).await?;
        let as_one = self.cgroups.kills_as_one(&runner.cgroup);
        let request = ShimRequest::Limits {
            runtime_max: limits.runtime_max.unwrap_or(u64::MAX),
            stop_timeout: limits.stop_timeout_usec(),
            kill_signal: limits.stop_signal(),
            oom_policy: limits.oom_policy,
        };
        let done = async {
            let held = properties::wanted(&limits);
            if before != wanted || limits.oom_policy.is_some() {
                if before != wanted {
                    self.systemd.set(&unit, &wanted).await.map_err(bus)?;
                }
                let as_one = match limits.oom_policy {
                    Some(_) => self.kills_as_one(&limits),
                    None => as_one,
                };
                let unheld = self
                    .unheld_at_last(&runner.cgroup, &held, Some(as_one))
                    .await;
                readback::judge(&unheld, unenforced, ceilings)?;
            }
            self.tell(&runner, &request).await?;
            // What was not held before is so still, whatever was changed.
            Ok(readback::sentences(&self.unheld(
                &runner.cgroup,
                &held,
                true,
            )))
        };
        match done.await {
            Ok(more) => {
                warnings.extend(more);
                let timeout = limits.stop_timeout_usec();
                runner.stop_timeout.store(timeout, Ordering::Relaxed);
            }
            Err(refused) => {
                if before != wanted
                    && let Err(fault) = self.systemd.set(&unit, &before).await
                {
                    runner.error(
                        kinds::LIMITS_NOT_RESTORED,
                        format_args!("its former limits can't be put back: {fault}"),
                    );
                }
                let nothing = Limits::default();
                self.unheld_at_last(&runner.cgroup, &nothing, Some(as_one))
                    .await;
                return Err(refused);
            }
        }
        Ok(Answer::Limits { warnings })
    }

    /// What systemd takes at launch only.
    async fn fixed_at_launch(&self, unit: &str, limits: &Limits) -> Result<Vec<String>, Refusal> {
        let mut warnings = Vec::new();
        let most: u64 = self
            .systemd
            .property(unit, SCOPE, "TimeoutStopUSec")
            .await
            .map_err(failed)?;
        if limits.stop_timeout_usec() >= most {
            warnings.push(format!(
                "stop-timeout={} holds for stops by Stratavore; one by “systemctl stop” or at shutdown is cut off after {}, as was set at launch.",
                policy::shown("stop-timeout", limits.stop_timeout_usec()),
                policy::shown("stop-timeout", most)
            ));
        }
        Ok(warnings)
    }

    /// Kills a scope and all in it; returns when it is empty.
    pub(super) async fn stop_scope(&self, id: RunnerId) -> Result<Answer, Refusal> {
        let runner = match self.runner(id) {
            Ok(runner) => runner,
            // Not one we know: then it lies where its name says.
            Err(unknown) => {
                let found = self.cgroups.scan().map_err(failed)?.remove(&id);
                Runner::new(id, found.ok_or(unknown)?, 0, Phase::Opened)
            }
        };
        self.empty(&runner, true).await;
        match self.cgroups.populated(&runner.cgroup) {
            false => Ok(Answer::Done),
            true => Err(failed(format!(
                "The scope of {id} is not empty after {} s; a process hangs in the kernel.",
                EMPTY.as_secs()
            ))),
        }
    }

    /// Empties a scope: with SIGKILL, or as systemd stops it, with its stop signal and timeout.
    pub(super) async fn empty(&self, runner: &Runner, kill: bool) {
        let unit = runner.id.unit();
        let mut kill = kill;
        if !kill && self.cgroups.populated(&runner.cgroup) {
            let gentle = MAX_STOP_TIMEOUT + properties::STOP_MARGIN;
            let told = self.systemd.property(&unit, SCOPE, "TimeoutStopUSec").await;
            let most = told.unwrap_or(gentle).min(gentle) + properties::STOP_MARGIN;
            let _ = self
                .systemd
                .stop_within(&unit, Duration::from_micros(most))
                .await;
            // Whatever it said: it may have lost sight of it, or of some in it.
            kill = true;
        }
        let deadline = Instant::now() + EMPTY;
        let mut pause = Duration::from_millis(2);
        while self.cgroups.populated(&runner.cgroup) && Instant::now() < deadline {
            if kill && let Err(e) = self.cgroups.kill(&runner.cgroup) {
                runner.warning(
                    kinds::SCOPE_NOT_EMPTY,
                    format_args!("its scope can't be killed: {e}"),
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
        // systemd drops an empty scope by itself, but not one that it never saw populated: its shim was dying
        // with the agent before while it was made.
        if kill || self.cgroups.generation(&runner.cgroup).is_some() {
            let _ = self.systemd.stop(&unit).await;
        }
    }

    /// The ending is in the store: nothing of it is needed here any more.
    pub(super) async fn forget(&self, id: RunnerId) -> Result<Answer, Refusal> {
        point("agent.forget");
        let runner = self.runner(id).ok();
        if let Some(runner) = &runner {
            let recorded = self.exits.record(id).map_err(failed)?.is_some();
            if !runner.phase.borrow().is_over() && !recorded {
                return Err(failed(format!(
                    "Runner {id} is alive and has no record; it can't be forgotten."
                )));
            }
            // It wrote its record as its last act but one.
            let leave = async {
                while runner.link().is_some() || self.cgroups.populated(&runner.cgroup) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(5), leave).await;
        }
        self.exits
            .forget(id)
            .map_err(|e| failed(format!("The record of {id} can't be removed: {e}.")))?;
        point("agent.record-removed");
        self.sweep(id);
        if lock(&self.failed_units).remove(&id) {
            let _ = self.systemd.reset_failed(&id.unit()).await;
        }
        self.drop_settings(&id.unit());
        if let Some(runner) = runner {
            runner.becomes(Phase::Ended);
            lock(&self.runners).remove(&id);
        }
        Ok(Answer::Done)
    }

    /// What it has used up to now.
    pub(super) fn usage(&self, id: RunnerId) -> Result<Answer, Refusal> {
        let runner = self.runner(id)?;
        match self.cgroups.generation(&runner.cgroup) {
            Some(_) => Ok(Answer::Usage(self.cgroups.usage(&runner.cgroup))),
            None => Err(ended(id)),
        }
    }

    fn live(&self, id: RunnerId) -> Result<Arc<Runner>, Refusal> {
        let runner = self.runner(id)?;
        let over = runner.phase.borrow().is_over();
        if over { Err(ended(id)) } else { Ok(runner) }
    }

    async fn tell(&self, runner: &Runner, request: &ShimRequest) -> Result<(), Refusal> {
        // A shim just thawed may not have been connected to yet.
        let link = async {
            loop {
                match runner.link() {
                    Some(link) => return Some(link),
                    None if runner.phase.borrow().is_over() => return None,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(5), link).await {
            Ok(Some(link)) => link.send(request, &[]).await.map_err(|e| {
                failed(format!(
                    "The shim of {} does not take the order: {e}.",
                    runner.id
                ))
            }),
            Ok(None) => Err(ended(runner.id)),
            Err(_) => Err(failed(format!(
                "The shim of {} does not answer.",
                runner.id
            ))),
        }
    }
}

fn ended(id: RunnerId) -> Refusal {
    refusal(RefusalCode::NoSuchRunner, format!("Runner {id} has ended."))
}
