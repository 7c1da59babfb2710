//! Looking a store over, beside a daemon that uses it or without one.

use super::fault::unavailable;
use super::open::{MIGRATIONS, reading, refuse_newer};
use crate::domain::units::show_size;
use crate::domain::words::counted;
use crate::ports::StoreError;
use sqlx::{ConnectOptions, SqliteConnection};
use std::path::Path;

/// Faults that are told.
const FAULTS: u8 = 3;

/// One sentence about a sound store, or what is wrong with it. Nothing is changed.
pub(super) async fn check(file: &Path) -> Result<String, String> {
    let shown = file.display();
    // Opened as the daemon would, and not written to.
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .open(file);
    let size = match opened.and_then(|handle| handle.metadata()) {
        Ok(meta) => meta.len() + beside(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!(
                "{shown} is not there; the daemon makes an empty one when it starts."
            ));
        }
        Err(error) => return Err(format!("{shown} can't be opened for writing: {error}.")),
    };
    let told = |error: StoreError| match error {
        StoreError::Unavailable(why) => format!("{}.", why.trim_end_matches('.')),
        error @ StoreError::Fenced => error.to_string(),
        StoreError::Refused(error) => format!("{}.", error.message.trim_end_matches('.')),
    };
    let failed = |error: sqlx::Error| told(unavailable(file, &error));
    let mut connection = reading(file).connect().await.map_err(failed)?;
    refuse_newer(file, &mut connection).await.map_err(told)?;
    let faults: Vec<String> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("PRAGMA quick_check({FAULTS})")))
            .fetch_all(&mut connection)
            .await
            .map_err(failed)?;
    if faults != ["ok"] {
        return Err(format!(
            "{shown} is damaged ({}); stop stratavored so that it stays down (README, Operations), keep a copy of the file, and restore a backup or what “sqlite3 {shown} .recover” saves.",
            faults.join("; ")
        ));
    }
    let schema = scalar(
        &mut connection,
        "SELECT coalesce(max(version), 0) FROM _sqlx_migrations",
    )
    .await
    .map_err(failed)?;
    let ours = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    if schema < ours {
        return Err(format!(
            "{shown} has schema {schema}, and this release {ours}; stratavored brings it up to date when it is started again."
        ));
    }
    let runners = scalar(&mut connection, "SELECT count(*) FROM runners")
        .await
        .map_err(failed)?;
    let events = scalar(&mut connection, "SELECT count(*) FROM events")
        .await
        .map_err(failed)?;
    Ok(format!(
        "{shown} is sound: schema {schema}, {}, {}, {}.",
        show_size(size),
        counted(runners.unsigned_abs(), "runner"),
        counted(events.unsigned_abs(), "event")
    ))
}

/// Bytes not yet copied into the file.
fn beside(file: &Path) -> u64 {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |meta| meta.len())
}

async fn scalar(
    connection: &mut SqliteConnection,
    query: &'static str,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(query).fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use super::super::SqliteStore;
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    #[tokio::test]
    async fn a_sound_store_and_a_damaged_one() {
        let folder = std::env::temp_dir().join(format!("stratavore-check-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("s.db");
        assert!(check(&file).await.unwrap_err().contains("not there"));
        let store = SqliteStore::open(&file, 1).await.unwrap();
        let beside = check(&file).await.unwrap();
        assert!(
            beside.contains("is sound") && beside.contains("0 runners"),
            "{beside}"
        );
        let name = "p".parse().unwrap();
        let (settings, at) = (Default::default(), crate::domain::Timestamp(1));
        let actor = crate::domain::event::Actor::host();
        let made = crate::ports::Store::create_project(&store, name, settings, actor, at);
        made.await.unwrap();
        let beside = check(&file).await.unwrap();
        assert!(beside.ends_with(", 0 runners, 1 event."), "{beside}");
        crate::ports::Store::close(&store).await;
        assert!(check(&file).await.is_ok());
        let mut raw = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        // Past the first page, which has the schema.
        raw.seek(SeekFrom::Start(4096)).unwrap();
        raw.write_all(&[0xff; 3 * 4096]).unwrap();
        drop(raw);
        let damaged = check(&file).await.unwrap_err();
        assert!(
            damaged.contains("damaged") || damaged.contains("malformed"),
            "{damaged}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
