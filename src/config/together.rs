//! Values that are right by themselves and wrong together.

use super::{Config, ConfigError, StoreUrl, notify};
use crate::domain::units::show_span;
use std::path::Path;
use std::time::Duration;

/// The fewest connections to a fleet's store: a transaction that writes is not waited for by who reads, and who removes
/// from the outbox what is published.
const CONNECTIONS_MIN: u32 = 2;

impl Config {
    /// Refuses values that are right by themselves and wrong together. The error is said of the
    /// place where one of them was given last.
    pub(super) fn check(&self, file: &Path) -> Result<(), ConfigError> {
        if let Some((key, message)) = notify::wrong(&self.notify) {
            return Err(self.wrong(file, [&key, &key], message));
        }
        if let Some(message) = self.too_few_connections() {
            let keys = ["store.max_connections", "store.url"];
            return Err(self.wrong(file, keys, message));
        }
        let fleet = &self.fleet;
        let shown = |span: Duration| show_span(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
        let (renew, ttl, lost) = (fleet.lease_renew, fleet.lease_ttl, fleet.lost_after);
        let (keys, message) = if renew * 3 > ttl {
            let message = format!(
                "fleet.lease_ttl = {} is less than three times fleet.lease_renew = {}: a renewal or two that fail would make this host unreachable; make lease_ttl longer or lease_renew shorter.",
                shown(ttl),
                shown(renew)
            );
            (["fleet.lease_ttl", "fleet.lease_renew"], message)
        } else if ttl >= lost {
            let message = format!(
                "fleet.lost_after = {} is not longer than fleet.lease_ttl = {}: a host is unreachable before it is lost; make lost_after longer.",
                shown(lost),
                shown(ttl)
            );
            (["fleet.lost_after", "fleet.lease_ttl"], message)
        } else {
            let Err(refused) = self.fence() else {
                return Ok(());
            };
            let keys = ["fleet.stop_on_disconnect_after", "fleet.lost_after"];
            (keys, refused.message)
        };
        Err(self.wrong(file, keys, message))
    }

    /// Refuses what nobody could promise for a user's own instance (`--user`).
    pub fn check_user(self) -> Result<Self, ConfigError> {
        if self.fleet.stop_on_disconnect_after.is_none() {
            return Ok(self);
        }
        let key = "fleet.stop_on_disconnect_after";
        let message = format!(
            "{key}: with --user a runner could keep its own shim from stopping it, as both are the user's, and other hosts would count on the stop; leave it out."
        );
        Err(self.wrong(Path::new(""), [key, key], message))
    }

    /// Why the fleet's store can't do with so many connections, if it can't.
    fn too_few_connections(&self) -> Option<String> {
        let given = self.max_connections;
        let fleet = matches!(self.store, StoreUrl::Postgres(_));
        (fleet && given < CONNECTIONS_MIN).then(|| {
            format!(
                "store.max_connections = {given} is too few for postgres: one connection writes, and another one reads and removes what is published; give at least {CONNECTIONS_MIN}."
            )
        })
    }

    fn wrong(&self, file: &Path, keys: [&str; 2], message: String) -> ConfigError {
        let origin = keys.iter().find_map(|key| self.origins.get(*key));
        let place = origin.and_then(|origin| origin.rsplit_once(':'));
        ConfigError {
            file: place.map_or(file, |(file, _)| Path::new(file)).to_owned(),
            line: place.and_then(|(_, line)| line.parse().ok()),
            message,
        }
    }
}
