//! Methods of `org.stratavore1.Manager` about the hosts and the fleet as a whole.

use crate::api::convert::Dict;
use crate::api::core::Core;
use crate::api::errors::Result;
use crate::api::values::Options;
use zbus::interface;
use zbus::message::Header;

/// This block of the interface.
#[derive(Debug)]
pub(in crate::api) struct Hosts(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Hosts {
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
    /// ready (it has its agent, and knows what runs), live, queued, max_runners (if it has a cap), cordon (reason, actor, at, drain_until; if it
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
}
