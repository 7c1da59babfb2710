//! Finding the server that can be written.

use super::super::sql::link::Session;
use super::super::sql::within;
use super::options::{PostgresOptions, ServerAddress, TlsMode};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Row};

/// Set where we talk to Postgres itself. Poolers refuse it or leave it out, and give each transaction
/// another session.
const DIRECT: [(&str, &str); 3] = [
    ("stratavore.direct", "yes"),
    ("statement_timeout", "6s"),
    ("idle_in_transaction_session_timeout", "10s"),
];
const LOOK: &str = "SELECT coalesce(current_setting('stratavore.direct', TRUE), ''),
    CASE WHEN pg_is_in_recovery() THEN 'a standby' WHEN current_setting('default_transaction_read_only') = 'on' THEN 'read-only' ELSE '' END";

/// Passed over: it answers, but not as the one to write to.
#[derive(Debug, thiserror::Error)]
#[error("{0} is {1}")]
pub(super) struct NotWritable(String, String);

/// The first server that lets us in and can be written.
pub(super) async fn connect(options: &PostgresOptions) -> Result<Session, sqlx::Error> {
    let mut first = None;
    for server in &options.servers {
        match one(options, server).await {
            Ok(session) => return Ok(session),
            Err(error) => {
                // That a standby is no primary says less than why the primary is not there.
                let telling = !is_standby(&error);
                if first
                    .as_ref()
                    .is_none_or(|kept| telling && is_standby(kept))
                {
                    first = Some(error);
                }
            }
        }
    }
    Err(first.unwrap_or_else(|| sqlx::Error::Configuration("no server is named".into())))
}

fn is_standby(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Configuration(why) if why.is::<NotWritable>())
}

async fn one(options: &PostgresOptions, server: &ServerAddress) -> Result<Session, sqlx::Error> {
    let limit = Some(options.connect_timeout);
    let to = address(options, server);
    let direct = within(limit, to.clone().options(DIRECT).connect()).await;
    let mut on = match direct {
        Err(error) if refuses_settings(&error) => within(limit, to.connect()).await?,
        direct => direct?,
    };
    let (direct, unwritable) = within(limit, look(&mut on)).await?;
    if !unwritable.is_empty() {
        let why = NotWritable(server.to_string(), unwritable);
        return Err(sqlx::Error::Configuration(Box::new(why)));
    }
    Ok(Session {
        on,
        pooled: direct != "yes",
        position: 0,
    })
}

async fn look(on: &mut PgConnection) -> Result<(String, String), sqlx::Error> {
    let row = sqlx::raw_sql(LOOK).fetch_one(on).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// A pooler in between does not hand settings on.
fn refuses_settings(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| {
        e.code().as_deref() == Some("08P01") || e.message().contains("startup parameter")
    })
}

fn address(options: &PostgresOptions, server: &ServerAddress) -> PgConnectOptions {
    let mut to = PgConnectOptions::new_without_pgpass()
        .database(&options.database)
        .username(&options.user)
        .password(options.password.as_ref().map_or("", |p| p.as_str()))
        .application_name("stratavored")
        // Poolers refuse what they don't know.
        .extra_float_digits(None)
        .disable_statement_logging();
    to = match server {
        ServerAddress::Tcp(host, port) => to.host(host).port(*port),
        ServerAddress::Socket(folder, port) => to.socket(folder).port(*port),
    };
    to = to.ssl_mode(match options.tls {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::Prefer => PgSslMode::Prefer,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::VerifyCa => PgSslMode::VerifyCa,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    });
    if let Some(ca) = &options.tls_ca {
        to = to.ssl_root_cert(ca);
    }
    match &options.tls_certificate {
        Some((certificate, key)) => to.ssl_client_cert(certificate).ssl_client_key(key),
        None => to,
    }
}
