//! A trial: a log, nodes with their publishers and readers, a fault, and the referees at the end.
//!
//! Always: events are delivered before the fault. The trial fails unless they are delivered again after it without a
//! restart of any node.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::clocks;
use crate::node::{ACCEPT_TIMEOUT, Node, lock};
use crate::place::Place;
use crate::referee::{Attempt, Fault, Seen, Trial, judge};
use crate::support::proxy::Proxy;
use crate::support::service::{Kind, Service};

/// Time that a node may take to recover after the end of a fault.
const RECOVERY: Duration = Duration::from_secs(30);

/// Allowed growth of a node's memory in a trial, in KiB: the ring, the queue and the largest batch, with room.
const GROWTH_MAX_KIB: u64 = 192 << 10;

/// The engines under contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Redis,
    JetStream,
    PlainNats,
    File,
    /// No engine: the node's ring keeps order and history.
    Memory,
}

impl Engine {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Redis => Some(Kind::Redis),
            Self::JetStream => Some(Kind::Nats),
            Self::PlainNats => Some(Kind::PlainNats),
            Self::File | Self::Memory => None,
        }
    }
}

/// Setup of a trial.
pub(crate) struct Setup {
    pub(crate) engine: Engine,
    /// More options for the log's server.
    pub(crate) server: Vec<String>,
    /// More options for the nodes.
    pub(crate) node: Vec<String>,
    /// Size of a small file system for the log's files, in KiB.
    pub(crate) disk: Option<usize>,
    /// Whether the first node reaches the log through a proxy.
    pub(crate) by_proxy: bool,
    pub(crate) nodes: usize,
    /// Time that publishers may wait for the log.
    pub(crate) accept: Duration,
    pub(crate) shards: usize,
    /// Binary of each node, if not the one built here.
    pub(crate) programs: Vec<PathBuf>,
}

impl Setup {
    pub(crate) fn of(engine: Engine) -> Self {
        let nodes = if matches!(engine, Engine::File | Engine::Memory) { 1 } else { 3 };
        Self {
            engine,
            server: Vec::new(),
            node: Vec::new(),
            disk: None,
            by_proxy: false,
            nodes,
            accept: ACCEPT_TIMEOUT,
            shards: 1,
            programs: Vec::new(),
        }
    }

    pub(crate) fn server(mut self, options: &[&str]) -> Self {
        self.server.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    pub(crate) fn node(mut self, options: &[&str]) -> Self {
        self.node.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    pub(crate) fn disk(mut self, kib: usize) -> Self {
        self.disk = Some(kib);
        self
    }

    pub(crate) fn accept(mut self, time: Duration) -> Self {
        self.accept = time;
        self
    }

    pub(crate) fn programs(mut self, programs: Vec<PathBuf>) -> Self {
        self.nodes = programs.len();
        self.programs = programs;
        self
    }

    pub(crate) fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    pub(crate) fn by_proxy(mut self) -> Self {
        self.by_proxy = true;
        self
    }
}

/// A running trial.
pub(crate) struct Stage {
    pub(crate) engine: Engine,
    pub(crate) start: Instant,
    pub(crate) nodes: Vec<Node>,
    pub(crate) log: Option<Service>,
    pub(crate) proxy: Option<Proxy>,
    /// The log's files, if the test changes them.
    pub(crate) place: Option<Place>,
    /// Nodes that ended during the trial. Their publishers' records are checked, their readers' are not.
    gone: Vec<Node>,
    /// Whether all nodes stay, even with a fault that otherwise ends one.
    pub(crate) keeps_nodes: bool,
    /// Rings and streams of the log.
    pub(crate) shards: usize,
    /// Publishers besides those of the nodes.
    others: usize,
    faults: Vec<String>,
}

impl Stage {
    /// Starts the log and the nodes, and waits until events are delivered.
    pub(crate) fn begin(setup: Setup) -> Self {
        let place = match (setup.disk, setup.engine) {
            (Some(kib), _) => Some(Place::small(kib)),
            (None, Engine::File) => Some(Place::new()),
            _ => None,
        };
        let log = setup.engine.kind().map(|kind| {
            let options: Vec<&str> = setup.server.iter().map(String::as_str).collect();
            let folder = place
                .as_ref()
                .map_or_else(|| Place::new().path().to_owned(), |place| place.path().join("log"));
            Service::start_in(kind, folder, &options)
        });
        let url = match (&log, &place) {
            (Some(log), _) => log.url(),
            (None, Some(place)) => place.url(),
            (None, None) => String::new(),
        };
        let proxy = setup.by_proxy.then(|| Proxy::to(log.as_ref().expect("a server").addr));
        let start = Instant::now();
        let accept = format!("{}ms", setup.accept.as_millis());
        let mut nodes: Vec<Node> = (0..setup.nodes)
            .map(|number| {
                let url = match (&proxy, &log) {
                    (Some(proxy), Some(log)) if number == 0 => {
                        url.replace(&log.addr.to_string(), &proxy.addr.to_string())
                    }
                    _ => url.clone(),
                };
                // Readers may lag far behind, because the trial tests the log. The drain is short, because the test
                // waits for it.
                let mut options: Vec<String> = [
                    "--engine",
                    &url,
                    "--engine-accept-timeout",
                    &accept,
                    "--max-lag-events",
                    "1000000",
                    "--max-lag-bytes",
                    "1GiB",
                    "--drain-timeout",
                    "2s",
                ]
                .map(str::to_owned)
                .into();
                options.extend(["--bus-shards".to_owned(), setup.shards.to_string()]);
                options.extend(setup.node.iter().cloned());
                Node::start(number, start, setup.accept, setup.programs.get(number).cloned(), options)
            })
            .collect();
        nodes.iter_mut().for_each(Node::begin);
        let mut stage = Self {
            engine: setup.engine,
            start,
            nodes,
            log,
            proxy,
            place,
            gone: Vec::new(),
            keeps_nodes: false,
            shards: setup.shards,
            others: 0,
            faults: Vec::new(),
        };
        stage.flows("before the fault");
        stage
    }

    /// Returns the longest time that a publisher may wait for an answer.
    pub(crate) fn wait_max(&self) -> Duration {
        self.nodes.iter().map(|node| node.shared.wait_max).max().unwrap_or(RECOVERY)
    }

    pub(crate) fn log(&self) -> &Service {
        self.log.as_ref().expect("this engine has a server")
    }

    pub(crate) fn log_mut(&mut self) -> &mut Service {
        self.log.as_mut().expect("this engine has a server")
    }

    pub(crate) fn place(&self) -> &Place {
        self.place.as_ref().expect("this trial has a place")
    }

    /// Returns a publisher that has not published yet.
    pub(crate) fn another_publisher(&mut self) -> usize {
        self.others += 1;
        99 + self.others
    }

    /// Returns whether any fault has been found so far.
    pub(crate) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Records a fault. The trial continues.
    pub(crate) fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    /// Waits until a condition holds, or records that it does not.
    pub(crate) fn eventually(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = Instant::now() + limit;
        while !holds(self) {
            if Instant::now() >= end {
                let at = self.start.elapsed();
                self.fault(format!("after {at:?}: did not happen within {limit:?}: {what}"));
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Waits until every running node is ready and accepts events, and every reader receives them.
    pub(crate) fn flows(&mut self, when: &str) {
        let since = self.start.elapsed();
        let marks: Vec<usize> = self.nodes.iter().map(Node::attempts).collect();
        self.eventually(&format!("every node is ready {when}"), RECOVERY, |stage| {
            stage.nodes.iter().all(Node::is_ready)
        });
        for (at, &mark) in marks.iter().enumerate() {
            let what = format!("node {} takes events {when}", self.nodes[at].number());
            if !self
                .eventually(&what, RECOVERY, |stage| stage.nodes[at].accepted_after(mark, since).is_some())
            {
                continue;
            }
            let first = self.nodes[at].accepted_after(mark, since).unwrap_or_default();
            let publisher = self.nodes[at].number();
            for to in 0..self.nodes.len() {
                let what = format!(
                    "events of node {publisher} come to the reader of node {} {when}",
                    self.nodes[to].number()
                );
                self.eventually(&what, RECOVERY, |stage| stage.nodes[to].has_seen(publisher, first));
            }
        }
    }

    /// Waits until every node refuses events and reports that it is not ready. Then ends the last of several
    /// nodes.
    pub(crate) fn suffers(&mut self) {
        self.suffers_at(&(0..self.nodes.len()).collect::<Vec<_>>());
    }

    /// Like [`suffers`](Self::suffers), for a fault that concerns only some nodes.
    pub(crate) fn suffers_at(&mut self, nodes: &[usize]) {
        let marks: Vec<usize> = self.nodes.iter().map(Node::attempts).collect();
        let limit = self.wait_max();
        for &at in nodes {
            let number = self.nodes[at].number();
            self.eventually(&format!("node {number} refuses events in the fault"), limit, |stage| {
                stage.nodes[at].has_refused_from(marks[at])
            });
            self.eventually(
                &format!("node {number} says that it is not ready in the fault"),
                limit,
                |stage| !stage.nodes[at].is_ready(),
            );
        }
        if nodes.len() == self.nodes.len() && self.nodes.len() > 2 && !self.keeps_nodes {
            self.end_one();
        }
        // Meanwhile the referee of time checks what the nodes report.
        std::thread::sleep(Duration::from_millis(1500));
    }

    /// Ends the last node by SIGTERM. Readers and publishers of the others stay.
    pub(crate) fn end_one(&mut self) {
        let mut node = self.nodes.pop().expect("several nodes");
        self.faults.extend(node.terminate());
        node.stop();
        self.gone.push(node);
    }

    /// Judges the trial after the fault. Panics with every broken promise and the nodes' own logs.
    pub(crate) fn end(mut self) {
        self.flows("after the fault");
        for node in &self.nodes {
            node.finish_publishing();
        }
        self.eventually("the publishers have their last answers", 2 * self.wait_max(), |stage| {
            stage.nodes.iter().all(Node::has_finished)
        });
        // Accepted events may not have reached the readers yet.
        let end = Instant::now() + RECOVERY;
        let mut faults = self.judge();
        while !faults.is_empty()
            && Instant::now() < end
            && faults.iter().all(|fault| matches!(fault, Fault::Lost { .. }))
        {
            std::thread::sleep(Duration::from_millis(50));
            faults = self.judge();
        }
        let mut report: Vec<String> = faults.iter().take(20).map(ToString::to_string).collect();
        if faults.len() > report.len() {
            report.push(format!("and {} more", faults.len() - report.len()));
        }
        self.faults.append(&mut report);
        let all: Vec<Attempt> = self.nodes.iter().chain(&self.gone).flat_map(Node::records).collect();
        // The reader of a node that the test had stopped had to wait.
        for node in self.nodes.iter().filter(|node| !node.shared.was_away()) {
            let late = clocks::judge_reader(&all, &lock(&node.shared.seen), &lock(&node.shared.probes));
            self.faults.extend(late.into_iter().map(|fault| format!("node {}: {fault}", node.number())));
        }
        for node in self.nodes.iter().chain(&self.gone) {
            let times =
                clocks::judge(&node.shared.answerable(), &lock(&node.shared.probes), node.shared.wait_max);
            self.faults.extend(times.into_iter().map(|fault| format!("node {}: {fault}", node.number())));
        }
        for node in &mut self.nodes {
            let growth = node.growth();
            if growth > GROWTH_MAX_KIB {
                self.faults.push(format!("node {} has grown by {growth} KiB", node.number()));
            }
            self.faults.extend(node.terminate());
            node.stop();
        }
        assert!(
            self.faults.is_empty(),
            "{:?}:\n- {}\n{}",
            self.engine,
            self.faults.join("\n- "),
            self.logs()
        );
    }

    fn judge(&self) -> Vec<Fault> {
        let attempts: Vec<Attempt> = self.nodes.iter().chain(&self.gone).flat_map(Node::records).collect();
        let readers: Vec<Vec<Seen>> = self.nodes.iter().map(|node| lock(&node.shared.seen).clone()).collect();
        let shares_ids = self.engine != Engine::PlainNats;
        judge(Trial { attempts: &attempts, readers: &readers, shares_ids })
    }

    fn logs(&self) -> String {
        let tail = |node: &Node| {
            let log = node.server.log();
            let lines: Vec<&str> = log.lines().collect();
            format!("-- node {} --\n{}\n", node.number(), lines[lines.len().saturating_sub(12)..].join("\n"))
        };
        self.nodes.iter().chain(&self.gone).map(tail).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Nodes end before the log that they depend on, and the log before its folder.
        self.nodes.clear();
        self.gone.clear();
        self.log = None;
    }
}
