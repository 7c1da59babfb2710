//! The last lines that a runner left: in the journal, as `systemctl status` shows them, read with the caller's own rights;
//! or in its log file, which the daemon hands over.

use super::bus;
use super::client::{Client, number, text};
use super::failure::Failure;
use super::text::{clean, cut};
use crate::api::proxy::{Dict, Given};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

/// A journal that takes longer is too large or too slow to wait for.
const TIME_MAX: Duration = Duration::from_secs(5);
/// No more is read of what it answers.
const BYTES_MAX: usize = 1 << 20;

/// The command that shows all of a unit's lines.
fn command(unit: &str) -> String {
    format!("{} '{}'", bus::journalctl_unit(), clean(unit))
}

/// The command that shows all output of a runner.
pub(super) fn output(of: &Dict) -> String {
    match number(of, "log_file_max") {
        Some(_) => bus::advice(&format!("stratavorectl logs {}", clean(text(of, "id")))),
        None => command(text(of, "unit")),
    }
}

/// The last lines of a log file, each at most so wide; or why there are none.
pub(super) async fn tail_file(
    client: &Client,
    id: &str,
    lines: u32,
    width: Option<usize>,
) -> Result<Vec<String>, String> {
    let options = Given::from([("lines", u64::from(lines).into())]);
    let log: zbus::OwnedFd = client
        .call("Logs", &(id, &options))
        .await
        .map_err(|failure: Failure| failure.message.trim_end_matches('.').to_owned())?;
    let log = Receiver::from_owned_fd(OwnedFd::from(log)).map_err(|e| e.to_string())?;
    match tokio::time::timeout(TIME_MAX, end(log, BYTES_MAX)).await {
        Err(_) => Err(format!(
            "it could not be read within {} s",
            TIME_MAX.as_secs()
        )),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(text)) => Ok(shown(&String::from_utf8_lossy(&text), width)),
    }
}

/// The last lines of a unit since a time (µs), each at most so wide; or why there are none.
pub(super) async fn tail(
    unit: &str,
    since: u64,
    lines: u32,
    width: Option<usize>,
) -> Result<Vec<String>, String> {
    let mut child = Command::new("journalctl")
        .args(bus::is_user().then_some("--user"))
        .args([
            "--no-pager",
            "--quiet",
            "--output=short",
            "--no-hostname",
            "-u",
            unit,
        ])
        .arg(format!("--lines={lines}"))
        .arg(format!("--since=@{}", since / 1_000_000))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("journalctl can't be run: {e}"))?;
    let Some(stdout) = child.stdout.take() else {
        return Err("journalctl has no output".to_owned());
    };
    match tokio::time::timeout(TIME_MAX, end(stdout, BYTES_MAX)).await {
        Err(_) => Err(format!(
            "the journal did not answer within {} s",
            TIME_MAX.as_secs()
        )),
        Ok(Err(error)) => Err(format!("journalctl can't be read: {error}")),
        Ok(Ok(text)) => Ok(shown(&String::from_utf8_lossy(&text), width)),
    }
}

/// The last whole lines, at most so many bytes.
async fn end(mut from: impl AsyncRead + Unpin, most: usize) -> std::io::Result<Vec<u8>> {
    let (mut text, mut cut) = (Vec::new(), false);
    while from.read_buf(&mut text).await? > 0 {
        if text.len() > 2 * most {
            text.drain(..text.len() - most);
            cut = true;
        }
    }
    let mut first = text.len().saturating_sub(most);
    if cut || first > 0 {
        let line = text[first..].iter().position(|b| *b == b'\n');
        first = line.map_or(text.len(), |at| first + at + 1);
    }
    Ok(text.split_off(first))
}

fn shown(text: &str, width: Option<usize>) -> Vec<String> {
    let harmless = |line: &str| {
        cut(
            &clean(&line.replace('\t', "    ")),
            width.unwrap_or(usize::MAX),
        )
    };
    text.lines().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_much_the_last_lines_are_kept() -> std::io::Result<()> {
        let text: String = (0..999).map(|n| format!("line {n}\n")).collect();
        assert_eq!(end(text.as_bytes(), 20).await?, b"line 997\nline 998\n");
        assert_eq!(end(text.as_bytes(), 1 << 20).await?, text.as_bytes());
        assert_eq!(end(&b"no line end"[..], 5).await?, b"");
        Ok(())
    }

    #[test]
    fn lines_are_harmless_and_fit() {
        let lines = shown("a\tb\n\x1b[2Jlong line\n", Some(8));
        assert_eq!(lines, ["a    b", "\u{fffd}[2Jlon…"]);
    }
}
