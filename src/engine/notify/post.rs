//! One rule's messages: posted one after the other, tried again for a bounded time, and counted.

use super::{Fares, Subscriber};
use crate::domain::kinds;
use crate::domain::notify::{Message, signature};
use crate::engine::{Shared, now};
use crate::metrics::NotificationResult;
use crate::ports::{Courier, Letter, Undelivered};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

/// How long after a failed try the next one comes, up to a quarter more; after the last of them a message is given up.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
];

/// A rule, and what came of it.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) to: Subscriber,
    pub(super) host: String,
    pub(super) fares: Mutex<Fares>,
    /// One test at a time.
    pub(super) test: Semaphore,
    pub(super) courier: Arc<dyn Courier>,
    pub(super) shared: std::sync::Weak<Shared>,
}

/// The same for all tries of one message.
pub(super) fn id() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl Post {
    pub(super) fn fares(&self) -> MutexGuard<'_, Fares> {
        self.fares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, result: NotificationResult, by: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.metrics.notified(&self.to.name, result, by);
        }
    }

    /// So many were never told.
    pub(super) fn dropped(&self, count: u64) {
        let before = {
            let mut fares = self.fares();
            fares.dropped += count;
            fares.dropped - count
        };
        self.count(NotificationResult::Dropped, count);
        if before == 0 {
            tracing::warn!(
                message_id = kinds::NOTIFY_FAILED.id,
                notify_rule = self.to.name,
                "More is to be told by notification rule {} than its receiver takes: messages are dropped, and counted",
                self.to.name
            );
        }
    }

    pub(super) async fn attempt(&self, message: &Message, id: &str) -> Result<(), Undelivered> {
        let to = self.to.to.clone().map_err(Undelivered::Never)?;
        let posting = message.posting(self.to.format, &self.host);
        let seconds = now().0 / 1_000_000;
        let mut headers = posting.headers;
        headers.push(("Content-Type", posting.content_type.to_owned()));
        headers.push(("Stratavore-Message", id.to_owned()));
        headers.push(("Stratavore-Timestamp", seconds.to_string()));
        if let Some(secret) = &self.to.secret {
            let signature = signature(secret, seconds, &posting.body);
            headers.push(("Stratavore-Signature", signature));
        }
        let letter = Letter {
            to,
            headers,
            body: posting.body,
        };
        self.courier.post(&letter).await
    }

    pub(super) fn sent(&self) {
        let was_failing = {
            let mut fares = self.fares();
            fares.sent += 1;
            fares.last_sent = Some(now());
            std::mem::take(&mut fares.failing)
        };
        self.count(NotificationResult::Sent, 1);
        if was_failing {
            tracing::info!(
                message_id = kinds::NOTIFY_BACK.id,
                notify_rule = self.to.name,
                "Messages of notification rule {} arrive again",
                self.to.name
            );
        }
    }

    /// A try has failed; the journal tells that of the first one.
    pub(super) fn failed(&self, why: &str) {
        let was_failing = {
            let mut fares = self.fares();
            fares.last_failure = Some((now(), why.to_owned()));
            std::mem::replace(&mut fares.failing, true)
        };
        if !was_failing {
            tracing::warn!(
                message_id = kinds::NOTIFY_FAILED.id,
                notify_rule = self.to.name,
                "Messages of notification rule {} do not arrive: {why}",
                self.to.name
            );
        }
    }

    pub(super) fn given_up(&self, message: &Message, why: &str) {
        self.fares().failed += 1;
        self.count(NotificationResult::Failed, 1);
        tracing::warn!(
            message_id = kinds::NOTIFY_FAILED.id,
            notify_rule = self.to.name,
            "A message of notification rule {} is given up ({why}): {}",
            self.to.name,
            message.title(&self.host)
        );
    }
}

/// Posts what waits, one after the other, in order. From the stop on each is tried once, without a pause before.
pub(super) async fn deliver(
    post: Arc<Post>,
    mut waiting: mpsc::Receiver<Message>,
    mut stop: watch::Receiver<bool>,
) {
    while let Some(message) = waiting.recv().await {
        let id = id();
        let mut pauses = PAUSES.iter();
        loop {
            let last = *stop.borrow();
            match post.attempt(&message, &id).await {
                Ok(()) => {
                    post.sent();
                    break;
                }
                Err(error) => {
                    post.failed(error.why());
                    match (pauses.next(), error) {
                        (Some(pause), Undelivered::Later(_)) if !last => {
                            let pause = pause.mul_f64(1.0 + share());
                            let _ = tokio::time::timeout(pause, stop.wait_for(|s| *s)).await;
                        }
                        (_, error) => {
                            post.given_up(&message, error.why());
                            break;
                        }
                    }
                }
            }
        }
        post.fares().waiting -= 1;
    }
}

/// From 0 to 0.25: hosts that failed together do not try again together.
fn share() -> f64 {
    (uuid::Uuid::now_v7().as_u128() % 1_000) as f64 / 4_000.0
}
