//! A runner's output for those who may view it but not read the journal: from its log file, if it has
//! one (`logfiles`); else journalctl, with fixed
//! arguments and without privileges, writes into a pipe of the caller's.
//!
//! To follow, journalctl is run again and again from where it was ([`--cursor-file`]), woken by a
//! second one that waits for new lines: so the end is certain. When the runner has ended and
//! journald has taken in what it wrote (`journalctl --sync`), one more run prints the rest. A
//! `journalctl -f` could only be killed, at a moment when nobody knows what it has printed.
//!
//! [`--cursor-file`]: https://www.freedesktop.org/software/systemd/man/journalctl.html

use super::foreign::Foreign;
use super::hub::{Agent, Runner, lock};
use super::log;
use super::policy::refusal;
use crate::domain::RunnerId;
use crate::domain::kinds;
use crate::domain::logs::{LINES_FOLLOWED, LogsRequest};
use crate::wire::{Answer, Refusal, RefusalCode};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::pipe::fcntl_getpipe_size;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe::Sender;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

/// Readings of one user at a time.
const EACH: usize = 8;
/// Readings of all users but root at a time: two processes each, of the service's TasksMax.
const ALL: usize = 64;
/// How long journald may take to take in what is in its sockets.
const SYNC: Duration = Duration::from_secs(5);
/// The shortest time between two runs of one reading.
const PACE: Duration = Duration::from_millis(100);
/// A reading whose second journalctl is gone looks so often by itself.
const LOOK: Duration = Duration::from_secs(2);
/// Where journalctl may be.
const PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

/// Who reads, and how many times.
#[derive(Debug)]
pub(super) struct Readers {
    counts: Mutex<HashMap<u32, usize>>,
    /// The folder of cursors.
    cursors: PathBuf,
    next: AtomicU64,
}

/// One reading; its place is free when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    agent: Arc<Agent>,
    uid: u32,
    cursor: PathBuf,
}

impl Readers {
    /// Makes the folder anew: what is in it is of readings that are over.
    pub(super) fn new(cursors: PathBuf) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        match std::fs::remove_dir_all(&cursors) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(&cursors)?;
        Ok(Self {
            counts: Mutex::default(),
            cursors,
            next: AtomicU64::new(0),
        })
    }
}

impl Slot {
    fn take(agent: &Arc<Agent>, uid: u32) -> Result<Self, Refusal> {
        let readers = &agent.readers;
        let mut counts = lock(&readers.counts);
        let full = |whose: String, most| {
            let why = format!(
                "{whose} {most} logs are being read at a time already; end one of them first."
            );
            Err(refusal(RefusalCode::LimitsExceeded, why))
        };
        if counts.get(&uid).is_some_and(|n| *n >= EACH) {
            return full(format!("For uid {uid}"), EACH);
        }
        let all: usize = counts
            .iter()
            .filter(|(u, _)| **u != 0)
            .map(|(_, n)| n)
            .sum();
        if uid != 0 && all >= ALL {
            return full("On this host".to_owned(), ALL);
        }
        *counts.entry(uid).or_default() += 1;
        let number = readers.next.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            agent: agent.clone(),
            uid,
            cursor: readers.cursors.join(number.to_string()),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.cursor);
        let mut counts = lock(&self.agent.readers.counts);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// Why a reading came to its end before its time; nobody is told.
type Ended = std::io::Result<()>;

impl Agent {
    /// Begins a reading into the descriptor that came with the order.
    pub(super) async fn logs(
        self: &Arc<Self>,
        id: RunnerId,
        caller: u32,
        request: LogsRequest,
        mut fds: Foreign,
    ) -> Result<Answer, Refusal> {
        let unsupported = |why: &str| refusal(RefusalCode::Unsupported, why);
        let [sink] = fds.as_slice() else {
            return Err(unsupported("It comes with one descriptor, a pipe."));
        };
        // Whatever else it were, root would write to it.
        let pipe = fcntl_getpipe_size(sink).is_ok();
        let writes = fcntl_getfl(sink)
            .is_ok_and(|flags| flags.contains(OFlags::WRONLY) && !flags.contains(OFlags::NONBLOCK));
        let sink = match pipe && writes {
            true => fds.take().pop(),
            false => None,
        };
        let Some(sink) = sink else {
            return Err(unsupported("Its descriptor is no pipe to be written to."));
        };
        // Tells when its reader has gone. It is not made non-blocking: journalctl writes to it.
        let watched = sink.try_clone().and_then(Sender::from_owned_fd_unchecked);
        let watched =
            watched.map_err(|e| unsupported(&format!("Its descriptor is no pipe: {e}.")))?;
        let slot = Slot::take(self, caller)?;
        let Some((slot, sink)) = self.read_log_file(id, &request, slot, sink).await? else {
            return Ok(Answer::Done);
        };
        let sync = self.sync().spawn().map_err(|e| {
            let why = format!("journalctl can't be run: {e}.");
            refusal(RefusalCode::Failed, why)
        })?;
        let agent = self.clone();
        tokio::spawn(async move {
            let pouring = async {
                wait(sync).await;
                match self_following(&agent, id, &request) {
                    Some(runner) => agent.follow(&runner, &request, &slot, &sink).await,
                    None => agent.once(id, &request, &sink).await,
                }
            };
            let done = tokio::select! {
                done = pouring => done,
                () = hung_up(&watched) => Ok(()),
            };
            if let Err(e) = done {
                let why = format_args!("The log of {id} ends too early: {e}");
                log::warning(kinds::LOG_ENDED_EARLY, why);
            }
        });
        Ok(Answer::Done)
    }

    async fn once(&self, id: RunnerId, request: &LogsRequest, sink: &OwnedFd) -> Ended {
        let mut command = self.print(id, request.output.as_str());
        if let Some(lines) = request.lines {
            command.arg(format!("--lines={lines}"));
        }
        command.stdout(sink.try_clone()?).spawn()?.wait().await?;
        Ok(())
    }

    async fn follow(
        &self,
        runner: &Runner,
        request: &LogsRequest,
        slot: &Slot,
        sink: &OwnedFd,
    ) -> Ended {
        let id = runner.id;
        // Its last line wakes us when it is ready, so that nothing falls in between.
        let mut watcher = self.print(id, "cat");
        watcher
            .args(["--follow", "--lines=1"])
            .stdout(Stdio::piped());
        let mut watcher = watcher.spawn()?;
        let mut lines = watcher.stdout.take();
        let mut phase = runner.phase.subscribe();
        let from_here = || {
            let mut command = self.print(id, request.output.as_str());
            let mut cursor = std::ffi::OsString::from("--cursor-file=");
            cursor.push(&slot.cursor);
            command.arg(cursor);
            command
        };
        let mut first = from_here();
        match request.lines.unwrap_or(LINES_FOLLOWED) {
            // No line, but the place where the next one will be.
            0 => first.arg("--lines=1").stdout(Stdio::null()),
            lines => first
                .arg(format!("--lines={lines}"))
                .stdout(sink.try_clone()?),
        };
        first.spawn()?.wait().await?;
        loop {
            let over = tokio::select! {
                over = phase.wait_for(|p| p.is_over()) => { drop(over); true }
                _ = woken(&mut lines) => false,
            };
            if over {
                wait(self.sync().spawn()?).await;
            } else {
                let _ = tokio::time::timeout(PACE, drain(&mut lines)).await;
            }
            from_here()
                .stdout(sink.try_clone()?)
                .spawn()?
                .wait()
                .await?;
            if over {
                return Ok(());
            }
        }
    }

    /// journalctl for the lines of one runner, of this boot and earlier ones.
    fn print(&self, id: RunnerId, output: &str) -> Command {
        let mut command = self.journalctl();
        command.args(["--no-pager", "--quiet", "--all"]);
        command.arg(format!("--output={output}"));
        let unit = id.unit();
        match self.user {
            // What journald itself says of where a line comes from; nobody can set it.
            None => command.arg(format!("_SYSTEMD_UNIT={unit}")),
            Some(uid) => {
                command.args([format!("_SYSTEMD_USER_UNIT={unit}"), format!("_UID={uid}")])
            }
        };
        command
    }

    /// Returns when journald has read its sockets. Where it may not be asked for that, it is
    /// most likely done meanwhile.
    fn sync(&self) -> Command {
        let mut command = self.journalctl();
        command.args(["--sync", "--quiet"]);
        command
    }

    fn journalctl(&self) -> Command {
        let mut command = Command::new(&self.shim);
        command
            .args([crate::wire::WITHOUT_PRIVILEGES, "journalctl"])
            // Nothing of SYSTEMD_… or PAGER, and lines as they are.
            .env_clear()
            .envs([("PATH", PATH), ("LANG", "C.UTF-8")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// The runner, if it is to be followed and has not ended.
pub(super) fn self_following(
    agent: &Agent,
    id: RunnerId,
    request: &LogsRequest,
) -> Option<Arc<Runner>> {
    let runner = agent.runner(id).ok()?;
    let over = runner.phase.borrow().is_over();
    (request.follow && !over).then_some(runner)
}

/// Until nobody reads any more.
async fn hung_up(pipe: &Sender) {
    while let Ok(ready) = pipe.ready(Interest::ERROR).await {
        if ready.is_error() || ready.is_write_closed() {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn wait(mut child: Child) {
    let _ = tokio::time::timeout(SYNC, child.wait()).await;
}

/// Until there is something new.
async fn woken(lines: &mut Option<ChildStdout>) {
    if let Some(stdout) = lines {
        match stdout.read(&mut [0; 8192]).await {
            Ok(n) if n > 0 => return,
            _ => *lines = None,
        }
    }
    tokio::time::sleep_until(Instant::now() + LOOK).await;
}

/// Throws away what else is new; it is printed by the next run.
async fn drain(lines: &mut Option<ChildStdout>) {
    let mut some = [0; 8192];
    while let Some(stdout) = lines {
        if !matches!(stdout.read(&mut some).await, Ok(n) if n > 0) {
            *lines = None;
        }
    }
    std::future::pending().await
}
