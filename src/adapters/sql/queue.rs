//! Runners that wait: giving them their turn, listing them, and every gate of a launch.

use super::apply::apply_all;
use super::clock::now;
use super::fail::Fail;
use super::ledger::{self, Book, Concern};
use super::link::Link;
use super::locks::Locks;
use super::row::{self, runner_columns};
use super::{Work, read, words};
use crate::domain::admission::{Ask, Gate};
use crate::domain::event::Actor;
use crate::domain::runner::{Change, Runner, Step};
use crate::domain::{Limits, ProjectName, RunnerId, RunnerSpec, Timestamp};
use crate::ports::Admitted;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};

/// A host's runners that wait, the next ones first.
pub(super) async fn queued(on: &mut Link, host: &str) -> Result<Vec<Runner>, Fail> {
    let sql = concat!(
        "SELECT ",
        runner_columns!(),
        " FROM runners r WHERE r.state = 'queued' AND r.host = $1 ORDER BY r.priority DESC, r.queued_at, r.id"
    );
    let rows = on.rows(sql, vec![host.into()]).await?;
    rows.iter().map(row::runner).collect()
}

/// Whom a turn on this host would be about; `None` = nobody waits whom only others may keep from starting.
pub(super) async fn concerned(
    on: &mut Link,
    host: &str,
    host_max: Option<u32>,
) -> Result<Option<Concern>, Fail> {
    let mut concern = Concern::default();
    for ask in ledger::waiting_on(on, host).await? {
        concern.projects.insert(ask.project);
        concern.sessions.extend(ask.session);
    }
    concern.hosts.insert(host.to_owned(), Some(host_max));
    Ok((!concern.projects.is_empty()).then_some(concern))
}

/// Gives those their turn that wait on the host of this concern.
#[derive(Debug)]
pub(super) struct Turns(pub(super) Concern);

#[async_trait]
impl Work for Turns {
    type Done = Vec<Admitted>;

    fn locks(&self, locks: &mut Locks) {
        locks.concern(&self.0);
    }

    fn admitted(done: &Self::Done) -> Vec<(RunnerId, Timestamp)> {
        let new = |one: &Admitted| match one {
            Admitted::New { runner, event, .. } => Some((runner.id, event.draft.at)),
            _ => None,
        };
        done.iter().filter_map(new).collect()
    }

    async fn run(&mut self, on: &mut Link) -> Result<Self::Done, Fail> {
        match give(on, &self.0).await {
            // A row that can't be read, a budget it may be, keeps its own project alone from its turn.
            Err(Fail::Broken(_)) if self.0.projects.len() > 1 => {}
            done => return done,
        }
        let mut admitted = Vec::new();
        for project in &self.0.projects {
            let concern = Concern {
                projects: [project.clone()].into(),
                ..self.0.clone()
            };
            match give(on, &concern).await {
                Ok(done) => admitted.extend(done),
                Err(Fail::Broken(why)) => {
                    tracing::debug!(%project, %why, "Those of a project that wait have no turn");
                }
                Err(fail) => return Err(fail),
            }
        }
        Ok(admitted)
    }
}

/// Gives their turn to those of a concern, which is locked. Nothing is written if something can't be read.
async fn give(on: &mut Link, concern: &Concern) -> Result<Vec<Admitted>, Fail> {
    let mut book = Book::open(on, concern, true).await?;
    // Everybody has their turn in thought; here only those become real that are locked.
    let mut all = book.ledger.clone();
    let waiting = std::mem::take(&mut book.ledger.waiting);
    let ours: BTreeMap<RunnerId, Ask> = waiting
        .into_iter()
        .filter(|ask| concern.covers(ask))
        .map(|ask| (ask.id, ask))
        .collect();
    let turns = loop {
        let turns = all.clone().turns();
        let next = turns
            .iter()
            .filter(|(id, turn)| turn.is_ok() && ours.contains_key(id));
        let next: BTreeSet<String> = next.map(|(id, _)| id.to_string()).collect();
        if next.is_empty() {
            return Ok(Vec::new());
        }
        let rows = read::these(on, &next).await?;
        let broken = |ask: &Ask| matches!(rows.get(&ask.id.to_string()), Some(Err(_)));
        let before = all.waiting.len();
        all.waiting.retain(|ask| !broken(ask));
        if all.waiting.len() == before {
            break turns;
        }
    };
    let at = now(on).await?;
    let mut changes = Vec::new();
    for (id, turn) in turns {
        if let (Ok(_), Some(ask)) = (turn, ours.get(&id))
            && let Ok(tokens) = book.admit(ask)
        {
            changes.push(Change {
                id,
                step: Step::Admit(tokens),
                actor: Actor::host(),
                at,
            });
        }
    }
    let mut limits: BTreeMap<ProjectName, Limits> = BTreeMap::new();
    let mut admitted = Vec::with_capacity(changes.len());
    let changes: Vec<&Change> = changes.iter().collect();
    for applied in apply_all(on, &changes).await? {
        let applied = applied?;
        let project = &applied.runner.spec.project;
        if !limits.contains_key(project) {
            let found = read::project(on, project).await?;
            let found = found.map(|p| p.settings.limits).unwrap_or_default();
            limits.insert(project.clone(), found);
        }
        admitted.extend(applied.event.map(|event| Admitted::New {
            project_limits: limits.get(project).cloned().unwrap_or_default(),
            runner: applied.runner.clone(),
            event,
        }));
    }
    book.write(on).await?;
    Ok(admitted)
}

/// Every gate of a launch, or of one that waits.
pub(super) async fn explain(
    on: &mut Link,
    spec: &RunnerSpec,
    host: &str,
    host_max: Option<u32>,
    waiting: Option<RunnerId>,
) -> Result<Vec<Gate>, Fail> {
    let mut concern = Concern::default();
    concern.add(spec, host, host_max);
    let mut book = Book::open(on, &concern, false).await?;
    let ledger = &mut book.ledger;
    if !ledger.projects.contains_key(&spec.project) {
        return Err(words::no_such_project(on, &spec.project, true).await);
    }
    let id = waiting.unwrap_or(RunnerId::from_uuid(uuid::Uuid::max()));
    let mut ask = Ask::of(id, spec, host, ledger.now);
    if waiting.is_some() {
        let sql = "SELECT queued_at FROM runners WHERE id = $1 AND state = 'queued'";
        if let Some(row) = on.maybe(sql, vec![id.into()]).await? {
            ask.since = row.time(0)?;
        }
        ledger.waiting.retain(|other| other.id != id);
    }
    let mut gates = ledger.gates(&ask);
    if waiting.is_none() && gates.iter().any(|gate| !gate.open()) {
        // Whether it could wait for them.
        gates.push(ledger.room(&ask));
    }
    Ok(gates)
}
