//! Hosts of two releases in one fleet: an upgrade, the schema first and then host by host.

use crate::fixture::{SOON, Site};
use crate::support::{DATABASE, Fleet, FleetPlan, project, wait_until};

/// The last migration of the frozen release.
const FORMER: u32 = 4;

/// The programs and units of this checkout take the place of those that are there, and are started.
fn upgrade(site: &Site) {
    let payload = project().join("target/test-payload");
    let copied = std::process::Command::new("cp")
        .args(["-a", "--remove-destination"])
        .arg(payload.join("."))
        .arg(site.host.path("/"))
        .status();
    assert!(copied.unwrap().success());
    site.root("systemctl daemon-reload && systemctl restart stratavore-agent stratavored")
        .ok();
    site.wait_up();
    site.wait_met();
}

/// A storm of launches from all hosts at once for the slots that are left.
fn storm(fleet: &Fleet, left: usize) {
    let script = "for n in 1 2 3 4 5 6; do stratavorectl run --label storm=1 p -- sleep 1000 & done; wait; true";
    fleet.each(|_, site| drop(site.sh_as("alice", script)));
    let live = "SELECT count(*) FROM runners r JOIN labels l ON l.runner = r.id WHERE l.key = 'storm' AND r.state <> 'ended'";
    assert_eq!(fleet.sql().number(live), left as i64);
    let ids = fleet.sql().rows("SELECT r.id, r.host FROM runners r JOIN labels l ON l.runner = r.id WHERE l.key = 'storm' AND r.state <> 'ended'");
    // Each is stopped from the next host, by an order.
    let hosts: Vec<String> = fleet.sites.iter().map(Site::host_id).collect();
    for row in ids {
        let on = hosts.iter().position(|h| row["host"] == **h).unwrap();
        let asked = &fleet.sites[(on + 1) % hosts.len()];
        asked
            .ctl("alice", &format!("stop {}", row["id"].as_str().unwrap()))
            .ok();
    }
}

#[test]
#[cfg(target_arch = "x86_64")] // what tests/frozen holds
fn two_releases_share_a_fleet() {
    let former = project().join("target/test-payload-fleet");
    let fleet = Fleet::with(FleetPlan {
        name: "f-two",
        payloads: vec![former; 3],
        schema: FORMER,
        ..FleetPlan::default()
    });
    let [a, b, c] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    a.ctl(
        "root",
        "project set p --max-runners 5 --default-tokens 1000",
    )
    .ok();
    a.ctl(
        "root",
        "budget set --scope project:p --period day --limit 1M",
    )
    .ok();
    let mut old = vec![a.run("-- sleep 1000"), b.run("-- sleep 1000")];
    let ended = c.run("-- true");
    c.ended(&ended);
    storm(&fleet, 3);

    // The schema is the new one's: the former daemons go on with it, and start with it.
    fleet.postgres.migrate(DATABASE, FORMER + 1..);
    storm(&fleet, 3);
    b.root("systemctl restart stratavored").ok();
    b.wait_up();
    b.wait_met();
    assert_eq!(c.ended(&c.run("-- sh -c 'exit 6'"))["exit"]["code"], 6);

    // One host after the other, under load as before.
    for (n, site) in [c, a, b].into_iter().enumerate() {
        upgrade(site);
        storm(&fleet, 3);
        for id in &old {
            assert_eq!(site.show(id)["state"], "running", "{n}");
            site.ctl("alice", &format!("freeze {id}")).ok();
            a.ctl("alice", &format!("thaw {id}")).ok();
        }
        let held = site.ctl("root", "hold set --project p --reason upgrade");
        held.ok();
        b.ctl("alice", "run p -- true").code(3);
        a.ctl("root", "hold release --project p").ok();
    }
    old.retain(|id| {
        a.ctl("alice", &format!("stop {id}")).ok();
        a.show(id)["exit"]["cause"] != "stopped"
    });
    assert!(old.is_empty(), "{old:?}");
    wait_until("nothing is left", SOON, || {
        fleet.sites.iter().all(|site| site.scopes().is_empty())
    });
    let held = "SELECT coalesce(sum(reserved), 0)::BIGINT FROM budgets";
    assert_eq!(fleet.sql().number(held), 0);
    fleet.clear();
}
