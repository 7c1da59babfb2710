//! The configuration: `stratavored.toml`, then `stratavored.toml.d/*.toml` by name.
//!
//! Every key stands once in [`KEYS`], with its meaning, how it is read and how it is shown.
//! A key that is not there is an error, with file and line.

use crate::domain::limits::{self, Limits, Value};
use crate::domain::units;
use crate::places::Places;
use crate::wire::Unenforced;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

pub mod address;

/// The shortest `store.retention`, in µs.
const RETENTION_MIN: u64 = 3_600_000_000;

/// The port of the metrics.
pub const METRICS_PORT: u16 = 9791;
/// Where metrics are served if nothing is said; of a user's own instance nowhere.
const METRICS_LOCAL: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    METRICS_PORT,
);

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `store.url`, taken apart: the database file.
    pub store_path: PathBuf,
    /// `store.max_connections`.
    pub max_connections: u32,
    /// `store.retention`.
    pub retention: Duration,
    /// `host.name`; empty = the host name.
    pub host_name: String,
    /// `host.max_runners`; `None` = no cap.
    pub host_max_runners: Option<u32>,
    /// `limits.*`.
    pub limits: Limits,
    /// `limits.unenforced`.
    pub unenforced: Unenforced,
    /// `metrics.listen`; `None` = off.
    pub metrics_listen: Option<SocketAddr>,
    /// `metrics.advertise`; empty = where we listen.
    pub metrics_advertise: String,
    /// Where a value that is not the default came from, by key.
    origins: BTreeMap<String, String>,
}

impl Config {
    /// The defaults.
    pub fn new(places: &Places) -> Self {
        Self {
            store_path: places.state.join("stratavore.db"),
            max_connections: 4,
            retention: Duration::from_secs(90 * 86_400),
            host_name: String::new(),
            host_max_runners: None,
            limits: Limits::default(),
            unenforced: Unenforced::Refuse,
            metrics_listen: (*places == Places::system()).then_some(METRICS_LOCAL),
            metrics_advertise: String::new(),
            origins: BTreeMap::new(),
        }
    }
}

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it means, for `--print-config` and the manual.
    pub about: &'static str,
    read: fn(&mut Config, &str, &DeValue<'_>) -> Result<(), String>,
    show: fn(&Config, &str) -> String,
}

/// All keys, in the order in which they are shown.
pub const KEYS: [Key; 19] = [
    Key {
        name: "store.url",
        about: "Where the store is: sqlite:///absolute/path",
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
        read: |config, _, value| {
            config.max_connections = number(value, 1, 64)?;
            Ok(())
        },
        show: |config, _| config.max_connections.to_string(),
    },
    Key {
        name: "store.retention",
        about: "How long ended runners, request ids and events are kept",
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
                _ => quoted(&format!("{}s", usec / 1_000_000)),
            }
        },
    },
    Key {
        name: "host.name",
        about: "This host's name in lists and events; \"\" = the host name",
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
        "Time from the stop signal to SIGKILL",
    ),
    limit("limits.oom_policy", "continue, stop or kill"),
    limit("limits.kill_signal", "The stop signal"),
    Key {
        name: "limits.unenforced",
        about: "What a limit gets whose controller this host lacks: refuse or warn",
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
                    Some(number) if matches!(key.as_str(), "runtime-max" | "stop-timeout") => {
                        quoted(&format!("{number}us"))
                    }
                    Some(number) => number.to_string(),
                },
            }
        },
    }
}

/// Where a configuration is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// The configuration of this instance: `file`, else the usual one if it is there; and its
    /// drop-ins.
    pub fn load(places: &Places, file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut config = Self::new(places);
        let usual = places.config.join("stratavored.toml");
        // Only the usual file may be absent: one that was named is meant to be there.
        if file.is_some() || usual.exists() {
            config.read(file.unwrap_or(&usual))?;
        }
        let file = file.unwrap_or(&usual);
        let mut folder = file.as_os_str().to_owned();
        folder.push(".d");
        for drop_in in drop_ins(Path::new(&folder))? {
            config.read(&drop_in)?;
        }
        Ok(config)
    }

    /// Reads one file over what is there.
    pub fn read(&mut self, file: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError {
            file: file.to_owned(),
            line: None,
            message: error.to_string(),
        })?;
        self.parse(file, &text)
    }

    fn parse(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let line = |at: usize| Some(text[..at.min(text.len())].matches('\n').count() + 1);
        let error = |at: usize, message: String| ConfigError {
            file: file.to_owned(),
            line: line(at),
            message,
        };
        let table = DeTable::parse(text)
            .map_err(|e| error(e.span().map_or(0, |s| s.start), e.message().to_owned()))?;
        for (section, content) in table.get_ref() {
            let DeValue::Table(keys) = content.get_ref() else {
                let message = format!(
                    "“{}” stands outside of a section; there are {}.",
                    section.get_ref(),
                    sections()
                );
                return Err(error(section.span().start, message));
            };
            for (key, value) in keys {
                let name = format!("{}.{}", section.get_ref(), key.get_ref());
                let at = key.span().start;
                let Some(known) = KEYS.iter().find(|k| k.name == name) else {
                    return Err(error(
                        at,
                        format!(
                            "unknown key {name}; see stratavored --print-config for those there are."
                        ),
                    ));
                };
                (known.read)(self, &name, value.get_ref())
                    .map_err(|why| error(at, format!("{name}: {why}")))?;
                let origin = format!("{}:{}", file.display(), line(at).unwrap_or(0));
                self.origins.insert(name, origin);
            }
        }
        Ok(())
    }

    /// Every value with where it came from, as a TOML file.
    pub fn print(&self) -> String {
        let mut out = String::new();
        let mut last = "";
        for key in KEYS {
            let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if section != last {
                if !last.is_empty() {
                    out.push('\n');
                }
                out.push_str(&format!("[{section}]\n"));
                last = section;
            }
            let value = (key.show)(self, key.name);
            let origin = self.origins.get(key.name).map_or("default", String::as_str);
            // An unset limit has no value that could be written.
            let mark = if value == "\"\"" && section == "limits" {
                "# "
            } else {
                ""
            };
            out.push_str(&format!(
                "# {} ({origin})\n{mark}{name} = {value}\n",
                key.about
            ));
        }
        out
    }
}

fn sections() -> String {
    let mut names: Vec<_> = KEYS
        .iter()
        .filter_map(|k| k.name.split_once('.'))
        .map(|(s, _)| format!("[{s}]"))
        .collect();
    names.dedup();
    names.join(", ")
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |error: std::io::Error| ConfigError {
        file: folder.to_owned(),
        line: None,
        message: error.to_string(),
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Config, String> {
        let mut config = Config::new(&Places::system());
        config
            .parse(Path::new("f.toml"), text)
            .map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn what_is_printed_reads_back() -> Result<(), String> {
        let text = "[store]\nurl = \"sqlite:///x/y.db\"\nretention = \"2w\"\n[limits]\nmemory_max = \"1.5G\"\nruntime_max = \"1h 2s\"\nkill_signal = \"INT\"\noom_policy = 'kill'\nunenforced = \"warn\"\n[metrics]\nlisten = \"[::1]:80\"\nadvertise = \"a.b:1\"\n[host]\nmax_runners = 7\n";
        let config = parse(text)?;
        let mut again = parse(&config.print())?;
        again.origins.clone_from(&config.origins);
        assert_eq!(again, config);
        assert!(config.print().contains("(f.toml:2)"), "{}", config.print());
        Ok(())
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, part) in [
            ("[store]\n\nurll = 1", "f.toml:3: unknown key store.urll"),
            (
                "[limits]\nmemory_max = 0",
                "f.toml:2: limits.memory_max: memory-max=0",
            ),
            (
                "[limits]\nmemory_max = -5",
                "f.toml:2: limits.memory_max: give a whole number",
            ),
            ("x = 1", "f.toml:1: “x” stands outside"),
            ("[fleet]\nname = 'x'", "f.toml:2: unknown key fleet.name"),
            ("[store]\nurl = 'postgres://x'", "f.toml:2: store.url"),
            ("[store\n", "f.toml:1"),
            ("[metrics]\nlisten = '9791'", "f.toml:2: metrics.listen"),
            (
                "[metrics]\nadvertise = 'a:b'",
                "f.toml:2: metrics.advertise",
            ),
            (
                "[metrics]\nadvertise = '::1'",
                "f.toml:2: metrics.advertise",
            ),
            ("[metrics]\nadvertise = ':1'", "f.toml:2: metrics.advertise"),
            (
                "[host]\nmax_runners = 1.5",
                "f.toml:2: host.max_runners: give a whole number",
            ),
        ] {
            let result = parse(text);
            assert!(
                matches!(&result, Err(message) if message.contains(part)),
                "{text}: {result:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_the_parser_panic(text in "\\PC{0,80}|\\[(store|limits|host)\\]\n[a-z_]{1,12} = (\"\\PC{0,10}\"|[0-9.-]{1,9})\n") {
            let _ = parse(&text);
        }
    }
}
