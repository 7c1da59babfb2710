//! The agent's socket: connections, their bounds, and the orders that come over them.

use super::foreign::Foreign;
use super::hub::{Agent, Phase, lock};
use super::log;
use super::policy::refusal;
use crate::domain::RunnerId;
use crate::domain::kinds;
use crate::domain::name::shown;
use crate::seqpacket;
use crate::wire::{
    Answer, FromAgent, Hello, KNOWS, Order, PACKET_MAX, Refusal, RefusalCode, Reply, Request,
    VERSION, decode, encode,
};
use serde::Deserialize;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};

/// The most connections.
const CONNECTIONS: usize = 16;
/// The most orders of one connection without an answer yet; then it is read no further.
const ORDERS: usize = 1024;
/// The most bytes waiting for a connection that does not read; then it is closed. What it has
/// missed it finds in the inventory when it comes again.
const WAITING: usize = 4 << 20;
/// What a waiting message costs beside its bytes.
const EACH: usize = 64;
/// How long a connection may take to say [`Order::Hello`].
const GREETING: Duration = Duration::from_secs(10);

/// What waits to be sent to one connection. Nobody who puts something in ever waits.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<(VecDeque<Vec<u8>>, usize)>,
    filled: Notify,
    shut: Notify,
    closed: AtomicBool,
    /// It has said who it is.
    pub(super) greeted: AtomicBool,
}

impl Outbox {
    /// Queues a message; too many and the connection is given up.
    pub(super) fn send(&self, message: &FromAgent) {
        let bytes = match encode(message) {
            Ok(bytes) => bytes,
            Err(e) => {
                return log::error(
                    kinds::PEER_TROUBLE,
                    format_args!("A message is not sent: {e}"),
                );
            }
        };
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let mut queue = lock(&self.queue);
        queue.1 += bytes.capacity() + EACH;
        queue.0.push_back(bytes);
        if queue.1 > WAITING {
            *queue = Default::default();
            self.closed.store(true, Ordering::Relaxed);
            self.shut.notify_one();
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Sends what comes, in order.
    async fn pour(&self, socket: &UnixStream) -> io::Result<()> {
        loop {
            let next = {
                let mut queue = lock(&self.queue);
                let next = queue.0.pop_front();
                queue.1 -= next.as_ref().map_or(0, |bytes| bytes.capacity() + EACH);
                next
            };
            match next {
                Some(bytes) => {
                    socket
                        .async_io(Interest::WRITABLE, || seqpacket::send(socket, &bytes, &[]))
                        .await?;
                }
                None => self.filled.notified().await,
            }
        }
    }
}

/// Accepts for ever. `allowed` are the users who may.
pub(super) async fn serve(
    agent: Arc<Agent>,
    listener: OwnedFd,
    allowed: BTreeSet<u32>,
) -> io::Result<()> {
    // tokio accepts and tells when something is ready; packets are ours.
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    for number in 1.. {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(e) => {
                // Out of descriptors, most likely: those in use go on, and come back.
                log::error(
                    kinds::PEER_TROUBLE,
                    format_args!("No connection is accepted: {e}"),
                );
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        match seqpacket::peer_uid(&socket) {
            Ok(uid) if allowed.contains(&uid) => {}
            Ok(uid) => {
                log::warning(
                    kinds::PEER_REFUSED,
                    format_args!("uid {uid} tried to connect; it may not."),
                );
                drop(Foreign::connection(socket));
                continue;
            }
            Err(_) => {
                drop(Foreign::connection(socket));
                continue;
            }
        }
        let Ok(permit) = room.clone().try_acquire_owned() else {
            log::warning(
                kinds::PEER_TROUBLE,
                format_args!("More than {CONNECTIONS} connections; one more is closed."),
            );
            drop(Foreign::connection(socket));
            continue;
        };
        let agent = agent.clone();
        tokio::spawn(async move {
            connection(&agent, number, &socket).await;
            drop(Foreign::connection(socket));
            drop(permit);
        });
    }
    Ok(())
}

async fn connection(agent: &Arc<Agent>, number: u64, socket: &UnixStream) {
    let outbox = Arc::new(Outbox::default());
    lock(&agent.connections).insert(number, outbox.clone());
    let done = tokio::select! {
        done = read(agent, number, socket, &outbox) => done,
        done = outbox.pour(socket) => done,
        () = outbox.shut.notified() => Err(io::Error::other("it does not read its answers")),
    };
    if let Err(e) = done {
        log::warning(
            kinds::PEER_TROUBLE,
            format_args!("Connection {number} is closed: {e}"),
        );
    }
    outbox.closed.store(true, Ordering::Relaxed);
    lock(&agent.connections).remove(&number);
    // Nobody will open these gates any more.
    for runner in agent.all_runners() {
        if runner.owner == number {
            runner.give_up();
        }
    }
}

async fn read(
    agent: &Arc<Agent>,
    number: u64,
    socket: &UnixStream,
    outbox: &Arc<Outbox>,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(ORDERS));
    let snapshot = Arc::new(tokio::sync::Mutex::new(None));
    loop {
        let receive = socket.async_io(Interest::READABLE, || seqpacket::recv_any(socket));
        let packet = if outbox.greeted.load(Ordering::Relaxed) {
            receive.await?
        } else {
            tokio::time::timeout(GREETING, receive)
                .await
                .map_err(|_| io::Error::other("no greeting"))??
        };
        let Some(packet) = packet else { return Ok(()) };
        let fds = Foreign::new(packet.fds);
        if packet.cut {
            return Err(seqpacket::too_much());
        }
        let request = match decode::<Request>(&packet.bytes) {
            Ok(request) => request,
            Err(e) => {
                // The sequence number may still be readable: the rest is of another version.
                let Ok(Numbered { seq }) = decode(&packet.bytes) else {
                    return Err(io::Error::other(e));
                };
                let result = Err(refusal(
                    RefusalCode::Unsupported,
                    "This version of the agent does not know that order.",
                ));
                outbox.send(&FromAgent::Reply(Reply { seq, result }));
                continue;
            }
        };
        let greeting = matches!(request.order, Order::Hello(_));
        if greeting == outbox.greeted.load(Ordering::Relaxed) {
            return Err(io::Error::other(
                "the first message, and only that, is a greeting",
            ));
        }
        if greeting {
            outbox.greeted.store(true, Ordering::Relaxed);
        }
        let Ok(permit) = room.clone().acquire_owned().await else {
            return Ok(());
        };
        let (agent, outbox, snapshot) = (agent.clone(), outbox.clone(), snapshot.clone());
        tokio::spawn(async move {
            let result = obey(&agent, number, request.order, fds, &snapshot).await;
            outbox.send(&FromAgent::Reply(Reply {
                seq: request.seq,
                result: result.map_err(bounded),
            }));
            drop(permit);
        });
    }
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// A sentence of a system library may have any length; a reply must be sent.
fn bounded(mut refused: Refusal) -> Refusal {
    const MOST: usize = PACKET_MAX / 16;
    if refused.message.len() > MOST {
        refused.message = refused.message.chars().take(MOST / 4).collect();
    }
    refused
}

async fn obey(
    agent: &Arc<Agent>,
    number: u64,
    order: Order,
    fds: Foreign,
    snapshot: &tokio::sync::Mutex<Option<BTreeSet<RunnerId>>>,
) -> Result<Answer, Refusal> {
    match order {
        Order::Hello(hello) => greet(agent, number, &hello).await,
        Order::Launch(launch) => agent.launch(number, *launch, fds).await,
        Order::Go { id } => agent.go(id).await,
        Order::Abort { id } => {
            let runner = agent.runner(id)?;
            agent.abort(&runner).await
        }
        Order::Stop { id, asked } => agent.stop(id, asked).await,
        Order::Kill { id, signal } => agent.kill(id, signal).await,
        Order::Freeze { id } => agent.freeze(id).await,
        Order::Thaw { id } => agent.thaw(id).await,
        Order::SetLimits {
            id,
            limits,
            unenforced,
        } => agent.set_limits(id, &limits, unenforced).await,
        Order::SetSlice {
            project,
            limits,
            unenforced,
        } => {
            let warnings = agent.set_slice(&project, &limits, unenforced).await?;
            Ok(Answer::Limits { warnings })
        }
        Order::RemoveSlice { project } => agent.remove_slice(&project).await.map(|()| Answer::Done),
        Order::Inventory { after } => {
            let mut ids = snapshot.lock().await;
            if after.is_none() {
                *ids = None;
                *ids = Some(agent.snapshot().await?);
            }
            // An empty page would say that nothing is there.
            let first = "An inventory begins with its first page.";
            let ids = ids.as_ref();
            agent.page(
                ids.ok_or_else(|| refusal(RefusalCode::Failed, first))?,
                after,
            )
        }
        Order::StopScope { id } => agent.stop_scope(id).await,
        Order::Forget { id } => agent.forget(id).await,
        Order::Usage { id } => agent.usage(id),
        Order::Logs { id, caller, logs } => agent.logs(id, caller, logs, fds).await,
        Order::LogFiles { after } => agent.log_files(after).await,
        Order::RemoveLogFiles { ids } => agent.remove_log_files(ids).await,
        Order::Fence { deadline } => agent.fence(deadline).await,
        Order::Place { placed, user } => agent.place(placed, user).await,
        Order::RunnerOf { pid } => {
            let id = agent.runner_of(pid);
            Ok(Answer::RunnerOf { id })
        }
    }
}

/// A new daemon: what earlier ones have left at the gate will not be opened by anybody.
async fn greet(agent: &Arc<Agent>, number: u64, hello: &Hello) -> Result<Answer, Refusal> {
    log::info(
        kinds::PEER_CONNECTED,
        format_args!(
            "Connection {number}: {} (messages version {})",
            shown(&hello.program),
            hello.v
        ),
    );
    let waiting: Vec<_> = agent
        .all_runners()
        .into_iter()
        .filter(|r| {
            r.owner < number && matches!(*r.phase.borrow(), Phase::Gated | Phase::Preparing)
        })
        .collect();
    for runner in &waiting {
        runner.give_up();
    }
    for runner in &waiting {
        if let Err(refused) = agent.abort(runner).await {
            runner.warning(kinds::ORDER_FAILED, refused.message);
        }
    }
    Ok(Answer::Hello {
        hello: Hello {
            v: VERSION,
            program: concat!("stratavore-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
            knows: KNOWS.map(str::to_owned).to_vec(),
        },
        boot_id: agent.boot_id.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Notice;

    #[test]
    fn a_reader_that_sleeps_is_given_up_with_bounded_memory() {
        let outbox = Outbox::default();
        let message = FromAgent::Notice(Notice::Lost {
            id: RunnerId::from_uuid(uuid::Uuid::nil()),
        });
        for _ in 0..WAITING {
            outbox.send(&message);
            if outbox.closed.load(Ordering::Relaxed) {
                break;
            }
        }
        assert!(outbox.closed.load(Ordering::Relaxed));
        assert!(lock(&outbox.queue).0.is_empty());
    }
}
