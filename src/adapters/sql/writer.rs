//! The one task that writes, and its group commit.
//!
//! It takes everything that is waiting, does it in one transaction, commits, and only then answers.
//! While it does so the next requests collect. If a rule of the schema stops one of several, each is
//! done again in a transaction of its own, so that one spoils nobody else's. If the transaction cannot
//! be committed, nothing of it has happened and everybody in it is told why; the next one starts
//! afresh, on a new connection where the old one may be broken.
//!
//! Over a network the answer to COMMIT itself can be lost. Then the database is asked what became of
//! it before anything else is done. Who can't wait for that is told that the store is away; a launch
//! that turns out to have been admitted all the same is ended, since nobody will start it, and a step
//! that is taken again is recognized ([`super::apply`]).
//!
//! A connection that has not answered in time is dropped: nothing is ever sent over it again.

use super::denials::Denials;
use super::fail::Fail;
use super::jobs::{self, Job, Reply};
use super::link::Link;
use super::locks::Locks;
use super::prune::Sweep;
use super::readers::Readers;
use super::{Base, apply, within};
use crate::crash;
use crate::domain::event::Actor;
use crate::domain::exit::{Cause, Exit, Usage};
use crate::domain::kinds;
use crate::domain::runner::{Change, Step};
use crate::ports::{self, Pruned, StoreError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The most requests in one transaction.
const BATCH_MAX: usize = 256;
/// What fails within this is tried once more where a connection may be lost.
const QUICK: Duration = Duration::from_secs(1);

/// Which host writes, in which epoch; nobody knows before it has joined.
pub(super) type Identity = Arc<RwLock<Option<ports::Writer>>>;

/// A transaction of which nobody knows whether it was committed.
#[derive(Debug)]
struct Doubt {
    batch: u64,
    /// What is to be ended if it was.
    admitted: Vec<Change>,
}

pub(super) struct Writer {
    base: Arc<dyn Base>,
    link: Option<Link>,
    readers: Arc<Readers>,
    identity: Identity,
    denials: Denials,
    sweeps: VecDeque<Sweep>,
    closing: Vec<Reply<()>>,
    /// Transactions so far.
    batch: u64,
    doubt: Option<Doubt>,
    /// The last transaction was lost, and that was said.
    failing: bool,
    /// And that took its time.
    slow: bool,
    /// Before this position are the events of all transactions so far.
    written: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn new(
        base: Arc<dyn Base>,
        link: Link,
        readers: Arc<Readers>,
        identity: Identity,
        written: Arc<AtomicU64>,
    ) -> Self {
        Self {
            base,
            link: Some(link),
            readers,
            identity,
            denials: Denials::default(),
            sweeps: VecDeque::new(),
            closing: Vec::new(),
            batch: 0,
            doubt: None,
            failing: false,
            slow: false,
            written,
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
            if self.slow && self.link.is_none() {
                // Who waited while it took its time to fail need not wait as long again.
                while let Ok(job) = jobs.try_recv() {
                    batch.push(job);
                }
                self.refuse(&mut batch);
            }
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

    /// Sorts out what is no request of its own transaction.
    fn sorted(&mut self, batch: &mut Vec<Job>) -> Vec<Job> {
        let mut jobs = Vec::with_capacity(batch.len());
        for job in batch.drain(..) {
            match job {
                Job::Prune(sweep) => self.sweeps.push_back(sweep),
                Job::Close(reply) => self.closing.push(reply),
                job => jobs.push(job),
            }
        }
        jobs
    }

    fn refuse(&mut self, batch: &mut Vec<Job>) {
        let told = StoreError::Unavailable(format!(
            "{}: the last attempt to write failed just now",
            self.base.place()
        ));
        for job in self.sorted(batch) {
            job.send(Some(&told));
        }
    }

    async fn commit(&mut self, batch: &mut Vec<Job>) {
        let mut jobs = self.sorted(batch);
        if jobs.is_empty() {
            return;
        }
        let begun = Instant::now();
        let mut done = self.transaction(&mut jobs).await;
        if let Err(error) = &done
            && self.base.limit().is_some()
            && !self.base.is_passing(error)
            && self.doubt.is_none()
            && begun.elapsed() < QUICK
        {
            // Nothing was done, and the connection alone was lost: a server was restarted, another took over.
            done = self.transaction(&mut jobs).await;
        }
        self.slow = done.is_err() && begun.elapsed() >= QUICK;
        match done {
            Err(error) if jobs.len() > 1 && self.base.is_rule(&error) => {
                for job in jobs {
                    let mut alone = vec![job];
                    let done = self.transaction(&mut alone).await;
                    self.answer(alone, done);
                }
            }
            done => self.answer(jobs, done),
        }
    }

    fn answer(&mut self, jobs: Vec<Job>, done: Result<(), sqlx::Error>) {
        let lost = done.err().map(|error| self.lost(&error));
        for job in jobs {
            job.send(lost.as_ref());
        }
    }

    /// Why a transaction was lost; in the journal once until one works again.
    fn lost(&mut self, error: &sqlx::Error) -> StoreError {
        let told = self.base.told(error);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(message_id = kinds::STORE_FAULT.id, error = %told, "A transaction was lost; more such lines only after one that works");
        }
        told
    }

    /// All of them or none.
    async fn transaction(&mut self, jobs: &mut [Job]) -> Result<(), sqlx::Error> {
        self.settle().await?;
        let mut locks = Locks::default();
        jobs.iter().for_each(|job| job.locks(&mut locks));
        let mut link = self.begin(&locks).await?;
        let limit = self.base.limit();
        let identity = self
            .identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let work = jobs::attempt(
            &mut link,
            &*self.base,
            identity.as_ref(),
            &mut self.denials,
            jobs,
        );
        if let Err(error) = within(limit, work).await {
            self.give_up(link, &error).await;
            return Err(error);
        }
        let written = link.next_position();
        crash::point("store.before-commit");
        if let Err(error) = within(limit, link.say("COMMIT")).await {
            let admitted = jobs.iter().filter_map(Job::admitted).map(|new| Change {
                id: new.id,
                step: Step::End(unstarted(), Usage::default()),
                actor: Actor::host(),
                at: new.at,
            });
            let admitted = admitted.collect();
            self.give_up(link, &error).await;
            if self.base.doubts_commit() {
                self.doubt = Some(Doubt {
                    batch: self.batch,
                    admitted,
                });
                // If that can be found out at once, it was just a slow COMMIT.
                if self.was_committed().await? {
                    self.doubt = None;
                    self.failing = false;
                    self.written.store(written, Ordering::Release);
                    return Ok(());
                }
                self.doubt = None;
            }
            return Err(error);
        }
        crash::point("store.after-commit");
        self.written.store(written, Ordering::Release);
        self.link = Some(link);
        self.failing = false;
        Ok(())
    }

    /// A connection with a transaction begun and everything locked.
    async fn begin(&mut self, locks: &Locks) -> Result<Link, sqlx::Error> {
        let limit = self.base.limit();
        let kept = self.link.take();
        let was_kept = kept.is_some();
        let mut link = match kept {
            Some(link) => link,
            None => self.base.again().await?,
        };
        if let Err(error) = within(limit, link.say(self.base.begin())).await {
            self.give_up(link, &error).await;
            // It may have died while nobody asked for anything.
            link = match self.link.take() {
                None if was_kept => self.base.again().await?,
                kept => {
                    self.link = kept;
                    return Err(error);
                }
            };
            within(limit, link.say(self.base.begin())).await?;
        }
        self.batch += 1;
        let entered = async {
            self.base
                .enter(&mut link, locks, self.batch)
                .await
                .map_err(sql)
        };
        match within(limit, entered).await {
            Ok(()) => Ok(link),
            Err(error) => {
                self.give_up(link, &error).await;
                Err(error)
            }
        }
    }

    /// After a fault: everything since BEGIN is undone, and the connection given up if in doubt.
    async fn give_up(&mut self, mut link: Link, error: &sqlx::Error) {
        self.denials.forget();
        if error.as_database_error().is_none() {
            // It has not answered, or not sensibly: not another word.
            return;
        }
        // The database may have rolled back by itself; then this is an error that says so.
        let limit = self.base.limit();
        let undone = within(limit, link.say("ROLLBACK")).await;
        if self.base.is_passing(error) && (undone.is_ok() || !self.base.doubts_commit()) {
            self.link = Some(link);
        } else {
            let _ = within(limit, async {
                link.close().await;
                Ok(())
            })
            .await;
        }
    }

    /// Whether the transaction in doubt was committed.
    async fn was_committed(&mut self) -> Result<bool, sqlx::Error> {
        let Some(doubt) = &self.doubt else {
            return Ok(false);
        };
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.base.again().await?,
        };
        let asked = async { self.base.committed(&mut link).await.map_err(sql) };
        match within(self.base.limit(), asked).await {
            Ok(last) => {
                self.link = Some(link);
                Ok(last >= doubt.batch)
            }
            Err(error) => {
                self.give_up(link, &error).await;
                Err(error)
            }
        }
    }

    /// Finds out about a transaction in doubt whose callers have been sent away, before the next one.
    async fn settle(&mut self) -> Result<(), sqlx::Error> {
        if self.doubt.is_none() {
            return Ok(());
        }
        let committed = self.was_committed().await?;
        let Some(Doubt { admitted, .. }) = self.doubt.take() else {
            return Ok(());
        };
        if !committed || admitted.is_empty() {
            return Ok(());
        }
        let mut locks = Locks::default();
        admitted.iter().for_each(|change| locks.runner(change.id));
        let limit = self.base.limit();
        let ended = async {
            let mut link = self.begin(&locks).await?;
            let changes: Vec<&Change> = admitted.iter().collect();
            // One that somebody else has ended meanwhile is refused, and that is right.
            let steps = async { apply::apply_all(&mut link, &changes).await.map_err(sql) };
            let done = match within(limit, steps).await {
                Ok(_) => within(limit, link.say("COMMIT")).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => self.link = Some(link),
                Err(ref error) => self.give_up(link, error).await,
            }
            done
        }
        .await;
        if ended.is_err() {
            // Ended twice is ended once.
            self.doubt = Some(Doubt { batch: 0, admitted });
        }
        ended
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
            Err(error) => {
                let told = self.lost(&error);
                let _ = sweep.reply.send(Err(told));
            }
        }
    }

    async fn sweep_slice(&mut self, sweep: &mut Sweep) -> Result<Option<Pruned>, sqlx::Error> {
        self.settle().await?;
        let mut link = self.begin(&Locks::default()).await?;
        let limit = self.base.limit();
        let work = async {
            let done = sweep.slice(&mut link).await.map_err(sql)?;
            link.say("COMMIT").await?;
            if done.is_some() {
                self.base.pruned(&mut link).await.map_err(sql)?;
            }
            Ok(done)
        };
        match within(limit, work).await {
            Ok(done) => {
                self.link = Some(link);
                self.failing = false;
                Ok(done)
            }
            Err(error) => {
                self.give_up(link, &error).await;
                Err(error)
            }
        }
    }
}

/// A fault of the whole transaction, whatever it was.
fn sql(fail: Fail) -> sqlx::Error {
    fail.fault()
}

fn unstarted() -> Exit {
    Exit {
        cause: Cause::LaunchFailed,
        code: None,
        signal: None,
        message: "The store went away while it admitted the runner; nothing ran.".to_owned(),
    }
}
