//! Who a host is when it joins its fleet, and its last word when it is shut down ([`super::lease`] does the rest).

use super::Shared;
use crate::domain::host::{self, Registration};
use crate::ports::StoreError;
use std::time::Duration;

impl super::Engine {
    /// The host is being shut down: its next boot need not wait until the lease has run out. What can't be said within
    /// this time is left, and the next boot waits.
    pub async fn end_boot(&self, within: Duration) {
        let shared = &self.0;
        let writer = shared.lease.with(|known| known.writer.clone());
        let Some(writer) = writer.filter(|_| !shared.settings.sole_host) else {
            return;
        };
        match tokio::time::timeout(within, shared.store.end_boot(&writer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "The next boot waits for the end of the lease")
            }
            Err(_) => tracing::debug!("The next boot waits for the end of the lease"),
        }
    }
}

impl Shared {
    /// What it brings along when it joins.
    pub(super) fn registration(&self) -> Registration {
        let fleet = &self.settings.fleet;
        Registration {
            host: self.settings.host.clone(),
            name: self.settings.host_name.clone(),
            boot_id: fleet.boot_id.clone(),
            labels: fleet.labels.clone(),
            max_runners: self.terms().host_max,
            version: fleet.version.clone(),
            advertise: fleet.advertise.clone(),
        }
    }

    /// Who was kept out before is not the next boot of the host that has a lease.
    pub(super) async fn refuse_kept_out(&self, new: &Registration) -> Result<(), StoreError> {
        if self.lease.with(|known| known.refused.is_none()) {
            return Ok(());
        }
        let (now, hosts) = self.store.hosts().await?;
        let known = hosts.iter().find(|known| known.about.host == new.host);
        known.map_or(Ok(()), |known| {
            host::refuse_living(known, new, now).map_err(StoreError::Refused)
        })
    }
}
