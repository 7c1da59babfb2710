//! Rows of the outbox as the relay gets them.

use super::super::fail::Fail;
use super::super::link::Row;
use super::super::row;
use crate::domain::kinds;
use crate::domain::relay::Why;
use crate::ports::{Outgoing, Page};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Of so many rows that can't be read it is said in the journal.
const TOLD_MAX: usize = 1_000;

/// A page of what was found.
pub(super) fn page(found: &[Row]) -> Result<Page, Fail> {
    let rows: Vec<_> = found.iter().filter_map(readable).collect();
    Ok(Page {
        unreadable: found.len() - rows.len(),
        last: found.last().map(|row| row.count(0)).transpose()?,
        rows,
    })
}

/// One that can't be read (damaged, or of a later release) holds up what follows it in its subject, and nothing else.
fn readable(found: &Row) -> Option<Outgoing> {
    /// Those that were told of, as long as they are few.
    static TOLD: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
    match outgoing(found) {
        Ok(row) => Some(row),
        Err(error) => {
            let position = found.count(0).unwrap_or_default();
            let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < TOLD_MAX && told.insert(position) {
                tracing::warn!(
                    message_id = kinds::STORE_FAULT.id,
                    "Event {position} can't be read, and is not published, nor are later ones of its subject: {error:?}"
                );
            }
            None
        }
    }
}

fn outgoing(found: &Row) -> Result<Outgoing, Fail> {
    let parked = found.maybe_text(10)?;
    Ok(Outgoing {
        event: row::event(found)?,
        store: found.text(13)?.to_owned(),
        source: found.text(8)?.to_owned(),
        epoch: found.count(9)?,
        parked: parked.map(|why| Why::parse(why).unwrap_or(Why::Unroutable)),
        behind: found.maybe_int(11)?.map(i64::unsigned_abs),
        behind_unroutable: found.int(12)? > 0,
    })
}
