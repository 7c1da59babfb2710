//! Holds, budgets and reports of use, as callers ask for them; [`super::policy`] carries them out.

use super::lane::Command;
use super::{Engine, now, store_error};
use crate::crash;
use crate::domain::budget::{Budget, BudgetState, Scope, Tokens};
use crate::domain::event::{Actor, Event};
use crate::domain::hold::{Hold, HoldScope};
use crate::domain::period::Period;
use crate::domain::{Error, Runner, RunnerId, Timestamp};

impl Engine {
    /// All holds that have not ended.
    pub async fn holds(&self) -> Result<Vec<Hold>, Error> {
        self.0.store.holds().await.map_err(store_error)
    }

    /// Sets a hold, in place of the one this scope has.
    pub async fn set_hold(
        &self,
        scope: HoldScope,
        until: Option<Timestamp>,
        freeze: bool,
        reason: String,
        actor: Actor,
    ) -> Result<(), Error> {
        let hold = Hold {
            scope,
            until,
            freeze,
            reason,
            actor,
            set_at: now(),
        };
        let set = self.0.store.set_hold(hold).await;
        let (_, event) = set.map_err(store_error)?;
        self.policy_changed(vec![event]);
        Ok(())
    }

    /// Ends a hold.
    pub async fn release_hold(&self, scope: HoldScope, actor: Actor) -> Result<(), Error> {
        let released = self.0.store.release_hold(scope, actor, now()).await;
        self.policy_changed(vec![released.map_err(store_error)?]);
        Ok(())
    }

    /// All budgets in their present period, by scope and period.
    pub async fn budgets(&self) -> Result<Vec<BudgetState>, Error> {
        self.0.store.budgets().await.map_err(store_error)
    }

    /// Makes a budget, or changes it.
    pub async fn set_budget(&self, mut budget: Budget, actor: Actor) -> Result<BudgetState, Error> {
        if budget.created_at.set().is_none() {
            budget.created_at = now();
        }
        let set = self.0.store.set_budget(budget, actor).await;
        let (state, events) = set.map_err(store_error)?;
        self.policy_changed(events);
        Ok(state)
    }

    /// Removes a budget.
    pub async fn remove_budget(
        &self,
        scope: Scope,
        period: Period,
        actor: Actor,
    ) -> Result<(), Error> {
        let removed = self.0.store.remove_budget(scope, period, actor).await;
        removed.map_err(store_error)?;
        self.policy_changed(Vec::new());
        Ok(())
    }

    /// Counts what a runner says it has used since it began.
    pub async fn report(&self, id: RunnerId, tokens: Tokens) -> Result<Runner, Error> {
        let reported = self.0.store.report(id, tokens, now()).await;
        let reported = reported.map_err(store_error)?;
        crash::point("policy.reported");
        self.0.metrics.tokens(&reported.runner, reported.before);
        self.0.read(|live| {
            if let Some(entry) = live.get(&id) {
                let _ = entry.lane.send(Command::Used(reported.runner.tokens));
            }
        });
        for event in reported.events {
            self.0.publish(Some(event), None, None);
        }
        self.0.policy.counted.notify_one();
        Ok(reported.runner)
    }

    pub(super) fn policy_changed(&self, events: Vec<Event>) {
        for event in events {
            self.0.publish(Some(event), None, None);
        }
        self.0.policy.changed.notify_one();
    }
}
