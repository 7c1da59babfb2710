//! Making, changing and removing projects.

use super::apply::record;
use super::fault::Fail;
use super::writer::{release, savepoint};
use super::{read, row, words};
use crate::domain::event::{Actor, Draft, Event, EventType};
use crate::domain::project::{ProjectChange, ProjectSettings};
use crate::domain::{Project, ProjectName, Timestamp};
use serde_json::json;
use sqlx::SqliteConnection;

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

pub(super) async fn create(
    connection: &mut SqliteConnection,
    order: &Order,
    settings: ProjectSettings,
) -> Result<(Project, Event), Fail> {
    savepoint(connection).await?;
    let done = sqlx::query(
        "INSERT INTO projects (name, description, max_runners, limits, created_at)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING",
    )
    .bind(order.name.as_str())
    .bind(settings.description.as_str())
    .bind(settings.max_runners)
    .bind(row::json(&settings.limits)?)
    .bind(row::time(order.at))
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Err(words::project_exists(&order.name).into());
    }
    let event = record(
        connection,
        order.draft(EventType::ProjectCreated, &settings),
    )
    .await?;
    release(connection).await?;
    let project = Project {
        name: order.name.clone(),
        settings,
        live: 0,
        created_at: order.at,
    };
    Ok((project, event))
}

pub(super) async fn set(
    connection: &mut SqliteConnection,
    order: &Order,
    change: &ProjectChange,
) -> Result<(Project, Event), Fail> {
    savepoint(connection).await?;
    let mut project = existing(connection, &order.name).await?;
    project.settings = project.settings.with(change);
    sqlx::query(
        "UPDATE projects SET description = $2, max_runners = $3, limits = $4 WHERE name = $1",
    )
    .bind(order.name.as_str())
    .bind(project.settings.description.as_str())
    .bind(project.settings.max_runners)
    .bind(row::json(&project.settings.limits)?)
    .execute(&mut *connection)
    .await?;
    let event = record(
        connection,
        order.draft(EventType::ProjectChanged, &project.settings),
    )
    .await?;
    release(connection).await?;
    Ok((project, event))
}

pub(super) async fn remove(
    connection: &mut SqliteConnection,
    order: &Order,
) -> Result<Event, Fail> {
    savepoint(connection).await?;
    let project = existing(connection, &order.name).await?;
    if project.live > 0 {
        return Err(words::project_in_use(&order.name, project.live).into());
    }
    sqlx::query("DELETE FROM projects WHERE name = $1")
        .bind(order.name.as_str())
        .execute(&mut *connection)
        .await?;
    let event = record(
        connection,
        order.draft(EventType::ProjectRemoved, &project.settings),
    )
    .await?;
    release(connection).await?;
    Ok(event)
}

async fn existing(connection: &mut SqliteConnection, name: &ProjectName) -> Result<Project, Fail> {
    match read::project(&mut *connection, name).await? {
        Some(project) => Ok(project),
        None => Err(words::no_such_project(connection, name).await),
    }
}
