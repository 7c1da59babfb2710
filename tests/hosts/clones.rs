//! Two real machines with one machine-id: one was copied from the other, as images of virtual machines are. Each has
//! a boot id of its own.

use crate::fixture::{SOON, Site};
use crate::support::{Fleet, FleetPlan, RECOVERS, wait_for, wait_until};

/// From now on all of its programs see this machine-id.
fn named(site: &Site, id: &str) {
    site.root("systemctl stop stratavored stratavore-agent.socket stratavore-agent")
        .ok();
    site.host
        .write("/etc/machine-id", format!("{}\n", id.trim()));
    site.root("systemctl start stratavore-agent.socket && systemctl start --no-block stratavored")
        .ok();
}

/// What `systemctl status` says of the daemon that is not let in.
#[track_caller]
fn says(site: &Site, why: &str) {
    wait_for("it says why it is not ready", SOON, || {
        let shown = site.root("systemctl show -P StatusText stratavored").out();
        match shown.starts_with("Not ready: ") && shown.contains(why) {
            true => Ok(()),
            false => Err(shown),
        }
    });
}

#[test]
fn a_copied_machine_takes_nothing_from_its_original() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-clone",
        hosts: 2,
        timings: "lease_renew = \"1s\"\nlease_ttl = \"20s\"\n".to_owned(),
        ..FleetPlan::default()
    });
    let [original, copy] = &fleet.sites[..] else {
        panic!("two hosts")
    };
    let id = original.run("-- sleep 1000");
    let state = |of: &str| {
        let query = format!("SELECT state FROM runners WHERE id = '{of}'");
        fleet.sql().rows(&query)[0]["state"].clone()
    };
    let epoch = || {
        let query = format!(
            "SELECT epoch FROM hosts h JOIN runners r ON r.host = h.host WHERE r.id = '{id}'"
        );
        fleet.sql().number(&query)
    };
    let (own, joined) = (copy.file("/etc/machine-id"), epoch());

    // While the original lives, its copy is not let in, and is told what to do.
    named(copy, &original.file("/etc/machine-id"));
    says(copy, "systemd-machine-id-setup");
    let other = original.run("-- sleep 1000");
    assert_eq!((state(&id), epoch()), ("running".into(), joined));
    assert!(original.scopes().contains(&id) && copy.scopes().is_empty());

    // The original's daemon is stopped, as for an upgrade: the copy takes its place, and the original hears it. What
    // runs there goes on.
    original.root("systemctl stop stratavored").ok();
    wait_until("the copy has joined", RECOVERS, || epoch() > joined);
    copy.wait_up();
    original.root("systemctl start --no-block stratavored").ok();
    says(original, "Two machines have the same machine-id");
    assert!(
        [&id, &other]
            .iter()
            .all(|one| original.scopes().contains(*one))
    );
    let journal = original.journal("-u stratavored -p err -o cat");
    let said = journal
        .matches("Two machines have the same machine-id")
        .count();
    assert_eq!(said, 1, "{journal}");

    // With an id of its own it is a host like others. The original is let in when an operator has said which of both is
    // the host, and stops what had its slots given to others.
    let shared = fleet
        .sql()
        .rows(&format!("SELECT host FROM runners WHERE id = '{id}'"))[0]["host"]
        .clone();
    let shared = shared.as_str().unwrap();
    named(copy, &own);
    copy.wait_up();
    wait_for("its lease is over", RECOVERS, || {
        let forgotten = copy.ctl("root", &format!("host forget {shared}"));
        forgotten
            .success()
            .then_some(())
            .ok_or_else(|| forgotten.to_string())
    });
    original.wait_up();
    wait_until("what was given up has ended", SOON, || {
        original.scopes().is_empty()
    });
    assert_eq!(fleet.sql().number("SELECT count(*) FROM hosts"), 2);
    for site in [original, copy] {
        site.ctl("alice", "run --wait p -- true").ok();
    }
    fleet.clear();
}

/// A reboot in good order lets the next boot in at once, and not the copy that has waited for it.
#[test]
fn a_copied_machine_is_not_the_next_boot_of_its_original() {
    let mut fleet = Fleet::with(FleetPlan {
        name: "f-copy",
        hosts: 2,
        timings: "lease_renew = \"1s\"\nlease_ttl = \"5min\"\n".to_owned(),
        ..FleetPlan::default()
    });
    let id = fleet.sites[0].file("/etc/machine-id");
    named(&fleet.sites[1], &id);
    says(&fleet.sites[1], "systemd-machine-id-setup");
    fleet.sites[0].host.power_off();
    says(&fleet.sites[1], "systemd-machine-id-setup");
    fleet.boot_host(0);
    fleet.sites[0].wait_up();
    says(&fleet.sites[1], "systemd-machine-id-setup");
    fleet.sites[0].ctl("alice", "run --wait p -- true").ok();
}
