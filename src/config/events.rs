//! `events.amqp_urls`: where the broker is.
//!
//! An error never shows the URL itself: somebody may have put a password into it.

use super::keys::text;
use super::store::{decoded, encoded, is_loopback};
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use toml::de::DeValue;

/// The longest URL, in bytes.
const URL_MAX: usize = 4_096;
/// The most of them.
const URLS_MAX: usize = 16;
/// The longest name of a user or a virtual host, and of the exchange (a short string of AMQP).
const NAME_MAX: usize = 255;
/// The longest name of a host (RFC 1035).
const HOST_MAX: usize = 253;

/// What becomes of events that nobody has bound a queue for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unroutable {
    /// They are kept until somebody asks for them.
    Park,
    /// They count as published.
    Accept,
}

impl Unroutable {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Park => "park",
            Self::Accept => "accept",
        }
    }
}

impl FromStr for Unroutable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "park" => Ok(Self::Park),
            "accept" => Ok(Self::Accept),
            other => Err(format!("“{other}” is neither park nor accept")),
        }
    }
}

/// `events.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// `events.amqp_urls`.
    pub urls: Vec<AmqpUrl>,
    /// `events.exchange`.
    pub exchange: String,
    /// `events.unroutable`.
    pub unroutable: Unroutable,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            exchange: "stratavore.events".to_owned(),
            unroutable: Unroutable::Park,
        }
    }
}

impl Events {
    /// What is allowed, and seldom what somebody wants.
    pub fn doubt(&self) -> Option<String> {
        let open = |url: &&AmqpUrl| !url.tls && !is_loopback(&url.host);
        let url = self.urls.iter().find(open)?;
        Some(format!(
            "events.amqp_urls: {url} is another host, and amqp:// is not encrypted: whoever is on the way there reads the password and the events, and can change them; use amqps://, with the credential amqp-ca where its authority is your own."
        ))
    }
}

/// `amqp[s]://[user@]host[:port][/vhost][?auth_mechanism=external]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpUrl {
    /// `amqps`: encrypted, and the broker's certificate is checked.
    pub tls: bool,
    /// `auth_mechanism=external`: our certificate says who we are.
    pub external: bool,
    /// The user; `stratavore` if none is given.
    pub user: String,
    /// A name or an address.
    pub host: String,
    /// Its port; 5672 or, encrypted, 5671.
    pub port: u16,
    /// The virtual host; `/` if none is given.
    pub vhost: String,
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        write!(f, "{scheme}://{}@", encoded(&self.user))?;
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host),
            false => write!(f, "{}", self.host),
        }?;
        write!(f, ":{}/{}", self.port, encoded(&self.vhost))?;
        match self.external {
            true => write!(f, "?auth_mechanism=external"),
            false => Ok(()),
        }
    }
}

impl FromStr for AmqpUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if url.len() > URL_MAX {
            let len = url.len();
            return Err(format!(
                "a URL has {len} bytes; at most {URL_MAX} are allowed"
            ));
        }
        let (tls, rest) = match (url.strip_prefix("amqp://"), url.strip_prefix("amqps://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => {
                return Err(
                    "a URL of a broker is amqp://[user@]host[:port][/virtual-host], or amqps://… for TLS".to_owned(),
                );
            }
        };
        // In the whole of it: a password may have any character, and nobody has to have encoded it.
        if rest
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
        {
            return Err(
                "a password does not belong into this file; leave it out of the URL and give it as the credential amqp-password (LoadCredential= in a drop-in of stratavored.service)"
                    .to_owned(),
            );
        }
        let (before, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query)),
            None => (rest, None),
        };
        let (user, place) = match before.rsplit_once('@') {
            Some((user, place)) => (name("user", user)?, place),
            None => ("stratavore".to_owned(), before),
        };
        let (place, vhost) = match place.split_once('/') {
            None | Some((_, "")) => (place.trim_end_matches('/'), "/".to_owned()),
            Some((place, vhost)) => (place, name("virtual host", vhost)?),
        };
        let (host, port) = host(place)?;
        let external = match query {
            None => false,
            Some("auth_mechanism=external") if tls => true,
            Some("auth_mechanism=external") => {
                return Err(
                    "auth_mechanism=external needs amqps://: the certificate says who we are"
                        .to_owned(),
                );
            }
            Some("auth_mechanism=plain") => false,
            Some(_) => {
                return Err(
                    "behind the “?” there is only auth_mechanism=external; TLS files are given as credentials: amqp-ca, amqp-cert and amqp-key"
                        .to_owned(),
                );
            }
        };
        Ok(Self {
            tls,
            external,
            user,
            host,
            port: port.unwrap_or(if tls { 5671 } else { 5672 }),
            vhost,
        })
    }
}

/// `events.amqp_urls` as it is written.
pub(super) fn urls(value: &DeValue<'_>) -> Result<Vec<AmqpUrl>, String> {
    let DeValue::Array(given) = value else {
        return Err("give a list of texts, such as [\"amqp://localhost\"]".to_owned());
    };
    if given.len() > URLS_MAX {
        let len = given.len();
        return Err(format!(
            "{len} are too many; at most {URLS_MAX} are allowed"
        ));
    }
    let urls = given.iter().map(|url| text(url.get_ref())?.parse());
    urls.collect()
}

/// Refuses what is no name of an exchange of ours.
pub(super) fn check_exchange(name: &str) -> Result<(), String> {
    let good = (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with("amq.")
        && !name.chars().any(char::is_control);
    match good {
        true => Ok(()),
        false => Err(format!(
            "an exchange's name has 1 to {NAME_MAX} bytes without control characters, and “amq.” is the broker's own"
        )),
    }
}

fn name(what: &str, text: &str) -> Result<String, String> {
    let name = decoded(text).ok_or_else(|| format!("the {what} is not encoded as in URLs"))?;
    match name.len() {
        0 => Err(format!("a URL names no {what}")),
        1..=NAME_MAX if !text.contains('/') && !name.chars().any(char::is_control) => Ok(name),
        len => Err(format!(
            "the {what} has {len} bytes, a “/” that is not written %2F, or a control character; at most {NAME_MAX} bytes are allowed"
        )),
    }
}

fn host(text: &str) -> Result<(String, Option<u16>), String> {
    // The colons of an IPv6 address are inside its brackets.
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        None => None,
        Some(port) => Some(
            port.parse::<u16>()
                .ok()
                .filter(|p| *p > 0)
                .ok_or("a port is a number from 1 to 65535")?,
        ),
    };
    let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let name = match inner {
        Some(inner) => inner
            .parse::<Ipv6Addr>()
            .map_err(|_| "what stands in brackets is no IPv6 address")?
            .to_string(),
        None => name.to_owned(),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let good = inner.is_some() || (name.len() <= HOST_MAX && name.bytes().all(plain));
    match name.is_empty() {
        true => Err("a URL names no host".to_owned()),
        false if !good => Err("a host is a name or an address, IPv6 in brackets".to_owned()),
        false => Ok((name, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_read_with_their_defaults() {
        for (url, shown) in [
            ("amqp://mq", "amqp://stratavore@mq:5672/%2F"),
            ("amqp://mq/", "amqp://stratavore@mq:5672/%2F"),
            ("amqp://u%40x@mq:1/v", "amqp://u%40x@mq:1/v"),
            ("amqps://[::1]/%2F", "amqps://stratavore@[::1]:5671/%2F"),
            (
                "amqps://mq/v?auth_mechanism=external",
                "amqps://stratavore@mq:5671/v?auth_mechanism=external",
            ),
        ] {
            let read: AmqpUrl = url.parse().unwrap_or_else(|e| panic!("{url}: {e}"));
            assert_eq!(read.to_string(), shown);
        }
    }

    #[test]
    fn refusals_say_what_is_wrong_and_never_show_a_password() {
        for (url, part) in [
            ("amqp://u:hunter2@h/v", "credential amqp-password"),
            ("amqp://u:hun/ter2@h", "credential amqp-password"),
            ("amqp://u:hun?ter2@h", "credential amqp-password"),
            ("http://u:hunter2@h", "amqp://[user@]host"),
            ("amqp://", "names no host"),
            ("amqp://@h", "names no user"),
            ("amqp://h:0", "1 to 65535"),
            ("amqp://a b", "a host is a name"),
            ("amqp://h/a/b", "%2F"),
            ("amqp://h/%zz", "not encoded"),
            ("amqp://h?auth_mechanism=external", "needs amqps"),
            ("amqps://h?cacertfile=/x", "amqp-ca"),
            (&format!("amqp://h/{}", "v".repeat(5000)), "at most 4096"),
        ] {
            let error = url.parse::<AmqpUrl>().err().unwrap_or_default();
            assert!(
                error.contains(part) && !error.contains("ter2"),
                "{url}: {error}"
            );
        }
    }

    #[test]
    fn what_goes_over_a_network_unencrypted_is_doubted() {
        let doubt = |urls: &[&str]| {
            let urls = urls
                .iter()
                .map(|u| u.parse().unwrap_or_else(|e| panic!("{u}: {e}")));
            let events = Events {
                urls: urls.collect(),
                ..Events::default()
            };
            events.doubt()
        };
        for here in ["amqp://localhost", "amqp://u@127.0.0.2:1/v", "amqp://[::1]"] {
            assert_eq!(doubt(&[here, "amqps://mq"]), None, "{here}");
        }
        for away in [
            "amqp://mq",
            "amqp://192.0.2.1",
            "amqp://localhost.example",
            "amqp://[2001:db8::1]",
        ] {
            let said = doubt(&["amqps://mq", away]).unwrap_or_default();
            assert!(
                said.contains("amqps://") && said.contains(&away[7..]),
                "{away}: {said}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(url in "amqps?://([a-z%@4]{1,5}@)?([a-z.]{1,5}|\\[::[1-9a-f]{1,3}\\])(:[0-9]{1,5})?(/[a-zé%2F]{0,6})?") {
            if let Ok(parsed) = url.parse::<AmqpUrl>() {
                prop_assert_eq!(parsed.to_string().parse(), Ok(parsed));
            }
        }

        #[test]
        fn no_url_makes_the_parser_panic(url in "amqps?://\\PC{0,40}|\\PC{0,20}") {
            let _ = url.parse::<AmqpUrl>();
        }
    }
}
