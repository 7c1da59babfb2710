//! Pruning, off the hot path: slices small enough that launches between them don't notice. Hosts of a
//! fleet pass over what another one is just removing.

use super::Work;
use super::clock::now;
use super::fail::Fail;
use super::jobs::Reply;
use super::link::Link;
use super::locks::Locks;
use crate::domain::Timestamp;
use crate::ports::Pruned;
use async_trait::async_trait;

/// Rows of each kind removed in one transaction.
const SLICE: u32 = 128;
/// The most one call removes of each kind.
const BATCH_MAX: u32 = 100_000;

/// From when on something is kept; notes for how long this host keeps.
#[derive(Debug)]
pub(super) struct Expired {
    /// Nobody knows before it has joined.
    pub(super) host: Option<String>,
    /// µs.
    pub(super) retention: u64,
}

#[async_trait]
impl Work for Expired {
    type Done = Timestamp;

    fn locks(&self, locks: &mut Locks) {
        self.host.iter().for_each(|host| locks.host(host));
    }

    async fn run(&mut self, on: &mut Link) -> Result<Timestamp, Fail> {
        let mut longest = self.retention;
        if on.is_shared() {
            if let Some(host) = &self.host {
                let sql = "UPDATE hosts SET retention = $2 WHERE host = $1 AND retention <> $2";
                on.run(sql, vec![host.as_str().into(), self.retention.into()])
                    .await?;
            }
            let sql = "SELECT coalesce(max(retention), 0) FROM hosts WHERE epoch > 0 AND standing IN ('up', 'unreachable')";
            longest = longest.max(on.one(sql, vec![]).await?.count(0)?);
        }
        Ok(now(on).await?.minus_usec(longest))
    }
}

/// One call of `prune` under way.
#[derive(Debug)]
pub(super) struct Sweep {
    before: Timestamp,
    runners_left: u32,
    events_left: u32,
    done: Pruned,
    pub(super) reply: Reply<Pruned>,
}

impl Sweep {
    pub(super) fn new(before: Timestamp, batch: u32, reply: Reply<Pruned>) -> Self {
        let batch = batch.min(BATCH_MAX);
        Self {
            before,
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
    pub(super) async fn slice(&mut self, on: &mut Link) -> Result<Option<Pruned>, Fail> {
        let want = self.runners_left.min(SLICE);
        // Labels and request ids go with their runner.
        let gone = on
            .run(
                on.pick(
                    "DELETE FROM runners WHERE rowid IN (
                 SELECT rowid FROM runners INDEXED BY runners_ended
                  WHERE state = 'ended' AND ended_at < $1 ORDER BY ended_at LIMIT $2)",
                    "DELETE FROM runners WHERE id IN (
                 SELECT id FROM runners
                  WHERE state = 'ended' AND ended_at < $1 ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
                ),
                vec![self.before.into(), want.into()],
            )
            .await?;
        self.done.runners += gone;
        self.runners_left = if gone < u64::from(want) {
            0
        } else {
            self.runners_left - want
        };

        let want = self.events_left.min(SLICE);
        let gone = on.run(on.pick(
            "DELETE FROM events WHERE position IN (
                 SELECT position FROM events INDEXED BY events_by_time WHERE at < $1 ORDER BY at LIMIT $2)",
            "DELETE FROM events WHERE position IN (
                 SELECT position FROM events WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)"),
            vec![self.before.into(), want.into()],
        )
        .await?;
        self.done.events += gone;
        self.events_left = if gone < u64::from(want) {
            0
        } else {
            self.events_left - want
        };

        // A session is remembered as long as one of its runners, or its budget. It may be taken up just now.
        on.run(
            "DELETE FROM sessions WHERE live IS NULL AND used_at < $1 AND name IN (
                 SELECT s.name FROM sessions s
                  WHERE s.live IS NULL AND s.used_at < $1
                    AND NOT EXISTS (SELECT 1 FROM runners r WHERE r.session = s.name)
                    AND NOT EXISTS (SELECT 1 FROM budgets b WHERE b.scope = 'session:' || s.name)
                  ORDER BY s.used_at LIMIT $2)",
            vec![self.before.into(), SLICE.into()],
        )
        .await?;

        Ok((self.runners_left == 0 && self.events_left == 0).then_some(self.done))
    }
}
