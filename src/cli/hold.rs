//! `hold`.

use super::args::{Hold, HoldTarget, SetHold};
use super::client::{Client, number, text};
use super::failure::{Failure, Result, USAGE};
use super::names::Names;
use super::out::Out;
use super::table::{Cell, Column};
use super::{Global, json, render};
use crate::api::proxy::{Dict, Given};
use crate::domain::hold::HoldScope;
use crate::domain::name::shown;
use zbus::Variant;

/// Does what is asked of holds.
pub(super) async fn hold(client: &Client, global: &Global, args: &Hold) -> Result<u8> {
    let out = Out::new(global);
    match args {
        Hold::Set(set) => {
            let (scope, options) = given(set)?;
            client
                .call::<_, ()>("SetHold", &(scope.to_string().as_str(), &options))
                .await?;
        }
        Hold::Release(target) => {
            let scope = scope(target)?.to_string();
            client
                .call::<_, ()>("ReleaseHold", &(scope.as_str(), &Given::new()))
                .await?;
        }
        Hold::List => list(client, global, &out).await?,
    }
    Ok(0)
}

/// What is wrong with it shows before anything is connected to.
pub(super) fn check(args: &Hold) -> Result<()> {
    match args {
        Hold::Set(set) => given(set).map(drop),
        Hold::Release(target) => scope(target).map(drop),
        Hold::List => Ok(()),
    }
}

fn scope(target: &HoldTarget) -> Result<HoldScope> {
    let scope = match (&target.project, &target.label) {
        (Some(project), _) => format!("project:{project}"),
        (None, Some(label)) => format!("label:{label}"),
        (None, None) => "fleet".to_owned(),
    };
    let scope = scope.parse::<HoldScope>();
    scope.map_err(|error| Failure::new(USAGE, error.message))
}

fn given(set: &SetHold) -> Result<(HoldScope, Given<'static>)> {
    let mut options = Given::from([("freeze", set.freeze.into())]);
    if let Some(time) = &set.until {
        let until = render::parse_time(time).ok_or_else(|| {
            let message = format!(
                "“{}” is not a time; give one as in 2026-11-22 10:00, 18:30 or +30min.",
                shown(time)
            );
            Failure::new(USAGE, message)
        })?;
        options.insert("until", until.into());
    }
    if let Some(reason) = &set.reason {
        options.insert("reason", reason.clone().into());
    }
    Ok((scope(&set.target)?, options))
}

async fn list(client: &Client, global: &Global, out: &Out) -> Result<()> {
    let holds = client.manager().list_holds().await;
    let holds = holds.map_err(|e| Failure::of_call(&e))?;
    if !holds.is_empty() {
        out.page();
    }
    if out.is_json() {
        return out.objects(holds.iter().map(json::hold).collect());
    }
    if global.quiet {
        let scopes: String = holds
            .iter()
            .map(|h| format!("{}\n", text(h, "scope")))
            .collect();
        return out.text(&scopes);
    }
    if holds.is_empty() {
        eprintln!("Nothing is held.");
        return Ok(());
    }
    let names = Names::of(client).await;
    let rows: Vec<Vec<Cell>> = holds.iter().map(|h| row(h, &names)).collect();
    const HEAD: [Column; 5] = [
        Column::soft("SCOPE", 2, 8),
        Column::soft("UNTIL", 1, 8),
        Column::soft("FREEZES", 1, 7),
        Column::soft("BY", 1, 6),
        Column::soft("REASON", 1, 12),
    ];
    out.table(&HEAD, &rows)?;
    let s = if holds.len() == 1 { "" } else { "s" };
    out.footer(&format!("{} hold{s} listed.", holds.len()))
}

fn row(hold: &Dict, names: &Names) -> Vec<Cell> {
    let until = number(hold, "until").map_or_else(|| "released".to_owned(), render::time);
    let freezes = matches!(hold.get("freeze").map(|v| &**v), Some(Variant::Bool(true)));
    vec![
        Cell::new(text(hold, "scope")),
        Cell::new(until),
        Cell::new(if freezes { "yes" } else { "no" }),
        Cell::new(names.actor(hold)),
        Cell::or_dash(text(hold, "reason")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Verb};
    use clap::Parser;

    fn parsed(words: &str) -> Option<Result<(HoldScope, Given<'static>)>> {
        let words = ["stratavorectl", "hold", "set"]
            .into_iter()
            .chain(words.split(' '));
        match Cli::try_parse_from(words).ok()?.verb {
            Verb::Hold(Hold::Set(set)) => Some(given(&set)),
            _ => None,
        }
    }

    #[test]
    fn whom_and_until_when() {
        let Some(Ok((scope, options))) = parsed("--label key=a=b --until +30min --freeze") else {
            panic!("a good one");
        };
        assert_eq!(scope.to_string(), "label:key=a=b");
        let until = match options.get("until") {
            Some(Variant::U64(until)) => *until,
            other => panic!("{other:?}"),
        };
        let more = until.saturating_sub(render::now());
        assert!((1_790_000_000..=1_800_000_000).contains(&more), "{more}");
        assert!(matches!(parsed("--fleet --until soon"), Some(Err(_))));
        assert!(matches!(parsed("--project A/b"), Some(Err(_))));
        assert!(parsed("--fleet --project p").is_none());
        assert!(parsed("--freeze").is_none());
    }
}
