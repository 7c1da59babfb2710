//! Where things are: the system's folders, or with `--user` the user's own, by the XDG base
//! directory specification.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// The folders of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Configuration: `stratavored.toml` and, for the system, `agent.toml`.
    pub config: PathBuf,
    /// The store, and below it the exit records.
    pub state: PathBuf,
    /// Sockets.
    pub runtime: PathBuf,
}

impl Places {
    /// The system's.
    pub fn system() -> Self {
        Self {
            config: "/etc/stratavore".into(),
            state: "/var/lib/stratavore".into(),
            runtime: "/run/stratavore".into(),
        }
    }

    /// The calling user's. The error says what is missing.
    pub fn user() -> Result<Self, String> {
        Self::of_user(|name| std::env::var_os(name))
    }

    fn of_user(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        // As the specification has it, a relative path is as good as none.
        let folder = |name: &str| {
            variable(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let below_home = |name: &str, usual: &str| {
            folder(name)
                .or_else(|| Some(folder("HOME")?.join(usual)))
                .map(|path| path.join("stratavore"))
                .ok_or_else(|| format!("Neither {name} nor HOME is set."))
        };
        let runtime = folder("XDG_RUNTIME_DIR").ok_or(
            "XDG_RUNTIME_DIR is not set: there is no user session here. Log in as the user (su and sudo give no session; “machinectl shell USER@” does).",
        )?;
        Ok(Self {
            config: below_home("XDG_CONFIG_HOME", ".config")?,
            state: below_home("XDG_STATE_HOME", ".local/state")?,
            runtime: runtime.join("stratavore"),
        })
    }

    /// The credentials of runners: where systemd has those of services, and as these not to be
    /// seen by services in a sandbox.
    pub fn credentials(&self) -> PathBuf {
        self.runtime
            .with_file_name("credentials")
            .join("stratavore")
    }

    /// Makes the folder of the state and those above it for the user alone, where missing. The
    /// system's are made by systemd.
    pub fn make_state(&self) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.state)
    }

    /// Takes the state for this process alone, until it ends: another instance of the user's, by hand or on another
    /// machine that shares the home, would end the runners of this one. `Ok(None)` = it can't be told (no space, say).
    pub fn lock(&self) -> Result<Option<File>, String> {
        let path = self.state.join("lock");
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let Ok(file) = options.open(&path) else {
            return Ok(None);
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(format!(
                "{} is in use by another stratavored of yours, on this machine or on one that shares your home. See: systemctl --user status stratavored.",
                self.state.display()
            )),
            Err(_) => Ok(None),
            Ok(()) => Ok(Some(file)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Places, String> {
        Places::of_user(|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn one_instance_at_a_time() {
        let state = std::env::temp_dir().join(format!("stratavore-lock-{}", std::process::id()));
        let places = Places {
            state: state.clone(),
            ..Places::system()
        };
        places.make_state().expect("a folder");
        let held = places.lock().expect("free");
        assert!(held.is_some());
        let refused = places.lock().expect_err("held");
        assert!(refused.contains("in use by another"), "{refused}");
        drop(held);
        assert!(places.lock().expect("free again").is_some());
        std::fs::remove_dir_all(state).expect("removed");
    }

    #[test]
    fn a_users_folders_are_where_the_specification_says() {
        let usual = Places {
            config: "/home/alice/.config/stratavore".into(),
            state: "/home/alice/.local/state/stratavore".into(),
            runtime: "/run/user/7/stratavore".into(),
        };
        let home = [("HOME", "/home/alice"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(of(&home), Ok(usual.clone()));
        let relative = [home[0], home[1], ("XDG_STATE_HOME", "state")];
        assert_eq!(of(&relative), Ok(usual.clone()));
        let own = [home[1], ("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c")];
        let expected = Places {
            config: "/c/stratavore".into(),
            state: "/s/stratavore".into(),
            ..usual
        };
        assert_eq!(of(&own), Ok(expected));
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |variables: &[(&str, &str)]| of(variables).err().unwrap_or_default();
        assert!(message(&[("HOME", "/home/alice")]).contains("XDG_RUNTIME_DIR"));
        assert!(message(&[("XDG_RUNTIME_DIR", "/r")]).contains("HOME"));
    }
}
