//! Budgets and reports, on the bus and by the tool.

use super::bus::{World, given, none, refusal, text};
use super::cli::{ctl, json, ok, refused};
use std::time::Duration;
use zbus::Variant;

const INVALID: &str = "org.stratavore1.Error.InvalidArgument";

async fn launch(world: &World, name: &str) -> String {
    let id = ok(world, &["run", "--name", name, "p", "--", "sleep"]).await;
    id.trim().to_owned()
}

/// Until a runner is in this state; what is shown of it then.
async fn becomes(world: &World, id: &str, state: &str) -> serde_json::Value {
    for _ in 0..3_000 {
        let shown = json(&ok(world, &["show", "-n0", "-o", "json", id]).await);
        if shown["state"] == state {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!(
        "{id} is not {state}: {}",
        ok(world, &["show", "-n0", id]).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_set_and_shown() {
    let world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    let (code, _, err) = ctl(&world, &["budget", "list"]).await;
    assert!(
        code == 0 && err.contains("stratavorectl budget set"),
        "{err}"
    );
    let set = |more: &'static str| {
        let all = format!("budget set --scope project:p --period day {more}");
        let words: Vec<String> = all.split_whitespace().map(str::to_owned).collect();
        let world = &world;
        async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            ctl(world, &words).await
        }
    };
    let (code, _, err) = set("--timezone Europe/Berlin").await;
    assert!(code == 2 && err.contains("--limit"), "{err}");
    assert_eq!(set("--limit 2M --timezone Europe/Berlin").await.0, 0);
    assert_eq!(set("--on-exhausted freeze --count input,output").await.0, 0);
    let (code, _, err) = set("--timezone Mars/Olympus").await;
    assert!(code == 2 && err.contains("timedatectl"), "{err}");
    let (code, _, err) = set("--limit 9223372036854775807").await;
    assert!(code == 2 && err.contains("9007199254740992"), "{err}");
    refused(
        &world,
        &[
            "budget",
            "set",
            "--scope=project:q",
            "--period=day",
            "--limit=1",
        ],
        5,
        "q",
    )
    .await;
    refused(
        &world,
        &["budget", "show", "--scope=fleet", "--period=day"],
        5,
        "budget list",
    )
    .await;
    refused(
        &world,
        &["budget", "remove", "--scope=fleet", "--period=day"],
        5,
        "budget list",
    )
    .await;
    refused(
        &world,
        &["budget", "show", "--scope=p", "--period=day"],
        2,
        "project:NAME",
    )
    .await;

    let shown = ["budget", "show", "--scope=project:p", "--period=day"];
    let budget = json(&ok(&world, &[&shown[..], &["-o", "json"]].concat()).await);
    assert_eq!(budget["limit"], 2_000_000);
    assert_eq!(budget["left"], 2_000_000);
    assert_eq!(budget["timezone"], "Europe/Berlin");
    assert_eq!(budget["on_exhausted"], "freeze");
    assert_eq!(budget["count"], serde_json::json!(["input", "output"]));
    let start = budget["period_start"].as_str().unwrap();
    // Berlin's midnight is an hour or two before that of UTC.
    assert!(
        start.contains("T22:00:00") || start.contains("T23:00:00"),
        "{start}"
    );
    let words = ok(&world, &shown).await;
    assert!(
        words.contains("2M tokens") && words.contains("Europe/Berlin"),
        "{words}"
    );
    let list = ok(&world, &["budget", "list"]).await;
    assert!(
        list.contains("project:p") && list.contains(" 2M ") && list.contains("1 budget listed."),
        "{list}"
    );
    assert_eq!(
        ok(&world, &["budget", "list", "-q"]).await,
        "project:p day\n"
    );

    // With its project it goes.
    ok(&world, &["project", "remove", "p"]).await;
    assert_eq!(
        ok(&world, &["budget", "list", "-o", "json"]).await.trim(),
        "[]"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_budget_or_report_is_named() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    let limit = given([("limit", 5u64.into())]);
    for (scope, period, settings) in [
        ("", "day", limit.clone()),
        ("fleet", "", limit.clone()),
        ("fleet", "year", limit.clone()),
        ("label:a=b", "day", limit.clone()),
        (
            &format!("session:{}", "s".repeat(100_000)),
            "day",
            limit.clone(),
        ),
        ("fleet", "day", none()),
        ("fleet", "day", given([("limit", (-5i64).into())])),
        ("fleet", "day", given([("limit", u64::MAX.into())])),
        (
            "fleet",
            "day",
            given([("limit", Variant::from(5u64)), ("maximum", 5u64.into())]),
        ),
        (
            "fleet",
            "day",
            given([
                ("limit", Variant::from(5u64)),
                ("count", "x".repeat(1 << 20).into()),
            ]),
        ),
        (
            "fleet",
            "day",
            given([
                ("limit", Variant::from(5u64)),
                ("timezone", "../../etc/passwd".into()),
            ]),
        ),
    ] {
        let set = manager.set_budget(scope, period, &settings, &none()).await;
        let (name, message) = refusal(set);
        assert!(name == INVALID && message.len() < 500, "{name} {message}");
    }
    let options = given([("now", true.into())]);
    let (name, _) = refusal(manager.set_budget("fleet", "day", &limit, &options).await);
    assert_eq!(name, INVALID);
    assert_eq!(manager.list_budgets().await.unwrap().len(), 0);
    for n in 0..1_000 {
        let scope = format!("session:s{n}");
        manager
            .set_budget(&scope, "none", &limit, &none())
            .await
            .unwrap();
    }
    let (name, message) = refusal(manager.set_budget("fleet", "day", &limit, &none()).await);
    assert_eq!(name, "org.stratavore1.Error.LimitsExceeded", "{message}");
    assert_eq!(manager.list_budgets().await.unwrap().len(), 1_000);

    let (name, message) = refusal(
        manager
            .report_usage("", &given([("input", 1u64.into())]), &none())
            .await,
    );
    assert!(
        name.ends_with("NoSuchRunner") && message.contains("--runner"),
        "{name} {message}"
    );
    for usage in [
        none(),
        given([("in", 1u64.into())]),
        given([("input", u64::MAX.into())]),
    ] {
        let (name, _) = refusal(manager.report_usage("nosuch", &usage, &none()).await);
        assert_eq!(name, INVALID);
    }
    refused(&world, &["usage", "report"], 2, "--tokens-in").await;
    refused(
        &world,
        &["usage", "report", "--tokens-in=x"],
        2,
        "--tokens-in",
    )
    .await;
    refused(
        &world,
        &["usage", "report", "--runner=nosuch", "--tokens-in=1"],
        5,
        "nosuch",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_freeze_and_a_higher_limit_thaws() {
    let world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    let a = launch(&world, "a").await;
    let b = launch(&world, "b").await;
    let set = |limit: &'static str| {
        [
            "budget",
            "set",
            "--scope=fleet",
            "--period=month",
            "--on-exhausted=freeze",
            limit,
        ]
    };
    ok(&world, &set("--limit=1000")).await;
    // It is a runner's own process that reports.
    let id = a.parse().unwrap();
    *world.host.caller.lock().unwrap() = Some(id);
    let manager = world.manager().await;
    let usage = given([
        ("input", Variant::from(300u64)),
        ("cache-read", 100u64.into()),
        ("output", 200u64.into()),
    ]);
    for _ in 0..2 {
        assert_eq!(manager.report_usage("", &usage, &none()).await.unwrap(), a);
    }
    let shown = json(&ok(&world, &["show", "-n0", "-o", "json", "a"]).await);
    assert_eq!(shown["usage"]["tokens_in"], 400, "{shown}");
    assert_eq!(shown["usage"]["tokens_out"], 200);
    assert_eq!(shown["token_usage"]["cache_read"], 100);
    *world.host.caller.lock().unwrap() = None;
    let budgets = manager.list_budgets().await.unwrap();
    assert_eq!(
        budgets[0]["used"],
        Variant::from(600u64).try_into_owned().unwrap()
    );
    // It reserved nothing, so all of it is overrun.
    assert_eq!(
        budgets[0]["overrun"],
        Variant::from(600u64).try_into_owned().unwrap()
    );
    assert_eq!(text(&budgets[0], "scope"), "fleet");

    ok(
        &world,
        &["usage", "report", "--runner=b", "--tokens-out=401"],
    )
    .await;
    for id in [&a, &b] {
        let shown = becomes(&world, id, "frozen").await;
        assert_eq!(shown["frozen_by"], "budget fleet/month");
    }
    let why = ok(&world, &["why", "b"]).await;
    assert!(
        why.contains("401 out") && why.contains("budget set --scope fleet"),
        "{why}"
    );
    refused(&world, &["thaw", "a"], 3, "1001 of 1000 tokens").await;
    refused(&world, &["run", "p", "--", "sleep"], 3, "budget").await;
    let list = ok(&world, &["budget", "list"]).await;
    assert!(list.contains("(100%)"), "{list}");
    let told = ok(&world, &["events", "--type=budget.threshold", "-o=jsonl"]).await;
    let told: Vec<_> = crate::fakes::schema::lines(&told)
        .iter()
        .map(|e| e["data"]["percent"].clone())
        .collect();
    assert_eq!(told, [50, 80, 100]);
    let exceeded = ok(&world, &["events", "--type=budget.exceeded", "-o=jsonl"]).await;
    assert_eq!(crate::fakes::schema::lines(&exceeded).len(), 1);

    ok(&world, &set("--limit=2k")).await;
    for id in [&a, &b] {
        becomes(&world, id, "running").await;
    }
    // What ends over its budget says so.
    ok(
        &world,
        &[
            "budget",
            "set",
            "--scope=fleet",
            "--period=month",
            "--on-exhausted=stop",
            "--limit=1k",
        ],
    )
    .await;
    for id in [&a, &b] {
        let shown = becomes(&world, id, "ended").await;
        assert_eq!(shown["exit"]["cause"], "over-budget");
        assert_eq!(
            shown["usage"]["tokens_out"],
            if *id == a { 200 } else { 401 }
        );
    }
    let why = ok(&world, &["why", "b"]).await;
    assert!(why.contains("401 out"), "{why}");
    // Late reports count.
    ok(
        &world,
        &["usage", "report", "--runner=b", "--tokens-out=500"],
    )
    .await;
    let budgets = manager.list_budgets().await.unwrap();
    assert_eq!(
        budgets[0]["used"],
        Variant::from(1_100u64).try_into_owned().unwrap()
    );
    // What is set aside for nobody any more is gone, and the gate is open again without the budget.
    ok(
        &world,
        &["budget", "remove", "--scope=fleet", "--period=month"],
    )
    .await;
    launch(&world, "c").await;
}
