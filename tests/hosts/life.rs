//! Life: freeze, thaw, stop, kill, set, wait, by every way of naming a runner.

use crate::fixture::{SOON, Site};
use crate::load::within;
use crate::support::{wait_for, wait_until};
use std::time::Duration;

#[test]
fn the_whole_tree_stops() {
    let site = Site::boot("tree");
    let id = site.run("--stop-timeout=1s -- sh -c 'trap \"\" TERM HUP; (setsid sh -c \"trap \\\"\\\" TERM; while :; do sleep 1; done\" &); (sh -c \"trap \\\"\\\" TERM; (sleep 1000 &) ; while :; do sleep 1; done\" &) ; while :; do sleep 1; done'");
    let path = format!(
        "/sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope/cgroup.procs"
    );
    wait_until("the tree is up", SOON, || {
        site.file(&path).lines().count() >= 6
    });
    // Their numbers as the host counts them.
    let tree = site.root(&format!("cat {path}")).ok().out();
    assert!(
        tree.lines()
            .all(|pid| site.host.path(&format!("/proc/{pid}")).exists())
    );
    let began = std::time::Instant::now();
    site.ctl("alice", &format!("stop {id}")).ok();
    let ended = site.ended(&id);
    assert_eq!(ended["exit"]["cause"], "stopped", "{ended}");
    let took = began.elapsed();
    assert!(took < within(Duration::from_secs(10)), "{took:?}");
    for pid in tree.lines() {
        wait_until(&format!("{pid} is gone"), SOON, || {
            !site.host.path(&format!("/proc/{pid}")).exists()
        });
    }
    site.check();
}

#[test]
fn freeze_and_thaw() {
    let site = Site::boot("freeze");
    let id = site.run("--name f -- sh -c 'while :; do date +%s%N > /tmp/tick; sleep .05; done'");
    site.wait_file("/tmp/tick");
    site.ctl("alice", "freeze f").ok();
    assert_eq!(site.show(&id)["state"], "frozen");
    let frozen = format!(
        "/sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope/cgroup.events"
    );
    assert!(site.file(&frozen).contains("frozen 1"));
    site.ctl("alice", "freeze f").ok();
    site.ctl("alice", "thaw f").ok();
    assert_eq!(site.show(&id)["state"], "running");
    let tick = site.file("/tmp/tick");
    wait_until("it goes on", SOON, || site.file("/tmp/tick") != tick);
    // Frozen behind our back, and thawed.
    site.root(&format!("systemctl freeze stratavore-{id}.scope"))
        .ok();
    site.ctl("alice", "freeze f").ok();
    // A frozen runner stops, and its runtime limit holds.
    site.ctl("alice", "stop f").ok();
    assert_eq!(site.cause(&id), "stopped");
    let id = site.run("--runtime-max=8s --stop-timeout=1s -- sleep 1000");
    site.ctl("alice", &format!("freeze {id}")).ok();
    assert_eq!(site.cause(&id), "timeout");
    // SIGKILL reaches the frozen.
    let id = site.run("-- sleep 1000");
    site.ctl("alice", &format!("freeze {id}")).ok();
    site.ctl("alice", &format!("kill -s KILL {id}")).ok();
    let out = wait_for("the killed one ends", SOON, || {
        let shown = site.show(&id);
        if shown["state"] == "ended" {
            Ok(shown)
        } else {
            site.ctl("alice", &format!("thaw {id}"));
            Err(shown.to_string())
        }
    });
    assert_eq!(out["exit"]["signal"], "SIGKILL", "{out}");
    site.check();
}

#[test]
fn runners_answer_to_id_prefix_name_project_and_label() {
    let site = Site::boot("names");
    site.ctl("root", "project create other").ok();
    let a = site.run("--name same --label team=red -- sleep 1000");
    let b = site.run("--name same --label team=blue -- sleep 1000");
    let c = site
        .ctl(
            "alice",
            "run --name lone --label team=red other -- sleep 1000",
        )
        .ok()
        .out();
    assert!(
        site.ctl("alice", "show -o json lone")
            .ok()
            .out()
            .contains(&c)
    );
    // Ids made in the same moment share their first digits: take enough of them.
    let unique = (4..=36)
        .map(|n| &c[..n])
        .find(|p| !a.starts_with(p) && !b.starts_with(p))
        .unwrap();
    assert!(
        site.ctl("alice", &format!("show -o json {unique}"))
            .ok()
            .out()
            .contains(&c)
    );
    let ambiguous = site.ctl("alice", "stop same").code(1);
    assert!(
        ambiguous.err().contains(&a) && ambiguous.err().contains(&b),
        "{ambiguous}"
    );
    site.ctl("alice", "show nobody").code(5);
    site.ctl("alice", "stop --label team=red").ok();
    assert_eq!(
        (site.cause(&a), site.cause(&c)),
        ("stopped".into(), "stopped".into())
    );
    assert_eq!(site.show(&b)["state"], "running");
    // The name of an ended one still finds the newest.
    assert!(
        site.ctl("alice", "show -o json lone")
            .ok()
            .out()
            .contains(&c)
    );
    site.ctl("alice", "stop --project p").ok();
    site.ctl("alice", &format!("wait {b}")).ok();
    assert_eq!(site.cause(&b), "stopped");
    site.check();
}

#[test]
fn events_follow_without_loss_or_repetition() {
    let site = Site::boot("events");
    let mut follow = site
        .host
        .command([
            "stratavorectl",
            "events",
            "-f",
            "--after",
            "0",
            "-o",
            "jsonl",
        ])
        .spawn();
    for n in 0..20 {
        site.run(&format!("--name e{n} -- true"));
    }
    let last = site.run("--name last -- true");
    site.ended(&last);
    let ended = |text: &str| text.matches("runner.ended").count();
    wait_for("all endings are told", SOON, || {
        let told = follow.out_so_far();
        if ended(&told) == 21 {
            Ok(())
        } else {
            Err(format!("{} of 21\n{told}", ended(&told)))
        }
    });
    follow.kill();
    let told = follow.out_so_far();
    let stored = site.sql("SELECT COUNT(*) AS n FROM events WHERE type NOT LIKE '%project%'");
    let lines = told.lines().filter(|l| !l.contains("project.")).count();
    assert_eq!(Some(lines as u64), stored[0]["n"].as_u64(), "{told}");
    // Restart in between, the position goes on.
    site.kill9("stratavored");
    site.run("-- true");
    let all = site.ctl("root", "events -o jsonl --after 0").ok().out();
    let shown = crate::schema::lines(&all);
    let positions: Vec<u64> = shown.iter().filter_map(|e| e["seq"].as_u64()).collect();
    assert!(
        positions.len() > 60 && positions.windows(2).all(|w| w[0] < w[1]),
        "{positions:?}"
    );
}

/// D-Bus: objects come and go with live runners, signals tell each change.
#[test]
fn the_bus_tells_what_happens() {
    let site = Site::boot("bus");
    let mut monitor = site
        .host
        .command(["busctl", "monitor", "--json=short", "org.stratavore1"])
        .spawn();
    wait_until("the monitor listens", SOON, || {
        monitor.err_so_far().contains("Monitoring")
            || monitor.out_so_far().contains("Monitoring")
            || !monitor.out_so_far().is_empty()
    });
    let id = site.run("-- sleep 1000");
    let path = format!("/org/stratavore1/runner/{}", id.replace('-', "_"));
    let tree = site.root("busctl tree --list org.stratavore1").ok().out();
    assert!(
        tree.contains(&path) && tree.contains("/org/stratavore1/project/p"),
        "{tree}"
    );
    assert!(
        site.root(&format!(
            "busctl get-property org.stratavore1 {path} org.stratavore1.Runner State"
        ))
        .ok()
        .out()
        .contains("running")
    );
    site.ctl("alice", &format!("stop {id}")).ok();
    site.ended(&id);
    wait_for("the signals come", SOON, || {
        let heard = monitor.out_so_far();
        let all = [
            "RunnerStateChanged",
            "RunnerEnded",
            "InterfacesAdded",
            "InterfacesRemoved",
            "PropertiesChanged",
        ];
        match all.iter().find(|s| !heard.contains(**s)) {
            None => Ok(()),
            Some(missing) => Err((*missing).to_owned()),
        }
    });
    wait_until("its object is gone", SOON, || {
        !site
            .root("busctl tree --list org.stratavore1")
            .out()
            .contains(&path)
    });
    monitor.kill();
}
