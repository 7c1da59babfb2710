//! Methods of `org.stratavore1.Manager` about runners: launched, stopped, told about.

use crate::api::convert::{self, Dict};
use crate::api::core::Core;
use crate::api::errors::Result;
use crate::api::tree;
use crate::api::values::Options;
use zbus::message::Header;
use zbus::{OwnedObjectPath, interface};

/// This block of the interface.
#[derive(Debug)]
pub(in crate::api) struct Runners(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Runners {
    /// Launches a command as a runner of a project and returns when it has been exec'd, or, with
    /// queue, when it waits. The path is that of its object, which is there while it is live.
    ///
    /// Options, all of them optional. Sizes, times and numbers of type t may also be an s in
    /// systemd's notation ("1G", "200%", "1h 30min"), and the highest t means infinity.
    ///
    /// name s: a name to use instead of the id, not unique.
    /// uid s: the user to run as, by name or number; without it, the caller's.
    /// working-directory s: an absolute path; without it, the user's home.
    /// setenv as: NAME=VALUE; values are never stored (but see on), shown or logged.
    /// label a{ss}: searchable labels.
    /// memory-max, memory-high, memory-swap-max t: bytes.
    /// cpu-quota t: microseconds of CPU time per second.
    /// cpu-weight, io-weight t: 1 to 10000.
    /// tasks-max t: processes and threads.
    /// runtime-max, stop-timeout t: microseconds.
    /// kill-signal i: the stop signal.
    /// oom-policy s: continue, stop or kill.
    /// load-credential as: NAME:PATH, absolute paths; when the command is started, a copy of each
    /// file is made that it finds as NAME in $CREDENTIALS_DIRECTORY until the runner has ended.
    /// env-file as: absolute paths of files of variables, as systemd's EnvironmentFile= has them,
    /// with a "-" before one that may be missing; read when the command is started, they go over
    /// setenv and later ones over earlier ones.
    /// All these files are read with the rights of the runner's user and no others. What is in
    /// them is never stored, shown or logged.
    /// log-file-max t: bytes; output goes into a log file of at most that size, of which the newest
    /// is kept, instead of the journal. Logs reads it; not with both stdout and stderr.
    /// queue b: where a quota, budget, hold, cordon or its session is in the way, it waits for its
    /// turn instead of being refused, over restarts and reboots: state "queued". QueueFull if too
    /// many of its project do. Not with stdin, stdout or stderr.
    /// priority i: -100 to 100, 0 without it; higher goes first among those of its project that
    /// wait, and then age. Between projects the one with the fewest live runners is next.
    /// tokens t: tokens that it reserves of every budget that it belongs to; without it, its
    /// project's default-tokens.
    /// session s: the session it goes on with, one live runner at a time.
    /// stdin, stdout, stderr h: descriptors to become the runner's; without them its input is
    /// empty and its output goes to the journal. They are handed on and closed here: their
    /// other ends see the end when the runner has ended.
    /// on s: on this host of the fleet (its id, name or a prefix of its id), through the store and
    /// only if agent.toml of that host accepts it from here for that user, who is known there by
    /// name; without working-directory, in the home there. Not with stdin, stdout, stderr,
    /// load-credential and env-file. The values of setenv are in the store until that host has taken
    /// the launch, 5 s at most. HostUnavailable if it does not in that time: then it never runs. The
    /// path is of no object here.
    /// request-id s: a repeated launch with the same id and the same parameters returns the
    /// first one's runner; with other parameters it is a Conflict. Descriptors of a repeated
    /// launch are closed: the first one's streams stay as they are.
    #[zbus(out_args("runner", "path"))]
    async fn launch(
        &self,
        #[zbus(header)] header: Header<'_>,
        project: &str,
        command: Vec<String>,
        options: Options,
    ) -> Result<(String, OwnedObjectPath)> {
        let call = self.0.enter(&header).await?;
        let id = self.0.launch(call, project, command, &options).await?;
        Ok((id.to_string(), tree::runner_path(id)))
    }

    /// Tells for every gate of such a launch how it stands, with its numbers: name, subject,
    /// limit, used, reserved, requested, open, note, message. Nothing is launched. Where one is shut,
    /// queue-length tells whether the launch could wait.
    #[zbus(out_args("admitted", "gates"))]
    async fn explain(
        &self,
        #[zbus(header)] header: Header<'_>,
        project: &str,
        command: Vec<String>,
        options: Options,
    ) -> Result<(bool, Vec<Dict>)> {
        let call = self.0.enter(&header).await?;
        let gates = self.0.explain(&call, project, command, &options).await?;
        let admitted = gates.iter().all(|g| g.open());
        Ok((admitted, gates.iter().map(convert::gate).collect()))
    }

    /// Stops a runner: the stop signal to its whole tree, SIGKILL after the stop timeout.
    /// Returns once "stopping" is recorded; RunnerEnded tells when it is over. One that waits for
    /// its turn leaves the queue: it has ended then, its cause is "cancelled".
    async fn stop(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.stop(call, runner, &options).await
    }

    /// Sends a signal to every process of a runner. One that waits for its turn leaves the queue at
    /// SIGHUP, SIGINT, SIGQUIT, SIGKILL and SIGTERM; others are refused.
    async fn kill(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
        signal: i32,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.kill(call, runner, signal, &options).await
    }

    /// Freezes a runner; returns when all its processes stand still.
    async fn freeze(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.freeze(call, runner, &options).await
    }

    /// Thaws a frozen runner. While a hold or budget wants it frozen that is refused.
    async fn thaw(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.thaw(call, runner, &options).await
    }

    /// Gives a live runner new values for some limits, with the keys of Launch; the others stay. What
    /// its host does not hold of them, where the configuration allows that, Describe tells: warnings.
    async fn set_limits(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
        limits: Options,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.set_limits(call, runner, &limits, &options).await
    }

    /// Everything about a runner, live or ended, by id, unique prefix of the id, or name:
    /// id, name, project, host, user, uid, state, unit, created_at, started_at, ended_at
    /// (microseconds since 1970), session, priority, tokens (asked for), limits, exit, usage,
    /// token_usage (reported, by kind, and reserved), frozen_by (a hold or budget), invocation_id,
    /// warnings; placed (host, name, uid, user: who asked for it on which other host); of one that
    /// waits for its turn, gates as by Explain, of which queue has the number
    /// of those that come before it; and command, labels, working_directory and the full message of
    /// exit for its owner, root, and whoever may view it: polkit may ask for a password for that, if
    /// the message allows interactive
    /// authorization. What does not apply is left out.
    #[zbus(out_args("description"))]
    async fn describe(&self, #[zbus(header)] header: Header<'_>, runner: &str) -> Result<Dict> {
        let call = self.0.enter(&header).await?;
        self.0.describe(call, runner).await
    }

    /// The object of a live runner.
    #[zbus(out_args("path"))]
    async fn get_runner(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
    ) -> Result<OwnedObjectPath> {
        let _call = self.0.enter(&header).await?;
        let runner = self.0.engine().resolve(runner).await?;
        match runner.state().is_live() {
            true => Ok(tree::runner_path(runner.id)),
            false => Err(tree::not_live(runner.id, runner.state()).into()),
        }
    }

    /// A page of runners, newest first, described as by Describe but without current usage.
    ///
    /// Filter, all optional and all holding at once: project s; state s or as, live ones
    /// without it; all b, also ended ones; label a{ss}; uid s or u; name s; host s
    /// (its id, name or a prefix of its id); since and until t;
    /// limit u, 100 without it, 1000 at most; after s, the last id of the page before.
    /// With usage b, live ones come with what they have used up to now.
    #[zbus(out_args("runners"))]
    async fn list_runners(
        &self,
        #[zbus(header)] header: Header<'_>,
        filter: Options,
    ) -> Result<Vec<Dict>> {
        let call = self.0.enter(&header).await?;
        self.0.list_runners(call, &filter).await
    }
}
