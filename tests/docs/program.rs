//! Pages of programs, from their command lines.

use super::roff::Page;
use super::texts;
use clap::{Arg, ArgAction, Command, CommandFactory};

/// clap's own, and the same everywhere.
const ALWAYS: [&str; 2] = ["help", "version"];

pub fn stratavorectl() -> String {
    let mut command = stratavore::cli::args::Cli::command();
    command.build();
    let mut page = start(&command, 1, "launch, see and control runners");
    page.synopsis("stratavorectl [OPTIONS…] COMMAND …");
    page.heading("DESCRIPTION");
    page.text(texts::CTL);
    page.heading("COMMANDS");
    for verb in verbs(&command) {
        verb_section(&mut page, &verb, verb.get_name());
    }
    page.heading("GENERAL OPTIONS");
    page.text("Every command takes these.");
    options(&mut page, &command, |arg| !arg.is_positional());
    page.heading("EXIT STATUS");
    page.text(texts::CTL_STATUS);
    page.heading("ENVIRONMENT");
    for (name, meaning) in texts::CTL_ENVIRONMENT {
        page.item(name, meaning);
    }
    page.heading("EXAMPLES");
    page.example(texts::CTL_EXAMPLES);
    page.see(&[
        ("stratavored", 8),
        ("stratavored.toml", 5),
        ("declared.toml", 5),
        ("org.stratavore1", 5),
        ("stratavore-events", 7),
        ("stratavore-security", 7),
        ("systemctl", 1),
        ("systemd-run", 1),
        ("journalctl", 1),
    ])
}

pub fn stratavored() -> String {
    let mut command = super::stratavored::Args::command();
    command.build();
    let mut page = start(&command, 8, "Stratavore's daemon");
    page.synopsis("stratavored.service");
    page.synopsis("stratavored [OPTIONS…]");
    page.heading("DESCRIPTION");
    page.text(texts::DAEMON);
    page.heading("OPTIONS");
    options(&mut page, &command, |_| true);
    page.heading("EXIT STATUS");
    page.text(texts::DAEMON_STATUS);
    page.heading("AUDIT");
    page.text(texts::AUDIT);
    page.example(texts::AUDIT_KEY);
    page.text(texts::AUDIT_USER);
    page.example(texts::AUDIT_USER_EXAMPLE);
    page.text(texts::AUDIT_VERIFY);
    page.example(texts::AUDIT_EXAMPLE);
    page.text(texts::AUDIT_ROTATE);
    page.example(texts::AUDIT_ROTATE_EXAMPLE);
    page.text(texts::AUDIT_PROOF);
    page.heading("FILES");
    for (name, meaning) in texts::DAEMON_FILES {
        page.item(name, meaning);
    }
    page.see(&[
        ("stratavorectl", 1),
        ("stratavore-agent", 8),
        ("stratavored.toml", 5),
        ("agent.toml", 5),
        ("org.stratavore1", 5),
        ("stratavore-events", 7),
        ("stratavore-security", 7),
        ("systemd.scope", 5),
    ])
}

pub fn agent() -> String {
    let mut command = stratavore::agent::Args::command();
    command.build();
    let mut page = start(&command, 8, "Stratavore's one hand on systemd");
    page.synopsis("stratavore-agent.service");
    page.synopsis("stratavore-agent.socket");
    page.synopsis("/usr/libexec/stratavore/stratavore-agent [OPTIONS…]");
    page.heading("DESCRIPTION");
    page.text(texts::AGENT);
    page.heading("OPTIONS");
    options(&mut page, &command, |_| true);
    page.heading("EXIT STATUS");
    page.text(texts::AGENT_STATUS);
    page.heading("FILES");
    for (name, meaning) in texts::AGENT_FILES {
        page.item(name, meaning);
    }
    page.see(&[
        ("stratavored", 8),
        ("agent.toml", 5),
        ("stratavorectl", 1),
        ("stratavore-security", 7),
        ("systemd.resource-control", 5),
    ])
}

fn start(command: &Command, section: u8, about: &str) -> Page {
    let mut page = Page::new(command.get_name(), section, about);
    page.heading("SYNOPSIS");
    page
}

fn verbs(command: &Command) -> Vec<Command> {
    let shown = |c: &&Command| !c.is_hide_set() && c.get_name() != "help";
    command.get_subcommands().filter(shown).cloned().collect()
}

/// A command with its options; those of its sub-commands follow.
fn verb_section(page: &mut Page, verb: &Command, name: &str) {
    let about = |c: &Command| {
        let text = c
            .get_long_about()
            .or(c.get_about())
            .map(ToString::to_string);
        text.unwrap_or_else(|| panic!("the command {name} is not documented"))
    };
    let below = verbs(verb);
    if !below.is_empty() {
        let _ = about(verb);
        for sub in &below {
            verb_section(page, sub, &format!("{name} {}", sub.get_name()));
        }
        return;
    }
    page.part(&usage(verb, name));
    page.text(&sentence(&about(verb)));
    options(page, verb, |arg| !arg.is_global_set());
    if let Some(after) = verb.get_after_help() {
        // Commands to type are indented.
        let command = |line: &str| line.starts_with("  ");
        for part in after.to_string().split("\n\n") {
            match part.lines().all(command) {
                true => page.example(&part.lines().map(str::trim).collect::<Vec<_>>().join("\n")),
                false => page.text(part),
            }
        }
    }
}

fn usage(verb: &Command, name: &str) -> String {
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage:").trim();
    let from = usage.find(name).unwrap_or(0);
    usage[from..]
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn options(page: &mut Page, command: &Command, shown: impl Fn(&Arg) -> bool) {
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        if arg.is_hide_set() || ALWAYS.contains(&id) || !shown(arg) {
            continue;
        }
        let help = arg
            .get_long_help()
            .or(arg.get_help())
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            !help.trim().is_empty(),
            "{} {id} is not documented",
            command.get_name()
        );
        let mut help = sentence(&help);
        let values: Vec<String> = arg
            .get_possible_values()
            .iter()
            .map(|v| v.get_name().to_owned())
            .collect();
        if !values.is_empty() && arg.get_action().takes_values() {
            help.push_str(&format!(" One of {}.", values.join(", ")));
        }
        let defaults: Vec<String> = arg
            .get_default_values()
            .iter()
            .map(|v| v.to_string_lossy().into_owned())
            .collect();
        if !defaults.is_empty() && arg.get_action().takes_values() {
            help.push_str(&format!(" Default: {}.", defaults.join(", ")));
        }
        if !arg.is_global_set()
            && matches!(arg.get_action(), ArgAction::Append)
            && !arg.is_positional()
        {
            help.push_str(" May be given several times.");
        }
        page.item(&spelling(arg), &help);
    }
}

fn spelling(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value = names
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    if arg.is_positional() {
        return value;
    }
    let mut words: Vec<String> = arg
        .get_short()
        .map(|s| format!("-{s}"))
        .into_iter()
        .collect();
    words.extend(arg.get_long().map(|l| format!("--{l}")));
    let mut out = words.join(", ");
    if arg.get_action().takes_values() {
        let optional = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
        out.push_str(&if optional {
            format!(" [{value}]")
        } else {
            format!(" {value}")
        });
    }
    out
}

/// With a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim();
    match text.ends_with(['.', ':', '?', '!']) {
        true => text.to_owned(),
        false => format!("{text}."),
    }
}

/// Every variable that `stratavorectl` reads is in its page.
#[test]
fn the_environment_is_documented() {
    let told: Vec<&str> = texts::CTL_ENVIRONMENT
        .iter()
        .flat_map(|(names, _)| names.split(", "))
        .collect();
    let mut seen = Vec::new();
    for file in [
        "pager.rs",
        "out.rs",
        "bus.rs",
        "run.rs",
        "text.rs",
        "failure.rs",
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/cli")
            .join(file);
        let source = std::fs::read_to_string(path).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        for call in ["env(\"", "var(\"", "var_os(\"", "of(\""] {
            let names = code
                .split(call)
                .skip(1)
                .filter_map(|rest| rest.split('"').next());
            let variable = |name: &&str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            seen.extend(names.filter(variable).map(str::to_owned));
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
    for name in seen {
        assert!(
            told.contains(&name.as_str()),
            "{name} is not in CTL_ENVIRONMENT"
        );
    }
}
