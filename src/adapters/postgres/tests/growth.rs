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

/// What the schema itself checks costs a row the same in a large statement as in a small one, though it was planned
/// when few rows were written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_cost_each_row_the_same() {
    const SQL: &str = "
        CREATE FUNCTION pg_temp.end_some(many BIGINT) RETURNS DOUBLE PRECISION LANGUAGE plpgsql AS $$
        DECLARE
            begun TIMESTAMPTZ := clock_timestamp();
        BEGIN
            UPDATE runners SET state = 'ended', seq = 2, ended_at = 1, exit = '{}', usage = '{}'
             WHERE id = ANY (ARRAY(SELECT id FROM runners WHERE state = 'starting' LIMIT many));
            RETURN extract(epoch FROM clock_timestamp() - begun) / many;
        END $$;
        SET enable_seqscan = off;
        INSERT INTO projects (name, description, limits, created_at) SELECT 'p' || n, '', '{}', 1 FROM generate_series(0, 63) AS n;
        INSERT INTO runners (id, project, host, state, uid, spec, seq, created_at, started_at, ended_at)
             SELECT 'r' || n, 'p' || n % 64, 'h', 'starting', 1, '{}', 1, 1, 0, 0 FROM generate_series(1, 5000) AS n;
        SELECT count(pg_temp.end_some(1)) FROM generate_series(1, 8);
        WITH small AS MATERIALIZED (SELECT pg_temp.end_some(50) AS took FROM generate_series(1, 9)),
             large AS MATERIALIZED (SELECT pg_temp.end_some(1500) AS took FROM generate_series(1, 2))
        SELECT (SELECT min(took) FROM large) / (SELECT min(took) FROM small);
        SELECT count(*) FROM runners WHERE state = 'ended'";
    let ((), store) = empty().await;
    let database = store.base.options.database.clone();
    let said = tokio::task::spawn_blocking(move || Cluster::shared().sql(&database, SQL));
    let said = said.await.unwrap();
    let numbers: Vec<f64> = said.lines().filter_map(|n| n.trim().parse().ok()).collect();
    let [.., warm, dearer, ended] = numbers[..] else {
        panic!("{said}");
    };
    assert_eq!((warm, ended), (8.0, 8.0 + 450.0 + 3000.0));
    assert!(dearer < 5.0, "{dearer} times as dear");
    store.close().await;
}
