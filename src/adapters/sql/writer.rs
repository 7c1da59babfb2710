//! The one task that writes, and its group commit.
//!
//! It takes everything that is waiting, does it in one transaction, each request in a savepoint of
//! its own so that a refusal spoils nothing, commits, and only then answers. While it does so the
//! next requests collect. If the transaction cannot be committed, nothing of it has happened and
//! everybody in it is told why; the next one starts afresh, on a new connection where the old one
//! may be broken.

use super::denials::Denials;
use super::fail::Fail;
use super::link::Link;
use super::prune::Sweep;
use super::readers::Readers;
use super::{Base, Work, admit, apply};
use crate::crash;
use crate::domain::kinds;
use crate::domain::runner::Change;
use crate::ports::{Admitted, Applied, NewRunner, Pruned, StoreError};
use async_trait::async_trait;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The most requests in one transaction.
const BATCH_MAX: usize = 256;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the writer.
#[derive(Debug)]
pub(super) enum Job {
    Admit(Ask<Box<NewRunner>, Admitted>),
    Apply(Ask<Box<Change>, Applied>),
    Work(Box<dyn Task>),
    Prune(Sweep),
    Close(Reply<()>),
}

/// What is asked, and its answer: held back until its transaction is committed or lost.
#[derive(Debug)]
pub(super) struct Ask<Q, T> {
    what: Q,
    reply: Reply<T>,
    answer: Option<Result<T, StoreError>>,
}

impl<Q, T> Ask<Q, T> {
    pub(super) fn new(what: Q, reply: Reply<T>) -> Self {
        Self {
            what,
            reply,
            answer: None,
        }
    }

    /// Keeps the answer; an error is a fault that ends the whole transaction.
    fn keep(&mut self, base: &dyn Base, result: Result<T, Fail>) -> Result<(), sqlx::Error> {
        match result {
            Err(Fail::Sql(error)) if !base.is_rule(&error) => Err(error),
            result => {
                self.answer = Some(result.map_err(|fail| fail.told(base)));
                Ok(())
            }
        }
    }

    fn send(self, lost: Option<&StoreError>) {
        let answer = match (lost, self.answer) {
            (None, Some(answer)) => answer,
            (Some(told), _) => Err(told.clone()),
            (None, None) => Err(StoreError::Unavailable("it was not asked".to_owned())),
        };
        let _ = self.reply.send(answer);
    }
}

/// An [`Ask`] of any [`Work`].
#[async_trait]
pub(super) trait Task: std::fmt::Debug + Send {
    /// Tries it inside the transaction. A refusal leaves nothing behind; an error ends the transaction.
    async fn attempt(&mut self, on: &mut Link, base: &dyn Base) -> Result<(), sqlx::Error>;
    fn send(self: Box<Self>, lost: Option<&StoreError>);
}

#[async_trait]
impl<W: Work> Task for Ask<W, W::Done> {
    async fn attempt(&mut self, on: &mut Link, base: &dyn Base) -> Result<(), sqlx::Error> {
        savepoint(on).await?;
        let result = self.what.run(on).await;
        let refused = result.is_err();
        self.keep(base, result)?;
        match refused {
            true => undo(on).await,
            false => release(on).await,
        }
    }

    fn send(self: Box<Self>, lost: Option<&StoreError>) {
        Ask::send(*self, lost);
    }
}

impl Job {
    async fn attempt(
        &mut self,
        on: &mut Link,
        denials: &mut Denials,
        base: &dyn Base,
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::Admit(ask) => {
                let result = admit::admit(on, base, denials, &ask.what).await;
                ask.keep(base, result)
            }
            Self::Apply(ask) => {
                let result = apply::apply(on, &ask.what).await;
                ask.keep(base, result)
            }
            Self::Work(task) => task.attempt(on, base).await,
            // These two were sorted out before.
            Self::Prune(_) | Self::Close(_) => Ok(()),
        }
    }

    fn send(self, lost: Option<&StoreError>) {
        match self {
            Self::Admit(ask) => ask.send(lost),
            Self::Apply(ask) => ask.send(lost),
            Self::Work(task) => task.send(lost),
            Self::Prune(sweep) => sweep.stop(),
            Self::Close(reply) => drop(reply.send(Ok(()))),
        }
    }
}

pub(super) struct Writer {
    base: Arc<dyn Base>,
    link: Option<Link>,
    readers: Arc<Readers>,
    denials: Denials,
    sweeps: VecDeque<Sweep>,
    closing: Vec<Reply<()>>,
    /// The last transaction was lost, and that was said.
    failing: bool,
}

impl Writer {
    pub(super) fn new(base: Arc<dyn Base>, link: Link, readers: Arc<Readers>) -> Self {
        Self {
            base,
            link: Some(link),
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
        if let Some(mut link) = self.link.take() {
            self.base.last(&mut link).await;
            link.close().await;
        }
        for reply in self.closing {
            let _ = reply.send(Ok(()));
        }
    }

    async fn commit(&mut self, batch: &mut Vec<Job>) {
        let mut jobs = Vec::with_capacity(batch.len());
        for job in batch.drain(..) {
            match job {
                Job::Prune(sweep) => self.sweeps.push_back(sweep),
                Job::Close(reply) => self.closing.push(reply),
                job => jobs.push(job),
            }
        }
        if jobs.is_empty() {
            return;
        }
        match self.transaction(&mut jobs).await {
            Ok(()) => jobs.into_iter().for_each(|job| job.send(None)),
            Err(error) => {
                let told = self.recover(&error).await;
                jobs.into_iter().for_each(|job| job.send(Some(&told)));
            }
        }
    }

    async fn transaction(&mut self, jobs: &mut [Job]) -> Result<(), sqlx::Error> {
        let link = connected(&mut self.link, &*self.base).await?;
        link.say(self.base.begin()).await?;
        for job in jobs {
            job.attempt(link, &mut self.denials, &*self.base).await?;
        }
        crash::point("store.before-commit");
        link.say("COMMIT").await?;
        crash::point("store.after-commit");
        self.failing = false;
        Ok(())
    }

    /// After a fault: everything since BEGIN is undone, and the connection renewed if in doubt.
    async fn recover(&mut self, error: &sqlx::Error) -> StoreError {
        self.denials.forget();
        if let Some(mut link) = self.link.take() {
            // The database may have rolled back by itself; then this is an error that says so.
            let _ = link.say("ROLLBACK").await;
            if self.base.is_passing(error) {
                self.link = Some(link);
            } else {
                link.close().await;
            }
        }
        let told = self.base.told(error);
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
                if let Some(link) = &mut self.link {
                    let _ = link.say("ROLLBACK").await;
                }
                let _ = sweep.reply.send(Err(fail.told(&*self.base)));
            }
        }
    }

    async fn sweep_slice(&mut self, sweep: &mut Sweep) -> Result<Option<Pruned>, Fail> {
        let link = connected(&mut self.link, &*self.base).await?;
        link.say(self.base.begin()).await?;
        let done = sweep.slice(link).await?;
        link.say("COMMIT").await?;
        if done.is_some() {
            self.base.pruned(link).await?;
        }
        Ok(done)
    }
}

async fn connected<'a>(
    slot: &'a mut Option<Link>,
    base: &dyn Base,
) -> Result<&'a mut Link, sqlx::Error> {
    let link = match slot.take() {
        Some(link) => link,
        None => base.again().await?,
    };
    Ok(slot.insert(link))
}

/// Begins what one request writes.
pub(super) async fn savepoint(on: &mut Link) -> Result<(), sqlx::Error> {
    on.say("SAVEPOINT op").await
}

/// Ends it.
pub(super) async fn release(on: &mut Link) -> Result<(), sqlx::Error> {
    on.say("RELEASE op").await
}

/// Takes back what one request has written.
pub(super) async fn undo(on: &mut Link) -> Result<(), sqlx::Error> {
    on.say("ROLLBACK TO op; RELEASE op").await
}

/// A write that nobody sees: a number nobody reads goes up.
#[derive(Debug)]
pub(super) struct Check;

#[async_trait]
impl Work for Check {
    type Done = ();

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        let up =
            "UPDATE meta SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) WHERE key = 'checks'";
        on.run(up, vec![]).await.map(drop)
    }
}
