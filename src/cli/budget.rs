//! `budget`.

use super::args::{Budget, BudgetTarget, SetBudget};
use super::client::{Client, number, text, texts};
use super::failure::{Failure, Result, USAGE};
use super::out::Out;
use super::table::{Cell, Column, Style};
use super::text::clean;
use super::{Global, json, render};
use crate::api::proxy::{Dict, Given};
use crate::domain::Error;
use crate::domain::budget::{Counts, OnExhausted, Scope};
use crate::domain::period::Period;
use crate::domain::units::{parse_count, show_count};

/// Does what is asked of budgets.
pub(super) async fn budget(client: &Client, global: &Global, args: &Budget) -> Result<u8> {
    let out = Out::new(global);
    match args {
        Budget::Set(set) => {
            let (scope, period, settings) = given(set)?;
            let body = (scope.as_str(), period, &settings, &Given::new());
            let done = client.call::<_, ()>("SetBudget", &body).await;
            let project = scope.strip_prefix("project:").unwrap_or_default();
            if let Err(failure) = done {
                return Err(client.suggest(failure, project).await);
            }
        }
        Budget::Remove(target) => {
            let (scope, period) = key(target)?;
            let body = (scope.as_str(), period, &Given::new());
            client.call::<_, ()>("RemoveBudget", &body).await?;
        }
        Budget::Show(target) => show(client, &out, target).await?,
        Budget::List => list(client, global, &out).await?,
    }
    Ok(0)
}

/// What is wrong with it shows before anything is connected to.
pub(super) fn check(args: &Budget) -> Result<()> {
    match args {
        Budget::Set(set) => given(set).map(drop),
        Budget::Show(target) | Budget::Remove(target) => key(target).map(drop),
        Budget::List => Ok(()),
    }
}

fn wrong(error: Error) -> Failure {
    Failure::new(USAGE, error.message)
}

/// A count of tokens on the command line.
pub(super) fn count(flag: &str, text: &str) -> Result<u64> {
    parse_count(text).map_err(|e| Failure::new(USAGE, format!("{flag}: {}", e.message)))
}

fn key(target: &BudgetTarget) -> Result<(String, &'static str)> {
    let scope: Scope = target.scope.parse().map_err(wrong)?;
    let period: Period = target.period.parse().map_err(wrong)?;
    Ok((scope.to_string(), period.as_str()))
}

fn given(set: &SetBudget) -> Result<(String, &'static str, Given<'static>)> {
    let (scope, period) = key(&set.target)?;
    let mut out = Given::new();
    if let Some(limit) = &set.limit {
        out.insert("limit", count("--limit", limit)?.into());
    }
    // Which time zones there are the daemon knows.
    if let Some(zone) = &set.timezone {
        out.insert("timezone", zone.clone().into());
    }
    if let Some(policy) = &set.on_exhausted {
        let policy: OnExhausted = policy.parse().map_err(wrong)?;
        out.insert("on-exhausted", policy.as_str().into());
    }
    if let Some(kinds) = &set.count {
        let kinds: Counts = kinds.parse().map_err(wrong)?;
        out.insert("count", kinds.to_string().into());
    }
    if out.is_empty() {
        let message = "Say what is to be set: --limit, --timezone, --on-exhausted or --count.";
        return Err(Failure::new(USAGE, message));
    }
    Ok((scope, period, out))
}

async fn all(client: &Client) -> Result<Vec<Dict>> {
    let budgets = client.manager().list_budgets().await;
    budgets.map_err(|e| Failure::of_call(&e))
}

async fn show(client: &Client, out: &Out, target: &BudgetTarget) -> Result<()> {
    let (scope, period) = key(target)?;
    let budgets = all(client).await?;
    let is = |b: &&Dict| text(b, "scope") == scope && text(b, "period") == period;
    let Some(budget) = budgets.iter().find(is) else {
        let message = format!(
            "There is no budget of {scope} with the period {period}. See which there are: stratavorectl budget list."
        );
        return Err(Failure::no_such("NoSuchBudget", message));
    };
    if out.is_json() {
        return out.object(&json::budget(budget));
    }
    let Standing {
        limit,
        used,
        reserved,
        left,
    } = Standing::of(budget);
    let told = texts(budget, "told").unwrap_or_default();
    let told: Vec<String> = told
        .iter()
        .map(|word| match word.as_str() {
            "exceeded" => "more than the limit".to_owned(),
            percent => format!("{percent}%"),
        })
        .collect();
    let overrun = number(budget, "overrun").unwrap_or_default();
    let entries = [
        ("Budget", clean(text(budget, "scope"))),
        ("Period", period_of(budget)),
        ("Limit", format!("{} tokens", show_count(limit))),
        (
            "Used",
            format!("{}{}", show_count(used), percent(used, limit)),
        ),
        ("Reserved", show_count(reserved)),
        ("Left", show_count(left)),
        (
            "Overrun",
            match overrun {
                0 => String::new(),
                n => format!("{} of the used ones went past reservations", show_count(n)),
            },
        ),
        ("Reached", told.join(", ")),
        ("Counts", clean(text(budget, "count")).replace(',', ", ")),
        (
            "Used up",
            match text(budget, "on_exhausted") {
                "freeze" => "freeze what runs, until there is room".to_owned(),
                "stop" => "stop what runs".to_owned(),
                _ => "deny launches, what runs goes on".to_owned(),
            },
        ),
        (
            "Created",
            render::time(number(budget, "created_at").unwrap_or_default()),
        ),
    ];
    out.page();
    out.text(&render::block(&entries, out.look.width))
}

/// `day, since …, until …, on the clock of Europe/Berlin`
fn period_of(budget: &Dict) -> String {
    let (period, zone) = (text(budget, "period"), clean(text(budget, "timezone")));
    let begin = number(budget, "period_start").unwrap_or_default();
    match number(budget, "period_end") {
        None => "none: it lasts until the limit is raised".to_owned(),
        Some(end) => format!(
            "{period}, from {} to {} ({} begin as in {zone})",
            render::time(begin),
            render::time(end),
            match period {
                "hour" => "hours",
                _ => "days",
            }
        ),
    }
}

struct Standing {
    limit: u64,
    used: u64,
    reserved: u64,
    left: u64,
}

impl Standing {
    fn of(budget: &Dict) -> Self {
        let of = |key| number(budget, key).unwrap_or_default();
        let (limit, used, reserved) = (of("limit"), of("used"), of("reserved"));
        Self {
            limit,
            used,
            reserved,
            left: limit.saturating_sub(used.saturating_add(reserved)),
        }
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!(" ({}%)", u128::from(part) * 100 / u128::from(whole)),
    }
}

async fn list(client: &Client, global: &Global, out: &Out) -> Result<()> {
    let budgets = all(client).await?;
    if !budgets.is_empty() {
        out.page();
    }
    if out.is_json() {
        return out.objects(budgets.iter().map(json::budget).collect());
    }
    if global.quiet {
        let names: String = budgets
            .iter()
            .map(|b| format!("{} {}\n", text(b, "scope"), text(b, "period")))
            .collect();
        return out.text(&names);
    }
    if budgets.is_empty() {
        super::note(
            "There is no budget. Set one with: stratavorectl budget set --scope project:NAME --period day --limit 2M",
        );
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = budgets.iter().map(row).collect();
    const HEAD: [Column; 8] = [
        Column::soft("SCOPE", 2, 8),
        Column::stiff("PERIOD"),
        Column::number("LIMIT"),
        Column::number("USED"),
        Column::number("RESERVED"),
        Column::number("LEFT"),
        Column::soft("RESETS", 1, 10),
        Column::soft("USED UP", 1, 6),
    ];
    out.table(&HEAD, &rows)?;
    let s = if budgets.len() == 1 { "" } else { "s" };
    out.footer(&format!("{} budget{s} listed.", budgets.len()))
}

fn row(budget: &Dict) -> Vec<Cell> {
    let at = Standing::of(budget);
    let style = match (at.used >= at.limit, at.left) {
        (true, _) => Style::Bad,
        (false, 0) => Style::Notice,
        _ => Style::Plain,
    };
    let resets = number(budget, "period_end").map_or_else(|| "never".to_owned(), render::time);
    vec![
        Cell::new(text(budget, "scope")),
        Cell::new(text(budget, "period")),
        Cell::new(show_count(at.limit)),
        Cell::styled(
            format!("{}{}", show_count(at.used), percent(at.used, at.limit)),
            style,
        ),
        Cell::new(show_count(at.reserved)),
        Cell::styled(show_count(at.left), style),
        Cell::new(resets),
        Cell::new(text(budget, "on_exhausted")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Verb};
    use clap::Parser;
    use zbus::Variant;

    type Parsed = Option<Result<(String, &'static str, Given<'static>)>>;

    fn parsed(words: &str) -> Parsed {
        let words = ["stratavorectl", "budget", "set"]
            .into_iter()
            .chain(words.split(' '));
        match Cli::try_parse_from(words).ok()?.verb {
            Verb::Budget(Budget::Set(set)) => Some(given(&set)),
            _ => None,
        }
    }

    #[test]
    fn settings() {
        let good = "--scope project:web --period day --limit 1.5M --timezone Europe/Berlin --on-exhausted stop --count output,input";
        let Some(Ok((scope, period, settings))) = parsed(good) else {
            panic!("a good one");
        };
        assert_eq!((scope.as_str(), period), ("project:web", "day"));
        assert_eq!(settings.get("limit"), Some(&Variant::U64(1_500_000)));
        assert_eq!(settings.get("count"), Some(&Variant::from("input,output")));
        for bad in [
            "--scope project:web --period day",
            "--scope web --period day --limit 1",
            "--scope fleet --period year --limit 1",
            "--scope fleet --period day --limit 1.5",
            "--scope session:a/b --period day --limit 1",
            "--scope fleet --period day --limit 1 --on-exhausted kill",
            "--scope fleet --period day --limit 1 --count cache",
        ] {
            assert!(
                matches!(parsed(bad), Some(Err(f)) if f.status == USAGE),
                "{bad}"
            );
        }
        assert!(parsed("--period day --limit 1").is_none());
        assert!(parsed("--scope fleet --limit 1").is_none());
    }

    #[test]
    fn what_is_left() {
        let of = |limit: u64, used: u64, reserved: u64| {
            let entries = [("limit", limit), ("used", used), ("reserved", reserved)];
            Dict::from(entries.map(|(key, n)| (key.to_owned(), n.into())))
        };
        assert_eq!(Standing::of(&of(10, 3, 4)).left, 3);
        assert_eq!(Standing::of(&of(10, 30, u64::MAX)).left, 0);
        assert_eq!(percent(3, 10), " (30%)");
        assert_eq!(percent(u64::MAX, u64::MAX), " (100%)");
        assert_eq!(percent(3, 0), "");
    }
}
