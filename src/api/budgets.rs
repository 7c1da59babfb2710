//! Budgets on the bus.

use super::convert::{self, Dict};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::{Options, in_order, scalar, text, unknown, wrong};
use crate::domain::budget::{Budget, BudgetState, Counts, Crossing, OnExhausted, Scope};
use crate::domain::limits::Value;
use crate::domain::period::Period;
use crate::domain::{Error, ProjectName, Timestamp, kinds, units};
use std::result::Result as Parsed;
use zbus::Variant;

impl Core {
    pub(super) async fn set_budget(
        &self,
        call: Call<'_>,
        scope: &str,
        period: &str,
        settings: &Options,
        options: &Options,
    ) -> Result<()> {
        options::none(options)?;
        let (scope, period): (Scope, Period) = (scope.parse()?, period.parse()?);
        let change = Change::parse(settings)?;
        let actor = self.policies_of(&call, project_of(&scope)).await?;
        if let Some(project) = project_of(&scope) {
            // A budget for a slip of the pen would limit nobody.
            self.engine().project(project).await?;
        }
        let all = self.engine().budgets().await?.into_iter();
        let known = all
            .map(|state| state.budget)
            .find(|b| b.scope == scope && b.period == period);
        let budget = change.made(scope, period, known)?;
        let user = actor.user.clone();
        let state = self.engine().set_budget(budget, actor).await?;
        let budget = &state.budget;
        tracing::info!(
            message_id = kinds::POLICY_SET.id,
            project = project_of(&budget.scope).map(ProjectName::as_str),
            uid = call.uid,
            user,
            "Budget set: {} tokens for {budget}, {} when it is used up",
            budget.limit,
            budget.on_exhausted.as_str()
        );
        Ok(())
    }

    pub(super) async fn remove_budget(
        &self,
        call: Call<'_>,
        scope: &str,
        period: &str,
        options: &Options,
    ) -> Result<()> {
        options::none(options)?;
        let (scope, period): (Scope, Period) = (scope.parse()?, period.parse()?);
        let actor = self.policies_of(&call, project_of(&scope)).await?;
        let user = actor.user.clone();
        self.engine()
            .remove_budget(scope.clone(), period, actor)
            .await?;
        tracing::info!(
            message_id = kinds::POLICY_SET.id,
            project = project_of(&scope).map(ProjectName::as_str),
            uid = call.uid,
            user,
            "Budget removed: {scope}, period {}",
            period.as_str()
        );
        Ok(())
    }

    pub(super) async fn list_budgets(&self) -> Result<Vec<Dict>> {
        let budgets = self.engine().budgets().await?;
        Ok(budgets.iter().map(budget_dict).collect())
    }
}

fn project_of(scope: &Scope) -> Option<&ProjectName> {
    match scope {
        Scope::Project(name) => Some(name),
        Scope::Fleet | Scope::Session(_) => None,
    }
}

/// Settings of a budget that are given.
#[derive(Debug, Default)]
struct Change {
    limit: Option<u64>,
    timezone: Option<String>,
    on_exhausted: Option<OnExhausted>,
    counts: Option<Counts>,
}

impl Change {
    fn parse(settings: &Options) -> Parsed<Self, Error> {
        const KNOWN: [&str; 4] = ["count", "limit", "on-exhausted", "timezone"];
        let mut out = Self::default();
        for (key, value) in in_order(settings) {
            match key {
                "limit" => out.limit = Some(tokens(key, value)?),
                "timezone" => out.timezone = Some(text(key, value)?.to_owned()),
                "on-exhausted" => out.on_exhausted = Some(text(key, value)?.parse()?),
                "count" => out.counts = Some(text(key, value)?.parse()?),
                _ => return Err(unknown(key, &KNOWN)),
            }
        }
        Ok(out)
    }

    /// A new budget, or the known one with what is given.
    fn made(self, scope: Scope, period: Period, known: Option<Budget>) -> Parsed<Budget, Error> {
        let mut budget = match (known, self.limit) {
            (Some(known), _) => known,
            (None, Some(limit)) => Budget {
                scope,
                period,
                limit,
                timezone: "UTC".to_owned(),
                on_exhausted: OnExhausted::default(),
                counts: Counts::default(),
                created_at: Timestamp::default(),
            },
            (None, None) => {
                return Err(Error::invalid(format!(
                    "There is no budget of {scope} with the period {} yet; a new one needs a limit: --limit N.",
                    period.as_str()
                )));
            }
        };
        budget.limit = self.limit.unwrap_or(budget.limit);
        budget.timezone = self.timezone.unwrap_or(budget.timezone);
        budget.on_exhausted = self.on_exhausted.unwrap_or(budget.on_exhausted);
        budget.counts = self.counts.unwrap_or(budget.counts);
        budget.check()?;
        Ok(budget)
    }
}

/// A count of tokens, as a number or as text.
pub(super) fn tokens(key: &str, value: &Variant<'static>) -> Parsed<u64, Error> {
    match scalar(value) {
        Some(Value::Number(n)) => Ok(n),
        Some(Value::Text(text)) => units::parse_count(text)
            .map_err(|error| Error::new(error.kind, format!("{key}: {}", error.message))),
        None => Err(wrong(key, value, "a t, or an s such as “2M”,")),
    }
}

fn budget_dict(state: &BudgetState) -> Dict {
    let budget = &state.budget;
    let mut dict = Dict::new();
    let count = |n: u64| n.min(i64::MAX.unsigned_abs());
    convert::put(&mut dict, "scope", budget.scope.to_string());
    convert::put(&mut dict, "period", budget.period.as_str());
    convert::put(&mut dict, "limit", budget.limit);
    convert::put(&mut dict, "used", count(state.used));
    convert::put(&mut dict, "reserved", count(state.reserved));
    convert::put(&mut dict, "overrun", count(state.overrun));
    convert::put(&mut dict, "timezone", budget.timezone.clone());
    convert::put(&mut dict, "on_exhausted", budget.on_exhausted.as_str());
    convert::put(&mut dict, "count", budget.counts.to_string());
    convert::put(&mut dict, "told", told(state.told));
    convert::put(&mut dict, "period_start", state.period_start.0);
    // Of the period that was counted, also where a store's clock is ahead of its host's.
    let end = budget.span(state.period_start).ok().map(|span| span.end.0);
    if let Some(end) = end.filter(|end| *end != u64::MAX) {
        convert::put(&mut dict, "period_end", end);
    }
    convert::put(&mut dict, "created_at", budget.created_at.0);
    dict
}

/// What was told in this period: `50`, `80`, `100`, `exceeded`.
fn told(bits: u8) -> Vec<String> {
    let all = Crossing::ALL.into_iter().enumerate();
    let told = all.filter(|(bit, _)| bits & (1 << bit) != 0);
    let word = |crossing| match crossing {
        Crossing::Threshold(percent) => percent.to_string(),
        Crossing::Exceeded => "exceeded".to_owned(),
    };
    told.map(|(_, crossing)| word(crossing)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::convert::own;

    fn change<const N: usize>(entries: [(&str, Variant<'static>); N]) -> Parsed<Change, Error> {
        let entries = entries.map(|(key, value)| (key.to_owned(), own(value)));
        Change::parse(&Options::from(entries))
    }

    fn made(change: Change, known: Option<Budget>) -> Parsed<Budget, Error> {
        change.made("project:p".parse()?, Period::Day, known)
    }

    #[test]
    fn what_is_not_said_stays() {
        let new = change([("limit", "2M".into()), ("count", "input,output".into())]);
        let new = made(new.unwrap(), None).unwrap();
        assert_eq!((new.limit, new.timezone.as_str()), (2_000_000, "UTC"));
        assert_eq!(new.on_exhausted, OnExhausted::Deny);
        let zone = change([
            ("timezone", "Europe/Berlin".into()),
            ("on-exhausted", "stop".into()),
        ]);
        let changed = made(zone.unwrap(), Some(new.clone())).unwrap();
        assert_eq!((changed.limit, changed.counts), (new.limit, new.counts));
        assert_eq!(changed.timezone, "Europe/Berlin");
        assert_eq!(changed.on_exhausted, OnExhausted::Stop);
        // Nothing to begin with.
        let said = made(Change::default(), None).unwrap_err().message;
        assert!(said.contains("--limit"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, part) in [
            ("limit", Variant::from(-1i64), "-1"),
            ("limit", "1.5".into(), "limit: “1.5”"),
            ("limit", true.into(), "type b"),
            ("timezone", 1u32.into(), "timezone"),
            ("on-exhausted", "kill".into(), "deny, freeze or stop"),
            ("count", "input,cache".into(), "cache-read"),
            ("limmit", 1u64.into(), "did you mean limit"),
        ] {
            let said = change([(key, value)]).unwrap_err().message;
            assert!(said.contains(part), "{said}");
        }
        for limit in [(1 << 53) + 1, i64::MAX.unsigned_abs(), u64::MAX] {
            let change = change([("limit", limit.into())]).unwrap();
            let said = made(change, None).unwrap_err().message;
            assert!(said.contains("9007199254740992"), "{said}");
        }
        let zone = change([("limit", 1u64.into()), ("timezone", "Mars/Olympus".into())]);
        assert!(made(zone.unwrap(), None).is_err());
    }

    #[test]
    fn thresholds_by_name() {
        assert_eq!(told(0), Vec::<String>::new());
        assert_eq!(told(0b1011), ["50", "80", "exceeded"]);
    }
}
