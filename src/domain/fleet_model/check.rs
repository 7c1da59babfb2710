//! What must be true after every step, told by counting anew: nothing here asks a function that decides.

use super::machine::{Machine, Scope};
use super::store::{Row, SESSION, Store, TTL, free_from};
use crate::domain::budget::Scope as Payer;
use crate::domain::hold::HoldScope;
use crate::domain::host::Standing;
use crate::domain::period::Period;
use crate::domain::{Cause, ProjectName, RunnerId, State, Timestamp};
use std::collections::BTreeMap;

/// A cap, and how many there may be: more than the cap only as long as there were more when it was set.
#[derive(Debug, Default, Clone, Copy)]
struct Bound(u32);

impl Bound {
    fn holds(&mut self, live: u32, max: Option<u32>) -> bool {
        let max = max.unwrap_or(u32::MAX);
        let fits = live <= self.0.max(max);
        self.0 = live.max(max);
        fits
    }
}

#[derive(Debug, Default)]
pub(super) struct Checker {
    projects: BTreeMap<ProjectName, Bound>,
    hosts: BTreeMap<String, Bound>,
    fleet: Bound,
    /// What was charged to each budget, and in which hour.
    books: Vec<(u64, u64)>,
    /// Which runner of each request id was exec'd.
    execs: BTreeMap<u128, RunnerId>,
    /// How often something was seen that this is about.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

pub(super) fn must(truth: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    truth.then_some(()).ok_or_else(otherwise)
}

impl Checker {
    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(super) fn looks(
        &mut self,
        store: &mut Store,
        machines: &[Machine],
        now: Timestamp,
    ) -> Result<(), String> {
        let admitted = std::mem::take(&mut store.admitted);
        let ended = std::mem::take(&mut store.ended);
        let charged = std::mem::take(&mut store.charged);
        for what in std::mem::take(&mut store.told) {
            self.saw(what);
        }
        for asked in std::mem::take(&mut store.asked) {
            if let Some(seen) = asked.looks(machines)? {
                self.saw(seen);
            }
        }
        self.counts(store, machines)?;
        self.charges(store, &charged, now)?;
        if !(admitted.is_empty() && ended.is_empty() && charged.is_empty()) {
            self.promises(store)?;
        }
        for id in &admitted {
            self.admission(store, machines, *id, now)?;
        }
        for id in ended {
            self.ending(store, machines, id)?;
        }
        self.leases(store, machines, now)?;
        self.running(store, machines, now)
    }

    /// Live rows against caps.
    fn counts(&mut self, store: &Store, machines: &[Machine]) -> Result<(), String> {
        let (mut fleet, mut seated) = (0, 0);
        let mut of: BTreeMap<&ProjectName, u32> = BTreeMap::new();
        let mut on = vec![0; machines.len()];
        for Row {
            runner, endings, ..
        } in store.rows.values()
        {
            let over = runner.state() == State::Ended;
            must(*endings == u32::from(over), || {
                format!("{} has ended {endings} times", runner.id)
            })?;
            if !runner.state().is_live() {
                continue;
            }
            fleet += 1;
            seated += u32::from(runner.spec.session.is_some());
            *of.entry(&runner.spec.project).or_default() += 1;
            if let Some(at) = machines.iter().position(|m| m.name == runner.host) {
                on[at] += 1;
            }
        }
        must(seated <= 1, || {
            format!("{seated} live runners of a session")
        })?;
        for (name, account) in &store.projects {
            let live = of.get(name).copied().unwrap_or(0);
            let bound = self.projects.entry(name.clone()).or_default();
            let told = || format!("project {name}: {live} of {:?}", account.max);
            must(bound.holds(live, account.max), told)?;
        }
        for (machine, live) in machines.iter().zip(on) {
            let bound = self.hosts.entry(machine.name.clone()).or_default();
            let told = || format!("host {}: {live} of {:?}", machine.name, machine.cap);
            must(bound.holds(live, machine.cap), told)?;
        }
        let told = || format!("fleet: {fleet} of {:?}", store.fleet_max);
        must(self.fleet.holds(fleet, store.fleet_max), told)
    }

    /// What was used, kept in books of our own.
    fn charges(
        &mut self,
        store: &Store,
        charged: &[(usize, u64)],
        now: Timestamp,
    ) -> Result<(), String> {
        self.books.resize(store.budgets.len(), (0, 0));
        for (at, tokens) in charged {
            let hour = match store.budgets[*at].budget.period {
                Period::Hour => now.0 / 3_600_000_000,
                _ => 0,
            };
            let (began, sum) = &mut self.books[*at];
            *sum = tokens + if *began == hour { *sum } else { 0 };
            *began = hour;
            let (used, sum) = (store.budgets[*at].used, *sum);
            must(used == sum, || format!("{used} used, {sum} charged"))?;
        }
        Ok(())
    }

    /// Reservations and sessions against what live runners hold.
    pub(super) fn promises(&self, store: &Store) -> Result<(), String> {
        for state in &store.budgets {
            let held = store.held(&state.budget);
            let told = || format!("{}: {} reserved, {held} held", state.budget, state.reserved);
            must(state.reserved == held, told)?;
        }
        let seat = store.sessions.get(SESSION).and_then(|s| s.live);
        let mut live = store.live();
        let sitting = live.find(|r| r.spec.session.is_some()).map(|r| r.id);
        must(seat == sitting, || {
            format!("the session is {seat:?}'s, not {sitting:?}'s")
        })
    }

    /// Nothing stood in the way of one that was admitted just now, and there is room for it.
    fn admission(
        &mut self,
        store: &Store,
        machines: &[Machine],
        id: RunnerId,
        now: Timestamp,
    ) -> Result<(), String> {
        self.saw("admitted");
        let runner = &store.rows[&id].runner;
        let (project, host) = (&runner.spec.project, &runner.host);
        let live = |of: &dyn Fn(&crate::domain::Runner) -> bool| {
            store.live().filter(|r| of(r)).count() as u32
        };
        let max = machines
            .iter()
            .find(|m| m.name == *host)
            .and_then(|m| m.cap);
        for (what, live, max) in [
            (
                "project",
                live(&|r| r.spec.project == *project),
                store.projects[project].max,
            ),
            ("host", live(&|r| r.host == *host), max),
            ("fleet", live(&|_| true), store.fleet_max),
        ] {
            let told = || format!("{id} was admitted: {live} of {max:?} of the {what}");
            must(max.is_none_or(|max| live <= max), told)?;
        }
        for hold in &store.holds {
            let covers = match &hold.scope {
                HoldScope::Fleet => true,
                HoldScope::Project(name) => name == project,
                HoldScope::Label(key, value) => runner.spec.labels.get(key) == Some(value),
            };
            let over = hold.until.is_some_and(|until| until <= now);
            must(over || !covers, || format!("{id} was admitted though held"))?;
        }
        let cordoned = store.hosts[host].cordon.is_some();
        must(!cordoned, || {
            format!("{id} was admitted on a cordoned host")
        })?;
        for (at, state) in store.budgets.iter().enumerate() {
            let pays = match &state.budget.scope {
                Payer::Fleet => true,
                Payer::Project(name) => name == project,
                Payer::Session(name) => runner.spec.session.as_ref() == Some(name),
            };
            let (hour, sum) = self.books[at];
            let past = state.budget.period == Period::Hour && hour != now.0 / 3_600_000_000;
            let used = if past { 0 } else { sum };
            let taken = used + store.held(&state.budget);
            let told = || format!("{id} was admitted: {taken} taken of {}", state.budget);
            must(!pays || taken <= state.budget.limit, told)?;
        }
        Ok(())
    }

    /// The cause is true, as far as anybody has seen it, and nothing of it lives.
    fn ending(&mut self, store: &Store, machines: &[Machine], id: RunnerId) -> Result<(), String> {
        let row = &store.rows[&id];
        let Some(cause) = row.runner.exit.as_ref().map(|e| e.cause) else {
            return Err(format!("{id} has ended without a word"));
        };
        self.saw(cause.as_str());
        let Some(machine) = machines.iter().find(|m| m.name == row.runner.host) else {
            return Err(format!("{id} has no host"));
        };
        let life = machine.lives.get(&id).cloned().unwrap_or_default();
        let told = || format!("{id} ended {}: {life:?}", cause.as_str());
        match row.given_up {
            // Nobody could ask its host: see the exceptions in [`super`].
            Some(standing) => {
                self.saw(match standing {
                    Standing::Left => "given up by hand",
                    _ => "given up",
                });
                return must(cause == Cause::HostLost, told);
            }
            None => {
                // A shim at a gate that nobody opens any more runs nothing.
                let gated = |scope: &Scope| scope.gate.is_some() && cause == Cause::LaunchFailed;
                must(machine.scopes.get(&id).is_none_or(gated), told)?;
            }
        }
        match (cause, life.witnessed) {
            (cause, Some(seen)) if cause == seen => Ok(()),
            (_, Some(_)) if !life.damaged => Err(told()),
            (Cause::Unknown, _) => must(life.damaged, told),
            (Cause::Cancelled | Cause::LaunchFailed, _) => must(life.execs == 0, told),
            (Cause::HostRebooted, _) => must(life.boot != machine.boot, told),
            (Cause::SupervisorLost, _) => must(life.orphaned || life.boot != machine.boot, told),
            _ => Err(told()),
        }
    }

    /// Whoever takes it that they may launch has their lease in the store, too.
    fn leases(&self, store: &Store, machines: &[Machine], now: Timestamp) -> Result<(), String> {
        for machine in machines {
            let daemon = machine.daemon.as_ref().filter(|_| machine.is_awake());
            let row = store.hosts.get(&machine.name);
            if let (Some(daemon), Some(row)) = (daemon, row)
                && daemon.epoch == Some(row.epoch)
                && daemon.lease.admits(machine.clock)
            {
                // What clocks that go differently differ by in the span of a lease.
                let until = row.lease_until.0 + TTL / 1_000;
                let told = || format!("{} takes it that it has a lease", machine.name);
                must(now.0 <= until, told)?;
            }
        }
        Ok(())
    }

    /// What really runs against what is charged.
    fn running(
        &mut self,
        store: &Store,
        machines: &[Machine],
        now: Timestamp,
    ) -> Result<(), String> {
        let mut of: BTreeMap<&ProjectName, u32> = BTreeMap::new();
        let (mut fleet, mut excused, mut slept, mut overslept) = (0, 0, 0, 0);
        for machine in machines {
            let mut there = 0;
            let row = store.hosts.get(&machine.name);
            let free = row.and_then(free_from).is_some_and(|at| at <= now.0);
            for (id, scope) in machine.running() {
                let Some(row) = store.rows.get(id) else {
                    return Err(format!("{id} runs and has no row"));
                };
                let execs = machine.lives[id].execs;
                must(execs == 1, || format!("{id} was exec'd {execs} times"))?;
                if let Some(key) = row.key {
                    let first = *self.execs.entry(key).or_insert(*id);
                    must(first == *id, || format!("{id} and {first} are one request"))?;
                }
                if row.given_up == Some(Standing::Left) || scope.unkept {
                    excused += 1;
                    continue;
                }
                let ended = !row.runner.state().is_live();
                if machine.asleep && (free || ended) {
                    slept += 1;
                    continue;
                }
                if scope.overslept.is_some_and(|until| machine.clock <= until) {
                    overslept += 1;
                    continue;
                }
                must(!free, || {
                    format!("{id} runs, and its slot may be given away: {scope:?}")
                })?;
                let state = row.runner.state();
                must(state.is_live() && state != State::Starting, || {
                    format!("{id} runs, its row is {}: {scope:?}", state.as_str())
                })?;
                *of.entry(&row.runner.spec.project).or_default() += 1;
                (fleet, there) = (fleet + 1, there + 1);
            }
            let bound = self.hosts.get(&machine.name).copied().unwrap_or_default();
            must(there <= bound.0, || {
                format!("{there} run on {}", machine.name)
            })?;
        }
        for (name, live) in of {
            let bound = self.projects.get(name).copied().unwrap_or_default();
            must(live <= bound.0, || format!("{live} of {name} run"))?;
        }
        for (what, n) in [
            ("excused", excused),
            ("slept", slept),
            ("overslept", overslept),
        ] {
            if n > 0 {
                self.saw(what);
            }
        }
        must(fleet <= self.fleet.0, || {
            format!("{fleet} run in the fleet")
        })
    }
}
