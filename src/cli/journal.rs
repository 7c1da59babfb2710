//! The last lines that a runner left in the journal, as `systemctl status` shows them: read with
//! the caller's own rights.

use super::bus;
use super::text::{clean, cut};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// A journal that takes longer is too large or too slow to wait for.
const TIME_MAX: Duration = Duration::from_secs(5);
/// No more is read of what it answers.
const BYTES_MAX: u64 = 1 << 20;

/// The command that shows all of a unit's lines.
pub(super) fn command(unit: &str) -> String {
    format!("{} '{unit}'", bus::journalctl_unit())
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
    let mut text = Vec::new();
    let read = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(BYTES_MAX).read_to_end(&mut text).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    match tokio::time::timeout(TIME_MAX, read).await {
        Err(_) => {
            return Err(format!(
                "the journal did not answer within {} s",
                TIME_MAX.as_secs()
            ));
        }
        Ok(Err(error)) => return Err(format!("journalctl can't be read: {error}")),
        Ok(Ok(())) => {}
    }
    Ok(shown(&String::from_utf8_lossy(&text), width))
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

    #[test]
    fn lines_are_harmless_and_fit() {
        let lines = shown("a\tb\n\x1b[2Jlong line\n", Some(8));
        assert_eq!(lines, ["a    b", "\u{fffd}[2Jlon…"]);
    }
}
