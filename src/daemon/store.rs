//! The store that `store.url` names: opening it, and looking it over.

use super::Fatal;
use super::observe::Observed;
use crate::adapters::postgres::{PostgresOptions, PostgresStore, ServerAddress, TlsMode};
use crate::adapters::sql::Keep;
use crate::adapters::sqlite::SqliteStore;
use crate::config::{AuditKeys, Config, Credentials, PostgresHost, PostgresUrl, SslMode, StoreUrl};
use crate::domain::audit::Key;
use crate::domain::{Error, ErrorKind, kinds};
use crate::ports::{Outbox, Store, StoreError};
use crate::service;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to open it.
const REOPEN: Duration = Duration::from_secs(2);

/// How long one server of a fleet's store may take to let us in.
const CONNECT: Duration = Duration::from_secs(3);

/// A store that is open.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    /// The same one's outbox.
    pub(super) outbox: Arc<dyn Outbox>,
    /// Its connections in use, and idle.
    pub(super) connections: Box<dyn Fn() -> (i64, i64) + Send + Sync>,
    /// Whether no other host writes into it.
    pub(super) sole_host: bool,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

/// Looks the configured store over: one sentence about a sound one, or what is wrong.
pub async fn check(config: &Config) -> Result<String, String> {
    match &config.store {
        StoreUrl::Sqlite(path) => SqliteStore::check(path).await,
        StoreUrl::Postgres(url) => PostgresStore::check(options(config, url)?).await,
    }
}

/// Copies the embedded store `file` into the configured one, a fleet's. Answers with what was done
/// and what to do next.
pub async fn migrate(config: &Config, file: &Path) -> Result<String, String> {
    let StoreUrl::Postgres(url) = &config.store else {
        return Err(
            "store.url in stratavored.toml names an embedded store; set it to the fleet's (postgres://…) first."
                .to_owned(),
        );
    };
    let host = super::host_id().map_err(|error| error.to_string())?;
    let keys = AuditKeys::read(&config.audit_key)?.0;
    match crate::adapters::migrate::migrate(file, options(config, url)?, host, keys).await {
        Ok(done) => Ok(format!(
            "{done}\nKeep {} until you have seen that all is there.",
            file.display()
        )),
        Err(StoreError::Refused(error)) => Err(error.message),
        Err(StoreError::Unavailable(why)) => Err(format!("{why}.")),
        Err(StoreError::Fenced) => Err(StoreError::Fenced.to_string()),
    }
}

/// How to reach the fleet's store. The error names the credential that is wrong.
fn options(config: &Config, url: &PostgresUrl) -> Result<PostgresOptions, String> {
    let credentials = Credentials::of_store()?;
    let server = |host: &PostgresHost| match host.name.starts_with('/') {
        true => ServerAddress::Socket(host.name.clone().into(), host.port),
        false => ServerAddress::Tcp(host.name.clone(), host.port),
    };
    Ok(PostgresOptions {
        servers: url.hosts.iter().map(server).collect(),
        database: url.database.clone(),
        user: url.user.clone(),
        password: credentials.password,
        tls: match url.sslmode() {
            SslMode::Disable => TlsMode::Disable,
            SslMode::Prefer => TlsMode::Prefer,
            SslMode::Require => TlsMode::Require,
            SslMode::VerifyCa => TlsMode::VerifyCa,
            SslMode::VerifyFull => TlsMode::VerifyFull,
        },
        tls_ca: credentials.ca,
        tls_certificate: credentials.certificate,
        connect_timeout: CONNECT,
        keep: Keep {
            idle: config.idle_timeout,
            life: config.max_lifetime,
        },
    })
}

/// A store that can't be opened now may be there later (a full disk, a folder not mounted yet);
/// one that refuses us won't.
pub(super) async fn open(
    config: &Config,
    host: &str,
    observed: &Observed,
) -> Result<Opened, Fatal> {
    let mut told = String::new();
    let keys = AuditKeys::read(&config.audit_key).map_err(Fatal::Store)?.0;
    match keys.first() {
        Some(key) => tracing::info!(
            message_id = kinds::AUDIT_ANCHORED.id,
            "The audit of this host is kept with the key {}",
            key.id()
        ),
        None => tracing::info!(
            message_id = kinds::AUDIT_OFF.id,
            "No audit is kept: there is no credential {}",
            config.audit_key
        ),
    }
    loop {
        match attempt(config, host, &keys).await {
            Ok(store) => return Ok(store),
            Err(StoreError::Refused(error)) => return Err(Fatal::Store(error.message)),
            Err(error) => {
                let why = error.why();
                if told != why {
                    tracing::error!(message_id = kinds::STORE_AWAY.id, %why, "The store can't be opened; trying again");
                    told.clone_from(&why);
                }
                let waits = format!("Waiting for the store: {why}");
                service::status(&waits);
                observed.waits_for(waits);
                tokio::time::sleep(REOPEN).await;
            }
        }
    }
}

async fn attempt(config: &Config, host: &str, keys: &[Key]) -> Result<Opened, StoreError> {
    match &config.store {
        StoreUrl::Sqlite(path) => {
            let store = Arc::new(SqliteStore::open(path, config.max_connections).await?);
            store.keep_audit(host.to_owned(), keys.to_vec());
            let counted = store.clone();
            Ok(Opened {
                outbox: Arc::clone(&store) as _,
                store,
                connections: Box::new(move || counted.connections()),
                sole_host: true,
            })
        }
        StoreUrl::Postgres(url) => {
            let options = options(config, url)
                .map_err(|why| StoreError::Refused(Error::new(ErrorKind::StoreUnavailable, why)))?;
            let store = Arc::new(PostgresStore::open(options, config.max_connections).await?);
            store.keep_audit(host.to_owned(), keys.to_vec());
            let counted = store.clone();
            Ok(Opened {
                outbox: Arc::clone(&store) as _,
                store,
                connections: Box::new(move || counted.connections()),
                sole_host: false,
            })
        }
    }
}
