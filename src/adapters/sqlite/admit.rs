//! T1: the decision about a launch, and its row, in one transaction.

use super::apply::record;
use super::denials::Denials;
use super::fault::{Fail, is_rule};
use super::writer::{release, savepoint};
use super::{read, row, words};
use crate::domain::admission::{Counts, Gate, decide, gates};
use crate::domain::event::{Draft, Event, EventType, of_runner};
use crate::domain::{Error, Limits, Runner};
use crate::ports::{Admitted, NewRunner};
use serde_json::json;
use sqlx::{Row, SqliteConnection};

/// Everything the decision needs: one row, whether or not the project exists.
const READ: &str = "
    SELECT p.max_runners, p.live, p.limits, coalesce(h.live, 0), q.runner, q.digest
      FROM (SELECT 1)
      LEFT JOIN projects p ON p.name = $1
      LEFT JOIN hosts h ON h.host = $2
      LEFT JOIN requests q ON q.uid = $3 AND q.request_id = $4";

/// All of it or nothing: see the view in the schema. Answers with the event's position.
const WRITE: &str = "
    INSERT INTO admissions (id, project, host, name, uid, spec, created_at,
                            request_uid, request_id, digest, type, subject, actor, data)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);
    SELECT max(position) FROM events";

pub(super) async fn admit(
    connection: &mut SqliteConnection,
    denials: &mut Denials,
    new: &NewRunner,
) -> Result<Admitted, Fail> {
    let project = &new.spec.project;
    let found = sqlx::query(READ)
        .bind(project.as_str())
        .bind(&new.host)
        .bind(new.request.as_ref().map(|r| r.uid))
        .bind(new.request.as_ref().map(|r| r.id.as_str()))
        .fetch_one(&mut *connection)
        .await?;
    if let (Some(request), Some(runner)) = (&new.request, found.try_get::<Option<&str>, _>(4)?) {
        if found.try_get::<&str, _>(5)? != request.digest {
            return Err(words::request_differs(&request.id, runner).into());
        }
        let id = runner.parse().map_err(|e: Error| Fail::Broken(e.message))?;
        let runner = read::runner(&mut *connection, id).await?;
        return runner.map(Admitted::Repeated).ok_or_else(|| {
            Fail::Broken(format!("runner {id} of request id {} is gone", request.id))
        });
    }
    let Some(limits) = found.try_get::<Option<&str>, _>(2)? else {
        return Err(words::no_such_project(connection, project).await);
    };
    let counts = Counts {
        project: project.clone(),
        project_live: found.try_get(1)?,
        project_max: found.try_get(0)?,
        host_live: found.try_get(3)?,
        host_max: new.host_max,
    };
    match decide(&gates(&counts, &new.host)) {
        Ok(()) => write(connection, new, row::limits(limits)?).await,
        Err((gate, error)) => {
            let event = denied(connection, denials, new, &gate).await?;
            Ok(Admitted::Denied { gate, error, event })
        }
    }
}

async fn write(
    connection: &mut SqliteConnection,
    new: &NewRunner,
    project_limits: Limits,
) -> Result<Admitted, Fail> {
    let mut runner = Runner::admitted(new.id, new.spec.clone(), new.host.clone(), new.at);
    runner.seq = 1;
    let draft = of_runner(EventType::RunnerStarting, &runner, None, &new.actor, new.at);
    let request = new.request.as_ref();
    let done = sqlx::query(WRITE)
        .bind(runner.id.to_string())
        .bind(draft.project.as_str())
        .bind(&runner.host)
        .bind(runner.spec.name.as_deref())
        .bind(runner.spec.uid)
        .bind(row::json(&runner.spec)?)
        .bind(row::time(new.at))
        .bind(request.map(|r| r.uid))
        .bind(request.map(|r| r.id.as_str()))
        .bind(request.map(|r| r.digest.as_str()))
        .bind(draft.kind.short())
        .bind(draft.subject.as_str())
        .bind(row::json(&draft.actor)?)
        .bind(row::json(&draft.data)?)
        .fetch_one(&mut *connection)
        .await;
    let event = match done {
        Err(error) if is_rule(&error) => return Err(taken(connection, new, error).await),
        done => row::written(&done?, draft)?,
    };
    Ok(Admitted::New {
        runner,
        project_limits,
        event,
    })
}

/// A rule of the schema stopped it: because the id is used already, or it is a bug.
async fn taken(connection: &mut SqliteConnection, new: &NewRunner, error: sqlx::Error) -> Fail {
    match read::runner(connection, new.id).await {
        Ok(Some(_)) => words::id_taken(new.id).into(),
        _ => error.into(),
    }
}

async fn denied(
    connection: &mut SqliteConnection,
    denials: &mut Denials,
    new: &NewRunner,
    gate: &Gate,
) -> Result<Event, Fail> {
    let project = new.spec.project.as_str();
    let count = match denials.note(project, gate.name, new.at) {
        Ok(event) => return Ok(event),
        Err(count) => count,
    };
    let draft = Draft {
        kind: EventType::AdmissionDenied,
        project: project.to_owned(),
        subject: format!("admission/{project}"),
        seq: 0,
        at: new.at,
        actor: new.actor.clone(),
        data: json!({
            "project": project,
            "host": new.host,
            "gate": gate.name,
            "limit": gate.limit,
            "used": gate.used,
            "requested": gate.requested,
            "count": count,
        }),
    };
    savepoint(connection).await?;
    let event = record(connection, draft).await?;
    release(connection).await?;
    denials.wrote(project, gate.name, &event);
    Ok(event)
}
