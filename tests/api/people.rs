//! What people read: tables, certificates, reasons, hints, completions.

use super::bus::World;
use super::cli::{ctl, json, ok, refused, tool};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn tables_have_a_legend() {
    let world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    let (code, out, err) = ctl(&world, &["list"]).await;
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(err.contains("stratavorectl run"), "{err}");
    let hard = "a\x1b[2J\u{202e}日本";
    ok(
        &world,
        &[
            "run",
            "--name=web",
            "--label",
            "tier=gold",
            "p",
            "--",
            "sleep",
            hard,
        ],
    )
    .await;
    let list = ok(&world, &["list"]).await;
    assert!(
        list.starts_with("ID  ") && list.contains("1 live runner listed. Pass --all"),
        "{list}"
    );
    assert!(
        !list.contains(['\x1b', '\u{202e}']) && list.contains("日本"),
        "{list:?}"
    );
    let bare = ok(&world, &["list", "--no-legend"]).await;
    assert_eq!(bare.lines().count(), 1, "{bare}");
    let mut narrow = tool(&world, &["list"]);
    narrow
        .env("SYSTEMD_COLUMNS", "60")
        .env("SYSTEMD_COLORS", "1");
    let narrow = tokio::task::spawn_blocking(move || narrow.output().unwrap())
        .await
        .unwrap();
    let narrow = String::from_utf8(narrow.stdout).unwrap();
    assert!(
        narrow.contains("\x1b[0;1;32mrunning") && narrow.contains('…'),
        "{narrow:?}"
    );
    let mut full = tool(&world, &["list", "--full"]);
    full.env("SYSTEMD_COLUMNS", "60");
    let full = tokio::task::spawn_blocking(move || full.output().unwrap())
        .await
        .unwrap();
    assert!(!String::from_utf8(full.stdout).unwrap().contains('…'));
    assert!(
        ok(&world, &["list", "--all"])
            .await
            .contains("1 runner listed.")
    );
    assert!(
        ok(&world, &["project", "list"])
            .await
            .contains("1 project listed.")
    );

    // Nothing fits: because of a slip?
    let (code, _, err) = ctl(&world, &["list", "--label", "teir=gold"]).await;
    assert_eq!(code, 0);
    assert!(err.contains("“tier=gold”"), "{err}");
    // Nobody has the label, which is what whoever stops them wants: no failure, whatever others are called.
    let (code, _, err) = ctl(&world, &["stop", "--label", "tier=golf"]).await;
    assert!(code == 0 && err.contains("“tier=gold”"), "{code} {err}");
    // The same words everywhere; how it is made is said to who wants something of it that is there only then.
    for words in [
        &["list", "--project=pp"][..],
        &["stop", "--project=pp"],
        &["events", "--project=pp"],
        &["top", "-n", "1", "--project=pp"],
        &["project", "show", "pp"],
        &["project", "remove", "pp"],
    ] {
        let (code, out, err) = ctl(&world, words).await;
        assert_eq!((code, out.as_str()), (5, ""), "{words:?}: {err}");
        assert_eq!(err, "Project pp does not exist.\n", "{words:?}");
    }
    for words in [
        &["run", "pp", "--", "true"][..],
        &["project", "set", "pp", "--max-runners=1"],
        &[
            "budget",
            "set",
            "--scope=project:pp",
            "--period=day",
            "--limit=1",
        ],
    ] {
        let (code, _, err) = ctl(&world, words).await;
        assert_eq!(code, 5, "{words:?}: {err}");
        assert_eq!(
            err, "Project pp does not exist. Create it: stratavorectl project create pp\n",
            "{words:?}"
        );
    }
    let (_, out, err) = ctl(&world, &["list", "--limit=1"]).await;
    assert!(!err.contains("more"), "{out}{err}");
    ok(&world, &["run", "--name=w2", "p", "--", "sleep"]).await;
    let (_, out, err) = ctl(&world, &["list", "--limit=1"]).await;
    assert!(
        out.contains("w2") && err.contains("there are more"),
        "{out}{err}"
    );
    // Who types an id by hand.
    let id = ok(&world, &["show", "web", "-o", "json"]).await;
    let id = json(&id)["id"].as_str().unwrap().to_uppercase();
    for words in [&id[..], &id[..13]] {
        assert!(ok(&world, &["show", words]).await.contains("web"));
    }
    refused(&world, &["show", "01"], 5, "at least 4 characters").await;
    refused(&world, &["show", "wep"], 5, "Did you mean “web”?").await;
    refused(&world, &["freeze", "wbe"], 5, "Did you mean “web”?").await;
    refused(
        &world,
        &["list", "--state=runing"],
        2,
        "Did you mean running?",
    )
    .await;
    refused(&world, &["lst"], 2, "list").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_have_a_certificate() {
    let world = World::new().await;
    ok(&world, &["project", "create", "p"]).await;
    let id = ok(
        &world,
        &[
            "run",
            "--name=web",
            "--memory-max=1G",
            "p",
            "--",
            "sleep",
            "1",
        ],
    )
    .await;
    let id = id.trim();
    let shown = ok(&world, &["show", "web", "-n0"]).await;
    for part in [
        &format!("● {id} - web\n"),
        "State: running",
        "Memory: ",
        "1G",
        "running   by ",
        "  Output: journalctl -u",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    ok(&world, &["freeze", "web"]).await;
    let why = ok(&world, &["why", "web"]).await;
    assert!(
        why.contains("frozen by ") && why.contains(&format!("stratavorectl thaw {id}")),
        "{why}"
    );
    ok(&world, &["thaw", "web"]).await;
    ok(&world, &["stop", "-q", "web"]).await;
    let shown = ok(&world, &["show", "web"]).await;
    for part in [
        "○ ",
        "Ending: stopped: ",
        "Asked by: ",
        "starting  by ",
        "frozen    by ",
        "thawed    by ",
        "stopping  by ",
        "ended     by the host itself",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let why = ok(&world, &["why", id]).await;
    assert!(
        why.contains("Asked for by ") && why.contains("stratavorectl show"),
        "{why}"
    );
    let why = json(&ok(&world, &["why", "-o", "json", id]).await);
    assert_eq!(why["exit"]["cause"], "stopped");
    assert!(
        why["reasons"].as_array().is_some_and(|r| r.len() >= 3),
        "{why}"
    );
    // Wide things are shortened to the terminal, long ones go on below.
    let mut narrow = tool(&world, &["show", "web"]);
    narrow.env("SYSTEMD_COLUMNS", "50");
    let narrow = tokio::task::spawn_blocking(move || narrow.output().unwrap())
        .await
        .unwrap();
    let narrow = String::from_utf8(narrow.stdout).unwrap();
    let wide = |l: &&str| l.chars().count() > 50 && !l.contains(id);
    assert_eq!(narrow.lines().find(wide), None, "{narrow}");
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_say_why_they_admit_nothing() {
    let world = World::new().await;
    ok(&world, &["project", "create", "web", "--max-runners=1"]).await;
    let why = ok(&world, &["why", "web"]).await;
    assert!(
        why.contains("0 live of 1, room for 1") && why.contains("Every gate is open"),
        "{why}"
    );
    ok(&world, &["run", "--name=web", "web", "--", "sleep"]).await;
    refused(&world, &["run", "web", "--", "sleep"], 3, "1 of 1").await;
    // A runner is called so as well: it comes first.
    assert!(
        ok(&world, &["why", "web"])
            .await
            .contains("Its state is running")
    );
    let why = ok(&world, &["why", "--project=web"]).await;
    for part in [
        "project-runners is shut",
        "1 of 1",
        "--max-runners",
        "would be refused",
        "Refused lately:",
        "asked by ",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let why = json(&ok(&world, &["why", "--project=web", "-o", "json"]).await);
    assert_eq!(why["admitted"], false);
    assert_eq!(why["denied"][0]["data"]["gate"], "project-runners");
    refused(&world, &["why", "wbe"], 5, "Did you mean “web”?").await;
    refused(&world, &["why", "--project", "wbe"], 5, "Did you mean web?").await;
    refused(&world, &["why"], 2, "ID|PROJECT").await;
    let explained = ctl(&world, &["run", "--explain", "web", "--", "x"]).await;
    assert!(explained.1.contains("raise the cap"), "{}", explained.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tab_key_knows_what_lives() {
    let world = World::new().await;
    ok(
        &world,
        &["project", "create", "webs", "--description=Pages"],
    )
    .await;
    let id = ok(
        &world,
        &[
            "run",
            "--name=agent",
            "--label=tier=gold",
            "webs",
            "--",
            "sleep",
        ],
    )
    .await;
    let id = id.trim();
    for (words, wanted) in [
        (&["show", ""][..], "agent"),
        (&["stop", "ag"], "agent"),
        (&["freeze", &id[..8]], id),
        (&["why", "we"], "webs"),
        (&["run", "w"], "webs"),
        (&["list", "--project", ""], "webs"),
        (&["list", "--label", "ti"], "tier=gold"),
        (&["list", "--state", "fr"], "frozen"),
        (&["kill", "--signal", "SIGK"], "SIGKILL"),
        (&["set", "agent", "memory-m"], "memory-max="),
        (&["project", "show", ""], "webs"),
        (&["pro"], "project"),
        (&["--out"], "--output"),
    ] {
        for shell in ["bash", "zsh", "fish"] {
            completes(&world, shell, words, wanted).await;
        }
    }
    assert!(
        complete(&world, "fish", &["run", "w"])
            .await
            .contains("Pages")
    );
    // A daemon that is away: nothing, at once, and not a word.
    world.served.clone().close().await.unwrap();
    let begun = Instant::now();
    let said = complete(&world, "bash", &["show", "a"]).await;
    assert_eq!(said, "");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

/// Who presses Tab does not wait: what does not answer within a second is left out, so it is asked again.
async fn completes(world: &World, shell: &str, words: &[&str], wanted: &str) {
    let begun = Instant::now();
    loop {
        let said = complete(world, shell, words).await;
        if said.split(['\n', '\x0b']).any(|l| l.starts_with(wanted)) {
            return;
        }
        let late = begun.elapsed() > Duration::from_secs(30);
        assert!(!late, "{shell} {words:?}: {said}");
    }
}

async fn complete(world: &World, shell: &str, words: &[&str]) -> String {
    let mut all = vec!["--", "stratavorectl"];
    all.extend(words);
    let mut asked = tool(world, &all);
    asked
        .env("STRATAVORECTL_COMPLETE", shell)
        .env("_CLAP_IFS", "\n");
    asked.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    let out = tokio::task::spawn_blocking(move || asked.output().unwrap())
        .await
        .unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_none() {
    let world = World::new().await;
    for host in ["-oProxyCommand=x", "a b", "a%b", "", "a@-b", "a:b"] {
        refused(&world, &["list", &format!("--host={host}")], 2, "HOST").await;
        if !host.is_empty() {
            refused(&world, &[&format!("-H{host}"), "list"], 2, "HOST").await;
        }
    }
    // No ssh at all, and one that can't log in.
    for path in ["/nonexistent", "/bin:/usr/bin"] {
        let mut far = tool(&world, &["-H", "nobody@no-such-host.invalid", "list"]);
        far.env("PATH", path).env("HOME", "/nonexistent");
        let far = tokio::task::spawn_blocking(move || far.output().unwrap())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&far.stderr).into_owned();
        assert_eq!(far.status.code(), Some(1), "{said}");
        assert!(said.contains("can't be reached by ssh"), "{said}");
    }
}

/// Every command explains itself, and says nothing of what does not exist yet.
#[test]
fn help_is_for_newcomers() {
    use clap::CommandFactory;
    let mut command = stratavore::cli::args::Cli::command();
    command.build();
    let mut all = vec![(
        command.render_long_help().to_string(),
        "stratavorectl".to_owned(),
    )];
    for verb in command.get_subcommands_mut() {
        let name = verb.get_name().to_owned();
        all.push((verb.render_long_help().to_string(), name));
    }
    for (help, name) in all {
        assert!(!help.contains("--pty"), "{name}: {help}");
        for line in help.lines().filter(|l| l.trim_start().starts_with("--")) {
            let said = line.trim().split_once("  ").is_some();
            assert!(
                said || help.contains(&format!("{line}\n          ")),
                "{name}: an option without a word: {line}\n{help}"
            );
        }
    }
}
