//! The self-fence: a runner ends by its deadline whoever else is alive, and not before.

use crate::agent::{Agent, Link, until};
use crate::load::within;
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use stratavore::boottime;
use stratavore::domain::exit::{Asked, Cause, Record};
use stratavore::seqpacket;
use stratavore::wire::{self, Fence, ShimRequest, Term};

const MS: u64 = 1_000;
/// A deadline that is not over before we have done something else.
const SOON: i64 = 2_500_000;
const TREE: &str =
    "trap '' TERM; setsid sleep 1000 & (setsid sleep 1000 &); touch ready; sleep 1000; sleep 1000";

/// The file that the agent shares with its shims.
struct Shared(File);

impl Shared {
    fn new(agent: &Agent) -> Self {
        let path = agent.folder.join("fence");
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        Self(options.unwrap())
    }

    /// The deadline is so many µs from now; the store was reached a minute before, and the end is
    /// an hour away.
    fn set(&self, from_now: i64) -> u64 {
        self.set_end(from_now, 3_600_000 * MS)
    }

    /// The same with an end so many µs after that.
    fn set_end(&self, from_now: i64, span: u64) -> u64 {
        let term = term(from_now, span);
        self.write(Fence {
            now: term,
            missed: Term::OFF,
        });
        term.stop_at
    }

    fn write(&self, fence: Fence) {
        self.0.write_all_at(&fence.to_bytes(), 0).unwrap();
    }

    /// Gives the file to the shim and hears its answer.
    fn hand(&self, link: &Link) -> u64 {
        let request = wire::encode(&ShimRequest::Fence).unwrap();
        seqpacket::send(&link.0, &request, &[self.0.as_fd()]).unwrap();
        link.state().fence.unwrap()
    }
}

fn state(link: &Link) -> Option<u64> {
    link.say(&ShimRequest::Query);
    link.state().fence
}

fn term(from_now: i64, span: u64) -> Term {
    let stop_at = boottime::now().saturating_add_signed(from_now);
    Term {
        stop_at,
        gone_by: stop_at + span,
        set_at: stop_at - 60_000 * MS,
    }
}

/// So many ms in µs, and more on a busy machine.
fn late(ms: u64) -> u64 {
    within(Duration::from_millis(ms)).as_micros() as u64
}

/// Waits until that time has come.
fn sleep_until(deadline: u64) {
    until("the deadline", || boottime::now() >= deadline);
}

fn freeze(agent: &Agent, yes: bool) {
    fs::write(
        agent.scope.join("cgroup.freeze"),
        if yes { "1" } else { "0" },
    )
    .unwrap();
    until("the freezer", || {
        let events = fs::read_to_string(agent.scope.join("cgroup.events")).unwrap();
        events.contains("frozen 1") == yes
    });
}

fn is_fenced(record: &Record) {
    assert_eq!(
        (record.exit().cause, record.asked),
        (Cause::HostLost, Some(Asked::Stop))
    );
    let away = record.fenced.unwrap();
    assert!((60_000 * MS..90_000 * MS).contains(&away), "{away}");
    let begin = "Stopped by itself: its host had not reached the store, or stratavore-agent was away, for 1min";
    assert!(
        record.exit().message.starts_with(begin),
        "{}",
        record.exit().message
    );
}

#[test]
fn with_nobody_left_the_whole_tree_is_gone_in_time_and_not_before() {
    let mut agent = Agent::script(TREE, |o| o.stop_timeout = 400 * MS);
    until("the tree", || agent.procs().len() == 5);
    let shared = Shared::new(&agent);
    assert_eq!(state(&agent.gate), Some(0));
    let deadline = shared.set(SOON);
    assert_eq!(shared.hand(&agent.gate), deadline);
    // Agent, daemon and their folders are gone.
    agent.gate = Link(seqpacket::pair().unwrap().0);
    fs::remove_file(agent.folder.join("fence")).unwrap();
    drop(shared);
    assert!(agent.gone().success());
    let passed = boottime::now() - deadline;
    assert!((400 * MS..late(3_000)).contains(&passed), "{passed}");
    assert!(agent.procs().is_empty());
    let record = agent.record();
    is_fenced(&record);
    assert_eq!(record.signal, Some(9));
}

#[test]
fn a_stop_gives_time_to_clean_up() {
    let script =
        "trap 'sleep 0.2; touch cleaned; exit 7' TERM; touch ready; while :; do sleep 0.05; done";
    let mut agent = Agent::script(script, |_| ());
    let shared = Shared::new(&agent);
    shared.set(100_000);
    shared.hand(&agent.gate);
    let record = agent.end();
    is_fenced(&record);
    assert_eq!(
        (record.code, agent.work("cleaned").exists()),
        (Some(7), true)
    );
}

#[test]
fn renewals_keep_it_alive_without_waking_it() {
    let mut agent = Agent::script("touch ready; exec sleep 1000", |_| ());
    let shared = Shared::new(&agent);
    let first = shared.set(SOON);
    shared.hand(&agent.gate);
    let mut last = shared.set(2 * SOON);
    assert_eq!(state(&agent.gate), Some(first), "it has not looked");
    while boottime::now() < first + 600 * MS {
        std::thread::sleep(Duration::from_millis(50));
        last = shared.set(2 * SOON);
    }
    assert!(state(&agent.gate) > Some(first), "it has looked");
    is_fenced(&agent.end());
    let passed = boottime::now() - last;
    assert!(passed < late(3_000), "{passed}");
}

#[test]
fn a_fence_is_taken_away_and_comes_back() {
    let mut agent = Agent::script("touch ready; exec sleep 1000", |_| ());
    let shared = Shared::new(&agent);
    let deadline = shared.set(SOON);
    shared.hand(&agent.gate);
    shared.write(Fence::default());
    sleep_until(deadline);
    until("the shim to look", || state(&agent.gate) == Some(0));
    // One that is set now is not noticed before it is told.
    let deadline = shared.set(100_000);
    sleep_until(deadline + 100 * MS);
    assert_eq!(state(&agent.gate), Some(0));
    let deadline = shared.set(200_000);
    assert_eq!(shared.hand(&agent.gate), deadline);
    is_fenced(&agent.end());
}

#[test]
fn one_that_has_passed_stops_at_once_also_at_the_gate() {
    let mut agent = Agent::script("touch ready; exec sleep 1000", |_| ());
    let shared = Shared::new(&agent);
    shared.set(-1);
    let start = Instant::now();
    shared.hand(&agent.gate);
    is_fenced(&agent.end());
    assert!(start.elapsed() < within(Duration::from_secs(5)));

    let mut agent = Agent::gated(&["/bin/touch", "ran"], |_| ());
    let shared = Shared::new(&agent);
    shared.set(-1);
    shared.hand(&agent.gate);
    let record = agent.end();
    assert_eq!((record.never_started, record.fenced), (true, None));
    assert!(!agent.work("ran").exists());
}

#[test]
fn a_frozen_one_does_what_holds_when_it_is_thawed() {
    let mut agent = Agent::script(TREE, |o| o.stop_timeout = 100 * MS);
    let shared = Shared::new(&agent);
    let deadline = shared.set(SOON);
    shared.hand(&agent.gate);
    freeze(&agent, true);
    sleep_until(deadline + 300 * MS);
    let deadline = shared.set(60_000_000);
    freeze(&agent, false);
    until("the shim to look", || state(&agent.gate) == Some(deadline));
    // One that has passed is final, also for whoever comes to look after it was renewed.
    let missed = term(200_000, 3_600_000 * MS);
    shared.write(Fence {
        now: missed,
        missed: Term::OFF,
    });
    // What is sooner than what it knows is its deadline at once.
    assert_eq!(shared.hand(&agent.gate), missed.stop_at);
    freeze(&agent, true);
    sleep_until(missed.stop_at);
    let now = term(60_000_000, 3_600_000 * MS);
    shared.write(Fence { now, missed });
    freeze(&agent, false);
    is_fenced(&agent.end());
}

#[test]
fn a_stopped_shim_does_not_forget_what_it_missed_when_it_is_told_of_a_later_one() {
    let mut agent = Agent::script(TREE, |o| o.stop_timeout = 100 * MS);
    let shared = Shared::new(&agent);
    let missed = term(200_000, 3_600_000 * MS);
    let now = missed;
    shared.write(Fence {
        now,
        missed: Term::OFF,
    });
    shared.hand(&agent.gate);
    agent.signal_shim(Signal::STOP);
    sleep_until(missed.stop_at);
    let now = term(60_000_000, 3_600_000 * MS);
    shared.write(Fence { now, missed });
    let request = wire::encode(&ShimRequest::Fence).unwrap();
    seqpacket::send(&agent.gate.0, &request, &[shared.0.as_fd()]).unwrap();
    agent.signal_shim(Signal::CONT);
    is_fenced(&agent.end());
}

/// The stop timeouts here are long, and stand for a clock that stands still while the host is suspended.
#[test]
fn no_stop_whoever_began_it_outlives_the_end() {
    type Begin = fn(&Agent);
    let cases: [(Begin, bool); 4] = [
        (|_| (), true),
        (
            |agent| agent.gate.say(&ShimRequest::Stop { asked: Asked::Stop }),
            false,
        ),
        // Its main process ends, and leaves the others behind.
        (|agent| fs::write(agent.work("end"), "").unwrap(), false),
        (|agent| agent.signal_shim(Signal::TERM), false),
    ];
    for (begin, fenced) in cases {
        let script = "trap '' TERM; setsid sleep 1000 & touch ready; until [ -e end ]; do sleep 0.05; done; exit 3";
        let mut agent = Agent::script(script, |_| ());
        let shared = Shared::new(&agent);
        let deadline = shared.set_end(SOON, 500 * MS);
        shared.hand(&agent.gate);
        begin(&agent);
        assert!(agent.gone().success());
        let passed = boottime::now() - deadline;
        assert!((500 * MS..late(3_000)).contains(&passed), "{passed}");
        assert!(agent.procs().is_empty());
        assert_eq!(agent.record().fenced.is_some(), fenced);
    }
    // One that was frozen through all of it has no time left.
    let mut agent = Agent::script(TREE, |_| ());
    let shared = Shared::new(&agent);
    let deadline = shared.set_end(100_000, 100 * MS);
    shared.hand(&agent.gate);
    freeze(&agent, true);
    sleep_until(deadline + 200 * MS);
    let thawed = boottime::now();
    freeze(&agent, false);
    let record = agent.end();
    is_fenced(&record);
    assert_eq!(record.signal, Some(9));
    assert!(boottime::now() - thawed < late(3_000));
}

#[test]
fn what_cannot_be_read_was_not_renewed_and_what_is_no_file_is_not_heard() {
    let mut agent = Agent::script("touch ready; exec sleep 1000", |_| ());
    let shared = Shared::new(&agent);
    shared.set(SOON);
    shared.hand(&agent.gate);
    shared.0.write_all_at(&[7; 9], 3).unwrap();
    // A peer with nothing beside its order, or with nonsense, is dropped; the fence stays.
    let empty = File::open("/dev/null").unwrap();
    for fds in [&[][..], &[shared.0.as_fd()][..], &[empty.as_fd()][..]] {
        let peer = agent.connect();
        peer.state();
        let request = wire::encode(&ShimRequest::Fence).unwrap();
        seqpacket::send(&peer.0, &request, fds).unwrap();
        assert!(peer.hear().is_none());
    }
    is_fenced(&agent.end());
}

#[test]
fn whoever_stopped_it_first_is_the_reason() {
    let mut agent = Agent::script(TREE, |o| o.stop_timeout = 500 * MS);
    let shared = Shared::new(&agent);
    shared.set(SOON);
    shared.hand(&agent.gate);
    agent.gate.say(&ShimRequest::Stop { asked: Asked::Stop });
    let record = agent.end();
    assert_eq!((record.exit().cause, record.fenced), (Cause::Stopped, None));
}
