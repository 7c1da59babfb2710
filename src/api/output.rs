//! The output of a runner.

use super::auth::Verb;
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::Options;
use crate::domain::{Error, ErrorKind};
use zbus::OwnedFd;

impl Core {
    /// The reading end of a pipe with a runner's output.
    pub(super) async fn logs(
        &self,
        call: Call<'_>,
        runner: &str,
        options: &Options,
    ) -> Result<OwnedFd> {
        let request = options::logs(options)?;
        let runner = self.engine().resolve(runner).await?;
        let owner = self.owner_here(&runner).await;
        self.authorise(&call, Verb::View { owner }, self.details(&runner, owner))
            .await?;
        if self.engine().is_peers(&runner) {
            let host = self.engine().host_name(&runner.host).await;
            let message = format!(
                "Runner {0} is one of host {host}, and its output is there: stratavorectl -H {host} logs {0}",
                runner.id
            );
            return Err(Error::new(ErrorKind::HostUnavailable, message).into());
        }
        let log = self.engine().logs(runner.id, call.uid, request).await?;
        Ok(log.into())
    }
}
