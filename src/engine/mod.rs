//! The engine: the one owner of live state.
//!
//! Every live runner has a **lane**, a task that does everything about this runner one after
//! the other: its launch, stops, freezes, its ending. The **hub** listens to the agent, and when
//! a connection to it is made it reconciles: rows against what is really there, by the pure
//! `domain::reconcile::plan`. Nothing else changes a runner.
//!
//! A step is taken in the lane's own copy first, then written to the store. While the store is
//! away the steps wait in the lane, in order, and running work goes on; only launches need the
//! store at once.

mod arm;
mod audit;
mod backlog;
mod control;
mod digest;
mod facts;
mod fenced;
mod fleet;
mod hands;
mod health;
mod hosts;
mod hub;
mod joining;
mod lane;
mod launch;
mod lease;
mod notify;
mod peers;
mod placing;
mod policies;
mod policy;
mod projects;
mod queries;
mod queue;
mod refusals;
pub mod relay;
mod share;
mod standing;
mod turn;
mod upkeep;
mod verbs;
mod words;

pub use arm::{FenceState, LeaseState};
pub use audit::Noted;
pub use fleet::Peers;
pub use health::Health;
pub use launch::Launched;
pub use lease::Membership;
pub use notify::{Fares, Subscriber};
pub(crate) use placing::not_through_the_store;
pub use refusals::Refusals;
pub use share::USER_RUNNERS_MAX;

use crate::domain::event::Event;
use crate::domain::inputs::Inputs;
use crate::domain::kinds;
use crate::domain::spec::Setenv;
use crate::domain::{Limits, Runner, RunnerId, RunnerSpec, State, Timestamp};
use crate::metrics::Metrics;
use crate::ports::{Drawer, Host, HostNotice, Store, Streams};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, watch};
use words::{host_error, store_error};

/// Launches that may be under way at a time; more wait their turn.
const LAUNCHES_MAX: usize = 64;
/// How many notices a slow subscriber may be behind before it has to look again.
const NOTICES_MAX: usize = 8_192;

/// What the engine is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This host's id.
    pub host: String,
    /// Its name, for messages.
    pub host_name: String,
    /// The store is this host's alone.
    pub sole_host: bool,
    /// Its cap on live runners.
    pub host_max: Option<u32>,
    /// Limits where a launch says nothing.
    pub limits: Limits,
    /// How long ended runners, request ids and events are kept.
    pub retention: Duration,
    /// On what terms it is in its fleet.
    pub fleet: Membership,
}

/// What of the settings may change while the engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The host's cap on live runners, for launches from now on.
    pub host_max: Option<u32>,
    /// Limits where a launch from now on says nothing.
    pub limits: Limits,
    /// How long ended runners, request ids and events are kept.
    pub retention: Duration,
}

/// A launch, parsed and authorised.
#[derive(Debug, Clone)]
pub struct LaunchRequest {
    /// What to run; its limits are those asked for.
    pub spec: RunnerSpec,
    /// Its environment beyond the ordinary.
    pub setenv: Vec<Setenv>,
    /// Makes a repetition return the first runner.
    pub request_id: Option<String>,
    /// What it is given by file.
    pub inputs: Inputs,
    /// Its streams.
    pub streams: Streams,
    /// Where it is refused and waiting can help, it waits for its turn.
    pub queue: bool,
    /// The order of another host that it is, exactly if its `spec` says that it was placed.
    pub order: Option<PlacedOrder>,
}

impl LaunchRequest {
    /// The id of its runner, which nobody else has.
    fn id(&self) -> RunnerId {
        let chosen = self.order.as_ref().map(|order| order.id);
        chosen.unwrap_or_else(|| RunnerId::from_uuid(uuid::Uuid::now_v7()))
    }
}

/// What another host has chosen of a launch that it asks for.
#[derive(Debug, Clone)]
pub struct PlacedOrder {
    /// The runner's id, and the order's: there is no second runner of it.
    pub id: RunnerId,
    /// The digest that goes with the request id, the same whichever host it is asked of.
    pub digest: String,
}

/// Something that happened and is in the store.
#[derive(Debug, Clone)]
pub struct Happening {
    /// The event as stored; `None` for a change of limits, which is none.
    pub event: Option<Event>,
    /// The runner after it, if it is about one.
    pub runner: Option<Arc<Runner>>,
    /// That runner's state before.
    pub old: Option<State>,
}

/// The engine's handle; clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Shared>);

/// What lanes, hub and handle share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    terms: RwLock<Arc<Terms>>,
    store: Arc<dyn Store>,
    host: Arc<dyn Host>,
    live: RwLock<HashMap<RunnerId, Entry>>,
    happenings: broadcast::Sender<Arc<Happening>>,
    health: watch::Sender<Health>,
    launches: Arc<Semaphore>,
    /// One change of a project at a time: its slice and its row must tell the same.
    projects: tokio::sync::Mutex<()>,
    project_changes: AtomicU64,
    slices: projects::Slices,
    /// One comparison of rows with the host at a time, and the strangers it has warned of.
    reconciling: tokio::sync::Mutex<HashSet<RunnerId>>,
    closing: AtomicBool,
    /// It has shut down: whoever comes after it owns the rows.
    closed: AtomicBool,
    recheck: Notify,
    lease: lease::Own,
    policy: policy::Followed,
    queue: queue::Waiting,
    facts: facts::Facts,
    audit: audit::Desk,
    notify: notify::Desk,
    standing: standing::Standing,
    under_way: share::UnderWay,
    /// Monotonic milliseconds of the last turn of hub and store loop, for the watchdog.
    progress: [AtomicU64; 2],
    started: tokio::time::Instant,
    metrics: Metrics,
    relay: OnceLock<relay::Relay>,
}

/// A live runner as everybody may see it.
#[derive(Debug)]
struct Entry {
    runner: Arc<Runner>,
    lane: mpsc::UnboundedSender<lane::Command>,
    /// The launch is still under way and looks after itself.
    launching: bool,
    /// How often it was begun again.
    launches: u32,
}

impl Engine {
    /// Starts hub and upkeep. Nothing is adopted before the agent has connected.
    pub fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        host: Arc<dyn Host>,
        drawer: Arc<dyn Drawer>,
        notices: mpsc::Receiver<HostNotice>,
    ) -> Self {
        let health = Health::default();
        let lease = lease::Own::new(&settings.fleet, settings.sole_host);
        let terms = Terms {
            host_max: settings.host_max,
            limits: settings.limits.clone(),
            retention: settings.retention,
        };
        let shared = Arc::new(Shared {
            settings,
            terms: RwLock::new(Arc::new(terms)),
            store,
            host,
            live: RwLock::default(),
            happenings: broadcast::Sender::new(NOTICES_MAX),
            health: watch::Sender::new(health),
            launches: Arc::new(Semaphore::new(LAUNCHES_MAX)),
            projects: tokio::sync::Mutex::new(()),
            project_changes: AtomicU64::new(0),
            slices: projects::Slices::default(),
            reconciling: tokio::sync::Mutex::default(),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            recheck: Notify::new(),
            lease,
            policy: policy::Followed::default(),
            queue: queue::Waiting::new(drawer),
            facts: facts::Facts::default(),
            audit: audit::Desk::default(),
            notify: notify::Desk::default(),
            standing: standing::Standing::default(),
            under_way: share::UnderWay::default(),
            progress: [AtomicU64::new(0), AtomicU64::new(0)],
            started: tokio::time::Instant::now(),
            metrics: Metrics::default(),
            relay: OnceLock::new(),
        });
        tokio::spawn(hub::run(Arc::clone(&shared), notices));
        tokio::spawn(upkeep::watch_store(Arc::clone(&shared)));
        tokio::spawn(upkeep::prune(Arc::clone(&shared)));
        tokio::spawn(lease::keep(Arc::clone(&shared)));
        tokio::spawn(arm::arm(Arc::clone(&shared)));
        if !shared.settings.sole_host {
            tokio::spawn(fleet::tidy(Arc::clone(&shared)));
            tokio::spawn(peers::serve(Arc::clone(&shared)));
        }
        tokio::spawn(policy::follow(Arc::clone(&shared)));
        tokio::spawn(queue::serve(Arc::clone(&shared)));
        tokio::spawn(standing::follow(Arc::clone(&shared)));
        tokio::spawn(audit::keep(Arc::clone(&shared)));
        Self(shared)
    }

    /// What was counted.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// New terms: for launches and clean-ups from now on. No runner notices.
    pub fn set_terms(&self, terms: Terms) {
        let mut current = self.0.terms.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(terms);
        drop(current);
        self.0.queue.look();
    }

    /// Follows the health of store and agent.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    /// Follows everything that happens from now on. Who falls behind by thousands loses the
    /// oldest and has to look again.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Happening>> {
        self.0.happenings.subscribe()
    }

    /// This host's live runners, in no order.
    pub fn live(&self) -> Vec<Arc<Runner>> {
        self.0
            .read(|live| live.values().map(|e| Arc::clone(&e.runner)).collect())
    }

    /// How many live runners there are.
    pub fn live_count(&self) -> usize {
        self.0.read(HashMap::len)
    }

    /// How many runners of this host wait for their turn.
    pub fn queued_count(&self) -> usize {
        self.0.queue.count()
    }

    /// A live runner of this host.
    pub fn live_runner(&self, id: RunnerId) -> Option<Arc<Runner>> {
        self.0
            .read(|live| live.get(&id).map(|e| Arc::clone(&e.runner)))
    }

    /// How long ago the slower of hub and store loop came round: what the watchdog looks at. Both
    /// come round whatever the store does.
    pub fn since_progress(&self) -> Duration {
        let slowest = self
            .0
            .progress
            .iter()
            .map(|p| p.load(Ordering::Relaxed))
            .min();
        let last = Duration::from_millis(slowest.unwrap_or(0));
        self.0.started.elapsed().saturating_sub(last)
    }

    /// Refuses launches from now on and waits, within the given time, for those under way.
    pub async fn shutdown(&self, within: Duration) {
        self.0.closing.store(true, Ordering::SeqCst);
        let all = async {
            let turns = self.0.queue.turns.acquire_many(queue::TURNS_MAX as u32);
            let _turns = turns.await;
            let _launches = self.0.launches.acquire_many(LAUNCHES_MAX as u32).await;
        };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!(
                message_id = kinds::STOPPING.id,
                "Launches were still under way at shutdown; their gates close, nothing runs twice"
            );
        }
        self.end_audit().await;
        self.0.closed.store(true, Ordering::SeqCst);
    }
}

/// A loop the watchdog looks at.
#[derive(Debug, Clone, Copy)]
enum Loop {
    Hub = 0,
    Store = 1,
}

impl Shared {
    fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    fn note_progress(&self, of: Loop) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress[of as usize].store(elapsed, Ordering::Relaxed);
    }

    fn read<T>(&self, f: impl FnOnce(&HashMap<RunnerId, Entry>) -> T) -> T {
        f(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut HashMap<RunnerId, Entry>) -> T) -> T {
        f(&mut self.live.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new lane for a runner, with its entry; `None` if it has one.
    fn open_lane(self: &Arc<Self>, runner: Runner, launching: bool) -> Option<lane::Lane> {
        let (sender, inbox) = mpsc::unbounded_channel();
        let entry = Entry {
            runner: Arc::new(runner.clone()),
            lane: sender,
            launching,
            launches: 0,
        };
        self.write(|live| {
            if live.contains_key(&runner.id) {
                return None;
            }
            live.insert(runner.id, entry);
            Some(lane::Lane::new(Arc::clone(self), runner, inbox))
        })
    }

    fn publish(&self, event: Option<Event>, runner: Option<Arc<Runner>>, old: Option<State>) {
        // No subscriber is not an error.
        let _ = self
            .happenings
            .send(Arc::new(Happening { event, runner, old }));
    }

    fn note_store(&self, problem: Option<String>) {
        self.health.send_if_modified(|health| {
            let changed = health.store.is_some() != problem.is_some();
            if changed {
                match &problem {
                    Some(why) => tracing::error!(message_id = kinds::STORE_AWAY.id, %why, "The store does not answer: nothing can be launched, running work goes on"),
                    None => tracing::info!(message_id = kinds::STORE_BACK.id, "The store answers again"),
                }
            }
            health.store = problem;
            changed
        });
    }
}

/// The wall clock, in µs.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
}
