//! Runners of other hosts: orders go to their host through the store, and orders of other hosts
//! are carried out here.
//!
//! The host that is asked has decided whether its caller may; this one checks once more that an
//! owner is one. Whoever may write into the store as a host of the fleet is believed beyond that.

use super::audit::Noted;
use super::hands::Hands;
use super::words::unseen;
use super::{Engine, Shared, store_error};
use crate::crash;
use crate::domain::event::Actor;
use crate::domain::kinds;
use crate::domain::order::{Order, Outcome, Progress, Right, Verb};
use crate::domain::{Error, ErrorKind, Runner, RunnerId, Timestamp};
use crate::ports::StoreError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks for orders.
const LOOK: Duration = Duration::from_millis(400);
/// Between two looks for what came of one.
pub(super) const ASK: Duration = Duration::from_millis(150);
/// How often and after what pause an answer is tried to be written.
const ANSWERS: usize = 8;
const AGAIN: Duration = Duration::from_secs(1);

impl Shared {
    /// Has a runner's own host do it, and waits until it has, or has not in time.
    pub(super) async fn ask_host(
        &self,
        runner: &Runner,
        verb: Verb,
        actor: Actor,
    ) -> Result<Vec<String>, Error> {
        let id = uuid::Uuid::now_v7().to_string();
        let right = match owns(&actor, runner) {
            true => Right::Own,
            false => Right::Any,
        };
        let order = Order {
            id: id.clone(),
            target: runner.host.clone(),
            runner: runner.id,
            verb,
            actor,
            right,
            from: self.settings.host.clone(),
            expires_at: Timestamp(0),
            setenv: Vec::new(),
        };
        let on_its_way = "The order is on its way to the runner's host";
        let unseen = |error| unseen(on_its_way, runner.id, error);
        self.store.order(order).await.map_err(|error| match error {
            // It may have been written all the same, if only the answer was lost.
            StoreError::Unavailable(_) => unseen(error),
            _ => store_error(error),
        })?;
        loop {
            tokio::time::sleep(ASK).await;
            match self.store.outcome(&id).await {
                Ok(Progress::Over(outcome)) => return outcome.into_result(),
                Ok(_) => {}
                Err(error) => return Err(unseen(error)),
            }
        }
    }

    async fn carry_out(self: Arc<Self>, order: Order) {
        crash::point("fleet.order-taken");
        let outcome = match &order.verb {
            Verb::Launch(placing) => {
                match Engine(Arc::clone(&self)).launch_for(&order, placing).await {
                    Ok(id) => Outcome::Launched(id),
                    Err(error) => Outcome::of(Err(error)),
                }
            }
            _ => Outcome::of(self.obey_order(&order).await),
        };
        self.note_refused(&order, &outcome);
        tracing::info!(message_id = kinds::ORDER_FROM_HOST.id, runner = %order.runner, uid = order.actor.uid, user = order.actor.user, from = order.from, "Order of another host: {}", said(&order.verb));
        crash::point("fleet.order-done");
        self.answer_order(&order, outcome).await;
    }

    /// What another host's user may not do here is in this host's audit, too.
    fn note_refused(&self, order: &Order, outcome: &Outcome) {
        let Err(error) = outcome.clone().into_result() else {
            return;
        };
        if error.kind != ErrorKind::NotPermitted || !self.store.keeps() {
            return;
        }
        let whom = (order.from.clone(), order.actor.uid);
        let Some(count) = self.audit.refused.count(whom, tokio::time::Instant::now()) else {
            return;
        };
        let (project, method) = match &order.verb {
            Verb::Launch(placing) => (placing.spec.project.to_string(), "Launch".to_owned()),
            other => (String::new(), format!("{other:?}")),
        };
        let noted = Noted {
            project,
            subject: format!("runner/{}", order.runner),
            result: "refused".to_owned(),
            data: serde_json::json!({ "method": method, "from": order.from, "why": error.message, "count": count }),
        };
        self.note(noted.act("act.refused", order.actor.clone()));
    }

    async fn answer_order(&self, order: &Order, outcome: Outcome) {
        for _ in 0..ANSWERS {
            match self.store.answer(&order.id, outcome.clone()).await {
                Err(StoreError::Unavailable(_) | StoreError::Fenced) => {
                    tokio::time::sleep(AGAIN).await;
                }
                Ok(()) | Err(StoreError::Refused(_)) => return,
            }
        }
    }

    async fn obey_order(&self, order: &Order) -> Result<Vec<String>, Error> {
        let id = order.runner;
        self.in_time(order)?;
        let runner = self
            .read(|live| live.get(&id).map(|e| Arc::clone(&e.runner)))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::WrongState,
                    format!(
                        "Runner {id} does not run on that host any more, or is not adopted yet."
                    ),
                )
            })?;
        if order.right == Right::Own && !owns(&order.actor, &runner) {
            let message = format!("Runner {id} belongs to another user.");
            return Err(Error::new(ErrorKind::NotPermitted, message));
        }
        self.obey(id, order.verb.clone(), order.actor.clone()).await
    }

    /// It was taken in time; what came of that may have been told late, or this machine slept.
    pub(super) fn in_time(&self, order: &Order) -> Result<(), Error> {
        match self.policy.clock() {
            Some(now) if now >= order.expires_at => Err(Error::new(
                ErrorKind::HostUnavailable,
                "The host that was asked took the order too late; it is not carried out. Ask again.",
            )),
            _ => Ok(()),
        }
    }
}

/// The same number under the same name: users of different hosts may share one of them. Or who has
/// placed it there.
fn owns(actor: &Actor, runner: &Runner) -> bool {
    let spec = &runner.spec;
    let placed = spec.placed.as_ref();
    (actor.uid == Some(spec.uid) && actor.user.as_deref() == Some(&spec.user))
        || placed.is_some_and(|placed| placed.is_own(actor, &spec.user))
}

/// An order for the journal: what is launched is nobody's business there.
fn said(verb: &Verb) -> String {
    match verb {
        Verb::Launch(placing) => format!("Launch for project {}", placing.spec.project),
        other => format!("{other:?}"),
    }
}

/// Carries out what other hosts ask for, for ever.
pub(super) async fn serve(shared: Arc<Shared>) {
    let hands = Hands::default();
    loop {
        tokio::time::sleep(LOOK).await;
        // What is taken is carried out at once: it must not wait here and be late.
        if !shared.health.borrow().adopted {
            continue;
        }
        // Its failure is seen by whoever looks after the store.
        let Ok(orders) = shared.store.take_orders(&shared.settings.host).await else {
            continue;
        };
        let mut by_runner: BTreeMap<RunnerId, Vec<_>> = BTreeMap::new();
        for order in orders {
            let hand = match order.verb {
                Verb::Launch(_) => Some(hands.take(&order.actor)),
                _ => None,
            };
            by_runner
                .entry(order.runner)
                .or_default()
                .push((order, hand));
        }
        for orders in by_runner.into_values() {
            let shared = Arc::clone(&shared);
            // A freeze and a thaw of one runner do not change places.
            tokio::spawn(async move {
                for (order, hand) in orders {
                    match hand {
                        Some(Err(busy)) => {
                            shared.answer_order(&order, Outcome::of(Err(busy))).await
                        }
                        hand => {
                            Arc::clone(&shared).carry_out(order).await;
                            drop(hand);
                        }
                    }
                }
            });
        }
    }
}
