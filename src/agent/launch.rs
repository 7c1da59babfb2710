//! A launch up to its gate. Every step can be undone, and whatever fails undoes all before it.

use super::cgroup::{in_cgroup, stat};
use super::foreign::{Foreign, check_streams};
use super::hub::{Agent, Phase, Runner, lock};
use super::policy::{self, refusal};
use super::shim::{self, Raw, Spawned};
use super::systemd::UNIT;
use super::undo::LEAVE;
use super::user::{Account, environment};
use super::{placed, properties, readback};
use crate::crash::point;
use crate::domain::Limits;
use crate::domain::inputs::DIRECTORY;
use crate::domain::runner::Placement;
use crate::seqpacket::{read_sealed, sealed_memfd};
use crate::wire::{
    Answer, Launch, Passed, Payload, Refusal, RefusalCode, ShimOrder, ShimRequest, VERSION,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the name service may take.
const LOOK_UP: Duration = Duration::from_secs(20);
/// How long a shim may take to come to its gate: it makes room for its record on the disk.
const READY: Duration = Duration::from_secs(30);
pub(super) fn failed(why: impl std::fmt::Display) -> Refusal {
    refusal(RefusalCode::Failed, why.to_string())
}

impl Agent {
    /// Brings a runner up to its gate for this connection.
    pub(super) async fn launch(
        self: &Arc<Self>,
        owner: u64,
        launch: Launch,
        fds: Foreign,
    ) -> Result<Answer, Refusal> {
        point("agent.launch-received");
        let mut streams = fds;
        let payload = streams.payload();
        policy::check_launch(&launch)?;
        if let Some(placed) = &launch.placed {
            placed::check_host(&self.config(), placed)?;
        }
        check_streams(&launch.passed, streams.as_slice().len())?;
        policy::check_log_file(launch.log_file_max, &launch.passed, &self.config())?;
        let limits = policy::clamp(&launch.limits, &self.config().ceilings)?;
        readback::judge(
            &self.lacking(&limits),
            launch.unenforced,
            &self.config().ceilings,
        )?;
        let cgroup = self.cgroups.scope(&launch.project, launch.id);
        let runner = Runner::new(launch.id, cgroup, owner, Phase::Preparing);
        let timeout = limits.stop_timeout_usec();
        runner.stop_timeout.store(timeout, Ordering::Relaxed);
        self.claim(&runner)?;
        let prepared = async {
            // The others wait here, not yet read.
            let _turn = self.launching.acquire().await.map_err(failed)?;
            if runner.given_up.load(Ordering::Relaxed) {
                return Err(failed(format!("The launch of {} was given up.", launch.id)));
            }
            let payload = read_payload(payload?)?;
            policy::check_payload(&payload)?;
            placed::check_payload(&launch, &payload)?;
            if !payload.inputs.credentials.is_empty()
                && let Err(why) = &self.credentials
            {
                return Err(refusal(RefusalCode::LaunchFailed, why.clone()));
            }
            self.prepare(&runner, &launch, &limits, payload, streams)
                .await
        };
        match prepared.await {
            Ok(placement) => {
                runner.becomes(Phase::Gated);
                // Whoever gave it up before now saw a launch under way.
                if runner.given_up.load(Ordering::Relaxed) {
                    self.abort(&runner).await?;
                    return Err(failed(format!("The launch of {} was given up.", launch.id)));
                }
                point("agent.before-prepared-reply");
                Ok(Answer::Prepared(placement))
            }
            Err(refused) => {
                let refused = self.refused_by_shim(&runner, refused).await;
                self.undo(&runner).await;
                Err(refused)
            }
        }
    }

    /// A shim that does not take its order says why and leaves: then that is why the rest failed.
    async fn refused_by_shim(&self, runner: &Runner, refused: Refusal) -> Refusal {
        if runner.is_child() {
            runner.has_spoken(LEAVE).await;
        }
        match runner.failed.get() {
            Some(error) if error.step != "order" => {
                refusal(RefusalCode::LaunchFailed, error.message.clone())
            }
            _ => refused,
        }
    }

    /// One launch per id: a second one would take the first one's names.
    fn claim(&self, runner: &Arc<Runner>) -> Result<(), Refusal> {
        let taken = || failed(format!("There is a runner {} already.", runner.id));
        if self.exits.record(runner.id).map_err(failed)?.is_some()
            || self.cgroups.generation(&runner.cgroup).is_some()
        {
            return Err(taken());
        }
        if !lock(&self.connections).contains_key(&runner.owner) {
            return Err(failed("Whoever asked for the launch is gone."));
        }
        match lock(&self.runners).entry(runner.id) {
            std::collections::hash_map::Entry::Occupied(_) => Err(taken()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(runner.clone());
                Ok(())
            }
        }
    }

    async fn prepare(
        self: &Arc<Self>,
        runner: &Arc<Runner>,
        launch: &Launch,
        limits: &Limits,
        payload: Payload,
        streams: Foreign,
    ) -> Result<Placement, Refusal> {
        let by_file = !payload.inputs.is_empty() || launch.log_file_max.is_some();
        let (account, spawned) = self.spawn(launch).await?;
        let Spawned {
            pid,
            gate,
            mut child,
            pidfd,
            socket,
        } = spawned.ready().map_err(failed)?;
        runner.set_killer(Some(pidfd.try_clone().map_err(failed)?));
        // From here on a shim that leaves is noticed: `listen` sees its end of the gate close.
        self.listen(runner, gate);
        let scoped = async {
            // It reads its order and makes room for its record while systemd makes the scope.
            let fds = (socket, streams);
            self.order(runner, launch, limits, payload, &account, fds)
                .await?;
            if by_file {
                self.takes_files(runner).await?;
            }
            point("agent.shim-spawned");
            self.set_slice(&launch.project, &launch.project_limits, launch.unenforced)
                .await?;
            point("agent.slice-set");
            self.start_scope(launch, limits, pidfd.as_fd(), pid).await
        };
        let scoped = scoped.await;
        // Not before: an older systemd is given its number, which is its own until it is reaped.
        let reaped = runner.clone();
        tokio::spawn(async move {
            let _ = child.wait().await;
            reaped.left.send_replace(true);
        });
        scoped?;
        point("agent.scope-started");
        let unit = launch.id.unit();
        if !in_cgroup(pid, &runner.cgroup) {
            return Err(failed(format!(
                "{unit} was started, but its process is not in {}.",
                runner.cgroup
            )));
        }
        // Where the project's last runner had left in between, systemd has dropped the slice
        // and made a new one without limits. From here on it stays as long as this scope.
        let project_warnings = self
            .keep_slice(&launch.project, &launch.project_limits, launch.unenforced)
            .await?;
        let warnings = self.read_back(runner, limits, launch).await?;
        let invocation_id = self.invocation_id(&unit).await?;
        if !runner.has_spoken(READY).await {
            return Err(failed(format!(
                "The shim did not come to its gate within {} s.",
                READY.as_secs()
            )));
        }
        if let Phase::Failed(error) = &*runner.phase.borrow() {
            return Err(refusal(RefusalCode::LaunchFailed, error.message.clone()));
        }
        let start = stat(pid).filter(|_| runner.link().is_some());
        let (_, shim_start) =
            start.ok_or_else(|| failed("The shim left before its gate was opened."))?;
        self.arm_launch(runner, launch.fence).await?;
        let boot_id = self.boot_id.clone();
        Ok(Placement {
            invocation_id,
            boot_id,
            shim_pid: pid,
            shim_start,
            warnings,
            project_warnings,
        })
    }

    /// A shim of an earlier release does not know files: it refuses its order or leaves without a
    /// word. It is asked before it is in a scope, whose end would be all that is seen of it.
    async fn takes_files(&self, runner: &Runner) -> Result<(), Refusal> {
        runner.has_spoken(READY).await;
        let mut said = String::new();
        match &*runner.phase.borrow() {
            Phase::Failed(error) if error.step != "order" => {
                return Err(refusal(RefusalCode::LaunchFailed, error.message.clone()));
            }
            Phase::Failed(error) => said = format!(": {}", error.message),
            _ if runner.link().is_some() => return Ok(()),
            _ => {}
        }
        let why = format!(
            "The shim did not take its order{said}. If {} is of an earlier release than the stratavore-agent that runs, it does not know load-credential, env-file or log-file-max: install the programs of one release and restart stratavore-agent; runners go on.",
            self.shim.display()
        );
        Err(refusal(RefusalCode::LaunchFailed, why))
    }

    async fn start_scope(
        &self,
        launch: &Launch,
        limits: &Limits,
        pidfd: BorrowedFd<'_>,
        pid: u32,
    ) -> Result<(), Refusal> {
        let name = launch.name.clone().unwrap_or_else(|| launch.id.to_string());
        let description = format!("Stratavore runner {name} of project {}", launch.project);
        let unit = launch.id.unit();
        let knows = self.systemd.knows_oom_policy;
        let all = properties::scope(limits, &launch.project.slice(), &description, knows);
        let started = self.systemd.start_scope(&unit, &all, pid, pidfd).await;
        started.map_err(|fault| failed(format!("systemd did not start {unit}: {fault}.")))
    }

    /// Tells the shim all it has to know. Its descriptors are its own from then on.
    async fn order(
        &self,
        runner: &Runner,
        launch: &Launch,
        limits: &Limits,
        payload: Payload,
        account: &Account,
        (socket, streams): (OwnedFd, Foreign),
    ) -> Result<(), Refusal> {
        let mut env = environment(
            &self.environment,
            account,
            launch.id,
            &launch.project,
            &payload.setenv,
        );
        let mut passed = launch.passed.clone();
        // Also for files of variables: a shim that does not know them then refuses the order.
        let vault = !payload.inputs.is_empty();
        passed.extend(vault.then_some(Passed::Credentials));
        // For files of variables alone, any folder does.
        let mut folder = self.exits.as_fd();
        if let Ok(credentials) = &self.credentials {
            folder = credentials.as_fd();
            if !payload.inputs.credentials.is_empty() {
                let begin = format!("{DIRECTORY}=");
                env.retain(|entry| !entry.starts_with(&begin));
                env.push(begin + &credentials.of(launch.id));
            }
        }
        passed.extend(launch.log_file_max.map(|_| Passed::Logs));
        let order = ShimOrder {
            v: VERSION,
            id: launch.id.to_string(),
            identifier: identifier(&payload.command),
            env,
            working_directory: payload
                .working_directory
                .unwrap_or_else(|| account.home.clone()),
            command: payload.command,
            identity: self.user.is_none().then(|| account.identity()),
            cgroup: runner.cgroup.clone(),
            cgroup_root: self.cgroups.mount(),
            boot_id: self.boot_id.clone(),
            kill_signal: limits.stop_signal(),
            stop_timeout: limits.stop_timeout_usec(),
            runtime_max: limits.runtime_max.unwrap_or(u64::MAX),
            oom_policy: limits.oom_policy,
            nofile: self.nofile,
            inputs: payload.inputs,
            passed,
            log_file_max: launch.log_file_max,
        };
        let bytes = serde_json::to_vec(&order).map_err(failed)?;
        let memfd = sealed_memfd("stratavore-order", &bytes).map_err(failed)?;
        let link = runner
            .link()
            .ok_or_else(|| failed("The shim left before its order."))?;
        let mut fds = vec![memfd.as_fd(), socket.as_fd(), self.exits.as_fd()];
        fds.extend(streams.as_slice().iter().map(AsFd::as_fd));
        fds.extend(vault.then_some(folder));
        fds.extend(launch.log_file_max.map(|_| self.logs.as_fd()));
        let sent = link.send(&ShimRequest::Order, &fds).await;
        sent.map_err(|e| failed(format!("The shim takes no order: {e}.")))
    }

    /// Looks up the user, asks root's rules, and spawns the shim: all that may block, off the loop.
    async fn spawn(&self, launch: &Launch) -> Result<(Account, Raw), Refusal> {
        let (uid, id, placed) = (launch.uid, launch.id, launch.placed.clone());
        let config = self.config();
        let (user, sockets, shim) = (self.user, self.sockets.clone(), self.shim.clone());
        let accounts = self.accounts.clone();
        let env = self.environment.of_shim();
        // Whoever waits for the answer holds one end.
        let waiter = Arc::new(());
        let waited_for = Arc::downgrade(&waiter);
        let deadline = tokio::time::Instant::now() + LOOK_UP;
        let slow = || {
            let why = format!(
                "The name service did not answer for uid {uid} within {} s.",
                LOOK_UP.as_secs()
            );
            refusal(RefusalCode::LaunchFailed, why)
        };
        let permit = tokio::time::timeout_at(deadline, self.look_ups.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| slow())?.map_err(failed)?;
        let mut work = tokio::task::spawn_blocking(move || {
            // Held by a look-up that hangs, too: the other threads are for other work.
            let _permit = permit;
            let account = accounts.find(uid)?;
            if waited_for.strong_count() == 0 {
                return Err(failed("Nobody waits for this launch any more."));
            }
            match user {
                Some(own) if own == uid => {}
                Some(_) => {
                    let why = format!(
                        "This agent runs everything as its own user; it can't run as {}.",
                        account.name
                    );
                    return Err(refusal(RefusalCode::NotPermitted, why));
                }
                None => match &placed {
                    Some(placed) => placed::check_user(&config, placed, &account)?,
                    None => policy::check_user(&config, &account)?,
                },
            }
            let raw = shim::spawn(&shim, env, sockets.as_fd(), id);
            Ok((
                account,
                raw.map_err(|e| failed(format!("The shim can't be started: {e}.")))?,
            ))
        });
        let done = tokio::time::timeout_at(deadline, &mut work).await;
        drop(waiter);
        match done {
            Ok(Ok(done)) => done,
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => {
                work.abort();
                Err(slow())
            }
        }
    }

    async fn read_back(
        &self,
        runner: &Runner,
        limits: &Limits,
        launch: &Launch,
    ) -> Result<Vec<String>, Refusal> {
        let as_one = self.kills_as_one(limits);
        let unheld = self
            .unheld_at_last(&runner.cgroup, limits, Some(as_one))
            .await;
        readback::judge(&unheld, launch.unenforced, &self.config().ceilings)
    }

    /// systemd leaves it in /run for all to read; only a user manager must be asked.
    async fn invocation_id(&self, unit: &str) -> Result<String, Refusal> {
        let told = match self.user {
            None => std::fs::read_link(format!("/run/systemd/units/invocation:{unit}")).ok(),
            Some(_) => None,
        };
        if let Some(id) = told.and_then(|p| p.to_str().map(str::to_owned)) {
            return Ok(id);
        }
        let bytes: Vec<u8> = self
            .systemd
            .property(unit, UNIT, "InvocationID")
            .await
            .map_err(failed)?;
        Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }
}

fn read_payload(fd: OwnedFd) -> Result<Payload, Refusal> {
    let malformed = |why: String| refusal(RefusalCode::Unsupported, why);
    let bytes = read_sealed(fd).map_err(|e| malformed(e.to_string()))?;
    // Not the parser's words: they could quote a secret.
    serde_json::from_slice(&bytes)
        .map_err(|_| malformed("The payload is not understood.".to_owned()))
}

/// What the journal calls the output: the program's name, as systemd-run does it.
fn identifier(command: &[String]) -> String {
    let program = command
        .first()
        .map_or("", |c| c.rsplit('/').next().unwrap_or(c));
    let clean: String = program
        .chars()
        .filter(|c| !c.is_control())
        .take(64)
        .collect();
    if clean.is_empty() {
        "stratavore-runner".to_owned()
    } else {
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        let of = |program: &str| identifier(&[program.to_owned()]);
        assert_eq!(of("/usr/bin/python3"), "python3");
        assert_eq!(of("sleep"), "sleep");
        assert_eq!(of("a\nb"), "ab");
        assert_eq!(of("/"), "stratavore-runner");
        assert_eq!(identifier(&[]), "stratavore-runner");
    }
}
