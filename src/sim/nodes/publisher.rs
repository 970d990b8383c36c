//! Publishers of the simulated nodes: they repeat requests with an uncertain outcome, and purge.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::Cluster;
use super::model::model;
use crate::engine::stepped::EngineSteps;
use crate::event::Timestamp;
use crate::kept::{LogName, purge_record};
use crate::server::RetainBy;
use crate::sim::decode::Inbox;
use crate::sim::net::{ClientEnd, End};

/// Number of runs.
pub(super) const RUNS: u64 = 4;

/// Event as its publisher asked for it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) run: u64,
    pub(super) is_end: bool,
    pub(super) reopen: bool,
    /// `Some("")` expects that there is no log.
    pub(super) expected: Option<String>,
    pub(super) answer: Answer,
}

/// Answer to a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// None, or one that leaves the outcome open.
    Unknown,
    Accepted,
    /// Refused because of a log.
    Refused,
    /// The engine has stored none of the events.
    NotStored,
}

/// Request with events.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) numbers: Vec<u64>,
    pub(super) request: Vec<u8>,
    /// Node that may still append it; `None` if that has crashed.
    pub(super) node: Option<usize>,
    /// Whether it was sent before, with an uncertain outcome.
    pub(super) is_repeated: bool,
}

/// Publisher with a connection to one node.
pub(super) struct Publisher {
    pub(super) node: usize,
    pub(super) end: ClientEnd,
    pub(super) inbox: Inbox,
    pub(super) body: Option<(u16, usize)>,
    pub(super) sent: VecDeque<Sent>,
    pub(super) is_over: bool,
}

impl Publisher {
    pub(super) fn new(node: usize, end: ClientEnd) -> Self {
        Self { node, end, inbox: Inbox::default(), body: None, sent: VecDeque::new(), is_over: false }
    }

    pub(super) fn send(&mut self, sent: Sent) {
        self.end.send(&sent.request);
        self.sent.push_back(Sent { node: Some(self.node), ..sent });
    }

    /// Reads answers, and adds requests with an uncertain outcome to `repeats`. Returns whether bytes arrived.
    pub(super) fn read(&mut self, asked: &mut HashMap<u64, Asked>, repeats: &mut Vec<Sent>) -> bool {
        let before = self.inbox.bytes.len();
        let state = self.end.take(usize::MAX, &mut self.inbox.bytes);
        let moved = self.inbox.bytes.len() > before;
        loop {
            if self.body.is_none() {
                let Some((head, _)) = self.inbox.head() else { break };
                let length =
                    head.header("content-length").and_then(|len| len.parse().ok()).expect("a length");
                self.body = Some((head.status, length));
            }
            let Some((status, length)) = self.body else { break };
            let Some(body) = self.inbox.body(length) else { break };
            self.body = None;
            // The answers of a node that has crashed are lost.
            let Some(sent) = self.sent.pop_front() else { break };
            let answer: Value = serde_json::from_slice(&body).expect("JSON");
            answered(sent, status, &answer, asked, repeats);
        }
        self.is_over |= !matches!(state, End::Open);
        moved
    }
}

/// Records the answer to a request.
fn answered(
    sent: Sent,
    status: u16,
    answer: &Value,
    asked: &mut HashMap<u64, Asked>,
    repeats: &mut Vec<Sent>,
) {
    let outcome = match (status, answer["code"].as_str()) {
        (200, _) => Answer::Accepted,
        (409, _) => Answer::Refused,
        (503, Some("engine_unanswered")) => Answer::Unknown,
        (503, _) if sent.is_repeated => Answer::Unknown,
        (503, _) => Answer::NotStored,
        _ => panic!("{status}: {answer}"),
    };
    let kept: Vec<u64> = answer["kept"].as_array().map_or_else(Vec::new, |kept| {
        kept.iter().map(|one| one["index"].as_u64().expect("a number")).collect()
    });
    for (index, n) in sent.numbers.iter().enumerate() {
        let one = &mut asked.get_mut(n).expect("it was asked").answer;
        if kept.contains(&(index as u64)) {
            *one = Answer::Accepted;
        } else if outcome == Answer::Accepted || !sent.is_repeated {
            *one = outcome;
        }
    }
    if outcome == Answer::Unknown {
        repeats.push(Sent { is_repeated: true, ..sent });
    }
}

impl Cluster {
    /// Returns the number of a publisher at this node, which may be a new one.
    fn publisher_at(&mut self, node: usize) -> usize {
        let at = self.publishers.iter().position(|one| one.node == node && !one.is_over);
        at.filter(|_| !self.dice.one_in(4)).unwrap_or_else(|| {
            let end = self.connect(node);
            self.publishers.push(Publisher::new(node, end));
            self.publishers.len() - 1
        })
    }

    /// Publishes to a run: tokens, an end, or an event with a condition.
    pub(super) fn publish(&mut self, node: usize) {
        let at = self.publisher_at(node);
        let (first, other) = (self.dice.below(RUNS), self.dice.below(RUNS));
        let kind = self.dice.below(10);
        let count = if kind < 6 { self.dice.up_to(5) } else { 1 };
        let is_mixed = self.dice.one_in(4);
        // A node that crashes midway may leave a part of a batch, which no key finds.
        let has_key = self.dice.one_in(3) && (count == 1 || !self.is_single);
        let mut numbers = Vec::new();
        let mut events = Vec::new();
        for part in 0..count {
            let n = self.next;
            self.next += 1;
            let run = if is_mixed && part % 2 == 1 { other } else { first };
            let is_end = kind == 6 || (kind < 6 && part + 1 == count && self.dice.one_in(6));
            let expected = (kind == 7).then(|| {
                let all = model(&self.log.entries(), &self.asked, &self.rules);
                let last =
                    all.runs.get(&run).and_then(|run| run.accepted.last()).map(|one| one.id.to_string());
                last.filter(|_| !self.dice.one_in(5)).unwrap_or_default()
            });
            let reopen = kind == 8;
            let mut event = json!({
                "type": if is_end { "run.end" } else { "token" }, "stream_id": format!("run-{run}"),
                "payload": {"n": n, "delta": format!("{n},")},
            });
            if !has_key {
                event["dedupe_id"] = json!(format!("d{n}"));
            }
            if reopen {
                event["reopen"] = json!(true);
            }
            if let Some(expected) = &expected {
                event["expected_last_id"] = json!(expected);
            }
            self.asked.insert(n, Asked { run, is_end, reopen, expected, answer: Answer::Unknown });
            numbers.push(n);
            events.push(event);
        }
        self.trace(|| format!("node {node}: {events:?}"));
        let key = if has_key { format!("Idempotency-Key: k{}\r\n", numbers[0]) } else { String::new() };
        let body = Value::from(events).to_string();
        let length = body.len();
        let head = format!("POST /publish HTTP/1.1\r\nHost: sim\r\n{key}Content-Length: {length}\r\n\r\n");
        let request = (head + &body).into_bytes();
        self.publishers[at].send(Sent { numbers, request, node: None, is_repeated: false });
    }

    /// Sends a request with an uncertain outcome again, to a node that knows of it: the one that had it, or one that has read all that
    /// the log has of it.
    pub(super) fn repeat(&mut self, node: usize) {
        let has_read_all = self.nodes[node].steps.next() == Some(self.log.entries().len() as u64);
        let is_fit = |sent: &Sent| sent.node == Some(node) || has_read_all;
        let Some(at) = self.repeats.iter().position(is_fit) else { return };
        let sent = self.repeats.swap_remove(at);
        self.trace(|| format!("node {node}: again {:?}", sent.numbers));
        let at = self.publisher_at(node);
        self.publishers[at].send(sent);
    }

    /// Purges one or two runs.
    pub(super) fn purge(&mut self, node: usize) {
        let runs = [self.dice.below(RUNS), self.dice.below(RUNS)];
        let names: Vec<LogName> = runs[..self.dice.up_to(2)]
            .iter()
            .map(|run| LogName::new(RetainBy::Stream, &format!("run-{run}")))
            .collect();
        self.trace(|| format!("node {node} purges {names:?}"));
        let record = purge_record(&names, Timestamp(self.clock as i64 + self.offset)).expect("names");
        if let Some(engine) = &self.nodes[node].shared.engine {
            EngineSteps::submit_other(engine, record);
        }
    }
}
