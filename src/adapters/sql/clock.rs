//! The store's clock: the database's, where hosts share one, and this host's for the embedded store.

use super::fail::Fail;
use super::link::Link;
use crate::domain::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// What it shows now.
pub(super) async fn now(on: &mut Link) -> Result<Timestamp, Fail> {
    match on {
        Link::Sqlite(_) => {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            Ok(Timestamp(
                u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
            ))
        }
        Link::Postgres(_) => {
            let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
            on.one(sql, vec![]).await?.time(0)
        }
    }
}
