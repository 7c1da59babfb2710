//! Signals by name and number, as Linux numbers them on x86-64 and aarch64.

use super::error::Error;
use super::name::shown;

const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// SIGTERM.
pub const TERM: i32 = 15;
/// SIGKILL.
pub const KILL: i32 = 9;
/// The highest real-time signal.
pub const MAX: i32 = 64;

/// `SIGKILL` for 9, `SIGRTMIN+n` for real-time signals, as `kill -l` names them.
pub fn name(signal: i32) -> String {
    match signal {
        1..=31 => NAMES[signal as usize - 1].to_owned(),
        34..=64 => match signal - 34 {
            0 => "SIGRTMIN".to_owned(),
            n => format!("SIGRTMIN+{n}"),
        },
        other => other.to_string(),
    }
}

/// A signal from `9`, `KILL`, `SIGKILL` or `RTMIN+3`.
pub fn parse(text: &str) -> Result<i32, Error> {
    if let Ok(number) = text.parse::<i32>() {
        return check(number);
    }
    let bare = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(at) = NAMES.iter().position(|n| n[3..] == *bare) {
        return Ok(at as i32 + 1);
    }
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        let plus = rest
            .strip_prefix('+')
            .unwrap_or(if rest.is_empty() { "0" } else { "x" });
        if let Ok(n @ 0..=30) = plus.parse::<i32>() {
            return Ok(34 + n);
        }
    }
    Err(Error::invalid(format!(
        "“{}” is not a signal; give a number from 1 to {MAX} or a name such as SIGTERM.",
        shown(text)
    )))
}

/// Refuses what is no signal. 32 and 33 belong to the C library.
pub fn check(signal: i32) -> Result<i32, Error> {
    match signal {
        1..=31 | 34..=64 => Ok(signal),
        _ => Err(Error::invalid(format!(
            "{signal} is not a signal; give a number from 1 to {MAX} or a name such as SIGTERM."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name_that_reads_back() {
        for signal in (1..=31).chain(34..=64) {
            assert_eq!(parse(&name(signal)), Ok(signal));
            assert_eq!(parse(name(signal).trim_start_matches("SIG")), Ok(signal));
        }
        for bad in ["", "SIG", "0", "65", "-9", "32", "RTMIN+31", "kill"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
