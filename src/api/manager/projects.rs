//! Methods of `org.stratavore1.Manager` about projects, and what holds them.

use crate::api::convert::Dict;
use crate::api::core::Core;
use crate::api::errors::Result;
use crate::api::tree;
use crate::api::values::Options;
use zbus::message::Header;
use zbus::{OwnedObjectPath, interface};

/// This block of the interface.
#[derive(Debug)]
pub(in crate::api) struct Projects(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Projects {
    /// Makes a project. Settings: description s; max-runners u, the most live runners at a
    /// time; max-queued u, the most that wait for their turn, 1000 without it; default-tokens t, what a
    /// launch reserves of budgets that does not say; and as limits of its slice, shared by all its runners: memory-max, memory-high,
    /// memory-swap-max, cpu-quota, cpu-weight, io-weight, tasks-max.
    #[zbus(out_args("path"))]
    async fn create_project(
        &self,
        #[zbus(header)] header: Header<'_>,
        name: &str,
        settings: Options,
    ) -> Result<OwnedObjectPath> {
        let call = self.0.enter(&header).await?;
        let name = self.0.create_project(call, name, &settings).await?;
        Ok(tree::project_path(&name))
    }

    /// Changes some settings of a project; limits take effect at once. "infinity" lifts one. What
    /// this host does not hold of them, where the configuration allows that, ListProjects tells.
    async fn set_project(
        &self,
        #[zbus(header)] header: Header<'_>,
        name: &str,
        settings: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.set_project(call, name, &settings).await
    }

    /// Removes a project without live or waiting runners, with its budgets and its hold.
    async fn remove_project(
        &self,
        #[zbus(header)] header: Header<'_>,
        name: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.remove_project(call, name, &options).await
    }

    /// All projects by name: name, description, max_runners, max_queued, default_tokens, live, queued,
    /// limits, slice, created_at; warnings, what this host does not hold of the limits, as far as it
    /// was found since the daemon began.
    #[zbus(out_args("projects"))]
    async fn list_projects(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_projects().await
    }

    /// Sets a hold: nothing new starts that it is about, until it ends by itself or is released.
    /// There is one for each scope; this one takes its place.
    ///
    /// The scope is fleet, project:NAME or label:KEY=VALUE. Options, all optional: until t,
    /// microseconds since 1970; freeze b, what runs is frozen on every host, and goes on by itself
    /// when the hold is over; reason s, one line for people, shown to everybody.
    async fn set_hold(
        &self,
        #[zbus(header)] header: Header<'_>,
        scope: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.set_hold(call, scope, &options).await
    }

    /// Ends a hold now.
    async fn release_hold(
        &self,
        #[zbus(header)] header: Header<'_>,
        scope: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.release_hold(call, scope, &options).await
    }

    /// All holds in force, by scope: scope, until (if it ends by itself), freeze, reason, set_at, actor.
    #[zbus(out_args("holds"))]
    async fn list_holds(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_holds().await
    }
}
