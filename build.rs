//! Hands version, commit and date to the programs. `VERSION` is the one source of the version;
//! commit and date come from the packager (`STRATAVORE_COMMIT`, `SOURCE_DATE_EPOCH`), from git, or in an
//! unpacked archive from `.commit`, which `git archive` has filled in.
//!
//! And links the shim statically where the C library can be: it is started for each runner, and half of that is the
//! dynamic linker's work.

use std::path::{Path, PathBuf};
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
    if let Some(folder) = static_libraries() {
        for argument in ["-static-pie", &format!("-L{}", folder.display())] {
            println!("cargo::rustc-link-arg-bin=stratavore-shim={argument}");
        }
    }
}

/// A folder in which the linker finds the C library's static archives under the names of its shared ones: cargo can't
/// say `crt-static` of one program alone. `None`: the archives are not installed (Fedora has them in glibc-static), the
/// build is for another system, or there is nothing to do.
fn static_libraries() -> Option<PathBuf> {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if !is("CARGO_CFG_TARGET_OS", "linux")
        || !is("CARGO_CFG_TARGET_ENV", "gnu")
        || std::env::var("TARGET") != std::env::var("HOST")
        || features.split(',').any(|f| f == "crt-static")
    {
        return None;
    }
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let linker = std::env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    // The compiler repeats the name of what it does not have.
    let has = |file: &str| {
        let asked = Command::new(&linker)
            .arg(format!("-print-file-name={file}"))
            .output();
        asked
            .is_ok_and(|told| Path::new(String::from_utf8_lossy(&told.stdout).trim()).is_absolute())
    };
    if !["libc.a", "libgcc_eh.a", "libgcc.a", "rcrt1.o"]
        .into_iter()
        .all(has)
    {
        return None;
    }
    let folder = PathBuf::from(std::env::var_os("OUT_DIR")?).join("static");
    std::fs::create_dir_all(&folder).ok()?;
    for library in ["c", "util", "rt", "pthread", "m", "dl", "gcc_s"] {
        let archives = match library {
            "gcc_s" => "libgcc_eh.a libgcc.a libc.a".to_owned(),
            "c" => "libc.a libgcc_eh.a libgcc.a".to_owned(),
            other => format!("lib{other}.a"),
        };
        std::fs::write(
            folder.join(format!("lib{library}.so")),
            format!("GROUP ( {archives} )\n"),
        )
        .ok()?;
    }
    Some(folder)
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
