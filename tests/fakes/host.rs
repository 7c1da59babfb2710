//! A host without systemd: runners that exist as entries of a map.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use stratavore::domain::exit::{Asked, LaunchError, Record, Usage};
use stratavore::domain::fence::Deadline;
use stratavore::domain::logs::LogsRequest;
use stratavore::domain::placed::Placed;
use stratavore::domain::reconcile::{Observed, World};
use stratavore::domain::runner::Placement;
use stratavore::domain::{Error, ErrorKind, Limits, ProjectName, RunnerId};
use stratavore::ports::{Fenced, Host, HostError, HostNotice, LaunchOrder};
use tokio::sync::mpsc;

const BOOT: &str = "00000000-0000-0000-0000-00000000b007";

/// The command `fail` cannot be exec'd, `exit N` ends at once with N, everything else runs
/// until it is stopped.
#[derive(Debug)]
pub struct FakeHost {
    running: Mutex<BTreeMap<RunnerId, LaunchOrder>>,
    /// Until they are forgotten: an inventory between an ending and its notice shows them.
    records: Mutex<BTreeMap<RunnerId, Record>>,
    notices: mpsc::Sender<HostNotice>,
    /// Whose scope every process is in.
    pub caller: Mutex<Option<RunnerId>>,
    /// Its agent is away.
    away: AtomicBool,
    /// What it warns of whoever gives it limits.
    pub warnings: Mutex<Vec<String>>,
}

impl FakeHost {
    /// A host, and what it tells. It is connected from the start.
    pub fn new() -> (Self, mpsc::Receiver<HostNotice>) {
        let (notices, receiver) = mpsc::channel(10_000);
        notices.try_send(HostNotice::Connected).expect("room");
        let host = Self {
            running: Mutex::default(),
            records: Mutex::default(),
            notices,
            caller: Mutex::default(),
            away: AtomicBool::new(false),
            warnings: Mutex::default(),
        };
        (host, receiver)
    }

    /// Its agent goes, or is there again.
    pub async fn agent(&self, there: bool) {
        self.away.store(!there, Ordering::SeqCst);
        let notice = match there {
            true => HostNotice::Connected,
            false => HostNotice::Disconnected,
        };
        self.notices.send(notice).await.expect("it is heard");
    }

    /// How many runners it has.
    pub fn count(&self) -> usize {
        self.running.lock().expect("no panic in here").len()
    }

    fn take(&self, id: RunnerId) -> Result<LaunchOrder, HostError> {
        let mut running = self.running.lock().expect("no panic in here");
        let missing = || Error::new(ErrorKind::NoSuchRunner, "No such scope.");
        Ok(running.remove(&id).ok_or_else(missing)?)
    }

    fn records(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunnerId, Record>> {
        self.records.lock().expect("no panic in here")
    }

    fn unheld(&self) -> Vec<String> {
        self.warnings.lock().expect("no panic in here").clone()
    }

    fn has(&self, id: RunnerId) -> Result<(), HostError> {
        let running = self.running.lock().expect("no panic in here");
        match running.contains_key(&id) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::NoSuchRunner, "No such scope.").into()),
        }
    }

    /// A runner's main process ends.
    pub async fn end(&self, id: RunnerId, f: impl FnOnce(&mut Record)) {
        let mut record = Record {
            v: 1,
            id: id.to_string(),
            boot_id: BOOT.to_owned(),
            never_started: false,
            launch_error: None,
            code: None,
            signal: None,
            core_dumped: false,
            asked: None,
            oom_killed: false,
            oom_policy: None,
            user: false,
            started_at: 1,
            ended_at: 2,
            usage: Usage {
                cpu_usec: Some(1_500),
                ..Usage::default()
            },
            output_lost: 0,
            fenced: None,
        };
        f(&mut record);
        self.records().insert(id, record.clone());
        let _ = self.take(id);
        let notice = HostNotice::Ended(id, Box::new(record));
        let _ = self.notices.send(notice).await;
    }
}

#[async_trait::async_trait]
impl Host for FakeHost {
    async fn prepare(&self, order: LaunchOrder) -> Result<Placement, HostError> {
        let id = order.id;
        let mut running = self.running.lock().expect("no panic in here");
        running.insert(id, order);
        Ok(Placement {
            invocation_id: id.to_string().replace('-', ""),
            boot_id: BOOT.to_owned(),
            shim_pid: 1,
            shim_start: 1,
            warnings: self.unheld(),
            project_warnings: Vec::new(),
        })
    }

    async fn go(&self, id: RunnerId) -> Result<(), HostError> {
        self.has(id)?;
        let command = {
            let running = self.running.lock().expect("no panic in here");
            running[&id].spec.command.clone()
        };
        match &command[..] {
            [fail] if fail == "fail" => {
                let message = "fail: not found in PATH".to_owned();
                let error = LaunchError {
                    step: "exec".to_owned(),
                    errno: 2,
                    message: message.clone(),
                };
                self.end(id, |r| r.launch_error = Some(error)).await;
                Err(Error::new(ErrorKind::LaunchFailed, message).into())
            }
            [exit, code] if exit == "exit" => {
                let code = code.parse().unwrap_or(255);
                self.end(id, |r| r.code = Some(code)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn abort(&self, id: RunnerId) -> Result<(), HostError> {
        self.end(id, |r| r.never_started = true).await;
        Ok(())
    }

    async fn stop(&self, id: RunnerId, asked: Asked) -> Result<(), HostError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(HostError::Unavailable("it is not connected".to_owned()));
        }
        if self.has(id).is_ok() {
            self.end(id, |r| (r.signal, r.asked) = (Some(15), Some(asked)))
                .await;
        }
        Ok(())
    }

    async fn kill(&self, id: RunnerId, signal: i32) -> Result<(), HostError> {
        self.has(id)?;
        if signal == 9 {
            self.end(id, |r| r.signal = Some(9)).await;
        }
        Ok(())
    }

    async fn freeze(&self, id: RunnerId) -> Result<(), HostError> {
        self.has(id)
    }

    async fn thaw(&self, id: RunnerId) -> Result<(), HostError> {
        self.has(id)
    }

    async fn set_limits(&self, id: RunnerId, _limits: Limits) -> Result<Vec<String>, HostError> {
        self.has(id)?;
        Ok(self.unheld())
    }

    async fn set_slice(
        &self,
        _project: &ProjectName,
        _limits: Limits,
    ) -> Result<Vec<String>, HostError> {
        Ok(self.unheld())
    }

    async fn remove_slice(&self, _project: &ProjectName) -> Result<(), HostError> {
        Ok(())
    }

    async fn inventory(&self) -> Result<World, HostError> {
        let running = self.running.lock().expect("no panic in here");
        let mut runners: BTreeMap<RunnerId, Observed> = BTreeMap::new();
        for id in running.keys() {
            let seen = runners.entry(*id).or_default();
            (seen.scope, seen.shim) = (true, true);
        }
        for (id, record) in &*self.records() {
            runners.entry(*id).or_default().record = Some(Some(Box::new(record.clone())));
        }
        Ok(World {
            boot_id: BOOT.to_owned(),
            runners,
        })
    }

    async fn stop_scope(&self, id: RunnerId) -> Result<(), HostError> {
        self.take(id).map(drop)
    }

    async fn forget(&self, id: RunnerId) -> Result<(), HostError> {
        self.records().remove(&id);
        Ok(())
    }

    async fn logs(
        &self,
        id: RunnerId,
        caller: u32,
        request: LogsRequest,
    ) -> Result<OwnedFd, HostError> {
        use std::io::Write;
        let (log, mut line) = std::io::pipe().expect("a pipe");
        writeln!(line, "{id} {caller} {request:?}").expect("room in the pipe");
        Ok(log.into())
    }

    async fn log_files(&self, _after: Option<RunnerId>) -> Result<Vec<RunnerId>, HostError> {
        Ok(Vec::new())
    }

    async fn remove_log_files(&self, _ids: Vec<RunnerId>) -> Result<(), HostError> {
        Ok(())
    }

    async fn fence(&self, deadline: Option<Deadline>) -> Result<Fenced, HostError> {
        let armed = deadline.map_or(0, |_| self.count() as u32);
        Ok(Fenced {
            deadline,
            armed,
            unarmed: Vec::new(),
        })
    }

    async fn place(&self, placed: Placed, user: String) -> Result<(u32, String), HostError> {
        // As root's file would have it: alice, from h1.
        match (placed.host.as_str(), user.as_str()) {
            ("h1", "alice") => Ok((1007, user)),
            _ => {
                let why = "accept_placed_launches, from_hosts and as_users do not allow it.";
                Err(Error::new(ErrorKind::NotPermitted, why).into())
            }
        }
    }

    async fn runner_of(&self, _pid: u32) -> Result<Option<RunnerId>, HostError> {
        Ok(*self.caller.lock().expect("no panic in here"))
    }

    async fn usage(&self, id: RunnerId) -> Result<Usage, HostError> {
        self.has(id)?;
        Ok(Usage {
            cpu_usec: Some(1_000),
            tasks_peak: Some(1),
            ..Usage::default()
        })
    }
}
