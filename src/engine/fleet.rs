//! The other hosts of the fleet: who they are, and who of them is away or lost.

use super::lease::{Membership, usec};
use super::{Engine, Shared, store_error};
use crate::domain::Timestamp;
use crate::domain::event::{Event, EventType};
use crate::domain::host::{Host, Standing};
use crate::domain::kinds;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// An answer about the peers later than this is none.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Hosts of the fleet, as the store had them.
#[derive(Debug, Clone)]
pub struct Peers {
    /// The store's clock then.
    pub now: Timestamp,
    /// All that have ever joined, this one included, by name.
    pub hosts: Vec<Host>,
    /// When that was read.
    pub read: Instant,
}

impl Peers {
    /// How many hosts are in each standing.
    pub fn count(&self) -> BTreeMap<Standing, usize> {
        let mut counts: BTreeMap<_, _> = Standing::ALL.map(|s| (s, 0)).into();
        for host in &self.hosts {
            *counts.entry(host.standing_at(self.now)).or_default() += 1;
        }
        counts
    }
}

impl Engine {
    /// The hosts of the fleet as they were read last, not long ago; `None` = nobody knows, or there
    /// is no fleet.
    pub fn peers(&self) -> Option<Arc<Peers>> {
        let most = self.0.settings.fleet.renew * 4 + ANSWER_MAX;
        self.peers_last()
            .filter(|peers| peers.read.elapsed() < most)
    }

    /// The hosts of the fleet as they were read last, however long ago; `None` = they were not read since the start.
    pub fn peers_last(&self) -> Option<Arc<Peers>> {
        let peers = &self.0.lease.peers;
        let read = peers.lock().unwrap_or_else(PoisonError::into_inner);
        read.clone()
    }
}

/// The last words of all hosts, by this host's own clock. The store's may be stepped, and then hosts
/// look away for longer than they were: by it alone nobody is given up.
#[derive(Debug, Default)]
struct LastWords(BTreeMap<String, LastWord>);

#[derive(Debug, Clone, Copy)]
struct LastWord {
    epoch: u64,
    renewed_at: Timestamp,
    /// CLOCK_BOOTTIME when that was seen first.
    since: u64,
}

impl LastWords {
    /// Takes over the hosts as they were read at `now`, on CLOCK_BOOTTIME.
    fn hear(&mut self, hosts: &[Host], now: u64) {
        let former = std::mem::take(&mut self.0);
        for host in hosts {
            let id = &host.about.host;
            let (epoch, renewed_at) = (host.epoch, host.renewed_at);
            let same = former
                .get(id)
                .filter(|word| word.epoch == epoch && word.renewed_at == renewed_at);
            let word = LastWord {
                epoch,
                renewed_at,
                since: same.map_or(now, |word| word.since),
            };
            self.0.insert(id.clone(), word);
        }
    }

    /// Whether all whom the store's clock calls lost were silent for as long by this one.
    fn agree(&self, peers: &Peers, lost_after: u64, now: u64) -> bool {
        let lost = |host: &&Host| host.is_lost(peers.now, lost_after);
        peers.hosts.iter().filter(lost).all(|host| {
            let span = lost_after.max(host.fenced_after.unwrap_or(u64::MAX));
            let word = self.0.get(&host.about.host);
            word.is_some_and(|word| now.saturating_sub(word.since) >= span)
        })
    }
}

/// Reads who is in the fleet, and writes down who is away or lost, for ever.
pub(super) async fn tidy(shared: Arc<Shared>) {
    let Membership {
        renew,
        lost_after,
        machine,
        ..
    } = &shared.settings.fleet;
    let mut words = LastWords::default();
    loop {
        // Hosts that were started together do not ask together.
        let share = (uuid::Uuid::now_v7().as_u128() % 1_000) as u32;
        tokio::time::sleep(*renew / 2 + *renew * share / 1_000).await;
        let mut limit = u64::MAX;
        if let Ok(Ok((now, hosts))) = tokio::time::timeout(ANSWER_MAX, shared.store.hosts()).await {
            let read = Instant::now();
            let at = machine.boottime();
            words.hear(&hosts, at);
            let peers = Arc::new(Peers { now, hosts, read });
            if words.agree(&peers, usec(*lost_after), at) {
                limit = usec(*lost_after);
            }
            let known = &shared.lease.peers;
            *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(peers);
        }
        let now = machine.boottime();
        let (may, epoch) = (
            shared.lease.with(|known| known.lease.may_tidy(now)),
            shared.lease.epoch(),
        );
        if !may {
            continue;
        }
        // Nobody is lost after ever so long; who is unreachable is written down all the same.
        let tidied = shared.store.tidy(limit).await;
        shared.note_fenced(epoch, &tidied);
        match tidied {
            Ok(events) => {
                for event in &events {
                    tell_of(event);
                }
                shared.publish_all(events);
            }
            Err(error) => {
                tracing::debug!(error = %store_error(error), "Who is away is looked up again");
            }
        }
    }
}

fn tell_of(event: &Event) {
    let name = event.draft.data["name"].as_str().unwrap_or_default();
    let live = event.draft.data["live"].as_u64().unwrap_or(0);
    match event.draft.kind {
        EventType::HostUnreachable => {
            tracing::warn!(
                message_id = kinds::PEERS_TIDIED.id,
                "Host {name} is unreachable; the slots of its {live} live runners stay taken"
            );
        }
        EventType::HostLost => {
            tracing::warn!(
                message_id = kinds::PEERS_TIDIED.id,
                "Host {name} is lost: its runners have stopped by themselves, and their slots ({live}) are given back"
            );
        }
        _ => {}
    }
}
