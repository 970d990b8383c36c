//! TLS from outside: a client made with rustls, and an authority created by the test.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, ClientConfig, ProtocolVersion};
use serde_json::{Value, json};
use support::authority::{Authority, TlsStream as Stream, over_tls};
use support::wire::Wire;
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
        over_tls(TcpStream::connect(self.0.addr).expect("it listens"), config)
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
        stream.read_to_string(&mut answer).expect("an answer, and TLS' close_notify");
        answer
    }
}

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
fn the_server_prefers_aes_128_and_takes_what_a_client_has() {
    let authority = Authority::new("ciphers");
    let server = Tls::start(&authority, &[]);
    let chosen = |config: &Arc<ClientConfig>| {
        let mut stream = server.connect(config);
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("written");
        stream.read_to_string(&mut String::new()).expect("an answer");
        stream.conn.negotiated_cipher_suite().expect("a handshake").suite()
    };
    for (version, expected) in [
        (&rustls::version::TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&rustls::version::TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        // rustls offers AES-256 first.
        let mut provider = rustls::crypto::ring::default_provider();
        assert_eq!(chosen(&authority.client_with(provider.clone(), &[version])), expected);
        provider.cipher_suites.retain(|suite| suite.suite() != expected);
        assert_ne!(chosen(&authority.client_with(provider, &[version])), expected);
    }
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
fn curl_accepts_the_servers_certificate() {
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
    // Some megabytes, more than the sockets hold, so that many writes are partial.
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
fn a_client_without_tls_gets_an_error_and_affects_no_other() {
    let authority = Authority::new("plain");
    let server = Tls::start(&authority, &[]);
    let config = authority.client(rustls::ALL_VERSIONS);
    let mut ws = subscribed(server.connect(&config));
    let plain = |bytes: &[u8]| {
        let mut tcp = TcpStream::connect(server.0.addr).expect("it listens");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        tcp.write_all(bytes).expect("written");
        let mut answer = Vec::new();
        // A reset is an end, too.
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
fn a_hangup_loads_a_new_certificate_for_new_clients_and_refuses_a_bad_one() {
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
    let logged = "file read again, changed";
    let lines = |text: &str| server.0.log().lines().filter(|line| line.contains(text)).count();
    eventually("the log names both files", || {
        server
            .0
            .log()
            .lines()
            .any(|line| line.contains(logged) && line.contains("tls.cert_file") && line.contains("cert.pem"))
            && server.0.log().lines().any(|line| line.contains(logged) && line.contains("tls.key_file"))
    });
    assert_eq!(lines(logged), 2, "{}", server.0.log());
    server.0.signal("HUP");
    eventually("the log says that they are as before", || {
        server.0.log().lines().any(|line| {
            line.contains("files read again, unchanged") && line.contains("tls.cert_file, tls.key_file")
        })
    });
    assert_eq!(lines(logged), 2, "{}", server.0.log());
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
fn our_commands_use_tls_and_check_the_certificate() {
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

    // This machine does not trust the test's authority.
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

/// A folder for a test's files. Removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("fanwire-dev-cert-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        Self(dir)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn dev_cert_makes_certificates_that_curl_python_chromium_and_our_commands_accept() {
    let folder = Folder::new("taken");
    let made = |more: &[&str]| {
        let output =
            run(fanwire().args(["dev-cert", "--dir", &folder.file("dev"), "events.test"]).args(more));
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, told) = made(&[]);
    assert_eq!(code, Some(0), "{told}");
    let (ca, cert, key) =
        (folder.file("dev/ca.pem"), folder.file("dev/cert.pem"), folder.file("dev/key.pem"));
    assert!([&ca, &cert, &key].iter().all(|file| told.contains(*file)), "{told}");
    let mode = std::fs::metadata(&key).expect("a key").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    let before = std::fs::read(&cert).expect("a certificate");
    let (code, told) = made(&[]);
    assert!(code == Some(1) && told.contains("already exists") && told.contains("--force"), "{told}");
    assert_eq!(std::fs::read(&cert).expect("a certificate"), before);
    assert_eq!(made(&["--force", "--days", "7"]).0, Some(0));
    assert_ne!(std::fs::read(&cert).expect("a certificate"), before);

    let server = Server::with(&["--tls-cert-file", &cert, "--tls-key-file", &key]);
    let port = server.addr.port();
    for host in ["localhost", "127.0.0.1", "events.test"] {
        let url = format!("https://{host}:{port}/healthz");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "-m", "20", "--cacert", &ca]);
        curl.args(["--resolve", &format!("events.test:{port}:127.0.0.1"), &url]);
        // The server accepts requests for `events.test` only with a `Host` that it allows.
        let output = run(curl.args(["-H", &format!("Host: 127.0.0.1:{port}")]));
        assert_eq!(text(&output.stdout), r#"{"status":"ok"}"#, "{host}: {output:?}");
    }

    let strict = "import ssl, sys, urllib.request\n\
                  context = ssl.create_default_context(cafile=sys.argv[1])\n\
                  context.verify_flags |= ssl.VERIFY_X509_STRICT\n\
                  print(urllib.request.urlopen(sys.argv[2], context=context, timeout=20).read().decode())";
    let url = format!("https://localhost:{port}/healthz");
    let output = run(Command::new("python3").args(["-c", strict, &ca, &url]).env("no_proxy", "*"));
    assert_eq!(text(&output.stdout).trim(), r#"{"status":"ok"}"#, "{output:?}");

    let ours = |words: &[&str]| {
        let mut command = fanwire();
        command.args(words).env("FANWIRE_CA_FILE", &ca);
        let output = run(command.env("FANWIRE_URL", format!("https://localhost:{port}")));
        assert!(output.status.success(), "{words:?}: {output:?}");
        text(&output.stdout)
    };
    ours(&["publish", "--type", "over.tls"]);
    for more in [&[][..], &["--sse"]] {
        assert!(ours(&[&["tail", "--history", "1", "--count", "1"], more].concat()).contains("over.tls"));
    }
    assert!(ours(&["top", "--once"]).contains("serving"));
}

#[test]
fn chromium_accepts_dev_certs_certificate_once_it_trusts_the_authority() {
    let folder = Folder::new("chromium");
    let made = run(fanwire().args(["dev-cert", "--dir", &folder.file("dev")]));
    assert!(made.status.success(), "{made:?}");
    let (cert, key) = (folder.file("dev/cert.pem"), folder.file("dev/key.pem"));
    let server = Server::with(&["--tls-cert-file", &cert, "--tls-key-file", &key]);
    let url = format!("https://localhost:{}/healthz", server.addr.port());
    let browser = support::script::chromium();
    let look = |profile: &str| {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&browser).args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-proxy-server",
        ]);
        command.args(["--disable-background-networking", "--dump-dom"]);
        command.arg(format!("--user-data-dir={}", folder.file(profile))).arg(&url).env("HOME", &folder.0);
        text(&run(&mut command).stdout)
    };
    let page = look("before");
    assert!(!page.contains(r#"{"status":"ok"}"#), "it does not know the authority: {page}");
    let store = folder.0.join(".pki/nssdb");
    std::fs::create_dir_all(&store).expect("a folder");
    let store = format!("sql:{}", store.display());
    for words in [
        &["-N", "--empty-password"][..],
        &["-A", "-t", "C,,", "-n", "fanwire-dev", "-i", &folder.file("dev/ca.pem")],
    ] {
        let output = run(Command::new("certutil").args(["-d", &store]).args(words));
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
    let page = look("after");
    assert!(page.contains(r#"{"status":"ok"}"#), "{page}");
}

/// Writes a certificate for these names and its key. `ca.pem` is its signer.
fn write_cert(
    folder: &Folder,
    names: &[&str],
    change: impl FnOnce(&mut rcgen::CertificateParams),
    signed: bool,
) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    change(&mut params);
    let cert = if signed {
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "an authority of the tests");
        let ca =
            rcgen::CertifiedIssuer::self_signed(ca, rcgen::KeyPair::generate().expect("a key")).expect("ca");
        std::fs::write(folder.file("ca.pem"), ca.pem()).expect("a file");
        params.signed_by(&key, &ca).expect("a certificate").pem()
    } else {
        let cert = params.self_signed(&key).expect("a certificate").pem();
        std::fs::write(folder.file("ca.pem"), &cert).expect("a file");
        cert
    };
    std::fs::write(folder.file("cert.pem"), cert).expect("a file");
    std::fs::write(folder.file("key.pem"), key.serialize_pem()).expect("a file");
}

/// Checks that every command ends with the reason and the next step. Older versions of `tail` tried again for ever.
fn all_end(url: &str, ca: &str, which: &[&[&str]], reason: &str, step: &str) {
    for words in which {
        let mut command = Command::new("timeout");
        command.arg("60").arg(fanwire().get_program()).args(*words).env("FANWIRE_CA_FILE", ca);
        let output = run(command.env("FANWIRE_URL", url));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {errors}");
        assert!(errors.contains(reason) && errors.contains(step), "{words:?}: {errors}");
        assert!(!errors.contains("trying again"), "{words:?}: {errors}");
    }
}

const EVERY: &[&[&str]] = &[
    &["tail"],
    &["tail", "--sse"],
    &["publish", "--type", "a"],
    &["bench", "-c", "1", "-s", "0.1"],
    &["bench", "-c", "1", "-s", "0.1", "--transport", "sse"],
    &["top", "--once"],
];
const BOTH: &[&[&str]] = &[&["tail"], &["tail", "--sse"]];

#[test]
fn a_refused_certificate_ends_every_command_with_the_reason_and_the_next_step() {
    let folder = Folder::new("refused");
    let start = || {
        let (cert, key) = (folder.file("cert.pem"), folder.file("key.pem"));
        let server = Server::with(&["--tls-cert-file", &cert, "--tls-key-file", &key]);
        let url = format!("https://localhost:{}", server.addr.port());
        (server, url)
    };
    // Certificates as made by `openssl req -x509`.
    let ca = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    write_cert(&folder, &["localhost"], ca, false);
    let (_server, url) = start();
    all_end(&url, &folder.file("ca.pem"), EVERY, "CaUsedAsEndEntity", "fanwire dev-cert");
    let mut verify = Command::new("timeout");
    verify.arg("60").arg(fanwire().get_program()).args(["verify", "--seconds", "1", &url]);
    let output = run(verify.env("FANWIRE_CA_FILE", folder.file("ca.pem")));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!((text(&output.stdout) + &text(&output.stderr)).contains("CaUsedAsEndEntity"), "{output:?}");

    let other = Folder::new("refused-other");
    let made = run(fanwire().args(["dev-cert", "--dir", &other.file("dev")]));
    assert!(made.status.success(), "{made:?}");
    write_cert(&folder, &["localhost"], |_| {}, true);
    let (_server, url) = start();
    // Certificates with another name, and with this one.
    all_end(&url, &other.file("dev/ca.pem"), EVERY, "UnknownIssuer", "--ca-file");
    write_cert(&other, &["localhost"], |_| {}, true);
    all_end(&url, &other.file("ca.pem"), BOTH, "BadSignature", "--ca-file");

    write_cert(&folder, &["events.test", "10.0.0.7"], |_| {}, true);
    let (_server, url) = start();
    all_end(&url, &folder.file("ca.pem"), BOTH, "it is for events.test", "dev-cert localhost");

    let old = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    write_cert(&folder, &["localhost"], old, true);
    let (_server, url) = start();
    all_end(&url, &folder.file("ca.pem"), BOTH, "Expired", "Renew it");

    // A self-signed certificate that is not an authority is accepted if it is named as trusted.
    write_cert(&folder, &["localhost"], |params| params.is_ca = rcgen::IsCa::ExplicitNoCa, false);
    let (_server, url) = start();
    let mut publish = fanwire();
    publish.args(["publish", "--type", "a", "--url", &url, "--ca-file", &folder.file("ca.pem")]);
    let output = run(&mut publish);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn https_to_a_port_without_tls_is_a_clear_error_of_every_command() {
    let authority = Authority::new("no-tls");
    let server = Server::start();
    let url = format!("https://localhost:{}", server.addr.port());
    let ca = authority.path("ca.pem");
    all_end(&url, ca.to_str().expect("UTF-8"), EVERY, "does not speak TLS", "http://localhost");
}

#[test]
fn bench_speaks_tls_over_websocket_and_sse_with_a_token() {
    let authority = Authority::new("bench");
    let secret = "a secret of thirty-two bytes, no less";
    let server = Tls::start(&authority, &["--auth-jwt-hs256-secret", secret]);
    let token = support::token(secret, &["--publish", "--stream", "*"]);
    let port = server.0.addr.port();
    let ca = authority.path("ca.pem");
    let bench = |url: &str, args: &str| {
        let mut command = fanwire();
        command.args(["bench", "--json", "--url", url, "--ca"]).arg(&ca).args(args.split(' '));
        let output = run(command.env("FANWIRE_TOKEN", &token));
        assert!(output.status.success(), "{args}: {output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report
    };
    let (https, wss) = (format!("https://localhost:{port}"), format!("wss://localhost:{port}/"));
    for (url, args) in [
        (&wss, "-c 20 -r 200 -s 0.3 --mix types,all --filters 3"),
        (&https, "-c 20 -r 200 -s 0.3 --transport sse -b 20"),
        (&https, "-c 20 -r 200 -s 0.3 -b 20 --speak lean"),
        (&https, "-c 10 -r 200 -s 0.3 -b 20 --payload 2000 --slow 20 --slow-rate 1000000"),
        (&https, "-c 20 -r 200 -s 0.3 -b 20 --deflate"),
    ] {
        let report = bench(url, args);
        assert_eq!(report["delivered"], report["expected"], "{args}: {report}");
        assert!(report["delivered"].as_u64() > Some(0), "{args}: {report}");
    }
    let report = bench(&https, "-c 0 -b 10 -s 0.3 --window 4");
    assert!(report["published"].as_u64() > Some(40), "answers open the window again: {report}");
    assert_eq!(bench(&https, "-c 20 --churn 100")["connected"], 100);
}

const MIB: u64 = 1 << 20;

impl Tls {
    /// Returns the memory that the server reports for its clients.
    fn held(&self, config: &Arc<ClientConfig>) -> u64 {
        let mut stream = self.connect(config);
        stream
            .write_all(b"GET /api/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let body = &answer[answer.find("\r\n\r\n").expect("a body")..];
        serde_json::from_str::<Value>(body).expect("JSON")["held_bytes"].as_u64().expect("a number")
    }

    fn compare(&self, config: &Arc<ClientConfig>, before: (u64, u64), what: &str) {
        let slack = 12 * MIB;
        eventually(&format!("{what}: the reported memory is the real one"), || {
            // Memory is counted once a second, and later on a busy machine.
            std::thread::sleep(std::time::Duration::from_millis(2300));
            let held = self.held(config).saturating_sub(before.0);
            let real = (self.0.rss_kib() * 1024).saturating_sub(before.1);
            eprintln!("{what}: {} KiB real, {} KiB held", real / 1024, held / 1024);
            real > 16 * MIB && real <= 2 * held + slack && held <= 2 * real + slack
        });
    }
}

/// rustls holds incomplete messages of a peer.
#[test]
fn memory_of_tls_for_a_client_is_counted() {
    let authority = Authority::new("held");
    let server = Tls::start(&authority, &["--handshake-timeout", "60s", "--bus-max-bytes", "4MiB"]);
    let config = authority.client(&[&rustls::version::TLS13]);
    let before = (server.held(&config), server.0.rss_kib() * 1024);
    // The first three records of a hello of 60,000 bytes.
    let mut hello = Vec::new();
    for nth in 0..3 {
        hello.extend([22, 3, 1, 0x40, 0]);
        let head: &[u8] = if nth == 0 { &[1, 0, 0xea, 0x60, 3, 3] } else { &[] };
        hello.extend(head);
        hello.resize(hello.len() + 0x4000 - head.len(), 7);
    }
    let strangers: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut tcp = TcpStream::connect(server.0.addr).expect("it listens");
            tcp.write_all(&hello).expect("written");
            tcp
        })
        .collect();
    server.compare(&config, before, "unfinished handshakes");
    drop(strangers);
}

/// rustls holds the bytes that a peer does not read when the sockets are full.
#[test]
fn memory_of_tls_for_a_client_that_does_not_read_is_counted() {
    let authority = Authority::new("unread");
    let server = Tls::start(&authority, &["--heartbeat", "60s", "--bus-max-bytes", "4MiB"]);
    let config = authority.client(&[&rustls::version::TLS13]);
    let filler = "x".repeat(30_000);
    let event = json!({ "type": "t", "payload": filler }).to_string() + "\n";
    let publish = || {
        for _ in 0..4 {
            assert!(server.post(&config, &event.repeat(40)).starts_with("HTTP/1.1 200"));
        }
    };
    // The ring is full before anything is compared.
    publish();
    let clients: Vec<Stream> = (0..400)
        .map(|_| {
            let mut stream = over_tls(Wire::narrow(server.0.addr, 4096).stream, &config);
            stream.write_all(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the stream begins");
            stream
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(2300));
    let before = (server.held(&config), server.0.rss_kib() * 1024);
    publish();
    server.compare(&config, before, "bytes that nobody reads");
    drop(clients);
}
