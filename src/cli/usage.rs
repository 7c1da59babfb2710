//! Limits and what was used of them, in words.

use super::client::{dict, number, text};
use super::render;
use crate::api::proxy::Dict;
use crate::domain::limits::{KEYS, shown};
use crate::domain::signal;
use crate::domain::units::{self, INFINITY};
use zbus::Variant;

/// Every limit that is said, `key=value`.
pub(super) fn said(limits: &Dict) -> Vec<String> {
    KEYS.iter()
        .map(|(key, _)| (key, limit(limits, key)))
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// One limit as text; empty if nothing is said.
pub(super) fn limit(limits: &Dict, key: &str) -> String {
    number(limits, key).map_or_else(String::new, |n| shown(key, n))
}

/// ` of 1G (79%)`: how much of a cap is taken; empty without one.
fn of_cap(used: u64, limits: &Dict, key: &str) -> String {
    match number(limits, key) {
        None | Some(INFINITY | 0) => String::new(),
        Some(cap) => format!(
            " of {} ({}%)",
            limit(limits, key),
            u128::from(used) * 100 / u128::from(cap)
        ),
    }
}

/// What was used, its cap, and other limits: `peak 812M of 1G (79%), high 900M`.
fn told(used: String, limits: &Dict, others: &[(&str, &str)]) -> String {
    let others = others.iter().map(|(key, word)| (word, limit(limits, key)));
    let mut parts: Vec<String> = Some(used).into_iter().filter(|u| !u.is_empty()).collect();
    parts.extend(
        others
            .filter(|(_, value)| !value.is_empty())
            .map(|(word, value)| format!("{word} {value}")),
    );
    parts.join(", ")
}

/// `peak 812M of 1G (79%), high 900M`
pub(super) fn memory(limits: &Dict, usage: &Dict) -> String {
    let others = [("memory-high", "high"), ("memory-swap-max", "swap max")];
    match number(usage, "memory_peak_bytes") {
        Some(n) => {
            let used = format!(
                "peak {}{}",
                units::show_size(n),
                of_cap(n, limits, "memory-max")
            );
            told(used, limits, &others)
        }
        None => told(
            String::new(),
            limits,
            &[&[("memory-max", "max")], &others[..]].concat(),
        ),
    }
}

/// `3s, 12% of a CPU on average, quota 150%`: of a runner that ran so many µs.
pub(super) fn cpu(limits: &Dict, usage: &Dict, ran: Option<u64>) -> String {
    let used = number(usage, "cpu_usec").map(|n| {
        let time = match n {
            0..1_000 => format!("{n}us"),
            _ => units::show_span(n / 1_000 * 1_000),
        };
        match ran.filter(|ran| *ran >= 1_000_000) {
            Some(ran) => format!(
                "{time}, {}% of a CPU on average",
                u128::from(n) * 100 / u128::from(ran)
            ),
            None => time,
        }
    });
    told(
        used.unwrap_or_default(),
        limits,
        &[("cpu-quota", "quota"), ("cpu-weight", "weight")],
    )
}

/// `12M read, 3K written, weight 100`
pub(super) fn io(limits: &Dict, usage: &Dict) -> String {
    let (read, written) = (
        number(usage, "io_read_bytes"),
        number(usage, "io_write_bytes"),
    );
    let used = match (read, written) {
        (Some(r), Some(w)) => format!(
            "{} read, {} written",
            units::show_size(r),
            units::show_size(w)
        ),
        _ => String::new(),
    };
    told(used, limits, &[("io-weight", "weight")])
}

/// `peak 12 of 500 (2%)`
pub(super) fn tasks(limits: &Dict, usage: &Dict) -> String {
    match number(usage, "tasks_peak") {
        Some(n) => format!("peak {n}{}", of_cap(n, limits, "tasks-max")),
        None => told(String::new(), limits, &[("tasks-max", "max")]),
    }
}

/// `1234 tokens in (40 from the cache) and 99 out, of 5000 reserved`
pub(super) fn tokens(of: &Dict) -> String {
    let (usage, kinds) = (dict(of, "usage"), dict(of, "token_usage"));
    let n = |of: &Dict, key| number(of, key).unwrap_or_default();
    let cached = match n(&kinds, "cache_read") {
        0 => String::new(),
        read => format!(" ({read} out of the cache)"),
    };
    let reserved = match n(&kinds, "reserved") {
        0 => String::new(),
        reserved => format!(", {reserved} reserved"),
    };
    format!(
        "{} tokens in{cached} and {} out{reserved}",
        n(&usage, "tokens_in"),
        n(&usage, "tokens_out")
    )
}

/// `2 processes were killed at the memory limit`; empty where the kernel does not say.
pub(super) fn oom_kills(usage: &Dict) -> String {
    match number(usage, "oom_kills") {
        None => String::new(),
        Some(0) => "none".to_owned(),
        Some(1) => "1 process was killed at the memory limit".to_owned(),
        Some(n) => format!("{n} processes were killed at the memory limit"),
    }
}

/// How long it may run and how it is stopped.
pub(super) fn stop(limits: &Dict, ran: Option<u64>) -> String {
    let mut said = Vec::new();
    let runtime = limit(limits, "runtime-max");
    match (number(limits, "runtime-max"), ran) {
        (Some(max), Some(ran)) if max != INFINITY => {
            said.push(format!(
                "runs at most {runtime}, {} so far",
                render::span(ran)
            ));
        }
        (Some(_), _) => said.push(format!("runs at most {runtime}")),
        (None, _) => {}
    }
    let timeout = limit(limits, "stop-timeout");
    if !timeout.is_empty() {
        said.push(format!("SIGKILL {timeout} after the stop signal"));
    }
    if let Some(Variant::I32(number)) = limits.get("kill-signal").map(|v| &**v) {
        said.push(format!("stop signal {}", signal::name(*number)));
    }
    let policy = text(limits, "oom-policy");
    if !policy.is_empty() {
        said.push(format!("on an OOM kill: {policy}"));
    }
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(entries: &[(&str, u64)]) -> Dict {
        entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).into()))
            .collect()
    }

    #[test]
    fn usage_stands_against_limits() {
        let limits = dict(&[
            ("memory-max", 1 << 30),
            ("memory-high", 900 << 20),
            ("tasks-max", 500),
        ]);
        let usage = dict(&[
            ("memory_peak_bytes", 812 << 20),
            ("tasks_peak", 12),
            ("cpu_usec", 1_500_000),
        ]);
        assert_eq!(memory(&limits, &usage), "peak 812M of 1G (79%), high 900M");
        assert_eq!(memory(&limits, &Dict::new()), "max 1G, high 900M");
        assert_eq!(memory(&Dict::new(), &usage), "peak 812M");
        assert_eq!(
            memory(&dict(&[("memory-max", INFINITY)]), &usage),
            "peak 812M"
        );
        assert_eq!(tasks(&limits, &usage), "peak 12 of 500 (2%)");
        assert_eq!(
            cpu(&Dict::new(), &usage, Some(3_000_000)),
            "1s 500ms, 50% of a CPU on average"
        );
        assert_eq!(
            cpu(&dict(&[("cpu-quota", 2_000_000)]), &Dict::new(), None),
            "quota 200%"
        );
        assert_eq!(
            oom_kills(&dict(&[("oom_kills", 1)])),
            "1 process was killed at the memory limit"
        );
        assert_eq!(
            stop(&dict(&[("runtime-max", 60_000_000)]), Some(5_000_000)),
            "runs at most 1min, 5s so far"
        );
    }
}
