//! Hosts that are gone: who is away, who is lost, who was forgotten, and giving back what they held.

use super::apply::{apply_all, record};
use super::clock::now;
use super::fail::Fail;
use super::hosts::{all, draft, one};
use super::link::Link;
use super::locks::Locks;
use super::{Work, orders, words};
use crate::domain::event::{Actor, Event, EventType};
use crate::domain::exit::{Cause, Exit, Usage};
use crate::domain::host::{Host, Standing};
use crate::domain::runner::{Change, Step};
use crate::domain::{Error, ErrorKind, Timestamp};
use async_trait::async_trait;
use std::collections::BTreeSet;

/// The most runners ended in one transaction: others wait for it.
const GIVEN_BACK: u32 = 500;

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
        // Of two machines with one machine-id that took turns, either may come back.
        let sql = "UPDATE hosts SET former_boots = '[]' WHERE host = $1";
        on.run(sql, vec![self.host.as_str().into()]).await?;
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

/// Ends the runners of a host that is given up, some at a time, by id; with the last one if there may
/// be more. Those that wait for a lost host go on waiting: it may come back, and they hold nothing.
#[derive(Debug)]
pub(super) struct GiveBack {
    pub(super) host: String,
    pub(super) actor: Actor,
    /// Those up to this one were looked at.
    pub(super) after: String,
}

#[async_trait]
impl Work for GiveBack {
    type Done = (Vec<Event>, Option<String>);

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    fn of_any_epoch(&self) -> bool {
        // Right whoever does it, even the host itself that is given up.
        true
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Some(host) = one(on, &self.host).await? else {
            return Ok((Vec::new(), None));
        };
        let sql = match host.standing {
            Standing::Lost => {
                "SELECT id FROM runners WHERE host = $1 AND state NOT IN ('ended', 'queued') AND id > $3 ORDER BY id LIMIT $2"
            }
            Standing::Left => {
                "SELECT id FROM runners WHERE host = $1 AND state <> 'ended' AND id > $3 ORDER BY id LIMIT $2"
            }
            // It is back, and looks after them itself.
            Standing::Up | Standing::Unreachable => return Ok((Vec::new(), None)),
        };
        let values = vec![
            self.host.as_str().into(),
            GIVEN_BACK.into(),
            self.after.as_str().into(),
        ];
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
            let Ok(id) = row.text(0)?.parse() else {
                continue;
            };
            changes.push(Change {
                id,
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
        let last = rows.last().filter(|_| rows.len() == GIVEN_BACK as usize);
        let last = last.map(|row| row.text(0).map(str::to_owned)).transpose()?;
        Ok((events, last))
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

/// Hosts (id and epoch) that hold what can't be given back: it can't be read.
pub(super) type Hopeless = BTreeSet<(String, u64)>;

/// Whether there is anything to tidy up: this is asked often, and seldom is.
pub(super) async fn is_untidy(
    on: &mut Link,
    lost_after: u64,
    hopeless: &Hopeless,
) -> Result<bool, Fail> {
    let (now, hosts) = all(on).await?;
    Ok(hosts.iter().any(|host| match due(host, now, lost_after) {
        Some(Due::GivenBack) => !hopeless.contains(&(host.about.host.clone(), host.epoch)),
        due => due.is_some(),
    }))
}

/// The epoch of a host that still holds something though all of it was to be given back.
pub(super) async fn still_holds(on: &mut Link, host: &str) -> Result<Option<u64>, Fail> {
    let (now, hosts) = all(on).await?;
    let found = hosts.iter().find(|h| h.about.host == host);
    let held = found.filter(|h| matches!(due(h, now, u64::MAX), Some(Due::GivenBack)));
    Ok(held.map(|h| h.epoch))
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
        orders::tidy(on, at).await?;
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
