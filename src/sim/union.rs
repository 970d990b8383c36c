//! Tests clients that are cut off at any byte and reconnect to any loop with their last position, over several shards:
//! together, the connections of a client deliver each wanted event exactly once.
//!
//! Invariants:
//! - No event is evicted and no client lags too far, so any gap is a fault.
//! - The server does not identify clients across connections.

use std::rc::Rc;

use serde_json::{Value, json};

use super::Dice;
use super::books::{KINDS, SOURCES, STREAMS};
use super::decode::{Inbox, masked};
use super::net::{ClientEnd, End, ServerEnd, wire};
use crate::bus::Bus;
use crate::event::{Event, EventId, Timestamp};
use crate::server::ServerConfig;
use crate::server::reactor::{LoopState, Token};
use crate::server::shared::Shared;
use crate::server::tick::TICK_MS;
use crate::sync::Arc;

/// Interest of a client.
#[derive(Clone, Copy, Debug)]
enum ClientInterest {
    All,
    Kind(&'static str),
    Stream(&'static str),
}

impl ClientInterest {
    fn wants(self, kind: &str, stream: &str) -> bool {
        match self {
            Self::All => true,
            Self::Kind(one) => kind == one,
            Self::Stream(one) => stream == one,
        }
    }
}

struct Person {
    is_sse: bool,
    wish: ClientInterest,
    end: ClientEnd,
    inbox: Inbox,
    has_head: bool,
    /// Last position received, to reconnect with.
    place: Option<String>,
    got: Vec<EventId>,
    cuts: usize,
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Connections of a loop, with their tokens.
type Links = Vec<(Token, ClientEnd)>;

struct Stage {
    dice: Dice,
    bus: Bus,
    loops: Vec<(LoopState<ServerEnd>, Links)>,
    people: Vec<Person>,
    published: Vec<(EventId, &'static str, &'static str)>,
    clock: u64,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let bus =
            Bus::builder().shards(dice.pick(&[1, 2, 3, 8])).capacity(4096).build().expect("it can be made");
        let config = ServerConfig {
            max_lag_events: 100_000,
            max_lag_bytes: 1 << 30,
            write_budget_bytes: dice.pick(&[1, 1000, 256 << 10]),
            share_pages_bytes: seed.is_multiple_of(2).then_some(1),
            ..ServerConfig::default()
        };
        let count = 1 + dice.below(3) as usize;
        let shared = Arc::new(Shared::new(bus.clone(), config, count));
        shared.workers.work_inline();
        let make = |number| {
            let reader = shared.bus.reader(|| ());
            (LoopState::new(Arc::clone(&shared), reader, 1, number), Vec::new())
        };
        let loops = (0..count).map(make).collect();
        Self { dice, bus, loops, people: Vec::new(), published: Vec::new(), clock: 0 }
    }

    /// Connects a client to one of the loops.
    fn link(&mut self) -> ClientEnd {
        let (room, piece) = (self.dice.pick(&[1, 100, 4000, 60_000]), self.dice.pick(&[1, 20, 5000]));
        let wire_dice = Dice::new(self.dice.below(u64::MAX));
        let (server, end) = wire(&self.bus, wire_dice, room, piece);
        let at = self.dice.below(self.loops.len() as u64) as usize;
        let (core, links) = &mut self.loops[at];
        links.push((core.admit(server).expect("there is room"), end.clone()));
        end
    }

    fn welcome(&mut self) {
        let end = self.link();
        let wish = match self.dice.below(3) {
            0 => ClientInterest::All,
            1 => ClientInterest::Kind(self.dice.pick(&KINDS)),
            _ => ClientInterest::Stream(self.dice.pick(&STREAMS)),
        };
        let is_sse = self.dice.one_in(2);
        let inbox = Inbox::default();
        let mut one =
            Person { is_sse, wish, end, inbox, has_head: false, place: None, got: Vec::new(), cuts: 0 };
        one.ask(&mut self.dice);
        self.people.push(one);
    }

    /// Cuts a client's connection at any byte, and reconnects the client immediately.
    fn cut(&mut self, at: usize) {
        self.people[at].end.abort();
        let end = self.link();
        let one = &mut self.people[at];
        (one.end, one.inbox, one.has_head) = (end, Inbox::default(), false);
        one.cuts += 1;
        one.ask(&mut self.dice);
    }

    fn publish(&mut self, count: usize) {
        for _ in 0..count {
            let (kind, stream) = (self.dice.pick(&KINDS), self.dice.pick(&STREAMS));
            let pad = "p".repeat(super::pad(&mut self.dice));
            let event = Event::builder(kind).source(self.dice.pick(&SOURCES)).stream(stream);
            let event = event.json(format!(r#"{{"pad":"{pad}"}}"#)).build().expect("valid");
            let id = self.bus.publish(event).id.expect("an open bus");
            self.published.push((id, kind, stream));
        }
    }

    /// Advances time, the network and the loops. Returns whether anything moved.
    fn go_on(&mut self, all: bool) -> bool {
        self.clock += self.dice.below(50_000);
        let (tick, now) = (self.clock / 1000 / TICK_MS, Timestamp(self.clock as i64 + 1_000_000_000_000));
        for (core, links) in &mut self.loops {
            core.wake(tick, now);
            let read_up_to: Rc<[u64]> = core.audit().events_read.into();
            for (token, end) in &*links {
                end.record_reader(&read_up_to);
                if let Some((readable, writable)) = end.take_readiness() {
                    if readable && end.is_over() {
                        core.record_end(*token);
                    }
                    core.ready(*token, readable, writable);
                }
            }
            links.retain(|(_, end)| !end.is_closed());
            core.turn();
        }
        // A loop that reads single bytes, or has spent its turn's budget, continues without a wake-up.
        let mut moved = self.loops.iter().any(|(core, _)| core.has_work());
        for at in 0..self.people.len() {
            if all || self.dice.one_in(2) {
                let one = &mut self.people[at];
                moved |= one.end.is_moving();
                one.end.carry(all);
                let most = if all { usize::MAX } else { self.dice.up_to(3000) };
                moved |= one.read(most, &mut self.dice);
            }
        }
        moved
    }

    fn run(mut self) -> (usize, usize) {
        for _ in 0..4 {
            self.welcome();
        }
        // Each client has a position before the first event is published, so it must get every wanted event.
        for _ in 0..200 {
            self.people.iter().for_each(|one| one.end.set_room(60_000));
            self.go_on(true);
        }
        assert!(self.people.iter().all(|one| one.place.is_some()), "a client got no position");
        for _ in 0..300 {
            if self.dice.one_in(2) {
                let count = self.dice.up_to(12);
                self.publish(count);
            }
            for at in 0..self.people.len() {
                match self.dice.below(40) {
                    0 => self.cut(at),
                    1 => {
                        let room = self.dice.pick(&[1, 100, 4000, 60_000]);
                        self.people[at].end.set_room(room);
                    }
                    2 if !self.people[at].is_sse => {
                        let key = self.dice.key();
                        self.people[at].end.send(&masked(1, br#"{"type":"ping"}"#, key));
                    }
                    _ => {}
                }
            }
            self.go_on(false);
        }
        self.people.iter().for_each(|one| one.end.set_room(60_000));
        let mut quiet = 0;
        for _ in 0..100_000 {
            quiet = if self.go_on(true) { 0 } else { quiet + 1 };
            if quiet > 20 {
                break;
            }
        }
        for one in &self.people {
            for shard in 0..self.bus.shards() as u16 {
                let its = |id: &&EventId| id.shard == shard;
                let got: Vec<_> = one.got.iter().filter(its).map(|id| id.sequence).collect();
                let wanted: Vec<_> = (self.published.iter())
                    .filter(|(_, kind, stream)| one.wish.wants(kind, stream))
                    .map(|(id, ..)| id)
                    .filter(its)
                    .map(|id| id.sequence)
                    .collect();
                let (wish, cuts) = (one.wish, one.cuts);
                assert!(got == wanted, "{wish:?} in shard {shard}, {cuts} cuts: {got:?}, not {wanted:?}");
            }
        }
        (self.people.iter().map(|one| one.cuts).sum(), self.published.len())
    }
}

impl Person {
    fn ask(&mut self, dice: &mut Dice) {
        if self.is_sse {
            let query = match self.wish {
                ClientInterest::All => String::new(),
                ClientInterest::Kind(kind) => format!("?type={kind}"),
                ClientInterest::Stream(stream) => format!("?stream={stream}"),
            };
            let place = self.place.as_ref();
            let header = place.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
            self.end.send(format!("GET /sse{query} HTTP/1.1\r\nHost: sim\r\n{header}\r\n").as_bytes());
            return;
        }
        let mut payload = match self.wish {
            ClientInterest::All => json!({}),
            ClientInterest::Kind(kind) => json!({"event_types": [kind]}),
            ClientInterest::Stream(stream) => json!({"stream_ids": [stream]}),
        };
        payload["since"] = json!(self.place);
        self.end.send(UPGRADE.as_bytes());
        let text = json!({"type": "subscribe", "payload": payload}).to_string();
        self.end.send(&masked(1, text.as_bytes(), dice.key()));
    }

    fn read(&mut self, most: usize, dice: &mut Dice) -> bool {
        let before = self.inbox.bytes.len();
        let end = self.end.take(most, &mut self.inbox.bytes);
        assert!(matches!(end, End::Open), "no client is disconnected: {end:?}");
        let any = self.inbox.bytes.len() > before;
        loop {
            if !self.has_head {
                let Some((head, _)) = self.inbox.head() else { return any };
                assert!(matches!(head.status, 101 | 200), "{head:?}");
                self.has_head = true;
            } else if self.is_sse {
                let Some((block, _)) = self.inbox.block() else { return any };
                assert!(block.event != "gap", "{block:?}");
                if !block.data.is_empty() {
                    self.take(&serde_json::from_str(&block.data).expect("data is JSON"));
                }
                self.place = block.id.or(self.place.take());
            } else {
                let Some((op, payload, _)) = self.inbox.frame() else { return any };
                if op == 9 {
                    self.end.send(&masked(10, &payload, dice.key()));
                } else if op == 1 {
                    let message: Value = serde_json::from_slice(&payload).expect("a message is JSON");
                    let place = match message["type"].as_str() {
                        Some("event") => {
                            self.take(&message["payload"]);
                            message["position"].as_str().or(message["payload"]["event_id"].as_str())
                        }
                        Some("pong") => message["payload"]["last_event_id"].as_str(),
                        // The reply gives the position of the first live event; the past follows the reply.
                        Some("ack") if self.place.is_some() => None,
                        Some("history_end") => {
                            assert_eq!(message["payload"]["complete"], true, "{message}");
                            None
                        }
                        Some("ack") => message["payload"]["last_event_id"].as_str(),
                        _ => panic!("{message}"),
                    };
                    self.place = place.map(str::to_owned).or(self.place.take());
                }
            }
        }
    }

    fn take(&mut self, event: &Value) {
        self.got.push(event["event_id"].as_str().and_then(|id| id.parse().ok()).expect("an id"));
    }
}

#[test]
fn over_several_shards_the_union_of_all_connections_of_a_client_is_exact() {
    let runs = super::number("FANWIRE_SIM_RUNS").unwrap_or(30);
    let (mut cuts, mut events) = (0, 0);
    for seed in 1..=runs {
        let (more_cuts, more_events) = Stage::new(seed).run();
        (cuts, events) = (cuts + more_cuts, events + more_events);
    }
    eprintln!("{cuts} cuts over {events} events in {runs} runs");
    assert!(cuts as u64 > runs && events as u64 > runs * 100);
}
