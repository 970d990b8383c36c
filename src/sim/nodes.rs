//! Kept logs with an engine, in the simulated network: nodes that share one simulated log race, crash and lag.
//!
//! Invariants:
//! - The order of the log decides. A model computes the accepted events from the log's entries and from what the publishers
//!   asked for, without code of the server.
//! - Each client gets the accepted events of its run, each once and in order, or a gap in the place of those that are missing. A
//!   client that joins live is to get all that the log takes after its response, if its node has reached the log.
//! - An event with a 200 is in the log and accepted, once; one with a 409 is not accepted.
//! - An `end` names the event that ended a life. Its `complete` says whether the log was kept from that life's first event on,
//!   whatever the client missed of it.

mod directed;

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::decode::Inbox;
use super::net::{ClientEnd, End, ServerEnd, wire};
use super::{Dice, number};
use crate::bus::Bus;
use crate::engine::EngineConfig;
use crate::engine::stepped::{AppendFate, EngineSteps, SimulatedConnector, SimulatedLog};
use crate::event::{EventId, Timestamp};
use crate::server::reactor::{LoopState, Token};
use crate::server::shared::Shared;
use crate::server::tick::TICK_MS;
use crate::server::{RetainBy, RetainRule, ServerConfig};
use crate::sync::Arc;

const RUNS: u64 = 4;
const QUIET_ROUNDS: u32 = 80;

type Checked = Result<(), String>;

/// One node: a server with one loop, and the steps of its engine.
struct Node {
    bus: Bus,
    shared: Arc<Shared>,
    steps: EngineSteps,
    core: LoopState<ServerEnd>,
    arriving: VecDeque<(ServerEnd, ClientEnd)>,
    links: Vec<(Token, ClientEnd)>,
}

/// Event as its publisher asked for it.
#[derive(Clone, Debug)]
struct Asked {
    run: u64,
    is_end: bool,
    reopen: bool,
    /// `Some("")` expects that there is no log.
    expected: Option<String>,
    answer: Answer,
    /// Whether the event was published alone.
    is_alone: bool,
}

/// Answer to a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// None, or one that leaves the outcome open.
    Unknown,
    Accepted,
    /// Refused because of a log.
    Refused,
    /// The engine has nothing of it.
    NotStored,
}

/// Publisher with a connection to one node.
struct Publisher {
    node: usize,
    end: ClientEnd,
    inbox: Inbox,
    body: Option<(u16, usize)>,
    sent: VecDeque<Vec<u64>>,
    is_over: bool,
}

/// Place at which a connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Begin {
    Live,
    Start,
    /// After this event of the run.
    After(u64),
}

#[derive(Clone, Debug)]
enum Seen {
    Event(u64),
    Gap(Box<str>),
    /// End of a life: the id of the event that ended it.
    End {
        id: String,
        complete: bool,
    },
}

/// Event stream of one run, over one connection.
struct Follower {
    run: u64,
    node: usize,
    on_lag: &'static str,
    begin: Begin,
    end: ClientEnd,
    inbox: Inbox,
    status: u16,
    seen: Vec<Seen>,
    last: Option<(u64, String)>,
    /// Number of entries that the log had when its response had come, and its node had reached the log.
    joined: Option<u64>,
    is_stalled: bool,
    pace: usize,
    is_over: bool,
}

/// Accepted event of a run.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    n: u64,
    id: EventId,
    is_first: bool,
    is_end: bool,
}

struct Cluster {
    dice: Dice,
    log: Arc<SimulatedLog>,
    config: ServerConfig,
    capacity: usize,
    nodes: Vec<Node>,
    asked: HashMap<u64, Asked>,
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

impl Node {
    fn new(log: &Arc<SimulatedLog>, config: &ServerConfig, capacity: usize) -> Self {
        let bus = Bus::builder().capacity(capacity).build().expect("it can be made");
        let mut engine = EngineConfig::new("redis://simulated");
        engine.history = 1_000_000;
        let shared = Shared::new(bus.clone(), config.clone(), 1);
        let (shared, steps) = shared.with_steps(engine, &SimulatedConnector(Arc::clone(log)));
        let shared = Arc::new(shared);
        shared.workers.work_inline();
        let core = LoopState::new(Arc::clone(&shared), bus.reader(|| ()), 1, 0);
        Self { bus, shared, steps, core, arriving: VecDeque::new(), links: Vec::new() }
    }

    /// Runs one turn of the loop.
    fn turn(&mut self, tick: u64, now: Timestamp) -> Checked {
        self.core.wake(tick, now);
        for (token, end) in self.links.clone() {
            let Some((readable, writable)) = end.take_readiness() else { continue };
            if readable && end.is_over() {
                self.core.record_end(token);
            }
            self.core.ready(token, readable, writable);
        }
        while let Some((server, end)) = self.arriving.pop_front() {
            if let Some(token) = self.core.admit(server) {
                self.links.push((token, end));
            }
        }
        self.links.retain(|(_, end)| !end.is_closed());
        self.core.turn();
        let audit = self.core.audit();
        if audit.difference != 0 {
            return Err(format!("the ledger is out by {}: {}", audit.difference, audit.ledger));
        }
        Ok(())
    }

    fn append(&mut self, fate: AppendFate) -> bool {
        self.shared.engine.as_ref().is_some_and(|engine| self.steps.append(engine, fate))
    }

    fn follow(&mut self, max: usize) -> bool {
        self.shared.engine.as_ref().is_some_and(|engine| self.steps.follow(engine, max))
    }

    fn read_page(&mut self) -> bool {
        self.shared.engine.as_ref().is_some_and(|engine| self.steps.read_page(engine))
    }
}

impl Publisher {
    /// Reads answers. Returns whether bytes arrived.
    fn read(&mut self, asked: &mut HashMap<u64, Asked>) -> bool {
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
            let numbers = self.sent.pop_front().expect("it asked");
            let answer: Value = serde_json::from_slice(&body).expect("JSON");
            let outcome = match (status, answer["code"].as_str()) {
                (200, _) => Answer::Accepted,
                (409, _) => Answer::Refused,
                (503, Some("engine_unanswered")) => Answer::Unknown,
                (503, _) => Answer::NotStored,
                _ => panic!("{status}: {answer}"),
            };
            for n in numbers {
                asked.get_mut(&n).expect("it was asked").answer = outcome;
            }
        }
        self.is_over |= !matches!(state, End::Open);
        moved
    }
}

impl Follower {
    fn open(&self) {
        let from = match &self.begin {
            Begin::Start => "&from=start",
            _ => "",
        };
        let header = match (&self.begin, &self.last) {
            (Begin::After(_), Some((_, id))) => format!("Last-Event-ID: {id}\r\n"),
            _ => String::new(),
        };
        let concat = if self.on_lag == "concat" { "&concat=/payload/delta" } else { "" };
        let query = format!("stream=run-{}{from}&on_lag={}{concat}", self.run, self.on_lag);
        self.end.send(format!("GET /sse?{query} HTTP/1.1\r\nHost: sim\r\n{header}\r\n").as_bytes());
    }

    /// Reads up to `most` bytes. Returns whether bytes arrived.
    fn read(&mut self, most: usize) -> bool {
        let before = self.inbox.bytes.len();
        let state = self.end.take(most, &mut self.inbox.bytes);
        let moved = self.inbox.bytes.len() > before;
        if self.status == 0
            && let Some((head, _)) = self.inbox.head()
        {
            self.status = head.status;
        }
        while self.status == 200
            && let Some((block, _)) = self.inbox.block()
        {
            if block.data.is_empty() {
                continue;
            }
            let data: Value = serde_json::from_str(&block.data).expect("JSON");
            match block.event.as_str() {
                "gap" => self.seen.push(Seen::Gap(block.data.into())),
                "end" => {
                    let complete = data["complete"].as_bool().expect("true or false");
                    let id = data["last_event_id"].as_str().expect("an id").to_owned();
                    self.seen.push(Seen::End { id, complete });
                }
                _ => {
                    let text = data["payload"]["delta"].as_str().expect("a text");
                    let numbers: Vec<u64> =
                        text.split_terminator(',').map(|n| n.parse().expect("a number")).collect();
                    let last = *numbers.last().expect("one at least");
                    assert_eq!(data["payload"]["n"], last, "{data}");
                    assert_eq!(data["merged"].as_u64().unwrap_or(1), numbers.len() as u64, "{data}");
                    self.seen.extend(numbers.into_iter().map(Seen::Event));
                    self.last = block.id.map(|id| (last, id));
                }
            }
        }
        self.is_over |= !matches!(state, End::Open);
        moved
    }

    /// Returns whether an event is due to a client that joined live.
    fn is_due(&self, event: &Accepted) -> bool {
        self.joined.is_some_and(|joined| event.id.sequence >= joined)
    }

    /// Checks what it received. `keeps`: the number of events that a log keeps. `complete`: everything for it has arrived.
    fn check(&self, accepted: &[Accepted], keeps: usize, keeps_all: bool, complete: bool) -> Checked {
        let place = |n: u64| accepted.iter().position(|one| one.n == n);
        let (mut at, mut has_gap, mut ended) = (None, false, None);
        let mut after = match self.begin {
            Begin::After(n) => Some(place(n).ok_or(format!("it had {n}, which is not accepted"))?),
            _ => None,
        };
        for item in &self.seen {
            match item {
                Seen::Gap(_) => has_gap = true,
                Seen::Event(n) => {
                    let Some(here) = place(*n) else { return Err(format!("event {n} is not accepted")) };
                    let is_next = match (at.or(after), &self.begin) {
                        (Some(before), _) if here <= before => {
                            return Err(format!("event {n} came again, or late"));
                        }
                        (Some(before), _) if here == before + 1 => true,
                        // A resume from an older life continues with the newest.
                        (Some(_), _) => at.is_none() && accepted[here].is_first,
                        (None, Begin::Live) => !accepted[..here].iter().any(|one| self.is_due(one)),
                        (None, _) => accepted[here].is_first,
                    };
                    let catches_up = matches!(self.on_lag, "catch_up" | "concat");
                    if !is_next && (!has_gap || (keeps_all && catches_up && self.begin != Begin::Live)) {
                        return Err(format!("events are missing before {n}, gap: {has_gap}"));
                    }
                    (at, after, has_gap) = (Some(here), None, false);
                }
                Seen::End { id, complete } => {
                    let end = check_end(accepted, id, *complete, keeps)?;
                    if ended.is_some_and(|before| end <= before) {
                        return Err(format!("the end {id} came again, or late"));
                    }
                    ended = Some(end);
                    // A client that was behind may be told after it has read on.
                    let is_after = at.or(after).is_none_or(|at| accepted[..=at].iter().any(|one| one.is_end));
                    if !is_after && !has_gap {
                        return Err(format!("an end that is not after its event: {at:?}"));
                    }
                }
            }
        }
        if complete && accepted.last().is_some_and(|last| last.is_end) {
            return Err("its log has ended, and the stream goes on".to_owned());
        }
        if !complete || has_gap {
            return Ok(());
        }
        let has_all = match (at.or(after), &self.begin) {
            (Some(at), _) => at + 1 == accepted.len(),
            (None, Begin::Live) => !accepted.iter().any(|one| self.is_due(one)),
            (None, _) => accepted.is_empty(),
        };
        if has_all { Ok(()) } else { Err(format!("{at:?} is the last that came of {}", accepted.len())) }
    }
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xe4_91_4e);
        let mut rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("valid").end(["run.end"]);
        rule.keep_for = std::time::Duration::from_secs(1 << 30);
        rule.events = dice.pick(&[5, 100_000, 100_000]);
        let mut config = ServerConfig {
            max_lag_events: dice.pick(&[2, 16, 1000]),
            write_budget_bytes: dice.pick(&[1000, 256 << 10]),
            handshake_timeout: std::time::Duration::from_secs(600),
            keep_alive: std::time::Duration::from_secs(3600),
            heartbeat: std::time::Duration::from_secs(600),
            ..ServerConfig::default()
        };
        config.retain.rules.push(rule);
        let capacity = dice.pick(&[16, 64, 1024]);
        let log = Arc::<SimulatedLog>::default();
        let nodes = (0..2).map(|_| Node::new(&log, &config, capacity)).collect();
        Self {
            dice,
            log,
            config,
            capacity,
            nodes,
            asked: HashMap::new(),
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
            0..=24 => self.publish(node),
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
                let did = self.nodes[node].follow(max);
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
            91 => self.crash(node),
            _ => self.clock += self.dice.below(100_000),
        }
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

    /// Publishes to a run: tokens, an end, or an event with a condition.
    fn publish(&mut self, node: usize) {
        let at = self.publishers.iter().position(|one| one.node == node && !one.is_over);
        let at = at.filter(|_| !self.dice.one_in(4)).unwrap_or_else(|| {
            let end = self.connect(node);
            let (inbox, sent) = (Inbox::default(), VecDeque::new());
            self.publishers.push(Publisher { node, end, inbox, body: None, sent, is_over: false });
            self.publishers.len() - 1
        });
        let run = self.dice.below(RUNS);
        let kind = self.dice.below(10);
        let count = if kind < 6 { self.dice.up_to(5) } else { 1 };
        let mut numbers = Vec::new();
        let mut events = Vec::new();
        for part in 0..count {
            let n = self.next;
            self.next += 1;
            let is_end = kind == 6 || (kind < 6 && part + 1 == count && self.dice.one_in(6));
            let expected = (kind == 7).then(|| {
                let accepted = model(&self.log.entries(), &self.asked);
                let last = accepted.get(&run).and_then(|all| all.last()).map(|one| one.id.to_string());
                last.filter(|_| !self.dice.one_in(5)).unwrap_or_default()
            });
            let reopen = kind == 8;
            let mut event = json!({
                "type": if is_end { "run.end" } else { "token" }, "stream_id": format!("run-{run}"),
                "payload": {"n": n, "delta": format!("{n},")}, "dedupe_id": format!("d{n}"),
            });
            if reopen {
                event["reopen"] = json!(true);
            }
            if let Some(expected) = &expected {
                event["expected_last_id"] = json!(expected);
            }
            let (answer, is_alone) = (Answer::Unknown, count == 1);
            self.asked.insert(n, Asked { run, is_end, reopen, expected, answer, is_alone });
            numbers.push(n);
            events.push(event);
        }
        self.trace(|| format!("node {node}: {events:?}"));
        let body = Value::from(events).to_string();
        let head = format!("POST /publish HTTP/1.1\r\nHost: sim\r\nContent-Length: {}\r\n\r\n", body.len());
        let publisher = &mut self.publishers[at];
        publisher.sent.push_back(numbers);
        publisher.end.send((head + &body).as_bytes());
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
            is_stalled: false,
            pace,
            is_over: false,
        };
        self.trace(|| format!("node {node} follower of run-{run}: {:?} {on_lag}", follower.begin));
        follower.open();
        self.followers.push(follower);
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
        }
        self.laps += self.nodes[node].shared.metrics.loop_gaps.get();
        self.nodes[node] = Node::new(&self.log, &self.config, self.capacity);
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
            moved |= publisher.read(&mut self.asked);
        }
        for follower in &mut self.followers {
            moved |= follower.end.is_moving();
            follower.end.carry(all);
            if all || !follower.is_stalled {
                moved |= follower.read(if all { usize::MAX } else { follower.pace });
            }
            let is_attached = self.nodes.get(follower.node).is_some_and(|node| node.steps.next().is_some());
            if follower.status == 200 && is_attached {
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
                let did = [node.append(AppendFate::Stored), node.follow(usize::MAX), node.read_page()];
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
        let entries = self.log.entries();
        let accepted = model(&entries, &self.asked);
        let mut stored: HashMap<u64, u32> = HashMap::new();
        for entry in &entries {
            *stored.entry(number_of(entry)).or_default() += 1;
        }
        if let Some((n, times)) = stored.iter().find(|(_, times)| **times > 1) {
            return Err(format!("event {n} is in the log {times} times"));
        }
        for (n, asked) in &self.asked {
            let is_accepted = accepted.get(&asked.run).is_some_and(|all| all.iter().any(|one| one.n == *n));
            let is_wrong = match asked.answer {
                Answer::Unknown => false,
                Answer::Accepted => !is_accepted,
                Answer::Refused => is_accepted && asked.is_alone,
                Answer::NotStored => stored.contains_key(n),
            };
            if is_wrong {
                return Err(format!(
                    "event {n}: {asked:?}, in the log: {:?}, accepted: {is_accepted}",
                    stored.get(n)
                ));
            }
        }
        let waiting = self.publishers.iter().any(|one| !one.is_over && !one.sent.is_empty());
        if waiting {
            return Err("a publisher has no answer".to_owned());
        }
        let keeps = self.config.retain.rules[0].events;
        let keeps_all = keeps > 5 && !self.has_lapped();
        let none = Vec::new();
        for (follower, is_open) in
            self.over.iter().map(|one| (one, false)).chain(self.followers.iter().map(|one| (one, true)))
        {
            let all = accepted.get(&follower.run).unwrap_or(&none);
            let complete = is_open && follower.status == 200 && !follower.is_over;
            follower.check(all, keeps, keeps_all, complete).map_err(|error| {
                let Follower { run, node, begin, on_lag, seen, status, .. } = follower;
                format!("run-{run}, node {node}, {begin:?} {on_lag} {status}: {error}; {seen:?} of {all:?}")
            })?;
        }
        Ok(())
    }
}

fn number_of(entry: &str) -> u64 {
    let entry: Value = serde_json::from_str(entry).expect("JSON");
    entry["payload"]["n"].as_u64().expect("a number")
}

/// Returns the accepted events of each run, by the order of the log.
fn model(entries: &[String], asked: &HashMap<u64, Asked>) -> HashMap<u64, Vec<Accepted>> {
    let mut runs: HashMap<u64, Vec<Accepted>> = HashMap::new();
    for (at, entry) in entries.iter().enumerate() {
        let n = number_of(entry);
        let Asked { run, is_end, reopen, expected, .. } = &asked[&n];
        let run = runs.entry(*run).or_default();
        let newest = run.last().map(|one| (one.id, one.is_end));
        let is_expected = expected
            .as_ref()
            .is_none_or(|expected| newest.map_or(expected.is_empty(), |(id, _)| *expected == id.to_string()));
        let is_open = match newest {
            None => true,
            Some((_, was_ended)) => was_ended == *reopen,
        };
        if is_expected && is_open {
            let is_first = newest.is_none_or(|(_, was_ended)| was_ended);
            run.push(Accepted { n, id: SimulatedLog::id(at), is_first, is_end: *is_end });
        }
    }
    runs
}

/// Checks an end, and returns the place of the event that it names. `keeps`: the number of events that a log keeps.
fn check_end(accepted: &[Accepted], id: &str, complete: bool, keeps: usize) -> Result<usize, String> {
    let place = accepted.iter().position(|one| one.is_end && one.id.to_string() == id);
    let place = place.ok_or(format!("{id} ended nothing"))?;
    let first = accepted[..=place].iter().rposition(|one| one.is_first).expect("a life has a first event");
    let is_kept = place + 1 - first <= keeps;
    if complete == is_kept {
        Ok(place)
    } else {
        Err(format!("the end {id}: complete is {complete}, of {} events", place + 1 - first))
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

#[test]
fn an_end_is_checked_against_the_log() {
    let event = |n: u64, is_first, is_end| Accepted { n, id: SimulatedLog::id(n as usize), is_first, is_end };
    let log = [event(1, true, false), event(2, false, true), event(3, true, false), event(5, false, true)];
    let check = |id: &str, complete, keeps| check_end(&log, id, complete, keeps);
    assert_eq!((check("7-2", true, 2), check("7-5", true, 2), check("7-5", false, 1)), (Ok(1), Ok(3), Ok(3)));
    assert!(check("7-3", true, 2).is_err(), "it ended nothing");
    assert!(check("7-5", true, 1).is_err(), "its first event is evicted");
    assert!(check("7-5", false, 2).is_err(), "it has its first event");
}
