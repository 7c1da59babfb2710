//! This host's audit chain as the writer lengthens it: before COMMIT, with everything that the
//! transaction has done, in one or two statements however much that is.
//!
//! The end of the chain is known from the last transaction and compared with the store's row when that is
//! written. Where it is unknown (at the start, after a fault), it is read first. One that is behind what
//! was committed before has been put back by somebody, and that becomes an entry.

use super::fail::Fail;
use super::link::{Link, Value};
use crate::domain::audit::{Anchor, Entry, Head, Key, Note};
use crate::domain::{Timestamp, kinds};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// No chain has ever so many entries: a row with a higher number was put there by somebody.
const N_MAX: u64 = 1 << 53;

/// Whose chain is kept, and with what.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) host: String,
    /// The one of now, and former ones.
    pub(super) keys: Vec<Key>,
}

impl Keeper {
    /// The one of now.
    pub(super) fn key(&self) -> Option<&Key> {
        self.keys.first()
    }
}

/// What the store's handle and its writer share.
#[derive(Debug, Default)]
pub(super) struct Kept {
    keeper: RwLock<Option<Arc<Keeper>>>,
    /// The end as it was committed last, and whose.
    head: Mutex<Option<(String, Head)>>,
    /// Whether something was to be written down and no answer came; and the end before.
    doubt: Mutex<Option<u64>>,
}

impl Kept {
    /// From here on.
    pub(super) fn begin(&self, host: String, keys: Vec<Key>) {
        let keeper = (!keys.is_empty()).then(|| Arc::new(Keeper { host, keys }));
        *self.keeper.write().unwrap_or_else(PoisonError::into_inner) = keeper;
    }

    pub(super) fn keeper(&self) -> Option<Arc<Keeper>> {
        let keeper = self.keeper.read().unwrap_or_else(PoisonError::into_inner);
        keeper.clone()
    }

    fn committed(&self) -> std::sync::MutexGuard<'_, Option<(String, Head)>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn doubted(&self) -> Option<u64> {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn doubt(&self, since: Option<u64>) {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// The end as it was committed last.
    pub(super) fn end(&self) -> Option<Anchor> {
        let (host, head) = self.committed().clone()?;
        Some(Anchor {
            host,
            n: head.n,
            mac: head.mac,
        })
    }
}

/// The writer's end of it.
#[derive(Debug)]
pub(super) struct Chain {
    kept: Arc<Kept>,
    /// The store's row, as far as is known, and who wrote it.
    known: Option<(Arc<Keeper>, Head)>,
    /// What it will be when the transaction is committed.
    next: Option<(Arc<Keeper>, Head)>,
}

impl Chain {
    pub(super) fn new(kept: Arc<Kept>) -> Self {
        Self {
            kept,
            known: None,
            next: None,
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.keeper().is_some()
    }

    /// Writes down what this transaction has done.
    pub(super) async fn append(&mut self, on: &mut Link) -> Result<(), Fail> {
        let notes = on.take_notes();
        let (Some(first), Some(keeper)) = (notes.first(), self.kept.keeper()) else {
            return Ok(());
        };
        let at = first.at;
        let Some(key) = keeper.key() else {
            return Ok(());
        };
        let mut notes = notes;
        if let Some((by, known)) = self.known.take()
            && Arc::ptr_eq(&by, &keeper)
        {
            let mut next = known.clone();
            let entries = added(&mut next, key, &keeper.host, notes);
            if write(on, &keeper.host, &known, &next, &entries).await? {
                self.next = Some((by, next));
                return Ok(());
            }
            notes = entries.into_iter().map(note).collect();
        }
        let found = self.read(on, &keeper.host).await?;
        let mut next = found.clone();
        let mut entries = self.joint(&keeper, key, &found, &mut next, at);
        entries.extend(added(&mut next, key, &keeper.host, notes));
        match write(on, &keeper.host, &found, &next, &entries).await? {
            true => {
                self.next = Some((Arc::clone(&keeper), next));
                Ok(())
            }
            false => Err(Fail::Broken(
                "the head of the audit changes while it is written".to_owned(),
            )),
        }
    }

    /// The store's row, which is made if there is none; nobody changes it meanwhile.
    async fn read(&self, on: &mut Link, host: &str) -> Result<Head, Fail> {
        let none = Head::none();
        on.run(
            "INSERT INTO audit_heads (host, n, mac, key) VALUES ($1, 0, $2, '') ON CONFLICT (host) DO NOTHING",
            vec![host.into(), none.mac.to_string().into()],
        )
        .await?;
        let sql = on.pick(
            "SELECT n, mac, key FROM audit_heads WHERE host = $1",
            "SELECT n, mac, key FROM audit_heads WHERE host = $1 FOR UPDATE",
        );
        let row = on.one(sql, vec![host.into()]).await?;
        let there = (row.int(0)?, row.text(1)?.to_owned());
        let mut head = Head {
            // A number that can't be one is as good as none.
            n: u64::try_from(there.0)
                .ok()
                .filter(|n| *n <= N_MAX)
                .unwrap_or(0),
            mac: there.1.parse().unwrap_or(none.mac),
            key: row.text(2)?.to_owned(),
        };
        // The entries know better where they end, unless the last ones are gone: then the gap stays to be seen.
        let sql = "SELECT n, mac FROM audit WHERE host = $1 AND n >= $2 AND n <= $3 ORDER BY n DESC LIMIT 1";
        let last = on
            .maybe(sql, vec![host.into(), head.n.into(), N_MAX.into()])
            .await?;
        if let Some(last) = last {
            head.n = last.count(0)?;
            head.mac = last.text(1)?.parse().unwrap_or(none.mac);
        }
        if (u64::try_from(there.0), there.1) != (Ok(head.n), head.mac.to_string()) {
            let values = vec![host.into(), head.n.into(), head.mac.to_string().into()];
            on.run(
                "UPDATE audit_heads SET n = $2, mac = $3 WHERE host = $1",
                values,
            )
            .await?;
        }
        Ok(head)
    }

    /// What stands between the end that was found and what comes now: that it is not the one it should be,
    /// and that another key follows.
    fn joint(
        &self,
        keeper: &Keeper,
        key: &Key,
        found: &Head,
        next: &mut Head,
        at: Timestamp,
    ) -> Vec<Entry> {
        let host = &keeper.host;
        let mut entries = Vec::new();
        if found.key != key.id() {
            let former = keeper.keys.iter().find(|k| k.id() == found.key);
            let (note, under) = match former {
                Some(former) => (Note::rotated(host, key, former, at), former),
                None => {
                    let former = (found.n > 0).then_some(found.key.as_str());
                    (Note::begun(host, key, former, at), key)
                }
            };
            entries.push(next.append(under, host, note));
        }
        let committed = self.kept.committed().clone();
        if let Some((whose, expected)) = committed
            && whose == *host
            && (found.n < expected.n || (found.n == expected.n && found.mac != expected.mac))
        {
            tracing::error!(
                message_id = kinds::AUDIT_BROKEN.id,
                "The audit of this host ends at entry {}, and entry {} was written: somebody has taken away what is missing. See: stratavorectl audit verify",
                found.n,
                expected.n
            );
            let note = Note::head_differed(host, &expected, found, at);
            entries.push(next.append(key, host, note));
        }
        entries
    }

    /// The transaction counts.
    pub(super) fn committed(&mut self) {
        if let Some(next) = self.next.take() {
            *self.kept.committed() = Some((next.0.host.clone(), next.1.clone()));
            self.known = Some(next);
        }
    }

    /// It does not, or nobody knows.
    pub(super) fn lost(&mut self) {
        (self.known, self.next) = (None, None);
    }
}

fn note(entry: Entry) -> Note {
    Note {
        at: entry.at,
        text: entry.entry,
    }
}

fn added(head: &mut Head, key: &Key, host: &str, notes: Vec<Note>) -> Vec<Entry> {
    let notes = notes.into_iter();
    notes.map(|note| head.append(key, host, note)).collect()
}

/// Whether the store's row was the one that was expected; nothing is written otherwise.
async fn write(
    on: &mut Link,
    host: &str,
    expected: &Head,
    next: &Head,
    entries: &[Entry],
) -> Result<bool, Fail> {
    let rows: Vec<_> = entries
        .iter()
        .map(|e| json!({ "n": e.n, "at": e.at.0, "entry": e.entry, "mac": e.mac }))
        .collect();
    let rows = Value::json(&rows)?;
    let mut values = vec![
        host.into(),
        expected.n.into(),
        expected.mac.to_string().into(),
        next.n.into(),
        next.mac.to_string().into(),
        next.key.as_str().into(),
    ];
    const UPDATE: &str =
        "UPDATE audit_heads SET n = $4, mac = $5, key = $6 WHERE host = $1 AND n = $2 AND mac = $3";
    if on.is_shared() {
        values.push(rows);
        let sql = "
            WITH head AS (
                UPDATE audit_heads SET n = $4, mac = $5, key = $6
                 WHERE host = $1 AND n = $2 AND mac = $3 RETURNING host
            )
            INSERT INTO audit (host, n, at, entry, mac)
            SELECT h.host, e.n, e.at, e.entry, e.mac
              FROM head h, json_to_recordset($7::JSON) AS e (n BIGINT, at BIGINT, entry TEXT, mac TEXT)";
        return Ok(on.run(sql, values).await? > 0);
    }
    if on.run(UPDATE, values).await? == 0 {
        return Ok(false);
    }
    on.run(
        "INSERT INTO audit (host, n, at, entry, mac)
         SELECT $1, value ->> 'n', value ->> 'at', value ->> 'entry', value ->> 'mac' FROM json_each($2) ORDER BY key",
        vec![host.into(), rows],
    )
    .await?;
    Ok(true)
}
