//! `store.url`: which store, and where it is.
//!
//! An error never shows the URL itself: somebody may have put a password into it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest URL, in bytes.
const URL_MAX: usize = 4_096;
/// The most hosts in one.
const HOSTS_MAX: usize = 16;
/// The longest name of a role or database (`NAMEDATALEN` of Postgres, less one).
const NAME_MAX: usize = 63;
/// The longest name of a host (RFC 1035).
const HOST_MAX: usize = 253;
/// The longest folder of a socket, so that the socket's path is one (unix(7)).
const FOLDER_MAX: usize = 90;
/// Postgres's port.
const PORT: u16 = 5432;

/// A store as `store.url` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:///absolute/path`: the embedded store of this host alone.
    Sqlite(PathBuf),
    /// `postgres://[user@]host[:port][,host[:port]…]/database[?sslmode=…]`: the fleet's.
    Postgres(PostgresUrl),
}

/// Where a fleet's Postgres is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// The role; `stratavore` if none is given.
    pub user: String,
    /// Tried in this order until one takes writes.
    pub hosts: Vec<PostgresHost>,
    /// The database.
    pub database: String,
    /// What was said about TLS; see [`PostgresUrl::sslmode`].
    pub said: Option<SslMode>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresHost {
    /// A name, an address, or the absolute folder of a Unix socket.
    pub name: String,
    /// Its port; of a socket the number in its name.
    pub port: u16,
}

/// How far the connection is encrypted and the server checked, in libpq's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server has it; nothing is checked.
    Prefer,
    /// TLS or nothing; the server's certificate is checked only where `store-ca` is given.
    Require,
    /// The server's certificate is of a known authority.
    VerifyCa,
    /// And in the name of the host we wanted.
    VerifyFull,
}

impl SslMode {
    /// All of them, the weakest first.
    pub const ALL: [Self; 5] = [
        Self::Disable,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// libpq's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl PostgresHost {
    /// Whether the way there never leaves this machine.
    fn is_local(&self) -> bool {
        self.name.starts_with('/') || is_loopback(&self.name)
    }
}

/// Whether this name or address is the machine's own, and of no network.
pub(super) fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    host == "localhost" || address.is_ok_and(|a| a.is_loopback())
}

impl PostgresUrl {
    /// The mode in force: what was said, else `verify-full`, and `prefer` where no host is elsewhere.
    pub fn sslmode(&self) -> SslMode {
        let usual = match self.hosts.iter().all(PostgresHost::is_local) {
            true => SslMode::Prefer,
            false => SslMode::VerifyFull,
        };
        self.said.unwrap_or(usual)
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if url.len() > URL_MAX {
            let len = url.len();
            return Err(format!(
                "the URL has {len} bytes; at most {URL_MAX} are allowed"
            ));
        }
        if let Some(path) = url.strip_prefix("sqlite://") {
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(format!("“{url}” names no absolute path of a file"));
            }
            return Ok(Self::Sqlite(path.into()));
        }
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"));
        match rest {
            Some(rest) => postgres(rest).map(Self::Postgres),
            None => Err(
                "this is no store this release knows; give sqlite:///absolute/path or postgres://[user@]host[:port][,host[:port]…]/database"
                    .to_owned(),
            ),
        }
    }
}

fn postgres(rest: &str) -> Result<PostgresUrl, String> {
    // In the whole of it: a password may have any character, and nobody has to have encoded it.
    if rest
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':'))
    {
        return Err(no_password());
    }
    let (before, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let (user, place) = match before.rsplit_once('@') {
        Some((user, place)) => (name("user", user)?, place),
        None => ("stratavore".to_owned(), before),
    };
    let (hosts, database) = place
        .split_once('/')
        .ok_or("the URL names no database; give postgres://host/database")?;
    let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
    if hosts.len() > HOSTS_MAX {
        let len = hosts.len();
        return Err(format!(
            "{len} hosts are too many; at most {HOSTS_MAX} are allowed"
        ));
    }
    Ok(PostgresUrl {
        user,
        hosts,
        database: name("database", database)?,
        said: query.map_or(Ok(None), parameters)?,
    })
}

fn no_password() -> String {
    "a password does not belong into this file; leave it out of the URL and give it as the credential store-password (LoadCredential= in a drop-in of stratavored.service)".to_owned()
}

/// A role or a database.
fn name(what: &str, text: &str) -> Result<String, String> {
    let name = decoded(text).ok_or_else(|| format!("the {what} is not encoded as in URLs"))?;
    match name.len() {
        0 => Err(format!("the URL names no {what}")),
        1..=NAME_MAX if !name.chars().any(char::is_control) => Ok(name),
        len => Err(format!(
            "the {what} has {len} bytes or a control character; at most {NAME_MAX} bytes are allowed"
        )),
    }
}

fn host(text: &str) -> Result<PostgresHost, String> {
    // The colons of an IPv6 address are inside its brackets.
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        None => PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|p| *p > 0)
            .ok_or("a port is a number from 1 to 65535")?,
    };
    let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let name = match inner {
        Some(inner) => {
            let address: Ipv6Addr = inner
                .parse()
                .map_err(|_| "what stands in brackets is no IPv6 address")?;
            address.to_string()
        }
        None => decoded(name).ok_or("a host is not encoded as in URLs")?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let good = match name.starts_with('/') {
        true => name.len() <= FOLDER_MAX && !name.chars().any(char::is_control),
        false => inner.is_some() || (name.len() <= HOST_MAX && name.bytes().all(plain)),
    };
    match name.is_empty() {
        true => Err("a host has no name; a socket is given by its folder, such as postgres://%2Frun%2Fpostgresql/database".to_owned()),
        false if !good => Err("a host is a name, an address (IPv6 in brackets), or the folder of a socket with “/” as %2F".to_owned()),
        false => Ok(PostgresHost { name, port }),
    }
}

/// What stands behind the “?”.
fn parameters(query: &str) -> Result<Option<SslMode>, String> {
    let mut said = None;
    for parameter in query.split('&') {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "sslmode" => {
                let mode = SslMode::ALL.into_iter().find(|m| m.as_str() == value);
                said = Some(mode.ok_or_else(|| {
                    let all = SslMode::ALL.map(SslMode::as_str).join(", ");
                    format!("sslmode is one of {all}")
                })?);
            }
            // Of several hosts, only one that takes writes will do: that is what these ask for.
            "target_session_attrs" if ["read-write", "primary"].contains(&value) => {}
            "password" => return Err(no_password()),
            "sslrootcert" | "sslcert" | "sslkey" => {
                return Err(format!(
                    "{key} is given as a credential: store-ca, store-cert and store-key (LoadCredential= in a drop-in of stratavored.service)"
                ));
            }
            _ => {
                let key = crate::domain::name::shown(key);
                return Err(format!(
                    "the URL has the parameter “{key}”; there is only sslmode"
                ));
            }
        }
    }
    Ok(said)
}

/// Text with `%XX` for bytes; `None` if that makes no text.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(out)
        .ok()
        .filter(|text| !text.contains('\0'))
}

pub(super) fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
    text.bytes()
        .map(|b| match plain(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(|host| {
            let name = match host.name.contains(':') {
                true => format!("[{}]", host.name),
                false => encoded(&host.name),
            };
            match host.port {
                PORT => name,
                port => format!("{name}:{port}"),
            }
        });
        let hosts: Vec<_> = hosts.collect();
        let (user, database) = (encoded(&self.user), encoded(&self.database));
        write!(f, "postgres://{user}@{}/{database}", hosts.join(","))?;
        match self.said {
            Some(mode) => write!(f, "?sslmode={}", mode.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn postgres(url: &str) -> Result<PostgresUrl, String> {
        match url.parse()? {
            StoreUrl::Postgres(url) => Ok(url),
            StoreUrl::Sqlite(path) => Err(path.display().to_string()),
        }
    }

    #[test]
    fn the_parts_of_a_url() -> Result<(), String> {
        let url = postgres(
            "postgresql://a%40b@db1:6432,db2.example,[::1]:7/my%20base?sslmode=verify-ca&target_session_attrs=read-write",
        )?;
        assert_eq!(
            (url.user.as_str(), url.database.as_str()),
            ("a@b", "my base")
        );
        let hosts: Vec<_> = url
            .hosts
            .iter()
            .map(|h| (h.name.as_str(), h.port))
            .collect();
        assert_eq!(hosts, [("db1", 6432), ("db2.example", 5432), ("::1", 7)]);
        assert_eq!(url.sslmode(), SslMode::VerifyCa);
        assert_eq!(
            url.to_string(),
            "postgres://a%40b@db1:6432,db2.example,[::1]:7/my%20base?sslmode=verify-ca"
        );
        let socket = postgres("postgres://%2Frun%2Fpostgresql/stratavore")?;
        assert_eq!(
            (socket.user.as_str(), socket.hosts[0].name.as_str()),
            ("stratavore", "/run/postgresql")
        );
        Ok(())
    }

    #[test]
    fn what_is_not_said_about_tls() -> Result<(), String> {
        for (hosts, mode) in [
            ("db", SslMode::VerifyFull),
            ("localhost,db", SslMode::VerifyFull),
            ("localhost", SslMode::Prefer),
            ("127.0.0.1,[::1]", SslMode::Prefer),
            ("%2Frun%2Fpostgresql", SslMode::Prefer),
        ] {
            assert_eq!(
                postgres(&format!("postgres://{hosts}/d"))?.sslmode(),
                mode,
                "{hosts}"
            );
        }
        Ok(())
    }

    #[test]
    fn refusals_say_what_is_wrong_and_never_show_a_password() {
        let hosts = ["h"; 17].join(",");
        for (url, part) in [
            ("postgres://u:hunter2@h/d", "credential store-password"),
            ("postgres://u:hun/ter2@h/d", "credential store-password"),
            ("postgres://u:1/hun?ter2@h/d", "credential store-password"),
            (
                "postgres://u:hunter2%40@h:1@x/d",
                "credential store-password",
            ),
            ("postgres://u:@h/d", "credential store-password"),
            (
                "postgres://h/d?password=hunter2",
                "credential store-password",
            ),
            ("mysql://u:hunter2@h/d", "no store this release knows"),
            (
                "postgres://h/d?sslcert=/x",
                "credential: store-ca, store-cert",
            ),
            ("postgres://h", "names no database"),
            ("postgres://h/", "names no database"),
            ("postgres:///d", "a host has no name"),
            ("postgres://h,/d", "a host has no name"),
            ("postgres://@h/d", "names no user"),
            ("postgres://h:0/d", "1 to 65535"),
            ("postgres://h:65536/d", "1 to 65535"),
            ("postgres://[::g]/d", "no IPv6 address"),
            ("postgres://::1/d", "a host is a name"),
            ("postgres://a b/d", "a host is a name"),
            ("postgres://%zz/d", "not encoded"),
            ("postgres://h/%00", "not encoded"),
            ("postgres://h/d?sslmode=on", "verify-full"),
            ("postgres://h/d?host=x", "there is only sslmode"),
            (
                "postgres://h/d?target_session_attrs=any",
                "there is only sslmode",
            ),
            ("sqlite://x", "no absolute path"),
            (&format!("postgres://{hosts}/d"), "17 hosts"),
            (
                &format!("postgres://h/{}", "d".repeat(5000)),
                "at most 4096",
            ),
            (&format!("postgres://h/{}", "d".repeat(64)), "at most 63"),
        ] {
            let error = url.parse::<StoreUrl>().err().unwrap_or_default();
            assert!(
                error.contains(part) && !error.contains("ter2"),
                "{url}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(url in "postgres://([a-z%@4]{1,5}@)?([a-z.]{1,5}|\\[::[1-9a-f]{1,3}\\]|%2F[a-z]{1,4})(:[0-9]{1,5})?(,[a-z]{1,3})?/[a-zé%20]{1,5}(\\?sslmode=(prefer|require))?") {
            if let Ok(parsed) = url.parse::<StoreUrl>() {
                prop_assert_eq!(parsed.to_string().parse(), Ok(parsed));
            }
        }

        #[test]
        fn no_url_makes_the_parser_panic(url in "(postgres|sqlite)://\\PC{0,40}|\\PC{0,20}") {
            let _ = url.parse::<StoreUrl>();
        }
    }
}
