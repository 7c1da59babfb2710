//! The self-fence: the file that all shims look at when their time is up, and who has it.
//!
//! A shim needs neither agent nor daemon to stop its runner. What the agent does when the deadline
//! passes is help for those that can't: a frozen shim is thawed, one that is starved is overseen.

use super::hub::{Agent, Phase, Runner, lock};
use super::launch::failed;
use super::log;
use crate::boottime;
use crate::domain::units::show_span;
use crate::domain::{fence, kinds};
use crate::wire::{self, Answer, Refusal, ShimRequest, UNARMED};
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// In the folder of the shims' sockets, which outlives the agent as the shims do.
const FILE: &str = ".fence";
/// How long a shim may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks at the clock, at most.
const LOOK: Duration = Duration::from_secs(2);

/// The file, and what stands in it.
#[derive(Debug)]
pub(super) struct Fence {
    now: Mutex<wire::Fence>,
    /// It was in force when this agent started, and has been since.
    found: AtomicBool,
    file: File,
    changed: Notify,
}

impl Fence {
    /// Goes on with what an earlier agent left.
    pub(super) fn open(folder: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(folder, FILE, flags, Mode::RUSR | Mode::WUSR)?);
        let mut bytes = [0; wire::Fence::SIZE];
        let n = file.read_at(&mut bytes, 0)?;
        let found = wire::Fence::from_bytes(bytes.get(..n).unwrap_or(&[]));
        let now = found.unwrap_or(wire::Fence::OFF);
        Ok(Self {
            now: Mutex::new(now),
            found: AtomicBool::new(now != wire::Fence::OFF),
            file,
            changed: Notify::new(),
        })
    }

    fn now(&self) -> wire::Fence {
        *lock(&self.now)
    }

    fn write(&self, next: wire::Fence) -> io::Result<()> {
        self.file.write_all_at(&next.to_bytes(), 0)?;
        *lock(&self.now) = next;
        if next == wire::Fence::OFF {
            self.found.store(false, Ordering::Relaxed);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Whether a frozen shim, which can't be asked, has looked at the file since before this agent
    /// started.
    fn is_held_by(&self, shim: Option<u32>) -> bool {
        let (true, Some(shim)) = (self.found.load(Ordering::Relaxed), shim) else {
            return false;
        };
        let own = self.file.metadata().map(|m| (m.dev(), m.ino())).ok();
        let all = std::fs::read_dir(format!("/proc/{shim}/fd"));
        all.into_iter().flatten().flatten().any(|entry| {
            let other = std::fs::metadata(entry.path());
            own.is_some() && other.map(|m| (m.dev(), m.ino())).ok() == own
        })
    }

    /// Until a deadline passes that is not this one; returns it.
    async fn passed(&self, told: u64) -> u64 {
        loop {
            let deadline = self.now().deadline;
            let left = deadline.saturating_sub(boottime::now());
            if deadline == told || deadline == 0 {
                self.changed.notified().await;
            } else if left == 0 {
                return deadline;
            } else {
                // Sleeps are not told of a suspended host.
                let sleep = Duration::from_micros(left).min(LOOK);
                let _ = tokio::time::timeout(sleep, self.changed.notified()).await;
            }
        }
    }
}

impl Agent {
    /// Sets the deadline of all runners and says who will keep it.
    pub(super) async fn fence(&self, deadline: Option<u64>) -> Result<Answer, Refusal> {
        self.set_fence(deadline)?;
        let (mut armed, mut unarmed) = (0, Vec::new());
        if deadline.is_some() {
            let until = Instant::now() + ANSWER;
            let each = self.all_runners().into_iter().filter_map(|runner| {
                // A launch under way sees to it itself, as its last step.
                let counts = *runner.phase.borrow() != Phase::Preparing;
                counts.then_some(async move { (self.arm(&runner, until).await, runner) })
            });
            for (yes, runner) in futures_util::future::join_all(each).await {
                match (yes, runner.phase.borrow().is_over()) {
                    (_, true) => {}
                    (true, _) => armed += 1,
                    (false, _) => unarmed.push(runner.id),
                }
            }
        }
        unarmed.sort_unstable();
        unarmed.truncate(UNARMED);
        Ok(Answer::Fenced { armed, unarmed })
    }

    /// Takes over a deadline, unless a later one is in force.
    fn set_fence(&self, deadline: Option<u64>) -> Result<(), Refusal> {
        let (before, now) = (self.fence.now(), boottime::now());
        let next = match deadline {
            None => wire::Fence::OFF,
            Some(at) if at > now.saturating_add(fence::MOST) => {
                return Err(failed(format!(
                    "A fence {} from now is too far away; the most is {}.",
                    show_span(at - now),
                    show_span(fence::MOST)
                )));
            }
            Some(at) if at <= before.deadline => return Ok(()),
            Some(at) => wire::Fence {
                deadline: at.max(1),
                set_at: now,
            },
        };
        if next.deadline == before.deadline {
            return Ok(());
        }
        let wrote = self.fence.write(next);
        wrote.map_err(|e| failed(format!("The fence can't be written: {e}.")))?;
        if before == wire::Fence::OFF {
            // Whoever had it may not look at it any more.
            for runner in self.all_runners() {
                runner.handed.store(false, Ordering::Relaxed);
                runner.fence.send_modify(|seen| *seen = seen.map(|_| 0));
            }
        }
        Ok(())
    }

    /// The last step of a launch, without a pause if there is no fence: no fence that comes later
    /// shall miss it.
    pub(super) async fn arm_launch(
        &self,
        runner: &Runner,
        asked: Option<u64>,
    ) -> Result<(), Refusal> {
        if asked.is_some() {
            self.set_fence(asked)?;
        }
        let now = self.fence.now();
        if now == wire::Fence::OFF {
            return Ok(());
        }
        let over = boottime::now().saturating_sub(now.deadline);
        if over > 0 {
            return Err(failed(format!(
                "This host has not reached its store for {}, so its runners stop and nothing is launched until it has; see why stratavored does not reach it.",
                show_span(boottime::now().saturating_sub(now.set_at) / 1_000_000 * 1_000_000)
            )));
        }
        if self.arm(runner, Instant::now() + ANSWER).await {
            return Ok(());
        }
        let why = match *runner.fence.borrow() {
            None => format!(
                "{} is of an earlier release than the stratavore-agent that runs: install the programs of one release and restart stratavore-agent; runners go on.",
                self.shim.display()
            ),
            Some(_) => "It does not answer.".to_owned(),
        };
        Err(failed(format!(
            "Runners of this host must stop by themselves when it loses its store (fleet.stop_on_disconnect_after), and the shim of {} can't see to that. {why}",
            runner.id
        )))
    }

    /// Gives a shim the file, if it does not have it; `false` = it won't look at it, or can't be
    /// asked.
    async fn arm(&self, runner: &Runner, until: Instant) -> bool {
        let Some(armed) = *runner.fence.borrow() else {
            return self.is_frozen_with_it(runner);
        };
        if !runner.handed.load(Ordering::Relaxed) {
            let Some(link) = runner.link() else {
                return false;
            };
            let fds = [self.fence.file.as_fd()];
            let sent = link.send(&ShimRequest::Fence, &fds);
            if !matches!(tokio::time::timeout_at(until, sent).await, Ok(Ok(()))) {
                return false;
            }
            runner.handed.store(true, Ordering::Relaxed);
        }
        // It looks at the file when its time is up, or when it is thawed after that.
        if armed > 0 {
            return true;
        }
        if self.cgroups.frozen(&runner.cgroup) {
            return false;
        }
        let mut seen = runner.fence.subscribe();
        let answered = seen.wait_for(|armed| armed.is_some_and(|at| at > 0));
        let answered = tokio::time::timeout_at(until, answered).await;
        matches!(answered, Ok(Ok(_)))
    }

    /// It has not been heard of since this agent started, and is armed all the same.
    fn is_frozen_with_it(&self, runner: &Runner) -> bool {
        let (cgroups, cgroup) = (&self.cgroups, &runner.cgroup);
        cgroups.frozen(cgroup) && self.fence.is_held_by(cgroups.shim(cgroup))
    }

    /// Sees to the runners that can't stop by themselves, whenever the deadline passes.
    pub(super) async fn watch_fence(self: &Arc<Self>) {
        let mut told = 0;
        loop {
            told = self.fence.passed(told).await;
            log::warning(
                kinds::FENCE_PASSED,
                "The host has not reached its store for too long; its runners stop",
            );
            for runner in self.all_runners() {
                let at_gate = matches!(*runner.phase.borrow(), Phase::Preparing | Phase::Gated);
                if at_gate || runner.phase.borrow().is_over() {
                    continue;
                }
                let agent = self.clone();
                tokio::spawn(async move { agent.help_to_stop(&runner).await });
            }
        }
    }

    async fn help_to_stop(self: &Arc<Self>, runner: &Arc<Runner>) {
        let armed = *runner.fence.borrow();
        if !armed.map_or_else(|| self.is_frozen_with_it(runner), |at| at > 0) {
            return;
        }
        let thawed = {
            let _changing = runner.changing.lock().await;
            self.thaw_now(runner).await
        };
        if let Err(refused) = thawed {
            runner.warning(kinds::SCOPE_NOT_EMPTY, refused.message);
        }
        self.oversee(runner);
    }
}
