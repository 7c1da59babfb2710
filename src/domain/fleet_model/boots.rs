//! Boots: the last word of a host that is shut down, who joins when, and copies of a machine, with its id and a boot of
//! their own.
//!
//! A copy asks for the first time while its host lives, and so is kept out; it asks again as long as it is there. It is
//! switched off before it could take the place of a host that is silent: what README (*A fleet*) tells of that is not
//! looked at here.

use super::check::must;
use super::dice::Dice;
use super::machine::Machine;
use super::store::{Fail, Store};
use super::world::World;
use crate::domain::host::{self, Host, Registration, Standing};
use crate::domain::{Error, Timestamp};

/// Which boot of a host has its epoch, in truth.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    id: String,
    /// It has said in time that it is over.
    over: bool,
}

/// A boot that has asked to be let in.
#[derive(Debug)]
pub(super) struct Asked {
    boot: String,
    /// It was kept out before, and knows it.
    kept_out: bool,
    /// The boot that had a lease when it asked.
    held: Option<Boot>,
    joined: bool,
}

/// Another machine with the id of this host.
#[derive(Debug)]
pub(super) struct Copy {
    host: String,
    boot: String,
}

impl Store {
    /// As the engine does it: who was kept out before looks whether the other one lives, and all join then.
    pub(super) fn lets_in(
        &mut self,
        (host, boot): (&str, &str),
        kept_out: bool,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let held = self
            .holds_lease(host, now)
            .then(|| self.boots[host].clone());
        let known = self.hosts.get(host).filter(|_| kept_out);
        let may = known.map_or(Ok(()), |known| {
            host::refuse_living(known, &about(host, boot), now)
        });
        let joined = may.and_then(|()| self.join((host, boot), now));
        self.asked.push(Asked {
            boot: boot.to_owned(),
            kept_out,
            held,
            joined: joined.is_ok(),
        });
        if joined.is_ok() {
            let (id, over) = (boot.to_owned(), false);
            self.boots.insert(host.to_owned(), Boot { id, over });
        }
        joined
    }

    /// Told by hand.
    fn holds_lease(&self, host: &str, now: Timestamp) -> bool {
        let row = self.hosts.get(host);
        row.is_some_and(|row| row.standing == Standing::Up && now < row.lease_until)
    }

    /// The last word of a host that is being shut down.
    pub(super) fn end_boot(&mut self, (host, epoch): (&str, u64)) -> Result<(), Fail> {
        self.is_current(host, Some(epoch))?;
        if let (Some(row), Some(boot)) = (self.hosts.get_mut(host), self.boots.get_mut(host)) {
            row.about.boot_id = host::over(&row.about.boot_id);
            boot.over = true;
        }
        Ok(())
    }
}

pub(super) fn about(host: &str, boot: &str) -> Registration {
    Registration {
        boot_id: boot.to_owned(),
        ..Host::sample(host, host).about
    }
}

impl Asked {
    /// Whether it was let in where it had to be, and nowhere else; what is to be seen of it.
    pub(super) fn looks(&self, machines: &[Machine]) -> Result<Option<&'static str>, String> {
        let own = machines.iter().any(|m| m.on && m.boot_id == self.boot);
        let held = self.held.as_ref().filter(|held| held.id != self.boot);
        let (must_join, seen) = match held {
            None => (true, None),
            Some(held) if held.over && self.kept_out => (false, Some("kept out for all that")),
            Some(held) if held.over => (true, Some("joined at once")),
            Some(_) if own => (false, Some("waited for the lease")),
            Some(_) => (false, Some("copy kept out")),
        };
        must(self.joined == must_join, || format!("{self:?}"))?;
        must(own || !self.joined, || {
            format!("a copy was let in: {self:?}")
        })?;
        Ok(seen)
    }
}

impl World {
    /// The host is shut down: its daemon says so as the last thing it does, which may be late, or never arrive.
    pub(super) fn goes_down(&mut self, at: usize, dice: &mut Dice) {
        let machine = &mut self.machines[at];
        let daemon = machine.daemon.take();
        machine.stopping = machine.on;
        let Some(epoch) = daemon.and_then(|daemon| daemon.epoch) else {
            return;
        };
        let word = (machine.name.clone(), epoch);
        match dice.below(10) {
            0 => {}
            1 | 2 => self.words.push(word),
            _ if machine.cut => {}
            _ => self.is_told(&word),
        }
    }

    /// It is off, or has lost its power on the way; or the daemon was only started anew in the same boot.
    pub(super) fn is_down(&mut self, at: usize, dice: &mut Dice) {
        let machine = &mut self.machines[at];
        match dice.below(10) {
            0 => machine.stopping = false,
            1 => machine.crashes(),
            2.. => {
                machine.shuts_down();
                self.checker.saw("host shut down");
                if dice.permille(600) {
                    machine.boots(self.now);
                }
            }
        }
    }

    /// A word that was on its way arrives.
    pub(super) fn is_told(&mut self, (host, epoch): &(String, u64)) {
        let told = match self.store.end_boot((host, *epoch)) {
            Ok(()) => "last word",
            Err(_) => "word too late",
        };
        self.checker.saw(told);
    }

    /// A copy of a machine that lives asks, or one asks again.
    pub(super) fn copy_asks(&mut self, at: usize, dice: &mut Dice) {
        let now = Timestamp(self.now);
        let machine = &self.machines[at];
        let (host, boot) = (machine.name.clone(), machine.boot_id.clone());
        let alive = |store: &Store| {
            let held = store.boots.get(&host);
            store.holds_lease(&host, now) && held.is_some_and(|held| held.id == boot && !held.over)
        };
        let there = self.copies.iter().position(|copy| copy.host == host);
        if let Some(there) = there {
            let asks = self.store.holds_lease(&host, now);
            if !asks || dice.permille(20) {
                self.copies.remove(there);
                return;
            }
            let copy = &self.copies[there];
            let _ = self.store.lets_in((&host, &copy.boot), true, now);
        } else if machine.is_awake() && !machine.stopping && alive(&self.store) {
            let boot = format!("{boot}-copy");
            let _ = self.store.lets_in((&host, &boot), false, now);
            self.copies.push(Copy { host, boot });
        }
    }
}
