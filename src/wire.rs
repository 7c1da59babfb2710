//! The messages between daemon, agent and shim.
//!
//! Transport is `SOCK_SEQPACKET`: the kernel does the framing, one JSON message per packet of at
//! most [`PACKET_MAX`] bytes; descriptors travel beside it by SCM_RIGHTS. What may be larger (a
//! command with its environment) is JSON in a sealed memfd.
//!
//! Versions: every message is an object; unknown fields are ignored and missing ones have
//! defaults, so either side may be older. A field or variant is never given another meaning. A
//! receiver that does not know a variant answers [`Refusal`] `unsupported`.
//!
//! ```text
//! daemon ──Request/Reply/Notice──► agent ──ShimRequest/ShimNotice──► shim (one per runner)
//! ```

mod fence;
mod shim;

pub use fence::{Fence, Term};
pub use shim::{Identity, ShimNotice, ShimOrder, ShimRequest, ShimState};

use crate::domain::exit::{Asked, Record};
use crate::domain::fence::Deadline;
use crate::domain::inputs::Inputs;
use crate::domain::logs::LogsRequest;
use crate::domain::placed::Placed;
use crate::domain::runner::Placement;
use crate::domain::{Limits, ProjectName, RunnerId};
use serde::{Deserialize, Serialize};

/// Version of these messages, named in [`Hello`] and [`ShimState`].
pub const VERSION: u32 = 1;
/// The largest packet, in bytes: well below the kernel's default socket buffer.
pub const PACKET_MAX: usize = 64 << 10;
/// The largest payload in a memfd: command and environment at their limits, JSON-escaped.
pub const PAYLOAD_MAX: usize = 4 << 20;
/// Most runners in one [`Answer::Inventory`].
pub const PAGE: usize = 64;
/// Most ids in one [`Answer::LogFiles`] and [`Order::RemoveLogFiles`].
pub const LOG_FILES: usize = 1_000;
/// How long a log file stays after its last line even if nobody knows its runner: the store may
/// have been put back from an older copy.
pub const LOG_FILE_KEPT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// The agent takes [`Launch::passed`].
pub const KNOWS_STREAMS: &str = "streams";
/// The agent takes [`Order::Logs`].
pub const KNOWS_LOGS: &str = "logs";
/// The agent takes [`Payload::inputs`].
pub const KNOWS_INPUTS: &str = "load-credential, env-file";
/// The agent takes [`Launch::log_file_max`], [`Order::LogFiles`] and [`Order::RemoveLogFiles`].
pub const KNOWS_LOG_FILES: &str = "log-files";
/// The agent takes [`Order::Fence`] and [`Launch::fence`].
pub const KNOWS_FENCE: &str = "fence";
/// The agent takes [`Order::RunnerOf`].
pub const KNOWS_RUNNER_OF: &str = "runner-of";
/// The agent takes [`Order::Place`] and [`Launch::placed`].
pub const KNOWS_PLACED: &str = "placed";
/// What this release can do beyond version 1, for [`Hello::knows`].
pub const KNOWS: [&str; 7] = [
    KNOWS_STREAMS,
    KNOWS_LOGS,
    KNOWS_INPUTS,
    KNOWS_LOG_FILES,
    KNOWS_FENCE,
    KNOWS_RUNNER_OF,
    KNOWS_PLACED,
];
/// Most ids in one [`Answer::Fenced`].
pub const UNARMED: usize = 1_000;
/// The shim's first word when it is to become another program, without privileges.
pub const WITHOUT_PRIVILEGES: &str = "--without-privileges";

// ---------------------------------------------------------------- daemon → agent

/// One order of the daemon. Orders may be answered out of their order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the daemon, repeated in the [`Reply`].
    pub seq: u64,
    /// What to do.
    pub order: Order,
}

/// What the daemon may ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// First message of a connection. The agent gives up every launch that an earlier
    /// connection left at its gate, then answers [`Answer::Hello`].
    Hello(Hello),
    /// Prepare a runner up to its gate. Beside it: a sealed memfd with a [`Payload`], then what
    /// [`Launch::passed`] names. Answered with [`Answer::Prepared`].
    Launch(Box<Launch>),
    /// Open the gate. Answered with [`Answer::Done`] when the command has been exec'd, with
    /// [`Refusal`] `launch-failed` when that failed (the record follows as a [`Notice`]).
    Go { id: RunnerId },
    /// Close the gate: nothing will run. Answered when the shim is gone.
    Abort { id: RunnerId },
    /// Stop the whole tree: thaw if frozen, stop signal, SIGKILL after the timeout.
    Stop { id: RunnerId, asked: Asked },
    /// Send a signal to every process of the runner, not to its shim.
    Kill { id: RunnerId, signal: i32 },
    /// Freeze all processes; answered when they are.
    Freeze { id: RunnerId },
    /// Let them go on; answered when they do.
    Thaw { id: RunnerId },
    /// Put these limits in force on a live runner: all of them, as they shall be now, read
    /// back. Answered with [`Answer::Limits`].
    SetLimits {
        id: RunnerId,
        limits: Limits,
        unenforced: Unenforced,
    },
    /// Put a project's limits on its slice. Answered with [`Answer::Limits`].
    SetSlice {
        project: ProjectName,
        limits: Limits,
        unenforced: Unenforced,
    },
    /// Stop a project's empty slice and forget its limits.
    RemoveSlice { project: ProjectName },
    /// What is there, after the given id. Answered with [`Answer::Inventory`].
    Inventory { after: Option<RunnerId> },
    /// Stop a scope that has no shim or whose runner has ended, with SIGKILL; answered when
    /// its cgroup is empty.
    StopScope { id: RunnerId },
    /// The ending is in the store: remove record and socket and reset a failed unit.
    Forget { id: RunnerId },
    /// What a live runner has used up to now. Answered with [`Answer::Usage`].
    Usage { id: RunnerId },
    /// Write a runner's output into the pipe beside it, and close that at the end. Answered when
    /// that has begun. `caller` is whose reading it is: each may have some at a time.
    Logs {
        id: RunnerId,
        caller: u32,
        logs: LogsRequest,
    },
    /// Whose log files are here, after the given id: of runners that are over, and not written to
    /// for [`LOG_FILE_KEPT`]. Answered with [`Answer::LogFiles`].
    LogFiles { after: Option<RunnerId> },
    /// Nobody knows these runners any more: remove their log files, where [`Order::LogFiles`]
    /// would still name them.
    RemoveLogFiles { ids: Vec<RunnerId> },
    /// Every runner stops by itself at this time, unless a later one is told by then; an earlier one
    /// and one that has passed change nothing. `None` = none does any more. Answered with
    /// [`Answer::Fenced`].
    Fence { deadline: Option<Deadline> },
    /// In which runner's scope this process is. Answered with [`Answer::RunnerOf`].
    RunnerOf { pid: u32 },
    /// As which account a launch that was asked for on another host would run here, if root allows
    /// it. Answered with [`Answer::Account`].
    Place { placed: Placed, user: String },
}

/// Who is speaking.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub v: u32,
    /// The program's own version, for the journal.
    pub program: String,
    /// What the speaker can do that the first release could not; what it can't is not asked of it.
    #[serde(default)]
    pub knows: Vec<String>,
}

/// A descriptor beside a message, after those that are always there: most are to become the
/// command's standard input, output or error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Passed {
    Stdin,
    Stdout,
    Stderr,
    /// The folder of credentials; only from the agent to the shim, whenever there are
    /// [`ShimOrder::inputs`].
    Credentials,
    /// From the agent to the shim alone: the folder of log files.
    Logs,
}

/// What to do with a limit that this host's kernel does not hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unenforced {
    /// Nothing runs.
    #[default]
    Refuse,
    /// It runs, with a warning.
    Warn,
}

/// A launch, without its command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The runner.
    pub id: RunnerId,
    /// Its project: names the slice.
    pub project: ProjectName,
    /// The project's own limits, put on the slice before the runner starts.
    pub project_limits: Limits,
    /// The user to run as; groups, home and shell come from the agent's own look-up.
    pub uid: u32,
    /// Name for the journal's SYSLOG_IDENTIFIER and the unit's description.
    pub name: Option<String>,
    /// Limits in force.
    pub limits: Limits,
    /// What if one is not held.
    pub unenforced: Unenforced,
    /// The descriptors after the payload: the caller's own, each at most once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Passed>,
    /// Output goes into a log file of at most so many bytes, instead of the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_file_max: Option<u64>,
    /// [`Order::Fence`], as it must hold for this runner before it comes to its gate; without it,
    /// what was told last holds for it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Deadline>,
    /// Where it was asked for, if that was another host: then it is bounded by what root accepts
    /// from there. An agent that does not know this would take it for a launch of its own host, and
    /// must not be sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<Placed>,
}

/// What is too large or too private for a packet. Its values go from here into the runner's
/// exec and nowhere else.
#[derive(Clone, Serialize, Deserialize)]
pub struct Payload {
    /// argv.
    pub command: Vec<String>,
    /// `NAME=VALUE`, over the agent's own list.
    #[serde(default)]
    pub setenv: Vec<(String, String)>,
    /// `None` = the user's home.
    #[serde(default)]
    pub working_directory: Option<String>,
    /// Files to be read by the runner's user.
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    pub inputs: Inputs,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} arguments)", self.command.len())
    }
}

// ---------------------------------------------------------------- agent → daemon

/// What the agent sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromAgent {
    /// To a [`Request`].
    Reply(Reply),
    /// By itself.
    Notice(Notice),
}

/// The answer to the request with the same `seq`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// Of the request.
    pub seq: u64,
    /// Done, or why not.
    pub result: Result<Answer, Refusal>,
}

/// A good answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The order was carried out.
    Done,
    /// To [`Order::Hello`].
    Hello {
        /// The agent's versions.
        hello: Hello,
        /// The kernel's boot id.
        boot_id: String,
    },
    /// To [`Order::Launch`]: the scope is up, the shim waits at its gate.
    Prepared(Placement),
    /// Warnings about limits not held; empty when all are.
    Limits { warnings: Vec<String> },
    /// To [`Order::Inventory`]: at most [`PAGE`] runners, by id; `more` = ask again after the last.
    Inventory { runners: Vec<Seen>, more: bool },
    /// To [`Order::Usage`].
    Usage(crate::domain::Usage),
    /// To [`Order::LogFiles`]: at most [`LOG_FILES`], by id; none = there are no more.
    LogFiles { ids: Vec<RunnerId> },
    /// To [`Order::Fence`]: the deadline in force, how many runners will keep it, and at most
    /// [`UNARMED`] of those that won't: their shims are gone, frozen, of an earlier release or do not
    /// answer.
    Fenced {
        deadline: Option<Deadline>,
        armed: u32,
        unarmed: Vec<RunnerId>,
    },
    /// To [`Order::RunnerOf`]; `None` = in none.
    RunnerOf { id: Option<RunnerId> },
    /// To [`Order::Place`].
    Account { uid: u32, name: String },
}

/// One runner as the agent sees it; see `domain::reconcile::Observed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// The runner.
    pub id: RunnerId,
    /// Its cgroup has processes.
    #[serde(default)]
    pub scope: bool,
    /// Its shim is alive.
    #[serde(default)]
    pub shim: bool,
    /// The shim waits at its gate.
    #[serde(default)]
    pub gated: bool,
    /// The cgroup is frozen.
    #[serde(default)]
    pub frozen: bool,
    /// The exit record; `Some(None)` = there is one that can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nested")]
    pub record: Option<Option<Box<Record>>>,
}

/// `Option<Option<T>>` in JSON: absent, `null`, value.
mod nested {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .and_then(Option::as_ref)
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::<T>::deserialize(deserializer).map(Some)
    }
}

/// What happened without being asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// The runner's tree is gone and its record is on disk. Told once; a later connection finds
    /// it by [`Order::Inventory`].
    Ended { record: Box<Record> },
    /// The shim is gone without a record and the scope is empty by now.
    Lost { id: RunnerId },
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what, which limit, its value, what to do.
    pub message: String,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The message is not understood (another version, too large, malformed).
    Unsupported,
    /// Root's `agent.toml` does not allow it (users, uid 0).
    NotPermitted,
    /// Above a ceiling of `agent.toml`.
    LimitsExceeded,
    /// The kernel does not hold the limit.
    LimitUnenforceable,
    /// The user is unknown, the command can't be started, ….
    LaunchFailed,
    /// No such runner here.
    NoSuchRunner,
    /// systemd, the kernel or the disk refused.
    Failed,
}

/// The JSON of a message, bounded by [`PACKET_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let bytes = serde_json::to_vec(message).map_err(|e| WireError::Malformed(e.to_string()))?;
    if bytes.len() > PACKET_MAX {
        return Err(WireError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// The message in a packet.
pub fn decode<'a, T: Deserialize<'a>>(packet: &'a [u8]) -> Result<T, WireError> {
    serde_json::from_slice(packet).map_err(|e| WireError::Malformed(e.to_string()))
}

/// Why a message can't be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Over [`PACKET_MAX`].
    #[error("a message of {0} bytes is larger than the {PACKET_MAX} allowed")]
    TooLarge(usize),
    /// Not the JSON expected.
    #[error("malformed message: {0}")]
    Malformed(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_unreadable_record_is_told_from_none() {
        let seen = |text: &str| decode::<Seen>(text.as_bytes()).map(|s| s.record).ok();
        let id = r#""id":"00000000-0000-0000-0000-000000000000""#;
        assert_eq!(seen(&format!("{{{id}}}")), Some(None));
        assert_eq!(seen(&format!("{{{id},\"record\":null}}")), Some(Some(None)));
    }

    proptest! {
        #[test]
        fn no_packet_makes_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<FromAgent>(&bytes);
            let _ = decode::<ShimRequest>(&bytes);
            let _ = decode::<ShimNotice>(&bytes);
        }
    }
}
