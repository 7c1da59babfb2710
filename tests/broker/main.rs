//! The relay with real stores and a real RabbitMQ, in one process.
//!
//! After each scenario a consumer that keeps the last number per subject has seen what is in the database,
//! in order per subject, and nothing but one batch per fault twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Where the files that are shared look for it.
use stratavore::adapters;

mod consumer;
mod faults;
mod fleet;
mod leftovers;
mod nixos;
// That of the store's own tests.
#[allow(dead_code)]
#[path = "../../src/adapters/postgres/tests/cluster.rs"]
mod postgres;
mod proxy;
mod rabbit;
mod routing;
#[path = "../schema/mod.rs"]
mod schema;
mod tls;
mod world;
