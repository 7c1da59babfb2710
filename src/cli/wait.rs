//! Waiting for endings: `wait`, and what `stop` and `run --wait` do.

use super::args::Wait;
use super::client::{Client, dict, text};
use super::failure::Result;
use super::render::Out;
use super::{Global, json};
use crate::api::proxy::Dict;
use crate::domain::signal;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use zbus::Variant;

/// Signals can be missed (the daemon may be starting again): so often it is asked in any case.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Endings as they happen; subscribe before the first look, so that none falls in between.
#[derive(Debug)]
pub(super) struct Endings(mpsc::UnboundedReceiver<String>);

impl Endings {
    pub(super) async fn subscribe(client: &Client) -> Result<Self> {
        client.endings().await.map(Self)
    }

    /// Waits until all these (ids) have ended, and hands over each description as it comes.
    pub(super) async fn of(
        &mut self,
        client: &Client,
        mut ids: BTreeSet<String>,
        mut ended: impl FnMut(&Dict) -> Result<()>,
    ) -> Result<()> {
        let mut ask: Vec<String> = ids.iter().cloned().collect();
        let mut tick = tokio::time::interval(ASK_AGAIN);
        tick.reset();
        loop {
            for id in ask.drain(..) {
                match client.describe(&id).await {
                    Ok(described) if text(&described, "state") == "ended" => {
                        ids.remove(&id);
                        ended(&described)?;
                    }
                    Ok(_) => {}
                    // It is restarting; runners go on meanwhile.
                    Err(failure) if failure.is("Away") || failure.is("StoreUnavailable") => {}
                    Err(failure) => return Err(failure),
                }
            }
            if ids.is_empty() {
                return Ok(());
            }
            tokio::select! {
                id = self.0.recv() => match id {
                    Some(id) if ids.contains(&id) => ask.push(id),
                    Some(_) => {}
                    None => {
                        tick.tick().await;
                        ask = ids.iter().cloned().collect();
                    }
                },
                _ = tick.tick() => ask = ids.iter().cloned().collect(),
            }
        }
    }
}

/// `wait`: 0 when all have ended, however they did.
pub(super) async fn wait(client: &Client, global: &Global, args: &Wait) -> Result<u8> {
    let out = Out::new(global.output);
    let mut endings = Endings::subscribe(client).await?;
    let mut ids = BTreeSet::new();
    for id in &args.ids {
        ids.insert(text(&client.describe(id).await?, "id").to_owned());
    }
    let mut all = Vec::new();
    endings
        .of(client, ids, |described| {
            if out.is_json() {
                all.push(json::shown(described));
                return Ok(());
            }
            match global.quiet {
                true => Ok(()),
                false => out.line(&told(described)),
            }
        })
        .await?;
    if out.is_json() {
        match (args.ids.len(), all.first()) {
            (1, Some(one)) => out.object(one)?,
            _ => out.objects(all)?,
        }
    }
    Ok(0)
}

/// `<id>: exit-code. The main process exited with status 7.`
pub(super) fn told(described: &Dict) -> String {
    let exit = dict(described, "exit");
    format!(
        "{}: {}. {}",
        text(described, "id"),
        text(&exit, "cause"),
        super::render::clean(text(&exit, "message"))
    )
}

fn int(of: &Dict, key: &str) -> Option<i32> {
    match of.get(key).map(|v| &**v) {
        Some(Variant::I32(n)) => Some(*n),
        _ => None,
    }
}

/// The status a shell would have for the command.
pub(super) fn status(described: &Dict) -> u8 {
    let exit = dict(described, "exit");
    match (int(&exit, "code"), int(&exit, "signal")) {
        (_, Some(number)) if (1..=signal::MAX).contains(&number) => {
            u8::try_from(128 + number).unwrap_or(u8::MAX)
        }
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        _ => 125,
    }
}

/// `success`, `exit-code 7`, `signal SIGKILL`: the ending in a column.
pub(super) fn short(described: &Dict) -> String {
    let exit = dict(described, "exit");
    let cause = text(&exit, "cause").to_owned();
    match (cause.as_str(), int(&exit, "code"), int(&exit, "signal")) {
        ("success", ..) => cause,
        (_, _, Some(number)) => format!("{cause} {}", signal::name(number)),
        (_, Some(code), _) => format!("{cause} {code}"),
        _ => cause,
    }
}
