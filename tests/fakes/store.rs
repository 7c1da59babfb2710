//! The embedded store in a folder of its own, with switches: it can be away, and slow.
//!
//! It lives in a runtime of its own. Who calls it waits on a thread for blocking work, and so the
//! simulated time of a test stands still until it has answered.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use stratavore::adapters::sqlite::SqliteStore;
use stratavore::domain::admission::Gate;
use stratavore::domain::audit::verify::Report;
use stratavore::domain::audit::{Act, Anchor, Entry};
use stratavore::domain::budget::{Budget, BudgetState, Scope, Tokens};
use stratavore::domain::event::{Actor, Event};
use stratavore::domain::hold::{Hold, HoldScope};
use stratavore::domain::host::{Cordon, Host, Load, Registration};
use stratavore::domain::order::{Order, Outcome, Progress};
use stratavore::domain::period::Period;
use stratavore::domain::project::{ProjectChange, ProjectSettings};
use stratavore::domain::runner::{Change, Placement, Step};
use stratavore::domain::{Project, ProjectName, Runner, RunnerId, RunnerSpec, Timestamp};
use stratavore::ports::{
    Admitted, Anchored, Applied, Audit, Beat, Chain, EventFilter, FleetState, Hosts, NewRunner,
    Orders, Policies, Policy, Pruned, Pulse, Queue, Reported, RunnerFilter, Store, StoreError,
    Writer,
};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

#[derive(Debug)]
pub struct FakeStore {
    store: Arc<SqliteStore>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    folder: PathBuf,
    away: AtomicBool,
    slow_ms: AtomicU64,
    turns_asked: AtomicU64,
    lose_turns: AtomicBool,
    /// Rows that were read of what is live, as they are then, before they are handed out.
    pub live: Turnstile,
    /// Launches that were decided, before it is told.
    pub admissions: Turnstile,
    /// Turns that were given, before it is told.
    pub turns: Turnstile,
    /// What is asked for of projects, before it is done.
    pub projects: Turnstile,
    /// Steps wait before they are written.
    steps_held: watch::Sender<bool>,
    refused: AtomicU64,
}

/// Where the next one that comes by is held, if a test wants it so.
#[derive(Debug, Default)]
pub struct Turnstile {
    closed: AtomicBool,
    there: Notify,
    go: Notify,
}

impl Turnstile {
    /// Holds the next one.
    pub fn hold(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Until it is there.
    pub async fn is_held(&self) {
        self.there.notified().await;
    }

    /// Lets it go.
    pub fn release(&self) {
        self.go.notify_one();
    }

    async fn pass(&self) {
        if self.closed.swap(false, Ordering::SeqCst) {
            self.there.notify_one();
            self.go.notified().await;
        }
    }
}

impl FakeStore {
    /// An empty store.
    pub async fn new() -> Self {
        let shm = PathBuf::from("/dev/shm");
        let parent = if shm.is_dir() { shm } else { "/tmp".into() };
        let folder = parent.join(format!("stratavore-fake-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let file = folder.join("stratavore.db");
        let handle = runtime.handle().clone();
        let opened =
            tokio::task::spawn_blocking(move || handle.block_on(SqliteStore::open(&file, 3)));
        let opened = opened.await.expect("no panic in there");
        Self {
            store: Arc::new(opened.expect("an empty store opens")),
            runtime: Some(runtime),
            folder,
            away: AtomicBool::new(false),
            slow_ms: AtomicU64::new(0),
            turns_asked: AtomicU64::new(0),
            lose_turns: AtomicBool::new(false),
            live: Turnstile::default(),
            admissions: Turnstile::default(),
            turns: Turnstile::default(),
            projects: Turnstile::default(),
            steps_held: watch::Sender::new(false),
            refused: AtomicU64::new(0),
        }
    }

    /// From now on it does not answer, or does again.
    pub fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// From now on every answer takes so long.
    pub fn slow(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).expect("not that long");
        self.slow_ms.store(ms, Ordering::SeqCst);
    }

    /// How often it was asked whose turn it is.
    pub fn turns_asked(&self) -> u64 {
        self.turns_asked.load(Ordering::SeqCst)
    }

    /// The next answer about turns that were given is lost.
    pub fn lose_turns(&self) {
        self.lose_turns.store(true, Ordering::SeqCst);
    }

    /// From now on steps wait before they are written, or do so no more.
    pub fn hold_steps(&self, held: bool) {
        self.steps_held.send_replace(held);
    }

    /// How many steps it has refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// A host's lease runs out and somebody forgets it, whether or not this store is away.
    pub async fn give_up(&self, host: &str) {
        let host = host.to_owned();
        let given_up = async move |store: Arc<SqliteStore>| {
            let (_, hosts) = store.hosts().await?;
            let known = hosts.iter().find(|h| h.about.host == host);
            let epoch = known.expect("it has joined").epoch;
            let writer = Writer {
                host: host.clone(),
                epoch,
            };
            let load = Load::default();
            let beat = Beat {
                ttl: 0,
                fenced_after: None,
                load,
            };
            store.renew(&writer, beat).await?;
            store.forget(&host, Actor::host()).await
        };
        while let Err(error) = self.behind(given_up.clone()).await {
            if matches!(error, StoreError::Fenced) {
                // It was already.
                return;
            }
        }
    }

    /// Asks it whether or not it is away.
    pub async fn behind<T: Send + 'static>(
        &self,
        call: impl AsyncFnOnce(Arc<SqliteStore>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        let handle = self.runtime.as_ref().expect("it is there").handle().clone();
        tokio::task::spawn_blocking(move || handle.block_on(call(store)))
            .await
            .expect("no panic in there")
    }

    /// Admits these and lets them run.
    pub async fn put(&self, runners: Vec<(NewRunner, Placement)>) {
        let put = runners.into_iter().map(|(new, placement)| async {
            let (id, actor, at) = (new.id, new.actor.clone(), new.at);
            let admitted = self.store.admit(new).await.expect("it answers");
            assert!(matches!(admitted, Admitted::New { .. }), "{admitted:?}");
            let step = Step::Run(placement);
            let change = Change {
                id,
                step,
                actor,
                at,
            };
            self.store.apply(change).await.expect("it answers");
        });
        futures_util::future::join_all(put).await;
    }

    /// Has it done in its own runtime, if it is there.
    async fn inside<T: Send + 'static>(
        &self,
        call: impl AsyncFnOnce(Arc<SqliteStore>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slow = self.slow_ms.load(Ordering::SeqCst);
        if slow > 0 {
            tokio::time::sleep(Duration::from_millis(slow)).await;
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("unplugged".to_owned()));
        }
        self.behind(call).await
    }
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Calls a method of the store inside; borrowed arguments are named before, to be owned.
macro_rules! inside {
    ($self:ident, $($owned:ident),* => $store:ident.$($call:tt)+) => {{
        $(let $owned = $owned.to_owned();)*
        $self.inside(async move |$store: Arc<SqliteStore>| $store.$($call)+.await).await
    }};
}

#[async_trait::async_trait]
impl Store for FakeStore {
    async fn admit(&self, new: NewRunner) -> Result<Admitted, StoreError> {
        let admitted = inside!(self, => s.admit(new));
        self.admissions.pass().await;
        admitted
    }

    async fn apply(&self, change: Change) -> Result<Applied, StoreError> {
        let mut held = self.steps_held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        let applied = inside!(self, => s.apply(change));
        if matches!(applied, Err(StoreError::Refused(_))) {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
        applied
    }

    async fn runner(&self, id: RunnerId) -> Result<Option<Runner>, StoreError> {
        inside!(self, => s.runner(id))
    }

    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        inside!(self, => s.runners(filter))
    }

    async fn live(&self, host: &str) -> Result<Vec<Runner>, StoreError> {
        let rows = inside!(self, host => s.live(&host));
        self.live.pass().await;
        rows
    }

    async fn create_project(
        &self,
        name: ProjectName,
        settings: ProjectSettings,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        self.projects.pass().await;
        inside!(self, => s.create_project(name, settings, actor, at))
    }

    async fn set_project(
        &self,
        name: ProjectName,
        change: ProjectChange,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        self.projects.pass().await;
        inside!(self, => s.set_project(name, change, actor, at))
    }

    async fn remove_project(
        &self,
        name: ProjectName,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Vec<Event>, StoreError> {
        inside!(self, => s.remove_project(name, actor, at))
    }

    async fn project(&self, name: &ProjectName) -> Result<Option<Project>, StoreError> {
        inside!(self, name => s.project(&name))
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        inside!(self, => s.projects())
    }

    async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        let events = inside!(self, => s.events(filter))?;
        events.iter().for_each(super::schema::event);
        Ok(events)
    }

    async fn expired(&self, retention: u64) -> Result<Timestamp, StoreError> {
        inside!(self, => s.expired(retention))
    }

    async fn prune(&self, before: Timestamp, batch: u32) -> Result<Pruned, StoreError> {
        inside!(self, => s.prune(before, batch))
    }

    async fn check(&self) -> Result<(), StoreError> {
        inside!(self, => s.check())
    }

    async fn close(&self) {
        let closed = self.inside(async move |s| {
            s.close().await;
            Ok(())
        });
        let _ = closed.await;
    }
}

#[async_trait::async_trait]
impl Audit for FakeStore {
    fn keeps(&self) -> bool {
        self.store.keeps()
    }

    fn kept(&self) -> Option<Anchor> {
        self.store.kept()
    }

    async fn note(&self, acts: Vec<Act>) -> Result<(), StoreError> {
        inside!(self, => s.note(acts))
    }

    async fn chain(&self, host: &str) -> Result<Option<Chain>, StoreError> {
        inside!(self, host => s.chain(&host))
    }

    async fn entries(
        &self,
        host: &str,
        after: u64,
        to: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        inside!(self, host => s.entries(&host, after, to, limit))
    }

    async fn verify(&self, host: &str, anchors: Vec<Anchor>) -> Result<Report, StoreError> {
        inside!(self, host => s.verify(&host, anchors))
    }

    async fn anchor(&self, at: Timestamp) -> Result<Option<Anchored>, StoreError> {
        inside!(self, => s.anchor(at))
    }

    async fn prune_chain(&self, before: Timestamp, batch: u32) -> Result<u64, StoreError> {
        inside!(self, => s.prune_chain(before, batch))
    }
}

#[async_trait::async_trait]
impl Policies for FakeStore {
    async fn set_budget(
        &self,
        budget: Budget,
        actor: Actor,
    ) -> Result<(BudgetState, Vec<Event>), StoreError> {
        inside!(self, => s.set_budget(budget, actor))
    }

    async fn remove_budget(
        &self,
        scope: Scope,
        period: Period,
        actor: Actor,
    ) -> Result<(), StoreError> {
        inside!(self, => s.remove_budget(scope, period, actor))
    }

    async fn budgets(&self) -> Result<Vec<BudgetState>, StoreError> {
        inside!(self, => s.budgets())
    }

    async fn report(
        &self,
        runner: RunnerId,
        tokens: Tokens,
        at: Timestamp,
    ) -> Result<Reported, StoreError> {
        inside!(self, => s.report(runner, tokens, at))
    }

    async fn set_hold(&self, hold: Hold) -> Result<(Hold, Event), StoreError> {
        inside!(self, => s.set_hold(hold))
    }

    async fn release_hold(
        &self,
        scope: HoldScope,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Event, StoreError> {
        inside!(self, => s.release_hold(scope, actor, at))
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        inside!(self, => s.holds())
    }

    async fn end_holds(&self, at: Timestamp) -> Result<Vec<Event>, StoreError> {
        inside!(self, => s.end_holds(at))
    }

    async fn pulse(&self, host: &str) -> Result<Pulse, StoreError> {
        inside!(self, host => s.pulse(&host))
    }

    async fn policy(&self, host: &str) -> Result<Policy, StoreError> {
        inside!(self, host => s.policy(&host))
    }
}

#[async_trait::async_trait]
impl Orders for FakeStore {
    async fn order(&self, order: Order) -> Result<(), StoreError> {
        inside!(self, => s.order(order))
    }

    async fn take_orders(&self, host: &str) -> Result<Vec<Order>, StoreError> {
        inside!(self, host => s.take_orders(&host))
    }

    async fn answer(&self, order: &str, outcome: Outcome) -> Result<(), StoreError> {
        inside!(self, order => s.answer(&order, outcome))
    }

    async fn outcome(&self, order: &str) -> Result<Progress, StoreError> {
        inside!(self, order => s.outcome(&order))
    }
}

#[async_trait::async_trait]
impl Hosts for FakeStore {
    async fn fleet(&self) -> Result<FleetState, StoreError> {
        inside!(self, => s.fleet())
    }

    async fn set_fleet_max(&self, max: Option<u32>, actor: Actor) -> Result<Event, StoreError> {
        inside!(self, => s.set_fleet_max(max, actor))
    }

    async fn join(
        &self,
        new: Registration,
        beat: Beat,
    ) -> Result<(Writer, Vec<Event>), StoreError> {
        inside!(self, => s.join(new, beat))
    }

    async fn renew(&self, writer: &Writer, beat: Beat) -> Result<Vec<Event>, StoreError> {
        let writer = writer.clone();
        inside!(self, => s.renew(&writer, beat))
    }

    async fn end_boot(&self, writer: &Writer) -> Result<(), StoreError> {
        let writer = writer.clone();
        inside!(self, => s.end_boot(&writer))
    }

    async fn hosts(&self) -> Result<(Timestamp, Vec<Host>), StoreError> {
        inside!(self, => s.hosts())
    }

    async fn cordon(
        &self,
        host: &str,
        reason: String,
        drain: Option<u64>,
        actor: Actor,
    ) -> Result<Event, StoreError> {
        inside!(self, host => s.cordon(&host, reason, drain, actor))
    }

    async fn uncordon(&self, host: &str, actor: Actor) -> Result<Option<Event>, StoreError> {
        inside!(self, host => s.uncordon(&host, actor))
    }

    async fn forget(&self, host: &str, actor: Actor) -> Result<Vec<Event>, StoreError> {
        inside!(self, host => s.forget(&host, actor))
    }

    async fn tidy(&self, lost_after: u64) -> Result<Vec<Event>, StoreError> {
        inside!(self, => s.tidy(lost_after))
    }
}

#[async_trait::async_trait]
impl Queue for FakeStore {
    async fn turns(&self, host: &str, host_max: Option<u32>) -> Result<Vec<Admitted>, StoreError> {
        self.turns_asked.fetch_add(1, Ordering::SeqCst);
        let turns = inside!(self, host => s.turns(&host, host_max))?;
        if !turns.is_empty() {
            self.turns.pass().await;
        }
        match !turns.is_empty() && self.lose_turns.swap(false, Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("cut off".to_owned())),
            false => Ok(turns),
        }
    }

    async fn queued(&self, host: &str) -> Result<Vec<Runner>, StoreError> {
        inside!(self, host => s.queued(&host))
    }

    async fn explain(
        &self,
        spec: &RunnerSpec,
        host: &str,
        host_max: Option<u32>,
        waiting: Option<RunnerId>,
    ) -> Result<Vec<Gate>, StoreError> {
        inside!(self, spec, host => s.explain(&spec, &host, host_max, waiting))
    }
}
