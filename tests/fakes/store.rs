//! A store in memory: the same decisions, no durability.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use stratavore::domain::admission::{Account, Ask, Gate, Ledger, Seat};
use stratavore::domain::event::{self, Actor, Draft, Event, EventType};
use stratavore::domain::project::{ProjectChange, ProjectSettings};
use stratavore::domain::runner::Change;
use stratavore::domain::{Error, ErrorKind, Project, ProjectName, Runner, RunnerId, Timestamp};
use stratavore::ports::{
    Admitted, Applied, EventFilter, NewRunner, Pruned, RunnerFilter, Store, StoreError,
};

#[derive(Debug, Default)]
struct Rows {
    runners: BTreeMap<RunnerId, Runner>,
    projects: BTreeMap<ProjectName, (ProjectSettings, Timestamp, u64)>,
    requests: BTreeMap<(u32, String), (String, RunnerId)>,
    events: Vec<Event>,
}

#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: Mutex<Rows>,
    away: AtomicBool,
}

impl MemoryStore {
    /// From now on it does not answer, or does again.
    pub fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Puts a row there, decided by nobody.
    pub fn put(&self, runner: Runner) {
        let mut rows = self.rows.lock().expect("no panic in here");
        rows.runners.insert(runner.id, runner);
    }

    fn rows(&self) -> Result<MutexGuard<'_, Rows>, StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("unplugged".to_owned())),
            false => Ok(self.rows.lock().expect("no panic in here")),
        }
    }
}

impl Rows {
    fn write(&mut self, draft: Draft) -> Event {
        let event = Event {
            position: self.events.len() as u64 + 1,
            draft,
        };
        self.events.push(event.clone());
        event
    }

    fn live(&self, project: &ProjectName) -> u32 {
        let all = self.runners.values();
        all.filter(|r| r.spec.project == *project && r.state().is_live())
            .count() as u32
    }

    fn gates(
        &self,
        project: &ProjectName,
        host: &str,
        max: Option<u32>,
    ) -> Result<Vec<Gate>, Error> {
        let (settings, ..) = self
            .projects
            .get(project)
            .ok_or_else(|| no_project(project))?;
        Ok(self
            .ledger(project, settings.max_runners, host, max)
            .gates(&Ask {
                id: RunnerId::from_uuid(uuid::Uuid::nil()),
                project: project.clone(),
                host: host.to_owned(),
                labels: Default::default(),
                session: None,
                priority: 0,
                tokens: None,
                since: Timestamp(0),
            }))
    }

    fn ledger(
        &self,
        project: &ProjectName,
        project_max: Option<u32>,
        host: &str,
        max: Option<u32>,
    ) -> Ledger {
        let live = self
            .runners
            .values()
            .filter(|r| r.state().is_live())
            .count() as u32;
        let account = Account {
            live: self.live(project),
            max: project_max,
            ..Account::default()
        };
        let seat = Seat {
            name: host.to_owned(),
            live,
            max,
            cordon: None,
        };
        Ledger::simple(project.clone(), account, host.to_owned(), seat)
    }

    fn project(&self, name: &ProjectName) -> Option<Project> {
        let (settings, created_at, _) = self.projects.get(name)?;
        Some(Project {
            name: name.clone(),
            settings: settings.clone(),
            live: self.live(name),
            queued: 0,
            created_at: *created_at,
        })
    }

    fn of_project(
        &mut self,
        kind: EventType,
        name: &ProjectName,
        actor: Actor,
        at: Timestamp,
    ) -> Event {
        let seq = match self.projects.get_mut(name) {
            Some((.., seq)) => {
                *seq += 1;
                *seq
            }
            None => 1,
        };
        self.write(Draft {
            kind,
            project: name.to_string(),
            subject: format!("project/{name}"),
            seq,
            at,
            actor,
            data: serde_json::json!({"project": name.as_str()}),
        })
    }
}

fn no_project(name: &ProjectName) -> Error {
    Error::new(
        ErrorKind::NoSuchProject,
        format!("There is no project “{name}”."),
    )
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn admit(&self, new: NewRunner) -> Result<Admitted, StoreError> {
        let mut rows = self.rows()?;
        if let Some(key) = &new.request {
            match rows.requests.get(&(key.uid, key.id.clone())) {
                Some((digest, id)) if *digest == key.digest => {
                    return Ok(Admitted::Repeated(rows.runners[id].clone()));
                }
                Some(_) => {
                    return Err(Error::new(ErrorKind::Conflict, "Other parameters.").into());
                }
                None => {}
            }
        }
        let project = new.spec.project.clone();
        let gates = rows.gates(&project, &new.host, new.host_max)?;
        let shut = gates.into_iter().find(|g| !g.open());
        if let Some(refusal) = shut.map(Gate::shut) {
            let gate = refusal.gate;
            let error = refusal.error;
            let event = rows.write(Draft {
                kind: EventType::AdmissionDenied,
                project: project.to_string(),
                subject: format!("project/{project}"),
                seq: 1,
                at: new.at,
                actor: new.actor,
                data: serde_json::json!({"gate": gate.name}),
            });
            return Ok(Admitted::Denied { gate, error, event });
        }
        let mut runner = Runner::admitted(new.id, new.spec, new.host, new.at);
        runner.seq = 1;
        let draft = event::of_runner(EventType::RunnerStarting, &runner, None, &new.actor, new.at);
        let event = rows.write(draft);
        rows.runners.insert(runner.id, runner.clone());
        if let Some(key) = new.request {
            rows.requests
                .insert((key.uid, key.id), (key.digest, runner.id));
        }
        Ok(Admitted::New {
            runner,
            project_limits: rows.projects[&project].0.limits.clone(),
            event,
        })
    }

    async fn gates(
        &self,
        project: &ProjectName,
        host: &str,
        host_max: Option<u32>,
    ) -> Result<Vec<Gate>, StoreError> {
        Ok(self.rows()?.gates(project, host, host_max)?)
    }

    async fn apply(&self, change: Change) -> Result<Applied, StoreError> {
        let mut rows = self.rows()?;
        let missing = || Error::new(ErrorKind::NoSuchRunner, "No such runner.");
        let mut runner = rows.runners.get(&change.id).cloned().ok_or_else(missing)?;
        let old = runner.apply(&change.step, change.at)?;
        let event = EventType::of_step(&change.step).map(|kind| {
            runner.seq += 1;
            let draft = event::of_runner(kind, &runner, Some(old), &change.actor, change.at);
            rows.write(draft)
        });
        rows.runners.insert(runner.id, runner.clone());
        Ok(Applied { runner, old, event })
    }

    async fn runner(&self, id: RunnerId) -> Result<Option<Runner>, StoreError> {
        Ok(self.rows()?.runners.get(&id).cloned())
    }

    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        let rows = self.rows()?;
        let fits = |r: &&Runner| {
            filter.project.as_ref().is_none_or(|p| *p == r.spec.project)
                && match filter.states.is_empty() {
                    true => r.state().is_live(),
                    false => filter.states.contains(&r.state()),
                }
                && filter
                    .labels
                    .iter()
                    .all(|(k, v)| r.spec.labels.get(k) == Some(v))
                && filter.uid.is_none_or(|u| u == r.spec.uid)
                && filter
                    .name
                    .as_ref()
                    .is_none_or(|n| r.spec.name.as_ref() == Some(n))
                && filter
                    .id_prefix
                    .as_ref()
                    .is_none_or(|p| r.id.to_string().starts_with(p))
                && filter.since.is_none_or(|t| r.created_at >= t)
                && filter.until.is_none_or(|t| r.created_at < t)
                && filter.after.is_none_or(|id| r.id < id)
        };
        let found = rows.runners.values().rev().filter(fits);
        Ok(found.take(filter.limit as usize).cloned().collect())
    }

    async fn live(&self, host: &str) -> Result<Vec<Runner>, StoreError> {
        let rows = self.rows()?;
        let all = rows.runners.values();
        Ok(all
            .filter(|r| r.host == host && r.state().is_live())
            .cloned()
            .collect())
    }

    async fn create_project(
        &self,
        name: ProjectName,
        settings: ProjectSettings,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        let mut rows = self.rows()?;
        if rows.projects.contains_key(&name) {
            let message = format!("There is a project “{name}” already.");
            return Err(Error::new(ErrorKind::AlreadyExists, message).into());
        }
        rows.projects.insert(name.clone(), (settings, at, 0));
        let event = rows.of_project(EventType::ProjectCreated, &name, actor, at);
        let project = rows.project(&name).ok_or_else(|| no_project(&name))?;
        Ok((project, event))
    }

    async fn set_project(
        &self,
        name: ProjectName,
        change: ProjectChange,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        let mut rows = self.rows()?;
        let row = rows
            .projects
            .get_mut(&name)
            .ok_or_else(|| no_project(&name))?;
        row.0 = row.0.with(&change);
        let event = rows.of_project(EventType::ProjectChanged, &name, actor, at);
        let project = rows.project(&name).ok_or_else(|| no_project(&name))?;
        Ok((project, event))
    }

    async fn remove_project(
        &self,
        name: ProjectName,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Event, StoreError> {
        let mut rows = self.rows()?;
        if !rows.projects.contains_key(&name) {
            return Err(no_project(&name).into());
        }
        if rows.live(&name) > 0 {
            let message = format!("Project {name} has live runners; stop them first.");
            return Err(Error::new(ErrorKind::Conflict, message).into());
        }
        let event = rows.of_project(EventType::ProjectRemoved, &name, actor, at);
        rows.projects.remove(&name);
        Ok(event)
    }

    async fn project(&self, name: &ProjectName) -> Result<Option<Project>, StoreError> {
        Ok(self.rows()?.project(name))
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        let rows = self.rows()?;
        Ok(rows
            .projects
            .keys()
            .filter_map(|n| rows.project(n))
            .collect())
    }

    async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        let rows = self.rows()?;
        let fits = |e: &&Event| {
            e.position > filter.after
                && filter
                    .project
                    .as_ref()
                    .is_none_or(|p| p.as_str() == e.draft.project)
                && filter
                    .runner
                    .is_none_or(|r| e.draft.subject == format!("runner/{r}"))
                && filter.kind.is_none_or(|k| k == e.draft.kind)
        };
        let found: Vec<Event> = rows.events.iter().filter(fits).cloned().collect();
        let most = found.len().min(filter.limit as usize);
        Ok(match filter.newest {
            true => found[found.len() - most..].to_vec(),
            false => found[..most].to_vec(),
        })
    }

    async fn prune(&self, _before: Timestamp, _batch: u32) -> Result<Pruned, StoreError> {
        Ok(Pruned::default())
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.rows().map(drop)
    }

    async fn close(&self) {}
}
