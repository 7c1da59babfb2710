//! The connections for reading: a few, opened when they are needed. A question owns its connection
//! while it asks, so one that is dropped half-way takes the connection with it, and nobody ever
//! gets one in an unknown state.

use super::Base;
use super::fail::Fail;
use super::link::Link;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a question waits for a connection.
const WAIT: Duration = Duration::from_secs(5);
/// An idle connection is closed when the next one comes back after so long.
const IDLE: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(in crate::adapters) struct Readers {
    base: Arc<dyn Base>,
    permits: Semaphore,
    max: u32,
    idle: Mutex<Vec<(Link, Instant)>>,
}

impl Readers {
    pub(super) fn new(base: Arc<dyn Base>, max: u32) -> Self {
        let max = max.max(1);
        Self {
            base,
            permits: Semaphore::new(max as usize),
            max,
            idle: Mutex::default(),
        }
    }

    /// In use, and idle.
    pub(super) fn count(&self) -> (i64, i64) {
        let used = i64::from(self.max) - self.permits.available_permits() as i64;
        (used, self.kept().len() as i64)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<(Link, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut Link) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        let permit = match tokio::time::timeout(WAIT, self.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(sqlx::Error::PoolClosed.into()),
            Err(_) => return Err(sqlx::Error::PoolTimedOut.into()),
        };
        let kept = self.kept().pop();
        let mut link = match kept {
            Some((link, _)) => link,
            None => self.base.reading().await?,
        };
        let answer = question(&mut link).await;
        match &answer {
            Err(Fail::Sql(error)) if !self.base.is_rule(error) => link.close().await,
            _ => self.keep(link).await,
        }
        drop(permit);
        answer
    }

    async fn keep(&self, link: Link) {
        let now = Instant::now();
        let old = {
            let mut idle = self.kept();
            idle.push((link, now));
            let fresh = idle
                .iter()
                .position(|(_, since)| now.duration_since(*since) < IDLE);
            idle.drain(..fresh.unwrap_or(0)).collect::<Vec<_>>()
        };
        for (link, _) in old {
            link.close().await;
        }
    }

    /// No more questions; waits for those under way.
    pub(super) async fn close(&self) {
        let _all = self.permits.acquire_many(self.max).await;
        self.permits.close();
        let idle = std::mem::take(&mut *self.kept());
        for (link, _) in idle {
            link.close().await;
        }
    }
}
