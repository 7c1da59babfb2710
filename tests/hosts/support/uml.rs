//! A machine with a kernel of its own, where every limit is enforced (`tests/host/uml.sh`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::builder::{Bus, Root};
use super::exec::{Exec, Output};
use super::{prepare, run_folder, script, unique};

/// Boots, runs one script as root, powers off: about ten seconds and the script's own time, which runs ten times slower.
#[must_use]
pub struct Uml {
    root: Root,
    bus: Bus,
    payload: Option<PathBuf>,
    wants: Vec<String>,
    memory: String,
    limit: Duration,
}

impl Uml {
    pub fn new() -> Self {
        Uml {
            root: Root::Trixie,
            bus: Bus::Daemon,
            payload: None,
            wants: Vec::new(),
            memory: "1G".into(),
            limit: Duration::from_secs(180),
        }
    }

    /// Trixie (the default) or Sid.
    pub fn root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// Copied over its root: the folder `make install DESTDIR=…` filled.
    pub fn payload(mut self, folder: impl AsRef<Path>) -> Self {
        self.payload = Some(folder.as_ref().to_owned());
        self
    }

    /// Starts this unit, too.
    pub fn want(mut self, unit: &str) -> Self {
        self.wants.push(unit.into());
        self
    }

    /// Its memory: `512M`, `1G` (the default).
    pub fn memory(mut self, size: &str) -> Self {
        self.memory = size.into();
        self
    }

    /// For boot, script and all; then the status is 124 and standard error has the console.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the bash script. Standard output has what it said (errors as well), the code is its exit status.
    #[track_caller]
    pub fn run(self, text: &str) -> Output {
        prepare();
        // A root that is missing is made now and not within the time limit.
        let image = format!("{}.ext4", self.root.name());
        let made = Command::new(script("roots.sh"))
            .arg(&image)
            .output()
            .expect("tests/host/roots.sh");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );

        let file = run_folder().join(format!(".uml-{}-{}.sh", std::process::id(), unique()));
        std::fs::create_dir_all(run_folder()).expect("the folder of the hosts");
        std::fs::write(&file, text).expect("a script for UML");
        let mut words = vec![
            "--root".to_owned(),
            self.root.name(),
            "--bus".into(),
            self.bus.name().into(),
        ];
        words.extend([
            "--mem".into(),
            self.memory,
            "--timeout".into(),
            self.limit.as_secs().to_string(),
        ]);
        if let Some(payload) = self.payload {
            words.extend(["--payload".into(), payload.display().to_string()]);
        }
        words.extend(
            self.wants
                .into_iter()
                .flat_map(|unit| ["--want".into(), unit]),
        );
        words.push(file.display().to_string());
        let output = Exec::plain(script("uml.sh").display().to_string(), words)
            .limit(self.limit * 2)
            .run();
        drop(std::fs::remove_file(file));
        output
    }
}

impl Default for Uml {
    fn default() -> Self {
        Self::new()
    }
}
