//! What implements the ports: one file each, no decisions.

pub mod agent_client;
