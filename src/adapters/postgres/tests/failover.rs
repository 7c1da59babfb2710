//! A standby takes over, and had not heard of everything; the old primary comes back as if nothing had been.

use super::conformance::audit::{HOST, all, key, verify};
use super::conformance::{admit, events, id, launch, project};
use super::outages::until_it_works;
use super::*;
use crate::domain::audit::verify::Verdict;
use crate::ports::{Audit, EventFilter};
use std::collections::BTreeSet;

/// So many entries, none of them twice.
async fn entries(store: &PostgresStore) -> usize {
    let all = all(store, HOST).await;
    let texts: BTreeSet<_> = all.iter().map(|e| (e.at, &e.entry)).collect();
    assert_eq!(texts.len(), all.len(), "{all:#?}");
    all.len()
}

/// A store on both servers, with an audit.
async fn both(primary: &Cluster, standby: &Cluster) -> PostgresStore {
    let options = PostgresOptions {
        servers: [primary, standby]
            .map(|cluster| cluster.options("fleet").servers[0].clone())
            .to_vec(),
        ..primary.options("fleet")
    };
    let store = PostgresStore::open(options, 3).await.unwrap();
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_takes_over_and_the_old_primary_comes_back() {
    let primary = tokio::task::spawn_blocking(|| {
        let primary = Cluster::new(&[]);
        primary.sql("postgres", "CREATE DATABASE fleet");
        Arc::new(primary)
    })
    .await
    .unwrap();
    let options = primary.options("fleet");
    let first = PostgresStore::open(options, 3).await.unwrap();
    first.keep_audit(HOST.to_owned(), vec![key(0)]);
    project(&first, "p", ProjectSettings::default()).await;
    admit(&first, launch(0, "p")).await;
    let standby = {
        let primary = Arc::clone(&primary);
        tokio::task::spawn_blocking(move || Arc::new(primary.standby()))
            .await
            .unwrap()
    };
    let store = both(&primary, &standby).await;
    // The standby never hears of these, and readers have seen them.
    for n in 1..40 {
        admit(&store, launch(n, "p")).await;
    }
    let seen = events(&store).await.last().unwrap().position;
    store
        .read(async |on| on.one("SELECT 1", vec![]).await.map(drop))
        .await
        .unwrap();
    let takes_over = {
        let (primary, standby) = (Arc::clone(&primary), Arc::clone(&standby));
        move || {
            primary.stop();
            standby.start();
            standby.promote();
        }
    };
    tokio::task::spawn_blocking(takes_over).await.unwrap();
    until_it_works(async || store.check().await).await;
    assert!(store.runner(id(1)).await.unwrap().is_none());
    for n in 50..53 {
        admit(&store, launch(n, "p")).await;
    }
    // Whoever reads on from there misses nothing of what there is now.
    let after = EventFilter {
        after: seen,
        limit: 100,
        ..EventFilter::default()
    };
    assert_eq!(store.events(after).await.unwrap().len(), 3);
    // The old primary is back, and it is the first in the list.
    let back = {
        let (primary, standby) = (Arc::clone(&primary), Arc::clone(&standby));
        move || {
            primary.start();
            standby.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stratavored'");
        }
    };
    tokio::task::spawn_blocking(back).await.unwrap();
    until_it_works(async || store.check().await).await;
    admit(&store, launch(60, "p")).await;
    assert!(store.runner(id(50)).await.unwrap().is_some());
    let count = "SELECT count(*) FROM runners";
    let both = [Arc::clone(&primary), Arc::clone(&standby)];
    let counts =
        tokio::task::spawn_blocking(move || both.map(|cluster| cluster.sql("fleet", count)));
    assert_eq!(counts.await.unwrap(), ["40", "5"]);
    // What was lost is told by the chain itself, and the rest is there once: three entries of before, what the chain says of
    // its end, and four launches.
    assert_eq!(entries(&store).await, 8);
    let lost = Verdict::Cut { last: 3, head: 42 };
    assert_eq!(verify(&store, &[]).await.verdict, lost);
}

/// One that has heard of everything, and a primary that is killed in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_audit_goes_on_where_the_standby_has_it_all() {
    let (primary, standby) = tokio::task::spawn_blocking(|| {
        let primary = Cluster::new(&[]);
        primary.sql("postgres", "CREATE DATABASE fleet");
        let standby = primary.standby();
        standby.start();
        (Arc::new(primary), Arc::new(standby))
    })
    .await
    .unwrap();
    let store = both(&primary, &standby).await;
    project(&store, "p", ProjectSettings::default()).await;
    for n in 0..20 {
        admit(&store, launch(n, "p")).await;
    }
    let before = store.kept().unwrap();
    let _standby = tokio::task::spawn_blocking(move || {
        let end = primary.sql("fleet", "SELECT pg_current_wal_flush_lsn()");
        let heard = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        let begun = std::time::Instant::now();
        while standby.sql("fleet", &heard) != "t" {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{end} is not heard of"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        primary.kill();
        standby.promote();
        standby
    })
    .await
    .unwrap();
    until_it_works(async || store.check().await).await;
    for n in 20..30 {
        admit(&store, launch(n, "p")).await;
    }
    let report = verify(&store, &[before]).await;
    assert!(report.is_whole() && report.last == 32, "{report:?}");
    assert_eq!(entries(&store).await, 32);
}

/// The writer has a new connection: those for reading may be on a server that was the right one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_where_the_writer_goes() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    store.runner(id(1)).await.unwrap();
    assert_eq!(store.connections(), (0, 1));
    let mut other = super::schema::other_link(&store).await;
    other
        .say("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT'")
        .await
        .unwrap();
    admit(&store, launch(1, "p")).await;
    assert_eq!(store.connections(), (0, 0));
}
