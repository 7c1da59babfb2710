//! Every later step of a runner's life, and the recording of events.

use super::fault::Fail;
use super::{read, row, words};
use crate::domain::event::{Draft, Event, EventType, of_runner};
use crate::domain::runner::{Change, Runner, State};
use crate::ports::Applied;
use sqlx::{Row, SqliteConnection};

/// All of it or nothing: see the view in the schema. Answers with the event's position.
const STEP: &str = "
    INSERT INTO steps (id, state, seq, spec, started_at, ended_at, placement, exit, usage, old_state,
                       at, type, project, subject, actor, data)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);
    SELECT max(position) FROM events";

pub(super) async fn apply(
    connection: &mut SqliteConnection,
    change: &Change,
) -> Result<Applied, Fail> {
    let Some(mut runner) = read::runner(&mut *connection, change.id).await? else {
        return Err(words::no_such_runner(change.id).into());
    };
    let old = runner.apply(&change.step, change.at)?;
    let Some(kind) = EventType::of_step(&change.step) else {
        return limited(connection, runner, old).await;
    };
    runner.seq += 1;
    let draft = of_runner(kind, &runner, Some(old), &change.actor, change.at);
    let done = sqlx::query(STEP)
        .bind(runner.id.to_string())
        .bind(runner.state().as_str())
        .bind(row::count(runner.seq))
        .bind(row::json(&runner.spec)?)
        .bind(row::time(runner.started_at))
        .bind(row::time(runner.ended_at))
        .bind(runner.placement.as_ref().map(row::json).transpose()?)
        .bind(runner.exit.as_ref().map(row::json).transpose()?)
        .bind(runner.usage.as_ref().map(row::json).transpose()?)
        .bind(old.as_str())
        .bind(row::time(draft.at))
        .bind(draft.kind.short())
        .bind(draft.project.as_str())
        .bind(draft.subject.as_str())
        .bind(row::json(&draft.actor)?)
        .bind(row::json(&draft.data)?)
        .fetch_one(connection)
        .await?;
    let event = Some(row::written(&done, draft)?);
    Ok(Applied { runner, old, event })
}

/// New limits are no change of state and no event.
async fn limited(
    connection: &mut SqliteConnection,
    runner: Runner,
    old: State,
) -> Result<Applied, Fail> {
    sqlx::query("UPDATE runners SET spec = $2 WHERE id = $1")
        .bind(runner.id.to_string())
        .bind(row::json(&runner.spec)?)
        .execute(connection)
        .await?;
    Ok(Applied {
        runner,
        old,
        event: None,
    })
}

/// Numbers and writes an event whose subject is not a runner.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    mut draft: Draft,
) -> Result<Event, Fail> {
    let next = sqlx::query(
        "INSERT INTO subjects (subject, seq) VALUES ($1, 1)
             ON CONFLICT (subject) DO UPDATE SET seq = seq + 1
             RETURNING seq",
    )
    .bind(draft.subject.as_str())
    .fetch_one(&mut *connection)
    .await?;
    draft.seq = next.try_get::<i64, _>(0)?.unsigned_abs();
    let done = sqlx::query(
        "INSERT INTO events (at, type, project, subject, seq, actor, data)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING position",
    )
    .bind(row::time(draft.at))
    .bind(draft.kind.short())
    .bind(draft.project.as_str())
    .bind(draft.subject.as_str())
    .bind(row::count(draft.seq))
    .bind(row::json(&draft.actor)?)
    .bind(row::json(&draft.data)?)
    .fetch_one(connection)
    .await?;
    row::written(&done, draft)
}
