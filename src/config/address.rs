//! Addresses as people give them: HOST or HOST:PORT, IPv6 in brackets.

use std::net::Ipv6Addr;

/// The longest name of a host (RFC 1035).
const HOST_MAX: usize = 253;

/// Whether a port stands behind the host.
pub fn has_port(text: &str) -> bool {
    let port = text.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0))
}

/// Refuses what is neither empty, HOST nor HOST:PORT.
pub(super) fn check(given: &str) -> Result<(), String> {
    let host = match has_port(given) {
        true => given.rsplit_once(':').map_or(given, |(host, _)| host),
        false => given,
    };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
    };
    if !good || host.len() > HOST_MAX || (host.is_empty() && !given.is_empty()) {
        return Err(format!(
            "“{given}” is neither HOST nor HOST:PORT; IPv6 goes in brackets"
        ));
    }
    Ok(())
}
