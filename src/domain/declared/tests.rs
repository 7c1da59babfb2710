//! Files and differences as people see them.
#![allow(clippy::unwrap_used)]

use super::model::{name, take};
use super::*;

fn declared(text: &str) -> Declared {
    parse(text).unwrap_or_else(|wrong| panic!("{wrong}: {text}"))
}

const FILE: &str = r#"
mutable = true

[fleet]
max_runners = 500

[projects.web]
description = "The web team"
max_runners = 4
memory_max = "16G"
cpu_quota = "400%"

[projects."web-1.x"]

[budgets."project:web".day]
limit = "2M"
timezone = "Europe/Berlin"
on_exhausted = "freeze"
count = ["input", "output"]

[budgets.fleet.month]
limit = 0
"#;

#[test]
fn a_file() {
    let file = declared(FILE);
    assert_eq!((file.mutable, file.fleet), (true, Some(Some(500))));
    let web = &file.projects[&name("web")];
    assert_eq!(
        (web.max_runners, web.limits.memory_max),
        (Some(4), Some(16 << 30))
    );
    assert_eq!(file.projects[&name("web-1.x")], ProjectSettings::default());
    let day = &file.budgets[&(Scope::Project(name("web")), Period::Day)];
    assert_eq!(
        (day.limit, day.timezone.as_str()),
        (2_000_000, "Europe/Berlin")
    );
    assert_eq!(day.counts.to_string(), "input,output");
    assert_eq!(declared(""), declared("mutable = true"));
    assert_eq!(
        declared("[fleet]\nmax_runners = \"infinity\"").fleet,
        Some(None)
    );
}

#[test]
fn what_is_shown() {
    let mut actual = Actual::default();
    let file = declared(FILE);
    for step in file.steps(&actual) {
        take(&mut actual, &step);
    }
    let web = actual.projects.get_mut(&name("web")).unwrap();
    web.limits.memory_max = Some((8 << 30) + 1);
    web.max_runners = None;
    web.default_tokens = Some(1_500);
    let by_hand = (name("mine"), ProjectSettings::default());
    actual.projects.extend([by_hand]);
    let shown = |file: &Declared| -> Vec<String> {
        let steps = file.steps(&actual).into_iter();
        let line = |step: Step| {
            let of = |f: &Field| {
                let (is, to) = (f.key.shown(&f.actual), f.key.shown(&f.declared));
                format!(" {} {is} > {to}", f.key.name)
            };
            let fields: String = step.deed.fields().iter().map(of).collect();
            format!("{} {}{fields}", step.deed.as_str(), step.object)
        };
        steps.map(line).collect()
    };
    let changed = "change project web max_runners infinity > 4 default_tokens 1.5k >  memory_max 8589934593 > 16G";
    assert_eq!(shown(&file), [changed]);
    assert_eq!(file.others(&actual), [Object::Project(name("mine"))]);
    let strict = declared(&FILE.replace("mutable = true", "mutable = false"));
    assert_eq!(shown(&strict), [changed, "remove project mine"]);
}

/// What is wrong is told with its line, its key, its value and what to do.
#[test]
fn what_is_wrong() {
    for (text, line, part) in [
        ("mutabel = true", 1, "did you mean mutable?"),
        (
            "\nquux = 1",
            2,
            "there are mutable, fleet, projects, budgets",
        ),
        ("mutable = 1", 1, "mutable = 1: give true or false"),
        (
            "mutable = false",
            1,
            "every project and every budget would be removed",
        ),
        ("[fleet]\nmax_runner = 1", 2, "did you mean max_runners?"),
        ("fleet = 5", 1, "[fleet]"),
        (
            "[fleet]\nmax_runners = 0",
            2,
            "fleet.max_runners = 0: max-runners=0 would admit",
        ),
        ("[fleet]\nmax_runners = 5000000", 2, "at most 1000000"),
        ("[projects.Web]", 1, "Web"),
        ("[projects]\nweb = 3", 2, "[projects.web]"),
        (
            "[projects.web]\nmax_runners = -1",
            2,
            "projects.web.max_runners = -1: give a whole number",
        ),
        (
            "[projects.web]\nmax_runners = 1.5",
            2,
            "= 1.5: give a whole number",
        ),
        (
            "[projects.web]\nmax_runers = 1",
            2,
            "did you mean max_runners?",
        ),
        ("[projects.web-1.x]\nmax_runners = 1", 1, "put in quotes"),
        (
            "[projects.web]\nruntime_max = \"1h\"",
            2,
            "there is no key “runtime_max”",
        ),
        (
            "[projects.web]\nmemory_max = \"1Q\"",
            2,
            "projects.web.memory_max = \"1Q\": memory-max: “1Q” is not a size",
        ),
        ("[projects.web]\ncpu_weight = \"infinity\"", 2, "cpu_weight"),
        ("[projects.web]\ndefault_tokens = 0", 2, "from 1 to"),
        (
            "[projects.web]\ndescription = \"a\\nb\"",
            2,
            "no control characters",
        ),
        (
            "[projects.web]\ndescription = 1",
            2,
            "give a text in quotes",
        ),
        ("[projects.web]\n[projects.web]", 2, "is there twice"),
        ("[budgets.web.day]\nlimit = 1", 1, "project:NAME"),
        ("[budgets.fleet.year]\nlimit = 1", 1, "year"),
        ("[budgets.fleet]\nlimit = 1", 2, "limit"),
        (
            "\n[budgets.fleet.day]\ntimezone = \"UTC\"",
            2,
            "budgets.fleet.day has no limit",
        ),
        (
            "[budgets.fleet.day]\nlimit = \"infinity\"",
            2,
            "leave it out",
        ),
        (
            "[budgets.fleet.day]\nlimit = 9007199254740993",
            2,
            "at most 9007199254740992",
        ),
        (
            "[budgets.fleet.day]\nlimit = 1\ntimezone = \"Mars/Olympus\"",
            3,
            "no time zone “Mars/Olympus”",
        ),
        (
            "[budgets.fleet.day]\nlimit = 1\non_exhausted = \"kill\"",
            3,
            "deny, freeze or stop",
        ),
        (
            "[budgets.fleet.day]\nlimit = 1\ncount = \"input\"",
            3,
            "give a list",
        ),
        (
            "[budgets.fleet.day]\nlimit = 1\ncount = []",
            3,
            "at least one",
        ),
        (
            "[budgets.fleet.day]\nlimit = 1\ncount = [\"in\"]",
            3,
            "cache-read",
        ),
        (
            "mutable = false\n[projects.a]\n[budgets.\"project:b\".day]\nlimit = 1",
            3,
            "[projects.b]",
        ),
        ("[projects.web", 1, ""),
    ] {
        let wrong = parse(text).expect_err(text);
        assert_eq!(wrong.line, Some(line), "{text}: {wrong}");
        assert!(wrong.message.contains(part), "{text}: {wrong}");
    }
}

#[test]
fn bounds() {
    let many = |n: usize| {
        (0..n)
            .map(|i| format!("[projects.p{i}]\n"))
            .collect::<String>()
    };
    assert_eq!(declared(&many(PROJECTS_MAX)).projects.len(), PROJECTS_MAX);
    let wrong = parse(&many(PROJECTS_MAX + 1)).unwrap_err();
    assert!(wrong.message.contains("1001 projects, and 1000"), "{wrong}");
    let many = |n: usize| {
        let one = |i| format!("[budgets.\"session:s{i}\".day]\nlimit = 1\n");
        (0..n).map(one).collect::<String>()
    };
    assert_eq!(declared(&many(BUDGETS_MAX)).budgets.len(), BUDGETS_MAX);
    assert!(parse(&many(BUDGETS_MAX + 1)).is_err());
    let long = "#".repeat(BYTES_MAX);
    assert!(parse(&long).is_ok());
    let wrong = parse(&format!("{long}#")).unwrap_err();
    assert!(wrong.message.contains("1048576"), "{wrong}");
    // Values in values end somewhere.
    let deep = format!("mutable = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&deep).is_err());
}

/// What is given back in full is what was said.
#[test]
fn shown_values_are_exact() {
    let of = |keys: &'static [Key], name: &str| keys.iter().find(|k| k.name == name).unwrap();
    let bytes = of(&PROJECT_KEYS, "memory_max");
    assert_eq!(bytes.shown(&Value::Number(3 << 29)), "1.5G");
    assert_eq!(bytes.shown(&Value::Number((3 << 29) + 1)), "1610612737");
    assert_eq!(bytes.shown(&Value::Number(INFINITY)), "infinity");
    let quota = of(&PROJECT_KEYS, "cpu_quota");
    assert_eq!(quota.shown(&Value::Number(1_500_000)), "150%");
    assert_eq!(quota.shown(&Value::Number(1_500_001)), "1500001");
    let tokens = of(&BUDGET_KEYS, "limit");
    assert_eq!(tokens.shown(&Value::Number(1_500_000)), "1.5M");
    assert_eq!(tokens.shown(&Value::Number(1_234_567)), "1234567");
    assert_eq!(tokens.shown(&Value::Nothing), "");
}
