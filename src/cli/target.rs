//! Which server a client command talks to. Imports nothing of ours.
//! Always: a parsed target has a host, a port and no trailing slash in its base path.

use std::fmt;
use std::str::FromStr;

/// A server's address, from a URL (`http://host:port`, `wss://…`, or `host:port` alone).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Whether TLS is spoken.
    pub(super) is_secure: bool,
    /// `host:port`, the host in brackets where it is an IPv6 address.
    pub(super) authority: String,
    /// What stands before `/ws`, `/sse` and `/publish`: empty, or a path that starts with a slash.
    base: String,
}

impl Target {
    /// The WebSocket URL of a path.
    pub(super) fn ws(&self, path: &str) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}{}{path}", self.authority, self.base)
    }

    /// The HTTP URL of a path.
    pub(super) fn http(&self, path: &str) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}{}{path}", self.authority, self.base)
    }

    /// The host alone, as a certificate names it.
    pub(super) fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.http(""))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let is_secure = match scheme {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => {
                return Err(format!(
                    "unknown scheme `{scheme}`: expected http://, https://, ws:// or wss://"
                ));
            }
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || authority.contains(['@', '?', '#', ' ']) {
            return Err("expected http://HOST:PORT".into());
        }
        // A colon after the last bracket is a port; colons within brackets are IPv6.
        let port = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        let authority = match port {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => authority.to_owned(),
            Some(_) => return Err(format!("`{authority}` is not HOST:PORT")),
            None => format!("{authority}:{}", if is_secure { 443 } else { 80 }),
        };
        Ok(Self { is_secure, authority, base: path.trim_end_matches('/').to_owned() })
    }
}

/// The `error` of a JSON answer, or the answer's first characters, for a message to the user.
pub(super) fn error_text(body: &str) -> String {
    let parsed = serde_json::from_str::<serde_json::Value>(body).ok();
    let error = parsed.as_ref().and_then(|json| json.get("error")).and_then(serde_json::Value::as_str);
    error.map_or_else(|| body.chars().take(200).collect(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_host_port_and_base() {
        for (text, ws) in [
            ("http://127.0.0.1:8765", "ws://127.0.0.1:8765/ws"),
            ("http://127.0.0.1:8765/", "ws://127.0.0.1:8765/ws"),
            ("ws://example.org/events/", "ws://example.org:80/events/ws"),
            ("localhost:1", "ws://localhost:1/ws"),
            ("http://[::1]:9", "ws://[::1]:9/ws"),
            ("[::1]", "ws://[::1]:80/ws"),
            ("https://events.example.org", "wss://events.example.org:443/ws"),
            ("wss://[::1]:9/base", "wss://[::1]:9/base/ws"),
        ] {
            assert_eq!(text.parse::<Target>().map(|target| target.ws("/ws")), Ok(ws.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_certificate_names_the_host_alone() {
        for (text, host) in
            [("https://a.example:1/x", "a.example"), ("https://[::1]:9", "::1"), ("10.0.0.1", "10.0.0.1")]
        {
            assert_eq!(text.parse::<Target>().map(|target| target.host().to_owned()), Ok(host.to_owned()));
        }
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_the_reason() {
        for text in ["ftp://x", "http://", "http://:80", "http://h:port", "http://h:99999", "http://u@h"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
