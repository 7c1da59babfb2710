//! A Postgres of the measurement's own, on the same disk: nobody else's, with its defaults for what costs
//! (fsync and synchronous_commit are on).

use crate::Res;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Stopped and removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    process: Option<Child>,
}

impl Server {
    /// Makes it in `folder`, which is not there yet, and starts it.
    pub(crate) fn start(folder: &Path) -> Res<Self> {
        let programs = programs()?;
        let mut server = Self {
            folder: folder.to_owned(),
            process: None,
        };
        std::fs::create_dir_all(folder)?;
        done(Command::new("chown").arg("postgres").arg(folder))?;
        let data = folder.join("data");
        let mut initdb = as_postgres(&programs.join("initdb"));
        initdb.args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-D",
        ]);
        done(initdb.arg(&data).stdout(Stdio::null()))?;
        let mut postgres = as_postgres(&programs.join("postgres"));
        postgres.arg("-D").arg(&data).arg("-k").arg(folder);
        postgres.args(["-c", "listen_addresses=", "-c", "max_connections=200"]);
        server.process = Some(
            postgres
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        );
        let begun = Instant::now();
        let mut ready = as_postgres(&programs.join("pg_isready"));
        ready.arg("-q").arg("-h").arg(folder);
        while !ready.status()?.success() {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err("Postgres does not answer after a minute".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// The folder of its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // SIGQUIT: at once, there is nothing to keep.
            let pid = process.id().to_string();
            drop(Command::new("kill").args(["-QUIT", &pid]).status());
            drop(process.wait());
        }
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// The folder of the newest server programs.
fn programs() -> Res<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
    {
        let programs = entry.path().join("bin");
        if let (Ok(version), true) = (
            entry.file_name().to_string_lossy().parse(),
            programs.join("postgres").exists(),
        ) {
            found.push((version, programs));
        }
    }
    let newest = found.into_iter().max().map(|(_, programs)| programs);
    newest.ok_or_else(|| {
        "there is no Postgres server in /usr/lib/postgresql. Get it with: tests/setup.sh bench"
            .into()
    })
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "--pdeathsig=KILL",
            "--",
        ])
        .arg(program);
    command.current_dir("/");
    command
}

fn done(command: &mut Command) -> Res<()> {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("{command:?}: {status}").into()),
    }
}
