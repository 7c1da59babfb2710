//! What the relay needs: the store's outbox, and a broker to publish to.

use super::StoreError;
use crate::domain::cloudevent::Message;
use crate::domain::event::{Event, Text};
use crate::domain::relay::{Outcome, Settlement, Why};
use crate::domain::{ProjectName, Timestamp};
use async_trait::async_trait;
use std::sync::Arc;

/// An event that is still to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The event.
    pub event: Event<Text>,
    /// The store it was written in.
    pub store: String,
    /// The host that wrote it.
    pub source: String,
    /// The epoch it was in.
    pub epoch: u64,
    /// The number of the last event of this subject before it that is still in the outbox, of whatever host.
    pub behind: Option<u64>,
    /// One of those before it is parked because no queue was bound for it.
    pub behind_unroutable: bool,
    /// It is parked itself.
    pub parked: Option<Why>,
}

/// Rows of the outbox that follow one another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Those that can be read.
    pub rows: Vec<Outgoing>,
    /// How many can't, about: damaged, or of a later release.
    pub unreadable: usize,
    /// The position of the last row, whether it can be read or not; `None` = there is none.
    pub last: Option<u64>,
}

/// How much there is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Rows that are to be published.
    pub pending: u64,
    /// Rows that wait for somebody to ask for them.
    pub parked: u64,
    /// When the oldest event that is to be published happened.
    pub oldest: Option<Timestamp>,
}

/// What became of a look at parked rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LetGo {
    /// Rows that are to be published now.
    pub rows: u64,
    /// The last position that was looked at; `None` = behind it there is nothing.
    pub last: Option<u64>,
}

/// Which rows to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Those to be published.
    Pending,
    /// Those that are parked.
    Parked,
}

/// The rows that wait to be published. None of these questions waits behind a launch, or holds one up for
/// longer than a slice of the clean-up does.
#[async_trait]
pub trait Outbox: Send + Sync + std::fmt::Debug {
    /// Whether events of this host are to be published; to be said before it joins.
    fn publish(&self, wanted: bool);
    /// Waits until something was committed since this was asked last.
    async fn written(&self);
    /// A page of this host's rows behind this position, in order of position.
    async fn page(
        &self,
        host: &str,
        rows: Rows,
        after: u64,
        limit: u32,
    ) -> Result<Page, StoreError>;
    /// Removes what was confirmed, and parks what is to be parked. What is not there any more, or another
    /// host's by now, is left alone; how many rows it was.
    async fn settle(&self, host: &str, settlement: &Settlement) -> Result<u64, StoreError>;
    /// Looks at so many of this host's parked rows behind this position, and takes back the parking of those that
    /// follow nothing unroutable any more, or of all if nothing is to be parked.
    async fn let_go(
        &self,
        host: &str,
        all: bool,
        after: u64,
        limit: u32,
    ) -> Result<LetGo, StoreError>;
    /// Leaves this host's rows, and then those of hosts that were given up, to whoever has a broker, at most so many;
    /// how many there were.
    async fn leave(&self, host: &str, limit: u32) -> Result<u64, StoreError>;
    /// Takes over rows of hosts that were given up, and those that are nobody's, at most so many; how many there were.
    /// A host that was given up itself takes over nothing.
    async fn adopt(&self, host: &str, limit: u32) -> Result<u64, StoreError>;
    /// How much there is.
    async fn backlog(&self, host: &str) -> Result<Backlog, StoreError>;
    /// Takes back the parking of this host's rows, or of those of one project, a slice at a time; how many there
    /// were.
    async fn retry(&self, host: &str, project: Option<&ProjectName>) -> Result<u64, StoreError>;
}

/// Why a broker did not take it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BrokerError(pub String);

/// A broker.
#[async_trait]
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Connects to the first that lets us in, and sees to it that the exchange is there. Takes a bounded time.
    async fn connect(&self) -> Result<Box<dyn Publisher>, BrokerError>;
}

/// What a publisher has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// What became of messages, in the order in which they were handed over: by their positions.
    Settled(Vec<(u64, Outcome)>),
    /// The broker takes nothing for now, and says why; or takes it again.
    Blocked(Option<String>),
}

/// A connection to a broker on which messages are published and confirmed.
#[async_trait]
pub trait Publisher: Send + std::fmt::Debug {
    /// Hands a message over and waits for nothing.
    fn publish(&mut self, message: &Arc<Message>) -> Result<(), BrokerError>;
    /// Waits for news. An error is the end of the connection: what became of the rest nobody knows.
    async fn news(&mut self) -> Result<Told, BrokerError>;
    /// Says good-bye, in a bounded time.
    async fn close(self: Box<Self>);
}
