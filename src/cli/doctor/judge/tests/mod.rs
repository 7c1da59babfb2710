//! One healthy host, and what is said of each way it may be broken.

mod ground;
mod installed;
mod ours;
mod store;

use super::super::facts::*;
use super::super::{Finding, Level, status};
use super::{OURS, judge};
use crate::api::auth::ACTIONS;
use clap::Parser;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn modes(uid: u32, gid: u32, mode: u32) -> Found {
    Found::Modes(Modes { uid, gid, mode })
}

fn unit(properties: &[(&str, &str)]) -> Unit {
    Unit(
        properties
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    )
}

/// Nothing is wrong with it, as root sees it.
fn healthy() -> Facts {
    let up = [
        ("LoadState", "loaded"),
        ("ActiveState", "active"),
        ("UnitFileState", "enabled"),
        ("NRestarts", "0"),
    ];
    let folder = |path, daemons, group, mode| Folder {
        path,
        found: modes(
            if daemons { 990 } else { 0 },
            if group { 991 } else { 0 },
            mode,
        ),
        daemons,
        group,
        mode,
    };
    Facts {
        caller: Caller {
            uid: 0,
            name: "root".to_owned(),
            groups: Vec::new(),
        },
        version: "1.2.3".to_owned(),
        kernel: "6.12.1-amd64".to_owned(),
        machine_id: true,
        systemd: Systemd {
            booted: true,
            installed: Some("257 (257.1-1)".to_owned()),
            running: Some("257.1-1".to_owned()),
            container: String::new(),
        },
        cgroup: Cgroup {
            hierarchy: Hierarchy::Unified,
            root: words("cpuset cpu io memory pids"),
            slice: Some(words("cpu io memory pids")),
            kernel: ["cpu", "io", "memory", "pids"]
                .map(|n| (n.to_owned(), (false, true)))
                .into(),
        },
        bus: Bus {
            owned: true,
            activatable: true,
            call: Call::Answered,
            policies: vec!["/usr/share/dbus-1/system.d/org.stratavore1.conf".into()],
            daemon: Some(Daemon {
                version: "1.2.3".to_owned(),
                store: "ok".to_owned(),
                live: 3,
                notifications: "ok".to_owned(),
                ..Daemon::default()
            }),
            ..Bus::default()
        },
        polkit: Some(Polkit {
            actions: ACTIONS.map(str::to_owned).into(),
            rules: Some(true),
            granted: ACTIONS.map(str::to_owned).into(),
        }),
        units: Some(
            OURS.into_iter()
                .map(|name| (name.to_owned(), unit(&up)))
                .collect(),
        ),
        accounts: Accounts {
            daemon: Some((990, 991)),
            missing_groups: Vec::new(),
        },
        folders: vec![
            folder("/run/stratavore", false, false, 0o755),
            folder("/var/lib/stratavore", true, true, 0o750),
        ],
        socket: Socket {
            path: "/run/stratavore/agent.sock".into(),
            found: modes(0, 991, 0o660),
            connect: Some(Ok(())),
        },
        programs: Programs {
            running: Some(vec![("stratavored", false), ("stratavore-agent", false)]),
            shims: Some((3, 0)),
            config: Some(Told::Fine(String::new(), String::new())),
            agent_config: Some(Told::Fine(
                "Runners may be alice.".to_owned(),
                String::new(),
            )),
            store: Some(Told::Fine("s.db is sound.".to_owned(), String::new())),
        },
        records: Some(Records::default()),
        disks: vec![Disk {
            paths: vec![
                "/var/lib/stratavore".to_owned(),
                "/var/log/journal".to_owned(),
            ],
            bytes: 100 << 30,
            bytes_free: 50 << 30,
            inodes: 1_000_000,
            inodes_free: 900_000,
            read_only: false,
        }],
        journal: Journal {
            settings: Some([].into()),
            persistent_folder: true,
            catalog: Some(true),
        },
        clock: Clock {
            synchronised: Some(true),
            service: Some(true),
            jumped: Some(1),
        },
        swap: 0,
        user: false,
        no_session: None,
        lingers: None,
        state: "/var/lib/stratavore".into(),
        installed: Installed::Make,
    }
}

fn set(facts: &mut Facts, name: &str, property: &str, value: &str) {
    let units = facts.units.as_mut().unwrap();
    let unit = units.entry(name.to_owned()).or_default();
    unit.0.insert(property.to_owned(), value.to_owned());
}

/// What differs from a healthy host.
fn broken(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = healthy();
    change(&mut facts);
    judge(&facts)
        .into_iter()
        .filter(|f| f.level > Level::Ok)
        .collect()
}

/// Exactly one thing is said, at this level, with these words in sentence or command.
#[track_caller]
fn says(level: Level, check: &str, parts: &[&str], change: impl FnOnce(&mut Facts)) {
    let found = broken(change);
    let [finding] = found.as_slice() else {
        panic!("{found:#?}")
    };
    assert_eq!(
        (finding.level, finding.check.as_str()),
        (level, check),
        "{finding:?}"
    );
    let line = finding.line();
    if let Some(ours) = finding
        .mend
        .as_deref()
        .and_then(|m| m.strip_prefix("sudo stratavorectl"))
    {
        let words = ["stratavorectl"].into_iter().chain(ours.split_whitespace());
        assert!(
            crate::cli::args::Cli::try_parse_from(words).is_ok(),
            "{line}"
        );
    }
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

#[test]
fn nothing_is_wrong_with_a_healthy_host() {
    assert_eq!(broken(|_| {}), []);
    let all = judge(&healthy());
    assert_eq!(status(&all), 0);
    for finding in &all {
        assert!(finding.message.ends_with('.'), "{finding:?}");
        assert_eq!(finding.mend, None);
    }
}
