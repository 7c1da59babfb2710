//! Launches on another host through the store: asked for here, or carried out here for another host.
//!
//! The host that is asked of decides whether its caller may launch, and as whom; the host that runs it asks
//! root's hand, the agent, whether launches from there and as that user are taken at all. The
//! runner's id is chosen here and its row written there only while the order is open, so there is one
//! runner or none, wherever either daemon is killed.

use super::peers::ASK;
use super::{Engine, LaunchRequest, PlacedOrder, digest, host_error, store_error};
use crate::crash;
use crate::domain::event::Actor;
use crate::domain::exit::Cause;
use crate::domain::host::{Host, Standing};
use crate::domain::name::shown;
use crate::domain::order::{Order, Progress, Right, Verb};
use crate::domain::placed::{Placed, Placing, WORD_MAX};
use crate::domain::{Error, ErrorKind, RunnerId, RunnerSpec, State, Timestamp};
use crate::ports::StoreError;
use std::time::Duration;
use tokio::time::Instant;

/// How long a runner that has its row may take to be told of: its host may have been lost at work.
const BEGUN_MAX: Duration = Duration::from_secs(60);
/// After how long a runner whose row says that it runs has been exec'd.
const SURE: Duration = Duration::from_secs(15);

impl Engine {
    /// Launches on another host of the fleet (its id) through the store; returns when its command has been
    /// exec'd there, or when it waits for its turn.
    pub async fn launch_at(
        &self,
        host: &str,
        request: LaunchRequest,
        actor: Actor,
    ) -> Result<RunnerId, Error> {
        let shared = &self.0;
        if !request.inputs.is_empty() || request.streams.given() != [false; 3] {
            return Err(not_through_the_store());
        }
        let (now, hosts) = self.hosts().await?;
        let target = hosts.iter().find(|h| h.about.host == host);
        let target = target.ok_or_else(|| no_fleet(host))?;
        let name = shown(&target.about.name);
        let standing = target.standing_at(now);
        if standing != Standing::Up {
            return Err(Error::new(
                ErrorKind::HostUnavailable,
                format!(
                    "Host {name} is {}; nothing was launched. See: stratavorectl host list.",
                    standing.as_str()
                ),
            ));
        }
        let right = match actor.user.as_deref() == Some(&request.spec.user) {
            true => Right::Own,
            false => Right::Any,
        };
        let digest = digest::of(&request);
        let placing = Placing {
            request: request.request_id.map(|id| (id, digest)),
            spec: request.spec,
            queue: request.queue,
        };
        placing.check_size(&request.setenv)?;
        let id = RunnerId::from_uuid(uuid::Uuid::now_v7());
        let order = Order {
            id: id.to_string(),
            target: host.to_owned(),
            runner: id,
            verb: Verb::Launch(Box::new(placing)),
            actor,
            right,
            from: shared.settings.host.clone(),
            expires_at: Timestamp(0),
            setenv: request.setenv,
        };
        match shared.store.order(order).await {
            Ok(()) => {
                crash::point("placing.asked");
                self.placed(id, &name).await
            }
            // It may have been written all the same, if only the answer was lost.
            Err(error @ StoreError::Unavailable(_)) => Err(unseen(id, &name, error)),
            Err(error) => Err(store_error(error)),
        }
    }

    /// Waits until a launch on another host is decided.
    async fn placed(&self, id: RunnerId, host: &str) -> Result<RunnerId, Error> {
        let store = &self.0.store;
        let unseen = |error| unseen(id, host, error);
        let mut begun = None;
        loop {
            tokio::time::sleep(ASK).await;
            match store.outcome(&id.to_string()).await.map_err(unseen)? {
                Progress::Over(outcome) => return outcome.into_runner(),
                Progress::Waits => {}
                Progress::Begun => {
                    let since = *begun.get_or_insert_with(Instant::now);
                    let runner = store.runner(id).await.map_err(unseen)?;
                    let state = runner.as_ref().map_or(State::Starting, |r| r.state());
                    match (state, runner.and_then(|r| r.exit)) {
                        (State::Queued, _) => return Ok(id),
                        (State::Ended, Some(exit)) if exit.cause == Cause::LaunchFailed => {
                            let why = format!("{} (runner {id})", exit.message);
                            return Err(Error::new(ErrorKind::LaunchFailed, why));
                        }
                        (State::Ended, _) => return Ok(id),
                        // A command that could not be exec'd would have ended by now: the answer was lost.
                        (State::Running | State::Frozen | State::Stopping, _)
                            if since.elapsed() > SURE =>
                        {
                            return Ok(id);
                        }
                        _ if since.elapsed() < BEGUN_MAX => {}
                        _ => {
                            return Err(Error::new(
                                ErrorKind::HostUnavailable,
                                format!(
                                    "Host {host} has begun the launch of runner {id} and has not said how it fares. See: stratavorectl show {id}."
                                ),
                            ));
                        }
                    }
                }
            }
        }
    }

    /// Launches here what another host asks for.
    pub(super) async fn launch_for(
        &self,
        order: &Order,
        placing: &Placing,
    ) -> Result<RunnerId, Error> {
        let shared = &self.0;
        shared.in_time(order)?;
        shared.ready()?;
        placing.check(&order.setenv)?;
        let (now, hosts) = self.hosts().await?;
        let asked_at = hosts
            .iter()
            .find(|h| h.about.host == order.from && h.is_up(now));
        let placed = origin(order, asked_at, &shared.settings.host)?;
        let asked = placing.spec.user.clone();
        if order.right == Right::Own && order.actor.user.as_ref() != Some(&asked) {
            let message = "Whoever asks may launch as themself alone, and names another user.";
            return Err(Error::new(ErrorKind::NotPermitted, message));
        }
        let account = shared.host.place(placed.clone(), asked).await;
        let (uid, user) = account.map_err(host_error)?;
        let (request_id, digest) = placing.request.clone().unzip();
        let request = LaunchRequest {
            spec: RunnerSpec {
                uid,
                user,
                placed: Some(placed),
                ..placing.spec.clone()
            },
            setenv: order.setenv.clone(),
            request_id,
            inputs: Default::default(),
            streams: Default::default(),
            queue: placing.queue,
            order: Some(PlacedOrder {
                id: order.runner,
                digest: digest.unwrap_or_default(),
            }),
        };
        let launched = self.launch(request, order.actor.clone()).await?;
        Ok(launched.runner.id)
    }
}

fn unseen(id: RunnerId, host: &str, error: StoreError) -> Error {
    let on_its_way =
        format!("The launch is on its way to host {host}, as runner {id} if it comes to one");
    super::words::unseen(&on_its_way, id, error)
}

/// Where an order comes from: a host of the fleet that is up, and not this one.
fn origin(order: &Order, from: Option<&Host>, here: &str) -> Result<Placed, Error> {
    let long = |word: &Option<String>| word.as_ref().is_some_and(|w| w.len() > WORD_MAX);
    let control =
        |word: &Option<String>| word.as_ref().is_some_and(|w| w.contains(char::is_control));
    let strange = long(&order.actor.user)
        || control(&order.actor.user)
        || long(&order.actor.host)
        || order.id != order.runner.to_string()
        || order.actor.host.as_ref() != Some(&order.from);
    match from {
        Some(host) if host.about.host != here && host.about.name.len() <= WORD_MAX && !strange => {
            Ok(Placed {
                host: order.from.clone(),
                name: host.about.name.clone(),
                uid: order.actor.uid,
                user: order.actor.user.clone(),
            })
        }
        _ => Err(Error::new(
            ErrorKind::NotPermitted,
            format!(
                "{} is no other host of the fleet that is up.",
                shown(&order.from)
            ),
        )),
    }
}

/// What goes with a launch and can't go through the store.
pub(crate) fn not_through_the_store() -> Error {
    Error::invalid(
        "Streams (--pipe), load-credential and env-file do not go through the store; launch by ssh (stratavorectl run --on HOST), or on the host itself.",
    )
}

fn no_fleet(host: &str) -> Error {
    Error::new(
        ErrorKind::NoSuchHost,
        format!(
            "No host {} has ever joined. See: stratavorectl host list.",
            shown(host)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_is_a_host_of_the_fleet_and_never_this_one() {
        let id = RunnerId::from_uuid(uuid::Uuid::nil());
        let order = |from: &str, asker: &str| Order {
            id: id.to_string(),
            target: "h2".to_owned(),
            runner: id,
            verb: Verb::Stop,
            actor: Actor {
                uid: Some(7),
                user: Some("alice".to_owned()),
                host: Some(asker.to_owned()),
                unit: None,
            },
            right: Right::Own,
            from: from.to_owned(),
            expires_at: Timestamp(0),
            setenv: Vec::new(),
        };
        let host = crate::domain::host::Host::sample("h1", "web1");
        let placed = origin(&order("h1", "h1"), Some(&host), "h2").unwrap();
        assert_eq!((placed.name.as_str(), placed.uid), ("web1", Some(7)));
        assert!(
            origin(&order("h1", "h1"), None, "h2").is_err(),
            "unknown, or not up"
        );
        assert!(
            origin(&order("h1", "h1"), Some(&host), "h1").is_err(),
            "itself"
        );
        assert!(
            origin(&order("h1", "h3"), Some(&host), "h2").is_err(),
            "for another one"
        );
        let other = Order {
            id: "another".to_owned(),
            ..order("h1", "h1")
        };
        assert!(origin(&other, Some(&host), "h2").is_err());
    }
}
