//! T1: the decisions about launches, and their rows, in one transaction: one statement reads what
//! all of them need, each is decided with those before it counted, one statement writes.

use super::apply::{numbered, record};
use super::denials::Denials;
use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::{read, row, words};
use crate::domain::admission::{Account, Ask, Gate, Ledger, Refusal, Seat};
use crate::domain::event::{Draft, Event, EventType, of_runner};
use crate::domain::{Error, Limits, Runner, RunnerId};
use crate::ports::{Admitted, NewRunner};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Everything the decisions need: one row for each launch, whether or not its project exists.
macro_rules! read {
    ($asked:literal) => {
        concat!(
            "SELECT p.max_runners, p.live, p.limits, coalesce(h.live, 0), q.runner, q.digest, t.id
               FROM ",
            $asked,
            " LEFT JOIN projects p ON p.name = n.project
               LEFT JOIN hosts h ON h.host = n.host
               LEFT JOIN requests q ON q.uid = n.uid AND q.request_id = n.request
               LEFT JOIN runners t ON t.id = n.id
              ORDER BY n.i"
        )
    };
}
const READ_SQLITE: &str = read!(
    "(SELECT key AS i, value ->> 'id' AS id, value ->> 'project' AS project, value ->> 'host' AS host,
             value ->> 'uid' AS uid, value ->> 'request' AS request FROM json_each($1)) AS n"
);
const READ_POSTGRES: &str = read!(
    "ROWS FROM (json_to_recordset($1::JSON) AS (id TEXT, project TEXT, host TEXT, uid BIGINT, request TEXT))
         WITH ORDINALITY AS n (id, project, host, uid, request, i)"
);

/// All of it or nothing: see the view in the schema. Answers with the last event's position.
const WRITE_SQLITE: &str = "
    INSERT INTO admissions (id, project, host, name, uid, spec, created_at,
                            request_uid, request_id, digest, type, subject, actor, data)
    SELECT value ->> 'id', value ->> 'project', value ->> 'host', value ->> 'name', value ->> 'uid',
           value ->> 'spec', value ->> 'at', value ->> 'request_uid', value ->> 'request_id',
           value ->> 'digest', value ->> 'type', value ->> 'subject', value ->> 'actor', value ->> 'data'
      FROM json_each($1) ORDER BY key;
    SELECT max(position) FROM events";

const WRITE_POSTGRES: &str = "
    WITH n AS MATERIALIZED (
        SELECT * FROM json_to_recordset($1::JSON) AS n (
            id TEXT, project TEXT, host TEXT, name TEXT, uid BIGINT, spec TEXT, at BIGINT,
            request_uid BIGINT, request_id TEXT, digest TEXT, type TEXT, subject TEXT, actor TEXT,
            data TEXT, position BIGINT)
    ), r AS (
        INSERT INTO runners (id, project, host, state, name, uid, spec, seq, created_at, started_at, ended_at)
        SELECT id, project, host, 'starting', name, uid, spec, 1, at, 0, 0 FROM n
    ), l AS (
        INSERT INTO labels (runner, key, value)
        SELECT n.id, e.key, e.value FROM n, json_each_text(n.spec::JSON -> 'labels') AS e
    ), q AS (
        INSERT INTO requests (uid, request_id, digest, runner)
        SELECT request_uid, request_id, digest, id FROM n WHERE request_id IS NOT NULL
    )
    INSERT INTO events (position, at, type, project, subject, seq, actor, data)
    SELECT position, at, type, project, subject, 1, actor, data FROM n";

/// What was decided about one launch.
enum Verdict {
    New(Box<(Runner, Limits, Draft)>),
    Repeated(RunnerId),
    Denied(Refusal),
    NoProject,
    Failed(Fail),
}

/// What was read, with what was decided since.
#[derive(Default)]
struct Desk {
    ledger: Ledger,
    requests: HashMap<(u32, String), (String, RunnerId)>,
    ids: HashSet<RunnerId>,
}

/// Decides about all of them, in their order, and writes. One answer for each; an error is about
/// them all.
pub(super) async fn admit_all(
    on: &mut Link,
    denials: &mut Denials,
    news: &[&NewRunner],
) -> Result<Vec<Result<Admitted, Fail>>, Fail> {
    let asked: Vec<_> = news
        .iter()
        .map(|new| {
            json!({
                "id": new.id.to_string(),
                "project": new.spec.project.as_str(),
                "host": new.host,
                "uid": new.request.as_ref().map(|r| r.uid),
                "request": new.request.as_ref().map(|r| r.id.as_str()),
            })
        })
        .collect();
    let found = on
        .rows(
            on.pick(READ_SQLITE, READ_POSTGRES),
            vec![Value::json(&asked)?],
        )
        .await?;
    let mut desk = Desk::default();
    let mut verdicts = Vec::with_capacity(news.len());
    for (new, found) in news.iter().zip(&found) {
        verdicts.push(desk.decide(new, found).unwrap_or_else(Verdict::Failed));
    }
    let mut events = write(on, news, &verdicts).await?.into_iter();
    let mut answers = Vec::with_capacity(news.len());
    for (new, verdict) in news.iter().zip(verdicts) {
        answers.push(match verdict {
            Verdict::New(made) => {
                let (runner, project_limits, draft) = *made;
                let position = events.next().unwrap_or_default();
                Ok(Admitted::New {
                    runner,
                    project_limits,
                    event: Event { position, draft },
                })
            }
            Verdict::Repeated(id) => {
                let gone = || Fail::Broken(format!("runner {id} of a request id is gone"));
                read::runner(on, id)
                    .await?
                    .map(Admitted::Repeated)
                    .ok_or_else(gone)
            }
            Verdict::Denied(Refusal { gate, error, .. }) => {
                let event = denied(on, denials, new, &gate).await?;
                Ok(Admitted::Denied { gate, error, event })
            }
            Verdict::NoProject => Err(words::no_such_project(on, &new.spec.project).await),
            Verdict::Failed(fail) => Err(fail),
        });
    }
    Ok(answers)
}

impl Desk {
    fn decide(&mut self, new: &NewRunner, found: &Row) -> Result<Verdict, Fail> {
        let project = &new.spec.project;
        if let Some(request) = &new.request {
            let key = (request.uid, request.id.clone());
            let used = match (self.requests.get(&key), found.maybe_text(4)?) {
                (Some((digest, id)), _) => Some((digest.as_str(), *id)),
                (None, Some(id)) => {
                    let id = id.parse().map_err(|e: Error| Fail::Broken(e.message))?;
                    Some((found.text(5)?, id))
                }
                (None, None) => None,
            };
            if let Some((digest, id)) = used {
                return Ok(match digest == request.digest {
                    true => Verdict::Repeated(id),
                    false => Verdict::Failed(words::request_differs(&request.id, id).into()),
                });
            }
        }
        if found.maybe_text(2)?.is_none() {
            return Ok(Verdict::NoProject);
        }
        if found.maybe_text(6)?.is_some() || self.ids.contains(&new.id) {
            return Ok(Verdict::Failed(words::id_taken(new.id).into()));
        }
        if !self.ledger.projects.contains_key(project) {
            let account = Account {
                live: found.number(1)?,
                max: found.maybe_number(0)?,
                ..Account::default()
            };
            self.ledger.projects.insert(project.clone(), account);
        }
        if !self.ledger.hosts.contains_key(&new.host) {
            let seat = Seat {
                name: new.host.clone(),
                live: found.number(3)?,
                max: new.host_max,
                cordon: None,
            };
            self.ledger.hosts.insert(new.host.clone(), seat);
        }
        if let Err(refusal) = self
            .ledger
            .admit(&Ask::of(new.id, &new.spec, &new.host, new.at))
        {
            return Ok(Verdict::Denied(refusal));
        }
        self.ids.insert(new.id);
        let limits = found.json(2, "limits")?;
        if let Some(request) = &new.request {
            let key = (request.uid, request.id.clone());
            self.requests.insert(key, (request.digest.clone(), new.id));
        }
        let mut runner = Runner::admitted(new.id, new.spec.clone(), new.host.clone(), new.at);
        runner.seq = 1;
        let draft = of_runner(EventType::RunnerStarting, &runner, None, &new.actor, new.at);
        Ok(Verdict::New(Box::new((runner, limits, draft))))
    }
}

/// Writes those that are new; the positions of their events.
async fn write(on: &mut Link, news: &[&NewRunner], verdicts: &[Verdict]) -> Result<Vec<u64>, Fail> {
    let mut rows = Vec::new();
    let mut positions = Vec::new();
    for (new, verdict) in news.iter().zip(verdicts) {
        let Verdict::New(made) = verdict else {
            continue;
        };
        let (runner, _, draft) = &**made;
        let position = on.position();
        let request = new.request.as_ref();
        rows.push(json!({
            "id": runner.id.to_string(),
            "project": draft.project,
            "host": runner.host,
            "name": runner.spec.name,
            "uid": runner.spec.uid,
            "spec": row::json(&runner.spec)?,
            "at": new.at.0,
            "request_uid": request.map(|r| r.uid),
            "request_id": request.map(|r| r.id.as_str()),
            "digest": request.map(|r| r.digest.as_str()),
            "type": draft.kind.short(),
            "subject": draft.subject,
            "actor": row::json(&draft.actor)?,
            "data": row::json(&draft.data)?,
            "position": position,
        }));
        positions.push(position);
    }
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let last = on
        .maybe(
            on.pick(WRITE_SQLITE, WRITE_POSTGRES),
            vec![Value::json(&rows)?],
        )
        .await?;
    numbered(positions, last)
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
    let event = record(on, draft).await?;
    denials.wrote(project, gate.name, &event);
    Ok(event)
}
