//! A COMMIT whose answer was lost: finding out what became of it, and ending what nobody will start.

use super::{Fail, Locks, Writer};
use crate::adapters::sql::{apply, within};
use crate::domain::event::Actor;
use crate::domain::exit::{Cause, Exit, Usage};
use crate::domain::runner::{Change, Step};
use crate::domain::{RunnerId, Timestamp};

/// A transaction of which nobody knows whether it was committed.
#[derive(Debug)]
pub(super) struct Doubt {
    batch: u64,
    /// What is to be ended if it was.
    admitted: Vec<Change>,
}

impl Doubt {
    pub(super) fn new(batch: u64, admitted: impl Iterator<Item = (RunnerId, Timestamp)>) -> Self {
        let ended = |(id, at)| Change {
            id,
            step: Step::End(unstarted(), Usage::default()),
            actor: Actor::host(),
            at,
        };
        Self {
            batch,
            admitted: admitted.map(ended).collect(),
        }
    }
}

impl Writer {
    /// Whether the transaction in doubt was committed; `None` = nothing is known of this writer any more.
    pub(super) async fn was_committed(&mut self) -> Result<Option<bool>, sqlx::Error> {
        let Some(batch) = self.doubt.as_ref().map(|doubt| doubt.batch) else {
            return Ok(Some(false));
        };
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.reopen().await?,
        };
        let asked = async { self.base.committed(&mut link).await.map_err(Fail::fault) };
        match within(self.base.limit(), asked).await {
            Ok(last) => {
                self.link = Some(link);
                Ok(last.map(|last| last >= batch))
            }
            Err(error) => {
                self.give_up(link, &error).await;
                Err(error)
            }
        }
    }

    /// Finds out about a transaction in doubt whose callers have been sent away, before the next one.
    pub(super) async fn settle(&mut self) -> Result<(), sqlx::Error> {
        if self.doubt.is_none() {
            return Ok(());
        }
        // Where that is not known, it is taken for committed: to end what is not there is harmless.
        let committed = self.was_committed().await?.unwrap_or(true);
        let Some(Doubt { admitted, .. }) = self.doubt.take() else {
            return Ok(());
        };
        if !committed || admitted.is_empty() {
            return Ok(());
        }
        let mut locks = Locks::default();
        admitted.iter().for_each(|change| locks.runner(change.id));
        let ended = self.end(&locks, &admitted).await;
        if ended.is_err() {
            // Ended twice is ended once.
            self.doubt = Some(Doubt { batch: 0, admitted });
        }
        ended
    }

    async fn end(&mut self, locks: &Locks, admitted: &[Change]) -> Result<(), sqlx::Error> {
        let limit = self.base.limit();
        let mut link = self.begin(locks, self.base.begin()).await?;
        let changes: Vec<&Change> = admitted.iter().collect();
        let chain = &mut self.chain;
        let steps = async {
            // One that somebody else has ended meanwhile is refused, and that is right.
            apply::apply_all(&mut link, &changes)
                .await
                .map_err(Fail::fault)?;
            chain.append(&mut link).await.map_err(Fail::fault)?;
            link.say("COMMIT").await
        };
        match within(limit, steps).await {
            Ok(()) => {
                self.chain.committed();
                self.committed(link.next_position());
                self.link = Some(link);
                Ok(())
            }
            Err(error) => {
                self.give_up(link, &error).await;
                Err(error)
            }
        }
    }
}

fn unstarted() -> Exit {
    Exit {
        cause: Cause::LaunchFailed,
        code: None,
        signal: None,
        message: "The store went away while it admitted the runner; nothing ran.".to_owned(),
    }
}
