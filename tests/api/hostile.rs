//! What a caller may get wrong, or mean badly.

use super::bus::{World, given, identity, myself, none, refusal, text};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;
use stratavore::api::proxy::ManagerProxy;
use stratavore::api::{self, Bus};
use zbus::Variant;
use zbus::proxy::CacheProperties;

const INVALID: &str = "org.stratavore1.Error.InvalidArgument";

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_its_named_error_and_leaves_nothing() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let before = manager.list_events(0, 0, &none()).await.unwrap().len();

    let launch = async |key: &'static str, value: Variant<'static>| {
        let (name, message) = refusal(manager.launch("p", &["x"], &given([(key, value)])).await);
        assert_eq!(name, INVALID, "{message}");
        message
    };
    let message = launch("memory_max", "1G".into()).await;
    assert!(message.contains("did you mean memory-max"), "{message}");
    let message = launch("memory-max", true.into()).await;
    assert!(
        message.contains("memory-max") && message.contains("type b"),
        "{message}"
    );
    launch("memory-max", 0u64.into()).await;
    launch("memory-max", "99999999999E".into()).await;
    launch("queue", "yes".into()).await;
    launch("priority", 101i32.into()).await;
    launch("tokens", 0u64.into()).await;
    launch("session", "a/b".into()).await;
    launch("on", 1u32.into()).await;
    launch("name", "../x".into()).await;
    launch("uid", "no/such/user".into()).await;
    // Another host is one of the fleet, and what the store does not carry is refused first.
    let there = given([("on", "other".into())]);
    let (name, _) = refusal(manager.launch("p", &["x"], &there).await);
    assert_eq!(name, "org.stratavore1.Error.NoSuchHost");
    let files = vec!["/env".to_owned()];
    let there = given([("on", "other".into()), ("env-file", files.into())]);
    let (name, message) = refusal(manager.launch("p", &["x"], &there).await);
    assert_eq!(name, INVALID);
    assert!(message.contains("do not go through the store"), "{message}");
    // Who may not launch as another user does not learn which users there are.
    let other = given([("uid", "no-such-user-here".into())]);
    let (name, _) = refusal(manager.launch("p", &["x"], &other).await);
    assert_eq!(name, "org.stratavore1.Error.NotPermitted");
    launch("working-directory", "relative".into()).await;
    let huge: HashMap<String, String> = (0..10_000)
        .map(|n| (format!("k{n}"), "v".repeat(255)))
        .collect();
    assert!(launch("label", huge.into()).await.contains("at most 32"));
    launch("label", HashMap::from([("k", "v".repeat(1 << 20))]).into()).await;
    launch(
        "setenv",
        vec!["E=".to_owned() + &"x".repeat(1 << 20)].into(),
    )
    .await;
    // NUL bytes can't travel in a D-Bus string at all; the library refuses to send them.

    for command in [vec![], vec![""], vec!["x"; 5_000]] {
        let (name, _) = refusal(manager.launch("p", &command, &none()).await);
        assert_eq!(name, INVALID);
    }
    let mega = "x".repeat(1 << 20);
    let (name, message) = refusal(manager.launch("p", &["echo", &mega], &none()).await);
    assert_eq!(name, INVALID);
    assert!(message.contains("at most 131072"), "{message}");
    for project in ["", "-x", "a/b", "Ä", "..", "x y", &"x".repeat(64)] {
        let (name, _) = refusal(manager.launch(project, &["x"], &none()).await);
        assert_eq!(name, INVALID, "{project}");
        let (name, _) = refusal(manager.create_project(project, &none()).await);
        assert_eq!(name, INVALID, "{project}");
    }
    let (name, _) = refusal(manager.launch("nobody-made-it", &["x"], &none()).await);
    assert_eq!(name, "org.stratavore1.Error.NoSuchProject");
    for runner in [
        "",
        "nosuch",
        "01",
        "00000000-0000-7000-8000-000000000000",
        "%",
        "'; --",
    ] {
        let (name, _) = refusal(manager.describe(runner).await);
        assert_eq!(name, "org.stratavore1.Error.NoSuchRunner", "{runner}");
        let (name, _) = refusal(manager.stop(runner, &none()).await);
        assert_eq!(name, "org.stratavore1.Error.NoSuchRunner", "{runner}");
    }
    let (name, _) = refusal(manager.stop("x", &given([("now", true.into())])).await);
    assert_eq!(name, INVALID);
    let (name, _) = refusal(manager.kill("x", 65, &none()).await);
    assert_eq!(name, INVALID);
    for limit in [0, api::PAGE_MAX + 1] {
        let (name, _) = refusal(
            manager
                .list_runners(&given([("limit", limit.into())]))
                .await,
        );
        assert_eq!(name, INVALID);
    }

    assert_eq!(
        manager.list_events(0, 0, &none()).await.unwrap().len(),
        before
    );
    assert_eq!(world.host.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_signatures_are_refused_by_name() {
    let world = World::new().await;
    let client = world.client().await;
    let call = client.call_method(
        Some("org.stratavore1"),
        "/org/stratavore1",
        Some("org.stratavore1.Manager"),
        "Launch",
        &(1u32, "x"),
    );
    let (name, _) = refusal(call.await);
    assert_eq!(name, "org.freedesktop.DBus.Error.InvalidArgs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_the_first_one() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let with =
        |value: &'static str| given([("request-id", "r1".into()), ("setenv", vec![value].into())]);
    let first = manager.launch("p", &["sleep"], &with("A=1")).await.unwrap();
    let again = manager.launch("p", &["sleep"], &with("A=1")).await.unwrap();
    assert_eq!(first, again);
    let (name, _) = refusal(manager.launch("p", &["sleep"], &with("A=2")).await);
    assert_eq!(name, "org.stratavore1.Error.Conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_exec_is_told_to_the_caller() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let named = given([("name", "broken".into())]);
    let (name, message) = refusal(manager.launch("p", &["fail"], &named).await);
    assert_eq!(name, "org.stratavore1.Error.LaunchFailed");
    assert!(message.contains("not found"), "{message}");
    let described = manager.describe("broken").await.unwrap();
    assert_eq!(text(&described, "state"), "ended");
    // The owner may read the sentence again; events are for everybody.
    let described = format!("{described:?}");
    assert!(described.contains("not found"), "{described}");
    let events = manager.list_events(0, 0, &none()).await.unwrap();
    let events = format!("{events:?}");
    assert!(
        events.contains("could not be started") && !events.contains("not found"),
        "{events}"
    );
}

/// The session's user is somebody else: the one caller there can be here is a stranger.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_the_public_part_and_do_nothing() {
    let world = World::on(Bus::Session { uid: 4_000_000 }).await;
    let manager = world.manager().await;
    let actor = stratavore::domain::event::Actor::host();
    let engine = &world.engine;
    let name: stratavore::domain::ProjectName = "p".parse().unwrap();
    engine
        .create_project(name.clone(), Default::default(), actor.clone())
        .await
        .unwrap();
    let spec = stratavore::domain::RunnerSpec {
        project: name,
        command: vec!["hidden-command".to_owned()],
        name: Some("theirs".to_owned()),
        uid: 4_000_000,
        user: "them".to_owned(),
        working_directory: Some("/hidden-cwd".to_owned()),
        labels: [("hidden-key".to_owned(), "hidden-value".to_owned())].into(),
        limits: Default::default(),
        log_file_max: None,
        priority: 0,
        tokens: None,
        session: None,
        placed: None,
    };
    let request = stratavore::engine::LaunchRequest {
        spec,
        setenv: Vec::new(),
        request_id: None,
        inputs: Default::default(),
        streams: Default::default(),
        queue: false,
        order: None,
    };
    let launched = engine.launch(request, actor).await.unwrap();
    let id = launched.runner.id.to_string();

    // Another one whose command is not there; the host's sentence names it.
    let spec = stratavore::domain::RunnerSpec {
        command: vec!["fail".to_owned()],
        name: Some("broken".to_owned()),
        ..launched.runner.spec.clone()
    };
    let request = stratavore::engine::LaunchRequest {
        spec,
        setenv: Vec::new(),
        request_id: None,
        inputs: Default::default(),
        streams: Default::default(),
        queue: false,
        order: None,
    };
    let mut endings = manager.receive_runner_ended().await.unwrap();
    let failed = engine.launch(request, stratavore::domain::event::Actor::host());
    assert!(failed.await.unwrap_err().message.contains("not found"));
    let ended = endings.next().await.unwrap();
    let broken = manager.describe("broken").await.unwrap();
    assert_eq!(text(&broken, "state"), "ended");
    let all = manager
        .list_runners(&given([("all", true.into())]))
        .await
        .unwrap();
    assert_eq!(all.len(), 2);
    let events = manager.list_events(0, 0, &none()).await.unwrap();
    let seen = format!("{:?}{broken:?}{all:?}{events:?}", ended.args().unwrap());
    assert!(seen.contains("launch-failed"), "{seen}");
    assert!(
        !seen.contains("not found") && !seen.contains("hidden"),
        "{seen}"
    );

    let described = manager.describe("theirs").await.unwrap();
    assert_eq!(text(&described, "user"), "them");
    let listed = manager.list_runners(&none()).await.unwrap();
    assert_eq!(listed.len(), 1);
    let label = HashMap::from([("hidden-key", "hidden-value")]);
    let search = given([("label", label.into())]);
    assert!(manager.list_runners(&search).await.unwrap().is_empty());
    let client = world.client().await;
    let path = manager.get_runner(&id).await.unwrap();
    let properties = zbus::fdo::PropertiesProxy::new(&client, "org.stratavore1", path)
        .await
        .unwrap();
    let interface = || "org.stratavore1.Runner".try_into().unwrap();
    let all = properties.get_all(interface()).await.unwrap();
    let events = manager.list_events(0, 0, &none()).await.unwrap();
    let seen = format!("{described:?}{listed:?}{all:?}{events:?}");
    assert!(!seen.contains("hidden"), "{seen}");
    let command = properties.get(interface(), "Command").await.unwrap();
    assert_eq!(command.to_string(), "@as []");

    let denied = "org.stratavore1.Error.NotPermitted";
    assert_eq!(refusal(manager.stop(&id, &none()).await).0, denied);
    assert_eq!(refusal(manager.kill(&id, 9, &none()).await).0, denied);
    assert_eq!(refusal(manager.freeze(&id, &none()).await).0, denied);
    assert_eq!(refusal(manager.thaw(&id, &none()).await).0, denied);
    let limits = given([("memory-max", "1G".into())]);
    assert_eq!(
        refusal(manager.set_limits(&id, &limits, &none()).await).0,
        denied
    );
    assert_eq!(
        refusal(manager.launch("p", &["x"], &none()).await).0,
        denied
    );
    assert_eq!(
        refusal(manager.create_project("q", &none()).await).0,
        denied
    );
    let settings = given([("description", "x".into())]);
    assert_eq!(refusal(manager.set_project("p", &settings).await).0, denied);
    assert_eq!(
        refusal(manager.remove_project("p", &none()).await).0,
        denied
    );
    assert_eq!(world.host.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_takes_up_only_so_much() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2_000 {
        let manager = manager.clone();
        tasks.spawn(async move { manager.launch("p", &["sleep"], &none()).await.map(drop) });
    }
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        match result.unwrap() {
            Ok(()) => done += 1,
            refused => {
                let (name, message) = refusal(refused);
                assert_eq!(name, "org.stratavore1.Error.LimitsExceeded", "{message}");
            }
        }
    }
    assert!(done >= api::CALLS_MAX, "{done}");
    assert_eq!(world.host.count(), done);
    // And afterwards everything is as before.
    manager.list_projects().await.unwrap();
    api::heartbeat(&world.served).await.unwrap();
}

/// Whose the calls are is asked on a bus that stands still: they are held open for certain.
#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_limit_are_refused_and_the_others_go_on() {
    const MORE: usize = 10;
    let (world, other) = (World::new().await, World::new().await);
    let (served, lookups) = (world.client().await, other.client().await);
    api::serve_with(
        &served,
        &lookups,
        world.engine.clone(),
        identity(),
        myself(),
    )
    .await
    .unwrap();
    let manager = ManagerProxy::builder(&world.client().await)
        .destination(served.unique_name().unwrap().to_owned())
        .cache_properties(CacheProperties::No)
        .build()
        .await
        .unwrap();
    other.freeze_bus(true);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..api::CALLS_MAX + MORE {
        let manager = manager.clone();
        tasks.spawn(async move { manager.list_projects().await.map(drop) });
    }
    const FULL: &str = "org.stratavore1.Error.LimitsExceeded";
    for _ in 0..MORE {
        let answer = tokio::time::timeout(Duration::from_secs(8), tasks.join_next());
        let answer = answer.await.expect("those too many are refused at once");
        assert_eq!(refusal(answer.unwrap().unwrap()).0, FULL);
    }
    other.freeze_bus(false);
    while let Some(answer) = tasks.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.is_ok() || refusal(answer).0 != FULL);
    }
    let answer = manager.list_projects().await;
    assert!(answer.is_ok() || refusal(answer).0 != FULL);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_taken_once() {
    let world = World::new().await;
    let other = world.client().await;
    assert_eq!(api::own_name(&other).await, Err(zbus::Error::NameTaken));
    assert!(matches!(myself(), Bus::Session { .. }));
}
