//! Every later step of a runner's life, and the recording of events.

use super::fail::Fail;
use super::link::{Link, Value};
use super::{read, row, words};
use crate::domain::event::{Draft, Event, EventType, of_runner};
use crate::domain::runner::{Change, Runner, State};
use crate::ports::Applied;

/// All of it or nothing: see the view in the schema. Answers with the event's position.
const STEP: &str = "
    INSERT INTO steps (id, state, seq, spec, started_at, ended_at, placement, exit, usage, old_state,
                       at, type, project, subject, actor, data)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);
    SELECT max(position) FROM events";

pub(super) async fn apply(on: &mut Link, change: &Change) -> Result<Applied, Fail> {
    let Some(mut runner) = read::runner(on, change.id).await? else {
        return Err(words::no_such_runner(change.id).into());
    };
    let old = runner.apply(&change.step, change.at)?;
    let Some(kind) = EventType::of_step(&change.step) else {
        return limited(on, runner, old).await;
    };
    runner.seq += 1;
    let draft = of_runner(kind, &runner, Some(old), &change.actor, change.at);
    let values = vec![
        runner.id.into(),
        runner.state().as_str().into(),
        runner.seq.into(),
        Value::json(&runner.spec)?,
        runner.started_at.into(),
        runner.ended_at.into(),
        runner.placement.as_ref().map(row::json).transpose()?.into(),
        runner.exit.as_ref().map(row::json).transpose()?.into(),
        runner.usage.as_ref().map(row::json).transpose()?.into(),
        old.as_str().into(),
        draft.at.into(),
        draft.kind.short().into(),
        draft.project.as_str().into(),
        draft.subject.as_str().into(),
        Value::json(&draft.actor)?,
        Value::json(&draft.data)?,
    ];
    let done = on.one(STEP, values).await?;
    let event = Some(row::written(&done, draft)?);
    Ok(Applied { runner, old, event })
}

/// New limits are no change of state and no event.
async fn limited(on: &mut Link, runner: Runner, old: State) -> Result<Applied, Fail> {
    on.run(
        "UPDATE runners SET spec = $2 WHERE id = $1",
        vec![runner.id.into(), Value::json(&runner.spec)?],
    )
    .await?;
    Ok(Applied {
        runner,
        old,
        event: None,
    })
}

/// Numbers and writes an event whose subject is not a runner.
pub(super) async fn record(on: &mut Link, mut draft: Draft) -> Result<Event, Fail> {
    let next = on
        .one(
            "INSERT INTO subjects (subject, seq) VALUES ($1, 1)
                 ON CONFLICT (subject) DO UPDATE SET seq = subjects.seq + 1
                 RETURNING seq",
            vec![draft.subject.as_str().into()],
        )
        .await?;
    draft.seq = next.count(0)?;
    let done = on
        .one(
            "INSERT INTO events (at, type, project, subject, seq, actor, data)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING position",
            vec![
                draft.at.into(),
                draft.kind.short().into(),
                draft.project.as_str().into(),
                draft.subject.as_str().into(),
                draft.seq.into(),
                Value::json(&draft.actor)?,
                Value::json(&draft.data)?,
            ],
        )
        .await?;
    row::written(&done, draft)
}
