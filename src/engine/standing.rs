//! How budgets stand, for monitoring: what was read from the store lately. Who asks for it waits for nothing, and while
//! somebody asks now and then it is read again and again; else it is not.

use super::{Engine, Shared};
use crate::domain::budget::BudgetState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(5);
/// For so long somebody who has asked may ask again.
const WANTED: Duration = Duration::from_secs(150);
/// What is older is no longer told.
const STALE: Duration = Duration::from_secs(30);

/// What was read last.
#[derive(Debug)]
pub(super) struct Standing {
    known: Mutex<Known>,
    wanted: Notify,
}

#[derive(Debug)]
struct Known {
    budgets: Option<(Instant, Arc<Vec<BudgetState>>)>,
    asked: Instant,
}

impl Default for Standing {
    fn default() -> Self {
        let known = Known {
            budgets: None,
            asked: Instant::now(),
        };
        Self {
            known: Mutex::new(known),
            wanted: Notify::new(),
        }
    }
}

impl Standing {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads while it is wanted. A store that is away lets it wait, and nobody else.
pub(super) async fn follow(shared: Arc<Shared>) {
    loop {
        if let Ok(budgets) = shared.store.budgets().await {
            shared.standing.known().budgets = Some((Instant::now(), Arc::new(budgets)));
        }
        tokio::time::sleep(EVERY).await;
        while shared.standing.known().asked.elapsed() > WANTED {
            shared.standing.wanted.notified().await;
        }
    }
}

impl Engine {
    /// All budgets as they stood some seconds ago; `None` = not known, as the store is away.
    pub fn budgets_lately(&self) -> Option<Arc<Vec<BudgetState>>> {
        let mut known = self.0.standing.known();
        known.asked = Instant::now();
        self.0.standing.wanted.notify_one();
        let (at, budgets) = known.budgets.as_ref()?;
        (at.elapsed() <= STALE).then(|| Arc::clone(budgets))
    }
}
