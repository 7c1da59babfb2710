//! What the engine needs of the store beyond runners and projects: the queue, budgets, holds,
//! hosts, and orders between hosts. An embedded store has it all for its one host.

use super::{Admitted, StoreError};
use crate::domain::admission::Gate;
use crate::domain::budget::{Budget, BudgetState, Scope, Tokens};
use crate::domain::event::{Actor, Event};
use crate::domain::hold::{Hold, HoldScope};
use crate::domain::host::{Cordon, Host, Load, Registration};
use crate::domain::order::{Order, Outcome, Progress};
use crate::domain::period::Period;
use crate::domain::runner::Runner;
use crate::domain::{RunnerId, RunnerSpec, Timestamp};
use async_trait::async_trait;

/// Who writes: a host in one of its epochs. A store refuses every write of an epoch that is over
/// ([`StoreError::Fenced`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The host's id.
    pub host: String,
    /// As [`Hosts::join`] said.
    pub epoch: u64,
}

/// What is set for the whole fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetState {
    /// Most live runners of all hosts; `None` = no cap.
    pub max_runners: Option<u32>,
    /// Live runners of all hosts.
    pub live: u32,
    /// Runners that wait.
    pub queued: u32,
}

/// What a report came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The runner with its counters as they are now.
    pub runner: Runner,
    /// Its counters before.
    pub before: Tokens,
    /// Thresholds that were reached.
    pub events: Vec<Event>,
}

/// A host's sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// How long the lease holds from now on, µs; `u64::MAX` = for ever: the store is this host's alone.
    pub ttl: u64,
    /// How long after this renewal all its runners have stopped by themselves, µs; `None` = never.
    pub fenced_after: Option<u64>,
    /// How loaded it is.
    pub load: Load,
}

/// What a host hears when it asks for news, at least twice a second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulse {
    /// The store's clock.
    pub now: Timestamp,
    /// Raised by every change of holds, budgets, caps, projects and hosts: what was read before is stale.
    pub policy: u64,
    /// Orders for this host that nobody has taken.
    pub orders: u32,
    /// The last event's position.
    pub position: u64,
}

/// Everything that decides whether a runner goes on: read anew when [`Pulse::policy`] has changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Holds, those that have ended left out.
    pub holds: Vec<Hold>,
    /// Budgets in their present period.
    pub budgets: Vec<BudgetState>,
    /// This host's cordon.
    pub cordon: Option<Cordon>,
}

/// Runners that wait.
#[async_trait]
pub trait Queue {
    /// Gives this host's waiting runners their turn ([`crate::domain::admission::Ledger::turns`]):
    /// those that are `starting` now, as [`Admitted::New`].
    async fn turns(&self, host: &str, host_max: Option<u32>) -> Result<Vec<Admitted>, StoreError>;
    /// This host's runners that wait, the next ones first.
    async fn queued(&self, host: &str) -> Result<Vec<Runner>, StoreError>;
    /// Every gate of a launch that would be asked for now, or of a runner that waits (`waiting`),
    /// with its numbers; nothing is written.
    async fn explain(
        &self,
        spec: &RunnerSpec,
        host: &str,
        host_max: Option<u32>,
        waiting: Option<RunnerId>,
    ) -> Result<Vec<Gate>, StoreError>;
}

/// Budgets and holds. Every method that changes something does it in one transaction with its events.
#[async_trait]
pub trait Policies {
    /// Makes a budget, or changes it: its use stays what it is. The events are of the thresholds
    /// that its use has reached under the new limit.
    async fn set_budget(
        &self,
        budget: Budget,
        actor: Actor,
    ) -> Result<(BudgetState, Vec<Event>), StoreError>;
    /// Removes one; `NoSuchBudget` if there is none.
    async fn remove_budget(
        &self,
        scope: Scope,
        period: Period,
        actor: Actor,
    ) -> Result<(), StoreError>;
    /// All budgets in their present period, by scope and period.
    async fn budgets(&self) -> Result<Vec<BudgetState>, StoreError>;
    /// Counts tokens of a runner: what is used since the runner began, never less than before.
    /// Charged to its budgets at once, whatever they have left.
    async fn report(
        &self,
        runner: RunnerId,
        tokens: Tokens,
        at: Timestamp,
    ) -> Result<Reported, StoreError>;

    /// Sets a hold, in place of the one this scope has.
    async fn set_hold(&self, hold: Hold) -> Result<(Hold, Event), StoreError>;
    /// Releases one; `NoSuchHold` if there is none.
    async fn release_hold(
        &self,
        scope: HoldScope,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Event, StoreError>;
    /// All holds that have not ended.
    async fn holds(&self) -> Result<Vec<Hold>, StoreError>;
    /// Releases those whose time has come. Any host may do it.
    async fn end_holds(&self, at: Timestamp) -> Result<Vec<Event>, StoreError>;
    /// What is new.
    async fn pulse(&self, host: &str) -> Result<Pulse, StoreError>;
    /// What holds and budgets say now.
    async fn policy(&self, host: &str) -> Result<Policy, StoreError>;
}

/// The hosts of the fleet, and what is set for all of them.
#[async_trait]
pub trait Hosts {
    /// How the fleet as a whole stands.
    async fn fleet(&self) -> Result<FleetState, StoreError>;
    /// Sets or lifts the cap of the whole fleet.
    async fn set_fleet_max(&self, max: Option<u32>, actor: Actor) -> Result<Event, StoreError>;
    /// Registers this host: a new epoch, which everything carries that is written from now on, and
    /// its lease. `Conflict` if two machines have the same machine-id.
    async fn join(&self, new: Registration, beat: Beat)
    -> Result<(Writer, Vec<Event>), StoreError>;
    /// Renews the lease. [`StoreError::Fenced`] if the epoch is over.
    async fn renew(&self, writer: &Writer, beat: Beat) -> Result<Vec<Event>, StoreError>;
    /// The host is being shut down: its next boot joins without waiting for the end of the lease.
    /// [`StoreError::Fenced`] if the epoch is over.
    async fn end_boot(&self, writer: &Writer) -> Result<(), StoreError>;
    /// All hosts, by name, and the store's clock.
    async fn hosts(&self) -> Result<(Timestamp, Vec<Host>), StoreError>;
    /// Cordons a host, in place of a cordon that it has; with `drain`, what still runs there so many
    /// µs later is to be stopped. `NoSuchHost` if there is none.
    async fn cordon(
        &self,
        host: &str,
        reason: String,
        drain: Option<u64>,
        actor: Actor,
    ) -> Result<Event, StoreError>;
    /// Lets it take new runners again; `None` = it did already. `NoSuchHost` if there is none.
    async fn uncordon(&self, host: &str, actor: Actor) -> Result<Option<Event>, StoreError>;
    /// An operator's word that nothing of this host runs any more: its runners end `host-lost`, what
    /// it held is given back, its epoch is over. `Conflict` while its lease holds.
    async fn forget(&self, host: &str, actor: Actor) -> Result<Vec<Event>, StoreError>;
    /// Writes down who has become unreachable, and gives back what lost hosts held
    /// ([`Host::is_lost`], `lost_after` in µs). Any host may do it, at any time; seldom is there
    /// anything to do, and then it only reads.
    async fn tidy(&self, lost_after: u64) -> Result<Vec<Event>, StoreError>;
}

/// Small requests from one host to another.
#[async_trait]
pub trait Orders {
    /// Puts an order down; `expires_at` of it is set by the store's clock.
    async fn order(&self, order: Order) -> Result<(), StoreError>;
    /// Takes the orders for this host that have not expired; nobody gets one twice.
    async fn take_orders(&self, host: &str) -> Result<Vec<Order>, StoreError>;
    /// What came of one that was taken.
    async fn answer(&self, order: &str, outcome: Outcome) -> Result<(), StoreError>;
    /// How far an order is. One that has expired untaken is withdrawn, as is a launch that was taken and
    /// not begun; it is answered with `HostUnavailable`.
    async fn outcome(&self, order: &str) -> Result<Progress, StoreError>;
}
