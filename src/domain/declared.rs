//! What a file declares of projects, of the fleet's quota and of budgets; how that differs from what is there, and the steps that
//! take the difference away. A declared object is declared as a whole: what is not said of it has its default. What is not declared
//! is left alone, unless the file says `mutable = false`.
//!
//! Steps are differences: once they have been taken there are none (`model`).

#[cfg(test)]
mod model;
mod parse;
#[cfg(test)]
mod tests;

pub use parse::{BUDGETS_MAX, BYTES_MAX, PROJECTS_MAX, Wrong, parse, too_long};

use super::admission::QUEUED_MAX;
use super::budget::{Counts, OnExhausted, Scope};
use super::limits::{self, Unit};
use super::name::ProjectName;
use super::period::Period;
use super::project::ProjectSettings;
use super::units::{self, INFINITY};
use std::collections::BTreeMap;
use std::fmt;

/// Scope and period together are a budget's name.
pub type BudgetName = (Scope, Period);

/// What a budget is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How many tokens.
    pub limit: u64,
    /// On whose clock periods begin.
    pub timezone: String,
    /// What happens to running work when it is used up.
    pub on_exhausted: OnExhausted,
    /// Which tokens count.
    pub counts: Counts,
}

/// What a file declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Whether objects that are not declared may be there.
    pub mutable: bool,
    /// The most live runners of the whole fleet, `Some(None)` = no cap; `None` = nothing is declared.
    pub fleet: Option<Option<u32>>,
    /// Projects.
    pub projects: BTreeMap<ProjectName, ProjectSettings>,
    /// Budgets.
    pub budgets: BTreeMap<BudgetName, Terms>,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// The most live runners of the whole fleet.
    pub fleet: Option<u32>,
    /// Projects.
    pub projects: BTreeMap<ProjectName, ProjectSettings>,
    /// How many runners of a project live or wait; 0 where it is not named. Such a project can't be removed.
    pub runners: BTreeMap<ProjectName, u64>,
    /// Budgets.
    pub budgets: BTreeMap<BudgetName, Terms>,
}

/// What can be declared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// The fleet's quota.
    Fleet,
    /// A project.
    Project(ProjectName),
    /// A budget.
    Budget(Scope, Period),
}

impl Object {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Project(_) => "project",
            Self::Budget(..) => "budget",
        }
    }
}

impl fmt::Display for Object {
    /// `fleet`, `project web`, `budget project:web day`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Project(name) => write!(f, "project {name}"),
            Self::Budget(scope, period) => write!(f, "budget {scope} {}", period.as_str()),
        }
    }
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// There is none.
    Nothing,
    /// A number in the key's base unit; [`INFINITY`] = no limit.
    Number(u64),
    /// A text.
    Text(String),
}

/// How the values of a key are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A plain number.
    Count,
    /// Tokens.
    Tokens,
    /// A limit of a project's slice.
    Limit(Unit),
}

/// One key of a declared object.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As it is written in the file; on the bus with `-` for `_`.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
    /// How its values are written.
    pub kind: Kind,
}

const fn key(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { name, about, kind }
}

/// The key of the fleet's quota.
pub const FLEET_KEYS: [Key; 1] = [key(
    "max_runners",
    Kind::Count,
    "Most live runners of all projects on all hosts",
)];

/// The keys of a project.
pub const PROJECT_KEYS: [Key; 11] = [
    key("description", Kind::Text, "What people call it"),
    key(
        "max_runners",
        Kind::Count,
        "Its quota: most live runners at a time on all hosts; \"infinity\" (the default) = no cap",
    ),
    key(
        "max_queued",
        Kind::Count,
        "Most runners that wait for their turn at a time. Default: 1000",
    ),
    key(
        "default_tokens",
        Kind::Tokens,
        "Tokens that a launch reserves of budgets that does not say, as in 200000 or \"200k\". Without it, where a budget matches, a launch has to say",
    ),
    key(
        "memory_max",
        Kind::Limit(Unit::Bytes),
        "Memory that all its runners together may never exceed, as in \"16G\"",
    ),
    key(
        "memory_high",
        Kind::Limit(Unit::Bytes),
        "Memory above which all its runners together are slowed down",
    ),
    key(
        "memory_swap_max",
        Kind::Limit(Unit::Bytes),
        "Swap that they may use",
    ),
    key(
        "cpu_quota",
        Kind::Limit(Unit::CpuQuota),
        "Their CPU time, as in \"400%\" (of one CPU)",
    ),
    key(
        "cpu_weight",
        Kind::Limit(Unit::Weight),
        "Their share of CPU time among projects, 1 to 10000. Default: 100",
    ),
    key(
        "io_weight",
        Kind::Limit(Unit::Weight),
        "Their share of IO among projects, 1 to 10000. Default: 100",
    ),
    key(
        "tasks_max",
        Kind::Limit(Unit::Count),
        "Their processes and threads",
    ),
];

/// The keys of a budget.
pub const BUDGET_KEYS: [Key; 4] = [
    key(
        "limit",
        Kind::Tokens,
        "How many tokens in a period, as in 2000000 or \"2M\"; 0 = no launch at all. It has to be there",
    ),
    key(
        "timezone",
        Kind::Text,
        "On the clock of this time zone periods begin. Default: \"UTC\"",
    ),
    key(
        "on_exhausted",
        Kind::Text,
        "What happens to running work when it is used up: \"deny\" (it goes on, the default), \"freeze\" (until there is room) or \"stop\"",
    ),
    key(
        "count",
        Kind::Text,
        "Which tokens count, as a list: \"input\", \"output\", \"cache-read\", \"cache-write\". Default: all of them",
    ),
];

/// The weight that a slice has where nobody says one.
const WEIGHT: u64 = 100;

impl Key {
    /// Its name on the bus.
    pub fn option(&self) -> String {
        self.name.replace('_', "-")
    }

    /// A value for people, which is read back as the same one.
    pub fn shown(&self, value: &Value) -> String {
        let n = match value {
            Value::Nothing => return String::new(),
            Value::Text(text) => return text.clone(),
            Value::Number(INFINITY) => return "infinity".to_owned(),
            Value::Number(n) => *n,
        };
        let short = match self.kind {
            Kind::Tokens => Some(units::show_count(n)).filter(|t| units::parse_count(t) == Ok(n)),
            Kind::Limit(Unit::Bytes) => {
                Some(units::show_size(n)).filter(|t| units::parse_size(t) == Ok(n))
            }
            Kind::Limit(Unit::CpuQuota) if n.is_multiple_of(10_000) => {
                Some(format!("{}%", n / 10_000))
            }
            _ => None,
        };
        short.unwrap_or_else(|| n.to_string())
    }
}

/// A key and what it is declared to be and is.
#[derive(Debug, Clone)]
pub struct Field {
    /// Which.
    pub key: &'static Key,
    /// What the file says, or the default.
    pub declared: Value,
    /// What is there; of an object that is not there its default.
    pub actual: Value,
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        let same = self.declared == other.declared && self.actual == other.actual;
        same && self.key.name == other.key.name
    }
}

/// What is to be done with an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Deed {
    /// It is not there. The fields are those that are not the default.
    Create(Vec<Field>),
    /// These fields differ.
    Change(Vec<Field>),
    /// It is there, and nothing may be that is not declared. `runners` of it live or wait, so that it can't be removed while there
    /// are any.
    Remove {
        /// How many.
        runners: u64,
    },
}

impl Deed {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Change(_) => "change",
            Self::Remove { .. } => "remove",
        }
    }

    /// Its fields.
    pub fn fields(&self) -> &[Field] {
        match self {
            Self::Create(fields) | Self::Change(fields) => fields,
            Self::Remove { .. } => &[],
        }
    }
}

/// One difference, and what takes it away.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Of what.
    pub object: Object,
    /// How.
    pub deed: Deed,
}

impl Declared {
    /// How `actual` differs, in the order in which the steps are to be taken: a budget comes after its project, and what takes
    /// something away comes last. Budgets of a project that is removed go with it.
    pub fn steps(&self, actual: &Actual) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut add = |object, deed| steps.push(Step { object, deed });
        let fleet = self.fleet.or((!self.mutable).then_some(None));
        if let Some(declared) = fleet {
            let differing = fields(&FLEET_KEYS, of_fleet(declared), of_fleet(actual.fleet));
            if !differing.is_empty() {
                add(Object::Fleet, Deed::Change(differing));
            }
        }
        let usual = ProjectSettings::default();
        for (name, declared) in &self.projects {
            let there = actual.projects.get(name);
            let found = of_project(there.unwrap_or(&usual));
            let differing = fields(&PROJECT_KEYS, of_project(declared), found);
            match there {
                None => add(Object::Project(name.clone()), Deed::Create(differing)),
                Some(_) if differing.is_empty() => {}
                Some(_) => add(Object::Project(name.clone()), Deed::Change(differing)),
            }
        }
        for ((scope, period), declared) in &self.budgets {
            let object = Object::Budget(scope.clone(), *period);
            let there = actual.budgets.get(&(scope.clone(), *period));
            let found = there.map_or_else(no_terms, of_terms);
            let differing = fields(&BUDGET_KEYS, of_terms(declared), found);
            match there {
                None => add(object, Deed::Create(differing)),
                Some(_) if differing.is_empty() => {}
                Some(_) => add(object, Deed::Change(differing)),
            }
        }
        if self.mutable {
            return steps;
        }
        for object in self.others(actual) {
            let runners = match &object {
                Object::Fleet => continue,
                Object::Project(name) => actual.runners.get(name).copied().unwrap_or_default(),
                Object::Budget(Scope::Project(name), _) if !self.projects.contains_key(name) => {
                    continue;
                }
                Object::Budget(..) => 0,
            };
            let deed = Deed::Remove { runners };
            steps.push(Step { object, deed });
        }
        steps
    }

    /// What is there and not declared: the fleet's quota, projects, then budgets.
    pub fn others(&self, actual: &Actual) -> Vec<Object> {
        let fleet = (self.fleet.is_none() && actual.fleet.is_some()).then_some(Object::Fleet);
        let projects = actual.projects.keys();
        let projects = projects.filter(|name| !self.projects.contains_key(*name));
        let budgets = actual.budgets.keys();
        let budgets = budgets.filter(|name| !self.budgets.contains_key(*name));
        fleet
            .into_iter()
            .chain(projects.cloned().map(Object::Project))
            .chain(budgets.map(|(scope, period)| Object::Budget(scope.clone(), *period)))
            .collect()
    }
}

/// The keys whose values differ.
fn fields<const N: usize>(
    keys: &'static [Key; N],
    declared: [Value; N],
    actual: [Value; N],
) -> Vec<Field> {
    keys.iter()
        .zip(declared.into_iter().zip(actual))
        .filter(|(_, (declared, actual))| declared != actual)
        .map(|(key, (declared, actual))| Field {
            key,
            declared,
            actual,
        })
        .collect()
}

fn of_fleet(max_runners: Option<u32>) -> [Value; 1] {
    [capped(max_runners)]
}

fn capped(max: Option<u32>) -> Value {
    Value::Number(max.map_or(INFINITY, u64::from))
}

/// The values of [`PROJECT_KEYS`], as they are in force: what nobody has said is what was lifted.
fn of_project(settings: &ProjectSettings) -> [Value; 11] {
    let limit = |key: &str| {
        let unit = limits::KEYS.iter().find(|(k, _)| *k == key);
        let usual = match unit {
            Some((_, Unit::Weight)) => WEIGHT,
            _ => INFINITY,
        };
        Value::Number(settings.limits.number(key).unwrap_or(usual))
    };
    let queued = settings.max_queued.unwrap_or(QUEUED_MAX);
    [
        Value::Text(settings.description.clone()),
        capped(settings.max_runners),
        Value::Number(queued.into()),
        settings
            .default_tokens
            .map_or(Value::Nothing, Value::Number),
        limit("memory-max"),
        limit("memory-high"),
        limit("memory-swap-max"),
        limit("cpu-quota"),
        limit("cpu-weight"),
        limit("io-weight"),
        limit("tasks-max"),
    ]
}

/// The values of [`BUDGET_KEYS`].
fn of_terms(terms: &Terms) -> [Value; 4] {
    [
        Value::Number(terms.limit),
        Value::Text(terms.timezone.clone()),
        Value::Text(terms.on_exhausted.as_str().to_owned()),
        Value::Text(terms.counts.to_string()),
    ]
}

/// Those of a budget that is not there: a new one needs a limit, and the rest is the default.
fn no_terms() -> [Value; 4] {
    let usual = Terms {
        limit: 0,
        timezone: "UTC".to_owned(),
        on_exhausted: OnExhausted::default(),
        counts: Counts::default(),
    };
    let mut values = of_terms(&usual);
    values[0] = Value::Nothing;
    values
}
