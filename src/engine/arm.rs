//! The self-fence, carried out: the shims are told by when they stop their runners, after each
//! renewal of the lease, and a runner that would not keep it is refused or spoils the promise.

use super::lease::Known;
use super::{Engine, Shared};
use crate::crash;
use crate::domain::kinds;
use crate::domain::units::show_span;
use crate::domain::{Error, Limits, RunnerId, Timestamp};
use crate::ports::HostError;
use std::sync::Arc;

/// Passes on to the shims by when they stop their runners, or that they do not, for ever.
pub(super) async fn arm(shared: Arc<Shared>) {
    let own = &shared.lease;
    loop {
        own.told.notified().await;
        let (order, off) = own.with(|known| (known.lease.order(), known.off));
        let Some(order) = order.filter(|order| order.is_some() || !off) else {
            continue;
        };
        if !shared.health.borrow().agent {
            // It is told when it is there.
            continue;
        }
        if order.is_some() && own.adopted_before() && !shared.health.borrow().adopted {
            // It had been given up: what the store has ended gets no more time. It is told after that.
            continue;
        }
        let epoch = own.epoch();
        match order {
            Some(_) => crash::point("lease.before-arm"),
            None => crash::point("lease.before-disarm"),
        }
        let kept = match shared.host.fence(order).await {
            Ok(fenced) => match shared.unkept(&fenced.unarmed) {
                Some(why) => Err(why),
                None if order.is_none_or(|asked| fenced.keeps(asked)) => Ok(()),
                None => Err("a later deadline that was set before is still in force".to_owned()),
            },
            // Whoever was armed still is; nobody is launched who is not.
            Err(HostError::Unavailable(_)) => continue,
            // An agent that knows of no fence has none.
            Err(HostError::Refused(_)) if order.is_none() => continue,
            Err(HostError::Refused(error)) => Err(error.message),
        };
        own.with(|known| known.passed_on = order);
        if order.is_none() {
            own.with(|known| known.off = true);
            continue;
        }
        let adopted = shared.health.borrow().adopted;
        let (news, said) = own.with(|known| {
            let why = kept.as_ref().err().cloned().unwrap_or_default();
            let said = known.unkept != why;
            known.unkept.clone_from(&why);
            // Before it is known what runs, nothing is promised of it.
            (
                // And of an epoch that is over meanwhile nothing is known.
                known.lease.shims(
                    kept.is_ok() && adopted && known.writer.as_ref().map(|w| w.epoch) == epoch,
                ),
                said.then_some(why),
            )
        });
        match said.as_deref() {
            None | Some("") => {}
            Some(why) => {
                tracing::warn!(
                    message_id = kinds::FENCE_NOT_KEPT.id,
                    "Not every runner would stop by itself: {why}"
                );
            }
        }
        if news {
            crash::point("lease.armed");
            own.hurry.notify_one();
        }
    }
}

/// This host's place in its fleet, as it knows it without asking anybody. Spans are in µs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// Its epoch; `None` = it has not joined, or was given up.
    pub epoch: Option<u64>,
    /// When it joined, on the store's clock.
    pub joined_at: Option<Timestamp>,
    /// How long its lease still holds.
    pub lease_left: u64,
    /// How its self-fence stands.
    pub fence: FenceState,
    /// After how long its runners stop by themselves, unless store and agent are reached before; `None` = never.
    pub stops_in: Option<u64>,
}

/// How a host's self-fence stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceState {
    /// `fleet.stop_on_disconnect_after` is not set.
    Off,
    /// Every runner stops by itself in time, and the fleet is promised so.
    Armed,
    /// Not everybody would, so that nothing is promised; why, as far as that is known.
    NotArmed(String),
}

impl Engine {
    /// This host's place in its fleet; `None` = there is no fleet.
    pub fn lease_state(&self) -> Option<LeaseState> {
        let shared = &self.0;
        let now = shared.settings.fleet.machine.boottime();
        let state = |known: &mut Known| LeaseState {
            epoch: known.writer.as_ref().map(|w| w.epoch),
            joined_at: known.joined_at.filter(|_| known.writer.is_some()),
            lease_left: known.lease.left(now),
            fence: match (shared.settings.fleet.fence, known.lease.promise()) {
                (None, _) => FenceState::Off,
                (Some(_), Some(_)) => FenceState::Armed,
                (Some(_), None) => FenceState::NotArmed(known.unkept.clone()),
            },
            stops_in: known.passed_on.map(|d| d.stop_at.saturating_sub(now)),
        };
        (!shared.settings.sole_host).then(|| shared.lease.with(state))
    }
}

impl Shared {
    /// What the agent's absence does to running work.
    pub(super) fn without_agent(&self) -> String {
        let now = self.settings.fleet.machine.boottime();
        match self.lease.with(|known| known.passed_on) {
            None => "running work goes on".to_owned(),
            Some(deadline) => format!(
                "running work stops by itself in {} unless it is back before (fleet.stop_on_disconnect_after)",
                show_span(deadline.stop_at.saturating_sub(now) / 1_000_000 * 1_000_000)
            ),
        }
    }

    /// Refuses limits with which a runner would outlive its slot.
    pub(super) fn check_fence(&self, limits: &Limits) -> Result<(), Error> {
        let fence = self.settings.fleet.fence;
        match fence.filter(|_| !self.settings.sole_host) {
            Some(fence) => fence.check(limits.stop_timeout_usec()),
            None => Ok(()),
        }
    }

    /// Who would outlive the deadline, and why.
    fn unkept(&self, unarmed: &[RunnerId]) -> Option<String> {
        let fence = self.settings.fleet.fence?;
        if let [first, rest @ ..] = unarmed {
            let more = match rest.len() {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            return Some(format!(
                "the shim of runner {first}{more} is frozen, gone, of an earlier release or does not answer"
            ));
        }
        self.read(|live| {
            live.values().find_map(|entry| {
                let refused = fence
                    .check(entry.runner.spec.limits.stop_timeout_usec())
                    .err()?;
                Some(format!("runner {}: {}", entry.runner.id, refused.message))
            })
        })
    }
}
