//! Projects: owners of quotas and of a slice.

use super::budget::check_tokens;
use super::error::{Error, ErrorKind};
use super::limits::Limits;
use super::name::{ProjectName, shown};
use super::time::Timestamp;
use super::units::INFINITY;
use serde::{Deserialize, Serialize};

/// The longest description, in bytes.
pub const DESCRIPTION_MAX: usize = 1_024;
/// The highest cap on live runners.
pub const MAX_RUNNERS_MAX: u32 = 1_000_000;
/// The highest cap on runners that wait.
pub const MAX_QUEUED_MAX: u32 = 100_000;

/// The limits that a project's slice can hold.
pub const SLICE_KEYS: [&str; 7] = [
    "memory-max",
    "memory-high",
    "memory-swap-max",
    "cpu-quota",
    "cpu-weight",
    "io-weight",
    "tasks-max",
];

/// What is said of a project that is not there.
pub fn absent(name: &str) -> String {
    format!("Project {} does not exist.", shown(name))
}

/// There is no such project; maybe another one was `meant`. Where it helps to `create` it, the error says how.
pub fn unknown(name: &ProjectName, meant: Option<&str>, create: bool) -> Error {
    let meant = meant.map_or_else(String::new, |near| format!(" Did you mean {near}?"));
    let create = match create {
        true => format!(" Create it: stratavorectl project create {name}"),
        false => String::new(),
    };
    let message = format!("{}{meant}{create}", absent(name.as_str()));
    Error::new(ErrorKind::NoSuchProject, message)
}

/// Checks a description: at most 1024 bytes, and on one line.
pub fn check_description(text: &str) -> Result<(), Error> {
    if text.len() > DESCRIPTION_MAX || text.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "A description has at most {DESCRIPTION_MAX} bytes and no control characters."
        )));
    }
    Ok(())
}

/// A cap on live runners, of a project or the fleet; `None` = infinity.
pub fn max_runners(n: u64) -> Result<Option<u32>, Error> {
    match n {
        0 => Err(Error::invalid(
            "max-runners=0 would admit no runner at all; give at least 1, or infinity for no cap.",
        )),
        n => cap("max-runners", n, MAX_RUNNERS_MAX),
    }
}

/// A cap on runners that wait; `None` = infinity, the usual one.
pub fn max_queued(n: u64) -> Result<Option<u32>, Error> {
    cap("max-queued", n, MAX_QUEUED_MAX)
}

/// Tokens of a launch that does not say how many; `None` = infinity, there is no default.
pub fn default_tokens(n: u64) -> Result<Option<u64>, Error> {
    match n {
        INFINITY => Ok(None),
        tokens => check_tokens(tokens).map(|()| Some(tokens)),
    }
}

fn cap(key: &str, n: u64, most: u32) -> Result<Option<u32>, Error> {
    match u32::try_from(n) {
        _ if n == INFINITY => Ok(None),
        Ok(n) if n <= most => Ok(Some(n)),
        _ => Err(Error::invalid(format!(
            "{key}={n}: at most {most} is allowed, or infinity for no cap."
        ))),
    }
}

/// What an administrator says about a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectSettings {
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Most live runners at a time; `None` = no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runners: Option<u32>,
    /// Most runners that wait at a time; `None` = [`super::admission::QUEUED_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queued: Option<u32>,
    /// Tokens of a launch that does not say how many it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_tokens: Option<u64>,
    /// Limits of the project's slice: what all its runners share. Only the resource limits
    /// (memory, cpu, io, tasks) apply to a slice.
    #[serde(default)]
    pub limits: Limits,
}

/// A project with its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its key.
    pub name: ProjectName,
    /// What was said about it.
    pub settings: ProjectSettings,
    /// Runners that hold a slot now.
    pub live: u32,
    /// Runners that wait for their turn.
    pub queued: u32,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A change of some settings; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectChange {
    /// New description.
    pub description: Option<String>,
    /// New cap; `Some(None)` lifts it.
    pub max_runners: Option<Option<u32>>,
    /// New cap on runners that wait; `Some(None)` = the usual one.
    pub max_queued: Option<Option<u32>>,
    /// New default; `Some(None)` = there is none.
    pub default_tokens: Option<Option<u64>>,
    /// New values of single limits; infinity lifts one.
    pub limits: Limits,
}

impl ProjectSettings {
    /// These settings with the change applied.
    pub fn with(&self, change: &ProjectChange) -> Self {
        Self {
            description: change
                .description
                .clone()
                .unwrap_or_else(|| self.description.clone()),
            max_runners: change.max_runners.unwrap_or(self.max_runners),
            max_queued: change.max_queued.unwrap_or(self.max_queued),
            default_tokens: change.default_tokens.unwrap_or(self.default_tokens),
            limits: change.limits.or(&self.limits),
        }
    }
}
