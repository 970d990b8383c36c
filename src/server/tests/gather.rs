//! Events that wait for the rest of a burst, and requests to resume after an event that the loop has not read.

use super::{UPGRADE, Wire, World, listens, masked, text};
use crate::event::{Event, Timestamp};
use crate::server::config::ServerConfig;

/// Connects a WebSocket client.
fn socket(world: &mut World) -> (Wire, u64) {
    let (wire, token) = world.connect(&String::from_utf8_lossy(UPGRADE));
    world.turn();
    text(&wire);
    (wire, token)
}

/// Gives the server publications that it does not acknowledge.
fn sends(wire: &Wire, count: usize) {
    let message = masked(1, br#"{"type":"publish","ack":false,"payload":{"type":"a.b","payload":{"n":1}}}"#);
    wire.with(|ends| (0..count).for_each(|_| ends.to_server.extend(&message)));
}

/// Runs one turn at this time, and returns the number of events that the listener received.
fn events_at(world: &mut World, listener: &Wire, micros: i64) -> usize {
    world.core.wake(world.tick, Timestamp(micros));
    world.core.turn();
    text(listener).matches("data: {").count()
}

/// A burst of 200 took two turns, and each ended with a write to every receiver. One of 500 was two writes, because at most 256
/// events waited.
#[test]
fn a_burst_that_takes_several_turns_is_one_write_for_each_receiver() {
    let mut world = World::new(ServerConfig::default());
    let listeners: Vec<Wire> = (0..5).map(|_| listens(&mut world, "a.b").0).collect();
    let (publisher, token) = socket(&mut world);
    let (turns, writes) = (world.shared.metrics.turns.get(), world.shared.metrics.writes.get());
    sends(&publisher, 500);
    world.core.ready(token, true, false);
    world.turn();
    assert!(world.shared.metrics.turns.get() - turns > 1, "the burst fits in one turn");
    assert_eq!(world.shared.metrics.writes.get() - writes, listeners.len() as u64);
    for listener in &listeners {
        assert_eq!(text(listener).matches("data: {").count(), 500);
    }
}

/// A batch of 500 in one request was two writes to every receiver.
#[test]
fn a_batch_that_takes_several_turns_is_one_write_for_each_receiver() {
    let mut world = World::new(ServerConfig::default());
    let listeners: Vec<Wire> = (0..5).map(|_| listens(&mut world, "a.b").0).collect();
    let writes = world.shared.metrics.writes.get();
    let lines = "{\"type\":\"a.b\"}\n".repeat(500);
    let (publisher, _) = world.connect(&format!(
        "POST /publish HTTP/1.1\r\nHost: t\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{lines}",
        lines.len()
    ));
    world.turn();
    assert!(text(&publisher).contains(r#""accepted":500"#));
    // One more is the response.
    assert_eq!(world.shared.metrics.writes.get() - writes, listeners.len() as u64 + 1);
    for listener in &listeners {
        assert_eq!(text(listener).matches("data: {").count(), 500);
    }
}

/// A publisher that never stops delays no event for longer than the limits.
#[test]
fn a_burst_waits_for_2_ms_and_as_many_events_as_feeds_retain_at_most() {
    for (max_lag_events, most) in [(1_000, 1_000), (600, 600)] {
        waits_at_most(ServerConfig { max_lag_events, ..ServerConfig::default() }, most);
    }
}

/// Floods a server with publications, of which at most `most` may wait.
fn waits_at_most(config: ServerConfig, most: u64) {
    let mut world = World::new(config);
    let (listener, _) = listens(&mut world, "a.b");
    let (publisher, token) = socket(&mut world);
    sends(&publisher, 10_000);
    world.core.ready(token, true, false);
    // Time stands still, so the number of events decides.
    let (mut before, mut waits) = (0, 0);
    for _ in 0..20 {
        let came = events_at(&mut world, &listener, 1_000_000);
        let published = world.shared.bus.head(0);
        waits += usize::from(came == 0);
        before += came as u64;
        assert!(published - before < most, "{published} published, {before} delivered");
    }
    assert!(waits > 0, "nothing waits");
    // The next events wait, until time decides.
    while events_at(&mut world, &listener, 1_000_000) > 0 {}
    assert!(events_at(&mut world, &listener, 1_002_000) > 0);
    // A clock that is set back ends the wait too.
    while events_at(&mut world, &listener, 1_002_000) > 0 {}
    assert!(events_at(&mut world, &listener, 5) > 0);
}

/// A subscription that is made while events wait to be written begins after them, and its reply stands before the events that
/// come later.
#[test]
fn replies_and_subscriptions_have_their_place_among_events_that_wait() {
    let mut world = World::new(ServerConfig::default());
    let (publisher, token) = socket(&mut world);
    let (other, other_token) = socket(&mut world);
    publisher.with(|ends| {
        ends.to_server.extend(masked(1, br#"{"type":"subscribe","payload":{"subscription_id":"s"}}"#));
    });
    world.core.ready(token, true, false);
    world.turn();
    text(&publisher);
    sends(&publisher, 250);
    world.core.ready(token, true, false);
    world.core.turn();
    world.core.wake(world.tick, Timestamp(0));
    let published = world.shared.bus.head(0);
    assert!(published > 0 && published < 250, "{published}");
    other.with(|ends| {
        ends.to_server.extend(masked(1, br#"{"type":"subscribe","payload":{"subscription_id":"t"}}"#));
    });
    world.core.ready(other_token, true, false);
    world.turn();
    let (first, second) = (text(&publisher), text(&other));
    assert_eq!(first.matches(r#""event_type":"a.b""#).count(), 250);
    assert_eq!(second.matches(r#""event_type":"a.b""#).count() as u64, 250 - published, "{second}");
    let at = |text: &str, what: &str| text.find(what);
    assert!(at(&second, r#""type":"ack""#) < at(&second, r#""event_type":"a.b""#), "{second}");
}

/// The client got a gap of unknown size, and the events before its id a second time, where another loop had read more.
#[test]
fn a_resume_after_an_event_that_the_loop_has_not_read_waits_for_the_loop() {
    let publish = |world: &World| {
        world.shared.bus.publish(Event::builder("a.b").build().expect("valid")).id.expect("it has an id")
    };
    let mut world = World::new(ServerConfig::default());
    let (client, token) = socket(&mut world);
    publish(&world);
    // The loop's turn has begun before these.
    world.turn();
    let ids: Vec<_> = (0..3).map(|_| publish(&world)).collect();
    let subscribe =
        format!(r#"{{"type":"subscribe","payload":{{"subscription_id":"s","since":"{}"}}}}"#, ids[1]);
    let refill = format!(r#"{{"type":"refill","payload":{{"since":"{}"}}}}"#, ids[2]);
    client.with(|ends| {
        ends.to_server.extend(masked(1, subscribe.as_bytes()));
        ends.to_server.extend(masked(1, refill.as_bytes()));
        ends.to_server.extend(masked(1, br#"{"type":"ping"}"#));
    });
    world.core.ready(token, true, false);
    let early = text(&client);
    assert!(!early.contains("ack") && !early.contains("pong"), "{early}");
    world.turn();
    publish(&world);
    world.turn();
    let got = text(&client);
    assert!(!got.contains(r#""type":"gap""#), "{got}");
    assert_eq!(got.matches(r#""event_type":"a.b""#).count(), 2, "{got}");
    assert!(got.find("ack") < got.find("pong"), "{got}");

    // An event stream.
    publish(&world);
    let id = publish(&world);
    let (stream, _) = world.connect(&format!("GET /sse HTTP/1.1\r\nHost: t\r\nLast-Event-ID: {id}\r\n\r\n"));
    world.turn();
    publish(&world);
    world.turn();
    let got = text(&stream);
    assert!(!got.contains("event: gap"), "{got}");
    assert_eq!(got.matches("data: {").count(), 1, "{got}");
}

/// A client that falls behind while events wait reads on from the first of them.
#[test]
fn a_client_that_catches_up_begins_before_the_first_event_that_waits() {
    let mut world = World::new(ServerConfig { max_lag_events: 4, ..ServerConfig::default() });
    let (reader, reader_token) = socket(&mut world);
    let subscribe = br#"{"type":"subscribe","payload":{"subscription_id":"s","on_lag":"catch_up"}}"#;
    reader.with(|ends| ends.to_server.extend(masked(1, subscribe)));
    world.core.ready(reader_token, true, false);
    world.turn();
    assert!(text(&reader).contains("ack"));
    reader.with(|ends| ends.room = 3_000);
    let (publisher, token) = socket(&mut world);
    let pad = "p".repeat(5_000);
    publisher.with(|ends| {
        for n in 0..40 {
            let event = format!(r#"{{"type":"a.b","payload":{{"n":{n},"pad":"{pad}"}}}}"#);
            let message = format!(r#"{{"type":"publish","ack":false,"payload":{event}}}"#);
            ends.to_server.extend(masked(1, message.as_bytes()));
        }
    });
    world.core.ready(token, true, false);
    let (mut got, mut waits) = (String::new(), 0);
    while world.shared.bus.head(0) < 40 {
        let before = world.shared.bus.head(0);
        world.core.turn();
        world.core.wake(world.tick, Timestamp(0));
        let came = text(&reader);
        waits += u32::from(came.is_empty() && world.shared.bus.head(0) > before);
        got += &came;
    }
    assert!(waits > 0, "nothing waited");
    world.turn();
    got += &text(&reader);
    for _ in 0..200 {
        reader.with(|ends| ends.room = 3_000);
        world.core.ready(reader_token, false, true);
        world.turn();
        got += &text(&reader);
    }
    assert!(!got.contains(r#""type":"gap""#));
    for n in 0..40 {
        assert_eq!(got.matches(&format!(r#""n":{n},"#)).count(), 1, "event {n}");
    }
}

/// A pong confirms all events before it.
#[test]
fn a_reply_waits_for_the_events_that_a_refill_delivers_again() {
    let mut world = World::new(ServerConfig::default());
    let (client, token) = socket(&mut world);
    let ask = |message: &[u8]| client.with(|ends| ends.to_server.extend(masked(1, message)));
    ask(br#"{"type":"subscribe","payload":{"subscription_id":"s"}}"#);
    world.core.ready(token, true, false);
    world.turn();
    let pad = "p".repeat(5_000);
    let publish = |world: &World, n: u32| {
        let event = Event::builder("a.b").payload(&serde_json::json!({"n": n, "pad": pad}));
        let event = event.build().expect("valid");
        world.shared.bus.publish(event).id.expect("it has an id")
    };
    let first = publish(&world, 0);
    world.turn();
    assert!(text(&client).contains("ack"));
    client.with(|ends| ends.room = 1_000);
    for n in 1..=5 {
        publish(&world, n);
    }
    world.turn();
    ask(br#"{"type":"ping"}"#);
    ask(format!(r#"{{"type":"refill","payload":{{"since":"{first}"}}}}"#).as_bytes());
    world.core.ready(token, true, false);
    let mut got = String::new();
    for _ in 0..100 {
        world.turn();
        got += &text(&client);
        client.with(|ends| ends.room = 3_000);
        world.core.ready(token, false, true);
    }
    let last = got.find(r#""n":5,"#).expect("it is delivered again");
    assert_eq!(got.matches(r#""n":5,"#).count(), 1);
    assert!(got.find("pong").expect("an answer") > last, "{got}");
}
