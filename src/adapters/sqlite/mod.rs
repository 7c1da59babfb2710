//! The embedded store: one SQLite file.
//!
//! One task ([`writer`]) owns the only connection that writes. Callers hand it their requests and
//! get their answers after COMMIT; whatever waits while a transaction is under way shares the next
//! one. Readers use a few read-only connections of their own and see what is committed.
//! `synchronous=FULL`: what was answered survives a power cut.
//!
//! The schema (`migrations/sqlite`) has triggers for everything that must never be: an illegal
//! transition, a launch over the cap, a counter that is off. The program decides before it writes
//! ([`crate::domain`]), so a trigger that fires is a bug that was stopped.

mod admit;
mod apply;
mod check;
mod denials;
mod fault;
mod open;
mod projects;
mod prune;
mod read;
mod row;
mod words;
mod writer;

#[cfg(test)]
mod tests;

use crate::domain::admission::Gate;
use crate::domain::event::{Actor, Event};
use crate::domain::project::{ProjectChange, ProjectSettings};
use crate::domain::runner::{Change, Runner};
use crate::domain::{Project, ProjectName, RunnerId, Timestamp};
use crate::ports::{
    Admitted, Applied, EventFilter, NewRunner, Pruned, RunnerFilter, Store, StoreError,
};
use async_trait::async_trait;
use sqlx::SqlitePool;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use writer::{Job, Reply, Writer};

/// How many requests may wait for the writer before callers wait to hand theirs in.
const WAITING_MAX: usize = 1_024;

/// The store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    place: Arc<Path>,
    readers: SqlitePool,
    jobs: mpsc::Sender<Job>,
}

impl SqliteStore {
    /// Opens the file, makes it if there is none, and brings its schema up to date. Its folder
    /// must exist. `max_readers` connections are opened for reading, when they are needed.
    pub async fn open(path: &Path, max_readers: u32) -> Result<Self, StoreError> {
        let place: Arc<Path> = path.into();
        let connection = open::prepare(path).await?;
        let readers = open::readers(path, max_readers);
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(Writer::new(place.clone(), connection, readers.clone()).run(waiting));
        Ok(Self {
            place,
            readers,
            jobs,
        })
    }

    /// The readers' connections in use, and idle.
    pub fn connections(&self) -> (i64, i64) {
        let (all, idle) = (self.readers.size() as usize, self.readers.num_idle());
        let idle = idle.min(all);
        ((all - idle) as i64, idle as i64)
    }

    /// Looks a store over without changing anything, whether a daemon uses it or not: one sentence
    /// about a sound one, or what is wrong. Reads the whole file.
    pub async fn check(path: &Path) -> Result<String, String> {
        check::check(path).await
    }

    /// Hands a job to the writer and waits for its answer. The job is done even if the caller
    /// goes away meanwhile.
    async fn write<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("it is closed".to_owned());
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    fn read<T>(&self, result: Result<T, fault::Fail>) -> Result<T, StoreError> {
        result.map_err(|fail| fail.told(&self.place))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn admit(&self, new: NewRunner) -> Result<Admitted, StoreError> {
        self.write(|reply| Job::Admit(Box::new(new), reply)).await
    }

    async fn gates(
        &self,
        project: &ProjectName,
        host: &str,
        host_max: Option<u32>,
    ) -> Result<Vec<Gate>, StoreError> {
        self.read(read::gates(&self.readers, project, host, host_max).await)
    }

    async fn apply(&self, change: Change) -> Result<Applied, StoreError> {
        self.write(|reply| Job::Apply(Box::new(change), reply))
            .await
    }

    async fn runner(&self, id: RunnerId) -> Result<Option<Runner>, StoreError> {
        self.read(read::runner(&self.readers, id).await)
    }

    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        self.read(read::runners(&self.readers, &filter).await)
    }

    async fn live(&self, host: &str) -> Result<Vec<Runner>, StoreError> {
        self.read(read::live(&self.readers, host).await)
    }

    async fn create_project(
        &self,
        name: ProjectName,
        settings: ProjectSettings,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        let order = projects::Order { name, actor, at };
        self.write(|reply| Job::Create(Box::new((order, settings)), reply))
            .await
    }

    async fn set_project(
        &self,
        name: ProjectName,
        change: ProjectChange,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        let order = projects::Order { name, actor, at };
        self.write(|reply| Job::Set(Box::new((order, change)), reply))
            .await
    }

    async fn remove_project(
        &self,
        name: ProjectName,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Event, StoreError> {
        let order = projects::Order { name, actor, at };
        self.write(|reply| Job::Remove(Box::new(order), reply))
            .await
    }

    async fn project(&self, name: &ProjectName) -> Result<Option<Project>, StoreError> {
        self.read(read::project(&self.readers, name).await)
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        self.read(read::projects(&self.readers).await)
    }

    async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        self.read(read::events(&self.readers, &filter).await)
    }

    async fn prune(&self, before: Timestamp, batch: u32) -> Result<Pruned, StoreError> {
        self.write(|reply| Job::Prune(prune::Sweep::new(before, batch, reply)))
            .await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.write(Job::Check).await
    }

    async fn close(&self) {
        let _ = self.write(Job::Close).await;
    }
}
