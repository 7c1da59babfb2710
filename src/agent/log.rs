//! What the agent says: to the journal with fields, else on standard error.
//!
//! Nothing of a command or an environment is ever logged. A journal that does not take lines does
//! not stop the agent ([`crate::telemetry`]).

use super::runner::Runner;
use crate::domain::ProjectName;
use crate::domain::kinds::Kind;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::Level;

/// The agent's name in the journal.
pub(super) const IDENTIFIER: &str = "stratavore-agent";

/// Whether the scopes are those of a user's own systemd.
static USER: AtomicBool = AtomicBool::new(false);

/// To be called once, at start.
pub(super) fn set_up(user: bool) {
    USER.store(user, Ordering::Relaxed);
}

/// Something an administrator must look at.
pub(super) fn error(kind: Kind, message: impl Display) {
    line(Level::ERROR, kind, None, message.to_string());
}

/// Something unexpected that was dealt with.
pub(super) fn warning(kind: Kind, message: impl Display) {
    line(Level::WARN, kind, None, message.to_string());
}

/// What the agent does.
pub(super) fn info(kind: Kind, message: impl Display) {
    line(Level::INFO, kind, None, message.to_string());
}

/// The same about a runner: the line is also its scope's.
impl Runner {
    pub(super) fn error(&self, kind: Kind, message: impl Display) {
        line(Level::ERROR, kind, Some(self), message.to_string());
    }

    pub(super) fn warning(&self, kind: Kind, message: impl Display) {
        line(Level::WARN, kind, Some(self), message.to_string());
    }

    pub(super) fn info(&self, kind: Kind, message: impl Display) {
        line(Level::INFO, kind, Some(self), message.to_string());
    }
}

fn line(level: Level, kind: Kind, about: Option<&Runner>, message: String) {
    let message = match about {
        Some(runner) => format!("Runner {}: {message}", runner.id),
        None => message,
    };
    // One line each, whatever is in a name.
    let message = message.replace(['\n', '\r'], " ");
    let runner = about.map(|runner| runner.id.to_string());
    let project = about.and_then(|runner| project(&runner.cgroup));
    // `journalctl -u SCOPE` and `systemctl status SCOPE` show the line, too.
    let scope = about.map(|runner| runner.id.unit());
    let (unit, user_unit) = match USER.load(Ordering::Relaxed) {
        false => (scope, None),
        true => (None, scope),
    };
    macro_rules! at {
        ($level:ident) => {
            tracing::$level!(
                message_id = kind.id,
                runner,
                project = project.as_ref().map(ProjectName::as_str),
                unit,
                user_unit,
                "{message}"
            )
        };
    }
    match level {
        Level::ERROR => at!(error),
        Level::WARN => at!(warn),
        _ => at!(info),
    }
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
