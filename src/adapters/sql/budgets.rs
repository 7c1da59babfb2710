//! Budgets: setting, removing and listing them, and charging what runners report.

use super::apply::record;
use super::clock::now;
use super::fail::Fail;
use super::link::{Link, Row, Value};
use super::locks::Locks;
use super::row::runner_columns;
use super::{Work, read, row, words};
use crate::domain::audit::{Act, Note};
use crate::domain::budget::{Budget, BudgetState, Crossing, Holding, Scope, Tokens};
use crate::domain::event::{Actor, Draft, Event, EventType};
use crate::domain::period::Period;
use crate::domain::policy::holding;
use crate::domain::{Error, ErrorKind, RunnerId, State, Timestamp};
use crate::ports::Reported;
use async_trait::async_trait;
use serde_json::json;

/// The most budgets at a time.
const BUDGETS_MAX: u64 = 1_000;

macro_rules! columns {
    () => {
        "SELECT scope, period, max_tokens, timezone, on_exhausted, counts, created_at, period_start, used, reserved, told, overrun FROM budgets"
    };
}

pub(super) fn state(row: &Row) -> Result<BudgetState, Fail> {
    let word = |column| {
        let text = row.text(column)?;
        Ok::<_, Fail>(serde_json::Value::from(text))
    };
    let broken = |e: &dyn std::fmt::Display| Fail::Broken(format!("a stored budget: {e}"));
    Ok(BudgetState {
        budget: Budget {
            scope: row.text(0)?.parse().map_err(|e: Error| broken(&e))?,
            period: serde_json::from_value(word(1)?).map_err(|e| broken(&e))?,
            limit: row.count(2)?,
            timezone: row.text(3)?.to_owned(),
            on_exhausted: row.text(4)?.parse().map_err(|e: Error| broken(&e))?,
            counts: row.json(5, "kinds of tokens")?,
            created_at: row.time(6)?,
        },
        period_start: row.time(7)?,
        used: row.count(8)?,
        reserved: row.count(9)?,
        told: u8::try_from(row.count(10)?).unwrap_or(u8::MAX),
        overrun: row.count(11)?,
    })
}

/// Brought up to this moment. Where this host does not know the time zone, the budget stays as it
/// was: what is used stays used, which errs to the safe side.
pub(super) fn rolled(state: BudgetState, now: Timestamp) -> BudgetState {
    state.clone().roll(now).unwrap_or(state)
}

/// All budgets in their present period, by scope and period.
pub(super) async fn all(on: &mut Link) -> Result<Vec<BudgetState>, Fail> {
    let now = now(on).await?;
    let rows = on
        .rows(concat!(columns!(), " ORDER BY scope, period"), vec![])
        .await?;
    let states = rows.iter().map(|row| Ok(rolled(state(row)?, now)));
    states.collect()
}

/// Writes where one stands, its terms included.
async fn write(on: &mut Link, state: &BudgetState) -> Result<(), Fail> {
    let budget = &state.budget;
    on.run(
        "INSERT INTO budgets (scope, period, max_tokens, timezone, on_exhausted, counts, created_at,
                              period_start, used, reserved, told, overrun)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (scope, period) DO UPDATE SET
                 max_tokens = excluded.max_tokens, timezone = excluded.timezone,
                 on_exhausted = excluded.on_exhausted, counts = excluded.counts,
                 period_start = excluded.period_start, used = excluded.used,
                 reserved = excluded.reserved, told = excluded.told,
                 overrun = excluded.overrun",
        vec![
            budget.scope.to_string().into(),
            budget.period.as_str().into(),
            budget.limit.into(),
            budget.timezone.as_str().into(),
            budget.on_exhausted.as_str().into(),
            Value::json(&budget.counts)?,
            budget.created_at.into(),
            state.period_start.into(),
            state.used.into(),
            state.reserved.into(),
            u32::from(state.told).into(),
            state.overrun.into(),
        ],
    )
    .await?;
    Ok(())
}

/// What the live runners hold that match a budget.
async fn reserved(on: &mut Link, budget: &Budget) -> Result<u64, Fail> {
    let live = concat!(
        "SELECT ",
        runner_columns!(),
        " FROM runners r WHERE r.state NOT IN ('queued', 'ended') AND r.reserved > 0"
    );
    let rows = match &budget.scope {
        Scope::Fleet => on.rows(live, vec![]).await?,
        Scope::Project(name) => {
            let sql = format!("{live} AND r.project = $1");
            on.rows(sql, vec![name.into()]).await?
        }
        Scope::Session(name) => {
            let sql = format!("{live} AND r.session = $1");
            on.rows(sql, vec![name.as_str().into()]).await?
        }
    };
    let mut sum = 0u64;
    for row in &rows {
        sum = sum.saturating_add(holding(&row::runner(row)?).held(&budget.counts));
    }
    Ok(sum)
}

/// The events of what is to be told of a budget now.
async fn tell(on: &mut Link, state: &mut BudgetState, at: Timestamp) -> Result<Vec<Event>, Fail> {
    let mut events = Vec::new();
    for crossing in state.tell() {
        let budget = &state.budget;
        let mut data = json!({
            "scope": budget.scope.to_string(),
            "period": budget.period.as_str(),
            "limit": budget.limit,
            "used": state.used,
            "period_start": state.period_start.0,
        });
        let kind = match crossing {
            Crossing::Threshold(percent) => {
                data["percent"] = json!(percent);
                EventType::BudgetThreshold
            }
            Crossing::Exceeded => {
                data["on_exhausted"] = json!(budget.on_exhausted.as_str());
                EventType::BudgetExceeded
            }
        };
        let project = match &budget.scope {
            Scope::Project(name) => name.to_string(),
            Scope::Fleet | Scope::Session(_) => String::new(),
        };
        let draft = Draft {
            kind,
            project,
            subject: format!("budget/{}/{}", budget.scope, budget.period.as_str()),
            seq: 0,
            at,
            actor: Actor::host(),
            data,
        };
        events.push(record(on, draft).await?);
    }
    Ok(events)
}

#[derive(Debug)]
pub(super) struct Set {
    pub(super) budget: Budget,
    pub(super) actor: Actor,
}

#[async_trait]
impl Work for Set {
    type Done = (BudgetState, Vec<Event>);

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Self { budget, actor } = self;
        budget.check()?;
        let now = now(on).await?;
        let found = one(on, &budget.scope, budget.period).await?;
        let reserved = reserved(on, budget).await?;
        let mut state = match found {
            Some(found) => {
                let mut budget = budget.clone();
                budget.created_at = found.budget.created_at;
                found.change(budget, reserved, now)?
            }
            None => {
                let there = on.one("SELECT count(*) FROM budgets", vec![]).await?;
                if there.count(0)? >= BUDGETS_MAX {
                    return Err(Error::new(
                        ErrorKind::LimitsExceeded,
                        format!("There are {BUDGETS_MAX} budgets, which is the most. Remove some: stratavorectl budget list."),
                    )
                    .into());
                }
                BudgetState::new(budget.clone(), reserved, now)?
            }
        };
        let events = tell(on, &mut state, now).await?;
        write(on, &state).await?;
        on.note(|| {
            let budget = &state.budget;
            let data = json!({
                "limit": budget.limit,
                "timezone": budget.timezone,
                "on_exhausted": budget.on_exhausted.as_str(),
                "counts": budget.counts,
            });
            act(
                "act.set-budget",
                &budget.scope,
                budget.period,
                actor,
                now,
                data,
            )
        });
        Ok((state, events))
    }
}

async fn one(on: &mut Link, scope: &Scope, period: Period) -> Result<Option<BudgetState>, Fail> {
    let sql = concat!(columns!(), " WHERE scope = $1 AND period = $2");
    let key = vec![scope.to_string().into(), period.as_str().into()];
    let found = on.maybe(sql, key).await?;
    found.as_ref().map(state).transpose()
}

#[derive(Debug)]
pub(super) struct Remove {
    pub(super) scope: Scope,
    pub(super) period: Period,
    pub(super) actor: Actor,
}

#[async_trait]
impl Work for Remove {
    type Done = ();

    fn locks(&self, locks: &mut Locks) {
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let Self {
            scope,
            period,
            actor,
        } = self;
        let sql = "DELETE FROM budgets WHERE scope = $1 AND period = $2";
        let key = vec![scope.to_string().into(), period.as_str().into()];
        if on.run(sql, key).await? == 0 {
            let message = format!(
                "There is no budget of {scope} with the period {}. See which there are: stratavorectl budget list.",
                period.as_str()
            );
            return Err(Error::new(ErrorKind::NoSuchBudget, message).into());
        }
        let at = now(on).await?;
        on.note(|| act("act.remove-budget", scope, *period, actor, at, json!({})));
        Ok(())
    }
}

/// What was done to a budget is no event.
fn act(
    kind: &'static str,
    scope: &Scope,
    period: Period,
    actor: &Actor,
    at: Timestamp,
    data: serde_json::Value,
) -> Note {
    Note::of_act(&Act {
        at,
        kind,
        project: match scope {
            Scope::Project(project) => project.to_string(),
            _ => String::new(),
        },
        subject: format!("budget/{scope}/{}", period.as_str()),
        actor: actor.clone(),
        result: "ok".to_owned(),
        data,
    })
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) runner: RunnerId,
    pub(super) tokens: Tokens,
    pub(super) at: Timestamp,
}

#[async_trait]
impl Work for Report {
    type Done = Reported;

    fn locks(&self, locks: &mut Locks) {
        locks.runner(self.runner);
    }

    async fn run(&mut self, on: &mut Link) -> Result<Reported, Fail> {
        self.tokens.check()?;
        let Some(mut runner) = read::runner(on, self.runner).await? else {
            return Err(words::no_such_runner(self.runner).into());
        };
        if runner.state() == State::Queued {
            let message = format!("Runner {} waits and has used nothing yet.", runner.id);
            return Err(Error::new(ErrorKind::WrongState, message).into());
        }
        let (before, counted) = (holding(&runner), runner.tokens);
        runner.tokens = runner.tokens.advance(self.tokens);
        let after = holding(&runner);
        if before == after {
            return Ok(Reported {
                runner,
                before: counted,
                events: Vec::new(),
            });
        }
        on.run(
            "UPDATE runners SET tokens = $2 WHERE id = $1",
            vec![runner.id.into(), Value::json(&runner.tokens)?],
        )
        .await?;
        let session = runner.spec.session.as_deref();
        let payers = payers(on, runner.spec.project.as_str(), session).await?;
        let events = charge(on, payers, &before, &after, self.at).await?;
        Ok(Reported {
            runner,
            before: counted,
            events,
        })
    }
}

/// The budgets that pay for a runner, locked until the end of the transaction.
pub(super) async fn payers(
    on: &mut Link,
    project: &str,
    session: Option<&str>,
) -> Result<Vec<BudgetState>, Fail> {
    let sql = on.pick(
        concat!(
            columns!(),
            " WHERE scope IN ('fleet', $1, $2) ORDER BY scope, period"
        ),
        concat!(
            columns!(),
            " WHERE scope IN ('fleet', $1, $2) ORDER BY scope, period FOR UPDATE"
        ),
    );
    let project = format!("project:{project}");
    let session = session.map(|name| format!("session:{name}"));
    let rows = on.rows(sql, vec![project.into(), session.into()]).await?;
    rows.iter().map(state).collect()
}

/// What is known elsewhere of the policy is stale from now on.
pub(super) async fn policy_changed(on: &mut Link) -> Result<(), Fail> {
    on.run("UPDATE fleet SET policy = policy + 1", vec![])
        .await?;
    Ok(())
}

/// Charges a step of a runner to all budgets that pay for it. What is to be told is in the answer.
pub(super) async fn charge(
    on: &mut Link,
    payers: Vec<BudgetState>,
    before: &Holding,
    after: &Holding,
    at: Timestamp,
) -> Result<Vec<Event>, Fail> {
    if payers.is_empty() {
        return Ok(Vec::new());
    }
    let now = now(on).await?;
    let mut events = Vec::new();
    for state in payers {
        let told = state.told;
        let mut state = rolled(state, now);
        let was_over = state.taken() > state.budget.limit;
        let step = state.settle(before, after);
        let is_over = state.taken() > state.budget.limit;
        events.extend(tell(on, &mut state, at).await?);
        on.run(
            "UPDATE budgets SET period_start = $3, used = $4, reserved = $5, overrun = $6 WHERE scope = $1 AND period = $2",
            vec![
                state.budget.scope.to_string().into(),
                state.budget.period.as_str().into(),
                state.period_start.into(),
                state.used.into(),
                state.reserved.into(),
                state.overrun.into(),
            ],
        )
        .await?;
        if was_over != is_over || is_over && step.overrun > 0 {
            // Whoever is past its reservation is stopped by that, or goes on.
            policy_changed(on).await?;
        }
        if state.told != told {
            // The schema takes this for a change of the policy.
            on.run(
                "UPDATE budgets SET told = $3 WHERE scope = $1 AND period = $2",
                vec![
                    state.budget.scope.to_string().into(),
                    state.budget.period.as_str().into(),
                    u32::from(state.told).into(),
                ],
            )
            .await?;
        }
    }
    Ok(events)
}
