//! The words of a budget: whose tokens, which, and what happens when they are used up.

use super::super::error::Error;
use super::super::name::{self, ProjectName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Whose tokens a budget counts: `fleet`, `project:P`, `session:S`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Of all runners.
    Fleet,
    /// Of a project's runners.
    Project(ProjectName),
    /// Of a session's runners, one after the other.
    Session(String),
}

impl Scope {
    /// Whether a runner of this project and session is meant.
    pub fn matches(&self, project: &ProjectName, session: Option<&str>) -> bool {
        match self {
            Self::Fleet => true,
            Self::Project(name) => name == project,
            Self::Session(name) => Some(name.as_str()) == session,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Project(name) => write!(f, "project:{name}"),
            Self::Session(name) => write!(f, "session:{name}"),
        }
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            None if text == "fleet" => Ok(Self::Fleet),
            Some(("project", name)) => Ok(Self::Project(name.parse()?)),
            Some(("session", name)) => {
                name::check_session_name(name)?;
                Ok(Self::Session(name.to_owned()))
            }
            _ => Err(Error::invalid(format!(
                "“{}” is not the scope of a budget; give fleet, project:NAME or session:NAME.",
                name::shown(text)
            ))),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

/// What happens to running work when a budget is used up. New launches are refused in any case.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum OnExhausted {
    /// It goes on; what it uses is charged.
    #[default]
    Deny,
    /// It is frozen until there is room again: a higher limit, or a new period.
    Freeze,
    /// It is stopped, with the cause `over-budget`.
    Stop,
}

impl OnExhausted {
    /// All of them, the mildest first.
    pub const ALL: [Self; 3] = [Self::Deny, Self::Freeze, Self::Stop];

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Freeze => "freeze",
            Self::Stop => "stop",
        }
    }
}

impl FromStr for OnExhausted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|p| p.as_str() == text);
        found.ok_or_else(|| {
            Error::invalid(format!(
                "“{}” is not what can be done when a budget is used up; give deny, freeze or stop.",
                name::shown(text)
            ))
        })
    }
}

/// Which kinds of tokens a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// What the model was given.
    pub input: bool,
    /// What it answered.
    pub output: bool,
    /// What it was given out of its cache.
    pub cache_read: bool,
    /// What it was given to keep in its cache.
    pub cache_write: bool,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            input: true,
            output: true,
            cache_read: true,
            cache_write: true,
        }
    }
}

impl Counts {
    const NAMES: [&'static str; 4] = ["input", "output", "cache-read", "cache-write"];

    pub(super) fn flags(self) -> [bool; 4] {
        [self.input, self.output, self.cache_read, self.cache_write]
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = Self::NAMES.into_iter().zip(self.flags());
        let on: Vec<_> = on.filter(|(_, on)| *on).map(|(name, _)| name).collect();
        f.write_str(&on.join(","))
    }
}

impl FromStr for Counts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut flags = [false; 4];
        for word in text.split(',') {
            let at = Self::NAMES.iter().position(|name| *name == word);
            let at = at.ok_or_else(|| {
                Error::invalid(format!(
                    "“{}” is not a kind of tokens; give some of {}, with commas between them.",
                    name::shown(word),
                    Self::NAMES.join(", ")
                ))
            })?;
            flags[at] = true;
        }
        let [input, output, cache_read, cache_write] = flags;
        Ok(Self {
            input,
            output,
            cache_read,
            cache_write,
        })
    }
}
