//! The port [`Host`] over the agent's socket: one connection, many orders in flight, connected
//! again for ever.

mod connection;
#[cfg(test)]
mod tests;

use crate::domain::exit::{Asked, Usage};
use crate::domain::fence::Deadline;
use crate::domain::kinds;
use crate::domain::logs::LogsRequest;
use crate::domain::placed::Placed;
use crate::domain::reconcile::{Observed, World};
use crate::domain::runner::Placement;
use crate::domain::{Error, ErrorKind, Limits, ProjectName, RunnerId};
use crate::ports::{Fenced, Host, HostError, HostNotice, LaunchOrder};
use crate::seqpacket;
use crate::wire::{
    Answer, KNOWS_FENCE, KNOWS_INPUTS, KNOWS_LOG_FILES, KNOWS_LOGS, KNOWS_PLACED, KNOWS_RUNNER_OF,
    KNOWS_STREAMS, Launch, Order, Passed, Payload, Refusal, RefusalCode, Seen, Unenforced,
};
use async_trait::async_trait;
use connection::{Shared, Waiting, connect_for_ever, tell};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// How long an order may take. systemd may need long for a launch on a busy host.
const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(75);
/// An exec and its answer.
const GO: Duration = Duration::from_secs(70);

type Result<T> = std::result::Result<T, HostError>;

/// The agent's client. Dropping the last handle ends its tasks.
#[derive(Debug)]
pub struct AgentClient {
    shared: Arc<Shared>,
    unenforced: RwLock<Unenforced>,
    tasks: [AbortHandle; 2],
}

impl AgentClient {
    /// Begins to connect, and does so again whenever the connection is lost. `unenforced` goes
    /// with every order that sets limits. Needs a tokio runtime.
    pub fn start(socket: &Path, unenforced: Unenforced) -> (Arc<Self>, mpsc::Receiver<HostNotice>) {
        let shared = Arc::new(Shared::new(socket));
        let (sender, receiver) = mpsc::channel(64);
        let connecting = tokio::spawn(connect_for_ever(shared.clone())).abort_handle();
        let telling = tokio::spawn(tell(shared.clone(), sender)).abort_handle();
        let tasks = [connecting, telling];
        (
            Arc::new(Self {
                shared,
                unenforced: RwLock::new(unenforced),
                tasks,
            }),
            receiver,
        )
    }

    /// What goes with orders from now on.
    pub fn set_unenforced(&self, unenforced: Unenforced) {
        *self
            .unenforced
            .write()
            .unwrap_or_else(PoisonError::into_inner) = unenforced;
    }

    fn unenforced(&self) -> Unenforced {
        *self
            .unenforced
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn order(&self, order: Order, fds: Vec<Arc<OwnedFd>>, most: Duration) -> Result<Answer> {
        let slow = || HostError::Unavailable(format!("no answer within {} s", most.as_secs()));
        tokio::time::timeout(most, self.ask(order, fds))
            .await
            .map_err(|_| slow())?
    }

    async fn ask(&self, order: Order, fds: Vec<Arc<OwnedFd>>) -> Result<Answer> {
        let lost = || HostError::Unavailable("the connection to it is lost".to_owned());
        let _permit = self.shared.orders.acquire().await.map_err(|_| lost())?;
        let waiting = Waiting::new(self.shared.clone(), order, fds)?;
        waiting
            .done()
            .await
            .ok_or_else(lost)?
            .map_err(|r| HostError::Refused(error(r)))
    }

    async fn done(&self, order: Order, most: Duration) -> Result<()> {
        match self.order(order, Vec::new(), most).await? {
            Answer::Done => Ok(()),
            other => Err(strange(&other)),
        }
    }

    async fn warnings(&self, order: Order) -> Result<Vec<String>> {
        match self.order(order, Vec::new(), LONG).await? {
            Answer::Limits { warnings } => Ok(warnings),
            other => Err(strange(&other)),
        }
    }
}

impl Drop for AgentClient {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A launch nobody waits for any more: should it still come to its gate, that is closed.
struct Gate<'a> {
    shared: &'a Shared,
    id: RunnerId,
    needed: bool,
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        if self.needed {
            let _ = self.shared.queue(Order::Abort { id: self.id }, Vec::new());
        }
    }
}

fn error(refusal: Refusal) -> Error {
    let kind = match refusal.code {
        RefusalCode::NotPermitted => ErrorKind::NotPermitted,
        RefusalCode::LimitsExceeded => ErrorKind::LimitsExceeded,
        RefusalCode::LimitUnenforceable => ErrorKind::LimitUnenforceable,
        RefusalCode::LaunchFailed => ErrorKind::LaunchFailed,
        RefusalCode::NoSuchRunner => ErrorKind::NoSuchRunner,
        RefusalCode::Failed | RefusalCode::Unsupported => ErrorKind::HostUnavailable,
    };
    Error::new(kind, refusal.message)
}

fn strange(answer: &Answer) -> HostError {
    tracing::warn!(
        message_id = kinds::PEER_TROUBLE.id,
        "the agent answers what was not asked: {answer:?}"
    );
    HostError::Unavailable("it answers what was not asked".to_owned())
}

fn observed(seen: Seen) -> (RunnerId, Observed) {
    let Seen {
        id,
        scope,
        shim,
        gated,
        frozen,
        record,
    } = seen;
    (
        id,
        Observed {
            scope,
            shim,
            gated,
            frozen,
            record,
        },
    )
}

#[async_trait]
impl Host for AgentClient {
    async fn prepare(&self, order: LaunchOrder) -> Result<Placement> {
        let LaunchOrder {
            id,
            spec,
            setenv,
            project_limits,
            inputs,
            streams,
            fence,
        } = order;
        if !inputs.is_empty() {
            self.shared.needs(KNOWS_INPUTS)?;
        }
        let payload = Payload {
            command: spec.command,
            setenv: setenv.into_iter().map(|e| (e.name, e.value)).collect(),
            working_directory: spec.working_directory,
            inputs,
        };
        let failed = |e: &dyn std::fmt::Display| {
            HostError::Unavailable(format!("the payload can't be handed over: {e}"))
        };
        let bytes = serde_json::to_vec(&payload).map_err(|e| failed(&e))?;
        let memfd =
            seqpacket::sealed_memfd("stratavore-payload", &bytes).map_err(|e| failed(&e))?;
        let mut fds = vec![Arc::new(memfd)];
        let mut passed = Vec::new();
        let kinds = [Passed::Stdin, Passed::Stdout, Passed::Stderr];
        for (kind, fd) in kinds.into_iter().zip(streams.0) {
            passed.extend(fd.is_some().then_some(kind));
            fds.extend(fd);
        }
        if !passed.is_empty() {
            self.shared.needs(KNOWS_STREAMS)?;
        }
        if spec.log_file_max.is_some() {
            self.shared.needs(KNOWS_LOG_FILES)?;
        }
        if fence.is_some() {
            self.shared.needs(KNOWS_FENCE)?;
        }
        if spec.placed.is_some() {
            self.shared.needs(KNOWS_PLACED)?;
        }
        let launch = Launch {
            id,
            project: spec.project,
            project_limits,
            uid: spec.uid,
            name: spec.name,
            limits: spec.limits,
            unenforced: self.unenforced(),
            passed,
            log_file_max: spec.log_file_max,
            fence,
            placed: spec.placed,
        };
        let mut gate = Gate {
            shared: &self.shared,
            id,
            needed: true,
        };
        let answer = self.order(Order::Launch(Box::new(launch)), fds, LONG).await;
        gate.needed = matches!(answer, Err(HostError::Unavailable(_)));
        match answer? {
            Answer::Prepared(placement) => Ok(placement),
            other => Err(strange(&other)),
        }
    }

    async fn go(&self, id: RunnerId) -> Result<()> {
        self.done(Order::Go { id }, GO).await
    }

    async fn abort(&self, id: RunnerId) -> Result<()> {
        self.done(Order::Abort { id }, LONG).await
    }

    async fn stop(&self, id: RunnerId, asked: Asked) -> Result<()> {
        self.done(Order::Stop { id, asked }, LONG).await
    }

    async fn kill(&self, id: RunnerId, signal: i32) -> Result<()> {
        self.done(Order::Kill { id, signal }, SHORT).await
    }

    async fn freeze(&self, id: RunnerId) -> Result<()> {
        self.done(Order::Freeze { id }, LONG).await
    }

    async fn thaw(&self, id: RunnerId) -> Result<()> {
        self.done(Order::Thaw { id }, LONG).await
    }

    async fn set_limits(&self, id: RunnerId, limits: Limits) -> Result<Vec<String>> {
        let unenforced = self.unenforced();
        self.warnings(Order::SetLimits {
            id,
            limits,
            unenforced,
        })
        .await
    }

    async fn set_slice(&self, project: &ProjectName, limits: Limits) -> Result<Vec<String>> {
        let (project, unenforced) = (project.clone(), self.unenforced());
        self.warnings(Order::SetSlice {
            project,
            limits,
            unenforced,
        })
        .await
    }

    async fn remove_slice(&self, project: &ProjectName) -> Result<()> {
        self.done(
            Order::RemoveSlice {
                project: project.clone(),
            },
            LONG,
        )
        .await
    }

    async fn inventory(&self) -> Result<World> {
        let lost = || HostError::Unavailable("stratavore-agent is not connected".to_owned());
        let connection = self.shared.connection();
        let boot_id = self.shared.boot_id.borrow().clone().ok_or_else(lost)?;
        let mut world = World {
            boot_id,
            ..World::default()
        };
        let mut after = None;
        loop {
            let page = self
                .order(Order::Inventory { after }, Vec::new(), SHORT)
                .await?;
            // Pages of two connections are of two looks at the host, or of two hosts.
            if self.shared.connection() != connection {
                return Err(lost());
            }
            match page {
                Answer::Inventory { runners, more } => {
                    after = runners.last().map(|r| r.id).or(after);
                    let empty = runners.is_empty();
                    world.runners.extend(runners.into_iter().map(observed));
                    if !more || empty {
                        return Ok(world);
                    }
                }
                other => return Err(strange(&other)),
            }
        }
    }

    async fn stop_scope(&self, id: RunnerId) -> Result<()> {
        self.done(Order::StopScope { id }, LONG).await
    }

    async fn forget(&self, id: RunnerId) -> Result<()> {
        self.done(Order::Forget { id }, SHORT).await
    }

    async fn usage(&self, id: RunnerId) -> Result<Usage> {
        match self.order(Order::Usage { id }, Vec::new(), SHORT).await? {
            Answer::Usage(usage) => Ok(usage),
            other => Err(strange(&other)),
        }
    }

    async fn logs(&self, id: RunnerId, caller: u32, logs: LogsRequest) -> Result<OwnedFd> {
        self.shared.needs(KNOWS_LOGS)?;
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| HostError::Unavailable(format!("no pipe can be made: {e}")))?;
        let order = Order::Logs { id, caller, logs };
        match self.order(order, vec![Arc::new(theirs)], SHORT).await? {
            Answer::Done => Ok(ours),
            other => Err(strange(&other)),
        }
    }

    async fn log_files(&self, after: Option<RunnerId>) -> Result<Vec<RunnerId>> {
        self.shared.needs(KNOWS_LOG_FILES)?;
        match self
            .order(Order::LogFiles { after }, Vec::new(), SHORT)
            .await?
        {
            Answer::LogFiles { ids, .. } => Ok(ids),
            other => Err(strange(&other)),
        }
    }

    async fn remove_log_files(&self, ids: Vec<RunnerId>) -> Result<()> {
        self.done(Order::RemoveLogFiles { ids }, SHORT).await
    }

    async fn fence(&self, deadline: Option<Deadline>) -> Result<Fenced> {
        self.shared.needs(KNOWS_FENCE)?;
        match self
            .order(Order::Fence { deadline }, Vec::new(), SHORT)
            .await?
        {
            Answer::Fenced {
                deadline,
                armed,
                unarmed,
            } => Ok(Fenced {
                deadline,
                armed,
                unarmed,
            }),
            other => Err(strange(&other)),
        }
    }

    async fn place(&self, placed: Placed, user: String) -> Result<(u32, String)> {
        self.shared.needs(KNOWS_PLACED)?;
        match self
            .order(Order::Place { placed, user }, Vec::new(), SHORT)
            .await?
        {
            Answer::Account { uid, name } => Ok((uid, name)),
            other => Err(strange(&other)),
        }
    }

    async fn runner_of(&self, pid: u32) -> Result<Option<RunnerId>> {
        self.shared.needs(KNOWS_RUNNER_OF)?;
        match self
            .order(Order::RunnerOf { pid }, Vec::new(), SHORT)
            .await?
        {
            Answer::RunnerOf { id } => Ok(id),
            other => Err(strange(&other)),
        }
    }
}
