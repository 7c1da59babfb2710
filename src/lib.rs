//! Stratavore: a systemd-native host agent. The map.
//!
//! | layer | what it is | it may use |
//! |---|---|---|
//! | [`domain`] | pure decisions: names, limits, states, endings, admission, reconciliation | nothing of ours |
//! | [`wire`], [`seqpacket`] | messages between daemon, agent and shim, and their transport | `domain` |
//! | [`logfile`] | the log file of a runner: the shim writes, the agent reads it | nothing of ours |
//! | [`ports`] | what the engine needs of the world: traits `Store` and `Host` | `domain` |
//! | [`engine`] | the one owner of live state: lanes, launch saga, hub | `ports`, `domain` |
//! | [`adapters`] | one port each: SQLite store, client of the agent; the HTTP server for metrics | `ports`, `wire`, `domain` |
//! | [`api`] | D-Bus interfaces, authorisation, client proxies | `engine`, `domain` |
//! | [`cli`] | `stratavorectl` | the proxies of `api`, `domain` |
//! | [`agent`] | `stratavore-agent`: systemd and cgroups | `wire`, `domain` |
//! | [`shim`] | `stratavore-shim`: the parent of one runner | `wire`, `domain` |
//! | [`daemon`] | `stratavored`: puts it together | everything |
//!
//! Where do I change …? A limit: `domain::limits`, then `agent::properties` and `agent::readback`.
//! What an ending is called: `domain::exit`. What happens after a crash: `domain::reconcile`. A key
//! of the configuration: `config::KEYS`. Where files are: `places`. A method on the bus: `api`, then `systemd/dbus`.
//!
//! [`boottime`] is the clock of the self-fence (`domain::fence`).
//!
//! [`metrics`] counts, `daemon::observe` shows it. [`journal`] and [`telemetry`] write our own lines; what is said in them is `domain::kinds`.
//!
//! `tests/rules.rs` keeps the imports one-way.

// What tests share with those of tests/ names the crate.
#[cfg(test)]
extern crate self as stratavore;

pub mod adapters;
pub mod agent;
pub mod api;
pub mod boottime;
pub mod bus;
pub mod cli;
pub mod config;
pub mod crash;
pub mod daemon;
pub mod domain;
pub mod engine;
pub mod journal;
pub mod logfile;
pub mod metrics;
pub mod places;
pub mod ports;
pub mod seqpacket;
pub mod service;
pub mod shim;
pub mod telemetry;
pub mod wire;

/// The version, `VERSION` of the source.
pub const VERSION: &str = env!("STRATAVORE_VERSION");
/// The version with commit and date, for `--version`.
pub const VERSION_TEXT: &str = env!("STRATAVORE_VERSION_TEXT");
