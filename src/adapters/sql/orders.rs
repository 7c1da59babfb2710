//! Orders between hosts: put down, taken once and in time or never, answered. A launch is begun in the
//! transaction that writes its runner ([`open`], [`begin`]), or withdrawn: its row decides which.

use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::locks::Locks;
use super::{Base, SqlStore, Work, clock, expired};
use crate::domain::order::{
    ANSWERED, LAUNCHES_MAX, OWN_LAUNCHES_MAX, Order, Outcome, Progress, Verb, WAITS,
};
use crate::domain::spec::Setenv;
use crate::domain::{Error, ErrorKind, RunnerId, Timestamp};
use crate::ports::{NewRunner, Orders, StoreError};
use async_trait::async_trait;
use std::collections::BTreeSet;

/// Orders are kept so long, µs: a day, for who looks after them.
const KEPT: u64 = 86_400_000_000;
/// The most orders a host takes at a time.
const TAKEN_MAX: u32 = 64;
/// The most orders that wait for one host.
const WAITING_MAX: u64 = 1_000;
/// Tells those that wait for the host $1 at $2.
const IS_UNTAKEN: &str = "target = $1 AND taken_at = 0 AND outcome IS NULL AND expires_at > $2";
/// Tells a launch from other orders.
const IS_LAUNCH: &str = "substr(verb, 1, 9) = '{\"launch\"'";
/// What stays of a launch when nobody takes it any more.
const EMPTIED: &str = "{\"launch\":null}";

/// Why one expired, for the audit.
const UNTAKEN: &str = "not taken in time";
const UNBEGUN: &str = "taken, and not begun in time";
const UNTOLD: &str = "what came of it was not told within a day";

#[derive(Debug)]
struct Put(Order);

#[async_trait]
impl Work for Put {
    type Done = ();

    /// Hosts that ask for launches on the same one count one after the other.
    fn locks(&self, locks: &mut Locks) {
        if matches!(self.0.verb, Verb::Launch(_)) {
            locks.host(&self.0.target);
        }
    }

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let order = &self.0;
        let now = clock::now(on).await?;
        tidy(on, now).await?;
        match order.verb {
            Verb::Launch(_) => room_for_launch(on, order, now).await?,
            _ => room(on, order, now).await?,
        }
        let setenv: Vec<_> = order.setenv.iter().map(|e| (&e.name, &e.value)).collect();
        let setenv = match setenv.is_empty() {
            true => None,
            false => Some(serde_json::to_string(&setenv).map_err(|e| Fail::Broken(e.to_string()))?),
        };
        on.run(
            "INSERT INTO orders (id, target, runner, verb, actor, by_right, asked_by, asked_at, expires_at, setenv)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            vec![
                order.id.as_str().into(),
                order.target.as_str().into(),
                order.runner.into(),
                Value::json(&order.verb)?,
                expired::asker(&order.actor)?,
                order.right.as_str().into(),
                order.from.as_str().into(),
                now.into(),
                now.plus_usec(WAITS).into(),
                setenv.as_deref().into(),
            ],
        )
        .await?;
        Ok(())
    }
}

async fn room(on: &mut Link, order: &Order, now: Timestamp) -> Result<(), Fail> {
    let waiting = on
        .one(
            format!("SELECT count(*) FROM orders WHERE {IS_UNTAKEN}"),
            vec![order.target.as_str().into(), now.into()],
        )
        .await?;
    match waiting.count(0)? < WAITING_MAX {
        true => Ok(()),
        false => Err(unavailable(&format!(
            "has {WAITING_MAX} orders waiting already, as many as may wait; ask again in a second"
        ))
        .into()),
    }
}

async fn room_for_launch(on: &mut Link, order: &Order, now: Timestamp) -> Result<(), Fail> {
    let waiting = on
        .rows(
            format!("SELECT actor FROM orders WHERE {IS_UNTAKEN} AND {IS_LAUNCH}"),
            vec![order.target.as_str().into(), now.into()],
        )
        .await?;
    let mut own = 0;
    for row in &waiting {
        own += usize::from(expired::asked(row, 0).is_ok_and(|a| order.actor.is_also(&a)));
    }
    if own >= OWN_LAUNCHES_MAX {
        return Err(unavailable(&format!(
            "has {own} launches waiting already that you asked for; {OWN_LAUNCHES_MAX} is the most of one user, on whichever hosts they ask; launch again in a second"
        ))
        .into());
    }
    if waiting.len() >= LAUNCHES_MAX {
        return Err(unavailable(&format!(
            "has {LAUNCHES_MAX} launches waiting already, as many as may wait; launch again in a second"
        ))
        .into());
    }
    Ok(())
}

/// Removes old orders, and what is large or private of those that nobody takes any more, whoever asked
/// or was asked.
pub(super) async fn tidy(on: &mut Link, now: Timestamp) -> Result<(), Fail> {
    let old = now.minus_usec(KEPT);
    // Nobody was told what came of these: who asked is gone, and who was asked has not come back.
    let sql = format!(
        "DELETE FROM orders WHERE asked_at < $1 AND outcome IS NULL AND begun_at = 0 RETURNING {}",
        expired::COLUMNS
    );
    let untold = on.rows(sql, vec![old.into()]).await?;
    expired::note(on, &untold, UNTOLD, now)?;
    on.run("DELETE FROM orders WHERE asked_at < $1", vec![old.into()])
        .await?;
    on.run(
        format!(
            "UPDATE orders SET setenv = NULL, verb = '{EMPTIED}'
              WHERE expires_at <= $1 AND {IS_LAUNCH} AND verb <> '{EMPTIED}'"
        ),
        vec![now.into()],
    )
    .await?;
    Ok(())
}

/// Marks them as taken in the statement that reads them, so nobody gets one twice.
#[derive(Debug)]
struct Take(String);

#[async_trait]
impl Work for Take {
    type Done = Vec<Order>;

    async fn run(&mut self, on: &mut Link) -> Result<Vec<Order>, Fail> {
        let now = clock::now(on).await?;
        let rows = on
            .rows(
                "UPDATE orders SET taken_at = $2
                  WHERE taken_at = 0 AND outcome IS NULL AND id IN (
                        SELECT id FROM orders
                         WHERE target = $1 AND taken_at = 0 AND outcome IS NULL AND expires_at > $2
                         ORDER BY asked_at, id LIMIT $3)
              RETURNING id, target, runner, verb, actor, by_right, asked_by, expires_at, setenv, asked_at",
                vec![self.0.as_str().into(), now.into(), TAKEN_MAX.into()],
            )
            .await?;
        on.run(
            format!(
                "UPDATE orders SET setenv = NULL, verb = '{EMPTIED}'
                  WHERE target = $1 AND (taken_at <> 0 OR expires_at <= $2) AND {IS_LAUNCH} AND verb <> '{EMPTIED}'"
            ),
            vec![self.0.as_str().into(), now.into()],
        )
        .await?;
        // Whoever asked is gone, or withdraws them now: nobody need look at them again.
        let late = Outcome::of(Err(withdrawn()));
        let sql = format!(
            "UPDATE orders SET outcome = $3 WHERE target = $1 AND taken_at = 0 AND outcome IS NULL AND expires_at <= $2
             RETURNING {}",
            expired::COLUMNS
        );
        let values = vec![self.0.as_str().into(), now.into(), Value::json(&late)?];
        let untaken = on.rows(sql, values).await?;
        expired::note(on, &untaken, UNTAKEN, now)?;
        let mut orders = Vec::with_capacity(rows.len());
        for row in &rows {
            match order(row) {
                Ok(order) => orders.push((row.time(9)?, order)),
                // Of a later release, or damaged: the others are carried out all the same.
                Err(Fail::Broken(why)) => {
                    let error = unavailable(&format!("does not understand the order ({why})"));
                    let outcome = Outcome::of(Err(error));
                    Answer(row.text(0)?.to_owned(), outcome).run(on).await?;
                }
                Err(fail) => return Err(fail),
            }
        }
        // By the store's clock: those of the hosts that ask may differ.
        orders.sort_by(|(at, a), (later, b)| (at, &a.id).cmp(&(later, &b.id)));
        Ok(orders.into_iter().map(|(_, order)| order).collect())
    }
}

#[derive(Debug)]
struct Answer(String, Outcome);

#[async_trait]
impl Work for Answer {
    type Done = ();

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let Self(id, outcome) = self;
        on.run(
            "UPDATE orders SET outcome = $2 WHERE id = $1 AND outcome IS NULL",
            vec![id.as_str().into(), Value::json(outcome)?],
        )
        .await?;
        Ok(())
    }
}

/// Takes an order back that nobody has taken, or a launch that was taken and not begun; what became
/// of it if somebody was faster.
#[derive(Debug)]
struct Withdraw {
    id: String,
    taken: bool,
}

#[async_trait]
impl Work for Withdraw {
    type Done = Progress;

    async fn run(&mut self, on: &mut Link) -> Result<Progress, Fail> {
        let (open, error, why) = match self.taken {
            false => ("taken_at = 0".to_owned(), withdrawn(), UNTAKEN),
            true => (
                IS_LAUNCH.to_owned(),
                unavailable(
                    "took the launch and has not begun it; it is withdrawn, nothing runs and nothing will",
                ),
                UNBEGUN,
            ),
        };
        let sql = format!(
            "UPDATE orders SET outcome = $2, setenv = NULL,
                    verb = CASE WHEN {IS_LAUNCH} THEN '{EMPTIED}' ELSE verb END
              WHERE id = $1 AND begun_at = 0 AND outcome IS NULL AND {open} RETURNING {}",
            expired::COLUMNS
        );
        let outcome = Value::json(&Outcome::of(Err(error)))?;
        let withdrawn = on.rows(sql, vec![self.id.as_str().into(), outcome]).await?;
        let now = clock::now(on).await?;
        expired::note(on, &withdrawn, why, now)?;
        Ok(look(on, &self.id).await?.progress())
    }
}

fn withdrawn() -> Error {
    unavailable("did not take the order in time; it is withdrawn and not carried out")
}

fn unavailable(what: &str) -> Error {
    Error::new(
        ErrorKind::HostUnavailable,
        format!("The host that was asked {what}. See: stratavorectl host list."),
    )
}

const OPEN_SQLITE: &str =
    "SELECT expires_at FROM orders WHERE id = $1 AND begun_at = 0 AND outcome IS NULL";
const OPEN_POSTGRES: &str =
    "SELECT expires_at FROM orders WHERE id = $1 AND begun_at = 0 AND outcome IS NULL FOR UPDATE";

/// Which of these launches are orders of other hosts that are still open; they stay as they are
/// until this transaction is over.
pub(super) async fn open(on: &mut Link, news: &[&NewRunner]) -> Result<BTreeSet<String>, Fail> {
    let mut found = BTreeSet::new();
    let ids: BTreeSet<&str> = news.iter().filter_map(|new| new.order.as_deref()).collect();
    if ids.is_empty() {
        return Ok(found);
    }
    let now = clock::now(on).await?;
    for id in ids {
        let sql = on.pick(OPEN_SQLITE, OPEN_POSTGRES);
        let row = on.maybe(sql, vec![id.into()]).await?;
        if let Some(row) = row
            && now < row.time(0)?.plus_usec(ANSWERED)
        {
            found.insert(id.to_owned());
        }
    }
    Ok(found)
}

/// These are begun: whoever asked may not withdraw them any more.
pub(super) async fn begin(on: &mut Link, ids: &[&str], now: Timestamp) -> Result<(), Fail> {
    for id in ids {
        on.run(
            "UPDATE orders SET begun_at = $2 WHERE id = $1",
            vec![(*id).into(), now.into()],
        )
        .await?;
    }
    Ok(())
}

/// Why one that is no longer open is not carried out.
pub(super) fn closed() -> Error {
    unavailable("came to it too late; it is withdrawn and not carried out")
}

fn order(row: &Row) -> Result<Order, Fail> {
    let right = row.text(5)?;
    Ok(Order {
        id: row.text(0)?.to_owned(),
        target: row.text(1)?.to_owned(),
        runner: parsed::<RunnerId>(row.text(2)?)?,
        verb: row.json(3, "order")?,
        actor: expired::asked(row, 4)?,
        right: crate::domain::order::Right::parse(right)
            .ok_or_else(|| Fail::Broken(format!("an order has the unknown right {right}")))?,
        from: row.text(6)?.to_owned(),
        expires_at: row.time(7)?,
        setenv: environment(row.maybe_text(8)?)?,
    })
}

fn environment(text: Option<&str>) -> Result<Vec<Setenv>, Fail> {
    // Not the parser's words: they could quote a secret.
    let broken = |_| Fail::Broken("its environment can't be read".to_owned());
    let pairs: Vec<(String, String)> = text
        .map_or(Ok(Vec::new()), serde_json::from_str)
        .map_err(broken)?;
    Ok(pairs
        .into_iter()
        .map(|(name, value)| Setenv { name, value })
        .collect())
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, Fail> {
    text.parse()
        .map_err(|_| Fail::Broken(format!("{text} is stored as an id")))
}

/// An order's row.
struct Looked {
    outcome: Option<Outcome>,
    taken: bool,
    begun: bool,
    launch: bool,
    expires_at: Timestamp,
}

impl Looked {
    fn progress(self) -> Progress {
        match (self.outcome, self.begun) {
            (Some(outcome), _) => Progress::Over(outcome),
            (None, true) => Progress::Begun,
            (None, false) => Progress::Waits,
        }
    }
}

async fn look(on: &mut Link, id: &str) -> Result<Looked, Fail> {
    let found = on
        .maybe(
            format!(
                "SELECT outcome, taken_at, expires_at, begun_at, CAST(CASE WHEN {IS_LAUNCH} THEN 1 ELSE 0 END AS BIGINT)
                   FROM orders WHERE id = $1"
            ),
            vec![id.into()],
        )
        .await?;
    let Some(found) = found else {
        return Ok(Looked {
            outcome: Some(Outcome::of(Err(unavailable("has not answered for a day")))),
            taken: true,
            begun: false,
            launch: false,
            expires_at: Timestamp(0),
        });
    };
    Ok(Looked {
        outcome: found.maybe_json(0, "outcome")?,
        taken: found.time(1)?.set().is_some(),
        begun: found.time(3)?.set().is_some(),
        launch: found.count(4)? == 1,
        expires_at: found.time(2)?,
    })
}

#[async_trait]
impl<B: Base> Orders for SqlStore<B> {
    async fn order(&self, order: Order) -> Result<(), StoreError> {
        self.write(Put(order)).await
    }

    async fn take_orders(&self, host: &str) -> Result<Vec<Order>, StoreError> {
        // Asked twice a second, and hardly ever is there one: nothing is written then.
        let there = self
            .read(async |on| {
                let sql = "SELECT expires_at FROM orders WHERE target = $1 AND taken_at = 0 AND outcome IS NULL LIMIT 1";
                Ok(on.maybe(sql, vec![host.into()]).await?.is_some())
            })
            .await?;
        match there {
            // Another machine with this host's id, which has not been let in, takes nothing of its.
            true if !self.has_joined() => Err(StoreError::Fenced),
            true => self.write(Take(host.to_owned())).await,
            false => Ok(Vec::new()),
        }
    }

    async fn answer(&self, order: &str, outcome: Outcome) -> Result<(), StoreError> {
        self.write(Answer(order.to_owned(), outcome)).await
    }

    async fn outcome(&self, order: &str) -> Result<Progress, StoreError> {
        let (looked, now) = self
            .read(async |on| {
                let now = clock::now(on).await?;
                Ok((look(on, order).await?, now))
            })
            .await?;
        let late = now >= looked.expires_at.plus_usec(ANSWERED);
        if looked.outcome.is_some() || looked.begun {
            return Ok(looked.progress());
        }
        let id = order.to_owned();
        match looked.taken {
            false if now >= looked.expires_at => self.write(Withdraw { id, taken: false }).await,
            true if late && looked.launch => self.write(Withdraw { id, taken: true }).await,
            // Taken, and then silence: its host was lost at work.
            true if late => {
                let error = unavailable(
                    "took the order and has not said what came of it; it may or may not be carried out",
                );
                Ok(Progress::Over(Outcome::of(Err(error))))
            }
            _ => Ok(Progress::Waits),
        }
    }
}
