//! The messages between agent and shim.

use super::Passed;
use crate::domain::exit::{Asked, LaunchError, Record};
use crate::domain::inputs::Inputs;
use crate::domain::limits::OomPolicy;
use serde::{Deserialize, Serialize};

/// What the agent tells a shim. The first message is `Order` on the shim's standard input (a
/// socket: the gate), later ones come there or on the shim's own listening socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShimRequest {
    /// What to run. Beside it three descriptors: a sealed memfd with a [`ShimOrder`], the
    /// shim's listening socket, the folder for the record; then what [`ShimOrder::passed`] names.
    Order,
    /// Open the gate.
    Go,
    /// Stop the tree.
    Stop { asked: Asked },
    /// Send a signal to the tree.
    Kill { signal: i32 },
    /// New life-time limits: µs since the start of the command (`u64::MAX` = none), µs, signal;
    /// the OOM policy, if one is set.
    Limits {
        runtime_max: u64,
        stop_timeout: u64,
        kill_signal: i32,
        #[serde(default)]
        oom_policy: Option<OomPolicy>,
    },
    /// Asks for [`ShimNotice::State`].
    Query,
    /// Stop the tree when the time in the file beside it ([`Fence`](super::Fence)) has come.
    /// Answered with [`ShimNotice::State`]; never sent to a shim whose [`ShimState::fence`] does not
    /// say that it knows this.
    Fence,
}

/// All a shim needs to know.
#[derive(Clone, Serialize, Deserialize)]
pub struct ShimOrder {
    /// [`VERSION`](super::VERSION) of the agent.
    pub v: u32,
    /// The runner's id; names the record `<id>.json`.
    pub id: String,
    /// argv; `command[0]` is looked up in `PATH` of `env` if it has no slash.
    pub command: Vec<String>,
    /// The whole environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Where to start.
    pub working_directory: String,
    /// Identity; `None` = the shim's own (`--user`).
    pub identity: Option<Identity>,
    /// The scope's cgroup below the cgroup2 mount, `/stratavore.slice/…/stratavore-<id>.scope`.
    pub cgroup: String,
    /// Where cgroup2 is mounted, `/sys/fs/cgroup`.
    pub cgroup_root: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The stop signal.
    pub kill_signal: i32,
    /// µs from the stop signal to SIGKILL.
    pub stop_timeout: u64,
    /// µs from start to stop; `u64::MAX` = none.
    pub runtime_max: u64,
    /// Carried out by the shim: systemd is told `continue`. `None` = continue.
    pub oom_policy: Option<OomPolicy>,
    /// SYSLOG_IDENTIFIER of the output.
    pub identifier: String,
    /// Soft and hard RLIMIT_NOFILE for the command.
    pub nofile: (u64, u64),
    /// Files to be read by the runner's user.
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    pub inputs: Inputs,
    /// The descriptors after the first three.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Passed>,
    /// Output goes into a log file of at most so many bytes, in the folder [`Passed::Logs`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_file_max: Option<u64>,
}

impl std::fmt::Debug for ShimOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShimOrder({})", self.id)
    }
}

/// Whom the command runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All supplementary groups.
    pub groups: Vec<u32>,
}

/// What a shim tells, to everybody connected.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShimNotice {
    /// First on every connection, and the answer to [`ShimRequest::Query`].
    State(ShimState),
    /// The command has been exec'd.
    Started { pid: u32 },
    /// It could not be; the record follows.
    LaunchFailed(LaunchError),
    /// The record is on disk; the shim is about to exit. Also the last word when the record
    /// could not be written: then `written` is false and the agent writes it.
    Ended { record: Box<Record>, written: bool },
}

/// What a shim is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// [`VERSION`](super::VERSION) of the shim.
    pub v: u32,
    /// The runner.
    pub id: String,
    /// The gate is still shut.
    #[serde(default)]
    pub gated: bool,
    /// The main process, once there is one.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The stop has begun.
    #[serde(default)]
    pub asked: Option<Asked>,
    /// Bytes of output that could not be written into its log file.
    #[serde(default)]
    pub output_lost: u64,
    /// When it will look whether to stop by itself, µs on CLOCK_BOOTTIME; 0 = not at all. `None` =
    /// it is of an earlier release and can't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
}
