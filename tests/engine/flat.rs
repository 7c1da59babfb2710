//! A long life in short: memory stays flat however many runners have come and gone.

use super::{adopted, alice, drawer, request, settings};
use crate::fakes::FakeHost;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use stratavore::adapters::sqlite::SqliteStore;
use stratavore::domain::Timestamp;
use stratavore::domain::event::Actor;
use stratavore::domain::project::ProjectSettings;
use stratavore::engine::Engine;
use stratavore::ports::Store;

/// Lives a slice of the test; `STRATAVORE_LIVES` = how many in all.
const LIVES: u64 = 8_000;
const AT_ONCE: u64 = 50;

fn now() -> Timestamp {
    Timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_micros() as u64,
    )
}

/// What this process has of its own, in KiB.
fn private() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    text.lines()
        .find_map(|l| {
            l.strip_prefix("RssAnon:")?
                .trim()
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .unwrap()
}

/// In a process of its own, so that its memory is not that of other tests.
#[test]
fn memory_and_store_stay_flat() {
    const PART: &str = "STRATAVORE_TEST_FLAT";
    if std::env::var_os(PART).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "flat::memory_and_store_stay_flat", "--nocapture"])
            .env(PART, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success() && said.contains("1 passed");
        assert!(passed, "{said}{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let lives = std::env::var("STRATAVORE_LIVES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(LIVES);
    let folder =
        std::path::Path::new("/dev/shm").join(format!("stratavore-flat-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (mut early, mut late) = ((0, 0), (0, 0));
    runtime.block_on(async {
        let store = Arc::new(SqliteStore::open(&folder.join("s.db"), 2).await.unwrap());
        store
            .create_project(
                "p".parse().unwrap(),
                ProjectSettings::default(),
                Actor::host(),
                now(),
            )
            .await
            .unwrap();
        let (host, notices) = FakeHost::new();
        let engine = Engine::start(settings(), store.clone(), Arc::new(host), drawer(), notices);
        adopted(&engine).await;
        for round in 0..lives / AT_ONCE {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..AT_ONCE {
                let engine = engine.clone();
                all.spawn(async move {
                    let mut request = request(None);
                    request.spec.command = vec!["exit".to_owned(), "0".to_owned()];
                    engine.launch(request, alice()).await.unwrap();
                });
            }
            while let Some(done) = all.join_next().await {
                done.unwrap();
            }
            // What a retention of two seconds keeps.
            if round % 10 == 0 {
                while store
                    .prune(now().minus_usec(2_000_000), 1_000)
                    .await
                    .unwrap()
                    .runners
                    > 0
                {}
            }
            let size = || std::fs::metadata(folder.join("s.db")).map_or(0, |m| m.len() / 1024);
            if round == lives / AT_ONCE * 2 / 5 {
                early = (private(), size());
            }
            late = (private(), size());
        }
        let ended = async {
            while engine.live_count() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
        };
        tokio::time::timeout(Duration::from_secs(120), ended)
            .await
            .expect("all lanes end");
        store.close().await;
    });
    let _ = std::fs::remove_dir_all(&folder);
    // Allocators and caches breathe; a leak of a kilobyte per life would add megabytes.
    assert!(
        late.0 < early.0 + early.0 / 4 + 2_048,
        "memory grows: {} KiB at 40 %, {} KiB at the end of {lives} lives",
        early.0,
        late.0
    );
    assert!(
        late.1 < early.1 * 2 + 4_096,
        "the store grows: {} KiB, then {} KiB",
        early.1,
        late.1
    );
}
