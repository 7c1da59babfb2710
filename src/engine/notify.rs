//! Notifications: what happens on this host is posted to those whom the configuration names.
//!
//! It is best effort and in nobody's way. One task decides which events make messages and waits for
//! nothing; each rule has a bounded queue and a task that posts what is in it, one after the other,
//! with a bounded number of tries. What is lost by that is counted. Each host tells of its own events,
//! so a fleet tells of each once. At a stop what was only counted is told, and what waits is tried once more
//! without a pause, for a bounded time; over a restart nothing is remembered but the store's events.

use super::{Engine, Happening, Shared, now};
use crate::domain::event::Event;
use crate::domain::notify::{Address, Format, Message, Rule, Told, signature, test_event};
use crate::domain::secret::Secret;
use crate::domain::{Error, ErrorKind, Timestamp, kinds};
use crate::metrics::NotificationResult;
use crate::ports::{Courier, Letter, Undelivered};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Messages of one rule that may wait for their turn.
const QUEUE_MAX: usize = 64;
/// How long after a failed try the next one comes, up to a quarter more; after the last of them a message is given up.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
];
/// With nothing to say the task looks again after so long.
const IDLE: Duration = Duration::from_secs(3_600);

/// A rule with all that is needed to obey it.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// The rule's name.
    pub name: String,
    /// What it wants to know.
    pub rule: Rule,
    /// How it is told.
    pub format: Format,
    /// Where; or why that is not known.
    pub to: Result<Address, String>,
    /// What messages are signed with.
    pub secret: Option<Secret>,
}

/// How a rule fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fares {
    /// Messages that arrived since the start.
    pub sent: u64,
    /// Messages that were given up.
    pub failed: u64,
    /// Events and messages that were dropped because too many waited.
    pub dropped: u64,
    /// Messages that wait, the one under way included.
    pub waiting: u64,
    /// When one arrived last.
    pub last_sent: Option<Timestamp>,
    /// When a try failed last, and why.
    pub last_failure: Option<(Timestamp, String)>,
    /// Whether the last try failed.
    pub failing: bool,
}

/// A rule, and what came of it.
#[derive(Debug)]
struct Post {
    to: Subscriber,
    host: String,
    fares: Mutex<Fares>,
    /// One test at a time.
    test: Semaphore,
    courier: Arc<dyn Courier>,
    shared: std::sync::Weak<Shared>,
}

/// What is told by a rule: what its receiver knows, and the queue of what it is to know.
#[derive(Debug)]
struct Line {
    post: Arc<Post>,
    told: Told,
    queue: mpsc::Sender<Message>,
}

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Desk {
    posts: std::sync::OnceLock<Vec<Arc<Post>>>,
    tasks: Mutex<Option<Tasks>>,
}

/// The one that decides and those that post. They end when they are told that the daemon stops: the one when all that is
/// to be told is in the queues, the others when their queue is empty.
#[derive(Debug)]
struct Tasks {
    all: JoinSet<()>,
    stops: watch::Sender<bool>,
}

impl Desk {
    fn posts(&self) -> &[Arc<Post>] {
        self.posts.get().map_or(&[], Vec::as_slice)
    }

    fn tasks(&self) -> MutexGuard<'_, Option<Tasks>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Has these told from now on what they want to know. To be called once.
    pub fn notify(&self, subscribers: Vec<Subscriber>, courier: &Arc<dyn Courier>) {
        let happenings = self.subscribe();
        let (stops, stop) = watch::channel(false);
        let mut all = JoinSet::new();
        let (mut posts, mut lines) = (Vec::new(), Vec::new());
        for to in subscribers {
            self.metrics().notifications(&to.name);
            let post = Arc::new(Post {
                host: self.0.settings.host_name.clone(),
                fares: Mutex::default(),
                test: Semaphore::new(1),
                courier: Arc::clone(courier),
                shared: Arc::downgrade(&self.0),
                to,
            });
            match &post.to.to {
                Ok(_) => {
                    let (queue, waiting) = mpsc::channel(QUEUE_MAX);
                    all.spawn(deliver(Arc::clone(&post), waiting, stop.clone()));
                    lines.push(Line {
                        post: Arc::clone(&post),
                        told: Told::default(),
                        queue,
                    });
                }
                Err(why) => post.failed(why),
            }
            posts.push(post);
        }
        if self.0.notify.posts.set(posts).is_ok() && !lines.is_empty() {
            all.spawn(follow(lines, happenings, stop));
            *self.0.notify.tasks() = Some(Tasks { all, stops });
        }
    }

    /// The last words, within the given time: what was only counted is told, what waits is tried once more. What is left
    /// then is lost, and that is said.
    pub async fn end_notifications(&self, within: Duration) {
        let Some(mut tasks) = self.0.notify.tasks().take() else {
            return;
        };
        tasks.stops.send_replace(true);
        let ended = async { while tasks.all.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(within, ended).await;
        for post in self.0.notify.posts() {
            let left = post.fares().waiting;
            if left > 0 {
                tracing::warn!(
                    message_id = kinds::NOTIFY_FAILED.id,
                    notify_rule = post.to.name,
                    "Messages of notification rule {} are lost, as the daemon stops: {left}",
                    post.to.name
                );
            }
        }
    }

    /// All rules by name, and how they fare.
    pub fn notifications(&self) -> Vec<(Subscriber, Fares)> {
        let posts = self.0.notify.posts().iter();
        posts
            .map(|post| (post.to.clone(), post.fares().clone()))
            .collect()
    }

    /// The rules whose last try failed.
    pub fn notifications_failing(&self) -> Vec<String> {
        let posts = self.0.notify.posts().iter();
        posts
            .filter(|post| post.fares().failing)
            .map(|post| post.to.name.clone())
            .collect()
    }

    /// Posts a test message by this rule at once, with one try. Returns why it did not arrive, if so.
    pub async fn test_notification(&self, name: &str) -> Result<Result<(), String>, Error> {
        let posts = self.0.notify.posts();
        let Some(post) = posts.iter().find(|post| post.to.name == name) else {
            let name = crate::domain::name::shown(name);
            let message = match posts.is_empty() {
                true => format!(
                    "There is no notification rule {name}, and no other one: stratavored.toml has no [notify.rules.…]."
                ),
                false => {
                    let names: Vec<_> = posts.iter().map(|post| post.to.name.as_str()).collect();
                    format!(
                        "There is no notification rule {name}; there are {}.",
                        names.join(", ")
                    )
                }
            };
            return Err(Error::invalid(message));
        };
        let Ok(_turn) = post.test.try_acquire() else {
            let message = format!("A test of rule {name} is under way; try again when it is done.");
            return Err(Error::new(ErrorKind::LimitsExceeded, message));
        };
        let message = Message {
            event: test_event(&self.0.settings.host, now()),
            more: 0,
            kept_back: 0,
        };
        Ok(match post.attempt(&message, &id()).await {
            Ok(()) => {
                post.sent();
                Ok(())
            }
            Err(error) => {
                post.failed(error.why());
                Err(error.why().to_owned())
            }
        })
    }
}

/// The same for all tries of one message.
fn id() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl Post {
    fn fares(&self) -> MutexGuard<'_, Fares> {
        self.fares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, result: NotificationResult, by: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.metrics.notified(&self.to.name, result, by);
        }
    }

    /// So many were never told.
    fn dropped(&self, count: u64) {
        let before = {
            let mut fares = self.fares();
            fares.dropped += count;
            fares.dropped - count
        };
        self.count(NotificationResult::Dropped, count);
        if before == 0 {
            tracing::warn!(
                message_id = kinds::NOTIFY_FAILED.id,
                notify_rule = self.to.name,
                "More is to be told by notification rule {} than its receiver takes: messages are dropped, and counted",
                self.to.name
            );
        }
    }

    async fn attempt(&self, message: &Message, id: &str) -> Result<(), Undelivered> {
        let to = self.to.to.clone().map_err(Undelivered::Never)?;
        let posting = message.posting(self.to.format, &self.host);
        let seconds = now().0 / 1_000_000;
        let mut headers = posting.headers;
        headers.push(("Content-Type", posting.content_type.to_owned()));
        headers.push(("Stratavore-Message", id.to_owned()));
        headers.push(("Stratavore-Timestamp", seconds.to_string()));
        if let Some(secret) = &self.to.secret {
            let signature = signature(secret, seconds, &posting.body);
            headers.push(("Stratavore-Signature", signature));
        }
        let letter = Letter {
            to,
            headers,
            body: posting.body,
        };
        self.courier.post(&letter).await
    }

    fn sent(&self) {
        let was_failing = {
            let mut fares = self.fares();
            fares.sent += 1;
            fares.last_sent = Some(now());
            std::mem::take(&mut fares.failing)
        };
        self.count(NotificationResult::Sent, 1);
        if was_failing {
            tracing::info!(
                message_id = kinds::NOTIFY_BACK.id,
                notify_rule = self.to.name,
                "Messages of notification rule {} arrive again",
                self.to.name
            );
        }
    }

    /// A try has failed; the journal tells that of the first one.
    fn failed(&self, why: &str) {
        let was_failing = {
            let mut fares = self.fares();
            fares.last_failure = Some((now(), why.to_owned()));
            std::mem::replace(&mut fares.failing, true)
        };
        if !was_failing {
            tracing::warn!(
                message_id = kinds::NOTIFY_FAILED.id,
                notify_rule = self.to.name,
                "Messages of notification rule {} do not arrive: {why}",
                self.to.name
            );
        }
    }

    fn given_up(&self, message: &Message, why: &str) {
        self.fares().failed += 1;
        self.count(NotificationResult::Failed, 1);
        tracing::warn!(
            message_id = kinds::NOTIFY_FAILED.id,
            notify_rule = self.to.name,
            "A message of notification rule {} is given up ({why}): {}",
            self.to.name,
            message.title(&self.host)
        );
    }
}

impl Line {
    /// Takes messages for later, as far as there is room.
    fn enqueue(&self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.post.fares().waiting += 1;
            if self.queue.try_send(message).is_err() {
                self.post.fares().waiting -= 1;
                self.post.dropped(1);
            }
        }
    }

    fn tell(&mut self, event: &Event, at: u64) {
        let rule = &self.post.to.rule;
        if rule.wants(event) {
            let message = self.told.event(rule, event, at);
            self.enqueue(message);
        }
    }

    fn overdue(&mut self, at: u64) {
        let messages = self.told.overdue(&self.post.to.rule, at);
        self.enqueue(messages);
    }

    /// What was only counted; there is no later.
    fn rest(&mut self, at: u64) {
        let messages = self.told.rest(&self.post.to.rule, at);
        self.enqueue(messages);
        match self.told.untold() {
            0 => {}
            more => self.post.dropped(more),
        }
    }
}

/// Decides which events make messages, for as long as the engine lives, or until the stop: then come its last words.
async fn follow(
    mut lines: Vec<Line>,
    mut happenings: Receiver<Arc<Happening>>,
    mut stop: watch::Receiver<bool>,
) {
    let begun = Instant::now();
    let clock = || u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    loop {
        let due = lines.iter().filter_map(|line| line.told.due()).min();
        let wait = due.map_or(IDLE, |at| Duration::from_micros(at.saturating_sub(clock())));
        tokio::select! {
            // What has happened comes before the stop.
            biased;
            () = tokio::time::sleep(wait) => lines.iter_mut().for_each(|line| line.overdue(clock())),
            happening = happenings.recv() => match happening.as_deref() {
                Ok(Happening { event: Some(event), .. }) => {
                    lines.iter_mut().for_each(|line| line.tell(event, clock()));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => say_missed(*missed),
                Err(RecvError::Closed) => return,
            },
            Ok(_) = stop.wait_for(|stops| *stops) => break,
        }
    }
    lines.iter_mut().for_each(|line| line.rest(clock()));
}

/// Whom they would have been for is not known, and no receiver is to blame.
fn say_missed(missed: u64) {
    tracing::warn!(
        message_id = kinds::NOTIFY_MISSED.id,
        count = missed,
        "So much happened at once that no notification rule was told of {missed} changes"
    );
}

/// Posts what waits, one after the other, in order. From the stop on each is tried once, without a pause before.
async fn deliver(
    post: Arc<Post>,
    mut waiting: mpsc::Receiver<Message>,
    mut stop: watch::Receiver<bool>,
) {
    while let Some(message) = waiting.recv().await {
        let id = id();
        let mut pauses = PAUSES.iter();
        loop {
            let last = *stop.borrow();
            match post.attempt(&message, &id).await {
                Ok(()) => {
                    post.sent();
                    break;
                }
                Err(error) => {
                    post.failed(error.why());
                    match (pauses.next(), error) {
                        (Some(pause), Undelivered::Later(_)) if !last => {
                            let pause = pause.mul_f64(1.0 + share());
                            let _ = tokio::time::timeout(pause, stop.wait_for(|s| *s)).await;
                        }
                        (_, error) => {
                            post.given_up(&message, error.why());
                            break;
                        }
                    }
                }
            }
        }
        post.fares().waiting -= 1;
    }
}

/// From 0 to 0.25: hosts that failed together do not try again together.
fn share() -> f64 {
    (uuid::Uuid::now_v7().as_u128() % 1_000) as f64 / 4_000.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::notify::Pattern;

    #[derive(Debug)]
    struct Nobody;

    #[async_trait::async_trait]
    impl Courier for Nobody {
        async fn post(&self, _letter: &Letter) -> Result<(), Undelivered> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_missed_is_no_rules_loss() {
        let post = Arc::new(Post {
            to: Subscriber {
                name: "ops".to_owned(),
                rule: Rule {
                    types: vec![Pattern::parse("host.joined").unwrap()],
                    ..Rule::default()
                },
                format: Format::Json,
                to: Address::parse("https://hooks.example/"),
                secret: None,
            },
            host: "h".to_owned(),
            fares: Mutex::default(),
            test: Semaphore::new(1),
            courier: Arc::new(Nobody),
            shared: std::sync::Weak::new(),
        });
        let (tell, told) = tokio::sync::broadcast::channel(2);
        for position in 1..=9 {
            let mut event = test_event("h", now());
            event.position = position;
            let happening = Happening {
                event: Some(event),
                runner: None,
                old: None,
            };
            tell.send(Arc::new(happening)).unwrap();
        }
        drop(tell);
        let (_nobody, stop) = watch::channel(false);
        let (queue, mut waiting) = mpsc::channel(QUEUE_MAX);
        let line = Line {
            post: Arc::clone(&post),
            told: Told::default(),
            queue,
        };
        follow(vec![line], told, stop).await;
        // The two that were left are told of and counted.
        assert!(waiting.try_recv().is_ok());
        assert_eq!(post.fares().dropped, 0);
    }
}
