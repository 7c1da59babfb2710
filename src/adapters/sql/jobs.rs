//! What is handed to the writer, and the answers it holds back until they are true.

use super::denials::Denials;
use super::fail::Fail;
use super::ledger::Concern;
use super::link::Link;
use super::locks::Locks;
use super::prune::Sweep;
use super::{Base, Work, admit, apply, hosts};
use crate::domain::runner::Change;
use crate::domain::{RunnerId, Timestamp};
use crate::ports::{self, Admitted, Applied, NewRunner, StoreError};
use async_trait::async_trait;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long requests are done one after the other in one transaction.
const WORKS_MAX: Duration = Duration::from_secs(1);

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
    fn locks(&self, locks: &mut Locks);
    fn of_any_epoch(&self) -> bool;
    fn refuse(&mut self, error: StoreError);
    fn is_answered(&self) -> bool;
    fn forget_answer(&mut self);
    /// See [`Work::admitted`].
    fn admitted(&self) -> Vec<(RunnerId, Timestamp)>;
    /// Tries it inside the transaction. A refusal leaves nothing behind; an error ends the transaction.
    async fn attempt(&mut self, on: &mut Link, base: &dyn Base) -> Result<(), sqlx::Error>;
    fn send(self: Box<Self>, lost: Option<&StoreError>);
}

#[async_trait]
impl<W: Work> Task for Ask<W, W::Done> {
    fn locks(&self, locks: &mut Locks) {
        self.what.locks(locks);
    }

    fn of_any_epoch(&self) -> bool {
        self.what.of_any_epoch()
    }

    fn refuse(&mut self, error: StoreError) {
        self.answer = Some(Err(error));
    }

    fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    fn forget_answer(&mut self) {
        self.answer = None;
    }

    fn admitted(&self) -> Vec<(RunnerId, Timestamp)> {
        match &self.answer {
            Some(Ok(done)) => W::admitted(done),
            _ => Vec::new(),
        }
    }

    async fn attempt(&mut self, on: &mut Link, base: &dyn Base) -> Result<(), sqlx::Error> {
        savepoint(on).await?;
        let noted = on.noted();
        let result = self.what.run(on).await;
        let refused = result.is_err();
        self.keep(base, result)?;
        match refused {
            true => {
                on.unnote(noted);
                undo(on).await
            }
            false => release(on).await,
        }
    }

    fn send(self: Box<Self>, lost: Option<&StoreError>) {
        Ask::send(*self, lost);
    }
}

impl Job {
    pub(super) fn locks(&self, locks: &mut Locks) {
        match self {
            Self::Admit(ask) => {
                let mut concern = Concern::default();
                concern.add(&ask.what.spec, &ask.what.host, None);
                locks.concern(&concern);
            }
            Self::Apply(ask) => locks.runner(ask.what.id),
            Self::Work(task) => task.locks(locks),
            Self::Prune(_) | Self::Close(_) => {}
        }
    }

    /// A launch that writes no row which another project's may want to write, too: see [`super::cap`].
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::Admit(ask) => {
                let new = &*ask.what;
                new.order.is_none() && new.request.is_none() && new.spec.session.is_none()
            }
            _ => false,
        }
    }

    /// Whether it is done for a host whose epoch is over, too.
    fn of_any_epoch(&self) -> bool {
        match self {
            Self::Work(task) => task.of_any_epoch(),
            Self::Admit(_) | Self::Apply(_) | Self::Prune(_) | Self::Close(_) => false,
        }
    }

    /// Answers later, without having been tried.
    fn refuse(&mut self, error: StoreError) {
        match self {
            Self::Admit(ask) => ask.answer = Some(Err(error)),
            Self::Apply(ask) => ask.answer = Some(Err(error)),
            Self::Work(task) => task.refuse(error),
            Self::Prune(_) | Self::Close(_) => {}
        }
    }

    /// What it needs, told apart from what others need.
    pub(super) fn needs(&self) -> String {
        let mut locks = Locks::default();
        self.locks(&mut locks);
        format!("{locks:?}")
    }

    /// Whether it was tried: one that is not has to be done in a later transaction.
    pub(super) fn is_answered(&self) -> bool {
        match self {
            Self::Admit(ask) => ask.answer.is_some(),
            Self::Apply(ask) => ask.answer.is_some(),
            Self::Work(task) => task.is_answered(),
            Self::Prune(_) | Self::Close(_) => true,
        }
    }

    fn forget_answer(&mut self) {
        match self {
            Self::Admit(ask) => ask.answer = None,
            Self::Apply(ask) => ask.answer = None,
            Self::Work(task) => task.forget_answer(),
            Self::Prune(_) | Self::Close(_) => {}
        }
    }

    /// The runners it has admitted or queued, and when: whoever asked goes on with them.
    pub(super) fn admitted(&self) -> Vec<(RunnerId, Timestamp)> {
        match self {
            Self::Admit(ask) => match ask.answer {
                Some(Ok(Admitted::New { .. } | Admitted::Queued { .. })) => {
                    vec![(ask.what.id, ask.what.at)]
                }
                _ => Vec::new(),
            },
            Self::Work(task) => task.admitted(),
            Self::Apply(_) | Self::Prune(_) | Self::Close(_) => Vec::new(),
        }
    }

    /// Answers: with what was held back, or with why it was lost.
    pub(super) fn send(self, lost: Option<&StoreError>) {
        match self {
            Self::Admit(ask) => ask.send(lost),
            Self::Apply(ask) => ask.send(lost),
            Self::Work(task) => task.send(lost),
            Self::Prune(sweep) => match lost {
                Some(told) => drop(sweep.reply.send(Err(told.clone()))),
                None => sweep.stop(),
            },
            Self::Close(reply) => drop(reply.send(Ok(()))),
        }
    }
}

/// Does all of them, those of a kind together. An error is a fault or a rule that fired for one of
/// them: it ends the transaction. Those done one by one are left for a later one when it takes long:
/// others wait for the locks.
pub(super) async fn attempt(
    on: &mut Link,
    base: &dyn Base,
    writer: Option<&ports::Writer>,
    denials: &mut Denials,
    jobs: &mut [Job],
) -> Result<(), sqlx::Error> {
    let fenced = match writer {
        Some(writer) => !hosts::is_current(on, writer).await.map_err(Fail::fault)?,
        None => false,
    };
    let (mut changes, mut launches) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    let mut works = 0;
    for job in jobs {
        job.forget_answer();
        match job {
            job if fenced && !job.of_any_epoch() => job.refuse(StoreError::Fenced),
            Job::Admit(ask) => launches.push(ask),
            Job::Apply(ask) => changes.push(ask),
            Job::Work(_) if works > 0 && begun.elapsed() > WORKS_MAX => {}
            Job::Work(task) => {
                works += 1;
                task.attempt(on, base).await?;
            }
            // These two were sorted out before.
            Job::Prune(_) | Job::Close(_) => {}
        }
    }
    if !changes.is_empty() {
        let asked: Vec<_> = changes.iter().map(|ask| &*ask.what).collect();
        let done = apply::apply_all(on, &asked).await;
        keep_all(base, changes, done)?;
    }
    if !launches.is_empty() {
        let asked: Vec<_> = launches.iter().map(|ask| &*ask.what).collect();
        let done = admit::admit_all(on, denials, &asked).await;
        keep_all(base, launches, done)?;
    }
    Ok(())
}

fn keep_all<Q, T>(
    base: &dyn Base,
    asks: Vec<&mut Ask<Q, T>>,
    done: Result<Vec<Result<T, Fail>>, Fail>,
) -> Result<(), sqlx::Error> {
    match done {
        Ok(done) => asks
            .into_iter()
            .zip(done)
            .try_for_each(|(ask, result)| ask.keep(base, result)),
        // Some of them may be written already.
        Err(fail) => Err(fail.fault()),
    }
}

/// Begins what one request writes.
async fn savepoint(on: &mut Link) -> Result<(), sqlx::Error> {
    on.say("SAVEPOINT op").await
}

/// Ends it.
async fn release(on: &mut Link) -> Result<(), sqlx::Error> {
    on.say("RELEASE op").await
}

/// Takes back what one request has written.
async fn undo(on: &mut Link) -> Result<(), sqlx::Error> {
    on.say("ROLLBACK TO op; RELEASE op").await
}

/// A write that nobody sees: a number nobody reads goes up.
#[derive(Debug)]
pub(super) struct Check;

#[async_trait]
impl Work for Check {
    type Done = ();

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        // In Postgres the writer's own row has gone up already.
        if on.is_shared() {
            return Ok(());
        }
        let up =
            "UPDATE meta SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) WHERE key = 'checks'";
        on.run(up, vec![]).await.map(drop)
    }
}
