//! What it costs. Not part of the suite; on a quiet machine, with the folder on a real disk:
//! `STRATAVORE_SPEED=/var/tmp cargo test --release --lib sqlite::tests::speed -- --ignored --nocapture`

use super::conformance::{end, launch, project, step};
use super::*;
use sqlx::{ConnectOptions, Connection};
use std::time::{Duration, Instant};

const FOR: Duration = Duration::from_millis(1_500);

fn disk() -> Folder {
    let parent = std::env::var("STRATAVORE_SPEED").unwrap_or_else(|_| "/var/tmp".to_owned());
    Folder::below(Path::new(&parent))
}

/// One client, one row of about the same size, one commit each.
async fn plain_inserts(folder: &Folder) -> f64 {
    let file = folder.0.join(format!("plain-{}.db", uuid::Uuid::now_v7()));
    std::fs::File::create(&file).unwrap();
    let mut on = super::super::open::writing(&file).connect().await.unwrap();
    sqlx::query("CREATE TABLE t (id TEXT PRIMARY KEY, spec TEXT)")
        .execute(&mut on)
        .await
        .unwrap();
    let spec = serde_json::to_string(&launch(1, "p").spec).unwrap();
    let (begun, mut n) = (Instant::now(), 0u64);
    while begun.elapsed() < FOR {
        sqlx::query("INSERT INTO t VALUES ($1, $2)")
            .bind(conformance::id(n).to_string())
            .bind(spec.as_str())
            .execute(&mut on)
            .await
            .unwrap();
        n += 1;
    }
    let rate = n as f64 / begun.elapsed().as_secs_f64();
    on.close().await.unwrap();
    rate
}

/// Admissions per second of so many callers, and their median in µs.
async fn admissions(store: &Arc<SqliteStore>, from: &mut u64, callers: u64) -> (f64, u128) {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (store, from) = (store.clone(), *from);
            tokio::spawn(async move {
                let (mut n, mut took) = (from + caller, Vec::new());
                while begun.elapsed() < FOR {
                    let one = Instant::now();
                    conformance::admit(&*store, launch(n, "p")).await;
                    took.push(one.elapsed().as_micros());
                    n += callers;
                }
                (n, took)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        let (n, took) = task.await.unwrap();
        *from = (*from).max(n);
        all.extend(took);
    }
    let rate = all.len() as f64 / begun.elapsed().as_secs_f64();
    all.sort_unstable();
    (rate, all[all.len() / 2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn against_plain_inserts() {
    let folder = disk();
    let store = Arc::new(SqliteStore::open(&folder.file(), 2).await.unwrap());
    project(&*store, "p", Default::default()).await;
    let mut n = 0;
    for _ in 0..5 {
        let plain = plain_inserts(&folder).await;
        let one = admissions(&store, &mut n, 1).await;
        let eight = admissions(&store, &mut n, 8).await;
        let many = admissions(&store, &mut n, 64).await;
        println!(
            "plain {plain:.0}/s · 1 caller {:.0}/s p50 {} µs · 8 callers {:.0}/s p50 {} µs ({:.1}x) · 64 callers {:.0}/s p50 {} µs ({:.1}x)",
            one.0,
            one.1,
            eight.0,
            eight.1,
            eight.0 / plain,
            many.0,
            many.1,
            many.0 / plain
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn with_a_long_history() {
    let folder = disk();
    let store = Arc::new(SqliteStore::open(&folder.file(), 2).await.unwrap());
    project(&*store, "p", Default::default()).await;
    let goal: u64 = std::env::var("STRATAVORE_ENDED").map_or(1_000_000, |n| n.parse().unwrap());
    let mut n = 0;
    for ended in [0, goal / 10, goal] {
        while n < ended {
            let begin = n;
            let lives = (begin..begin + 256).map(|n| {
                let store = store.clone();
                async move {
                    conformance::admit(&*store, launch(n, "p")).await;
                    conformance::apply(&*store, step(n, end(), n * 1_000 + 1)).await;
                }
            });
            futures_util::future::join_all(lives).await;
            n += 256;
        }
        let mut medians = Vec::new();
        for _ in 0..5 {
            medians.push(admissions(&store, &mut n, 1).await.1);
        }
        medians.sort_unstable();
        let size = std::fs::metadata(folder.file()).unwrap().len() >> 20;
        println!(
            "{ended} ended: admission p50 {} µs (rounds {medians:?}), file {size} MiB",
            medians[2]
        );
        for runner in store.live("h1").await.unwrap() {
            let change = crate::domain::runner::Change {
                id: runner.id,
                step: end(),
                actor: conformance::alice(),
                at: runner.created_at,
            };
            conformance::apply(&*store, change).await;
        }
    }
}
