//! The two ports for tests of what is above them: a store with switches, and a host without systemd.
#![allow(dead_code, unused_imports)]

mod drawer;
mod host;
mod store;

pub use drawer::FakeDrawer;
pub use host::FakeHost;
pub use store::FakeStore;
