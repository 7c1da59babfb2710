//! The edge: one module for each thing the ports stand for. They carry out and decide nothing.

pub mod agent_client;
#[cfg(test)]
pub(crate) mod conformance;
pub mod drawer;
pub mod exposition;
pub mod machine;
pub mod migrate;
pub mod postgres;
pub mod rabbitmq;
pub mod sql;
pub mod sqlite;
pub mod timed;
pub mod webhook;
