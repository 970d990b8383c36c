//! The files of deploy/, as far as this machine can run them: nginx and Caddy run the shipped files, and the program
//! reads the shipped settings.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::authority::{Authority, TlsStream as Stream, over_tls};
use support::nginx::Nginx;
use support::sse::Sse;
use support::ws::Ws;
use support::{PATIENCE, Server, eventually, fanwire, http, numbered, run};

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the text with these replacements. Each replaced part must occur.
fn replaced(mut text: String, places: &[(&str, String)]) -> String {
    for (place, with) in places {
        assert!(text.contains(place), "{place} is not in the shipped file");
        text = text.replace(place, with);
    }
    text
}

/// A service that accepts requests with the key, and records the requests.
struct Verifier {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Verifier {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&asked);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = Vec::new();
                let mut reader = BufReader::new(&mut stream);
                while !head.ends_with(b"\r\n\r\n") && reader.read_until(b'\n', &mut head).is_ok_and(|n| n > 0)
                {
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let status = if head.contains("x-key: good") { "204 No Content" } else { "401 Unauthorized" };
                into.lock().expect("no panic").push(head);
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Self { addr, asked }
    }
}

/// nginx with the shipped files before a server. With a verifier, it uses `auth_request`.
fn nginx(server: &Server, authority: &Authority, verifier: Option<&Verifier>) -> Nginx {
    nginx_of(server, authority, verifier, OPERATOR)
}

/// Address of operators in the shipped files, and one that no client of these tests has.
const OPERATOR: &str = "127.0.0.1";
const NOBODY: &str = "127.0.0.99";

/// As [`nginx`], where operators come from this address.
fn nginx_of(server: &Server, authority: &Authority, verifier: Option<&Verifier>, operator: &str) -> Nginx {
    Nginx::start(|addr, dir| {
        let at = format!("{}/", dir.display());
        std::fs::create_dir(dir.join("tls")).expect("a folder of our own");
        for file in ["cert.pem", "key.pem"] {
            std::fs::copy(authority.path(file), dir.join("tls").join(file)).expect("a file of our own");
        }
        let upstream = replaced(
            shipped("nginx/fanwire-upstream.conf"),
            &[("server 127.0.0.1:8765;", format!("server {};", server.addr))],
        );
        std::fs::write(dir.join("fanwire-upstream.conf"), upstream).expect("a file of our own");
        if let Some(verifier) = verifier {
            let service = [("http://127.0.0.1:9000/", format!("http://{}/", verifier.addr))];
            let auth = replaced(shipped("nginx/fanwire-auth.conf"), &service);
            std::fs::write(dir.join("fanwire-auth.conf"), auth).expect("a file of our own");
        }
        replaced(
            shipped("nginx/fanwire.conf"),
            &[
                ("listen 443 ssl", format!("listen {addr} ssl")),
                ("/etc/nginx/", at),
                ("allow 127.0.0.1;", format!("allow {operator};")),
            ],
        )
    })
}

fn connect(authority: &Authority, addr: SocketAddr) -> Stream {
    over_tls(TcpStream::connect(addr).expect("nginx listens"), &authority.client(&[&rustls::version::TLS13]))
}

/// Sends a request, and reads the answer to its end.
fn ask(authority: &Authority, addr: SocketAddr, request: &str) -> String {
    let mut stream = connect(authority, addr);
    stream.write_all(request.replace('\n', "\r\n").as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer, and its end");
    String::from_utf8(answer).expect("text")
}

fn get(authority: &Authority, addr: SocketAddr, path: &str, headers: &str) -> String {
    ask(authority, addr, &format!("GET {path} HTTP/1.1\nHost: localhost\nConnection: close\n{headers}\n"))
}

/// A WebSocket through nginx.
fn upgraded(
    authority: &Authority,
    addr: SocketAddr,
    path: &str,
    key: &str,
) -> tungstenite::WebSocket<Stream> {
    let url = format!("wss://localhost{path}");
    let mut request = tungstenite::client::IntoClientRequest::into_client_request(url).expect("a URL");
    request.headers_mut().insert("x-key", key.parse().expect("a header"));
    tungstenite::client(request, connect(authority, addr)).expect("an upgrade").0
}

/// A WebSocket through nginx, subscribed to everything.
fn subscribed(authority: &Authority, addr: SocketAddr, key: &str) -> tungstenite::WebSocket<Stream> {
    let mut ws = upgraded(authority, addr, "/ws", key);
    ws.send(json!({"type": "subscribe", "payload": {}}).to_string().into()).expect("sent");
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

/// Returns the lines of an event stream through nginx.
fn stream(authority: &Authority, addr: SocketAddr, key: &str) -> BufReader<Stream> {
    let mut stream = connect(authority, addr);
    let request = format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Key: {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut lines = BufReader::new(stream);
    line(&mut lines, "HTTP/1.1 200");
    lines
}

/// Returns the next line that begins with `begin`.
fn line(lines: &mut BufReader<Stream>, begin: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).expect("a line") > 0, "the stream ended before {begin}");
        if line.starts_with(begin) {
            return line;
        }
    }
}

/// Each event arrives before the next is published, so nothing on the way buffers.
fn both_are_live(server: &Server, ws: &mut tungstenite::WebSocket<Stream>, sse: &mut BufReader<Stream>) {
    for n in 0..20 {
        server.publish(numbered(n));
        assert_eq!(message(ws)["payload"]["payload"]["n"], n);
        assert!(line(sse, "data: ").contains(&format!("{{\"n\":{n}}}")));
    }
}

#[test]
fn nginx_as_shipped_passes_streams_on_as_they_come() {
    let server = Server::with(&["--retain", "by=stream; match=stream=run-*"]);
    let authority = Authority::new("deploy");
    let nginx = nginx(&server, &authority, None);
    let mut ws = subscribed(&authority, nginx.addr, "");
    let mut sse = stream(&authority, nginx.addr, "");
    both_are_live(&server, &mut ws, &mut sse);
    let body = r#"{"type":"by.nginx"}"#;
    let posted = ask(
        &authority,
        nginx.addr,
        &format!(
            "POST /publish HTTP/1.1\nHost: localhost\nConnection: close\nContent-Length: {}\n\n{body}",
            body.len()
        ),
    );
    assert!(posted.contains(r#""accepted":1"#), "{posted}");
    assert_eq!(message(&mut ws)["payload"]["event_type"], "by.nginx");
    let deleted = ask(
        &authority,
        nginx.addr,
        "DELETE /events?stream=run-1 HTTP/1.1\nHost: localhost\nConnection: close\n\n",
    );
    assert!(deleted.contains(r#"{"events":0,"logs":0}"#), "{deleted}");
    // From this machine, the operators' paths are reachable, too.
    assert!(get(&authority, nginx.addr, "/metrics", "").contains("fanwire_server_connections"));
    // The clients' last messages and closes reach the server.
    drop((ws, sse));
    eventually("the server learns that its clients went", || {
        server.metric("fanwire_server_subscriptions").is_some_and(|left| left < 0.5)
    });
}

/// Debian's Caddy, in a folder of the test. It ends with the test.
struct Caddy {
    child: Child,
    dir: PathBuf,
}

impl Drop for Caddy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Starts Caddy with the shipped file before a server, without TLS. Returns its address.
fn caddy(server: &Server) -> (Caddy, SocketAddr) {
    caddy_of(server, OPERATOR)
}

/// As [`caddy`], where operators come from this address.
fn caddy_of(server: &Server, operator: &str) -> (Caddy, SocketAddr) {
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let dir = std::env::temp_dir().join(format!("fanwire-caddy-{}-{}", std::process::id(), addr.port()));
    std::fs::create_dir_all(&dir).expect("a folder of our own");
    let site = replaced(
        shipped("caddy/Caddyfile"),
        &[
            ("events.example.com {", format!("http://:{} {{\n\tbind 127.0.0.1", addr.port())),
            ("reverse_proxy 127.0.0.1:8765", format!("reverse_proxy {}", server.addr)),
            ("not remote_ip 127.0.0.1 ::1", format!("not remote_ip {operator}")),
        ],
    );
    let config = dir.join("Caddyfile");
    std::fs::write(&config, format!("{{\n\tadmin off\n}}\n{site}")).expect("a file of our own");
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&config).env("HOME", &dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("caddy starts: run `cargo xtask setup`");
    let caddy = Caddy { child, dir };
    eventually("caddy listens, and finds the server ready", || {
        TcpStream::connect(addr).is_ok() && http::get(addr, "/readyz").status == 200
    });
    (caddy, addr)
}

#[test]
fn caddy_as_shipped_passes_streams_on_as_they_come() {
    let server = Server::with(&["--retain", "by=stream; match=stream=run-*"]);
    let (_caddy, addr) = caddy(&server);
    let mut ws = Ws::subscribed(addr, json!({}));
    let mut sse = Sse::open(addr, "");
    for n in 0..20 {
        let answer = http::post(addr, "/publish", "application/json", numbered(n).as_bytes());
        assert_eq!(answer.json()["accepted"], 1, "{answer:?}");
        assert_eq!(ws.event()["payload"]["n"], n);
        assert!(sse.event().data.is_some_and(|data| data.contains(&format!("{{\"n\":{n}}}"))));
    }
    // From this machine, the operators' paths are reachable, too.
    assert_eq!(http::get(addr, "/metrics").status, 200);
    let delete = b"DELETE /events?stream=run-1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(http::exchange(addr, delete).json(), json!({"logs": 0, "events": 0}));
    // A body that is too large is refused before it is read: the server closes after its answer, and Caddy, which still
    // sends, may report that as a bad gateway.
    let large = http::post(addr, "/publish", "application/json", &vec![b' '; 5 << 20]).status;
    assert!([413, 502].contains(&large), "{large}");
    drop((ws, sse));
    eventually("the server learns that its clients went", || {
        server.metric("fanwire_server_subscriptions").is_some_and(|left| left < 0.5)
    });
}

/// A server with the shipped file, except for its port.
fn with_shipped_file() -> Server {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/fanwire.toml");
    Server::with(&["--config", file.to_str().expect("UTF-8")])
}

/// Requests a stream and publishes, with a site's name as host and from a page of this origin. Returns both statuses
/// and the text of the stream's refusal.
fn as_page(ask: &dyn Fn(&str) -> String, host: &str, origin: &str) -> (u16, u16, String) {
    let headers = format!("Host: {host}\nOrigin: {origin}\nConnection: close\n");
    let head = ask(&format!("HEAD /sse HTTP/1.1\n{headers}\n"));
    let body = r#"{"type":"by.page"}"#;
    let posted = ask(&format!(
        "POST /publish HTTP/1.1\n{headers}Content-Type: text/plain\nContent-Length: {}\n\n{body}",
        body.len()
    ));
    let status = |answer: &str| answer.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
    (status(&head), status(&posted), posted.clone())
}

/// Checks pages behind a proxy with each configuration. The site's name is `events.example.com`, at the proxy's port.
fn pages_through(
    server: &Server,
    addr: SocketAddr,
    scheme: &str,
    ask: &dyn Fn(&str) -> String,
    is_named: bool,
) {
    let host = format!("events.example.com:{}", addr.port());
    let (own, evil) = (format!("{scheme}://{host}"), "https://evil.example");
    let (stream, posted, said) = as_page(ask, &host, &own);
    if is_named {
        assert_eq!((stream, posted), (200, 200), "{said}\n{}", server.log());
        let (stream, posted, said) = as_page(ask, &host, evil);
        assert_eq!((stream, posted), (403, 403), "{said}");
        assert!(said.contains("--allowed-origin https://evil.example"), "{said}");
    } else {
        assert_eq!((stream, posted), (403, 403), "{said}");
        assert!(said.contains("--allowed-host events.example.com"), "{said}");
        assert!(said.contains("limits.trusted_proxy"), "{said}");
    }
}

/// Uses a kept run as a client elsewhere does through a proxy. `ask` sends a request with this method and target, and returns the
/// whole answer.
fn check_client_elsewhere(server: &Server, ask: &dyn Fn(&str) -> String) {
    let info = ask("GET /api/server_info");
    assert!(info.contains(" 200 OK") && info.contains("\"from_start\""), "{info}");
    assert!(ask("GET /api/presence/room.1").contains(" 200 OK"));
    for path in ["/metrics", "/api/stats", "/api/history", "/api/subscriptions", "/api/server_info/x"] {
        assert!(ask(&format!("GET {path}")).contains(" 403 "), "{path}");
    }
    for event in [
        json!({"type": "token", "stream_id": "run-1", "payload": {"n": 1}}),
        json!({"type": "run.finished", "stream_id": "run-1", "payload": {"n": 2}}),
    ] {
        server.publish(event.to_string());
    }
    // The stream ends, and so does the connection.
    let run = ask("GET /sse?stream=run-1&from=start");
    assert!(run.contains("{\"n\":1}") && run.contains("event: end"), "{run}");
    let end = run.rsplit("id: ").next().and_then(|rest| rest.lines().next()).expect("an id").to_owned();
    assert!(ask(&format!("GET /sse?stream=run-1&last_event_id={end}")).contains(" 204 "), "{run}");
    let page = ask("GET /events?stream=run-1&order=desc&limit=1");
    assert!(page.contains("{\"n\":2}") && page.contains("\"next\":\""), "{page}");
    assert!(ask("DELETE /events?stream=run-1").contains("\"logs\":1"));
    assert!(ask("GET /events?stream=run-1").contains("\"complete\":false"));
}

const ELSEWHERE: &[&str] =
    &["--retain", "by=stream; end=run.finished; match=stream=run-*", "--presence-channels", "room.**"];

#[test]
fn a_client_elsewhere_uses_a_kept_run_through_nginx_and_no_operators_path() {
    let server = Server::with(ELSEWHERE);
    let authority = Authority::new("deploy-elsewhere");
    let nginx = nginx_of(&server, &authority, None, NOBODY);
    check_client_elsewhere(&server, &|request| {
        ask(&authority, nginx.addr, &format!("{request} HTTP/1.1\nHost: localhost\nConnection: close\n\n"))
    });
}

#[test]
fn a_client_elsewhere_uses_a_kept_run_through_caddy_and_no_operators_path() {
    let server = Server::with(ELSEWHERE);
    let (_caddy, addr) = caddy_of(&server, NOBODY);
    check_client_elsewhere(&server, &|request| {
        let mut wire = TcpStream::connect(addr).expect("caddy listens");
        let text = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        wire.write_all(text.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        wire.read_to_end(&mut answer).expect("an answer, and its end");
        String::from_utf8(answer).expect("text")
    });
}

#[test]
fn pages_through_nginx_speak_by_the_shipped_file_or_by_the_name_that_is_allowed() {
    let authority = Authority::new("deploy-pages");
    let servers = [
        (with_shipped_file(), true),
        (Server::with(&["--allowed-host", "events.example.com"]), true),
        (Server::with(&["--limits-trusted-proxy", "127.0.0.1"]), true),
        (Server::start(), false),
    ];
    for (server, is_named) in servers {
        let nginx = nginx(&server, &authority, None);
        pages_through(&server, nginx.addr, "https", &|text| ask(&authority, nginx.addr, text), is_named);
    }
}

#[test]
fn pages_through_caddy_speak_by_the_shipped_file_or_by_the_name_that_is_allowed() {
    let servers = [
        (with_shipped_file(), true),
        (Server::with(&["--allowed-host", "*.example.com"]), true),
        (Server::start(), false),
    ];
    for (server, is_named) in servers {
        let (_caddy, addr) = caddy(&server);
        let ask = |text: &str| {
            let mut stream = TcpStream::connect(addr).expect("caddy listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.write_all(text.replace('\n', "\r\n").as_bytes()).expect("sent");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("an answer, and its end");
            String::from_utf8(answer).expect("text")
        };
        pages_through(&server, addr, "http", &ask, is_named);
    }
}

#[test]
fn nginx_as_shipped_asks_another_service_for_access() {
    let server = Server::start();
    let authority = Authority::new("deploy-auth");
    let verifier = Verifier::start();
    let nginx = nginx(&server, &authority, Some(&verifier));
    for path in ["/sse", "/ws", "/", "/publish", "/metrics"] {
        let answer = get(&authority, nginx.addr, path, "");
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
    }
    for path in ["/healthz", "/readyz"] {
        let answer = get(&authority, nginx.addr, path, "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let mut ws = subscribed(&authority, nginx.addr, "good");
    let mut sse = stream(&authority, nginx.addr, "good");
    both_are_live(&server, &mut ws, &mut sse);
    let asked = verifier.asked.lock().expect("no panic").clone();
    assert!(asked.iter().any(|head| head.contains("x-original-uri: /ws")), "{asked:?}");
}

/// nginx configured as in Hive's document, except for addresses.
#[test]
fn nginx_of_hives_document_serves_its_clients_at_stream() {
    // That file sends the upstream's name as Host, so the server must be configured to trust the proxy.
    let server = Server::with(&["--endpoint", "/stream=hive", "--limits-trusted-proxy", "127.0.0.1"]);
    let authority = Authority::new("deploy-hive");
    let verifier = Verifier::start();
    let nginx = Nginx::start(|addr, _| {
        let (cert, key) = (authority.path("cert.pem"), authority.path("key.pem"));
        format!(
            "map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
             upstream websocket {{ server {server}; }}
             server {{
                 listen {addr} ssl;
                 ssl_protocols TLSv1.2 TLSv1.3;
                 ssl_certificate {cert};
                 ssl_certificate_key {key};
                 location /stream {{
                     auth_request /auth;
                     proxy_pass http://websocket;
                     proxy_http_version 1.1;
                     proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection $connection_upgrade;
                     proxy_set_header X-Real-IP $remote_addr;
                     proxy_read_timeout 86400;
                     proxy_send_timeout 86400;
                 }}
                 location = /auth {{
                     internal;
                     proxy_pass http://{verifier}/verify;
                     proxy_pass_request_body off;
                     proxy_set_header Content-Length \"\";
                     proxy_set_header X-Original-URI $request_uri;
                 }}
             }}",
            server = server.addr,
            cert = cert.display(),
            key = key.display(),
            verifier = verifier.addr,
        )
    });
    let refused = get(&authority, nginx.addr, "/stream", "");
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let mut ws = upgraded(&authority, nginx.addr, "/stream", "good");
    ws.send(json!({"action": "subscribe", "stream_id": "webhook"}).to_string().into()).expect("sent");
    assert_eq!(message(&mut ws)["type"], "subscribed");
    server.publish(r#"[{"type":"X","stream_id":"mail"},{"type":"EXECUTION_STARTED","stream_id":"webhook"}]"#);
    assert_eq!(message(&mut ws)["event"]["type"], "execution_started");
    let asked = verifier.asked.lock().expect("no panic").clone();
    assert!(asked.iter().all(|head| head.contains("x-original-uri: /stream")), "{asked:?}");
}

#[test]
fn shipped_files_restart_the_server_and_check_its_health() {
    let has = |file: &str, lines: &[&str]| {
        let text = shipped(file);
        for line in lines {
            assert!(text.lines().any(|one| one.trim().starts_with(line)), "{file} has no {line}");
        }
    };
    has(
        "systemd/fanwire.service",
        &["Restart=always", "RestartSec=", "ExecStart=/usr/local/bin/fanwire serve"],
    );
    has("compose.yaml", &["restart: unless-stopped"]);
    has(
        "Dockerfile",
        &["EXPOSE 8765", "HEALTHCHECK --interval=10s --timeout=6s --start-period=5s --retries=3"],
    );
}

#[test]
fn every_variable_in_deploy_is_a_setting() {
    let output = run(fanwire().args(["check", "--json"]));
    let settings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let known: BTreeSet<String> = (settings.as_object().expect("an object").keys())
        .map(|key| format!("FANWIRE_{}", key.to_uppercase().replace('.', "_")))
        .collect();
    let mut found = 0;
    for file in ["Dockerfile", "compose.yaml", "kubernetes/fanwire.yaml", "systemd/fanwire.service"] {
        let text = shipped(file);
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        for name in text.split(|c| !is_name(c)).filter(|word| word.starts_with("FANWIRE_")) {
            assert!(known.contains(name), "{file}: {name} is no setting");
            found += 1;
        }
    }
    assert!(found > 5, "{found}");
}

/// Docker is not available here, so the test performs the file's steps itself, with this build's program.
#[test]
#[cfg(target_os = "linux")]
fn the_images_own_files_are_all_that_the_program_needs() {
    let dockerfile = shipped("Dockerfile").replace("\\\n", "");
    let step = |name: &str| {
        dockerfile.lines().rfind(|line| line.starts_with(name)).expect(name)[name.len()..].trim()
    };
    let image = std::env::temp_dir().join(format!("fanwire-image-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&image);
    let folder = image.display().to_string();
    let script =
        step("RUN ").replace("target/dist/fanwire", env!("CARGO_BIN_EXE_fanwire")).replace("/image", &folder);
    let made = run(Command::new("sh").args(["-eu", "-c", &script]));
    assert!(made.status.success(), "{made:?}");

    // An unprivileged user, in a folder that is the whole file system.
    let user = step("USER ");
    let is_root = run(Command::new("id").arg("-u")).stdout.trim_ascii() == b"0";
    let inside = |words: &[&str]| {
        let mut command = if is_root {
            let mut command = Command::new("chroot");
            command.arg(format!("--userspec={user}"));
            command
        } else {
            let mut command = Command::new("unshare");
            command.args(["-r", "chroot"]);
            command
        };
        // The path is for `chroot` itself: the folder has no such directory.
        command.arg(&image).args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for pair in step("ENV ").split(' ') {
            let (name, value) = pair.split_once('=').expect("NAME=value");
            command.env(name, value);
        }
        command
    };
    let words = |json: &str| -> Vec<String> { serde_json::from_str(json).expect("the exec form") };
    let mut serve = words(step("ENTRYPOINT "));
    serve.extend(words(step("CMD ")));
    let serve: Vec<&str> = serve.iter().map(String::as_str).collect();
    let refused = run(&mut inside(&serve));
    assert!(!refused.status.success(), "open to others, without authentication");
    let server = Server::spawn(inside(&serve).env("FANWIRE_LISTEN", "127.0.0.1:0"));
    assert_eq!(server.publish(r#"{"type":"a.b"}"#)["accepted"], 1);
    let check = words(step("HEALTHCHECK ").split_once("CMD ").expect("a command").1);
    let check: Vec<&str> = check.iter().map(String::as_str).collect();
    let health = |address: &str| run(inside(&check).env("FANWIRE_LISTEN", address)).status.success();
    assert!(health(&server.addr.to_string()));
    let nowhere = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    assert!(!health(&nowhere.to_string()));
    drop(server);
    let _ = std::fs::remove_dir_all(&image);
}

#[test]
fn the_settings_for_kubernetes_are_good() {
    let manifest = shipped("kubernetes/fanwire.yaml");
    let (_, block) = manifest.split_once("fanwire.toml: |\n").expect("a file in the ConfigMap");
    let lines = block.lines().take_while(|line| *line != "---").map(|line| line.trim_start_matches("    "));
    let toml = lines.collect::<Vec<_>>().join("\n");
    let path = std::env::temp_dir().join(format!("fanwire-deploy-{}.toml", std::process::id()));
    std::fs::write(&path, &toml).expect("a file of our own");
    let output = run(fanwire().args(["check", "--json", "--config"]).arg(&path));
    let _ = std::fs::remove_file(&path);
    let settings: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{toml}\n{output:?}"));
    let seconds = |key: &str| {
        let value = settings[key]["value"].as_str().expect("a text").trim_matches('"').to_owned();
        value
            .strip_suffix('s')
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("{key}: {value}"))
    };
    let needed = seconds("drain.delay") + seconds("drain.window") + seconds("drain.timeout");
    let grace = manifest.split_once("terminationGracePeriodSeconds: ").expect("it is there").1;
    let grace: u64 = grace.lines().next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(grace > needed, "{grace} s for a drain of {needed} s");
}

/// Runs `fanwire check --health` with these options. Returns exit code and output.
fn health(options: &[&str]) -> (Option<i32>, String) {
    let output = run(fanwire().args(["check", "--health"]).args(options));
    let printed =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8")).concat();
    (output.status.code(), printed)
}

#[test]
fn health_is_asked_of_the_running_server_by_its_own_configuration() {
    let server = Server::with(&["--drain-delay", "20s"]);
    let listen = server.addr.to_string();
    let any = format!("0.0.0.0:{}", server.addr.port());
    for listen in [&listen, &any] {
        let (code, said) = health(&["--listen", listen]);
        assert_eq!((code, said.trim()), (Some(0), &*format!("http://{listen}/readyz: ready")));
    }
    server.signal("TERM");
    eventually("it is not ready", || health(&["--listen", &listen]).0 == Some(1));
    let (_, said) = health(&["--listen", &listen]);
    assert!(said.contains("/readyz: draining"), "{said}");
    let (code, said) = health(&["--listen", &listen, "--json"]);
    assert_eq!(code, Some(1));
    assert!(said.contains(r#""ready":false,"status":"draining""#), "{said}");
    drop(server);
    let (code, said) = health(&["--listen", &listen]);
    assert!(code == Some(1) && said.contains("not reachable"), "{said}");
}

#[test]
fn health_is_asked_over_tls_where_the_server_speaks_it() {
    let authority = Authority::new("health");
    let path = |name| authority.path(name).to_str().expect("UTF-8").to_owned();
    let port = support::service::free_port();
    let listen = format!("127.0.0.1:{port}");
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let options = ["--listen", &listen, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let mut server = fanwire()
        .arg("serve")
        .args(options)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    eventually("it is ready", || health(&options).0 == Some(0));
    let (_, said) = health(&options);
    let _ = server.kill();
    let _ = server.wait();
    assert_eq!(said.trim(), format!("https://{listen}/readyz: ready"));
}

#[test]
fn every_metric_on_the_dashboard_is_one_that_the_server_has() {
    let server = Server::start();
    let exposed = support::http::get(server.addr, "/metrics");
    let names: BTreeSet<&str> =
        exposed.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    // A histogram's samples have suffixes that its name does not have.
    let known: BTreeSet<String> = (names.iter().filter_map(|line| line.split_once(' ')))
        .flat_map(|(name, kind)| match kind {
            "histogram" => ["_bucket", "_sum", "_count"].map(|ending| format!("{name}{ending}")).into(),
            _ => vec![name.to_owned()],
        })
        .collect();
    let dashboard: Value = serde_json::from_str(&shipped("grafana-dashboard.json")).expect("JSON");
    let mut texts = vec![dashboard["templating"].to_string()];
    let panels = dashboard["panels"].as_array().expect("panels");
    texts.extend(panels.iter().map(|panel| panel["targets"].to_string()));
    let mut found = BTreeSet::new();
    for text in texts {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for name in text.split(|c| !is_name(c)).filter(|word| word.starts_with("fanwire_")) {
            assert!(known.contains(name), "{name} is no metric of the server");
            found.insert(name.to_owned());
        }
    }
    for histogram in
        ["feed_delivery_seconds", "server_loop_turn_seconds", "feed_frame_bytes", "server_lag_seconds"]
    {
        assert!(found.contains(&format!("fanwire_{histogram}_bucket")), "{histogram} is not shown");
    }
    assert!(found.len() > 20, "{found:?}");
}

/// Returns the `sh` blocks of deploy/README.md, in their order.
fn steps() -> Vec<String> {
    let page = shipped("README.md");
    let mut blocks: Vec<String> = page
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(blocks.len(), 3, "install, start, port 443");
    for block in &mut blocks {
        block.insert_str(0, "set -eu\n");
    }
    blocks
}

/// Performs the steps of deploy/README.md in a folder instead of the machine's root, with this build's program instead
/// of a release. The test does systemd's part itself.
#[test]
#[cfg(target_os = "linux")]
fn the_install_steps_give_a_server_that_runs_and_units_that_are_good() {
    let root = std::env::temp_dir().join(format!("fanwire-install-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    let stubs = root.join("stubs");
    std::fs::create_dir_all(&stubs).expect("a folder of our own");
    for name in ["cargo", "systemctl"] {
        let path = stubs.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >> {}/called\n", root.display()))
            .expect("a file");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    }
    let machine = root.join("machine");
    let path = format!("{}:{}", stubs.display(), std::env::var("PATH").unwrap_or_default());
    let sh = |script: &str| {
        let mut command = Command::new("timeout");
        command.args(["60", "sh", "-c", script]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = run(command.env("DESTDIR", &machine).env("PATH", &path));
        assert!(output.status.success(), "{script}\n{output:?}");
    };
    let [install, start, port]: [String; 3] = steps().try_into().expect("three blocks");
    assert!(install.contains("target/dist/fanwire"));
    sh(&install.replace("target/dist/fanwire", env!("CARGO_BIN_EXE_fanwire")));
    let (before, health) = start.trim_end().rsplit_once('\n').expect("lines");
    sh(before);
    sh(&port);
    let called = std::fs::read_to_string(root.join("called")).expect("they were called");
    assert!(called.contains("cargo build --profile dist --locked --bin fanwire"), "{called}");
    assert!(called.contains("systemctl enable --now fanwire.socket fanwire.service"), "{called}");

    // Checks which users can read each file.
    let mode = |file: &str| {
        let meta = std::fs::metadata(machine.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777
    };
    assert_eq!(mode("usr/local/bin/fanwire"), 0o755);
    assert_eq!(mode("etc/fanwire/secrets.env"), 0o600);
    assert_eq!(mode("etc/systemd/system/fanwire.service"), 0o644);

    // The units with their drop-ins. `verify` looks for the program at the unit's path.
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--root"]).arg(&machine).arg("fanwire.socket").arg("fanwire.service");
    if let Ok(output) = verify.output() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        // Errors about system units that the folder does not have are ignored.
        assert!(!stderr.lines().any(|line| line.contains("fanwire.") && line.contains("nknown")), "{stderr}");
        assert!(!stderr.contains("Failed to parse"), "{stderr}");
    }

    // Starts the unit's command with its secrets, at a port of the test.
    let unit = shipped("systemd/fanwire.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let mut words = line.split(' ').map(|word| {
        if word.starts_with('/') { format!("{}{word}", machine.display()) } else { word.to_owned() }
    });
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).env("FANWIRE_LISTEN", "127.0.0.1:0");
    let secrets = std::fs::read_to_string(machine.join("etc/fanwire/secrets.env")).expect("a file");
    let (name, value) = secrets.trim().split_once('=').expect("NAME=value");
    assert_eq!(value.len(), 64, "32 bytes");
    let server = Server::spawn(command.env(name, value));
    let refused = http::post(server.addr, "/publish", "application/json", numbered(1).as_bytes());
    assert_eq!(refused.status, 401, "{refused:?}");
    let health = health
        .replace("fanwire check", "\"$DESTDIR/usr/local/bin/fanwire\" check")
        .replace(" /etc", " \"$DESTDIR\"/etc");
    sh(&format!("set -eu\nexport FANWIRE_LISTEN={}\n{health}", server.addr));
    drop(server);
    let _ = std::fs::remove_dir_all(&root);
}
