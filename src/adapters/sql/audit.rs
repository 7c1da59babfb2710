//! The audit of the port: chains are read, looked at, anchored and pruned here; lengthened in
//! [`super::chain`].

use super::apply::record;
use super::chain::Keeper;
use super::clock;
use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::{Base, SqlStore, Work, acts};
use crate::domain::Timestamp;
use crate::domain::audit::verify::{Report, Verifier};
use crate::domain::audit::{Act, Anchor, Checkpoint, Entry, Head, Key, Mac};
use crate::domain::event::{Actor, Draft, EventType};
use crate::ports::{Anchored, Audit, Chain, EventFilter, StoreError};
use async_trait::async_trait;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Entries looked at in one go.
const PAGE: u32 = 500;
/// The heads of so many other hosts are compared with what was seen of them.
const OTHERS_MAX: u32 = 5_000;
/// So many are told in an event, and written down.
const TOLD_MAX: usize = 256;
/// So many of the newest anchors among the events are compared with.
const ANCHORS_MAX: u32 = 1_000;

/// What can't be read is no mac of ours, and fits nothing.
fn mac(text: &str) -> Mac {
    text.parse().unwrap_or(Mac::NONE)
}

fn entry(row: &Row) -> Result<Entry, Fail> {
    Ok(Entry {
        n: row.count(0)?,
        at: row.time(1)?,
        entry: row.text(2)?.to_owned(),
        mac: mac(row.text(3)?),
    })
}

/// What others have seen is read before the chain itself: it may grow in between, and then it is longer
/// than what they saw, never shorter.
async fn chain(on: &mut Link, host: &str) -> Result<Option<Chain>, Fail> {
    let sql = "SELECT n, mac FROM audit_witness WHERE host = $1 ORDER BY by_host LIMIT $2";
    let rows = on.rows(sql, vec![host.into(), OTHERS_MAX.into()]).await?;
    let witnessed = rows.iter().map(|row| {
        Ok(Anchor {
            host: host.to_owned(),
            n: row.count(0)?,
            mac: mac(row.text(1)?),
        })
    });
    let witnessed = witnessed.collect::<Result<Vec<_>, Fail>>()?;
    let sql = "
        SELECT h.n, h.mac, h.key, h.checkpoint,
               (SELECT coalesce(max(n), 0) FROM audit WHERE host = $1)
          FROM (SELECT $1 AS host) AS asked LEFT JOIN audit_heads h ON h.host = asked.host";
    let sql = on.pick(sql, "
        SELECT h.n, h.mac, h.key, h.checkpoint,
               (SELECT coalesce(max(n), 0) FROM audit WHERE host = $1)
          FROM (SELECT $1::TEXT COLLATE \"C\" AS host) AS asked LEFT JOIN audit_heads h ON h.host = asked.host");
    let row = on.one(sql, vec![host.into()]).await?;
    let head = match row.maybe_int(0)? {
        None => None,
        Some(n) => Some(Head {
            n: n.unsigned_abs(),
            mac: mac(row.text(1)?),
            key: row.text(2)?.to_owned(),
        }),
    };
    let last = row.count(4)?;
    if head.is_none() && last == 0 && witnessed.is_empty() {
        return Ok(None);
    }
    // One that can't be read is none: what it stood for is missing.
    let checkpoint = row
        .maybe_text(3)?
        .and_then(|t| serde_json::from_str(t).ok());
    Ok(Some(Chain {
        head,
        checkpoint,
        last,
        witnessed,
    }))
}

async fn entries(
    on: &mut Link,
    host: &str,
    after: u64,
    to: u64,
    limit: u32,
) -> Result<Vec<Entry>, Fail> {
    let sql = "SELECT n, at, entry, mac FROM audit WHERE host = $1 AND n > $2 AND n <= $3 ORDER BY n LIMIT $4";
    let values = vec![host.into(), after.into(), to.into(), limit.into()];
    on.rows(sql, values).await?.iter().map(entry).collect()
}

#[async_trait]
impl<B: Base> Audit for SqlStore<B> {
    fn keeps(&self) -> bool {
        self.kept.keeper().is_some()
    }

    fn kept(&self) -> Option<Anchor> {
        self.kept.end()
    }

    async fn note(&self, acts: Vec<Act>) -> Result<(), StoreError> {
        acts::note(self, acts).await
    }

    async fn chain(&self, host: &str) -> Result<Option<Chain>, StoreError> {
        self.read(async |on| chain(on, host).await).await
    }

    async fn entries(
        &self,
        host: &str,
        after: u64,
        to: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        self.read(async |on| entries(on, host, after, to, limit).await)
            .await
    }

    async fn verify(&self, host: &str, mut anchors: Vec<Anchor>) -> Result<Report, StoreError> {
        let keeper = self.kept.keeper();
        let keys: &[Key] = keeper.as_ref().map_or(&[], |keeper| &keeper.keys);
        anchors.extend(self.kept.end());
        anchors.extend(self.told(host).await?);
        let mut chain = self.chain(host).await?;
        loop {
            let report = self
                .look(host, keys, chain.as_ref(), anchors.clone())
                .await?;
            if report.is_whole() {
                return Ok(report);
            }
            // Some of it may have been pruned meanwhile.
            let again = self.chain(host).await?;
            let base = |chain: &Option<Chain>| chain.as_ref().and_then(|c| c.checkpoint.clone());
            if base(&again) == base(&chain) {
                return Ok(report);
            }
            chain = again;
        }
    }

    async fn anchor(&self, at: Timestamp) -> Result<Option<Anchored>, StoreError> {
        let Some(end) = self.kept.end() else {
            return Ok(None);
        };
        self.write(Tell { end, at }).await.map(Some)
    }

    async fn prune_chain(&self, before: Timestamp, batch: u32) -> Result<u64, StoreError> {
        let Some(keeper) = self.kept.keeper() else {
            return Ok(0);
        };
        let batch = batch.min(PAGE);
        // This is asked often, and seldom is there anything to do.
        let host = keeper.host.clone();
        let old = self
            .read(async |on| {
                let now = clock::now(on).await?;
                let sql = "SELECT at FROM audit WHERE host = $1 ORDER BY n LIMIT $2";
                let rows = on
                    .rows(sql, vec![host.as_str().into(), batch.into()])
                    .await?;
                let times = rows.iter().map(|row| row.time(0));
                Ok(old(times.collect::<Result<Vec<_>, Fail>>()?, before, now))
            })
            .await?;
        if old == 0 {
            return Ok(0);
        }
        self.write(Prune {
            keeper,
            before,
            batch,
        })
        .await
    }
}

#[expect(private_bounds, reason = "there are two bases, and both are here")]
impl<B: Base> SqlStore<B> {
    async fn look(
        &self,
        host: &str,
        keys: &[Key],
        chain: Option<&Chain>,
        mut anchors: Vec<Anchor>,
    ) -> Result<Report, StoreError> {
        let (mut head, mut checkpoint, mut last) = (None, None, 0);
        if let Some(chain) = chain {
            anchors.extend(chain.witnessed.iter().cloned());
            (head, checkpoint) = (chain.head.as_ref(), chain.checkpoint.as_ref());
            last = chain.last;
        }
        let mut verifier = Verifier::new(host, keys, checkpoint, head, anchors);
        let mut after = 0;
        loop {
            let page = self.entries(host, after, last, PAGE).await?;
            page.iter().for_each(|entry| verifier.feed(entry));
            match page.last() {
                Some(entry) => after = entry.n,
                None => return Ok(verifier.finish()),
            }
            // It is nothing but work: others get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Anchors of this chain among the events.
    async fn told(&self, host: &str) -> Result<Vec<Anchor>, StoreError> {
        let filter = EventFilter {
            kind: Some(EventType::AuditAnchored),
            limit: ANCHORS_MAX,
            newest: true,
            ..EventFilter::default()
        };
        let events = crate::ports::Store::events(self, filter).await?;
        let mut anchors = Vec::new();
        for event in events {
            let data = &event.draft.data;
            let others = data["witnessed"].as_array();
            let all = others.into_iter().flatten().chain([data]);
            for told in all.filter(|told| told["host"] == host) {
                anchors.extend(Anchor::of(told));
            }
        }
        Ok(anchors)
    }
}

/// The event about the end of this host's chain.
#[derive(Debug)]
struct Tell {
    end: Anchor,
    at: Timestamp,
}

#[async_trait]
impl Work for Tell {
    type Done = Anchored;

    async fn run(&mut self, on: &mut Link) -> Result<Anchored, Fail> {
        let own = &self.end.host;
        let (others, shrunk) = witness(on, own, self.at).await?;
        let told: Vec<_> = others
            .iter()
            .map(|a| json!({ "host": a.host, "n": a.n, "mac": a.mac }))
            .collect();
        let draft = Draft {
            kind: EventType::AuditAnchored,
            project: String::new(),
            subject: format!("audit/{own}"),
            seq: 0,
            at: self.at,
            actor: Actor::host(),
            data: json!({
                "host": own,
                "n": self.end.n,
                "mac": self.end.mac,
                "witnessed": told,
                "shrunk": shrunk,
            }),
        };
        let event = record(on, draft).await?;
        Ok(Anchored { event, shrunk })
    }
}

/// Writes down the heads of the others, as many as one event tells: first those that were told longest ago. Those that
/// are behind what was seen of them before, or differ from it, are told and what was seen stays.
async fn witness(
    on: &mut Link,
    own: &str,
    at: Timestamp,
) -> Result<(Vec<Anchor>, Vec<String>), Fail> {
    let read = |rows: Vec<Row>| -> Result<BTreeMap<String, (u64, String)>, Fail> {
        rows.iter()
            .map(|r| Ok((r.text(0)?.to_owned(), (r.count(1)?, r.text(2)?.to_owned()))))
            .collect()
    };
    let sql = "SELECT host, n, mac FROM audit_heads WHERE host <> $1 ORDER BY host LIMIT $2";
    let heads = read(on.rows(sql, vec![own.into(), OTHERS_MAX.into()]).await?)?;
    let sql =
        "SELECT host, n, mac, at FROM audit_witness WHERE by_host = $1 ORDER BY host LIMIT $2";
    let rows = on.rows(sql, vec![own.into(), OTHERS_MAX.into()]).await?;
    let times = rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.time(3)?)));
    let times = times.collect::<Result<BTreeMap<_, _>, Fail>>()?;
    let seen = read(rows)?;
    // What is there now where something was seen before: one that was pruned is not.
    let sql = "SELECT w.host, w.n, a.mac FROM audit_witness w JOIN audit a ON a.host = w.host AND a.n = w.n
                WHERE w.by_host = $1 ORDER BY w.host LIMIT $2";
    let there = read(on.rows(sql, vec![own.into(), OTHERS_MAX.into()]).await?)?;
    let mut shrunk = BTreeSet::new();
    for (host, (n, mac)) in &seen {
        let is_behind = heads.get(host).is_none_or(|(now, _)| now < n);
        let differs = there.get(host).is_some_and(|(_, now)| now != mac);
        if is_behind || differs {
            shrunk.insert(host.clone());
        }
    }
    let fresh = |host: &String| !shrunk.contains(host);
    // Those that have grown since; the others were told before.
    let mut others: Vec<_> = heads
        .iter()
        .filter(|(host, head)| fresh(host) && head.0 > 0 && seen.get(*host) != Some(*head))
        .map(|(host, (n, text))| Anchor {
            host: host.clone(),
            n: *n,
            mac: mac(text),
        })
        .collect();
    others.sort_by_key(|other| times.get(&other.host));
    others.truncate(TOLD_MAX);
    let rows: Vec<_> = others
        .iter()
        .map(|a| json!({ "host": a.host, "n": a.n, "mac": a.mac }))
        .collect();
    if !rows.is_empty() {
        let sql = on.pick(
            "INSERT INTO audit_witness (host, by_host, n, mac, at)
             SELECT value ->> 'host', $2, value ->> 'n', value ->> 'mac', $3 FROM json_each($1) WHERE TRUE
                 ON CONFLICT (host, by_host) DO UPDATE SET n = excluded.n, mac = excluded.mac, at = excluded.at",
            "INSERT INTO audit_witness (host, by_host, n, mac, at)
             SELECT e.host, $2, e.n, e.mac, $3 FROM json_to_recordset($1::JSON) AS e (host TEXT, n BIGINT, mac TEXT)
                 ON CONFLICT (host, by_host) DO UPDATE SET n = excluded.n, mac = excluded.mac, at = excluded.at",
        );
        on.run(sql, vec![Value::json(&rows)?, own.into(), at.into()])
            .await?;
    }
    Ok((others, shrunk.into_iter().collect()))
}

/// How many of these entries, the oldest first, are old enough to go, by the times in them.
///
/// Clocks are set. One that was written while the clock was ahead, and is of the future still, goes with the old ones
/// behind it. One that was written while it was behind waits for those before it: what is young stays, whatever
/// is said after it. But the first of all that are left has nothing before it: written while the clock was behind, it goes.
fn old(times: impl IntoIterator<Item = Timestamp>, before: Timestamp, now: Timestamp) -> usize {
    let times = times.into_iter().enumerate();
    let first = times.take_while(|(_, at)| *at < before || *at > now);
    let last = first.filter(|(_, at)| *at < before).last();
    last.map_or(0, |(last, _)| last + 1)
}

/// Replaces the oldest entries by a checkpoint. What is not whole stays: it is evidence.
#[derive(Debug)]
struct Prune {
    keeper: Arc<Keeper>,
    before: Timestamp,
    batch: u32,
}

#[async_trait]
impl Work for Prune {
    type Done = u64;

    async fn run(&mut self, on: &mut Link) -> Result<u64, Fail> {
        let Keeper { host, keys } = &*self.keeper;
        let Some(key) = self.keeper.key() else {
            return Ok(0);
        };
        let sql = "SELECT n, checkpoint, key FROM audit_heads WHERE host = $1";
        let Some(row) = on.maybe(sql, vec![host.as_str().into()]).await? else {
            return Ok(0);
        };
        if row.text(2)? != key.id() {
            // A checkpoint is signed with a key that the chain knows already.
            return Ok(0);
        }
        let head = row.count(0)?;
        let checkpoint: Option<Checkpoint> = row.maybe_json(1, "checkpoint of the audit")?;
        let mut verifier = Verifier::new(host, keys, checkpoint.as_ref(), None, []);
        let now = clock::now(on).await?;
        // The last entry stays, so that there is always one to go on from.
        let oldest = entries(on, host, 0, head.saturating_sub(1), self.batch).await?;
        let gone = old(oldest.iter().map(|entry| entry.at), self.before, now);
        oldest
            .iter()
            .take(gone)
            .for_each(|entry| verifier.feed(entry));
        // What can't be verified is not signed for, an entry of a former key that is no longer given included.
        if let Some(verdict) = verifier.fault() {
            let why = format!(
                "the audit of this host can't be verified, and none of it is removed: {verdict}"
            );
            return Err(Fail::Broken(why));
        }
        if gone == 0 {
            return Ok(0);
        }
        let passed = verifier.passed();
        let checkpoint = Checkpoint::new(key, host, &passed);
        on.run(
            "DELETE FROM audit WHERE host = $1 AND n <= $2",
            vec![host.as_str().into(), passed.n.into()],
        )
        .await?;
        on.run(
            "UPDATE audit_heads SET checkpoint = $2 WHERE host = $1",
            vec![host.as_str().into(), Value::json(&checkpoint)?],
        )
        .await?;
        Ok(gone as u64)
    }
}
