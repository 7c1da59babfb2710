//! Orders between hosts: put down, taken once and in time or never, answered.

use super::clock;
use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::{Base, SqlStore, Work};
use crate::domain::order::{ANSWERED, Order, Outcome, WAITS};
use crate::domain::{Error, ErrorKind, RunnerId, Timestamp};
use crate::ports::{Orders, StoreError};
use async_trait::async_trait;

/// Orders are kept so long, µs: a day, for who looks after them.
const KEPT: u64 = 86_400_000_000;
/// The most orders a host takes at a time.
const TAKEN_MAX: u32 = 64;
/// The most orders that wait for one host.
const WAITING_MAX: u64 = 1_000;

#[derive(Debug)]
struct Put(Order);

#[async_trait]
impl Work for Put {
    type Done = ();

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let order = &self.0;
        let now = clock::now(on).await?;
        let old = now.minus_usec(KEPT);
        on.run("DELETE FROM orders WHERE asked_at < $1", vec![old.into()])
            .await?;
        let waiting = on
            .one(
                "SELECT count(*) FROM orders
                  WHERE target = $1 AND taken_at = 0 AND outcome IS NULL AND expires_at > $2",
                vec![order.target.as_str().into(), now.into()],
            )
            .await?;
        if waiting.count(0)? >= WAITING_MAX {
            return Err(unavailable("has as many orders waiting as may wait").into());
        }
        on.run(
            "INSERT INTO orders (id, target, runner, verb, actor, by_right, asked_by, asked_at, expires_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            vec![
                order.id.as_str().into(),
                order.target.as_str().into(),
                order.runner.into(),
                Value::json(&order.verb)?,
                Value::json(&order.actor)?,
                order.right.as_str().into(),
                order.from.as_str().into(),
                now.into(),
                now.plus_usec(WAITS).into(),
            ],
        )
        .await?;
        Ok(())
    }
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
              RETURNING id, target, runner, verb, actor, by_right, asked_by, expires_at",
                vec![self.0.as_str().into(), now.into(), TAKEN_MAX.into()],
            )
            .await?;
        let mut orders = Vec::with_capacity(rows.len());
        for row in &rows {
            match order(row) {
                Ok(order) => orders.push(order),
                // Of a later release, or damaged: the others are carried out all the same.
                Err(Fail::Broken(why)) => {
                    let error = unavailable(&format!("does not understand the order ({why})"));
                    let outcome = Outcome::of(Err(error));
                    Answer(row.text(0)?.to_owned(), outcome).run(on).await?;
                }
                Err(fail) => return Err(fail),
            }
        }
        // Ids are in the order of asking.
        orders.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(orders)
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

/// Takes an order back that nobody has taken; what became of it if somebody was faster.
#[derive(Debug)]
struct Withdraw(String);

#[async_trait]
impl Work for Withdraw {
    type Done = Option<Outcome>;

    async fn run(&mut self, on: &mut Link) -> Result<Option<Outcome>, Fail> {
        let error =
            unavailable("did not take the order in time; it is withdrawn and not carried out");
        let outcome = Outcome::of(Err(error));
        on.run(
            "UPDATE orders SET outcome = $2 WHERE id = $1 AND taken_at = 0 AND outcome IS NULL",
            vec![self.0.as_str().into(), Value::json(&outcome)?],
        )
        .await?;
        Ok(look(on, &self.0).await?.0)
    }
}

fn unavailable(what: &str) -> Error {
    Error::new(
        ErrorKind::HostUnavailable,
        format!("The runner's host {what}. See: stratavorectl host list."),
    )
}

fn order(row: &Row) -> Result<Order, Fail> {
    let right = row.text(5)?;
    Ok(Order {
        id: row.text(0)?.to_owned(),
        target: row.text(1)?.to_owned(),
        runner: parsed::<RunnerId>(row.text(2)?)?,
        verb: row.json(3, "order")?,
        actor: row.json(4, "actor")?,
        right: crate::domain::order::Right::parse(right)
            .ok_or_else(|| Fail::Broken(format!("an order has the unknown right {right}")))?,
        from: row.text(6)?.to_owned(),
        expires_at: row.time(7)?,
    })
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, Fail> {
    text.parse()
        .map_err(|_| Fail::Broken(format!("{text} is stored as an id")))
}

/// What came of it; whether it has been taken; when it expires.
async fn look(on: &mut Link, id: &str) -> Result<(Option<Outcome>, bool, Timestamp), Fail> {
    let found = on
        .maybe(
            "SELECT outcome, taken_at, expires_at FROM orders WHERE id = $1",
            vec![id.into()],
        )
        .await?;
    let Some(found) = found else {
        let gone = Outcome::of(Err(unavailable("has not answered for a day")));
        return Ok((Some(gone), true, Timestamp(0)));
    };
    let taken = found.time(1)?.set().is_some();
    Ok((found.maybe_json(0, "outcome")?, taken, found.time(2)?))
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
            true => self.write(Take(host.to_owned())).await,
            false => Ok(Vec::new()),
        }
    }

    async fn answer(&self, order: &str, outcome: Outcome) -> Result<(), StoreError> {
        self.write(Answer(order.to_owned(), outcome)).await
    }

    async fn outcome(&self, order: &str) -> Result<Option<Outcome>, StoreError> {
        let looked = self
            .read(async |on| {
                let now = clock::now(on).await?;
                let (outcome, taken, expires) = look(on, order).await?;
                Ok((outcome, taken, expires, now))
            })
            .await?;
        match looked {
            (Some(outcome), ..) => Ok(Some(outcome)),
            (None, false, expires, now) if now >= expires => {
                self.write(Withdraw(order.to_owned())).await
            }
            // Taken, and then silence: its host was lost at work.
            (None, true, expires, now) if now >= expires.plus_usec(ANSWERED) => {
                let error = unavailable(
                    "took the order and has not said what came of it; it may or may not be carried out",
                );
                Ok(Some(Outcome::of(Err(error))))
            }
            (None, ..) => Ok(None),
        }
    }
}
