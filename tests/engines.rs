//! Several nodes with one log, in a real Redis and a real NATS: all clients get the same order, no event is missed or
//! repeated, no matter which process dies.

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::proxy::Proxy;
use support::service::{Kind, Service};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, eventually, http};

fn node(service: &Service) -> Server {
    // Clients may lag far behind, because the test is about the log and the nodes.
    node_with(service, &["--max-lag-events", "1000000", "--max-lag-bytes", "1GiB"])
}

fn node_with(service: &Service, options: &[&str]) -> Server {
    let url = service.url();
    let mut all = vec!["--engine", &url];
    all.extend(options);
    let server = Server::with(&all);
    eventually("the node follows the log", || is_ready(&server));
    server
}

fn is_ready(server: &Server) -> bool {
    http::get(server.addr, "/readyz").status == 200
}

fn nodes(service: &Service, count: usize) -> Vec<Server> {
    (0..count).map(|_| node(service)).collect()
}

/// Publishes numbers through a node. Returns whether the node accepted them.
fn publish(node: SocketAddr, stream: usize, numbers: std::ops::Range<usize>) -> bool {
    let lines: String = numbers.map(|n| event(stream, n)).collect();
    http::post(node, "/publish", "application/x-ndjson", lines.as_bytes()).status == 200
}

fn event(stream: usize, n: usize) -> String {
    format!("{{\"type\":\"test.numbered\",\"stream_id\":\"s{stream}\",\"payload\":{{\"n\":{n}}}}}\n")
}

fn number(event: &Value) -> u64 {
    event["payload"]["n"].as_u64().unwrap_or_else(|| panic!("not numbered: {event}"))
}

fn id(event: &Value) -> String {
    event["event_id"].as_str().unwrap_or_else(|| panic!("no id: {event}")).to_owned()
}

/// Runs every test for each kind of log.
macro_rules! for_each_log {
    ($($name:ident)*) => {
        mod redis { $(#[test] fn $name() { super::$name(super::Kind::Redis); })* }
        mod nats { $(#[test] fn $name() { super::$name(super::Kind::Nats); })* }
    };
}

for_each_log! {
    three_nodes_give_all_clients_each_event_once_in_one_order
    clients_that_hop_between_nodes_miss_nothing
    clients_that_hop_between_nodes_with_several_shards_miss_nothing
    a_killed_node_loses_nothing_that_it_accepted
    a_killed_log_loses_nothing_that_was_accepted
    a_node_that_starts_later_has_the_past
    a_node_without_its_log_reports_it_and_refuses_in_time
    events_trimmed_by_the_log_are_a_gap
    a_client_that_came_before_its_node_reached_the_log_gets_a_gap
    a_revocation_holds_on_every_node_and_on_those_to_come
    answers_of_one_connection_keep_their_order
}

fn three_nodes_give_all_clients_each_event_once_in_one_order(kind: Kind) {
    const EVENTS: usize = 10_000;
    const STREAMS: usize = 50;
    const BATCH: usize = 10;
    let service = Service::start(kind);
    let nodes = nodes(&service, 3);
    // Each node has a hundred clients: some subscribe to everything, most to one stream.
    let mut all: Vec<Ws> = nodes.iter().map(|node| Ws::subscribed(node.addr, json!({}))).collect();
    let mut some: Vec<(usize, Ws)> = (0..297)
        .map(|n| (n % STREAMS, nodes[n % 3].addr))
        .map(|(stream, addr)| (stream, Ws::subscribed(addr, json!({"stream_ids": [format!("s{stream}")]}))))
        .collect();
    let accepted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let readers: Vec<_> = all
            .iter_mut()
            .map(|client| scope.spawn(move || (0..EVENTS).map(|_| client.event()).collect::<Vec<_>>()))
            .collect();
        for (at, node) in nodes.iter().enumerate() {
            let (accepted, node) = (&accepted, node.addr);
            scope.spawn(move || {
                // A stream's events are published through one node, one request after the other, so they have an order.
                for batch in 0..EVENTS / STREAMS / BATCH {
                    for stream in (0..STREAMS).filter(|stream| stream % 3 == at) {
                        assert!(publish(node, stream, batch * BATCH..(batch + 1) * BATCH));
                        accepted.fetch_add(BATCH, Ordering::Relaxed);
                    }
                }
            });
        }
        let orders: Vec<Vec<Value>> =
            readers.into_iter().map(|reader| reader.join().expect("read")).collect();
        let ids: Vec<Vec<String>> = orders.iter().map(|order| order.iter().map(id).collect()).collect();
        assert_eq!(ids[0].iter().collect::<HashSet<_>>().len(), EVENTS, "an id came twice");
        assert!(ids[0] == ids[1] && ids[1] == ids[2], "the nodes have different orders");
    });
    assert_eq!(accepted.into_inner(), EVENTS);
    for (stream, client) in &mut some {
        for n in 0..EVENTS / STREAMS {
            let event = client.event();
            assert_eq!((number(&event), &event["stream_id"]), (n as u64, &json!(format!("s{stream}"))));
        }
        assert!(client.is_silent_for(Duration::from_millis(1)));
    }
}

fn clients_that_hop_between_nodes_miss_nothing(kind: Kind) {
    const EVENTS: usize = 1500;
    let service = Service::start(kind);
    let nodes = nodes(&service, 3);
    let addrs: Vec<SocketAddr> = nodes.iter().map(|node| node.addr).collect();
    let connect = |at: usize, since: Option<&str>| match since {
        Some(since) => Ws::subscribed(addrs[at % 3], json!({"since": since})),
        None => Ws::subscribed(addrs[at % 3], json!({})),
    };
    let mut clients: Vec<Ws> = (0..6).map(|at| connect(at, None)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..EVENTS {
                assert!(publish(addrs[n % 3], 0, n..n + 1));
            }
            done.store(true, Ordering::Relaxed);
        });
        for (at, client) in clients.iter_mut().enumerate() {
            let connect = &connect;
            scope.spawn(move || {
                let mut stays = 1;
                for n in 0..EVENTS {
                    let event = client.event();
                    assert_eq!(number(&event), n as u64, "client {at}");
                    stays -= 1;
                    if stays == 0 {
                        stays = 1 + (n * 7 + at * 13) % 120;
                        // The client reconnects, like an event stream's client.
                        *client = connect(at + n + 1, Some(&id(&event)));
                    }
                }
            });
        }
    });
    assert!(done.into_inner());
    // Reads everything again over SSE.
    let mut first = Sse::open(nodes[0].addr, "?history=1500");
    let first = first.event();
    let mut stream =
        Sse::with(nodes[2].addr, "", &format!("Last-Event-ID: {}\r\n", first.id.expect("an id")));
    for n in 1..EVENTS {
        assert_eq!(number(&stream.event().json()), n as u64);
    }
}

fn clients_that_hop_between_nodes_with_several_shards_miss_nothing(kind: Kind) {
    const STREAMS: usize = 8;
    const EACH: usize = 150;
    let service = Service::start(kind);
    let options = ["--bus-shards", "4", "--loops", "2", "--max-lag-events", "1000000"];
    let nodes: Vec<Server> = (0..3).map(|_| node_with(&service, &options)).collect();
    let addrs: Vec<SocketAddr> = nodes.iter().map(|node| node.addr).collect();
    let connect = |at: usize, since: Option<&str>| match since {
        Some(since) => Ws::subscribed(addrs[at % 3], json!({"since": since, "event_types": ["test.*"]})),
        None => Ws::subscribed(addrs[at % 3], json!({"event_types": ["test.*"]})),
    };
    let mut clients: Vec<Ws> = (0..4).map(|at| connect(at, None)).collect();
    std::thread::scope(|scope| {
        for publisher in 0..2 {
            let addrs = &addrs;
            scope.spawn(move || {
                for n in 0..EACH {
                    for stream in (publisher..STREAMS).step_by(2) {
                        assert!(publish(addrs[(n + stream) % 3], stream, n..n + 1));
                    }
                }
            });
        }
        for (at, client) in clients.iter_mut().enumerate() {
            let connect = &connect;
            scope.spawn(move || {
                let mut next = std::collections::HashMap::new();
                let mut stays = 1;
                for count in 0..STREAMS * EACH {
                    let message = client.message();
                    assert_eq!(message["type"], "event", "client {at}: {message}");
                    let event = &message["payload"];
                    let expected = next.entry(event["stream_id"].to_string()).or_insert(0);
                    assert_eq!(number(event), *expected, "client {at}: {message}");
                    *expected += 1;
                    stays -= 1;
                    if stays == 0 {
                        stays = 1 + (count * 7 + at * 13) % 60;
                        *client = connect(at + count + 1, message["position"].as_str());
                    }
                }
                assert_eq!(next.len(), STREAMS);
            });
        }
    });
}

fn a_killed_node_loses_nothing_that_it_accepted(kind: Kind) {
    let service = Service::start(kind);
    let stays = node(&service);
    let dies = node(&service);
    let mut client = Ws::subscribed(dies.addr, json!({}));
    assert!(publish(dies.addr, 0, 0..20));
    let mut last = Value::Null;
    for n in 0..5 {
        last = client.event();
        assert_eq!(number(&last), n);
    }
    dies.signal("KILL");
    assert!(publish(stays.addr, 0, 20..30));
    let mut client = Ws::subscribed(stays.addr, json!({"since": id(&last)}));
    for n in 5..30 {
        assert_eq!(number(&client.event()), n);
    }
}

fn a_killed_log_loses_nothing_that_was_accepted(kind: Kind) {
    let mut service = Service::start(kind);
    let nodes = nodes(&service, 2);
    let mut clients: Vec<Ws> = nodes.iter().map(|node| Ws::subscribed(node.addr, json!({}))).collect();
    let addrs: Vec<SocketAddr> = nodes.iter().map(|node| node.addr).collect();
    let stop = AtomicBool::new(false);
    let accepted: Vec<usize> = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut accepted = Vec::new();
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                if publish(addrs[n % 2], 0, n..n + 1) {
                    accepted.push(n);
                }
                n += 1;
            }
            accepted
        });
        for _ in 0..2 {
            let before = nodes[0].metric("fanwire_engine_events_followed_total");
            eventually("events flow", || nodes[0].metric("fanwire_engine_events_followed_total") > before);
            service.kill();
            eventually("the node says that it is cut off", || !is_ready(&nodes[0]));
            service.resume();
            eventually("the nodes are back", || nodes.iter().all(is_ready));
        }
        let before = nodes[1].metric("fanwire_engine_events_appended_total");
        eventually("events flow again", || nodes[1].metric("fanwire_engine_events_appended_total") > before);
        stop.store(true, Ordering::Relaxed);
        publisher.join().expect("it published")
    });
    assert!(accepted.len() > 2);
    for client in &mut clients {
        let mut seen = Vec::new();
        while seen.last() != accepted.last() {
            seen.push(number(&client.event()) as usize);
        }
        let distinct: HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "an event came twice");
        // A refused event may still be in the log, if only the answer was lost.
        assert!(accepted.iter().all(|n| distinct.contains(n)), "an accepted event is missing");
        assert!(seen.is_sorted(), "out of order: {seen:?}");
    }
}

fn a_node_that_starts_later_has_the_past(kind: Kind) {
    let service = Service::start(kind);
    let first = node(&service);
    assert!(publish(first.addr, 0, 0..50));
    let mut client = Ws::subscribed(first.addr, json!({"history": 50}));
    let events: Vec<Value> = (0..50).map(|_| client.event()).collect();
    let second = node(&service);
    let mut client = Ws::subscribed(second.addr, json!({"since": id(&events[9])}));
    for event in &events[10..] {
        assert_eq!(client.event(), *event);
    }
}

fn a_node_without_its_log_reports_it_and_refuses_in_time(kind: Kind) {
    let mut service = Service::absent(kind);
    let url = service.url();
    let server = Server::with(&["--engine", &url, "--engine-accept-timeout", "300ms"]);
    let ready = http::get(server.addr, "/readyz");
    assert_eq!(ready.status, 503, "{ready:?}");
    let refused = http::post(server.addr, "/publish", "application/json", event(0, 0).as_bytes());
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.text().contains("nothing was accepted"), "{refused:?}");
    // A connection that has sent everything and waits ends, too.
    let mut half = Wire::connect(server.addr);
    half.send(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\n{\"type\":\"x\"}");
    half.half_close();
    assert_eq!(http::read_response(&mut half, deadline()).expect("an answer").status, 503);
    let mut client = Ws::connect(server.addr);
    let answer = client.ask(&json!({"type": "publish", "payload": {"type": "x"}}));
    assert_eq!(
        (&answer["type"], &answer["payload"]["code"]),
        (&json!("error"), &json!("engine_unreachable"))
    );
    service.resume();
    eventually("the node finds its log", || is_ready(&server));
    assert!(publish(server.addr, 0, 1..2));
    let mut client = Ws::subscribed(server.addr, json!({"history": 10}));
    assert_eq!(number(&client.event()), 1, "no refused event came");
}

fn events_trimmed_by_the_log_are_a_gap(kind: Kind) {
    let service = Service::start(kind);
    let url = service.url();
    let options = ["--engine", &url, "--engine-history", "100"];
    let first = Server::with(&options);
    eventually("it follows", || is_ready(&first));
    assert!(publish(first.addr, 0, 0..1));
    let mut client = Ws::subscribed(first.addr, json!({"history": 1}));
    let oldest = id(&client.event());
    assert!(publish(first.addr, 0, 1..5000));
    let second = Server::with(&options);
    eventually("it follows", || is_ready(&second));
    let mut client = Ws::subscribed(second.addr, json!({"since": oldest}));
    let gap = client.message();
    assert_eq!((&gap["type"], &gap["payload"]["recoverable"]), (&json!("gap"), &json!(false)), "{gap}");
    let missed = gap["payload"]["missed"].as_u64().unwrap_or_else(|| panic!("the log knows how many: {gap}"));
    for n in missed + 1..5000 {
        assert_eq!(number(&client.event()), n);
    }
}

/// Another node publishes more than a ring holds while this one can't reach the log.
fn a_client_that_came_before_its_node_reached_the_log_gets_a_gap(kind: Kind) {
    let service = Service::start(kind);
    let first = node(&service);
    let proxy = Proxy::to(service.addr);
    proxy.stall(true);
    let url = service.url().replace(&service.addr.to_string(), &proxy.addr.to_string());
    let second = Server::with(&["--engine", &url, "--bus-capacity", "256"]);
    let mut client = Ws::subscribed(second.addr, json!({}));
    let mut stream = Sse::open(second.addr, "?stream=s0&on_lag=catch_up");
    assert!(publish(first.addr, 0, 0..1000));
    proxy.stall(false);
    let gap = client.message();
    assert_eq!((&gap["type"], &gap["payload"]["missed"]), (&json!("gap"), &json!(null)), "{gap}");
    assert_eq!(stream.event().event.as_deref(), Some("gap"));
    // Without JetStream nothing is kept for a node that is away.
    let from = if kind == Kind::PlainNats { 1000 } else { 744 };
    eventually("the node follows the log", || is_ready(&second));
    assert!(publish(first.addr, 0, 1000..1001));
    for n in from..=1000 {
        assert_eq!(number(&client.event()), n);
        assert_eq!(number(&stream.event().json()), n);
    }
    let mut late = Ws::subscribed(second.addr, json!({}));
    assert!(publish(first.addr, 0, 1001..1002));
    assert_eq!(number(&late.event()), 1001);
}

#[test]
fn a_client_that_came_before_its_node_reached_plain_nats_gets_a_gap() {
    a_client_that_came_before_its_node_reached_the_log_gets_a_gap(Kind::PlainNats);
}

const SECRET: &str = "what-all-nodes-of-one-cluster-know-77c1";

fn post_as(node: &Server, path: &str, token: &str, body: &str) -> http::Response {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    http::exchange(node.addr, request.as_bytes())
}

fn a_revocation_holds_on_every_node_and_on_those_to_come(kind: Kind) {
    let service = Service::start(kind);
    let node = || node_with(&service, &["--auth-jwt-hs256-secret", SECRET]);
    let token = |options: &[&str]| support::token(SECRET, options);
    let (first, second) = (node(), node());
    let admin = token(&["--sub", "root", "--admin", "--publish"]);
    let revoke = |node: &Server, body: &str| {
        let answer = post_as(node, "/api/revoke", &admin, body);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    // Every round has another subject, so that each must be announced.
    for round in 0..10 {
        let sub = format!("user-{round}");
        let reader = token(&["--sub", &sub, "--stream", "*"]);
        let mut client = Ws::over(Wire::connect(second.addr), &format!("/ws?token={reader}"), "");
        assert_eq!(client.ask(&json!({"type": "subscribe"}))["type"], "ack");
        assert_eq!(post_as(&first, "/publish", &admin, r#"{"type":"before"}"#).status, 200);
        assert_eq!(client.event()["event_type"], "before");
        revoke(&first, &format!(r#"{{"sub":"{sub}"}}"#));
        if kind == Kind::Redis {
            // Every node applies the revocation before this event.
            assert_eq!(post_as(&first, "/publish", &admin, r#"{"type":"after"}"#).status, 200);
        }
        let last = client.message();
        assert_eq!(
            (&last["type"], &last["payload"]["code"]),
            (&json!("error"), &json!("token_revoked")),
            "{last}"
        );
        assert_eq!(client.closed().0, 1008);
    }
    let known = token(&["--sub", "user-3", "--stream", "*"]);
    let status = |node: &Server| http::get(node.addr, &format!("/sse?token={known}&type=none")).status;
    let third = node();
    assert_eq!(status(&third), 401, "a node that came later knows it too");
    revoke(&third, r#"{"sub":"user-3","lift":true}"#);
    let upgrade = support::ws::upgrade_request(&format!("/ws?token={known}"), "");
    eventually("it is lifted everywhere", || http::exchange(first.addr, upgrade.as_bytes()).status == 101);
}

fn answers_of_one_connection_keep_their_order(kind: Kind) {
    let service = Service::start(kind);
    let node = node(&service);
    let mut wire = Wire::connect(node.addr);
    let mut both = http::post_request("/publish", "application/json", br#"{"type":"x"}"#);
    both.extend_from_slice(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    for _ in 0..20 {
        wire.send(&both);
        let mut answer = || http::read_response(&mut wire, deadline()).expect("an answer").json();
        assert_eq!(answer()["accepted"], 1);
        assert_eq!(answer()["status"], "ok");
    }
}

#[test]
fn plain_nats_shares_events_and_keeps_nothing() {
    let service = Service::start(Kind::PlainNats);
    let nodes = nodes(&service, 2);
    let mut clients: Vec<Ws> = nodes.iter().map(|node| Ws::subscribed(node.addr, json!({}))).collect();
    for (at, node) in nodes.iter().enumerate() {
        assert!(publish(node.addr, 0, at * 10..at * 10 + 10));
        for client in &mut clients {
            for n in at * 10..at * 10 + 10 {
                assert_eq!(number(&client.event()), n as u64);
            }
        }
    }
    // On its own node a client resumes from the ring.
    let mut client = Ws::subscribed(nodes[0].addr, json!({"history": 5}));
    let event = client.event();
    let mut client = Ws::subscribed(nodes[0].addr, json!({"since": id(&event)}));
    assert_eq!(number(&client.event()), number(&event) + 1);
    // Another node does not know the position, and reports that.
    let mut client = Ws::subscribed(nodes[1].addr, json!({"since": id(&event)}));
    assert_eq!(client.message()["type"], "gap");
}

fn typed(kind: &str, n: usize) -> String {
    format!("{{\"type\":\"{kind}\",\"stream_id\":\"s{}\",\"payload\":{{\"n\":{n}}}}}\n", n % 3)
}

fn publish_lines(node: &Server, lines: &str) {
    let answer = http::post(node.addr, "/publish", "application/x-ndjson", lines.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn followed(node: &Server) -> u64 {
    node.metric("fanwire_engine_events_followed_total").unwrap_or(0.0) as u64
}

/// The node's subscription takes longer than the response to a stream that needs none.
#[test]
fn a_stream_begins_when_its_node_receives_what_it_wants() {
    let service = Service::start(Kind::PlainNats);
    let first = node(&service);
    let proxy = Proxy::to(service.addr);
    let url = format!("nats://{}", proxy.addr);
    let second = Server::with(&["--engine", &url, "--engine-by-interest"]);
    eventually("the node follows", || is_ready(&second));
    proxy.delay(Duration::from_millis(200));
    for round in 0..3 {
        let mut stream = Sse::open(second.addr, &format!("?stream=s{round}"));
        assert!(publish(first.addr, round, 7..8));
        assert_eq!(number(&stream.event().json()), 7);
    }
}

#[test]
fn a_node_subscribes_at_plain_nats_only_to_its_clients_interest() {
    let service = Service::start(Kind::PlainNats);
    // Clients may lag far behind.
    let with =
        |more: &[&'static str]| [&["--bus-shards", "2", "--max-lag-events", "1000000"][..], more].concat();
    let all = node_with(&service, &with(&[]));
    let some = node_with(&service, &with(&["--engine-by-interest"]));
    // From the ack on, the client gets what other nodes publish. Each round has a type that no client has subscribed to
    // before.
    for round in 0..30 {
        let kind = format!("round.{round}");
        let mut client = Ws::subscribed(some.addr, json!({"event_types": [kind]}));
        publish_lines(&all, &(typed("noise.loud", 0) + &typed(&kind, round)));
        assert_eq!(number(&client.event()), round as u64);
    }
    assert_eq!(followed(&some), 30, "no noise came");

    // Several subjects of one publisher, of which some include others: each event is delivered once, in the publisher's
    // order.
    let few: Vec<Ws> =
        (0..4).map(|n| Ws::subscribed(some.addr, json!({"event_types": [format!("t.{n}")]}))).collect();
    let mut wide = Ws::subscribed(some.addr, json!({"event_types": ["t.*"], "stream_ids": ["s1"]}));
    let mut list = Ws::subscribed(some.addr, json!({"event_types": ["t.0", "t.1", "t.2", "t.3"]}));
    let lines: String =
        (0..3000).map(|n| typed(&format!("t.{}", n % 5), n) + &typed("noise.loud", n)).collect();
    publish_lines(&all, &lines);
    let of_list = |n: &usize| n % 5 < 4;
    for stream in 0..3 {
        // A stream's events are in one shard, so they keep their order.
        let mut seen: Vec<usize> = Vec::new();
        if stream == 0 {
            let got: Vec<usize> = (0..3000).filter(of_list).map(|_| number(&list.event()) as usize).collect();
            for one in 0..3 {
                let numbers: Vec<usize> = got.iter().copied().filter(|n| n % 3 == one).collect();
                let wanted: Vec<usize> = (0..3000).filter(of_list).filter(|n| n % 3 == one).collect();
                assert_eq!(numbers, wanted, "stream {one}");
            }
        }
        if stream == 1 {
            while seen.len() < 1000 {
                seen.push(number(&wide.event()) as usize);
            }
            assert!(seen.iter().copied().eq((0..3000).filter(|n| n % 3 == 1)), "{seen:?}");
        }
    }
    // Only the wide subscription wants t.4 of stream s1: 200 of 600.
    assert_eq!(followed(&some), 30 + 2400 + 200);
    drop(few);

    // A subscription to everything follows all events. The other node always follows them.
    let mut every = Ws::subscribed(some.addr, json!({}));
    publish_lines(&all, &typed("noise.loud", 7));
    assert_eq!(every.event()["event_type"], "noise.loud");
    eventually("the other node has all", || followed(&all) == 60 + 6000 + 1);
}

#[test]
fn a_resume_at_a_node_that_follows_interests_is_complete_or_a_gap() {
    let service = Service::start(Kind::PlainNats);
    let all = node(&service);
    let stays = node_with(&service, &["--engine-by-interest"]);
    let forgets = node_with(&service, &["--engine-by-interest", "--engine-interest-linger", "0"]);
    let wish = |since: &Value| json!({"event_types": ["x"], "since": since});
    let last_of = |client: &mut Ws| {
        publish_lines(&all, &typed("x", 0));
        json!(id(&client.event()))
    };
    // A client that returns soon has missed nothing.
    let mut client = Ws::subscribed(stays.addr, json!({"event_types": ["x"]}));
    let last = last_of(&mut client);
    drop(client);
    publish_lines(&all, &(1..50).map(|n| typed("x", n)).collect::<String>());
    let mut client = Ws::subscribed(stays.addr, wish(&last));
    for n in 1..50 {
        assert_eq!(number(&client.event()), n);
    }
    // A client has missed nothing either if its interest was followed for other clients.
    let mut client =
        Ws::subscribed(stays.addr, json!({"event_types": ["x"], "stream_ids": ["s1"], "since": last}));
    for n in (1..50).filter(|n| n % 3 == 1) {
        assert_eq!(number(&client.event()), n);
    }
    // An interest that was not followed then gets a gap.
    let mut client = Ws::subscribed(stays.addr, json!({"event_types": ["x", "y"], "since": last}));
    let gap = client.message();
    assert_eq!((&gap["type"], &gap["payload"]["recoverable"]), (&json!("gap"), &json!(false)), "{gap}");
    publish_lines(&all, &typed("y", 1));
    assert_eq!(client.event()["event_type"], "y");

    // Without lingering, a client that was disconnected gets a gap.
    let mut client = Ws::subscribed(forgets.addr, json!({"event_types": ["x"]}));
    let last = last_of(&mut client);
    drop(client);
    let mut other = Ws::subscribed(forgets.addr, json!({"event_types": ["fence"]}));
    eventually("events that no client wants come no more", || {
        let before = followed(&forgets);
        publish_lines(&all, &(typed("x", 99) + &typed("fence", 0)));
        other.event();
        followed(&forgets) == before + 1
    });
    let mut client = Ws::subscribed(forgets.addr, wish(&last));
    let gap = client.message();
    assert_eq!((&gap["type"], &gap["payload"]["recoverable"]), (&json!("gap"), &json!(false)), "{gap}");
    assert_eq!(gap["payload"]["from"], last, "{gap}");
    publish_lines(&all, &typed("x", 100));
    assert_eq!(number(&client.event()), 100, "events come whole again");
}

#[test]
fn a_node_with_another_number_of_shards_reports_it() {
    let service = Service::start(Kind::Redis);
    let _first = node(&service);
    let url = service.url();
    let other = Server::with(&["--engine", &url, "--bus-shards", "4"]);
    eventually("it reports the difference", || {
        let stats = http::get(other.addr, "/api/stats").json();
        stats["engine"]["last_error"].as_str().is_some_and(|error| error.contains("1 shards"))
    });
    assert!(!is_ready(&other));
}

/// Publishes one by one through a node. Repeats refused events, as the answers request. Returns the refused numbers.
fn publish_patiently(node: SocketAddr, numbers: std::ops::Range<usize>) -> Vec<usize> {
    let mut refused = Vec::new();
    for n in numbers {
        eventually("the node takes it", || {
            let taken = publish(node, 0, n..n + 1);
            refused.extend((!taken).then_some(n));
            taken
        });
    }
    refused
}

#[test]
fn nodes_follow_redis_to_its_replica_and_nothing_on_it_is_lost() {
    let mut first = Service::start(Kind::Redis);
    let second = first.replica();
    let urls = format!("{},{}", second.url(), first.url());
    let nodes: Vec<Server> = (0..2)
        .map(|_| {
            let server = Server::with(&["--engine", &urls, "--engine-accept-timeout", "20s"]);
            eventually("the node follows the one that is no replica", || is_ready(&server));
            server
        })
        .collect();
    let mut clients: Vec<Ws> = nodes.iter().map(|node| Ws::subscribed(node.addr, json!({}))).collect();
    publish_patiently(nodes[0].addr, 0..50);
    // Everything accepted is on the replica, too.
    eventually("the replica has all", || {
        std::panic::catch_unwind(|| second.redis(&["XLEN", "{fanwire}:shard:0"], ":50")).is_ok()
    });
    first.kill();
    second.redis(&["REPLICAOF", "NO", "ONE"], "+OK");
    publish_patiently(nodes[1].addr, 50..100);
    let epoch = |event: &Value| id(event).split_once('-').map(|(epoch, _)| epoch.to_owned());
    for client in &mut clients {
        let mut epochs = HashSet::new();
        for n in 0..100 {
            let event = client.event();
            assert_eq!(number(&event), n);
            epochs.insert(epoch(&event));
        }
        assert_eq!(epochs.len(), 1, "one life of the log");
    }
}

#[test]
fn nodes_go_to_another_nats_server_and_nothing_accepted_is_lost() {
    let mut services = Service::nats_cluster(3);
    let urls = services.iter().map(Service::url).collect::<Vec<_>>().join(",");
    let server =
        Server::with(&["--engine", &urls, "--engine-replicas", "3", "--engine-accept-timeout", "20s"]);
    eventually("the node follows the log", || is_ready(&server));
    let mut client = Ws::subscribed(server.addr, json!({}));
    let addr = server.addr;
    let mut next = 0;
    let mut refused = HashSet::new();
    for victim in &mut services {
        refused.extend(publish_patiently(addr, next..next + 30));
        victim.kill();
        refused.extend(publish_patiently(addr, next + 30..next + 60));
        victim.resume();
        next += 60;
    }
    // There is one publisher with one request after the other, so accepted events are delivered once, in that order.
    // The publisher sent refused events again, under another message id, so these may be delivered twice, between their
    // neighbours.
    let mut seen: Vec<usize> = Vec::new();
    let mut ids: HashSet<String> = HashSet::new();
    while seen.last() != Some(&(next - 1)) {
        let message = client.message();
        assert_eq!(message["type"], "event", "{message}");
        seen.push(number(&message["payload"]) as usize);
        assert!(ids.insert(id(&message["payload"])), "an id came twice");
    }
    assert!(seen.is_sorted(), "out of order: {seen:?}");
    let twice = seen.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    for n in twice {
        assert!(refused.contains(&n), "{n} was accepted at once, and came twice");
    }
    seen.dedup();
    assert!(seen.iter().copied().eq(0..next), "an accepted event is missing: {seen:?}");
}

#[test]
fn messages_of_redis_channels_and_nats_subjects_become_events() {
    for kind in [Kind::Redis, Kind::PlainNats] {
        let service = Service::start(kind);
        // Messages as in the documents of AutoSDLC and GatheRing.
        let channels = match kind {
            Kind::Redis => ["system:events", "agent.*", "workspace.*"],
            _ => ["system.events", "agent.>", "workspace.>"],
        };
        let [first, second, third] = channels.map(|channel| format!("{}#{channel}", service.url()));
        let server = Server::with(&["--ingest", &first, "--ingest", &second, "--ingest", &third]);
        let mut circle = Ws::over(Wire::connect(server.addr), "/ws/circles/dev-team", "");
        let mut workspace = Ws::over(Wire::connect(server.addr), "/ws/workspaces/42", "");
        let mut agents = Ws::over(Wire::connect(server.addr), "/autosdlc", "");
        agents.message();
        agents.ask(&json!({"type": "subscribe", "data": {"pattern": "agent:*:status"}}));
        let mut all = Ws::subscribed(server.addr, json!({}));
        let (event, payload) = (
            r#"{"type":"task.progress","source":"core","payload":{"n":1}}"#,
            r#"{"circle_name":"dev-team","content":"hi"}"#,
        );
        let say = |channel: &str, text: &str| service.say(channel, text);
        // Repeats until the server listens, because such channels keep no message.
        eventually("both channels are ingested", || {
            say(if kind == Kind::Redis { "system:events" } else { "system.events" }, r#"{"type":"first"}"#);
            say("agent.knock", r#"{"knock":true}"#);
            say("workspace.knock", r#"{"knock":true}"#);
            server.metric("fanwire_engine_events_ingested_total").is_some_and(|count| count >= 3.0)
                && server.metric("fanwire_engine_messages_unreadable_total") == Some(0.0)
        });
        say(if kind == Kind::Redis { "system:events" } else { "system.events" }, event);
        say("agent.message", payload);
        say("workspace.file_changed", r#"{"workspace_id":42,"path":"a.py"}"#);
        let status = r#"{"type":"agent.status","source":"agent-monitor","key":"agent:coder-001:status","data":{"status":"busy"}}"#;
        say(channels[0], status);
        say("agent.message", "not json");
        let mut wanted = vec!["task.progress", "agent.message"];
        while !wanted.is_empty() {
            let event = all.event();
            wanted.retain(|kind| event["event_type"] != *kind);
        }
        let message = circle.message();
        let want = json!({"circle_name": "dev-team", "content": "hi"});
        assert_eq!((&message["type"], &message["data"]), (&json!("agent_message"), &want));
        let message = workspace.message();
        let want = json!({"workspace_id": 42, "path": "a.py"});
        assert_eq!(
            (&message["type"], &message["channel"], &message["data"]),
            (&json!("file_changed"), &json!("workspace-42"), &want)
        );
        let message = agents.message();
        assert_eq!(
            (&message["type"], &message["data"]),
            (&json!("agent_status"), &json!({"status": "busy"}))
        );
        assert_eq!(message["metadata"], json!({"version": "1.0", "source": "agent-monitor"}));
        eventually("messages that are no events are counted", || {
            server.metric("fanwire_engine_messages_unreadable_total") == Some(1.0)
        });
    }
}
