//! Hosts in the store: joining, leases, who is away, and giving back what they held.

use super::boots::about;
use super::store::{Fail, LOST_AFTER, Row, Store, TTL};
use crate::domain::event::Actor;
use crate::domain::host::{self, Host, Standing};
use crate::domain::runner::{Change, Step};
use crate::domain::{Cause, Error, Exit, State, Timestamp, Usage};

impl Store {
    pub(super) fn join(
        &mut self,
        (name, boot_id): (&str, &str),
        now: Timestamp,
    ) -> Result<u64, Error> {
        let about = about(name, boot_id);
        let known = self.hosts.get(name);
        let former_boots = host::join(known, &about)?;
        if let Some(known) = known {
            host::refuse_second(known, &about, now)?;
        }
        let epoch = known.map_or(0, |h| h.epoch) + 1;
        let joined = Host {
            epoch,
            former_boots,
            cordon: known.and_then(|h| h.cordon.clone()),
            joined_at: now,
            renewed_at: now,
            lease_until: now.plus_usec(TTL),
            about,
            ..Host::sample(name, name)
        };
        self.hosts.insert(name.to_owned(), joined);
        Ok(epoch)
    }

    pub(super) fn renew(
        &mut self,
        (host, epoch): (&str, u64),
        fenced_after: Option<u64>,
        now: Timestamp,
    ) -> Result<(), Fail> {
        self.is_current(host, Some(epoch))?;
        if let Some(host) = self.hosts.get_mut(host) {
            host.standing = Standing::Up;
            (host.renewed_at, host.lease_until) = (now, now.plus_usec(TTL));
            host.fenced_after = fenced_after;
        }
        Ok(())
    }

    /// Writes down who is away. What they held is given back later, by anybody.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        for host in self.hosts.values_mut() {
            if host.is_lost(now, LOST_AFTER) {
                host.standing = Standing::Lost;
                host.epoch += 1;
            } else if host.standing == Standing::Up && !host.is_up(now) {
                host.standing = Standing::Unreachable;
            }
        }
    }

    pub(super) fn forget(&mut self, host: &str, now: Timestamp) {
        let host = self.hosts.get_mut(host);
        if let Some(host) = host.filter(|h| !h.is_up(now) && h.standing != Standing::Left) {
            host.standing = Standing::Left;
            host.former_boots.clear();
            host.epoch += 1;
        }
    }

    pub(super) fn give_back(&mut self, now: Timestamp) {
        let gone = self.hosts.values();
        let gone = gone.filter(|h| matches!(h.standing, Standing::Lost | Standing::Left));
        let gone: Vec<_> = gone.map(|h| (h.about.host.clone(), h.standing)).collect();
        for (host, standing) in gone {
            let of_it = |r: &&mut Row| {
                let state = r.runner.state();
                let waits = state == State::Queued && standing == Standing::Left;
                r.runner.host == host && (state.is_live() || waits)
            };
            let rows = self.rows.values_mut().filter(of_it);
            let ids: Vec<_> = rows
                .map(|row| {
                    row.given_up = Some(standing);
                    row.runner.id
                })
                .collect();
            for id in ids {
                let change = Change {
                    id,
                    step: Step::End(lost(), Usage::default()),
                    actor: Actor::host(),
                    at: now,
                };
                let _ = self.take(&change, now);
            }
        }
    }
}

fn lost() -> Exit {
    Exit {
        cause: Cause::HostLost,
        code: None,
        signal: None,
        message: "Its host was given up.".to_owned(),
    }
}
