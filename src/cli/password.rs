//! Asking for a password on the terminal, as systemctl does it: polkit's own agent is started
//! with the first call that needs one, and ends with us.

use rustix::io::{FdFlags, fcntl_setfd};
use std::io::IsTerminal;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// An agent that takes longer to register does without our waiting for it.
const READY_MAX: Duration = Duration::from_secs(10);

/// polkit's agent for terminals.
#[derive(Debug)]
pub(super) struct Agent(Child);

impl Agent {
    /// Starts it where there is a terminal to ask on; a desktop has its own.
    pub(super) async fn start() -> Option<Self> {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return None;
        }
        let (ready, notify) = std::io::pipe().ok()?;
        let mut ready = Receiver::from_owned_fd(OwnedFd::from(ready)).ok()?;
        fcntl_setfd(&notify, FdFlags::empty()).ok()?;
        let child = Command::new("pkttyagent")
            .arg("--notify-fd")
            .arg(notify.as_raw_fd().to_string())
            .arg("--fallback")
            .stdin(Stdio::null())
            .spawn();
        drop(notify);
        let agent = Self(child.ok()?);
        // It closes its end as soon as it is registered, or has given up.
        let _ = tokio::time::timeout(READY_MAX, ready.read(&mut [0])).await;
        Some(agent)
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
