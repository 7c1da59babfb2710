//! From the gate to the exec, and what the command finds itself in.

use crate::agent::{Agent, NOBODY, until};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use stratavore::domain::exit::{Cause, LaunchError};
use stratavore::wire::{Identity, ShimNotice, ShimRequest};

fn identity(uid: u32, gid: u32, groups: &[u32]) -> Option<Identity> {
    Some(Identity {
        uid,
        gid,
        groups: groups.to_vec(),
    })
}

/// What a launch that must fail says, told and recorded.
fn failure(
    command: &[&str],
    change: impl FnOnce(&Agent, &mut stratavore::wire::ShimOrder),
) -> LaunchError {
    let mut agent = Agent::bare(&[], false);
    let mut order = agent.order.clone();
    order.command = command.iter().map(|s| (*s).to_owned()).collect();
    change(&agent, &mut order);
    agent.order = order;
    agent.send_order(&serde_json::to_vec(&agent.order).unwrap());
    assert!(agent.gate.state().gated);
    agent.gate.say(&ShimRequest::Go);
    let Some(ShimNotice::LaunchFailed(error)) = agent.gate.hear() else {
        panic!("it was launched");
    };
    let record = agent.end();
    assert_eq!(record.launch_error.as_ref(), Some(&error));
    assert_eq!(
        (record.code, record.signal, record.never_started),
        (None, None, false)
    );
    assert_eq!(record.started_at, 0);
    assert_eq!(record.exit().cause, Cause::LaunchFailed);
    error
}

#[test]
fn what_cannot_be_started_says_why() {
    let said = |error: LaunchError, step: &str, errno: i32, text: &str| {
        assert_eq!(
            (error.step.as_str(), error.errno),
            (step, errno),
            "{}",
            error.message
        );
        assert!(error.message.contains(text), "{}", error.message);
    };
    let error = failure(&["nosuch"], |_, o| {
        o.env = vec!["PATH=/bin:/nowhere".to_owned()]
    });
    said(error, "exec", 2, "nosuch: not found in PATH=/bin:/nowhere");
    let error = failure(&["/nosuch"], |_, _| ());
    said(
        error,
        "exec",
        2,
        "/nosuch: No such file or directory (errno 2)",
    );
    let error = failure(&["/bin/true"], |_, o| {
        o.working_directory = "/nosuch".to_owned()
    });
    said(
        error,
        "working-directory",
        2,
        "working directory /nosuch: No such file or directory",
    );
    let error = failure(&["/tmp"], |_, _| ());
    said(error, "exec", 13, "it is a directory");
    // A script without its first line, one that may not be executed, one whose interpreter is
    // not there.
    let make = |agent: &Agent, name: &str, text: &str, mode: u32| {
        fs::write(agent.work(name), text).unwrap();
        fs::set_permissions(agent.work(name), fs::Permissions::from_mode(mode)).unwrap();
        agent.work(name).display().to_string()
    };
    let error = failure(&[], |a, o| {
        o.command = vec![make(a, "f", "echo hello\n", 0o755)]
    });
    said(error, "exec", 8, "a script needs a first line");
    let error = failure(&[], |a, o| {
        o.command = vec![make(a, "f", "#!/bin/sh\n", 0o644)]
    });
    said(error, "exec", 13, "is it executable?");
    let error = failure(&[], |a, o| {
        o.command = vec![make(a, "f", "#!/nosuch/sh\n", 0o755)]
    });
    said(error, "exec", 2, "interpreter");
    // Found in PATH, but not executable, and nothing better after it.
    let error = failure(&["f"], |a, o| {
        make(a, "f", "#!/bin/sh\n", 0o644);
        o.env = vec![format!("PATH={}:/bin", a.folder.join("work").display())];
    });
    said(error, "exec", 13, "is it executable?");
    // The working directory is entered as the user.
    let error = failure(&["/bin/true"], |a, o| {
        let closed = a.work("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        o.working_directory = closed.display().to_string();
        o.identity = identity(NOBODY, NOBODY, &[]);
    });
    said(error, "working-directory", 13, "Permission denied");
    // The shim is not where the order says.
    let error = failure(&["/bin/true"], |_, o| o.cgroup.push('x'));
    said(error, "cgroup", 0, "and not in");
}

#[test]
fn the_first_executable_in_path_runs() {
    let mut agent = Agent::bare(&[], false);
    for (folder, mode) in [("one", 0o644), ("two", 0o755)] {
        fs::create_dir(agent.work(folder)).unwrap();
        let file = agent.work(folder).join("nice-tool");
        fs::write(
            &file,
            format!("#!/bin/sh\necho {folder} \"$#\" \"$1\" > out\n"),
        )
        .unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    agent.give(&["nice-tool", "a b", ""], |o| {
        // Relative entries count from the working directory.
        o.env = vec!["PATH=/nowhere:one:two:/bin".to_owned()];
    });
    agent.gate.state();
    agent.gate.say(&ShimRequest::Go);
    assert_eq!(agent.end().code, Some(0));
    assert_eq!(agent.read("out"), "two 2 a b\n");
}

#[test]
fn a_shut_gate_means_that_nothing_runs() {
    // The agent dies, says nonsense, gives up, or systemd stops the scope.
    let close = |how: &dyn Fn(&Agent)| {
        let mut agent = Agent::gated(&["/usr/bin/touch", "ran"], |_| ());
        let watcher = agent.connect();
        assert!(watcher.state().gated);
        how(&agent);
        let gate = std::mem::replace(&mut agent.gate, watcher);
        drop(gate);
        let record = agent.end();
        assert!(record.never_started);
        assert_eq!(record.exit().cause, Cause::LaunchFailed);
        assert!(!agent.work("ran").exists());
    };
    close(&|_| ());
    close(&|a| stratavore::seqpacket::send(&a.gate.0, b"{\"go", &[]).unwrap());
    close(&|a| a.gate.say(&ShimRequest::Order));
    close(&|a| {
        a.gate.say(&ShimRequest::Stop {
            asked: stratavore::domain::exit::Asked::Stop,
        })
    });
    close(&|a| a.signal_shim(Signal::TERM));
}

#[test]
fn go_counts_only_at_the_gate() {
    let mut agent = Agent::gated(&["/usr/bin/touch", "ran"], |_| ());
    let other = agent.connect();
    assert!(other.state().gated);
    other.say(&ShimRequest::Go);
    assert!(other.hear().is_none());
    agent.gate.say(&ShimRequest::Query);
    assert!(agent.gate.state().gated);
    agent.gate.say(&ShimRequest::Go);
    assert_eq!(agent.end().code, Some(0));
}

#[test]
fn an_order_that_cannot_be_taken_leaves_nothing() {
    let refused = |send: &dyn Fn(&mut Agent), step: Option<&str>| {
        let mut agent = Agent::bare(&[], false);
        send(&mut agent);
        match (agent.gate.hear(), step) {
            (Some(ShimNotice::LaunchFailed(error)), Some(step)) => assert_eq!(error.step, step),
            (None, None) => {}
            (other, _) => panic!("{other:?}"),
        }
        // By a signal, if that came before anything else.
        assert!(matches!(agent.gone().code(), Some(1) | None));
        assert!(agent.files().is_empty());
    };
    let with = |change: fn(&mut stratavore::wire::ShimOrder)| {
        move |agent: &mut Agent| agent.give(&["/bin/true"], change)
    };
    refused(
        &|a| stratavore::seqpacket::send(&a.gate.0, b"{\"order", &[]).unwrap(),
        Some("order"),
    );
    refused(&|a| a.gate.say(&ShimRequest::Order), Some("order"));
    refused(&|a| a.gate.say(&ShimRequest::Go), Some("order"));
    refused(&|a| a.send_order(b"{\"v\":1,\"id\":\"x\""), Some("order"));
    refused(&with(|o| o.id = "../x".to_owned()), Some("order"));
    refused(&with(|o| o.kill_signal = 99), Some("order"));
    refused(&with(|o| o.cgroup = "/a/../..".to_owned()), Some("order"));
    refused(
        &with(|o| o.command = vec!["a\0b".to_owned()]),
        Some("order"),
    );
    refused(&with(|o| o.command.clear()), Some("order"));
    // An agent that dies before the order, and a stop before it.
    refused(
        &|a| rustix::net::shutdown(&a.gate.0, rustix::net::Shutdown::Both).unwrap(),
        None,
    );
    refused(&|a| a.signal_shim(Signal::TERM), None);
}

#[test]
fn nothing_of_the_agent_or_the_shim_reaches_the_command() {
    // The agent had a file open and signals ignored and blocked.
    let wrap =
        "exec 7</etc/passwd; exec env --ignore-signal=TERM,HUP,INT --block-signal=USR1,TERM \"$0\"";
    for (uid, gid, groups) in [(0, 0, vec![0]), (NOBODY, 12345, vec![7, 12345, 23456])] {
        let mut agent = Agent::bare(&["/bin/sh", "-c", wrap], false);
        let files = [
            "status",
            "environ",
            "stat",
            "limits",
            "oom_score_adj",
            "cgroup",
        ];
        let files = files.map(|f| format!("/proc/self/{f}"));
        let mut command = vec!["cp"];
        command.extend(files.iter().map(String::as_str));
        command.push(".");
        agent.give(&command, |o| {
            o.env.push("GREETING=a=b\nc".to_owned());
            o.identity = identity(uid, gid, &groups);
        });
        assert!(agent.gate.state().gated);
        agent.gate.say(&ShimRequest::Go);
        let pid = agent.gate.started();
        assert_eq!(agent.end().code, Some(0));
        assert_eq!(
            agent.read("environ"),
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin\0GREETING=a=b\nc\0"
        );
        let status = agent.read("status");
        let ours = fs::read_to_string("/proc/self/status").unwrap();
        let field = |text: &str, key: &str| {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
            line.unwrap()
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let four = |id: u32| vec![id.to_string(); 4];
        assert_eq!(
            (field(&status, "Uid"), field(&status, "Gid")),
            (four(uid), four(gid))
        );
        let listed: Vec<_> = groups.iter().map(u32::to_string).collect();
        assert_eq!(field(&status, "Groups"), listed);
        for key in ["SigBlk", "SigIgn", "SigPnd", "ShdPnd", "CapInh", "CapAmb"] {
            assert_eq!(field(&status, key), ["0000000000000000"], "{key}");
        }
        assert_eq!(field(&status, "CapBnd"), field(&ours, "CapBnd"));
        let caps = if uid == 0 {
            field(&ours, "CapEff")
        } else {
            vec!["0".repeat(16)]
        };
        assert_eq!(
            (field(&status, "CapEff"), field(&status, "CapPrm")),
            (caps.clone(), caps)
        );
        assert_eq!(
            (field(&status, "NoNewPrivs"), field(&status, "Seccomp")),
            (vec!["0".to_owned()], vec!["0".to_owned()])
        );
        assert_eq!(field(&status, "Umask"), ["0022"]);
        // A session and a group of its own, no terminal.
        let stat = agent.read("stat");
        let after: Vec<_> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_ascii_whitespace()
            .collect();
        assert_eq!(
            after[2..5],
            [pid.to_string(), pid.to_string(), "0".to_owned()]
        );
        assert!(agent.read("limits").lines().any(|l| {
            l.split_ascii_whitespace().collect::<Vec<_>>()
                == ["Max", "open", "files", "1024", "4096", "files"]
        }));
        assert_eq!(agent.read("oom_score_adj"), "0\n");
        assert!(
            agent
                .read("cgroup")
                .contains(&format!("0::{}\n", agent.order.cgroup))
        );
    }
}

#[test]
fn the_command_has_three_descriptors() {
    let wrap = "exec 7</etc/passwd; exec \"$0\"";
    let mut agent = Agent::bare(&["/bin/sh", "-c", wrap], false);
    // 3 is ls's own.
    agent.give(
        &[
            "/bin/sh",
            "-c",
            "ls /proc/self/fd > out; readlink /proc/self/fd/0 >> out",
        ],
        |_| (),
    );
    agent.gate.state();
    agent.gate.say(&ShimRequest::Go);
    assert_eq!(agent.end().code, Some(0));
    assert_eq!(agent.read("out"), "0\n1\n2\n3\n/dev/null\n");
}

/// Starts a shim that finds this folder's `stdout` socket where journald has its own.
fn with_journal(agent_work: &std::path::Path) -> Vec<String> {
    let script = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind {} /run/systemd/journal && exec \"$0\"",
        agent_work.display()
    );
    ["unshare", "--mount", "/bin/sh", "-c", &script]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn output_goes_to_the_journal_as_the_scopes() {
    let folder = std::env::temp_dir().join(format!("stratavore-journal-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let journald = UnixListener::bind(folder.join("stdout")).unwrap();
    let wrap = with_journal(&folder);
    let mut agent = Agent::bare(&wrap.iter().map(String::as_str).collect::<Vec<_>>(), false);
    agent.give(&["/bin/sh", "-c", "echo out; echo '<3>err' >&2"], |o| {
        o.identifier = "my tool".to_owned()
    });
    agent.gate.state();
    agent.gate.say(&ShimRequest::Go);
    assert_eq!(agent.end().code, Some(0));
    let (mut stream, _) = journald.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let unit = agent.order.cgroup.trim_start_matches('/');
    assert_eq!(
        text,
        format!("my tool\n{unit}\n6\n1\n0\n0\n0\nout\n<3>err\n")
    );
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_journald_that_hangs_does_not_hang_a_launch() {
    let folder = std::env::temp_dir().join(format!("stratavore-hung-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let journald = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let address = rustix::net::SocketAddrUnix::new(folder.join("stdout")).unwrap();
    rustix::net::bind(&journald, &address).unwrap();
    rustix::net::listen(&journald, 0).unwrap();
    let mut queued = std::os::unix::net::UnixStream::connect(folder.join("stdout")).unwrap();
    queued.write_all(b"the only place in the queue").unwrap();
    let wrap = with_journal(&folder);
    let mut agent = Agent::bare(&wrap.iter().map(String::as_str).collect::<Vec<_>>(), false);
    agent.give(
        &["/bin/sh", "-c", "readlink /proc/self/fd/1 > out; echo lost"],
        |_| (),
    );
    agent.gate.state();
    agent.gate.say(&ShimRequest::Go);
    assert_eq!(agent.end().code, Some(0));
    until("the output", || agent.work("out").exists());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_shim_goes_first_and_its_command_does_not() {
    let agent = Agent::script(
        "cut -d' ' -f19 /proc/$$/stat >nice; touch ready; sleep 1000",
        |_| (),
    );
    assert_eq!(agent.read("nice").trim(), "0");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.shim.id())).unwrap();
    let nice = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16);
    assert_eq!(nice, Some("-20"));
}
