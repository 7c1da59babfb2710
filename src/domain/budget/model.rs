//! A made-up world of budgets: whatever is admitted, reported, ended and changed, in whatever order,
//! the books are what a naive recount says, and no admission takes a budget past its limit.

use super::super::name::ProjectName;
use super::tests::{DAY, budget, live, name};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// One step of a made-up world.
#[derive(Debug, Clone)]
enum Act {
    Admit {
        project: usize,
        session: usize,
        tokens: u64,
    },
    Report {
        runner: usize,
        tokens: [u64; 4],
        partial: u8,
    },
    /// An old report comes again.
    Again {
        report: usize,
    },
    End {
        runner: usize,
    },
    Wait {
        usec: u64,
    },
    Change {
        budget: usize,
        limit: u64,
        counts: [bool; 4],
        utc: bool,
    },
    Add {
        budget: usize,
        limit: u64,
    },
}

const PROJECTS: [&str; 2] = ["a", "b"];
const SESSIONS: [Option<&str>; 3] = [None, Some("s"), Some("t")];

fn acts() -> impl Strategy<Value = Act> {
    let small = || prop_oneof![0u64..50, 0u64..400, Just(u64::MAX)];
    prop_oneof![
        6 => (0usize..2, 0usize..3, 1u64..300).prop_map(|(project, session, tokens)| Act::Admit { project, session, tokens }),
        8 => (any::<usize>(), [small(), small(), small(), small()], any::<u8>())
            .prop_map(|(runner, tokens, partial)| Act::Report { runner, tokens, partial }),
        3 => any::<usize>().prop_map(|report| Act::Again { report }),
        3 => any::<usize>().prop_map(|runner| Act::End { runner }),
        2 => select(vec![1u64, 3_600_000_000, DAY, 8 * DAY, 40 * DAY]).prop_map(|usec| Act::Wait { usec }),
        1 => (any::<usize>(), 0u64..3000, any::<[bool; 4]>(), any::<bool>())
            .prop_map(|(budget, limit, counts, utc)| Act::Change { budget, limit, counts, utc }),
        1 => (0usize..10, 0u64..3000).prop_map(|(budget, limit)| Act::Add { budget, limit }),
    ]
}

#[derive(Debug)]
struct Member {
    project: ProjectName,
    session: Option<&'static str>,
    holding: Holding,
}

/// What the recount is made from: every charge with its time and kinds, never added up.
#[derive(Debug, Default)]
struct World {
    now: u64,
    runners: Vec<Member>,
    budgets: Vec<BudgetState>,
    reports: Vec<(usize, Tokens)>,
    /// Per budget: what was charged in the period of its `period_start`.
    charged: Vec<Vec<u64>>,
}

impl World {
    fn step(&mut self, act: &Act) -> Result<(), TestCaseError> {
        let fail = |e: Error| TestCaseError::fail(e.message);
        for at in 0..self.budgets.len() {
            let before = self.budgets[at].clone();
            self.budgets[at] = before.clone().roll(Timestamp(self.now)).map_err(fail)?;
            if self.budgets[at].period_start > before.period_start {
                self.charged[at].clear();
            }
            prop_assert_eq!(self.budgets[at].reserved, before.reserved);
        }
        match act {
            Act::Admit {
                project,
                session,
                tokens,
            } => {
                let (project, session) = (name(PROJECTS[*project]), SESSIONS[*session]);
                let matching = |b: &&BudgetState| b.budget.scope.matches(&project, session);
                if !self
                    .budgets
                    .iter()
                    .filter(matching)
                    .all(|b| b.fits(*tokens))
                {
                    return Ok(());
                }
                let holding = live(*tokens, Tokens::default());
                self.runners.push(Member {
                    project,
                    session,
                    holding: Holding::default(),
                });
                self.settle(self.runners.len() - 1, holding)?;
                let new = self.runners.last().map(|r| (r.project.clone(), r.session));
                for state in &self.budgets {
                    if new
                        .as_ref()
                        .is_some_and(|(p, s)| state.budget.scope.matches(p, *s))
                    {
                        prop_assert!(
                            state.used + state.reserved <= state.budget.limit,
                            "{:?}",
                            state
                        );
                    }
                }
            }
            Act::Report {
                runner,
                tokens,
                partial,
            } if !self.runners.is_empty() => {
                let at = runner % self.runners.len();
                let said = |bit: usize| {
                    if partial & (1 << bit) == 0 {
                        tokens[bit]
                    } else {
                        0
                    }
                };
                let report = Tokens {
                    input: said(0),
                    output: said(1),
                    cache_read: said(2),
                    cache_write: said(3),
                };
                self.reports.push((at, report));
                self.report(at, report)?;
            }
            Act::Again { report } if !self.reports.is_empty() => {
                let (at, report) = self.reports[report % self.reports.len()];
                let before: Vec<_> = self.budgets.iter().map(|b| (b.used, b.reserved)).collect();
                self.report(at, report)?;
                let after: Vec<_> = self.budgets.iter().map(|b| (b.used, b.reserved)).collect();
                prop_assert_eq!(before, after);
            }
            Act::End { runner } if !self.runners.is_empty() => {
                let at = runner % self.runners.len();
                let after = Holding {
                    live: false,
                    ..self.runners[at].holding
                };
                self.settle(at, after)?;
            }
            Act::Wait { usec } => self.now += usec,
            Act::Change {
                budget,
                limit,
                counts,
                utc,
            } if !self.budgets.is_empty() => {
                let at = budget % self.budgets.len();
                let state = self.budgets[at].clone();
                let [input, output, cache_read, cache_write] = *counts;
                let new = Budget {
                    limit: *limit,
                    counts: Counts {
                        input,
                        output,
                        cache_read,
                        cache_write,
                    },
                    timezone: if *utc { "UTC" } else { "Asia/Kathmandu" }.to_owned(),
                    ..state.budget.clone()
                };
                let reserved = self.recount(&new);
                self.budgets[at] = state
                    .change(new, reserved, Timestamp(self.now))
                    .map_err(fail)?;
            }
            Act::Add { budget: at, limit } => {
                let scopes = [
                    Scope::Fleet,
                    Scope::Project(name("a")),
                    Scope::Project(name("b")),
                    Scope::Session("s".to_owned()),
                    Scope::Session("t".to_owned()),
                ];
                let period = if at % 2 == 0 {
                    Period::None
                } else {
                    Period::Day
                };
                let new = budget(scopes[at / 2].clone(), period, *limit);
                let known =
                    |b: &BudgetState| (&b.budget.scope, b.budget.period) == (&new.scope, period);
                if !self.budgets.iter().any(known) {
                    let reserved = self.recount(&new);
                    self.budgets
                        .push(BudgetState::new(new, reserved, Timestamp(self.now)).map_err(fail)?);
                    self.charged.push(Vec::new());
                }
            }
            Act::Report { .. } | Act::Again { .. } | Act::End { .. } | Act::Change { .. } => {}
        }
        Ok(())
    }

    fn report(&mut self, at: usize, report: Tokens) -> Result<(), TestCaseError> {
        let holding = self.runners[at].holding;
        let after = Holding {
            counters: holding.counters.advance(report),
            ..holding
        };
        self.settle(at, after)
    }

    fn settle(&mut self, at: usize, after: Holding) -> Result<(), TestCaseError> {
        let runner = &mut self.runners[at];
        for (state, charged) in self.budgets.iter_mut().zip(&mut self.charged) {
            if !state.budget.scope.matches(&runner.project, runner.session) {
                continue;
            }
            let taken = state.taken();
            let step = state.settle(&runner.holding, &after);
            charged.push(step.used);
            // Only what was reserved or overrun is ever taken.
            if !runner.holding.live && !after.live {
                prop_assert_eq!(state.taken() - taken, step.used);
            } else if runner.holding.live && after.live {
                prop_assert_eq!(state.taken() - taken, step.overrun);
            }
        }
        runner.holding = after;
        Ok(())
    }

    /// What the live runners hold of a budget, counted anew.
    fn recount(&self, budget: &Budget) -> u64 {
        let matching = self
            .runners
            .iter()
            .filter(|r| budget.scope.matches(&r.project, r.session));
        matching.map(|r| r.holding.held(&budget.counts)).sum()
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        for (state, charged) in self.budgets.iter_mut().zip(&self.charged) {
            prop_assert_eq!(state.used, charged.iter().sum::<u64>());
            let (limit, used) = (state.budget.limit, state.used);
            let told = state.tell();
            prop_assert!(state.tell().is_empty(), "told twice");
            prop_assert_eq!(told.contains(&Crossing::Exceeded) && used <= limit, false);
        }
        for state in &self.budgets {
            prop_assert_eq!(state.reserved, self.recount(&state.budget));
        }
        for runner in &self.runners {
            let matching = self
                .budgets
                .iter()
                .filter(|b| b.budget.scope.matches(&runner.project, runner.session));
            let matching: Vec<_> = matching.collect();
            let acts = matching
                .iter()
                .any(|b| b.exhausted() || b.taken() > b.budget.limit);
            prop_assert!(acts || verdict(&runner.holding, matching) == OnExhausted::Deny);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn the_books_are_what_a_recount_says(acts in vec(acts(), 1..120)) {
        let mut world = World { now: 1_790_000_000_000_000, ..World::default() };
        for (budget, limit) in [(0, 1500), (2, 800), (3, 500)] {
            world.step(&Act::Add { budget, limit })?;
        }
        for act in &acts {
            world.step(act)?;
            world.check()?;
        }
    }
}
