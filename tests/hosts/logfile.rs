//! Log files: output that does not go through journald.

use crate::fixture::{Plan, SOON, Site};
use crate::load::within;
use crate::support::{Root, wait_for, wait_until};
use std::time::{Duration, Instant};

const LOGS: &str = "/var/lib/stratavore/logs";

/// All that `logs` prints.
#[track_caller]
fn log(site: &Site, id: &str) -> String {
    let command = site
        .host
        .command(["stratavorectl", "logs", id])
        .user("alice");
    command.limit(Duration::from_secs(60)).run().ok().out()
}

/// Bytes on disk, of all runners.
fn size(site: &Site) -> u64 {
    let entries = std::fs::read_dir(site.host.path(LOGS)).unwrap();
    // Between the listing and the look one may have been renamed.
    let sizes = entries.flatten().filter_map(|e| e.metadata().ok());
    sizes.map(|m| m.len()).sum()
}

/// Memory that a process shares with nobody.
fn private_kb(site: &Site, pid: &str) -> Option<u64> {
    let rollup = site.file(&format!("/proc/{pid}/smaps_rollup"));
    let private = rollup.lines().filter(|l| l.starts_with("Private_"));
    let sizes = private.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    (!rollup.is_empty()).then(|| sizes.sum())
}

/// The numbers of `seq` from somewhere to the end, without a gap.
#[track_caller]
fn counts_up_to(text: &str, last: u64) -> u64 {
    let numbers: Vec<u64> = text.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&last));
    assert!(
        numbers.windows(2).all(|w| w[0] + 1 == w[1]),
        "a line is missing"
    );
    numbers.len() as u64
}

#[test]
fn a_log_file() {
    let site = Site::with(Plan {
        name: "logfile",
        agent_config: "[ceilings]\nlog_file_max = \"8M\"\n",
        ..Plan::default()
    });
    let id = site.run(
        "--name talker --log-file-max=1M -- sh -c 'echo one; echo two > /dev/stderr; printf three > /dev/stdout; exit 4'",
    );
    assert_eq!(site.cause(&id), "exit-code");
    assert_eq!(log(&site, "talker"), "one\ntwo\nthree");
    let journal = format!("journalctl -o cat _SYSTEMD_UNIT=stratavore-{id}.scope");
    assert!(
        !site.root(&journal).out().contains("two"),
        "either there or in the journal"
    );
    let say = |arguments: &str| site.ctl("alice", &format!("logs {arguments}"));
    assert_eq!(say("-n1 talker").ok().out(), "three");
    assert_eq!(say("-f -n2 talker").ok().out(), "two\nthree");
    let json = say("-o json talker").ok().out();
    let entries: Vec<serde_json::Value> = json
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(
        (entries.len(), &entries[2]["MESSAGE"]),
        (3, &"three".into())
    );
    assert_eq!(entries[0]["STRATAVORE_RUNNER"], *id);
    site.ctl("bob", &format!("logs {id}")).code(4);
    // What it is called elsewhere.
    assert_eq!(site.show(&id)["log_file_max"], 1 << 20);
    let shown = site.ctl("alice", "show talker").ok().out();
    for part in ["newest 1M", "stratavorectl logs", "\ntwo\nthree"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("journalctl"), "{shown}");
    // Root's, and out of everybody's reach.
    let modes = site
        .root(&format!("stat -c '%U %a' {LOGS} {LOGS}/*"))
        .ok()
        .out();
    assert_eq!(modes, "root 700\nroot 600");
    for reach in ["ls", "cd", "cat"] {
        assert!(
            !site
                .sh_as("alice", &format!("{reach} {LOGS}/{id}.log"))
                .success()
        );
    }
    // What is refused, and how.
    for (flags, code, words) in [
        ("--log-file-max=100", 2, "from 4K to 1T"),
        ("--log-file-max=much", 2, "is not a size"),
        ("--log-file-max=9M", 1, "ceiling of 8M"),
        ("--log-file-max=1M --pipe", 2, "--pipe"),
    ] {
        let out = site.ctl("alice", &format!("run {flags} p -- true"));
        assert!(
            out.code == code && out.err().contains(words),
            "{flags}: {out}"
        );
    }
    let checked = site.root("printf '[ceilings]\\nlog_file_max = \"1K\"\\n' > /tmp/a.toml; chmod 644 /tmp/a.toml; /usr/libexec/stratavore/stratavore-agent --check-config /tmp/a.toml");
    assert!(
        !checked.success() && checked.err().contains("log_file_max"),
        "{checked}"
    );
    let refused = site.sql("SELECT json_extract(exit, '$.cause') AS cause FROM runners WHERE id <> (SELECT MIN(id) FROM runners)");
    assert!(
        refused.iter().all(|r| r["cause"] == "launch-failed"),
        "{refused:?}"
    );
    assert_eq!(
        site.root(&format!("ls -A {LOGS} | wc -l")).out(),
        "1",
        "nothing of what was refused"
    );
    site.check();
}

/// As fast as it goes, with journald's own rate limit.
fn nothing_is_lost(name: &'static str, root: Root) {
    let site = Site::with(Plan {
        name,
        root,
        ..Plan::default()
    });
    site.root("printf '[Journal]\\nRateLimitIntervalSec=30s\\nRateLimitBurst=10000\\n' > /etc/systemd/journald.conf.d/zz.conf && systemctl restart systemd-journald")
        .ok();
    let began = Instant::now();
    let id = site.run("--log-file-max=16M -- seq 100000");
    site.ended(&id);
    eprintln!("100,000 lines into a log file: {:?}", began.elapsed());
    assert_eq!(counts_up_to(&log(&site, &id), 100_000), 100_000);
    let journald = site.run("-- seq 100000");
    site.ended(&journald);
    let lines = log(&site, &journald).lines().count();
    eprintln!("of 100,000 journald has {lines}");
    assert!(lines < 100_000, "the rate limit that is got round here");
    site.check();
}

#[test]
fn nothing_is_lost_252() {
    nothing_is_lost("logfile-252", Root::Machine);
}

#[test]
fn nothing_is_lost_257() {
    nothing_is_lost("logfile-257", Root::Trixie);
}

/// 40 times more than fits, while it is read and followed: never more than the limit, and the newest is there.
#[test]
fn the_limit_holds_at_every_moment() {
    const MAX: u64 = 256 << 10;
    let site = Site::boot("logfile-max");
    site.sh_as("alice", "mkfifo -m 666 /tmp/go").ok();
    let script = "'echo first; read line < /tmp/go; seq 1500000'";
    let id = site.run(&format!("--log-file-max=256K -- sh -c {script}"));
    let mut follower = site
        .host
        .command([
            "bash",
            "-c",
            &format!("stratavorectl logs -f {id} > /tmp/followed; echo done"),
        ])
        .user("alice")
        .spawn();
    wait_until("it is followed", SOON, || {
        site.file("/tmp/followed") == "first\n"
    });
    let shim = site.root("pgrep -xo stratavore-shim").ok().out();
    let before = private_kb(&site, &shim).unwrap();
    eprintln!("a shim's own memory before: {before} KB");
    site.sh_as("alice", "echo > /tmp/go").ok();
    let (began, mut looks, mut most) = (Instant::now(), 0, 0);
    let mut private = Vec::new();
    while !site.scopes().is_empty() {
        most = most.max(size(&site));
        if looks % 50 == 0 {
            private.extend(private_kb(&site, &shim));
        }
        looks += 1;
        assert!(began.elapsed() < Duration::from_secs(120));
    }
    eprintln!(
        "10 MB in {:?}; {looks} looks, at most {most} bytes; shim {private:?} KB",
        began.elapsed()
    );
    assert!(looks > 10 && most <= MAX, "{most}");
    let grown = private.iter().max().unwrap().saturating_sub(before);
    // A debug build's stack is deeper and its pages are touched one by one: 36 to 108 KB seen. Half the file would be 128.
    assert!(grown < 128, "KB more of its shim's own memory: {grown}");
    site.ended(&id);
    let kept = log(&site, &id);
    let lines = counts_up_to(&kept, 1_500_000);
    assert!(
        kept.len() as u64 > MAX / 2 - 200,
        "{lines} lines, {} bytes",
        kept.len()
    );
    let few = site.ctl("alice", &format!("logs -n 5 {id}")).ok().out();
    assert_eq!(counts_up_to(&few, 1_500_000), 5);
    // Who follows sees the end, and is told of what was faster.
    assert_eq!(follower.wait(SOON).ok().out(), "done");
    let followed = site.file("/tmp/followed");
    assert!(followed.ends_with("\n1500000\n"));
    let gaps = followed
        .lines()
        .filter(|l| l.contains("overwritten before they were read"))
        .count();
    let numbers: Vec<u64> = followed.lines().filter_map(|l| l.parse().ok()).collect();
    eprintln!("the follower got {} lines, with {gaps} gaps", numbers.len());
    assert!(gaps > 0 || numbers.len() == 1_500_000);
    // The line before a gap may be cut short, and be a number even so.
    assert!(numbers.windows(2).filter(|w| w[0] + 1 != w[1]).count() <= 2 * gaps);
    // Lines without an end.
    let id =
        site.run("--log-file-max=8K -- sh -c 'head -c 1M /dev/zero | tr \"\\\\0\" x; printf END'");
    site.ended(&id);
    let kept = log(&site, &id);
    assert!(
        kept.ends_with("xEND") && (4000..8192).contains(&kept.len()),
        "{}",
        kept.len()
    );
    site.check();
}

/// A full disk stops no runner, and what is missing is told.
#[test]
fn a_full_disk() {
    let site = Site::boot("logfile-full");
    site.root(&format!(
        "mount -t tmpfs -o size=2M,mode=700 tmpfs {LOGS} && systemctl restart stratavore-agent"
    ))
    .ok();
    site.wait_up();
    wait_until("the agent is connected", SOON, || {
        site.ctl("root", "reconcile").success()
    });
    site.sh_as("alice", "mkfifo -m 666 /tmp/go").ok();
    let id = site
        .run("--log-file-max=16M -- sh -c 'seq 1000000; read line < /tmp/go; echo end; exit 7'");
    wait_for("it is told while it lives", SOON, || {
        let told = site
            .root("journalctl -q -o cat -u stratavore-agent --grep 'log file'")
            .out();
        match told.lines().count() {
            1 => Ok(()),
            _ => Err(format!("{told}\n{}", site.log())),
        }
    });
    wait_until("it has written all", SOON, || {
        site.root("pgrep -x seq").code == 1
    });
    let free = site
        .root(&format!("df --output=avail -B1 {LOGS} | tail -n1"))
        .ok()
        .out();
    let free: u64 = free.trim().parse().unwrap();
    assert!(
        free >= (2 << 20) / 20 - 40_000,
        "some is left to others: {free}"
    );
    site.root(&format!("mount -o remount,size=16M {LOGS}")).ok();
    site.sh_as("alice", "echo > /tmp/go").ok();
    let ended = site.ended(&id);
    assert_eq!(
        (&ended["exit"]["cause"], &ended["exit"]["code"]),
        (&"exit-code".into(), &7.into())
    );
    let kept = log(&site, &id);
    let (before, after) = kept.split_once("-- stratavore: ").expect("a note");
    assert!(before.starts_with("1\n2\n3\n"));
    let (missing, rest) = after.split_once(' ').unwrap();
    assert_eq!(
        rest,
        "bytes of output are missing here: No space left on device (os error 28) --\nend"
    );
    let all: usize = (1..=1_000_000).map(|n: u32| n.to_string().len() + 1).sum();
    let written = before.trim_end_matches('\n').len();
    let missing: usize = missing.parse().unwrap();
    assert!(
        (all - 1..=all).contains(&(written + missing)),
        "{written} + {missing} of {all}"
    );
    let message = ended["exit"]["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("{missing} bytes of its output are missing")),
        "{message}"
    );
    // Too full from the start: refused with a sentence.
    site.root(&format!("head -c 15M /dev/zero > {LOGS}/filler; true"))
        .ok();
    let refused = site.ctl("alice", "run --log-file-max=4K p -- true").code(1);
    assert!(
        refused.err().contains("log file can't be begun") && refused.err().contains("No space"),
        "{refused}"
    );
    site.root(&format!("rm {LOGS}/filler")).ok();
    site.check();
}

/// Whoever of ours is killed while it writes.
#[test]
fn kills_lose_nothing_that_was_written() {
    let site = Site::boot("logfile-kill");
    let numbers = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo $i; done";
    let id = site.run(&format!(
        "--name writer --log-file-max=4M -- sh -c '{numbers}'"
    ));
    site.kill9("stratavore-agent");
    site.kill9("stratavored");
    site.kill9("stratavored stratavore-agent");
    site.ended(&id);
    assert_eq!(counts_up_to(&log(&site, &id), 60_000), 60_000);
    // A follower over a restart of daemon is not disturbed; of the agent it is told.
    let id = site.run("--log-file-max=16K -- sh -c 'i=0; while :; do i=$((i+1)); echo $i; done'");
    let mut follower = site
        .host
        .command([
            "bash",
            "-c",
            &format!("stratavorectl logs -f {id} > /tmp/followed; tail -n1 /tmp/followed"),
        ])
        .user("alice")
        .spawn();
    wait_until("it has turned", SOON, || {
        site.host.path(&format!("{LOGS}/{id}.old")).exists()
    });
    wait_until("it is followed", SOON, || {
        !site.file("/tmp/followed").is_empty()
    });
    site.kill9("stratavored");
    let shim = site
        .root(&format!("for p in $(cat /sys/fs/cgroup/stratavore.slice/*/stratavore-{id}.scope/cgroup.procs); do [ $(cat /proc/$p/comm) = stratavore-shim ] && echo $p; done"))
        .out();
    site.root(&format!("kill -9 {shim}")).ok();
    assert_eq!(site.cause(&id), "supervisor-lost");
    let kept = log(&site, &id);
    let last: u64 = kept.lines().next_back().unwrap().parse().unwrap();
    // The last line may be cut short.
    counts_up_to(
        kept.trim_end().rsplit_once('\n').unwrap().0,
        kept.lines().rev().nth(1).unwrap().parse().unwrap(),
    );
    assert!(last > 1 && kept.len() > 6_000 && size(&site) <= (16 << 10) + (4 << 20));
    let out = follower.wait(SOON);
    assert_eq!(out.out().trim().parse().ok(), Some(last), "{out}");
    // In the middle of beginning another half.
    site.sh_as("alice", "mkfifo -m 666 /tmp/turn").ok();
    for point in ["created", "demoted", "promoted"] {
        let id = site
            .run("--log-file-max=4K -- sh -c 'echo first; read line </tmp/turn; exec seq 1000000'");
        wait_until("it has begun", SOON, || log(&site, &id) == "first");
        site.crash_at(format_args!("shim.log-{point}"));
        site.sh_as("alice", "echo > /tmp/turn").ok();
        assert_eq!(site.cause(&id), "supervisor-lost");
        let kept = log(&site, &id);
        let first = kept.lines().next().unwrap();
        assert!(
            first == "first" || first.parse::<u64>().is_ok(),
            "{point}: {kept}"
        );
        assert!(kept.len() > 1_900, "{point}: {}", kept.len());
    }
    site.check();
}

/// A process elsewhere that writes on into the runner's pipe holds nothing up.
#[test]
fn the_end_does_not_wait_for_strangers() {
    let site = Site::boot("logfile-strangers");
    let id = site.run("--log-file-max=64K -- sleep 1000");
    let pid = site.root("pgrep -u alice -x sleep").ok().out();
    let mut yes = site
        .host
        .command([
            "bash",
            "-c",
            &format!("yes stranger > /proc/{pid}/fd/1; echo over $?"),
        ])
        .user("alice")
        .spawn();
    wait_until("it writes", SOON, || log(&site, &id).contains("stranger"));
    let began = Instant::now();
    // The shim still has an ear for orders.
    site.ctl("alice", &format!("stop {id}")).ok();
    assert_eq!(site.cause(&id), "stopped");
    assert!(
        began.elapsed() < within(Duration::from_secs(10)),
        "{:?}",
        began.elapsed()
    );
    assert!(yes.wait(SOON).ok().out().contains("over 141"));
    // A runner that never stops writing is stopped as any other; its limit on time holds, too.
    let id = site.run("--log-file-max=64K --runtime-max=1s -- yes");
    assert_eq!(site.cause(&id), "timeout");
    // It plays with its own pipe.
    let id = site.run("--log-file-max=64K -- python3 -c 'import os, fcntl\nr = os.open(\"/dev/stdout\", os.O_RDONLY)\nfcntl.fcntl(1, 1031, 4096)\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_NONBLOCK)\nos.chmod(\"/dev/stdout\", 0)\nprint(\"played\")'");
    site.ended(&id);
    site.clear();
}

/// Log files go when nobody knows their runner any more, and not before.
#[test]
fn removal() {
    let site = Site::boot("logfile-gone");
    let live = site.run("--log-file-max=4K -- sh -c 'echo live; sleep 1000'");
    let [ended, pruned] = ["ended", "pruned"].map(|word| {
        let id = site.run(&format!("--log-file-max=4K -- echo {word}"));
        site.ended(&id);
        id
    });
    let unknown = "0193c1d2-0000-7000-8000-000000000001";
    let young = "0193c1d2-0000-7000-8000-000000000002";
    site.root(&format!(
        "cd {LOGS}; cp {pruned}.log {unknown}.log; cp {pruned}.log {unknown}.old; touch -d '-2 days' *; cp {pruned}.log {young}.log; touch -d '-2 days' other"
    ))
    .ok();
    site.sql(&format!("DELETE FROM runners WHERE id = '{pruned}'"));
    let names = || {
        let out = site.root(&format!("ls -A {LOGS}")).ok().out();
        let mut names: Vec<String> = out.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names().len(), 7);
    site.ctl("root", "reconcile --dry-run").ok();
    assert_eq!(names().len(), 7);
    site.kill9("stratavored stratavore-agent");
    site.ctl("root", "reconcile").ok();
    let mut expected = vec![
        format!("{live}.log"),
        format!("{ended}.log"),
        format!("{young}.log"),
        "other".to_owned(),
    ];
    expected.sort();
    assert_eq!(names(), expected);
    assert_eq!(
        (log(&site, &live), log(&site, &ended)),
        ("live".to_owned(), "ended".to_owned())
    );
    // A store that has forgotten a live runner: it and its log stay.
    site.root("systemctl stop stratavored; rm /var/lib/stratavore/stratavore.db*; systemctl start stratavored").ok();
    site.wait_up();
    site.root(&format!("touch -d '-2 days' {LOGS}/*")).ok();
    site.ctl("root", "reconcile").ok();
    assert_eq!(names(), [format!("{live}.log"), "other".to_owned()]);
    site.root(&format!("systemctl stop stratavore-{live}.scope"))
        .ok();
    wait_until("it is over", SOON, || site.scopes().is_empty());
    // The folder is no way in for who may write above it.
    site.root(&format!("systemctl stop stratavored stratavore-agent.socket stratavore-agent; mv {LOGS} {LOGS}.away; ln -s /etc {LOGS}; systemctl start stratavore-agent.socket; systemctl start stratavore-agent; true"));
    assert_ne!(
        site.root("systemctl is-active stratavore-agent").out(),
        "active"
    );
    site.root(&format!("systemctl stop stratavore-agent; rm {LOGS}; mv {LOGS}.away {LOGS}; systemctl start stratavore-agent.socket stratavored")).ok();
    site.wait_up();
}
