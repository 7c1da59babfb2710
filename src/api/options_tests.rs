//! Tests of the options: every refusal has its sentence, and nothing panics.

use super::super::values::Options;
use super::*;
use crate::domain::ErrorKind;
use proptest::prelude::*;
use std::collections::HashMap;
use zbus::OwnedVariant;
use zbus::Variant;

fn owned(value: impl Into<Variant<'static>>) -> OwnedVariant {
    value.into().try_into_owned().expect("holds no descriptor")
}

fn one(key: &str, value: impl Into<Variant<'static>>) -> Options {
    HashMap::from([(key.to_owned(), owned(value))])
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.expect_err("must be refused");
    assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    error.message
}

#[test]
fn everything_at_once() {
    let options = HashMap::from([
        ("name".to_owned(), owned("web")),
        ("uid".to_owned(), owned(1000u32)),
        ("working-directory".to_owned(), owned("/srv")),
        ("setenv".to_owned(), owned(vec!["A=1", "B="])),
        ("label".to_owned(), owned(HashMap::from([("k", "v")]))),
        ("memory-max".to_owned(), owned("1G")),
        ("tasks-max".to_owned(), owned(64u64)),
        ("runtime-max".to_owned(), owned("1h")),
        ("kill-signal".to_owned(), owned(2i32)),
        ("oom-policy".to_owned(), owned("kill")),
        ("request-id".to_owned(), owned("r-1")),
        ("load-credential".to_owned(), owned(vec!["key:/srv/a:b"])),
        ("env-file".to_owned(), owned(vec!["/srv/env", "-/srv/more"])),
    ]);
    let launch = launch(&options).expect("legal");
    assert_eq!(launch.name.as_deref(), Some("web"));
    assert_eq!(launch.user, Some(User::Uid(1000)));
    assert_eq!(launch.setenv.len(), 2);
    assert_eq!(launch.labels["k"], "v");
    assert_eq!(launch.limits.memory_max, Some(1 << 30));
    assert_eq!(launch.limits.runtime_max, Some(3_600_000_000));
    assert_eq!(launch.limits.kill_signal, Some(2));
    let [key] = &launch.inputs.credentials[..] else {
        panic!("one credential");
    };
    assert_eq!((key.name.as_str(), key.path.as_str()), ("key", "/srv/a:b"));
    let files = launch.inputs.environment_files.iter();
    let files: Vec<_> = files.map(|f| (f.path.as_str(), f.optional)).collect();
    assert_eq!(files, [("/srv/env", false), ("/srv/more", true)]);
}

#[test]
fn every_width_of_integer_is_taken() {
    let want = launch(&one("tasks-max", 64u64)).expect("legal").limits;
    for value in [
        Variant::from(64u8),
        Variant::from(64u16),
        Variant::from(64i16),
        Variant::from(64u32),
        Variant::from(64i32),
        Variant::from(64i64),
        Variant::from("64"),
        Variant::Variant(Box::new(Variant::from(64u8))),
    ] {
        let limits = launch(&one("tasks-max", value)).expect("legal").limits;
        assert_eq!(limits, want);
    }
}

#[test]
fn refusals_name_key_and_type() {
    let of = |key: &str, value: Variant<'static>| refusal(launch(&one(key, value)));
    assert!(of("memory_max", "1G".into()).contains("did you mean memory-max?"));
    assert!(of("quque", true.into()).contains("There is no option “quque”"));
    assert!(of("wait", "h".into()).contains("does not exist in this release"));
    assert!(of("queue", "yes".into()).contains("queue: a b is expected"));
    assert!(of("priority", (-101i32).into()).contains("from -100 to 100"));
    assert!(of("priority", 1.5f64.into()).contains("an i"));
    assert!(of("tokens", 0u64.into()).contains("from 1 to"));
    assert!(of("tokens", "many".into()).contains("is not a number"));
    assert!(of("session", "a b".into()).contains("session"));
    let message = of("memory-max", true.into());
    assert!(
        message.contains("memory-max: a t (bytes)") && message.contains("type b"),
        "{message}"
    );
    assert!(of("memory-max", (-5i64).into()).contains("not -5"));
    assert!(of("stdin", "/dev/null".into()).contains("stdin: an h (a descriptor) is expected"));
    assert!(of("stderr", 2i32.into()).contains("stderr: an h"));
    assert!(of("memory-max", 1.5f64.into()).contains("type d"));
    assert!(
        of("setenv", "A=1".into()).contains("setenv: an as is expected, not a value of type s")
    );
    assert!(of("load-credential", vec!["key"].into()).contains("NAME:PATH"));
    assert!(of("load-credential", vec!["a/b:/x"].into()).contains("no name of a credential"));
    assert!(of("load-credential", vec!["key:x"].into()).contains("not an absolute path"));
    assert!(of("load-credential", "key:/x".into()).contains("an as is expected"));
    assert!(of("env-file", vec!["env"].into()).contains("not an absolute path"));
    assert!(of("env-file", vec!["/x"; 17].into()).contains("at most 16"));
    assert!(of("label", vec!["a"].into()).contains("a{ss}"));
    assert!(of("name", 5u32.into()).contains("name: an s"));
    assert!(of("uid", "a/b".into()).contains("not the name of a user"));
    assert!(of("uid", u32::MAX.into()).contains("is not a user"));
    assert!(of("working-directory", "srv".into()).contains("not an absolute path"));
    assert!(of("request-id", "a b".into()).contains("request id"));
    assert!(of("kill-signal", 0i32.into()).contains("not a signal"));
    assert!(of("stop-timeout", "infinity".into()).contains("at most 1h"));
    assert!(refusal(none(&one("x", 1u8))).contains("has none"));
    assert!(refusal(limits(&Options::new())).contains("No limit"));
    assert!(refusal(limits(&one("name", "x"))).contains("no option “name”"));
}

#[test]
fn secrets_stay_out_of_refusals() {
    for entry in ["sk-secret", "1=sk-secret"] {
        let message = refusal(launch(&one("setenv", vec![entry])));
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn settings_of_projects() {
    let change = |key: &str, value: Variant<'static>| project(&one(key, value));
    let lifted = change("max-runners", "infinity".into()).expect("legal");
    assert_eq!(lifted.max_runners, Some(None));
    let ten = change("max-runners", 10u32.into()).expect("legal");
    assert_eq!(ten.max_runners, Some(Some(10)));
    assert!(refusal(change("max-runners", 0u32.into())).contains("no runner at all"));
    assert!(refusal(change("max-runners", 2_000_000u32.into())).contains("at most"));
    assert!(refusal(change("runtime-max", "1h".into())).contains("single runners"));
    assert!(refusal(change("descripton", "x".into())).contains("did you mean description?"));
    assert!(refusal(change("description", "a\nb".into())).contains("control characters"));
}

#[test]
fn filters() {
    let all = runner_filter(&one("all", true)).expect("legal").filter;
    assert_eq!(all.states.len(), State::ALL.len());
    assert_eq!(
        runner_filter(&Options::new()).expect("legal").filter.limit,
        PAGE_DEFAULT
    );
    assert!(refusal(runner_filter(&one("limit", 0u32))).contains("1 to 1000"));
    assert!(refusal(runner_filter(&one("state", "dead"))).contains("starting, running"));
    assert!(event_filter(0, 0, &one("type", "org.stratavore.runner.ended")).is_ok());
    assert!(refusal(event_filter(0, 0, &one("type", "x"))).contains("runner.ended"));
    assert_eq!(
        event_filter(0, u32::MAX, &Options::new())
            .expect("legal")
            .limit,
        PAGE_MAX
    );
}

fn any_variant() -> impl Strategy<Value = Variant<'static>> {
    let leaf = prop_oneof![
        any::<u8>().prop_map(Variant::from),
        any::<bool>().prop_map(Variant::from),
        any::<i16>().prop_map(Variant::from),
        any::<u32>().prop_map(Variant::from),
        any::<i64>().prop_map(Variant::from),
        any::<u64>().prop_map(Variant::from),
        any::<f64>().prop_map(Variant::from),
        "\\PC{0,20}".prop_map(Variant::from),
        "[0-9.]{1,6}[KMG%smh]?".prop_map(Variant::from),
        proptest::collection::vec("\\PC{0,8}|[A-Z]=.", 0..4).prop_map(Variant::from),
        proptest::collection::hash_map("\\PC{0,6}", "\\PC{0,6}", 0..4).prop_map(Variant::from),
    ];
    leaf.prop_recursive(2, 8, 2, |inner| {
        inner.prop_map(|v| Variant::Variant(Box::new(v)))
    })
}

proptest! {
    #[test]
    fn whatever_comes_is_an_option_or_invalid(
        key in prop_oneof![proptest::sample::select(LAUNCH_KEYS.to_vec()).prop_map(str::to_owned), "\\PC{0,20}"],
        value in any_variant(),
    ) {
        let options = one(&key, value);
        for error in [
            launch(&options).err(),
            limits(&options).err(),
            project(&options).err(),
            none(&options).err(),
        ]
        .into_iter()
        .flatten()
        {
            prop_assert_eq!(error.kind, ErrorKind::InvalidArgument);
            prop_assert!(error.message.len() < 1_000);
            prop_assert!(!error.message.contains('\n'));
        }
        let _ = runner_filter(&options);
        let _ = event_filter(0, 0, &options);
    }
}
