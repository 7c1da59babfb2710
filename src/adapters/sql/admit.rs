//! T1: the decision about a launch, and its row, in one transaction.

use super::apply::record;
use super::denials::Denials;
use super::fail::Fail;
use super::link::{Link, Value};
use super::writer::{release, savepoint, undo};
use super::{Base, read, row, words};
use crate::domain::admission::{Account, Ask, Gate, Ledger, Seat};
use crate::domain::event::{Draft, Event, EventType, of_runner};
use crate::domain::{Error, Limits, Runner};
use crate::ports::{Admitted, NewRunner};
use serde_json::json;

/// Everything the decision needs: one row, whether or not the project exists.
const READ: &str = "
    SELECT p.max_runners, p.live, p.limits, coalesce(h.live, 0), q.runner, q.digest
      FROM (SELECT 1) AS one
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
    on: &mut Link,
    base: &dyn Base,
    denials: &mut Denials,
    new: &NewRunner,
) -> Result<Admitted, Fail> {
    let project = &new.spec.project;
    let request = new.request.as_ref();
    let found = on
        .one(
            READ,
            vec![
                project.into(),
                new.host.as_str().into(),
                request.map(|r| r.uid).into(),
                request.map(|r| r.id.as_str()).into(),
            ],
        )
        .await?;
    if let (Some(request), Some(runner)) = (&new.request, found.maybe_text(4)?) {
        if found.text(5)? != request.digest {
            return Err(words::request_differs(&request.id, runner).into());
        }
        let id = runner.parse().map_err(|e: Error| Fail::Broken(e.message))?;
        let runner = read::runner(on, id).await?;
        return runner.map(Admitted::Repeated).ok_or_else(|| {
            Fail::Broken(format!("runner {id} of request id {} is gone", request.id))
        });
    }
    let Some(limits) = found.maybe_text(2)? else {
        return Err(words::no_such_project(on, project).await);
    };
    let account = Account {
        live: found.number(1)?,
        max: found.maybe_number(0)?,
        ..Account::default()
    };
    let seat = Seat {
        name: new.host.clone(),
        live: found.number(3)?,
        max: new.host_max,
        cordon: None,
    };
    let mut ledger = Ledger::simple(project.clone(), account, new.host.clone(), seat);
    match ledger.admit(&Ask::of(new.id, &new.spec, &new.host, new.at)) {
        Ok(_) => write(on, base, new, row::limits(limits)?).await,
        Err(refusal) => {
            let event = denied(on, denials, new, &refusal.gate).await?;
            Ok(Admitted::Denied {
                gate: refusal.gate,
                error: refusal.error,
                event,
            })
        }
    }
}

async fn write(
    on: &mut Link,
    base: &dyn Base,
    new: &NewRunner,
    project_limits: Limits,
) -> Result<Admitted, Fail> {
    let mut runner = Runner::admitted(new.id, new.spec.clone(), new.host.clone(), new.at);
    runner.seq = 1;
    let draft = of_runner(EventType::RunnerStarting, &runner, None, &new.actor, new.at);
    let request = new.request.as_ref();
    let values = vec![
        runner.id.into(),
        draft.project.as_str().into(),
        runner.host.as_str().into(),
        runner.spec.name.as_deref().into(),
        runner.spec.uid.into(),
        Value::json(&runner.spec)?,
        new.at.into(),
        request.map(|r| r.uid).into(),
        request.map(|r| r.id.as_str()).into(),
        request.map(|r| r.digest.as_str()).into(),
        draft.kind.short().into(),
        draft.subject.as_str().into(),
        Value::json(&draft.actor)?,
        Value::json(&draft.data)?,
    ];
    let event = match on.one(WRITE, values).await {
        Err(Fail::Sql(error)) if base.is_rule(&error) => return Err(taken(on, new, error).await),
        done => row::written(&done?, draft)?,
    };
    Ok(Admitted::New {
        runner,
        project_limits,
        event,
    })
}

/// A rule of the schema stopped it: because the id is used already, or it is a bug.
async fn taken(on: &mut Link, new: &NewRunner, error: sqlx::Error) -> Fail {
    match read::runner(on, new.id).await {
        Ok(Some(_)) => words::id_taken(new.id).into(),
        _ => error.into(),
    }
}

async fn denied(
    on: &mut Link,
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
    savepoint(on).await?;
    let event = match record(on, draft).await {
        Ok(event) => event,
        Err(fail) => {
            undo(on).await?;
            return Err(fail);
        }
    };
    release(on).await?;
    denials.wrote(project, gate.name, &event);
    Ok(event)
}
