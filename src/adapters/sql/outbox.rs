//! The rows that are still to be published.
//!
//! They are written by the schema, in the transaction of their events. They are read on the readers'
//! connections. In Postgres they are removed over one of those too, so that nobody's launch waits for it;
//! SQLite has but one who writes, and there it shares a transaction with whatever else is written.

mod rows;

use super::fail::Fail;
use super::link::{Link, Value};
use super::{Base, SqlStore, Work};
use crate::domain::relay::{Settlement, Why};
use crate::domain::{ProjectName, Timestamp};
use crate::ports::{Backlog, LetGo, Outbox, Page, Rows, StoreError};
use async_trait::async_trait;
use std::sync::atomic::Ordering;

/// The most rows of one page, and of one transaction that changes some.
const PAGE_MAX: u32 = 1_000;

/// A page as [`rows`] reads it. It is one row, since SQLite's thread handing over each for itself costs more than
/// reading it; and the limit is a sum, since SQLite plans anew for each bound one.
macro_rules! page {
    ($which:literal, $held:literal) => {
        concat!(
            "SELECT (SELECT m.value FROM meta m WHERE m.key = 'store-id'), max(o.position), string_agg(concat_ws('\u{1f}',
                        o.position, e.at, e.type, e.project, e.subject, e.seq, o.source, o.epoch, coalesce(o.parked, ''),
                        coalesce(CAST((SELECT max(p.seq) FROM outbox p WHERE p.subject = o.subject AND p.seq < o.seq) AS TEXT), ''),
                        (SELECT count(*) FROM (SELECT 1 FROM outbox p ", $held, " WHERE p.subject = o.subject AND p.seq < o.seq
                                                  AND p.parked = 'unroutable' LIMIT 1) AS q),
                        e.actor, e.data), '\u{1e}')
               FROM (SELECT subject, seq, position, source, epoch, parked FROM outbox
                      WHERE host = $1 AND position > $2 AND parked ",
            $which,
            " ORDER BY position LIMIT $3 + 0) AS o
               JOIN events e ON e.position = o.position"
        )
    };
}

/// Parked rows (the limit is a sum as in [`page!`]), with what they belong to, and whether something unroutable is before them.
macro_rules! parked {
    ($held:literal) => {
        concat!(
            "SELECT o.position, o.parked, (SELECT e.project FROM events e WHERE e.position = o.position),
                    (SELECT count(*) FROM (SELECT 1 FROM outbox p ",
            $held,
            " WHERE p.subject = o.subject AND p.seq < o.seq AND p.parked = 'unroutable' LIMIT 1) AS q)
               FROM outbox o WHERE o.host = $1 AND o.position > $2 AND o.parked IS NOT NULL
              ORDER BY o.position LIMIT $3 + 0"
        )
    };
}

/// Hosts that were given up and have such rows; those whose epoch is 0 are former ids of the only host.
macro_rules! given_up {
    ($which:literal, $nobody:literal) => {
        concat!(
            "SELECT g.host FROM (SELECT h.host FROM hosts h
                  WHERE h.host <> $1 AND (h.standing IN ('lost', 'left') OR h.epoch = 0)",
            $nobody,
            ") AS g
              WHERE EXISTS (SELECT 1 FROM outbox o WHERE o.host = g.host AND o.parked ",
            $which,
            ") LIMIT 1"
        )
    };
}

/// The rows of `''` are nobody's.
macro_rules! nobodys {
    ($which:literal) => {
        given_up!($which, " UNION ALL SELECT ''")
    };
}

/// Gives rows of one host to another one, as $4 wants it. A host may have come back meanwhile, and who is given up
/// itself takes over nothing.
macro_rules! hand_over {
    ($which:literal, $locks:literal) => {
        concat!(
            "UPDATE outbox SET host = $1 WHERE (subject, seq) IN (
                 SELECT o.subject, o.seq FROM outbox o
                  WHERE o.host = $2 AND o.parked ",
            $which,
            " AND ($2 IN ('', $4) OR EXISTS (SELECT 1 FROM hosts h
                        WHERE h.host = $2 AND (h.standing IN ('lost', 'left') OR h.epoch = 0)))
                    AND ($1 = '' OR EXISTS (SELECT 1 FROM hosts a
                        WHERE a.host = $1 AND a.standing IN ('up', 'unreachable') AND a.epoch > 0))
                  ORDER BY o.position LIMIT $3",
            $locks,
            ")"
        )
    };
}

fn hand_over(on: &Link, parked: bool) -> &'static str {
    match parked {
        false => on.pick(
            hand_over!("IS NULL", ""),
            hand_over!("IS NULL", " FOR UPDATE SKIP LOCKED"),
        ),
        true => on.pick(
            hand_over!("IS NOT NULL", ""),
            hand_over!("IS NOT NULL", " FOR UPDATE SKIP LOCKED"),
        ),
    }
}

/// What is asked of SQLite here, for the test that nothing is looked for by reading whole tables.
#[cfg(test)]
pub(in crate::adapters) const STATEMENTS: [&str; 10] = [
    page!("IS NULL", "INDEXED BY outbox_unroutable"),
    page!("IS NOT NULL", "INDEXED BY outbox_unroutable"),
    parked!("INDEXED BY outbox_unroutable"),
    given_up!("IS NULL", ""),
    given_up!("IS NOT NULL", ""),
    nobodys!("IS NULL"),
    nobodys!("IS NOT NULL"),
    hand_over!("IS NULL", ""),
    hand_over!("IS NOT NULL", ""),
    "DELETE FROM outbox WHERE host = $1 AND parked IS NULL AND position IN (SELECT value FROM json_each($2))",
];

/// One change of the table by itself. Each is of a bounded number of rows.
#[derive(Debug)]
enum Order {
    Settle(String, Settlement),
    /// From this host to that one, as this one of them or a third one wants it.
    HandOver {
        from: String,
        to: String,
        by: String,
        limit: u32,
    },
    /// Of this host, behind this position.
    Unpark(String, u64, u32, Which),
}

/// Which parked rows are to be tried again.
#[derive(Debug, Clone)]
enum Which {
    All,
    Of(String),
    /// Those that follow nothing.
    Free,
}

impl Order {
    async fn carry_out(&self, on: &mut Link) -> Result<LetGo, Fail> {
        let rows = match self {
            Self::Settle(host, settlement) => settle(on, host, settlement).await?,
            Self::HandOver {
                from,
                to,
                by,
                limit,
            } => {
                let mut rows = 0;
                for parked in [false, true] {
                    let left = u64::from(*limit).saturating_sub(rows);
                    let [to, from, by] = [to, from, by].map(|host| host.as_str().into());
                    let values = vec![to, from, left.into(), by];
                    rows += on.run(hand_over(on, parked), values).await?;
                }
                rows
            }
            Self::Unpark(host, after, limit, which) => {
                return unpark(on, host, *after, *limit, which).await;
            }
        };
        Ok(LetGo { rows, last: None })
    }
}

async fn unpark(
    on: &mut Link,
    host: &str,
    after: u64,
    limit: u32,
    which: &Which,
) -> Result<LetGo, Fail> {
    let sql = on.pick(parked!("INDEXED BY outbox_unroutable"), parked!(""));
    let values = vec![host.into(), after.into(), limit.into()];
    let found = on.rows(sql, values).await?;
    let (mut positions, mut last) = (Vec::new(), None);
    for row in &found {
        let position = row.count(0)?;
        last = Some(position);
        let wanted = match which {
            Which::All => true,
            Which::Of(project) => row.maybe_text(2)? == Some(project),
            Which::Free => row.maybe_text(1)? == Some(Why::Follows.as_str()) && row.int(3)? == 0,
        };
        if wanted {
            positions.push(position);
        }
    }
    if found.len() < limit as usize {
        last = None;
    }
    let mut rows = 0;
    if !positions.is_empty() {
        rows = on
            .run(
                on.pick(
                    "UPDATE outbox SET parked = NULL WHERE host = $1 AND parked IS NOT NULL
                        AND position IN (SELECT value FROM json_each($2))",
                    "UPDATE outbox SET parked = NULL WHERE host = $1 AND parked IS NOT NULL
                        AND position = ANY (ARRAY(SELECT json_array_elements_text($2::JSON)::BIGINT))",
                ),
                vec![host.into(), Value::json(&positions)?],
            )
            .await?;
    }
    Ok(LetGo { rows, last })
}

async fn settle(on: &mut Link, host: &str, settlement: &Settlement) -> Result<u64, Fail> {
    let mut rows = 0;
    if !settlement.done.is_empty() {
        rows += on.run(
            on.pick(
                "DELETE FROM outbox WHERE host = $1 AND parked IS NULL AND position IN (SELECT value FROM json_each($2))",
                "DELETE FROM outbox WHERE host = $1 AND parked IS NULL
                    AND position = ANY (ARRAY(SELECT json_array_elements_text($2::JSON)::BIGINT))",
            ),
            vec![host.into(), Value::json(&settlement.done)?],
        )
        .await?;
    }
    for why in [Why::Unroutable, Why::Follows] {
        let of = settlement.parked.iter().filter(|(_, of)| *of == why);
        let positions: Vec<u64> = of.map(|(position, _)| *position).collect();
        if positions.is_empty() {
            continue;
        }
        rows += on
            .run(
                on.pick(
                    "UPDATE outbox SET parked = $3 WHERE host = $1 AND parked IS NULL
                        AND position IN (SELECT value FROM json_each($2))",
                    "UPDATE outbox SET parked = $3 WHERE host = $1 AND parked IS NULL
                        AND position = ANY (ARRAY(SELECT json_array_elements_text($2::JSON)::BIGINT))",
                ),
                vec![host.into(), Value::json(&positions)?, why.as_str().into()],
            )
            .await?;
    }
    Ok(rows)
}

#[async_trait]
impl Work for Order {
    type Done = LetGo;

    fn of_any_epoch(&self) -> bool {
        // What is confirmed is confirmed, whoever owns the rows by now.
        true
    }

    async fn run(&mut self, on: &mut Link) -> Result<LetGo, Fail> {
        self.carry_out(on).await
    }
}

#[expect(private_bounds, reason = "there are two bases, and both are here")]
impl<B: Base> SqlStore<B> {
    /// As in all that writes: what is looked up by a key is not looked for by reading whole tables.
    async fn look_up<T: Send + 'static>(
        &self,
        question: impl AsyncFnOnce(&mut Link) -> Result<T, Fail>,
    ) -> Result<T, StoreError> {
        if self.base.limit().is_none() {
            return self.read(question).await;
        }
        let look = self.readers.change(self.base.begin_alone(), question);
        look.await.map_err(|fail| fail.told(&*self.base))
    }

    /// The first host that one of these questions finds.
    async fn first_of(
        &self,
        questions: [&'static str; 2],
        host: &str,
    ) -> Result<Option<String>, StoreError> {
        let question = async |on: &mut Link| {
            for sql in questions {
                if let Some(found) = on.maybe(sql, vec![host.into()]).await? {
                    return Ok(Some(found.text(0)?.to_owned()));
                }
            }
            Ok(None)
        };
        self.look_up(question).await
    }

    async fn hand_over(
        &self,
        from: &str,
        to: &str,
        by: &str,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let order = Order::HandOver {
            from: from.to_owned(),
            to: to.to_owned(),
            by: by.to_owned(),
            limit: limit.min(PAGE_MAX),
        };
        Ok(self.aside(order).await?.rows)
    }

    /// In a transaction that nobody else's launch is in.
    async fn aside(&self, order: Order) -> Result<LetGo, StoreError> {
        if self.base.limit().is_none() {
            return self.write(order).await;
        }
        let begin = self.base.begin_alone();
        self.readers
            .change(begin, async |on| order.carry_out(on).await)
            .await
            .map_err(|fail| fail.told(&*self.base))
    }
}

#[async_trait]
impl<B: Base> Outbox for SqlStore<B> {
    fn publish(&self, wanted: bool) {
        self.publishes.store(wanted, Ordering::Release);
    }

    async fn written(&self) {
        self.wrote.notified().await;
    }

    async fn page(
        &self,
        host: &str,
        rows: Rows,
        after: u64,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let values = vec![host.into(), after.into(), limit.min(PAGE_MAX).into()];
        let question = async |on: &mut Link| {
            let sql = match rows {
                Rows::Pending => on.pick(
                    page!("IS NULL", "INDEXED BY outbox_unroutable"),
                    page!("IS NULL", ""),
                ),
                Rows::Parked => on.pick(
                    page!("IS NOT NULL", "INDEXED BY outbox_unroutable"),
                    page!("IS NOT NULL", ""),
                ),
            };
            rows::page(&on.one(sql, values).await?)
        };
        self.look_up(question).await
    }

    async fn settle(&self, host: &str, settlement: &Settlement) -> Result<u64, StoreError> {
        let order = Order::Settle(host.to_owned(), settlement.clone());
        Ok(self.aside(order).await?.rows)
    }

    async fn let_go(
        &self,
        host: &str,
        all: bool,
        after: u64,
        limit: u32,
    ) -> Result<LetGo, StoreError> {
        let which = if all { Which::All } else { Which::Free };
        let limit = limit.min(PAGE_MAX);
        self.aside(Order::Unpark(host.to_owned(), after, limit, which))
            .await
    }

    async fn leave(&self, host: &str, limit: u32) -> Result<u64, StoreError> {
        let own = self.hand_over(host, "", host, limit).await?;
        if own > 0 {
            return Ok(own);
        }
        let others = [given_up!("IS NULL", ""), given_up!("IS NOT NULL", "")];
        match self.first_of(others, host).await? {
            Some(from) => self.hand_over(&from, "", host, limit).await,
            None => Ok(0),
        }
    }

    async fn adopt(&self, host: &str, limit: u32) -> Result<u64, StoreError> {
        let others = [nobodys!("IS NULL"), nobodys!("IS NOT NULL")];
        match self.first_of(others, host).await? {
            Some(from) => self.hand_over(&from, host, host, limit).await,
            None => Ok(0),
        }
    }

    async fn backlog(&self, host: &str) -> Result<Backlog, StoreError> {
        let values = vec![host.into()];
        let sql = "
            SELECT (SELECT count(*) FROM outbox WHERE host = $1 AND parked IS NULL),
                   (SELECT count(*) FROM outbox WHERE host = $1 AND parked IS NOT NULL),
                   (SELECT e.at FROM events e
                     WHERE e.position = (SELECT min(position) FROM outbox WHERE host = $1 AND parked IS NULL))";
        let found = self.read(async |on| on.one(sql, values).await).await?;
        let read = || -> Result<Backlog, Fail> {
            Ok(Backlog {
                pending: found.count(0)?,
                parked: found.count(1)?,
                oldest: found.maybe_int(2)?.map(|at| Timestamp(at.unsigned_abs())),
            })
        };
        read().map_err(|fail| fail.told(&*self.base))
    }

    async fn retry(&self, host: &str, project: Option<&ProjectName>) -> Result<u64, StoreError> {
        let which = project.map_or(Which::All, |project| Which::Of(project.to_string()));
        let (mut rows, mut after) = (0, Some(0));
        while let Some(position) = after {
            let order = Order::Unpark(host.to_owned(), position, PAGE_MAX, which.clone());
            let done = self.aside(order).await?;
            rows += done.rows;
            after = done.last;
        }
        Ok(rows)
    }
}
