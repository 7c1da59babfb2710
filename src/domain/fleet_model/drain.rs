//! The end of a walk: everything is healed, and all comes to its end.

use super::daemon::Daemon;
use super::dice::Dice;
use super::machine::{Ending, Machine};
use super::world::World;
use crate::domain::{RunnerId, State, Timestamp};

impl World {
    /// Everything is healed, nothing new comes, and all comes to its end.
    pub(super) fn drains(&mut self, dice: &mut Dice) -> Result<(), String> {
        self.healed = true;
        self.store.holds.clear();
        self.ghosts.clear();
        self.words.clear();
        self.copies.clear();
        self.cancels(usize::MAX);
        for at in 0..3 {
            self.store
                .set_limit(at, u64::MAX >> 12, Timestamp(self.now));
            self.store.cordon(&self.machines[at].name, None);
        }
        for round in 0..2_000u64 {
            self.goes_on(300_000, dice)?;
            for at in 0..3 {
                self.machines[at].cut = false;
                self.machines[at].wakes();
                self.comes_back(at, dice);
                for id in self.machines[at].ids() {
                    self.ends(at, id, dice);
                }
                let done = self.with(at, dice, |d, c| {
                    d.asks.clear();
                    d.keeps_lease(c);
                    d.arms(c);
                    d.settles(c);
                    d.tidies_up(c);
                    while d.connected && !c.machine.notices.is_empty() {
                        d.hears(c);
                    }
                    for id in d.lanes.keys().copied().collect::<Vec<_>>() {
                        d.moves(id, c)?;
                    }
                    match d.recheck || round % 10 < 2 {
                        true => d.compares(c),
                        false => Ok(()),
                    }
                });
                done.unwrap_or(Ok(()))?;
                self.looks()?;
            }
            self.store.tidy(Timestamp(self.now));
            self.store.give_back(Timestamp(self.now));
            self.looks()?;
            if self.is_empty() {
                return self.checker.promises(&self.store);
            }
        }
        let store = &self.store;
        let rows: Vec<_> = store.live().map(|r| (r.id, r.state(), &r.host)).collect();
        let machines = self.machines.iter();
        let there: Vec<_> = machines
            .map(|m| (&m.name, &m.scopes, m.records.keys()))
            .collect();
        let lanes = self.machines.iter().filter_map(|m| m.daemon.as_ref());
        let lanes: Vec<_> = lanes.map(|d| (d.epoch, &d.lanes)).collect();
        Err(format!("left over: {rows:?} {there:?} {lanes:?}"))
    }

    /// A command comes to its end by itself, thawed if need be.
    fn ends(&mut self, at: usize, id: RunnerId, dice: &mut Dice) {
        if self.store.state(id) == Some(State::Stopping) {
            // It was asked to stop, and waits for that.
            return;
        }
        let machine = &mut self.machines[at];
        let scope = &machine.scopes[&id];
        if scope.frozen {
            machine.freeze(id, false);
        } else if scope.gate.is_none() && scope.shim && dice.permille(200) {
            machine.is_over(id, Ending::Exit(0));
        }
    }

    fn is_empty(&self) -> bool {
        let idle = |m: &Machine| {
            let daemon = m.daemon.as_ref().is_some_and(Daemon::is_idle);
            daemon && m.scopes.is_empty() && m.records.is_empty()
        };
        self.store.live().next().is_none() && self.machines.iter().all(idle)
    }
}
