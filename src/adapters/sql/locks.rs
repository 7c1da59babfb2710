//! What a transaction must hold before it reads, where several hosts write to one database.
//! SQLite has one writer and needs none of it.

use crate::domain::{ProjectName, RunnerId};
use serde::Serialize;
use std::collections::BTreeSet;

/// What the requests of one transaction read and change. All of it is taken in one statement, in
/// one order: the fleet, projects, hosts.
#[derive(Debug, Default, Serialize)]
pub(in crate::adapters) struct Locks {
    /// Nobody else writes anything meanwhile. For what is rare and concerns everybody.
    #[serde(skip)]
    pub(in crate::adapters) whole_fleet: bool,
    projects: BTreeSet<String>,
    hosts: BTreeSet<String>,
    runners: BTreeSet<String>,
}

impl Locks {
    pub(in crate::adapters) fn fleet(&mut self) {
        self.whole_fleet = true;
    }

    pub(in crate::adapters) fn project(&mut self, name: &ProjectName) {
        self.projects.insert(name.to_string());
    }

    pub(in crate::adapters) fn host(&mut self, host: &str) {
        self.hosts.insert(host.to_owned());
    }

    /// The project and the host of a runner.
    pub(in crate::adapters) fn runner(&mut self, id: RunnerId) {
        self.runners.insert(id.to_string());
    }
}
