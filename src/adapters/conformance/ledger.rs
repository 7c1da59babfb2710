//! Everything that decides, under many callers at once: nothing is ever passed.

use super::queue::{denied, patient};
use super::*;
use crate::domain::budget::{Budget, Counts, OnExhausted, Tokens};
use crate::domain::period::Period;
use crate::domain::policy::holding;
use std::sync::Arc;

/// All that decides at once, from every code path, and none of it is ever passed.
pub(crate) async fn a_storm_of_everything(store: Arc<impl Store + 'static>) {
    everything_by_two([store.clone(), store]).await;
}

/// The same by two daemons, each with a project of its own; what they share are hosts and sessions.
pub(crate) async fn everything_by_two(stores: [Arc<impl Store + 'static>; 2]) {
    let store = stores[0].clone();
    project(&*store, "p", capped(60)).await;
    project(&*store, "q", capped(40)).await;
    let callers: Vec<_> = (0..32u64)
        .map(|caller| {
            let by = (caller % 2) as usize;
            let (store, project) = (stores[by].clone(), ["p", "q"][by]);
            tokio::spawn(async move {
                for n in 0..8 {
                    let n = caller * 8 + n;
                    let mut new = launch(n, project);
                    new.queue = n % 3 == 0;
                    new.host = format!("h{}", n % 2 + 1);
                    new.host_max = Some(70);
                    if n % 5 == 0 {
                        new.spec.session = Some(format!("s{}", n % 4));
                    }
                    let host = new.host.clone();
                    let admitted = store.admit(new).await;
                    match admitted {
                        Ok(Admitted::New { runner, .. }) if n % 7 == 0 => {
                            let change = Change {
                                id: runner.id,
                                step: end(),
                                actor: alice(),
                                at: at(n),
                            };
                            store.apply(change).await.unwrap();
                            store.turns(&host, Some(70)).await.unwrap();
                        }
                        Ok(_) => {}
                        // Two projects may want the same session.
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    for host in ["h1", "h2"] {
        store.turns(host, Some(70)).await.unwrap();
    }
    let all = store
        .runners(RunnerFilter {
            limit: 1_000,
            ..RunnerFilter::default()
        })
        .await
        .unwrap();
    for (project, max) in [("p", 60), ("q", 40)] {
        let row = store.project(&name(project)).await.unwrap().unwrap();
        let live = all
            .iter()
            .filter(|r| r.spec.project == name(project))
            .count();
        assert_eq!(row.live as usize, live);
        assert!(row.live <= max, "{project}: {live}");
    }
    for host in ["h1", "h2"] {
        assert!(all.iter().filter(|r| r.host == host).count() <= 70);
    }
    let mut sessions: Vec<_> = all.iter().filter_map(|r| r.spec.session.clone()).collect();
    let count = sessions.len();
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), count, "one live runner each");
    assert_contiguous(&events(&*store).await);
}

fn budget(scope: &str, limit: u64) -> Budget {
    Budget {
        scope: scope.parse().unwrap(),
        period: Period::None,
        limit,
        timezone: "UTC".to_owned(),
        on_exhausted: OnExhausted::Deny,
        counts: Counts::default(),
        created_at: at(0),
    }
}

/// No budget is ever promised past its limit, and what is promised is what live runners hold.
pub(crate) async fn budgets_hold_in_a_storm(store: Arc<impl Store + 'static>) {
    budgets_by_two([store.clone(), store]).await;
}

/// The same by two daemons, each with a project and a host of its own; what they share is the fleet's budget.
pub(crate) async fn budgets_by_two(stores: [Arc<impl Store + 'static>; 2]) {
    let store = stores[0].clone();
    project(&*store, "p", ProjectSettings::default()).await;
    let defaults = ProjectSettings {
        default_tokens: Some(30),
        ..ProjectSettings::default()
    };
    project(&*store, "q", defaults).await;
    store
        .set_budget(budget("fleet", 1_000), alice())
        .await
        .unwrap();
    store
        .set_budget(budget("project:p", 400), alice())
        .await
        .unwrap();
    // Where a budget pays, a launch says how much it takes, and waiting does not help.
    assert_eq!(
        denied(&*store, patient(900, "p")).await,
        ("budget", ErrorKind::BudgetExceeded)
    );
    let callers: Vec<_> = (0..32u64)
        .map(|caller| {
            let by = (caller % 2) as usize;
            let store = stores[by].clone();
            tokio::spawn(async move {
                for n in 0..6 {
                    let n = caller * 6 + n;
                    let mut new = launch(n, ["p", "q"][by]);
                    new.queue = n % 3 == 0;
                    new.host = format!("h{}", by + 1);
                    if by == 0 {
                        new.spec.tokens = Some(10 + n % 30);
                    }
                    let host = new.host.clone();
                    let Ok(Admitted::New { runner, .. }) = store.admit(new).await else {
                        continue;
                    };
                    if n % 4 == 0 {
                        let tokens = Tokens {
                            output: 7,
                            ..Tokens::default()
                        };
                        store.report(runner.id, tokens, at(n)).await.unwrap();
                    }
                    if n % 5 == 0 {
                        let change = Change {
                            id: runner.id,
                            step: end(),
                            actor: alice(),
                            at: at(n),
                        };
                        store.apply(change.clone()).await.unwrap();
                        let _ = store.apply(change).await;
                        store.turns(&host, None).await.unwrap();
                    }
                    for state in store.budgets().await.unwrap() {
                        assert!(state.taken() <= state.budget.limit, "{state:?}");
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let live = RunnerFilter {
        limit: 1_000,
        ..RunnerFilter::default()
    };
    let live = store.runners(live).await.unwrap();
    for state in store.budgets().await.unwrap() {
        let scope = &state.budget.scope;
        let paid = live.iter().filter(|r| scope.matches(&r.spec.project, None));
        let held: u64 = paid.map(|r| holding(r).held(&state.budget.counts)).sum();
        assert_eq!(state.reserved, held, "{scope}");
        assert!(state.reserved > 0);
    }
    for runner in &live {
        let change = Change {
            id: runner.id,
            step: end(),
            actor: alice(),
            at: at(9_000),
        };
        store.apply(change).await.unwrap();
    }
    assert!(
        store
            .budgets()
            .await
            .unwrap()
            .iter()
            .all(|b| b.reserved == 0)
    );
}
