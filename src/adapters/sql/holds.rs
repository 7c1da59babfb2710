//! Holds: setting, releasing and listing them, and ending those whose time has come.

use super::Work;
use super::apply::record;
use super::clock::now;
use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::locks::Locks;
use super::{read, words};
use crate::domain::event::{Actor, Draft, Event, EventType};
use crate::domain::hold::{HOLDS_MAX, Hold, HoldScope};
use crate::domain::{Error, ErrorKind, Timestamp};
use async_trait::async_trait;
use serde_json::json;

macro_rules! columns {
    () => {
        "SELECT scope, until, freezes, reason, actor, set_at FROM holds"
    };
}

pub(super) fn hold(row: &Row) -> Result<Hold, Fail> {
    let scope = row.text(0)?;
    Ok(Hold {
        scope: scope
            .parse()
            .map_err(|_| Fail::Broken(format!("{scope} is stored as the scope of a hold")))?,
        until: row.time(1)?.set(),
        freeze: row.int(2)? != 0,
        reason: row.text(3)?.to_owned(),
        actor: row.json(4, "actor")?,
        set_at: row.time(5)?,
    })
}

/// All holds that have not ended, by scope.
pub(super) async fn active(on: &mut Link) -> Result<Vec<Hold>, Fail> {
    let now = now(on).await?;
    let sql = concat!(columns!(), " WHERE until = 0 OR until > $1 ORDER BY scope");
    let rows = on.rows(sql, vec![now.into()]).await?;
    rows.iter().map(hold).collect()
}

fn draft(kind: EventType, hold: &Hold, actor: &Actor, at: Timestamp) -> Draft {
    let project = hold.scope.project();
    let scope = hold.scope.to_string();
    let data = match kind {
        EventType::HoldSet => json!({
            "scope": scope,
            "until": hold.until.map(|t| t.0),
            "freeze": hold.freeze,
            "reason": hold.reason,
        }),
        _ => json!({ "scope": scope }),
    };
    Draft {
        kind,
        project: project.map(ToString::to_string).unwrap_or_default(),
        subject: format!("hold/{scope}"),
        seq: 0,
        at,
        actor: actor.clone(),
        data,
    }
}

#[derive(Debug)]
pub(super) struct Set(pub(super) Hold);

#[async_trait]
impl Work for Set {
    type Done = (Hold, Event);

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Self(hold) = self;
        let now = now(on).await?;
        if !hold.is_active(now) {
            return Err(Error::invalid(format!(
                "A hold until {} would be over already: it is {}.",
                hold.until.unwrap_or_default().shown(),
                now.shown()
            ))
            .into());
        }
        if let Some(name) = hold.scope.project()
            && read::project(on, name).await?.is_none()
        {
            return Err(words::no_such_project(on, name, true).await);
        }
        let scope = hold.scope.to_string();
        let sql = "SELECT count(*) FROM holds WHERE scope <> $1";
        let others = on.one(sql, vec![scope.as_str().into()]).await?.count(0)?;
        if others >= HOLDS_MAX as u64 {
            return Err(Error::new(
                ErrorKind::LimitsExceeded,
                format!(
                    "There are {others} holds, and {HOLDS_MAX} may be at a time. Release some: stratavorectl hold list."
                ),
            )
            .into());
        }
        on.run(
            "INSERT INTO holds (scope, until, freezes, reason, actor, set_at) VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (scope) DO UPDATE SET until = excluded.until, freezes = excluded.freezes,
                     reason = excluded.reason, actor = excluded.actor, set_at = excluded.set_at",
            vec![
                scope.into(),
                hold.until.unwrap_or_default().into(),
                hold.freeze.into(),
                hold.reason.as_str().into(),
                Value::json(&hold.actor)?,
                hold.set_at.into(),
            ],
        )
        .await?;
        let draft = draft(EventType::HoldSet, hold, &hold.actor, hold.set_at);
        Ok((hold.clone(), record(on, draft).await?))
    }
}

#[derive(Debug)]
pub(super) struct Release {
    pub(super) scope: HoldScope,
    pub(super) actor: Actor,
    pub(super) at: Timestamp,
}

#[async_trait]
impl Work for Release {
    type Done = Event;

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Event, Fail> {
        let Self { scope, actor, at } = self;
        match release_of(on, scope, actor, *at).await? {
            Some(event) => Ok(event),
            None => {
                let message = format!(
                    "There is no hold of {scope}. See which there are: stratavorectl hold list."
                );
                Err(Error::new(ErrorKind::NoSuchHold, message).into())
            }
        }
    }
}

/// Ends the hold of this scope, if there is one.
pub(super) async fn release_of(
    on: &mut Link,
    scope: &HoldScope,
    actor: &Actor,
    at: Timestamp,
) -> Result<Option<Event>, Fail> {
    let sql = concat!(columns!(), " WHERE scope = $1");
    match on.maybe(sql, vec![scope.to_string().into()]).await? {
        Some(found) => release(on, &hold(&found)?, actor, at).await.map(Some),
        None => Ok(None),
    }
}

async fn release(on: &mut Link, hold: &Hold, actor: &Actor, at: Timestamp) -> Result<Event, Fail> {
    let scope = hold.scope.to_string();
    on.run("DELETE FROM holds WHERE scope = $1", vec![scope.into()])
        .await?;
    record(on, draft(EventType::HoldReleased, hold, actor, at)).await
}

/// Removes the holds whose time has come, with their events.
pub(super) async fn end(on: &mut Link, at: Timestamp) -> Result<Vec<Event>, Fail> {
    let now = now(on).await?;
    let sql = concat!(
        columns!(),
        " WHERE until > 0 AND until <= $1 ORDER BY until, scope"
    );
    let rows = on.rows(sql, vec![now.into()]).await?;
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        events.push(release(on, &hold(row)?, &Actor::host(), at).await?);
    }
    Ok(events)
}

/// [`end`] as a request of its own.
#[derive(Debug)]
pub(super) struct End {
    pub(super) at: Timestamp,
}

#[async_trait]
impl Work for End {
    type Done = Vec<Event>;

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Vec<Event>, Fail> {
        end(on, self.at).await
    }
}
