//! How long to wait before the next attempt: longer each time, up to a cap, and never two hosts in step.

use std::time::Duration;

/// Pauses that double, with jitter: each is drawn from the upper half of what it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// From `first` up to `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            next: first,
        }
    }

    /// The next pause; `random` is any number.
    pub fn pause(&mut self, random: u64) -> Duration {
        let whole = self.next.min(self.cap);
        self.next = whole.saturating_mul(2).min(self.cap);
        let half = whole / 2;
        let usec = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(random % usec.saturating_add(1).max(1))
    }

    /// An attempt has succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pauses_grow_to_the_cap_and_stay_there(randoms in prop::collection::vec(any::<u64>(), 1..40)) {
            let (first, cap) = (Duration::from_millis(100), Duration::from_secs(30));
            let mut backoff = Backoff::new(first, cap);
            let mut whole = first;
            for random in randoms {
                let pause = backoff.pause(random);
                prop_assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
                whole = (whole * 2).min(cap);
            }
            backoff.reset();
            prop_assert!(backoff.pause(7) <= first);
        }
    }
}
