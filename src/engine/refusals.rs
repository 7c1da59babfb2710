//! Refusals, bounded: a storm of them must not fill the audit.
//!
//! Of the same whom and what at most one is written down in a second. Those that follow are counted in the next one; a
//! count that nothing follows is lost, with the process or when thousands of others are refused.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two that are written down.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many are told apart.
const KEPT_MAX: usize = 4_096;

/// What was refused lately, by whom and what it was refused: when it was written down last, and how many have
/// followed.
#[derive(Debug)]
pub struct Refusals<K>(Mutex<HashMap<K, (Instant, u64)>>);

impl<K> Default for Refusals<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Refusals<K> {
    /// How many refusals the one to be written stands for; `None` = it is counted.
    pub fn count(&self, what: K, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT_MAX && !all.contains_key(&what) {
            all.retain(|_, (at, _)| now.duration_since(*at) < INTERVAL);
            if all.len() >= KEPT_MAX {
                all.clear();
            }
        }
        match all.get_mut(&what) {
            Some((at, unsaid)) if now.duration_since(*at) < INTERVAL => {
                *unsaid += 1;
                None
            }
            found => {
                let unsaid = found.map_or(0, |(_, unsaid)| *unsaid);
                all.insert(what, (now, 0));
                Some(unsaid + 1)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_refusals_is_a_line_a_second() {
        let refusals = Refusals::default();
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut written = 0;
        for ms in 0..3_500 {
            written += u64::from(refusals.count((1000, "a"), at(ms)).is_some());
        }
        assert_eq!(written, 4);
        assert_eq!(refusals.count((1000, "a"), at(5_000)), Some(500));
        assert_eq!(refusals.count((1001, "a"), at(5_000)), Some(1));
        assert_eq!(refusals.count((1000, "b"), at(5_000)), Some(1));
        for uid in 0..20_000 {
            refusals.count((uid, "a"), at(9_000));
        }
        assert!(refusals.0.lock().unwrap().len() <= KEPT_MAX);
    }
}
