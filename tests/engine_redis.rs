//! A log in a real Redis that loses data, refuses writes, or holds entries that no node wrote.
//!
//! Always: an event answered with 200 is delivered to every reader once, or a gap takes its place. No id is used for
//! two events.

mod support;

use std::collections::HashMap;

use serde_json::{Value, json};
use support::authority::Authority;
use support::proxy::Proxy;
use support::service::{Kind, Service, free_port};
use support::ws::Ws;
use support::{Server, eventually, http};

const META: &str = "{fanwire}:log";
const STREAM: &str = "{fanwire}:shard:0";

fn node_at(url: &str, options: &[&str]) -> Server {
    let server = Server::with(&[&["--engine", url, "--max-lag-events", "1000000"], options].concat());
    eventually("the node is ready", || readiness(&server).status == 200);
    server
}

fn node(service: &Service) -> Server {
    node_at(&service.url(), &[])
}

fn readiness(server: &Server) -> http::Response {
    http::get(server.addr, "/readyz")
}

fn event(n: u64) -> String {
    format!("{{\"type\":\"test\",\"payload\":{{\"n\":{n}}}}}")
}

fn publish(node: &Server, n: u64) -> http::Response {
    http::post(node.addr, "/publish", "application/json", event(n).as_bytes())
}

/// Publishes until the event is accepted.
fn publish_patiently(node: &Server, n: u64) {
    eventually("the node takes it", || publish(node, n).status == 200);
}

fn number(event: &Value) -> u64 {
    event["payload"]["n"].as_u64().unwrap_or_else(|| panic!("not numbered: {event}"))
}

/// Reader of what a client gets: numbers of events, and `None` for a gap. Panics if an id has two events.
#[derive(Default)]
struct Ids(HashMap<String, u64>);

impl Ids {
    fn next(&mut self, client: &mut Ws) -> Option<u64> {
        let message = client.message();
        if message["type"] == "gap" {
            assert_eq!(message["payload"]["recoverable"], false, "{message}");
            return None;
        }
        let event = &message["payload"];
        let id = event["event_id"].as_str().unwrap_or_else(|| panic!("no id: {message}")).to_owned();
        let other = self.0.insert(id, number(event));
        assert!(other.is_none_or(|other| other == number(event)), "an id was given twice: {message}");
        Some(number(event))
    }

    fn expect(&mut self, client: &mut Ws, wanted: &[Option<u64>]) {
        for (at, wanted) in wanted.iter().enumerate() {
            assert_eq!(self.next(client), *wanted, "message {at}");
        }
    }
}

fn epoch(service: &Service) -> u64 {
    service.redis_ask(&["HGET", META, "epoch"]).and_then(|epoch| epoch.parse().ok()).expect("an epoch")
}

#[test]
fn after_the_loss_of_any_key_a_new_epoch_begins_and_clients_get_a_gap() {
    let service = Service::start(Kind::Redis);
    let nodes = [node(&service), node(&service)];
    let mut clients: Vec<Ws> = nodes.iter().map(|node| Ws::subscribed(node.addr, json!({}))).collect();
    let mut ids = Ids::default();
    let mut n = 0;
    let losses: [&[&str]; 6] = [
        &["DEL", STREAM],
        &["DEL", META],
        &["DEL", META, STREAM],
        &["FLUSHALL"],
        &["RENAME", STREAM, "elsewhere"],
        &["RENAME", META, "elsewhere"],
    ];
    for (round, loss) in losses.into_iter().enumerate() {
        for _ in 0..3 {
            publish_patiently(&nodes[round % 2], n);
            for client in &mut clients {
                ids.expect(client, &[Some(n)]);
            }
            n += 1;
        }
        service.redis_ask(loss);
        // This node has appended fewer events since then, so it depends on what the other one reports.
        publish_patiently(&nodes[(round + 1) % 2], n);
        for client in &mut clients {
            ids.expect(client, &[None, Some(n)]);
        }
        n += 1;
    }
    // A batch of several events after the log is complete again. A new node gets what is left of every epoch.
    let late = node(&service);
    publish_patiently(&late, n);
    for client in &mut clients {
        ids.expect(client, &[Some(n)]);
    }
}

#[test]
fn a_lost_log_is_reported_before_its_next_event() {
    let service = Service::start(Kind::Redis);
    let server = node(&service);
    let mut client = Ws::subscribed(server.addr, json!({}));
    let mut ids = Ids::default();
    publish_patiently(&server, 0);
    ids.expect(&mut client, &[Some(0)]);
    service.redis_ask(&["FLUSHALL"]);
    ids.expect(&mut client, &[None]);
    let mut late = Ws::subscribed(server.addr, json!({}));
    publish_patiently(&server, 1);
    ids.expect(&mut client, &[Some(1)]);
    ids.expect(&mut late, &[Some(1)]);
}

/// The latest event of a key may be among the entries that are missing.
#[test]
fn a_snapshot_over_missing_entries_is_incomplete() {
    let service = Service::start(Kind::Redis);
    let server = node_at(&service.url(), &["--loops", "1"]);
    let state = |n: u64| {
        let event =
            json!({"type": "test", "entity": {"kind": "k", "id": n.to_string()}, "payload": {"n": n}});
        server.publish(event.to_string());
    };
    let snapshot = || Ws::subscribed(server.addr, json!({"subscription_id": "s", "snapshot": true}));
    state(0);
    let mut client = snapshot();
    assert_eq!(number(&client.event()), 0);
    assert_eq!(client.any_message()["payload"]["complete"], true);
    let foreign = format!("{}-*", epoch(&service));
    service.redis_ask(&["XADD", STREAM, &foreign, "other", "x"]);
    state(1);
    assert_eq!(Ids::default().next(&mut client), None);
    assert_eq!(number(&client.event()), 1);
    let mut client = snapshot();
    assert_eq!(Ids::default().next(&mut client), None);
    assert_eq!(number(&client.event()), 1);
    assert_eq!(
        client.any_message()["payload"],
        json!({"subscription_id": "s", "events": 1, "complete": false})
    );
}

#[test]
fn a_node_to_come_has_the_history_of_the_epochs_before() {
    let service = Service::start(Kind::Redis);
    let first = node(&service);
    let mut old = Ws::subscribed(first.addr, json!({}));
    for n in 0..5 {
        publish_patiently(&first, n);
    }
    let seen: Vec<Value> = (0..5).map(|_| old.event()).collect();
    service.redis_ask(&["DEL", META]);
    for n in 5..8 {
        publish_patiently(&first, n);
    }
    let second = node(&service);
    let mut client = Ws::subscribed(second.addr, json!({"since": seen[1]["event_id"]}));
    Ids::default().expect(&mut client, &[Some(2), Some(3), Some(4), None, Some(5), Some(6), Some(7)]);
}

/// Starts a Redis that keeps its last save, and nothing after it.
fn forgetful() -> Service {
    let folder =
        std::env::temp_dir().join(format!("fanwire-forgetful-{}-{}", std::process::id(), free_port()));
    std::fs::create_dir_all(&folder).expect("a folder");
    Service::start_in(Kind::Redis, folder, &["--appendonly", "no"])
}

#[test]
fn a_tail_that_only_a_node_saw_that_is_away_or_dead_gives_no_id_twice() {
    for dies in [false, true] {
        let mut service = forgetful();
        let saw = node(&service);
        let mut client = Ws::subscribed(saw.addr, json!({}));
        let mut ids = Ids::default();
        for n in 0..3 {
            publish_patiently(&saw, n);
        }
        service.redis(&["SAVE"], "+OK");
        for n in 3..6 {
            publish_patiently(&saw, n);
        }
        ids.expect(&mut client, &[0, 1, 2, 3, 4, 5].map(Some));
        saw.signal(if dies { "KILL" } else { "STOP" });
        service.kill();
        service.resume();
        // This node has not read the lost events, and no other node can report them.
        let other = node(&service);
        let mut late = Ws::subscribed(other.addr, json!({"history": 10}));
        publish_patiently(&other, 6);
        let mut got = Vec::new();
        while got.last() != Some(&6) {
            got.extend(ids.next(&mut late));
        }
        assert_eq!(got, [0, 1, 2, 6]);
        if !dies {
            saw.signal("CONT");
            ids.expect(&mut client, &[None, Some(6)]);
            publish_patiently(&saw, 7);
            ids.expect(&mut client, &[Some(7)]);
            ids.expect(&mut late, &[Some(7)]);
        }
    }
}

#[test]
fn a_server_that_lost_nothing_keeps_its_epoch_once_all_nodes_have_reported() {
    let mut service = Service::start(Kind::Redis);
    let nodes = [node(&service), node(&service)];
    let mut client = Ws::subscribed(nodes[0].addr, json!({}));
    let mut ids = Ids::default();
    let before = epoch(&service);
    for n in 0..4 {
        publish_patiently(&nodes[(n % 2) as usize], n);
        ids.expect(&mut client, &[Some(n)]);
        if n == 1 {
            service.kill();
            service.resume();
        } else {
            service.redis(&["SCRIPT", "FLUSH"], "+OK");
        }
    }
    assert_eq!(epoch(&service), before);
    // The others do not wait for a node that ended in an orderly way.
    let [mut leaves, stays] = nodes;
    leaves.signal("TERM");
    assert!(leaves.wait().success());
    service.kill();
    service.resume();
    publish_patiently(&stays, 4);
    assert_eq!(epoch(&service), before);
}

#[test]
fn an_epoch_is_above_every_existing_id_despite_a_slow_clock() {
    let service = Service::start(Kind::Redis);
    // The clock of the node that began the log was ahead by some years. Then the hash was lost.
    let ahead = 3_000_000_000_000_000u64;
    service.redis_ask(&["XADD", STREAM, &format!("{ahead}-7"), "e", &event(100)]);
    let server = node(&service);
    let mut client = Ws::subscribed(server.addr, json!({}));
    publish_patiently(&server, 0);
    // The node may be ready while it still reads the epoch of that entry.
    let mut ids = Ids::default();
    let first = ids.next(&mut client).or_else(|| ids.next(&mut client));
    assert_eq!(first, Some(0));
    let begun = epoch(&service);
    assert!(begun > ahead);
    // After all data is lost, the new log has another epoch, although the clock is far behind the old one.
    drop(server);
    service.redis_ask(&["HSET", META, "epoch", &ahead.to_string(), "s0", &format!("{ahead} 8 1")]);
    service.redis_ask(&["DEL", STREAM]);
    let server = node(&service);
    publish_patiently(&server, 1);
    assert!(epoch(&service) > ahead && epoch(&service) != begun);
}

#[test]
fn entries_that_no_node_wrote_are_counted_and_end_an_epoch_at_most() {
    let service = Service::start(Kind::Redis);
    let server = node(&service);
    let mut client = Ws::subscribed(server.addr, json!({}));
    let mut ids = Ids::default();
    let mut n = 0;
    publish_patiently(&server, n);
    ids.expect(&mut client, &[Some(n)]);
    let last = u64::MAX.to_string();
    for foreign in [
        format!("{}-{last}", epoch(&service)),
        format!("{}-{}", epoch(&service) + 9_000_000, 5),
        format!("{last}-{last}"),
    ] {
        service.redis_ask(&["XADD", STREAM, &foreign, "e", "{\"type\":\"foreign\",\"payload\":{\"n\":77}}"]);
        n += 1;
        publish_patiently(&server, n);
        let mut gaps = 0;
        loop {
            match ids.next(&mut client) {
                None => gaps += 1,
                Some(77) => {}
                Some(found) => break assert_eq!(found, n),
            }
        }
        assert!((1..=2).contains(&gaps), "{gaps} gaps for {foreign}");
    }
    // Many entries that are no events are counted, without a log line for each.
    for _ in 0..500 {
        let id = format!("{}-*", epoch(&service));
        service.redis_ask(&["XADD", STREAM, &id, "other", "x"]);
    }
    eventually("all are counted", || {
        server.metric("fanwire_engine_entries_unreadable_total").is_some_and(|count| count >= 500.0)
    });
    n += 1;
    publish_patiently(&server, n);
    ids.expect(&mut client, &[None, Some(n)]);
    let lines = server.log().lines().filter(|line| line.contains("are no events")).count();
    assert!((1..=4).contains(&lines), "{lines} lines");
}

#[test]
fn a_batch_whose_record_is_lost_is_not_appended_twice_and_its_publisher_gets_an_error() {
    let service = Service::start(Kind::Redis);
    let proxy = Proxy::to(service.addr);
    let server = node_at(&format!("redis://{}", proxy.addr), &["--engine-accept-timeout", "20s"]);
    publish_patiently(&server, 0);
    let length = || service.redis_ask(&["XLEN", STREAM]);
    for (n, forgets) in [(1, false), (2, true)] {
        let before = length();
        // The log accepts the batch, and its answer is lost.
        proxy.stall(true);
        let addr = server.addr;
        let publisher =
            std::thread::spawn(move || http::post(addr, "/publish", "application/json", event(n).as_bytes()));
        eventually("the log has it", || length() != before);
        if forgets {
            let names = service.redis_ask(&["EVAL", "for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do if string.find(name, '^batch:') then redis.call('HDEL', KEYS[1], name) end end return 'done'", "1", META]);
            assert_eq!(names.as_deref(), Some("done"));
        }
        proxy.cut();
        proxy.stall(false);
        let answer = publisher.join().expect("an answer");
        if forgets {
            assert_eq!((answer.status, answer.text().contains("accepted or not")), (503, true), "{answer:?}");
        } else {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    assert_eq!(length().as_deref(), Some("3"), "each is there once");
    publish_patiently(&server, 3);
}

#[test]
fn a_batch_goes_into_all_its_shards_or_into_none() {
    let service = Service::start(Kind::Redis);
    let server = node_at(&service.url(), &["--bus-shards", "4", "--engine-accept-timeout", "300ms"]);
    let line = |n: usize| format!("{{\"type\":\"test\",\"stream_id\":\"s{n}\",\"payload\":{{\"n\":{n}}}}}\n");
    let lines = (0..40).map(line).collect::<Vec<_>>().concat();
    let publish = || http::post(server.addr, "/publish", "application/x-ndjson", lines.as_bytes());
    assert_eq!(publish().status, 200);
    let length = |shard: usize| service.redis_ask(&["XLEN", &format!("{{fanwire}}:shard:{shard}")]);
    let before: Vec<_> = [0, 1, 2].map(length).into();
    service.redis_ask(&["RENAME", "{fanwire}:shard:3", "elsewhere"]);
    service.redis_ask(&["SET", "{fanwire}:shard:3", "no stream"]);
    let answer = publish();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!([0, 1, 2].map(length).to_vec(), before, "a part was appended");
    eventually("it says why", || {
        let stats = http::get(server.addr, "/api/stats").json();
        stats["engine"]["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("{fanwire}:shard:3 is a string"))
            && readiness(&server).status == 503
    });
    service.redis_ask(&["DEL", "{fanwire}:shard:3"]);
    eventually("it takes events again", || publish().status == 200 && readiness(&server).status == 200);
}

#[test]
fn a_server_that_refuses_writes_makes_the_node_not_ready_and_nothing_is_lost() {
    let service = Service::start(Kind::Redis);
    let server = node_at(&service.url(), &["--engine-accept-timeout", "300ms"]);
    let mut client = Ws::subscribed(server.addr, json!({}));
    let mut ids = Ids::default();
    let troubles: [(&[&str], &str, &[&str]); 3] = [
        (&["CONFIG", "SET", "maxmemory", "1"], "OOM", &["CONFIG", "SET", "maxmemory", "0"]),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            "NOREPLICAS",
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
        (&["REPLICAOF", "127.0.0.1", "1"], "READONLY", &["REPLICAOF", "NO", "ONE"]),
    ];
    for (n, (trouble, word, cure)) in (0..).zip(troubles) {
        service.redis_ask(trouble);
        // The node notices without a publisher, too.
        eventually("it is not ready", || readiness(&server).status == 503);
        let answer = readiness(&server).text().to_owned();
        assert!(answer.contains("the log takes nothing"), "{word}: {answer}");
        let refused = publish(&server, 1000);
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.text().contains("nothing was accepted"), "{word}: {refused:?}");
        let stats = http::get(server.addr, "/api/stats").json();
        assert!(stats["engine"]["last_error"].as_str().is_some_and(|error| error.contains(word)), "{stats}");
        service.redis_ask(cure);
        eventually("it is ready", || readiness(&server).status == 200);
        publish_patiently(&server, n);
        ids.expect(&mut client, &[Some(n)]);
    }
}

#[test]
fn an_event_that_is_longer_than_redis_takes_is_refused_at_once_and_alone() {
    let service = Service::start(Kind::Redis);
    service.redis_ask(&["CONFIG", "SET", "proto-max-bulk-len", "1mb"]);
    let server = node(&service);
    let long = format!("{{\"type\":\"test\",\"payload\":\"{}\"}}", "x".repeat(1_200_000));
    let refused = http::post(server.addr, "/publish", "application/json", long.as_bytes());
    assert_eq!(refused.status, 413, "{refused:?}");
    assert!(refused.text().contains("1048576"), "{refused:?}");
    assert_eq!((publish(&server, 1).status, readiness(&server).status), (200, 200));
}

#[test]
fn a_revocation_is_applied_although_earlier_notices_were_lost() {
    const SECRET: &str = "what-all-nodes-of-one-cluster-know-77c1";
    let service = Service::start(Kind::Redis);
    let nodes = [(); 2].map(|()| node_at(&service.url(), &["--auth-jwt-hs256-secret", SECRET]));
    let admin = support::token(SECRET, &["--sub", "root", "--admin", "--publish"]);
    let reader = support::token(SECRET, &["--sub", "reader", "--stream", "*"]);
    let revoke = |body: &str| {
        let request = format!(
            "POST /api/revoke HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {admin}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(http::exchange(nodes[0].addr, request.as_bytes()).status, 200);
    };
    // The id is in a future year, so every id after its loss is smaller.
    let notice = ["XADD", "{fanwire}:notices", "3000000000000-0", "e", "{}"];
    service.redis_ask(&notice);
    revoke("{\"sub\":\"ann\"}");
    service.redis_ask(&["DEL", "{fanwire}:notices"]);
    eventually("the loss is noticed", || nodes.iter().all(|node| node.log().contains("lost notices")));
    revoke("{\"sub\":\"reader\"}");
    for node in &nodes {
        eventually("it is refused", || {
            http::get(node.addr, &format!("/sse?token={reader}&type=none")).status == 401
        });
    }
}

#[test]
fn a_user_without_dangerous_rights_is_enough() {
    let service = Service::start(Kind::Redis);
    let rights =
        ["ACL", "SETUSER", "node", "on", ">secret", "~{fanwire}:*", "+@all", "-@dangerous", "-@admin"];
    service.redis_ask(&rights);
    let url = format!("redis://node:secret@{}", service.addr);
    let nodes = [node_at(&url, &[]), node_at(&format!("{url},{url}"), &[])];
    let mut client = Ws::subscribed(nodes[1].addr, json!({}));
    publish_patiently(&nodes[0], 1);
    assert_eq!(number(&client.event()), 1);
    // Without the right to write, the error says so.
    service.redis_ask(&["ACL", "SETUSER", "node", "-xadd", "-hset"]);
    eventually("it is not ready", || readiness(&nodes[0]).status == 503);
    let stats = http::get(nodes[0].addr, "/api/stats").json();
    let error = stats["engine"]["last_error"].as_str().unwrap_or_default();
    // Versions of Redis have different messages for a script that lacks a right.
    assert!(error.contains("NOPERM") || error.contains("can't run this command"), "{stats}");
    assert!(!stats.to_string().contains("secret"), "{stats}");
    service.redis_ask(&["ACL", "SETUSER", "node", "+xadd", "+hset"]);
    eventually("it is ready", || readiness(&nodes[0]).status == 200);
    publish_patiently(&nodes[0], 2);
    assert_eq!(number(&client.event()), 2);
}

#[test]
fn rediss_works_with_a_private_authority() {
    let authority = Authority::new("redis");
    let path = |name: &str| authority.path(name).to_str().expect("plain").to_owned();
    let port = free_port().to_string();
    let files = [path("cert.pem"), path("key.pem"), path("ca.pem")];
    let folder = std::env::temp_dir().join(format!("fanwire-rediss-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let options = ["--tls-port", &port, "--tls-cert-file", &files[0], "--tls-key-file", &files[1]];
    let options = [&options[..], &["--tls-ca-cert-file", &files[2], "--tls-auth-clients", "no"]].concat();
    let mut service = Service::start_in(Kind::Redis, folder, &options);
    let url = format!("rediss://localhost:{port}");
    let ca = ["--engine-tls-ca-file", &files[2]];
    let nodes = [node_at(&url, &ca), node_at(&format!("{url},{url}"), &ca)];
    let mut client = Ws::subscribed(nodes[1].addr, json!({}));
    let mut ids = Ids::default();
    publish_patiently(&nodes[0], 1);
    ids.expect(&mut client, &[Some(1)]);
    service.kill();
    service.resume();
    publish_patiently(&nodes[0], 2);
    ids.expect(&mut client, &[Some(2)]);
    // The source of Redis channels uses TLS, too.
    let ingesting = Server::with(&["--ingest", &format!("{url}#channel"), ca[0], ca[1]]);
    eventually("the channel is ingested", || {
        service.say("channel", &event(3));
        ingesting.metric("fanwire_engine_events_ingested_total").is_some_and(|count| count >= 1.0)
    });
    // An untrusted certificate is reported. A missing file is a fault at the start.
    let other = Server::with(&["--engine", &url]);
    eventually("it says why", || {
        let stats = http::get(other.addr, "/api/stats").json();
        stats["engine"]["last_error"].as_str().is_some_and(|error| error.contains("certificate"))
    });
    assert_eq!(readiness(&other).status, 503);
    let mut command = support::fanwire();
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--engine",
        &url,
        "--engine-tls-ca-file",
        "/no/such/file",
    ]);
    let output = support::run(&mut command);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("/no/such/file"), "{text}");
}

#[test]
fn events_of_some_megabytes_come_to_a_node_that_starts_later() {
    let service = Service::start(Kind::Redis);
    let first = node_at(&service.url(), &["--max-body-bytes", "4MiB"]);
    let long = format!("{{\"type\":\"long\",\"payload\":\"{}\"}}", "x".repeat(2_000_000));
    for _ in 0..60 {
        assert_eq!(http::post(first.addr, "/publish", "application/json", long.as_bytes()).status, 200);
    }
    let second = node(&service);
    eventually("it has read all", || second.metric("fanwire_engine_events_followed_total") == Some(60.0));
}
