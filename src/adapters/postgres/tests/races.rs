//! Two daemons that have no project and no host in common race for what is everybody's: the fleet's
//! cap and budget, a session, turns. No lock of a project or a host puts them in a row here.

use super::conformance::{self, alice, capped, end, events, launch, live, project, step};
use super::storm::{two, two_with};
use super::*;
use crate::domain::event::{Event, EventType};
use crate::domain::runner::Change;
use crate::ports::{Admitted, Hosts, NewRunner, Queue};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ISOLATIONS: [&str; 3] = ["read committed", "repeatable read", "serializable"];
/// Caps of the fleet, one after the other; while they are in force there are always more who want to.
const CAPS: [Option<u32>; 9] = [
    Some(12),
    Some(20),
    Some(6),
    None,
    Some(9),
    Some(15),
    None,
    Some(4),
    Some(11),
];

/// The n-th launch of a daemon, in its own project, on its own host.
fn own(daemon: usize, n: u64) -> NewRunner {
    let mut new = launch(daemon as u64 * 100_000 + n, ["p", "q"][daemon]);
    new.host = format!("h{daemon}");
    new
}

/// A cap as events tell it: until the next one there are not more live runners than it says, or than there were.
#[derive(Debug)]
struct Span {
    cap: Option<u64>,
    live: u64,
}

impl Span {
    fn allows(&self, live: u64) -> bool {
        self.cap.is_none_or(|cap| live <= cap.max(self.live))
    }
}

/// Each change of the cap waits for all who write, so all events before it tell what was there.
fn spans(events: &[Event]) -> Vec<Span> {
    let mut spans = vec![Span { cap: None, live: 0 }];
    let mut live = 0;
    for event in events {
        match event.draft.kind {
            EventType::RunnerStarting => live += 1,
            EventType::RunnerEnded => live -= 1,
            EventType::FleetChanged => {
                let span = spans.last().unwrap();
                assert!(span.allows(live), "{live} live at the end of {span:?}");
                let cap = event.draft.data["max_runners"].as_u64();
                spans.push(Span { cap, live });
            }
            _ => {}
        }
    }
    assert!(spans.last().unwrap().allows(live), "{live}: {spans:?}");
    spans
}

/// How often the cap has changed and how many runners live, again and again.
async fn look(store: Arc<PostgresStore>, over: Arc<AtomicBool>) -> Vec<(usize, u64)> {
    let mut link = connect::connect(&store.base.options, &connect::Latest::default())
        .await
        .map(Link::Postgres)
        .unwrap();
    let set = "SET default_transaction_isolation = 'read committed'";
    link.say(set).await.unwrap();
    let mut seen = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let row = link
            .one(
                "SELECT (SELECT count(*) FROM events WHERE type LIKE '%fleet.changed'),
                        (SELECT count(*) FROM runners WHERE state NOT IN ('queued', 'ended'))",
                vec![],
            )
            .await
            .unwrap();
        seen.push((row.count(0).unwrap() as usize, row.count(1).unwrap()));
    }
    seen
}

/// Launches and ends what it has launched, some of it by turns, while `tries` counts.
async fn churn(
    store: Arc<PostgresStore>,
    daemon: usize,
    caller: u64,
    (tries, over): (Arc<AtomicU64>, Arc<AtomicBool>),
) {
    let mut live = Vec::new();
    for n in 0.. {
        let last = over.load(Ordering::Relaxed);
        if !last {
            let mut new = own(daemon, caller * 10_000 + n);
            new.queue = n % 16 == 0;
            if let Admitted::New { runner, .. } = store.admit(new).await.unwrap() {
                live.push(runner.id);
            }
            tries.fetch_add(1, Ordering::Relaxed);
        }
        // As soon as it has three, its first one ends: together they want far more than there are.
        while live.len() > 2 || (last && !live.is_empty()) {
            let change = Change {
                id: live.remove(0),
                ..step(0, end(), 9_000_000)
            };
            store.apply(change).await.unwrap();
            for turn in store.turns(&format!("h{daemon}"), None).await.unwrap() {
                if let Admitted::New { runner, .. } = turn {
                    live.push(runner.id);
                }
            }
        }
        if last {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cap_of_the_fleet_that_changes_meanwhile() {
    for isolation in ISOLATIONS {
        let stores = two_with(isolation).await;
        for project_of in ["p", "q"] {
            project(&*stores[0], project_of, ProjectSettings::default()).await;
        }
        let (tries, over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let looking = tokio::spawn(look(Arc::clone(&stores[0]), Arc::clone(&over)));
        let mut callers = Vec::new();
        for (n, cap) in CAPS.into_iter().enumerate() {
            let before = tries.load(Ordering::Relaxed);
            stores[n % 2].set_fleet_max(cap, alice()).await.unwrap();
            if callers.is_empty() {
                callers.extend((0..24).map(|caller: u64| {
                    let daemon = caller as usize % 2;
                    let shared = (Arc::clone(&tries), Arc::clone(&over));
                    tokio::spawn(churn(Arc::clone(&stores[daemon]), daemon, caller, shared))
                }));
            }
            while tries.load(Ordering::Relaxed) < before + 150 {
                assert!(
                    !callers.iter().any(|c| c.is_finished()),
                    "{isolation}: a caller has failed"
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.unwrap();
        }
        let seen = looking.await.unwrap();
        let spans = spans(&events(&*stores[1]).await);
        assert_eq!(spans.len(), CAPS.len() + 1);
        assert!(seen.len() > 20, "{seen:?}");
        for (span, live) in seen {
            let span = &spans[span];
            assert!(span.allows(live), "{isolation}: {live} live in {span:?}");
        }
    }
}

/// Nobody ends: what a cap leaves is taken to the last, and not more, by launches and then by turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_slots_of_the_fleet() {
    let stores = two().await;
    for project_of in ["p", "q"] {
        project(&*stores[0], project_of, ProjectSettings::default()).await;
    }
    let launch_all = async |first: u64, queue: bool| {
        let callers: Vec<_> = (first..first + 24)
            .map(|n| {
                let daemon = n as usize % 2;
                let store = Arc::clone(&stores[daemon]);
                let mut new = own(daemon, n);
                new.queue = queue;
                tokio::spawn(async move { store.admit(new).await.unwrap() })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
    };
    let fleet = async || stores[1].fleet().await.unwrap();
    for round in 1..=20 {
        let cap = Some(round as u32 * 5);
        stores[0].set_fleet_max(cap, alice()).await.unwrap();
        launch_all(round * 100, false).await;
        assert_eq!(Some(fleet().await.live), cap);
    }
    for round in 0..4 {
        launch_all(3_000 + round * 100, true).await;
    }
    assert_eq!((fleet().await.live, fleet().await.queued), (100, 96));
    for cap in (105..=170).step_by(5) {
        stores[0].set_fleet_max(Some(cap), alice()).await.unwrap();
        let begun = std::time::Instant::now();
        // Whoever has the next turn may be on either host.
        while fleet().await.live < cap {
            assert!(begun.elapsed().as_secs() < 60, "{cap}: {:?}", fleet().await);
            let (a, b) = tokio::join!(stores[0].turns("h0", None), stores[1].turns("h1", None));
            drop((a.unwrap(), b.unwrap()));
        }
        assert_eq!(fleet().await.live, cap);
    }
    spans(&events(&*stores[1]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_sessions_and_budgets() {
    for isolation in ISOLATIONS {
        conformance::ledger::everything_by_two(two_with(isolation).await).await;
        conformance::ledger::budgets_by_two(two_with(isolation).await).await;
    }
}

/// New sessions, each wanted by both daemons at once, for projects of their own: one of them gets it, and the other is
/// refused in words.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_session_for_two_projects() {
    let stores = two().await;
    for project_of in ["p", "q"] {
        project(&*stores[0], project_of, capped(1_000)).await;
    }
    for round in 0..150 {
        let ask = |daemon: usize| {
            let mut new = own(daemon, round);
            new.spec.session = Some(format!("s{round}"));
            stores[daemon].admit(new)
        };
        let (a, b) = tokio::join!(ask(0), ask(1));
        let mut admitted = 0;
        for told in [a, b] {
            match told {
                Ok(Admitted::New { .. }) => admitted += 1,
                Ok(Admitted::Denied { .. }) | Err(StoreError::Refused(_)) => {}
                other => panic!("round {round}: {other:?}"),
            }
        }
        assert_eq!(admitted, 1, "round {round}");
    }
    let both = live(&*stores[0], "p").await + live(&*stores[1], "q").await;
    assert_eq!(both, 150);
}
