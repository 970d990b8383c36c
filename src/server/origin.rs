//! Origins of web pages: which are equal, and which is the server's own.
//!
//! Always: a port that is the scheme's default says nothing (RFC 6454, 4); what is no origin equals only itself.

/// Scheme, host and effective port.
#[derive(Debug)]
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

/// Splits `host:port`; the port is `None` where there is none, or where it is no number.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    // The colons of an IPv6 address stand within brackets.
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

impl<'a> Origin<'a> {
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

/// Returns whether two origins are the same: scheme, host and effective port are.
pub(super) fn is_same(one: &str, other: &str) -> bool {
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

/// Returns whether `origin` is that of pages of the server that a `Host` header names. The header has no scheme, and a proxy
/// may end TLS, so the scheme is the page's.
pub(super) fn is_of_host(origin: &str, host: &str) -> bool {
    let Some(origin) = Origin::read(origin) else { return false };
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
    fn a_default_port_says_nothing() {
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
        ] {
            assert_eq!(is_of_host(origin, host), own, "{origin} {host}");
        }
    }
}
