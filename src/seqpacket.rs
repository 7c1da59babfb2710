//! `SOCK_SEQPACKET` sockets with descriptors, and sealed memfds: the transport below
//! [`crate::wire`]. Blocking or not is the socket's own setting; nothing here needs a runtime,
//! so that the shim can use it.

use crate::wire::{PACKET_MAX, PAYLOAD_MAX};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socket_with, socketpair,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Most descriptors beside one packet.
pub const FDS_MAX: usize = 8;
/// Most that the kernel lets a packet have (SCM_MAX_FD).
const FDS_SENT: usize = 253;

/// One packet with the descriptors beside it.
#[derive(Debug)]
pub struct Packet {
    /// The message.
    pub bytes: Vec<u8>,
    /// What came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// It was larger than allowed or had too many descriptors: what is here is a part of it.
    pub cut: bool,
}

/// A socket to be bound or connected, close-on-exec, blocking.
pub fn unbound() -> io::Result<OwnedFd> {
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    Ok(socket_with(family, SocketType::SEQPACKET, flags, None)?)
}

/// A connected pair, close-on-exec, blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one packet whole or not at all. Never raises SIGPIPE.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one packet",
        ));
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(
            &socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives one packet; `None` = the other side has closed. A packet that is larger than
/// allowed or carries too many descriptors is an error, and its descriptors are closed.
pub fn recv(socket: impl AsFd) -> io::Result<Option<Packet>> {
    match recv_any(socket)? {
        Some(packet) if packet.cut => Err(too_much()),
        packet => Ok(packet),
    }
}

/// What is wrong with a packet that was [cut](Packet::cut).
pub fn too_much() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a packet larger than {PACKET_MAX} bytes or with more than {FDS_MAX} descriptors"),
    )
}

/// As [`recv`], but a packet that is too large comes as it is, with every descriptor: for those who don't close what
/// others send. (What there is no room for the kernel closes, in the receiver's time.)
pub fn recv_any(socket: impl AsFd) -> io::Result<Option<Packet>> {
    // Its size first: a buffer for the largest, made and filled with zeros for each small packet, costs more.
    let mut bytes = match peek(&socket) {
        Ok(size) => vec![0; size.clamp(1, PACKET_MAX + 1)],
        Err(Errno::CONNRESET | Errno::PIPE) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_SENT))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    });
    let got = match got {
        Ok(got) => got,
        Err(Errno::CONNRESET | Errno::PIPE) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    let cut = got.flags.intersects(cut) || got.bytes > PACKET_MAX || fds.len() > FDS_MAX;
    bytes.truncate(got.bytes);
    Ok(Some(Packet { bytes, fds, cut }))
}

/// The size of the next packet, which stays where it is; 0 = the other side has closed.
fn peek(socket: impl AsFd) -> rustix::io::Result<usize> {
    let mut nothing = [0u8; 0];
    let look = RecvFlags::PEEK | RecvFlags::TRUNC;
    rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut nothing[..], look))
        .map(|(_, size)| size)
}

/// The uid of the process that connected (SO_PEERCRED): what it was at connect time.
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// A memfd with these bytes, sealed: whoever gets it can read it and nobody can change it.
pub fn sealed_memfd(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let fd = OwnedFd::from(file);
    fcntl_add_seals(
        &fd,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(fd)
}

/// Whether it is a memory file that nobody can change any more.
pub fn is_sealed(fd: impl AsFd) -> bool {
    let needed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(needed))
}

/// What is said of one that is not.
pub const NOT_SEALED: &str = "the payload is not a sealed memfd";

/// The bytes of a memfd made by [`sealed_memfd`]. Anything that could change under our hands or
/// is larger than [`PAYLOAD_MAX`] is refused.
pub fn read_sealed(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if !is_sealed(&fd) {
        return refuse(NOT_SEALED);
    }
    let size = usize::try_from(fstat(&fd)?.st_size).unwrap_or(usize::MAX);
    if size > PAYLOAD_MAX {
        return refuse("the payload is larger than allowed");
    }
    let mut bytes = vec![0; size];
    let file = File::from(fd);
    // Not by the shared offset: the sender keeps a copy of the descriptor.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Reads a small file whole, or says that it is too large.
pub fn read_bounded(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is too large",
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn packets_keep_their_bounds_and_descriptors() -> Outcome {
        let (a, b) = pair()?;
        let memfd = sealed_memfd("test", b"payload")?;
        send(&a, b"one", &[memfd.as_fd()])?;
        send(&a, b"two", &[])?;
        let one = recv(&b)?.ok_or("closed")?;
        assert_eq!((&one.bytes[..], one.fds.len()), (&b"one"[..], 1));
        let fd = one.fds.into_iter().next().ok_or("no descriptor")?;
        assert_eq!(read_sealed(fd)?, b"payload");
        assert_eq!(recv(&b)?.ok_or("closed")?.bytes, b"two");
        drop(a);
        assert!(recv(&b)?.is_none());
        Ok(())
    }

    #[test]
    fn a_huge_packet_is_an_error_and_the_next_one_is_fine() -> Outcome {
        let (a, b) = pair()?;
        send(&a, &vec![b'x'; PACKET_MAX + 1], &[])?;
        send(&a, b"fine", &[])?;
        assert!(recv(&b).is_err());
        assert_eq!(recv(&b)?.ok_or("closed")?.bytes, b"fine");
        Ok(())
    }

    #[test]
    fn an_unsealed_file_is_refused() -> Outcome {
        let fd = memfd_create("open", MemfdFlags::CLOEXEC)?;
        assert!(read_sealed(fd).is_err());
        assert!(read_sealed(File::open("/dev/zero")?.into()).is_err());
        Ok(())
    }
}
