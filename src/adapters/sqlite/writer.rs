//! The one task that writes, and its group commit.
//!
//! It takes everything that is waiting, does it in one transaction, each request in a savepoint of
//! its own so that a refusal spoils nothing, commits, and only then answers. While it does so the
//! next requests collect. If the transaction cannot be committed, nothing of it has happened and
//! everybody in it is told why; the next one starts afresh, on a new connection where the old one
//! may be broken.

use super::denials::Denials;
use super::fault::{self, Fail, unavailable};
use super::projects::{self, Order};
use super::prune::{self, Sweep};
use super::{admit, apply, open};
use crate::crash;
use crate::domain::Project;
use crate::domain::event::Event;
use crate::domain::kinds;
use crate::domain::project::{ProjectChange, ProjectSettings};
use crate::domain::runner::Change;
use crate::ports::{Admitted, Applied, NewRunner, Pruned, StoreError};
use sqlx::{Connection, SqliteConnection, SqlitePool};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The most requests in one transaction.
const BATCH_MAX: usize = 256;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the writer.
#[derive(Debug)]
pub(super) enum Job {
    Admit(Box<NewRunner>, Reply<Admitted>),
    Apply(Box<Change>, Reply<Applied>),
    Create(Box<(Order, ProjectSettings)>, Reply<(Project, Event)>),
    Set(Box<(Order, ProjectChange)>, Reply<(Project, Event)>),
    Remove(Box<Order>, Reply<Event>),
    Check(Reply<()>),
    Prune(Sweep),
    Close(Reply<()>),
}

/// An answer held back until its transaction is committed or (`Some`) lost.
type Held = Box<dyn FnOnce(Option<&StoreError>) + Send>;

/// A job that was tried: its answer, and the fault that ends the whole transaction, if any.
struct Tried(Held, Option<sqlx::Error>);

pub(super) struct Writer {
    place: Arc<Path>,
    connection: Option<SqliteConnection>,
    readers: SqlitePool,
    denials: Denials,
    sweeps: VecDeque<Sweep>,
    closing: Vec<Reply<()>>,
    /// The last transaction was lost, and that was said.
    failing: bool,
}

impl Writer {
    pub(super) fn new(place: Arc<Path>, connection: SqliteConnection, readers: SqlitePool) -> Self {
        Self {
            place,
            connection: Some(connection),
            readers,
            denials: Denials::default(),
            sweeps: VecDeque::new(),
            closing: Vec::new(),
            failing: false,
        }
    }

    /// Works until the store is closed or nobody is left to ask for anything.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            if self.sweeps.is_empty() {
                if jobs.recv_many(&mut batch, BATCH_MAX).await == 0 {
                    break;
                }
            } else {
                while batch.len() < BATCH_MAX
                    && let Ok(job) = jobs.try_recv()
                {
                    batch.push(job);
                }
            }
            self.commit(&mut batch).await;
            if !self.closing.is_empty() {
                jobs.close();
                self.sweeps.drain(..).for_each(Sweep::stop);
            }
            self.sweep().await;
        }
        self.readers.close().await;
        if let Some(mut connection) = self.connection.take() {
            // Only tidying up: what was answered is safe in the WAL.
            let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                .execute(&mut connection)
                .await;
            let _ = connection.close().await;
        }
        for reply in self.closing {
            let _ = reply.send(Ok(()));
        }
    }

    async fn commit(&mut self, batch: &mut Vec<Job>) {
        let mut jobs = VecDeque::with_capacity(batch.len());
        for job in batch.drain(..) {
            match job {
                Job::Prune(sweep) => self.sweeps.push_back(sweep),
                Job::Close(reply) => self.closing.push(reply),
                job => jobs.push_back(job),
            }
        }
        if jobs.is_empty() {
            return;
        }
        let mut held = Vec::with_capacity(jobs.len());
        match self.transaction(&mut jobs, &mut held).await {
            Ok(()) => held.into_iter().for_each(|answer| answer(None)),
            Err(error) => {
                let told = self.recover(&error).await;
                held.into_iter().for_each(|answer| answer(Some(&told)));
                jobs.into_iter().for_each(|job| job.fail(told.clone()));
            }
        }
    }

    async fn transaction(
        &mut self,
        jobs: &mut VecDeque<Job>,
        held: &mut Vec<Held>,
    ) -> Result<(), sqlx::Error> {
        let connection = connected(&mut self.connection, &self.place).await?;
        begin(connection).await?;
        while let Some(job) = jobs.pop_front() {
            let Tried(answer, fault) = job
                .attempt(connection, &mut self.denials, &self.place)
                .await;
            held.push(answer);
            if let Some(error) = fault {
                return Err(error);
            }
        }
        crash::point("store.before-commit");
        commit(connection).await?;
        crash::point("store.after-commit");
        self.failing = false;
        Ok(())
    }

    /// After a fault: everything since BEGIN is undone, and the connection renewed if in doubt.
    async fn recover(&mut self, error: &sqlx::Error) -> StoreError {
        self.denials.forget();
        if let Some(mut connection) = self.connection.take() {
            // SQLite may have rolled back by itself; then this is an error that says so.
            let _ = sqlx::query("ROLLBACK").execute(&mut connection).await;
            if fault::is_passing(error) {
                self.connection = Some(connection);
            } else {
                let _ = connection.close().await;
            }
        }
        let told = unavailable(&self.place, error);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(message_id = kinds::STORE_FAULT.id, error = %told, "A transaction was lost; more such lines only after one that works");
        }
        told
    }

    /// One slice of the pruning that is under way, if any.
    async fn sweep(&mut self) {
        let Some(mut sweep) = self.sweeps.pop_front() else {
            return;
        };
        match self.sweep_slice(&mut sweep).await {
            Ok(None) => self.sweeps.push_front(sweep),
            Ok(Some(done)) => {
                let _ = sweep.reply.send(Ok(done));
            }
            Err(Fail::Sql(error)) => {
                let told = self.recover(&error).await;
                let _ = sweep.reply.send(Err(told));
            }
            Err(fail) => {
                if let Some(connection) = &mut self.connection {
                    let _ = sqlx::query("ROLLBACK").execute(connection).await;
                }
                let _ = sweep.reply.send(Err(fail.told(&self.place)));
            }
        }
    }

    async fn sweep_slice(&mut self, sweep: &mut Sweep) -> Result<Option<Pruned>, Fail> {
        let connection = connected(&mut self.connection, &self.place).await?;
        begin(connection).await?;
        let done = sweep.slice(connection).await?;
        commit(connection).await?;
        if done.is_some() {
            prune::give_back(connection).await?;
        }
        Ok(done)
    }
}

async fn connected<'a>(
    slot: &'a mut Option<SqliteConnection>,
    file: &Path,
) -> Result<&'a mut SqliteConnection, sqlx::Error> {
    let connection = match slot.take() {
        Some(connection) => connection,
        None => open::again(file).await?,
    };
    Ok(slot.insert(connection))
}

async fn begin(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE")
        .execute(connection)
        .await
        .map(drop)
}

async fn commit(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("COMMIT").execute(connection).await.map(drop)
}

/// Begins what one request writes, where it takes several statements.
pub(super) async fn savepoint(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SAVEPOINT op")
        .execute(connection)
        .await
        .map(drop)
}

/// Ends it.
pub(super) async fn release(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("RELEASE op")
        .execute(connection)
        .await
        .map(drop)
}

/// Takes back what one request has written, if it has written anything.
pub(super) async fn undo(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    match sqlx::query("ROLLBACK TO op; RELEASE op")
        .execute(connection)
        .await
    {
        Err(error) if fault::primary(&error) == fault::code::ERROR => Ok(()), // no savepoint
        other => other.map(drop),
    }
}

impl Job {
    /// Tries it inside the transaction. A refusal leaves nothing behind; a fault ends the transaction.
    async fn attempt(self, on: &mut SqliteConnection, denials: &mut Denials, file: &Path) -> Tried {
        match self {
            Self::Admit(new, reply) => {
                let result = admit::admit(on, denials, &new).await;
                tried(on, file, reply, result).await
            }
            Self::Apply(change, reply) => {
                let result = apply::apply(on, &change).await;
                tried(on, file, reply, result).await
            }
            Self::Create(order, reply) => {
                let (order, settings) = *order;
                let result = projects::create(on, &order, settings).await;
                tried(on, file, reply, result).await
            }
            Self::Set(order, reply) => {
                let result = projects::set(on, &order.0, &order.1).await;
                tried(on, file, reply, result).await
            }
            Self::Remove(order, reply) => {
                let result = projects::remove(on, &order).await;
                tried(on, file, reply, result).await
            }
            Self::Check(reply) => {
                let result = check(on).await;
                tried(on, file, reply, result).await
            }
            // These two were sorted out before.
            Self::Prune(sweep) => tried(on, file, sweep.reply, Ok(Pruned::default())).await,
            Self::Close(reply) => tried(on, file, reply, Ok(())).await,
        }
    }

    fn fail(self, told: StoreError) {
        match self {
            Self::Admit(_, reply) => drop(reply.send(Err(told))),
            Self::Apply(_, reply) => drop(reply.send(Err(told))),
            Self::Create(_, reply) => drop(reply.send(Err(told))),
            Self::Set(_, reply) => drop(reply.send(Err(told))),
            Self::Remove(_, reply) => drop(reply.send(Err(told))),
            Self::Check(reply) | Self::Close(reply) => drop(reply.send(Err(told))),
            Self::Prune(sweep) => drop(sweep.reply.send(Err(told))),
        }
    }
}

async fn tried<T: Send + 'static>(
    on: &mut SqliteConnection,
    file: &Path,
    reply: Reply<T>,
    result: Result<T, Fail>,
) -> Tried {
    let (result, fault) = match result {
        Ok(value) => (Ok(value), None),
        Err(Fail::Sql(error)) if !fault::is_rule(&error) => {
            (Err(unavailable(file, &error)), Some(error))
        }
        Err(fail) => (Err(fail.told(file)), undo(on).await.err()),
    };
    let answer = move |lost: Option<&StoreError>| {
        let _ = reply.send(match lost {
            Some(told) => Err(told.clone()),
            None => result,
        });
    };
    Tried(Box::new(answer), fault)
}

/// A write that nobody sees: a number nobody reads goes up.
async fn check(connection: &mut SqliteConnection) -> Result<(), Fail> {
    sqlx::query("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'checks'")
        .execute(connection)
        .await?;
    Ok(())
}
