//! Named crash points, in test builds only (feature `crash-points`).
//!
//! A test writes a name into [`FILE`]; the first program that comes by that point removes the
//! file and stops dead with SIGKILL, as `kill -9` would. In ordinary builds [`point`] is empty.

/// Holds the name of the point to stop at. Its folder is made by the test, writable for all.
pub const FILE: &str = "/run/stratavore-crash/at";

/// Stops dead here if a test wants it so. Removing the file decides which process dies, so
/// exactly one does.
#[cfg(feature = "crash-points")]
pub fn point(name: &str) {
    if std::fs::read_to_string(FILE).is_ok_and(|wanted| wanted.trim() == name)
        && std::fs::remove_file(FILE).is_ok()
    {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// Nothing, in ordinary builds.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_name: &str) {}
