//! Compression with other people's clients: curl, Node, Chromium, each directly and through nginx.

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::mpsc::channel;

use support::nginx::Nginx;
use support::script::{Script, Stage, tool};
use support::wire::{Wire, deadline};
use support::{PATIENCE, Server, http, numbered};

/// nginx before a server, configured as in docs/compression.md.
fn before(server: &Server) -> Nginx {
    Nginx::start(|addr, _| {
        format!(
            "map $http_upgrade $upgrade {{ default upgrade; '' ''; }}\n\
             server {{ listen {addr}; location / {{\n\
             proxy_pass http://{}; proxy_http_version 1.1; proxy_read_timeout 86400;\n\
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgrade;\n\
             }} }}\n",
            server.addr
        )
    })
}

/// Reads a stream with `curl --compressed`. Each event must arrive before the next one is published.
fn curl_reads_live(server: &Server, through: SocketAddr) {
    let before = server.metric("fanwire_feed_deflates_total").unwrap_or_default();
    let mut child = tool("curl")
        .args(["-sSN", "--compressed", "--max-time", "60", &format!("http://{through}/sse")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl starts");
    let (send, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    let next = |what: &str| loop {
        let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("curl does not see {what}"));
        if line.starts_with(what) {
            return line;
        }
    };
    next("retry: ");
    for n in 0..20 {
        server.publish(numbered(n));
        assert!(next("data: ").contains(&format!("{{\"n\":{n}}}")));
    }
    let deflates = server.metric("fanwire_feed_deflates_total").unwrap_or_default() - before;
    assert!((deflates - 20.0).abs() < 0.5, "{deflates} deflates for 20 events");
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn curl_reads_a_compressed_stream_live() {
    let server = Server::start();
    curl_reads_live(&server, server.addr);
}

#[test]
fn nginx_passes_a_compressed_stream_on_as_it_comes() {
    let server = Server::start();
    let nginx = before(&server);
    curl_reads_live(&server, nginx.addr);
}

#[test]
fn clients_that_do_not_ask_for_compression_get_plain_bytes() {
    let server = Server::with(&["--heartbeat", "200ms"]);
    for encodings in ["identity", "gzip;q=0", "br, *;q=0", ""] {
        let answer = head_of(server.addr, "/sse", &[("Accept-Encoding", encodings)]);
        assert_eq!(answer.header("content-encoding"), None, "{encodings}");
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    }
    for encodings in ["gzip", "deflate, GZIP;q=0.5, br", "*"] {
        let answer = head_of(server.addr, "/sse", &[("Accept-Encoding", encodings)]);
        assert_eq!(answer.header("content-encoding"), Some("gzip"), "{encodings}");
    }
    let off = Server::with(&["--compression=false"]);
    let answer = head_of(off.addr, "/sse", &[("Accept-Encoding", "gzip")]);
    assert_eq!((answer.header("content-encoding"), answer.header("vary")), (None, None));
}

/// Returns the head of the answer to a GET with these headers.
fn head_of(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> http::Response {
    let headers: String = headers.iter().flat_map(|(name, value)| [*name, ": ", *value, "\r\n"]).collect();
    let mut wire = Wire::connect(addr);
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n").as_bytes());
    http::read_head(&mut wire, deadline()).expect("an answer")
}

/// Runs a script against a server, directly or through nginx.
fn script(name: &str, nginx: bool, checks: usize) {
    let mut stage = Stage::new(&["--heartbeat", "2s"]);
    let proxy = nginx.then(|| before(&stage.server));
    let url = proxy.as_ref().map_or_else(|| stage.url(), |nginx| format!("http://{}", nginx.addr));
    Script::start(name, &[&url]).finish(&mut stage, checks);
}

#[test]
fn node_reads_every_form() {
    script("compressed.mjs", false, 6);
}

#[test]
fn node_reads_every_form_through_nginx() {
    script("compressed.mjs", true, 6);
}

#[test]
fn chromium_reads_both_live() {
    script("browser_compressed.mjs", false, 2);
}

#[test]
fn chromium_reads_both_live_through_nginx() {
    script("browser_compressed.mjs", true, 2);
}

#[test]
fn a_page_from_elsewhere_is_refused_where_only_some_are_allowed() {
    let server = Server::with(&["--allowed-origin", "https://app.example"]);
    let own = format!("http://{}", server.addr);
    for (origin, status) in [
        (Some("https://app.example"), 200),
        (Some(own.as_str()), 200),
        (None, 200),
        (Some("https://evil.example"), 403),
    ] {
        let headers: Vec<(&str, &str)> = origin.map(|origin| ("Origin", origin)).into_iter().collect();
        let answer = head_of(server.addr, "/sse", &headers);
        assert_eq!(answer.status, status, "{origin:?}");
        let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut all =
            vec![("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"), key];
        all.extend(headers);
        let answer = head_of(server.addr, "/ws", &all);
        assert_eq!(answer.status, if status == 200 { 101 } else { 403 }, "{origin:?}");
    }
}
