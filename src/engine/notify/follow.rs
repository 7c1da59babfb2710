//! Which events make messages of which rules: decided as they happen, waiting for nothing.

use super::post::Post;
use crate::domain::event::Event;
use crate::domain::kinds;
use crate::domain::notify::{Message, Told};
use crate::engine::Happening;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// With nothing to say the task looks again after so long.
const IDLE: Duration = Duration::from_secs(3_600);

/// What is told by a rule: what its receiver knows, and the queue of what it is to know.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) post: Arc<Post>,
    pub(super) told: Told,
    pub(super) queue: mpsc::Sender<Message>,
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
pub(super) async fn follow(
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{QUEUE_MAX, Subscriber};
    use super::*;
    use crate::domain::notify::{Address, Format, Pattern, Rule, test_event};
    use crate::engine::now;
    use crate::ports::{Courier, Letter, Undelivered};
    use std::sync::Mutex;
    use tokio::sync::Semaphore;

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
