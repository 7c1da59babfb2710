//! Other hosts as callers see them: launches there through the store, and whose a runner of theirs is here.

use super::auth::{self, Decision, Details, Verb, decide};
use super::convert::{self, Dict};
use super::core::{Call, Core, NOBODYS};
use super::errors::Result;
use super::options;
use super::values::User;
use crate::domain::placed::Placed;
use crate::domain::{ProjectName, Runner, RunnerId};
use crate::engine::LaunchRequest;

impl Core {
    /// Id and name of the host that is meant; `None` = this one.
    pub(super) async fn elsewhere(&self, on: Option<&str>) -> Result<Option<(String, String)>> {
        let Some(on) = on else { return Ok(None) };
        let found = self.engine().host_called(on).await?;
        Ok(Some(found).filter(|(id, _)| *id != self.identity().host_id))
    }

    /// Launches on that host (id, name).
    pub(super) async fn launch_at(
        &self,
        call: &Call<'_>,
        (host, name): (String, String),
        project: ProjectName,
        command: Vec<String>,
        options: options::Launch,
    ) -> Result<RunnerId> {
        let asked = options.user.clone();
        let (uid, user) = self.owner_there(call, &project, asked, &name).await?;
        let request = LaunchRequest {
            spec: options.spec(project, command, uid, user),
            setenv: options.setenv,
            request_id: options.request_id,
            inputs: options.inputs,
            streams: options.streams,
            queue: options.queue,
            order: None,
        };
        let actor = self.actor(call).await;
        Ok(self.engine().launch_at(&host, request, actor).await?)
    }

    /// Whom a launch on another host is for, once the caller may launch for that user. The user is
    /// known there by name, and need not be known here.
    async fn owner_there(
        &self,
        call: &Call<'_>,
        project: &ProjectName,
        asked: Option<User>,
        host: &str,
    ) -> Result<(u32, String)> {
        let may = async |owner: u32, name: &str| {
            let details = Details {
                project: project.to_string(),
                owner: name.to_owned(),
                runner: String::new(),
                host: host.to_owned(),
            };
            self.authorise(call, Verb::Launch { owner }, details).await
        };
        let own = User::Uid(call.uid);
        let whom = match asked {
            Some(User::Name(name)) if self.users().name(call.uid).await.as_ref() != Some(&name) => {
                may(NOBODYS, &name).await?;
                // With the number that it has here, if any, so that a repeated request is the same
                // wherever it goes.
                let known = self.users().called(&name).await?;
                let known = known.filter(|(_, found)| *found == name);
                return Ok(known.unwrap_or((NOBODYS, name)));
            }
            Some(User::Uid(uid)) if uid != call.uid => {
                let verb = Verb::Launch { owner: uid };
                if decide(self.bus(), call.uid, verb) == Decision::Refuse {
                    return Err(auth::refused(verb).into());
                }
                User::Uid(uid)
            }
            _ => own,
        };
        let (uid, user) = self.users().find(&whom).await?;
        may(uid, &user).await?;
        Ok((uid, user))
    }

    /// The uid that counts as the runner's owner here: its user's, and of a runner of another host
    /// only if that number has the same name on both.
    pub(super) async fn owner_here(&self, runner: &Runner) -> u32 {
        let uid = runner.spec.uid;
        if runner.host == self.identity().host_id
            || self.users().name(uid).await.as_deref() == Some(&runner.spec.user)
        {
            return uid;
        }
        self.placer_here(runner).await.unwrap_or(NOBODYS)
    }

    /// Of a runner whose owner here is this uid. polkit's rules compare names, so one that means somebody else
    /// on another host is told with it.
    pub(super) fn details(&self, runner: &Runner, owner: u32) -> Details {
        let user = &runner.spec.user;
        Details {
            project: runner.spec.project.to_string(),
            owner: match owner {
                NOBODYS => format!("{user}@{}", runner.host),
                _ => user.clone(),
            },
            runner: runner.id.to_string(),
            host: self.identity().host_name.clone(),
        }
    }

    /// The uid of who placed a runner elsewhere from here, as themself: it is theirs, whatever their
    /// number is there.
    async fn placer_here(&self, runner: &Runner) -> Option<u32> {
        let placed = runner.spec.placed.as_ref()?;
        let uid = placed.uid?;
        let own = placed.host == self.identity().host_id
            && placed.user.as_ref() == Some(&runner.spec.user)
            && self.users().name(uid).await.as_ref() == Some(&runner.spec.user);
        own.then_some(uid)
    }
}

/// Where a runner was asked for, if that was another host.
pub(super) fn placed(placed: &Placed) -> Dict {
    let mut dict = Dict::new();
    convert::put(&mut dict, "host", placed.host.clone());
    convert::put(&mut dict, "name", placed.name.clone());
    convert::maybe(&mut dict, "uid", placed.uid);
    convert::maybe(&mut dict, "user", placed.user.clone());
    dict
}
