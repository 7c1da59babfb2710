//! `org.stratavore1.Manager`: the interface and its documentation. The comments become the
//! introspection's, so two hyphens may not stand together in them.

use super::convert::Dict;
use super::core::Core;
use super::errors::Result;
use super::tree;
use super::values::Options;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{OwnedFd, OwnedObjectPath, interface};

/// The object at `/org/stratavore1`.
#[derive(Debug)]
pub(super) struct Manager(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Manager {
    /// Launches a command as a runner of a project and returns when it has been exec'd, or, with
    /// queue, when it waits. The path is that of its object, which is there while it is live.
    ///
    /// Options, all of them optional. Sizes, times and numbers of type t may also be an s in
    /// systemd's notation ("1G", "200%", "1h 30min"), and the highest t means infinity.
    ///
    /// name s: a name to use instead of the id, not unique.
    /// uid s: the user to run as, by name or number; without it, the caller's.
    /// working-directory s: an absolute path; without it, the user's home.
    /// setenv as: NAME=VALUE; values are never stored, shown or logged.
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
        Ok((admitted, gates.iter().map(super::convert::gate).collect()))
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

    /// Gives a live runner new values for some limits, with the keys of Launch; the others stay.
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
    /// warnings; of one that waits for its turn, gates as by Explain, of which queue has the number
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

    /// Makes a project. Settings: description s; max-runners u, the most live runners at a
    /// time; max-queued u, the most that wait for their turn, 1000 without it; default-tokens t, what a
    /// launch reserves of budgets that does not say; and as limits of its slice, shared by all its runners: memory-max, memory-high,
    /// memory-swap-max, cpu-quota, cpu-weight, io-weight, tasks-max.
    #[zbus(out_args("path"))]
    async fn create_project(
        &self,
        #[zbus(header)] header: Header<'_>,
        name: &str,
        settings: Options,
    ) -> Result<OwnedObjectPath> {
        let call = self.0.enter(&header).await?;
        let name = self.0.create_project(call, name, &settings).await?;
        Ok(tree::project_path(&name))
    }

    /// Changes some settings of a project; limits take effect at once. "infinity" lifts one.
    async fn set_project(
        &self,
        #[zbus(header)] header: Header<'_>,
        name: &str,
        settings: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.set_project(call, name, &settings).await
    }

    /// Removes a project without live runners.
    async fn remove_project(
        &self,
        #[zbus(header)] header: Header<'_>,
        name: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.remove_project(call, name, &options).await
    }

    /// All projects by name: name, description, max_runners, max_queued, default_tokens, live, queued,
    /// limits, slice, created_at.
    #[zbus(out_args("projects"))]
    async fn list_projects(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_projects().await
    }

    /// Sets a hold: nothing new starts that it is about, until it ends by itself or is released.
    /// There is one for each scope; this one takes its place.
    ///
    /// The scope is fleet, project:NAME or label:KEY=VALUE. Options, all optional: until t,
    /// microseconds since 1970; freeze b, what runs is frozen on every host, and goes on by itself
    /// when the hold is over; reason s, one line for people, shown to everybody.
    async fn set_hold(
        &self,
        #[zbus(header)] header: Header<'_>,
        scope: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.set_hold(call, scope, &options).await
    }

    /// Ends a hold now.
    async fn release_hold(
        &self,
        #[zbus(header)] header: Header<'_>,
        scope: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.release_hold(call, scope, &options).await
    }

    /// All holds in force, by scope: scope, until (if it ends by itself), freeze, reason, set_at, actor.
    #[zbus(out_args("holds"))]
    async fn list_holds(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_holds().await
    }

    /// All hosts as places for a launch, the best first: host, name, fits b, why (what speaks for and
    /// against it, or why it would refuse). Nothing is launched or kept free.
    ///
    /// Options, all optional: label a{ss}, labels the host must have; memory-max t or s, what the
    /// launch will ask for.
    #[zbus(out_args("places"))]
    async fn rank_hosts(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Options,
    ) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.rank_hosts(&options).await
    }

    /// All hosts that have ever joined, by name: id, name, local (whether it is this one), state,
    /// live, queued, max_runners (if it has a cap), cordon (reason, actor, at, drain_until; if it
    /// has one), lease_remaining (microseconds; the highest t means for ever), version, labels,
    /// advertise, boot_id, epoch, joined_at, renewed_at, fenced_after (if its runners stop by
    /// themselves so many microseconds after it was cut off), cpus, memory_total, memory_promised.
    ///
    /// The state is up; unreachable: its lease has run out, and what it held stays charged; lost:
    /// nothing of it runs any more, what it held was given back; or left: it was forgotten.
    #[zbus(out_args("hosts"))]
    async fn list_hosts(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_hosts().await
    }

    /// Has nothing new start on a host (id, name or a unique prefix of the id); what runs goes on,
    /// what waits there goes on waiting. In place of a cordon that it has. Option: reason s, one
    /// line for people, shown to everybody.
    async fn cordon_host(
        &self,
        #[zbus(header)] header: Header<'_>,
        host: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.cordon_host(call, host, &options).await
    }

    /// Lets a host take new runners again; a drain ends.
    async fn uncordon_host(
        &self,
        #[zbus(header)] header: Header<'_>,
        host: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.uncordon_host(call, host, &options).await
    }

    /// Cordons a host and has it stop all its runners, as Stop does; returns at once, ListHosts
    /// tells how many live still. A host that is away does it when it is back.
    ///
    /// Options, all optional: deadline t, so many microseconds (or an s such as "10min") are they
    /// given to end by themselves before; reason s, as for CordonHost.
    async fn drain_host(
        &self,
        #[zbus(header)] header: Header<'_>,
        host: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.drain_host(call, host, &options).await
    }

    /// The caller's word that nothing of a host runs any more and that it does not come back: its
    /// runners, those that wait too, end as host-lost, and what they held is given to others. It
    /// is refused while the host's lease holds. Returns how many have ended.
    #[zbus(out_args("ended"))]
    async fn forget_host(
        &self,
        #[zbus(header)] header: Header<'_>,
        host: &str,
        options: Options,
    ) -> Result<u32> {
        let call = self.0.enter(&header).await?;
        self.0.forget_host(call, host, &options).await
    }

    /// How the fleet as a whole stands: max_runners (if it has a cap), live, queued, hosts (how
    /// many are in each state).
    #[zbus(out_args("fleet"))]
    async fn describe_fleet(&self, #[zbus(header)] header: Header<'_>) -> Result<Dict> {
        let _call = self.0.enter(&header).await?;
        self.0.describe_fleet().await
    }

    /// Sets what holds for all hosts together: max-runners u, the most live runners of all
    /// projects at a time; "infinity" lifts it.
    async fn set_fleet(&self, #[zbus(header)] header: Header<'_>, settings: Options) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.set_fleet(call, &settings).await
    }

    /// Sets a budget: a cap on the tokens that its runners use in a period, on all hosts together.
    /// A launch reserves what it may use in every budget it belongs to and is refused where that
    /// does not fit. Scope and period are the budget's name: what is there is changed, its use stays.
    ///
    /// The scope is fleet, project:NAME or session:NAME; the period hour, day, week, month or none.
    /// Settings, those not given stay as they are: limit t, tokens, or an s such as "2M" (powers of
    /// 1000), needed for a new budget; timezone s, on whose clock periods begin, "UTC" for a new one;
    /// on-exhausted s, what happens to running work when it is used up: deny (it goes on, which a
    /// new one has), freeze or stop; count s, which tokens count, with commas between them: input,
    /// output, cache-read, cache-write; all of them for a new one.
    async fn set_budget(
        &self,
        #[zbus(header)] header: Header<'_>,
        scope: &str,
        period: &str,
        settings: Options,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0
            .set_budget(call, scope, period, &settings, &options)
            .await
    }

    /// Removes a budget; what it froze goes on.
    async fn remove_budget(
        &self,
        #[zbus(header)] header: Header<'_>,
        scope: &str,
        period: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.remove_budget(call, scope, period, &options).await
    }

    /// All budgets in their present period, by scope and period: scope, period, limit, used,
    /// reserved (what live runners may still use), overrun (how much of used went past the
    /// reservations of its runners), timezone, on_exhausted, count, told (the thresholds reached in
    /// this period: 50, 80, 100, exceeded), period_start, period_end (unless it never ends), created_at.
    #[zbus(out_args("budgets"))]
    async fn list_budgets(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_budgets().await
    }

    /// Tells what a runner has used of a model, in tokens since it began: totals, which only grow.
    /// The larger number counts, so a report may come twice, late, or without some of the counters.
    /// All its budgets are charged at once. Returns the runner's id.
    ///
    /// Usage, at least one of: input t, output t, cache-read t, cache-write t; or s, such as "12k".
    /// A runner reports for itself alone: the caller is found by its process, which is in the runner's
    /// scope, and an empty runner means that one. Whoever else reports needs report-usage.
    #[zbus(out_args("id"))]
    async fn report_usage(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
        usage: Options,
        options: Options,
    ) -> Result<String> {
        let call = self.0.enter(&header).await?;
        let id = self.0.report_usage(call, runner, &usage, &options).await?;
        Ok(id.to_string())
    }

    /// A page of events, oldest first, that come after a position (0 = from the beginning):
    /// seq (the position), type, project, subject, runnerseq, time, actor, data.
    /// Filter: project s, runner s, type s; newest b, the last ones that fit instead of the
    /// first. The limit is 100 for 0, and 1000 at most.
    #[zbus(out_args("events"))]
    async fn list_events(
        &self,
        #[zbus(header)] header: Header<'_>,
        after: u64,
        limit: u32,
        filter: Options,
    ) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_events(after, limit, &filter).await
    }

    /// Compares what the store says with what runs on this host, and sets right what differs,
    /// as is done at the start and every minute. Returns what there was to do: runner, step (a
    /// word), message, and exit for an ending. Option: dry-run b, nothing is changed.
    #[zbus(out_args("steps"))]
    async fn reconcile(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Options,
    ) -> Result<Vec<Dict>> {
        let call = self.0.enter(&header).await?;
        self.0.reconcile(call, &options).await
    }

    /// The output of a runner, live or ended, of earlier boots too: a pipe that it can be read
    /// from, for its owner, root, and whoever may view. At the end of the pipe it is complete.
    ///
    /// Options, all optional: lines t, so many last lines (all without it, 10 to follow);
    /// follow b, go on until the runner has ended; output s, one of short, short-iso, cat (the
    /// message alone) and json (the journal's entries), as journalctl has them.
    ///
    /// A log file (log-file-max of Launch) is read as it was written, without times; as json
    /// each line is an object with MESSAGE and STRATAVORE_RUNNER.
    ///
    /// Eight readings of one user at a time.
    #[zbus(out_args("log"))]
    async fn logs(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
        options: Options,
    ) -> Result<OwnedFd> {
        let call = self.0.enter(&header).await?;
        self.0.logs(call, runner, &options).await
    }

    /// The version of stratavored.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        self.0.identity().version.clone()
    }

    /// The id of this host, derived from its machine id.
    #[zbus(property(emits_changed_signal = "const"))]
    fn host_id(&self) -> String {
        self.0.identity().host_id.clone()
    }

    /// The name of this host.
    #[zbus(property(emits_changed_signal = "const"))]
    fn host_name(&self) -> String {
        self.0.identity().host_name.clone()
    }

    /// "ok"; "degraded": not everything is taken over yet; "down": nothing can be launched,
    /// running work goes on.
    #[zbus(property)]
    fn store(&self) -> String {
        self.0.store().to_owned()
    }

    /// "ok", "down" or "unconfigured".
    #[zbus(property)]
    fn broker(&self) -> String {
        "unconfigured".to_owned()
    }

    /// Live runners of this host.
    #[zbus(property)]
    fn live_runners(&self) -> u32 {
        self.0.garden().count()
    }

    /// Queued runners of this host.
    #[zbus(property)]
    fn queued_runners(&self) -> u32 {
        u32::try_from(self.0.engine().queued_count()).unwrap_or(u32::MAX)
    }

    /// A runner has changed its state; "old" is empty for a new one. Details: name, user, host,
    /// time, seq (the position of the event).
    #[zbus(signal)]
    pub(super) async fn runner_state_changed(
        emitter: &SignalEmitter<'_>,
        runner: &str,
        project: &str,
        old: &str,
        new: &str,
        details: Dict,
    ) -> zbus::Result<()>;

    /// A runner has ended. The status is its exit status, else the signal that killed it, else
    /// -1 where nobody knows one. Details: those of RunnerStateChanged, and cause, code,
    /// signal, message, usage; the message is derived from the others.
    #[zbus(signal)]
    pub(super) async fn runner_ended(
        emitter: &SignalEmitter<'_>,
        runner: &str,
        project: &str,
        cause: &str,
        status: i32,
        details: Dict,
    ) -> zbus::Result<()>;
}
