//! `status`.

use super::Global;
use super::agent::{self, Away};
use super::bus;
use super::client::{Client, number, text};
use super::failure::{FAILED, Failure, Result};
use super::host::cordon;
use super::out::Out;
use super::text::clean;
use super::{json, render};
use crate::api::proxy::{Dict, Given};
use zbus::Variant;

/// Shows how stratavored is; 1 if nothing can be launched.
pub(super) async fn status(client: &Client, global: &Global) -> Result<u8> {
    let out = Out::new(global);
    let manager = client.manager();
    let get = async || -> zbus::Result<_> {
        Ok((
            manager.version().await?,
            manager.host_name().await?,
            manager.host_id().await?,
            manager.store().await?,
            manager.broker().await?,
            manager.audit().await?,
            manager.live_runners().await?,
            manager.queued_runners().await?,
        ))
    };
    let (version, name, id, store, broker, audit, live, queued) =
        get().await.map_err(|e| Failure::of_call(&e))?;
    // None while the store is away; the rest is known without it.
    let hosts = manager.list_hosts().await.unwrap_or_default();
    // An earlier stratavored does not tell it.
    let lease = manager.lease().await.unwrap_or_default();
    let notifications = manager.notifications().await.unwrap_or_default();
    let agent = manager.agent().await.unwrap_or_default();
    let not_ready = manager.not_ready().await.unwrap_or_default();
    let down = store == "down";
    let outbox = match broker.as_str() {
        "unconfigured" => Dict::new(),
        _ => manager
            .describe_outbox(&Given::new())
            .await
            .unwrap_or_default(),
    };
    if out.is_json() {
        out.object(&serde_json::json!({
            "version": version,
            "host_name": name,
            "host_id": id,
            "store": store,
            "agent": agent::as_json(&agent),
            "not_ready": not_ready,
            "broker": broker,
            "audit": audit,
            "live_runners": live,
            "queued_runners": queued,
            "lease": json::lease(&lease),
            "notifications": notifications,
        }))?;
    } else {
        let away = Away::told(&agent);
        let store = match store.as_str() {
            "down" => format!(
                "down: nothing can be launched, running work goes on. See: {} stratavored",
                bus::journalctl_unit()
            ),
            // What is the matter is told of the agent.
            "degraded" if away.is_some() => "ok".to_owned(),
            "degraded" => degraded(&not_ready),
            other => other.to_owned(),
        };
        let waiting = match number(&outbox, "pending").unwrap_or_default() {
            _ if outbox.is_empty() => String::new(),
            0 => super::outbox::broker(&outbox),
            n => format!(
                "{}; {n} events to be published",
                super::outbox::broker(&outbox)
            ),
        };
        let mut rows = vec![
            ("Host", format!("{name} ({id})")),
            ("Version", version),
            ("Store", store),
            ("Agent", away.map(Away::status).unwrap_or_default()),
            (
                "Audit",
                match audit.as_str() {
                    "unconfigured" => "not kept: there is no key. See: man stratavored".to_owned(),
                    other => other.to_owned(),
                },
            ),
            ("Broker", waiting),
            ("Live runners", live.to_string()),
            ("Queued runners", queued.to_string()),
            (
                "Notifications",
                match notifications.as_str() {
                    "failing" => {
                        bus::advice("failing: some do not arrive. See: stratavorectl notify list")
                    }
                    "unconfigured" => String::new(),
                    other => other.to_owned(),
                },
            ),
            ("Cordon", cordon_here(&hosts)),
            ("Fleet", fleet(&hosts)),
            ("Lease", lease_words(&lease)),
            ("Self-fence", fence_words(&lease)),
        ];
        if bus::is_user() {
            let after_logout = match bus::lingers().await {
                Some(true) => "runners go on: you linger",
                Some(false) => "all is stopped. To let it go on: loginctl enable-linger",
                None => "unknown: logind does not answer",
            };
            rows.push(("After logout", after_logout.to_owned()));
        }
        out.text(&render::block(&rows, out.look.width))?;
    }
    Ok(if down { FAILED } else { 0 })
}

/// It answers, and nothing can be launched: why not.
fn degraded(not_ready: &[String]) -> String {
    let why = match not_ready {
        [] => String::new(),
        some => format!(" ({})", clean(&some.join("; "))),
    };
    format!(
        "ok, but nothing can be launched for now{why}. See: {} status stratavored",
        bus::systemctl()
    )
}

/// `draining: new disk`; empty if this host is not cordoned.
fn cordon_here(hosts: &[Dict]) -> String {
    let local = |h: &&Dict| matches!(h.get("local").map(|v| &**v), Some(Variant::Bool(true)));
    hosts.iter().find(local).map(cordon).unwrap_or_default()
}

/// `epoch 3, since Mon 2026-11-23 …; holds for 47s more`; empty where there is no fleet.
fn lease_words(lease: &Dict) -> String {
    let Some(left) = number(lease, "remaining") else {
        return String::new();
    };
    let Some(epoch) = number(lease, "epoch") else {
        return "none: this host has not joined its fleet (any more), so nothing is launched here"
            .to_owned();
    };
    let since = number(lease, "joined_at").map_or("-".to_owned(), render::time);
    let rest = match left {
        0 => "it has run out, so nothing is launched here until the store is reached".to_owned(),
        left => format!("it holds for {} more", render::span(left)),
    };
    format!("epoch {epoch}, since {since}; {rest}")
}

/// Whether and when running work stops by itself; empty where there is no fleet.
fn fence_words(lease: &Dict) -> String {
    let stops = match number(lease, "stops_in") {
        None => String::new(),
        Some(left) => format!(
            "running work stops by itself in {} unless store and agent are reached before",
            render::span(left)
        ),
    };
    match (text(lease, "self_fence"), text(lease, "self_fence_note")) {
        ("off", _) => "off: running work never stops because the store is away".to_owned(),
        ("armed", _) => format!("armed: {stops}"),
        ("not-armed", "") if stops.is_empty() => "not armed yet".to_owned(),
        ("not-armed", "") => format!("not armed yet; {stops}"),
        ("not-armed", why) => format!("not armed: {}", clean(why)),
        _ => String::new(),
    }
}

/// `2 hosts up, 1 unreachable; 12 live runners`; empty where there is one host.
fn fleet(hosts: &[Dict]) -> String {
    if hosts.len() < 2 {
        return String::new();
    }
    let count = |state: &str| hosts.iter().filter(|h| text(h, "state") == state).count();
    let mut out = match count("up") {
        1 => "1 host up".to_owned(),
        n => format!("{n} hosts up"),
    };
    for state in ["unreachable", "lost", "left"] {
        match count(state) {
            0 => {}
            n => out.push_str(&format!(", {n} {state}")),
        }
    }
    let live: u64 = hosts.iter().filter_map(|h| number(h, "live")).sum();
    format!("{out}; {live} live runners")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(epoch: Option<u64>, remaining: u64, fence: &str, stops: Option<u64>) -> Dict {
        let mut dict = Dict::new();
        let known = [("epoch", epoch), ("stops_in", stops)];
        let known = known.into_iter().filter_map(|(key, n)| Some((key, n?)));
        dict.extend(known.map(|(key, n)| (key.to_owned(), n.into())));
        dict.insert("remaining".to_owned(), remaining.into());
        let fence = zbus::Variant::from(fence.to_owned()).try_into_owned();
        dict.extend(fence.ok().map(|fence| ("self_fence".to_owned(), fence)));
        dict
    }

    #[test]
    fn the_place_in_the_fleet_in_plain_words() {
        let none = Dict::new();
        assert_eq!((lease_words(&none), fence_words(&none)), Default::default());
        let held = lease(Some(3), 47_000_000, "armed", Some(540_000_000));
        let words = lease_words(&held);
        assert!(words.starts_with("epoch 3, since "), "{words}");
        assert!(words.ends_with("it holds for 47s more"), "{words}");
        assert!(fence_words(&held).starts_with("armed: running work stops by itself in 9min"));
        let away = lease(Some(3), 0, "off", None);
        assert!(lease_words(&away).contains("it has run out"));
        assert!(fence_words(&away).starts_with("off: "));
        let fenced = lease(None, 0, "not-armed", None);
        assert!(lease_words(&fenced).starts_with("none: "));
        assert_eq!(fence_words(&fenced), "not armed yet");
    }
}
