//! Asking for a password on the terminal, as systemctl does it: polkit's own agent is started
//! for the time of a call that needs one.

use rustix::io::{FdFlags, fcntl_setfd};
use std::io::{IsTerminal, Read};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

/// polkit's agent for terminals.
#[derive(Debug)]
pub(super) struct Agent(Child);

impl Agent {
    /// Starts it where that makes sense; a desktop has its own.
    pub(super) fn start(session_bus: bool) -> Option<Self> {
        if session_bus || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return None;
        }
        let (mut ready, notify) = std::io::pipe().ok()?;
        fcntl_setfd(&notify, FdFlags::empty()).ok()?;
        let child = Command::new("pkttyagent")
            .arg("--notify-fd")
            .arg(notify.as_raw_fd().to_string())
            .arg("--fallback")
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        drop(notify);
        // It closes its end as soon as it is registered, or has given up.
        let _ = ready.read(&mut [0]);
        Some(Self(child))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It puts the terminal back in order on SIGTERM.
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
