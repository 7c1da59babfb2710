//! The schema: bringing it up to date, or living with a newer one.
//!
//! Each migration is one transaction under a lock, so that daemons that start together don't meet.
//! A newer schema is fine as long as it says that this release can go on with it (`readable-from`).

use super::super::sql::fail::Fail;
use super::super::sql::link::Link;
use super::super::sql::{Base, within};
use super::options::PostgresOptions;
use super::{BEGIN, LIMIT, Postgres, connect, fault};
use crate::domain::words::counted;
use crate::domain::{Error, ErrorKind};
use crate::ports::StoreError;
use sqlx::migrate::Migrator;
use std::time::Duration;

/// The schema, embedded in the program.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a migration may take.
const MIGRATION: Duration = Duration::from_secs(1_800);
/// One migration at a time, and no writer beside it, whose locks on tables come in another order.
/// Behind somebody's long question it gives up soon and is tried again: whoever queues for a table
/// holds up all that come after.
const BEGIN_MIGRATION: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '3s';
    SET LOCAL idle_in_transaction_session_timeout = '60s';
    SELECT pg_advisory_xact_lock(723103, 0); SELECT pg_advisory_xact_lock(723100, 0)";
/// A writer that has not been seen for a week is gone, µs.
const GONE: i64 = 7 * 24 * 3_600 * 1_000_000;

/// Which schema is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct There {
    version: i64,
    readable_from: i64,
    by: String,
}

pub(super) fn ours() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

async fn look(on: &mut Link) -> Result<Option<There>, Fail> {
    // (to_regclass may go by what the session has seen before.)
    let table = on
        .maybe(
            "SELECT 1::BIGINT FROM pg_class WHERE relname = 'meta' AND relkind = 'r' AND pg_table_is_visible(oid)",
            vec![],
        )
        .await?;
    if table.is_none() {
        return Ok(None);
    }
    let found = on
        .one(
            "SELECT (SELECT value::BIGINT FROM meta WHERE key = 'schema'),
                    (SELECT value::BIGINT FROM meta WHERE key = 'readable-from'),
                    (SELECT value FROM meta WHERE key = 'written-by')",
            vec![],
        )
        .await?;
    Ok(Some(There {
        version: found.int(0)?,
        readable_from: found.int(1)?,
        by: found
            .maybe_text(2)?
            .unwrap_or("of a later version")
            .to_owned(),
    }))
}

/// Whether what is there has to be migrated first; an error if this release can't use it.
fn verdict(place: &str, there: Option<&There>, ours: i64) -> Result<bool, StoreError> {
    match there {
        None => Ok(true),
        Some(there) if there.version > ours && there.readable_from > ours => {
            // Waiting won't help.
            Err(StoreError::Refused(Error::new(
                ErrorKind::StoreUnavailable,
                format!(
                    "{place} was written by stratavored {} (schema {}, usable from schema {} on) and this is stratavored {} (schema {ours}); upgrade this daemon",
                    there.by,
                    there.version,
                    there.readable_from,
                    env!("CARGO_PKG_VERSION"),
                ),
            )))
        }
        Some(there) => Ok(there.version < ours),
    }
}

/// Brings the schema up to date and enters this writer.
pub(super) async fn prepare(base: &Postgres, link: &mut Link) -> Result<(), StoreError> {
    let told = |fail: Fail| fail.told(base);
    let looked = async {
        // Together: a pooler may give the next statement another session.
        link.say(super::BEGIN_READING).await?;
        let there = look(link).await?;
        link.say("COMMIT").await?;
        Ok(there)
    };
    let there = asked(looked).await.map_err(told)?;
    if verdict(&base.place(), there.as_ref(), ours())? {
        migrate(base, link).await?;
    }
    asked(enter(base, link)).await.map_err(told)?;
    let limit = Some(LIMIT);
    within(limit, begin_writing(base, link))
        .await
        .map_err(|e| base.told(&e))
}

async fn asked<T>(work: impl Future<Output = Result<T, Fail>>) -> Result<T, Fail> {
    within(Some(LIMIT), async { Ok(work.await) }).await?
}

async fn migrate(base: &Postgres, link: &mut Link) -> Result<(), StoreError> {
    for migration in MIGRATIONS.iter() {
        let step = async {
            link.say(BEGIN_MIGRATION).await?;
            let there = look(link).await.map_err(Fail::fault)?;
            if there.is_none_or(|there| there.version < migration.version) {
                link.say_text(migration.sql.as_str().to_owned()).await?;
                let done = "UPDATE meta SET value = CAST($1 AS TEXT) WHERE key = 'schema'";
                link.run(done, vec![migration.version.to_string().into()])
                    .await
                    .map_err(Fail::fault)?;
            }
            link.say("COMMIT").await
        };
        if let Err(error) = within(Some(MIGRATION), step).await {
            let _ = within(Some(LIMIT), link.say("ROLLBACK")).await;
            return Err(fault::cannot_migrate(
                &base.options,
                migration.version,
                &error,
            ));
        }
    }
    Ok(())
}

/// A running daemon of an older release must not go on with a schema that is no longer for it.
pub(super) fn readable(from: i64) -> Result<(), sqlx::Error> {
    let ours = ours();
    match from <= ours {
        true => Ok(()),
        false => Err(connect::unusable(format!(
            "was changed by a later release and is usable from schema {from} on; this is stratavored {} (schema {ours}); upgrade this daemon",
            env!("CARGO_PKG_VERSION"),
        ))),
    }
}

/// How many transactions a standby that takes over may not have heard of. Positions begin behind theirs.
const UNHEARD: i64 = 1 << 24;

/// On a connection that is going to write: it is our store, for our release, and positions of events
/// never go backwards, not even where a standby took over that had not heard of the last ones, or where
/// a cluster was made anew from a backup and counts its transactions from the beginning.
pub(super) async fn begin_writing(base: &Postgres, on: &mut Link) -> Result<(), sqlx::Error> {
    on.say(BEGIN).await?;
    let line = on.line();
    if !look_over(base, on, line.as_deref())
        .await
        .map_err(Fail::fault)?
    {
        // Nobody writes an event meanwhile.
        on.say("SELECT pg_advisory_xact_lock(723100, 0)").await?;
        if !look_over(base, on, line.as_deref())
            .await
            .map_err(Fail::fault)?
        {
            raise(on, line).await.map_err(Fail::fault)?;
        }
    }
    on.say("COMMIT").await
}

/// Whether positions go on where they were.
async fn look_over(base: &Postgres, on: &mut Link, line: Option<&str>) -> Result<bool, Fail> {
    const LOOK: &str = "
        SELECT (SELECT value FROM meta WHERE key = 'store-id'), (SELECT value::BIGINT FROM meta WHERE key = 'readable-from'),
               (SELECT value FROM meta WHERE key = 'line'),
               CASE WHEN (SELECT coalesce(max(position), 0) FROM events)
                      >= ((SELECT value::BIGINT FROM meta WHERE key = 'base') + pg_snapshot_xmax(pg_current_snapshot())::TEXT::BIGINT) << 20
                    THEN 1 ELSE 0 END::BIGINT";
    let found = on.one(LOOK, vec![]).await?;
    let store = found.text(0)?;
    if base.store.get_or_init(|| store.to_owned()) != store {
        let why = "is another store than the one this daemon began with; name the right one in store.url, or restart stratavored if a backup was put back";
        return Err(connect::unusable(why.to_owned()).into());
    }
    readable(found.int(1)?)?;
    let goes_on = line.is_none() || found.maybe_text(2)? == line;
    Ok(goes_on && found.int(3)? == 0)
}

async fn raise(on: &mut Link, line: Option<String>) -> Result<(), Fail> {
    on.run(
        "UPDATE meta SET value = CAST(greatest(
                value::BIGINT + CASE WHEN (SELECT value FROM meta WHERE key = 'line') <> $1 THEN $2 ELSE 0 END,
                (SELECT coalesce(max(position), 0) >> 20 FROM events) + 1 - pg_snapshot_xmin(pg_current_snapshot())::TEXT::BIGINT
            ) AS TEXT) WHERE key = 'base'",
        vec![line.clone().into(), UNHEARD.into()],
    )
    .await?;
    if let Some(line) = line {
        on.run(
            "INSERT INTO meta (key, value) VALUES ('line', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            vec![line.into()],
        )
        .await?;
    }
    Ok(())
}

/// Says who is here, and forgets writers that are long gone.
async fn enter(base: &Postgres, on: &mut Link) -> Result<(), Fail> {
    on.say(BEGIN).await?;
    on.say("SELECT pg_advisory_xact_lock_shared(723100, 0)")
        .await?;
    on.run(
        "INSERT INTO meta AS m (key, value) VALUES ('written-by', $1)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE m.value <> excluded.value",
        vec![env!("CARGO_PKG_VERSION").into()],
    )
    .await?;
    on.run(
        "INSERT INTO meta (key, value) VALUES ('store-id', $1) ON CONFLICT (key) DO NOTHING",
        vec![uuid::Uuid::now_v7().to_string().into()],
    )
    .await?;
    const NOW: &str = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
    on.run(
        format!("DELETE FROM writers WHERE seen < {NOW} - $1"),
        vec![GONE.into()],
    )
    .await?;
    on.run(
        format!("INSERT INTO writers (id, batch, seen) VALUES ($1, 0, {NOW}) ON CONFLICT (id) DO NOTHING"),
        vec![base.writer.as_str().into()],
    )
    .await?;
    Ok(on.say("COMMIT").await?)
}

/// One sentence about a sound store, or what is wrong with it. Nothing is changed.
pub(super) async fn check(options: &PostgresOptions) -> Result<String, String> {
    let place = options.place();
    let told = |error: StoreError| format!("{}.", error.why().trim_end_matches('.'));
    let failed = |error: sqlx::Error| told(fault::unavailable(options, &error));
    let mut link = Link::Postgres(
        connect::connect(options, &connect::Latest::default())
            .await
            .map_err(failed)?,
    );
    let looked = async {
        let together = link.is_pooled();
        if together {
            link.say(super::BEGIN_READING).await?;
        }
        let there = look(&mut link).await?;
        let rows = match there {
            Some(_) => {
                link.maybe(
                    "SELECT (SELECT count(*) FROM runners), (SELECT count(*) FROM events)",
                    vec![],
                )
                .await?
            }
            None => None,
        };
        let counts = rows
            .map(|row| Ok::<_, Fail>((row.count(0)?, row.count(1)?)))
            .transpose()?;
        Ok((there, counts))
    };
    let (there, counts) = asked(looked).await.map_err(|fail| failed(fail.fault()))?;
    link.close().await;
    let Some((there, (runners, events))) = there.zip(counts) else {
        return Err(format!(
            "{place} has no schema yet; stratavored makes it when it starts as a user who may."
        ));
    };
    if verdict(&place, Some(&there), ours()).map_err(told)? {
        return Err(format!(
            "{place} has schema {}, and this release {}; stratavored brings it up to date when it is started as a user who may.",
            there.version,
            ours()
        ));
    }
    Ok(format!(
        "{place} is sound: schema {}, {}, {}.",
        there.version,
        counted(runners, "runner"),
        counted(events, "event")
    ))
}

#[cfg(test)]
mod verdicts {
    use super::*;

    #[test]
    fn older_daemons_go_on_as_long_as_the_schema_says_so() {
        let there = |version, readable_from| There {
            version,
            readable_from,
            by: "9.9.9".to_owned(),
        };
        let of = |there: Option<There>| verdict("x", there.as_ref(), 3);
        assert!(of(None).is_ok_and(|migrate| migrate));
        assert!(of(Some(there(2, 1))).is_ok_and(|migrate| migrate));
        assert!(of(Some(there(3, 3))).is_ok_and(|migrate| !migrate));
        assert!(of(Some(there(7, 3))).is_ok_and(|migrate| !migrate));
        let Err(StoreError::Refused(error)) = of(Some(there(7, 4))) else {
            panic!("waiting does not help");
        };
        assert!(
            error
                .message
                .contains("stratavored 9.9.9 (schema 7, usable from schema 4 on)")
        );
        assert!(error.message.ends_with("upgrade this daemon"));
    }
}
