//! Stratavore: a systemd-native host agent. The map.
//!
//! | layer | what | imports |
//! |---|---|---|
//! | [`domain`] | pure decisions | nothing of ours |
//! | [`wire`] | messages between daemon, agent and shim | `domain` |
//! | [`ports`] | what the engine needs of the world | `domain` |
//! | [`adapters`] | the ports carried out: the embedded store | `ports`, `domain` |

pub mod adapters;
pub mod crash;
pub mod domain;
pub mod ports;
pub mod seqpacket;
pub mod wire;
