//! Rows to domain values and back.

use super::fault::Fail;
use crate::domain::event::{Actor, Draft, Event, EventType};
use crate::domain::project::ProjectSettings;
use crate::domain::runner::{Runner, State};
use crate::domain::{Project, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// The columns [`runner`] reads, of `runners AS r`.
macro_rules! runner_columns {
    () => {
        "r.id, r.spec, r.host, r.state, r.seq, r.created_at, r.started_at, r.ended_at, r.placement, r.exit, r.usage"
    };
}
pub(super) use runner_columns;

/// A time as SQLite has it: its integers are signed.
pub(super) fn time(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// Any count as SQLite has it.
pub(super) fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A value as JSON text.
pub(super) fn json<T: Serialize>(value: &T) -> Result<String, Fail> {
    serde_json::to_string(value).map_err(|e| Fail::Broken(format!("a value cannot be stored: {e}")))
}

fn parsed<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Fail> {
    serde_json::from_str(text)
        .map_err(|e| Fail::Broken(format!("the stored {what} cannot be read: {e}")))
}

fn maybe<T: DeserializeOwned>(what: &str, text: Option<&str>) -> Result<Option<T>, Fail> {
    text.map(|t| parsed(what, t)).transpose()
}

fn when(row: &SqliteRow, column: usize) -> Result<Timestamp, Fail> {
    Ok(Timestamp(unsigned(row, column)?))
}

fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, Fail> {
    Ok(row.try_get::<i64, _>(column)?.unsigned_abs())
}

/// A runner from [`runner_columns`].
pub(super) fn runner(row: &SqliteRow) -> Result<Runner, Fail> {
    let id: &str = row.try_get(0)?;
    let state: &str = row.try_get(3)?;
    let state = State::parse(state)
        .ok_or_else(|| Fail::Broken(format!("runner {id} has the unknown state {state}")))?;
    let mut runner = Runner::admitted(
        id.parse()
            .map_err(|_| Fail::Broken(format!("{id} is stored as a runner's id")))?,
        parsed("request", row.try_get(1)?)?,
        row.try_get(2)?,
        when(row, 5)?,
    );
    runner.seq = unsigned(row, 4)?;
    runner.started_at = when(row, 6)?;
    runner.ended_at = when(row, 7)?;
    runner.placement = maybe("placement", row.try_get(8)?)?;
    runner.exit = maybe("exit", row.try_get(9)?)?;
    runner.usage = maybe("usage", row.try_get(10)?)?;
    Ok(runner.stored(state))
}

/// A project from `name, description, max_runners, limits, live, created_at`.
pub(super) fn project(row: &SqliteRow) -> Result<Project, Fail> {
    let name: &str = row.try_get(0)?;
    Ok(Project {
        name: name
            .parse()
            .map_err(|_| Fail::Broken(format!("{name} is stored as a project's name")))?,
        settings: ProjectSettings {
            description: row.try_get(1)?,
            max_runners: row.try_get(2)?,
            limits: parsed("limits", row.try_get(3)?)?,
        },
        live: row.try_get(4)?,
        created_at: when(row, 5)?,
    })
}

/// An event from `position, at, type, project, subject, seq, actor, data`.
pub(super) fn event(row: &SqliteRow) -> Result<Event, Fail> {
    let kind: &str = row.try_get(2)?;
    Ok(Event {
        position: unsigned(row, 0)?,
        draft: Draft {
            kind: EventType::parse(kind)
                .ok_or_else(|| Fail::Broken(format!("an event has the unknown type {kind}")))?,
            project: row.try_get(3)?,
            subject: row.try_get(4)?,
            seq: unsigned(row, 5)?,
            at: when(row, 1)?,
            actor: parsed::<Actor>("actor", row.try_get(6)?)?,
            data: parsed("event", row.try_get(7)?)?,
        },
    })
}

/// Limits from their column.
pub(super) fn limits(text: &str) -> Result<crate::domain::Limits, Fail> {
    parsed("limits", text)
}

/// An event that was just written, from `position`.
pub(super) fn written(row: &SqliteRow, draft: Draft) -> Result<Event, Fail> {
    Ok(Event {
        position: unsigned(row, 0)?,
        draft,
    })
}
