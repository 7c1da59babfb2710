//! The fleet, and what happens to it: one thing at a time, chosen by chance.

use super::boots::Copy;
use super::check::Checker;
use super::daemon::{Context, Daemon, Way};
use super::dice::Dice;
use super::faults::fence;
use super::lane::Command;
use super::machine::{Ending, Machine};
use super::store::{New, SESSION, Store, free_from};
use crate::domain::budget::Tokens;
use crate::domain::event::Actor;
use crate::domain::exit::Asked;
use crate::domain::fence::Fence;
use crate::domain::hold::{Hold, HoldScope};
use crate::domain::host::Cordon;
use crate::domain::runner::{Change, Step};
use crate::domain::{
    Cause, Exit, Limits, ProjectName, RunnerId, RunnerSpec, State, Timestamp, Usage,
};

pub(super) const SECOND: u64 = 1_000_000;
/// The database's clock when a walk begins.
const EPOCH: u64 = 1_790_000_000 * SECOND;

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) store: Store,
    pub(super) machines: Vec<Machine>,
    pub(super) checker: Checker,
    pub(super) projects: Vec<ProjectName>,
    pub(super) launched: u128,
    pub(super) connections: u64,
    /// Requests of daemons that are dead, on their way to the store.
    pub(super) ghosts: Vec<(Option<u64>, New)>,
    /// Last words of hosts that are shut down, on their way there.
    pub(super) words: Vec<(String, u64)>,
    pub(super) copies: Vec<Copy>,
    /// What was asked for with a request id, and may be asked for again.
    pub(super) asked: Vec<(u128, RunnerSpec)>,
    pub(super) steps: u64,
    pub(super) healed: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, u64::MAX);
        let projects: Vec<ProjectName> = ["p", "q", "r"].map(|n| n.parse().unwrap()).into();
        let machine = |name: &&str| Machine::new(name, EPOCH, &mut dice);
        Self {
            now: EPOCH,
            store: Store::new(&projects, Timestamp(EPOCH)),
            machines: ["h0", "h1", "h2"].iter().map(machine).collect(),
            checker: Checker::default(),
            projects,
            launched: 0,
            connections: 0,
            ghosts: Vec::new(),
            words: Vec::new(),
            copies: Vec::new(),
            asked: Vec::new(),
            steps: 0,
            healed: false,
        }
    }

    /// One thing happens, and what must be true is looked at.
    pub(super) fn step(&mut self, dice: &mut Dice) -> Result<(), String> {
        let span = match dice.below(1_000) {
            0..970 => SECOND / 10,
            970..997 => 2 * SECOND,
            _ => 25 * SECOND,
        };
        // Now and then nobody does anything for so long that every lease runs out, and every fence.
        let silence = if dice.below(2_000) == 0 {
            75 * SECOND
        } else {
            0
        };
        self.goes_on(silence + dice.below(span), dice)?;
        let at = dice.below(3) as usize;
        match dice.below(1_000) {
            0..860 => self.daemon_acts(at, dice)?,
            860..905 => self.runner_acts(at, dice),
            905..920 => self.operator_acts(at, dice),
            920..994 => self.comes_back(at, dice),
            _ => self.breaks(at, dice),
        }
        self.looks()?;
        self.steps += 1;
        if self.steps.is_multiple_of(64) {
            self.prunes();
        }
        Ok(())
    }

    /// Time passes, and at each moment from which on a silent host's slots may be given to others it
    /// is looked whether they are free.
    pub(super) fn goes_on(&mut self, span: u64, dice: &mut Dice) -> Result<(), String> {
        let end = self.now + span;
        loop {
            let due = self.store.hosts.values().filter_map(free_from);
            let due = due.filter(|at| (self.now + 1..end).contains(at)).min();
            self.now = due.unwrap_or(end);
            for machine in &mut self.machines {
                machine.ticks(self.now, dice);
            }
            match due {
                Some(_) => self.looks()?,
                None => return Ok(()),
            }
        }
    }

    pub(super) fn looks(&mut self) -> Result<(), String> {
        let now = Timestamp(self.now);
        self.checker.looks(&mut self.store, &self.machines, now)
    }

    pub(super) fn with<T>(
        &mut self,
        at: usize,
        dice: &mut Dice,
        act: impl FnOnce(&mut Daemon, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let machine = &mut self.machines[at];
        if machine.asleep {
            return None;
        }
        let mut daemon = machine.daemon.take()?;
        let mut context = Context {
            machine,
            store: &mut self.store,
            dice,
            now: Timestamp(self.now),
            healed: self.healed,
        };
        let done = act(&mut daemon, &mut context);
        self.machines[at].daemon = Some(daemon);
        Some(done)
    }

    fn daemon_acts(&mut self, at: usize, dice: &mut Dice) -> Result<(), String> {
        if self.machines[at].daemon.is_none() {
            return self.haunts(at, dice);
        }
        match dice.below(100) {
            0..22 => self.with(at, dice, |d, c| d.keeps_lease(c)).map(drop),
            22..30 => self.with(at, dice, |d, c| d.arms(c)).map(drop),
            30..38 => self.launches(at, dice),
            38..45 => self.with(at, dice, |d, c| d.admits(c)).map(drop),
            45..76 => {
                let moved = self.with(at, dice, |d, c| {
                    let which = c.dice.pick(d.lanes.len());
                    let id = which.and_then(|n| d.lanes.keys().nth(n).copied());
                    id.map_or(Ok(()), |id| d.moves(id, c))
                });
                return moved.unwrap_or(Ok(()));
            }
            76..84 => {
                let compared =
                    self.with(at, dice, |d, c| match d.recheck || c.dice.permille(200) {
                        true => d.compares(c),
                        false => Ok(()),
                    });
                return compared.unwrap_or(Ok(()));
            }
            84..90 => self.with(at, dice, |d, c| d.hears(c)).map(drop),
            90..92 => self.with(at, dice, |d, c| d.settles(c)).map(drop),
            92..94 => self.with(at, dice, |d, c| d.tidies_up(c)).map(drop),
            94..96 => self.with(at, dice, |d, c| d.turns(c)).map(drop),
            _ => self.tidies(at, dice),
        };
        Ok(())
    }

    /// What a daemon has sent before it died arrives.
    fn haunts(&mut self, at: usize, dice: &mut Dice) -> Result<(), String> {
        if dice.permille(100) {
            self.copy_asks(at, dice);
        } else if let Some(word) = self.words.pop() {
            self.is_told(&word);
        } else if let Some((epoch, new)) = self.ghosts.pop() {
            let _ = self.store.admit(epoch, &new, Timestamp(self.now));
            self.checker.saw("ghost");
        }
        Ok(())
    }

    fn launches(&mut self, at: usize, dice: &mut Dice) -> Option<()> {
        self.launched += 1;
        let id = RunnerId::from_uuid(uuid::Uuid::from_u128(self.launched));
        let stop_timeout = match dice.below(8) {
            0 | 1 => dice.below(60 * SECOND),
            2 | 3 => fence().longest_stop(),
            _ => dice.below(34 * SECOND),
        };
        let labels = dice
            .permille(300)
            .then(|| ("key".to_owned(), "a".to_owned()));
        let spec = RunnerSpec {
            project: dice.one(&self.projects),
            command: vec!["true".to_owned()],
            name: None,
            uid: 1000,
            user: "alice".to_owned(),
            working_directory: None,
            labels: labels.into_iter().collect(),
            limits: Limits {
                stop_timeout: Some(stop_timeout),
                ..Limits::default()
            },
            log_file_max: None,
            priority: dice.below(5) as i32 - 2,
            tokens: dice.permille(800).then(|| 5 + dice.below(60)),
            session: dice.permille(150).then(|| SESSION.to_owned()),
            placed: None,
        };
        let (mut key, mut spec) = (None, spec);
        if dice.permille(400) {
            // Whoever has no answer asks again, of this host or of another one.
            match dice.pick(self.asked.len()).filter(|_| dice.permille(600)) {
                Some(n) => {
                    let (first, same) = self.asked[n].clone();
                    (key, spec) = (Some(first), same);
                }
                None => {
                    key = Some(self.launched);
                    self.asked.push((self.launched, spec.clone()));
                    if self.asked.len() > 6 {
                        self.asked.remove(0);
                    }
                }
            }
        }
        let (queue, stop_timeout) = (dice.permille(300), spec.limits.stop_timeout_usec());
        self.with(at, dice, |d, c| {
            let fits = |fence: Fence| fence.check(stop_timeout).is_ok();
            if d.is_ready(c.machine) && c.machine.fence.is_none_or(fits) && d.asks.len() < 4 {
                d.asks.push(New {
                    id,
                    spec,
                    host: c.machine.name.clone(),
                    host_max: c.machine.cap,
                    queue,
                    key,
                    at: c.wall(),
                });
            }
        })
    }

    /// A peer looks who is away.
    fn tidies(&mut self, at: usize, dice: &mut Dice) -> Option<()> {
        let may = self.with(at, dice, |d, c| {
            d.may_tidy(c.machine) && c.reaches() != Way::Lost
        });
        if may == Some(true) {
            match dice.permille(500) {
                true => self.store.tidy(Timestamp(self.now)),
                false => self.store.give_back(Timestamp(self.now)),
            }
        }
        Some(())
    }

    fn runner_acts(&mut self, at: usize, dice: &mut Dice) {
        let machine = &mut self.machines[at];
        if machine.asleep {
            return;
        }
        let ids = machine.ids();
        let Some(id) = dice.pick(ids.len()).map(|n| ids[n]) else {
            return;
        };
        let order = match dice.below(100) {
            0..25 => {
                let scope = &machine.scopes[&id];
                if scope.gate.is_none() && !scope.frozen && scope.shim {
                    let code = dice.below(2) as i32;
                    machine.is_over(id, Ending::Exit(code));
                }
                return;
            }
            25..60 => {
                let most = dice.one(&[30, 90, 700]);
                let used = Tokens {
                    output: dice.below(most),
                    ..Tokens::default()
                };
                if !machine.cut && self.store.rows.contains_key(&id) {
                    self.store.report(id, used, Timestamp(self.now));
                }
                return;
            }
            60..65 => {
                // Somebody stops its unit behind our back.
                return machine.stop(id, Asked::Manager, dice);
            }
            65..72 => Command::Stop,
            72..80 => Command::Freeze(true),
            80..86 => Command::Freeze(false),
            _ => Command::Look,
        };
        let lane = machine.daemon.as_mut().and_then(|d| d.lanes.get_mut(&id));
        if let Some(lane) = lane {
            lane.inbox.push_back(order);
        }
    }

    fn operator_acts(&mut self, at: usize, dice: &mut Dice) {
        let now = Timestamp(self.now);
        let name = self.machines[at].name.clone();
        match dice.below(100) {
            0..30 => {
                let project = dice.one(&self.projects);
                if let Some(account) = self.store.projects.get_mut(&project) {
                    account.max = dice.one(&[None, Some(1), Some(3), Some(3), Some(5)]);
                }
            }
            30..45 => self.store.fleet_max = dice.one(&[None, None, Some(3), Some(7), Some(12)]),
            45..60 => {
                let which = dice.below(3) as usize;
                self.store.set_limit(which, 100 + dice.below(2_000), now);
            }
            60..75 => {
                let scope = match dice.below(3) {
                    0 => HoldScope::Fleet,
                    1 => HoldScope::Project(dice.one(&self.projects)),
                    _ => HoldScope::Label("key".to_owned(), "a".to_owned()),
                };
                self.store.holds.retain(|h| h.scope != scope);
                self.store.holds.push(Hold {
                    scope,
                    until: Some(now.plus_usec(dice.below(15 * SECOND))),
                    freeze: dice.permille(500),
                    reason: String::new(),
                    actor: Actor::host(),
                    set_at: now,
                });
            }
            75..80 => self.store.holds.clear(),
            80..88 => {
                let cordon = dice.permille(300).then(|| Cordon {
                    reason: String::new(),
                    actor: Actor::host(),
                    at: now,
                    drain_until: dice.permille(200).then(|| now.plus_usec(5 * SECOND)),
                });
                self.store.cordon(&name, cordon);
            }
            88..94 => self.cancels(1),
            94..97 => self.copy_asks(at, dice),
            // An operator's word, which may be wrong.
            _ => self.store.forget(&name, now),
        }
    }

    pub(super) fn cancels(&mut self, most: usize) {
        let rows = self.store.rows.values().map(|row| &row.runner);
        let waiting = rows.filter(|r| r.state() == State::Queued).map(|r| r.id);
        let waiting: Vec<_> = waiting.take(most).collect();
        for id in waiting {
            let exit = Exit {
                cause: Cause::Cancelled,
                code: None,
                signal: None,
                message: String::new(),
            };
            let change = Change {
                id,
                step: Step::End(exit, Usage::default()),
                actor: Actor::host(),
                at: Timestamp(self.now),
            };
            let _ = self.store.take(&change, change.at);
        }
    }

    /// Forgets what is over and has left nothing.
    fn prunes(&mut self) {
        let machines = &mut self.machines;
        self.store.rows.retain(|id, row| {
            let machine = machines.iter_mut().find(|m| m.name == row.runner.host);
            let Some(machine) = machine.filter(|_| row.runner.state() == State::Ended) else {
                return true;
            };
            let left = machine.scopes.contains_key(id) || machine.records.contains_key(id);
            let known = machine.daemon.as_ref().is_some_and(|d| d.knows(*id));
            if !left && !known {
                machine.lives.remove(id);
                machine.kept.remove(id);
            }
            left || known
        });
    }
}
