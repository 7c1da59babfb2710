//! The relay: one task that brings the outbox of this host to the broker.
//!
//! What may go when is [`crate::domain::relay`]'s; here it is carried out. Rows are read in pages behind a
//! cursor, published over one connection, and settled in the store as confirms come in. The relay is
//! woken by this host's own commits, and asks by itself only now and then: for rows that wait for another
//! host, and for rows of hosts that were given up, which it adopts. It never waits for a launch, and no
//! launch waits for it. Whatever is wrong with the broker, it tries again for ever, less and less often.

mod task;

use super::{now, store_error};
use crate::domain::relay::Limits;
use crate::domain::{Error, ErrorKind, ProjectName};
use crate::ports::{Backlog, Broker, Outbox, Outgoing, Rows, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What is taken on: a window that keeps a broker busy, and the most that a fault publishes twice.
pub const LIMITS: Limits = Limits {
    rows: 1_000,
    window: 256,
    batch: 500,
};

/// Rows that are looked at together for somebody who asks, and how often.
const LOOKED_AT: u32 = 500;
const LOOKS: u32 = 8;

/// How a relay works.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// This host's id.
    pub host: String,
    /// `events.unroutable = "park"`: what nobody has bound a queue for is kept until somebody asks for it;
    /// else it counts as published.
    pub park: bool,
    /// How much it takes on.
    pub limits: Limits,
}

/// How the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerState {
    /// It takes what it is given.
    Up,
    /// It is there and takes nothing for now: why.
    Blocked(String),
    /// It is not there, or does not let us in: why.
    Down(String),
}

/// How the relay stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayState {
    /// The broker.
    pub broker: BrokerState,
    /// How much there is to do, as it was a few seconds ago; `None` = not known.
    pub backlog: Option<Backlog>,
    /// How many events in hand the broker has refused: a queue is full.
    pub refused: u64,
}

impl RelayState {
    /// How long ago the oldest event happened that is to be published, in seconds.
    pub fn oldest_seconds(&self) -> u64 {
        let oldest = self.backlog.and_then(|backlog| backlog.oldest);
        oldest.map_or(0, |at| now().0.saturating_sub(at.0) / 1_000_000)
    }
}

enum Order {
    Retry(Retry),
    Flush(oneshot::Sender<bool>),
}

/// Parked rows are to be tried again, all or those of one project.
struct Retry {
    project: Option<ProjectName>,
    reply: oneshot::Sender<Result<u64, StoreError>>,
    begun: bool,
}

/// The relay's handle; when the last one is gone, the relay stops.
#[derive(Debug, Clone)]
pub struct Relay(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    host: String,
    outbox: Arc<dyn Outbox>,
    state: watch::Receiver<RelayState>,
    published: Arc<AtomicU64>,
    orders: mpsc::Sender<Order>,
}

impl Relay {
    /// Starts the task.
    pub fn start(
        settings: RelaySettings,
        outbox: Arc<dyn Outbox>,
        broker: Arc<dyn Broker>,
    ) -> Self {
        let state = watch::Sender::new(RelayState {
            broker: BrokerState::Down("it was not reached yet".to_owned()),
            backlog: None,
            refused: 0,
        });
        let (orders, asked) = mpsc::channel(16);
        let published = Arc::default();
        let handle = Handle {
            host: settings.host.clone(),
            outbox: Arc::clone(&outbox),
            state: state.subscribe(),
            published: Arc::clone(&published),
            orders,
        };
        let task = task::Task::new(settings, outbox, broker, state, published);
        tokio::spawn(task.run(asked));
        Self(Arc::new(handle))
    }

    /// Follows how it stands.
    pub fn state(&self) -> watch::Receiver<RelayState> {
        self.0.state.clone()
    }

    /// How many events the broker has confirmed since the start.
    pub fn published(&self) -> u64 {
        self.0.published.load(Ordering::Relaxed)
    }

    /// So many of this host's rows behind this position; those that can't be read are left out.
    pub async fn rows(&self, rows: Rows, after: u64, limit: u32) -> Result<Vec<Outgoing>, Error> {
        let (mut found, mut after) = (Vec::new(), after);
        // Where some can't be read, more follow; but nobody has us look for ever.
        for _ in 0..LOOKS {
            let page = self
                .0
                .outbox
                .page(&self.0.host, rows, after, limit.max(LOOKED_AT));
            let page = page.await.map_err(store_error)?;
            found.extend(page.rows);
            match page.last {
                Some(last) if page.unreadable > 0 && found.len() < limit as usize => after = last,
                _ => break,
            }
        }
        found.truncate(limit as usize);
        Ok(found)
    }

    /// Has parked events tried again, all or those of one project; how many there are.
    pub async fn retry(&self, project: Option<ProjectName>) -> Result<u64, Error> {
        let stopped = || {
            let message = "stratavored is stopping; try again in a moment.";
            Error::new(ErrorKind::HostUnavailable, message)
        };
        let (reply, answer) = oneshot::channel();
        let order = Order::Retry(Retry {
            project,
            reply,
            begun: false,
        });
        self.0.orders.send(order).await.map_err(|_| stopped())?;
        let done = answer.await.map_err(|_| stopped())?;
        done.map_err(store_error)
    }

    /// Publishes what is there, as far as that is possible at once, and stops. Whether nothing was left.
    pub async fn flush(&self, within: Duration) -> bool {
        let (reply, answer) = oneshot::channel();
        let flushed = async {
            self.0.orders.send(Order::Flush(reply)).await.ok()?;
            answer.await.ok()
        };
        let flushed = tokio::time::timeout(within, flushed).await;
        matches!(flushed, Ok(Some(true)))
    }
}

impl super::Engine {
    /// Events go to a broker, by this relay.
    pub fn relays_by(&self, relay: Relay) {
        let _ = self.0.relay.set(relay);
    }

    /// The relay to the broker; `None` = no broker is configured.
    pub fn relay(&self) -> Option<&Relay> {
        self.0.relay.get()
    }
}
