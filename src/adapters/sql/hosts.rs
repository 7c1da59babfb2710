//! Hosts: joining, leases, cordons. What becomes of one that is gone is in [`super::gone`].
//!
//! A host that joins gets a new epoch, and every transaction of its store looks first whether that
//! is still the one of its row ([`is_current`], called by [`super::jobs`]). Whatever raises an epoch
//! holds the whole fleet's lock, which everybody who writes shares: so an epoch is never raised while
//! a transaction of it is under way.
//!
//! The embedded store is joined by its one host in the same way. Its lease is without end, so that
//! nothing has to be renewed and an idle laptop's disk may sleep; nobody ever finds it away.

use super::apply::record;
use super::clock::now;
use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::locks::Locks;
use super::{Work, publisher, words};
use crate::domain::Timestamp;
use crate::domain::event::{Actor, Draft, Event, EventType};
use crate::domain::host::{self, Cordon, Host, Registration, Standing};
use crate::ports::{Beat, FleetState, Writer};
use async_trait::async_trait;
use serde_json::json;

/// The hosts that have ever joined.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT host, name, boot_id, labels, max_runners, version, advertise, epoch, former_boots, live, queued,
                    standing, cordon, joined_at, renewed_at, lease_until, fenced_after, load
               FROM hosts WHERE epoch > 0 ",
            $rest
        )
    };
}

fn host(row: &Row) -> Result<Host, Fail> {
    let standing = row.text(11)?;
    Ok(Host {
        about: Registration {
            host: row.text(0)?.to_owned(),
            name: row.text(1)?.to_owned(),
            boot_id: row.text(2)?.to_owned(),
            labels: row.json(3, "labels")?,
            max_runners: row.maybe_number(4)?,
            version: row.text(5)?.to_owned(),
            advertise: row.text(6)?.to_owned(),
        },
        epoch: row.count(7)?,
        former_boots: row.json(8, "former boot ids")?,
        live: row.number(9)?,
        queued: row.number(10)?,
        standing: Standing::parse(standing)
            .ok_or_else(|| Fail::Broken(format!("a host's standing is stored as {standing}")))?,
        cordon: row.maybe_json(12, "cordon")?,
        joined_at: row.time(13)?,
        renewed_at: row.time(14)?,
        lease_until: row.time(15)?,
        fenced_after: row.maybe_int(16)?.map(i64::unsigned_abs),
        load: row.json(17, "load")?,
    })
}

/// The store's clock, and all hosts by name.
pub(super) async fn all(on: &mut Link) -> Result<(Timestamp, Vec<Host>), Fail> {
    let rows = on.rows(select!("ORDER BY name, host"), vec![]).await?;
    let hosts = rows.iter().map(host).collect::<Result<_, _>>()?;
    Ok((now(on).await?, hosts))
}

pub(super) async fn one(on: &mut Link, id: &str) -> Result<Option<Host>, Fail> {
    let found = on.maybe(select!("AND host = $1"), vec![id.into()]).await?;
    found.as_ref().map(host).transpose()
}

/// Whether this epoch is not over.
pub(super) async fn is_current(on: &mut Link, writer: &Writer) -> Result<bool, Fail> {
    let sql = "SELECT epoch FROM hosts WHERE host = $1 AND epoch = $2";
    let values = vec![writer.host.as_str().into(), writer.epoch.into()];
    Ok(on.maybe(sql, values).await?.is_some())
}

pub(super) async fn fleet(on: &mut Link) -> Result<FleetState, Fail> {
    let sql = "
        SELECT f.max_runners, h.live, h.queued FROM fleet f,
               (SELECT CAST(coalesce(sum(live), 0) AS BIGINT) AS live,
                       CAST(coalesce(sum(queued), 0) AS BIGINT) AS queued FROM hosts) AS h";
    let found = on.one(sql, vec![]).await?;
    Ok(FleetState {
        max_runners: found.maybe_number(0)?,
        live: found.number(1)?,
        queued: found.number(2)?,
    })
}

pub(super) fn draft(kind: EventType, host: &Host, actor: &Actor, at: Timestamp) -> Draft {
    Draft {
        kind,
        project: String::new(),
        subject: format!("host/{}", host.about.host),
        seq: 0,
        at,
        actor: actor.clone(),
        data: json!({
            "host": host.about.host,
            "name": host.about.name,
            "epoch": host.epoch,
            "live": host.live,
        }),
    }
}

#[derive(Debug)]
pub(super) struct SetFleetMax(pub(super) Option<u32>, pub(super) Actor);

#[async_trait]
impl Work for SetFleetMax {
    type Done = Event;

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Event, Fail> {
        let Self(max, actor) = self;
        let sql = "UPDATE fleet SET max_runners = $1, policy = policy + 1";
        on.run(sql, vec![(*max).into()]).await?;
        let draft = Draft {
            kind: EventType::FleetChanged,
            project: String::new(),
            subject: "fleet/all".to_owned(),
            seq: 0,
            at: now(on).await?,
            actor: actor.clone(),
            data: json!({ "max_runners": max }),
        };
        record(on, draft).await
    }
}

#[derive(Debug)]
pub(super) struct Join {
    pub(super) new: Registration,
    pub(super) beat: Beat,
    /// Whether its events are to be published.
    pub(super) publishes: bool,
}

#[async_trait]
impl Work for Join {
    type Done = (Writer, Vec<Event>);

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    fn of_any_epoch(&self) -> bool {
        true
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Self {
            new,
            beat,
            publishes,
        } = self;
        let at = now(on).await?;
        let known = one(on, &new.host).await?;
        // A store of its own no other machine has.
        let former = match beat.ttl {
            u64::MAX => Vec::new(),
            _ => host::join(known.as_ref(), new)?,
        };
        if let Some(known) = &known
            && beat.ttl != u64::MAX
        {
            host::refuse_second(known, new, at)?;
        }
        let epoch = known.as_ref().map_or(0, |host| host.epoch) + 1;
        on.run(
            "INSERT INTO hosts (host, name, epoch, boot_id, former_boots, labels, max_runners, version, advertise,
                                joined_at, renewed_at, lease_until, fenced_after, load, away)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12, $13, $14)
                 ON CONFLICT (host) DO UPDATE
                 SET name = excluded.name, epoch = excluded.epoch, boot_id = excluded.boot_id,
                     former_boots = excluded.former_boots, labels = excluded.labels,
                     max_runners = excluded.max_runners, version = excluded.version,
                     advertise = excluded.advertise, standing = 'up', joined_at = excluded.joined_at,
                     renewed_at = excluded.renewed_at, lease_until = excluded.lease_until,
                     fenced_after = excluded.fenced_after, load = excluded.load, away = excluded.away",
            vec![
                new.host.as_str().into(),
                new.name.as_str().into(),
                epoch.into(),
                new.boot_id.as_str().into(),
                Value::json(&former)?,
                Value::json(&new.labels)?,
                new.max_runners.into(),
                new.version.as_str().into(),
                new.advertise.as_str().into(),
                at.into(),
                at.plus_usec(beat.ttl).into(),
                beat.fenced_after.into(),
                Value::json(&beat.load)?,
                u32::from(beat.load.away).into(),
            ],
        )
        .await?;
        let joined = one(on, &new.host).await?;
        let joined = joined.ok_or_else(|| Fail::Broken("a host that joined is gone".to_owned()))?;
        let writer = Writer {
            host: new.host.clone(),
            epoch,
        };
        let said = publisher(publishes.then_some(&writer));
        on.rows(
            on.pick(
                "UPDATE meta SET value = $1 WHERE key = 'publisher' AND value <> $1",
                "SELECT set_config('stratavore.publisher', $1, TRUE)",
            ),
            vec![said.into()],
        )
        .await?;
        let mut told = vec![EventType::HostJoined];
        if known.is_some_and(|host| host.standing != Standing::Up) {
            told.push(EventType::HostReturned);
        }
        let mut events = Vec::new();
        // A host that is alone with its store joins nobody.
        told.retain(|_| beat.ttl != u64::MAX);
        for kind in told {
            let draft = draft(kind, &joined, &Actor::host(), at);
            events.push(record(on, draft).await?);
        }
        if beat.ttl == u64::MAX {
            // It is alone here: another host was this machine under a former machine-id, or was there before
            // the file was moved. The reconciliation looks after what they held.
            let sql = "UPDATE hosts SET epoch = 0 WHERE host <> $1";
            on.run(sql, vec![new.host.as_str().into()]).await?;
        }
        Ok((writer, events))
    }
}

#[derive(Debug)]
pub(super) struct Renew {
    pub(super) writer: Writer,
    pub(super) beat: Beat,
}

#[async_trait]
impl Work for Renew {
    type Done = Vec<Event>;

    fn locks(&self, locks: &mut Locks) {
        locks.host(&self.writer.host);
    }

    fn of_any_epoch(&self) -> bool {
        // It carries its own.
        true
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Self { writer, beat } = self;
        let Some(host) = one(on, &writer.host).await? else {
            return Err(Fail::Fenced);
        };
        let at = now(on).await?;
        let renewed = on
            .run(
                "UPDATE hosts SET renewed_at = $3, lease_until = $4, fenced_after = $5, load = $6, away = $7,
                        standing = 'up'
                  WHERE host = $1 AND epoch = $2",
                vec![
                    writer.host.as_str().into(),
                    writer.epoch.into(),
                    at.into(),
                    at.plus_usec(beat.ttl).into(),
                    beat.fenced_after.into(),
                    Value::json(&beat.load)?,
                    u32::from(beat.load.away).into(),
                ],
            )
            .await?;
        if renewed == 0 {
            return Err(Fail::Fenced);
        }
        if host.standing != Standing::Unreachable {
            return Ok(Vec::new());
        }
        let draft = draft(EventType::HostReturned, &host, &Actor::host(), at);
        Ok(vec![record(on, draft).await?])
    }
}

#[derive(Debug)]
pub(super) struct EndBoot(pub(super) Writer);

#[async_trait]
impl Work for EndBoot {
    type Done = ();

    fn locks(&self, locks: &mut Locks) {
        locks.host(&self.0.host);
    }

    fn of_any_epoch(&self) -> bool {
        // It carries its own.
        true
    }

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let Self(writer) = self;
        let known = one(on, &writer.host).await?;
        let Some(known) = known.filter(|host| host.epoch == writer.epoch) else {
            return Err(Fail::Fenced);
        };
        let sql = "UPDATE hosts SET boot_id = $2 WHERE host = $1";
        let over = host::over(&known.about.boot_id);
        on.run(sql, vec![writer.host.as_str().into(), over.into()])
            .await?;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct SetCordon {
    pub(super) host: String,
    pub(super) reason: String,
    pub(super) drain: Option<u64>,
    pub(super) actor: Actor,
}

#[async_trait]
impl Work for SetCordon {
    type Done = Event;

    fn locks(&self, locks: &mut Locks) {
        // A trigger changes the row of the fleet.
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Event, Fail> {
        let Some(host) = one(on, &self.host).await? else {
            return Err(words::no_such_host(&self.host).into());
        };
        let at = now(on).await?;
        let cordon = Cordon {
            reason: self.reason.clone(),
            actor: self.actor.clone(),
            at,
            drain_until: self.drain.map(|usec| at.plus_usec(usec)),
        };
        let values = vec![self.host.as_str().into(), Value::json(&cordon)?];
        on.run("UPDATE hosts SET cordon = $2 WHERE host = $1", values)
            .await?;
        let mut draft = draft(EventType::HostCordoned, &host, &self.actor, at);
        draft.data["reason"] = json!(cordon.reason);
        draft.data["drain_until"] = json!(cordon.drain_until);
        record(on, draft).await
    }
}

#[derive(Debug)]
pub(super) struct Uncordon {
    pub(super) host: String,
    pub(super) actor: Actor,
}

#[async_trait]
impl Work for Uncordon {
    type Done = Option<Event>;

    fn locks(&self, locks: &mut Locks) {
        // A trigger changes the row of the fleet.
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Some(host) = one(on, &self.host).await? else {
            return Err(words::no_such_host(&self.host).into());
        };
        if host.cordon.is_none() {
            return Ok(None);
        }
        let values = vec![self.host.as_str().into()];
        on.run("UPDATE hosts SET cordon = NULL WHERE host = $1", values)
            .await?;
        let at = now(on).await?;
        let draft = draft(EventType::HostUncordoned, &host, &self.actor, at);
        record(on, draft).await.map(Some)
    }
}
