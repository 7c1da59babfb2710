//! The connections for reading: a few, opened when they are needed. A question owns its connection
//! while it asks, so one that is dropped half-way takes the connection with it, and nobody ever
//! gets one in an unknown state.

use super::fail::Fail;
use super::link::Link;
use super::{Base, Keep, within};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a question waits for a connection.
const WAIT: Duration = Duration::from_secs(5);
/// Over a network, one that was idle for longer is tried before it is used.
const TRUSTED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(in crate::adapters) struct Readers {
    base: Arc<dyn Base>,
    permits: Semaphore,
    max: u32,
    idle: Mutex<Idle>,
}

#[derive(Debug)]
struct Idle {
    kept: Vec<Kept>,
    /// Those opened before are of no use any more.
    from: Instant,
}

#[derive(Debug)]
struct Kept {
    link: Link,
    opened: Instant,
    since: Instant,
}

impl Readers {
    pub(super) fn new(base: Arc<dyn Base>, max: u32) -> Self {
        let max = max.max(1);
        Self {
            base,
            permits: Semaphore::new(max as usize),
            max,
            idle: Mutex::new(Idle {
                kept: Vec::new(),
                from: Instant::now(),
            }),
        }
    }

    /// In use, and idle.
    pub(super) fn count(&self) -> (i64, i64) {
        let used = i64::from(self.max) - self.permits.available_permits() as i64;
        (used, self.idle().kept.len() as i64)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever asks from now on gets a new connection.
    pub(super) fn renew(&self) {
        let mut idle = self.idle();
        idle.kept.clear();
        idle.from = Instant::now();
    }

    pub(super) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut Link) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        self.taken(async |link: &mut Link| self.on(link, question).await)
            .await
    }

    /// Does this with a connection, and keeps that if it is still good.
    async fn taken<T>(
        &self,
        work: impl AsyncFnOnce(&mut Link) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        let permit = match tokio::time::timeout(WAIT, self.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(sqlx::Error::PoolClosed.into()),
            Err(_) => return Err(sqlx::Error::PoolTimedOut.into()),
        };
        let (mut link, opened) = self.take().await?;
        let answer = work(&mut link).await;
        if self.is_broken(&link, &answer) {
            drop(link);
            // The others may be broken as well.
            self.idle().kept.clear();
        } else {
            self.keep(link, opened).await;
        }
        drop(permit);
        answer
    }

    /// A connection that works, as far as one can know.
    async fn take(&self) -> Result<(Link, Instant), Fail> {
        let kept = self.idle().kept.pop();
        if let Some(mut kept) = kept {
            let limit = self.base.limit();
            if limit.is_none()
                || kept.since.elapsed() < TRUSTED
                || within(limit, kept.link.say("")).await.is_ok()
            {
                return Ok((kept.link, kept.opened));
            }
            self.idle().kept.clear();
        }
        let opened = Instant::now();
        Ok((self.base.reading().await?, opened))
    }

    /// Whether the connection must not be used again.
    fn is_broken<T>(&self, link: &Link, answer: &Result<T, Fail>) -> bool {
        match answer {
            Ok(_) => false,
            Err(Fail::Sql(error)) => link.is_pooled() || !self.base.is_rule(error),
            Err(_) => link.is_pooled(),
        }
    }

    async fn on<T>(
        &self,
        link: &mut Link,
        question: impl AsyncFnOnce(&mut Link) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        let asked = async {
            let together = link.is_pooled();
            if together {
                link.say(self.base.begin_reading()).await?;
            }
            let answer = question(link).await;
            if together && answer.is_ok() {
                link.say("COMMIT").await?;
            }
            Ok(answer)
        };
        within(self.base.limit(), asked).await?
    }

    /// Has a change made in a transaction of its own: one that no launch waits for.
    pub(super) async fn change<T>(
        &self,
        begin: &'static str,
        change: impl AsyncFnOnce(&mut Link) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        self.taken(async |link: &mut Link| {
            let made = async {
                link.say(begin).await?;
                let made = change(link).await;
                link.say(if made.is_ok() { "COMMIT" } else { "ROLLBACK" })
                    .await?;
                Ok(made)
            };
            within(self.base.limit(), made).await?
        })
        .await
    }

    async fn keep(&self, link: Link, opened: Instant) {
        let since = Instant::now();
        let old: Vec<_> = {
            let mut idle = self.idle();
            idle.kept.push(Kept {
                link,
                opened,
                since,
            });
            let Keep { idle: most, life } = self.base.keep();
            let from = idle.from;
            let is_old = |kept: &mut Kept| {
                kept.since.elapsed() >= most || kept.opened.elapsed() >= life || kept.opened < from
            };
            idle.kept.extract_if(.., is_old).collect()
        };
        for kept in old {
            kept.link.close().await;
        }
    }

    /// No more questions; waits for those under way.
    pub(super) async fn close(&self) {
        let _all = self.permits.acquire_many(self.max).await;
        self.permits.close();
        let idle = std::mem::take(&mut self.idle().kept);
        for kept in idle {
            kept.link.close().await;
        }
    }
}
