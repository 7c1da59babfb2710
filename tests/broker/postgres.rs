//! A Postgres of the tests' own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use stratavore::adapters::postgres::{PostgresOptions, ServerAddress, TlsMode};
use stratavore::adapters::sql::Keep;

pub(crate) struct Cluster {
    folder: PathBuf,
    _keeper: Child,
}

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

fn done(name: &str, folder: &Path, words: &[&str]) {
    let root = rustix::process::geteuid().is_root();
    let mut command = match root {
        false => Command::new(program(name)),
        true => {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "--",
            ]);
            command.arg(program(name)).current_dir("/");
            command
        }
    };
    let words = words
        .iter()
        .map(|word| word.replace("FOLDER", &folder.display().to_string()));
    let output = command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output();
    let output = output.unwrap_or_else(|e| panic!("{name}: {e}: tests/setup.sh test installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{name}: {said} (PostgreSQL is needed: tests/setup.sh test)"
    );
}

impl Cluster {
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    fn new() -> Self {
        let folder =
            std::env::temp_dir().join(format!("stratavore-relaypg-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        if rustix::process::geteuid().is_root() {
            let chown = Command::new("chown")
                .arg("postgres:postgres")
                .arg(&folder)
                .status();
            assert!(chown.unwrap().success());
        }
        let script = "cat > /dev/null; kill -QUIT $(head -n 1 \"$1/data/postmaster.pid\"); sleep 0.3; rm -rf \"$1\"";
        let keeper = Command::new("sh")
            .args(["-c", script, "keeper"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        done(
            "initdb",
            &folder,
            &[
                "--auth=trust",
                "--no-locale",
                "--encoding=UTF8",
                "--username=owner",
                "-D",
                "FOLDER/data",
            ],
        );
        done(
            "pg_ctl",
            &folder,
            &[
                "start",
                "-w",
                "-D",
                "FOLDER/data",
                "-l",
                "FOLDER/log",
                "-o",
                "-c listen_addresses='' -c unix_socket_directories=FOLDER -c max_connections=100",
            ],
        );
        Self {
            folder,
            _keeper: keeper,
        }
    }

    /// An empty database.
    pub(crate) fn database(&self) -> PostgresOptions {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let database = format!("d{}", NEXT.fetch_add(1, Ordering::Relaxed));
        done(
            "psql",
            &self.folder,
            &[
                "-X",
                "-q",
                "-h",
                "FOLDER",
                "-U",
                "owner",
                "-d",
                "postgres",
                "-c",
                &format!("CREATE DATABASE {database}"),
            ],
        );
        PostgresOptions {
            servers: vec![ServerAddress::Socket(self.folder.clone(), 5432)],
            database,
            user: "owner".to_owned(),
            password: None,
            tls: TlsMode::Disable,
            tls_ca: None,
            tls_certificate: None,
            connect_timeout: Duration::from_secs(3),
            keep: Keep::default(),
        }
    }
}
