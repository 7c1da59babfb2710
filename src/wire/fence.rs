//! The file that the agent shares with its shims: by when they stop their runners unless it says
//! otherwise by then. Each shim looks at it when its time is up and not before: a renewal costs one
//! write, however many runners there are, and one that was frozen finds what holds now.

use crate::domain::fence::Deadline;

/// A deadline, and when it was set; µs on CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Term {
    /// [`Deadline::stop_at`]; 0 = there is none.
    pub stop_at: u64,
    /// [`Deadline::gone_by`].
    pub gone_by: u64,
    /// When it was set.
    pub set_at: u64,
}

impl Term {
    /// Nobody stops.
    pub const OFF: Self = Self {
        stop_at: 0,
        gone_by: 0,
        set_at: 0,
    };

    /// Whether there is one, and it has passed.
    pub fn has_passed(&self, now: u64) -> bool {
        *self != Self::OFF && self.stop_at <= now
    }

    /// As it is told.
    pub fn deadline(&self) -> Option<Deadline> {
        (*self != Self::OFF).then_some(Deadline {
            stop_at: self.stop_at,
            gone_by: self.gone_by,
        })
    }
}

/// What stands in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fence {
    /// What is in force.
    pub now: Term,
    /// The last one that had passed when it was replaced. Whoever had that one or one before it has
    /// missed it, and stops.
    pub missed: Term,
}

impl Fence {
    /// Bytes of the file.
    pub const SIZE: usize = 56;

    /// What holds for one that looked last when this [`Term::stop_at`] was in force.
    pub fn after(&self, last: u64) -> Term {
        let missed = (1..=self.missed.stop_at).contains(&last);
        if missed { self.missed } else { self.now }
    }

    /// As it is written, in one write at the beginning of the file.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let numbers = self.numbers();
        let all = numbers.into_iter().chain([sum(&numbers)]);
        for (place, number) in bytes.chunks_exact_mut(8).zip(all) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// As it is read; `None` = it was being written meanwhile, or is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |n: usize| {
            let place = bytes.get(n * 8..n * 8 + 8)?;
            Some(u64::from_le_bytes(place.try_into().ok()?))
        };
        let term = |n| {
            Some(Term {
                stop_at: number(n)?,
                gone_by: number(n + 1)?,
                set_at: number(n + 2)?,
            })
        };
        let read = Self {
            now: term(0)?,
            missed: term(3)?,
        };
        (number(6)? == sum(&read.numbers())).then_some(read)
    }

    fn numbers(&self) -> [u64; 6] {
        let Self { now, missed } = self;
        [
            now.stop_at,
            now.gone_by,
            now.set_at,
            missed.stop_at,
            missed.gone_by,
            missed.set_at,
        ]
    }
}

/// Not 0 for a file of zeros.
fn sum(numbers: &[u64]) -> u64 {
    !numbers
        .iter()
        .fold(0, |sum, number| sum.rotate_left(17) ^ number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fence() -> impl Strategy<Value = Fence> {
        any::<[u64; 6]>().prop_map(|[a, b, c, d, e, f]| {
            let term = |stop_at, gone_by, set_at| Term {
                stop_at,
                gone_by,
                set_at,
            };
            Fence {
                now: term(a, b, c),
                missed: term(d, e, f),
            }
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_half_of_it_is_not(old in fence(), new in fence(), cut in 0..Fence::SIZE) {
            prop_assert_eq!(Fence::from_bytes(&new.to_bytes()), Some(new));
            prop_assert_eq!(Fence::from_bytes(new.to_bytes().get(..cut).unwrap_or(&[])), None);
            let mut mixed = old.to_bytes();
            mixed[..cut / 8 * 8].copy_from_slice(&new.to_bytes()[..cut / 8 * 8]);
            let read = Fence::from_bytes(&mixed);
            prop_assert!(read.is_none_or(|read| read == old || read == new), "{read:?}");
        }
    }

    #[test]
    fn who_has_missed_one_has_missed_it() {
        let term = |stop_at| Term {
            stop_at,
            ..Term::OFF
        };
        let (now, missed) = (term(30), term(20));
        let fence = Fence { now, missed };
        let found = [10, 20, 21, 30, 40].map(|last| fence.after(last));
        assert_eq!(found, [missed, missed, now, now, now]);
        assert_eq!(fence.after(0), now, "it has none");
        let off = Fence::default();
        assert_eq!(off.after(10), Term::OFF);
        assert!(now.has_passed(30) && !now.has_passed(29) && !Term::OFF.has_passed(30));
    }

    #[test]
    fn a_file_of_zeros_is_damaged() {
        assert_eq!(Fence::from_bytes(&[0; Fence::SIZE]), None);
        assert!(Fence::from_bytes(&Fence::default().to_bytes()).is_some());
    }
}
