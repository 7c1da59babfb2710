//! The self-fence on a whole host. What arms it in a fleet is the lease; here the tests speak to the agent's socket
//! themselves, as root may. A daemon without a fleet takes away what it finds, whenever it meets its agent: where that
//! must not be, it is stopped.

use crate::fixture::{Plan, SOON, Site};
use crate::load::within;
use crate::support::{wait_for, wait_until};
use std::time::Duration;
use stratavore::boottime;
use stratavore::domain::fence::Deadline;
use stratavore::wire::{
    Answer, FromAgent, Hello, Order, Refusal, Request, VERSION, decode, encode,
};

/// Says each argument to the agent and prints what it answers. It must run in the host: the agent hears nobody whose
/// process it can't see.
const SAY: &str = r#"
    use Socket;
    socket(my $agent, AF_UNIX, SOCK_SEQPACKET, 0) or die "socket: $!";
    connect($agent, pack_sockaddr_un("/run/stratavore/agent.sock")) or die "connect: $!";
    for my $order (@ARGV) {
        syswrite($agent, $order) or die "write: $!";
        my $answer = "";
        until ($answer =~ /^\{"reply"/) { sysread($agent, $answer, 65536) or die "read: $!" }
        print "$answer\n";
    }
"#;

/// Gives the agent an order, as another daemon.
fn order(site: &Site, order: Order) -> Result<Answer, Refusal> {
    let hello = Order::Hello(Hello {
        v: VERSION,
        program: "test".to_owned(),
        knows: Vec::new(),
    });
    let [hello, order] = [(1, hello), (2, order)]
        .map(|(seq, order)| String::from_utf8(encode(&Request { seq, order }).unwrap()).unwrap());
    let out = site.host.command(["perl", "-e", SAY, &hello, &order]).run();
    let out = out.ok().out();
    let answer = out.lines().last().unwrap_or_default();
    match decode(answer.as_bytes()).unwrap() {
        FromAgent::Reply(reply) => reply.result,
        other => panic!("{other:?}"),
    }
}

/// Sets the deadline; who is armed, and who is not.
fn fence(site: &Site, deadline: Option<Deadline>) -> (u32, Vec<String>) {
    let (in_force, armed, unarmed) = fence_told(site, deadline);
    assert_eq!(in_force, deadline);
    (armed, unarmed)
}

/// The same, with the deadline that is in force then.
fn fence_told(site: &Site, deadline: Option<Deadline>) -> (Option<Deadline>, u32, Vec<String>) {
    match order(site, Order::Fence { deadline }).unwrap() {
        Answer::Fenced {
            deadline,
            armed,
            unarmed,
        } => {
            let unarmed = unarmed.iter().map(ToString::to_string).collect();
            (deadline, armed, unarmed)
        }
        other => panic!("{other:?}"),
    }
}

/// A stop after that time, which may take some seconds.
fn soon(span: Duration) -> Option<Deadline> {
    let stop_at = boottime::now() + span.as_micros() as u64;
    let gone_by = stop_at + 5_000_000;
    Some(Deadline { stop_at, gone_by })
}

fn wait_past(deadline: Option<Deadline>) {
    wait_until("the deadline", SOON, || {
        boottime::now() > deadline.unwrap().stop_at
    });
}

const KILL: &str = "systemctl mask --runtime -q stratavored stratavore-agent.service stratavore-agent.socket && systemctl kill -s KILL stratavored stratavore-agent; systemctl stop stratavored stratavore-agent.socket stratavore-agent; true";
const BACK: &str = "systemctl unmask --runtime -q stratavored stratavore-agent.service stratavore-agent.socket && systemctl reset-failed; systemctl start stratavored";

/// Daemon and agent are killed and kept from coming back: every runner is gone in time all the same, and what it says
/// of its end is read when they are there again.
#[test]
fn a_silent_host_stops_its_runners_by_itself() {
    let site = Site::boot("fence");
    let plain = site.run("-- sleep 1000");
    let stubborn = site.run("--stop-timeout=1s -- sh -c \"trap '' TERM; setsid sleep 1000 & (setsid sleep 1000 &); sleep 1000; sleep 1000\"");
    let frozen = site.run("--stop-timeout=1s -- sleep 1000");
    let deadline = soon(Duration::from_secs(20));
    assert_eq!(fence(&site, deadline), (3, Vec::new()));
    site.ctl("alice", &format!("freeze {frozen}")).ok();
    site.root(KILL).ok();
    assert_eq!(
        site.scopes().len(),
        3,
        "none ends before its time: {}",
        site.log()
    );
    assert!(
        boottime::now() < deadline.unwrap().stop_at,
        "the test was too slow to tell"
    );
    wait_until("those that can end have ended", SOON, || {
        site.scopes().iter().collect::<Vec<_>>() == [&frozen]
    });
    assert!(boottime::now() > deadline.unwrap().stop_at + 1_000_000);
    for id in [&plain, &stubborn] {
        site.wait_file(&format!("/var/lib/stratavore/exits/{id}.json"));
    }
    // The frozen one has promised nothing, and ends when somebody thaws it.
    site.root(BACK).ok();
    site.wait_up();
    site.wait_met();
    assert_eq!(site.show(&frozen)["state"], "frozen");
    let _ = site.ctl("alice", &format!("thaw {frozen}"));
    for id in [&plain, &stubborn, &frozen] {
        let exit = &site.ended(id)["exit"];
        let message = exit["message"].as_str().unwrap();
        assert_eq!(exit["cause"], "host-lost", "{exit}");
        let begin = "Stopped by itself: its host had not reached the store, or stratavore-agent was away, for ";
        assert!(message.starts_with(begin), "{exit}");
    }
    // When it is over, nothing is launched until the store is reached again or no fence is wanted.
    site.wait_met();
    let past = wait_for("one that passes soon is in force", SOON, || {
        let past = soon(Duration::from_secs(2));
        match fence_told(&site, past).0 {
            told if told == past => Ok(past),
            told => Err(format!("{told:?}")),
        }
    });
    wait_past(past);
    let refused = site.ctl("alice", "run p -- true");
    assert_eq!(refused.code, 1, "{refused}");
    assert!(
        refused.err().contains("has not reached its store for"),
        "{refused}"
    );
    assert_eq!(fence(&site, soon(Duration::from_secs(60))), (0, Vec::new()));
    let next = site.run("-- sleep 1000");
    assert_eq!(fence(&site, soon(Duration::from_secs(60))), (1, Vec::new()));
    assert_eq!(fence(&site, None), (0, Vec::new()));
    site.ctl("alice", &format!("stop {next}")).ok();
    assert_eq!(site.cause(&next), "stopped");
    site.check();
}

/// Renewals keep everybody alive, frozen or not, across restarts of the agent, and a fence that is taken away is gone.
#[test]
fn renewals_and_restarts() {
    let site = Site::boot("renewed");
    let long = site.run("-- sleep 1000");
    let frozen = site.run("-- sleep 1000");
    // Longer than anything here takes, also where others run beside it.
    let span = Duration::from_secs(15);
    let first = soon(span);
    assert_eq!(fence(&site, first), (2, Vec::new()));
    site.ctl("alice", &format!("freeze {frozen}")).ok();
    site.root("systemctl stop stratavored").ok();
    for restart in [
        "systemctl restart stratavore-agent",
        "systemctl kill -s KILL stratavore-agent",
    ] {
        let old = site.main_pid("stratavore-agent");
        site.root(restart).ok();
        wait_until("the agent is another one", SOON, || {
            ![0, old].contains(&site.main_pid("stratavore-agent"))
        });
        wait_for("the new agent knows who is armed", SOON, || {
            match fence(&site, soon(span)) {
                (1, unarmed) if unarmed == [frozen.clone()] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    wait_until("the first deadline is long past", SOON, || {
        fence(&site, soon(span));
        boottime::now() > first.unwrap().stop_at + 3_000_000
    });
    // An earlier one changes nothing, nor does one that has passed, and the answer says so.
    let last = soon(span);
    fence(&site, last);
    let earlier = last.map(|at| Deadline {
        stop_at: at.stop_at - 1_000_000,
        ..at
    });
    let passed = Some(Deadline {
        stop_at: 1,
        gone_by: 2,
    });
    for other in [earlier, passed] {
        assert_eq!(fence_told(&site, other).0, last);
    }
    site.root("systemctl start stratavored").ok();
    site.wait_up();
    site.wait_met();
    site.ctl("alice", &format!("thaw {frozen}")).ok();
    for id in [&long, &frozen] {
        assert_eq!(site.show(id)["state"], "running");
    }
    let last = soon(span);
    assert_eq!(fence(&site, last), (2, Vec::new()));
    fence(&site, None);
    assert_eq!(fence_told(&site, passed).0, None);
    wait_past(last);
    // What was due has been looked at by now, and the next order shows it.
    assert_eq!(fence(&site, soon(Duration::from_secs(60))), (2, Vec::new()));
    fence(&site, None);
    for id in [&long, &frozen] {
        assert_eq!(site.show(id)["state"], "running");
        site.ctl("alice", &format!("stop {id}")).ok();
        assert_eq!(site.cause(id), "stopped");
    }
    site.check();
}

/// While its agent lives, also those that can't stop by themselves are gone in time, and a deadline that has passed is
/// final: one whose shim is stopped, one that is frozen, one whose shim is dead and one that takes its time.
#[test]
fn the_agent_helps_those_that_cannot_stop() {
    let site = Site::boot("helped");
    let [stopped, frozen, dead, slow] = [(); 4].map(|()| {
        site.run("--stop-timeout=1min -- sh -c \"trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done\"")
    });
    let signal_shim = |signal: &str, id: &str| {
        site.root(&format!("for p in $(cat /sys/fs/cgroup/stratavore.slice/*/stratavore-{id}.scope/cgroup.procs); do grep -q stratavore-shim /proc/$p/comm && kill -{signal} $p; done; true")).ok()
    };
    // Time enough to look at them while they stop.
    let deadline = soon(Duration::from_secs(20)).map(|at| Deadline {
        gone_by: at.stop_at + 15_000_000,
        ..at
    });
    assert_eq!(fence(&site, deadline), (4, Vec::new()));
    site.ctl("alice", &format!("freeze {frozen}")).ok();
    signal_shim("STOP", &stopped);
    signal_shim("KILL", &dead);
    let mut unarmed = vec![frozen.clone(), dead.clone()];
    unarmed.sort();
    wait_for("the agent knows who can't", SOON, || {
        match fence(&site, deadline) {
            (2, who) if who == unarmed => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    wait_past(deadline);
    wait_for("no stop is put off", SOON, || {
        let refused = site.ctl("alice", &format!("freeze {slow}"));
        match refused
            .err()
            .contains("it stops, since its host has not reached its store")
        {
            true => Ok(()),
            false => Err(refused.to_string()),
        }
    });
    // The store is back: too late for all of them.
    fence(&site, soon(Duration::from_secs(60)));
    let left = || {
        let scopes = site.root("for f in /sys/fs/cgroup/stratavore.slice/*/stratavore-*.scope/cgroup.procs; do for p in $(cat $f); do cat /proc/$p/comm; done; done 2>/dev/null; true");
        scopes.out().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(left().len() > 4, "their stop takes time: {:?}", left());
    wait_for("all but the stopped shim are gone", SOON, || {
        match &left()[..] {
            [shim] if shim.starts_with("stratavore-shim") => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
    let late = boottime::now() - deadline.unwrap().gone_by;
    let most = within(Duration::from_secs(5)).as_micros() as u64;
    assert!(late < most, "{late} of {most} µs");
    signal_shim("CONT", &stopped);
    for id in [&stopped, &frozen, &slow] {
        assert_eq!(site.cause(id), "host-lost");
    }
    assert_eq!(site.cause(&dead), "supervisor-lost");
    fence(&site, None);
    site.check();
}

/// Programs of the first release know nothing of it: an agent says so, a shim is named, and none is launched.
#[test]
#[cfg(target_arch = "x86_64")] // what tests/frozen holds
fn an_earlier_release_is_told_from_this_one() {
    let project = crate::support::project();
    let site = Site::with(Plan {
        name: "unarmed",
        payload: Some(project.join("target/test-payload-frozen")),
        bind: Some((project.join("target/test-payload"), "/srv/this")),
        ..Plan::default()
    });
    let refused = order(
        &site,
        Order::Fence {
            deadline: soon(SOON),
        },
    );
    assert!(refused.is_err_and(|r| r.message.contains("does not know that order")));
    let old = site.run("-- sleep 1000");
    let install = |file: &str| {
        let file = format!("/usr/libexec/stratavore/{file}");
        site.root(&format!(
            "cp /srv/this{file} {file}.new && mv {file}.new {file}"
        ))
        .ok();
    };
    install("stratavore-agent");
    site.root("systemctl restart stratavore-agent").ok();
    site.wait_up();
    site.wait_met();
    let span = Duration::from_secs(20);
    let deadline = soon(span);
    assert_eq!(fence(&site, deadline), (0, vec![old.clone()]));
    let refused = site.ctl("alice", "run p -- true");
    assert!(
        !refused.success() && refused.err().contains("is of an earlier release"),
        "{refused}"
    );
    install("stratavore-shim");
    let new = site.run("-- sleep 1000");
    assert_eq!(fence(&site, deadline), (1, vec![old.clone()]));
    site.ctl("alice", &format!("freeze {old}")).ok();
    site.root("systemctl restart stratavore-agent").ok();
    site.wait_up();
    assert_eq!(fence(&site, deadline), (1, vec![old.clone()]));
    // The first release's daemon reads what it can of the ending.
    assert_eq!(site.cause(&new), "stopped");
    wait_past(deadline);
    assert_eq!(site.show(&old)["state"], "frozen");
    fence(&site, None);
    site.wait_met();
    site.ctl("alice", &format!("stop {old}")).ok();
    assert_eq!(site.cause(&old), "stopped");
    site.check();
}
