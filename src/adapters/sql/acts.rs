//! What is done without an event, on its way into the chain: each once, although the answer to a COMMIT was lost and it is
//! asked for again.

use super::chain::Keeper;
use super::fail::Fail;
use super::link::{Link, Row};
use super::{Base, SqlStore, Work};
use crate::domain::Timestamp;
use crate::domain::audit::{Act, Note};
use crate::ports::StoreError;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whether something was written although no answer came is looked for in so many of the newest entries.
const DOUBTED_MAX: u32 = 20_000;

/// Writes them down, where a chain is kept.
pub(super) async fn note<B: Base>(store: &SqlStore<B>, acts: Vec<Act>) -> Result<(), StoreError> {
    let Some(keeper) = store.kept.keeper().filter(|_| !acts.is_empty()) else {
        return Ok(());
    };
    let doubted = store.kept.doubted();
    let end = || store.kept.end().map_or(0, |end| end.n);
    let since = doubted.unwrap_or_else(end);
    let acts = Acts {
        keeper,
        notes: acts.iter().map(Note::of_act).collect(),
        doubted,
    };
    let done = store.write(acts).await;
    store.kept.doubt(done.is_err().then_some(since));
    done
}

/// What is no event.
#[derive(Debug)]
struct Acts {
    keeper: Arc<Keeper>,
    notes: Vec<Note>,
    /// They were to be written before, and no answer came; the entries up to this one were there already.
    doubted: Option<u64>,
}

#[async_trait]
impl Work for Acts {
    type Done = ();

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let there = match self.doubted {
            Some(after) => self.there(on, after).await?,
            None => BTreeSet::new(),
        };
        let notes = self.notes.iter();
        let lacking = notes.filter(|note| !there.contains(&(note.at, note.text.clone())));
        lacking.for_each(|note| on.note(|| note.clone()));
        Ok(())
    }
}

impl Acts {
    /// What was written of this time.
    async fn there(
        &self,
        on: &mut Link,
        after: u64,
    ) -> Result<BTreeSet<(Timestamp, String)>, Fail> {
        let times = || self.notes.iter().map(|note| note.at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return Ok(BTreeSet::new());
        };
        let sql = "
            SELECT at, entry FROM (
                SELECT at, entry FROM audit WHERE host = $1 AND n > $2 ORDER BY n DESC LIMIT $3
            ) AS newest WHERE at >= $4 AND at <= $5";
        let host = self.keeper.host.as_str();
        let values = vec![
            host.into(),
            after.into(),
            DOUBTED_MAX.into(),
            first.into(),
            last.into(),
        ];
        let rows = on.rows(sql, values).await?;
        let one = |row: &Row| Ok((row.time(0)?, row.text(1)?.to_owned()));
        rows.iter().map(one).collect()
    }
}
