//! Descriptors of callers. What closing one does is up to its file system, which may be the caller's own (FUSE) or a
//! server's that is away, so they are never closed on the agent's one thread.

use super::log;
use super::policy::refusal;
use crate::domain::kinds;
use crate::wire::{Passed, Refusal, RefusalCode};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Closings that may hang; with as many, no descriptor is taken any more.
const HANGING_MAX: usize = 64;
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

    pub(super) fn as_slice(&self) -> &[OwnedFd] {
        &self.0
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
        CLOSING.fetch_add(1, Ordering::Relaxed);
        let close = move || {
            drop(fds);
            CLOSING.fetch_sub(1, Ordering::Relaxed);
        };
        let thread = std::thread::Builder::new()
            .name("close".to_owned())
            .stack_size(STACK);
        if let Err(e) = thread.spawn(close) {
            CLOSING.fetch_sub(1, Ordering::Relaxed);
            log::warning(
                kinds::PEER_TROUBLE,
                format_args!("No thread closes a caller's descriptors: {e}"),
            );
        }
    }
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
