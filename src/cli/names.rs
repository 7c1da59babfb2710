//! What the hosts of a fleet are called. Where there is only one, nobody needs to be told on which
//! host something is, or was asked for.

use super::client::{Client, dict, number, text};
use super::text::clean;
use crate::api::proxy::Dict;
use std::collections::BTreeMap;
use zbus::wire::Str;

/// Names by id; none where there is one host, or while the store is away.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    /// Asks for them.
    pub(super) async fn of(client: &Client) -> Self {
        let hosts = client.manager().list_hosts().await.unwrap_or_default();
        match hosts.len() {
            0 | 1 => Self::default(),
            _ => Self::from(&hosts),
        }
    }

    fn from(hosts: &[Dict]) -> Self {
        let names = hosts
            .iter()
            .map(|h| (text(h, "id").to_owned(), clean(text(h, "name"))));
        Self(names.collect())
    }

    /// The name of this one; its id, if it has never joined.
    pub(super) fn host(&self, id: &str) -> Option<String> {
        match self.0.get(id) {
            _ if self.0.is_empty() || id.is_empty() => None,
            Some(name) => Some(name.clone()),
            None => Some(clean(id)),
        }
    }

    /// Gives each runner the key `host_name`.
    pub(super) fn put(&self, runners: &mut [Dict]) {
        for runner in runners {
            if let Some(name) = self.host(text(runner, "host")) {
                runner.insert("host_name".to_owned(), Str::from(name).into());
            }
        }
    }

    /// Who did it, of an event, hold or cordon: `alice`, `uid 1000`, `alice@web-1`, or the host itself.
    pub(super) fn actor(&self, of: &Dict) -> String {
        let actor = dict(of, "actor");
        let who = match (text(&actor, "user"), number(&actor, "uid")) {
            ("", Some(uid)) => format!("uid {uid}"),
            ("", None) => return "the host itself".to_owned(),
            (user, _) => clean(user),
        };
        match self.host(text(&actor, "host")) {
            Some(host) => format!("{who}@{host}"),
            None => who,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pairs: &[(&str, &str)]) -> Dict {
        let text = |t: &str| Str::from(t.to_owned()).into();
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), text(v)));
        pairs.collect()
    }

    #[test]
    fn actors_of_several_hosts_are_told_apart() {
        let event = |actor: Dict| {
            let actor = zbus::Variant::from(actor).try_into_owned();
            Dict::from_iter(actor.ok().map(|a| ("actor".to_owned(), a)))
        };
        let alice = event(words(&[("user", "alice"), ("host", "a1")]));
        assert_eq!(Names::default().actor(&alice), "alice");
        let hosts = [
            words(&[("id", "a1"), ("name", "web\x1b-1")]),
            words(&[("id", "a2"), ("name", "web-2")]),
        ];
        let names = Names::from(&hosts);
        assert_eq!(names.actor(&alice), "alice@web\u{fffd}-1");
        let before = event(words(&[("user", "alice")]));
        assert_eq!(names.actor(&before), "alice", "of an earlier release");
        assert_eq!(names.actor(&Dict::new()), "the host itself");
        assert_eq!(names.host("a3").as_deref(), Some("a3"));
        let mut runners = [words(&[("host", "a2")])];
        names.put(&mut runners);
        assert_eq!(text(&runners[0], "host_name"), "web-2");
    }
}
