//! What a runner is given by file: credentials and environment files. Only names and paths are
//! in here; the files are read on the host by the runner's own user, just before its command.

use super::error::Error;
use super::name::shown;
use super::spec;
use serde::{Deserialize, Serialize};

/// The variable that tells a runner where its credentials are.
pub const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// The most credentials of a runner.
pub const CREDENTIALS_MAX: usize = 64;
/// The most bytes of all credentials of a runner, as systemd has it.
pub const CREDENTIALS_BYTES: usize = 1 << 20;
/// The longest name of a credential.
pub const NAME_MAX: usize = 255;
/// The most environment files of a runner.
pub const FILES_MAX: usize = 16;
/// The most bytes of one environment file.
pub const FILE_BYTES: usize = 256 << 10;

/// The most bytes of all paths together.
pub const PATHS_BYTES: usize = 64 << 10;

/// All that a runner is given by file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// Files in `$CREDENTIALS_DIRECTORY`.
    #[serde(default)]
    pub credentials: Vec<Credential>,
    /// Files of variables; later ones win.
    #[serde(default)]
    pub environment_files: Vec<EnvironmentFile>,
}

/// A file to be found as `$CREDENTIALS_DIRECTORY/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its name there.
    pub name: String,
    /// Where it is read from.
    pub path: String,
}

/// A file of `NAME=VALUE` lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentFile {
    /// Where it is read from.
    pub path: String,
    /// It may be missing.
    #[serde(default)]
    pub optional: bool,
}

impl Inputs {
    /// Nothing is given.
    pub fn is_empty(&self) -> bool {
        self.credentials.is_empty() && self.environment_files.is_empty()
    }

    /// Checks names, paths and numbers.
    pub fn check(&self) -> Result<(), Error> {
        let most = |what: &str, number: usize, most: usize| match number > most {
            true => Err(Error::invalid(format!(
                "{what}: {number} are given; at most {most} are allowed."
            ))),
            false => Ok(()),
        };
        most("load-credential", self.credentials.len(), CREDENTIALS_MAX)?;
        most("env-file", self.environment_files.len(), FILES_MAX)?;
        for (at, credential) in self.credentials.iter().enumerate() {
            let Credential { name, path } = credential;
            if !is_name(name) {
                return Err(Error::invalid(format!(
                    "load-credential: “{}” is no name of a credential: 1 to {NAME_MAX} printable ASCII characters without “/” and “:”, not “.” or “..”.",
                    shown(name)
                )));
            }
            if self.credentials[..at].iter().any(|c| c.name == *name) {
                return Err(Error::invalid(format!(
                    "load-credential: “{name}” is given twice."
                )));
            }
            spec::check_path(&format!("The path of the credential “{name}”"), path)?;
        }
        for file in &self.environment_files {
            spec::check_path("The environment file", &file.path)?;
        }
        let paths = self.credentials.iter().map(|c| c.path.len());
        let paths = paths.chain(self.environment_files.iter().map(|f| f.path.len()));
        let bytes: usize = paths.sum();
        if bytes > PATHS_BYTES {
            return Err(Error::invalid(format!(
                "The paths of credentials and environment files have {bytes} bytes together; at most {PATHS_BYTES} are allowed."
            )));
        }
        Ok(())
    }
}

/// What is a file's and a descriptor's name, as systemd asks for it.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= NAME_MAX
        && name
            .bytes()
            .all(|b| (b' '..127).contains(&b) && b != b'/' && b != b':')
}

/// Parses `NAME:PATH`.
pub fn parse_credential(text: &str) -> Result<Credential, Error> {
    let (name, path) = text.split_once(':').ok_or_else(|| {
        Error::invalid(format!(
            "load-credential: “{}” is not of the form NAME:PATH.",
            shown(text)
        ))
    })?;
    let (name, path) = (name.to_owned(), path.to_owned());
    Ok(Credential { name, path })
}

/// Parses a path, with `-` before it if the file may be missing.
pub fn parse_environment_file(text: &str) -> EnvironmentFile {
    let path = text.strip_prefix('-').unwrap_or(text);
    EnvironmentFile {
        path: path.to_owned(),
        optional: path.len() != text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(credentials: &[&str], files: &[&str]) -> Result<(), Error> {
        let credentials = credentials.iter().map(|c| parse_credential(c));
        let inputs = Inputs {
            credentials: credentials.collect::<Result<_, _>>()?,
            environment_files: files.iter().map(|f| parse_environment_file(f)).collect(),
        };
        inputs.check()
    }

    #[test]
    fn names_and_paths() {
        assert!(check(&["key:/etc/key", "a b:/x:y"], &["/e", "-/f"]).is_ok());
        for wrong in [
            "key",
            ":/x",
            "a/b:/x",
            ".:/x",
            "..:/x",
            "k:relative",
            "k:",
            "ä:/x",
            "a\nb:/x",
        ] {
            assert!(check(&[wrong], &[]).is_err(), "{wrong}");
        }
        assert!(check(&["k:/x", "k:/y"], &[]).is_err());
        assert!(check(&[&format!("{}:/x", "k".repeat(256))], &[]).is_err());
        assert!(check(&[], &["relative"]).is_err() && check(&[], &["-"]).is_err());
        assert!(check(&[], &["/e"; 17]).is_err());
        let long = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        assert!(check(&[], &[&long(4000)[..]; 16]).is_ok());
        assert!(check(&[&format!("k:{}", long(4000))], &[&long(4000)[..]; 16]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,20}") {
            let _ = check(&[&text], &[&text]);
        }
    }
}
