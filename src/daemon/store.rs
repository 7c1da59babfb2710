//! The store that `store.url` names: opening it, and looking it over.

use super::Fatal;
use super::observe::Observed;
use crate::adapters::sqlite::SqliteStore;
use crate::config::{Config, StoreUrl};
use crate::domain::kinds;
use crate::ports::{Store, StoreError};
use crate::service;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to open it.
const REOPEN: Duration = Duration::from_secs(2);

/// A store that is open.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
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
        StoreUrl::Postgres(_) => Err(no_postgres()),
    }
}

fn no_postgres() -> String {
    "This build has no Postgres store; set store.url to sqlite:///absolute/path.".to_owned()
}

/// A store that can't be opened now may be there later (a full disk, a folder not mounted yet);
/// one that refuses us won't.
pub(super) async fn open(config: &Config, observed: &Observed) -> Result<Opened, Fatal> {
    let mut told = String::new();
    loop {
        match attempt(config).await {
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

async fn attempt(config: &Config) -> Result<Opened, StoreError> {
    match &config.store {
        StoreUrl::Sqlite(path) => {
            let store = Arc::new(SqliteStore::open(path, config.max_connections).await?);
            let counted = store.clone();
            Ok(Opened {
                store,
                connections: Box::new(move || counted.connections()),
                sole_host: true,
            })
        }
        StoreUrl::Postgres(_) => Err(StoreError::Refused(crate::domain::Error::invalid(
            no_postgres(),
        ))),
    }
}
