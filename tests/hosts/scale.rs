//! Many at once, on both buses and on three releases of systemd.

use crate::fixture::{Plan, Site};
use crate::support::{Bus, Root, wait_for};
use std::time::Duration;

#[test]
fn the_main_job_on_every_systemd_and_bus() {
    for (name, root, bus) in [
        ("t-daemon", Root::Trixie, Bus::Daemon),
        ("t-broker", Root::Trixie, Bus::Broker),
        ("s-broker", Root::Sid, Bus::Broker),
    ] {
        let site = Site::with(Plan {
            name,
            root,
            bus,
            ..Plan::default()
        });
        let long = site.run("--name long -- sleep 1000");
        let failed = site.run("-- sh -c 'exit 5'");
        assert_eq!(site.ended(&failed)["exit"]["code"], 5);
        site.ctl("alice", "freeze long").ok();
        site.ctl("alice", "thaw long").ok();
        site.kill9("stratavored stratavore-agent");
        assert_eq!(site.show(&long)["state"], "running");
        site.ctl("alice", "stop long").ok();
        assert_eq!(site.cause(&long), "stopped");
        site.check();
    }
}

/// Every one of them, though the bus gives one user 256 connections and polkit one thread.
#[test]
fn five_hundred_launches_at_once() {
    for (name, root, bus) in [
        ("five-daemon", Root::Machine, Bus::Daemon),
        ("five-broker", Root::Trixie, Bus::Broker),
    ] {
        let site = Site::with(Plan {
            name,
            root,
            bus,
            ..Plan::default()
        });
        let all = "for i in $(seq 500); do stratavorectl run p -- sh -c 'echo x >> /tmp/ran' >/dev/null 2>>/tmp/err \
            || echo failed >>/tmp/err & done; wait; sort /tmp/err | uniq -c";
        // The daemon takes none before all are there: no machine is too fast for this test, and none too slow.
        site.root("systemctl service-watchdogs no && pkill -STOP -x stratavored")
            .ok();
        let launches = site.host.command(["bash", "-c", all]).user("alice");
        let launches = std::thread::spawn(move || launches.limit(Duration::from_secs(300)).run());
        wait_for("500 clients", Duration::from_secs(180), || {
            let clients = site.root("pgrep -c -x stratavorectl").out();
            if clients == "500" {
                Ok(())
            } else {
                Err(clients)
            }
        });
        site.root("pkill -CONT -x stratavored").ok();
        let out = launches.join().unwrap().ok();
        assert_eq!(out.out(), "", "{name}: {out}\n{}", site.log());
        crate::support::wait_until("all have ended", Duration::from_secs(60), || {
            site.scopes().is_empty()
        });
        assert_eq!(site.file("/tmp/ran").len(), 1000);
        site.check();
    }
}

#[test]
fn a_thousand_live_runners() {
    for (name, root, bus) in [
        ("k-daemon", Root::Machine, Bus::Daemon),
        ("k-broker", Root::Trixie, Bus::Broker),
    ] {
        let site = Site::with(Plan {
            name,
            root,
            bus,
            ..Plan::default()
        });
        site.host.command(["bash", "-c", "seq 1000 | xargs -P 16 -I{} stratavorectl run --name r{} p -- sleep 100000 >/dev/null"])
            .user("alice").limit(Duration::from_secs(300)).run().ok();
        assert_eq!(site.scopes().len(), 1000);
        site.kill9("stratavored stratavore-agent");
        assert_eq!(site.scopes().len(), 1000);
        let listed = site.ctl("root", "list -o json --limit 2000").ok();
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed.out()).unwrap();
        assert_eq!(listed.len(), 1000);
        assert!(listed.iter().all(|r| r["state"] == "running"));
        site.check();
        site.host
            .command(["stratavorectl", "stop", "--all"])
            .limit(Duration::from_secs(300))
            .run()
            .ok();
        site.check();
    }
}
