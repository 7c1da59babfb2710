//! `show`: all about one runner, and when it has ended its death certificate.

use super::args::Show;
use super::client::{Client, dict, labels_of, number, text, texts};
use super::failure::Result;
use super::list::{ending_style, state_style};
use super::out::Out;
use super::story::Story;
use super::table::Style;
use super::text::{clean, command};
use super::{Global, journal, json, queue, render, usage};
use crate::api::proxy::Dict;
use zbus::Variant;

/// Shows one runner.
pub(super) async fn show(client: &Client, global: &Global, args: &Show) -> Result<u8> {
    let out = Out::new(global);
    let described = client.describe_all(&args.id).await?;
    if out.is_json() {
        out.page();
        out.object(&json::shown(&described))?;
        return Ok(0);
    }
    let story = Story::of(client, text(&described, "id")).await?;
    let mut shown = head(&out, &described);
    shown.push_str(&render::block(&entries(&described, &story), out.look.width));
    shown.push_str(&story.told(out.look.width));
    match &global.host {
        _ if args.lines == 0 => {}
        // It is there; a login for the bus is not one for everything.
        Some(host) => {
            let read = journal::output(&described);
            shown.push_str(&format!(
                "\nIts output: {} {}\n",
                host.ssh(),
                command(&[read])
            ));
        }
        None => match elsewhere(client, &described, &story).await {
            Some(host) => shown.push_str(&format!(
                "\nIts output is on its host: stratavorectl -H {host} logs {}\n",
                clean(text(&described, "id"))
            )),
            None => shown.push_str(&output(client, &out, &described, args.lines).await),
        },
    }
    out.page();
    out.text(&shown)?;
    Ok(0)
}

/// `● 0193…  agent`: its colour tells how it is.
fn head(out: &Out, of: &Dict) -> String {
    let state = text(of, "state");
    let exit = dict(of, "exit");
    let (dot, style) = match state {
        "ended" => match ending_style(text(&exit, "cause")) {
            Style::Bad => ("×", Style::Bad),
            _ => ("○", Style::Plain),
        },
        other => ("●", state_style(other)),
    };
    let name = text(of, "name");
    let name = if name.is_empty() {
        String::new()
    } else {
        format!(" - {}", clean(name))
    };
    format!(
        "{} {}{name}\n",
        out.paint(style, dot),
        out.paint(Style::Bold, &clean(text(of, "id")))
    )
}

fn entries(of: &Dict, story: &Story) -> Vec<(&'static str, String)> {
    let clean = |key| clean(text(of, key));
    let (limits, used, exit) = (dict(of, "limits"), dict(of, "usage"), dict(of, "exit"));
    let user = match number(of, "uid") {
        Some(uid) => format!("{} ({uid})", clean("user")),
        None => clean("user"),
    };
    let words = match texts(of, "command") {
        Some(words) => command(&words),
        None => "(shown to its user, root and who may view it)".to_owned(),
    };
    let ran = ran(of);
    let live = text(of, "state") != "ended";
    let unit = text(of, "unit");
    vec![
        ("Runner", clean("id")),
        ("Name", clean("name")),
        ("Project", clean("project")),
        ("User", user),
        (
            "Host",
            story.names().host(text(of, "host")).unwrap_or_default(),
        ),
        ("State", state(of)),
        ("Waits for", queue::first(of).unwrap_or_default()),
        ("Ending", ending(&exit)),
        ("Asked by", story.asked_by().unwrap_or_default()),
        (
            "Launched by",
            story.launched_by(text(of, "user")).unwrap_or_default(),
        ),
        ("Placed by", placed_by(of)),
        ("Command", words),
        ("Directory", clean("working_directory")),
        ("Labels", labels(of)),
        ("Session", clean("session")),
        ("Priority", priority(of)),
        (
            "Tokens",
            number(of, "tokens").map_or(String::new(), |n| format!("{n} asked for")),
        ),
        ("Unit", unit.to_owned()),
        ("Log file", log_file(of)),
        ("Memory", usage::memory(&limits, &used)),
        ("CPU", usage::cpu(&limits, &used, ran)),
        ("IO", usage::io(&limits, &used)),
        ("Tasks", usage::tasks(&limits, &used)),
        ("OOM kills", usage::oom_kills(&used)),
        (
            "Tokens used",
            match of.contains_key("token_usage") {
                true => usage::tokens(of),
                false => String::new(),
            },
        ),
        ("Stop", usage::stop(&limits, ran.filter(|_| live))),
        (
            "Warnings",
            super::text::clean(&texts(of, "warnings").unwrap_or_default().join(" ")),
        ),
        ("Output", journal::output(of)),
    ]
}

/// `alice (1000) on web1, through the store`
pub(super) fn placed_by(of: &Dict) -> String {
    let placed = dict(of, "placed");
    if placed.is_empty() {
        return String::new();
    }
    let user = match (text(&placed, "user"), number(&placed, "uid")) {
        ("", Some(uid)) => uid.to_string(),
        (user, Some(uid)) => format!("{user} ({uid})"),
        (user, None) => user.to_owned(),
    };
    clean(&format!(
        "{user} on {}, through the store",
        text(&placed, "name")
    ))
}

/// `oom-kill: The kernel killed …`
pub(super) fn ending(exit: &Dict) -> String {
    match text(exit, "cause") {
        "" => String::new(),
        cause => format!("{cause}: {}", clean(text(exit, "message"))),
    }
}

/// For how long it has run, in µs.
fn ran(of: &Dict) -> Option<u64> {
    let started = number(of, "started_at")?;
    let until = number(of, "ended_at").unwrap_or_else(render::now);
    Some(until.saturating_sub(started))
}

pub(super) fn state(of: &Dict) -> String {
    let state = text(of, "state");
    let (created, started, ended) = (
        number(of, "created_at").unwrap_or_default(),
        number(of, "started_at"),
        number(of, "ended_at"),
    );
    let since = |at: u64| format!("since {}; {} ago", render::time(at), render::ago(at));
    match (state, started, ended) {
        ("ended", Some(started), Some(ended)) => format!(
            "{state} {}, after {}",
            since(ended),
            render::span(ended.saturating_sub(started))
        ),
        ("ended", None, Some(ended)) => format!("{state} {}, never started", since(ended)),
        (_, Some(started), _) => format!(
            "{state}, started {}; {} ago",
            render::time(started),
            render::ago(started)
        ),
        _ => format!("{state} {}", since(created)),
    }
}

/// Nothing for that of everybody.
fn priority(of: &Dict) -> String {
    match of.get("priority").map(|value| &**value) {
        None | Some(Variant::I32(0)) => String::new(),
        Some(value) => json::plain(value).to_string(),
    }
}

fn log_file(of: &Dict) -> String {
    number(of, "log_file_max").map_or(String::new(), |max| {
        format!(
            "the newest {} of its output",
            crate::domain::units::show_size(max)
        )
    })
}

fn labels(of: &Dict) -> String {
    let all: Vec<String> = labels_of(of)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    clean(&all.join(" "))
}

/// The name of its host, if that is another one than ours.
async fn elsewhere(client: &Client, of: &Dict, story: &Story) -> Option<String> {
    let name = story.names().host(text(of, "host"))?;
    let here = client.manager().host_id().await.ok()?;
    (text(of, "host") != here).then_some(name)
}

/// The last lines of its output, or one that says why there are none.
async fn output(client: &Client, out: &Out, of: &Dict, lines: u32) -> String {
    let (unit, width) = (text(of, "unit"), out.look.width);
    let since = number(of, "created_at").unwrap_or_default();
    let (tail, nothing) = match number(of, "log_file_max") {
        Some(_) => (
            journal::tail_file(client, text(of, "id"), lines, width).await,
            "Its log file is empty.",
        ),
        None => (
            journal::tail(unit, since, lines, width).await,
            "The journal has no line of it, or none that you may read.",
        ),
    };
    let none = match tail {
        Ok(lines) if lines.is_empty() => nothing.to_owned(),
        Ok(lines) => return format!("\n{}\n", lines.join("\n")),
        Err(why) => format!("Its output is not shown here: {why}."),
    };
    let lines = render::wrap(&none, width.unwrap_or(usize::MAX));
    format!("\n{}\n", lines.join("\n"))
}
