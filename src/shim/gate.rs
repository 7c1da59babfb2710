//! From the first instruction to the closed gate: the shim's own surroundings, then the order.

use super::child::{self, Plan};
use super::output::Output;
use super::record::Place;
use super::{oom, sys};
use crate::crash;
use crate::domain::exit::LaunchError;
use crate::domain::signal;
use crate::seqpacket;
use crate::wire::{self, Passed, ShimNotice, ShimOrder, ShimRequest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, getpid, getrlimit, set_child_subreaper,
    set_dumpable_behavior, setpriority_process, setrlimit, setsid,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The longest wait for the order: the agent sends it at once.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Its own limit on open files, for the pidfds of a sweep.
const FILES: u64 = 1_100;

/// Our own priority, where we may have it; the child goes back to 0.
pub(super) const NICE: i32 = -20;

/// All that the supervisor starts with.
pub(super) struct Ready {
    pub(super) order: ShimOrder,
    pub(super) plan: Plan,
    pub(super) output: Option<Output>,
    pub(super) place: Place,
    pub(super) gate: OwnedFd,
    pub(super) listener: OwnedFd,
    pub(super) signals: OwnedFd,
    /// The `oom_score_adj` of its child.
    pub(super) oom_score: i32,
}

/// Makes the process independent of how it was started. `Err`: this is not a gate.
pub(super) fn settle_in() -> io::Result<(OwnedFd, OwnedFd, i32)> {
    sys::close_from_3();
    sys::reset_signals();
    let signals = sys::block_signals()?;
    crash::point("shim.start");
    set_child_subreaper(Some(getpid()))?;
    // Without CAP_SYS_RESOURCE (`--user`) this is refused: then the shim is mortal, and its
    // runner is made to be chosen before it.
    let oom_score = oom::protect();
    // Its runner may keep every processor of its share busy, and the shim must still come to
    // its turn to end it.
    let _ = setpriority_process(None, NICE);
    // In `--user` mode the runner has our uid: it shall not read what passes through here. Last,
    // because /proc/self belongs to root from now on.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let files = getrlimit(Resource::Nofile);
    let current = files.maximum.map_or(FILES, |most| most.min(FILES));
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(current),
            ..files
        },
    );
    let _ = setsid();
    let _ = chdir("/");
    let gate = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    Ok((gate, signals, oom_score))
}

/// Waits for the order and takes it. `None`: there is nothing to do and nothing to record; if
/// the order itself was wrong, the agent has been told so.
pub(super) fn take_order(gate: OwnedFd, signals: OwnedFd, oom_score: i32) -> Option<Ready> {
    let mut fds = [
        PollFd::new(&gate, PollFlags::IN),
        PollFd::new(&signals, PollFlags::IN),
    ];
    loop {
        match poll(&mut fds, Some(&PATIENCE)) {
            Err(Errno::INTR) => continue,
            Ok(n) if n > 0 && fds[1].revents().is_empty() => break,
            // No order in time, or a signal: nobody needs us.
            _ => return None,
        }
    }
    let packet = seqpacket::recv(&gate).ok()??;
    match accept(packet) {
        Ok((order, plan, output, place, listener)) => {
            crash::point("shim.order-read");
            Some(Ready {
                order,
                plan,
                output,
                place,
                gate,
                listener,
                signals,
                oom_score,
            })
        }
        Err(error) => {
            if let Ok(bytes) = wire::encode(&ShimNotice::LaunchFailed(error)) {
                let _ = rustix::io::ioctl_fionbio(&gate, true);
                let _ = seqpacket::send(gate.as_fd(), &bytes, &[]);
            }
            None
        }
    }
}

type Accepted = (ShimOrder, Plan, Option<Output>, Place, OwnedFd);

fn accept(packet: seqpacket::Packet) -> Result<Accepted, LaunchError> {
    let bad = |what: &str| LaunchError {
        step: "order".to_owned(),
        errno: 0,
        message: format!("the shim was given a wrong order: {what}"),
    };
    match wire::decode(&packet.bytes) {
        Ok(ShimRequest::Order) => {}
        _ => return Err(bad("the first message is not an order")),
    }
    let mut fds = packet.fds.into_iter();
    let (Some(payload), Some(listener), Some(dir)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(bad("it needs three descriptors"));
    };
    let bytes = seqpacket::read_sealed(payload).map_err(|e| bad(&e.to_string()))?;
    let mut order: ShimOrder = serde_json::from_slice(&bytes).map_err(|_| bad("malformed"))?;
    check(&order).map_err(bad)?;
    if order.passed.len() != fds.len() {
        return Err(bad("not the descriptors that it names"));
    }
    let owner = order.identity.as_ref().map(|i| (i.uid, i.gid));
    let mut plan = Plan::new(&mut order).map_err(bad)?;
    let mut logs = None;
    for (what, fd) in order.passed.drain(..).zip(fds) {
        match what {
            Passed::Logs => logs = Some(fd),
            _ => plan.pass(what, fd),
        }
    }
    let log = order.log_file_max.zip(logs);
    let output = log.map(|(max, folder)| Output::new(folder, &order.id, max, owner));
    let output = output.transpose().map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let what = format!("the log file can't be begun: {}", child::text(errno));
        child::failed("log", errno, &what)
    })?;
    let place = Place::reserve(dir, &order.id).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let what = format!("no room for the exit record: {}", child::text(errno));
        child::failed("record", errno, &what)
    })?;
    Ok((order, plan, output, place, listener))
}

fn check(order: &ShimOrder) -> Result<(), &'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if order.id.is_empty() || order.id.len() > 64 || !order.id.chars().all(legal) {
        return Err("the id");
    }
    if signal::check(order.kill_signal).is_err() {
        return Err("the stop signal");
    }
    if !order.cgroup.starts_with('/') || order.cgroup.split('/').any(|part| part == "..") {
        return Err("the cgroup");
    }
    Ok(())
}
