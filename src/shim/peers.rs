//! Who talks to the shim: the gate and connections to its listener. Nobody can block it: all
//! sockets are non-blocking, and whoever does not read is dropped.

use crate::seqpacket;
use crate::wire::{self, ShimNotice, ShimRequest};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, Shutdown, SocketFlags, accept_with, recv, shutdown};
use rustix::process::geteuid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections at a time; one more pushes out the oldest.
const PEERS_MAX: usize = 8;

/// What came from a peer.
#[derive(Debug)]
pub(super) enum Heard {
    /// An order, and what came beside it.
    Request(ShimRequest, Vec<OwnedFd>),
    /// Nothing now.
    Nothing,
    /// It has closed, or sent what nobody can read: it is gone.
    Gone,
}

/// One connection.
#[derive(Debug)]
struct Peer {
    id: u64,
    socket: OwnedFd,
}

/// All connections. Number 0 is the gate.
#[derive(Debug)]
pub(super) struct Peers {
    listener: OwnedFd,
    peers: Vec<Peer>,
    next: u64,
}

/// The gate's number.
pub(super) const GATE: u64 = 0;

impl Peers {
    pub(super) fn new(gate: OwnedFd, listener: OwnedFd) -> Result<Self, Errno> {
        ioctl_fionbio(&gate, true)?;
        ioctl_fionbio(&listener, true)?;
        let peers = vec![Peer {
            id: GATE,
            socket: gate,
        }];
        Ok(Self {
            listener,
            peers,
            next: GATE + 1,
        })
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.peers.iter().map(|p| (p.id, p.socket.as_fd()))
    }

    /// Takes one connection from the listener and sends it the greeting. `Err`: the system is
    /// short of something; try later.
    pub(super) fn accept(&mut self, greeting: &[ShimNotice]) -> Result<(), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let allowed = [0, geteuid().as_raw()];
        if !seqpacket::peer_uid(&socket).is_ok_and(|uid| allowed.contains(&uid)) {
            return Ok(());
        }
        if self.peers.iter().filter(|p| p.id != GATE).count() >= PEERS_MAX
            && let Some(oldest) = self.peers.iter().position(|p| p.id != GATE)
        {
            self.peers.remove(oldest);
        }
        let id = self.next;
        self.next += 1;
        self.peers.push(Peer { id, socket });
        for notice in greeting {
            self.send(id, notice);
        }
        Ok(())
    }

    /// Sends to one peer; drops it if it does not take it.
    pub(super) fn send(&mut self, id: u64, notice: &ShimNotice) {
        if let Ok(bytes) = wire::encode(notice) {
            self.peers
                .retain(|p| p.id != id || seqpacket::send(&p.socket, &bytes, &[]).is_ok());
        }
    }

    /// Sends to everybody.
    pub(super) fn tell(&mut self, notice: &ShimNotice) {
        if let Ok(bytes) = wire::encode(notice) {
            self.peers
                .retain(|p| seqpacket::send(&p.socket, &bytes, &[]).is_ok());
        }
    }

    /// Reads one message.
    pub(super) fn hear(&mut self, id: u64) -> Heard {
        let Some(peer) = self.peers.iter().find(|p| p.id == id) else {
            return Heard::Nothing;
        };
        let heard = match seqpacket::recv(&peer.socket) {
            Ok(Some(packet)) => match wire::decode(&packet.bytes) {
                Ok(request) => Heard::Request(request, packet.fds),
                Err(_) => Heard::Gone,
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Heard::Nothing,
            Ok(None) | Err(_) => Heard::Gone,
        };
        if matches!(heard, Heard::Gone) {
            self.drop_peer(id);
        }
        heard
    }

    pub(super) fn drop_peer(&mut self, id: u64) {
        self.peers.retain(|p| p.id != id);
    }

    /// Ends all connections so that what was sent arrives: closing a socket with unread
    /// messages in it would give the other side ECONNRESET in place of our last words.
    pub(super) fn close(&mut self) {
        for peer in self.peers.drain(..) {
            let _ = shutdown(&peer.socket, Shutdown::Both);
            let mut byte = [0u8; 1];
            while recv(&peer.socket, &mut byte[..], RecvFlags::DONTWAIT).is_ok_and(|got| got.1 > 0)
            {
            }
        }
    }
}
