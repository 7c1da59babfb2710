//! Holds on a host: what they freeze, that it goes on by itself, and that nobody's own freeze is undone.

use crate::fixture::{SOON, Site};
use crate::support::{wait_for, wait_until};
use std::time::{Duration, Instant};

/// Whether the kernel has frozen it.
fn frozen(site: &Site, id: &str) -> bool {
    let file = format!(
        "/sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope/cgroup.events"
    );
    site.file(&file).contains("frozen 1")
}

#[test]
fn a_hold_freezes_and_all_goes_on_by_itself() {
    let site = Site::boot("hold");
    let held = site.run("--label key=shared -- sleep 1000");
    let own = site.run("--label key=shared --name own -- sleep 1000");
    let free = site.run("-- sleep 1000");
    site.ctl("alice", "freeze own").ok();
    // Alice may see what holds, and not hold.
    let refused = site.ctl("alice", "hold set --label key=shared");
    refused.code(4);
    let began = Instant::now();
    site.ctl(
        "root",
        "hold set --label key=shared --until +25s --freeze --reason 'rate limit'",
    )
    .ok();
    wait_until("it is frozen", SOON, || frozen(&site, &held));
    assert!(began.elapsed() < Duration::from_secs(25));
    assert!(!frozen(&site, &free));
    let list = site.ctl("alice", "hold list").ok().out();
    assert!(
        list.contains("label:key=shared") && list.contains("rate limit"),
        "{list}"
    );
    // Nothing new of it starts, and the rest does.
    let denied = site
        .ctl("alice", "run --label key=shared p -- true")
        .code(3);
    assert!(denied.err().contains("rate limit"), "{denied}");
    site.run("-- true");
    // Nobody thaws it meanwhile, and it is said why.
    let said = site.ctl("alice", &format!("thaw {held}")).code(3).err();
    assert!(said.contains("rate limit"), "{said}");
    wait_for("it goes on", SOON * 2, || {
        match site.show(&held)["state"] == "running" {
            true => Ok(()),
            false => Err(site.ctl("root", "hold list").out()),
        }
    });
    assert!(began.elapsed() >= Duration::from_secs(25));
    assert!(!frozen(&site, &held));
    assert!(frozen(&site, &own), "alice froze it, and nobody thawed it");
    let events = site
        .ctl("root", "events -o jsonl --after 0 --type hold.released")
        .ok()
        .out();
    assert_eq!(crate::schema::lines(&events).len(), 1, "{events}");
    site.ctl("alice", "thaw own").ok();
    site.check();
}

#[test]
fn a_hold_outlives_the_daemon() {
    let site = Site::boot("holdon");
    let [a, b] = [site.run("-- sleep 1000"), site.run("-- sleep 1000")];
    site.ctl("root", "hold set --fleet --freeze").ok();
    wait_until("both are frozen", SOON, || {
        frozen(&site, &a) && frozen(&site, &b)
    });
    site.root("systemctl kill -s KILL stratavored").ok();
    site.wait_up();
    // Somebody's own wish outlasts the hold.
    site.ctl("alice", &format!("freeze {b}")).ok();
    // Thawed behind our back, it is frozen again.
    site.root(&format!(
        "systemctl thaw stratavore-{a}.scope && stratavorectl reconcile"
    ))
    .ok();
    wait_until("it is frozen again", SOON, || frozen(&site, &a));
    site.ctl("root", "hold release --fleet").ok();
    wait_until("it goes on", SOON, || site.show(&a)["state"] == "running");
    assert!(!frozen(&site, &a));
    assert!(frozen(&site, &b));
    let none = site.ctl("root", "hold release --fleet");
    none.code(5);
    site.check();
}
