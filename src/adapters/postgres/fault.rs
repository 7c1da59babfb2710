//! What went wrong, told to people: which server, why, and what to do.

use super::connect::Unusable;
use super::options::PostgresOptions;
use crate::ports::StoreError;
use sqlx::Error;
use std::io::ErrorKind;

/// Postgres' code of an error (SQLSTATE); empty = it is not Postgres'.
fn code(error: &Error) -> String {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .map(Into::into)
        .unwrap_or_default()
}

/// Whether the schema's own rules or a clash with somebody else stopped one statement: without the
/// request that caused it, the others may go through.
pub(super) fn is_rule(error: &Error) -> bool {
    let code = code(error);
    ["22", "23", "54"]
        .iter()
        .any(|class| code.starts_with(class))
        || code == "40P01"
}

/// Whether two requests got in each other's way: a value that must be there once, a deadlock.
pub(super) fn is_clash(error: &Error) -> bool {
    ["23505", "40P01"].contains(&code(error).as_str())
}

/// Whether somebody held a lock for too long.
pub(super) fn is_held(error: &Error) -> bool {
    code(error) == "55P03"
}

/// Whether the connection can be kept after a rollback.
pub(super) fn is_passing(error: &Error) -> bool {
    let code = code(error);
    is_rule(error)
        || ["40", "42", "55"]
            .iter()
            .any(|class| code.starts_with(class))
        || code == "53100"
        || code == "57014"
}

/// The sentence for whoever has to repair it.
pub(super) fn unavailable(options: &PostgresOptions, error: &Error) -> StoreError {
    let place = options.place();
    let user = &options.user;
    let said = error
        .as_database_error()
        .map_or_else(|| error.to_string(), |e| e.message().to_owned());
    StoreError::Unavailable(match (code(error).as_str(), error) {
        ("28P01" | "28000", _) => format!(
            "{place} does not let user {user} in ({said}); check the password in the credential, the server's pg_hba.conf, and whether the role may log in (ALTER ROLE {user} LOGIN)"
        ),
        ("3D000", _) => format!(
            "{place} is not there; make it: createdb {}",
            options.database
        ),
        ("25006", _) => format!(
            "{place} is read-only (a standby, or default_transaction_read_only); name the primary too in store.url"
        ),
        ("53100", _) => format!("{place}: the server's disk is full; free space there"),
        ("53300", _) => format!(
            "{place} has no connection left ({said}); raise the server's max_connections or lower store.max_connections"
        ),
        ("57P01" | "57P02", _) => {
            format!("{place} is being shut down or has ended the connection ({said})")
        }
        ("57P03", _) => format!("{place} is starting up or shutting down ({said}); wait for it"),
        ("57014", _) => format!(
            "{place} took too long ({said}); look for what keeps it busy in pg_stat_activity"
        ),
        ("55P03", _) => format!(
            "{place}: somebody holds the locks for too long ({said}); look for idle transactions in pg_stat_activity"
        ),
        ("25P03", _) => format!(
            "{place} ended a transaction that stood still ({said}); check the network in between"
        ),
        ("40001" | "40P01", _) => {
            format!("{place}: two transactions got in each other's way ({said}); try again")
        }
        ("42501", _) => format!(
            "user {user} may not do that in {place} ({said}); as the schema's owner: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}"
        ),
        ("26000" | "42P05", _) => format!(
            "{place} lost a prepared statement ({said}); a pooler that can't be recognized is in between: have it keep sessions, or go past it"
        ),
        ("42P01" | "42703" | "42883", _) => format!(
            "{place} is not a store of stratavored or its schema was changed by hand ({said}); restore a backup or name another database"
        ),
        ("XX001" | "XX002", _) => format!("{place} is damaged ({said}); restore a backup"),
        (code, _) if code.starts_with("22") || code.starts_with("23") => format!(
            "the rules of {place} refused a change that should never have been tried ({said}); please report this"
        ),
        (_, Error::Io(io)) => match io.kind() {
            ErrorKind::ConnectionRefused => format!(
                "{place} refuses connections; check that PostgreSQL runs there and listens (listen_addresses, port, firewall)"
            ),
            ErrorKind::NotFound => {
                format!("{place}: there is no such socket; check that PostgreSQL runs")
            }
            ErrorKind::TimedOut => {
                format!("{place} does not answer ({io}); check the network and the server")
            }
            // What TLS finds wrong with a certificate comes as this.
            ErrorKind::InvalidData => unencrypted(&place, io),
            _ => {
                format!("the connection to {place} broke ({io}); check the network and the server")
            }
        },
        (_, Error::Tls(why)) => unencrypted(&place, why),
        (_, Error::PoolTimedOut) => {
            format!("all connections to {place} for reading are in use; try again")
        }
        (_, Error::PoolClosed) => "it is closed".to_owned(),
        (_, Error::Configuration(why)) if why.is::<Unusable>() => format!("{place} {why}"),
        (_, Error::Configuration(why)) => {
            format!("{place} can't be written: {why}; name the primary too in store.url")
        }
        _ => format!("{place}: {said}"),
    })
}

fn unencrypted(place: &str, why: &dyn std::fmt::Display) -> String {
    format!(
        "no encrypted connection to {place} ({why}); check the authority's certificate and the server's name in it"
    )
}

pub(super) fn cannot_migrate(options: &PostgresOptions, version: i64, error: &Error) -> StoreError {
    let place = options.place();
    match code(error).as_str() {
        "42501" => StoreError::Unavailable(format!(
            "{place} needs schema {version} and user {} may not change it ({}); start this release once as the schema's owner",
            options.user,
            error
                .as_database_error()
                .map(|e| e.message())
                .unwrap_or_default(),
        )),
        "" => unavailable(options, error),
        _ => StoreError::Unavailable(format!(
            "the schema of {place} can't be brought to {version} ({error}); nothing was changed"
        )),
    }
}
