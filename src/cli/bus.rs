//! Which bus: the system's or, with `--user`, that of the user's session; and which systemd is
//! behind it. Set once, before anything is said.

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
