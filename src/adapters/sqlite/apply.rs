//! Every later step of a runner's life, and the recording of events.

use super::fault::Fail;
use super::{read, row, words};
use crate::domain::event::{Draft, Event, EventType, of_runner};
use crate::domain::runner::{Change, Runner, State};
use crate::ports::Applied;
use sqlx::{Row, SqliteConnection};

/// Columns a step may change; the row must still be in the state it was read in.
macro_rules! update {
    () => {
        "UPDATE runners SET state = $2, seq = $3, spec = $4, started_at = $5, ended_at = $6,
                placement = $7, exit = $8, usage = $9
          WHERE id = $1 AND state = $10"
    };
}

const WITHOUT_EVENT: &str = update!();

/// If the row were not updated, the trigger on events would refuse the event.
const WITH_EVENT: &str = concat!(
    "SAVEPOINT op;",
    update!(),
    "; INSERT INTO events (at, type, project, subject, seq, actor, data)
        VALUES ($11, $12, $13, $14, $3, $15, $16);
     RELEASE op"
);

pub(super) async fn apply(
    connection: &mut SqliteConnection,
    change: &Change,
) -> Result<Applied, Fail> {
    let Some(mut runner) = read::runner(&mut *connection, change.id).await? else {
        return Err(words::no_such_runner(change.id).into());
    };
    let old = runner.apply(&change.step, change.at)?;
    let Some(kind) = EventType::of_step(&change.step) else {
        let done = bound(WITHOUT_EVENT, &runner, old)?
            .execute(connection)
            .await?;
        if done.rows_affected() != 1 {
            return Err(Fail::Broken(format!(
                "runner {} was changed by another program",
                runner.id
            )));
        }
        return Ok(Applied {
            runner,
            old,
            event: None,
        });
    };
    runner.seq += 1;
    let draft = of_runner(kind, &runner, Some(old), &change.actor, change.at);
    let done = bound(WITH_EVENT, &runner, old)?
        .bind(row::time(draft.at))
        .bind(draft.kind.short())
        .bind(draft.project.clone())
        .bind(draft.subject.clone())
        .bind(row::json(&draft.actor)?)
        .bind(row::json(&draft.data)?)
        .execute(connection)
        .await?;
    let event = Event {
        position: done.last_insert_rowid().unsigned_abs(),
        draft,
    };
    Ok(Applied {
        runner,
        old,
        event: Some(event),
    })
}

type Query = sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bound(sql: &'static str, runner: &Runner, old: State) -> Result<Query, Fail> {
    let placement = runner.placement.as_ref().map(row::json).transpose()?;
    let exit = runner.exit.as_ref().map(row::json).transpose()?;
    let usage = runner.usage.as_ref().map(row::json).transpose()?;
    Ok(sqlx::query(sql)
        .bind(runner.id.to_string())
        .bind(runner.state().as_str())
        .bind(row::count(runner.seq))
        .bind(row::json(&runner.spec)?)
        .bind(row::time(runner.started_at))
        .bind(row::time(runner.ended_at))
        .bind(placement)
        .bind(exit)
        .bind(usage)
        .bind(old.as_str()))
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
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(row::time(draft.at))
    .bind(draft.kind.short())
    .bind(draft.project.as_str())
    .bind(draft.subject.as_str())
    .bind(row::count(draft.seq))
    .bind(row::json(&draft.actor)?)
    .bind(row::json(&draft.data)?)
    .execute(connection)
    .await?;
    Ok(Event {
        position: done.last_insert_rowid().unsigned_abs(),
        draft,
    })
}
