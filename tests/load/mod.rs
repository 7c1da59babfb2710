//! What a machine keeps that is not busy, on one that is.

use std::time::Duration;

/// A time that is kept on a machine that is not busy, on this one as it is now: where more want to run than can, all takes so
/// much longer.
pub(crate) fn within(time: Duration) -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").expect("/proc/loadavg");
    let load = load.split(' ').next().and_then(|load| load.parse().ok());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    time.mul_f64((load.unwrap_or(0.0) / cpus as f64).max(1.0))
}
