//! A store with changes in it, and a relay over it.

use super::consumer::{self, Log};
use super::postgres::Cluster;
use super::rabbit::Rabbit;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use stratavore::adapters::postgres::{PostgresOptions, PostgresStore};
use stratavore::adapters::rabbitmq::{BrokerOptions, RabbitMq};
use stratavore::adapters::sqlite::SqliteStore;
use stratavore::domain::event::{Actor, Event};
use stratavore::domain::exit::{Cause, Exit, Usage};
use stratavore::domain::host::{Load, Registration};
use stratavore::domain::project::{ProjectChange, ProjectSettings};
use stratavore::domain::relay::Limits;
use stratavore::domain::runner::{Change, Step};
use stratavore::domain::{ProjectName, RunnerId, RunnerSpec, Timestamp};
use stratavore::engine::relay::{LIMITS, Relay, RelaySettings};
use stratavore::ports::{Backlog, Beat, EventFilter, NewRunner, Outbox, Store, Writer};

/// 2026-01-01.
const EPOCH: u64 = 1_767_225_600_000_000;

pub(crate) trait Both: Store + Outbox {}
impl<T: Store + Outbox> Both for T {}

/// One host with its store.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) store: Arc<dyn Both>,
    pub(crate) host: String,
    pub(crate) exchange: String,
    made: Arc<AtomicU64>,
}

pub(crate) fn registration(host: &str, boot: &str) -> Registration {
    Registration {
        host: host.to_owned(),
        name: host.to_owned(),
        boot_id: boot.to_owned(),
        labels: BTreeMap::new(),
        max_runners: None,
        version: "0".to_owned(),
        advertise: String::new(),
    }
}

pub(crate) fn beat(ttl: u64) -> Beat {
    Beat {
        ttl,
        fenced_after: None,
        load: Load::default(),
    }
}

fn name(text: &str) -> ProjectName {
    text.parse().unwrap()
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(u64::try_from(since.unwrap().as_micros()).unwrap())
}

impl World {
    /// An embedded store.
    pub(crate) async fn sqlite() -> Self {
        Self::file().await.0
    }

    /// An embedded store, and its file.
    pub(crate) async fn file() -> (Self, PathBuf) {
        let folder =
            std::env::temp_dir().join(format!("stratavore-relay-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let file: PathBuf = folder.join("store.db");
        let store = SqliteStore::open(&file, 3).await.unwrap();
        let world = Self::of(Arc::new(store), "h1");
        world.join("b1", u64::MAX).await;
        (world, file)
    }

    /// A fleet's store with one host.
    pub(crate) async fn postgres() -> Self {
        let options = tokio::task::spawn_blocking(|| Cluster::shared().database())
            .await
            .unwrap();
        let world = Self::on(options, "h1").await;
        world.join("b1", 3_600_000_000).await;
        world
    }

    /// A host of a fleet; it has not joined.
    pub(crate) async fn on(options: PostgresOptions, host: &str) -> Self {
        Self::of(
            Arc::new(PostgresStore::open(options, 4).await.unwrap()),
            host,
        )
    }

    fn of(store: Arc<dyn Both>, host: &str) -> Self {
        store.publish(true);
        Self {
            store,
            host: host.to_owned(),
            exchange: format!("test.{}", uuid::Uuid::now_v7()),
            made: Arc::default(),
        }
    }

    pub(crate) async fn join(&self, boot: &str, ttl: u64) -> Writer {
        let joined = self
            .store
            .join(registration(&self.host, boot), beat(ttl))
            .await;
        joined.unwrap().0
    }

    pub(crate) async fn project(&self, project: &str) {
        let settings = ProjectSettings::default();
        let made = self
            .store
            .create_project(name(project), settings, Actor::host(), now())
            .await;
        made.unwrap();
    }

    /// `project.changed`.
    pub(crate) async fn change(&self, project: &str) {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let change = ProjectChange {
            description: Some(format!("{n}")),
            ..ProjectChange::default()
        };
        self.store
            .set_project(name(project), change, Actor::host(), now())
            .await
            .unwrap();
    }

    /// A short life: two events.
    pub(crate) async fn live(&self, project: &str) {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let id = RunnerId::from_uuid(uuid::Uuid::now_v7());
        let new = NewRunner {
            id,
            spec: RunnerSpec {
                project: name(project),
                command: vec!["true".to_owned()],
                name: None,
                uid: 1000,
                user: "alice".to_owned(),
                working_directory: None,
                labels: BTreeMap::new(),
                limits: stratavore::domain::Limits::default(),
                log_file_max: None,
                priority: 0,
                tokens: None,
                session: None,
                placed: None,
            },
            host: self.host.clone(),
            host_max: None,
            request: None,
            full: None,
            order: None,
            queue: false,
            actor: Actor::host(),
            at: Timestamp(EPOCH + n),
        };
        self.store.admit(new).await.unwrap();
        let exit = Exit {
            cause: Cause::LaunchFailed,
            code: None,
            signal: None,
            message: "test".to_owned(),
        };
        let change = Change {
            id,
            step: Step::End(exit, Usage::default()),
            actor: Actor::host(),
            at: Timestamp(EPOCH + n + 1),
        };
        self.store.apply(change).await.unwrap();
    }

    /// So many events, by many callers at once.
    pub(crate) async fn changes(&self, project: &str, events: usize) {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..32 {
            let (world, project) = (self.clone(), project.to_owned());
            let lives = events / 2 / 32 + usize::from(caller < events / 2 % 32);
            callers.spawn(async move {
                for _ in 0..lives {
                    world.live(&project).await;
                }
            });
        }
        while let Some(done) = callers.join_next().await {
            done.unwrap();
        }
    }

    pub(crate) fn relay(&self, broker: BrokerOptions) -> Relay {
        self.relay_with(broker, LIMITS, true)
    }

    pub(crate) fn relay_with(&self, broker: BrokerOptions, limits: Limits, park: bool) -> Relay {
        let settings = RelaySettings {
            host: self.host.clone(),
            park,
            limits,
        };
        Relay::start(
            settings,
            Arc::clone(&self.store) as _,
            Arc::new(RabbitMq::new(broker)),
        )
    }

    pub(crate) fn broker(&self, rabbit: &Rabbit) -> BrokerOptions {
        rabbit.options(&self.exchange)
    }

    pub(crate) async fn backlog(&self) -> Backlog {
        self.store.backlog(&self.host).await.unwrap()
    }

    /// Waits until nothing is left but what is parked.
    pub(crate) async fn drained(&self) {
        let begun = Instant::now();
        loop {
            let backlog = self.backlog().await;
            if backlog.pending == 0 {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "not drained: {backlog:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing is left, parked or not.
    pub(crate) async fn all_gone(&self) {
        let begun = Instant::now();
        loop {
            let backlog = self.backlog().await;
            if backlog.pending + backlog.parked == 0 {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "not gone: {backlog:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn events(&self) -> Vec<Event> {
        let mut all: Vec<Event> = Vec::new();
        loop {
            let filter = EventFilter {
                after: all.last().map_or(0, |e| e.position),
                limit: 1_000,
                ..EventFilter::default()
            };
            let page = self.store.events(filter).await.unwrap();
            if page.is_empty() {
                all.iter().for_each(crate::schema::event);
                return all;
            }
            all.extend(page);
        }
    }

    /// The consumer has seen what is in the database, and nothing twice but one batch per fault.
    pub(crate) async fn seen_by(&self, rabbit: &Rabbit, queue: &str, log: &mut Log, faults: usize) {
        let events = self.events().await;
        let channel = consumer::channel(rabbit).await;
        log.read(&channel, queue, events.len()).await;
        let (seen, twice) = log.seen();
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for event in &events {
            let last = expected.entry(event.draft.subject.clone()).or_default();
            *last = event.draft.seq.max(*last);
        }
        assert_eq!(seen.len(), expected.len());
        assert_eq!(seen, expected);
        assert!(
            twice <= faults * LIMITS.batch,
            "{twice} came twice after {faults} faults"
        );
    }

    /// A queue of its own that gets everything.
    pub(crate) async fn queue(&self, rabbit: &Rabbit) -> String {
        let queue = format!("q.{}", self.exchange);
        let channel = consumer::channel(rabbit).await;
        consumer::bind(&channel, &self.exchange, &queue, &["#"]).await;
        queue
    }
}

/// On both stores.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(crate::world::World::sqlite().await).await; })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(crate::world::World::postgres().await).await; })*
        }
    };
}
pub(crate) use on_both;

pub(crate) async fn shared() -> &'static Rabbit {
    tokio::task::spawn_blocking(Rabbit::shared).await.unwrap()
}

/// Waits until this is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
