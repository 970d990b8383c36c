//! Which server a client command talks to. Imports its parent's error only.
//! Always: a parsed target has a host, a port and no trailing slash in its base path.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long to wait for a server to take a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server's address, from a URL (`http://host:port`, `ws://…`, or `host:port` alone).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `host:port`, the host in brackets where it is an IPv6 address.
    pub(super) authority: String,
    /// What stands before `/ws`, `/sse` and `/publish`: empty, or a path that starts with a slash.
    base: String,
}

impl Target {
    /// The WebSocket URL of a path.
    pub(super) fn ws(&self, path: &str) -> String {
        format!("ws://{}{}{path}", self.authority, self.base)
    }

    /// The HTTP URL of a path.
    pub(super) fn http(&self, path: &str) -> String {
        format!("http://{}{}{path}", self.authority, self.base)
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
        match scheme {
            "http" | "ws" => {}
            "https" | "wss" => {
                return Err(
                    "this build speaks no TLS: use http:// (through a proxy or tunnel if need be)".into()
                );
            }
            _ => return Err(format!("unknown scheme `{scheme}`: expected http:// or ws://")),
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || authority.contains(['@', '?', '#', ' ']) {
            return Err("expected http://HOST:PORT".into());
        }
        // A colon after the last bracket is a port; colons within brackets are IPv6.
        let port = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        let authority = match port {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => authority.to_owned(),
            Some(_) => return Err(format!("`{authority}` is not HOST:PORT")),
            None => format!("{authority}:80"),
        };
        Ok(Self { authority, base: path.trim_end_matches('/').to_owned() })
    }
}

/// The HTTP client of `publish` and `tail --sse`: an answer of any status is an answer, no environment proxies.
pub(super) fn http_agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .proxy(None)
        .user_agent(concat!("fanwire/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// The `Authorization` header's value for a token.
pub(super) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
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
        ] {
            assert_eq!(text.parse::<Target>().map(|target| target.ws("/ws")), Ok(ws.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_the_reason() {
        for text in
            ["https://x", "ftp://x", "http://", "http://:80", "http://h:port", "http://h:99999", "http://u@h"]
        {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
