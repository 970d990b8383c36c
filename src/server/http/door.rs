//! Decides which web pages may use the server, and under which names it may be called.
//!
//! Two attacks are prevented here. A page of any site can open a WebSocket to this machine and post to it without a
//! preflight; its `Origin` reveals it. A site with a name that resolves to 127.0.0.1 on the second look-up (DNS
//! rebinding, as in CVE-2025-24010) has an `Origin` that equals the Host; the Host reveals it.
//!
//! Always:
//! - A request without `Origin` and `Sec-Fetch-Site`, which no browser sent, is refused only for its Host.
//! - A refusal names the setting that would admit the request.

use std::fmt;

use crate::codec::http::{Method, Request};
use crate::dialect::HttpFault;
use crate::server::config::ServerConfig;
use crate::server::origin;
use crate::server::origin::HostName;
use crate::server::shared::Shared;

/// Maximum number of characters of a host or an origin in a refusal. A name has at most 253.
const SHOWN_MAX: usize = 300;

/// Reason why the server refuses the page that made a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PageRefusal<'a> {
    /// The Host is not a name of this server.
    Host(&'a str),
    /// The page's origin is not allowed.
    Origin(&'a str),
    /// A browser reports a page of another site, without its origin.
    CrossSite,
}

impl PageRefusal<'_> {
    /// Returns the status of the refusal, and its label in the metrics.
    pub(crate) fn fault(&self) -> HttpFault {
        match self {
            Self::Host(_) => HttpFault::Host,
            Self::Origin(_) | Self::CrossSite => HttpFault::Origin,
        }
    }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(SHOWN_MAX).map_or(text, |(at, _)| &text[..at])
}

impl fmt::Display for PageRefusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => {
                let name = HostName::of_authority(host).map_or("", HostName::text);
                let (host, name) = (cut(host), cut(name));
                write!(
                    f,
                    "Host {host} is none of this server's names: allowed_host = [\"{name}\"] (--allowed-host {name}) adds it; \
                     behind a proxy set limits.trusted_proxy"
                )
            }
            Self::Origin(origin) => {
                let origin = cut(origin);
                write!(
                    f,
                    "pages of origin {origin} are not allowed: allowed_origin = [\"{origin}\"] (--allowed-origin {origin}) \
                     lets them in; cors_origin too where they read answers"
                )
            }
            Self::CrossSite => f.write_str(
                "a page of another site asks without its origin (Sec-Fetch-Site: cross-site): fetch it with CORS from an \
                 origin in allowed_origin, or set allowed_origin = [\"*\"]",
            ),
        }
    }
}

/// Pages that may use the server.
#[derive(Debug)]
enum Pages<'a> {
    Any,
    /// The server's own pages and those of these origins.
    Named(&'a [String]),
    /// The server's own pages, those of this machine, and those of these origins.
    Local(&'a [String]),
}

/// Rules for the pages and names of a server.
#[derive(Debug)]
pub(crate) struct Door<'a> {
    config: &'a ServerConfig,
    pages: Pages<'a>,
    /// Whether the Host is checked.
    asks_host: bool,
}

fn has_star(list: &[String]) -> bool {
    list.iter().any(|item| item == "*")
}

impl<'a> Door<'a> {
    /// Returns the rules for a server without authentication (`is_open`) or with it, and one that listens only on
    /// loopback addresses (`is_local`) or not.
    pub(crate) fn new(config: &'a ServerConfig, is_open: bool, is_local: bool) -> Self {
        let (allowed, cors) = (&config.allowed_origins, &config.cors_origins);
        let pages = if has_star(allowed) {
            Pages::Any
        } else if !allowed.is_empty() {
            Pages::Named(allowed)
        } else if !is_open || has_star(cors) {
            // With authentication a page needs a token, and cookies are not accepted from other origins.
            Pages::Any
        } else {
            Pages::Local(cors)
        };
        let asks_host = is_local
            && is_open
            && config.trusted_proxies.is_empty()
            && ![allowed, cors, &config.allowed_hosts].into_iter().any(|list| has_star(list));
        Self { config, pages, asks_host }
    }

    /// Returns the rules for a running server.
    pub(crate) fn of(shared: &Shared, config: &'a ServerConfig) -> Self {
        Self::new(config, shared.auth.is_open(), shared.lifecycle.is_local)
    }

    /// Returns the reason to refuse a request, if there is one.
    pub(crate) fn refuse<'r>(&self, request: &'r Request) -> Option<PageRefusal<'r>> {
        // Browsers always send a Host. A request without one (HTTP/1.0) is a health check.
        if let Some(host) = request.header("host")
            && self.asks_host
            && !self.has_name(host)
        {
            return Some(PageRefusal::Host(host));
        }
        if matches!(self.pages, Pages::Any) {
            return None;
        }
        let mut origins = request.headers_named("origin").peekable();
        if origins.peek().is_some() {
            return origins.find(|origin| !self.allows_origin(origin, request)).map(PageRefusal::Origin);
        }
        is_of_another_site(request).then_some(PageRefusal::CrossSite)
    }

    /// Returns whether the Host names this server.
    fn has_name(&self, host: &str) -> bool {
        let Some(name) = HostName::of_authority(host) else { return false };
        let of_origin = |one: &String| HostName::of_origin(one).is_some_and(|known| known.is_same(name));
        name.is_address()
            || name.is_loopback()
            || self.config.allowed_hosts.iter().any(|pattern| name.is_among(pattern))
            || self.config.allowed_origins.iter().any(of_origin)
            || self.config.cors_origins.iter().any(of_origin)
    }

    fn allows_origin(&self, origin: &str, request: &Request) -> bool {
        if request.header("host").is_some_and(|host| origin::is_of_host(origin, host)) {
            return true;
        }
        let is_of_file = origin::is_of_file(origin);
        // AgentOS's page is opened from a file.
        if is_of_file && self.has_file_pages() {
            return true;
        }
        let origin = if is_of_file { "null" } else { origin };
        let among =
            |list: &[String]| list.iter().any(|allowed| allowed == "*" || origin::is_same(allowed, origin));
        match self.pages {
            Pages::Any => true,
            // Origins in `cors_origin` may read responses only.
            Pages::Named(list) => {
                among(list) || (!self.is_guarded(request) && among(&self.config.cors_origins))
            }
            Pages::Local(list) => origin::is_loopback(origin) || among(list),
        }
    }

    /// Returns whether a preset's clients are pages opened from files.
    fn has_file_pages(&self) -> bool {
        self.config.presets.iter().any(|preset| preset.has_file_pages())
    }

    /// Returns whether a request opens a stream, publishes or purges.
    fn is_guarded(&self, request: &Request) -> bool {
        let path = request.path.as_str();
        request.method != Method::Options
            && (path == "/publish"
                || path.starts_with("/runs/")
                || request.method == Method::Delete
                || path.starts_with("/bridge")
                || path.starts_with("/sse")
                || self.config.endpoint(path).is_some())
    }

    /// Describes the pages that may use the server.
    #[cfg(feature = "config-file")]
    pub(crate) fn describe_pages(&self) -> String {
        let of_files = self.has_file_pages();
        let null = if of_files { ", those opened from a file (dialect agentos)" } else { "" };
        let and = |list: &[String]| listed(list.iter().map(String::as_str));
        match &self.pages {
            Pages::Any if has_star(&self.config.allowed_origins) => "all (allowed_origin has *)".to_owned(),
            Pages::Any if has_star(&self.config.cors_origins) => "all (cors_origin has *)".to_owned(),
            Pages::Any => "all that show a token, key or ticket".to_owned(),
            Pages::Named(list) => format!("the server's own{}{null}", and(list)),
            Pages::Local(list) => {
                format!("the server's own, those of loopback addresses and localhost{}{null}", and(list))
            }
        }
    }

    /// Describes the names under which the server may be called.
    #[cfg(feature = "config-file")]
    pub(crate) fn describe_names(&self) -> String {
        if !self.asks_host {
            return "any".to_owned();
        }
        let hosts = self.config.allowed_hosts.iter().map(String::as_str);
        let origins = self.config.allowed_origins.iter().chain(&self.config.cors_origins);
        let names = origins.filter_map(|origin| HostName::of_origin(origin)).map(HostName::text);
        format!("localhost, *.localhost, addresses{}", listed(hosts.chain(names)))
    }

    /// Returns the setting that admits every page and name, if there is no authentication.
    pub(crate) fn open_setting(&self, is_open: bool) -> Option<&'static str> {
        let lists = [
            ("allowed_origin", &self.config.allowed_origins),
            ("cors_origin", &self.config.cors_origins),
            ("allowed_host", &self.config.allowed_hosts),
        ];
        let mut stars = lists.into_iter().filter(|(_, list)| has_star(list)).map(|(key, _)| key);
        stars.next().filter(|_| is_open)
    }
}

/// Logs a warning if a setting lets every web page use the server.
pub(crate) fn warn_if_open(shared: &Shared, config: &ServerConfig) {
    if let Some(key) = Door::of(shared, config).open_setting(shared.auth.is_open()) {
        tracing::warn!(
            "{key} has *, and there is no authentication: any web page that a browser near this server shows can read and \
             publish here"
        );
    }
}

/// Logs the warning if a new config opens the server, or opens it by another setting.
pub(crate) fn warn_if_opened(shared: &Shared, config: &ServerConfig) {
    let opens = |config: &ServerConfig| Door::of(shared, config).open_setting(true);
    if opens(config) != opens(&shared.config().1) {
        warn_if_open(shared, config);
    }
}

/// Describes which web pages may use a server with these settings, and by which names it may be called.
#[cfg(feature = "config-file")]
pub(crate) fn describe_access(config: &ServerConfig, is_local: bool) -> [(&'static str, String); 2] {
    #[cfg(feature = "auth")]
    let is_open = !config.auth.is_configured();
    #[cfg(not(feature = "auth"))]
    let is_open = true;
    let door = Door::new(config, is_open, is_local);
    [("web pages that may speak", door.describe_pages()), ("names (Host)", door.describe_names())]
}

/// Returns the items, each after a comma.
#[cfg(feature = "config-file")]
fn listed<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.flat_map(|item| [", ", item]).collect()
}

/// Returns whether a browser reports a request of another site's page: an image, a script or a frame. Links do not
/// count, because the page with the link sees nothing of the response.
fn is_of_another_site(request: &Request) -> bool {
    let has_value =
        |name: &str, value: &str| request.header(name).is_some_and(|it| it.eq_ignore_ascii_case(value));
    let is_link = matches!(request.method, Method::Get | Method::Head)
        && has_value("sec-fetch-mode", "navigate")
        && request.header("sec-fetch-dest").is_none_or(|it| it.eq_ignore_ascii_case("document"));
    has_value("sec-fetch-site", "cross-site") && !is_link
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HttpLimits, parse_request};

    fn request(text: &str) -> Request {
        let parsed = parse_request(text.as_bytes(), &HttpLimits::default()).expect(text);
        parsed.expect("a whole one").0
    }

    fn refused(config: &ServerConfig, host: &str, headers: &str) -> Option<&'static str> {
        let request = request(&format!("GET /ws HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"));
        Door::new(config, true, true).refuse(&request).map(|refusal| refusal.fault().label())
    }

    #[test]
    fn a_name_that_is_not_the_servers_is_refused() {
        let config = ServerConfig {
            allowed_hosts: vec!["events.example.com".to_owned(), "*.lan.example".to_owned()],
            allowed_origins: vec!["https://app.example:8443".to_owned()],
            cors_origins: vec!["http://read.example".to_owned()],
            ..ServerConfig::default()
        };
        for host in [
            "localhost",
            "localhost:8765",
            "LOCALHOST:1",
            "localhost.",
            "localhost.:80",
            "a.localhost",
            "A.b.LocalHost",
            "127.0.0.1:8765",
            "127.8.9.1",
            "[::1]",
            "[::1]:8765",
            "10.0.0.1",
            "[fe80::1]:1",
            "events.example.com",
            "Events.Example.COM.:443",
            "a.lan.example",
            "a.b.lan.example:1",
            "app.example",
            "app.example:1",
            "127.0.0.1.:8765",
            "read.example",
        ] {
            assert_eq!(refused(&config, host, ""), None, "{host}");
        }
        for host in [
            "evil.com",
            "evil.com:8765",
            "127.0.0.1.evil.com",
            "localhost.evil.com:8765",
            "evil.localhost.com",
            "t",
            "notlocalhost",
            "localhost..",
            ".localhost",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "",
            ":8765",
            "lan.example",
            "xlan.example",
            "events.example.com.evil.com",
            "a.events.example.com",
            "%6cocalhost",
            "localhost%00",
        ] {
            assert_eq!(refused(&config, host, ""), Some("host"), "{host}");
            let own = format!("Origin: http://{host}\r\n");
            assert_eq!(refused(&config, host, &own), Some("host"), "its own page is no better: {host}");
            // The page could add these headers itself.
            let more =
                "X-Forwarded-Host: localhost\r\nForwarded: host=localhost\r\nX-Forwarded-For: 127.0.0.1\r\n";
            assert_eq!(refused(&config, host, more), Some("host"), "{host}");
        }
    }

    #[test]
    fn the_host_counts_on_loopback_without_authentication_and_proxies_alone() {
        let named = request("GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n");
        let none = request("GET / HTTP/1.0\r\n\r\n");
        let config = ServerConfig::default();
        let is_refused = |config: &ServerConfig, is_open, is_local, request: &Request| {
            Door::new(config, is_open, is_local).refuse(request).is_some()
        };
        assert!(is_refused(&config, true, true, &named));
        assert!(!is_refused(&config, true, true, &none));
        assert!(!is_refused(&config, false, true, &named));
        assert!(!is_refused(&config, true, false, &named));
        let with = |change: fn(&mut ServerConfig)| {
            let mut config = ServerConfig::default();
            change(&mut config);
            is_refused(&config, true, true, &named)
        };
        assert!(!with(|c| c.trusted_proxies = vec!["10.0.0.1".parse().expect("an address")]));
        assert!(!with(|c| c.allowed_hosts = vec!["*".to_owned()]));
        assert!(!with(|c| c.allowed_origins = vec!["*".to_owned()]));
        assert!(!with(|c| c.cors_origins = vec!["*".to_owned()]));
        assert!(with(|c| c.allowed_origins = vec!["null".to_owned()]));
        // The host of the target is the Host, if there is one (RFC 9112, 3.2.2).
        let absolute = request("GET http://evil.com/ws HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(is_refused(&config, true, true, &absolute));
        let absolute = request("GET http://evil.com/ws HTTP/1.0\r\n\r\n");
        assert!(is_refused(&config, true, true, &absolute));
    }

    #[test]
    fn pages_of_this_machine_and_those_named_may_speak() {
        let config = ServerConfig::default();
        for origin in [
            "http://localhost:8765",
            "http://localhost",
            "https://localhost:1",
            "http://LOCALHOST:5173",
            "http://app.localhost:1",
            "http://127.0.0.1:3000",
            "http://127.1.2.3",
            "http://[::1]:3000",
            "https://[::1]",
            "http://[::ffff:127.0.0.1]:1",
            "http://localhost.:1",
        ] {
            assert_eq!(
                refused(&config, "localhost:8765", &format!("Origin: {origin}\r\n")),
                None,
                "{origin}"
            );
        }
        for origin in [
            "https://evil.example",
            "http://localhost.evil.com",
            "http://127.0.0.1.evil.com",
            "http://127.1",
            "http://10.0.0.1:8765",
            "null",
            "file://",
            "",
            "localhost",
            "http://localhost@evil.com",
            "http://localhost:1 http://evil.com",
            "ftp://localhost",
            "chrome-extension://localhost",
            "http://localhost:99999",
            "http://[::1]evil.com",
            "http://[::2]",
        ] {
            let header = format!("Origin: {origin}\r\n");
            assert_eq!(refused(&config, "localhost:8765", &header), Some("origin"), "{origin}");
            let after = format!("Origin: http://localhost:1\r\n{header}");
            assert_eq!(
                refused(&config, "localhost:8765", &after),
                Some("origin"),
                "the second of two: {origin}"
            );
        }
        let cors_origins = vec!["https://app.example".to_owned()];
        let mut config = ServerConfig { cors_origins, ..ServerConfig::default() };
        assert_eq!(refused(&config, "localhost", "Origin: https://app.example\r\n"), None);
        config.allowed_origins = vec!["https://one.example".to_owned()];
        assert_eq!(refused(&config, "localhost", "Origin: https://app.example\r\n"), Some("origin"));
        assert_eq!(
            refused(&config, "localhost", "Origin: http://localhost:1\r\n"),
            Some("origin"),
            "a set list is all"
        );
        assert_eq!(refused(&config, "localhost", "Origin: http://localhost\r\n"), None, "its own");
        config.presets = vec![crate::server::endpoint::Preset::Agentos];
        for of_file in ["null", "file://"] {
            assert_eq!(refused(&config, "localhost", &format!("Origin: {of_file}\r\n")), None);
        }
        let config = ServerConfig { allowed_origins: vec!["null".to_owned()], ..ServerConfig::default() };
        assert_eq!(refused(&config, "localhost", "Origin: null\r\n"), None);
        assert_eq!(refused(&config, "localhost", "Origin: file://\r\n"), None);
    }

    #[test]
    fn an_image_of_another_site_opens_no_stream_and_a_link_does() {
        let config = ServerConfig::default();
        for (headers, label) in [
            (
                "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
                Some("origin"),
            ),
            ("Sec-Fetch-Site: Cross-Site\r\n", Some("origin")),
            (
                "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
                Some("origin"),
            ),
            ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", None),
            ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", None),
            ("Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: no-cors\r\n", None),
            ("Sec-Fetch-Site: same-origin\r\n", None),
            ("Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n", None),
            ("Sec-Fetch-Site: cross-site\r\nOrigin: http://localhost:5173\r\n", None),
            ("", None),
        ] {
            assert_eq!(refused(&config, "localhost", headers), label, "{headers}");
        }
        let form = request(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n\r\n",
        );
        assert_eq!(Door::new(&config, true, true).refuse(&form), Some(PageRefusal::CrossSite));
    }

    #[test]
    fn a_refusal_names_the_setting_and_its_value_in_one_line() {
        for (refusal, setting) in [
            (PageRefusal::Host("evil.com:8765"), "--allowed-host evil.com)"),
            (PageRefusal::Origin("https://a.example:1"), "allowed_origin = [\"https://a.example:1\"]"),
            (PageRefusal::CrossSite, "allowed_origin"),
        ] {
            let text = refusal.to_string();
            assert!(text.contains(setting) && !text.contains('\n'), "{text}");
        }
        let long = "x".repeat(10_000);
        assert!(PageRefusal::Host(&long).to_string().len() < 1500);
        assert!(PageRefusal::Origin(&long).to_string().len() < 1500);
    }
}
