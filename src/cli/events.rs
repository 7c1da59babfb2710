//! `events`.

use super::args::Events;
use super::client::{Client, dict, number, text};
use super::failure::{Failure, Result, USAGE};
use super::names::Names;
use super::out::Out;
use super::render;
use super::text::{clean, cut};
use super::{Global, json};
use crate::api::proxy::{Dict, Given};
use crate::domain::RunnerId;
use crate::domain::cloudevent::TYPE_PREFIX;
use crate::domain::event::EventType;
use crate::domain::name::shown;
use crate::domain::nearest::nearest;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Rows in one page.
const PAGE: u32 = 500;
/// How many past events `-f` begins with.
const TAIL: u32 = 10;
/// The most that `-n` can ask for: a page of the daemon's.
const LAST_MAX: u32 = 1_000;
/// From so many columns on, events are told in full.
const WIDE: usize = 140;
/// So much of an id, and of a project's name, stands on a narrower terminal.
const ID_SHORT: usize = 18;
const PROJECT_SHORT: usize = 12;
/// Signals only wake us up; what has none of its own is found by looking so often.
const LOOK: Duration = Duration::from_secs(1);

/// Lists, and follows.
pub(super) async fn events(client: &Client, global: &Global, args: &Events) -> Result<u8> {
    let out = Out::new(global);
    // Subscribe first: what happens during the first page wakes us up after it.
    let mut wake = match args.follow {
        true => Some(wake_ups(client).await?),
        false => None,
    };
    let filter = filter(client, args).await?;
    let mut after = args.after.unwrap_or_default();
    // The last ones first, then what comes after them.
    let mut last = match (args.lines, args.after, args.follow) {
        (Some(lines), ..) => Some(lines),
        (None, None, true) => Some(TAIL),
        _ => None,
    };
    if !args.follow {
        out.page();
    }
    let names = match out.is_json() {
        true => Names::default(),
        false => Names::of(client).await,
    };
    let mut all = Vec::new();
    let (mut away, mut looked) = (false, false);
    loop {
        match page(client, after, &filter, last).await {
            Ok(events) => {
                away = false;
                if let Some(seq) = events.last().and_then(|e| number(e, "seq")) {
                    after = seq;
                }
                if events.is_empty() && !looked {
                    none_of(client, args).await?;
                }
                looked = true;
                let full = last.take().is_none() && events.len() == PAGE as usize;
                match (
                    out.is_json(),
                    global.output == super::args::Format::Json && !args.follow,
                ) {
                    (true, true) => all.extend(events.iter().map(json::event)),
                    (true, false) => {
                        let lines: String = events
                            .iter()
                            .map(|e| format!("{}\n", json::event(e)))
                            .collect();
                        out.text(&lines)?;
                    }
                    (false, _) => {
                        let most = out.look.width.unwrap_or(usize::MAX);
                        let lines: String = events
                            .iter()
                            .map(|e| format!("{}\n", cut(&line(e, &names, out.look.width), most)))
                            .collect();
                        out.text(&lines)?;
                    }
                }
                if full {
                    continue;
                }
            }
            // It may be starting again; nothing is missed, as we know where we were.
            Err(failure) if args.follow && (failure.passes() || failure.is_lost()) => {
                if !away && !global.quiet {
                    super::note(&format!("{} Waiting.", clean(&failure.message)));
                }
                away = true;
                if failure.is_lost() {
                    wake = Some(again(client).await?);
                    continue;
                }
            }
            Err(failure) => return Err(failure),
        }
        let Some(signals) = &mut wake else { break };
        // Their end means that the connection is gone: the next page says so.
        let _ = tokio::time::timeout(LOOK, signals.recv()).await;
    }
    if global.output == super::args::Format::Json {
        out.objects(all)?;
    }
    Ok(0)
}

/// There is none: of a project that is not there no one has to be waited for in vain without a word.
async fn none_of(client: &Client, args: &Events) -> Result<()> {
    match client.why_nothing(args.project.as_deref(), &[]).await {
        Err(failure) if args.follow && failure.is("NoSuchProject") => {
            super::note(&format!("{} Waiting.", clean(&failure.message)));
            Ok(())
        }
        Err(failure) if !args.follow => Err(failure),
        _ => Ok(()),
    }
}

/// What is asked for, before anything is connected to. A host elsewhere may be of a later release, with more types.
pub(super) fn check(args: &Events, far: bool) -> Result<()> {
    args.project
        .iter()
        .try_for_each(|p| super::check_project(p))?;
    if let Some(kind) = &args.r#type
        && !far
    {
        check_type(kind)?;
    }
    match args.lines {
        Some(n) if n == 0 || n > LAST_MAX => Err(Failure::new(
            USAGE,
            format!("--lines={n}: from 1 to {LAST_MAX} are possible."),
        )),
        _ => Ok(()),
    }
}

fn check_type(text: &str) -> Result<()> {
    let short = text.strip_prefix(TYPE_PREFIX).unwrap_or(text);
    if EventType::parse(short).is_some() {
        return Ok(());
    }
    let known = EventType::ALL.map(EventType::short);
    let near = nearest(short, known.into_iter());
    let near = near.map_or_else(String::new, |near| format!(" Did you mean {near}?"));
    let message = format!(
        "“{}” is not a type of event; there are {}.{near}",
        shown(text),
        known.join(", ")
    );
    Err(Failure::new(USAGE, message))
}

async fn filter(client: &Client, args: &Events) -> Result<Given<'static>> {
    let mut filter = Given::new();
    if let Some(project) = &args.project {
        filter.insert("project", project.clone().into());
    }
    if let Some(kind) = &args.r#type {
        filter.insert("type", kind.clone().into());
    }
    if let Some(runner) = &args.runner {
        // The events of one whose row is gone are there still.
        let id = match runner.parse::<RunnerId>() {
            Ok(id) => id.to_string(),
            Err(_) => text(&client.describe(runner).await?, "id").to_owned(),
        };
        filter.insert("runner", id.into());
    }
    Ok(filter)
}

/// The first page after a position, or the last so many.
async fn page(
    client: &Client,
    after: u64,
    filter: &Given<'_>,
    last: Option<u32>,
) -> Result<Vec<Dict>> {
    let mut filter = filter.clone();
    if last.is_some() {
        filter.insert("newest", true.into());
    }
    let limit = last.unwrap_or(PAGE);
    let page = client.manager().list_events(after, limit, &filter).await;
    page.map_err(|e| Failure::of_call(&e))
}

/// Connects and subscribes anew.
async fn again(client: &Client) -> Result<mpsc::Receiver<()>> {
    loop {
        client.reconnect().await?;
        match wake_ups(client).await {
            Err(failure) if failure.is_lost() => {}
            other => return other,
        }
    }
}

/// Something for every burst of signals.
async fn wake_ups(client: &Client) -> Result<mpsc::Receiver<()>> {
    let signals = client.manager().inner().receive_all_signals().await;
    let mut signals = signals.map_err(|e| Failure::of_call(&e))?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while signals.next().await.is_some() {
            if let Err(TrySendError::Closed(())) = sender.try_send(()) {
                return;
            }
        }
    });
    Ok(receiver)
}

/// `12  Sun 2026-11-22 10:00:00 CET  runner.ended  web  runner/…  by alice  success`; on a narrow terminal with less of the time
/// and of the id, but so much of it that it can be used.
pub(super) fn line(event: &Dict, names: &Names, columns: Option<usize>) -> String {
    let (actor, data) = (dict(event, "actor"), dict(event, "data"));
    let host = names.host(text(&actor, "host"));
    let host = host.map_or_else(String::new, |host| format!("@{host}"));
    let kind = text(event, "type");
    let kind = kind.strip_prefix("org.stratavore.").unwrap_or(kind);
    let by = match text(&actor, "user") {
        "" => number(&actor, "uid").map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
        user => user.to_owned(),
    };
    let exit = dict(&data, "exit");
    let more = [
        text(&data, "name"),
        text(&exit, "cause"),
        text(&data, "gate"),
    ];
    let more: Vec<&str> = more.into_iter().filter(|t| !t.is_empty()).collect();
    let (seq, at) = (
        number(event, "seq").unwrap_or_default(),
        number(event, "time").unwrap_or_default(),
    );
    let (project, subject) = (text(event, "project"), text(event, "subject"));
    let begin = match columns.is_none_or(|columns| columns >= WIDE) {
        true => format!(
            "{seq:>6}  {}  {kind:<16}  {project:<12}  {subject}",
            render::time(at)
        ),
        false => {
            let project = cut(project, PROJECT_SHORT);
            let subject = match subject.strip_prefix("runner/") {
                Some(id) => id.chars().take(ID_SHORT).collect(),
                None => subject.to_owned(),
            };
            format!(
                "{seq:>4}  {}  {kind:<16}  {project:<PROJECT_SHORT$}  {subject}",
                render::day_time(at)
            )
        }
    };
    let text = format!("{begin}  by {by}{host}  {}", more.join(" "));
    clean(text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::super::text::width;
    use super::*;
    use zbus::wire::Str;

    #[test]
    fn narrow_lines_keep_an_id_that_can_be_used() {
        let id = "0193c1d2-7a1b-7abc-8000-000000000001";
        let words = [
            ("type", "org.stratavore.runner.ended".to_owned()),
            ("project", "a-project-with-a-long-name".to_owned()),
            ("subject", format!("runner/{id}")),
        ];
        let words = words.map(|(key, word)| (key.to_owned(), Str::from(word).into()));
        let mut event = Dict::from(words);
        event.insert("seq".to_owned(), 1234u64.into());
        let line = |columns: Option<usize>| {
            let line = line(&event, &Names::default(), columns);
            cut(&line, columns.unwrap_or(usize::MAX))
        };
        let narrow = line(Some(80));
        assert!(width(&narrow) <= 80, "{narrow}");
        // The time it was made, and what tells it from others of the same moment.
        assert!(narrow.contains(&id[..18]), "{narrow}");
        for wide in [line(Some(140)), line(None)] {
            assert!(wide.contains(id), "{wide}");
        }
    }
}
