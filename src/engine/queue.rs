//! Launches that wait for their turn.
//!
//! A runner that waits is a row `queued`. What the store must not have of it (environment values,
//! paths of its credentials) this host keeps in a [`Drawer`], on the disk before the row is
//! written and until the command may run. The host that a runner waits on, and no other, gives it
//! its turn and starts it, through the ordinary saga from `starting` on. So whatever is cut off:
//!
//! | cut off after | what is left | what happens |
//! |---|---|---|
//! | the keeping | something kept without a row | thrown away at the next start |
//! | the row | a runner that waits | it goes on waiting |
//! | the turn | row `starting`, something kept | its launch is begun again |
//! | T2 | row `running`, shim at its gate | its gate closes, it ends `launch-failed`: nothing ran |
//!
//! Nothing is asked of the store while nobody waits here.

use super::launch::LATE;
use super::turn::{NOTHING_KEPT, begin};
use super::{LaunchRequest, Shared, digest, now, store_error};
use crate::crash;
use crate::domain::event::{Actor, Event};
use crate::domain::exit::{Cause, Exit, Usage};
use crate::domain::order::Verb;
use crate::domain::runner::{Change, Step};
use crate::domain::{Error, ErrorKind, Runner, RunnerId, State, spec};
use crate::ports::{Admitted, Drawer, Kept, RunnerFilter, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// Of the launches under way at most so many have waited before: however many turns come at once, there is room for who
/// asks now.
pub(super) const TURNS_MAX: usize = 48;
const _: () = assert!(TURNS_MAX < super::LAUNCHES_MAX);
/// While somebody waits it is looked at least so often: a time may have come that nobody tells.
const LOOK: Duration = Duration::from_secs(5);
/// What is known of them is compared with the store so often, of many seldom: another host may have
/// taken one out of the queue.
const COMPARE: Duration = Duration::from_secs(2);
const COMPARE_MANY: Duration = Duration::from_secs(30);
const MANY: usize = 50;
/// Pause after the store has failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Rows read at a time.
const PAGE: u32 = 500;

/// Signals that end what does not handle them: who has no process yet is cancelled by them.
const ENDING: [i32; 5] = [1, 2, 3, 9, 15];

/// The runners of this host that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) drawer: Arc<dyn Drawer>,
    /// With the user each is to run as.
    ids: Mutex<BTreeMap<RunnerId, u32>>,
    /// Held by whoever gives a turn here, or takes somebody out of the queue.
    turn: tokio::sync::Mutex<()>,
    /// Turns that are taken, of the launches that there may be under way.
    pub(super) turns: Arc<Semaphore>,
    changed: Notify,
    /// What is known of them may not be what the store says.
    doubt: AtomicBool,
    /// What is there from an earlier daemon was sorted out.
    opened: AtomicBool,
    /// What the store told last: version of the policy, position of the last event.
    told: Mutex<(u64, u64)>,
}

impl Waiting {
    pub(super) fn new(drawer: Arc<dyn Drawer>) -> Self {
        Self {
            drawer,
            ids: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            turns: Arc::new(Semaphore::new(TURNS_MAX)),
            changed: Notify::new(),
            doubt: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            told: Mutex::default(),
        }
    }

    pub(super) fn ids(&self) -> MutexGuard<'_, BTreeMap<RunnerId, u32>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.ids().len()
    }

    /// Somebody's turn may have come.
    pub(super) fn look(&self) {
        self.changed.notify_one();
    }

    /// What the store has told now; `sure` = something has changed.
    pub(super) fn news(&self, policy: u64, position: u64, sure: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *told, (policy, position)) != (policy, position) || sure {
            self.look();
        }
    }

    /// Keeps what a launch needs, if it may have to wait. Such a one has no streams: who holds
    /// their other ends may be gone when its turn comes.
    pub(super) async fn keep(
        &self,
        id: RunnerId,
        request: &LaunchRequest,
        actor: &Actor,
    ) -> Result<(), Error> {
        if !request.queue {
            return Ok(());
        }
        if request.streams.given() != [false; 3] {
            return Err(spec::no_streams_later());
        }
        let kept = Kept {
            setenv: request.setenv.clone(),
            inputs: request.inputs.clone(),
            actor: actor.clone(),
            identity: digest::identity(&request.spec),
        };
        self.drawer.put(id, kept).await?;
        crash::point("queue.kept");
        Ok(())
    }

    /// Whether what was kept for one that starts at once stays until it runs. Who asks from another host is
    /// told soon what became of it: such a one is not begun again later, behind their back.
    pub(super) async fn keeps(&self, runner: &Runner, kept: bool) -> bool {
        if kept && runner.spec.placed.is_some() {
            self.throw_away(runner.id).await;
        }
        kept && runner.spec.placed.is_none()
    }

    pub(super) async fn throw_away(&self, id: RunnerId) {
        self.drawer.remove(id).await;
    }
}

/// When what runs is taken over: who waits, and what is kept without a reason. `rows` are live.
/// Answers with those of which something is kept.
pub(super) async fn open(
    shared: &Shared,
    rows: &BTreeMap<RunnerId, Runner>,
) -> Result<BTreeSet<RunnerId>, String> {
    let queue = &shared.queue;
    let mut kept = BTreeSet::from_iter(queue.drawer.ids().await.map_err(|e| e.message)?);
    if queue.opened.load(Ordering::SeqCst) {
        // What is kept now may be of a launch whose row is being written.
        queue.doubt.store(true, Ordering::SeqCst);
        queue.look();
        return Ok(kept);
    }
    let queued = shared.store.queued(&shared.settings.host).await;
    let queued = queued.map_err(|e| e.to_string())?;
    let ids: BTreeSet<RunnerId> = queued.iter().map(|r| r.id).collect();
    let starting = |id: &RunnerId| rows.get(id).is_some_and(|r| r.state() == State::Starting);
    let orphans = kept.extract_if(.., |id| !ids.contains(id) && !starting(id));
    for id in orphans.collect::<Vec<_>>() {
        queue.throw_away(id).await;
    }
    for id in ids.difference(&kept) {
        let failed = failed(NOTHING_KEPT);
        leave(shared, *id, failed, Actor::host())
            .await
            .map_err(|e| e.to_string())?;
    }
    if shared.settings.sole_host {
        end_strangers(shared).await.map_err(|e| e.to_string())?;
    }
    let waiting = queued.iter().filter(|r| kept.contains(&r.id));
    queue.ids().extend(waiting.map(|r| (r.id, r.spec.uid)));
    queue.opened.store(true, Ordering::SeqCst);
    queue.look();
    Ok(kept)
}

/// Rows that wait on another host in a store that is this host's alone: its machine-id has changed,
/// or the store was moved here. Nobody would ever start them.
async fn end_strangers(shared: &Shared) -> Result<(), StoreError> {
    loop {
        let filter = RunnerFilter {
            states: vec![State::Queued],
            limit: PAGE,
            ..RunnerFilter::default()
        };
        let page = shared.store.runners(filter).await?;
        let strangers = page.iter().filter(|r| r.host != shared.settings.host);
        let strangers: Vec<RunnerId> = strangers.map(|r| r.id).collect();
        for id in &strangers {
            let failed = failed("It waited on a host that this store is not of any more.");
            leave(shared, *id, failed, Actor::host()).await?;
        }
        if strangers.is_empty() || page.len() < PAGE as usize {
            return Ok(());
        }
    }
}

/// Gives this host's runners their turn, for ever.
pub(super) async fn serve(shared: Arc<Shared>) {
    let mut happenings = shared.happenings.subscribe();
    let mut health = shared.health.subscribe();
    let (mut due, mut compared) = (Instant::now(), Instant::now());
    loop {
        let waits = || shared.queue.count() > 0 || shared.queue.doubt.load(Ordering::SeqCst);
        tokio::select! {
            happening = happenings.recv() => match happening {
                Ok(h) if h.runner.as_ref().is_none_or(|r| r.state() == State::Ended) => {}
                Ok(_) => continue,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            () = shared.queue.changed.notified() => {}
            changed = health.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due), if waits() => {}
        }
        // One look is enough for all that has happened up to now.
        while happenings.try_recv().is_ok() {}
        if !waits() {
            continue;
        }
        due = Instant::now() + LOOK;
        if shared.ready().is_err() || shared.closing.load(Ordering::SeqCst) {
            continue;
        }
        let many = shared.settings.sole_host || shared.queue.count() > MANY;
        if compared.elapsed() >= if many { COMPARE_MANY } else { COMPARE } {
            shared.queue.doubt.store(true, Ordering::SeqCst);
            compared = Instant::now();
        }
        if let Err(error) = look(&shared).await {
            if let StoreError::Unavailable(why) = &error {
                shared.note_store(Some(why.clone()));
            }
            tracing::debug!(%error, "Those that wait could not be given their turn yet");
            due = Instant::now() + AGAIN;
        }
    }
}

/// One look at all that wait here.
async fn look(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let queue = &shared.queue;
    let _turn = queue.turn.lock().await;
    if queue.doubt.swap(false, Ordering::SeqCst)
        && let Err(error) = compare(shared).await
    {
        queue.doubt.store(true, Ordering::SeqCst);
        return Err(error);
    }
    if queue.count() == 0 {
        return Ok(());
    }
    let host_max = shared.terms().host_max;
    let changes = shared.project_changes.load(Ordering::SeqCst);
    let turns = shared.store.turns(&shared.settings.host, host_max).await;
    // Whether it was done is not known then: the rows tell.
    let turns = turns.inspect_err(|_| queue.doubt.store(true, Ordering::SeqCst))?;
    crash::point("queue.turn-given");
    for admitted in turns {
        if let Admitted::New {
            runner,
            project_limits,
            event,
        } = admitted
        {
            begin(shared, runner, Some(event), project_limits, changes);
        }
    }
    Ok(())
}

/// What became of those that the store says wait no longer: their turn came and its answer was
/// lost, or another host has taken them out of the queue.
async fn compare(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let queue = &shared.queue;
    let before = queue.ids().clone();
    let queued = shared.store.queued(&shared.settings.host).await?;
    let queued: BTreeMap<RunnerId, u32> = queued.iter().map(|r| (r.id, r.spec.uid)).collect();
    for id in before.keys().filter(|id| !queued.contains_key(*id)) {
        match shared.store.runner(*id).await? {
            Some(runner) if runner.state() == State::Starting => {
                let changes = shared.project_changes.load(Ordering::SeqCst);
                let project = shared.store.project(&runner.spec.project).await?;
                let limits = project.map(|p| p.settings.limits).unwrap_or_default();
                begin(shared, runner, None, limits, changes);
            }
            gone => {
                queue.ids().remove(id);
                queue.throw_away(*id).await;
                if let Some(runner) = gone {
                    shared.publish(None, Some(Arc::new(runner)), Some(State::Queued));
                }
            }
        }
    }
    queue.ids().extend(queued);
    Ok(())
}

impl Shared {
    /// A launch waits from now on; `late` = its caller was told that nothing came of it.
    pub(super) async fn has_queued(self: &Arc<Self>, runner: Runner, event: Event, late: bool) {
        let id = runner.id;
        if late {
            // Should the rest fail, it ends when its turn comes: nothing is kept of it any more.
            self.queue.throw_away(id).await;
        }
        let turn = self.queue.turn.lock().await;
        // Its turn may have come before we heard that it waits.
        if self.read(|live| live.contains_key(&id)) {
            return self.publish(Some(event), None, None);
        }
        match self.store.runner(id).await {
            Ok(Some(row)) if row.state() == State::Queued => {}
            // It was taken out meanwhile, or has had its turn and is over.
            Ok(row) if row.as_ref().is_none_or(|row| !row.state().is_live()) => {
                self.queue.throw_away(id).await;
                let ended = row.map(Arc::new);
                return self.publish(Some(event), ended, Some(State::Queued));
            }
            // Its turn was given and nobody heard of it, or it can't be read: the rows are compared.
            _ => self.queue.doubt.store(true, Ordering::SeqCst),
        }
        self.queue.ids().insert(id, runner.spec.uid);
        self.publish(Some(event), Some(Arc::new(runner)), None);
        if late {
            let _ = leave(self, id, failed(LATE), Actor::host()).await;
        }
        drop(turn);
        self.queue.look();
    }

    /// Does it to a runner that waits. Its row is given back if its turn has come meanwhile.
    pub(super) async fn waiting(
        &self,
        row: Runner,
        verb: &Verb,
        actor: &Actor,
    ) -> Result<Option<Runner>, Error> {
        let id = row.id;
        match verb {
            Verb::Stop => {}
            Verb::Kill(signal) if ENDING.contains(signal) => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::WrongState,
                    format!(
                        "Runner {id} waits for its turn and has no process yet. To take it out of the queue: stratavorectl stop {id}."
                    ),
                ));
            }
        }
        let _turn = self.queue.turn.lock().await;
        let exit = Exit {
            cause: Cause::Cancelled,
            code: None,
            signal: None,
            message: "It left the queue before its turn came.".to_owned(),
        };
        match leave(self, id, exit, actor.clone()).await {
            Ok(()) => Ok(None),
            Err(StoreError::Refused(error)) if error.kind == ErrorKind::WrongState => {
                self.store.runner(id).await.map_err(store_error)
            }
            Err(error) => {
                // It may have been done.
                self.queue.doubt.store(true, Ordering::SeqCst);
                Err(store_error(error))
            }
        }
    }
}

/// Takes a runner out of the queue.
async fn leave(shared: &Shared, id: RunnerId, exit: Exit, actor: Actor) -> Result<(), StoreError> {
    let change = Change {
        id,
        step: Step::End(exit, Usage::default()),
        actor,
        at: now(),
    };
    let applied = shared.store.apply(change).await?;
    shared.queue.ids().remove(&id);
    shared.queue.throw_away(id).await;
    super::backlog::tell_ending(&applied.runner);
    shared.metrics.ended(&applied.runner);
    shared.publish(
        applied.event,
        Some(Arc::new(applied.runner)),
        Some(applied.old),
    );
    Ok(())
}

fn failed(why: &str) -> Exit {
    Exit {
        cause: Cause::LaunchFailed,
        code: None,
        signal: None,
        message: why.to_owned(),
    }
}
