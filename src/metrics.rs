//! What happened here, in numbers. A leaf: to count is an atomic addition, showing the numbers is
//! `daemon::observe`'s.
//!
//! Labels are bounded: the first [`PROJECTS_MAX`] projects have series of their own, the others
//! share those of [`OTHER`]. Every counter of a project is there, at 0, from the moment the
//! project is known.

use crate::domain::admission::GATES;
use crate::domain::budget::Tokens;
use crate::domain::{Cause, Runner};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many projects have series of their own.
pub const PROJECTS_MAX: usize = 200;
/// What the others are called; no project can have this name.
pub const OTHER: &str = "_other";

/// Where tokens went, as [`Tokens::directions`] counts them.
const DIRECTIONS: [&str; 2] = ["in", "out"];

/// What a call of `Launch` came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchResult {
    /// Its command was exec'd.
    Launched,
    /// It was admitted, and its command never ran.
    Failed,
    /// It waits for its turn.
    Queued,
    /// A gate was shut.
    Denied,
    /// It was no valid launch: no such project, a name that is taken, a request id used before.
    Refused,
    /// Store or agent did not answer.
    Unavailable,
}

/// What came of a message of a notification rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotificationResult {
    /// It arrived.
    Sent,
    /// It was given up.
    Failed,
    /// Too many waited.
    Dropped,
}

impl NotificationResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl LaunchResult {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Launched,
        Self::Failed,
        Self::Queued,
        Self::Denied,
        Self::Refused,
        Self::Unavailable,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Launched => "launched",
            Self::Failed => "failed",
            Self::Queued => "queued",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The counters of one engine; clones are the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    launches: IntCounterVec,
    durations: Histogram,
    exits: IntCounterVec,
    oom_kills: IntCounterVec,
    tokens: IntCounterVec,
    denied: IntCounterVec,
    reconciled: [IntCounter; 2],
    notifications: IntCounterVec,
    dropped: IntCounter,
    /// The projects with series of their own, and their caps.
    projects: Mutex<BTreeMap<String, Option<u32>>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    #[expect(
        clippy::expect_used,
        reason = "names and labels are constants, and every test makes them"
    )]
    fn default() -> Self {
        Self::new().expect("names are valid and differ")
    }
}

impl Metrics {
    /// All counters at 0; an error if two of them have one name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            prometheus::Result::Ok(counters)
        };
        let launches = counters(
            "stratavore_runner_launches_total",
            "Launches by what they came to.",
            &["project", "result"],
        )?;
        let exits = counters(
            "stratavore_runner_exits_total",
            "Ended runners by cause.",
            &["project", "cause"],
        )?;
        let oom_kills = counters(
            "stratavore_oom_kills_total",
            "Processes of ended runners that were killed for lack of memory.",
            &["project"],
        )?;
        let tokens = counters(
            "stratavore_tokens_total",
            "Tokens that were reported here: in = given to the model, its cache included; out = its answers.",
            &["project", "direction"],
        )?;
        let denied = counters(
            "stratavore_admissions_denied_total",
            "Launches denied by a quota, by the gate that was shut.",
            &["gate"],
        )?;
        let reconciled = counters(
            "stratavore_reconciliations_total",
            "Comparisons of the store's rows with what runs on this host.",
            &["result"],
        )?;
        let notifications = counters(
            "stratavore_notifications_total",
            "Messages of notification rules by what came of them; of dropped ones also events that were missed.",
            &["rule", "result"],
        )?;
        let dropped = IntCounter::new(
            "stratavore_outbox_dropped_total",
            "Events this host removed for their age that were never published: parked, or left over.",
        )?;
        registry.register(Box::new(dropped.clone()))?;
        let durations = HistogramOpts::new(
            "stratavore_launch_duration_seconds",
            "Time from a launch's arrival at the engine until its command was exec'd.",
        );
        let durations = Histogram::with_opts(durations.buckets(vec![
            0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
        ]))?;
        registry.register(Box::new(durations.clone()))?;
        for gate in GATES {
            denied.with_label_values(&[gate]);
        }
        let metrics = Self(Arc::new(Inner {
            launches,
            durations,
            exits,
            oom_kills,
            tokens,
            denied,
            reconciled: ["failed", "ok"].map(|result| reconciled.with_label_values(&[result])),
            notifications,
            dropped,
            projects: Mutex::default(),
            registry,
        }));
        metrics.begin(OTHER);
        Ok(metrics)
    }

    /// A project is there, with this cap.
    pub fn project(&self, name: &str, max: Option<u32>) {
        let mut projects = self.projects();
        if let Some(known) = projects.get_mut(name) {
            *known = max;
        } else if projects.len() < PROJECTS_MAX {
            projects.insert(name.to_owned(), max);
            self.begin(name);
        }
    }

    /// A project was removed, and its series with it.
    pub fn project_removed(&self, name: &str) {
        if self.projects().remove(name).is_none() {
            return;
        }
        // A series that is not there need not be removed.
        for result in LaunchResult::ALL {
            let _ = self
                .0
                .launches
                .remove_label_values(&[name, result.as_str()]);
        }
        for cause in Cause::ALL {
            let _ = self.0.exits.remove_label_values(&[name, cause.as_str()]);
        }
        let _ = self.0.oom_kills.remove_label_values(&[name]);
        for direction in DIRECTIONS {
            let _ = self.0.tokens.remove_label_values(&[name, direction]);
        }
    }

    /// The projects with series of their own, and their caps.
    pub fn projects(&self) -> MutexGuard<'_, BTreeMap<String, Option<u32>>> {
        let projects = self.0.projects.lock();
        projects.unwrap_or_else(PoisonError::into_inner)
    }

    /// A launch came to this.
    pub fn launch(&self, project: &str, result: LaunchResult) {
        let labels = [self.label(project), result.as_str()];
        self.0.launches.with_label_values(&labels).inc();
    }

    /// A launch took so long.
    pub fn launch_took(&self, time: Duration) {
        self.0.durations.observe(time.as_secs_f64());
    }

    /// So many events were removed that were never published.
    pub fn dropped(&self, count: u64) {
        self.0.dropped.inc_by(count);
    }

    /// A gate was shut.
    pub fn denied(&self, gate: &'static str) {
        self.0.denied.with_label_values(&[gate]).inc();
    }

    /// An ending is in the store.
    pub fn ended(&self, runner: &Runner) {
        let project = self.label(runner.spec.project.as_str());
        if let Some(exit) = &runner.exit {
            let labels = [project, exit.cause.as_str()];
            self.0.exits.with_label_values(&labels).inc();
            if exit.cause == Cause::LaunchFailed {
                self.launch(project, LaunchResult::Failed);
            }
        }
        let kills = runner.usage.and_then(|u| u.oom_kills).unwrap_or(0);
        self.0.oom_kills.with_label_values(&[project]).inc_by(kills);
    }

    /// A runner has reported what it has used; it had used so much before.
    pub fn tokens(&self, runner: &Runner, before: Tokens) {
        let project = self.label(runner.spec.project.as_str());
        let (now, before) = (runner.tokens.directions(), before.directions());
        for (direction, (now, before)) in DIRECTIONS.into_iter().zip(now.into_iter().zip(before)) {
            let counter = self.0.tokens.with_label_values(&[project, direction]);
            counter.inc_by(now.saturating_sub(before));
        }
    }

    /// Rows and runners were compared, or could not be.
    pub fn reconciled(&self, ok: bool) {
        self.0.reconciled[usize::from(ok)].inc();
    }

    /// There is a notification rule of this name: its series exist from now on.
    pub fn notifications(&self, rule: &str) {
        use NotificationResult::{Dropped, Failed, Sent};
        for result in [Sent, Failed, Dropped] {
            self.notified(rule, result, 0);
        }
    }

    /// Messages of a notification rule came to this.
    pub fn notified(&self, rule: &str, result: NotificationResult, count: u64) {
        let labels = [rule, result.as_str()];
        let counter = self.0.notifications.with_label_values(&labels);
        counter.inc_by(count);
    }

    /// Everything counted.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.0.registry.gather()
    }

    fn label<'a>(&self, project: &'a str) -> &'a str {
        match self.projects().contains_key(project) {
            true => project,
            false => OTHER,
        }
    }

    /// Its series exist from now on.
    fn begin(&self, project: &str) {
        for result in LaunchResult::ALL {
            let labels = [project, result.as_str()];
            self.0.launches.with_label_values(&labels);
        }
        for cause in Cause::ALL {
            let labels = [project, cause.as_str()];
            self.0.exits.with_label_values(&labels);
        }
        self.0.oom_kills.with_label_values(&[project]);
        for direction in DIRECTIONS {
            self.0.tokens.with_label_values(&[project, direction]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn series(metrics: &Metrics) -> usize {
        let all = metrics.gather();
        all.iter().map(|family| family.get_metric().len()).sum()
    }

    #[test]
    fn labels_are_bounded_and_go_with_their_project() -> Outcome {
        let metrics = Metrics::new()?;
        let fixed = series(&metrics);
        for n in 0..PROJECTS_MAX + 50 {
            metrics.project(&format!("p{n}"), None);
        }
        let each = LaunchResult::ALL.len() + Cause::ALL.len() + 1 + DIRECTIONS.len();
        assert_eq!(series(&metrics), fixed + PROJECTS_MAX * each);
        // One beyond the bound, and one that never was a project.
        metrics.launch("p249", LaunchResult::Launched);
        metrics.launch("made-up", LaunchResult::Refused);
        assert_eq!(series(&metrics), fixed + PROJECTS_MAX * each);
        let other = |result: LaunchResult| {
            let labels = [OTHER, result.as_str()];
            metrics.0.launches.with_label_values(&labels).get()
        };
        assert_eq!(other(LaunchResult::Launched), 1);
        assert_eq!(other(LaunchResult::Refused), 1);
        for n in 0..PROJECTS_MAX + 50 {
            metrics.project_removed(&format!("p{n}"));
        }
        assert_eq!(series(&metrics), fixed);
        Ok(())
    }
}
