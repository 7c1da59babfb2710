//! `show`.

use super::args::One;
use super::client::{Client, dict, number, text, texts};
use super::failure::Result;
use super::render::{self, Out};
use super::{Global, bus, json};
use crate::api::proxy::Dict;
use crate::domain::limits::{KEYS, Unit};
use crate::domain::signal;
use crate::domain::units::{self, INFINITY};
use std::collections::BTreeMap;
use zbus::Variant;

/// Shows one runner.
pub(super) async fn show(client: &Client, global: &Global, args: &One) -> Result<u8> {
    let out = Out::new(global.output);
    let described = client.describe_all(&args.id).await?;
    match out.is_json() {
        true => out.object(&json::shown(&described))?,
        false => out.text(&block(&described))?,
    }
    Ok(0)
}

fn block(of: &Dict) -> String {
    let clean = |key| render::clean(text(of, key));
    let (limits, usage, exit) = (dict(of, "limits"), dict(of, "usage"), dict(of, "exit"));
    let user = match number(of, "uid") {
        Some(uid) => format!("{} ({uid})", clean("user")),
        None => clean("user"),
    };
    let command = match texts(of, "command") {
        Some(words) => render::command(&words),
        None => "(shown to its user, root and who may view it)".to_owned(),
    };
    let mut ending = String::new();
    if !exit.is_empty() {
        ending = format!(
            "{}: {}",
            text(&exit, "cause"),
            render::clean(text(&exit, "message"))
        );
    }
    let unit = text(of, "unit");
    render::block(&[
        ("Runner", clean("id")),
        ("Name", clean("name")),
        ("Project", clean("project")),
        ("User", user),
        ("State", state(of)),
        ("Ending", ending),
        ("Command", command),
        ("Directory", clean("working_directory")),
        ("Labels", labels(of)),
        ("Unit", unit.to_owned()),
        ("Memory", memory(&limits, &usage)),
        ("CPU", cpu(&limits, &usage)),
        ("IO", io(&limits, &usage)),
        ("Tasks", tasks(&limits, &usage)),
        ("OOM kills", count(&usage, "oom_kills")),
        ("Stop", stop(&limits)),
        (
            "Warnings",
            texts(of, "warnings").unwrap_or_default().join(" "),
        ),
        ("Output", format!("{} '{unit}'", bus::journalctl_unit())),
    ])
}

fn state(of: &Dict) -> String {
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

fn labels(of: &Dict) -> String {
    let all: Vec<String> = dict_of_texts(of, "labels")
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    render::clean(&all.join(" "))
}

fn dict_of_texts(of: &Dict, key: &str) -> BTreeMap<String, String> {
    let found = of.get(key).and_then(|v| v.try_clone().ok());
    found.and_then(|v| v.try_into().ok()).unwrap_or_default()
}

/// Every limit that is said, `key=value`.
pub(super) fn said(limits: &Dict) -> Vec<String> {
    KEYS.iter()
        .map(|(key, _)| (key, limit(limits, key)))
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// One limit as text; empty if nothing is said.
fn limit(limits: &Dict, key: &str) -> String {
    let unit = KEYS.iter().find(|(k, _)| *k == key).map(|(_, unit)| *unit);
    match (number(limits, key), unit) {
        (None, _) => String::new(),
        (Some(INFINITY), _) => "infinity".to_owned(),
        (Some(n), Some(Unit::Bytes)) => units::show_size(n),
        (Some(n), Some(Unit::CpuQuota)) => format!("{}%", n / 10_000),
        (Some(n), Some(Unit::Span)) => units::show_span(n),
        (Some(n), _) => n.to_string(),
    }
}

/// `used (max 1G, high 800M)`.
fn with_limits(used: String, limits: &Dict, keys: &[(&str, &str)]) -> String {
    let said: Vec<String> = keys
        .iter()
        .map(|(key, word)| (word, limit(limits, key)))
        .filter(|(_, value)| !value.is_empty())
        .map(|(word, value)| format!("{word} {value}"))
        .collect();
    match (used.is_empty(), said.is_empty()) {
        (true, true) => String::new(),
        (false, true) => used,
        (true, false) => format!("({})", said.join(", ")),
        (false, false) => format!("{used} ({})", said.join(", ")),
    }
}

fn memory(limits: &Dict, usage: &Dict) -> String {
    let peak = number(usage, "memory_peak_bytes");
    let used = peak.map(|n| format!("{} peak", units::show_size(n)));
    let keys = [
        ("memory-max", "max"),
        ("memory-high", "high"),
        ("memory-swap-max", "swap max"),
    ];
    with_limits(used.unwrap_or_default(), limits, &keys)
}

fn cpu(limits: &Dict, usage: &Dict) -> String {
    let used = number(usage, "cpu_usec").map(|n| match n {
        0..1_000 => format!("{n}us"),
        _ => units::show_span(n / 1_000 * 1_000),
    });
    let keys = [("cpu-quota", "quota"), ("cpu-weight", "weight")];
    with_limits(used.unwrap_or_default(), limits, &keys)
}

fn io(limits: &Dict, usage: &Dict) -> String {
    let (read, written) = (
        number(usage, "io_read_bytes"),
        number(usage, "io_write_bytes"),
    );
    let used = match (read, written) {
        (Some(r), Some(w)) => format!(
            "{} read, {} written",
            units::show_size(r),
            units::show_size(w)
        ),
        _ => String::new(),
    };
    with_limits(used, limits, &[("io-weight", "weight")])
}

fn tasks(limits: &Dict, usage: &Dict) -> String {
    let used = number(usage, "tasks_peak").map(|n| format!("{n} peak"));
    with_limits(used.unwrap_or_default(), limits, &[("tasks-max", "max")])
}

fn count(of: &Dict, key: &str) -> String {
    number(of, key).map(|n| n.to_string()).unwrap_or_default()
}

fn stop(limits: &Dict) -> String {
    let mut said = Vec::new();
    for (key, word) in [
        ("runtime-max", "runs at most"),
        ("stop-timeout", "stop timeout"),
    ] {
        let value = limit(limits, key);
        if !value.is_empty() {
            said.push(format!("{word} {value}"));
        }
    }
    if let Some(Variant::I32(number)) = limits.get("kill-signal").map(|v| &**v) {
        said.push(format!("by {}", signal::name(*number)));
    }
    let policy = text(limits, "oom-policy");
    if !policy.is_empty() {
        said.push(format!("on an OOM kill: {policy}"));
    }
    said.join(", ")
}
