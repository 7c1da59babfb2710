//! Every later step of a runner's life, and the recording of events. The steps of many runners are
//! read in one statement, decided in memory and written in one.

use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::release::release;
use super::{read, row, words};
use crate::domain::audit::{Act, Note};
use crate::domain::event::{Draft, Event, EventType, of_runner};
use crate::domain::runner::{Change, Runner, State, Step};
use crate::domain::{Error, RunnerId};
use crate::ports::Applied;
use serde_json::json;
use std::collections::BTreeSet;

/// All of it or nothing: see the view in the schema. Answers with the last event's position.
const WRITE_SQLITE: &str = "
    INSERT INTO steps (id, state, seq, spec, started_at, ended_at, placement, exit, usage, old_state,
                       at, type, project, subject, actor, data, reserved, frozen_by)
    SELECT value ->> 'id', value ->> 'state', value ->> 'seq', value ->> 'spec', value ->> 'started_at',
           value ->> 'ended_at', value ->> 'placement', value ->> 'exit', value ->> 'usage',
           value ->> 'old_state', value ->> 'at', value ->> 'type', value ->> 'project',
           value ->> 'subject', value ->> 'actor', value ->> 'data', value ->> 'reserved', value ->> 'frozen_by'
      FROM json_each($1) ORDER BY key;
    SELECT max(position) FROM events";

/// A row that is no longer in the state it was read in is left alone, and the trigger on events
/// refuses its event.
const WRITE_POSTGRES: &str = "
    WITH n AS MATERIALIZED (
        SELECT * FROM json_to_recordset($1::JSON) AS n (
            id TEXT, state TEXT, seq BIGINT, spec TEXT, started_at BIGINT, ended_at BIGINT, placement TEXT,
            exit TEXT, usage TEXT, old_state TEXT, at BIGINT, type TEXT, project TEXT, subject TEXT,
            actor TEXT, data TEXT, position BIGINT, reserved BIGINT, frozen_by TEXT)
    ), r AS (
        UPDATE runners AS r
           SET state = n.state, seq = n.seq, spec = n.spec, started_at = n.started_at,
               ended_at = n.ended_at, placement = n.placement, exit = n.exit, usage = n.usage,
               reserved = n.reserved, frozen_by = n.frozen_by
          FROM n
         WHERE r.id = n.id AND r.state = n.old_state AND r.id = ANY (ARRAY(SELECT id FROM n))
    )
    INSERT INTO events (position, at, type, project, subject, seq, actor, data)
    SELECT position, at, type, project, subject, seq, actor, data FROM n";

/// Takes all steps in their order. One answer for each; an error is about them all.
pub(super) async fn apply_all(
    on: &mut Link,
    changes: &[&Change],
) -> Result<Vec<Result<Applied, Fail>>, Fail> {
    let ids: BTreeSet<String> = changes.iter().map(|change| change.id.to_string()).collect();
    let mut runners = read::these(on, &ids).await?;
    let mut answers = Vec::with_capacity(changes.len());
    let mut round = Round::default();
    let mut ended = Vec::new();
    for change in changes {
        if round.runners.contains(&change.id) {
            // Each transition is an update of its own: the schema looks at every one.
            round.write(on, &mut answers).await?;
        }
        let answer = match runners.get_mut(&change.id.to_string()) {
            None => Err(words::no_such_runner(change.id).into()),
            Some(Err(broken)) => Err(Fail::Broken(broken.clone())),
            Some(Ok(runner)) => match runner.apply(&change.step, change.at) {
                Ok(old) => {
                    if matches!(change.step, Step::End(..)) && old.is_live() {
                        ended.push(runner.clone());
                    }
                    step(on, change, runner, old, &mut round, answers.len()).await
                }
                Err(error) => taken_before(on, change, runner, error).await,
            },
        };
        if let Err(Fail::Sql(error)) = answer {
            return Err(error.into());
        }
        answers.push(answer);
    }
    round.write(on, &mut answers).await?;
    if !ended.is_empty() {
        release(on, &ended).await?;
    }
    Ok(answers)
}

/// Steps of different runners, written together.
#[derive(Default)]
struct Round {
    runners: BTreeSet<RunnerId>,
    rows: Vec<serde_json::Value>,
    positions: Vec<Option<i64>>,
    /// Which answers wait for the positions of their events.
    answers: Vec<usize>,
}

impl Round {
    async fn write(
        &mut self,
        on: &mut Link,
        answers: &mut [Result<Applied, Fail>],
    ) -> Result<(), Fail> {
        let Self {
            rows,
            positions,
            answers: whose,
            ..
        } = std::mem::take(self);
        if rows.is_empty() {
            return Ok(());
        }
        let last = on
            .maybe(
                on.pick(WRITE_SQLITE, WRITE_POSTGRES),
                vec![Value::json(&rows)?],
            )
            .await?;
        for (at, position) in whose.into_iter().zip(numbered(positions, last)?) {
            if let Some(Ok(Applied {
                event: Some(event), ..
            })) = answers.get_mut(at)
            {
                event.position = position;
            }
        }
        Ok(())
    }
}

/// The runner has taken its step in memory: it goes into the round. New limits, and who wants it
/// frozen, are no change of state and no event.
async fn step(
    on: &mut Link,
    change: &Change,
    runner: &mut Runner,
    old: State,
    round: &mut Round,
    answer: usize,
) -> Result<Applied, Fail> {
    let Some(kind) = EventType::of_step(&change.step) else {
        on.run(
            "UPDATE runners SET spec = $2, frozen_by = $3, placement = $4 WHERE id = $1",
            vec![
                runner.id.into(),
                Value::json(&runner.spec)?,
                runner.frozen_by.as_deref().into(),
                runner.placement.as_ref().map(row::json).transpose()?.into(),
            ],
        )
        .await?;
        match &change.step {
            Step::Limit(limits, _) => {
                let data = json!({ "runner": runner.id.to_string(), "host": runner.host, "limits": limits });
                on.note(|| act("act.set-limits", data, runner, change));
            }
            // Frozen by a hold or budget before, and now by somebody.
            Step::Keep(_) if change.actor.uid.is_some() => {
                let data = json!({ "runner": runner.id.to_string(), "host": runner.host });
                on.note(|| act("act.freeze", data, runner, change));
            }
            _ => {}
        }
        return Ok(Applied {
            runner: runner.clone(),
            old,
            event: None,
        });
    };
    runner.seq += 1;
    let draft = of_runner(kind, runner, Some(old), &change.actor, change.at);
    on.note(|| Note::of_event(&draft));
    let position = on.position();
    round.rows.push(json!({
        "id": runner.id.to_string(),
        "state": runner.state().as_str(),
        "seq": runner.seq,
        "spec": row::json(&runner.spec)?,
        "started_at": runner.started_at.0,
        "ended_at": runner.ended_at.0,
        "placement": runner.placement.as_ref().map(row::json).transpose()?,
        "exit": runner.exit.as_ref().map(row::json).transpose()?,
        "usage": runner.usage.as_ref().map(row::json).transpose()?,
        "old_state": old.as_str(),
        "at": draft.at.0,
        "type": draft.kind.short(),
        "project": draft.project,
        "subject": draft.subject,
        "actor": row::json(&draft.actor)?,
        "data": row::json(&draft.data)?,
        "position": position,
        "reserved": runner.reserved,
        "frozen_by": runner.frozen_by,
    }));
    round.runners.insert(runner.id);
    round.positions.push(position);
    round.answers.push(answer);
    Ok(Applied {
        runner: runner.clone(),
        old,
        event: Some(Event { position: 0, draft }),
    })
}

fn act(kind: &'static str, data: serde_json::Value, runner: &Runner, change: &Change) -> Note {
    Note::of_act(&Act {
        at: change.at,
        kind,
        project: runner.spec.project.to_string(),
        subject: format!("runner/{}", runner.id),
        actor: change.actor.clone(),
        result: "ok".to_owned(),
        data,
    })
}

/// The step is not possible now. If it is this very step that was taken before, its answer was lost:
/// it is given again.
async fn taken_before(
    on: &mut Link,
    change: &Change,
    runner: &Runner,
    error: Error,
) -> Result<Applied, Fail> {
    let Some(kind) = EventType::of_step(&change.step) else {
        return Err(error.into());
    };
    let found = on
        .maybe(
            "SELECT position, at, type, project, subject, seq, actor, data FROM events
              WHERE subject = $1 AND type = $2 AND at = $3 AND actor = $4",
            vec![
                format!("runner/{}", runner.id).into(),
                kind.short().into(),
                change.at.into(),
                Value::json(&change.actor)?,
            ],
        )
        .await?;
    let Some(event) = found.as_ref().map(row::event).transpose()? else {
        return Err(error.into());
    };
    let old = event.draft.data["old_state"]
        .as_str()
        .and_then(State::parse);
    Ok(Applied {
        runner: runner.clone(),
        old: old.unwrap_or(runner.state()),
        event: Some(event),
    })
}

/// The positions of events just written: those they were given, or the last ones there are.
pub(super) fn numbered(given: Vec<Option<i64>>, last: Option<Row>) -> Result<Vec<u64>, Fail> {
    let behind = match last {
        Some(last) => (last.count(0)? + 1).saturating_sub(given.len() as u64),
        None => 0,
    };
    let numbered = given.into_iter().zip(behind..);
    Ok(numbered
        .map(|(given, counted)| given.map_or(counted, i64::unsigned_abs))
        .collect())
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
    let position = on.position();
    let done = on
        .one(
            "INSERT INTO events (position, at, type, project, subject, seq, actor, data)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING position",
            vec![
                position.into(),
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
    on.note(|| Note::of_event(&draft));
    row::written(&done, draft)
}
