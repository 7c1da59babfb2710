//! Bad input gets its named error and a sentence that helps, and nothing is left half made.

use crate::fixture::Site;

#[test]
fn the_bus_refuses_what_it_does_not_know() {
    let site = Site::boot("input");
    let launch = |options: &str| {
        site.root(&format!("busctl call -- org.stratavore1 /org/stratavore1 org.stratavore1.Manager Launch 'sasa{{sv}}' p 1 true {options}"))
    };
    for (options, words) in [
        ("1 memory_max t 1", "memory_max"),
        ("1 memory-max b true", "memory-max"),
        ("1 memory-max t 0", "memory-max"),
        ("1 memory-max s 1Q", "1Q"),
        ("1 tasks-max t 99999999999", "tasks-max"),
        ("1 cpu-weight t 0", "cpu-weight"),
        ("1 queue t 5", "queue"),
        ("1 tokens t 0", "tokens"),
        ("1 priority s high", "priority"),
        ("1 name s a/b", "a/b"),
        ("1 name s -x", "-x"),
        ("1 name s ''", "name"),
        ("1 kill-signal i 99", "99"),
        ("1 working-directory s relative", "relative"),
        ("1 setenv as 1 novalue", "NAME=VALUE"),
        ("1 uid s nobody-such", "nobody-such"),
        ("1 request-id s 'a b'", "request id"),
        ("1 oom-policy s panic", "panic"),
    ] {
        let out = launch(options);
        assert!(
            !out.success() && out.err().contains(words),
            "{options}: {out}"
        );
    }
    for (project, words) in [
        ("''", "empty"),
        ("P", "'P'"),
        ("a/b", "'/'"),
        ("-x", "must begin"),
        ("ä", "'ä'"),
        ("nowhere", "nowhere"),
    ] {
        let out = site.root(&format!("busctl call -- org.stratavore1 /org/stratavore1 org.stratavore1.Manager Launch 'sasa{{sv}}' {project} 1 true 0"));
        assert!(
            !out.success() && out.err().contains(words),
            "{project}: {out}"
        );
    }
    let none = site.root("busctl call -- org.stratavore1 /org/stratavore1 org.stratavore1.Manager Launch 'sasa{sv}' p 0 0");
    assert!(!none.success() && none.err().contains("empty"), "{none}");
    for call in ["Stop s 'x y'", "GetRunner s ''", "Describe s nope"] {
        let (method, rest) = call.split_once(' ').unwrap();
        let signature = if method == "Stop" { "'sa{sv}'" } else { "s" };
        let value = rest.trim_start_matches("s ");
        let tail = if method == "Stop" { "0" } else { "" };
        let out = site.root(&format!("busctl call -- org.stratavore1 /org/stratavore1 org.stratavore1.Manager {method} {signature} {value} {tail}"));
        assert!(!out.success(), "{call}: {out}");
    }
    // A mebibyte of arguments.
    let huge = site.sh_as("alice", "head -c 100000 /dev/zero | tr '\\0' x > /tmp/x; stratavorectl run p -- echo \"$(cat /tmp/x)\" \"$(cat /tmp/x)\"").code(2);
    assert!(huge.err().contains("131072"), "{huge}");
    assert!(site.sql("SELECT id FROM runners").is_empty());
    site.check();
}

#[test]
fn the_command_line_refuses_what_it_does_not_know() {
    let site = Site::boot("cli");
    for (arguments, status) in [
        ("run", 2),
        ("run p", 2),
        ("run --priority=high p -- true", 2),
        ("run --memory-max=lots p -- true", 2),
        ("frobnicate", 2),
        ("list --state=dead", 2),
        ("show", 2),
        ("stop", 2),
        ("kill -s NOSUCH x", 2),
        ("show 0000", 5),
    ] {
        let out = site.ctl("alice", arguments);
        assert_eq!(out.code, status, "{arguments}: {out}");
        assert!(!out.err().is_empty(), "{arguments}: says nothing");
    }
    site.root("systemctl stop stratavored; systemctl mask --runtime stratavored")
        .ok();
    let out = site.ctl("alice", "list").code(1);
    assert!(
        out.err().contains("systemctl"),
        "says how to start it: {out}"
    );
    site.root("systemctl unmask --runtime stratavored && systemctl start stratavored")
        .ok();
    site.wait_up();
}

/// The agent's socket is not for everybody, and nobody can hurt it there.
#[test]
fn the_agent_takes_orders_from_the_daemon_alone() {
    let site = Site::boot("socket");
    let id = site.run("-- sleep 1000");
    let talk = |user: &str, script: &str| {
        site.host
            .command(["python3", "-c", script])
            .user(user)
            .run()
    };
    let preface = "import socket,sys,os\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.settimeout(5)\n";
    let refused = talk(
        "alice",
        &format!("{preface}s.connect('/run/stratavore/agent.sock')"),
    );
    assert!(
        !refused.success() && refused.err().contains("PermissionError"),
        "{refused}"
    );
    let connect = format!("{preface}s.connect('/run/stratavore/agent.sock')\n");
    // Root may connect, and is not hurt by what it sends: garbage, halves, a flood of descriptors, silence.
    for script in [
        "s.send(b'garbage')\nprint(s.recv(65536))",
        "s.send(b'{\"seq\":1,\"order\":{\"go\":{\"id\":')\nprint(s.recv(65536))",
        "s.setsockopt(socket.SOL_SOCKET,socket.SO_SNDBUF,1<<20)\ntry: s.send(b'x'*100000)\nexcept OSError as e: print(e)",
        "import array\nfd=os.open('/dev/null',os.O_RDONLY)\ns.sendmsg([b'{}'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[fd]*250))])",
        "more=[]\nfor i in range(200):\n c=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n c.settimeout(2)\n try: c.connect('/run/stratavore/agent.sock')\n except OSError as e: break\n more.append(c)\nprint(len(more))",
    ] {
        let out = talk("root", &format!("{connect}{script}"));
        assert!(
            !out.err().contains("Traceback")
                || out.err().contains("ConnectionResetError")
                || out.err().contains("BrokenPipe")
                || out.err().contains("timed out"),
            "{script}: {out}"
        );
    }
    let order = "import json\ndef ask(o):\n global n\n n+=1\n s.send(json.dumps({'seq':n,'order':o}).encode())\n return s.recv(65536)\nn=0\n";
    let out = talk(
        "stratavore",
        &format!(
            "{connect}s.settimeout(50)\n{order}print(ask({{'hello':{{'v':1,'program':'test'}}}}))\nprint(ask({{'go':{{'id':'00000000-0000-0000-0000-000000000000'}}}}))\nprint(ask({{'no-such-order':1}}))"
        ),
    );
    assert!(
        out.out().contains("no-such-runner") && out.out().contains("unsupported"),
        "{out}"
    );
    // Nothing of that reached a runner.
    site.wait_up();
    assert_eq!(site.show(&id)["state"], "running");
    site.clear();
}
