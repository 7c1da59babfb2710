//! The audit as the engine sees to it: what is done without an event is written down soon, the end of
//! the chain is told at times, and a chain can be had and looked at.
//!
//! What was done waits here while the store is away, within bounds; nobody who does something waits.

use super::{Engine, Refusals, Shared, now, store_error};
use crate::domain::audit::file::Header;
use crate::domain::audit::verify::Report;
use crate::domain::audit::{Act, Anchor, not_kept};
use crate::domain::event::Actor;
use crate::domain::{Error, ErrorKind, kinds};
use crate::ports::{Chain, StoreError};
use serde_json::Value;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

/// So much of what was done may wait to be written down.
const WAITING_MAX: usize = 1_024;
/// In one transaction.
const TOGETHER: usize = 64;
/// After an attempt that failed.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the last attempt may take at shutdown.
const LAST: Duration = Duration::from_secs(5);
/// How often the end of the chain is told in the journal, where it has grown.
const JOURNAL: Duration = Duration::from_secs(300);
/// How often in an event, and so to everybody else.
const EVENT: Duration = Duration::from_secs(3_600);
/// The first one comes soon: it is what other hosts know of this one.
const EVENT_FIRST: Duration = Duration::from_secs(60);
/// Chains that may be looked at or read at a time.
const LOOKS_MAX: usize = 4;
/// Entries in one page.
const PAGE: u32 = 500;
/// Who reads a chain and takes nothing for so long has gone away.
const STUCK: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Desk {
    waiting: Mutex<VecDeque<Act>>,
    /// One writes down at a time.
    writing: tokio::sync::Mutex<()>,
    news: Notify,
    looks: Arc<Semaphore>,
    /// The end as it was told in the journal last.
    told: Mutex<Option<Anchor>>,
    /// Orders of other hosts that were refused, by the host and the user there.
    pub(super) refused: Refusals<(String, Option<u32>)>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            news: Notify::new(),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            told: Mutex::default(),
            refused: Refusals::default(),
        }
    }
}

impl Desk {
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Act>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Something was done that is no event.
    pub(super) fn note(&self, act: Act) {
        if !self.store.keeps() {
            return;
        }
        let mut waiting = self.audit.waiting();
        if waiting.len() < WAITING_MAX {
            waiting.push_back(act);
            drop(waiting);
            self.audit.news.notify_one();
            return;
        }
        drop(waiting);
        tracing::error!(
            message_id = kinds::AUDIT_INCOMPLETE.id,
            uid = act.actor.uid,
            user = act.actor.user,
            "Not in the audit, as {WAITING_MAX} others wait for the store: {} {}: {}",
            act.kind,
            act.subject,
            act.result
        );
    }

    /// That this daemon goes on with the chain. So a key that has changed is in the chain from the start on, and
    /// the end is told although nothing else may happen.
    async fn opened(&self) {
        let opened = Noted {
            project: String::new(),
            subject: format!("audit/{}", self.settings.host),
            result: "ok".to_owned(),
            data: serde_json::json!({ "version": self.settings.fleet.version }),
        };
        self.note(opened.act("audit.opened", Actor::host()));
        while let Err(error) = self.write_down().await {
            tracing::debug!(%error, "The audit waits for the store");
            tokio::time::sleep(AGAIN).await;
        }
        self.tell_end();
    }

    /// Writes down what waits.
    async fn write_down(&self) -> Result<(), StoreError> {
        let _writing = self.audit.writing.lock().await;
        loop {
            let acts: Vec<Act> = {
                let waiting = self.audit.waiting();
                waiting.iter().take(TOGETHER).cloned().collect()
            };
            if acts.is_empty() {
                return Ok(());
            }
            let count = acts.len();
            self.store.note(acts).await?;
            self.audit.waiting().drain(..count);
        }
    }

    /// Tells the end of the chain in the journal, unless it is the one that was told last.
    fn tell_end(&self) {
        let Some(end) = self.store.kept() else {
            return;
        };
        let mut told = self
            .audit
            .told
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() != Some(&end) {
            tracing::info!(
                message_id = kinds::AUDIT_ANCHORED.id,
                audit_host = end.host,
                audit_n = end.n,
                audit_mac = %end.mac,
                "The audit of this host ends at entry {}",
                end.n
            );
            *told = Some(end);
        }
    }

    /// Tells it in an event, and looks at those of the others.
    async fn anchor(&self) -> Result<(), StoreError> {
        let Some(anchored) = self.store.anchor(now()).await? else {
            return Ok(());
        };
        for host in &anchored.shrunk {
            tracing::error!(
                message_id = kinds::AUDIT_BROKEN.id,
                "The audit of host {host} is not what it was: entries that this host has seen are missing or are others now. See: stratavorectl audit verify --of {host}"
            );
        }
        self.publish(Some(anchored.event), None, None);
        Ok(())
    }
}

/// Does all of it, for ever.
pub(super) async fn keep(shared: Arc<Shared>) {
    if !shared.store.keeps() {
        return;
    }
    shared.opened().await;
    let begun = Instant::now();
    let mut journal = tokio::time::interval_at(begun + JOURNAL, JOURNAL);
    let mut event = tokio::time::interval_at(begun + EVENT_FIRST, EVENT);
    event.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut anchored: Option<Anchor> = None;
    loop {
        tokio::select! {
            () = shared.audit.news.notified() => {
                while let Err(error) = shared.write_down().await {
                    tracing::debug!(%error, "The audit waits for the store");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            _ = journal.tick() => shared.tell_end(),
            // An idle host writes nothing.
            _ = event.tick(), if !shared.closing() => {
                if shared.store.kept() != anchored {
                    match shared.anchor().await {
                        Ok(()) => anchored = shared.store.kept(),
                        Err(error) => tracing::debug!(%error, "The audit is not anchored"),
                    }
                }
            }
        }
    }
}

impl Engine {
    /// Whether an audit is kept.
    pub fn keeps_audit(&self) -> bool {
        self.0.store.keeps()
    }

    /// Something was done, or refused, that is no event: it is written down soon.
    pub fn note(&self, kind: &'static str, what: Noted, actor: Actor) {
        self.0.note(what.act(kind, actor));
    }

    /// The last words: what still waits, and where the chain ends.
    pub(super) async fn end_audit(&self) {
        let left = match timeout(LAST, self.0.write_down()).await {
            Ok(Ok(())) => 0,
            _ => self.0.audit.waiting().len(),
        };
        if left > 0 {
            tracing::error!(
                message_id = kinds::AUDIT_INCOMPLETE.id,
                "{left} acts are not in the audit, as the store is away; they are in this journal only"
            );
        }
        self.0.tell_end();
    }

    /// Looks at the whole chain of a host (its id).
    pub async fn verify_audit(&self, host: &str, anchors: Vec<Anchor>) -> Result<Report, Error> {
        let _look = self.look()?;
        let report = self.0.store.verify(host, anchors).await;
        report.map_err(store_error)
    }

    /// The chain of a host (its id) as a file: what comes out of the pipe.
    pub async fn export_audit(&self, host: &str) -> Result<OwnedFd, Error> {
        let look = self.look()?;
        let chain = self.0.store.chain(host).await.map_err(store_error)?;
        let Some(chain) = chain else {
            return Err(not_kept(host));
        };
        let failed = |e: std::io::Error| {
            let message = format!("No pipe can be made: {e}.");
            Error::new(ErrorKind::LimitsExceeded, message)
        };
        let (reading, writing) = std::io::pipe().map_err(failed)?;
        let writing = pipe::Sender::from_owned_fd(writing.into()).map_err(failed)?;
        let (shared, host) = (Arc::clone(&self.0), host.to_owned());
        tokio::spawn(async move {
            let _look = look;
            if let Err(why) = write_out(&shared, &host, chain, writing).await {
                tracing::debug!(%why, "An export of the audit broke off");
            }
        });
        Ok(reading.into())
    }

    fn look(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Error> {
        let looks = Arc::clone(&self.0.audit.looks);
        looks.try_acquire_owned().map_err(|_| {
            let message = format!(
                "{LOOKS_MAX} audits are being looked at or read, which is the most; try again when one is done."
            );
            Error::new(ErrorKind::LimitsExceeded, message)
        })
    }
}

/// Who does not read keeps nobody but itself waiting, and not for ever.
async fn write_out(
    shared: &Shared,
    host: &str,
    chain: Chain,
    mut to: pipe::Sender,
) -> Result<(), String> {
    let last = chain.last;
    let mut after = chain.checkpoint.as_ref().map_or(0, |c| c.n);
    let mut text = Header::new(host.to_owned(), now(), chain.checkpoint, chain.head).line();
    loop {
        let written = timeout(STUCK, to.write_all(text.as_bytes())).await;
        written
            .map_err(|_| "nobody reads it".to_owned())?
            .map_err(|e| e.to_string())?;
        let page = shared.store.entries(host, after, last, PAGE).await;
        let page = page.map_err(|e| e.why())?;
        if page
            .first()
            .is_some_and(|entry| entry.n > after.saturating_add(1))
        {
            // What was removed at its age meanwhile would look as if somebody had taken it out.
            let now = shared.store.chain(host).await.map_err(|e| e.why())?;
            let removed = now.and_then(|chain| chain.checkpoint).map_or(0, |c| c.n);
            if removed > after {
                return Err("old entries were removed meanwhile".to_owned());
            }
        }
        match page.last() {
            Some(entry) => after = entry.n,
            None => return Ok(()),
        }
        text = page.iter().map(|entry| entry.line()).collect();
    }
}

/// What was done on what, and what came of it.
#[derive(Debug, Clone)]
pub struct Noted {
    /// The project concerned, if there is one.
    pub project: String,
    /// `<kind>/<id>`.
    pub subject: String,
    /// `ok`, or why not.
    pub result: String,
    /// The particulars. Nothing secret.
    pub data: Value,
}

impl Noted {
    pub(super) fn act(self, kind: &'static str, actor: Actor) -> Act {
        Act {
            at: now(),
            kind,
            project: self.project,
            subject: self.subject,
            actor,
            result: self.result,
            data: self.data,
        }
    }
}
