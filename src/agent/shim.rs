//! The agent's end of a shim: spawning it, and the connection to it.

use crate::domain::RunnerId;
use crate::seqpacket::{self, Packet};
use crate::wire::{ShimRequest, encode};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// How long a shim's socket may be full. A frozen shim is not waited for at all.
const SEND: Duration = Duration::from_secs(5);
/// Connections that may wait while a shim is frozen: one per restart of the agent.
const BACKLOG: i32 = 128;

/// A connection to a living shim. The gate is one, too.
#[derive(Debug)]
pub(super) struct Link(UnixStream);

impl Link {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        // No stream, but tokio only tells when it is ready.
        Ok(Self(UnixStream::from_std(socket)?))
    }

    /// Sends one request.
    pub(super) async fn send(
        &self,
        request: &ShimRequest,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = encode(request).map_err(io::Error::other)?;
        let send = self
            .0
            .async_io(Interest::WRITABLE, || seqpacket::send(&self.0, &bytes, fds));
        tokio::time::timeout(SEND, send)
            .await
            .map_err(|_| io::Error::from(ErrorKind::TimedOut))?
    }

    /// The next packet; `None` = the shim has closed.
    pub(super) async fn receive(&self) -> io::Result<Option<Packet>> {
        self.0
            .async_io(Interest::READABLE, || seqpacket::recv(&self.0))
            .await
    }

    /// Nothing more will come from here: for a shim at its gate, the end. Its own last words
    /// still arrive.
    pub(super) fn close_gate(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }
}

/// A shim that was just spawned and waits at its gate, in the agent's own cgroup.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) pid: u32,
    pub(super) gate: Link,
    /// To be waited for.
    pub(super) child: Child,
    /// Names it, whatever happens to its pid.
    pub(super) pidfd: OwnedFd,
    pub(super) socket: OwnedFd,
}

/// Kills the process a pidfd names.
pub(super) fn kill(pidfd: &OwnedFd) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
}

/// What [`spawn`] makes where blocking is allowed; [`Raw::ready`] makes it usable in the loop.
#[derive(Debug)]
pub(super) struct Raw {
    pid: u32,
    gate: OwnedFd,
    child: Child,
    pidfd: OwnedFd,
    socket: OwnedFd,
}

impl Raw {
    /// Puts the gate into the event loop.
    pub(super) fn ready(self) -> io::Result<Spawned> {
        let Self {
            pid,
            gate,
            child,
            pidfd,
            socket,
        } = self;
        Ok(Spawned {
            pid,
            gate: Link::new(gate)?,
            child,
            pidfd,
            socket,
        })
    }
}

/// Spawns a shim that waits at its gate, with the socket it will listen on. No `pre_exec`:
/// that would fork this whole process instead of using posix_spawn.
pub(super) fn spawn(
    shim: &Path,
    env: Vec<(String, String)>,
    sockets: BorrowedFd<'_>,
    id: RunnerId,
) -> io::Result<Raw> {
    let (gate, other) = seqpacket::pair()?;
    let socket = listen(sockets, id)?;
    let child = Command::new(shim)
        .env_clear()
        .envs(env)
        .stdin(Stdio::from(other))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", shim.display())))?;
    // Not reaped, so the pid is still its own.
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid = pid.ok_or_else(|| io::Error::other("the shim has no pid"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let pid = pid.as_raw_pid().cast_unsigned();
    Ok(Raw {
        pid,
        gate,
        child,
        pidfd,
        socket,
    })
}

/// The name of a runner's socket in the folder of sockets.
pub(super) fn socket_name(id: RunnerId) -> String {
    format!("{id}.sock")
}

/// The runner of a socket's name.
pub(super) fn from_socket_name(name: &str) -> Option<RunnerId> {
    name.strip_suffix(".sock")?.parse().ok()
}

fn address(sockets: BorrowedFd<'_>, id: RunnerId) -> io::Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{}", sockets.as_raw_fd(), socket_name(id));
    Ok(SocketAddrUnix::new(path)?)
}

fn listen(sockets: BorrowedFd<'_>, id: RunnerId) -> io::Result<OwnedFd> {
    let socket = crate::seqpacket::unbound()?;
    rustix::net::bind(&socket, &address(sockets, id)?)?;
    // Nobody gets into the folder either; this says it twice.
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::chmodat(sockets, socket_name(id), mode, rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// What is behind a runner's socket.
#[derive(Debug)]
pub(super) enum Found {
    /// A shim, and the connection to it.
    Alive(Link),
    /// A shim that takes no more connections: it is frozen or hangs.
    Busy,
    /// Nobody.
    Nobody,
}

/// Connects to a runner's shim. Never blocks: a socket of this kind connects at once or not.
pub(super) fn connect(sockets: BorrowedFd<'_>, id: RunnerId) -> io::Result<Found> {
    use rustix::io::Errno;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match rustix::net::connect(&socket, &address(sockets, id)?) {
        Ok(()) => Ok(Found::Alive(Link::new(socket)?)),
        Err(Errno::AGAIN) => Ok(Found::Busy),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(Found::Nobody),
        Err(e) => Err(e.into()),
    }
}
