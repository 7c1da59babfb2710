//! `/sd`: Prometheus' HTTP service discovery of all hosts of the fleet, from any one of them.
//!
//! Prometheus takes every answer of status 200 for the whole truth and drops what is not in it; at any
//! other it keeps what it has. So the last known list is told while the store is away, however old it
//! is, and a host of a fleet that has not seen its fleet yet answers 503. Hosts that are unreachable
//! stay in the list, for their alert; one that was forgotten is left out.

use crate::domain::Timestamp;
use crate::domain::host::{Host, Standing};
use crate::engine::Peers;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// This host, which is always in the list.
#[derive(Debug)]
pub(super) struct Own<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) target: String,
}

/// The targets: this host's first.
pub(super) fn targets(own: &Own<'_>, peers: Option<&Peers>) -> Value {
    let (now, hosts) = peers.map_or((Timestamp(0), &[][..]), |peers| {
        (peers.now, &peers.hosts[..])
    });
    let found = hosts.iter().find(|h| h.about.host == own.id);
    let mut all = vec![entry(
        own.id,
        own.name,
        &own.target,
        found.map(|h| (h, now)),
    )];
    for host in hosts {
        let about = &host.about;
        let listed = about.host != own.id
            && host.standing != Standing::Left
            && is_reachable(&about.advertise);
        if listed {
            all.push(entry(
                &about.host,
                &about.name,
                &about.advertise,
                Some((host, now)),
            ));
        }
    }
    Value::Array(all)
}

fn entry(id: &str, name: &str, target: &str, host: Option<(&Host, Timestamp)>) -> Value {
    let mut labels = Map::new();
    labels.insert("__meta_stratavore_host_id".to_owned(), json!(id));
    labels.insert("__meta_stratavore_host_name".to_owned(), json!(name));
    if let Some((host, now)) = host {
        let state = host.standing_at(now).as_str();
        labels.insert("__meta_stratavore_host_state".to_owned(), json!(state));
        for (key, value) in &host.about.labels {
            labels.insert(
                format!("__meta_stratavore_host_label_{}", word(key)),
                json!(value),
            );
        }
    }
    json!({ "targets": [target], "labels": labels })
}

/// As Prometheus' own discoveries write names into those of labels.
fn word(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    key.chars().map(plain).collect()
}

/// Whether others may reach a host at it: an address of the machine itself is nobody else's.
fn is_reachable(target: &str) -> bool {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let local = match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host.is_empty() || host == "localhost",
    };
    !local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: &str, advertise: &str, standing: Standing) -> Host {
        let mut host = Host::sample(id, &format!("name-{id}"));
        host.about.labels = [("disk.type".to_owned(), "ssd".to_owned())].into();
        host.about.advertise = advertise.to_owned();
        (host.standing, host.lease_until) = (standing, Timestamp(100));
        host
    }

    #[test]
    fn every_host_that_can_be_reached_is_listed_once() {
        let hosts = vec![
            host("a", "127.0.0.1:9791", Standing::Up),
            host("b", "10.0.0.2:9791", Standing::Up),
            host("c", "127.0.0.1:9791", Standing::Up),
            host("d", "[::1]:9791", Standing::Up),
            host("e", "web-5:80", Standing::Unreachable),
            host("f", "web-6:80", Standing::Left),
            host("g", "web-7:80", Standing::Lost),
            host("h", "localhost:80", Standing::Up),
            host("i", "", Standing::Up),
        ];
        let peers = Peers {
            now: Timestamp(50),
            hosts,
            read: tokio::time::Instant::now(),
        };
        let own = Own {
            id: "a",
            name: "name-a",
            target: "10.0.0.1:9791".to_owned(),
        };
        let told = targets(&own, Some(&peers));
        let of = |n: usize| told[n]["targets"][0].as_str().unwrap_or_default();
        let all: Vec<&str> = (0..told.as_array().map_or(0, Vec::len)).map(of).collect();
        assert_eq!(
            all,
            ["10.0.0.1:9791", "10.0.0.2:9791", "web-5:80", "web-7:80"]
        );
        let labels = &told[2]["labels"];
        assert_eq!(labels["__meta_stratavore_host_state"], "unreachable");
        assert_eq!(labels["__meta_stratavore_host_label_disk_type"], "ssd");
        let alone = targets(&own, None);
        assert_eq!(alone.as_array().map(Vec::len), Some(1));
    }
}
