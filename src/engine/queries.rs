//! Looking things up: by id, unique prefix, name, project or label; and what is known of them.

use super::{Engine, host_error, store_error};
use crate::domain::admission::Gate;
use crate::domain::event::Event;
use crate::domain::exit::Usage;
use crate::domain::logs::LogsRequest;
use crate::domain::name::shown;
use crate::domain::placement::{self, Place, Wanted};
use crate::domain::{
    Error, ErrorKind, Project, ProjectName, Runner, RunnerId, RunnerSpec, State, project,
};
use crate::ports::{EventFilter, RunnerFilter};
use std::os::fd::OwnedFd;

/// The shortest prefix of an id, of a runner or a host, that is looked up: the first digits of ids made in the same
/// months are the same.
pub(super) const PREFIX_MIN: usize = 4;

/// What is said of a word that would be a prefix if it were longer; else nothing.
pub(super) fn too_short(text: &str) -> String {
    let begins = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    match begins && text.len() < PREFIX_MIN {
        true => format!(" A prefix of an id has at least {PREFIX_MIN} characters."),
        false => String::new(),
    }
}

impl Engine {
    /// Every gate of a launch with its numbers; nothing is launched.
    pub async fn explain(&self, spec: &RunnerSpec) -> Result<Vec<Gate>, Error> {
        let (host, max) = (&self.0.settings.host, self.0.terms().host_max);
        let gates = self.0.store.explain(spec, host, max, None).await;
        gates.map_err(store_error)
    }

    /// The same on another host (its id).
    pub async fn explain_at(&self, host: &str, spec: &RunnerSpec) -> Result<Vec<Gate>, Error> {
        let (_, hosts) = self.hosts().await?;
        let found = hosts.iter().find(|h| h.about.host == host);
        let max = found.and_then(|h| h.about.max_runners);
        let gates = self.0.store.explain(spec, host, max, None).await;
        gates.map_err(store_error)
    }

    /// All hosts as places for such a launch, the best first.
    pub async fn places(&self, wanted: &Wanted) -> Result<Vec<Place>, Error> {
        let (clock, hosts) = self.0.store.hosts().await.map_err(store_error)?;
        Ok(placement::rank(&hosts, clock, wanted))
    }

    /// Every gate of a runner that waits, with its numbers.
    pub async fn waits_for(&self, runner: &Runner) -> Result<Vec<Gate>, Error> {
        let ours = runner.host == self.0.settings.host;
        let max = self.0.terms().host_max.filter(|_| ours);
        let id = Some(runner.id);
        let gates = self.0.store.explain(&runner.spec, &runner.host, max, id);
        gates.await.map_err(store_error)
    }

    /// What a live runner has used up to now, or an ended one in all.
    pub async fn usage(&self, runner: &Runner) -> Usage {
        match runner.usage {
            Some(usage) => usage,
            None => self.0.host.usage(runner.id).await.unwrap_or_default(),
        }
    }

    /// In which runner of this host a process is; `None` = in none that is known here.
    pub async fn runner_of(&self, pid: u32) -> Result<Option<RunnerId>, Error> {
        let found = self.0.host.runner_of(pid).await.map_err(host_error)?;
        Ok(found.filter(|id| self.live_runner(*id).is_some()))
    }

    /// Begins to read the output of a runner, live or ended, for this user.
    pub async fn logs(
        &self,
        id: RunnerId,
        caller: u32,
        request: LogsRequest,
    ) -> Result<OwnedFd, Error> {
        let log = self.0.host.logs(id, caller, request).await;
        log.map_err(host_error)
    }

    /// The runner that `text` means: its id; else the live runner of this name; else a unique
    /// prefix of an id, live ones first; else the newest ended runner of this name.
    pub async fn resolve(&self, text: &str) -> Result<Runner, Error> {
        // Ids are printed in small letters; who types one with capitals means the same.
        let lower = text.to_ascii_lowercase();
        if let Ok(id) = lower.parse::<RunnerId>() {
            return self.runner(id).await;
        }
        let live = self.live();
        let all = || live.iter().map(AsRef::as_ref);
        if let Some(found) = only(text, all().filter(|r| r.spec.name.as_deref() == Some(text)))? {
            return Ok(found);
        }
        let is_prefix =
            text.len() >= PREFIX_MIN && lower.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if is_prefix {
            let begins = |r: &&Runner| r.id.to_string().starts_with(&lower);
            if let Some(found) = only(text, all().filter(begins))? {
                return Ok(found);
            }
            let filter = RunnerFilter {
                id_prefix: Some(lower.clone()),
                states: State::ALL.to_vec(),
                limit: 2,
                ..RunnerFilter::default()
            };
            if let Some(found) = only(text, self.runners(filter).await?.iter())? {
                return Ok(found);
            }
        }
        let filter = RunnerFilter {
            name: Some(text.to_owned()),
            states: State::ALL.to_vec(),
            limit: 1,
            ..RunnerFilter::default()
        };
        self.runners(filter)
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NoSuchRunner,
                    format!(
                        "No runner has the id, prefix or name “{}”.{} See: stratavorectl list --all.",
                        shown(text),
                        too_short(text)
                    ),
                )
            })
    }

    /// A runner by its id, ended ones included.
    pub async fn runner(&self, id: RunnerId) -> Result<Runner, Error> {
        if let Some(runner) = self.live_runner(id) {
            return Ok(runner.as_ref().clone());
        }
        self.0
            .store
            .runner(id)
            .await
            .map_err(store_error)?
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NoSuchRunner,
                    format!(
                        "There is no runner {id}; ended ones are kept for the configured retention."
                    ),
                )
            })
    }

    /// A page of runners.
    pub async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, Error> {
        self.0.store.runners(filter).await.map_err(store_error)
    }

    /// A page of events.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, Error> {
        self.0.store.events(filter).await.map_err(store_error)
    }

    /// One project.
    pub async fn project(&self, name: &ProjectName) -> Result<Project, Error> {
        let found = self.0.store.project(name).await.map_err(store_error)?;
        found.ok_or_else(|| project::unknown(name, None, true))
    }

    /// All projects, by name.
    pub async fn projects(&self) -> Result<Vec<Project>, Error> {
        self.0.store.projects().await.map_err(store_error)
    }
}

/// The only one of these; an error if there are several.
fn only<'a>(text: &str, found: impl Iterator<Item = &'a Runner>) -> Result<Option<Runner>, Error> {
    let found: Vec<_> = found.take(3).collect();
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ => {
            let ids: Vec<_> = found.iter().map(|r| r.id.to_string()).collect();
            Err(Error::new(
                ErrorKind::AmbiguousName,
                format!(
                    "“{}” means several runners, among them {}. Give an id.",
                    shown(text),
                    ids.join(", ")
                ),
            ))
        }
    }
}
