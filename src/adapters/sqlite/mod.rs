//! The embedded store: one SQLite file.
//!
//! The statements and the writer are those of [`super::sql`]; here is what only SQLite has: opening
//! the file, its faults, looking it over. `synchronous=FULL`: what was answered survives a power
//! cut.

mod check;
mod fault;
mod open;

#[cfg(test)]
mod tests;

use super::sql::fail::Fail;
use super::sql::link::Link;
use super::sql::locks::Locks;
use super::sql::{Base, SqlStore};
use crate::ports::StoreError;
use async_trait::async_trait;
use sqlx::ConnectOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Free pages are given back to the file system when there are more than this, and more than a
/// quarter of the file: a store in balance needs them again at once.
const FREE_MIN: i64 = 256;

/// The store in one SQLite file.
pub type SqliteStore = SqlStore<Sqlite>;

/// What only SQLite has.
#[derive(Debug)]
pub struct Sqlite {
    file: PathBuf,
}

impl SqliteStore {
    /// Opens the file, makes it if there is none, and brings its schema up to date. Its folder
    /// must exist. `max_readers` connections are opened for reading, when they are needed.
    pub async fn open(path: &Path, max_readers: u32) -> Result<Self, StoreError> {
        let link = Link::sqlite(open::prepare(path).await?);
        let base = Sqlite {
            file: path.to_owned(),
        };
        Ok(Self::new(base, link, max_readers))
    }

    /// Opens a store to read all of it while nobody else uses it.
    pub(in crate::adapters) async fn alone(path: &Path) -> Result<Link, StoreError> {
        open::alone(path).await.map(Link::sqlite)
    }

    /// Looks a store over without changing anything, whether a daemon uses it or not: one sentence
    /// about a sound one, or what is wrong. Reads the whole file.
    pub async fn check(path: &Path) -> Result<String, String> {
        check::check(path).await
    }
}

#[async_trait]
impl Base for Sqlite {
    fn place(&self) -> String {
        self.file.display().to_string()
    }

    async fn again(&self) -> Result<Link, sqlx::Error> {
        open::again(&self.file).await.map(Link::sqlite)
    }

    async fn reading(&self) -> Result<Link, sqlx::Error> {
        open::reading(&self.file).connect().await.map(Link::sqlite)
    }

    fn begin(&self) -> &'static str {
        "BEGIN IMMEDIATE"
    }

    fn begin_reading(&self) -> &'static str {
        "BEGIN"
    }

    fn limit(&self) -> Option<Duration> {
        None
    }

    async fn enter(&self, _: &mut Link, _: &Locks, _: u64, _: &str) -> Result<(), Fail> {
        // Who publishes is written down when the host joins.
        Ok(())
    }

    fn doubts_commit(&self) -> bool {
        false
    }

    async fn committed(&self, _: &mut Link) -> Result<Option<u64>, Fail> {
        Ok(None)
    }

    fn is_rule(&self, error: &sqlx::Error) -> bool {
        fault::is_rule(error)
    }

    fn is_passing(&self, error: &sqlx::Error) -> bool {
        fault::is_passing(error)
    }

    fn told(&self, error: &sqlx::Error) -> StoreError {
        fault::unavailable(&self.file, error)
    }

    async fn pruned(&self, on: &mut Link) -> Result<(), Fail> {
        let free = on.one("PRAGMA freelist_count", vec![]).await?.int(0)?;
        let pages = on.one("PRAGMA page_count", vec![]).await?.int(0)?;
        if free > FREE_MIN && free > pages / 4 {
            on.run("PRAGMA incremental_vacuum(1024)", vec![]).await?;
        }
        Ok(())
    }

    async fn last(&self, on: &mut Link) {
        // Only tidying up: what was answered is safe in the WAL.
        let _ = on.say("PRAGMA wal_checkpoint(TRUNCATE)").await;
    }
}
