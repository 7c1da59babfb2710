//! Questions. Each is one statement, so it sees one moment.

use super::fail::Fail;
use super::link::{Dialect, Link, Value};
use super::row::{self, runner_columns};
use crate::domain::event::{Event, EventType};
use crate::domain::kinds;
use crate::domain::runner::{Runner, State};
use crate::domain::{Project, ProjectName, RunnerId, Timestamp};
use crate::ports::{EventFilter, RunnerFilter};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The most rows of one page.
const PAGE_MAX: u32 = 1_000;
/// The rows of a page when nothing was said.
const PAGE: u32 = 100;
/// How long a page of events waits for other hosts' transactions.
const OTHERS: Duration = Duration::from_secs(1);
/// How far an id's own time may be from the time of admission, ms: an hour.
const ID_SLACK: u64 = 3_600_000;

/// The types every runner has an event of, and the condition of the index on all others: SQLite
/// takes a partial index only for a query that repeats its condition.
const FREQUENT: [EventType; 4] = [
    EventType::RunnerStarting,
    EventType::RunnerRunning,
    EventType::RunnerStopping,
    EventType::RunnerEnded,
];
const RARE: &str =
    " AND type NOT IN ('runner.starting', 'runner.running', 'runner.stopping', 'runner.ended')";

fn page(limit: u32) -> u32 {
    if limit == 0 {
        PAGE
    } else {
        limit.min(PAGE_MAX)
    }
}

pub(super) async fn runner(on: &mut Link, id: RunnerId) -> Result<Option<Runner>, Fail> {
    let sql = concat!(
        "SELECT ",
        runner_columns!(),
        " FROM runners r WHERE r.id = $1"
    );
    let found = on.maybe(sql, vec![id.into()]).await?;
    found.as_ref().map(row::runner).transpose()
}

const THESE_SQLITE: &str = concat!(
    "SELECT ",
    runner_columns!(),
    " FROM runners r WHERE r.id IN (SELECT value FROM json_each($1))"
);
const THESE_POSTGRES: &str = concat!(
    "SELECT ",
    runner_columns!(),
    " FROM runners r WHERE r.id = ANY (ARRAY(SELECT json_array_elements_text($1::JSON)))"
);

/// Those of these runners that are there, by their ids. What can't be read of one spoils nobody else's.
pub(super) async fn these(
    on: &mut Link,
    ids: &BTreeSet<String>,
) -> Result<HashMap<String, Result<Runner, String>>, Fail> {
    let sql = on.pick(THESE_SQLITE, THESE_POSTGRES);
    let mut runners = HashMap::new();
    for found in on.rows(sql, vec![Value::json(ids)?]).await? {
        let runner = row::runner(&found).map_err(|fail| format!("{fail:?}"));
        runners.insert(found.text(0)?.to_owned(), runner);
    }
    Ok(runners)
}

/// All live rows of a host. One that can't be read must not keep the others from being adopted.
pub(super) async fn live(on: &mut Link, host: &str) -> Result<Vec<Runner>, Fail> {
    let sql = on.pick(
        concat!(
            "SELECT ",
            runner_columns!(),
            " FROM runners r INDEXED BY runners_live WHERE r.state <> 'ended' AND r.state <> 'queued' AND r.host = $1 ORDER BY r.id"
        ),
        concat!(
            "SELECT ",
            runner_columns!(),
            " FROM runners r WHERE r.state <> 'ended' AND r.state <> 'queued' AND r.host = $1 ORDER BY r.id"
        ),
    );
    let rows = on.rows(sql, vec![host.into()]).await?;
    let readable = rows.iter().filter_map(|found| {
        row::runner(found)
            .map_err(|fail| {
                tracing::error!(
                    message_id = kinds::STORE_FAULT.id,
                    ?fail,
                    "A row of a live runner can't be read: it is left alone"
                )
            })
            .ok()
    });
    Ok(readable.collect())
}

pub(super) async fn runners(on: &mut Link, filter: &RunnerFilter) -> Result<Vec<Runner>, Fail> {
    let Query { sql, values } = listing(filter, on.dialect());
    on.rows(sql, values)
        .await?
        .iter()
        .map(row::runner)
        .collect()
}

/// SQL put together piece by piece, with its values.
#[derive(Debug)]
pub(in crate::adapters) struct Query {
    pub(in crate::adapters) sql: String,
    pub(in crate::adapters) values: Vec<Value>,
}

impl Query {
    fn new(sql: &str) -> Self {
        Self {
            sql: sql.to_owned(),
            values: Vec::new(),
        }
    }

    fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.sql.push_str(&format!("${}", self.values.len()));
        self
    }

    /// `$1, $2 …` with something between them.
    fn list(&mut self, values: impl IntoIterator<Item = impl Into<Value>>) -> &mut Self {
        for (n, value) in values.into_iter().enumerate() {
            if n > 0 {
                self.sql.push_str(", ");
            }
            self.bind(value);
        }
        self
    }
}

/// The index is chosen here and not by the planner, which knows nothing of the numbers: how many
/// runners have ended must not matter when the live ones are listed.
/// (Postgres keeps statistics and chooses by itself.)
pub(in crate::adapters) fn listing(filter: &RunnerFilter, dialect: Dialect) -> Query {
    let unended = !filter.states.contains(&State::Ended);
    let mut labels = filter.labels.iter();
    // The id in the index that leads, so that pages come in its order without sorting.
    let mut id = "r.id";
    let mut sql = Query::new(concat!("SELECT ", runner_columns!(), " FROM "));
    let by = |sqlite: &'static str| dialect.pick(sqlite, "");
    if unended {
        sql.push("runners r")
            .push(by(" INDEXED BY runners_live"))
            .push(" WHERE r.state <> 'ended'");
    } else if filter.name.is_some() {
        sql.push("runners r")
            .push(by(" INDEXED BY runners_by_name"))
            .push(" WHERE TRUE");
    } else if let Some((key, value)) = labels.next() {
        id = "l.runner";
        sql.push("labels l").push(by(" INDEXED BY labels_by_value"));
        sql.push(dialect.pick(" CROSS JOIN", " JOIN"))
            .push(" runners r ON r.id = l.runner WHERE l.key = ");
        sql.bind(key.as_str())
            .push(" AND l.value = ")
            .bind(value.as_str());
    } else if filter.project.is_some() {
        sql.push("runners r")
            .push(by(" INDEXED BY runners_by_project"))
            .push(" WHERE TRUE");
    } else if filter.uid.is_some() {
        sql.push("runners r")
            .push(by(" INDEXED BY runners_by_uid"))
            .push(" WHERE TRUE");
    } else {
        sql.push("runners r WHERE TRUE");
    }
    for (key, value) in labels {
        sql.push(" AND EXISTS (SELECT 1 FROM labels WHERE runner = r.id AND key = ")
            .bind(key.as_str());
        sql.push(" AND value = ").bind(value.as_str()).push(")");
    }
    if filter.states.is_empty() {
        sql.push(" AND r.state <> 'queued'");
    } else {
        sql.push(" AND r.state IN (")
            .list(filter.states.iter().map(|s| s.as_str()))
            .push(")");
    }
    if let Some(project) = &filter.project {
        sql.push(" AND r.project = ").bind(project);
    }
    if let Some(host) = &filter.host {
        sql.push(" AND r.host = ").bind(host.as_str());
    }
    if let Some(uid) = filter.uid {
        sql.push(" AND r.uid = ").bind(uid);
    }
    if !filter.hidden.is_empty() {
        sql.push(" AND (r.project, r.uid) NOT IN (VALUES ");
        for (n, (project, uid)) in filter.hidden.iter().enumerate() {
            sql.push(if n > 0 { ", (" } else { "(" })
                .bind(project)
                .push(", ")
                .bind(*uid)
                .push(")");
        }
        sql.push(")");
    }
    if let Some(name) = &filter.name {
        sql.push(" AND r.name = ").bind(name.as_str());
    }
    if let Some(prefix) = &filter.id_prefix {
        sql.push(" AND ")
            .push(id)
            .push(" >= ")
            .bind(prefix.as_str());
        sql.push(" AND ")
            .push(id)
            .push(" < ")
            .bind(format!("{prefix}\u{10ffff}"));
    }
    if let Some(since) = filter.since {
        sql.push(" AND r.created_at >= ").bind(since);
        let first = first_id(since, |ms| ms.saturating_sub(ID_SLACK));
        sql.push(" AND ").push(id).push(" >= ").bind(first);
    }
    if let Some(until) = filter.until {
        sql.push(" AND r.created_at < ").bind(until);
        let first = first_id(until, |ms| ms.saturating_add(ID_SLACK));
        sql.push(" AND ").push(id).push(" < ").bind(first);
    }
    if let Some(after) = filter.after {
        sql.push(" AND ").push(id).push(" < ").bind(after);
    }
    sql.push(" ORDER BY ")
        .push(id)
        .push(" DESC LIMIT ")
        .bind(page(filter.limit));
    sql
}

/// Ids are UUIDv7 and carry the time of their making, so a time bounds them roughly and rows far
/// outside are never looked at.
fn first_id(at: Timestamp, moved: impl Fn(u64) -> u64) -> String {
    let ms = moved(at.0 / 1_000).min(0xffff_ffff_ffff);
    format!("{:08x}-{:04x}", ms >> 16, ms & 0xffff)
}

macro_rules! project_columns {
    () => {
        "SELECT name, description, max_runners, limits, live, created_at, max_queued, default_tokens, queued FROM projects"
    };
}

pub(super) async fn project(on: &mut Link, name: &ProjectName) -> Result<Option<Project>, Fail> {
    let found = on
        .maybe(
            concat!(project_columns!(), " WHERE name = $1"),
            vec![name.into()],
        )
        .await?;
    found.as_ref().map(row::project).transpose()
}

pub(super) async fn projects(on: &mut Link) -> Result<Vec<Project>, Fail> {
    let rows = on
        .rows(concat!(project_columns!(), " ORDER BY name"), vec![])
        .await?;
    rows.iter().map(row::project).collect()
}

/// Where events come from several hosts, one may be committed before another that stands before it:
/// only those are told that nothing can come in between. What this store itself has `written` is
/// waited for.
pub(super) async fn events(
    on: &mut Link,
    filter: &EventFilter,
    written: u64,
) -> Result<Vec<Event>, Fail> {
    let mut below = None;
    if on.is_shared() {
        let begun = tokio::time::Instant::now();
        let mut pause = OTHERS / 200;
        loop {
            let horizon = on.one("SELECT events_horizon()", vec![]).await?.count(0)?;
            below = Some(horizon);
            if written <= horizon || begun.elapsed() > OTHERS {
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
    let Query { sql, values } = telling(filter, below);
    let mut rows = on.rows(sql, values).await?;
    if filter.newest {
        rows.reverse();
    }
    rows.iter().map(row::event).collect()
}

pub(in crate::adapters) fn telling(filter: &EventFilter, below: Option<u64>) -> Query {
    let mut sql =
        Query::new("SELECT position, at, type, project, subject, seq, actor, data FROM events");
    sql.push(" WHERE position > ").bind(filter.after);
    if let Some(below) = below {
        sql.push(" AND position < ").bind(below);
    }
    if let Some(runner) = filter.runner {
        sql.push(" AND subject = ").bind(format!("runner/{runner}"));
    }
    if let Some(project) = &filter.project {
        sql.push(" AND project = ").bind(project);
    }
    if let Some(kind) = filter.kind {
        sql.push(" AND type = ").bind(kind.short());
        if !FREQUENT.contains(&kind) {
            sql.push(RARE);
        }
    }
    sql.push(match filter.newest {
        true => " ORDER BY position DESC LIMIT ",
        false => " ORDER BY position LIMIT ",
    });
    sql.bind(page(filter.limit));
    sql
}
