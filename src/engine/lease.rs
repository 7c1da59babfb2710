//! The host's place in its fleet: it joins, renews its lease, and joins again when it was given up.
//!
//! [`crate::domain::lease`] says what holds and what may be promised; here it is carried out, by
//! tasks that wait for nobody else: [`keep`] talks to the store, [`super::arm`] passes the deadline on
//! to the shims after each renewal.
//!
//! A host that was given up (every write answers `Fenced`) launches nothing, joins again, and is then
//! adopted anew by the hub ([`super::fenced`]).
//!
//! An embedded store is joined once, without an end.

use super::Shared;
use super::fleet::Peers;
use crate::crash;
use crate::domain::event::Event;
use crate::domain::fence::{Deadline, Fence};
use crate::domain::host::Load;
use crate::domain::kinds;
use crate::domain::lease::Lease;
use crate::domain::units::{INFINITY, show_span};
use crate::domain::{Error, ErrorKind, Timestamp};
use crate::ports::{Beat, Machine, StoreError, Writer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Between two looks at whether the lease still holds.
const LOOK: Duration = Duration::from_millis(500);
/// Pause after a request that was not answered.
const AGAIN: Duration = Duration::from_secs(1);
/// Pause after one that was refused, at most: somebody may have to do something first.
const REFUSED: Duration = Duration::from_secs(15);

/// What this host tells its fleet, and on what terms it is in it.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The kernel's boot id.
    pub boot_id: String,
    /// `host.labels`.
    pub labels: BTreeMap<String, String>,
    /// Its release.
    pub version: String,
    /// Where it is scraped and reached.
    pub advertise: String,
    /// How often the lease is renewed.
    pub renew: Duration,
    /// How long a renewal holds.
    pub ttl: Duration,
    /// After how long away a host may be lost.
    pub lost_after: Duration,
    /// Its runners stop by themselves if it can't reach the store.
    pub fence: Option<Fence>,
    /// The machine.
    pub machine: Arc<dyn Machine>,
}

/// What the tasks below share with the rest of the engine.
#[derive(Debug)]
pub(super) struct Own {
    known: Mutex<Known>,
    /// To be renewed now: the epoch is over, or there is something new to promise.
    pub(super) hurry: Notify,
    /// The shims are to be told.
    pub(super) told: Notify,
    /// Rows and host have been compared since this daemon started.
    adopted_once: AtomicBool,
    pub(super) peers: Mutex<Option<Arc<Peers>>>,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) lease: Lease,
    pub(super) writer: Option<Writer>,
    /// Why it has not joined, if somebody has to do something.
    pub(super) refused: Option<String>,
    /// The lease was there and has run out, and that was said.
    run_out: bool,
    /// The agent has heard that there is no fence.
    pub(super) off: bool,
    /// What was said last of runners that would not stop by themselves.
    pub(super) unkept: String,
    /// When it joined, on the store's clock.
    pub(super) joined_at: Option<Timestamp>,
    /// What the store was told last: it can launch nothing.
    said_away: bool,
    /// The deadline the agent has passed on last.
    pub(super) passed_on: Option<Deadline>,
}

impl Own {
    pub(super) fn new(membership: &Membership, sole_host: bool) -> Self {
        let ttl = match sole_host {
            true => u64::MAX,
            false => usec(membership.ttl),
        };
        let known = Known {
            lease: Lease::new(ttl, membership.fence.filter(|_| !sole_host)),
            writer: None,
            refused: None,
            run_out: false,
            off: false,
            unkept: String::new(),
            joined_at: None,
            said_away: false,
            passed_on: None,
        };
        Self {
            known: Mutex::new(known),
            hurry: Notify::new(),
            told: Notify::new(),
            adopted_once: AtomicBool::new(false),
            peers: Mutex::default(),
        }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The epoch that this host is in; `None` = it has to join.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.with(|known| known.writer.as_ref().map(|w| w.epoch))
    }

    /// The deadline of a runner that is launched now.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.with(|known| known.lease.deadline())
    }

    /// The agent is another one: it is told again.
    pub(super) fn agent_is_there(&self) {
        self.with(|known| known.off = false);
        self.told.notify_one();
    }

    /// It is known what runs.
    pub(super) fn adopted(&self) {
        self.adopted_once.store(true, Ordering::SeqCst);
        self.told.notify_one();
    }

    /// Whether that was so before.
    pub(super) fn adopted_before(&self) -> bool {
        self.adopted_once.load(Ordering::SeqCst)
    }
}

impl super::Engine {
    /// How long this host's lease holds, µs; `None` = for ever, or there is no fleet.
    pub fn lease_left(&self) -> Option<u64> {
        let shared = &self.0;
        let now = shared.settings.fleet.machine.boottime();
        let left = shared.lease.with(|known| known.lease.left(now));
        (!shared.settings.sole_host).then_some(left)
    }

    /// This host's epoch; `None` = it has not joined.
    pub fn epoch(&self) -> Option<u64> {
        self.0.lease.epoch()
    }
}

impl Shared {
    /// Why nothing may be launched here, as far as the lease is concerned.
    fn lacks_lease(&self) -> Option<String> {
        let now = self.settings.fleet.machine.boottime();
        self.lease.with(|known| match &known.refused {
            _ if known.lease.admits(now) => None,
            Some(why) => Some(why.clone()),
            None if known.lease.is_joined() => Some(format!(
                "its lease has run out: for {} it has not reached the fleet's store",
                show_span(usec(self.settings.fleet.ttl))
            )),
            None if self.lease.adopted_before() => {
                Some("its fleet had given it up, and it has not joined again yet".to_owned())
            }
            None => Some("it has not joined yet".to_owned()),
        })
    }

    /// Refuses a launch that this host may not ask for.
    pub(super) fn check_lease(&self) -> Result<(), Error> {
        match self.lacks_lease() {
            None => Ok(()),
            Some(why) => Err(Error::new(
                ErrorKind::StoreUnavailable,
                format!(
                    "This host may launch nothing: {why}. Nothing was changed; running work goes on. See: journalctl -u stratavored."
                ),
            )),
        }
    }

    /// Keeps [`super::Health::lease`] true.
    pub(super) fn note_lease(&self) {
        let lacks = self.lacks_lease();
        let said = self.lease.with(|known| {
            let run_out = known.lease.is_joined() && lacks.is_some();
            (std::mem::replace(&mut known.run_out, run_out) != run_out && known.lease.is_joined())
                .then_some(run_out)
        });
        match said {
            Some(true) => {
                tracing::warn!(
                    message_id = kinds::LEASE_RUN_OUT.id,
                    "The lease of this host has run out: nothing is launched until the fleet's store is reached again"
                );
            }
            Some(false) => {
                tracing::info!(
                    message_id = kinds::LEASE_BACK.id,
                    "The lease of this host is renewed again"
                );
            }
            None => {}
        }
        self.health.send_if_modified(|health| {
            let changed = health.lease != lacks;
            health.lease = lacks;
            changed
        });
    }

    fn beat(&self) -> Beat {
        let Membership { ttl, machine, .. } = &self.settings.fleet;
        let load = Load {
            memory_promised: self.promised(),
            away: self.is_away(),
            ..machine.load()
        };
        Beat {
            ttl: if self.settings.sole_host {
                u64::MAX
            } else {
                usec(*ttl)
            },
            fenced_after: self.lease.with(|known| known.lease.promise()),
            load,
        }
    }

    /// Whether it can launch nothing, though it reaches the store.
    fn is_away(&self) -> bool {
        let health = self.health.borrow();
        !(health.agent && health.adopted)
    }

    /// Those that wait here hold up nobody elsewhere while nothing can be launched here, and have
    /// their place again as soon as something can.
    fn note_away(&self) {
        let away = self.is_away();
        let news = |known: &mut Known| known.lease.is_joined() && known.said_away != away;
        if self.lease.with(news) {
            self.lease.hurry.notify_one();
        }
    }

    /// Memory that live runners have been promised. One without a limit was promised none.
    fn promised(&self) -> u64 {
        self.read(|live| {
            let limits = live
                .values()
                .filter_map(|e| e.runner.spec.limits.memory_max);
            limits
                .filter(|max| *max != INFINITY)
                .fold(0, u64::saturating_add)
        })
    }

    /// Joins or renews, once.
    async fn reach_store(&self) -> Result<(), StoreError> {
        let before = self.settings.fleet.machine.boottime();
        let writer = self.lease.with(|known| known.writer.clone());
        let beat = self.beat();
        // Also where it fails: the next attempt says how it is then, and no attempt hurries the next.
        let away = beat.load.away;
        self.lease.with(|known| known.said_away = away);
        let events = match writer {
            None => {
                crash::point("lease.before-join");
                let new = self.registration();
                self.refuse_kept_out(&new).await?;
                let (writer, events) = self.store.join(new, beat).await?;
                crash::point("lease.joined");
                let epoch = writer.epoch;
                let joined_at = events.first().map(|event| event.draft.at);
                self.lease.with(|known| {
                    known.writer = Some(writer);
                    known.joined_at = joined_at;
                    known.refused = None;
                    known.lease.joins(before);
                });
                tracing::info!(
                    message_id = kinds::HOST_JOINED.id,
                    epoch,
                    "This host has joined {} (epoch {epoch})",
                    self.store_of()
                );
                self.recheck.notify_one();
                events
            }
            Some(writer) => {
                let promised = beat.fenced_after.is_some();
                let renewed = self.store.renew(&writer, beat).await;
                self.note_fenced(Some(writer.epoch), &renewed);
                let events = renewed?;
                if promised {
                    crash::point("lease.promised");
                }
                self.lease.with(|known| known.lease.renews(before));
                events
            }
        };
        self.lease.told.notify_one();
        self.publish_all(events);
        Ok(())
    }

    fn store_of(&self) -> &'static str {
        match self.settings.sole_host {
            true => "its store",
            false => "its fleet",
        }
    }

    pub(super) fn publish_all(&self, events: Vec<Event>) {
        for event in events {
            self.publish(Some(event), None, None);
        }
    }
}

/// Joins, and renews for ever.
pub(super) async fn keep(shared: Arc<Shared>) {
    let own = &shared.lease;
    loop {
        let done = watching(&shared, shared.reach_store()).await;
        let renew = shared.settings.fleet.renew;
        let pause = match done {
            Ok(()) => {
                shared.note_store(None);
                (!shared.settings.sole_host).then_some(renew)
            }
            // It is told already, and joins at once.
            Err(StoreError::Fenced) => Some(Duration::ZERO),
            Err(StoreError::Unavailable(why)) => {
                own.with(|known| known.lease.fails());
                shared.note_store(Some(why));
                Some(AGAIN.min(renew))
            }
            Err(StoreError::Refused(error)) => {
                let why = error.message.trim_end_matches('.').to_owned();
                let news = own.with(|known| {
                    known.lease.fails();
                    let said = known.refused.replace(why.clone());
                    said.is_none_or(|said| words(&said) != words(&why))
                });
                if news {
                    tracing::error!(message_id = kinds::HOST_NOT_JOINED.id, %error, "This host can't join its fleet");
                }
                Some(REFUSED.min(renew))
            }
        };
        shared.note_lease();
        let pause = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let hurry = async {
            tokio::select! {
                () = pause => {}
                () = own.hurry.notified() => {}
            }
        };
        watching(&shared, hurry).await;
        if shared.closing.load(Ordering::SeqCst) {
            // The lease runs out by itself, and the next daemon joins.
            return;
        }
    }
}

/// A sentence without its numbers: how long something still takes is no news.
fn words(sentence: &str) -> String {
    sentence.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Does it, and looks meanwhile whether the lease still holds; a host that is alone only whether it can launch.
async fn watching<T>(shared: &Shared, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if shared.settings.sole_host {
        let mut health = shared.health.subscribe();
        loop {
            shared.note_away();
            tokio::select! {
                done = &mut work => return done,
                Ok(()) = health.changed() => {}
            }
        }
    }
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = look.tick() => {
                shared.note_lease();
                shared.note_away();
            }
        }
    }
}

pub(super) fn usec(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
