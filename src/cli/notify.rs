//! `notify`.

use super::args::Notify;
use super::client::{Client, number, text, texts};
use super::failure::{FAILED, Failure, NO_SUCH, Result};
use super::out::Out;
use super::table::{Cell, Column, Style};
use super::text::clean;
use super::{Global, json, render};
use crate::api::proxy::{Dict, Given};
use crate::domain::name::shown;
use zbus::Variant;

/// Does what is asked of notification rules.
pub(super) async fn notify(client: &Client, global: &Global, args: &Notify) -> Result<u8> {
    let out = Out::new(global);
    let rules: Vec<Dict> = client.call("ListNotifications", &()).await?;
    match args {
        Notify::List => list(&rules, global, &out).map(|()| 0),
        Notify::Show(one) => show(named(&rules, &one.rule)?, &out).map(|()| 0),
        Notify::Test(some) => {
            let rules = match &some.rule {
                Some(rule) => vec![named(&rules, rule)?],
                None => rules.iter().collect(),
            };
            test(client, &rules, global, &out).await
        }
    }
}

fn named<'a>(rules: &'a [Dict], name: &str) -> Result<&'a Dict> {
    let found = rules.iter().find(|rule| text(rule, "name") == name);
    found.ok_or_else(|| {
        let names: Vec<_> = rules.iter().map(|rule| text(rule, "name")).collect();
        let there = match names.is_empty() {
            true => "stratavored.toml has no [notify.rules.…] that is in force".to_owned(),
            false => format!("there are {}", names.join(", ")),
        };
        Failure::new(
            NO_SUCH,
            format!("There is no notification rule {}; {there}.", shown(name)),
        )
    })
}

fn list(rules: &[Dict], global: &Global, out: &Out) -> Result<()> {
    if !rules.is_empty() {
        out.page();
    }
    if out.is_json() {
        return out.objects(rules.iter().map(json::notification).collect());
    }
    if global.quiet {
        let names: String = rules
            .iter()
            .map(|r| format!("{}\n", text(r, "name")))
            .collect();
        return out.text(&names);
    }
    if rules.is_empty() {
        eprintln!("There is no notification rule. How to make one: man stratavored.toml");
        return Ok(());
    }
    const HEAD: [Column; 7] = [
        Column::soft("RULE", 2, 6),
        Column::soft("TO", 2, 8),
        Column::soft("TYPES", 1, 8),
        Column::soft("STATE", 1, 7),
        Column::soft("SENT", 1, 4),
        Column::soft("LOST", 1, 4),
        Column::soft("LAST SENT", 1, 9),
    ];
    let rows: Vec<_> = rules.iter().map(row).collect();
    out.table(&HEAD, &rows)?;
    let s = if rules.len() == 1 { "" } else { "s" };
    out.footer(&format!("{} notification rule{s} listed.", rules.len()))
}

fn row(rule: &Dict) -> Vec<Cell> {
    let count = |key: &str| number(rule, key).unwrap_or(0);
    let state = text(rule, "state");
    let style = if state == "ok" {
        Style::Plain
    } else {
        Style::Bad
    };
    vec![
        Cell::new(text(rule, "name")),
        Cell::or_dash(text(rule, "to")),
        Cell::new(words(rule, "types")),
        Cell::styled(state, style),
        Cell::new(count("sent").to_string()),
        Cell::new((count("failed") + count("dropped")).to_string()),
        Cell::new(number(rule, "last_sent").map_or_else(|| "-".to_owned(), render::ago)),
    ]
}

fn words(rule: &Dict, key: &str) -> String {
    texts(rule, key).unwrap_or_default().join(", ")
}

fn show(rule: &Dict, out: &Out) -> Result<()> {
    if out.is_json() {
        return out.object(&json::notification(rule));
    }
    let or = |key: &str, otherwise: &str| match words(rule, key) {
        words if words.is_empty() => otherwise.to_owned(),
        words => words,
    };
    let signed = matches!(rule.get("signed").map(|v| &**v), Some(Variant::Bool(true)));
    let failure = number(rule, "last_failure").map(|at| {
        format!(
            "{}: {}",
            render::time(at),
            clean(text(rule, "last_failure_message"))
        )
    });
    let rows = [
        ("Rule", text(rule, "name").to_owned()),
        ("To", or_dash(text(rule, "to"))),
        ("Format", text(rule, "format").to_owned()),
        ("Signed", if signed { "yes" } else { "no" }.to_owned()),
        ("Types", words(rule, "types")),
        ("Projects", or("projects", "all")),
        (
            "Causes",
            or("causes", "all but success, stopped and cancelled"),
        ),
        (
            "From percent",
            number(rule, "percent").unwrap_or(0).to_string(),
        ),
        (
            "Repeat",
            number(rule, "repeat").map_or_else(String::new, render::span),
        ),
        (
            "Per hour",
            number(rule, "per_hour").unwrap_or(0).to_string(),
        ),
        ("State", text(rule, "state").to_owned()),
        (
            "Messages",
            format!(
                "{} sent, {} given up, {} dropped, {} waiting",
                number(rule, "sent").unwrap_or(0),
                number(rule, "failed").unwrap_or(0),
                number(rule, "dropped").unwrap_or(0),
                number(rule, "waiting").unwrap_or(0)
            ),
        ),
        (
            "Last sent",
            number(rule, "last_sent").map_or("-".to_owned(), render::time),
        ),
        ("Last failure", failure.unwrap_or("-".to_owned())),
    ];
    out.text(&render::block(&rows, out.look.width))
}

fn or_dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => clean(text),
    }
}

async fn test(client: &Client, rules: &[&Dict], global: &Global, out: &Out) -> Result<u8> {
    if rules.is_empty() {
        let message =
            "There is no notification rule to be tested. How to make one: man stratavored.toml";
        return Err(Failure::new(FAILED, message));
    }
    let mut status = 0;
    let mut results = Vec::new();
    for rule in rules {
        let (name, to) = (text(rule, "name"), text(rule, "to"));
        let none = Given::new();
        let result: Dict = client.call("TestNotification", &(name, &none)).await?;
        let sent = matches!(result.get("sent").map(|v| &**v), Some(Variant::Bool(true)));
        let why = clean(text(&result, "message"));
        if !sent {
            status = FAILED;
        }
        if out.is_json() {
            results.push(serde_json::json!({
                "rule": name,
                "sent": sent,
                "message": (!sent).then_some(why),
                "took_usec": number(&result, "took"),
            }));
        } else if !sent {
            eprintln!(
                "{name}: the test message did not arrive at {}: {why}.",
                or_dash(to)
            );
        } else if !global.quiet {
            let took = number(&result, "took").map_or_else(String::new, render::span);
            out.line(&format!(
                "{name}: {to} has taken the test message, in {took}."
            ))?;
        }
    }
    if out.is_json() {
        out.objects(results)?;
    }
    Ok(status)
}
