//! Domain values as the bus carries them. Keys of a runner are those of the JSON of `show`;
//! what is not there is left out.

use crate::domain::admission::Gate;
use crate::domain::budget::Tokens;
use crate::domain::event::{Actor, Event};
use crate::domain::limits::KEYS;
use crate::domain::reconcile::Todo;
use crate::domain::{Exit, Limits, Project, Runner, Usage};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use zbus::{OwnedVariant, Variant};

/// `a{sv}`, with its keys in order.
pub type Dict = BTreeMap<String, OwnedVariant>;

/// A value in a variant. None of ours holds a descriptor, the one thing that can't be owned.
pub(super) fn own(value: impl Into<Variant<'static>>) -> OwnedVariant {
    value
        .into()
        .try_into_owned()
        .unwrap_or_else(|_| OwnedVariant::from(false))
}

pub(super) fn put(dict: &mut Dict, key: &str, value: impl Into<Variant<'static>>) {
    dict.insert(key.to_owned(), own(value));
}

pub(super) fn maybe(dict: &mut Dict, key: &str, value: Option<impl Into<Variant<'static>>>) {
    if let Some(value) = value {
        put(dict, key, value);
    }
}

/// What everybody may know of a runner.
pub(super) fn public(runner: &Runner) -> Dict {
    let mut dict = Dict::new();
    put(&mut dict, "id", runner.id.to_string());
    maybe(&mut dict, "name", runner.spec.name.clone());
    put(&mut dict, "project", runner.spec.project.to_string());
    put(&mut dict, "host", runner.host.clone());
    put(&mut dict, "user", runner.spec.user.clone());
    put(&mut dict, "uid", runner.spec.uid);
    put(&mut dict, "state", runner.state().as_str());
    put(&mut dict, "unit", runner.id.unit());
    maybe(&mut dict, "session", runner.spec.session.clone());
    put(&mut dict, "priority", runner.spec.priority);
    maybe(&mut dict, "tokens", runner.spec.tokens);
    put(&mut dict, "created_at", runner.created_at.0);
    maybe(
        &mut dict,
        "started_at",
        runner.started_at.set().map(|t| t.0),
    );
    maybe(&mut dict, "ended_at", runner.ended_at.set().map(|t| t.0));
    put(&mut dict, "limits", limits(&runner.spec.limits));
    maybe(
        &mut dict,
        "placed",
        runner.spec.placed.as_ref().map(super::elsewhere::placed),
    );
    maybe(&mut dict, "log_file_max", runner.spec.log_file_max);
    let ending = runner.exit.as_ref().map(|e| exit(&e.public()));
    maybe(&mut dict, "exit", ending);
    if runner.usage.is_some() || runner.tokens != Tokens::default() {
        let used = runner.usage.unwrap_or_default();
        put(&mut dict, "usage", usage(runner, &used));
    }
    maybe(&mut dict, "token_usage", tokens(runner));
    maybe(&mut dict, "frozen_by", runner.frozen_by.clone());
    if let Some(placement) = &runner.placement {
        put(&mut dict, "invocation_id", placement.invocation_id.clone());
        let warnings = runner.warnings();
        if !warnings.is_empty() {
            put(&mut dict, "warnings", warnings);
        }
    }
    dict
}

/// What is for its owner, for root and for who may view it.
pub(super) fn private(dict: &mut Dict, runner: &Runner) {
    put(dict, "command", runner.spec.command.clone());
    put(dict, "labels", runner.spec.labels.clone());
    maybe(
        dict,
        "working_directory",
        runner.spec.working_directory.clone(),
    );
    maybe(dict, "exit", runner.exit.as_ref().map(exit));
}

/// Limits in the spelling and the units of the `Launch` options.
pub(super) fn limits(limits: &Limits) -> Dict {
    let mut dict = Dict::new();
    for (key, _) in KEYS {
        maybe(&mut dict, key, limits.number(key));
    }
    maybe(
        &mut dict,
        "oom-policy",
        limits.oom_policy.map(|p| p.as_str()),
    );
    maybe(&mut dict, "kill-signal", limits.kill_signal);
    dict
}

/// An ending as it is given: its sentence may name the command, see [`Exit::public`].
pub(super) fn exit(exit: &Exit) -> Dict {
    let mut dict = Dict::new();
    put(&mut dict, "cause", exit.cause.as_str());
    maybe(&mut dict, "code", exit.code);
    maybe(&mut dict, "signal", exit.signal);
    put(&mut dict, "message", exit.message.clone());
    dict
}

/// What of a runner's tokens was told and set aside, by kind; `None` = nothing.
fn tokens(runner: &Runner) -> Option<Dict> {
    let Tokens {
        input,
        output,
        cache_read,
        cache_write,
    } = runner.tokens;
    let counts = [
        ("input", input),
        ("output", output),
        ("cache_read", cache_read),
        ("cache_write", cache_write),
        ("reserved", runner.reserved),
    ];
    let mut dict = Dict::new();
    for (key, n) in counts {
        put(&mut dict, key, n);
    }
    counts.iter().any(|(_, n)| *n > 0).then_some(dict)
}

/// What a runner has used, its tokens as they were reported.
pub(super) fn usage(runner: &Runner, usage: &Usage) -> Dict {
    let mut dict = Dict::new();
    if runner.tokens != Tokens::default() {
        let [given, answered] = runner.tokens.directions();
        put(&mut dict, "tokens_in", given);
        put(&mut dict, "tokens_out", answered);
    }
    for (key, value) in [
        ("cpu_usec", usage.cpu_usec),
        ("memory_peak_bytes", usage.memory_peak_bytes),
        ("io_read_bytes", usage.io_read_bytes),
        ("io_write_bytes", usage.io_write_bytes),
        ("tasks_peak", usage.tasks_peak),
        ("oom_kills", usage.oom_kills),
        ("memory_bytes", usage.memory_bytes),
        ("tasks", usage.tasks),
    ] {
        maybe(&mut dict, key, value);
    }
    dict
}

/// A project.
pub(super) fn project(project: &Project) -> Dict {
    let mut dict = Dict::new();
    put(&mut dict, "name", project.name.to_string());
    put(
        &mut dict,
        "description",
        project.settings.description.clone(),
    );
    maybe(&mut dict, "max_runners", project.settings.max_runners);
    maybe(&mut dict, "max_queued", project.settings.max_queued);
    maybe(&mut dict, "default_tokens", project.settings.default_tokens);
    put(&mut dict, "live", project.live);
    put(&mut dict, "queued", project.queued);
    put(&mut dict, "limits", limits(&project.settings.limits));
    put(&mut dict, "slice", project.name.slice());
    put(&mut dict, "created_at", project.created_at.0);
    dict
}

/// A step of a reconciliation.
pub(super) fn step(todo: &Todo) -> Dict {
    let mut dict = Dict::new();
    put(&mut dict, "runner", todo.id().to_string());
    put(&mut dict, "step", todo.as_str());
    put(&mut dict, "message", todo.reason());
    if let Todo::End(_, ending, _) = todo {
        put(&mut dict, "exit", exit(&ending.public()));
    }
    dict
}

/// One gate of a launch.
pub(super) fn gate(gate: &Gate) -> Dict {
    let mut dict = Dict::new();
    put(&mut dict, "name", gate.name);
    put(&mut dict, "subject", gate.subject.clone());
    maybe(&mut dict, "limit", gate.limit);
    put(&mut dict, "used", gate.used);
    put(&mut dict, "reserved", gate.reserved);
    put(&mut dict, "requested", gate.requested);
    put(&mut dict, "open", gate.open());
    put(&mut dict, "note", gate.note.clone());
    maybe(&mut dict, "message", gate.refusal().map(|e| e.message));
    dict
}

/// An event.
pub(super) fn event(event: &Event) -> Dict {
    let mut dict = Dict::new();
    put(&mut dict, "seq", event.position);
    put(
        &mut dict,
        "type",
        format!("org.stratavore.{}", event.draft.kind.short()),
    );
    put(&mut dict, "project", event.draft.project.clone());
    put(&mut dict, "subject", event.draft.subject.clone());
    put(&mut dict, "runnerseq", event.draft.seq);
    put(&mut dict, "time", event.draft.at.0);
    put(&mut dict, "actor", actor(&event.draft.actor));
    if let Some(data) = json(&event.draft.data) {
        dict.insert("data".to_owned(), data);
    }
    dict
}

pub(super) fn actor(actor: &Actor) -> Dict {
    let mut dict = Dict::new();
    maybe(&mut dict, "uid", actor.uid);
    maybe(&mut dict, "user", actor.user.clone());
    maybe(&mut dict, "host", actor.host.clone());
    dict
}

/// JSON as a variant; `null` is left out, numbers are t where they can be, then x, then d.
fn json(value: &Json) -> Option<OwnedVariant> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(b) => own(*b),
        Json::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => own(n),
            (None, Some(n)) => own(n),
            _ => own(n.as_f64().unwrap_or_default()),
        },
        Json::String(text) => own(text.clone()),
        Json::Array(items) if items.iter().all(Json::is_string) => own(items
            .iter()
            .filter_map(|i| i.as_str().map(str::to_owned))
            .collect::<Vec<_>>()),
        Json::Array(items) => own(items
            .iter()
            .filter_map(json)
            .map(Variant::from)
            .collect::<Vec<_>>()),
        Json::Object(map) => own(map
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), json(value)?)))
            .collect::<Dict>()),
    })
}

/// The 16 bytes of an id of 32 hexadecimal digits; none for anything else.
pub(super) fn id_bytes(text: &str) -> Vec<u8> {
    if text.len() != 32 || !text.is_ascii() {
        return Vec::new();
    }
    (0..16)
        .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16))
        .collect::<Result<_, _>>()
        .unwrap_or_default()
}

/// The `status` of `RunnerEnded`: exit status, else signal, else -1 where nobody knows one.
pub(super) fn status(exit: &Exit) -> i32 {
    exit.code.or(exit.signal).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_travels() {
        let value = json!({"a": null, "b": -1, "c": [1, "x"], "d": ["x"], "e": {"f": 1.5}});
        let text = json(&value).map(|v| v.to_string()).unwrap_or_default();
        assert!(!text.contains("\"a\"") && text.contains("1.5"), "{text}");
    }

    #[test]
    fn ids() {
        assert_eq!(id_bytes(&"0f".repeat(16)), vec![15; 16]);
        assert_eq!(id_bytes("xyz"), Vec::<u8>::new());
        assert_eq!(id_bytes(&"zz".repeat(16)), Vec::<u8>::new());
    }
}
