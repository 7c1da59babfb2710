//! What has to be done now and then: looking after the store, throwing away what is too old.

use super::{Shared, now};
use crate::ports::StoreError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a store that is well is asked whether it can be written: a question is a write.
const CHECK: Duration = Duration::from_secs(60);
/// How often one that is away is asked whether it is back.
const CHECK_AWAY: Duration = Duration::from_secs(2);
/// An answer later than this is none.
const CHECK_MAX: Duration = Duration::from_secs(5);
/// How often old rows are looked for.
const PRUNE: Duration = Duration::from_secs(600);
/// How many rows go at a time, so that a launch never waits long behind it.
const PRUNE_BATCH: u32 = 500;

/// Keeps [`super::Health::store`] true. A store that hangs is as good as none; the question is
/// left to finish by itself, as nothing at the store may be cancelled half-way.
pub(super) async fn watch_store(shared: Arc<Shared>) {
    let mut health = shared.health.subscribe();
    loop {
        let pause = if health.borrow_and_update().store.is_some() {
            CHECK_AWAY
        } else {
            CHECK
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Somebody found it away, or back: from then on its own pace.
            _ = health.changed() => continue,
        }
        let store = Arc::clone(&shared.store);
        let mut asked = tokio::spawn(async move { store.check().await });
        let problem = match tokio::time::timeout(CHECK_MAX, &mut asked).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(StoreError::Unavailable(why)))) => Some(why),
            Ok(Ok(Err(StoreError::Refused(error)))) => Some(error.message),
            Ok(Err(_)) => Some("its task ended".to_owned()),
            Err(_) => {
                shared.note_store(Some("it hangs".to_owned()));
                let _ = asked.await;
                continue;
            }
        };
        shared.note_store(problem);
    }
}

/// Removes ended runners, request ids and events past the retention.
pub(super) async fn prune(shared: Arc<Shared>) {
    let retention = u64::try_from(shared.settings.retention.as_micros()).unwrap_or(u64::MAX);
    let mut tick = tokio::time::interval(PRUNE);
    loop {
        tick.tick().await;
        while !shared.closing.load(Ordering::SeqCst) {
            match shared
                .store
                .prune(now().minus_usec(retention), PRUNE_BATCH)
                .await
            {
                Ok(pruned) if pruned.runners == 0 && pruned.events == 0 => break,
                Ok(pruned) => tracing::debug!(pruned.runners, pruned.events, "Old rows removed"),
                Err(error) => {
                    tracing::debug!(%error, "Old rows stay for now");
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
    }
}
