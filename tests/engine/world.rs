//! A host as the engine sees it, with an agent that breaks off at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stratavore::domain::exit::{Asked, Record, Usage};
use stratavore::domain::fence::Deadline;
use stratavore::domain::reconcile::{Observed, World as Seen};
use stratavore::domain::runner::Placement;
use stratavore::domain::{Error, ErrorKind, Limits, ProjectName, RunnerId};
use stratavore::ports::{Fenced, Host, HostError, HostNotice, LaunchOrder};
use tokio::sync::mpsc;

/// A small generator: the same seed, the same world.
#[derive(Debug, Clone)]
pub struct Luck(u64);

impl Luck {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 33) % u64::from(n)).unwrap()
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shim {
    Gated,
    Runs,
    Frozen,
    /// Killed; the scope is being emptied.
    Killed,
}

#[derive(Debug)]
struct State {
    luck: Luck,
    lucky: bool,
    shims: BTreeMap<RunnerId, Shim>,
    records: BTreeMap<RunnerId, Record>,
    execs: BTreeMap<RunnerId, u32>,
    killed: BTreeSet<RunnerId>,
    /// Whose log files are there and old.
    logs: BTreeSet<RunnerId>,
    /// Every order about the self-fence, and who can't keep one.
    fences: Vec<Option<Deadline>>,
    unarmed: Vec<RunnerId>,
    /// No freeze succeeds.
    unfreezable: bool,
    /// Launches for this project come up when there is none any more.
    held_up: Option<ProjectName>,
    /// The deadlines of launches.
    deadlines: Vec<Option<Deadline>>,
    /// Which connection may give orders; another one is told that the agent does not answer.
    connection: u64,
    daemon: u64,
    up: bool,
    notices: Option<mpsc::Sender<HostNotice>>,
}

#[derive(Debug, Clone)]
pub struct World(Arc<Mutex<State>>);

/// The daemon's end of one connection to this world's agent.
#[derive(Debug)]
pub struct Agent {
    world: World,
    /// Orders of a daemon that is gone reach nobody.
    daemon: u64,
}

fn record(id: RunnerId) -> Record {
    serde_json::from_str(&format!(r#"{{"v":1,"id":"{id}","boot_id":"b"}}"#)).unwrap()
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            luck: Luck::new(seed),
            lucky: false,
            shims: BTreeMap::new(),
            records: BTreeMap::new(),
            execs: BTreeMap::new(),
            killed: BTreeSet::new(),
            logs: BTreeSet::new(),
            fences: Vec::new(),
            unarmed: Vec::new(),
            unfreezable: false,
            held_up: None,
            deadlines: Vec::new(),
            connection: 0,
            daemon: 0,
            up: false,
            notices: None,
        })))
    }

    /// What was ordered about the self-fence so far, and with each launch.
    pub fn fences(&self) -> (Vec<Option<Deadline>>, Vec<Option<Deadline>>) {
        let state = self.0.lock().unwrap();
        (state.fences.clone(), state.deadlines.clone())
    }

    /// These can't keep a fence.
    pub fn unarmed(&self, ids: Vec<RunnerId>) {
        self.0.lock().unwrap().unarmed = ids;
    }

    /// No freeze succeeds, or each does again.
    pub fn unfreezable(&self, unfreezable: bool) {
        self.0.lock().unwrap().unfreezable = unfreezable;
    }

    /// No launch for this project comes up, until another one is named, or none.
    pub fn hold_up(&self, project: Option<&str>) {
        self.0.lock().unwrap().held_up = project.map(|name| name.parse().unwrap());
    }

    /// Whose log files are there.
    pub fn logs(&self) -> BTreeSet<RunnerId> {
        self.0.lock().unwrap().logs.clone()
    }

    /// A log file, last written to long ago.
    pub fn old_log(&self, id: RunnerId) {
        self.0.lock().unwrap().logs.insert(id);
    }

    /// One in which nothing fails by chance.
    pub fn lucky() -> Self {
        let world = Self::new(1);
        world.heal();
        world
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().lucky = true;
    }

    pub fn connect(&self) -> (Arc<Agent>, mpsc::Receiver<HostNotice>) {
        let (sender, receiver) = mpsc::channel(100_000);
        let mut state = self.0.lock().unwrap();
        state.close_gates();
        sender.try_send(HostNotice::Connected).unwrap();
        state.notices = Some(sender);
        state.connection += 1;
        state.daemon += 1;
        state.up = true;
        (
            Arc::new(Agent {
                world: self.clone(),
                daemon: state.daemon,
            }),
            receiver,
        )
    }

    /// The daemon's connection ends.
    pub fn daemon_gone(&self) {
        let mut state = self.0.lock().unwrap();
        state.notices = None;
        state.up = false;
        state.connection += 1;
        state.close_gates();
    }

    /// The agent is killed and comes back a moment later.
    pub async fn agent_crash(&self) {
        let connection = {
            let mut state = self.0.lock().unwrap();
            if !state.up {
                return;
            }
            state.crash()
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.come_back(connection);
    }

    /// The agent is killed and stays away, until [`Self::come_back`].
    pub fn agent_gone(&self) -> u64 {
        self.0.lock().unwrap().crash()
    }

    pub fn come_back(&self, connection: u64) {
        let mut state = self.0.lock().unwrap();
        if state.connection == connection && !state.up {
            state.up = true;
            state.tell(HostNotice::Connected);
        }
    }

    pub fn end_one(&self, luck: &mut Luck) {
        let mut state = self.0.lock().unwrap();
        let running: Vec<RunnerId> = state
            .shims
            .iter()
            .filter(|(_, s)| **s == Shim::Runs)
            .map(|(id, _)| *id)
            .collect();
        if running.is_empty() {
            return;
        }
        let id = running[luck.below(u32::try_from(running.len()).unwrap()) as usize];
        if luck.one_in(4) {
            state.killed.insert(id);
            state.shims.insert(id, Shim::Killed);
            if state.up {
                // The agent stops the scope of a shim that is gone.
                state.shims.remove(&id);
                state.tell(HostNotice::Lost(id));
            }
        } else {
            state.end(id, |r| r.code = Some(0));
        }
    }

    pub fn exit(&self, id: RunnerId, code: i32) {
        self.0.lock().unwrap().end(id, |r| r.code = Some(code));
    }

    pub fn alive(&self) -> BTreeSet<RunnerId> {
        self.0.lock().unwrap().shims.keys().copied().collect()
    }

    /// Whatever has something left: a scope, or a record.
    pub fn left(&self) -> BTreeSet<RunnerId> {
        let state = self.0.lock().unwrap();
        state
            .shims
            .keys()
            .chain(state.records.keys())
            .copied()
            .collect()
    }

    pub fn execs(&self, id: RunnerId) -> u32 {
        self.0.lock().unwrap().execs.get(&id).copied().unwrap_or(0)
    }

    pub fn all_execs(&self) -> BTreeMap<RunnerId, u32> {
        self.0.lock().unwrap().execs.clone()
    }

    pub fn shim_was_killed(&self, id: RunnerId) -> bool {
        self.0.lock().unwrap().killed.contains(&id)
    }
}

impl State {
    fn tell(&mut self, notice: HostNotice) {
        if let Some(notices) = &self.notices {
            let _ = notices.try_send(notice);
        }
    }

    fn end(&mut self, id: RunnerId, facts: impl FnOnce(&mut Record)) {
        if self.shims.remove(&id).is_none() {
            return;
        }
        let mut record = record(id);
        facts(&mut record);
        self.records.insert(id, record.clone());
        if self.up {
            self.tell(HostNotice::Ended(id, Box::new(record)));
        }
    }

    fn close_gates(&mut self) {
        let gated: Vec<RunnerId> = self
            .shims
            .iter()
            .filter(|(_, s)| **s == Shim::Gated)
            .map(|(id, _)| *id)
            .collect();
        for id in gated {
            self.end(id, |r| r.never_started = true);
        }
    }

    fn crash(&mut self) -> u64 {
        self.up = false;
        self.connection += 1;
        self.close_gates();
        self.tell(HostNotice::Disconnected);
        self.connection
    }
}

fn away() -> HostError {
    HostError::Unavailable("the connection broke".to_owned())
}

impl Agent {
    /// Carries out one order: it may be lost before, or its answer after; both are a broken connection.
    async fn order<T>(
        &self,
        act: impl FnOnce(&mut State) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let pause = {
            let mut state = self.world.0.lock().unwrap();
            Duration::from_millis(u64::from(state.luck.below(20)))
        };
        let connection = self.world.0.lock().unwrap().connection;
        tokio::time::sleep(pause).await;
        let (result, came_back) = {
            let mut state = self.world.0.lock().unwrap();
            if !state.up || state.connection != connection || state.daemon != self.daemon {
                return Err(away());
            }
            let fate = if state.lucky { 9 } else { state.luck.below(40) };
            match fate {
                0 => (Err(away()), Some(state.crash())),
                1 => {
                    let _ = act(&mut state);
                    (Err(away()), Some(state.crash()))
                }
                _ => (act(&mut state), None),
            }
        };
        if let Some(connection) = came_back {
            let world = self.world.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(80)).await;
                world.come_back(connection);
            });
        } else {
            tokio::time::sleep(pause).await;
            if self.world.0.lock().unwrap().connection != connection {
                // Carried out, and the answer was lost with the connection.
                return Err(away());
            }
        }
        result
    }
}

fn missing() -> HostError {
    Error::new(ErrorKind::NoSuchRunner, "no such runner here").into()
}

#[async_trait::async_trait]
impl Host for Agent {
    async fn logs(
        &self,
        _id: RunnerId,
        _caller: u32,
        _request: stratavore::domain::logs::LogsRequest,
    ) -> Result<std::os::fd::OwnedFd, HostError> {
        Err(missing())
    }

    async fn fence(&self, deadline: Option<Deadline>) -> Result<Fenced, HostError> {
        self.order(|state| {
            state.fences.push(deadline);
            Ok(Fenced {
                deadline,
                armed: 0,
                unarmed: state.unarmed.clone(),
            })
        })
        .await
    }

    async fn place(
        &self,
        placed: stratavore::domain::placed::Placed,
        user: String,
    ) -> Result<(u32, String), HostError> {
        // As root's file would have it: alice, from h1.
        match (placed.host.as_str(), user.as_str()) {
            ("h1", "alice") => Ok((1007, user)),
            _ => Err(HostError::Refused(Error::new(
                ErrorKind::NotPermitted,
                "as_users",
            ))),
        }
    }

    async fn runner_of(&self, _pid: u32) -> Result<Option<RunnerId>, HostError> {
        Ok(None)
    }

    async fn log_files(&self, after: Option<RunnerId>) -> Result<Vec<RunnerId>, HostError> {
        let page = |state: &mut State| {
            let rest = state.logs.iter().filter(|id| Some(**id) > after);
            Ok(rest.copied().take(2).collect())
        };
        self.order(page).await
    }

    async fn remove_log_files(&self, ids: Vec<RunnerId>) -> Result<(), HostError> {
        self.order(|state| {
            state.logs.retain(|id| !ids.contains(id));
            Ok(())
        })
        .await
    }

    async fn prepare(&self, order: LaunchOrder) -> Result<Placement, HostError> {
        let held_up = || self.world.0.lock().unwrap().held_up == Some(order.spec.project.clone());
        while held_up() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.order(|state| {
            if !state.lucky && state.luck.one_in(15) {
                return Err(Error::new(ErrorKind::LimitUnenforceable, "no controller").into());
            }
            state.shims.insert(order.id, Shim::Gated);
            state.deadlines.push(order.fence);
            Ok(Placement {
                invocation_id: order.id.to_string().replace('-', ""),
                boot_id: "b".to_owned(),
                ..Placement::default()
            })
        })
        .await
    }

    async fn go(&self, id: RunnerId) -> Result<(), HostError> {
        self.order(|state| {
            if state.shims.get(&id) != Some(&Shim::Gated) {
                return Err(missing());
            }
            if !state.lucky && state.luck.one_in(10) {
                state.end(id, |r| r.never_started = true);
                return Err(Error::new(ErrorKind::LaunchFailed, "not found").into());
            }
            *state.execs.entry(id).or_default() += 1;
            state.shims.insert(id, Shim::Runs);
            Ok(())
        })
        .await
    }

    async fn abort(&self, id: RunnerId) -> Result<(), HostError> {
        self.order(|state| {
            if state.shims.get(&id) == Some(&Shim::Gated) {
                state.end(id, |r| r.never_started = true);
            }
            Ok(())
        })
        .await
    }

    async fn stop(&self, id: RunnerId, asked: Asked) -> Result<(), HostError> {
        self.order(|state| {
            state.end(id, |r| (r.signal, r.asked) = (Some(15), Some(asked)));
            Ok(())
        })
        .await
    }

    async fn kill(&self, _id: RunnerId, _signal: i32) -> Result<(), HostError> {
        self.order(|_| Ok(())).await
    }

    async fn freeze(&self, id: RunnerId) -> Result<(), HostError> {
        self.order(|state| match state.shims.get(&id) {
            _ if state.unfreezable => Err(missing()),
            Some(Shim::Runs | Shim::Frozen) => {
                state.shims.insert(id, Shim::Frozen);
                Ok(())
            }
            _ => Err(missing()),
        })
        .await
    }

    async fn thaw(&self, id: RunnerId) -> Result<(), HostError> {
        self.order(|state| match state.shims.get(&id) {
            Some(Shim::Runs | Shim::Frozen) => {
                state.shims.insert(id, Shim::Runs);
                Ok(())
            }
            _ => Err(missing()),
        })
        .await
    }

    async fn set_limits(&self, _id: RunnerId, _limits: Limits) -> Result<Vec<String>, HostError> {
        self.order(|_| Ok(Vec::new())).await
    }

    async fn set_slice(
        &self,
        _project: &ProjectName,
        _limits: Limits,
    ) -> Result<Vec<String>, HostError> {
        self.order(|_| Ok(Vec::new())).await
    }

    async fn remove_slice(&self, _project: &ProjectName) -> Result<(), HostError> {
        self.order(|_| Ok(())).await
    }

    async fn inventory(&self) -> Result<Seen, HostError> {
        self.order(|state| {
            let mut runners: BTreeMap<RunnerId, Observed> = BTreeMap::new();
            for (id, shim) in &state.shims {
                let observed = runners.entry(*id).or_default();
                observed.scope = true;
                observed.shim = *shim != Shim::Killed;
                observed.gated = *shim == Shim::Gated;
                observed.frozen = *shim == Shim::Frozen;
            }
            for (id, record) in &state.records {
                runners.entry(*id).or_default().record = Some(Some(Box::new(record.clone())));
            }
            Ok(Seen {
                boot_id: "b".to_owned(),
                runners,
            })
        })
        .await
    }

    async fn stop_scope(&self, id: RunnerId) -> Result<(), HostError> {
        self.order(|state| {
            state.shims.remove(&id);
            Ok(())
        })
        .await
    }

    async fn forget(&self, id: RunnerId) -> Result<(), HostError> {
        self.order(|state| {
            state.records.remove(&id);
            Ok(())
        })
        .await
    }

    async fn usage(&self, _id: RunnerId) -> Result<Usage, HostError> {
        self.order(|_| Ok(Usage::default())).await
    }
}
