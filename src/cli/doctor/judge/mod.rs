//! What the facts mean. Pure.

mod host;
mod programs;
mod reach;
mod units;

use super::Finding;
use super::facts::{Facts, Installed};

pub(super) use units::OURS;

/// All findings, from the ground up: what is wrong first is often the cause of what is wrong below.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut out = host::ground(facts);
    out.extend(host::cgroups(facts));
    let mut ours = units::units(facts);
    ours.extend(reach::bus(facts));
    if !facts.user {
        ours.extend(reach::polkit(facts));
    }
    ours.extend(programs::programs(facts));
    match facts.user {
        true => ours.extend(programs::users_files(facts)),
        false => ours.extend(programs::files(facts)),
    }
    if facts.user {
        for mend in ours.iter_mut().filter_map(|f| f.mend.as_mut()) {
            *mend = mend
                .replace("systemctl ", "systemctl --user ")
                .replace("journalctl -u", "journalctl --user -u")
                .replace("stratavored --check", "stratavored --user --check");
        }
    }
    out.extend(ours);
    out.extend(host::disks(facts));
    out.extend(host::journal(facts));
    if !facts.user {
        out.extend(host::memory(facts));
    }
    out.extend(host::clock(facts));
    out
}

/// How what is not installed is put there, on a host like this one.
fn install(facts: &Facts) -> &'static str {
    match (facts.installed, facts.user) {
        (Installed::NixOs, _) => {
            "set services.stratavore.enable = true and run nixos-rebuild switch"
        }
        (Installed::Debian, _) => {
            "install the package stratavore again: apt install --reinstall, or with its file dpkg -i"
        }
        (Installed::Make, true) => "make install-user",
        (Installed::Make, false) => "make install",
    }
}

/// Where a file of ours is missing. NixOS has its own places.
fn missing(facts: &Facts, file: &str, folder: &str) -> String {
    let how = install(facts);
    match facts.installed {
        Installed::NixOs => format!("{file} is not in the running system ({how})"),
        _ => format!("{file} is not installed in {folder} ({how})"),
    }
}

/// `a, b and c`.
fn and(words: &[impl AsRef<str>]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
pub(super) mod tests;
