//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Polls until `condition` holds. Panics with `what` when it does not in time.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || {
        if condition() {
            Ok(())
        } else {
            Err(String::new())
        }
    });
}

/// Polls until `attempt` gives a value, and returns it. Panics with `what` and the last error when it does not in time.
#[track_caller]
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(2);
    let mut tries = 0;
    loop {
        tries += 1;
        let last = match attempt() {
            Ok(value) => return value,
            Err(why) => why,
        };
        let passed = begun.elapsed();
        if passed >= limit {
            let last = if last.is_empty() {
                String::new()
            } else {
                format!("; last: {last}")
            };
            panic!(
                "waited {:.1} s in vain for: {what} ({tries} tries{last})",
                passed.as_secs_f64()
            );
        }
        std::thread::sleep(pause.min(limit - passed));
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
