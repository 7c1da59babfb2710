//! What the NixOS module makes, on a real systemd and with real polkit: its drop-ins and rules are those of
//! `tests/nix`, which holds them against the module.

use crate::fixture::{SOON, Site};
use crate::support::wait_until;
use std::collections::BTreeMap;

/// The shipped units and what the module adds to each.
const UNITS: [(&str, &str, &str); 5] = [
    (
        "stratavored.service",
        include_str!("../../systemd/stratavored.service"),
        include_str!("../nix/drop-ins/stratavored.service.conf"),
    ),
    (
        "stratavore-agent.service",
        include_str!("../../systemd/stratavore-agent.service"),
        include_str!("../nix/drop-ins/stratavore-agent.service.conf"),
    ),
    (
        "stratavore-agent.socket",
        include_str!("../../systemd/stratavore-agent.socket"),
        include_str!("../nix/drop-ins/stratavore-agent.socket.conf"),
    ),
    (
        "stratavore-apply.service",
        include_str!("../../systemd/stratavore-apply.service"),
        include_str!("../nix/drop-ins/stratavore-apply.service.conf"),
    ),
    (
        "stratavore.slice",
        include_str!("../../systemd/stratavore.slice"),
        include_str!("../nix/drop-ins/stratavore.slice.conf"),
    ),
];

/// A system's units below /etc/systemd/system: each with its drop-in behind it.
type Generation = BTreeMap<&'static str, String>;

/// The system with the programs in this folder; the settings of daemon and agent and what is declared have these marks.
fn generation(programs: &str, [daemon, agent, declared]: [&str; 3]) -> Generation {
    let unit = |(name, shipped, added): (&'static str, &str, &str)| {
        let trigger = match name {
            "stratavored.service" => daemon,
            "stratavore-apply.service" => declared,
            _ => agent,
        };
        let shipped = shipped
            .replace("/usr/bin/", &format!("{programs}/bin/"))
            .replace("/usr/libexec/", &format!("{programs}/libexec/"));
        (name, shipped + &added.replace("@TRIGGER@", trigger))
    };
    UNITS.into_iter().map(unit).collect()
}

/// As NixOS' switch-to-configuration goes about it: it stops what is gone, reloads where nothing but a reload trigger
/// has changed, restarts what has changed otherwise, and leaves sockets and slices to daemon-reload.
fn switch(site: &Site, from: &Generation, to: &Generation) {
    let (mut stop, mut reload, mut restart) = (Vec::new(), Vec::new(), Vec::new());
    for (name, old) in from {
        let without = |text: &str| -> String {
            let kept = text
                .lines()
                .filter(|l| !l.starts_with("X-Reload-Triggers="));
            kept.map(|line| format!("{line}\n")).collect()
        };
        match to.get(name) {
            None if old.contains("X-StopOnRemoval=false") => {}
            None => stop.push(*name),
            Some(new) if new == old || !name.ends_with(".service") => {}
            Some(new) if without(new) == without(old) => reload.push(*name),
            Some(new) => {
                assert!(
                    new.contains("X-StopIfChanged=false"),
                    "{name} would be stopped and started, its socket with it"
                );
                restart.push(*name);
            }
        }
    }
    let run = |verb: &str, units: &[&str]| {
        if !units.is_empty() {
            site.root(&format!("systemctl {verb} {}", units.join(" ")))
                .ok();
        }
    };
    run("stop", &stop);
    let folder = site.host.path("/etc/systemd/system");
    for name in from.keys() {
        std::fs::remove_file(folder.join(name)).ok();
    }
    for (name, text) in to {
        std::fs::write(folder.join(name), text).unwrap();
    }
    run("daemon-reload", &[""]);
    run("reload", &reload);
    run("restart", &restart);
    if to.contains_key("stratavored.service") {
        run(
            "start",
            &[
                "stratavore-agent.socket",
                "stratavored.service",
                "stratavore-apply.service",
            ],
        );
    }
}

#[test]
fn a_switch_leaves_runners_alone() {
    let site = Site::boot("switch");
    // Two places with the programs, and none where the shipped units look.
    site.root(
        "systemctl stop stratavored stratavore-agent.socket stratavore-agent &&
         for g in 1 2; do mkdir -p /opt/$g/bin /opt/$g/libexec && cp /usr/bin/stratavore* /opt/$g/bin && cp -r /usr/libexec/stratavore /opt/$g/libexec; done &&
         rm -r /usr/lib/systemd/system/stratavore* /usr/libexec/stratavore && install -d -m 777 /srv",
    )
    .ok();
    let none = Generation::new();
    let first = generation("/opt/1", ["a", "a", "a"]);
    switch(&site, &none, &first);
    site.wait_up();
    site.wait_met();
    let id = site.run("--name long -- sh -c 'echo x >>/srv/started; exec sleep 1000'");
    wait_until("it runs", SOON, || site.scopes().contains(&id));
    let inside =
        format!("cat /sys/fs/cgroup/stratavore.slice/*/stratavore-{id}.scope/cgroup.procs");
    let procs = site.root(&inside).ok().out();
    let untouched = || {
        assert_eq!(site.root(&inside).ok().out(), procs, "{}", site.log());
        assert_eq!(site.show(&id)["state"], "running");
    };
    let main = |unit: &str| site.main_pid(unit);
    let program = |unit: &str| {
        let pid = main(unit);
        site.root(&format!("readlink /proc/{pid}/exe")).ok().out()
    };
    untouched();

    // Other bounds: the agent reads them and neither is restarted.
    let (daemon, agent) = (main("stratavored"), main("stratavore-agent"));
    let bounded = generation("/opt/1", ["a", "b", "a"]);
    site.root("mkdir -p /etc/stratavore && echo 'allowed_users = [\"alice\"]' >/etc/stratavore/agent.toml")
        .ok();
    switch(&site, &first, &bounded);
    assert_eq!(
        (main("stratavored"), main("stratavore-agent")),
        (daemon, agent)
    );
    wait_until("the agent has read them", SOON, || {
        site.ctl("root", "run --uid=bob p -- true").code == 4
    });
    untouched();

    // Other settings: the daemon alone.
    let set = generation("/opt/1", ["b", "b", "a"]);
    switch(&site, &bounded, &set);
    site.wait_up();
    assert_ne!(main("stratavored"), daemon);
    assert_eq!(main("stratavore-agent"), agent);
    untouched();

    // Something is declared: it is applied, and daemon and agent go on.
    let (daemon, agent) = (main("stratavored"), main("stratavore-agent"));
    let declares = generation("/opt/1", ["b", "b", "b"]);
    site.host.write(
        "/etc/stratavore/declared.toml",
        "[projects.declared]\nmax_runners = 3\n",
    );
    switch(&site, &set, &declares);
    let diff = site.ctl("alice", "diff").ok();
    assert!(diff.err().contains("All is as"), "{diff}");
    site.ctl("root", "project show declared").ok();
    // And something else.
    site.host
        .write("/etc/stratavore/declared.toml", "[projects.declared]\n");
    site.ctl("alice", "diff").code(6);
    let more = generation("/opt/1", ["b", "b", "c"]);
    switch(&site, &declares, &more);
    site.ctl("alice", "diff").code(0);
    assert_eq!(
        (main("stratavored"), main("stratavore-agent")),
        (daemon, agent)
    );
    untouched();

    // Other programs.
    let second = generation("/opt/2", ["b", "b", "b"]);
    switch(&site, &more, &second);
    site.wait_up();
    site.wait_met();
    site.root("systemctl is-active stratavore-apply").ok();
    assert_eq!(program("stratavored"), "/opt/2/bin/stratavored");
    assert_eq!(
        program("stratavore-agent"),
        "/opt/2/libexec/stratavore/stratavore-agent"
    );
    untouched();

    // Without the module nobody looks after the runner, and it goes on.
    switch(&site, &second, &none);
    for unit in [
        "stratavored.service",
        "stratavore-agent.service",
        "stratavore-agent.socket",
        "stratavore-apply.service",
    ] {
        site.root(&format!("! systemctl is-active {unit}")).ok();
    }
    assert_eq!(site.root(&inside).ok().out(), procs);

    // A rollback takes it over again.
    switch(&site, &none, &first);
    site.wait_up();
    site.wait_met();
    untouched();
    site.ctl("alice", &format!("stop {id}")).ok();
    assert_eq!(site.cause(&id), "stopped");
    assert_eq!(site.file("/srv/started"), "x\n", "no command ran twice");
    site.check();
}

/// The rules of `access`, with the roles of tests/nix/everything.nix.
#[test]
fn access_is_polkits() {
    let site = Site::boot("roles");
    site.root(
        "groupadd web-team && groupadd -f wheel &&
         for u in adam bert olga vic wilma; do useradd -m $u; done &&
         usermod -aG web-team bert && usermod -aG wheel wilma",
    )
    .ok();
    let rules = "/etc/polkit-1/rules.d/40-stratavore-access.rules";
    std::fs::write(site.host.path(rules), include_str!("../nix/access.rules")).unwrap();
    site.root("systemctl restart polkit && stratavorectl project create web")
        .ok();
    let users = ["adam", "bert", "olga", "vic", "wilma", "bob"];
    // In `p` the roles of `web` count nothing.
    let matrix: [(&str, &str, [bool; 6]); 10] = [
        (
            "web",
            "run PROJECT -- true",
            [true, true, true, false, true, false],
        ),
        (
            "p",
            "run PROJECT -- true",
            [false, false, true, false, true, false],
        ),
        (
            "web",
            "run --uid=alice PROJECT -- true",
            [false, false, false, false, true, false],
        ),
        ("web", "freeze ID", [true, true, true, false, true, false]),
        ("p", "stop ID", [false, false, true, false, true, false]),
        (
            "web",
            "project set PROJECT --max-runners 50",
            [true, false, false, false, true, false],
        ),
        (
            "p",
            "project set PROJECT --max-runners 50",
            [false, false, false, false, true, false],
        ),
        (
            "web",
            "hold set --project PROJECT --until +1min",
            [true, false, false, false, true, false],
        ),
        (
            "p",
            "hold set --fleet --until +1min",
            [false, false, false, false, true, false],
        ),
        ("p", "reconcile", [false, false, false, false, true, false]),
    ];
    for (project, verb, may) in matrix {
        for (user, may) in users.iter().zip(may) {
            let id = site
                .ctl("alice", &format!("run {project} -- sleep 1000"))
                .ok()
                .out();
            let asked = verb.replace("ID", &id).replace("PROJECT", project);
            let out = site.ctl(user, &asked);
            assert_eq!(
                out.code,
                if may { 0 } else { 4 },
                "{user}: {asked}: {out}\n{}",
                site.log()
            );
            site.root("stratavorectl hold release --project web; stratavorectl hold release --fleet; stratavorectl stop --all; true")
                .ok();
        }
    }
    let id = site
        .ctl("alice", "run web -- sh -c 'true visible-only; sleep 1000'")
        .ok()
        .out();
    for (user, sees) in users.iter().zip([true, true, true, true, true, false]) {
        let out = site.ctl(user, &format!("show -o json {id}")).ok();
        assert_eq!(out.out().contains("visible-only"), sees, "{user}: {out}");
    }
    site.clear();
}

/// A credential of the module goes before the shipped one of its name, and its path is one whatever is in it.
#[test]
fn credentials_come_by_path() {
    let site = Site::boot("secret");
    site.root("! stratavorectl audit verify").ok();
    // As tests/nix/check.py has it of tests/nix/everything.nix.
    let line = "LoadCredential=audit-key:/run/secrets/audit %%i";
    site.root(&format!(
        "mkdir -m 700 /run/secrets && head -c 32 /dev/urandom >'/run/secrets/audit %i' &&
         printf '%s\\n' '[Service]' '{line}' >/etc/systemd/system/stratavored.service.d/overrides.conf &&
         systemctl daemon-reload && systemctl restart stratavored"
    ))
    .ok();
    site.wait_up();
    site.root("stratavorectl audit verify").ok();
    site.check();
}
