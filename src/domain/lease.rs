//! A host's own lease, as far as the host knows: whether it may launch, what it may promise with
//! the next renewal, and by when its runners stop by themselves.
//!
//! Times are µs on CLOCK_BOOTTIME, and a span begins *before* its request is sent: so it ends here
//! before it ends in the store.
//!
//! The self-fence is promised to the store (`fenced_after`) only while every live runner keeps it,
//! and is taken from the runners only after the store has heard that nobody promises it any more:
//! joining never promises; then the runners are armed; the next renewal promises.

use super::fence::{Deadline, Fence};

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    ttl: u64,
    fence: Option<Fence>,
    joined: bool,
    /// The end of the lease.
    until: u64,
    /// By when the runners stop: of the last renewal that has succeeded.
    deadline: Option<Deadline>,
    /// Every live runner keeps it.
    armed: bool,
    /// Since when every request has succeeded.
    steady: Option<u64>,
}

impl Lease {
    /// Nothing is known of the store yet. `ttl` as in [`crate::domain::host::Host::lease_until`],
    /// `u64::MAX` = for ever; `fence` if runners are to stop by themselves.
    pub fn new(ttl: u64, fence: Option<Fence>) -> Self {
        Self {
            ttl,
            fence,
            joined: false,
            until: 0,
            deadline: None,
            armed: false,
            steady: None,
        }
    }

    /// Whether this host has an epoch, as far as it knows.
    pub fn is_joined(&self) -> bool {
        self.joined
    }

    /// Whether launches may be asked for: the lease holds, and what is launched would stop by itself
    /// if it has to.
    pub fn admits(&self, now: u64) -> bool {
        self.joined && now < self.until && (self.fence.is_none() || self.deadline.is_some())
    }

    /// How long it still holds.
    pub fn left(&self, now: u64) -> u64 {
        match self.joined {
            true => self.until.saturating_sub(now),
            false => 0,
        }
    }

    /// What the next renewal says: how long after it every runner is gone; `None` = nobody knows.
    pub fn promise(&self) -> Option<u64> {
        let fence = self.fence.filter(|_| self.joined && self.armed);
        fence.map(|fence| fence.fenced_after())
    }

    /// What the shims are to be told now: a deadline, or (`Some(None)`) that there is none. `None`:
    /// the store does not know yet that nothing is promised.
    pub fn order(&self) -> Option<Option<Deadline>> {
        match self.fence {
            Some(_) => self.deadline.map(Some),
            None => self.joined.then_some(None),
        }
    }

    /// The deadline that a runner launched now has to keep.
    pub fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// The host has joined, by a request sent after `before`. It has promised nothing.
    pub fn joins(&mut self, before: u64) {
        self.armed = false;
        self.joined = true;
        self.renews(before);
    }

    /// The lease was renewed, by a request sent after `before`.
    pub fn renews(&mut self, before: u64) {
        self.until = self.until.max(before.saturating_add(self.ttl));
        let deadline = self.fence.map(|fence| fence.deadline(before));
        self.deadline = self.deadline.max(deadline);
        self.steady.get_or_insert(before);
    }

    /// A request was not answered, or refused.
    pub fn fails(&mut self) {
        self.steady = None;
    }

    /// The epoch is over: others may have been given what this host held.
    pub fn is_fenced(&mut self) {
        self.joined = false;
        self.armed = false;
        self.until = 0;
        self.steady = None;
    }

    /// The shims were told; `kept`: every live runner keeps it. Whether there is something new to
    /// promise.
    pub fn shims(&mut self, kept: bool) -> bool {
        let armed = kept && self.fence.is_some();
        !std::mem::replace(&mut self.armed, armed) && armed
    }

    /// Whether this host may judge who is away: it has reached the store for so long without a miss
    /// that everybody else had the time to, too.
    pub fn may_tidy(&self, now: u64) -> bool {
        let since = |at: u64| now.saturating_sub(at) >= self.ttl;
        self.admits(now) && self.steady.is_some_and(since)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fence::SLACK;
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;
    const TTL: u64 = 10 * SECOND;

    fn fence() -> Fence {
        Fence::new(20 * SECOND, 60 * SECOND, TTL, 10 * SECOND).unwrap()
    }

    #[test]
    fn a_lease_is_counted_from_before_the_request() {
        let mut lease = Lease::new(TTL, Some(fence()));
        assert!(!lease.admits(0) && lease.order().is_none());
        lease.joins(SECOND);
        assert!(lease.admits(11 * SECOND - 1) && !lease.admits(11 * SECOND));
        assert_eq!(lease.promise(), None, "joining promises nothing");
        assert_eq!(lease.order(), Some(Some(fence().deadline(SECOND))));
        assert!(lease.shims(true) && !lease.shims(true));
        assert_eq!(lease.promise(), Some(60 * SECOND));
        // An answer that comes late takes nothing back.
        lease.renews(9 * SECOND);
        lease.renews(8 * SECOND);
        assert_eq!(
            (lease.left(9 * SECOND), lease.deadline()),
            (TTL, Some(fence().deadline(9 * SECOND)))
        );
        assert!(!lease.may_tidy(10 * SECOND) && lease.may_tidy(11 * SECOND));
        lease.fails();
        assert!(!lease.may_tidy(12 * SECOND) && lease.admits(12 * SECOND));
        lease.is_fenced();
        assert!(!lease.admits(12 * SECOND));
        assert_eq!((lease.promise(), lease.left(0)), (None, 0));
        // The shims go on: they were told of what holds.
        assert_eq!(lease.order(), Some(Some(fence().deadline(9 * SECOND))));
    }

    #[test]
    fn a_fence_that_is_not_wanted_is_taken_away_after_joining() {
        let mut lease = Lease::new(u64::MAX, None);
        assert_eq!(lease.order(), None);
        lease.joins(5);
        assert_eq!(lease.order(), Some(None));
        assert!(!lease.shims(true));
        assert_eq!(lease.promise(), None);
        assert!(lease.admits(u64::MAX - 1));
    }

    /// One host with its runners, agent and row; time goes on between all of them.
    struct World {
        now: u64,
        lease: Lease,
        /// What the agent's file says, and which runners look at it.
        file: Option<Deadline>,
        runners: Vec<Armed>,
        row: Row,
    }

    #[derive(Debug, Clone, Copy)]
    struct Armed {
        armed: bool,
        /// Its shim is of a release that can't be armed.
        old: bool,
        stop_timeout: u64,
        gone: Option<u64>,
        epoch: u64,
    }

    #[derive(Debug, Default)]
    struct Row {
        epoch: u64,
        renewed_at: u64,
        fenced_after: Option<u64>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Wait(u64),
        /// Joins or renews: how long the request and its answer travel; `None` = lost.
        Renew(Option<u64>, Option<u64>),
        /// The agent is told: it does not hear of it, or its answer is lost.
        Tell(Option<bool>),
        Launch(u64),
        /// The daemon starts again, and does (or does not) want a fence.
        Restart(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        let way = || proptest::option::weighted(0.85, 0..15 * SECOND);
        prop_oneof![
            2 => (0..40 * SECOND).prop_map(Event::Wait),
            5 => (way(), way()).prop_map(|(there, back)| Event::Renew(there, back)),
            5 => proptest::option::weighted(0.9, proptest::bool::weighted(0.9)).prop_map(Event::Tell),
            3 => (0..40 * SECOND).prop_map(Event::Launch),
            1 => any::<bool>().prop_map(Event::Restart),
        ]
    }

    impl World {
        /// One that is earlier, or has passed, changes nothing.
        fn set(&mut self, at: Deadline) {
            if at.stop_at > self.now {
                self.file = self.file.max(Some(at));
            }
        }

        /// Time goes on: runners stop at their deadline, and others take the slots as soon as they may.
        fn wait(&mut self, span: u64) -> Result<(), TestCaseError> {
            let end = self.now + span;
            if let Some(deadline) = self.file.filter(|at| at.stop_at <= end) {
                for runner in self.runners.iter_mut().filter(|r| r.armed) {
                    // A shim may come to it late, and starts to stop then.
                    let stopped = deadline.stop_at.max(self.now) + runner.stop_timeout;
                    let gone = stopped.min(deadline.gone_by.max(self.now)) + SLACK;
                    runner.gone = Some(runner.gone.unwrap_or(gone).min(gone));
                }
            }
            if let Some(after) = self.row.fenced_after
                && self.row.renewed_at + after <= end
            {
                let free = self.row.renewed_at + after;
                for runner in self.runners.iter().filter(|r| r.epoch == self.row.epoch) {
                    prop_assert!(
                        runner.gone.is_some_and(|gone| gone <= free),
                        "{runner:?} at {free}"
                    );
                }
                self.row = Row {
                    epoch: self.row.epoch + 1,
                    ..Row::default()
                };
            }
            self.now = end;
            let now = self.now;
            self.runners
                .retain(|r| r.gone.is_none_or(|gone| gone > now));
            Ok(())
        }

        fn happens(&mut self, event: Event, epoch: &mut u64) -> Result<(), TestCaseError> {
            match event {
                Event::Wait(span) => self.wait(span)?,
                Event::Restart(wanted) => {
                    self.lease = Lease::new(TTL, wanted.then(fence));
                    *epoch = 0;
                }
                Event::Renew(there, back) => {
                    let (before, joins, promise) =
                        (self.now, !self.lease.is_joined(), self.lease.promise());
                    let Some(there) = there else {
                        self.lease.fails();
                        return Ok(());
                    };
                    self.wait(there)?;
                    let fenced = !joins && self.row.epoch != *epoch;
                    if joins {
                        // Who joins takes over what was not given away.
                        let next = self.row.epoch + 1;
                        for runner in self
                            .runners
                            .iter_mut()
                            .filter(|r| r.epoch == self.row.epoch)
                        {
                            runner.epoch = next;
                        }
                        self.row = Row {
                            epoch: next,
                            renewed_at: self.now,
                            fenced_after: None,
                        };
                    } else if !fenced {
                        self.row.renewed_at = self.now;
                        self.row.fenced_after = promise;
                    }
                    let joined = self.row.epoch;
                    let Some(back) = back else {
                        self.lease.fails();
                        return Ok(());
                    };
                    self.wait(back)?;
                    match (joins, fenced) {
                        (true, _) => {
                            *epoch = joined;
                            self.lease.joins(before);
                        }
                        (_, true) => self.lease.is_fenced(),
                        (_, false) => self.lease.renews(before),
                    }
                }
                Event::Tell(heard) => {
                    let (Some(order), Some(answered)) = (self.lease.order(), heard) else {
                        return Ok(());
                    };
                    match order {
                        None => self.file = None,
                        Some(at) => {
                            self.set(at);
                            for runner in self.runners.iter_mut().filter(|r| !r.old) {
                                runner.armed = true;
                            }
                        }
                    }
                    self.wait(0)?;
                    if answered {
                        let longest = fence().longest_stop();
                        // The answer tells what is in force: one that has passed is not.
                        let told = order.is_some_and(|asked| {
                            self.file.is_some_and(|at| at.gone_by <= asked.gone_by)
                        });
                        let armed = |r: &Armed| r.armed && r.stop_timeout <= longest;
                        let kept = told && self.runners.iter().all(armed);
                        self.lease.shims(kept);
                    }
                }
                Event::Launch(stop_timeout) => {
                    // The store refuses an epoch that is over, the agent whoever is past the deadline.
                    let asks = self.lease.admits(self.now) && self.row.epoch == *epoch;
                    let deadline = self.lease.deadline();
                    let fits = deadline.is_none() || fence().check(stop_timeout).is_ok();
                    if !asks || !fits {
                        return Ok(());
                    }
                    if let Some(at) = deadline {
                        self.set(at);
                    }
                    if self.file.is_some_and(|at| at.stop_at <= self.now) {
                        return Ok(());
                    }
                    let armed = self.file.is_some();
                    self.runners.push(Armed {
                        armed,
                        old: false,
                        stop_timeout,
                        gone: None,
                        epoch: *epoch,
                    });
                }
            }
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        /// Whatever is lost or late, however often the daemon starts again, with the fence wanted or
        /// not: when others take a slot, its runner is gone.
        #[test]
        fn no_slot_is_given_away_that_is_used(
            wanted: bool, old in proptest::option::weighted(0.2, 0..40 * SECOND),
            events in proptest::collection::vec(event(), 1..60),
        ) {
            let first = old.map(|stop_timeout| Armed { armed: false, old: true, stop_timeout, gone: None, epoch: 0 });
            let mut world = World {
                now: 1_000 * SECOND,
                lease: Lease::new(TTL, wanted.then(fence)),
                file: None,
                runners: first.into_iter().collect(),
                row: Row::default(),
            };
            let mut epoch = 0;
            for event in events {
                world.happens(event, &mut epoch)?;
            }
            world.wait(1_000 * SECOND)?;
        }
    }
}
