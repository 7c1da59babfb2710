//! The hosts of the port: each method hands its request to the writer or asks a reader.

use super::{Base, SqlStore, gone, hosts};
use crate::domain::Timestamp;
use crate::domain::event::{Actor, Event};
use crate::domain::host::{Host, Registration};
use crate::ports::{Beat, FleetState, Hosts, StoreError, Writer};
use async_trait::async_trait;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Ends what a host that was given up held, a part after the other. Who is cut off here leaves the
/// rest to the next [`Hosts::tidy`] of anybody.
async fn give_back<B: Base>(
    store: &SqlStore<B>,
    host: String,
    actor: Actor,
) -> Result<Vec<Event>, StoreError> {
    let mut events = Vec::new();
    let mut after = String::new();
    loop {
        let work = gone::GiveBack {
            host: host.clone(),
            actor: actor.clone(),
            after,
        };
        let (ended, last) = store.write(work).await?;
        events.extend(ended);
        match last {
            Some(last) => after = last,
            None => break,
        }
    }
    // It is not tried again and again, with everybody waiting for the fleet's lock.
    let left = store.read(async |on| gone::still_holds(on, &host).await);
    if let Ok(Some(epoch)) = left.await {
        store.hopeless().insert((host, epoch));
    }
    Ok(events)
}

#[async_trait]
impl<B: Base> Hosts for SqlStore<B> {
    async fn fleet(&self) -> Result<FleetState, StoreError> {
        self.read(async |on| hosts::fleet(on).await).await
    }

    async fn set_fleet_max(&self, max: Option<u32>, actor: Actor) -> Result<Event, StoreError> {
        self.write(hosts::SetFleetMax(max, actor)).await
    }

    async fn join(
        &self,
        new: Registration,
        beat: Beat,
    ) -> Result<(Writer, Vec<Event>), StoreError> {
        let join = hosts::Join {
            new,
            beat,
            publishes: self.publishes.load(Ordering::Acquire),
        };
        let (writer, events) = self.write(join).await?;
        let mut identity = self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *identity = Some(writer.clone());
        drop(identity);
        Ok((writer, events))
    }

    async fn renew(&self, writer: &Writer, beat: Beat) -> Result<Vec<Event>, StoreError> {
        let writer = writer.clone();
        self.write(hosts::Renew { writer, beat }).await
    }

    async fn end_boot(&self, writer: &Writer) -> Result<(), StoreError> {
        self.write(hosts::EndBoot(writer.clone())).await
    }

    async fn hosts(&self) -> Result<(Timestamp, Vec<Host>), StoreError> {
        self.read(async |on| hosts::all(on).await).await
    }

    async fn cordon(
        &self,
        host: &str,
        reason: String,
        drain: Option<u64>,
        actor: Actor,
    ) -> Result<Event, StoreError> {
        let cordon = hosts::SetCordon {
            host: host.to_owned(),
            reason,
            drain,
            actor,
        };
        self.write(cordon).await
    }

    async fn uncordon(&self, host: &str, actor: Actor) -> Result<Option<Event>, StoreError> {
        let host = host.to_owned();
        self.write(hosts::Uncordon { host, actor }).await
    }

    async fn forget(&self, host: &str, actor: Actor) -> Result<Vec<Event>, StoreError> {
        let host = host.to_owned();
        let forget = gone::Forget {
            host: host.clone(),
            actor: actor.clone(),
        };
        let mut events = self.write(forget).await?;
        events.extend(give_back(self, host, actor).await?);
        Ok(events)
    }

    async fn tidy(&self, lost_after: u64) -> Result<Vec<Event>, StoreError> {
        let hopeless = self.hopeless().clone();
        if !self
            .read(async |on| gone::is_untidy(on, lost_after, &hopeless).await)
            .await?
        {
            return Ok(Vec::new());
        }
        let (mut events, gone) = self.write(gone::Tidy { lost_after }).await?;
        for host in gone {
            events.extend(give_back(self, host, Actor::host()).await?);
        }
        Ok(events)
    }
}
