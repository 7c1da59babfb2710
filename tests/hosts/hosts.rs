//! Hosts of a fleet as an operator handles them: cordoned, drained, dead, forgotten, back again.

use crate::fixture::{Plan, SOON, Site};
use crate::load::within;
use crate::support::{Fleet, FleetPlan, wait_for, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

/// What `host list` says of a host, asked on another one.
fn host(site: &Site, name: &str) -> Value {
    let out = site.ctl("root", "host list -o json").ok();
    let hosts: Vec<Value> = serde_json::from_str(&out.out()).unwrap();
    let found = hosts.iter().find(|h| h["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {out}")).clone()
}

#[track_caller]
fn becomes(site: &Site, name: &str, state: &str) {
    wait_for(&format!("{name} is {state}"), SOON, || {
        let seen = host(site, name);
        match seen["state"] == state {
            true => Ok(()),
            false => Err(seen.to_string()),
        }
    });
}

#[test]
fn a_host_is_cordoned_and_drained_from_another_one() {
    let fleet = Fleet::boot("f-drain");
    let [a, b, c] = &fleet.sites[..] else {
        panic!("three")
    };
    for name in ["f-drain-1", "f-drain-2", "f-drain-3"] {
        assert_eq!(host(a, name)["state"], "up");
    }
    assert_eq!(host(a, "f-drain-1")["local"], true);
    assert_eq!(host(a, "f-drain-2")["local"], false);

    // A cordon is seen at once; alice may see it, and not set it.
    a.ctl("alice", "host cordon f-drain-2").code(4);
    a.ctl("root", "host cordon f-drain-2 --reason 'new disk'")
        .ok();
    let began = Instant::now();
    wait_for("the other host refuses", SOON, || {
        let refused = b.ctl("alice", "run p -- true");
        match refused.code == 3 && refused.err().contains("cordoned (new disk)") {
            true => Ok(()),
            false => Err(refused.to_string()),
        }
    });
    let (took, limit) = (began.elapsed(), within(Duration::from_secs(2)));
    assert!(took < limit, "{took:?} of {limit:?}");
    let gates = b.ctl("alice", "run --explain p -- true").code(3).out();
    assert!(gates.contains("cordon"), "{gates}");
    c.ctl("alice", "run --wait p -- true").ok();
    let list = c.ctl("alice", "host list").ok().out();
    assert!(list.contains("cordoned: new disk"), "{list}");
    let status = b.ctl("alice", "status").ok().out();
    assert!(
        status.contains("Cordon: cordoned: new disk") && status.contains("3 hosts up"),
        "{status}"
    );
    a.ctl("root", "host uncordon f-drain-2").ok();
    b.ctl("alice", "run --wait p -- true").ok();

    // What runs there is seen here, with its host.
    let runs: Vec<String> = (0..3).map(|_| b.run("-- sleep 1000")).collect();
    let frozen = &runs[2];
    b.ctl("alice", &format!("freeze {frozen}")).ok();
    let here = c.run("-- sleep 1000");
    let listed = a.ctl("alice", "list").ok().out();
    assert!(
        listed.contains("HOST") && listed.contains("f-drain-2"),
        "{listed}"
    );
    let on = a.ctl("alice", "list -q --on f-drain-2").ok().out();
    assert_eq!(on.lines().count(), 3, "{on}");
    a.ctl("alice", "list --on nowhere").code(5);
    let shown = a.ctl("alice", &format!("show {}", runs[0])).ok().out();
    assert!(shown.contains("Host: f-drain-2"), "{shown}");
    let logs = a.ctl("alice", &format!("logs {}", runs[0])).code(1).err();
    assert!(logs.contains("-H f-drain-2 logs"), "{logs}");

    // Given time, what ends by itself is left alone.
    let short = b.run("-- sh -c 'sleep 6; exit 7'");
    a.ctl("root", "host drain f-drain-2 --no-block --deadline 1h")
        .ok();
    assert_eq!(b.cause(&short), "exit-code");
    assert_eq!(b.scopes().len(), 3);
    // Drained at once: from elsewhere, frozen ones too, and it is seen how it empties.
    let drained = a
        .ctl("root", "host drain f-drain-2 --reason 'new disk'")
        .ok();
    assert_eq!(b.scopes().len(), 0);
    let said = drained.err();
    assert!(
        said.contains("3 live runners") && said.contains("is empty"),
        "{said}"
    );
    for id in &runs {
        assert_eq!(b.cause(id), "stopped");
    }
    let why = c.ctl("root", &format!("why {}", runs[0])).ok().out();
    assert!(why.contains("root@f-drain-1"), "{why}");
    b.ctl("alice", "run p -- true").code(3);
    assert_eq!(c.show(&here)["state"], "running");
    let seen = host(c, "f-drain-2");
    assert_eq!(
        (&seen["cordon"]["reason"], &seen["cordon"]["actor"]["user"]),
        (&"new disk".into(), &"root".into())
    );
    // It holds through a restart.
    b.root("systemctl restart stratavored").ok();
    b.wait_up();
    b.ctl("alice", "run p -- true").code(3);
    b.ctl("root", "host uncordon f-drain-2").ok();
    b.ctl("alice", "run --wait p -- true").ok();
    let events = a.ctl("alice", "events --after 0").ok().out();
    for word in [
        "host.cordoned",
        "host.uncordoned",
        "by root@f-drain-1",
        "by root@f-drain-2",
    ] {
        assert!(events.contains(word), "{word}\n{events}");
    }

    // The cap of the fleet, set on one host, holds on all.
    a.ctl("alice", "fleet set --max-runners 2").code(4);
    a.ctl("root", "fleet set --max-runners 2").ok();
    b.run("-- sleep 1000");
    for site in &fleet.sites {
        let refused = site.ctl("alice", "run p -- true").code(3).err();
        assert!(refused.contains("2 of 2"), "{refused}");
    }
    let shown = c.ctl("alice", "fleet show -o json").ok().out();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["max_runners"], &shown["live"]),
        (&2.into(), &2.into())
    );
    assert_eq!(shown["hosts"]["up"], 3);
    b.ctl("root", "fleet set --max-runners infinity").ok();
    a.ctl("alice", "run p -- true").ok();
    fleet.clear();
}

#[test]
fn a_dead_host_is_forgotten_and_comes_back() {
    let mut fleet = Fleet::boot("f-dead");
    let ran = fleet.sites[2].run("-- sleep 1000");
    let cut_off = fleet.sites[1].run("-- sleep 1000");
    fleet.sites[0]
        .ctl("root", "project set p --max-runners 2")
        .ok();
    let up = fleet.sites[0].ctl("root", "host forget f-dead-3").code(1);
    assert!(up.err().contains("is up"), "{up}");
    let own = fleet.sites[0].ctl("root", "host forget f-dead-1").code(1);
    assert!(own.err().contains("asks itself"), "{own}");

    // An order that its host does not take is never carried out.
    fleet.cut(1);
    let stop = fleet.sites[0]
        .ctl("alice", &format!("stop {cut_off}"))
        .code(1);
    assert!(stop.err().contains("withdrawn"), "{stop}");
    assert!(stop.took < within(Duration::from_secs(15)), "{stop}");
    fleet.mend(1);
    becomes(&fleet.sites[0], "f-dead-2", "up");
    wait_until("it takes orders again", SOON, || {
        let freeze = format!("freeze {cut_off}");
        fleet.sites[0].ctl("alice", &freeze).success()
    });
    assert_eq!(fleet.sites[1].show(&cut_off)["state"], "frozen");

    fleet.kill_host(2);
    let a = &fleet.sites[0];
    becomes(a, "f-dead-3", "unreachable");
    // Nobody knows what runs there: its slot stays charged.
    a.ctl("alice", "run p -- true").code(3);
    let drain = a.ctl("root", "host drain f-dead-3").code(1);
    assert!(drain.err().contains("host forget f-dead-3"), "{drain}");
    a.ctl("alice", "host forget f-dead-3").code(4);
    let forgotten = a.ctl("root", "host forget f-dead-3").ok();
    assert!(forgotten.err().contains("1 runner ended"), "{forgotten}");
    assert_eq!(a.cause(&ran), "host-lost");
    a.ctl("alice", "run p -- true").ok();
    assert_eq!(host(a, "f-dead-3")["state"], "left");
    let events = a.ctl("alice", "events --after 0 --type host.left").ok();
    assert!(events.out().contains("by root@f-dead-1"), "{events}");

    fleet.boot_host(2);
    becomes(&fleet.sites[0], "f-dead-3", "up");
    let back = &fleet.sites[2];
    back.wait_up();
    // What was said of it while it was away holds on.
    back.ctl("alice", "run p -- true").code(3);
    back.ctl("root", "host uncordon f-dead-3").ok();
    back.ctl("alice", "run p -- true").ok();
    assert_eq!(back.show(&ran)["exit"]["cause"], "host-lost");
    fleet.clear();
}

#[test]
fn the_only_host() {
    let site = Site::with(Plan {
        name: "h-one",
        ..Plan::default()
    });
    let list = site.ctl("alice", "host list").ok().out();
    assert!(
        list.contains("h-one") && list.contains("infinity"),
        "{list}"
    );
    let id = site.run("-- sleep 1000");
    // Where there is one host, nobody is told which.
    let listed = site.ctl("alice", "list").ok().out();
    assert!(!listed.contains("HOST"), "{listed}");
    site.ctl("root", "host forget h-one").code(1);
    let nearest = site.ctl("root", "host cordon h-on").code(5);
    assert!(nearest.err().contains("h-one"), "{nearest}");
    site.ctl("root", "host drain h-one").ok();
    assert_eq!(site.cause(&id), "stopped");
    site.ctl("alice", "run p -- true").code(3);
    site.ctl("root", "host uncordon h-one").ok();
    site.ctl("alice", "run p -- true").ok();
    site.check();
}

/// The targets that a host's `/sd` names, in order; none while it does not know its fleet.
fn targets(site: &Site) -> Vec<String> {
    let out = site.root("python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9791/sd', timeout=10).read().decode())\"");
    let told: Vec<Value> = serde_json::from_str(&out.out()).unwrap_or_default();
    let of = |t: &Value| t["targets"][0].as_str().unwrap().to_owned();
    let mut all: Vec<String> = told.iter().map(of).collect();
    all.sort();
    all
}

#[test]
fn prometheus_finds_all_hosts_by_one() {
    let mut fleet = Fleet::with(FleetPlan {
        name: "f-sd",
        config: "[metrics]\nlisten = \"0.0.0.0:9791\"\n".to_owned(),
        ..FleetPlan::default()
    });
    for (n, site) in fleet.sites.iter().enumerate() {
        let advertise = format!(
            "mkdir -p /etc/stratavore/stratavored.toml.d && printf '[metrics]\\nadvertise = \"{}\"\\n' >/etc/stratavore/stratavored.toml.d/sd.toml && systemctl restart stratavored",
            fleet.address(n)
        );
        site.root(&advertise).ok();
    }
    fleet.wait_up();
    let mut all: Vec<String> = (0..3)
        .map(|n| format!("{}:9791", fleet.address(n)))
        .collect();
    all.sort();
    for site in &fleet.sites {
        wait_for("all three are listed", SOON, || match targets(site) {
            seen if seen == all => Ok(()),
            seen => Err(format!("{seen:?}")),
        });
    }
    let a = &fleet.sites[0];
    a.host.write("/tmp/prometheus.yml", "global: {scrape_interval: 2s, scrape_timeout: 2s}\nscrape_configs:\n- job_name: stratavore\n  http_sd_configs: [{url: 'http://127.0.0.1:9791/sd', refresh_interval: 1s}]\n  relabel_configs: [{source_labels: [__meta_stratavore_host_name], target_label: host}]\n");
    a.root("systemd-run -q --unit prom prometheus --config.file /tmp/prometheus.yml --storage.tsdb.path /tmp/tsdb --web.listen-address 127.0.0.1:9090").ok();
    let up = |site: &Site| -> Vec<String> {
        let out = site.root("python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9090/api/v1/query?query=up==1', timeout=10).read().decode())\"");
        let told: Value = serde_json::from_str(&out.out()).unwrap_or_default();
        let rows = told["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut hosts: Vec<String> = rows
            .iter()
            .map(|r| r["metric"]["host"].as_str().unwrap_or_default().to_owned())
            .collect();
        hosts.sort();
        hosts
    };
    let names = ["f-sd-1", "f-sd-2", "f-sd-3"];
    wait_for("Prometheus has scraped all three", SOON, || match up(a) {
        seen if seen == names => Ok(()),
        seen => Err(format!("{seen:?}")),
    });

    // Without the store the list stays as it was.
    fleet.postgres.kill9();
    wait_until("the store is missed", SOON, || {
        fleet.sites[0].store() == "down"
    });
    let known = "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9791/metrics', timeout=10).read().decode())\" | grep -c '^stratavore_fleet_hosts'";
    wait_until("nobody knows how the fleet is", SOON, || {
        fleet.sites[0].root(known).out() == "0"
    });
    assert_eq!(targets(&fleet.sites[0]), all);
    wait_until("all are scraped as before", SOON, || {
        up(&fleet.sites[0]) == names
    });
    // A daemon that has not seen its fleet yet says so with a status that changes nothing for Prometheus.
    fleet.sites[0]
        .root("systemctl kill -s KILL stratavored")
        .ok();
    let code = "python3 -c \"import http.client as h; c = h.HTTPConnection('127.0.0.1', 9791, timeout=10); c.request('GET', '/sd'); print(c.getresponse().status)\"";
    wait_until("it answers again", SOON, || {
        fleet.sites[0].root(code).out() == "503"
    });
    wait_until("all are scraped again", SOON, || {
        up(&fleet.sites[0]) == names
    });
    fleet.postgres.start_again();
    wait_until("the list is there again", SOON, || {
        fleet.sites[0].root(code).out() == "200" && targets(&fleet.sites[0]) == all
    });
    fleet.wait_up();
    // A dead one stays, for its alert; a forgotten one goes.
    fleet.kill_host(2);
    becomes(&fleet.sites[0], "f-sd-3", "unreachable");
    assert_eq!(targets(&fleet.sites[0]), all);
    fleet.sites[0].ctl("root", "host forget f-sd-3").ok();
    wait_until("it is gone", SOON, || targets(&fleet.sites[0]).len() == 2);
}
