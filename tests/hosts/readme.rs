//! README's installation and tour, typed by alice exactly as they stand.
//!
//! Stand-ins, since a test host is no workplace: `make build` and `make install` were done outside (what they install is
//! laid over the host), `claude`, `make`, `git` and `less` are scripts that do a little, and what goes on for ever (`-f`) is ended.

use crate::deb::packages;
use crate::fixture::SOON;
use crate::support::{Bus, Host, Root, project, wait_for};
use std::time::Duration;

/// The shell blocks below a heading, line by line.
fn typed(readme: &str, heading: &str) -> Vec<Vec<String>> {
    let part = readme.split(&format!("\n## {heading}\n")).nth(1);
    let part = part.unwrap_or_else(|| panic!("README has no “{heading}”"));
    let part = part.split("\n## ").next().unwrap();
    let lines = |block: &str| {
        let block = block.replace("\\\n", " ");
        let lines = block.lines().filter(|line| !line.trim().is_empty());
        lines.map(str::to_owned).collect()
    };
    part.split("```").skip(1).step_by(2).map(lines).collect()
}

#[test]
fn installation_and_tour_work_as_they_are_written() {
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let host = Host::builder("readme")
        .root(Root::Trixie)
        .bus(Bus::Daemon)
        .payload(project().join("target/test-payload"))
        .program(
            "/usr/local/bin/claude",
            "#!/bin/sh\necho working on: \"$2\"\n[ \"$2\" != 'review this' ] || exec cat\nexec sleep 1000\n",
        )
        .program("/usr/local/bin/git", "#!/bin/sh\necho a \"$1\" of alice\n")
        .program("/usr/local/bin/less", "#!/bin/sh\nexec cat\n")
        .program(
            "/usr/local/bin/make",
            "#!/bin/sh\n[ \"$1\" = test ] && echo tested\n",
        )
        .file("/etc/sudoers.d/alice", "alice ALL=(ALL) NOPASSWD: ALL\n")
        .boot();
    let lacking = ["cpu", "memory", "pids"]
        .iter()
        .any(|c| !host.controllers().contains(&(*c).to_owned()));
    if lacking {
        // This machine's kernel can't hold the tour's limits: they are asked for, with a warning.
        host.sh("mkdir -p /etc/stratavore && printf '[limits]\\nunenforced = \"warn\"\\n' >/etc/stratavore/stratavored.toml").ok();
    }

    // The package is the test below; for oneself without root: user.rs.
    let mut lines = typed(&readme, "Installation").remove(1);
    assert!(
        lines.len() >= 5 && lines[0] == "make build" && lines[1].starts_with("sudo make install"),
        "{lines:?}"
    );
    // The boot did it already, for what was laid over the host.
    host.sh("rm -f /var/lib/systemd/catalog/database").ok();
    for line in lines.drain(..).skip(2) {
        host.sh_as("alice", &line).ok();
    }
    let explained = host
        .sh("journalctl --sync && journalctl -b -x --no-pager -u stratavored")
        .ok();
    assert!(
        explained.out().contains("Defined-By: Stratavore"),
        "{explained}"
    );
    host.sh("systemctl is-active stratavored stratavore-agent.socket && id -nG alice | grep -w stratavore-users").ok();

    host.sh_as(
        "alice",
        "echo key > ~/.claude-key; echo 'TOKEN=\"of the tests\"' > ~/.env",
    )
    .ok();
    let mut shown = String::new();
    for line in typed(&readme, "A tour in five minutes").concat() {
        if line.contains(" -f") {
            let awaited = match line.starts_with("stratavorectl logs ") {
                true => "working on: fix the tests",
                false => "runner.ended",
            };
            let mut going = host.command(["bash", "-c", &line]).user("alice").spawn();
            wait_for(&format!("{line} tells something"), SOON, || {
                match going.out_so_far() {
                    out if out.contains(awaited) => Ok(()),
                    out => Err(format!("{out}{}", going.err_so_far())),
                }
            });
            going.kill();
            continue;
        }
        let out = host
            .command(["bash", "-c", &line])
            .user("alice")
            .limit(Duration::from_secs(60))
            .run()
            .ok();
        let text = out.out();
        if line.starts_with("stratavorectl list ") && !line.contains("--all") {
            assert!(text.contains("agent") && text.contains("running"), "{out}");
        } else if line.starts_with("stratavorectl show ") {
            shown = text;
        } else if line.starts_with("stratavorectl freeze ") {
            let state = host
                .sh_as("alice", "stratavorectl show -o json agent")
                .ok()
                .out();
            assert!(state.contains("\"frozen\""), "{state}");
        } else if line.contains("--pipe") {
            assert!(text.contains("review this\na diff of alice"), "{out}");
        } else if line.starts_with("stratavorectl list --all") {
            assert!(text.contains("stopped"), "{out}");
        }
    }
    // The journalctl command that `show` tells shows what the runner printed.
    let journal = shown
        .lines()
        .find_map(|l| Some(&l[l.find("journalctl")?..]))
        .unwrap_or_else(|| panic!("no journalctl command: {shown}"));
    let out = host.sh(&format!("{journal} --no-pager")).ok();
    assert!(out.out().contains("working on: fix the tests"), "{out}");
    let left = "systemctl list-units --plain --no-legend 'stratavore-*.scope'";
    wait_for("stop leaves nothing", SOON, || {
        match host.sh(left).ok().out() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        }
    });
}

#[test]
fn the_package_is_installed_as_it_is_written() {
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let host = Host::builder("readme-deb")
        .root(Root::Trixie)
        .bind(packages().join("1"), "/srv/target/deb")
        .file("/etc/sudoers.d/alice", "alice ALL=(ALL) NOPASSWD: ALL\n")
        .boot();
    let lines = typed(&readme, "Installation").remove(0);
    assert_eq!(
        (lines.len(), lines[0].as_str()),
        (3, "make deb"),
        "{lines:?}"
    );
    for line in &lines[1..] {
        let typed = host.command(["bash", "-c", line]).user("alice");
        typed.dir("/srv").limit(Duration::from_secs(240)).run().ok();
    }
    host.sh("stratavorectl project create web").ok();
    host.sh_as("alice", "stratavorectl run --wait web -- true")
        .ok();
}
