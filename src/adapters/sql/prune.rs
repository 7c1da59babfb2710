//! Pruning, off the hot path: slices small enough that launches between them don't notice. Hosts of a
//! fleet pass over what another one is just removing.

use super::Work;
use super::clock::now;
use super::fail::Fail;
use super::jobs::Reply;
use super::link::{Link, Value};
use super::locks::Locks;
use crate::domain::Timestamp;
use crate::ports::Pruned;
use async_trait::async_trait;

/// Rows of each kind removed in one transaction.
const SLICE: u32 = 128;
/// The most one call removes of each kind.
const BATCH_MAX: u32 = 100_000;

/// The most events one call looks at that are still to be published, and so stay.
const HELD_MAX: u32 = if cfg!(test) { 256 } else { 10_000 };

/// The events that come next: whether they are still to be published, and whether they never will be.
macro_rules! old {
    ($events:literal) => {
        concat!(
            "SELECT e.position, e.at,
                    (SELECT count(*) FROM outbox o WHERE o.subject = e.subject AND o.seq = e.seq
                                                     AND o.parked IS NULL AND o.host <> ''),
                    (SELECT count(*) FROM outbox o WHERE o.subject = e.subject AND o.seq = e.seq)
               FROM ",
            $events,
            " WHERE e.at < $1 AND (e.at, e.position) > ($2, $3) ORDER BY e.at, e.position LIMIT $4"
        )
    };
}

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

/// An event's time and position.
pub(super) type Place = (Timestamp, u64);

/// One call of `prune` under way.
#[derive(Debug)]
pub(super) struct Sweep {
    before: Timestamp,
    runners_left: u32,
    events_left: u32,
    /// The last event that was looked at. Those that are still to be published stay.
    from: Place,
    begun: bool,
    held_left: u32,
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
            from: (Timestamp(0), 0),
            begun: false,
            held_left: HELD_MAX,
            done: Pruned::default(),
            reply,
        }
    }

    /// Goes on where another call ended.
    pub(super) fn begin_at(&mut self, place: Place) {
        if !std::mem::replace(&mut self.begun, true) {
            self.from = place;
        }
    }

    /// Where the next call is to go on: at the beginning if this one came to the end, or passed over nothing.
    pub(super) fn ended_at(&self, began_at: Place) -> Place {
        match self.held_left == HELD_MAX && began_at == Place::default() {
            true => Place::default(),
            false => self.from,
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
        let old = on
            .rows(
                on.pick(old!("events e INDEXED BY events_by_time"), old!("events e")),
                vec![
                    self.before.into(),
                    self.from.0.into(),
                    self.from.1.into(),
                    want.into(),
                ],
            )
            .await?;
        let (mut unheld, mut unpublished) = (Vec::with_capacity(old.len()), 0);
        for row in &old {
            self.from = (row.time(1)?, row.count(0)?);
            if row.int(2)? == 0 {
                unheld.push(self.from.1);
                unpublished += row.count(3)?;
            }
        }
        self.done.unpublished += unpublished;
        if !unheld.is_empty() {
            self.done.events += on
                .run(
                    on.pick(
                        "DELETE FROM events WHERE position IN (SELECT value FROM json_each($1))",
                        "DELETE FROM events WHERE position IN (
                             SELECT position FROM events
                              WHERE position = ANY (ARRAY(SELECT json_array_elements_text($1::JSON)::BIGINT))
                                FOR UPDATE SKIP LOCKED)",
                    ),
                    vec![Value::json(&unheld)?],
                )
                .await?;
        }
        let held = (old.len() - unheld.len()) as u32;
        self.held_left = self.held_left.saturating_sub(held);
        if (old.len() as u32) < want {
            self.events_left = 0;
            self.from = (Timestamp(0), 0);
        } else {
            self.events_left = self.events_left.saturating_sub(unheld.len() as u32);
        }
        if self.held_left == 0 {
            self.events_left = 0;
        }

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
