//! What a file declares, on real hosts: at boot, by hand, cut off at any step, and on two hosts of a fleet at once.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{Fleet, wait_until};
use serde_json::Value;

const FILE: &str = "/etc/stratavore/declared.toml";

const DECLARED: &str = r#"
[fleet]
max_runners = 50

[projects.web]
description = "The web team"
max_runners = 4
max_queued = 70

[projects.batch]

[budgets."project:web".day]
limit = "2M"
timezone = "Europe/Berlin"
on_exhausted = "freeze"
"#;

fn declare(site: &Site, text: &str) {
    site.root("mkdir -p /etc/stratavore").ok();
    site.host.write(FILE, text);
}

/// The exit status of `diff`, and what differs: kind, name and step.
#[track_caller]
fn drift(site: &Site) -> (i32, Vec<String>) {
    let out = site.ctl("alice", "diff -o json");
    let found: Value = serde_json::from_str(&out.out()).unwrap_or_else(|e| panic!("{e}: {out}"));
    let text = |of: &Value| of.as_str().unwrap_or("-").to_owned();
    let line = |of: &Value| {
        format!(
            "{} {} {}",
            of["kind"].as_str().unwrap(),
            text(&of["name"]),
            text(&of["step"])
        )
    };
    let lines = found.as_array().unwrap().iter().map(line).collect();
    (out.code, lines)
}

#[track_caller]
fn as_declared(site: &Site) {
    assert_eq!(drift(site), (0, vec![]));
}

/// Events of a type since the beginning.
fn count(site: &Site, kind: &str) -> usize {
    let rows = site.sql(&format!(
        "SELECT 1 AS one FROM events WHERE type LIKE '%{kind}'"
    ));
    rows.len()
}

#[test]
fn at_boot_and_by_hand() {
    let mut site = Site::with(Plan {
        name: "declared",
        ..Plan::default()
    });
    // Without a file there is nothing to do, and nothing has failed.
    site.root("systemctl start stratavore-apply && ! systemctl is-failed stratavore-apply && ! systemctl is-active stratavore-apply").ok();
    site.ctl("root", "diff").code(1);

    // The unit does it: in its sandbox, as root, whom nobody asks.
    declare(&site, DECLARED);
    assert_eq!(drift(&site).0, 6);
    site.root("systemctl start stratavore-apply && systemctl is-active stratavore-apply")
        .ok();
    as_declared(&site);
    let told = site.journal("-b -o cat -u stratavore-apply");
    assert!(
        told.contains(
            "created project web: description=“The web team” max_runners=4 max_queued=70"
        ),
        "{told}"
    );
    // With its rights, its actor and its events.
    let by =
        site.sql("SELECT actor FROM events WHERE type LIKE '%project.created' AND project = 'web'");
    assert!(by[0]["actor"].to_string().contains("root"), "{by:?}");

    // By hand: alice sees it and may not mend it; root may.
    site.ctl(
        "root",
        "project set web --max-runners 9 --max-queued infinity",
    )
    .ok();
    site.ctl(
        "root",
        "budget set --scope project:web --period day --on-exhausted stop",
    )
    .ok();
    let differs = site.ctl("alice", "diff").code(6);
    for part in [
        "max_runners  4   9",
        "max_queued    70    1000",
        "on_exhausted  freeze    stop",
    ] {
        let (table, part): (Vec<_>, Vec<_>) = (
            differs
                .out()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            part.split_whitespace().collect(),
        );
        assert!(
            table.windows(part.len()).any(|w| w == part.as_slice()),
            "{part:?} in {differs}"
        );
    }
    site.ctl("alice", "apply").code(4);
    let events = count(&site, "project.changed");
    site.root("systemctl restart stratavore-apply").ok();

    // A daemon that is kept down is not started for it.
    let down = "/run/systemd/system/stratavored.service.d";
    site.root(&format!(
        "mkdir -p {down} && printf '[Unit]\\nRefuseManualStart=yes\\n' >{down}/down.conf && systemctl daemon-reload && systemctl stop stratavored &&
         ! systemctl restart stratavore-apply && ! systemctl is-active stratavored"
    ))
    .ok();
    site.root(&format!(
        "rm -r {down} && systemctl daemon-reload && systemctl start stratavored && systemctl restart stratavore-apply"
    ))
    .ok();
    as_declared(&site);
    assert_eq!(count(&site, "project.changed"), events + 1);
    let again = site.ctl("root", "apply").ok();
    assert!(
        again.err().contains("nothing to do") && again.out().is_empty(),
        "{again}"
    );
    assert_eq!(count(&site, "project.changed"), events + 1);

    // `p` was made by hand, and is there still. A boot does it again.
    site.ctl("root", "project show p").ok();
    site.ctl("root", "project remove batch").ok();
    // As multi-user.target has it where stratavored is enabled, which enables it, too.
    site.root("systemctl enable stratavored && systemctl is-enabled stratavore-apply && mkdir -p /etc/systemd/system/host.target.wants &&
               ln -s /usr/lib/systemd/system/stratavore-apply.service /etc/systemd/system/host.target.wants/")
        .ok();
    site.host.power_off();
    site.host.boot_again();
    site.wait_up();
    wait_until("it is applied at boot", SOON, || {
        drift(&site) == (0, vec![])
    });
    site.root("systemctl is-active stratavore-apply").ok();

    // Nothing else may be there: what has a runner stays until that has ended, and the unit comes back to it.
    let id = site.run("-- sleep 1000");
    site.ctl("root", "project create spare").ok();
    declare(&site, &format!("mutable = false\n{DECLARED}"));
    assert_eq!(
        drift(&site),
        (
            6,
            vec![
                "project p remove".to_owned(),
                "project spare remove".to_owned()
            ]
        )
    );
    let refused = site.ctl("root", "apply").code(1);
    assert_eq!(refused.out().trim(), "removed project spare", "{refused}");
    assert!(
        refused.err().contains("project p") && refused.err().contains("stop --project p"),
        "{refused}"
    );
    assert!(site.scopes().contains(&id));
    site.root("! systemctl restart stratavore-apply").ok();
    let state = site
        .root("systemctl show -p SubState --value stratavore-apply")
        .ok()
        .out();
    assert_eq!(state.trim(), "auto-restart");
    // It would come before us on a slow machine.
    site.root("systemctl stop stratavore-apply").ok();
    site.ctl("alice", &format!("stop {id}")).ok();
    let removed = site.ctl("root", "apply").ok();
    assert_eq!(removed.out().trim(), "removed project p");
    as_declared(&site);

    // A mistake is told with its line, and not tried again and again.
    declare(&site, "[projects.web]\nmax_runers = 4\n");
    let wrong = site.ctl("root", "apply").code(2);
    assert!(
        wrong.err().contains(
            "declared.toml:2: projects.web: there is no key “max_runers”; did you mean max_runners?"
        ),
        "{wrong}"
    );
    site.root("! systemctl restart stratavore-apply").ok();
    let state = site
        .root("systemctl show -p SubState --value stratavore-apply")
        .ok()
        .out();
    assert_eq!(state.trim(), "failed");
    site.check();
}

/// Tool or daemon dies between two steps: what was done stays, nothing is done twice, and the next run does the rest.
#[test]
fn cut_off_and_gone_on_with() {
    let site = Site::boot("decl-cut");
    declare(&site, DECLARED);
    let steps = drift(&site).1.len();
    assert_eq!(steps, 4);
    for left in (1..steps).rev() {
        site.crash_at("apply.taken");
        let killed = site.ctl("root", "apply");
        assert!(
            !killed.success() && killed.out().lines().count() == 1,
            "{killed}"
        );
        assert_eq!(drift(&site).1.len(), left);
    }
    // The daemon, once what it was asked for is written and before it has said so.
    site.crash_at("store.after-commit");
    let lost = site.ctl("root", "apply").code(1);
    assert!(lost.err().contains("may have been done or not"), "{lost}");
    site.wait_up();
    as_declared(&site);
    site.ctl("root", "budget remove --scope project:web --period day")
        .ok();
    site.ctl("root", "project remove web").ok();
    site.crash_at("store.before-commit");
    site.ctl("root", "apply").code(1);
    site.wait_up();
    assert_eq!(drift(&site).1.len(), 2);
    site.ctl("root", "apply").ok();
    as_declared(&site);
    // Each once: with `p` three, and web anew.
    assert_eq!(count(&site, "project.created"), 4);
    site.check();
}

/// Three hosts come up with the same file and the same store.
#[test]
fn a_fleet_that_applies_at_once() {
    let fleet = Fleet::boot("f-decl");
    for site in &fleet.sites {
        declare(site, DECLARED);
    }
    for round in 0..5 {
        let outs: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = fleet
                .sites
                .iter()
                .map(|site| scope.spawn(|| site.ctl("root", "apply")))
                .collect();
            started.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(outs.iter().all(|out| out.code == 0), "{round}: {outs:?}");
        for site in &fleet.sites {
            as_declared(site);
        }
        let first = &fleet.sites[0];
        first.ctl("root", "project remove web batch").ok();
        first.ctl("root", "fleet set --max-runners infinity").ok();
        assert_eq!(drift(&fleet.sites[1]).1.len(), 4);
    }
    fleet.sites[2].root("systemctl start stratavore-apply").ok();
    as_declared(&fleet.sites[0]);
}
