//! A Postgres of the tests' own: in a folder of its own, on a socket of its own, as a user without
//! rights. Whatever becomes of the test, it is stopped and removed.

use crate::adapters::postgres::{PostgresOptions, ServerAddress, TlsMode};
use crate::adapters::sql::Keep;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PORT: u16 = 5432;

/// A server of its own.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) folder: PathBuf,
    /// Its standard input is ours: when that closes, it cleans up.
    _keeper: Child,
}

/// Where Debian keeps the server's programs, or the path.
fn program(name: &str) -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<_> = folders
        .map(|f| f.path().join("bin").join(name))
        .filter(|p| p.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// Postgres does not run as root.
pub(super) fn unprivileged(program: PathBuf) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(program);
    command.current_dir("/");
    command
}

/// To the user it runs as.
pub(super) fn give(folder: &Path) {
    if rustix::process::geteuid().is_root() {
        done(
            Command::new("chown")
                .args(["-R", "postgres:postgres"])
                .arg(folder),
        );
    }
}

pub(super) fn done(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}: tests/setup.sh test installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {said} (PostgreSQL is needed: tests/setup.sh test)"
    );
}

/// One that is new.
pub(super) fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stratavore-postgres-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    folder
}

impl Cluster {
    /// The one most tests share; each has a database of its own in it.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::new(&[]))
    }

    /// One with these settings.
    pub(super) fn new(settings: &[&str]) -> Self {
        let cluster = Self::made(folder(), settings);
        cluster.start();
        cluster
    }

    /// The same in a folder that is there, and not started.
    pub(super) fn made(folder: PathBuf, settings: &[&str]) -> Self {
        give(&folder);
        let data = folder.join("data");
        let mut init = unprivileged(program("initdb"));
        init.args([
            "--auth=trust",
            "--no-locale",
            "--encoding=UTF8",
            "--username=owner",
            "-D",
        ])
        .arg(&data);
        done(&mut init);
        Self::kept(folder, settings)
    }

    /// A standby of this one, as it is now; not started.
    pub(super) fn standby(&self) -> Self {
        let folder = folder();
        give(&folder);
        let data = folder.join("data");
        let mut copy = unprivileged(program("pg_basebackup"));
        copy.args(["--username=owner", "--checkpoint=fast", "-h"])
            .arg(&self.folder)
            .arg("-D")
            .arg(&data);
        done(&mut copy);
        std::fs::write(data.join("standby.signal"), "").unwrap();
        let primary = format!(
            "primary_conninfo = 'user=owner host={} port={PORT}'",
            self.folder.display()
        );
        Self::kept(folder, &[&primary])
    }

    /// Takes over.
    pub(super) fn promote(&self) {
        self.control(&["promote"]);
    }

    fn kept(folder: PathBuf, settings: &[&str]) -> Self {
        let data = folder.join("data");
        let conf = format!(
            "listen_addresses = ''\nport = {PORT}\nunix_socket_directories = '{}'\nmax_connections = 200\nlogging_collector = off\n{}\n",
            folder.display(),
            settings.join("\n")
        );
        let file = data.join("postgresql.auto.conf");
        std::fs::write(file, conf).unwrap();
        give(&data);
        // Cleans up when the tests are over, however they end.
        let script = "cat > /dev/null; kill -QUIT $(head -n 1 \"$1/data/postmaster.pid\"); sleep 0.3; rm -rf \"$1\"";
        let keeper = Command::new("sh")
            .args(["-c", script, "keeper"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // In a group of its own it outlives what ends theirs.
            .process_group(0)
            .spawn()
            .unwrap();
        Self {
            folder,
            _keeper: keeper,
        }
    }

    fn control(&self, words: &[&str]) {
        let mut control = unprivileged(program("pg_ctl"));
        control
            .args(words)
            .arg("-w")
            .arg("-D")
            .arg(self.folder.join("data"));
        control
            .arg("-l")
            .arg(self.folder.join("log"))
            .stdout(Stdio::null());
        done(&mut control);
    }

    pub(super) fn start(&self) {
        self.control(&["start"]);
    }

    /// Starts it so that it alone sees a small disk, in the folder `small`: a tmpfs of so many MiB.
    pub(super) fn start_with_a_small_disk(&self, size: u32) {
        let small = self.folder.join("small");
        std::fs::create_dir(&small).unwrap();
        let user = match rustix::process::geteuid().is_root() {
            true => &["--mount"][..],
            false => &["--user", "--map-current-user", "--keep-caps", "--mount"],
        };
        let mount = "mount -t tmpfs -o size=$1m,mode=700 tmpfs \"$2\" && chown --reference=\"$2/../data\" \"$2\" && shift 2 && exec \"$@\"";
        let mut start = unprivileged(program("pg_ctl"));
        start
            .args(["start", "-w", "-D"])
            .arg(self.folder.join("data"))
            .arg("-l")
            .arg(self.folder.join("log"));
        let mut inside = Command::new("unshare");
        inside
            .args(user)
            .args(["sh", "-c", mount, "sh", &size.to_string()])
            .arg(&small)
            .arg(start.get_program())
            .args(start.get_args())
            .current_dir("/")
            .stdout(Stdio::null());
        let status = inside.stdin(Stdio::null()).status().unwrap();
        assert!(
            status.success(),
            "this test needs a mount namespace: run it as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
        );
    }

    pub(super) fn stop(&self) {
        self.control(&["stop", "-m", "fast"]);
    }

    /// As a power cut would.
    pub(super) fn kill(&self) {
        let file = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        let pid = file.lines().next().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while rustix::process::test_kill_process(pid).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{PORT}"))
    }

    /// Runs this as the owner.
    pub(super) fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(program("psql"))
            .args([
                "-X",
                "-A",
                "-t",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "owner",
                "-d",
                database,
                "-c",
                sql,
                "-h",
            ])
            .arg(&self.folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// An empty database.
    pub(super) fn database(&self) -> PostgresOptions {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let database = format!("d{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {database}"));
        self.options(&database)
    }

    pub(super) fn options(&self, database: &str) -> PostgresOptions {
        options(&self.folder, database)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self._keeper.stdin.take());
        let _ = self._keeper.wait();
    }
}

pub(super) fn options(folder: &Path, database: &str) -> PostgresOptions {
    PostgresOptions {
        servers: vec![ServerAddress::Socket(folder.to_owned(), PORT)],
        database: database.to_owned(),
        user: "owner".to_owned(),
        password: None,
        tls: TlsMode::Disable,
        tls_ca: None,
        tls_certificate: None,
        connect_timeout: Duration::from_secs(3),
        keep: Keep::default(),
    }
}
