//! What a caller asks for: the runner to be, parsed and bounded.

use super::error::Error;
use super::limits::Limits;
use super::name::{self, ProjectName};
use super::placed::Placed;
use super::units::show_size;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most bytes of a command with all its arguments.
pub const COMMAND_MAX: usize = 128 << 10;
/// The most arguments.
pub const ARGS_MAX: usize = 4_096;
/// The most bytes of all `setenv` entries.
pub const ENV_MAX: usize = 256 << 10;
/// The most `setenv` entries.
pub const ENV_ENTRIES_MAX: usize = 1_024;
/// The longest path.
pub const PATH_MAX: usize = 4_095;
/// The most labels of a runner.
pub const LABELS_MAX: usize = 32;
/// The smallest log file.
pub const LOG_FILE_MIN: u64 = 4 << 10;
/// The largest.
pub const LOG_FILE_MAX: u64 = 1 << 40;
/// The largest where root says nothing else.
pub const LOG_FILE_CEILING: u64 = 1 << 30;
/// The highest priority; the lowest is its opposite.
pub const PRIORITY_MAX: i32 = 100;
/// The longest request id.
pub const REQUEST_ID_MAX: usize = 128;

/// One runner as asked for. The values of its environment are not in here on purpose:
/// they never reach the store, an event, a property or the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerSpec {
    /// The owner of quota and slice.
    pub project: ProjectName,
    /// argv; the first element is looked up in the runner's PATH if it has no slash.
    pub command: Vec<String>,
    /// A name people use instead of the id; not unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The user the command runs as.
    pub uid: u32,
    /// That user's name when the runner was made.
    pub user: String,
    /// `None` = the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Searchable `key=value` pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The limits in force: as asked for, completed from the configured defaults.
    #[serde(default)]
    pub limits: Limits,
    /// Output goes into a log file of at most so many bytes, instead of the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_file_max: Option<u64>,
    /// Higher goes first among those of its project that wait; from -100 to 100.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Tokens it may use; `None` = what its project says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The session it goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Where it was asked for, if that was another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<Placed>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// One `NAME=VALUE` for the runner. Not `Debug` by derive: values are secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Setenv {
    /// The variable.
    pub name: String,
    /// What nobody but the runner gets to see.
    pub value: String,
}

impl std::fmt::Debug for Setenv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=***", self.name)
    }
}

/// Checks argv: not empty, no NUL, bounded.
pub fn check_command(command: &[String]) -> Result<(), Error> {
    match command.first() {
        None => {
            return Err(Error::invalid(
                "The command is empty; give a program and its arguments.",
            ));
        }
        Some(program) if program.is_empty() => {
            return Err(Error::invalid("The program's name is empty."));
        }
        Some(_) => {}
    }
    if command.len() > ARGS_MAX {
        return Err(Error::invalid(format!(
            "The command has {} arguments; at most {ARGS_MAX} are allowed. Hand long lists over in a file.",
            command.len()
        )));
    }
    let bytes: usize = command.iter().map(|a| a.len() + 1).sum();
    if bytes > COMMAND_MAX {
        return Err(Error::invalid(format!(
            "The command has {bytes} bytes; at most {COMMAND_MAX} are allowed. Hand long input over in a file."
        )));
    }
    if command.iter().any(|a| a.contains('\0')) {
        return Err(Error::invalid("The command has a NUL byte in an argument."));
    }
    Ok(())
}

/// Parses `NAME=VALUE` entries; a later one for the same name wins.
pub fn parse_setenv(entries: &[String]) -> Result<Vec<Setenv>, Error> {
    if entries.len() > ENV_ENTRIES_MAX {
        return Err(Error::invalid(format!(
            "setenv has {} entries; at most {ENV_ENTRIES_MAX} are allowed.",
            entries.len()
        )));
    }
    let bytes: usize = entries.iter().map(|e| e.len() + 1).sum();
    if bytes > ENV_MAX {
        return Err(Error::invalid(format!(
            "setenv has {bytes} bytes; at most {ENV_MAX} are allowed."
        )));
    }
    let mut out: Vec<Setenv> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        // The entry itself may be a secret, so it is named by its place.
        let (name, value) = entry.split_once('=').ok_or_else(|| {
            Error::invalid(format!(
                "setenv entry {} is not of the form NAME=VALUE.",
                at + 1
            ))
        })?;
        if !is_variable(name) {
            return Err(Error::invalid(format!(
                "setenv entry {}: the variable's name must be letters, digits and “_”, and not begin with a digit.",
                at + 1
            )));
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!(
                "setenv {name}: the value has a NUL byte."
            )));
        }
        out.retain(|e| e.name != name);
        out.push(Setenv {
            name: name.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(out)
}

/// Whether a variable can have this name: letters, digits and `_`, no digit first.
pub fn is_variable(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(legal) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

/// Checks a working directory: absolute, bounded, without NUL.
pub fn check_path(what: &str, path: &str) -> Result<(), Error> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!(
            "{what} “{}” is not an absolute path.",
            name::shown(path)
        )));
    }
    if path.len() > PATH_MAX || path.contains('\0') {
        return Err(Error::invalid(format!(
            "{what} is longer than {PATH_MAX} bytes or has a NUL byte."
        )));
    }
    Ok(())
}

/// Checks the labels of one runner.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Error> {
    if labels.len() > LABELS_MAX {
        return Err(Error::invalid(format!(
            "The runner has {} labels; at most {LABELS_MAX} are allowed.",
            labels.len()
        )));
    }
    for (key, value) in labels {
        name::check_label_key(key)?;
        name::check_label_value(key, value)?;
    }
    Ok(())
}

/// Checks the size of a log file, in bytes.
pub fn check_log_file_max(bytes: u64) -> Result<(), Error> {
    if (LOG_FILE_MIN..=LOG_FILE_MAX).contains(&bytes) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "log-file-max={}: a log file has from {} to {}; the oldest output makes room for the newest.",
        show_size(bytes),
        show_size(LOG_FILE_MIN),
        show_size(LOG_FILE_MAX)
    )))
}

/// A log file was asked for, and the output goes elsewhere.
pub fn no_output_left() -> Error {
    Error::invalid(
        "With stdout and stderr (--pipe) nothing is left for a log file; leave out log-file-max.",
    )
}

/// It may have to wait, and whoever holds the other ends of its streams may be gone by then.
pub fn no_streams_later() -> Error {
    Error::invalid(
        "What may wait for its turn (queue) can't have your own streams (stdin, stdout, stderr: --pipe); leave out one of the two. Its output is to be had with: stratavorectl logs.",
    )
}

/// Checks a priority: -100 to 100.
pub fn check_priority(priority: i32) -> Result<(), Error> {
    if (-PRIORITY_MAX..=PRIORITY_MAX).contains(&priority) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "priority={priority}: it is from -{PRIORITY_MAX} to {PRIORITY_MAX}; higher goes first."
    )))
}

/// Checks a request id: 1 to 128 printable ASCII characters.
pub fn check_request_id(id: &str) -> Result<(), Error> {
    if id.is_empty() || id.len() > REQUEST_ID_MAX || !id.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::invalid(format!(
            "A request id has 1 to {REQUEST_ID_MAX} printable ASCII characters without blanks (a UUID, say)."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_commands() {
        let huge = "x".repeat(1 << 20);
        for command in [vec![], vec![""], vec!["a", "b\0"], vec!["echo", &huge]] {
            let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
            assert!(check_command(&command).is_err());
        }
    }

    #[test]
    fn errors_of_setenv_never_show_the_value() {
        for entry in [
            "sk-secret",
            "=sk-secret",
            "A B=sk-secret",
            "A=sk-secret\0",
            "1=sk-secret",
        ] {
            let error = parse_setenv(&[entry.to_owned()]).map_err(|e| e.message);
            assert!(
                matches!(&error, Err(m) if !m.contains("secret")),
                "{error:?}"
            );
        }
        let shown = format!("{:?}", parse_setenv(&["KEY=sk-secret".to_owned()]));
        assert!(!shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn parsers_never_panic(entries in proptest::collection::vec("\\PC{0,12}|[A-Z]{1,3}=.{0,3}", 0..8)) {
            if let Ok(env) = parse_setenv(&entries) {
                let mut names: Vec<_> = env.iter().map(|e| &e.name).collect();
                names.sort();
                names.dedup();
                prop_assert_eq!(names.len(), env.len());
            }
            let _ = check_command(&entries);
        }
    }
}
