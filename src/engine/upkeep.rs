//! What has to be done now and then: looking after the store, throwing away what is too old.

use super::{Loop, Shared};
use crate::domain::{Timestamp, kinds};
use crate::ports::StoreError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often the loop comes round.
const TURN: Duration = Duration::from_millis(500);
/// How often a store that is well is asked whether it can be written: a question is a write.
const CHECK: Duration = Duration::from_secs(60);
/// How often one that is away is asked whether it is back.
const CHECK_AWAY: Duration = Duration::from_secs(2);
/// An answer later than this is none.
const CHECK_MAX: Duration = Duration::from_secs(5);
/// How often old rows are looked for.
const PRUNE: Duration = Duration::from_secs(600);
/// How often log files are looked for whose rows are gone.
const SWEEP: Duration = Duration::from_secs(24 * 3600);
/// How many rows go at a time, so that a launch never waits long behind it.
const PRUNE_BATCH: u32 = 500;

/// Keeps [`super::Health::store`] true. A store that hangs is as good as none; the question is
/// left to finish by itself, as nothing at the store may be cancelled half-way, and this loop
/// goes on, which is what the watchdog looks at.
pub(super) async fn watch_store(shared: Arc<Shared>) {
    let mut turn = tokio::time::interval(TURN);
    let mut asked: Option<(Instant, JoinHandle<Result<(), StoreError>>)> = None;
    let mut epoch = None;
    let mut answered = Instant::now();
    loop {
        turn.tick().await;
        shared.note_progress(Loop::Store);
        match &mut asked {
            Some((_, question)) if question.is_finished() => {
                let problem = match question.await {
                    Ok(Ok(())) => None,
                    // It answers.
                    Ok(Err(StoreError::Fenced)) => {
                        shared.fenced(epoch);
                        None
                    }
                    Ok(Err(error)) => Some(error.why()),
                    Err(_) => Some("its task ended".to_owned()),
                };
                shared.note_store(problem);
                asked = None;
                answered = Instant::now();
            }
            Some((since, _)) if since.elapsed() > CHECK_MAX => {
                shared.note_store(Some("it hangs".to_owned()));
            }
            Some(_) => {}
            None => {
                let away = shared.health.borrow().store.is_some();
                if answered.elapsed() >= if away { CHECK_AWAY } else { CHECK } {
                    let store = Arc::clone(&shared.store);
                    epoch = shared.lease.epoch();
                    let question = tokio::spawn(async move { store.check().await });
                    asked = Some((Instant::now(), question));
                }
            }
        }
    }
}

/// Removes ended runners, request ids and events past the retention, and log files of runners that are not in the store.
pub(super) async fn prune(shared: Arc<Shared>) {
    let mut swept: Option<Instant> = None;
    // Not at once: a clock that is wrong at boot has time to be set.
    let mut tick = tokio::time::interval_at(Instant::now() + PRUNE, PRUNE);
    loop {
        tick.tick().await;
        let retention = u64::try_from(shared.terms().retention.as_micros()).unwrap_or(u64::MAX);
        let before = shared.store.expired(retention).await;
        while !shared.closing.load(Ordering::SeqCst) {
            let pruned = match &before {
                Ok(before) => shared.store.prune(*before, PRUNE_BATCH).await,
                Err(error) => Err(error.clone()),
            };
            match pruned {
                Ok(pruned) if pruned.runners == 0 && pruned.events == 0 => break,
                Ok(pruned) => {
                    if pruned.unpublished > 0 {
                        shared.metrics.dropped(pruned.unpublished);
                        tracing::warn!(
                            message_id = kinds::EVENTS_DROPPED.id,
                            count = pruned.unpublished,
                            "Events past store.retention were removed that were never published"
                        );
                    }
                    tracing::debug!(pruned.runners, pruned.events, "Old rows removed");
                }
                Err(error) => {
                    tracing::debug!(%error, "Old rows stay for now");
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        if let Ok(before) = before {
            prune_audit(&shared, before).await;
        }
        if swept.is_none_or(|at| at.elapsed() > SWEEP) {
            match sweep(&shared).await {
                Ok(()) => swept = Some(Instant::now()),
                Err(why) => tracing::debug!(%why, "Log files stay for now"),
            }
        }
    }
}

/// Puts checkpoints in place of old entries of the audit. What is not whole stays, and that is said.
async fn prune_audit(shared: &Shared, before: Timestamp) {
    while !shared.closing() {
        match shared.store.prune_chain(before, PRUNE_BATCH).await {
            Ok(0) => return,
            Ok(pruned) => tracing::debug!(pruned, "Old entries of the audit removed"),
            Err(error) => {
                tracing::warn!(message_id = kinds::AUDIT_BROKEN.id, %error, "Old entries of the audit stay");
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Removes the log files of runners that are not in the store: their rows were removed, by whatever daemon, or lost. What
/// the store can't tell stays; so does what is young, whatever is asked of the agent.
pub(super) async fn sweep(shared: &Shared) -> Result<(), String> {
    let (mut after, mut failed) = (None, None);
    loop {
        let page = shared.host.log_files(after).await;
        let page = page.map_err(|e| e.to_string())?;
        let Some(last) = page.last() else {
            return failed.map_or(Ok(()), Err);
        };
        after = Some(*last);
        let mut unknown = Vec::new();
        for id in page {
            if shared
                .store
                .runner(id)
                .await
                .map_err(|e| e.to_string())?
                .is_none()
            {
                unknown.push(id);
            }
        }
        if !unknown.is_empty() {
            tracing::debug!(files = unknown.len(), "Old log files removed");
            let removed = shared.host.remove_log_files(unknown).await;
            failed = removed.err().map(|e| e.to_string()).or(failed);
        }
    }
}
