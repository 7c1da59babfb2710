//! A runner and its life. The state is private: it changes only by [`Runner::apply`], which
//! knows the legal transitions, so that an illegal one cannot be written.

use super::budget::Tokens;
use super::error::{Error, ErrorKind};
use super::event::Actor;
use super::exit::{Cause, Exit, Usage};
use super::id::RunnerId;
use super::limits::Limits;
use super::spec::RunnerSpec;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// `queued` → `starting` → `running` ⇄ `frozen` → `stopping` → `ended`; `ended` is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It waits for its turn, and holds neither slot nor reservation.
    Queued,
    /// Admitted; its command does not run yet.
    Starting,
    /// The gate may be open.
    Running,
    /// All its processes are frozen.
    Frozen,
    /// It was asked to stop.
    Stopping,
    /// Over. Final.
    Ended,
}

impl State {
    /// All states, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Frozen,
        Self::Stopping,
        Self::Ended,
    ];

    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }

    /// The state named `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// What quotas count.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Queued | Self::Ended)
    }

    /// The law. The store has the same table as a trigger.
    pub fn may_become(self, next: Self) -> bool {
        use State::{Ended, Frozen, Queued, Running, Starting, Stopping};
        matches!(
            (self, next),
            (Queued, Starting | Ended)
                | (Starting, Running | Ended)
                | (Running, Frozen | Stopping | Ended)
                | (Frozen, Running | Stopping | Ended)
                | (Stopping, Ended)
        )
    }
}

/// Where a runner really is: what the agent saw when the scope was up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// systemd's invocation id of the scope, 32 hexadecimal digits.
    pub invocation_id: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The shim's process.
    pub shim_pid: u32,
    /// Its start time in clock ticks since boot, which with the pid names it uniquely.
    pub shim_start: u64,
    /// Limits of its own this host does not hold, where the configuration allows that with a warning.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The same of its project's limits, as it was at its launch.
    #[serde(default)]
    pub project_warnings: Vec<String>,
}

/// A runner as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// Its id.
    pub id: RunnerId,
    /// What was asked for, with the limits in force.
    pub spec: RunnerSpec,
    /// The host that runs it.
    pub host: String,
    state: State,
    /// Number of its last event; 0 = none.
    pub seq: u64,
    /// When it was admitted.
    pub created_at: Timestamp,
    /// When it became `running`; 0 = not yet.
    pub started_at: Timestamp,
    /// When it ended; 0 = not yet.
    pub ended_at: Timestamp,
    /// Where it is.
    pub placement: Option<Placement>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// What it used, known when it has ended.
    pub usage: Option<Usage>,
    /// Tokens it used, as reported.
    pub tokens: Tokens,
    /// Tokens its budgets set aside for it when it was admitted.
    pub reserved: u64,
    /// The hold or budget that froze it, `hold fleet` or `budget project:x/day`; `None` = it is not
    /// frozen, or somebody asked for it.
    pub frozen_by: Option<String>,
}

/// One step in a runner's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its turn has come: it holds its slot and these tokens.
    Admit(u64),
    /// The scope is up, its limits are held.
    Run(Placement),
    /// All processes are frozen, by this hold or budget if it was none's wish.
    Freeze(Option<String>),
    /// It is frozen, and stays so when the hold or budget is over that froze it: this other one wants
    /// that, or somebody. No change of state.
    Keep(Option<String>),
    /// They go on.
    Thaw,
    /// A stop was asked for.
    Stop,
    /// New limits are in force, all but those the warnings name; no change of state.
    Limit(Limits, Vec<String>),
    /// It is over.
    End(Exit, Usage),
}

/// Who takes a step, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whom it is about.
    pub id: RunnerId,
    /// What happens.
    pub step: Step,
    /// Who asked.
    pub actor: Actor,
    /// When.
    pub at: Timestamp,
}

impl Runner {
    /// A runner that was just admitted.
    pub fn admitted(id: RunnerId, spec: RunnerSpec, host: String, at: Timestamp) -> Self {
        Self {
            id,
            spec,
            host,
            state: State::Starting,
            seq: 0,
            created_at: at,
            started_at: Timestamp(0),
            ended_at: Timestamp(0),
            placement: None,
            exit: None,
            usage: None,
            tokens: Tokens::default(),
            reserved: 0,
            frozen_by: None,
        }
    }

    /// A runner that waits for its turn.
    pub fn queued(id: RunnerId, spec: RunnerSpec, host: String, at: Timestamp) -> Self {
        Self::admitted(id, spec, host, at).stored(State::Queued)
    }

    /// A runner read back from the store, which has checked every transition when it was written.
    pub fn stored(mut self, state: State) -> Self {
        self.state = state;
        self
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// What was asked for and its host does not hold: of its project's slice, as it was at its launch, and of its own limits.
    pub fn warnings(&self) -> Vec<String> {
        let Some(placement) = &self.placement else {
            return Vec::new();
        };
        let of_project = |warning| format!("Of project {}: {warning}", self.spec.project);
        let project = placement.project_warnings.iter().map(of_project);
        project.chain(placement.warnings.iter().cloned()).collect()
    }

    /// Takes a step and returns the state before it. Nothing has changed if that is an error.
    pub fn apply(&mut self, step: &Step, at: Timestamp) -> Result<State, Error> {
        let old = self.state;
        let next = match step {
            Step::Admit(_) => State::Starting,
            Step::Run(_) | Step::Thaw => State::Running,
            Step::Freeze(_) => State::Frozen,
            Step::Stop => State::Stopping,
            Step::End(..) => State::Ended,
            Step::Limit(..) | Step::Keep(_) => old,
        };
        let legal = match step {
            Step::Run(_) => old == State::Starting,
            Step::Thaw | Step::Keep(_) => old == State::Frozen,
            Step::Limit(..) => old.is_live(),
            // Only who waits can leave the queue: what has had its turn is stopped.
            Step::End(exit, _) if exit.cause == Cause::Cancelled => old == State::Queued,
            _ => old.may_become(next),
        };
        if !legal {
            return Err(self.refuse(step));
        }
        self.state = next;
        if next != State::Frozen {
            self.frozen_by = None;
        }
        match step {
            Step::Admit(tokens) => self.reserved = *tokens,
            Step::Run(placement) => {
                self.placement = Some(placement.clone());
                self.started_at = at;
            }
            Step::End(exit, usage) => {
                self.exit = Some(exit.clone());
                self.usage = Some(*usage);
                self.ended_at = at.max(self.created_at);
            }
            Step::Limit(limits, warnings) => {
                self.spec.limits = limits.clone();
                if let Some(placement) = &mut self.placement {
                    placement.warnings.clone_from(warnings);
                }
            }
            Step::Freeze(by) | Step::Keep(by) => self.frozen_by.clone_from(by),
            Step::Thaw | Step::Stop => {}
        }
        Ok(old)
    }

    fn refuse(&self, step: &Step) -> Error {
        let verb = match step {
            Step::Admit(_) => "admitted",
            Step::Run(_) => "started",
            Step::Freeze(_) => "frozen",
            Step::Keep(_) => "kept frozen",
            Step::Thaw => "thawed",
            Step::Stop => "stopped",
            Step::Limit(..) => "given other limits",
            Step::End(..) => "ended",
        };
        Error::new(
            ErrorKind::WrongState,
            format!(
                "Runner {} is {} and can't be {verb}.",
                self.id,
                self.state.as_str()
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn runner() -> Result<Runner, Error> {
        let spec = RunnerSpec {
            project: "p".parse()?,
            command: vec!["true".to_owned()],
            name: None,
            uid: 1000,
            user: "alice".to_owned(),
            working_directory: None,
            labels: BTreeMap::new(),
            limits: Limits::default(),
            log_file_max: None,
            priority: 0,
            tokens: None,
            session: None,
            placed: None,
        };
        let id = RunnerId::from_uuid(uuid::Uuid::nil());
        Ok(Runner::admitted(id, spec, "h".to_owned(), Timestamp(1)))
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let exit = Exit {
            cause: Cause::Success,
            code: Some(0),
            signal: None,
            message: String::new(),
        };
        prop_oneof![
            Just(Step::Run(Placement::default())),
            Just(Step::Admit(5)),
            Just(Step::Freeze(None)),
            Just(Step::Freeze(Some("hold fleet".to_owned()))),
            Just(Step::Keep(None)),
            Just(Step::Thaw),
            Just(Step::Stop),
            Just(Step::Limit(Limits::default(), Vec::new())),
            Just(Step::End(exit, Usage::default())),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_of_steps_makes_an_ended_runner_live(steps in proptest::collection::vec(any_step(), 0..30)) {
            let mut r = runner().map_err(|e| TestCaseError::fail(e.message))?;
            let mut ended = None;
            for (at, step) in steps.iter().enumerate() {
                let before = r.clone();
                match r.apply(step, Timestamp(at as u64 + 2)) {
                    Ok(old) => prop_assert!(old == r.state() || old.may_become(r.state())),
                    Err(_) => prop_assert_eq!(&before, &r),
                }
                if let Some(exit) = &ended {
                    prop_assert_eq!(r.state(), State::Ended);
                    prop_assert_eq!(exit, &r.exit);
                } else if r.state() == State::Ended {
                    ended = Some(r.exit.clone());
                }
                prop_assert_eq!(r.exit.is_some(), r.state() == State::Ended);
            }
        }
    }

    #[test]
    fn only_who_waits_is_cancelled() -> Result<(), Error> {
        let exit = Exit {
            cause: Cause::Cancelled,
            code: None,
            signal: None,
            message: String::new(),
        };
        let cancel = Step::End(exit, Usage::default());
        for state in State::ALL {
            let mut runner = runner()?.stored(state);
            let done = runner.apply(&cancel, Timestamp(2));
            assert_eq!(done.is_ok(), state == State::Queued, "{state:?}");
        }
        Ok(())
    }

    #[test]
    fn nothing_leaves_ended() {
        for next in State::ALL {
            assert!(!State::Ended.may_become(next));
            assert!(
                !next.may_become(next),
                "{next:?} to itself is no transition"
            );
        }
    }
}
