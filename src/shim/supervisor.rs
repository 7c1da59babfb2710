//! The poll loop: what happens outside goes into [`Life`], what it decides is done here.

use super::cgroup::{Cgroup, stop_signals};
use super::child::{self, Launching, Plan, Said};
use super::gate::Ready;
use super::life::{Action, Input, Life, Times, Why};
use super::manager::{self, Question};
use super::oom::OomWatch;
use super::peers::{GATE, Heard, Peers};
use super::record::Place;
use super::{signals, sys};
use crate::crash;
use crate::domain::exit::{Asked, LaunchError, Record};
use crate::domain::limits::OomPolicy;
use crate::domain::signal;
use crate::wire::{self, ShimNotice, ShimRequest, ShimState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, geteuid, kill_process, wait};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Between two looks at a scope that is being emptied, µs: at first, and at most.
const LOOK_FIRST: u64 = 1_000;
const LOOK_MOST: u64 = 100_000;
/// Until the next try after a failure (record, accept), µs.
const AGAIN: u64 = 1_000_000;

/// What woke us.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Peer(u64),
    Launch,
    Question,
    Memory,
}

/// One runner and everything about it.
pub(super) struct Supervisor {
    life: Life,
    plan: Option<Plan>,
    peers: Peers,
    signals: OwnedFd,
    place: Place,
    order: wire::ShimOrder,
    record: Record,
    cgroup: Option<Cgroup>,
    oom: OomWatch,
    oom_reset: bool,
    launching: Option<Launching>,
    main: Option<i32>,
    main_alive: bool,
    /// We sent SIGKILL ourselves.
    killed: bool,
    question: Option<Question>,
    going_down: bool,
    helper_ooms: u64,
    look_at: Option<u64>,
    look_gap: u64,
    accept_at: u64,
    /// Nobody is left: the record is to be written when the manager has answered.
    finished: bool,
    /// The record could not be written yet; next try.
    retry_at: Option<u64>,
}

impl Supervisor {
    pub(super) fn new(ready: Ready) -> Result<Self, Errno> {
        let Ready {
            order,
            plan,
            place,
            gate,
            listener,
            signals,
            oom_reset,
        } = ready;
        let peers = match Peers::new(gate, listener) {
            Ok(peers) => peers,
            Err(errno) => {
                place.give_up();
                return Err(errno);
            }
        };
        let record = Record {
            v: 1,
            id: order.id.clone(),
            boot_id: order.boot_id.clone(),
            never_started: false,
            launch_error: None,
            code: None,
            signal: None,
            core_dumped: false,
            asked: None,
            oom_killed: false,
            oom_policy: order.oom_policy,
            started_at: 0,
            ended_at: 0,
            usage: Default::default(),
        };
        let times = Times {
            runtime_max: order.runtime_max,
            stop_timeout: order.stop_timeout,
        };
        Ok(Self {
            life: Life::new(times),
            plan: Some(plan),
            peers,
            signals,
            place,
            order,
            record,
            cgroup: None,
            oom: OomWatch::new(None),
            oom_reset,
            launching: None,
            main: None,
            main_alive: false,
            killed: false,
            question: None,
            going_down: false,
            helper_ooms: 0,
            look_at: None,
            look_gap: LOOK_FIRST,
            accept_at: 0,
            finished: false,
            retry_at: None,
        })
    }

    /// Until the record is on disk.
    pub(super) fn run(mut self) {
        let state = ShimNotice::State(self.state());
        self.peers.send(GATE, &state);
        // Memory that the order took goes back before the long wait.
        sys::trim_memory();
        while !self.step() {}
        crash::point("shim.before-exit");
        self.peers.close();
    }

    fn step(&mut self) -> bool {
        let woken = self.wait();
        let now = monotonic();
        // Time first: a limit that passed while the scope was frozen came before the signals
        // that came with the thaw.
        self.take(Input::Tick);
        if self.oom.settle_at.is_some_and(|at| now >= at) {
            self.oom.settle(self.main.filter(|_| self.main_alive));
        }
        if let Some(question) = &mut self.question
            && now >= question.until
        {
            question.give_up();
        }
        for source in woken {
            match source {
                Source::Memory => self.oom.changed(now),
                Source::Launch => self.hear_child(),
                Source::Signals => self.take_signals(),
                Source::Question => self.question.iter_mut().for_each(Question::hear),
                Source::Listener => self.accept(now),
                Source::Peer(id) => self.hear_peer(id),
            }
        }
        if self.life.emptying() && self.look_at.is_none_or(|at| now >= at) {
            self.look(now);
        }
        self.finished && self.question.is_none() && self.end(now)
    }

    /// Sleeps until something happens or is due.
    fn wait(&self) -> Vec<Source> {
        let mut sources = vec![Source::Signals];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        let now = monotonic();
        if let Some(events) = &self.oom.events {
            add(Source::Memory, events.as_fd(), PollFlags::PRI);
        }
        if let Some(launching) = &self.launching {
            add(Source::Launch, launching.pipe.as_fd(), PollFlags::IN);
        }
        if let Some(question) = self.question.as_ref().filter(|q| q.open()) {
            add(Source::Question, question.pipe.as_fd(), PollFlags::IN);
        }
        for (id, socket) in self.peers.sockets() {
            add(Source::Peer(id), socket, PollFlags::IN);
        }
        if now >= self.accept_at {
            let listener: BorrowedFd<'_> = self.peers.listener();
            add(Source::Listener, listener, PollFlags::IN);
        }
        let due = [
            self.life.next(),
            self.oom.settle_at,
            self.question.as_ref().map(|q| q.until),
            self.look_at.filter(|_| self.life.emptying()),
            self.retry_at,
            Some(self.accept_at).filter(|at| *at > now),
        ];
        let timeout = due
            .into_iter()
            .flatten()
            .min()
            .map(|at| timespec(at.saturating_sub(now)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {
                let ready = fds.iter().map(|fd| !fd.revents().is_empty());
                sources
                    .into_iter()
                    .zip(ready)
                    .filter_map(|(s, r)| r.then_some(s))
                    .collect()
            }
            Err(_) => Vec::new(),
        }
    }

    fn take(&mut self, input: Input) {
        for action in self.life.take(monotonic(), input) {
            match action {
                Action::Launch => self.launch(),
                Action::Terminate => {
                    crash::point("shim.stopping");
                    self.signal_all(&stop_signals(self.order.kill_signal));
                    self.look_gap = LOOK_FIRST;
                    self.look_at = None;
                }
                Action::Kill => {
                    self.look_gap = LOOK_FIRST;
                    self.look_at = None;
                }
                Action::AskManager => match Question::ask(monotonic()) {
                    Ok(question) => self.question = Some(question),
                    Err(_) => self.going_down = manager::goes_down(""),
                },
                Action::Finish => self.finished = true,
            }
        }
    }

    fn launch(&mut self) {
        crash::point("shim.go-received");
        let cgroup = Cgroup::open(&self.order.cgroup_root, &self.order.cgroup);
        let launched = cgroup.map_err(|error| LaunchError {
            step: "cgroup".to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
            message: error.to_string(),
        });
        let launched = launched.and_then(|cgroup| {
            self.oom = OomWatch::new(cgroup.memory_events());
            self.cgroup = Some(cgroup);
            match &self.plan {
                Some(plan) => {
                    let order = &self.order;
                    child::launch(plan, &order.identifier, &order.cgroup, self.oom_reset)
                }
                None => Err(child::failed("start", Errno::ALREADY, "launched already")),
            }
        });
        // Command and environment are the child's alone from here on.
        self.plan = None;
        sys::trim_memory();
        match launched {
            Ok((pid, launching)) => {
                self.main = Some(pid);
                self.main_alive = true;
                self.launching = Some(launching);
                drop_capabilities();
            }
            Err(error) => {
                self.failed(error);
                self.take(Input::MainEnded);
            }
        }
    }

    fn failed(&mut self, error: LaunchError) {
        self.peers.tell(&ShimNotice::LaunchFailed(error.clone()));
        self.record.launch_error = Some(error);
    }

    fn hear_child(&mut self) {
        match self.launching.as_mut().map(Launching::hear) {
            None | Some(Said::Nothing) => return,
            Some(Said::Started) => {
                self.record.started_at = realtime();
                self.take(Input::Started);
                if let Some(pid) = self.main {
                    self.peers.tell(&ShimNotice::Started { pid: pid as u32 });
                }
            }
            Some(Said::Failed(error)) => self.failed(error),
        }
        self.launching = None;
    }

    fn take_signals(&mut self) {
        let arrived = signals::read(&self.signals);
        // A stop before the deaths that it brought about.
        for signal in &arrived {
            if signal.stops(self.order.kill_signal) {
                let same = signal.number == self.order.kill_signal;
                let spread = same && manager::is_manager(signal.pid);
                self.take(Input::Signalled { spread });
            }
        }
        if arrived.iter().any(|s| s.number == Signal::CHILD.as_raw()) {
            self.reap();
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let by_kill = status.terminating_signal() == Some(Signal::KILL.as_raw());
            if self.main == Some(pid) && self.main_alive {
                // What it had to say about its start is in the pipe by now.
                self.hear_child();
                crash::point("shim.main-reaped");
                self.main_alive = false;
                if self.record.launch_error.is_none() {
                    self.record.code = status.exit_status();
                    self.record.signal = status.terminating_signal();
                    self.record.core_dumped = status.signaled() && status.as_raw() & 0x80 != 0;
                    self.record.oom_killed = by_kill && !self.killed && self.oom.unexplained();
                }
                self.take(Input::MainEnded);
            } else if self.question.as_ref().is_some_and(|q| q.pid == pid)
                && let Some(mut question) = self.question.take()
            {
                self.going_down = question.goes_down();
                if by_kill && !question.given_up && self.oom.unexplained() {
                    self.oom.account_for_one();
                    self.helper_ooms += 1;
                }
            }
            self.look_at = None;
        }
    }

    fn accept(&mut self, now: u64) {
        let mut greeting = vec![ShimNotice::State(self.state())];
        if self.retry_at.is_some() {
            greeting.push(self.ended(false));
        }
        if self.peers.accept(&greeting).is_err() {
            self.accept_at = now.saturating_add(AGAIN);
        }
    }

    fn hear_peer(&mut self, id: u64) {
        match self.peers.hear(id) {
            Heard::Nothing => {}
            Heard::Gone => {
                if id == GATE && self.life.gated() {
                    self.take(Input::GateClosed);
                }
            }
            Heard::Request(request) => {
                if !self.obey(id, request) {
                    self.peers.drop_peer(id);
                    if id == GATE && self.life.gated() {
                        self.take(Input::GateClosed);
                    }
                }
            }
        }
    }

    /// `false`: this is not for this place or time.
    fn obey(&mut self, id: u64, request: ShimRequest) -> bool {
        match request {
            ShimRequest::Order => return false,
            ShimRequest::Go => {
                if id != GATE || !self.life.gated() {
                    return false;
                }
                self.take(Input::Go);
            }
            ShimRequest::Stop { asked } => self.take(Input::Stop(asked)),
            ShimRequest::Kill { signal } => match signal::check(signal) {
                Ok(number) => {
                    self.signal_all(&sys::signal_from(number).into_iter().collect::<Vec<_>>());
                }
                Err(_) => return false,
            },
            ShimRequest::Limits {
                runtime_max,
                stop_timeout,
                kill_signal,
            } => {
                if signal::check(kill_signal).is_err() {
                    return false;
                }
                self.order.kill_signal = kill_signal;
                self.take(Input::Limits(Times {
                    runtime_max,
                    stop_timeout,
                }));
            }
            ShimRequest::Query => {
                let state = ShimNotice::State(self.state());
                self.peers.send(id, &state);
            }
        }
        true
    }

    fn state(&self) -> ShimState {
        ShimState {
            v: wire::VERSION,
            id: self.order.id.clone(),
            gated: self.life.gated(),
            pid: self.main.map(|pid| pid as u32),
            asked: self.asked(),
        }
    }

    /// What stopped it; for a signal, as far as it is known by now.
    fn asked(&self) -> Option<Asked> {
        Some(match self.life.why()? {
            Why::Known(asked) => asked,
            Why::Signal if self.going_down => Asked::Shutdown,
            Why::Signal if self.order.oom_policy == Some(OomPolicy::Stop) && self.oom.any() => {
                Asked::Oom
            }
            Why::Signal => Asked::Manager,
        })
    }

    fn helper(&self) -> Option<i32> {
        self.question.as_ref().map(|q| q.pid)
    }

    fn signal_all(&mut self, signals: &[Signal]) {
        self.killed |= self.main_alive && signals.contains(&Signal::KILL);
        let mut done = BTreeSet::new();
        if let Some(cgroup) = &self.cgroup {
            cgroup.signal(signals, self.helper(), &mut done);
        }
        // A login session may have moved the main process elsewhere: it stays ours, and its
        // number is its own until we reap it.
        if let Some(main) = self
            .main
            .filter(|pid| self.main_alive && !done.contains(pid))
            && let Some(pid) = Pid::from_raw(main)
        {
            for signal in signals {
                let _ = kill_process(pid, *signal);
            }
        }
    }

    /// Is anybody left? If so and the time is up, SIGKILL.
    fn look(&mut self, now: u64) {
        let helper = self.helper();
        let left = self.cgroup.as_ref().map(|c| c.members(helper));
        match left {
            None => self.take(Input::Empty),
            Some(Ok(left)) if left.is_empty() => self.take(Input::Empty),
            Some(_) if self.life.killing() => self.signal_all(&[Signal::KILL]),
            Some(_) => {}
        }
        self.look_at = Some(now.saturating_add(self.look_gap));
        self.look_gap = (self.look_gap * 2).min(LOOK_MOST);
    }

    /// Writes the record; `false`: not yet.
    fn end(&mut self, now: u64) -> bool {
        let written = match self.retry_at {
            None => {
                self.complete();
                crash::point("shim.before-record");
                self.place.write(&self.record)
            }
            Some(at) if now < at => return false,
            Some(_) => self.place.write_again(&self.record),
        };
        let first_failure = written.is_err() && self.retry_at.is_none();
        if written.is_ok() || first_failure {
            let ended = self.ended(written.is_ok());
            self.peers.tell(&ended);
        }
        self.retry_at = written.is_err().then(|| now.saturating_add(AGAIN));
        written.is_ok()
    }

    fn complete(&mut self) {
        self.record.never_started = !self.life.launched();
        self.record.asked = self.asked();
        self.record.ended_at = realtime();
        if let Some(cgroup) = &self.cgroup {
            self.record.usage = cgroup.usage(self.helper_ooms);
        }
    }

    fn ended(&self, written: bool) -> ShimNotice {
        ShimNotice::Ended {
            record: Box::new(self.record.clone()),
            written,
        }
    }
}

/// After the fork the shim signals, and writes one file in a folder of root's.
fn drop_capabilities() {
    if let (true, Ok(have)) = (geteuid().is_root(), capabilities(None)) {
        let keep = CapabilitySet::KILL | CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE;
        let keep = have.permitted & keep;
        let sets = CapabilitySets {
            effective: keep,
            permitted: keep,
            inheritable: CapabilitySet::empty(),
        };
        let _ = set_capabilities(None, sets);
    }
}

fn monotonic() -> u64 {
    usec(clock_gettime(ClockId::Monotonic))
}

fn realtime() -> u64 {
    usec(clock_gettime(ClockId::Realtime))
}

fn usec(time: Timespec) -> u64 {
    (time.tv_sec as u64)
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec as u64 / 1_000)
}

/// Rounded up, so that what is due is due when we wake.
fn timespec(usec: u64) -> Timespec {
    let usec = usec.min(86_400_000_000).saturating_add(1);
    Timespec {
        tv_sec: (usec / 1_000_000) as i64,
        tv_nsec: (usec % 1_000_000 * 1_000) as _,
    }
}
