//! The soak: a server on Redis for a long time, with clients that connect and disconnect, slow readers, and an engine
//! that is killed at intervals. `fanwire verify` accounts for every event; memory and descriptors are sampled.
//!
//! Always: the run is bounded in time and ends the processes that it started; a fault, growth or a ledger that does not
//! balance fails it.

mod report;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::run::{Outcome, cargo};
use report::{Account, Sample};

/// Environment variable with the path of a program to run instead of the one built here.
const GIVEN: &str = "FANWIRE_PROGRAM";
/// Time between two samples.
const EVERY: Duration = Duration::from_secs(5);
/// Length of a round of `fanwire verify`.
const ROUND: Duration = Duration::from_secs(60);
/// Time for the last clients to disconnect.
const QUIET: Duration = Duration::from_secs(8);
/// Time between a kill of the engine and its restart.
const OUTAGE: Duration = Duration::from_secs(2);

/// Runs for some minutes. The report goes to `target/soak/`, with `--docs` to `docs/` too.
pub(crate) fn run(args: &[String]) -> Outcome {
    let mut minutes = 30.0;
    let mut to_docs = false;
    for arg in args {
        match arg.parse::<f64>() {
            Ok(number) if number > 0.0 => minutes = number,
            _ if arg == "--docs" => to_docs = true,
            _ => return Err("soak takes a number of minutes, and --docs to keep the report".into()),
        }
    }
    let program = if let Ok(given) = std::env::var(GIVEN) {
        given
    } else {
        cargo(&["build", "--release", "--bin", "fanwire"])?;
        "target/release/fanwire".to_owned()
    };
    let folder = PathBuf::from("target/soak");
    std::fs::create_dir_all(&folder).map_err(|error| format!("target/soak: {error}"))?;
    let account = Soak::start(program, minutes, &folder)?.run()?;
    report::write(&account, &folder)?;
    println!("{}", report::text(&account));
    let faults = account.faults();
    if !faults.is_empty() {
        return Err(format!("the soak found:\n{}", faults.join("\n")));
    }
    if to_docs {
        report::write(&account, Path::new("docs"))?;
    }
    Ok(())
}

/// A running soak.
struct Soak {
    program: String,
    server: Server,
    minutes: f64,
    start: Instant,
    end: Instant,
    account: Account,
    load: Load,
}

/// State that the threads of the load share.
struct Load {
    redis: Mutex<Redis>,
    rounds: Mutex<Vec<Output>>,
    restarts: Mutex<u32>,
    churned: Mutex<u32>,
}

impl Soak {
    fn start(program: String, minutes: f64, folder: &Path) -> Result<Self, String> {
        let start = Instant::now();
        let redis = Redis::start(&folder.join("redis"))?;
        let mut server = Server::start(&program, &format!("redis://127.0.0.1:{}", redis.port))?;
        let account = Account::new(minutes, server.sample(start)?);
        let load = Load {
            redis: Mutex::new(redis),
            rounds: Mutex::default(),
            restarts: Mutex::default(),
            churned: Mutex::default(),
        };
        let end = start + Duration::from_secs_f64(minutes * 60.0);
        Ok(Self { program, server, minutes, start, end, account, load })
    }

    /// Runs the load until the end, then ends the server and returns the account.
    fn run(mut self) -> Result<Account, String> {
        let clock = Clock { end: self.end };
        let (server, account, start) = (&mut self.server, &mut self.account, self.start);
        let clients = Clients { program: &self.program, url: &server.url.clone(), clock, load: &self.load };
        let between = Duration::from_secs_f64(self.minutes * 60.0 / 8.0)
            .clamp(Duration::from_secs(20), Duration::from_secs(180));
        std::thread::scope(|scope| -> Outcome {
            scope.spawn(|| clients.verify());
            scope.spawn(|| clients.churn());
            scope.spawn(|| clients.read_slowly());
            scope.spawn(|| self.load.kill_engine(clock, between));
            while !clock.left().is_zero() {
                clock.pause(EVERY);
                account.samples.push(server.sample(start)?);
            }
            Ok(())
        })?;
        std::thread::sleep(QUIET);
        let mut account = self.account;
        account.last = self.server.sample(self.start)?;
        account.seconds = self.start.elapsed().as_secs();
        account.restarts = self.load.restarts.into_inner().unwrap_or_default();
        account.churned = self.load.churned.into_inner().unwrap_or_default();
        account.exit = self.server.end();
        for output in self.load.rounds.into_inner().unwrap_or_default() {
            account.take_round(&output.stdout, &output.stderr);
        }
        Ok(account)
    }
}

#[derive(Clone, Copy)]
struct Clock {
    end: Instant,
}

impl Clock {
    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Sleeps for `time`, but never past the end.
    fn pause(self, time: Duration) {
        std::thread::sleep(time.min(self.left()));
    }
}

/// Client commands that run in parallel until shortly before the end.
struct Clients<'a> {
    program: &'a str,
    url: &'a str,
    clock: Clock,
    load: &'a Load,
}

impl Clients<'_> {
    fn verify(&self) {
        // A round takes some seconds longer than its publishing time.
        while self.clock.left() > Duration::from_secs(25) {
            let time = ROUND.min(self.clock.left().saturating_sub(Duration::from_secs(20)));
            let seconds = time.as_secs().max(1).to_string();
            let mut args =
                vec!["verify", self.url, "--json", "--seconds", &seconds, "--ws", "6", "--sse", "6"];
            args.extend(["--lanes", "3", "--rate", "50", "--slow", "24"]);
            if let (Ok(output), Ok(mut rounds)) = (fanwire(self.program, &args), self.load.rounds.lock()) {
                rounds.push(output);
            }
        }
    }

    fn churn(&self) {
        while self.clock.left() > Duration::from_secs(15) {
            let args = ["bench", "--url", self.url, "--churn", "300", "--connections", "30"];
            if let (Ok(output), Ok(mut churned)) = (fanwire(self.program, &args), self.load.churned.lock())
                && output.status.success()
            {
                *churned += 300;
            }
            self.clock.pause(Duration::from_secs(10));
        }
    }

    fn read_slowly(&self) {
        while self.clock.left() > Duration::from_secs(40) {
            let mut args =
                vec!["bench", "--url", self.url, "--connections", "60", "--rate", "10", "--payload", "400"];
            args.extend(["--filters", "6", "--mix", "patterns", "--sleepers", "10", "--slow", "20"]);
            args.extend(["--seconds", "20"]);
            let _ = fanwire(self.program, &args);
            self.clock.pause(Duration::from_secs(5));
        }
    }
}

impl Load {
    /// Kills the engine and starts it again, with a pause between two kills.
    fn kill_engine(&self, clock: Clock, between: Duration) {
        loop {
            clock.pause(between);
            if clock.left() < Duration::from_secs(30) {
                return;
            }
            if let (Ok(mut redis), Ok(mut restarts)) = (self.redis.lock(), self.restarts.lock()) {
                redis.kill();
                std::thread::sleep(OUTAGE);
                if redis.resume().is_err() {
                    return;
                }
                *restarts += 1;
            }
        }
    }
}

/// Runs a client command to its end, at low priority.
fn fanwire(program: &str, args: &[&str]) -> std::io::Result<Output> {
    Command::new("nice").args(["-n", "10", program]).args(args).stdin(Stdio::null()).output()
}

struct Redis {
    port: u16,
    folder: PathBuf,
    child: Option<Child>,
}

impl Redis {
    fn start(folder: &Path) -> Result<Self, String> {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| format!("a free port: {error}"))?.port();
        let mut redis = Self { port, folder: folder.to_owned(), child: None };
        redis.resume()?;
        Ok(redis)
    }

    fn resume(&mut self) -> Outcome {
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "yes"])
            // An accepted event must survive a kill.
            .args(["--appendfsync", "always", "--dir"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child =
            Some(child.map_err(|error| format!("redis-server: {error}; `cargo xtask setup` installs it"))?);
        for _ in 0..400 {
            let asked = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                stream.write_all(b"PING\r\n")?;
                let mut answer = [0; 5];
                stream.read_exact(&mut answer)?;
                Ok(answer)
            });
            if asked.is_ok_and(|answer| &answer == b"+PONG") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("redis-server does not answer".into())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(program: &str, engine: &str) -> Result<Self, String> {
        let child = Command::new(program)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--loops",
                "2",
                "--log-level",
                "error",
                "--engine",
                engine,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|error| format!("{program}: {error}"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        match line.trim().strip_prefix("listening on ") {
            Some(url) => Ok(Self { child, url: url.to_owned() }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err("the server did not start: run it by hand to see why".into())
            }
        }
    }

    fn sample(&mut self, start: Instant) -> Result<Sample, String> {
        let process = format!("/proc/{}", self.child.id());
        let read = |name: &str| {
            std::fs::read_to_string(format!("{process}/{name}"))
                .map_err(|error| format!("the server is gone: {error}"))
        };
        let status = read("status")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kib = rss.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
        let stat = read("stat")?;
        // User and system time are the 12th and 13th field after the name.
        let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let ticks: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        let descriptors = std::fs::read_dir(format!("{process}/fd")).map_or(0, Iterator::count) as u64;
        let stats = self.stats().unwrap_or_default();
        let of = |path: &str| stats.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let parts = ["written", "pending", "dropped", "conflated", "merged"];
        let parts = parts.map(|part| of(&format!("/ledger/{part}")));
        Ok(Sample {
            second: start.elapsed().as_secs(),
            rss_kib,
            descriptors,
            cpu_seconds: ticks as f64 / 100.0,
            clients: of("/connections/ws") + of("/connections/sse"),
            matched: of("/ledger/matched"),
            is_balanced: of("/ledger/matched") == parts.iter().sum::<u64>(),
        })
    }

    /// Returns `/api/stats`, or `None` if the server does not answer in time.
    fn stats(&self) -> Option<Value> {
        let mut stream = TcpStream::connect(self.url.strip_prefix("http://")?).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /api/stats HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Sends SIGTERM and returns the exit code, or `None` after 30 seconds.
    fn end(&mut self) -> Option<i32> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let end = Instant::now() + Duration::from_secs(30);
        while asked.is_ok() && Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
