//! The only seam: what the engine needs of the outside world. Adapters implement these traits
//! and decide nothing.

mod audit;
mod courier;
mod drawer;
mod fleet;
mod outbox;

pub use audit::{Anchored, Audit, Chain};
pub use courier::{Courier, Letter, Undelivered};
pub use drawer::{Drawer, Kept};
pub use fleet::{
    Beat, FleetState, Hosts, Orders, Policies, Policy, Pulse, Queue, Reported, Writer,
};
pub use outbox::{
    Backlog, Broker, BrokerError, LetGo, Outbox, Outgoing, Page, Publisher, Rows, Told,
};

use crate::domain::admission::Gate;
use crate::domain::event::{Actor, Event, EventType};
use crate::domain::exit::{Asked, Record, Usage};
use crate::domain::fence::Deadline;
use crate::domain::host::Load;
use crate::domain::inputs::Inputs;
use crate::domain::logs::LogsRequest;
use crate::domain::placed::Placed;
use crate::domain::project::{ProjectChange, ProjectSettings};
use crate::domain::reconcile::World;
use crate::domain::runner::{Change, Placement, Runner, State};
use crate::domain::{Error, Limits, Project, ProjectName, RunnerId, RunnerSpec, Timestamp};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

// ---------------------------------------------------------------- store

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, is full, read-only or broken: nothing was changed, and trying again
    /// later may help.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// This host's epoch is over: others may have been given what it held. It has to join again.
    #[error("this host was given up by its fleet and has to join it again")]
    Fenced,
    /// It answered, and the answer is no.
    #[error(transparent)]
    Refused(#[from] Error),
}

impl StoreError {
    /// The reason alone.
    pub fn why(&self) -> String {
        match self {
            Self::Unavailable(why) => why.clone(),
            Self::Fenced | Self::Refused(_) => self.to_string(),
        }
    }
}

/// A launch to be decided and, if admitted, written.
#[derive(Debug, Clone)]
pub struct NewRunner {
    /// The id it will have.
    pub id: RunnerId,
    /// What was asked for.
    pub spec: RunnerSpec,
    /// The host's id.
    pub host: String,
    /// The host's cap.
    pub host_max: Option<u32>,
    /// Makes a repeated launch return the first runner.
    pub request: Option<RequestKey>,
    /// Where it is refused and waiting can help, it waits.
    pub queue: bool,
    /// Why nothing new is admitted: it is looked up as a request alone, and refused with this if it is none that was
    /// made before.
    pub full: Option<Error>,
    /// The order of another host that this is: admitted only as long as that is open.
    pub order: Option<String>,
    /// Who asks.
    pub actor: Actor,
    /// Now.
    pub at: Timestamp,
}

/// A caller's request id with a digest of everything it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The caller: request ids of different users never meet.
    pub uid: u32,
    /// As given.
    pub id: String,
    /// SHA-256 over all parameters, in hex.
    pub digest: String,
}

/// What became of a [`NewRunner`].
#[derive(Debug, Clone)]
pub enum Admitted {
    /// Written: `starting`.
    New {
        /// The runner.
        runner: Runner,
        /// Its project's limits, for the slice.
        project_limits: Limits,
        /// `runner.starting`.
        event: Event,
    },
    /// Written: it waits, because of this gate.
    Queued {
        /// The runner.
        runner: Runner,
        /// What it waits for first.
        gate: Box<Gate>,
        /// `runner.queued`.
        event: Event,
    },
    /// The request id was used before, with the same parameters.
    Repeated(Runner),
    /// A gate is shut; nothing but the denial was written.
    Denied {
        /// Which one.
        gate: Box<Gate>,
        /// Why, for the caller.
        error: Error,
        /// `admission.denied`.
        event: Event,
    },
}

/// A step that was written.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The runner after it.
    pub runner: Runner,
    /// Its state before.
    pub old: State,
    /// The event; `None` for a step that has none.
    pub event: Option<Event>,
}

/// Which runners to list. All conditions hold at once; newest first.
#[derive(Debug, Clone, Default)]
pub struct RunnerFilter {
    /// Only of this project.
    pub project: Option<ProjectName>,
    /// Only of this host.
    pub host: Option<String>,
    /// Only in these states; empty = the live ones.
    pub states: Vec<State>,
    /// Only with these labels.
    pub labels: BTreeMap<String, String>,
    /// Only of this user.
    pub uid: Option<u32>,
    /// None of these projects' runners of these users.
    pub hidden: Vec<(ProjectName, u32)>,
    /// Only with this name.
    pub name: Option<String>,
    /// Only whose id begins so.
    pub id_prefix: Option<String>,
    /// Only made at or after.
    pub since: Option<Timestamp>,
    /// Only made before.
    pub until: Option<Timestamp>,
    /// Only older than this one: the last of the page before.
    pub after: Option<RunnerId>,
    /// At most so many.
    pub limit: u32,
}

/// Which events to list, oldest first.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// After this position.
    pub after: u64,
    /// Only of this project.
    pub project: Option<ProjectName>,
    /// Only of this runner.
    pub runner: Option<RunnerId>,
    /// Only of this type.
    pub kind: Option<EventType>,
    /// At most so many.
    pub limit: u32,
    /// The last ones that fit instead of the first; in their order all the same.
    pub newest: bool,
}

/// What a pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ended runners with their request ids.
    pub runners: u64,
    /// Events.
    pub events: u64,
    /// Those of them that were never published: they were parked, or nobody has a broker.
    pub unpublished: u64,
}

/// Rows and events. Every method that changes something does it in one transaction with its
/// events; none may be cancelled half-way by dropping its future.
#[async_trait]
pub trait Store: Audit + Hosts + Orders + Policies + Queue + Send + Sync + std::fmt::Debug {
    /// T1: decides ([`crate::domain::admission::Ledger`]) and writes. Concurrent calls may share
    /// a transaction.
    async fn admit(&self, new: NewRunner) -> Result<Admitted, StoreError>;
    /// T2, T3 and every other step: [`Runner::apply`] on the row as it is now, row and event written.
    async fn apply(&self, change: Change) -> Result<Applied, StoreError>;
    /// One runner, ended ones included.
    async fn runner(&self, id: RunnerId) -> Result<Option<Runner>, StoreError>;
    /// A page of runners.
    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError>;
    /// All live rows of a host.
    async fn live(&self, host: &str) -> Result<Vec<Runner>, StoreError>;
    /// Makes a project; `AlreadyExists` if there is one.
    async fn create_project(
        &self,
        name: ProjectName,
        settings: ProjectSettings,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError>;
    /// Changes a project; `NoSuchProject` if there is none.
    async fn set_project(
        &self,
        name: ProjectName,
        change: ProjectChange,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError>;
    /// Removes a project with its budgets and its hold; `Conflict` while runners live or wait. The events are of the
    /// hold, if it had one, and of the project.
    async fn remove_project(
        &self,
        name: ProjectName,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Vec<Event>, StoreError>;
    /// One project.
    async fn project(&self, name: &ProjectName) -> Result<Option<Project>, StoreError>;
    /// All projects by name.
    async fn projects(&self) -> Result<Vec<Project>, StoreError>;
    /// A page of events.
    async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError>;
    /// What is older than this nobody wants to keep any more, by the store's clock: this host keeps for
    /// so long, µs, and in a fleet the host that keeps longest decides.
    async fn expired(&self, retention: u64) -> Result<Timestamp, StoreError>;
    /// Removes at most `batch` each of ended runners, request ids and events older than `before`.
    async fn prune(&self, before: Timestamp, batch: u32) -> Result<Pruned, StoreError>;
    /// Whether it answers and can be written: a write that changes nothing.
    async fn check(&self) -> Result<(), StoreError>;
    /// Finishes what is under way and closes.
    async fn close(&self);
}

// ---------------------------------------------------------------- host

/// Why the agent did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostError {
    /// It does not answer, or the connection broke: it may or may not have been done.
    #[error("the agent does not answer: {0}")]
    Unavailable(String),
    /// It answered, and the answer is no.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// The caller's descriptors for a runner's standard input, output and error, by number. They are
/// handed on and closed, never read or written.
#[derive(Debug, Clone, Default)]
pub struct Streams(pub [Option<Arc<OwnedFd>>; 3]);

impl Streams {
    /// Which of the three were given.
    pub fn given(&self) -> [bool; 3] {
        self.0.each_ref().map(Option::is_some)
    }
}

/// A launch as the agent needs it. `Debug` shows no environment values.
#[derive(Debug, Clone)]
pub struct LaunchOrder {
    /// The runner.
    pub id: RunnerId,
    /// What to run.
    pub spec: RunnerSpec,
    /// Its environment.
    pub setenv: Vec<crate::domain::spec::Setenv>,
    /// For the slice.
    pub project_limits: Limits,
    /// What it is given by file.
    pub inputs: Inputs,
    /// Its streams; what is missing is /dev/null for input, and for output the journal or the log file.
    pub streams: Streams,
    /// The deadline of [`Host::fence`] as it is now: it holds for this runner before it comes to
    /// its gate, or the launch is refused.
    pub fence: Option<Deadline>,
}

/// Who will keep which deadline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fenced {
    /// The one that is in force: a later one than asked for where that was set before.
    pub deadline: Option<Deadline>,
    /// How many live runners will stop by themselves when it passes, whoever else lives then.
    pub armed: u32,
    /// Some of those that will not, a thousand at most: their shims are gone, frozen, of an earlier
    /// release or do not answer.
    pub unarmed: Vec<RunnerId>,
}

impl Fenced {
    /// Whether every runner will be gone by the time that was asked for, so that others may count
    /// on it.
    pub fn keeps(&self, asked: Deadline) -> bool {
        self.unarmed.is_empty() && self.deadline.is_some_and(|at| at.gone_by <= asked.gone_by)
    }
}

/// What the agent tells by itself.
#[derive(Debug, Clone)]
pub enum HostNotice {
    /// A (new) connection to the agent is up: reconcile. Everything said before may be stale.
    Connected,
    /// The connection is gone; orders fail until the next [`Self::Connected`].
    Disconnected,
    /// A runner's tree is gone and this is its record.
    Ended(RunnerId, Box<Record>),
    /// A runner's shim is gone without a record and its scope is empty.
    Lost(RunnerId),
}

/// This host's one hand on systemd: the agent.
#[async_trait]
pub trait Host: Send + Sync + std::fmt::Debug {
    /// Brings a runner up to its gate.
    async fn prepare(&self, order: LaunchOrder) -> Result<Placement, HostError>;
    /// Opens the gate; an error `LaunchFailed` says why the command could not be exec'd.
    async fn go(&self, id: RunnerId) -> Result<(), HostError>;
    /// Closes the gate.
    async fn abort(&self, id: RunnerId) -> Result<(), HostError>;
    /// Begins the stop of the whole tree.
    async fn stop(&self, id: RunnerId, asked: Asked) -> Result<(), HostError>;
    /// Signals the whole tree.
    async fn kill(&self, id: RunnerId, signal: i32) -> Result<(), HostError>;
    /// Freezes.
    async fn freeze(&self, id: RunnerId) -> Result<(), HostError>;
    /// Thaws.
    async fn thaw(&self, id: RunnerId) -> Result<(), HostError>;
    /// Puts limits in force and returns warnings.
    async fn set_limits(&self, id: RunnerId, limits: Limits) -> Result<Vec<String>, HostError>;
    /// Puts limits on a project's slice and returns warnings.
    async fn set_slice(
        &self,
        project: &ProjectName,
        limits: Limits,
    ) -> Result<Vec<String>, HostError>;
    /// Removes a project's slice.
    async fn remove_slice(&self, project: &ProjectName) -> Result<(), HostError>;
    /// All that is there.
    async fn inventory(&self) -> Result<World, HostError>;
    /// Stops a scope without a shim.
    async fn stop_scope(&self, id: RunnerId) -> Result<(), HostError>;
    /// Removes what an ended runner has left.
    async fn forget(&self, id: RunnerId) -> Result<(), HostError>;
    /// What a live runner has used.
    async fn usage(&self, id: RunnerId) -> Result<Usage, HostError>;
    /// Begins to read a runner's output for this user; what comes out of the pipe is it, and its
    /// end is the end.
    async fn logs(
        &self,
        id: RunnerId,
        caller: u32,
        request: LogsRequest,
    ) -> Result<OwnedFd, HostError>;
    /// A page of the runners that are over and whose log files are here, after this one. Empty = no more.
    async fn log_files(&self, after: Option<RunnerId>) -> Result<Vec<RunnerId>, HostError>;
    /// Removes such log files.
    async fn remove_log_files(&self, ids: Vec<RunnerId>) -> Result<(), HostError>;
    /// Has every runner stop by itself at this time, unless this is called again with a later one
    /// before; see [`crate::domain::fence`]. One that is no later than what is in force, or has
    /// passed, changes nothing, as the answer tells. `None` = none does any more: to be said also
    /// where no fence is wanted, because one that was left behind holds on, through restarts of
    /// everything but the host, and before an earlier one. Whoever has missed a deadline stops
    /// whatever is said afterwards.
    async fn fence(&self, deadline: Option<Deadline>) -> Result<Fenced, HostError>;
    /// Number and name of the account that a launch which was asked for on another host would run
    /// as, if root accepts it.
    async fn place(&self, placed: Placed, user: String) -> Result<(u32, String), HostError>;
    /// In which runner's scope a process of this host is, by the kernel's word.
    async fn runner_of(&self, pid: u32) -> Result<Option<RunnerId>, HostError>;
}

/// The machine itself, as the lease needs it.
pub trait Machine: Send + Sync + std::fmt::Debug {
    /// CLOCK_BOOTTIME in µs: it goes on while the machine sleeps, and nobody sets it.
    fn boottime(&self) -> u64;
    /// How loaded it is, but for [`Load::memory_promised`]. What can't be read is left out.
    fn load(&self) -> Load;
}
