//! The connection to the agent: greeting, answers, notices, and connecting again.

use crate::domain::kinds;
use crate::domain::{Error, ErrorKind};
use crate::ports::{HostError, HostNotice};
use crate::seqpacket;
use crate::wire::{
    Answer, FromAgent, Hello, Notice, Order, Refusal, RefusalCode, Request, VERSION, decode, encode,
};
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

/// Orders in flight: below what the agent takes from one connection.
const ORDERS: usize = 512;
/// Notices not yet taken by the engine. More are not kept: it is told to look for itself.
const NOTICES: usize = 4096;
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How long the agent may take to greet: it first gives up what was left at its gates.
const GREETING: Duration = Duration::from_secs(60);

type Outcome = Result<Answer, Refusal>;

/// What the client and its tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    /// An order was queued.
    queued: Notify,
    /// A notice was queued.
    noticed: Notify,
    pub(super) orders: Semaphore,
    /// The boot id told at the greeting; `None` = not connected.
    pub(super) boot_id: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connected: bool,
    /// Counts connections.
    connection: u64,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    out: VecDeque<(u64, Vec<u8>, Vec<Arc<OwnedFd>>)>,
    /// What the agent can do beyond the first release.
    knows: Vec<String>,
    notices: VecDeque<HostNotice>,
}

/// One answer to come. Who stops waiting for it is forgotten.
pub(super) struct Waiting {
    answer: (u64, oneshot::Receiver<Outcome>),
    client: Arc<Shared>,
}

impl Waiting {
    pub(super) fn new(
        client: Arc<Shared>,
        order: Order,
        fds: Vec<Arc<OwnedFd>>,
    ) -> Result<Self, HostError> {
        Ok(Self {
            answer: client.queue(order, fds)?,
            client,
        })
    }

    /// The answer; `None` = the connection is lost.
    pub(super) async fn done(mut self) -> Option<Outcome> {
        (&mut self.answer.1).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.client.state().waiting.remove(&self.answer.0);
    }
}

fn not_connected() -> HostError {
    HostError::Unavailable("stratavore-agent is not connected".to_owned())
}

impl Shared {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            state: Mutex::default(),
            queued: Notify::new(),
            noticed: Notify::new(),
            orders: Semaphore::new(ORDERS),
            boot_id: watch::Sender::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells one connection from the next.
    pub(super) fn connection(&self) -> u64 {
        self.state().connection
    }

    /// An error unless the agent can do this.
    pub(super) fn needs(&self, what: &str) -> Result<(), HostError> {
        let state = self.state();
        if !state.connected {
            return Err(not_connected());
        }
        if state.knows.iter().any(|k| k == what) {
            return Ok(());
        }
        let why = format!(
            "The stratavore-agent that runs is of an earlier release and does not know “{what}”. Runners go on while it is restarted: systemctl restart stratavore-agent."
        );
        Err(HostError::Refused(Error::new(
            ErrorKind::HostUnavailable,
            why,
        )))
    }

    /// Queues an order; the answer comes by the receiver.
    pub(super) fn queue(
        &self,
        order: Order,
        fds: Vec<Arc<OwnedFd>>,
    ) -> Result<(u64, oneshot::Receiver<Outcome>), HostError> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if !state.connected {
            return Err(not_connected());
        }
        state.next += 1;
        let seq = state.next;
        let bytes = encode(&Request { seq, order })
            .map_err(|e| HostError::Refused(Error::invalid(e.to_string())))?;
        state.waiting.insert(seq, sender);
        state.out.push_back((seq, bytes, fds));
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
pub(super) async fn tell(shared: Arc<Shared>, engine: mpsc::Sender<HostNotice>) {
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

/// Keeps the connection for ever.
pub(super) async fn connect_for_ever(shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let tried = match connect(&shared).await {
            Ok((socket, boot_id, knows)) => {
                pause = FIRST_PAUSE;
                // First, so that nobody takes the new boot id for the old connection's.
                shared.state().connection += 1;
                shared.state().knows = knows;
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
            Ok(()) => tracing::debug!("the agent has closed the connection"),
            Err(e) => tracing::debug!("the agent is not reached: {e}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Connects and greets; returns the boot id and what the agent knows.
async fn connect(shared: &Shared) -> io::Result<(UnixStream, String, Vec<String>)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(shared.path.as_path())?)?;
    // No stream, but tokio only tells when it is ready.
    let socket = UnixStream::from_std(std::os::unix::net::UnixStream::from(socket))?;
    let program = concat!("stratavored ", env!("CARGO_PKG_VERSION")).to_owned();
    let order = Order::Hello(Hello {
        v: VERSION,
        program,
        knows: Vec::new(),
    });
    let bytes = encode(&Request { seq: 0, order }).map_err(io::Error::other)?;
    let greeting = async {
        socket
            .async_io(Interest::WRITABLE, || seqpacket::send(&socket, &bytes, &[]))
            .await?;
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
    match tokio::time::timeout(GREETING, greeting)
        .await
        .map_err(slow)??
    {
        Ok(Answer::Hello { boot_id, hello }) => Ok((socket, boot_id, hello.knows)),
        Ok(_) => Err(io::Error::other("it does not greet")),
        Err(refused) => Err(io::Error::other(refused.message)),
    }
}

async fn receive(socket: &UnixStream) -> io::Result<Option<FromAgent>> {
    loop {
        let packet = socket
            .async_io(Interest::READABLE, || seqpacket::recv(socket))
            .await?;
        let Some(packet) = packet else {
            return Ok(None);
        };
        match decode(&packet.bytes) {
            Ok(message) => return Ok(Some(message)),
            // A notice of a later version; an answer of one is waited for in vain.
            Err(e) => tracing::warn!(
                message_id = kinds::PEER_TROUBLE.id,
                "the agent says what is not understood: {e}"
            ),
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
                Err(_) => tracing::warn!(
                    message_id = kinds::PEER_TROUBLE.id,
                    "the agent tells of a runner without an id"
                ),
            },
            FromAgent::Notice(Notice::Lost { id }) => shared.notice(HostNotice::Lost(id)),
        }
    }
    Ok(())
}

async fn write(shared: &Shared, socket: &UnixStream) -> io::Result<()> {
    loop {
        let next = shared.state().out.pop_front();
        match next {
            Some((seq, bytes, fds)) => {
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                let sent = socket
                    .async_io(Interest::WRITABLE, || seqpacket::send(socket, &bytes, &fds))
                    .await;
                match sent {
                    Err(error) if !fds.is_empty() && !is_gone(&error) => {
                        refuse_passed(shared, seq, &error)
                    }
                    other => other?,
                }
            }
            None => shared.queued.notified().await,
        }
    }
}

/// Whether the connection is gone, and not only this packet refused.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

/// The kernel does not pass a caller's descriptors on (a socket full of sockets, say): that is this order's trouble and
/// nobody else's. A packet is sent whole or not at all.
fn refuse_passed(shared: &Shared, seq: u64, error: &io::Error) {
    if let Some(waiting) = shared.state().waiting.remove(&seq) {
        let message = format!("Its descriptors can't be passed on: {error}.");
        let code = RefusalCode::LaunchFailed;
        let _ = waiting.send(Err(Refusal { code, message }));
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
