//! A daemon: its lease, its lanes and its reconciliation. What it decides is decided by the functions
//! that the engine calls; the order of its steps is the engine's, and it may die between any two.

use super::compare::Look;
use super::dice::Dice;
use super::lane::{AGAIN_MAX, Command, Lane, Saga};
use super::machine::{Machine, Notice};
use super::store::{Fail, New, Store, TTL, Verdict};
use crate::domain::fence::Deadline;
use crate::domain::lease::Lease;
use crate::domain::reconcile::Todo;
use crate::domain::runner::{Change, Step};
use crate::domain::{Cause, Exit, Runner, RunnerId, Timestamp, Usage};
use std::collections::BTreeMap;

/// What a daemon can get at.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) machine: &'a mut Machine,
    pub(super) store: &'a mut Store,
    pub(super) dice: &'a mut Dice,
    /// The store's clock.
    pub(super) now: Timestamp,
    /// Nothing is lost on its way any more.
    pub(super) healed: bool,
}

/// What becomes of a request to the store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Way {
    Lost,
    /// It is done, and nobody hears of it.
    Unanswered,
    Answered,
}

/// A request for the lease that is under way.
#[derive(Debug)]
struct Request {
    before: u64,
    promise: Option<u64>,
    epoch: Option<u64>,
    kept_out: bool,
    answer: Option<Answer>,
}

#[derive(Debug)]
enum Answer {
    Joined(u64),
    Renewed,
    Fenced,
    Refused,
}

#[derive(Debug)]
pub(super) struct Daemon {
    /// Its connection to the agent, which holds the gates of its launches.
    pub(super) gate: u64,
    pub(super) connected: bool,
    pub(super) lease: Lease,
    pub(super) epoch: Option<u64>,
    pub(super) adopted: bool,
    pub(super) adopted_once: bool,
    pub(super) recheck: bool,
    pub(super) off: bool,
    /// It was refused when it wanted to join.
    kept_out: bool,
    request: Option<Request>,
    /// What the agent has answered to an order of the fence: of which epoch, and whether it is kept.
    pub(super) told: Option<(Option<u64>, Option<Deadline>, bool)>,
    /// Launches whose admission is under way.
    pub(super) asks: Vec<New>,
    /// Those that were admitted after their caller was sent away.
    pub(super) doubts: Vec<RunnerId>,
    pub(super) lanes: BTreeMap<RunnerId, Lane>,
    /// A comparison that has begun.
    pub(super) look: Option<Look>,
    pub(super) chores: Vec<Todo>,
}

impl Context<'_> {
    /// This host's wall clock, which may be hours from the store's.
    pub(super) fn wall(&self) -> Timestamp {
        Timestamp(self.now.0.saturating_add_signed(self.machine.skew))
    }

    pub(super) fn reaches(&mut self) -> Way {
        match self.dice.below(100) {
            _ if self.machine.cut => Way::Lost,
            _ if self.healed => Way::Answered,
            0..3 => Way::Lost,
            3..6 => Way::Unanswered,
            _ => Way::Answered,
        }
    }

    /// A transaction of this host. `None` = no answer.
    pub(super) fn write<T>(
        &mut self,
        daemon: &mut Daemon,
        work: impl FnOnce(&mut Store, (&str, Option<u64>), Timestamp) -> Result<T, Fail>,
    ) -> Option<Result<T, Fail>> {
        let way = self.reaches();
        if way == Way::Lost {
            return None;
        }
        let done = work(self.store, (&self.machine.name, daemon.epoch), self.now);
        if way == Way::Unanswered {
            return None;
        }
        if matches!(done, Err(Fail::Fenced)) {
            daemon.is_fenced(daemon.epoch);
        }
        Some(done)
    }
}

impl Daemon {
    pub(super) fn new(machine: &Machine, gate: u64) -> Self {
        Self {
            gate,
            connected: false,
            lease: Lease::new(TTL, machine.fence),
            epoch: None,
            adopted: false,
            adopted_once: false,
            recheck: true,
            off: false,
            kept_out: false,
            request: None,
            told: None,
            asks: Vec::new(),
            doubts: Vec::new(),
            lanes: BTreeMap::new(),
            look: None,
            chores: Vec::new(),
        }
    }

    fn is_fenced(&mut self, epoch: Option<u64>) {
        if self.epoch.is_some() && self.epoch == epoch {
            self.epoch = None;
            self.lease.is_fenced();
            (self.adopted, self.recheck) = (false, true);
        }
    }

    /// Whether it may ask for a launch.
    pub(super) fn is_ready(&self, machine: &Machine) -> bool {
        self.connected && machine.agent && self.adopted && self.lease.admits(machine.clock)
    }

    pub(super) fn is_idle(&self) -> bool {
        let nothing = self.asks.is_empty() && self.doubts.is_empty() && self.chores.is_empty();
        nothing && self.lanes.is_empty() && self.adopted
    }

    pub(super) fn knows(&self, id: RunnerId) -> bool {
        let read = self.look.as_ref();
        let read = read.is_some_and(|look| look.rows.contains_key(&id));
        read || self.lanes.contains_key(&id)
            || self.doubts.contains(&id)
            || self.chores.iter().any(|todo| todo.id() == id)
    }

    pub(super) fn disconnects(&mut self) {
        (self.connected, self.told, self.look) = (false, None, None);
    }

    /// Whether it may judge who is away.
    pub(super) fn may_tidy(&self, machine: &Machine) -> bool {
        self.epoch.is_some() && self.lease.may_tidy(machine.clock)
    }

    /// A request for the lease goes out, arrives, or is answered.
    pub(super) fn keeps_lease(&mut self, c: &mut Context<'_>) {
        let Some(mut request) = self.request.take() else {
            self.request = Some(Request {
                before: c.machine.clock,
                promise: self.lease.promise(),
                epoch: self.epoch,
                kept_out: self.kept_out,
                answer: None,
            });
            return;
        };
        match request.answer {
            None => {
                let way = c.reaches();
                if way != Way::Lost {
                    request.answer = Some(reach(&request, c));
                }
                match way {
                    Way::Answered => self.request = Some(request),
                    _ => self.lease.fails(),
                }
            }
            Some(_) if c.machine.cut => self.lease.fails(),
            Some(Answer::Joined(epoch)) => {
                (self.epoch, self.kept_out) = (Some(epoch), false);
                self.lease.joins(request.before);
                self.recheck = true;
            }
            Some(Answer::Renewed) => self.lease.renews(request.before),
            Some(Answer::Fenced) => self.is_fenced(request.epoch),
            Some(Answer::Refused) => {
                self.kept_out = true;
                self.lease.fails();
            }
        }
    }

    /// The shims are told by when they stop, or the agent's answer to that arrives.
    pub(super) fn arms(&mut self, c: &mut Context<'_>) {
        let agent = self.connected && c.machine.agent;
        if let Some((epoch, order, kept)) = self.told.take() {
            let fence = c.machine.fence;
            let fits = |lane: &Lane| {
                let stop_timeout = lane.runner.spec.limits.stop_timeout_usec();
                fence.is_some_and(|fence| fence.check(stop_timeout).is_ok())
            };
            match order {
                None => self.off = true,
                Some(_) => {
                    let all = kept && self.lanes.values().all(fits);
                    let known = self.adopted && self.epoch == epoch;
                    self.lease.shims(all && known);
                }
            }
        } else if agent
            && let Some(order) = self.lease.order()
            && (order.is_some() || !self.off)
            // Who was given up gives nobody more time before it knows what the store has ended.
            && (order.is_none() || !self.adopted_once || self.adopted)
        {
            let kept = c.machine.set_all_fences(order);
            if !c.dice.permille(30) {
                self.told = Some((self.epoch, order, kept));
            }
        }
    }

    /// An admission arrives at the store.
    pub(super) fn admits(&mut self, c: &mut Context<'_>) {
        let Some(at) = c.dice.pick(self.asks.len()) else {
            return;
        };
        let new = self.asks.swap_remove(at);
        let (way, now) = (c.reaches(), c.now);
        if new.queue {
            c.machine.kept.insert(new.id);
        }
        if way == Way::Lost {
            return;
        }
        match c.store.admit(self.epoch, &new, now) {
            Ok(Verdict::New(runner)) if way == Way::Unanswered => self.doubts.push(runner.id),
            // While somebody waits for the answer it is not begun again behind their back.
            Ok(Verdict::New(runner)) => self.begins(*runner, AGAIN_MAX, c),
            Ok(Verdict::Queued) => {}
            Err(Fail::Fenced) if way == Way::Answered => self.is_fenced(self.epoch),
            Ok(Verdict::Denied | Verdict::Repeated) | Err(_) => {
                c.machine.kept.remove(&new.id);
            }
        }
    }

    fn begins(&mut self, runner: Runner, again: u32, c: &Context<'_>) {
        let mut lane = Lane::new(runner, Saga::Admitted(self.lease.deadline()), c.machine);
        lane.again = again;
        self.lanes.insert(lane.runner.id, lane);
    }

    /// Those that wait here have their turn.
    pub(super) fn turns(&mut self, c: &mut Context<'_>) {
        if !self.is_ready(c.machine) {
            return;
        }
        let max = c.machine.cap;
        let way = c.reaches();
        if way == Way::Lost {
            return;
        }
        match c.store.turns((&c.machine.name, self.epoch), max, c.now) {
            Ok(begun) => {
                for runner in begun {
                    match way {
                        Way::Answered => self.begins(runner, 0, c),
                        _ => self.doubts.push(runner.id),
                    }
                }
            }
            Err(_) => self.is_fenced(self.epoch),
        }
    }

    /// Ends what was admitted and will not be started: nobody had the answer.
    pub(super) fn settles(&mut self, c: &mut Context<'_>) {
        let Some(id) = self.doubts.last().copied() else {
            return;
        };
        if c.reaches() != Way::Answered {
            return;
        }
        self.doubts.pop();
        let exit = Exit {
            cause: Cause::LaunchFailed,
            code: None,
            signal: None,
            message: "The store went away while it admitted the runner; nothing ran.".to_owned(),
        };
        let change = Change {
            id,
            step: Step::End(exit, Usage::default()),
            actor: crate::domain::event::Actor::host(),
            at: c.now,
        };
        // One that somebody else has ended meanwhile is refused, and that is right.
        let _ = c.store.take(&change, c.now);
    }

    /// Hears what the agent tells by itself.
    pub(super) fn hears(&mut self, c: &mut Context<'_>) {
        if !self.connected || c.machine.notices.is_empty() {
            return;
        }
        let (id, command) = match c.machine.notices.remove(0) {
            Notice::Ended(id, record) => (id, Command::Ended(record)),
            Notice::Lost(id) => (id, Command::Lost),
        };
        self.tells(id, command);
    }

    pub(super) fn tells(&mut self, id: RunnerId, command: Command) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.inbox.push_back(command);
        }
    }

    /// A lane does the next thing.
    pub(super) fn moves(&mut self, id: RunnerId, c: &mut Context<'_>) -> Result<(), String> {
        let Some(mut lane) = self.lanes.remove(&id) else {
            return Ok(());
        };
        lane.acts(self, c)?;
        if !lane.is_over() {
            self.lanes.insert(id, lane);
            return Ok(());
        }
        lane.throws_away(c.machine);
        if self.connected && c.machine.agent && !c.dice.permille(50) {
            c.machine.forget(id);
        }
        Ok(())
    }
}

/// What the store does about a lease.
fn reach(request: &Request, c: &mut Context<'_>) -> Answer {
    let name = c.machine.name.as_str();
    match request.epoch {
        None => match c
            .store
            .lets_in((name, &c.machine.boot_id), request.kept_out, c.now)
        {
            Ok(epoch) => Answer::Joined(epoch),
            Err(_) => Answer::Refused,
        },
        Some(epoch) => match c.store.renew((name, epoch), request.promise, c.now) {
            Ok(()) => Answer::Renewed,
            Err(_) => Answer::Fenced,
        },
    }
}
