//! One runner as the agent knows it.

use super::hub::lock;
use super::shim::{self, Link};
use crate::domain::RunnerId;
use crate::domain::exit::LaunchError;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// How a runner's life goes, as far as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its launch is under way.
    Preparing,
    /// Its launch failed and has been undone.
    Undone,
    /// Its shim waits at the gate.
    Gated,
    /// The gate is open, or it was found alive.
    Opened,
    /// Its command has been exec'd.
    Started,
    /// Its command could not be; the record follows.
    Failed(LaunchError),
    /// Its record is on disk.
    Ended,
    /// Its shim is gone without a record, and its scope is empty.
    Lost,
}

impl Phase {
    /// Nothing of it runs any more, and nothing will.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Undone | Self::Ended | Self::Lost)
    }
}

/// One runner.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) id: RunnerId,
    /// Below the mount point of cgroup2.
    pub(super) cgroup: String,
    /// The connection that prepared it; 0 = adopted.
    pub(super) owner: u64,
    pub(super) phase: watch::Sender<Phase>,
    /// µs from the first stop signal to SIGKILL; [`u64::MAX`] = an earlier agent knew it.
    pub(super) stop_timeout: AtomicU64,
    /// Somebody sees to it that its stop comes to an end.
    pub(super) overseen: AtomicBool,
    /// It was told that output of it is lost.
    pub(super) told_lost: AtomicBool,
    /// Why its shim could not launch it; the phase may be another by now.
    pub(super) failed: OnceLock<LaunchError>,
    /// Nobody will open its gate.
    pub(super) given_up: AtomicBool,
    /// [`ShimState::fence`](crate::wire::ShimState::fence), as it was told last.
    pub(super) fence: watch::Sender<Option<u64>>,
    /// Its shim was given the file of the fence on this connection.
    pub(super) handed: AtomicBool,
    /// It has missed a deadline, and somebody sees to its end.
    pub(super) seen_off: AtomicBool,
    link: Mutex<Option<Arc<Link>>>,
    /// Names the shim while it is at our gate.
    killer: Mutex<Option<OwnedFd>>,
    /// Held while its limits are changed, and while it is frozen or thawed.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// The shim has said something, or will not any more.
    pub(super) heard: watch::Sender<bool>,
    /// The shim was our child and has been reaped.
    pub(super) left: watch::Sender<bool>,
}

impl Runner {
    pub(super) fn new(id: RunnerId, cgroup: String, owner: u64, phase: Phase) -> Arc<Self> {
        Arc::new(Self {
            id,
            cgroup,
            owner,
            phase: watch::Sender::new(phase),
            stop_timeout: AtomicU64::new(u64::MAX),
            overseen: AtomicBool::new(false),
            told_lost: AtomicBool::new(false),
            failed: OnceLock::new(),
            given_up: AtomicBool::new(false),
            fence: watch::Sender::new(None),
            handed: AtomicBool::new(false),
            seen_off: AtomicBool::new(false),
            link: Mutex::new(None),
            killer: Mutex::new(None),
            changing: tokio::sync::Mutex::new(()),
            heard: watch::Sender::new(false),
            left: watch::Sender::new(false),
        })
    }

    pub(super) fn link(&self) -> Option<Arc<Link>> {
        lock(&self.link).clone()
    }

    pub(super) fn set_link(&self, link: Option<Arc<Link>>) {
        *lock(&self.link) = link;
    }

    pub(super) fn set_killer(&self, pidfd: Option<OwnedFd>) {
        *lock(&self.killer) = pidfd;
    }

    /// Its shim is our child and at our gate.
    pub(super) fn is_child(&self) -> bool {
        lock(&self.killer).is_some()
    }

    /// Kills the shim, if it is at our gate.
    pub(super) fn kill_shim(&self) {
        if let Some(pidfd) = &*lock(&self.killer) {
            shim::kill(pidfd);
        }
    }

    /// Takes a step, unless it is over already.
    pub(super) fn becomes(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let moves = !now.is_over() && *now != phase;
            if moves {
                *now = phase;
            }
            moves
        });
    }

    /// Waits until the phase is such; `false` = not within that time.
    pub(super) async fn wait(&self, most: Duration, such: impl FnMut(&Phase) -> bool) -> bool {
        wait(&self.phase, most, such).await
    }

    /// Waits until the shim has said how it is; `false` = not within that time.
    pub(super) async fn has_spoken(&self, most: Duration) -> bool {
        wait(&self.heard, most, |heard| *heard).await
    }

    /// Waits until the shim, our child, is gone; `false` = not within that time.
    pub(super) async fn has_left(&self, most: Duration) -> bool {
        wait(&self.left, most, |left| *left).await
    }

    /// Closes the gate if it is shut and to stay so.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        if *self.phase.borrow() == Phase::Gated
            && let Some(link) = self.link()
        {
            link.close_gate();
        }
    }
}

async fn wait<T>(value: &watch::Sender<T>, most: Duration, such: impl FnMut(&T) -> bool) -> bool {
    let mut value = value.subscribe();
    matches!(
        tokio::time::timeout(most, value.wait_for(such)).await,
        Ok(Ok(_))
    )
}
