//! Lines for the journal, by standard error with systemd's `<N>` levels.
//!
//! Nothing of a command or an environment is ever logged. A journal that does not take lines
//! does not stop the agent: standard error does not block there, and a line that finds no room
//! is lost.

use std::fmt::Display;
use std::io::IsTerminal;

/// To be called once, at start.
pub(super) fn set_up() {
    if !std::io::stderr().is_terminal() && std::env::var_os("JOURNAL_STREAM").is_some() {
        let _ = rustix::io::ioctl_fionbio(std::io::stderr(), true);
    }
}

/// Something an administrator must look at.
pub(super) fn error(message: impl Display) {
    line(3, &message);
}

/// Something unexpected that was dealt with.
pub(super) fn warning(message: impl Display) {
    line(4, &message);
}

/// What the agent does.
pub(super) fn info(message: impl Display) {
    line(6, &message);
}

fn line(level: u8, message: &dyn Display) {
    // One line each: a newline in a name would begin a line with a level of its own.
    let text = message.to_string().replace(['\n', '\r'], " ");
    let bytes = if std::io::stderr().is_terminal() {
        format!("{text}\n")
    } else {
        format!("<{level}>{text}\n")
    };
    let _ = rustix::io::write(std::io::stderr(), bytes.as_bytes());
}
