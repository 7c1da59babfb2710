//! `-H [USER@]HOST[:PORT]`: the bus of another host by ssh, as systemctl reaches it.

use super::failure::{Failure, USAGE};
use std::fmt;
use std::str::FromStr;
use zbus::Address;
use zbus::address::transport::{Transport, Unixexec};

/// The longest of each part.
const PART_MAX: usize = 255;

/// Another host, checked: nothing in it is an option of ssh or means anything to a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// `user@host` or `host`, as ssh takes it.
    target: String,
    port: Option<u16>,
    shown: String,
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!(
                "“{}” is not [USER@]HOST[:PORT]; letters, digits, “.”, “-” and “_” may be in names, an IPv6 address stands in brackets",
                crate::domain::name::shown(text)
            )
        })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn parse(text: &str) -> Option<Remote> {
    let (user, rest) = match text.split_once('@') {
        Some((user, rest)) => (Some(word(user)?), rest),
        None => (None, text),
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            let host: std::net::Ipv6Addr = host.parse().ok()?;
            let port = if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':')?)
            };
            (host.to_string(), port)
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (word(host)?.to_owned(), Some(port)),
            None => (word(rest)?.to_owned(), None),
        },
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|p| *p != 0)?)
        }
        Some(_) => return None,
        None => None,
    };
    let target = match user {
        Some(user) => format!("{user}@{host}"),
        None => host,
    };
    Some(Remote {
        target,
        port,
        shown: text.to_owned(),
    })
}

/// A name of a user or a host.
fn word(text: &str) -> Option<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let good = !text.is_empty()
        && text.len() <= PART_MAX
        && text.bytes().all(plain)
        && !text.starts_with(['-', '.']);
    good.then_some(text)
}

impl Remote {
    /// Where its system bus is: `ssh -xT [-p PORT] -- [USER@]HOST systemd-stdio-bridge`.
    pub(super) fn address(&self) -> Address {
        let mut words = vec!["-xT".to_owned()];
        if let Some(port) = self.port {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        words.extend([
            "--".to_owned(),
            self.target.clone(),
            "systemd-stdio-bridge".to_owned(),
        ]);
        let words = words.into_iter().map(Into::into).collect();
        Address::new(Transport::Unixexec(Unixexec::new(
            "ssh".into(),
            None,
            words,
        )))
    }

    /// The host's name alone, where it is not reached by ssh.
    pub(super) fn plain(&self) -> Result<&str, Failure> {
        match self.port.is_none() && !self.target.contains('@') {
            true => Ok(&self.target),
            false => Err(Failure::new(
                USAGE,
                format!(
                    "“{}” is for ssh; with --via store give the host's name or id alone.",
                    self.shown
                ),
            )),
        }
    }

    /// What takes descriptors is refused, as they do not go by ssh. `words` is what one would type there.
    pub(super) fn no_descriptors(host: Option<&Self>, words: &str) -> Result<(), Failure> {
        match host {
            None => Ok(()),
            Some(host) => Err(Failure::new(
                USAGE,
                format!(
                    "Descriptors do not go by ssh; use: {} stratavorectl {words}",
                    host.ssh()
                ),
            )),
        }
    }

    /// Whether nothing but this name of a host was given.
    pub(super) fn is(&self, name: &str) -> bool {
        self.port.is_none() && self.target == name
    }

    /// What one types to run a command there.
    pub(super) fn ssh(&self) -> String {
        match self.port {
            Some(port) => format!("ssh -p {port} {}", self.target),
            None => format!("ssh {}", self.target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> String {
        match text.parse::<Remote>() {
            Ok(remote) => remote.address().to_string(),
            Err(why) => why,
        }
    }

    #[test]
    fn hosts_as_systemctl_takes_them() {
        let of = |rest: &str| format!("unixexec:path=ssh,argv1=-xT,{rest}");
        assert_eq!(
            address("web1"),
            of("argv2=--,argv3=web1,argv4=systemd-stdio-bridge")
        );
        assert_eq!(
            address("root@web-1.example.org"),
            of("argv2=--,argv3=root%40web-1.example.org,argv4=systemd-stdio-bridge")
        );
        assert_eq!(
            address("a@b:2222"),
            of("argv2=-p,argv3=2222,argv4=--,argv5=a%40b,argv6=systemd-stdio-bridge")
        );
        assert_eq!(
            address("[fe80::1]:22"),
            of("argv2=-p,argv3=22,argv4=--,argv5=fe80%3a%3a1,argv6=systemd-stdio-bridge")
        );
        assert_eq!(
            "a@[::1]".parse::<Remote>().map(|r| r.ssh()),
            Ok("ssh a@::1".to_owned())
        );
        assert_eq!(Remote::no_descriptors(None, "logs x"), Ok(()));
        let refused = Remote::no_descriptors("a@b:2222".parse().ok().as_ref(), "logs x");
        let said = "Descriptors do not go by ssh; use: ssh -p 2222 a@b stratavorectl logs x";
        assert_eq!(refused, Err(Failure::new(USAGE, said)));
    }

    #[test]
    fn hostile_hosts_are_refused() {
        for text in [
            "",
            "-oProxyCommand=x",
            "-x@host",
            "a@-host",
            "a b",
            "a%b",
            "a@b@c",
            "@host",
            "user@",
            "host:",
            "host:x",
            "host:0",
            "host:99999",
            "host:+1",
            "host/machine",
            "[::1",
            "[x]",
            "[::1]x",
            "a,argv9=x",
            "$(x)",
            "a;b",
            "a\nb",
            "é",
            ".",
        ] {
            assert!(text.parse::<Remote>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_harmless(text in "[-a-z@:.%\\[\\]0-9 ,=/]{0,16}") {
            if let Ok(remote) = text.parse::<Remote>() {
                prop_assert!(!remote.target.starts_with('-'));
                prop_assert!(!remote.target.contains([' ', '%', ',', '=', '/', '[', ']']));
            }
        }
    }
}
