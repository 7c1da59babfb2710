//! What completions offer of what is there just now: runners, projects, users, labels. Quick, and
//! silent where nothing can be found out; a daemon that is away is not started for it.

use super::bus;
use super::client::{link, text, texts};
use super::text::{clean, command, cut};
use crate::api::proxy::{Dict, Given, ManagerProxy};
use clap_complete::engine::CompletionCandidate;
use std::collections::BTreeSet;
use std::time::Duration;
use zbus::proxy::MethodFlags;
use zbus::wire::{DynamicDeserialize, DynamicType};

/// Whoever presses the Tab key does not wait longer.
const TIME_MAX: Duration = Duration::from_secs(1);
/// More than so many are of no use to anybody.
const MOST: u32 = 200;
/// The command stands behind an id, shortened to so much.
const HELP_MAX: usize = 40;

/// Whether a shell takes the word as it is. bash puts what is offered into its line unquoted, and the next Enter would run
/// what somebody else has written into a label.
fn is_plain(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    !word.is_empty() && word.chars().all(plain)
}

/// Live runners, by name and id.
pub(super) fn runners() -> Vec<CompletionCandidate> {
    of_runners(false)
}

/// Runners, ended ones too.
pub(super) fn all_runners() -> Vec<CompletionCandidate> {
    of_runners(true)
}

/// Runners and projects.
pub(super) fn runners_and_projects() -> Vec<CompletionCandidate> {
    let mut out = all_runners();
    out.extend(projects());
    out
}

/// Live runners, and limits to be set.
pub(super) fn runners_and_limits() -> Vec<CompletionCandidate> {
    let mut out = runners();
    let keys = crate::domain::limits::KEYS
        .iter()
        .map(|(key, _)| *key)
        .chain(["oom-policy", "kill-signal"]);
    out.extend(keys.map(|key| CompletionCandidate::new(format!("{key}="))));
    out
}

fn of_runners(all: bool) -> Vec<CompletionCandidate> {
    let mut out = Vec::new();
    for runner in list(all) {
        let mut help = format!("{} of {}", text(&runner, "state"), text(&runner, "project"));
        if let Some(words) = texts(&runner, "command") {
            help = format!("{help}: {}", command(&words));
        }
        let help = cut(&clean(&help), HELP_MAX);
        for key in ["name", "id"] {
            match text(&runner, key) {
                word if !is_plain(word) => {}
                word => out.push(
                    CompletionCandidate::new(word.to_owned()).help(Some(help.clone().into())),
                ),
            }
        }
    }
    out
}

/// Projects.
pub(super) fn projects() -> Vec<CompletionCandidate> {
    let projects: Vec<Dict> = ask("ListProjects", &());
    let of = |p: &Dict| {
        let help = clean(text(p, "description"));
        CompletionCandidate::new(text(p, "name").to_owned())
            .help((!help.is_empty()).then(|| help.into()))
    };
    let named = projects.iter().filter(|p| is_plain(text(p, "name")));
    named.map(of).collect()
}

/// Hosts of the fleet.
pub(super) fn hosts() -> Vec<CompletionCandidate> {
    let hosts: Vec<Dict> = ask("ListHosts", &());
    let named = hosts.iter().filter(|h| is_plain(text(h, "name")));
    let of = |h: &Dict| {
        CompletionCandidate::new(text(h, "name").to_owned())
            .help(Some(clean(text(h, "state")).into()))
    };
    named.map(of).collect()
}

/// Notification rules of this host, for those who may see them.
pub(super) fn notify_rules() -> Vec<CompletionCandidate> {
    let rules: Vec<Dict> = ask("ListNotifications", &());
    let named = rules.iter().map(|rule| text(rule, "name").to_owned());
    named.map(CompletionCandidate::new).collect()
}

/// Scopes of budgets: those that have one, all projects, the fleet.
pub(super) fn scopes() -> Vec<CompletionCandidate> {
    let mut found = BTreeSet::from(["fleet".to_owned()]);
    let of = |method, key, prefix: &str| -> Vec<String> {
        let rows = ask(method, &());
        rows.iter()
            .map(|r| format!("{prefix}{}", text(r, key)))
            .collect()
    };
    found.extend(of("ListProjects", "name", "project:"));
    found.extend(of("ListBudgets", "scope", ""));
    let plain = found.into_iter().filter(|word| is_plain(word));
    plain.map(CompletionCandidate::new).collect()
}

/// Periods of budgets.
pub(super) fn periods() -> Vec<CompletionCandidate> {
    crate::domain::period::Period::ALL
        .map(|p| CompletionCandidate::new(p.as_str()))
        .into()
}

/// What can happen when a budget is used up.
pub(super) fn on_exhausted() -> Vec<CompletionCandidate> {
    crate::domain::budget::OnExhausted::ALL
        .map(|p| CompletionCandidate::new(p.as_str()))
        .into()
}

/// Kinds of tokens.
pub(super) fn counts() -> Vec<CompletionCandidate> {
    [
        "input",
        "output",
        "input,output",
        "cache-read",
        "cache-write",
    ]
    .map(CompletionCandidate::new)
    .into()
}

/// Time zones.
pub(super) fn zones() -> Vec<CompletionCandidate> {
    let all = jiff::tz::db().available();
    all.map(|zone| CompletionCandidate::new(zone.to_string()))
        .collect()
}

/// Labels of live runners, `key=value`.
pub(super) fn labels() -> Vec<CompletionCandidate> {
    let mut found = BTreeSet::new();
    for runner in list(false) {
        found.extend(
            super::client::labels_of(&runner)
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .filter(|label| is_plain(label)),
        );
    }
    found.into_iter().map(CompletionCandidate::new).collect()
}

/// Users that could have runners.
pub(super) fn users() -> Vec<CompletionCandidate> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    of_passwd(&passwd)
        .into_iter()
        .map(CompletionCandidate::new)
        .collect()
}

fn of_passwd(text: &str) -> Vec<String> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
        ((1_000..=60_000).contains(&uid) && is_plain(name)).then(|| name.to_owned())
    };
    text.lines().filter_map(user).take(MOST as usize).collect()
}

/// Signals by name.
pub(super) fn signals() -> Vec<CompletionCandidate> {
    [
        "SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGSTOP",
        "SIGCONT", "SIGABRT",
    ]
    .map(CompletionCandidate::new)
    .into()
}

/// Types of events.
pub(super) fn event_types() -> Vec<CompletionCandidate> {
    crate::domain::event::EventType::ALL
        .map(|kind| CompletionCandidate::new(kind.short()))
        .into()
}

/// What an OOM kill can do to the rest of a runner.
pub(super) fn oom_policies() -> Vec<CompletionCandidate> {
    use crate::domain::limits::OomPolicy::{Continue, Kill, Stop};
    [Continue, Stop, Kill]
        .map(|p| CompletionCandidate::new(p.as_str()))
        .into()
}

/// States a runner can be in.
pub(super) fn states() -> Vec<CompletionCandidate> {
    crate::domain::State::ALL
        .map(|s| CompletionCandidate::new(s.as_str()))
        .into()
}

fn list(all: bool) -> Vec<Dict> {
    let mut filter = Given::from([("limit", MOST.into())]);
    if all {
        filter.insert("all", true.into());
    }
    ask("ListRunners", &(filter,))
}

/// The answer to a call, or nothing. It has a thread of its own, as completions are made by a
/// function that can't wait.
fn ask<B>(method: &str, body: &B) -> Vec<Dict>
where
    B: serde::Serialize + DynamicType + Sync,
{
    // What lives on another host is not asked for: a login takes too long.
    let far =
        |word: String| word == "--host" || word.starts_with("--host=") || word.starts_with("-H");
    if std::env::args().any(far) {
        return Vec::new();
    }
    bus::choose(std::env::args().any(|word| word == "--user"));
    let asked = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .ok()?;
                runtime.block_on(async {
                    tokio::time::timeout(TIME_MAX, call(method, body))
                        .await
                        .ok()?
                })
            })
            .join()
    });
    asked.ok().flatten().unwrap_or_default()
}

async fn call<B, R>(method: &str, body: &B) -> Option<R>
where
    B: serde::Serialize + DynamicType,
    R: for<'d> DynamicDeserialize<'d>,
{
    let manager: ManagerProxy<'_> = link(None).await.ok()?;
    let flags = MethodFlags::NO_AUTO_START;
    manager
        .inner()
        .call_with_flags(method, flags, body)
        .await
        .ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_run_is_not_offered() {
        for plain in ["job=a/b:1,2@x%+", "0193c1d2-7", "web.1_a"] {
            assert!(is_plain(plain), "{plain}");
        }
        for odd in [
            "",
            "job=$(id)",
            "a=`id`",
            "a;b",
            "a=*",
            "a b",
            "a=\u{e9}",
            "a=\"",
            "a=~&",
        ] {
            assert!(!is_plain(odd), "{odd}");
        }
    }

    #[test]
    fn users_are_people() {
        let text = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nodd\nnobody:x:65534:1::/:/\n";
        assert_eq!(of_passwd(text), ["alice"]);
    }
}
