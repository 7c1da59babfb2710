//! Budgets, and what runners report.

use super::*;
use crate::domain::budget::{Budget, BudgetState, Counts, OnExhausted, Scope, Tokens};
use crate::domain::event::EventType;
use crate::domain::period::Period;
use std::sync::Arc;

pub(super) fn budget(scope: &str, period: Period, limit: u64) -> Budget {
    Budget {
        scope: scope.parse().unwrap(),
        period,
        limit,
        timezone: "Europe/Berlin".to_owned(),
        on_exhausted: OnExhausted::Freeze,
        counts: Counts::default(),
        created_at: at(3),
    }
}

pub(super) fn tokens(input: u64, output: u64) -> Tokens {
    Tokens {
        input,
        output,
        ..Tokens::default()
    }
}

async fn set(store: &impl Store, budget: Budget) -> BudgetState {
    store.set_budget(budget, alice()).await.unwrap().0
}

/// Scope, used, reserved of all budgets.
async fn standing(store: &impl Store) -> Vec<(String, u64, u64)> {
    let all = store.budgets().await.unwrap();
    let of = |b: &BudgetState| (b.budget.scope.to_string(), b.used, b.reserved);
    all.iter().map(of).collect()
}

async fn counter(store: &impl Store) -> u64 {
    store.pulse("h1").await.unwrap().policy
}

async fn runs(store: &impl Store, n: u64, project_name: &str) {
    admit(store, launch(n, project_name)).await;
    apply(store, step(n, Step::Run(placement()), n * 1_000 + 1)).await;
}

pub(crate) async fn set_change_remove(store: Arc<impl Store + 'static>) {
    // Before there is a budget: from then on a launch has to say how many tokens it may use.
    project_with(&*store, "p").await;
    runs(&*store, 1, "p").await;
    let before = counter(&*store).await;
    let made = set(&*store, budget("fleet", Period::None, 100)).await;
    assert_eq!((made.used, made.reserved, made.told), (0, 0, 0));
    let mut other = budget("project:p", Period::Day, 7);
    other.counts.cache_read = false;
    set(&*store, other.clone()).await;
    set(&*store, budget("project:p", Period::Hour, 3)).await;
    assert!(counter(&*store).await >= before + 3);
    let all = store.budgets().await.unwrap();
    let names: Vec<_> = all
        .iter()
        .map(|b| (b.budget.scope.to_string(), b.budget.period))
        .collect();
    let project = || "project:p".to_owned();
    let expected = [
        ("fleet".to_owned(), Period::None),
        (project(), Period::Day),
        (project(), Period::Hour),
    ];
    assert_eq!(names, expected);
    assert_eq!(all[1].budget, other);
    assert_eq!(store.policy("h1").await.unwrap().budgets.len(), 3);
    // A change keeps what was used, and when it was made.
    store.report(id(1), tokens(4, 6), at(9_000)).await.unwrap();
    let mut more = budget("fleet", Period::None, 200);
    more.created_at = at(99);
    more.on_exhausted = OnExhausted::Stop;
    let changed = set(&*store, more).await;
    assert_eq!((changed.used, changed.budget.limit), (10, 200));
    assert_eq!(changed.budget.created_at, at(3));
    let scope: Scope = "project:p".parse().unwrap();
    store
        .remove_budget(scope.clone(), Period::Day, alice())
        .await
        .unwrap();
    let again = store.remove_budget(scope, Period::Day, alice()).await;
    let said = refused(again, ErrorKind::NoSuchBudget);
    assert!(said.contains("budget list"), "{said}");
    assert_eq!(store.budgets().await.unwrap().len(), 2);
    let mut wrong = budget("fleet", Period::Day, 1);
    wrong.timezone = "Mars/Olympus".to_owned();
    refused(
        store.set_budget(wrong, alice()).await,
        ErrorKind::InvalidArgument,
    );
}

async fn project_with(store: &impl Store, name: &str) {
    project(store, name, ProjectSettings::default()).await;
}

pub(crate) async fn reports_are_totals(store: Arc<impl Store + 'static>) {
    for name in ["p", "q"] {
        project_with(&*store, name).await;
    }
    // No budget asks for tokens yet.
    runs(&*store, 1, "p").await;
    runs(&*store, 2, "q").await;
    set(&*store, budget("fleet", Period::Month, 1_000)).await;
    let mut input = budget("project:p", Period::Week, 1_000);
    input.counts = "input".parse().unwrap();
    set(&*store, input).await;
    let used = |fleet: u64, p: u64| {
        vec![
            ("fleet".to_owned(), fleet, 0),
            ("project:p".to_owned(), p, 0),
        ]
    };
    let first = store.report(id(1), tokens(10, 5), at(1)).await.unwrap();
    assert_eq!(first.before, Tokens::default());
    assert_eq!(first.runner.tokens, tokens(10, 5));
    assert_eq!(standing(&*store).await, used(15, 10));
    // Again, late, and without some of the counters: nothing is counted twice, nothing taken back.
    for again in [tokens(10, 5), tokens(3, 0), Tokens::default()] {
        let same = store.report(id(1), again, at(2)).await.unwrap();
        assert_eq!(same.runner.tokens, tokens(10, 5));
    }
    store.report(id(2), tokens(100, 0), at(3)).await.unwrap();
    assert_eq!(standing(&*store).await, used(115, 10));
    // After its ending, too.
    apply(&*store, step(1, end(), 50_000)).await;
    let late = store.report(id(1), tokens(20, 5), at(4)).await.unwrap();
    assert_eq!(late.runner.state(), crate::domain::State::Ended);
    assert_eq!(standing(&*store).await, used(125, 20));
    // None of them had reserved anything.
    let overrun: Vec<u64> = store
        .budgets()
        .await
        .unwrap()
        .iter()
        .map(|b| b.overrun)
        .collect();
    assert_eq!(overrun, [125, 20]);
    assert_eq!(
        store.runner(id(1)).await.unwrap().unwrap().tokens,
        tokens(20, 5)
    );
    let unknown = store.report(id(7), tokens(1, 1), at(5)).await;
    refused(unknown, ErrorKind::NoSuchRunner);
    let huge = store.report(id(2), tokens(u64::MAX, 0), at(6)).await;
    refused(huge, ErrorKind::InvalidArgument);
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn thresholds_are_told_once(store: Arc<impl Store + 'static>) {
    project_with(&*store, "p").await;
    runs(&*store, 1, "p").await;
    set(&*store, budget("project:p", Period::None, 100)).await;
    let before = counter(&*store).await;
    let told = async |used: u64| {
        let reported = store.report(id(1), tokens(0, used), at(1)).await.unwrap();
        let of = |e: &Event| (e.draft.kind, e.draft.data["percent"].as_u64());
        reported.events.iter().map(of).collect::<Vec<_>>()
    };
    let threshold = |percent| (EventType::BudgetThreshold, Some(percent));
    assert_eq!(told(49).await, []);
    assert_eq!(counter(&*store).await, before);
    assert_eq!(told(85).await, [threshold(50), threshold(80)]);
    assert_eq!(told(99).await, []);
    assert_eq!(told(100).await, [threshold(100)]);
    assert!(counter(&*store).await > before);
    assert_eq!(told(101).await, [(EventType::BudgetExceeded, None)]);
    // A higher limit begins anew.
    set(&*store, budget("project:p", Period::None, 200)).await;
    assert_eq!(told(160).await, [threshold(80)]);
    let (_, lowered) = store
        .set_budget(budget("project:p", Period::None, 150), alice())
        .await
        .unwrap();
    let kinds: Vec<_> = lowered.iter().map(|e| e.draft.kind).collect();
    assert_eq!(
        kinds,
        [EventType::BudgetThreshold, EventType::BudgetExceeded]
    );
    assert_eq!(lowered[0].draft.subject, "budget/project:p/none");
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn racing_reports(store: Arc<impl Store + 'static>) {
    project_with(&*store, "p").await;
    let runners: Vec<u64> = (1..=8).collect();
    for n in &runners {
        runs(&*store, *n, "p").await;
    }
    set(&*store, budget("fleet", Period::None, 1_000_000)).await;
    set(&*store, budget("project:p", Period::None, 1_000_000)).await;
    let all = (0..160u64).map(|n| {
        let store = Arc::clone(&store);
        async move {
            store
                .report(id(n % 8 + 1), tokens(n / 8 + 1, 0), at(n))
                .await
        }
    });
    for reported in futures_util::future::join_all(all).await {
        reported.unwrap();
    }
    let expected = ["fleet", "project:p"].map(|scope| (scope.to_owned(), 8 * 20, 0));
    assert_eq!(standing(&*store).await, expected);
}

/// Who was frozen at the others' cost goes on when one of them has ended, on whatever host.
pub(crate) async fn an_ending_that_makes_room_is_told(store: Arc<impl Store + 'static>) {
    project_with(&*store, "p").await;
    set(&*store, budget("project:p", Period::None, 1_000)).await;
    for n in [1, 2] {
        let mut new = launch(n, "p");
        new.spec.tokens = Some(500);
        admit(&*store, new).await;
        apply(&*store, step(n, Step::Run(placement()), n * 1_000 + 1)).await;
    }
    store.report(id(2), tokens(700, 0), at(1)).await.unwrap();
    let before = counter(&*store).await;
    apply(&*store, step(1, end(), 9_000)).await;
    assert_eq!(standing(&*store).await, [("project:p".to_owned(), 700, 0)]);
    assert!(counter(&*store).await > before);
}

pub(crate) async fn who_waits_uses_nothing(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(1)).await;
    set(&*store, budget("project:p", Period::None, 1_000)).await;
    for n in [1, 2] {
        let mut new = super::queue::patient(n, "p");
        new.spec.tokens = Some(300);
        store.admit(new).await.unwrap();
    }
    refused(
        store.report(id(2), tokens(100, 0), at(1)).await,
        ErrorKind::WrongState,
    );
    assert_eq!(standing(&*store).await, [("project:p".to_owned(), 0, 300)]);
    apply(&*store, step(1, end(), 9_000)).await;
    assert_eq!(store.turns("h1", None).await.unwrap().len(), 1);
    apply(&*store, step(2, end(), 9_001)).await;
    assert_eq!(standing(&*store).await, [("project:p".to_owned(), 0, 0)]);
}

pub(crate) async fn what_never_fits_holds_up_nobody(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(1)).await;
    set(&*store, budget("project:p", Period::None, 1_000)).await;
    for (n, wanted) in [(1, 10), (2, 900), (3, 20)] {
        let mut new = super::queue::patient(n, "p");
        new.spec.tokens = Some(wanted);
        store.admit(new).await.unwrap();
    }
    set(&*store, budget("project:p", Period::None, 500)).await;
    apply(&*store, step(1, end(), 9_000)).await;
    let started = store.turns("h1", None).await.unwrap();
    assert!(
        matches!(&started[..], [Admitted::New { runner, .. }] if runner.id == id(3)),
        "{started:?}"
    );
}
