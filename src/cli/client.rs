//! The connection to stratavored.

use super::args::Global;
use super::bus;
use super::failure::{Failure, Result};
use super::password::Agent;
use super::remote::Remote;
use crate::api::errors::INTERACTIVE;
use crate::api::proxy::{Dict, Given, ManagerProxy};
use crate::domain::name::shown;
use crate::domain::nearest::nearest;
use crate::domain::project::absent;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, mpsc};
use zbus::proxy::{CacheProperties, MethodFlags};
use zbus::wire::{DynamicDeserialize, DynamicType};
use zbus::{Connection, Variant};

/// Rows in one page.
pub(super) const PAGE: u32 = 500;
/// A bus that is started again is back by then.
const BUS_BACK: Duration = Duration::from_secs(30);
/// How often is looked whether it is.
const LOOK: Duration = Duration::from_millis(500);

/// The connection, and how to use it.
#[derive(Debug)]
pub(super) struct Client {
    /// The bus may be started again while something is waited for: then there is a new one.
    manager: Mutex<ManagerProxy<'static>>,
    /// Another host than this one.
    host: Option<Remote>,
    ask_password: bool,
    /// One for the whole program, from the first call that needs it to the end.
    agent: OnceCell<Option<Agent>>,
}

/// A bus gives one user so many connections (dbus-daemon: 256): who comes later waits for the others to finish.
const BUS_FULL: Duration = Duration::from_secs(60);

async fn connection(host: Option<&Remote>) -> Result<Connection> {
    if let Some(host) = host {
        let connected = zbus::connection::Builder::address(host.address())
            .build()
            .await;
        return connected.map_err(|e| Failure::no_host(host, &e));
    }

    let until = tokio::time::Instant::now() + BUS_FULL;
    // Not all at the same moment: each has its own pace.
    let pace = LOOK / 5 + Duration::from_millis(u64::from(std::process::id() % 100));
    loop {
        match bus::connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if !is_full(&error) => return Err(Failure::no_bus(&error)),
            Err(error) if tokio::time::Instant::now() + pace >= until => {
                return Err(Failure::full_bus(&error));
            }
            Err(_) => tokio::time::sleep(pace).await,
        }
    }
}

fn is_full(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::FDO(error) => matches!(**error, zbus::fdo::Error::LimitsExceeded(_)),
        zbus::Error::MethodError(name, ..) => name.ends_with(".LimitsExceeded"),
        _ => false,
    }
}

/// A connection of one's own.
pub(super) async fn link(host: Option<&Remote>) -> Result<ManagerProxy<'static>> {
    let connection = connection(host).await?;
    ManagerProxy::builder(&connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await
        .map_err(|e| Failure::of_call(&e))
}

impl Client {
    pub(super) async fn connect(global: &Global) -> Result<Self> {
        Ok(Self {
            manager: Mutex::new(link(global.host.as_ref()).await?),
            host: global.host.clone(),
            // polkit there can't ask here.
            ask_password: !global.no_ask_password && global.host.is_none(),
            agent: OnceCell::new(),
        })
    }

    /// The other end.
    pub(super) fn manager(&self) -> ManagerProxy<'static> {
        let manager = self.manager.lock();
        manager.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After the connection was lost: a new one within half a minute. What was subscribed to
    /// has to be subscribed to again.
    pub(super) async fn reconnect(&self) -> Result<()> {
        let until = tokio::time::Instant::now() + BUS_BACK;
        loop {
            tokio::time::sleep(LOOK).await;
            let failure = match tokio::time::timeout_at(until, link(self.host.as_ref())).await {
                Ok(Ok(manager)) => {
                    *self.manager.lock().unwrap_or_else(PoisonError::into_inner) = manager;
                    return Ok(());
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::lost("the bus does not answer"),
            };
            if tokio::time::Instant::now() + LOOK >= until {
                return Err(Failure::new(
                    super::failure::FAILED,
                    format!(
                        "The connection to the bus was lost and did not come back. {}",
                        failure.message
                    ),
                ));
            }
        }
    }

    /// A call that may need a password: only when it does, somebody is asked.
    pub(super) async fn call<B, R>(&self, method: &str, body: &B) -> Result<R>
    where
        B: serde::Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        match self.once(method, MethodFlags::empty(), body).await {
            Err(failure) if failure.is(INTERACTIVE) && self.ask_password => {
                self.agent.get_or_init(Agent::start).await;
                self.once(method, MethodFlags::ALLOW_INTERACTIVE_AUTH, body)
                    .await
            }
            other => other,
        }
    }

    async fn once<B, R>(&self, method: &str, flags: MethodFlags, body: &B) -> Result<R>
    where
        B: serde::Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        let manager = self.manager();
        match manager.inner().call_with_flags(method, flags, body).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Failure::new(super::failure::FAILED, "There was no reply.")),
            Err(error) => Err(Failure::of_call(&error)),
        }
    }

    /// Everything about a runner.
    pub(super) async fn describe(&self, runner: &str) -> Result<Dict> {
        match self.manager().describe(runner).await {
            Ok(described) => Ok(described),
            Err(error) => Err(self.suggest_runner(Failure::of_call(&error), runner).await),
        }
    }

    /// The same; where something of it is hidden, a password may be asked for.
    pub(super) async fn describe_all(&self, runner: &str) -> Result<Dict> {
        let described = self.describe(runner).await?;
        if described.contains_key("command") || !self.ask_password {
            return Ok(described);
        }
        match self.agent.get_or_init(Agent::start).await {
            None => Ok(described),
            Some(_) => {
                let id = text(&described, "id");
                let flags = MethodFlags::ALLOW_INTERACTIVE_AUTH;
                self.once("Describe", flags, &id).await
            }
        }
    }

    /// All runners that fit, page by page, newest first.
    pub(super) async fn runners(
        &self,
        mut filter: Given<'_>,
        limit: Option<u32>,
    ) -> Result<Vec<Dict>> {
        let mut out = Vec::new();
        loop {
            let left = limit.map_or(u32::MAX, |l| l.saturating_sub(out.len() as u32));
            filter.insert("limit", left.min(PAGE).into());
            let page = self.manager().list_runners(&filter).await;
            let page = page.map_err(|e| Failure::of_call(&e))?;
            if let Some(last) = page.last() {
                filter.insert("after", text(last, "id").to_owned().into());
            }
            let last = page.len() < left.min(PAGE) as usize;
            out.extend(page);
            if last || limit.is_some_and(|l| out.len() >= l as usize) {
                return Ok(out);
            }
        }
    }

    /// Says which project may have been meant, if this was about one that is not there.
    pub(super) async fn suggest(&self, mut failure: Failure, project: &str) -> Failure {
        if failure.is("NoSuchProject")
            && !failure.message.contains("Did you mean")
            && let Ok(projects) = self.manager().list_projects().await
            && let Some(near) = nearest(project, projects.iter().map(|p| text(p, "name")))
        {
            let absent = absent(project);
            let meant = format!("{absent} Did you mean {near}?");
            failure.message = failure.message.replacen(&absent, &meant, 1);
        }
        failure
    }

    /// Says which runner may have been meant, if this was about one that is not there.
    pub(super) async fn suggest_runner(&self, mut failure: Failure, runner: &str) -> Failure {
        if failure.is("NoSuchRunner") && runner.len() < 36 {
            let names = self.names().await;
            if let Some(near) = nearest(runner, names.iter().map(String::as_str)) {
                failure.message = format!("{} Did you mean “{near}”?", failure.message);
            }
        }
        failure
    }

    /// Why nothing fits. A project that is not there is a failure; that no live runner has a label is none, and where
    /// another has one much like it, a note (`Ok`) says so.
    pub(super) async fn why_nothing(
        &self,
        project: Option<&str>,
        labels: &[String],
    ) -> Result<Option<String>> {
        if let Some(project) = project {
            let projects = self.manager().list_projects().await;
            let projects = projects.map_err(|e| Failure::of_call(&e))?;
            if !projects.iter().any(|p| text(p, "name") == project) {
                let failure = Failure::no_such("NoSuchProject", absent(project));
                return Err(self.suggest(failure, project).await);
            }
        }
        if labels.is_empty() {
            return Ok(None);
        }
        let runners = self.runners(Given::new(), Some(PAGE)).await?;
        let words = |r| labels_of(r).into_iter().map(|(k, v)| format!("{k}={v}"));
        let known: BTreeSet<String> = runners.iter().flat_map(words).collect();
        let Some(wrong) = labels.iter().find(|l| !known.contains(*l)) else {
            return Ok(None);
        };
        let near = nearest(wrong, known.iter().map(String::as_str));
        Ok(near.map(|near| {
            format!(
                "No live runner has the label “{}”. Did you mean “{}”?",
                shown(wrong),
                shown(near)
            )
        }))
    }

    /// The names of live runners and of those that ended lately; none where that can't be found out.
    pub(super) async fn names(&self) -> Vec<String> {
        let filter = Given::from([("all", true.into()), ("limit", PAGE.into())]);
        let page = self
            .manager()
            .list_runners(&filter)
            .await
            .unwrap_or_default();
        let mut names: Vec<String> = page.iter().map(|r| text(r, "name").to_owned()).collect();
        names.retain(|n| !n.is_empty());
        names
    }

    /// Ids of runners as they end. The signals are taken off the connection as they come: what
    /// is not taken holds up the answers behind it. They end with the connection.
    pub(super) async fn endings(&self) -> Result<mpsc::UnboundedReceiver<String>> {
        let signals = self.manager().receive_runner_ended().await;
        let mut signals = signals.map_err(|e| Failure::of_call(&e))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(signal) = signals.next().await {
                if let Ok(args) = signal.args()
                    && sender.send((*args.runner()).to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

/// The text of a key; empty if there is none.
pub(super) fn text<'a>(dict: &'a Dict, key: &str) -> &'a str {
    match dict.get(key).map(|v| &**v) {
        Some(Variant::Str(text)) => text.as_str(),
        _ => "",
    }
}

/// The number of a key.
pub(super) fn number(dict: &Dict, key: &str) -> Option<u64> {
    match dict.get(key).map(|v| &**v)? {
        Variant::U64(n) => Some(*n),
        Variant::U32(n) => Some((*n).into()),
        Variant::I32(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// The labels of a runner, where they are shown.
pub(super) fn labels_of(runner: &Dict) -> BTreeMap<String, String> {
    let found = runner.get("labels").and_then(|v| v.try_clone().ok());
    found.and_then(|v| v.try_into().ok()).unwrap_or_default()
}

/// The dictionary of a key; empty if there is none.
pub(super) fn dict(of: &Dict, key: &str) -> Dict {
    let found = of.get(key).and_then(|v| v.try_clone().ok());
    found
        .and_then(|v| Dict::try_from(v).ok())
        .unwrap_or_default()
}

/// The list of dictionaries of a key.
pub(super) fn dicts(of: &Dict, key: &str) -> Vec<Dict> {
    let found = of.get(key).and_then(|v| v.try_clone().ok());
    found
        .and_then(|v| Vec::<Dict>::try_from(v).ok())
        .unwrap_or_default()
}

/// The list of texts of a key; `None` if there is none.
pub(super) fn texts(of: &Dict, key: &str) -> Option<Vec<String>> {
    let found = of.get(key)?.try_clone().ok()?;
    Vec::<String>::try_from(found).ok()
}
