//! Real servers besides fanwire, on free ports and in folders of the test: Redis and NATS.
//!
//! Always: a server ends with its test. If it is not installed, the test fails and says how to install it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::eventually;
use super::wire::{Wire, deadline};

/// Kind of a server that keeps order and history for several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redis,
    /// NATS with JetStream.
    Nats,
    /// NATS without JetStream.
    PlainNats,
}

/// A running server. Killed on drop.
pub struct Service {
    pub kind: Kind,
    pub addr: SocketAddr,
    folder: PathBuf,
    /// More options for the command line.
    options: Vec<String>,
    child: Option<Child>,
}

/// Encodes a command in Redis' protocol.
fn redis_command(words: &[&str]) -> Vec<u8> {
    let bulk = |text: &&str| format!("${}\r\n{text}\r\n", text.len());
    let count = format!("*{}\r\n", words.len());
    std::iter::once(count).chain(words.iter().map(bulk)).collect::<String>().into_bytes()
}

/// Returns a free port.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

impl Service {
    /// Starts a server, and waits until it answers.
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, Vec::new())
    }

    /// Starts a replica of this Redis.
    pub fn replica(&self) -> Self {
        let port = self.addr.port().to_string();
        Self::start_with(self.kind, ["--replicaof", "127.0.0.1", &port].map(str::to_owned).into())
    }

    /// Starts a cluster of this many NATS servers with JetStream.
    pub fn nats_cluster(count: usize) -> Vec<Self> {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let start = |(number, port): (usize, &u16)| {
            let cluster = format!("nats://127.0.0.1:{port}");
            let name = format!("n{number}");
            let options = ["--cluster_name", "c", "--server_name", &name, "--cluster", &cluster, "--routes"];
            let options = options.map(str::to_owned).into_iter().chain([routes.join(",")]);
            Self::start_with(Kind::Nats, options.collect())
        };
        ports.iter().enumerate().map(start).collect()
    }

    fn start_with(kind: Kind, options: Vec<String>) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("fanwire-service-{}-{number}", std::process::id()));
        Self::start_in(kind, folder, &options.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a server that keeps its files in this folder, with more options.
    pub fn start_in(kind: Kind, folder: PathBuf, options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        std::fs::create_dir_all(&folder).expect("a folder");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut service = Self { kind, addr, folder, options, child: None };
        service.resume();
        service
    }

    /// Returns a server that is not running: nothing listens at its address before [`Self::resume`].
    pub fn absent(kind: Kind) -> Self {
        let mut service = Self::start(kind);
        service.kill();
        service
    }

    /// Returns the value for `--engine`.
    pub fn url(&self) -> String {
        match self.kind {
            Kind::Redis => format!("redis://{}", self.addr),
            Kind::Nats | Kind::PlainNats => format!("nats://{}", self.addr),
        }
    }

    /// Returns the folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops the process or lets it run again. While stopped, it neither answers nor breaks a connection.
    pub fn pause(&self, paused: bool) {
        let child = self.child.as_ref().expect("it runs");
        let signal = if paused { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Kills the process, like a crash.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            let _ = child.wait();
        }
    }

    /// Starts the server again with the files that it has written.
    pub fn resume(&mut self) {
        let (port, folder) = (self.addr.port().to_string(), self.folder.to_str().expect("plain").to_owned());
        let (program, mut args): (_, Vec<&str>) = match self.kind {
            Kind::Redis => ("redis-server", vec!["--bind", "127.0.0.1", "--port", &port, "--dir", &folder]),
            Kind::Nats | Kind::PlainNats => ("nats-server", vec!["-a", "127.0.0.1", "-p", &port]),
        };
        args.extend(match self.kind {
            // With these options a crash loses nothing that was accepted.
            Kind::Redis => vec!["--appendonly", "yes", "--appendfsync", "always", "--save", ""],
            Kind::Nats => vec!["-js", "-sd", &folder],
            Kind::PlainNats => vec![],
        });
        let mut command = Command::new(program);
        command
            .args(args)
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn();
        let child =
            child.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it"));
        self.child = Some(child);
        eventually("the service answers", || self.answers());
    }

    /// Runs a command in Redis. Its answer must begin with this text.
    pub fn redis(&self, words: &[&str], answer: &str) {
        let mut stream = TcpStream::connect(self.addr).expect("it runs");
        stream.write_all(&redis_command(words)).expect("it takes a command");
        let mut start = vec![0; answer.len()];
        stream.read_exact(&mut start).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&start), answer, "{words:?}");
    }

    /// Runs a command in Redis, and returns its answer: a line, a number or a text, `None` for nil.
    ///
    /// # Panics
    /// If the answer is an error or a list.
    pub fn redis_ask(&self, words: &[&str]) -> Option<String> {
        let mut wire = Wire::connect(self.addr);
        wire.send(&redis_command(words));
        let line = wire.take_until(b"\r\n", deadline()).expect("an answer");
        let line = String::from_utf8(line).expect("text");
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" | ":" => Some(rest.to_owned()),
            "$" if rest == "-1" => None,
            "$" => {
                let text = wire.take(rest.parse().expect("a length"), deadline()).expect("a text");
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            _ => panic!("{words:?}: {line}"),
        }
    }

    /// Runs a file of commands in Redis.
    pub fn redis_load(&self, commands: &[u8]) {
        let mut wire = Wire::connect(self.addr);
        wire.send(commands);
        wire.send(b"*1\r\n$4\r\nPING\r\n");
        let answers = wire.take_until(b"+PONG\r\n", deadline()).expect("answers");
        let answers = String::from_utf8_lossy(&answers);
        assert!(!answers.lines().any(|line| line.starts_with('-')), "{answers}");
    }

    /// Sends a request under a subject of NATS' API, and returns the answer.
    pub fn nats_ask(&self, subject: &str, request: &Value) -> Value {
        let request = request.to_string();
        let mut wire = Wire::connect(self.addr);
        let say = format!(
            "CONNECT {{\"verbose\":false}}\r\nSUB answers 1\r\nPUB {subject} answers {}\r\n{request}\r\n",
            request.len()
        );
        wire.send(say.as_bytes());
        loop {
            let line = wire.take_until(b"\r\n", deadline()).expect("an answer");
            let line = String::from_utf8(line).expect("text");
            if line.starts_with("MSG ") {
                let length = line.trim_end().rsplit(' ').next().and_then(|length| length.parse().ok());
                let text = wire.take(length.expect("a length"), deadline()).expect("a text");
                return serde_json::from_slice(&text).expect("JSON");
            }
        }
    }

    /// Publishes a message on a channel or subject, like any client of the server.
    pub fn say(&self, channel: &str, text: &str) {
        let mut stream = TcpStream::connect(self.addr).expect("it runs");
        let (command, last) = match self.kind {
            Kind::Redis => (
                format!(
                    "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n{text}\r\n",
                    channel.len(),
                    text.len()
                ),
                "\r\n",
            ),
            Kind::Nats | Kind::PlainNats => (
                format!(
                    "CONNECT {{\"verbose\":false}}\r\nPUB {channel} {}\r\n{text}\r\nPING\r\n",
                    text.len()
                ),
                "PONG\r\n",
            ),
        };
        stream.write_all(command.as_bytes()).expect("it takes a command");
        let mut answer = String::new();
        let mut chunk = [0; 1024];
        while !answer.ends_with(last) {
            let read = stream.read(&mut chunk).expect("an answer");
            assert!(read > 0, "it closed the connection: {answer}");
            answer.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.addr) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let (say, want): (&[u8], &[u8]) = match self.kind {
            Kind::Redis => (b"PING\r\n", b"+PONG"),
            Kind::Nats | Kind::PlainNats => (b"", b"INFO "),
        };
        let mut answer = [0; 5];
        stream.write_all(say).and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer == want
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
