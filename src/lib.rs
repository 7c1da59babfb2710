//! Stratavore: a systemd-native host agent. The map.
//!
//! | layer | what | imports |
//! |---|---|---|
//! | [`domain`] | pure decisions | nothing of ours |
//! | [`wire`] | messages between daemon, agent and shim | `domain` |
//! | [`ports`] | what the engine needs of the world | `domain` |

pub mod config;
pub mod crash;
pub mod domain;
pub mod engine;
pub mod ports;
pub mod seqpacket;
pub mod wire;

/// The version, `VERSION` of the source.
pub const VERSION: &str = env!("STRATAVORE_VERSION");
/// The version with commit and date, for `--version`.
pub const VERSION_TEXT: &str = env!("STRATAVORE_VERSION_TEXT");
