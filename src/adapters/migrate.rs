//! From the embedded store to the fleet's: all of it, once, while no daemon uses the embedded one.

use super::postgres::{PostgresOptions, PostgresStore};
use super::sql::copy::copy;
use super::sql::{Base, link::Link};
use super::sqlite::SqliteStore;
use crate::domain::audit::Key;
use crate::ports::StoreError;
use std::path::Path;

/// Copies the embedded store `file` into the fleet's, which must be empty. Done again after it
/// succeeded, it says so and changes nothing. The audit of `host` tells it, if there are keys. Answers with a
/// sentence about what was copied.
pub async fn migrate(
    file: &Path,
    options: PostgresOptions,
    host: String,
    keys: Vec<Key>,
) -> Result<String, StoreError> {
    let mut from = SqliteStore::alone(file).await?;
    let (base, mut to) = PostgresStore::ready(options).await?;
    let copied = copy(&mut from, &mut to, (host, keys)).await;
    if copied.is_err() {
        let _ = to.say("ROLLBACK").await;
    }
    base.last(&mut to).await;
    Link::close(to).await;
    from.close().await;
    let copied = copied.map_err(|fail| fail.told(&base))?;
    let rows = copied.tables.iter().filter(|(_, rows)| *rows > 0);
    let rows: Vec<_> = rows.map(|(name, rows)| format!("{name} {rows}")).collect();
    let (from, to) = (file.display(), base.place());
    Ok(match copied.before {
        true => format!("{from} was copied into the {to} before; nothing was changed."),
        false => format!(
            "{from} was copied into the {to}, and what was written is what was read: {}.",
            match rows.is_empty() {
                true => "it is empty".to_owned(),
                false => rows.join(", "),
            }
        ),
    })
}
