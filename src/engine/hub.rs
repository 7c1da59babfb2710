//! The hub: hears what the agent tells, hands it to the lanes, and reconciles.

use super::lane::Command;
use super::{Engine, Loop, Shared};
use super::{queue, upkeep};
use crate::crash;
use crate::domain::kinds;
use crate::domain::reconcile::{self, Todo, World};
use crate::domain::{Error, ErrorKind, Runner, RunnerId};
use crate::ports::{HostNotice, RunnerFilter, StoreError};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The hub comes round at least so often, which is what the watchdog looks at.
const TURN: Duration = Duration::from_secs(1);
/// Between two reconciliations that have no other reason: what no message told shows then.
const SWEEP: Duration = Duration::from_secs(60);
/// Rows read at a time.
const PAGE: u32 = 500;
/// Pause after a reconciliation that failed.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(shared: Arc<Shared>, mut notices: mpsc::Receiver<HostNotice>) {
    let mut next = None::<Instant>;
    let mut told = String::new();
    let mut turn = tokio::time::interval(TURN);
    loop {
        shared.note_progress(Loop::Hub);
        tokio::select! {
            notice = notices.recv() => match notice {
                None => return,
                Some(HostNotice::Connected) => {
                    tracing::info!(message_id = kinds::AGENT_BACK.id, "The agent is connected");
                    shared.health.send_modify(super::Health::agent_came);
                    shared.lease.agent_is_there();
                    next = Some(Instant::now());
                }
                Some(HostNotice::Disconnected) => {
                    if shared.health.borrow().agent {
                        let work = shared.without_agent();
                        tracing::warn!(message_id = kinds::AGENT_AWAY.id, "The connection to the agent is gone: nothing can be launched or stopped, {work}");
                    }
                    shared.health.send_modify(|h| h.agent_went(super::now()));
                    next = None;
                }
                Some(HostNotice::Ended(id, record)) => tell(&shared, id, Command::Ended(record)),
                Some(HostNotice::Lost(id)) => tell(&shared, id, Command::Lost),
            },
            () = shared.recheck.notified() => {
                if shared.health.borrow().agent {
                    next = Some(Instant::now());
                }
            }
            _ = turn.tick() => {}
        }
        // Rows tell nothing before this host has joined: they are asked for again then.
        let epoch = shared.lease.epoch();
        if next.is_none_or(|at| at > Instant::now()) || epoch.is_none() {
            continue;
        }
        let done = {
            let work = reconcile(&shared);
            tokio::pin!(work);
            loop {
                // A slow agent is no wedged engine.
                tokio::select! {
                    done = &mut work => break done,
                    _ = turn.tick() => shared.note_progress(Loop::Hub),
                }
            }
        };
        shared.metrics.reconciled(done.is_ok());
        let pause = match done {
            // It was given up meanwhile: all that was read is of before.
            Ok(()) if shared.lease.epoch() != epoch => Duration::ZERO,
            Ok(()) => {
                shared.lease.adopted();
                shared
                    .health
                    .send_if_modified(|h| !std::mem::replace(&mut h.adopted, true));
                told.clear();
                SWEEP
            }
            Err(why) => {
                // Once for each reason: it may take hours.
                if told != why {
                    tracing::warn!(message_id = kinds::RECONCILIATION_FAILED.id, %why, "Rows and runners could not be compared; trying again");
                    told = why;
                }
                AGAIN
            }
        };
        next = Some(Instant::now() + pause);
    }
}

impl Engine {
    /// Compares rows with the host now, as is done every minute, and sets right what differs,
    /// unless this is a dry run. Returns what there was to do; what agrees is left out.
    pub async fn reconcile(&self, dry_run: bool) -> Result<Vec<Todo>, Error> {
        let away = |why: String| {
            let message = format!(
                "Rows and runners can't be compared now ({why}). See: systemctl status stratavored stratavore-agent."
            );
            Error::new(ErrorKind::HostUnavailable, message)
        };
        let shared = &self.0;
        let mut strangers = shared.reconciling.lock().await;
        if !shared.health.borrow().adopted {
            return Err(away("what ran before is not taken over yet".to_owned()));
        }
        let compared = compare(shared, false).await;
        shared.metrics.reconciled(compared.is_ok());
        let (world, _, todo) = compared.map_err(away)?;
        if !dry_run {
            for step in todo.clone() {
                execute(shared, &world, step, &mut strangers);
            }
            // Of an agent that can't, say: no reason to complain of the rest.
            if let Err(why) = upkeep::sweep(shared).await {
                tracing::debug!(%why, "Log files stay for now");
            }
        }
        let differs = |step: &Todo| !matches!(step, Todo::Adopt(_));
        Ok(todo.into_iter().filter(differs).collect())
    }
}

/// Compares rows with the host and sets right what differs. After joining, the rows are read again:
/// lanes whose runner they have ended find that out.
async fn reconcile(shared: &Arc<Shared>) -> Result<(), String> {
    let mut strangers = shared.reconciling.lock().await;
    let first = !shared.health.borrow().adopted;
    let (world, rows, todo) = compare(shared, first).await?;
    strangers.retain(|id| world.runners.contains_key(id));
    if first {
        let projects = shared.store.projects().await;
        shared.note_projects(projects.map_err(|e| e.to_string())?);
        let kept = queue::open(shared, &rows).await?;
        for row in rows.values() {
            // What has a lane keeps it.
            if let Some(mut lane) = shared.open_lane(row.clone(), false) {
                lane.kept = kept.contains(&row.id);
                tokio::spawn(lane.run());
            }
        }
    }
    crash::point("daemon.adopting");
    for step in todo {
        execute(shared, &world, step, &mut strangers);
    }
    Ok(())
}

/// What the host looks like, the live rows, and the plan; nothing is changed.
///
/// Order matters. The rows are taken before the host is looked at: what the look does not show
/// of them has ended. What is newer than the rows has a lane by then, and is left out.
async fn compare(
    shared: &Arc<Shared>,
    first: bool,
) -> Result<(World, BTreeMap<RunnerId, Runner>, Vec<Todo>), String> {
    // From the adoption on the lanes are what is live; they also know steps the store still lacks.
    let lanes: BTreeMap<RunnerId, Runner> = shared.read(|live| {
        let settled = live.iter().filter(|(_, e)| !e.launching);
        settled
            .map(|(id, e)| (*id, e.runner.as_ref().clone()))
            .filter(|(_, r)| r.state().is_live())
            .collect()
    });
    let begun: BTreeMap<RunnerId, u32> =
        shared.read(|live| live.iter().map(|(id, e)| (*id, e.launches)).collect());
    let mut rows: BTreeMap<RunnerId, Runner> = if first {
        let live = shared.store.live(&shared.settings.host).await;
        let live = live.map_err(|error| {
            if let StoreError::Unavailable(why) = &error {
                shared.note_store(Some(why.clone()));
            }
            error.to_string()
        })?;
        let others = if shared.settings.sole_host {
            of_former_ids(shared).await?
        } else {
            Vec::new()
        };
        let stored: BTreeMap<_, _> = live.into_iter().chain(others).map(|r| (r.id, r)).collect();
        if shared.lease.adopted_before() {
            shared.adopt_again(stored, lanes)
        } else {
            stored
        }
    } else {
        lanes
    };
    let mut world = shared.host.inventory().await.map_err(|e| e.to_string())?;
    shared.read(|live| {
        // Whose launch was begun again meanwhile is not as the look shows it.
        rows.retain(|id, _| match live.get(id) {
            Some(e) => !e.launching && begun.get(id).is_none_or(|n| *n == e.launches),
            // A lane that has closed since the rows were read has written its ending.
            None => !begun.contains_key(id),
        });
        world
            .runners
            .retain(|id, _| rows.contains_key(id) || !live.contains_key(id))
    });
    let (mut ended, mut unknown) = (HashSet::new(), HashSet::new());
    for id in world.runners.keys().filter(|id| !rows.contains_key(id)) {
        match shared.store.runner(*id).await {
            Ok(Some(row)) if !row.state().is_live() => {
                ended.insert(*id);
            }
            Ok(_) => {}
            Err(_) => {
                unknown.insert(*id);
            }
        }
    }
    // What the store can't tell about now is left for the next time; the rest goes on.
    world.runners.retain(|id, _| !unknown.contains(id));
    let todo = reconcile::plan(&world, &rows, |id| ended.contains(&id));
    Ok((world, rows, todo))
}

/// The live rows that carry another host's id in a store that is this host's alone: its
/// machine-id has changed, or the store was moved here. Nobody else will end them.
async fn of_former_ids(shared: &Shared) -> Result<Vec<Runner>, String> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let filter = RunnerFilter {
            after,
            limit: PAGE,
            ..RunnerFilter::default()
        };
        let page = shared
            .store
            .runners(filter)
            .await
            .map_err(|e| e.to_string())?;
        let more = page.len() == PAGE as usize;
        after = page.last().map(|r| r.id);
        found.extend(page.into_iter().filter(|r| r.host != shared.settings.host));
        if !more {
            return Ok(found);
        }
    }
}

fn execute(shared: &Arc<Shared>, world: &World, todo: Todo, strangers: &mut HashSet<RunnerId>) {
    let (id, command) = match todo {
        Todo::Adopt(id) => (id, Command::Adopted),
        Todo::NoteFrozen(id) => (id, Command::Frozen(true)),
        Todo::NoteThawed(id) => (id, Command::Frozen(false)),
        Todo::StopAgain(id) => (id, Command::StopAgain),
        Todo::CloseGate(id) => (id, Command::CloseGate),
        Todo::StopScope(id) => (id, Command::StopScope),
        Todo::End(id, exit, usage) => (id, Command::End(exit, usage)),
        Todo::Forget(id) => {
            let host = Arc::clone(&shared.host);
            tokio::spawn(async move { host.forget(id).await });
            return;
        }
        Todo::StopZombie(id) => {
            tracing::warn!(message_id = kinds::ZOMBIE_STOPPED.id, runner = %id, "A scope whose runner has ended is alive: it is stopped");
            let host = Arc::clone(&shared.host);
            tokio::spawn(async move {
                if host.stop_scope(id).await.is_ok() {
                    let _ = host.forget(id).await;
                }
            });
            return;
        }
        Todo::Stranger(id) => {
            let alive = world
                .runners
                .get(&id)
                .is_some_and(|seen| seen.scope || seen.shim);
            if alive && strangers.insert(id) {
                tracing::warn!(message_id = kinds::STRANGER_SEEN.id, runner = %id, "A runner is alive that the store knows nothing about; it is left alone. See: systemctl status {}", id.unit());
            }
            return;
        }
    };
    tell(shared, id, command);
}

/// A runner without a lane has ended, or is not adopted yet: then the reconciliation finds it.
pub(super) fn tell(shared: &Shared, id: RunnerId, command: Command) {
    shared.read(|live| {
        if let Some(entry) = live.get(&id) {
            let _ = entry.lane.send(command);
        }
    });
}
