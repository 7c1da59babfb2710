//! Many callers, two daemons, few slots; and whatever isolation the server has as its default.

use super::conformance::{admit, capped, end, events, launch, live, project, step};
use super::*;
use crate::adapters::conformance::assert_contiguous;
use crate::ports::Admitted;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeSet;

pub(super) async fn two() -> [Arc<PostgresStore>; 2] {
    let options = tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap();
    two_on(options).await
}

pub(super) async fn two_on(options: PostgresOptions) -> [Arc<PostgresStore>; 2] {
    let (a, b) = tokio::join!(
        PostgresStore::open(options.clone(), 3),
        PostgresStore::open(options, 3)
    );
    [a, b].map(|store| Arc::new(store.unwrap()))
}

/// Where this is the server's default isolation.
pub(super) async fn two_with(isolation: &'static str) -> [Arc<PostgresStore>; 2] {
    let options = tokio::task::spawn_blocking(move || {
        let options = Cluster::shared().database();
        let set = format!(
            "ALTER DATABASE {} SET default_transaction_isolation = '{isolation}'",
            options.database
        );
        Cluster::shared().sql("postgres", &set);
        options
    });
    two_on(options.await.unwrap()).await
}

/// 32 callers of two daemons on hosts of their own, 8 launches each, for 100 slots.
async fn storm(stores: &[Arc<PostgresStore>; 2]) {
    project(&*stores[0], "p", capped(100)).await;
    project(&*stores[0], "q", ProjectSettings::default()).await;
    let callers = (0..32u64).map(|caller| {
        let store = Arc::clone(&stores[caller as usize % 2]);
        tokio::spawn(async move {
            let mut admitted = Vec::new();
            for n in 0..8 {
                let mut new = launch(caller * 8 + n, "p");
                new.host = format!("h{}", caller % 2);
                if let Admitted::New { runner, .. } = store.admit(new).await.unwrap() {
                    admitted.push(runner.id);
                }
                let mut other = launch(1_000 + caller * 8 + n, "q");
                other.host = format!("h{}", caller % 2);
                admit(&*store, other).await;
                store
                    .apply(step(1_000 + caller * 8 + n, end(), 9_000_000))
                    .await
                    .unwrap();
            }
            admitted
        })
    });
    let mut admitted = BTreeSet::new();
    for caller in callers.collect::<Vec<_>>() {
        for id in caller.await.unwrap() {
            assert!(admitted.insert(id), "twice");
        }
    }
    assert_eq!(admitted.len(), 100);
    for store in stores {
        assert_eq!(
            (live(&**store, "p").await, live(&**store, "q").await),
            (100, 0)
        );
    }
    let there =
        stores[0].live("h0").await.unwrap().len() + stores[1].live("h1").await.unwrap().len();
    assert_eq!(there, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_daemons_never_pass_a_cap() {
    let stores = two().await;
    storm(&stores).await;
    let all = events(&*stores[1]).await;
    assert_contiguous(&all);
    assert_eq!(
        all.iter()
            .filter(|e| e.draft.subject.starts_with("runner/"))
            .count(),
        100 + 2 * 256
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_servers_default_isolation_is() {
    for isolation in ["repeatable read", "serializable"] {
        storm(&two_with(isolation).await).await;
    }
}

/// Whoever reads on from the last position it has seen misses nothing, though transactions end in
/// another order than they begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_that_follows_misses_no_event() {
    let stores = two().await;
    project(&*stores[0], "p", ProjectSettings::default()).await;
    let total = 2 * 400u64;
    let writers: Vec<_> = stores
        .iter()
        .cloned()
        .enumerate()
        .flat_map(|(side, store)| {
            (0..8u64).map(move |caller| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for n in 0..50 {
                        let n = side as u64 * 400 + caller * 50 + n;
                        let mut new = launch(n, "p");
                        new.host = format!("h{side}");
                        admit(&*store, new).await;
                    }
                })
            })
        })
        .collect();
    let mut followed = Vec::new();
    let begun = std::time::Instant::now();
    while followed.len() as u64 <= total {
        assert!(
            begun.elapsed().as_secs() < 180,
            "{} of {total}",
            followed.len()
        );
        let after = followed
            .last()
            .map_or(0, |e: &crate::domain::event::Event| e.position);
        let filter = crate::ports::EventFilter {
            after,
            limit: 50,
            ..Default::default()
        };
        followed.extend(stores[followed.len() % 2].events(filter).await.unwrap());
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(followed, events(&*stores[0]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn somebody_elses_long_transaction_holds_no_event_back() {
    let [store, _] = two().await;
    let mut other = connect::connect(&store.base.options, &connect::Latest::default())
        .await
        .map(Link::Postgres)
        .unwrap();
    other
        .say("BEGIN; SELECT pg_current_xact_id()")
        .await
        .unwrap();
    // The quickest of some, each about an event that nobody has read: a busy machine is slow now and then.
    let mut best = Duration::MAX;
    for n in 1..=8 {
        project(&*store, &format!("p{n}"), ProjectSettings::default()).await;
        let begun = std::time::Instant::now();
        assert_eq!(events(&*store).await.len(), n);
        best = best.min(begun.elapsed());
    }
    assert!(best < Duration::from_millis(900), "{best:?}");
}

#[test]
fn random_lives_as_in_the_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 12,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&conformance::model::ops(), |ops| {
            runtime.block_on(async {
                let (_guard, store) = empty().await;
                conformance::model::same_answers(&store, &ops).await;
                store.close().await;
            });
            Ok(())
        })
        .unwrap();
}
