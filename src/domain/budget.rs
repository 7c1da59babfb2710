//! Budgets: caps on tokens per period, for the fleet, a project or a session.
//!
//! A launch reserves tokens in every budget that matches it; what its runner reports is taken from
//! the reservation first and charged as used; what is left of the reservation is released when the
//! runner ends. So at every admission `used + reserved + requested <= limit`, and a runner that
//! keeps to its reservation never takes a budget past its limit. What it uses past its reservation
//! is charged at once (overrun), and is what a policy acts on first.
//!
//! Nothing is added up that could be counted again: `reserved` is the sum of [`Holding::held`] over
//! the live runners, and `used` the sum of what they reported since the period began.

mod words;

pub use words::{Counts, OnExhausted, Scope};

use super::error::Error;
use super::period::{self, Period, Span};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most tokens of one runner, reserved or of one kind used: 10¹². Sums of a million runners
/// stay in the range of a database's integers.
pub const TOKENS_MAX: u64 = 1_000_000_000_000;
/// The highest limit: 2⁵³, what JSON's numbers can tell exactly.
pub const LIMIT_MAX: u64 = 1 << 53;
/// Where sums stop: a database's largest integer.
const SUM_MAX: u64 = i64::MAX.unsigned_abs();

/// What a runner has used since it began, by kind. Counters only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// What the model was given.
    pub input: u64,
    /// What it answered.
    pub output: u64,
    /// What it was given out of its cache.
    pub cache_read: u64,
    /// What it was given to keep in its cache.
    pub cache_write: u64,
}

impl Tokens {
    /// These counters after a report of totals. The larger number counts, so that a report may come
    /// twice, late, or without some of the counters (0).
    pub fn advance(self, reported: Self) -> Self {
        let more = |old: u64, new: u64| old.max(new.min(TOKENS_MAX));
        Self {
            input: more(self.input, reported.input),
            output: more(self.output, reported.output),
            cache_read: more(self.cache_read, reported.cache_read),
            cache_write: more(self.cache_write, reported.cache_write),
        }
    }

    /// What of it a budget counts.
    pub fn counted(self, counts: &Counts) -> u64 {
        [self.input, self.output, self.cache_read, self.cache_write]
            .into_iter()
            .zip(counts.flags())
            .filter(|(_, on)| *on)
            .fold(0, |sum, (n, _)| sum.saturating_add(n))
    }

    /// What was given to the model, its cache included, and what it answered.
    pub fn directions(self) -> [u64; 2] {
        let given = self.input.saturating_add(self.cache_read);
        [given.saturating_add(self.cache_write), self.output]
    }

    /// A report that says more than a runner can have used is refused, not cut.
    pub fn check(self) -> Result<(), Error> {
        let all = [self.input, self.output, self.cache_read, self.cache_write];
        match all.into_iter().find(|n| *n > TOKENS_MAX) {
            None => Ok(()),
            Some(n) => Err(Error::invalid(format!(
                "{n} tokens are more than one runner can report: at most {TOKENS_MAX} of a kind. Reports are totals since the runner began."
            ))),
        }
    }
}

/// Checks the tokens a launch wants to reserve: 1 to 10¹².
pub fn check_tokens(tokens: u64) -> Result<(), Error> {
    if (1..=TOKENS_MAX).contains(&tokens) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "tokens={tokens}: a runner reserves from 1 to {TOKENS_MAX} tokens."
    )))
}

/// What one runner has of every budget that matches it: a reservation and counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holding {
    /// What it reserved.
    pub tokens: u64,
    /// What it reported.
    pub counters: Tokens,
    /// Whether it holds a slot: what has ended, or waits in the queue, reserves nothing.
    pub live: bool,
}

impl Holding {
    /// What is left of its reservation.
    pub fn held(&self, counts: &Counts) -> u64 {
        match self.live {
            true => self.tokens.saturating_sub(self.counters.counted(counts)),
            false => 0,
        }
    }

    /// What it used past its reservation.
    pub fn overrun(&self, counts: &Counts) -> u64 {
        self.counters.counted(counts).saturating_sub(self.tokens)
    }
}

/// What a step of a runner (admission, report, ending) does to a budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    /// Tokens to be charged.
    pub used: u64,
    /// What it held of the budget before.
    pub held_before: u64,
    /// What it holds now.
    pub held_after: u64,
    /// How much of `used` went past its reservation.
    pub overrun: u64,
}

/// What a step from `before` to `after` does to a budget that counts `counts`.
pub fn settle(before: &Holding, after: &Holding, counts: &Counts) -> Settled {
    let used = |h: &Holding| h.counters.counted(counts);
    Settled {
        used: used(after).saturating_sub(used(before)),
        held_before: before.held(counts),
        held_after: after.held(counts),
        overrun: after.overrun(counts).saturating_sub(before.overrun(counts)),
    }
}

/// A budget as an administrator set it. Its scope and period together are its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Whose tokens.
    pub scope: Scope,
    /// For how long.
    pub period: Period,
    /// How many. 0 = no launch at all.
    pub limit: u64,
    /// The IANA time zone on whose clock periods begin.
    pub timezone: String,
    /// What happens to running work when it is used up.
    #[serde(default)]
    pub on_exhausted: OnExhausted,
    /// Which tokens count.
    #[serde(default)]
    pub counts: Counts,
    /// When it was set for the first time.
    pub created_at: Timestamp,
}

impl Budget {
    /// Checks what an administrator says about it.
    pub fn check(&self) -> Result<(), Error> {
        if self.limit > LIMIT_MAX {
            return Err(Error::invalid(format!(
                "limit={}: a budget has at most {LIMIT_MAX} tokens.",
                self.limit
            )));
        }
        if !self.counts.flags().contains(&true) {
            return Err(Error::invalid(
                "A budget counts at least one kind of tokens.",
            ));
        }
        period::zone(&self.timezone).map(|_| ())
    }

    /// The period `now` belongs to. Fails where this host does not know the time zone.
    pub fn span(&self, now: Timestamp) -> Result<Span, Error> {
        Ok(self.period.span(now, &period::zone(&self.timezone)?))
    }
}

impl fmt::Display for Budget {
    /// `the monthly budget of project:acme`, for sentences.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adjective = match self.period {
            Period::Hour => "hourly ",
            Period::Day => "daily ",
            Period::Week => "weekly ",
            Period::Month => "monthly ",
            Period::None => "",
        };
        write!(f, "the {adjective}budget of {}", self.scope)
    }
}

/// What is told once per period, when the use of a budget reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// So many percent of the limit are used: 50, 80 or 100.
    Threshold(u8),
    /// More than the limit is used.
    Exceeded,
}

impl Crossing {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 4] = [
        Self::Threshold(50),
        Self::Threshold(80),
        Self::Threshold(100),
        Self::Exceeded,
    ];

    /// Whether the use has come so far. A limit of 0 is reached by the first token.
    fn reached(self, limit: u64, used: u64) -> bool {
        match self {
            Self::Threshold(percent) => {
                used > 0 && u128::from(used) * 100 >= u128::from(limit) * u128::from(percent)
            }
            Self::Exceeded => used > limit,
        }
    }
}

/// What is to be told of a budget now, and what has been told then (bits in the order of
/// [`Crossing::ALL`]). What was told is told again only after the use was below it: in a new
/// period, or after the limit was raised.
pub fn crossed(limit: u64, used: u64, told: u8) -> (Vec<Crossing>, u8) {
    let mut now = 0;
    let mut new = Vec::new();
    for (bit, crossing) in Crossing::ALL.into_iter().enumerate() {
        if crossing.reached(limit, used) {
            now |= 1 << bit;
            if told & (1 << bit) == 0 {
                new.push(crossing);
            }
        }
    }
    (new, now)
}

/// A budget and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    /// What was set.
    pub budget: Budget,
    /// When the period began that `used` is about.
    pub period_start: Timestamp,
    /// Tokens charged in this period.
    pub used: u64,
    /// Tokens that live runners may still use.
    pub reserved: u64,
    /// How many of `used` were used past the reservations of their runners.
    pub overrun: u64,
    /// What was told in this period, see [`crossed`].
    pub told: u8,
}

impl BudgetState {
    /// A budget from now on. `reserved` is what the live runners hold that match it.
    pub fn new(budget: Budget, reserved: u64, now: Timestamp) -> Result<Self, Error> {
        Ok(Self {
            period_start: budget.span(now)?.start,
            budget,
            used: 0,
            reserved: reserved.min(SUM_MAX),
            overrun: 0,
            told: 0,
        })
    }

    /// The state at `now`: in a new period nothing is used yet, and reservations go on. A clock
    /// that goes back never brings an old period back.
    ///
    /// A period that began less than half a period before this one is this one, as a host sees it
    /// that has other rules for the time zone: what is used then is not forgotten twice a day. And
    /// one that begins more than a period from now was begun by a clock that was wrong: what is
    /// used stays used, and counts for the present one.
    pub fn roll(mut self, now: Timestamp) -> Result<Self, Error> {
        let Span { start, end } = self.budget.span(now)?;
        let length = end.0.saturating_sub(start.0);
        let behind = start.0.saturating_sub(self.period_start.0);
        let ahead = self.period_start.0.saturating_sub(end.0);
        if behind > 0 && behind >= length / 2 {
            self.period_start = start;
            self.used = 0;
            self.overrun = 0;
            self.told = 0;
        } else if ahead > length {
            self.period_start = start;
        }
        Ok(self)
    }

    /// The state under new terms (same scope and period): what is used stays used, in another time
    /// zone too. `reserved` is counted anew, because other kinds of tokens may count now.
    pub fn change(self, budget: Budget, reserved: u64, now: Timestamp) -> Result<Self, Error> {
        let mut state = self.roll(now)?;
        state.period_start = budget.span(now)?.start;
        state.budget = budget;
        state.reserved = reserved.min(SUM_MAX);
        Ok(state)
    }

    /// Charges a step of a matching runner. What it used and holds is in the result.
    pub fn settle(&mut self, before: &Holding, after: &Holding) -> Settled {
        let step = settle(before, after, &self.budget.counts);
        self.used = self.used.saturating_add(step.used).min(SUM_MAX);
        self.overrun = self.overrun.saturating_add(step.overrun).min(SUM_MAX);
        let others = self.reserved.saturating_sub(step.held_before);
        self.reserved = others.saturating_add(step.held_after).min(SUM_MAX);
        step
    }

    /// Used and promised.
    pub fn taken(&self) -> u64 {
        self.used.saturating_add(self.reserved)
    }

    /// Whether a launch that reserves so much may happen.
    pub fn fits(&self, requested: u64) -> bool {
        self.taken().saturating_add(requested) <= self.budget.limit
    }

    /// What a launch can still reserve.
    pub fn room(&self) -> u64 {
        self.budget.limit.saturating_sub(self.taken())
    }

    /// Whether all of it is used.
    pub fn exhausted(&self) -> bool {
        exhausted(self.budget.limit, self.used)
    }

    /// What is to be told now; remembers that it was.
    pub fn tell(&mut self) -> Vec<Crossing> {
        let (new, told) = crossed(self.budget.limit, self.used, self.told);
        self.told = told;
        new
    }

    /// Whether the policy acts on this matching runner: on every live one once the budget is used
    /// up, and before that on one that is past its own reservation as soon as what is left does not
    /// cover what was promised to the others.
    pub fn acts_on(&self, runner: &Holding) -> bool {
        let at_their_cost =
            self.taken() > self.budget.limit && runner.overrun(&self.budget.counts) > 0;
        runner.live && (self.exhausted() || at_their_cost)
    }
}

/// Whether a budget is used up.
pub fn exhausted(limit: u64, used: u64) -> bool {
    used >= limit
}

/// What is to be done with a runner, given all budgets that match it: the strictest policy of
/// those that act on it. [`OnExhausted::Deny`] = it goes on, and if a budget had frozen it, it thaws.
pub fn verdict<'a>(
    runner: &Holding,
    matching: impl IntoIterator<Item = &'a BudgetState>,
) -> OnExhausted {
    let acting = matching.into_iter().filter(|state| state.acts_on(runner));
    let policies = acting.map(|state| state.budget.on_exhausted);
    policies.max().unwrap_or_default()
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
