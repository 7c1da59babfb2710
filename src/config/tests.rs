//! What is read, what is refused with which words, and that what is printed reads back.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Config, String> {
    let mut config = Config::new(&Places::system());
    config
        .parse(Path::new("f.toml"), text)
        .and_then(|()| config.check(Path::new("f.toml")))
        .map_err(|e| e.to_string())?;
    Ok(config)
}

#[test]
fn errors_name_file_line_and_key() {
    for (text, part) in [
        (
            "[store]\n\nurll = 1",
            "f.toml:3: unknown key store.urll; did you mean store.url?",
        ),
        (
            "[limits]\nmax-runners = 1",
            "did you mean host.max_runners?",
        ),
        (
            "[limits]\nmax_runners = 1",
            "did you mean host.max_runners?",
        ),
        (
            "[limit]\nmemory_maxx = 1",
            "did you mean limits.memory_max?",
        ),
        (
            "[limits]\nmemory-max = 1",
            "did you mean limits.memory_max?",
        ),
        ("max_runners = 3", "did you mean host.max_runners?"),
        (
            "[limits]\nmemory_max = 0",
            "f.toml:2: limits.memory_max: memory-max=0",
        ),
        (
            "[limits]\nmemory_max = -5",
            "f.toml:2: limits.memory_max: give a whole number",
        ),
        ("x = 1", "f.toml:1: “x” stands outside"),
        (
            "[event]\nexchange = 'x'",
            "f.toml:2: unknown key event.exchange",
        ),
        ("\n[stor]\n", "f.toml:2: there is no section [stor]"),
        (
            "[store]\nurl = 'postgres://x'",
            "f.toml:2: store.url: the URL names no database",
        ),
        (
            "[host]\nlabels = { a = 1 }",
            "f.toml:2: host.labels: a: give a text",
        ),
        (
            "[host.labels]\n'a b' = 'c'",
            "host.labels: The label “a b” has the character",
        ),
        (
            "[store]\nidle_timeout = '1ms'",
            "f.toml:2: store.idle_timeout: 1ms is not from 1s to infinity",
        ),
        (
            "[fleet]\nname = 'a/b'",
            "f.toml:2: fleet.name: The name of a fleet",
        ),
        (
            "[fleet]\nlease_ttl = '29s'",
            "f.toml:2: fleet.lease_ttl = 29s is less than three times",
        ),
        (
            "[fleet]\n\nlease_renew = '21s'",
            "f.toml:3: fleet.lease_ttl = 1min is less than three times",
        ),
        (
            "[fleet]\nlost_after = '1min'",
            "f.toml:2: fleet.lost_after = 1min is not longer",
        ),
        (
            "[fleet]\nstop_on_disconnect_after = '59s'",
            "f.toml:2: fleet.stop_on_disconnect_after = 59s is shorter than fleet.lease_ttl = 1min",
        ),
        (
            "[fleet]\nstop_on_disconnect_after = '9min'\n[limits]\nstop_timeout = '1min'",
            "f.toml:2: fleet.stop_on_disconnect_after = 9min leaves too little time before fleet.lost_after = 10min: stop-timeout = 1min",
        ),
        (
            "[store]\nurl = 'postgres://db.example/stratavore'\nmax_connections = 1",
            "f.toml:3: store.max_connections = 1 is too few for postgres: one connection writes, and another one reads and removes what is published; give at least 2.",
        ),
        ("[store\n", "f.toml:1"),
        ("[metrics]\nlisten = '9791'", "f.toml:2: metrics.listen"),
        (
            "[notify.rules.ops]\nurl = 'https://x'\n",
            "f.toml:1: notify.rules.ops: there is no types",
        ),
        (
            "[notify.rules.ops]\ntypes = ['*']\n[notify.rules.'a b']\ntypes = ['*']",
            "f.toml:3: notify.rules: “a b” is no name of a rule",
        ),
        (
            "[notify.rules.ops]\n\ntype = ['*']",
            "f.toml:3: notify.rules: ops.type: there is no such key; did you mean types?",
        ),
        (
            "[notify.rules.ops]\ntypes = ['runner.endd']",
            "f.toml:2: notify.rules: ops.types: no event has the type “runner.endd”; did you mean runner.ended?",
        ),
        (
            "[notify.rules.ops]\ntypes = ['budget.*']\ncauses = ['oom-kill']",
            "f.toml:1: notify.rules.ops: causes is about runner.ended alone, and types has none of that: take causes out",
        ),
        (
            "[notify.rules.ops]\ntypes = ['runner.*']\npercent = 90",
            "f.toml:1: notify.rules.ops: percent is about budget.threshold alone",
        ),
        (
            "[notify.rules.ops]\ntypes = ['host.*', 'fleet.changed']\nprojects = ['web']",
            "f.toml:1: notify.rules.ops: projects leaves nothing to tell",
        ),
        (
            "[notify.rules.ops]\ntypes = 'runner.ended'",
            "ops.types: give a list of texts",
        ),
        (
            "[notify.rules.ops]\ncauses = ['oom']",
            "ops.causes: no runner ends by “oom”",
        ),
        (
            "[notify.rules.ops]\nper_hour = 0",
            "ops.per_hour: 0 is not from 1 to 3600",
        ),
        (
            "[notify.rules.ops]\nrepeat = '1ms'",
            "ops.repeat: 1ms is not from 1s to 1w",
        ),
        (
            "[notify.rules.ops]\nurl = 'ftp://hunter2'",
            "ops.url: give an address with https:// or http://",
        ),
        (
            "[notify.rules]\nops = 1",
            "f.toml:2: notify.rules: give the rule ops a section [notify.rules.ops]",
        ),
        (
            "[notify]\nrules = 1",
            "f.toml:2: notify.rules: give each rule",
        ),
        ("[notify]\nrule = {}", "did you mean notify.rules?"),
        (
            "[metrics]\nadvertise = 'a:b'",
            "f.toml:2: metrics.advertise",
        ),
        (
            "[metrics]\nadvertise = '::1'",
            "f.toml:2: metrics.advertise",
        ),
        ("[metrics]\nadvertise = ':1'", "f.toml:2: metrics.advertise"),
        (
            "[host]\nmax_runners = \"many\"",
            "f.toml:2: host.max_runners: many is neither a whole number nor \"infinity\"",
        ),
        (
            "[host]\nmax_runners = 1.5",
            "f.toml:2: host.max_runners: give a whole number",
        ),
    ] {
        let result = parse(text);
        assert!(
            matches!(&result, Err(message) if message.contains(part)),
            "{text}: {result:?}"
        );
    }
}

/// A webhook's address is a secret, also in a mistake and in what is printed.
#[test]
fn rules_of_notifications() -> Result<(), String> {
    let text = "[notify.rules.ops]\nurl = 'https://hooks.example/hunter2'\nformat = 'slack'\ntypes = ['runner.*']\ncauses = ['oom-kill']\n\
                [notify.rules.x]\ntypes = ['org.stratavore.host.lost']\nrepeat = '1h'";
    let config = parse(text)?;
    let printed = config.print();
    assert!(
        printed.contains("url = \"https://hooks.example/***\""),
        "{printed}"
    );
    assert!(
        printed.contains("notify-ops-url: not to be seen here"),
        "{printed}"
    );
    assert!(!format!("{printed}{config:?}").contains("hunter2"));
    // That it has changed is seen all the same.
    let other = parse(&text.replace("hunter2", "hunter3"))?;
    assert_eq!(compare(&config, &config, &other).restart, ["notify.rules"]);
    for wrong in [
        "https://hunter2 x",
        "https://hunter2@host/x",
        "https://hunter2:0/x",
        "https://hunter2!/",
    ] {
        let said = parse(&text.replace("https://hooks.example/hunter2", wrong));
        assert!(
            said.as_ref()
                .is_err_and(|e| e.contains("f.toml:2: notify.rules: ops.url: ")),
            "{said:?}"
        );
        assert!(!format!("{said:?}").contains("hunter2"), "{said:?}");
    }
    Ok(())
}

#[test]
fn nobody_can_promise_that_a_users_own_runners_stop() {
    let mut config = Config::new(&Places::system());
    assert!(config.clone().check_user().is_ok());
    config.fleet.stop_on_disconnect_after = Some(Duration::from_secs(300));
    let refused = config.check_user().unwrap_err();
    assert!(refused.message.contains("with --user"), "{refused}");
}

#[test]
fn later_files_win_key_by_key() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("stratavore-config-{}", std::process::id()));
    let places = Places {
        config: folder.clone(),
        ..Places::system()
    };
    assert_eq!(Config::load(&places, None)?, Config::new(&places));
    let drop_ins = folder.join("stratavored.toml.d");
    std::fs::create_dir_all(&drop_ins)?;
    let main = "[host]\nname = \"a\"\nmax_runners = 1\n[limits]\ntasks_max = 5\n";
    std::fs::write(folder.join("stratavored.toml"), main)?;
    std::fs::write(drop_ins.join("20.toml"), "[host]\nname = \"c\"\n")?;
    std::fs::write(
        drop_ins.join("10.toml"),
        "[host]\nname = \"b\"\n\nmax_runners = 2\n",
    )?;
    std::fs::write(drop_ins.join("30.conf"), "not read")?;
    let config = Config::load(&places, None)?;
    let origin = |key: &str| {
        let from = config.origins.get(key).map_or("", String::as_str);
        from.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let got = (
        config.host_name.as_str(),
        config.host_max_runners,
        config.limits.tasks_max,
    );
    assert_eq!(got, ("c", Some(2), Some(5)));
    assert_eq!(origin("host.name"), "20.toml:2");
    assert_eq!(origin("host.max_runners"), "10.toml:4");
    assert_eq!(origin("limits.tasks_max"), "stratavored.toml:5");
    std::fs::write(drop_ins.join("40.toml"), "[host]\nnmae = 1\n")?;
    let error = Config::load(&places, None).err().map(|e| e.to_string());
    assert!(error.is_some_and(|e| {
        e.ends_with("40.toml:2: unknown key host.nmae; did you mean host.name?")
    }));
    std::fs::remove_dir_all(&folder)?;
    // A named file must be there.
    assert!(Config::load(&places, Some(Path::new("/nowhere/x.toml"))).is_err());
    Ok(())
}

/// Values of every kind, most of them right.
fn value(name: &'static str) -> BoxedStrategy<String> {
    let text = |regex: &'static str| regex.prop_map(|t| format!("\"{t}\"")).boxed();
    match name {
        "store.url" => text(
            "sqlite:///[a-zA-Z ü'%?#]{1,9}/[a-z.]{1,5}|postgres://(u@)?a(:1)?,b/d(\\?sslmode=require)?",
        ),
        "store.idle_timeout" | "store.max_lifetime" => text("[1-9]{2}(s|min|h)|infinity"),
        "host.labels" => proptest::collection::btree_map("[a-z./]{1,3}", "[a-zü'#]{0,3}", 0..3)
            .prop_map(|labels| {
                let labels = labels.into_iter().map(|(k, v)| (k, toml::Value::from(v)));
                toml::Value::Table(labels.collect()).to_string()
            })
            .boxed(),
        "fleet.name" => text("[a-zA-Z0-9._-]{1,8}"),
        "fleet.lease_renew" => text("[1-9]s"),
        "fleet.lease_ttl" => text("[1-9]0s"),
        "fleet.lost_after" | "fleet.stop_on_disconnect_after" => text("[1-9](min|h)|"),
        "store.max_connections" => (0u32..70).prop_map(|n| n.to_string()).boxed(),
        "store.retention" => text("([1-9]{1,4}(h|d|w|min|y)( [0-9]{1,3}ms)?|infinity)"),
        "host.name" => text("[a-zA-Z0-9._-]{0,8}"),
        "host.max_runners" => any::<u16>().prop_map(|n| n.to_string()).boxed(),
        "notify.rules" => Just(
            "{ a = { url = 'http://[::1]:80', types = ['*', 'budget.*'], causes = ['timeout'], per_hour = 7 }, b-1 = { types = ['host.lost'], repeat = '90s', projects = ['x*'] } }"
                .to_owned(),
        )
        .boxed(),
        "limits.oom_policy" => text("continue|stop|kill"),
        "limits.kill_signal" => text("(SIG)?(TERM|INT|HUP|USR1|RTMIN\\+[1-9]|RTMAX-[1-9]|KILL)"),
        "limits.unenforced" => text("refuse|warn"),
        "metrics.listen" => text("|(127\\.0\\.0\\.1|\\[::1\\]):[1-9][0-9]{0,4}"),
        "metrics.advertise" => text("[a-z.]{0,8}(:[1-9][0-9]{1,3})?"),
        "limits.cpu_quota" => text("([0-9]{1,3}(\\.[0-9])?%|infinity)"),
        "limits.runtime_max" | "limits.stop_timeout" => text("[0-9]{1,3}(ms|s|min|h)|infinity"),
        _ => prop_oneof![
            any::<u64>().prop_map(|n| n.to_string()),
            text("[0-9]{1,4}(\\.[0-9])?[KMGT]?|infinity")
        ]
        .boxed(),
    }
}

fn any_text() -> impl Strategy<Value = String> {
    let one = proptest::sample::select(KEYS.to_vec())
        .prop_flat_map(|key| value(key.name).prop_map(move |v| (key.name, v)));
    proptest::collection::vec(one, 0..4).prop_map(|all| {
        let line = |(name, value): (&str, String)| {
            let (section, key) = name.split_once('.').unwrap_or_default();
            format!("{section}.{key} = {value}\n")
        };
        all.into_iter().map(line).collect()
    })
}

#[test]
fn values_are_printed_as_people_write_them() -> Result<(), String> {
    let lines = [
        "[limits]",
        "memory_max = \"4G\"",
        "memory_high = \"1536M\"",
        "memory_swap_max = 1048577",
        "cpu_quota = \"200%\"",
        "tasks_max = 500",
        "runtime_max = \"90min\"",
        "stop_timeout = \"250ms\"",
    ];
    let printed = parse(&lines.join("\n"))?.print();
    for line in lines.iter().chain(&["retention = \"90d\""]) {
        assert!(printed.lines().any(|l| l == *line), "{line}: {printed}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_is_printed_is_the_same_read_again(text in any_text()) {
        if let Ok(config) = parse(&text) {
            let mut again = match parse(&config.print()) {
                Ok(again) => again,
                Err(why) => return Err(TestCaseError::fail(format!("{why}\n{}", config.print()))),
            };
            again.origins.clone_from(&config.origins);
            prop_assert_eq!(&again, &config);
            prop_assert_eq!(again.print(), config.print());
        }
    }

    #[test]
    fn no_file_makes_the_parser_panic(text in "\\PC{0,80}|\\[(store|limits|host)\\]\n[a-z_]{1,12} = (\"\\PC{0,10}\"|[0-9.-]{1,9})\n") {
        let _ = parse(&text);
    }
}

#[test]
fn a_file_that_is_no_text_or_not_there_is_told_in_words() {
    let file = std::env::temp_dir().join(format!("stratavore-no-text-{}", std::process::id()));
    let refused = |file: &Path| {
        let mut config = Config::new(&Places::system());
        config.read(file).unwrap_err().to_string()
    };
    let missing = refused(&file);
    assert!(
        missing.ends_with("it can't be read: No such file or directory"),
        "{missing}"
    );
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    let binary = refused(&file);
    std::fs::write(&file, "[store]\nurl = \"sqlite::memory:\"\nurl = \"\"\n").unwrap();
    let twice = refused(&file);
    std::fs::remove_file(&file).unwrap();
    assert!(binary.ends_with("it is no text in UTF-8"), "{binary}");
    assert!(twice.ends_with(":3: the key url is there twice"), "{twice}");
}

#[test]
fn no_cap_is_a_word_too() {
    for (written, cap) in [("0", None), ("\"infinity\"", None), ("7", Some(7))] {
        let config = parse(&format!("[host]\nmax_runners = {written}")).unwrap();
        assert_eq!(config.host_max_runners, cap, "{written}");
    }
}
