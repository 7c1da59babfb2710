//! One test host: boot, run commands in it, let it die, boot it again.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::builder::HostBuilder;
use super::exec::{Exec, Output, Spawned};
use super::{own_name, prepare, run_folder, script, unique, wait_until};

/// Longer than the boot script gives a boot, so that it is the script that tells what went wrong. The first boot from a
/// root may have to make that root.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

struct Running {
    supervisor: Child,
    /// As long as this is open, the host may live.
    lease: ChildStdin,
    pid1: u32,
    cgroup: PathBuf,
}

/// A booted host. Dropped, it and everything of it is gone.
pub struct Host {
    builder: HostBuilder,
    work: PathBuf,
    running: Option<Running>,
}

impl Host {
    /// Its folder, with nothing in it yet.
    pub(super) fn new(builder: HostBuilder) -> Self {
        prepare();
        let folder = format!("{}-{}-{}", builder.name, std::process::id(), unique());
        let work = run_folder().join(folder);
        std::fs::create_dir_all(work.join("files")).expect("the host's folder");
        std::fs::write(work.join("owner"), own_name()).expect("the host's owner");
        Host {
            builder,
            work,
            running: None,
        }
    }

    /// Boots on the disk it has, with a new boot id.
    #[track_caller]
    pub fn boot_again(&mut self) {
        assert!(
            self.running.is_none(),
            "the host {} is up already",
            self.name()
        );
        let files = self.work.join("files");
        for (path, contents, mode) in &self.builder.files {
            let at = files.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(at.parent().expect("a file in a folder"))
                .expect("folder for a host's file");
            std::fs::write(&at, contents).expect("a host's file");
            std::fs::set_permissions(&at, PermissionsExt::from_mode(*mode))
                .expect("mode of a host's file");
        }
        let builder = &self.builder;
        let mut command = Command::new(script("boot.sh"));
        command.args([
            "--lease",
            "--root",
            &builder.root.name(),
            "--bus",
            builder.bus.name(),
        ]);
        command
            .arg("--work")
            .arg(&self.work)
            .arg("--disk-mb")
            .arg(builder.disk_mb.to_string());
        command.arg("--files").arg(&files);
        if let Some(payload) = &builder.payload {
            command.arg("--payload").arg(payload);
        }
        command.args(builder.wants.iter().flat_map(|unit| ["--want", unit]));
        command.args(builder.binds.iter().flat_map(|bind| ["--bind", bind]));
        command.args(builder.without.iter().flat_map(|name| ["--without", name]));
        if let Some(cable) = &builder.cable {
            command.args(["--cable", &cable.words()]);
        }
        command.arg(&builder.name);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut supervisor = command
            .spawn()
            .unwrap_or_else(|e| panic!("tests/host/boot.sh: {e}"));

        let mut stdout = BufReader::new(supervisor.stdout.take().expect("a pipe"));
        let mut stderr = supervisor.stderr.take().expect("a pipe");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            drop(stdout.read_line(&mut line));
            drop(tell.send(line));
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            drop(stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        let line = told.recv_timeout(BOOT_LIMIT).unwrap_or_default();
        let Some(pid1) = line
            .strip_prefix("ready ")
            .and_then(|pid| pid.trim().parse().ok())
        else {
            // Ending its lease ends it, and with it standard error.
            drop(supervisor.stdin.take());
            drop(supervisor.wait());
            panic!(
                "the host {} did not boot: {}",
                self.name(),
                errors.join().unwrap_or_default()
            );
        };
        let cgroup = std::fs::read_to_string(self.work.join("cgroup")).expect("the host's cgroup");
        self.running = Some(Running {
            lease: supervisor.stdin.take().expect("a pipe"),
            supervisor,
            pid1,
            cgroup: cgroup.trim().into(),
        });
    }

    /// Another payload from the next boot on: an upgrade over a restart.
    pub fn set_payload(&mut self, folder: impl Into<PathBuf>) {
        self.builder.payload = Some(folder.into());
    }

    pub fn name(&self) -> &str {
        &self.builder.name
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    #[track_caller]
    fn up(&self) -> &Running {
        self.running
            .as_ref()
            .unwrap_or_else(|| panic!("the host {} is not up", self.name()))
    }

    /// The pid of its systemd, as this machine counts.
    #[track_caller]
    pub fn pid1(&self) -> u32 {
        self.up().pid1
    }

    /// Its folder on this machine: disk.img, boot.log.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// A path of the host, seen from this machine. Absolute links lead out of the host: read those by `exec`.
    #[track_caller]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/root/{}",
            self.pid1(),
            path.trim_start_matches('/')
        ))
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let at = self.path(path);
        std::fs::read_to_string(&at)
            .unwrap_or_else(|e| panic!("{path} in the host {}: {e}", self.name()))
    }

    #[track_caller]
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) {
        let at = self.path(path);
        std::fs::write(&at, contents)
            .unwrap_or_else(|e| panic!("{path} in the host {}: {e}", self.name()));
    }

    /// The root of its cgroups, seen from this machine: `host.cgroup().join("stratavore.slice/cgroup.procs")`.
    #[track_caller]
    pub fn cgroup(&self) -> &Path {
        &self.up().cgroup
    }

    /// The cgroup controllers it has. Without `memory` a `memory.max` cannot be enforced here: use [`super::Uml`].
    #[track_caller]
    pub fn controllers(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.cgroup().join("cgroup.controllers"))
            .expect("cgroup.controllers");
        text.split_whitespace().map(str::to_owned).collect()
    }

    pub fn boot_id(&self) -> String {
        std::fs::read_to_string(self.work.join("boot-id"))
            .expect("the host's boot id")
            .trim()
            .to_owned()
    }

    /// A command, to be refined and run. It dies and freezes with the host.
    #[track_caller]
    pub fn command<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> Exec {
        let up = self.up();
        let mut enter: Vec<String> = vec!["sh".into(), "-c".into()];
        enter.push(r#"echo $$ >"$0/test-exec/cgroup.procs" && exec nsenter -t "$@""#.into());
        enter.push(up.cgroup.display().to_string());
        enter.push(up.pid1.to_string());
        enter.extend(["-m", "-p", "-C", "-u", "-i", "-n", "--"].map(String::from));
        Exec::new(enter, command.into_iter().map(Into::into).collect())
    }

    /// Runs a command as root, within a minute.
    #[track_caller]
    pub fn exec<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> Output {
        self.command(command).run()
    }

    /// Runs a bash script as root, within a minute.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        self.exec(["bash", "-c", script])
    }

    /// Runs a bash script as a user (alice, bob), with a clean environment and without a login session.
    #[track_caller]
    pub fn sh_as(&self, user: &str, script: &str) -> Output {
        self.command(["bash", "-c", script]).user(user).run()
    }

    /// Runs a bash script as a user in a login session (PAM, logind, `XDG_RUNTIME_DIR`).
    #[track_caller]
    pub fn sh_in_session(&self, user: &str, script: &str) -> Output {
        let (user, home) = (format!("User={user}"), format!("/home/{user}"));
        let run = [
            "systemd-run",
            "--quiet",
            "--pipe",
            "--wait",
            "--collect",
            "--service-type=exec",
            "-p",
            "PAMName=login",
        ];
        let rest = [
            "-p",
            &user,
            "--working-directory",
            &home,
            "--",
            "bash",
            "-c",
            script,
        ];
        self.exec(run.into_iter().chain(rest))
    }

    /// Runs a bash script as a user beside its lingering systemd, which is started: `systemctl --user` works.
    #[track_caller]
    pub fn sh_user_manager(&self, user: &str, script: &str) -> Output {
        let uid = self.exec(["id", "-u", user]).ok().out();
        let runtime = format!("/run/user/{uid}");
        self.exec(["loginctl", "enable-linger", user]).ok();
        wait_until(
            &format!("the user manager of {user}"),
            Duration::from_secs(30),
            || {
                self.path(&format!("{runtime}/bus")).exists()
                    && self
                        .exec([
                            "systemctl",
                            "is-active",
                            "-q",
                            &format!("user@{uid}.service"),
                        ])
                        .success()
            },
        );
        let bus = format!("unix:path={runtime}/bus");
        let command = self.command(["bash", "-c", script]).user(user);
        command
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("DBUS_SESSION_BUS_ADDRESS", &bus)
            .run()
    }

    /// Starts a command as root; it is killed when the returned value is dropped.
    #[track_caller]
    pub fn spawn<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> Spawned {
        self.command(command).spawn()
    }

    /// The end of its journal of this boot, for messages. Never panics.
    pub fn journal(&self) -> String {
        if self.running.is_none() {
            return format!("(the host {} is not up)", self.name());
        }
        self.sh("journalctl --no-pager -o short-precise -b -n 200")
            .out()
    }

    /// It stops dead: everything of it is killed at once. What was written is on its disk, synced or not.
    #[track_caller]
    pub fn kill_dead(&mut self) {
        let pid1 = self.pid1().to_string();
        super::machine(&["kill", "-KILL", &pid1]);
        self.gone();
    }

    /// A power cut: it stops dead, and what had not been synced to its disk is lost.
    #[track_caller]
    pub fn power_cut(&mut self) {
        self.up();
        let cut = script("power-cut.sh");
        super::machine(&[&cut.display().to_string(), &self.work.display().to_string()]);
        self.gone();
    }

    /// It shuts down in order, as with `systemctl poweroff`.
    #[track_caller]
    pub fn power_off(&mut self) {
        drop(self.sh("systemctl --no-block poweroff"));
        self.gone();
    }

    #[track_caller]
    fn gone(&mut self) {
        let name = self.name().to_owned();
        let running = self.running.as_mut().expect("a host that is up");
        wait_until(
            &format!("the end of the host {name}"),
            Duration::from_secs(100),
            || running.supervisor.try_wait().expect("try_wait").is_some(),
        );
        self.running = None;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(Running {
            mut supervisor,
            lease,
            ..
        }) = self.running.take()
        {
            if std::thread::panicking() {
                // The journal is worth more than the host: keep what it said beside the test's own words.
                let tail = Command::new(script("enter.sh"))
                    .arg(&self.work)
                    .args(["timeout", "5", "journalctl", "--no-pager", "-b", "-n", "60"])
                    .output();
                if let Ok(tail) = tail {
                    eprintln!(
                        "--- journal of the host {}:\n{}",
                        self.name(),
                        String::from_utf8_lossy(&tail.stdout)
                    );
                }
            }
            drop(lease);
            drop(supervisor.wait());
        }
        drop(Command::new(script("clean.sh")).arg(&self.work).status());
    }
}
