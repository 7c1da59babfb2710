//! Launches that wait, as a program on the bus and somebody at a terminal see them.

use super::bus::{World, given, none, refusal, text};
use super::cli::{ok, refused};
use futures_util::StreamExt;
use std::time::Duration;
use stratavore::api::proxy::Dict;

#[tokio::test(flavor = "multi_thread")]
async fn queued_seen_started_cancelled() {
    let world = World::new().await;
    let manager = world.manager().await;
    let settings = given([("max-runners", 1u32.into()), ("max-queued", 2u64.into())]);
    manager.create_project("acme", &settings).await.unwrap();
    let mut changes = manager.receive_runner_state_changed().await.unwrap();
    let mut endings = manager.receive_runner_ended().await.unwrap();
    let (first, _) = manager.launch("acme", &["sleep"], &none()).await.unwrap();
    let options = |name: &'static str, priority: i32| {
        given([
            ("name", name.into()),
            ("queue", true.into()),
            ("priority", priority.into()),
            ("tokens", "500".into()),
            ("session", name.into()),
        ])
    };
    let (slow, _) = manager
        .launch("acme", &["sleep"], &options("slow", 0))
        .await
        .unwrap();
    let (quick, path) = manager
        .launch("acme", &["sleep"], &options("quick", 5))
        .await
        .unwrap();
    let (name, message) = refusal(
        manager
            .launch("acme", &["sleep"], &options("more", 0))
            .await,
    );
    assert_eq!(name, "org.stratavore1.Error.QueueFull", "{message}");
    assert_eq!(manager.queued_runners().await.unwrap(), 2);
    assert_eq!(manager.live_runners().await.unwrap(), 1);
    let (name, message) = refusal(manager.get_runner("slow").await);
    assert_eq!(name, "org.stratavore1.Error.WrongState");
    assert!(message.contains("waits for its turn"), "{message}");
    let described = manager.describe("slow").await.unwrap();
    let gates = described["gates"].try_clone().unwrap();
    let gates = Vec::<Dict>::try_from(gates).unwrap();
    let of = |name| gates.iter().find(|g| text(g, "name") == name).unwrap();
    assert!(text(of("project-runners"), "message").contains("1 of 1"));
    assert_eq!(of("queue")["used"], 1u64.into());
    assert_eq!(text(&described, "session"), "slow");
    assert_eq!(described["tokens"], 500u64.into());
    let filter = given([("state", "queued".into())]);
    assert_eq!(manager.list_runners(&filter).await.unwrap().len(), 2);
    assert_eq!(manager.list_runners(&none()).await.unwrap().len(), 1);

    let why = ok(&world, &["why", "slow"]).await;
    assert!(
        why.contains("project-runners is shut") && why.contains("1 that wait come before it"),
        "{why}"
    );
    let listed = ok(&world, &["list", "--state", "queued"]).await;
    assert!(
        listed.contains("quick") && listed.contains("slow"),
        "{listed}"
    );
    let full = ["run", "--queue", "acme", "--", "x"];
    refused(&world, &full, 3, "--max-queued").await;
    refused(
        &world,
        &["run", "--queue", "--pipe", "acme", "--", "x"],
        2,
        "--pipe",
    )
    .await;
    refused(
        &world,
        &["run", "--tokens=0", "acme", "--", "x"],
        2,
        "tokens",
    )
    .await;
    let explained = super::cli::ctl(&world, &["run", "--explain", "acme", "--", "x"]).await;
    assert_eq!(explained.0, 3);
    assert!(explained.1.contains("queue-length"), "{explained:?}");

    manager.stop(&first, &none()).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&(quick.clone(), "starting".to_owned(), "running".to_owned())) {
        let change = tokio::time::timeout(Duration::from_secs(60), changes.next()).await;
        let change = change.expect("its turn comes").unwrap();
        let args = change.args().unwrap();
        seen.push((
            args.runner().to_string(),
            args.old().to_string(),
            args.new().to_string(),
        ));
    }
    let turn = (quick.clone(), "queued".to_owned(), "starting".to_owned());
    let waits = (slow.clone(), String::new(), "queued".to_owned());
    assert!(seen.contains(&turn) && seen.contains(&waits), "{seen:?}");
    assert_eq!(manager.get_runner(&quick).await.unwrap(), path);

    ok(&world, &["stop", "slow"]).await;
    let causes = loop {
        let ended = tokio::time::timeout(Duration::from_secs(60), endings.next()).await;
        let ended = ended.expect("it is told").unwrap();
        let args = ended.args().unwrap();
        if *args.runner() == slow {
            break args.cause().to_string();
        }
    };
    assert_eq!(causes, "cancelled");
    let why = ok(&world, &["why", "slow"]).await;
    assert!(why.contains("taken out of the queue by"), "{why}");
    let shown = ok(&world, &["project", "show", "acme"]).await;
    assert!(shown.contains("Max queued: 2"), "{shown}");
}
