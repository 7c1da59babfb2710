//! Units, bus, polkit, programs and files of ours.

use super::super::super::Level;
use super::super::super::Level::{Note, Problem, Warning};
use super::super::super::facts::*;
use super::{broken, modes, says, set, words};

#[test]
fn units() {
    let d = "stratavored.service";
    says(
        Problem,
        d,
        &["masked", "systemctl unmask stratavored.service"],
        |f| set(f, d, "LoadState", "masked"),
    );
    says(Problem, d, &["not installed", "daemon-reload"], |f| {
        set(f, d, "LoadState", "not-found")
    });
    says(Problem, d, &["systemd-analyze verify"], |f| {
        set(f, d, "LoadState", "bad-setting")
    });
    says(
        Warning,
        d,
        &["changed on disk", "systemctl daemon-reload"],
        |f| set(f, d, "NeedDaemonReload", "yes"),
    );
    says(
        Warning,
        d,
        &["boots", "systemctl enable stratavored.service"],
        |f| set(f, d, "UnitFileState", "disabled"),
    );
    says(Warning, d, &["7 times"], |f| set(f, d, "NRestarts", "7"));
    says(Problem, d, &["again and again", "exit status 1"], |f| {
        for (k, v) in [
            ("ActiveState", "activating"),
            ("SubState", "auto-restart"),
            ("Result", "exit-code"),
            ("ExecMainStatus", "1"),
        ] {
            set(f, d, k, v);
        }
    });
    says(Warning, d, &["Waiting for the store"], |f| {
        set(f, d, "ActiveState", "activating");
        set(f, d, "StatusText", "Waiting for the store: disk full");
    });
    says(
        Problem,
        d,
        &["configuration is wrong", "systemctl start"],
        |f| {
            set(f, d, "ActiveState", "failed");
            set(f, d, "ExecMainStatus", "78");
        },
    );
    says(Problem, d, &["systemctl start stratavored.service"], |f| {
        set(f, d, "ActiveState", "inactive")
    });
    says(
        Note,
        "drop-ins stratavored.service",
        &["/etc/x/stratavored.service.d/a.conf", "systemctl cat"],
        |f| {
            set(
                f,
                d,
                "DropInPaths",
                "/usr/lib/systemd/system/service.d/10-timeout.conf /etc/x/stratavored.service.d/a.conf",
            );
        },
    );
    // Its socket starts it.
    assert_eq!(
        broken(|f| set(f, "stratavore-agent.service", "ActiveState", "inactive")),
        []
    );
    assert_eq!(
        broken(|f| set(f, "stratavore.slice", "ActiveState", "inactive")),
        []
    );
    says(Problem, "stratavore-agent.socket", &["not running"], |f| {
        set(f, "stratavore-agent.socket", "ActiveState", "inactive")
    });
    says(Problem, "units", &["does not answer"], |f| f.units = None);
}

#[test]
fn bus_and_daemon() {
    says(
        Problem,
        "bus policy",
        &["not installed", "make install"],
        |f| f.bus.policies.clear(),
    );
    says(Warning, "bus activation", &["reload dbus"], |f| {
        f.bus.activatable = false
    });
    let found = broken(|f| {
        f.bus.call = Call::Denied("Rejected send message".to_owned());
        f.bus.daemon = None;
    });
    assert_eq!(
        (found[0].level, found[0].check.as_str()),
        (Problem, "bus policy"),
        "{found:?}"
    );
    let found = broken(|f| {
        f.bus.call = Call::Nobody;
        f.bus.daemon = None;
        f.bus.may_own = Some(Err("not allowed to own".to_owned()));
    });
    assert!(
        found[0].message.contains("can't start") && found[1].message.contains("not on the bus"),
        "{found:?}"
    );
    says(Problem, "daemon", &["systemctl restart stratavored"], |f| {
        f.bus.call = Call::Silent;
        f.bus.daemon = None;
        f.bus.may_own = Some(Ok(()));
    });
    says(
        Warning,
        "notifications",
        &["stratavorectl notify list"],
        |f| {
            if let Some(daemon) = &mut f.bus.daemon {
                daemon.notifications = "failing".to_owned();
            }
        },
    );
    let daemon = |version: &str, store: &str| {
        Some(Daemon {
            version: version.to_owned(),
            store: store.to_owned(),
            live: 0,
            notifications: String::new(),
            ..Daemon::default()
        })
    };
    says(
        Warning,
        "daemon",
        &["1.2.2", "1.2.3", "systemctl restart stratavored"],
        |f| f.bus.daemon = daemon("1.2.2", "ok"),
    );
    says(Problem, "daemon", &["nothing can be launched"], |f| {
        f.bus.daemon = daemon("1.2.3", "down")
    });
    let old = &["nothing can be launched for now: not everything is taken over yet."];
    says(Warning, "daemon", old, |f| {
        f.bus.daemon = daemon("1.2.3", "degraded")
    });
    let why = &["for now: this host may not launch: x."];
    says(Warning, "daemon", why, |f| {
        f.bus.daemon = daemon("1.2.3", "degraded");
        let not_ready = vec!["this host may not launch: x".to_owned()];
        f.bus.daemon.as_mut().unwrap().not_ready = not_ready;
    });
    let away = &[
        "but the agent is away since then: nothing can be launched",
        "systemctl status stratavore-agent",
    ];
    says(Problem, "daemon", away, |f| {
        f.bus.daemon = daemon("1.2.3", "degraded");
        let said = "the agent is away since then".to_owned();
        f.bus.daemon.as_mut().unwrap().agent_away = Some(said);
    });
    let broker = |broker: &str, blocked: bool, parked: u64| Outbox {
        broker: broker.to_owned(),
        why: "a reason".to_owned(),
        blocked,
        pending: 2,
        parked,
        refused: 0,
        age: 7_500_000_000,
    };
    for (told, parts) in [
        (
            broker("down", false, 0),
            &[
                "is not reached (a reason)",
                "2 events wait, the oldest for 2h 5min.",
            ][..],
        ),
        (broker("down", true, 0), &["takes no events", "a reason"]),
        (
            broker("ok", false, 7),
            &["7 of this host's events", "outbox retry"],
        ),
    ] {
        says(Warning, "broker", parts, |f| {
            if let Some(daemon) = &mut f.bus.daemon {
                daemon.outbox = told.clone();
            }
        });
    }
    let audit = |audit: Audit| {
        move |f: &mut Facts| {
            if let Some(daemon) = &mut f.bus.daemon {
                daemon.audit = audit.clone();
            }
        }
    };
    let seen = |verdict: &str| Audit::Seen {
        verdict: verdict.to_owned(),
        message: "Entry 7 was changed.".to_owned(),
    };
    let parts = ["Entry 7 was changed", "audit verify"];
    says(Problem, "audit", &parts, audit(seen("changed")));
    let failed = Audit::Failed("it is away".to_owned());
    says(Warning, "audit", &["it is away"], audit(failed));
    says(Note, "audit", &["audit verify"], audit(Audit::Long));
    for fine in [seen("whole"), Audit::Kept, Audit::Unconfigured] {
        assert_eq!(broken(audit(fine)), []);
    }
    says(
        Warning,
        "bus limits",
        &["max_connections_per_user is 20", "256"],
        |f| {
            f.bus
                .limits
                .insert("max_connections_per_user".to_owned(), 20);
        },
    );
    assert_eq!(broken(|f| f.bus.broker = true), []);
}

#[test]
fn polkit_and_rights() {
    says(
        Problem,
        "polkit",
        &["org.stratavore1.view", "systemctl restart polkit"],
        |f| {
            f.polkit
                .as_mut()
                .unwrap()
                .actions
                .retain(|a| !a.ends_with("view"));
        },
    );
    says(Warning, "polkit rules", &["50-stratavore.rules"], |f| {
        f.polkit.as_mut().unwrap().rules = Some(false)
    });
    says(Warning, "polkit", &["not installed"], |f| f.polkit = None);
    says(Warning, "polkit", &["unmask"], |f| {
        f.polkit = None;
        set(f, "polkit.service", "LoadState", "masked");
    });
    let user = |groups: &str, granted: &[&str]| {
        let (groups, granted) = (
            words(groups),
            granted.iter().map(|g| (*g).to_owned()).collect(),
        );
        move |f: &mut Facts| {
            f.caller = Caller {
                uid: 1000,
                name: "alice".to_owned(),
                groups,
            };
            f.polkit.as_mut().unwrap().granted = granted;
        }
    };
    says(
        Note,
        "rights",
        &["usermod -aG stratavore-users alice"],
        user("alice audio", &[]),
    );
    says(
        Problem,
        "rights",
        &["not in force"],
        user("alice stratavore-users", &[]),
    );
    assert_eq!(
        broken(user("stratavore-users", &["org.stratavore1.launch"])),
        []
    );
}

#[test]
fn what_a_plain_user_does_not_see_is_said() {
    let found = broken(|f| {
        f.caller = Caller {
            uid: 1000,
            name: "alice".to_owned(),
            groups: words("stratavore-users"),
        };
        f.programs.running = None;
        f.programs.store = None;
        f.records = None;
        f.folders[1].found = Found::Hidden;
        f.polkit.as_mut().unwrap().rules = None;
        f.socket.connect = None;
    });
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(
        found
            .iter()
            .all(|f| f.level == Level::Note
                && f.mend.as_deref() == Some("sudo stratavorectl doctor")),
        "{found:#?}"
    );
}

#[test]
fn programs_and_files() {
    says(
        Warning,
        "programs",
        &["systemctl restart stratavore-agent"],
        |f| f.programs.running = Some(vec![("stratavored", false), ("stratavore-agent", true)]),
    );
    says(Note, "programs", &["Neither daemon nor agent runs"], |f| {
        f.programs.running = Some(Vec::new())
    });
    assert_eq!(
        broken(|f| f.programs.running = Some(vec![("stratavored", false)])),
        []
    );
    says(Note, "shims", &["2 of 3"], |f| {
        f.programs.shims = Some((3, 2))
    });
    says(Problem, "stratavored.toml", &["f.toml:3"], |f| {
        f.programs.config = Some(Told::Wrong("f.toml:3: unknown key.".to_owned()))
    });
    says(Warning, "stratavored.toml", &["amqps"], |f| {
        f.programs.config = Some(Told::Fine(String::new(), "Use amqps://.".to_owned()))
    });
    let reload = "systemctl reload-or-restart stratavore-agent";
    says(Problem, "agent.toml", &["a.toml:2", reload], |f| {
        f.programs.agent_config = Some(Told::Wrong("a.toml:2: x.".to_owned()))
    });
    says(Warning, "agent.toml", &["nothing can run", reload], |f| {
        f.programs.agent_config = Some(Told::Fine(
            "Runners may be x.\nwarning: so nothing can run.".to_owned(),
            String::new(),
        ));
    });
    says(
        Problem,
        "accounts",
        &["no group stratavore-users", "systemd-sysusers"],
        |f| f.accounts.missing_groups = vec!["stratavore-users"],
    );
    says(Problem, "accounts", &["no user stratavore"], |f| {
        f.accounts.daemon = None
    });
    says(
        Problem,
        "folders",
        &["chown stratavore:stratavore /var/lib/stratavore && chmod 750"],
        |f| f.folders[1].found = modes(0, 0, 0o755),
    );
    says(
        Problem,
        "folders",
        &["missing", "systemd-tmpfiles --create"],
        |f| f.folders[0].found = Found::Missing,
    );
    says(
        Problem,
        "agent socket",
        &["chown root:stratavore", "chmod 660"],
        |f| f.socket.found = modes(0, 0, 0o666),
    );
    says(
        Problem,
        "agent socket",
        &["Nobody listens", "restart stratavore-agent.socket"],
        |f| {
            f.socket.connect = Some(Err("Connection refused".to_owned()));
        },
    );
    says(Warning, "exit records", &["2 endings"], |f| {
        f.records = Some(Records {
            count: 2,
            oldest: 300,
        })
    });
    assert_eq!(
        broken(|f| f.records = Some(Records {
            count: 2,
            oldest: 3
        })),
        []
    );
}

#[test]
fn a_users_own() {
    let mine = |f: &mut Facts| {
        f.user = true;
        f.lingers = Some(true);
        f.polkit = None;
        f.bus.policies.clear();
    };
    assert_eq!(broken(mine), []);
    // No command looks at the system's files instead.
    for told in [Told::Wrong("f.toml:3: x.".to_owned()), Told::TooLong] {
        let found = broken(|f| {
            mine(f);
            f.programs.config = Some(told.clone());
            f.programs.store = Some(told.clone());
            f.journal.catalog = Some(false);
        });
        for mend in found.iter().filter_map(|f| f.mend.as_deref()) {
            assert!(
                mend.contains("--user") && !mend.contains("setpriv"),
                "{mend}"
            );
        }
    }
    says(Warning, "linger", &["loginctl enable-linger root"], |f| {
        mine(f);
        f.lingers = Some(false);
    });
    says(
        Problem,
        "stratavored.service",
        &["systemctl --user start stratavored.service"],
        |f| {
            mine(f);
            set(f, "stratavored.service", "ActiveState", "inactive");
        },
    );
    says(
        Warning,
        "cgroup io",
        &["Delegate=cpu memory pids io"],
        |f| {
            mine(f);
            f.cgroup.root.retain(|c| c != "io");
            f.cgroup.slice = None;
        },
    );
}
