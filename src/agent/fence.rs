//! The self-fence: the file that all shims look at when their time is up, and who has it.
//!
//! A shim needs neither agent nor daemon to stop its runner. What the agent does when a deadline has
//! passed is help for those that can't: a frozen tree is thawed, and one that is not over in time is
//! killed.

use super::hub::{Agent, Phase, Runner, lock};
use super::launch::failed;
use super::log;
use crate::boottime;
use crate::domain::fence::{Deadline, MOST};
use crate::domain::kinds;
use crate::domain::units::show_span;
use crate::wire::{self, Answer, Refusal, ShimRequest, Term, UNARMED};
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// In the folder of the shims' sockets, which outlives the agent as the shims do.
const FILE: &str = ".fence";
/// How long a shim may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks at the clock, at most: sleeps are not told of a suspended host.
const LOOK: Duration = Duration::from_secs(1);

/// The file, and what stands in it.
#[derive(Debug)]
pub(super) struct Fence {
    stands: Mutex<wire::Fence>,
    file: File,
    /// For shims: none of them writes it.
    reader: File,
    changed: Notify,
}

impl Fence {
    /// Goes on with what an earlier agent left.
    pub(super) fn open(folder: BorrowedFd<'_>) -> io::Result<Self> {
        let open = |flags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(folder, FILE, flags, Mode::RUSR | Mode::WUSR).map(File::from)
        };
        let fence = Self {
            file: open(OFlags::RDWR | OFlags::CREATE)?,
            reader: open(OFlags::RDONLY)?,
            stands: Mutex::default(),
            changed: Notify::new(),
        };
        let mut bytes = [0; wire::Fence::SIZE];
        let n = fence.file.read_at(&mut bytes, 0)?;
        // A damaged one stays as it is: shims that look at it stop.
        match wire::Fence::from_bytes(bytes.get(..n).unwrap_or(&[])) {
            // Of an earlier boot.
            Some(found) if found.now.set_at > boottime::now() => {
                fence.write(wire::Fence::default())?
            }
            found => *lock(&fence.stands) = found.unwrap_or_default(),
        }
        Ok(fence)
    }

    fn stands(&self) -> wire::Fence {
        *lock(&self.stands)
    }

    fn write(&self, next: wire::Fence) -> io::Result<()> {
        self.file.write_all_at(&next.to_bytes(), 0)?;
        *lock(&self.stands) = next;
        self.look();
        Ok(())
    }

    /// There may be somebody to help.
    pub(super) fn look(&self) {
        self.changed.notify_one();
    }

    /// Until something has changed, or until the deadline has passed.
    async fn changes(&self) {
        let left = self.stands().now.stop_at.saturating_sub(boottime::now());
        let most = match left {
            0 => Duration::MAX,
            left => LOOK.min(Duration::from_micros(left)),
        };
        let _ = tokio::time::timeout(most, self.changed.notified()).await;
    }
}

impl Agent {
    /// Sets the deadline of all runners and says who will keep it.
    pub(super) async fn fence(&self, deadline: Option<Deadline>) -> Result<Answer, Refusal> {
        self.set_fence(deadline)?;
        let deadline = self.fence.stands().now.deadline();
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
        Ok(Answer::Fenced {
            deadline,
            armed,
            unarmed,
        })
    }

    /// Takes over a deadline, unless a later one is in force or it has passed itself.
    fn set_fence(&self, deadline: Option<Deadline>) -> Result<(), Refusal> {
        let (mut fence, now) = (self.fence.stands(), boottime::now());
        let next = match deadline {
            None => Term::OFF,
            Some(at) if at.stop_at <= fence.now.stop_at.max(now) => return Ok(()),
            Some(at) if at.gone_by < at.stop_at || at.gone_by - now > MOST => {
                return Err(failed(format!(
                    "A fence with a stop in {} that ends in {} can't be kept: the end comes after the stop, and within {}.",
                    show_span(at.stop_at - now),
                    show_span(at.gone_by.saturating_sub(now)),
                    show_span(MOST)
                )));
            }
            Some(at) => Term {
                stop_at: at.stop_at,
                gone_by: at.gone_by,
                set_at: now,
            },
        };
        if fence.now.has_passed(now) {
            fence.missed = fence.now;
        }
        let before = std::mem::replace(&mut fence.now, next);
        let wrote = self.fence.write(fence);
        wrote.map_err(|e| failed(format!("The fence can't be written: {e}.")))?;
        if before == Term::OFF {
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
        asked: Option<Deadline>,
    ) -> Result<(), Refusal> {
        let now = boottime::now();
        // What nobody waits for any more is old.
        if asked.is_some() && !runner.given_up.load(Ordering::Relaxed) {
            self.set_fence(asked)?;
        }
        let fence = self.fence.stands().now;
        if fence.has_passed(now) {
            return Err(failed(format!(
                "This host has not reached its store for {}, so its runners stop and nothing is launched until it has; see why stratavored does not reach it.",
                show_span(now.saturating_sub(fence.set_at) / 1_000_000 * 1_000_000)
            )));
        }
        if asked.is_some_and(|at| at.stop_at <= now) {
            return Err(failed(format!(
                "The launch of {} took so long that it would have to stop again by now (fleet.stop_on_disconnect_after).",
                runner.id
            )));
        }
        if fence == Term::OFF || self.arm(runner, Instant::now() + ANSWER).await {
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

    /// Gives a shim the file, if it does not have it; `false` = it won't look at it, or can't say.
    async fn arm(&self, runner: &Runner, until: Instant) -> bool {
        let (Some(link), Some(_)) = (runner.link(), *runner.fence.borrow()) else {
            return false;
        };
        // Frozen with its tree, it would need somebody to thaw it.
        if self.cgroups.frozen(&runner.cgroup) || self.cgroups.freezing(&runner.cgroup) {
            return false;
        }
        if !runner.handed.swap(true, Ordering::Relaxed) {
            let fds = [self.fence.reader.as_fd()];
            let sent = link.send(&ShimRequest::Fence, &fds);
            if !matches!(tokio::time::timeout_at(until, sent).await, Ok(Ok(()))) {
                runner.handed.store(false, Ordering::Relaxed);
                return false;
            }
        }
        let mut seen = runner.fence.subscribe();
        let answered = seen.wait_for(|armed| armed.is_some_and(|at| at > 0));
        let answered = tokio::time::timeout_at(until, answered).await;
        matches!(answered, Ok(Ok(_)))
    }

    /// The deadline that a runner has missed: it stops, whatever is said afterwards.
    pub(super) fn missed(&self, runner: &Runner) -> Option<Term> {
        let last = runner.fence.borrow().filter(|at| *at > 0)?;
        let due = self.fence.stands().after(last);
        due.has_passed(boottime::now()).then_some(due)
    }

    /// Sees to it that every runner that has missed its deadline is gone in time.
    pub(super) async fn watch_fence(self: &Arc<Self>) {
        let mut told = self.fence.stands().missed;
        loop {
            let wire::Fence { now, missed } = self.fence.stands();
            let passed = if now.has_passed(boottime::now()) {
                now
            } else {
                missed
            };
            if std::mem::replace(&mut told, passed) != passed {
                log::warning(
                    kinds::FENCE_PASSED,
                    "The host has not reached its store for too long; its runners stop",
                );
            }
            for runner in self.all_runners() {
                if let Some(missed) = self.missed(&runner)
                    && !runner.seen_off.swap(true, Ordering::Relaxed)
                {
                    let agent = self.clone();
                    tokio::spawn(async move { agent.see_off(&runner, missed.gone_by).await });
                }
            }
            self.fence.changes().await;
        }
    }

    async fn see_off(&self, runner: &Runner, gone_by: u64) {
        let help = async {
            tokio::select! {
                () = self.keep_thawed(runner) => {}
                () = passes(gone_by) => {}
            }
            loop {
                self.kill_rest(runner).await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            _ = runner.wait(Duration::MAX, Phase::is_over) => {}
            () = help => {}
        }
    }

    async fn keep_thawed(&self, runner: &Runner) {
        let mut told = false;
        loop {
            let changing = runner.changing.lock().await;
            if let Err(refused) = self.thaw_now(runner).await
                && !std::mem::replace(&mut told, true)
            {
                runner.warning(kinds::SCOPE_NOT_EMPTY, refused.message);
            }
            drop(changing);
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Waits until that time.
async fn passes(at: u64) {
    while let left @ 1.. = at.saturating_sub(boottime::now()) {
        tokio::time::sleep(LOOK.min(Duration::from_micros(left))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_agent_left_holds_unless_it_is_of_an_earlier_boot() {
        let path = std::env::temp_dir().join(format!("stratavore-fence-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let folder = File::open(&path).unwrap();
        let open = || Fence::open(folder.as_fd()).unwrap();
        assert_eq!(open().stands(), wire::Fence::default());
        let term = |set_at| Term {
            stop_at: u64::MAX / 2,
            gone_by: u64::MAX / 2,
            set_at,
        };
        let left = |set_at| wire::Fence {
            now: term(set_at),
            missed: term(set_at),
        };
        open().write(left(1)).unwrap();
        assert_eq!(open().stands(), left(1));
        let file = path.join(FILE);
        let written = std::fs::read(&file).unwrap();
        // What can't be read is left to the shims, which stop.
        std::fs::write(&file, &written[..9]).unwrap();
        assert_eq!(open().stands(), wire::Fence::default());
        assert_eq!(std::fs::read(&file).unwrap(), &written[..9]);
        open().write(left(u64::MAX / 4)).unwrap();
        assert_eq!(open().stands(), wire::Fence::default());
        let nothing = wire::Fence::default().to_bytes();
        assert_eq!(std::fs::read(&file).unwrap(), nothing);
        // Shims can't write it.
        assert!(open().reader.write_at(&[0], 0).is_err());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
