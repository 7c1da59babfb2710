//! The file, read strictly: a key that is not known is an error, and so is what could never be applied.

use super::{BUDGET_KEYS, BudgetName, Declared, FLEET_KEYS, Key, PROJECT_KEYS, Terms};
use crate::domain::budget::{Budget, Counts, LIMIT_MAX, OnExhausted, Scope};
use crate::domain::limits;
use crate::domain::name::{ProjectName, shown};
use crate::domain::nearest::nearest;
use crate::domain::period::Period;
use crate::domain::project::{self, ProjectSettings};
use crate::domain::time::Timestamp;
use crate::domain::units::{self, INFINITY};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest file.
pub const BYTES_MAX: usize = 1 << 20;
/// The most projects in a file.
pub const PROJECTS_MAX: usize = 1_000;
/// The most budgets in a file.
pub const BUDGETS_MAX: usize = 1_000;

/// What may stand at the top.
const TOP: [&str; 4] = ["mutable", "fleet", "projects", "budgets"];

/// What is wrong with a file, and in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The line, from 1; `None` = it is not about one.
    pub line: Option<usize>,
    /// Key, value and what to do.
    pub message: String,
}

impl fmt::Display for Wrong {
    /// `12: projects.web.max_runners = 0: …`, to be put behind the file's name and a colon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{line}: {}", self.message),
            None => write!(f, " {}", self.message),
        }
    }
}

/// Where, as an offset, and what.
type Fault = (usize, String);
type Parsed<T> = Result<T, Fault>;
type Keyed<'a> = (&'a str, usize, &'a DeValue<'a>);

/// What the text of a file declares.
pub fn parse(text: &str) -> Result<Declared, Wrong> {
    if text.len() > BYTES_MAX {
        return Err(too_long());
    }
    let fault = |at: usize, message: String| Wrong {
        line: Some(text[..at.min(text.len())].matches('\n').count() + 1),
        message,
    };
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        let at = span.start;
        // The parser leaves out which key is there twice.
        match (error.message(), text.get(span)) {
            ("duplicate key", Some(key)) => {
                let key = shown(key.trim_matches(['[', ']', ' ']));
                fault(at, format!("The key {key} is there twice."))
            }
            (message, _) => fault(at, format!("{}.", message.trim_end_matches('.'))),
        }
    })?;
    read(table.get_ref()).map_err(|(at, message)| fault(at, message))
}

/// The file has more bytes than there may be.
pub fn too_long() -> Wrong {
    Wrong {
        line: None,
        message: format!("The file has more than {BYTES_MAX} bytes, which is the most."),
    }
}

fn read(top: &DeTable<'_>) -> Parsed<Declared> {
    let mut out = Declared {
        mutable: true,
        fleet: None,
        projects: BTreeMap::new(),
        budgets: BTreeMap::new(),
    };
    // Budgets may stand before their projects.
    let mut places = BTreeMap::new();
    for (name, at, value) in entries(top) {
        match name {
            "mutable" => match value {
                DeValue::Boolean(yes) => out.mutable = *yes,
                other => return Err((at, wrong(name, other, "give true or false."))),
            },
            "fleet" => {
                let table = section(name, at, value, "[fleet]")?;
                for (key, at, value) in entries(table) {
                    known(&FLEET_KEYS, "fleet", key, at, value)?;
                    let max = number(value).and_then(|n| told(project::max_runners(n)));
                    let max = max.map_err(|why| (at, wrong("fleet.max_runners", value, &why)))?;
                    out.fleet = Some(max);
                }
            }
            "projects" => {
                let table = section(name, at, value, "[projects.NAME]")?;
                out.projects = projects(table)?;
                bounded(at, "projects", out.projects.len(), PROJECTS_MAX)?;
            }
            "budgets" => {
                let table = section(name, at, value, "[budgets.SCOPE.PERIOD]")?;
                for (budget, terms, at) in budgets(table)? {
                    places.insert(budget.clone(), at);
                    out.budgets.insert(budget, terms);
                }
                bounded(at, "budgets", out.budgets.len(), BUDGETS_MAX)?;
            }
            other => {
                let message = match nearest(other, TOP.into_iter()) {
                    Some(near) => {
                        format!("There is no “{}”; did you mean {near}?", shown(other))
                    }
                    None => format!(
                        "There is no “{}”; there are {}.",
                        shown(other),
                        TOP.join(", ")
                    ),
                };
                return Err((at, message));
            }
        }
    }
    if !out.mutable {
        whole(&out, &places)?;
    }
    Ok(out)
}

/// With `mutable = false` the file says what there is, so it has to make sense by itself.
fn whole(out: &Declared, places: &BTreeMap<BudgetName, usize>) -> Parsed<()> {
    if out.projects.is_empty() && out.budgets.is_empty() {
        let message = "mutable = false: nothing is declared, so every project and every budget would be removed. Declare what there is to be, or leave mutable out.";
        return Err((0, message.to_owned()));
    }
    for (budget, at) in places {
        if let (Scope::Project(name), period) = budget
            && !out.projects.contains_key(name)
        {
            let message = format!(
                "budgets.\"project:{name}\".{}: with mutable = false the project {name} is removed, as it is not declared. Declare it, too: [projects.{}].",
                period.as_str(),
                quoted(name.as_str())
            );
            return Err((*at, message));
        }
    }
    Ok(())
}

fn projects(table: &DeTable<'_>) -> Parsed<BTreeMap<ProjectName, ProjectSettings>> {
    let mut out = BTreeMap::new();
    for (name, at, value) in entries(table) {
        let path = format!("projects.{}", quoted(name));
        let project: ProjectName = told(name.parse()).map_err(|why| (at, why))?;
        let table = section(&path, at, value, &format!("[{path}]"))?;
        let mut settings = ProjectSettings::default();
        for (key, at, value) in entries(table) {
            let found = known(&PROJECT_KEYS, &path, key, at, value)?;
            set(&mut settings, found, value)
                .map_err(|why| (at, wrong(&format!("{path}.{key}"), value, &why)))?;
        }
        out.insert(project, settings);
    }
    Ok(out)
}

fn set(settings: &mut ProjectSettings, key: &Key, value: &DeValue<'_>) -> Result<(), String> {
    match key.name {
        "description" => {
            let text = text(value)?;
            told(project::check_description(text))?;
            settings.description = text.to_owned();
        }
        "max_runners" => settings.max_runners = told(project::max_runners(number(value)?))?,
        "max_queued" => settings.max_queued = told(project::max_queued(number(value)?))?,
        "default_tokens" => {
            settings.default_tokens = told(project::default_tokens(tokens(value)?))?;
        }
        _ => {
            let value = match value {
                DeValue::String(text) => limits::Value::Text(text),
                _ => limits::Value::Number(number(value)?),
            };
            told(settings.limits.set(&key.option(), value))?;
        }
    }
    Ok(())
}

fn budgets(table: &DeTable<'_>) -> Parsed<Vec<(BudgetName, Terms, usize)>> {
    let mut out = Vec::new();
    for (scope, at, value) in entries(table) {
        let path = format!("budgets.{}", quoted(scope));
        let scope: Scope = told(scope.parse()).map_err(|why| (at, format!("{path}: {why}")))?;
        let table = section(&path, at, value, &format!("[{path}.PERIOD]"))?;
        for (word, at, value) in entries(table) {
            let path = format!("{path}.{}", quoted(word));
            let period: Period =
                told(word.parse()).map_err(|why| (at, format!("{path}: {why}")))?;
            let table = section(&path, at, value, &format!("[{path}]"))?;
            let terms = terms(table, &path, at, (&scope, period))?;
            out.push(((scope.clone(), period), terms, at));
        }
    }
    Ok(out)
}

fn terms(table: &DeTable<'_>, path: &str, at: usize, name: (&Scope, Period)) -> Parsed<Terms> {
    let mut budget = Budget {
        scope: name.0.clone(),
        period: name.1,
        limit: 0,
        timezone: "UTC".to_owned(),
        on_exhausted: OnExhausted::default(),
        counts: Counts::default(),
        created_at: Timestamp::default(),
    };
    let mut limited = false;
    for (key, at, value) in entries(table) {
        let found = known(&BUDGET_KEYS, path, key, at, value)?;
        limited |= found.name == "limit";
        agree(&mut budget, found, value)
            .map_err(|why| (at, wrong(&format!("{path}.{key}"), value, &why)))?;
    }
    match limited {
        true => Ok(Terms {
            limit: budget.limit,
            timezone: budget.timezone,
            on_exhausted: budget.on_exhausted,
            counts: budget.counts,
        }),
        false => Err((
            at,
            format!("{path} has no limit: say how many tokens, as in limit = \"2M\"."),
        )),
    }
}

fn agree(budget: &mut Budget, key: &Key, value: &DeValue<'_>) -> Result<(), String> {
    match key.name {
        "limit" => match tokens(value)? {
            INFINITY => {
                return Err(format!(
                    "a budget has at most {LIMIT_MAX} tokens; for none at all leave it out."
                ));
            }
            limit => budget.limit = limit,
        },
        "timezone" => budget.timezone = text(value)?.to_owned(),
        "on_exhausted" => budget.on_exhausted = told(text(value)?.parse())?,
        _ => {
            let DeValue::Array(kinds) = value else {
                return Err("give a list, such as [\"input\", \"output\"].".to_owned());
            };
            let kinds: Result<Vec<&str>, String> =
                kinds.iter().map(|kind| text(kind.get_ref())).collect();
            let kinds = kinds?;
            if kinds.is_empty() {
                return Err("a budget counts at least one kind of tokens.".to_owned());
            }
            budget.counts = told(kinds.join(",").parse())?;
        }
    }
    told(budget.check())
}

/// The entries of a table in the order of the file.
fn entries<'a>(table: &'a DeTable<'a>) -> Vec<Keyed<'a>> {
    let entry = |(key, value): (&'a Spanned<_>, &'a Spanned<DeValue<'a>>)| {
        let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
        (&**name, key.span().start, value.get_ref())
    };
    let mut all: Vec<Keyed<'a>> = table.iter().map(entry).collect();
    all.sort_by_key(|(_, at, _)| *at);
    all
}

fn section<'a>(
    path: &str,
    at: usize,
    value: &'a DeValue<'a>,
    written: &str,
) -> Parsed<&'a DeTable<'a>> {
    match value {
        DeValue::Table(table) => Ok(table),
        other => {
            let why = format!("this is a section, written {written}.");
            Err((at, wrong(path, other, &why)))
        }
    }
}

/// The key of this name.
fn known(
    keys: &'static [Key],
    path: &str,
    name: &str,
    at: usize,
    value: &DeValue<'_>,
) -> Parsed<&'static Key> {
    if let Some(key) = keys.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    let names = || keys.iter().map(|key| key.name);
    let why = match (value, nearest(name, names())) {
        (DeValue::Table(_), _) if keys.len() == PROJECT_KEYS.len() => {
            "a name with a dot in it is put in quotes, as in [projects.\"web-1.x\"].".to_owned()
        }
        (_, Some(near)) => format!("did you mean {near}?"),
        (_, None) => format!("there are {}.", names().collect::<Vec<_>>().join(", ")),
    };
    let name = shown(name);
    Err((at, format!("{path}: there is no key “{name}”; {why}")))
}

fn bounded(at: usize, what: &str, count: usize, most: usize) -> Parsed<()> {
    match count > most {
        true => Err((
            at,
            format!("There are {count} {what}, and {most} is the most that can be declared."),
        )),
        false => Ok(()),
    }
}

fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    match value {
        DeValue::String(text) => Ok(text),
        _ => Err("give a text in quotes.".to_owned()),
    }
}

/// A number, or `"infinity"`.
fn number(value: &DeValue<'_>) -> Result<u64, String> {
    match value {
        DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix())
            .ok()
            .filter(|n| *n != INFINITY)
            .ok_or_else(|| "give a whole number that is not negative.".to_owned()),
        DeValue::String(text) if *text == "infinity" => Ok(INFINITY),
        _ => Err("give a whole number, or \"infinity\".".to_owned()),
    }
}

fn tokens(value: &DeValue<'_>) -> Result<u64, String> {
    match value {
        DeValue::String(text) if *text != "infinity" => told(units::parse_count(text)),
        _ => number(value),
    }
}

fn told<T>(result: Result<T, crate::domain::Error>) -> Result<T, String> {
    result.map_err(|error| error.message)
}

/// `projects.web.max_runners = 0: …`
fn wrong(path: &str, value: &DeValue<'_>, why: &str) -> String {
    let value = match value {
        DeValue::String(text) => format!("\"{}\"", shown(text)),
        DeValue::Integer(digits) => shown(digits.as_str()),
        DeValue::Float(digits) => shown(digits.as_str()),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(when) => when.to_string(),
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    };
    format!("{path} = {value}: {why}")
}

/// A key as TOML has it.
fn quoted(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    match !name.is_empty() && name.bytes().all(bare) {
        true => name.to_owned(),
        false => format!("\"{}\"", shown(name)),
    }
}
