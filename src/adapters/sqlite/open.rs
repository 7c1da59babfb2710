//! Opening the file: modes, pragmas, schema.

use super::fault::{self, unavailable};
use crate::domain::{Error, ErrorKind};
use crate::ports::StoreError;
use sqlx::ConnectOptions;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode,
    SqliteSynchronous,
};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// The schema, embedded in the program.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long to wait for another program that holds the file.
const BUSY: Duration = Duration::from_secs(5);

/// How the writer opens the file.
pub(super) fn writing(file: &Path) -> SqliteConnectOptions {
    common(file)
        // Before the first table is made, or it has no effect.
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        // What was answered survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Pages of 4 KiB: the WAL is copied back at 8 MiB, and cut back to 16 MiB if it has grown.
        .pragma("wal_autocheckpoint", "2000")
        .pragma("journal_size_limit", "16777216")
}

fn common(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(false)
        .busy_timeout(BUSY)
        // A page of rows is handed over at once: each time the buffer is full two threads wait for one another.
        .row_buffer_size(1_000)
        .pragma("temp_store", "MEMORY")
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .disable_statement_logging()
}

/// How one looks at a file without changing it.
pub(super) fn reading(file: &Path) -> SqliteConnectOptions {
    common(file).read_only(true).pragma("query_only", "ON")
}

/// Opens the file for us alone, to read all of it: no daemon may use it meanwhile, nor start to.
pub(super) async fn alone(file: &Path) -> Result<SqliteConnection, StoreError> {
    let told = |e: sqlx::Error| match fault::primary(&e) {
        fault::code::BUSY | fault::code::LOCKED => StoreError::Refused(Error::new(
            ErrorKind::Conflict,
            format!(
                "{} is in use. Stop the daemon first: systemctl stop stratavored; runners go on meanwhile.",
                file.display()
            ),
        )),
        _ => unavailable(file, &e),
    };
    if let Err(error) = std::fs::metadata(file) {
        return Err(StoreError::Refused(Error::invalid(format!(
            "{}: {error}; name the embedded store's file.",
            file.display()
        ))));
    }
    let options = common(file)
        .busy_timeout(Duration::from_secs(1))
        .locking_mode(SqliteLockingMode::Exclusive)
        .pragma("query_only", "ON");
    let mut connection = options.connect().await.map_err(told)?;
    // The lock is taken with the first page that is read.
    sqlx::query("SELECT count(*) FROM sqlite_master")
        .execute(&mut connection)
        .await
        .map_err(told)?;
    refuse_newer(file, &mut connection).await?;
    let ours = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    let schema: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(&mut connection)
        .await
        .map_err(told)?;
    match schema == ours {
        true => Ok(connection),
        false => Err(StoreError::Refused(Error::new(
            ErrorKind::Conflict,
            format!(
                "{} has schema {schema}, and this release {ours}. Start this release's stratavored once with it, and stop it again.",
                file.display()
            ),
        ))),
    }
}

/// Opens the file for writing, makes it where there is none, and migrates it.
pub(super) async fn prepare(file: &Path) -> Result<SqliteConnection, StoreError> {
    let told = |e: &sqlx::Error| unavailable(file, e);
    create(file).map_err(|e| cannot_create(file, &e))?;
    let mut connection = writing(file).connect().await.map_err(|e| told(&e))?;
    refuse_newer(file, &mut connection).await?;
    if let Err(error) = MIGRATIONS.run(&mut connection).await {
        return Err(cannot_migrate(file, &error));
    }
    sqlx::query(
        "INSERT INTO meta (key, value) VALUES ('written-by', $1)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value;
         INSERT INTO meta (key, value) VALUES ('store-id', $2) ON CONFLICT (key) DO NOTHING",
    )
    .bind(env!("CARGO_PKG_VERSION"))
    .bind(uuid::Uuid::now_v7().to_string())
    .execute(&mut connection)
    .await
    .map_err(|e| told(&e))?;
    Ok(connection)
}

/// Opens it again after a fault.
pub(super) async fn again(file: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = writing(file).connect().await?;
    // Reading one row shows a file that is not (or no longer) ours.
    sqlx::query("SELECT value FROM meta WHERE key = 'store-id'")
        .fetch_one(&mut connection)
        .await?;
    Ok(connection)
}

/// SQLite gives the WAL the modes of the file it belongs to.
fn create(file: &Path) -> io::Result<()> {
    let handle = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(file)?;
    let mode = handle.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        handle.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn cannot_create(file: &Path, error: &io::Error) -> StoreError {
    let folder = file.parent().unwrap_or(Path::new("/")).display();
    StoreError::Unavailable(match error.kind() {
        io::ErrorKind::NotFound => format!(
            "{} can't be made: {folder} does not exist; create it for the daemon's user",
            file.display()
        ),
        io::ErrorKind::StorageFull => format!("disk full: free space on {folder}"),
        io::ErrorKind::IsADirectory => {
            format!("{} is a folder; store.url must name a file", file.display())
        }
        _ => format!(
            "{} can't be opened for writing ({error}); check that {folder} belongs to the daemon's user and is not mounted read-only",
            file.display()
        ),
    })
}

/// An older daemon must not touch what a newer one has made.
pub(super) async fn refuse_newer(
    file: &Path,
    connection: &mut SqliteConnection,
) -> Result<(), StoreError> {
    let told = |e: sqlx::Error| unavailable(file, &e);
    let ours = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_master WHERE name IN ('_sqlx_migrations', 'meta')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(told)?;
    if tables < 2 {
        return Ok(());
    }
    let (theirs, by): (i64, Option<String>) = sqlx::query_as(
        "SELECT coalesce(max(version), 0), (SELECT value FROM meta WHERE key = 'written-by') FROM _sqlx_migrations",
    )
    .fetch_one(connection)
    .await
    .map_err(told)?;
    if theirs <= ours {
        return Ok(());
    }
    // Waiting won't help.
    Err(StoreError::Refused(Error::new(
        ErrorKind::StoreUnavailable,
        format!(
            "{} was written by stratavored {} (schema {theirs}) and this is stratavored {} (schema {ours}); upgrade the daemon or restore a backup made before",
            file.display(),
            by.unwrap_or_else(|| "of a later version".to_owned()),
            env!("CARGO_PKG_VERSION"),
        ),
    )))
}

fn cannot_migrate(file: &Path, error: &MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _)
            if fault::primary(e) != 0 =>
        {
            unavailable(file, e)
        }
        _ => StoreError::Unavailable(format!(
            "the schema of {} can't be brought up to date ({error}); nothing was changed; restore a backup or move the file away",
            file.display()
        )),
    }
}
