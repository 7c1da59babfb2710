//! `status`.

use super::Global;
use super::bus;
use super::client::{Client, number, text};
use super::failure::{FAILED, Failure, Result};
use super::host::cordon;
use super::out::Out;
use super::render;
use crate::api::proxy::Dict;
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
    let down = store == "down";
    if out.is_json() {
        out.object(&serde_json::json!({
            "version": version,
            "host_name": name,
            "host_id": id,
            "store": store,
            "broker": broker,
            "audit": audit,
            "live_runners": live,
            "queued_runners": queued,
        }))?;
    } else if !global.quiet {
        let store = match store.as_str() {
            "down" => format!(
                "down: nothing can be launched, running work goes on. See: {} stratavored",
                bus::journalctl_unit()
            ),
            "degraded" => format!(
                "degraded: nothing can be launched for now. See: {} status stratavored",
                bus::systemctl()
            ),
            other => other.to_owned(),
        };
        let mut rows = vec![
            ("Host", format!("{name} ({id})")),
            ("Version", version),
            ("Store", store),
            (
                "Audit",
                match audit.as_str() {
                    "unconfigured" => "not kept: there is no key. See: man stratavored".to_owned(),
                    other => other.to_owned(),
                },
            ),
            ("Live runners", live.to_string()),
            ("Queued runners", queued.to_string()),
            ("Cordon", cordon_here(&hosts)),
            ("Fleet", fleet(&hosts)),
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

/// `draining: new disk`; empty if this host is not cordoned.
fn cordon_here(hosts: &[Dict]) -> String {
    let local = |h: &&Dict| matches!(h.get("local").map(|v| &**v), Some(Variant::Bool(true)));
    hosts.iter().find(local).map(cordon).unwrap_or_default()
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
