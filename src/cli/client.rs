//! The connection to stratavored.

use super::args::Global;
use super::failure::{Failure, Result};
use super::password::Agent;
use crate::api::errors::INTERACTIVE;
use crate::api::proxy::{Dict, Given, ManagerProxy};
use crate::domain::nearest::nearest;
use futures_util::StreamExt;
use std::sync::Mutex;
use tokio::sync::mpsc;
use zbus::proxy::{CacheProperties, MethodFlags};
use zbus::wire::{DynamicDeserialize, DynamicType};
use zbus::{Connection, Variant};

/// Rows in one page.
pub(super) const PAGE: u32 = 500;

/// The connection, and how to use it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) manager: ManagerProxy<'static>,
    pub(super) user: bool,
    ask_password: bool,
    agent: Mutex<Option<Agent>>,
}

impl Client {
    pub(super) async fn connect(global: &Global) -> Result<Self> {
        let connected = match global.user {
            true => Connection::session().await,
            false => Connection::system().await,
        };
        let connection = connected.map_err(|e| Failure::no_bus(global.user, &e))?;
        Self::over(&connection, global).await
    }

    pub(super) async fn over(connection: &Connection, global: &Global) -> Result<Self> {
        let manager = ManagerProxy::builder(connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(|e| Failure::of_call(&e, global.user))?;
        Ok(Self {
            manager,
            user: global.user,
            ask_password: !global.no_ask_password,
            agent: Mutex::new(None),
        })
    }

    /// The failure behind an error.
    pub(super) fn failure(&self, error: &zbus::Error) -> Failure {
        Failure::of_call(error, self.user)
    }

    /// A call that may need a password: only when it does, somebody is asked.
    pub(super) async fn call<B, R>(&self, method: &str, body: &B) -> Result<R>
    where
        B: serde::Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        match self.once(method, MethodFlags::empty(), body).await {
            Err(failure) if failure.is(INTERACTIVE) && self.ask_password => {
                let agent = Agent::start(self.user);
                if let Ok(mut kept) = self.agent.lock() {
                    *kept = agent;
                }
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
        let proxy = self.manager.inner();
        match proxy.call_with_flags(method, flags, body).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Failure::new(super::failure::FAILED, "There was no reply.")),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Everything about a runner.
    pub(super) async fn describe(&self, runner: &str) -> Result<Dict> {
        let described = self.manager.describe(runner).await;
        described.map_err(|e| self.failure(&e))
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
            let page = self.manager.list_runners(&filter).await;
            let page = page.map_err(|e| self.failure(&e))?;
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
            && let Ok(projects) = self.manager.list_projects().await
            && let Some(near) = nearest(project, projects.iter().map(|p| text(p, "name")))
        {
            failure.message = format!("{} Did you mean “{near}”?", failure.message);
        }
        failure
    }

    /// Ids of runners as they end. The signals are taken off the connection as they come: what
    /// is not taken holds up the answers behind it.
    pub(super) async fn endings(&self) -> Result<mpsc::UnboundedReceiver<String>> {
        let signals = self.manager.receive_runner_ended().await;
        let mut signals = signals.map_err(|e| self.failure(&e))?;
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

/// The dictionary of a key; empty if there is none.
pub(super) fn dict(of: &Dict, key: &str) -> Dict {
    let found = of.get(key).and_then(|v| v.try_clone().ok());
    found
        .and_then(|v| Dict::try_from(v).ok())
        .unwrap_or_default()
}

/// The list of texts of a key; `None` if there is none.
pub(super) fn texts(of: &Dict, key: &str) -> Option<Vec<String>> {
    let found = of.get(key)?.try_clone().ok()?;
    Vec::<String>::try_from(found).ok()
}
