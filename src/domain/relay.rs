//! What a relay may publish now, and what is to be done about what became of it.
//!
//! An event is not published before its predecessor of the same subject is confirmed. So at most one
//! event of a subject is under way at a time, and those of different subjects fill the window. What was
//! confirmed is remembered until the store has heard of it. Whatever ends a connection or the relay itself,
//! at most one [`Limits::batch`] is published twice.
//!
//! What the broker refuses (a queue that is full) holds up its own project alone: a few of its events stay in
//! hand and are tried again now and then, and the rest waits in the store until one of them is taken.

mod window;

pub use window::Window;

use std::sync::Arc;

/// What the broker said of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has it.
    Confirmed,
    /// No queue wants it.
    Returned,
    /// It could not keep it: to be tried again.
    Refused,
}

/// Why a row is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// No queue was bound for it.
    Unroutable,
    /// An event of its subject before it is parked.
    Follows,
}

impl Why {
    /// As the store keeps it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unroutable => "unroutable",
            Self::Follows => "follows",
        }
    }

    /// The reason whose [`Self::as_str`] is `text`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Unroutable, Self::Follows]
            .into_iter()
            .find(|why| why.as_str() == text)
    }
}

/// What the store is to write down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Positions of what was confirmed.
    pub done: Vec<u64>,
    /// Positions of what is to be parked.
    pub parked: Vec<(u64, Why)>,
}

impl Settlement {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.parked.is_empty()
    }
}

/// How much a relay takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most rows in memory, besides the few of each full project that the broker has refused.
    pub rows: usize,
    /// Most messages the broker has not confirmed.
    pub window: usize,
    /// Most messages that were handed to the broker and not yet settled in the store: what a fault may
    /// publish twice.
    pub batch: usize,
}

/// A row of the outbox as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its place.
    pub position: u64,
    /// What it is about.
    pub subject: Arc<str>,
    /// Whose it is; empty = no project's.
    pub project: Arc<str>,
    /// Its number there.
    pub seq: u64,
    /// The last number before it that is still in the outbox.
    pub behind: Option<u64>,
    /// One of those before it is parked as [`Why::Unroutable`].
    pub behind_unroutable: bool,
}

/// What became of a row that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is published in its turn, or parked.
    Taken,
    /// It was known already.
    Known,
    /// Its predecessor is another host's, or was not read yet, or the broker takes nothing of its project:
    /// to be read again later.
    Waits,
}
