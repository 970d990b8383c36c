//! System calls of the server for one event, counted by strace.
#![cfg(target_os = "linux")]

mod support;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, fanwire, http, numbered};

const POSTS: usize = 300;

/// A server under strace. Both end on drop.
struct Traced {
    server: Server,
    log: PathBuf,
}

impl Traced {
    fn start(name: &str) -> Self {
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let program = fanwire();
        let mut command = Command::new("strace");
        command.args(["-f", "-s", "400", "-o"]).arg(&log).arg(program.get_program());
        for (name, value) in program.get_envs() {
            if value.is_none() {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]);
        Self { server: Server::spawn(&mut command), log }
    }

    /// Returns the lines of strace's log: a thread's id and a call.
    fn calls(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.log).expect("strace writes there");
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(thread, call)| (thread.to_owned(), call.trim_start().to_owned())).collect()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // The first call is the program's own start. The program is killed too, because it would continue without
        // strace.
        let process = self.calls().first().and_then(|(thread, _)| thread.parse().ok());
        if let Some(process) = process.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

/// Returns the calls of the loop's thread between a POST of one number and a POST of another: a list for each POST.
fn rounds(traced: &Traced, first: usize, last: usize) -> Vec<Vec<String>> {
    let calls = traced.calls();
    let is_post = |call: &str| call.starts_with("recvfrom(") && call.contains("POST /publish");
    let (thread, _) = calls.iter().find(|(_, call)| is_post(call)).expect("a POST was read");
    let mut rounds = Vec::new();
    let mut number = None;
    for (_, call) in calls.iter().filter(|(other, _)| other == thread) {
        if is_post(call) {
            number = Some(number.map_or(0, |number| number + 1));
        }
        let Some(number) = number.filter(|number| (first..last).contains(number)) else { continue };
        // The rest of a call that was interrupted in the log by other threads.
        if call.starts_with("<...") {
            continue;
        }
        rounds.resize_with(rounds.len().max(number - first + 1), Vec::new);
        let name = call.split('(').next().unwrap_or_default();
        rounds[number - first].push(name.to_owned());
    }
    rounds
}

#[test]
fn one_post_to_one_receiver_is_four_system_calls() {
    let traced = Traced::start("one-post.strace");
    let mut client = Ws::subscribed(traced.server.addr, json!({}));
    let mut publisher = Wire::connect(traced.server.addr);
    for n in 0..POSTS {
        publisher.send(&http::post_request("/publish", "application/json", numbered(n).as_bytes()));
        let answer = http::read_response(&mut publisher, deadline()).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(client.event()["payload"]["n"], n);
    }
    // The last POST's calls may not be in the log yet.
    let rounds = rounds(&traced, 50, POSTS - 1);
    let mut kinds: HashMap<String, usize> = HashMap::new();
    for round in &rounds {
        *kinds.entry(round.join(" ")).or_default() += 1;
    }
    let usual = kinds.get("recvfrom sendto sendto epoll_wait").copied().unwrap_or(0);
    // In the other rounds a timer was due.
    assert!(usual * 10 >= rounds.len() * 8, "{kinds:?}");
    let all = rounds.concat();
    for name in ["membarrier", "mprotect", "brk", "mmap"] {
        let count = all.iter().filter(|call| *call == name).count();
        assert!(count <= 2, "{count} calls of {name}: {kinds:?}");
    }
}
