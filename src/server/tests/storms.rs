//! Tests storms: the share of a turn that thousands of new clients take.

use super::*;
use crate::server::limits::budget;

impl World {
    /// Connects a client that has sent the first bytes of a TLS handshake.
    fn connect_by_tls(&mut self) -> (Wire, u64) {
        let wire = Wire::default();
        let token = self.core.admit(wire.clone()).expect("there is room");
        wire.with(|ends| {
            ends.room = usize::MAX;
            ends.awaits_handshake = true;
            ends.to_server.extend(b"hello");
        });
        self.core.ready(token, true, true);
        (wire, token)
    }

    /// Runs one turn at this tick.
    fn one_turn(&mut self) {
        self.core.wake(self.tick, Timestamp(0));
        self.core.turn();
    }

    fn handshakes(&self) -> u64 {
        self.shared.metrics.tls_handshakes.get()
    }
}

#[test]
fn a_turn_begins_few_handshakes_in_order_and_serves_the_others() {
    let mut world = World::new(ServerConfig::default());
    let (reader, _) = world.connect("GET /sse?event_name=message HTTP/1.1\r\nHost: t\r\n\r\n");
    let (asker, asking) = world.connect("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    let newcomers: Vec<_> = (0..1000).map(|_| world.connect_by_tls().0).collect();
    assert_eq!(world.handshakes(), 0, "reading waits for the turn's end");
    text(&reader);
    text(&asker);
    let mut turns = 0;
    while world.core.has_work() {
        let before = world.handshakes();
        world.publish(1);
        asker.with(|ends| ends.to_server.extend(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"));
        world.core.ready(asking, true, false);
        world.one_turn();
        turns += 1;
        let begun = world.handshakes() - before;
        assert!(begun <= u64::from(budget::HANDSHAKES_A_TURN), "{begun} handshakes in one turn");
        assert_eq!(text(&reader).matches("data: {").count(), 1, "an event waited for handshakes");
        assert!(text(&asker).starts_with("HTTP/1.1 200"), "a request waited for handshakes");
        let done: Vec<bool> = newcomers.iter().map(|wire| !wire.awaits_handshake()).collect();
        assert!(done.is_sorted_by(|first, second| first >= second), "they are served in order");
    }
    assert_eq!((world.handshakes(), turns), (1000, 1000 / u64::from(budget::HANDSHAKES_A_TURN)));
}

#[test]
fn a_client_that_waits_for_its_handshake_does_not_time_out() {
    let mut world = World::new(ServerConfig::default());
    (0..500).for_each(|_| drop(world.connect_by_tls()));
    // One turn in each tick: the last handshake begins after 25 s, and the time limit is 5 s.
    while world.core.has_work() {
        world.tick += 1;
        world.one_turn();
    }
    assert_eq!(world.handshakes(), 500);
}

#[test]
fn requests_beyond_the_budget_of_a_turn_are_served_in_order_in_the_next_turns() {
    let mut world = World::new(ServerConfig::default());
    let request = "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n";
    let clients: Vec<_> = (0..2000).map(|_| world.connect(request).0).collect();
    let mut turns = 0;
    while world.core.has_work() {
        world.one_turn();
        turns += 1;
        let answered: Vec<bool> =
            clients.iter().map(|wire| wire.with(|ends| !ends.to_client.is_empty())).collect();
        assert!(answered.is_sorted_by(|first, second| first >= second), "they are served in order");
    }
    assert!(turns > 10, "{turns} turns");
    assert!(clients.iter().all(|wire| text(wire).starts_with("HTTP/1.1 200")));
}

#[test]
fn a_short_read_is_the_last_one_until_more_arrives() {
    let mut world = World::new(ServerConfig::default());
    let (wire, token) = world.connect("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(text(&wire).starts_with("HTTP/1.1 200"));
    world.turn();
    assert_eq!(wire.with(|ends| std::mem::take(&mut ends.reads)), 1);
    // The last bytes and the end come together: both are read.
    wire.with(|ends| {
        ends.to_server.extend(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
        ends.fin = true;
    });
    world.core.record_end(token);
    world.core.ready(token, true, false);
    assert!(text(&wire).starts_with("HTTP/1.1 200"));
    assert_eq!(wire.with(|ends| ends.reads), 2);
    assert!(world.core.is_empty(), "the connection is gone");
}

/// A server with many idle clients does little more than to write their heartbeats.
#[test]
fn the_heartbeats_of_idle_clients_leave_nothing_in_memory_and_cause_no_report() {
    let mut world = World::new(ServerConfig::default());
    let upgrade = String::from_utf8_lossy(UPGRADE).into_owned();
    let clients: Vec<_> = (0..100).map(|_| world.connect(&upgrade).0).collect();
    // The reports that the newcomers cause.
    (0..30).for_each(|_| world.after(1));
    for wire in &clients {
        text(wire);
    }
    let (writes, mut idle) = (world.shared.metrics.writes.get(), 0);
    while clients.iter().any(|wire| wire.with(|ends| ends.to_client.is_empty())) && idle < 1000 {
        world.after(1);
        idle += 1;
    }
    let pings = world.shared.metrics.writes.get() - writes;
    assert_eq!(pings, clients.len() as u64);
    let ping = [0x89, 0];
    assert!(clients.iter().all(|wire| wire.with(|ends| ends.to_client == ping)));
    assert!(world.core.ticks_to_timer().is_some_and(|ticks| ticks > 1), "a report is due");
}

#[test]
fn a_heartbeat_that_a_socket_takes_in_part_is_completed() {
    let mut world = World::new(ServerConfig::default());
    let (wire, token) = world.connect(&String::from_utf8_lossy(UPGRADE));
    text(&wire);
    wire.with(|ends| ends.room = 1);
    while wire.with(|ends| ends.to_client.is_empty()) {
        world.after(1);
        assert!(world.tick < 1000, "no heartbeat came");
    }
    wire.with(|ends| ends.room = usize::MAX);
    world.core.ready(token, false, true);
    world.turn();
    assert_eq!(wire.with(|ends| ends.to_client.clone()), [0x89, 0]);
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n";

/// Publishes an event of the type `a.b`.
const PUBLISH: &str = "POST /publish HTTP/1.1\r\nHost: t\r\nContent-Length: 14\r\n\r\n{\"type\":\"a.b\"}";

/// Returns the number of clients that have received something.
fn answered(clients: &[Wire]) -> usize {
    clients.iter().filter(|wire| wire.with(|ends| !ends.to_client.is_empty())).count()
}

impl World {
    /// Connects a client that has made two requests, so it is no newcomer.
    fn connect_established(&mut self) -> (Wire, u64) {
        let (wire, token) = self.connect(HEALTH);
        wire.with(|ends| ends.to_server.extend(HEALTH.as_bytes()));
        self.core.ready(token, true, false);
        self.turn();
        assert_eq!(text(&wire).matches("HTTP/1.1 200").count(), 2);
        (wire, token)
    }
}

#[test]
fn a_publisher_waits_for_no_newcomer() {
    let mut world = World::new(ServerConfig::default());
    let (reader, _) = listens(&mut world, "a.b");
    let (publisher, token) = world.connect_established();
    let newcomers: Vec<Wire> = (0..2000).map(|_| world.connect(HEALTH).0).collect();
    let mut turns = 0;
    while answered(&newcomers) < newcomers.len() {
        let before = answered(&newcomers);
        publisher.with(|ends| ends.to_server.extend(PUBLISH.as_bytes()));
        world.core.wake(world.tick, Timestamp(0));
        world.core.ready(token, true, false);
        world.core.turn();
        turns += 1;
        assert!(text(&publisher).starts_with("HTTP/1.1 200"), "the publisher waited");
        assert_eq!(text(&reader).matches("data: {").count(), 1, "the event waited");
        let served = answered(&newcomers) - before;
        assert!((1..50).contains(&served), "{served} newcomers in one turn");
        assert!(answered(&newcomers[before..]) == served, "they are served in order");
    }
    assert!(turns > 40, "{turns} turns");
}

#[test]
fn an_event_is_delivered_before_newcomers_are_served() {
    let mut world = World::new(ServerConfig::default());
    let (publisher, token) = world.connect_established();
    (0..100).for_each(|_| drop(world.connect(HEALTH)));
    let (late, _) = world.connect("GET /sse?type=a.b&event_name=message HTTP/1.1\r\nHost: t\r\n\r\n");
    let begun = || late.with(|ends| !ends.to_client.is_empty());
    assert!(!begun(), "the newcomers' part of the turn is not used up");
    while !begun() {
        publisher.with(|ends| ends.to_server.extend(PUBLISH.as_bytes()));
        world.core.wake(world.tick, Timestamp(0));
        world.core.ready(token, true, false);
        world.core.turn();
        assert!(text(&publisher).starts_with("HTTP/1.1 200"));
        let seen = late.with(|ends| String::from_utf8_lossy(&ends.to_client).into_owned());
        assert!(!seen.contains("data: {"), "published before this stream began: {seen}");
    }
}

#[test]
fn a_flood_of_other_clients_leaves_newcomers_their_part_of_each_turn() {
    let mut world = World::new(ServerConfig::default());
    let flood: Vec<(Wire, u64)> = (0..50).map(|_| world.connect_established()).collect();
    for (wire, token) in &flood {
        wire.with(|ends| ends.to_server.extend(HEALTH.repeat(500).as_bytes()));
        world.core.ready(*token, true, false);
    }
    let newcomers: Vec<Wire> = (0..200).map(|_| world.connect(HEALTH).0).collect();
    while answered(&newcomers) < newcomers.len() {
        let before = answered(&newcomers);
        world.one_turn();
        assert!(answered(&newcomers) > before, "no newcomer was served in a turn");
    }
    let served: usize = flood.iter().map(|(wire, _)| text(wire).matches("HTTP/1.1 200").count()).sum();
    assert!(
        (1..50 * 500).contains(&served),
        "{served} requests of the flood: it has ended before, or was not served"
    );
}

#[test]
fn a_newcomer_that_waits_for_others_does_not_time_out() {
    let mut world = World::new(ServerConfig::default());
    let newcomers: Vec<Wire> = (0..3000).map(|_| world.connect(HEALTH).0).collect();
    // One turn in each tick: the last request is read after more than the 5 s in which it must come.
    while world.core.has_work() {
        world.tick += 1;
        world.one_turn();
    }
    assert!(world.tick > 60, "{} ticks", world.tick);
    assert!(newcomers.iter().all(|wire| text(wire).starts_with("HTTP/1.1 200")));
}
