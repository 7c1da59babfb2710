//! Monitoring with many live runners: from the live map, quickly, and true.

use super::{adopted, drawer, request, settings};
use crate::fakes::{FakeHost, FakeStore};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stratavore::adapters::exposition::Pages;
use stratavore::adapters::timed::TimedStore;
use stratavore::daemon::observe::{Observed, Parts};
use stratavore::domain::event::Actor;
use stratavore::domain::project::ProjectSettings;
use stratavore::domain::{Limits, RunnerId, Timestamp};
use stratavore::engine::Engine;
use stratavore::ports::{Host, LaunchOrder, NewRunner, Store};
use stratavore::telemetry::Telemetry;

const LIVE: usize = 10_000;
const PROJECTS: usize = 250;
/// What a scrape may take.
const MOST: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_live_runners_are_scraped_in_fifty_milliseconds() {
    let store = Arc::new(FakeStore::new().await);
    for n in 0..PROJECTS {
        let name = format!("p{n:03}").parse().unwrap();
        store
            .create_project(
                name,
                ProjectSettings::default(),
                Actor::host(),
                Timestamp(1),
            )
            .await
            .unwrap();
    }
    let (host, notices) = FakeHost::new();
    let mut running = Vec::with_capacity(LIVE);
    for n in 0..LIVE {
        let mut spec = request(None).spec;
        spec.project = format!("p{:03}", n % PROJECTS).parse().unwrap();
        let id = RunnerId::from_uuid(uuid::Uuid::now_v7());
        let order = LaunchOrder {
            id,
            spec: spec.clone(),
            setenv: Vec::new(),
            project_limits: Limits::default(),
            inputs: Default::default(),
            streams: Default::default(),
            fence: None,
        };
        let placement = host.prepare(order).await.unwrap();
        let new = NewRunner {
            id,
            spec,
            host: "h".to_owned(),
            host_max: None,
            request: None,
            queue: false,
            full: None,
            order: None,
            actor: Actor::host(),
            at: Timestamp(1),
        };
        running.push((new, placement));
    }
    store.put(running).await;
    let timed = TimedStore::new(store).unwrap();
    let store_times = timed.times();
    let engine = Engine::start(
        settings(),
        Arc::new(timed),
        Arc::new(host),
        drawer(),
        notices,
    );
    adopted(&engine).await;
    let observed = Observed::new("id", "name", "", false, Telemetry::default());
    observed.has(Parts {
        engine: engine.clone(),
        connections: Box::new(|| (1, 3)),
        store_times,
    });
    let (mut best, mut text) = (Duration::MAX, String::new());
    for _ in 0..20 {
        let begun = Instant::now();
        text = observed.page("/metrics").unwrap().body;
        best = best.min(begun.elapsed());
    }
    println!(
        "{LIVE} live runners scraped in {best:?}, {} bytes",
        text.len()
    );
    assert!(best < MOST, "{best:?}");
    let total: usize = text
        .lines()
        .filter(|l| l.starts_with("stratavore_runners{") && l.contains("running"))
        .map(|l| l.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(total, LIVE);
    // Fifty projects are beyond the bound, and together.
    let other = format!(
        "stratavore_runners{{project=\"_other\",state=\"running\"}} {}\n",
        50 * LIVE / PROJECTS
    );
    assert!(text.contains(&other), "{text}");
    assert!(text.contains("stratavore_store_pool_connections{state=\"idle\"} 3\n"));
    assert_eq!(observed.page("/readyz").unwrap().status, 200);
    engine.shutdown(Duration::from_secs(1)).await;
}
