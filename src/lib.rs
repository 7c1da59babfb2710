//! Stratavore: a systemd-native host agent. The map.
//!
//! | layer | what | imports |
//! |---|---|---|
//! | [`domain`] | pure decisions | nothing of ours |
//! | [`wire`] | messages between daemon, agent and shim | `domain` |
//! | [`agent`] | the privileged few verbs towards systemd | `domain`, `wire` |
//! | [`adapters`] | what implements the ports | `ports`, `wire` |
//! | [`ports`] | what the engine needs of the world | `domain` |

pub mod adapters;
pub mod agent;
pub mod crash;
pub mod domain;
pub mod ports;
pub mod seqpacket;
pub mod shim;
pub mod wire;
