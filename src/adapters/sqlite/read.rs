//! Questions. Each is one statement, so it sees one moment.

use super::fault::Fail;
use super::row::{self, runner_columns};
use super::words;
use crate::domain::admission::{Counts, Gate};
use crate::domain::event::{Event, EventType};
use crate::domain::kinds;
use crate::domain::runner::Runner;
use crate::domain::{Project, ProjectName, RunnerId, Timestamp};
use crate::ports::{EventFilter, RunnerFilter};
use sqlx::{Executor, QueryBuilder, Row, Sqlite, SqlitePool};

/// The most rows of one page.
const PAGE_MAX: u32 = 1_000;
/// The rows of a page when nothing was said.
const PAGE: u32 = 100;
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

pub(super) async fn runner<'e>(
    on: impl Executor<'e, Database = Sqlite>,
    id: RunnerId,
) -> Result<Option<Runner>, Fail> {
    sqlx::query(concat!(
        "SELECT ",
        runner_columns!(),
        " FROM runners r WHERE r.id = $1"
    ))
    .bind(id.to_string())
    .fetch_optional(on)
    .await?
    .map(|found| row::runner(&found))
    .transpose()
}

/// All live rows of a host. One that can't be read must not keep the others from being adopted.
pub(super) async fn live(pool: &SqlitePool, host: &str) -> Result<Vec<Runner>, Fail> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        runner_columns!(),
        " FROM runners r INDEXED BY runners_live WHERE r.state <> 'ended' AND r.host = $1 ORDER BY r.id"
    ))
    .bind(host)
    .fetch_all(pool)
    .await?;
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

pub(super) async fn runners(pool: &SqlitePool, filter: &RunnerFilter) -> Result<Vec<Runner>, Fail> {
    listing(filter)
        .build()
        .persistent(false)
        .fetch_all(pool)
        .await?
        .iter()
        .map(row::runner)
        .collect()
}

/// The index is chosen here and not by the planner, which knows nothing of the numbers: how many
/// runners have ended must not matter when the live ones are listed.
pub(super) fn listing(filter: &RunnerFilter) -> QueryBuilder<Sqlite> {
    let live_only = filter.states.iter().all(|s| s.is_live());
    let mut labels = filter.labels.iter();
    // The id in the index that leads, so that pages come in its order without sorting.
    let mut id = "r.id";
    let mut sql = QueryBuilder::new(concat!("SELECT ", runner_columns!(), " FROM "));
    if live_only {
        sql.push("runners r INDEXED BY runners_live WHERE r.state <> 'ended'");
    } else if filter.name.is_some() {
        sql.push("runners r INDEXED BY runners_by_name WHERE 1");
    } else if let Some((key, value)) = labels.next() {
        id = "l.runner";
        sql.push("labels l INDEXED BY labels_by_value CROSS JOIN runners r ON r.id = l.runner WHERE l.key = ");
        sql.push_bind(key.clone())
            .push(" AND l.value = ")
            .push_bind(value.clone());
    } else if filter.project.is_some() {
        sql.push("runners r INDEXED BY runners_by_project WHERE 1");
    } else if filter.uid.is_some() {
        sql.push("runners r INDEXED BY runners_by_uid WHERE 1");
    } else {
        sql.push("runners r WHERE 1");
    }
    for (key, value) in labels {
        sql.push(" AND EXISTS (SELECT 1 FROM labels WHERE runner = r.id AND key = ")
            .push_bind(key.clone());
        sql.push(" AND value = ").push_bind(value.clone()).push(")");
    }
    if !filter.states.is_empty() {
        sql.push(" AND r.state IN (");
        let mut list = sql.separated(", ");
        for state in &filter.states {
            list.push_bind(state.as_str());
        }
        sql.push(")");
    }
    if let Some(project) = &filter.project {
        sql.push(" AND r.project = ").push_bind(project.to_string());
    }
    if let Some(uid) = filter.uid {
        sql.push(" AND r.uid = ").push_bind(uid);
    }
    if !filter.hidden.is_empty() {
        sql.push(" AND (r.project, r.uid) NOT IN (VALUES ");
        let mut list = sql.separated(", ");
        for (project, uid) in &filter.hidden {
            list.push("(").push_bind_unseparated(project.to_string());
            list.push_unseparated(", ").push_bind_unseparated(*uid);
            list.push_unseparated(")");
        }
        sql.push(")");
    }
    if let Some(name) = &filter.name {
        sql.push(" AND r.name = ").push_bind(name.clone());
    }
    if let Some(prefix) = &filter.id_prefix {
        sql.push(" AND ")
            .push(id)
            .push(" >= ")
            .push_bind(prefix.clone());
        sql.push(" AND ")
            .push(id)
            .push(" < ")
            .push_bind(format!("{prefix}\u{10ffff}"));
    }
    if let Some(since) = filter.since {
        sql.push(" AND r.created_at >= ")
            .push_bind(row::time(since));
        sql.push(" AND ")
            .push(id)
            .push(" >= ")
            .push_bind(first_id(since, |ms| ms.saturating_sub(ID_SLACK)));
    }
    if let Some(until) = filter.until {
        sql.push(" AND r.created_at < ").push_bind(row::time(until));
        sql.push(" AND ")
            .push(id)
            .push(" < ")
            .push_bind(first_id(until, |ms| ms.saturating_add(ID_SLACK)));
    }
    if let Some(after) = filter.after {
        sql.push(" AND ")
            .push(id)
            .push(" < ")
            .push_bind(after.to_string());
    }
    sql.push(" ORDER BY ")
        .push(id)
        .push(" DESC LIMIT ")
        .push_bind(page(filter.limit));
    sql
}

/// Ids are UUIDv7 and carry the time of their making, so a time bounds them roughly and rows far
/// outside are never looked at.
fn first_id(at: Timestamp, moved: impl Fn(u64) -> u64) -> String {
    let ms = moved(at.0 / 1_000).min(0xffff_ffff_ffff);
    format!("{:08x}-{:04x}", ms >> 16, ms & 0xffff)
}

pub(super) async fn gates(
    pool: &SqlitePool,
    name: &ProjectName,
    host: &str,
    host_max: Option<u32>,
) -> Result<Vec<Gate>, Fail> {
    let mut connection = pool.acquire().await?;
    let found = sqlx::query(
        "SELECT p.max_runners, p.live, coalesce(h.live, 0)
           FROM projects p LEFT JOIN hosts h ON h.host = $2 WHERE p.name = $1",
    )
    .bind(name.as_str())
    .bind(host)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(found) = found else {
        return Err(words::no_such_project(&mut connection, name).await);
    };
    let counts = Counts {
        project: name.clone(),
        project_live: found.try_get(1)?,
        project_max: found.try_get(0)?,
        host_live: found.try_get(2)?,
        host_max,
    };
    Ok(crate::domain::admission::gates(&counts, host))
}

pub(super) async fn project<'e>(
    on: impl Executor<'e, Database = Sqlite>,
    name: &ProjectName,
) -> Result<Option<Project>, Fail> {
    sqlx::query("SELECT name, description, max_runners, limits, live, created_at FROM projects WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(on)
        .await?
        .map(|found| row::project(&found))
        .transpose()
}

pub(super) async fn projects(pool: &SqlitePool) -> Result<Vec<Project>, Fail> {
    sqlx::query("SELECT name, description, max_runners, limits, live, created_at FROM projects ORDER BY name")
        .fetch_all(pool)
        .await?
        .iter()
        .map(row::project)
        .collect()
}

pub(super) async fn events(pool: &SqlitePool, filter: &EventFilter) -> Result<Vec<Event>, Fail> {
    let mut rows = telling(filter)
        .build()
        .persistent(false)
        .fetch_all(pool)
        .await?;
    if filter.newest {
        rows.reverse();
    }
    rows.iter().map(row::event).collect()
}

pub(super) fn telling(filter: &EventFilter) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::<Sqlite>::new(
        "SELECT position, at, type, project, subject, seq, actor, data FROM events",
    );
    sql.push(" WHERE position > ")
        .push_bind(row::count(filter.after));
    if let Some(runner) = filter.runner {
        sql.push(" AND subject = ")
            .push_bind(format!("runner/{runner}"));
    }
    if let Some(project) = &filter.project {
        sql.push(" AND project = ").push_bind(project.to_string());
    }
    if let Some(kind) = filter.kind {
        sql.push(" AND type = ").push_bind(kind.short());
        if !FREQUENT.contains(&kind) {
            sql.push(RARE);
        }
    }
    sql.push(match filter.newest {
        true => " ORDER BY position DESC LIMIT ",
        false => " ORDER BY position LIMIT ",
    });
    sql.push_bind(page(filter.limit));
    sql
}
