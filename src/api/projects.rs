//! What is done to projects.

use super::auth::{Details, Verb};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::Options;
use crate::domain::event::Actor;
use crate::domain::kinds;
use crate::domain::project::ProjectSettings;
use crate::domain::{Error, ProjectName};

impl Core {
    pub(super) async fn create_project(
        &self,
        call: Call<'_>,
        name: &str,
        settings: &Options,
    ) -> Result<ProjectName> {
        let name: ProjectName = name.parse()?;
        let settings = ProjectSettings::default().with(&options::project(settings)?);
        let actor = self.projects_of(&call, &name).await?;
        let project = self.engine().create_project(name, settings, actor).await?;
        for warning in self.engine().unheld(&project) {
            tracing::warn!(message_id = kinds::LIMIT_WARNING.id, project = %project.name, "{warning}");
        }
        Ok(project.name)
    }

    pub(super) async fn set_project(
        &self,
        call: Call<'_>,
        name: &str,
        settings: &Options,
    ) -> Result<()> {
        let name: ProjectName = name.parse()?;
        let change = options::project(settings)?;
        if settings.is_empty() {
            return Err(Error::invalid("No setting is given.").into());
        }
        let actor = self.projects_of(&call, &name).await?;
        for warning in self
            .engine()
            .set_project(name.clone(), change, actor)
            .await?
        {
            tracing::warn!(message_id = kinds::LIMIT_WARNING.id, project = %name, "{warning}");
        }
        Ok(())
    }

    pub(super) async fn remove_project(
        &self,
        call: Call<'_>,
        name: &str,
        options: &Options,
    ) -> Result<()> {
        options::none(options)?;
        let name: ProjectName = name.parse()?;
        let actor = self.projects_of(&call, &name).await?;
        Ok(self.engine().remove_project(name, actor).await?)
    }

    async fn projects_of(&self, call: &Call<'_>, name: &ProjectName) -> Result<Actor> {
        let details = Details {
            project: name.to_string(),
            host: self.identity().host_name.clone(),
            ..Details::default()
        };
        self.authorise(call, Verb::ManageProjects, details).await?;
        Ok(self.actor(call).await)
    }
}
