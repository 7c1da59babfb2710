//! The one task that writes, and its group commit.
//!
//! It takes everything that is waiting, does it in one transaction, commits, and only then answers.
//! While it does so the next requests collect. If a rule of the schema stops one of several, or another
//! host holds what one of them needs, each is done again in a transaction of its own, so that one
//! spoils nobody else's. If the transaction cannot be committed, nothing of it has happened and
//! everybody in it is told why; the next one starts afresh, on a new connection where the old one may
//! be broken. What takes long one by one is done in several transactions.
//!
//! Over a network the answer to COMMIT itself can be lost. Then the database is asked what became of
//! it before anything else is done. Who can't wait for that is told that the store is away; a launch
//! that turns out to have been admitted all the same is ended, since nobody will start it ([`doubt`]),
//! and a step that is taken again is recognized ([`super::apply`]).
//!
//! A connection that has not answered in time is dropped: nothing is ever sent over it again.

mod doubt;
mod sweeping;

use super::chain::Chain;
use super::denials::Denials;
use super::fail::Fail;
use super::jobs::{self, Job, Reply};
use super::link::Link;
use super::locks::Locks;
use super::prune::{self, Sweep};
use super::readers::Readers;
use super::{Base, cap, publisher, within};
use crate::crash;
use crate::domain::kinds;
use crate::ports::{self, StoreError};
use doubt::Doubt;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// The most requests in one transaction.
const BATCH_MAX: usize = 256;
/// What fails within this is tried once more where a connection may be lost.
const QUICK: Duration = Duration::from_secs(1);
/// How long requests are done one by one before those that are left are told why.
const ALONE_MAX: Duration = Duration::from_secs(4);

/// Which host writes, in which epoch; nobody knows before it has joined.
pub(super) type Identity = Arc<RwLock<Option<ports::Writer>>>;

/// What the relay has to do with the writer.
pub(super) struct Outlet {
    /// Whether events of this host are to be published.
    pub(super) publishes: Arc<AtomicBool>,
    /// Something was committed.
    pub(super) wrote: Arc<Notify>,
}

pub(super) struct Writer {
    base: Arc<dyn Base>,
    link: Option<Link>,
    readers: Arc<Readers>,
    identity: Identity,
    denials: Denials,
    /// What is done is written down in the same transaction.
    chain: Chain,
    sweeps: VecDeque<Sweep>,
    /// Where the last pruning ended.
    swept: prune::Place,
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
    outlet: Outlet,
}

/// Takes what is there, and lets those run who were answered with the last transaction: as long as one more
/// of them asks again, they are worth waiting for, as each transaction costs the same whoever is in it.
async fn collect(jobs: &mut mpsc::Receiver<Job>, batch: &mut Vec<Job>) {
    loop {
        tokio::task::yield_now().await;
        let before = batch.len();
        while batch.len() < BATCH_MAX
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        if batch.len() == before {
            return;
        }
    }
}

impl Writer {
    pub(super) fn new(
        base: Arc<dyn Base>,
        link: Link,
        readers: Arc<Readers>,
        identity: Identity,
        chain: Chain,
        written: Arc<AtomicU64>,
        outlet: Outlet,
    ) -> Self {
        Self {
            base,
            link: Some(link),
            readers,
            identity,
            denials: Denials::default(),
            chain,
            sweeps: VecDeque::new(),
            swept: prune::Place::default(),
            closing: Vec::new(),
            batch: 0,
            doubt: None,
            failing: false,
            slow: false,
            written,
            outlet,
        }
    }

    /// Works until the store is closed or nobody is left to ask for anything.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            if self.sweeps.is_empty()
                && batch.is_empty()
                && jobs.recv_many(&mut batch, BATCH_MAX).await == 0
            {
                break;
            }
            collect(&mut jobs, &mut batch).await;
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
        let begin = self.base.begin();
        let mut done = self.transaction(&mut jobs, begin).await;
        if let Err(error) = &done
            && self.base.limit().is_some()
            && !self.base.is_passing(error)
            && self.doubt.is_none()
            && begun.elapsed() < QUICK
        {
            // Nothing was done, and the connection alone was lost: a server was restarted, another took over.
            done = self.transaction(&mut jobs, begin).await;
        }
        self.slow = done.is_err() && begun.elapsed() >= QUICK;
        match done {
            Ok(()) => {
                for job in jobs {
                    match job.is_answered() {
                        true => job.send(None),
                        // There was no time for it.
                        false => batch.push(job),
                    }
                }
            }
            Err(error)
                if self.base.is_clash(&error) || (jobs.len() > 1 && self.is_of_one(&error)) =>
            {
                self.one_by_one(jobs, batch).await;
            }
            Err(error) => {
                let told = self.lost(&error);
                jobs.into_iter().for_each(|job| job.send(Some(&told)));
            }
        }
    }

    /// Whether it may be the fault of one request alone.
    fn is_of_one(&self, error: &sqlx::Error) -> bool {
        self.base.is_rule(error) || self.base.is_held(error)
    }

    /// Each in a transaction of its own. When the store goes away, or others hold too much for too long,
    /// those that are left are told why; when it just takes long, they are tried together again.
    async fn one_by_one(&mut self, jobs: Vec<Job>, left: &mut Vec<Job>) {
        let begun = Instant::now();
        let begin = self.base.begin_alone();
        let mut away: Option<StoreError> = None;
        let mut held: HashMap<String, StoreError> = HashMap::new();
        for job in jobs {
            let needs = job.needs();
            if let Some(told) = away.as_ref().or_else(|| held.get(&needs)) {
                job.send(Some(told));
                continue;
            }
            if begun.elapsed() > ALONE_MAX {
                left.push(job);
                continue;
            }
            let mut alone = [job];
            let mut done = self.transaction(&mut alone, begin).await;
            if done.as_ref().is_err_and(|error| self.base.is_clash(error)) {
                done = self.transaction(&mut alone, begin).await;
            }
            let told = done.err().map(|error| {
                let told = self.lost(&error);
                if !self.is_of_one(&error) || begun.elapsed() > ALONE_MAX {
                    away = Some(told.clone());
                } else if self.base.is_held(&error) {
                    held.insert(needs, told.clone());
                }
                told
            });
            let [job] = alone;
            job.send(told.as_ref());
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

    /// All of them or none; but see [`Job::is_answered`].
    async fn transaction(
        &mut self,
        jobs: &mut [Job],
        begin: &'static str,
    ) -> Result<(), sqlx::Error> {
        self.settle().await?;
        let mut hopeful = true;
        let mut link = loop {
            let done = self.done(jobs, begin, std::mem::replace(&mut hopeful, false));
            if let Some(link) = done.await? {
                break link;
            }
            // Others have taken the fleet's last slots meanwhile.
        };
        let limit = self.base.limit();
        let written = link.next_position();
        crash::point("store.before-commit");
        if let Err(error) = within(limit, link.say("COMMIT")).await {
            self.give_up(link, &error).await;
            if self.base.doubts_commit() {
                let admitted = jobs.iter().flat_map(Job::admitted);
                self.doubt = Some(Doubt::new(self.batch, admitted));
                // If that can be found out at once, it was just a slow COMMIT.
                if self.was_committed().await? == Some(true) {
                    self.doubt = None;
                    self.failing = false;
                    self.committed(written);
                    return Ok(());
                }
                self.doubt = None;
            }
            return Err(error);
        }
        crash::point("store.after-commit");
        self.chain.committed();
        self.committed(written);
        self.link = Some(link);
        self.failing = false;
        Ok(())
    }

    /// Everything but the COMMIT. `None` if the fleet's cap, which is looked at last where one is `hopeful`, does not
    /// hold: then nothing has happened.
    async fn done(
        &mut self,
        jobs: &mut [Job],
        begin: &'static str,
        hopeful: bool,
    ) -> Result<Option<Link>, sqlx::Error> {
        let mut locks = Locks::default();
        jobs.iter().for_each(|job| job.locks(&mut locks));
        let mut link = self.begin(&locks, begin).await?;
        let limit = self.base.limit();
        let identity = self
            .identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (base, denials, chain) = (&*self.base, &mut self.denials, &mut self.chain);
        let work = async {
            let mut late = false;
            if locks.admits {
                let launches = (hopeful && jobs.iter().all(Job::is_plain)).then_some(jobs.len());
                late = cap::lock(&mut link, launches).await.map_err(Fail::fault)?;
            }
            if late {
                denials.remember();
            }
            jobs::attempt(&mut link, base, identity.as_ref(), denials, jobs).await?;
            chain.append(&mut link).await.map_err(Fail::fault)?;
            late &= jobs.iter().any(|job| !job.admitted().is_empty());
            if late && !cap::holds(&mut link).await.map_err(Fail::fault)? {
                link.say("ROLLBACK").await?;
                return Ok(false);
            }
            Ok(true)
        };
        match within(limit, work).await {
            Ok(true) => Ok(Some(link)),
            Ok(false) => {
                self.denials.take_back();
                self.chain.lost();
                self.link = Some(link);
                Ok(None)
            }
            Err(error) => {
                self.give_up(link, &error).await;
                Err(error)
            }
        }
    }

    /// Events before this position are there.
    fn committed(&self, written: u64) {
        self.written.store(written, Ordering::Release);
        self.outlet.wrote.notify_one();
    }

    /// A connection with a transaction begun and everything locked.
    async fn begin(&mut self, locks: &Locks, begin: &'static str) -> Result<Link, sqlx::Error> {
        let limit = self.base.limit();
        let kept = self.link.take();
        let was_kept = kept.is_some();
        let mut link = match kept {
            Some(link) => link,
            None => self.reopen().await?,
        };
        if let Err(error) = within(limit, link.say(begin)).await {
            self.give_up(link, &error).await;
            // It may have died while nobody asked for anything.
            link = match self.link.take() {
                None if was_kept => self.reopen().await?,
                kept => {
                    self.link = kept;
                    return Err(error);
                }
            };
            within(limit, link.say(begin)).await?;
        }
        self.batch += 1;
        link.collect_notes(self.chain.is_kept());
        let publisher = match self.outlet.publishes.load(Ordering::Acquire) {
            true => {
                let identity = self.identity.read();
                publisher(identity.unwrap_or_else(PoisonError::into_inner).as_ref())
            }
            false => String::new(),
        };
        let entered = async {
            self.base
                .enter(&mut link, locks, self.batch, &publisher)
                .await
                .map_err(Fail::fault)
        };
        match within(limit, entered).await {
            Ok(()) => Ok(link),
            Err(error) => {
                self.give_up(link, &error).await;
                Err(error)
            }
        }
    }

    /// A new connection. Those for reading may be on a server that was the right one before.
    async fn reopen(&mut self) -> Result<Link, sqlx::Error> {
        let link = self.base.again().await?;
        self.readers.renew();
        Ok(link)
    }

    /// After a fault: everything since BEGIN is undone, and the connection given up if in doubt.
    async fn give_up(&mut self, mut link: Link, error: &sqlx::Error) {
        self.denials.forget();
        self.chain.lost();
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
}
