//! Launches: what a runner is born with, and what it is not.

use crate::fixture::Site;

/// A runner is a process of its user's, in PID 1's world, with nothing of ours in it.
#[test]
fn a_runner_is_born_clean() {
    let site = Site::boot("born");
    site.root("usermod -aG audio alice && install -d -o alice /srv/out")
        .ok();
    let id = site.run(
        "-E GREETING='hello world' --name clean --working-directory=/srv/out -- sh -c 'cat /proc/self/status > status; env > env; ls -l /proc/self/fd > fds; id > id; pwd > pwd; readlink /proc/self/ns/* > ns; cat /proc/self/cgroup > cgroup; cat /proc/self/oom_score_adj > oom; ulimit -Sn > nofile; ulimit -Hn >> nofile; umask > umask; ps -o sid= -o pgid= -o tty= -p $$ > session; touch done'",
    );
    site.wait_file("/srv/out/done");
    assert_eq!(site.cause(&id), "success");
    let file = |name: &str| site.file(&format!("/srv/out/{name}"));
    let status = file("status");
    for line in [
        "Seccomp:\t0",
        "NoNewPrivs:\t0",
        "CapEff:\t0000000000000000",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    let bounding = |text: &str| {
        text.lines()
            .find(|l| l.starts_with("CapBnd"))
            .map(str::to_owned)
    };
    assert_eq!(
        bounding(&status),
        bounding(&site.root("cat /proc/1/status").out()),
        "the whole bounding set"
    );
    assert_eq!(
        file("ns").trim(),
        site.root("readlink /proc/1/ns/*").out(),
        "PID 1's namespaces"
    );
    assert_eq!(file("id").trim(), site.sh_as("alice", "id").out());
    assert_eq!(file("pwd").trim(), "/srv/out");
    assert!(
        file("cgroup").contains(&format!(
            "/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope"
        )),
        "{}",
        file("cgroup")
    );
    assert_eq!(file("oom").trim(), "0");
    assert_eq!(file("umask").trim(), "0022");
    let fds = file("fds");
    // 0-2, and the one ls itself reads the folder with.
    assert_eq!(fds.lines().filter(|l| l.contains("->")).count(), 4, "{fds}");
    assert!(
        file("session").trim().ends_with('?'),
        "no terminal: {}",
        file("session")
    );

    let env = file("env");
    let names: Vec<&str> = env
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(n, _)| n)
        .collect();
    for needed in [
        "HOME=/home/alice",
        "USER=alice",
        "LOGNAME=alice",
        "SHELL=/bin/bash",
        "GREETING=hello world",
        "STRATAVORE_PROJECT=p",
        &format!("STRATAVORE_RUNNER_ID={id}"),
    ] {
        assert!(env.lines().any(|l| l == needed), "{needed} in\n{env}");
    }
    for name in names {
        let known = [
            "HOME",
            "USER",
            "LOGNAME",
            "SHELL",
            "PATH",
            "LANG",
            "GREETING",
            "STRATAVORE_PROJECT",
            "STRATAVORE_RUNNER_ID",
            "PWD",
            "OLDPWD",
            "SHLVL",
            "_",
        ];
        assert!(
            known.contains(&name) || name.starts_with("LC_"),
            "{name} has leaked into\n{env}"
        );
    }
    site.check();
}

/// The values of the environment are the runner's alone.
#[test]
fn a_secret_in_the_environment_goes_nowhere_else() {
    let site = Site::boot("secret");
    let id = site.run("-E API_KEY=sk-7f3b9c -- sh -c 'test ${#API_KEY} = 9 && sleep 1000'");
    site.ctl("alice", &format!("show -o json {id}")).ok();
    site.ctl("root", &format!("stop {id}")).ok();
    site.ended(&id);
    let places = site.root("grep -rl sk-7f3b9c /var/lib/stratavore /run/stratavore /var/log/journal /run/log/journal /run/systemd /etc 2>/dev/null; journalctl --no-pager -a | grep -c sk-7f3b9c; true").out();
    assert_eq!(places.trim(), "0", "{places}");
    assert!(
        !site
            .ctl("root", &format!("show -o json {id}"))
            .out()
            .contains("7f3b9c")
    );
    assert!(!site.ctl("root", "events -o json").out().contains("7f3b9c"));
}

/// The same request id is the same runner, whoever repeats it when.
#[test]
fn a_request_id_launches_once() {
    let site = Site::boot("request");
    let first = site.run("--request-id=r1 -- sh -c 'echo x >> /tmp/ran; exec sleep 1000'");
    for _ in 0..3 {
        assert_eq!(
            site.run("--request-id=r1 -- sh -c 'echo x >> /tmp/ran; exec sleep 1000'"),
            first
        );
    }
    let other = site
        .ctl("alice", "run --request-id=r1 p -- sleep 999")
        .code(1);
    assert!(
        other.err().contains("r1") || other.err().to_lowercase().contains("request"),
        "{other}"
    );
    // Another user's request ids are his own.
    site.root("usermod -aG stratavore-users bob").ok();
    let bobs = site
        .ctl("bob", "run --request-id=r1 p -- sleep 1000")
        .ok()
        .out();
    assert_ne!(bobs, first);
    // At once, from many.
    let ids = site.sh_as("alice", "for i in $(seq 20); do stratavorectl run --request-id=r2 p -- sh -c 'echo x >> /tmp/ran2; exec sleep 1000' & done; wait").ok().out();
    let mut ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 20, "{ids:?}");
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    crate::support::wait_until("the one command ran", crate::fixture::SOON, || {
        site.file("/tmp/ran2") == "x\n"
    });
    assert_eq!(site.file("/tmp/ran"), "x\n");
    site.clear();
}

/// A launch that fails says why, at once, and leaves nothing half made.
#[test]
fn failed_launches_say_why() {
    let site = Site::boot("failed");
    site.root("install -d -m 700 /srv/closed; printf x > /srv/plain; printf '#!/nonexistent\\n' > /srv/badinterp; chmod 755 /srv/badinterp").ok();
    for (arguments, words) in [
        ("p -- no-such-program", "no-such-program"),
        ("p -- /srv/plain", "/srv/plain"),
        ("p -- /srv/badinterp", "/srv/badinterp"),
        ("--working-directory=/nowhere p -- true", "/nowhere"),
        ("--working-directory=/srv/closed p -- true", "/srv/closed"),
    ] {
        let out = site.ctl("alice", &format!("run {arguments}")).code(1);
        assert!(out.err().contains(words), "{arguments}: {out}");
    }
    let out = site.ctl("root", "run --uid=54321 p -- true").code(5);
    assert!(out.err().contains("54321"), "{out}");
    let rows = site.sql("SELECT json_extract(exit, '$.cause') AS cause FROM runners");
    assert!(
        rows.iter().all(|r| r["cause"] == "launch-failed"),
        "{rows:?}"
    );
    site.check();
}
