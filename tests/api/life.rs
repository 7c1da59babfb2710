//! A runner's life as a program on the bus sees it.

use super::bus::{World, given, none, refusal, text};
use futures_util::StreamExt;
use std::time::Duration;
use stratavore::domain::RunnerId;
use zbus::fdo::{ObjectManagerProxy, PropertiesProxy};
use zbus::{OwnedObjectPath, Variant};

#[tokio::test(flavor = "multi_thread")]
async fn launched_seen_stopped_ended() {
    let world = World::new().await;
    let manager = world.manager().await;
    let client = world.client().await;
    let objects = ObjectManagerProxy::new(&client, "org.stratavore1", "/org/stratavore1")
        .await
        .unwrap();
    let mut added = objects.receive_interfaces_added().await.unwrap();
    let mut removed = objects.receive_interfaces_removed().await.unwrap();
    let mut changes = manager.receive_runner_state_changed().await.unwrap();
    let mut endings = manager.receive_runner_ended().await.unwrap();

    let path = manager
        .create_project("acme", &given([("max-runners", 2u32.into())]))
        .await
        .unwrap();
    assert_eq!(path.as_str(), "/org/stratavore1/project/acme");
    let first = added.next().await.unwrap();
    assert_eq!(first.args().unwrap().object_path().as_str(), path.as_str());

    let options = given([
        ("name", "web".into()),
        ("memory-max", "1G".into()),
        (
            "label",
            std::collections::HashMap::from([("tier", "gold")]).into(),
        ),
        ("setenv", vec!["TOKEN=sk-secret"].into()),
    ]);
    let (id, object) = manager
        .launch("acme", &["sleep", "1h"], &options)
        .await
        .unwrap();
    let added = added.next().await.unwrap();
    let args = added.args().unwrap();
    assert_eq!(args.object_path().as_str(), object.as_str());
    let shown = format!("{:?}", args.interfaces_and_properties());
    assert!(shown.contains("Unit"), "{shown}");
    for secret in ["sleep", "gold", "secret"] {
        assert!(!shown.contains(secret), "signals carry no {secret}");
    }

    let described = manager.describe("web").await.unwrap();
    assert_eq!(text(&described, "id"), id);
    assert_eq!(text(&described, "state"), "running");
    let all = format!("{described:?}");
    assert!(all.contains("sleep") && all.contains("gold") && !all.contains("secret"));
    assert_eq!(manager.get_runner(&id[..18]).await.unwrap(), object);
    assert_eq!(manager.live_runners().await.unwrap(), 1);
    let gold = std::collections::HashMap::from([("tier", "gold")]);
    let filter = given([("label", gold.into())]);
    assert_eq!(manager.list_runners(&filter).await.unwrap().len(), 1);
    let managed = objects.get_managed_objects().await.unwrap();
    assert_eq!(managed.len(), 2, "one runner, one project, nothing between");

    manager.freeze(&id, &none()).await.unwrap();
    manager.thaw(&id, &none()).await.unwrap();
    manager
        .set_limits("web", &given([("memory-max", "2G".into())]), &none())
        .await
        .unwrap();
    manager.stop(&id, &none()).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let change = changes.next().await.unwrap();
        let args = change.args().unwrap();
        assert_eq!((*args.runner(), *args.project()), (id.as_str(), "acme"));
        seen.push(format!("{}>{}", args.old(), args.new()));
    }
    assert_eq!(
        seen.join(" "),
        ">starting starting>running running>frozen frozen>running running>stopping stopping>ended"
    );
    let ended = endings.next().await.unwrap();
    let args = ended.args().unwrap();
    assert_eq!((*args.cause(), *args.status()), ("stopped", 15));
    let gone = removed.next().await.unwrap();
    assert_eq!(gone.args().unwrap().object_path().as_str(), object.as_str());

    let described = manager.describe("web").await.unwrap();
    assert_eq!(text(&described, "state"), "ended");
    assert!(format!("{described:?}").contains("2147483648"));
    let (name, _) = refusal(manager.get_runner(&id).await);
    assert_eq!(name, "org.stratavore1.Error.WrongState");
    let (name, _) = refusal(manager.stop(&id, &none()).await);
    assert_eq!(name, "org.stratavore1.Error.WrongState");

    manager.remove_project("acme", &none()).await.unwrap();
    let gone = removed.next().await.unwrap();
    assert_eq!(gone.args().unwrap().object_path().as_str(), path.as_str());
    assert!(objects.get_managed_objects().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_agree_with_their_signals() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let (id, object) = manager.launch("p", &["sleep"], &none()).await.unwrap();
    let client = world.client().await;
    let properties = PropertiesProxy::new(&client, "org.stratavore1", object)
        .await
        .unwrap();
    let mut changed = properties.receive_properties_changed().await.unwrap();
    let interface = || "org.stratavore1.Runner".try_into().unwrap();
    let all = properties.get_all(interface()).await.unwrap();
    assert_eq!(
        all["Id"],
        zbus::OwnedVariant::from(zbus::wire::Str::from(id.clone()))
    );
    assert!(
        format!("{:?}", all["Command"]).contains("sleep"),
        "owners see it"
    );
    assert!(format!("{:?}", all["Usage"]).contains("1000"));
    world
        .host
        .end(id.parse::<RunnerId>().unwrap(), |r| r.code = Some(3))
        .await;
    // What was under way when we subscribed may come first.
    let signal = loop {
        let signal = changed.next().await.unwrap();
        let state = {
            let args = signal.args().unwrap();
            format!("{:?}", args.changed_properties().get("State"))
        };
        if state.contains("ended") {
            break signal;
        }
    };
    let args = signal.args().unwrap();
    let of = |key: &str| format!("{:?}", args.changed_properties().get(key));
    assert!(of("Exit").contains("exit-code"), "{}", of("Exit"));
    assert!(args.changed_properties().get("Command").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_runners_and_events_lose_nothing() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..25 {
        let code = n.to_string();
        let (id, _) = manager
            .launch("p", &["exit", &code], &none())
            .await
            .unwrap();
        ids.push(id);
    }
    for _ in 0..1_200 {
        if manager.live_runners().await.unwrap() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut found = Vec::new();
    let mut filter = given([("all", true.into()), ("limit", 10u32.into())]);
    loop {
        let page = manager.list_runners(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.insert("after", text(last, "id").into());
        found.extend(page.iter().map(|d| text(d, "id")));
    }
    found.reverse();
    assert_eq!(found, ids);

    let (mut after, mut count) = (0, 0);
    loop {
        let page = manager.list_events(after, 7, &none()).await.unwrap();
        if page.is_empty() {
            break;
        }
        for event in page {
            let seq: u64 = event["seq"].try_clone().unwrap().try_into().unwrap();
            assert_eq!(seq, after + 1);
            after = seq;
            count += 1;
        }
    }
    // project.created, and starting, running, ended of each.
    assert_eq!(count, 1 + 25 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_and_says_so() {
    let world = World::new().await;
    let manager = world.manager().await;
    let cap = given([("max-runners", 1u32.into())]);
    manager.create_project("p", &cap).await.unwrap();
    manager.launch("p", &["sleep"], &none()).await.unwrap();
    let (name, message) = refusal(manager.launch("p", &["sleep"], &none()).await);
    assert_eq!(name, "org.stratavore1.Error.QuotaExceeded");
    assert!(message.contains("1 of 1"), "{message}");
    let (admitted, gates) = manager.explain("p", &["sleep"], &none()).await.unwrap();
    assert!(!admitted);
    assert_eq!(text(&gates[0], "name"), "project-runners");
    manager
        .set_project("p", &given([("max-runners", "infinity".into())]))
        .await
        .unwrap();
    manager.launch("p", &["sleep"], &none()).await.unwrap();
    let (name, _) = refusal(manager.remove_project("p", &none()).await);
    assert_eq!(name, "org.stratavore1.Error.Conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_at_once() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..4 {
        let manager = world.manager().await;
        for n in 0..125 {
            let manager = manager.clone();
            tasks.spawn(async move {
                let id = format!("{connection}-{n}");
                let options = given([("request-id", Variant::from(id))]);
                manager.launch("p", &["sleep"], &options).await
            });
        }
    }
    let mut ids = std::collections::BTreeSet::new();
    while let Some(launched) = tasks.join_next().await {
        ids.insert(launched.unwrap().unwrap().0);
    }
    assert_eq!(ids.len(), 500);
    // All objects are there as soon as the burst is over.
    let client = world.client().await;
    let objects = ObjectManagerProxy::new(&client, "org.stratavore1", "/org/stratavore1")
        .await
        .unwrap();
    for _ in 0..1_200 {
        if objects.get_managed_objects().await.unwrap().len() == 501 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let managed = objects.get_managed_objects().await.unwrap();
    assert_eq!(managed.len(), 501);
    let some: OwnedObjectPath = managed
        .keys()
        .find(|p| p.as_str().contains("/runner/"))
        .unwrap()
        .clone();
    let runner = stratavore::api::proxy::RunnerProxy::new(&client, some)
        .await
        .unwrap();
    assert_eq!(runner.state().await.unwrap(), "running");
    assert_eq!(manager.live_runners().await.unwrap(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_told_and_reading_goes_on() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let (id, _) = manager.launch("p", &["sleep"], &none()).await.unwrap();
    world.store.away(true);
    let (name, _) = refusal(manager.launch("p", &["sleep"], &none()).await);
    assert_eq!(name, "org.stratavore1.Error.StoreUnavailable");
    assert_eq!(manager.store().await.unwrap(), "down");
    assert_eq!(
        text(&manager.describe(&id).await.unwrap(), "state"),
        "running"
    );
    assert_eq!(manager.list_runners(&none()).await.unwrap().len(), 1);
    manager.stop(&id, &none()).await.unwrap();
    world.store.away(false);
    for _ in 0..600 {
        if manager.live_runners().await.unwrap() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the ending never came");
}
