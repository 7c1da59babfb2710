//! The two ports in memory: a store and a host without systemd, for tests of what is above them.
#![allow(dead_code, unused_imports)]

mod host;
mod store;

pub use host::FakeHost;
pub use store::MemoryStore;
