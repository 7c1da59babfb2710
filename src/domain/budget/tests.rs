//! Tests of budgets: the words and the arithmetic.

use super::super::name::ProjectName;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

pub(super) const DAY: u64 = 86_400_000_000;

pub(super) fn name(text: &str) -> ProjectName {
    #[allow(clippy::unwrap_used)]
    text.parse().unwrap()
}

pub(super) fn budget(scope: Scope, period: Period, limit: u64) -> Budget {
    Budget {
        scope,
        period,
        limit,
        timezone: "Europe/Berlin".to_owned(),
        on_exhausted: OnExhausted::Freeze,
        counts: Counts::default(),
        created_at: Timestamp(0),
    }
}

fn output(output: u64) -> Tokens {
    Tokens {
        output,
        ..Tokens::default()
    }
}

pub(super) fn live(tokens: u64, counters: Tokens) -> Holding {
    Holding {
        tokens,
        counters,
        live: true,
    }
}

#[test]
fn words_read_back() {
    for text in ["fleet", "project:acme", "session:8f14e45f-ceea"] {
        let scope: Result<Scope, Error> = text.parse();
        assert_eq!(scope.map(|s| s.to_string()), Ok(text.to_owned()));
    }
    let long = format!("session:{}", "x".repeat(64));
    for text in [
        "",
        "Fleet",
        "fleet:",
        "project",
        "project:",
        "project:A",
        "session:-",
        "host:h",
        &long,
    ] {
        assert!(text.parse::<Scope>().is_err(), "{text}");
    }
    for policy in OnExhausted::ALL {
        assert_eq!(policy.as_str().parse(), Ok(policy));
    }
    let counts: Result<Counts, Error> = "output,input".parse();
    assert_eq!(counts.map(|c| c.to_string()), Ok("input,output".to_owned()));
    assert!("input,,output".parse::<Counts>().is_err());
    assert_eq!(
        Counts::default().to_string(),
        "input,output,cache-read,cache-write"
    );
}

#[test]
fn what_a_budget_may_be() {
    let good = budget(Scope::Fleet, Period::Day, LIMIT_MAX);
    assert_eq!(good.check(), Ok(()));
    let none = Counts {
        input: false,
        output: false,
        cache_read: false,
        cache_write: false,
    };
    for bad in [
        Budget {
            limit: LIMIT_MAX + 1,
            ..good.clone()
        },
        Budget {
            timezone: "Mars/Olympus".to_owned(),
            ..good.clone()
        },
        Budget {
            counts: none,
            ..good.clone()
        },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
    assert!(check_tokens(0).is_err() && check_tokens(TOKENS_MAX + 1).is_err());
    assert!(check_tokens(1).is_ok() && check_tokens(TOKENS_MAX).is_ok());
    assert!(output(TOKENS_MAX).check().is_ok() && output(TOKENS_MAX + 1).check().is_err());
    assert_eq!(good.to_string(), "the daily budget of fleet");
}

#[test]
fn what_an_older_release_stored_is_read() -> Result<(), serde_json::Error> {
    let stored = r#"{"scope":"project:p","period":"week","limit":5,"timezone":"UTC","created_at":7,
        "counts":{"cache_read":false},"of_a_later_release":1}"#;
    let read: Budget = serde_json::from_str(stored)?;
    assert_eq!(read.scope, Scope::Project(name("p")));
    assert_eq!(
        read.counts,
        Counts {
            cache_read: false,
            ..Counts::default()
        }
    );
    assert_eq!(read.on_exhausted, OnExhausted::Deny);
    Ok(())
}

#[test]
fn thresholds_are_told_once() {
    use Crossing::{Exceeded, Threshold};
    assert_eq!(crossed(1000, 499, 0), (vec![], 0));
    assert_eq!(crossed(1000, 500, 0), (vec![Threshold(50)], 0b1));
    assert_eq!(crossed(1000, 799, 0b1), (vec![], 0b1));
    // A big step tells all it passed.
    assert_eq!(
        crossed(1000, 1000, 0b1),
        (vec![Threshold(80), Threshold(100)], 0b111)
    );
    assert_eq!(crossed(1000, 1001, 0b111), (vec![Exceeded], 0b1111));
    // A top-up that leaves 50 % behind, and back.
    assert_eq!(crossed(1500, 1001, 0b1111), (vec![], 0b1));
    assert_eq!(crossed(1500, 1200, 0b1), (vec![Threshold(80)], 0b11));
    // A lowered limit is told at once.
    assert_eq!(crossed(1200, 1200, 0b11), (vec![Threshold(100)], 0b111));
    assert_eq!(crossed(0, 0, 0), (vec![], 0));
    assert_eq!(crossed(0, 1, 0).0.len(), 4);
    assert_eq!(crossed(u64::MAX, u64::MAX, 0).1, 0b111);
}

#[test]
fn a_new_period_has_nothing_used() -> Result<(), Error> {
    let monday = Timestamp(1_795_993_200_000_000); // 2026-11-30 00:00 in Berlin, an hour after UTC's day
    let mut state = BudgetState::new(budget(Scope::Fleet, Period::Day, 100), 0, monday)?;
    assert_eq!(state.period_start, monday);
    state.settle(&Holding::default(), &live(80, Tokens::default()));
    state.settle(&live(80, Tokens::default()), &live(80, output(60)));
    assert_eq!(
        (state.used, state.reserved, state.tell().len()),
        (60, 20, 1)
    );
    let same = state.clone().roll(monday.plus_usec(DAY - 1))?;
    assert_eq!(same, state);
    let next = state.clone().roll(monday.plus_usec(DAY))?;
    assert_eq!((next.used, next.reserved, next.told), (0, 20, 0));
    // A clock that goes back brings nothing back, and many periods at once are one step.
    assert_eq!(next.clone().roll(monday)?, next);
    assert_eq!(
        next.roll(monday.plus_usec(30 * DAY))?.period_start,
        monday.plus_usec(30 * DAY)
    );
    // A clock that was once a year ahead does not keep the budget from ever beginning anew.
    let mut wrong = state.clone().roll(monday.plus_usec(365 * DAY))?;
    wrong.settle(&Holding::default(), &live(0, output(7)));
    let right = wrong.roll(monday.plus_usec(1))?;
    assert_eq!((right.period_start, right.used), (monday, 7));
    assert_eq!(right.roll(monday.plus_usec(DAY))?.used, 0);
    // Hosts that disagree about when the day begins empty it once a day.
    let mut early = state.clone();
    early.period_start = Timestamp(monday.0 - 3_600_000_000);
    assert_eq!(early.clone().roll(monday)?, early);
    assert_eq!(early.roll(monday.plus_usec(DAY))?.used, 0);
    // Another time zone gives nobody a new period's tokens.
    let utc = Budget {
        timezone: "UTC".to_owned(),
        ..state.budget.clone()
    };
    let moved = state.clone().change(utc, 20, monday.plus_usec(1))?;
    assert_eq!((moved.used, moved.period_start < monday), (60, true));
    // A host without the zone must not guess.
    state.budget.timezone = "Mars/Olympus".to_owned();
    assert!(state.roll(monday).is_err());
    Ok(())
}

#[test]
fn who_is_acted_on() -> Result<(), Error> {
    let mut state = BudgetState::new(budget(Scope::Fleet, Period::None, 1000), 0, Timestamp(1))?;
    let (a, b) = (live(500, Tokens::default()), live(500, Tokens::default()));
    state.settle(&Holding::default(), &a);
    state.settle(&Holding::default(), &b);
    // A takes what was promised to B: A is acted on, B is not.
    let greedy = live(500, output(700));
    let step = state.settle(&a, &greedy);
    assert_eq!((step.used, step.overrun, state.taken()), (700, 200, 1200));
    assert!(state.acts_on(&greedy) && !state.acts_on(&b));
    assert_eq!(verdict(&greedy, [&state]), OnExhausted::Freeze);
    assert_eq!(verdict(&b, [&state]), OnExhausted::Deny);
    // All is used: both.
    state.settle(&b, &live(500, output(300)));
    assert!(state.exhausted() && state.acts_on(&live(500, output(300))));
    // A top-up lets both go on; the strictest of several budgets decides.
    let more = Budget {
        limit: 2000,
        ..state.budget.clone()
    };
    let topped = state.clone().change(more, state.reserved, Timestamp(2))?;
    assert_eq!(verdict(&greedy, [&topped]), OnExhausted::Deny);
    let mut strict = state.clone();
    strict.budget.on_exhausted = OnExhausted::Stop;
    assert_eq!(
        verdict(&greedy, [&state, &strict, &topped]),
        OnExhausted::Stop
    );
    // The ended are left in peace.
    assert!(!state.acts_on(&Holding {
        live: false,
        ..greedy
    }));
    Ok(())
}

proptest! {
    #[test]
    fn reports_may_come_twice_and_in_any_order(reports in vec(any::<[u64; 4]>(), 1..8), order in vec(any::<usize>(), 0..20)) {
        let of = |r: &[u64; 4]| Tokens { input: r[0], output: r[1], cache_read: r[2], cache_write: r[3] };
        let all = reports.iter().fold(Tokens::default(), |t, r| t.advance(of(r)));
        let some = order.iter().fold(Tokens::default(), |t, i| t.advance(of(&reports[i % reports.len()])));
        prop_assert_eq!(reports.iter().rev().fold(some, |t, r| t.advance(of(r))), all);
        prop_assert!(all.counted(&Counts::default()) <= 4 * TOKENS_MAX);
    }

    /// A runner that stays within its reservation never changes what is taken until it ends.
    #[test]
    fn use_within_a_reservation_takes_nothing_more(tokens in 1u64..1000, used in vec(0u64..1000, 1..10)) {
        let mut state = BudgetState::new(budget(Scope::Fleet, Period::None, tokens), 0, Timestamp(0))
            .map_err(|e| TestCaseError::fail(e.message))?;
        let mut runner = live(tokens, Tokens::default());
        state.settle(&Holding::default(), &runner);
        for n in used {
            let after = Holding { counters: runner.counters.advance(output(n.min(tokens))), ..runner };
            prop_assert_eq!(state.settle(&runner, &after).overrun, 0);
            prop_assert_eq!(state.taken(), tokens);
            prop_assert!(!state.acts_on(&after) || state.exhausted());
            runner = after;
        }
        state.settle(&runner, &Holding { live: false, ..runner });
        prop_assert_eq!((state.reserved, state.used), (0, runner.counters.output));
    }

    #[test]
    fn parsers_never_panic(text in "\\PC{0,80}|(project|session|fleet):?[a-zA-Z.-]{0,70}|[a-z,-]{0,40}") {
        if let Ok(scope) = text.parse::<Scope>() {
            prop_assert_eq!(scope.to_string(), text.clone());
        }
        if let Ok(counts) = text.parse::<Counts>() {
            prop_assert_eq!(counts.to_string().parse::<Counts>(), Ok(counts));
        }
        let _ = (text.parse::<OnExhausted>(), text.parse::<Period>(), period::zone(&text));
    }
}
