//! What people see: on a terminal (a pty by script(1)), by ssh, and of what has died.

use crate::fixture::{SOON, Site};
use crate::support::{Output, Spawned, wait_for};
use std::io::Write;

/// Runs a command on a terminal of this size; `env` are `NAME=VALUE` words.
fn on_terminal(site: &Site, size: (u32, u32), env: &str, command: &str) -> Spawned {
    let (columns, rows) = size;
    let script = format!("stty cols {columns} rows {rows}; exec env TERM=xterm {env} {command}");
    site.host
        .command(["script", "-qec", &script, "/dev/null"])
        .user("alice")
        .spawn()
}

#[track_caller]
fn seen(site: &Site, size: (u32, u32), env: &str, command: &str) -> Output {
    on_terminal(site, size, env, command).wait(SOON)
}

#[track_caller]
fn wait_seen(spawned: &Spawned, what: &str) {
    wait_for(&format!("{what:?} is seen"), SOON, || {
        let out = spawned.out_so_far();
        if out.contains(what) { Ok(()) } else { Err(out) }
    });
}

/// Columns of a line without its colours. All that is printed here takes one column a character.
fn bare(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line.trim_end_matches('\r');
    while let Some((head, tail)) = rest.split_once('\x1b') {
        out.push_str(head);
        rest = tail
            .split_once(|c: char| c.is_ascii_alphabetic())
            .map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    out
}

#[test]
fn terminals() {
    let site = Site::boot("terminal");
    let long = "x".repeat(150);
    let id = site.run(&format!("--name=agent -- sh -c 'sleep 1000; :' {long}"));
    for columns in [30, 60, 100, 160] {
        let out = seen(&site, (columns, 40), "SYSTEMD_PAGER=", "stratavorectl list")
            .ok()
            .out();
        let too_wide = out
            .lines()
            .map(bare)
            .find(|l| l.chars().count() > columns as usize && !l.contains("listed"));
        assert_eq!(too_wide, None, "{columns}: {out}");
        let short = !out.contains(&long) && out.contains(&id[..13]);
        assert!(
            short && (columns < 60 || out.contains('…')),
            "{columns}: {out:?}"
        );
        assert!(
            columns < 60 || out.contains("\x1b[0;1;32mrunning"),
            "{columns}: {out:?}"
        );
    }
    let out = seen(&site, (60, 40), "", "stratavorectl --no-pager --full list")
        .ok()
        .out();
    assert!(out.contains(&long) && out.contains(&id), "{out}");
    for plain in ["NO_COLOR=1", "TERM=dumb", "SYSTEMD_COLORS=0"] {
        let out = seen(&site, (60, 40), plain, "stratavorectl --no-pager list")
            .ok()
            .out();
        assert!(
            !out.contains('\x1b') && out.contains('…'),
            "{plain}: {out:?}"
        );
    }
    // Not on a terminal: everything, and bare.
    let out = site.ctl("alice", "list").ok().out();
    assert!(
        out.contains(&long) && out.contains(&id) && !out.contains('\x1b'),
        "{out}"
    );

    // less is the pager; what fits on the screen needs none, as with systemctl.
    let out = seen(&site, (100, 40), "", "stratavorectl list").ok().out();
    assert!(out.contains("agent") && out.contains("listed"), "{out}");
    let mut paged = on_terminal(
        &site,
        (100, 5),
        "SYSTEMD_LESS=SRXM",
        "stratavorectl show agent",
    );
    wait_seen(&paged, "lines 1-");
    paged.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    assert_eq!(paged.wait(SOON).code, 0);
    // Another one, with a person who has seen enough after a line.
    let pager = "SYSTEMD_PAGERSECURE=1 SYSTEMD_PAGER='head -n1'";
    let out = seen(&site, (100, 40), pager, "stratavorectl show agent")
        .ok()
        .out();
    assert_eq!(out.lines().count(), 1, "{out}");
    // With the rights of another than who logged in, none that could start programs.
    let out = seen(
        &site,
        (100, 40),
        "PAGER='sed s/agent/WRONG/'",
        "stratavorectl list",
    )
    .ok()
    .out();
    assert!(!out.contains("WRONG"), "{out}");
    site.clear();
}

#[test]
fn certificates() {
    let site = Site::boot("certificate");
    let id = site.run("--name=talker -- sh -c 'for i in 1 2 3; do echo line-$i; done; printf \"\\033[2Jbad\\n\"; exit 7'");
    site.ended(&id);
    // Its output is in the journal a moment after.
    let shown = wait_for("its last lines are shown", SOON, || {
        let out = site.ctl("root", "show talker").ok().out();
        if out.contains("line-3") && out.contains("bad") {
            Ok(out)
        } else {
            Err(out)
        }
    });
    for part in [
        &format!("× {id} - talker"),
        "Ending: exit-code: The main process exited with status 7.",
        "starting  by alice",
        "ended     by the host itself",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\x1b'), "{shown:?}");
    let short = site.ctl("root", "show -n1 talker").ok().out();
    assert!(!short.contains("line-1"), "{short}");
    let why = site.ctl("alice", "why talker").ok().out();
    assert!(
        why.contains("ended by itself with a status other than 0"),
        "{why}"
    );

    let id = site.run("-- sleep 1000");
    site.ctl("root", &format!("stop -q {id}")).ok();
    let shown = site.ctl("alice", &format!("show {id}")).ok().out();
    assert!(shown.contains("Asked by: root, "), "{shown}");
    // systemd was asked, not we.
    let id = site.run("-- sleep 1000");
    site.root(&format!("systemctl stop stratavore-{id}.scope"))
        .ok();
    site.ended(&id);
    let why = site.ctl("alice", &format!("why {id}")).ok().out();
    assert!(why.contains("systemd was told to stop"), "{why}");
    let out = site.ctl("bob", "run p -- true").code(4);
    assert!(
        out.err().contains("org.stratavore1.launch") && out.err().contains("stratavore-users"),
        "{out}"
    );
    site.clear();
}

/// `-H` runs ssh as systemctl does; here one that goes nowhere, and one that asks for no key.
#[test]
fn another_host() {
    let site = Site::boot("far");
    let id = site.run("--name=agent -- sleep 1000");
    site.root("cat >/usr/local/bin/ssh <<'END'\n#!/bin/sh\necho \"$*\" >>/tmp/ssh.log\ncase $* in *elsewhere*) echo 'ssh: no route' >&2; exit 255;; esac\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nexec \"$@\"\nEND\nchmod 755 /usr/local/bin/ssh; : >/tmp/ssh.log; chmod 666 /tmp/ssh.log").ok();
    let out = site.ctl("alice", "-H root@far:2222 list").ok().out();
    assert!(out.contains(&id), "{out}");
    let log = site.root("cat /tmp/ssh.log").out();
    assert_eq!(log.trim(), "-xT -p 2222 -- root@far systemd-stdio-bridge");
    let out = site.ctl("alice", "-H far show agent").ok().out();
    assert!(
        out.contains("ssh far") && out.contains("journalctl -u"),
        "{out}"
    );
    // The folder here is not the one there.
    let ran = site
        .sh_as(
            "alice",
            "cd /tmp && stratavorectl -H far run p -- sleep 1000",
        )
        .ok()
        .out();
    assert_eq!(
        site.show(ran.trim())["working_directory"],
        serde_json::Value::Null
    );
    site.ctl("alice", "-H far stop agent").ok();
    let out = site.ctl("alice", "-H elsewhere list").code(1);
    assert!(
        out.err().contains("ssh: no route") && out.err().contains("can't be reached by ssh"),
        "{out}"
    );
    let out = site
        .ctl("alice", "-H elsewhere run --wait p -- true")
        .code(125);
    assert!(out.err().contains("elsewhere"), "{out}");
    site.ctl("alice", "-H -oProxyCommand=true list").code(2);
    // Descriptors do not go by ssh.
    let out = site.ctl("alice", "-H root@far:2222 logs agent").code(2);
    assert!(
        out.err()
            .contains("use: ssh -p 2222 root@far stratavorectl logs agent"),
        "{out}"
    );
    site.ctl("alice", "-H far run --pipe p -- true").code(2);
    site.clear();
}

/// What `make install` puts in place works in bash and zsh.
#[test]
fn completions() {
    let site = Site::boot("complete");
    let id = site.run("--name=agent -- sleep 1000");
    let ask = |words: &str| {
        let script = format!(
            ". /usr/share/bash-completion/completions/stratavorectl; COMP_WORDS=(stratavorectl {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _clap_complete_stratavorectl stratavorectl \"${{COMP_WORDS[COMP_CWORD]}}\" x; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        site.host
            .command(["bash", "-c", &script])
            .user("alice")
            .run()
            .ok()
            .out()
    };
    // Who presses Tab does not wait: what does not answer within a second is left out, so it is asked again.
    let asks = |words: &str, wanted: &str| {
        wait_for(words, SOON, || match ask(words) {
            told if told.lines().any(|l| l == wanted) => Ok(()),
            told => Err(told),
        });
    };
    asks("show ag", "agent");
    asks(&format!("stop {}", &id[..20]), &id);
    asks("run ''", "p");
    asks("logs ag", "agent");
    assert!(ask("run --kill-signal SIGU").contains("SIGUSR1"));
    assert!(ask("run --oom-policy ''").lines().any(|l| l == "kill"));
    // zsh finds its file by itself, and knows at the very first Tab.
    let zsh = "zmodload zsh/zpty\n\
        zpty -b z 'TERM=dumb zsh -f -i'\n\
        zpty -w z 'PS1=; autoload -Uz compinit; compinit -u -D; echo rea\"\"dy'\n\
        zpty -r -m z out $'*ready\\r\\n*'\n\
        zpty -w -n z $'stratavorectl show ag\\t'\n\
        zpty -r -m z out '*show agent *'\n";
    wait_for("zsh knows it", SOON * 2, || {
        let first_tab = ["timeout", "15", "zsh", "-f", "-c", zsh];
        let out = site.host.command(first_tab).user("alice").run();
        out.success().then_some(()).ok_or_else(|| out.to_string())
    });
    site.root("systemctl stop stratavored").ok();
    assert_eq!(ask("show ag"), "");
    assert_eq!(
        site.root("systemctl is-active stratavored").out(),
        "inactive",
        "asking starts nothing"
    );
    let fish = "/usr/share/fish/vendor_completions.d/stratavorectl.fish";
    assert!(site.file(fish).contains("STRATAVORECTL_COMPLETE"), "{fish}");
    site.root("systemctl start stratavored").ok();
    site.wait_up();
    site.clear();
}

/// The busiest first; keys; a screen that is given back.
#[test]
fn top() {
    let site = Site::boot("top");
    let idle = site.run("--name=idle -- sleep 1000");
    let busy = site.run("--name=busy -- sh -c 'while :; do :; done'");
    let out = site.ctl("alice", "top --batch -n 2 -d 1s").ok().out();
    let looks: Vec<Vec<&str>> = out
        .split("\n\n")
        .map(|look| look.lines().collect())
        .collect();
    assert_eq!(looks.len(), 2, "{out}");
    for look in &looks {
        assert!(
            look[0].contains("2 live runners") && look[1].contains("CPU↓"),
            "{out}"
        );
        assert!(
            look[2].starts_with(&busy[..13])
                && look[2].contains("busy")
                && look[3].contains("idle"),
            "{out}"
        );
        let percent: u64 = look[2]
            .split_whitespace()
            .find_map(|w| w.strip_suffix('%'))
            .unwrap()
            .parse()
            .unwrap();
        assert!((5..=120).contains(&percent), "{out}");
    }
    let out = site.ctl("bob", "top -o json").ok().out();
    let rows: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(rows[0]["id"], busy.as_str());
    assert!(
        rows[0]["cpu_percent"].as_u64() > rows[1]["cpu_percent"].as_u64(),
        "{rows}"
    );
    assert_eq!(rows[1]["id"], idle.as_str());
    assert_eq!(rows[1]["command"], serde_json::Value::Null, "not bob's");

    let mut seen = on_terminal(&site, (90, 20), "", "stratavorectl top -d 1s");
    wait_seen(&seen, "q quits");
    seen.stdin.as_mut().unwrap().write_all(b"m").unwrap();
    wait_seen(&seen, "MEMORY↓");
    seen.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let out = seen.wait(SOON).ok().out();
    assert!(
        out.starts_with("\x1b[?1049h") && out.ends_with("\x1b[?25h\x1b[?1049l"),
        "{out:?}"
    );
    site.clear();
}

/// What differs is shown by a dry run, and set right without one.
#[test]
fn reconcile() {
    let site = Site::boot("reconcile");
    let id = site.run("-- sleep 1000");
    let out = site.ctl("root", "reconcile").ok();
    assert!(
        out.out().is_empty() && out.err().contains("nothing to do"),
        "{out}"
    );
    site.root(&format!("systemctl freeze stratavore-{id}.scope"))
        .ok();
    let dry = site.ctl("root", "reconcile --dry-run").ok().out();
    assert!(
        dry.contains(&id) && dry.contains("note-frozen") && dry.contains("nothing was changed"),
        "{dry}"
    );
    assert_eq!(site.show(&id)["state"], "running");
    let done = site.ctl("root", "reconcile -o json").ok().out();
    assert!(done.contains("note-frozen"), "{done}");
    wait_for("it is noted", SOON, || {
        match site.show(&id)["state"].as_str() {
            Some("frozen") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for user in ["alice", "bob"] {
        let out = site.ctl(user, "reconcile --dry-run").code(4);
        assert!(
            out.err().contains("manage-host") && out.err().contains("stratavore-admins"),
            "{out}"
        );
    }
    site.ctl("root", &format!("thaw {id}")).ok();
    site.clear();
}

/// Who presses Ctrl-C at the terminal that the command has means the command.
#[test]
fn interrupted_at_the_terminal() {
    let site = Site::boot("ctrl-c");
    let mut seen = on_terminal(
        &site,
        (90, 20),
        "",
        "stratavorectl run --pipe p -- sh -c 'echo begun; exec sleep 1000'",
    );
    wait_seen(&seen, "begun");
    let id = site.ctl("alice", "list -q").ok().out();
    seen.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let out = seen.wait(SOON).code(143).out();
    assert!(
        out.contains("Stopping ") && !out.contains("goes on"),
        "{out:?}"
    );
    assert_eq!(site.cause(&id), "stopped");
    site.check();
}

/// Events of one project, runner or type, and the last ones; what is wrong usage is told as such
/// without a daemon or a bus.
#[test]
fn events_and_usage() {
    let site = Site::boot("usage");
    site.ctl("alice", "run --wait p -- true").ok();
    let id = site.ctl("alice", "list --all -q").ok().out();
    site.ctl("root", "project create q").ok();
    site.ctl("alice", "run --wait q -- false").code(1);
    let of = |arguments: &str| -> Vec<String> {
        let out = site
            .ctl("alice", &format!("events -o jsonl {arguments}"))
            .ok()
            .out();
        let kind = |event: &serde_json::Value| {
            let kind = event["type"].as_str().unwrap();
            kind.replace("org.stratavore.", "")
        };
        crate::schema::lines(&out).iter().map(kind).collect()
    };
    let life = ["runner.starting", "runner.running", "runner.ended"];
    assert_eq!(of(&format!("--runner {}", &id[..13])), life);
    assert_eq!(of("-n 1"), ["runner.ended"]);
    assert_eq!(of("-n 2 --project p"), life[1..]);
    assert_eq!(of("--type runner.ended --project q"), ["runner.ended"]);
    let out = site.ctl("alice", "events --type runner.endet");
    assert!(out.err().contains("runner.ended"), "{out:?}");

    site.root("systemctl stop stratavored").ok();
    for wrong in [
        "events -n 0",
        "list --state runing",
        "list --since soon",
        "kill -s FOO x",
        "stop",
        "set x",
        "set x memory-max=lots",
        "run p --memory-max=lots -- true",
        "top -o json -n 3",
    ] {
        let out = site.ctl("alice", wrong).code(2);
        assert!(!out.err().contains("stratavored"), "{wrong}: {out:?}");
    }
    let out = site.ctl("alice", "run p true").code(2);
    assert!(out.err().contains("Put -- before the command"), "{out:?}");
    site.root("systemctl start stratavored").ok();
    site.check();
}
