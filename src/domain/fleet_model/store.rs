//! The store: rows, and transactions that are whole or have not happened. What it decides is decided by
//! the functions that the real one calls; what the real one's schema counts is counted anew each time.

use super::boots::{Asked, Boot};
use crate::domain::admission::{Account, Ask, Ledger, Seat, Seated};
use crate::domain::budget::{Budget, BudgetState, Counts, Holding, OnExhausted, Scope, Tokens};
use crate::domain::event::Actor;
use crate::domain::hold::Hold;
use crate::domain::host::{Cordon, Host, Standing};
use crate::domain::period::Period;
use crate::domain::policy::holding;
use crate::domain::runner::{Change, Step};
use crate::domain::{Error, ProjectName, Runner, RunnerId, RunnerSpec, State, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The span of a lease, and how long a host may be away, µs.
pub(super) const TTL: u64 = 10_000_000;
pub(super) const LOST_AFTER: u64 = 60_000_000;
pub(super) const SESSION: &str = "s";

/// A runner, and what the checker wants to know of it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) runner: Runner,
    pub(super) endings: u32,
    /// When it was asked for, on the store's clock.
    since: Timestamp,
    /// It was ended because its host was given up so.
    pub(super) given_up: Option<Standing>,
    /// Steps that were taken, by their time: who takes one again is told so.
    taken: Vec<(u8, Timestamp)>,
    /// The request id it was asked for with.
    pub(super) key: Option<u128>,
}

/// A launch that asks for its slot.
#[derive(Debug, Clone)]
pub(super) struct New {
    pub(super) id: RunnerId,
    pub(super) spec: RunnerSpec,
    pub(super) host: String,
    pub(super) host_max: Option<u32>,
    pub(super) queue: bool,
    pub(super) key: Option<u128>,
    pub(super) at: Timestamp,
}

#[derive(Debug)]
pub(super) enum Verdict {
    New(Box<Runner>),
    Queued,
    Denied,
    /// It was asked for before with this request id.
    Repeated,
}

/// Why a transaction did nothing.
#[derive(Debug)]
pub(super) enum Fail {
    Fenced,
    Refused(Error),
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) hosts: BTreeMap<String, Host>,
    pub(super) rows: BTreeMap<RunnerId, Row>,
    pub(super) projects: BTreeMap<ProjectName, Account>,
    pub(super) fleet_max: Option<u32>,
    pub(super) sessions: BTreeMap<String, Seated>,
    pub(super) holds: Vec<Hold>,
    pub(super) budgets: Vec<BudgetState>,
    /// Request ids that have come to a runner.
    keys: BTreeSet<u128>,
    /// What happened in the last step, for the checker: admitted, ended, and what budgets were charged.
    pub(super) admitted: Vec<RunnerId>,
    pub(super) ended: Vec<RunnerId>,
    pub(super) charged: Vec<(usize, u64)>,
    /// And what else is to be seen.
    pub(super) told: Vec<&'static str>,
    /// Who has asked to be let in, and who has the epochs.
    pub(super) asked: Vec<Asked>,
    pub(super) boots: BTreeMap<String, Boot>,
}

impl Store {
    pub(super) fn new(projects: &[ProjectName], now: Timestamp) -> Self {
        let budget = |scope, period, limit, on_exhausted| {
            let budget = Budget {
                scope,
                period,
                limit,
                timezone: "UTC".to_owned(),
                on_exhausted,
                counts: Counts::default(),
                created_at: now,
            };
            BudgetState::new(budget, 0, now).unwrap()
        };
        let first = Scope::Project(projects[0].clone());
        let account = Account {
            max_queued: Some(3),
            default_tokens: Some(20),
            ..Account::default()
        };
        Self {
            hosts: BTreeMap::new(),
            rows: BTreeMap::new(),
            projects: projects
                .iter()
                .map(|name| (name.clone(), account.clone()))
                .collect(),
            fleet_max: None,
            sessions: BTreeMap::new(),
            holds: Vec::new(),
            keys: BTreeSet::new(),
            budgets: vec![
                budget(Scope::Fleet, Period::Hour, 2_000, OnExhausted::Freeze),
                budget(first, Period::Hour, 900, OnExhausted::Deny),
                budget(
                    Scope::Session(SESSION.to_owned()),
                    Period::None,
                    500,
                    OnExhausted::Stop,
                ),
            ],
            admitted: Vec::new(),
            ended: Vec::new(),
            charged: Vec::new(),
            told: Vec::new(),
            asked: Vec::new(),
            boots: BTreeMap::new(),
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Runner> {
        let live = |r: &&Row| r.runner.state().is_live();
        self.rows.values().filter(live).map(|r| &r.runner)
    }

    pub(super) fn state(&self, id: RunnerId) -> Option<State> {
        self.rows.get(&id).map(|row| row.runner.state())
    }

    pub(super) fn is_current(&self, host: &str, epoch: Option<u64>) -> Result<(), Fail> {
        let row = self.hosts.get(host).map(|h| h.epoch);
        match epoch.is_some() && row == epoch {
            true => Ok(()),
            false => Err(Fail::Fenced),
        }
    }

    /// Decides about a launch.
    pub(super) fn admit(
        &mut self,
        epoch: Option<u64>,
        new: &New,
        now: Timestamp,
    ) -> Result<Verdict, Fail> {
        self.is_current(&new.host, epoch)?;
        if new.key.is_some_and(|key| self.keys.contains(&key)) {
            self.told.push("repeated");
            return Ok(Verdict::Repeated);
        }
        let ask = Ask::of(new.id, &new.spec, &new.host, now);
        let mut ledger = self.ledger((&new.host, new.host_max), now);
        let (id, spec, host) = (new.id, new.spec.clone(), new.host.clone());
        let runner = match ledger.admit(&ask) {
            Ok(tokens) => {
                let mut runner = Runner::admitted(id, spec, host, new.at);
                runner.reserved = tokens;
                self.keep(ledger, [ask.id]);
                runner
            }
            Err(refusal) if new.queue && refusal.waits && ledger.may_wait(&ask).is_ok() => {
                Runner::queued(id, spec, host, new.at)
            }
            Err(_) => return Ok(Verdict::Denied),
        };
        let row = Row {
            runner: runner.clone(),
            endings: 0,
            since: now,
            given_up: None,
            taken: Vec::new(),
            key: new.key,
        };
        self.keys.extend(new.key);
        self.rows.insert(id, row);
        Ok(match runner.state() {
            State::Queued => Verdict::Queued,
            _ => Verdict::New(Box::new(runner)),
        })
    }

    /// Gives those their turn that wait on this host.
    pub(super) fn turns(
        &mut self,
        (host, epoch): (&str, Option<u64>),
        max: Option<u32>,
        now: Timestamp,
    ) -> Result<Vec<Runner>, Fail> {
        self.is_current(host, epoch)?;
        let mut ledger = self.ledger((host, max), now);
        let mut book = ledger.clone();
        let waiting = std::mem::take(&mut book.waiting);
        let mut begun = Vec::new();
        for (id, turn) in ledger.turns() {
            // Everybody has their turn in thought; here only those become real that wait here.
            let ask = waiting.iter().find(|ask| ask.id == id && ask.host == host);
            if let (Ok(_), Some(ask)) = (turn, ask)
                && let Ok(tokens) = book.admit(ask)
            {
                begun.push((id, tokens));
            }
        }
        self.keep(book, begun.iter().map(|(id, _)| *id));
        for (id, tokens) in &begun {
            let change = Change {
                id: *id,
                step: Step::Admit(*tokens),
                actor: Actor::host(),
                at: now,
            };
            self.take(&change, now)?;
        }
        let runner = |(id, _)| self.rows.get(&id).map(|row| row.runner.clone());
        Ok(begun.into_iter().filter_map(runner).collect())
    }

    /// A step in a runner's life. One that was taken before is taken for granted.
    pub(super) fn apply(
        &mut self,
        (host, epoch): (&str, Option<u64>),
        change: &Change,
        now: Timestamp,
    ) -> Result<(), Fail> {
        self.is_current(host, epoch)?;
        self.take(change, now)
    }

    pub(super) fn take(&mut self, change: &Change, now: Timestamp) -> Result<(), Fail> {
        let Some(row) = self.rows.get_mut(&change.id) else {
            return Err(Fail::Refused(Error::invalid("There is no such runner.")));
        };
        let before = holding(&row.runner);
        let kind = (kind(&change.step), change.at);
        if let Err(error) = row.runner.apply(&change.step, change.at) {
            return match row.taken.contains(&kind) {
                true => Ok(()),
                false => Err(Fail::Refused(error)),
            };
        }
        row.taken.push(kind);
        if matches!(change.step, Step::End(..)) {
            row.endings += 1;
            self.ended.push(change.id);
            let runner = row.runner.clone();
            for seated in self.sessions.values_mut() {
                seated.live = seated.live.filter(|id| *id != change.id);
            }
            self.settle(&runner, before, now);
        }
        Ok(())
    }

    /// What a runner has used.
    pub(super) fn report(&mut self, id: RunnerId, tokens: Tokens, now: Timestamp) {
        let Some(row) = self.rows.get_mut(&id) else {
            return;
        };
        let before = holding(&row.runner);
        row.runner.tokens = row.runner.tokens.advance(tokens);
        let runner = row.runner.clone();
        self.settle(&runner, before, now);
    }

    fn settle(&mut self, runner: &Runner, before: Holding, now: Timestamp) {
        let (project, session) = (&runner.spec.project, runner.spec.session.as_deref());
        for (at, state) in self.budgets.iter_mut().enumerate() {
            if state.budget.scope.matches(project, session) {
                *state = state.clone().roll(now).unwrap();
                let settled = state.settle(&before, &holding(runner));
                self.charged.push((at, settled.used));
            }
        }
    }

    pub(super) fn set_limit(&mut self, at: usize, limit: u64, now: Timestamp) {
        let state = self.budgets[at].clone();
        let budget = Budget {
            limit,
            ..state.budget.clone()
        };
        let held = self.held(&budget);
        self.budgets[at] = state.change(budget, held, now).unwrap();
    }

    /// What live runners hold of a budget, counted anew.
    pub(super) fn held(&self, budget: &Budget) -> u64 {
        let paid = |r: &&Runner| {
            let session = r.spec.session.as_deref();
            budget.scope.matches(&r.spec.project, session)
        };
        let live = self.live().filter(paid);
        live.map(|r| holding(r).held(&budget.counts)).sum()
    }

    pub(super) fn cordon(&mut self, host: &str, cordon: Option<Cordon>) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.cordon = cordon;
        }
    }

    fn keep(&mut self, ledger: Ledger, admitted: impl IntoIterator<Item = RunnerId>) {
        self.admitted.extend(admitted);
        self.budgets = ledger.budgets;
        self.sessions = ledger.sessions;
    }

    /// All that decides about launches on this host.
    fn ledger(&self, (host, max): (&str, Option<u32>), now: Timestamp) -> Ledger {
        let mut ledger = Ledger {
            now,
            fleet_max: self.fleet_max,
            projects: self.projects.clone(),
            sessions: self.sessions.clone(),
            holds: self.holds.clone(),
            budgets: self.budgets.clone(),
            ..Ledger::default()
        };
        for known in self.hosts.values() {
            let seat = Seat {
                name: known.about.name.clone(),
                live: 0,
                max: max.filter(|_| known.about.host == host),
                cordon: known.cordon.as_ref().map(|c| c.reason.clone()),
            };
            ledger.hosts.insert(known.about.host.clone(), seat);
        }
        for state in &mut ledger.budgets {
            *state = state.clone().roll(now).unwrap();
        }
        for Row { runner, since, .. } in self.rows.values() {
            let account = ledger.projects.get_mut(&runner.spec.project);
            let (Some(account), state) = (account, runner.state()) else {
                continue;
            };
            if state.is_live() {
                account.live += 1;
                ledger.fleet_live += 1;
                if let Some(seat) = ledger.hosts.get_mut(&runner.host) {
                    seat.live += 1;
                }
            } else if state == State::Queued {
                account.queued += 1;
                let there = self.hosts.get(&runner.host);
                if runner.host == host || there.is_some_and(|h| h.is_up(now)) {
                    let ask = Ask::of(runner.id, &runner.spec, &runner.host, *since);
                    ledger.waiting.push(ask);
                }
            }
        }
        ledger
    }
}

/// From when on what a host holds may be given to others because it is silent; told by hand.
pub(super) fn free_from(host: &Host) -> Option<u64> {
    let silent = matches!(host.standing, Standing::Up | Standing::Unreachable);
    let after = host.fenced_after.filter(|_| silent)?;
    Some(host.renewed_at.0 + after.max(LOST_AFTER))
}

fn kind(step: &Step) -> u8 {
    match step {
        Step::Admit(_) => 0,
        Step::Run(_) => 1,
        Step::Freeze(_) => 2,
        Step::Keep(_) => 3,
        Step::Thaw => 4,
        Step::Stop => 5,
        Step::Limit(..) => 6,
        Step::End(..) => 7,
    }
}
