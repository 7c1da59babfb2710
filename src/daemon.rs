//! The composition root of `stratavored`: the only file that names every concrete type.

mod discovery;
mod notify;
pub mod observe;
mod relay;
mod reload;
mod store;

use crate::adapters::agent_client::AgentClient;
use crate::adapters::drawer::FileDrawer;
use crate::adapters::machine::ThisMachine;
use crate::adapters::timed::TimedStore;
use crate::adapters::webhook::Webhooks;
use crate::api;
use crate::config::{Config, StoreUrl};
use crate::domain::kinds;
use crate::domain::words::without_number;
use crate::engine::{Engine, Health, Membership, Settings};
use crate::places::Places;
use crate::ports::{Courier, Store};
use crate::service;
use crate::telemetry::Telemetry;
use observe::{Observed, Parts};
use reload::Reloader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub use store::{check as check_store, migrate as migrate_store};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a clean stop waits for launches under way.
const LAST_LAUNCHES: Duration = Duration::from_secs(10);
/// How long it waits for the broker to confirm what is there.
const LAST_EVENTS: Duration = Duration::from_secs(3);
/// And for receivers of notifications to take what waits.
const LAST_MESSAGES: Duration = Duration::from_secs(5);
/// And for the fleet to hear that the host is shut down.
const LAST_WORD: Duration = Duration::from_secs(2);
/// A hub or bus that has not come round for so long is wedged.
const WEDGED: Duration = Duration::from_secs(20);
/// Between two looks at bus and engine.
const LOOK: Duration = Duration::from_secs(2);

/// Why the daemon ended otherwise than by being asked.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// No bus, or our name is taken.
    #[error("D-Bus: {0}")]
    Bus(String),
    /// The bus went away; systemd starts us again and we adopt.
    #[error("the connection to the bus was closed; the daemon starts again and adopts its runners")]
    BusClosed,
    /// A credential does not fit the configuration; a person has to look.
    #[error("{0}")]
    Configuration(String),
    /// The store refuses this daemon for good.
    #[error("store: {0}")]
    Store(String),
    /// The machine lacks something.
    #[error("{0}")]
    Machine(String),
}

/// How it was started.
#[derive(Debug, Clone)]
pub struct Start {
    /// `--user`: for the user's own manager, on its session bus.
    pub user: bool,
    /// Where things are.
    pub places: Places,
    /// `--config`: the configuration file, if it is not the usual one.
    pub config: Option<PathBuf>,
    /// The agent's socket.
    pub agent: PathBuf,
}

/// Runs until SIGTERM, or until something breaks that a new start mends.
pub async fn run(config: Config, start: Start, log: Telemetry) -> Result<(), Fatal> {
    let (mut term, mut int) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    // From here on it does not end us; who sends it before we are up is heard then.
    let mut hangup = on(SignalKind::hangup())?;
    let host_id = host_id()?;
    let host_name = if config.host_name.is_empty() {
        host_name()
    } else {
        config.host_name.clone()
    };

    if start.user {
        start.places.make_state().map_err(|e| {
            Fatal::Machine(format!(
                "{} can't be made: {e}",
                start.places.state.display()
            ))
        })?;
    }
    // The system's is kept single by its account and its unit.
    let _lock = match start.user {
        true => start.places.lock().map_err(Fatal::Store)?,
        false => None,
    };
    let in_fleet = matches!(config.store, StoreUrl::Postgres(_));
    let advertise = &config.metrics_advertise;
    let observed = Observed::new(&host_id, &host_name, advertise, in_fleet, log);
    let passed = passed_socket().map_err(|e| Fatal::Machine(format!("the passed socket: {e}")))?;
    let listens = passed.as_ref().and_then(|p| p.local_addr().ok());
    let listens = listens.or(config.metrics_listen);
    tokio::spawn(observe::serve(
        Arc::clone(&observed),
        passed,
        config.metrics_listen,
    ));
    let fence = config.fence().map_err(|e| Fatal::Machine(e.message))?;
    if let Some(doubt) = fence.and_then(|fence| fence.doubt()) {
        tracing::warn!(message_id = kinds::FENCE_HASTY.id, "{doubt}");
    }
    let opened = tokio::select! {
        store = store::open(&config, &host_id, &observed) => store?,
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    };
    let timed = TimedStore::new(opened.store).map_err(metrics)?;
    let store_times = timed.times();
    let store: Arc<dyn Store> = Arc::new(timed);
    let (host, notices) = AgentClient::start(&start.agent, config.unenforced);
    let settings = Settings {
        host: host_id.clone(),
        host_name: host_name.clone(),
        sole_host: opened.sole_host,
        host_max: config.host_max_runners,
        limits: config.limits.clone(),
        retention: config.retention,
        fleet: Membership {
            boot_id: ThisMachine::boot_id().map_err(Fatal::Machine)?,
            labels: config.host_labels.clone(),
            version: crate::VERSION.to_owned(),
            advertise: observe::advertised(&config.metrics_advertise, &host_name, listens.as_ref()),
            renew: config.fleet.lease_renew,
            ttl: config.fleet.lease_ttl,
            lost_after: config.fleet.lost_after,
            fence,
            machine: Arc::new(ThisMachine),
        },
    };
    let relay = relay::start(&config, &host_id, &host_name, opened.outbox)?;
    let engine = Engine::start(
        settings,
        Arc::clone(&store),
        Arc::clone(&host) as _,
        Arc::new(FileDrawer::new(start.places.state.join("queue"))),
        notices,
    );
    let courier: Arc<dyn Courier> = Arc::new(Webhooks::default());
    engine.notify(notify::subscribers(&config), &courier);
    if let Some(relay) = relay {
        engine.relays_by(relay);
    }
    observed.has(Parts {
        engine: engine.clone(),
        connections: opened.connections,
        store_times,
    });
    let mut reloader = Reloader {
        places: start.places,
        file: start.config,
        started: config.clone(),
        current: config,
        engine: engine.clone(),
        host,
        host_id: host_id.clone(),
    };
    let bus = match start.user {
        false => api::Bus::System,
        true => api::Bus::Session {
            uid: rustix::process::geteuid().as_raw(),
        },
    };
    let connection = match bus {
        api::Bus::System => zbus::Connection::system().await,
        api::Bus::Session { .. } => crate::bus::user().build().await,
    };
    let connection = connection.map_err(|e| Fatal::Bus(e.to_string()))?;
    let identity = api::Identity {
        version: crate::VERSION.to_owned(),
        host_id,
        host_name,
    };
    api::serve(&connection, engine.clone(), identity, bus)
        .await
        .map_err(|e| Fatal::Bus(e.to_string()))?;

    let health = engine.health();
    tokio::select! {
        () = adopted(health.clone()) => {}
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    }
    // Nobody can reach us before we know what runs.
    api::own_name(&connection)
        .await
        .map_err(|e| Fatal::Bus(e.to_string()))?;
    let notes = watch::Sender::new(None);
    service::ready(&status_line(&engine, &health.borrow(), &notes.borrow()));
    tracing::info!(
        message_id = kinds::READY.id,
        version = crate::VERSION_TEXT,
        live = engine.live_count(),
        "Ready"
    );

    let reloads = async {
        let health = health.clone();
        while hangup.recv().await.is_some() {
            service::reloading();
            notes.send_replace(reloader.reload());
            service::ready(&status_line(&engine, &health.borrow(), &notes.borrow()));
        }
    };
    let outcome = tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        () = connection.closed() => Err(Fatal::BusClosed),
        () = look_after(&connection, &engine, health.clone(), notes.subscribe()) => Ok(()),
        () = reloads => Ok(()),
    };
    service::stopping();
    tracing::info!(message_id = kinds::STOPPING.id, "Stopping; runners go on");
    let with_host = !start.user && crate::bus::host_stops(&connection).await;
    // Refuse calls, finish transactions, publish what is there, close the store.
    engine.shutdown(LAST_LAUNCHES).await;
    if with_host {
        engine.end_boot(LAST_WORD).await;
    }
    let publish = async {
        let Some(relay) = engine.relay() else {
            return;
        };
        if !relay.flush(LAST_EVENTS).await {
            tracing::info!(
                message_id = kinds::EVENTS_LEFT.id,
                "Events are left to be published after the next start"
            );
        }
    };
    tokio::join!(publish, engine.end_notifications(LAST_MESSAGES));
    store.close().await;
    outcome
}

/// Until it is known what runs; systemd is told what that waits for.
async fn adopted(mut health: watch::Receiver<Health>) {
    loop {
        let line = {
            let health = health.borrow_and_update();
            match (&health.store, &health.lease) {
                _ if health.adopted => return,
                (Some(why), _) => format!("Not ready: the store does not answer: {why}"),
                (None, Some(why)) if health.agent => format!("Not ready: {why}"),
                _ => "Waiting for stratavore-agent to tell what runs".to_owned(),
            }
        };
        service::status(&without_number(line));
        if health.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Tells systemd how we are, and that we are alive only while hub and bus come round.
async fn look_after(
    connection: &zbus::Connection,
    engine: &Engine,
    health: watch::Receiver<Health>,
    notes: watch::Receiver<Option<String>>,
) {
    let interval = service::watchdog_interval();
    let mut tick = tokio::time::interval(interval.map_or(LOOK, |i| i.min(LOOK)));
    let mut bus_seen = Instant::now();
    let mut shown = String::new();
    loop {
        tick.tick().await;
        if matches!(
            tokio::time::timeout(WEDGED, api::heartbeat(connection)).await,
            Ok(Ok(()))
        ) {
            bus_seen = Instant::now();
        }
        let wedged = bus_seen.elapsed() > WEDGED || engine.since_progress() > WEDGED;
        if interval.is_some() && !wedged {
            service::ping();
        } else if wedged {
            tracing::error!(
                message_id = kinds::WEDGED.id,
                "Engine or bus make no progress; systemd will start the daemon again"
            );
        }
        let line = status_line(engine, &health.borrow(), &notes.borrow());
        if line != shown {
            service::status(&line);
            shown = line;
        }
    }
}

fn status_line(engine: &Engine, health: &Health, note: &Option<String>) -> String {
    let mut line = match engine.live_count() {
        1 => "1 live runner".to_owned(),
        n => format!("{n} live runners"),
    };
    if !health.agent {
        line.push_str("; the agent does not answer");
    }
    if let Some(why) = &health.store {
        line.push_str(&format!("; the store does not answer: {why}"));
    }
    if let Some(why) = &health.lease {
        line.push_str(&format!("; nothing is launched here: {why}"));
    }
    let failing = engine.notifications_failing();
    if !failing.is_empty() {
        line.push_str(&format!(
            "; notifications do not arrive: {}",
            failing.join(", ")
        ));
    }
    if let Some(note) = note {
        line.push_str(&format!("; {note}"));
    }
    without_number(line)
}

/// The socket for the metrics, where a socket unit has passed one.
fn passed_socket() -> std::io::Result<Option<TcpListener>> {
    let Some(socket) = listenfd::ListenFd::from_env().take_tcp_listener(0)? else {
        return Ok(None);
    };
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket).map(Some)
}

fn metrics(error: prometheus::Error) -> Fatal {
    Fatal::Machine(format!("metrics: {error}"))
}

fn on(kind: SignalKind) -> Result<Signal, Fatal> {
    signal(kind).map_err(|e| Fatal::Machine(format!("signals: {e}")))
}

/// An id of this host that says nothing about its machine-id (machine-id(5)).
fn host_id() -> Result<String, Fatal> {
    // Of Stratavore's own making, as machine-id(5) asks of each application.
    const APP: &str = "6b1f0c2de7a44d0ab53f0a6c8e2d9471";
    libsystemd::id128::Id128::parse_str(APP)
        .and_then(|app| libsystemd::id128::get_machine_app_specific(&app))
        .map(|id| id.lower_hex())
        .map_err(|e| {
            Fatal::Machine(format!(
                "/etc/machine-id can't be read ({e}); make it with systemd-machine-id-setup"
            ))
        })
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
