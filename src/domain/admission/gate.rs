//! One condition a launch has to meet, with its numbers, and the sentence when it does not.

use super::super::budget::{BudgetState, Scope};
use super::super::error::{Error, ErrorKind};
use super::super::hold::{Hold, HoldScope};
use super::super::name::ProjectName;
use super::super::time::Timestamp;
use super::Seated;

/// The note of a budget's gate where the launch says nothing of tokens.
pub const NO_TOKENS: &str = "the launch does not say how many tokens it may use";

/// The names of all gates.
pub const GATES: [&str; 9] = [
    "hold",
    "cordon",
    "session",
    "project-runners",
    "host-runners",
    "fleet-runners",
    "budget",
    "queue",
    "queue-length",
];

/// In the advice of gates that open by themselves; who waits already is not told of it.
pub const QUEUE_DOES: &str = " (run --queue does)";

/// One condition a launch has to meet, with its numbers. It is met while `used + reserved +
/// requested` is within the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Which one, of [`GATES`].
    pub name: &'static str,
    /// Whom it is about.
    pub subject: String,
    /// The cap; `None` = there is none.
    pub limit: Option<u64>,
    /// What is taken already.
    pub used: u64,
    /// What is promised to others and not used yet.
    pub reserved: u64,
    /// What the launch would add.
    pub requested: u64,
    /// Why it is as it is, where the numbers don't say.
    pub note: String,
    /// What to say when it is shut.
    refusal: (ErrorKind, String),
    /// Everybody of the project meets it.
    shared: bool,
    /// It may open by itself.
    waits: bool,
}

/// A launch that may not happen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gate that is shut.
    pub gate: Box<Gate>,
    /// For the caller.
    pub error: Error,
    /// It stops everybody of the project alike.
    pub shared: bool,
    /// Waiting may help.
    pub waits: bool,
}

impl Gate {
    /// Whether the launch fits.
    pub fn open(&self) -> bool {
        let sum = self.used.saturating_add(self.reserved);
        self.limit
            .is_none_or(|limit| sum.saturating_add(self.requested) <= limit)
    }

    /// What to say of one that is shut.
    pub fn refusal(&self) -> Option<Error> {
        let (kind, message) = &self.refusal;
        (!self.open()).then(|| Error::new(*kind, message.clone()))
    }

    /// The refusal of one that is shut.
    pub fn shut(self) -> Refusal {
        let (kind, message) = self.refusal.clone();
        Refusal {
            error: Error::new(kind, message),
            shared: self.shared,
            waits: self.waits,
            gate: Box::new(self),
        }
    }

    fn cap(name: &'static str, subject: String, used: u32, max: Option<u32>) -> Self {
        Self {
            name,
            subject,
            limit: max.map(u64::from),
            used: used.into(),
            reserved: 0,
            requested: 1,
            note: String::new(),
            refusal: (ErrorKind::QuotaExceeded, String::new()),
            shared: false,
            waits: true,
        }
    }

    /// One that is shut, whatever the numbers.
    fn closed(name: &'static str, subject: String) -> Self {
        Self::cap(name, subject, 0, Some(0))
    }

    fn says(mut self, kind: ErrorKind, message: String) -> Self {
        self.refusal = (kind, message);
        self
    }

    fn shared(mut self) -> Self {
        self.shared = true;
        self
    }
}

pub(super) fn project(name: &ProjectName, live: u32, max: Option<u32>) -> Gate {
    let limit = max.unwrap_or_default();
    let message = format!(
        "Project {name} has {live} of {limit} live runners. Wait until one ends{QUEUE_DOES}, or raise the cap: stratavorectl project set {name} --max-runners N."
    );
    Gate::cap("project-runners", name.to_string(), live, max)
        .says(ErrorKind::QuotaExceeded, message)
        .shared()
}

pub(super) fn host(name: &str, live: u32, max: Option<u32>) -> Gate {
    let limit = max.unwrap_or_default();
    let message = format!(
        "This host ({name}) has {live} of {limit} live runners. Wait until one ends{QUEUE_DOES}, or raise host.max_runners in stratavored.toml."
    );
    Gate::cap("host-runners", name.to_owned(), live, max).says(ErrorKind::QuotaExceeded, message)
}

pub(super) fn fleet(live: u32, max: Option<u32>) -> Gate {
    let limit = max.unwrap_or_default();
    let message = format!(
        "The fleet has {live} of {limit} live runners. Wait until one ends{QUEUE_DOES}, or raise the cap: stratavorectl fleet set --max-runners N."
    );
    Gate::cap("fleet-runners", "fleet".to_owned(), live, max)
        .says(ErrorKind::QuotaExceeded, message)
        .shared()
}

pub(super) fn hold(hold: &Hold) -> Gate {
    let note = hold.term();
    let message = format!(
        "Held ({}) {note}. Wait{QUEUE_DOES}, or release it: stratavorectl hold release {}.",
        hold.scope,
        hold.scope.flag()
    );
    let mut gate =
        Gate::closed("hold", hold.scope.to_string()).says(ErrorKind::Held, message.clone());
    gate.note = note;
    // A label's hold is not everybody's.
    gate.shared = !matches!(hold.scope, HoldScope::Label(..));
    gate
}

pub(super) fn cordon(name: &str, reason: &str) -> Gate {
    let why = match reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let message = format!(
        "Host {name} is cordoned{why} and takes nothing new. Launch on another host (--on), or: stratavorectl host uncordon {name}."
    );
    let mut gate = Gate::closed("cordon", name.to_owned()).says(ErrorKind::Cordoned, message);
    gate.note = reason.to_owned();
    gate
}

pub(super) fn session(name: &str, project: &ProjectName, known: Option<&Seated>) -> Gate {
    let taken = known.and_then(|s| s.live);
    let mut gate = Gate::cap(
        "session",
        name.to_owned(),
        u32::from(taken.is_some()),
        Some(1),
    );
    match known {
        Some(seated) if seated.project != *project => {
            gate.limit = Some(0);
            gate.waits = false;
            let message = format!(
                "Session “{name}” belongs to project {}; take another name for one of project {project}.",
                seated.project
            );
            gate.says(ErrorKind::Conflict, message)
        }
        _ => {
            let runner = taken.map(|id| id.to_string()).unwrap_or_default();
            gate.note = runner.clone();
            let message = format!(
                "Session “{name}” has a live runner ({runner}), and one at a time is allowed. Wait until it ends{QUEUE_DOES}, or stop it: stratavorectl stop {runner}."
            );
            gate.says(ErrorKind::Conflict, message)
        }
    }
}

pub(super) fn budget(
    state: &BudgetState,
    project: &ProjectName,
    tokens: Option<u64>,
    now: Timestamp,
) -> Gate {
    let budget = &state.budget;
    let period = budget.period.as_str();
    let mut gate = Gate::cap("budget", format!("{}/{period}", budget.scope), 0, None);
    gate.shared = !matches!(budget.scope, Scope::Session(_));
    (gate.limit, gate.used, gate.reserved) = (Some(budget.limit), state.used, state.reserved);
    // The zone was known when the state was brought up to now.
    let next = budget.span(now).ok().map(|span| span.end);
    let next = next.filter(|end| end.0 != u64::MAX).map(Timestamp::shown);
    if let Some(next) = &next {
        gate.note = format!("a new period begins {next}");
    }
    let Some(tokens) = tokens else {
        // Not to be had by waiting, and nobody else's fault.
        (gate.limit, gate.requested) = (Some(0), 1);
        (gate.shared, gate.waits) = (false, false);
        gate.note = NO_TOKENS.to_owned();
        let message = format!(
            "There is {budget}, and the launch does not say how many tokens it may use. Say it: --tokens N; or give the project a default: stratavorectl project set {project} --default-tokens N."
        );
        return gate.says(ErrorKind::BudgetExceeded, message);
    };
    gate.requested = tokens;
    gate.waits = tokens <= budget.limit;
    // What can never fit holds up nobody else.
    gate.shared &= gate.waits;
    let wait = match (gate.waits, next) {
        (false, _) => "Ask for fewer (--tokens)".to_owned(),
        (true, Some(next)) => format!("Wait until {next}{QUEUE_DOES}"),
        (true, None) => format!("Wait until reserved ones are given back{QUEUE_DOES}"),
    };
    let message = format!(
        "Of {budget}, {} of {} tokens are used and {} reserved; {tokens} more do not fit. {wait}, or raise it: stratavorectl budget set --scope {} --period {period} --limit N.",
        state.used, budget.limit, state.reserved, budget.scope
    );
    gate.says(ErrorKind::BudgetExceeded, message)
}

pub(super) fn queue(project: &ProjectName, before: u64) -> Gate {
    let mut gate = Gate::cap("queue", project.to_string(), 0, Some(1));
    gate.used = before;
    let wait = match before {
        1 => "1 runner waits for what is free and comes".to_owned(),
        n => format!("{n} runners wait for what is free and come"),
    };
    let message = format!(
        "{wait} before this one of project {project}. Try again when it is free, or wait with them: --queue."
    );
    gate.says(ErrorKind::QuotaExceeded, message)
}

pub(super) fn room(project: &ProjectName, queued: u32, max: u32) -> Gate {
    let mut gate = Gate::cap("queue-length", project.to_string(), queued, Some(max));
    gate.waits = false;
    let wait = match queued {
        1 => format!("1 runner of project {project} waits"),
        n => format!("{n} runners of project {project} wait"),
    };
    let message = format!(
        "{wait} already, and {max} may. Try again later, or raise it: stratavorectl project set {project} --max-queued N."
    );
    gate.says(ErrorKind::QueueFull, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_runner_waits_and_two_wait() {
        let project: ProjectName = "p".parse().unwrap();
        let said = |gate: Gate| gate.refusal().unwrap().message;
        assert!(said(queue(&project, 1)).starts_with("1 runner waits for what is free and comes "));
        assert!(said(queue(&project, 2)).starts_with("2 runners wait for what is free and come "));
        assert!(said(room(&project, 1, 1)).starts_with("1 runner of project p waits already"));
        assert!(said(room(&project, 2, 2)).starts_with("2 runners of project p wait already"));
    }
}
