//! Events: one per state change, written in the same transaction as the change.

pub mod schema;
mod text;

pub use text::{Particulars, Text};

use super::runner::{Runner, State, Step};
use super::signal;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The uid of the caller; `None` = the host itself (a runner ended, a reconciliation).
    pub uid: Option<u32>,
    /// The user's name, if it has one.
    pub user: Option<String>,
    /// The id of the host where it was asked: elsewhere the same uid may be somebody else. `None` = the
    /// host itself, or written by a release that did not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The systemd unit of the caller. It is for the audit alone: events do not tell it.
    #[serde(skip)]
    pub unit: Option<Unit>,
}

impl Actor {
    /// The host itself.
    pub fn host() -> Self {
        Self {
            uid: None,
            user: None,
            host: None,
            unit: None,
        }
    }

    /// Whether it is the same user, on whichever host: by name, as users of several hosts are known. Who
    /// has none there is known by number, on one host.
    pub fn is_also(&self, other: &Self) -> bool {
        match (&self.user, &other.user) {
            (Some(user), Some(other)) => user == other,
            (None, None) => (self.uid, &self.host) == (other.uid, &other.host),
            _ => false,
        }
    }
}

/// The systemd unit that a caller is a process of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name: `session-2.scope`, `user@1000.service`, ….
    pub name: String,
    /// Whether it is surely the caller's. If not, the bus gave a number alone for its process, which may be another
    /// one's by now.
    pub sure: bool,
}

/// Types with what they are about, which the manual and the schemas tell as well.
macro_rules! types {
    ($($(#[doc = $about:literal])+ $name:ident = $short:literal,)+) => {
        /// The types of events this release writes: `org.stratavore.<kind>.<what>`. What their data holds: [`schema`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventType {
            $($(#[doc = $about])+ $name,)+
        }

        impl EventType {
            /// All of them.
            pub const ALL: [Self; [$($short),+].len()] = [$(Self::$name),+];

            /// `runner.ended`, …: the type without `org.stratavore.`.
            pub fn short(self) -> &'static str {
                match self {
                    $(Self::$name => $short,)+
                }
            }

            /// What has happened.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($about),+).trim_start(),)+
                }
            }
        }
    };
}

types! {
    /// A launch waits for its turn.
    RunnerQueued = "runner.queued",
    /// A launch was admitted; nothing runs yet.
    RunnerStarting = "runner.starting",
    /// The scope of a runner is up, its limits are held, and its command is released.
    RunnerRunning = "runner.running",
    /// A runner was frozen: all its processes stand still.
    RunnerFrozen = "runner.frozen",
    /// A frozen runner goes on.
    RunnerThawed = "runner.thawed",
    /// A runner was asked to stop.
    RunnerStopping = "runner.stopping",
    /// A runner is over, with all its processes.
    RunnerEnded = "runner.ended",
    /// A project was made.
    ProjectCreated = "project.created",
    /// The settings of a project were changed.
    ProjectChanged = "project.changed",
    /// A project was removed.
    ProjectRemoved = "project.removed",
    /// A budget's use has reached a share of its limit for the first time in this period.
    BudgetThreshold = "budget.threshold",
    /// A budget was used up; its policy is in force.
    BudgetExceeded = "budget.exceeded",
    /// A hold was set.
    HoldSet = "hold.set",
    /// A hold was released, has ended by itself, or went with its project.
    HoldReleased = "hold.released",
    /// A host has joined the fleet, or joined again.
    HostJoined = "host.joined",
    /// The lease of a host has run out: what it holds stays charged.
    HostUnreachable = "host.unreachable",
    /// Nothing of a host runs any more: what it held was given back.
    HostLost = "host.lost",
    /// A host that was away renews its lease again.
    HostReturned = "host.returned",
    /// An operator has said that a host does not come back.
    HostLeft = "host.left",
    /// Nothing new starts on a host from now on.
    HostCordoned = "host.cordoned",
    /// A host takes new runners again.
    HostUncordoned = "host.uncordoned",
    /// The cap of the whole fleet was set or lifted.
    FleetChanged = "fleet.changed",
    /// A launch was refused by a quota, a budget or a hold.
    AdmissionDenied = "admission.denied",
    /// The end of a host's audit chain, told now and then so that nobody can cut it off unseen.
    AuditAnchored = "audit.anchored",
}

impl EventType {
    /// The type whose [`Self::short`] is `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.short() == text)
    }

    /// Whether events of this type may belong to a project. Hosts, the fleet and audits do not.
    pub fn may_have_project(self) -> bool {
        let kind = self.short().split('.').next();
        !matches!(kind, Some("host" | "fleet" | "audit"))
    }

    /// The event of a step of a runner; `None` for a step that changes no state.
    pub fn of_step(step: &Step) -> Option<Self> {
        Some(match step {
            Step::Admit(_) => Self::RunnerStarting,
            Step::Run(_) => Self::RunnerRunning,
            Step::Freeze(_) => Self::RunnerFrozen,
            Step::Thaw => Self::RunnerThawed,
            Step::Stop => Self::RunnerStopping,
            Step::End(..) => Self::RunnerEnded,
            Step::Limit(..) | Step::Keep(_) => return None,
        })
    }
}

/// An event before the store has numbered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft<D = Value> {
    /// What happened.
    pub kind: EventType,
    /// The project concerned.
    pub project: String,
    /// `<kind>/<id>`.
    pub subject: String,
    /// 1, 2, 3 … per subject.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// The particulars. Public: no command, folder, environment or label value.
    pub data: D,
}

/// An event as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<D = Value> {
    /// Position in this store; what `events --after` means.
    pub position: u64,
    /// The event.
    pub draft: Draft<D>,
}

/// The event of a runner that has just taken a step from `old`. `runner.seq` is already its number.
pub fn of_runner(
    kind: EventType,
    runner: &Runner,
    old: Option<State>,
    actor: &Actor,
    at: Timestamp,
) -> Draft {
    let mut data = json!({
        "runner": runner.id.to_string(),
        "project": runner.spec.project.as_str(),
        "host": runner.host,
        "name": runner.spec.name,
        "uid": runner.spec.uid,
        "user": runner.spec.user,
        "state": runner.state().as_str(),
        "old_state": old.map(State::as_str),
    });
    if let Some(exit) = &runner.exit {
        let exit = exit.public();
        data["exit"] = json!({
            "cause": exit.cause.as_str(),
            "code": exit.code,
            "signal": exit.signal.map(signal::name),
            "message": exit.message,
        });
        data["usage"] = json!(runner.usage);
    }
    if let (EventType::RunnerRunning, Some(placement)) = (kind, &runner.placement) {
        data["invocation_id"] = json!(placement.invocation_id);
        data["unit"] = json!(runner.id.unit());
        data["warnings"] = json!(runner.warnings());
    }
    Draft {
        kind,
        project: runner.spec.project.to_string(),
        subject: format!("runner/{}", runner.id),
        seq: runner.seq,
        at,
        actor: actor.clone(),
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_back() {
        for kind in EventType::ALL {
            assert_eq!(EventType::parse(kind.short()), Some(kind));
        }
    }
}
