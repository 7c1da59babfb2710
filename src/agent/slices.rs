//! Projects' slices: their limits, put in force once and remembered as long as the slice lives.

use super::hub::{Agent, lock};
use super::policy::{check_limits, refusal};
use super::systemd::{Fault, SLICE};
use super::{properties, readback};
use crate::domain::units::INFINITY;
use crate::domain::{Limits, ProjectName};
use crate::wire::{Refusal, RefusalCode, Unenforced};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What is in force on a slice, and on which making of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InForce {
    limits: Limits,
    generation: Option<u64>,
    unheld: Vec<readback::Unheld>,
}

type Slot = Arc<tokio::sync::Mutex<Option<InForce>>>;

/// Slices remembered. What is forgotten is read from the kernel again.
const SLOTS: usize = 4096;

/// All slices seen, each with a lock: two launches of a project change it one after the other.
#[derive(Debug, Default)]
pub(super) struct Slices(Mutex<HashMap<ProjectName, Slot>>);

impl Slices {
    fn slot(&self, project: &ProjectName) -> Slot {
        let mut all = lock(&self.0);
        if all.len() >= SLOTS && !all.contains_key(project) {
            // Whoever uses or awaits one has a copy of it.
            all.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        all.entry(project.clone()).or_default().clone()
    }
}

impl Agent {
    /// Sees to it that the project's slice has exactly these limits. Returns warnings.
    pub(super) async fn set_slice(
        &self,
        project: &ProjectName,
        limits: &Limits,
        unenforced: Unenforced,
    ) -> Result<Vec<String>, Refusal> {
        check_limits(limits)?;
        let limits = of_slice(limits);
        // Ceilings are for runners.
        let judge = |unheld: &[_]| readback::judge(unheld, unenforced, &Limits::default());
        let slot = self.slices.slot(project);
        let mut known = slot.lock().await;
        let cgroup = self.cgroups.slice(project);
        let generation = self.cgroups.generation(&cgroup);
        if let Some(known) = &*known
            && known.limits == limits
            && known.generation == generation
        {
            return judge(&known.unheld);
        }
        judge(&self.lacking(&limits))?;
        *known = None;
        let before = self
            .put(project, &limits, generation)
            .await
            .map_err(|fault| {
                refusal(
                    RefusalCode::Failed,
                    format!("The limits of project {project} can't be set: {fault}."),
                )
            })?;
        let unheld = match self.cgroups.generation(&cgroup) {
            Some(_) => {
                self.unheld_at_last(&cgroup, &properties::wanted(&limits), None)
                    .await
            }
            // Without limits and without runners there is no slice, and none is needed.
            None => Vec::new(),
        };
        let warnings = match judge(&unheld) {
            Ok(warnings) => warnings,
            Err(refused) => {
                self.take_back(project, before).await;
                return Err(refused);
            }
        };
        let generation = self.cgroups.generation(&cgroup);
        *known = Some(InForce {
            limits,
            generation,
            unheld,
        });
        Ok(warnings)
    }

    /// Sees to it that a slice that somebody may have made again has its limits: those it was
    /// given last, else these. Returns warnings.
    pub(super) async fn keep_slice(
        &self,
        project: &ProjectName,
        limits: &Limits,
        unenforced: Unenforced,
    ) -> Result<Vec<String>, Refusal> {
        let slot = self.slices.slot(project);
        let known = slot.lock().await.clone();
        let generation = self.cgroups.generation(&self.cgroups.slice(project));
        match known {
            Some(known) if known.generation == generation => {
                readback::judge(&known.unheld, unenforced, &Limits::default())
            }
            Some(known) => self.set_slice(project, &known.limits, unenforced).await,
            None => self.set_slice(project, limits, unenforced).await,
        }
    }

    /// Puts limits on a slice; returns the properties it had, `None` = it was made just now.
    async fn put(
        &self,
        project: &ProjectName,
        limits: &Limits,
        generation: Option<u64>,
    ) -> Result<Option<properties::Properties>, Fault> {
        let unit = project.slice();
        let wanted = properties::live(limits, INFINITY);
        if generation.is_none() {
            if *limits == Limits::default() {
                return Ok(None);
            }
            let description = format!("Stratavore project {project}");
            match self
                .systemd
                .start_slice(&unit, &properties::slice(limits, &description))
                .await
            {
                Err(fault) if fault.is_unit_exists() => self.systemd.start(&unit).await?,
                other => return other.map(|()| None),
            }
        }
        let before = self
            .systemd
            .numbers(&unit, SLICE, &properties::LIVE)
            .await?;
        if before != wanted
            && let Err(fault) = self.systemd.set(&unit, &wanted).await
        {
            let _ = self.systemd.set(&unit, &before).await;
            return Err(fault);
        }
        Ok(Some(before))
    }

    async fn take_back(&self, project: &ProjectName, before: Option<properties::Properties>) {
        let unit = project.slice();
        let _ = match before {
            Some(before) => self.systemd.set(&unit, &before).await,
            None => self.systemd.stop(&unit).await,
        };
    }

    /// Stops a project's empty slice and forgets its limits.
    pub(super) async fn remove_slice(&self, project: &ProjectName) -> Result<(), Refusal> {
        let slot = self.slices.slot(project);
        let mut known = slot.lock().await;
        if self.cgroups.populated(&self.cgroups.slice(project)) {
            return Err(refusal(
                RefusalCode::Failed,
                format!(
                    "The slice of project {project} still has processes; stop its runners first."
                ),
            ));
        }
        let unit = project.slice();
        self.systemd.stop(&unit).await.map_err(|fault| {
            refusal(
                RefusalCode::Failed,
                format!("The slice {unit} can't be stopped: {fault}."),
            )
        })?;
        self.drop_settings(&unit);
        // The slot stays: somebody may wait for it, and a second one would be a second lock.
        *known = None;
        Ok(())
    }

    /// Removes what [`super::systemd::Systemd::set`] has left for a unit until the next boot.
    pub(super) fn drop_settings(&self, unit: &str) {
        let folder = match (self.user, std::env::var_os("XDG_RUNTIME_DIR")) {
            (Some(_), Some(runtime)) => PathBuf::from(runtime).join("systemd/user.control"),
            (Some(_), None) => return,
            (None, _) => PathBuf::from("/run/systemd/system.control"),
        };
        let _ = std::fs::remove_dir_all(folder.join(format!("{unit}.d")));
    }
}

/// The limits a slice can have: the others are a runner's.
fn of_slice(limits: &Limits) -> Limits {
    Limits {
        runtime_max: None,
        stop_timeout: None,
        oom_policy: None,
        kill_signal: None,
        ..limits.clone()
    }
}
