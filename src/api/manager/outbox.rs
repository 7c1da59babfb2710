//! Methods of `org.stratavore1.Manager` about the events that are still to be published.

use crate::api::convert::Dict;
use crate::api::core::Core;
use crate::api::errors::Result;
use crate::api::values::Options;
use zbus::interface;
use zbus::message::Header;

/// This block of the interface.
#[derive(Debug)]
pub(in crate::api) struct Outbox(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Outbox {
    /// How this host's outbox stands: broker (as the property Broker), why (what is wrong with it),
    /// blocked b (it is there and takes nothing), refused (events in hand that it does not take: a queue
    /// is full), published (since the start of stratavored), and as it was a few seconds ago pending, parked,
    /// oldest (when the oldest event happened that is to be published). Without a broker only broker
    /// is told; where they are not known, no counts. No options yet.
    #[zbus(out_args("outbox"))]
    async fn describe_outbox(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Options,
    ) -> Result<Dict> {
        let _call = self.0.enter(&header).await?;
        self.0.describe_outbox(&options).await
    }

    /// A page of this host's events that are still to be published, oldest first: as ListEvents tells
    /// them, with source (the host that wrote it), epoch, behind (the last event of its subject before it
    /// that is still to be published, if there is one) and parked (why: unroutable, no queue is bound for
    /// it; or follows, an event of its subject before it is parked). Filter: parked b, the parked ones instead;
    /// after t, a seq; limit t, 100 for 0 and 1000 at most.
    #[zbus(out_args("events"))]
    async fn list_outbox(
        &self,
        #[zbus(header)] header: Header<'_>,
        filter: Options,
    ) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_outbox(&filter).await
    }

    /// Has this host's parked events published after all, for those who may manage the host; returns how
    /// many there were. What nobody wants still is parked again. Option: project s, those of one
    /// project alone.
    #[zbus(out_args("events"))]
    async fn retry_outbox(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Options,
    ) -> Result<u64> {
        let call = self.0.enter(&header).await?;
        self.0.retry_outbox(call, &options).await
    }
}
