//! The notice of a purge, among the pending events of clients that fall behind, refill, or move to another process.

use super::{UPGRADE, Wire, World, masked, text};
use crate::event::{Event, EventId, Timestamp};
use crate::kept::{LogName, RetainBy, RetainConfig, RetainRule};
use crate::server::config::ServerConfig;
use crate::server::reactor::LoopState;
use crate::sync::Arc;

/// Returns a server that keeps runs in logs, and the newest two events for clients that lag.
fn keeping() -> World {
    let rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("valid");
    let retain = RetainConfig { rules: vec![rule], ..RetainConfig::default() };
    World::new(ServerConfig { retain, max_lag_events: 2, ..ServerConfig::default() })
}

impl World {
    /// Publishes an event of the run.
    fn publish_token(&self, n: u32) -> EventId {
        let event = Event::builder("token").stream("run-1").timestamp(Timestamp(1_000_000));
        let event = event.json(format!(r#"{{"n":{n}}}"#)).build().expect("valid");
        self.shared.bus.publish(event).id.expect("it has an id")
    }

    /// Publishes events of the run, which the loop reads one by one.
    fn deliver_tokens(&mut self, numbers: std::ops::RangeInclusive<u32>) {
        for n in numbers {
            self.publish_token(n);
            self.turn();
        }
    }

    /// Purges the run, as another loop does.
    fn purge_run(&self) {
        let run = LogName::new(RetainBy::Stream, "run-1");
        let purged = self.shared.kept.purge(&[run], &[], Timestamp(0)).expect("nothing is under way");
        assert_eq!(purged.logs, 1, "the loop has recorded no event of the run");
    }

    /// Connects to the event stream of the run.
    fn follow_run(&mut self, query: &str) -> (Wire, u64) {
        let request = format!("GET /sse?stream=run-1&on_lag=catch_up{query} HTTP/1.1\r\nHost: t\r\n\r\n");
        let (wire, token) = self.connect(&request);
        self.turn();
        (wire, token)
    }

    /// Returns everything that is pending for a client, as fast as it can read.
    fn read_on(&mut self, wire: &Wire, token: u64) -> String {
        wire.with(|ends| ends.room = usize::MAX);
        self.core.ready(token, false, true);
        self.turn();
        text(wire)
    }
}

/// Returns the numbers of events and 0 for each gap, in the order of their arrival.
fn items(got: &str) -> Vec<u32> {
    let blocks = got.split("\n\n").filter(|block| block.contains("data: {"));
    let number = |block: &str| {
        let (_, rest) = block.split_once(r#""n":"#)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    blocks
        .map(|block| if block.contains("event: gap") { 0 } else { number(block).expect("a number") })
        .collect()
}

/// The batch before the notice is written whole, and nothing of the notice.
#[test]
fn a_client_that_falls_behind_at_the_notice_of_a_purge_gets_nothing_again() {
    let mut world = keeping();
    let (client, token) = world.follow_run("&from=start");
    text(&client);
    world.deliver_tokens(1..=1);
    let mut got = text(&client);
    client.with(|ends| ends.room = got.len());
    world.publish_token(2);
    world.purge_run();
    world.turn();
    got += &text(&client);
    assert_eq!(items(&got), [1, 2], "the socket takes the second event, and nothing else: {got}");
    world.deliver_tokens(3..=7);
    assert_eq!(world.shared.metrics.catch_ups.get(), 1, "it did not fall behind");
    got += &world.read_on(&client, token);
    assert_eq!(items(&got), [1, 2, 0, 3, 4, 5, 6, 7], "{got}");
}

/// The notice is the first frame of the client's feed: the events before it came from the past.
#[test]
fn the_notice_of_a_purge_does_not_move_a_client_back() {
    let mut world = keeping();
    world.deliver_tokens(1..=3);
    let (client, token) = world.follow_run("&from=start");
    let mut got = text(&client);
    assert_eq!(items(&got), [1, 2, 3], "{got}");
    client.with(|ends| ends.room = 1);
    world.purge_run();
    world.turn();
    world.deliver_tokens(4..=8);
    assert_eq!(world.shared.metrics.catch_ups.get(), 1, "it did not fall behind");
    got += &world.read_on(&client, token);
    assert_eq!(items(&got), [1, 2, 3, 0, 4, 5, 6, 7, 8], "{got}");
}

#[test]
fn a_refill_keeps_the_notice_of_a_purge_that_is_pending() {
    let mut world = keeping();
    let (client, token) = world.connect(&String::from_utf8_lossy(UPGRADE));
    let ask = |message: &str| client.with(|ends| ends.to_server.extend(masked(1, message.as_bytes())));
    ask(r#"{"type":"subscribe","payload":{"subscription_id":"s","stream_ids":["run-1"]}}"#);
    world.core.ready(token, true, false);
    world.turn();
    let first = world.publish_token(1);
    world.turn();
    let got = text(&client);
    assert!(got.contains("ack") && got.contains(r#""n":1"#), "{got}");
    client.with(|ends| ends.room = 0);
    world.purge_run();
    world.turn();
    world.publish_token(2);
    ask(&format!(r#"{{"type":"refill","payload":{{"since":"{first}"}}}}"#));
    world.core.ready(token, true, false);
    let got = world.read_on(&client, token);
    assert_eq!(got.matches(r#""type":"gap""#).count(), 1, "{got}");
    assert_eq!(got.matches(r#""n":2"#).count(), 1, "{got}");
    assert!(got.find(r#""type":"gap""#) < got.find(r#""n":2"#), "{got}");
}

/// The successor reads the purge as a part of the past, or has a store without the log.
#[test]
fn a_client_is_told_of_a_purge_before_another_process_takes_it_over() {
    let mut world = keeping();
    let (client, _) = world.follow_run("");
    world.deliver_tokens(1..=1);
    text(&client);
    world.purge_run();
    let mut moved = Vec::new();
    let packed = world.core.pack(true, |socket, saved| moved.push((socket.clone(), saved)));
    assert_eq!(moved.len(), 1);
    world.core.release(packed);
    let shared = keeping().shared;
    let mut successor =
        World { core: LoopState::new(Arc::clone(&shared), shared.bus.reader(|| {}), 1, 0), shared, tick: 0 };
    for (socket, saved) in moved {
        let token = successor.core.unpack(socket, saved).expect("it may continue");
        successor.core.ready(token, false, true);
    }
    successor.publish_token(2);
    successor.turn();
    let got = text(&client);
    assert_eq!(items(&got), [0, 2], "{got}");
}

/// The successor would read on from the client's place, and not know of the purge.
#[test]
fn a_client_that_catches_up_over_a_purge_stays_where_it_is_told() {
    let mut world = keeping();
    let (client, token) = world.follow_run("");
    let mut got = text(&client);
    client.with(|ends| ends.room = 1);
    world.deliver_tokens(1..=5);
    assert_eq!(world.shared.metrics.catch_ups.get(), 1, "it did not fall behind");
    world.purge_run();
    let packed = world.core.pack(true, |_, _| panic!("it moves"));
    world.core.reclaim(packed);
    got += &world.read_on(&client, token);
    // The log from which it would have read the others is gone.
    assert_eq!(items(&got), [1, 0, 5, 0], "{got}");
}
