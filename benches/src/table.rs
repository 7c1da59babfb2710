//! Rows, as a table and as JSON.

use crate::median;
use serde_json::{Value, json};
use std::fmt;

/// What the ratio of ours to the ceiling should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Told, not judged.
    None,
}

impl Goal {
    /// The ratio is within `slack` times the goal.
    fn met(self, ratio: f64, slack: f64) -> bool {
        match self {
            Self::AtLeast(goal) => ratio >= goal / slack,
            Self::AtMost(goal) => ratio <= goal * slack,
            Self::None => true,
        }
    }
}

/// What is so many times worse than its goal is a fault: no noise does that.
const SLACK: f64 = 2.5;
/// How many times more CPU the programs may need without optimisation, as against others' programs; they are built as
/// this one is.
const UNOPTIMISED: f64 = if cfg!(debug_assertions) { 2.0 } else { 1.0 };

#[derive(Debug)]
struct Row {
    what: String,
    unit: &'static str,
    ours: f64,
    /// `None` = the goal is a figure of its own.
    ceiling: Option<f64>,
    ratio: f64,
    goal: Goal,
    rounds: Vec<f64>,
    /// The ceiling is somebody else's program.
    foreign: bool,
}

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Table {
    /// Ours beside the ceiling, both in each round: the ratio is the median of the rounds' ratios.
    pub(crate) fn beside(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        rounds: &[(f64, f64)],
        goal: Goal,
    ) {
        self.row(what.into(), unit, rounds, goal, true);
    }

    /// The same, both sides being ours.
    pub(crate) fn between_ours(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        rounds: &[(f64, f64)],
        goal: Goal,
    ) {
        self.row(what.into(), unit, rounds, goal, false);
    }

    fn row(
        &mut self,
        what: String,
        unit: &'static str,
        rounds: &[(f64, f64)],
        goal: Goal,
        foreign: bool,
    ) {
        let side =
            |f: fn(&(f64, f64)) -> f64| median(&mut rounds.iter().map(f).collect::<Vec<_>>());
        let mut ratios: Vec<_> = rounds
            .iter()
            .map(|(ours, ceiling)| ours / ceiling)
            .collect();
        let ratio = median(&mut ratios);
        self.add(Row {
            what,
            unit,
            ours: side(|r| r.0),
            ceiling: Some(side(|r| r.1)),
            ratio,
            goal,
            rounds: ratios,
            foreign,
        });
    }

    /// A figure with a goal of its own, at most so much; the ratio is to that goal. 0 = no goal.
    pub(crate) fn absolute(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
        most: f64,
    ) {
        let (ratio, goal) = match most > 0.0 {
            true => (ours / most, Goal::AtMost(1.0)),
            false => (f64::NAN, Goal::None),
        };
        self.add(Row {
            what: what.into(),
            unit,
            ours,
            ceiling: (most > 0.0).then_some(most),
            ratio,
            goal,
            rounds: Vec::new(),
            foreign: false,
        });
    }

    /// What helps to understand the rows.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("  ({text})");
        self.notes.push(text);
    }

    fn add(&mut self, row: Row) {
        eprintln!("  {row}");
        self.rows.push(row);
    }

    /// What is several times worse than its goal.
    pub(crate) fn far_off(&self) -> Vec<&str> {
        let slack = |r: &Row| match r.foreign {
            true => SLACK * UNOPTIMISED,
            false => SLACK,
        };
        let far = self.rows.iter().filter(|r| !r.goal.met(r.ratio, slack(r)));
        far.map(|r| r.what.as_str()).collect()
    }

    pub(crate) fn json(&self, short: bool) -> Value {
        let number = |n: f64| json!(n.is_finite().then_some(n));
        let rows = self.rows.iter().map(|r| {
            let goal = match r.goal {
                Goal::AtLeast(n) => json!({ "at-least": n }),
                Goal::AtMost(n) => json!({ "at-most": n }),
                Goal::None => Value::Null,
            };
            let rounds: Vec<_> = r.rounds.iter().map(|n| number(*n)).collect();
            json!({
                "what": r.what, "unit": r.unit, "ours": number(r.ours), "ceiling": r.ceiling,
                "ratio": number(r.ratio), "goal": goal, "met": r.goal.met(r.ratio, 1.0), "rounds": rounds,
            })
        });
        json!({
            "version": stratavore::VERSION_TEXT,
            "short": short,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "rows": rows.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["ours", "ceiling", "ratio", "goal", "verdict"];
        write!(f, "\n{:<62}", "what")?;
        for (name, width) in head.into_iter().zip([10, 10, 7, 7, 8]) {
            write!(f, " {name:>width$}")?;
        }
        writeln!(f)?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ceiling = self.ceiling.map_or("-".to_owned(), figure);
        let ratio = match self.ratio.is_finite() {
            true => format!("{:.2}", self.ratio),
            false => "-".to_owned(),
        };
        let (goal, verdict) = match self.goal {
            Goal::AtLeast(n) => (format!("≥ {n}"), self.goal.met(self.ratio, 1.0)),
            Goal::AtMost(n) => (format!("≤ {n}"), self.goal.met(self.ratio, 1.0)),
            Goal::None => ("-".to_owned(), true),
        };
        let verdict = match (self.goal, verdict) {
            (Goal::None, _) => "-",
            (_, true) => "met",
            (_, false) => "MISSED",
        };
        let what = format!("{} ({})", self.what, self.unit);
        let ours = figure(self.ours);
        write!(
            f,
            "{what:<62} {ours:>10} {ceiling:>10} {ratio:>7} {goal:>7} {verdict:>8}"
        )
    }
}

fn figure(n: f64) -> String {
    match n {
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}
