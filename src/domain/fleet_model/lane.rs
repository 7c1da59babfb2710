//! A lane of the daemon: a launch on its way through T1, T2 and its gate, the steps that are not
//! written yet, and what it was told meanwhile.

use super::daemon::{Context, Daemon, Way};
use super::machine::Machine;
use super::store::Fail;
use crate::domain::event::Actor;
use crate::domain::exit::{Asked, Record};
use crate::domain::fence::Deadline;
use crate::domain::policy::{self, Verdict};
use crate::domain::reconcile::NOTHING_RAN;
use crate::domain::runner::{Change, Placement, Step};
use crate::domain::{Cause, Exit, Runner, RunnerId, State, Usage};
use std::collections::VecDeque;

/// How often a launch is begun again whose beginning was cut off.
pub(super) const AGAIN_MAX: u32 = 5;

/// How far a launch has come.
#[derive(Debug, Clone)]
pub(super) enum Saga {
    /// T1 is written; the order carries this deadline.
    Admitted(Option<Deadline>),
    /// The shim waits at its gate.
    Prepared,
    /// T2 is written.
    Written,
    /// It was launched, or not.
    Over,
}

/// What a lane is told.
#[derive(Debug)]
pub(super) enum Command {
    Ended(Box<Record>),
    End(Box<Exit>, Usage),
    Lost,
    Frozen(bool),
    Adopted,
    StopAgain,
    CloseGate,
    StopScope,
    LookUp,
    /// Somebody asks for it.
    Stop,
    Freeze(bool),
    /// Holds or budgets may want something of it.
    Look,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) runner: Runner,
    pub(super) saga: Saga,
    pub(super) backlog: VecDeque<Change>,
    pub(super) inbox: VecDeque<Command>,
    /// Its command was exec'd.
    runs: bool,
    look_up: bool,
    /// What its launch needs is kept, until its command may run.
    kept: bool,
    /// How often its launch was begun again whose beginning was cut off, of the most there are.
    pub(super) again: u32,
    /// How often it was begun again at all.
    pub(super) launches: u32,
}

impl Lane {
    pub(super) fn new(runner: Runner, saga: Saga, machine: &Machine) -> Self {
        Self {
            kept: machine.kept.contains(&runner.id),
            again: 0,
            launches: 0,
            runner,
            saga,
            backlog: VecDeque::new(),
            inbox: VecDeque::new(),
            runs: false,
            look_up: false,
        }
    }

    pub(super) fn is_launching(&self) -> bool {
        !matches!(self.saga, Saga::Over)
    }

    pub(super) fn is_over(&self) -> bool {
        !self.is_launching() && !self.runner.state().is_live() && self.backlog.is_empty()
    }

    /// Takes a step here; it is written when the store can be reached.
    fn step(&mut self, step: Step, c: &Context<'_>) {
        let at = c.wall();
        if self.runner.apply(&step, at).is_ok() {
            self.backlog.push_back(Change {
                id: self.runner.id,
                step,
                actor: Actor::host(),
                at,
            });
        }
    }

    fn end(&mut self, cause: Cause, message: &str, c: &Context<'_>) {
        let exit = Exit {
            cause,
            code: None,
            signal: None,
            message: message.to_owned(),
        };
        self.step(Step::End(exit, Usage::default()), c);
    }

    /// The next thing it does.
    pub(super) fn acts(&mut self, daemon: &mut Daemon, c: &mut Context<'_>) -> Result<(), String> {
        if self.is_launching() {
            self.launches(daemon, c);
            return Ok(());
        }
        if (self.look_up || !self.backlog.is_empty()) && c.dice.permille(600) {
            return self.flush(daemon, c);
        }
        match self.inbox.pop_front() {
            Some(command) => self.obeys(command, daemon, c),
            None => Ok(()),
        }
    }

    fn launches(&mut self, daemon: &mut Daemon, c: &mut Context<'_>) {
        let id = self.runner.id;
        let connected = daemon.connected && c.machine.agent;
        match self.saga.clone() {
            Saga::Admitted(deadline) => {
                let stop_timeout = self.runner.spec.limits.stop_timeout_usec();
                let asked = (daemon.gate, deadline, stop_timeout, c.dice.permille(80));
                let mut away = !connected;
                if connected && c.machine.prepare(id, asked) {
                    self.saga = Saga::Prepared;
                    if !c.dice.permille(20) {
                        return;
                    }
                    // Its answer is lost, and perhaps the order that is given for that, too.
                    away = true;
                    if !c.dice.permille(300) {
                        c.machine.abort(id);
                    }
                }
                if away && self.may_begin_again() {
                    // What there is of it shows in the next look.
                    daemon.recheck = true;
                    return self.has_begun();
                }
                self.has_begun();
                self.end(Cause::LaunchFailed, "It was refused.", c);
            }
            Saga::Prepared => {
                let step = Step::Run(Placement {
                    boot_id: c.machine.boot_id.clone(),
                    ..Placement::default()
                });
                let change = Change {
                    id,
                    step: step.clone(),
                    actor: Actor::host(),
                    at: c.wall(),
                };
                let written = c.write(daemon, |store, writer, now| {
                    store.apply(writer, &change, now)
                });
                if matches!(written, Some(Ok(()))) {
                    let _ = self.runner.apply(&step, change.at);
                    self.saga = Saga::Written;
                    self.throws_away(c.machine);
                    return;
                }
                if connected {
                    c.machine.abort(id);
                }
                self.has_begun();
                self.end(Cause::LaunchFailed, "The store did not take it.", c);
            }
            Saga::Written => {
                let no_exec = c.dice.permille(30);
                let gone = connected && c.machine.go(id, daemon.gate, no_exec);
                // The answer may be lost.
                self.runs = gone && !c.dice.permille(50);
                daemon.recheck |= !self.runs;
                self.has_begun();
            }
            Saga::Over => {}
        }
    }

    fn obeys(
        &mut self,
        command: Command,
        daemon: &mut Daemon,
        c: &mut Context<'_>,
    ) -> Result<(), String> {
        let (id, state) = (self.runner.id, self.runner.state());
        let agent = daemon.connected && c.machine.agent;
        match command {
            Command::Ended(record)
                if record.never_started && record.asked.is_none() && self.may_begin_again() =>
            {
                self.begins_again(daemon, c);
            }
            Command::End(exit, _)
                if exit.cause == Cause::LaunchFailed && self.may_begin_again() =>
            {
                self.begins_again(daemon, c);
            }
            Command::Ended(record) if record.never_started && self.runs => {}
            Command::End(exit, _) if exit.cause == Cause::LaunchFailed && self.runs => {}
            Command::End(exit, _) if exit.message == NOTHING_RAN && state != State::Starting => {
                daemon.recheck = true;
            }
            Command::Ended(record) => self.step(Step::End(record.exit(), record.usage), c),
            Command::End(exit, usage) => self.step(Step::End(*exit, usage), c),
            Command::Lost => self.end(Cause::SupervisorLost, "Its shim was killed.", c),
            Command::Frozen(true) if state == State::Running => self.step(Step::Freeze(None), c),
            Command::Frozen(false) if state == State::Frozen => self.step(Step::Thaw, c),
            Command::Frozen(_) => {}
            Command::Adopted => self.runs |= state != State::Starting,
            Command::StopAgain if agent => c.machine.stop(id, Asked::Stop, c.dice),
            Command::CloseGate if agent => c.machine.abort(id),
            Command::StopScope => {
                if c.machine.scopes.get(&id).is_some_and(|scope| scope.shim) {
                    return Err(format!("{id} is stopped over the head of its shim"));
                }
                if agent {
                    c.machine.stop_scope(id, c.dice);
                }
                daemon.recheck = true;
            }
            Command::LookUp => {
                self.look_up = true;
                return self.flush(daemon, c);
            }
            Command::Stop => self.stop(Asked::Stop, agent, c),
            Command::Freeze(yes) => self.freeze(yes, None, agent, c),
            Command::Look => self.look(agent, c),
            Command::StopAgain | Command::CloseGate => {}
        }
        Ok(())
    }

    /// Whether its launch, cut off before its command could run, is begun again.
    fn may_begin_again(&self) -> bool {
        self.kept && self.again < AGAIN_MAX && self.runner.state() == State::Starting
    }

    /// Begins the launch again of a runner of which nothing runs.
    fn begins_again(&mut self, daemon: &mut Daemon, c: &mut Context<'_>) {
        // Its project is asked for, and what the earlier beginning has left is removed.
        let answered = c.reaches() == Way::Answered;
        self.again += u32::from(answered);
        if !(answered && daemon.connected && c.machine.agent) {
            daemon.recheck = true;
            return;
        }
        c.machine.forget(self.runner.id);
        self.launches += 1;
        c.store.told.push("begun again");
        self.saga = Saga::Admitted(daemon.lease.deadline());
    }

    /// What is kept of its launch is needed no more.
    pub(super) fn throws_away(&mut self, machine: &mut Machine) {
        self.kept = false;
        machine.kept.remove(&self.runner.id);
    }

    /// Its beginning is over. That nothing ran was said of an earlier one: a new look tells of this one.
    fn has_begun(&mut self) {
        self.saga = Saga::Over;
        if self.launches > 0 {
            self.inbox.retain(|command| match command {
                Command::End(exit, _) => exit.cause != Cause::LaunchFailed,
                Command::Ended(record) => !record.never_started,
                _ => true,
            });
        }
    }

    fn stop(&mut self, asked: Asked, agent: bool, c: &mut Context<'_>) {
        if matches!(self.runner.state(), State::Running | State::Frozen) {
            self.step(Step::Stop, c);
            // The order may be lost.
            if agent && !c.dice.permille(50) {
                c.machine.stop(self.runner.id, asked, c.dice);
            }
        }
    }

    fn freeze(&mut self, yes: bool, by: Option<String>, agent: bool, c: &mut Context<'_>) {
        let from = if yes { State::Running } else { State::Frozen };
        let done = agent && self.runner.state() == from && c.machine.freeze(self.runner.id, yes);
        // The answer may be lost.
        if done && !c.dice.permille(50) {
            self.step(if yes { Step::Freeze(by) } else { Step::Thaw }, c);
        }
    }

    /// What holds, budgets and a drain want of it.
    fn look(&mut self, agent: bool, c: &mut Context<'_>) {
        if c.reaches() == Way::Lost {
            return;
        }
        let cordon = c.store.hosts.get(&c.machine.name);
        let cordon = cordon.and_then(|h| h.cordon.as_ref());
        let verdict = policy::drained(&self.runner, cordon, c.now).unwrap_or_else(|| {
            policy::verdict(&self.runner, &c.store.holds, &c.store.budgets, c.now)
        });
        match verdict {
            Verdict::GoOn => {}
            Verdict::Freeze(by) => self.freeze(true, Some(by), agent, c),
            Verdict::Keep(by) => self.step(Step::Keep(Some(by)), c),
            Verdict::Thaw => self.freeze(false, None, agent, c),
            Verdict::Stop(_) => self.stop(Asked::Budget, agent, c),
            Verdict::Drain(_) => self.stop(Asked::Stop, agent, c),
        }
    }

    /// Writes what waits, in order, until the store fails.
    fn flush(&mut self, daemon: &mut Daemon, c: &mut Context<'_>) -> Result<(), String> {
        let id = self.runner.id;
        if self.look_up {
            match c.reaches() {
                Way::Answered => {}
                _ => return Ok(()),
            }
            self.look_up = false;
            self.gives_way(id, c);
        }
        while let Some(change) = self.backlog.front().cloned() {
            match c.write(daemon, |store, writer, now| {
                store.apply(writer, &change, now)
            }) {
                Some(Ok(())) => drop(self.backlog.pop_front()),
                None | Some(Err(Fail::Fenced)) => return Ok(()),
                Some(Err(Fail::Refused(error))) => {
                    let lost =
                        |r: &Runner| r.exit.as_ref().map(|e| e.cause) == Some(Cause::HostLost);
                    if !c.store.rows.get(&id).is_some_and(|row| lost(&row.runner)) {
                        return Err(format!("a step was refused: {}", error.message));
                    }
                    self.gives_way(id, c);
                }
            }
        }
        Ok(())
    }

    /// If the store has ended it while this host was given up, that holds.
    fn gives_way(&mut self, id: RunnerId, c: &Context<'_>) {
        let row = c.store.rows.get(&id).map(|row| &row.runner);
        if let Some(row) = row.filter(|r| !r.state().is_live()) {
            self.runner = row.clone();
            self.backlog.clear();
        }
    }
}
