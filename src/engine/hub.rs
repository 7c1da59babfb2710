//! The hub: hears what the agent tells, hands it to the lanes, and reconciles.

use super::lane::{Command, Lane};
use super::{Entry, Loop, Shared};
use crate::crash;
use crate::domain::reconcile::{self, Todo};
use crate::domain::{Runner, RunnerId};
use crate::ports::{HostNotice, StoreError};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The hub comes round at least so often, which is what the watchdog looks at.
const TURN: Duration = Duration::from_secs(1);
/// Between two reconciliations that have no other reason: what no message told shows then.
const SWEEP: Duration = Duration::from_secs(60);
/// Pause after a reconciliation that failed.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(shared: Arc<Shared>, mut notices: mpsc::Receiver<HostNotice>) {
    let mut strangers = HashSet::new();
    let mut next = None::<tokio::time::Instant>;
    let mut turn = tokio::time::interval(TURN);
    loop {
        shared.note_progress(Loop::Hub);
        tokio::select! {
            notice = notices.recv() => match notice {
                None => return,
                Some(HostNotice::Connected) => {
                    shared.health.send_modify(|h| h.agent = true);
                    next = Some(tokio::time::Instant::now());
                }
                Some(HostNotice::Disconnected) => {
                    shared.health.send_modify(|h| h.agent = false);
                    next = None;
                }
                Some(HostNotice::Ended(id, record)) => tell(&shared, id, Command::Ended(record)),
                Some(HostNotice::Lost(id)) => tell(&shared, id, Command::Lost),
                Some(HostNotice::Frozen(id, frozen)) => tell(&shared, id, Command::Frozen(frozen)),
            },
            () = shared.recheck.notified() => {
                if shared.health.borrow().agent {
                    next = Some(tokio::time::Instant::now());
                }
            }
            _ = turn.tick() => {}
        }
        if next.is_some_and(|at| at <= tokio::time::Instant::now()) {
            next = Some(
                tokio::time::Instant::now()
                    + match reconcile(&shared, &mut strangers).await {
                        Ok(()) => {
                            shared
                                .health
                                .send_if_modified(|h| !std::mem::replace(&mut h.adopted, true));
                            SWEEP
                        }
                        Err(why) => {
                            tracing::warn!(%why, "Rows and runners could not be compared; trying again");
                            AGAIN
                        }
                    },
            );
        }
    }
}

/// Compares rows with the host and sets right what differs.
///
/// Order matters. The rows are taken before the host is looked at: what the look does not show
/// of them has ended. What is newer than the rows has a lane by then, and is left out.
async fn reconcile(shared: &Arc<Shared>, strangers: &mut HashSet<RunnerId>) -> Result<(), String> {
    let first = !shared.health.borrow().adopted;
    let rows: BTreeMap<RunnerId, Runner> = if first {
        let live = shared.store.live(&shared.settings.host).await;
        let live = live.map_err(|error| {
            if let StoreError::Unavailable(why) = &error {
                shared.note_store(Some(why.clone()));
            }
            error.to_string()
        })?;
        live.into_iter().map(|r| (r.id, r)).collect()
    } else {
        // From then on the lanes are what is live; they also know steps the store still lacks.
        shared.read(|live| {
            let settled = live.iter().filter(|(_, e)| !e.launching);
            settled
                .map(|(id, e)| (*id, e.runner.as_ref().clone()))
                .filter(|(_, r)| r.state().is_live())
                .collect()
        })
    };
    let mut world = shared.host.inventory().await.map_err(|e| e.to_string())?;
    shared.read(|live| {
        world
            .runners
            .retain(|id, _| rows.contains_key(id) || !live.contains_key(id))
    });
    let mut ended = HashSet::new();
    for id in world.runners.keys().filter(|id| !rows.contains_key(id)) {
        match shared.store.runner(*id).await {
            Ok(Some(row)) if !row.state().is_live() => {
                ended.insert(*id);
            }
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    if first {
        for row in rows.values() {
            ensure_lane(shared, row);
        }
    }
    crash::point("daemon.adopting");
    for todo in reconcile::plan(&world, &rows, |id| ended.contains(&id)) {
        execute(shared, todo, strangers);
    }
    Ok(())
}

fn execute(shared: &Arc<Shared>, todo: Todo, strangers: &mut HashSet<RunnerId>) {
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
            tracing::warn!(runner = %id, "A scope whose runner has ended is alive: it is stopped");
            let host = Arc::clone(&shared.host);
            tokio::spawn(async move {
                if host.stop_scope(id).await.is_ok() {
                    let _ = host.forget(id).await;
                }
            });
            return;
        }
        Todo::Stranger(id) => {
            if strangers.insert(id) {
                tracing::warn!(runner = %id, "A runner is alive that the store knows nothing about; it is left alone. See: systemctl status {}", id.unit());
            }
            return;
        }
    };
    tell(shared, id, command);
}

/// Gives a runner found in the store its lane, if it has none.
fn ensure_lane(shared: &Arc<Shared>, row: &Runner) {
    let lane = shared.write(|live| {
        if live.contains_key(&row.id) {
            return None;
        }
        let (sender, inbox) = mpsc::unbounded_channel();
        let entry = Entry {
            runner: Arc::new(row.clone()),
            lane: sender,
            launching: false,
        };
        live.insert(row.id, entry);
        Some(Lane::new(Arc::clone(shared), row.clone(), inbox))
    });
    if let Some(lane) = lane {
        tokio::spawn(lane.run());
    }
}

/// A runner without a lane has ended, or is not adopted yet: then the reconciliation finds it.
fn tell(shared: &Shared, id: RunnerId, command: Command) {
    shared.read(|live| {
        if let Some(entry) = live.get(&id) {
            let _ = entry.lane.send(command);
        }
    });
}
