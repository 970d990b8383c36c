//! Kept logs with an engine, in the simulated network: nodes that share one simulated log race, crash and lag.
//!
//! Invariants:
//! - The order of the log decides. A model computes the accepted events from the log's entries and from what the publishers
//!   asked for, without code of the server.
//! - Each client gets the accepted events of its run, each once and in order, or a gap in the place of those that are missing. A
//!   client that joins live is to get all that the log takes after its response.
//! - An event with a 200 is in the log and accepted, once; one with a 409 is not accepted, unless the answer lists it. A request with
//!   an uncertain outcome that is repeated is accepted once, at any node that has read it.
//! - An `end` names the event that ended a life. Its `complete` says whether the log was kept from that life's first event on,
//!   whatever the client missed of it.
//! - A client of a purged run gets a gap, and none that reads it from its start afterwards gets an event from before.

mod directed;
mod follower;
mod model;
mod node;
mod publisher;

use std::collections::HashMap;
use std::time::Duration;

use super::decode::Inbox;
use super::net::{ClientEnd, wire};
use super::{Dice, number};
use crate::engine::stepped::{AppendFate, SimulatedLog};
use crate::event::Timestamp;
use crate::server::config::Prepared;
use crate::server::tick::TICK_MS;
use crate::server::{RetainBy, RetainRule, ServerConfig};
use crate::sync::Arc;
use follower::{Begin, Follower, Seen};
use model::{Rules, Run, model, purged_by};
use node::Node;
use publisher::{Answer, Asked, Publisher, RUNS, Sent};

const QUIET_ROUNDS: u32 = 80;

/// Retention time of logs in simulations in which no log expires.
const LONG: Duration = Duration::from_secs(1 << 30);

type Checked = Result<(), String>;

struct Cluster {
    dice: Dice,
    log: Arc<SimulatedLog>,
    config: ServerConfig,
    capacity: usize,
    nodes: Vec<Node>,
    /// Whether the log takes the events of a publication one by one.
    is_single: bool,
    /// Random decisions of a log that forgets its oldest entries; `None` if it keeps all.
    trims: Option<Dice>,
    /// Number of entries that the log has forgotten.
    forgotten: u64,
    rules: Rules,
    asked: HashMap<u64, Asked>,
    /// Requests with an uncertain outcome.
    repeats: Vec<Sent>,
    publishers: Vec<Publisher>,
    followers: Vec<Follower>,
    over: Vec<Follower>,
    /// Events that loops of crashed nodes have lost.
    laps: u64,
    clock: u64,
    offset: i64,
    next: u64,
    traces: bool,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xe4_91_4e);
        let mut rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("valid").end(["run.end"]);
        rule.keep_for = dice.pick(&[Duration::from_millis(300), LONG, LONG, LONG]);
        rule.events = dice.pick(&[5, 100_000, 100_000]);
        let keep_for = rule.keep_for.as_micros() as i64;
        let rules = Rules { keeps: (rule.events, rule.events), keep_for };
        let is_single = dice.one_in(3);
        let mut config = ServerConfig {
            max_lag_events: dice.pick(&[2, 16, 1000]),
            write_budget_bytes: dice.pick(&[1000, 256 << 10]),
            handshake_timeout: Duration::from_secs(600),
            keep_alive: Duration::from_secs(3600),
            heartbeat: Duration::from_secs(600),
            ..ServerConfig::default()
        };
        config.retain.rules.push(rule);
        let capacity = dice.pick(&[16, 64, 1024]);
        let mut trims = Dice::new(seed ^ 0x74_72_69_6d);
        let trims = trims.one_in(4).then_some(trims);
        let log = Arc::<SimulatedLog>::default();
        let nodes = (0..2).map(|_| Node::new(&log, &config, capacity, is_single)).collect();
        Self {
            dice,
            log,
            config,
            capacity,
            nodes,
            is_single,
            trims,
            forgotten: 0,
            rules,
            asked: HashMap::new(),
            repeats: Vec::new(),
            publishers: Vec::new(),
            followers: Vec::new(),
            over: Vec::new(),
            laps: 0,
            clock: 0,
            // The outcomes of publications are known for a time by the real clock.
            offset: Timestamp::now().0,
            next: 1,
            traces: std::env::var_os("FANWIRE_SIM_TRACE").is_some(),
        }
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.traces {
            eprintln!("{:>9.3} {}", self.clock as f64 / 1e6, what());
        }
    }

    fn run(mut self) -> Checked {
        for _ in 0..self.dice.pick(&[50, 300]) {
            self.step()?;
        }
        self.settle()?;
        for node in 0..self.repeats.len() {
            self.repeat(node % 2);
        }
        self.settle()?;
        self.check()
    }

    fn connect(&mut self, node: usize) -> ClientEnd {
        let (room, piece) = (self.dice.pick(&[1, 100, 4000, 60_000]), self.dice.pick(&[20, 5000]));
        let dice = Dice::new(self.dice.below(u64::MAX));
        let (server, end) = wire(&self.nodes[node].bus, dice, room, piece);
        self.nodes[node].arriving.push_back((server, end.clone()));
        end
    }

    fn step(&mut self) -> Checked {
        let node = self.dice.below(2) as usize;
        match self.dice.below(100) {
            0..=22 => self.publish(node),
            23 if self.dice.one_in(3) => self.purge(node),
            23 if self.dice.one_in(3) => self.reload(node),
            23 | 24 => self.repeat(node),
            25..=34 => self.follow_run(node),
            35..=54 => {
                let fate = match self.dice.below(12) {
                    0 => AppendFate::Unanswered,
                    1 => AppendFate::Unreachable,
                    _ => AppendFate::Stored,
                };
                let did = self.nodes[node].append(fate);
                self.trace(|| format!("node {node} appends: {did}, {fate:?}"));
            }
            55..=74 => {
                let max = self.dice.up_to(20);
                let did = self.follow_log(node, max);
                self.trace(|| format!("node {node} follows {max}: {did}"));
            }
            75..=79 => {
                self.nodes[node].read_page();
            }
            80..=85 if !self.followers.is_empty() => {
                let at = self.dice.below(self.followers.len() as u64) as usize;
                let follower = &mut self.followers[at];
                follower.is_stalled = !follower.is_stalled;
                follower.pace = self.dice.pick(&[1, 100, usize::MAX]);
                follower.end.set_room(self.dice.pick(&[100, 4000, 60_000]));
            }
            86..=90 if !self.followers.is_empty() => {
                let at = self.dice.below(self.followers.len() as u64) as usize;
                self.reconnect(at);
            }
            // A node that starts with a trimmed log knows less of the runs than the others.
            91 if self.forgotten == 0 => self.crash(node),
            _ => self.clock += self.dice.below(100_000),
        }
        self.trim();
        self.carry(false);
        for at in 0..2 {
            if self.dice.one_in(2) {
                self.turn(at)?;
            }
        }
        Ok(())
    }

    fn turn(&mut self, at: usize) -> Checked {
        let (tick, now) = (self.clock / 1000 / TICK_MS, Timestamp(self.clock as i64 + self.offset));
        self.nodes[at].turn(tick, now)
    }

    fn follow_run(&mut self, node: usize) {
        let run = self.dice.below(RUNS);
        let begin = if self.dice.one_in(4) { Begin::Live } else { Begin::Start };
        let on_lag = self.dice.pick(&["drop_oldest", "catch_up", "catch_up", "concat"]);
        self.open(node, run, on_lag, begin, None);
    }

    fn open(
        &mut self,
        node: usize,
        run: u64,
        on_lag: &'static str,
        begin: Begin,
        last: Option<(u64, String)>,
    ) {
        let end = self.connect(node);
        self.open_over(end, node, run, on_lag, begin, last);
    }

    /// Asks for the events of a run over this connection.
    fn open_over(
        &mut self,
        end: ClientEnd,
        node: usize,
        run: u64,
        on_lag: &'static str,
        begin: Begin,
        last: Option<(u64, String)>,
    ) {
        let pace = self.dice.pick(&[10, 1000, usize::MAX]);
        let follower = Follower {
            run,
            node,
            on_lag,
            begin,
            end,
            inbox: Inbox::default(),
            status: 0,
            seen: Vec::new(),
            last,
            joined: None,
            purged: self.purged_at(node, run),
            owed_gap: None,
            is_stalled: false,
            pace,
            is_over: false,
        };
        self.trace(|| format!("node {node} follower of run-{run}: {:?} {on_lag}", follower.begin));
        follower.open();
        self.followers.push(follower);
    }

    /// Lets a node's follower read entries. Clients of the runs that they purge are to get a gap.
    fn follow_log(&mut self, node: usize, max: usize) -> bool {
        let before = self.nodes[node].steps.next();
        let did = self.nodes[node].follow(max);
        let (Some(before), Some(next)) = (before, self.nodes[node].steps.next()) else { return did };
        let entries = self.log.entries();
        for at in before as usize..next as usize {
            for run in purged_by(&entries[at]) {
                let all = model(&entries[..at], &self.asked, &self.rules);
                if all.runs.get(&run).is_none_or(|run| run.newest.is_none()) || self.rules.can_expire() {
                    continue;
                }
                // A request that still waits for its loop, after its status was sent, begins after the purge: the client resumes
                // with what is there then, and gets a gap only if something is missing after its last event.
                let at_node = &self.nodes[node];
                let is_there = |one: &&mut Follower| {
                    (one.node, one.run) == (node, run)
                        && one.joined.is_some()
                        && !one.is_over
                        && !at_node.has_deferred(&one.end)
                };
                for follower in self.followers.iter_mut().filter(is_there) {
                    follower.owed_gap = Some(follower.seen.len());
                }
            }
        }
        did
    }

    /// Returns the number of the entry before which all of a run is purged, as far as a node has read.
    fn purged_at(&self, node: usize, run: u64) -> usize {
        let (entries, next) = (self.log.entries(), self.nodes[node].steps.next().unwrap_or(0) as usize);
        entries[..next].iter().rposition(|entry| purged_by(entry).contains(&run)).unwrap_or(0)
    }

    /// Gives a node the rules of the other one, or new ones.
    fn reload(&mut self, node: usize) {
        if self.dice.one_in(2) {
            let events = self.dice.pick(&[5, 100_000]);
            self.config.retain.rules[0].events = events;
            let keeps = &mut self.rules.keeps;
            *keeps = (keeps.0.min(events), keeps.1.max(events));
        }
        self.trace(|| format!("node {node}: reload"));
        let config = Prepared::new(self.config.clone()).expect("valid");
        self.nodes[node].shared.set_config(config);
    }

    /// Lets the log forget entries that both nodes have read. Clients may still have to read them.
    fn trim(&mut self) {
        let read = self.nodes.iter().map(|node| node.steps.next()).min().flatten();
        let (Some(trims), Some(read)) = (&mut self.trims, read) else { return };
        if !trims.one_in(20) {
            return;
        }
        let forgotten = trims.below(read + 1);
        if forgotten > self.forgotten {
            self.forgotten = forgotten;
            self.log.trim(self.log.entries().len() - forgotten as usize);
            self.trace(|| format!("the log forgets {forgotten} entries"));
        }
    }

    /// Breaks a follower's connection, and resumes after its last event at any node.
    fn reconnect(&mut self, at: usize) {
        let follower = self.followers.swap_remove(at);
        follower.end.abort();
        let (run, on_lag, last) = (follower.run, follower.on_lag, follower.last.clone());
        let begin = last.as_ref().map_or(follower.begin.clone(), |(n, _)| Begin::After(*n));
        self.over.push(follower);
        let node = self.dice.below(2) as usize;
        self.open(node, run, on_lag, begin, last);
    }

    /// Ends a node without notice. Another takes its place.
    fn crash(&mut self, node: usize) {
        self.trace(|| format!("node {node} crashes"));
        for publisher in self.publishers.iter_mut().filter(|one| one.node == node) {
            publisher.end.abort();
            publisher.is_over = true;
            let unanswered = publisher.sent.drain(..);
            self.repeats.extend(unanswered.map(|sent| Sent { is_repeated: true, ..sent }));
        }
        self.repeats.iter_mut().filter(|sent| sent.node == Some(node)).for_each(|sent| sent.node = None);
        self.laps += self.nodes[node].shared.metrics.loop_gaps.get();
        self.nodes[node] = Node::new(&self.log, &self.config, self.capacity, self.is_single);
        while let Some(at) = self.followers.iter().position(|one| one.node == node && !one.end.is_closed()) {
            self.reconnect_from_crash(at);
        }
    }

    fn reconnect_from_crash(&mut self, at: usize) {
        self.followers[at].node = usize::MAX;
        self.reconnect(at);
    }

    /// Moves bytes, and lets clients read. Returns whether anything moved.
    fn carry(&mut self, all: bool) -> bool {
        let mut moved = false;
        for publisher in &mut self.publishers {
            moved |= publisher.end.is_moving();
            publisher.end.carry(all);
            moved |= publisher.read(&mut self.asked, &mut self.repeats);
        }
        for follower in &mut self.followers {
            moved |= follower.end.is_moving();
            follower.end.carry(all);
            if all || !follower.is_stalled {
                moved |= follower.read(if all { usize::MAX } else { follower.pace });
            }
            if follower.status == 200 {
                follower.joined.get_or_insert_with(|| self.log.entries().len() as u64);
            }
        }
        moved
    }

    /// Runs until nothing moves, and every entry is appended and read.
    fn settle(&mut self) -> Checked {
        // A client that takes a byte a round would read on after the last round.
        let followers = self.followers.iter().map(|one| &one.end);
        for end in self.publishers.iter().map(|one| &one.end).chain(followers) {
            end.set_room(60_000);
        }
        let (mut quiet, mut last_did) = (0, (0, [false; 3]));
        for round in 0..20_000 {
            let mut moved = self.carry(true);
            for at in 0..2 {
                let node = &mut self.nodes[at];
                let did = [node.append(AppendFate::Stored), node.read_page()];
                let did = [did[0], self.follow_log(at, usize::MAX), did[1]];
                moved |= did.contains(&true);
                last_did = (at, did);
                self.turn(at)?;
            }
            quiet = if moved { 0 } else { quiet + 1 };
            if quiet > QUIET_ROUNDS {
                return Ok(());
            }
            // Bytes that a node does not read, because it waits with a limit, count as moving.
            if quiet > 0 || round % 100 == 99 {
                self.clock += TICK_MS * 1000;
            }
        }
        let moving = self.followers.iter().filter(|one| one.end.is_moving() || one.seen.len() > 200);
        let moving: Vec<String> = moving
            .map(|one| {
                let last: Vec<&Seen> = one.seen.iter().rev().take(6).collect();
                format!("run-{} {:?} {} {}: {last:?}", one.run, one.begin, one.on_lag, one.seen.len())
            })
            .collect();
        let publishers = self.publishers.iter().filter(|one| one.end.is_moving()).count();
        Err(format!("it never comes to rest: {last_did:?}, {publishers} publishers, {moving:?}"))
    }

    /// Returns whether a ring has lapped its loop, so that live events were lost.
    fn has_lapped(&self) -> bool {
        self.laps > 0 || self.nodes.iter().any(|node| node.shared.metrics.loop_gaps.get() > 0)
    }

    fn check(&self) -> Checked {
        let all = model(&self.log.entries(), &self.asked, &self.rules);
        let mut accepted: HashMap<u64, bool> = HashMap::new();
        for (n, is_accepted) in &all.stored {
            if accepted.insert(*n, *is_accepted) == Some(true) {
                return Err(format!("event {n} is in the log again after it was accepted"));
            }
        }
        for (n, asked) in &self.asked {
            let is_accepted = accepted.get(n) == Some(&true);
            let is_wrong = match asked.answer {
                Answer::Unknown => false,
                Answer::Accepted => !is_accepted,
                Answer::Refused => is_accepted,
                Answer::NotStored => accepted.contains_key(n),
            };
            if is_wrong {
                return Err(format!("event {n}: {asked:?}, stored and accepted: {:?}", accepted.get(n)));
            }
        }
        let waiting = self.publishers.iter().any(|one| !one.is_over && !one.sent.is_empty());
        if waiting {
            return Err("a publisher has no answer".to_owned());
        }
        let rules = &self.rules;
        let keeps_all = rules.keeps.0 > 5 && !rules.can_expire() && !self.has_lapped();
        let none = Run::default();
        for (follower, is_open) in
            self.over.iter().map(|one| (one, false)).chain(self.followers.iter().map(|one| (one, true)))
        {
            let run = all.runs.get(&follower.run).unwrap_or(&none);
            let complete = is_open && follower.status == 200 && !follower.is_over;
            follower.check(run, rules, keeps_all && run.purges.is_empty(), complete).map_err(|error| {
                let Follower { run: number, node, begin, on_lag, seen, status, .. } = follower;
                format!(
                    "run-{number}, node {node}, {begin:?} {on_lag} {status}: {error}; {seen:?} of {run:?}"
                )
            })?;
        }
        Ok(())
    }
}

/// `FANWIRE_SIM_SEED` is the first seed, `FANWIRE_SIM_RUNS` the number of seeds.
#[test]
fn kept_logs_of_nodes_that_share_a_log_are_exact_or_tell() {
    let first = number("FANWIRE_SIM_SEED").unwrap_or(1);
    let runs = number("FANWIRE_SIM_RUNS").unwrap_or(30);
    let mut failed = Vec::new();
    for seed in first..first + runs {
        let run = std::panic::AssertUnwindSafe(|| Cluster::new(seed).run());
        let outcome = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
        });
        if let Err(error) = outcome {
            failed.push(format!("seed {seed}: {error}"));
        }
    }
    assert!(failed.is_empty(), "{} of {runs} seeds failed:\n{}", failed.len(), failed.join("\n"));
}
