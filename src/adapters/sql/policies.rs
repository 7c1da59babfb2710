//! What decides about running work: holds and budgets, as the port has them.

use super::fail::Fail;
use super::link::Link;
use super::{Base, SqlStore, budgets, clock, holds};
use crate::domain::Timestamp;
use crate::domain::budget::{Budget, BudgetState, Scope, Tokens};
use crate::domain::event::{Actor, Event};
use crate::domain::hold::{Hold, HoldScope};
use crate::domain::host::Cordon;
use crate::domain::id::RunnerId;
use crate::domain::period::Period;
use crate::ports::{Policies, Policy, Pulse, Reported, StoreError};
use async_trait::async_trait;

async fn pulse(on: &mut Link, host: &str) -> Result<Pulse, Fail> {
    let now = clock::now(on).await?;
    let sql = "
        SELECT (SELECT policy FROM fleet),
               (SELECT count(*) FROM orders
                 WHERE target = $1 AND taken_at = 0 AND outcome IS NULL AND expires_at > $2),
               (SELECT coalesce(max(position), 0) FROM events)";
    let found = on.one(sql, vec![host.into(), now.into()]).await?;
    Ok(Pulse {
        now,
        policy: found.count(0)?,
        orders: found.number(1)?,
        position: found.count(2)?,
    })
}

async fn policy(on: &mut Link, host: &str) -> Result<Policy, Fail> {
    let cordon = on
        .maybe(
            "SELECT cordon FROM hosts WHERE host = $1",
            vec![host.into()],
        )
        .await?;
    let cordon: Option<Option<Cordon>> =
        cordon.map(|row| row.maybe_json(0, "cordon")).transpose()?;
    Ok(Policy {
        holds: holds::active(on).await?,
        budgets: budgets::all(on).await?,
        cordon: cordon.flatten(),
    })
}

#[async_trait]
impl<B: Base> Policies for SqlStore<B> {
    async fn set_budget(
        &self,
        budget: Budget,
        actor: Actor,
    ) -> Result<(BudgetState, Vec<Event>), StoreError> {
        self.write(budgets::Set { budget, actor }).await
    }

    async fn remove_budget(
        &self,
        scope: Scope,
        period: Period,
        actor: Actor,
    ) -> Result<(), StoreError> {
        self.write(budgets::Remove {
            scope,
            period,
            actor,
        })
        .await
    }

    async fn budgets(&self) -> Result<Vec<BudgetState>, StoreError> {
        self.read(async |on| budgets::all(on).await).await
    }

    async fn report(
        &self,
        runner: RunnerId,
        tokens: Tokens,
        at: Timestamp,
    ) -> Result<Reported, StoreError> {
        self.write(budgets::Report { runner, tokens, at }).await
    }

    async fn set_hold(&self, hold: Hold) -> Result<(Hold, Event), StoreError> {
        self.write(holds::Set(hold)).await
    }

    async fn release_hold(
        &self,
        scope: HoldScope,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Event, StoreError> {
        self.write(holds::Release { scope, actor, at }).await
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.read(async |on| holds::active(on).await).await
    }

    async fn end_holds(&self, at: Timestamp) -> Result<Vec<Event>, StoreError> {
        self.write(holds::End { at }).await
    }

    async fn pulse(&self, host: &str) -> Result<Pulse, StoreError> {
        self.read(async |on| pulse(on, host).await).await
    }

    async fn policy(&self, host: &str) -> Result<Policy, StoreError> {
        self.read(async |on| policy(on, host).await).await
    }
}
