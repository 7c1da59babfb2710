//! Making, changing and removing projects.

use super::apply::record;
use super::fail::Fail;
use super::link::{Link, Value};
use super::locks::Locks;
use super::{Work, holds, read, words};
use crate::domain::event::{Actor, Draft, Event, EventType};
use crate::domain::hold::HoldScope;
use crate::domain::project::{ProjectChange, ProjectSettings};
use crate::domain::{Project, ProjectName, Timestamp};
use async_trait::async_trait;
use serde_json::json;

/// Which project, on whose order, when.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) name: ProjectName,
    pub(super) actor: Actor,
    pub(super) at: Timestamp,
}

impl Order {
    fn draft(&self, kind: EventType, settings: &ProjectSettings) -> Draft {
        Draft {
            kind,
            project: self.name.to_string(),
            subject: format!("project/{}", self.name),
            seq: 0,
            at: self.at,
            actor: self.actor.clone(),
            data: json!({ "project": self.name.as_str(), "settings": settings }),
        }
    }
}

#[derive(Debug)]
pub(super) struct Create {
    pub(super) order: Order,
    pub(super) settings: ProjectSettings,
}

#[async_trait]
impl Work for Create {
    type Done = (Project, Event);

    fn locks(&self, locks: &mut Locks) {
        locks.project(&self.order.name);
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Self { order, settings } = self;
        let made = on
            .run(
                "INSERT INTO projects (name, description, max_runners, limits, created_at, max_queued, default_tokens)
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING",
                vec![
                    Value::from(&order.name),
                    settings.description.as_str().into(),
                    settings.max_runners.into(),
                    Value::json(&settings.limits)?,
                    order.at.into(),
                    settings.max_queued.into(),
                    settings.default_tokens.into(),
                ],
            )
            .await?;
        if made == 0 {
            return Err(words::project_exists(&order.name).into());
        }
        let event = record(on, order.draft(EventType::ProjectCreated, settings)).await?;
        let project = Project {
            name: order.name.clone(),
            settings: settings.clone(),
            live: 0,
            queued: 0,
            created_at: order.at,
        };
        Ok((project, event))
    }
}

#[derive(Debug)]
pub(super) struct Set {
    pub(super) order: Order,
    pub(super) change: ProjectChange,
}

#[async_trait]
impl Work for Set {
    type Done = (Project, Event);

    fn locks(&self, locks: &mut Locks) {
        locks.project(&self.order.name);
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let mut project = existing(on, &self.order.name).await?;
        project.settings = project.settings.with(&self.change);
        on.run(
            "UPDATE projects SET description = $2, max_runners = $3, limits = $4, max_queued = $5, default_tokens = $6
              WHERE name = $1",
            vec![
                Value::from(&self.order.name),
                project.settings.description.as_str().into(),
                project.settings.max_runners.into(),
                Value::json(&project.settings.limits)?,
                project.settings.max_queued.into(),
                project.settings.default_tokens.into(),
            ],
        )
        .await?;
        let draft = self
            .order
            .draft(EventType::ProjectChanged, &project.settings);
        let event = record(on, draft).await?;
        Ok((project, event))
    }
}

#[derive(Debug)]
pub(super) struct Remove {
    pub(super) order: Order,
}

#[async_trait]
impl Work for Remove {
    type Done = Vec<Event>;

    fn locks(&self, locks: &mut Locks) {
        // Triggers of what goes with it change the row of the fleet.
        locks.fleet();
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        let Order { name, actor, at } = &self.order;
        let project = existing(on, name).await?;
        if project.live + project.queued > 0 {
            return Err(words::project_in_use(&project).into());
        }
        on.run(
            "DELETE FROM projects WHERE name = $1",
            vec![Value::from(name)],
        )
        .await?;
        // Its budgets and its hold go with it: the next project of this name is another one.
        let scope = HoldScope::Project(name.clone());
        on.run(
            "DELETE FROM budgets WHERE scope = $1",
            vec![scope.to_string().into()],
        )
        .await?;
        let released = holds::release_of(on, &scope, actor, *at).await?;
        let draft = self
            .order
            .draft(EventType::ProjectRemoved, &project.settings);
        let removed = record(on, draft).await?;
        Ok(released.into_iter().chain([removed]).collect())
    }
}

async fn existing(on: &mut Link, name: &ProjectName) -> Result<Project, Fail> {
    match read::project(on, name).await? {
        Some(project) => Ok(project),
        None => Err(words::no_such_project(on, name, false).await),
    }
}
