//! Who is behind a stop signal: systemd stopping this scope, or the host going down? systemd
//! is asked through its own `systemctl`, in a child that cannot hold the shim up.

use super::sys;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;

/// The longest wait for the answer, µs.
const PATIENCE: u64 = 3_000_000;
const PROGRAMS: [&str; 3] = [
    "/run/current-system/sw/bin/systemctl",
    "/usr/bin/systemctl",
    "/bin/systemctl",
];

/// `systemctl is-system-running` under way.
#[derive(Debug)]
pub(super) struct Question {
    /// The helper: in our scope, but not of the runner's tree.
    pub(super) pid: i32,
    /// To be polled.
    pub(super) pipe: File,
    /// When to stop waiting.
    pub(super) until: u64,
    /// We have sent it SIGKILL ourselves.
    pub(super) given_up: bool,
    heard: Vec<u8>,
    closed: bool,
}

impl Question {
    /// Asks the system's manager, or the user's own when we are not root.
    pub(super) fn ask(now: u64) -> Result<Self, Errno> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        match sys::fork_here()? {
            sys::Side::Parent(pid) => Ok(Self {
                pid,
                pipe: File::from(ours),
                until: now.saturating_add(PATIENCE),
                given_up: false,
                heard: Vec::new(),
                closed: false,
            }),
            sys::Side::Child => {
                run(&File::from(theirs));
                sys::exit_now(127)
            }
        }
    }

    /// Reads on.
    pub(super) fn hear(&mut self) {
        let mut part = [0; 64];
        loop {
            match self.pipe.read(&mut part) {
                Ok(n) if n > 0 && self.heard.len() < 256 => {
                    self.heard.extend_from_slice(part.get(..n).unwrap_or(&[]));
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                _ => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    /// Whether there is still something to read.
    pub(super) fn open(&self) -> bool {
        !self.closed
    }

    /// Waits no longer.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
        self.until = u64::MAX;
        if let Some(pid) = Pid::from_raw(self.pid) {
            // Not reaped yet, so the number is still its own.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// What it said.
    pub(super) fn goes_down(&mut self) -> bool {
        self.hear();
        goes_down(&String::from_utf8_lossy(&self.heard))
    }
}

/// Whether the host goes down, from the manager's answer; without one, from who PID 1 is: in
/// the last phase systemd has handed over to systemd-shutdown.
pub(super) fn goes_down(answer: &str) -> bool {
    match answer.trim() {
        "stopping" => true,
        "initializing" | "starting" | "running" | "degraded" | "maintenance" => false,
        _ => comm("1").is_some_and(|c| c.starts_with("systemd-shutdow")),
    }
}

/// Whether this process is the manager of our scope, which signals everybody in it.
pub(super) fn is_manager(pid: u32) -> bool {
    pid == 1 || (!geteuid().is_root() && comm(&pid.to_string()).is_some_and(|c| c == "systemd"))
}

fn comm(pid: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(text.trim_end().to_owned())
}

/// In the child. All signals stay blocked: the manager is just sending its own to everybody in
/// the scope. It is the first to go when memory is short: the runner may be at its limit.
fn run(pipe: &File) {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else {
        return;
    };
    let ready = dup2_stdin(&null)
        .and(dup2_stdout(pipe))
        .and(dup2_stderr(&null));
    if ready.and(sys::cloexec_from_3()).is_err() {
        return;
    }
    let user = !geteuid().is_root();
    let mut env = vec!["SYSTEMD_PAGER=".to_owned(), "LC_ALL=C".to_owned()];
    if user {
        for name in ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"] {
            env.extend(
                std::env::var(name)
                    .ok()
                    .map(|value| format!("{name}={value}")),
            );
        }
    }
    let scope = if user { "--user" } else { "--system" };
    let argv = ["systemctl", scope, "is-system-running"]
        .map(str::to_owned)
        .to_vec();
    let c = |list: Vec<String>| -> Vec<CString> {
        list.into_iter()
            .filter_map(|s| CString::new(s).ok())
            .collect()
    };
    let (argv, env) = (c(argv), c(env));
    for program in PROGRAMS {
        if let Ok(program) = CString::new(program) {
            sys::exec(&program, &argv, &env);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert!(goes_down("stopping\n"));
        for not in [
            "running\n",
            "degraded",
            "starting",
            "",
            "offline",
            "nonsense",
        ] {
            assert!(!goes_down(not), "{not}");
        }
    }
}
