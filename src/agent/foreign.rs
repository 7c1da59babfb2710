//! Descriptors of callers. What closing one does is up to its file system, which may be the caller's own (FUSE) or a
//! server's that is away, or to its peer (a socket that lingers), so they are never closed on the agent's one thread:
//! whatever comes with a packet is in here before anybody has looked at the packet.

use super::log;
use super::policy::refusal;
use crate::domain::kinds;
use crate::seqpacket::{NOT_SEALED, is_sealed};
use crate::wire::{Passed, Refusal, RefusalCode};
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::UnixStream;

/// Closings that may hang; with as many, no descriptor is taken any more.
const HANGING_MAX: usize = 64;
/// Closings under way with which no thread is started for one more; its descriptors stay open. Only who means to
/// comes so far: then the connection they came over is of the daemon's user, and the agent shall go on.
const CLOSING_MAX: usize = 256;
/// A closing thread's stack.
const STACK: usize = 64 << 10;

static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// Descriptors that are closed by a thread of their own when they are dropped.
#[derive(Debug)]
pub(super) struct Foreign(Vec<OwnedFd>);

impl Foreign {
    pub(super) fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds)
    }

    /// A connection. Packets that nobody has read go with it, and so do their descriptors.
    pub(super) fn connection(socket: UnixStream) -> Self {
        Self(socket.into_std().map(OwnedFd::from).into_iter().collect())
    }

    /// Takes them out, for one who knows what they are.
    pub(super) fn take(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.0)
    }

    pub(super) fn as_slice(&self) -> &[OwnedFd] {
        &self.0
    }

    /// Takes out the first, which is to be a launch's payload: a memory file, which is closed at once like any other
    /// memory.
    pub(super) fn payload(&mut self) -> Result<OwnedFd, Refusal> {
        let malformed = |why: &str| Err(refusal(RefusalCode::Unsupported, why));
        if self.0.is_empty() {
            return malformed("A launch comes with one descriptor, its payload.");
        }
        let first = self.0.remove(0);
        if !is_sealed(&first) {
            drop(Self(vec![first]));
            return malformed(NOT_SEALED);
        }
        Ok(first)
    }

    /// Whether so many closings hang that there must not be more.
    pub(super) fn too_many_hang() -> bool {
        CLOSING.load(Ordering::Relaxed) >= HANGING_MAX
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let fds = std::mem::take(&mut self.0);
        if fds.is_empty() {
            return;
        }
        // What a thread that was not started would have closed is not closed here either.
        let fds = ManuallyDrop::new(fds);
        if CLOSING.fetch_add(1, Ordering::Relaxed) >= CLOSING_MAX {
            CLOSING.fetch_sub(1, Ordering::Relaxed);
            return stay_open(&format_args!(
                "{CLOSING_MAX} closings hang, which is the most"
            ));
        }
        let close = move || {
            drop(ManuallyDrop::into_inner(fds));
            CLOSING.fetch_sub(1, Ordering::Relaxed);
        };
        let thread = std::thread::Builder::new()
            .name("close".to_owned())
            .stack_size(STACK);
        if let Err(e) = thread.spawn(close) {
            CLOSING.fetch_sub(1, Ordering::Relaxed);
            stay_open(&e);
        }
    }
}

fn stay_open(why: &dyn std::fmt::Display) {
    log::warning(
        kinds::PEER_TROUBLE,
        format_args!("A caller's descriptors stay open, as no thread can close them: {why}"),
    );
}

/// Each of the three at most once, and a descriptor for each.
pub(super) fn check_streams(passed: &[Passed], given: usize) -> Result<(), Refusal> {
    let ours = passed.contains(&Passed::Credentials) || passed.contains(&Passed::Logs);
    let twice = passed
        .iter()
        .enumerate()
        .any(|(n, p)| passed[..n].contains(p));
    if ours || twice || passed.len() != given {
        let why = format!("{given} descriptors came with a launch that names {passed:?}.");
        return Err(refusal(RefusalCode::Unsupported, why));
    }
    if given > 0 && Foreign::too_many_hang() {
        let why = "Too many descriptors of earlier launches can't be closed, as their file systems do not answer; launch without --pipe, or see to the mounts.";
        return Err(refusal(RefusalCode::LimitsExceeded, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn they_are_closed_and_counted() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        drop(Foreign::new(vec![writer.into()]));
        // The end of the pipe comes when its writer is closed.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        assert!(!Foreign::too_many_hang());
    }
}
