//! Stratavore on real hosts: a systemd of its own for each test, and for limits a kernel of its own.
//!
//! What is asked of the product is asked through `stratavorectl` and `busctl`, as a user would; what must hold is read
//! from outside: cgroups, units, files and SQL, never through the product's own API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_debug_implementations
)]

mod support;

mod access;
mod audit;
mod backup;
mod budget;
mod clones;
mod config;
mod crash;
mod credentials;
mod deb;
mod declared;
mod doctor;
mod endings;
mod fence;
mod fixture;
mod fleet;
mod harness;
mod holds;
mod hostile;
mod hosts;
mod input;
mod journal;
mod launch;
mod lease;
mod life;
mod limits;
#[path = "../load/mod.rs"]
mod load;
mod logfile;
mod logs;
mod metrics;
mod migrate;
mod nixos;
mod notify;
mod peers;
mod people;
mod pipe;
mod placed;
mod projects;
mod queue;
mod reach;
mod readme;
mod relay;
mod releases;
mod restart;
mod scale;
#[path = "../schema/mod.rs"]
mod schema;
mod user;
