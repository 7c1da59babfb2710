//! What the agent says: to the journal with fields, else on standard error.
//!
//! Nothing of a command or an environment is ever logged. A journal that does not take lines does
//! not stop the agent ([`crate::journal`]).

use super::runner::Runner;
use crate::domain::ProjectName;
use crate::domain::kinds::Kind;
use crate::journal::{self, Entry, Journal};
use std::fmt::Display;
use std::sync::OnceLock;
use std::time::Duration;

const IDENTIFIER: &str = "stratavore-agent";
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines go, and which field makes `journalctl -u SCOPE` and `systemctl status SCOPE` show
/// them: it is believed of uid 0, and for a user's own units of that user.
static PLACE: OnceLock<(Journal, &str)> = OnceLock::new();

/// To be called once, at start.
pub(super) fn set_up(user: bool) {
    if journal::connected() {
        let field = match user {
            false => "OBJECT_SYSTEMD_UNIT",
            true => "OBJECT_SYSTEMD_USER_UNIT",
        };
        let _ = PLACE.set((Journal::new(journal::SOCKET, IDENTIFIER), field));
    }
}

/// From here on lines leave, by a thread with the caller's capabilities.
pub(super) fn start() -> std::io::Result<()> {
    PLACE.get().map_or(Ok(()), |(journal, _)| journal.start())
}

/// Sees the last lines off.
pub(super) fn flush() {
    if let Some((journal, _)) = PLACE.get() {
        journal.flush(LAST_LINES);
    }
}

/// Something an administrator must look at.
pub(super) fn error(kind: Kind, message: impl Display) {
    line(3, kind, None, message.to_string());
}

/// Something unexpected that was dealt with.
pub(super) fn warning(kind: Kind, message: impl Display) {
    line(4, kind, None, message.to_string());
}

/// What the agent does.
pub(super) fn info(kind: Kind, message: impl Display) {
    line(6, kind, None, message.to_string());
}

/// The same about a runner: the line is also its scope's.
impl Runner {
    pub(super) fn error(&self, kind: Kind, message: impl Display) {
        line(3, kind, Some(self), message.to_string());
    }

    pub(super) fn warning(&self, kind: Kind, message: impl Display) {
        line(4, kind, Some(self), message.to_string());
    }

    pub(super) fn info(&self, kind: Kind, message: impl Display) {
        line(6, kind, Some(self), message.to_string());
    }
}

fn line(level: u8, kind: Kind, about: Option<&Runner>, message: String) {
    let message = match about {
        Some(runner) => format!("Runner {}: {message}", runner.id),
        None => message,
    };
    let Some((journal, unit)) = PLACE.get() else {
        // One line each, whatever is in a name.
        return eprintln!("{}", message.replace(['\n', '\r'], " "));
    };
    let mut entry = Entry::new(level, IDENTIFIER, &message).kind(kind);
    if let Some(runner) = about {
        entry.field("STRATAVORE_RUNNER", &runner.id.to_string());
        if let Some(project) = project(&runner.cgroup) {
            entry.field("STRATAVORE_PROJECT", project.as_str());
        }
        entry.field(unit, &runner.id.unit());
    }
    journal.send(entry);
}

/// The project whose slice a scope is in.
fn project(cgroup: &str) -> Option<ProjectName> {
    let slice = cgroup.rsplit('/').nth(1)?;
    ProjectName::from_slice(slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_read_from_the_cgroup() {
        let of = |path| project(path).map(String::from);
        assert_eq!(
            of("/stratavore.slice/stratavore-a\\x2db.c.slice/stratavore-1.scope").as_deref(),
            Some("a-b.c")
        );
        assert_eq!(of("/stratavore.slice/x.scope"), None);
        assert_eq!(of("x.scope"), None);
    }
}
