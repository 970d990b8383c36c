//! Compares origins of web pages and names of hosts.
//!
//! Always:
//! - The default port of a scheme equals no port (RFC 6454, 4).
//! - A text that is not an origin equals only itself.
//! - A name is a name of this machine by its whole text (`localhost`, a name below it, an address), never by a part of
//!   it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Scheme, host and effective port.
#[derive(Debug)]
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

/// Splits `host:port`. The port is `None` if it is absent or not a number.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    // The colons of an IPv6 address are within brackets.
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    let is = |known: &str| scheme.eq_ignore_ascii_case(known);
    if is("https") || is("wss") {
        Some(443)
    } else if is("http") || is("ws") {
        Some(80)
    } else {
        None
    }
}

/// Host of an origin or of a Host header, without port and final dot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostName<'a>(&'a str);

impl<'a> HostName<'a> {
    /// Returns the host of a Host header, or `None` if it is empty.
    pub(crate) fn of_authority(authority: &'a str) -> Option<Self> {
        let name = split_port(authority).0;
        let name = name.strip_suffix('.').unwrap_or(name);
        (!name.is_empty()).then_some(Self(name))
    }

    /// Returns the host of an origin, or `None` if it has none, as `null`.
    pub(crate) fn of_origin(origin: &'a str) -> Option<Self> {
        Origin::read(origin).and_then(|origin| Self::of_authority(origin.host))
    }

    /// Returns the name's text.
    pub(crate) fn text(self) -> &'a str {
        self.0
    }

    /// Returns whether both names are one host.
    pub(crate) fn is_same(self, other: HostName<'_>) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }

    /// Returns whether a configured host covers the name: `name`, or `*.name` for all names below.
    pub(crate) fn is_among(self, pattern: &str) -> bool {
        let pattern = pattern.strip_suffix('.').unwrap_or(pattern);
        match pattern.strip_prefix('*') {
            Some(end) => self.is_below(end),
            None => self.0.eq_ignore_ascii_case(pattern),
        }
    }

    /// Returns whether the name ends with `end`, which begins with a dot, and has more before it.
    fn is_below(self, end: &str) -> bool {
        let at = self.0.len().checked_sub(end.len()).filter(|at| *at > 0 && end.starts_with('.'));
        at.and_then(|at| self.0.get(at..)).is_some_and(|it| it.eq_ignore_ascii_case(end))
    }

    /// Returns the address if the name is one, as browsers write it. No look-up can change its meaning later.
    fn address(self) -> Option<IpAddr> {
        match self.0.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => self.0.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }

    /// Returns whether the name is an address.
    pub(crate) fn is_address(self) -> bool {
        self.address().is_some()
    }

    /// Returns whether the name is this machine: a loopback address, or `localhost` or a name below it, which browsers
    /// never look up (RFC 6761, 6.3).
    pub(crate) fn is_loopback(self) -> bool {
        match self.address() {
            Some(address) => address.to_canonical().is_loopback(),
            None => self.0.eq_ignore_ascii_case("localhost") || self.is_below(".localhost"),
        }
    }
}

/// Returns whether an origin is that of pages that this machine serves over HTTP, on any port.
pub(crate) fn is_loopback(origin: &str) -> bool {
    Origin::read(origin).is_some_and(|origin| origin.is_web())
        && HostName::of_origin(origin).is_some_and(HostName::is_loopback)
}

/// Returns whether an origin is that of a page without one: a page from a file, or in a sandbox. Chromium's WebSockets
/// send `file://`; all other requests send `null`.
pub(crate) fn is_of_file(origin: &str) -> bool {
    origin.eq_ignore_ascii_case("null") || origin.eq_ignore_ascii_case("file://")
}

impl<'a> Origin<'a> {
    fn is_web(&self) -> bool {
        ["http", "https"].iter().any(|scheme| self.scheme.eq_ignore_ascii_case(scheme))
    }

    fn read(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_port(authority);
        let port = match port {
            Some(port) => Some(port.parse().ok()?),
            None => default_port(scheme),
        };
        (!host.is_empty()).then_some(Self { scheme, host, port })
    }
}

/// Returns whether two origins have the same scheme, host and effective port.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    match (Origin::read(one), Origin::read(other)) {
        (Some(one), Some(other)) => {
            one.scheme.eq_ignore_ascii_case(other.scheme)
                && one.host.eq_ignore_ascii_case(other.host)
                && one.port == other.port
        }
        // `null`, for example.
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// Returns whether `origin` is the origin of the server that a `Host` header names. The header has no scheme, and a
/// proxy may terminate TLS, so the scheme is the page's.
pub(crate) fn is_of_host(origin: &str, host: &str) -> bool {
    let Some(origin) = Origin::read(origin).filter(Origin::is_web) else { return false };
    let (name, port) = split_port(host);
    let port = match port {
        Some(port) => port.parse().ok(),
        None => default_port(origin.scheme),
    };
    port == origin.port && name.eq_ignore_ascii_case(origin.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_port_makes_no_difference() {
        for (one, other, same) in [
            ("https://h", "https://h:443", true),
            ("HTTPS://H", "https://h", true),
            ("http://h:80", "http://h", true),
            ("http://h:443", "https://h", false),
            ("http://h", "https://h", false),
            ("http://h", "http://h.evil", false),
            ("http://[::1]:80", "http://[::1]", true),
            ("http://[::1]:81", "http://[::1]", false),
            ("null", "null", true),
            ("null", "http://h", false),
            ("http://h:", "http://h", false),
            ("http://h:65536", "http://h", false),
            ("app://h", "app://h", true),
        ] {
            assert_eq!(is_same(one, other), same, "{one} {other}");
            assert_eq!(is_same(other, one), same, "{other} {one}");
        }
    }

    #[test]
    fn an_own_page_is_one_of_the_host_that_was_asked() {
        for (origin, host, own) in [
            ("https://h", "h:443", true),
            ("https://h", "h", true),
            ("http://h", "h:80", true),
            ("http://h:8765", "h:8765", true),
            ("http://h", "h:443", false),
            ("http://h:8765", "h", false),
            ("http://h", "", false),
            ("http://[::1]:8765", "[::1]:8765", true),
            ("http://[::1]", "[::1]:80", true),
            ("null", "null", false),
            ("null", "h", false),
            ("app://h:1", "h:1", false),
        ] {
            assert_eq!(is_of_host(origin, host), own, "{origin} {host}");
        }
    }
}
