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
use stratavore::ports::Store;

/// Where its files are made: on the host's disk.
const FOLDER: &str = "/var/lib/stratavore-bench-postgres";
/// Callers, and clients beside them.
const MANY: usize = 64;

pub(crate) async fn measure(size: Size, table: &mut Table) -> Res<()> {
    let server = Server::start(Path::new(FOLDER))?;
    let mut clients = plain(&server).await?;
    let store = open(&server).await?;
    create_projects(&store, MANY).await?;

    let (mut spread, mut hot, mut slowest) = (Vec::new(), Vec::new(), [0.0f64; 2]);
    for _ in 0..size.rounds {
        let all = inserts(&mut clients, size.turn).await?;
        let (many, ids) = admissions(&store, size.turn, MANY, MANY).await?;
        end(&store, ids).await?;
        let one = inserts(&mut clients[..1], size.turn).await?;
        let (same, ids) = admissions(&store, size.turn, MANY, 1).await?;
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
    store.close().await;
    for client in clients {
        client.close().await?;
    }
    Ok(())
}

/// A daemon's store.
async fn open(server: &Server) -> Res<Arc<dyn Store>> {
    let mut first = options(server, "postgres", "postgres").connect().await?;
    sqlx::query("CREATE DATABASE fleet")
        .execute(&mut first)
        .await?;
    first.close().await?;
    let options = PostgresOptions {
        servers: vec![ServerAddress::Socket(server.socket().to_owned(), 5432)],
        database: "fleet".to_owned(),
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
