//! What went wrong, told to people: which file, why, and what to do.

use crate::ports::StoreError;
use std::path::Path;

/// Below this much free space a failed write is put down to the full disk.
const NEARLY_FULL: u64 = 1 << 20;

/// SQLite's primary result codes we tell apart.
pub(super) mod code {
    pub(in super::super) const BUSY: u32 = 5;
    pub(in super::super) const LOCKED: u32 = 6;
    pub(in super::super) const READONLY: u32 = 8;
    pub(in super::super) const IOERR: u32 = 10;
    pub(in super::super) const CORRUPT: u32 = 11;
    pub(in super::super) const FULL: u32 = 13;
    pub(in super::super) const CANTOPEN: u32 = 14;
    pub(in super::super) const TOOBIG: u32 = 18;
    pub(in super::super) const CONSTRAINT: u32 = 19;
    pub(in super::super) const MISMATCH: u32 = 20;
    pub(in super::super) const AUTH: u32 = 23;
    pub(in super::super) const NOTADB: u32 = 26;
}

/// SQLite's primary result code of an error; 0 = it is not SQLite's.
pub(super) fn primary(error: &sqlx::Error) -> u32 {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .and_then(|c| c.parse::<u32>().ok())
        .map_or(0, |c| c & 0xff)
}

/// Whether the schema's own rules stopped one statement. The transaction goes on.
pub(super) fn is_rule(error: &sqlx::Error) -> bool {
    matches!(
        primary(error),
        code::CONSTRAINT | code::TOOBIG | code::MISMATCH
    )
}

/// Whether the connection can be kept after a rollback.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    matches!(primary(error), code::FULL | code::BUSY | code::LOCKED)
}

/// The sentence for whoever has to repair it.
pub(super) fn unavailable(file: &Path, error: &sqlx::Error) -> StoreError {
    let name = file.display();
    let folder = file.parent().unwrap_or(Path::new("/"));
    let full = || format!("disk full: free space on {}", folder.display());
    let text = match primary(error) {
        code::FULL => full(),
        code::IOERR | code::CANTOPEN if nearly_full(folder) => full(),
        code::IOERR => format!(
            "reading or writing {name} failed ({error}); look for disk errors in the kernel's log: journalctl -k"
        ),
        code::READONLY | code::AUTH => format!(
            "{name} can't be written ({error}); check that its file system is mounted read-write and that it belongs to the daemon's user"
        ),
        code::CANTOPEN => format!(
            "{name} can't be opened ({error}); check that {} exists and belongs to the daemon's user",
            folder.display()
        ),
        code::BUSY | code::LOCKED => format!(
            "another program holds {name} locked; end it (a second stratavored, sqlite3, a backup)"
        ),
        code::CORRUPT => format!(
            "{name} is damaged ({error}); stop the daemon, keep a copy, and restore a backup or move the file away"
        ),
        code::NOTADB => format!(
            "{name} is not a store of stratavored or is damaged ({error}); restore a backup or move the file away"
        ),
        code::CONSTRAINT => format!(
            "the rules of {name} refused a change that should never have been tried ({error}); please report this"
        ),
        _ if matches!(error, sqlx::Error::PoolTimedOut) => {
            format!("all connections to {name} for reading are in use; try again")
        }
        _ if matches!(error, sqlx::Error::PoolClosed) => "it is closed".to_owned(),
        _ => format!("{name}: {error}"),
    };
    StoreError::Unavailable(text)
}

fn nearly_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < NEARLY_FULL)
}
