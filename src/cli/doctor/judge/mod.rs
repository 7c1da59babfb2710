//! What the facts mean. Pure.

mod host;
mod programs;
mod reach;
mod units;

use super::Finding;
use super::facts::Facts;

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
