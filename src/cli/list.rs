//! `list`.

use super::args::List;
use super::client::{Client, number, text, texts};
use super::failure::{Failure, Result, USAGE};
use super::render::{self, Out};
use super::{Global, json, labels, wait};
use crate::api::proxy::{Dict, Given};
use crate::domain::State;

/// Digits of an id that are always shown: those that tell the time.
const SHORTEST: usize = 13;
/// From so many columns on, ids are shown in full.
const WIDE: usize = 140;

/// Lists.
pub(super) async fn list(client: &Client, global: &Global, args: &List) -> Result<u8> {
    let out = Out::new(global.output);
    let runners = client.runners(filter(args)?, args.limit).await?;
    if out.is_json() {
        out.objects(runners.iter().map(json::runner).collect())?;
        return Ok(0);
    }
    if global.quiet {
        let ids: String = runners
            .iter()
            .map(|r| format!("{}\n", text(r, "id")))
            .collect();
        out.text(&ids)?;
        return Ok(0);
    }
    if runners.is_empty() {
        let what = if args.all { "runner" } else { "live runner" };
        eprintln!("No {what} fits.");
        return Ok(0);
    }
    let full = out.width.is_none_or(|w| w >= WIDE);
    let digits = if full { 36 } else { digits(&runners) };
    let ended = runners.iter().any(|r| text(r, "state") == "ended");
    let mut head = vec!["ID", "NAME", "PROJECT", "USER", "STATE", "SINCE"];
    if ended {
        head.push("EXIT");
    }
    head.push("COMMAND");
    let rows: Vec<_> = runners.iter().map(|r| row(r, digits, ended)).collect();
    out.table(&head, &rows)?;
    Ok(0)
}

fn filter(args: &List) -> Result<Given<'static>> {
    let mut filter = Given::new();
    if let Some(project) = &args.project {
        filter.insert("project", project.clone().into());
    }
    for state in &args.state {
        if State::parse(state).is_none() {
            return Err(Failure::new(
                USAGE,
                format!(
                    "“{}” is not a state; there are {}.",
                    crate::domain::name::shown(state),
                    State::ALL.map(State::as_str).join(", ")
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
fn digits(runners: &[Dict]) -> usize {
    let mut ids: Vec<&str> = runners.iter().map(|r| text(r, "id")).collect();
    ids.sort_unstable();
    let common = |pair: &[&str]| {
        let same = pair[0].bytes().zip(pair[1].bytes());
        same.take_while(|(a, b)| a == b).count() + 1
    };
    let longest = ids.windows(2).map(common).max().unwrap_or(0);
    longest.max(SHORTEST)
}

fn row(runner: &Dict, digits: usize, ended: bool) -> Vec<String> {
    let of = |key| render::clean(text(runner, key));
    let or_dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    let since = ["ended_at", "started_at", "created_at"]
        .into_iter()
        .find_map(|key| number(runner, key))
        .map_or_else(|| "-".to_owned(), |at| format!("{} ago", render::ago(at)));
    let mut row = vec![
        of("id").chars().take(digits).collect(),
        or_dash(of("name")),
        of("project"),
        of("user"),
        of("state"),
        since,
    ];
    if ended {
        row.push(or_dash(wait::short(runner)));
    }
    row.push(
        texts(runner, "command").map_or_else(|| "(not yours)".to_owned(), |c| render::command(&c)),
    );
    row
}

#[cfg(test)]
mod tests {
    use super::*;

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
            digits(&runners)
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
