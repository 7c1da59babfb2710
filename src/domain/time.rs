//! Points in time as the bus, the store and JSON carry them.

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01 UTC (CLOCK_REALTIME), systemd's `usec_t`; 0 = not set.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// 0 is "not set" on the bus and `None` here.
    pub fn set(self) -> Option<Self> {
        (self.0 != 0).then_some(self)
    }

    /// This moment moved by some microseconds, stopping at the ends of the range.
    pub fn plus_usec(self, usec: u64) -> Self {
        Self(self.0.saturating_add(usec))
    }

    /// This moment moved back by some microseconds, not before 0.
    pub fn minus_usec(self, usec: u64) -> Self {
        Self(self.0.saturating_sub(usec))
    }

    /// For sentences: `2026-11-22 10:00:00 UTC`.
    pub fn shown(self) -> String {
        let at = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_microsecond(at) {
            Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            Err(_) => "the end of time".to_owned(),
        }
    }
}
