//! A long time in a short one: every table and every index stays as large as it is.
//! `STRATAVORE_LIVES=1000000` makes it as long as one likes.

use super::*;
use crate::adapters::conformance::churn::{self, AT_ONCE};
use std::collections::BTreeMap;
use std::time::Instant;

/// KiB of each table and index that is not empty.
fn sizes(cluster: &Cluster, database: &str) -> BTreeMap<String, u64> {
    let sql = "SELECT relname || ' ' || pg_relation_size(oid) / 1024 FROM pg_class
                WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') AND relpages > 0";
    let said = cluster.sql(database, sql);
    let lines = said.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(name, size)| (name.to_owned(), size.trim().parse().unwrap()))
        .collect()
}

/// The clean-up of the server comes by as much more often as time goes faster here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_and_indexes_stay_flat() {
    let lives: u64 = std::env::var("STRATAVORE_LIVES").map_or(12_000, |n| n.parse().unwrap());
    let cluster = tokio::task::spawn_blocking(|| {
        Cluster::new(&[
            "autovacuum_naptime = 1s",
            "autovacuum_vacuum_cost_delay = 0",
        ])
    });
    let cluster = Arc::new(cluster.await.unwrap());
    let options = cluster.database();
    let store = PostgresStore::open(options.clone(), 4).await.unwrap();
    churn::begin(&store).await;
    let begun = Instant::now();
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for from in (0..lives).step_by(AT_ONCE as usize) {
        churn::lives(&store, from).await;
        if from % (lives / 20).next_multiple_of(AT_ONCE) == 0 {
            let (cluster, database) = (Arc::clone(&cluster), options.database.clone());
            let sizes = tokio::task::spawn_blocking(move || sizes(&cluster, &database));
            for (name, size) in sizes.await.unwrap() {
                seen.entry(name).or_default().push(size);
            }
        }
    }
    println!(
        "{lives} lives in {:.1} s; KiB: {seen:#?}",
        begun.elapsed().as_secs_f64()
    );
    for table in ["runners", "events", "outbox", "outbox_pending"] {
        assert!(seen.contains_key(table), "{table}: {seen:?}");
    }
    for (name, seen) in &seen {
        // Some pages more are no growth; what is never given back would be twice as much.
        churn::assert_flat(name, seen, |half| half * 4 / 3 + 64);
    }
    store.close().await;
}
