//! What `org.stratavore1.Manager` tells of what happened and how it stands: events, output,
//! properties and signals.

use crate::api::convert::Dict;
use crate::api::core::Core;
use crate::api::errors::Result;
use crate::api::values::Options;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{OwnedFd, interface};

/// This block of the interface.
#[derive(Debug)]
pub(in crate::api) struct Facts(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Facts {
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

    /// "ok"; "degraded": it answers, and nothing can be launched for now all the same, see NotReady;
    /// "down": it does not answer, nothing can be launched, running work goes on.
    #[zbus(property)]
    fn store(&self) -> String {
        self.0.store().to_owned()
    }

    /// "ok"; "down": it is not reached or takes nothing, and events wait for it; or "unconfigured".
    #[zbus(property)]
    fn broker(&self) -> String {
        self.0.broker().to_owned()
    }

    /// The agent that does root's part on this host. state s: "ok", or "away": nothing can be launched,
    /// frozen, thawed, signalled or given limits, and a stop is carried out when it is back.
    /// since t: since when it is away; missing = it was not there since stratavored began.
    #[zbus(property(emits_changed_signal = "false"))]
    fn agent(&self) -> Dict {
        self.0.agent()
    }

    /// What keeps this host from launching just now, a few words each; empty = nothing does.
    #[zbus(property(emits_changed_signal = "false"))]
    fn not_ready(&self) -> Vec<String> {
        self.0.engine().health().borrow().lacking()
    }

    /// This host's place in its fleet, known without the store; empty where there is no fleet.
    /// epoch t and joined_at t: since when it is in it; missing = it has not joined, or was given up.
    /// remaining t: how long its lease still holds, in microseconds; at 0 nothing is launched here.
    /// self_fence s: "off", "armed" or "not-armed", and why not in self_fence_note s.
    /// stops_in t: after how many microseconds running work stops by itself unless store and
    /// agent are reached before; missing = never.
    #[zbus(property(emits_changed_signal = "false"))]
    fn lease(&self) -> Dict {
        self.0.lease()
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
    pub(in crate::api) async fn runner_state_changed(
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
    pub(in crate::api) async fn runner_ended(
        emitter: &SignalEmitter<'_>,
        runner: &str,
        project: &str,
        cause: &str,
        status: i32,
        details: Dict,
    ) -> zbus::Result<()>;
}
