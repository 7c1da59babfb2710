//! `logs`: the output of runners, complete, for those who may view it and not read the journal.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{Root, wait_for, wait_until};
use std::collections::BTreeSet;
use std::time::Duration;

/// How many programs of this name run in the agent's cgroup.
fn readers(site: &Site) -> usize {
    let unit = "/sys/fs/cgroup/system.slice/stratavore-agent.service/cgroup.procs";
    site.root(&format!(
        "for p in $(cat {unit}); do cat /proc/$p/comm; done 2>/dev/null | grep -c journalctl"
    ))
    .out()
    .parse()
    .unwrap()
}

#[track_caller]
fn no_readers(site: &Site) {
    wait_until("no journalctl is left", SOON, || readers(site) == 0);
    wait_until("and no cursor", SOON, || cursors(site) == 0);
}

/// How many readings have noted where they are: journalctl does that at the end of a run.
fn cursors(site: &Site) -> usize {
    site.root("ls /run/stratavore/readers | wc -l")
        .ok()
        .out()
        .parse()
        .unwrap()
}

/// Of each journalctl: capabilities, no_new_privs, score and environment, in one line. The last is read last: where it is
/// empty the process has just begun or is ending, and what was read before says nothing.
fn of_readers(site: &Site) -> Vec<String> {
    let script = r#"for p in $(pgrep -x journalctl); do
        printf '%s%s %s\n' "$(grep -E '^(CapEff|CapPrm|NoNewPrivs)' /proc/$p/status | tr -s '\t\n' ' ')" \
            "$(cat /proc/$p/oom_score_adj)" "$(tr '\0' ' ' < /proc/$p/environ)"
        done 2>/dev/null"#;
    let said = site.root(script).out();
    let whole = said.lines().filter(|line| line.contains("PATH="));
    whole.map(str::to_owned).collect()
}

#[test]
fn who_reads_what() {
    let mut site = Site::boot("logs");
    let id = site.run("--name talker -- sh -c 'echo one; echo two >&2; printf three; exit 4'");
    site.ended(&id);
    let say = |user: &str, arguments: &str| site.ctl(user, &format!("logs {arguments}"));
    for user in ["root", "alice"] {
        let out = say(user, "talker").ok().out();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 3, "{user}: {out}");
        for (line, word) in lines.iter().zip(["one", "two", "three"]) {
            assert!(line.contains(" sh[") && line.ends_with(word), "{out}");
        }
    }
    // bob is of no group; a polkit rule would have to let him.
    assert!(!say("bob", &id).code(4).err().is_empty());
    assert_eq!(say("alice", "nobody-such").code, 5);
    assert!(
        say("alice", &format!("-n1 {id}"))
            .ok()
            .out()
            .ends_with("three")
    );
    let json = say("alice", &format!("-o json -n 2 {id}")).ok().out();
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!(json.lines().count(), 2);
    assert_eq!(last["MESSAGE"], "three");
    assert_eq!(last["_SYSTEMD_UNIT"], format!("stratavore-{id}.scope"));
    // To follow what has ended is to read it.
    let last = say("alice", &format!("-f -n1 {id}")).ok().out();
    assert!(last.ends_with("three"), "{last}");
    for wrong in [
        "1 lines s x",
        "1 output s verbose",
        "1 since t 1",
        "1 follow s yes",
    ] {
        let out = site.root(&format!("busctl call org.stratavore1 /org/stratavore1 org.stratavore1.Manager Logs 'sa{{sv}}' {id} {wrong}"));
        assert!(!out.success() && !out.err().contains("Unknown"), "{out}");
    }
    // Earlier boots are in the journal, too.
    let live = site.run("-- sh -c 'echo before; sleep 1000'");
    wait_until("its line is there", SOON, || {
        site.ctl("alice", &format!("logs {live}"))
            .out()
            .ends_with("before")
    });
    site.host.power_off();
    site.host.boot_again();
    site.wait_up();
    for (id, end) in [(&id, "three"), (&live, "before")] {
        let out = site.ctl("alice", &format!("logs {id}")).ok().out();
        assert!(out.ends_with(end), "{out}");
    }
    no_readers(&site);
    site.check();
}

fn following_is_complete(name: &'static str, root: Root) {
    let site = Site::with(Plan {
        name,
        root,
        ..Plan::default()
    });
    let follow = |arguments: &str| {
        site.host
            .command([
                "bash",
                "-c",
                &format!("stratavorectl logs -o json -f {arguments} | tee /tmp/out | wc -l"),
            ])
            .user("alice")
            .spawn()
    };
    // Quiet, then a flood at the very end, more than any pipe holds.
    let id = site.run("-- sh -c 'echo first; read line < /tmp/go; seq 6000'");
    site.sh_as("alice", "mkfifo -m 666 /tmp/go").ok();
    site.ctl("alice", &format!("stop {id}")).ok();
    let id = site.run("-- sh -c 'echo first; read line < /tmp/go; seq 6000'");
    let mut all = follow(&id);
    wait_until("the first line is followed", SOON, || {
        site.file("/tmp/out").contains("\"first\"")
    });
    let mut none = site
        .host
        .command(["stratavorectl", "logs", "-f", "-n0", &id])
        .user("alice")
        .spawn();
    wait_until("both know where they are", SOON, || cursors(&site) == 2);
    site.sh_as("alice", "echo > /tmp/go").ok();
    let out = all.wait(Duration::from_secs(60)).ok().out();
    assert_eq!(out, "6001", "every line came, and then the end");
    let out = none.wait(Duration::from_secs(60)).ok().out();
    assert_eq!(out.lines().count(), 6000, "begins after what was there");
    assert!(out.ends_with("6000"), "{}", &out[out.len() - 80..]);
    no_readers(&site);
    site.check();
}

#[test]
fn following_is_complete_252() {
    following_is_complete("follow-252", Root::Machine);
}

#[test]
fn following_is_complete_257() {
    following_is_complete("follow-257", Root::Trixie);
}

/// A thousand runners that say one line and are gone, with journald's own limits.
fn a_thousand_lines(name: &'static str, root: Root) {
    let site = Site::with(Plan {
        name,
        root,
        ..Plan::default()
    });
    site.root("printf '[Journal]\\nRateLimitIntervalSec=30s\\nRateLimitBurst=10000\\n' > /etc/systemd/journald.conf.d/zz.conf && systemctl restart systemd-journald")
        .ok();
    let run = |script: &str| {
        let command = site.host.command(["bash", "-c", script]).user("alice");
        command.limit(Duration::from_secs(400)).run().ok().out()
    };
    let ids = run("seq 1000 | xargs -P 8 -I N stratavorectl run p -- echo line N");
    let ids: BTreeSet<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 1000);
    wait_for("all have ended", Duration::from_secs(60), || {
        match site.scopes().len() {
            0 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    site.host.write(
        "/tmp/ids",
        ids.iter().map(|id| format!("{id}\n")).collect::<String>(),
    );
    let found = run("xargs -P 4 -I N sh -c 'stratavorectl logs -o json N' < /tmp/ids");
    let mut messages = BTreeSet::new();
    let mut units = BTreeSet::new();
    for line in found.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        messages.insert(entry["MESSAGE"].as_str().unwrap().to_owned());
        units.insert(entry["_SYSTEMD_UNIT"].as_str().unwrap().to_owned());
    }
    assert_eq!(found.lines().count(), 1000, "one line each");
    assert_eq!((messages.len(), units.len()), (1000, 1000));
    no_readers(&site);
    site.check();
}

#[test]
fn a_thousand_lines_252() {
    a_thousand_lines("lines-252", Root::Machine);
}

#[test]
fn a_thousand_lines_257() {
    a_thousand_lines("lines-257", Root::Trixie);
}

/// Readers are bounded, have no privileges, and go with their caller or with the agent.
#[test]
fn readers_are_bounded() {
    let site = Site::boot("readers");
    let id = site.run("-- sh -c 'echo x; sleep 1000'");
    let mut all: Vec<_> = (0..8)
        .map(|_| {
            let command = ["stratavorectl", "logs", "-f", "-o", "json", &id];
            site.host.command(command).user("alice").spawn()
        })
        .collect();
    wait_until("all read", SOON, || {
        all.iter().all(|one| one.out_so_far().contains("\"x\""))
    });
    let ninth = site.ctl("alice", &format!("logs {id}")).code(1);
    assert!(ninth.err().contains('8'), "{ninth}");
    // Each has one journalctl that waits for new lines.
    wait_until("all wait", SOON, || readers(&site) == 8);
    let caps = wait_for("what they are", SOON, || {
        let caps = of_readers(&site);
        match caps.len() {
            8 => Ok(caps),
            _ => Err(format!("{caps:?}")),
        }
    });
    for of in &caps {
        let none = "CapPrm: 0000000000000000 CapEff: 0000000000000000 NoNewPrivs: 1 500 ";
        assert!(of.starts_with(none) && !of.contains("SYSTEMD"), "{caps:?}");
    }
    // root has places of its own.
    site.ctl("root", &format!("logs {id}")).ok();
    wait_until("root's reading is over", SOON, || readers(&site) == 8);
    // A caller that goes away.
    let mut first = all.remove(0);
    first.kill();
    wait_until("its reader is gone", SOON, || readers(&site) == 7);
    wait_until("and its place is free", SOON, || {
        site.ctl("alice", &format!("logs {id}")).success()
    });
    // The agent.
    site.kill9("stratavore-agent");
    for one in &mut all {
        let out = one.wait(SOON).code(1);
        assert!(out.err().contains("agent"), "{out}");
    }
    no_readers(&site);
    // The daemon has nothing to do with it any more.
    let mut one = site
        .host
        .command(["stratavorectl", "logs", "-f", &id])
        .user("alice")
        .spawn();
    wait_until("it reads", SOON, || one.out_so_far().contains('x'));
    site.kill9("stratavored");
    assert!(one.is_running());
    site.ctl("alice", &format!("stop {id}")).ok();
    one.wait(SOON).ok();
    no_readers(&site);
    site.clear();
}
