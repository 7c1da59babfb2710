//! The bus of a user's own systemd, and what systemd says of the whole machine.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;
use zbus::OwnedVariant;
use zbus::connection::Builder;

/// How long systemd may take to say how the machine is; at its end it has better things to do.
const ANSWER: Duration = Duration::from_secs(1);

/// Whether the machine is being shut down or booted again, as far as systemd can still say so.
pub async fn host_stops(system: &zbus::Connection) -> bool {
    let asked = system.call_method(
        Some("org.freedesktop.systemd1"),
        "/org/freedesktop/systemd1",
        Some("org.freedesktop.DBus.Properties"),
        "Get",
        &("org.freedesktop.systemd1.Manager", "SystemState"),
    );
    let Ok(Ok(reply)) = tokio::time::timeout(ANSWER, asked).await else {
        return false;
    };
    let state = reply.body().deserialize::<OwnedVariant>();
    state.is_ok_and(|state| <&str>::try_from(&*state).is_ok_and(|state| state == "stopping"))
}

/// A connection to it is built from here: `$XDG_RUNTIME_DIR/bus`, where the user's systemd is,
/// also if this session has a bus of its own (dbus-run-session, dbus-launch); without that socket
/// what DBUS_SESSION_BUS_ADDRESS says.
pub fn user() -> Builder<'static> {
    let socket = std::env::var("XDG_RUNTIME_DIR").map(|dir| format!("{dir}/bus"));
    match socket {
        Ok(socket) if is_socket(Path::new(&socket)) => {
            Builder::address(format!("unix:path={}", escaped(&socket)).as_str())
        }
        _ => Builder::session(),
    }
}

fn is_socket(path: &Path) -> bool {
    path.is_absolute() && path.metadata().is_ok_and(|m| m.file_type().is_socket())
}

/// As the D-Bus specification has values in addresses.
fn escaped(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_/.\\*".contains(&b);
    let byte = |b: u8| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02x}"),
    };
    path.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_only_what_they_may() {
        assert_eq!(escaped("/run/user/7/bus"), "/run/user/7/bus");
        assert_eq!(escaped("/a,b;c=ü"), "/a%2cb%3bc%3d%c3%bc");
    }
}
