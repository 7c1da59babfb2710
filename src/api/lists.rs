//! The lists: runners, projects, events, page by page.

use super::convert::{self, Dict};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::Options;
use crate::domain::{ErrorKind, Runner, State};
use crate::ports::RunnerFilter;
use std::collections::HashMap;

/// A page that has to leave out what the caller may not find looks at so many pages of the
/// store at most.
const PAGES_MAX: u32 = 50;

impl Core {
    /// A page of runners. Labels of runners that the caller may not view are neither shown nor
    /// searched.
    pub(super) async fn list_runners(&self, call: Call<'_>, filter: &Options) -> Result<Vec<Dict>> {
        let (mut filter, who) = options::runner_filter(filter)?;
        if let Some(user) = who {
            filter.uid = Some(self.uid_of(&user).await?);
        }
        let wanted = filter.limit as usize;
        let mut views = Views::default();
        let mut out = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = self.page(&filter).await?;
            let last = page.len() < wanted;
            filter.after = page.last().map(|r| r.id);
            for runner in page {
                let viewed = views.may(self, &call, &runner).await;
                if !viewed && !filter.labels.is_empty() {
                    continue;
                }
                let mut dict = convert::public(&runner);
                if viewed {
                    convert::private(&mut dict, &runner);
                }
                out.push(dict);
                if out.len() == wanted {
                    return Ok(out);
                }
            }
            if last {
                break;
            }
        }
        Ok(out)
    }

    /// From the store; while that is away, live runners from memory.
    async fn page(&self, filter: &RunnerFilter) -> Result<Vec<Runner>> {
        match self.engine().runners(filter.clone()).await {
            Err(error)
                if error.kind == ErrorKind::StoreUnavailable
                    && filter.states.iter().all(|s| s.is_live()) =>
            {
                let mut live: Vec<Runner> = self
                    .engine()
                    .live()
                    .iter()
                    .filter(|r| matches(filter, r))
                    .map(|r| r.as_ref().clone())
                    .collect();
                live.sort_by_key(|r| std::cmp::Reverse(r.id));
                live.truncate(filter.limit as usize);
                Ok(live)
            }
            other => Ok(other?),
        }
    }

    pub(super) async fn list_projects(&self) -> Result<Vec<Dict>> {
        let projects = self.engine().projects().await?;
        Ok(projects.iter().map(convert::project).collect())
    }

    pub(super) async fn list_events(
        &self,
        after: u64,
        limit: u32,
        filter: &Options,
    ) -> Result<Vec<Dict>> {
        let filter = options::event_filter(after, limit, filter)?;
        let events = self.engine().events(filter).await?;
        Ok(events.iter().map(convert::event).collect())
    }
}

/// What a caller may view, asked once per project and owner.
#[derive(Debug, Default)]
struct Views {
    known: HashMap<(String, u32), bool>,
    /// polkit does not answer: one wait is enough for a list.
    unavailable: bool,
}

impl Views {
    async fn may(&mut self, core: &Core, call: &Call<'_>, runner: &Runner) -> bool {
        if runner.spec.uid != call.uid && call.uid != 0 && self.unavailable {
            return false;
        }
        let key = (runner.spec.project.to_string(), runner.spec.uid);
        if let Some(may) = self.known.get(&key) {
            return *may;
        }
        let may = match core.may_view(call, runner).await {
            Ok(may) => may,
            Err(_) => {
                self.unavailable = true;
                false
            }
        };
        self.known.insert(key, may);
        may
    }
}

fn matches(filter: &RunnerFilter, runner: &Runner) -> bool {
    let spec = &runner.spec;
    let state: State = runner.state();
    filter.project.as_ref().is_none_or(|p| *p == spec.project)
        && (filter.states.is_empty() || filter.states.contains(&state))
        && filter
            .labels
            .iter()
            .all(|(k, v)| spec.labels.get(k) == Some(v))
        && filter.uid.is_none_or(|uid| uid == spec.uid)
        && filter
            .name
            .as_ref()
            .is_none_or(|n| spec.name.as_ref() == Some(n))
        && filter.since.is_none_or(|t| runner.created_at >= t)
        && filter.until.is_none_or(|t| runner.created_at < t)
        && filter.after.is_none_or(|id| runner.id < id)
}
