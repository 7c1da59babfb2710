//! Three hosts that share one Postgres: no interleaving of theirs, and nothing that dies, admits past a quota.

use crate::fixture::{SOON, Site};
use crate::support::{
    Blow, Chaos, Fleet, FleetPlan, ONCE, RECOVERS, Watch, Way, wait_for, wait_until,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A launch that has no store to ask is refused within this time.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);

/// So many callers at once, spread over the hosts, each launching once; how often each exit status came back.
pub fn storm(fleet: &Fleet, callers: usize, run: &str) -> BTreeMap<i32, usize> {
    let hosts = fleet.sites.len();
    let codes = fleet.each(|n, site| {
        let here = callers / hosts + usize::from(n < callers % hosts);
        let script = format!(
            "for i in $(seq {here}); do (stratavorectl --no-ask-password run {run} >/dev/null 2>>/srv/storm.err; echo $?) & done; wait"
        );
        let storm = site.host.command(["bash", "-c", &script]).user("alice");
        storm.limit(Duration::from_secs(180)).run().ok().out()
    });
    let mut counts = BTreeMap::new();
    for code in codes.iter().flat_map(|c| c.lines()) {
        *counts.entry(code.parse().unwrap()).or_insert(0) += 1;
    }
    counts
}

pub fn errors(fleet: &Fleet) -> String {
    let of = |site: &Site| site.root("sort /srv/storm.err | uniq -c").out();
    fleet.up().map(|(_, site)| of(site)).collect()
}

fn cap(fleet: &Fleet, runners: usize) {
    let set = format!("project set p --max-runners {runners}");
    fleet.sites[0].ctl("root", &set).ok();
}

/// Launches of a project that a budget lets live at a time: each reserves a hundred tokens.
const AFFORDED: usize = 5;
const OVERDRAWN: (&str, &str) = (
    "what is used and reserved of a budget is within its limit",
    "SELECT scope, used, reserved FROM budgets WHERE scope = 'project:p' AND used + reserved > max_tokens",
);

/// A budget that is never reached counts whatever is reported; one that counts nothing of it is always nearly reserved,
/// and denies what the cap would let through.
fn budgets(fleet: &Fleet) -> Watch {
    cap(fleet, AFFORDED + 1);
    fleet
        .sql()
        .run("UPDATE projects SET default_tokens = 100 WHERE name = 'p'");
    let limit = AFFORDED * 100 + 99;
    for set in [
        "--scope fleet --limit 1G --on-exhausted freeze".to_owned(),
        format!("--scope project:p --limit {limit} --count cache-write"),
    ] {
        let set = format!("budget set --period none {set}");
        fleet.sites[0].ctl("root", &set).ok();
    }
    Watch::start_with(fleet, &[("p", AFFORDED)], &[OVERDRAWN])
}

/// Over the whole history no more were admitted than the budget affords, and so many were.
fn replayed(fleet: &Fleet) {
    let most = fleet.sql().number(
        "SELECT max(live) FROM (
            SELECT sum(CASE WHEN type LIKE '%runner.starting' THEN 1 ELSE -1 END) OVER (ORDER BY position) AS live
              FROM events e WHERE project = 'p' AND (type LIKE '%runner.starting' OR type LIKE '%runner.ended')) AS q",
    );
    assert_eq!(most, AFFORDED as i64, "{}", fleet.complaints());
}

fn five_of_sixty_four(fleet: &Fleet) {
    cap(fleet, 5);
    let watch = Watch::start(fleet, &[("p", 5)]);
    let run = format!("p -- {ONCE} 1000");
    let codes = storm(fleet, 64, &run);
    let expected = BTreeMap::from([(0, 5), (3, 59)]);
    assert_eq!(codes, expected, "{}\n{}", errors(fleet), fleet.logs());
    let live: usize = fleet.sites.iter().map(|s| s.scopes().len()).sum();
    assert_eq!(live, 5);
    assert_eq!(
        fleet
            .sql()
            .number("SELECT live FROM projects WHERE name = 'p'"),
        5
    );

    // A slot that is freed on one host is taken on any, and only once.
    let (n, site) = fleet.up().find(|(_, s)| !s.scopes().is_empty()).unwrap();
    let first = site.scopes().pop_first().unwrap();
    site.ctl("alice", &format!("stop {first}")).ok();
    let codes = storm(fleet, 12, &run);
    assert_eq!(
        codes,
        BTreeMap::from([(0, 1), (3, 11)]),
        "{}",
        errors(fleet)
    );
    let other = &fleet.sites[(n + 1) % 3];
    let refused = other.ctl("alice", "run p -- true").code(3);
    assert!(refused.err().contains("5 of 5 live runners"), "{refused}");
    fleet.clear();

    // Short ones: slots are freed and taken all the time.
    for _ in 0..3 {
        let codes = storm(fleet, 64, &format!("p -- {ONCE} 0.2"));
        assert_eq!(codes.values().sum::<usize>(), 64);
        assert!(
            codes.keys().all(|c| [0, 3].contains(c)),
            "{codes:?}\n{}",
            errors(fleet)
        );
        assert!(codes[&0] >= 5, "{codes:?}");
        wait_until("all slots are free again", SOON, || {
            let live = "SELECT live FROM projects WHERE name = 'p'";
            fleet.sql().number(live) == 0
        });
    }
    let seen = watch.end();
    assert_eq!(seen.most["p"], 5, "{seen:?}");
    fleet.clear();
}

#[test]
fn sixty_four_callers_on_three_hosts_for_five_slots() {
    five_of_sixty_four(&Fleet::boot("f-storm"));
}

#[test]
fn the_same_by_pgbouncer() {
    five_of_sixty_four(&Fleet::with(FleetPlan {
        name: "f-pool",
        pooled: true,
        ..FleetPlan::default()
    }));
}

/// Waits until launches succeed on every host again, of those that go on all the time.
#[track_caller]
fn goes_on(fleet: &Fleet, after: &str) {
    let launched = |site: &Site| site.file("/srv/launched").lines().count();
    let before: Vec<usize> = fleet.sites.iter().map(launched).collect();
    wait_for(
        &format!("every host launches again after {after}"),
        RECOVERS,
        || {
            let now: Vec<usize> = fleet.sites.iter().map(launched).collect();
            match now.iter().zip(&before).all(|(now, before)| now > before) {
                true => Ok(()),
                false => Err(format!(
                    "{before:?} {now:?}\n{}\n{}",
                    fleet.complaints(),
                    fleet.logs()
                )),
            }
        },
    );
}

fn ended_well(fleet: &mut Fleet, watch: Watch) -> BTreeMap<i32, usize> {
    let codes = fleet.stop_load();
    fleet.wait_up();
    let seen = watch.end();
    assert!(seen.answers > 0, "{seen:?}");
    fleet.clear();
    codes
}

#[test]
fn postgres_dies_under_load() {
    let mut fleet = Fleet::boot("f-pg");
    cap(&fleet, 6);
    let watch = Watch::start(&fleet, &[("p", 6)]);
    fleet.start_load(3, "p");
    goes_on(&fleet, "the beginning");
    fleet.postgres.restart();
    goes_on(&fleet, "a restart of Postgres");
    fleet.postgres.kill9();
    // Without it nothing is launched, and who asks is told so in time.
    for site in &fleet.sites {
        let refused = site.ctl("alice", "run p -- true").code(1);
        assert!(refused.err().contains("store"), "{refused}");
        assert!(refused.took < REFUSED_WITHIN, "{refused}");
    }
    fleet.postgres.start_again();
    goes_on(&fleet, "Postgres was killed");
    fleet.postgres.power_cut();
    fleet.postgres.power_on();
    goes_on(&fleet, "a power cut of Postgres");
    fleet.postgres.end_sessions();
    goes_on(&fleet, "all sessions were ended");
    fleet.postgres.read_only(true);
    wait_until("nothing is written", SOON, || {
        fleet.sites[0].ctl("alice", "run p -- true").code == 1
    });
    fleet.postgres.read_only(false);
    goes_on(&fleet, "Postgres was read-only");
    fleet.postgres.cut(true);
    let refused = fleet.sites[1].ctl("alice", "run p -- true").code(1);
    assert!(refused.took < REFUSED_WITHIN, "{refused}");
    fleet.postgres.cut(false);
    goes_on(&fleet, "Postgres was cut off");
    ended_well(&mut fleet, watch);
}

#[test]
fn a_postgres_with_a_full_disk_or_that_hangs() {
    let mut fleet = Fleet::boot("f-full");
    cap(&fleet, 6);
    let watch = Watch::start(&fleet, &[("p", 6)]);
    fleet.start_load(2, "p");
    goes_on(&fleet, "the beginning");
    fleet.postgres.hang(true);
    let refused = fleet.sites[2].ctl("alice", "run p -- true").code(1);
    assert!(refused.err().contains("store"), "{refused}");
    assert!(refused.took < REFUSED_WITHIN, "{refused}");
    fleet.postgres.hang(false);
    goes_on(&fleet, "Postgres hung");
    fleet.postgres.fill_disk(true);
    wait_until("nothing is written", RECOVERS, || {
        fleet.sites[0].ctl("alice", "run p -- true").code == 1
    });
    fleet.postgres.fill_disk(false);
    // It may have stopped for lack of room.
    fleet.postgres.start_again();
    goes_on(&fleet, "the disk was full");
    ended_well(&mut fleet, watch);
}

#[test]
fn daemons_agents_and_shims_die_under_load() {
    let mut fleet = Fleet::boot("f-kill");
    let watch = budgets(&fleet);
    fleet.start_load(3, "p");
    let mut chaos = Chaos::new(&[Blow::Daemon, Blow::Agent, Blow::Shim, Blow::Daemon]);
    for _ in 0..12 {
        chaos.strike(&mut fleet);
    }
    fleet.wait_up();
    goes_on(&fleet, &chaos.story());
    let codes = ended_well(&mut fleet, watch);
    assert!(codes.contains_key(&3), "nothing was denied: {codes:?}");
    replayed(&fleet);
}

/// Away from its store for a while: what runs goes on, what ends is told later, once; nothing new is launched there.
#[test]
fn a_host_is_cut_off_and_comes_back() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-cut",
        timings: "lease_renew = \"1s\"\nlease_ttl = \"5s\"\nlost_after = \"10min\"\n".into(),
        ..FleetPlan::default()
    });
    cap(&fleet, 5);
    let watch = Watch::start(&fleet, &[("p", 5)]);
    let away = &fleet.sites[2];
    let long = away.run(&format!("-- {ONCE} 1000"));
    let ends = away.run(&format!(
        "-- sh -c '{ONCE} 0; while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 3'"
    ));
    fleet.cut(2);
    let refused = away.ctl("alice", "run p -- true").code(1);
    assert!(refused.err().contains("store"), "{refused}");
    assert!(refused.took < REFUSED_WITHIN, "{refused}");
    away.root("touch /tmp/end").ok();
    wait_until("it has ended there", SOON, || {
        !away.scopes().contains(&ends)
    });
    assert!(away.scopes().contains(&long), "what runs goes on");
    // Its slots stay taken: three are left to the others.
    let run = format!("p -- {ONCE} 1000");
    let begun = Instant::now();
    for (n, expected) in [(0, 0), (1, 0), (0, 0), (1, 3), (0, 3)] {
        fleet.sites[n]
            .ctl("alice", &format!("run {run}"))
            .code(expected);
    }
    assert!(begun.elapsed() < SOON);
    let state = |id: &str| {
        let rows = fleet
            .sql()
            .rows(&format!("SELECT state FROM runners WHERE id = '{id}'"));
        rows[0]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        (state(&long), state(&ends)),
        ("running".into(), "running".into())
    );
    // Its daemon may even be killed meanwhile.
    away.root("systemctl kill -s KILL --kill-whom=main stratavored")
        .ok();
    fleet.mend(2);
    wait_until("the ending has reached the store", RECOVERS, || {
        state(&ends) == "ended"
    });
    let exit = fleet
        .sql()
        .rows(&format!("SELECT exit FROM runners WHERE id = '{ends}'"));
    let exit: serde_json::Value = serde_json::from_str(exit[0]["exit"].as_str().unwrap()).unwrap();
    assert_eq!(
        (exit["cause"].as_str(), exit["code"].as_i64()),
        (Some("exit-code"), Some(3))
    );
    assert_eq!(state(&long), "running");
    fleet.wait_up();
    wait_for("the slot is free again", SOON, || {
        let out = away.ctl("alice", &format!("run {run}"));
        if out.success() {
            Ok(())
        } else {
            Err(out.to_string())
        }
    });
    watch.end();
    fleet.clear();
}

/// The connection breaks at ever other places of a launch: it was admitted or it was not, and asking again with the
/// same request id gives the same runner.
#[test]
fn the_link_breaks_in_the_middle_of_a_launch() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-break",
        proxied: true,
        ..FleetPlan::default()
    });
    let (site, proxy) = (&fleet.sites[0], &fleet.proxies[0]);
    site.run(&format!("-- {ONCE} 0"));
    let mut launched = 0;
    for (round, way) in (0..24).zip([Way::ToServer, Way::ToClient].into_iter().cycle()) {
        // Renewals of the lease go the same way, so that the places differ from run to run.
        proxy.cut_after(way, 1 + round * 173);
        let run = format!("run --request-id=r{round} p -- {ONCE} 0");
        let mut told = String::new();
        wait_for(&format!("launch {round}"), RECOVERS, || {
            let out = site.ctl("alice", &run);
            assert!(out.took < REFUSED_WITHIN, "{out}");
            told = out.out();
            // What was admitted but could not be launched is not tried again under the same id.
            if out.success() || out.err().contains("launched before with this request id") {
                Ok(())
            } else {
                Err(format!("{out}\n{}", site.log()))
            }
        });
        // The cut may come only now, and asking does not hurt.
        wait_for("the same answer", RECOVERS, || {
            let out = site.ctl("alice", &run);
            if out.success() || out.err().contains("launched before with this request id") {
                assert_eq!(out.out(), told, "round {round}: {out}");
                return Ok(());
            }
            Err(out.to_string())
        });
        launched += usize::from(!told.is_empty());
    }
    assert!(launched > 0);
    wait_until("all have ended", SOON, || site.scopes().is_empty());
    let rows = fleet.sql().number("SELECT count(*) FROM requests");
    assert_eq!(rows, 24);
    fleet.clear();

    // A slow link is slow, not broken.
    proxy.delay(Duration::from_millis(30));
    site.run(&format!("-- {ONCE} 0"));
    proxy.delay(Duration::ZERO);
    // One that says nothing any more is given up.
    proxy.pause(Way::ToClient);
    let refused = site.ctl("alice", "run p -- true").code(1);
    assert!(refused.took < REFUSED_WITHIN, "{refused}");
    proxy.resume();
    site.wait_met();
    wait_until("all have ended", SOON, || site.scopes().is_empty());
    fleet.clear();
}

#[test]
fn another_postgres_takes_over() {
    let mut fleet = Fleet::with(FleetPlan {
        name: "f-ha",
        standby: true,
        ..FleetPlan::default()
    });
    cap(&fleet, 6);
    fleet.start_load(2, "p");
    goes_on(&fleet, "the beginning");
    fleet.fail_over();
    goes_on(&fleet, "the failover");
    let watch = Watch::start(&fleet, &[("p", 6)]);
    goes_on(&fleet, "a while");
    ended_well(&mut fleet, watch);
}

/// Whatever dies, in whatever order, twenty times.
#[test]
fn twenty_rounds_of_everything() {
    let mut fleet = Fleet::boot("f-chaos");
    let watch = budgets(&fleet);
    fleet.start_load(3, "p");
    let mut chaos = Chaos::new(&Blow::ALL);
    for _ in 0..20 {
        chaos.strike(&mut fleet);
    }
    fleet.wait_up();
    goes_on(&fleet, &chaos.story());
    let codes = ended_well(&mut fleet, watch);
    assert!(codes.contains_key(&3), "nothing was denied: {codes:?}");
    replayed(&fleet);
}
