//! `diff` and `apply`: the tool with a file, on the bus.

use super::bus::{World, given, none};
use super::cli::{ctl, json, ok, refused, tool};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use stratavore::domain::Timestamp;
use stratavore::domain::event::Actor;
use stratavore::domain::project::ProjectSettings;
use stratavore::ports::Store;

/// A file of the test's own, gone with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let file = format!("stratavore-declared-{name}-{}", std::process::id());
        let file = Self(std::env::temp_dir().join(file));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const DECLARED: &str = r#"
[fleet]
max_runners = 500

[projects.web]
description = "The web team"
max_runners = 4
default_tokens = "2k"
cpu_weight = 50

[projects."batch-1.x"]

[budgets."project:web".day]
limit = "2M"
timezone = "Europe/Berlin"
on_exhausted = "freeze"
count = ["output", "input"]

[budgets.fleet.month]
limit = 70000000
"#;

async fn drift(world: &World, file: &File, more: &[&str]) -> (i32, Value) {
    let words = [&["diff", "-o", "json", "--file", file.path()], more].concat();
    let (code, out, err) = ctl(world, &words).await;
    (code, json(&format!("{out}{err}")))
}

/// Sets one by hand.
async fn set_budget(world: &World, scope: &str, period: &str, limit: &str) {
    let (scope, period) = (format!("--scope={scope}"), format!("--period={period}"));
    let limit = format!("--limit={limit}");
    ok(world, &["budget", "set", &scope, &period, &limit]).await;
}

async fn apply(world: &World, file: &File) -> String {
    ok(world, &["apply", "--file", file.path()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_becomes_so() {
    let world = World::new().await;
    let file = File::new("so", DECLARED);
    let path = file.path();
    ok(&world, &["project", "create", "mine", "--max-runners=1"]).await;
    set_budget(&world, "session:s", "none", "9").await;

    let (code, table, _) = ctl(&world, &["diff", "--file", path]).await;
    assert_eq!(code, 6, "{table}");
    for line in [
        "fleet                   max_runners  500",
        "project web             -            description=“The web team” max_runners=4 default_tokens=2k cpu_weight=50",
        "project batch-1.x       -            there",
        "budget fleet month      -            limit=70M",
        "budget project:web day  -            limit=2M timezone=Europe/Berlin on_exhausted=freeze count=input,output",
        "5 objects differ from",
    ] {
        assert!(table.contains(line), "{line} in\n{table}");
    }
    let dry = ok(&world, &["apply", "--dry-run", "--file", path]).await;
    assert!(dry.contains("5 steps to do; nothing was changed"), "{dry}");
    assert_eq!(
        drift(&world, &file, &[]).await.1.as_array().unwrap().len(),
        5
    );

    let done = apply(&world, &file).await;
    let lines: Vec<&str> = done.lines().collect();
    assert_eq!(
        lines,
        [
            "changed fleet: max_runners infinity → 500",
            "created project batch-1.x",
            "created project web: description=“The web team” max_runners=4 default_tokens=2k cpu_weight=50",
            "created budget fleet month: limit=70M",
            "created budget project:web day: limit=2M timezone=Europe/Berlin on_exhausted=freeze count=input,output",
        ]
    );
    let (code, out, err) = ctl(&world, &["apply", "--file", path]).await;
    assert!(
        code == 0 && out.is_empty() && err.contains("nothing to do"),
        "{out}{err}"
    );
    let (code, out, err) = ctl(&world, &["diff", "--file", path]).await;
    assert!(
        code == 0 && out.is_empty() && err.contains("All is as"),
        "{out}{err}"
    );
    let budget = ok(
        &world,
        &[
            "budget",
            "show",
            "--scope=project:web",
            "--period=day",
            "-o",
            "json",
        ],
    )
    .await;
    assert_eq!(
        (&json(&budget)["limit"], &json(&budget)["timezone"]),
        (&json!(2_000_000), &json!("Europe/Berlin"))
    );

    // By hand: shown, and mended.
    ok(
        &world,
        &[
            "project",
            "set",
            "web",
            "--max-runners=9",
            "--memory-max=1G",
            "--cpu-weight=70",
        ],
    )
    .await;
    set_budget(&world, "fleet", "month", "1k").await;
    ok(&world, &["fleet", "set", "--max-runners=infinity"]).await;
    let (code, found) = drift(&world, &file, &[]).await;
    assert_eq!(code, 6);
    assert_eq!(
        found,
        json!([
            {"kind": "fleet", "name": null, "period": null, "step": "change", "fields": [
                {"field": "max_runners", "declared": 500, "actual": "infinity"}]},
            {"kind": "project", "name": "web", "period": null, "step": "change", "fields": [
                {"field": "max_runners", "declared": 4, "actual": 9},
                {"field": "memory_max", "declared": "infinity", "actual": 1 << 30},
                {"field": "cpu_weight", "declared": 50, "actual": 70}]},
            {"kind": "budget", "name": "fleet", "period": "month", "step": "change", "fields": [
                {"field": "limit", "declared": 70_000_000, "actual": 1_000}]},
        ])
    );
    let done = ok(&world, &["apply", "-o", "jsonl", "--file", path]).await;
    let results: Vec<Value> = done.lines().map(json).collect();
    assert_eq!(results.len(), 3);
    assert!(
        results
            .iter()
            .all(|r| r["result"] == "done" && r["message"].is_null()),
        "{done}"
    );
    assert_eq!(drift(&world, &file, &[]).await, (0, json!([])));

    // What is not declared was left alone, and is listed where somebody asks.
    let (code, others) = drift(&world, &file, &["--all"]).await;
    let names: Vec<&str> = others
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["name"].as_str().unwrap())
        .collect();
    assert_eq!((code, names), (0, vec!["mine", "session:s"]));
    assert!(
        others
            .as_array()
            .unwrap()
            .iter()
            .all(|o| o["step"].is_null())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_may_be_there() {
    let world = World::new().await;
    for project in ["mine", "busy"] {
        ok(&world, &["project", "create", project]).await;
        set_budget(&world, &format!("project:{project}"), "day", "9k").await;
    }
    set_budget(&world, "session:s", "none", "9").await;
    ok(&world, &["fleet", "set", "--max-runners=7"]).await;
    let id = ok(&world, &["run", "--tokens=5", "busy", "--", "sleep"]).await;
    let file = File::new("else", "mutable = false\n[projects.web]\n");
    let path = file.path();

    // What can be done is done; what can't is named.
    let (code, out, err) = ctl(&world, &["apply", "--file", path]).await;
    assert_eq!(code, 1, "{out}{err}");
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        [
            "changed fleet: max_runners 7 → infinity",
            "created project web",
            "removed project mine",
            "removed budget session:s none"
        ],
        "{err}"
    );
    assert!(
        err.contains("project busy")
            && err.contains("1 runner of it")
            && err.contains("stop --project busy"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 1, "it is told once: {err}");
    let (code, found) = drift(&world, &file, &[]).await;
    assert_eq!(
        (code, &found[0]["step"], found.as_array().unwrap().len()),
        (6, &json!("remove"), 1)
    );
    // It keeps its budget as long as it is there.
    ok(
        &world,
        &["budget", "show", "--scope=project:busy", "--period=day"],
    )
    .await;
    let (_, table, _) = ctl(&world, &["diff", "--file", path]).await;
    assert!(
        table.contains("project busy  -      not there  there, with 1 runner"),
        "{table}"
    );

    ok(&world, &["stop", id.trim()]).await;
    // It is seen to have ended a moment before its row says so.
    let id = id.trim().parse().unwrap();
    while world.engine.live_runner(id).is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(apply(&world, &file).await, "removed project busy\n");
    assert_eq!(drift(&world, &file, &[]).await, (0, json!([])));
}

/// Many hosts of a fleet start at once.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let world = World::new().await;
    let file = File::new("many", DECLARED);
    for round in 0..4 {
        let tools: Vec<_> = (0..6)
            .map(|_| {
                let mut tool = tool(&world, &["apply", "--file", file.path()]);
                tool.stdout(Stdio::piped()).stderr(Stdio::piped());
                tool.spawn().unwrap()
            })
            .collect();
        for tool in tools {
            let output = tokio::task::spawn_blocking(move || tool.wait_with_output().unwrap())
                .await
                .unwrap();
            assert_eq!(output.status.code(), Some(0), "{round}: {output:?}");
        }
        assert_eq!(drift(&world, &file, &[]).await, (0, json!([])), "{round}");
        ok(&world, &["project", "remove", "web", "batch-1.x"]).await;
    }
}

/// Somebody else comes in between, before what was asked for is done: what is there then is looked at anew.
#[tokio::test(flavor = "multi_thread")]
async fn another_one_at_the_same_time() {
    let world = World::new().await;
    let file = File::new("between", "[projects.web]\nmax_runners = 4\n");
    for (times, status) in [(1, 0), (5, 1)] {
        world.store.projects.hold();
        let mut tool = tool(&world, &["apply", "--file", file.path()]);
        tool.stdout(Stdio::piped()).stderr(Stdio::piped());
        let tool = tool.spawn().unwrap();
        for time in 0..times {
            let held = world.store.projects.is_held();
            let held = tokio::time::timeout(Duration::from_secs(60), held).await;
            held.expect("it asks for it");
            let other = world.store.behind(async move |store| {
                let (web, host) = ("web".parse().unwrap(), Actor::host());
                let settings = ProjectSettings {
                    max_runners: Some(9),
                    ..ProjectSettings::default()
                };
                match time % 2 {
                    0 => drop(
                        store
                            .create_project(web, settings, host, Timestamp(1))
                            .await?,
                    ),
                    _ => drop(store.remove_project(web, host, Timestamp(1)).await?),
                }
                Ok(())
            });
            other.await.unwrap();
            if time + 1 < times {
                world.store.projects.hold();
            }
            world.store.projects.release();
        }
        let output = tokio::task::spawn_blocking(move || tool.wait_with_output().unwrap());
        let output = output.await.unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
        assert_eq!(output.status.code(), Some(status), "{out}{err}");
        match status {
            0 => {
                assert_eq!(out, "changed project web: max_runners 9 → 4\n");
                assert!(err.is_empty(), "{err}");
                ok(&world, &["project", "remove", "web"]).await;
            }
            _ => assert!(
                out.is_empty() && err.contains("again and again"),
                "{out}{err}"
            ),
        }
    }
    // What is left by then is done by the next one.
    assert_eq!(
        apply(&world, &file).await,
        "changed project web: max_runners 9 → 4\n"
    );
}

/// What is wrong with the file is told before anybody is asked; the bus is none here.
#[tokio::test(flavor = "multi_thread")]
async fn the_file_comes_first() {
    let mut world = World::new().await;
    let file = File::new("first", "[projects.web]\nmax_runers = 4\n");
    let path = file.path().to_owned();
    world.address = "unix:path=/nowhere".to_owned();
    let wrong =
        format!("{path}:2: projects.web: there is no key “max_runers”; did you mean max_runners?");
    for words in [
        &["diff"][..],
        &["apply"],
        &["apply", "--check"],
        &["apply", "--dry-run"],
    ] {
        refused(&world, &[words, &["--file", &path]].concat(), 2, &wrong).await;
    }
    file.write(DECLARED);
    let (code, out, err) = ctl(&world, &["apply", "--check", "--file", &path]).await;
    assert!(code == 0 && out.is_empty(), "{out}{err}");
    assert!(
        err.contains(
            "2 projects, 2 budgets, the fleet's quota; what is not declared is left alone"
        ),
        "{err}"
    );
    refused(
        &world,
        &["apply", "--file", &path],
        1,
        "bus can't be reached",
    )
    .await;
    refused(
        &world,
        &["diff", "--file", "/nowhere/x"],
        1,
        "There is no /nowhere/x",
    )
    .await;
    refused(&world, &["diff", "--file", "/"], 1, "can't be read").await;
    refused(&world, &["diff", "--file", "/dev/zero"], 2, "1048576").await;
    std::fs::write(&file.0, b"\xff").unwrap();
    refused(&world, &["diff", "--file", &path], 1, "UTF-8").await;
}

/// The bus goes away between two steps: what was done stays, and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn cut_off() {
    let mut world = World::new().await;
    let many: String = (0..300).map(|n| format!("[projects.p{n:03}]\n")).collect();
    let file = File::new("cut", &many);
    let mut tool = tool(&world, &["apply", "--file", file.path()]);
    tool.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    let mut first = std::io::BufReader::new(tool.stdout.take().unwrap());
    let first = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut first, &mut line).unwrap();
        (line, first)
    });
    let (line, rest) = first.await.unwrap();
    assert_eq!(line, "created project p000\n");
    world.restart_bus().await;
    let output = tokio::task::spawn_blocking(move || tool.wait_with_output().unwrap());
    let output = output.await.unwrap();
    drop(rest);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("done before") && err.contains("Apply again"),
        "{err}"
    );
    let left = drift(&world, &file, &[]).await.1.as_array().unwrap().len();
    assert!((1..300).contains(&left), "{left}");
    assert_eq!(apply(&world, &file).await.lines().count(), left);
    assert_eq!(drift(&world, &file, &[]).await, (0, json!([])));
    let manager = world.manager().await;
    manager.remove_project("p000", &none()).await.unwrap();
    manager
        .create_project("p000", &given([("max-runners", 3u32.into())]))
        .await
        .unwrap();
    assert_eq!(
        apply(&world, &file).await,
        "changed project p000: max_runners 3 → infinity\n"
    );
}
