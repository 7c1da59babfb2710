//! A long time in a short one: file and memory stay where they are, however many runners have
//! come and gone. `STRATAVORE_LIVES=1000000` makes it as long as one likes.

use super::conformance::churn::{self, AT_ONCE, KEPT};
use super::conformance::{at, events, id, live};
use super::*;
use proptest::test_runner::{Config, TestRunner};
use std::time::Instant;

/// Private memory of this process in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// File and WAL in KiB.
fn size(folder: &Folder) -> u64 {
    let files = std::fs::read_dir(&folder.0).unwrap();
    files
        .map(|f| f.unwrap().metadata().unwrap().len())
        .sum::<u64>()
        >> 10
}

/// In a process of its own, so that its memory is the store's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_and_memory_stay_flat() {
    if part().is_some() {
        return many_lives().await;
    }
    let folder = Folder::new();
    let words = this("growth::file_and_memory_stay_flat", &folder.0);
    let output = std::process::Command::new(&words[0])
        .args(&words[1..])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{}", String::from_utf8_lossy(&output.stderr));
}

async fn many_lives() {
    let lives: u64 = std::env::var("STRATAVORE_LIVES").map_or(16_000, |n| n.parse().unwrap());
    let (folder, store) = empty().await;
    churn::begin(&store).await;
    let begun = Instant::now();
    let mut seen = Vec::new();
    for from in (0..lives).step_by(AT_ONCE as usize) {
        churn::lives(&store, from).await;
        if from % (lives / 20).next_multiple_of(AT_ONCE) == 0 {
            seen.push((memory(), size(&folder)));
        }
    }
    println!(
        "{lives} lives in {:.1} s; (memory, file) in KiB: {seen:?}",
        begun.elapsed().as_secs_f64()
    );
    let of = |of: fn(&(u64, u64)) -> u64| seen.iter().map(of).collect::<Vec<_>>();
    churn::assert_flat("memory", &of(|s| s.0), |half| half + 4_096);
    churn::assert_flat("the file", &of(|s| s.1), |half| half * 5 / 4);
    assert_eq!(live(&store, "p").await, 0);
    assert!(events(&store).await.len() as u64 <= 3 * (KEPT + AT_ONCE));
    // And when all is over, the space goes back.
    let far = at(lives * 1_000_000);
    let full = size(&folder);
    for _ in 0..40 {
        store.prune(far, 1_000).await.unwrap();
    }
    assert!(store.runner(id(lives - 1)).await.unwrap().is_none());
    store.close().await;
    assert!(
        size(&folder) < full / 2,
        "{} of {full} KiB are kept",
        size(&folder)
    );
}

#[test]
fn random_lives_as_in_the_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&conformance::model::ops(), |ops| {
            runtime.block_on(async {
                let (_folder, store) = empty().await;
                conformance::model::same_answers(&store, &ops).await;
                store.close().await;
            });
            Ok(())
        })
        .unwrap();
}
