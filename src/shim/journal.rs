//! A stream to the journal for the runner's output.

use rustix::net::sockopt::{
    Timeout, set_socket_send_buffer_size, set_socket_send_buffer_size_force, set_socket_timeout,
};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown,
    socket_with,
};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Where journald takes streams.
const SOCKET: &str = "/run/systemd/journal/stdout";
/// The longest wait for a journald whose queue is full.
const PATIENCE: Duration = Duration::from_secs(1);
/// What systemd gives its services' streams, so that a slow journald does not stall them soon.
const SEND_BUFFER: usize = 8 << 20;
/// LOG_INFO, for lines that do not begin with a level of their own such as `<3>`.
const PRIORITY: &str = "6";

/// Opens the stream; `None` = no journald here, or it does not answer.
///
/// To be called inside the scope. journald attributes each line by its writer's cgroup; the
/// unit named here is what it falls back on when the writer is gone before journald has looked
/// at it (a lone `echo`), and is believed because we are root.
pub(super) fn stream(identifier: &str, cgroup: &str) -> Option<OwnedFd> {
    let unit = cgroup
        .rsplit('/')
        .next()
        .filter(|u| u.ends_with(".scope"))
        .unwrap_or("");
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)).ok()?;
    connect(&socket, &SocketAddrUnix::new(SOCKET).ok()?).ok()?;
    shutdown(&socket, Shutdown::Read).ok()?;
    if set_socket_send_buffer_size_force(&socket, SEND_BUFFER).is_err() {
        let _ = set_socket_send_buffer_size(&socket, SEND_BUFFER);
    }
    let mut stream = std::os::unix::net::UnixStream::from(socket);
    stream.write_all(header(identifier, unit).as_bytes()).ok()?;
    let socket = OwnedFd::from(stream);
    // The runner itself waits for journald as long as it takes, like any service.
    set_socket_timeout(&socket, Timeout::Send, None).ok()?;
    Some(socket)
}

/// identifier, unit, priority, level prefixes are honoured, no forwarding to syslog, kmsg,
/// console; one per line.
fn header(identifier: &str, unit: &str) -> String {
    let plain: String = identifier
        .chars()
        .filter(|c| !c.is_control())
        .take(128)
        .collect();
    format!("{plain}\n{unit}\n{PRIORITY}\n1\n0\n0\n0\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_cannot_add_lines() {
        let header = header("a\nb", "stratavore-1.scope");
        assert_eq!(header, "ab\nstratavore-1.scope\n6\n1\n0\n0\n0\n");
    }
}
