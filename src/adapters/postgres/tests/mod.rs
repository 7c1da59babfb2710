//! The fleet's store under test: the conformance suite, two daemons at once, its schema, its outages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clones;
mod cluster;
mod contention;
mod cuts;
mod decisions;
mod failover;
mod growth;
#[path = "../../../../tests/load/mod.rs"]
mod load;
mod migrate;
mod outages;
mod plans;
mod races;
mod roles;
mod schema;
mod storm;
mod tls;

use super::*;
use crate::adapters::conformance;
use crate::domain::project::ProjectSettings;
use crate::ports::Store;
use cluster::Cluster;
use load::within;
use std::sync::Arc;

async fn empty() -> ((), PostgresStore) {
    let options = tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap();
    ((), PostgresStore::open(options, 4).await.unwrap())
}

conformance::suite!(super::empty);
