//! The engine against a host and a store that fail in every way: seeded random worlds, in simulated time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_debug_implementations
)]

#[path = "../fakes/mod.rs"]
mod fakes;
mod flat;
mod lease;
mod notify;
mod placing;
mod policy;
mod queue;
mod scrape;
mod world;

use fakes::{FakeDrawer, FakeStore};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use stratavore::domain::event::Actor;
use stratavore::domain::project::ProjectSettings;
use stratavore::domain::spec::RunnerSpec;
use stratavore::domain::{Cause, ErrorKind, Limits, RunnerId, State, Timestamp};
use stratavore::engine::{Engine, LaunchRequest, Settings};
use stratavore::ports::{RunnerFilter, Store};
use world::{Luck, World};

fn settings() -> Settings {
    Settings {
        host: "h".to_owned(),
        host_name: "h".to_owned(),
        sole_host: true,
        host_max: None,
        limits: Limits::default(),
        retention: Duration::from_secs(3600),
        fleet: fakes::membership(),
    }
}

/// An empty one.
fn drawer() -> Arc<FakeDrawer> {
    Arc::default()
}

fn alice() -> Actor {
    Actor {
        uid: Some(1000),
        user: Some("alice".to_owned()),
        host: None,
        unit: None,
    }
}

fn request(id: Option<String>) -> LaunchRequest {
    LaunchRequest {
        spec: RunnerSpec {
            project: "p".parse().unwrap(),
            command: vec!["work".to_owned()],
            name: None,
            uid: 1000,
            user: "alice".to_owned(),
            working_directory: None,
            labels: BTreeMap::new(),
            limits: Limits::default(),
            log_file_max: None,
            priority: 0,
            tokens: None,
            session: None,
            placed: None,
        },
        setenv: Vec::new(),
        request_id: id,
        inputs: Default::default(),
        streams: Default::default(),
        queue: false,
        order: None,
    }
}

async fn store() -> Arc<FakeStore> {
    let store = Arc::new(FakeStore::new().await);
    let settings = ProjectSettings {
        max_runners: Some(5),
        ..ProjectSettings::default()
    };
    store
        .create_project("p".parse().unwrap(), settings, Actor::host(), Timestamp(1))
        .await
        .unwrap();
    store
}

async fn adopted(engine: &Engine) {
    let mut health = engine.health();
    let adopted = health.wait_for(|h| h.adopted && h.agent && h.store.is_none());
    tokio::time::timeout(Duration::from_secs(600), adopted)
        .await
        .expect("it adopts")
        .unwrap();
}

/// Until it is so, within an hour of simulated time.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(
            begun.elapsed() < Duration::from_secs(3_600),
            "never: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All runners the store knows, with their states.
async fn rows(store: &FakeStore) -> Vec<stratavore::domain::Runner> {
    let filter = RunnerFilter {
        states: State::ALL.to_vec(),
        limit: 1000,
        ..RunnerFilter::default()
    };
    store.runners(filter).await.unwrap()
}

/// Until the engine's work is done: every row is live on the host or ended, and nothing is left of the ended.
async fn settled(world: &World, store: &FakeStore) {
    for _ in 0..2_000 {
        let rows = rows(store).await;
        let live: Vec<RunnerId> = rows
            .iter()
            .filter(|r| r.state().is_live())
            .map(|r| r.id)
            .collect();
        let alive = world.alive();
        let same = live.len() == alive.len() && live.iter().all(|id| alive.contains(id));
        if same && world.left().iter().all(|id| live.contains(id)) {
            // Reading them checks them.
            let all = stratavore::ports::EventFilter {
                limit: u32::MAX,
                ..Default::default()
            };
            assert!(!store.events(all).await.unwrap().is_empty());
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!(
        "never at rest: rows {:?} alive {:?} left {:?}",
        rows(store)
            .await
            .iter()
            .map(|r| (r.id, r.state()))
            .collect::<Vec<_>>(),
        world.alive(),
        world.left()
    );
}

/// Launches, stops, freezes and crashes in a random order, each part failing now and then; the daemon is started
/// again a few times. Then all heals, and every life must be whole. In a fleet the host is given up now and then.
async fn one_world(seed: u64, sole_host: bool) {
    let settings = || Settings {
        sole_host,
        ..settings()
    };
    let store = store().await;
    let world = World::new(seed);
    let mut luck = Luck::new(seed ^ 0x5eed);
    let mut told: BTreeMap<RunnerId, ()> = BTreeMap::new();
    for restart in 0..3 {
        let (host, notices) = world.connect();
        let engine = Engine::start(settings(), store.clone(), host, drawer(), notices);
        adopted(&engine).await;
        let mut launches = tokio::task::JoinSet::new();
        for step in 0..25 {
            match luck.below(10) {
                0..=4 => {
                    let engine = engine.clone();
                    // Now and then the same request again.
                    let id = luck.one_in(3).then(|| format!("r{restart}-{}", step / 3));
                    launches.spawn(async move { engine.launch(request(id), alice()).await });
                }
                5 => {
                    if let Some(runner) = engine.live().first() {
                        let _ = tokio::time::timeout(
                            Duration::from_secs(60),
                            engine.stop(runner.id, alice()),
                        )
                        .await;
                    }
                }
                6 => {
                    if let Some(runner) = engine.live().last() {
                        let _ = engine.freeze(runner.id, alice()).await;
                        let _ = engine.thaw(runner.id, alice()).await;
                    }
                }
                7 => world.end_one(&mut luck),
                8 => store.away(luck.one_in(2)),
                9 if !sole_host && luck.one_in(2) => store.give_up("h").await,
                _ => world.agent_crash().await,
            }
            tokio::time::sleep(Duration::from_millis(u64::from(luck.below(400)))).await;
        }
        if restart < 2 && luck.one_in(2) {
            // The daemon is killed: its tasks end wherever they are, the agent closes its gates.
            drop(launches);
            world.daemon_gone();
        } else {
            store.away(false);
            while let Some(launched) = launches.join_next().await {
                match launched.unwrap() {
                    Ok(launched) if launched.repeated => {}
                    Ok(launched) => {
                        told.insert(launched.runner.id, ());
                    }
                    Err(error) => assert!(
                        !matches!(
                            error.kind,
                            ErrorKind::InvalidArgument | ErrorKind::NoSuchRunner
                        ),
                        "{error:?}"
                    ),
                }
            }
        }
        store.away(false);
        engine.shutdown(Duration::from_secs(1)).await;
        world.daemon_gone();
    }
    world.heal();
    let (host, notices) = world.connect();
    let engine = Engine::start(settings(), store.clone(), host, drawer(), notices);
    adopted(&engine).await;
    settled(&world, &store).await;
    for runner in engine.live() {
        // One that was stopping may have ended meanwhile.
        let stopped = engine.stop(runner.id, alice()).await;
        assert!(
            stopped.is_ok() || engine.live().iter().all(|r| r.id != runner.id),
            "{runner:?}"
        );
    }
    settled(&world, &store).await;

    for runner in rows(&store).await {
        let execs = world.execs(runner.id);
        assert!(execs <= 1, "seed {seed}: {} ran {execs} times", runner.id);
        let exit = runner
            .exit
            .as_ref()
            .unwrap_or_else(|| panic!("seed {seed}: {runner:?} has no ending"));
        match exit.cause {
            Cause::LaunchFailed => assert_eq!(execs, 0, "seed {seed}: {runner:?}"),
            Cause::HostLost => assert!(!sole_host, "seed {seed}: {runner:?}"),
            Cause::SupervisorLost => {
                assert!(world.shim_was_killed(runner.id), "seed {seed}: {runner:?}")
            }
            _ => assert_eq!(execs, 1, "seed {seed}: {runner:?}"),
        }
        if told.contains_key(&runner.id) {
            assert_eq!(
                execs, 1,
                "seed {seed}: the caller was told that it runs: {runner:?}"
            );
        }
    }
    for (id, n) in world.all_execs() {
        assert!(n <= 1, "seed {seed}: {id} ran {n} times");
    }
}

#[test]
fn every_life_is_whole_whatever_fails() {
    each_world(300, true);
}

#[test]
fn every_life_is_whole_though_the_host_is_given_up() {
    each_world(150, false);
}

fn each_world(worlds: u64, sole_host: bool) {
    let worlds = std::env::var("STRATAVORE_WORLDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(worlds);
    for seed in 1..=worlds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(one_world(seed, sole_host));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_delays_endings_and_loses_none() {
    let (store, world) = (store().await, World::lucky());
    let (host, notices) = world.connect();
    let engine = Engine::start(settings(), store.clone(), host, drawer(), notices);
    adopted(&engine).await;
    let a = engine
        .launch(request(None), alice())
        .await
        .unwrap()
        .runner
        .id;
    let b = engine
        .launch(request(None), alice())
        .await
        .unwrap()
        .runner
        .id;
    store.away(true);
    let refused = engine.launch(request(None), alice()).await;
    assert!(matches!(refused, Err(e) if e.kind == ErrorKind::StoreUnavailable));
    engine.freeze(a, alice()).await.unwrap();
    engine.thaw(a, alice()).await.unwrap();
    engine.stop(a, alice()).await.unwrap();
    world.exit(b, 3);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.alive().len(), 0, "the stop went through");
    assert_eq!(
        world.left().len(),
        2,
        "the records stay while nobody has written the endings down"
    );
    store.away(false);
    settled(&world, &store).await;
    let kinds: Vec<&str> = store
        .events(stratavore::ports::EventFilter {
            limit: 100,
            ..Default::default()
        })
        .await
        .unwrap()
        .iter()
        .filter(|e| e.draft.subject.ends_with(&a.to_string()))
        .map(|e| e.draft.kind.short())
        .collect();
    assert_eq!(
        kinds,
        [
            "runner.starting",
            "runner.running",
            "runner.frozen",
            "runner.thawed",
            "runner.stopping",
            "runner.ended"
        ]
    );
    let b = store.runner(b).await.unwrap().unwrap();
    assert_eq!(
        b.exit.map(|e| (e.cause, e.code)),
        Some((Cause::ExitCode, Some(3)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_frozen_runner_does_not_outlive_its_runtime_limit() {
    let (store, world) = (store().await, World::lucky());
    let (host, notices) = world.connect();
    let engine = Engine::start(settings(), store.clone(), host, drawer(), notices);
    adopted(&engine).await;
    let mut asked = request(None);
    // The engine reads the wall clock for this, which simulated time does not move.
    asked.spec.limits.runtime_max = Some(1);
    let id = engine.launch(asked, alice()).await.unwrap().runner.id;
    engine.freeze(id, alice()).await.unwrap();
    for _ in 0..100 {
        if world.alive().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    settled(&world, &store).await;
    let row = store.runner(id).await.unwrap().unwrap();
    assert_eq!(row.exit.map(|e| e.cause), Some(Cause::Timeout));
}

/// Log files go when nobody knows their runner any more, and not because a store can't be asked.
#[tokio::test(start_paused = true)]
async fn log_files_go_with_their_rows() {
    let (store, world) = (store().await, World::lucky());
    let (host, notices) = world.connect();
    let engine = Engine::start(settings(), store.clone(), host, drawer(), notices);
    adopted(&engine).await;
    let mut known = BTreeSet::new();
    for ends in [false, true] {
        let launched = engine.launch(request(None), alice()).await.unwrap();
        known.insert(launched.runner.id);
        if ends {
            world.exit(launched.runner.id, 0);
        }
    }
    let unknown = || RunnerId::from_uuid(uuid::Uuid::now_v7());
    let all: BTreeSet<RunnerId> = known
        .iter()
        .copied()
        .chain((0..5).map(|_| unknown()))
        .collect();
    all.iter().for_each(|id| world.old_log(*id));
    store.away(true);
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert_eq!(world.logs(), all, "nobody could tell");
    store.away(false);
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(world.logs(), known, "looked again by itself");
    world.old_log(unknown());
    engine.reconcile(true).await.unwrap();
    assert_eq!(world.logs().len(), 3, "a dry run changes nothing");
    engine.reconcile(false).await.unwrap();
    assert_eq!(world.logs(), known);
}
