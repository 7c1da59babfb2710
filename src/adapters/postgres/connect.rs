//! Finding the server that can be written.

use super::super::sql::link::Session;
use super::super::sql::within;
use super::options::{PostgresOptions, ServerAddress, TlsMode};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Row};
use std::sync::{Mutex, PoisonError};

/// Set where we talk to Postgres itself. Poolers refuse it or leave it out, and give each transaction
/// another session.
const DIRECT: [(&str, &str); 3] = [
    ("stratavore.direct", "yes"),
    ("statement_timeout", "6s"),
    ("idle_in_transaction_session_timeout", "10s"),
];
const LOOK: &str = "SELECT coalesce(current_setting('stratavore.direct', TRUE), ''),
    CASE WHEN pg_is_in_recovery() THEN 'a standby' WHEN current_setting('default_transaction_read_only') = 'on' THEN 'read-only' ELSE '' END,
    current_setting('server_version_num')::INT, current_setting('server_version'), current_setting('server_encoding')";
/// The cluster, and how often a standby of it took over. Not everybody who offers Postgres shows it.
const LINE: &str = "SELECT system_identifier::TEXT, left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system()";
/// The oldest server with everything that is used (`server_version_num`).
const OLDEST: i32 = 140_000;

/// Passed over: it answers, but not as the one to write to. A sentence's end.
#[derive(Debug, thiserror::Error)]
#[error("{0} is {1}")]
struct NotWritable(String, String);

/// It answers, and cannot be used as it is: a sentence's end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(pub(super) String);

pub(super) fn unusable(why: String) -> sqlx::Error {
    sqlx::Error::Configuration(Box::new(Unusable(why)))
}

/// One life of a cluster as the one that is written: a standby that takes over begins the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::adapters) struct Line {
    cluster: String,
    timeline: u32,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.cluster, self.timeline)
    }
}

/// The latest line that was seen: a primary of an earlier one was replaced, and doesn't know it.
#[derive(Debug, Default)]
pub(super) struct Latest(Mutex<Option<Line>>);

impl Latest {
    /// Whether there was a later one; notes this one otherwise.
    fn is_past(&self, line: &Line) -> bool {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some(seen) if seen.cluster == line.cluster && seen.timeline > line.timeline => true,
            _ => {
                *latest = Some(line.clone());
                false
            }
        }
    }
}

/// The first server that lets us in and can be written.
pub(super) async fn connect(
    options: &PostgresOptions,
    latest: &Latest,
) -> Result<Session, sqlx::Error> {
    let mut first = None;
    for server in &options.servers {
        match one(options, server, latest).await {
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

async fn one(
    options: &PostgresOptions,
    server: &ServerAddress,
    latest: &Latest,
) -> Result<Session, sqlx::Error> {
    let limit = Some(options.connect_timeout);
    let to = address(options, server);
    let direct = within(limit, to.clone().options(DIRECT).connect()).await;
    let mut on = match direct {
        Err(error) if may_refuse_settings(&error) => within(limit, to.connect()).await?,
        direct => direct?,
    };
    let look = within(limit, look(&mut on)).await?;
    let not_writable = |why: String| {
        let why = NotWritable(server.to_string(), why);
        Err(sqlx::Error::Configuration(Box::new(why)))
    };
    if look.number < OLDEST {
        return Err(unusable(format!(
            "is PostgreSQL {} on {server}; at least {} is needed",
            look.version,
            OLDEST / 10_000
        )));
    }
    if look.encoding != "UTF8" {
        return Err(unusable(format!(
            "is encoded in {}; make it with: createdb -E UTF8 -T template0 {}",
            look.encoding, options.database
        )));
    }
    if !look.unwritable.is_empty() {
        return not_writable(look.unwritable);
    }
    if let Some(line) = &look.line
        && latest.is_past(line)
    {
        let timeline = line.timeline;
        return not_writable(format!(
            "a primary that was replaced (timeline {timeline}); stop it before anybody writes to it"
        ));
    }
    Ok(Session {
        on,
        pooled: look.direct != "yes",
        line: look.line,
        position: 0,
        notes: None,
    })
}

/// What a server says of itself.
struct Look {
    direct: String,
    unwritable: String,
    number: i32,
    version: String,
    encoding: String,
    line: Option<Line>,
}

async fn look(on: &mut PgConnection) -> Result<Look, sqlx::Error> {
    let row = sqlx::raw_sql(LOOK).fetch_one(&mut *on).await?;
    let mut look = Look {
        direct: row.try_get(0)?,
        unwritable: row.try_get(1)?,
        number: row.try_get(2)?,
        version: row.try_get(3)?,
        encoding: row.try_get(4)?,
        line: None,
    };
    if look.unwritable.is_empty() {
        look.line = match sqlx::raw_sql(LINE).fetch_one(on).await {
            Ok(row) => {
                let timeline: String = row.try_get(1)?;
                u32::from_str_radix(&timeline, 16)
                    .ok()
                    .map(|timeline| {
                        Ok::<_, sqlx::Error>(Line {
                            cluster: row.try_get(0)?,
                            timeline,
                        })
                    })
                    .transpose()?
            }
            Err(sqlx::Error::Database(_)) => None,
            Err(error) => return Err(error),
        };
    }
    Ok(look)
}

/// A pooler in between does not hand settings on, and each says so in its own way. What else is
/// refused is refused again.
fn may_refuse_settings(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|code| {
        !["28", "3D", "57P"]
            .iter()
            .any(|class| code.starts_with(class))
            && code != "53300"
    })
}

fn address(options: &PostgresOptions, server: &ServerAddress) -> PgConnectOptions {
    let mut to = PgConnectOptions::new_without_pgpass()
        .database(&options.database)
        .username(&options.user)
        .password(options.password.as_ref().map_or("", |p| p.reveal()))
        .application_name("stratavored")
        // Poolers refuse what they don't know.
        .extra_float_digits(None)
        .disable_statement_logging();
    to = match server {
        ServerAddress::Tcp(host, port) => to.host(host).port(*port),
        ServerAddress::Socket(folder, port) => to.socket(folder).port(*port),
    };
    to = to.ssl_mode(match (server, options.tls) {
        // It never leaves this machine, and Postgres does not encrypt it.
        (ServerAddress::Socket(..), _) | (_, TlsMode::Disable) => PgSslMode::Disable,
        (_, TlsMode::Prefer) => PgSslMode::Prefer,
        // As in libpq: an authority that is given is there to be asked.
        (_, TlsMode::Require) if options.tls_ca.is_some() => PgSslMode::VerifyCa,
        (_, TlsMode::Require) => PgSslMode::Require,
        (_, TlsMode::VerifyCa) => PgSslMode::VerifyCa,
        (_, TlsMode::VerifyFull) => PgSslMode::VerifyFull,
    });
    if let Some(ca) = &options.tls_ca {
        to = to.ssl_root_cert(ca);
    }
    match &options.tls_certificate {
        Some((certificate, key)) => to.ssl_client_cert(certificate).ssl_client_key(key),
        None => to,
    }
}
