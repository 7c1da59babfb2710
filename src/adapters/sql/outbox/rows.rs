//! Rows of the outbox as the relay gets them. A page is one text, with a control character between the rows and
//! another one between the columns; neither is in JSON, or in a name.

use super::super::fail::Fail;
use super::super::link::Row;
use super::super::row::parsed;
use crate::domain::event::{Draft, Event, EventType, Text};
use crate::domain::relay::Why;
use crate::domain::{Timestamp, kinds};
use crate::ports::{Outgoing, Page};
use std::collections::BTreeSet;
use std::str::SplitN;
use std::sync::{Mutex, PoisonError};

/// Of so many rows that can't be read it is said in the journal.
const TOLD_MAX: usize = 1_000;
const BETWEEN_ROWS: u8 = b'\x1e';
const BETWEEN_COLUMNS: char = '\x1f';
const COLUMNS: usize = 13;

/// A page of what was found: the store's id, the last position, and the rows.
pub(super) fn page(found: &Row) -> Result<Page, Fail> {
    let Some(lines) = found.maybe_bytes(2)? else {
        return Ok(Page::default());
    };
    let store = found.text(0)?;
    let (mut rows, mut unreadable) = (Vec::new(), 0);
    for line in lines.split(|byte| *byte == BETWEEN_ROWS) {
        match readable(line, store) {
            Some(row) => rows.push(row),
            None => unreadable += 1,
        }
    }
    rows.sort_unstable_by_key(|row: &Outgoing| row.event.position);
    Ok(Page {
        rows,
        unreadable,
        last: Some(found.count(1)?),
    })
}

/// One that can't be read (damaged, or of a later release) holds up what follows it in its subject, and nothing else.
fn readable(line: &[u8], store: &str) -> Option<Outgoing> {
    /// Those that were told of, as long as they are few.
    static TOLD: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
    let error = match outgoing(line, store) {
        Ok(row) => return Some(row),
        Err(error) => error,
    };
    let line = String::from_utf8_lossy(line);
    let position = number(line.split(BETWEEN_COLUMNS).next()).unwrap_or_default();
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < TOLD_MAX && told.insert(position) {
        tracing::warn!(
            message_id = kinds::STORE_FAULT.id,
            "Event {position} can't be read, and is not published, nor are later ones of its subject: {error:?}"
        );
    }
    None
}

fn outgoing(line: &[u8], store: &str) -> Result<Outgoing, Fail> {
    let line = str::from_utf8(line).map_err(|e| Fail::Broken(format!("a stored text: {e}")))?;
    let mut columns = line.splitn(COLUMNS, BETWEEN_COLUMNS);
    let position = number(columns.next())?;
    let at = Timestamp(number(columns.next())?);
    let kind = text(&mut columns)?;
    let kind = EventType::parse(kind)
        .ok_or_else(|| Fail::Broken(format!("an event has the unknown type {kind}")))?;
    let project = text(&mut columns)?.to_owned();
    let subject = text(&mut columns)?.to_owned();
    let seq = number(columns.next())?;
    let source = text(&mut columns)?.to_owned();
    let epoch = number(columns.next())?;
    let parked = Some(text(&mut columns)?).filter(|why| !why.is_empty());
    let behind = Some(text(&mut columns)?).filter(|seq| !seq.is_empty());
    let behind = behind.map(|seq| number(Some(seq))).transpose()?;
    let behind_unroutable = number(columns.next())? > 0;
    let actor = parsed("actor", text(&mut columns)?)?;
    let data = Text::new(text(&mut columns)?)
        .map_err(|e| Fail::Broken(format!("the stored event cannot be read: {e}")))?;
    Ok(Outgoing {
        event: Event {
            position,
            draft: Draft {
                kind,
                project,
                subject,
                seq,
                at,
                actor,
                data,
            },
        },
        store: store.to_owned(),
        source,
        epoch,
        parked: parked.map(|why| Why::parse(why).unwrap_or(Why::Unroutable)),
        behind,
        behind_unroutable,
    })
}

fn text<'a>(columns: &mut SplitN<'a, char>) -> Result<&'a str, Fail> {
    columns
        .next()
        .ok_or_else(|| Fail::Broken("a column of a stored row is empty".to_owned()))
}

fn number(column: Option<&str>) -> Result<u64, Fail> {
    let number = column.and_then(|column| column.parse().ok());
    number.ok_or_else(|| Fail::Broken("a number of a stored row is none".to_owned()))
}
