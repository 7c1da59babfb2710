//! `org.stratavore1.Project`: a project as an object.

use super::convert::{self, Dict};
use super::core::Core;
use crate::domain::Project;
use crate::domain::admission::QUEUED_MAX;
use crate::domain::project::ProjectSettings;
use crate::domain::units::INFINITY;
use std::sync::{Arc, PoisonError, RwLock};
use zbus::interface;

/// A project as its last signal showed it.
pub(super) type ShownProject = Arc<RwLock<Arc<Project>>>;

/// The object of one project.
#[derive(Debug)]
pub(super) struct ProjectObject {
    pub(super) core: Core,
    pub(super) shown: ShownProject,
}

/// What is shown now.
pub(super) fn now(shown: &ShownProject) -> Arc<Project> {
    Arc::clone(&shown.read().unwrap_or_else(PoisonError::into_inner))
}

/// The properties that are signalled when they change.
pub(super) fn properties(project: &Project) -> Dict {
    let mut dict = Dict::new();
    let settings = &project.settings;
    convert::put(&mut dict, "Name", project.name.to_string());
    convert::put(&mut dict, "Description", settings.description.clone());
    convert::put(
        &mut dict,
        "MaxRunners",
        settings.max_runners.map_or(INFINITY, u64::from),
    );
    convert::put(&mut dict, "MaxQueued", max_queued(settings));
    let tokens = settings.default_tokens.unwrap_or(INFINITY);
    convert::put(&mut dict, "DefaultTokens", tokens);
    convert::put(&mut dict, "Limits", convert::limits(&settings.limits));
    convert::put(&mut dict, "Slice", project.name.slice());
    convert::put(&mut dict, "CreatedAt", project.created_at.0);
    dict
}

fn max_queued(settings: &ProjectSettings) -> u64 {
    settings.max_queued.unwrap_or(QUEUED_MAX).into()
}

#[interface(name = "org.stratavore1.Project")]
impl ProjectObject {
    /// Its name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        now(&self.shown).name.to_string()
    }

    /// What people call it.
    #[zbus(property)]
    fn description(&self) -> String {
        now(&self.shown).settings.description.clone()
    }

    /// The most live runners at a time; the highest value means that there is no cap.
    #[zbus(property)]
    fn max_runners(&self) -> u64 {
        now(&self.shown)
            .settings
            .max_runners
            .map_or(INFINITY, u64::from)
    }

    /// The most runners that wait for their turn at a time.
    #[zbus(property)]
    fn max_queued(&self) -> u64 {
        max_queued(&now(&self.shown).settings)
    }

    /// Tokens that a launch reserves which does not say how many it may use; the highest value
    /// means that there is no default.
    #[zbus(property)]
    fn default_tokens(&self) -> u64 {
        let project = now(&self.shown);
        project.settings.default_tokens.unwrap_or(INFINITY)
    }

    /// The limits of its slice, with the keys and types of Launch.
    #[zbus(property)]
    fn limits(&self) -> Dict {
        convert::limits(&now(&self.shown).settings.limits)
    }

    /// Its systemd slice.
    #[zbus(property(emits_changed_signal = "const"))]
    fn slice(&self) -> String {
        now(&self.shown).name.slice()
    }

    /// When it was made, in microseconds since 1970.
    #[zbus(property(emits_changed_signal = "const"))]
    fn created_at(&self) -> u64 {
        now(&self.shown).created_at.0
    }

    /// Its live runners on this host.
    #[zbus(property(emits_changed_signal = "false"))]
    fn live_runners(&self) -> u32 {
        let project = now(&self.shown);
        self.core.garden().live_of(&project.name)
    }
}
