//! Runner ids: UUID version 7, so that they sort by the time of their making.

use super::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The id of a runner. Its text form is the hyphenated lower-case UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunnerId(Uuid);

impl RunnerId {
    /// An id from its 128 bits; the caller has made them by the rules of UUIDv7.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The runner's unit: `stratavore-<id>.scope`.
    pub fn unit(self) -> String {
        format!("stratavore-{self}.scope")
    }

    /// The id in a unit name made by [`Self::unit`].
    pub fn from_unit(unit: &str) -> Option<Self> {
        unit.strip_prefix("stratavore-")?
            .strip_suffix(".scope")?
            .parse()
            .ok()
    }

    /// The last element of the runner's object path: `-` is not allowed there and becomes `_`.
    pub fn path_element(self) -> String {
        self.to_string().replace('-', "_")
    }
}

impl fmt::Display for RunnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for RunnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunnerId {
    type Err = Error;

    /// Only the canonical text form: what we print is what we accept.
    fn from_str(text: &str) -> Result<Self, Error> {
        Uuid::try_parse(text)
            .ok()
            .map(Self)
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NoSuchRunner,
                    format!("“{}” is not a runner id.", super::name::shown(text)),
                )
            })
    }
}
