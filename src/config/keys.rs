//! The keys: what each means, how it is read and shown, and whether a reload takes it over.

use super::values::{cap, integer, number};
use super::{Config, address, events};
use crate::domain::limits::{self, Unit, Value};
use crate::domain::units;
use crate::wire::Unenforced;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::de::DeValue;

/// In µs.
const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;

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
        about: "Where the store is: sqlite:///absolute/path, of this host alone; or postgres://[USER@]HOST[:PORT],…/DATABASE[?sslmode=MODE], the fleet's. Of several hosts the first that takes writes is used. The user is stratavore if none is given, sslmode one of libpq's: verify-full, and prefer where all hosts are this machine. A socket is given by its folder, with %2F for “/”. The password is the credential store-password, never in this file",
        reload: false,
        read: |config, _, value| {
            config.store = text(value)?.parse()?;
            Ok(())
        },
        show: |config, _| quoted(&config.store.to_string()),
    },
    Key {
        name: "store.max_connections",
        about: "Connections to the store, 1 to 64: with postgres at most so many in all, one of them for writing, and so at least 2; with sqlite those for reading",
        reload: false,
        read: |config, _, value| {
            config.max_connections = number(value, 1, 64)?;
            Ok(())
        },
        show: |config, _| config.max_connections.to_string(),
    },
    Key {
        name: "store.idle_timeout",
        about: "After how long without use a connection for reading from Postgres is closed, \"infinity\" = never",
        reload: false,
        read: |config, _, value| {
            config.idle_timeout = span(value, SECOND, units::INFINITY)?;
            Ok(())
        },
        show: |config, _| span_written(config.idle_timeout),
    },
    Key {
        name: "store.max_lifetime",
        about: "After how long a connection for reading from Postgres is replaced, \"infinity\" = never",
        reload: false,
        read: |config, _, value| {
            config.max_lifetime = span(value, 10 * SECOND, units::INFINITY)?;
            Ok(())
        },
        show: |config, _| span_written(config.max_lifetime),
    },
    Key {
        name: "store.retention",
        about: "How long ended runners, request ids and events are kept",
        reload: true,
        read: |config, _, value| {
            // What is no span at all is not too short.
            span(value, 0, units::INFINITY)?;
            config.retention = span(value, 3_600 * SECOND, units::INFINITY).map_err(|why| {
                format!("{why}: less would remove what has just ended; \"infinity\" keeps all")
            })?;
            Ok(())
        },
        show: |config, _| span_written(config.retention),
    },
    Key {
        name: "events.amqp_urls",
        about: "The RabbitMQ that events are published to: [\"amqp://[USER@]HOST[:PORT][/VIRTUAL-HOST]\", …], several are tried in turn; amqps:// for TLS, with ?auth_mechanism=external where our certificate says who we are. [] = nowhere. The user is stratavore if none is given. The password is the credential amqp-password, never in this file. Of a broker elsewhere stratavored.service also wants IPAddressAllow= in a drop-in",
        reload: false,
        read: |config, _, value| {
            config.events.urls = events::urls(value)?;
            Ok(())
        },
        show: |config, _| {
            let urls = config.events.urls.iter();
            let urls = urls.map(|url| toml::Value::from(url.to_string()));
            toml::Value::Array(urls.collect()).to_string()
        },
    },
    Key {
        name: "events.exchange",
        about: "The exchange they go to: a durable topic exchange, made where it is not there",
        reload: false,
        read: |config, _, value| {
            let name = text(value)?;
            events::check_exchange(name)?;
            config.events.exchange = name.to_owned();
            Ok(())
        },
        show: |config, _| quoted(&config.events.exchange),
    },
    Key {
        name: "events.unroutable",
        about: "What becomes of events that nobody has bound a queue for: park = they are kept, with the later ones of their subjects, until stratavorectl outbox retry; accept = they count as published",
        reload: false,
        read: |config, _, value| {
            config.events.unroutable = text(value)?.parse()?;
            Ok(())
        },
        show: |config, _| quoted(config.events.unroutable.as_str()),
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
        about: "Most live runners on this host; 0 or \"infinity\" = no cap",
        reload: true,
        read: |config, _, value| {
            config.host_max_runners = cap(value, 1_000_000)?;
            Ok(())
        },
        show: |config, _| config.host_max_runners.unwrap_or(0).to_string(),
    },
    Key {
        name: "host.labels",
        about: "What this host is chosen by with --on auto, such as { gpu = \"a100\", zone = \"b\" }",
        reload: false,
        read: |config, _, value| {
            let DeValue::Table(table) = value else {
                return Err("give a table of texts, such as { zone = \"b\" }".to_owned());
            };
            let mut labels = BTreeMap::new();
            for (key, value) in table {
                let value = text(value.get_ref()).map_err(|e| format!("{}: {e}", key.get_ref()))?;
                labels.insert(key.get_ref().to_string(), value.to_owned());
            }
            crate::domain::spec::check_labels(&labels)
                .map_err(|e| e.message.replace("The runner has", "A host has"))?;
            config.host_labels = labels;
            Ok(())
        },
        show: |config, _| {
            let labels = config.host_labels.iter();
            let labels =
                labels.map(|(key, value)| (key.clone(), toml::Value::from(value.as_str())));
            toml::Value::Table(labels.collect()).to_string()
        },
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
        about: "What a limit gets whose controller this host lacks: refuse, or warn (it is taken, and stratavorectl and show tell that it is not held)",
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
        name: "fleet.name",
        about: "What this fleet is called; the same on all its hosts",
        reload: false,
        read: |config, _, value| {
            let name = text(value)?;
            crate::domain::name::check_runner_name(name)
                .map_err(|e| e.message.replace("runner name", "name of a fleet"))?;
            config.fleet.name = name.to_owned();
            Ok(())
        },
        show: |config, _| quoted(&config.fleet.name),
    },
    Key {
        name: "fleet.lease_renew",
        about: "How often this host tells the fleet's store that it is there",
        reload: false,
        read: |config, _, value| {
            config.fleet.lease_renew = span(value, SECOND, 3_600 * SECOND)?;
            Ok(())
        },
        show: |config, _| span_written(config.fleet.lease_renew),
    },
    Key {
        name: "fleet.lease_ttl",
        about: "How long after that it counts as there; at least three times lease_renew. Then it is unreachable, and its runners keep their slots",
        reload: false,
        read: |config, _, value| {
            config.fleet.lease_ttl = span(value, 3 * SECOND, DAY)?;
            Ok(())
        },
        show: |config, _| span_written(config.fleet.lease_ttl),
    },
    Key {
        name: "fleet.lost_after",
        about: "After how long without a word it is lost; longer than lease_ttl. Its slots are free then if stop_on_disconnect_after had been set, else when it comes back, has booted anew, or is forgotten (stratavorectl host forget)",
        reload: false,
        read: |config, _, value| {
            config.fleet.lost_after = span(value, 4 * SECOND, 30 * DAY)?;
            Ok(())
        },
        show: |config, _| span_written(config.fleet.lost_after),
    },
    Key {
        name: "fleet.stop_on_disconnect_after",
        about: "After how long without the fleet's store this host's runners are stopped, daemon or not, so that their slots can be given to others, and stratavore-agent's absence counts as the store's: at least lease_ttl, better a minute or more, and shorter than lost_after by the stop timeout and a margin; not with --user. \"\" = running work is never stopped because the store is away",
        reload: false,
        read: |config, _, value| {
            config.fleet.stop_on_disconnect_after = match text(value)? {
                "" => None,
                _ => Some(span(value, SECOND, 30 * DAY)?),
            };
            Ok(())
        },
        show: |config, _| {
            let after = config.fleet.stop_on_disconnect_after;
            after.map_or_else(|| quoted(""), span_written)
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
        about: "Where Prometheus reaches this host, for /sd: HOST or HOST:PORT; \"\" = where it listens. /sd of other hosts of the fleet lists this one unless that is an address of the machine itself, such as 127.0.0.1",
        reload: false,
        read: |config, _, value| {
            let given = text(value)?;
            address::check(given)?;
            config.metrics_advertise = given.to_owned();
            Ok(())
        },
        show: |config, _| quoted(&config.metrics_advertise),
    },
    Key {
        name: "audit.key_credential",
        about: "The credential with the key of this host's audit; one that it has replaced is this name with -previous. Without the credential no audit is kept",
        reload: false,
        read: |config, _, value| {
            let name = text(value)?;
            super::credentials::check_name(name)?;
            config.audit_key = name.to_owned();
            Ok(())
        },
        show: |config, _| quoted(&config.audit_key),
    },
    Key {
        name: super::notify::RULES,
        about: "Who is told of what: each rule in a section [notify.rules.NAME] of its own, see stratavored.toml(5)",
        reload: false,
        // Read by itself, as it tells where in it something is wrong.
        read: |_, _, _| Ok(()),
        show: |config, _| super::notify::show(&config.notify),
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

pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    match value {
        DeValue::String(text) => Ok(text),
        _ => Err("give a text in quotes".to_owned()),
    }
}

/// A time from `least` to `most` µs; infinity is [`Duration::MAX`].
pub(super) fn span(value: &DeValue<'_>, least: u64, most: u64) -> Result<Duration, String> {
    let usec = units::parse_span_up_to(text(value)?, most).map_err(|e| e.message)?;
    match usec {
        _ if !(least..=most).contains(&usec) => {
            let (least, most) = (units::show_span(least), units::show_span(most));
            Err(format!(
                "{} is not from {least} to {most}",
                units::show_span(usec)
            ))
        }
        units::INFINITY => Ok(Duration::MAX),
        _ => Ok(Duration::from_micros(usec)),
    }
}

fn span_written(span: Duration) -> String {
    match u64::try_from(span.as_micros()) {
        Ok(usec) => written(Unit::Span, usec),
        Err(_) => quoted("infinity"),
    }
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
