//! The self-fence: by when the runners of a silent host have stopped by themselves, so that its
//! peers may give their slots to others. Times are µs.
//!
//! ```text
//! this host, CLOCK_BOOTTIME   read ───────── D ─────────► stop_at ── stop timeout ──► gone_by
//! the store's clock             └─► lease renewed ────────────────── L ─────────────────────► free
//! ```
//! D is `fleet.stop_on_disconnect_after`, L is `fleet.lost_after`. The two clocks are never compared:
//! the span of one begins before the span of the other does, and is shorter by a margin. Whoever has
//! not ended at `gone_by` is killed then, however much of the stop a suspended or busy host has missed.

use super::units::show_span;
use super::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// By when the runners of a host stop by themselves, in µs on CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Deadline {
    /// Their stop begins.
    pub stop_at: u64,
    /// Whoever is left is killed.
    pub gone_by: u64,
}

/// What may be missed of `gone_by`: a shim must wake, and a killed tree go away.
pub const SLACK: u64 = 5_000_000;
/// How long the agent may be away for a while, µs: a watchdog that fires (30 s), a slow restart.
const AGENT_AWAY: u64 = 60_000_000;
/// The farthest deadline: 30 days.
pub const MOST: u64 = 30 * 86_400_000_000;

/// The self-fence of a host, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    stop_after: u64,
    lost_after: u64,
}

/// How much earlier than `lost_after` everything must be over: [`SLACK`], and 1 ‰ for clocks that
/// go at different rates.
fn margin(lost_after: u64) -> u64 {
    lost_after.div_ceil(1_000).saturating_add(SLACK)
}

impl Fence {
    /// `fleet.stop_on_disconnect_after`, `fleet.lost_after` and `fleet.lease_ttl`, and the stop
    /// timeout of a runner that asks for none. `InvalidArgument` if they can't be kept together.
    pub fn new(
        stop_after: u64,
        lost_after: u64,
        lease_ttl: u64,
        stop_timeout: u64,
    ) -> Result<Self, Error> {
        let key = format!("fleet.stop_on_disconnect_after = {}", show_span(stop_after));
        if stop_after < lease_ttl {
            return Err(Error::invalid(format!(
                "{key} is shorter than fleet.lease_ttl = {}: a store that is slow for a moment would stop every runner; make it at least as long.",
                show_span(lease_ttl)
            )));
        }
        if lost_after > MOST {
            return Err(Error::invalid(format!(
                "With {key}, fleet.lost_after = {} is too long; the most is {}.",
                show_span(lost_after),
                show_span(MOST)
            )));
        }
        let fence = Self {
            stop_after,
            lost_after,
        };
        match fence.room() {
            Some(room) if stop_timeout <= room => Ok(fence),
            _ => Err(Error::invalid(format!(
                "{key} leaves too little time before fleet.lost_after = {}: stop-timeout = {} and a margin of {} must fit in between; shorten it, or make fleet.lost_after longer.",
                show_span(lost_after),
                show_span(stop_timeout),
                show_span(margin(lost_after))
            ))),
        }
    }

    /// What an administrator should know who has set it so: only the agent can give running work more time.
    pub fn doubt(&self) -> Option<String> {
        (self.stop_after < AGENT_AWAY).then(|| {
            format!(
                "fleet.stop_on_disconnect_after = {} is short: a stratavore-agent that is away for so long, as it may be when it hangs or restarts slowly, stops all running work of this host as well; make it {} or longer.",
                show_span(self.stop_after),
                show_span(AGENT_AWAY)
            )
        })
    }

    /// The longest stop timeout that still ends in time.
    pub fn longest_stop(&self) -> u64 {
        self.room().unwrap_or(0)
    }

    fn room(&self) -> Option<u64> {
        let used = self.stop_after.checked_add(margin(self.lost_after))?;
        self.lost_after.checked_sub(used)
    }

    /// `LimitsExceeded` if a runner with this stop timeout could outlive its slot: it is neither
    /// launched so nor given such a timeout later.
    pub fn check(&self, stop_timeout: u64) -> Result<(), Error> {
        let most = self.longest_stop();
        if stop_timeout <= most {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::LimitsExceeded,
            format!(
                "stop-timeout={} is too long here: with fleet.stop_on_disconnect_after = {} and fleet.lost_after = {} a runner must be gone within {} of its stop; ask for no more than that.",
                show_span(stop_timeout),
                show_span(self.stop_after),
                show_span(self.lost_after),
                show_span(most)
            ),
        ))
    }

    /// When runners stop by themselves; `before` is what CLOCK_BOOTTIME said before the renewal of
    /// the lease was sent that has succeeded.
    pub fn deadline(&self, before: u64) -> Deadline {
        let span = self.lost_after.saturating_sub(margin(self.lost_after));
        Deadline {
            stop_at: before.saturating_add(self.stop_after),
            gone_by: before.saturating_add(span),
        }
    }

    /// How long after the last renewal of its lease every runner of this host is gone, on the
    /// store's clock, if all shims were armed: for [`super::host::Host::fenced_after`].
    pub fn fenced_after(&self) -> u64 {
        self.lost_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_cannot_be_kept_is_refused_with_both_values() {
        let new = |d, l, ttl, stop| Fence::new(d * SECOND, l * SECOND, ttl * SECOND, stop * SECOND);
        let fence = new(300, 600, 60, 10).unwrap();
        assert_eq!(fence.longest_stop(), 294_400_000);
        assert_eq!(fence.check(294_400_000), Ok(()));
        assert_eq!(fence.doubt(), None);
        let short = new(59, 600, 10, 10).unwrap().doubt().unwrap();
        assert!(
            short.contains("_after = 59s") && short.contains("1min"),
            "{short}"
        );
        assert_eq!(new(60, 600, 60, 10).unwrap().doubt(), None);
        let refused = fence.check(294_400_001).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::LimitsExceeded);
        for (refused, words) in [
            (refused, ["stop-timeout=", "lost_after = 10min"]),
            (
                new(590, 600, 60, 10).unwrap_err(),
                ["_after = 9min 50s", "lost_after = 10min"],
            ),
            (
                new(600, 600, 60, 0).unwrap_err(),
                ["_after = 10min", "stop-timeout = 0"],
            ),
            (
                new(30, 600, 60, 10).unwrap_err(),
                ["_after = 30s", "lease_ttl = 1min"],
            ),
            (
                new(60, 2_700_000, 60, 10).unwrap_err(),
                ["_after = 1min", "the most is 4w 2d"],
            ),
        ] {
            assert!(
                words.iter().all(|w| refused.message.contains(w)),
                "{refused}"
            );
        }
        assert!(Fence::new(u64::MAX, u64::MAX, 0, 0).is_err());
    }

    /// One renewal: when it is begun after the one before, how long the request and its answer
    /// travel (`None` = lost), and how long the deadline then takes to the shims.
    type Renewal = (u64, Option<u64>, Option<u64>, Option<u64>);

    fn renewal() -> impl Strategy<Value = Renewal> {
        let way = || proptest::option::weighted(0.8, 0..40 * SECOND);
        (0..120 * SECOND, way(), way(), way())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        /// Whatever is late or lost, and whatever clocks say: when peers take a slot, its runner
        /// is gone.
        #[test]
        fn a_slot_is_never_used_twice(
            (stop_after, lost_after, stop_timeout) in (0..600 * SECOND, 0..900 * SECOND, 0..120 * SECOND),
            renewals in proptest::collection::vec(renewal(), 1..12),
            (boot, epoch, permille) in (0..10_000 * SECOND, 0..10_000 * SECOND, -1_000_000i64..=1_000_000),
            (launched, late, missed) in (0..600 * SECOND, 0..=SLACK, 0..4_000 * SECOND),
        ) {
            let Ok(fence) = Fence::new(stop_after, lost_after, 0, stop_timeout) else { return Ok(()) };
            // True time is this host's; the store's clock goes up to 1 ‰ faster or slower.
            let store = |at: u64| epoch + (i128::from(at) * i128::from(1_000_000_000 + permille) / 1_000_000_000) as u64;
            let (mut now, mut leases, mut answers, mut orders) = (0, Vec::new(), Vec::new(), Vec::new());
            for (gap, there, back, down) in renewals {
                now += gap;
                let deadline = fence.deadline(boot + now);
                let deadline = Deadline { stop_at: deadline.stop_at - boot, gone_by: deadline.gone_by - boot };
                let Some(there) = there else { continue };
                leases.push(now + there);
                let Some(back) = back else { continue };
                answers.push((now + there + back, deadline));
                let Some(down) = down else { continue };
                orders.push((now + there + back + down, deadline));
            }
            leases.sort_unstable();
            orders.sort_unstable();
            // It is launched with the deadline that the daemon knows, which only goes forward.
            let known = answers.iter().filter(|(at, _)| *at <= launched).map(|(_, d)| *d).max();
            // Past its deadline a host launches nothing.
            let Some(mut deadline) = known.filter(|deadline| launched < deadline.stop_at) else { return Ok(()) };
            for (at, next) in orders {
                if at >= launched && at < deadline.stop_at {
                    deadline = deadline.max(next);
                }
            }
            // Its stop begins late, is suspended with the host or takes no end: then it is killed.
            let gone = deadline.gone_by.min(deadline.stop_at + stop_timeout.saturating_add(missed)) + late;
            prop_assert!(deadline.stop_at + stop_timeout <= deadline.gone_by);
            // The host is given up at the first moment when its lease is that old.
            let mut free = u64::MAX;
            for (n, at) in leases.iter().enumerate() {
                let next = leases.get(n + 1).copied().unwrap_or(u64::MAX / 4);
                if store(next) >= store(*at) + fence.fenced_after() {
                    free = store(*at) + fence.fenced_after();
                    break;
                }
            }
            // A host that is given up admits no launch.
            if store(launched) < free {
                prop_assert!(store(gone) <= free, "gone {} free {}", store(gone), free);
            }
        }
    }
}
