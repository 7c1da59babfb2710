//! What we say in the journal, and that nobody waits for it.

use crate::fixture::{Plan, SOON, Site};
use crate::load::within;
use crate::support::{Root, wait_for};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The lines `journalctl` finds with these arguments.
fn lines(site: &Site, arguments: &str) -> Vec<Value> {
    let out = site
        .root(&format!("journalctl --no-pager -o json {arguments}"))
        .out();
    out.lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect()
}

#[track_caller]
fn one(site: &Site, arguments: &str) -> Value {
    wait_for(&format!("a line: {arguments}"), SOON, || {
        lines(site, arguments)
            .into_iter()
            .next()
            .ok_or_else(|| site.log())
    })
}

/// Fields, ids and catalog, on three releases of systemd; our lines about a runner are also its scope's.
#[test]
fn lines_carry_fields_and_the_catalog_explains_them() {
    for (name, root) in [
        ("lines", Root::Machine),
        ("lines-t", Root::Trixie),
        ("lines-s", Root::Sid),
    ] {
        let site = Site::with(Plan {
            name,
            root,
            ..Plan::default()
        });
        site.ctl("root", "project create a-b.c --max-runners 1")
            .ok();
        let id = site
            .ctl(
                "alice",
                "run a-b.c -- sh -c 'until [ -e /tmp/go ]; do sleep .1; done; exit 7' s3cret-argument",
            )
            .ok()
            .out();
        site.ctl("alice", "run a-b.c -- true s3cret-argument")
            .code(3);
        site.root("touch /tmp/go").ok();
        assert_eq!(site.cause(&id), "exit-code");

        let launched = one(
            &site,
            &format!(
                "-u stratavored STRATAVORE_RUNNER={id} MESSAGE_ID=4772f5abed4b459ab53c0b2e6f02a0cb"
            ),
        );
        assert_eq!(launched["STRATAVORE_PROJECT"], "a-b.c", "{launched}");
        assert_eq!(launched["STRATAVORE_BY"], "alice", "{launched}");
        let failed = one(
            &site,
            &format!(
                "-u stratavored STRATAVORE_RUNNER={id} MESSAGE_ID=f3bc35cac53541109cb52c5c6c9d53e1"
            ),
        );
        assert_eq!(failed["STRATAVORE_CAUSE"], "exit-code", "{failed}");
        one(
            &site,
            "MESSAGE_ID=f6513f77c01943988b5a273f873227be STRATAVORE_PROJECT=a-b.c",
        );

        // The scope's own view: its unit's journal tells how it ended.
        let ours = wait_for("our line about the scope", SOON, || {
            lines(&site, &format!("-u stratavore-{id}.scope"))
                .into_iter()
                .find(|l| l["SYSLOG_IDENTIFIER"] == "stratavore-agent")
                .ok_or_else(|| site.log())
        });
        assert_eq!(ours["STRATAVORE_PROJECT"], "a-b.c", "{ours}");
        assert!(
            ours["MESSAGE"].as_str().unwrap().contains("status 7"),
            "{ours}"
        );

        let explained = site
            .root(&format!("journalctl --no-pager -x STRATAVORE_RUNNER={id}"))
            .out();
        assert!(
            explained.contains(&format!("Subject: Runner {id} of project a-b.c failed")),
            "{explained}"
        );
        // Every line of ours says of which kind it is, and every kind is explained.
        for unit in ["stratavored", "stratavore-agent"] {
            for line in lines(&site, &format!("SYSLOG_IDENTIFIER={unit}")) {
                let kind = line["MESSAGE_ID"].as_str().unwrap_or_default().to_owned();
                let known = site.root(&format!("journalctl --dump-catalog {kind}"));
                assert!(known.out().contains("Defined-By: Stratavore"), "{line}");
            }
        }
        let all = site.root("journalctl --no-pager -o export SYSLOG_IDENTIFIER=stratavored + SYSLOG_IDENTIFIER=stratavore-agent + _SYSTEMD_UNIT=stratavored.service + _SYSTEMD_UNIT=stratavore-agent.service").ok().out();
        assert!(all.contains(&id) && !all.contains("s3cret"), "{all}");
        site.check();
    }
}

#[test]
fn a_wrong_configuration_is_told_in_the_journal() {
    let site = Site::boot("wrong");
    site.root("mkdir -p /etc/stratavore; echo '[store]\nurll = 1' > /etc/stratavore/stratavored.toml; systemctl restart stratavored")
        .code(1);
    let line = one(&site, "MESSAGE_ID=40136f80dfe94b2bb50f2fe25dd19bf5");
    assert!(
        line["MESSAGE"].as_str().unwrap().contains("store.urll"),
        "{line}"
    );
    site.root(
        "echo 'allow_rot = 1' > /etc/stratavore/agent.toml; systemctl restart stratavore-agent",
    )
    .code(1);
    one(
        &site,
        "SYSLOG_IDENTIFIER=stratavore-agent MESSAGE_ID=40136f80dfe94b2bb50f2fe25dd19bf5",
    );
}

/// journald stands still: launches and stops go on, both services stay alive, and what is lost is counted.
#[test]
fn a_stopped_journald_stops_nobody() {
    let site = Site::with(Plan {
        name: "deaf",
        config: "[host]\nmax_runners = 4\n",
        ..Plan::default()
    });
    let call = |method: &str| {
        site.host
            .command([
                "bash",
                "-c",
                &format!(
                    "busctl call org.stratavore1 /org/stratavore1 org.stratavore1.Manager {method}"
                ),
            ])
            .limit(Duration::from_secs(20))
            .run()
    };
    let pids = ["stratavored", "stratavore-agent"].map(|u| site.main_pid(u));
    site.root("pkill -STOP -x systemd-journal").ok();
    let begun = Instant::now();
    // More lines than the queue holds: each denied signal to a runner is one.
    let id = call("Launch 'sasa{sv}' p 2 sleep 1000 1 uid s alice")
        .ok()
        .out();
    let id = id.split('"').nth(1).unwrap().to_owned();
    let launched = begun.elapsed();
    let flood = format!(
        "ids=$(yes {id} | head -n 200); for i in $(seq 40); do stratavorectl kill -s WINCH $ids >/dev/null || exit; done"
    );
    site.host
        .command(["bash", "-c", &flood])
        .limit(Duration::from_secs(120))
        .run()
        .ok();
    for _ in 0..3 {
        let out = call("Launch 'sasa{sv}' p 1 true 1 uid s alice").ok().out();
        assert!(out.contains("runner"), "{out}");
    }
    let stop = Instant::now();
    call(&format!("Stop 'sa{{sv}}' {id} 0")).ok();
    assert_eq!(site.cause(&id), "stopped");
    let stopped = stop.elapsed();
    assert!(
        launched < within(Duration::from_secs(5)) && stopped < within(Duration::from_secs(10)),
        "launch {launched:?}, stop {stopped:?}"
    );
    // Longer than WatchdogSec=30s allows a service to be silent.
    while begun.elapsed() < Duration::from_secs(35) {
        call("ListProjects").ok();
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(
        pids,
        ["stratavored", "stratavore-agent"].map(|u| site.main_pid(u))
    );
    site.root("pkill -CONT -x systemd-journal").ok();
    let told = one(&site, "MESSAGE_ID=1dd8063824594d449373c10b193868a2");
    assert!(
        told["MESSAGE"].as_str().unwrap().contains("lines dropped"),
        "{told}"
    );
    site.check();
}

/// While nobody listens where journald should, lines wait; none is lost.
#[test]
fn lines_wait_for_a_journal_that_is_away() {
    let site = Site::boot("away");
    let socket = "/run/systemd/journal/socket";
    site.root(&format!("mv {socket} {socket}-away")).ok();
    let launch = "call org.stratavore1 /org/stratavore1 org.stratavore1.Manager Launch 'sasa{sv}' p 1 true 1 uid s alice";
    let id = site.root(&format!("busctl {launch}")).ok().out();
    let id = id.split('"').nth(1).unwrap().to_owned();
    assert_eq!(site.cause(&id), "success");
    site.root(&format!("mv {socket}-away {socket}")).ok();
    for unit in ["stratavored", "stratavore-agent"] {
        one(&site, &format!("-u {unit} STRATAVORE_RUNNER={id}"));
    }
    site.check();
}
