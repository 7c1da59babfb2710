//! What store and agent answer, as callers get it.

use crate::domain::{Error, ErrorKind, RunnerId};
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

/// A stop is under way.
pub(super) fn closing() -> Error {
    Error::new(
        ErrorKind::HostUnavailable,
        "stratavored is being stopped and launches nothing more; try again when it is back.",
    )
}

/// That something was asked for, and the store does not tell what came of it: it is not so that nothing was changed.
pub(super) fn unseen(on_its_way: &str, id: RunnerId, error: StoreError) -> Error {
    let why = error.why();
    Error {
        message: format!(
            "{on_its_way}, and what came of it can't be seen: {}. When the store answers again, see: stratavorectl show {id}.",
            why.trim_end_matches('.')
        ),
        ..store_error(error)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_may_have_changed_something() {
        let id = RunnerId::from_uuid(uuid::Uuid::nil());
        for lost in [
            StoreError::Unavailable("no answer within 5 s".to_owned()),
            StoreError::Fenced,
        ] {
            let why = lost.why();
            let error = unseen("It is on its way", id, lost);
            assert_eq!(error.kind, ErrorKind::StoreUnavailable);
            let text = error.message;
            assert!(
                text.starts_with("It is on its way, and") && text.contains(&why),
                "{text}"
            );
            assert!(!text.contains("Nothing was changed"), "{text}");
        }
    }
}
