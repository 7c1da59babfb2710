//! The ground: systemd, kernel, cgroups, disks, journal, memory, clock.

use super::super::Finding;
use super::super::facts::{Disk, Facts, Hierarchy};
use super::and;
use crate::domain::units::{INFINITY, parse_span, show_size, show_span};

/// The oldest systemd that is supported.
const SYSTEMD_MIN: u32 = 252;
/// Free bytes below which the store or the journal is about to stop.
const BYTES_PROBLEM: u64 = 16 << 20;
const BYTES_WARNING: u64 = 128 << 20;
const INODES_PROBLEM: u64 = 100;
const INODES_WARNING: u64 = 2_000;
/// Lines a runner may print within the journal's interval before some are lost.
const BURST_MIN: u64 = 1_000;
/// A smaller difference is a clock being corrected.
const JUMP: i64 = 60;

/// systemd, the kernel, the machine's id.
pub(super) fn ground(facts: &Facts) -> Vec<Finding> {
    let mut out = vec![systemd(facts)];
    let known = |major, minor| kernel_at_least(&facts.kernel, major, minor);
    out.push(match (known(6, 6), known(5, 19)) {
        (true, _) => Finding::ok("kernel", format!("Linux {}.", facts.kernel)),
        (_, true) => Finding::note(
            "kernel",
            format!("Linux {} does not tell the highest number of tasks of a runner (tasks_peak); 6.6 does.", facts.kernel),
        ),
        _ => Finding::note(
            "kernel",
            format!("Linux {} tells neither peak memory (5.19 does) nor peak tasks (6.6 does) of a runner.", facts.kernel),
        ),
    });
    if !facts.machine_id {
        out.push(
            Finding::problem(
                "machine-id",
                "/etc/machine-id has no id, from which the host's own is made.",
            )
            .mend("systemd-machine-id-setup && systemctl restart stratavored"),
        );
    }
    out
}

fn systemd(facts: &Facts) -> Finding {
    let systemd = &facts.systemd;
    if !systemd.booted {
        return Finding::problem(
            "systemd",
            "PID 1 of this host is not systemd, without which no runner can be: boot it with systemd as its init.",
        );
    }
    let running = systemd.running.as_deref().or(systemd.installed.as_deref());
    let Some(running) = running else {
        return Finding::problem(
            "systemd",
            "systemctl is missing, so systemd's version is not known.",
        );
    };
    let on_disk = systemd.installed.as_deref().and_then(version);
    match version(running) {
        Some(number) if number < SYSTEMD_MIN => Finding::problem(
            "systemd",
            format!(
                "systemd {running} is too old: {SYSTEMD_MIN} is the oldest that is supported. Upgrade the system."
            ),
        ),
        Some(number) if on_disk.is_some_and(|disk| disk != number) => Finding::warning(
            "systemd",
            format!("PID 1 is still systemd {running}, another is installed."),
        )
        .mend("systemctl daemon-reexec"),
        Some(_) => Finding::ok("systemd", format!("systemd {running}.")),
        None => Finding::note(
            "systemd",
            format!("“{running}” is no version that can be read."),
        ),
    }
}

/// The number a version begins with.
fn version(text: &str) -> Option<u32> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn kernel_at_least(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= (major, minor)
}

/// The hierarchy, and each controller where runners are.
pub(super) fn cgroups(facts: &Facts) -> Vec<Finding> {
    let cgroup = &facts.cgroup;
    let mut out = vec![match cgroup.hierarchy {
        Hierarchy::Unified => Finding::ok("cgroup", "cgroup v2, unified."),
        Hierarchy::Hybrid => Finding::note(
            "cgroup",
            "cgroup v2 beside v1 (hybrid): limits whose controller is bound to v1 can't be held. Boot with systemd.unified_cgroup_hierarchy=1.",
        ),
        Hierarchy::Legacy => Finding::problem(
            "cgroup",
            "There is only cgroup v1, in which no runner can be. Boot with systemd.unified_cgroup_hierarchy=1.",
        ),
        Hierarchy::None => Finding::problem(
            "cgroup",
            "No cgroup hierarchy is mounted on /sys/fs/cgroup; systemd does it at boot.",
        ),
    }];
    if !matches!(cgroup.hierarchy, Hierarchy::Unified | Hierarchy::Hybrid) {
        return out;
    }
    for (name, limits) in [
        ("cpu", "cpu-quota and cpu-weight"),
        ("memory", "memory-max, memory-high and memory-swap-max"),
        ("pids", "tasks-max"),
        ("io", "io-weight"),
    ] {
        out.push(controller(facts, name, limits));
    }
    out
}

fn controller(facts: &Facts, name: &str, limits: &str) -> Finding {
    let cgroup = &facts.cgroup;
    let check = format!("cgroup {name}");
    let there = |list: &[String]| list.iter().any(|c| c == name);
    let lost = format!(
        "{limits} can't be held: launches that ask for them are refused (LimitUnenforceable)"
    );
    if let Some(slice) = &cgroup.slice
        && there(slice)
    {
        return Finding::ok(
            check,
            format!("The {name} controller is there for runners."),
        );
    }
    if there(&cgroup.root) {
        return match cgroup.slice {
            None => Finding::ok(check, format!("The {name} controller is there.")),
            Some(_) => Finding::warning(
                check,
                format!("stratavore.slice has no {name} controller, though the host has: {lost}."),
            )
            .mend("systemctl daemon-reload && systemctl restart stratavore-agent"),
        };
    }
    if facts.user && matches!(cgroup.kernel.get(name), Some((false, true))) {
        return Finding::warning(check, format!("The system's systemd does not give users the {name} controller: {lost}. The change holds from the next login."))
            .mend("mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu memory pids io\\n' >/etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload");
    }
    let why = match cgroup.kernel.get(name) {
        Some((true, _)) => format!("it is bound to cgroup v1. Boot with cgroup_no_v1={name}"),
        Some((_, false)) => format!("it is disabled. Boot with cgroup_enable={name} and without cgroup_disable={name}"),
        Some(_) => match facts.systemd.container.is_empty() {
            true => "PID 1 does not have it: see systemd.unified_cgroup_hierarchy= of the kernel's command line".to_owned(),
            false => "this container does not have it: its host must delegate it".to_owned(),
        },
        None => "this kernel does not have it, or its host does not delegate it".to_owned(),
    };
    Finding::warning(
        check,
        format!("No {name} controller in cgroup v2: {why}. Without it {lost}."),
    )
}

/// Room on the disks.
pub(super) fn disks(facts: &Facts) -> Vec<Finding> {
    facts.disks.iter().map(disk).collect()
}

fn disk(disk: &Disk) -> Finding {
    let path = disk.paths.first().map_or("/", String::as_str);
    let check = format!("disk {}", and(&disk.paths));
    let (free, size) = (show_size(disk.bytes_free), show_size(disk.bytes));
    if disk.read_only {
        return Finding::problem(
            check,
            format!("The file system of {path} is mounted read-only."),
        )
        .mend(format!(
            "journalctl -k -b -g 'I/O error|remount|EXT4-fs|XFS|BTRFS'; findmnt -T {path}"
        ));
    }
    // A small disk may be small; 5 % of a large one is still room.
    let little = BYTES_WARNING.min(disk.bytes / 10);
    let few = disk.inodes > 0;
    let told = |finding: Finding| {
        finding.mend(format!("journalctl --disk-usage; du -xh -d2 \"$(findmnt -n -o TARGET -T {path})\" | sort -h | tail"))
    };
    let consequence = if disk.paths == ["/var/log/journal"] {
        "what runners print is lost when it is full"
    } else {
        "nothing can be launched when it is full"
    };
    if disk.bytes_free < BYTES_PROBLEM.min(disk.bytes / 10) {
        return told(Finding::problem(
            check,
            format!("{free} of {size} are free for {path}: {consequence}."),
        ));
    }
    if few && disk.inodes_free < INODES_PROBLEM.min(disk.inodes / 10) {
        return Finding::problem(
            check,
            format!(
                "{} of {} inodes are free for {path}: {consequence}.",
                disk.inodes_free, disk.inodes
            ),
        )
        .mend(format!(
            "du -x --inodes -d3 \"$(findmnt -n -o TARGET -T {path})\" | sort -n | tail"
        ));
    }
    if disk.bytes_free < little {
        return told(Finding::warning(
            check,
            format!("Only {free} of {size} are free for {path}: {consequence}."),
        ));
    }
    if few && disk.inodes_free < INODES_WARNING.min(disk.inodes / 10) {
        return Finding::warning(
            check,
            format!(
                "Only {} of {} inodes are free for {path}: {consequence}.",
                disk.inodes_free, disk.inodes
            ),
        )
        .mend(format!(
            "du -x --inodes -d3 \"$(findmnt -n -o TARGET -T {path})\" | sort -n | tail"
        ));
    }
    Finding::ok(check, format!("{free} of {size} free."))
}

/// What happens to what runners print.
pub(super) fn journal(facts: &Facts) -> Vec<Finding> {
    let Some(settings) = &facts.journal.settings else {
        return vec![Finding::note(
            "journal",
            "Not looked at: systemd-analyze can't tell journald's settings.",
        )];
    };
    let get = |key: &str| {
        settings
            .get(key)
            .map(|v| v.trim())
            .filter(|v| !v.is_empty())
    };
    let drop_in = |setting: &str| {
        let (key, _) = setting.split_once('=').unwrap_or((setting, ""));
        format!(
            "mkdir -p /etc/systemd/journald.conf.d && printf '[Journal]\\n{setting}\\n' >/etc/systemd/journald.conf.d/zz-stratavore-{key}.conf && systemctl restart systemd-journald"
        )
    };
    let storage = get("Storage").unwrap_or("auto");
    let stored = match storage {
        "none" => Finding::problem("journal", "journald keeps nothing (Storage=none): what runners print is lost at once.")
            .mend(format!("{} && journalctl --flush", drop_in("Storage=persistent"))),
        "volatile" => Finding::warning("journal", "The journal is only in memory (Storage=volatile): what runners printed is lost when the host goes down.")
            .mend(format!("{} && journalctl --flush", drop_in("Storage=persistent"))),
        "auto" if !facts.journal.persistent_folder => {
            Finding::warning("journal", "The journal is only in memory, as there is no /var/log/journal: what runners printed is lost when the host goes down.")
                .mend("mkdir -p /var/log/journal && systemd-tmpfiles --create --prefix /var/log/journal && journalctl --flush")
        }
        _ => Finding::ok("journal", "The journal is kept on disk."),
    };
    // journald's own defaults.
    let interval = get("RateLimitIntervalSec").map_or(Some(30_000_000), |v| parse_span(v).ok());
    let burst = get("RateLimitBurst").map_or(Some(10_000), |v| v.parse().ok());
    let limited = match (interval, burst) {
        (Some(0), _) | (_, Some(0)) => Finding::ok(
            "journal rate",
            "journald drops nothing, however much a runner prints.",
        ),
        (Some(interval), Some(burst)) if interval != INFINITY => {
            let span = show_span(interval);
            let message = format!(
                "journald keeps {burst} lines in {span} from one runner (more while the disk has room) and drops the rest"
            );
            match burst < BURST_MIN {
                true => Finding::warning(
                    "journal rate",
                    format!("{message}, which ordinary programs exceed."),
                )
                .mend(drop_in("RateLimitBurst=10000")),
                false => Finding::ok("journal rate", format!("{message}.")),
            }
        }
        _ => Finding::note("journal rate", "journald's rate limit can't be read."),
    };
    let mut out = vec![stored, limited];
    // A user's own installation has none.
    if !facts.user {
        out.push(match facts.journal.catalog {
            Some(true) => Finding::ok("catalog", "“journalctl -x” explains our lines."),
            Some(false) => {
                Finding::warning("catalog", "“journalctl -x” does not explain our lines.")
                    .mend("journalctl --update-catalog")
            }
            None => Finding::note("catalog", "Not looked at: journalctl can't be asked."),
        });
    }
    out
}

/// Swap, and who kills when memory is short.
pub(super) fn memory(facts: &Facts) -> Vec<Finding> {
    let Some(units) = &facts.units else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let oomd = units
        .get("systemd-oomd.service")
        .is_some_and(|u| u.is("ActiveState", "active"));
    let killed: Vec<&str> = ["-.slice", "stratavore.slice"]
        .into_iter()
        .filter(|name| {
            let kills = |u: &super::super::facts::Unit| {
                u.is("ManagedOOMSwap", "kill") || u.is("ManagedOOMMemoryPressure", "kill")
            };
            units.get(*name).is_some_and(kills)
        })
        .collect();
    out.push(match (oomd, killed.is_empty()) {
        (true, false) => {
            let commands: Vec<String> = killed
                .iter()
                .map(|name| format!("systemctl set-property -- {name} ManagedOOMSwap=auto ManagedOOMMemoryPressure=auto"))
                .collect();
            Finding::warning(
                "oomd",
                format!("systemd-oomd may kill whole runners, shim and all, so that they end as supervisor-lost: it watches {}.", and(&killed)),
            )
            .mend(commands.join(" && "))
        }
        (true, true) => Finding::ok("oomd", "systemd-oomd runs and leaves runners alone."),
        (false, false) => Finding::note("oomd", format!("systemd-oomd does not run; if it is started, it may kill whole runners: it is told to watch {}.", and(&killed))),
        (false, true) => Finding::ok("oomd", "systemd-oomd does not meddle."),
    });
    let unlimited = |u: &super::super::facts::Unit| u.is("MemorySwapMax", "infinity");
    if facts.swap > 0 && units.get("stratavore.slice").is_some_and(unlimited) {
        let half = facts.swap / 2;
        out.push(
            Finding::note(
                "swap",
                format!("Runners together may fill the host's swap ({}), and slow down everything before one of them is killed.", show_size(facts.swap)),
            )
            .mend(format!("systemctl set-property stratavore.slice MemorySwapMax={half}")),
        );
    }
    out
}

/// The clock: what it says stands in rows and events.
pub(super) fn clock(facts: &Facts) -> Vec<Finding> {
    let clock = &facts.clock;
    let mut out = Vec::new();
    out.push(match (clock.synchronised, clock.service) {
        (Some(true), _) => Finding::ok("clock", "The clock is synchronised."),
        (Some(false), _) if !facts.systemd.container.is_empty() => Finding::note(
            "clock",
            "This is a container: its clock is its host's, which has to keep it right.",
        ),
        (Some(false), Some(true)) => Finding::note(
            "clock",
            "The clock is not synchronised yet; the service that does it runs.",
        )
        .mend("timedatectl timesync-status"),
        (Some(false), _) => Finding::warning(
            "clock",
            "Nothing keeps the clock right: times of runners and events will be wrong.",
        )
        .mend("timedatectl set-ntp true"),
        (None, _) => Finding::note("clock", "Not looked at: timedatectl does not answer."),
    });
    if let Some(jumped) = clock.jumped.filter(|j| j.abs() > JUMP) {
        let span = show_span(jumped.unsigned_abs() * 1_000_000);
        let (word, effect) = match jumped < 0 {
            true => (
                "back",
                "what happened before may look later than what happened since",
            ),
            false => ("forward", "what lives looks older than it is"),
        };
        out.push(Finding::note(
            "clock jump",
            format!("The clock was set {word} by {span} since stratavored started: {effect}. Time limits are not affected."),
        ));
    }
    out
}
