//! Whether the kernel holds a limit: systemd accepts what the kernel lacks without a word, so
//! every limit is read back from the cgroup's own files.

use super::config::PATH;
use super::policy::{DEFAULT_WEIGHT, refusal, shown};
use super::properties::with_shim;
use crate::domain::Limits;
use crate::domain::limits::OomPolicy;
use crate::domain::units::INFINITY;
use crate::wire::{Refusal, RefusalCode, Unenforced};

/// A limit that is not held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unheld {
    key: &'static str,
    value: String,
    controller: &'static str,
    file: &'static str,
    /// What the file says; `None` = there is no such file.
    found: Option<String>,
    /// The machine has the controller, and does not give it to users.
    undelegated: bool,
}

impl Unheld {
    /// Which limit, and which controller.
    pub(super) fn sentence(&self) -> String {
        let Self {
            key,
            value,
            controller,
            file,
            ..
        } = self;
        match &self.found {
            None if self.undelegated => format!(
                "{key}={value} is not held here: the {controller} controller of cgroup v2 is not delegated to users, so there is no {file}."
            ),
            None => format!(
                "{key}={value} is not held on this host: the {controller} controller of cgroup v2 does not offer {file} here."
            ),
            Some(found) => format!(
                "{key}={value} is not held on this host: {file} of the {controller} controller says “{found}” after systemd was told."
            ),
        }
    }

    /// What to do about it.
    fn advice(&self) -> String {
        let first = match &self.found {
            None if self.undelegated => {
                "Have it delegated (as root: systemctl edit user@.service, with [Service] Delegate=cpu io memory pids; then log in anew)"
            }
            None => "Boot with cgroup_no_v1=all (and the controller not disabled)",
            Some(_) => "Look into the journal of PID 1",
        };
        format!(
            "{first}, leave {} out, or set limits.unenforced = \"warn\".",
            self.key
        )
    }
}

/// The first unheld limit as a refusal, or all as warnings. Where root has set a ceiling a
/// warning is not enough, whatever the daemon says.
pub(super) fn judge(
    unheld: &[Unheld],
    unenforced: Unenforced,
    ceilings: &Limits,
) -> Result<Vec<String>, Refusal> {
    let refused = |why: String| Err(refusal(RefusalCode::LimitUnenforceable, why));
    let bound = |u: &&Unheld| ceilings.number(u.key).is_some();
    match (unheld.iter().find(bound), unheld.first(), unenforced) {
        (Some(bound), ..) => refused(format!(
            "{} Root has set a ceiling for it in {PATH}, so nothing runs without it.",
            bound.sentence()
        )),
        (None, Some(first), Unenforced::Refuse) => {
            refused(format!("{} {}", first.sentence(), first.advice()))
        }
        _ => Ok(sentences(unheld)),
    }
}

/// What is not held, one sentence each.
pub(super) fn sentences(unheld: &[Unheld]) -> Vec<String> {
    unheld.iter().map(Unheld::sentence).collect()
}

/// What the limits are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    /// Bytes of a page.
    pub(super) page: u64,
    /// The kernel can count swap at all; without, a limit on it is always held.
    pub(super) swap: bool,
    /// The cgroup has the shim's one task beside the runner's.
    pub(super) shim: bool,
    /// Where the manager is a user's own (and the shim is mortal): the machine's controllers.
    pub(super) user: Option<&'a str>,
}

/// Holds the files of a cgroup against the limits it shall have. `read` gives a file's text.
pub(super) fn unheld(
    limits: &Limits,
    host: Host<'_>,
    read: impl Fn(&str) -> Option<String>,
) -> Vec<Unheld> {
    let mut all = Vec::new();
    let here = read("cgroup.controllers").unwrap_or_default();
    let undelegated = |controller| {
        host.user.is_some_and(|machine| has(machine, controller)) && !has(&here, controller)
    };
    let mut check = |key: &'static str,
                     wanted: Option<u64>,
                     controller,
                     file,
                     holds: &dyn Fn(u64, &str) -> bool| {
        let Some(wanted) = wanted else { return };
        let found = read(file).map(|text| text.trim().to_owned());
        let held = match &found {
            // What the kernel cannot limit is without limit, which is what was asked for.
            None => wanted == INFINITY || (controller_weight(key) && wanted == DEFAULT_WEIGHT),
            Some(text) => holds(wanted, text),
        };
        if !held {
            all.push(Unheld {
                key,
                value: shown(key, wanted),
                controller,
                file,
                found,
                undelegated: undelegated(controller),
            });
        }
    };
    let bytes = |wanted: u64, text: &str| holds_bytes(wanted, text, host.page);
    let tasks = |wanted: u64| if host.shim { with_shim(wanted) } else { wanted };
    let count = |wanted: u64, text: &str| parse_max(text) == Some(tasks(wanted));
    let weight = |wanted: u64, text: &str| text.parse() == Ok(wanted);
    check(
        "memory-max",
        limits.memory_max,
        "memory",
        "memory.max",
        &bytes,
    );
    check(
        "memory-high",
        limits.memory_high,
        "memory",
        "memory.high",
        &bytes,
    );
    if host.swap {
        check(
            "memory-swap-max",
            limits.memory_swap_max,
            "memory",
            "memory.swap.max",
            &bytes,
        );
    }
    check(
        "cpu-quota",
        limits.cpu_quota,
        "cpu",
        "cpu.max",
        &holds_quota,
    );
    check(
        "cpu-weight",
        limits.cpu_weight,
        "cpu",
        "cpu.weight",
        &weight,
    );
    match read("io.weight") {
        None if read("io.bfq.weight").is_some() => {
            check(
                "io-weight",
                limits.io_weight,
                "io",
                "io.bfq.weight",
                &holds_bfq_weight,
            );
        }
        _ => check(
            "io-weight",
            limits.io_weight,
            "io",
            "io.weight",
            &holds_io_weight,
        ),
    }
    check("tasks-max", limits.tasks_max, "pids", "pids.max", &count);
    if let Some(policy) = limits.oom_policy {
        // How the shim learns of a kill, and how the kernel kills all.
        let (file, needed) = match policy {
            OomPolicy::Continue => ("", None),
            OomPolicy::Kill if host.user.is_some() => ("memory.events", Some("")),
            OomPolicy::Stop => ("memory.events", Some("")),
            OomPolicy::Kill => ("memory.oom.group", Some("1")),
        };
        let found = read(file).map(|text| text.trim().to_owned());
        if let Some(needed) = needed
            && found.as_ref().is_none_or(|text| !text.starts_with(needed))
        {
            let value = policy.as_str().to_owned();
            all.push(Unheld {
                key: "oom-policy",
                value,
                controller: "memory",
                file,
                found,
                undelegated: undelegated("memory"),
            });
        }
    }
    all
}

/// The limits whose controllers the host does not have at all, before anything is tried.
pub(super) fn lacking(limits: &Limits, controllers: &str, user: Option<&str>) -> Vec<Unheld> {
    let offered = |file: &str| has(controllers, file.split('.').next().unwrap_or_default());
    let host = Host {
        page: 1,
        swap: true,
        shim: false,
        user,
    };
    let mut all = unheld(limits, host, |file| offered(file).then(String::new));
    all.retain(|u| u.found.is_none());
    all
}

/// Whether a controller is in a `cgroup.controllers`.
fn has(controllers: &str, controller: &str) -> bool {
    controllers
        .split_ascii_whitespace()
        .any(|c| c == controller)
}

fn controller_weight(key: &str) -> bool {
    matches!(key, "cpu-weight" | "io-weight")
}

fn parse_max(text: &str) -> Option<u64> {
    match text {
        "max" => Some(INFINITY),
        number => number.parse().ok(),
    }
}

/// The kernel counts whole pages, and at most as many as fit into a signed number of bytes.
fn holds_bytes(wanted: u64, text: &str, page: u64) -> bool {
    match parse_max(text) {
        Some(INFINITY) => wanted > i64::MAX as u64 - page,
        Some(found) => found == wanted / page * page,
        None => false,
    }
}

/// `QUOTA PERIOD`; systemd chooses the period and rounds.
fn holds_quota(wanted: u64, text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let (quota, period) = (
        words.next(),
        words.next().and_then(|p| p.parse::<u64>().ok()),
    );
    match (quota, period) {
        (Some("max"), _) => wanted == INFINITY,
        (Some(quota), Some(period @ 1..)) => quota.parse::<u64>().is_ok_and(|quota| {
            let found = u128::from(quota) * 1_000_000 / u128::from(period);
            let exact = u128::from(wanted);
            found.abs_diff(exact) <= exact / 100 + 1
        }),
        _ => false,
    }
}

/// `default N`, then lines for single devices.
fn holds_io_weight(wanted: u64, text: &str) -> bool {
    default_weight(text) == Some(wanted)
}

/// BFQ has weights from 1 to 1000; systemd maps 1–100–10000 on 1–100–1000.
fn holds_bfq_weight(wanted: u64, text: &str) -> bool {
    let mapped = match wanted {
        0..=100 => wanted,
        more => 100 + (more - 100) * 900 / 9_900,
    };
    default_weight(text) == Some(mapped)
}

fn default_weight(text: &str) -> Option<u64> {
    let line = text.lines().next()?.trim();
    line.strip_prefix("default ")
        .unwrap_or(line)
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: Host<'_> = Host {
        page: 4096,
        swap: true,
        shim: true,
        user: None,
    };

    fn limits() -> Limits {
        Limits {
            memory_max: Some((1 << 30) + 5),
            memory_high: Some(INFINITY),
            memory_swap_max: Some(0),
            cpu_quota: Some(1_500_000),
            cpu_weight: Some(50),
            io_weight: Some(200),
            tasks_max: Some(64),
            oom_policy: Some(OomPolicy::Kill),
            ..Limits::default()
        }
    }

    fn files(name: &str) -> Option<String> {
        let text = match name {
            "memory.max" => "1073741824\n",
            "memory.high" => "max\n",
            "memory.swap.max" => "0\n",
            "cpu.max" => "150000 100000\n",
            "cpu.weight" => "50\n",
            "io.weight" => "default 200\n8:0 300\n",
            "pids.max" => "65\n",
            "memory.events" => "low 0\n",
            "memory.oom.group" => "1\n",
            _ => return None,
        };
        Some(text.to_owned())
    }

    #[test]
    fn held_limits() {
        assert_eq!(unheld(&limits(), HOST, files), []);
        assert_eq!(unheld(&Limits::default(), HOST, |_| None), []);
    }

    #[test]
    fn a_host_without_controllers_holds_nothing() {
        let all = unheld(&limits(), HOST, |_| None);
        let keys: Vec<_> = all.iter().map(|u| u.key).collect();
        assert_eq!(
            keys,
            [
                "memory-max",
                "memory-swap-max",
                "cpu-quota",
                "cpu-weight",
                "io-weight",
                "tasks-max",
                "oom-policy"
            ]
        );
        let refused = judge(&all, Unenforced::Refuse, &Limits::default());
        assert!(
            matches!(&refused, Err(r) if r.code == RefusalCode::LimitUnenforceable
                && r.message.contains("memory-max") && r.message.contains("memory controller") && r.message.contains("Boot with")),
            "{refused:?}"
        );
        let warned = |ceilings: &Limits| judge(&all, Unenforced::Warn, ceilings);
        assert!(matches!(warned(&Limits::default()), Ok(w) if w.len() == 7));
        // Root's ceilings are not the daemon's to switch off.
        let ceilings = Limits {
            tasks_max: Some(100),
            ..Limits::default()
        };
        assert!(matches!(warned(&ceilings), Err(r) if r.message.starts_with("tasks-max=")));
    }

    #[test]
    fn missing_controllers_are_known_beforehand() {
        let keys = |controllers| {
            lacking(&limits(), controllers, None)
                .iter()
                .map(|u| u.key)
                .collect::<Vec<_>>()
        };
        assert_eq!(keys("cpuset cpu io memory pids"), [""; 0]);
        assert_eq!(keys("cpu io memory"), ["tasks-max"]);
        assert_eq!(
            keys("cpuset"),
            [
                "memory-max",
                "memory-swap-max",
                "cpu-quota",
                "cpu-weight",
                "io-weight",
                "tasks-max",
                "oom-policy"
            ]
        );
    }

    #[test]
    fn another_value_is_not_held() {
        for (file, text) in [
            ("memory.max", "max"),
            ("memory.high", "4096"),
            ("memory.swap.max", "max"),
            ("cpu.max", "max 100000"),
            ("cpu.weight", "100"),
            ("io.weight", "default 100"),
            ("pids.max", "64"),
            ("memory.oom.group", "0"),
        ] {
            let read = |name: &str| {
                if name == file {
                    Some(text.to_owned())
                } else {
                    files(name)
                }
            };
            let all = unheld(&limits(), HOST, read);
            assert!(
                matches!(&all[..], [u] if u.file == file && u.sentence().contains(text)),
                "{all:?}"
            );
        }
    }

    #[test]
    fn weights_of_bfq() {
        let read = |name: &str| (name == "io.bfq.weight").then(|| "default 109".to_owned());
        let wanted = Limits {
            io_weight: Some(200),
            ..Limits::default()
        };
        assert_eq!(unheld(&wanted, HOST, read), []);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "\\PC{0,20}|max|[0-9]{0,22}( [0-9]{0,9})?") {
            let _ = unheld(&limits(), HOST, |_| Some(text.clone()));
        }

        #[test]
        fn systemds_rounding_of_quotas_is_understood(wanted in 10_000u64..64_000_000) {
            let quota = (wanted * 100_000 / 1_000_000).max(1_000);
            let text = format!("{quota} 100000");
            prop_assert!(holds_quota(wanted, &text));
            prop_assert!(!holds_quota(wanted * 2, &text));
        }

        #[test]
        fn whole_pages(wanted in 1u64<<20..1<<50) {
            prop_assert!(holds_bytes(wanted, &(wanted / 4096 * 4096).to_string(), 4096));
            prop_assert!(!holds_bytes(wanted, &(wanted / 4096 * 4096 + 4096).to_string(), 4096));
        }
    }
}
