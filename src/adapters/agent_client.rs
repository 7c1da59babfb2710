//! The port [`Host`] over the agent's socket: one connection, many orders in flight, connected
//! again for ever.

use crate::domain::exit::{Asked, Usage};
use crate::domain::reconcile::{Observed, World};
use crate::domain::runner::Placement;
use crate::domain::{Error, ErrorKind, Limits, ProjectName, RunnerId};
use crate::ports::{Host, HostError, HostNotice, LaunchOrder};
use crate::seqpacket;
use crate::wire::{
    Answer, FromAgent, Hello, Launch, Notice, Order, Payload, Refusal, RefusalCode, Request, Seen, Unenforced,
    VERSION, decode, encode,
};
use async_trait::async_trait;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

/// Orders in flight: below what the agent takes from one connection.
const ORDERS: usize = 512;
/// Notices not yet taken by the engine. More are not kept: it is told to look for itself.
const NOTICES: usize = 4096;
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How long the agent may take to greet: it first gives up what was left at its gates.
const GREETING: Duration = Duration::from_secs(60);
/// How long an order may take. systemd may need long for a launch on a busy host.
const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(75);
/// An exec and its answer.
const GO: Duration = Duration::from_secs(70);

type Result<T> = std::result::Result<T, HostError>;
type Outcome = std::result::Result<Answer, Refusal>;

/// The agent's client. Dropping the last handle ends its tasks.
#[derive(Debug)]
pub struct AgentClient {
    shared: Arc<Shared>,
    unenforced: Unenforced,
    tasks: [AbortHandle; 2],
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    /// An order was queued.
    queued: Notify,
    /// A notice was queued.
    noticed: Notify,
    orders: Semaphore,
    /// The boot id told at the greeting; `None` = not connected.
    boot_id: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connected: bool,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    out: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    notices: VecDeque<HostNotice>,
}

impl AgentClient {
    /// Begins to connect, and does so again whenever the connection is lost. `unenforced` goes
    /// with every order that sets limits. Needs a tokio runtime.
    pub fn start(socket: &Path, unenforced: Unenforced) -> (Arc<Self>, mpsc::Receiver<HostNotice>) {
        let shared = Arc::new(Shared {
            path: socket.to_owned(),
            state: Mutex::default(),
            queued: Notify::new(),
            noticed: Notify::new(),
            orders: Semaphore::new(ORDERS),
            boot_id: watch::Sender::new(None),
        });
        let (sender, receiver) = mpsc::channel(64);
        let connecting = tokio::spawn(connect_for_ever(shared.clone())).abort_handle();
        let telling = tokio::spawn(tell(shared.clone(), sender)).abort_handle();
        let tasks = [connecting, telling];
        (Arc::new(Self { shared, unenforced, tasks }), receiver)
    }

    async fn order(&self, order: Order, payload: Option<OwnedFd>, most: Duration) -> Result<Answer> {
        let slow = || HostError::Unavailable(format!("no answer within {} s", most.as_secs()));
        tokio::time::timeout(most, self.ask(order, payload)).await.map_err(|_| slow())?
    }

    async fn ask(&self, order: Order, payload: Option<OwnedFd>) -> Result<Answer> {
        let lost = || HostError::Unavailable("the connection to it is lost".to_owned());
        let _permit = self.shared.orders.acquire().await.map_err(|_| lost())?;
        let waiting = Waiting { answer: self.shared.queue(order, payload)?, client: self.shared.clone() };
        waiting.done().await.ok_or_else(lost)?.map_err(|r| HostError::Refused(error(r)))
    }

    async fn done(&self, order: Order, most: Duration) -> Result<()> {
        match self.order(order, None, most).await? {
            Answer::Done => Ok(()),
            other => Err(strange(&other)),
        }
    }

    async fn warnings(&self, order: Order) -> Result<Vec<String>> {
        match self.order(order, None, LONG).await? {
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

/// One answer to come. Who stops waiting for it is forgotten.
struct Waiting {
    answer: (u64, oneshot::Receiver<Outcome>),
    client: Arc<Shared>,
}

impl Waiting {
    async fn done(mut self) -> Option<Outcome> {
        (&mut self.answer.1).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.client.state().waiting.remove(&self.answer.0);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, order: Order, payload: Option<OwnedFd>) -> Result<(u64, oneshot::Receiver<Outcome>)> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if !state.connected {
            return Err(HostError::Unavailable("stratavore-agent is not connected".to_owned()));
        }
        state.next += 1;
        let seq = state.next;
        let bytes = encode(&Request { seq, order }).map_err(|e| HostError::Refused(Error::invalid(e.to_string())))?;
        state.waiting.insert(seq, sender);
        state.out.push_back((bytes, payload));
        drop(state);
        self.queued.notify_one();
        Ok((seq, receiver))
    }

    fn notice(&self, notice: HostNotice) {
        let mut state = self.state();
        if state.notices.len() >= NOTICES {
            // All that was said is in the inventory, too.
            state.notices.clear();
            state.notices.push_back(HostNotice::Connected);
        }
        state.notices.push_back(notice);
        drop(state);
        self.noticed.notify_one();
    }
}

/// Hands notices to the engine at its own pace, so that answers never wait for it.
async fn tell(shared: Arc<Shared>, engine: mpsc::Sender<HostNotice>) {
    loop {
        let next = shared.state().notices.pop_front();
        match next {
            Some(notice) => {
                if engine.send(notice).await.is_err() {
                    return;
                }
            }
            None => shared.noticed.notified().await,
        }
    }
}

async fn connect_for_ever(shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let tried = match connect(&shared).await {
            Ok((socket, boot_id)) => {
                pause = FIRST_PAUSE;
                shared.boot_id.send_replace(Some(boot_id));
                shared.state().connected = true;
                shared.notice(HostNotice::Connected);
                let ended = tokio::select! {
                    ended = read(&shared, &socket) => ended,
                    ended = write(&shared, &socket) => ended,
                };
                disconnect(&shared);
                ended
            }
            Err(e) => Err(e),
        };
        match tried {
            Ok(()) => tracing::info!("the agent has closed the connection"),
            Err(e) => tracing::debug!("the agent is not reached: {e}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Connects and greets; returns the boot id.
async fn connect(shared: &Shared) -> io::Result<(UnixStream, String)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(shared.path.as_path())?)?;
    // No stream, but tokio only tells when it is ready.
    let socket = UnixStream::from_std(std::os::unix::net::UnixStream::from(socket))?;
    let program = concat!("stratavored ", env!("CARGO_PKG_VERSION")).to_owned();
    let order = Order::Hello(Hello { v: VERSION, program });
    let bytes = encode(&Request { seq: 0, order }).map_err(io::Error::other)?;
    let greeting = async {
        socket.async_io(Interest::WRITABLE, || seqpacket::send(&socket, &bytes, &[])).await?;
        loop {
            match receive(&socket).await? {
                Some(FromAgent::Reply(reply)) if reply.seq == 0 => return Ok(reply.result),
                // What it tells by itself before, the inventory has, too.
                Some(_) => {}
                None => return Err(io::Error::other("it closes the connection")),
            }
        }
    };
    let slow = |_| io::Error::from(io::ErrorKind::TimedOut);
    match tokio::time::timeout(GREETING, greeting).await.map_err(slow)?? {
        Ok(Answer::Hello { boot_id, .. }) => Ok((socket, boot_id)),
        Ok(_) => Err(io::Error::other("it does not greet")),
        Err(refused) => Err(io::Error::other(refused.message)),
    }
}

async fn receive(socket: &UnixStream) -> io::Result<Option<FromAgent>> {
    loop {
        let packet = socket.async_io(Interest::READABLE, || seqpacket::recv(socket)).await?;
        let Some(packet) = packet else { return Ok(None) };
        match decode(&packet.bytes) {
            Ok(message) => return Ok(Some(message)),
            // A notice of a later version; an answer of one is waited for in vain.
            Err(e) => tracing::warn!("the agent says what is not understood: {e}"),
        }
    }
}

async fn read(shared: &Shared, socket: &UnixStream) -> io::Result<()> {
    while let Some(message) = receive(socket).await? {
        match message {
            FromAgent::Reply(reply) => {
                let waiting = shared.state().waiting.remove(&reply.seq);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(reply.result);
                }
            }
            FromAgent::Notice(Notice::Ended { record }) => match record.id.parse() {
                Ok(id) => shared.notice(HostNotice::Ended(id, record)),
                Err(_) => tracing::warn!("the agent tells of a runner without an id"),
            },
            FromAgent::Notice(Notice::Lost { id }) => shared.notice(HostNotice::Lost(id)),
            FromAgent::Notice(Notice::Frozen { id, frozen }) => shared.notice(HostNotice::Frozen(id, frozen)),
        }
    }
    Ok(())
}

async fn write(shared: &Shared, socket: &UnixStream) -> io::Result<()> {
    loop {
        let next = shared.state().out.pop_front();
        match next {
            Some((bytes, fd)) => {
                let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
                socket.async_io(Interest::WRITABLE, || seqpacket::send(socket, &bytes, &fds)).await?;
            }
            None => shared.queued.notified().await,
        }
    }
}

fn disconnect(shared: &Shared) {
    let mut state = shared.state();
    state.connected = false;
    state.out.clear();
    // Their receivers learn it from this: it may or may not have been done.
    state.waiting.clear();
    drop(state);
    shared.boot_id.send_replace(None);
    shared.notice(HostNotice::Disconnected);
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
    tracing::warn!("the agent answers what was not asked: {answer:?}");
    HostError::Unavailable("it answers what was not asked".to_owned())
}

fn observed(seen: Seen) -> (RunnerId, Observed) {
    let Seen { id, scope, shim, gated, frozen, record } = seen;
    (id, Observed { scope, shim, gated, frozen, record })
}

#[async_trait]
impl Host for AgentClient {
    async fn prepare(&self, order: LaunchOrder) -> Result<Placement> {
        let LaunchOrder { id, spec, setenv, project_limits } = order;
        let payload = Payload {
            command: spec.command,
            setenv: setenv.into_iter().map(|e| (e.name, e.value)).collect(),
            working_directory: spec.working_directory,
        };
        let failed = |e: &dyn std::fmt::Display| HostError::Unavailable(format!("the payload can't be handed over: {e}"));
        let bytes = serde_json::to_vec(&payload).map_err(|e| failed(&e))?;
        let memfd = seqpacket::sealed_memfd("stratavore-payload", &bytes).map_err(|e| failed(&e))?;
        let launch = Launch {
            id,
            project: spec.project,
            project_limits,
            uid: spec.uid,
            name: spec.name,
            limits: spec.limits,
            unenforced: self.unenforced,
        };
        match self.order(Order::Launch(Box::new(launch)), Some(memfd), LONG).await {
            Ok(Answer::Prepared(placement)) => Ok(placement),
            Ok(other) => Err(strange(&other)),
            Err(HostError::Unavailable(why)) => {
                // Should it still come to the gate, nobody here would open it.
                let _ = self.shared.queue(Order::Abort { id }, None);
                Err(HostError::Unavailable(why))
            }
            Err(refused) => Err(refused),
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
        let unenforced = self.unenforced;
        self.warnings(Order::SetLimits { id, limits, unenforced }).await
    }

    async fn set_slice(&self, project: &ProjectName, limits: Limits) -> Result<Vec<String>> {
        let (project, unenforced) = (project.clone(), self.unenforced);
        self.warnings(Order::SetSlice { project, limits, unenforced }).await
    }

    async fn remove_slice(&self, project: &ProjectName) -> Result<()> {
        self.done(Order::RemoveSlice { project: project.clone() }, LONG).await
    }

    async fn inventory(&self) -> Result<World> {
        let lost = || HostError::Unavailable("stratavore-agent is not connected".to_owned());
        let boot_id = self.shared.boot_id.borrow().clone().ok_or_else(lost)?;
        let mut world = World { boot_id, ..World::default() };
        let mut after = None;
        loop {
            match self.order(Order::Inventory { after }, None, SHORT).await? {
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
        match self.order(Order::Usage { id }, None, SHORT).await? {
            Answer::Usage(usage) => Ok(usage),
            other => Err(strange(&other)),
        }
    }
}
