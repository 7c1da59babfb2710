//! `stratavorectl doctor`: each thing an administrator gets wrong is broken for real, its sentence is seen, and the very
//! command it prints mends it.

use crate::fixture::{SOON, Site};
use crate::support::{Fleet, FleetPlan, wait_for};
use serde_json::Value;

/// What `doctor` says about one check; the worst if it says several things.
pub fn said(site: &Site, user: &str, check: &str) -> Option<Value> {
    let out = site.ctl(user, "doctor -o json");
    let all: Vec<Value> = serde_json::from_str(&out.out()).unwrap_or_else(|e| panic!("{e}: {out}"));
    let wrong = all
        .iter()
        .any(|f| f["level"] == "warning" || f["level"] == "problem");
    assert_eq!(out.code, i32::from(wrong), "{out}");
    let bad = |f: &&Value| {
        ["ok", "note", "warning", "problem"]
            .iter()
            .position(|l| f["level"] == *l)
    };
    all.iter()
        .filter(|f| f["check"] == check)
        .max_by_key(bad)
        .cloned()
}

/// Breaks something and waits for the sentence; returns the command that mends it.
#[track_caller]
fn broken(site: &Site, check: &str, level: &str, part: &str, script: &str) -> String {
    let before = said(site, "root", check);
    assert!(
        before.as_ref().is_none_or(|f| f["level"] == "ok"),
        "{check} before: {before:?}"
    );
    site.root(script).ok();
    let found = wait_for(
        &format!("doctor says of {check}: {part}"),
        SOON,
        || match said(site, "root", check) {
            Some(f) if f["level"] == level && f["message"].as_str().unwrap().contains(part) => {
                Ok(f)
            }
            other => Err(format!("{other:?}")),
        },
    );
    found["mend"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn mended(site: &Site, check: &str) {
    wait_for(&format!("{check} is mended"), SOON, || {
        match said(site, "root", check) {
            Some(f) if f["level"] != "ok" => Err(format!("{f}\n{}", site.log())),
            _ => Ok(()),
        }
    });
}

/// Breaks something, and mends it with the command that `doctor` prints. `before` is what only a person can do.
#[track_caller]
fn mends(site: &Site, check: &str, level: &str, part: &str, script: &str, before: &str) {
    let mend = broken(site, check, level, part, script);
    assert!(!mend.is_empty(), "{check}: no command");
    site.root(before).ok();
    let out = site.root(&mend);
    assert!(out.success(), "{check}: {out}");
    mended(site, check);
}

#[test]
fn each_thing_broken_is_named_and_mended_by_the_command_it_prints() {
    let site = Site::boot("doctor");
    let id = site.run("-- sleep 1000");
    // What this machine's kernel lacks is no fault of the host's.
    let controllers = site.host.controllers();
    let out = site.ctl("root", "doctor -q");
    for line in out.out().lines() {
        let lacking = line
            .split("cgroup ")
            .nth(1)
            .and_then(|l| l.split(':').next())
            .unwrap_or("");
        assert!(
            line.starts_with("warning  cgroup ") && !controllers.contains(&lacking.to_owned()),
            "a fresh host: {out}"
        );
    }
    assert!(
        site.ctl("root", "doctor").out().lines().count() > 20,
        "{out}"
    );

    let conf = "/usr/share/dbus-1/system.d/org.stratavore1.conf";
    let policy = "/usr/share/polkit-1/actions/org.stratavore1.policy";
    let unit = "/usr/lib/systemd/system/stratavored.service";
    let daemon = "stratavored.service";
    // Units.
    mends(
        &site,
        daemon,
        "problem",
        "not running",
        "systemctl stop stratavored",
        "",
    );
    mends(
        &site,
        daemon,
        "problem",
        "masked",
        "systemctl mask --now stratavored",
        "",
    );
    mends(
        &site,
        daemon,
        "warning",
        "changed on disk",
        &format!("echo '# changed' >>{unit}; touch -d '+1 second' {unit}"),
        "",
    );
    let unwanted = "sed -i 's/stratavored.service//' /etc/systemd/system/host.target && systemctl daemon-reload";
    mends(
        &site,
        daemon,
        "warning",
        "when the host boots",
        unwanted,
        "",
    );
    mends(
        &site,
        "stratavore-agent.socket",
        "problem",
        "not running",
        "systemctl stop stratavore-agent.socket",
        "",
    );
    site.wait_up();

    // The daemon, its name, and its programs.
    mends(
        &site,
        "daemon",
        "problem",
        "does not answer",
        "kill -STOP $(systemctl show -P MainPID stratavored)",
        "",
    );
    site.wait_up();
    let away = format!("mv {conf} /root/ && systemctl reload dbus");
    mends(
        &site,
        "bus policy",
        "problem",
        "lets no call",
        &away,
        &format!("mv /root/org.stratavore1.conf {conf}"),
    );
    let old = "cd /usr/libexec/stratavore && cp stratavore-agent new && mv new stratavore-agent";
    mends(
        &site,
        "programs",
        "warning",
        "stratavore-agent still runs",
        old,
        "",
    );
    let wrong =
        "mkdir -p /etc/stratavore && echo '[store]\nurll = 1' >/etc/stratavore/stratavored.toml";
    mends(
        &site,
        "stratavored.toml",
        "problem",
        "stratavored.toml:2: unknown key store.urll",
        wrong,
        "rm /etc/stratavore/stratavored.toml",
    );
    let nobody = "echo 'allowed_users = [\"alcie\"]' >/etc/stratavore/agent.toml";
    mends(
        &site,
        "agent.toml",
        "warning",
        "alcie",
        nobody,
        "rm /etc/stratavore/agent.toml",
    );
    // The file that a unit's own command line names is the one that counts.
    let elsewhere = "mkdir -p /etc/systemd/system/stratavored.service.d && \
        printf '[Service]\nExecStart=\nExecStart=/usr/bin/stratavored --config /etc/other.toml\n' >/etc/systemd/system/stratavored.service.d/other.conf && \
        echo '[stor]\nx = 1' >/etc/other.toml && systemctl daemon-reload";
    mends(
        &site,
        "stratavored.toml",
        "problem",
        "/etc/other.toml:2",
        elsewhere,
        "rm /etc/systemd/system/stratavored.service.d/other.conf && systemctl daemon-reload",
    );
    mends(
        &site,
        "catalog",
        "warning",
        "does not explain",
        "rm /var/lib/systemd/catalog/database",
        "",
    );
    let few = "printf '<busconfig>\\n  <limit name=\"max_connections_per_user\">20</limit>\\n</busconfig>\\n' >/etc/dbus-1/system-local.conf";
    mends(
        &site,
        "bus limits",
        "warning",
        "max_connections_per_user is 20",
        few,
        "",
    );

    // polkit.
    mends(
        &site,
        "polkit",
        "problem",
        "does not know",
        &format!("mv {policy} /root/"),
        &format!("mv /root/org.stratavore1.policy {policy}"),
    );
    mends(
        &site,
        "polkit",
        "warning",
        "masked",
        "systemctl mask --now polkit",
        "",
    );
    site.root("gpasswd -d alice stratavore-users").ok();
    let rights = said(&site, "alice", "rights").unwrap();
    assert_eq!(rights["level"], "note", "{rights}");
    let add = rights["mend"]
        .as_str()
        .unwrap()
        .trim_start_matches("sudo ")
        .to_owned();
    site.root(&add).ok();
    assert_eq!(said(&site, "alice", "rights").unwrap()["level"], "ok");

    // Files.
    mends(
        &site,
        "agent socket",
        "problem",
        "mode 666",
        "chmod 666 /run/stratavore/agent.sock",
        "",
    );
    mends(
        &site,
        "agent socket",
        "problem",
        "missing",
        "rm /run/stratavore/agent.sock",
        "",
    );
    site.wait_up();
    mends(
        &site,
        "folders",
        "problem",
        "mode 777",
        "chmod 777 /var/lib/stratavore/exits",
        "",
    );
    mends(
        &site,
        "accounts",
        "problem",
        "stratavore-admins",
        "groupdel stratavore-admins",
        "",
    );
    let full =
        "fallocate -l $(($(stat -f -c '%a*%S' /var/lib/stratavore) - (10<<20))) /var/lib/fill";
    let check = "disk /var/lib/stratavore and /var/log/journal";
    broken(
        &site,
        check,
        "problem",
        "nothing can be launched when it is full",
        full,
    );
    site.root("rm /var/lib/fill").ok();
    mended(&site, check);

    // The journal.
    let volatile = "sed -i s/persistent/volatile/ /etc/systemd/journald.conf.d/test-host.conf";
    mends(
        &site,
        "journal",
        "warning",
        "only in memory",
        volatile,
        "mv /etc/systemd/journald.conf.d/{test-host,50-test-host}.conf",
    );

    // An ending that the store does not get.
    let late = format!(
        "systemctl stop stratavored && systemctl stop stratavore-{id}.scope && f=/var/lib/stratavore/exits/{id}.json && \
         until [ -e $f ]; do sleep 0.1; done && touch -d '-10 min' $f"
    );
    mends(
        &site,
        "exit records",
        "warning",
        "1 ending waits",
        &late,
        "",
    );
    assert_eq!(site.cause(&id), "stopped");

    // No bus at all: everything else is still looked at, by root and by others.
    let bus = broken(
        &site,
        "bus",
        "problem",
        "can't be reached",
        "systemctl stop dbus.socket dbus.service",
    );
    let alice = site.sh_as("alice", "stratavorectl doctor").code(1);
    assert!(
        alice.out().contains("problem  bus:") && alice.out().contains("sudo stratavorectl doctor"),
        "{alice}"
    );
    assert!(
        site.ctl("root", "doctor")
            .code(1)
            .out()
            .contains("ok       store:"),
        "{}",
        site.log()
    );
    site.root(&bus).ok();
    mended(&site, "bus");
    site.wait_up();
    mended(&site, "daemon");

    // No systemd at all.
    let out = site
        .root("unshare --mount sh -c 'mount -t tmpfs none /run && stratavorectl doctor'")
        .code(1);
    assert!(out.out().contains("problem  systemd: PID 1"), "{out}");
    assert!(
        !out.out().contains("panicked") && out.err().is_empty(),
        "{out}"
    );
}

/// The check reaches a fleet's store with the daemon's own credentials, over TLS.
#[test]
fn the_store_of_a_fleet() {
    let fleet = Fleet::with(FleetPlan {
        name: "f-doctor",
        hosts: 1,
        ..FleetPlan::default()
    });
    let store = || said(&fleet.sites[0], "root", "store").unwrap();
    let fine = store();
    assert_eq!(fine["level"], "ok", "{fine}");
    assert!(fine["message"].to_string().contains("schema"), "{fine}");
    // Without the daemon its credentials are not there: that is no fault of the store's.
    let site = &fleet.sites[0];
    site.root("systemctl stop stratavored").ok();
    let unseen = store();
    assert_eq!(unseen["level"], "note", "{unseen}");
    let message = unseen["message"].as_str().unwrap();
    assert!(
        message.contains("store-password and store-ca are there only while stratavored runs"),
        "{unseen}"
    );
    let look = unseen["mend"].as_str().unwrap();
    let out = site.root(look).ok();
    assert!(out.out().contains("schema"), "{out}");
    let still = site.root("systemctl is-active stratavored").out();
    assert_eq!(still.trim(), "inactive", "{look}");
    fleet.postgres.kill9();
    site.root(look).code(1);
    assert_eq!(store()["level"], "note");
    site.root("systemctl start --no-block stratavored").ok();
    // It waits for its store, with its credentials.
    let away = wait_for("the store is looked at again", SOON, || {
        let said = store();
        match said["level"] == "problem" {
            true => Ok(said),
            false => Err(said.to_string()),
        }
    });
    assert_eq!(away["level"], "problem", "{away}");
}
