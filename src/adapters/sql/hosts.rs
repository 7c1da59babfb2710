//! Hosts: joining, leases, cordons, and giving back what a lost host held.
//!
//! A host that joins gets a new epoch, and every transaction of its store looks first whether that
//! is still the one of its row ([`is_current`], called by [`super::jobs`]). Whatever raises an epoch
//! holds the whole fleet's lock, which everybody who writes shares: so an epoch is never raised while
//! a transaction of it is under way.
//!
//! The embedded store is joined by its one host in the same way. Its lease is without end, so that
//! nothing has to be renewed and an idle laptop's disk may sleep; nobody ever finds it away.

use super::apply::{apply_all, record};
use super::clock::now;
use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::locks::Locks;
use super::{Work, words};
use crate::domain::event::{Actor, Draft, Event, EventType};
use crate::domain::exit::{Cause, Exit, Usage};
use crate::domain::host::{self, Cordon, Host, Registration, Standing};
use crate::domain::runner::{Change, Step};
use crate::domain::{Error, ErrorKind, Timestamp};
use crate::ports::{Beat, FleetState, Writer};
use async_trait::async_trait;
use serde_json::json;

/// The most runners ended in one transaction: others wait for it.
const GIVEN_BACK: u32 = 500;

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

async fn one(on: &mut Link, id: &str) -> Result<Option<Host>, Fail> {
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

fn draft(kind: EventType, host: &Host, actor: &Actor, at: Timestamp) -> Draft {
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
pub(super) struct SetFleetMax(pub(super) Option<u32>);

#[async_trait]
impl Work for SetFleetMax {
    type Done = ();

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let sql = "UPDATE fleet SET max_runners = $1, policy = policy + 1";
        on.run(sql, vec![self.0.into()]).await.map(drop)
    }
}

#[derive(Debug)]
pub(super) struct Join {
    pub(super) new: Registration,
    pub(super) beat: Beat,
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
        let Self { new, beat } = self;
        let at = now(on).await?;
        let known = one(on, &new.host).await?;
        let former = host::join(known.as_ref(), new)?;
        let epoch = known.as_ref().map_or(0, |host| host.epoch) + 1;
        on.run(
            "INSERT INTO hosts (host, name, epoch, boot_id, former_boots, labels, max_runners, version, advertise,
                                joined_at, renewed_at, lease_until, fenced_after, load)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12, $13)
                 ON CONFLICT (host) DO UPDATE
                 SET name = excluded.name, epoch = excluded.epoch, boot_id = excluded.boot_id,
                     former_boots = excluded.former_boots, labels = excluded.labels,
                     max_runners = excluded.max_runners, version = excluded.version,
                     advertise = excluded.advertise, standing = 'up', joined_at = excluded.joined_at,
                     renewed_at = excluded.renewed_at, lease_until = excluded.lease_until,
                     fenced_after = excluded.fenced_after, load = excluded.load",
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
            ],
        )
        .await?;
        let joined = one(on, &new.host).await?;
        let joined = joined.ok_or_else(|| Fail::Broken("a host that joined is gone".to_owned()))?;
        let mut told = vec![EventType::HostJoined];
        if known.is_some_and(|host| host.standing == Standing::Unreachable) {
            told.push(EventType::HostReturned);
        }
        let mut events = Vec::new();
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
        let writer = Writer {
            host: new.host.clone(),
            epoch,
        };
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
                "UPDATE hosts SET renewed_at = $3, lease_until = $4, fenced_after = $5, load = $6, standing = 'up'
                  WHERE host = $1 AND epoch = $2",
                vec![
                    writer.host.as_str().into(),
                    writer.epoch.into(),
                    at.into(),
                    at.plus_usec(beat.ttl).into(),
                    beat.fenced_after.into(),
                    Value::json(&beat.load)?,
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
pub(super) struct SetCordon {
    pub(super) host: String,
    pub(super) cordon: Option<Cordon>,
}

#[async_trait]
impl Work for SetCordon {
    type Done = ();

    fn locks(&self, locks: &mut Locks) {
        locks.host(&self.host);
    }

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let cordon = self.cordon.as_ref().map(Value::json).transpose()?;
        let values = vec![
            self.host.as_str().into(),
            cordon.unwrap_or(Value::Text(None)),
        ];
        let sql = "UPDATE hosts SET cordon = $2 WHERE host = $1 AND epoch > 0";
        match on.run(sql, values).await? {
            0 => Err(words::no_such_host(&self.host).into()),
            _ => Ok(()),
        }
    }
}

/// The host is given up: whatever it still writes is refused. What it held is given back next.
async fn give_up(
    on: &mut Link,
    mut host: Host,
    standing: Standing,
    actor: &Actor,
    at: Timestamp,
) -> Result<Event, Fail> {
    host.epoch += 1;
    on.run(
        "UPDATE hosts SET standing = $2, epoch = $3 WHERE host = $1",
        vec![
            host.about.host.as_str().into(),
            standing.as_str().into(),
            host.epoch.into(),
        ],
    )
    .await?;
    let kind = match standing {
        Standing::Left => EventType::HostLeft,
        _ => EventType::HostLost,
    };
    record(on, draft(kind, &host, actor, at)).await
}

#[derive(Debug)]
pub(super) struct Forget {
    pub(super) host: String,
    pub(super) actor: Actor,
}

#[async_trait]
impl Work for Forget {
    type Done = Vec<Event>;

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Vec<Event>, Fail> {
        let Some(host) = one(on, &self.host).await? else {
            return Err(words::no_such_host(&self.host).into());
        };
        let at = now(on).await?;
        if host.is_up(at) {
            return Err(up_still(&host, at).into());
        }
        if host.standing == Standing::Left {
            return Ok(Vec::new());
        }
        let event = give_up(on, host, Standing::Left, &self.actor, at).await?;
        Ok(vec![event])
    }
}

fn up_still(host: &Host, now: Timestamp) -> Error {
    let name = &host.about.name;
    let left = host.lease_until.0.saturating_sub(now.0) / 1_000_000 + 1;
    Error::new(
        ErrorKind::Conflict,
        format!(
            "Host {name} is up: its lease holds for {left} s more, and what runs on it goes on. Empty it (stratavorectl host drain {name}), stop its stratavored, and forget it when it is unreachable."
        ),
    )
}

/// Ends the runners of a host that is given up, some at a time; whether there are more. Those that
/// wait for a lost host go on waiting: it may come back, and they hold nothing.
#[derive(Debug)]
pub(super) struct GiveBack {
    pub(super) host: String,
    pub(super) actor: Actor,
}

#[async_trait]
impl Work for GiveBack {
    type Done = (Vec<Event>, bool);

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    fn of_any_epoch(&self) -> bool {
        // Right whoever does it, even the host itself that is given up.
        true
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Some(host) = one(on, &self.host).await? else {
            return Ok((Vec::new(), false));
        };
        let sql = match host.standing {
            Standing::Lost => {
                "SELECT id FROM runners WHERE host = $1 AND state NOT IN ('ended', 'queued') ORDER BY id LIMIT $2"
            }
            Standing::Left => {
                "SELECT id FROM runners WHERE host = $1 AND state <> 'ended' ORDER BY id LIMIT $2"
            }
            // It is back, and looks after them itself.
            Standing::Up | Standing::Unreachable => return Ok((Vec::new(), false)),
        };
        let values = vec![self.host.as_str().into(), GIVEN_BACK.into()];
        let rows = on.rows(sql, values).await?;
        let at = now(on).await?;
        let exit = Exit {
            cause: Cause::HostLost,
            code: None,
            signal: None,
            message: why_lost(&host),
        };
        let mut changes = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = row.text(0)?;
            changes.push(Change {
                id: id
                    .parse()
                    .map_err(|_| Fail::Broken(format!("{id} is stored as a runner's id")))?,
                step: Step::End(exit.clone(), Usage::default()),
                actor: self.actor.clone(),
                at,
            });
        }
        let changes: Vec<&Change> = changes.iter().collect();
        let mut events = Vec::new();
        for applied in apply_all(on, &changes).await? {
            match applied {
                Ok(applied) => events.extend(applied.event),
                // One that can't be read spoils nobody else's.
                Err(Fail::Broken(_) | Fail::Refused(_)) => {}
                Err(fail) => return Err(fail),
            }
        }
        let more = rows.len() == GIVEN_BACK as usize && !events.is_empty();
        Ok((events, more))
    }
}

fn why_lost(host: &Host) -> String {
    let name = &host.about.name;
    match host.standing {
        Standing::Left => {
            format!("Host {name} was forgotten: an operator said that nothing of it runs any more.")
        }
        _ => format!(
            "Host {name} was away for too long; its runners have stopped by themselves, and nobody saw how."
        ),
    }
}

/// What [`Tidy`] would do about this host.
fn due(host: &Host, now: Timestamp, lost_after: u64) -> Option<Due> {
    let held = host.live > 0 || (host.queued > 0 && host.standing == Standing::Left);
    match host.standing {
        Standing::Lost | Standing::Left => held.then_some(Due::GivenBack),
        _ if host.is_lost(now, lost_after) => Some(Due::Lost),
        Standing::Up if !host.is_up(now) => Some(Due::Unreachable),
        Standing::Up | Standing::Unreachable => None,
    }
}

enum Due {
    Unreachable,
    Lost,
    /// Somebody began, and did not come to its end.
    GivenBack,
}

/// Whether there is anything to tidy up: this is asked often, and seldom is.
pub(super) async fn is_untidy(on: &mut Link, lost_after: u64) -> Result<bool, Fail> {
    let (now, hosts) = all(on).await?;
    Ok(hosts
        .iter()
        .any(|host| due(host, now, lost_after).is_some()))
}

/// Writes down who is away; answers with the hosts whose runners are to be ended, too.
#[derive(Debug)]
pub(super) struct Tidy {
    pub(super) lost_after: u64,
}

#[async_trait]
impl Work for Tidy {
    type Done = (Vec<Event>, Vec<String>);

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let (at, hosts) = all(on).await?;
        let (mut events, mut gone) = (Vec::new(), Vec::new());
        let actor = Actor::host();
        for host in hosts {
            match due(&host, at, self.lost_after) {
                None => {}
                Some(Due::GivenBack) => gone.push(host.about.host),
                Some(Due::Lost) => {
                    if host.standing == Standing::Up {
                        events.push(unreachable(on, &host, at).await?);
                    }
                    gone.push(host.about.host.clone());
                    events.push(give_up(on, host, Standing::Lost, &actor, at).await?);
                }
                Some(Due::Unreachable) => events.push(unreachable(on, &host, at).await?),
            }
        }
        Ok((events, gone))
    }
}

async fn unreachable(on: &mut Link, host: &Host, at: Timestamp) -> Result<Event, Fail> {
    let sql = "UPDATE hosts SET standing = 'unreachable' WHERE host = $1";
    on.run(sql, vec![host.about.host.as_str().into()]).await?;
    record(
        on,
        draft(EventType::HostUnreachable, host, &Actor::host(), at),
    )
    .await
}
