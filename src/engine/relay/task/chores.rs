//! What the relay's task does beside publishing, one thing at a time: counting, adopting, trying parked rows again.

use super::{SWEEP, Task};
use crate::ports::{Backlog, Outbox, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Rows adopted in one transaction.
const ADOPTED: u32 = 500;
/// Parked rows that are looked at together, and how often in one sweep.
const LOOKED_AT: (u32, u32) = (1_000, 10);

/// What came of it.
pub(super) enum Chore {
    Counted(Result<Backlog, StoreError>, Duration),
    Swept(Result<Swept, StoreError>),
    Retried(Result<u64, StoreError>),
}

/// What a sweep has changed.
#[derive(Default)]
pub(super) struct Swept {
    /// Rows of hosts that were given up.
    pub(super) adopted: u64,
    /// Rows that were parked.
    pub(super) let_go: u64,
    /// Parked rows were looked at up to here; 0 = all of them.
    pub(super) parked_at: u64,
}

/// Takes back what need not be parked, and takes over what nobody else publishes.
async fn sweep(
    outbox: &dyn Outbox,
    host: &str,
    park: bool,
    from: u64,
) -> Result<Swept, StoreError> {
    let mut swept = Swept {
        parked_at: from,
        ..Swept::default()
    };
    for _ in 0..LOOKED_AT.1 {
        let looked = outbox
            .let_go(host, !park, swept.parked_at, LOOKED_AT.0)
            .await?;
        swept.let_go += looked.rows;
        swept.parked_at = looked.last.unwrap_or(0);
        if looked.last.is_none() {
            break;
        }
    }
    swept.adopted = outbox.adopt(host, ADOPTED).await?;
    Ok(swept)
}

impl Task {
    pub(super) fn begin_chore(&mut self, now: Instant) {
        let (outbox, host) = (Arc::clone(&self.outbox), self.settings.host.clone());
        // It came to nothing, if it was begun and is not under way.
        let idle = self.chore.is_none();
        self.retry.take_if(|retry| retry.begun && idle);
        // What is in hand is written down first: it must not be parked again afterwards.
        if let Some(retry) = &mut self.retry
            && !retry.begun
        {
            if self.chore.is_none() && self.settling.is_none() && self.window.parked() == 0 {
                retry.begun = true;
                let project = retry.project.clone();
                self.chore = Some(tokio::spawn(async move {
                    Chore::Retried(outbox.retry(&host, project.as_ref()).await)
                }));
            }
        } else if self.may_sweep() && self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            let (park, from) = (self.settings.park, self.parked_at);
            self.chore = Some(tokio::spawn(async move {
                Chore::Swept(sweep(&*outbox, &host, park, from).await)
            }));
        } else if self.may_count() && self.count_at <= now {
            self.uncounted = false;
            self.chore = Some(tokio::spawn(async move {
                let begun = Instant::now();
                Chore::Counted(outbox.backlog(&host).await, begun.elapsed())
            }));
        }
    }
}
