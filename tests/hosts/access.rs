//! Who may do what, over the real bus with real polkit.

use crate::fixture::{Plan, Site};

/// Rows: verbs. Columns: root, the owner (in stratavore-users), another user of that group, a user of no group, an admin.
#[test]
fn the_matrix() {
    let site = Site::boot("matrix");
    site.root("useradd -m carol && useradd -m dave && usermod -aG stratavore-admins carol && usermod -aG stratavore-users dave").ok();
    let users = ["root", "alice", "dave", "bob", "carol"];
    let matrix: [(&str, [bool; 5]); 9] = [
        // Root runs nothing as root unless agent.toml says so.
        ("run p -- true", [false, true, true, false, true]),
        (
            "run --uid=alice p -- true",
            [true, true, false, false, true],
        ),
        ("freeze ID", [true, true, false, false, true]),
        ("thaw ID", [true, true, false, false, true]),
        ("set ID stop-timeout=5s", [true, true, false, false, true]),
        ("kill -s CONT ID", [true, true, false, false, true]),
        ("stop ID", [true, true, false, false, true]),
        ("project create x-USER", [true, false, false, false, true]),
        ("list", [true, true, true, true, true]),
    ];
    for (verb, may) in matrix {
        for (user, may) in users.iter().zip(may) {
            let id = site.run("-- sleep 1000");
            if verb.starts_with("thaw") {
                site.ctl("alice", &format!("freeze {id}")).ok();
            }
            let out = site.ctl(user, &verb.replace("ID", &id).replace("USER", user));
            if may {
                assert!(out.success(), "{user} may {verb}: {out}\n{}", site.log());
            } else {
                assert_eq!(out.code, 4, "{user} may not {verb}: {out}");
                assert!(
                    out.err().contains("org.stratavore1.") || out.err().contains("agent.toml"),
                    "names the right that is missing: {out}"
                );
            }
        }
        site.ctl("root", "stop --all").ok();
    }
    site.check();
}

/// Everybody sees that a runner is there; its command is the owner's and the viewers'.
#[test]
fn who_sees_the_command() {
    let site = Site::boot("seen");
    let id = site.run("--label token=hush -- sh -c 'true visible-only-to-some; exec sleep 1000'");
    let path = format!("/org/stratavore1/runner/{}", id.replace('-', "_"));
    for (user, sees) in [("root", true), ("alice", true), ("bob", false)] {
        for ask in [
            format!("stratavorectl --no-ask-password show -o json {id}"),
            "stratavorectl --no-ask-password list -o json".to_owned(),
            format!("busctl get-property org.stratavore1 {path} org.stratavore1.Runner Command"),
            "busctl call org.stratavore1 /org/stratavore1 org.freedesktop.DBus.ObjectManager GetManagedObjects".to_owned(),
        ] {
            let out = site.sh_as(user, &ask).ok();
            if !ask.contains("GetManagedObjects") {
                assert_eq!(out.out().contains("visible-only"), sees, "{user}: {ask}: {out}");
            }
            assert!(sees || !(out.out().contains("visible-only") || out.out().contains("hush")), "{user}: {ask}: {out}");
        }
    }
    site.clear();
}

/// Why a launch failed names the command or the folder: its launcher, its owner and viewers are told, everybody else
/// learns that it failed.
#[test]
fn who_sees_why_a_launch_failed() {
    let site = Site::boot("unseen");
    for flags in [
        "--name=hidden-a -- /opt/visible-only-to-some",
        "--name=hidden-b --working-directory=/srv/visible-only-to-some -- true",
    ] {
        let (name, _) = flags.trim_start_matches("--name=").split_once(' ').unwrap();
        let (own, command) = flags.split_once("-- ").unwrap();
        let out = site
            .ctl("alice", &format!("run {own} p -- {command}"))
            .code(1);
        assert!(
            out.err().contains("visible-only"),
            "the launcher is told: {out}"
        );
        for (user, sees) in [("root", true), ("alice", true), ("bob", false)] {
            let out = site.ctl(user, &format!("show -o json {name}")).ok();
            assert_eq!(out.out().contains("visible-only"), sees, "{user}: {out}");
            assert!(out.out().contains("launch-failed"), "{user}: {out}");
        }
        let out = site.ctl("bob", "list --all -o json").ok();
        assert!(!out.out().contains("visible-only"), "{out}");
    }
    for user in ["root", "alice", "bob"] {
        let out = site.ctl(user, "events -o json").ok();
        assert!(
            out.out().contains("launch-failed") && !out.out().contains("visible-only"),
            "{user}: {out}"
        );
    }
    site.check();
}

/// Root's agent.toml bounds the daemon, whatever it asks for.
#[test]
fn the_agents_own_rules() {
    let site = Site::with(Plan {
        name: "policy",
        agent_config: "allowed_users = [\"alice\"]\n[ceilings]\nruntime_max = \"1h\"\n",
        ..Plan::default()
    });
    site.run("-- true");
    let out = site.ctl("root", "run p -- true").code(4);
    assert!(out.err().contains("agent.toml"), "{out}");
    let out = site.ctl("root", "run --uid=bob p -- true").code(4);
    assert!(out.err().contains("agent.toml"), "{out}");
    let out = site.ctl("alice", "run --runtime-max=2h p -- true").code(1);
    assert!(out.err().contains("runtime-max"), "{out}");
    site.check();
}

/// The daemon's sandbox is as tight as it is said to be.
#[test]
fn the_units_are_sound() {
    let site = Site::boot("units");
    site.root("systemd-analyze verify /usr/lib/systemd/system/stratavored.service /usr/lib/systemd/system/stratavore-agent.service /usr/lib/systemd/system/stratavore-agent.socket /usr/lib/systemd/system/stratavore.slice").ok();
    site.root("systemd-analyze security --no-pager --threshold=12 stratavored.service")
        .ok();
    let status = site.root("systemctl status --no-pager stratavored").out();
    assert!(status.contains("0 live runners"), "{status}");
    assert_eq!(
        site.root(
            "stat -c '%U:%G %a' /var/lib/stratavore /var/lib/stratavore/exits /run/stratavore/shims"
        )
        .ok()
        .out(),
        "stratavore:stratavore 750\nroot:stratavore 750\nroot:root 700"
    );
    assert_eq!(
        site.root("stat -c '%U %a' /var/lib/stratavore/stratavore.db")
            .ok()
            .out(),
        "stratavore 600"
    );
}
