//! The keys: what each means, how it is read and shown, and whether a reload takes it over.

use super::{Config, address};
use crate::domain::limits::{self, Unit, Value};
use crate::domain::units;
use crate::wire::Unenforced;
use std::time::Duration;
use toml::de::DeValue;

/// The shortest `store.retention`, in µs.
const RETENTION_MIN: u64 = 3_600_000_000;

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it means, for `--print-config` and the manual.
    pub about: &'static str,
    /// Whether a reload takes a change over; else it needs a restart.
    pub reload: bool,
    /// Reads a value into the configuration.
    pub(super) read: fn(&mut Config, &str, &DeValue<'_>) -> Result<(), String>,
    /// The value as it would be written.
    pub(super) show: fn(&Config, &str) -> String,
}

/// All keys, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    Key {
        name: "store.url",
        about: "Where the store is: sqlite:///absolute/path",
        reload: false,
        read: |config, _, value| {
            let url = text(value)?;
            let path = url.strip_prefix("sqlite://").ok_or_else(|| {
                format!("“{url}” is no store this release knows; give sqlite:///absolute/path")
            })?;
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(format!("“{url}” names no absolute path of a file"));
            }
            config.store_path = path.into();
            Ok(())
        },
        show: |config, _| quoted(&format!("sqlite://{}", config.store_path.display())),
    },
    Key {
        name: "store.max_connections",
        about: "Connections for reading, 1 to 64",
        reload: false,
        read: |config, _, value| {
            config.max_connections = number(value, 1, 64)?;
            Ok(())
        },
        show: |config, _| config.max_connections.to_string(),
    },
    Key {
        name: "store.retention",
        about: "How long ended runners, request ids and events are kept",
        reload: true,
        read: |config, _, value| {
            let usec = units::parse_span(text(value)?).map_err(|e| e.message)?;
            if usec < RETENTION_MIN {
                return Err(
                    "less than 1h would remove what has just ended; \"infinity\" keeps all"
                        .to_owned(),
                );
            }
            config.retention = match usec {
                units::INFINITY => Duration::MAX,
                _ => Duration::from_micros(usec),
            };
            Ok(())
        },
        show: |config, _| {
            let usec = u64::try_from(config.retention.as_micros()).unwrap_or(units::INFINITY);
            match usec {
                units::INFINITY => quoted("infinity"),
                _ => written(Unit::Span, usec),
            }
        },
    },
    Key {
        name: "host.name",
        about: "This host's name in lists and events; \"\" = the host name",
        reload: false,
        read: |config, _, value| {
            let name = text(value)?;
            if !name.is_empty() {
                crate::domain::name::check_runner_name(name)
                    .map_err(|e| e.message.replace("runner name", "host name"))?;
            }
            config.host_name = name.to_owned();
            Ok(())
        },
        show: |config, _| quoted(&config.host_name),
    },
    Key {
        name: "host.max_runners",
        about: "Most live runners on this host; 0 = no cap",
        reload: true,
        read: |config, _, value| {
            let most = number(value, 0, 1_000_000)?;
            config.host_max_runners = (most > 0).then_some(most);
            Ok(())
        },
        show: |config, _| config.host_max_runners.unwrap_or(0).to_string(),
    },
    limit(
        "limits.memory_max",
        "Bytes of memory a runner may never exceed",
    ),
    limit(
        "limits.memory_high",
        "Bytes of memory above which a runner is slowed down",
    ),
    limit("limits.memory_swap_max", "Bytes of swap"),
    limit("limits.cpu_quota", "CPU time: a percentage of one CPU"),
    limit("limits.cpu_weight", "Share of the CPU, 1 to 10000"),
    limit("limits.io_weight", "Share of the disks, 1 to 10000"),
    limit("limits.tasks_max", "Processes and threads"),
    limit("limits.runtime_max", "Time from start to stop"),
    limit(
        "limits.stop_timeout",
        "Time from the stop signal to SIGKILL; 10s where nobody says one",
    ),
    limit(
        "limits.oom_policy",
        "What an OOM kill does to the rest of a runner: continue (where nobody says one), stop or kill",
    ),
    limit(
        "limits.kill_signal",
        "The stop signal; SIGTERM where nobody says one",
    ),
    Key {
        name: "limits.unenforced",
        about: "What a limit gets whose controller this host lacks: refuse or warn",
        reload: true,
        read: |config, _, value| {
            config.unenforced = match text(value)? {
                "refuse" => Unenforced::Refuse,
                "warn" => Unenforced::Warn,
                other => return Err(format!("“{other}” is neither refuse nor warn")),
            };
            Ok(())
        },
        show: |config, _| {
            quoted(match config.unenforced {
                Unenforced::Refuse => "refuse",
                Unenforced::Warn => "warn",
            })
        },
    },
    Key {
        name: "metrics.listen",
        about: "Where /metrics, /healthz, /readyz and /sd are served: ADDRESS:PORT; \"\" = nowhere, as with --user. Of a scraper elsewhere stratavored.service also wants IPAddressAllow= in a drop-in",
        reload: false,
        read: |config, _, value| {
            let address = text(value)?;
            config.metrics_listen = match address {
                "" => None,
                _ => Some(address.parse().map_err(|_| {
                    format!("“{address}” is not ADDRESS:PORT, such as 127.0.0.1:9791 or [::1]:9791")
                })?),
            };
            Ok(())
        },
        show: |config, _| {
            quoted(
                &config
                    .metrics_listen
                    .map_or(String::new(), |a| a.to_string()),
            )
        },
    },
    Key {
        name: "metrics.advertise",
        about: "Where Prometheus reaches this host, for /sd: HOST or HOST:PORT; \"\" = where it listens",
        reload: false,
        read: |config, _, value| {
            let given = text(value)?;
            address::check(given)?;
            config.metrics_advertise = given.to_owned();
            Ok(())
        },
        show: |config, _| quoted(&config.metrics_advertise),
    },
];

/// A default limit: the same keys as in a launch, with `_`.
const fn limit(name: &'static str, about: &'static str) -> Key {
    Key {
        name,
        about,
        reload: true,
        read: |config, key, value| {
            let key = key.trim_start_matches("limits.").replace('_', "-");
            let value = match value {
                DeValue::String(text) => Value::Text(text),
                DeValue::Integer(_) => Value::Number(integer(value)?),
                _ => return Err("give a number or a text in systemd's notation".to_owned()),
            };
            config.limits.set(&key, value).map_err(|e| e.message)
        },
        show: |config, key| {
            let key = key.trim_start_matches("limits.").replace('_', "-");
            let limits = &config.limits;
            match key.as_str() {
                "oom-policy" => quoted(limits.oom_policy.map_or("", limits::OomPolicy::as_str)),
                "kill-signal" => quoted(
                    &limits
                        .kill_signal
                        .map_or(String::new(), crate::domain::signal::name),
                ),
                _ => match limits.number(&key) {
                    None => quoted(""),
                    Some(units::INFINITY) => quoted("infinity"),
                    Some(number) => {
                        let unit = limits::KEYS.iter().find(|(k, _)| *k == key);
                        written(unit.map_or(Unit::Count, |(_, unit)| *unit), number)
                    }
                },
            }
        },
    }
}

/// A number as people write it, in the largest unit that is exact: `"4G"`, `"90d"`, `"200%"`.
fn written(unit: Unit, number: u64) -> String {
    let second = 1_000_000;
    let names: &[(&str, u64)] = match unit {
        Unit::Bytes => &[
            ("T", 1 << 40),
            ("G", 1 << 30),
            ("M", 1 << 20),
            ("K", 1 << 10),
        ],
        Unit::CpuQuota => &[("%", 10_000)],
        Unit::Span => &[
            ("d", 86_400 * second),
            ("h", 3_600 * second),
            ("min", 60 * second),
            ("s", second),
            ("ms", 1_000),
            ("us", 1),
        ],
        Unit::Weight | Unit::Count => &[],
    };
    match names
        .iter()
        .find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor))
    {
        Some((name, factor)) => quoted(&format!("{}{name}", number / factor)),
        None => number.to_string(),
    }
}

fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    match value {
        DeValue::String(text) => Ok(text),
        _ => Err("give a text in quotes".to_owned()),
    }
}

fn integer(value: &DeValue<'_>) -> Result<u64, String> {
    match value {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| "give a whole number that is not negative".to_owned()),
        _ => Err("give a whole number".to_owned()),
    }
}

fn number(value: &DeValue<'_>, least: u32, most: u32) -> Result<u32, String> {
    let number = integer(value)?;
    u32::try_from(number)
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| format!("{number} is not from {least} to {most}"))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
