//! The audit chains, as the store keeps them.

use super::StoreError;
use crate::domain::Timestamp;
use crate::domain::audit::verify::Report;
use crate::domain::audit::{Act, Anchor, Checkpoint, Entry, Head};
use crate::domain::event::Event;
use async_trait::async_trait;

/// How a chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its head; `None` although there are entries: somebody took it away.
    pub head: Option<Head>,
    /// What stands for its oldest entries.
    pub checkpoint: Option<Checkpoint>,
    /// The last entry that is there.
    pub last: u64,
    /// Its heads as other hosts have seen them.
    pub witnessed: Vec<Anchor>,
}

/// What was anchored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchored {
    /// `audit.anchored`.
    pub event: Event,
    /// Hosts whose chains are not what this host has seen before: they were cut or written anew.
    pub shrunk: Vec<String>,
}

/// Every event is written down by the store itself, in its transaction, where it keeps a chain.
#[async_trait]
pub trait Audit {
    /// Whether this store keeps the chain of this host: it has a key.
    fn keeps(&self) -> bool;
    /// Whose chain it keeps, and its end as it was last written here. `None`: it keeps none, or has written
    /// nothing yet.
    fn kept(&self) -> Option<Anchor>;
    /// Writes down what is no event. Does nothing where no chain is kept.
    async fn note(&self, acts: Vec<Act>) -> Result<(), StoreError>;
    /// How the chain of a host stands; `None` = there is none.
    async fn chain(&self, host: &str) -> Result<Option<Chain>, StoreError>;
    /// A page of it, in its order: the entries after one number, up to another.
    async fn entries(
        &self,
        host: &str,
        after: u64,
        to: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError>;
    /// Looks at a whole chain with the keys of this host, and with these anchors beside those it knows.
    async fn verify(&self, host: &str, anchors: Vec<Anchor>) -> Result<Report, StoreError>;
    /// Tells the end of this host's chain in an event, and writes down those of the others. `None`: no
    /// chain is kept.
    async fn anchor(&self, at: Timestamp) -> Result<Option<Anchored>, StoreError>;
    /// Replaces entries of this host's chain that are older by a checkpoint, at most so many. How many.
    async fn prune_chain(&self, before: Timestamp, batch: u32) -> Result<u64, StoreError>;
}
