//! The shim as a real process in a real cgroup; the tests are its agent. Needs root and a
//! cgroup2 mount, not systemd.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "shim/agent.rs"]
mod agent;
#[cfg(feature = "crash-points")]
#[path = "shim/crashing.rs"]
mod crashing;
#[path = "shim/fencing.rs"]
mod fencing;
#[path = "shim/launching.rs"]
mod launching;
#[path = "load/mod.rs"]
mod load;
#[path = "shim/stopping.rs"]
mod stopping;
#[path = "shim/talking.rs"]
mod talking;
#[path = "shim/witness.rs"]
mod witness;
