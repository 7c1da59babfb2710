//! What systemd wants to hear of a service (sd_notify(3)), and what it may take as a sign of life.

use sd_notify::NotifyState;
use std::time::Duration;

/// The service is up.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

/// The configuration is being read again; [`ready`] says when that is done.
pub fn reloading() {
    // Type=notify-reload wants to know when.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(&line(status))]);
}

/// Of one line: another one would be a message of its own to systemd.
fn line(status: &str) -> String {
    status.replace(char::is_control, " ")
}

/// The service is going down.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// A sign of life.
pub fn ping() {
    notify(&[NotifyState::Watchdog]);
}

/// How often a sign of life is due, if systemd watches: half of WatchdogSec=.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|full| full / 2)
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(states);
}
