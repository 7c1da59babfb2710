//! The two ports for tests of what is above them: a store with switches, and a host without systemd.
#![allow(dead_code, unused_imports)]

mod drawer;
mod host;
mod machine;
#[path = "../schema/mod.rs"]
pub mod schema;
mod store;

pub use drawer::FakeDrawer;
pub use host::FakeHost;
pub use machine::membership;
pub use store::FakeStore;
