//! Pages of configuration and events.

use super::roff::Page;
use super::{source, texts};
use stratavore::config::{CREDENTIALS, Config, KEYS, NOTIFY_CREDENTIALS, RULE_KEYS};
use stratavore::domain::declared::{self, BUDGET_KEYS, FLEET_KEYS, Key, PROJECT_KEYS};
use stratavore::domain::event::EventType;
use stratavore::domain::event::schema::{self, Member, Of, Presence};
use stratavore::places::Places;

pub fn stratavored_toml() -> String {
    let mut page = Page::new(
        "stratavored.toml",
        5,
        "configuration of Stratavore's daemon",
    );
    page.heading("SYNOPSIS");
    page.synopsis("/etc/stratavore/stratavored.toml");
    page.synopsis("/etc/stratavore/stratavored.toml.d/*.toml");
    page.heading("DESCRIPTION");
    page.text(texts::DAEMON_CONFIG);
    let defaults = Config::new(&Places::system()).print();
    let mut last = "";
    for key in KEYS {
        let (section, name) = key.name.split_once('.').unwrap();
        if section != last {
            page.heading(&format!("[{section}]"));
            last = section;
        }
        assert!(!key.about.is_empty(), "{} is not documented", key.name);
        page.item(
            name,
            &format!(
                "{}. {} {}",
                key.about.trim_end_matches('.'),
                default(&defaults, section, name),
                match key.reload {
                    true => "Taken over by a reload.",
                    false => "Needs a restart.",
                }
            ),
        );
    }
    page.heading("[notify.rules.NAME]");
    page.text(texts::NOTIFY);
    for key in RULE_KEYS {
        page.item(key.name, &format!("{}.", key.about));
    }
    page.text(texts::NOTIFY_SIGNED);
    page.example(texts::NOTIFY_CHECK);
    page.text(texts::NOTIFY_REACH);
    page.example(texts::NOTIFY_EXAMPLE);
    page.heading("CREDENTIALS");
    page.text(texts::DAEMON_CREDENTIALS);
    for kind in CREDENTIALS.iter().chain(&NOTIFY_CREDENTIALS) {
        page.item(kind.name, &format!("{}.", kind.about));
    }
    page.heading("EXAMPLES");
    page.example(texts::DAEMON_CONFIG_EXAMPLE);
    page.text(texts::FLEET_EXAMPLE_ABOUT);
    page.example(texts::FLEET_EXAMPLE);
    page.example(texts::FLEET_DROP_IN);
    page.see(&[
        ("stratavored", 8),
        ("agent.toml", 5),
        ("stratavorectl", 1),
        ("stratavore-security", 7),
    ])
}

/// What `--print-config` says where nothing is configured.
fn default(printed: &str, section: &str, name: &str) -> String {
    let of_section = printed
        .split(&format!("[{section}]\n"))
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    let start = format!("{name} = ");
    let line = of_section
        .lines()
        .map(|l| l.trim_start_matches("# "))
        .find(|l| l.starts_with(&start));
    match line
        .unwrap_or_else(|| panic!("{section}.{name} is not printed"))
        .split_once(" = ")
        .unwrap()
        .1
    {
        "\"\"" if section == "limits" => "Not set by default.".to_owned(),
        value => format!("Default: {value}."),
    }
}

pub fn agent_toml() -> String {
    let mut page = Page::new("agent.toml", 5, "what bounds Stratavore's agent");
    page.heading("SYNOPSIS");
    page.synopsis("/etc/stratavore/agent.toml");
    page.heading("DESCRIPTION");
    page.text(texts::AGENT_CONFIG);
    page.heading("KEYS");
    let keys = source::documented("src/agent/config.rs", "pub(super) struct Config {");
    let ceilings = ["ceilings", "log_file_max"];
    for (name, about) in keys
        .iter()
        .filter(|(name, _)| !ceilings.contains(&name.as_str()))
    {
        page.item(name, about);
    }
    page.heading("[ceilings]");
    page.text(texts::CEILINGS);
    for (key, _) in stratavore::domain::limits::KEYS {
        let name = key.replace('-', "_");
        let about = KEYS
            .iter()
            .find(|k| k.name == format!("limits.{name}"))
            .map(|k| k.about);
        let about = about.unwrap_or_else(|| panic!("the ceiling {name} is not documented"));
        page.item(&name, &format!("{}.", about.trim_end_matches('.')));
    }
    for (name, about) in keys.iter().filter(|(name, _)| name == ceilings[1]) {
        page.item(name, about);
    }
    page.heading("EXAMPLE");
    page.example(texts::AGENT_CONFIG_EXAMPLE);
    page.see(&[
        ("stratavore-agent", 8),
        ("stratavored.toml", 5),
        ("stratavore-security", 7),
        ("systemd.resource-control", 5),
    ])
}

pub fn declared_toml() -> String {
    let mut page = Page::new(
        "declared.toml",
        5,
        "projects, quotas and budgets that Stratavore is to have",
    );
    page.heading("SYNOPSIS");
    page.synopsis("/etc/stratavore/declared.toml");
    page.synopsis("~/.config/stratavore/declared.toml");
    page.heading("DESCRIPTION");
    page.text(texts::DECLARED);
    page.heading("AT THE TOP");
    page.item("mutable", texts::DECLARED_MUTABLE);
    let mut section = |head: &str, about: &str, keys: &[Key]| {
        page.heading(head);
        page.text(about);
        for key in keys {
            page.item(key.name, &format!("{}.", key.about.trim_end_matches('.')));
        }
    };
    section("[fleet]", texts::DECLARED_FLEET, &FLEET_KEYS);
    section("[projects.NAME]", texts::DECLARED_PROJECT, &PROJECT_KEYS);
    section(
        "[budgets.SCOPE.PERIOD]",
        texts::DECLARED_BUDGET,
        &BUDGET_KEYS,
    );
    page.heading("EXAMPLE");
    page.example(texts::DECLARED_EXAMPLE);
    page.example(texts::DECLARED_USE);
    page.see(&[
        ("stratavorectl", 1),
        ("stratavored.toml", 5),
        ("org.stratavore1", 5),
    ])
}

/// The example is a file that is right.
#[test]
fn what_is_declared_there_can_be() {
    let declared = declared::parse(texts::DECLARED_EXAMPLE).unwrap();
    assert_eq!((declared.projects.len(), declared.budgets.len()), (1, 1));
    let bounds = [
        declared::PROJECTS_MAX,
        declared::BUDGETS_MAX,
        declared::BYTES_MAX,
    ];
    assert_eq!(bounds, [1_000, 1_000, 1 << 20], "the page tells them");
}

pub fn events() -> String {
    let mut page = Page::new(
        "stratavore-events",
        7,
        "what Stratavore tells of every change",
    );
    page.heading("SYNOPSIS");
    page.synopsis("stratavorectl events [-f] [--after SEQ] [-o jsonl]");
    page.heading("DESCRIPTION");
    page.text(texts::EVENTS);
    page.heading("FIELDS");
    for (name, meaning) in texts::EVENT_FIELDS {
        page.item(name, meaning);
    }
    page.heading("TYPES");
    page.text(texts::EVENT_TYPES);
    catalogue(&mut page);
    page.heading("PUBLISHED BY RABBITMQ");
    page.text(texts::EVENTS_BROKER);
    page.heading("MESSAGES");
    page.text(texts::EVENTS_MESSAGE);
    for (name, meaning) in rows(&schema::attributes()) {
        page.item(&name, &meaning);
    }
    page.heading("CONSUMERS");
    page.text(texts::EVENTS_CONSUMERS);
    page.see(&[
        ("stratavorectl", 1),
        ("stratavored.toml", 5),
        ("org.stratavore1", 5),
        ("stratavored", 8),
    ])
}

/// The types by what they are about, with the members of their data: first those that all of a kind have.
fn catalogue(page: &mut Page) {
    let kind = |of: EventType| of.short().split('.').next().unwrap();
    for types in EventType::ALL.chunk_by(|a, b| kind(*a) == kind(*b)) {
        page.part(&format!("org.stratavore.{}.*", kind(types[0])));
        let all: Vec<Vec<Member>> = types.iter().map(|of| schema::members(*of)).collect();
        let shared = |m: &&Member| types.len() > 1 && all.iter().all(|of| of.contains(m));
        let common: Vec<Member> = all[0].iter().filter(shared).cloned().collect();
        if !common.is_empty() {
            page.text("Data of all of them:");
            page.list(&rows(&common));
        }
        for (of, members) in types.iter().zip(&all) {
            let own: Vec<Member> = members
                .iter()
                .filter(|m| !common.contains(m))
                .cloned()
                .collect();
            page.item(&format!("org.stratavore.{}", of.short()), of.about());
            page.list(&rows(&own));
        }
    }
}

/// Name and meaning of each member, and of those within it.
fn rows(members: &[Member]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for member in members {
        let null = match member.presence {
            Presence::Always => "",
            Presence::OrNull => ", or null",
            Presence::Sometimes => ", may be absent",
        };
        let (what, below) = match &member.of {
            Of::Text | Of::Like(_) | Of::Exactly(_) | Of::Id | Of::Hex(_) | Of::Words(_) => {
                ("text", None)
            }
            Of::Flag => ("true or false", None),
            Of::Number(_) => ("number", None),
            Of::List(of) => match &**of {
                Of::Object(members) => ("objects", Some(("[].", members))),
                _ => ("texts", None),
            },
            Of::Object(members) => ("object", Some((".", members))),
        };
        out.push((
            member.name.to_owned(),
            format!("({what}{null}) {}", member.meaning()),
        ));
        if let Some((dot, members)) = below {
            let within = rows(members).into_iter();
            out.extend(
                within.map(|(name, meaning)| (format!("{}{dot}{name}", member.name), meaning)),
            );
        }
    }
    out
}
