//! Every named crash point of daemon, store, agent and shim: the program stops dead there, is started again, and
//! whatever was under way is whole.

use crate::fixture::{SOON, Site};
use crate::support::{project, wait_for, wait_until};
use std::collections::BTreeSet;

/// The names in the source, so that no point is left out.
pub fn points(of: &str) -> Vec<String> {
    fn walk(folder: &std::path::Path, out: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                for rest in text.split("point(\"").skip(1) {
                    out.insert(rest.split('"').next().unwrap().to_owned());
                }
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(&project().join("src"), &mut all);
    all.into_iter()
        .filter(|p| p.starts_with(&format!("{of}.")))
        .collect()
}

/// One life of everything that can be cut off: launches, an ending, a freeze, a stop.
fn scenario(site: &Site, round: &str) {
    // Whatever fails here may fail: that is what the crash does. Exactly one exec per id is checked below.
    let run = |flags: &str, command: &str| {
        format!(
            "timeout 60 stratavorectl run --label round={round} {flags} p -- sh -c 'echo $STRATAVORE_RUNNER_ID >> /srv/ran; {command}'"
        )
    };
    let script = format!(
        "{}; {}; {}; timeout 60 stratavorectl freeze f{round}; timeout 60 stratavorectl thaw f{round}; timeout 60 stratavorectl stop --no-block f{round}; {}; true",
        run("--load-credential=k:/etc/hostname", "exit 3"),
        run(&format!("--name f{round}"), "exec sleep 1000"),
        run(
            &format!("--name l{round} --stop-timeout=2s"),
            "exec sleep 1000"
        ),
        run("--log-file-max=4K", "exit 4"),
    );
    site.sh_as("alice", &script);
}

fn each_point(of: &str) {
    let site = Site::boot(match of {
        "daemon" => "crash-d",
        "store" => "crash-st",
        "agent" => "crash-a",
        _ => "crash-s",
    });
    site.root("install -d -m 777 /srv; touch /srv/ran; chmod 666 /srv/ran")
        .ok();
    let points = points(of);
    assert!(points.len() > 1, "no crash points of {of} in the source");
    for (round, point) in points.iter().enumerate() {
        let round = format!("{of}{round}");
        site.crash_at(point);
        scenario(&site, &round);
        if site.host.path("/run/stratavore-crash/at").exists() {
            // A point of adoption is reached when something starts again.
            site.root("systemctl kill -s KILL --kill-whom=main stratavored; systemctl kill -s KILL --kill-whom=main stratavore-agent; true");
        }
        wait_for(&format!("{point} is reached"), SOON, || {
            if site.host.path("/run/stratavore-crash/at").exists() {
                Err(site.log())
            } else {
                Ok(())
            }
        });
        site.wait_up();
        site.check();

        wait_until("what was to stop has ended", SOON, || {
            site.sql("SELECT id FROM runners WHERE state IN ('starting', 'stopping')")
                .is_empty()
        });
        let ran = site.file("/srv/ran");
        for row in site.sql(&format!("SELECT id, state, json_extract(exit, '$.cause') AS cause, json_extract(exit, '$.code') AS code FROM runners r WHERE EXISTS (SELECT 1 FROM labels l WHERE l.runner = r.id AND l.value = '{round}')")) {
            let id = row["id"].as_str().unwrap();
            let times = ran.lines().filter(|l| *l == id).count();
            assert!(times <= 1, "{point}: {id} ran {times} times");
            let cause = row["cause"].as_str().unwrap_or("live");
            let told = (row["state"].as_str().unwrap(), cause, row["code"].as_i64());
            match told {
                ("ended", "exit-code", Some(3 | 4)) | ("ended", "stopped", _) => assert_eq!(times, 1, "{point}: {id} {told:?}"),
                ("ended", "launch-failed", None) => assert_eq!(times, 0, "{point}: {id} {told:?}"),
                // Only where the shim itself was killed does nobody know.
                ("ended", "supervisor-lost", None) => assert!(of == "shim", "{point}: {id} {told:?}"),
                (_, "live", _) => {
                    site.ctl("alice", &format!("freeze {id}")).ok();
                    site.ctl("alice", &format!("thaw {id}")).ok();
                }
                other => panic!("{point}: {id} has no truthful ending: {other:?}\n{}", site.log()),
            }
        }
        let live: Vec<String> = site.scopes().into_iter().collect();
        if !live.is_empty() {
            site.ctl("alice", &format!("stop {}", live.join(" "))).ok();
        }
        wait_until("all is stopped", SOON, || site.scopes().is_empty());
        site.check();
    }
}

#[test]
fn the_daemon_is_killed_at_each_of_its_points() {
    each_point("daemon");
}

#[test]
fn the_daemon_is_killed_around_each_commit() {
    each_point("store");
}

#[test]
fn the_agent_is_killed_at_each_of_its_points() {
    each_point("agent");
}

#[test]
fn a_shim_is_killed_at_each_of_its_points() {
    each_point("shim");
}

/// The agent dies while systemd makes a scope, and the shim that is to be in it dies with it: a dying process is in no
/// cgroup, so systemd sees nobody leave the scope and keeps it. The next agent has it removed.
#[test]
fn a_scope_that_nobody_ever_was_in_is_removed() {
    let site = Site::boot("crash-empty");
    let runner = site.run("-- sleep 1000");
    let unit = "stratavore-01890000-0000-7000-8000-000000000001.scope";
    let script = format!(
        "import os, subprocess\n\
         child = os.fork() or os._exit(0)\n\
         os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)\n\
         manager = ['org.freedesktop.systemd1', '/org/freedesktop/systemd1', 'org.freedesktop.systemd1.Manager']\n\
         subprocess.check_call(['busctl', 'call', *manager, 'StartTransientUnit', 'ssa(sv)a(sa(sv))', '{unit}', 'fail', '2', 'PIDs', 'au', '1', str(child), 'Slice', 's', 'stratavore-p.slice', '0'])\n"
    );
    site.host.write("/tmp/zombie.py", script);
    site.root("python3 /tmp/zombie.py").ok();
    let state = || {
        let show = format!("systemctl show -p ActiveState --value {unit}");
        site.root(&show).out()
    };
    wait_until("systemd keeps it", SOON, || state() == "active");
    site.kill9("stratavore-agent");
    wait_until("it is removed", SOON, || state() == "inactive");
    assert_eq!(site.scopes(), BTreeSet::from([runner]));
    site.check();
    site.clear();
}
