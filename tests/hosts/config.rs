//! Configuration on a running host: reload, of the daemon's file and of root's.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{Root, wait_for};
use std::time::{Duration, Instant};

const FILE: &str = "/etc/stratavore/stratavored.toml";
const BOUNDS: &str = "/etc/stratavore/agent.toml";

fn status(site: &Site, unit: &str) -> String {
    let show = format!("systemctl show -p StatusText --value {unit}");
    site.root(&show).ok().out()
}

fn reloads(name: &'static str, root: Root) {
    let site = Site::with(Plan {
        name,
        root,
        config: "[host]\nmax_runners = 1\n",
        ..Plan::default()
    });
    let pids = || ["stratavored", "stratavore-agent"].map(|unit| site.main_pid(unit));
    let before = pids();
    let first = site.run("-- sleep 1000");
    site.ctl("alice", "run p -- sleep 1000").code(3);

    // A drop-in wins, and is taken over.
    site.root(&format!("mkdir {FILE}.d && printf '[host]\\nmax_runners = 2\\n' >{FILE}.d/10.toml && systemctl reload stratavored")).ok();
    let second = wait_for("the new cap holds", SOON, || {
        let out = site.ctl("alice", "run p -- sleep 1000");
        out.success()
            .then(|| out.out())
            .ok_or_else(|| out.to_string())
    });
    site.ctl("alice", "run p -- sleep 1000").code(3);

    // A mistake fails the reload, says where, and changes nothing.
    site.root(&format!(
        "printf '[host]\\nmax_runers = 9\\n' >{FILE}.d/20.toml"
    ))
    .ok();
    assert!(!site.root("systemctl reload stratavored").success());
    let log = site.journal("-b -o cat -u stratavored");
    let sentence =
        format!("{FILE}.d/20.toml:2: unknown key host.max_runers; did you mean host.max_runners?");
    assert!(log.contains(&sentence), "{log}");
    site.root("systemctl is-active stratavored").ok();
    site.ctl("alice", "run p -- sleep 1000").code(3);
    // Who signals it instead finds the sentence in the status.
    site.root("systemctl kill -s HUP --kill-whom=main stratavored")
        .ok();
    wait_for("the status tells the mistake", SOON, || {
        let text = status(&site, "stratavored");
        (text.contains("2 live runners") && text.contains(&sentence))
            .then_some(())
            .ok_or(text)
    });

    // What only a restart can change is named until it came.
    site.root(&format!("printf '[store]\\nmax_connections = 5\\n' >{FILE}.d/20.toml && systemctl reload stratavored")).ok();
    wait_for("the status names what waits for a restart", SOON, || {
        let text = status(&site, "stratavored");
        let right = text.contains("only after a restart: store.max_connections")
            && !text.contains("20.toml");
        right.then_some(()).ok_or(text)
    });
    site.root("systemctl is-active stratavored").ok();

    // Root's bounds, in the same way.
    site.root(&format!(
        "echo 'allowed_users = [\"bob\"]' >{BOUNDS} && systemctl reload stratavore-agent"
    ))
    .ok();
    site.ctl("root", &format!("stop {second}")).ok();
    wait_for("the new bounds hold", SOON, || {
        let out = site.ctl("alice", "run p -- true");
        (out.code == 4).then_some(()).ok_or_else(|| out.to_string())
    });
    site.root(&format!("echo 'alowed_users = []' >{BOUNDS}"))
        .ok();
    assert!(!site.root("systemctl reload stratavore-agent").success());
    let wrong = site
        .root("/usr/libexec/stratavore/stratavore-agent --check-config")
        .code(1);
    assert!(
        wrong.err().contains(&format!(
            "{BOUNDS}:1: unknown key alowed_users; did you mean allowed_users?"
        )),
        "{wrong}"
    );
    // A file that is named must be there.
    let nowhere = site
        .root("/usr/libexec/stratavore/stratavore-agent --check-config /etc/nosuch")
        .code(1);
    assert!(nowhere.err().contains("/etc/nosuch"), "{nowhere}");
    site.root("systemctl kill -s HUP --kill-whom=main stratavore-agent")
        .ok();
    wait_for("the status tells the mistake", SOON, || {
        let text = status(&site, "stratavore-agent");
        text.contains("alowed_users").then_some(()).ok_or(text)
    });
    site.ctl("alice", "run p -- true").code(4);

    assert_eq!(pids(), before, "nothing was restarted");
    assert_eq!(site.show(&first)["state"], "running");
    site.clear();
}

/// The agent can't start with it, and daemon and systemd try again and again: not so often that the journal is flooded,
/// and it is back as soon as it can.
/// Credentials are no part of `--check-config`; who starts with wrong ones is not started again for ever.
#[test]
fn a_credential_that_does_not_fit_ends_the_daemon() {
    let site = Site::boot("misfit");
    let live = site.run("-- sleep 1000");
    site.root(&format!(
        "mkdir -p /etc/stratavore && printf '[events]\\namqp_urls = [\"amqp://mq.example\"]\\n' >{FILE}"
    ))
    .ok();
    let doubted = site.root("stratavored --check-config").ok();
    assert!(doubted.err().contains("amqps://"), "{doubted}");
    let doctor = site.ctl("root", "doctor -q").code(1).out();
    assert!(
        doctor.contains("stratavored.toml: events.amqp_urls: amqp://stratavore@mq.example:5672"),
        "{doctor}"
    );
    let unit = "/run/systemd/system/stratavored.service.d";
    site.root(&format!("mkdir -p {unit} && echo ca >/etc/stratavore/amqp-ca && printf '[Service]\\nLoadCredential=amqp-ca:/etc/stratavore/amqp-ca\\n' >{unit}/misfit.conf && systemctl daemon-reload"))
        .ok();
    site.root("systemctl restart stratavored || true").ok();
    wait_for("the daemon gives up", SOON, || {
        let show = "systemctl show -p ActiveState,ExecMainStatus stratavored";
        let said = site.root(show).ok().out();
        let over = said.contains("ActiveState=failed") && said.contains("ExecMainStatus=78");
        over.then_some(()).ok_or(said)
    });
    let log = site.journal("-b -o cat -u stratavored");
    assert!(log.contains("amqp-ca"), "{log}");
    let doctor = site.ctl("root", "doctor -q").code(1).out();
    let gave_up = doctor.lines().find(|line| line.contains("gave up: "));
    assert!(
        gave_up.is_some_and(|line| line.contains("amqp-ca")),
        "{doctor}"
    );
    assert!(site.scopes().contains(&live));
    site.root(&format!(
        "rm {unit}/misfit.conf && systemctl daemon-reload && systemctl start stratavored"
    ))
    .ok();
    site.wait_up();
    site.clear();
}

#[test]
fn wrong_bounds_flood_nothing() {
    let site = Site::boot("bounds");
    let id = site.run("-- sleep 1000");
    site.root(&format!(
        "mkdir -p /etc/stratavore; echo 'alowed_users = []' >{BOUNDS}; systemctl restart stratavore-agent"
    ))
    .code(1);
    wait_for("the status tells the mistake", SOON, || {
        let text = status(&site, "stratavore-agent");
        text.contains("alowed_users").then_some(()).ok_or(text)
    });
    let starts = || {
        let said =
            site.journal("-o cat -u stratavore-agent MESSAGE_ID=40136f80dfe94b2bb50f2fe25dd19bf5");
        said.lines().count()
    };
    let begun = Instant::now();
    let before = starts();
    wait_for("it is tried again", SOON, || {
        (starts() > before + 1).then_some(()).ok_or(site.log())
    });
    // Two starts, at 5 s each.
    assert!(begun.elapsed() > Duration::from_secs(5), "{}", site.log());
    site.root(&format!("rm {BOUNDS}")).ok();
    site.wait_up();
    wait_for("it is back by itself", SOON, || {
        let out = site.ctl("alice", "run p -- true");
        out.success().then_some(()).ok_or(out.to_string())
    });
    assert_eq!(site.show(&id)["state"], "running");
    site.clear();
}

#[test]
fn a_reload_on_252() {
    reloads("reload", Root::Machine);
}

#[test]
fn a_reload_on_257() {
    reloads("reload-257", Root::Trixie);
}
