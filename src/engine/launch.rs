//! The launch saga: T1, scope, T2, gate. Each step has its undo; wherever it is cut off, at
//! most one exec has happened.
//!
//! | cut off after | what is left | who clears it up |
//! |---|---|---|
//! | T1 | row `starting` | reconciliation: nothing is there → `launch-failed` |
//! | the scope | shim at its gate | its gate closes with our connection: it writes `never_started` |
//! | T2 | row `running`, shim at its gate | the same |
//! | the gate | a running command | reconciliation adopts it |

use super::lane::{self, Lane, Pending};
use super::turn::AGAIN_MAX;
use super::words::closing;
use super::{Engine, LAUNCHES_MAX, LaunchRequest, Shared, digest, host_error, now, store_error};
use crate::crash;
use crate::domain::event::Actor;
use crate::domain::exit::{Cause, Exit, Usage};
use crate::domain::kinds;
use crate::domain::runner::{Change, Step};
use crate::domain::{Error, ErrorKind, Runner, RunnerId};
use crate::metrics::LaunchResult;
use crate::ports::{Admitted, HostError, LaunchOrder, NewRunner, RequestKey, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a caller waits for the store to admit its launch.
const ADMIT_MAX: Duration = Duration::from_secs(15);
/// How long a caller waits to learn how its command fared when the agent broke off at the very
/// moment the gate was to be opened, or until the ending of a failed exec is in the store.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Why nothing came of a launch that the store has decided too late.
pub(super) const LATE: &str =
    "The store admitted it after its caller had been sent away; nothing ran.";

/// What a launch came to.
#[derive(Debug, Clone)]
pub struct Launched {
    /// The runner as it was when its command had started, or when it began to wait.
    pub runner: Runner,
    /// The request id was used before: this is the first launch's runner, as it is now.
    pub repeated: bool,
}

impl Engine {
    /// Launches a runner; returns when its command has been exec'd, or when it waits for its turn.
    /// The launch goes on if the caller goes away.
    pub async fn launch(&self, request: LaunchRequest, actor: Actor) -> Result<Launched, Error> {
        let (reply, answer) = oneshot::channel();
        let engine = self.clone();
        tokio::spawn(async move { engine.saga(request, actor, reply).await });
        answer.await.unwrap_or_else(|_| Err(closing()))
    }

    async fn saga(
        self,
        mut request: LaunchRequest,
        actor: Actor,
        mut reply: lane::Answer<Launched>,
    ) {
        let shared = Arc::clone(&self.0);
        let began = tokio::time::Instant::now();
        let project = request.spec.project.clone();
        let came_to = |result| shared.metrics.launch(project.as_str(), result);
        if let Err(error) = shared.ready() {
            came_to(LaunchResult::Unavailable);
            let _ = reply.send(Err(error));
            return;
        }
        let id = request.id();
        let (share, full) = match shared.take_share(id, &request.spec) {
            Ok(share) => (Some(share), None),
            // Its runner may be there already, and then the caller is told of it.
            Err(error) if request.request_id.is_some() => (None, Some(error)),
            Err(error) => {
                came_to(LaunchResult::Refused);
                let _ = reply.send(Err(error));
                return;
            }
        };
        let turn = Arc::clone(&shared.launches).acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(ADMIT_MAX, turn).await else {
            came_to(LaunchResult::Unavailable);
            let _ = reply.send(Err(busy()));
            return;
        };
        if reply.is_closed() {
            // Its caller has gone, and may be asking again.
            return;
        }
        let closed = shared.closing().then(closing);
        if let Err(error) = closed.map_or_else(|| shared.ready(), Err) {
            came_to(LaunchResult::Unavailable);
            let _ = reply.send(Err(error));
            return;
        }
        let project_changes = shared.project_changes.load(Ordering::SeqCst);
        if request.order.is_some() != request.spec.placed.is_some() {
            let _ = reply.send(Err(Error::invalid(
                "It is not said where this launch was asked for.",
            )));
            return;
        }
        let request_key = request.request_id.as_ref().map(|id| RequestKey {
            uid: actor.uid.unwrap_or(request.spec.uid),
            id: id.clone(),
            digest: match &request.order {
                Some(order) => order.digest.clone(),
                None => digest::of(&request),
            },
        });
        let terms = shared.terms();
        request.spec.limits = request.spec.limits.or(&terms.limits);
        if let Err(error) = shared.check_fence(&request.spec.limits) {
            came_to(LaunchResult::Refused);
            let _ = reply.send(Err(error));
            return;
        }
        // Where there is no place for it, its runner is there or it is refused: nothing is kept.
        request.queue &= full.is_none();
        if let Err(error) = shared.queue.keep(id, &request, &actor).await {
            came_to(LaunchResult::Refused);
            let _ = reply.send(Err(error));
            return;
        }
        let new = NewRunner {
            id,
            spec: request.spec,
            host: shared.settings.host.clone(),
            host_max: terms.host_max,
            request: request_key,
            queue: request.queue,
            full,
            order: request.order.as_ref().map(|order| order.id.to_string()),
            actor: actor.clone(),
            at: now(),
        };
        let asked = new.at;
        crash::point("daemon.before-t1");
        // A transaction may not be cancelled, but a caller needn't wait for ever.
        let store = Arc::clone(&shared.store);
        let epoch = shared.lease.epoch();
        let mut admission = tokio::spawn(async move { store.admit(new).await });
        let mut late = false;
        let admitted = match tokio::time::timeout(ADMIT_MAX, &mut admission).await {
            Ok(admitted) => admitted,
            Err(_) => {
                late = true;
                shared.note_store(Some("it hangs".to_owned()));
                let error =
                    StoreError::Unavailable(format!("no answer within {} s", ADMIT_MAX.as_secs()));
                let _ = std::mem::replace(&mut reply, oneshot::channel().0)
                    .send(Err(store_error(error)));
                admission.await
            }
        };
        let admitted =
            admitted.unwrap_or_else(|_| Err(StoreError::Unavailable("its task ended".to_owned())));
        shared.note_fenced(epoch, &admitted);
        if request.queue && !matches!(admitted, Ok(Admitted::New { .. } | Admitted::Queued { .. }))
        {
            shared.queue.throw_away(id).await;
        }
        let (runner, project_limits) = match admitted {
            Err(error) => {
                came_to(match &error {
                    StoreError::Unavailable(_) | StoreError::Fenced => LaunchResult::Unavailable,
                    StoreError::Refused(_) => LaunchResult::Refused,
                });
                if let StoreError::Unavailable(why) = &error {
                    shared.note_store(Some(why.clone()));
                }
                let _ = reply.send(Err(store_error(error)));
                return;
            }
            Ok(Admitted::Repeated(runner)) => {
                let runner = shared
                    .read(|live| live.get(&runner.id).map(|e| e.runner.as_ref().clone()))
                    .unwrap_or(runner);
                // A launch that failed has failed: the same request is not tried again.
                let failed = runner
                    .exit
                    .as_ref()
                    .filter(|e| e.cause == Cause::LaunchFailed);
                let answer = match failed {
                    Some(exit) => Err(Error::new(
                        ErrorKind::LaunchFailed,
                        format!(
                            "{} (runner {}, launched before with this request id; use another one to try again)",
                            exit.message, runner.id
                        ),
                    )),
                    None => Ok(Launched {
                        runner,
                        repeated: true,
                    }),
                };
                let _ = reply.send(answer);
                return;
            }
            Ok(Admitted::Queued {
                runner,
                gate,
                event,
            }) => {
                came_to(LaunchResult::Queued);
                crash::point("queue.row-written");
                tracing::info!(message_id = kinds::RUNNER_QUEUED.id, runner = %id, project = %runner.spec.project, uid = runner.spec.uid, user = runner.spec.user, gate = gate.name, "Runner waits for its turn");
                shared.has_queued(runner.clone(), event, late).await;
                let _ = reply.send(Ok(Launched {
                    runner,
                    repeated: false,
                }));
                return;
            }
            Ok(Admitted::Denied { gate, error, event }) => {
                came_to(LaunchResult::Denied);
                shared.metrics.denied(gate.name);
                // Of many denials within a second one event is written, and one line.
                if event.draft.at == asked {
                    tracing::info!(
                        message_id = kinds::ADMISSION_DENIED.id,
                        project = event.draft.project,
                        uid = actor.uid,
                        user = actor.user,
                        "Launch denied: {}",
                        error.message
                    );
                }
                shared.publish(Some(event), None, None);
                let _ = reply.send(Err(error));
                return;
            }
            Ok(Admitted::New {
                runner,
                project_limits,
                event,
            }) => {
                shared.publish(Some(event), Some(Arc::new(runner.clone())), None);
                (runner, project_limits)
            }
        };
        let kept = shared.queue.keeps(&runner, request.queue).await;
        crash::point("daemon.after-t1");

        let order = LaunchOrder {
            id: runner.id,
            spec: runner.spec.clone(),
            setenv: request.setenv,
            project_limits,
            inputs: request.inputs,
            streams: request.streams,
            fence: shared.lease.deadline(),
        };
        let Some(mut lane) = shared.open_lane(runner, true) else {
            return;
        };
        drop(share);
        lane.began = Some(began);
        lane.kept = kept;
        // While somebody waits for the answer it is not tried again behind their back.
        lane.again = AGAIN_MAX;
        let recheck = if late {
            // Its caller was told that nothing came of it.
            let error = Error::new(ErrorKind::StoreUnavailable, LATE);
            lane.give_up(&error).await;
            false
        } else {
            lane.start(order, project_changes, actor, reply).await
        };
        lane.has_begun(recheck);
        drop(permit);
        lane.run().await;
    }
}

impl Shared {
    /// Launches need store and agent at once; say so before anything is written.
    pub(super) fn ready(&self) -> Result<(), Error> {
        let health = self.health.borrow();
        if let Some(why) = &health.store {
            return Err(store_error(StoreError::Unavailable(why.clone())));
        }
        let away = |why: &str| Err(host_error(HostError::Unavailable(why.to_owned())));
        if !health.agent {
            return away("it is not connected");
        }
        self.check_lease()?;
        match health.adopted {
            true => Ok(()),
            false => away("what runs is not known yet"),
        }
    }
}

impl Lane {
    /// Brings the runner from T1 through its gate; whether how it fared is to be looked up again.
    pub(super) async fn start(
        &mut self,
        order: LaunchOrder,
        project_changes: u64,
        actor: Actor,
        reply: lane::Answer<Launched>,
    ) -> bool {
        let id = order.id;
        let limits = order.project_limits.clone();
        let placement = match self.shared.host.prepare(order).await {
            Ok(placement) => placement,
            Err(error) => {
                if matches!(error, HostError::Unavailable(_)) {
                    // It may yet come up at its gate; nobody will open it.
                    let _ = self.shared.host.abort(id).await;
                    if self.may_begin_again() {
                        // The agent that comes back tells what there is of it.
                        return true;
                    }
                }
                let error = host_error(error);
                self.give_up(&error).await;
                let _ = reply.send(Err(about(id, error)));
                return false;
            }
        };
        let project = &self.runner.spec.project;
        self.shared
            .slices
            .told(project, &limits, &placement.project_warnings);
        crash::point("daemon.prepared");
        if self.shared.project_changes.load(Ordering::SeqCst) != project_changes {
            self.set_slice_again().await;
        }

        let asker = actor.user.clone();
        // T2 is not deferred as other steps are: a row that does not say `running` must not run.
        let change = Change {
            id,
            step: Step::Run(placement),
            actor,
            at: now(),
        };
        let epoch = self.shared.lease.epoch();
        let applied = self.shared.store.apply(change).await;
        self.shared.note_fenced(epoch, &applied);
        match applied {
            Ok(applied) => self.take_over(applied),
            Err(error) => {
                if let StoreError::Unavailable(why) = &error {
                    self.shared.note_store(Some(why.clone()));
                }
                let _ = self.shared.host.abort(id).await;
                let error = store_error(error);
                self.give_up(&error).await;
                let _ = reply.send(Err(error));
                return false;
            }
        }
        crash::point("daemon.after-t2");
        self.throw_away().await;

        match self.shared.host.go(id).await {
            Ok(()) => {
                crash::point("daemon.after-go");
                self.runs = true;
                let runner = self.runner.clone();
                self.launched();
                tracing::info!(message_id = kinds::RUNNER_LAUNCHED.id, runner = %id, project = %runner.spec.project, uid = runner.spec.uid, user = runner.spec.user, by = asker, "Runner launched");
                let _ = reply.send(Ok(Launched {
                    runner,
                    repeated: false,
                }));
                false
            }
            Err(error) => {
                let uncertain = matches!(error, HostError::Unavailable(_));
                // The shim's record follows and becomes the ending; who then looks sees it.
                self.pending = Some(Pending {
                    reply,
                    until: tokio::time::Instant::now() + ANSWER_MAX,
                    error: (!uncertain).then(|| about(id, host_error(error))),
                });
                true
            }
        }
    }

    /// Its command was exec'd.
    pub(super) fn launched(&self) {
        let metrics = &self.shared.metrics;
        metrics.launch(self.runner.spec.project.as_str(), LaunchResult::Launched);
        if let Some(began) = self.began {
            metrics.launch_took(began.elapsed());
        }
    }

    /// The project was changed while this launch was under way, and its slice may have got the
    /// former limits from it.
    async fn set_slice_again(&self) {
        let _changing = self.shared.projects.lock().await;
        let name = &self.runner.spec.project;
        if let Ok(Some(project)) = self.shared.store.project(name).await
            && let Err(error) = self.shared.put(name, project.settings.limits).await
        {
            tracing::warn!(message_id = kinds::SLICE_STALE.id, project = %name, %error, "The slice of a changed project could not be set again");
        }
    }

    /// Its launch is over, however it fared: from now on a reconciliation may look after it.
    pub(super) fn has_begun(&self, recheck: bool) {
        self.shared.write(|live| {
            if let Some(entry) = live.get_mut(&self.runner.id) {
                entry.launching = false;
            }
        });
        if recheck {
            // Whatever a reconciliation saw while this runner looked after itself is stale.
            self.shared.recheck.notify_one();
        }
    }

    /// Nothing ran and nothing will.
    pub(super) async fn give_up(&mut self, why: &Error) {
        let exit = Exit {
            cause: Cause::LaunchFailed,
            code: None,
            signal: None,
            message: why.message.clone(),
        };
        self.step(Step::End(exit, Usage::default()), Actor::host())
            .await;
    }
}

fn about(id: RunnerId, error: Error) -> Error {
    Error::new(error.kind, format!("{} (runner {id})", error.message))
}

fn busy() -> Error {
    Error::new(
        ErrorKind::StoreUnavailable,
        format!(
            "{LAUNCHES_MAX} launches before this one have not been decided for {} s; nothing was changed.",
            ADMIT_MAX.as_secs()
        ),
    )
}
