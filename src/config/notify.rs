//! `[notify.rules.<name>]`: who is told of what.

use super::Config;
use super::keys::{quoted, span, text};
use super::values::number;
use crate::domain::event::EventType;
use crate::domain::nearest::nearest;
use crate::domain::notify::{Address, Format, Pattern, Rule};
use crate::domain::units::{INFINITY, show_span};
use crate::domain::{Cause, name};
use std::collections::BTreeMap;
use std::fmt::Write;
use toml::de::DeValue;

/// The key that holds all rules.
pub(super) const RULES: &str = "notify.rules";
/// Each has a queue and a task.
const RULES_MAX: usize = 32;
/// Patterns or causes in one list.
const WORDS_MAX: usize = 64;

/// In µs.
const SECOND: u64 = 1_000_000;
const WEEK: u64 = 7 * 86_400 * SECOND;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// `url`; `None` = the credential has it.
    pub url: Option<Address>,
    /// `format`.
    pub format: Format,
    /// The rest.
    pub rule: Rule,
    /// Whether `percent` was given.
    pub percent_given: bool,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            url: None,
            format: Format::Json,
            rule: Rule::default(),
            percent_given: false,
        }
    }
}

/// One key of a rule, as the manual has it.
#[derive(Debug, Clone, Copy)]
pub struct RuleKey {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
}

/// All keys of a rule.
pub const RULE_KEYS: [RuleKey; 8] = [
    RuleKey {
        name: "url",
        about: "Where messages are posted: https://… or http://…. An address that is a secret, as those of Slack are, belongs into the credential notify-NAME-url instead, which also goes before this key",
    },
    RuleKey {
        name: "format",
        about: "json (the default), slack (Slack, Mattermost and others that take the same) or ntfy",
    },
    RuleKey {
        name: "types",
        about: "Types of events without org.stratavore., or their beginnings with * behind, such as [\"runner.ended\", \"budget.*\"]. Every rule needs at least one",
    },
    RuleKey {
        name: "projects",
        about: "Only of these projects, or of those whose names begin so: [\"web\", \"ml-*\"]. Without it all, and what belongs to none",
    },
    RuleKey {
        name: "causes",
        about: "Of runner.ended only these causes. Without it all but success, stopped and cancelled",
    },
    RuleKey {
        name: "percent",
        about: "Of budget.threshold only from so many percent on. Default: 80",
    },
    RuleKey {
        name: "repeat",
        about: "For how long events that are alike (type, project and cause; or type and budget, hold or host) make no further message; then one more tells how many there were. Default: \"10min\"",
    },
    RuleKey {
        name: "per_hour",
        about: "Most messages in an hour, 1 to 3600; the next one tells how many events made none. Default: 30",
    },
];

/// Where in the file it is wrong, and how.
pub(super) type Wrong = (usize, String);

/// Reads rules over those there are, key by key. `at` is where the key `rules` stands.
pub(super) fn read(
    config: &mut Config,
    at: usize,
    value: &DeValue<'_>,
) -> Result<Vec<String>, Wrong> {
    let DeValue::Table(rules) = value else {
        return Err((
            at,
            "give each rule a section [notify.rules.NAME]".to_owned(),
        ));
    };
    let mut names = Vec::new();
    for (rule, keys) in rules {
        let (at, rule) = (rule.span().start, rule.get_ref());
        check_name(rule).map_err(|why| (at, why))?;
        let DeValue::Table(keys) = keys.get_ref() else {
            return Err((
                at,
                format!("give the rule {rule} a section [notify.rules.{rule}]"),
            ));
        };
        let notify = config.notify.entry(rule.to_string()).or_default();
        for (key, value) in keys {
            set(notify, key.get_ref(), value.get_ref()).map_err(|why| {
                (
                    key.span().start,
                    format!("{rule}.{}: {why}", name::shown(key.get_ref())),
                )
            })?;
        }
        names.push(rule.to_string());
    }
    match config.notify.len() {
        ..=RULES_MAX => Ok(names),
        n => Err((
            at,
            format!("there are {n} rules, and {RULES_MAX} is the most"),
        )),
    }
}

/// It is part of the names of credentials.
fn check_name(rule: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    match (1..=63).contains(&rule.len()) && rule.bytes().all(plain) && !rule.starts_with(['-', '_'])
    {
        true => Ok(()),
        false => Err(format!(
            "“{}” is no name of a rule: 1 to 63 letters, digits, “-” and “_”, the first a letter or digit",
            name::shown(rule)
        )),
    }
}

fn set(notify: &mut Notify, key: &str, value: &DeValue<'_>) -> Result<(), String> {
    let rule = &mut notify.rule;
    match key {
        "url" => notify.url = Some(Address::parse(text(value)?)?),
        "format" => {
            let word = text(value)?;
            let format = Format::parse(word);
            notify.format = format.ok_or_else(|| {
                let all = Format::ALL.map(Format::as_str).join(", ");
                format!("“{}” is none of {all}", name::shown(word))
            })?;
        }
        "types" => rule.types = words(value, event_types)?,
        "projects" => rule.projects = words(value, Pattern::parse)?,
        "causes" => rule.causes = words(value, cause)?,
        "percent" => {
            rule.percent = number(value, 1, 100)?.into();
            notify.percent_given = true;
        }
        "repeat" => {
            let repeat = span(value, SECOND, WEEK)?;
            rule.repeat = u64::try_from(repeat.as_micros()).unwrap_or(INFINITY);
        }
        "per_hour" => rule.per_hour = number(value, 1, 3_600)?,
        other => {
            let known = RULE_KEYS.iter().map(|key| key.name);
            return Err(match nearest(other, known.clone()) {
                Some(near) => format!("there is no such key; did you mean {near}?"),
                None => format!(
                    "there is no such key; there are {}",
                    known.collect::<Vec<_>>().join(", ")
                ),
            });
        }
    }
    Ok(())
}

/// A list of texts, each read by `read`.
fn words<T>(
    value: &DeValue<'_>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let DeValue::Array(words) = value else {
        return Err("give a list of texts, such as [\"a\", \"b\"]".to_owned());
    };
    if words.len() > WORDS_MAX {
        return Err(format!(
            "there are {} in the list, and {WORDS_MAX} is the most",
            words.len()
        ));
    }
    words
        .iter()
        .map(|word| read(text(word.get_ref())?))
        .collect()
}

/// A pattern that some event has.
fn event_types(word: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(word.trim_start_matches("org.stratavore."))?;
    let mut all = EventType::ALL.iter().map(|kind| kind.short());
    if all.clone().any(|kind| pattern.matches(kind)) {
        return Ok(pattern);
    }
    let word = name::shown(word);
    Err(match nearest(pattern.as_str(), &mut all) {
        Some(near) => format!("no event has the type “{word}”; did you mean {near}?"),
        None => format!("no event has the type “{word}”; see stratavore-events(7)"),
    })
}

fn cause(word: &str) -> Result<Cause, String> {
    Cause::parse(word).ok_or_else(|| {
        let word = name::shown(word);
        match nearest(&word, Cause::ALL.iter().map(|cause| cause.as_str())) {
            Some(near) => format!("no runner ends by “{word}”; did you mean {near}?"),
            None => {
                let all = Cause::ALL.map(Cause::as_str).join(", ");
                format!("no runner ends by “{word}”; the causes are {all}")
            }
        }
    })
}

/// The first rule that lacks what each needs, or has a key that would do nothing.
pub(super) fn wrong(rules: &BTreeMap<String, Notify>) -> Option<(String, String)> {
    rules.iter().find_map(|(name, notify)| {
        let key = format!("{RULES}.{name}");
        let why = useless(notify)?;
        Some((key.clone(), format!("{key}: {why}")))
    })
}

fn useless(notify: &Notify) -> Option<String> {
    let rule = &notify.rule;
    let wants = |kind: &EventType| rule.types.iter().any(|t| t.matches(kind.short()));
    let of_one = |key: &str, kind: EventType| {
        let short = kind.short();
        format!(
            "{key} is about {short} alone, and types has none of that: take {key} out, or add \"{short}\" to types."
        )
    };
    if rule.types.is_empty() {
        let why = "there is no types, so it would tell nothing: say of which events, such as types = [\"runner.ended\"].";
        return Some(why.to_owned());
    }
    if !rule.causes.is_empty() && !wants(&EventType::RunnerEnded) {
        return Some(of_one("causes", EventType::RunnerEnded));
    }
    if notify.percent_given && !wants(&EventType::BudgetThreshold) {
        return Some(of_one("percent", EventType::BudgetThreshold));
    }
    let of_projects = |kind: &EventType| kind.may_have_project() && wants(kind);
    if !rule.projects.is_empty() && !EventType::ALL.iter().any(of_projects) {
        let why = "projects leaves nothing to tell, as what types names belongs to no project: take projects out, or add other types.";
        return Some(why.to_owned());
    }
    None
}

/// As an inline table; of addresses nothing secret.
pub(super) fn show(rules: &BTreeMap<String, Notify>) -> String {
    let rules: Vec<_> = rules
        .iter()
        .map(|(name, notify)| format!("{name} = {{ {} }}", shown(notify)))
        .collect();
    match rules.is_empty() {
        true => "{}".to_owned(),
        false => format!("{{ {} }}", rules.join(", ")),
    }
}

fn shown(notify: &Notify) -> String {
    let rule = &notify.rule;
    let list = |words: Vec<&str>| {
        let words: Vec<_> = words.into_iter().map(quoted).collect();
        format!("[{}]", words.join(", "))
    };
    let patterns = |all: &[Pattern]| list(all.iter().map(Pattern::as_str).collect());
    let mut out = String::new();
    if let Some(url) = &notify.url {
        let _ = write!(out, "url = {}, ", quoted(&url.masked()));
    }
    let _ = write!(
        out,
        "format = {}, types = {}, projects = {}, causes = {}, percent = {}, repeat = {}, per_hour = {}",
        quoted(notify.format.as_str()),
        patterns(&rule.types),
        patterns(&rule.projects),
        list(rule.causes.iter().map(|cause| cause.as_str()).collect()),
        rule.percent,
        quoted(&show_span(rule.repeat)),
        rule.per_hour,
    );
    out
}
