//! `status`.

use super::Global;
use super::bus;
use super::client::Client;
use super::failure::{FAILED, Failure, Result};
use super::out::Out;
use super::render;

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
            manager.live_runners().await?,
            manager.queued_runners().await?,
        ))
    };
    let (version, name, id, store, broker, live, queued) =
        get().await.map_err(|e| Failure::of_call(&e))?;
    let down = store == "down";
    if out.is_json() {
        out.object(&serde_json::json!({
            "version": version,
            "host_name": name,
            "host_id": id,
            "store": store,
            "broker": broker,
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
            ("Live runners", live.to_string()),
            ("Queued runners", queued.to_string()),
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
