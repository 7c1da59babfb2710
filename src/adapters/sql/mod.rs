//! What both stores are made of: every statement once, over either database.
//!
//! One task ([`writer`]) owns the only connection that writes. Callers hand it their requests and
//! get their answers after COMMIT; whatever waits while a transaction is under way shares the next
//! one. Readers use a few connections of their own ([`readers`]) and see what is committed.
//!
//! The schema (`migrations/`) has triggers for everything that must never be: an illegal
//! transition, a launch over the cap, a counter that is off. The program decides before it writes
//! ([`crate::domain`]), so a trigger that fires is a bug that was stopped.
//!
//! **To add a request that writes**: a type with what it needs, and [`Work`] for it: `run` reads,
//! decides with the domain's pure code, writes, and records its events ([`apply::record`]). It runs
//! inside the writer's transaction, in a savepoint of its own: an `Err` takes back what it wrote and
//! spoils nobody else's. It may be run again from the start, in another transaction. `locks` says
//! what it must hold before it reads (hosts share one Postgres). Call it with [`SqlStore::write`]:
//! `projects.rs` shows it. **To add a question**: a function over [`Link`] in `read.rs` or beside
//! the requests, called with [`SqlStore::read`].
//!
//! SQL is what both understand: `$1 …`, `ON CONFLICT … DO UPDATE SET n = table.n + 1`, `RETURNING`,
//! `CAST(x AS BIGINT)`, an alias on every subquery, `TRUE` and not `1`; numbers are BIGINT. Where they
//! differ, [`Link::pick`].

mod acts;
mod admit;
mod apply;
mod audit;
mod budgets;
mod cap;
mod chain;
mod clock;
pub(in crate::adapters) mod copy;
mod denials;
mod expired;
pub(in crate::adapters) mod fail;
mod fleet;
mod gone;
mod holds;
mod hosts;
mod jobs;
mod ledger;
pub(in crate::adapters) mod link;
pub(in crate::adapters) mod locks;
mod orders;
pub(in crate::adapters) mod outbox;
mod policies;
mod projects;
mod prune;
mod queue;
pub(in crate::adapters) mod read;
pub(in crate::adapters) mod readers;
mod release;
mod row;
mod words;
mod writer;

use crate::domain::admission::Gate;
use crate::domain::audit::Key;
use crate::domain::event::{Actor, Event};
use crate::domain::project::{ProjectChange, ProjectSettings};
use crate::domain::runner::{Change, Runner};
use crate::domain::{Project, ProjectName, RunnerId, RunnerSpec, Timestamp};
use crate::ports::{
    self, Admitted, Applied, EventFilter, NewRunner, Pruned, Queue, RunnerFilter, Store, StoreError,
};
use async_trait::async_trait;
use chain::{Chain, Kept};
use fail::Fail;
use jobs::{Ask, Job, Reply};
use link::Link;
use locks::Locks;
use readers::Readers;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use writer::{Identity, Outlet, Writer};

/// How many requests may wait for the writer before callers wait to hand theirs in.
const WAITING_MAX: usize = 1_024;

/// How long a connection for reading is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Without use: it is closed when the next one comes back after so long.
    pub idle: Duration,
    /// At all: what it has gathered in the database's memory goes with it.
    pub life: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(300),
            life: Duration::from_secs(1_800),
        }
    }
}

/// What differs between the databases.
#[async_trait]
pub(in crate::adapters) trait Base:
    std::fmt::Debug + Send + Sync + 'static
{
    /// What a person calls it.
    fn place(&self) -> String;
    /// Opens the writer's connection again after a fault.
    async fn again(&self) -> Result<Link, sqlx::Error>;
    /// Opens a connection for reading.
    async fn reading(&self) -> Result<Link, sqlx::Error>;
    /// How long such a one is kept.
    fn keep(&self) -> Keep {
        Keep::default()
    }
    /// What begins a transaction that writes.
    fn begin(&self) -> &'static str;
    /// What begins one for a request alone, after it was in one with others: it waits less long.
    fn begin_alone(&self) -> &'static str {
        self.begin()
    }
    /// What begins one that reads, where a pooler is in between.
    fn begin_reading(&self) -> &'static str;
    /// How long it may take to answer. `None`: it is in this process.
    fn limit(&self) -> Option<Duration>;
    /// Right after BEGIN: takes the locks, notes the number of the transaction, and who publishes its events
    /// (see [`publisher`]).
    async fn enter(
        &self,
        on: &mut Link,
        locks: &Locks,
        batch: u64,
        publisher: &str,
    ) -> Result<(), Fail>;
    /// Whether a COMMIT that failed may have been done.
    fn doubts_commit(&self) -> bool;
    /// The number of the last of our transactions that was committed; waits for one under way.
    /// `None`: that was forgotten.
    async fn committed(&self, on: &mut Link) -> Result<Option<u64>, Fail>;
    /// Whether the schema's own rules stopped one statement.
    fn is_rule(&self, error: &sqlx::Error) -> bool;
    /// Whether two requests got in each other's way, in one transaction or in two: the second attempt
    /// sees what the other has done.
    fn is_clash(&self, _error: &sqlx::Error) -> bool {
        false
    }
    /// Whether somebody else held for too long what one of the requests needs.
    fn is_held(&self, _error: &sqlx::Error) -> bool {
        false
    }
    /// Whether the connection can be kept after a rollback.
    fn is_passing(&self, error: &sqlx::Error) -> bool;
    /// The sentence for whoever has to repair it.
    fn told(&self, error: &sqlx::Error) -> StoreError;
    /// After a pruning: gives space back.
    async fn pruned(&self, on: &mut Link) -> Result<(), Fail>;
    /// Tidies up before the writer's connection is closed.
    async fn last(&self, on: &mut Link);
}

/// Gives up on a database that does not answer. The connection must not be used again then.
pub(in crate::adapters) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let Some(limit) = limit else {
        return work.await;
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let why = format!("no answer within {} s", limit.as_secs());
        Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            why,
        )))
    })
}

/// Who publishes, as the schema takes it: epoch and host; empty = nobody.
fn publisher(writer: Option<&ports::Writer>) -> String {
    writer.map_or_else(String::new, |w| format!("{} {}", w.epoch, w.host))
}

/// One request to the writer: see the module's first lines.
#[async_trait]
pub(in crate::adapters) trait Work: std::fmt::Debug + Send + 'static {
    /// The answer.
    type Done: std::fmt::Debug + Send + 'static;
    /// What it reads and changes that other hosts may change too. Nothing is locked otherwise.
    fn locks(&self, _locks: &mut Locks) {}
    /// Whether it is done although the epoch of this store's host is over.
    fn of_any_epoch(&self) -> bool {
        false
    }
    /// Runners whose launch somebody goes on with when this answer is heard. If it is lost and the
    /// transaction turns out to be committed, they are ended.
    fn admitted(_done: &Self::Done) -> Vec<(RunnerId, Timestamp)> {
        Vec::new()
    }
    /// Does it, inside the writer's transaction.
    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail>;
}

/// A store in an SQL database.
#[derive(Debug)]
pub struct SqlStore<B> {
    pub(in crate::adapters) base: Arc<B>,
    pub(in crate::adapters) readers: Arc<Readers>,
    jobs: mpsc::Sender<Job>,
    identity: Identity,
    /// The audit it keeps, if it does.
    kept: Arc<Kept>,
    /// Before this position are the events this store has written; 0 = it does not matter.
    written: Arc<AtomicU64>,
    /// Since this store was opened.
    hopeless: Mutex<gone::Hopeless>,
    /// Whether events of this host are to be published.
    publishes: Arc<AtomicBool>,
    /// Something was committed.
    wrote: Arc<Notify>,
}

#[expect(private_bounds, reason = "there are two bases, and both are here")]
impl<B: Base> SqlStore<B> {
    /// With a connection for the writer that is open, and at most so many for reading.
    pub(in crate::adapters) fn new(base: B, link: Link, max_readers: u32) -> Self {
        let base = Arc::new(base);
        let readers = Arc::new(Readers::new(base.clone(), max_readers));
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let (identity, written) = (Identity::default(), Arc::default());
        let kept: Arc<Kept> = Arc::default();
        let (publishes, wrote) = (Arc::default(), Arc::default());
        let writer = Writer::new(
            base.clone(),
            link,
            readers.clone(),
            Arc::clone(&identity),
            Chain::new(Arc::clone(&kept)),
            Arc::clone(&written),
            Outlet {
                publishes: Arc::clone(&publishes),
                wrote: Arc::clone(&wrote),
            },
        );
        tokio::spawn(writer.run(waiting));
        Self {
            base,
            readers,
            jobs,
            identity,
            kept,
            written,
            hopeless: Mutex::default(),
            publishes,
            wrote,
        }
    }

    /// From here on it keeps the audit of this host: with the first of these keys, and the former ones to
    /// go on where they ended.
    pub fn keep_audit(&self, host: String, keys: Vec<Key>) {
        self.kept.begin(host, keys);
    }

    /// Whether a host has joined by this store; its epoch may be over.
    fn has_joined(&self) -> bool {
        let identity = self.identity.read();
        identity.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn hopeless(&self) -> MutexGuard<'_, gone::Hopeless> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The readers' connections in use, and idle.
    pub fn connections(&self) -> (i64, i64) {
        self.readers.count()
    }

    /// Hands a job to the writer and waits for its answer. The job is done even if the caller
    /// goes away meanwhile.
    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("it is closed".to_owned());
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Has the writer do this, and gives its answer after COMMIT.
    pub(in crate::adapters) async fn write<W: Work>(&self, work: W) -> Result<W::Done, StoreError> {
        self.ask(|reply| Job::Work(Box::new(Ask::new(work, reply))))
            .await
    }

    /// Asks a question on a reader's connection.
    pub(in crate::adapters) async fn read<T: Send + 'static>(
        &self,
        question: impl AsyncFnOnce(&mut Link) -> Result<T, Fail>,
    ) -> Result<T, StoreError> {
        self.readers
            .ask(question)
            .await
            .map_err(|fail| fail.told(&*self.base))
    }
}

#[async_trait]
impl<B: Base> Store for SqlStore<B> {
    async fn admit(&self, new: NewRunner) -> Result<Admitted, StoreError> {
        self.ask(|reply| Job::Admit(Ask::new(Box::new(new), reply)))
            .await
    }

    async fn apply(&self, change: Change) -> Result<Applied, StoreError> {
        self.ask(|reply| Job::Apply(Ask::new(Box::new(change), reply)))
            .await
    }

    async fn runner(&self, id: RunnerId) -> Result<Option<Runner>, StoreError> {
        self.read(async |on| read::runner(on, id).await).await
    }

    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        self.read(async |on| read::runners(on, &filter).await).await
    }

    async fn live(&self, host: &str) -> Result<Vec<Runner>, StoreError> {
        self.read(async |on| read::live(on, host).await).await
    }

    async fn create_project(
        &self,
        name: ProjectName,
        settings: ProjectSettings,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        let order = projects::Order { name, actor, at };
        self.write(projects::Create { order, settings }).await
    }

    async fn set_project(
        &self,
        name: ProjectName,
        change: ProjectChange,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        let order = projects::Order { name, actor, at };
        self.write(projects::Set { order, change }).await
    }

    async fn remove_project(
        &self,
        name: ProjectName,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Vec<Event>, StoreError> {
        let order = projects::Order { name, actor, at };
        self.write(projects::Remove { order }).await
    }

    async fn project(&self, name: &ProjectName) -> Result<Option<Project>, StoreError> {
        self.read(async |on| read::project(on, name).await).await
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        self.read(async |on| read::projects(on).await).await
    }

    async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        let written = self.written.load(Ordering::Acquire);
        self.read(async |on| read::events(on, &filter, written).await)
            .await
    }

    async fn expired(&self, retention: u64) -> Result<Timestamp, StoreError> {
        let identity = self
            .identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let host = identity.map(|writer| writer.host);
        self.write(prune::Expired { host, retention }).await
    }

    async fn prune(&self, before: Timestamp, batch: u32) -> Result<Pruned, StoreError> {
        self.ask(|reply| Job::Prune(prune::Sweep::new(before, batch, reply)))
            .await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.write(jobs::Check).await
    }

    async fn close(&self) {
        let _ = self.ask(Job::Close).await;
    }
}

#[async_trait]
impl<B: Base> Queue for SqlStore<B> {
    async fn turns(&self, host: &str, host_max: Option<u32>) -> Result<Vec<Admitted>, StoreError> {
        // This is asked often, and seldom does anybody wait.
        let asked = self.read(async |on| queue::concerned(on, host, host_max).await);
        match asked.await? {
            Some(concern) => self.write(queue::Turns(concern)).await,
            None => Ok(Vec::new()),
        }
    }

    async fn queued(&self, host: &str) -> Result<Vec<Runner>, StoreError> {
        self.read(async |on| queue::queued(on, host).await).await
    }

    async fn explain(
        &self,
        spec: &RunnerSpec,
        host: &str,
        host_max: Option<u32>,
        waiting: Option<RunnerId>,
    ) -> Result<Vec<Gate>, StoreError> {
        self.read(async |on| queue::explain(on, spec, host, host_max, waiting).await)
            .await
    }
}
