//! The limits of a runner or a project: one list of keys for the bus, the command line, the
//! configuration and the store.

use super::error::Error;
use super::units::{self, INFINITY};
use super::{name, signal};
use serde::{Deserialize, Serialize};

/// What happens to a runner when one of its processes is killed for lack of memory
/// (`OOMPolicy=` of systemd.scope(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OomPolicy {
    /// The kill is counted and shown; the runner goes on.
    Continue,
    /// The rest of the runner is stopped.
    Stop,
    /// The kernel kills the whole runner at once.
    Kill,
}

impl OomPolicy {
    /// systemd's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Stop => "stop",
            Self::Kill => "kill",
        }
    }
}

/// A value as it came in: a number or systemd's notation.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Already in the base unit.
    Number(u64),
    /// To be parsed.
    Text(&'a str),
}

/// The unit of a key decides how text is read, shown and bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Microseconds of CPU time per second.
    CpuQuota,
    /// Microseconds.
    Span,
    /// A relative weight, 1 to 10000.
    Weight,
    /// A count.
    Count,
}

/// `None` everywhere = nothing said: the configured default, else the kernel's, applies.
/// [`INFINITY`] = said to be without limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory the runner may never exceed (`MemoryMax=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Bytes of memory above which the runner is slowed down and reclaimed (`MemoryHigh=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<u64>,
    /// Bytes of swap (`MemorySwapMax=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap_max: Option<u64>,
    /// Microseconds of CPU time per second (`CPUQuotaPerSecUSec=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<u64>,
    /// 1 to 10000 (`CPUWeight=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// 1 to 10000 (`IOWeight=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
    /// Processes and threads (`TasksMax=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u64>,
    /// Microseconds from start to the stop signal; frozen time counts (`RuntimeMaxSec=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_max: Option<u64>,
    /// Microseconds from the stop signal to SIGKILL (`TimeoutStopSec=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// `OOMPolicy=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_policy: Option<OomPolicy>,
    /// The stop signal (`KillSignal=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_signal: Option<i32>,
}

/// The stop timeout where nobody has said one: 10 s.
pub const DEFAULT_STOP_TIMEOUT: u64 = 10_000_000;
/// The longest stop timeout: an hour. A longer one would make a stop look like a hang.
pub const MAX_STOP_TIMEOUT: u64 = 3_600_000_000;
/// The least memory a runner can start with; below it the kernel kills at the first page.
pub const MIN_MEMORY: u64 = 1 << 20;
/// The least CPU quota: 1 % of a CPU, the kernel's own.
pub const MIN_CPU_QUOTA: u64 = 10_000;
/// The most tasks the kernel can count.
pub const MAX_TASKS: u64 = 4_194_304;

/// The numeric keys with their units, as they are spelled on the bus.
pub const KEYS: [(&str, Unit); 9] = [
    ("memory-max", Unit::Bytes),
    ("memory-high", Unit::Bytes),
    ("memory-swap-max", Unit::Bytes),
    ("cpu-quota", Unit::CpuQuota),
    ("cpu-weight", Unit::Weight),
    ("io-weight", Unit::Weight),
    ("tasks-max", Unit::Count),
    ("runtime-max", Unit::Span),
    ("stop-timeout", Unit::Span),
];

impl Limits {
    /// Whether `key` names a limit at all.
    pub fn is_key(key: &str) -> bool {
        matches!(key, "oom-policy" | "kill-signal") || KEYS.iter().any(|(k, _)| *k == key)
    }

    /// The slot of a numeric key, as spelled in [`KEYS`].
    pub fn number(&self, key: &str) -> Option<u64> {
        match key {
            "memory-max" => self.memory_max,
            "memory-high" => self.memory_high,
            "memory-swap-max" => self.memory_swap_max,
            "cpu-quota" => self.cpu_quota,
            "cpu-weight" => self.cpu_weight,
            "io-weight" => self.io_weight,
            "tasks-max" => self.tasks_max,
            "runtime-max" => self.runtime_max,
            "stop-timeout" => self.stop_timeout,
            _ => None,
        }
    }

    fn slot(&mut self, key: &str) -> Option<&mut Option<u64>> {
        Some(match key {
            "memory-max" => &mut self.memory_max,
            "memory-high" => &mut self.memory_high,
            "memory-swap-max" => &mut self.memory_swap_max,
            "cpu-quota" => &mut self.cpu_quota,
            "cpu-weight" => &mut self.cpu_weight,
            "io-weight" => &mut self.io_weight,
            "tasks-max" => &mut self.tasks_max,
            "runtime-max" => &mut self.runtime_max,
            "stop-timeout" => &mut self.stop_timeout,
            _ => return None,
        })
    }

    /// Sets one key. Keys are spelled as on the bus.
    pub fn set(&mut self, key: &str, value: Value<'_>) -> Result<(), Error> {
        match key {
            "oom-policy" => {
                self.oom_policy = Some(parse_oom_policy(value).map_err(|e| named(key, e))?)
            }
            "kill-signal" => {
                self.kill_signal = Some(parse_signal(value).map_err(|e| named(key, e))?)
            }
            _ => {
                let unit = KEYS.iter().find(|(k, _)| *k == key).map(|(_, u)| *u);
                let (Some(unit), Some(slot)) = (unit, self.slot(key)) else {
                    return Err(Error::invalid(format!(
                        "“{}” is not a limit; there are {}, oom-policy and kill-signal.",
                        name::shown(key),
                        KEYS.map(|(k, _)| k).join(", ")
                    )));
                };
                *slot = Some(parse_number(key, unit, value)?);
            }
        }
        Ok(())
    }

    /// These limits, and where they say nothing, those of `defaults`.
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            memory_max: self.memory_max.or(defaults.memory_max),
            memory_high: self.memory_high.or(defaults.memory_high),
            memory_swap_max: self.memory_swap_max.or(defaults.memory_swap_max),
            cpu_quota: self.cpu_quota.or(defaults.cpu_quota),
            cpu_weight: self.cpu_weight.or(defaults.cpu_weight),
            io_weight: self.io_weight.or(defaults.io_weight),
            tasks_max: self.tasks_max.or(defaults.tasks_max),
            runtime_max: self.runtime_max.or(defaults.runtime_max),
            stop_timeout: self.stop_timeout.or(defaults.stop_timeout),
            oom_policy: self.oom_policy.or(defaults.oom_policy),
            kill_signal: self.kill_signal.or(defaults.kill_signal),
        }
    }

    /// The stop timeout in force, in microseconds.
    pub fn stop_timeout_usec(&self) -> u64 {
        self.stop_timeout.unwrap_or(DEFAULT_STOP_TIMEOUT)
    }

    /// The stop signal in force.
    pub fn stop_signal(&self) -> i32 {
        self.kill_signal.unwrap_or(signal::TERM)
    }

    /// The first key whose value is above the ceiling's; both as text. A ceiling binds only
    /// where the limit is said or the ceiling itself must become the limit, so callers apply
    /// [`Self::or`] with the ceilings first.
    pub fn above(&self, ceilings: &Self) -> Option<(&'static str, u64, u64)> {
        KEYS.iter().find_map(|(key, _)| {
            let (mine, most) = (self.number(key)?, ceilings.number(key)?);
            (mine > most).then_some((*key, mine, most))
        })
    }
}

fn parse_oom_policy(value: Value<'_>) -> Result<OomPolicy, Error> {
    match value {
        Value::Text("continue") => Ok(OomPolicy::Continue),
        Value::Text("stop") => Ok(OomPolicy::Stop),
        Value::Text("kill") => Ok(OomPolicy::Kill),
        Value::Text(other) => Err(Error::invalid(format!(
            "“{}” is not an OOM policy; give continue, stop or kill.",
            name::shown(other)
        ))),
        Value::Number(_) => Err(Error::invalid("it is a word: continue, stop or kill.")),
    }
}

fn parse_signal(value: Value<'_>) -> Result<i32, Error> {
    match value {
        Value::Text(text) => signal::parse(text),
        Value::Number(n) => signal::check(i32::try_from(n).unwrap_or(i32::MAX)),
    }
}

fn parse_number(key: &str, unit: Unit, value: Value<'_>) -> Result<u64, Error> {
    let number = match (value, unit) {
        (Value::Number(n), _) => n,
        (Value::Text(t), Unit::Bytes) => units::parse_size(t).map_err(|e| named(key, e))?,
        (Value::Text(t), Unit::CpuQuota) => units::parse_cpu_quota(t).map_err(|e| named(key, e))?,
        (Value::Text(t), Unit::Span) if key == "stop-timeout" && t != "infinity" => {
            units::parse_finite_span(t).map_err(|e| named(key, e))?
        }
        (Value::Text(t), Unit::Span) => units::parse_span(t).map_err(|e| named(key, e))?,
        (Value::Text("infinity"), Unit::Count) => INFINITY,
        (Value::Text(t), Unit::Weight | Unit::Count) => t
            .trim()
            .parse()
            .map_err(|_| Error::invalid(format!("{key}: “{}” is not a number.", name::shown(t))))?,
    };
    let given = match value {
        Value::Text(text) => name::shown(text),
        Value::Number(number) => shown(key, number),
    };
    let refuse = |why: &str| Err(Error::invalid(format!("{key}={given}: {why}")));
    match unit {
        Unit::Weight if !(1..=10_000).contains(&number) => {
            refuse("a weight is from 1 to 10000 (100 is the default).")
        }
        _ if number == INFINITY => match key {
            "stop-timeout" => refuse("a stop must end; at most 1h is allowed."),
            _ => Ok(number),
        },
        Unit::Bytes if number < MIN_MEMORY && key != "memory-swap-max" => {
            refuse("less than 1M (1048576 bytes) cannot hold a process.")
        }
        Unit::CpuQuota if number < MIN_CPU_QUOTA => {
            let meant = match value {
                Value::Text(text) if number > 0 && !text.contains('%') => format!(
                    " A number without % is in µs of CPU time per second; did you mean {number}%?"
                ),
                _ => String::new(),
            };
            refuse(&format!(
                "less than 1% of a CPU (10000 µs per second) cannot be enforced.{meant}"
            ))
        }
        Unit::Count if !(1..=MAX_TASKS).contains(&number) => {
            refuse("a number of tasks is from 1 to 4194304.")
        }
        Unit::Span if number == 0 => refuse("a time of zero would end the runner at once."),
        Unit::Span if key == "stop-timeout" && number > MAX_STOP_TIMEOUT => {
            refuse("at most 1h is allowed.")
        }
        _ => Ok(number),
    }
}

/// A value with its unit, for people.
pub fn shown(key: &str, value: u64) -> String {
    if value == INFINITY {
        return "infinity".to_owned();
    }
    match KEYS.iter().find(|(k, _)| *k == key).map(|(_, unit)| unit) {
        Some(Unit::Bytes) => units::show_size(value),
        Some(Unit::Span) => units::show_span(value),
        Some(Unit::CpuQuota) => units::show_cpu_quota(value),
        _ => value.to_string(),
    }
}

fn named(key: &str, error: Error) -> Error {
    Error::new(error.kind, format!("{key}: {}", error.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_of_zero_and_absurd_numbers_are_refused() {
        for (key, text) in [
            ("memory-max", "0"),
            ("memory-max", "1023K"),
            ("tasks-max", "0"),
            ("tasks-max", "5000000"),
            ("cpu-quota", "0%"),
            ("cpu-weight", "0"),
            ("cpu-weight", "10001"),
            ("io-weight", "-1"),
            ("runtime-max", "0"),
            ("stop-timeout", "infinity"),
            ("stop-timeout", "2h"),
            ("oom-policy", "panic"),
            ("kill-signal", "0"),
            ("memory_max", "1G"),
            ("nonsense", "1"),
        ] {
            let result = Limits::default().set(key, Value::Text(text));
            assert!(result.is_err(), "{key}={text}");
        }
    }

    #[test]
    fn refusals_show_what_was_given_in_its_unit() {
        let refused = |key: &str, value: Value<'_>| {
            let refused = Limits::default().set(key, value);
            refused.unwrap_err().message
        };
        for (key, value, said) in [
            (
                "stop-timeout",
                Value::Text("99days"),
                "stop-timeout=99days: at most 1h",
            ),
            (
                "stop-timeout",
                Value::Text("infinity"),
                "stop-timeout=infinity: ",
            ),
            (
                "stop-timeout",
                Value::Number(INFINITY),
                "stop-timeout=infinity: ",
            ),
            (
                "stop-timeout",
                Value::Number(7_200_000_000),
                "stop-timeout=2h: ",
            ),
            (
                "cpu-quota",
                Value::Number(200),
                "cpu-quota=0.02%: less than 1%",
            ),
            (
                "kill-signal",
                Value::Text("x"),
                "kill-signal: “x” is not a signal",
            ),
            ("oom-policy", Value::Text("x"), "oom-policy: “x” is not"),
            ("oom-policy", Value::Number(1), "oom-policy: it is a word"),
        ] {
            let refused = refused(key, value);
            assert!(refused.starts_with(said), "{refused}");
        }
        let percent = |text| refused("cpu-quota", Value::Text(text)).contains("did you mean 200%?");
        assert!(percent("200") && !percent("0.02%"));
        assert!(!refused("stop-timeout", Value::Text("10X")).contains("infinity"));
    }

    #[test]
    fn numbers_and_text_mean_the_same() {
        let (mut a, mut b) = (Limits::default(), Limits::default());
        for (key, text, number) in [
            ("memory-max", "1G", 1 << 30),
            ("memory-swap-max", "0", 0),
            ("cpu-quota", "150%", 1_500_000),
            ("tasks-max", "infinity", INFINITY),
            ("runtime-max", "1h", 3_600_000_000),
            ("kill-signal", "SIGINT", 2),
        ] {
            assert_eq!(a.set(key, Value::Text(text)), Ok(()), "{key}");
            assert_eq!(b.set(key, Value::Number(number)), Ok(()), "{key}");
        }
        assert_eq!(a, b);
    }

    proptest! {
        #[test]
        fn setting_never_panics(key in "[a-z-]{0,16}|memory-max|tasks-max|stop-timeout|kill-signal", text in "\\PC{0,20}", n: u64) {
            let _ = Limits::default().set(&key, Value::Text(&text));
            let _ = Limits::default().set(&key, Value::Number(n));
        }

        #[test]
        fn every_key_has_a_slot(n in 1_048_576u64..4_194_304) {
            for (key, unit) in KEYS {
                let n = if unit == Unit::Weight { n % 10_000 + 1 } else { n };
                let mut limits = Limits::default();
                prop_assert_eq!(limits.set(key, Value::Number(n)), Ok(()));
                prop_assert_eq!(limits.number(key), Some(n));
            }
        }
    }
}
