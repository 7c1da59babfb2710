//! CLOCK_BOOTTIME, which goes on while the host is suspended and is never set: µs since boot, and a
//! timer on it.

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;

/// Now.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs().saturating_mul(1_000_000) + now.tv_nsec.unsigned_abs() / 1_000
}

/// A timer that is not set: close-on-exec, never blocking, readable once its time has come.
pub fn timer() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    Ok(timerfd_create(TimerfdClockId::Boottime, flags)?)
}

/// Sets a timer to this time, which may have passed; 0 = never.
pub fn set(timer: &OwnedFd, at: u64) -> io::Result<()> {
    let time = |sec: u64, nsec: u64| Timespec {
        tv_sec: i64::try_from(sec).unwrap_or(i64::MAX),
        tv_nsec: nsec as _,
    };
    let time = Itimerspec {
        it_interval: time(0, 0),
        it_value: time(at / 1_000_000, at % 1_000_000 * 1_000),
    };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &time)?;
    Ok(())
}
