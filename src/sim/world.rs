//! One run: the server's loops, its clients, the network between them and the clock, all in one thread.
//!
//! Invariant: a loop runs only when its poll would have returned. A lost wake-up is therefore detected as an event that
//! does not arrive.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Mutex;

use super::books::{Entry, From, KEPT, KINDS, Log, Policy, SOURCES, STREAMS};
use super::check::{check, nothing_is_lost};
use super::client::{Client, Kind, Outcome};
use super::net::{ClientEnd, ServerEnd, wire};
use super::{Dice, Fault};
use crate::bus::{Bus, HandlerGuard};
use crate::event::{Event, Timestamp};
use crate::filter::Filter;
use crate::server::reactor::{LoopState, Token};
use crate::server::shared::Shared;
use crate::server::tick::TICK_MS;
use crate::server::{RetainBy, RetainRule, ServerConfig};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};

/// One loop of the server, driven as `event_loop` drives it.
struct Loop {
    core: LoopState<ServerEnd>,
    woken: Arc<AtomicBool>,
    is_asleep: bool,
    /// Tick at which poll returns by itself.
    due: Option<u64>,
    arriving: VecDeque<(ServerEnd, ClientEnd)>,
    links: Vec<(Token, ClientEnd)>,
    /// Number of rounds for which its thread gets no time within a turn, after it has read the bus. The other loops and the
    /// clients go on.
    stopped: u32,
}

/// Parameters of a run.
#[derive(Debug)]
struct Plan {
    policies: Vec<Policy>,
    phases: usize,
    steps: usize,
    clients: usize,
    /// Whether the disconnect of a well-behaved client is a fault.
    is_strict: bool,
    clients_publish: bool,
    jumps: bool,
    drains: bool,
}

pub(super) struct World {
    dice: Dice,
    plan: Plan,
    bus: Bus,
    shared: Arc<Shared>,
    loops: Vec<Loop>,
    clients: Vec<Client>,
    /// Events published since the last update of the log, by any publisher. This is a list, because a ring could
    /// overflow.
    published: Arc<Mutex<Vec<Event>>>,
    _witness: HandlerGuard,
    log: Log,
    /// Monotonic clock, in microseconds.
    clock: u64,
    /// Difference between the wall clock and `clock`, in microseconds.
    offset: i64,
    next_event: u64,
    next_client: usize,
    fault: Option<Fault>,
    is_draining: bool,
    traces: bool,
}

type RunResult = Result<(), String>;

impl World {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut dice = Dice::new(seed);
        let capacity = dice.pick(&[16, 64, 256, 1024]);
        let shards = if dice.one_in(6) && fault.is_none() { 3 } else { 1 };
        let bus = Bus::builder().shards(shards).capacity(capacity).build().expect("it can be made");
        let is_rough = dice.one_in(3);
        let mut config = ServerConfig {
            max_lag_events: dice.pick(&[4, 16, 100, 1000]),
            max_lag_bytes: dice.pick(&[2000, 64 << 10, 1 << 20]),
            write_budget_bytes: dice.pick(&[1, 1000, 256 << 10]),
            share_pages_bytes: seed.is_multiple_of(2).then_some(1),
            max_conflate_keys: dice.pick(&[2, 10_000]),
            handshake_timeout: std::time::Duration::from_secs(600),
            body_timeout: std::time::Duration::from_secs(600),
            keep_alive: std::time::Duration::from_secs(3600),
            heartbeat: std::time::Duration::from_secs(600),
            ..ServerConfig::default()
        };
        if !is_rough {
            // These logs retain every event, so the pasts of entities reach back to the beginning.
            let mut rule = RetainRule::new("entity=k:*", RetainBy::Entity).expect("valid");
            rule.keep_for = std::time::Duration::from_secs(1 << 30);
            config.retain.rules.push(rule);
        }
        if is_rough {
            config.max_memory_bytes = Some(dice.pick(&[50_000, 1 << 30]));
            config.heartbeat = std::time::Duration::from_secs(dice.pick(&[1, 30]));
            config.handshake_timeout = std::time::Duration::from_secs(5);
        }
        let all = [
            Policy::DropOldest,
            Policy::DropNewest,
            Policy::Conflate,
            Policy::Sample(dice.pick(&[2, 10, 1000])),
            Policy::Disconnect,
        ];
        // Half of the runs use only the policies that deliver or report every single event.
        let mut policies = if dice.one_in(2) || fault.is_some() { all[..2].to_vec() } else { all.to_vec() };
        // No dice here, so that older seeds keep their meaning. A connection that catches up leaves nothing out.
        if !policies.iter().any(|policy| policy.may_omit()) && !seed.is_multiple_of(4) {
            policies[usize::from(seed.is_multiple_of(2))] = Policy::CatchUp;
        } else if seed.is_multiple_of(3) {
            policies = vec![Policy::CatchUp, Policy::DropOldest, Policy::Disconnect];
        }
        if seed.is_multiple_of(5) && shards == 1 && fault.is_none() {
            policies = vec![Policy::Concat];
        }
        let plan = Plan {
            policies,
            phases: 1 + dice.below(3) as usize,
            steps: 20 + dice.below(150) as usize,
            clients: 2 + dice.below(8) as usize,
            is_strict: !is_rough,
            clients_publish: shards == 1 && dice.one_in(2),
            jumps: is_rough && dice.one_in(2),
            drains: dice.one_in(3),
        };
        let count = if dice.one_in(5) { 2 } else { 1 };
        let shared = Arc::new(Shared::new(bus.clone(), config, count));
        shared.workers.work_inline();
        let loops = (0..count).map(|number| Loop::new(&shared, number)).collect();
        let published = Arc::<Mutex<Vec<Event>>>::default();
        let seen = Arc::clone(&published);
        let witness = bus.on_sync(Filter::new(), move |event: &Event| {
            seen.lock().expect("whole").push(event.clone());
        });
        Self {
            plan,
            published,
            _witness: witness,
            log: Log::new(shards, capacity),
            bus,
            shared,
            loops,
            clients: Vec::new(),
            clock: 0,
            offset: 1_000_000_000_000,
            next_event: 0,
            next_client: 0,
            fault,
            is_draining: false,
            traces: std::env::var_os("FANWIRE_SIM_TRACE").is_some(),
            dice,
        }
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.traces {
            eprintln!("{:>9.3} {:>4} {}", self.clock as f64 / 1e6, self.log.len(), what());
        }
    }

    fn tick(&self) -> u64 {
        self.clock / 1000 / TICK_MS
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.clock as i64 + self.offset)
    }

    pub(super) fn run(mut self) -> RunResult {
        self.trace(|| {
            let (_, config) = self.shared.config();
            format!("capacity {}, {} loops, {:?}, {config:?}", self.log.capacity, self.loops.len(), self.plan)
        });
        for phase in 1..=self.plan.phases {
            for _ in 0..self.plan.steps {
                self.step()?;
            }
            self.settle(phase == self.plan.phases)?;
        }
        self.end()
    }

    fn step(&mut self) -> RunResult {
        match self.dice.below(100) {
            0..=29 => self.publish(),
            30..=54 => self.send_random(),
            55..=69 => self.change_pace(),
            70..=73 => self.disconnect_random(),
            74..=84 => self.admit(),
            85..=86 if self.plan.jumps => {
                let (seconds, back) = (self.dice.below(4000), self.dice.one_in(2));
                self.trace(|| format!("the clock jumps {seconds} s, back: {back}"));
                if back {
                    self.offset -= seconds as i64 * 1_000_000;
                } else {
                    self.clock += seconds * 1_000_000;
                }
            }
            _ => {
                let most = self.dice.pick(&[1000, 50_000, 400_000]);
                self.clock += self.dice.below(most);
            }
        }
        for at in 0..self.clients.len() {
            if self.dice.one_in(2) {
                self.clients[at].end.carry(false);
            }
            let client = &mut self.clients[at];
            if !client.is_stalled && self.dice.one_in(2) {
                let most = self.dice.up_to(client.pace);
                client.read(most, &mut self.dice, &self.log);
            }
        }
        if !self.dice.one_in(3) {
            self.run_loops(false)?;
        }
        self.reap_closed(false)
    }

    fn publish(&mut self) {
        let count = if self.dice.one_in(25) { self.log.capacity * 3 / 2 } else { self.dice.up_to(20) as u64 };
        self.trace(|| format!("publish {count}"));
        for _ in 0..count {
            let n = self.next_event;
            self.next_event += 1;
            let mut builder = Event::builder(self.dice.pick(&KINDS))
                .source(self.dice.pick(&SOURCES))
                .stream(self.dice.pick(&STREAMS));
            if self.dice.one_in(2) {
                builder =
                    builder.entity("k", &self.dice.below(u64::from(super::books::ENTITIES)).to_string());
            }
            let pad = "p".repeat(super::pad(&mut self.dice));
            let event = builder.json(format!(r#"{{"n":{n},"pad":"{pad}"}}"#)).build().expect("valid");
            self.bus.publish(event);
            self.collect_published();
        }
    }

    /// Adds the published events to the log.
    fn collect_published(&mut self) {
        for event in self.published.lock().expect("whole").drain(..) {
            let place = |all: &[&str], word| all.iter().position(|w| Some(*w) == word);
            let payload: serde_json::Value =
                serde_json::from_str(event.payload()).expect("a payload is JSON");
            self.log.push(Entry {
                kind: place(&KINDS, Some(event.event_type())).expect("known") as u8,
                source: place(&SOURCES, event.source()).expect("known") as u8,
                stream: place(&STREAMS, event.stream()).expect("known") as u8,
                entity: event.entity().map(|(_, id)| id.parse().expect("a number")),
                n: payload["n"].as_u64().expect("numbered"),
                id: event.id().expect("published"),
            });
        }
    }

    fn admit(&mut self) {
        if self.clients.len() >= self.plan.clients || self.is_draining {
            return;
        }
        let kind = match self.dice.below(10) {
            0..=4 => Kind::Ws,
            5..=7 => Kind::Sse,
            8 if self.plan.clients_publish => Kind::Post,
            _ => Kind::Noise,
        };
        let from = self.from();
        self.connect(kind, from, None);
    }

    /// Returns a random start for a new subscription.
    fn from(&mut self) -> Option<From> {
        match self.dice.below(12) {
            0 if self.log.len() > 0 => Some(From::After(self.dice.below(self.log.len()))),
            1 => Some(From::Unknown),
            2 => Some(From::Newest(self.dice.up_to(100))),
            3 => Some(From::Snapshot),
            4 => Some(From::Start),
            _ => None,
        }
    }

    fn connect(&mut self, kind: Kind, from: Option<From>, policy: Option<Policy>) {
        let room = self.dice.pick(&[1, 100, 4000, 60_000]);
        let piece = self.dice.pick(&[1, 20, 5000]);
        let wire_dice = Dice::new(self.dice.below(u64::MAX));
        let (server, end) = wire(&self.bus, wire_dice, room, piece);
        let at = self.dice.below(self.loops.len() as u64) as usize;
        self.loops[at].arriving.push_back((server, end.clone()));
        let pace = self.dice.pick(&[10, 1000, usize::MAX]);
        self.next_client += 1;
        let mut client = Client::new(self.next_client, kind, end, pace);
        client.is_mute = !self.plan.is_strict && self.dice.one_in(5);
        client.was_slow = room == 1;
        client.fault = self.fault;
        let policy = policy.unwrap_or_else(|| self.dice.pick(&self.plan.policies));
        self.trace(|| format!("{kind:?} {} connects: {from:?}, {policy:?}, room {room}", self.next_client));
        match kind {
            Kind::Ws => {
                client.upgrade();
                client.subscribe(&mut self.dice, policy, from, &self.log);
            }
            Kind::Sse => {
                let filter = self.dice.below(u64::from(super::books::FILTERS)) as u8;
                client.open_stream(filter, policy, from, &self.log);
            }
            Kind::Post => {
                client.post(&mut self.dice, self.next_event..self.next_event + 1);
                self.next_event += 1;
            }
            Kind::Noise => client.make_noise(&mut self.dice),
        }
        self.clients.push(client);
    }

    /// Makes a random client send a message.
    fn send_random(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.dice.below(self.clients.len() as u64) as usize;
        let (policy, from) = (self.dice.pick(&self.plan.policies), self.from());
        let what = self.dice.below(10);
        let client = &mut self.clients[at];
        if client.is_leaving || client.outcome.is_some() {
            return;
        }
        match (client.kind, what) {
            (Kind::Ws, 0..=3) => client.subscribe(&mut self.dice, policy, from, &self.log),
            (Kind::Ws, 4..=5) => client.unsubscribe(&mut self.dice),
            (Kind::Ws, 6) if self.plan.clients_publish => {
                client.publish(&mut self.dice, self.next_event);
                self.next_event += 1;
            }
            (Kind::Ws, 8) => client.update(&mut self.dice, policy, &self.log),
            (Kind::Ws, 7) => (0..self.dice.up_to(60)).for_each(|_| client.ask(&mut self.dice)),
            (Kind::Ws, _) => client.ask(&mut self.dice),
            (Kind::Sse, _) => {}
            (Kind::Post, _) => {
                let count = self.dice.up_to(6) as u64;
                client.post(&mut self.dice, self.next_event..self.next_event + count);
                self.next_event += count;
            }
            (Kind::Noise, _) => client.make_noise(&mut self.dice),
        }
        let (number, kind) = (client.number, client.kind);
        self.trace(|| format!("{kind:?} {number} speaks: {what}, {policy:?}, {from:?}"));
    }

    fn change_pace(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.dice.below(self.clients.len() as u64) as usize;
        let client = &mut self.clients[at];
        client.is_stalled = !client.is_stalled && self.dice.one_in(2);
        client.pace = self.dice.pick(&[1, 100, 10_000, usize::MAX]);
        let room = self.dice.pick(&[1, 100, 4000, 60_000]);
        client.end.set_room(room);
        client.was_slow |= client.is_stalled || client.pace == 1 || room == 1;
        let (number, stalled) = (client.number, client.is_stalled);
        self.trace(|| format!("{number} stalls: {stalled}"));
    }

    fn disconnect_random(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.dice.below(self.clients.len() as u64) as usize;
        self.clients[at].leave(&mut self.dice);
        let number = self.clients[at].number;
        self.trace(|| format!("{number} leaves"));
    }

    /// Runs the loops that poll would wake. `all`: repeats until no loop would wake.
    fn run_loops(&mut self, all: bool) -> RunResult {
        for _ in 0..100_000 {
            let mut any = false;
            for at in 0..self.loops.len() {
                let stopped = &mut self.loops[at].stopped;
                if !all && *stopped > 1 {
                    *stopped -= 1;
                    continue;
                }
                if *stopped > 0 || self.loops[at].would_return(self.tick()) {
                    any = true;
                    self.run_loop(at)?;
                }
            }
            if !any || !all {
                return Ok(());
            }
        }
        Err("a loop never sleeps".to_owned())
    }

    /// Runs one turn of a loop, as `event_loop` does.
    fn run_loop(&mut self, at: usize) -> RunResult {
        let (tick, now) = (self.tick(), self.now());
        let this = &mut self.loops[at];
        if std::mem::take(&mut this.stopped) == 0 {
            this.woken.store(false, Ordering::Relaxed);
            this.core.wake(tick, now);
            if self.dice.one_in(20) {
                this.stopped = self.dice.up_to(40) as u32;
                self.trace(|| format!("loop {at} stops within a turn"));
                return Ok(());
            }
        }
        let mut ready: Vec<(Token, ClientEnd, (bool, bool))> = (this.links.iter())
            .filter_map(|(token, end)| Some((*token, end.clone(), end.take_readiness()?)))
            .collect();
        // The order is random: no code may depend on poll's order.
        for place in (1..ready.len()).rev() {
            ready.swap(place, self.dice.below(place as u64 + 1) as usize);
        }
        for (token, end, (readable, writable)) in ready {
            let this = &mut self.loops[at];
            let read_up_to: Rc<[u64]> = this.core.audit().events_read.into();
            this.links.iter().for_each(|(_, end)| end.record_reader(&read_up_to));
            end.record_reader(&read_up_to);
            if readable && end.is_over() {
                this.core.record_end(token);
            }
            this.core.ready(token, readable, writable);
            self.collect_published();
        }
        let this = &mut self.loops[at];
        while let Some((server, end)) = this.arriving.pop_front() {
            if let Some(token) = this.core.admit(server) {
                this.links.push((token, end));
            }
        }
        let read_up_to: Rc<[u64]> = this.core.audit().events_read.into();
        this.links.retain(|(_, end)| !end.is_closed());
        this.links.iter().for_each(|(_, end)| end.record_reader(&read_up_to));
        this.core.turn();
        self.collect_published();
        self.balance(at)?;
        let tick = self.tick();
        let this = &mut self.loops[at];
        this.is_asleep = !this.core.has_work() && this.core.prepare_sleep();
        this.due = this.core.ticks_to_timer().map(|ticks| tick + ticks);
        Ok(())
    }

    /// Checks that a loop's ledger balances, and that its memory is within bounds.
    fn balance(&self, at: usize) -> RunResult {
        let audit = self.loops[at].core.audit();
        if audit.difference != 0 {
            return Err(format!("the ledger is out by {}: {}", audit.difference, audit.ledger));
        }
        let (_, config) = self.shared.config();
        let lag = config.max_lag_bytes + (80 << 10);
        let most = audit.feeds * lag + audit.connections * (lag + (400 << 10));
        if audit.held_bytes > most {
            return Err(format!("{} bytes held, at most {most}: {audit:?}", audit.held_bytes));
        }
        Ok(())
    }

    /// Runs until nothing moves, and then checks everything. `all`: stalled clients read too.
    fn settle(&mut self, all: bool) -> RunResult {
        if all {
            self.clients.iter_mut().for_each(|client| client.is_stalled = false);
        }
        // Sockets that accept single bytes would need too many turns.
        self.clients
            .iter()
            .filter(|client| !client.is_stalled)
            .for_each(|client| client.end.set_room(60_000));
        // A sample waits up to half a second, and a timer up to a tick.
        for _ in 0..12 {
            self.run_until_idle()?;
            self.clock += TICK_MS * 1000;
        }
        self.look()
    }

    /// Runs, with the clock standing still, until nothing moves.
    fn run_until_idle(&mut self) -> RunResult {
        for _ in 0..200_000 {
            let mut moved = false;
            for client in &mut self.clients {
                moved |= client.end.is_moving();
                client.end.carry(true);
                if !client.is_stalled {
                    moved |= client.read(usize::MAX, &mut self.dice, &self.log);
                }
            }
            self.run_loops(true)?;
            if !moved {
                return Ok(());
            }
        }
        Err("it never comes to rest".to_owned())
    }

    /// Checks that every client received its events, or a report of the loss.
    fn look(&mut self) -> RunResult {
        self.trace(|| "a quiet moment".to_owned());
        let nobody_stalls = self.clients.iter().all(|client| !client.is_stalled);
        for (number, this) in self.loops.iter().enumerate() {
            let audit = this.core.audit();
            if nobody_stalls && audit.pending != 0 {
                return Err(format!(
                    "loop {number}: {} events are pending though no client stalls: {audit:?}",
                    audit.pending
                ));
            }
        }
        for client in &self.clients {
            self.judge(client)?;
            if client.awaits_answers() && !client.is_stalled && !client.is_leaving {
                return Err(format!("client {} has no answer: {client:?}", client.number));
            }
        }
        self.reap_closed(true)
    }

    /// Checks the messages that a client received.
    fn judge(&self, client: &Client) -> RunResult {
        let complete = client.is_streaming() && !client.is_stalled && !client.is_leaving;
        let keeps_all = self.plan.is_strict && self.shared.metrics.loop_gaps.get() == 0;
        let kept = if keeps_all {
            nothing_is_lost(&client.seen, self.log.by_shard.len(), |filter| filter >= KEPT)
        } else {
            Ok(())
        };
        check(&client.seen, &self.log, complete).and(kept).map_err(|error| {
            let story = if self.traces { format!("\n{:?}", client.seen) } else { String::new() };
            format!("client {} ({:?}): {error}{story}", client.number, client.kind)
        })
    }

    /// Checks the clients that are disconnected, and reconnects some after their last event.
    fn reap_closed(&mut self, all_read: bool) -> RunResult {
        let mut at = 0;
        while at < self.clients.len() {
            let client = &self.clients[at];
            let is_over = client.outcome.is_some()
                || (client.is_leaving && (client.end.is_closed() || all_read) && !client.is_stalled);
            if !is_over {
                at += 1;
                continue;
            }
            let client = self.clients.swap_remove(at);
            self.judge(&client)?;
            self.may_be_gone(&client)?;
            client.end.abort();
            self.trace(|| format!("{} is gone: {:?}", client.number, client.outcome));
            let last = client.last_event.and_then(|id| self.log.find(id));
            if let Some(last) = last.filter(|_| self.dice.one_in(2) && !self.is_draining) {
                let policy = self.dice.pick(&self.plan.policies);
                self.connect(client.kind, Some(From::After(last)), Some(policy));
            }
        }
        Ok(())
    }

    /// Checks that the server had a reason to disconnect this client.
    fn may_be_gone(&self, client: &Client) -> RunResult {
        let asked_for = client.asked_to_be_closed();
        let is_fine = match client.outcome {
            _ if client.is_leaving || self.is_draining || client.kind == Kind::Noise => true,
            Some(Outcome::Close(1013)) => asked_for || !self.plan.is_strict,
            Some(Outcome::Ended | Outcome::Broken) if asked_for => true,
            // The server waits five seconds for a client that hardly reads, even in the middle of a frame.
            Some(Outcome::CutOff) if asked_for && client.was_slow => true,
            _ => !self.plan.is_strict,
        };
        if is_fine {
            Ok(())
        } else {
            Err(format!("client {} was disconnected without a reason: {:?}", client.number, client.outcome))
        }
    }

    /// Drains the server or disconnects the clients, and checks that nothing is left.
    fn end(mut self) -> RunResult {
        if self.plan.drains {
            self.publish();
            self.is_draining = true;
            let closed_before = self.shared.metrics.lag_closed.get();
            // Relaxed: there is one thread.
            self.shared.lifecycle.drain.store(1, Ordering::Relaxed);
            for at in 0..self.loops.len() {
                let (tick, now) = (self.tick(), self.now());
                self.loops[at].core.wake(tick, now);
                self.loops[at].core.drain();
            }
            self.trace(|| "draining".to_owned());
            // Clients that read receive every event, and then the notice that the server drains.
            for _ in 0..3000 {
                for client in &mut self.clients {
                    client.end.carry(true);
                    client.read(usize::MAX, &mut self.dice, &self.log);
                }
                self.run_loops(true)?;
                if self.clients.iter().all(|client| client.outcome.is_some()) {
                    break;
                }
                self.clock += 1000;
            }
            for client in &self.clients {
                let some_fell_off = self.shared.metrics.lag_closed.get() > closed_before;
                let complete = client.outcome.is_some() && self.reads_to_the_end(client, some_fell_off);
                check(&client.seen, &self.log, complete)
                    .map_err(|error| format!("draining, client {}: {error}", client.number))?;
                if client.outcome.is_none() && client.kind != Kind::Noise {
                    return Err(format!("client {} got no notice that the server drains", client.number));
                }
            }
        }
        self.clients.iter().for_each(|client| client.end.abort());
        for _ in 0..300 {
            self.clock += TICK_MS * 1000;
            self.clients.iter().for_each(|client| client.end.carry(true));
            self.run_loops(true)?;
        }
        let metrics = &self.shared.metrics;
        let kinds = ["http", "ws", "sse"];
        let open = kinds.map(|kind| metrics.connections.get_or_create(&crate::metrics::Kind { kind }).get());
        let left = (open, metrics.subscriptions.get(), metrics.feeds.get());
        if left != ([0; 3], 0, 0) || self.loops.iter().any(|this| !this.core.is_empty()) {
            return Err(format!("left at the end: connections {open:?}, {left:?}"));
        }
        Ok(())
    }

    /// Returns whether the client got the drain notice in order, so that no event may be missing before it.
    fn reads_to_the_end(&self, client: &Client, some_fell_off: bool) -> bool {
        let in_order = match client.outcome {
            Some(Outcome::Close(1012)) => true,
            // The end of an event stream has no code, so it may also be the disconnect policy of a client that lags.
            Some(Outcome::Ended) => !(some_fell_off && client.asked_to_be_closed()),
            _ => false,
        };
        // A client that still catches up resumes elsewhere after its last event.
        in_order && !client.catches_up() && self.plan.is_strict && matches!(client.kind, Kind::Ws | Kind::Sse)
    }
}

impl Loop {
    fn new(shared: &Arc<Shared>, number: usize) -> Self {
        let woken = Arc::new(AtomicBool::new(false));
        let for_bus = Arc::clone(&woken);
        // Relaxed: there is one thread.
        let reader = shared.bus.reader(move || for_bus.store(true, Ordering::Relaxed));
        Self {
            core: LoopState::new(Arc::clone(shared), reader, 1, number),
            woken,
            is_asleep: false,
            due: None,
            arriving: VecDeque::new(),
            links: Vec::new(),
            stopped: 0,
        }
    }

    /// Returns whether the loop's poll would return now.
    fn would_return(&self, tick: u64) -> bool {
        !self.is_asleep
            || self.woken.load(Ordering::Relaxed)
            || self.due.is_some_and(|due| tick >= due)
            || !self.arriving.is_empty()
            || self.links.iter().any(|(_, end)| end.is_ready())
    }
}
