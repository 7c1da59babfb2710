//! Methods of `org.stratavore1.Manager` about notifications.

use crate::api::convert::Dict;
use crate::api::core::Core;
use crate::api::errors::Result;
use crate::api::values::Options;
use zbus::interface;
use zbus::message::Header;

/// This block of the interface.
#[derive(Debug)]
pub(in crate::api) struct Notify(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Notify {
    /// The notification rules of this host's stratavored.toml by name, for whoever may manage the host:
    /// name, to (scheme and host of the receiver, no more; missing = not known), format, signed b,
    /// types, projects, causes, percent, repeat (microseconds), per_hour, as configured; and since the
    /// start of the daemon: state (ok, or failing: the last try failed), sent, failed (given up), dropped
    /// (too many waited), waiting, last_sent, last_failure and last_failure_message.
    #[zbus(out_args("rules"))]
    async fn list_notifications(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let call = self.0.enter(&header).await?;
        self.0.list_notifications(call).await
    }

    /// Posts a test message by a rule at once, with one try: sent b, message s (why not), took t
    /// (microseconds).
    #[zbus(out_args("result"))]
    async fn test_notification(
        &self,
        #[zbus(header)] header: Header<'_>,
        rule: &str,
        options: Options,
    ) -> Result<Dict> {
        let call = self.0.enter(&header).await?;
        self.0.test_notification(call, rule, &options).await
    }

    /// "ok"; "failing": the last try of some rule failed; "unconfigured": there is no rule.
    #[zbus(property(emits_changed_signal = "false"))]
    fn notifications(&self) -> String {
        self.0.notifications().to_owned()
    }
}
