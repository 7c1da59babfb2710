//! Notifications: what happens on this host is posted to those whom the configuration names.
//!
//! It is best effort and in nobody's way. One task decides which events make messages and waits for
//! nothing; each rule has a bounded queue and a task that posts what is in it, one after the other,
//! with a bounded number of tries. What is lost by that is counted. Each host tells of its own events,
//! so a fleet tells of each once. At a stop what was only counted is told, and what waits is tried once more
//! without a pause, for a bounded time. Over a restart nothing is remembered but the store's events: each of them is
//! written once, a budget's with what it has told, and so none is told again; only like ones make a message of
//! their own once more.
//!
//! | file | what |
//! |---|---|
//! | this one | the rules, and what the engine is asked about them |
//! | `follow` | which events make messages |
//! | `post` | how messages are posted, and what is counted |

mod follow;
mod post;

use super::{Engine, now};
use crate::domain::notify::{Address, Format, Message, Rule, Told, test_event};
use crate::domain::secret::Secret;
use crate::domain::{Error, ErrorKind, Timestamp, kinds};
use crate::ports::Courier;
use follow::{Line, follow};
use post::{Post, deliver, id};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// Messages of one rule that may wait for their turn.
const QUEUE_MAX: usize = 64;

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
