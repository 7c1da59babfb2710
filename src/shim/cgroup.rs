//! The scope's cgroup: who is in it, signals to all of them, and what it used.

use super::{parse, sys};
use crate::domain::{Usage, cgroup};
use rustix::fs::{Dir, FileType, Mode, OFlags, mkdirat, open, openat};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Pidfds held at a time in a sweep; the shim's own limit on open files is above it.
const CHUNK: usize = 1_000;
/// Rounds of one sweep: enough for any ordinary tree; what still appears is for the next sweep.
const ROUNDS: usize = 50;
/// Sub-cgroups looked at. Only root can make any in a scope that is not delegated.
const DIRS_MAX: usize = 10_000;
/// The cgroup below ours for processes of other users that are to be killed.
const OTHERS: &str = "others";
/// How deep.
const DEPTH_MAX: usize = 32;

/// The cgroup that we are in ourselves: nobody outside our own scope can ever be swept.
#[derive(Debug)]
pub(super) struct Cgroup {
    dir: OwnedFd,
    me: i32,
}

impl Cgroup {
    /// Opens it, if it is ours.
    pub(super) fn open(root: &str, path: &str) -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = parse::own_cgroup(&text).unwrap_or("/");
        if own != path || own == "/" {
            return Err(io::Error::other(format!(
                "the shim is in the cgroup {own} and not in {path}"
            )));
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self {
            dir: open(format!("{root}{path}"), flags, Mode::empty())?,
            me: getpid().as_raw_nonzero().get(),
        })
    }

    /// `memory.events`, to be polled for POLLPRI; `None` where this kernel has none.
    pub(super) fn memory_events(&self) -> Option<File> {
        open_at(self.dir.as_fd(), "memory.events").ok()
    }

    /// All processes in it and below it but the shim and `except`. An error means "unknown".
    pub(super) fn members(&self, except: Option<i32>) -> io::Result<Vec<i32>> {
        let mut found = Vec::new();
        let mut dirs = 0;
        members_of(self.dir.as_fd(), DEPTH_MAX, &mut dirs, &mut found)?;
        found.retain(|pid| *pid != self.me && Some(*pid) != except);
        Ok(found)
    }

    /// Sends `signals` to every process that is not in `done`, and to those that appear while
    /// it does so; they are in `done` then. Unless they are SIGKILL, what a process starts
    /// *because* of its signal is spared (a shell's trap that cleans up): a newcomer whose
    /// parent lives and has been told is its parent's business.
    ///
    /// Never to a process outside: each one is pinned by a pidfd first, and signalled only if
    /// its number is in the cgroup *after* that. If the number was given to somebody else
    /// before the pidfd was opened, then either that one is in the cgroup (and is to be
    /// signalled), or it is not and its number is missing from the second reading, or it has
    /// died and the number was taken again by a member: then the pidfd is of a dead process
    /// and the signal goes nowhere.
    pub(super) fn signal(&self, signals: &[Signal], except: Option<i32>, done: &mut BTreeSet<i32>) {
        let everybody = signals.contains(&Signal::KILL);
        let mut others = Vec::new();
        for round in 0..ROUNDS {
            let Ok(mut found) = self.members(except) else {
                return;
            };
            found.retain(|pid| !done.contains(pid));
            if found.is_empty() {
                return;
            }
            for chunk in found.chunks(CHUNK) {
                let spared = |pid: i32| {
                    round > 0 && !everybody && parent(pid).is_some_and(|p| done.contains(&p))
                };
                let told = chunk.iter().copied().filter(|pid| !spared(*pid));
                let pinned: Vec<_> = told.filter_map(pin).collect();
                let Ok(still) = self.members(except) else {
                    return;
                };
                let still: BTreeSet<i32> = still.into_iter().collect();
                for (pid, pin) in &pinned {
                    if still.contains(&pid.as_raw_nonzero().get()) {
                        for signal in signals {
                            let sent = match pin {
                                Some(fd) => pidfd_send_signal(fd, *signal),
                                None => kill_process(*pid, *signal),
                            };
                            // ESRCH: it is gone. EPERM (`--user`): sudo, say; it is another's.
                            if everybody && sent == Err(Errno::PERM) {
                                others.push(*pid);
                            }
                        }
                    }
                }
                done.extend(chunk);
            }
            if !others.is_empty() {
                let _ = self.kill_others(&std::mem::take(&mut others));
            }
        }
    }

    /// Kills processes of other users: whoever owns a cgroup may kill what is in it, but in this
    /// one is the shim, too. So they get one of their own, in which what they fork stays.
    fn kill_others(&self, pids: &[Pid]) -> io::Result<()> {
        match mkdirat(&self.dir, OTHERS, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = openat(&self.dir, OTHERS, flags, Mode::empty())?;
        let file = |name| openat(&dir, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let procs = file("cgroup.procs")?;
        for pid in pids {
            // Gone is as good as killed.
            let _ = rustix::io::write(&procs, pid.to_string().as_bytes());
        }
        rustix::io::write(&file("cgroup.kill")?, b"1")?;
        Ok(())
    }

    /// What the tree used, without the shim's own task. `helper_ooms`: kills of our own helper.
    pub(super) fn usage(&self, helper_ooms: u64) -> Usage {
        let all = cgroup::usage(|name| self.read(name));
        Usage {
            oom_kills: all.oom_kills.map(|n| n.saturating_sub(helper_ooms)),
            // Of the dead.
            memory_bytes: None,
            tasks: None,
            ..all
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        read_at(self.dir.as_fd(), name).ok()
    }
}

/// The process by a pidfd; by its bare number on a kernel without them (before 5.3).
fn pin(pid: i32) -> Option<(Pid, Option<OwnedFd>)> {
    let pid = Pid::from_raw(pid)?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Some((pid, Some(fd))),
        Err(Errno::NOSYS | Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Some((pid, None)),
        Err(_) => None,
    }
}

/// Our own children, zombies too. We are the subreaper: everybody's orphans are among them.
/// Nobody where this kernel does not tell (CONFIG_PROC_CHILDREN).
pub(super) fn children() -> Vec<i32> {
    let text = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let pids = text.split_ascii_whitespace();
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

/// Who started it and still lives; an orphan's is the shim.
fn parent(pid: i32) -> Option<i32> {
    parse::parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn open_at(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<File> {
    openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

fn read_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let mut text = String::new();
    open_at(dir, name)?.read_to_string(&mut text)?;
    Ok(text)
}

/// No such cgroup (any more), or a threaded one, whose processes its parent lists.
fn nothing_there(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP))
}

fn members_of(
    dir: BorrowedFd<'_>,
    depth: usize,
    dirs: &mut usize,
    found: &mut Vec<i32>,
) -> io::Result<()> {
    match read_at(dir, "cgroup.procs") {
        Ok(text) => found.extend(parse::pids(&text)),
        Err(error) if nothing_there(&error) => {}
        Err(error) => return Err(error),
    }
    let below = read_at(dir, "cgroup.stat")
        .ok()
        .and_then(|t| cgroup::keyed(&t, "nr_descendants"));
    if below == Some(0) || depth == 0 {
        return Ok(());
    }
    let Ok(mut entries) = Dir::read_from(dir) else {
        return Ok(());
    };
    while let Some(Ok(entry)) = entries.read() {
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
            continue;
        }
        *dirs += 1;
        if *dirs > DIRS_MAX {
            break;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(child) = openat(dir, name, flags, Mode::empty()) else {
            continue;
        };
        let events = read_at(child.as_fd(), "cgroup.events").unwrap_or_default();
        if cgroup::keyed(&events, "populated") != Some(0) {
            members_of(child.as_fd(), depth - 1, dirs, found)?;
        }
    }
    Ok(())
}

/// The signals of one stop. SIGCONT comes second, so that a stopped process sees the first.
pub(super) fn stop_signals(number: i32) -> Vec<Signal> {
    let mut signals: Vec<_> = sys::signal_from(number).into_iter().collect();
    if number != Signal::KILL.as_raw() && number != Signal::CONT.as_raw() {
        signals.push(Signal::CONT);
    }
    signals
}
