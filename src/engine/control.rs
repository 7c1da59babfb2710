//! What is asked of a runner that exists: done by its lane, or by the host that has it.

use super::lane::{self, Command};
use super::{Engine, Shared, store_error};
use crate::domain::event::Actor;
use crate::domain::order::Verb;
use crate::domain::{Error, ErrorKind, Limits, RunnerId, State};

impl Engine {
    /// Stops a runner: returns once `stopping` is recorded.
    pub async fn stop(&self, id: RunnerId, actor: Actor) -> Result<(), Error> {
        self.control(id, Verb::Stop, actor).await.map(drop)
    }

    /// Sends a signal to every process of a runner.
    pub async fn kill(&self, id: RunnerId, signal: i32, actor: Actor) -> Result<(), Error> {
        self.control(id, Verb::Kill(signal), actor).await.map(drop)
    }

    /// Freezes a runner; returns when all its processes stand still.
    pub async fn freeze(&self, id: RunnerId, actor: Actor) -> Result<(), Error> {
        self.control(id, Verb::Freeze, actor).await.map(drop)
    }

    /// Thaws a runner.
    pub async fn thaw(&self, id: RunnerId, actor: Actor) -> Result<(), Error> {
        self.control(id, Verb::Thaw, actor).await.map(drop)
    }

    /// Puts new values of some limits in force; the others stay. Returns warnings.
    pub async fn set_limits(
        &self,
        id: RunnerId,
        change: Limits,
        actor: Actor,
    ) -> Result<Vec<String>, Error> {
        self.control(id, Verb::Limit(change), actor).await
    }

    /// By its lane, or by its host if that is another one. Returns warnings.
    async fn control(&self, id: RunnerId, verb: Verb, actor: Actor) -> Result<Vec<String>, Error> {
        let shared = &self.0;
        if shared.has(id) {
            return shared.obey(id, verb, actor).await;
        }
        let row = shared.store.runner(id).await.map_err(store_error)?;
        let row = row.ok_or_else(|| {
            Error::new(ErrorKind::NoSuchRunner, format!("There is no runner {id}."))
        })?;
        let row = match row.state() {
            State::Queued => match shared.waiting(row, &verb, &actor).await? {
                None => return Ok(Vec::new()),
                // Its turn has come meanwhile.
                Some(row) => row,
            },
            _ => row,
        };
        if !row.state().is_live() {
            return Err(ended(id));
        }
        if row.host != shared.settings.host && !shared.settings.sole_host {
            return shared.ask_host(&row, verb, actor).await;
        }
        if shared.has(id) {
            return shared.obey(id, verb, actor).await;
        }
        Err(Error::new(
            ErrorKind::HostUnavailable,
            format!("Runner {id} is not adopted yet; try again in a moment."),
        ))
    }
}

impl Shared {
    pub(super) fn has(&self, id: RunnerId) -> bool {
        self.read(|live| live.contains_key(&id))
    }

    /// Hands it to the lane of a runner of this host.
    pub(super) async fn obey(
        &self,
        id: RunnerId,
        verb: Verb,
        actor: Actor,
    ) -> Result<Vec<String>, Error> {
        let done = |()| Vec::new();
        match verb {
            Verb::Stop => self
                .ask(id, |reply| Command::Stop { actor, reply })
                .await
                .map(done),
            Verb::Kill(signal) => self
                .ask(id, |reply| Command::Kill {
                    signal,
                    actor,
                    reply,
                })
                .await
                .map(done),
            Verb::Freeze => self
                .ask(id, |reply| Command::Freeze { actor, reply })
                .await
                .map(done),
            Verb::Thaw => self
                .ask(id, |reply| Command::Thaw { actor, reply })
                .await
                .map(done),
            // A launch is not of a runner that exists.
            Verb::Launch(_) => Err(Error::invalid("That is no order for a runner.")),
            Verb::Limit(change) => {
                self.ask(id, |reply| Command::Limit {
                    change,
                    actor,
                    reply,
                })
                .await
            }
        }
    }

    /// Hands a command to a runner's lane and waits for its answer.
    async fn ask<T>(
        &self,
        id: RunnerId,
        command: impl FnOnce(lane::Answer<T>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let sent = self.read(|live| live.get(&id).map(|e| e.lane.send(command(reply)).is_ok()));
        match sent {
            Some(true) => answer.await.unwrap_or_else(|_| Err(ended(id))),
            _ => Err(ended(id)),
        }
    }
}

fn ended(id: RunnerId) -> Error {
    Error::new(ErrorKind::WrongState, format!("Runner {id} has ended."))
}
