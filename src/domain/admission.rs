//! Admission: may this launch happen, and whose turn is it? One pure decision over a [`Ledger`],
//! which holds what was read in the transaction that writes the runner, under the locks that
//! keep it true until then.
//!
//! Several launches of one transaction are decided one after the other on the same ledger, each
//! charging it. Runners that wait have their turn before those that come later: see [`Ledger::turns`].

mod gate;

#[cfg(test)]
mod tests;

pub use gate::{GATES, Gate, NO_TOKENS, QUEUE_DOES, Refusal};

use super::budget::{BudgetState, Holding};
use super::hold::Hold;
use super::id::RunnerId;
use super::name::ProjectName;
use super::spec::RunnerSpec;
use super::time::Timestamp;
use std::collections::{BTreeMap, VecDeque};

/// The most runners of one project that wait, where it does not say.
pub const QUEUED_MAX: u32 = 1_000;

/// A launch as the decision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The runner it would be.
    pub id: RunnerId,
    /// Whose quota and budget.
    pub project: ProjectName,
    /// The host it would run on.
    pub host: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The session it goes on with.
    pub session: Option<String>,
    /// Higher goes first among those of its project that wait.
    pub priority: i32,
    /// Tokens it may use; `None` = what its project says.
    pub tokens: Option<u64>,
    /// When it was asked for.
    pub since: Timestamp,
}

/// A project's side of the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Its live runners, on all hosts.
    pub live: u32,
    /// Its cap.
    pub max: Option<u32>,
    /// Its runners that wait.
    pub queued: u32,
    /// How many may wait; `None` = [`QUEUED_MAX`].
    pub max_queued: Option<u32>,
    /// Tokens of a launch that does not say.
    pub default_tokens: Option<u64>,
}

/// A host's side of the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seat {
    /// Its name.
    pub name: String,
    /// Its live runners.
    pub live: u32,
    /// Its cap.
    pub max: Option<u32>,
    /// Why it takes nothing new.
    pub cordon: Option<String>,
}

/// A session: at most one of its runners is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seated {
    /// The project it belongs to.
    pub project: ProjectName,
    /// Its live runner.
    pub live: Option<RunnerId>,
}

/// Everything that decides, as it is in this transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The store's clock.
    pub now: Timestamp,
    /// Live runners of all hosts; read only where there is a cap.
    pub fleet_live: u32,
    /// The cap of the whole fleet.
    pub fleet_max: Option<u32>,
    /// The projects concerned.
    pub projects: BTreeMap<ProjectName, Account>,
    /// The hosts concerned.
    pub hosts: BTreeMap<String, Seat>,
    /// The sessions concerned that exist.
    pub sessions: BTreeMap<String, Seated>,
    /// All holds.
    pub holds: Vec<Hold>,
    /// The budgets concerned, in their present period.
    pub budgets: Vec<BudgetState>,
    /// Who waits, on hosts that are up.
    pub waiting: Vec<Ask>,
}

impl Ask {
    /// The ask of a runner that is to be, or that waits.
    pub fn of(id: RunnerId, spec: &RunnerSpec, host: &str, since: Timestamp) -> Self {
        Self {
            id,
            project: spec.project.clone(),
            host: host.to_owned(),
            labels: spec.labels.clone(),
            session: spec.session.clone(),
            priority: spec.priority,
            tokens: spec.tokens,
            since,
        }
    }

    fn is_paid_by(&self, state: &BudgetState) -> bool {
        let scope = &state.budget.scope;
        scope.matches(&self.project, self.session.as_deref())
    }
}

impl Ledger {
    /// The ledger of one project and one host, where nothing else decides.
    pub fn simple(project: ProjectName, account: Account, host: String, seat: Seat) -> Self {
        Self {
            projects: [(project, account)].into(),
            hosts: [(host, seat)].into(),
            ..Self::default()
        }
    }

    /// Every gate of a launch with its numbers, in the order in which they are checked.
    pub fn gates(&self, ask: &Ask) -> Vec<Gate> {
        let mut gates = self.plain_gates(ask);
        if !self.waiting.is_empty() {
            let before = self.before(ask);
            gates.push(gate::queue(&ask.project, before));
        }
        gates
    }

    /// Decides a launch and charges the ledger. Answers with the tokens reserved for it.
    pub fn admit(&mut self, ask: &Ask) -> Result<u64, Refusal> {
        let tokens = self.judge(ask)?;
        if !self.waiting.is_empty() {
            let before = self.before(ask);
            if before > 0 {
                return Err(gate::queue(&ask.project, before).shut());
            }
        }
        self.charge(ask, tokens);
        Ok(tokens)
    }

    /// Whether this one may wait, after it was refused.
    pub fn may_wait(&self, ask: &Ask) -> Result<(), Refusal> {
        match self.room(ask) {
            gate if gate.open() => Ok(()),
            gate => Err(gate.shut()),
        }
    }

    /// The room there is for one more that waits.
    pub fn room(&self, ask: &Ask) -> Gate {
        let account = self.projects.get(&ask.project);
        let queued = account.map_or(0, |a| a.queued);
        let max = account.and_then(|a| a.max_queued).unwrap_or(QUEUED_MAX);
        gate::room(&ask.project, queued, max)
    }

    /// Decides about everybody who waits, in the fair order, and charges the ledger for those
    /// whose turn it is.
    ///
    /// Between projects the one with the fewest live runners is next, and of those the one that
    /// has waited longest. Within a project it is priority, then age; who lacks what all of the
    /// project need (its quota, its budget, the fleet's) lets nobody of it pass, so that a large
    /// one is not starved by small ones, and who lacks something of its own (its host, its
    /// session, a label's hold) does not hold up the others.
    pub fn turns(&mut self) -> Vec<(RunnerId, Result<u64, Refusal>)> {
        let mut decided = Vec::new();
        let mut lines: BTreeMap<ProjectName, VecDeque<Ask>> = BTreeMap::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by_key(|a| (std::cmp::Reverse(a.priority), a.since, a.id));
        for ask in waiting {
            lines.entry(ask.project.clone()).or_default().push_back(ask);
        }
        while let Some(project) = self.next_project(&lines) {
            let Some(line) = lines.get_mut(&project) else {
                break;
            };
            let Some(ask) = line.pop_front() else { break };
            let verdict = self.judge(&ask);
            decided.push((ask.id, verdict.clone()));
            match &verdict {
                Ok(tokens) => self.charge(&ask, *tokens),
                Err(refusal) if refusal.shared => {
                    let behind = std::mem::take(line);
                    decided.extend(
                        behind
                            .into_iter()
                            .map(|other| (other.id, Err(refusal.clone()))),
                    );
                }
                Err(_) => {}
            }
            lines.retain(|_, line| !line.is_empty());
        }
        decided
    }

    /// How many of those that wait have their turn before this one, if that takes what it needs.
    fn before(&self, ask: &Ask) -> u64 {
        let mut trial = self.clone();
        trial.waiting.push(ask.clone());
        let turns = trial.turns();
        let at = turns
            .iter()
            .position(|(id, _)| *id == ask.id)
            .unwrap_or_default();
        if turns.get(at).is_some_and(|(_, turn)| turn.is_ok()) {
            return 0;
        }
        u64::try_from(at).unwrap_or(u64::MAX)
    }

    /// The line whose turn is next.
    fn next_project(&self, lines: &BTreeMap<ProjectName, VecDeque<Ask>>) -> Option<ProjectName> {
        let rank = |(project, line): &(&ProjectName, &VecDeque<Ask>)| {
            let live = self.projects.get(*project).map_or(0, |a| a.live);
            (live, line.front().map(|a| (a.since, a.id)))
        };
        lines.iter().min_by_key(rank).map(|(name, _)| name.clone())
    }

    /// All gates but that of the queue.
    fn plain_gates(&self, ask: &Ask) -> Vec<Gate> {
        let mut gates = Vec::with_capacity(8);
        let holds = self.holds.iter().filter(|h| h.is_active(self.now));
        gates.extend(
            holds
                .filter(|h| h.scope.covers(&ask.project, &ask.labels))
                .map(gate::hold),
        );
        let seat = self.hosts.get(&ask.host);
        if let Some((seat, reason)) = seat.and_then(|s| Some((s, s.cordon.as_ref()?))) {
            gates.push(gate::cordon(&seat.name, reason));
        }
        if let Some(name) = &ask.session {
            gates.push(gate::session(name, &ask.project, self.sessions.get(name)));
        }
        let account = self.projects.get(&ask.project).cloned().unwrap_or_default();
        gates.push(gate::project(&ask.project, account.live, account.max));
        let (name, live, max) = match seat {
            Some(seat) => (seat.name.as_str(), seat.live, seat.max),
            None => (ask.host.as_str(), 0, None),
        };
        gates.push(gate::host(name, live, max));
        if self.fleet_max.is_some() {
            gates.push(gate::fleet(self.fleet_live, self.fleet_max));
        }
        let tokens = ask.tokens.or(account.default_tokens);
        let paying = self.budgets.iter().filter(|b| ask.is_paid_by(b));
        gates.extend(paying.map(|b| gate::budget(b, &ask.project, tokens, self.now)));
        gates
    }

    /// The tokens to reserve, or the first gate that is shut, those that wait left aside.
    fn judge(&self, ask: &Ask) -> Result<u64, Refusal> {
        if let Some(shut) = self.plain_gates(ask).into_iter().find(|g| !g.open()) {
            return Err(shut.shut());
        }
        let account = self.projects.get(&ask.project);
        let tokens = ask.tokens.or(account.and_then(|a| a.default_tokens));
        Ok(tokens.unwrap_or(0))
    }

    fn charge(&mut self, ask: &Ask, tokens: u64) {
        self.fleet_live = self.fleet_live.saturating_add(1);
        let account = self.projects.entry(ask.project.clone()).or_default();
        account.live = account.live.saturating_add(1);
        if let Some(seat) = self.hosts.get_mut(&ask.host) {
            seat.live = seat.live.saturating_add(1);
        }
        if let Some(session) = &ask.session {
            let seated = Seated {
                project: ask.project.clone(),
                live: Some(ask.id),
            };
            self.sessions.insert(session.clone(), seated);
        }
        let holding = Holding {
            tokens,
            live: true,
            ..Holding::default()
        };
        for budget in self.budgets.iter_mut().filter(|b| ask.is_paid_by(b)) {
            budget.settle(&Holding::default(), &holding);
        }
    }
}
