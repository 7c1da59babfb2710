//! README's installation, tour and fleet, typed exactly as they stand; and the demo.
//!
//! Stand-ins, since a test host is no workplace: `make build` and `make install` were done outside (what they install is
//! laid over the host), `claude`, `make`, `git` and `less` are scripts that do a little, and what goes on for ever (`-f`) is ended.

use crate::backup::block;
use crate::deb::packages;
use crate::fixture::{SOON, Site};
use crate::support::{Bus, Host, Network, PASSWORD, Postgres, Root, project, wait_for};
use serde_json::Value;
use std::process::Command;
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

/// What is between backticks in a part of README's text (not in its blocks) and begins so.
fn ticked(readme: &str, heading: &str, starts: &str) -> String {
    let part = readme.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let prose = part.split("```").step_by(2).collect::<String>();
    let mut spans = prose.split('`').skip(1).step_by(2);
    let found = spans.find(|span| span.starts_with(starts));
    let found = found.unwrap_or_else(|| panic!("{heading} tells nothing of {starts}"));
    found.replace('\n', " ")
}

/// A block of README's fleet, without the name of its language.
fn told(word: &str) -> String {
    let block = block("A fleet", word);
    block.split_once('\n').unwrap().1.to_owned()
}

/// The set-up of a fleet, from its database on. The addresses are those of the test's network, the password is one.
#[test]
fn a_fleet_is_set_up_as_it_is_written() {
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let typed = |starts: &str| ticked(&readme, "A fleet", starts);
    let network = Network::new();

    // The database.
    let postgres = Postgres::start(&network);
    // It has a role of that name already, for other tests.
    postgres.client("psql -c 'DROP ROLE stratavore' postgres");
    let access = told("hostssl").replace("192.0.2.0/24", &network.addresses());
    assert!(access.starts_with("hostssl") && access.contains(&network.addresses()));
    let settings = told("listen_addresses");
    assert!(settings.contains("'db1.crt'") && settings.contains("'db1.key'"));
    postgres.set_up(&settings, &access, "db1.crt", "db1.key");
    let made = told("CREATE ROLE stratavore").replace('…', PASSWORD);
    assert!(made.contains(PASSWORD), "{made}");
    postgres.client(&format!(
        "psql -v ON_ERROR_STOP=1 postgres <<'END'\n{made}\nEND"
    ));

    // Three hosts, on which Stratavore was installed and runs alone so far.
    let nobody = network.cable();
    let names = format!(
        "127.0.0.1 localhost\n{} db1.example.org\n{} db2.example.org\n",
        postgres.address(),
        nobody.address
    );
    let cables = [network.cable(), network.cable(), network.cable()];
    let sites: Vec<Site> = std::thread::scope(|scope| {
        let boot = |n: usize| {
            let host = Host::builder(&format!("web-{}", n + 1))
                .payload(project().join("target/test-payload"))
                .cable(&cables[n])
                .file("/etc/hosts", names.as_str())
                .file("/etc/stratavore/store-ca.pem", postgres.authority().pem())
                .secret("/etc/stratavore/store-password", PASSWORD)
                .want("polkit.service")
                .want("stratavored.service");
            Site { host: host.boot() }
        };
        let booting = [0, 1, 2].map(|n| scope.spawn(move || boot(n)));
        booting.map(|host| host.join().unwrap()).into()
    });
    let drop_in = told("LoadCredential=store-password");
    let drop_in = drop_in.replace("192.0.2.10", &postgres.address().to_string());
    let drop_in = drop_in.replace("192.0.2.11", &nobody.address.to_string());
    for site in &sites {
        site.wait_up();
        site.root("usermod -aG stratavore-users alice").ok();
        site.host.write(
            "/etc/stratavore/stratavored.toml",
            told("db1.example.org,db2.example.org"),
        );
        // Where `systemctl edit` writes it.
        let folder = "/etc/systemd/system/stratavored.service.d";
        site.root(&format!("mkdir -p {folder}")).ok();
        site.host
            .write(&format!("{folder}/override.conf"), &drop_in);
        site.root("systemctl daemon-reload && systemctl restart stratavored")
            .ok();
    }
    let [one, two, three] = &sites[..] else {
        panic!("three")
    };
    sites.iter().for_each(Site::wait_up);
    let states = || -> Vec<String> {
        let out = one
            .root(&format!("{} -o json", typed("stratavorectl host list")))
            .ok();
        let hosts: Vec<Value> = serde_json::from_str(&out.out()).unwrap();
        let state = |h: &Value| format!("{} {}", h["name"], h["state"]).replace('"', "");
        hosts.iter().map(state).collect()
    };
    assert_eq!(states(), ["web-1 up", "web-2 up", "web-3 up"]);

    // One quota, and orders to the others.
    one.ctl("root", "project create p --max-runners 2").ok();
    let live = [one.run("-- sleep 1000"), two.run("-- sleep 1000")];
    let refused = three.ctl("alice", "run p -- true").code(3);
    assert!(refused.err().contains("2 of 2"), "{refused}");
    three.ctl("alice", &format!("stop {}", live.join(" "))).ok();

    // Launches through the store, once root there accepts them.
    let place = typed("run --on web-2 --via store").replace('…', "p -- sleep 1000");
    one.ctl("alice", &place).code(4);
    let agent = told("accept_placed_launches");
    two.host.write("/etc/stratavore/agent.toml", agent);
    two.root(&typed("systemctl reload stratavore-agent")).ok();
    let placed = wait_for("web-2 accepts it", SOON, || {
        match one.ctl("alice", &place) {
            out if out.success() => Ok(out.out().trim().to_owned()),
            out => Err(out.to_string()),
        }
    });
    let there = typed("list --on HOST").replace("HOST", "web-2");
    let there = one.ctl("alice", &format!("{there} -o json")).ok();
    assert!(there.out().contains(&placed), "{placed}: {there}");
    three.ctl("bob", &format!("stop {placed}")).code(4);
    one.ctl("alice", &format!("stop {placed}")).ok();

    // Maintenance.
    one.ctl("root", &typed("host cordon web-2")).ok();
    let refused = two.ctl("alice", "run p -- true").code(3);
    assert!(refused.err().contains("new disk"), "{refused}");
    one.ctl("root", &typed("host drain web-2 --deadline")).ok();
    one.ctl("root", &typed("host uncordon web-2")).ok();
    two.ctl("alice", "run --wait p -- true").ok();
    let lives = one.ctl("root", &typed("host forget web-2"));
    assert!(!lives.success() && lives.err().contains("lease"), "{lives}");
    one.ctl("root", &typed("fleet set")).ok();
    let fleet = three.ctl("root", "fleet show").ok();
    assert!(fleet.out().contains("500"), "{fleet}");
    assert_eq!(states(), ["web-1 up", "web-2 up", "web-3 up"]);
}

/// `make demo`, with the programs of these tests. Of its first act other tests see all; of the second each command comes to
/// what is told there.
#[test]
fn the_demo_shows_what_it_says() {
    let out = Command::new("timeout")
        .args(["300", "tests/demo.sh"])
        .current_dir(project())
        .env("STRATAVORE_DEMO_BUILT", "target/test-built")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "{text}
{errors}"
    );
    let second = text.split("# A fleet: ").nth(1);
    let second = second.unwrap_or_else(|| panic!("there is no second act: {text}"));
    let mut shown: Vec<(&str, u32)> = Vec::new();
    for line in second.lines() {
        let command = line
            .strip_prefix("web-")
            .and_then(|rest| rest.split_once(" $ "));
        let status = line.strip_prefix("(exit status ");
        match (command, status, shown.last_mut()) {
            (Some((_, command)), _, _) => shown.push((command.trim_end_matches("   (root)"), 0)),
            (_, Some(status), Some(last)) => last.1 = status.trim_end_matches(')').parse().unwrap(),
            _ => {}
        }
    }
    let refused: Vec<_> = shown.iter().filter(|(_, status)| *status != 0).collect();
    let full = ("stratavorectl run agents -- true", 3);
    assert_eq!(refused, [&full, &full], "{second}");
    assert!(shown.len() > 7, "{second}");
    let stormed =
        |line: &str| line.contains(" launched, ") && line.contains(" refused by the quota");
    assert_eq!(second.lines().filter(|l| stormed(l)).count(), 3, "{second}");
}
