//! Projects and their caps.

use crate::fixture::{Plan, SOON, Site};

#[test]
fn a_cap_is_exact_when_a_hundred_come_at_once() {
    let site = Site::boot("cap");
    site.ctl("root", "project create tight --max-runners 7")
        .ok();
    let storm = "for i in $(seq 100); do (stratavorectl run tight -- sleep 1000 2>/tmp/err.$i; echo \"status $?\") & done; wait";
    let storm = site.host.command(["bash", "-c", storm]).user("alice");
    let out = storm.limit(SOON * 6).run().ok().out();
    let count = |what: &str| out.lines().filter(|l| *l == what).count();
    assert_eq!(
        (count("status 0"), count("status 3")),
        (7, 93),
        "{out}\n{}",
        site.root("cat /tmp/err.* | sort | uniq -c | head").out()
    );
    assert_eq!(site.scopes().len(), 7);
    let refused = site.ctl("alice", "run tight -- true").code(3);
    assert!(
        refused.err().contains("7 of 7") && refused.err().contains("--max-runners"),
        "{refused}"
    );
    // The denial is an event; a raised cap lets the next one in, a lowered one stops nobody.
    let events = site.ctl("root", "events -o jsonl").ok().out();
    assert!(events.contains("admission.denied"), "{events}");
    crate::schema::lines(&events);
    site.ctl("root", "project set tight --max-runners 8").ok();
    site.ctl("alice", "run tight -- sleep 1000").ok();
    site.ctl("root", "project set tight --max-runners 2").ok();
    assert_eq!(site.scopes().len(), 8);
    site.ctl("alice", "run tight -- true").code(3);
    site.check();

    let refused = site.ctl("root", "project remove tight").code(1);
    assert!(refused.err().contains('8'), "{refused}");
    site.ctl("root", "stop --project tight").ok();
    site.ctl("root", "project remove tight").ok();
    site.ctl("root", "project show tight").code(5);
    site.ctl("alice", "run tight -- true").code(5);
    assert!(
        !site
            .host
            .path("/sys/fs/cgroup/stratavore.slice/stratavore-tight.slice")
            .exists()
    );
    site.check();
}

#[test]
fn projects_are_made_shown_changed_and_listed() {
    let site = Site::boot("projects");
    site.ctl(
        "root",
        "project create web-1.x --description 'The web' --max-runners 3",
    )
    .ok();
    site.ctl("root", "project create web-1.x").code(1);
    let shown: serde_json::Value =
        serde_json::from_str(&site.ctl("root", "project show -o json web-1.x").ok().out()).unwrap();
    assert_eq!(
        (
            shown["name"].as_str(),
            shown["description"].as_str(),
            shown["max_runners"].as_u64()
        ),
        (Some("web-1.x"), Some("The web"), Some(3)),
        "{shown}"
    );
    site.ctl("root", "project set web-1.x --description other")
        .ok();
    let list = site.ctl("root", "project list").ok().out();
    assert!(list.contains("web-1.x") && list.contains('p'), "{list}");
    let id = site.ctl("alice", "run web-1.x -- sleep 1000").ok().out();
    assert!(
        site.host
            .path(&format!(
                "/sys/fs/cgroup/stratavore.slice/stratavore-web\\x2d1.x.slice/stratavore-{id}.scope"
            ))
            .exists()
    );
    site.ctl("alice", "project create mine").code(4);
    let misspelt = site.ctl("alice", "run web-1.y -- true").code(5);
    assert!(
        misspelt.err().contains("web-1.x"),
        "the nearest name helps: {misspelt}"
    );
    site.clear();
}

#[test]
fn the_hosts_own_cap() {
    let site = Site::with(Plan {
        name: "hostcap",
        config: "[host]\nmax_runners = 2\n",
        ..Plan::default()
    });
    site.run("-- sleep 1000");
    site.run("-- sleep 1000");
    let refused = site.ctl("alice", "run p -- true").code(3);
    assert!(refused.err().contains("host.max_runners"), "{refused}");
    let explained = site.ctl("alice", "run --explain p -- true").code(3);
    assert!(explained.out().contains("host-runners"), "{explained}");
    site.clear();
}
