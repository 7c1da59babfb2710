//! Stops, limits and what is left behind.

use crate::agent::{Agent, Link, NOBODY, until};
use crate::load::within;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use stratavore::domain::exit::{Asked, Cause};
use stratavore::domain::units::INFINITY;
use stratavore::wire::{Identity, ShimOrder, ShimRequest};

const STOP: ShimRequest = ShimRequest::Stop { asked: Asked::Stop };
/// Three that ignore SIGTERM: the main process, one in a session of its own, one whose parent
/// is gone.
const STUBBORN: &str =
    "trap '' TERM; setsid sleep 1000 & (setsid sleep 1000 &); touch ready; sleep 1000; sleep 1000";

#[test]
fn a_stubborn_tree_is_killed_after_the_timeout_and_not_before() {
    let timeout = Duration::from_millis(700);
    let mut agent = Agent::script(STUBBORN, |o| o.stop_timeout = timeout.as_micros() as u64);
    until("the tree", || agent.procs().len() == 5);
    let start = Instant::now();
    agent.gate.say(&STOP);
    agent.gate.say(&ShimRequest::Query);
    assert_eq!(agent.gate.state().asked, Some(Asked::Stop));
    let record = agent.end();
    assert!(start.elapsed() >= timeout);
    assert_eq!(
        (record.signal, record.asked, record.code),
        (Some(9), Some(Asked::Stop), None)
    );
    assert_eq!(
        (record.oom_killed, record.exit().cause),
        (false, Cause::Stopped)
    );
}

#[test]
fn a_stop_gives_time_to_clean_up() {
    // What the trap starts after the signal does not get the signal.
    let script =
        "trap 'sleep 0.2; touch cleaned; exit 7' TERM; touch ready; while :; do sleep 0.05; done";
    let mut agent = Agent::script(script, |_| ());
    agent.gate.say(&STOP);
    let record = agent.end();
    assert_eq!(
        (record.code, record.signal, record.asked),
        (Some(7), None, Some(Asked::Stop))
    );
    assert!(agent.work("cleaned").exists());
}

#[test]
fn a_stopped_process_sees_its_stop_signal() {
    let mut agent = Agent::running(&["/bin/sh", "-c", "kill -STOP $$"], |o| {
        o.stop_timeout = INFINITY
    });
    let main = agent.procs()[1];
    until("the process to stop", || {
        fs::read_to_string(format!("/proc/{main}/stat"))
            .unwrap()
            .contains(") T ")
    });
    agent.gate.say(&STOP);
    assert_eq!(agent.end().signal, Some(15));
}

#[test]
fn the_runners_own_stop_signal_and_a_new_one() {
    let script = "trap 'exit 3' USR1; trap 'exit 4' USR2; trap '' TERM; touch ready; while :; do sleep 0.02; done";
    let mut agent = Agent::script(script, |o| o.kill_signal = 10);
    agent.gate.say(&STOP);
    assert_eq!(agent.end().code, Some(3));
    let mut agent = Agent::script(script, |o| o.kill_signal = 10);
    agent.gate.say(&ShimRequest::Limits {
        runtime_max: INFINITY,
        stop_timeout: 1_000_000,
        kill_signal: 12,
        oom_policy: None,
    });
    agent.gate.say(&STOP);
    assert_eq!(agent.end().code, Some(4));
}

#[test]
fn what_the_main_process_leaves_is_stopped() {
    let mut agent = Agent::script(
        "(setsid sleep 1000 &); sleep 1000 & touch ready; exit 0",
        |_| (),
    );
    let record = agent.end();
    assert_eq!(
        (record.code, record.asked, record.exit().cause),
        (Some(0), None, Cause::Success)
    );
    // And killed, where that does not help; a stop that comes meanwhile is not its reason.
    let script = "trap '' TERM; setsid sleep 1000 & (setsid sleep 1000 &); touch ready; exit 5";
    let mut agent = Agent::script(script, |o| o.stop_timeout = 300_000);
    agent.gate.say(&STOP);
    let record = agent.end();
    assert_eq!(record.code, Some(5));
}

#[test]
fn whoever_joined_from_elsewhere_goes_too() {
    let mut agent = Agent::script("touch ready; sleep 1000", |o| o.stop_timeout = 300_000);
    let script = "trap '' TERM; exec sleep 1000";
    let mut guest = Command::new("sh").args(["-c", script]).spawn().unwrap();
    until("the guest to ignore SIGTERM", || {
        fs::read_to_string(format!("/proc/{}/comm", guest.id())).unwrap() == "sleep\n"
    });
    fs::write(agent.scope.join("cgroup.procs"), guest.id().to_string()).unwrap();
    // In a cgroup below, as a delegated runner may have them.
    let below = agent.scope.join("below");
    fs::create_dir(&below).unwrap();
    let mut deep = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(below.join("cgroup.procs"), deep.id().to_string()).unwrap();
    agent.gate.say(&STOP);
    // They are this test's children: they count as there until they are reaped.
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(deep.wait().unwrap().signal(), Some(15));
    assert_eq!(guest.wait().unwrap().signal(), Some(9));
    assert_eq!(agent.end().signal, Some(15));
    fs::remove_dir(below).unwrap();
}

#[test]
fn a_tree_that_grows_while_it_is_killed_goes() {
    let script = "trap '' TERM; f() { f & }; touch ready; f & f & f; sleep 1000";
    let mut agent = Agent::script(script, |o| o.stop_timeout = 100_000);
    agent.gate.say(&STOP);
    let record = agent.end();
    assert_eq!(record.asked, Some(Asked::Stop));
}

#[test]
fn a_fork_bomb_goes() {
    // Bounded for this machine's sake: 400 processes of a user of its own.
    let bomb = "$SIG{TERM} = 'IGNORE'; fork while 1";
    let command = ["prlimit", "--nproc=400", "perl", "-e", bomb];
    let mut agent = Agent::running(&command, |o| {
        o.identity = Some(Identity {
            uid: 64_999,
            gid: 64_999,
            groups: vec![],
        });
        o.stop_timeout = 100_000;
    });
    let start = Instant::now();
    agent.gate.say(&STOP);
    assert_eq!(agent.end().asked, Some(Asked::Stop));
    assert!(
        start.elapsed() < within(Duration::from_secs(5)),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn kill_reaches_the_tree_and_not_the_shim() {
    let script = "trap 'touch usr1' USR1; (trap 'touch usr1-below; exit' USR1; touch below-ready; while :; do sleep 0.02; done) & \
                  until [ -e below-ready ]; do sleep 0.02; done; touch ready; while :; do sleep 0.02; done";
    let mut agent = Agent::script(script, |o| {
        o.identity = Some(Identity {
            uid: NOBODY,
            gid: NOBODY,
            groups: vec![],
        });
    });
    agent.gate.say(&ShimRequest::Kill { signal: 10 });
    until("both to get it", || {
        agent.work("usr1").exists() && agent.work("usr1-below").exists()
    });
    agent.gate.say(&ShimRequest::Query);
    assert_eq!(agent.gate.state().asked, None);
    agent.gate.say(&ShimRequest::Kill { signal: 9 });
    let record = agent.end();
    assert_eq!(
        (record.signal, record.asked, record.exit().cause),
        (Some(9), None, Cause::Signal)
    );
}

#[test]
fn the_runtime_limit_and_a_new_one() {
    let start = Instant::now();
    let mut agent = Agent::running(&["sleep", "1000"], |o| o.runtime_max = 300_000);
    let record = agent.end();
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        (record.signal, record.asked, record.exit().cause),
        (Some(15), Some(Asked::Timeout), Cause::Timeout)
    );
    // Already past when it comes: at once.
    let mut agent = Agent::running(&["sleep", "1000"], |_| ());
    agent.gate.say(&ShimRequest::Limits {
        runtime_max: 0,
        stop_timeout: 1_000_000,
        kill_signal: 15,
        oom_policy: None,
    });
    assert_eq!(agent.end().asked, Some(Asked::Timeout));
}

#[test]
fn a_stop_by_signal_is_the_managers() {
    let mut agent = Agent::script("touch ready; sleep 1000 & wait", |_| ());
    // Not a stop: these are for the runner.
    for other in [Signal::HUP, Signal::USR1, Signal::INT, Signal::WINCH] {
        agent.signal_shim(other);
    }
    agent.gate.say(&ShimRequest::Query);
    assert_eq!(agent.gate.state().asked, None);
    agent.signal_shim(Signal::TERM);
    let record = agent.end();
    assert_eq!(
        (record.signal, record.asked),
        (Some(15), Some(Asked::Manager))
    );
}

#[test]
fn a_main_process_that_left_the_scope_is_stopped_all_the_same() {
    let mut agent = Agent::script("touch ready; sleep 1000 & wait", |_| ());
    let main = agent.procs()[1];
    let elsewhere = agent.scope.with_extension("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("cgroup.procs"), main.to_string()).unwrap();
    agent.gate.say(&STOP);
    assert_eq!(agent.end().signal, Some(15));
    fs::remove_dir(elsewhere).unwrap();
}

#[test]
fn whoever_left_the_scope_is_killed_when_the_time_is_up() {
    // The main process ignores the stop signal, and so does its child, which left with it.
    let script = "trap '' TERM; sleep 1000 & touch ready; sleep 1000; sleep 1000";
    let mut agent = Agent::script(script, |o| o.stop_timeout = 300_000);
    until("the tree", || agent.procs().len() == 4);
    let elsewhere = agent.scope.with_extension("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for pid in &agent.procs()[1..] {
        fs::write(elsewhere.join("cgroup.procs"), pid.to_string()).unwrap();
    }
    assert_eq!(agent.procs().len(), 1);
    let start = Instant::now();
    agent.gate.say(&STOP);
    let record = agent.end();
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!((record.signal, record.asked), (Some(9), Some(Asked::Stop)));
    assert_eq!(
        fs::read_to_string(elsewhere.join("cgroup.procs")).unwrap(),
        ""
    );
    fs::remove_dir(elsewhere).unwrap();
}

#[test]
fn an_orphan_outside_the_scope_gets_the_stop_signal() {
    let script = "(trap 'exit 0' TERM; touch ready; while :; do sleep 0.02; done) & wait";
    let mut agent = Agent::script(script, |o| o.stop_timeout = INFINITY);
    let elsewhere = agent.scope.with_extension("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let orphan = agent.procs()[2];
    fs::write(elsewhere.join("cgroup.procs"), orphan.to_string()).unwrap();
    let main = Pid::from_raw(agent.procs()[1] as i32).unwrap();
    kill_process(main, Signal::KILL).unwrap();
    assert_eq!(agent.end().signal, Some(9));
    until("the cgroup to be empty", || {
        fs::remove_dir(&elsewhere).is_ok()
    });
}

#[test]
fn the_scopes_own_stop_signal_stays_one() {
    let script =
        "trap 'exit 3' USR1; trap 'exit 4' USR2; touch ready; while :; do sleep 0.02; done";
    let mut agent = Agent::script(script, |o| o.kill_signal = 10);
    agent.gate.say(&ShimRequest::Limits {
        runtime_max: INFINITY,
        stop_timeout: 1_000_000,
        kill_signal: 12,
        oom_policy: None,
    });
    agent.gate.say(&ShimRequest::Query);
    agent.gate.state();
    agent.signal_shim(Signal::USR1);
    let record = agent.end();
    assert_eq!((record.code, record.asked), (Some(4), Some(Asked::Manager)));
}

#[test]
fn kill_9_of_the_main_process_is_a_signal() {
    let mut agent = Agent::script("touch ready; sleep 1000 & wait", |_| ());
    let main = Pid::from_raw(agent.procs()[1] as i32).unwrap();
    kill_process(main, Signal::KILL).unwrap();
    let record = agent.end();
    assert_eq!(
        (record.signal, record.asked, record.oom_killed),
        (Some(9), None, false)
    );
    assert_eq!(record.exit().cause, Cause::Signal);
}

/// A shim whose `systemctl` is this script of sh.
fn with_systemctl(script: &str, change: impl FnOnce(&mut ShimOrder)) -> (Agent, Link) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("systemctl-{}-{n}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let fake = folder.join("fake");
    fs::write(&fake, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "set -e; mount --bind '{}' \"$(command -v systemctl)\"; exec \"$0\"",
        fake.display()
    );
    let mut agent = Agent::bare(&["unshare", "--mount", "/bin/sh", "-c", &script], false);
    agent.give(&["/bin/sh", "-c", "touch ready; sleep 1000 & wait"], change);
    assert!(agent.gate.state().gated);
    agent.gate.say(&ShimRequest::Go);
    agent.gate.started();
    until("the script", || agent.work("ready").exists());
    fs::remove_dir_all(folder).unwrap();
    let link = agent.connect();
    link.state();
    (agent, link)
}

#[test]
fn a_shutdown_is_told_from_a_stop_of_the_scope() {
    let ending = |script: &str| {
        let (mut agent, _link) = with_systemctl(script, |_| ());
        agent.signal_shim(Signal::TERM);
        agent.end().asked
    };
    // The manager signals everybody in the scope, the shim's helper too.
    assert_eq!(
        ending("kill -TERM $$; echo stopping; exit 1"),
        Some(Asked::Shutdown)
    );
    assert_eq!(ending("echo running"), Some(Asked::Manager));
    assert_eq!(ending("echo degraded; exit 1"), Some(Asked::Manager));
    assert_eq!(ending("exit 1"), Some(Asked::Manager));
}

#[test]
fn a_manager_that_does_not_answer_holds_nothing_up() {
    let (mut agent, link) = with_systemctl("exec sleep 1000", |_| ());
    let start = Instant::now();
    agent.signal_shim(Signal::TERM);
    until("the stop", || {
        link.say(&ShimRequest::Query);
        link.state().asked == Some(Asked::Manager)
    });
    // The helper is not of the tree: it is neither signalled nor waited for as such.
    until("the tree to end", || agent.procs().len() == 2);
    assert!(start.elapsed() < within(Duration::from_secs(2)));
    let record = agent.end();
    assert_eq!(
        (record.asked, record.signal),
        (Some(Asked::Manager), Some(15))
    );
    assert!(start.elapsed() < within(Duration::from_secs(10)));
}
