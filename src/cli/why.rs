//! `why`: what decided about a runner or a project, with its numbers, and what to do about it.

use super::agent::Away;
use super::args::Why;
use super::client::{Client, dict, number, text};
use super::failure::{Failure, Result};
use super::names::Names;
use super::out::Out;
use super::render::{span, time, wrap};
use super::story::{Story, latest};
use super::text::clean;
use super::{Global, bus, journal, json, queue, show, usage};
use crate::api::proxy::{Dict, Given};
use crate::domain::admission::NO_TOKENS;
use crate::domain::limits::DEFAULT_STOP_TIMEOUT;
use crate::domain::name::shown;
use crate::domain::nearest::nearest;
use crate::domain::project::absent;
use crate::domain::units::show_span;

/// So many of the last refusals are told.
const DENIED: u32 = 5;

/// Tells why.
pub(super) async fn why(client: &Client, global: &Global, args: &Why) -> Result<u8> {
    let out = Out::new(global);
    let failure = match (&args.what, &args.project) {
        (_, Some(project)) => return of_project(client, &out, project).await,
        (what, None) => {
            let what = what.as_deref().unwrap_or_default();
            match client.describe_all(what).await {
                Ok(described) => return of_runner(client, &out, &described).await,
                Err(failure) if failure.is("NoSuchRunner") || failure.is("InvalidArgument") => {}
                Err(failure) => return Err(failure),
            }
            match of_project(client, &out, what).await {
                Err(failure) if failure.is("NoSuchProject") => unknown(client, what).await,
                other => return other,
            }
        }
    };
    Err(failure)
}

async fn unknown(client: &Client, what: &str) -> Failure {
    let mut words = Vec::new();
    if let Ok(projects) = client.manager().list_projects().await {
        words.extend(projects.iter().map(|p| text(p, "name").to_owned()));
    }
    words.extend(client.names().await);
    let near = nearest(what, words.iter().map(String::as_str));
    let message = format!(
        "No runner has the id, prefix or name “{0}”, and no project is called so.{1} See: stratavorectl list --all, stratavorectl project list.",
        shown(what),
        near.map(|n| format!(" Did you mean “{n}”?"))
            .unwrap_or_default()
    );
    Failure::no_such("NoSuchRunner", message)
}

async fn of_runner(client: &Client, out: &Out, of: &Dict) -> Result<u8> {
    let story = Story::of(client, text(of, "id")).await?;
    let away = match text(of, "host") {
        host if client.manager().host_id().await.is_ok_and(|id| id == host) => {
            Away::of(client).await
        }
        _ => None,
    };
    let reasons = reasons(of, &story, away);
    if out.is_json() {
        let mut value = json::shown(of);
        value["reasons"] = reasons.into();
        out.object(&value)?;
        return Ok(0);
    }
    let name = match text(of, "name") {
        "" => String::new(),
        name => format!(" ({})", clean(name)),
    };
    say(
        out,
        &format!(
            "Runner {}{name} of project {}",
            text(of, "id"),
            text(of, "project")
        ),
        &reasons,
    )
}

/// A heading, and sentences below it.
fn say(out: &Out, head: &str, sentences: &[String]) -> Result<u8> {
    let room = out
        .look
        .width
        .map_or(usize::MAX, |w| w.saturating_sub(2).max(20));
    let mut text = format!("{}\n", clean(head));
    for sentence in sentences {
        text.push_str(&format!(
            "  {}\n",
            wrap(&bus::advice(&clean(sentence)), room).join("\n  ")
        ));
    }
    out.text(&text)?;
    Ok(0)
}

/// What decided about this runner, in sentences.
fn reasons(of: &Dict, story: &Story, away: Option<Away>) -> Vec<String> {
    let (limits, used, exit) = (dict(of, "limits"), dict(of, "usage"), dict(of, "exit"));
    let id = text(of, "id");
    let mut out = vec![match text(of, "state") {
        "ended" => format!(
            "{}.",
            show::state(of).replacen("ended since", "It ended on", 1)
        ),
        state => format!(
            "Its state is {state}: {}",
            standing(of, state, story, &limits, away)
        ),
    }];
    let placed = show::placed_by(of);
    if !placed.is_empty() {
        out.push(format!("It was asked for by {placed}."));
    }
    if text(of, "state") == "queued" {
        out.extend(queue::reasons(of));
    }
    let ending = show::ending(&exit);
    if !ending.is_empty() {
        out.push(ending);
    }
    out.extend(because(text(&exit, "cause"), of, story, &limits, &used));
    let kills = number(&used, "oom_kills").unwrap_or_default();
    if kills > 0 && text(&exit, "cause") != "oom-kill" {
        out.push(format!(
            "{}; memory: {}. Its OOM policy let the rest go on or end as said.",
            usage::oom_kills(&used),
            usage::memory(&limits, &used)
        ));
    }
    if text(of, "state") == "ended" {
        out.push(format!(
            "All about it: stratavorectl show {id}. Its output: {}",
            journal::output(of)
        ));
    }
    out
}

/// Why a live one is as it is.
fn standing(of: &Dict, state: &str, story: &Story, limits: &Dict, away: Option<Away>) -> String {
    let since = |key| {
        number(of, key)
            .map(|at| format!("{} ago", super::render::ago(at)))
            .unwrap_or_default()
    };
    let by = || {
        story
            .asked_by()
            .unwrap_or_else(|| "the host itself".to_owned())
    };
    match (state, away) {
        ("starting", Some(away)) => format!(
            "it was admitted {}, no quota is in its way; {}, and it goes on when that is back.",
            since("created_at"),
            away.said()
        ),
        ("stopping", Some(away)) => format!("asked for by {}; {}.", by(), away.stopping()),
        _ => match state {
            "starting" => format!(
                "it was admitted {}, no quota is in its way; its scope is made and its limits are read back before the command is released. That takes a moment; if it lasts, see: {} status stratavore-agent.",
                since("created_at"),
                bus::systemctl()
            ),
            "queued" => format!(
                "it has waited for its turn {}.",
                since("created_at").trim_end_matches(" ago")
            ),
            "frozen" if !text(of, "frozen_by").is_empty() => frozen_by(text(of, "frozen_by"), of),
            "frozen" => format!(
                "{}; its processes stand still until: stratavorectl thaw {}.",
                story
                    .last_of("frozen")
                    .unwrap_or_else(|| "it was frozen".to_owned()),
                text(of, "id")
            ),
            "stopping" => format!(
                "asked for by {}; what is left of its processes is killed when its stop timeout ({}) has passed.",
                by(),
                match usage::limit(limits, "stop-timeout") {
                    none if none.is_empty() => show_span(DEFAULT_STOP_TIMEOUT),
                    some => some,
                }
            ),
            _ => format!("its command was started {} and runs.", since("started_at")),
        },
    }
}

/// `budget project:web/day` or `hold fleet`: what froze it, and how it goes on.
fn frozen_by(by: &str, of: &Dict) -> String {
    let budget = by.strip_prefix("budget ");
    match budget.and_then(|budget| budget.rsplit_once('/')) {
        Some((scope, period)) => format!(
            "the budget of {0} (period {1}) has frozen it, it had used {2}. It goes on by itself when there is room; to make some: stratavorectl budget set --scope {0} --period {1} --limit N.",
            clean(scope),
            clean(period),
            usage::tokens(of)
        ),
        None => format!(
            "a hold ({}) has frozen it, and it goes on by itself when that is over. See: stratavorectl hold list.",
            clean(by.strip_prefix("hold ").unwrap_or(by))
        ),
    }
}

/// Numbers behind a cause, and what can be done.
fn because(cause: &str, of: &Dict, story: &Story, limits: &Dict, used: &Dict) -> Option<String> {
    Some(match cause {
        "oom-kill" => format!(
            "Memory: {}; OOM kills: {}. Give it more with --memory-max when you launch it again{}.",
            usage::memory(limits, used),
            usage::oom_kills(used),
            match text(limits, "oom-policy") {
                "" | "continue" => String::new(),
                policy => format!("; its OOM policy was “{policy}”"),
            }
        ),
        "timeout" => format!(
            "It may run {} at most (runtime-max). Give it more with --runtime-max when you launch it again.",
            usage::limit(limits, "runtime-max")
        ),
        "cancelled" => {
            let ended = story.last_of("ended").unwrap_or_else(|| "ended".to_owned());
            let taken = ended.replacen("ended", "taken out of the queue", 1);
            format!("Nothing of it ran: it was {taken}.")
        }
        "over-budget" => format!(
            "It had used {}. See which budget it was: stratavorectl budget list; its thresholds: stratavorectl events --type budget.exceeded. To make room: stratavorectl budget set --scope SCOPE --period PERIOD --limit N.",
            usage::tokens(of)
        ),
        "stopped" => match story.asked_by() {
            Some(by) => format!("Asked for by {by}."),
            None if !story.is_known() => "Its events can't be read now, so who asked for it can't be told; try again later.".to_owned(),
            None => "Nobody asked Stratavore for it: systemd was told to stop its scope. See: journalctl -b _COMM=systemctl, and the lines about its unit.".to_owned(),
        },
        "signal" => format!("Nobody asked Stratavore to stop it: the signal came from the command itself, from another process, or by “stratavorectl kill”, which the journal of stratavored tells: {} stratavored.", bus::journalctl_unit()),
        "core-dump" => format!("See the core with: coredumpctl list, and its last lines with: {}", journal::output(of)),
        "exit-code" => "The command ended by itself with a status other than 0; what it said last is in its output.".to_owned(),
        "launch-failed" => "Nothing of it ran. Check the command, its interpreter, the working directory and the limits.".to_owned(),
        "supervisor-lost" => "Its shim was killed (by root, or with all processes of its cgroup); so nobody saw how the command ended. Nothing of Stratavore does that.".to_owned(),
        "host-lost" => "Its host could not reach the fleet's store, or its stratavore-agent was away, and with fleet.stop_on_disconnect_after its runners then stop by themselves, so that others may have their slots. See: journalctl -u stratavored -u stratavore-agent of that time.".to_owned(),
        "host-rebooted" => "The host went down without a shutdown: a power cut, a crash or a reset. See: journalctl -b -1 -e.".to_owned(),
        "host-shutdown" => "The host was shut down or rebooted in order. See: journalctl --list-boots.".to_owned(),
        "unknown" => "The record of its ending can't be read: see whether the disk of /var/lib/stratavore is well.".to_owned(),
        _ => return None,
    })
}

async fn of_project(client: &Client, out: &Out, project: &str) -> Result<u8> {
    let none = Given::new();
    let explained = client
        .call("Explain", &(project, &["true"][..], &none))
        .await;
    let (admitted, gates): (bool, Vec<Dict>) = match explained {
        Ok(explained) => explained,
        Err(failure) if failure.is("InvalidArgument") => {
            return Err(Failure::no_such("NoSuchProject", absent(project)));
        }
        Err(failure) => return Err(client.suggest(failure, project).await),
    };
    let denied = denied(client, project).await?;
    if out.is_json() {
        out.object(&serde_json::json!({
            "project": project,
            "admitted": admitted,
            "gates": gates.iter().map(json::gate).collect::<Vec<_>>(),
            "denied": denied.iter().map(json::event).collect::<Vec<_>>(),
        }))?;
        return Ok(0);
    }
    let mut sentences: Vec<String> = gates.iter().map(gate).collect();
    sentences.push(match admitted {
        true => "Every gate is open: no quota is in the way of a launch. What else could be: stratavorectl status.".to_owned(),
        false => "A launch would be refused now.".to_owned(),
    });
    if !denied.is_empty() {
        sentences.push("Refused lately:".to_owned());
        let names = Names::of(client).await;
        sentences.extend(denied.iter().map(|event| refusal(event, &names)));
    }
    say(out, &format!("Project {project}"), &sentences)
}

/// `project-runners is open: 3 live of 4, room for 1.`
pub(super) fn gate(of: &Dict) -> String {
    let n = |key| number(of, key).unwrap_or_default();
    let (name, used) = (text(of, "name"), n("used"));
    let what = match name {
        "budget" => format!("{used} tokens used and {} reserved", n("reserved")),
        "queue" => format!("{used} before it"),
        "queue-length" => format!("{used} waiting"),
        _ => format!("{used} live"),
    };
    let name = match name {
        "budget" => format!("budget {}", text(of, "subject")),
        name => name.to_owned(),
    };
    match (number(of, "limit"), text(of, "message")) {
        (_, message) if !message.is_empty() => format!("{name} is shut: {message}"),
        (None, _) => format!("{name} is open: {what}, and no cap."),
        (Some(limit), _) => format!(
            "{name} is open: {what} of {limit}, room for {}.",
            limit.saturating_sub(used.saturating_add(n("reserved")))
        ),
    }
}

/// `Sun 2026-…  project-runners: 4 of 4, for alice (3 times)`
fn refusal(event: &Dict, names: &Names) -> String {
    let data = dict(event, "data");
    let n = |key| number(&data, key).unwrap_or_default();
    let times = match n("count") {
        0 | 1 => String::new(),
        count => format!(" ({count} times)"),
    };
    format!(
        "- {}, {} ago: {}, asked by {}{times}",
        time(number(event, "time").unwrap_or_default()),
        span(super::render::now().saturating_sub(number(event, "time").unwrap_or_default())),
        lacked(&data),
        names.actor(event)
    )
}

/// `project-runners had 4 of 4`, and of a budget what was asked of it.
fn lacked(data: &Dict) -> String {
    let n = |key| number(data, key).unwrap_or_default();
    let (gate, used, limit) = (text(data, "gate"), n("used"), n("limit"));
    match (gate, text(data, "note")) {
        ("budget", note) if note == NO_TOKENS => {
            format!("budget {}: {note}", clean(text(data, "budget")))
        }
        ("budget", _) => format!(
            "budget {} had {used} of {limit} used and {} reserved, and {} were asked for",
            clean(text(data, "budget")),
            n("reserved"),
            n("requested")
        ),
        // These are no numbers: they are there or not.
        ("hold", note) => format!("a hold was in force{}", in_brackets(note)),
        ("cordon", note) => format!("the host was cordoned{}", in_brackets(note)),
        _ if used == 0 && limit == 0 => format!("{gate} was shut"),
        _ => format!("{gate} had {used} of {limit}"),
    }
}

fn in_brackets(note: &str) -> String {
    match note {
        "" => String::new(),
        note => format!(" ({})", clean(note)),
    }
}

/// The last refusals of a project, oldest first.
async fn denied(client: &Client, project: &str) -> Result<Vec<Dict>> {
    let filter = Given::from([
        ("project", project.to_owned().into()),
        ("type", "admission.denied".into()),
    ]);
    latest(client, &filter, DENIED).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::wire::Str;
    use zbus::{OwnedVariant, Variant};

    fn s(text: &str) -> OwnedVariant {
        Str::from(text.to_owned()).into()
    }

    fn d(entries: Vec<(&str, OwnedVariant)>) -> OwnedVariant {
        let dict: Dict = entries
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect();
        Variant::from(dict)
            .try_into_owned()
            .unwrap_or_else(|_| false.into())
    }

    fn runner(state: &str, cause: &str) -> Dict {
        let limits = vec![
            ("memory-max", (1u64 << 30).into()),
            ("runtime-max", 60_000_000u64.into()),
        ];
        let usage = vec![
            ("memory_peak_bytes", (1u64 << 30).into()),
            ("oom_kills", 1u64.into()),
        ];
        let mut of = Dict::from([
            ("id".to_owned(), s("0193c1d2")),
            ("state".to_owned(), s(state)),
            ("limits".to_owned(), d(limits)),
            ("usage".to_owned(), d(usage)),
            ("created_at".to_owned(), 1u64.into()),
        ]);
        if !cause.is_empty() {
            of.insert(
                "exit".to_owned(),
                d(vec![("cause", s(cause)), ("message", s("It ended."))]),
            );
        }
        of
    }

    #[test]
    fn what_a_refused_launch_lacked() {
        let of = |gate: &str, budget: &str, note: &str, used: u64| {
            let text = [("gate", gate), ("budget", budget), ("note", note)];
            let mut of = Dict::from(text.map(|(key, value)| (key.to_owned(), s(value))));
            let numbers = [
                ("used", used),
                ("limit", 9),
                ("reserved", 2),
                ("requested", 7),
            ];
            of.extend(numbers.map(|(key, n)| (key.to_owned(), n.into())));
            lacked(&of)
        };
        assert_eq!(
            of("project-runners", "", "", 9),
            "project-runners had 9 of 9"
        );
        assert_eq!(
            of("hold", "", "by root", 0),
            "a hold was in force (by root)"
        );
        assert_eq!(of("cordon", "", "", 0), "the host was cordoned");
        assert_eq!(
            of("budget", "fleet/day", "a new period begins soon", 3),
            "budget fleet/day had 3 of 9 used and 2 reserved, and 7 were asked for"
        );
        assert_eq!(
            of("budget", "fleet/day", NO_TOKENS, 0),
            "budget fleet/day: the launch does not say how many tokens it may use"
        );
    }

    #[test]
    fn every_cause_has_its_reason() {
        for cause in crate::domain::exit::Cause::ALL {
            let said = reasons(&runner("ended", cause.as_str()), &Story::default(), None);
            let more = usize::from(cause.as_str() != "success");
            assert!(said.len() >= 3 + more, "{cause:?}: {said:?}");
        }
        let said = reasons(&runner("ended", "oom-kill"), &Story::default(), None).join(" ");
        assert!(
            said.contains("peak 1G of 1G (100%)") && said.contains("--memory-max"),
            "{said}"
        );
        let said = reasons(&runner("ended", "timeout"), &Story::default(), None).join(" ");
        assert!(said.contains("1min at most"), "{said}");
        for state in ["queued", "starting", "running", "frozen", "stopping"] {
            let said = reasons(&runner(state, ""), &Story::default(), None).join(" ");
            assert!(said.contains(&format!("Its state is {state}: ")), "{said}");
        }
    }

    #[test]
    fn gates_tell_their_numbers() {
        let mut of = Dict::from([
            ("name".to_owned(), s("project-runners")),
            ("used".to_owned(), 3u64.into()),
        ]);
        assert_eq!(gate(&of), "project-runners is open: 3 live, and no cap.");
        of.insert("limit".to_owned(), 4u64.into());
        assert_eq!(
            gate(&of),
            "project-runners is open: 3 live of 4, room for 1."
        );
        of.insert(
            "message".to_owned(),
            s("Project p has 4 of 4 live runners."),
        );
        assert!(gate(&of).starts_with("project-runners is shut: Project p has 4 of 4"));
    }
}
