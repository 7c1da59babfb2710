//! The one task that emits signals and keeps the objects, fed by what the engine publishes.
//! It waits for nothing but the bus: what has to be read from the store, another task reads.

use super::convert::{self, Dict};
use super::core::Core;
use super::manager::Facts;
use super::{MANAGER, PATH, PROJECT, RUNNER, project, runner, tree};
use crate::domain::kinds;
use crate::domain::{Project, ProjectName, Runner, RunnerId, State};
use crate::engine::relay::{Relay, RelayState};
use crate::engine::{Engine, Happening};
use futures_util::StreamExt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use zbus::fdo::DBusProxy;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, MatchRule, MessageStream, ObjectPath, OwnedObjectPath};

/// LiveRunners and QueuedRunners are signalled at most so often: who follows single runners has their own signals.
const COUNT_PAUSE: Duration = Duration::from_millis(100);

/// What to read from the store.
#[derive(Debug)]
enum Ask {
    Projects,
    Project(ProjectName),
    Runner(RunnerId),
}

/// What was read.
#[derive(Debug)]
enum Found {
    Projects(Vec<Project>),
    Project(ProjectName, Option<Box<Project>>),
    Runner(RunnerId, Option<Box<Runner>>),
}

/// Shows what is there now, then follows. `lookups` hears who has left the bus.
pub(super) async fn start(
    connection: &Connection,
    lookups: &Connection,
    core: Core,
) -> zbus::Result<()> {
    let happenings = core.engine().subscribe();
    let health = core.engine().health();
    let (asks, questions) = mpsc::unbounded_channel();
    let (answers, found) = mpsc::unbounded_channel();
    tokio::spawn(read(core.engine().clone(), questions, answers));
    follow_departures(lookups, core.clone()).await?;
    follow_polkit(lookups, core.clone()).await;
    let mut gardener = Gardener {
        connection: connection.clone(),
        root: SignalEmitter::new(connection, PATH)?.into_owned(),
        core,
        asks,
        count: 0,
        queued: 0,
        store: "",
        broker: "",
        count_due: Instant::now(),
        count_waits: false,
    };
    match gardener.core.engine().projects().await {
        Ok(projects) => gardener.found(Found::Projects(projects)).await,
        // They are asked for again when the store is back.
        Err(error) => {
            tracing::warn!(message_id = kinds::BUS_FAULT.id, %error, "The projects are not known yet")
        }
    }
    gardener.resync().await;
    gardener.store = gardener.core.store();
    tokio::spawn(gardener.run(happenings, health, found));
    Ok(())
}

/// Reads one thing after the other, so that the last answer about something is the newest.
async fn read(
    engine: Engine,
    mut questions: mpsc::UnboundedReceiver<Ask>,
    answers: mpsc::UnboundedSender<Found>,
) {
    use crate::domain::ErrorKind::{NoSuchProject, NoSuchRunner};
    while let Some(ask) = questions.recv().await {
        let found = match ask {
            Ask::Projects => engine.projects().await.map(Found::Projects),
            Ask::Project(name) => match engine.project(&name).await {
                Err(error) if error.kind == NoSuchProject => Ok(Found::Project(name, None)),
                other => other.map(|p| Found::Project(name, Some(Box::new(p)))),
            },
            Ask::Runner(id) => match engine.runner(id).await {
                Err(error) if error.kind == NoSuchRunner => Ok(Found::Runner(id, None)),
                other => other.map(|r| Found::Runner(id, Some(Box::new(r)))),
            },
        };
        match found {
            Ok(found) => {
                if answers.send(found).is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "An object could not be brought up to date yet"),
        }
    }
}

async fn follow_departures(lookups: &Connection, core: Core) -> zbus::Result<()> {
    let bus = DBusProxy::new(lookups).await?;
    let mut gone = bus.receive_name_owner_changed_with_args(&[(2, "")]).await?;
    tokio::spawn(async move {
        while let Some(signal) = gone.next().await {
            if let Ok(args) = signal.args() {
                core.gone(args.name().as_str());
            }
        }
    });
    Ok(())
}

async fn follow_polkit(lookups: &Connection, core: Core) {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender("org.freedesktop.PolicyKit1")
        .interface("org.freedesktop.PolicyKit1.Authority")
        .member("Changed");
    let stream = match rule.build() {
        Ok(rule) => MessageStream::for_match_rule(rule, lookups, None).await,
        Err(error) => Err(error),
    };
    match stream {
        Ok(mut changes) => {
            tokio::spawn(async move {
                while changes.next().await.is_some() {
                    core.rules_changed();
                }
            });
        }
        Err(error) => {
            tracing::warn!(message_id = kinds::BUS_FAULT.id, %error, "Changes of polkit's rules take effect after a minute")
        }
    }
}

#[derive(Debug)]
struct Gardener {
    connection: Connection,
    root: SignalEmitter<'static>,
    core: Core,
    asks: mpsc::UnboundedSender<Ask>,
    /// LiveRunners, QueuedRunners, Store and Broker as last signalled.
    count: u32,
    queued: usize,
    store: &'static str,
    broker: &'static str,
    /// When LiveRunners may be signalled again, and whether it is to be then.
    count_due: Instant,
    count_waits: bool,
}

/// Waits until the relay stands otherwise; `None` = there is none.
async fn changed(relay: &mut Option<watch::Receiver<RelayState>>) -> Option<()> {
    relay.as_mut()?.changed().await.ok()
}

impl Gardener {
    async fn run(
        mut self,
        mut happenings: broadcast::Receiver<Arc<Happening>>,
        mut health: watch::Receiver<crate::engine::Health>,
        mut found: mpsc::UnboundedReceiver<Found>,
    ) {
        let mut relay = self.core.engine().relay().map(Relay::state);
        loop {
            tokio::select! {
                happening = happenings.recv() => match happening {
                    Ok(happening) => self.happened(&happening).await,
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(message_id = kinds::BUS_FAULT.id, missed, "Signals were lost: the objects are compared anew");
                        self.resync().await;
                        self.ask(Ask::Projects);
                    }
                    Err(RecvError::Closed) => return,
                },
                changed = health.changed() => match changed {
                    Ok(()) => {
                        self.resync().await;
                        self.ask(Ask::Projects);
                    }
                    Err(_) => return,
                },
                Some(()) = changed(&mut relay) => {}
                Some(found) = found.recv() => self.found(found).await,
                () = tokio::time::sleep_until(self.count_due), if self.count_waits => {}
            }
            if happenings.is_empty() {
                self.counts().await;
            }
        }
    }

    fn ask(&self, ask: Ask) {
        // The reader ends only with us.
        let _ = self.asks.send(ask);
    }

    async fn happened(&mut self, happening: &Happening) {
        match (&happening.runner, &happening.event) {
            (Some(runner), event) => {
                let position = event.as_ref().map(|e| e.position);
                self.runner(runner, happening.old, position).await;
            }
            (None, Some(event)) if event.draft.kind.short().starts_with("project.") => {
                if let Ok(name) = event.draft.project.parse() {
                    self.ask(Ask::Project(name));
                }
            }
            _ => {}
        }
    }

    /// Brings one runner's object and signals up to date. The signals come in the order of a
    /// life: PropertiesChanged, RunnerStateChanged, RunnerEnded, InterfacesRemoved.
    async fn runner(&mut self, runner: &Arc<Runner>, old: Option<State>, position: Option<u64>) {
        let (id, live) = (runner.id, runner.state().is_live());
        match self.core.garden().runner(id) {
            Some(shown) => {
                let before = runner::now(&shown);
                *shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(runner);
                let (before, after) = (runner::properties(&before), runner::properties(runner));
                self.changed(tree::runner_path(id), RUNNER, &before, after)
                    .await;
            }
            None if live => {
                let added = tree::add_runner(&self.connection, &self.core, Arc::clone(runner));
                note(added.await);
            }
            None => {}
        }
        if old != Some(runner.state()) {
            let mut details = details(runner, position);
            let (id, project) = (id.to_string(), runner.spec.project.as_str());
            let old = old.map_or("", State::as_str);
            let new = runner.state().as_str();
            let signal =
                Facts::runner_state_changed(&self.root, &id, project, old, new, details.clone());
            note(signal.await);
            if let Some(exit) = &runner.exit {
                details.append(&mut convert::exit(&exit.public()));
                if let Some(usage) = &runner.usage {
                    convert::put(&mut details, "usage", convert::usage(runner, usage));
                }
                let (cause, status) = (exit.cause.as_str(), convert::status(exit));
                let signal = Facts::runner_ended(&self.root, &id, project, cause, status, details);
                note(signal.await);
            }
        }
        if !live && self.core.garden().runner(id).is_some() {
            note(tree::remove_runner(&self.connection, &self.core, id).await);
        }
    }

    /// Compares the objects with what the engine has now.
    async fn resync(&mut self) {
        let live = self.core.engine().live();
        for runner in live.iter().filter(|r| r.state().is_live()) {
            match self.core.garden().runner(runner.id) {
                Some(shown) => {
                    let old = runner::now(&shown).state();
                    if old != runner.state() {
                        self.runner(runner, Some(old), None).await;
                    }
                }
                // Not news: it was there before us.
                None => self.runner(runner, Some(runner.state()), None).await,
            }
        }
        for id in self.core.garden().runners() {
            if self.core.engine().live_runner(id).is_none() {
                self.ask(Ask::Runner(id));
            }
        }
    }

    async fn found(&mut self, found: Found) {
        match found {
            Found::Runner(id, None) => {
                note(tree::remove_runner(&self.connection, &self.core, id).await);
            }
            Found::Runner(id, Some(runner)) => {
                // Unless its signal has come meanwhile.
                if let Some(shown) = self.core.garden().runner(id)
                    && !runner.state().is_live()
                {
                    let old = runner::now(&shown).state();
                    self.runner(&Arc::from(runner), Some(old), None).await;
                }
            }
            Found::Project(name, None) => {
                if self.core.garden().project(&name).is_some() {
                    note(tree::remove_project(&self.connection, &self.core, &name).await);
                }
            }
            Found::Project(name, Some(project)) => match self.core.garden().project(&name) {
                None => note(tree::add_project(&self.connection, &self.core, *project).await),
                Some(shown) => {
                    let before = project::properties(&project::now(&shown));
                    let after = project::properties(&project);
                    *shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::from(project);
                    self.changed(tree::project_path(&name), PROJECT, &before, after)
                        .await;
                }
            },
            Found::Projects(projects) => {
                for name in self.core.garden().projects() {
                    if !projects.iter().any(|p| p.name == name) {
                        note(tree::remove_project(&self.connection, &self.core, &name).await);
                    }
                }
                for project in projects {
                    Box::pin(self.found(Found::Project(
                        project.name.clone(),
                        Some(Box::new(project)),
                    )))
                    .await;
                }
            }
        }
    }

    /// Signals what of the Manager has changed, once for a whole burst.
    async fn counts(&mut self) {
        let (count, store) = (self.core.garden().count(), self.core.store());
        let queued = self.core.engine().queued_count();
        let mut dict = Dict::new();
        let differ = count != self.count || queued != self.queued;
        self.count_waits = differ && Instant::now() < self.count_due;
        if differ && !self.count_waits {
            if count != self.count {
                convert::put(&mut dict, "LiveRunners", count);
            }
            if queued != self.queued {
                let queued = u32::try_from(queued).unwrap_or(u32::MAX);
                convert::put(&mut dict, "QueuedRunners", queued);
            }
            (self.count, self.queued) = (count, queued);
            self.count_due = Instant::now() + COUNT_PAUSE;
        }
        if store != self.store {
            convert::put(&mut dict, "Store", store);
            self.store = store;
        }
        let broker = self.core.broker();
        if broker != self.broker {
            convert::put(&mut dict, "Broker", broker);
            self.broker = broker;
        }
        let path = OwnedObjectPath::from(ObjectPath::from_static_str_unchecked(PATH));
        self.changed(path, MANAGER, &Dict::new(), dict).await;
    }

    /// Emits PropertiesChanged for what is different now.
    async fn changed(&self, path: OwnedObjectPath, of: &str, before: &Dict, mut after: Dict) {
        after.retain(|key, value| before.get(key) != Some(value));
        if after.is_empty() {
            return;
        }
        let none: [&str; 0] = [];
        let body = (of, after, &none[..]);
        let signal = self.connection.emit_signal(
            None::<&str>,
            path,
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            &body,
        );
        note(signal.await);
    }
}

/// The public particulars of a change.
fn details(runner: &Runner, position: Option<u64>) -> Dict {
    let mut dict = Dict::new();
    if let Some(name) = &runner.spec.name {
        convert::put(&mut dict, "name", name.clone());
    }
    convert::put(&mut dict, "user", runner.spec.user.clone());
    convert::put(&mut dict, "host", runner.host.clone());
    let times = [runner.created_at, runner.started_at, runner.ended_at];
    let time = times.into_iter().max().unwrap_or_default();
    convert::put(&mut dict, "time", time.0);
    if let Some(position) = position {
        convert::put(&mut dict, "seq", position);
    }
    dict
}

fn note(result: zbus::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "A signal or an object was not taken by the bus");
    }
}
