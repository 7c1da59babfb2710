//! Random files against random worlds, and what the daemon does with a step.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::domain::limits::Limits;
use crate::domain::project::{self, ProjectChange};
use proptest::prelude::*;

pub(super) fn name(text: &str) -> ProjectName {
    text.parse().unwrap()
}

/// What the daemon makes of a value it is given.
fn number(value: &Value) -> u64 {
    match value {
        Value::Number(n) => *n,
        Value::Nothing => INFINITY,
        Value::Text(text) => panic!("{text} is no number"),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => panic!("{other:?} is no text"),
    }
}

/// Takes a step as the daemon does: what is given is set, and the rest stays.
pub(super) fn take(actual: &mut Actual, step: &Step) {
    match (&step.object, &step.deed) {
        (Object::Fleet, Deed::Change(fields)) => {
            actual.fleet = project::max_runners(number(&fields[0].declared)).unwrap();
        }
        (Object::Project(name), Deed::Remove { runners }) => {
            assert_eq!(*runners, actual.runners.get(name).copied().unwrap_or(0));
            if *runners == 0 {
                assert!(actual.projects.remove(name).is_some());
                let its = Scope::Project(name.clone());
                actual.budgets.retain(|(scope, _), _| *scope != its);
            }
        }
        (Object::Project(name), deed) => {
            let old = match deed {
                Deed::Create(_) => ProjectSettings::default(),
                _ => actual.projects[name].clone(),
            };
            let is_new = !actual.projects.contains_key(name);
            assert_eq!(is_new, matches!(deed, Deed::Create(_)));
            let mut change = ProjectChange::default();
            for field in deed.fields() {
                let value = &field.declared;
                match field.key.name {
                    "description" => change.description = Some(text(value)),
                    "max_runners" => {
                        change.max_runners = Some(project::max_runners(number(value)).unwrap());
                    }
                    "max_queued" => {
                        change.max_queued = Some(project::max_queued(number(value)).unwrap());
                    }
                    "default_tokens" => {
                        change.default_tokens =
                            Some(project::default_tokens(number(value)).unwrap());
                    }
                    _ => {
                        let value = limits::Value::Number(number(value));
                        change.limits.set(&field.key.option(), value).unwrap();
                    }
                }
            }
            actual.projects.insert(name.clone(), old.with(&change));
        }
        (Object::Budget(scope, period), Deed::Remove { .. }) => {
            let there = actual.budgets.remove(&(scope.clone(), *period));
            assert!(there.is_some());
        }
        (Object::Budget(scope, period), deed) => {
            if let Scope::Project(name) = scope {
                assert!(actual.projects.contains_key(name), "{name} comes before");
            }
            let budget = (scope.clone(), *period);
            let mut terms = match (actual.budgets.get(&budget), deed) {
                (Some(terms), Deed::Change(_)) => terms.clone(),
                (None, Deed::Create(fields)) => {
                    assert_eq!(fields[0].key.name, "limit", "a new one needs a limit");
                    Terms {
                        limit: 0,
                        timezone: "UTC".to_owned(),
                        on_exhausted: OnExhausted::Deny,
                        counts: Counts::default(),
                    }
                }
                other => panic!("{other:?}"),
            };
            for field in deed.fields() {
                let value = &field.declared;
                match field.key.name {
                    "limit" => terms.limit = number(value),
                    "timezone" => terms.timezone = text(value),
                    "on_exhausted" => terms.on_exhausted = text(value).parse().unwrap(),
                    _ => terms.counts = text(value).parse().unwrap(),
                }
            }
            actual.budgets.insert(budget, terms);
        }
        other => panic!("{other:?}"),
    }
}

const NAMES: [&str; 5] = ["a", "web", "web-1.x", "batch", "z9"];

fn caps() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(None), Just(Some(1_000)), (1u32..50).prop_map(Some)]
}

fn some_limits() -> impl Strategy<Value = Limits> {
    let limit = |usual| {
        prop_oneof![
            Just(None),
            Just(Some(INFINITY)),
            Just(Some(usual)),
            (2u64..9_000).prop_map(move |n| Some(n << 20))
        ]
    };
    let weight = prop_oneof![Just(None), Just(Some(100)), (1u64..10_000).prop_map(Some)];
    let tasks = prop_oneof![Just(None), Just(Some(INFINITY)), (1u64..900).prop_map(Some)];
    (
        limit(1 << 30),
        limit(1 << 30),
        limit(0),
        limit(1_000_000),
        weight.clone(),
        weight,
        tasks,
    )
        .prop_map(|(max, high, swap, quota, cpu, io, tasks)| Limits {
            memory_max: max,
            memory_high: high,
            memory_swap_max: swap,
            cpu_quota: quota,
            cpu_weight: cpu,
            io_weight: io,
            tasks_max: tasks,
            ..Limits::default()
        })
}

fn settings() -> impl Strategy<Value = ProjectSettings> {
    let text = prop_oneof![Just(String::new()), "[a-zäß \"]{1,9}"];
    let tokens = prop_oneof![Just(None), (1u64..9).prop_map(Some)];
    (text, caps(), caps(), tokens, some_limits()).prop_map(
        |(description, max_runners, max_queued, default_tokens, limits)| ProjectSettings {
            description,
            max_runners,
            max_queued,
            default_tokens,
            limits,
        },
    )
}

fn terms() -> impl Strategy<Value = Terms> {
    let zones = prop::sample::select(vec!["UTC", "Europe/Berlin", "Asia/Tokyo"]);
    let policies = prop::sample::select(OnExhausted::ALL.to_vec());
    let counts = prop::sample::select(vec![
        "input,output,cache-read,cache-write",
        "input",
        "cache-read,output",
    ]);
    (0u64..4, zones, policies, counts).prop_map(|(limit, zone, on_exhausted, counts)| Terms {
        limit: limit * 1_000,
        timezone: zone.to_owned(),
        on_exhausted,
        counts: counts.parse().unwrap(),
    })
}

type Objects = (
    BTreeMap<ProjectName, ProjectSettings>,
    BTreeMap<BudgetName, Terms>,
);

/// Projects, and budgets of those and of others.
fn objects() -> impl Strategy<Value = Objects> {
    let names = || prop::sample::select(NAMES.to_vec()).prop_map(name);
    let projects = prop::collection::btree_map(names(), settings(), 0..4);
    let scopes = prop_oneof![
        Just(Scope::Fleet),
        names().prop_map(Scope::Project),
        "[a-c]".prop_map(Scope::Session)
    ];
    let periods = prop::sample::select(Period::ALL.to_vec());
    let budgets = prop::collection::btree_map((scopes, periods), terms(), 0..6);
    (projects, budgets).prop_map(|(projects, mut budgets)| {
        // One of a project that is not there can't be.
        budgets.retain(|(scope, _), _| match scope {
            Scope::Project(name) => projects.contains_key(name),
            _ => true,
        });
        (projects, budgets)
    })
}

fn files() -> impl Strategy<Value = Declared> {
    let fleet = prop_oneof![Just(None), caps().prop_map(Some)];
    (any::<bool>(), fleet, objects()).prop_map(|(mutable, fleet, (projects, budgets))| Declared {
        mutable,
        fleet,
        projects,
        budgets,
    })
}

fn worlds() -> impl Strategy<Value = Actual> {
    let busy = prop::collection::vec(any::<bool>(), NAMES.len());
    (caps(), objects(), busy).prop_map(|(fleet, (projects, budgets), busy)| Actual {
        fleet,
        runners: projects
            .keys()
            .cloned()
            .zip(busy)
            .filter(|(_, busy)| *busy)
            .map(|(name, _)| (name, 3))
            .collect(),
        projects,
        budgets,
    })
}

/// The file that declares this.
fn written(of: &Declared) -> String {
    let mut out = format!("mutable = {}\n", of.mutable);
    let value = |key: &Key, value: &Value| match value {
        Value::Nothing => "\"infinity\"".to_owned(),
        Value::Number(INFINITY) => "\"infinity\"".to_owned(),
        Value::Number(n) if n % 2 == 0 => n.to_string(),
        // As people see it.
        number @ Value::Number(n) => match key.kind {
            Kind::Count | Kind::Limit(Unit::Weight | Unit::Count) => n.to_string(),
            _ => format!("\"{}\"", key.shown(number)),
        },
        Value::Text(text) if key.name == "count" => {
            let words: Vec<String> = text.split(',').map(|w| format!("\"{w}\"")).collect();
            format!("[{}]", words.join(", "))
        }
        Value::Text(text) => toml::Value::from(text.as_str()).to_string(),
    };
    let mut table = |head: String, keys: &'static [Key], values: &[Value]| {
        out.push_str(&format!("[{head}]\n"));
        for (key, of) in keys.iter().zip(values) {
            out.push_str(&format!("{} = {}\n", key.name, value(key, of)));
        }
    };
    if let Some(fleet) = of.fleet {
        table("fleet".to_owned(), &FLEET_KEYS, &of_fleet(fleet));
    }
    for (name, settings) in &of.projects {
        table(
            format!("projects.\"{name}\""),
            &PROJECT_KEYS,
            &of_project(settings),
        );
    }
    for ((scope, period), terms) in &of.budgets {
        let head = format!("budgets.\"{scope}\".{}", period.as_str());
        table(head, &BUDGET_KEYS, &of_terms(terms));
    }
    out
}

proptest! {
    /// Once all steps have been taken there are none, but for projects with runners; and what is not declared has stayed as it
    /// was, or is gone.
    #[test]
    fn taken_steps_are_gone(file in files(), before in worlds()) {
        let mut actual = before.clone();
        let steps = file.steps(&before);
        for step in &steps {
            prop_assert!(step.deed.fields().iter().all(|f| f.declared != f.actual));
            take(&mut actual, step);
        }
        let left = file.steps(&actual);
        let stuck = |step: &&Step| matches!(step.deed, Deed::Remove { runners: 1.. });
        prop_assert_eq!(left.iter().filter(|step| !stuck(step)).count(), 0, "{:?}", left);
        for object in file.others(&before) {
            let (was, is) = match &object {
                Object::Fleet => (before.fleet.is_some(), actual.fleet == before.fleet),
                Object::Project(name) => (true, actual.projects.get(name) == before.projects.get(name)),
                Object::Budget(scope, period) => {
                    let budget = (scope.clone(), *period);
                    (true, actual.budgets.get(&budget) == before.budgets.get(&budget))
                }
            };
            let kept = match &object {
                Object::Project(name) | Object::Budget(Scope::Project(name), _) if !file.projects.contains_key(name) => {
                    before.runners.contains_key(name)
                }
                _ => false,
            };
            prop_assert!(was);
            prop_assert_eq!(is, file.mutable || kept, "{}", object);
        }
        // What is declared is there as it is declared.
        for (name, settings) in &file.projects {
            prop_assert_eq!(of_project(&actual.projects[name]), of_project(settings));
        }
        for (budget, terms) in &file.budgets {
            prop_assert_eq!(&actual.budgets[budget], terms);
        }
        if let Some(fleet) = file.fleet {
            prop_assert_eq!(actual.fleet, fleet);
        }
    }

    /// Cut off anywhere and begun anew it comes to the same.
    #[test]
    fn cut_off_and_begun_anew(file in files(), before in worlds(), at in 0usize..12) {
        let (mut once, mut twice) = (before.clone(), before.clone());
        for step in file.steps(&before) {
            take(&mut once, &step);
        }
        for step in file.steps(&before).iter().take(at) {
            take(&mut twice, step);
        }
        for step in file.steps(&twice) {
            take(&mut twice, &step);
        }
        prop_assert_eq!(once, twice);
    }

    /// A file says what it was made of, in numbers and in people's words.
    #[test]
    fn written_and_read(file in files()) {
        let text = written(&file);
        match parse(&text) {
            Ok(read) => {
                prop_assert!(file.mutable || !(file.projects.is_empty() && file.budgets.is_empty()));
                prop_assert_eq!((read.mutable, read.fleet, &read.budgets), (file.mutable, file.fleet, &file.budgets));
                let values = |of: &Declared| -> Vec<_> {
                    of.projects.iter().map(|(name, s)| (name.clone(), of_project(s))).collect()
                };
                prop_assert_eq!(values(&read), values(&file));
            }
            Err(wrong) => prop_assert!(wrong.message.contains("mutable = false"), "{}: {}", wrong, text),
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}|(\\[?(mutable|fleet|projects|budgets)(\\.(a|fleet|\"project:a\"|day|limit))?(\\.day)?\\]?( = (true|-1|1\\.5|\"2M\"|\\[\\]|\\{\\}|1979-05-27))?\n){0,6}") {
        if let Err(wrong) = parse(&text) {
            prop_assert!(!wrong.message.is_empty() && !wrong.message.contains('\n'), "{:?}", wrong);
        }
    }
}
