//! Endings and their records, on good disks and bad ones; what the shim itself costs.

use crate::agent::{Agent, cgroup_root, until};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;
use stratavore::domain::exit::{Asked, Cause};
use stratavore::wire::{ShimNotice, ShimRequest};

#[test]
fn codes_and_signals() {
    let ending = |script: &str| {
        let mut agent = Agent::script(script, |_| ());
        let record = agent.end();
        assert!(record.started_at > 0 && !record.never_started && record.asked.is_none());
        (record.code, record.signal, record.exit().cause)
    };
    assert_eq!(ending("exit 0"), (Some(0), None, Cause::Success));
    assert_eq!(ending("exit 3"), (Some(3), None, Cause::ExitCode));
    assert_eq!(ending("kill -USR1 $$"), (None, Some(10), Cause::Signal));
    assert_eq!(
        ending("ulimit -c 0; kill -SEGV $$"),
        (None, Some(11), Cause::Signal)
    );
}

#[test]
fn what_it_used() {
    let mut agent = Agent::script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", |_| ());
    let record = agent.end();
    let used = record.usage.cpu_usec.unwrap();
    assert!(used > 1_000 && used < 20_000_000, "{used}");
    // Where the kernel does not count, there is no number.
    let there = |name: &str| fs::exists(format!("{}/{name}", agent.scope.display())).unwrap();
    assert_eq!(
        record.usage.memory_peak_bytes.is_some(),
        there("memory.peak")
    );
    assert_eq!(record.usage.tasks_peak.is_some(), there("pids.peak"));
    assert_eq!(record.usage.oom_kills.is_some(), there("memory.events"));
    assert!(cgroup_root().starts_with('/'));
}

#[test]
fn the_record_is_for_the_folders_group() {
    let mut agent = Agent::bare(&[], false);
    let exits = agent.folder.join("exits");
    rustix::fs::chownat(
        rustix::fs::CWD,
        &exits,
        None,
        Some(rustix::fs::Gid::from_raw(4242)),
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    agent.give(&["/bin/true"], |_| ());
    agent.gate.state();
    agent.gate.say(&ShimRequest::Go);
    agent.end();
    let meta = fs::metadata(agent.record_path()).unwrap();
    assert_eq!(
        (meta.gid(), meta.permissions().mode() & 0o7777),
        (4242, 0o640)
    );
}

/// A record folder on a disk of 64 KiB.
fn small_disk(agent: &Agent) {
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=755", "none"])
        .arg(agent.folder.join("exits"))
        .status()
        .unwrap();
    assert!(status.success());
}

fn fill(agent: &Agent) {
    let path = agent.folder.join("exits/filler");
    for size in [1 << 16, 4096, 1] {
        while fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, &vec![b'x'; size]))
            .is_ok()
        {}
    }
}

#[test]
fn a_full_disk_does_not_swallow_an_ending() {
    let mut agent = Agent::bare(&[], false);
    small_disk(&agent);
    agent.give(&["/bin/sh", "-c", "touch ready; sleep 1000"], |_| ());
    agent.gate.state();
    agent.gate.say(&ShimRequest::Go);
    agent.gate.started();
    fill(&agent);
    agent.gate.say(&ShimRequest::Stop { asked: Asked::Stop });
    let (told, written) = agent.gate.ended();
    assert!(written);
    agent.gone();
    let record = serde_json::from_slice(&fs::read(agent.record_path()).unwrap()).ok();
    assert_eq!(record, Some(told));
}

#[test]
fn no_room_for_the_record_no_launch() {
    let mut agent = Agent::bare(&[], false);
    small_disk(&agent);
    fill(&agent);
    agent.give(&["/usr/bin/touch", "ran"], |_| ());
    match agent.gate.hear() {
        Some(ShimNotice::LaunchFailed(error)) => {
            assert_eq!(
                (error.step.as_str(), error.errno),
                ("record", 28),
                "{}",
                error.message
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(agent.gone().code(), Some(1));
    assert_eq!(agent.files(), ["filler"]);
    assert!(!agent.work("ran").exists());
}

#[test]
fn a_record_that_cannot_be_written_keeps_the_shim_until_it_is() {
    let mut agent = Agent::running(&["sleep", "1000"], |_| ());
    fs::create_dir(agent.record_path()).unwrap();
    agent.gate.say(&ShimRequest::Stop { asked: Asked::Stop });
    let (told, written) = agent.gate.ended();
    assert!(!written);
    // It is still there, says so to newcomers, answers, and does not end by a signal.
    let late = agent.connect();
    assert_eq!(late.state().asked, Some(Asked::Stop));
    assert_eq!(late.ended(), (told.clone(), false));
    agent.signal_shim(Signal::TERM);
    late.say(&ShimRequest::Query);
    assert_eq!(late.state().asked, Some(Asked::Stop));
    fs::remove_dir(agent.record_path()).unwrap();
    assert_eq!(late.ended(), (told, true));
    agent.end();
}

#[test]
fn a_record_that_somebody_else_wrote_will_do() {
    let mut agent = Agent::running(&["sleep", "1000"], |_| ());
    fs::create_dir(agent.record_path()).unwrap();
    agent.gate.say(&ShimRequest::Stop { asked: Asked::Stop });
    let (told, written) = agent.gate.ended();
    assert!(!written);
    fs::remove_dir(agent.record_path()).unwrap();
    fs::write(agent.record_path(), serde_json::to_vec(&told).unwrap()).unwrap();
    assert_eq!(agent.gate.ended(), (told, true));
    agent.gone();
}

#[test]
fn a_killed_shim_leaves_no_record() {
    let mut agent = Agent::script("touch ready; sleep 1000", |_| ());
    agent.signal_shim(Signal::KILL);
    agent.gone();
    assert!(agent.gate.hear().is_none());
    assert_eq!(agent.files(), [format!(".{}.tmp", agent.order.id)]);
}

#[test]
fn it_costs_next_to_nothing() {
    let mut agent = Agent::bare(&[], false);
    // A large environment, which the shim is not to keep.
    agent.give(&["sleep", "1000"], |o| {
        o.env
            .extend((0..2000).map(|n| format!("V{n}={}", "x".repeat(500))))
    });
    agent.gate.state();
    let start = std::time::Instant::now();
    agent.gate.say(&ShimRequest::Go);
    agent.gate.started();
    let took = start.elapsed();
    let link = agent.connect();
    link.state();
    let proc =
        |file: &str| fs::read_to_string(format!("/proc/{}/{file}", agent.shim.id())).unwrap();
    // Its own pages. (Private_Dirty says the same, plus the program's file for as long as a
    // freshly built one has not been written to the disk.)
    let memory = || -> u64 {
        let rollup = proc("smaps_rollup");
        let line = rollup
            .lines()
            .find_map(|l| l.strip_prefix("Anonymous:"))
            .unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    };
    println!("private memory {} KiB, Go to exec {took:?}", memory());
    assert!(memory() < 500, "{} KiB", memory());
    // It does nothing while nothing happens.
    let switches = || -> u64 {
        let status = proc("status");
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))
            .unwrap();
        line.trim().parse().unwrap()
    };
    until("the shim to sleep", || proc("stat").contains(") S "));
    let before = switches();
    std::thread::sleep(Duration::from_millis(300));
    assert!(switches() - before <= 1);
    let kept: u64 = {
        let status = proc("status");
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("CapPrm:"))
            .unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!(
        kept & !0b10_0011,
        0,
        "capabilities are kept that are not needed"
    );
    agent.gate.say(&ShimRequest::Stop { asked: Asked::Stop });
    agent.end();
}
