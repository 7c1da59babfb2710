//! Which bus: the system's or, with `--user`, that of the user's session; and which systemd is
//! behind it. Set once, before anything is said.

use clap::CommandFactory;
use std::sync::OnceLock;
use zbus::{Connection, proxy};

static USER: OnceLock<bool> = OnceLock::new();

/// What the command line says.
pub(super) fn choose(user: bool) {
    let _ = USER.set(user);
}

/// Whether it is the session's.
pub(super) fn is_user() -> bool {
    USER.get().copied().unwrap_or(false)
}

/// One of two texts: for the system's, for the user's.
pub(super) fn either<'a>(system: &'a str, user: &'a str) -> &'a str {
    if is_user() { user } else { system }
}

/// The command that asks the systemd we are about.
pub(super) fn systemctl() -> &'static str {
    either("systemctl", "systemctl --user")
}

/// The command that shows the journal of a unit of ours, without the unit.
pub(super) fn journalctl_unit() -> &'static str {
    either("journalctl -u", "journalctl --user -u")
}

/// A text with the commands in it for the systemd and the stratavored that we are about: messages, the daemon's too, name
/// those of the system.
pub(super) fn advice(text: &str) -> String {
    match is_user() {
        true => of_user(text),
        false => text.to_owned(),
    }
}

fn of_user(text: &str) -> String {
    let cli = super::args::Cli::command();
    let is_verb = |word: &str| {
        let word = word.trim_end_matches(|c: char| !c.is_alphanumeric());
        cli.get_subcommands().any(|verb| verb.get_name() == word)
    };
    let pieces: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    let mut out = String::new();
    for (at, piece) in pieces.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |at| pieces[at].trim_end());
        let next = pieces.get(at + 1).map_or("", |next| next.trim_end());
        out.push_str(piece);
        let word = piece.trim_end();
        let ours = match word.trim_start_matches(|c: char| !c.is_alphanumeric()) {
            // Root has no stratavored of its own.
            "stratavorectl" => is_verb(next) && before != "sudo",
            "systemctl" => before.ends_with(':') && next != "--user",
            "journalctl" => before.ends_with(':') && next == "-u",
            _ => false,
        };
        if ours && word.len() < piece.len() {
            out.push_str("--user ");
        }
    }
    out
}

/// A new connection.
pub(super) async fn connect() -> zbus::Result<Connection> {
    match is_user() {
        false => Connection::system().await,
        true => crate::bus::user().build().await,
    }
}

#[proxy(
    interface = "org.freedesktop.login1.User",
    default_service = "org.freedesktop.login1"
)]
trait LoginUser {
    #[zbus(property)]
    fn linger(&self) -> zbus::Result<bool>;
}

/// Whether this user's systemd goes on after the last logout; `None` = nobody can tell (no logind).
pub(super) async fn lingers() -> Option<bool> {
    let system = Connection::system().await.ok()?;
    let me = rustix::process::getuid().as_raw();
    let path = format!("/org/freedesktop/login1/user/_{me}");
    let user = LoginUserProxy::new(&system, path).await.ok()?;
    user.linger().await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_about_the_right_stratavored() {
        for (said, told) in [
            (
                "No answer. See: systemctl status stratavore-agent. See: journalctl -u x.",
                "No answer. See: systemctl --user status stratavore-agent. See: journalctl --user -u x.",
            ),
            (
                "No runner. See: stratavorectl list --all, stratavorectl project list.",
                "No runner. See: stratavorectl --user list --all, stratavorectl --user project list.",
            ),
            (
                "by “stratavorectl kill”, or: stratavorectl status.",
                "by “stratavorectl --user kill”, or: stratavorectl --user status.",
            ),
            // Of root, of another host, and no command at all.
            ("sudo stratavorectl doctor", "sudo stratavorectl doctor"),
            (
                "stratavorectl -H web1 logs x",
                "stratavorectl -H web1 logs x",
            ),
            (
                "Is stratavorectl older than it?",
                "Is stratavorectl older than it?",
            ),
            ("It is stratavorectl", "It is stratavorectl"),
        ] {
            assert_eq!(of_user(said), told);
            assert_eq!(of_user(told), told, "a second time nothing is left to do");
            assert_eq!(advice(said), said, "without --user");
        }
    }
}
