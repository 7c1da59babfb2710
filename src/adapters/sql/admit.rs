//! T1: the decisions about launches, and their rows, in one transaction: one statement reads what
//! all of them need, each is decided with those before it counted, one statement writes.

use super::apply::{numbered, record};
use super::denials::Denials;
use super::fail::Fail;
use super::ledger::{Book, Concern};
use super::link::{Link, Row, Value};
use super::{orders, read, row, words};
use crate::domain::admission::{Ask, Gate, Refusal};
use crate::domain::audit::Note;
use crate::domain::event::{Draft, Event, EventType, of_runner};
use crate::domain::{Error, Limits, Runner, RunnerId, Timestamp};
use crate::ports::{Admitted, NewRunner};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What was there before: one row for each launch, whether or not its project exists. Looked up one by
/// one, whatever a planner knows of the tables' sizes.
macro_rules! read {
    ($asked:literal) => {
        concat!(
            "SELECT (SELECT limits FROM projects WHERE name = n.project),
                    (SELECT runner FROM requests q WHERE q.uid = n.uid AND q.request_id = n.request),
                    (SELECT digest FROM requests q WHERE q.uid = n.uid AND q.request_id = n.request),
                    (SELECT id FROM runners r WHERE r.id = n.id)
               FROM ",
            $asked,
            " ORDER BY n.i"
        )
    };
}
const READ_SQLITE: &str = read!(
    "(SELECT key AS i, value ->> 'id' AS id, value ->> 'project' AS project, value ->> 'uid' AS uid, value ->> 'request' AS request FROM json_each($1)) AS n"
);
const READ_POSTGRES: &str = read!(
    "ROWS FROM (json_to_recordset($1::JSON) AS (id TEXT, project TEXT, uid BIGINT, request TEXT))
         WITH ORDINALITY AS n (id, project, uid, request, i)"
);

/// All of it or nothing: see the view in the schema. Answers with the last event's position.
const WRITE_SQLITE: &str = "
    INSERT INTO admissions (id, project, host, name, uid, spec, created_at,
                            request_uid, request_id, digest, type, subject, actor, data,
                            state, priority, session, reserved, queued_at)
    SELECT value ->> 'id', value ->> 'project', value ->> 'host', value ->> 'name', value ->> 'uid',
           value ->> 'spec', value ->> 'at', value ->> 'request_uid', value ->> 'request_id',
           value ->> 'digest', value ->> 'type', value ->> 'subject', value ->> 'actor', value ->> 'data',
           value ->> 'state', value ->> 'priority', value ->> 'session', value ->> 'reserved', value ->> 'queued_at'
      FROM json_each($1) ORDER BY key;
    SELECT max(position) FROM events";

const WRITE_POSTGRES: &str = "
    WITH n AS MATERIALIZED (
        SELECT * FROM json_to_recordset($1::JSON) AS n (
            id TEXT, project TEXT, host TEXT, name TEXT, uid BIGINT, spec TEXT, at BIGINT,
            request_uid BIGINT, request_id TEXT, digest TEXT, type TEXT, subject TEXT, actor TEXT,
            data TEXT, position BIGINT, state TEXT, priority BIGINT, session TEXT, reserved BIGINT,
            queued_at BIGINT, labels JSON)
    ), r AS (
        INSERT INTO runners (id, project, host, state, name, uid, spec, seq, created_at, started_at, ended_at,
                             priority, session, reserved, queued_at)
        SELECT id, project, host, state, name, uid, spec, 1, at, 0, 0, priority, session, reserved, queued_at FROM n
    ), l AS (
        INSERT INTO labels (runner, key, value)
        SELECT n.id, e.key, e.value FROM n, json_each_text(n.labels) AS e
    ), q AS (
        INSERT INTO requests (uid, request_id, digest, runner)
        SELECT request_uid, request_id, digest, id FROM n WHERE request_id IS NOT NULL
    )
    INSERT INTO events (position, at, type, project, subject, seq, actor, data)
    SELECT position, at, type, project, subject, 1, actor, data FROM n";

/// What is looked up of a launch.
#[derive(Serialize)]
struct Asked<'a> {
    id: String,
    project: &'a str,
    uid: Option<u32>,
    request: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn of(new: &'a NewRunner) -> Self {
        let request = new.request.as_ref();
        Self {
            id: new.id.to_string(),
            project: new.spec.project.as_str(),
            uid: request.map(|r| r.uid),
            request: request.map(|r| r.id.as_str()),
        }
    }
}

/// A new runner and its event, as they are written.
#[derive(Serialize)]
struct Fresh<'a> {
    id: String,
    project: &'a str,
    host: &'a str,
    name: Option<&'a str>,
    uid: u32,
    spec: String,
    at: u64,
    request_uid: Option<u32>,
    request_id: Option<&'a str>,
    digest: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    actor: String,
    data: String,
    position: Option<i64>,
    state: &'a str,
    priority: i32,
    session: Option<&'a str>,
    reserved: u64,
    queued_at: u64,
    /// Also in its specification, which is not taken apart again for the few that have any.
    labels: Option<&'a BTreeMap<String, String>>,
}

/// What was decided about one launch.
enum Verdict {
    New(Box<(Runner, Limits, Draft)>),
    Queued(Box<(Runner, Draft)>, Box<Gate>),
    Repeated(RunnerId),
    Denied(Refusal),
    NoProject,
    Failed(Fail),
}

/// What was read, with what was decided since.
#[derive(Default)]
struct Desk {
    book: Book,
    requests: HashMap<(u32, String), (String, RunnerId)>,
    ids: HashSet<RunnerId>,
    /// Orders of other hosts that are not withdrawn.
    open: BTreeSet<String>,
}

/// Decides about all of them, in their order, and writes. One answer for each; an error is about
/// them all.
pub(super) async fn admit_all(
    on: &mut Link,
    denials: &mut Denials,
    news: &[&NewRunner],
) -> Result<Vec<Result<Admitted, Fail>>, Fail> {
    let mut concern = Concern::default();
    for new in news {
        concern.add(&new.spec, &new.host, new.host_max);
    }
    // Who withdraws several at once may take their rows in another order: one of both is done again then.
    let open = orders::open(on, news).await?;
    let book = match Book::open(on, &concern, true).await {
        Ok(book) => book,
        // Nothing is written yet: a row that can't be read fails those alone whom it is about.
        Err(Fail::Broken(why)) if news.len() == 1 => return Ok(vec![Err(Fail::Broken(why))]),
        Err(Fail::Broken(_)) => {
            let mut answers = Vec::with_capacity(news.len());
            for new in news {
                answers.extend(Box::pin(admit_all(on, denials, &[new])).await?);
            }
            return Ok(answers);
        }
        Err(fail) => return Err(fail),
    };
    let asked: Vec<_> = news.iter().map(|new| Asked::of(new)).collect();
    let found = on
        .rows(
            on.pick(READ_SQLITE, READ_POSTGRES),
            vec![Value::json(&asked)?],
        )
        .await?;
    let mut desk = Desk {
        book,
        open,
        ..Desk::default()
    };
    let mut verdicts = Vec::with_capacity(news.len());
    for (new, found) in news.iter().zip(&found) {
        verdicts.push(desk.decide(new, found).unwrap_or_else(Verdict::Failed));
    }
    let mut events = write(on, news, &verdicts, desk.book.ledger.now)
        .await?
        .into_iter();
    desk.book.write(on).await?;
    let repeated: BTreeSet<String> = verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Repeated(id) => Some(id.to_string()),
            _ => None,
        })
        .collect();
    let repeated = match repeated.is_empty() {
        true => HashMap::new(),
        false => read::these(on, &repeated).await?,
    };
    let names = match verdicts.iter().any(|v| matches!(v, Verdict::NoProject)) {
        true => words::project_names(on).await?,
        false => Vec::new(),
    };
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
            Verdict::Queued(made, gate) => {
                let (runner, draft) = *made;
                let position = events.next().unwrap_or_default();
                let event = Event { position, draft };
                Ok(Admitted::Queued {
                    runner,
                    gate,
                    event,
                })
            }
            Verdict::Repeated(id) => match repeated.get(&id.to_string()) {
                Some(Ok(runner)) => Ok(Admitted::Repeated(runner.clone())),
                Some(Err(broken)) => Err(Fail::Broken(broken.clone())),
                None => Err(Fail::Broken(format!("runner {id} of a request id is gone"))),
            },
            Verdict::Denied(Refusal { gate, error, .. }) => {
                let event = denied(on, denials, new, &gate).await?;
                Ok(Admitted::Denied { gate, error, event })
            }
            Verdict::NoProject => {
                Err(words::unknown_project(&new.spec.project, &names, true).into())
            }
            Verdict::Failed(fail) => Err(fail),
        });
    }
    Ok(answers)
}

impl Desk {
    fn decide(&mut self, new: &NewRunner, found: &Row) -> Result<Verdict, Fail> {
        if new.order.as_ref().is_some_and(|id| !self.open.remove(id)) {
            return Ok(Verdict::Failed(orders::closed().into()));
        }
        if let Some(request) = &new.request {
            let key = (request.uid, request.id.clone());
            let used = match (self.requests.get(&key), found.maybe_text(1)?) {
                (Some((digest, id)), _) => Some((digest.as_str(), *id)),
                (None, Some(id)) => {
                    let id = id.parse().map_err(|e: Error| Fail::Broken(e.message))?;
                    Some((found.text(2)?, id))
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
        if let Some(full) = &new.full {
            return Ok(Verdict::Failed(full.clone().into()));
        }
        if found.maybe_text(0)?.is_none() {
            return Ok(Verdict::NoProject);
        }
        if found.maybe_text(3)?.is_some() || self.ids.contains(&new.id) {
            return Ok(Verdict::Failed(words::id_taken(new.id).into()));
        }
        // Before anything is charged: what can't be read fails the launch.
        let limits = found.json(0, "limits")?;
        let ask = Ask::of(new.id, &new.spec, &new.host, self.book.ledger.now);
        let mut waits = None;
        let mut reserved = 0;
        match self.book.admit(&ask) {
            Ok(tokens) => reserved = tokens,
            Err(refusal) if new.queue && refusal.waits => {
                let ledger = &mut self.book.ledger;
                if let Err(full) = ledger.may_wait(&ask) {
                    return Ok(Verdict::Denied(full));
                }
                if let Some(account) = ledger.projects.get_mut(&ask.project) {
                    account.queued += 1;
                }
                ledger.waiting.push(ask);
                waits = Some(refusal.gate);
            }
            Err(refusal) => return Ok(Verdict::Denied(refusal)),
        }
        self.ids.insert(new.id);
        if let Some(request) = &new.request {
            let key = (request.uid, request.id.clone());
            self.requests.insert(key, (request.digest.clone(), new.id));
        }
        let (id, spec, host) = (new.id, new.spec.clone(), new.host.clone());
        if let Some(gate) = waits {
            let mut runner = Runner::queued(id, spec, host, new.at);
            runner.seq = 1;
            let mut draft = of_runner(EventType::RunnerQueued, &runner, None, &new.actor, new.at);
            draft.data["gate"] = json!(gate.name);
            return Ok(Verdict::Queued(Box::new((runner, draft)), gate));
        }
        let mut runner = Runner::admitted(id, spec, host, new.at);
        (runner.seq, runner.reserved) = (1, reserved);
        let draft = of_runner(EventType::RunnerStarting, &runner, None, &new.actor, new.at);
        Ok(Verdict::New(Box::new((runner, limits, draft))))
    }
}

/// Writes those that start and those that wait; the positions of their events.
async fn write(
    on: &mut Link,
    news: &[&NewRunner],
    verdicts: &[Verdict],
    now: Timestamp,
) -> Result<Vec<u64>, Fail> {
    let mut rows = Vec::new();
    let mut positions = Vec::new();
    let mut begun = Vec::new();
    for (new, verdict) in news.iter().zip(verdicts) {
        let (runner, draft, queued_at) = match verdict {
            Verdict::New(made) => (&made.0, &made.2, Timestamp(0)),
            Verdict::Queued(made, _) => (&made.0, &made.1, now),
            _ => continue,
        };
        on.note(|| Note::of_event(draft));
        let position = on.position();
        let request = new.request.as_ref();
        begun.extend(new.order.as_deref());
        rows.push(Fresh {
            id: runner.id.to_string(),
            project: &draft.project,
            host: &runner.host,
            name: runner.spec.name.as_deref(),
            uid: runner.spec.uid,
            spec: row::json(&runner.spec)?,
            at: new.at.0,
            request_uid: request.map(|r| r.uid),
            request_id: request.map(|r| r.id.as_str()),
            digest: request.map(|r| r.digest.as_str()),
            kind: draft.kind.short(),
            subject: &draft.subject,
            actor: row::json(&draft.actor)?,
            data: row::json(&draft.data)?,
            position,
            state: runner.state().as_str(),
            priority: runner.spec.priority,
            session: runner.spec.session.as_deref(),
            reserved: runner.reserved,
            queued_at: queued_at.0,
            labels: Some(&runner.spec.labels).filter(|labels| !labels.is_empty()),
        });
        positions.push(position);
    }
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    orders::begin(on, &begun, now).await?;
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
    let count = match denials.note(project, gate.name, &new.actor, new.at) {
        Ok(event) => return Ok(event),
        Err(count) => count,
    };
    let mut draft = Draft {
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
            "reserved": gate.reserved,
            "requested": gate.requested,
            "count": count,
        }),
    };
    if gate.name == "budget" {
        // Which one, and whether the launch said anything about tokens.
        draft.data["budget"] = json!(gate.subject);
        draft.data["note"] = json!(gate.note);
    }
    let event = record(on, draft).await?;
    denials.wrote(project, gate.name, &event);
    Ok(event)
}
