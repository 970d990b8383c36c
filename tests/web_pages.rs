//! Attacks of web pages on a server without authentication: pages of other sites, pages with a name that resolves to
//! this machine (DNS rebinding), and pages without an origin. Also pages that may use the server.

mod support;

use std::net::SocketAddr;

use serde_json::json;
use support::http::{self, Response};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::{KEY, Ws};
use support::{Server, eventually, fanwire, run};

const EVIL: &str = "https://evil.example";

/// Every way to read, subscribe and publish.
const GETS: [&str; 17] = [
    "/",
    "/index.html",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/stats",
    "/api/history",
    "/api/explain?id=1",
    "/api/subscriptions?client_id=a",
    "/api/presence/a",
    "/sse",
    "/sse/events",
    "/bridge",
    "/nowhere",
    "/sse?history=5",
    "/ws",
    "/hive",
];
const SOCKETS: [&str; 8] = [
    "/ws",
    "/ws/events",
    "/hive",
    "/autosdlc",
    "/ws/circles/a",
    "/ws/workspaces/a",
    "/ws/agents/a",
    "/own/path",
];
const POSTS: [&str; 4] = ["/publish", "/bridge/a2a", "/ticket", "/api/revoke"];

fn ask(addr: SocketAddr, method: &str, path: &str, host: &str, headers: &str, body: &str) -> Response {
    let length = if body.is_empty() && method != "POST" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{length}\r\n{body}"
    );
    let mut wire = Wire::connect(addr);
    wire.send_if_taken(request.as_bytes());
    // Only the head: streams have no end.
    let head = http::read_head(&mut wire, deadline()).expect("an answer");
    let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let body = if method == "HEAD" { Vec::new() } else { wire.take(length, deadline()).expect("its body") };
    Response { body, ..head }
}

fn upgrade(addr: SocketAddr, path: &str, host: &str, headers: &str) -> Response {
    let headers = format!(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{headers}"
    );
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    let mut wire = Wire::connect(addr);
    wire.send(request.as_bytes());
    let head = http::read_head(&mut wire, deadline()).expect("an answer");
    if head.status == 101 {
        return head;
    }
    let length = head.header("content-length").expect("a length").parse().expect("a number");
    let body = wire.take(length, deadline()).expect("its body");
    Response { body, ..head }
}

/// Sends a request in every way, and returns the answers that are not 403.
fn not_refused(addr: SocketAddr, host: &str, headers: &str) -> Vec<String> {
    let gets = GETS.iter().flat_map(|path| ["GET", "HEAD"].map(|method| (method, *path, "")));
    let posts = POSTS.iter().map(|path| ("POST", *path, r#"{"type":"planted"}"#));
    let plain = gets.chain(posts).map(|(method, path, body)| {
        let headers = if method == "POST" {
            format!("Content-Type: text/plain\r\n{headers}")
        } else {
            headers.to_owned()
        };
        (format!("{method} {path}"), ask(addr, method, path, host, &headers, body))
    });
    let sockets = SOCKETS.iter().flat_map(|path| {
        ["", "Sec-WebSocket-Protocol: fanwire.v1\r\n"].map(|more| {
            (format!("upgrade {path} {more:?}"), upgrade(addr, path, host, &format!("{headers}{more}")))
        })
    });
    plain.chain(sockets).filter(|(_, answer)| answer.status != 403).map(|(what, _)| what).collect()
}

fn options() -> Vec<&'static str> {
    vec!["--endpoint", "/own/path=hive", "--presence-channels", "*"]
}

#[test]
fn a_page_of_another_site_can_read_and_publish_nothing() {
    let server = Server::with(&options());
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let own = server.addr.to_string();
    for host in [own.as_str(), "localhost:8765"] {
        for headers in [
            format!("Origin: {EVIL}\r\n"),
            "Origin: null\r\n".to_owned(),
            "Origin: file://\r\n".to_owned(),
            "Origin: http://localhost.evil.com\r\n".to_owned(),
            format!("Origin: {EVIL}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"),
            // A request for an image or a script from any page has no origin.
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n".to_owned(),
        ] {
            assert_eq!(not_refused(server.addr, host, &headers), [""; 0], "{host} {headers}");
        }
    }
    let status = |origin: &str| {
        let headers = format!("Origin: {origin}\r\nContent-Type: text/plain\r\n");
        ask(server.addr, "POST", "/publish", &own, &headers, r#"{"type":"asked"}"#).status
    };
    for origin in
        ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:3000", "https://app.localhost"]
    {
        assert_eq!(status(origin), 200, "{origin}");
        assert_eq!(
            upgrade(server.addr, "/ws", &own, &format!("Origin: {origin}\r\n")).status,
            101,
            "{origin}"
        );
        assert_eq!(reader.event()["event_type"], "asked", "and nothing else was published");
    }
    assert_eq!(status(&format!("http://{own}")), 200);
    assert_eq!(reader.event()["event_type"], "asked");
    // Programs are not pages, and a link to this server is the user's own click.
    assert_eq!(ask(server.addr, "GET", "/api/stats", &own, "", "").status, 200);
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    assert_eq!(ask(server.addr, "GET", "/", &own, link, "").status, 200);
}

#[test]
fn a_page_with_a_rebound_name_is_refused_everywhere() {
    let server = Server::with(&options());
    for host in ["evil.com", "evil.com:8765", "127.0.0.1.evil.com", "localhost.evil.com:80", "t"] {
        let own = format!(
            "Origin: http://{host}\r\nX-Forwarded-Host: localhost\r\nSec-Fetch-Site: same-origin\r\n"
        );
        assert_eq!(not_refused(server.addr, host, ""), [""; 0], "{host}");
        assert_eq!(not_refused(server.addr, host, &own), [""; 0], "{host}");
    }
    for host in
        ["localhost", "LOCALHOST:1", "localhost.:80", "a.localhost", "127.9.9.9", "[::1]:8765", "192.168.1.1"]
    {
        assert_eq!(ask(server.addr, "GET", "/api/stats", host, "", "").status, 200, "{host}");
    }
    // A host in the request's target takes precedence, and a health check over HTTP/1.0 may have none.
    assert_eq!(ask(server.addr, "GET", "http://evil.com/api/stats", "localhost", "", "").status, 403);
    assert_eq!(http::exchange(server.addr, b"GET /readyz HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(
        http::exchange(server.addr, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n").status,
        400
    );
    let named = Server::with(&["--allowed-host", "*.example.com", "--cors-origin", "https://app.example"]);
    for (host, status) in
        [("a.example.com:1", 200), ("example.com", 403), ("app.example", 200), ("evil.com", 403)]
    {
        assert_eq!(ask(named.addr, "GET", "/api/stats", host, "", "").status, status, "{host}");
    }
    for opened in [["--limits-trusted-proxy", "10.0.0.1"], ["--allowed-host", "*"], ["--allowed-origin", "*"]]
    {
        let server = Server::with(&opened);
        assert_eq!(ask(server.addr, "GET", "/api/stats", "evil.com", "", "").status, 200, "{opened:?}");
    }
}

#[test]
fn a_body_of_a_refused_page_is_not_waited_for() {
    let server = Server::start();
    let mut wire = Wire::connect(server.addr);
    wire.send(
        format!("POST /publish HTTP/1.1\r\nHost: localhost\r\nOrigin: {EVIL}\r\nExpect: 100-continue\r\nContent-Length: 4000000\r\n\r\n")
            .as_bytes(),
    );
    assert_eq!(http::read_head(&mut wire, deadline()).expect("an answer").status, 403);
}

#[test]
fn a_refusal_names_its_remedy_in_one_line_and_the_log_stays_short() {
    let server = Server::start();
    let error = |host: &str, headers: &str| {
        let answer = ask(server.addr, "GET", "/sse", host, headers, "");
        assert_eq!(answer.status, 403);
        answer.json()["error"].as_str().expect("a text").to_owned()
    };
    for _ in 0..200 {
        let text = error("localhost", &format!("Origin: {EVIL}:8443\r\n"));
        assert!(text.contains("allowed_origin = [\"https://evil.example:8443\"]"), "{text}");
    }
    let text = error("events.example.com:8765", "");
    assert!(text.contains("--allowed-host events.example.com)"), "{text}");
    let preflight = ask(
        server.addr,
        "OPTIONS",
        "/publish",
        "localhost",
        &format!("Origin: {EVIL}\r\nAccess-Control-Request-Method: POST\r\n"),
        "",
    );
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (403, None));
    eventually("the log says so", || server.log().contains("--allowed-origin https://evil.example:8443"));
    let lines = server.log().lines().count();
    assert!(lines < 100, "{lines} lines for 202 refusals\n{}", server.log());
    // The step that the error names works.
    let opened = Server::with(&[
        "--allowed-origin",
        "https://evil.example:8443",
        "--allowed-host",
        "events.example.com",
    ]);
    let answer = ask(
        opened.addr,
        "GET",
        "/sse",
        "events.example.com:8765",
        "Origin: https://evil.example:8443\r\n",
        "",
    );
    assert_eq!(answer.status, 200);
}

#[test]
fn all_pages_are_allowed_if_configured_and_the_log_has_one_line() {
    for option in ["--allowed-origin", "--cors-origin"] {
        let server = Server::with(&[option, "*"]);
        assert_eq!(
            ask(server.addr, "GET", "/sse", "evil.com", &format!("Origin: {EVIL}\r\n"), "").status,
            200
        );
        assert_eq!(upgrade(server.addr, "/ws", "evil.com", "Origin: null\r\n").status, 101);
        eventually("the log says so", || server.log().contains("any web page"));
        assert_eq!(server.log().matches("any web page").count(), 1, "{}", server.log());
    }
    let secret = "a secret of thirty-two bytes, or more";
    let mut guarded = fanwire();
    guarded.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]);
    let guarded = Server::spawn(guarded.env("FANWIRE_AUTH_JWT_HS256_SECRET", secret));
    // The token decides about access, not the page that sends it.
    let token = support::token(secret, &["--stream", "*"]);
    let headers = format!("Origin: {EVIL}\r\nAuthorization: Bearer {token}\r\n");
    assert_eq!(ask(guarded.addr, "GET", "/sse", "evil.com", &headers, "").status, 200);
    assert_eq!(guarded.log(), "");
}

#[test]
fn pages_opened_from_a_file_may_come_in_where_agentos_is_spoken_or_null_is_allowed() {
    for options in [["--dialect", "agentos"], ["--allowed-origin", "null"]] {
        let server = Server::with(&options);
        for origin in ["null", "file://"] {
            let headers = format!("Origin: {origin}\r\n");
            assert_eq!(
                upgrade(server.addr, "/ws/events", "localhost", &headers).status,
                101,
                "{options:?} {origin}"
            );
            let stream = Sse::with(server.addr, "", &headers);
            assert_eq!(stream.response.status, 200);
        }
        let evil = format!("Origin: {EVIL}\r\n");
        assert_eq!(upgrade(server.addr, "/ws/events", "localhost", &evil).status, 403, "{options:?}");
    }
}

#[test]
fn a_reload_changes_the_allowed_pages() {
    let file = std::env::temp_dir().join(format!("fanwire-door-{}.toml", std::process::id()));
    let write = |text: &str| std::fs::write(&file, text).expect("a file of our own");
    write("");
    let server = Server::with(&["--config", file.to_str().expect("UTF-8")]);
    let evil = format!("Origin: {EVIL}\r\n");
    let status = || ask(server.addr, "GET", "/api/stats", "name.example", &evil, "").status;
    assert_eq!(status(), 403);
    write(&format!("allowed_origin = [\"{EVIL}\"]\nallowed_host = [\"name.example\"]\n"));
    server.signal("HUP");
    eventually("the origin and the host are allowed", || status() == 200);
    write("");
    server.signal("HUP");
    eventually("they are not any more", || status() == 403);
    std::fs::remove_file(&file).expect("it was there");
}

#[test]
fn check_prints_the_effective_settings() {
    let says = |options: &[&str]| {
        let output = run(fanwire().arg("check").args(options));
        String::from_utf8(output.stdout).expect("text")
    };
    let text = says(&[]);
    assert!(
        text.contains(
            "web pages that may speak: the server's own, those of loopback addresses and localhost\n"
        ),
        "{text}"
    );
    assert!(text.contains("names (Host): localhost, *.localhost, addresses\n"), "{text}");
    let text =
        says(&["--allowed-host", "a.example", "--cors-origin", "https://b.example", "--dialect", "agentos"]);
    assert!(
        text.contains("localhost, https://b.example, those opened from a file (dialect agentos)\n"),
        "{text}"
    );
    assert!(text.contains("addresses, a.example, b.example\n"), "{text}");
    let text = says(&["--allowed-origin", "*"]);
    assert!(text.contains("all (allowed_origin has *)") && text.contains("names (Host): any"), "{text}");
    for bad in ["http://a.example", "a.example:8443", "a b", "*.*", "[::1"] {
        let output = run(fanwire().args(["check", "--allowed-host", bad]));
        assert!(!output.status.success(), "{bad:?} is a host");
    }
}
