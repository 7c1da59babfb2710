//! Giving back what runners held that have ended: their sessions, and what they had reserved of budgets.

use super::budgets::{self, rolled};
use super::clock::now;
use super::fail::Fail;
use super::ledger::{Concern, list, rows};
use super::link::{Link, Value};
use crate::domain::Runner;
use crate::domain::budget::{BudgetState, Holding};
use crate::domain::policy::holding;
use std::collections::BTreeSet;

/// Gives back what these held that have just ended: reservations and sessions. Their slots are
/// given back by the schema.
pub(super) async fn release(on: &mut Link, ended: &[Runner]) -> Result<(), Fail> {
    let seated: Vec<_> = ended.iter().filter(|r| r.spec.session.is_some()).collect();
    if !seated.is_empty() {
        let at = now(on).await?;
        let ids: Vec<_> = seated.iter().map(|r| r.id.to_string()).collect();
        let names: BTreeSet<_> = seated
            .iter()
            .filter_map(|r| r.spec.session.as_ref())
            .collect();
        let set = "UPDATE sessions SET live = NULL, used_at = $1 WHERE name";
        let sql = format!("{} AND {}", list(on, set, 2), list(on, "live", 3));
        let values = vec![at.into(), Value::json(&names)?, Value::json(&ids)?];
        on.run(sql, values).await?;
    }
    let mut concern = Concern::default();
    let holders: Vec<_> = ended.iter().filter(|r| r.reserved > 0).collect();
    for runner in &holders {
        concern.add(&runner.spec, &runner.host, None);
    }
    if holders.is_empty() {
        return Ok(());
    }
    let scopes = concern.scopes();
    let rows = rows(on, &scopes, true).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let at = now(on).await?;
    for row in &rows {
        let stored = match budgets::state(row) {
            Ok(stored) => stored,
            // An ending is written all the same. What it held comes back when the budget is removed and set anew.
            Err(Fail::Broken(why)) => {
                tracing::debug!(%why, "Nothing is given back to a budget that can't be read");
                continue;
            }
            Err(fail) => return Err(fail),
        };
        let mut state = rolled(stored.clone(), at);
        for runner in &holders {
            let spec = &runner.spec;
            if !state
                .budget
                .scope
                .matches(&spec.project, spec.session.as_deref())
            {
                continue;
            }
            let free = holding(runner);
            let held = Holding { live: true, ..free };
            state.settle(&held, &free);
        }
        keep(on, &stored, &state).await?;
    }
    Ok(())
}

/// Writes where a budget stands.
pub(super) async fn keep(
    on: &mut Link,
    stored: &BudgetState,
    state: &BudgetState,
) -> Result<(), Fail> {
    let key = || {
        let budget = &state.budget;
        vec![
            Value::from(budget.scope.to_string()),
            budget.period.as_str().into(),
        ]
    };
    let mut values = key();
    values.extend([
        state.period_start.into(),
        state.used.into(),
        state.reserved.into(),
        state.overrun.into(),
    ]);
    let sql = "UPDATE budgets SET period_start = $3, used = $4, reserved = $5, overrun = $6 WHERE scope = $1 AND period = $2";
    on.run(sql, values).await?;
    if (stored.taken() > stored.budget.limit) != (state.taken() > state.budget.limit) {
        // Whoever is past its reservation is stopped by that, or goes on: on every host.
        on.run("UPDATE fleet SET policy = policy + 1", vec![])
            .await?;
    }
    // Told apart: the schema takes it for a change of the policy.
    if stored.told != state.told {
        let mut values = key();
        values.push(u32::from(state.told).into());
        let sql = "UPDATE budgets SET told = $3 WHERE scope = $1 AND period = $2";
        on.run(sql, values).await?;
    }
    Ok(())
}
