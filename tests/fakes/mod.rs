//! The two ports for tests of what is above them: a store with switches, and a host without systemd.
#![allow(dead_code, unused_imports)]

mod drawer;
mod host;
mod machine;
mod store;

pub use drawer::FakeDrawer;
pub use host::FakeHost;
pub use machine::membership;
pub use store::FakeStore;
