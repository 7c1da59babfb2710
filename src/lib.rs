//! Stratavore: a systemd-native host agent. The map.
//!
//! | layer | what | imports |
//! |---|---|---|
//! | [`domain`] | pure decisions | nothing of ours |
//! | [`wire`] | messages between daemon, agent and shim | `domain` |
//! | [`ports`] | what the engine needs of the world | `domain` |

pub mod crash;
pub mod domain;
pub mod ports;
pub mod seqpacket;
pub mod shim;
pub mod wire;
