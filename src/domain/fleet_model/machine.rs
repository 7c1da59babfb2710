//! A machine as it really is: cgroups, shims, the agent, the file of the self-fence, exit records. All
//! times are its own CLOCK_BOOTTIME. What is here is done by no pure function of ours: it is what the
//! agent and the shims do, told as briefly as it can be.

use super::daemon::Daemon;
use super::dice::Dice;
use crate::domain::exit::{Asked, LaunchError, Record, Usage};
use crate::domain::fence::{Fence, SLACK};
use crate::domain::reconcile::{self, Observed};
use crate::domain::{Cause, RunnerId};
use std::collections::{BTreeMap, BTreeSet};

/// What stands in the file that all shims look at.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Term {
    pub(super) stop_at: u64,
    pub(super) gone_by: u64,
    pub(super) set_at: u64,
}

impl Term {
    pub(super) fn has_passed(self, now: u64) -> bool {
        self.stop_at > 0 && self.stop_at <= now
    }
}

/// A runner's cgroup. It is there while something is in it.
#[derive(Debug)]
pub(super) struct Scope {
    /// The connection that holds its gate; `None` = it was opened.
    pub(super) gate: Option<u64>,
    pub(super) shim: bool,
    /// Its shim is of a release that knows of no fence.
    pub(super) old: bool,
    /// The deadline that the shim has seen last; 0 = none.
    pub(super) armed: u64,
    /// The deadline that it has missed.
    pub(super) missed: Option<Term>,
    pub(super) frozen: bool,
    pub(super) stop_timeout: u64,
    pub(super) asked: Option<Asked>,
    /// When the stop is over.
    pub(super) gone_at: Option<u64>,
    /// Nobody was there to keep the fence when it was to be kept: see the exceptions in [`super`].
    pub(super) unkept: bool,
    /// It has no shim, and the agent stops it: when that is over.
    pub(super) cleared_at: Option<u64>,
    /// Its host slept past the moment by which it should have been gone: until when it must be.
    pub(super) overslept: Option<u64>,
}

/// What has become of a runner, whoever knows of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    pub(super) execs: u32,
    /// What its shim has seen and written down.
    pub(super) witnessed: Option<Cause>,
    /// The boot in which its shim was started.
    pub(super) boot: u64,
    /// Its shim was killed.
    pub(super) orphaned: bool,
    /// Its record was damaged.
    pub(super) damaged: bool,
}

/// What the agent tells the daemon by itself.
#[derive(Debug)]
pub(super) enum Notice {
    Ended(RunnerId, Box<Record>),
    Lost(RunnerId),
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) boot: u64,
    pub(super) boot_id: String,
    pub(super) booted_at: u64,
    /// How much faster its clock goes than the database's, in millionths.
    pub(super) rate: i64,
    /// How far its wall clock is ahead of the database's.
    pub(super) skew: i64,
    pub(super) clock: u64,
    pub(super) on: bool,
    pub(super) cut: bool,
    /// It is suspended: its clock goes on, and nothing else.
    pub(super) asleep: bool,
    /// It is being shut down; its daemon is gone.
    pub(super) stopping: bool,
    pub(super) agent: bool,
    pub(super) file: Term,
    pub(super) missed: Term,
    pub(super) scopes: BTreeMap<RunnerId, Scope>,
    pub(super) records: BTreeMap<RunnerId, Option<Box<Record>>>,
    pub(super) lives: BTreeMap<RunnerId, Life>,
    pub(super) notices: Vec<Notice>,
    /// Launches of which its disk keeps what is needed to begin them again.
    pub(super) kept: BTreeSet<RunnerId>,
    pub(super) cap: Option<u32>,
    pub(super) fence: Option<Fence>,
    pub(super) daemon: Option<Daemon>,
}

impl Machine {
    pub(super) fn new(name: &str, now: u64, dice: &mut Dice) -> Self {
        const HOUR: u64 = 3_600_000_000;
        let mut machine = Self {
            name: name.to_owned(),
            boot: 0,
            boot_id: String::new(),
            booted_at: 0,
            rate: dice.below(801) as i64 - 400,
            skew: dice.below(4 * HOUR) as i64 - 2 * HOUR as i64,
            clock: 0,
            on: false,
            cut: false,
            asleep: false,
            stopping: false,
            agent: false,
            file: Term::default(),
            missed: Term::default(),
            scopes: BTreeMap::new(),
            records: BTreeMap::new(),
            lives: BTreeMap::new(),
            notices: Vec::new(),
            kept: BTreeSet::new(),
            cap: dice.one(&[None, Some(2), Some(4), Some(6)]),
            fence: None,
            daemon: None,
        };
        machine.boots(now);
        machine
    }

    pub(super) fn boots(&mut self, now: u64) {
        self.boot += 1;
        self.boot_id = format!("{}-{}", self.name, self.boot);
        // Its clock begins anew.
        (self.on, self.booted_at, self.clock) = (true, now, 1);
        (self.file, self.missed) = (Term::default(), Term::default());
    }

    /// The power fails: nobody sees how anything ended.
    pub(super) fn crashes(&mut self) {
        (self.on, self.agent, self.daemon) = (false, false, None);
        (self.asleep, self.stopping) = (false, false);
        self.scopes.clear();
        self.notices.clear();
    }

    /// Every shim is told, and writes it down.
    pub(super) fn shuts_down(&mut self) {
        self.agent = false;
        for id in self.ids() {
            if let Some(scope) = self.scopes.get_mut(&id) {
                scope.asked.get_or_insert(Asked::Shutdown);
            }
            self.is_over(id, Ending::Signal);
        }
        self.crashes();
    }

    pub(super) fn ids(&self) -> Vec<RunnerId> {
        self.scopes.keys().copied().collect()
    }

    /// Commands that really run or stand still, and hold what they hold.
    pub(super) fn running(&self) -> impl Iterator<Item = (&RunnerId, &Scope)> {
        self.scopes.iter().filter(|(_, s)| s.gate.is_none())
    }

    /// Time goes on: shims stop at their deadline, and stops come to their end.
    pub(super) fn ticks(&mut self, now: u64, dice: &mut Dice) {
        if !self.on {
            return;
        }
        let before = self.clock;
        let gone = i128::from(now - self.booted_at) * i128::from(1_000_000 + self.rate);
        self.clock = 1 + (gone / 1_000_000) as u64;
        if self.asleep {
            return;
        }
        let (clock, agent, file, missed) = (self.clock, self.agent, self.file, self.missed);
        let mut over = Vec::new();
        for (id, scope) in &mut self.scopes {
            let due = scope.due(file, missed);
            if agent && scope.frozen && due.has_passed(clock) {
                scope.frozen = false;
            }
            if !agent && (scope.frozen || !scope.shim) && due.gone_by > 0 && due.gone_by <= clock {
                scope.unkept = true;
            }
            if !scope.shim || scope.frozen {
                continue;
            }
            if scope.armed > 0 && scope.missed.is_none() {
                if due.has_passed(clock) {
                    scope.missed = Some(due);
                    // The shim wakes late, and the killed tree takes its time: all that may be missed.
                    let wakes = dice.up_to(SLACK / 2);
                    let begun = due.stop_at.max(before) + wakes;
                    let left = SLACK - wakes.min(begun.saturating_sub(due.gone_by));
                    let dies = dice.up_to(left - 1);
                    let whole = begun + scope.stop_timeout;
                    let stopped = whole.min(due.gone_by.max(begun)) + dies;
                    // At its gate there is nothing to stop.
                    let stopped = if scope.gate.is_some() { 0 } else { stopped };
                    scope.gone_at = Some(scope.gone_at.map_or(stopped, |at| at.min(stopped)));
                } else {
                    scope.armed = due.stop_at;
                }
            }
            if scope.gone_at.is_some_and(|at| at <= clock) {
                over.push(*id);
            }
        }
        for id in over {
            self.is_over(id, Ending::Signal);
        }
        if agent {
            self.agent_clears(dice);
        }
    }

    /// Whether something of it can run now: a machine that sleeps does nothing.
    pub(super) fn is_awake(&self) -> bool {
        self.on && !self.asleep
    }

    /// It goes on where it was; what its runners have slept through is done now.
    pub(super) fn wakes(&mut self) {
        if !std::mem::take(&mut self.asleep) {
            return;
        }
        for scope in self.scopes.values_mut() {
            let gone_by = scope.due(self.file, self.missed).gone_by;
            if gone_by > 0 && gone_by <= self.clock {
                scope.overslept = Some(self.clock + SLACK);
            }
        }
    }

    /// The tree is gone: the shim writes down what it knows.
    pub(super) fn is_over(&mut self, id: RunnerId, how: Ending) {
        let Some(scope) = self.scopes.remove(&id) else {
            return;
        };
        if !scope.shim {
            return;
        }
        let mut record = blank(&self.boot_id);
        record.asked = scope.asked;
        match how {
            _ if scope.gate.is_some() => record.never_started = true,
            Ending::Signal => record.signal = Some(15),
            Ending::Exit(code) => record.code = Some(code),
            Ending::NoExec => {
                record.launch_error = Some(LaunchError {
                    step: "exec".to_owned(),
                    errno: 2,
                    message: "There is no such program.".to_owned(),
                });
            }
        }
        if let Some(missed) = scope.missed {
            record.asked.get_or_insert(Asked::Stop);
            record.fenced = Some(self.clock.saturating_sub(missed.set_at));
        }
        // Told independently of the verdict in `Record::exit`.
        let cause = match how {
            _ if record.never_started => Cause::LaunchFailed,
            Ending::NoExec => Cause::LaunchFailed,
            _ if scope.missed.is_some() => Cause::HostLost,
            _ if scope.asked == Some(Asked::Shutdown) => Cause::HostShutdown,
            _ if scope.asked == Some(Asked::Budget) => Cause::OverBudget,
            _ if scope.asked.is_some() => Cause::Stopped,
            Ending::Signal => Cause::Signal,
            Ending::Exit(0) => Cause::Success,
            Ending::Exit(_) => Cause::ExitCode,
        };
        self.lives.entry(id).or_default().witnessed = Some(cause);
        if self.agent {
            let told = Box::new(record.clone());
            self.notices.push(Notice::Ended(id, told));
        }
        self.records.insert(id, Some(Box::new(record)));
    }

    /// What the agent and its disk show.
    pub(super) fn inventory(&self) -> reconcile::World {
        let mut world = reconcile::World {
            boot_id: self.boot_id.clone(),
            ..reconcile::World::default()
        };
        for (id, scope) in &self.scopes {
            let seen: &mut Observed = world.runners.entry(*id).or_default();
            (seen.scope, seen.shim, seen.frozen) = (true, scope.shim, scope.frozen);
            seen.gated = scope.gate.is_some();
        }
        for (id, record) in &self.records {
            world.runners.entry(*id).or_default().record = Some(record.clone());
        }
        world
    }
}

impl Scope {
    /// The deadline that is meant for it, as far as it has one.
    pub(super) fn due(&self, file: Term, missed: Term) -> Term {
        match self.missed {
            Some(missed) => missed,
            None if (1..=missed.stop_at).contains(&self.armed) => missed,
            None if self.armed > 0 => file,
            None => Term::default(),
        }
    }
}

/// How a command came to its end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    Signal,
    Exit(i32),
    NoExec,
}

fn blank(boot_id: &str) -> Record {
    Record {
        v: 1,
        id: String::new(),
        boot_id: boot_id.to_owned(),
        never_started: false,
        launch_error: None,
        code: None,
        signal: None,
        core_dumped: false,
        asked: None,
        oom_killed: false,
        oom_policy: None,
        user: false,
        started_at: 0,
        ended_at: 0,
        usage: Usage::default(),
        output_lost: 0,
        fenced: None,
    }
}
