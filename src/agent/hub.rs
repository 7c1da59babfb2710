//! What the agent knows: its runners and the connections it serves.

use super::cgroup::Cgroups;
use super::config::Config;
use super::credentials::Credentials;
use super::exits::Folder;
use super::fence::Fence;
use super::logs::Readers;
use super::policy::refusal;
pub(super) use super::runner::{Phase, Runner};
use super::serve::Outbox;
use super::shim::{self, Found, Link};
use super::slices::Slices;
use super::systemd::Systemd;
use super::user::{Accounts, HostEnvironment};
use super::{cgroup, readback};
use crate::domain::exit::Record;
use crate::domain::kinds;
use crate::domain::limits::OomPolicy;
use crate::domain::{Limits, RunnerId};
use crate::wire::{FromAgent, Notice, Refusal, RefusalCode, ShimNotice, ShimState, decode};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long systemd may take to write limits into the cgroup.
const SETTLE: Duration = Duration::from_secs(2);

/// The agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) systemd: Systemd,
    pub(super) cgroups: Cgroups,
    pub(super) exits: Arc<Folder>,
    pub(super) sockets: Arc<Folder>,
    /// The folder of log files.
    pub(super) logs: Arc<Folder>,
    /// Root's bounds as read last.
    pub(super) config: RwLock<Arc<Config>>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) environment: HostEnvironment,
    pub(super) boot_id: String,
    /// `--user`: all runs as this uid, which is the agent's own.
    pub(super) user: Option<u32>,
    pub(super) shim: PathBuf,
    /// Soft and hard limit of open files, before the agent raised its own.
    pub(super) nofile: (u64, u64),
    /// Of the machine's root cgroup, when the agent started.
    pub(super) machine_controllers: String,
    pub(super) slices: Slices,
    /// Launches being prepared at a time; each has a payload in memory.
    pub(super) launching: Semaphore,
    /// Threads that may ask the name service at a time.
    pub(super) look_ups: Arc<Semaphore>,
    pub(super) runners: Mutex<HashMap<RunnerId, Arc<Runner>>>,
    pub(super) connections: Mutex<BTreeMap<u64, Arc<Outbox>>>,
    /// The folder of credentials, or why there is none.
    pub(super) credentials: Result<Credentials, String>,
    /// Who reads the output of runners.
    pub(super) readers: Readers,
    /// By when runners stop by themselves.
    pub(super) fence: Fence,
    /// Scopes that systemd keeps as failed.
    pub(super) failed_units: Mutex<BTreeSet<RunnerId>>,
}

/// A lock that a panic elsewhere does not take away.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    pub(super) fn runner(&self, id: RunnerId) -> Result<Arc<Runner>, Refusal> {
        lock(&self.runners).get(&id).cloned().ok_or_else(|| {
            refusal(
                RefusalCode::NoSuchRunner,
                format!("There is no runner {id} on this host."),
            )
        })
    }

    /// In which runner's scope a process is, at whatever depth.
    pub(super) fn runner_of(&self, pid: u32) -> Option<RunnerId> {
        let cgroup = cgroup::cgroup_of(pid)?;
        // Whoever was given a cgroup can call one below it as a scope of ours: the whole path decides.
        let id = cgroup.split('/').find_map(RunnerId::from_unit)?;
        let rest = cgroup.strip_prefix(self.runner(id).ok()?.cgroup.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(id)
    }

    /// Root's bounds, as they are now.
    pub(super) fn config(&self) -> Arc<Config> {
        let config = self.config.read();
        Arc::clone(&config.unwrap_or_else(PoisonError::into_inner))
    }

    /// New bounds, for launches and changes of limits from now on.
    pub(super) fn set_config(&self, config: Config) {
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(config);
    }

    pub(super) fn all_runners(&self) -> Vec<Arc<Runner>> {
        lock(&self.runners).values().cloned().collect()
    }

    /// The limits of a cgroup that the kernel does not hold.
    pub(super) fn unheld(
        &self,
        cgroup: &str,
        limits: &Limits,
        shim: bool,
    ) -> Vec<readback::Unheld> {
        let page = rustix::param::page_size() as u64;
        let host = readback::Host {
            page,
            swap: cgroup::has_swap(),
            shim,
            user: self.machine(),
        };
        readback::unheld(limits, host, |file| self.cgroups.read(cgroup, file))
    }

    /// The same, after a change of a unit: systemd answers before it has written all of them (a
    /// new unit has its limits before its job is done). `as_one`: for a runner's scope, whether
    /// the kernel kills all of it at once. That is our own setting, and systemd overwrites it
    /// whenever it writes its limits.
    pub(super) async fn unheld_at_last(
        &self,
        cgroup: &str,
        limits: &Limits,
        as_one: Option<bool>,
    ) -> Vec<readback::Unheld> {
        let shim = as_one.is_some();
        let kill_as_one = || {
            if let Some(yes) = as_one
                && self.cgroups.kills_as_one(cgroup) != yes
            {
                self.cgroups.kill_as_one(cgroup, yes);
            }
        };
        let deadline = tokio::time::Instant::now() + SETTLE;
        let hopeless = self.lacking(limits).len();
        let mut pause = Duration::from_millis(1);
        loop {
            kill_as_one();
            let unheld = self.unheld(cgroup, limits, shim);
            let held = unheld.len() <= hopeless;
            if held && as_one == Some(true) {
                // It has one thread: when it answers it is done with what it was writing.
                let _ = self.systemd.default_tasks_max().await;
                kill_as_one();
            }
            if held || tokio::time::Instant::now() >= deadline {
                return unheld;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// The limits whose controllers this host lacks altogether.
    pub(super) fn lacking(&self, limits: &Limits) -> Vec<readback::Unheld> {
        readback::lacking(limits, &self.cgroups.controllers(), self.machine())
    }

    /// With `--user`, the controllers the machine has, whoever may use them.
    fn machine(&self) -> Option<&str> {
        self.user.map(|_| self.machine_controllers.as_str())
    }

    /// Whether the kernel is to kill all of a runner at once when it kills one. It would kill the
    /// shim of a user as well, who can't be protected from it, and nobody could tell the ending:
    /// there the shim kills the rest.
    pub(super) fn kills_as_one(&self, limits: &Limits) -> bool {
        limits.oom_policy == Some(OomPolicy::Kill) && self.user.is_none()
    }

    /// Tells every daemon.
    pub(super) fn notify(&self, notice: &Notice) {
        let connections: Vec<_> = lock(&self.connections).values().cloned().collect();
        for connection in connections {
            if connection.greeted.load(Ordering::Relaxed) {
                connection.send(&FromAgent::Notice(notice.clone()));
            }
        }
    }

    /// Makes a connection the runner's and listens to it until the shim is gone.
    pub(super) fn listen(self: &Arc<Self>, runner: &Arc<Runner>, link: Link) {
        let link = Arc::new(link);
        runner.set_link(Some(link.clone()));
        let (agent, runner) = (self.clone(), runner.clone());
        tokio::spawn(async move {
            loop {
                match link.receive().await {
                    Ok(Some(packet)) => match decode::<ShimNotice>(&packet.bytes) {
                        Ok(notice) => agent.heard(&runner, notice),
                        Err(e) => runner.warning(
                            kinds::SHIM_UNREACHABLE,
                            format_args!("its shim says what is not understood: {e}"),
                        ),
                    },
                    Ok(None) => break,
                    Err(e) => {
                        runner.warning(kinds::SHIM_UNREACHABLE, format_args!("{e}"));
                        break;
                    }
                }
            }
            agent.hung_up(&runner).await;
        });
    }

    fn heard(&self, runner: &Runner, notice: ShimNotice) {
        match notice {
            ShimNotice::State(state) => {
                found(runner, &state);
                runner.fence.send_replace(state.fence);
                self.fence.look();
                tell_lost(runner, state.output_lost);
            }
            ShimNotice::Started { .. } => runner.becomes(Phase::Started),
            ShimNotice::LaunchFailed(error) => {
                let _ = runner.failed.set(error.clone());
                runner.becomes(Phase::Failed(error));
            }
            ShimNotice::Ended { record, .. } if record.id != runner.id.to_string() => {
                runner.error(kinds::SHIM_UNREACHABLE, "its shim tells of another runner");
            }
            ShimNotice::Ended {
                record,
                written: true,
            } => {
                crate::crash::point("agent.ended-seen");
                self.ended(runner, record);
            }
            ShimNotice::Ended { written: false, .. } => {
                runner.error(
                    kinds::RECORD_FAULT,
                    "its record can't be written (is the disk full?); its shim goes on trying",
                );
            }
        }
        runner.heard.send_replace(true);
    }

    /// It is over: once.
    fn ended(&self, runner: &Runner, record: Box<Record>) {
        if !runner.phase.borrow().is_over() {
            runner.becomes(Phase::Ended);
            tell_lost(runner, record.output_lost);
            let how = record.exit().public().message;
            runner.info(
                kinds::RUNNER_EMPTY,
                format_args!("all its processes have ended. {how}"),
            );
            self.notify(&Notice::Ended { record });
        }
    }

    /// A connection to a shim has closed.
    async fn hung_up(self: Arc<Self>, runner: &Arc<Runner>) {
        runner.set_link(None);
        runner.handed.store(false, Ordering::Relaxed);
        runner.heard.send_replace(true);
        let phase = runner.phase.borrow().clone();
        if phase == Phase::Preparing {
            return;
        }
        if !phase.is_over() {
            match self.reach(runner).await {
                Found::Alive(link) => return self.listen(runner, link),
                Found::Busy | Found::Nobody => {}
            }
            match self.record(runner).await {
                Some(Some(record)) => self.ended(runner, record),
                Some(None) => {
                    runner.error(kinds::RECORD_FAULT, "its record can't be read");
                    runner.becomes(Phase::Ended);
                }
                None => self.lost(runner).await,
            }
        }
        self.sweep(runner.id);
    }

    /// Removes what a shim that is gone may have left: its socket, and the credentials of its
    /// runner.
    pub(super) fn sweep(&self, id: RunnerId) {
        let _ = self.sockets.remove(&shim::socket_name(id));
        if let Ok(credentials) = &self.credentials {
            credentials.remove(id);
        }
    }

    /// Connects to a shim, waiting while it takes no connections (it may be frozen) and while
    /// we are short of something.
    pub(super) async fn reach(&self, runner: &Runner) -> Found {
        let mut told = false;
        loop {
            match shim::connect(self.sockets.as_fd(), runner.id) {
                Ok(Found::Busy) => {}
                Ok(found) => return found,
                Err(e) if !told => {
                    told = true;
                    runner.warning(
                        kinds::SHIM_UNREACHABLE,
                        format_args!("its shim can't be reached yet: {e}"),
                    );
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// A runner's record, once it can be told whether there is one.
    async fn record(&self, runner: &Runner) -> Option<Option<Box<Record>>> {
        let mut told = false;
        loop {
            match self.exits.record(runner.id) {
                Ok(record) => return record,
                Err(e) if !told => {
                    told = true;
                    runner.error(
                        kinds::RECORD_FAULT,
                        format_args!("its record can't be read yet: {e}"),
                    );
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The shim is gone and nobody saw the end: what is left of the tree is stopped.
    pub(super) async fn lost(self: &Arc<Self>, runner: &Arc<Runner>) {
        if self.cgroups.populated(&runner.cgroup) {
            runner.warning(kinds::SHIM_LOST, "its shim is gone; its scope is stopped");
        }
        self.empty(runner, false).await;
        while self.cgroups.populated(&runner.cgroup) {
            runner.error(
                kinds::SCOPE_NOT_EMPTY,
                "its scope is not empty although it was killed",
            );
            self.empty(runner, true).await;
        }
        // It may have been killed just after it wrote.
        match self.record(runner).await {
            Some(Some(record)) => self.ended(runner, record),
            Some(None) => runner.becomes(Phase::Ended),
            None if runner.phase.borrow().is_over() => {}
            None => {
                self.exits.drop_unfinished(runner.id);
                runner.becomes(Phase::Lost);
                self.notify(&Notice::Lost { id: runner.id });
            }
        }
        self.sweep(runner.id);
    }
}

/// The disk does not take what a runner says: told once.
fn tell_lost(runner: &Runner, bytes: u64) {
    if bytes > 0 && !runner.told_lost.swap(true, Ordering::Relaxed) {
        runner.warning(
            kinds::LOG_FILE_FAULT,
            "its log file can't be written (is the disk full?); output is thrown away until it can",
        );
    }
}

/// What a shim said of itself.
fn found(runner: &Runner, state: &ShimState) {
    let phase = match (state.gated, state.pid) {
        (true, _) => Phase::Gated,
        (false, Some(_)) => Phase::Started,
        (false, None) => Phase::Opened,
    };
    // Of a launch of our own we know more than its first word.
    if runner.owner == 0 && matches!(*runner.phase.borrow(), Phase::Opened | Phase::Gated) {
        runner.becomes(phase);
    }
}
