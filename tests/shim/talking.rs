//! Connections: several, dead, slow and hostile ones.

use crate::agent::{Agent, NOBODY, try_connect};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use stratavore::domain::exit::Asked;
use stratavore::seqpacket;
use stratavore::wire::{self, ShimRequest};

const STOP: ShimRequest = ShimRequest::Stop { asked: Asked::Stop };

#[test]
fn everybody_connected_is_told() {
    let agent_of = |command: &[&str]| Agent::gated(command, |_| ());
    let mut agent = agent_of(&["sleep", "1000"]);
    let links = [agent.connect(), agent.connect(), agent.connect()];
    for link in &links {
        assert!(link.state().gated);
    }
    agent.gate.say(&ShimRequest::Go);
    let pid = agent.gate.started();
    for link in &links {
        assert_eq!(link.started(), pid);
    }
    let late = agent.connect();
    let state = late.state();
    assert_eq!(
        (state.gated, state.pid, state.asked, state.v),
        (false, Some(pid), None, wire::VERSION)
    );
    links[1].say(&STOP);
    let record = agent.end();
    for link in links.iter().chain([&late]) {
        assert_eq!(link.ended(), (record.clone(), true));
        assert!(link.hear().is_none());
    }
}

#[test]
fn an_agent_that_dies_after_go_is_followed_by_another() {
    let mut agent = Agent::running(&["sleep", "1000"], |_| ());
    let next = agent.connect();
    agent.gate = next;
    let state = agent.gate.state();
    assert!(state.pid.is_some() && !state.gated);
    agent.gate.say(&STOP);
    assert_eq!(agent.end().asked, Some(Asked::Stop));
}

#[test]
fn a_ninth_connection_pushes_out_the_oldest() {
    let mut agent = Agent::running(&["sleep", "1000"], |_| ());
    let links: Vec<_> = (0..9)
        .map(|_| {
            let link = agent.connect();
            link.state();
            link
        })
        .collect();
    assert!(links[0].hear().is_none());
    // One that has gone makes room by itself.
    let mut links = links.into_iter().skip(1).collect::<Vec<_>>();
    drop(links.remove(3));
    let another = agent.connect();
    another.state();
    links.push(another);
    agent.gate.say(&STOP);
    let record = agent.end();
    for link in &links {
        assert_eq!(link.ended().0, record);
    }
}

#[test]
fn a_peer_that_does_not_read_is_dropped_and_blocks_nobody() {
    let mut agent = Agent::running(&["sleep", "1000"], |_| ());
    let deaf = agent.connect();
    let query = wire::encode(&ShimRequest::Query).unwrap();
    // Until it is dropped: its own buffer is full of answers by then.
    let refused = loop {
        if let Err(error) = seqpacket::send(&deaf.0, &query, &[]) {
            break error;
        }
    };
    let errno = Errno::from_io_error(&refused);
    assert!(
        matches!(errno, Some(Errno::PIPE | Errno::CONNRESET)),
        "{refused}"
    );
    agent.gate.say(&STOP);
    assert_eq!(agent.end().asked, Some(Asked::Stop));
}

#[test]
fn nonsense_costs_the_speaker_its_connection_and_nothing_else() {
    let mut agent = Agent::running(&["sleep", "1000"], |_| ());
    let huge = vec![b' '; wire::PACKET_MAX + 1];
    let bad: [&[u8]; 8] = [
        b"",
        b"x",
        b"{}",
        b"\"order\"",
        b"\"go\"",
        b"{\"kill\":{\"signal\":0}}",
        b"{\"limits\":{\"runtime_max\":1,\"stop_timeout\":1,\"kill_signal\":65}}",
        &huge,
    ];
    for bytes in bad {
        let link = agent.connect();
        link.state();
        seqpacket::send(&link.0, bytes, &[]).unwrap();
        assert!(link.hear().is_none(), "{bytes:.40?}");
    }
    // Descriptors are closed, not kept.
    let link = agent.connect();
    link.state();
    let count = || {
        std::fs::read_dir(format!("/proc/{}/fd", agent.shim.id()))
            .unwrap()
            .count()
    };
    let before = count();
    for _ in 0..5 {
        let query = wire::encode(&ShimRequest::Query).unwrap();
        seqpacket::send(&link.0, &query, &[std::os::fd::AsFd::as_fd(&link.0)]).unwrap();
        link.state();
    }
    assert_eq!(count(), before);
    // Even on what was the gate.
    seqpacket::send(&agent.gate.0, b"x", &[]).unwrap();
    assert!(agent.gate.hear().is_none());
    agent.gate = link;
    agent.gate.say(&STOP);
    assert_eq!(agent.end().asked, Some(Asked::Stop));
}

#[test]
fn other_users_are_not_heard() {
    let mut agent = Agent::running(&["sleep", "1000"], |_| ());
    let path = agent.folder.join("socket");
    // Only this thread becomes nobody; the kernel notes its uid when it connects.
    let connection = std::thread::spawn(move || {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        try_connect(&path).unwrap()
    });
    let hostile = crate::agent::Link(connection.join().unwrap());
    let _ = seqpacket::send(&hostile.0, &wire::encode(&STOP).unwrap(), &[]);
    assert!(hostile.hear().is_none());
    agent.gate.say(&ShimRequest::Query);
    assert_eq!(agent.gate.state().asked, None);
    agent.gate.say(&STOP);
    assert_eq!(agent.end().asked, Some(Asked::Stop));
}

#[test]
fn last_words_arrive_even_if_the_agent_was_talking() {
    for _ in 0..20 {
        let mut agent = Agent::gated(&["/bin/true"], |_| ());
        agent.gate.say(&ShimRequest::Go);
        // Unread messages are in the shim's queue when it exits.
        let query = wire::encode(&ShimRequest::Query).unwrap();
        for _ in 0..100 {
            let _ = seqpacket::send(&agent.gate.0, &query, &[]);
        }
        assert_eq!(agent.end().code, Some(0));
    }
}

/// `--user`: the shim and its runner are an ordinary user's.
#[test]
fn without_privileges() {
    let reuid = format!("--reuid={NOBODY}");
    let regid = format!("--regid={NOBODY}");
    // From a folder that everybody can enter.
    let copy = std::env::temp_dir().join(format!("stratavore-user-{}", std::process::id()));
    std::fs::copy(crate::agent::SHIM, &copy).unwrap();
    let script = format!("exec {}", copy.display());
    let mut agent = Agent::bare(
        &[
            "setpriv",
            &reuid,
            &regid,
            "--clear-groups",
            "/bin/sh",
            "-c",
            &script,
        ],
        false,
    );
    for path in [
        agent.folder.join("exits"),
        agent.scope.clone(),
        agent.scope.join("cgroup.procs"),
    ] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    agent.give(
        &[
            "/bin/sh",
            "-c",
            "cp /proc/self/status . && touch ready && sleep 1000",
        ],
        |o| {
            o.identity = None;
            o.nofile = (1024, 1 << 30);
        },
    );
    assert!(agent.gate.state().gated);
    agent.gate.say(&ShimRequest::Go);
    agent.gate.started();
    crate::agent::until("the script", || agent.work("ready").exists());
    std::fs::remove_file(copy).unwrap();
    assert!(
        agent
            .read("status")
            .contains(&format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}"))
    );
    // What passed through the shim is not the runner's to read.
    let environ = std::fs::metadata(format!("/proc/{}/environ", agent.shim.id())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&environ), 0);
    agent.signal_shim(rustix::process::Signal::TERM);
    assert_eq!(agent.end().asked, Some(Asked::Manager));
}
