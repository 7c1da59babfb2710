//! Times in µs.

use rustix::event::Timespec;
use rustix::time::{ClockId, clock_gettime};

pub(super) fn monotonic() -> u64 {
    usec(clock_gettime(ClockId::Monotonic))
}

pub(super) fn realtime() -> u64 {
    usec(clock_gettime(ClockId::Realtime))
}

fn usec(time: Timespec) -> u64 {
    (time.tv_sec as u64)
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec as u64 / 1_000)
}

/// Rounded up, so that what is due is due when we wake.
pub(super) fn timespec(usec: u64) -> Timespec {
    let usec = usec.min(86_400_000_000).saturating_add(1);
    Timespec {
        tv_sec: (usec / 1_000_000) as i64,
        tv_nsec: (usec % 1_000_000 * 1_000) as _,
    }
}
