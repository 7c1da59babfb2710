//! The D-Bus interface over a real bus: a dbus-daemon of the test's own, the real engine, and
//! store and host in memory.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

#[path = "../fakes/mod.rs"]
mod fakes;

mod budgets;
mod bus;
mod cli;
mod declared;
mod hostile;
mod introspection;
mod life;
mod people;
mod queue;
mod rights;
