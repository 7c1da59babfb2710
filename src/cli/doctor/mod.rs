//! `doctor`: what administrators get wrong, and how to mend each.
//!
//! `collect` looks, with a limit on each look, and works without daemon, bus and systemd: that is when it is needed.
//! `judge` decides what the facts mean, and is pure.

mod collect;
mod facts;
mod judge;

use super::Global;
use super::failure::{FAILED, Failure, Result, USAGE};
use super::out::Out;
use super::text::clean;
use serde_json::json;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, but something will go wrong, or less is possible than could be.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// What was looked at; the same from release to release.
    check: String,
    message: String,
    /// A command of the shell that mends it, for root.
    mend: Option<String>,
}

impl Finding {
    fn new(level: Level, check: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level,
            check: check.into(),
            message: message.into(),
            mend: None,
        }
    }

    fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, message)
    }

    fn note(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Note, check, message)
    }

    fn warning(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Warning, check, message)
    }

    fn problem(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Problem, check, message)
    }

    fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend = Some(command.into());
        self
    }

    /// What only root can look at.
    fn unseen(check: impl Into<String>, what: &str) -> Self {
        Self::note(check, format!("Not looked at: {what}.")).mend("sudo stratavorectl doctor")
    }

    fn line(&self) -> String {
        let mut line = format!(
            "{:<8} {}: {}",
            self.level.as_str(),
            self.check,
            clean(&self.message)
        );
        if let Some(mend) = &self.mend {
            line.push_str("  Mend: ");
            line.push_str(&clean(mend));
        }
        line.push('\n');
        line
    }
}

/// Looks at everything; 1 if there is a warning or a problem.
pub(super) async fn doctor(global: &Global) -> Result<u8> {
    if let Some(host) = &global.host {
        let message = format!(
            "doctor looks at the host it runs on; use: {} stratavorectl doctor",
            host.ssh()
        );
        return Err(Failure::new(USAGE, message));
    }
    let findings = judge::judge(&collect::collect().await);
    let out = Out::new(global);
    if out.is_json() {
        let finding = |f: &Finding| json!({"check": f.check, "level": f.level.as_str(), "message": f.message, "mend": f.mend});
        out.objects(findings.iter().map(finding).collect())?;
    } else {
        let least = if global.quiet {
            Level::Warning
        } else {
            Level::Ok
        };
        let lines = findings
            .iter()
            .filter(|f| f.level >= least)
            .map(Finding::line);
        out.text(&lines.collect::<String>())?;
    }
    Ok(status(&findings))
}

fn status(findings: &[Finding]) -> u8 {
    match findings.iter().any(|f| f.level >= Level::Warning) {
        true => FAILED,
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_check_and_notes_are_nothing_wrong() {
        let note = Finding::note("a", "b\x1b[2J.").mend("c\nd");
        assert_eq!(note.line().lines().count(), 1, "{}", note.line());
        assert!(!note.line().contains('\x1b'));
        assert_eq!(status(&[note, Finding::ok("x", "y")]), 0);
        assert_eq!(status(&[Finding::warning("x", "y")]), FAILED);
    }
}
