//! Waiting for endings: `wait`, and what `stop` and `run --wait` do.

use super::args::{Format, Wait};
use super::client::{Client, dict, text};
use super::failure::Result;
use super::out::Out;
use super::{Global, json};
use crate::api::proxy::{Dict, Given};
use crate::domain::signal;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use zbus::Variant;

/// Signals can be missed (the daemon may be starting again): so often it is asked in any case.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// From so many on, the live ones are listed instead of asking about each.
const MANY: usize = 8;

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
        let mut tick = tokio::time::interval(ASK_AGAIN);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once.
        let mut ask: Vec<String> = Vec::new();
        while !ids.is_empty() {
            for id in ask.drain(..) {
                match client.describe(&id).await {
                    Ok(described) if text(&described, "state") == "ended" => {
                        if ids.remove(&id) {
                            ended(&described)?;
                        }
                    }
                    Ok(_) => {}
                    // It is restarting; runners go on meanwhile.
                    Err(failure) if failure.passes() => {}
                    Err(failure) if failure.is_lost() => {
                        self.again(client).await?;
                        tick.reset_immediately();
                        break;
                    }
                    Err(failure) => return Err(failure),
                }
            }
            if ids.is_empty() {
                break;
            }
            tokio::select! {
                id = self.0.recv() => match id {
                    Some(id) if ids.contains(&id) => ask.push(id),
                    Some(_) => {}
                    None => {
                        self.again(client).await?;
                        tick.reset_immediately();
                    }
                },
                _ = tick.tick() => ask = maybe_ended(client, &ids).await?,
            }
        }
        Ok(())
    }

    /// The connection is gone: another one, and the subscription on it.
    async fn again(&mut self, client: &Client) -> Result<()> {
        loop {
            client.reconnect().await?;
            match Self::subscribe(client).await {
                Ok(endings) => {
                    *self = endings;
                    return Ok(());
                }
                Err(failure) if failure.is_lost() => {}
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// Those of them that may have ended: all if they are few, else those not listed as live.
async fn maybe_ended(client: &Client, ids: &BTreeSet<String>) -> Result<Vec<String>> {
    if ids.len() < MANY {
        return Ok(ids.iter().cloned().collect());
    }
    match client.runners(Given::new(), None).await {
        Ok(live) => {
            let live: BTreeSet<&str> = live.iter().map(|r| text(r, "id")).collect();
            let gone = ids.iter().filter(|id| !live.contains(id.as_str()));
            Ok(gone.cloned().collect())
        }
        // The end of the signals tells of a lost connection, too.
        Err(failure) if failure.passes() || failure.is_lost() => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

/// `wait`: 0 when all have ended, however they did. One that is not there keeps us from waiting
/// for no other one.
pub(super) async fn wait(client: &Client, global: &Global, args: &Wait) -> Result<u8> {
    let out = Out::new(global);
    let mut endings = Endings::subscribe(client).await?;
    let (mut ids, mut status) = (BTreeSet::new(), 0);
    for id in &args.ids {
        match client.describe(id).await {
            Ok(described) => {
                ids.insert(text(&described, "id").to_owned());
            }
            Err(failure) if args.ids.len() == 1 || failure.passes() || failure.is_lost() => {
                return Err(failure);
            }
            Err(failure) => {
                super::complain(&failure);
                status = if status == 0 { failure.status } else { status };
            }
        }
    }
    let mut all = Vec::new();
    endings
        .of(client, ids, |described| match global.output {
            Format::Json => {
                all.push(json::shown(described));
                Ok(())
            }
            Format::Jsonl => out.object(&json::shown(described)),
            Format::Table if global.quiet => Ok(()),
            Format::Table => out.line(&told(described)),
        })
        .await?;
    if global.output == Format::Json {
        match (args.ids.len(), all.first()) {
            (1, Some(one)) => out.object(one)?,
            _ => out.objects(all)?,
        }
    }
    Ok(status)
}

/// `<id>: exit-code. The main process exited with status 7.`
pub(super) fn told(described: &Dict) -> String {
    let exit = dict(described, "exit");
    super::text::clean(&format!(
        "{}: {}. {}",
        text(described, "id"),
        text(&exit, "cause"),
        text(&exit, "message")
    ))
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
