//! Credentials in a request: a token, an API key or a ticket.
//!
//! The first of these counts: `?token=` or `?access_token=`, `?ticket=`, `Authorization: Bearer`, the cookie,
//! `Sec-WebSocket-Protocol: fanwire.v1, bearer.TOKEN`.
//!
//! Invariant: a cookie counts only if the page that made the request is the server's own or an allowed one, because browsers
//! send cookies for any page.

use crate::codec::http::Request;
use crate::server::origin;

/// A credential, not verified yet.
#[cfg_attr(test, derive(Debug))]
#[derive(PartialEq, Eq)]
pub(super) enum Credential {
    Token(String),
    Ticket(String),
}

/// Prefix of a token among the subprotocols that a WebSocket client offers.
const SUBPROTOCOL: &str = "bearer.";

pub(super) fn find(request: &Request, cookie: &str, origins: &[String]) -> Option<Credential> {
    let (mut token, mut ticket) = (None, None);
    for (name, value) in request.query_pairs() {
        match name.as_str() {
            "token" | "access_token" if !value.is_empty() => token = token.or(Some(value)),
            "ticket" if !value.is_empty() => ticket = ticket.or(Some(value)),
            _ => {}
        }
    }
    token
        .map(Credential::Token)
        .or(ticket.map(Credential::Ticket))
        .or_else(|| bearer(request).map(Credential::Token))
        .or_else(|| in_cookie(request, cookie, origins).map(Credential::Token))
        .or_else(|| in_subprotocols(request).map(Credential::Token))
}

fn bearer(request: &Request) -> Option<String> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

fn in_cookie(request: &Request, name: &str, origins: &[String]) -> Option<String> {
    if name.is_empty() || !is_own(request, origins) {
        return None;
    }
    let pairs = request.headers_named("cookie").flat_map(|value| value.split(';'));
    let mut named = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(key, _)| *key == name);
    let value = named.next()?.1.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Returns whether the request is not from a page, or is from the server's own page or an allowed origin. `*` allows no
/// origin here, because it is meant for responses that need no rights.
fn is_own(request: &Request, origins: &[String]) -> bool {
    let Some(origin) = request.header("origin") else { return true };
    let same = request.header("host").is_some_and(|host| origin::is_of_host(origin, host));
    same || origins.iter().any(|allowed| origin::is_same(allowed, origin))
}

fn in_subprotocols(request: &Request) -> Option<String> {
    request
        .headers_named("sec-websocket-protocol")
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(SUBPROTOCOL))
        .filter(|token| !token.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HttpLimits, parse_request};

    fn found(target: &str, headers: &str) -> Option<String> {
        let text = format!("GET {target} HTTP/1.1\r\nHost: own.example\r\n{headers}\r\n");
        let parsed = parse_request(text.as_bytes(), &HttpLimits::default()).expect("a request");
        let (request, _) = parsed.expect("a whole one");
        find(&request, "auth-token", &["https://app.example".to_owned(), "*".to_owned()]).map(|c| match c {
            Credential::Token(token) => token,
            Credential::Ticket(ticket) => format!("ticket {ticket}"),
        })
    }

    #[test]
    fn each_way_in_is_looked_at_in_its_order() {
        let cookie = "Cookie: a=b; auth-token=C\r\n";
        let header = "Authorization: bearer  H \r\n";
        let protocol = "Sec-WebSocket-Protocol: fanwire.v1, bearer.P\r\n";
        for (target, headers, token) in [
            ("/ws?token=Q&ticket=T", [header, cookie, protocol].concat(), "Q"),
            ("/ws?access_token=a%2Bb", header.to_owned(), "a+b"),
            ("/ws?ticket=T", [header, cookie, protocol].concat(), "ticket T"),
            ("/ws?token=", [header, cookie, protocol].concat(), "H"),
            ("/ws", [cookie, protocol].concat(), "C"),
            ("/ws", "Cookie: auth-token=\"C\"\r\n".to_owned(), "C"),
            ("/ws", protocol.to_owned(), "P"),
        ] {
            assert_eq!(found(target, &headers).as_deref(), Some(token), "{target} {headers}");
        }
        for headers in
            ["", "Authorization: Basic x\r\n", "Authorization: Bearer\r\n", "Cookie: auth-tokens=C\r\n"]
        {
            assert_eq!(found("/ws", headers), None, "{headers}");
        }
    }

    #[test]
    fn a_foreign_page_cannot_use_a_visitors_cookie() {
        for (origin, counts) in [
            ("http://own.example", true),
            ("https://OWN.example", true),
            ("https://own.example:443", true),
            ("http://own.example:80", true),
            ("http://own.example:443", false),
            ("https://app.example:443", true),
            ("https://app.example", true),
            ("https://evil.example", false),
            ("https://own.example.evil.example", false),
            ("null", false),
        ] {
            let headers = format!("Origin: {origin}\r\nCookie: auth-token=C\r\n");
            assert_eq!(found("/ws", &headers).is_some(), counts, "{origin}");
            let header = format!("Origin: {origin}\r\nAuthorization: Bearer H\r\n");
            assert!(found("/ws", &header).is_some(), "a credential that the page itself knows counts");
        }
    }
}
