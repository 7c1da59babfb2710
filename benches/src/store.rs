//! Admissions into the embedded store, beside plain inserts with a commit each.

use crate::table::{Goal, Table};
use crate::{Res, Size, median};
use futures_util::future::{join_all, try_join_all};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use stratavore::adapters::sqlite::SqliteStore;
use stratavore::domain::audit::Key;
use stratavore::domain::event::Actor;
use stratavore::domain::exit::{Cause, Exit, Usage};
use stratavore::domain::runner::{Change, Step};
use stratavore::domain::{Limits, RunnerId, RunnerSpec, Timestamp};
use stratavore::ports::{Admitted, NewRunner, Store};

/// Where the files are made: on the host's disk.
const FOLDER: &str = "/var/lib/stratavore-bench";
/// Requests at a time while rows are made.
const BATCH: u64 = 256;

pub(crate) async fn measure(size: Size, table: &mut Table) -> Res<()> {
    let folder = Path::new(FOLDER);
    std::fs::create_dir_all(folder)?;
    let short = open(&folder.join("short.db")).await?;
    let mut plain = plain(&folder.join("plain.db")).await?;

    let (mut one, mut many) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        let ceiling = inserts(&mut plain, size.turn).await?;
        let (alone, ids) = admissions(&short, size.turn, 1, 0..1).await?;
        end(&short, ids).await?;
        let (together, ids) = admissions(&short, size.turn, 64, 0..1).await?;
        end(&short, ids).await?;
        one.push((alone.rate, ceiling));
        many.push((together.rate, ceiling));
    }
    let beside = "insert + commit of one client";
    table.beside(
        format!("admissions, 1 caller; {beside}"),
        "1/s",
        &one,
        Goal::None,
    );
    table.beside(
        format!("admissions, 64 callers; {beside}"),
        "1/s",
        &many,
        Goal::AtLeast(1.0),
    );
    plain.close().await?;

    let long = open(&folder.join("long.db")).await?;
    let begun = Instant::now();
    for batch in batches(size.ended) {
        let ids = admit(&long, batch).await?;
        end(&long, ids).await?;
    }
    for batch in batches(size.live_rows) {
        admit(&long, batch).await?;
    }
    let file = std::fs::metadata(folder.join("long.db"))?.len() >> 20;
    table.note(format!(
        "a history of {} ended runners was made in {} s, {file} MiB",
        size.ended,
        begun.elapsed().as_secs()
    ));
    let mut rounds = Vec::new();
    for _ in 0..size.rounds {
        let (without, ids) = admissions(&short, size.turn, 1, 0..1).await?;
        end(&short, ids).await?;
        let (with, ids) = admissions(&long, size.turn, 1, 0..1).await?;
        end(&long, ids).await?;
        rounds.push((with.p50, without.p50));
    }
    let what = format!(
        "admission, p50, {} ended + {} live; none",
        size.ended, size.live_rows
    );
    table.between_ours(what, "µs", &rounds, Goal::AtMost(1.2));
    short.close().await;
    long.close().await;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// What an audit costs: the same store with a chain, in turns with one without.
pub(crate) async fn audit(size: Size, table: &mut Table) -> Res<()> {
    let folder = Path::new(FOLDER);
    std::fs::create_dir_all(folder)?;
    let without = open(&folder.join("plain-store.db")).await?;
    let audited = Arc::new(SqliteStore::open(&folder.join("audited.db"), 2).await?);
    let key = Key::new(&(0..32).collect::<Vec<u8>>()).map_err(|e| e.message)?;
    audited.keep_audit("host-0".to_owned(), vec![key]);
    let with: Arc<dyn Store> = audited;
    create_projects(&with, 1).await?;
    for callers in [1, 64] {
        let mut rounds = Vec::new();
        for _ in 0..size.rounds {
            let (plain, ids) = admissions(&without, size.turn, callers, 0..1).await?;
            end(&without, ids).await?;
            let (kept, ids) = admissions(&with, size.turn, callers, 0..1).await?;
            end(&with, ids).await?;
            rounds.push((kept.rate, plain.rate));
        }
        let s = if callers == 1 { "" } else { "s" };
        let what = format!("admissions, {callers} caller{s}, an audit kept; none");
        table.between_ours(what, "1/s", &rounds, Goal::None);
    }
    without.close().await;
    with.close().await;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// So many in all.
pub(crate) fn batches(all: u64) -> impl Iterator<Item = u64> {
    (0..all.div_ceil(BATCH)).map(move |n| BATCH.min(all - n * BATCH))
}

async fn open(file: &Path) -> Res<Arc<dyn Store>> {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(file, 2).await?);
    create_projects(&store, 1).await?;
    Ok(store)
}

/// The projects [`admissions`] launches in.
pub(crate) async fn create_projects(store: &Arc<dyn Store>, count: usize) -> Res<()> {
    for n in 0..count {
        store
            .create_project(
                project(n).parse()?,
                Default::default(),
                Actor::host(),
                now(),
            )
            .await?;
    }
    Ok(())
}

fn project(n: usize) -> String {
    format!("bench-{n}")
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn runner(n: usize, host: usize) -> Res<NewRunner> {
    Ok(NewRunner {
        id: RunnerId::from_uuid(uuid::Uuid::now_v7()),
        spec: RunnerSpec {
            project: project(n).parse()?,
            command: vec!["sleep".to_owned(), "infinity".to_owned()],
            name: None,
            uid: 1000,
            user: "alice".to_owned(),
            working_directory: None,
            labels: BTreeMap::new(),
            limits: Limits::default(),
            log_file_max: None,
            priority: 0,
            tokens: None,
            session: None,
            placed: None,
        },
        host: format!("host-{host}"),
        host_max: None,
        request: None,
        queue: false,
        full: None,
        order: None,
        actor: Actor {
            uid: Some(1000),
            user: Some("alice".to_owned()),
            host: None,
            unit: None,
        },
        at: now(),
    })
}

async fn admit_one(store: &Arc<dyn Store>, project: usize, host: usize) -> Res<RunnerId> {
    match store.admit(runner(project, host)?).await? {
        Admitted::New { runner, .. } => Ok(runner.id),
        other => Err(format!("not admitted: {other:?}").into()),
    }
}

pub(crate) async fn admit(store: &Arc<dyn Store>, count: u64) -> Res<Vec<RunnerId>> {
    try_join_all((0..count).map(|_| admit_one(store, 0, 0))).await
}

/// Ends them, as many at a time as the store takes.
pub(crate) async fn end(store: &Arc<dyn Store>, ids: Vec<RunnerId>) -> Res<()> {
    for some in ids.chunks(BATCH as usize) {
        let changes = some.iter().map(|id| {
            let exit = Exit {
                cause: Cause::Success,
                code: Some(0),
                signal: None,
                message: String::new(),
            };
            let step = Step::End(exit, Usage::default());
            store.apply(Change {
                id: *id,
                step,
                actor: Actor::host(),
                at: now(),
            })
        });
        for done in join_all(changes).await {
            done?;
        }
    }
    Ok(())
}

pub(crate) struct Measured {
    pub(crate) rate: f64,
    /// µs.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// What so many callers are admitted, each with one launch under way, in these projects; who begins with
/// another project is another host.
pub(crate) async fn admissions(
    store: &Arc<dyn Store>,
    turn: Duration,
    callers: usize,
    projects: Range<usize>,
) -> Res<(Measured, Vec<RunnerId>)> {
    let begun = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let store = store.clone();
        let (host, project) = (projects.start, projects.start + caller % projects.len());
        tokio::spawn(async move {
            let (mut took, mut ids) = (Vec::new(), Vec::new());
            while begun.elapsed() < turn {
                let one = Instant::now();
                ids.push(admit_one(&store, project, host).await?);
                took.push(one.elapsed().as_secs_f64() * 1e6);
            }
            Res::Ok((took, ids))
        })
    });
    let (mut took, mut ids) = (Vec::new(), Vec::new());
    for task in join_all(tasks).await {
        let (times, made) = task??;
        took.extend(times);
        ids.extend(made);
    }
    let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
    Ok((
        Measured {
            rate,
            p50: median(&mut took),
            // The median has sorted them.
            p99: took.get(took.len() * 99 / 100).copied().unwrap_or(f64::NAN),
        },
        ids,
    ))
}

/// What a plain row holds: as much as a runner's.
pub(crate) fn spec() -> Res<String> {
    Ok(serde_json::to_string(&runner(0, 0)?.spec)?)
}

/// A file with the store's own settings and one table.
async fn plain(file: &Path) -> Res<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true);
    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let options = options
        .pragma("wal_autocheckpoint", "2000")
        .disable_statement_logging();
    let mut on = options.connect().await?;
    sqlx::query("CREATE TABLE t (id TEXT PRIMARY KEY, spec TEXT)")
        .execute(&mut on)
        .await?;
    Ok(on)
}

/// One client, one row of about the same size, one commit each; per second.
async fn inserts(on: &mut SqliteConnection, turn: Duration) -> Res<f64> {
    let spec = spec()?;
    let (begun, mut done) = (Instant::now(), 0u64);
    while begun.elapsed() < turn {
        let insert =
            sqlx::query("INSERT INTO t VALUES ($1, $2)").bind(uuid::Uuid::now_v7().to_string());
        insert.bind(spec.as_str()).execute(&mut *on).await?;
        done += 1;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}
