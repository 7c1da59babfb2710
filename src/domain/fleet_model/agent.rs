//! The agent of a machine: what it is asked for while it is there, and how it comes and goes.

use super::dice::Dice;
use super::machine::{Ending, Machine, Notice, Scope, Term};
use crate::domain::RunnerId;
use crate::domain::exit::Asked;
use crate::domain::fence::Deadline;

impl Machine {
    /// It starts, or starts again: what has no shim is stopped.
    pub(super) fn agent_starts(&mut self) {
        self.agent = true;
    }

    /// It stops what has no shim, in its own time, and tells of it when that is gone.
    pub(super) fn agent_clears(&mut self, dice: &mut Dice) {
        for id in self.ids() {
            let scope = &self.scopes[&id];
            let late = scope.due(self.file, self.missed).has_passed(self.clock);
            if scope.shim {
                continue;
            }
            // A stop takes as long as what is stopped lets it.
            let ends = self.clock + dice.below(scope.stop_timeout + 1);
            let ends = scope.cleared_at.unwrap_or(ends);
            if late || ends <= self.clock {
                self.scopes.remove(&id);
                self.notices.push(Notice::Lost(id));
            } else if let Some(scope) = self.scopes.get_mut(&id) {
                scope.cleared_at = Some(ends);
            }
        }
    }

    /// It dies, and with it all gates that it holds.
    pub(super) fn agent_dies(&mut self) {
        self.agent = false;
        self.notices.clear();
        for id in self.ids() {
            if self.scopes[&id].gate.is_some() {
                self.is_over(id, Ending::Signal);
            }
        }
    }

    /// Gates that are held by another connection than this one are let go.
    pub(super) fn close_gates(&mut self, but: Option<u64>) {
        for id in self.ids() {
            let gate = self.scopes[&id].gate;
            if gate.is_some() && gate != but {
                self.is_over(id, Ending::Signal);
            }
        }
    }

    /// Its shim is killed; `torn`: while it wrote its record.
    pub(super) fn shim_dies(&mut self, id: RunnerId, torn: bool) {
        let Some(scope) = self.scopes.get_mut(&id) else {
            return;
        };
        scope.shim = false;
        let life = self.lives.entry(id).or_default();
        (life.orphaned, life.damaged) = (true, life.damaged || torn);
        if torn {
            self.records.insert(id, None);
        }
        if self.scopes[&id].gate.is_some() {
            // There was nobody else in it.
            self.scopes.remove(&id);
            self.notices.push(Notice::Lost(id));
        }
    }

    /// Takes over a deadline, unless a later one is in force or it has passed itself.
    fn set_fence(&mut self, deadline: Option<Deadline>) {
        let now = self.clock;
        let next = match deadline {
            None => Term::default(),
            Some(at) if at.stop_at <= self.file.stop_at.max(now) => return,
            Some(at) => Term {
                stop_at: at.stop_at,
                gone_by: at.gone_by,
                set_at: now,
            },
        };
        if self.file.has_passed(now) {
            self.missed = self.file;
        }
        self.file = next;
    }

    /// Sets the deadline of all; whether all of them keep it.
    pub(super) fn set_all_fences(&mut self, order: Option<Deadline>) -> bool {
        self.set_fence(order);
        let file = self.file;
        let mut kept = file.stop_at > 0;
        if kept {
            for scope in self.scopes.values_mut() {
                kept &= scope.arm(file);
            }
        }
        kept && order.is_some_and(|asked| file.gone_by <= asked.gone_by)
    }

    /// A scope with its shim at the gate; `false` = refused.
    pub(super) fn prepare(
        &mut self,
        id: RunnerId,
        (gate, asked, stop_timeout, old): (u64, Option<Deadline>, u64, bool),
    ) -> bool {
        if self.scopes.contains_key(&id) {
            // Of an earlier beginning.
            return false;
        }
        let life = self.lives.entry(id).or_default();
        // What was written down of an earlier beginning is gone.
        (life.boot, life.witnessed) = (self.boot, None);
        let mut scope = Scope {
            gate: Some(gate),
            shim: true,
            old,
            armed: 0,
            missed: None,
            frozen: false,
            stop_timeout,
            asked: None,
            gone_at: None,
            unkept: false,
            cleared_at: None,
            overslept: None,
        };
        if asked.is_some() {
            self.set_fence(asked);
        }
        let late = |at: Deadline| at.stop_at <= self.clock;
        if self.file.has_passed(self.clock) || asked.is_some_and(late) {
            return false;
        }
        if self.file.stop_at > 0 && !scope.arm(self.file) {
            return false;
        }
        self.scopes.insert(id, scope);
        true
    }

    /// Opens a gate; `false` = there is none that this connection holds.
    pub(super) fn go(&mut self, id: RunnerId, gate: u64, no_exec: bool) -> bool {
        let Some(scope) = self.scopes.get_mut(&id).filter(|s| s.gate == Some(gate)) else {
            return false;
        };
        scope.gate = None;
        if no_exec {
            self.is_over(id, Ending::NoExec);
            return false;
        }
        self.lives.entry(id).or_default().execs += 1;
        true
    }

    /// Closes a gate: nothing ran.
    pub(super) fn abort(&mut self, id: RunnerId) {
        if self.scopes.get(&id).is_some_and(|s| s.gate.is_some()) {
            self.is_over(id, Ending::Signal);
        }
    }

    /// Begins to stop a runner.
    pub(super) fn stop(&mut self, id: RunnerId, asked: Asked, dice: &mut Dice) {
        let clock = self.clock;
        let Some(scope) = self.scopes.get_mut(&id).filter(|s| s.shim) else {
            return;
        };
        if scope.gate.is_some() {
            return self.is_over(id, Ending::Signal);
        }
        scope.frozen = false;
        if scope.gone_at.is_none() {
            scope.asked = Some(asked);
            scope.gone_at = Some(clock + dice.below(scope.stop_timeout + 1));
        }
    }

    /// As systemd stops a scope.
    pub(super) fn stop_scope(&mut self, id: RunnerId, dice: &mut Dice) {
        match self.scopes.get(&id).map(|s| s.shim) {
            Some(true) => self.stop(id, Asked::Manager, dice),
            // The agent does it in its time, and tells.
            _ => {
                let soon = self.clock + dice.below(2_000_000);
                if let Some(scope) = self.scopes.get_mut(&id) {
                    scope.cleared_at = Some(scope.cleared_at.map_or(soon, |at| at.min(soon)));
                }
            }
        }
    }

    /// Whether it stands still now, or goes on.
    pub(super) fn freeze(&mut self, id: RunnerId, frozen: bool) -> bool {
        let scope = self.scopes.get_mut(&id);
        let scope = scope.filter(|s| s.shim && s.gate.is_none() && s.gone_at.is_none());
        scope.map(|s| s.frozen = frozen).is_some()
    }

    /// Removes what an ended one has left, once nothing of it lives.
    pub(super) fn forget(&mut self, id: RunnerId) {
        if !self.scopes.contains_key(&id) {
            self.records.remove(&id);
        }
    }
}

impl Scope {
    fn arm(&mut self, file: Term) -> bool {
        if !self.shim || self.old || self.frozen {
            return false;
        }
        if self.missed.is_none() && (self.armed == 0 || file.stop_at < self.armed) {
            self.armed = file.stop_at;
        }
        true
    }
}
