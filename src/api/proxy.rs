//! The client's side, generated: what `stratavorectl` and other Rust programs talk through.

pub use super::convert::Dict;
use std::collections::HashMap;
use zbus::{OwnedFd, OwnedObjectPath, Variant, proxy};

/// Options for a call, `a{sv}`.
pub type Given<'a> = HashMap<&'a str, Variant<'a>>;

/// This host's stratavored.
#[proxy(
    interface = "org.stratavore1.Manager",
    default_service = "org.stratavore1",
    default_path = "/org/stratavore1",
    async_name = "ManagerProxy"
)]
pub trait Manager {
    /// Launches a command as a runner of a project.
    fn launch(
        &self,
        project: &str,
        command: &[&str],
        options: &Given<'_>,
    ) -> zbus::Result<(String, OwnedObjectPath)>;
    /// Tells how every gate of such a launch stands.
    fn explain(
        &self,
        project: &str,
        command: &[&str],
        options: &Given<'_>,
    ) -> zbus::Result<(bool, Vec<Dict>)>;
    /// Stops a runner.
    fn stop(&self, runner: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// Sends a signal to every process of a runner.
    fn kill(&self, runner: &str, signal: i32, options: &Given<'_>) -> zbus::Result<()>;
    /// Freezes a runner.
    fn freeze(&self, runner: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// Thaws a runner.
    fn thaw(&self, runner: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// Gives a runner new limits.
    fn set_limits(&self, runner: &str, limits: &Given<'_>, options: &Given<'_>)
    -> zbus::Result<()>;
    /// Everything about a runner.
    fn describe(&self, runner: &str) -> zbus::Result<Dict>;
    /// The object of a live runner.
    fn get_runner(&self, runner: &str) -> zbus::Result<OwnedObjectPath>;
    /// A page of runners.
    fn list_runners(&self, filter: &Given<'_>) -> zbus::Result<Vec<Dict>>;
    /// Makes a project.
    fn create_project(&self, name: &str, settings: &Given<'_>) -> zbus::Result<OwnedObjectPath>;
    /// Changes a project.
    fn set_project(&self, name: &str, settings: &Given<'_>) -> zbus::Result<()>;
    /// Removes a project.
    fn remove_project(&self, name: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// All projects.
    fn list_projects(&self) -> zbus::Result<Vec<Dict>>;
    /// Sets a hold.
    fn set_hold(&self, scope: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// Ends a hold.
    fn release_hold(&self, scope: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// All holds.
    fn list_holds(&self) -> zbus::Result<Vec<Dict>>;
    /// All hosts as places for a launch.
    fn rank_hosts(&self, options: &Given<'_>) -> zbus::Result<Vec<Dict>>;
    /// All hosts.
    fn list_hosts(&self) -> zbus::Result<Vec<Dict>>;
    /// Has nothing new start on a host.
    fn cordon_host(&self, host: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// Lets it take new runners again.
    fn uncordon_host(&self, host: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// Empties a host.
    fn drain_host(&self, host: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// Gives up a host that is gone.
    fn forget_host(&self, host: &str, options: &Given<'_>) -> zbus::Result<u32>;
    /// How the outbox stands.
    fn describe_outbox(&self, options: &Given<'_>) -> zbus::Result<Dict>;
    /// A page of events that are still to be published.
    fn list_outbox(&self, filter: &Given<'_>) -> zbus::Result<Vec<Dict>>;
    /// Has parked events published after all.
    fn retry_outbox(&self, options: &Given<'_>) -> zbus::Result<u64>;
    /// How the fleet stands.
    fn describe_fleet(&self) -> zbus::Result<Dict>;
    /// Sets the cap of the fleet.
    fn set_fleet(&self, settings: &Given<'_>) -> zbus::Result<()>;
    /// Sets a budget.
    fn set_budget(
        &self,
        scope: &str,
        period: &str,
        settings: &Given<'_>,
        options: &Given<'_>,
    ) -> zbus::Result<()>;
    /// Removes a budget.
    fn remove_budget(&self, scope: &str, period: &str, options: &Given<'_>) -> zbus::Result<()>;
    /// All budgets.
    fn list_budgets(&self) -> zbus::Result<Vec<Dict>>;
    /// Tells what a runner has used of a model.
    fn report_usage(
        &self,
        runner: &str,
        usage: &Given<'_>,
        options: &Given<'_>,
    ) -> zbus::Result<String>;
    /// The output of a runner.
    fn logs(&self, runner: &str, options: &Given<'_>) -> zbus::Result<OwnedFd>;
    /// A page of events.
    fn list_events(&self, after: u64, limit: u32, filter: &Given<'_>) -> zbus::Result<Vec<Dict>>;

    /// Looks at the audit of a host.
    fn verify_audit(&self, host: &str, options: &Given<'_>) -> zbus::Result<Dict>;
    /// The audit of a host as a file.
    fn export_audit(&self, host: &str, options: &Given<'_>) -> zbus::Result<OwnedFd>;

    /// The notification rules.
    fn list_notifications(&self) -> zbus::Result<Vec<Dict>>;
    /// Posts a test message.
    fn test_notification(&self, rule: &str, options: &Given<'_>) -> zbus::Result<Dict>;

    /// Compares rows with what runs, and sets right what differs.
    fn reconcile(&self, options: &Given<'_>) -> zbus::Result<Vec<Dict>>;

    /// How the notification rules fare.
    #[zbus(property(emits_changed_signal = "false"))]
    fn notifications(&self) -> zbus::Result<String>;
    /// The version of stratavored.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;
    /// The id of the host.
    #[zbus(property(emits_changed_signal = "const"))]
    fn host_id(&self) -> zbus::Result<String>;
    /// The name of the host.
    #[zbus(property(emits_changed_signal = "const"))]
    fn host_name(&self) -> zbus::Result<String>;
    /// How the store is.
    #[zbus(property)]
    fn store(&self) -> zbus::Result<String>;
    /// How the broker is.
    #[zbus(property)]
    fn broker(&self) -> zbus::Result<String>;
    /// Whether an audit is kept.
    #[zbus(property(emits_changed_signal = "const"))]
    fn audit(&self) -> zbus::Result<String>;
    /// The agent of the host.
    #[zbus(property(emits_changed_signal = "false"))]
    fn agent(&self) -> zbus::Result<Dict>;
    /// What keeps the host from launching.
    #[zbus(property(emits_changed_signal = "false"))]
    fn not_ready(&self) -> zbus::Result<Vec<String>>;
    /// This host's place in its fleet.
    #[zbus(property(emits_changed_signal = "false"))]
    fn lease(&self) -> zbus::Result<Dict>;
    /// Live runners.
    #[zbus(property)]
    fn live_runners(&self) -> zbus::Result<u32>;
    /// Queued runners.
    #[zbus(property)]
    fn queued_runners(&self) -> zbus::Result<u32>;

    /// A runner has changed its state.
    #[zbus(signal)]
    fn runner_state_changed(
        &self,
        runner: &str,
        project: &str,
        old: &str,
        new: &str,
        details: Dict,
    ) -> zbus::Result<()>;
    /// A runner has ended.
    #[zbus(signal)]
    fn runner_ended(
        &self,
        runner: &str,
        project: &str,
        cause: &str,
        status: i32,
        details: Dict,
    ) -> zbus::Result<()>;
}

/// A live runner.
#[proxy(
    interface = "org.stratavore1.Runner",
    default_service = "org.stratavore1",
    async_name = "RunnerProxy"
)]
pub trait Runner {
    /// Stops it.
    fn stop(&self, options: &Given<'_>) -> zbus::Result<()>;
    /// Sends a signal to every process of it.
    fn kill(&self, signal: i32, options: &Given<'_>) -> zbus::Result<()>;
    /// Freezes it.
    fn freeze(&self, options: &Given<'_>) -> zbus::Result<()>;
    /// Thaws it.
    fn thaw(&self, options: &Given<'_>) -> zbus::Result<()>;
    /// Gives it new limits.
    fn set_limits(&self, limits: &Given<'_>, options: &Given<'_>) -> zbus::Result<()>;

    /// Its id.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> zbus::Result<String>;
    /// Its state.
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    /// Its command.
    #[zbus(property(emits_changed_signal = "false"))]
    fn command(&self) -> zbus::Result<Vec<String>>;
    /// Its unit.
    #[zbus(property(emits_changed_signal = "const"))]
    fn unit(&self) -> zbus::Result<String>;
    /// Its limits.
    #[zbus(property)]
    fn limits(&self) -> zbus::Result<Dict>;
    /// How it ended.
    #[zbus(property)]
    fn exit(&self) -> zbus::Result<Dict>;
    /// What it has used.
    #[zbus(property(emits_changed_signal = "false"))]
    fn usage(&self) -> zbus::Result<Dict>;
}
