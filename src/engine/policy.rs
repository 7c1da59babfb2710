//! Holds and budgets, carried out: what they say is followed here, and what they want of a runner
//! is told its lane.
//!
//! Where hosts share a store it is asked for news twice a second. The embedded one changes by
//! nobody else, so nothing is asked until something happened here or a time in the policy has come.
//! While the store is away the last policy holds on, and holds end at their time all the same.

use super::lane::{Command, Lane};
use super::{Shared, host_error, now};
use crate::crash;
use crate::domain::budget::{BudgetState, OnExhausted};
use crate::domain::event::{Actor, EventType};
use crate::domain::exit::Asked;
use crate::domain::kinds;
use crate::domain::policy::{self, Verdict};
use crate::domain::runner::Step;
use crate::domain::{Error, ErrorKind, Runner, RunnerId, State, Timestamp};
use crate::ports::{EventFilter, HostError, Policy, StoreError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// How often a store of several hosts is asked for news.
const PULSE: Duration = Duration::from_millis(400);
/// How soon is tried again what did not work.
const AGAIN: Duration = Duration::from_secs(1);
/// A freeze that fails writes two events, so it is tried after twice as long each time, up to this.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// The longest sleep before a time in the policy: a clock may be set, a laptop may have slept.
const NAP: Duration = Duration::from_secs(30);
/// A store that takes longer for an answer is away.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What is known of the policy.
#[derive(Debug)]
pub(super) struct Followed {
    known: RwLock<Arc<Known>>,
    /// Something was changed here.
    pub(super) changed: Notify,
    /// What budgets count was changed here: the store tells whether that changes the policy.
    pub(super) counted: Notify,
}

/// A policy, and the store's clock when it was read.
#[derive(Debug)]
struct Known {
    /// Empty as long as `read` is false: nothing is known then, and nothing follows from it.
    policy: Policy,
    read: bool,
    clock: Timestamp,
    at: Instant,
}

impl Known {
    /// The store's clock now.
    fn now(&self) -> Timestamp {
        let since = u64::try_from(self.at.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.clock.plus_usec(since)
    }
}

impl Default for Followed {
    fn default() -> Self {
        let known = Known {
            policy: Policy::default(),
            read: false,
            clock: now(),
            at: Instant::now(),
        };
        Self {
            known: RwLock::new(Arc::new(known)),
            changed: Notify::new(),
            counted: Notify::new(),
        }
    }
}

impl Followed {
    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the policy was ever read.
    pub(super) fn is_known(&self) -> bool {
        self.known().read
    }

    /// The store's clock now, once it has told it.
    pub(super) fn clock(&self) -> Option<Timestamp> {
        let known = self.known();
        known.read.then(|| known.now())
    }

    /// What is to be done with this runner now.
    pub(super) fn verdict(&self, runner: &Runner) -> Verdict {
        let known = self.known();
        if !known.read {
            return Verdict::GoOn;
        }
        let Policy {
            holds,
            budgets,
            cordon,
        } = &known.policy;
        let drained = policy::drained(runner, cordon.as_ref(), known.now());
        drained.unwrap_or_else(|| policy::verdict(runner, holds, budgets, known.now()))
    }

    /// Whether somebody may thaw this runner now.
    pub(super) fn may_thaw(&self, runner: &Runner) -> Result<(), Error> {
        let known = self.known();
        if let (false, Some(by)) = (known.read, &runner.frozen_by) {
            let why = format!(
                "Runner {} was frozen ({by}), and whether that holds on is not known: the store was not reached since stratavored started. Try again when “stratavorectl status” says that it is.",
                runner.id
            );
            return Err(Error::new(ErrorKind::StoreUnavailable, why));
        }
        let Policy { holds, budgets, .. } = &known.policy;
        policy::refuse_thaw(runner, holds, budgets, known.now())
    }
}

/// Follows the policy, and sees to it that every live runner is as it says.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut happenings = shared.happenings.subscribe();
    let mut health = shared.health.subscribe();
    let mut seen = None;
    let mut due = Some(Instant::now());
    loop {
        // One runner, or all of them and the store.
        let one = tokio::select! {
            happening = happenings.recv() => match happening {
                Ok(happening) => match (&happening.runner, happening.old) {
                    (Some(runner), Some(old)) if old != runner.state() => Some(Arc::clone(runner)),
                    _ => continue,
                },
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            },
            () = shared.policy.changed.notified() => {
                seen = None;
                None
            }
            () = shared.policy.counted.notified() => None,
            changed = health.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            () = until(due) => None,
        };
        let known = shared.policy.known();
        let Policy {
            holds,
            budgets,
            cordon,
        } = &known.policy;
        if let Some(runner) = one {
            let idle = policy::is_idle(holds, budgets) && cordon.is_none();
            match runner.state() {
                State::Running | State::Frozen if !idle => tell(&shared, runner.id),
                // It has given back what it had reserved.
                State::Ended if !idle && !budgets.is_empty() => shared.policy.counted.notify_one(),
                _ => {}
            }
            continue;
        }
        let read = tokio::time::timeout(ANSWER_MAX, read(&shared, &mut seen)).await;
        let read = matches!(read, Ok(Ok(())));
        let pending = look(&shared);
        due = next(&shared, read, pending);
    }
}

/// Reads the policy if it has changed since, or a time in it has come.
async fn read(shared: &Shared, seen: &mut Option<u64>) -> Result<(), StoreError> {
    let host = &shared.settings.host;
    let known = shared.policy.known();
    let pulse = shared.store.pulse(host).await?;
    let Policy { holds, budgets, .. } = &known.policy;
    let passed = policy::next_change(holds, budgets, known.clock).is_some_and(|at| at <= pulse.now);
    let same = *seen == Some(pulse.policy) && !passed;
    let policy = match same {
        true => known.policy.clone(),
        false => {
            // What ended while nobody was there is in no policy that could be known.
            if !known.read || holds.iter().any(|h| !h.is_active(pulse.now)) {
                match shared.store.end_holds(now()).await {
                    Ok(events) => {
                        for event in events {
                            shared.publish(Some(event), None, None);
                        }
                    }
                    // They have ended all the same; somebody writes it down some day.
                    Err(error) => {
                        tracing::debug!(%error, "Holds that have ended stay in the store")
                    }
                }
            }
            let policy = shared.store.policy(host).await?;
            if let Err(error) = catch_up(shared, &policy).await {
                tracing::debug!(%error, "What was reported elsewhere of runners here is not known yet");
            }
            policy
        }
    };
    // A slot that was freed on another host is an event, too.
    shared.queue.news(pulse.policy, pulse.position, !same);
    let known = Known {
        policy,
        read: true,
        clock: pulse.now,
        at: Instant::now(),
    };
    let mut current = shared
        .policy
        .known
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    *current = Arc::new(known);
    drop(current);
    *seen = Some(pulse.policy);
    Ok(())
}

/// What was reported elsewhere of our runners, an operator may have done it, is heard where it matters: a budget is
/// promised to more than it has, so that each runner's own use decides.
async fn catch_up(shared: &Shared, policy: &Policy) -> Result<(), StoreError> {
    let torn = |b: &BudgetState| {
        let acts = b.budget.on_exhausted != OnExhausted::Deny;
        acts && b.taken() > b.budget.limit && !b.exhausted()
    };
    if shared.settings.sole_host || !policy.budgets.iter().any(torn) {
        return Ok(());
    }
    for row in shared.store.live(&shared.settings.host).await? {
        shared.read(|live| match live.get(&row.id) {
            Some(entry) if entry.runner.tokens != row.tokens => {
                let _ = entry.lane.send(Command::Used(row.tokens));
            }
            _ => {}
        });
    }
    Ok(())
}

/// Tells every lane whose runner is not as the policy wants it. Whether there is one.
fn look(shared: &Shared) -> bool {
    let all = shared.read(|live| {
        let all = live.values().map(|entry| Arc::clone(&entry.runner));
        all.collect::<Vec<_>>()
    });
    let mut pending = false;
    for runner in all {
        if shared.policy.verdict(&runner) != Verdict::GoOn {
            pending = true;
            tell(shared, runner.id);
        }
    }
    pending
}

/// When to look again.
fn next(shared: &Shared, read: bool, pending: bool) -> Option<Instant> {
    let known = shared.policy.known();
    let Policy {
        holds,
        budgets,
        cordon,
    } = &known.policy;
    let at = known.now();
    let drain = cordon.as_ref().and_then(|c| c.drain_until);
    let drain = drain.filter(|until| *until > at);
    let change = policy::next_change(holds, budgets, at);
    let change = change.into_iter().chain(drain).min().map(|next| {
        // The first moment of what comes next, and not the last of what was.
        let rest = next.0.saturating_sub(at.0).saturating_add(1_000);
        Duration::from_micros(rest).min(NAP)
    });
    let failed = (!read || pending).then_some(AGAIN);
    let pulse = (!shared.settings.sole_host).then_some(PULSE);
    let soonest = [change, failed, pulse].into_iter().flatten().min();
    soonest.map(|rest| Instant::now() + rest)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn tell(shared: &Shared, id: RunnerId) {
    shared.read(|live| {
        if let Some(entry) = live.get(&id) {
            let _ = entry.lane.send(Command::Look);
        }
    });
}

impl Lane {
    /// Does what the policy wants. What fails is tried again by [`follow`].
    ///
    /// A freeze is written first and done then: whoever takes over in between sees a runner that
    /// the policy froze, and not one that somebody froze.
    pub(super) async fn look(&mut self) {
        let verdict = self.shared.policy.verdict(&self.runner);
        if let Some((failed, _, until)) = &self.failed
            && *failed == verdict
            && Instant::now() < *until
        {
            return;
        }
        if verdict == Verdict::GoOn || !self.shared.health.borrow().agent || self.room().is_err() {
            return;
        }
        let id = self.runner.id;
        let done = match &verdict {
            Verdict::GoOn => Ok(()),
            Verdict::Freeze(by) => {
                let step = Step::Freeze(Some(by.clone()));
                self.step(step, Actor::host()).await;
                crash::point("policy.freeze");
                let done = self.shared.host.freeze(id).await;
                if done.is_err() {
                    self.step(Step::Thaw, Actor::host()).await;
                }
                done
            }
            Verdict::Keep(by) => {
                self.step(Step::Keep(Some(by.clone())), Actor::host()).await;
                Ok(())
            }
            Verdict::Thaw => {
                let done = self.shared.host.thaw(id).await;
                if done.is_ok() {
                    self.step(Step::Thaw, Actor::host()).await;
                }
                done
            }
            Verdict::Stop(_) | Verdict::Drain(_) => {
                let (actor, asked) = match &verdict {
                    Verdict::Drain(actor) => (actor.clone(), Asked::Stop),
                    _ => (Actor::host(), Asked::Budget),
                };
                self.step(Step::Stop, actor).await;
                crash::point("policy.stop");
                match self.shared.host.stop(id, asked).await {
                    // Recorded: the order is given again when the agent is back.
                    Err(HostError::Unavailable(_)) => Ok(()),
                    done => done,
                }
            }
        };
        let before = self.failed.take();
        if done.is_err() && matches!(verdict, Verdict::Freeze(_)) {
            let before = before.filter(|(failed, ..)| *failed == verdict);
            let pause = before.map_or(AGAIN, |(_, pause, _)| (pause * 2).min(AGAIN_MAX));
            self.failed = Some((verdict.clone(), pause, Instant::now() + pause));
        }
        let project = &self.runner.spec.project;
        match (done, &verdict) {
            (Ok(()), Verdict::Keep(by)) => {
                tracing::info!(message_id = kinds::POLICY_APPLIED.id, runner = %id, %project, by, "Runner stays frozen: {by}");
            }
            (Err(error), _) => {
                let error = host_error(error);
                tracing::warn!(message_id = kinds::ORDER_FAILED.id, runner = %id, %project, %error, "What a hold or budget wants of a runner could not be done yet");
            }
            (Ok(()), Verdict::Freeze(by)) => {
                tracing::info!(message_id = kinds::POLICY_APPLIED.id, runner = %id, %project, by, "Runner frozen: {by}");
            }
            (Ok(()), Verdict::Stop(by)) => {
                tracing::info!(message_id = kinds::POLICY_APPLIED.id, runner = %id, %project, by, "Runner stopped: {by}");
            }
            (Ok(()), Verdict::Drain(actor)) => {
                tracing::info!(message_id = kinds::HOST_DRAINED.id, runner = %id, %project, uid = actor.uid, user = actor.user, "Runner stopped: its host is drained");
            }
            (Ok(()), _) => {
                tracing::info!(message_id = kinds::POLICY_APPLIED.id, runner = %id, %project, "Runner thawed: what froze it is over");
            }
        }
    }
}

impl Lane {
    /// Why a stop was recorded that has to be ordered again: by the host itself it was for a budget. (Past its
    /// runtime limit, too; but then its shim was told first, and keeps to the first reason.)
    pub(super) async fn asked(&self) -> Asked {
        let filter = EventFilter {
            runner: Some(self.runner.id),
            kind: Some(EventType::RunnerStopping),
            newest: true,
            limit: 1,
            ..EventFilter::default()
        };
        let events = self.shared.store.events(filter).await;
        match events.unwrap_or_default().first() {
            Some(event) if event.draft.actor == Actor::host() => Asked::Budget,
            _ => Asked::Stop,
        }
    }
}
