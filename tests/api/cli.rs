//! The control tool against the real interface.

use super::bus::World;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// The bus is started again under everybody who waits: they connect and subscribe anew.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_outlives_the_bus() {
    let mut world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    let id = ok(&world, &["run", "--name=w", "p", "--", "sleep"]).await;
    let start = |arguments: &[&str]| {
        let mut tool = tool(&world, arguments);
        tool.stdout(Stdio::piped()).stderr(Stdio::piped());
        tool.spawn().unwrap()
    };
    let over = ok(&world, &["run", "p", "--", "exit", "0"]).await;
    let mut waits = start(&["wait", "-o", "jsonl", over.trim(), "w"]);
    let mut runs = start(&["run", "--wait", "p", "--", "sleep"]);
    let mut follows = start(&["events", "-f", "--after=0", "-o", "jsonl"]);
    // Each has subscribed before it says its first word.
    let (told, said, events) = (
        waits.stdout.take().unwrap(),
        runs.stderr.take().unwrap(),
        follows.stdout.take().unwrap(),
    );
    let first_words = tokio::task::spawn_blocking(move || {
        let mut told = BufReader::new(told).lines();
        let mut said = BufReader::new(said).lines();
        let mut events = BufReader::new(events).lines();
        let first = |line: Option<std::io::Result<String>>| line.unwrap().unwrap();
        let (over, runs) = (first(told.next()), first(said.next()));
        let event = first(events.next());
        (told, said, events, over, runs, event)
    });
    let first_words = tokio::time::timeout(Duration::from_secs(60), first_words).await;
    let (told, said, lines, first, running, event) =
        first_words.expect("all of them begin").unwrap();
    assert!(first.contains(over.trim()), "{first}");
    assert!(running.contains("Running as"), "{running}");
    world.restart_bus().await;
    // It is back before anybody has given up, and then both end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for runner in world.engine.live() {
        world.host.end(runner.id, |r| r.code = Some(7)).await;
    }
    let done = tokio::task::spawn_blocking(move || {
        let told: Vec<String> = told.map(Result::unwrap).collect();
        let said: Vec<String> = said.map(Result::unwrap).collect();
        (
            (waits.wait_with_output().unwrap(), told.concat()),
            (runs.wait_with_output().unwrap(), said.concat()),
        )
    });
    let (waits, runs) = tokio::time::timeout(Duration::from_secs(60), done)
        .await
        .expect("nobody waits for ever")
        .unwrap();
    assert_eq!(waits.0.status.code(), Some(0), "{waits:?}");
    assert!(waits.1.contains(id.trim()));
    assert_eq!(runs.0.status.code(), Some(7), "{runs:?}");
    const ALL: u64 = 1 + 3 * 3;
    let seqs = tokio::task::spawn_blocking(move || -> Vec<u64> {
        let seq = |line: &str| json(line)["seq"].as_u64().unwrap();
        let rest = lines.map(|line| seq(&line.unwrap()));
        std::iter::once(seq(&event))
            .chain(rest)
            .take(ALL as usize)
            .collect()
    });
    let seqs = tokio::time::timeout(Duration::from_secs(60), seqs)
        .await
        .expect("all events are told")
        .unwrap();
    follows.kill().unwrap();
    follows.wait().unwrap();
    assert_eq!(seqs, (1..=ALL).collect::<Vec<u64>>());
}

/// Runs the tool; a thread of its own, as the bus is served by this process.
pub async fn ctl(world: &World, arguments: &[&str]) -> (i32, String, String) {
    let mut command = tool(world, arguments);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

pub fn tool(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stratavorectl"));
    command
        .args(arguments)
        .env("DBUS_SYSTEM_BUS_ADDRESS", &world.address)
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

pub async fn ok(world: &World, arguments: &[&str]) -> String {
    let (code, out, err) = ctl(world, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

pub async fn refused(world: &World, arguments: &[&str], status: i32, words: &str) {
    let (code, out, err) = ctl(world, arguments).await;
    assert_eq!(code, status, "{arguments:?}: {out}{err}");
    assert!(err.contains(words), "{arguments:?}: {words} in {err}");
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_the_tool() {
    let world = World::new().await;
    let status = ok(&world, &["status"]).await;
    assert!(
        status.contains("testhost") && status.contains("1.2.3"),
        "{status}"
    );
    ok(
        &world,
        &[
            "project",
            "create",
            "acme",
            "--max-runners=2",
            "--memory-max=4G",
            "--description",
            "All of it",
        ],
    )
    .await;
    let id = ok(
        &world,
        &[
            "run",
            "--name=web",
            "--label",
            "tier=gold",
            "--memory-max=1G",
            "-E",
            "A=b",
            "acme",
            "--",
            "sleep",
            "1 h",
        ],
    )
    .await;
    let id = id.trim();
    assert_eq!(id.len(), 36);

    let list = ok(&world, &["list"]).await;
    assert!(
        list.contains(id) && list.contains("web") && list.contains("sleep '1 h'"),
        "{list}"
    );
    let listed = json(&ok(&world, &["list", "-o", "json", "--label=tier=gold"]).await);
    assert_eq!(listed[0]["id"], id);
    assert_eq!(listed[0]["limits"]["memory_max"], 1u64 << 30);
    assert_eq!(listed[0]["command"][1], "1 h");
    assert_eq!(listed[0]["exit"], Value::Null);
    assert_eq!(ok(&world, &["list", "-q"]).await.trim(), id);
    assert_eq!(ok(&world, &["list", "-q", "--label", "tier=tin"]).await, "");

    ok(&world, &["freeze", "web"]).await;
    assert_eq!(
        json(&ok(&world, &["show", "-o", "json", "web"]).await)["state"],
        "frozen"
    );
    ok(&world, &["thaw", &id[..18]]).await;
    ok(&world, &["set", "web", "memory_max=2G", "cpu-quota=150%"]).await;
    let shown = ok(&world, &["show", "web"]).await;
    for part in [
        "max 2G",
        "quota 150%",
        "tier=gold",
        "journalctl -u",
        "started ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let (code, out, err) = ctl(&world, &["stop", "web"]).await;
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("stopped"), "{err}");
    let ended = json(&ok(&world, &["show", "-o", "json", "web"]).await);
    assert_eq!(ended["state"], "ended");
    assert_eq!(ended["exit"]["cause"], "stopped");
    assert_eq!(ended["exit"]["signal"], "SIGTERM");
    assert_eq!(ended["usage"]["cpu_usec"], 1_500);
    let all = ok(&world, &["list", "--all"]).await;
    assert!(
        all.contains("EXIT") && all.contains("stopped SIGTERM"),
        "{all}"
    );
    ok(&world, &["stop", "web"]).await;
    let told = ok(&world, &["wait", "web"]).await;
    assert!(told.contains("stopped. "), "{told}");
    // As systemctl has it: what is stopped is stopped. Other verbs need a live one.
    let (code, out, err) = ctl(&world, &["stop", "web"]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    refused(&world, &["freeze", "web"], 1, "ended").await;
    let (code, out, err) = ctl(&world, &["wait", "-o", "jsonl", "web", "nobody", id]).await;
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("nobody"), "{err}");
    assert_eq!(json(&out)["id"], id);

    let events = ok(&world, &["events"]).await;
    assert_eq!(events.lines().count(), 7, "{events}");
    let after = json(&ok(&world, &["events", "--after", "5", "-o", "json"]).await);
    let shown = ok(&world, &["events", "-o", "jsonl"]).await;
    assert_eq!(crate::fakes::schema::lines(&shown).len(), 7);
    assert_eq!(after[0]["seq"], 6);
    assert_eq!(after.as_array().unwrap().len(), 2);

    ok(
        &world,
        &["project", "set", "acme", "--max-runners=infinity"],
    )
    .await;
    let project = json(&ok(&world, &["project", "show", "-o", "json", "acme"]).await);
    assert_eq!(project["max_runners"], Value::Null);
    assert_eq!(project["description"], "All of it");
    assert!(ok(&world, &["project", "list"]).await.contains("acme"));
    assert!(
        ok(&world, &["project", "show", "acme"])
            .await
            .contains("memory-max=4G")
    );
    ok(&world, &["project", "remove", "acme"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_and_sentences() {
    let world = World::new().await;
    ok(
        &world,
        &["project", "create", "web-1.x", "--max-runners", "1"],
    )
    .await;
    refused(&world, &["run", "web-1.y", "--", "x"], 5, "web-1.x").await;
    refused(
        &world,
        &["run", "--memory-max=lots", "web-1.x", "--", "x"],
        2,
        "lots",
    )
    .await;
    refused(&world, &["run", "--pty", "web-1.x", "--", "x"], 2, "--pty").await;
    refused(&world, &["--user", "--system", "list"], 2, "--system").await;
    refused(&world, &["--user", "-Hweb1", "list"], 2, "--host").await;
    refused(&world, &["run", "web-1.x"], 2, "COMMAND").await;
    refused(
        &world,
        &["run", "-E", "NOT_THERE_AT_ALL", "web-1.x", "--", "x"],
        2,
        "NOT_THERE_AT_ALL",
    )
    .await;
    refused(
        &world,
        &["run", "--uid=nobody", "web-1.x", "--", "x"],
        4,
        "session bus",
    )
    .await;
    refused(&world, &["show", "0000"], 5, "0000").await;
    // Of each is told, whatever becomes of the others.
    ok(&world, &["project", "create", "several"]).await;
    for name in ["--name=s1", "--name=s2", "--name=s3", "--name=s4"] {
        ok(&world, &["run", name, "several", "--", "sleep"]).await;
    }
    let (code, out, err) = ctl(&world, &["stop", "s1", "nope", "s2"]).await;
    assert_eq!((code, out.as_str()), (5, ""), "{err}");
    assert_eq!(err.matches("stopped. ").count(), 2, "{err}");
    let told = ok(&world, &["stop", "-o", "json", "s3", "s4"]).await;
    let all = json(&told);
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{told}");
    assert_eq!(all[0]["exit"]["cause"], "stopped");
    // What had ended before is told, too, where a program reads it.
    let over = ok(&world, &["stop", "-o", "json", "s4"]).await;
    assert_eq!(json(&over)["name"], "s4", "{over}");
    // What was asked for is no note on how things went.
    assert!(ok(&world, &["status", "-q"]).await.contains("testhost"));
    assert!(
        ok(&world, &["fleet", "show", "-q"])
            .await
            .contains("At most")
    );
    refused(&world, &["stop"], 2, "--all").await;
    refused(&world, &["stop", "x", "--all"], 2, "either").await;
    refused(&world, &["stop", "x"], 5, "x").await;
    refused(&world, &["kill", "-s", "NOSUCH", "x"], 2, "NOSUCH").await;
    refused(&world, &["list", "--state=dead"], 2, "starting").await;
    refused(&world, &["list", "--since=someday"], 2, "someday").await;
    refused(&world, &["set", "x"], 2, "No limit").await;
    refused(&world, &["project", "create", "web-1.x"], 1, "already").await;
    refused(&world, &["project", "set", "web-1.x"], 2, "No setting").await;
    refused(&world, &["project", "show", "web-1"], 5, "web-1.x").await;
    ok(&world, &["run", "web-1.x", "--", "sleep"]).await;
    refused(&world, &["run", "web-1.x", "--", "sleep"], 3, "1 of 1").await;
    let (code, out, _) = ctl(&world, &["run", "--explain", "web-1.x", "--", "sleep"]).await;
    assert_eq!(code, 3);
    assert!(out.contains("project-runners"), "{out}");
    refused(&world, &["project", "remove", "web-1.x"], 1, "live").await;
    ok(&world, &["stop", "--project=web-1.x"]).await;
    assert_eq!(world.host.count(), 0);

    let nowhere = tool(&world, &["list"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(1));
    world.served.clone().close().await.unwrap();
    refused(&world, &["list"], 1, "systemctl start").await;
    // Nothing is known then, which is not that nothing lives.
    for format in ["table", "json", "jsonl"] {
        let (code, out, err) = ctl(&world, &["top", "-n", "1", "-o", format]).await;
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert_eq!(err.matches("systemctl start").count(), 1, "{err}");
    }
    refused(&world, &["run", "--wait", "p", "--", "x"], 125, "systemctl").await;
}

/// There is no bus here at all: who would connect first gets another sentence, and status 1.
#[test]
fn wrong_words_are_told_before_anything_is_connected_to() {
    let said = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_stratavorectl"))
            .args(arguments)
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), err)
    };
    let bus = said(&["list"]);
    assert!(bus.0 == 1 && bus.1.contains("bus"), "{bus:?}");
    for (arguments, words) in [
        (&["outbox", "retry", "--project=a b"][..], "“a b”"),
        (
            &["events", "--type=runner.endd"],
            "Did you mean runner.ended?",
        ),
        (&["events", "--project=A"], "“A”"),
        (&["list", "--project=A"], "“A”"),
        (&["top", "--project=A"], "“A”"),
        (&["why", "--project=A"], "“A”"),
        (&["stop", "--project=A"], "“A”"),
        (&["freeze", "--label=novalue"], "KEY=VALUE"),
        (&["run", "A", "--", "true"], "“A”"),
        (&["hold", "set", "--project=A"], "“A”"),
        (&["project", "create", "A"], "“A”"),
        (
            &["project", "create", "a", "--max-runners=lots"],
            "--max-runners: “lots”",
        ),
        (&["project", "create", "a", "--memory-max=lots"], "lots"),
        (&["project", "set", "a"], "No setting"),
        (
            &["project", "set", "a", "--default-tokens=-1"],
            "--default-tokens: “-1”",
        ),
        (&["project", "show", "A"], "“A”"),
        (&["project", "remove", "a", "A"], "“A”"),
        (
            &["fleet", "set", "--max-runners=lots"],
            "--max-runners: “lots”",
        ),
        (&["audit", "verify", "no-export"], "--key"),
    ] {
        let (status, err) = said(arguments);
        assert!(
            status == 2 && err.contains(words),
            "{arguments:?}: {status}, {words} in {err}"
        );
    }
    for arguments in [
        &["audit", "verify", "--anchor=/nonexistent/anchors"][..],
        &["audit", "verify", "--key=/nonexistent/key"],
        &["audit", "export", "/nonexistent/export"],
    ] {
        let (status, err) = said(arguments);
        assert!(
            status == 1 && err.contains("/nonexistent/") && !err.contains("bus"),
            "{arguments:?}: {err}"
        );
    }
    // Of a host elsewhere nobody here knows which types it has.
    let (_, err) = said(&["-H", "nowhere.invalid", "events", "--type=runner.endd"]);
    assert!(!err.contains("is not a type"), "{err}");
    // What could not be exported leaves no file.
    let file = std::env::temp_dir().join(format!("no-export-{}", std::process::id()));
    let (status, err) = said(&["audit", "export", file.to_str().unwrap()]);
    assert!(
        status == 1 && err.contains("bus") && !file.exists(),
        "{err}"
    );
}

async fn one_runs(world: &World) {
    for _ in 0..3_000 {
        if world.host.count() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} run", world.host.count());
}

#[tokio::test(flavor = "multi_thread")]
async fn run_and_wait_is_the_commands_own_status() {
    let world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    for (command, status) in [
        (&["exit", "0"][..], 0),
        (&["exit", "7"], 7),
        (&["fail"], 127),
    ] {
        let arguments = [&["run", "--wait", "p", "--"][..], command].concat();
        let (code, out, err) = ctl(&world, &arguments).await;
        assert_eq!(code, status, "{command:?}: {err}");
        assert_eq!(out, "");
    }
    let waiting = tool(&world, &["run", "--wait", "--name=w", "p", "--", "sleep"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    one_runs(&world).await;
    ok(&world, &["kill", "-s", "KILL", "w"]).await;
    let output = tokio::task::spawn_blocking(|| waiting.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(137));

    // An interrupted wait leaves the runner alone and says how to stop it.
    let waiting = tool(&world, &["run", "--wait", "--name=v", "p", "--", "sleep"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    one_runs(&world).await;
    // It waits when it has an ear for Ctrl-C.
    let hears = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", waiting.id())).unwrap();
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
        u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & 2 != 0
    };
    for _ in 0..3_000 {
        if hears() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pid = rustix::process::Pid::from_raw(waiting.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(|| waiting.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("stratavorectl stop"), "{said}");
    assert_eq!(world.host.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_stopped_at_once_and_followed_without_loss() {
    let world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    let manager = world.manager().await;
    let mut follow = tool(&world, &["events", "-f", "--after", "0", "-o", "jsonl"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let manager = manager.clone();
        tasks.spawn(async move {
            manager
                .launch("p", &["sleep"], &Default::default())
                .await
                .unwrap()
        });
    }
    while tasks.join_next().await.is_some() {}
    ok(&world, &["stop", "--all"]).await;
    assert_eq!(world.host.count(), 0);
    let seqs = tokio::task::spawn_blocking(move || -> Vec<u64> {
        let seqs = lines.map(|line| json(&line.unwrap())["seq"].as_u64().unwrap());
        seqs.take(1 + 4 * 200).collect()
    });
    let seqs = tokio::time::timeout(Duration::from_secs(60), seqs)
        .await
        .expect("all events are told")
        .unwrap();
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert_eq!(seqs, (1..=1 + 4 * 200).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_goes_away_is_no_failure() {
    let world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    let mut head = tool(&world, &["events", "-f", "--after", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(head.stdout.take());
    let output = tokio::task::spawn_blocking(|| head.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}

/// The replies of SetLimits and SetProject carry nothing: who sets a limit is told all the same what of it is not held.
#[tokio::test(flavor = "multi_thread")]
async fn who_sets_limits_is_told_what_is_not_held() {
    let world = World::new().await;
    let warn = |warnings: &[&str]| {
        let warnings = warnings.iter().map(|w| (*w).to_owned()).collect();
        *world.host.warnings.lock().unwrap() = warnings;
    };
    ok(&world, &["project", "create", "p"]).await;
    let id = ok(&world, &["run", "p", "--", "sleep"]).await;
    let id = id.trim();
    warn(&["memory-max=1G is not held here."]);
    let (code, _, err) = ctl(&world, &["set", id, "memory-max=1G"]).await;
    assert_eq!(
        (code, err.trim()),
        (
            0,
            &*format!("Warning: {id}: memory-max=1G is not held here.")
        )
    );
    let shown = ok(&world, &["show", id]).await;
    assert!(shown.contains("memory-max=1G is not held here."), "{shown}");
    let said = "Warning: project p: memory-max=1G is not held here.";
    let set = ["project", "set", "p", "--memory-max=1G"];
    let (code, _, err) = ctl(&world, &set).await;
    assert_eq!((code, err.trim()), (0, said));
    let create = ["project", "create", "q", "--memory-max=1G"];
    let (code, _, err) = ctl(&world, &create).await;
    assert_eq!((code, err.trim()), (0, &*said.replace("p:", "q:")));
    let shown = json(&ok(&world, &["project", "show", "p", "-o", "json"]).await);
    assert_eq!(shown["warnings"][0], "memory-max=1G is not held here.");
    let shown = ok(&world, &["project", "show", "p"]).await;
    assert!(shown.contains("is not held here"), "{shown}");
    let file = std::env::temp_dir().join(format!("declared-{}.toml", std::process::id()));
    std::fs::write(&file, "[projects.p]\nmemory_max = \"2G\"\n").unwrap();
    let apply = ["apply", "--file", file.to_str().unwrap()];
    let (code, out, err) = ctl(&world, &apply).await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!((code, err.trim()), (0, said), "{out}");
    // What is held is not warned of, nor what is lifted.
    warn(&[]);
    for arguments in [
        &["set", id, "memory-max=infinity"][..],
        &["project", "set", "p", "--memory-max=infinity"],
    ] {
        let (code, _, err) = ctl(&world, arguments).await;
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
    }
    let shown = json(&ok(&world, &["show", id, "-o", "json"]).await);
    assert_eq!(shown["warnings"], serde_json::json!([]));
    let shown = json(&ok(&world, &["project", "show", "p", "-o", "json"]).await);
    assert_eq!(shown["warnings"], serde_json::json!([]));
}

/// Its agent is away: the store is well, and who asks or waits is told what the matter is, and since when.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_away_is_told_of_as_that() {
    let world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    let id = ok(&world, &["run", "p", "--", "sleep"]).await;
    let id = id.trim();
    let status = json(&ok(&world, &["status", "-o", "json"]).await);
    assert_eq!(status["agent"]["state"], "ok");
    assert_eq!(status["not_ready"], serde_json::json!([]));
    let why = ok(&world, &["why", id]).await;
    assert!(!why.contains("away"), "{why}");

    world.host.agent(false).await;
    let mut health = world.engine.health();
    health.wait_for(|h| !h.agent).await.unwrap();
    let status = json(&ok(&world, &["status", "-o", "json"]).await);
    assert_eq!(status["agent"]["state"], "away");
    assert!(status["agent"]["since"].is_string(), "{status}");
    assert_eq!(status["not_ready"][0], "the agent does not answer");
    let status = ok(&world, &["status"]).await;
    let row = |name: &str| {
        let row = status.lines().find(|l| l.trim_start().starts_with(name));
        row.unwrap_or_else(|| panic!("{name} in {status}"))
            .to_owned()
    };
    assert!(row("Store").trim_end().ends_with("ok"), "{status}");
    assert!(row("Agent").contains("away since "), "{status}");

    let mut stop = tool(&world, &["stop", id]);
    let mut stop = stop.stderr(Stdio::piped()).spawn().unwrap();
    let said = stop.stderr.take().unwrap();
    let mut said = BufReader::new(said).lines();
    let first = tokio::task::spawn_blocking(move || (said.next(), said));
    let (first, said) = first.await.unwrap();
    let first = first.unwrap().unwrap();
    assert!(
        first.starts_with("The stop is recorded, and carried out when the agent is back: stratavore-agent is away since "),
        "{first}"
    );
    let why = ok(&world, &["why", id]).await;
    assert!(why.contains("stratavore-agent is away since"), "{why}");
    assert!(!why.contains("is killed when"), "{why}");

    world.host.agent(true).await;
    let ended = tokio::task::spawn_blocking(move || {
        let rest: Vec<String> = said.map(Result::unwrap).collect();
        (stop.wait().unwrap(), rest.concat())
    });
    let (status, rest) = ended.await.unwrap();
    assert!(status.success() && rest.contains("stopped"), "{rest}");
}

/// Without a session there is nothing of the user's to look into; the system's files are another matter.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_of_a_user_looks_at_nothing_of_the_system() {
    let world = World::new().await;
    let mut doctor = tool(&world, &["--user", "doctor"]);
    doctor
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("DBUS_SESSION_BUS_ADDRESS");
    let output = tokio::task::spawn_blocking(move || doctor.output().unwrap());
    let output = output.await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("problem  session: ") && said.contains("XDG_RUNTIME_DIR is not set"),
        "{said}"
    );
    for systems in ["/run/stratavore", "/var/lib/stratavore"] {
        assert!(!said.contains(systems), "{systems}: {said}");
    }
}
