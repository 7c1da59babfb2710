//! Where messages go. The address of a webhook is a secret, as whoever has it can post there: of one
//! that was read only scheme, host and port are ever shown.

use super::super::secret::Secret;
use std::fmt;

/// The longest address, in bytes.
const ADDRESS_MAX: usize = 2_048;

/// An `http://` or `https://` URL. `Display` and `Debug` show neither path nor query.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    https: bool,
    host: String,
    port: u16,
    target: Secret,
}

impl Address {
    /// Reads a URL. What is wrong is told without a word of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("give an address with https:// or http://".to_owned()),
        };
        if text.len() > ADDRESS_MAX {
            return Err(format!("the address has more than {ADDRESS_MAX} bytes"));
        }
        let odd = |c: char| !c.is_ascii_graphic() || "\"<>\\^`{|}#".contains(c);
        if text.contains(odd) {
            let message = "the address has a character that none may have, such as a blank or “#”: write it as %20 or %23";
            return Err(message.to_owned());
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            let message = "the address has a user before “@”; give what the receiver wants as part of its path or query";
            return Err(message.to_owned());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port > 0);
                (
                    host,
                    port.ok_or("the port of the address is not from 1 to 65535")?,
                )
            }
            _ => (authority, if https { 443 } else { 80 }),
        };
        Ok(Self {
            https,
            host: checked(host)?,
            port,
            target: Secret::new(match target.starts_with('/') {
                true => target.to_owned(),
                false => format!("/{target}"),
            }),
        })
    }

    /// Whether the connection is to be encrypted.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// A name, or an address without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as HTTP writes them: without the usual port.
    pub fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// Path and query, for those they are meant for.
    pub fn target(&self) -> &Secret {
        &self.target
    }

    /// For `--print-config`: `***` stands for path and query.
    pub fn masked(&self) -> String {
        match self.target.reveal() {
            "/" => self.to_string(),
            _ => format!("{self}/***"),
        }
    }
}

/// A name of dots, letters, digits and hyphens; or an address, in brackets where it is IPv6.
fn checked(host: &str) -> Result<String, String> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            (1..=253).contains(&host.len()) && host.bytes().all(plain)
        }
    };
    match good {
        true => Ok(host.to_ascii_lowercase()),
        false => Err("the host of the address is neither a name nor an address of one".to_owned()),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}
