//! What the agent does for the daemon and what not: pure decisions on root's bounds.

use super::config::{Config, PATH, UserRef};
use super::user::Account;
pub(super) use crate::domain::limits::shown;
use crate::domain::limits::{DEFAULT_STOP_TIMEOUT, KEYS, Value};
use crate::domain::units::show_size;
use crate::domain::{Limits, name, signal, spec};
use crate::wire::{Launch, Passed, Payload, Refusal, RefusalCode};
use std::ops::RangeInclusive;
use std::path::Path;

/// The weight the kernel gives where nobody says one.
pub(super) const DEFAULT_WEIGHT: u64 = 100;

/// The refusal with this code and sentence.
pub(super) fn refusal(code: RefusalCode, message: impl Into<String>) -> Refusal {
    Refusal {
        code,
        message: message.into(),
    }
}

/// Who may run where root lists nobody: people. Above are nobody, containers' users and those
/// that systemd makes up for services (DynamicUser=), below those of the system.
const PEOPLE: RangeInclusive<u32> = 1000..=60000;

/// What root's bounds come to, for a person: a sentence, and lines that begin with `warning: ` for what is surely not
/// meant. `file` is where they stand, `passwd` the file of the local accounts, `known` asks the name service.
pub(super) fn told(
    config: &Config,
    file: &Path,
    passwd: &str,
    known: impl Fn(&str) -> bool,
) -> Vec<String> {
    let file = file.display();
    let mut out = Vec::new();
    let root = if config.allow_root { "root and " } else { "" };
    if config.allowed_users.is_empty() {
        let (first, last) = (PEOPLE.start(), PEOPLE.end());
        let uid = |line: &str| line.split(':').nth(2)?.parse().ok();
        let people = passwd
            .lines()
            .filter_map(uid)
            .filter(|uid: &u32| PEOPLE.contains(uid))
            .count();
        out.push(format!("Runners may be {root}every account with a uid from {first} to {last}; {people} of them are in /etc/passwd."));
        if people == 0 && !config.allow_root {
            out.push(format!(
                "warning: No local account has a uid from {first} to {last}, so nothing can run: make one (useradd), or name others in allowed_users of {file}."
            ));
        }
        return out;
    }
    let named = listed(&config.allowed_users);
    out.push(format!("Runners may be {root}{named}."));
    for user in &config.allowed_users {
        match user {
            UserRef::Name(name) if name == "root" && !config.allow_root => out.push(format!(
                "warning: allowed_users of {file} names root, which only allow_root = true lets run."
            )),
            UserRef::Name(name) if !known(name) => out.push(format!("warning: allowed_users of {file} names {name}, whom this host does not know.")),
            _ => {}
        }
    }
    out
}

/// Accounts as root has named them.
pub(super) fn listed(users: &[UserRef]) -> String {
    let named = users.iter().map(|user| match user {
        UserRef::Name(name) => name.clone(),
        UserRef::Uid(uid) => uid.to_string(),
    });
    named.collect::<Vec<_>>().join(", ")
}

/// Whether a runner may run as this account.
pub(super) fn check_user(config: &Config, account: &Account) -> Result<(), Refusal> {
    let named = |user: &UserRef| match user {
        UserRef::Uid(uid) => *uid == account.uid,
        UserRef::Name(name) => *name == account.name,
    };
    let allowed = match (account.uid, config.allowed_users.is_empty()) {
        (0, _) => config.allow_root,
        (uid, true) => PEOPLE.contains(&uid),
        (_, false) => config.allowed_users.iter().any(named),
    };
    if allowed {
        return Ok(());
    }
    let what = if account.uid == 0 {
        "allow_root = true"
    } else {
        "allowed_users"
    };
    let usual = match config.allowed_users.is_empty() {
        true if account.uid != 0 => format!(
            " (unless they are listed, only uids from {} to {} may)",
            PEOPLE.start(),
            PEOPLE.end()
        ),
        _ => String::new(),
    };
    Err(refusal(
        RefusalCode::NotPermitted,
        format!(
            "Nothing runs as {} (uid {}) on this host{usual}; root can allow it with {what} in {PATH}.",
            account.name, account.uid
        ),
    ))
}

/// The limits a runner gets: what was asked for, refused where it is above a ceiling, and the
/// ceiling where nothing was asked and the default would be above it.
pub(super) fn clamp(limits: &Limits, ceilings: &Limits) -> Result<Limits, Refusal> {
    if let Some((key, mine, most)) = limits.above(ceilings) {
        return Err(refusal(
            RefusalCode::LimitsExceeded,
            format!(
                "{key}={} is above this host's ceiling of {}; ask for no more than that, or have root raise {} under [ceilings] in {PATH}.",
                shown(key, mine),
                shown(key, most),
                key.replace('-', "_")
            ),
        ));
    }
    let mut bound = ceilings.clone();
    // These have a default that is below most ceilings.
    bound.cpu_weight = bound.cpu_weight.filter(|c| *c < DEFAULT_WEIGHT);
    bound.io_weight = bound.io_weight.filter(|c| *c < DEFAULT_WEIGHT);
    bound.stop_timeout = bound.stop_timeout.filter(|c| *c < DEFAULT_STOP_TIMEOUT);
    Ok(limits.or(&bound))
}

/// Whether a runner may have a log file of this size, and anything to write into it.
pub(super) fn check_log_file(
    max: Option<u64>,
    passed: &[Passed],
    config: &Config,
) -> Result<(), Refusal> {
    let Some(max) = max else {
        return Ok(());
    };
    spec::check_log_file_max(max).map_err(malformed)?;
    let most = config.log_file_max.unwrap_or(spec::LOG_FILE_CEILING);
    if most == 0 {
        let why = format!(
            "This host has no log files (log_file_max = 0 under [ceilings] in {PATH}); leave out log-file-max, and the output is in the journal."
        );
        return Err(refusal(RefusalCode::LimitsExceeded, why));
    }
    if max > most {
        let why = format!(
            "log-file-max={} is above this host's ceiling of {}; ask for no more than that, or have root raise log_file_max under [ceilings] in {PATH}.",
            show_size(max),
            show_size(most)
        );
        return Err(refusal(RefusalCode::LimitsExceeded, why));
    }
    match passed.contains(&Passed::Stdout) && passed.contains(&Passed::Stderr) {
        true => Err(malformed(spec::no_output_left())),
        false => Ok(()),
    }
}

/// Limits come over a socket: every value is bounded again as if a user had given it.
pub(super) fn check_limits(limits: &Limits) -> Result<(), Refusal> {
    let mut checked = Limits::default();
    for (key, _) in KEYS {
        if let Some(value) = limits.number(key) {
            checked.set(key, Value::Number(value)).map_err(malformed)?;
        }
    }
    if let Some(signal) = limits.kill_signal {
        signal::check(signal).map_err(malformed)?;
    }
    Ok(())
}

/// Checks what comes over the socket.
pub(super) fn check_launch(launch: &Launch) -> Result<(), Refusal> {
    check_limits(&launch.limits)?;
    check_limits(&launch.project_limits)?;
    match &launch.name {
        Some(name) => name::check_runner_name(name).map_err(malformed),
        None => Ok(()),
    }
}

/// Checks what comes in a memory file.
pub(super) fn check_payload(payload: &Payload) -> Result<(), Refusal> {
    spec::check_command(&payload.command).map_err(malformed)?;
    if let Some(path) = &payload.working_directory {
        spec::check_path("The working directory", path).map_err(malformed)?;
    }
    payload.inputs.check().map_err(malformed)?;
    let entries: Vec<String> = payload
        .setenv
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    let parsed = spec::parse_setenv(&entries).map_err(malformed)?;
    let equal = |n: &String| parsed.iter().any(|e| e.name == *n);
    match payload.setenv.iter().all(|(n, _)| equal(n)) {
        true => Ok(()),
        false => Err(refusal(
            RefusalCode::Failed,
            "A variable's name has a “=” in it.",
        )),
    }
}

fn malformed(error: crate::domain::Error) -> Refusal {
    refusal(RefusalCode::Failed, error.message)
}

#[cfg(test)]
mod told_tests {
    use super::*;

    #[test]
    fn who_may_run_is_told() {
        let parse = |text: &str| super::super::config::parse(text).unwrap_or_default();
        let warnings = |text: &str, passwd: &str| {
            let lines = told(&parse(text), Path::new("b.toml"), passwd, |name| {
                name == "alice"
            });
            lines
                .iter()
                .filter(|l| l.starts_with("warning: "))
                .cloned()
                .collect::<Vec<_>>()
        };
        let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n";
        assert!(warnings("", passwd).is_empty());
        assert_eq!(warnings("", "root:x:0:0:::\nbad\n").len(), 1);
        assert!(warnings("allow_root = true", "").is_empty());
        assert!(warnings("allowed_users = [\"alice\", 7]", "").is_empty());
        assert!(warnings("allowed_users = [\"alcie\"]", passwd)[0].contains("b.toml names alcie"));
        assert!(warnings("allowed_users = [\"root\"]", passwd)[0].contains("allow_root"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limits::Unit;
    use crate::domain::units::INFINITY;
    use proptest::prelude::*;

    fn account(uid: u32, name: &str) -> Account {
        Account {
            uid,
            gid: uid,
            name: name.to_owned(),
            home: "/".to_owned(),
            shell: String::new(),
            groups: Vec::new(),
        }
    }

    #[test]
    fn who_may_run() {
        let ok = |config: &Config, uid, name| check_user(config, &account(uid, name)).is_ok();
        let plain = Config::default();
        assert!(ok(&plain, 1000, "alice") && !ok(&plain, 999, "daemon") && !ok(&plain, 0, "root"));
        assert!(ok(&plain, 60_000, "zoe") && !ok(&plain, 61_184, "dynamic"));
        assert!(!ok(&plain, 65_534, "nobody"));
        let listed = Config {
            allowed_users: vec![
                UserRef::Name("alice".to_owned()),
                UserRef::Uid(33),
                UserRef::Uid(0),
            ],
            ..Config::default()
        };
        assert!(ok(&listed, 1000, "alice") && ok(&listed, 33, "www-data"));
        assert!(!ok(&listed, 1001, "bob") && !ok(&listed, 0, "root"));
        let root = Config {
            allow_root: true,
            ..Config::default()
        };
        assert!(ok(&root, 0, "root") && ok(&root, 1000, "alice"));
    }

    #[test]
    fn a_limit_above_its_ceiling_is_refused_with_both_values() {
        let ceilings = Limits {
            memory_max: Some(1 << 30),
            ..Limits::default()
        };
        let asked = Limits {
            memory_max: Some(2 << 30),
            ..Limits::default()
        };
        let refused = clamp(&asked, &ceilings);
        assert!(
            matches!(&refused, Err(r) if r.code == RefusalCode::LimitsExceeded
            && r.message.contains("memory-max=2G") && r.message.contains("ceiling of 1G")),
            "{refused:?}"
        );
        let infinite = Limits {
            memory_max: Some(INFINITY),
            ..Limits::default()
        };
        assert!(clamp(&infinite, &ceilings).is_err());
    }

    #[test]
    fn what_is_given_by_file_is_checked_again() {
        let check = |json: &str| {
            let payload = format!(r#"{{"command": ["true"], "inputs": {json}}}"#);
            let payload = serde_json::from_str(&payload).map_err(|e| e.to_string())?;
            check_payload(&payload).map_err(|r| r.message)
        };
        let key = |name: &str, path: &str| {
            check(&format!(
                r#"{{"credentials": [{{"name": "{name}", "path": "{path}"}}]}}"#
            ))
        };
        assert_eq!(key("key", "/srv/key"), Ok(()));
        assert!(key("../key", "/srv/key").is_err() && key("key", "srv/key").is_err());
        assert!(check(r#"{"environment_files": [{"path": "env"}]}"#).is_err());
    }

    #[test]
    fn defaults_below_a_ceiling_stay() {
        let ceilings = Limits {
            cpu_weight: Some(500),
            io_weight: Some(50),
            stop_timeout: Some(60_000_000),
            tasks_max: Some(64),
            ..Limits::default()
        };
        let limits = clamp(&Limits::default(), &ceilings);
        let expected = Limits {
            io_weight: Some(50),
            tasks_max: Some(64),
            ..Limits::default()
        };
        assert_eq!(limits, Ok(expected));
    }

    proptest! {
        #[test]
        fn nothing_granted_is_above_a_ceiling(asked in proptest::collection::vec(proptest::option::of(1u64..20_000_000), 9), most in proptest::collection::vec(proptest::option::of(1u64..20_000_000), 9)) {
            let make = |values: &[Option<u64>]| {
                let mut limits = Limits::default();
                for ((key, _), value) in KEYS.iter().zip(values) {
                    if let Some(v) = value {
                        let _ = limits.set(key, Value::Number(*v));
                    }
                }
                limits
            };
            let (asked, ceilings) = (make(&asked), make(&most));
            if let Ok(granted) = clamp(&asked, &ceilings) {
                prop_assert!(granted.above(&ceilings).is_none());
                prop_assert_eq!(granted.or(&asked), granted.clone());
                for (key, unit) in KEYS {
                    let has_default = unit == Unit::Weight || key == "stop-timeout";
                    if ceilings.number(key).is_some() && !has_default {
                        prop_assert!(granted.number(key).is_some(), "{}", key);
                    }
                }
            }
        }
    }
}
