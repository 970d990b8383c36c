//! Other people's clients: runs the scripts in `tests/clients/`, and answers their requests to the test.
//!
//! A script prints `ok …` for each check that passed, and `passed N` at its end. A line `ask …` is a request to
//! [`Stage`], which answers with one line on the script's stdin. Always: a missing tool fails the test, and every
//! script has a time limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Server;
use super::proxy::Proxy;

/// Time limit of a whole script. Scripts need 20 to 60 s; the rest is for slow or busy machines.
const LIMIT: Duration = Duration::from_secs(600);

/// Fails the test because a tool is not installed.
pub fn missing(what: &str) -> ! {
    panic!("{what} is missing: run `cargo xtask setup`")
}

/// Returns the path of a file of the project, independent of the current folder.
pub fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn answers(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Returns whether the last `setup` installed the versions that the project lists now.
pub fn is_installed(list: &str, installed: &str) -> bool {
    let read = |path| std::fs::read(in_project(path));
    read(installed).is_ok_and(|installed| read(list).is_ok_and(|list| list == installed))
}

/// Returns a program of the machine. Panics if it is missing.
pub fn tool(name: &str) -> Command {
    if !answers(Path::new(name)) {
        missing(name);
    }
    Command::new(name)
}

/// Returns the browser: `FANWIRE_CHROMIUM`, or the first known name that exists.
pub fn chromium() -> PathBuf {
    let known = ["/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"];
    let named = std::env::var("FANWIRE_CHROMIUM").ok();
    let names = named.as_deref().map_or(known.to_vec(), |named| vec![named]);
    let found = names.into_iter().map(PathBuf::from).find(|path| answers(path));
    found.unwrap_or_else(|| missing("chromium"))
}

/// A running script.
pub struct Script {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    said: Vec<String>,
    end: Instant,
}

impl Script {
    /// Starts a script by its name: `.mjs` with Node, `.py` with Python.
    pub fn start(name: &str, args: &[&str]) -> Self {
        let is_python = Path::new(name).extension().is_some_and(|extension| extension == "py");
        let mut command = if is_python {
            let python = in_project("target/venv/bin/python");
            if !answers(&python)
                || !is_installed("tests/clients/requirements.txt", "target/venv/requirements.txt")
            {
                missing("target/venv");
            }
            let mut command = Command::new(python);
            command.args(["-u", "-W", "error::SyntaxWarning"]);
            command
        } else {
            let modules = "tests/clients/node_modules";
            if !is_installed("tests/clients/package-lock.json", &format!("{modules}/.installed-lock.json")) {
                missing(modules);
            }
            tool("node")
        };
        if name.starts_with("browser") {
            command.env("FANWIRE_CHROMIUM", chromium());
        }
        let mut child = command
            .arg(in_project("tests/clients").join(name))
            .args(args)
            .env("FANWIRE_SCREENSHOTS", in_project("target/screenshots"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (mut from, into) = (child.stderr.take().expect("piped"), Arc::clone(&stderr));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut chunk) {
                into.lock().expect("no panic holds it").push_str(&String::from_utf8_lossy(&chunk[..len]));
            }
        });
        let (send, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let stdin = child.stdin.take().expect("piped");
        let end = Instant::now() + LIMIT;
        Self { name: name.to_owned(), child, stdin, lines, stderr, said: Vec::new(), end }
    }

    /// Sets another time limit for the whole script.
    pub fn limited(mut self, limit: Duration) -> Self {
        self.end = Instant::now() + limit;
        self
    }

    /// Returns the next line. `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(self.end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.said.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => self.fail("did not end in time"),
        }
    }

    /// Returns everything written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no panic holds it").clone()
    }

    pub fn say(&mut self, line: &str) {
        let _ = writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush());
    }

    /// Answers the script's requests until it ends. It must pass exactly `checks` checks.
    pub fn finish(mut self, stage: &mut Stage, checks: usize) {
        let mut passed = None;
        while let Some(line) = self.line() {
            if let Some(request) = line.strip_prefix("ask ") {
                let answer = stage.answer(request);
                self.say(&answer);
            } else if let Some(count) = line.strip_prefix("passed ") {
                passed = count.parse().ok();
            }
        }
        let status = self.child.wait().expect("it is our child");
        if !status.success() {
            self.fail(&format!("ended with {status}"));
        }
        if passed != Some(checks) {
            self.fail(&format!("showed {passed:?} things, not {checks}"));
        }
        stage.server.assert_serving();
    }

    fn fail(&self, what: &str) -> ! {
        std::thread::sleep(Duration::from_millis(100));
        panic!(
            "{} {what}\n-- it said --\n{}\n-- on stderr --\n{}",
            self.name,
            self.said.join("\n"),
            self.stderr.lock().expect("no panic holds it")
        )
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server with a proxy before it. A script can request changes of both while clients are connected.
pub struct Stage {
    pub server: Server,
    options: Vec<String>,
    proxy: Option<Proxy>,
    guarded: Option<Server>,
}

impl Stage {
    pub fn new(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        Self { server: Server::with(&refs(&options)), options, proxy: None, guarded: None }
    }

    /// Returns the server's address in the form that scripts take.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.addr)
    }

    /// Carries out a script's request, and returns the answer.
    fn answer(&mut self, request: &str) -> String {
        let (verb, rest) = request.split_once(' ').unwrap_or((request, ""));
        match verb {
            // The address of a proxy before the server.
            "proxy" => {
                let proxy = self.proxy.insert(Proxy::to(self.server.addr));
                format!("http://{}", proxy.addr)
            }
            "cut" => {
                self.proxy.as_ref().expect("asked for before").cut();
                "done".into()
            }
            "stall" | "go-on" => {
                self.proxy.as_ref().expect("asked for before").stall(verb == "stall");
                "done".into()
            }
            "cut-after" => {
                let bytes = rest.parse().expect("a number of bytes");
                self.proxy.as_ref().expect("asked for before").cut_after(bytes);
                "done".into()
            }
            // SIGTERM, answered with the exit code.
            "terminate" => {
                self.server.signal("TERM");
                self.server.wait().code().map_or("none".into(), |code| code.to_string())
            }
            // Another server at the same address: immediately, or after `terminate`.
            "restart" => {
                if self.server.try_wait().is_none() {
                    self.server.signal("TERM");
                    self.server.wait();
                }
                self.server = Server::at(&self.server.addr.to_string(), &refs(&self.options));
                "done".into()
            }
            // An additional server that requires tokens signed with this secret.
            "guarded" => {
                let secret = "a secret of thirty-two bytes, no less";
                let guarded = Server::with(&["--auth-jwt-hs256-secret", secret]);
                format!("http://{}", self.guarded.insert(guarded).addr)
            }
            // A server with other options, at another address.
            "serve" => {
                self.options = rest.split(' ').map(str::to_owned).collect();
                self.server = Server::with(&refs(&self.options));
                self.url()
            }
            _ => panic!("unknown request {request:?}"),
        }
    }
}

fn refs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}
