//! What store and agent answer, as callers get it.

use crate::domain::{Error, ErrorKind};
use crate::ports::{HostError, StoreError};

/// A store's answer as the caller gets it.
pub(super) fn store_error(error: StoreError) -> Error {
    match error {
        StoreError::Refused(error) => error,
        StoreError::Fenced => Error::new(
            ErrorKind::StoreUnavailable,
            "This host was given up by its fleet and joins it again. Nothing was changed; running work goes on. Try again in a moment.",
        ),
        error => Error::new(
            ErrorKind::StoreUnavailable,
            format!(
                "The store does not answer ({}). Nothing was changed; running work goes on. See: journalctl -u stratavored.",
                error.why()
            ),
        ),
    }
}

/// The agent's answer as the caller gets it.
pub(super) fn host_error(error: HostError) -> Error {
    match error {
        HostError::Refused(error) => error,
        HostError::Unavailable(why) => Error::new(
            ErrorKind::HostUnavailable,
            format!(
                "The agent of this host does not answer ({why}). See: systemctl status stratavore-agent."
            ),
        ),
    }
}
