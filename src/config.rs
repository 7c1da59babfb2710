//! The configuration: `stratavored.toml`, then `stratavored.toml.d/*.toml` by name.
//!
//! Every key stands once in [`KEYS`], with its meaning, how it is read and how it is shown.
//! A key that is not there is an error, with file and line. Later files win, key by key.
//!
//! | file | what |
//! |---|---|
//! | `keys` | the keys |
//! | `store` | `store.url` |
//! | `notify` | `[notify.rules.NAME]` |
//! | `events` | `events.amqp_urls` |
//! | `credentials` | secrets, which are in no file of ours |
//! | `reload` | what a configuration read again changes |
//! | `together` | values that are right by themselves and wrong together |

pub mod address;
mod credentials;
mod events;
mod faults;
mod keys;
mod notify;
mod reload;
mod store;
mod together;
mod values;

pub use credentials::{AuditKeys, CREDENTIALS, Credentials, NOTIFY_CREDENTIALS, NotifyCredentials};
pub use events::{AmqpUrl, Events, Unroutable};
pub use keys::{KEYS, Key};
pub use notify::{Notify, RULE_KEYS, RuleKey};
pub use reload::{Change, compare};
pub use store::{PostgresHost, PostgresUrl, SslMode, StoreUrl};

use crate::domain::Error;
use crate::domain::fence::Fence;
use crate::domain::limits::Limits;
use crate::domain::nearest::nearest;
use crate::places::Places;
use crate::wire::Unenforced;
use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

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
    /// `store.url`.
    pub store: StoreUrl,
    /// `store.max_connections`.
    pub max_connections: u32,
    /// `store.idle_timeout`; `Duration::MAX` = none.
    pub idle_timeout: Duration,
    /// `store.max_lifetime`; `Duration::MAX` = none.
    pub max_lifetime: Duration,
    /// `store.retention`.
    pub retention: Duration,
    /// `events.*`.
    pub events: Events,
    /// `host.name`; empty = the host name.
    pub host_name: String,
    /// `host.max_runners`; `None` = no cap.
    pub host_max_runners: Option<u32>,
    /// `host.labels`.
    pub host_labels: BTreeMap<String, String>,
    /// `fleet.*`.
    pub fleet: Fleet,
    /// `limits.*`.
    pub limits: Limits,
    /// `limits.unenforced`.
    pub unenforced: Unenforced,
    /// `metrics.listen`; `None` = off.
    pub metrics_listen: Option<SocketAddr>,
    /// `metrics.advertise`; empty = where we listen.
    pub metrics_advertise: String,
    /// `audit.key_credential`.
    pub audit_key: String,
    /// `notify.rules`, by name.
    pub notify: BTreeMap<String, Notify>,
    /// Where a value that is not the default came from, by key.
    origins: BTreeMap<String, String>,
}

/// How this host and its fleet know of each other. Nothing of it matters to an embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// `fleet.name`.
    pub name: String,
    /// `fleet.lease_renew`.
    pub lease_renew: Duration,
    /// `fleet.lease_ttl`.
    pub lease_ttl: Duration,
    /// `fleet.lost_after`.
    pub lost_after: Duration,
    /// `fleet.stop_on_disconnect_after`; `None` = never.
    pub stop_on_disconnect_after: Option<Duration>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            lease_renew: Duration::from_secs(10),
            lease_ttl: Duration::from_secs(60),
            lost_after: Duration::from_secs(600),
            stop_on_disconnect_after: None,
        }
    }
}

impl Config {
    /// The defaults.
    pub fn new(places: &Places) -> Self {
        Self {
            store: StoreUrl::Sqlite(places.state.join("stratavore.db")),
            max_connections: 4,
            idle_timeout: Duration::from_secs(300),
            max_lifetime: Duration::from_secs(1_800),
            retention: Duration::from_secs(90 * 86_400),
            events: Events::default(),
            host_name: String::new(),
            host_max_runners: None,
            host_labels: BTreeMap::new(),
            fleet: Fleet::default(),
            limits: Limits::default(),
            unenforced: Unenforced::Refuse,
            metrics_listen: (*places == Places::system()).then_some(METRICS_LOCAL),
            metrics_advertise: String::new(),
            audit_key: credentials::AUDIT_KEY.to_owned(),
            notify: BTreeMap::new(),
            origins: BTreeMap::new(),
        }
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
        let absent =
            std::fs::symlink_metadata(&usual).is_err_and(|e| e.kind() == ErrorKind::NotFound);
        if file.is_some() || !absent {
            config.read(file.unwrap_or(&usual))?;
        }
        let file = file.unwrap_or(&usual);
        let mut folder = file.as_os_str().to_owned();
        folder.push(".d");
        for drop_in in drop_ins(Path::new(&folder))? {
            config.read(&drop_in)?;
        }
        config.check(file)?;
        Ok(config)
    }

    /// What this file alone makes of the defaults.
    pub fn load_alone(places: &Places, file: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::new(places);
        config.read(file)?;
        config.check(file)?;
        Ok(config)
    }

    /// The self-fence, if runners are to stop by themselves; an error if they could not in time.
    pub fn fence(&self) -> Result<Option<Fence>, Error> {
        let usec = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let fleet = &self.fleet;
        let fence = fleet.stop_on_disconnect_after.map(|after| {
            let (lost, ttl) = (usec(fleet.lost_after), usec(fleet.lease_ttl));
            Fence::new(usec(after), lost, ttl, self.limits.stop_timeout_usec())
        });
        fence.transpose()
    }

    /// What is right, and seldom what somebody wants.
    pub fn doubts(&self) -> Vec<String> {
        let fence = self.fence().ok().flatten();
        let hasty = fence.and_then(|fence| fence.doubt());
        hasty.into_iter().chain(self.events.doubt()).collect()
    }

    /// Reads one file over what is there.
    fn read(&mut self, file: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError {
            file: file.to_owned(),
            line: None,
            message: faults::unreadable(&error),
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
        let table = DeTable::parse(text).map_err(|e| {
            let (at, message) = faults::of_text(text, &e);
            error(at, message)
        })?;
        for (section, content) in table.get_ref() {
            let DeValue::Table(keys) = content.get_ref() else {
                let message = stray(section.get_ref());
                return Err(error(section.span().start, message));
            };
            let known = |k: &Key| {
                k.name
                    .split_once('.')
                    .is_some_and(|(s, _)| s == section.get_ref())
            };
            if keys.is_empty() && !KEYS.iter().any(known) {
                let name = crate::domain::name::shown(section.get_ref());
                let message = format!("there is no section [{name}]; there are {}.", sections());
                return Err(error(section.span().start, message));
            }
            for (key, value) in keys {
                let name = format!("{}.{}", section.get_ref(), key.get_ref());
                let at = key.span().start;
                let Some(known) = KEYS.iter().find(|k| k.name == name) else {
                    return Err(error(at, unknown(&name)));
                };
                let origin = format!("{}:{}", file.display(), line(at).unwrap_or(0));
                if name == notify::RULES {
                    let rules = notify::read(self, at, value.get_ref())
                        .map_err(|(at, why)| error(at, format!("{name}: {why}")))?;
                    let rules = rules.into_iter().map(|rule| format!("{name}.{rule}"));
                    self.origins
                        .extend(rules.map(|rule| (rule, origin.clone())));
                }
                (known.read)(self, &name, value.get_ref())
                    .map_err(|why| error(at, format!("{name}: {why}")))?;
                self.origins.insert(name, origin);
            }
        }
        Ok(())
    }

    /// Every value with where it came from, and whether a reload takes a change over, as a TOML
    /// file.
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
            let taken = match key.reload {
                true => "Taken over by a reload",
                false => "Needs a restart",
            };
            out.push_str(&format!(
                "# {}. {taken} ({origin})\n{mark}{name} = {value}\n",
                key.about
            ));
            if key.name == "store.url" {
                out.push_str(&credentials::print());
            }
            if key.name == notify::RULES {
                out.push_str(&credentials::print_notify(self.notify.keys()));
            }
        }
        out
    }
}

/// What to say about a key that is not there.
fn unknown(name: &str) -> String {
    let (section, key) = name.split_once('.').unwrap_or(("", name));
    let in_section = KEYS.iter().filter_map(|k| k.name.split_once('.'));
    // The right key in the wrong section, a misspelt key, a misspelt section.
    let ending = format!(".{}", key.replace('-', "_"));
    let same = KEYS.iter().find(|k| k.name.ends_with(&ending));
    let near = nearest(
        key,
        in_section.filter(|(s, _)| *s == section).map(|(_, k)| k),
    );
    let meant = match (near, same) {
        (Some(near), _) => Some(format!("{section}.{near}")),
        (None, Some(same)) => Some(same.name.to_owned()),
        (None, None) => nearest(name, KEYS.iter().map(|k| k.name)).map(str::to_owned),
    };
    let name = crate::domain::name::shown(name);
    match meant {
        Some(meant) => format!("unknown key {name}; did you mean {meant}?"),
        None => format!("unknown key {name}; see stratavored --print-config for those there are."),
    }
}

/// What to say about a value without a section.
fn stray(name: &str) -> String {
    let key = |k: &Key| Some(k.name.split_once('.')?.1);
    let meant = nearest(name, KEYS.iter().filter_map(key))
        .and_then(|near| KEYS.iter().find(|k| key(k) == Some(near)));
    let name = crate::domain::name::shown(name);
    match meant {
        Some(meant) => format!(
            "“{name}” stands outside of a section; did you mean {}?",
            meant.name
        ),
        None => format!(
            "“{name}” stands outside of a section; there are {}.",
            sections()
        ),
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

#[cfg(test)]
mod tests;
