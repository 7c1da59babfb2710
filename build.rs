//! Hands version, commit and date to the programs. `VERSION` is the one source of the version;
//! commit and date come from the packager (`STRATAVORE_COMMIT`, `SOURCE_DATE_EPOCH`) or from git.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=VERSION");
    println!("cargo::rerun-if-changed=migrations");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    println!("cargo::rerun-if-env-changed=STRATAVORE_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");

    let version = std::fs::read_to_string("VERSION").unwrap_or_default();
    let version = version.trim();
    assert!(!version.is_empty(), "the file VERSION is missing or empty");
    let commit = std::env::var("STRATAVORE_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    let date = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .or_else(|| git(&["log", "-1", "--format=%ct"])?.parse().ok())
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
