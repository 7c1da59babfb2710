//! The audit chain on real hosts: kept with a key by credential, told apart under real tampering, whole after kills.

use crate::doctor::said;
use crate::fixture::{Plan, SOON, Site};
use crate::support::{Fleet, FleetPlan, Root, wait_for, wait_until};
use serde_json::Value;
use std::time::Duration;

const KEY: &str = "/etc/credstore/stratavore.audit-key";
const DB: &str = "/var/lib/stratavore/stratavore.db";

/// From here on this host keeps an audit.
fn keep(site: &Site) {
    site.root(&format!(
        "head -c 32 /dev/urandom | install -D -m 600 /dev/stdin {KEY} && systemctl restart stratavored"
    ))
    .ok();
    site.wait_up();
}

/// The verdict, by `audit verify` with these words.
#[track_caller]
fn verdict(site: &Site, words: &str) -> Value {
    let out = site.ctl("root", &format!("-o json audit verify {words}"));
    let report: Value = serde_json::from_str(&out.out()).unwrap_or_else(|e| panic!("{e}: {out}"));
    let whole = report["verdict"] == "whole";
    assert_eq!(out.success(), whole, "{out}");
    report
}

/// By hand in the file, while no daemon runs.
fn tamper(site: &Site, sql: &str) {
    site.root(&format!(
        "systemctl stop stratavored && cp -a {DB} /root/kept.db && sqlite3 {DB} \"DROP TRIGGER audit_changed; {sql}\" && systemctl start stratavored"
    ))
    .ok();
    site.wait_up();
}

fn put_back(site: &Site) {
    site.root(&format!(
        "systemctl stop stratavored && rm -f {DB}-wal {DB}-shm && cp -a /root/kept.db {DB} && systemctl start stratavored"
    ))
    .ok();
    site.wait_up();
}

/// What is in the audit, by SQLite itself.
fn entries(site: &Site) -> Vec<Value> {
    let rows = site.sql("SELECT entry FROM audit ORDER BY n");
    let texts = rows.iter().map(|row| row["entry"].as_str().unwrap());
    texts.map(|t| serde_json::from_str(t).unwrap()).collect()
}

#[track_caller]
fn wait_entry(site: &Site, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, SOON, || {
        let all = entries(site);
        all.iter()
            .find(|e| is(e))
            .cloned()
            .ok_or_else(|| format!("{all:#?}"))
    })
}

#[test]
fn what_is_done_is_in_the_audit_and_tampering_shows() {
    let site = Site::boot("audit");
    let status = site.ctl("alice", "status").ok().out();
    assert!(status.contains("not kept"), "{status}");
    let none = site.ctl("root", "audit verify").code(5).err();
    assert!(none.contains("No audit is kept"), "{none}");
    site.ctl("root", "audit export /root/none").code(5);
    assert!(!site.host.path("/root/none").exists());
    // A key that is none is refused, and what it is is not told.
    site.root(&format!(
        "install -d /etc/credstore; printf hunter2 >{KEY}; systemctl restart stratavored"
    ));
    let said = wait_for("it is refused", SOON, || {
        let log = site.host.journal();
        log.contains("32 to 4096").then_some(log.clone()).ok_or(log)
    });
    assert!(!said.contains("hunter2"), "{said}");
    site.root("systemctl reset-failed stratavored").ok();
    keep(&site);
    assert!(site.ctl("alice", "status").ok().out().contains("Audit"));

    let id = site.run("-- sleep 1000");
    site.ctl("alice", &format!("set {id} runtime-max=1h")).ok();
    let refused = site.ctl("bob", &format!("stop {id}")).code(4);
    let deed = format!("to stop runner {id} of alice (polkit action");
    assert!(refused.err().contains(&deed), "{refused}");
    site.ctl("alice", &format!("kill -s SIGUSR1 {id}"));
    site.ctl(
        "root",
        "budget set --scope project:p --period day --limit 1M",
    )
    .ok();
    site.ctl("root", "hold set --label a=b --reason later").ok();
    site.ctl("bob", "hold release --label a=b").code(4);
    site.ctl("root", "reconcile").ok();
    let refused = wait_entry(&site, "what bob may not", |e| {
        e["kind"] == "act.refused" && e["data"]["method"] == "Stop"
    });
    assert_eq!(refused["actor"]["user"], "bob");
    assert_eq!(refused["subject"], format!("runner/{id}"));
    let kill = wait_entry(&site, "the signal", |e| e["kind"] == "act.kill");
    assert_eq!(kill["actor"]["user"], "alice");
    assert_eq!(kill["data"]["signal"], "SIGUSR1");
    for kind in [
        "act.set-limits",
        "act.set-budget",
        "hold.set",
        "act.reconcile",
        "runner.running",
    ] {
        wait_entry(&site, kind, |e| e["kind"] == kind);
    }
    site.ended(&id);
    site.ctl("bob", "audit verify").code(4);
    site.ctl("bob", "audit export /tmp/x").code(4);
    let whole = verdict(&site, "");
    assert_eq!(
        (&whole["verdict"], &whole["first"]),
        (&"whole".into(), &1.into())
    );
    assert_eq!(verdict(&site, &format!("--key {KEY}"))["verdict"], "whole");

    // For an auditor: without a daemon, with anchors of the journal.
    site.ctl("root", "audit export /root/audit.jsonl").ok();
    site.root("systemctl stop stratavored && journalctl --sync && journalctl -o json -u stratavored >/root/anchors")
        .ok();
    let offline = format!("--key {KEY} --anchor /root/anchors /root/audit.jsonl");
    let short = verdict(&site, &offline);
    // The anchor of the stop is later than the export.
    assert_eq!(short["verdict"], "short", "{short}");
    site.root("systemctl start stratavored").ok();
    site.wait_up();
    site.ctl("root", "audit export /root/later.jsonl").ok();
    let later = verdict(&site, &offline.replace("audit.jsonl", "later.jsonl"));
    assert_eq!(later["verdict"], "whole");
    assert!(later["anchors"].as_u64().unwrap() > 0, "{later}");
    site.root("head -c -20 /root/later.jsonl >/root/torn.jsonl; sed 4d /root/later.jsonl >/root/gone.jsonl; sed 's/bob/eve/' /root/later.jsonl >/root/eve.jsonl; head -c 32 /dev/urandom >/root/other")
        .ok();
    for (file, key, word) in [
        ("torn", KEY, "torn"),
        ("gone", KEY, "removed"),
        ("eve", KEY, "changed"),
        ("later", "/root/other", "wrong-key"),
    ] {
        let report = verdict(&site, &format!("--key {key} /root/{file}.jsonl"));
        assert_eq!(report["verdict"], word, "{report}");
    }
    site.ctl("root", "audit verify /root/later.jsonl").code(2);

    // In the store itself.
    for (sql, word) in [
        (
            "UPDATE audit SET entry = replace(entry, 'bob', 'eve') WHERE entry LIKE '%act.refused%'",
            "changed",
        ),
        ("DELETE FROM audit WHERE n = 5", "removed"),
        // The start is an entry behind what is missing.
        ("DELETE FROM audit WHERE n > 6", "removed"),
        (
            "DELETE FROM audit WHERE n > 6; UPDATE audit_heads SET n = 6, mac = (SELECT mac FROM audit WHERE n = 6)",
            "short",
        ),
        // The entries say where they end, and the anchors that none is missing.
        ("DELETE FROM audit_heads", "whole"),
    ] {
        tamper(&site, sql);
        // The journal remembers what the daemon of now was not there for.
        let told = verdict(&site, "--anchor /root/anchors");
        assert_eq!(told["verdict"], word, "{told}");
        if word == "whole" {
            put_back(&site);
            continue;
        }
        let sentence = site
            .ctl("root", "audit verify --anchor /root/anchors")
            .code(1)
            .err();
        assert!(sentence.contains("The audit of host"), "{sentence}");
        put_back(&site);
    }
    assert_eq!(verdict(&site, "--anchor /root/anchors")["verdict"], "whole");

    // Another key: the former one names it at once.
    site.root(&format!("mv {KEY} {KEY}-previous")).ok();
    keep(&site);
    let rotated = wait_entry(&site, "the rotation", |e| e["kind"] == "audit.rotated");
    assert_eq!(rotated["data"]["former"].as_str().unwrap().len(), 16);
    assert_eq!(verdict(&site, "--anchor /root/anchors")["verdict"], "whole");
    site.root(&format!(
        "rm {KEY}-previous && systemctl restart stratavored"
    ))
    .ok();
    site.wait_up();
    assert_eq!(verdict(&site, "")["verdict"], "wrong-key");
}

/// The unit of who asked: surely where the bus names processes by descriptors, by their number elsewhere.
fn by_a_unit(name: &'static str, root: Root, key: &str) {
    let site = Site::with(Plan {
        name,
        root,
        ..Plan::default()
    });
    keep(&site);
    site.root("systemd-run -q --unit=deploy-1 --pipe --wait stratavorectl project create by-unit")
        .ok();
    let created = wait_entry(&site, "the project", |e| {
        e["kind"] == "project.created" && e["project"] == "by-unit"
    });
    let actor = &created["actor"];
    assert_eq!(
        (&actor["user"], &actor[key]),
        (&"root".into(), &"deploy-1.service".into())
    );
    let others: Vec<_> = ["unit", "unit_by_pid"]
        .into_iter()
        .filter(|k| *k != key)
        .collect();
    assert_eq!(actor[others[0]], Value::Null, "{created}");
    // Who is refused, too; and what the host does itself is nobody's.
    site.root("systemd-run -q --uid=bob --unit=curious --pipe --wait stratavorectl audit verify");
    let refused = wait_entry(&site, "the refusal", |e| e["kind"] == "act.refused");
    assert_eq!(refused["actor"][key], "curious.service");
    let id = site.run("-- true");
    site.ended(&id);
    let ended = wait_entry(&site, "its end", |e| e["kind"] == "runner.ended");
    assert_eq!(
        (&ended["actor"]["uid"], &ended["actor"][key]),
        (&Value::Null, &Value::Null)
    );
    // It is in no event.
    let events = site.ctl("root", "events -o json").ok().out();
    assert!(!events.contains("deploy-1"), "{events}");
    assert_eq!(verdict(&site, "")["verdict"], "whole");
}

#[test]
fn the_callers_unit_by_its_number_on_252() {
    by_a_unit("audit-unit", Root::Machine, "unit_by_pid");
}

#[test]
fn the_callers_unit_on_257() {
    // The kernel gives the bus its descriptors of processes from 6.5 on.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let surely = (parts.next(), parts.next()) >= (Some(6), Some(5));
    by_a_unit(
        "audit-unit-257",
        Root::Trixie,
        if surely { "unit" } else { "unit_by_pid" },
    );
}

#[test]
fn a_reload_is_in_the_audit() {
    let site = Site::boot("audit-reload");
    keep(&site);
    let reloads = || -> Vec<Value> {
        let all = entries(&site);
        all.into_iter()
            .filter(|e| e["kind"] == "act.reload")
            .collect()
    };
    site.root("install -d /etc/stratavore/stratavored.toml.d; printf '[host]\nmax_runners = 77\n[metrics]\nadvertise = \"a:1\"\n' >/etc/stratavore/stratavored.toml.d/90-test.toml; systemctl reload stratavored")
        .ok();
    let first = wait_for("the reload", SOON, || {
        reloads().first().cloned().ok_or_else(|| "none".to_owned())
    });
    assert_eq!(first["result"], "ok");
    assert_eq!(
        first["data"]["taken"],
        serde_json::json!(["host.max_runners"])
    );
    assert_eq!(
        first["data"]["restart"],
        serde_json::json!(["metrics.advertise"])
    );
    assert_eq!(first["subject"], format!("host/{}", site.host_id()));
    // Past the check that systemctl makes: what is wrong changes nothing, and that is told.
    site.root("printf 'max_runners = hunter2' >/etc/stratavore/stratavored.toml.d/90-test.toml; systemctl kill -s HUP stratavored")
        .ok();
    let second = wait_for("the other one", SOON, || {
        reloads().get(1).cloned().ok_or_else(|| "one".to_owned())
    });
    assert_eq!(second["result"], "failed");
    assert!(!second.to_string().contains("hunter2"), "{second}");
    assert_eq!(verdict(&site, "")["verdict"], "whole");
}

#[test]
fn a_daemon_that_is_killed_leaves_a_whole_chain() {
    let site = Site::boot("audit-kill");
    keep(&site);
    site.run("-- true");
    for point in ["store.before-commit", "store.after-commit"] {
        for _ in 0..3 {
            site.crash_at(point);
            site.sh_as("alice", "timeout 60 stratavorectl run p -- true; true");
            wait_until(point, SOON, || {
                !site.host.path("/run/stratavore-crash/at").exists()
            });
            site.wait_up();
            assert_eq!(verdict(&site, "")["verdict"], "whole", "{point}");
        }
    }
    for _ in 0..3 {
        site.sh_as(
            "alice",
            "for n in 1 2 3 4; do stratavorectl run p -- true & done; sleep 0.2",
        );
        site.kill9("stratavored");
        site.wait_up();
        assert_eq!(verdict(&site, "")["verdict"], "whole");
    }
    // Every event is an entry, and every entry of an event has it.
    let rows = site.sql(
        "SELECT (SELECT count(*) FROM events WHERE subject LIKE 'runner/%') AS events,
                (SELECT count(*) FROM audit WHERE entry LIKE '%\"subject\":\"runner/%') AS told",
    );
    assert_eq!(rows[0]["events"], rows[0]["told"]);
}

#[test]
fn hosts_of_a_fleet_keep_chains_of_their_own() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-audit",
        hosts: 2,
        ..FleetPlan::default()
    });
    let [one, two] = &fleet.sites[..] else {
        panic!("two")
    };
    fleet.each(|_, site| keep(site));
    one.run("-- true");
    // More of them before one host looks at the other: it does so a minute after its start, and then for an hour no more.
    for id in [two.run("-- true"), two.run("-- true")] {
        two.ended(&id);
    }
    let (first, second) = (one.host_id(), two.host_id());
    for (site, id) in [(one, &first), (two, &second)] {
        let report = verdict(site, "");
        assert_eq!(
            (&report["verdict"], report["host"].as_str()),
            (&"whole".into(), Some(id.as_str()))
        );
    }
    // Another host's audit needs that host's key.
    assert_eq!(
        verdict(one, &format!("--of {second}"))["verdict"],
        "wrong-key"
    );
    let mut sql = fleet.sql();
    let own = format!(
        "SELECT count(DISTINCT host)::BIGINT FROM audit WHERE host IN ('{first}', '{second}')"
    );
    assert_eq!(sql.number(&own), 2);
    sql.run(&format!(
        "SET session_replication_role = replica; UPDATE audit SET at = at + 1 WHERE host = '{first}' AND n = 2; SET session_replication_role = DEFAULT"
    ));
    let changed = verdict(one, "");
    assert_eq!(
        (&changed["verdict"], &changed["n"]),
        (&"changed".into(), &2.into())
    );
    assert_eq!(verdict(two, "")["verdict"], "whole");
    let doctor = |site: &Site, user: &str| {
        let found = said(site, user, "audit").unwrap();
        (found["level"].clone(), found["message"].to_string())
    };
    let (level, message) = doctor(one, "root");
    assert!(
        level == "problem" && message.contains("does not verify: it was changed: entry 2 "),
        "{message}"
    );
    // Who may not look is not told of it, and no refusal is written down.
    for (user, part) in [("root", "kept, and whole"), ("alice", "root may ask")] {
        let (level, message) = doctor(two, user);
        assert!(level == "ok" && message.contains(part), "{message}");
    }
    let refusals = format!(
        "SELECT count(*)::BIGINT FROM audit WHERE host = '{second}' AND entry::TEXT LIKE '%act.refused%'"
    );
    assert_eq!(sql.number(&refusals), 0);

    // What one host has done is also known by what the other has seen of it.
    let seen = format!(
        "SELECT coalesce(max(n), 0)::BIGINT FROM audit_witness WHERE host = '{second}' AND by_host = '{first}'"
    );
    let seen = wait_for("it is witnessed", Duration::from_secs(180), || match fleet
        .sql()
        .number(&seen)
    {
        n if n > 5 => Ok(n),
        n => Err(n.to_string()),
    });
    two.root("systemctl stop stratavored").ok();
    sql.run(&format!(
        "SET session_replication_role = replica;
         DELETE FROM events WHERE type = 'audit.anchored';
         DELETE FROM audit WHERE host = '{second}' AND n > 3;
         UPDATE audit_heads SET n = 3, mac = (SELECT mac FROM audit WHERE host = '{second}' AND n = 3) WHERE host = '{second}';
         SET session_replication_role = DEFAULT"
    ));
    two.root("systemctl start stratavored").ok();
    two.wait_up();
    let short = verdict(two, "");
    assert_eq!(short["verdict"], "short", "{short}");
    let said = short["message"].as_str().unwrap();
    assert!(
        said.contains(&format!("entry {seen} was anchored")),
        "{said}"
    );
}
