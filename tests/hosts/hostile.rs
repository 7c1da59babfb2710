//! A daemon that means harm: what the agent's socket takes from whom, with the real agent. What is tried stands in
//! `hostile.py`.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{Exec, Output, wait_for, wait_until};
use std::collections::BTreeSet;

const TRICKS: &str = include_str!("hostile.py");

fn exec(site: &Site, user: &str, words: &[&str]) -> Exec {
    let mut command = vec!["python3", "-c", TRICKS];
    command.extend(words);
    site.host.command(command).user(user).limit(SOON * 6)
}

fn tries(site: &Site, user: &str, words: &[&str]) -> Output {
    let out = exec(site, user, words).run();
    assert!(out.success(), "{words:?}: {out}\n{}", site.log());
    out
}

fn uid(site: &Site, user: &str) -> String {
    site.root(&format!("id -u {user}")).ok().out()
}

fn agent(site: &Site) -> (String, String) {
    let of = |what: &str| site.root(&format!("systemctl show -P {what} stratavore-agent"));
    (of("MainPID").ok().out(), of("NRestarts").ok().out())
}

/// All that orders could have left behind, but for the store and the journal.
fn traces(site: &Site) -> BTreeSet<String> {
    let folders = "/run/stratavore/shims /run/stratavore/readers /var/lib/stratavore/exits /var/lib/stratavore/logs \
                   /run/credentials /run/systemd/transient /run/systemd/system.control /etc/stratavore /etc/systemd /home/alice";
    let found = site.root(&format!("find {folders} -printf '%p %u %m\\n' 2>/dev/null | sort; systemctl list-units --plain --no-legend --all 'stratavore*' | cut -d' ' -f1"));
    found.out().lines().map(str::to_owned).collect()
}

/// The daemon may have any runner of any allowed user; it gets nothing else, whatever it asks for.
#[test]
fn a_compromised_daemon_gets_no_more_than_root_allows() {
    let site = Site::with(Plan {
        name: "hostile-who",
        agent_config: "allowed_users = [\"alice\"]\n[ceilings]\nruntime_max = \"1h\"\n",
        ..Plan::default()
    });
    let (alice, bob) = (uid(&site, "alice"), uid(&site, "bob"));
    let before = agent(&site);
    let ran = tries(&site, "stratavore", &["users", &alice, &bob]).out();
    // Those that root allows it can act as, and that is said.
    let unit = format!("stratavore-{ran}.scope");
    let of = site.root(&format!("cat /sys/fs/cgroup$(systemctl show -P ControlGroup {unit})/cgroup.procs | xargs -n1 ps -o user=,comm= -p"));
    assert!(of.out().contains("alice"), "{of}");
    site.root(&format!("systemctl stop {unit}")).ok();
    wait_until("its ending is on the disk", SOON, || {
        let record = format!("/var/lib/stratavore/exits/{ran}.json");
        site.host.path(&record).exists()
    });
    // Nobody asked the daemon for it, so it knows no such runner.
    tries(&site, "stratavore", &["forget", &ran]);
    assert_eq!(agent(&site), before, "{}", site.log());
    site.check();
}

#[test]
fn no_text_of_an_order_leads_elsewhere() {
    let site = Site::boot("hostile-paths");
    let alice = uid(&site, "alice");
    // Folders that systemd makes for the first runner.
    site.run("--wait -- true");
    site.check();
    let (before, was) = (agent(&site), traces(&site));
    assert!(
        was.iter().any(|l| l.starts_with("/run/stratavore/shims ")),
        "{was:?}"
    );
    tries(&site, "stratavore", &["paths", &alice]);
    wait_for("nothing is left", SOON, || {
        let now = traces(&site);
        match now.difference(&was).next() {
            None => Ok(()),
            Some(new) => Err(new.clone()),
        }
    });
    assert_eq!(agent(&site), before, "{}", site.log());
    site.check();
}

/// Frames, floods, silence: the agent goes on, the daemon's own connection with it, and no runner notices.
#[test]
fn nobody_can_hold_up_the_agent() {
    let site = Site::boot("hostile-flood");
    let before = agent(&site);
    let id = site.run("-- sleep 1000");
    let open = || -> usize {
        let out = site.root(&format!("ls /proc/{}/fd | wc -l", before.0));
        out.ok().out().parse().unwrap()
    };
    let at_rest = open();

    // Others do not come so far; who is in the group that may open the socket is looked at besides.
    let connect = "import socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.settimeout(20)\ns.connect('/run/stratavore/agent.sock')\nprint(s.recv(10))";
    let refused = site
        .host
        .command(["python3", "-c", connect])
        .user("alice")
        .run();
    assert!(
        !refused.success() && refused.err().contains("PermissionError"),
        "{refused}"
    );
    site.root("useradd -G stratavore eve").ok();
    let out = site
        .host
        .command(["python3", "-c", connect])
        .user("eve")
        .run();
    assert!(
        out.out() == "b''" || out.err().contains("ConnectionReset"),
        "closed at once: {out}"
    );

    tries(&site, "stratavore", &["frames"]);
    let lines = site.journal("-u stratavore-agent -o cat");
    assert!(
        lines.contains("tried to connect") && !lines.lines().any(|l| l.starts_with("FORGED")),
        "{lines}"
    );

    // Nobody gets in while they are held, and whoever is in goes on.
    let mut loris = exec(&site, "stratavore", &["loris"]).spawn();
    wait_until("all connections are taken", SOON, || {
        loris.out_so_far().contains("held") || loris.try_wait().is_some()
    });
    site.run("--wait -- true");
    drop(loris.stdin.take());
    let out = loris.wait(SOON * 3);
    assert!(out.success(), "{out}\n{}", site.log());

    let mut second = exec(&site, "stratavore", &["second"]).spawn();
    wait_until("they have greeted", SOON, || {
        second.out_so_far().contains("greeted") || second.try_wait().is_some()
    });
    site.run("--wait -- true");
    drop(second.stdin.take());
    let out = second.wait(SOON);
    assert!(out.success(), "{out}\n{}", site.log());

    tries(&site, "stratavore", &["deaf"]);
    let status = site.root(&format!("grep VmHWM /proc/{}/status", before.0));
    let most: u64 = status
        .out()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(most < 100 << 10, "{most} KiB at most");

    tries(&site, "root", &["descriptors", &before.0]);
    wait_until("all descriptors are closed", SOON, || open() <= at_rest + 1);
    assert_eq!(site.show(&id)["state"], "running");
    assert_eq!(agent(&site), before, "{}", site.log());
    site.run("--wait -- true");
    site.clear();
}
