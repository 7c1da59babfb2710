//! Who waits for which unit's jobs. One subscription serves all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use zbus::OwnedObjectPath;

pub(super) type Waiters =
    Arc<Mutex<HashMap<String, Vec<mpsc::UnboundedSender<(OwnedObjectPath, String)>>>>>;

/// Tells a job's end to those who wait for one of its unit.
pub(super) fn tell(waiters: &Waiters, unit: &str, job: &OwnedObjectPath, result: &str) {
    let waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
    for waiter in waiters.get(unit).into_iter().flatten() {
        let _ = waiter.send((job.clone(), result.to_owned()));
    }
}

/// Receives the ends of a unit's jobs from its making on, so that none is missed however soon
/// the job ends.
pub(super) struct Waiter<'a> {
    waiters: &'a Waiters,
    unit: String,
    pub(super) results: mpsc::UnboundedReceiver<(OwnedObjectPath, String)>,
}

impl<'a> Waiter<'a> {
    pub(super) fn new(waiters: &'a Waiters, unit: &str) -> Self {
        let (sender, results) = mpsc::unbounded_channel();
        let mut map = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        map.entry(unit.to_owned()).or_default().push(sender);
        Self {
            waiters,
            unit: unit.to_owned(),
            results,
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.results.close();
        let mut map = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = map.get_mut(&self.unit) {
            all.retain(|sender| !sender.is_closed());
            if all.is_empty() {
                map.remove(&self.unit);
            }
        }
    }
}
