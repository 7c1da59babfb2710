//! The hosts of the fleet as an operator sees and changes them. What a cordon wants of the runners
//! here is carried out by [`super::policy`], on each host by itself.

use super::queries::{PREFIX_MIN, too_short};
use super::{Engine, store_error};
use crate::domain::event::Actor;
use crate::domain::host::Host;
use crate::domain::name::shown;
use crate::domain::nearest::nearest;
use crate::domain::{Error, ErrorKind, Runner, Timestamp};
use crate::ports::FleetState;

impl Engine {
    /// All hosts that have ever joined, by name, and the store's clock.
    pub async fn hosts(&self) -> Result<(Timestamp, Vec<Host>), Error> {
        self.0.store.hosts().await.map_err(store_error)
    }

    /// Id and name of the host that is meant: by its id, its name, or the beginning of its id.
    /// This one is known without the store.
    pub async fn host_called(&self, text: &str) -> Result<(String, String), Error> {
        let settings = &self.0.settings;
        let this = || (settings.host.clone(), settings.host_name.clone());
        if text == settings.host || (settings.sole_host && text == settings.host_name) {
            return Ok(this());
        }
        match self.hosts().await {
            Ok((_, hosts)) => {
                let about = &called(&hosts, text)?.about;
                Ok((about.host.clone(), about.name.clone()))
            }
            Err(_) if text == settings.host_name => Ok(this()),
            Err(error) => Err(error),
        }
    }

    /// The name of a host by its id; its id where that can't be found out.
    pub async fn host_name(&self, id: &str) -> String {
        let hosts = self.hosts().await.map(|(_, hosts)| hosts);
        let hosts = hosts.unwrap_or_default();
        let found = hosts.into_iter().find(|h| h.about.host == id);
        found.map_or_else(|| id.to_owned(), |h| h.about.name)
    }

    /// Whether this is a runner of another host of the fleet.
    pub fn is_peers(&self, runner: &Runner) -> bool {
        !self.0.settings.sole_host && runner.host != self.0.settings.host
    }

    /// Has nothing new start on a host (its id). With `drain`, what still runs there so many µs
    /// later is stopped.
    pub async fn cordon(
        &self,
        host: &str,
        reason: String,
        drain: Option<u64>,
        actor: Actor,
    ) -> Result<(), Error> {
        let set = self.0.store.cordon(host, reason, drain, actor).await;
        self.policy_changed(vec![set.map_err(store_error)?]);
        Ok(())
    }

    /// Lets a host (its id) take new runners again.
    pub async fn uncordon(&self, host: &str, actor: Actor) -> Result<(), Error> {
        let done = self.0.store.uncordon(host, actor).await;
        self.policy_changed(done.map_err(store_error)?.into_iter().collect());
        Ok(())
    }

    /// Gives up a host (its id) on an operator's word. Returns how many runners ended.
    pub async fn forget_host(&self, host: &str, actor: Actor) -> Result<u32, Error> {
        if *host == self.0.settings.host {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "This host, {}, is up and can't be forgotten: it asks itself. Ask another host of the fleet, when this one is gone.",
                    self.0.settings.host_name
                ),
            ));
        }
        let events = self.0.store.forget(host, actor).await;
        let events = events.map_err(store_error)?;
        let ended = events
            .iter()
            .filter(|e| e.draft.kind == crate::domain::event::EventType::RunnerEnded);
        let ended = u32::try_from(ended.count()).unwrap_or(u32::MAX);
        self.policy_changed(events);
        Ok(ended)
    }

    /// How the fleet as a whole stands.
    pub async fn fleet(&self) -> Result<FleetState, Error> {
        self.0.store.fleet().await.map_err(store_error)
    }

    /// Sets or lifts the cap of the whole fleet.
    pub async fn set_fleet_max(&self, max: Option<u32>, actor: Actor) -> Result<(), Error> {
        let set = self.0.store.set_fleet_max(max, actor).await;
        self.policy_changed(vec![set.map_err(store_error)?]);
        Ok(())
    }
}

/// The one host that is meant.
fn called<'a>(hosts: &'a [Host], text: &str) -> Result<&'a Host, Error> {
    let lower = text.to_ascii_lowercase();
    if let Some(host) = hosts.iter().find(|h| h.about.host == lower) {
        return Ok(host);
    }
    let mut found: Vec<&Host> = hosts.iter().filter(|h| h.about.name == text).collect();
    if found.is_empty() && text.len() >= PREFIX_MIN {
        let begins = |h: &&Host| h.about.host.starts_with(&lower);
        found = hosts.iter().filter(begins).collect();
    }
    match found[..] {
        [host] => Ok(host),
        [] => {
            let names = hosts.iter().map(|h| h.about.name.as_str());
            let near = nearest(text, names).map(|n| format!(" Did you mean {}?", shown(n)));
            Err(Error::new(
                ErrorKind::NoSuchHost,
                format!(
                    "No host “{}” has ever joined.{}{} See: stratavorectl host list.",
                    shown(text),
                    too_short(text),
                    near.unwrap_or_default()
                ),
            ))
        }
        _ => {
            let ids: Vec<&str> = found.iter().map(|h| h.about.host.as_str()).collect();
            Err(Error::new(
                ErrorKind::AmbiguousName,
                format!(
                    "“{}” means several hosts: {}. Give an id.",
                    shown(text),
                    ids.join(", ")
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_called_by_id_name_or_a_beginning() {
        let hosts = [
            Host::sample("aaaa1", "web-1"),
            Host::sample("aaaa2", "web-2"),
            Host::sample("bbbb1", "same"),
            Host::sample("bbbb2", "same"),
        ];
        let at = |text: &str| called(&hosts, text).map(|h| h.about.host.as_str());
        let refused = |text: &str| at(text).map_err(|e| e.kind).err();
        assert_eq!(at("aaaa1"), Ok("aaaa1"));
        assert_eq!(at("web-2"), Ok("aaaa2"));
        assert_eq!(at("bbbb2"), Ok("bbbb2"));
        assert_eq!(refused("same"), Some(ErrorKind::AmbiguousName));
        assert_eq!(refused("aaaa"), Some(ErrorKind::AmbiguousName));
        assert_eq!(refused("aaa"), Some(ErrorKind::NoSuchHost));
        assert_eq!((at("AAAA2"), at("BBBB2")), (Ok("aaaa2"), Ok("bbbb2")));
        assert!(at("aaa").is_err_and(|e| e.message.contains("at least 4 characters")));
        assert!(at("zzz").is_err_and(|e| !e.message.contains("characters")));
        assert!(at("web-3").is_err_and(|e| e.message.contains("Did you mean web-")));
    }
}
