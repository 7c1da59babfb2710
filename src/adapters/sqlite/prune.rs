//! Pruning, off the hot path: slices small enough that launches between them don't notice.

use super::fault::Fail;
use super::row;
use super::writer::Reply;
use crate::domain::Timestamp;
use crate::ports::Pruned;
use sqlx::SqliteConnection;

/// Rows of each kind removed in one transaction.
const SLICE: u32 = 128;
/// The most one call removes of each kind.
const BATCH_MAX: u32 = 100_000;
/// Free pages are given back to the file system when there are more than this, and more than a
/// quarter of the file: a store in balance needs them again at once.
const FREE_MIN: i64 = 256;
/// Pages given back after one call.
const GIVE_BACK: &str = "PRAGMA incremental_vacuum(1024)";

/// One call of `prune` under way.
#[derive(Debug)]
pub(super) struct Sweep {
    before: i64,
    runners_left: u32,
    events_left: u32,
    done: Pruned,
    pub(super) reply: Reply<Pruned>,
}

impl Sweep {
    pub(super) fn new(before: Timestamp, batch: u32, reply: Reply<Pruned>) -> Self {
        let batch = batch.min(BATCH_MAX);
        Self {
            before: row::time(before),
            runners_left: batch,
            events_left: batch,
            done: Pruned::default(),
            reply,
        }
    }

    /// Answers with what was done so far.
    pub(super) fn stop(self) {
        let _ = self.reply.send(Ok(self.done));
    }

    /// Removes one slice; the caller commits. `Some` when nothing is left to do.
    pub(super) async fn slice(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<Pruned>, Fail> {
        let want = self.runners_left.min(SLICE);
        // Labels and request ids go with their runner.
        let gone = sqlx::query(
            "DELETE FROM runners WHERE rowid IN (
                 SELECT rowid FROM runners INDEXED BY runners_ended
                  WHERE state = 'ended' AND ended_at < $1 ORDER BY ended_at LIMIT $2)",
        )
        .bind(self.before)
        .bind(want)
        .execute(&mut *connection)
        .await?
        .rows_affected();
        self.done.runners += gone;
        self.runners_left = if gone < u64::from(want) {
            0
        } else {
            self.runners_left - want
        };

        let want = self.events_left.min(SLICE);
        let gone = sqlx::query(
            "DELETE FROM events WHERE position IN (
                 SELECT position FROM events INDEXED BY events_by_time WHERE at < $1 ORDER BY at LIMIT $2)",
        )
        .bind(self.before)
        .bind(want)
        .execute(&mut *connection)
        .await?
        .rows_affected();
        self.done.events += gone;
        self.events_left = if gone < u64::from(want) {
            0
        } else {
            self.events_left - want
        };

        Ok((self.runners_left == 0 && self.events_left == 0).then_some(self.done))
    }
}

/// Gives free pages back to the file system, some at a time.
pub(super) async fn give_back(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let free: i64 = sqlx::query_scalar("PRAGMA freelist_count")
        .fetch_one(&mut *connection)
        .await?;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&mut *connection)
        .await?;
    if free > FREE_MIN && free > pages / 4 {
        sqlx::query(GIVE_BACK).execute(connection).await?;
    }
    Ok(())
}
