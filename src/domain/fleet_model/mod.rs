//! The whole fleet in pure code: admission, leases and reconciliation together, gone through by chance.
//!
//! Three hosts, their agents and shims ([`machine`]), daemons ([`daemon`], [`lane`]) and the store's rows
//! ([`store`]) are told as briefly as can be; what is *decided* is decided by the functions that the
//! product calls: `Ledger`, `Lease`, `Fence`, `Host`, `plan`, `Runner::apply`, `BudgetState`,
//! `policy::verdict`, `Record::exit`. Anything dies between any two steps, anything sent is lost, late or
//! unanswered, clocks go apart by hours and at rates of their own, and hosts are away, or suspended, for
//! longer than they may be ([`world`]). Whoever has no answer asks again with the same request id, here
//! or elsewhere, and a launch whose beginning was cut off is begun again.
//!
//! After every step, by counting anew ([`check`]): live rows never pass a cap; used and reserved never
//! pass a budget at an admission; every command that really runs is charged, so what runs does not pass
//! a cap either; a runner ends once, its command is exec'd at most once, and one of a request id; what
//! is reserved is what live runners hold; a cause is the one that the shim has written down; who takes
//! it that a lease holds has it in the store, too. From the very moment on at which the slots of a
//! silent host may be given to others nothing runs there, whether or not somebody gives them away. When
//! all is healed and drained nothing is left. A boot is let in while the one before has a lease only if that one has
//! said that it is over, and then at once; a copy of a machine that was kept out never is ([`boots`]).
//!
//! A command that runs may be charged to nobody in three cases, and no other:
//! 1. an operator has forgotten its host by hand, and was wrong;
//! 2. its host was given up on the promise of a self-fence that nobody was left to keep: its shim was
//!    killed by root, or stood still with a frozen tree, while the agent was away too, past the deadline;
//! 3. its host was suspended past the deadline: nothing runs meanwhile, and when it goes on its shims see
//!    what they have missed and stop within [`SLACK`](crate::domain::fence::SLACK).
//!
//! And a runner ends `host-lost` whatever its shim has seen if its host was given up before it told.

mod agent;
mod boots;
mod check;
mod compare;
mod daemon;
mod dice;
mod drain;
mod faults;
mod hosts;
mod lane;
mod machine;
mod store;
mod world;

use dice::Dice;
use std::collections::BTreeMap;
use world::World;

/// Steps of a walk, before everything is healed.
const WALK: u64 = 2_500;
/// Steps of all walks, if `STRATAVORE_MODEL_STEPS` does not say.
const STEPS: u64 = 3_000_000;

/// What no such number of steps leaves out.
const MUST_BE_SEEN: [&str; 26] = [
    "admitted",
    "begun again",
    "cancelled",
    "copy kept out",
    "excused",
    "exit-code",
    "ghost",
    "given up",
    "given up by hand",
    "host-lost",
    "host-rebooted",
    "host-shutdown",
    "joined at once",
    "kept out for all that",
    "last word",
    "launch-failed",
    "over-budget",
    "overslept",
    "repeated",
    "slept",
    "stopped",
    "success",
    "supervisor-lost",
    "unknown",
    "waited for the lease",
    "word too late",
];

/// Goes these steps of a walk; what was seen, or which step was the last and what was wrong after it.
fn walk(seed: u64, steps: &[u64]) -> Result<BTreeMap<&'static str, u64>, (usize, String)> {
    let mut world = World::new(seed);
    for (n, step) in steps.iter().enumerate() {
        let gone = world.step(&mut Dice::new(seed, *step));
        gone.map_err(|why| (n, why))?;
    }
    let drained = world.drains(&mut Dice::new(seed, u64::MAX - 1));
    drained.map_err(|why| (steps.len(), why))?;
    Ok(world.checker.seen)
}

/// A walk that fails as this one does, with fewer steps: those are left out that it does not need.
fn shorter(seed: u64, mut steps: Vec<u64>) -> (Vec<u64>, String) {
    let mut why = String::new();
    let mut chunk = steps.len();
    while chunk > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            match walk(seed, &fewer) {
                Err((n, wrong)) => {
                    fewer.truncate(n + 1);
                    (steps, why) = (fewer, wrong);
                }
                Ok(_) => at += chunk,
            }
        }
        chunk /= 2;
    }
    (steps, why)
}

#[test]
fn no_walk_of_a_fleet_breaks_its_word() {
    let asked = std::env::var("STRATAVORE_MODEL_STEPS").ok();
    let total: u64 = asked.map_or(STEPS, |n| n.parse().unwrap());
    let first = std::env::var("STRATAVORE_MODEL_SEED").ok();
    let first: u64 = first.map_or(0, |n| n.parse().unwrap());
    let begun = std::time::Instant::now();
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in first..first + total.div_ceil(WALK) {
        match walk(seed, &(0..WALK).collect::<Vec<_>>()) {
            Ok(saw) => saw
                .into_iter()
                .for_each(|(what, n)| *seen.entry(what).or_default() += n),
            Err((step, why)) => {
                let (steps, short) = shorter(seed, (0..WALK.min(step as u64 + 1)).collect());
                panic!(
                    "seed {seed}, step {step}: {why}\nShortened to the steps {steps:?}: {short}\nAgain: STRATAVORE_MODEL_SEED={seed} STRATAVORE_MODEL_STEPS=1"
                );
            }
        }
    }
    println!("{total} steps in {:.1?}: {seen:?}", begun.elapsed());
    for what in MUST_BE_SEEN.iter().filter(|_| total >= STEPS) {
        assert!(seen.contains_key(what), "nothing of {what} was seen");
    }
}
