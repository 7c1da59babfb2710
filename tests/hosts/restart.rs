//! Nothing is lost by a restart of anything of ours, of systemd, of the bus, or of the host.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{Bus, Root, wait_for, wait_until};

/// A long runner that counts its own starts, and one that will exit 9 when told to.
fn two(site: &Site) -> (String, String) {
    let long = site.run("--name long -- sh -c 'echo x >> /srv/started; exec sleep 1000'");
    let short = site.run("--name short -- sh -c 'echo x >> /srv/started; while [ ! -e /srv/go ]; do sleep .02; done; exit 9'");
    wait_until("both run", SOON, || site.file("/srv/started").len() == 4);
    (long, short)
}

fn open(site: &Site) {
    site.root("install -d -m 777 /srv && rm -f /srv/go /srv/started")
        .ok();
}

/// Both are what they were; the one that may end ends truly, the other one obeys.
fn two_are_well(site: &Site, long: &str, short: &str) {
    assert_eq!(site.file("/srv/started").len(), 4, "no command ran twice");
    assert_eq!(site.show(long)["state"], "running");
    site.root("touch /srv/go").ok();
    let ended = site.ended(short);
    assert_eq!(
        (
            ended["exit"]["cause"].as_str(),
            ended["exit"]["code"].as_i64()
        ),
        (Some("exit-code"), Some(9)),
        "{ended}"
    );
    site.ctl("alice", &format!("freeze {long}")).ok();
    site.ctl("alice", &format!("thaw {long}")).ok();
    site.ctl("alice", &format!("stop {long}")).ok();
    assert_eq!(site.cause(long), "stopped");
    site.check();
}

#[test]
fn services_restarted_stopped_and_killed() {
    let site = Site::boot("services");
    for act in [
        "systemctl restart stratavored",
        "systemctl restart stratavore-agent",
        "systemctl restart stratavored stratavore-agent",
        "systemctl daemon-reload",
        "systemctl daemon-reexec",
    ] {
        open(&site);
        let (long, short) = two(&site);
        site.root(act).ok();
        site.wait_up();
        two_are_well(&site, &long, &short);
    }
    for units in [
        "stratavored",
        "stratavore-agent",
        "stratavored stratavore-agent",
    ] {
        open(&site);
        let (long, short) = two(&site);
        site.kill9(units);
        two_are_well(&site, &long, &short);
    }
}

/// What ends while nobody looks keeps its truth.
#[test]
fn endings_wait_for_the_daemon() {
    let site = Site::boot("away");
    open(&site);
    let (long, short) = two(&site);
    let lost = site.run("-- sleep 1000");
    site.root("systemctl stop stratavored stratavore-agent.socket stratavore-agent")
        .ok();
    site.root("touch /srv/go").ok();
    wait_until("the record is there", SOON, || {
        site.host
            .path(&format!("/var/lib/stratavore/exits/{short}.json"))
            .exists()
    });
    site.root(&format!("systemctl stop stratavore-{long}.scope"))
        .ok();
    site.root(&format!("for p in $(cat /sys/fs/cgroup/stratavore.slice/*/stratavore-{lost}.scope/cgroup.procs); do grep -q stratavore-shim /proc/$p/comm && kill -9 $p; done; true")).ok();
    site.root("systemctl start stratavored").ok();
    site.wait_up();
    assert_eq!(site.ended(&short)["exit"]["code"], 9);
    assert_eq!(site.cause(&long), "stopped");
    assert_eq!(site.cause(&lost), "supervisor-lost");
    site.check();
}

/// The bus goes away: the daemon starts again with it, the runners don't notice.
#[test]
fn the_bus_is_restarted() {
    for (name, root, bus) in [
        ("busdaemon", Root::Machine, Bus::Daemon),
        ("busbroker", Root::Trixie, Bus::Broker),
    ] {
        let site = Site::with(Plan {
            name,
            root,
            bus,
            ..Plan::default()
        });
        open(&site);
        let (long, short) = two(&site);
        let unit = if bus == Bus::Broker {
            "dbus-broker"
        } else {
            "dbus"
        };
        let old = site.main_pid(unit);
        assert_ne!(old, 0, "{}", site.log());
        // Somebody waits for a runner all the while; that it waits shows when it has told of one that has ended.
        let over = site.run("-- true");
        site.ended(&over);
        let mut waiting = site
            .host
            .command(["stratavorectl", "wait", "-o", "jsonl", &over, &short])
            .spawn();
        wait_until("the client waits", SOON, || {
            waiting.out_so_far().contains(&over)
        });
        site.root(&format!("kill -9 {old}")).ok();
        wait_until("the bus is another one", SOON, || {
            ![0, old].contains(&site.main_pid(unit))
        });
        site.wait_up();
        two_are_well(&site, &long, &short);
        waiting.wait(SOON).ok();
    }
}

#[test]
fn the_host_is_shut_down() {
    let mut site = Site::boot("shutdown");
    let id = site.run("-- sleep 1000");
    let stubborn =
        site.run("--stop-timeout=1s -- sh -c 'trap \"\" TERM; while :; do sleep 1; done'");
    site.host.power_off();
    site.host.boot_again();
    site.wait_up();
    assert_eq!(site.cause(&id), "host-shutdown");
    assert_eq!(site.cause(&stubborn), "host-shutdown");
    site.check();
}

#[test]
fn the_host_crashes_and_loses_its_power() {
    let mut site = Site::boot("crashed");
    open(&site);
    let first = site.run("-- sleep 1000");
    let done = site.run("-- sh -c 'exit 3'");
    assert_eq!(site.ended(&done)["exit"]["code"], 3);
    site.host.kill_dead();
    site.host.boot_again();
    site.wait_up();
    assert_eq!(site.cause(&first), "host-rebooted");
    site.check();

    // What was answered is kept, also when nothing but what was synced survives.
    let second = site.run("-- sleep 1000");
    let done = site.run("-- sh -c 'exit 4'");
    assert_eq!(site.ended(&done)["exit"]["code"], 4);
    site.host.power_cut();
    site.host.boot_again();
    site.wait_up();
    assert_eq!(site.cause(&second), "host-rebooted");
    assert_eq!(site.ended(&done)["exit"]["code"], 4);
    assert_eq!(site.cause(&first), "host-rebooted");
    let id = site.run("-- true");
    assert_eq!(site.cause(&id), "success");
    site.check();
}

/// The disk is full: nothing can be launched, what runs goes on, its ending is kept, and all is well when there is
/// room again.
#[test]
fn the_disk_is_full() {
    let site = Site::with(Plan {
        name: "full",
        disk_mb: 200,
        ..Plan::default()
    });
    open(&site);
    let (long, short) = two(&site);
    site.root("dd if=/dev/zero of=/var/lib/filler bs=64k 2>/dev/null; dd if=/dev/zero of=/var/lib/filler2 bs=1 2>/dev/null; df /var/lib | tail -1");
    let refused = wait_for("a launch is refused", SOON, || {
        let out = site.ctl("alice", "run p -- true");
        if out.success() {
            Err(format!("{out}"))
        } else {
            Ok(out)
        }
    });
    assert_eq!(refused.code, 1, "{refused}");
    assert!(
        refused.err().to_lowercase().contains("full") || refused.err().contains("space"),
        "{refused}"
    );
    // The runner can be stopped, and the other one ends, with a store that can't write it down.
    site.root("touch /run/go; ln -sf /run/go /srv/go || true");
    site.ctl("alice", &format!("stop --no-block {long}"));
    wait_until("the stopped one is gone", SOON, || {
        !site.scopes().contains(&long)
    });
    site.root("rm -f /var/lib/filler /var/lib/filler2 && touch /srv/go")
        .ok();
    assert_eq!(site.cause(&long), "stopped");
    assert_eq!(site.ended(&short)["exit"]["code"], 9);
    wait_for("launches go again", SOON, || {
        let out = site.ctl("alice", "run p -- true");
        if out.success() {
            Ok(())
        } else {
            Err(format!("{out}"))
        }
    });
    site.clear();
}

/// A wedged engine is restarted by the watchdog; a wedged agent hurts nobody for long.
#[test]
fn a_wedged_daemon_is_restarted() {
    let site = Site::boot("wedged");
    site.root("install -d /run/systemd/system/stratavored.service.d && printf '[Service]\\nWatchdogSec=10s\\n' > /run/systemd/system/stratavored.service.d/watchdog.conf && systemctl daemon-reload && systemctl restart stratavored").ok();
    site.wait_up();
    let id = site.run("-- sleep 1000");
    let old = site.main_pid("stratavored");
    site.root(&format!("kill -STOP {old}")).ok();
    wait_until("systemd starts another one", SOON, || {
        ![0, old].contains(&site.main_pid("stratavored"))
    });
    site.wait_up();
    assert_eq!(site.show(&id)["state"], "running");
    site.clear();
}

/// Programs of the first release and those of this checkout work together, whichever is older, and adopt each
/// other's runners: an upgrade, service by service, and the way back.
#[test]
#[cfg(target_arch = "x86_64")] // what tests/frozen holds
fn releases_work_together() {
    let project = crate::support::project();
    let site = Site::with(Plan {
        name: "releases",
        payload: Some(project.join("target/test-payload-frozen")),
        bind: Some((project.join("target/test-payload"), "/srv/this")),
        ..Plan::default()
    });
    site.root("mkdir /srv/first && cp -a --parents /usr/bin/stratavored /usr/libexec/stratavore /srv/first/").ok();
    let mut older: Vec<String> = Vec::new();
    let agent = (
        "usr/libexec/stratavore/stratavore-agent",
        "stratavore-agent",
    );
    let shim = ("usr/libexec/stratavore/stratavore-shim", "");
    let daemon = ("usr/bin/stratavored", "stratavored");
    for (from, (file, unit)) in [
        ("first", daemon), // nothing changes: the first runner is the first release's through and through
        ("this", shim),
        ("this", agent),
        ("this", daemon),
        ("first", shim),
        ("first", agent),
    ] {
        // A running program's file can't be written to, but another one can take its name.
        site.root(&format!(
            "cp /srv/{from}/{file} /{file}.new && mv /{file}.new /{file}"
        ))
        .ok();
        if !unit.is_empty() {
            site.root(&format!("systemctl restart {unit}")).ok();
            site.wait_up();
            // The daemon is up before it has its new agent, and refuses orders until then.
            site.wait_met();
        }
        for id in &older {
            assert_eq!(site.show(id)["state"], "running", "{from} {file}");
            site.ctl("alice", &format!("freeze {id}")).ok();
            site.ctl("alice", &format!("thaw {id}")).ok();
        }
        let id = site.run("-- sh -c 'exit 6'");
        assert_eq!(site.ended(&id)["exit"]["code"], 6, "{from} {file}");
        older.push(site.run("--stop-timeout=2s -- sleep 1000"));
    }
    for id in &older {
        site.ctl("alice", &format!("stop {id}")).ok();
        assert_eq!(site.cause(id), "stopped");
    }
    site.check();
    // The store is this release's by now: the first one's daemon leaves it alone and says so.
    let back = "cp /srv/first/usr/bin/stratavored /usr/bin/stratavored.new && mv /usr/bin/stratavored.new /usr/bin/stratavored";
    site.root(back).ok();
    site.root("systemctl restart stratavored || true").ok();
    wait_until("the first release's daemon gives up", SOON, || {
        let status = site
            .root("systemctl show -P ExecMainStatus stratavored")
            .ok();
        status.out().trim() == "78"
    });
}
