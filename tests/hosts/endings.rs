//! Endings: the true cause of each.

use crate::fixture::{SOON, Site};
use crate::support::wait_until;

#[test]
fn each_ending_has_its_true_cause() {
    let site = Site::boot("endings");
    // It ignores SIGTERM, and says so: one that had no time to do so says nothing.
    let deaf = "--runtime-max=300ms --stop-timeout=300ms -- sh -c 'trap \"\" TERM; echo > /tmp/deaf; while :; do sleep 1; done'";
    for (command, cause, code, signal) in [
        ("-- true", "success", Some(0), None),
        ("-- sh -c 'exit 7'", "exit-code", Some(7), None),
        ("-- sh -c 'kill -SEGV $$'", "signal", None, Some("SIGSEGV")),
        ("-- sh -c 'kill -9 $$'", "signal", None, Some("SIGKILL")),
        (
            "--runtime-max=300ms --stop-timeout=5s -- sleep 1000",
            "timeout",
            None,
            Some("SIGTERM"),
        ),
        (deaf, "timeout", None, Some("SIGKILL")),
        (
            "-- sh -c 'setsid sleep 1000 & exit 3'",
            "exit-code",
            Some(3),
            None,
        ),
    ] {
        let mut ended = site.ended(&site.run(command));
        while command == deaf && !site.host.path("/tmp/deaf").exists() {
            ended = site.ended(&site.run(command));
        }
        let exit = &ended["exit"];
        assert_eq!(exit["cause"], cause, "{command}: {exit}");
        assert_eq!(exit["code"].as_i64(), code, "{command}: {exit}");
        assert_eq!(exit["signal"].as_str(), signal, "{command}: {exit}");
    }
    // Asked for by us, by systemd, and with the runner's own stop signal.
    let id = site.run("-- sleep 1000");
    site.ctl("alice", &format!("stop {id}")).ok();
    assert_eq!(site.cause(&id), "stopped");
    let id = site.run("-- sleep 1000");
    site.root(&format!("systemctl stop stratavore-{id}.scope"))
        .ok();
    assert_eq!(site.cause(&id), "stopped");
    let id = site
        .run("--kill-signal=SIGINT -- sh -c 'trap \"exit 42\" INT; echo > /tmp/traps; while :; do sleep .1; done'");
    site.wait_file("/tmp/traps");
    site.ctl("alice", &format!("stop {id}")).ok();
    let ended = site.ended(&id);
    assert_eq!(
        (
            ended["exit"]["cause"].as_str(),
            ended["exit"]["code"].as_i64()
        ),
        (Some("stopped"), Some(42)),
        "{ended}"
    );
    // Killed on request is killed by a signal.
    let id = site.run("-- sleep 1000");
    site.ctl("alice", &format!("kill -s USR1 {id}")).ok();
    assert_eq!(site.ended(&id)["exit"]["signal"], "SIGUSR1");
    site.check();
}

/// Usage is of the whole tree, and what the kernel says.
#[test]
fn usage_is_the_kernels() {
    let site = Site::boot("usage");
    let id = site.run("-- sh -c 'for i in 1 2 3; do sh -c \"i=0; while [ \\$i -lt 200000 ]; do i=\\$((i+1)); done\" & done; wait; touch /tmp/burnt; sleep 1000'");
    site.wait_file("/tmp/burnt");
    let stat = || -> u64 {
        let path = format!(
            "/sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope/cpu.stat"
        );
        site.file(&path)
            .lines()
            .find_map(|l| l.strip_prefix("usage_usec ")?.parse().ok())
            .unwrap_or(0)
    };
    let before = stat();
    assert!(before > 100_000, "three busy children: {before} µs");
    let live = site.show(&id)["usage"]["cpu_usec"].as_u64().unwrap_or(0);
    assert!(live >= before, "{live} {before}");
    site.ctl("alice", &format!("stop {id}")).ok();
    let used = site.ended(&id)["usage"]["cpu_usec"].as_u64().unwrap_or(0);
    assert!(
        used >= before && used < before + 300_000,
        "{before} then {used}"
    );
}

/// The shim killed: nobody saw how the command ended, its tree is stopped, and that is what is said.
#[test]
fn a_killed_shim_ends_as_supervisor_lost() {
    let site = Site::boot("shimless");
    let id = site.run("-- sh -c 'trap \"\" TERM; setsid sleep 1000 & sleep 1000'");
    let path = format!(
        "/sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope/cgroup.procs"
    );
    wait_until("the tree is up", SOON, || {
        site.file(&path).lines().count() >= 4
    });
    site.root(&format!(
        "for p in $(cat {path}); do grep -q stratavore-shim /proc/$p/comm && kill -9 $p; done; true"
    ))
    .ok();
    let exit = &site.ended(&id)["exit"];
    assert_eq!(
        (
            exit["cause"].as_str(),
            exit["code"].as_i64(),
            exit["signal"].as_str()
        ),
        (Some("supervisor-lost"), None, None),
        "{exit}"
    );
    site.check();
}
