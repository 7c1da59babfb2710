//! How much of a host one user may take up, so that the others have theirs.

use super::Shared;
use crate::domain::{Error, ErrorKind, RunnerSpec};

/// The most runners of one user that live on a host or wait for their turn there. What comes at the same moment may be
/// some dozens more: this keeps a host usable, quotas are what is exact.
pub const USER_RUNNERS_MAX: usize = 4_096;

impl Shared {
    /// Refuses one more runner of a user who has as many as one may have.
    pub(super) fn check_share(&self, spec: &RunnerSpec) -> Result<(), Error> {
        let live = self.read(|live| {
            let theirs = live.values().filter(|e| e.runner.spec.uid == spec.uid);
            theirs.count()
        });
        let waiting = self
            .queue
            .ids()
            .values()
            .filter(|uid| **uid == spec.uid)
            .count();
        if live + waiting < USER_RUNNERS_MAX {
            return Ok(());
        }
        let message = format!(
            "{} (uid {}) has {live} live runners on this host and {waiting} that wait, and {USER_RUNNERS_MAX} is the most of one user; stop some, or wait until some have ended.",
            spec.user, spec.uid
        );
        Err(Error::new(ErrorKind::QuotaExceeded, message))
    }
}
