//! Facts of the fleet for whoever only looks: from the store, a few seconds old at most, and never
//! waited for.

use super::{Engine, Shared};
use crate::domain::Project;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// For so long what was read is taken for current.
const FRESH: Duration = Duration::from_secs(2);
/// What is older is not told any more.
const STALE: Duration = Duration::from_secs(30);
/// A store that takes longer for an answer is away.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Facts {
    projects: Mutex<Option<(Instant, Arc<Vec<Project>>)>>,
    asking: AtomicBool,
}

impl Shared {
    pub(super) fn note_projects(&self, projects: Vec<Project>) {
        for project in &projects {
            let max = project.settings.max_runners;
            self.metrics.project(project.name.as_str(), max);
        }
        let mut known = self
            .facts
            .projects
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some((Instant::now(), Arc::new(projects)));
    }
}

impl Engine {
    /// All projects with their counts over the fleet, as they were a moment ago; `None` while the
    /// store does not answer. Asks for newer ones, and waits for nothing.
    pub fn projects_lately(&self) -> Option<Arc<Vec<Project>>> {
        let shared = &self.0;
        let facts = &shared.facts;
        let known = facts
            .projects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let age = known.as_ref().map(|(at, _)| at.elapsed());
        if age.is_none_or(|age| age > FRESH) && !facts.asking.swap(true, Ordering::SeqCst) {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let asked = tokio::time::timeout(ANSWER_MAX, shared.store.projects()).await;
                if let Ok(Ok(projects)) = asked {
                    shared.note_projects(projects);
                }
                shared.facts.asking.store(false, Ordering::SeqCst);
            });
        }
        known
            .filter(|(at, _)| at.elapsed() < STALE)
            .map(|(_, all)| all)
    }

    /// Whether the store is this host's alone.
    pub fn is_alone(&self) -> bool {
        self.0.settings.sole_host
    }
}
