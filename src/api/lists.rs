//! The lists: runners, projects, events, page by page.

use super::auth::{Details, Verb};
use super::convert::{self, Dict};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::Options;
use crate::domain::{ErrorKind, Runner, State, kinds};
use crate::engine::Noted;
use crate::ports::RunnerFilter;
use futures_util::StreamExt;
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;

/// Rows looked at together where some may have to be left out.
const LOOK_AT: u32 = 200;
/// Questions to the agent about what runners use, at a time.
const USAGES_AT_ONCE: usize = 32;
/// How long they may take in all.
const USAGES_TIME: Duration = Duration::from_secs(5);

impl Core {
    /// A page of runners. Labels of runners that the caller may not view are neither shown nor
    /// searched.
    pub(super) async fn list_runners(&self, call: Call<'_>, filter: &Options) -> Result<Vec<Dict>> {
        let options::Listing {
            mut filter,
            user,
            usage,
        } = options::runner_filter(filter)?;
        if let Some(user) = user {
            filter.uid = Some(self.uid_of(&user).await?);
        }
        if let Some(host) = &filter.host {
            filter.host = Some(self.engine().host_called(host).await?.0);
        }
        let wanted = filter.limit as usize;
        let searched = !filter.labels.is_empty();
        if searched {
            filter.limit = filter.limit.max(LOOK_AT);
        }
        let mut views = Views::default();
        let (mut out, mut live) = (Vec::new(), Vec::new());
        // Each turn fills the page, is the last one, or hides another project's user from the
        // next: so it ends, and what others have made keeps nobody from finding the own.
        'pages: loop {
            let page = self.page(&filter).await?;
            let last = page.len() < filter.limit as usize;
            filter.after = page.last().map(|r| r.id);
            for runner in page {
                let viewed = views.may(self, &call, &runner).await;
                if !viewed && searched {
                    let hidden = (runner.spec.project.clone(), runner.spec.uid);
                    if !filter.hidden.contains(&hidden) {
                        filter.hidden.push(hidden);
                    }
                    continue;
                }
                let mut dict = convert::public(&runner);
                if viewed {
                    convert::private(&mut dict, &runner);
                }
                // What a peer's runner uses is known there.
                let here = !self.engine().is_peers(&runner);
                if usage && here && runner.state().is_live() {
                    live.push((out.len(), runner));
                }
                out.push(dict);
                if out.len() == wanted {
                    break 'pages;
                }
            }
            if last {
                break;
            }
        }
        let used = live.into_iter().map(|(at, runner)| {
            let core = self.clone();
            async move { (at, convert::usage(&runner, &core.usage(&runner).await)) }
        });
        let mut used = futures_util::stream::iter(used).buffer_unordered(USAGES_AT_ONCE);
        // What an agent that hangs does not tell in time is left out.
        let until = tokio::time::Instant::now() + USAGES_TIME;
        while let Ok(Some((at, usage))) = tokio::time::timeout_at(until, used.next()).await {
            convert::put(&mut out[at], "usage", usage);
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

    /// Compares rows and runners; what was to be done, and unless it is a dry run, is done.
    pub(super) async fn reconcile(&self, call: Call<'_>, options: &Options) -> Result<Vec<Dict>> {
        let dry_run = options::reconcile(options)?;
        let details = Details {
            host: self.identity().host_name.clone(),
            ..Details::default()
        };
        self.authorise(&call, Verb::ManageHost, details).await?;
        if !dry_run {
            tracing::info!(
                message_id = kinds::RECONCILIATION_ASKED.id,
                uid = call.uid,
                "Rows and runners are compared at the request of uid {}",
                call.uid
            );
        }
        let steps = self.engine().reconcile(dry_run).await?;
        if !dry_run {
            let noted = Noted {
                project: String::new(),
                subject: format!("host/{}", self.identity().host_id),
                result: "ok".to_owned(),
                data: json!({ "steps": steps.len() }),
            };
            let actor = self.actor(&call).await;
            self.engine().note("act.reconcile", noted, actor);
        }
        Ok(steps.iter().map(convert::step).collect())
    }

    pub(super) async fn list_projects(&self) -> Result<Vec<Dict>> {
        let projects = self.engine().projects().await?;
        let described = |project| {
            let mut dict = convert::project(project);
            let unheld = self.engine().unheld(project);
            if !unheld.is_empty() {
                convert::put(&mut dict, "warnings", unheld);
            }
            dict
        };
        Ok(projects.iter().map(described).collect())
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
        && filter.host.as_ref().is_none_or(|h| *h == runner.host)
        && (filter.states.is_empty() || filter.states.contains(&state))
        && filter
            .labels
            .iter()
            .all(|(k, v)| spec.labels.get(k) == Some(v))
        && filter.uid.is_none_or(|uid| uid == spec.uid)
        && !filter
            .hidden
            .iter()
            .any(|(project, uid)| *project == spec.project && *uid == spec.uid)
        && filter
            .name
            .as_ref()
            .is_none_or(|n| spec.name.as_ref() == Some(n))
        && filter.since.is_none_or(|t| runner.created_at >= t)
        && filter.until.is_none_or(|t| runner.created_at < t)
        && filter.after.is_none_or(|id| runner.id < id)
}
