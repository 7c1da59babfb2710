//! Hosts that are away from their fleet's store: who keeps what, who stops, who may take a slot. What runs is read from
//! the cgroups of all hosts at every moment, what the store says by SQL.

use crate::fixture::{SOON, Site};
use crate::support::{DATABASE, Fleet, FleetPlan, ONCE, RECOVERS, Watch, wait_for, wait_until};
use std::collections::BTreeSet;
use std::time::Duration;
use stratavore::adapters::postgres::{PostgresOptions, PostgresStore, ServerAddress, TlsMode};
use stratavore::adapters::sql::Keep;
use stratavore::domain::event::Actor;
use stratavore::ports::Hosts;

/// Lost within seconds, and nobody stops by itself.
const UNARMED: &str = "lease_renew = \"1s\"\nlease_ttl = \"3s\"\nlost_after = \"4s\"\n";
/// The runners of a host that is away have stopped after 4 s and the time of a stop; their slots are free after 12 s.
const ARMED: &str = "lease_renew = \"1s\"\nlease_ttl = \"3s\"\nlost_after = \"12s\"\nstop_on_disconnect_after = \"4s\"\n";

/// The same for one whose daemon is started again and again meanwhile, which may take seconds each time.
const SLOWLY: &str = "lease_renew = \"1s\"\nlease_ttl = \"3s\"\nlost_after = \"24s\"\nstop_on_disconnect_after = \"12s\"\n";

fn plan(name: &'static str, timings: &str) -> FleetPlan {
    FleetPlan {
        name,
        timings: timings.to_owned(),
        config: "[limits]\nstop_timeout = \"1s\"\n".to_owned(),
        ..FleetPlan::default()
    }
}

/// One column of a host's row, as text; empty = null.
fn of_host(fleet: &Fleet, id: &str, column: &str) -> String {
    let query = format!("SELECT CAST({column} AS TEXT) AS it FROM hosts WHERE host = '{id}'");
    let rows = fleet.sql().rows(&query);
    rows[0]["it"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn becomes(fleet: &Fleet, id: &str, column: &str, wanted: &str) {
    wait_for(
        &format!("{column} is {wanted}"),
        RECOVERS,
        || match of_host(fleet, id, column) {
            is if is == wanted => Ok(()),
            is => Err(format!("{is}\n{}", fleet.logs())),
        },
    );
}

#[track_caller]
fn armed(fleet: &Fleet, id: &str) {
    wait_for("everybody is armed", RECOVERS, || {
        match of_host(fleet, id, "fenced_after") {
            after if after.is_empty() => Err(fleet.logs()),
            _ => Ok(()),
        }
    });
}

/// Until the host has not renewed its lease for so long, by the store's clock.
#[track_caller]
fn wait_away(fleet: &Fleet, id: &str, span: Duration) {
    wait_until("it is away for long", RECOVERS, || {
        let away = "extract(epoch FROM clock_timestamp()) * 1000000 - renewed_at";
        let away: f64 = of_host(fleet, id, away).parse().unwrap();
        away > span.as_micros() as f64
    });
}

/// The types of events about a host.
fn story(fleet: &Fleet, id: &str) -> Vec<String> {
    let query = format!("SELECT type FROM events WHERE subject = 'host/{id}' ORDER BY position");
    let rows = fleet.sql().rows(&query);
    rows.iter()
        .map(|r| r["type"].as_str().unwrap().to_owned())
        .collect()
}

fn cause(fleet: &Fleet, runner: &str) -> String {
    let query =
        format!("SELECT exit::json ->> 'cause' AS cause FROM runners WHERE id = '{runner}'");
    fleet.sql().rows(&query)[0]["cause"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn cap(fleet: &Fleet, runners: usize) {
    let set = format!("project set p --max-runners {runners}");
    fleet.sites[0].ctl("root", &set).ok();
}

fn metric(site: &Site, series: &str) -> String {
    let page = "exec 3<>/dev/tcp/127.0.0.1/9791; printf 'GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3";
    let page = site.host.command(["bash", "-c", page]).run().out();
    let line = page.lines().find_map(|l| l.strip_prefix(series));
    line.unwrap_or_default().trim().to_owned()
}

/// Takes slots as soon as there are any, one after the other, until so many are taken.
#[track_caller]
fn take(fleet: &Fleet, hosts: &[usize], runners: usize) {
    let mut taken = 0;
    let mut turn = hosts.iter().cycle();
    wait_for("all slots are taken", RECOVERS, || {
        let site = &fleet.sites[*turn.next().unwrap()];
        let out = site.ctl("alice", &format!("run p -- {ONCE} 1000"));
        taken += usize::from(out.success());
        match taken {
            n if n == runners => Ok(()),
            n => Err(format!("{n} of {runners}: {out}")),
        }
    });
}

/// Nobody knows whether its runners live, so they keep their slots, however long it is away; and they do live.
#[test]
fn away_for_long_and_nobody_stops() {
    let fleet = Fleet::with(plan("l-away", UNARMED));
    cap(&fleet, 3);
    let watch = Watch::start(&fleet, &[("p", 3)]);
    let away = &fleet.sites[2];
    let id = away.host_id();
    let run = format!("-- {ONCE} 1000");
    let mine = BTreeSet::from([away.run(&run), away.run(&run)]);
    assert_eq!(of_host(&fleet, &id, "fenced_after"), "");
    // Facts of the fleet are read now and then.
    wait_until("the metrics know of all three", RECOVERS, || {
        metric(&fleet.sites[0], "stratavore_fleet_hosts{state=\"up\"}") == "3"
    });
    fleet.cut(2);
    becomes(&fleet, &id, "standing", "unreachable");
    wait_away(&fleet, &id, Duration::from_secs(10));
    take(&fleet, &[0], 1);
    for n in [0, 1] {
        let refused = fleet.sites[n].ctl("alice", "run p -- true").code(3);
        assert!(refused.err().contains("3 of 3 live runners"), "{refused}");
    }
    wait_for("a peer's metrics tell of it", SOON, || {
        match metric(
            &fleet.sites[1],
            "stratavore_fleet_hosts{state=\"unreachable\"}",
        ) {
            n if n == "1" => Ok(()),
            n => Err(n),
        }
    });
    assert_eq!(metric(away, "stratavore_host_lease_remaining_seconds"), "0");
    let refused = away.ctl("alice", "run p -- true").code(1);
    assert!(refused.err().contains("store"), "{refused}");
    assert_eq!(away.scopes(), mine, "what runs goes on");
    let epoch = of_host(&fleet, &id, "epoch");
    fleet.mend(2);
    becomes(&fleet, &id, "standing", "up");
    fleet.wait_up();
    assert_eq!(
        of_host(&fleet, &id, "epoch"),
        epoch,
        "it was never given up"
    );
    assert_eq!(
        story(&fleet, &id),
        ["host.joined", "host.unreachable", "host.returned"]
    );
    assert_eq!(away.scopes(), mine);
    away.ctl("alice", &format!("stop {}", mine.first().unwrap()))
        .ok();
    take(&fleet, &[2], 1);
    watch.end();
    fleet.clear();
}

/// Its runners stop by themselves, cut off or with everything dead but the shims, before anybody gets their slots.
#[test]
fn away_for_long_and_armed() {
    let fleet = Fleet::with(plan("l-armed", ARMED));
    cap(&fleet, 3);
    let watch = Watch::start(&fleet, &[("p", 3)]);
    let ids: Vec<String> = fleet.sites.iter().map(Site::host_id).collect();
    ids.iter().for_each(|id| armed(&fleet, id));
    let refused = fleet.sites[0]
        .ctl("alice", "run --stop-timeout=10s p -- true")
        .code(1);
    assert!(
        refused.err().contains("stop_on_disconnect_after"),
        "{refused}"
    );

    let away = &fleet.sites[2];
    let run = format!("-- {ONCE} 1000");
    let mut mine = vec![away.run(&run), away.run(&run)];
    mine.push(away.run("-- sh -c \"trap '' TERM; setsid sleep 1000 & sleep 1000; sleep 1000\""));
    // Renewals keep them alive.
    wait_until("the first deadline is long past", RECOVERS, || {
        let since = "renewed_at - joined_at > 10000000";
        of_host(&fleet, &ids[2], since) == "true"
    });
    assert_eq!(away.scopes().len(), 3);
    fleet.cut(2);
    take(&fleet, &[0, 1], 3);
    assert!(away.scopes().is_empty(), "{}", away.log());
    assert_eq!(of_host(&fleet, &ids[2], "standing"), "lost");
    for runner in &mine {
        assert_eq!(cause(&fleet, runner), "host-lost");
    }
    let epoch: u64 = of_host(&fleet, &ids[2], "epoch").parse().unwrap();
    fleet.mend(2);
    becomes(&fleet, &ids[2], "standing", "up");
    fleet.wait_up();
    armed(&fleet, &ids[2]);
    assert!(of_host(&fleet, &ids[2], "epoch").parse::<u64>().unwrap() > epoch);
    assert_eq!(
        story(&fleet, &ids[2]),
        [
            "host.joined",
            "host.unreachable",
            "host.lost",
            "host.joined",
            "host.returned"
        ]
    );
    let full = away.ctl("alice", "run p -- true").code(3);
    assert!(full.err().contains("3 of 3"), "{full}");

    // The other way to be away: daemon and agent are dead and stay so.
    let silent = &fleet.sites[0];
    silent.root("systemctl mask --runtime -q stratavored stratavore-agent.service stratavore-agent.socket && systemctl kill -s KILL stratavored stratavore-agent; systemctl stop stratavored stratavore-agent.socket stratavore-agent; true").ok();
    let had = silent.scopes().len();
    assert!(had > 0);
    take(&fleet, &[2], had);
    assert!(silent.scopes().is_empty());
    silent.root("systemctl unmask --runtime -q stratavored stratavore-agent.service stratavore-agent.socket && systemctl reset-failed; systemctl start stratavored").ok();
    fleet.wait_up();
    becomes(&fleet, &ids[0], "standing", "up");

    // Back in time: nobody has stopped, nobody is lost.
    let back = fleet.sites[2].scopes();
    fleet.cut(2);
    becomes(&fleet, &ids[2], "standing", "unreachable");
    fleet.mend(2);
    becomes(&fleet, &ids[2], "standing", "up");
    fleet.wait_up();
    let now = fleet.sites[2].scopes();
    assert!(now == back || now.is_empty(), "{now:?} of {back:?}");
    watch.end();
    fleet.clear();
}

/// Somebody says of a host that is cut off that nothing of it runs any more. That is not so: when it is back, it is told,
/// and stops what the store has ended.
#[test]
fn forgotten_while_it_is_cut_off() {
    let fleet = Fleet::with(plan("l-forgot", UNARMED));
    cap(&fleet, 3);
    let away = &fleet.sites[2];
    let id = away.host_id();
    let run = format!("-- {ONCE} 1000");
    let (a, b) = (away.run(&run), away.run(&run));
    let ends = away.run("-- sh -c 'while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 3'");
    fleet.cut(2);
    away.root("touch /tmp/end").ok();
    becomes(&fleet, &id, "standing", "unreachable");
    forget(&fleet, &id);
    assert_eq!(of_host(&fleet, &id, "standing"), "left");
    assert_eq!(of_host(&fleet, &id, "live"), "0");
    take(&fleet, &[0, 1], 3);
    assert_eq!(away.scopes(), BTreeSet::from([a.clone(), b.clone()]));
    fleet.mend(2);
    becomes(&fleet, &id, "standing", "up");
    wait_for(
        "what the store has ended is stopped",
        RECOVERS,
        || match away.scopes().is_empty() {
            true => Ok(()),
            false => Err(away.log()),
        },
    );
    fleet.wait_up();
    for runner in [&a, &b, &ends] {
        assert_eq!(cause(&fleet, runner), "host-lost");
    }
    let said = away.journal("-u stratavored -o cat");
    for words in [
        "was given up by its fleet",
        "The store has ended a runner",
        "is alive: it is stopped",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    let full = away.ctl("alice", "run p -- true").code(3);
    assert!(full.err().contains("3 of 3"), "{full}");
    assert_eq!(
        story(&fleet, &id),
        [
            "host.joined",
            "host.unreachable",
            "host.left",
            "host.joined",
            "host.returned"
        ]
    );
    fleet.clear();
}

/// What `stratavorectl host forget` does, as the store's superuser.
fn forget(fleet: &Fleet, id: &str) {
    let options = PostgresOptions {
        servers: vec![ServerAddress::Socket(fleet.postgres.socket(), 5432)],
        database: DATABASE.to_owned(),
        user: "postgres".to_owned(),
        password: None,
        tls: TlsMode::Disable,
        tls_ca: None,
        tls_certificate: None,
        connect_timeout: SOON,
        keep: Keep::default(),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = PostgresStore::open(options, 2).await.unwrap();
        let root = Actor {
            uid: Some(0),
            user: Some("root".to_owned()),
            host: None,
            unit: None,
        };
        store.forget(id, root).await.unwrap();
        stratavore::ports::Store::close(&store).await;
    });
}

/// The daemon dies at every point of joining, arming and promising: what runs goes on, and all is promised in the end.
#[test]
fn the_daemon_dies_while_it_joins_and_arms() {
    let fleet = Fleet::with(FleetPlan {
        hosts: 2,
        ..plan("l-crash", SLOWLY)
    });
    let site = &fleet.sites[0];
    let id = site.host_id();
    let runner = site.run(&format!("-- {ONCE} 1000"));
    for point in [
        "lease.before-join",
        "lease.joined",
        "lease.before-arm",
        "lease.armed",
        "lease.promised",
    ] {
        armed(&fleet, &id);
        let epoch: u64 = of_host(&fleet, &id, "epoch").parse().unwrap();
        crash_at(site, point, "systemctl restart stratavored");
        fleet.wait_up();
        armed(&fleet, &id);
        assert!(
            of_host(&fleet, &id, "epoch").parse::<u64>().unwrap() > epoch,
            "{point}"
        );
        assert!(site.scopes().contains(&runner), "{point}: {}", site.log());
    }
    // A fence that is not wanted any more is taken away, though the daemon dies while it does.
    let config = site.file("/etc/stratavore/stratavored.toml");
    let without = config.replace("stop_on_disconnect_after = \"12s\"\n", "");
    assert_ne!(config, without);
    site.host
        .write("/etc/stratavore/stratavored.toml", &without);
    crash_at(site, "lease.before-disarm", "systemctl restart stratavored");
    fleet.wait_up();
    assert_eq!(of_host(&fleet, &id, "fenced_after"), "");
    fleet.cut(0);
    becomes(&fleet, &id, "standing", "unreachable");
    // Longer than lost_after, too.
    wait_away(&fleet, &id, Duration::from_secs(27));
    assert!(site.scopes().contains(&runner), "{}", site.log());
    assert_eq!(of_host(&fleet, &id, "standing"), "unreachable");
    fleet.mend(0);
    becomes(&fleet, &id, "standing", "up");
    fleet.wait_up();
    fleet.clear();
}

/// Has the next program that comes by that point die there, and does something that leads to it.
#[track_caller]
fn crash_at(site: &Site, point: &str, script: &str) {
    site.crash_at(point);
    site.root(script);
    wait_for(&format!("{point} is reached"), SOON, || {
        match site.host.path(AT).exists() {
            true => Err(site.log()),
            false => Ok(()),
        }
    });
}

/// Where a program looks for the point it is to die at.
const AT: &str = "/run/stratavore-crash/at";

/// Hosts' clocks are an hour apart: the database's counts, for leases as for all else.
#[test]
fn clocks_an_hour_apart() {
    let fleet = Fleet::with(FleetPlan {
        // The certificates are not valid before now.
        clocks: vec![7_200, 3_600, 0],
        ..plan("l-clocks", ARMED)
    });
    cap(&fleet, 3);
    let watch = Watch::start(&fleet, &[("p", 3)]);
    let ids: Vec<String> = fleet.sites.iter().map(Site::host_id).collect();
    ids.iter().for_each(|id| armed(&fleet, id));
    let runs: Vec<String> = fleet
        .sites
        .iter()
        .map(|s| s.run(&format!("-- {ONCE} 1000")))
        .collect();
    wait_until("leases were renewed a few times", RECOVERS, || {
        ids.iter()
            .all(|id| of_host(&fleet, id, "renewed_at - joined_at > 8000000") == "true")
    });
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(of_host(&fleet, id, "standing"), "up", "host {}", n + 1);
        assert_eq!(story(&fleet, id), ["host.joined"]);
        assert!(fleet.sites[n].scopes().contains(&runs[n]));
    }
    // The one that is ahead, then the one that is behind.
    for n in [0, 2] {
        fleet.cut(n);
        take(&fleet, &[1], 1);
        assert_eq!(cause(&fleet, &runs[n]), "host-lost");
        fleet.mend(n);
        becomes(&fleet, &ids[n], "standing", "up");
    }
    fleet.wait_up();
    watch.end();
    fleet.clear();
}

/// An order of another host, and a hold, at the moments when the daemon that carries them out dies.
#[test]
fn the_daemon_dies_with_an_order_or_a_hold_in_its_hands() {
    let fleet = Fleet::with(FleetPlan {
        hosts: 2,
        ..plan("l-orders", UNARMED)
    });
    let (asks, does) = (&fleet.sites[0], &fleet.sites[1]);
    for point in ["fleet.order-taken", "fleet.order-done"] {
        let runner = does.run(&format!("-- {ONCE} 1000"));
        does.crash_at(point);
        // Whoever asks is told that nobody knows what came of it. One that a busy host has not taken in time is withdrawn.
        wait_for(&format!("{point} is reached"), RECOVERS, || {
            let told = asks.ctl("alice", &format!("stop {runner}")).code(1);
            match does.host.path(AT).exists() {
                true => Err(told.to_string()),
                false => Ok(()),
            }
        });
        fleet.wait_up();
        if point == "fleet.order-taken" {
            assert!(
                does.scopes().contains(&runner),
                "taken once, it is never carried out late"
            );
            asks.ctl("alice", &format!("stop {runner}")).ok();
        }
        assert_eq!(does.cause(&runner), "stopped", "{point}");
    }
    let held = does.run(&format!("--label key=shared -- {ONCE} 1000"));
    does.crash_at("policy.freeze");
    asks.ctl("root", "hold set --label key=shared --freeze")
        .ok();
    let state = |wanted: &str| {
        let found = fleet.sql().rows(&format!(
            "SELECT state, frozen_by FROM runners WHERE id = '{held}'"
        ));
        match found[0]["state"] == wanted {
            true => Ok(()),
            false => Err(format!("{found:?}\n{}", does.log())),
        }
    };
    let frozen = format!(
        "/sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{held}.scope/cgroup.events"
    );
    wait_for("it is frozen by whoever comes after", RECOVERS, || {
        match does.file(&frozen).contains("frozen 1") && !does.host.path(AT).exists() {
            true => state("frozen"),
            false => Err(does.log()),
        }
    });
    asks.ctl("root", "hold release --label key=shared").ok();
    wait_for(
        "it goes on, since nobody else had frozen it",
        RECOVERS,
        || state("running"),
    );
    assert!(!does.file(&frozen).contains("frozen 1"));
    fleet.wait_up();
    fleet.clear();
}

/// The host reaches its store all the time, but only the agent can give running work more time: who looks sees it
/// coming, and the ending names it.
#[test]
fn without_its_agent_a_host_stops_what_runs() {
    let fleet = Fleet::with(FleetPlan {
        hosts: 1,
        ..plan("l-agent", ARMED)
    });
    let site = &fleet.sites[0];
    armed(&fleet, &site.host_id());
    let runner = site.run(&format!("-- {ONCE} 1000"));
    let status = site.ctl("alice", "status").ok().out();
    assert!(status.contains("Lease: epoch 1, since "), "{status}");
    let fence = "Self-fence: armed: running work stops by itself in ";
    assert!(status.contains(fence), "{status}");
    let left = || metric(site, "stratavore_self_fence_remaining_seconds");
    // Each renewal gives it 4 s more; on a busy machine we may look right before one.
    wait_for("it is renewed", SOON, || match left() {
        secs if ["2", "3"].contains(&secs.as_str()) => Ok(()),
        secs => Err(secs),
    });
    let check = site.root("stratavored --check-config").ok().err();
    assert!(
        check.contains("stop_on_disconnect_after = 4s is short"),
        "{check}"
    );

    site.root("systemctl mask --runtime -q stratavore-agent.service stratavore-agent.socket; systemctl kill -s KILL stratavore-agent; systemctl stop stratavore-agent.socket stratavore-agent; true").ok();
    wait_until("it has stopped", RECOVERS, || site.scopes().is_empty());
    assert_eq!(left(), "0");
    assert_eq!(of_host(&fleet, &site.host_id(), "standing"), "up");
    let status = site.ctl("alice", "status -o json").ok().out();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["lease"]["epoch"], 1, "{status}");
    assert_eq!(status["lease"]["stops_in_usec"], 0, "{status}");
    let told = site.journal("-u stratavored -o cat");
    assert!(told.contains("running work stops by itself in"), "{told}");
    assert!(
        told.contains("stop_on_disconnect_after = 4s is short"),
        "{told}"
    );

    site.root("systemctl unmask --runtime -q stratavore-agent.service stratavore-agent.socket; systemctl reset-failed; systemctl start stratavore-agent.socket stratavore-agent").ok();
    assert_eq!(site.cause(&runner), "host-lost");
    let why = site.ctl("alice", &format!("why {runner}")).ok().out();
    assert!(why.contains("stratavore-agent was away"), "{why}");
    fleet.wait_up();
    armed(&fleet, &site.host_id());
    wait_for("it is renewed again", SOON, || match left() {
        secs if ["2", "3"].contains(&secs.as_str()) => Ok(()),
        secs => Err(secs),
    });
    fleet.clear();
}

/// With a lease that it can't wait for: the boot would not come to its end in time.
#[test]
fn a_reboot_in_good_order_does_not_wait_for_the_lease() {
    let mut fleet = Fleet::with(FleetPlan {
        hosts: 1,
        ..plan("f-reboot", "lease_ttl = \"5min\"\n")
    });
    let id = fleet.sites[0].run("-- sleep 1000");
    fleet.sites[0].host.power_off();
    fleet.boot_host(0);
    fleet.sites[0].wait_up();
    wait_until("what ended with the host is known", SOON, || {
        cause(&fleet, &id) == "host-shutdown"
    });
    fleet.sites[0].ctl("alice", "run --wait p -- true").ok();
    fleet.clear();
}
