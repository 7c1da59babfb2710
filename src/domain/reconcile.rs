//! Reconciliation: what to do when the rows of the store meet the scopes, shims and records
//! of the host. One pure function, used at start, after every reconnection to the agent and
//! by `reconcile --dry-run`.

use super::exit::{Cause, Exit, Record, Usage};
use super::id::RunnerId;
use super::runner::{Runner, State};
use std::collections::BTreeMap;

/// What the agent sees of one runner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The scope's cgroup still has processes.
    pub scope: bool,
    /// Its shim answers or, frozen, is alive.
    pub shim: bool,
    /// The command has not been released yet: the shim waits at its gate.
    pub gated: bool,
    /// The cgroup is frozen.
    pub frozen: bool,
    /// The exit record; `Some(None)` = there is one that cannot be read.
    pub record: Option<Option<Box<Record>>>,
}

/// What the host looks like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct World {
    /// The kernel's boot id.
    pub boot_id: String,
    /// Every runner of which something is there.
    pub runners: BTreeMap<RunnerId, Observed>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Alive and well: take it over. The states of row and cgroup agree.
    Adopt(RunnerId),
    /// Alive and the row says `running`, but the cgroup is frozen: write `frozen`.
    NoteFrozen(RunnerId),
    /// Alive and the row says `frozen`, but the cgroup is not: write `running`.
    NoteThawed(RunnerId),
    /// The row says `stopping`, the order may never have reached the shim: give it again.
    StopAgain(RunnerId),
    /// The shim waits at a gate nobody will open: let it go and await its record.
    CloseGate(RunnerId),
    /// The scope lives without a shim: stop it and wait until it is empty.
    StopScope(RunnerId),
    /// Write the ending.
    End(RunnerId, Box<Exit>, Usage),
    /// The row has ended and the record, socket and unit are still there: remove them.
    Forget(RunnerId),
    /// A scope whose row has ended lives: stop it, and say so.
    StopZombie(RunnerId),
    /// Something is there that the store knows nothing about: leave it, and say so.
    Stranger(RunnerId),
}

impl Todo {
    /// Whom it is about.
    pub fn id(&self) -> RunnerId {
        match self {
            Self::Adopt(id)
            | Self::NoteFrozen(id)
            | Self::NoteThawed(id)
            | Self::StopAgain(id)
            | Self::CloseGate(id)
            | Self::StopScope(id)
            | Self::End(id, ..)
            | Self::Forget(id)
            | Self::StopZombie(id)
            | Self::Stranger(id) => *id,
        }
    }

    /// A word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Adopt(_) => "adopt",
            Self::NoteFrozen(_) => "note-frozen",
            Self::NoteThawed(_) => "note-thawed",
            Self::StopAgain(_) => "stop-again",
            Self::CloseGate(_) => "close-gate",
            Self::StopScope(_) => "stop-scope",
            Self::End(..) => "end",
            Self::Forget(_) => "forget",
            Self::StopZombie(_) => "stop-zombie",
            Self::Stranger(_) => "stranger",
        }
    }

    /// What was found and what is done about it, in a sentence. It names no command.
    pub fn reason(&self) -> String {
        match self {
            Self::Adopt(_) => "It lives, and its row says so.".to_owned(),
            Self::NoteFrozen(_) => {
                "It is frozen, its row says running: frozen is written.".to_owned()
            }
            Self::NoteThawed(_) => "It runs, its row says frozen: running is written.".to_owned(),
            Self::StopAgain(_) => {
                "It is to stop and still lives: the order is given again.".to_owned()
            }
            Self::CloseGate(_) => {
                "It waits at its gate, which nobody will open: it is let go, nothing runs."
                    .to_owned()
            }
            Self::StopScope(_) => {
                "Its scope lives without its shim: it is stopped, then its ending is written."
                    .to_owned()
            }
            Self::End(_, exit, _) => format!(
                "It has ended, its row does not say so: {} is written.",
                exit.cause.as_str()
            ),
            Self::Forget(_) => {
                "It has ended and so does its row say: what it left is removed.".to_owned()
            }
            Self::StopZombie(_) => {
                "Its scope lives though its row has ended: it is stopped.".to_owned()
            }
            Self::Stranger(_) => "The store knows nothing about it: it is left alone.".to_owned(),
        }
    }
}

/// What is said of a row that was `starting` while nothing was there. It is a conclusion, and holds
/// for no other state: a launch may have gone on since.
pub const NOTHING_RAN: &str =
    "The daemon was restarted before the command was started; nothing ran.";

/// The plan. `rows` are the store's live rows of this host; `ended` tells of the other
/// observed ids whether the store has them (as ended).
pub fn plan(
    world: &World,
    rows: &BTreeMap<RunnerId, Runner>,
    ended: impl Fn(RunnerId) -> bool,
) -> Vec<Todo> {
    let nothing = Observed::default();
    let mut todo = Vec::new();
    for (id, row) in rows {
        let seen = world.runners.get(id).unwrap_or(&nothing);
        todo.push(for_row(*id, row, seen, &world.boot_id));
    }
    for (id, seen) in &world.runners {
        if rows.contains_key(id) {
            continue;
        }
        todo.push(match (ended(*id), seen.scope || seen.shim) {
            (true, true) if record(seen).is_none() => Todo::StopZombie(*id),
            (true, _) => Todo::Forget(*id),
            (false, _) => Todo::Stranger(*id),
        });
    }
    todo
}

/// The record, as far as it counts: a living shim is the authority on its runner, and has not
/// written what can't be read.
fn record(seen: &Observed) -> Option<&Option<Box<Record>>> {
    seen.record.as_ref().filter(|r| r.is_some() || !seen.shim)
}

fn for_row(id: RunnerId, row: &Runner, seen: &Observed, boot_id: &str) -> Todo {
    // A record beats every guess, also one of an earlier boot.
    if let Some(record) = record(seen) {
        return match record {
            Some(record) => Todo::End(id, Box::new(record.exit()), record.usage),
            None if seen.scope => Todo::StopScope(id),
            None => end(
                id,
                Cause::Unknown,
                "The record of its ending can't be read.",
            ),
        };
    }
    if seen.shim {
        return match row.state() {
            _ if seen.gated => Todo::CloseGate(id),
            State::Stopping => Todo::StopAgain(id),
            State::Running if seen.frozen => Todo::NoteFrozen(id),
            State::Frozen if !seen.frozen => Todo::NoteThawed(id),
            _ => Todo::Adopt(id),
        };
    }
    if seen.scope {
        return Todo::StopScope(id);
    }
    let rebooted = row.placement.as_ref().is_some_and(|p| p.boot_id != boot_id);
    match row.state() {
        State::Starting => end(id, Cause::LaunchFailed, NOTHING_RAN),
        _ if rebooted => end(
            id,
            Cause::HostRebooted,
            "The host went down without an orderly shutdown and has booted since.",
        ),
        _ => end(
            id,
            Cause::SupervisorLost,
            "Its shim was killed, so nobody saw how the command ended; its processes are gone.",
        ),
    }
}

fn end(id: RunnerId, cause: Cause, message: &str) -> Todo {
    let exit = Exit {
        cause,
        code: None,
        signal: None,
        message: message.to_owned(),
    };
    Todo::End(id, Box::new(exit), Usage::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limits::Limits;
    use crate::domain::runner::{Placement, Step};
    use crate::domain::spec::RunnerSpec;
    use crate::domain::time::Timestamp;
    use proptest::prelude::*;

    fn id(n: u8) -> RunnerId {
        RunnerId::from_uuid(uuid::Uuid::from_u128(n.into()))
    }

    fn row(n: u8, state: State, boot_id: &str) -> Runner {
        let spec = RunnerSpec {
            project: match "p".parse() {
                Ok(p) => p,
                Err(e) => panic!("{e}"),
            },
            command: vec!["true".to_owned()],
            name: None,
            uid: 1000,
            user: "alice".to_owned(),
            working_directory: None,
            labels: BTreeMap::new(),
            limits: Limits::default(),
            log_file_max: None,
            priority: 0,
            tokens: None,
            session: None,
            placed: None,
        };
        let mut runner = Runner::admitted(id(n), spec, "h".to_owned(), Timestamp(1));
        if state != State::Starting {
            let placement = Placement {
                boot_id: boot_id.to_owned(),
                ..Placement::default()
            };
            let _ = runner.apply(&Step::Run(placement), Timestamp(2));
        }
        runner.stored(state)
    }

    fn seen() -> impl Strategy<Value = Observed> {
        (
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            0u8..3,
        )
            .prop_map(|(scope, shim, gated, frozen, record)| Observed {
                scope,
                shim,
                gated,
                frozen,
                record: match record {
                    0 => None,
                    1 => Some(None),
                    _ => {
                        Some(serde_json::from_str(r#"{"v":1,"id":"","boot_id":"","code":0}"#).ok())
                    }
                },
            })
    }

    fn live_state() -> impl Strategy<Value = State> {
        prop_oneof![
            Just(State::Starting),
            Just(State::Running),
            Just(State::Frozen),
            Just(State::Stopping)
        ]
    }

    /// What the executor makes of one step, told as the world and the rows it leaves behind.
    fn execute(todo: &Todo, world: &mut World, rows: &mut BTreeMap<RunnerId, Runner>) {
        let quiet = r#"{"v":1,"id":"","boot_id":"","never_started":true}"#;
        let mut become_state = |id: &RunnerId, state| {
            if let Some(row) = rows.get_mut(id) {
                *row = row.clone().stored(state);
            }
        };
        match todo {
            Todo::Adopt(_) | Todo::Stranger(_) => {}
            Todo::NoteFrozen(id) => become_state(id, State::Frozen),
            Todo::NoteThawed(id) => become_state(id, State::Running),
            Todo::StopAgain(id) | Todo::CloseGate(id) => {
                let seen = world.runners.entry(*id).or_default();
                *seen = Observed {
                    record: Some(serde_json::from_str(quiet).ok()),
                    ..Observed::default()
                };
            }
            Todo::StopScope(id) | Todo::StopZombie(id) => {
                if let Some(seen) = world.runners.get_mut(id) {
                    (seen.scope, seen.shim, seen.gated) = (false, false, false);
                }
            }
            Todo::End(id, ..) => {
                rows.remove(id);
            }
            Todo::Forget(id) => {
                world.runners.remove(id);
            }
        }
    }

    proptest! {
        #[test]
        fn every_world_comes_to_rest_and_then_the_plan_asks_for_nothing(
            observed in proptest::collection::btree_map(0u8..6, seen(), 0..6),
            live in proptest::collection::btree_map(0u8..6, (live_state(), any::<bool>()), 0..6),
        ) {
            let mut world = World { boot_id: "now".to_owned(), runners: observed.into_iter().map(|(n, s)| (id(n), s)).collect() };
            let mut rows: BTreeMap<_, _> = live.into_iter().map(|(n, (s, same))| (id(n), row(n, s, if same { "now" } else { "before" }))).collect();
            let known: Vec<_> = rows.keys().copied().collect();
            for _ in 0..8 {
                for todo in plan(&world, &rows, |i| known.contains(&i)) {
                    execute(&todo, &mut world, &mut rows);
                }
            }
            for todo in plan(&world, &rows, |i| known.contains(&i)) {
                prop_assert!(matches!(todo, Todo::Adopt(_) | Todo::Stranger(_)), "{todo:?}");
            }
        }

        #[test]
        fn what_has_a_shim_is_never_stopped_over_its_head(seen in seen(), state in live_state()) {
            let seen = Observed { shim: true, record: seen.record.filter(Option::is_none), ..seen };
            let world = World { boot_id: "now".to_owned(), runners: [(id(1), seen)].into() };
            let rows = [(id(1), row(1, state, "now"))].into();
            for todo in plan(&world, &rows, |_| false) {
                prop_assert!(!matches!(todo, Todo::StopScope(_) | Todo::End(..)), "{todo:?}");
            }
        }

        #[test]
        fn nothing_alive_is_ended_without_a_record(seen in seen(), state in live_state(), same: bool) {
            let world = World { boot_id: "now".to_owned(), runners: [(id(1), seen.clone())].into() };
            let rows = [(id(1), row(1, state, if same { "now" } else { "before" }))].into();
            for todo in plan(&world, &rows, |_| false) {
                if let Todo::End(_, exit, _) = todo {
                    prop_assert!(matches!(seen.record, Some(Some(_))) || !(seen.scope || seen.shim));
                    if !matches!(seen.record, Some(Some(_))) {
                        prop_assert_eq!((exit.code, exit.signal), (None, None));
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_beats_the_boot_id() {
        let record = serde_json::from_str(
            r#"{"v":1,"id":"","boot_id":"before","asked":"shutdown","signal":15}"#,
        );
        let seen = Observed {
            record: Some(record.ok()),
            ..Observed::default()
        };
        let world = World {
            boot_id: "now".to_owned(),
            runners: [(id(1), seen)].into(),
        };
        let rows = [(id(1), row(1, State::Running, "before"))].into();
        let todo = plan(&world, &rows, |_| false);
        assert!(
            matches!(&todo[..], [Todo::End(_, exit, _)] if exit.cause == Cause::HostShutdown),
            "{todo:?}"
        );
        let gone = World {
            boot_id: "now".to_owned(),
            runners: BTreeMap::new(),
        };
        let todo = plan(&gone, &rows, |_| false);
        assert!(
            matches!(&todo[..], [Todo::End(_, exit, _)] if exit.cause == Cause::HostRebooted),
            "{todo:?}"
        );
    }
}
