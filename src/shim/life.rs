//! The life of a runner as a pure state machine: what happened goes in, what to do comes out.
//! It holds no descriptor and reads no clock; times are µs of CLOCK_MONOTONIC, handed in.
//!
//! ```text
//! gated ──Go──► launching ──Started──► running ──any end or stop──► stopping ──timeout──► killing
//!   │                                                                  └──── Empty ────────┤
//!   └── gate closed, stop ───────────────────────────────────────────────────────► finished ◄┘
//! ```
//! A launch that hangs ([`LAUNCH_MAX`]) is killed at once.

use crate::domain::exit::Asked;
use crate::domain::units::INFINITY;

/// How long it may take from the gate to the exec, µs: less than the agent waits to hear of it.
pub(super) const LAUNCH_MAX: u64 = 50_000_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The agent opened the gate.
    Go,
    /// The gate was closed or something wrong came through it.
    GateClosed,
    /// The command has been exec'd.
    Started,
    /// The main process is gone, exec'd or not.
    MainEnded,
    /// A stop was asked for by the agent.
    Stop(Asked),
    /// A process was killed for lack of memory and the OOM policy says to stop the rest, or to
    /// kill it.
    Oom { kill: bool },
    /// A stop signal came; who is behind it is not known yet. `spread` = everybody else in
    /// the scope got the stop signal from the sender.
    Signalled { spread: bool },
    /// New limits.
    Limits(Times),
    /// The host has been away from the store for too long.
    Fence,
    /// Others take it for gone now: there is no time left for a stop, also where the clock of this
    /// life stood still meanwhile, with its host.
    Gone,
    /// Time went by.
    Tick,
    /// Nobody but the shim is left in the scope.
    Empty,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Fork and exec.
    Launch,
    /// Find out whether the host goes down.
    AskManager,
    /// Send the stop signal to everybody in the scope.
    Terminate,
    /// Send SIGKILL to everybody in the scope, again and again until it is empty.
    Kill,
    /// Write the record and end.
    Finish,
}

/// The limits on a life, in µs; [`INFINITY`] = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) runtime_max: u64,
    pub(super) stop_timeout: u64,
}

/// What made the shim stop its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Known(Asked),
    /// The host was away from the store for too long.
    Fence,
    /// A signal: the manager's answer decides.
    Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Gated,
    Launching { since: u64 },
    Running,
    Stopping { since: u64 },
    Killing,
    Finished,
}

/// One runner's life.
#[derive(Debug)]
pub(super) struct Life {
    phase: Phase,
    times: Times,
    started: Option<u64>,
    launched: bool,
    main_ended: bool,
    why: Option<Why>,
}

impl Life {
    pub(super) fn new(times: Times) -> Self {
        Self {
            phase: Phase::Gated,
            times,
            started: None,
            launched: false,
            main_ended: false,
            why: None,
        }
    }

    /// Nothing runs yet and nothing has been refused.
    pub(super) fn gated(&self) -> bool {
        self.phase == Phase::Gated
    }

    /// The gate was opened.
    pub(super) fn launched(&self) -> bool {
        self.launched
    }

    /// The scope is being emptied: the caller watches for it and says [`Input::Empty`].
    pub(super) fn emptying(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Killing)
    }

    /// SIGKILL is due for whoever is still there.
    pub(super) fn killing(&self) -> bool {
        self.phase == Phase::Killing
    }

    /// What stopped it, if something did before the main process had ended.
    pub(super) fn why(&self) -> Option<Why> {
        self.why
    }

    /// When to say [`Input::Tick`] at the latest.
    pub(super) fn next(&self) -> Option<u64> {
        let (from, span) = match self.phase {
            Phase::Launching { since } => (since, LAUNCH_MAX),
            Phase::Running => (self.started?, self.times.runtime_max),
            Phase::Stopping { since } => (since, self.times.stop_timeout),
            _ => return None,
        };
        (span != INFINITY).then(|| from.saturating_add(span))
    }

    /// Takes what happened and says what to do about it.
    pub(super) fn take(&mut self, now: u64, input: Input) -> Vec<Action> {
        match input {
            Input::Go if self.gated() => {
                self.phase = Phase::Launching { since: now };
                self.launched = true;
                vec![Action::Launch]
            }
            Input::GateClosed
            | Input::Stop(_)
            | Input::Signalled { .. }
            | Input::Fence
            | Input::Gone
                if self.gated() =>
            {
                self.phase = Phase::Finished;
                vec![Action::Finish]
            }
            Input::Started => {
                self.started = Some(now);
                if matches!(self.phase, Phase::Launching { .. }) {
                    self.phase = Phase::Running;
                }
                Vec::new()
            }
            Input::MainEnded if self.launched && !self.main_ended => {
                self.main_ended = true;
                self.stop(now, None, true)
            }
            Input::Stop(asked) => self.stop(now, Some(Why::Known(asked)), true),
            Input::Oom { kill } => {
                let going = self.going();
                let mut actions = self.stop(now, Some(Why::Known(Asked::Oom)), !kill);
                if kill && going {
                    actions.extend(self.kill());
                }
                actions
            }
            Input::Signalled { spread } => {
                let first = self.why.is_none() && self.going();
                let mut actions = self.stop(now, Some(Why::Signal), !spread);
                if first {
                    actions.push(Action::AskManager);
                }
                actions
            }
            Input::Fence => self.stop(now, Some(Why::Fence), true),
            Input::Gone => {
                let mut actions = self.stop(now, Some(Why::Fence), false);
                actions.extend(self.kill());
                actions
            }
            Input::Limits(times) => {
                self.times = times;
                self.tick(now)
            }
            Input::Tick => self.tick(now),
            Input::Empty if self.emptying() && self.main_ended => {
                self.phase = Phase::Finished;
                vec![Action::Finish]
            }
            Input::Go | Input::GateClosed | Input::MainEnded | Input::Empty => Vec::new(),
        }
    }

    fn going(&self) -> bool {
        matches!(self.phase, Phase::Launching { .. } | Phase::Running)
    }

    /// The stop begins, unless it has already: the first reason is the one that counts.
    fn stop(&mut self, now: u64, why: Option<Why>, signal: bool) -> Vec<Action> {
        if !self.going() {
            return Vec::new();
        }
        self.why = why;
        self.phase = Phase::Stopping { since: now };
        let mut actions = Vec::new();
        if signal {
            actions.push(Action::Terminate);
        }
        actions.extend(self.tick(now));
        actions
    }

    /// The stop is at its end.
    fn kill(&mut self) -> Option<Action> {
        let stopping = matches!(self.phase, Phase::Stopping { .. });
        stopping.then(|| {
            self.phase = Phase::Killing;
            Action::Kill
        })
    }

    fn tick(&mut self, now: u64) -> Vec<Action> {
        match self.phase {
            Phase::Running if self.next().is_some_and(|at| now >= at) => {
                self.stop(now, Some(Why::Known(Asked::Timeout)), true)
            }
            Phase::Launching { .. } | Phase::Stopping { .. }
                if self.next().is_some_and(|at| now >= at) =>
            {
                self.phase = Phase::Killing;
                vec![Action::Kill]
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn input() -> impl Strategy<Value = Input> {
        let span = || prop_oneof![0u64..50, Just(INFINITY)];
        prop_oneof![
            3 => Just(Input::Go),
            1 => Just(Input::GateClosed),
            3 => Just(Input::Started),
            1 => Just(Input::MainEnded),
            1 => prop_oneof![Just(Asked::Stop), Just(Asked::Timeout)].prop_map(Input::Stop),
            1 => any::<bool>().prop_map(|spread| Input::Signalled { spread }),
            1 => any::<bool>().prop_map(|kill| Input::Oom { kill }),
            1 => Just(Input::Fence),
            1 => Just(Input::Gone),
            1 => (span(), span()).prop_map(|(runtime_max, stop_timeout)| {
                Input::Limits(Times { runtime_max, stop_timeout })
            }),
            4 => Just(Input::Tick),
            1 => Just(Input::Empty),
        ]
    }

    fn count(actions: &[Action], action: Action) -> usize {
        actions.iter().filter(|a| **a == action).count()
    }

    proptest! {
        #[test]
        fn whatever_happens(
            steps in proptest::collection::vec((input(), 0u64..20), 0..40),
            runtime_max in prop_oneof![0u64..60, Just(INFINITY)],
            stop_timeout in 0u64..60,
        ) {
            let mut life = Life::new(Times { runtime_max, stop_timeout });
            let (mut now, mut all, mut main_ended) = (1_000, Vec::new(), false);
            for (input, passed) in steps {
                now += passed;
                let before = (life.why(), life.gated(), life.emptying());
                let actions = life.take(now, input);
                // Nothing is launched but through an open gate, and once.
                prop_assert!(count(&actions, Action::Launch) == 0 || (before.1 && input == Input::Go));
                // Others may count on it.
                if input == Input::Gone && !before.1 {
                    prop_assert!(life.killing() || life.phase == Phase::Finished);
                }
                // The first reason stays, and there is none once the main process has ended.
                if before.0.is_some() || main_ended {
                    prop_assert_eq!(life.why(), before.0);
                }
                main_ended |= input == Input::MainEnded && life.launched();
                // A started life finishes only when everybody is gone.
                if count(&actions, Action::Finish) > 0 {
                    let over = input == Input::Empty && main_ended;
                    prop_assert!(over || (before.1 && !life.launched()));
                }
                // When a time is due, a tick settles it.
                life.take(now, Input::Tick).into_iter().for_each(|a| all.push(a));
                prop_assert!(life.next().is_none_or(|at| at > now));
                all.extend(actions);
            }
            for action in [Action::Launch, Action::AskManager, Action::Terminate, Action::Kill, Action::Finish] {
                prop_assert!(count(&all, action) <= 1, "{:?} in {:?}", action, all);
            }
            // Whatever the state, main's end, time and an empty scope bring it to its end.
            let finished = count(&all, Action::Finish) == 1;
            let mut rest = life.take(now, Input::GateClosed);
            rest.extend(life.take(now, Input::MainEnded));
            rest.extend(life.take(now, Input::Empty));
            prop_assert_eq!(count(&rest, Action::Finish), usize::from(!finished));
        }

        #[test]
        fn sigkill_comes_after_the_timeout_and_not_before(timeout in 1u64..1_000, early in 0u64..1_000) {
            let mut life = Life::new(Times { runtime_max: INFINITY, stop_timeout: timeout });
            life.take(0, Input::Go);
            life.take(5, Input::Started);
            prop_assert_eq!(life.take(10, Input::Stop(Asked::Stop)), vec![Action::Terminate]);
            let actions = life.take(10 + early, Input::Tick);
            prop_assert_eq!(actions.contains(&Action::Kill), early >= timeout);
        }
    }

    /// The host was suspended meanwhile: hours have passed, and none of them for this life.
    #[test]
    fn no_stop_outlives_the_fence() {
        let life = || {
            let mut life = Life::new(Times {
                runtime_max: INFINITY,
                stop_timeout: 50,
            });
            life.take(0, Input::Go);
            life.take(5, Input::Started);
            life
        };
        let stop = Input::Stop(Asked::Stop);
        let fence = Why::Fence;
        for (begun, why) in [
            (Input::Fence, Some(fence)),
            (stop, Some(Why::Known(Asked::Stop))),
            (Input::Signalled { spread: true }, Some(Why::Signal)),
            (Input::MainEnded, None),
        ] {
            let mut life = life();
            life.take(100, begun);
            assert_eq!(life.take(101, Input::Fence), vec![]);
            assert_eq!(life.next(), Some(150));
            assert_eq!(life.take(102, Input::Gone), vec![Action::Kill]);
            assert_eq!((life.why(), life.next()), (why, None));
            assert_eq!(life.take(103, Input::Gone), vec![]);
        }
        // One that was never told of the deadline has no stop at all.
        let mut late = life();
        assert_eq!(late.take(100, Input::Gone), vec![Action::Kill]);
        assert_eq!(late.why(), Some(fence));
    }

    #[test]
    fn a_launch_that_hangs_is_killed() {
        let mut life = Life::new(Times {
            runtime_max: INFINITY,
            stop_timeout: INFINITY,
        });
        life.take(7, Input::Go);
        assert_eq!(life.next(), Some(7 + LAUNCH_MAX));
        assert_eq!(life.take(6 + LAUNCH_MAX, Input::Tick), vec![]);
        assert_eq!(life.take(7 + LAUNCH_MAX, Input::Tick), vec![Action::Kill]);
        // Whatever comes of it now, it goes on being killed.
        assert_eq!(life.take(8 + LAUNCH_MAX, Input::Started), vec![]);
        assert!(life.killing() && life.why().is_none());
        life.take(9 + LAUNCH_MAX, Input::MainEnded);
        assert_eq!(
            life.take(9 + LAUNCH_MAX, Input::Empty),
            vec![Action::Finish]
        );
    }

    #[test]
    fn a_signal_that_everybody_got_is_not_sent_twice() {
        let mut life = Life::new(Times {
            runtime_max: INFINITY,
            stop_timeout: 9,
        });
        life.take(0, Input::Go);
        life.take(0, Input::Started);
        let actions = life.take(1, Input::Signalled { spread: true });
        assert_eq!(actions, vec![Action::AskManager]);
        assert_eq!(life.take(10, Input::Tick), vec![Action::Kill]);
    }

    #[test]
    fn a_new_runtime_limit_counts_from_the_start() {
        let mut life = Life::new(Times {
            runtime_max: INFINITY,
            stop_timeout: 9,
        });
        life.take(0, Input::Go);
        life.take(100, Input::Started);
        let limits = |runtime_max| {
            Input::Limits(Times {
                runtime_max,
                stop_timeout: 9,
            })
        };
        assert_eq!(life.take(150, limits(60)), vec![]);
        assert_eq!(life.next(), Some(160));
        assert_eq!(life.take(150, limits(50)), vec![Action::Terminate]);
        assert_eq!(life.why(), Some(Why::Known(Asked::Timeout)));
    }
}
