//! What a transaction must hold before it reads, where several hosts write to one database.
//! SQLite has one writer and needs none of it.

use super::ledger::Concern;
use crate::domain::{ProjectName, RunnerId};
use serde::Serialize;
use std::collections::BTreeSet;

/// What the requests of one transaction read and change. All of it is taken in one statement, in
/// one order: the fleet, projects, hosts, sessions.
#[derive(Debug, Default, Serialize)]
pub(in crate::adapters) struct Locks {
    /// Nobody else writes anything meanwhile. For what is rare and concerns everybody.
    #[serde(skip)]
    pub(in crate::adapters) whole_fleet: bool,
    projects: BTreeSet<String>,
    hosts: BTreeSet<String>,
    runners: BTreeSet<String>,
    sessions: BTreeSet<String>,
    /// Runners may be admitted: see [`super::cap`].
    #[serde(skip)]
    pub(super) admits: bool,
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

    pub(super) fn concern(&mut self, concern: &Concern) {
        self.admits = true;
        concern.projects.iter().for_each(|name| self.project(name));
        concern.hosts.keys().for_each(|host| self.host(host));
        self.sessions.extend(concern.sessions.iter().cloned());
    }

    /// The project and the host of a runner.
    pub(in crate::adapters) fn runner(&mut self, id: RunnerId) {
        self.runners.insert(id.to_string());
    }
}
