//! The socket the daemon connects to.

use rustix::net::SocketAddrUnix;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Connections the kernel accepts for us while we are restarted.
const BACKLOG: i32 = 64;

/// The socket systemd listens on for us, else one of our own.
pub(super) fn listener(path: Option<&Path>) -> Result<OwnedFd, String> {
    let passed = sd_notify::listen_fds().map_err(|e| e.to_string())?.next();
    match (passed, path) {
        (Some(fd), _) => {
            // A copy of our own by number: this way nothing unsafe is needed.
            let me = rustix::process::pidfd_open(
                rustix::process::getpid(),
                rustix::process::PidfdFlags::empty(),
            );
            let flags = rustix::process::PidfdGetfdFlags::empty();
            me.and_then(|me| rustix::process::pidfd_getfd(&me, fd, flags))
                .map_err(|e| format!("The socket passed by systemd can't be taken: {e}."))
        }
        (None, Some(path)) => bind(path).map_err(|e| format!("{}: {e}.", path.display())),
        (None, None) => {
            Err("No socket was passed: start stratavore-agent.socket, or give --socket.".to_owned())
        }
    }
}

fn bind(path: &Path) -> std::io::Result<OwnedFd> {
    let socket = crate::seqpacket::unbound()?;
    let _ = std::fs::remove_file(path);
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o660))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
