//! The measured servers, and the start of each on the first core.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One contestant.
pub struct Peer {
    pub name: &'static str,
    /// The protocol's name for `fanwire bench --speak`.
    pub speak: &'static str,
    /// Other options of `fanwire bench`.
    pub more: &'static [&'static str],
    /// Whether it also has event streams.
    pub sse: bool,
    start: fn(&Ground) -> Command,
    /// Whether events are published on the second port.
    own_port: bool,
    /// Whether it is a bare loop: a baseline, not a server.
    pub is_bare: bool,
    /// Whether clients connect by TLS. The certificate is made before the start.
    pub tls: bool,
}

/// Ports of a server, and a folder for its configuration.
pub struct Ground {
    pub port: u16,
    pub folder: PathBuf,
}

impl Ground {
    fn publish_port(&self) -> u16 {
        self.port + 1
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("a file of configuration");
        path
    }

    /// Returns one of the files of the certificate: ca.pem, cert.pem or key.pem.
    pub fn certificate(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `fanwire`, built with `cargo build --profile dist`. `FANWIRE` names another one.
pub fn fanwire() -> PathBuf {
    std::env::var_os("FANWIRE").map_or_else(|| root().join("target/dist/fanwire"), PathBuf::from)
}

fn command(program: impl AsRef<Path>, args: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(args);
    command
}

fn sibling(name: &str) -> PathBuf {
    std::env::current_exe().expect("this program's path").with_file_name(name)
}

/// Returns the path of a script. `FANWIRE_SERVERS_JS` names another folder, for a program that runs without its source.
fn script(name: &str) -> String {
    let folder = std::env::var("FANWIRE_SERVERS_JS");
    format!("{}/{name}", folder.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/js").to_owned()))
}

/// Size of a native frame for an event of these loads. For a comparison of equal bytes, the others' frames are
/// padded to it.
const OUR_BYTES: &str = "406";

/// Size of a native frame with a channel or an entity.
const OUR_TOPIC_BYTES: &str = "430";

/// Fanwire, with clients of this protocol.
fn serve(ground: &Ground) -> Command {
    let listen = format!("127.0.0.1:{}", ground.port);
    command(fanwire(), &["serve", "--listen", &listen, "--log-level", "warn"])
}

/// Settings that most contestants share.
const PEER: Peer = Peer {
    name: "",
    speak: "fanwire",
    more: &[],
    sse: false,
    start: serve,
    own_port: false,
    is_bare: false,
    tls: false,
};

pub const PEERS: &[Peer] = &[
    Peer { name: "fanwire", sse: true, ..PEER },
    Peer { name: "fanwire, AgentOS clients", speak: "agentos", ..PEER },
    Peer { name: "fanwire, lean clients", speak: "lean", sse: true, ..PEER },
    Peer { name: "fanwire, compressed", more: &["--deflate"], start: deflating, ..PEER },
    Peer {
        name: "bare loop, a write an event",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("bare"), &["each", &ground.port.to_string()]),
        is_bare: true,
        ..PEER
    },
    Peer {
        name: "bare loop, a write a burst",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("bare"), &["together", &ground.port.to_string()]),
        is_bare: true,
        ..PEER
    },
    Peer {
        name: "bare loop, a write an event of our size",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("bare"), &["each", &ground.port.to_string(), OUR_BYTES]),
        is_bare: true,
        ..PEER
    },
    Peer {
        name: "bare loop, a write a burst of our size",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("bare"), &["together", &ground.port.to_string(), OUR_BYTES]),
        is_bare: true,
        ..PEER
    },
    Peer {
        name: "bare loop, shared pages",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("bare"), &["tee", &ground.port.to_string()]),
        is_bare: true,
        ..PEER
    },
    Peer {
        name: "bare loop, shared pages of our size",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("bare"), &["tee", &ground.port.to_string(), OUR_BYTES]),
        is_bare: true,
        ..PEER
    },
    Peer {
        name: "bare loop, sendfile of our size",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("bare"), &["sendfile", &ground.port.to_string(), OUR_BYTES]),
        is_bare: true,
        ..PEER
    },
    Peer {
        name: "bare loop, io_uring",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("bare"), &["uring", &ground.port.to_string()]),
        is_bare: true,
        ..PEER
    },
    Peer { name: "Bun", speak: "plain", start: bun, ..PEER },
    Peer { name: "nginx, nchan", speak: "nchan", sse: true, start: nginx, ..PEER },
    Peer { name: "nats-server", speak: "nats", start: nats, own_port: true, ..PEER },
    Peer { name: "mosquitto", speak: "mqtt", start: mosquitto, own_port: true, ..PEER },
    Peer {
        name: "axum, tokio broadcast",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("axum"), &[&ground.port.to_string()]),
        ..PEER
    },
    Peer {
        name: "Node ws",
        speak: "plain",
        sse: true,
        start: |ground| command("node", &[&script("node-ws.js"), &ground.port.to_string()]),
        ..PEER
    },
];

/// Contestants of loads in which each client has its own topics. Ratios are relative to Bun's first row.
pub const TOPIC_PEERS: &[Peer] = &[
    Peer {
        name: BARE_TOPICS,
        speak: "plain",
        more: BY_WS,
        sse: true,
        start: |ground| command(sibling("bare_topics"), &["together", &ground.port.to_string()]),
        ..PEER
    },
    Peer {
        name: "bare loop of our size",
        speak: "plain",
        more: BY_WS,
        sse: true,
        start: |ground| {
            command(sibling("bare_topics"), &["together", &ground.port.to_string(), OUR_TOPIC_BYTES])
        },
        ..PEER
    },
    Peer {
        name: "bare loop, io_uring",
        speak: "plain",
        more: BY_WS,
        sse: true,
        start: |ground| command(sibling("bare_topics"), &["uring", &ground.port.to_string()]),
        ..PEER
    },
    Peer { name: BUN_TOPICS, speak: "plain", more: BY_WS, start: bun, ..PEER },
    Peer { name: "Bun, POST", speak: "plain", start: bun, ..PEER },
    Peer { name: "fanwire, POST", sse: true, ..PEER },
    Peer { name: "fanwire, WebSocket", more: BY_WS, sse: true, ..PEER },
    Peer { name: "fanwire, no acks", more: NO_ACKS, sse: true, ..PEER },
    Peer { name: "fanwire lean, POST", speak: "lean", sse: true, ..PEER },
    Peer { name: "fanwire lean, WebSocket", speak: "lean", more: BY_WS, sse: true, ..PEER },
    Peer { name: "fanwire lean, no acks", speak: "lean", more: NO_ACKS, sse: true, ..PEER },
    Peer {
        name: "fanwire compressed, no acks",
        more: &["--deflate", "--publish", "ws-no-ack"],
        start: deflating,
        ..PEER
    },
    Peer { name: "nginx, nchan", speak: "nchan", sse: true, start: nginx, ..PEER },
    Peer { name: "nats-server", speak: "nats", start: nats, own_port: true, ..PEER },
    Peer { name: "mosquitto", speak: "mqtt", start: mosquitto, own_port: true, ..PEER },
    Peer {
        name: "Socket.IO",
        speak: "socket-io",
        start: |ground| command("node", &[&script("socket-io.js"), &ground.port.to_string()]),
        ..PEER
    },
];

/// Contestants with and without TLS. A name that ends in `, TLS` is compared with the name before it.
pub const TLS_PEERS: &[Peer] = &[
    Peer { name: "fanwire", ..PEER },
    Peer { name: "fanwire, TLS", start: serve_tls, tls: true, ..PEER },
    Peer { name: "fanwire lean", speak: "lean", ..PEER },
    Peer { name: "fanwire lean, TLS", speak: "lean", start: serve_tls, tls: true, ..PEER },
    Peer { name: "Bun", speak: "plain", start: bun, ..PEER },
    Peer { name: "Bun, TLS", speak: "plain", start: bun_tls, tls: true, ..PEER },
];

/// Contestants for the cost of a second loop.
pub const LOOP_PEERS: &[Peer] = &[
    Peer { name: "fanwire, one loop", ..PEER },
    Peer { name: "fanwire, two loops", start: serve_two_loops, ..PEER },
];

/// Contestants in an app that serves clients on its own port. The others are compared with the first one.
pub const APP_PEERS: &[Peer] = &[
    Peer {
        name: "fanwire, a port of its own",
        sse: true,
        start: |ground| embedded(ground, "own"),
        own_port: true,
        ..PEER
    },
    Peer {
        name: "fanwire, a route of axum",
        sse: true,
        start: |ground| embedded(ground, "tower"),
        own_port: true,
        ..PEER
    },
    Peer {
        name: "fanwire, a route of axum, its listener wrapped",
        sse: true,
        start: |ground| embedded(ground, "listener"),
        own_port: true,
        ..PEER
    },
    Peer {
        name: "fanwire, adopted sockets",
        sse: true,
        start: |ground| embedded(ground, "adopt"),
        own_port: true,
        ..PEER
    },
    Peer {
        name: "axum ws, tokio broadcast",
        speak: "plain",
        sse: true,
        start: |ground| command(sibling("axum"), &[&ground.port.to_string()]),
        ..PEER
    },
    Peer {
        name: "socketioxide",
        speak: "socket-io",
        start: |ground| command(sibling("socketioxide"), &[&ground.port.to_string()]),
        ..PEER
    },
];

impl Peer {
    /// Returns whether `--only` selects the contestant: an entry of its list is the contestant's name, or a part of it
    /// that is no contestant's full name.
    pub fn is_wanted(&self, only: Option<&str>) -> bool {
        let lists = [PEERS, TOPIC_PEERS, APP_PEERS, TLS_PEERS, LOOP_PEERS];
        let is_name = |part: &str| lists.iter().copied().flatten().any(|peer| peer.name == part);
        let wants = |part: &str| self.name == part || (!is_name(part) && self.name.contains(part));
        only.is_none_or(|only| only.split(';').any(wants))
    }
}

/// Contestants with which others are compared, round by round.
pub const BARE_TOPICS: &str = "bare loop";
pub const BUN_TOPICS: &str = "Bun, WebSocket";

const BY_WS: &[&str] = &["--publish", "ws"];
const NO_ACKS: &[&str] = &["--publish", "ws-no-ack"];

/// Starts fanwire in an app, with clients that connect in this way.
fn embedded(ground: &Ground, way: &str) -> Command {
    command(sibling("embedded"), &[way, &ground.port.to_string()])
}

/// Fanwire with compression.
fn deflating(ground: &Ground) -> Command {
    let mut command = serve(ground);
    command.args(["--deflate-level", "1"]);
    command
}

/// Fanwire with the certificate of the run.
fn serve_tls(ground: &Ground) -> Command {
    let mut command = serve(ground);
    command.args(["--tls-cert-file", &ground.certificate("cert.pem")]);
    command.args(["--tls-key-file", &ground.certificate("key.pem")]);
    command
}

fn serve_two_loops(ground: &Ground) -> Command {
    let mut command = serve(ground);
    command.args(["--loops", "2"]);
    command
}

fn bun(ground: &Ground) -> Command {
    command(script("node_modules/.bin/bun"), &["run", &script("bun.js"), &ground.port.to_string()])
}

fn bun_tls(ground: &Ground) -> Command {
    let mut command = bun(ground);
    command.args([ground.certificate("cert.pem"), ground.certificate("key.pem")]);
    command
}

fn nats(ground: &Ground) -> Command {
    let text = format!(
        "listen: 127.0.0.1:{}\nwebsocket {{ listen: \"127.0.0.1:{}\", no_tls: true, compression: false }}\n\
         max_connections: 20000\nping_interval: \"10m\"\n",
        ground.publish_port(),
        ground.port
    );
    let file = ground.file("nats.conf", &text);
    command("nats-server", &["-c", &file.to_string_lossy()])
}

fn mosquitto(ground: &Ground) -> Command {
    let text = format!(
        "listener {} 127.0.0.1\nlistener {} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n\
         max_queued_messages 0\nset_tcp_nodelay true\nlog_type none\n",
        ground.publish_port(),
        ground.port
    );
    let file = ground.file("mosquitto.conf", &text);
    command("mosquitto", &["-c", &file.to_string_lossy()])
}

fn nginx(ground: &Ground) -> Command {
    let folder = ground.folder.display();
    let text = format!(
        "daemon off;\nmaster_process off;\nload_module /usr/lib/nginx/modules/ngx_nchan_module.so;\npid {folder}/pid;\n\
         error_log {folder}/error.log crit;\nworker_rlimit_nofile 20000;\n\
         events {{ worker_connections 19900; }}\n\
         http {{\n access_log off;\n keepalive_requests 100000000;\n keepalive_timeout 1h;\n nchan_shared_memory_size 512m;\n\
         client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;\n\
         uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
         server {{\n  listen 127.0.0.1:{} backlog=4096;\n  tcp_nodelay on;\n\
         location = /sub {{ nchan_subscriber websocket eventsource; nchan_channel_id bench; nchan_subscriber_timeout 0; }}\n\
         location = /pub {{ nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 10000; nchan_message_timeout 60s; }}\n\
         location ~ ^/sub/(.+)$ {{ nchan_subscriber websocket eventsource; nchan_channel_id $1; nchan_channel_id_split_delimiter \",\"; nchan_subscriber_timeout 0; }}\n\
         location ~ ^/pub/(.+)$ {{ nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 10000; nchan_message_timeout 60s; }}\n }}\n}}\n",
        ground.port
    );
    let file = ground.file("nginx.conf", &text);
    command("nginx", &["-c", &file.to_string_lossy(), "-p", &folder.to_string()])
}

/// A running peer. It is killed on drop.
pub struct Running {
    child: Child,
    pub url: String,
    pub publish_to: Option<String>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Running {
    /// Ends the peer with a signal, and waits for its end.
    pub fn end(mut self) -> Result<(), String> {
        let asked = Command::new("kill").arg(self.pid().to_string()).status();
        asked.and_then(|_| self.child.wait()).map(drop).map_err(|error| error.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The peer may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// Starts the peer on the first core, under another program if `under` names one, and waits until its port is open.
    pub fn start(&self, ground: &Ground, under: &[String]) -> Result<Running, String> {
        if self.tls {
            let mut make = command(fanwire(), &["dev-cert", "--dir", &ground.certificate("")]);
            let made =
                make.stdout(Stdio::null()).status().map_err(|error| format!("{}: {error}", self.name))?;
            if !made.success() {
                return Err(format!("{}: no certificate", self.name));
            }
        }
        let inner = (self.start)(ground);
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).args(under).arg(inner.get_program()).args(inner.get_args());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", self.name))?;
        let publish_to = self.own_port.then(|| format!("127.0.0.1:{}", ground.publish_port()));
        let ports = [ground.port, if self.own_port { ground.publish_port() } else { ground.port }];
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()) {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("{} ended with {status}", self.name));
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{} does not listen", self.name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let scheme = if self.tls { "https" } else { "http" };
        Ok(Running { child, url: format!("{scheme}://127.0.0.1:{}", ground.port), publish_to })
    }
}
