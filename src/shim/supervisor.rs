//! The poll loop: what happens outside goes into [`Life`], what it decides is done here.

mod clock;
mod ending;
mod start;
mod talk;

use super::cgroup::{Cgroup, stop_signals};
use super::child::{Launching, Plan};
use super::fence::Fence;
use super::gate::Ready;
use super::inputs::Vault;
use super::life::{Action, Input, Life, Times};
use super::manager::{self, Question};
use super::oom::OomWatch;
use super::output::Output;
use super::peers::{GATE, Peers};
use super::record::Place;
use super::{signals, sys};
use crate::crash;
use crate::domain::exit::Record;
use crate::domain::limits::OomPolicy;
use crate::wire::{self, ShimNotice};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, wait};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Between two looks at a scope that is being emptied, µs: at first, and at most.
const LOOK_FIRST: u64 = 1_000;
const LOOK_MOST: u64 = 100_000;
/// Until the next try after a failure (record, accept), µs.
const AGAIN: u64 = 1_000_000;

/// What woke us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Fence,
    Listener,
    Peer(u64),
    Launch,
    Question,
    Memory,
    Output,
}

/// One runner and everything about it.
pub(super) struct Supervisor {
    life: Life,
    plan: Option<Plan>,
    vault: Option<Vault>,
    /// Where its output goes into a log file.
    output: Option<Output>,
    peers: Peers,
    signals: OwnedFd,
    place: Place,
    order: wire::ShimOrder,
    /// The stop signal at launch, which the scope keeps.
    launch_signal: i32,
    record: Record,
    cgroup: Option<Cgroup>,
    oom: OomWatch,
    /// When it stops by itself, wherever everybody else is.
    fence: Fence,
    /// For how long the host had been away from the store by then, µs.
    away: u64,
    oom_score: i32,
    launching: Option<Launching>,
    main: Option<i32>,
    main_alive: bool,
    /// We sent SIGKILL ourselves.
    killed: bool,
    question: Option<Question>,
    going_down: bool,
    helper_ooms: u64,
    /// Children outside the scope that got their stop signal; each until it is reaped.
    told: BTreeSet<i32>,
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
            output,
            place,
            gate,
            listener,
            signals,
            oom_score,
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
            user: !rustix::process::geteuid().is_root(),
            started_at: 0,
            ended_at: 0,
            usage: Default::default(),
            output_lost: 0,
            fenced: None,
        };
        let times = Times {
            runtime_max: order.runtime_max,
            stop_timeout: order.stop_timeout,
        };
        Ok(Self {
            life: Life::new(times),
            plan: Some(plan),
            vault: None,
            output,
            peers,
            signals,
            place,
            launch_signal: order.kill_signal,
            order,
            record,
            cgroup: None,
            oom: OomWatch::new(None),
            fence: Fence::default(),
            away: 0,
            oom_score,
            launching: None,
            main: None,
            main_alive: false,
            killed: false,
            question: None,
            going_down: false,
            helper_ooms: 0,
            told: BTreeSet::new(),
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
        let now = clock::monotonic();
        // What was exec'd in time did not hang.
        self.hear_child();
        // Time first: a limit that passed while the scope was frozen came before the signals
        // that came with the thaw.
        self.take(Input::Tick);
        if woken.contains(&Source::Fence)
            && let Some(due) = self.fence.due()
        {
            self.take_fence(due);
        }
        if self.oom.settle_at.is_some_and(|at| now >= at) {
            let main = self.main.filter(|_| self.main_alive);
            if self.oom.settle(main) {
                match self.order.oom_policy {
                    Some(OomPolicy::Stop) => self.take(Input::Oom { kill: false }),
                    // Where the kernel has done it already nothing is left to kill.
                    Some(OomPolicy::Kill) => self.take(Input::Oom { kill: true }),
                    Some(OomPolicy::Continue) | None => {}
                }
            }
        }
        if let Some(question) = &mut self.question
            && now >= question.until
        {
            question.give_up();
        }
        let output = woken.contains(&Source::Output);
        for source in woken {
            match source {
                Source::Memory => self.oom.changed(now),
                // It was first.
                Source::Fence => {}
                // Last of all: a disk may keep us waiting.
                Source::Output => {}
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
        if output {
            self.take_output();
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
        let now = clock::monotonic();
        if let Some(timer) = self.fence.timer() {
            add(Source::Fence, timer, PollFlags::IN);
        }
        if let Some(events) = &self.oom.events {
            add(Source::Memory, events.as_fd(), PollFlags::PRI);
        }
        if let Some(launching) = &self.launching {
            add(Source::Launch, launching.pipe.as_fd(), PollFlags::IN);
        }
        if let Some(question) = self.question.as_ref().filter(|q| q.open()) {
            add(Source::Question, question.pipe.as_fd(), PollFlags::IN);
        }
        if let Some(pipe) = self.output.as_ref().and_then(Output::pipe) {
            add(Source::Output, pipe, PollFlags::IN);
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
            .map(|at| clock::timespec(at.saturating_sub(now)));
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
        for action in self.life.take(clock::monotonic(), input) {
            match action {
                Action::Launch => self.launch(),
                Action::Terminate => {
                    crash::point("shim.stopping");
                    self.signal_all(&stop_signals(self.order.kill_signal));
                    self.told.extend(self.main);
                    self.look_gap = LOOK_FIRST;
                    self.look_at = None;
                }
                Action::Kill => {
                    self.hangs();
                    self.look_gap = LOOK_FIRST;
                    self.look_at = None;
                }
                Action::AskManager => match Question::ask(clock::monotonic()) {
                    Ok(question) => self.question = Some(question),
                    Err(_) => self.going_down = manager::goes_down(""),
                },
                Action::Finish => self.finished = true,
            }
        }
    }

    fn take_signals(&mut self) {
        let arrived = signals::read(&self.signals);
        // A stop before the deaths that it brought about.
        for signal in &arrived {
            if signal.stops(&[self.launch_signal, self.order.kill_signal]) {
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
            self.told.remove(&pid);
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
}
