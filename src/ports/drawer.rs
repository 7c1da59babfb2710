//! What this host keeps of launches that wait, because the store must not have it.

use crate::domain::event::Actor;
use crate::domain::inputs::Inputs;
use crate::domain::spec::Setenv;
use crate::domain::{Error, RunnerId};
use async_trait::async_trait;

/// What of a launch is not in its row. `Debug` shows no environment values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its environment.
    pub setenv: Vec<Setenv>,
    /// What it is given by file: names and paths.
    pub inputs: Inputs,
    /// Who launched it.
    pub actor: Actor,
    /// What stands for the command and its user ([`RunnerSpec`](crate::domain::RunnerSpec)): its row may say
    /// nothing else when its turn comes. Empty = kept by a release that did not know.
    pub identity: String,
}

/// Keeps it until the launch is made, over restarts and reboots.
#[async_trait]
pub trait Drawer: Send + Sync + std::fmt::Debug {
    /// Keeps it: when this returns it is on the disk. `QueueFull` if that is too much for this host;
    /// `Conflict` if something is kept of this one already, which stays as it is.
    async fn put(&self, id: RunnerId, kept: Kept) -> Result<(), Error>;
    /// What is kept of this launch; `None` = nothing. The error says why it can't be read.
    async fn get(&self, id: RunnerId) -> Result<Option<Kept>, Error>;
    /// Throws it away. Nothing there = done.
    async fn remove(&self, id: RunnerId);
    /// All of which something is kept.
    async fn ids(&self) -> Result<Vec<RunnerId>, Error>;
}
