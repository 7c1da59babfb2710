//! Asking a Postgres from outside: any query, rows as JSON, within a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::runtime::Runtime;

/// A row: column → value.
pub type Row = BTreeMap<String, Value>;

/// A query may take this long; then its connection is given up.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection by the socket in the Postgres' host, made anew when it broke.
#[derive(Debug)]
pub struct Sql {
    runtime: Runtime,
    options: PgConnectOptions,
    folder: Arc<Mutex<PathBuf>>,
    connection: Option<PgConnection>,
}

impl Sql {
    /// `folder` is where the socket is at present, as this machine sees it.
    pub(super) fn new(folder: Arc<Mutex<PathBuf>>, user: &str, database: &str) -> Self {
        Sql {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            options: PgConnectOptions::new_without_pgpass()
                .ssl_mode(PgSslMode::Disable)
                .username(user)
                .database(database)
                .application_name("test")
                .disable_statement_logging(),
            folder,
            connection: None,
        }
    }

    /// Rows of a query, or why there are none.
    pub fn try_rows(&mut self, query: &str) -> Result<Vec<Row>, String> {
        let wrapped = format!("SELECT coalesce(json_agg(q)::text, '[]') FROM ({query}) q");
        let text = self.within(async |connection| {
            sqlx::query_scalar::<_, String>(AssertSqlSafe(wrapped))
                .persistent(false)
                .fetch_one(connection)
                .await
        })?;
        serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
    }

    /// Statements without an answer, one after the other, each its own transaction unless they say otherwise.
    pub fn try_run(&mut self, statements: &str) -> Result<(), String> {
        self.within(async |connection| {
            for statement in statements.split(";\n").filter(|s| !s.trim().is_empty()) {
                sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
                    .execute(&mut *connection)
                    .await?;
            }
            Ok(())
        })
    }

    #[track_caller]
    pub fn rows(&mut self, query: &str) -> Vec<Row> {
        self.try_rows(query)
            .unwrap_or_else(|e| panic!("{e}\nin: {query}"))
    }

    /// The only value of a query's only row, as a number.
    #[track_caller]
    pub fn number(&mut self, query: &str) -> i64 {
        let rows = self.rows(query);
        rows.first()
            .and_then(|row| row.values().next()?.as_i64())
            .unwrap_or_else(|| panic!("no number: {rows:?}\nin: {query}"))
    }

    #[track_caller]
    pub fn run(&mut self, statements: &str) {
        self.try_run(statements)
            .unwrap_or_else(|e| panic!("{e}\nin: {statements}"));
    }

    fn within<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, String> {
        let folder = self.folder.lock().expect("sql").clone();
        let options = &self.options.clone().socket(folder);
        let connection = self.connection.take();
        let asked = self.runtime.block_on(async {
            tokio::time::timeout(LIMIT, async {
                let mut connection = match connection {
                    Some(connection) => connection,
                    None => PgConnection::connect_with(options).await?,
                };
                let answer = ask(&mut connection).await;
                // An error of the query leaves the connection as it was; whatever else is wrong with it ends it.
                let keep = answer.is_ok() || matches!(answer, Err(sqlx::Error::Database(_)));
                Ok::<_, sqlx::Error>((answer, keep.then_some(connection)))
            })
            .await
        });
        match asked {
            Ok(Ok((answer, connection))) => {
                self.connection = connection;
                answer.map_err(|e| e.to_string())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer after {} s", LIMIT.as_secs())),
        }
    }
}
