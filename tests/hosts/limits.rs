//! Limits: refused where the kernel does not hold them, held where it does.

use crate::fixture::{Plan, Site};
use crate::support::{Uml, project};
use std::time::Duration;

#[test]
fn a_limit_the_kernel_does_not_hold_is_refused() {
    let site = Site::with(Plan {
        name: "refused",
        without: Some("memory"),
        ..Plan::default()
    });
    let out = site
        .ctl("alice", "run --memory-max=64M p -- touch /tmp/ran")
        .code(1);
    assert!(
        out.err().contains("memory-max") && out.err().contains("memory"),
        "{out}"
    );
    assert!(!site.host.path("/tmp/ran").exists());
    let out = site.root("busctl call org.stratavore1 /org/stratavore1 org.stratavore1.Manager Launch 'sasa{sv}' p 1 true 1 memory-max t 67108864");
    assert!(!out.success(), "{out}");
    let id = site.run("-- sleep 1000");
    let out = site
        .ctl("alice", &format!("set {id} memory-max=64M"))
        .code(1);
    assert!(out.err().contains("memory-max"), "{out}");
    assert!(site.show(&id)["limits"]["memory_max"].is_null());
    site.ctl("root", "project set p --memory-max 1G").code(1);
    site.clear();
}

#[test]
fn or_runs_with_a_warning_where_that_is_configured() {
    let site = Site::with(Plan {
        name: "warned",
        without: Some("memory"),
        config: "[limits]\nunenforced = \"warn\"\n",
        ..Plan::default()
    });
    let out = site
        .ctl("alice", "run --memory-max=64M p -- sleep 1000")
        .ok();
    assert!(
        out.err().contains("memory-max"),
        "a warning in the reply: {out}"
    );
    let shown = site.ctl("alice", &format!("show {}", out.out())).ok();
    assert!(shown.out().contains("memory-max"), "and in show: {shown}");

    // Who gives it another one is told, too, and so is who gives it one that is held.
    let id = out.out();
    let warned = |set: &str, limit: &str| {
        let out = site.ctl("root", set).ok();
        let said = format!("{limit} is not held on this host");
        assert!(out.err().contains(&said), "{set}: {out}");
    };
    warned(&format!("set {id} memory-max=96M"), "memory-max=96M");
    warned(&format!("set {id} runtime-max=1h"), "memory-max=96M");
    let warnings = |id: &str| site.show(id)["warnings"].to_string();
    assert!(warnings(&id).contains("memory-max=96M is not held"));
    assert!(!warnings(&id).contains("memory-max=64M"));
    site.ctl("root", &format!("set {id} memory-max=infinity"))
        .ok();
    assert_eq!(warnings(&id), "[]");

    // A project's limits are its slice's; its runners have them as well.
    warned("project set p --memory-max=1G", "memory-max=1G");
    warned("project create q --memory-max=2G", "memory-max=2G");
    let out = site.ctl("alice", "run --tasks-max=50 p -- sleep 1000").ok();
    let said = "Of project p: memory-max=1G is not held on this host";
    assert!(out.err().contains(said), "{out}");
    let second = out.out();
    site.ctl("root", &format!("set {second} tasks-max=60")).ok();
    assert!(warnings(&second).contains(said), "the project's stay");
    let project = || site.ctl("root", "project show p").ok().out();
    assert!(project().contains("memory-max=1G is not held"));
    site.root("systemctl restart stratavored").ok();
    site.wait_met();
    site.ctl("alice", "run --wait p -- true").ok();
    assert!(
        project().contains("memory-max=1G is not held"),
        "a launch finds it anew"
    );
    site.clear();
}

/// On a kernel with every controller of cgroup v2: one boot, all of it.
#[test]
fn limits_hold_on_a_kernel_with_every_controller() {
    let out = Uml::new()
        .payload(project().join("target/test-payload"))
        .want("polkit.service")
        .want("stratavored.service")
        .limit(Duration::from_secs(900))
        .run(include_str!("limits.sh"));
    let said = out.out();
    if out.success() && said.lines().last() == Some("ALL HELD") {
        return;
    }
    // What a log that is cut off has to show comes first.
    let failed: Vec<&str> = said.lines().filter(|l| l.starts_with("FAILED")).collect();
    let last: Vec<&str> = said.lines().rev().take(40).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    panic!(
        "{}\n--- the last of it:\n{}\n--- all of it: {out}",
        failed.join("\n"),
        last.join("\n")
    );
}
