//! From the open gate to the exec.

use super::super::capabilities;
use super::super::cgroup::Cgroup;
use super::super::child::{self, Launching, Said};
use super::super::life::{Input, LAUNCH_MAX};
use super::super::oom::OomWatch;
use super::super::output::Output;
use super::super::sys;
use super::{Supervisor, clock};
use crate::crash;
use crate::domain::exit::LaunchError;
use crate::wire::ShimNotice;
use rustix::io::Errno;
use rustix::process::geteuid;
use rustix::thread::{self, CapabilitySet};

impl Supervisor {
    pub(super) fn launch(&mut self) {
        crash::point("shim.go-received");
        let cgroup = Cgroup::open(&self.order.cgroup_root, &self.order.cgroup);
        let launched = cgroup.map_err(|error| LaunchError {
            step: "cgroup".to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
            message: error.to_string(),
        });
        let launched = launched.and_then(|cgroup| {
            self.oom = OomWatch::new(cgroup.memory_events());
            self.cgroup = Some(cgroup);
            let log = self.output.as_mut().map(Output::stream).transpose();
            let log = log.map_err(|e| child::failed("log", e, &child::text(e)))?;
            match &mut self.plan {
                Some(plan) => {
                    let order = &self.order;
                    let (vault, files) = plan.vault(&order.id)?.unzip();
                    self.vault = vault;
                    let (name, cgroup) = (&order.identifier, &order.cgroup);
                    let files = files.unwrap_or_default();
                    child::launch(plan, files, log, name, cgroup, self.oom_score)
                }
                None => Err(child::failed("start", Errno::ALREADY, "launched already")),
            }
        });
        // Command and environment are the child's alone from here on.
        self.plan = None;
        sys::trim_memory();
        match launched {
            Ok((pid, launching)) => {
                self.main = Some(pid);
                self.main_alive = true;
                self.launching = Some(launching);
                drop_capabilities();
            }
            Err(error) => {
                self.failed(error);
                self.take(Input::MainEnded);
            }
        }
    }

    fn failed(&mut self, error: LaunchError) {
        self.peers.tell(&ShimNotice::LaunchFailed(error.clone()));
        self.record.launch_error = Some(error);
    }

    /// SIGKILL is due; if the command does not run yet and nobody asked for a stop, it takes too
    /// long.
    pub(super) fn hangs(&mut self) {
        if self.launching.is_some() && self.life.why().is_none() {
            self.launching = None;
            let message = format!(
                "the command could not be run within {} s: what it needs (credentials, environment files, working directory, program) is on a file system that does not answer",
                LAUNCH_MAX / 1_000_000
            );
            self.failed(child::failed("start", Errno::TIMEDOUT, &message));
        }
    }

    pub(super) fn hear_child(&mut self) {
        match self.launching.as_mut().map(Launching::hear) {
            None | Some(Said::Nothing) => return,
            Some(Said::Started) => {
                self.record.started_at = clock::realtime();
                self.take(Input::Started);
                if let Some(pid) = self.main {
                    self.peers.tell(&ShimNotice::Started { pid: pid as u32 });
                }
            }
            Some(Said::Failed(error)) => self.failed(error),
        }
        self.launching = None;
    }
}

/// After the fork the shim signals, writes one file and removes others in folders of root's.
fn drop_capabilities() {
    if let (true, Ok(have)) = (geteuid().is_root(), thread::capabilities(None)) {
        let keep = CapabilitySet::KILL | CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE;
        let _ = capabilities::keep(have.permitted & keep);
    }
}
