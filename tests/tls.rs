//! TLS from outside: a client of rustls' own, with an authority made here.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, StreamOwned};
use serde_json::{Value, json};
use support::authority::Authority;
use support::{PATIENCE, Server, eventually, fanwire, numbered, run};

/// A server that speaks TLS.
struct Tls(Server);

impl Tls {
    fn start(authority: &Authority, more: &[&str]) -> Self {
        let path = |name| authority.path(name).to_str().expect("UTF-8").to_owned();
        let (cert, key) = (path("cert.pem"), path("key.pem"));
        let files = ["--log-level", "info", "--tls-cert-file", &cert, "--tls-key-file", &key];
        Self(Server::with(&[&files, more].concat()))
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> Stream {
        let tcp = TcpStream::connect(self.0.addr).expect("it listens");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let name = ServerName::try_from("localhost").expect("a name");
        StreamOwned::new(ClientConnection::new(Arc::clone(config), name).expect("a client"), tcp)
    }

    fn post(&self, config: &Arc<ClientConfig>, body: &str) -> String {
        let mut stream = self.connect(config);
        let head = format!(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("written");
        stream.write_all(body.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, and TLS' own farewell");
        answer
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A WebSocket over a stream, subscribed to everything.
fn subscribed(stream: Stream) -> tungstenite::WebSocket<Stream> {
    let (mut ws, _) = tungstenite::client("wss://localhost/ws", stream).expect("an upgrade");
    let subscribe = json!({ "type": "subscribe", "message_id": "s", "payload": {} });
    ws.send(subscribe.to_string().into()).expect("sent");
    assert_eq!(message(&mut ws)["type"], "ack");
    ws
}

fn message(ws: &mut tungstenite::WebSocket<Stream>) -> Value {
    loop {
        if let tungstenite::Message::Text(text) = ws.read().expect("a message") {
            return serde_json::from_str(&text).expect("JSON");
        }
    }
}

fn peer_certificate(stream: &Stream) -> CertificateDer<'static> {
    stream.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

#[test]
fn publish_websocket_and_sse_go_over_tls_of_both_versions() {
    let authority = Authority::new("versions");
    let server = Tls::start(&authority, &[]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = authority.client(&[version]);
        let mut ws = subscribed(server.connect(&config));
        let mut sse = server.connect(&config);
        sse.write_all(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
        let mut sse = BufReader::new(sse);
        let mut line = String::new();
        while !line.starts_with("retry:") {
            line.clear();
            sse.read_line(&mut line).expect("the stream begins");
        }
        let answer = server.post(&config, &numbered(7));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(message(&mut ws)["payload"]["payload"]["n"], 7);
        while !line.starts_with("data:") {
            line.clear();
            sse.read_line(&mut line).expect("an event");
        }
        assert!(line.contains("{\"n\":7}"), "{line}");
        let conn = &ws.get_ref().conn;
        assert_eq!(conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let expected = if version.version == ProtocolVersion::TLSv1_3 {
            ProtocolVersion::TLSv1_3
        } else {
            ProtocolVersion::TLSv1_2
        };
        assert_eq!(conn.protocol_version(), Some(expected));
    }
}

#[test]
fn curl_takes_the_server_for_whom_it_is() {
    let authority = Authority::new("curl");
    let server = Tls::start(&authority, &["--tls-min-version", "1.3"]);
    let url = format!("https://localhost:{}/healthz", server.0.addr.port());
    let ca = authority.path("ca.pem");
    let curl = |more: &[&str]| {
        run(Command::new("curl").args(["-sS", "--noproxy", "*", "-m", "20"]).args(more).arg(&url))
    };
    let ca = ca.to_str().expect("UTF-8");
    let good = curl(&["--cacert", ca, "--resolve", &format!("localhost:{}:127.0.0.1", server.0.addr.port())]);
    assert_eq!(String::from_utf8_lossy(&good.stdout), r#"{"status":"ok"}"#, "{good:?}");
    assert!(!curl(&[]).status.success(), "an authority that is not known");
    assert!(!curl(&["--cacert", ca, "--tls-max", "1.2"]).status.success(), "too old");
}

#[test]
fn a_reader_that_is_slow_gets_every_event_in_order() {
    let authority = Authority::new("slow");
    let server = Tls::start(&authority, &["--max-lag-events", "100000", "--max-lag-bytes", "1GiB"]);
    let config = authority.client(rustls::ALL_VERSIONS);
    let mut ws = subscribed(server.connect(&config));
    // Some megabytes: more than the sockets hold, so that writes are cut short again and again.
    let count = 6000;
    let filler = "x".repeat(1000);
    for part in 0..6 {
        let body: String = (part * 1000..(part + 1) * 1000)
            .map(|n| json!({ "type": "t", "payload": { "n": n, "x": filler } }).to_string() + "\n")
            .collect();
        assert!(server.post(&config, &body).starts_with("HTTP/1.1 200"));
    }
    for n in 0..count {
        let event = message(&mut ws);
        assert_eq!((&event["type"], &event["payload"]["payload"]["n"]), (&json!("event"), &json!(n)));
    }
    ws.close(None).expect("a close");
    loop {
        match ws.read() {
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => break,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn who_speaks_no_tls_is_told_so_and_hurts_nobody() {
    let authority = Authority::new("plain");
    let server = Tls::start(&authority, &[]);
    let config = authority.client(rustls::ALL_VERSIONS);
    let mut ws = subscribed(server.connect(&config));
    let plain = |bytes: &[u8]| {
        let mut tcp = TcpStream::connect(server.0.addr).expect("it listens");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        tcp.write_all(bytes).expect("written");
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = tcp.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = plain(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this port speaks TLS"), "{answer}");
    plain(&[0x16, 3, 1, 0xff, 0xff, 1, 2, 3]);
    plain(&[0; 5000]);
    assert!(server.post(&config, &numbered(1)).starts_with("HTTP/1.1 200"));
    assert_eq!(message(&mut ws)["payload"]["payload"]["n"], 1);
}

#[test]
fn a_hangup_brings_the_new_certificate_to_new_clients_and_a_bad_one_to_nobody() {
    let authority = Authority::new("reload");
    let server = Tls::start(&authority, &[]);
    let config = authority.client(rustls::ALL_VERSIONS);
    let mut ws = subscribed(server.connect(&config));
    let before = peer_certificate(ws.get_ref());
    let now = || {
        let ws = subscribed(server.connect(&authority.client(rustls::ALL_VERSIONS)));
        peer_certificate(ws.get_ref())
    };
    assert_eq!(now(), before);
    authority.sign();
    server.0.signal("HUP");
    eventually("a new client sees the new certificate", || now() != before);
    let newer = now();
    std::fs::write(authority.path("cert.pem"), "no certificate").expect("a file");
    server.0.signal("HUP");
    eventually("the log says what is wrong", || server.0.log().contains("cert.pem: no certificate in it"));
    assert_eq!(now(), newer);
    server.post(&config, &numbered(3));
    assert_eq!(message(&mut ws)["payload"]["payload"]["n"], 3, "the first client is still there");
}

#[test]
fn a_certificate_without_its_key_is_refused_at_the_start() {
    let authority = Authority::new("key");
    let other = Authority::new("other");
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (cert, key) = (path(&authority.path("cert.pem")), path(&other.path("key.pem")));
    for (options, fault) in [
        (vec!["--tls-cert-file", &cert], "one is missing"),
        (vec!["--tls-cert-file", &cert, "--tls-key-file", &cert], "no private key in it"),
        (vec!["--tls-cert-file", &cert, "--tls-key-file", &key], "cert.pem: "),
        (vec!["--tls-cert-file", "/nonexistent", "--tls-key-file", &key], "/nonexistent: "),
    ] {
        let output = run(fanwire().args(["serve", "--listen", "127.0.0.1:0"]).args(&options));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(fault), "{options:?}: {error}");
    }
}

#[test]
fn our_own_commands_speak_it_and_check_whom_they_speak_to() {
    let authority = Authority::new("commands");
    let secret = "a secret of thirty-two bytes, no less";
    let server = Tls::start(&authority, &["--auth-jwt-hs256-secret", secret]);
    let mut make = fanwire();
    make.args(["token", "--publish", "--admin", "--stream", "*"])
        .env("FANWIRE_AUTH_JWT_HS256_SECRET", secret);
    let token = String::from_utf8(run(&mut make).stdout).expect("a token is text");
    let url = format!("https://localhost:{}", server.0.addr.port());
    let ask = |args: &[&str]| {
        let mut command = fanwire();
        command.args(args).env("FANWIRE_URL", &url).env("FANWIRE_TOKEN", token.trim());
        command.env("FANWIRE_CA_FILE", authority.path("ca.pem"));
        let output = run(&mut command);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, answer, error) = ask(&["publish", "--type", "over.tls", "--payload", r#"{"n":1}"#, "--json"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(answer.contains(r#""accepted":1"#), "{answer}");
    for more in [&["tail"][..], &["tail", "--sse"]] {
        let (code, shown, error) = ask(&[more, &["--history", "1", "--count", "1", "--json"]].concat());
        assert_eq!(code, Some(0), "{error}");
        assert!(shown.contains("over.tls"), "{shown}");
    }
    let (code, frame, error) = ask(&["top"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(frame.contains(&url) && frame.contains("serving"), "{frame}");
    let verify = ["verify", "--seconds", "1", "--ws", "1", "--sse", "1", "--slow", "0", "--json"];
    let (code, report, error) = ask(&verify);
    assert_eq!(code, Some(0), "{report}{error}");

    // Nobody on this machine vouches for it.
    for command in ["publish", "verify"] {
        let output = run(fanwire().args([command, "--ca-file", "/nowhere.pem"]).env("FANWIRE_URL", &url));
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read /nowhere.pem"), "{output:?}");
    }
    let other = Authority::new("another");
    let mut stranger = fanwire();
    stranger.args(["tail", "--no-reconnect", "--url", &url, "--ca-file"]).arg(other.path("ca.pem"));
    let output = run(&mut stranger);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("certificate"), "{output:?}");
}
