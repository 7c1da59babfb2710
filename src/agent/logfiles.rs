//! The log files of runners: begun by shims, read and removed here.
//!
//! Reading is done by a thread of its own for each reader, so that a disk or a reader that hangs holds up nobody else.

use super::exits::Folder;
use super::hub::{Agent, Runner};
use super::log;
use super::logs::{Slot, self_following};
use super::policy::refusal;
use crate::domain::RunnerId;
use crate::domain::kinds;
use crate::domain::logs::{LINES_FOLLOWED, LogOutput, LogsRequest};
use crate::logfile::{self, Reading};
use crate::wire::{Answer, LOG_FILE_KEPT, LOG_FILES, Refusal, RefusalCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, statat};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How often a reader that follows looks for more.
const PACE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
const BLOCK: usize = 64 << 10;
/// Of a longer line several entries are made, as journald does it (`LineMax=`).
const LINE_MAX: usize = 48 << 10;
/// A thread that copies needs no more.
const STACK: usize = 256 << 10;

/// Beneath the agent's own: what is in here is named by the id of a runner.
fn ids(folder: &Folder) -> io::Result<BTreeSet<RunnerId>> {
    let names = logfile::list(folder.as_fd())?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// When something was written there last; `None` = nothing is there.
fn written(folder: &Folder, id: RunnerId) -> Option<SystemTime> {
    let times = [
        format!("{id}.log"),
        format!("{id}.old"),
        format!(".{id}.new"),
    ]
    .map(|name| {
        let stat = statat(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let secs = u64::try_from(stat.st_mtime).unwrap_or(0);
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(secs))
    });
    times.into_iter().flatten().max()
}

/// Lists and removes at a time.
static SWEEP: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// How long one order removes.
const REMOVING: Duration = Duration::from_secs(5);

/// What waits for the disk is not done by the one thread that has everything else to do.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}

impl Agent {
    /// Begins to read a runner's log file into a pipe; `None` = it has none.
    pub(super) async fn read_log_file(
        self: &Arc<Self>,
        id: RunnerId,
        request: &LogsRequest,
        slot: Slot,
        sink: OwnedFd,
    ) -> Result<Option<(Slot, OwnedFd)>, Refusal> {
        let failed = |e: io::Error| {
            let why = format!("The log file of {id} can't be read: {e}.");
            refusal(RefusalCode::Failed, why)
        };
        let agent = Arc::clone(self);
        let open = move || Reading::open(agent.logs.as_fd(), &id.to_string());
        let Some(reading) = apart(open).await.and_then(|r| r).map_err(failed)? else {
            return Ok(Some((slot, sink)));
        };
        let runner = self_following(self, id, request);
        let request = request.clone();
        let copy = move || {
            let _slot = slot;
            let mut copy = Copy {
                id,
                reading,
                output: request.output,
                line: Vec::new(),
                sink: File::from(sink),
            };
            match copy.run(&request, runner.as_deref()) {
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => log::warning(
                    kinds::ORDER_FAILED,
                    format_args!("The log of {id} ends too early: {e}"),
                ),
                _ => {}
            }
        };
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK);
        thread.spawn(copy).map_err(failed)?;
        Ok(None)
    }

    /// A page of the log files that nobody is going to write to.
    pub(super) async fn log_files(
        self: &Arc<Self>,
        after: Option<RunnerId>,
    ) -> Result<Answer, Refusal> {
        let _turn = SWEEP.lock().await;
        let agent = Arc::clone(self);
        let list = move || {
            let all = ids(&agent.logs)?.into_iter().filter(|id| Some(*id) > after);
            Ok(all
                .filter(|id| agent.is_left(*id))
                .take(LOG_FILES)
                .collect())
        };
        let ids = apart(list)
            .await
            .and_then(|r: io::Result<_>| r)
            .map_err(|e| {
                let why = format!("The folder of log files can't be read: {e}.");
                refusal(RefusalCode::Failed, why)
            })?;
        Ok(Answer::LogFiles { ids })
    }

    /// Removes the log files of runners that nobody knows; for some seconds, the rest is for the next time. One that
    /// can't be removed keeps no other.
    pub(super) async fn remove_log_files(
        self: &Arc<Self>,
        ids: Vec<RunnerId>,
    ) -> Result<Answer, Refusal> {
        let _turn = SWEEP.lock().await;
        let agent = Arc::clone(self);
        let remove = move || {
            let (begun, mut first) = (Instant::now(), None);
            for id in ids.into_iter().filter(|id| agent.is_left(*id)) {
                if let Err(e) = logfile::remove(agent.logs.as_fd(), &id.to_string()) {
                    first.get_or_insert((id, e));
                }
                if begun.elapsed() > REMOVING {
                    break;
                }
            }
            first
        };
        let said = |what: String, e| {
            refusal(
                RefusalCode::Failed,
                format!("{what} can't be removed: {e}."),
            )
        };
        match apart(remove).await {
            Ok(None) => Ok(Answer::Done),
            Ok(Some((id, e))) => Err(said(format!("The log file of {id}"), e)),
            Err(e) => Err(said("Log files".to_owned(), e)),
        }
    }

    /// It is nobody's who lives or whose ending is not in the store, and old.
    fn is_left(&self, id: RunnerId) -> bool {
        let long_ago = |at| {
            SystemTime::now()
                .duration_since(at)
                .is_ok_and(|age| age >= LOG_FILE_KEPT)
        };
        let live = || self.runner(id).is_ok_and(|r| !r.phase.borrow().is_over());
        let stored = || matches!(self.exits.record(id), Ok(None));
        written(&self.logs, id).is_some_and(long_ago) && !live() && stored()
    }
}

/// From a log to whoever reads it.
struct Copy {
    id: RunnerId,
    reading: Reading,
    output: LogOutput,
    /// The beginning of a line whose end has not come yet; of JSON alone.
    line: Vec<u8>,
    sink: File,
}

impl Copy {
    /// Copies until the end, or with a runner until that has ended.
    fn run(&mut self, request: &LogsRequest, runner: Option<&Runner>) -> io::Result<()> {
        let followed = runner.map(|_| LINES_FOLLOWED);
        if let Some(lines) = request.lines.or(followed) {
            self.reading.seek_last(lines)?;
        }
        loop {
            // What it has written before it was over is read after that.
            let over = runner.is_none_or(|r| r.phase.borrow().is_over());
            self.all()?;
            // A writer in a hurry would always be ahead.
            if runner.is_none() {
                break;
            }
            match self.reading.turned()? {
                Some(0) => {}
                Some(missed) => self.note(missed)?,
                None if over => break,
                None if self.hung_up() => return Ok(()),
                None => {}
            }
        }
        match std::mem::take(&mut self.line) {
            rest if rest.is_empty() => Ok(()),
            rest => self.entry(&rest),
        }
    }

    fn all(&mut self) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        loop {
            let n = self.reading.read(&mut block)?;
            match (block.get(..n), self.output) {
                (None | Some([]), _) => return Ok(()),
                (Some(some), LogOutput::Json) => self.entries(some)?,
                (Some(some), _) => self.sink.write_all(some)?,
            }
        }
    }

    /// Waits a little; whether nobody reads any more.
    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.sink, PollFlags::empty())];
        poll(&mut fds, Some(&PACE)).is_ok_and(|n| n > 0)
    }

    fn note(&mut self, missed: u64) -> io::Result<()> {
        let note = format!(
            "-- stratavore: {missed} bytes of output were overwritten before they were read --"
        );
        match self.output {
            LogOutput::Json => {
                let cut = std::mem::take(&mut self.line);
                if !cut.is_empty() {
                    self.entry(&cut)?;
                }
                self.entry(note.as_bytes())
            }
            _ => writeln!(self.sink, "\n{note}"),
        }
    }

    fn entries(&mut self, mut some: &[u8]) -> io::Result<()> {
        while !some.is_empty() {
            let end = some.iter().position(|b| *b == b'\n');
            let room = LINE_MAX - self.line.len();
            let (take, skip, whole) = match end {
                Some(n) if n <= room => (n, n + 1, true),
                _ => (some.len().min(room), some.len().min(room), false),
            };
            self.line.extend_from_slice(&some[..take]);
            some = &some[skip..];
            if whole || self.line.len() == LINE_MAX {
                let line = std::mem::take(&mut self.line);
                self.entry(&line)?;
            }
        }
        Ok(())
    }

    /// As the journal has it in JSON: bytes that are no text come as numbers.
    fn entry(&mut self, line: &[u8]) -> io::Result<()> {
        let message = match std::str::from_utf8(line) {
            Ok(text) => serde_json::json!(text),
            Err(_) => serde_json::json!(line),
        };
        let entry =
            serde_json::json!({"MESSAGE": message, "STRATAVORE_RUNNER": self.id.to_string()});
        writeln!(self.sink, "{entry}")
    }
}
