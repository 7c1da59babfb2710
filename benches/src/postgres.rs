//! Admissions into a fleet's Postgres, beside plain inserts with a commit each.

use crate::server::Server;
use crate::store::{admissions, create_projects, end, spec};
use crate::table::{Goal, Table};
use crate::{Res, Size};
use futures_util::future::{join_all, try_join_all};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stratavore::adapters::postgres::{PostgresOptions, PostgresStore, ServerAddress, TlsMode};
use stratavore::domain::event::Actor;
use stratavore::ports::Store;

/// Where its files are made: on the host's disk.
const FOLDER: &str = "/var/lib/stratavore-bench-postgres";
/// Callers, and clients beside them.
const MANY: usize = 64;

pub(crate) async fn measure(size: Size, table: &mut Table) -> Res<()> {
    let server = Server::start(Path::new(FOLDER))?;
    let mut clients = plain(&server).await?;
    let store = open(&server, "fleet").await?;
    create_projects(&store, MANY).await?;

    let (mut spread, mut hot, mut slowest) = (Vec::new(), Vec::new(), [0.0f64; 2]);
    for _ in 0..size.rounds {
        let all = inserts(&mut clients, size.turn).await?;
        let (many, ids) = admissions(&store, size.turn, MANY, 0..MANY).await?;
        end(&store, ids).await?;
        let one = inserts(&mut clients[..1], size.turn).await?;
        let (same, ids) = admissions(&store, size.turn, MANY, 0..1).await?;
        end(&store, ids).await?;
        spread.push((many.rate, all));
        hot.push((same.rate, one));
        slowest = [slowest[0].max(many.p99), slowest[1].max(same.p99)];
    }
    table.beside(
        "Postgres: admissions, 64 callers, 64 projects; 64 clients' inserts",
        "1/s",
        &spread,
        Goal::AtLeast(1.0),
    );
    table.beside(
        "Postgres: admissions, 64 callers, 1 project; 1 client's inserts",
        "1/s",
        &hot,
        Goal::AtLeast(3.0),
    );
    table.note(format!(
        "Postgres: admission, p99 of the worst turn: 64 projects {:.1} ms, 1 project {:.1} ms",
        slowest[0] / 1e3,
        slowest[1] / 1e3
    ));
    fleet_cap(size, &server, &store, table).await?;
    history(size, &server, &store, table).await?;
    store.close().await;
    for client in clients {
        client.close().await?;
    }
    Ok(())
}

/// Two daemons with projects of their own, with a cap on the whole fleet that is never reached, and without.
async fn fleet_cap(
    size: Size,
    server: &Server,
    store: &Arc<dyn Store>,
    table: &mut Table,
) -> Res<()> {
    let other = connect(server, "fleet").await?;
    let (mut rounds, mut slowest) = (Vec::new(), [0.0f64; 2]);
    for _ in 0..size.rounds {
        let mut rates = [0.0; 2];
        for (n, max) in [None, Some(1_000_000_000)].into_iter().enumerate() {
            store.set_fleet_max(max, Actor::host()).await?;
            let (one, two) = tokio::join!(
                admissions(store, size.turn, MANY / 2, 0..MANY / 2),
                admissions(&other, size.turn, MANY / 2, MANY / 2..MANY)
            );
            let ((one, ids), (two, more)) = (one?, two?);
            end(store, ids).await?;
            end(&other, more).await?;
            rates[n] = one.rate + two.rate;
            slowest[n] = slowest[n].max(one.p99).max(two.p99);
        }
        rounds.push((rates[1], rates[0]));
    }
    store.set_fleet_max(None, Actor::host()).await?;
    other.close().await;
    table.between_ours(
        "Postgres: admissions, 2 daemons, 32 callers each, fleet cap on; off",
        "1/s",
        &rounds,
        Goal::AtLeast(0.8),
    );
    table.note(format!(
        "Postgres: admission of 2 daemons, p99 of the worst turn: cap off {:.1} ms, on {:.1} ms",
        slowest[0] / 1e3,
        slowest[1] / 1e3
    ));
    Ok(())
}

/// One caller at a time, in a store with a long history and in one with a short one.
async fn history(
    size: Size,
    server: &Server,
    short: &Arc<dyn Store>,
    table: &mut Table,
) -> Res<()> {
    let long = open(server, "long").await?;
    create_projects(&long, 1).await?;
    let begun = Instant::now();
    let mut owner = options(server, "postgres", "long").connect().await?;
    let row = "'bench-0', 'host-0', 1000, $1, 1, n, 0";
    let ended = format!(
        "INSERT INTO runners (id, project, host, uid, spec, seq, created_at, started_at, state, ended_at, exit, usage)
         SELECT '0' || md5(n::TEXT), {row}, 'ended', n, '{{}}', '{{}}' FROM generate_series(1, $2) AS n"
    );
    let told = "INSERT INTO events (position, at, type, project, subject, seq, actor, data)
        SELECT n, n, 'runner.ended', 'bench-0', 'runner/0' || md5(n::TEXT), 2, '{}', '{\"cause\":\"success\"}'
          FROM generate_series(1, $1) AS n";
    let live = format!(
        "INSERT INTO runners (id, project, host, uid, spec, seq, created_at, started_at, state, ended_at)
         SELECT '1' || md5(n::TEXT), {row}, 'starting', 0 FROM generate_series(1, $2) AS n"
    );
    // Ended ones have a way behind them that the schema looks at, step by step.
    sqlx::raw_sql(
        "ALTER TABLE runners DISABLE TRIGGER USER; ALTER TABLE events DISABLE TRIGGER USER",
    )
    .execute(&mut owner)
    .await?;
    let (many, some) = (i64::try_from(size.ended)?, i64::try_from(size.live_rows)?);
    let spec = spec()?;
    let insert = sqlx::query(sqlx::AssertSqlSafe(ended))
        .bind(&spec)
        .bind(many);
    insert.execute(&mut owner).await?;
    sqlx::query(told).bind(many).execute(&mut owner).await?;
    sqlx::raw_sql(
        "ALTER TABLE runners ENABLE TRIGGER USER; ALTER TABLE events ENABLE TRIGGER USER",
    )
    .execute(&mut owner)
    .await?;
    let insert = sqlx::query(sqlx::AssertSqlSafe(live))
        .bind(&spec)
        .bind(some);
    insert.execute(&mut owner).await?;
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut owner).await?;
    owner.close().await?;
    table.note(format!(
        "Postgres: a history of {} ended runners was made in {} s",
        size.ended,
        begun.elapsed().as_secs()
    ));
    let mut rounds = Vec::new();
    for _ in 0..size.rounds {
        let (without, ids) = admissions(short, size.turn, 1, 0..1).await?;
        end(short, ids).await?;
        let (with, ids) = admissions(&long, size.turn, 1, 0..1).await?;
        end(&long, ids).await?;
        rounds.push((with.p50, without.p50));
    }
    long.close().await;
    let what = format!(
        "Postgres: admission, p50, {} ended + {} live; none",
        size.ended, size.live_rows
    );
    table.between_ours(what, "µs", &rounds, Goal::AtMost(1.2));
    Ok(())
}

/// A new database, and a daemon's store in it.
async fn open(server: &Server, database: &'static str) -> Res<Arc<dyn Store>> {
    let mut first = options(server, "postgres", "postgres").connect().await?;
    let create = format!("CREATE DATABASE {database}");
    sqlx::query(sqlx::AssertSqlSafe(create))
        .execute(&mut first)
        .await?;
    first.close().await?;
    connect(server, database).await
}

/// Another daemon's.
async fn connect(server: &Server, database: &str) -> Res<Arc<dyn Store>> {
    let options = PostgresOptions {
        servers: vec![ServerAddress::Socket(server.socket().to_owned(), 5432)],
        database: database.to_owned(),
        user: "postgres".to_owned(),
        password: None,
        tls: TlsMode::Disable,
        tls_ca: None,
        tls_certificate: None,
        connect_timeout: Duration::from_secs(10),
        keep: stratavore::adapters::sql::Keep::default(),
    };
    Ok(Arc::new(PostgresStore::open(options, 4).await?))
}

fn options(server: &Server, user: &str, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(server.socket())
        .username(user)
        .database(database)
        .disable_statement_logging()
}

/// One table, and clients who write to it.
async fn plain(server: &Server) -> Res<Vec<PgConnection>> {
    let options = options(server, "postgres", "postgres");
    let mut first = options.connect().await?;
    sqlx::query("CREATE TABLE t (id TEXT PRIMARY KEY, spec TEXT)")
        .execute(&mut first)
        .await?;
    first.close().await?;
    Ok(try_join_all((0..MANY).map(|_| options.connect())).await?)
}

/// Each client one row of about the same size after the other, one commit each; per second of all of them.
async fn inserts(clients: &mut [PgConnection], turn: Duration) -> Res<f64> {
    let (begun, spec) = (Instant::now(), spec()?);
    let writing = clients.iter_mut().map(|client| async {
        let mut done = 0u64;
        while begun.elapsed() < turn {
            let insert = sqlx::query("INSERT INTO t VALUES ($1, $2)");
            let insert = insert.bind(uuid::Uuid::now_v7().to_string()).bind(&spec);
            insert.execute(&mut *client).await?;
            done += 1;
        }
        Ok::<u64, sqlx::Error>(done)
    });
    let mut all = 0;
    for done in join_all(writing).await {
        all += done?;
    }
    Ok(all as f64 / begun.elapsed().as_secs_f64())
}
