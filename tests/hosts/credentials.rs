//! Credentials and environment files: read as the runner's user, and nowhere else to be found.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{Root, project, wait_for, wait_until};

const FOLDER: &str = "/run/credentials/stratavore";

fn left(site: &Site) -> String {
    site.root(&format!("ls {FOLDER}")).ok().out()
}

/// In alice's home: a key, and files of variables.
fn furnish(site: &Site) {
    site.sh_as("alice", "cd ~; printf s3cret-key > key; chmod 600 key; printf 'A=1\\nB=\"two words\" # no\\n' > env; printf \"# c\\nPLAIN='s3cret-env'\\nB=2\\nPATH=/opt/bin:/bin:/usr/bin\\nSTRATAVORE_PROJECT=other\\n\" > env2").ok();
}

fn given(name: &'static str, root: Root) {
    let site = Site::with(Plan {
        name,
        root,
        ..Plan::default()
    });
    furnish(&site);
    let run = |flags: &str, command: &str| {
        site.sh_as(
            "alice",
            &format!(
                "cd ~ && stratavorectl -q --no-ask-password run --pipe {flags} p -- {command}"
            ),
        )
    };
    // Relative paths are meant from here; later files win, and files over -E.
    let out = run(
        "-E A=0 -E C=3 --env-file=env --env-file env2 --env-file=-nowhere",
        "sh -c 'echo $A,$B,$C,$PLAIN,$PATH,$STRATAVORE_PROJECT'",
    )
    .ok();
    assert_eq!(out.out(), "1,2,3,s3cret-env,/opt/bin:/bin:/usr/bin,p");
    let show = "sh -c 'cat $CREDENTIALS_DIRECTORY/k; echo; echo $CREDENTIALS_DIRECTORY; ls $CREDENTIALS_DIRECTORY; echo x 2>/dev/null > $CREDENTIALS_DIRECTORY/new && echo written; chmod 700 $CREDENTIALS_DIRECTORY 2>/dev/null && echo changed; echo x 2>/dev/null >> $CREDENTIALS_DIRECTORY/k && echo appended; rm -f $CREDENTIALS_DIRECTORY/k 2>/dev/null && echo removed; true'";
    let out = run(
        "--load-credential=k:key --load-credential=other:/etc/hostname",
        show,
    )
    .ok()
    .out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "s3cret-key");
    assert!(lines[1].starts_with(&format!("{FOLDER}/0")), "{out}");
    assert_eq!(
        lines[2..],
        ["k", "other"],
        "and nothing can be changed: {out}"
    );
    assert_eq!(left(&site), "", "gone with its runner");
    // By the bus as well; without credentials there is no variable either.
    site.sh_as("alice", "busctl call -- org.stratavore1 /org/stratavore1 org.stratavore1.Manager Launch 'sasa{sv}' p 3 sh -c 'cat $CREDENTIALS_DIRECTORY/k > /tmp/by-bus' 1 load-credential as 1 k:/home/alice/key").ok();
    wait_until("it came by the bus", SOON, || {
        site.file("/tmp/by-bus") == "s3cret-key"
    });
    let out = run("", "sh -c 'echo ${CREDENTIALS_DIRECTORY-none}'").ok();
    assert_eq!(out.out(), "none");

    // Another user's runner sees neither the folder nor what is in it.
    site.root("usermod -aG stratavore-users bob").ok();
    let id = site
        .sh_as(
            "alice",
            "stratavorectl run --load-credential=k:$HOME/key --env-file=$HOME/env2 p -- sleep 1000",
        )
        .ok()
        .out();
    let path = format!("{FOLDER}/{id}");
    let out = site.root(&format!("cat {path}/k; stat -fc %T {path}; stat -c '%U %A' {path} {path}/k; findmnt -no OPTIONS {FOLDER}"));
    eprintln!("{}", out.out());
    assert!(
        out.out()
            .starts_with("s3cret-keytmpfs\nroot dr-xr-x---\nroot -r--r-----\n"),
        "{out}"
    );
    for command in [
        format!("cat {path}/k"),
        format!("ls {path}"),
        format!("ls {FOLDER}"),
    ] {
        let other = format!("stratavorectl -q run --pipe p -- {command}");
        for command in [&command, &other] {
            let out = site.sh_as("bob", command);
            assert!(!out.success() && out.out().is_empty(), "{out}");
            assert!(out.err().contains("Permission denied"), "{out}");
        }
    }
    let out = site.sh_as("bob", "stratavorectl -q run --pipe p -- cat /etc/hostname");
    assert!(!out.ok().out().is_empty(), "bob's runners run");
    // Nor does the daemon in its sandbox, or any other service that has one.
    let pid = site.main_pid("stratavored");
    let out = site.root(&format!(
        "nsenter -t {pid} -m sh -c 'echo in; ls {FOLDER} 2>/dev/null || true'"
    ));
    assert_eq!(out.out(), "in");
    let service = "systemd-run -q --wait --pipe -p PrivateTmp=yes";
    let out = site.root(&format!("{service} sh -c 'echo in; ls {FOLDER}'"));
    assert!(!out.success() && out.out() == "in", "{out}");
    // A PATH that a file sets is no part of what is said about a launch that fails with it.
    site.sh_as(
        "alice",
        "cd ~; mkdir -p s3cret-bin; : > s3cret-bin/tool; echo PATH=$HOME/s3cret-bin > path",
    )
    .ok();
    for (command, code, words) in [
        (
            "nowhere",
            127,
            "nowhere: not found in PATH, which /home/alice/path sets",
        ),
        (
            "tool",
            126,
            "…/tool: Permission denied (errno 13): is it executable?",
        ),
    ] {
        let flags = "run --wait --env-file=path p --";
        let out = site.sh_as("alice", &format!("cd ~; stratavorectl {flags} {command}"));
        assert!(out.code == code && out.err().contains(words), "{out}");
        assert!(!out.err().contains("s3cret"), "{out}");
    }
    // Nothing of the values is in store, journal, properties, events, or arguments.
    let seen = site.root(&format!("journalctl --sync; journalctl --no-pager -a -o verbose; stratavorectl show -o json {id}; stratavorectl events -o json; busctl call org.stratavore1 /org/stratavore1 org.stratavore1.Manager Describe s {id}; busctl introspect org.stratavore1 /org/stratavore1/runner/{}; cat /proc/*/cmdline; cat /var/lib/stratavore/*; cat /run/stratavore/* 2>/dev/null; systemctl show 'stratavore-{id}.scope'; for p in $(pgrep -x stratavore-shim) $(pgrep -x stratavored) $(pgrep -x stratavore-agen); do cat /proc/$p/environ; done; for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; done 2>/dev/null | grep -v ^PLAIN=", id.replace('-', "_"))).out();
    assert!(
        seen.contains(&id) && seen.contains("stop_timeout") && !seen.contains("s3cret"),
        "a value leaked: {:?}",
        seen.find("s3cret").map(|at| seen[at.saturating_sub(200)..]
            .chars()
            .take(400)
            .collect::<String>())
    );
    // It outlives what is killed or restarted meanwhile, but not its runner.
    site.kill9("stratavored stratavore-agent");
    site.root("systemctl restart stratavore-agent stratavored")
        .ok();
    site.wait_up();
    site.wait_met();
    assert_eq!(site.root(&format!("cat {path}/k")).ok().out(), "s3cret-key");
    site.ctl("alice", &format!("stop {id}")).ok();
    assert_eq!(left(&site), "");
    site.check();
}

#[test]
fn what_a_runner_is_given() {
    given("creds", Root::Machine);
}

#[test]
fn what_a_runner_is_given_by_the_newest_systemd() {
    given("creds-s", Root::Sid);
}

/// A killed shim takes nothing with it; whatever is killed and whatever crashes, nothing stays.
#[test]
fn nothing_is_left_over() {
    let mut site = Site::boot("creds-left");
    furnish(&site);
    let run = |site: &Site| {
        let id = site.sh_as("alice", "stratavorectl run --load-credential=k:$HOME/key p -- sh -c 'echo > /tmp/runs; exec sleep 1000'").ok().out();
        assert_eq!(left(site), id);
        id
    };
    let id = run(&site);
    let shim = "kill -9 $(pgrep -x stratavore-shim)";
    site.root(shim).ok();
    assert_eq!(site.cause(&id), "supervisor-lost");
    wait_until("the agent clears up", SOON, || left(&site).is_empty());
    // While no agent is there.
    let id = run(&site);
    site.root(&format!("systemctl stop stratavored stratavore-agent.socket stratavore-agent; {shim}; systemctl start stratavore-agent.socket stratavored")).ok();
    site.wait_up();
    assert_eq!(site.cause(&id), "supervisor-lost");
    wait_until("the next agent clears up", SOON, || left(&site).is_empty());
    // The command could not be started, or ended at once.
    for (command, status) in [("/nowhere", 127), ("true", 0), ("sh -c 'kill -9 $$'", 137)] {
        site.sh_as(
            "alice",
            &format!("stratavorectl -q run --wait --load-credential=k:$HOME/key p -- {command}"),
        )
        .code(status);
        assert_eq!(left(&site), "", "{command}");
    }
    // What it left behind in its scope may still read it; then it goes.
    site.sh_as("alice", "stratavorectl -q run --wait --stop-timeout=30s --load-credential=k:$HOME/key p -- sh -c '(trap \"sleep .3; cat $CREDENTIALS_DIRECTORY/k > /tmp/late; exit\" TERM; echo > /tmp/set; while :; do sleep .1; done) & until [ -e /tmp/set ]; do sleep .1; done'").ok();
    assert_eq!(site.file("/tmp/late"), "s3cret-key");
    site.root("rm /tmp/late").ok();
    assert_eq!(left(&site), "");
    // The host goes down and comes up: nothing waits for the folder, and nothing is in it.
    let id = run(&site);
    site.host.power_off();
    site.host.boot_again();
    site.wait_up();
    assert_eq!(site.cause(&id), "host-shutdown");
    assert_eq!(left(&site), "");
    let before = site.root("journalctl --no-pager -b -1").ok().out();
    assert!(
        before.contains("stratavore") && !before.contains("Failed unmounting"),
        "{before}"
    );
    // The host crashes: it was in memory alone.
    run(&site);
    site.host.kill_dead();
    site.host.boot_again();
    site.wait_up();
    assert_eq!(left(&site), "");
    let found = site.root("grep -rl s3cret-key /var /etc /tmp /run 2>/dev/null || true");
    assert_eq!(found.out(), "");
    site.check();
}

/// A reader that stays, outside the scope, keeps neither the secret nor its memory.
#[test]
fn nothing_is_left_to_who_has_it_open() {
    let site = Site::boot("creds-open");
    furnish(&site);
    let flags = "--load-credential=k:$HOME/key --load-credential=big:/tmp/big";
    site.sh_as("alice", "head -c 1000000 /dev/zero > /tmp/big")
        .ok();
    let used = || site.root(&format!("df --output=used {FOLDER} | tail -n1"));
    for end in [
        "stratavorectl stop",
        "pkill -9 -x stratavore-shim; stratavorectl wait",
    ] {
        let id = site.sh_as(
            "alice",
            &format!("stratavorectl run {flags} p -- sleep 1000"),
        );
        let id = id.ok().out();
        let path = format!("{FOLDER}/{id}");
        let holder =
            format!("setsid sleep 1000 < {path}/k 3< {path}/big > /dev/null 2>&1 & echo $!");
        let pid = site.sh_as("alice", &holder).ok().out();
        let size = || {
            site.root(&format!("stat -Lc %s /proc/{pid}/fd/0 /proc/{pid}/fd/3"))
                .ok()
                .out()
        };
        wait_until("it is held", SOON, || size() == "10\n1000000");
        assert_ne!(used().out().trim(), "0");
        site.root(&format!("{end} {id}"));
        wait_until("its folder is gone", SOON, || left(&site).is_empty());
        assert_eq!(size(), "0\n0", "{end}");
        assert_eq!(used().out().trim(), "0", "{end}");
        site.root(&format!("kill {pid}")).ok();
    }
    site.check();
}

/// What is wrong with the folder is no reason to launch nothing, and never one to write to a disk.
#[test]
fn without_the_folder_only_credentials_are_refused() {
    let site = Site::boot("creds-folder");
    furnish(&site);
    let restart = "systemctl restart stratavore-agent";
    let run = |flags: &str| {
        let run = format!("cd ~ && stratavorectl -q run --pipe {flags} p -- sh -c 'echo $A,'");
        site.sh_as("alice", &run)
    };
    for (wrong, words, right) in [
        (
            format!("umount -l {FOLDER}; rmdir {FOLDER}; : > {FOLDER}"),
            format!("The folder of credentials {FOLDER} can't be used: "),
            format!("rm {FOLDER}"),
        ),
        (
            format!("mkdir -p /srv/disk; chmod 711 /srv/disk; mount --bind /srv/disk {FOLDER}"),
            "in memory alone, and it is on neither a tmpfs nor a ramfs".to_owned(),
            format!("umount -l {FOLDER}"),
        ),
    ] {
        site.root(&format!("{wrong}; {restart}")).ok();
        site.wait_up();
        wait_for("others are launched", SOON, || {
            let out = run("--env-file=env");
            if out.out() == "1," {
                Ok(())
            } else {
                Err(out.to_string())
            }
        });
        let out = run("--load-credential=k:key").code(125);
        assert!(out.err().contains(&words), "{out}");
        let journal = site.journal("-b -u stratavore-agent");
        assert!(journal.contains(&words), "{journal}");
        site.root(&format!("{right}; {restart}")).ok();
        site.wait_up();
        wait_for("all is well again", SOON, || {
            let out = run("--load-credential=k:key");
            if out.success() {
                Ok(())
            } else {
                Err(out.to_string())
            }
        });
    }
    site.check();
}

/// No path leads to what the user may not read, and nothing but a file is read.
#[test]
fn with_the_users_rights_alone() {
    let site = Site::boot("creds-rights");
    site.sh_as("alice", "cd ~; ln -s /etc/shadow shadow; mkfifo fifo; mkdir dir; printf x > file; chmod 000 file; head -c 1048577 /dev/zero > big; head -c 600000 /dev/zero > half; printf 'A=1\\nsecret-line\\n' > bad; printf 'export A=b' > export; printf 'A=1\\nB=\"secret-quote\\nC=2\\n' > quote; ln -s loop loop; head -c 300000 /dev/zero | tr '\\0' x > long; seq -f 'A%.0f=x' 1025 > many; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'").ok();
    for (flags, words) in [
        (
            "--load-credential=k:/etc/shadow",
            "credential k: /etc/shadow can't be read as uid 2001: Permission denied",
        ),
        ("--load-credential=k:shadow", "Permission denied"),
        ("--load-credential=k:file", "Permission denied"),
        ("--load-credential=k:/proc/1/environ", "Permission denied"),
        (
            "--load-credential=k:fifo",
            "credential k: /home/alice/fifo is not a regular file",
        ),
        ("--load-credential=k:/dev/zero", "not a regular file"),
        ("--load-credential=k:socket", "not a regular file"),
        ("--load-credential=k:dir", "not a regular file"),
        ("--load-credential=k:loop", "symbolic links"),
        ("--load-credential=k:nowhere", "No such file"),
        ("--load-credential=k:/srv/true", "No such file"),
        (
            "--load-credential=k:big",
            "too large: all credentials of a runner together may have 1048576 bytes",
        ),
        (
            "--load-credential=k:half --load-credential=l:half",
            "credential l: /home/alice/half is too large",
        ),
        ("--load-credential=a/b:file", "a/b"),
        (
            "--env-file=/dev/fd/3",
            "“/dev/fd/3” is another file for each process",
        ),
        (
            "--load-credential=k:file --load-credential=k:dir",
            "given twice",
        ),
        ("--load-credential=key", "NAME:PATH"),
        ("--load-credential=key:", "path is empty"),
        (
            "--env-file=/etc/shadow",
            "environment file: /etc/shadow can't be read as uid 2001: Permission denied",
        ),
        ("--env-file=-/etc/shadow", "Permission denied"),
        ("--env-file=fifo", "not a regular file"),
        ("--env-file=nowhere", "No such file"),
        (
            "--env-file=bad",
            "environment file: /home/alice/bad: line 2 is not of the form NAME=VALUE",
        ),
        ("--env-file=export", "line 1"),
        ("--env-file=quote", "line 2 has a quote that is not closed"),
        ("--env-file=long", "262144"),
        ("--env-file=many", "at most 1024 variables"),
    ] {
        let out = site.sh_as(
            "alice",
            &format!("cd ~ && timeout 30 stratavorectl run --wait {flags} p -- true"),
        );
        assert!(
            out.err().contains(words) && matches!(out.code, 2 | 125),
            "{flags}: {out}"
        );
        assert!(!out.err().contains("secret-"), "{out}");
    }
    let ran =
        site.sql("SELECT id FROM runners WHERE json_extract(exit, '$.cause') <> 'launch-failed'");
    assert!(ran.is_empty(), "nothing ran: {ran:?}");
    assert_eq!(left(&site), "");
    // What everybody is told names no path.
    let public = site
        .root("journalctl --sync; journalctl --no-pager -a; stratavorectl events -o json")
        .out();
    assert!(
        !public.contains("/etc/shadow") && !public.contains("secret-"),
        "{public}"
    );
    // With -H a relative path is nobody's.
    let out = site.sh_as(
        "alice",
        "stratavorectl -H nowhere run --env-file=env p -- true",
    );
    let words =
        "With -H and --on the file is read on the other host; “env” is not an absolute path.";
    assert!(out.code == 2 && out.err().contains(words), "{out}");

    // Root launches for alice: it is alice's rights that count.
    let out = site
        .root("stratavorectl run --wait --uid=alice --load-credential=k:/etc/shadow p -- true")
        .code(125);
    assert!(
        out.err().contains("as uid 2001: Permission denied"),
        "{out}"
    );
    // The groups are the user's, too.
    site.root(
        "usermod -aG adm alice; printf group-secret > /srv/g; chgrp adm /srv/g; chmod 640 /srv/g",
    )
    .ok();
    wait_for("the new group counts", SOON, || {
        let out = site.sh_as("alice", "stratavorectl -q run --pipe --load-credential=g:/srv/g p -- sh -c 'cat $CREDENTIALS_DIRECTORY/g'");
        // Accounts are remembered by the agent for a moment.
        if out.out() == "group-secret" {
            Ok(())
        } else {
            Err(out.to_string())
        }
    });
    // A file that becomes a link to another one all the time is one or the other, or neither.
    let race = "cd /tmp && printf mine > own && (while :; do cp own new && mv new swap; ln -s /etc/shadow link && mv link swap; done) & swapping=$!; until [ -e /tmp/swap ]; do sleep .05; done; for i in $(seq 40); do stratavorectl -q run --pipe --load-credential=k:/tmp/swap p -- sh -c 'cat $CREDENTIALS_DIRECTORY/k; echo'; done 2>&1 | sort | uniq -c; kill $swapping";
    let race = site.host.command(["bash", "-c", race]).user("alice");
    let out = race.limit(SOON * 10).run().ok();
    eprintln!("{}", out.out());
    assert!(
        out.out()
            .lines()
            .all(|l| l.ends_with(" mine") || l.contains("Permission denied")),
        "{out}"
    );
    for seen in [" mine", "Permission denied"] {
        assert!(out.out().contains(seen), "{out}");
    }
    site.check();
}

/// A file system that does not answer, as the lease that another process has on the program and
/// then on its interpreter, 45 s each: the launch fails in time, and the command never runs.
#[test]
fn a_launch_that_hangs_is_given_up() {
    let site = Site::boot("creds-hang");
    furnish(&site);
    let hold = r#"
import fcntl, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = [open("/dev/shm/" + name, "rb") for name in "xi"]
for file in held:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open("/dev/shm/held", "w").close()
time.sleep(1000)
"#;
    site.host.write("/tmp/hold.py", hold);
    site.root("cd /dev/shm; cp /bin/true i; printf '#!/dev/shm/i\n' > x; chmod 755 i x; setsid python3 /tmp/hold.py > /tmp/hold.log 2>&1 &").ok();
    wait_until("the leases are held", SOON, || {
        site.root("test -e /dev/shm/held").success()
    });
    let flags = "--wait --load-credential=k:$HOME/key";
    let run = format!("stratavorectl run {flags} p -- /dev/shm/x");
    let run = site.host.command(["bash", "-c", &run]).user("alice");
    let out = run.limit(SOON * 6).run();
    assert!(out.code == 125, "{out}");
    assert!(out.err().contains("could not be run within 50 s"), "{out}");
    assert_eq!(left(&site), "");
    let causes = site.sql("SELECT json_extract(exit, '$.cause') FROM runners");
    assert!(
        format!("{causes:?}").contains("launch-failed"),
        "{causes:?}"
    );
    site.check();
}

/// The same files mean the same to systemd and to us.
#[test]
fn environment_files_are_systemds() {
    let site = Site::with(Plan {
        name: "creds-env",
        root: Root::Trixie,
        ..Plan::default()
    });
    let text = r#"
# comment \
A=after a comment
;B=no
C='single $x \n "q"'
D="double \"q\" \$x \\ \n `no`"
E=plain  with  blanks   
F=a\
b
G="two
lines"
H='a'"b"c
I=
  J = blanks around
K=esc\'aped\ 
L=x=y=z
M="joined \
here"
O=kept  \

A=again
N=‹ü›
"#;
    let text = text.trim_start();
    site.host.write("/tmp/env", text);
    site.root("chmod 644 /tmp/env").ok();
    let show = r#"python3 -c "import os; print(sorted((k, v) for k, v in os.environ.items() if len(k) == 1 and k != '_'))""#;
    let theirs = site
        .root(&format!(
            "systemd-run -q --wait --pipe -p EnvironmentFile=/tmp/env {show}"
        ))
        .ok();
    let ours = site
        .sh_as(
            "alice",
            &format!("stratavorectl -q run --pipe --env-file=/tmp/env p -- {show}"),
        )
        .ok();
    assert_eq!(ours.out(), theirs.out());
    assert!(
        ours.out().contains("('A', 'again')") && ours.out().contains("two\\nlines"),
        "{ours}"
    );
}

/// Root's own runners read as root, where root has allowed them.
#[test]
fn roots_own_runners_may_have_roots_files() {
    let site = Site::with(Plan {
        name: "creds-root",
        agent_config: "allow_root = true\n",
        ..Plan::default()
    });
    let out = site.root("stratavorectl -q run --uid=root --pipe --load-credential=k:/etc/shadow p -- sh -c 'cat $CREDENTIALS_DIRECTORY/k | head -n1; stat -c \"%U %A\" $CREDENTIALS_DIRECTORY'").ok();
    assert!(
        out.out().starts_with("root:") && out.out().ends_with("root dr-x------"),
        "{out}"
    );
    assert_eq!(left(&site), "");
    site.check();
}

/// An agent or a shim of the first release is not asked for what it would pass over in silence.
#[test]
#[cfg(target_arch = "x86_64")] // what tests/frozen holds
fn earlier_releases_refuse() {
    let site = Site::with(Plan {
        name: "creds-old",
        bind: Some((project().join("target/test-payload-frozen"), "/srv/first")),
        ..Plan::default()
    });
    furnish(&site);
    let folder = "usr/libexec/stratavore";
    site.root(&format!(
        "mkdir -p /srv/this; cp -a --parents /{folder} /srv/this/"
    ))
    .ok();
    let put = |from: &str, program: &str| {
        site.root(&format!("cp /srv/{from}/{folder}/{program} /{folder}/{program}.new && mv /{folder}/{program}.new /{folder}/{program}")).ok();
    };
    let run = |flags: &str| {
        site.sh_as("alice", &format!("cd ~ && stratavorectl -q run --pipe {flags} p -- sh -c 'echo ran; cat $CREDENTIALS_DIRECTORY/k'"))
    };
    let refused = |words: &str| {
        for flags in ["--load-credential=k:key", "--env-file=env"] {
            let out = run(flags);
            assert!(
                out.code == 125 && out.out().is_empty() && out.err().contains(words),
                "{out}"
            );
        }
        assert_eq!(left(&site), "");
    };
    put("first", "stratavore-shim");
    refused("stratavore-shim is of an earlier release than the stratavore-agent");
    put("first", "stratavore-agent");
    site.root("systemctl restart stratavore-agent").ok();
    site.wait_met();
    refused("systemctl restart stratavore-agent");
    put("this", "stratavore-shim");
    put("this", "stratavore-agent");
    site.root("systemctl restart stratavore-agent").ok();
    wait_for("all is of one release again", SOON, || {
        let out = run("--load-credential=k:key");
        if out.out() == "ran\ns3cret-key" {
            Ok(())
        } else {
            Err(out.to_string())
        }
    });
    site.check();
}
