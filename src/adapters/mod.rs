//! The edge: one module for each thing the ports stand for. They carry out and decide nothing.

#[cfg(test)]
pub(crate) mod conformance;
pub mod sqlite;
