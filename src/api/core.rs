//! What the methods do: count the caller in, parse, authorise, ask the engine.

use super::auth::{self, Decision, Details, Verb, decide};
use super::callers::{Callers, Place, Process};
use super::convert::{self, Dict};
use super::errors::Result;
use super::options;
use super::polkit::Polkit;
use super::tree::Garden;
use super::users::Users;
use super::values::{Options, User};
use super::{Bus, Identity};
use crate::domain::admission::Gate;
use crate::domain::event::Actor;
use crate::domain::kinds;
use crate::domain::{Limits, ProjectName, Runner, RunnerId, State, Usage, signal, spec};
use crate::engine::{Engine, LaunchRequest, Refusals};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zbus::Connection;
use zbus::message::{Flags, Header};

/// For so long the usage of a live runner is taken for current: it costs a question to the agent.
const USAGE_FRESH: Duration = Duration::from_millis(500);

/// An owner that is no caller: the last uid means "none" to the kernel.
pub(super) const NOBODYS: u32 = u32::MAX;

/// What is asked for, before anybody is looked up.
pub(super) fn parse(
    project: &str,
    command: &[String],
    options: &Options,
) -> Result<(ProjectName, options::Launch)> {
    let project: ProjectName = project.parse()?;
    spec::check_command(command)?;
    Ok((project, options::launch(options)?))
}

/// Everything the interfaces share; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Core(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    identity: Identity,
    bus: Bus,
    callers: Callers,
    users: Users,
    /// There is none on a session bus.
    polkit: Option<Polkit>,
    usage: Mutex<HashMap<RunnerId, (Usage, Instant)>>,
    /// By user and right.
    refusals: Refusals<(u32, &'static str)>,
    garden: Garden,
}

/// One call under way.
#[derive(Debug)]
pub(super) struct Call<'m> {
    pub(super) header: &'m Header<'m>,
    pub(super) uid: u32,
    _place: Place,
}

impl Core {
    pub(super) async fn new(
        lookups: &Connection,
        engine: Engine,
        identity: Identity,
        bus: Bus,
    ) -> zbus::Result<Self> {
        let polkit = match bus {
            Bus::System => Some(Polkit::new(lookups).await?),
            Bus::Session { .. } => None,
        };
        Ok(Self(Arc::new(Inner {
            engine,
            identity,
            bus,
            callers: Callers::new(lookups).await?,
            users: Users::default(),
            polkit,
            usage: Mutex::default(),
            refusals: Refusals::default(),
            garden: Garden::default(),
        })))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn users(&self) -> &Users {
        &self.0.users
    }

    pub(super) fn bus(&self) -> Bus {
        self.0.bus
    }

    pub(super) fn refusals(&self) -> &Refusals<(u32, &'static str)> {
        &self.0.refusals
    }

    pub(super) fn garden(&self) -> &Garden {
        &self.0.garden
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The store as `Store` has it: a daemon whose agent is away is degraded, too.
    pub(super) fn store(&self) -> &'static str {
        let health = self.0.engine.health();
        let health = health.borrow();
        match (&health.store, health.lacking().is_empty()) {
            (Some(_), _) => "down",
            (None, false) => "degraded",
            (None, true) => "ok",
        }
    }

    /// A connection is gone.
    pub(super) fn gone(&self, unique_name: &str) {
        self.0.callers.gone(unique_name);
        if let Some(polkit) = &self.0.polkit {
            polkit.gone(unique_name);
        }
    }

    /// polkit's rules have changed.
    pub(super) fn rules_changed(&self) {
        if let Some(polkit) = &self.0.polkit {
            polkit.changed();
        }
    }

    /// A runner has ended.
    pub(super) fn forget(&self, id: RunnerId) {
        self.usages().remove(&id);
    }

    fn usages(&self) -> std::sync::MutexGuard<'_, HashMap<RunnerId, (Usage, Instant)>> {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call in and finds out whose it is.
    pub(super) async fn enter<'m>(&self, header: &'m Header<'m>) -> Result<Call<'m>> {
        let (uid, place) = self.0.callers.enter(header).await?;
        Ok(Call {
            header,
            uid,
            _place: place,
        })
    }

    /// Whether a property's reader may see everything without polkit being asked: it is not
    /// asked for properties, as the object server holds a lock meanwhile.
    pub(super) async fn owns(&self, header: Option<&Header<'_>>, owner: u32) -> bool {
        let Some(header) = header else {
            return false;
        };
        match self.0.callers.uid(header).await {
            Ok(uid) => decide(self.0.bus, uid, Verb::View { owner }) == Decision::Allow,
            Err(_) => false,
        }
    }

    pub(super) async fn permitted(
        &self,
        call: &Call<'_>,
        verb: Verb,
        details: &Details,
    ) -> Result<()> {
        match (decide(self.0.bus, call.uid, verb), &self.0.polkit) {
            (Decision::Allow, _) => Ok(()),
            (Decision::Ask(action), Some(polkit)) => {
                Ok(polkit.check(call.header, action, details).await?)
            }
            (Decision::Ask(_) | Decision::Refuse, _) => Err(auth::refused(verb).into()),
        }
    }

    /// Whether the caller may see the private part of this runner.
    pub(super) async fn may_view(&self, call: &Call<'_>, runner: &Runner) -> Result<bool> {
        let owner = self.owner_here(runner).await;
        match (
            decide(self.0.bus, call.uid, Verb::View { owner }),
            &self.0.polkit,
        ) {
            (Decision::Allow, _) => Ok(true),
            (Decision::Ask(action), Some(polkit)) => {
                let details = Details {
                    runner: String::new(),
                    ..self.details(runner, owner)
                };
                Ok(polkit.may_read(call.header, action, details).await?)
            }
            _ => Ok(false),
        }
    }

    /// The same where the caller lets polkit ask the person there.
    async fn may_view_if_asked(&self, call: &Call<'_>, runner: &Runner) -> bool {
        let flags = call.header.primary().flags();
        if !flags.contains(Flags::ALLOW_INTERACTIVE_AUTH) {
            return false;
        }
        let owner = self.owner_here(runner).await;
        let asked = self.authorise(call, Verb::View { owner }, self.details(runner, owner));
        asked.await.is_ok()
    }

    /// The process behind a call.
    pub(super) async fn process(&self, call: &Call<'_>) -> Result<Process> {
        Ok(self.0.callers.process(call.header).await?)
    }

    pub(super) async fn actor(&self, call: &Call<'_>) -> Actor {
        Actor {
            uid: Some(call.uid),
            user: self.0.users.name(call.uid).await,
            host: Some(self.0.identity.host_id.clone()),
            // Nobody else wants to know, and it is two questions more.
            unit: match self.0.engine.keeps_audit() {
                true => self.0.callers.unit(call.header).await,
                false => None,
            },
        }
    }

    /// The uid a filter means.
    pub(super) async fn uid_of(&self, user: &User) -> Result<u32> {
        match user {
            // A uid without a name may still have had runners.
            User::Uid(uid) => Ok(*uid),
            name => Ok(self.0.users.find(name).await?.0),
        }
    }

    /// Every gate of such a launch by this caller.
    pub(super) async fn explain(
        &self,
        call: &Call<'_>,
        project: &str,
        command: Vec<String>,
        options: &Options,
    ) -> Result<Vec<Gate>> {
        let (project, options) = parse(project, &command, options)?;
        let there = self.elsewhere(options.on.as_deref()).await?;
        let spec = options.spec(project, command, call.uid, String::new());
        match there {
            Some((host, _)) => Ok(self.0.engine.explain_at(&host, &spec).await?),
            None => Ok(self.0.engine.explain(&spec).await?),
        }
    }

    pub(super) async fn launch(
        &self,
        call: Call<'_>,
        project: &str,
        command: Vec<String>,
        options: &Options,
    ) -> Result<RunnerId> {
        let (project, options) = parse(project, &command, options)?;
        if let Some(there) = self.elsewhere(options.on.as_deref()).await? {
            return self
                .launch_at(&call, there, project, command, options)
                .await;
        }
        let (uid, user) = self.owner(&call, &project, options.user.clone()).await?;
        let spec = options.spec(project, command, uid, user);
        let request = LaunchRequest {
            spec,
            setenv: options.setenv,
            request_id: options.request_id,
            inputs: options.inputs,
            streams: options.streams,
            queue: options.queue,
            order: None,
        };
        let actor = self.actor(&call).await;
        let launched = self.0.engine.launch(request, actor).await?;
        for warning in launched.runner.warnings() {
            tracing::warn!(message_id = kinds::LIMIT_WARNING.id, runner = %launched.runner.id, project = %launched.runner.spec.project, "{warning}");
        }
        Ok(launched.runner.id)
    }

    /// Whom a launch is for, once the caller may launch for that user. Another user's name is
    /// looked up only after that.
    async fn owner(
        &self,
        call: &Call<'_>,
        project: &ProjectName,
        asked: Option<User>,
    ) -> Result<(u32, String)> {
        let may = async |owner: u32, name: &str| {
            let details = Details {
                project: project.to_string(),
                owner: name.to_owned(),
                runner: String::new(),
                host: self.0.identity.host_name.clone(),
            };
            self.authorise(call, Verb::Launch { owner }, details).await
        };
        let own = User::Uid(call.uid);
        let asked = asked.unwrap_or(User::Uid(call.uid));
        let mut permitted = None;
        match &asked {
            User::Name(name) if self.0.users.name(call.uid).await.as_ref() != Some(name) => {
                may(NOBODYS, name).await?;
                permitted = Some(name.clone());
            }
            // By number polkit's rules could not tell who is meant.
            User::Uid(uid) if *uid != call.uid => {
                let verb = Verb::Launch { owner: *uid };
                if decide(self.0.bus, call.uid, verb) == Decision::Refuse {
                    return Err(auth::refused(verb).into());
                }
            }
            _ => {}
        }
        let whom = if permitted.is_none() && matches!(asked, User::Name(_)) {
            &own
        } else {
            &asked
        };
        let (uid, user) = self.0.users.find(whom).await?;
        // A name may be an alias of another one.
        if permitted.as_ref() != Some(&user) {
            may(uid, &user).await?;
        }
        Ok((uid, user))
    }

    /// The runner meant, once the caller may control it, and who the caller is.
    async fn controlled(&self, call: &Call<'_>, runner: &str) -> Result<(RunnerId, Actor)> {
        let runner = self.0.engine.resolve(runner).await?;
        let owner = self.owner_here(&runner).await;
        self.authorise(call, Verb::Control { owner }, self.details(&runner, owner))
            .await?;
        Ok((runner.id, self.actor(call).await))
    }

    pub(super) async fn stop(&self, call: Call<'_>, runner: &str, options: &Options) -> Result<()> {
        options::none(options)?;
        let (id, actor) = self.controlled(&call, runner).await?;
        Ok(self.0.engine.stop(id, actor).await?)
    }

    pub(super) async fn kill(
        &self,
        call: Call<'_>,
        runner: &str,
        number: i32,
        options: &Options,
    ) -> Result<()> {
        options::none(options)?;
        signal::check(number)?;
        let (id, actor) = self.controlled(&call, runner).await?;
        Ok(self.0.engine.kill(id, number, actor).await?)
    }

    pub(super) async fn freeze(
        &self,
        call: Call<'_>,
        runner: &str,
        options: &Options,
    ) -> Result<()> {
        options::none(options)?;
        let (id, actor) = self.controlled(&call, runner).await?;
        Ok(self.0.engine.freeze(id, actor).await?)
    }

    pub(super) async fn thaw(&self, call: Call<'_>, runner: &str, options: &Options) -> Result<()> {
        options::none(options)?;
        let (id, actor) = self.controlled(&call, runner).await?;
        Ok(self.0.engine.thaw(id, actor).await?)
    }

    pub(super) async fn set_limits(
        &self,
        call: Call<'_>,
        runner: &str,
        limits: &Options,
        options: &Options,
    ) -> Result<()> {
        options::none(options)?;
        let limits: Limits = options::limits(limits)?;
        let (id, actor) = self.controlled(&call, runner).await?;
        let project = self
            .0
            .engine
            .live_runner(id)
            .map(|r| r.spec.project.to_string());
        for warning in self.0.engine.set_limits(id, limits, actor).await? {
            tracing::warn!(message_id = kinds::LIMIT_WARNING.id, runner = %id, project, "{warning}");
        }
        Ok(())
    }

    /// Everything the caller may know of a runner.
    pub(super) async fn describe(&self, call: Call<'_>, runner: &str) -> Result<Dict> {
        let runner = self.0.engine.resolve(runner).await?;
        let mut dict = convert::public(&runner);
        // Without polkit the public part is still public.
        let viewed = self.may_view(&call, &runner).await.unwrap_or(false);
        if viewed || self.may_view_if_asked(&call, &runner).await {
            convert::private(&mut dict, &runner);
        }
        if runner.state() == State::Queued {
            // Without the store the rest is still worth telling.
            if let Ok(gates) = self.0.engine.waits_for(&runner).await {
                let gates: Vec<Dict> = gates.iter().map(convert::gate).collect();
                convert::put(&mut dict, "gates", gates);
            }
        }
        // What a peer's runner uses is known there.
        if runner.state().is_live() && !self.0.engine.is_peers(&runner) {
            let usage = self.usage(&runner).await;
            convert::put(&mut dict, "usage", convert::usage(&runner, &usage));
        }
        Ok(dict)
    }

    /// What a live runner has used, at most half a second ago.
    pub(super) async fn usage(&self, runner: &Runner) -> Usage {
        if let Some((usage, at)) = self.usages().get(&runner.id)
            && at.elapsed() < USAGE_FRESH
        {
            return *usage;
        }
        let usage = self.0.engine.usage(runner).await;
        if self.0.engine.live_runner(runner.id).is_some() {
            self.usages().insert(runner.id, (usage, Instant::now()));
        }
        usage
    }
}
