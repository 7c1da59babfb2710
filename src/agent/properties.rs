//! Limits as systemd's unit properties. Pure; the bus types come in where they are sent.

use crate::domain::limits::{MAX_TASKS, OomPolicy};
use crate::domain::units::INFINITY;
use crate::domain::{Limits, signal};

/// systemd waits so much longer than the shim before it kills by itself, so that the shim,
/// which must survive to write the record, is always first.
pub(super) const STOP_MARGIN: u64 = 15_000_000;
/// systemd's "no weight given".
const NO_WEIGHT: u64 = u64::MAX;

/// A value as the bus will carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Property {
    U64(u64),
    I32(i32),
    Text(String),
}

/// Unit properties in the order they are sent.
pub(super) type Properties = Vec<(&'static str, Property)>;

/// What a new runner's scope gets, without its processes.
///
/// Where systemd knows an OOM policy for scopes it is told `continue`, whatever ours is: told
/// `kill` it sent SIGKILL to the whole scope (seen on 257), shim and all, and nobody could tell
/// the ending. `stop` is the shim's to carry out, `kill` the kernel's (`memory.oom.group`).
pub(super) fn scope(
    limits: &Limits,
    slice: &str,
    description: &str,
    knows_oom_policy: bool,
) -> Properties {
    let text = |t: &str| Property::Text(t.to_owned());
    let mut all = vec![
        ("Description", text(description)),
        ("Slice", text(slice)),
        // A failed unit would stay loaded for ever and its name with it.
        ("CollectMode", text("inactive-or-failed")),
        (
            "TimeoutStopUSec",
            Property::U64(limits.stop_timeout_usec() + STOP_MARGIN),
        ),
    ];
    // Each property costs PID 1 some time: what is its default anyway is not said.
    if scope_signal(limits) != signal::TERM {
        all.push(("KillSignal", Property::I32(scope_signal(limits))));
    }
    all.extend(said(&of_scope(limits)));
    if knows_oom_policy {
        all.push(("OOMPolicy", text(OomPolicy::Continue.as_str())));
    }
    all
}

/// What a new slice gets.
pub(super) fn slice(limits: &Limits, description: &str) -> Properties {
    let mut all = vec![
        ("Description", Property::Text(description.to_owned())),
        (
            "CollectMode",
            Property::Text("inactive-or-failed".to_owned()),
        ),
    ];
    all.extend(said(limits));
    all
}

/// All limits of a live unit at once: where nothing is said, the kernel's default again.
/// `tasks` is what a unit of this kind has without a word about tasks.
pub(super) fn live(limits: &Limits, tasks: u64) -> Properties {
    let number = |value: Option<u64>, default: u64| Property::U64(value.unwrap_or(default));
    vec![
        ("MemoryMax", number(limits.memory_max, INFINITY)),
        ("MemoryHigh", number(limits.memory_high, INFINITY)),
        ("MemorySwapMax", number(limits.memory_swap_max, INFINITY)),
        ("CPUQuotaPerSecUSec", number(limits.cpu_quota, INFINITY)),
        ("CPUWeight", number(limits.cpu_weight, NO_WEIGHT)),
        ("IOWeight", number(limits.io_weight, NO_WEIGHT)),
        ("TasksMax", number(limits.tasks_max, tasks)),
    ]
}

/// The properties of [`live`], to be read before they are changed.
pub(super) const LIVE: [&str; 7] = [
    "MemoryMax",
    "MemoryHigh",
    "MemorySwapMax",
    "CPUQuotaPerSecUSec",
    "CPUWeight",
    "IOWeight",
    "TasksMax",
];

/// The tasks of a runner's cgroup, which has the shim's one as well.
pub(super) fn with_shim(tasks: u64) -> u64 {
    if tasks == INFINITY {
        tasks
    } else {
        (tasks + 1).min(MAX_TASKS)
    }
}

/// The limits of a runner's cgroup.
pub(super) fn of_scope(limits: &Limits) -> Limits {
    Limits {
        tasks_max: limits.tasks_max.map(with_shim),
        ..limits.clone()
    }
}

/// What a live unit must hold once [`live`] was set: silence means no limit. A weight is
/// looked at only where one is asked for, as its controller may be off without.
pub(super) fn wanted(limits: &Limits) -> Limits {
    limits.or(&Limits {
        memory_max: Some(INFINITY),
        memory_high: Some(INFINITY),
        memory_swap_max: Some(INFINITY),
        cpu_quota: Some(INFINITY),
        ..Limits::default()
    })
}

fn said(limits: &Limits) -> Properties {
    let numbers = [
        ("MemoryMax", limits.memory_max),
        ("MemoryHigh", limits.memory_high),
        ("MemorySwapMax", limits.memory_swap_max),
        ("CPUQuotaPerSecUSec", limits.cpu_quota),
        ("CPUWeight", limits.cpu_weight),
        ("IOWeight", limits.io_weight),
        ("TasksMax", limits.tasks_max),
    ];
    numbers
        .into_iter()
        .filter_map(|(name, value)| Some((name, Property::U64(value?))))
        .collect()
}

/// The signal systemd sends to the scope when it is told to stop it. The shim is among those
/// who get it, so it is never one that nobody can survive: then the shim sends the real one.
fn scope_signal(limits: &Limits) -> i32 {
    const STOP: i32 = 19;
    match limits.stop_signal() {
        signal::KILL | STOP => signal::TERM,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(all: &Properties, name: &str) -> Option<Property> {
        all.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone())
    }

    #[test]
    fn only_what_is_said_is_sent_at_launch() {
        let limits = Limits {
            memory_max: Some(1 << 30),
            tasks_max: Some(64),
            kill_signal: Some(signal::KILL),
            oom_policy: Some(OomPolicy::Kill),
            stop_timeout: Some(5_000_000),
            ..Limits::default()
        };
        let all = scope(&limits, "stratavore-acme.slice", "x", true);
        assert_eq!(find(&all, "MemoryMax"), Some(Property::U64(1 << 30)));
        assert_eq!(find(&all, "TasksMax"), Some(Property::U64(65)));
        assert_eq!(find(&all, "MemoryHigh"), None);
        assert_eq!(find(&all, "KillSignal"), None);
        let int = Limits {
            kill_signal: Some(2),
            ..Limits::default()
        };
        let all_int = scope(&int, "s", "x", false);
        assert_eq!(find(&all_int, "KillSignal"), Some(Property::I32(2)));
        assert_eq!(
            find(&all, "TimeoutStopUSec"),
            Some(Property::U64(20_000_000))
        );
        assert_eq!(
            find(&all, "OOMPolicy"),
            Some(Property::Text("continue".to_owned()))
        );
        assert_eq!(find(&scope(&limits, "s", "x", false), "OOMPolicy"), None);
    }

    #[test]
    fn a_live_unit_gets_every_limit_anew() {
        let all = live(
            &Limits {
                cpu_weight: Some(50),
                ..Limits::default()
            },
            77,
        );
        assert_eq!(all.iter().map(|(n, _)| *n).collect::<Vec<_>>(), LIVE);
        assert_eq!(find(&all, "CPUWeight"), Some(Property::U64(50)));
        assert_eq!(find(&all, "IOWeight"), Some(Property::U64(u64::MAX)));
        assert_eq!(find(&all, "TasksMax"), Some(Property::U64(77)));
    }

    #[test]
    fn the_shims_task_is_added_within_the_kernels_bound() {
        let tasks = |n| {
            of_scope(&Limits {
                tasks_max: n,
                ..Limits::default()
            })
            .tasks_max
        };
        assert_eq!(tasks(Some(1)), Some(2));
        assert_eq!(tasks(Some(MAX_TASKS)), Some(MAX_TASKS));
        assert_eq!(tasks(Some(INFINITY)), Some(INFINITY));
        assert_eq!(tasks(None), None);
    }
}
