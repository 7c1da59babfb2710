//! What people copy from README and the manual into files is taken by the programs that read them.

use super::texts;
use std::path::Path;
use std::process::Command;
use stratavore::config::{CREDENTIALS, NOTIFY_CREDENTIALS};
use stratavore::domain::declared;

/// README's blocks of this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let all = readme.split("```").skip(1).step_by(2);
    let of = all.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    of.collect()
}

/// Whose file it is from.
#[derive(Debug, PartialEq)]
enum Reader {
    Daemon,
    Agent,
    Declared,
}

fn reader(toml: &str) -> Reader {
    let has = |start: &str| toml.lines().any(|line| line.trim().starts_with(start));
    if has("accept_placed_launches") || has("allowed_users") || has("[ceilings]") {
        Reader::Agent
    } else if has("[projects.") || has("[budgets.") {
        Reader::Declared
    } else {
        Reader::Daemon
    }
}

/// What its reader says is wrong with it, or doubts.
fn wrong(toml: &str) -> Option<String> {
    let program = match reader(toml) {
        Reader::Declared => {
            return declared::parse(toml)
                .err()
                .map(|e| format!("{e:?}\n{toml}"));
        }
        Reader::Daemon => env!("CARGO_BIN_EXE_stratavored"),
        Reader::Agent => env!("CARGO_BIN_EXE_stratavore-agent"),
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let number = format!(
        "{:x}",
        toml.len() * 31 + toml.bytes().map(usize::from).sum::<usize>()
    );
    let file = folder.join(format!("snippet-{}-{number}.toml", std::process::id()));
    std::fs::write(&file, toml).unwrap();
    let check = Command::new(program)
        .arg("--check-config")
        .arg(&file)
        .output();
    std::fs::remove_file(&file).unwrap();
    let out = check.unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    (!out.status.success() || !said.is_empty()).then(|| format!("{said}\n{toml}"))
}

#[test]
fn configuration_that_people_copy_is_right() {
    let (notify, drop_in) = texts::NOTIFY_EXAMPLE.split_once("\n[Service]").unwrap();
    let mut all = blocks("toml");
    assert!(all.len() > 4, "{all:?}");
    all.extend([
        notify,
        texts::DAEMON_CONFIG_EXAMPLE,
        texts::FLEET_EXAMPLE,
        texts::AGENT_CONFIG_EXAMPLE,
        texts::DECLARED_EXAMPLE,
    ]);
    for of in [Reader::Daemon, Reader::Agent, Reader::Declared] {
        let some = all.iter().filter(|toml| reader(toml) == of).count();
        assert!(some >= 2, "{of:?}: {some}");
    }
    let bad: Vec<String> = all.iter().filter_map(|toml| wrong(toml)).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));

    // Drop-ins name credentials that there are.
    let mut names = 0;
    for text in blocks("ini")
        .into_iter()
        .chain([drop_in, texts::FLEET_DROP_IN])
    {
        for line in text.lines() {
            let Some(value) = line.trim().strip_prefix("LoadCredential=") else {
                continue;
            };
            let name = value.split(':').next().unwrap();
            names += 1;
            assert!(is_known(name), "no credential is called {name}");
        }
    }
    assert!(names > 5, "{names}");
}

fn is_known(name: &str) -> bool {
    let of_rule = |of: &str| {
        let (before, after) = of.split_once("NAME").unwrap();
        name.starts_with(before) && name.ends_with(after)
    };
    CREDENTIALS.iter().any(|c| c.name == name) || NOTIFY_CREDENTIALS.iter().any(|c| of_rule(c.name))
}

#[test]
fn what_is_wrong_is_seen() {
    for toml in [
        "[store]\nurll = \"x\"",
        "[events]\namqp_urls = [\"amqp://mq1.example\"]",
        "accept_placed_launches = 1",
        "[projects.web]\nmax_runner = 1",
    ] {
        assert!(wrong(toml).is_some(), "{toml}");
    }
    assert!(!is_known("store-pasword") && !is_known("notify-ops"));
}
