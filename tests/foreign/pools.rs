//! Pools of connections that are idle between requests: no request fails, and the connection is reused.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::Server;
use crate::support::hostile::{Hostile, Plan};
use crate::support::http;
use crate::support::nginx::Nginx;
use crate::support::script::Script;

/// Seconds between one request and the next: 6 for a short limit of a load balancer, 60 for nginx's default.
/// The server's `keep_alive` is 75.
const PAUSES: [u64; 3] = [0, 6, 60];

/// The scripts' pools, each configured to keep a connection for this long.
const POOLS: [(&str, &str); 4] = [
    ("foreign_pool.py", "requests"),
    ("foreign_pool.py", "aiohttp"),
    ("foreign_pool.mjs", "undici"),
    ("foreign_pool.mjs", "http"),
];

fn through(server: SocketAddr) -> Hostile {
    Hostile::before(server, |_| Plan::default())
}

/// Runs a pool's script. Each of its requests must get an answer.
fn use_pool(script: &str, kind: &str, proxy: &Hostile) {
    let pauses = PAUSES.map(|pause| pause.to_string()).join(",");
    let url = format!("http://{}", proxy.addr);
    let mut script = Script::start(script, &[kind, &url, &pauses]).limited(Duration::from_secs(300));
    let mut answers = Vec::new();
    while let Some(line) = script.line() {
        answers.push(line);
    }
    let good = vec!["200 {\"accepted\":1}".to_owned(); PAUSES.len() + 1];
    assert_eq!(answers, good, "{kind}: {}", script.stderr());
    assert_eq!(proxy.connections(), 1, "{kind} opened another connection");
}

/// nginx keeps a connection to the server between its clients' requests, which come on separate connections.
fn use_nginx(proxy: &Hostile) {
    let nginx = Nginx::start(|addr, _| {
        format!(
            "upstream fanwire {{ server {upstream}; keepalive 4; keepalive_timeout 70s; }}
             server {{
                 listen {addr};
                 proxy_http_version 1.1;
                 proxy_set_header Host $http_host;
                 proxy_set_header Connection '';
                 location / {{ proxy_pass http://fanwire; }}
             }}",
            upstream = proxy.addr
        )
    });
    for pause in [0].into_iter().chain(PAUSES) {
        std::thread::sleep(Duration::from_secs(pause));
        let request = "POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{\"type\":\"a\"}";
        let answer = http::exchange(nginx.addr, request.as_bytes());
        assert_eq!(answer.status, 200, "nginx, {pause} s after the last request: {answer:?}");
    }
    assert_eq!(proxy.connections(), 1, "nginx opened another connection");
}

/// Runs all pools in parallel: the test takes as long as the longest pause.
pub(crate) fn idle() {
    let server = Server::start();
    let addr = server.addr;
    std::thread::scope(|scope| {
        for (script, kind) in POOLS {
            scope.spawn(move || use_pool(script, kind, &through(addr)));
        }
        scope.spawn(move || use_nginx(&through(addr)));
    });
    server.assert_serving();
}
