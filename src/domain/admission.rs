//! Admission: may this launch happen? One pure decision over what was read in the same
//! transaction that writes the runner.

use super::error::{Error, ErrorKind};
use super::name::ProjectName;

/// The counts and caps at the moment of the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The project asked for.
    pub project: ProjectName,
    /// Its live runners.
    pub project_live: u32,
    /// Its cap.
    pub project_max: Option<u32>,
    /// Live runners of this host.
    pub host_live: u32,
    /// The host's cap.
    pub host_max: Option<u32>,
}

/// One condition a launch has to meet, with its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Which one: `project-runners`, `host-runners`.
    pub name: &'static str,
    /// Whom it is about.
    pub subject: String,
    /// The cap; `None` = there is none.
    pub limit: Option<u64>,
    /// What is taken already.
    pub used: u64,
    /// What the launch would add.
    pub requested: u64,
}

impl Gate {
    /// Whether the launch fits.
    pub fn open(&self) -> bool {
        self.limit
            .is_none_or(|limit| self.used.saturating_add(self.requested) <= limit)
    }

    /// The refusal, if it does not fit.
    pub fn refusal(&self) -> Option<Error> {
        let limit = self.limit.filter(|_| !self.open())?;
        let message = match self.name {
            "project-runners" => format!(
                "Project {0} has {1} of {limit} live runners. Wait until one ends, or raise the cap: stratavorectl project set {0} --max-runners N.",
                self.subject, self.used
            ),
            _ => format!(
                "This host ({0}) has {1} of {limit} live runners. Wait until one ends, or raise host.max_runners in stratavored.toml.",
                self.subject, self.used
            ),
        };
        Some(Error::new(ErrorKind::QuotaExceeded, message))
    }
}

/// Every gate of a launch, in the order in which they are checked.
pub fn gates(counts: &Counts, host: &str) -> Vec<Gate> {
    vec![
        Gate {
            name: "project-runners",
            subject: counts.project.to_string(),
            limit: counts.project_max.map(u64::from),
            used: counts.project_live.into(),
            requested: 1,
        },
        Gate {
            name: "host-runners",
            subject: host.to_owned(),
            limit: counts.host_max.map(u64::from),
            used: counts.host_live.into(),
            requested: 1,
        },
    ]
}

/// The first gate that is shut, if any.
pub fn decide(gates: &[Gate]) -> Result<(), (Gate, Error)> {
    match gates.iter().find_map(|g| Some((g, g.refusal()?))) {
        Some((gate, error)) => Err((gate.clone(), error)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_by_one_admission_never_passes_a_cap(project_max in proptest::option::of(0u32..20), host_max in proptest::option::of(0u32..20), ends in proptest::collection::vec(any::<bool>(), 0..100)) {
            let mut counts = Counts {
                project: "p".parse().map_err(|e: Error| TestCaseError::fail(e.message))?,
                project_live: 0, project_max, host_live: 0, host_max,
            };
            for end in ends {
                if end && counts.project_live > 0 {
                    counts.project_live -= 1;
                    counts.host_live -= 1;
                } else if decide(&gates(&counts, "h")).is_ok() {
                    counts.project_live += 1;
                    counts.host_live += 1;
                }
                prop_assert!(project_max.is_none_or(|m| counts.project_live <= m));
                prop_assert!(host_max.is_none_or(|m| counts.host_live <= m));
            }
        }
    }
}
