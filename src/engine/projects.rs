//! Projects: their row and their slice must tell the same, so one change at a time.

use super::{Engine, Shared, host_error, now, store_error};
use crate::domain::event::Actor;
use crate::domain::kinds;
use crate::domain::project::{ProjectChange, ProjectSettings};
use crate::domain::{Error, Limits, Project, ProjectName};
use crate::ports::HostError;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

/// What this host does not hold of the limits of projects: since the daemon began, and where there is any. A slice is the host's,
/// so it is not in the store that all share.
#[derive(Debug, Default)]
pub(super) struct Slices(Mutex<HashMap<ProjectName, (Limits, Vec<String>)>>);

impl Slices {
    /// What was said of these limits.
    pub(super) fn told(&self, project: &ProjectName, limits: &Limits, warnings: &[String]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match warnings {
            [] => drop(all.remove(project)),
            some => drop(all.insert(project.clone(), (limits.clone(), some.to_vec()))),
        }
    }

    /// Of the limits that the project has now: another host may have changed them.
    fn of(&self, project: &Project) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&project.name);
        let known = known.filter(|(limits, _)| *limits == project.settings.limits);
        known
            .map(|(_, warnings)| warnings.clone())
            .unwrap_or_default()
    }
}

impl Shared {
    /// Puts a project's limits on its slice and keeps in mind what of them is not held. Returns it.
    pub(super) async fn put(
        &self,
        name: &ProjectName,
        limits: Limits,
    ) -> Result<Vec<String>, HostError> {
        let warnings = self.host.set_slice(name, limits.clone()).await?;
        self.slices.told(name, &limits, &warnings);
        Ok(warnings)
    }
}

impl Engine {
    /// Makes a project. A limit that does not hold is refused before anything is written.
    pub async fn create_project(
        &self,
        name: ProjectName,
        settings: ProjectSettings,
        actor: Actor,
    ) -> Result<Project, Error> {
        let _changing = self.0.projects.lock().await;
        let there = self
            .0
            .store
            .project(&name)
            .await
            .map_err(store_error)?
            .is_some();
        let limited = !there && settings.limits != Limits::default();
        if limited {
            let put = self.0.put(&name, settings.limits.clone()).await;
            put.map_err(host_error)?;
        }
        match self
            .0
            .store
            .create_project(name.clone(), settings, actor, now())
            .await
        {
            Ok((project, event)) => {
                self.0
                    .metrics
                    .project(project.name.as_str(), project.settings.max_runners);
                self.0.publish(Some(event), None, None);
                Ok(project)
            }
            Err(error) => {
                if limited {
                    let _ = self.0.host.remove_slice(&name).await;
                }
                Err(store_error(error))
            }
        }
    }

    /// What this host does not hold of a project's limits, as far as it has been told since the daemon began.
    pub fn unheld(&self, project: &Project) -> Vec<String> {
        self.0.slices.of(project)
    }

    /// Changes a project's settings; limits take effect on its slice at once. Returns warnings.
    pub async fn set_project(
        &self,
        name: ProjectName,
        change: ProjectChange,
        actor: Actor,
    ) -> Result<Vec<String>, Error> {
        let _changing = self.0.projects.lock().await;
        let project = self.project(&name).await?;
        let limited = change.limits != Limits::default();
        let mut warnings = Vec::new();
        if limited {
            let limits = project.settings.with(&change).limits;
            warnings = self.0.put(&name, limits).await.map_err(host_error)?;
        }
        match self
            .0
            .store
            .set_project(name.clone(), change, actor, now())
            .await
        {
            Ok((project, event)) => {
                self.0
                    .metrics
                    .project(project.name.as_str(), project.settings.max_runners);
                // A launch that has read the former limits sets the slice once more.
                self.0.project_changes.fetch_add(1, Ordering::SeqCst);
                self.0.publish(Some(event), None, None);
                Ok(warnings)
            }
            Err(error) => {
                // What is not written must not be in force.
                if limited {
                    let _ = self.0.put(&name, project.settings.limits).await;
                }
                Err(store_error(error))
            }
        }
    }

    /// Removes a project without live or waiting runners, with its budgets, its hold and its slice.
    pub async fn remove_project(&self, name: ProjectName, actor: Actor) -> Result<(), Error> {
        let _changing = self.0.projects.lock().await;
        let events = self
            .0
            .store
            .remove_project(name.clone(), actor, now())
            .await
            .map_err(store_error)?;
        self.0.metrics.project_removed(name.as_str());
        self.policy_changed(events);
        self.0.slices.told(&name, &Limits::default(), &[]);
        if let Err(error) = self.0.host.remove_slice(&name).await {
            tracing::warn!(message_id = kinds::SLICE_STALE.id, project = %name, %error, "The slice of a removed project stays until the next boot");
        }
        Ok(())
    }
}
