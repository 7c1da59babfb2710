//! Who may do what, over the real bus with real polkit.

use crate::fixture::{Plan, SOON, Site};
use crate::support::wait_until;
use std::collections::BTreeSet;

/// Who asks. Root; alice owns the runners; dave is another user of stratavore-users; olga and vera are let in by rules of
/// root's; carol is of stratavore-admins; bob is of no group.
const PEOPLE: [&str; 7] = ["root", "alice", "dave", "olga", "vera", "carol", "bob"];

/// Roles are rules of polkit's. The last one is of one project alone.
const ROLES: &str = r#"polkit.addRule(function (action, subject) {
    var prefix = "org.stratavore1.";
    if (action.id.indexOf(prefix) !== 0) return polkit.Result.NOT_HANDLED;
    var verb = action.id.slice(prefix.length);
    var may = function (verbs) { return verbs.indexOf(verb) >= 0; };
    if (subject.user === "olga" && may(["view", "control-any", "manage-host"])) return polkit.Result.YES;
    if (subject.user === "vera" && may(["view"])) return polkit.Result.YES;
    if (subject.user === "pia" && action.lookup("project") === "web" &&
        may(["view", "launch", "control-any", "manage-projects", "manage-budgets"])) return polkit.Result.YES;
    return polkit.Result.NOT_HANDLED;
});
"#;

/// Whom a method lets in.
#[derive(Clone, Copy)]
enum May {
    Anybody,
    /// Root runs nothing as root unless agent.toml says so.
    LaunchAsThemselves,
    LaunchAsAlice,
    ViewAlices,
    ControlAlices,
    ReportAlices,
    ManageProjects,
    ManageBudgets,
    ManageHost,
    ReadAudit,
}

impl May {
    fn lets_in(self) -> &'static [&'static str] {
        match self {
            Self::Anybody => &PEOPLE,
            Self::LaunchAsThemselves => &["alice", "dave", "carol"],
            Self::LaunchAsAlice => &["root", "alice", "carol"],
            Self::ViewAlices => &["root", "alice", "dave", "olga", "vera", "carol"],
            Self::ControlAlices => &["root", "alice", "olga", "carol"],
            Self::ReportAlices => &["root", "alice", "carol"],
            Self::ManageHost => &["root", "olga", "carol"],
            Self::ManageProjects | Self::ManageBudgets | Self::ReadAudit => &["root", "carol"],
        }
    }
}

/// Every method and a call of it: `ID` is a runner of alice's, `USER` who asks. In this order, as the last ones leave nothing to
/// control.
const CALLS: [(&str, &str, May); 46] = [
    ("Launch", "sasa{sv} p 1 true 0", May::LaunchAsThemselves),
    (
        "Launch",
        "sasa{sv} p 1 true 1 uid s alice",
        May::LaunchAsAlice,
    ),
    ("Explain", "sasa{sv} p 1 true 0", May::Anybody),
    ("Describe", "s ID", May::Anybody),
    ("GetRunner", "s ID", May::Anybody),
    ("ListRunners", "a{sv} 0", May::Anybody),
    ("ListProjects", "", May::Anybody),
    ("ListHolds", "", May::Anybody),
    ("ListHosts", "", May::Anybody),
    ("ListBudgets", "", May::Anybody),
    ("ListEvents", "tua{sv} 0 0 0", May::Anybody),
    ("RankHosts", "a{sv} 0", May::Anybody),
    ("DescribeFleet", "", May::Anybody),
    ("DescribeOutbox", "a{sv} 0", May::Anybody),
    ("ListOutbox", "a{sv} 0", May::Anybody),
    ("Logs", "sa{sv} ID 0", May::ViewAlices),
    ("Kill", "sia{sv} ID 18 0", May::ControlAlices),
    ("Freeze", "sa{sv} ID 0", May::ControlAlices),
    ("Thaw", "sa{sv} ID 0", May::ControlAlices),
    (
        "SetLimits",
        "sa{sv}a{sv} ID 1 stop-timeout s 5s 0",
        May::ControlAlices,
    ),
    ("Runner.Kill", "ia{sv} 18 0", May::ControlAlices),
    ("Runner.Freeze", "a{sv} 0", May::ControlAlices),
    ("Runner.Thaw", "a{sv} 0", May::ControlAlices),
    (
        "Runner.SetLimits",
        "a{sv}a{sv} 1 stop-timeout s 6s 0",
        May::ControlAlices,
    ),
    (
        "ReportUsage",
        "sa{sv}a{sv} ID 1 input t 1 0",
        May::ReportAlices,
    ),
    ("CreateProject", "sa{sv} x-USER 0", May::ManageProjects),
    (
        "SetProject",
        "sa{sv} p 1 description s x",
        May::ManageProjects,
    ),
    ("RemoveProject", "sa{sv} x-USER 0", May::ManageProjects),
    ("SetHold", "sa{sv} label:x=USER 0", May::ManageBudgets),
    ("ReleaseHold", "sa{sv} label:x=USER 0", May::ManageBudgets),
    (
        "SetBudget",
        "ssa{sv}a{sv} project:p day 1 limit s 1G 0",
        May::ManageBudgets,
    ),
    (
        "RemoveBudget",
        "ssa{sv} project:p day 0",
        May::ManageBudgets,
    ),
    ("CordonHost", "sa{sv} matrix 0", May::ManageHost),
    ("UncordonHost", "sa{sv} matrix 0", May::ManageHost),
    ("ForgetHost", "sa{sv} matrix 0", May::ManageHost),
    (
        "SetFleet",
        "a{sv} 1 max-runners s infinity",
        May::ManageHost,
    ),
    ("ListNotifications", "", May::ManageHost),
    ("TestNotification", "sa{sv} none 0", May::ManageHost),
    ("RetryOutbox", "a{sv} 0", May::ManageHost),
    ("Reconcile", "a{sv} 1 dry-run b true", May::ManageHost),
    ("VerifyAudit", "sa{sv} matrix 0", May::ReadAudit),
    ("ExportAudit", "sa{sv} matrix 0", May::ReadAudit),
    ("Stop", "sa{sv} ID 0", May::ControlAlices),
    ("Runner.Stop", "a{sv} 0", May::ControlAlices),
    // Stops all there is.
    ("DrainHost", "sa{sv} matrix 0", May::ManageHost),
    ("UncordonHost", "sa{sv} matrix 0", May::ManageHost),
];

/// The methods that are really there, on the object of a runner with `Runner.` before them.
fn served(site: &Site, path: &str) -> BTreeSet<String> {
    let xml = site
        .root(&format!(
            "busctl introspect --xml-interface org.stratavore1 {path}"
        ))
        .ok()
        .out();
    let mut out = BTreeSet::new();
    for interface in xml.split("<interface name=\"org.stratavore1.").skip(1) {
        let (name, rest) = interface.split_once('"').unwrap();
        let rest = rest.split("</interface>").next().unwrap();
        for method in rest.split("<method name=\"").skip(1) {
            let method = method.split('"').next().unwrap();
            out.insert(match name {
                "Manager" => method.to_owned(),
                other => format!("{other}.{method}"),
            });
        }
    }
    out
}

fn path_of(id: &str) -> String {
    format!("/org/stratavore1/runner/{}", id.replace('-', "_"))
}

/// The answer to somebody who has not the right.
fn denied(said: &str) -> bool {
    let said = said.to_lowercase();
    [
        "polkit action",
        "not permitted",
        "interactive auth",
        "agent.toml",
    ]
    .iter()
    .any(|w| said.contains(w))
}

/// Every method that is served × everybody, over the real bus with real polkit, the daemon in the shipped sandbox.
#[test]
fn the_matrix() {
    let site = Site::boot("matrix");
    site.root("for u in dave olga vera carol; do useradd -m $u; done; usermod -aG stratavore-admins carol; usermod -aG stratavore-users dave").ok();
    site.host
        .write("/etc/polkit-1/rules.d/40-roles.rules", ROLES);
    site.root("systemctl restart polkit").ok();

    let id = site.run("-- sleep 1000");
    let mut all = served(&site, "/org/stratavore1");
    all.extend(served(&site, &path_of(&id)));
    all.extend(served(&site, "/org/stratavore1/project/p"));
    let rows: BTreeSet<String> = CALLS.iter().map(|(m, ..)| (*m).to_owned()).collect();
    assert_eq!(all, rows, "each method that is served needs a row here");
    site.ctl("root", "stop --all").ok();

    let mut wrong = Vec::new();
    for user in PEOPLE {
        // One for Manager.Stop and one for Runner.Stop.
        let (first, second) = (site.run("-- sleep 1000"), site.run("-- sleep 1000"));
        let script: String = CALLS
            .iter()
            .map(|(method, words, _)| {
                let (interface, member, path) = match method.strip_prefix("Runner.") {
                    Some(member) => ("Runner", member, path_of(&second)),
                    None => ("Manager", *method, "/org/stratavore1".to_owned()),
                };
                let words = words.replace("ID", &first).replace("USER", user);
                let quoted: String = words.split(' ').map(|w| format!("'{w}' ")).collect();
                let words = if words.is_empty() { "" } else { &quoted };
                format!("printf '\n%s ' {method}; busctl --allow-interactive-authorization=no call -- org.stratavore1 {path} org.stratavore1.{interface} {member} {words} 2>&1 >/dev/null | tr '\n' ' '\n")
            })
            .collect();
        let out = site.sh_as(user, &script).out();
        let lines: Vec<&str> = out.lines().filter(|l| !l.is_empty()).collect();
        assert_eq!(lines.len(), CALLS.len(), "{user}: {out}");
        for ((method, words, may), line) in CALLS.iter().zip(lines) {
            let said = line
                .strip_prefix(method)
                .unwrap_or_else(|| panic!("{method}: {line}"));
            if denied(said) == may.lets_in().contains(&user) {
                wrong.push(format!("{user}: {method} {words}: {said}"));
            }
            // Nobody is kept out by a call that is wrong in itself.
            if said.contains("Too few")
                || said.contains("Unknown method")
                || said.contains("InvalidArgs")
                || said.contains("signature")
            {
                wrong.push(format!("{user}: {method} {words} is no call: {said}"));
            }
        }
        site.ctl("root", "host uncordon matrix").ok();
        site.ctl("root", "stop --all").ok();
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", site.log());
    site.check();
}

/// polkit's rules are told the project, so that a role may be of one project alone.
#[test]
fn a_role_may_be_of_one_project() {
    let site = Site::boot("roles");
    site.root("useradd -m pia").ok();
    site.host
        .write("/etc/polkit-1/rules.d/40-roles.rules", ROLES);
    site.root("systemctl restart polkit").ok();
    site.ctl("root", "project create web").ok();
    for (project, may) in [("web", true), ("p", false)] {
        let id = site
            .ctl(
                "alice",
                &format!("run {project} -- sh -c 'true visible-only-to-some; exec sleep 1000'"),
            )
            .ok()
            .out();
        for verb in [
            format!("run {project} -- true"),
            format!("project set {project} --description=x"),
            format!("hold set --project {project}"),
            format!("hold release --project {project}"),
            format!("freeze {id}"),
            format!("thaw {id}"),
            format!("logs {id}"),
            format!("stop {id}"),
        ] {
            let out = site.ctl("pia", &verb);
            assert_eq!(
                out.code,
                if may { 0 } else { 4 },
                "{verb}: {out}\n{}",
                site.log()
            );
        }
        let shown = site.ctl("pia", &format!("show -o json {id}")).ok();
        assert_eq!(shown.out().contains("visible-only"), may, "{shown}");
        site.ctl("pia", "host cordon roles").code(4);
        site.ctl("pia", "project create new").code(4);
    }
    site.ctl("root", "stop --all").ok();
    site.check();
}

/// Without polkit there are root and owners; who needed polkit is told why not.
#[test]
fn without_polkit_there_are_root_and_owners() {
    let site = Site::boot("nopolkit");
    let (id, other) = (site.run("-- sleep 1000"), site.run("-- sleep 1000"));
    site.root("systemctl mask --runtime --now polkit").ok();
    for verb in [
        format!("freeze {id}"),
        format!("thaw {id}"),
        format!("stop {id}"),
    ] {
        site.ctl("alice", &verb).ok();
    }
    for (user, verb) in [
        ("alice", "run p -- true".to_owned()),
        ("bob", format!("stop {other}")),
        ("alice", "project create x".to_owned()),
    ] {
        let out = site.ctl(user, &verb).code(4);
        assert!(out.err().contains("polkit can't be asked"), "{out}");
    }
    site.ctl("bob", "list").ok();
    site.ctl("root", "run --uid=alice --wait p -- true").ok();
    site.ctl("root", "project create x").ok();
    let told = site.ctl("root", "doctor");
    assert!(
        told.out().contains("polkit") && told.out().contains("owners"),
        "{told}"
    );
    site.ctl("root", &format!("stop {other}")).ok();
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
        let events: Vec<serde_json::Value> = serde_json::from_str(&out.out()).unwrap();
        events.iter().for_each(crate::schema::shown);
    }
    site.check();
}

/// Labels of others are not searched, and keep nobody from finding the own.
#[test]
fn who_finds_labels() {
    let site = Site::boot("labels");
    let own = site
        .ctl("root", "run --uid=bob --label t=x p -- sleep 1000")
        .ok()
        .out();
    for _ in 0..3 {
        site.run("--label t=x -- sleep 1000");
    }
    for limit in ["", "--limit=1", "--all"] {
        let out = site
            .ctl("bob", &format!("list -q --label t=x {limit}"))
            .ok();
        assert_eq!(out.out(), own, "{limit}: {out}");
    }
    assert_eq!(
        site.ctl("alice", "list -q --label t=x")
            .ok()
            .out()
            .lines()
            .count(),
        4
    );
    site.clear();
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

/// Secrets pass through daemon and agent; a crash of theirs leaves nothing of it on the disk, nor does it end a runner.
#[test]
fn a_crash_leaves_no_core() {
    let site = Site::boot("nocore");
    let id = site.run("-- sleep 1000");
    // This host does leave cores where nothing speaks against it.
    site.root("systemd-run --quiet --unit=control -p LimitCORE=infinity -p WorkingDirectory=/run sleep 1000").ok();
    // The agent's unit has no limit, as its runners would have it, too.
    let unit = "/run/systemd/system/stratavore-agent.service.d";
    site.root(&format!("mkdir -p {unit} && printf '[Service]\\nLimitCORE=infinity\\nWorkingDirectory=/run\\n' >{unit}/core.conf && systemctl daemon-reload && systemctl restart stratavore-agent")).ok();
    for (unit, cores) in [
        ("control", true),
        ("stratavore-agent", false),
        ("stratavored", false),
    ] {
        site.root(&format!(
            "systemctl kill --signal=ABRT --kill-whom=main {unit}"
        ))
        .ok();
        let exited = || {
            let lines = site.root(&format!(
                "journalctl --no-pager -o cat -u {unit} --grep 'Main process exited'"
            ));
            lines.out()
        };
        wait_until("it has crashed", SOON, || {
            exited().contains("status=6/ABRT")
        });
        assert_eq!(
            exited().contains("code=dumped"),
            cores,
            "{unit}: {}",
            exited()
        );
    }
    site.wait_up();
    site.wait_met();
    assert_eq!(site.show(&id)["state"], "running");
    site.clear();
}

/// The daemon's sandbox is as tight as it is said to be.
#[test]
fn the_units_are_sound() {
    let site = Site::boot("units");
    site.root("systemd-analyze verify /usr/lib/systemd/system/stratavored.service /usr/lib/systemd/system/stratavore-agent.service /usr/lib/systemd/system/stratavore-agent.socket /usr/lib/systemd/system/stratavore.slice").ok();
    site.root("systemd-analyze security --no-pager --threshold=12 stratavored.service")
        .ok();
    // What systemd is told; a host in namespaces may not be let to make a process safer.
    for (unit, score) in [("stratavored", "-500"), ("stratavore-agent", "-900")] {
        for (key, value) in [("OOMScoreAdjust", score), ("ManagedOOMPreference", "omit")] {
            let told = site.root(&format!("systemctl show -P {key} {unit}")).ok();
            assert_eq!(told.out(), value, "{unit}: {key}");
        }
    }
    // Of root's capabilities the agent has kept two: to signal (5), and to see cgroups behind hidepid= (19).
    let kept = site.root("grep -E '^Cap(Prm|Eff|Inh|Amb)' /proc/$(systemctl show -P MainPID stratavore-agent)/status").ok().out();
    let two = format!("{:016x}", 1u64 << 5 | 1 << 19);
    for set in ["CapPrm", "CapEff"] {
        assert!(kept.contains(&format!("{set}:\t{two}")), "{kept}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert!(
            kept.contains(&format!("{set}:\t0000000000000000")),
            "{kept}"
        );
    }
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
