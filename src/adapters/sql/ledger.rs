//! What decides about launches, read under the transaction's locks as a [`Ledger`], and the writing
//! of what was decided: reservations and sessions.
//!
//! Projects, hosts and sessions concerned are locked before ([`super::locks`]). What is everybody's
//! is locked where there is any: the fleet's cap as in [`super::cap`], and
//! the fleet's budgets by their rows, in their order. So hosts wait for one another only where a
//! cap or a budget of the whole fleet is set.

use super::budgets::rolled;
use super::clock::now;
use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::release::keep;
use super::{budgets, holds};
use crate::domain::admission::{Account, Ask, Ledger, Refusal, Seat, Seated};
use crate::domain::budget::{BudgetState, Scope};
use crate::domain::host::Cordon;
use crate::domain::{Error, ProjectName, RunnerSpec, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Whom the launches of a transaction are about.
#[derive(Debug, Default, Clone)]
pub(super) struct Concern {
    pub(super) projects: BTreeSet<ProjectName>,
    pub(super) sessions: BTreeSet<String>,
    /// With their caps, `None` = as the store has it.
    pub(super) hosts: BTreeMap<String, Option<Option<u32>>>,
}

impl Concern {
    pub(super) fn add(&mut self, spec: &RunnerSpec, host: &str, host_max: Option<u32>) {
        self.projects.insert(spec.project.clone());
        self.sessions.extend(spec.session.clone());
        self.hosts.insert(host.to_owned(), Some(host_max));
    }

    pub(super) fn covers(&self, ask: &Ask) -> bool {
        self.projects.contains(&ask.project)
            && self.hosts.contains_key(&ask.host)
            && ask
                .session
                .as_ref()
                .is_none_or(|s| self.sessions.contains(s))
    }

    pub(super) fn scopes(&self) -> BTreeSet<String> {
        let projects = self.projects.iter().map(|p| format!("project:{p}"));
        let sessions = self.sessions.iter().map(|s| format!("session:{s}"));
        let fleet = std::iter::once("fleet".to_owned());
        fleet.chain(projects).chain(sessions).collect()
    }
}

/// The ledger, and what is stored of it.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) ledger: Ledger,
    /// As read; the first `locked` of them, which are written, under locks.
    stored: Vec<BudgetState>,
    locked: usize,
    seated: Vec<Ask>,
}

/// What concerns everybody: whether there are any at all, what the clock shows, and under a cap how many live.
#[derive(Debug, Default)]
struct Any {
    now: Option<Timestamp>,
    live: Option<u32>,
    holds: bool,
    budgets: bool,
    waiting: bool,
}

/// `$1` is a JSON list of projects, `$2` one of hosts. The first row is the fleet's: its cap,
/// whether there are holds, budgets, and runners that wait, how many live where there is a cap, and the store's
/// clock. In one question, since under a cap all hosts wait for whoever asks.
macro_rules! places {
    ($clock:literal, $projects:literal, $hosts:literal) => {
        concat!(
            "SELECT 'fleet' AS kind, '' AS key, '' AS name, max_runners,
                    CAST(CASE WHEN EXISTS (SELECT 1 FROM holds) THEN 1 ELSE 0 END AS BIGINT),
                    CAST(CASE WHEN EXISTS (SELECT 1 FROM budgets) THEN 1 ELSE 0 END AS BIGINT),
                    CAST(CASE WHEN EXISTS (SELECT 1 FROM runners WHERE state = 'queued') THEN 1 ELSE 0 END AS BIGINT),
                    CASE WHEN max_runners IS NOT NULL
                         THEN (SELECT CAST(coalesce(sum(live), 0) AS BIGINT) FROM projects) END,
                    CAST(NULL AS TEXT), ", $clock, " FROM fleet
              UNION ALL
             SELECT 'project', name, '', max_runners, live, queued, max_queued, default_tokens, CAST(NULL AS TEXT),
                    CAST(NULL AS BIGINT)
               FROM projects WHERE name ", $projects,
            " UNION ALL
             SELECT 'host', host, name, max_runners, live, queued, CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), cordon,
                    CAST(NULL AS BIGINT)
               FROM hosts WHERE host ", $hosts
        )
    };
}
const PLACES_SQLITE: &str = places!(
    "CAST(NULL AS BIGINT)",
    "IN (SELECT value FROM json_each($1))",
    "IN (SELECT value FROM json_each($2))"
);
const PLACES_POSTGRES: &str = places!(
    "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
    "= ANY (ARRAY(SELECT json_array_elements_text($1::JSON)))",
    "= ANY (ARRAY(SELECT json_array_elements_text($2::JSON)))"
);

/// Who waits on these hosts (`$2`) and on others that are up and can launch, the next ones of each project and host.
/// Of each session only the next one can start. Bounded: the others have their turn after these; so
/// those are left out that what is their own keeps from starting, a hold, their session or their host.
macro_rules! waiting {
    ($and:literal) => {
        concat!(
            "
    SELECT id, spec, host, queued_at FROM (
        SELECT id, spec, host, queued_at,
               row_number() OVER (PARTITION BY project, host ORDER BY priority DESC, queued_at, id) AS place
          FROM (
            SELECT r.id, r.spec, r.host, r.project, r.priority, r.queued_at,
                   CASE WHEN r.session IS NULL THEN 1
                        ELSE row_number() OVER (PARTITION BY r.session ORDER BY r.priority DESC, r.queued_at, r.id)
                   END AS of_session
              FROM runners r JOIN hosts h ON h.host = r.host
             WHERE r.state = 'queued'
               AND (h.standing = 'up' AND (h.lease_until = 0 OR h.lease_until > $1) AND h.away = 0 OR r.host = $2)
", $and, "
          ) AS each_session WHERE of_session = 1
    ) AS each_line WHERE place <= 32 ORDER BY place, queued_at LIMIT 500"
        )
    };
}
const WAITING: &str = waiting!(
    "AND h.cordon IS NULL
               AND (h.max_runners IS NULL OR h.live < h.max_runners OR r.host = $2)
               AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.name = r.session AND s.live IS NOT NULL)
               AND NOT EXISTS (SELECT 1 FROM holds d WHERE (d.until = 0 OR d.until > $1)
                                  AND d.scope IN ('fleet', 'project:' || r.project))
               AND NOT EXISTS (SELECT 1 FROM labels l JOIN holds d ON d.scope = 'label:' || l.key || '=' || l.value
                                WHERE l.runner = r.id AND (d.until = 0 OR d.until > $1))"
);
/// The same with those that can't start: to tell somebody who comes before.
const WAITING_ALL: &str = waiting!("");

pub(super) fn list(on: &Link, column: &'static str, n: u32) -> String {
    on.pick(
        format!("{column} IN (SELECT value FROM json_each(${n}))"),
        format!("{column} = ANY (ARRAY(SELECT json_array_elements_text(${n}::JSON)))"),
    )
}

/// Who waits on this host and could start, as far as only it is concerned.
pub(super) async fn waiting_on(on: &mut Link, host: &str) -> Result<Vec<Ask>, Fail> {
    let at = now(on).await?;
    let mut all = waiting(on, WAITING, host, at).await?;
    all.retain(|ask| ask.host == host);
    Ok(all)
}

async fn waiting(
    on: &mut Link,
    sql: &'static str,
    host: &str,
    now: Timestamp,
) -> Result<Vec<Ask>, Fail> {
    let rows = on.rows(sql, vec![now.into(), host.into()]).await?;
    let ask = |row: &Row| {
        let id = row.text(0)?;
        let id = id
            .parse()
            .map_err(|_| Fail::Broken(format!("{id} is stored as a runner's id")))?;
        let spec: RunnerSpec = row.json(1, "request")?;
        Ok(Ask::of(id, &spec, row.text(2)?, row.time(3)?))
    };
    // One that can't be read, or only by a later release, holds up nobody.
    let readable = |row: &Row| match ask(row) {
        Err(Fail::Broken(why)) => {
            tracing::debug!(%why, "One that waits can't be read");
            None
        }
        ask => Some(ask),
    };
    rows.iter().filter_map(readable).collect()
}

impl Book {
    /// Reads what decides about launches of these; whose budgets are written later are locked.
    pub(super) async fn open(on: &mut Link, concern: &Concern, writes: bool) -> Result<Self, Fail> {
        let mut book = Self::default();
        let any = book.places(on, concern).await?;
        book.ledger.now = match any.now {
            Some(now) => now,
            None => now(on).await?,
        };
        book.ledger.fleet_live = any.live.unwrap_or_default();
        let mut all = concern.clone();
        if any.waiting {
            // There is one, where the store is shared by several.
            let host = concern.hosts.keys().next().map_or("", String::as_str);
            let sql = if writes { WAITING } else { WAITING_ALL };
            book.ledger.waiting = waiting(on, sql, host, book.ledger.now).await?;
            let mut others = Concern::default();
            for ask in &book.ledger.waiting {
                others.projects.insert(ask.project.clone());
                others.sessions.extend(ask.session.clone());
                others.hosts.insert(ask.host.clone(), None);
            }
            others.projects.retain(|p| !concern.projects.contains(p));
            others.hosts.retain(|h, _| !concern.hosts.contains_key(h));
            book.places(on, &others).await?;
            all.projects.append(&mut others.projects);
            all.sessions.append(&mut others.sessions);
        }
        if !all.sessions.is_empty() {
            book.sessions(on, &all).await?;
        }
        if any.holds {
            let sql =
                "SELECT scope, until, freezes, reason, actor, set_at FROM holds ORDER BY scope";
            let rows = on.rows(sql, vec![]).await?;
            book.ledger.holds = rows.iter().map(holds::hold).collect::<Result<_, _>>()?;
        }
        if any.budgets {
            let own = concern.scopes();
            book.stored = stored(on, &own, writes).await?;
            book.locked = book.stored.len();
            let others: BTreeSet<_> = all.scopes().difference(&own).cloned().collect();
            if !others.is_empty() {
                let rows = rows(on, &others, false).await?;
                book.of_others(&rows)?;
            }
            let at = book.ledger.now;
            book.ledger.budgets = book.stored.iter().map(|s| rolled(s.clone(), at)).collect();
        }
        Ok(book)
    }

    /// Budgets of others who wait. Whoever is paid by one that can't be read has no turn, and holds up nobody.
    fn of_others(&mut self, rows: &[Row]) -> Result<(), Fail> {
        for row in rows {
            match budgets::state(row) {
                Ok(state) => self.stored.push(state),
                Err(Fail::Broken(why)) => {
                    let scope = row.text(0)?;
                    tracing::debug!(scope, %why, "Who is paid by a budget that can't be read has no turn");
                    if let Ok(scope) = scope.parse::<Scope>() {
                        let paid = |ask: &Ask| scope.matches(&ask.project, ask.session.as_deref());
                        self.ledger.waiting.retain(|ask| !paid(ask));
                    }
                }
                Err(fail) => return Err(fail),
            }
        }
        Ok(())
    }

    async fn places(&mut self, on: &mut Link, concern: &Concern) -> Result<Any, Fail> {
        let projects: Vec<_> = concern.projects.iter().map(ProjectName::as_str).collect();
        let hosts: Vec<_> = concern.hosts.keys().collect();
        let values = vec![Value::json(&projects)?, Value::json(&hosts)?];
        let mut any = Any::default();
        for row in on
            .rows(on.pick(PLACES_SQLITE, PLACES_POSTGRES), values)
            .await?
        {
            match row.text(0)? {
                "fleet" => {
                    self.ledger.fleet_max = row.maybe_number(3)?;
                    any.holds = row.int(4)? != 0;
                    any.budgets = row.int(5)? != 0;
                    any.waiting = row.int(6)? != 0;
                    any.live = row.maybe_number(7)?;
                    any.now = row.maybe_int(9)?.map(|at| Timestamp(at.unsigned_abs()));
                }
                "project" => {
                    let account = Account {
                        max: row.maybe_number(3)?,
                        live: row.number(4)?,
                        queued: row.number(5)?,
                        max_queued: row.maybe_number(6)?,
                        default_tokens: row.maybe_int(7)?.map(i64::unsigned_abs),
                    };
                    self.ledger.projects.insert(named(row.text(1)?)?, account);
                }
                _ => {
                    let seat = Seat {
                        name: row.text(2)?.to_owned(),
                        max: row.maybe_number(3)?,
                        live: row.number(4)?,
                        cordon: row.maybe_json::<Cordon>(8, "cordon")?.map(|c| c.reason),
                    };
                    self.ledger.hosts.insert(row.text(1)?.to_owned(), seat);
                }
            }
        }
        for (host, max) in &concern.hosts {
            let seat = self.ledger.hosts.entry(host.clone()).or_default();
            if seat.name.is_empty() {
                seat.name.clone_from(host);
            }
            // A host knows its own cap; of others it is what they said.
            if let Some(max) = max {
                seat.max = *max;
            }
        }
        Ok(any)
    }

    async fn sessions(&mut self, on: &mut Link, concern: &Concern) -> Result<(), Fail> {
        let sql = list(on, "SELECT name, project, live FROM sessions WHERE name", 1);
        for row in on.rows(sql, vec![Value::json(&concern.sessions)?]).await? {
            let live = row.maybe_text(2)?.map(str::parse).transpose();
            let seated = Seated {
                project: named(row.text(1)?)?,
                live: live.map_err(|e: Error| Fail::Broken(e.message))?,
            };
            self.ledger.sessions.insert(row.text(0)?.to_owned(), seated);
        }
        Ok(())
    }

    /// Decides and charges.
    pub(super) fn admit(&mut self, ask: &Ask) -> Result<u64, Refusal> {
        let tokens = self.ledger.admit(ask)?;
        if ask.session.is_some() {
            self.seated.push(ask.clone());
        }
        Ok(tokens)
    }

    /// Writes what the admitted ones hold beside their rows.
    pub(super) async fn write(&self, on: &mut Link) -> Result<(), Fail> {
        // Of others who wait nothing is charged here, and what was read of them may be old by now.
        let locked = self.stored.iter().take(self.locked);
        for (stored, state) in locked.zip(&self.ledger.budgets) {
            if stored == state {
                continue;
            }
            let charged = state.reserved > stored.reserved;
            if charged && state.taken() > state.budget.limit {
                let budget = &state.budget;
                return Err(Fail::Broken(format!("{budget} would be overdrawn")));
            }
            keep(on, stored, state).await?;
        }
        for ask in &self.seated {
            let done = on
                .run(
                    "INSERT INTO sessions (name, project, live, runners, created_at, used_at)
                         VALUES ($1, $2, $3, 1, $4, $4)
                         ON CONFLICT (name) DO UPDATE
                            SET live = excluded.live, runners = sessions.runners + 1, used_at = excluded.used_at
                          WHERE sessions.live IS NULL AND sessions.project = excluded.project",
                    vec![
                        ask.session.as_deref().into(),
                        (&ask.project).into(),
                        ask.id.into(),
                        self.ledger.now.into(),
                    ],
                )
                .await?;
            if done != 1 {
                return Err(Fail::Broken(format!("the session of {} is taken", ask.id)));
            }
        }
        Ok(())
    }
}

/// The budgets of these scopes as they are stored.
async fn stored(
    on: &mut Link,
    scopes: &BTreeSet<String>,
    lock: bool,
) -> Result<Vec<BudgetState>, Fail> {
    let rows = rows(on, scopes, lock).await?;
    rows.iter().map(budgets::state).collect()
}

/// Their rows.
pub(super) async fn rows(
    on: &mut Link,
    scopes: &BTreeSet<String>,
    lock: bool,
) -> Result<Vec<Row>, Fail> {
    let mut sql = list(
        on,
        "SELECT scope, period, max_tokens, timezone, on_exhausted, counts, created_at, period_start, used, reserved, told, overrun
           FROM budgets WHERE scope",
        1,
    );
    sql.push_str(" ORDER BY scope, period");
    if lock && on.is_shared() {
        sql.push_str(" FOR UPDATE");
    }
    on.rows(sql, vec![Value::json(scopes)?]).await
}

fn named(project: &str) -> Result<ProjectName, Fail> {
    project
        .parse()
        .map_err(|_| Fail::Broken(format!("{project} is stored as a project's name")))
}
