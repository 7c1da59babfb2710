//! The cap on the runners of the whole fleet, where several hosts launch at the same time.
//!
//! Under a cap all hosts wait for one another. Whoever comes near it takes its lock before anything else,
//! and holds it until COMMIT. As long as there is plenty of room that would be for nothing: then the lock is taken
//! last, when all is written, and the cap is looked at once more under it. Where it does not
//! hold after all, everything is undone and done again with the lock taken first.
//!
//! Whoever waits here at the end holds rows already, and must not hold any that somebody may want who took the
//! lock first: they would wait for one another. Those of projects and hosts have locks of their own that come
//! before. Where other rows are written (of budgets, sessions, request ids, orders of other hosts), or
//! turns are given, the lock comes first.

use super::fail::Fail;
use super::link::Link;

/// So many slots beside twice those that are asked for are plenty of room.
const ROOM: u64 = 64;

const LOCK: &str = "
    SELECT CAST(CASE WHEN max_runners - $1 >= (SELECT coalesce(sum(live), 0) FROM projects)
                      AND NOT EXISTS (SELECT 1 FROM budgets)
                      AND NOT EXISTS (SELECT 1 FROM runners WHERE state = 'queued')
                     THEN 1
                     WHEN pg_advisory_xact_lock(723104, 0) IS NULL THEN 0
                     ELSE 0 END AS BIGINT)
      FROM fleet WHERE max_runners IS NOT NULL";

/// Waits for all others that launch, unless there is no cap, or plenty of room for so many `launches`. Comes before
/// all rows. Whether it is still to be seen at the end that the cap [`holds`].
pub(super) async fn lock(on: &mut Link, launches: Option<usize>) -> Result<bool, Fail> {
    if !on.is_shared() {
        return Ok(false);
    }
    let plenty = match launches {
        Some(n) => ROOM + 2 * n as u64,
        None => u64::MAX,
    };
    let row = on.maybe(LOCK, vec![plenty.into()]).await?;
    Ok(match row {
        Some(row) => row.int(0)? != 0,
        None => false,
    })
}

/// Waits for all others that launch, and looks whether all that live are within the cap.
pub(super) async fn holds(on: &mut Link) -> Result<bool, Fail> {
    on.rows("SELECT pg_advisory_xact_lock(723104, 0) IS NULL", vec![])
        .await?;
    let sql = "SELECT CAST(CASE WHEN max_runners < (SELECT coalesce(sum(live), 0) FROM projects) THEN 0 ELSE 1 END AS BIGINT)
                 FROM fleet";
    Ok(on.one(sql, vec![]).await?.int(0)? != 0)
}
