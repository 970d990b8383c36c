//! A node under trial: the built server, a publisher, a reader and a prober, each with its records.
//!
//! Always: every wait has a time limit. A thread ends with its node.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clocks::Probe;
use crate::referee::{Attempt, Outcome, Seen, What};
use crate::support::http::{Response, post_request, read_head, read_response};
use crate::support::wire::{Wire, deadline};
use crate::support::ws::{KEY, PING, PONG, TEXT, Ws, frame};
use crate::support::{PATIENCE, Server, eventually, fanwire};

/// Time that a publisher may wait for the log, as configured on the nodes.
pub(crate) const ACCEPT_TIMEOUT: Duration = Duration::from_secs(1);

/// Additional time for a busy machine.
const ALLOWANCE: Duration = Duration::from_secs(8);

/// Maximum time to the end of a node after SIGTERM: its drain, a last attempt on the log, and the allowance.
const END_MAX: Duration = Duration::from_secs(15);

/// Pause between two requests of a publisher, and between two probes.
const PACE: Duration = Duration::from_millis(20);
const PROBE: Duration = Duration::from_millis(100);

/// Type of all events of a trial.
const TYPE: &str = "contract.event";

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// State that the threads of a node share.
pub(crate) struct Shared {
    start: Instant,
    /// Number of the node's publisher and reader.
    number: usize,
    /// Longest time that a publisher may wait for an answer.
    pub(crate) wait_max: Duration,
    addr: Mutex<SocketAddr>,
    stop_publishing: AtomicBool,
    stop: AtomicBool,
    /// Whether the publisher pauses.
    is_held: AtomicBool,
    /// Whether the publisher has a request in flight.
    is_asking: AtomicBool,
    /// Whether the publisher is to finish.
    is_done: AtomicBool,
    /// Whether the test has stopped the process, so that it cannot answer now.
    is_away: AtomicBool,
    /// Times from and to which the test had stopped the process.
    away: Mutex<Vec<(Duration, Option<Duration>)>>,
    pub(crate) attempts: Mutex<Vec<Attempt>>,
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) probes: Mutex<Vec<Probe>>,
}

impl Shared {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn addr(&self) -> SocketAddr {
        *lock(&self.addr)
    }

    fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    fn set_away(&self, is_away: bool) {
        if self.is_away.swap(is_away, Ordering::Relaxed) != is_away {
            let now = self.now();
            let mut away = lock(&self.away);
            match away.last_mut() {
                Some((_, end @ None)) if !is_away => *end = Some(now),
                _ if is_away => away.push((now, None)),
                _ => {}
            }
        }
    }

    /// Returns whether the test has ever stopped the process.
    pub(crate) fn was_away(&self) -> bool {
        !lock(&self.away).is_empty()
    }

    /// Returns the attempts that the node could have answered: those during which its process was not stopped.
    pub(crate) fn answerable(&self) -> Vec<Attempt> {
        let away = lock(&self.away).clone();
        let touches = |attempt: &Attempt| {
            let overlaps = |(from, to): &(Duration, Option<Duration>)| {
                *from <= attempt.answered && to.is_none_or(|to| attempt.asked <= to)
            };
            away.iter().any(overlaps)
        };
        lock(&self.attempts).iter().filter(|attempt| !touches(attempt)).cloned().collect()
    }

    /// Publishes `count` events from this number on, each padded by this many bytes, and records the answer. Returns
    /// its status, 0 for none.
    fn publish(
        &self,
        wire: &mut Option<Wire>,
        publisher: usize,
        first: u64,
        count: u64,
        pad: &dyn Fn(u64) -> usize,
    ) -> (Outcome, u16) {
        let line = |n: u64| {
            let payload = json!({"p": publisher, "n": n, "pad": "x".repeat(pad(n))});
            let event = json!({"type": TYPE, "stream_id": format!("p{publisher}"), "payload": payload});
            format!("{event}\n")
        };
        let body: String = (first..first + count).map(line).collect();
        let asked = self.now();
        let answer = self.ask(wire, &body);
        if answer.is_err() {
            *wire = None;
        }
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let outcome = outcome_of(answer);
        let answered = self.now();
        let attempt = Attempt { publisher, first, count, outcome: outcome.clone(), asked, answered };
        lock(&self.attempts).push(attempt);
        (outcome, status)
    }

    fn ask(&self, wire: &mut Option<Wire>, body: &str) -> io::Result<Response> {
        let wire = match wire {
            Some(wire) => wire,
            None => wire.insert(Wire::new(TcpStream::connect_timeout(&self.addr(), PATIENCE)?)),
        };
        wire.send_if_taken(&post_request("/publish", "application/x-ndjson", body.as_bytes()));
        // This waits longer than the limit, so that the referee can report a late answer.
        read_response(wire, Instant::now() + self.wait_max + ACCEPT_TIMEOUT)
    }

    fn publish_all(&self) {
        let mut wire = None;
        let (mut next, mut turn) = (0, 0);
        while !self.stop_publishing.load(Ordering::Relaxed) && !self.is_stopped() {
            self.is_asking.store(true, Ordering::SeqCst);
            if !self.is_away() && !self.is_held.load(Ordering::SeqCst) {
                turn += 1;
                let count = 1 + turn % 3;
                self.publish(&mut wire, self.number, next, count, &|_| 0);
                next += count;
            }
            self.is_asking.store(false, Ordering::SeqCst);
            std::thread::sleep(PACE);
        }
    }

    fn probe_all(&self) {
        while !self.is_stopped() {
            if !self.is_away()
                && let Some(is_ready) = self.probe()
            {
                lock(&self.probes).push(Probe { at: self.now(), is_ready });
            }
            std::thread::sleep(PROBE);
        }
    }

    /// Returns whether the node reports that it is ready. `None` if it did not answer.
    fn probe(&self) -> Option<bool> {
        let mut wire = Wire::new(TcpStream::connect_timeout(&self.addr(), PATIENCE).ok()?);
        wire.send_if_taken(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = read_response(&mut wire, deadline()).ok()?;
        Some(answer.status == 200)
    }

    /// Reads all events until the node is stopped. Resumes after a broken connection.
    fn read_all(&self, ready: &AtomicBool) {
        let mut since = Value::Null;
        while !self.is_stopped() {
            // A broken connection alone is no fault: events that are lost by it are missing on the next one.
            let _ = self.read(&mut since, ready);
            std::thread::sleep(PACE);
        }
    }

    fn read(&self, since: &mut Value, ready: &AtomicBool) -> io::Result<()> {
        let mut wire = Wire::new(TcpStream::connect_timeout(&self.addr(), PATIENCE)?);
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n"
        );
        wire.send_if_taken(request.as_bytes());
        let response = read_head(&mut wire, deadline())?;
        if response.status != 101 {
            return Err(io::Error::other(format!("{response:?}")));
        }
        let mut ws = Ws { wire, response };
        let mut wanted = json!({});
        if since.is_string() {
            wanted["since"] = since.clone();
        }
        let subscribe = json!({"type": "subscribe", "payload": wanted}).to_string();
        ws.wire.send_if_taken(&frame(TEXT, subscribe.as_bytes()));
        while !self.is_stopped() {
            if ws.wire.buffered().is_empty() {
                match ws.wire.fill(Instant::now() + PROBE) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => continue,
                    other => other?,
                };
            }
            let message = ws.read_frame(deadline())?;
            match message.opcode() {
                PING => ws.wire.send_if_taken(&frame(PONG, &message.payload)),
                TEXT => {
                    let message: Value = serde_json::from_slice(&message.payload).expect("a message is JSON");
                    self.take(&message, since);
                    ready.store(true, Ordering::Relaxed);
                }
                _ => return Err(io::Error::other("closed")),
            }
        }
        Ok(())
    }

    fn take(&self, message: &Value, since: &mut Value) {
        let payload = &message["payload"];
        let what = match message["type"].as_str() {
            Some("ack") => {
                if since.is_null() {
                    *since = payload["last_event_id"].clone();
                }
                return;
            }
            Some("event") => {
                let id = payload["event_id"].as_str().unwrap_or_default().to_owned();
                let position = &message["position"];
                *since = if position.is_string() { position } else { &payload["event_id"] }.clone();
                let number =
                    |key: &str| payload["payload"][key].as_u64().filter(|_| payload["event_type"] == TYPE);
                match (number("p"), number("n")) {
                    (Some(publisher), Some(n)) => What::Event { id, publisher: publisher as usize, n },
                    _ => What::Other { id },
                }
            }
            Some("gap") => {
                let to = payload["to"].as_str().and_then(crate::referee::parts);
                What::Gap { shard: to.map(|(_, _, shard)| shard) }
            }
            _ => return,
        };
        lock(&self.seen).push(Seen { at: self.now(), what });
    }
}

/// Returns what the publisher knows after an answer, or without one.
fn outcome_of(answer: io::Result<Response>) -> Outcome {
    let Ok(answer) = answer else { return Outcome::Unknown };
    let text = String::from_utf8_lossy(&answer.body);
    let is_certain = ["nothing was accepted", "too many events wait", "shutting down"];
    match answer.status {
        200 => {
            let last_id = answer.json()["last_event_id"].as_str().map(str::to_owned);
            Outcome::Accepted { last_id }
        }
        400..500 => Outcome::Refused { why: text.into_owned() },
        _ if is_certain.iter().any(|sure| text.contains(sure)) => Outcome::Refused { why: text.into_owned() },
        _ => Outcome::Unknown,
    }
}

/// A node and the threads around it.
pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) shared: Arc<Shared>,
    /// Another binary, instead of the one built here.
    program: Option<PathBuf>,
    /// Process id of the server's successor, which is not a child of this process.
    successor: Option<u32>,
    options: Vec<String>,
    threads: Vec<JoinHandle<()>>,
    memory: u64,
}

impl Node {
    /// Starts a server with these options, and waits until its reader has subscribed.
    pub(crate) fn start(
        number: usize,
        start: Instant,
        accept: Duration,
        program: Option<PathBuf>,
        options: Vec<String>,
    ) -> Self {
        let server = serve(program.as_deref(), &options);
        let shared = Arc::new(Shared {
            start,
            number,
            wait_max: accept + ALLOWANCE,
            addr: Mutex::new(server.addr),
            stop_publishing: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
            is_asking: AtomicBool::new(false),
            is_done: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            away: Mutex::default(),
            attempts: Mutex::default(),
            seen: Mutex::default(),
            probes: Mutex::default(),
        });
        eventually("the node is ready", || shared.probe() == Some(true));
        let is_subscribed = Arc::new(AtomicBool::new(false));
        let reader = {
            let (shared, is_subscribed) = (Arc::clone(&shared), Arc::clone(&is_subscribed));
            std::thread::spawn(move || shared.read_all(&is_subscribed))
        };
        let prober = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.probe_all())
        };
        eventually("the reader is subscribed", || is_subscribed.load(Ordering::Relaxed));
        let memory = server.rss_kib();
        Self { server, shared, program, successor: None, options, threads: vec![reader, prober], memory }
    }

    /// Starts the node's publisher.
    pub(crate) fn begin(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.threads.push(std::thread::spawn(move || {
            shared.publish_all();
            shared.is_done.store(true, Ordering::SeqCst);
        }));
    }

    pub(crate) fn number(&self) -> usize {
        self.shared.number
    }

    /// Returns whether the node reports that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.shared.probe() == Some(true)
    }

    /// Stops the node's process, or continues it.
    pub(crate) fn pause(&self, paused: bool) {
        if paused {
            self.shared.set_away(true);
        }
        self.server.signal(if paused { "STOP" } else { "CONT" });
        if !paused {
            self.shared.set_away(false);
        }
    }

    /// Kills the node's process, runs a function, and restarts the process with the same options.
    pub(crate) fn crash(&mut self, meanwhile: impl FnOnce()) {
        self.shared.set_away(true);
        self.server.signal("KILL");
        self.server.wait();
        meanwhile();
        self.revive();
    }

    /// Ends the process with SIGTERM and starts another binary in its place. Returns the faults of the end.
    pub(crate) fn replace(&mut self, program: Option<PathBuf>) -> Option<String> {
        let fault = self.terminate();
        self.program = program;
        self.revive();
        fault
    }

    /// Replaces the node's binary by another one, and makes the process hand over to it.
    pub(crate) fn hand_over(&mut self, to: &Path) {
        let program = self.program.as_ref().expect("a binary of its own");
        std::fs::remove_file(program).expect("it is there");
        std::fs::copy(to, program).expect("copied");
        self.server.signal("USR2");
        let log = || self.server.log();
        let successor = || {
            let log = log();
            let line = log.lines().find(|line| line.contains("handed over"))?;
            line.split("successor=").nth(1)?.split(' ').next()?.parse().ok()
        };
        eventually("the successor takes over", || successor().is_some());
        self.successor = successor();
        assert!(self.server.wait().success(), "{}", self.server.log());
    }

    fn end_successor(&mut self, pid: u32) -> Option<String> {
        let signal =
            |name: &str| Command::new("kill").args([name, &pid.to_string()]).stderr(Stdio::null()).status();
        let _ = signal("-TERM");
        let end = Instant::now() + END_MAX;
        // A zombie has ended, too.
        let is_gone = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
        };
        while !is_gone() {
            if Instant::now() >= end {
                let _ = signal("-KILL");
                return Some(format!("the successor of node {} did not end", self.number()));
            }
            std::thread::sleep(PACE);
        }
        None
    }

    /// Ends the process with SIGTERM, and returns the faults of the end.
    pub(crate) fn terminate(&mut self) -> Option<String> {
        self.shared.set_away(true);
        if let Some(successor) = self.successor.take() {
            return self.end_successor(successor);
        }
        self.server.signal("TERM");
        let end = Instant::now() + END_MAX;
        loop {
            if let Some(status) = self.server.try_wait() {
                return (!status.success()).then(|| format!("node {} ended with {status}", self.number()));
            }
            if Instant::now() >= end {
                return Some(format!("node {} did not end within {END_MAX:?} of SIGTERM", self.number()));
            }
            std::thread::sleep(PACE);
        }
    }

    /// Returns the growth of the process's resident memory, in KiB.
    pub(crate) fn growth(&self) -> u64 {
        if self.successor.is_some() {
            return 0;
        }
        self.server.rss_kib().saturating_sub(self.memory)
    }

    /// Makes the node's publisher finish.
    pub(crate) fn finish_publishing(&self) {
        self.shared.stop_publishing.store(true, Ordering::Relaxed);
    }

    /// Returns whether the node's publisher has the answer to its last request.
    pub(crate) fn has_finished(&self) -> bool {
        self.shared.is_done.load(Ordering::SeqCst)
    }

    /// Returns the attempts of the node's publisher.
    pub(crate) fn records(&self) -> Vec<Attempt> {
        lock(&self.shared.attempts).clone()
    }

    /// Returns the number of attempts of the node's publisher.
    pub(crate) fn attempts(&self) -> usize {
        lock(&self.shared.attempts).len()
    }

    /// Returns the first event of the node's own publisher's first accepted request that has at least index `at` and
    /// was not sent before `after`.
    pub(crate) fn accepted_after(&self, at: usize, after: Duration) -> Option<u64> {
        let attempts = lock(&self.shared.attempts);
        let own =
            attempts.iter().skip(at).filter(|one| one.publisher == self.shared.number && one.asked >= after);
        own.filter(|one| matches!(one.outcome, Outcome::Accepted { .. })).map(|one| one.first).next()
    }

    /// Returns whether a request from index `at` on was refused.
    pub(crate) fn has_refused_from(&self, at: usize) -> bool {
        lock(&self.shared.attempts)
            .iter()
            .skip(at)
            .any(|one| !matches!(one.outcome, Outcome::Accepted { .. }))
    }

    /// Like [`has_refused_from`](Self::has_refused_from), for the node's own publisher only.
    pub(crate) fn has_refused_from_own(&self, at: usize) -> bool {
        let attempts = lock(&self.shared.attempts);
        let mut own = attempts.iter().skip(at).filter(|one| one.publisher == self.shared.number);
        own.any(|one| !matches!(one.outcome, Outcome::Accepted { .. }))
    }

    /// Returns the newest accepted event of the node's publisher.
    pub(crate) fn last_accepted(&self) -> Option<u64> {
        let attempts = lock(&self.shared.attempts);
        let mut own = attempts.iter().rev().filter(|one| one.publisher == self.shared.number);
        own.find(|one| matches!(one.outcome, Outcome::Accepted { .. })).map(|one| one.first + one.count - 1)
    }

    /// Publishes `count` events of another publisher in one request, each padded by this many bytes. Returns the
    /// answer's status, 0 for none.
    pub(crate) fn publish_once(&self, publisher: usize, first: u64, count: u64, pad: usize) -> u16 {
        self.publish_padded(publisher, first, count, &|_| pad)
    }

    /// Like [`publish_once`](Self::publish_once), with a length for each event.
    pub(crate) fn publish_padded(
        &self,
        publisher: usize,
        first: u64,
        count: u64,
        pad: &dyn Fn(u64) -> usize,
    ) -> u16 {
        self.shared.publish(&mut None, publisher, first, count, pad).1
    }

    /// Pauses the node's publisher, or continues it.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.is_held.store(held, Ordering::SeqCst);
        // After this, a request in flight has its answer.
        eventually("the publisher is between two requests", || !self.shared.is_asking.load(Ordering::SeqCst));
    }

    /// Restarts the node after its end.
    pub(crate) fn revive(&mut self) {
        self.server = serve(self.program.as_deref(), &self.options);
        *lock(&self.shared.addr) = self.server.addr;
        self.shared.set_away(false);
    }

    /// Returns whether the node's reader has this event of this publisher, or a later one.
    pub(crate) fn has_seen(&self, publisher: usize, from: u64) -> bool {
        let is_it = |one: &Seen| matches!(one.what, What::Event { publisher: p, n, .. } if p == publisher && n >= from);
        lock(&self.shared.seen).iter().rev().any(is_it)
    }

    /// Ends the node's threads.
    pub(crate) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
        if let Some(successor) = self.successor.take() {
            self.end_successor(successor);
        }
    }
}

fn serve(program: Option<&Path>, options: &[String]) -> Server {
    let mut command = program.map_or_else(fanwire, Command::new);
    // Handovers are logged at level info.
    let level = if program.is_some() { "info" } else { "warn" };
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", level]).args(options);
    Server::spawn(&mut command)
}
