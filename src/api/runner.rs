//! `org.stratavore1.Runner`: a live runner as an object.

use super::convert::{self, Dict};
use super::core::Core;
use super::errors::Result;
use super::values::Options;
use crate::domain::{Runner, RunnerId};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use zbus::interface;
use zbus::message::Header;

/// A property getter waits no longer for the agent.
const USAGE_MAX: Duration = Duration::from_millis(200);

/// The runner as it was when its last signal was emitted: properties and signals agree.
pub(super) type Shown = Arc<RwLock<Arc<Runner>>>;

/// The object of one runner.
#[derive(Debug)]
pub(super) struct RunnerObject {
    pub(super) core: Core,
    pub(super) id: RunnerId,
    pub(super) shown: Shown,
}

/// What is shown now.
pub(super) fn now(shown: &Shown) -> Arc<Runner> {
    Arc::clone(&shown.read().unwrap_or_else(PoisonError::into_inner))
}

/// The properties that everybody may read and that are signalled when they change.
pub(super) fn properties(runner: &Runner) -> Dict {
    let mut dict = Dict::new();
    let spec = &runner.spec;
    let placement = runner.placement.as_ref();
    let invocation = placement.map_or_else(Vec::new, |p| convert::id_bytes(&p.invocation_id));
    let exit = ending(runner);
    convert::put(&mut dict, "Id", runner.id.to_string());
    convert::put(&mut dict, "Name", spec.name.clone().unwrap_or_default());
    convert::put(&mut dict, "Project", spec.project.to_string());
    convert::put(&mut dict, "Host", runner.host.clone());
    convert::put(&mut dict, "User", spec.user.clone());
    convert::put(&mut dict, "State", runner.state().as_str());
    convert::put(&mut dict, "Unit", runner.id.unit());
    convert::put(&mut dict, "InvocationID", invocation);
    convert::put(&mut dict, "Limits", convert::limits(&spec.limits));
    convert::put(&mut dict, "Exit", exit);
    convert::put(
        &mut dict,
        "Session",
        spec.session.clone().unwrap_or_default(),
    );
    convert::put(&mut dict, "Priority", spec.priority);
    convert::put(&mut dict, "CreatedAt", runner.created_at.0);
    convert::put(&mut dict, "StartedAt", runner.started_at.0);
    convert::put(&mut dict, "EndedAt", runner.ended_at.0);
    dict
}

/// What everybody may know of its ending.
fn ending(runner: &Runner) -> Dict {
    let exit = runner.exit.as_ref().map(|e| convert::exit(&e.public()));
    exit.unwrap_or_default()
}

impl RunnerObject {
    /// The runner, if the reader may see its private part: nothing but the caller's uid is
    /// waited for here, see [`super`].
    async fn private(&self, header: Option<&Header<'_>>) -> Option<Arc<Runner>> {
        let runner = now(&self.shown);
        let owns = self.core.owns(header, runner.spec.uid).await;
        owns.then_some(runner)
    }
}

#[interface(name = "org.stratavore1.Runner")]
impl RunnerObject {
    /// As Stop of the Manager.
    async fn stop(&self, #[zbus(header)] header: Header<'_>, options: Options) -> Result<()> {
        let call = self.core.enter(&header).await?;
        self.core.stop(call, &self.id.to_string(), &options).await
    }

    /// As Kill of the Manager.
    async fn kill(
        &self,
        #[zbus(header)] header: Header<'_>,
        signal: i32,
        options: Options,
    ) -> Result<()> {
        let call = self.core.enter(&header).await?;
        let id = self.id.to_string();
        self.core.kill(call, &id, signal, &options).await
    }

    /// As Freeze of the Manager.
    async fn freeze(&self, #[zbus(header)] header: Header<'_>, options: Options) -> Result<()> {
        let call = self.core.enter(&header).await?;
        self.core.freeze(call, &self.id.to_string(), &options).await
    }

    /// As Thaw of the Manager.
    async fn thaw(&self, #[zbus(header)] header: Header<'_>, options: Options) -> Result<()> {
        let call = self.core.enter(&header).await?;
        self.core.thaw(call, &self.id.to_string(), &options).await
    }

    /// As SetLimits of the Manager.
    async fn set_limits(
        &self,
        #[zbus(header)] header: Header<'_>,
        limits: Options,
        options: Options,
    ) -> Result<()> {
        let call = self.core.enter(&header).await?;
        let id = self.id.to_string();
        self.core.set_limits(call, &id, &limits, &options).await
    }

    /// Its id.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        self.id.to_string()
    }

    /// Its name; empty if it has none.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        now(&self.shown).spec.name.clone().unwrap_or_default()
    }

    /// Its project.
    #[zbus(property(emits_changed_signal = "const"))]
    fn project(&self) -> String {
        now(&self.shown).spec.project.to_string()
    }

    /// The id of its host.
    #[zbus(property(emits_changed_signal = "const"))]
    fn host(&self) -> String {
        now(&self.shown).host.clone()
    }

    /// The user it runs as.
    #[zbus(property(emits_changed_signal = "const"))]
    fn user(&self) -> String {
        now(&self.shown).spec.user.clone()
    }

    /// starting, running, frozen, stopping or ended.
    #[zbus(property)]
    fn state(&self) -> String {
        now(&self.shown).state().as_str().to_owned()
    }

    /// Its command with all arguments. Empty for others than its user and root: Describe of
    /// the Manager asks polkit for them. As it depends on who reads it, it is neither in
    /// InterfacesAdded nor in GetManagedObjects.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn command(&self, #[zbus(header)] header: Option<Header<'_>>) -> Vec<String> {
        let runner = self.private(header.as_ref()).await;
        runner.map(|r| r.spec.command.clone()).unwrap_or_default()
    }

    /// Its systemd unit.
    #[zbus(property(emits_changed_signal = "const"))]
    fn unit(&self) -> String {
        self.id.unit()
    }

    /// systemd's invocation id of the unit; empty while it is starting.
    #[zbus(property, name = "InvocationID")]
    fn invocation_id(&self) -> Vec<u8> {
        let runner = now(&self.shown);
        let placement = runner.placement.as_ref();
        placement.map_or_else(Vec::new, |p| convert::id_bytes(&p.invocation_id))
    }

    /// Its limits, with the keys and types of Launch.
    #[zbus(property)]
    fn limits(&self) -> Dict {
        convert::limits(&now(&self.shown).spec.limits)
    }

    /// How it ended: cause, code, signal, message. Empty while it lives. The message is derived
    /// from the rest; Describe of the Manager tells more to those who may view the runner.
    #[zbus(property)]
    fn exit(&self) -> Dict {
        ending(&now(&self.shown))
    }

    /// What its whole tree has used: cpu_usec, memory_peak_bytes, io_read_bytes,
    /// io_write_bytes, tasks_peak, oom_kills, and just now memory_bytes and tasks, as far as this
    /// kernel counts it; tokens_in and tokens_out, as reported. It is neither in InterfacesAdded nor
    /// in GetManagedObjects.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn usage(&self, #[zbus(header)] header: Option<Header<'_>>) -> Dict {
        if header.is_none() {
            return Dict::new();
        }
        let runner = now(&self.shown);
        let usage = tokio::time::timeout(USAGE_MAX, self.core.usage(&runner)).await;
        usage
            .map(|u| convert::usage(&runner, &u))
            .unwrap_or_default()
    }

    /// Its labels. Empty for others than its user and root, and not in InterfacesAdded and
    /// GetManagedObjects, as Command.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn labels(&self, #[zbus(header)] header: Option<Header<'_>>) -> BTreeMap<String, String> {
        let runner = self.private(header.as_ref()).await;
        runner.map(|r| r.spec.labels.clone()).unwrap_or_default()
    }

    /// The session it belongs to; empty if there is none.
    #[zbus(property(emits_changed_signal = "const"))]
    fn session(&self) -> String {
        String::new()
    }

    /// Its priority.
    #[zbus(property(emits_changed_signal = "const"))]
    fn priority(&self) -> i32 {
        0
    }

    /// When it was admitted, in microseconds since 1970.
    #[zbus(property(emits_changed_signal = "const"))]
    fn created_at(&self) -> u64 {
        now(&self.shown).created_at.0
    }

    /// When it became running; 0 = not yet.
    #[zbus(property)]
    fn started_at(&self) -> u64 {
        now(&self.shown).started_at.0
    }

    /// When it ended; 0 = not yet.
    #[zbus(property)]
    fn ended_at(&self) -> u64 {
        now(&self.shown).ended_at.0
    }
}
