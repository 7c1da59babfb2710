//! What one host of a fleet does about another's: whose a runner there is, orders, holds, drains, events.

use crate::fixture::{SOON, Site};
use crate::load::within;
use crate::support::{Fleet, FleetPlan, wait_for, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Within this time all hosts follow a hold, on a machine that is not busy.
const FOLLOWS: Duration = Duration::from_secs(2);

/// Whether the kernel has frozen a runner of this project.
fn frozen(site: &Site, project: &str, id: &str) -> bool {
    let file = format!(
        "/sys/fs/cgroup/stratavore.slice/stratavore-{project}.slice/stratavore-{id}.scope/cgroup.events"
    );
    site.file(&file).contains("frozen 1")
}

/// Writes an order as a host that has been taken over could, and returns what came of it.
#[track_caller]
fn forged(fleet: &Fleet, target: &Site, id: &str, verb: &str, actor: &str, right: &str) -> Value {
    let order = uuid::Uuid::now_v7().to_string();
    let now = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
    fleet.sql().run(&format!(
        "INSERT INTO orders (id, target, runner, verb, actor, by_right, asked_by, asked_at, expires_at)
         VALUES ('{order}', '{}', '{id}', '{verb}', '{actor}', '{right}', '{}', {now}, {now} + 30000000)",
        target.host_id(),
        fleet.sites[0].host_id()
    ));
    let outcome = wait_for("the order is answered", SOON, || {
        let rows = fleet
            .sql()
            .rows(&format!("SELECT outcome FROM orders WHERE id = '{order}'"));
        let outcome = rows[0]["outcome"].as_str().map(str::to_owned);
        outcome.ok_or_else(|| target.log())
    });
    serde_json::from_str(&outcome).unwrap()
}

#[test]
fn whose_a_runner_of_another_host_is() {
    let fleet = Fleet::boot("f-whose");
    let [a, b, c] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    // On the third host alice's number is carol's, and another number is alice's.
    c.root("for it in 'carol alice' 'alice bob'; do set -- $it; usermod -l $1 $2 && groupmod -n $1 $2 || exit 1; done; systemctl restart stratavored")
        .ok();
    c.wait_up();
    let id = b.run("--name hers -- sleep 1000");
    let spec = &fleet.sql().rows("SELECT uid FROM runners")[0];
    assert_eq!(c.root("id -u carol").out(), spec["uid"].to_string());

    for (site, user) in [(a, "bob"), (c, "carol"), (c, "alice"), (b, "bob")] {
        for order in [
            "freeze ID",
            "thaw ID",
            "kill -s KILL ID",
            "set ID stop-timeout=9s",
            "stop ID",
        ] {
            let order = order.replace("ID", &id);
            let refused = site.ctl(user, &order).code(4);
            assert!(refused.err().contains("control-any"), "{user} {refused}");
        }
        site.ctl(user, &format!("usage report --runner {id} --tokens-in 1"))
            .code(4);
    }
    let shown = b.show(&id);
    assert_eq!(shown["state"], "running", "{shown}");
    assert!(!shown.to_string().contains("9000000"), "{shown}");
    assert_eq!(fleet.sql().number("SELECT count(*) FROM orders"), 0);

    // What a host lets through that should not is refused by the other one, which looks itself.
    let uid = spec["uid"].as_u64().unwrap();
    let plain = |verb: &str| format!("\"{verb}\"");
    let actor = |uid: u64, user: &str| format!("{{\"uid\":{uid},\"user\":\"{user}\"}}");
    for (uid, user) in [
        (uid + 1, "bob"),
        (uid, "carol"),
        (uid + 1, "alice"),
        (0, "root"),
    ] {
        for verb in ["freeze", "stop"] {
            let outcome = forged(&fleet, b, &id, &plain(verb), &actor(uid, user), "own");
            let refused = &outcome["refused"];
            assert!(
                refused[0].as_str().unwrap().contains("NotPermitted")
                    && refused[1].as_str().unwrap().contains("another user"),
                "{user} {verb}: {outcome}"
            );
        }
    }
    assert_eq!(b.show(&id)["state"], "running");
    // It is this that is looked at, and nothing else was wrong with them.
    let outcome = forged(
        &fleet,
        b,
        &id,
        &plain("freeze"),
        &actor(uid, "alice"),
        "own",
    );
    assert_eq!(outcome["done"], Value::Array(Vec::new()), "{outcome}");
    assert!(frozen(b, "p", &id));

    // Alice herself, from the first host; root from any.
    a.ctl("alice", &format!("thaw {id}")).ok();
    assert!(!frozen(b, "p", &id));
    assert_eq!(b.show(&id)["state"], "running");
    a.ctl("alice", &format!("freeze {id}")).ok();
    assert!(frozen(b, "p", &id));
    c.ctl("root", &format!("thaw {id}")).ok();
    assert!(!frozen(b, "p", &id));
    a.ctl("alice", &format!("set {id} stop-timeout=77s")).ok();
    let shown = b.show(&id);
    assert!(shown.to_string().contains("77000000"), "{shown}");
    let told = a.ctl("alice", &format!("set {id} memory-max=x")).code(2);
    assert!(told.err().contains("memory-max"), "{told}");
    let signalled = b.run("-- sleep 1000");
    a.ctl("alice", &format!("kill -s USR1 {signalled}")).ok();
    assert_eq!(b.ended(&signalled)["exit"]["signal"], "SIGUSR1");
    a.ctl("alice", "stop hers").ok();
    assert_eq!(b.cause(&id), "stopped");
    let why = c.ctl("root", &format!("why {id}")).ok().out();
    assert!(why.contains("alice@f-whose-1"), "{why}");
    fleet.clear();
}

/// The right to control any runner is looked at by the host that is asked: who writes the row himself is asked by nobody.
/// stratavore-security(7) says so of whoever can write the store.
#[test]
fn a_row_that_claims_any_right_is_obeyed() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-any",
        hosts: 2,
        ..FleetPlan::default()
    });
    let b = &fleet.sites[1];
    b.root("head -c 32 /dev/urandom | install -D -m 600 /dev/stdin /etc/credstore/stratavore.audit-key && systemctl restart stratavored")
        .ok();
    b.wait_up();
    let (id, other) = (b.run("-- sleep 1000"), b.run("-- sleep 1000"));
    // Nobody of this name is anywhere.
    let actor = "{\"uid\":4242,\"user\":\"mallory\"}";
    let obeyed = |id: &str, verb: &str| {
        let refused = forged(&fleet, b, id, verb, actor, "own");
        assert!(
            refused["refused"][1]
                .as_str()
                .unwrap()
                .contains("another user"),
            "{verb}: {refused}"
        );
        let outcome = forged(&fleet, b, id, verb, actor, "any");
        assert!(outcome["done"].is_array(), "{verb}: {outcome}");
    };
    obeyed(&id, "\"freeze\"");
    assert!(frozen(b, "p", &id));
    obeyed(&id, "\"thaw\"");
    assert!(!frozen(b, "p", &id));
    obeyed(&id, "{\"limit\":{\"stop_timeout\":77000000}}");
    assert!(b.show(&id).to_string().contains("77000000"));
    obeyed(&other, &format!("{{\"kill\":{}}}", 10));
    assert_eq!(b.ended(&other)["exit"]["signal"], "SIGUSR1");
    obeyed(&id, "\"stop\"");
    assert_eq!(b.cause(&id), "stopped");
    let mut sql = fleet.sql();
    for query in [
        format!(
            "SELECT count(*) FROM events WHERE subject = 'runner/{id}' AND type LIKE '%runner.stopping' AND actor LIKE '%mallory%'"
        ),
        format!(
            "SELECT count(*) FROM audit WHERE host = '{}' AND entry LIKE '%mallory%' AND entry LIKE '%runner.stopping%'",
            b.host_id()
        ),
    ] {
        assert_eq!(sql.number(&query), 1, "{query}");
    }
    fleet.clear();
}

#[test]
fn events_follow_what_other_hosts_do() {
    let fleet = Fleet::boot("f-follow");
    let first = &fleet.sites[0];
    let follow = |flags: &str| {
        let words = format!("events -f -o jsonl {flags}");
        let words = std::iter::once("stratavorectl").chain(words.split_whitespace());
        first.host.command(words.collect::<Vec<_>>()).spawn()
    };
    let mut all = follow("--after 0");
    let mut endings = follow("--after 0 --type runner.ended");
    let ran = fleet.each(|_, site| (0..5).map(|_| site.run("-- true")).collect::<Vec<_>>());
    fleet.each(|n, site| {
        let frozen = site.run("-- sleep 1000");
        site.ctl("alice", &format!("freeze {frozen}")).ok();
        let next = &fleet.sites[(n + 1) % 3];
        next.ctl("alice", &format!("stop {frozen}")).ok();
    });
    first.ctl("root", "host cordon f-follow-3").ok();
    fleet.sites[1].ctl("root", "host uncordon f-follow-3").ok();
    let positions = "SELECT position FROM events ORDER BY position";
    let (told, stored) = wait_for("all that is stored is told", SOON, || {
        let stored: Vec<i64> = fleet
            .sql()
            .rows(positions)
            .iter()
            .map(|r| r["position"].as_i64().unwrap())
            .collect();
        let ended = fleet
            .sql()
            .number("SELECT count(*) FROM events WHERE type LIKE '%runner.ended'");
        let told = all.out_so_far();
        let endings = endings.out_so_far();
        let whole = told.ends_with('\n') && told.lines().count() == stored.len();
        match whole && endings.ends_with('\n') && endings.lines().count() == 18 && ended == 18 {
            true => Ok((told, stored)),
            false => Err(format!(
                "{} of {}, {ended}\n{told}",
                told.lines().count(),
                stored.len()
            )),
        }
    });
    let seqs = crate::schema::lines(&told).into_iter();
    assert_eq!(
        seqs.map(|e| e["seq"].as_i64().unwrap()).collect::<Vec<_>>(),
        stored,
        "each once, in their order"
    );
    for id in ran.iter().flatten() {
        for kind in ["runner.starting", "runner.running", "runner.ended"] {
            let of = told.lines().filter(|l| l.contains(id) && l.contains(kind));
            assert_eq!(of.count(), 1, "{id} {kind}\n{told}");
        }
    }
    for line in endings.out_so_far().lines() {
        assert!(line.contains("runner.ended"), "{line}");
    }
    all.kill();
    endings.kill();
    fleet.clear();
}

#[test]
fn a_hold_freezes_a_project_on_every_host_until_its_time() {
    let fleet = Fleet::boot("f-until");
    let first = &fleet.sites[0];
    first.ctl("root", "project create other").ok();
    let held: Vec<[String; 2]> =
        fleet.each(|_, site| [site.run("-- sleep 1000"), site.run("-- sleep 1000")]);
    let other: Vec<String> = fleet.each(|_, site| {
        let run = site.ctl("alice", "run other -- sleep 1000").ok();
        run.out()
    });
    let own = &held[2][1];
    fleet.sites[2].ctl("alice", &format!("freeze {own}")).ok();
    let each = |which: &dyn Fn(&Site, &str) -> bool| {
        let all = held
            .iter()
            .enumerate()
            .flat_map(|(n, ids)| ids.iter().map(move |id| (n, id)));
        all.filter(|(_, id)| *id != own)
            .all(|(n, id)| which(&fleet.sites[n], id))
    };
    const LASTS: Duration = Duration::from_secs(20);
    let set = Instant::now();
    first
        .ctl(
            "root",
            "hold set --project p --freeze --until +20s --reason quota",
        )
        .ok();
    let told = Instant::now();
    wait_until("all are frozen on every host", SOON, || {
        each(&|site, id| frozen(site, "p", id))
    });
    let (took, limit) = (told.elapsed(), within(FOLLOWS));
    eprintln!("all are frozen {took:?} after the hold was set, {limit:?} are allowed");
    assert!(took < limit, "{took:?} of {limit:?}");
    assert!(set.elapsed() < LASTS, "the time of the hold may be over");
    for (site, id) in fleet.sites.iter().zip(&other) {
        assert!(!frozen(site, "other", id));
    }
    let refused = fleet.sites[1].ctl("alice", "run p -- true").code(3);
    assert!(refused.err().contains("quota"), "{refused}");
    fleet.sites[1].ctl("alice", "run other -- true").ok();

    wait_until("all go on by themselves", LASTS + SOON, || {
        each(&|site, id| !frozen(site, "p", id))
    });
    let took = set.elapsed();
    assert!(took >= LASTS, "{took:?}");
    eprintln!("all go on {:?} after the hold has ended", took - LASTS);
    for (n, ids) in held.iter().enumerate() {
        for id in ids.iter().filter(|id| *id != own) {
            wait_until("the store says so", SOON, || {
                fleet.sites[n].show(id)["state"] == "running"
            });
        }
    }
    assert!(frozen(&fleet.sites[2], "p", own), "alice froze it");
    let released = fleet
        .sql()
        .number("SELECT count(*) FROM events WHERE type LIKE '%hold.released'");
    assert_eq!(released, 1, "whichever host ended it");
    assert_eq!(first.ctl("root", "hold list -o json").ok().out(), "[]");
    fleet.sites[1].ctl("alice", "run p -- true").ok();
    fleet.clear();
}

/// The time that is given to what runs passes while the daemon is killed in between, and while it is away: nothing is
/// stopped before, all is then.
#[test]
fn the_deadline_of_a_drain_passes() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-given",
        timings: "lease_renew = \"1s\"\nlease_ttl = \"5s\"\nlost_after = \"10min\"\n".to_owned(),
        ..FleetPlan::default()
    });
    let [a, b, c] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    let long = [b.run("-- sleep 1000"), c.run("-- sleep 1000")];
    let frozen = b.run("-- sleep 1000");
    b.ctl("alice", &format!("freeze {frozen}")).ok();
    let short = b.run("-- sh -c 'sleep 3; exit 7'");
    for name in ["f-given-2", "f-given-3"] {
        a.ctl(
            "root",
            &format!("host drain {name} --no-block --deadline 15s --reason disk"),
        )
        .ok();
    }
    c.root("systemctl stop stratavored").ok();
    b.kill9("stratavored");
    assert_eq!(b.cause(&short), "exit-code");
    let until = |site: &Site| {
        fleet.sql().number(&format!(
            "SELECT CAST(CAST(cordon AS JSON) ->> 'drain_until' AS BIGINT) FROM hosts WHERE host = '{}'",
            site.host_id()
        ))
    };
    let asked_at = |id: &str| {
        fleet.sql().number(&format!(
            "SELECT at FROM events WHERE subject = 'runner/{id}' AND type LIKE '%runner.stopping'"
        ))
    };
    wait_until("what had its time is stopped", SOON * 2, || {
        b.scopes().is_empty()
    });
    for id in [&long[0], &frozen] {
        assert_eq!(b.cause(id), "stopped");
        assert!(asked_at(id) >= until(b), "{} {}", asked_at(id), until(b));
        let why = a.ctl("root", &format!("why {id}")).ok().out();
        assert!(why.contains("root@f-given-1"), "{why}");
    }
    // Nobody is there to stop it; whoever comes does.
    assert!(c.scopes().contains(&long[1]));
    c.root("systemctl start stratavored").ok();
    c.wait_up();
    assert_eq!(c.cause(&long[1]), "stopped");
    assert!(asked_at(&long[1]) >= until(c));
    a.ctl("root", "host uncordon f-given-2").ok();
    b.ctl("alice", "run p -- true").ok();
    fleet.clear();
}
