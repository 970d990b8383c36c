//! Behaviour specific to NATS, with a real server: large batches, limits, removed streams, credentials, a
//! server in an async program. Faults that every log must survive are in tests/engine_contract.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::service::{Kind, Service};
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, eventually, http};

fn node(service: &Service, options: &[&str]) -> Server {
    let url = service.url();
    let all =
        [&["--engine", &url, "--max-lag-events", "1000000", "--max-lag-bytes", "1GiB"], options].concat();
    let server = Server::with(&all);
    eventually("the node is ready", || is_ready(&server));
    server
}

fn is_ready(server: &Server) -> bool {
    http::get(server.addr, "/readyz").status == 200
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    let line = |n| format!("{{\"type\":\"t\",\"payload\":{{\"n\":{n}}}}}\n");
    numbers.map(line).collect::<Vec<_>>().concat()
}

fn post(server: &Server, lines: &str) -> http::Response {
    http::post(server.addr, "/publish", "application/x-ndjson", lines.as_bytes())
}

fn number(event: &Value) -> u64 {
    event["payload"]["n"].as_u64().expect("a number")
}

#[test]
fn a_batch_larger_than_the_clients_window_is_accepted_in_order() {
    // With 5,000 unanswered messages, the client library would wait forever.
    const EVENTS: usize = 5_001;
    let service = Service::start(Kind::Nats);
    let node = node(&service, &["--engine-accept-timeout", "60s", "--engine-max-waiting-events", "100000"]);
    let mut client = Ws::subscribed(node.addr, json!({}));
    let answer = post(&node, &lines(0..EVENTS));
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(EVENTS)), "{answer:?}");
    for n in 0..EVENTS {
        assert_eq!(number(&client.event()), n as u64);
    }
    assert_eq!(post(&node, &lines(0..1)).status, 200, "and it goes on");
}

#[test]
fn a_limit_that_is_lowered_while_nodes_run_is_reported_and_blocks_no_publisher() {
    let service = Service::start(Kind::Nats);
    let node = node(&service, &[]);
    let mut client = Ws::subscribed(node.addr, json!({}));
    let mut config = service.nats_ask("$JS.API.STREAM.INFO.fanwire-0", &json!({}))["config"].clone();
    config["max_msg_size"] = json!(1000);
    let answer = service.nats_ask("$JS.API.STREAM.UPDATE.fanwire-0", &config);
    assert_eq!(answer["config"]["max_msg_size"], 1000, "{answer}");
    let large = format!("{{\"type\":\"t\",\"payload\":{{\"n\":0,\"pad\":\"{}\"}}}}\n", "x".repeat(2000));
    let refused = post(&node, &large);
    assert_eq!(refused.status, 413, "{refused:?}");
    assert!(refused.header("retry-after").is_none(), "it is not to be sent again: {refused:?}");
    assert!(refused.text().contains("at most 936"), "{refused:?}");
    assert!(is_ready(&node), "the log is well");
    let mut publisher = Ws::connect(node.addr);
    let event = json!({"type": "t", "payload": {"pad": "x".repeat(2000)}});
    let answer = publisher.ask(&json!({"type": "publish", "payload": event}));
    assert_eq!(answer["payload"]["code"], "event_too_large", "{answer}");
    assert_eq!(post(&node, &lines(1..2)).status, 200);
    assert_eq!(number(&client.event()), 1, "no refused event came");
}

/// Deletes the stream of a log's first shard and creates it again, with these events.
///
/// A server of 2.9 leaves a stream without files if it is created while the old one is still being removed.
/// Hence the pause.
fn remake(service: &Service, events: std::ops::Range<usize>) {
    let config = service.nats_ask("$JS.API.STREAM.INFO.fanwire-0", &json!({}))["config"].clone();
    let deleted = service.nats_ask("$JS.API.STREAM.DELETE.fanwire-0", &json!({}));
    assert_eq!(deleted["success"], true, "{deleted}");
    std::thread::sleep(Duration::from_millis(500));
    let made = service.nats_ask("$JS.API.STREAM.CREATE.fanwire-0", &config);
    assert!(made["config"].is_object(), "{made}");
    for line in lines(events).lines() {
        service.say("fanwire.0", line);
    }
}

/// Returns numbers and ids of the events that a client gets, up to this number.
fn ids_until(client: &mut Ws, last: u64) -> Vec<(u64, String)> {
    let mut ids = Vec::new();
    while ids.last().is_none_or(|(n, _)| *n != last) {
        let message = client.message();
        if message["type"] == "event" {
            let event = &message["payload"];
            ids.push((number(event), event["event_id"].as_str().expect("an id").to_owned()));
        }
    }
    ids
}

#[test]
fn an_answer_has_the_readers_id_after_the_stream_was_recreated_under_a_stopped_node() {
    let service = Service::start(Kind::Nats);
    let node = node(&service, &[]);
    let mut client = Ws::subscribed(node.addr, json!({}));
    assert_eq!(post(&node, &lines(0..1)).status, 200);
    let before = ids_until(&mut client, 0);
    // The stop is shorter than the interval of the node's check before an append.
    node.signal("STOP");
    let addr = node.addr;
    let publisher = std::thread::spawn(move || {
        http::post(addr, "/publish", "application/x-ndjson", lines(30..31).as_bytes())
    });
    // The new stream gets more events than the old one had, so the node could take its next number for one of the old
    // stream.
    remake(&service, 1..30);
    node.signal("CONT");
    let answer = publisher.join().expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let ids = ids_until(&mut client, 30);
    assert_eq!(answer.json()["last_event_id"], ids.last().expect("it came").1.as_str());
    assert_eq!(ids.iter().map(|(n, _)| *n).collect::<Vec<u64>>(), (1..=30).collect::<Vec<u64>>());
    let epoch = |id: &str| id.split('-').next().map(str::to_owned);
    assert_ne!(epoch(&ids[0].1), epoch(&before[0].1));
}

#[test]
fn a_reader_that_had_read_nothing_does_not_read_on_in_a_stream_that_was_made_anew() {
    let service = Service::start(Kind::Nats);
    let node = node(&service, &[]);
    let mut client = Ws::subscribed(node.addr, json!({}));
    node.signal("STOP");
    remake(&service, 0..5);
    node.signal("CONT");
    eventually("the node takes events", || post(&node, &lines(5..6)).status == 200);
    let ids = ids_until(&mut client, 5);
    assert_eq!(ids.iter().map(|(n, _)| *n).collect::<Vec<u64>>(), (0..=5).collect::<Vec<u64>>(), "{ids:?}");
    let mut epochs: Vec<&str> = ids.iter().filter_map(|(_, id)| id.split('-').next()).collect();
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "{ids:?}");
}

#[test]
fn nodes_get_revocations_from_a_recreated_stream() {
    const SECRET: &str = "what-all-nodes-of-one-cluster-know-77c1";
    let service = Service::start(Kind::Nats);
    let nodes = [(); 2].map(|()| node(&service, &["--auth-jwt-hs256-secret", SECRET]));
    let deleted = service.nats_ask("$JS.API.STREAM.DELETE.fanwire-notices", &json!({}));
    assert_eq!(deleted["success"], true, "{deleted}");
    let admin = support::token(SECRET, &["--sub", "root", "--admin"]);
    // The token is made before, because one issued after the revocation would be valid.
    let token = support::token(SECRET, &["--sub", "mallory", "--stream", "*"]);
    let body = r#"{"sub":"mallory"}"#;
    let request = format!(
        "POST /api/revoke HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {admin}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = http::exchange(nodes[0].addr, request.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually("the other node knows it", || {
        // Only the head is read: until the node knows the revocation, the answer is a stream without an end.
        let mut wire = Wire::connect(nodes[1].addr);
        wire.send(format!("GET /sse?token={token}&type=none HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes());
        http::read_head(&mut wire, deadline()).expect("an answer").status == 401
    });
}

#[test]
fn a_log_of_another_kind_is_reported_by_readyz_and_nothing_is_lost() {
    let mut service = Service::start(Kind::Nats);
    let node = node(&service, &["--engine-accept-timeout", "300ms"]);
    let mut client = Ws::subscribed(node.addr, json!({}));
    assert_eq!(post(&node, &lines(0..1)).status, 200);
    assert_eq!(number(&client.event()), 0);
    service.kill();
    service.kind = Kind::PlainNats;
    service.resume();
    let says = |node: &Server| http::get(node.addr, "/readyz").json();
    eventually("the node names the fault", || {
        says(&node)["status"] == "the log is not of the kind that it was"
    });
    // The appender checks every two seconds.
    eventually("neither readers nor publishers are served", || {
        let status = says(&node);
        (&status["readers"], &status["publishers"]) == (&json!(false), &json!(false))
    });
    assert_eq!(post(&node, &lines(1..2)).status, 503);
    service.kill();
    service.kind = Kind::Nats;
    service.resume();
    eventually("the node is back by itself", || is_ready(&node));
    assert_eq!(post(&node, &lines(2..3)).status, 200);
    assert_eq!(number(&client.event()), 2, "in the same epoch, without a gap");
}

#[test]
fn a_node_ends_in_time_although_the_log_hangs() {
    let service = Service::start(Kind::Nats);
    let mut node = node(&service, &[]);
    service.pause(true);
    let addr = node.addr;
    let publisher = std::thread::spawn(move || {
        http::post(addr, "/publish", "application/x-ndjson", lines(0..1).as_bytes()).status
    });
    eventually("it waits for the log", || !is_ready(&node));
    node.signal("TERM");
    assert!(node.wait().success());
    service.pause(false);
    // The publisher gets a 503 or a closed connection, never an acceptance.
    assert!(publisher.join().map_or(true, |status| status == 503));
}

#[test]
fn a_user_and_password_in_the_address_reach_the_server_and_no_log() {
    let options = ["--user", "fan", "--pass", "s3cret"].map(str::to_owned);
    let service = Service::start_in(
        Kind::Nats,
        std::env::temp_dir().join(format!("fanwire-nats-user-{}", std::process::id())),
        &options.each_ref().map(String::as_str),
    );
    let url = service.url().replace("nats://", "nats://fan:s3cret@");
    let node = Server::with(&["--engine", &url, "--log-level", "trace"]);
    eventually("the node is ready", || is_ready(&node));
    assert_eq!(post(&node, &lines(0..1)).status, 200);
    assert!(!node.log().contains("s3cret"), "the log has the password");
}

/// A server in the test's own process, in an async program.
fn embedded(url: &str, listen: &str) -> Result<fanwire::ServerHandle, fanwire::server::ServerError> {
    let bus = fanwire::Bus::new();
    fanwire::Server::builder(&bus).listen(listen).engine(fanwire::engine::EngineConfig::new(url)).spawn()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_nats_is_made_joined_and_dropped_in_async_code() {
    let service = Service::start(Kind::Nats);
    let url = service.url();
    let server = embedded(&url, "127.0.0.1:0").expect("it starts");
    let taken = server.local_addr().to_string();
    let error = embedded(&url, &taken).expect_err("the port is taken");
    assert_eq!(error.kind(), fanwire::server::ServerErrorKind::AddressInUse, "{error}");
    let liveness = server.liveness();
    server.drain(Duration::ZERO);
    server.join().expect("it ends");
    // This is the last value that holds the engine.
    drop(liveness);
}
