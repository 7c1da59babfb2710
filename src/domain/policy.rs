//! What holds and budgets want of a runner that lives: one pure decision.
//!
//! Only what a policy froze is thawed by one ([`Runner::frozen_by`]): a runner that somebody froze
//! stays frozen when the hold ends.

use super::budget::{self, BudgetState, Holding, OnExhausted};
use super::error::{Error, ErrorKind};
use super::event::Actor;
use super::hold::Hold;
use super::host::Cordon;
use super::runner::{Runner, State};
use super::time::Timestamp;

/// What is to be done with a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is as it should be.
    GoOn,
    /// It runs and must not: this hold or budget freezes it.
    Freeze(String),
    /// What froze it is over, and this other hold or budget wants it frozen.
    Keep(String),
    /// What froze it is over.
    Thaw,
    /// This budget stops it.
    Stop(String),
    /// Its host is to be empty by now: it is stopped in the name of who drains it.
    Drain(Actor),
}

/// What a policy wants, whatever the runner does just now.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wish<'a> {
    Run,
    Held(&'a Hold),
    Frozen(&'a BudgetState),
    Stopped(&'a BudgetState),
}

fn wish<'a>(
    runner: &Runner,
    holds: &'a [Hold],
    budgets: &'a [BudgetState],
    now: Timestamp,
) -> Wish<'a> {
    let holding = holding(runner);
    let (project, session) = (&runner.spec.project, runner.spec.session.as_deref());
    let matching = budgets
        .iter()
        .filter(|b| b.budget.scope.matches(project, session));
    let acting = matching.filter(|b| b.acts_on(&holding));
    let strictest = acting.max_by_key(|b| b.budget.on_exhausted);
    let policy = strictest.map_or(OnExhausted::Deny, |b| b.budget.on_exhausted);
    if let (Some(budget), OnExhausted::Stop) = (strictest, policy) {
        return Wish::Stopped(budget);
    }
    let hold = holds
        .iter()
        .find(|h| h.freeze && h.is_active(now) && h.scope.covers(project, &runner.spec.labels));
    match (hold, strictest, policy) {
        (Some(hold), ..) => Wish::Held(hold),
        (None, Some(budget), OnExhausted::Freeze) => Wish::Frozen(budget),
        _ => Wish::Run,
    }
}

/// What a runner has of its budgets.
pub fn holding(runner: &Runner) -> Holding {
    Holding {
        tokens: runner.reserved,
        counters: runner.tokens,
        live: runner.state().is_live(),
    }
}

/// What is to be done with this runner at this moment of the store's clock.
pub fn verdict(
    runner: &Runner,
    holds: &[Hold],
    budgets: &[BudgetState],
    now: Timestamp,
) -> Verdict {
    let state = runner.state();
    if !matches!(state, State::Running | State::Frozen) {
        return Verdict::GoOn;
    }
    let by = match wish(runner, holds, budgets, now) {
        Wish::Stopped(budget) => return Verdict::Stop(name(&budget.budget)),
        Wish::Held(hold) => Some(format!("hold {}", hold.scope)),
        Wish::Frozen(budget) => Some(name(&budget.budget)),
        Wish::Run => None,
    };
    match (by, &runner.frozen_by) {
        (Some(by), _) if state == State::Running => Verdict::Freeze(by),
        (Some(by), Some(former)) if by != *former => Verdict::Keep(by),
        (None, Some(_)) if state == State::Frozen => Verdict::Thaw,
        _ => Verdict::GoOn,
    }
}

/// What a cordon of its host wants of a runner at this moment of the store's clock.
pub fn drained(runner: &Runner, cordon: Option<&Cordon>, now: Timestamp) -> Option<Verdict> {
    let cordon = cordon.filter(|c| c.drain_until.is_some_and(|until| until <= now))?;
    matches!(runner.state(), State::Running | State::Frozen)
        .then(|| Verdict::Drain(cordon.actor.clone()))
}

/// Why somebody who wants to thaw this runner can't: it would be frozen again at once.
pub fn refuse_thaw(
    runner: &Runner,
    holds: &[Hold],
    budgets: &[BudgetState],
    now: Timestamp,
) -> Result<(), Error> {
    let id = runner.id;
    match wish(runner, holds, budgets, now) {
        Wish::Run => Ok(()),
        Wish::Held(hold) => Err(Error::new(
            ErrorKind::Held,
            format!(
                "Runner {id} is held ({}) {}. It goes on by itself then; to end the hold now: stratavorectl hold release {}.",
                hold.scope,
                hold.term(),
                hold.scope.flag()
            ),
        )),
        Wish::Frozen(state) | Wish::Stopped(state) => Err(Error::new(
            ErrorKind::BudgetExceeded,
            format!(
                "Runner {id} stands still because of {}: {} of {} tokens are used. It goes on by itself when there is room; to make some: stratavorectl budget set --scope {} --period {} --limit N.",
                state.budget,
                state.used,
                state.budget.limit,
                state.budget.scope,
                state.budget.period.as_str()
            ),
        )),
    }
}

/// When, after this moment, the verdicts may change by themselves: a hold ends, a period begins.
pub fn next_change(holds: &[Hold], budgets: &[BudgetState], now: Timestamp) -> Option<Timestamp> {
    let ends = holds.iter().filter_map(|h| h.until).filter(|t| *t > now);
    let acting = budgets
        .iter()
        .filter(|b| b.budget.on_exhausted != OnExhausted::Deny);
    let periods = acting.filter_map(|b| b.budget.span(now).ok().map(|span| span.end));
    let periods = periods.filter(|end| end.0 != u64::MAX);
    ends.chain(periods).min()
}

/// Whether there is anything in it that could freeze or stop a runner.
pub fn is_idle(holds: &[Hold], budgets: &[BudgetState]) -> bool {
    !holds.iter().any(|h| h.freeze)
        && !budgets
            .iter()
            .any(|b| b.budget.on_exhausted != OnExhausted::Deny)
}

/// As it stands in [`Runner::frozen_by`].
fn name(budget: &budget::Budget) -> String {
    format!("budget {}/{}", budget.scope, budget.period.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::budget::{Budget, Counts, Scope, Tokens};
    use super::super::hold::HoldScope;
    use super::super::period::Period;
    use super::super::runner::Step;
    use super::super::{Limits, RunnerId, RunnerSpec};
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_767_225_600_000_000);

    fn runner() -> Runner {
        let spec = RunnerSpec {
            project: "p".parse().unwrap(),
            command: vec!["true".to_owned()],
            name: None,
            uid: 1000,
            user: "alice".to_owned(),
            working_directory: None,
            labels: [("cred".to_owned(), "a".to_owned())].into(),
            limits: Limits::default(),
            log_file_max: None,
            priority: 0,
            tokens: Some(10),
            session: Some("s".to_owned()),
            placed: None,
        };
        let id = RunnerId::from_uuid(uuid::Uuid::nil());
        let mut runner = Runner::admitted(id, spec, "h".to_owned(), Timestamp(1));
        runner.reserved = 10;
        runner
            .apply(&Step::Run(Default::default()), Timestamp(2))
            .unwrap();
        runner
    }

    fn hold(scope: &str, freeze: bool, until: Option<u64>) -> Hold {
        Hold {
            scope: scope.parse().unwrap(),
            until: until.map(|t| Timestamp(NOW.0 + t)),
            freeze,
            reason: String::new(),
            actor: Actor::host(),
            set_at: NOW,
        }
    }

    fn budget(scope: &str, on_exhausted: OnExhausted, limit: u64, used: u64) -> BudgetState {
        let budget = Budget {
            scope: scope.parse::<Scope>().unwrap(),
            period: Period::Day,
            limit,
            timezone: "UTC".to_owned(),
            on_exhausted,
            counts: Counts::default(),
            created_at: NOW,
        };
        let mut state = BudgetState::new(budget, 0, NOW).unwrap();
        state.used = used;
        state
    }

    fn any_hold() -> impl Strategy<Value = Hold> {
        let scope = prop_oneof![
            Just("fleet"),
            Just("project:p"),
            Just("project:q"),
            Just("label:cred=a"),
            Just("label:cred=b")
        ];
        (scope, any::<bool>(), proptest::option::of(0u64..20))
            .prop_map(|(scope, freeze, until)| hold(scope, freeze, until))
    }

    fn any_budget() -> impl Strategy<Value = BudgetState> {
        let scope = prop_oneof![Just("fleet"), Just("project:p"), Just("session:t")];
        let policy = prop_oneof![
            Just(OnExhausted::Deny),
            Just(OnExhausted::Freeze),
            Just(OnExhausted::Stop)
        ];
        (scope, policy, 0u64..20, 0u64..20)
            .prop_map(|(scope, policy, limit, used)| budget(scope, policy, limit, used))
    }

    /// What a lane does with a verdict.
    fn obey(runner: &mut Runner, verdict: &Verdict) {
        let step = match verdict {
            Verdict::GoOn => return,
            Verdict::Freeze(by) => Step::Freeze(Some(by.clone())),
            Verdict::Keep(by) => Step::Keep(Some(by.clone())),
            Verdict::Thaw => Step::Thaw,
            Verdict::Stop(_) | Verdict::Drain(_) => Step::Stop,
        };
        runner.apply(&step, NOW).unwrap();
    }

    #[test]
    fn a_drained_host_stops_what_runs_when_the_time_has_come() {
        let drainer = Actor {
            uid: Some(0),
            user: Some("root".to_owned()),
            host: None,
            unit: None,
        };
        let cordon = |drain_until| Cordon {
            reason: String::new(),
            actor: drainer.clone(),
            at: NOW,
            drain_until,
        };
        let mut runner = runner();
        let at = |runner: &Runner, cordon: Option<Cordon>| drained(runner, cordon.as_ref(), NOW);
        assert_eq!(at(&runner, None), None);
        assert_eq!(at(&runner, Some(cordon(None))), None);
        assert_eq!(at(&runner, Some(cordon(Some(Timestamp(NOW.0 + 1))))), None);
        let now = Some(cordon(Some(NOW)));
        assert_eq!(
            at(&runner, now.clone()),
            Some(Verdict::Drain(drainer.clone()))
        );
        runner.apply(&Step::Freeze(None), NOW).unwrap();
        assert_eq!(
            at(&runner, now.clone()),
            Some(Verdict::Drain(drainer.clone()))
        );
        runner.apply(&Step::Stop, NOW).unwrap();
        assert_eq!(at(&runner, now), None, "once is enough");
    }

    proptest! {
        #[test]
        fn nobodys_own_freeze_is_undone(
            rounds in proptest::collection::vec(
                (proptest::collection::vec(any_hold(), 0..3), proptest::collection::vec(any_budget(), 0..3), 0u64..20),
                1..6
            ),
            first in 0usize..6,
        ) {
            let mut runner = runner();
            let mut own = false;
            for (round, (holds, budgets, later)) in rounds.iter().enumerate() {
                if round == first {
                    let step = match runner.state() {
                        State::Running => Some(Step::Freeze(None)),
                        State::Frozen => Some(Step::Keep(None)),
                        _ => None,
                    };
                    own = step.is_some_and(|step| runner.apply(&step, NOW).is_ok());
                }
                let verdict = verdict(&runner, holds, budgets, Timestamp(NOW.0 + later));
                if own {
                    prop_assert!(matches!(verdict, Verdict::GoOn | Verdict::Stop(_)), "{verdict:?}");
                }
                obey(&mut runner, &verdict);
            }
        }

        #[test]
        fn all_continue_when_nothing_holds_them(
            holds in proptest::collection::vec(any_hold(), 0..3),
            budgets in proptest::collection::vec(any_budget(), 0..3),
            used in 0u64..20,
        ) {
            let mut runner = runner();
            runner.tokens = Tokens { output: used, ..Tokens::default() };
            let first = verdict(&runner, &holds, &budgets, NOW);
            obey(&mut runner, &first);
            // All holds are over, and a top-up has made room.
            let topped: Vec<BudgetState> = budgets.into_iter().map(|mut b| { b.budget.limit = 1_000; b }).collect();
            let after = Timestamp(NOW.0 + 30);
            let holds: Vec<Hold> = holds.into_iter().filter(|h| h.until.is_some()).collect();
            let second = verdict(&runner, &holds, &topped, after);
            obey(&mut runner, &second);
            prop_assert!(matches!(runner.state(), State::Running | State::Stopping));
            prop_assert_eq!(&runner.frozen_by, &None);
        }

        #[test]
        fn a_verdict_that_was_obeyed_stands(
            holds in proptest::collection::vec(any_hold(), 0..3),
            budgets in proptest::collection::vec(any_budget(), 0..3),
            later in 0u64..20,
        ) {
            let at = Timestamp(NOW.0 + later);
            let mut runner = runner();
            let first = verdict(&runner, &holds, &budgets, at);
            obey(&mut runner, &first);
            prop_assert_eq!(verdict(&runner, &holds, &budgets, at), Verdict::GoOn);
            // Who stands still by a policy can't be thawed by hand, and who runs could be.
            let refused = refuse_thaw(&runner, &holds, &budgets, at).is_err();
            prop_assert_eq!(refused, runner.state() != State::Running);
            // Until the next change nothing changes.
            if let Some(next) = next_change(&holds, &budgets, at) {
                let before = Timestamp(next.0 - 1);
                prop_assert!(next > at);
                prop_assert_eq!(verdict(&runner, &holds, &budgets, before), Verdict::GoOn);
            }
        }
    }

    #[test]
    fn who_is_frozen_by_another_hold_now_is_said_so() {
        let mut runner = runner();
        let both = [hold("fleet", true, Some(5)), hold("project:p", true, None)];
        let spent = [budget("project:p", OnExhausted::Freeze, 5, 5)];
        let at = |later: u64| Timestamp(NOW.0 + later);
        let first = verdict(&runner, &both, &spent, NOW);
        obey(&mut runner, &first);
        assert_eq!(runner.frozen_by.as_deref(), Some("hold fleet"));
        let next = verdict(&runner, &both, &spent, at(5));
        assert_eq!(next, Verdict::Keep("hold project:p".to_owned()));
        obey(&mut runner, &next);
        assert_eq!(runner.state(), State::Frozen);
        let last = verdict(&runner, &[], &spent, at(6));
        assert_eq!(last, Verdict::Keep("budget project:p/day".to_owned()));
        obey(&mut runner, &last);
        assert_eq!(verdict(&runner, &[], &spent, at(7)), Verdict::GoOn);
        assert_eq!(verdict(&runner, &[], &[], at(7)), Verdict::Thaw);
    }

    #[test]
    fn a_stop_goes_before_a_freeze_and_names_its_budget() {
        let holds = [hold("fleet", true, None)];
        let budgets = [
            budget("fleet", OnExhausted::Freeze, 5, 5),
            budget("project:p", OnExhausted::Stop, 5, 6),
        ];
        let stopped = Verdict::Stop("budget project:p/day".to_owned());
        assert_eq!(verdict(&runner(), &holds, &budgets, NOW), stopped);
        let frozen = Verdict::Freeze("hold fleet".to_owned());
        assert_eq!(verdict(&runner(), &holds, &[], NOW), frozen);
        let said = refuse_thaw(&runner(), &holds, &[], NOW).unwrap_err();
        assert_eq!(said.kind, ErrorKind::Held);
        assert!(
            said.message.contains("hold release --fleet"),
            "{}",
            said.message
        );
        let scope: HoldScope = "label:cred=a".parse().unwrap();
        assert_eq!(scope.flag(), "--label cred=a");
    }
}
