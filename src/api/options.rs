//! The `a{sv}` arguments: pure parsing, with sentences for whoever got one wrong.

use super::values::{
    Options, PAGE_MAX, User, boolean, count, descriptor, in_order, integer, labels, limit, page,
    scalar, states, text, texts, time, unknown, user, wrong,
};
use crate::domain::budget::check_tokens;
use crate::domain::inputs::{self, Inputs};
use crate::domain::limits::Value;
use crate::domain::logs::{LINES_MAX, LogOutput, LogsRequest};
use crate::domain::name::{self, shown};
use crate::domain::project::{self, ProjectChange, SLICE_KEYS};
use crate::domain::spec::{self, Setenv};
use crate::domain::units;
use crate::domain::{Error, Limits, ProjectName, RunnerId, RunnerSpec, State};
use crate::engine::not_through_the_store;
use crate::ports::{EventFilter, RunnerFilter, Streams};
use std::collections::BTreeMap;
use std::sync::Arc;

/// So many rows are in a page where the caller does not say.
pub const PAGE_DEFAULT: u32 = 100;

const LAUNCH_KEYS: [&str; 28] = [
    "name",
    "uid",
    "working-directory",
    "setenv",
    "label",
    "request-id",
    "memory-max",
    "memory-high",
    "memory-swap-max",
    "cpu-quota",
    "cpu-weight",
    "io-weight",
    "tasks-max",
    "runtime-max",
    "stop-timeout",
    "kill-signal",
    "oom-policy",
    "load-credential",
    "env-file",
    "log-file-max",
    "queue",
    "priority",
    "tokens",
    "session",
    "stdin",
    "stdout",
    "stderr",
    "on",
];
/// In the interface's plan, but not in this release: refused, never ignored.
const LATER_KEYS: [&str; 1] = ["wait"];
/// The caller's descriptors, by number.
pub(crate) const STREAMS: [&str; 3] = ["stdin", "stdout", "stderr"];
/// The options of `Launch`.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// `name`.
    pub name: Option<String>,
    /// `uid`; `None` = the caller.
    pub user: Option<User>,
    /// `working-directory`.
    pub working_directory: Option<String>,
    /// `setenv`.
    pub setenv: Vec<Setenv>,
    /// `label`.
    pub labels: BTreeMap<String, String>,
    /// All limits.
    pub limits: Limits,
    /// `request-id`.
    pub request_id: Option<String>,
    /// `load-credential`, `env-file`.
    pub inputs: Inputs,
    /// `log-file-max`, in bytes.
    pub log_file_max: Option<u64>,
    /// `queue`: where it is refused and waiting can help, it waits.
    pub queue: bool,
    /// `priority`.
    pub priority: i32,
    /// `tokens`; `None` = what its project says.
    pub tokens: Option<u64>,
    /// `session`.
    pub session: Option<String>,
    /// `stdin`, `stdout`, `stderr`.
    pub streams: Streams,
    /// `on`: the host, as the caller names it; `None` = this one.
    pub on: Option<String>,
}

impl Launch {
    /// What is asked for, for this user.
    pub(super) fn spec(
        &self,
        project: ProjectName,
        command: Vec<String>,
        uid: u32,
        user: String,
    ) -> RunnerSpec {
        RunnerSpec {
            project,
            command,
            name: self.name.clone(),
            uid,
            user,
            working_directory: self.working_directory.clone(),
            labels: self.labels.clone(),
            limits: self.limits.clone(),
            log_file_max: self.log_file_max,
            priority: self.priority,
            tokens: self.tokens,
            session: self.session.clone(),
            placed: None,
        }
    }
}

/// Parses the options of `Launch` and `Explain`.
pub fn launch(options: &Options) -> Result<Launch, Error> {
    let mut out = Launch::default();
    for (key, value) in in_order(options) {
        match key {
            "name" => {
                let text = text(key, value)?;
                name::check_runner_name(text)?;
                out.name = Some(text.to_owned());
            }
            "uid" => out.user = Some(user(key, value)?),
            "working-directory" => {
                let text = text(key, value)?;
                spec::check_path("The working directory", text)?;
                out.working_directory = Some(text.to_owned());
            }
            "setenv" => out.setenv = spec::parse_setenv(&texts(key, value)?)?,
            "label" => out.labels = labels(key, value)?,
            "request-id" => {
                let text = text(key, value)?;
                spec::check_request_id(text)?;
                out.request_id = Some(text.to_owned());
            }
            _ if Limits::is_key(key) => limit(&mut out.limits, key, value)?,
            "load-credential" => {
                let all = texts(key, value)?;
                let all = all.iter().map(|text| inputs::parse_credential(text));
                out.inputs.credentials = all.collect::<Result<_, _>>()?;
            }
            "env-file" => {
                let all = texts(key, value)?;
                let all = all.iter().map(|text| inputs::parse_environment_file(text));
                out.inputs.environment_files = all.collect();
            }
            "log-file-max" => {
                let bytes = match scalar(value) {
                    Some(Value::Number(n)) => n,
                    Some(Value::Text(text)) => units::parse_finite_size(text)
                        .map_err(|e| Error::invalid(format!("{key}: {}", e.message)))?,
                    None => return Err(wrong(key, value, "a t (bytes), or an s such as “64M”")),
                };
                spec::check_log_file_max(bytes)?;
                out.log_file_max = Some(bytes);
            }
            "queue" => out.queue = boolean(key, value)?,
            "priority" => {
                out.priority = integer(key, value)?;
                spec::check_priority(out.priority)?;
            }
            "tokens" => {
                let tokens = count(key, value)?;
                check_tokens(tokens)?;
                out.tokens = Some(tokens);
            }
            "session" => {
                let text = text(key, value)?;
                name::check_session_name(text)?;
                out.session = Some(text.to_owned());
            }
            "on" => out.on = Some(text(key, value)?.to_owned()),
            "stdin" | "stdout" | "stderr" => {
                let at = STREAMS.iter().position(|s| *s == key).unwrap_or(0);
                out.streams.0[at] = Some(Arc::new(descriptor(key, value)?));
            }
            _ if LATER_KEYS.contains(&key) => {
                return Err(Error::invalid(format!(
                    "The option “{key}” does not exist in this release of Stratavore."
                )));
            }
            _ => return Err(unknown(key, &LAUNCH_KEYS)),
        }
    }
    out.inputs.check()?;
    if let ([_, true, true], Some(_)) = (out.streams.given(), out.log_file_max) {
        return Err(spec::no_output_left());
    }
    if out.on.is_some() && (out.streams.given() != [false; 3] || !out.inputs.is_empty()) {
        return Err(not_through_the_store());
    }
    if out.queue && out.streams.given() != [false; 3] {
        return Err(spec::no_streams_later());
    }
    Ok(out)
}

/// Parses the limits of `SetLimits`: at least one.
pub fn limits(options: &Options) -> Result<Limits, Error> {
    if options.is_empty() {
        return Err(Error::invalid(
            "No limit is given; give at least one, such as memory-max=1G.",
        ));
    }
    let known: Vec<&str> = LAUNCH_KEYS
        .into_iter()
        .filter(|k| Limits::is_key(k))
        .collect();
    let mut out = Limits::default();
    for (key, value) in in_order(options) {
        if !Limits::is_key(key) {
            return Err(unknown(key, &known));
        }
        limit(&mut out, key, value)?;
    }
    Ok(out)
}

/// Checks the options of a method that has none yet.
pub fn none(options: &Options) -> Result<(), Error> {
    match in_order(options).first() {
        Some((key, _)) => Err(Error::invalid(format!(
            "There is no option “{}”; this method has none in this release.",
            shown(key)
        ))),
        None => Ok(()),
    }
}

/// The options of `Reconcile`: whether it is a dry run.
pub fn reconcile(options: &Options) -> Result<bool, Error> {
    let mut dry = false;
    for (key, value) in in_order(options) {
        match key {
            "dry-run" => dry = boolean(key, value)?,
            _ => return Err(unknown(key, &["dry-run"])),
        }
    }
    Ok(dry)
}

/// Parses the options of `Logs`.
pub fn logs(options: &Options) -> Result<LogsRequest, Error> {
    const KEYS: [&str; 3] = ["lines", "follow", "output"];
    let mut out = LogsRequest::default();
    for (key, value) in in_order(options) {
        match key {
            "lines" => match scalar(value) {
                Some(Value::Number(n)) if n <= LINES_MAX => out.lines = Some(n),
                Some(Value::Number(n)) => {
                    return Err(Error::invalid(format!(
                        "lines={n}: at most {LINES_MAX} can be asked for; without it all come."
                    )));
                }
                _ => return Err(wrong(key, value, "a t")),
            },
            "follow" => out.follow = boolean(key, value)?,
            "output" => {
                let text = text(key, value)?;
                out.output = LogOutput::parse(text).ok_or_else(|| {
                    let known = LogOutput::ALL.map(LogOutput::as_str).join(", ");
                    Error::invalid(format!(
                        "output: there is no “{}”; there are {known}.",
                        shown(text)
                    ))
                })?;
            }
            _ => return Err(unknown(key, &KEYS)),
        }
    }
    Ok(out)
}

/// Parses the settings of `CreateProject` and `SetProject`.
pub fn project(options: &Options) -> Result<ProjectChange, Error> {
    let mut out = ProjectChange::default();
    for (key, value) in in_order(options) {
        match key {
            "description" => {
                let text = text(key, value)?;
                project::check_description(text)?;
                out.description = Some(text.to_owned());
            }
            "max-runners" => out.max_runners = Some(project::max_runners(count(key, value)?)?),
            "max-queued" => out.max_queued = Some(project::max_queued(count(key, value)?)?),
            "default-tokens" => {
                out.default_tokens = Some(project::default_tokens(count(key, value)?)?);
            }
            _ if SLICE_KEYS.contains(&key) => limit(&mut out.limits, key, value)?,
            _ if Limits::is_key(key) => {
                return Err(Error::invalid(format!(
                    "“{key}” is a limit of single runners; a project's slice can hold {}.",
                    SLICE_KEYS.join(", ")
                )));
            }
            _ => {
                let known: Vec<_> = SLICE_KEYS
                    .into_iter()
                    .chain(["description", "max-runners", "max-queued", "default-tokens"])
                    .collect();
                return Err(unknown(key, &known));
            }
        }
    }
    Ok(out)
}

/// What `ListRunners` is asked for.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Which.
    pub filter: RunnerFilter,
    /// Whose; still to be looked up.
    pub user: Option<User>,
    /// With what the live ones have used up to now.
    pub usage: bool,
}

/// The filter of `ListRunners`.
pub fn runner_filter(options: &Options) -> Result<Listing, Error> {
    const KEYS: [&str; 12] = [
        "project", "state", "all", "label", "uid", "name", "host", "since", "until", "after",
        "limit", "usage",
    ];
    let mut out = RunnerFilter {
        limit: PAGE_DEFAULT,
        ..RunnerFilter::default()
    };
    let mut user_asked = None;
    let (mut all, mut usage) = (false, false);
    for (key, value) in in_order(options) {
        match key {
            "project" => out.project = Some(text(key, value)?.parse()?),
            "state" => out.states = states(key, value)?,
            "all" => all = boolean(key, value)?,
            "usage" => usage = boolean(key, value)?,
            "label" => out.labels = labels(key, value)?,
            "uid" => user_asked = Some(user(key, value)?),
            "name" => out.name = Some(text(key, value)?.to_owned()),
            // As it was given; still to be looked up.
            "host" => out.host = Some(text(key, value)?.to_owned()),
            "since" => out.since = Some(time(key, value)?),
            "until" => out.until = Some(time(key, value)?),
            "after" => out.after = Some(text(key, value)?.parse::<RunnerId>()?),
            "limit" => out.limit = page(key, value)?,
            _ => return Err(unknown(key, &KEYS)),
        }
    }
    if all && out.states.is_empty() {
        out.states = State::ALL.to_vec();
    }
    Ok(Listing {
        filter: out,
        user: user_asked,
        usage,
    })
}

/// The filter of `ListEvents`.
pub fn event_filter(after: u64, limit: u32, options: &Options) -> Result<EventFilter, Error> {
    const KEYS: [&str; 4] = ["newest", "project", "runner", "type"];
    let mut out = EventFilter {
        after,
        limit: match limit {
            0 => PAGE_DEFAULT,
            n => n.min(PAGE_MAX),
        },
        ..EventFilter::default()
    };
    for (key, value) in in_order(options) {
        match key {
            "newest" => out.newest = boolean(key, value)?,
            "project" => out.project = Some(text(key, value)?.parse()?),
            "runner" => out.runner = Some(text(key, value)?.parse()?),
            "type" => {
                let text = text(key, value)?;
                let short = text.strip_prefix("org.stratavore.").unwrap_or(text);
                let known = crate::domain::event::EventType::ALL.map(|t| t.short());
                let kind = crate::domain::event::EventType::parse(short).ok_or_else(|| {
                    Error::invalid(format!(
                        "“{}” is not a type of event; there are {}.",
                        shown(text),
                        known.join(", ")
                    ))
                })?;
                out.kind = Some(kind);
            }
            _ => return Err(unknown(key, &KEYS)),
        }
    }
    Ok(out)
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
