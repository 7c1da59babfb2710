//! The Debian package of `make deb` on Debian 12 (or what this machine is) and 13: installed, upgraded with runners alive,
//! interrupted, removed and purged, by dpkg itself.

use crate::fixture::{SOON, Site};
use crate::support::{Host, Output, Root, project, wait_for, wait_until};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// Packages of these programs under several versions, each in a folder of its name; made once.
pub fn packages() -> &'static PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = project().join("target/test-deb");
        for version in ["1", "2", "3", "4", "5"] {
            build(version, &folder.join(version));
        }
        folder
    })
}

/// As `make deb` does it, not compressed.
fn build(version: &str, to: &PathBuf) -> PathBuf {
    let made = Command::new(project().join(".ci/deb"))
        .env("BUILT", "target/test-built")
        .env("DEB_DIR", to)
        .env("DEB_VERSION", format!("0.1.0+t{version}"))
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim().into()
}

/// A host without Stratavore, on which packages may start services and keep their documentation; the index of all manual
/// pages is not made anew each time.
fn bare(name: &str, root: Root) -> Site {
    let host = Host::builder(name)
        .root(root)
        .bind(packages(), "/srv/deb")
        .want("polkit.service")
        .boot();
    let site = Site { host };
    site.root(
        "rm -f /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/* && touch /var/log/dpkg.log && rm -f /var/lib/man-db/auto-update && install -d -m 777 /srv/runner",
    )
    .ok();
    site
}

/// Longer than a command's usual minute: a root with many packages has many manual pages to look over.
fn dpkg(site: &Site, words: &str) -> Output {
    let command = format!("dpkg {words}");
    site.host
        .command(["bash", "-c", &command])
        .env("LC_ALL", "C.UTF-8")
        .limit(Duration::from_secs(240))
        .run()
}

fn install(site: &Site, version: &str) -> Output {
    dpkg(site, &format!("-i /srv/deb/{version}/*.deb"))
}

fn state(site: &Site) -> String {
    let asked = "dpkg-query -W -f '${db:Status-Status} ${Version}' stratavore";
    site.root(asked).out()
}

/// Everything below /etc, /usr and /var, and the contents of /etc but for accounts.
fn files(site: &Site) -> BTreeSet<String> {
    let list = "find /etc /usr /var -path /var/log/journal -prune -o -print; \
                find /etc -type f ! -name '*passwd*' ! -name '*group*' ! -name '*shadow*' -exec md5sum {} +";
    let out = site.root(list).ok().out();
    out.lines().map(str::to_owned).collect()
}

/// A runner that goes on until it is told to exit 9.
fn long(site: &Site) -> String {
    site.run("-- sh -c 'echo x >> /srv/runner/started; while [ ! -e /srv/runner/go ]; do sleep .05; done; exit 9'")
}

/// What must stay the same whatever is done to the package: processes, their cgroup and their slice.
fn life(site: &Site, id: &str) -> String {
    let told = site.root(&format!(
        "cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/stratavore-{id}.scope/cgroup.procs | head -n 2; \
         systemctl show -P InvocationID stratavore-{id}.scope stratavore-p.slice stratavore.slice"
    ));
    told.ok().out()
}

fn services(site: &Site) -> [u32; 2] {
    ["stratavored", "stratavore-agent"].map(|unit| site.main_pid(unit))
}

/// Both services run, and from files that are there.
#[track_caller]
fn services_run(site: &Site) -> [u32; 2] {
    site.wait_up();
    site.wait_met();
    let pids = services(site);
    for pid in pids {
        let program = site.root(&format!("readlink /proc/{pid}/exe")).ok().out();
        assert!(!program.contains("deleted"), "{program}");
    }
    pids
}

fn first_steps(site: &Site) {
    site.wait_up();
    site.root("usermod -aG stratavore-users alice").ok();
    site.ctl("root", "project create p").ok();
}

/// The runner is the same one and ends as it should.
#[track_caller]
fn ends_well(site: &Site, id: &str) {
    site.root("touch /srv/runner/go").ok();
    let ended = site.ended(id);
    assert_eq!(
        (&ended["exit"]["cause"], &ended["exit"]["code"]),
        (&"exit-code".into(), &9.into()),
        "{ended}"
    );
    assert_eq!(site.file("/srv/runner/started").len(), 2, "it ran once");
    site.root("rm -f /srv/runner/*").ok();
}

fn whole_life(name: &str, root: Root) {
    let site = bare(name, root);
    let before = files(&site);
    install(&site, "1").ok();
    assert_eq!(state(&site), "installed 0.1.0+t1");
    site.root("systemctl is-enabled stratavored.service stratavore-agent.socket stratavore-apply.service && systemctl is-active stratavored stratavore-agent.socket").ok();
    site.root("test \"$(stat -c '%U %a' /var/lib/stratavore/exits /run/stratavore/shims | xargs)\" = 'root 750 root 700'").ok();
    assert_eq!(dpkg(&site, "-V stratavore").ok().out(), "");
    let explained = site.journal("-b -x -u stratavored");
    assert!(explained.contains("Defined-By: Stratavore"), "{explained}");
    first_steps(&site);
    let id = long(&site);
    wait_until("it runs", SOON, || {
        !site.file("/srv/runner/started").is_empty()
    });
    let (lives, former) = (life(&site, &id), services_run(&site));

    // An upgrade: the services are others, the runner is the same.
    install(&site, "2").ok();
    assert_eq!(state(&site), "installed 0.1.0+t2");
    let now = services_run(&site);
    assert!(
        now.iter().zip(former).all(|(a, b)| ![0, b].contains(a)),
        "{former:?} {now:?}"
    );
    assert_eq!(life(&site, &id), lives);
    let listed = site.ctl("alice", "list -q").ok().out();
    assert!(listed.contains(&id), "{listed}");
    site.ctl("alice", &format!("freeze {id}")).ok();
    site.ctl("alice", &format!("thaw {id}")).ok();

    // A removal is refused, and nothing has happened.
    let refused = dpkg(&site, "-r stratavore").code(1);
    let remedy = format!("    stratavorectl stop {id}\n");
    assert!(refused.err().contains(&remedy), "{refused}");
    assert_eq!(state(&site), "installed 0.1.0+t2");
    assert_eq!((services(&site), life(&site, &id)), (now, lives));
    ends_well(&site, &id);

    // Nor is one that comes while the services are being stopped killed; they are started again.
    let late = "[Service]\nExecStopPost=+/bin/sh -c 'systemd-run --scope --unit=stratavore-late sleep 1000 >/dev/null 2>&1 & until systemctl -q is-active stratavore-late.scope; do sleep .05; done'\n";
    site.root("mkdir -p /run/systemd/system/stratavored.service.d")
        .ok();
    site.host
        .write("/run/systemd/system/stratavored.service.d/late.conf", late);
    site.root("systemctl daemon-reload").ok();
    let refused = dpkg(&site, "-r stratavore").code(1);
    assert!(
        refused.err().contains("stratavorectl stop late"),
        "{refused}"
    );
    site.root("systemctl is-active stratavore-late.scope").ok();
    assert_ne!(services_run(&site)[0], now[0]);
    site.root("systemctl stop stratavore-late.scope; rm -r /run/systemd/system/stratavored.service.d; systemctl daemon-reload").ok();

    // Removed: programs and units are gone, history and configuration are not.
    site.root("mkdir -p /etc/stratavore && echo '[host]' >/etc/stratavore/stratavored.toml")
        .ok();
    site.check();
    dpkg(&site, "-r stratavore").ok();
    assert_eq!(state(&site), "config-files 0.1.0+t2");
    let left = site.root("systemctl list-unit-files --no-legend 'stratavore*'; pgrep -a stratavore; ls -d /run/stratavore /usr/bin/stratavore* /usr/libexec/stratavore 2>/dev/null").out();
    assert_eq!(left, "");
    install(&site, "2").ok();
    services_run(&site);
    assert_eq!(site.cause(&id), "exit-code");

    // Purged: as if it had never been there.
    let purged = dpkg(&site, "-P stratavore").ok().out();
    for said in [
        "Removing /var/lib/stratavore",
        "Removing /etc/stratavore",
        "userdel stratavore",
    ] {
        assert!(purged.contains(said), "{purged}");
    }
    let after = files(&site);
    let new: Vec<_> = after.difference(&before).collect();
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(new.is_empty() && lost.is_empty(), "{new:?} {lost:?}");

    // In a chroot, where no systemd runs: what starts it at the next boot is there, and goes again.
    let chroot = |script: &str| {
        let script = format!("mount -t tmpfs none /run && umount -l /proc && {script}");
        let words = ["unshare", "--mount", "bash", "-c", &script];
        let command = site.host.command(words).env("LC_ALL", "C.UTF-8");
        command.limit(Duration::from_secs(240)).run().ok()
    };
    chroot("dpkg -i /srv/deb/1/*.deb");
    site.root("test -L /etc/systemd/system/multi-user.target.wants/stratavored.service && ! systemctl is-active stratavored && ! pgrep stratavore").ok();
    chroot("dpkg -P stratavore");
    let after = files(&site);
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
}

fn interrupted(name: &str, root: Root) {
    let site = bare(name, root);
    install(&site, "1").ok();
    first_steps(&site);
    let id = long(&site);
    wait_until("it runs", SOON, || {
        !site.file("/srv/runner/started").is_empty()
    });
    let lives = life(&site, &id);
    let mut former = services_run(&site);
    let mut mended = |version: &str| {
        assert_eq!(state(&site), format!("installed 0.1.0+t{version}"));
        let now = services_run(&site);
        assert!(
            now.iter().zip(former).all(|(a, b)| ![0, b].contains(a)),
            "{former:?} {now:?}"
        );
        assert_eq!(life(&site, &id), lives);
        former = now;
    };

    // A step that fails.
    site.host
        .write("/run/no", "#!/bin/sh\necho no room >&2\nexit 1\n");
    site.root("chmod +x /run/no && mount --bind /run/no /usr/bin/systemd-sysusers")
        .ok();
    let failed = install(&site, "2").code(1);
    assert!(failed.err().contains("no room"), "{failed}");
    assert_eq!(state(&site), "half-configured 0.1.0+t2");
    assert_eq!(life(&site, &id), lives);
    site.root("umount /usr/bin/systemd-sysusers").ok();
    dpkg(&site, "--configure -a").ok();
    mended("2");

    // dpkg and its script are killed in the middle.
    site.host.write(
        "/run/no",
        "#!/bin/sh\necho $$ $PPID >/run/in && mv /run/in /run/reached\nexec sleep 1000\n",
    );
    site.root("mount --bind /run/no /usr/bin/systemd-sysusers")
        .ok();
    let script = ["bash", "-c", "exec dpkg -i /srv/deb/3/*.deb"];
    let mut upgrade = site.host.command(script).spawn();
    wait_for("the script is in the middle", SOON, || {
        match site.host.path("/run/reached").exists() {
            true => Ok(()),
            false => Err(upgrade.out_so_far() + &upgrade.err_so_far()),
        }
    });
    site.root(
        "kill -KILL $(pgrep -x dpkg) $(cat /run/reached) && umount /usr/bin/systemd-sysusers",
    )
    .ok();
    // Gone, and its lock with it.
    assert_ne!(upgrade.wait(SOON).code, 0);
    assert_eq!(state(&site), "half-configured 0.1.0+t3");
    dpkg(&site, "--configure -a").ok();
    mended("3");

    // Unpacked and not yet configured: the former services go on, also with the new shim.
    dpkg(&site, "--unpack /srv/deb/4/*.deb").ok();
    assert_eq!(state(&site), "unpacked 0.1.0+t4");
    let short = site.run("-- sh -c 'exit 6'");
    assert_eq!(site.ended(&short)["exit"]["code"], 6);
    dpkg(&site, "--configure -a").ok();
    mended("4");

    // A package that is cut off: what was there is there again.
    site.root("cd /srv/deb/5 && f=$(echo *.deb) && head -c -20000000 $f >/srv/runner/cut.deb")
        .ok();
    dpkg(&site, "-i /srv/runner/cut.deb").code(1);
    assert_eq!(state(&site), "installed 0.1.0+t4");
    let running = services_run(&site);
    assert_eq!(life(&site, &id), lives);

    // A mistake in the configuration is told, and does not leave half a package.
    site.root("mkdir -p /etc/stratavore && echo mistake >/etc/stratavore/stratavored.toml")
        .ok();
    let told = install(&site, "5").ok();
    assert!(told.err().contains("see stratavorectl doctor"), "{told}");
    assert_eq!(life(&site, &id), lives);
    site.root("rm /etc/stratavore/stratavored.toml && systemctl restart stratavored")
        .ok();
    assert_ne!(services_run(&site), running);

    // What the administrator has disabled stays so.
    site.root("systemctl disable --now stratavored.service stratavore-agent.socket && systemctl stop stratavore-agent")
        .ok();
    install(&site, "4").ok();
    let off = "! systemctl is-enabled stratavored.service stratavore-agent.socket && ! systemctl is-active stratavored.service stratavore-agent.socket stratavore-agent.service";
    site.root(off).ok();
    assert_eq!(life(&site, &id), lives);
    site.root("systemctl enable --now stratavore-agent.socket stratavored.service")
        .ok();
    services_run(&site);
    ends_well(&site, &id);
    site.check();
}

#[test]
fn a_package_is_installed_upgraded_removed_and_purged() {
    whole_life("deb-machine", Root::Machine);
}

#[test]
fn a_package_is_installed_upgraded_removed_and_purged_on_debian_13() {
    whole_life("deb-trixie", Root::Trixie);
}

#[test]
fn an_interrupted_upgrade_is_mended() {
    interrupted("deb-cut-machine", Root::Machine);
}

#[test]
fn an_interrupted_upgrade_is_mended_on_debian_13() {
    interrupted("deb-cut-trixie", Root::Trixie);
}

/// Whoever builds the same programs of the same commit gets the same bytes.
#[test]
fn a_package_is_the_same_each_time() {
    let again = build("1", &project().join("target/test-deb/again"));
    let first = packages().join("1").join(again.file_name().unwrap());
    assert!(std::fs::read(first).unwrap() == std::fs::read(again).unwrap());
}
