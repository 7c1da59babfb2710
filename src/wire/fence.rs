//! The file that the agent shares with its shims: by when they stop their runners unless it says
//! otherwise by then. Each shim looks at it when its time is up and not before: a renewal costs one
//! write, however many runners there are, and one that was frozen finds what holds now.

/// What stands in the file. An empty one says the same as [`Fence::OFF`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fence {
    /// The deadline, µs on CLOCK_BOOTTIME; 0 = there is none.
    pub deadline: u64,
    /// When it was set, on the same clock.
    pub set_at: u64,
}

impl Fence {
    /// Bytes of the file.
    pub const SIZE: usize = 24;
    /// Nobody stops.
    pub const OFF: Self = Self {
        deadline: 0,
        set_at: 0,
    };

    /// As it is written, in one write at the beginning of the file.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let numbers = [self.deadline, self.set_at, self.sum()];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// As it is read; `None` = it was being written meanwhile (or is damaged): read again.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::OFF);
        }
        let number = |n: usize| {
            let place = bytes.get(n * 8..n * 8 + 8)?;
            Some(u64::from_le_bytes(place.try_into().ok()?))
        };
        let read = Self {
            deadline: number(0)?,
            set_at: number(1)?,
        };
        (number(2)? == read.sum()).then_some(read)
    }

    fn sum(self) -> u64 {
        !(self.deadline.rotate_left(17) ^ self.set_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_and_half_of_it_is_not(a: u64, b: u64, c: u64, d: u64, cut in 0usize..Fence::SIZE) {
            let (old, new) = (Fence { deadline: a, set_at: b }, Fence { deadline: c, set_at: d });
            prop_assert_eq!(Fence::from_bytes(&new.to_bytes()), Some(new));
            prop_assert_eq!(Fence::from_bytes(new.to_bytes().get(..cut).unwrap_or(&[])).is_some(), cut == 0);
            let mut mixed = old.to_bytes();
            mixed[..cut / 8 * 8].copy_from_slice(&new.to_bytes()[..cut / 8 * 8]);
            let read = Fence::from_bytes(&mixed);
            prop_assert!(read.is_none_or(|read| read == old || read == new), "{read:?}");
        }
    }
}
