//! Budgets as Prometheus sees them: facts of the fleet, the same from every host.

use super::one;
use crate::domain::budget::{BudgetState, Scope};
use prometheus::core::Collector;
use prometheus::{IntGauge, IntGaugeVec};

/// How many budgets have series of their own: the fleet's, then projects', then sessions'.
const SHOWN: usize = 200;

/// Limits, what is used, what is reserved, and how many budgets are not among them.
pub(super) fn collectors(budgets: &[BudgetState]) -> prometheus::Result<Vec<Box<dyn Collector>>> {
    let gauge = |name, help| one(name, help, &["scope", "name", "period"]);
    let limit = gauge(
        "stratavore_fleet_budget_limit_tokens",
        "Tokens of a budget in each of its periods.",
    )?;
    let used = gauge(
        "stratavore_fleet_budget_used_tokens",
        "Tokens of a budget that are used in its present period.",
    )?;
    let reserved = gauge(
        "stratavore_fleet_budget_reserved_tokens",
        "Tokens of a budget that live runners may still use.",
    )?;
    for state in budgets.iter().take(SHOWN) {
        let budget = &state.budget;
        let (scope, name) = match &budget.scope {
            Scope::Fleet => ("fleet", ""),
            Scope::Project(name) => ("project", name.as_str()),
            Scope::Session(name) => ("session", name.as_str()),
        };
        let labels = [scope, name, budget.period.as_str()];
        let set = |gauge: &IntGaugeVec, tokens: u64| {
            let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
            gauge.with_label_values(&labels).set(tokens);
        };
        set(&limit, budget.limit);
        set(&used, state.used);
        set(&reserved, state.reserved);
    }
    let left_out = IntGauge::new(
        "stratavore_fleet_budgets_left_out",
        "Budgets without series of their own; stratavorectl budget list has them all.",
    )?;
    left_out.set(i64::try_from(budgets.len().saturating_sub(SHOWN)).unwrap_or(i64::MAX));
    Ok(vec![
        Box::new(limit),
        Box::new(used),
        Box::new(reserved),
        Box::new(left_out),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::Timestamp;
    use crate::domain::budget::{Budget, Counts, OnExhausted};
    use crate::domain::period::Period;

    fn state(scope: &str, used: u64) -> BudgetState {
        let budget = Budget {
            scope: scope.parse().unwrap(),
            period: Period::Day,
            limit: 100,
            timezone: "UTC".to_owned(),
            on_exhausted: OnExhausted::Deny,
            counts: Counts::default(),
            created_at: Timestamp(1),
        };
        let mut state = BudgetState::new(budget, 7, Timestamp(1)).unwrap();
        state.used = used;
        state
    }

    fn text(budgets: &[BudgetState]) -> String {
        let registry = prometheus::Registry::new();
        for collector in collectors(budgets).unwrap() {
            registry.register(collector).unwrap();
        }
        let families = registry.gather();
        prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap()
    }

    #[test]
    fn each_has_its_series() {
        let text = text(&[state("fleet", 5), state("project:web", u64::MAX)]);
        for line in [
            "stratavore_fleet_budget_used_tokens{name=\"\",period=\"day\",scope=\"fleet\"} 5",
            "stratavore_fleet_budget_limit_tokens{name=\"web\",period=\"day\",scope=\"project\"} 100",
            "stratavore_fleet_budget_reserved_tokens{name=\"web\",period=\"day\",scope=\"project\"} 7",
            "stratavore_fleet_budgets_left_out 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }

    #[test]
    fn series_are_bounded_and_the_rest_is_counted() {
        let many: Vec<_> = (0..SHOWN + 9)
            .map(|n| state(&format!("session:s{n}"), 0))
            .collect();
        let text = text(&many);
        let series = |line: &&str| line.starts_with("stratavore_fleet_budget_");
        assert_eq!(text.lines().filter(series).count(), 3 * SHOWN);
        assert!(
            text.contains("stratavore_fleet_budgets_left_out 9\n"),
            "{text}"
        );
    }
}
