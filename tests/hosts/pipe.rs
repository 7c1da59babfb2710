//! `run --pipe`: the caller's descriptors become the runner's, and nobody in between keeps one.

use crate::fixture::{SOON, Site};
use crate::support::{wait_for, wait_until};
use std::time::Duration;

/// How many descriptors daemon and agent have open, without those of the store: it opens its
/// connections as they are needed.
fn open_files(site: &Site) -> [usize; 2] {
    ["stratavored", "stratavore-agent"].map(|unit| {
        let pid = site.main_pid(unit);
        let out = site
            .root(&format!("ls -l /proc/{pid}/fd | grep -vc stratavore.db"))
            .ok()
            .out();
        out.parse().unwrap()
    })
}

/// Until both have no more open than before; what serves a burst is closed a little later.
#[track_caller]
fn no_more_than(site: &Site, before: [usize; 2]) {
    wait_for("no descriptor is left open", SOON, || {
        let now = open_files(site);
        match now[0] <= before[0] && now[1] <= before[1] {
            true => Ok(()),
            false => {
                let pid = site.main_pid("stratavored");
                let open = site.root(&format!("ls -l /proc/{pid}/fd")).out();
                Err(format!("before {before:?}, now {now:?}: {open}"))
            }
        }
    });
}

#[test]
fn a_pipe_through_a_runner() {
    let site = Site::boot("pipe");
    let sh = |script: &str| site.sh_as("alice", &format!("set -o pipefail; {script}"));
    let pipe = "stratavorectl -q run --pipe p --";
    let out = sh(&format!("echo x | {pipe} cat | tr x y")).ok();
    assert_eq!((out.out(), out.err()), ("y".to_owned(), String::new()));
    // Standard error has its own way, and --wait changes nothing.
    let out = sh("stratavorectl run -P --wait p -- sh -c 'echo out; echo err >&2; exit 7'").code(7);
    assert!(out.out() == "out" && out.err().contains("err"), "{out}");
    // It runs as itself, in its own scope, not in the caller's.
    let out = sh(&format!("{pipe} sh -c 'id -un; cat /proc/self/cgroup'")).ok();
    assert!(
        out.out().starts_with("alice\n") && out.out().contains("/stratavore-p.slice/"),
        "{out}"
    );
    // Whoever reads no more ends it, as in any pipe.
    let out = sh(&format!("{pipe} yes | head -n1; echo ${{PIPESTATUS[0]}}")).ok();
    assert_eq!(out.out(), "y\n141", "{out}");
    for (command, status) in [
        ("/nowhere", 127),
        ("/etc/passwd", 126),
        ("sh -c 'kill -9 $$'", 137),
        ("true", 0),
    ] {
        sh(&format!("{pipe} {command}")).code(status);
    }
    // What is not allowed.
    assert_eq!(sh("stratavorectl run -o json --pipe p -- true").code, 125);
    sh("stratavorectl run --explain --pipe p -- true").code(2);
    // A hundred megabytes, unharmed. Faster than a slow disk in any case: nobody copies on the way.
    let out = sh(&format!(
        "head -c 100M /dev/urandom > /tmp/100M; sum=$(sha256sum < /tmp/100M); time (got=$({pipe} cat < /tmp/100M | sha256sum); [ \"$sum\" = \"$got\" ]) && time (cat < /tmp/100M | sha256sum)"
    ))
    .ok();
    eprintln!(
        "100 MB through a runner, then through cat alone: {}",
        out.err()
    );
    // Only one of three, by the bus: the others stay as they are.
    let out = sh("python3 - <<'E'
import os, socket, array, subprocess
r, w = os.pipe()
os.set_inheritable(w, True)
# busctl cannot pass descriptors: a D-Bus client in twenty lines would be longer than this.
p = subprocess.run(['stratavorectl','-q','run','--pipe','p','--','echo','one'], stdout=w, pass_fds=[w])
os.close(w)
print(os.read(r, 100), os.read(r, 100))
E")
    .ok();
    assert_eq!(out.out(), "b'one\\n' b''");
    site.check();
}

/// The reader sees the end when the runner ends, also while daemon, agent and the caller are gone.
#[test]
fn a_pipe_outlives_all_but_its_runner() {
    let site = Site::boot("pipe-restart");
    site.host.write(
        "/tmp/hold.sh",
        "mkfifo -m 666 /tmp/out /tmp/in\nexec 3<>/tmp/in\n(cat /tmp/out > /tmp/got; echo end > /tmp/end) &\nstratavorectl run --name held --pipe p -- sh -c 'while read line; do echo got $line; done' < /tmp/in > /tmp/out &\ncaller=$!\nwhile ! stratavorectl -q show held >/dev/null 2>&1; do sleep 0.1; done\nkill -9 $caller\necho one >&3\nexec sleep 1000\n",
    );
    let mut holder = site
        .host
        .command(["bash", "/tmp/hold.sh"])
        .user("alice")
        .spawn();
    let got = || site.file("/tmp/got");
    wait_until("the first line came through", SOON, || got() == "got one\n");
    site.kill9("stratavored stratavore-agent");
    site.root("systemctl restart stratavored stratavore-agent")
        .ok();
    site.wait_up();
    site.wait_met();
    let write = |line: &str| site.sh_as("alice", &format!("echo {line} > /tmp/in"));
    write("two").ok();
    wait_until("it goes on", SOON, || got().ends_with("got two\n"));
    assert!(!site.host.path("/tmp/end").exists());
    site.ctl("alice", "stop held").ok();
    wait_until("its reader sees the end", SOON, || {
        site.host.path("/tmp/end").exists()
    });
    holder.kill();
    site.check();
}

/// A request repeated with other pipes returns the first runner and closes them.
#[test]
fn a_repeated_request_keeps_the_first_pipes() {
    let site = Site::boot("pipe-again");
    let run = "stratavorectl -q run --request-id=r1 --pipe p -- sh -c 'echo once; exit 3'";
    let out = site.sh_as("alice", run).code(3);
    assert_eq!(out.out(), "once");
    let again = site.sh_as("alice", run).code(3);
    assert_eq!(again.out(), "", "{again}");
    assert!(again.err().contains("request id"), "{again}");
    let other = site.sh_as(
        "alice",
        "stratavorectl run --request-id=r1 p -- sh -c 'echo once; exit 3'",
    );
    assert!(
        other.err().contains("r1"),
        "without pipes it is another request: {other}"
    );
    assert_eq!(site.sql("SELECT id FROM runners").len(), 1);
    site.check();
}

/// After a thousand launches, and refused ones, nothing is left open in daemon or agent.
#[test]
fn no_descriptor_stays_behind() {
    let site = Site::boot("pipe-leak");
    site.ctl("root", "project create few --max-runners=1").ok();
    site.sh_as("alice", "stratavorectl run few -- sleep 1000")
        .ok();
    site.sh_as("alice", "echo x | stratavorectl run --pipe p -- cat")
        .ok();
    let many = |n: u32| {
        let script = format!(
            "seq {n} | xargs -P 16 -I N sh -c 'echo N | stratavorectl -q run --pipe p -- cat' | sort -n | uniq | wc -l"
        );
        let command = site.host.command(["bash", "-c", &script]).user("alice");
        command.limit(Duration::from_secs(300)).run().ok().out()
    };
    many(64);
    let before = open_files(&site);
    assert_eq!(many(1000), "1000", "every line came through");
    no_more_than(&site, before);
    for (refused, status) in [
        ("few -- cat", 125),
        ("nowhere -- cat", 125),
        ("p -- /nowhere", 127),
        ("--uid=bob p -- cat", 125),
        ("--working-directory=/nowhere p -- cat", 125),
    ] {
        let script = format!(
            "for i in $(seq 40); do echo x | stratavorectl --no-ask-password run --pipe {refused} 2>/dev/null; s=$?; done; exit $s"
        );
        site.sh_as("alice", &script).code(status);
    }
    no_more_than(&site, before);
    // Wrong types have a sentence.
    for options in ["1 stdin s /dev/null", "1 stdout i 1"] {
        let call = format!(
            "busctl call -- org.stratavore1 /org/stratavore1 org.stratavore1.Manager Launch 'sasa{{sv}}' p 1 true {options}"
        );
        let out = site.sh_as("alice", &call);
        assert!(
            !out.success() && out.err().contains("an h (a descriptor)"),
            "{out}"
        );
    }
    no_more_than(&site, before);
    site.clear();
}
