//! Rows and host are compared, in the steps in which the engine's hub does it.

use super::daemon::{Context, Daemon, Way};
use super::lane::{Command, Lane, Saga};
use crate::domain::reconcile::{Todo, plan};
use crate::domain::{Runner, RunnerId, State};
use std::collections::BTreeMap;

/// The rows of a comparison, the epoch they are of, and who had a lane before they were read, with how
/// often it was begun.
#[derive(Debug)]
pub(super) struct Look {
    epoch: Option<u64>,
    pub(super) rows: BTreeMap<RunnerId, Runner>,
    begun: BTreeMap<RunnerId, u32>,
}

impl Daemon {
    /// Rows and host are compared, in the steps in which the hub does it: rows first, then the look.
    pub(super) fn compares(&mut self, c: &mut Context<'_>) -> Result<(), String> {
        if !(self.connected && c.machine.agent) || self.epoch.is_none() {
            self.look = None;
            return Ok(());
        }
        let Some(look) = self.look.take() else {
            let begun = self.lanes.iter().map(|(id, l)| (*id, l.launches)).collect();
            self.look = self.known(c).map(|rows| Look {
                epoch: self.epoch,
                rows,
                begun,
            });
            return Ok(());
        };
        self.plans(look, c)
    }

    /// The rows that are held against the host.
    fn known(&mut self, c: &mut Context<'_>) -> Option<BTreeMap<RunnerId, Runner>> {
        let settled = self.lanes.iter().filter(|(_, lane)| !lane.is_launching());
        let lanes = settled.filter(|(_, lane)| lane.runner.state().is_live());
        let lanes: BTreeMap<_, _> = lanes.map(|(id, l)| (*id, l.runner.clone())).collect();
        if self.adopted {
            return Some(lanes);
        }
        if c.reaches() != Way::Answered {
            return None;
        }
        let live = c.store.live().filter(|r| r.host == c.machine.name);
        let stored: BTreeMap<_, _> = live.map(|r| (r.id, r.clone())).collect();
        if !self.adopted_once {
            return Some(stored);
        }
        for (id, lane) in &mut self.lanes {
            if !stored.contains_key(id) {
                lane.inbox.push_back(Command::LookUp);
            }
        }
        let mut rows = lanes;
        rows.retain(|id, _| stored.contains_key(id));
        let others = stored
            .into_iter()
            .filter(|(id, row)| !self.lanes.contains_key(id) && row.state() != State::Starting);
        rows.extend(others);
        Some(rows)
    }

    fn plans(&mut self, look: Look, c: &mut Context<'_>) -> Result<(), String> {
        let Look {
            epoch,
            mut rows,
            begun,
        } = look;
        let mut world = c.machine.inventory();
        // A lane that has closed meanwhile has written its ending.
        rows.retain(|id, _| match self.lanes.get(id) {
            // Whose launch was begun again meanwhile is not as the look shows it.
            Some(lane) => !lane.is_launching() && begun.get(id).is_none_or(|n| *n == lane.launches),
            None => !begun.contains_key(id),
        });
        world
            .runners
            .retain(|id, _| rows.contains_key(id) || !self.lanes.contains_key(id));
        if c.reaches() != Way::Answered {
            // What the store can't tell about now is left for the next time.
            world.runners.retain(|id, _| rows.contains_key(id));
        }
        let store = &c.store;
        let ended = |id| store.state(id).is_some_and(|state| !state.is_live());
        let todo = plan(&world, &rows, ended);
        if !self.adopted {
            for (id, row) in rows {
                let lane = || Lane::new(row, Saga::Over, c.machine);
                self.lanes.entry(id).or_insert_with(lane);
            }
        }
        for todo in todo {
            let (id, command) = match todo {
                Todo::Adopt(id) => (id, Command::Adopted),
                Todo::NoteFrozen(id) => (id, Command::Frozen(true)),
                Todo::NoteThawed(id) => (id, Command::Frozen(false)),
                Todo::StopAgain(id) => (id, Command::StopAgain),
                Todo::CloseGate(id) => (id, Command::CloseGate),
                Todo::StopScope(id) => (id, Command::StopScope),
                Todo::End(id, exit, usage) => (id, Command::End(exit, usage)),
                Todo::Forget(_) | Todo::StopZombie(_) => {
                    self.chores.push(todo);
                    continue;
                }
                Todo::Stranger(id) => match c.store.state(id) {
                    // A doubt: its row is admitted and will be ended.
                    Some(_) => continue,
                    None => return Err(format!("{id} is a stranger")),
                },
            };
            self.tells(id, command);
        }
        if self.epoch == epoch {
            (self.adopted, self.adopted_once, self.recheck) = (true, true, false);
        }
        Ok(())
    }

    /// Something that a comparison has found out, about what has no lane.
    pub(super) fn tidies_up(&mut self, c: &mut Context<'_>) {
        if !(self.connected && c.machine.agent) {
            self.chores.clear();
            return;
        }
        match self.chores.pop() {
            Some(Todo::Forget(id)) => c.machine.forget(id),
            Some(Todo::StopZombie(id)) => c.machine.stop_scope(id, c.dice),
            _ => {}
        }
    }
}
