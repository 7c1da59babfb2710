//! What breaks, and what comes back: a fault and its mending, each at a chance.

use super::daemon::Daemon;
use super::dice::Dice;
use super::store::{LOST_AFTER, TTL};
use super::world::{SECOND, World};
use crate::domain::fence::Fence;

pub(super) fn fence() -> Fence {
    Fence::new(20 * SECOND, LOST_AFTER, TTL, 10 * SECOND).unwrap()
}

impl World {
    /// What is missing on a machine is there again.
    pub(super) fn comes_back(&mut self, at: usize, dice: &mut Dice) {
        let machine = &mut self.machines[at];
        if machine.asleep {
            if dice.permille(60) {
                machine.wakes();
            }
        } else if !machine.on {
            if dice.permille(300) {
                machine.boots(self.now);
            }
        } else if machine.stopping {
            if dice.permille(600) {
                self.is_down(at, dice);
            }
        } else if !machine.agent && dice.permille(700) {
            machine.agent_starts();
        } else if machine.daemon.is_none() {
            if dice.permille(500) || machine.boot == 1 {
                machine.fence = dice.permille(600).then(fence);
            }
            let daemon = Daemon::new(machine, 0);
            machine.daemon = Some(daemon);
        } else if machine.cut && dice.permille(120) {
            machine.cut = false;
        }
        self.connects(at);
    }

    pub(super) fn connects(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if !machine.agent || machine.asleep {
            return;
        }
        match &mut machine.daemon {
            // It sees that its caller is gone.
            None => machine.close_gates(None),
            Some(daemon) if !daemon.connected => {
                self.connections += 1;
                daemon.gate = self.connections;
                (daemon.connected, daemon.recheck) = (true, true);
                machine.close_gates(None);
                machine.notices.clear();
            }
            Some(_) => {}
        }
    }

    pub(super) fn breaks(&mut self, at: usize, dice: &mut Dice) {
        let machine = &mut self.machines[at];
        let ids = machine.ids();
        if machine.asleep && !dice.permille(100) {
            return;
        }
        match dice.below(100) {
            _ if machine.asleep => machine.crashes(),
            0..22 => {
                if let Some(daemon) = machine.daemon.take() {
                    let sent = daemon.asks.into_iter().map(|new| (daemon.epoch, new));
                    self.ghosts.extend(sent.filter(|_| dice.permille(500)));
                    if machine.agent && dice.permille(700) {
                        machine.close_gates(None);
                    }
                    self.checker.saw("daemon killed");
                }
            }
            22..35 => {
                machine.agent_dies();
                if let Some(daemon) = &mut machine.daemon {
                    daemon.disconnects();
                }
                self.checker.saw("agent killed");
            }
            35..43 => {
                if let Some(at) = dice.pick(ids.len()) {
                    let torn = machine.scopes[&ids[at]].gate.is_none() && dice.permille(100);
                    machine.shim_dies(ids[at], torn);
                    self.checker.saw("shim killed");
                }
            }
            43..48 => {
                machine.crashes();
                self.checker.saw("host crashed");
            }
            48..51 => self.goes_down(at, dice),
            51..54 => {
                let mut records = machine.records.iter_mut();
                if let Some((id, record)) = records.next() {
                    *record = None;
                    machine.lives.entry(*id).or_default().damaged = true;
                }
            }
            54..58 => machine.skew = -machine.skew,
            58..66 => {
                machine.asleep = machine.on;
                self.checker.saw("suspended");
            }
            66..97 => {
                machine.cut = true;
                // Often more breaks at once.
                if dice.permille(200) {
                    machine.daemon = None;
                }
                self.checker.saw("cut off");
            }
            // The store is away.
            _ => self.machines.iter_mut().for_each(|m| m.cut = true),
        }
    }
}
