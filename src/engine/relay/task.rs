//! The relay's task.

mod answers;
mod chores;

use super::{Order, RelaySettings, RelayState, Retry};
use crate::crash;
use crate::domain::backoff::Backoff;
use crate::domain::cloudevent::Message;
use crate::domain::relay::{Settlement, Window};
use crate::ports::{Broker, BrokerError, Outbox, Page, Publisher, Rows, StoreError, Told};
use chores::Chore;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Rows of one page.
const PAGE: usize = 250;
/// Before another attempt to reach the broker, at first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Before rows are looked for again that wait for another host's, at first and at most.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Before a few of those are tried again that the broker has refused, at first and at most.
const REFUSED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Before the store is asked again that did not answer.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// How long a few confirms are collected before the store is told.
const COLLECT: Duration = Duration::from_millis(50);
/// So many are not collected any longer.
const COLLECTED: usize = 64;
/// How often rows of hosts that were given up are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Each so many sweeps the outbox is read from the beginning, whatever is known of it.
const SWEEPS: u32 = 10;
/// How many of those that the broker refused are tried again together.
const AGAIN: usize = 4;
/// How often the backlog is counted, at most; and no more than a fiftieth of the time.
const COUNT: Duration = Duration::from_secs(5);
/// How often it is said that events are parked.
const SAY: Duration = Duration::from_secs(600);

type Job<T> = Option<JoinHandle<T>>;

pub(super) struct Task {
    settings: RelaySettings,
    outbox: Arc<dyn Outbox>,
    broker: Arc<dyn Broker>,
    state: watch::Sender<RelayState>,
    published: Arc<AtomicU64>,

    window: Window<Arc<Message>>,
    /// Rows up to here were read.
    cursor: u64,
    /// Behind the cursor there was nothing.
    at_end: bool,
    /// Nor was there when it was read last: a pass from the beginning is over.
    passed: bool,
    /// When that pass began, and how long the last one took.
    pass: (Instant, Duration),
    /// The page under way was asked for before something that has to be read was there.
    missed: bool,
    /// Before its rows were changed: it is of no use.
    stale: bool,
    /// Some rows were passed over because they wait for others.
    deferred: bool,
    publisher: Option<Box<dyn Publisher>>,
    blocked: bool,

    reading: Job<Result<Page, StoreError>>,
    /// Rows of the page under way, at most.
    asked: usize,
    settling: Job<(Settlement, Result<u64, StoreError>)>,
    connecting: Job<Result<Box<dyn Publisher>, BrokerError>>,
    /// One at a time of what is not pressing.
    chore: Job<Chore>,
    /// Asked for by somebody who waits.
    retry: Option<Retry>,

    reconnect: Backoff,
    reconnect_at: Instant,
    look_again: Backoff,
    look_at: Option<Instant>,
    refused: Backoff,
    again_at: Option<Instant>,
    read_at: Instant,
    settle_at: Option<Instant>,
    sweep_at: Instant,
    sweeps: u32,
    /// Parked rows were looked at up to here.
    parked_at: u64,
    count_at: Instant,
    /// Something has changed since it was counted.
    uncounted: bool,
    said_parked: Option<Instant>,
    said_refused: Option<Instant>,
    flush: Option<oneshot::Sender<bool>>,
}

/// Waits for a job, for ever if there is none.
async fn done<T>(job: &mut Job<T>) -> Option<T> {
    match job {
        Some(handle) => {
            let answer = handle.await.ok();
            *job = None;
            answer
        }
        None => pending().await,
    }
}

async fn news(publisher: &mut Option<Box<dyn Publisher>>) -> Result<Told, BrokerError> {
    match publisher {
        Some(publisher) => publisher.news().await,
        None => pending().await,
    }
}

/// A number that differs from host to host and from time to time.
fn random() -> u64 {
    let random = uuid::Uuid::now_v7().as_u64_pair();
    random.0 ^ random.1
}

impl Task {
    pub(super) fn new(
        settings: RelaySettings,
        outbox: Arc<dyn Outbox>,
        broker: Arc<dyn Broker>,
        state: watch::Sender<RelayState>,
        published: Arc<AtomicU64>,
    ) -> Self {
        let now = Instant::now();
        Self {
            window: Window::new(settings.limits, settings.park),
            settings,
            outbox,
            broker,
            state,
            published,
            cursor: 0,
            at_end: false,
            passed: false,
            pass: (now, Duration::ZERO),
            missed: false,
            stale: false,
            deferred: false,
            publisher: None,
            blocked: false,
            reading: None,
            asked: 0,
            settling: None,
            connecting: None,
            chore: None,
            retry: None,
            reconnect: Backoff::new(RECONNECT.0, RECONNECT.1),
            reconnect_at: now,
            look_again: Backoff::new(LOOK_AGAIN.0, LOOK_AGAIN.1),
            look_at: None,
            refused: Backoff::new(REFUSED.0, REFUSED.1),
            again_at: None,
            read_at: now,
            settle_at: None,
            sweep_at: now,
            sweeps: 0,
            parked_at: 0,
            count_at: now,
            uncounted: true,
            said_parked: None,
            said_refused: None,
            flush: None,
        }
    }

    /// Works until nobody has a handle any more, or it was flushed.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            self.begin();
            if self.flush.is_some() && self.is_flushed() {
                break;
            }
            let timer = self.timer();
            tokio::select! {
                told = news(&mut self.publisher) => self.heard(told),
                Some(page) = done(&mut self.reading) => self.read(page),
                Some((settlement, answer)) = done(&mut self.settling) => self.settled(&settlement, answer),
                Some(connected) = done(&mut self.connecting) => self.connected(connected),
                Some(chore) = done(&mut self.chore) => self.did(chore),
                () = self.outbox.written() => {
                    self.at_end = false;
                    self.missed = true;
                    self.uncounted = true;
                }
                order = orders.recv(), if self.retry.is_none() => match order {
                    Some(Order::Retry(retry)) => {
                        // A page that is under way tells how it was before.
                        self.stale = self.reading.is_some();
                        self.retry = Some(retry);
                    }
                    Some(Order::Flush(reply)) => {
                        self.flush = Some(reply);
                        // The last commits may not have been heard of yet.
                        self.at_end = false;
                        self.missed = true;
                    }
                    None => break,
                },
                () = sleep_until(timer) => {}
            }
        }
        let empty = self.at_end && self.window.is_empty() && !self.deferred;
        if let Some(publisher) = self.publisher.take() {
            publisher.close().await;
        }
        if let Some(reply) = self.flush.take() {
            let _ = reply.send(empty);
        }
    }

    /// Whether a clean stop has nothing to wait for.
    fn is_flushed(&self) -> bool {
        let stuck = self.blocked || (self.publisher.is_none() && self.connecting.is_none());
        let settled = self.settling.is_none() && self.window.unsettled() == 0;
        let empty = self.at_end && self.reading.is_none() && self.window.is_empty();
        empty || (stuck && settled)
    }

    /// Whether the broker can be given something.
    fn is_up(&self) -> bool {
        self.publisher.is_some() && !self.blocked
    }

    /// Whether one more question to the store may be under way: two at most, so that others get through.
    fn may_ask(&self) -> bool {
        let all = [
            self.reading.is_some(),
            self.settling.is_some(),
            self.chore.is_some(),
        ];
        all.iter().filter(|busy| **busy).count() < 2
    }

    fn may_read(&self) -> bool {
        self.is_up()
            && !self.at_end
            && self.reading.is_none()
            && self.retry.is_none()
            && self.may_ask()
            && self.window.room() >= PAGE.min(self.settings.limits.rows) / 2
    }

    /// Whoever can't publish takes on nothing.
    fn may_sweep(&self) -> bool {
        let idle = self.chore.is_none() && self.retry.is_none();
        idle && self.may_ask() && self.is_up() && self.flush.is_none()
    }

    fn may_count(&self) -> bool {
        self.uncounted && self.chore.is_none() && self.retry.is_none() && self.may_ask()
    }

    fn may_settle(&self) -> bool {
        self.settling.is_none() && self.may_ask()
    }

    fn may_look_again(&self) -> bool {
        self.passed && self.reading.is_none() && self.is_up()
    }

    /// Begins whatever can be begun now.
    fn begin(&mut self) {
        let now = Instant::now();
        if self.may_look_again() && self.look_at.is_some_and(|at| at <= now) {
            self.rescan();
        }
        if self.publisher.is_none() && self.connecting.is_none() && self.reconnect_at <= now {
            let broker = Arc::clone(&self.broker);
            self.connecting = Some(tokio::spawn(async move { broker.connect().await }));
        }
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.window.again(AGAIN);
        }
        if self.again_at.is_none() && self.window.has_refused() {
            self.again_at = Some(now + self.refused.pause(random()));
        }
        self.publish();
        self.settle(now);
        self.begin_chore(now);
        if self.may_read() && self.read_at <= now {
            if self.cursor == 0 {
                self.pass.0 = now;
            }
            let (outbox, host) = (Arc::clone(&self.outbox), self.settings.host.clone());
            let (after, limit) = (self.cursor, self.window.room().min(PAGE) as u32);
            self.window.asking();
            self.missed = false;
            self.asked = limit as usize;
            self.reading = Some(tokio::spawn(async move {
                outbox.page(&host, Rows::Pending, after, limit).await
            }));
        }
    }

    /// When something has to be begun that nobody will say.
    fn timer(&self) -> Instant {
        let reconnects = self.publisher.is_none() && self.connecting.is_none();
        let waits = [
            reconnects.then_some(self.reconnect_at),
            self.again_at,
            self.may_read().then_some(self.read_at),
            self.may_sweep().then_some(self.sweep_at),
            self.may_count().then_some(self.count_at),
            self.settle_at.filter(|_| self.may_settle()),
            self.look_at.filter(|_| self.may_look_again()),
        ];
        let first = waits.into_iter().flatten().min();
        first.unwrap_or_else(|| Instant::now() + SWEEP)
    }

    /// From the beginning: some rows may be publishable that were not before.
    fn rescan(&mut self) {
        self.look_at = None;
        self.stale = self.reading.is_some();
        self.cursor = 0;
        self.at_end = false;
        self.passed = false;
        self.deferred = false;
    }

    fn publish(&mut self) {
        if self.blocked {
            return;
        }
        let mut published = false;
        while let Some(publisher) = &mut self.publisher
            && let Some((_, message)) = self.window.take()
        {
            published = true;
            if let Err(error) = publisher.publish(message) {
                self.lost(error.0);
                return;
            }
        }
        if published {
            crash::point("relay.published");
        }
    }

    /// Tells the store what was confirmed: at once if it is much or nothing else is to be done.
    fn settle(&mut self, now: Instant) {
        if !self.may_settle() {
            return;
        }
        let unsettled = self.window.unsettled();
        if unsettled == 0 {
            self.settle_at = None;
            return;
        }
        let at = *self.settle_at.get_or_insert(now + COLLECT);
        let many = unsettled >= COLLECTED;
        if at > now && !many && self.flush.is_none() && self.retry.is_none() {
            return;
        }
        if self.read_at > now {
            // The store does not answer.
            self.settle_at = Some(self.read_at);
            return;
        }
        crash::point("relay.confirmed");
        let settlement = self.window.settlement();
        let (outbox, host) = (Arc::clone(&self.outbox), self.settings.host.clone());
        self.settling = Some(tokio::spawn(async move {
            let answer = outbox.settle(&host, &settlement).await;
            (settlement, answer)
        }));
    }
}
