//! A launch that came to nothing.

use super::hub::{Agent, Phase, Runner, lock};
use crate::domain::kinds;
use crate::logfile;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// How long a shim may take to leave when its gate is closed.
pub(super) const LEAVE: Duration = Duration::from_secs(10);

impl Agent {
    /// Nothing of a failed launch stays: no shim, scope, socket or record.
    pub(super) async fn undo(&self, runner: &Arc<Runner>) {
        if let Some(link) = runner.link() {
            link.close_gate();
        }
        // It may never have been spawned.
        if runner.is_child() {
            self.let_leave(runner).await;
        }
        if self.cgroups.generation(&runner.cgroup).is_some() {
            let _ = self.cgroups.kill(&runner.cgroup);
            // systemd drops an empty scope by itself; a call makes sure it has seen that.
            let _ = self.systemd.stop(&runner.id.unit()).await;
        }
        self.sweep(runner.id);
        let _ = self.exits.forget(runner.id);
        let _ = logfile::remove(self.logs.as_fd(), &runner.id.to_string());
        runner.becomes(Phase::Undone);
        lock(&self.runners).remove(&runner.id);
    }

    /// Waits until a shim whose gate is closed has left, and kills it if it does not. Its end
    /// of the gate closes before that: it still has its record to write.
    pub(super) async fn let_leave(&self, runner: &Runner) {
        if !runner.has_left(LEAVE).await {
            runner.error(
                kinds::SHIM_UNREACHABLE,
                "its shim does not leave; it is killed",
            );
            runner.kill_shim();
            runner.has_left(LEAVE).await;
        }
    }
}
