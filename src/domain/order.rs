//! Orders between hosts: small requests about a runner, carried by the store. One that is not
//! taken in time expires and is never carried out late.
//!
//! A launch is one, too. Whoever asks has chosen the runner's id, and the row of that runner is written
//! in the transaction that finds its order open; who withdraws an order closes it. So one of the two
//! happens, whoever is killed when: there is one runner, or nothing will ever run.

use super::error::{Error, ErrorKind};
use super::event::Actor;
use super::id::RunnerId;
use super::limits::Limits;
use super::placed::Placing;
use super::spec::Setenv;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The most launches that wait for one host, and as many that it carries out at a time: they are large.
pub const LAUNCHES_MAX: usize = 64;
/// And of either of one user, on whichever hosts they ask, who shall not take everybody's places.
pub const OWN_LAUNCHES_MAX: usize = 16;

/// How long an order waits for its host, µs.
pub const WAITS: u64 = 5_000_000;
/// How long after that its answer is waited for, µs.
pub const ANSWERED: u64 = 15_000_000;

/// What is to be done with a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Begin the stop of its whole tree.
    Stop,
    /// Send a signal to its whole tree.
    Kill(i32),
    /// Freeze it.
    Freeze,
    /// Let it go on.
    Thaw,
    /// Put these limits in force, the others stay.
    Limit(Limits),
    /// Launch it.
    Launch(Box<Placing>),
}

/// By what right it is asked for. The host that carries it out looks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// The asker owns the runner.
    Own,
    /// The asker's host allows it any runner.
    Any,
}

impl Right {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Any => "any",
        }
    }

    /// The right named `text`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Own, Self::Any]
            .into_iter()
            .find(|r| r.as_str() == text)
    }
}

/// An order as the store carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub id: String,
    /// The host that is to carry it out.
    pub target: String,
    /// Whom it is about.
    pub runner: RunnerId,
    /// What.
    pub verb: Verb,
    /// Who asks.
    pub actor: Actor,
    /// By what right.
    pub right: Right,
    /// The host where it was asked.
    pub from: String,
    /// Not to be begun later; the store's clock.
    pub expires_at: Timestamp,
    /// The environment of a launch. It is in the store only until the order is taken or withdrawn.
    pub setenv: Vec<Setenv>,
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is known yet.
    Waits,
    /// The runner of a launch has its row; how it fares is told there.
    Begun,
    /// It is over.
    Over(Outcome),
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Done, with warnings.
    Done(Vec<String>),
    /// This runner was launched, or waits for its turn.
    Launched(RunnerId),
    /// Refused: the error's name and its sentence.
    Refused(String, String),
}

impl Outcome {
    /// As the caller gets it.
    pub fn into_result(self) -> Result<Vec<String>, Error> {
        match self {
            Self::Done(warnings) => Ok(warnings),
            Self::Launched(_) => Ok(Vec::new()),
            Self::Refused(name, message) => {
                let kind = ErrorKind::parse(&name).unwrap_or(ErrorKind::HostUnavailable);
                Err(Error::new(kind, message))
            }
        }
    }

    /// Which runner a launch came to.
    pub fn into_runner(self) -> Result<RunnerId, Error> {
        match self {
            Self::Launched(id) => Ok(id),
            other => Err(other.into_result().err().unwrap_or_else(|| {
                let strange = "The host that was asked answers what was not asked.";
                Error::new(ErrorKind::HostUnavailable, strange)
            })),
        }
    }

    /// As the store carries it back.
    pub fn of(result: Result<Vec<String>, Error>) -> Self {
        match result {
            Ok(warnings) => Self::Done(warnings),
            Err(error) => Self::Refused(error.kind.name().to_owned(), error.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_outcomes_read_back() {
        for verb in [
            Verb::Stop,
            Verb::Kill(9),
            Verb::Freeze,
            Verb::Thaw,
            Verb::Limit(Limits::default()),
        ] {
            let text = serde_json::to_string(&verb).unwrap_or_default();
            assert_eq!(serde_json::from_str::<Verb>(&text).ok(), Some(verb));
        }
        let no = Err(Error::new(ErrorKind::WrongState, "no"));
        assert_eq!(Outcome::of(no.clone()).into_result(), no);
        let runner = RunnerId::from_uuid(uuid::Uuid::nil());
        assert_eq!(Outcome::Launched(runner).into_runner(), Ok(runner));
        assert_eq!(Outcome::of(no.clone()).into_runner().err(), no.err());
        assert!(Outcome::Done(Vec::new()).into_runner().is_err());
    }
}
