//! Hands version, commit and date to the programs. `VERSION` is the one source of the version;
//! commit and date come from the packager (`STRATAVORE_COMMIT`, `SOURCE_DATE_EPOCH`), from git, or in an
//! unpacked archive from `.commit`, which `git archive` has filled in.

use std::process::Command;

/// 1980-01-01: what nixpkgs sets `SOURCE_DATE_EPOCH` to where nobody has said a date.
const NO_DATE: i64 = 315_532_800;

fn main() {
    println!("cargo::rerun-if-changed=VERSION");
    println!("cargo::rerun-if-changed=migrations");
    println!("cargo::rerun-if-changed=.commit");
    // In a worktree they are elsewhere. A file that is not there would make every build a new one.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-env-changed=STRATAVORE_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");

    let version = std::fs::read_to_string("VERSION").unwrap_or_default();
    let version = version.trim();
    assert!(!version.is_empty(), "the file VERSION is missing or empty");
    let commit = std::env::var("STRATAVORE_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .or_else(|| Some(archived()?.0.get(..12)?.to_owned()));
    let date = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .filter(|seconds| *seconds != NO_DATE)
        .or_else(|| git(&["log", "-1", "--format=%ct"])?.parse().ok())
        .or_else(|| Some(archived()?.1))
        .map(day);
    let about: Vec<String> = [commit, date].into_iter().flatten().collect();
    let text = match about.as_slice() {
        [] => version.to_owned(),
        parts => format!("{version} ({})", parts.join(" ")),
    };
    println!("cargo::rustc-env=STRATAVORE_VERSION={version}");
    println!("cargo::rustc-env=STRATAVORE_VERSION_TEXT={text}");
}

fn git(arguments: &[&str]) -> Option<String> {
    // Only this checkout's own history: an unpacked archive may lie inside another one.
    if !std::path::Path::new(".git").exists() {
        return None;
    }
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Commit and date of an unpacked archive; in a checkout the file has only their names.
fn archived() -> Option<(String, i64)> {
    let text = std::fs::read_to_string(".commit").ok()?;
    let (commit, date) = text.trim().split_once(' ')?;
    let is_commit = commit.len() >= 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
    Some((is_commit.then(|| commit.to_owned())?, date.parse().ok()?))
}

/// `YYYY-MM-DD` (UTC) of seconds since 1970.
fn day(seconds: i64) -> String {
    // Days since 0000-03-01, in eras of 400 years: the civil calendar's own arithmetic.
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + carry)
}
