//! `--user`: the same on a user's own systemd and session bus, without root.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{Host, Output, Root, project, wait_for, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;

/// Alice's own Stratavore on a site. She lingers from the first call on.
struct Mine<'a>(&'a Site);

const STATE: &str = "/home/alice/.local/state/stratavore";
const MANAGER: &str = "/sys/fs/cgroup/user.slice/user-2001.slice/user@2001.service";

impl<'a> Mine<'a> {
    /// Her daemon comes up by the first call on her bus, and has the project `p`.
    fn of(site: &'a Site) -> Self {
        let mine = Mine(site);
        mine.ctl("project create p").ok();
        mine
    }

    fn sh(&self, script: &str) -> Output {
        self.0
            .host
            .sh_user_manager("alice", &format!("cd; {script}"))
    }

    fn ctl(&self, arguments: &str) -> Output {
        self.sh(&format!("stratavorectl --user {arguments}"))
    }

    #[track_caller]
    fn run(&self, command: &str) -> String {
        self.ctl(&format!("run p -- {command}")).ok().out()
    }

    #[track_caller]
    fn show(&self, id: &str) -> Value {
        let out = self.ctl(&format!("show -o json {id}")).ok();
        serde_json::from_str(&out.out()).unwrap_or_else(|e| panic!("{e}: {out}"))
    }

    #[track_caller]
    fn exit(&self, id: &str) -> Value {
        wait_for(&format!("{id} ends"), SOON, || {
            let mut shown = self.show(id);
            match shown["state"] == "ended" {
                true => Ok(shown["exit"].take()),
                false => Err(format!("{shown}\n{}", self.log())),
            }
        })
    }

    fn log(&self) -> String {
        let log = "journalctl --no-pager -b -n 60 _UID=2001 + UNIT=user@2001.service";
        self.0.root(log).out()
    }

    /// Ids whose scope below her manager has processes.
    fn scopes(&self) -> BTreeSet<String> {
        let find =
            format!("grep -lx 'populated 1' {MANAGER}/stratavore.slice/*/*.scope/cgroup.events");
        let found = self.0.root(&find).out();
        let id = |line: &str| {
            Some(
                line.split_once("/stratavore-0")?
                    .1
                    .split_once(".scope")?
                    .0
                    .to_owned(),
            )
        };
        found
            .lines()
            .filter_map(id)
            .map(|rest| format!("0{rest}"))
            .collect()
    }

    fn main_pid(&self, unit: &str) -> u32 {
        let shown = self.sh(&format!("systemctl --user show -p MainPID --value {unit}"));
        shown.out().parse().unwrap_or(0)
    }

    #[track_caller]
    fn kill9(&self, unit: &str) {
        let old = self.main_pid(unit);
        assert_ne!(old, 0, "{unit} does not run: {}", self.log());
        self.sh(&format!("kill -9 {old}")).ok();
        wait_until("it is started again", SOON, || {
            ![0, old].contains(&self.main_pid(unit))
        });
        self.wait_up();
    }

    fn wait_up(&self) {
        wait_for("alice's daemon is up", SOON, || {
            let out = self.ctl("-q status");
            match out.success() {
                true => Ok(()),
                false => Err(format!("{out}\n{}", self.log())),
            }
        });
    }

    /// Nothing lives, and nothing is left over.
    #[track_caller]
    fn clear(&self) {
        if !self.scopes().is_empty() {
            self.ctl("stop --all").ok();
        }
        wait_for("nothing is left over", SOON, || {
            let left = self.0.root(&format!("ls -A {STATE}/exits /run/user/2001/stratavore/shims /run/user/2001/credentials/stratavore; pgrep -u alice -l stratavore-shim; true")).out();
            let left: Vec<&str> = left
                .lines()
                .filter(|l| !l.is_empty() && !l.ends_with(':') && *l != ".fence")
                .collect();
            match left.is_empty() && self.scopes().is_empty() {
                true => Ok(()),
                false => Err(format!("{left:?}\n{}", self.log())),
            }
        });
    }
}

fn life(name: &'static str, root: Root) {
    let site = Site::with(Plan {
        name,
        root,
        ..Plan::default()
    });
    let mine = Mine::of(&site);
    let status = mine.ctl("status").ok().out();
    assert!(status.contains("you linger"), "{status}");

    let id = mine.run("sh -c 'cat /proc/self/oom_score_adj >score; echo $XDG_RUNTIME_DIR >runtime; exec sleep 1000'");
    assert_eq!(mine.scopes(), BTreeSet::from([id.clone()]));
    let pid = site
        .root(&format!(
            "head -1 {MANAGER}/stratavore.slice/stratavore-p.slice/*.scope/cgroup.procs"
        ))
        .out();
    let shim: i32 = site
        .file(&format!("/proc/{pid}/oom_score_adj"))
        .trim()
        .parse()
        .unwrap();
    let file = |name: &str| site.file(&format!("/home/alice/{name}")).trim().to_owned();
    wait_until("the runner has written its files", SOON, || {
        !file("runtime").is_empty()
    });
    let score: i32 = file("score").parse().unwrap();
    assert!(
        score == shim + 100,
        "the kernel takes the runner ({score}) before its shim ({shim})"
    );
    assert_eq!(file("runtime"), "/run/user/2001");

    mine.ctl(&format!("freeze {id}")).ok();
    assert_eq!(mine.show(&id)["state"], "frozen");
    mine.ctl(&format!("thaw {id}")).ok();
    mine.ctl(&format!("set {id} stop-timeout=5s")).ok();
    mine.ctl(&format!("stop {id}")).ok();
    assert_eq!(mine.exit(&id)["cause"], "stopped");

    for (command, cause) in [
        ("true", "success"),
        ("sh -c 'exit 7'", "exit-code"),
        ("sh -c 'kill -KILL $$'", "signal"),
    ] {
        let id = mine.run(command);
        assert_eq!(mine.exit(&id)["cause"], cause, "{command}");
    }
    mine.ctl("run --wait p -- sh -c 'exit 7'").code(7);
    mine.ctl(
        "run --wait --name file --log-file-max=8K p -- sh -c 'seq 9000; echo end > /dev/stderr'",
    )
    .ok();
    let kept = mine.ctl("logs file").ok().out();
    assert!(
        kept.ends_with("\n8999\n9000\nend") && kept.len() < 8192,
        "{kept}"
    );
    let modes = site
        .root(&format!("stat -c '%U %a' {STATE}/logs {STATE}/logs/*"))
        .out();
    assert_eq!(modes, "alice 700\nalice 600\nalice 600");
    mine.ctl("run --wait p -- /no/such/program").code(127);
    let id = mine.ctl("run --runtime-max=1s p -- sleep 1000").ok().out();
    assert_eq!(mine.exit(&id)["cause"], "timeout");
    let id = mine.run("sleep 1000");
    mine.sh(&format!("systemctl --user stop stratavore-{id}.scope"))
        .ok();
    assert_eq!(mine.exit(&id)["cause"], "stopped");
    let id = mine.run("sh -c 'echo seen; exec sleep 1000'");
    wait_for("its output is in the journal", SOON, || {
        let found = site
            .root(&format!(
                "journalctl --no-pager -o cat _SYSTEMD_USER_UNIT=stratavore-{id}.scope"
            ))
            .out();
        found.contains("seen").then_some(()).ok_or(found)
    });
    mine.clear();
}

#[test]
fn a_runners_life_on_252() {
    life("user-life", Root::Machine);
}

#[test]
fn a_runners_life_on_257() {
    life("user-life-257", Root::Trixie);
}

/// Credentials in her own folder in memory, which no one else enters.
#[test]
fn what_her_runners_are_given() {
    let site = Site::boot("user-creds");
    let mine = Mine::of(&site);
    mine.sh("printf s3cret > key; printf 'A=from a file\\n' > env")
        .ok();
    let flags = "--load-credential=k:key --env-file=env";
    let show = "sh -c 'cat $CREDENTIALS_DIRECTORY/k; echo \",$A\"; echo $CREDENTIALS_DIRECTORY'";
    let out = mine.ctl(&format!("-q run --pipe {flags} p -- {show}")).ok();
    let folder = "/run/user/2001/credentials/stratavore";
    assert!(
        out.out()
            .starts_with(&format!("s3cret,from a file\n{folder}/0")),
        "{out}"
    );
    let out = mine
        .ctl("run --wait --load-credential=k:/etc/shadow p -- true")
        .code(125);
    assert!(
        out.err().contains("as uid 2001: Permission denied"),
        "{out}"
    );
    let id = mine.ctl(&format!("run {flags} p -- sleep 1000")).ok().out();
    let path = format!("{folder}/{id}");
    let out = site.root(&format!(
        "stat -fc %T {path}; stat -c '%U %A' {path} {path}/k"
    ));
    assert_eq!(
        out.out(),
        "tmpfs\nalice dr-x------\nalice -r--------",
        "{out}"
    );
    site.sh_as("bob", &format!("cat {path}/k")).code(1);
    site.root("pkill -9 -xu alice stratavore-shim").ok();
    assert_eq!(mine.exit(&id)["cause"], "supervisor-lost");
    mine.clear();
}

/// Everything runs as the user; a limit whose controller users are not given is refused, or warned about where the
/// user's own configuration says so.
#[test]
fn users_and_limits() {
    let site = Site::boot("user-limits");
    let mine = Mine::of(&site);
    for other in ["bob", "root"] {
        let refused = mine.ctl(&format!("run --uid={other} p -- true")).code(4);
        assert!(refused.err().contains("session"), "{refused}");
    }
    mine.ctl("run --wait --uid=alice p -- true").ok();
    for limit in ["memory-max=1G", "cpu-quota=50%", "tasks-max=20"] {
        let held = site.root(&format!(
            "grep -qw {} {MANAGER}/cgroup.controllers",
            match limit {
                "memory-max=1G" => "memory",
                "cpu-quota=50%" => "cpu",
                _ => "pids",
            }
        ));
        let out = mine.ctl(&format!("run --{limit} --wait p -- true"));
        match held.success() {
            true => drop(out.ok()),
            false => assert!(!out.success() && out.err().contains("is not held"), "{out}"),
        }
    }

    let config = "/home/alice/.config/stratavore/stratavored.toml";
    mine.sh("mkdir -p ~/.config/stratavore").ok();
    mine.sh(&format!(
        "printf '[limits]\\nunenforced = \"warn\"\\n[host]\\nname = \"mine\"\\n' >{config}"
    ))
    .ok();
    let shown = mine.sh("stratavored --user --print-config").ok().out();
    assert!(shown.contains(&format!("({config}:2)")), "{shown}");
    assert!(
        shown.contains("sqlite:///home/alice/.local/state/stratavore/stratavore.db"),
        "{shown}"
    );
    mine.sh("systemctl --user restart stratavored").ok();
    assert!(mine.ctl("status").ok().out().contains("mine"));
    mine.ctl("run --wait --memory-max=1G p -- true").ok();
    mine.sh(&format!("echo 'nam = 1' >>{config}")).ok();
    let wrong = mine.sh("stratavored --user --check-config").code(1);
    assert!(wrong.err().contains(&format!("{config}:5")), "{wrong}");

    // No root, and no other options that are the system's.
    let out = site.root("stratavored --user").code(1);
    assert!(out.err().contains("root has the system's"), "{out}");
    let out = mine
        .sh("/usr/libexec/stratavore/stratavore-agent --user --config /dev/null")
        .code(2);
    assert!(out.err().contains("--user"), "{out}");
    let out = site.sh_as("bob", "stratavorectl --user status").code(1);
    assert!(out.err().contains("session bus"), "{out}");
    mine.clear();
}

fn restarts(name: &'static str, root: Root) {
    let site = Site::with(Plan {
        name,
        root,
        ..Plan::default()
    });
    let mine = Mine::of(&site);
    let id = mine.run("sleep 1000");
    let main = || site.root("pgrep -xu alice sleep").out();
    let before = main();
    for unit in ["stratavored", "stratavore-agent"] {
        mine.kill9(unit);
        assert_eq!(mine.show(&id)["state"], "running");
    }
    mine.sh("systemctl --user daemon-reexec").ok();
    mine.sh("systemctl --user restart stratavored stratavore-agent")
        .ok();
    mine.wait_up();
    // The daemon may have met the agent of before.
    wait_for("daemon and agent talk", SOON, || {
        let out = mine.ctl("reconcile --dry-run");
        out.success().then_some(()).ok_or_else(|| out.to_string())
    });
    assert_eq!(main(), before, "the runner has noticed nothing");
    // Launches and endings go on after the manager was executed anew.
    let second = mine.run("sleep 1000");
    mine.ctl(&format!("stop {id} {second}")).ok();
    assert_eq!(mine.exit(&id)["cause"], "stopped");

    // An ending while nobody is there is told by its record.
    let id = mine.run("sleep 1000");
    mine.sh("systemctl --user stop stratavored stratavore-agent.socket stratavore-agent")
        .ok();
    site.root("pkill -9 -xu alice sleep").ok();
    wait_until("the record is written", SOON, || {
        site.host.path(&format!("{STATE}/exits/{id}.json")).exists()
    });
    mine.sh("systemctl --user start stratavored").ok();
    let exit = mine.exit(&id);
    assert!(
        exit["cause"] == "signal" && exit["signal"] == "SIGKILL",
        "{exit}"
    );

    // Whose shim is killed, nobody can tell how it ends.
    let id = mine.run("sleep 1000");
    site.root("pkill -9 -xu alice stratavore-shim").ok();
    assert_eq!(mine.exit(&id)["cause"], "supervisor-lost");
    mine.clear();
}

#[test]
fn runners_go_on_through_restarts_on_252() {
    restarts("user-restart", Root::Machine);
}

#[test]
fn runners_go_on_through_restarts_on_257() {
    restarts("user-restart-257", Root::Trixie);
}

/// Without lingering a user's systemd ends with the last session, and all runners with it; the ending is told at the
/// next login. With lingering they go on.
#[test]
fn logging_out() {
    let site = Site::boot("user-logout");
    site.host.sh("mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nUserStopDelaySec=0\\n' >/etc/systemd/logind.conf.d/soon.conf && systemctl restart systemd-logind").ok();
    let session = |script: &str| site.host.sh_in_session("alice", script);
    let first = session("stratavorectl --user project create p && stratavorectl --user status && stratavorectl --user run p -- sleep 1000").ok();
    assert!(first.out().contains("loginctl enable-linger"), "{first}");
    let id = first.out().lines().last().unwrap_or_default().to_owned();
    let manager = || site.root("systemctl is-active user@2001.service").out();
    wait_until("her systemd ends with her session", SOON, || {
        manager() == "inactive"
    });
    let shown = session(&format!("stratavorectl --user show -o json {id}")).ok();
    let shown: Value = serde_json::from_str(&shown.out()).unwrap();
    let exit = &shown["exit"];
    assert_eq!(exit["cause"], "host-shutdown", "{shown}");
    assert!(
        exit["message"].as_str().unwrap().contains("logout"),
        "{shown}"
    );
    wait_until("her systemd ends again", SOON, || manager() == "inactive");

    session("loginctl enable-linger").ok();
    let id = session("stratavorectl --user run p -- sleep 1000")
        .ok()
        .out();
    // Session and scope of the login are gone; her systemd and the runner are not.
    wait_until("her session is over", SOON, || {
        !site
            .root("loginctl list-sessions --no-legend")
            .out()
            .contains("alice")
    });
    let mine = Mine(&site);
    assert_eq!(mine.show(&id)["state"], "running");
    assert_eq!(manager(), "active");
    mine.clear();
}

/// The system's Stratavore and a user's never meet.
#[test]
fn side_by_side() {
    let site = Site::boot("user-beside");
    let mine = Mine::of(&site);
    let own = mine.run("sleep 1000");
    let of_system = site.run("-- sleep 1000");
    let ids = |out: Output| -> Vec<String> { out.ok().out().lines().map(str::to_owned).collect() };
    assert_eq!(ids(mine.ctl("list -q --all")), [own.as_str()]);
    assert_eq!(
        ids(site.ctl("alice", "list -q --all")),
        [of_system.as_str()]
    );
    assert_eq!(
        ids(site.ctl("alice", "--system list -q --all")),
        [of_system.as_str()]
    );
    site.ctl("alice", &format!("show {own}")).code(5);
    mine.ctl(&format!("show {of_system}")).code(5);
    site.kill9("stratavored stratavore-agent");
    mine.ctl("stop --all").ok();
    assert_eq!(mine.exit(&own)["cause"], "stopped");
    assert_eq!(site.show(&of_system)["state"], "running");
    let own = mine.run("sleep 1000");
    site.clear();
    assert_eq!(mine.show(&own)["state"], "running");
    mine.clear();
}

/// One command installs it for a user without root; a second one upgrades under living runners; another removes it.
#[test]
fn installed_by_the_user_alone() {
    let site = Site {
        host: Host::builder("user-install")
            .bind(project(), "/checkout")
            .boot(),
    };
    let mine = Mine(&site);
    let make = |target: &str| {
        mine.sh(&format!(
            "make -sC /checkout {target} BUILT=target/test-built"
        ))
    };
    let ctl = |arguments: &str| mine.sh(&format!("~/.local/bin/stratavorectl --user {arguments}"));
    make("install-user").ok();
    ctl("project create p").ok();
    let id = ctl("run p -- sleep 1000").ok().out();
    make("install-user").ok();
    wait_for("the daemon has adopted it", SOON, || {
        let out = ctl(&format!("show -o json {id}"));
        out.out()
            .contains("\"running\"")
            .then_some(())
            .ok_or_else(|| out.to_string())
    });
    // A call starts what is not there.
    mine.sh("systemctl --user stop stratavored").ok();
    ctl("-q status").ok();
    mine.sh("ls ~/.local/share/man/man1/stratavorectl.1 ~/.local/share/bash-completion/completions/stratavorectl")
        .ok();
    let refused = make("uninstall-user");
    assert!(
        !refused.success() && refused.err().contains("stop --all"),
        "{refused}"
    );
    ctl("stop --all").ok();
    make("uninstall-user").ok();
    let left = mine.sh("find ~/.local ~/.config -name '*stratavore*' ! -path '*/state/*'; systemctl --user list-units --plain --no-legend '*stratavore*'").out();
    assert_eq!(left, "");
    let refused = site.root("make -sC /checkout install-user BUILT=target/test-built");
    assert!(
        !refused.success() && refused.err().contains("ordinary user"),
        "{refused}"
    );
}

/// `doctor` looks at the user's own, and its commands are for the user's systemd.
#[test]
fn doctor_of_a_user() {
    let site = Site::boot("userdoc");
    let mine = Mine::of(&site);
    let said = |check: &str| {
        let out = mine.ctl("doctor -o json");
        let all: Vec<Value> =
            serde_json::from_str(&out.out()).unwrap_or_else(|e| panic!("{e}: {out}"));
        all.into_iter()
            .find(|f| f["check"] == check)
            .unwrap_or_else(|| panic!("no {check}: {out}"))
    };
    for check in [
        "linger",
        "bus",
        "daemon",
        "store",
        "agent socket",
        "programs",
        "stratavored.toml",
    ] {
        let finding = said(check);
        assert_eq!(finding["level"], "ok", "{finding}\n{}", mine.log());
    }
    assert!(said("store")["message"].as_str().unwrap().contains(STATE));
    mine.sh("systemctl --user stop stratavored").ok();
    let finding = said("stratavored.service");
    assert_eq!(finding["level"], "problem", "{finding}");
    mine.sh(finding["mend"].as_str().unwrap()).ok();
    assert_ne!(said("stratavored.service")["level"], "problem");
    site.root("loginctl disable-linger alice").ok();
}

/// By the commands of stratavored(8). The user has store and key, so it tells of mishaps and of nobody else.
fn an_audit_of_ones_own(name: &'static str, root: Root) {
    let site = Site::with(Plan {
        name,
        root,
        ..Plan::default()
    });
    let mine = Mine::of(&site);
    let none = mine.ctl("audit verify").code(5).err();
    assert!(none.contains("No audit is kept"), "{none}");
    let page = site
        .root("zcat -f /usr/share/man/man8/stratavored.8*")
        .out();
    assert!(page.contains("stratavored.service.d/audit.conf"), "{page}");
    mine.sh(
        "head -c 32 /dev/urandom | install -D -m 600 /dev/stdin ~/.config/stratavore/audit-key",
    )
    .ok();
    mine.sh("printf '[Service]\nLoadCredential=audit-key:%%E/stratavore/audit-key\n' | install -D -m 644 /dev/stdin ~/.config/systemd/user/stratavored.service.d/audit.conf")
        .ok();
    mine.sh("systemctl --user daemon-reload && systemctl --user restart stratavored")
        .ok();
    mine.wait_up();
    let id = mine.run("true");
    assert_eq!(mine.exit(&id)["cause"], "success");
    let report = mine.ctl("-o json audit verify").ok().out();
    assert!(report.contains("\"whole\""), "{report}");
    mine.ctl("audit export exported").ok();
    mine.ctl("audit verify --key ~/.config/stratavore/audit-key exported")
        .ok();
    let doctor = mine.ctl("doctor").out();
    assert!(doctor.contains("The audit is kept, and whole"), "{doctor}");
    mine.clear();
}

#[test]
fn an_audit_of_ones_own_on_252() {
    an_audit_of_ones_own("user-audit", Root::Machine);
}

#[test]
fn an_audit_of_ones_own_on_257() {
    an_audit_of_ones_own("user-audit-257", Root::Trixie);
}

/// What runs as somebody else (sudo) takes no signal of the user's, and ends all the same.
#[test]
fn set_uid_programs_are_killed() {
    for (name, root) in [("setuid", Root::Machine), ("setuid-t", Root::Trixie)] {
        let site = Site::with(Plan {
            name,
            root,
            ..Plan::default()
        });
        let mine = Mine::of(&site);
        site.root("cp /usr/bin/setpriv /usr/local/bin/as-root; chmod 4755 /usr/local/bin/as-root")
            .ok();
        let other = "as-root --reuid=0 --regid=0 --clear-groups sh -c 'trap \"\" TERM; sleep 1000 & sleep 1000'";
        let id = mine.run(&format!("sh -c \"{}\"", other.replace('"', "\\\"")));
        wait_until("somebody else's processes run", SOON, || {
            mine.sh(&format!("ps -o uid= -p $(tr '\\n' ',' <{MANAGER}/stratavore.slice/*/stratavore-{id}.scope/cgroup.procs | sed 's/,$//')"))
                .out()
                .split_whitespace()
                .filter(|uid| *uid == "0")
                .count()
                > 2
        });
        mine.ctl(&format!("set {id} stop-timeout=1s")).ok();
        mine.ctl(&format!("stop {id}")).ok();
        assert_eq!(mine.exit(&id)["cause"], "stopped");
        wait_until("its scope is gone", SOON, || {
            site.root(&format!(
                "! ls -d {MANAGER}/stratavore.slice/*/stratavore-{id}.scope"
            ))
            .success()
        });
        mine.clear();
    }
}
