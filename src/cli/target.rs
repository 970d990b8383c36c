//! Address of the server that a client command talks to.
//!
//! Always: a parsed target has a host and a port. Its base path has no trailing slash, and it holds nothing secret. An
//! error about a URL never repeats a password.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;

use clap::builder::{TypedValueParser, ValueParserFactory};
use clap::error::ErrorKind;

/// Address of a server, from a URL (`http://host:port`, `wss://…`, or `host:port` alone).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Whether the server speaks TLS.
    pub(super) is_secure: bool,
    /// `host:port`, with brackets around an IPv6 address.
    pub(super) authority: String,
    /// Path before `/ws`, `/sse` and `/publish`: empty, or a path that starts with a slash.
    base: String,
}

impl Target {
    /// Returns the WebSocket URL of a path.
    pub(super) fn ws(&self, path: &str) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}{}{path}", self.authority, self.base)
    }

    /// Returns the HTTP URL of a path.
    pub(super) fn http(&self, path: &str) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}{}{path}", self.authority, self.base)
    }

    /// Returns a path with the base before it.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Returns the host without the port, in the form that certificates use.
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
        if text.contains('@') {
            return Err(
                "no name or password belongs in a URL: give a token with FANWIRE_TOKEN or --token".into()
            );
        }
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
        let is_stray = |c: char| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control();
        if authority.contains('=') {
            return Err("that is no URL; a filter comes after the URL, or as --filter".into());
        }
        if authority.is_empty() || rest.contains(is_stray) {
            return Err("expected http://HOST:PORT, with nothing after it but a path".into());
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

/// Parser of targets from the command line or the environment. Its errors repeat nothing secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetParser;

impl TypedValueParser for TargetParser {
    type Value = Target;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Target, clap::Error> {
        let text = value.to_string_lossy();
        text.parse().map_err(|why| {
            let arg = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("invalid value '{}' for '{arg}': {why}\n", without_secrets(&text));
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

impl ValueParserFactory for Target {
    type Parser = TargetParser;

    fn value_parser() -> Self::Parser {
        TargetParser
    }
}

/// Removes every part of a URL that may be a name, a password or a token: everything before the last `@` except the
/// scheme, and everything after a `?` or `#`.
fn without_secrets(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let text = rest.rsplit_once('@').map_or(rest.to_owned(), |(_, host)| format!("…@{host}"));
    let text = match text.split_once(['?', '#']) {
        Some((before, _)) => format!("{before}…"),
        None => text,
    };
    // Text before `://` is a scheme only if it looks like one.
    match scheme {
        "" => text,
        scheme if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => format!("{scheme}://{text}"),
        _ => format!("…://{text}"),
    }
}

/// Returns the `error` of a JSON answer, or the first 200 characters of the answer.
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
    fn an_unusable_url_is_refused_with_the_reason() {
        for text in
            ["ftp://x", "http://", "http://:80", "http://h:port", "http://h:99999", "http://u@h", "h/?a=b"]
        {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        let why = "stream=run-42".parse::<Target>().expect_err("a filter");
        assert!(why.contains("a filter comes after the URL"), "{why}");
    }

    #[test]
    fn nothing_secret_of_a_url_is_repeated() {
        for (text, want) in [
            ("http://ann:s3cret@h:1/x", "http://…@h:1/x"),
            ("http://ann:s3c/r@t@h", "http://…@h"),
            ("ann:s3cret@h", "…@h"),
            ("https://h/?token=s3cret", "https://h/…"),
            ("ann:s3cret@h://x", "…://x"),
            ("ftp://h", "ftp://h"),
        ] {
            assert_eq!(without_secrets(text), want);
            let why = text.parse::<Target>().expect_err(text);
            assert!(!why.contains("s3c") && !why.contains("ann"), "{why}");
        }
    }
}
