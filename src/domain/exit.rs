//! Endings: the one true cause of each, from what its only witness, the shim, wrote down.

use super::limits::OomPolicy;
use super::signal;
use super::units::show_span;
use serde::{Deserialize, Serialize};

/// Why a runner ended, in systemd's words where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The command never ran.
    LaunchFailed,
    /// It left the queue before its turn came.
    Cancelled,
    /// `runtime-max` passed.
    Timeout,
    /// It used tokens past a budget whose policy is to stop.
    OverBudget,
    /// Somebody asked for it.
    Stopped,
    /// The main process was killed for lack of memory, or the runner's OOM policy ended it.
    OomKill,
    /// The main process dumped core.
    CoreDump,
    /// The main process was killed by a signal.
    Signal,
    /// The main process exited with a status other than 0.
    ExitCode,
    /// The main process exited with 0.
    Success,
    /// The host, or with `--user` the user's service manager, was shut down in an orderly way.
    HostShutdown,
    /// The host has booted since and nobody witnessed the ending.
    HostRebooted,
    /// Its host was away from the fleet's store for too long, and it stopped by itself.
    HostLost,
    /// The runner's shim was killed; its tree was stopped, its status is unknown.
    SupervisorLost,
    /// The record of the ending cannot be read.
    Unknown,
}

impl Cause {
    /// All causes this release writes.
    pub const ALL: [Self; 15] = [
        Self::LaunchFailed,
        Self::Cancelled,
        Self::Timeout,
        Self::OverBudget,
        Self::Stopped,
        Self::OomKill,
        Self::CoreDump,
        Self::Signal,
        Self::ExitCode,
        Self::Success,
        Self::HostShutdown,
        Self::HostRebooted,
        Self::HostLost,
        Self::SupervisorLost,
        Self::Unknown,
    ];

    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LaunchFailed => "launch-failed",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::OverBudget => "over-budget",
            Self::Stopped => "stopped",
            Self::OomKill => "oom-kill",
            Self::CoreDump => "core-dump",
            Self::Signal => "signal",
            Self::ExitCode => "exit-code",
            Self::Success => "success",
            Self::HostShutdown => "host-shutdown",
            Self::HostRebooted => "host-rebooted",
            Self::HostLost => "host-lost",
            Self::SupervisorLost => "supervisor-lost",
            Self::Unknown => "unknown",
        }
    }

    /// The cause with this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }
}

/// How a runner ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The first cause that applies.
    pub cause: Cause,
    /// Exit status of the main process, where it exited.
    #[serde(default)]
    pub code: Option<i32>,
    /// Signal that killed the main process, where one did.
    #[serde(default)]
    pub signal: Option<i32>,
    /// A sentence for a person.
    #[serde(default)]
    pub message: String,
}

impl Exit {
    /// What everybody may know of it. The full sentence may name the command or its folder;
    /// this one tells cause, code and signal, and nothing else.
    #[must_use]
    pub fn public(&self) -> Self {
        let how = match (self.signal, self.code) {
            (Some(s), _) => format!("the main process was killed by {}", signal::name(s)),
            (None, Some(c)) => format!("the main process exited with status {c}"),
            (None, None) => String::new(),
        };
        let why = match self.cause {
            Cause::LaunchFailed => "The command could not be started",
            Cause::Cancelled => "It left the queue before its turn came",
            Cause::Timeout => "The runtime limit passed",
            Cause::OverBudget => "A token budget was used up",
            Cause::Stopped => "Stopped on request",
            Cause::OomKill => "The memory limit was reached",
            Cause::CoreDump => "Core was dumped",
            Cause::Signal | Cause::ExitCode | Cause::Success => "",
            Cause::HostShutdown => "The host or its user's service manager was shut down",
            Cause::HostRebooted => "The host has booted since and nobody witnessed the ending",
            Cause::HostLost => {
                "Its host had not reached the store, or was without its agent, for too long"
            }
            Cause::SupervisorLost => "The runner's supervisor was lost",
            Cause::Unknown => "Nobody can tell how it ended",
        };
        let message = match (why, how.as_str()) {
            ("", "") => "The main process ended.".to_owned(),
            ("", how) => format!("The{}.", how.trim_start_matches("the")),
            (why, "") => format!("{why}."),
            (why, how) => format!("{why}; {how}."),
        };
        Self {
            message,
            ..self.clone()
        }
    }
}

/// What the whole tree used, exactly as the kernel counted it; `None` = this kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// CPU time, user and system, in microseconds (`cpu.stat`).
    pub cpu_usec: Option<u64>,
    /// Highest memory use in bytes (`memory.peak`).
    pub memory_peak_bytes: Option<u64>,
    /// Bytes read from block devices (`io.stat`).
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices (`io.stat`).
    pub io_write_bytes: Option<u64>,
    /// Most tasks at a time without the shim's one (`pids.peak`).
    pub tasks_peak: Option<u64>,
    /// Processes killed for lack of memory (`memory.events`).
    pub oom_kills: Option<u64>,
    /// Memory in use just now, in bytes (`memory.current`); of a live one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Tasks just now, without the shim's one (`pids.current`); of a live one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
}

/// What made the shim stop its tree, if anything did before the main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// A call of ours.
    Stop,
    /// systemd stopped the scope (`systemctl stop`).
    Manager,
    /// The host was going down.
    Shutdown,
    /// `runtime-max` passed.
    Timeout,
    /// A token budget was used up, and its policy is to stop.
    Budget,
    /// systemd stopped the scope because of `OOMPolicy=stop`.
    Oom,
}

/// Where a launch failed before the command ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchError {
    /// Which step: `user`, `working-directory`, `exec`, ….
    pub step: String,
    /// The kernel's error number; 0 where there is none.
    pub errno: i32,
    /// A sentence for a person.
    pub message: String,
}

/// The exit record as the shim writes it: facts, no verdict. The verdict is [`Record::exit`].
/// Unknown fields are ignored and missing ones have defaults: records of every released
/// version stay readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the record, 1.
    pub v: u32,
    /// The runner's id.
    pub id: String,
    /// The boot it ran in.
    pub boot_id: String,
    /// The gate was never opened: nothing ran.
    #[serde(default)]
    pub never_started: bool,
    /// The command could not be started.
    #[serde(default)]
    pub launch_error: Option<LaunchError>,
    /// Exit status of the main process.
    #[serde(default)]
    pub code: Option<i32>,
    /// Signal that killed it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// It dumped core.
    #[serde(default)]
    pub core_dumped: bool,
    /// What stopped it, if something did before it ended by itself.
    #[serde(default)]
    pub asked: Option<Asked>,
    /// The main process itself was killed by the OOM killer.
    #[serde(default)]
    pub oom_killed: bool,
    /// The runner's OOM policy, to explain the ending.
    #[serde(default)]
    pub oom_policy: Option<OomPolicy>,
    /// It ran under a user's own service manager.
    #[serde(default)]
    pub user: bool,
    /// When the main process started, µs CLOCK_REALTIME.
    #[serde(default)]
    pub started_at: u64,
    /// When the tree was gone, µs CLOCK_REALTIME.
    #[serde(default)]
    pub ended_at: u64,
    /// What the tree used.
    #[serde(default)]
    pub usage: Usage,
    /// Bytes of its output that could not be written into its log file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_lost: u64,
    /// It stopped by itself because its host had not reached the store for so long, in µs. `asked`
    /// is then what earlier releases make of it, [`Asked::Stop`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<u64>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Record {
    /// The verdict: the first cause of the contract's list that applies.
    pub fn exit(&self) -> Exit {
        let cause = self.cause();
        Exit {
            cause,
            code: self.code,
            signal: self.signal,
            message: self.message(cause),
        }
    }

    fn cause(&self) -> Cause {
        if self.never_started || self.launch_error.is_some() {
            return Cause::LaunchFailed;
        }
        if self.fenced.is_some() {
            return Cause::HostLost;
        }
        match self.asked {
            Some(Asked::Timeout) => return Cause::Timeout,
            Some(Asked::Stop | Asked::Manager) => return Cause::Stopped,
            Some(Asked::Budget) => return Cause::OverBudget,
            Some(Asked::Shutdown) => return Cause::HostShutdown,
            Some(Asked::Oom) => return Cause::OomKill,
            None => {}
        }
        match (self.oom_killed, self.core_dumped, self.signal, self.code) {
            (true, ..) => Cause::OomKill,
            (_, true, ..) => Cause::CoreDump,
            (_, _, Some(_), _) => Cause::Signal,
            (_, _, None, Some(0)) => Cause::Success,
            (_, _, None, Some(_)) => Cause::ExitCode,
            (_, _, None, None) => Cause::Unknown,
        }
    }

    fn message(&self, cause: Cause) -> String {
        let how = match (self.signal, self.code) {
            (Some(s), _) => format!("was killed by {}", signal::name(s)),
            (None, Some(c)) => format!("exited with status {c}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        let kills = self.usage.oom_kills.unwrap_or(0);
        let text = match cause {
            Cause::LaunchFailed => match &self.launch_error {
                Some(error) => error.message.clone(),
                None => "The launch was given up before the command ran.".to_owned(),
            },
            Cause::Timeout => format!("The runtime limit passed; the main process {how}."),
            Cause::Stopped if self.asked == Some(Asked::Manager) => {
                format!("systemd was told to stop the scope; the main process {how}.")
            }
            Cause::Stopped => format!("Stopped on request; the main process {how}."),
            Cause::HostShutdown if self.user => format!(
                "The user's service manager was shut down, by the last logout of a user who does not linger or with the host; the main process {how}."
            ),
            Cause::HostShutdown => format!("The host was shut down; the main process {how}."),
            Cause::HostLost => format!(
                "Stopped by itself: its host had not reached the store, or stratavore-agent was away, for {}; the main process {how}.",
                show_span(self.fenced.unwrap_or(0) / 1_000_000 * 1_000_000)
            ),
            Cause::OomKill if self.oom_killed => {
                "The kernel killed the main process: the memory limit was reached.".to_owned()
            }
            Cause::OomKill => format!(
                "The kernel killed a process of the runner at the memory limit and the OOM policy stopped the rest; the main process {how}."
            ),
            Cause::CoreDump => format!("The main process {how} and dumped core."),
            Cause::Signal | Cause::ExitCode | Cause::Success => format!("The main process {how}."),
            _ => "The record of the ending tells no status.".to_owned(),
        };
        let text = match (cause, kills) {
            (Cause::OomKill | Cause::LaunchFailed, _) | (_, 0) => text,
            (_, n) => format!("{text} {n} of its processes had been killed at the memory limit."),
        };
        match self.output_lost {
            0 => text,
            n => format!(
                "{text} {n} bytes of its output are missing from its log file, which could not be written."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record {
            v: 1,
            id: String::new(),
            boot_id: String::new(),
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
            usage: Usage::default(),
            output_lost: 0,
            fenced: None,
        }
    }

    #[test]
    fn each_cause_from_its_facts() {
        let of = |change: fn(&mut Record)| {
            let mut r = record();
            change(&mut r);
            r.exit().cause
        };
        assert_eq!(of(|r| r.code = Some(0)), Cause::Success);
        assert_eq!(of(|r| r.code = Some(3)), Cause::ExitCode);
        assert_eq!(of(|r| r.signal = Some(11)), Cause::Signal);
        assert_eq!(
            of(|r| (r.signal, r.core_dumped) = (Some(6), true)),
            Cause::CoreDump
        );
        assert_eq!(
            of(|r| (r.signal, r.oom_killed) = (Some(9), true)),
            Cause::OomKill
        );
        assert_eq!(
            of(|r| (r.code, r.asked) = (Some(0), Some(Asked::Stop))),
            Cause::Stopped
        );
        assert_eq!(
            of(|r| (r.code, r.asked) = (Some(0), Some(Asked::Manager))),
            Cause::Stopped
        );
        assert_eq!(
            of(|r| (r.signal, r.asked) = (Some(9), Some(Asked::Timeout))),
            Cause::Timeout
        );
        assert_eq!(
            of(|r| (r.signal, r.asked) = (Some(15), Some(Asked::Shutdown))),
            Cause::HostShutdown
        );
        assert_eq!(
            of(|r| (r.asked, r.fenced) = (Some(Asked::Stop), Some(1))),
            Cause::HostLost
        );
        assert_eq!(of(|r| r.never_started = true), Cause::LaunchFailed);
        assert_eq!(of(|_| ()), Cause::Unknown);
    }

    #[test]
    fn a_record_of_the_first_version_stays_readable() {
        let text = r#"{"v":1,"id":"x","boot_id":"b","code":0,"some_later_field":[1]}"#;
        let record: Result<Record, _> = serde_json::from_str(text);
        assert!(matches!(record, Ok(r) if r.exit().cause == Cause::Success));
    }

    #[test]
    fn a_fenced_one_tells_how_long_the_store_was_away() {
        let mut fenced = record();
        (fenced.signal, fenced.asked) = (Some(15), Some(Asked::Stop));
        let text = serde_json::to_string(&fenced).unwrap();
        assert!(!text.contains("fenced"), "{text}");
        fenced.fenced = Some(301_234_567);
        assert_eq!(
            fenced.exit().message,
            "Stopped by itself: its host had not reached the store, or stratavore-agent was away, for 5min 1s; the main process was killed by SIGTERM."
        );
    }

    #[test]
    fn the_public_sentence_names_neither_command_nor_folder() {
        for cause in Cause::ALL {
            let exit = Exit {
                cause,
                code: None,
                signal: None,
                message: "/home/a/secret: no such file".to_owned(),
            };
            let public = exit.public();
            assert!(!public.message.contains("secret"), "{public:?}");
            assert!(public.message.ends_with('.'), "{public:?}");
            assert_eq!((public.cause, public.code), (cause, None));
        }
        let mut killed = record();
        killed.signal = Some(15);
        killed.asked = Some(Asked::Stop);
        assert_eq!(killed.exit().public().message, killed.exit().message);
        let mut exited = record();
        exited.code = Some(7);
        assert_eq!(exited.exit().public().message, exited.exit().message);
    }

    proptest! {
        #[test]
        fn code_and_signal_are_never_made_up(code: Option<i32>, signal in proptest::option::of(1..64), oom: bool, core: bool) {
            let r = Record { code, signal, oom_killed: oom, core_dumped: core, ..record() };
            let exit = r.exit();
            prop_assert_eq!((exit.code, exit.signal), (code, signal));
            prop_assert_eq!(exit.cause == Cause::Success, code == Some(0) && signal.is_none() && !oom && !core);
        }
    }
}
