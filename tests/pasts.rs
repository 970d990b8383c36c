//! A past that is asked for beside subscriptions that are live: all of it that they did not bring, and no event twice on one
//! connection.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::service::{Kind, Service};
use support::ws::Ws;
use support::{Server, eventually, http};

/// Publishes numbers, even ones in stream `even`, odd ones in `odd`; the ids, by number.
fn publish(server: &Server, numbers: std::ops::Range<u64>) -> Vec<String> {
    let one = |n: u64| {
        let stream = if n.is_multiple_of(2) { "even" } else { "odd" };
        let event = json!({"type": "test.numbered", "stream_id": stream, "payload": {"n": n}});
        server.publish(event.to_string())["last_event_id"].as_str().expect("an id").to_owned()
    };
    numbers.map(one).collect()
}

fn subscribe(client: &mut Ws, payload: Value) {
    client.send(&json!({"type": "subscribe", "payload": payload}));
}

/// Numbers of the events up to the answer to a ping, acks passed over. A gap is a fault.
fn numbers(client: &mut Ws) -> Vec<u64> {
    client.send(&json!({"type": "ping", "message_id": "until here"}));
    let mut got = Vec::new();
    loop {
        let message = client.message();
        match message["type"].as_str() {
            Some("event") => got.push(message["payload"]["payload"]["n"].as_u64().expect("a number")),
            Some("ack") => {}
            Some("pong") => break,
            _ => panic!("neither an event nor an answer: {message}"),
        }
    }
    got
}

/// Numbers in order, whatever the shards.
fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

fn a_past_beside_live_ones(server: &Server) {
    let ids = publish(server, 0..10);
    // An accepted event is in the log; this node may not have read it yet, and it would then be live for who subscribes now.
    eventually("the node has read what was published", || {
        let mut reader = Ws::connect(server.addr);
        subscribe(&mut reader, json!({"history": 1000}));
        numbers(&mut reader).len() == 10
    });
    // Everything live, of which half has a past of its own.
    let mut client = Ws::subscribed(server.addr, json!({"subscription_id": "live"}));
    publish(server, 10..14);
    let mut live = Vec::new();
    eventually("what is live came", || {
        live.extend(numbers(&mut client));
        live.len() == 4
    });
    assert_eq!(sorted(live), [10, 11, 12, 13]);
    subscribe(&mut client, json!({"subscription_id": "past", "history": 1000, "stream_ids": ["even"]}));
    assert_eq!(numbers(&mut client), [0, 2, 4, 6, 8], "the past, and none of what was live");
    subscribe(&mut client, json!({"subscription_id": "again", "history": 1000, "stream_ids": ["even"]}));
    assert_eq!(numbers(&mut client), [0_u64; 0], "it has all of that");
    subscribe(&mut client, json!({"subscription_id": "all", "history": 1000}));
    assert_eq!(sorted(numbers(&mut client)), [1, 3, 5, 7, 9], "only what no other brought");
    publish(server, 14..16);
    let mut live = Vec::new();
    eventually("what is live came", || {
        live.extend(numbers(&mut client));
        live.len() == 2
    });
    assert_eq!(sorted(live), [14, 15], "once, however many want it");
    // By a place in place of a number of events. Another connection has got nothing yet.
    let mut client = Ws::subscribed(server.addr, json!({"subscription_id": "live", "stream_ids": ["even"]}));
    subscribe(&mut client, json!({"subscription_id": "since", "since": ids[5]}));
    let came = sorted(numbers(&mut client));
    assert!(came.ends_with(&[10, 11, 12, 13, 14, 15]), "{came:?}");
    assert_eq!(came.iter().collect::<std::collections::HashSet<_>>().len(), came.len(), "{came:?}");
    subscribe(&mut client, json!({"subscription_id": "before", "history": 1000, "stream_ids": ["odd"]}));
    assert_eq!(sorted([came, numbers(&mut client)].concat()).len(), {
        // Of the even ones those before the place stay unasked for; of the odd ones all have come now.
        let even_before = (0..=5).filter(|n| n % 2 == 0).count();
        16 - even_before
    });
    assert!(client.is_silent_for(Duration::from_millis(50)));
}

#[test]
fn on_one_shard() {
    a_past_beside_live_ones(&Server::start());
}

#[test]
fn on_several_shards() {
    a_past_beside_live_ones(&Server::with(&["--bus-shards", "4"]));
}

#[test]
fn over_redis() {
    let service = Service::start(Kind::Redis);
    let server = Server::with(&["--engine", &service.url()]);
    eventually("the node follows the log", || http::get(server.addr, "/readyz").status == 200);
    a_past_beside_live_ones(&server);
}

#[test]
fn a_limited_past_is_the_newest_that_no_other_brought() {
    let server = Server::start();
    publish(&server, 0..10);
    let mut client = Ws::subscribed(server.addr, json!({"subscription_id": "live", "stream_ids": ["even"]}));
    publish(&server, 10..14);
    assert_eq!(numbers(&mut client), [10, 12]);
    subscribe(&mut client, json!({"subscription_id": "past", "history": 5}));
    assert_eq!(numbers(&mut client), [7, 8, 9, 11, 13]);
    // Another that begins before that gets what is left.
    subscribe(&mut client, json!({"subscription_id": "more", "history": 3}));
    assert_eq!(numbers(&mut client), [4, 5, 6]);
    // One that goes in another's place brings nothing again.
    subscribe(&mut client, json!({"subscription_id": "more", "history": 1000}));
    assert_eq!(numbers(&mut client), [0, 1, 2, 3]);
}

#[test]
fn what_a_snapshot_brought_does_not_come_again() {
    let server = Server::start();
    let event = |key: &str, n: u64| {
        server.publish(
            json!({"type": "price", "entity": {"kind": "symbol", "id": key}, "payload": {"n": n}})
                .to_string(),
        );
    };
    (0..3).for_each(|n| event("a", n));
    event("b", 3);
    let mut client = Ws::connect(server.addr);
    subscribe(&mut client, json!({"subscription_id": "prices", "snapshot": true}));
    assert_eq!(sorted(numbers(&mut client)), [2, 3]);
    subscribe(&mut client, json!({"subscription_id": "past", "history": 100, "event_types": ["price"]}));
    let came = numbers(&mut client);
    assert!(!came.contains(&2) && !came.contains(&3), "{came:?}");
}
