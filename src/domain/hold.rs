//! Holds: "launch nothing here, freeze what runs", for a project, a label or the fleet, until a
//! time. The shared rate limit of one credential is the case in mind: everything that uses it
//! stands still and goes on by itself.

use super::error::Error;
use super::event::Actor;
use super::name::{self, ProjectName};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The most holds at a time.
pub const HOLDS_MAX: usize = 1_000;
/// The longest reason, in bytes.
pub const REASON_MAX: usize = 1_024;

/// Whom a hold is about. Shown and stored as `fleet`, `project:NAME`, `label:KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldScope {
    /// Every runner of every host.
    Fleet,
    /// The runners of a project.
    Project(ProjectName),
    /// The runners with this label.
    Label(String, String),
}

/// A hold. There is at most one for each scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Whom it is about.
    pub scope: HoldScope,
    /// It ends by itself then; `None` = when it is released.
    pub until: Option<Timestamp>,
    /// Running ones are frozen, too.
    pub freeze: bool,
    /// Why, for people.
    pub reason: String,
    /// Who set it.
    pub actor: Actor,
    /// When.
    pub set_at: Timestamp,
}

impl Hold {
    /// Whether it is in force at this moment.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// For how long and why, for sentences: `until 2026-11-22 10:00:00 UTC: rate limit`.
    pub fn term(&self) -> String {
        let mut term = match self.until {
            Some(until) => format!("until {}", until.shown()),
            None => "until it is released".to_owned(),
        };
        if !self.reason.is_empty() {
            term.push_str(&format!(": {}", self.reason));
        }
        term
    }
}

impl HoldScope {
    /// Whether a runner of this project with these labels is meant.
    pub fn covers(&self, project: &ProjectName, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Fleet => true,
            Self::Project(name) => name == project,
            Self::Label(key, value) => labels.get(key) == Some(value),
        }
    }

    /// The project, if it is about one.
    pub fn project(&self) -> Option<&ProjectName> {
        match self {
            Self::Project(name) => Some(name),
            Self::Fleet | Self::Label(..) => None,
        }
    }

    /// As `stratavorectl hold` has it.
    pub fn flag(&self) -> String {
        match self {
            Self::Fleet => "--fleet".to_owned(),
            Self::Project(name) => format!("--project {name}"),
            Self::Label(key, value) => format!("--label {key}={value}"),
        }
    }
}

impl fmt::Display for HoldScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Project(name) => write!(f, "project:{name}"),
            Self::Label(key, value) => write!(f, "label:{key}={value}"),
        }
    }
}

impl FromStr for HoldScope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "fleet" {
            return Ok(Self::Fleet);
        }
        if let Some(project) = text.strip_prefix("project:") {
            return project.parse().map(Self::Project);
        }
        let label = text.strip_prefix("label:").and_then(|l| l.split_once('='));
        let Some((key, value)) = label else {
            return Err(Error::invalid(format!(
                "“{}” is no scope of a hold; it is fleet, project:NAME or label:KEY=VALUE.",
                name::shown(text)
            )));
        };
        name::check_label_key(key)?;
        name::check_label_value(key, value)?;
        Ok(Self::Label(key.to_owned(), value.to_owned()))
    }
}

impl Serialize for HoldScope {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HoldScope {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Checks a reason given by a person.
pub fn check_reason(reason: &str) -> Result<(), Error> {
    if reason.len() > REASON_MAX || reason.chars().any(|c| c.is_control()) {
        return Err(Error::invalid(format!(
            "A reason is one line of at most {REASON_MAX} bytes."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope() -> impl Strategy<Value = HoldScope> {
        prop_oneof![
            Just(HoldScope::Fleet),
            "[a-z0-9][a-z0-9._-]{0,20}"
                .prop_filter_map("a name", |n| n.parse().ok().map(HoldScope::Project)),
            ("[a-z][a-z0-9]{0,8}", "[a-zA-Z0-9=:. ]{0,12}")
                .prop_map(|(key, value)| HoldScope::Label(key, value)),
        ]
    }

    proptest! {
        #[test]
        fn scopes_read_back(scope in scope()) {
            prop_assert_eq!(scope.to_string().parse(), Ok(scope));
        }

        #[test]
        fn nothing_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<HoldScope>();
        }
    }

    #[test]
    fn a_hold_ends_by_itself() {
        let hold = Hold {
            scope: HoldScope::Fleet,
            until: Some(Timestamp(10)),
            freeze: true,
            reason: String::new(),
            actor: Actor::host(),
            set_at: Timestamp(1),
        };
        assert!(hold.is_active(Timestamp(9)) && !hold.is_active(Timestamp(10)));
        let open = Hold {
            until: None,
            ..hold
        };
        assert!(open.is_active(Timestamp(u64::MAX)));
    }
}
