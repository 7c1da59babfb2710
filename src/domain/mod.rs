//! The pure part: what things are and what may happen to them.
//!
//! Nothing here does I/O, reads a clock, draws a random number or logs. Every
//! decision of the product is a function in this folder, so that it can be
//! tested by millions of made-up worlds.

pub mod admission;
pub mod audit;
pub mod backoff;
pub mod budget;
pub mod cgroup;
pub mod cloudevent;
pub mod declared;
pub mod env_file;
pub mod error;
pub mod event;
pub mod exit;
pub mod fence;
#[cfg(test)]
mod fleet_model;
pub mod hold;
pub mod host;
pub mod id;
pub mod inputs;
pub mod kinds;
pub mod lease;
pub mod limits;
pub mod logs;
pub mod name;
pub mod nearest;
pub mod notify;
pub mod order;
pub mod period;
pub mod placed;
pub mod placement;
pub mod policy;
pub mod project;
pub mod reconcile;
pub mod relay;
pub mod runner;
pub mod secret;
pub mod signal;
pub mod spec;
pub mod time;
pub mod units;
pub mod words;

pub use error::{Error, ErrorKind};
pub use exit::{Cause, Exit, Usage};
pub use id::RunnerId;
pub use limits::Limits;
pub use name::ProjectName;
pub use project::Project;
pub use runner::{Runner, State};
pub use spec::RunnerSpec;
pub use time::Timestamp;
