//! Shared by the outside tests: the built server as a child process, and raw clients that know only the RFCs.
//!
//! Uses nothing of the crate, so that one fault cannot hide on both sides. Always: every wait has a time limit.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file is a crate of its own and uses a part of this"
)]

pub mod authority;
pub mod faulty;
pub mod hostile;
pub mod http;
pub mod log_home;
pub mod named;
pub mod nginx;
pub mod proxy;
pub mod script;
pub mod service;
pub mod sse;
pub mod wire;
pub mod ws;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Time limit of any single wait, enough for a debug build on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Raises the number of files and sockets that this process can have open.
pub fn raise_file_limit(limit: u64) {
    let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: Some(limit), maximum: now.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("the hard limit is higher");
}

/// A process `fanwire serve` on a free port. Killed on drop.
pub struct Server {
    child: Child,
    pub addr: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Lines on stdout after the first one.
    stdout: Receiver<String>,
}

impl Server {
    /// Starts a server with default options.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with more options.
    pub fn with(options: &[&str]) -> Self {
        Self::at("127.0.0.1:0", options)
    }

    /// Starts a server at an address.
    pub fn at(listen: &str, options: &[&str]) -> Self {
        let quiet: &[&str] = if options.contains(&"--log-level") { &[] } else { &["--log-level", "warn"] };
        let mut command = fanwire();
        command.args(["serve", "--listen", listen]).args(quiet).args(options);
        Self::spawn(&mut command)
    }

    /// Starts a server with the test's own command.
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::null())
    }

    /// Like [`spawn`](Self::spawn), with a stdin.
    pub fn spawn_with(command: &mut Command, stdin: Stdio) -> Self {
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, into) = (child.stderr.take().expect("piped"), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut chunk) {
                into.lock().expect("no panic holds it").push_str(&String::from_utf8_lossy(&chunk[..len]));
            }
        });
        let (lines, stdout) = channel();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let first = stdout.recv_timeout(PATIENCE);
        let listens = |line: String| line.strip_prefix("listening on ")?.split_once("://")?.1.parse().ok();
        let addr = first.ok().and_then(listens);
        let Some(addr) = addr else {
            let _ = child.kill();
            panic!("the server did not say where it listens: {}", log.lock().expect("no panic holds it"));
        };
        Self { child, addr, log, stdout }
    }

    /// Returns the resident memory of the server, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has VmRSS");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < end, "the server did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the exit status if the process has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Limits the number of files and sockets that the server can have open.
    pub fn limit_files(&self, limit: u64) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let limit = rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) };
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, limit).expect("our own child");
    }

    /// Returns everything written to stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic holds it").clone()
    }

    /// Returns the lines on stdout after the first one.
    pub fn more_stdout(&self) -> Vec<String> {
        self.stdout.try_iter().collect()
    }

    /// Publishes a body, all of which the server must accept, and returns the answer.
    pub fn publish(&self, body: impl AsRef<[u8]>) -> Value {
        let answer = http::post(self.addr, "/publish", "application/json", body.as_ref());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Returns one number of `/metrics`, summed over its labels. `None` if there is no such metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let values = self.metrics(name);
        (!values.is_empty()).then(|| values.iter().map(|(_, value)| value).sum())
    }

    /// Waits until nothing is pending, and returns the ledger. Panics unless matched is the sum of the other numbers.
    pub fn balanced_ledger(&self) -> serde_json::Value {
        let mut ledger = serde_json::Value::Null;
        let number = |ledger: &serde_json::Value, name: &str| ledger[name].as_u64().expect("a number");
        eventually("the ledger says that nothing waits", || {
            ledger = http::get(self.addr, "/api/stats").json()["ledger"].clone();
            number(&ledger, "pending") == 0
        });
        let parts = ["written", "pending", "dropped", "conflated", "merged"];
        let sum: u64 = parts.iter().map(|name| number(&ledger, name)).sum();
        assert_eq!(number(&ledger, "matched"), sum, "{ledger}");
        ledger
    }

    /// Returns the oldest sequence in the first shard's ring.
    pub fn shard_oldest(&self) -> u64 {
        let stats = http::get(self.addr, "/api/stats").json();
        stats["shards"][0]["oldest"].as_u64().unwrap_or_else(|| panic!("no shards in {stats}"))
    }

    /// Returns a metric's samples: the text of the labels, and the value.
    pub fn metrics(&self, name: &str) -> Vec<(String, f64)> {
        let answer = http::get(self.addr, "/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        let samples = answer.text().lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let labels = key.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{'))
                .then(|| Some((labels.to_owned(), value.parse().ok()?)))?
        });
        samples.collect()
    }

    /// Panics unless a new client is served.
    pub fn assert_serving(&self) {
        let answer = http::get(self.addr, "/healthz");
        assert_eq!(answer.status, 200, "not serving any more: {answer:?}\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("-- the server's log --\n{}", self.log());
        }
    }
}

/// Returns the built binary, without environment variables of the caller that would change it.
pub fn fanwire() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanwire"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANWIRE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG");
    command
}

/// Makes a token with `fanwire token` and these options, signed with this secret.
pub fn token(secret: &str, options: &[&str]) -> String {
    let mut command = fanwire();
    let out = run(command.arg("token").args(options).env("FANWIRE_AUTH_JWT_HS256_SECRET", secret));
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).expect("text").trim().to_owned()
}

/// Runs a command to its end, and kills it after too long. Only for outputs that fit into a pipe.
pub fn run(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let end = Instant::now() + PATIENCE;
    while child.try_wait().expect("it is our child").is_none() {
        if Instant::now() >= end {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("it has ended")
}

/// Returns one event as NDJSON, with its number as payload.
pub fn numbered(n: usize) -> String {
    format!("{{\"type\":\"test.numbered\",\"source\":\"test\",\"payload\":{{\"n\":{n}}}}}\n")
}

/// Reads a stream into `all` until `all` contains `part`.
pub fn read_until(stream: &mut impl Read, all: &mut String, part: &str) {
    let mut piece = [0; 4096];
    while !all.contains(part) {
        let read = stream.read(&mut piece).expect("bytes");
        assert!(read > 0, "ended after {all}");
        all.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
}

/// Waits until `done` returns true. Panics with `what` after [`PATIENCE`].
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
