//! One store into another: everything an embedded store has, into a fleet's store that is empty, in
//! one transaction. The tables are found in the schema itself, so none can be forgotten.
//!
//! Rows are taken over as they are, events with their positions: whoever reads events goes on where
//! it was. The schema's rules are about steps of a life and not about a whole one, so they are
//! switched off inside the transaction, and what was written is compared with what was read instead.

use super::chain::{Chain, Kept};
use super::clock;
use super::fail::Fail;
use super::link::{Link, Value};
use crate::crash;
use crate::domain::audit::{Act, Key, Note};
use crate::domain::event::Actor;
use crate::domain::{Error, ErrorKind};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Tables that are about the store itself.
const OWN: [&str; 3] = ["meta", "writers", "_sqlx_migrations"];
/// What an empty store has already; it is replaced.
const SEEDED: [&str; 1] = ["fleet"];
/// Rows read at a time.
const ROWS: i64 = 200;
/// Where a fleet's store says which embedded one it was made from.
const MARK: &str = "migrated-from";

/// Everybody who writes to a fleet's store takes the lock first. The time limits of a launch are not for us.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10s';
    SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_advisory_xact_lock(723100, 0)";

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::adapters) struct Copied {
    /// Tables with their rows.
    pub(in crate::adapters) tables: Vec<(String, u64)>,
    /// It had been copied before; nothing was written.
    pub(in crate::adapters) before: bool,
}

/// A table of the embedded store.
#[derive(Debug)]
struct Table {
    name: String,
    /// Name, and whether it is text and no integer.
    columns: Vec<(String, bool)>,
    /// Which of them are the primary key, in its order.
    key: Vec<(String, bool)>,
    /// The tables whose rows its own refer to.
    needs: BTreeSet<String>,
}

/// Copies all of `from` (SQLite) into `to` (Postgres), which must have the same schema and nothing
/// in it. Neither may be in a transaction; an error leaves `to` in one that must not be committed. The
/// audit of this host, with these keys, goes on in the same transaction.
pub(in crate::adapters) async fn copy(
    from: &mut Link,
    to: &mut Link,
    (host, keys): (String, Vec<Key>),
) -> Result<Copied, Fail> {
    from.say("BEGIN").await.map_err(|e| source(e.into()))?;
    to.say(BEGIN).await?;
    let tables = in_order(tables(from).await.map_err(source)?)?;
    check_owner(to).await?;
    for table in &tables {
        check_target(to, table).await?;
        // Nobody writes to it until we are done.
        let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table.name);
        to.run(lock, vec![]).await?;
    }
    let store = from
        .one("SELECT value FROM meta WHERE key = 'store-id'", vec![])
        .await
        .map_err(source)?;
    let store = store.text(0)?.to_owned();
    let mut copied = Copied {
        tables: Vec::new(),
        before: mark(to).await?.as_deref() == Some(&store),
    };
    if !copied.before {
        let seeded = |table: &Table| SEEDED.contains(&table.name.as_str());
        for table in tables.iter().filter(|table| !seeded(table)) {
            refuse_rows(to, table).await?;
        }
        for table in &tables {
            triggers(to, table, "DISABLE").await?;
            if seeded(table) {
                let sql = format!("DELETE FROM {}", table.name);
                to.run(sql, vec![]).await?;
            }
            rows(from, to, table).await?;
            triggers(to, table, "ENABLE").await?;
        }
        raise_positions(to).await?;
        to.run(
            "INSERT INTO meta (key, value) VALUES ($1, $2)",
            vec![MARK.into(), store.as_str().into()],
        )
        .await?;
    }
    for table in tables {
        let read = sums(from, &table).await.map_err(source)?;
        let sums = [read, sums(to, &table).await?];
        let [there, here] = &sums;
        // A fleet that has gone on since then has other sums.
        if there != here && !copied.before {
            return Err(Fail::Broken(format!(
                "the table {} was read as {there:?} and written as {here:?}; nothing was changed",
                table.name
            )));
        }
        copied.tables.push((table.name, there[0].unsigned_abs()));
    }
    if !copied.before {
        // The lease of an embedded store's host is without end; in the fleet it has yet to join.
        let sql = "UPDATE hosts SET standing = 'unreachable', renewed_at = 0, lease_until = 0, fenced_after = NULL";
        to.run(sql, vec![]).await?;
        write_down(to, host, keys, &store, &copied).await?;
    }
    crash::point("migrate.copied");
    to.say("COMMIT").await?;
    crash::point("migrate.committed");
    let _ = from.say("ROLLBACK").await;
    Ok(copied)
}

/// The chain that was copied tells that it was. Who has asked systemd for it is not known here.
async fn write_down(
    to: &mut Link,
    host: String,
    keys: Vec<Key>,
    store: &str,
    copied: &Copied,
) -> Result<(), Fail> {
    let kept = Arc::new(Kept::default());
    kept.begin(host.clone(), keys);
    let mut chain = Chain::new(kept);
    let at = clock::now(to).await?;
    to.collect_notes(chain.is_kept());
    to.note(|| {
        let rows = copied.tables.iter().filter(|(_, rows)| *rows > 0);
        let rows: BTreeMap<_, _> = rows.cloned().collect();
        Note::of_act(&Act {
            at,
            kind: "act.migrate-store",
            project: String::new(),
            subject: format!("host/{host}"),
            actor: Actor::host(),
            result: "ok".to_owned(),
            data: json!({ "from": store, "rows": rows }),
        })
    });
    chain.append(to).await
}

/// What failed was the embedded store.
fn source(fail: Fail) -> Fail {
    match fail {
        Fail::Sql(error) => Fail::Broken(format!("the embedded store can't be read: {error}")),
        other => other,
    }
}

/// What the embedded store has.
async fn tables(from: &mut Link) -> Result<Vec<Table>, Fail> {
    let names = "SELECT name FROM sqlite_master
                  WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name";
    let mut tables = Vec::new();
    for row in from.rows(names, vec![]).await? {
        let name = row.text(0)?;
        if OWN.contains(&name) {
            continue;
        }
        let (mut columns, mut key) = (Vec::new(), Vec::new());
        let sql = "SELECT name, type, pk FROM pragma_table_info($1) ORDER BY cid";
        for column in from.rows(sql, vec![name.into()]).await? {
            let (its, text) = (column.text(0)?.to_owned(), column.text(1)? == "TEXT");
            match column.int(2)? {
                0 => {}
                place => key.push((place, its.clone(), text)),
            }
            columns.push((its, text));
        }
        key.sort();
        let sql = "SELECT \"table\" FROM pragma_foreign_key_list($1)";
        let needs = from.rows(sql, vec![name.into()]).await?;
        let needs = needs.iter().map(|r| r.text(0).map(str::to_owned));
        tables.push(Table {
            name: name.to_owned(),
            columns,
            key: key
                .into_iter()
                .map(|(_, name, text)| (name, text))
                .collect(),
            needs: needs.collect::<Result<_, _>>()?,
        });
    }
    Ok(tables)
}

/// So that what is referred to is there first.
fn in_order(mut tables: Vec<Table>) -> Result<Vec<Table>, Fail> {
    let mut ordered: Vec<Table> = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let there = |name: &String| ordered.iter().any(|t| t.name == *name);
        let ready = tables.iter().position(|t| t.needs.iter().all(there));
        let ready = ready.ok_or_else(|| {
            Fail::Broken("tables of the embedded store refer to each other in a circle".to_owned())
        })?;
        ordered.push(tables.remove(ready));
    }
    Ok(ordered)
}

/// The schema's rules can be switched off by its owner alone.
async fn check_owner(to: &mut Link) -> Result<(), Fail> {
    let sql = "SELECT current_user::TEXT, pg_get_userbyid(relowner)::TEXT
                 FROM pg_class WHERE oid = to_regclass('runners') AND NOT pg_has_role(relowner, 'USAGE')";
    let Some(row) = to.maybe(sql, vec![]).await? else {
        return Ok(());
    };
    let (role, owner) = (row.text(0)?, row.text(1)?);
    Err(Fail::Refused(Error::new(
        ErrorKind::NotPermitted,
        format!(
            "The schema of the fleet's store belongs to {owner}, and {role} may not copy into it. Name {owner} in store.url for this once, with its password, and {role} again before the daemon is started."
        ),
    )))
}

/// The fleet's store must be able to take every column.
async fn check_target(to: &mut Link, table: &Table) -> Result<(), Fail> {
    let sql = "SELECT attname::TEXT FROM pg_attribute
                WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
    let rows = to.rows(sql, vec![table.name.as_str().into()]).await?;
    let there: BTreeSet<&str> = rows.iter().map(|r| r.text(0)).collect::<Result<_, _>>()?;
    match table
        .columns
        .iter()
        .find(|(c, _)| !there.contains(c.as_str()))
    {
        None => Ok(()),
        Some((column, _)) => Err(Fail::Broken(format!(
            "the fleet's store has no column {}.{column}; its schema is of another release",
            table.name
        ))),
    }
}

async fn mark(to: &mut Link) -> Result<Option<String>, Fail> {
    let row = to
        .maybe("SELECT value FROM meta WHERE key = $1", vec![MARK.into()])
        .await?;
    row.map(|row| row.text(0).map(str::to_owned)).transpose()
}

async fn refuse_rows(to: &mut Link, table: &Table) -> Result<(), Fail> {
    let sql = format!("SELECT CAST(count(*) AS BIGINT) FROM {}", table.name);
    match to.one(sql, vec![]).await?.count(0)? {
        0 => Ok(()),
        n => Err(Fail::Refused(Error::new(
            ErrorKind::Conflict,
            format!(
                "The fleet's store is not empty: its table {} has {n} rows. An embedded store is copied only into an empty one, before the first daemon uses it; make a new database.",
                table.name
            ),
        ))),
    }
}

/// The schema's own rules, off or on.
async fn triggers(to: &mut Link, table: &Table, how: &str) -> Result<(), Fail> {
    let sql = format!("ALTER TABLE {} {how} TRIGGER USER", table.name);
    to.run(sql, vec![]).await.map(drop)
}

async fn rows(from: &mut Link, to: &mut Link, table: &Table) -> Result<(), Fail> {
    let list = |columns: &[(String, bool)]| {
        let names: Vec<_> = columns.iter().map(|(n, _)| format!("\"{n}\"")).collect();
        names.join(", ")
    };
    let pairs: Vec<_> = table
        .columns
        .iter()
        .map(|(name, _)| format!("'{name}', \"{name}\""))
        .collect();
    let (pairs, key, columns) = (pairs.join(", "), list(&table.key), list(&table.columns));
    let marks: Vec<_> = (1..=table.key.len()).map(|n| format!("${n}")).collect();
    let after = format!("WHERE ({key}) > ({})", marks.join(", "));
    let write = format!(
        "INSERT INTO {0} ({columns}) SELECT {columns} FROM json_populate_recordset(NULL::{0}, $1::JSON)",
        table.name
    );
    let mut last: Vec<Value> = Vec::new();
    loop {
        let behind = if last.is_empty() { "" } else { after.as_str() };
        let read = format!(
            "SELECT json_object({pairs}), {key} FROM {} {behind} ORDER BY {key} LIMIT {ROWS}",
            table.name
        );
        let read = from
            .rows(read, std::mem::take(&mut last))
            .await
            .map_err(source)?;
        let Some(end) = read.last() else {
            return Ok(());
        };
        for (at, (_, text)) in table.key.iter().enumerate() {
            last.push(match text {
                true => end.text(at + 1)?.into(),
                false => end.int(at + 1)?.into(),
            });
        }
        let rows: Vec<&str> = read.iter().map(|r| r.text(0)).collect::<Result<_, _>>()?;
        let rows = format!("[{}]", rows.join(","));
        to.run(write.clone(), vec![rows.into()]).await?;
    }
}

/// Events to come have positions above those that were copied.
async fn raise_positions(to: &mut Link) -> Result<(), Fail> {
    let sql = "UPDATE meta SET value = greatest(value::BIGINT,
                      (SELECT (max(position) >> 20) + 1 FROM events) - pg_current_xact_id()::TEXT::BIGINT)::TEXT
                WHERE key = 'base'";
    to.run(sql, vec![]).await.map(drop)
}

/// Rows, and a sum over each column that any difference changes but for the unlikely one.
async fn sums(on: &mut Link, table: &Table) -> Result<Vec<i64>, Fail> {
    let sums: Vec<_> = table
        .columns
        .iter()
        .map(|(name, text)| match text {
            true => format!("CAST(coalesce(sum(length(\"{name}\")), 0) AS BIGINT)"),
            false => format!("CAST(coalesce(sum(\"{name}\" % 1000003), 0) AS BIGINT)"),
        })
        .collect();
    let sql = format!(
        "SELECT CAST(count(*) AS BIGINT), {} FROM {}",
        sums.join(", "),
        table.name
    );
    let row = on.one(sql, vec![]).await?;
    (0..=table.columns.len()).map(|at| row.int(at)).collect()
}
