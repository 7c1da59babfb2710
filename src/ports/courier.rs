//! The way to those who are told by a rule of the configuration: webhooks.

use crate::domain::notify::Address;
use async_trait::async_trait;

/// What is posted. Its address is a secret, and `Debug` does not show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where to.
    pub to: Address,
    /// Headers, in ASCII.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// Why it did not arrive, as far as we know: in words without a full stop, and without anything secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// It may arrive if it is tried again.
    Later(String),
    /// It would be refused again.
    Never(String),
}

impl Undelivered {
    /// Why.
    pub fn why(&self) -> &str {
        match self {
            Self::Later(why) | Self::Never(why) => why,
        }
    }
}

/// Posts letters.
#[async_trait]
pub trait Courier: Send + Sync + std::fmt::Debug {
    /// Tries once. It comes back within a bounded time, whatever the receiver does, and keeps nothing of
    /// an answer but its status.
    async fn post(&self, letter: &Letter) -> Result<(), Undelivered>;
}
