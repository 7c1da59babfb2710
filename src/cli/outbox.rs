//! `outbox`.

use super::client::{Client, number, text};
use super::failure::{Failure, Result};
use super::names::Names;
use super::out::Out;
use super::text::cut;
use super::{Global, events, json, live, render};
use crate::api::proxy::{Dict, Given};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use zbus::Variant;

/// `outbox`.
#[derive(Debug, Subcommand)]
pub enum Outbox {
    /// Show how the broker is, how many events wait to be published, and the oldest of them
    Show(Show),
    /// Try again to publish events that are parked: no queue was bound for them
    #[command(
        after_help = "Bind a queue at the exchange first. What nobody wants still is parked again. Each host has an outbox of its own: with -H, that of another one."
    )]
    Retry(Retry),
}

/// `outbox show`.
#[derive(Debug, Args)]
pub struct Show {
    /// List parked events instead
    #[arg(long)]
    pub parked: bool,
    /// List at most so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub lines: u32,
}

/// `outbox retry`.
#[derive(Debug, Args)]
pub struct Retry {
    /// Only events of this project
    #[arg(long, value_name = "PROJECT", add = ArgValueCandidates::new(live::projects))]
    pub project: Option<String>,
}

/// What is wrong with it shows before anything is connected to.
pub(super) fn check(args: &Outbox) -> Result<()> {
    match args {
        Outbox::Retry(args) => args
            .project
            .iter()
            .try_for_each(|p| super::check_project(p)),
        Outbox::Show(_) => Ok(()),
    }
}

/// Does it.
pub(super) async fn outbox(client: &Client, global: &Global, args: &Outbox) -> Result<u8> {
    match args {
        Outbox::Show(args) => show(client, global, args).await?,
        Outbox::Retry(args) => {
            let project = args.project.as_deref();
            let given: Given<'_> = project.map(|p| ("project", p.into())).into_iter().collect();
            let count: u64 = client.call("RetryOutbox", &given).await?;
            if !global.quiet {
                super::note(&format!(
                    "{} tried again. See: stratavorectl outbox show",
                    match count {
                        1 => "1 event is".to_owned(),
                        n => format!("{n} events are"),
                    }
                ));
            }
        }
    }
    Ok(0)
}

async fn show(client: &Client, global: &Global, args: &Show) -> Result<()> {
    let out = Out::new(global);
    let manager = client.manager();
    let none = Given::new();
    let outbox = manager.describe_outbox(&none).await;
    let outbox = outbox.map_err(|e| Failure::of_call(&e))?;
    let configured = text(&outbox, "broker") != "unconfigured";
    let rows: Vec<Dict> = match configured && args.lines > 0 {
        true => {
            let mut filter = Given::new();
            filter.insert("parked", args.parked.into());
            filter.insert("limit", u64::from(args.lines).into());
            let rows = manager.list_outbox(&filter).await;
            rows.map_err(|e| Failure::of_call(&e))?
        }
        false => Vec::new(),
    };
    if out.is_json() {
        let waiting = |row: &Dict| {
            let mut event = json::event(row);
            event["behind"] = number(row, "behind").into();
            for key in ["source", "parked"] {
                event[key] = match text(row, key) {
                    "" => serde_json::Value::Null,
                    text => text.into(),
                };
            }
            event
        };
        return out.object(&serde_json::json!({
            "broker": text(&outbox, "broker"),
            "why": Some(text(&outbox, "why")).filter(|why| !why.is_empty()),
            "blocked": is_blocked(&outbox),
            "pending": number(&outbox, "pending"),
            "parked": number(&outbox, "parked"),
            "refused": number(&outbox, "refused"),
            "oldest": json::time(number(&outbox, "oldest")),
            "published": number(&outbox, "published"),
            "events": rows.iter().map(waiting).collect::<Vec<_>>(),
        }));
    }
    let count = |key: &str| number(&outbox, key).map_or(String::new(), |n| n.to_string());
    let oldest = number(&outbox, "oldest").map_or(String::new(), |at| {
        format!("{} ({} ago)", render::time(at), render::ago(at))
    });
    let entries = [
        ("Broker", broker(&outbox)),
        ("To be published", count("pending")),
        ("Oldest", oldest),
        ("Parked", count("parked")),
        (
            "Refused",
            match number(&outbox, "refused") {
                None | Some(0) => String::new(),
                Some(n) => format!("{n}: a queue is full"),
            },
        ),
        ("Published", count("published")),
    ];
    out.text(&render::block(&entries, out.look.width))?;
    if rows.is_empty() {
        return Ok(());
    }
    let names = Names::of(client).await;
    let most = out.look.width.unwrap_or(usize::MAX);
    let mut lines = "\n".to_owned();
    for row in &rows {
        let why = match (text(row, "parked"), number(row, "behind")) {
            ("unroutable", _) => "  no queue is bound for it".to_owned(),
            ("follows", _) => "  follows a parked one".to_owned(),
            (_, Some(n)) => format!("  waits for number {n} of {}", text(row, "subject")),
            (_, None) => String::new(),
        };
        let line = format!("{}{why}", events::line(row, &names, out.look.width));
        lines.push_str(&cut(&line, most));
        lines.push('\n');
    }
    out.text(&lines)
}

fn is_blocked(outbox: &Dict) -> bool {
    matches!(
        outbox.get("blocked").map(|v| &**v),
        Some(Variant::Bool(true))
    )
}

/// `down: Connection refused`, …
pub(super) fn broker(outbox: &Dict) -> String {
    let (state, why) = (text(outbox, "broker"), text(outbox, "why"));
    match (state, is_blocked(outbox)) {
        ("unconfigured", _) => "none is configured: events are published nowhere".to_owned(),
        (_, true) => format!("takes nothing for now: {why}"),
        (_, false) if why.is_empty() => state.to_owned(),
        (_, false) => format!("{state}: {why}"),
    }
}
