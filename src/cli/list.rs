//! `list`.

use super::args::List;
use super::client::{Client, number, text, texts};
use super::failure::{Failure, Result, USAGE};
use super::names::Names;
use super::out::Out;
use super::render;
use super::table::{Cell, Column, Style};
use super::text::command;
use super::{Global, json, labels, wait};
use crate::api::proxy::{Dict, Given};
use crate::domain::State;
use crate::domain::nearest::nearest;

/// Digits of an id that are always shown: those that tell the time.
const SHORTEST: usize = 13;
/// So many are listed where ended ones are, unless --limit says otherwise.
const ENDED_MAX: u32 = 1_000;
/// From so many columns on, ids are shown in full.
const WIDE: usize = 140;

const ID: Column = Column::stiff("ID");
const NAME: Column = Column::soft("NAME", 2, 8);
const PROJECT: Column = Column::soft("PROJECT", 2, 8);
const USER: Column = Column::soft("USER", 2, 8);
const HOST: Column = Column::soft("HOST", 2, 8);
const STATE: Column = Column::stiff("STATE");
const SINCE: Column = Column::soft("SINCE", 3, 8);
const EXIT: Column = Column::soft("EXIT", 3, 8);
const COMMAND: Column = Column::soft("COMMAND", 1, 12);

/// Lists.
pub(super) async fn list(client: &Client, global: &Global, args: &List) -> Result<u8> {
    let out = Out::new(global);
    let ended = args.all || args.state.iter().any(|s| s == "ended");
    let most = args.limit.or(ended.then_some(ENDED_MAX));
    // One more tells whether there are more.
    let asked = most.map(|most| most.saturating_add(1));
    let mut runners = client.runners(filter(args)?, asked).await?;
    let more = most.filter(|most| runners.len() > *most as usize);
    runners.truncate(most.map_or(usize::MAX, |most| most as usize));
    if !runners.is_empty() {
        out.page();
    }
    if out.is_json() {
        out.objects(runners.iter().map(json::runner).collect())?;
    } else if global.quiet {
        let ids: String = runners
            .iter()
            .map(|r| format!("{}\n", text(r, "id")))
            .collect();
        out.text(&ids)?;
    } else if !runners.is_empty() {
        Names::of(client).await.put(&mut runners);
        show(&out, &runners)?;
        out.footer(&footer(args, &runners))?;
    }
    out.leave();
    if let Some(most) = more {
        super::note(&cut_off(most, args.limit.is_some()));
    }
    if runners.is_empty() {
        // Labels of the live ones say nothing about those that have ended.
        let labels = if wide(args) { &[][..] } else { &args.label };
        let note = client.why_nothing(args.project.as_deref(), labels).await?;
        if !global.quiet && !out.is_json() {
            super::note(&note.unwrap_or_else(|| nothing(args)));
        }
    }
    Ok(0)
}

fn show(out: &Out, runners: &[Dict]) -> Result<()> {
    let full = out.look.width.is_none_or(|w| w >= WIDE);
    let digits = if full {
        36
    } else {
        digits(&runners.iter().collect::<Vec<_>>())
    };
    let ended = runners.iter().any(|r| text(r, "state") == "ended");
    let hosts = runners.iter().any(|r| r.contains_key("host_name"));
    let mut head = vec![ID, NAME, PROJECT, USER, STATE, SINCE];
    if hosts {
        head.insert(4, HOST);
    }
    if ended {
        head.push(EXIT);
    }
    head.push(COMMAND);
    let rows: Vec<_> = runners
        .iter()
        .map(|r| row(r, digits, hosts, ended))
        .collect();
    out.table(&head, &rows)
}

/// Whether more than the live ones were asked for.
fn wide(args: &List) -> bool {
    args.all || !args.state.is_empty()
}

fn footer(args: &List, runners: &[Dict]) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    match wide(args) {
        true => format!("{} listed.", count(runners.len(), "runner")),
        false => format!(
            "{} listed. Pass --all to see those that wait or have ended, too.",
            count(runners.len(), "live runner")
        ),
    }
}

/// That there are more than were listed.
fn cut_off(most: u32, limited: bool) -> String {
    let these = match most {
        1 => "This is the newest one; there are more.".to_owned(),
        n => format!("These are the newest {n}; there are more."),
    };
    let larger = if limited {
        "a larger --limit"
    } else {
        "--limit=N"
    };
    format!("{these} To see them give {larger}.")
}

fn nothing(args: &List) -> String {
    let narrowed = args.project.is_some()
        || args.on.is_some()
        || !args.label.is_empty()
        || args.since.is_some()
        || args.until.is_some();
    match (wide(args), narrowed) {
        (false, false) => "No runner is live. Launch one with: stratavorectl run PROJECT -- COMMAND. See those that have ended with: stratavorectl list --all.".to_owned(),
        (false, true) => "No live runner fits. Pass --all to see those that wait or have ended, too.".to_owned(),
        (true, _) => "No runner fits.".to_owned(),
    }
}

pub(super) fn filter(args: &List) -> Result<Given<'static>> {
    let mut filter = Given::new();
    if let Some(project) = &args.project {
        super::check_project(project)?;
        filter.insert("project", project.clone().into());
    }
    if let Some(host) = &args.on {
        filter.insert("host", host.clone().into());
    }
    for state in &args.state {
        if State::parse(state).is_none() {
            let known = State::ALL.map(State::as_str);
            let near = nearest(state, known.into_iter());
            return Err(Failure::new(
                USAGE,
                format!(
                    "“{}” is not a state; there are {}.{}",
                    crate::domain::name::shown(state),
                    known.join(", "),
                    near.map(|n| format!(" Did you mean {n}?"))
                        .unwrap_or_default()
                ),
            ));
        }
    }
    if !args.state.is_empty() {
        filter.insert("state", args.state.clone().into());
    }
    if args.all {
        filter.insert("all", true.into());
    }
    if !args.label.is_empty() {
        filter.insert("label", labels(&args.label)?);
    }
    for (key, value) in [("since", &args.since), ("until", &args.until)] {
        if let Some(value) = value {
            let at = render::parse_time(value).ok_or_else(|| {
                Failure::new(
                    USAGE,
                    format!(
                        "“{}” is not a time; give it as in 2026-11-22 10:00, 10:00, today, yesterday or -2h.",
                        crate::domain::name::shown(value)
                    ),
                )
            })?;
            filter.insert(key, at.into());
        }
    }
    Ok(filter)
}

/// How many digits tell the listed ids apart.
pub(super) fn digits(runners: &[&Dict]) -> usize {
    let mut ids: Vec<&str> = runners.iter().map(|r| text(r, "id")).collect();
    ids.sort_unstable();
    let common = |pair: &[&str]| {
        let same = pair[0].bytes().zip(pair[1].bytes());
        same.take_while(|(a, b)| a == b).count() + 1
    };
    let longest = ids.windows(2).map(common).max().unwrap_or(0);
    longest.max(SHORTEST)
}

fn row(runner: &Dict, digits: usize, hosts: bool, ended: bool) -> Vec<Cell> {
    let state = text(runner, "state");
    let since = ["ended_at", "started_at", "created_at"]
        .into_iter()
        .find_map(|key| number(runner, key))
        .map_or_else(String::new, |at| format!("{} ago", render::ago(at)));
    let id: String = text(runner, "id").chars().take(digits).collect();
    let mut row = vec![
        Cell::new(id),
        Cell::or_dash(text(runner, "name")),
        Cell::new(text(runner, "project")),
        Cell::new(text(runner, "user")),
        Cell::styled(state, state_style(state)),
        Cell::or_dash(since),
    ];
    if hosts {
        row.insert(4, Cell::or_dash(text(runner, "host_name")));
    }
    if ended {
        let exit = wait::short(runner);
        row.push(match exit.as_str() {
            "" => Cell::or_dash(exit),
            _ => Cell::styled(&exit, ending_style(&exit)),
        });
    }
    row.push(match texts(runner, "command") {
        Some(words) => Cell::new(command(&words)),
        None => Cell::styled("(not yours)", Style::Faint),
    });
    row
}

/// The colour of a state.
pub(super) fn state_style(state: &str) -> Style {
    match state {
        "running" => Style::Good,
        "queued" | "starting" | "frozen" | "stopping" => Style::Notice,
        _ => Style::Faint,
    }
}

/// The colour of an ending: what nobody asked for stands out.
pub(super) fn ending_style(cause: &str) -> Style {
    match cause.split(' ').next().unwrap_or_default() {
        "success" => Style::Good,
        "stopped" | "cancelled" | "host-shutdown" => Style::Plain,
        _ => Style::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_said() {
        assert_eq!(
            cut_off(1, true),
            "This is the newest one; there are more. To see them give a larger --limit."
        );
        let many = cut_off(ENDED_MAX, false);
        assert!(
            many.contains("newest 1000") && many.ends_with("give --limit=N."),
            "{many}"
        );
    }

    #[test]
    fn shown_ids_tell_runners_apart() {
        let of = |ids: &[&str]| {
            let runners: Vec<Dict> = ids
                .iter()
                .map(|id| {
                    Dict::from([(
                        "id".to_owned(),
                        zbus::wire::Str::from((*id).to_owned()).into(),
                    )])
                })
                .collect();
            digits(&runners.iter().collect::<Vec<_>>())
        };
        assert_eq!(of(&["0193c1d2-0000-7000-8000-000000000001"]), 13);
        assert_eq!(
            of(&[
                "0193c1d2-0000-7000-8000-000000000001",
                "0193c1d2-0000-7000-8000-000000000002"
            ]),
            36
        );
    }
}
