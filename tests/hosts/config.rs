//! Configuration on a running host: reload, of the daemon's file and of root's.

use crate::fixture::{Plan, SOON, Site};
use crate::support::{Root, wait_for};

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
    let log = site
        .root("journalctl --no-pager -b -o cat -u stratavored")
        .out();
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
        wrong.err().contains("line 1, alowed_users") && wrong.err().contains("allowed_users?"),
        "{wrong}"
    );
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

#[test]
fn a_reload_on_252() {
    reloads("reload", Root::Machine);
}

#[test]
fn a_reload_on_257() {
    reloads("reload-257", Root::Trixie);
}
