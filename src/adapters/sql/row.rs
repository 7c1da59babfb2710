//! Rows to domain values and back.

use super::fail::Fail;
use super::link::Row;
use crate::domain::Project;
use crate::domain::event::{Actor, Draft, Event, EventType};
use crate::domain::project::ProjectSettings;
use crate::domain::runner::{Runner, State};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The columns [`runner`] reads, of `runners AS r`.
macro_rules! runner_columns {
    () => {
        "r.id, r.spec, r.host, r.state, r.seq, r.created_at, r.started_at, r.ended_at, r.placement, r.exit, r.usage, r.tokens, r.reserved, r.frozen_by"
    };
}
pub(super) use runner_columns;

/// A value as JSON text.
pub(super) fn json<T: Serialize>(value: &T) -> Result<String, Fail> {
    serde_json::to_string(value).map_err(|e| Fail::Broken(format!("a value cannot be stored: {e}")))
}

/// JSON text as a value.
pub(super) fn parsed<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Fail> {
    serde_json::from_str(text)
        .map_err(|e| Fail::Broken(format!("the stored {what} cannot be read: {e}")))
}

/// A runner from [`runner_columns`].
pub(super) fn runner(row: &Row) -> Result<Runner, Fail> {
    let id = row.text(0)?;
    let state = row.text(3)?;
    let state = State::parse(state)
        .ok_or_else(|| Fail::Broken(format!("runner {id} has the unknown state {state}")))?;
    let mut runner = Runner::admitted(
        id.parse()
            .map_err(|_| Fail::Broken(format!("{id} is stored as a runner's id")))?,
        row.json(1, "request")?,
        row.text(2)?.to_owned(),
        row.time(5)?,
    );
    runner.seq = row.count(4)?;
    runner.started_at = row.time(6)?;
    runner.ended_at = row.time(7)?;
    runner.placement = row.maybe_json(8, "placement")?;
    runner.exit = row.maybe_json(9, "exit")?;
    runner.usage = row.maybe_json(10, "usage")?;
    runner.tokens = row.json(11, "tokens")?;
    runner.reserved = row.count(12)?;
    runner.frozen_by = row.maybe_text(13)?.map(str::to_owned);
    Ok(runner.stored(state))
}

/// A project from `name, description, max_runners, limits, live, created_at, max_queued, default_tokens, queued`.
pub(super) fn project(row: &Row) -> Result<Project, Fail> {
    let name = row.text(0)?;
    Ok(Project {
        name: name
            .parse()
            .map_err(|_| Fail::Broken(format!("{name} is stored as a project's name")))?,
        settings: ProjectSettings {
            description: row.text(1)?.to_owned(),
            max_runners: row.maybe_number(2)?,
            limits: row.json(3, "limits")?,
            max_queued: row.maybe_number(6)?,
            default_tokens: row.maybe_int(7)?.map(i64::unsigned_abs),
        },
        live: row.number(4)?,
        queued: row.number(8)?,
        created_at: row.time(5)?,
    })
}

/// An event from `position, at, type, project, subject, seq, actor, data`.
pub(super) fn event(row: &Row) -> Result<Event, Fail> {
    let kind = row.text(2)?;
    Ok(Event {
        position: row.count(0)?,
        draft: Draft {
            kind: EventType::parse(kind)
                .ok_or_else(|| Fail::Broken(format!("an event has the unknown type {kind}")))?,
            project: row.text(3)?.to_owned(),
            subject: row.text(4)?.to_owned(),
            seq: row.count(5)?,
            at: row.time(1)?,
            actor: row.json::<Actor>(6, "actor")?,
            data: row.json(7, "event")?,
        },
    })
}

/// An event that was just written, from `position`.
pub(super) fn written(row: &Row, draft: Draft) -> Result<Event, Fail> {
    Ok(Event {
        position: row.count(0)?,
        draft,
    })
}
