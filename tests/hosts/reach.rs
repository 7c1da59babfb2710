//! `run --on HOST|auto` by ssh between real hosts, each with an sshd that knows alice's key. A wrapper that is first in
//! PATH notes the words that ssh gets.

use crate::fixture::{SOON, Site};
use crate::support::{Fleet, FleetPlan, Root, wait_for, wait_until};
use std::time::Duration;

const SSH: &str = "#!/bin/sh\necho \"$*\" >>/srv/ssh.words\nexec /usr/bin/ssh \"$@\"\n";

/// The same on all of them; `someone` is another user who lets alice in. The hosts' keys are those of their common root.
const ACCESS: &str = "set -e
chmod 755 /usr/local/bin/ssh; touch /srv/ssh.words; chmod 666 /srv/ssh.words
useradd -m -s /bin/bash -G stratavore-users someone; usermod -p '*' someone
for user in alice someone; do
    install -d -m 700 -o $user -g $user /home/$user/.ssh
    install -m 600 -o $user -g $user /srv/alice.pub /home/$user/.ssh/authorized_keys
done
install -m 600 -o alice -g alice /srv/alice.key /home/alice/.ssh/id_ed25519
echo \"* $(cat /etc/ssh/ssh_host_ed25519_key.pub)\" >/home/alice/.ssh/known_hosts
systemctl start ssh.service";
const NO_SSHD: &str = "systemctl stop ssh.service ssh.socket";

fn fleet(name: &'static str) -> Fleet {
    let fleet = Fleet::with(FleetPlan {
        name,
        root: Root::Trixie,
        config: "[host]\nmax_runners = 2\n".to_owned(),
        ..FleetPlan::default()
    });
    let names: String = (0..3)
        .map(|n| format!("{} {name}-{}\n", fleet.address(n), n + 1))
        .collect();
    let first = &fleet.sites[0];
    first
        .root("ssh-keygen -q -t ed25519 -N '' -f /srv/alice.key")
        .ok();
    let (key, public) = (
        first.file("/srv/alice.key"),
        first.file("/srv/alice.key.pub"),
    );
    for site in &fleet.sites {
        site.host.write("/usr/local/bin/ssh", SSH);
        site.host.write("/srv/alice.key", &key);
        site.host.write("/srv/alice.pub", &public);
        site.root(&format!("printf '{names}' >>/etc/hosts")).ok();
        site.root(ACCESS).ok();
    }
    fleet
}

fn words(site: &Site) -> String {
    site.file("/srv/ssh.words")
}

#[test]
fn a_host_by_its_name() {
    let fleet = fleet("f-ssh");
    let [a, b, _] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    let out = a
        .ctl(
            "alice",
            "run --on f-ssh-2 p -- sh -c 'pwd > /srv/pwd; exec sleep 1000'",
        )
        .ok();
    assert!(
        b.scopes().contains(&out.out()) && a.scopes().is_empty(),
        "{out}"
    );
    assert_eq!(words(a), "-xT -- f-ssh-2 systemd-stdio-bridge\n");
    // The directory here is none there.
    wait_until("it has begun", SOON, || !b.file("/srv/pwd").is_empty());
    assert_eq!(b.file("/srv/pwd"), "/home/alice\n");
    assert_eq!(a.show(&out.out())["user"], "alice");

    // The command's own status, and the exec's; on the terminal's side nothing is different.
    let waited = a
        .ctl("alice", "run --wait --on f-ssh-2 p -- sh -c 'exit 7'")
        .code(7);
    assert!(waited.err().contains("exit-code"), "{waited}");
    a.ctl("alice", "run --wait --on f-ssh-2 p -- sh -c 'kill -9 $$'")
        .code(128 + 9);
    a.ctl("alice", "run --wait --on f-ssh-2 p -- /no/such/program")
        .code(127);
    a.ctl("alice", "run --wait --on someone@f-ssh-2:22 p -- true")
        .ok();
    assert!(
        words(a).ends_with("-xT -p 22 -- someone@f-ssh-2 systemd-stdio-bridge\n"),
        "{}",
        words(a)
    );
    // The host itself is not reached by ssh.
    let before = words(a);
    a.ctl("alice", "run --wait --on f-ssh-1 p -- true").ok();
    assert_eq!(words(a), before);
    // The rest of -H goes the same way.
    let list = a.ctl("alice", "-H f-ssh-2 list").ok().out();
    assert!(list.contains("1 live runner"), "{list}");
    a.ctl("alice", &format!("-H f-ssh-2 stop {}", out.out()))
        .ok();

    // Refused there is refused here, with its status.
    b.ctl("root", "host cordon --reason 'new disk' f-ssh-2")
        .ok();
    let refused = a.ctl("alice", "run --on f-ssh-2 p -- true").code(3);
    assert!(refused.err().contains("cordon"), "{refused}");
    b.ctl("root", "host uncordon f-ssh-2").ok();
    // Not to be reached: who, and how it was tried.
    b.root(NO_SSHD).ok();
    for (flags, code) in [("", 1), ("--wait ", 125)] {
        let refused = a
            .ctl("alice", &format!("run {flags}--on f-ssh-2 p -- true"))
            .code(code);
        assert!(
            refused.err().contains("f-ssh-2") && refused.err().contains("ssh"),
            "{refused}"
        );
        assert!(refused.took < Duration::from_secs(20), "{refused}");
    }
    let refused = a.ctl("alice", "run --on no-such-host p -- true").code(1);
    assert!(refused.err().contains("no-such-host"), "{refused}");
    fleet.clear();
}

#[test]
fn auto_takes_the_best_one_and_says_why() {
    let fleet = fleet("f-auto");
    let [a, b, c] = &fleet.sites[..] else {
        panic!("three hosts")
    };
    // Two slots each, and only the third has some left. Of several the pressure decides, which is this machine's.
    for site in [a, a, b, b] {
        site.run("-- sleep 1000");
    }
    let auto = |rest: &str| a.ctl("alice", &format!("run --on auto {rest} p -- sleep 1000"));
    let out = auto("").ok();
    assert!(
        out.err().starts_with("On f-auto-3: 0 of 2 places taken, "),
        "it says why: {out}"
    );
    assert!(c.scopes().contains(&out.out()));
    // One that is cordoned is passed over: then none is left, each one with its reason.
    c.ctl("root", "host cordon f-auto-3").ok();
    let refused = auto("").code(3);
    for why in [
        "f-auto-1: all of its 2 places for runners are taken",
        "f-auto-2: all of its 2",
        "f-auto-3: it is cordoned",
    ] {
        assert!(refused.err().contains(why), "{why}: {refused}");
    }
    let one = b.scopes().pop_first().unwrap();
    b.ctl("alice", &format!("stop {one}")).ok();
    let out = auto("").ok();
    assert!(out.err().starts_with("On f-auto-2: 1 of 2"), "{out}");
    assert!(b.scopes().contains(&out.out()));
    c.ctl("root", "host uncordon f-auto-3").ok();
    // The labels a host must have.
    let refused = auto("--host-label gpu=yes").code(3);
    assert!(refused.err().contains("it has no label gpu"), "{refused}");
    // The best one can't be reached: that is said, and another one is tried if there is any.
    c.root(NO_SSHD).ok();
    let refused = auto("").code(1);
    assert!(
        refused.err().contains("On f-auto-3: ") && refused.err().contains("Not there: "),
        "{refused}"
    );
    b.ctl("alice", &format!("stop {}", out.out())).ok();
    let out = auto("").ok();
    assert!(b.scopes().contains(&out.out()), "{out}");
    fleet.clear();
}

/// A host without a fleet is one that can be chosen, too.
#[test]
fn alone() {
    let site = Site::boot("alone");
    let wait_ready = |ready: bool| {
        wait_for("host list says whether it can launch", SOON, || {
            let hosts = site.ctl("alice", "host list").ok().out();
            match hosts.contains("not ready") != ready && hosts.contains("alone") {
                true => Ok(()),
                false => Err(hosts),
            }
        });
    };
    wait_ready(true);
    site.ctl("alice", "run --wait --on auto p -- true").ok();
    site.root("systemctl stop stratavore-agent.socket stratavore-agent.service")
        .ok();
    wait_ready(false);
    site.root("systemctl start stratavore-agent.socket").ok();
    wait_ready(true);
    site.clear();
}
