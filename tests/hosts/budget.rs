//! Token budgets: what is admitted, who may report, what happens when they are used up, on one host and on three.

use crate::fixture::{Plan, SOON, Site};
use crate::fleet::{errors, storm};
use crate::load::within;
use crate::support::{Bus, Fleet, FleetPlan, ONCE, Root, Watch, clock, wait_for, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Within this time what runs follows a budget.
const FOLLOWS: Duration = Duration::from_secs(2);

/// Whether the kernel has frozen a runner of the project `p`.
fn frozen(site: &Site, id: &str) -> bool {
    let file = format!(
        "/sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope/cgroup.events"
    );
    site.file(&file).contains("frozen 1")
}

fn set(site: &Site, settings: &str) {
    let set = format!("budget set --scope project:p --period month {settings}");
    site.ctl("root", &set).ok();
}

fn budget(site: &Site) -> Value {
    let show = "budget show --scope project:p --period month -o json";
    let out = site.ctl("alice", show).ok();
    serde_json::from_str(&out.out()).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// Used, reserved, overrun.
fn standing(site: &Site) -> [u64; 3] {
    let budget = budget(site);
    ["used", "reserved", "overrun"].map(|key| budget[key].as_u64().unwrap())
}

/// Within the time there is, since `began`; on a busy machine that is longer.
#[track_caller]
fn follows(what: &str, began: Instant, done: impl Fn() -> bool) {
    wait_until(what, SOON, done);
    let (took, limit) = (began.elapsed(), within(FOLLOWS));
    assert!(took < limit, "{what} took {took:?} of {limit:?}");
}

/// A runner that reports `report` as soon as the file of its name is there, and goes on; its answer is beside it.
fn reporter(site: &Site, name: &str, report: &str) -> String {
    let script = format!(
        "while [ ! -e /tmp/{name} ]; do sleep 0.1; done; stratavorectl usage report {report} >/tmp/{name}.out 2>&1; echo $? >/tmp/{name}.code; exec sleep 1000"
    );
    site.run(&format!("--name {name} -- sh -c '{script}'"))
}

/// Lets it report, and gives the exit status.
#[track_caller]
fn reports(site: &Site, name: &str) -> i32 {
    site.root(&format!("touch /tmp/{name}")).ok();
    wait_for(&format!("{name} has reported"), SOON, || {
        let code = site.root(&format!("cat /tmp/{name}.code")).out();
        code.trim().parse().map_err(|_| site.log())
    })
}

fn default_tokens(site: &Site, tokens: u32) {
    site.sql(&format!(
        "UPDATE projects SET default_tokens = {tokens} WHERE name = 'p'"
    ));
}

#[test]
fn a_budget_from_the_first_token_to_the_last() {
    let site = Site::boot("budget");
    set(
        &site,
        "--limit 1k --on-exhausted freeze --timezone Europe/Berlin",
    );
    // Who may not set one is told so; everybody may see it.
    site.ctl("alice", "budget set --scope fleet --period day --limit 1")
        .code(4);
    let refused = site.ctl("alice", "run p -- true").code(3);
    assert!(refused.err().contains("--default-tokens"), "{refused}");
    default_tokens(&site, 400);
    let a = reporter(&site, "a", "--tokens-in 300 --tokens-out 100");
    let b = reporter(&site, "b", "--runner a --tokens-in 1M");
    assert_eq!(standing(&site), [0, 800, 0]);
    let refused = site.ctl("alice", "run p -- true").code(3);
    assert!(refused.err().contains("800 reserved"), "{refused}");
    let why = site.ctl("alice", "why --project p").ok().out();
    assert!(why.contains("budget project:p/month is shut"), "{why}");

    // It reports for itself, and for nobody else, though both are alice's.
    assert_eq!(reports(&site, "a"), 0);
    assert_eq!(standing(&site), [400, 400, 0]);
    assert_eq!(reports(&site, "b"), 4);
    let said = site.root("cat /tmp/b.out").out();
    assert!(said.contains("for itself only"), "{said}");
    // From outside: bob may not, alice may for her own, root for all.
    let bob = site.ctl("bob", &format!("usage report --runner {a} --tokens-in 1M"));
    bob.code(4);
    site.ctl("alice", "usage report --tokens-in 1").code(5);
    site.ctl("alice", "usage report --runner a --tokens-in 310")
        .ok();
    assert_eq!(standing(&site), [410, 400, 10]);
    assert_eq!(site.show(&a)["usage"]["tokens_in"], 310);

    // All of it is used: both stand still.
    site.ctl("root", "usage report --runner b --tokens-out 600")
        .ok();
    let began = Instant::now();
    follows("both are frozen", began, || {
        frozen(&site, &a) && frozen(&site, &b)
    });
    assert_eq!(standing(&site), [1_010, 0, 210]);
    wait_until("it is told", SOON, || site.show(&a)["state"] == "frozen");
    assert_eq!(site.show(&a)["frozen_by"], "budget project:p/month");
    site.ctl("alice", "thaw a").code(3);
    site.ctl("alice", "run p -- true").code(3);
    let why = site.ctl("alice", "why a").ok().out();
    assert!(
        why.contains("budget set --scope project:p --period month"),
        "{why}"
    );
    let told = |kind: &str| {
        let list = format!("events -o jsonl --after 0 --type budget.{kind}");
        let lines = site.ctl("root", &list).ok().out();
        let events = crate::schema::lines(&lines).into_iter();
        events
            .map(|e| e["data"]["percent"].as_u64().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (told("threshold"), told("exceeded")),
        (vec![50, 80, 100], vec![0])
    );

    set(&site, "--limit 5k");
    let began = Instant::now();
    follows("both go on", began, || {
        !frozen(&site, &a) && !frozen(&site, &b)
    });
    // Nothing is told twice in a period, and what frees is free: alice's 400 and no more are reserved.
    site.ctl("root", "usage report --runner b --tokens-out 600")
        .ok();
    assert_eq!(told("threshold"), [50, 80, 100]);
    let c = site.run("-- sleep 1000");
    assert_eq!(standing(&site), [1_010, 400, 210]);
    site.ctl("alice", &format!("stop {c}")).ok();
    assert_eq!(standing(&site), [1_010, 0, 210]);
    site.check();

    set(&site, "--on-exhausted stop --limit 1k");
    for id in [&a, &b] {
        assert_eq!(site.cause(id), "over-budget");
    }
    let why = site.ctl("alice", &format!("why {a}")).ok().out();
    assert!(why.contains("310 tokens in and 100 out"), "{why}");
    site.ctl("root", "budget remove --scope project:p --period month")
        .ok();
    site.run("-- true");
    site.clear();
}

/// A bus that hands out descriptors of processes: then whose process it is counts alone, not its user.
#[test]
fn a_report_of_another_user_in_the_scope() {
    for (name, bus) in [("pidfd-d", Bus::Daemon), ("pidfd-b", Bus::Broker)] {
        let site = Site::with(Plan {
            name,
            root: Root::Sid,
            bus,
            ..Plan::default()
        });
        let id = reporter(&site, "a", "--tokens-in 7");
        assert_eq!(
            reports(&site, "a"),
            0,
            "{}",
            site.root("cat /tmp/a.out").out()
        );
        assert_eq!(site.show(&id)["usage"]["tokens_in"], 7);
        // Bob's process, put into alice's scope by root, is the runner's from then on; without that it is not.
        let report = "stratavorectl usage report --tokens-in 9";
        let scope =
            format!("/sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope");
        let bob = |enter: &str| {
            site.root(&format!(
                "{enter} exec setpriv --reuid bob --regid bob --clear-groups env -u STRATAVORE_RUNNER_ID {report}"
            ))
        };
        bob("").code(5);
        bob(&format!("echo $$ >{scope}/cgroup.procs && ")).ok();
        assert_eq!(site.show(&id)["usage"]["tokens_in"], 9);
        site.clear();
    }
}

/// The daemon's clock is set so that an hour begins soon: what an hourly budget froze goes on by itself then, and its
/// thresholds are told anew.
#[test]
fn a_new_period_lets_go_on() {
    let site = Site::boot("b-hour");
    let (now, began) = (std::time::SystemTime::now(), Instant::now());
    let now = now.duration_since(std::time::UNIX_EPOCH);
    let rest = 3_600 - now.unwrap().as_secs().cast_signed() % 3_600;
    site.host.write(
        "/etc/systemd/system/stratavored.service.d/clock.conf",
        clock(rest - 45),
    );
    site.root("systemctl daemon-reload && systemctl restart stratavored")
        .ok();
    site.wait_up();
    let hourly = "--scope project:p --period hour";
    site.ctl(
        "root",
        &format!("budget set {hourly} --limit 1k --on-exhausted freeze --timezone Asia/Tokyo"),
    )
    .ok();
    let start = || {
        let out = site
            .ctl("root", &format!("budget show {hourly} -o json"))
            .ok();
        let shown: Value = serde_json::from_str(&out.out()).unwrap();
        (
            shown["period_start"].as_str().unwrap().to_owned(),
            shown["used"].as_u64().unwrap(),
        )
    };
    let first = start();
    default_tokens(&site, 400);
    let id = site.run("-- sleep 1000");
    site.ctl(
        "root",
        &format!("usage report --runner {id} --tokens-in 1k"),
    )
    .ok();
    wait_until("it is frozen", SOON, || frozen(&site, &id));
    assert!(
        began.elapsed() < Duration::from_secs(45),
        "the hour may have passed"
    );
    wait_until("it goes on", SOON * 3, || !frozen(&site, &id));
    let (next, used) = start();
    assert!(next > first.0 && used == 0, "{first:?} {next} {used}");
    site.ctl(
        "root",
        &format!("usage report --runner {id} --tokens-in 1600"),
    )
    .ok();
    assert_eq!(start().1, 600);
    let told = site
        .ctl("root", "events -o jsonl --after 0 --type budget.threshold")
        .ok()
        .out();
    let told = crate::schema::lines(&told).into_iter();
    let told: Vec<_> = told.map(|e| e["data"]["percent"].as_u64()).collect();
    assert_eq!(told, [50, 80, 100, 50].map(Some));
    assert!(!frozen(&site, &id));
    site.clear();
}

/// Wherever the daemon dies between a report and what follows from it: it follows.
#[test]
fn what_a_report_leads_to_survives_the_daemon() {
    let site = Site::boot("budget9");
    for (point, policy) in [
        ("policy.reported", "freeze"),
        ("policy.freeze", "freeze"),
        ("policy.reported", "stop"),
        ("policy.stop", "stop"),
    ] {
        set(&site, &format!("--limit 1k --on-exhausted {policy}"));
        default_tokens(&site, 400);
        let id = site.run("-- sleep 1000");
        site.crash_at(point);
        // Who reports may never hear of it.
        site.ctl(
            "root",
            &format!("usage report --runner {id} --tokens-in 1k"),
        );
        wait_for(&format!("{point} is reached"), SOON, || {
            match site.host.path("/run/stratavore-crash/at").exists() {
                true => Err(site.log()),
                false => Ok(()),
            }
        });
        site.wait_up();
        assert_eq!(standing(&site)[0], 1_000, "{point}");
        match policy {
            "stop" => assert_eq!(site.cause(&id), "over-budget", "{point}\n{}", site.log()),
            _ => {
                wait_until("it is frozen", SOON, || frozen(&site, &id));
                wait_until("it is told", SOON, || site.show(&id)["state"] == "frozen");
                assert_eq!(
                    site.show(&id)["frozen_by"],
                    "budget project:p/month",
                    "{point}"
                );
                set(&site, "--limit 2k");
                wait_until("it goes on", SOON, || !frozen(&site, &id));
            }
        }
        site.check();
        site.clear();
        site.ctl("root", "budget remove --scope project:p --period month")
            .ok();
    }
}

/// No runner of this test uses more than it reserved, so this finds nothing at any moment.
const OVERDRAWN: [(&str, &str); 1] = [(
    "no budget is overdrawn",
    "SELECT scope, used, reserved, max_tokens FROM budgets WHERE used + reserved > max_tokens",
)];

#[test]
fn sixty_four_callers_on_three_hosts_for_a_token_budget() {
    let fleet = Fleet::boot("f-tokens");
    let first = &fleet.sites[0];
    fleet
        .sql()
        .run("UPDATE projects SET default_tokens = 100 WHERE name = 'p'");
    set(first, "--limit 700 --on-exhausted deny");
    let watch = Watch::start_with(&fleet, &[("p", 7)], &OVERDRAWN);
    let codes = storm(&fleet, 64, &format!("p -- {ONCE} 1000"));
    let expected = BTreeMap::from([(0, 7), (3, 57)]);
    assert_eq!(codes, expected, "{}\n{}", errors(&fleet), fleet.logs());
    assert_eq!(standing(&fleet.sites[1]), [0, 700, 0]);
    let refused = fleet.sites[2].ctl("alice", "run p -- true").code(3);
    assert!(refused.err().contains("700 reserved"), "{refused}");

    // Whoever hears of it, on whatever host it runs: a report is charged at once, and what is given back is free at once.
    set(first, "--on-exhausted freeze");
    let live = || -> Vec<(usize, String)> {
        let all = fleet
            .up()
            .flat_map(|(n, site)| site.scopes().into_iter().map(move |id| (n, id)));
        all.collect()
    };
    let runners = live();
    let (last, others) = runners.split_last().unwrap();
    for (n, id) in others {
        let site = &fleet.sites[(n + 1) % 3];
        site.ctl(
            "root",
            &format!("usage report --runner {id} --tokens-out 100"),
        )
        .ok();
    }
    assert_eq!(standing(first), [600, 100, 0]);
    assert!(runners.iter().all(|(n, id)| !frozen(&fleet.sites[*n], id)));
    let report = format!(
        "usage report --runner {} --tokens-in 60 --tokens-out 40",
        last.1
    );
    fleet.sites[(last.0 + 1) % 3].ctl("root", &report).ok();
    let began = Instant::now();
    follows("all are frozen on every host", began, || {
        runners.iter().all(|(n, id)| frozen(&fleet.sites[*n], id))
    });
    set(&fleet.sites[2], "--limit 1000");
    let began = Instant::now();
    follows("all go on on every host", began, || {
        runners.iter().all(|(n, id)| !frozen(&fleet.sites[*n], id))
    });
    set(first, "--limit 700 --on-exhausted stop");
    wait_until("all have ended", SOON, || live().is_empty());
    for (n, id) in &runners {
        assert_eq!(fleet.sites[*n].cause(id), "over-budget");
    }
    assert_eq!(standing(first), [700, 0, 0]);

    // Short ones: reservations are made and given back all the time.
    set(first, "--limit 1300 --on-exhausted deny");
    for _ in 0..2 {
        let codes = storm(&fleet, 64, &format!("p -- {ONCE} 0.2"));
        assert_eq!(codes.values().sum::<usize>(), 64);
        assert!(
            codes.keys().all(|c| [0, 3].contains(c)),
            "{codes:?}\n{}",
            errors(&fleet)
        );
        assert!(codes[&0] >= 6, "{codes:?}");
        wait_until("all have ended", SOON, || live().is_empty());
        wait_until("all is given back", SOON, || standing(first) == [700, 0, 0]);
    }
    let seen = watch.end();
    assert!(seen.answers > 0, "{seen:?}");
    fleet.clear();
}

/// Two administrators on two hosts at once: each change is whole, the later one stands, and all hosts go by it.
#[test]
fn two_set_a_budget_at_once() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-two",
        hosts: 2,
        ..FleetPlan::default()
    });
    let (a, b) = (&fleet.sites[0], &fleet.sites[1]);
    let holder = a.run("--tokens 40 -- sleep 1000");
    for round in 0..5 {
        let limits = [100 + round, 200 + round];
        fleet.each(|n, site| {
            let policy = ["freeze", "stop"][n];
            let limit = limits[n];
            let set = format!(
                "budget set --scope project:p --period month --limit {limit} --on-exhausted {policy}"
            );
            site.ctl("root", &set).ok();
        });
        let [one, other] = [budget(a), budget(b)];
        assert_eq!(one["limit"], other["limit"]);
        let of = (
            one["limit"].as_u64().unwrap(),
            one["on_exhausted"].as_str().unwrap(),
        );
        let sets = [(limits[0], "freeze"), (limits[1], "stop")];
        assert!(sets.contains(&of), "one of the two, whole: {of:?}");
        assert_eq!(one["reserved"], 40, "what lives is counted once: {one}");
        let room = of.0 - 40;
        let refused = b.ctl("alice", &format!("run --tokens {} p -- true", room + 1));
        refused.code(3);
    }
    a.ctl("alice", &format!("stop {holder}")).ok();
    fleet.clear();
}
