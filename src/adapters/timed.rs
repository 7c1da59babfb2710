//! A store that takes the time of another one's operations.

use crate::domain::admission::Gate;
use crate::domain::audit::verify::Report;
use crate::domain::audit::{Act, Anchor, Entry};
use crate::domain::budget::{Budget, BudgetState, Scope, Tokens};
use crate::domain::event::{Actor, Event};
use crate::domain::hold::{Hold, HoldScope};
use crate::domain::host::{Host, Registration};
use crate::domain::order::{Order, Outcome, Progress};
use crate::domain::period::Period;
use crate::domain::project::{ProjectChange, ProjectSettings};
use crate::domain::runner::{Change, Runner};
use crate::domain::{Project, ProjectName, RunnerId, RunnerSpec, Timestamp};
use crate::ports::{
    Admitted, Anchored, Applied, Audit, Beat, Chain, EventFilter, FleetState, Hosts, NewRunner,
    Orders, Policies, Policy, Pruned, Pulse, Queue, Reported, RunnerFilter, Store, StoreError,
    Writer,
};
use async_trait::async_trait;
use prometheus::{Histogram, HistogramOpts, HistogramVec};
use std::fmt;
use std::sync::Arc;

macro_rules! operations {
    ($($name:ident)+) => {
        #[derive(Clone)]
        struct Operations { $($name: Histogram),+ }
        impl Operations {
            /// Each of them exists from the start.
            fn new(all: &HistogramVec) -> Self {
                Self { $($name: all.with_label_values(&[stringify!($name)])),+ }
            }
        }
    };
}
operations!(admit apply runner runners live create_project set_project remove_project project projects events prune check turns queued explain set_budget remove_budget budgets report set_hold release_hold holds end_holds pulse policy fleet set_fleet_max join renew end_boot hosts cordon uncordon forget tidy note chain entries verify anchor prune_chain);

/// The store, and how long it takes.
pub struct TimedStore {
    inner: Arc<dyn Store>,
    times: Operations,
    all: HistogramVec,
}

impl fmt::Debug for TimedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl TimedStore {
    /// Takes the time of this one.
    pub fn new(inner: Arc<dyn Store>) -> prometheus::Result<Self> {
        let opts = HistogramOpts::new(
            "stratavore_store_duration_seconds",
            "Time the store took for an operation, waiting for its turn included.",
        );
        let all = HistogramVec::new(
            opts.buckets(vec![
                0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0,
            ]),
            &["operation"],
        )?;
        Ok(Self {
            inner,
            times: Operations::new(&all),
            all,
        })
    }

    /// The times, to be shown.
    pub fn times(&self) -> HistogramVec {
        self.all.clone()
    }
}

#[async_trait]
impl Store for TimedStore {
    async fn admit(&self, new: NewRunner) -> Result<Admitted, StoreError> {
        let _timer = self.times.admit.start_timer();
        self.inner.admit(new).await
    }

    async fn apply(&self, change: Change) -> Result<Applied, StoreError> {
        let _timer = self.times.apply.start_timer();
        self.inner.apply(change).await
    }

    async fn runner(&self, id: RunnerId) -> Result<Option<Runner>, StoreError> {
        let _timer = self.times.runner.start_timer();
        self.inner.runner(id).await
    }

    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        let _timer = self.times.runners.start_timer();
        self.inner.runners(filter).await
    }

    async fn live(&self, host: &str) -> Result<Vec<Runner>, StoreError> {
        let _timer = self.times.live.start_timer();
        self.inner.live(host).await
    }

    async fn create_project(
        &self,
        name: ProjectName,
        settings: ProjectSettings,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        let _timer = self.times.create_project.start_timer();
        self.inner.create_project(name, settings, actor, at).await
    }

    async fn set_project(
        &self,
        name: ProjectName,
        change: ProjectChange,
        actor: Actor,
        at: Timestamp,
    ) -> Result<(Project, Event), StoreError> {
        let _timer = self.times.set_project.start_timer();
        self.inner.set_project(name, change, actor, at).await
    }

    async fn remove_project(
        &self,
        name: ProjectName,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Vec<Event>, StoreError> {
        let _timer = self.times.remove_project.start_timer();
        self.inner.remove_project(name, actor, at).await
    }

    async fn project(&self, name: &ProjectName) -> Result<Option<Project>, StoreError> {
        let _timer = self.times.project.start_timer();
        self.inner.project(name).await
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        let _timer = self.times.projects.start_timer();
        self.inner.projects().await
    }

    async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        let _timer = self.times.events.start_timer();
        self.inner.events(filter).await
    }

    async fn expired(&self, retention: u64) -> Result<Timestamp, StoreError> {
        self.inner.expired(retention).await
    }

    async fn prune(&self, before: Timestamp, batch: u32) -> Result<Pruned, StoreError> {
        let _timer = self.times.prune.start_timer();
        self.inner.prune(before, batch).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let _timer = self.times.check.start_timer();
        self.inner.check().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Audit for TimedStore {
    fn keeps(&self) -> bool {
        self.inner.keeps()
    }

    fn kept(&self) -> Option<Anchor> {
        self.inner.kept()
    }

    async fn note(&self, acts: Vec<Act>) -> Result<(), StoreError> {
        let _timer = self.times.note.start_timer();
        self.inner.note(acts).await
    }

    async fn chain(&self, host: &str) -> Result<Option<Chain>, StoreError> {
        let _timer = self.times.chain.start_timer();
        self.inner.chain(host).await
    }

    async fn entries(
        &self,
        host: &str,
        after: u64,
        to: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let _timer = self.times.entries.start_timer();
        self.inner.entries(host, after, to, limit).await
    }

    async fn verify(&self, host: &str, anchors: Vec<Anchor>) -> Result<Report, StoreError> {
        let _timer = self.times.verify.start_timer();
        self.inner.verify(host, anchors).await
    }

    async fn anchor(&self, at: Timestamp) -> Result<Option<Anchored>, StoreError> {
        let _timer = self.times.anchor.start_timer();
        self.inner.anchor(at).await
    }

    async fn prune_chain(&self, before: Timestamp, batch: u32) -> Result<u64, StoreError> {
        let _timer = self.times.prune_chain.start_timer();
        self.inner.prune_chain(before, batch).await
    }
}

#[async_trait]
impl Policies for TimedStore {
    async fn set_budget(
        &self,
        budget: Budget,
        actor: Actor,
    ) -> Result<(BudgetState, Vec<Event>), StoreError> {
        let _timer = self.times.set_budget.start_timer();
        self.inner.set_budget(budget, actor).await
    }

    async fn remove_budget(
        &self,
        scope: Scope,
        period: Period,
        actor: Actor,
    ) -> Result<(), StoreError> {
        let _timer = self.times.remove_budget.start_timer();
        self.inner.remove_budget(scope, period, actor).await
    }

    async fn budgets(&self) -> Result<Vec<BudgetState>, StoreError> {
        let _timer = self.times.budgets.start_timer();
        self.inner.budgets().await
    }

    async fn report(
        &self,
        runner: RunnerId,
        tokens: Tokens,
        at: Timestamp,
    ) -> Result<Reported, StoreError> {
        let _timer = self.times.report.start_timer();
        self.inner.report(runner, tokens, at).await
    }

    async fn set_hold(&self, hold: Hold) -> Result<(Hold, Event), StoreError> {
        let _timer = self.times.set_hold.start_timer();
        self.inner.set_hold(hold).await
    }

    async fn release_hold(
        &self,
        scope: HoldScope,
        actor: Actor,
        at: Timestamp,
    ) -> Result<Event, StoreError> {
        let _timer = self.times.release_hold.start_timer();
        self.inner.release_hold(scope, actor, at).await
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        let _timer = self.times.holds.start_timer();
        self.inner.holds().await
    }

    async fn end_holds(&self, at: Timestamp) -> Result<Vec<Event>, StoreError> {
        let _timer = self.times.end_holds.start_timer();
        self.inner.end_holds(at).await
    }

    async fn pulse(&self, host: &str) -> Result<Pulse, StoreError> {
        let _timer = self.times.pulse.start_timer();
        self.inner.pulse(host).await
    }

    async fn policy(&self, host: &str) -> Result<Policy, StoreError> {
        let _timer = self.times.policy.start_timer();
        self.inner.policy(host).await
    }
}

#[async_trait]
impl Orders for TimedStore {
    async fn order(&self, order: Order) -> Result<(), StoreError> {
        self.inner.order(order).await
    }

    async fn take_orders(&self, host: &str) -> Result<Vec<Order>, StoreError> {
        self.inner.take_orders(host).await
    }

    async fn answer(&self, order: &str, outcome: Outcome) -> Result<(), StoreError> {
        self.inner.answer(order, outcome).await
    }

    async fn outcome(&self, order: &str) -> Result<Progress, StoreError> {
        self.inner.outcome(order).await
    }
}

#[async_trait]
impl Hosts for TimedStore {
    async fn fleet(&self) -> Result<FleetState, StoreError> {
        let _timer = self.times.fleet.start_timer();
        self.inner.fleet().await
    }

    async fn set_fleet_max(&self, max: Option<u32>, actor: Actor) -> Result<Event, StoreError> {
        let _timer = self.times.set_fleet_max.start_timer();
        self.inner.set_fleet_max(max, actor).await
    }

    async fn join(
        &self,
        new: Registration,
        beat: Beat,
    ) -> Result<(Writer, Vec<Event>), StoreError> {
        let _timer = self.times.join.start_timer();
        self.inner.join(new, beat).await
    }

    async fn renew(&self, writer: &Writer, beat: Beat) -> Result<Vec<Event>, StoreError> {
        let _timer = self.times.renew.start_timer();
        self.inner.renew(writer, beat).await
    }

    async fn end_boot(&self, writer: &Writer) -> Result<(), StoreError> {
        let _timer = self.times.end_boot.start_timer();
        self.inner.end_boot(writer).await
    }

    async fn hosts(&self) -> Result<(Timestamp, Vec<Host>), StoreError> {
        let _timer = self.times.hosts.start_timer();
        self.inner.hosts().await
    }

    async fn cordon(
        &self,
        host: &str,
        reason: String,
        drain: Option<u64>,
        actor: Actor,
    ) -> Result<Event, StoreError> {
        let _timer = self.times.cordon.start_timer();
        self.inner.cordon(host, reason, drain, actor).await
    }

    async fn uncordon(&self, host: &str, actor: Actor) -> Result<Option<Event>, StoreError> {
        let _timer = self.times.uncordon.start_timer();
        self.inner.uncordon(host, actor).await
    }

    async fn forget(&self, host: &str, actor: Actor) -> Result<Vec<Event>, StoreError> {
        let _timer = self.times.forget.start_timer();
        self.inner.forget(host, actor).await
    }

    async fn tidy(&self, lost_after: u64) -> Result<Vec<Event>, StoreError> {
        let _timer = self.times.tidy.start_timer();
        self.inner.tidy(lost_after).await
    }
}

#[async_trait]
impl Queue for TimedStore {
    async fn turns(&self, host: &str, host_max: Option<u32>) -> Result<Vec<Admitted>, StoreError> {
        let _timer = self.times.turns.start_timer();
        self.inner.turns(host, host_max).await
    }

    async fn queued(&self, host: &str) -> Result<Vec<Runner>, StoreError> {
        let _timer = self.times.queued.start_timer();
        self.inner.queued(host).await
    }

    async fn explain(
        &self,
        spec: &RunnerSpec,
        host: &str,
        host_max: Option<u32>,
        waiting: Option<RunnerId>,
    ) -> Result<Vec<Gate>, StoreError> {
        let _timer = self.times.explain.start_timer();
        self.inner.explain(spec, host, host_max, waiting).await
    }
}
