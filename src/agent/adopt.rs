//! Adoption: an agent that has just started takes over what the one before has left.

use super::hub::{Agent, Phase, Runner, lock};
use super::log;
use super::shim::{self, Found};
use crate::crash::point;
use crate::domain::RunnerId;
use crate::domain::kinds;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Shims asked at a time.
const AT_A_TIME: usize = 64;
/// How long a shim may take to say how it is.
const STATE: Duration = Duration::from_secs(2);

impl Agent {
    /// Takes over every runner that is alive; stops every scope that has no shim.
    pub(super) async fn adopt(self: &Arc<Self>) -> io::Result<()> {
        point("agent.adopting");
        let mut found: BTreeMap<RunnerId, Option<String>> = self
            .cgroups
            .scan()?
            .into_iter()
            .map(|(id, cgroup)| (id, Some(cgroup)))
            .collect();
        for id in self.socket_ids()? {
            found.entry(id).or_insert(None);
        }
        for id in self.exits.unfinished() {
            // Of a shim that was killed: nobody will finish it.
            if !found.contains_key(&id) {
                self.exits.drop_unfinished(id);
            }
        }
        if let Ok(credentials) = &self.credentials {
            for id in credentials.ids()? {
                if !found.contains_key(&id) {
                    credentials.remove(id);
                }
            }
        }
        let all = found.len();
        let each = found
            .into_iter()
            .map(|(id, cgroup)| self.adopt_one(id, cgroup));
        let adopted: Vec<bool> = futures_util::stream::iter(each)
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        if all > 0 {
            let alive = adopted.into_iter().filter(|alive| *alive).count();
            log::info(
                kinds::ADOPTED,
                format_args!("Adopted {alive} runners of {all} found."),
            );
        }
        Ok(())
    }

    async fn adopt_one(self: &Arc<Self>, id: RunnerId, cgroup: Option<String>) -> bool {
        let found = shim::connect(self.sockets.as_fd(), id);
        let Some(cgroup) = cgroup else {
            // A socket without a scope: a launch that came to nothing, or an ended runner's.
            if matches!(found, Ok(Found::Nobody)) {
                self.sweep(id);
            }
            return false;
        };
        let runner = Runner::new(id, cgroup, 0, Phase::Opened);
        lock(&self.runners).insert(id, runner.clone());
        match found {
            Ok(Found::Alive(link)) => {
                let frozen = self.cgroups.frozen(&runner.cgroup);
                self.listen(&runner, link);
                if !frozen {
                    runner.has_spoken(STATE).await;
                }
                true
            }
            // An error is ours (descriptors, memory) and says nothing about the shim.
            Ok(Found::Busy) | Err(_) => {
                self.listen_later(&runner);
                true
            }
            Ok(Found::Nobody) => {
                if matches!(self.exits.record(id), Ok(Some(_))) {
                    runner.becomes(Phase::Ended);
                }
                let agent = self.clone();
                tokio::spawn(async move { agent.lost(&runner).await });
                false
            }
        }
    }

    /// Connects as soon as a shim takes connections again.
    fn listen_later(self: &Arc<Self>, runner: &Arc<Runner>) {
        let (agent, runner) = (self.clone(), runner.clone());
        tokio::spawn(async move {
            match agent.reach(&runner).await {
                Found::Alive(link) => agent.listen(&runner, link),
                _ => agent.lost(&runner).await,
            }
        });
    }
}
