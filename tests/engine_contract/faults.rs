//! The faults: each function makes a fault in a running trial, and ends it.
//!
//! Always: after a fault the log is in a state that an operator's repair could leave. No node is restarted for that.

use std::time::Duration;

use serde_json::{Value, json};

use crate::node::ACCEPT_TIMEOUT;
use crate::place::{Place, copy};
use crate::segment;
use crate::stage::{Engine, Stage};
use crate::support::service::Kind;
use crate::support::wire::{Wire, deadline};
use crate::support::ws::Ws;

/// Redis keys and JetStream names of the log's first shard and of its metadata.
const SHARD_KEY: &str = "{fanwire}:shard:0";
const META_KEY: &str = "{fanwire}:log";
const STREAM: &str = "fanwire-0";

/// Number of events after which a stopped node is behind.
const SOME: u64 = 10;

/// Waits until a node has accepted this many more events.
fn publishes_some(stage: &mut Stage, at: usize) {
    let first = stage.nodes[at].last_accepted().unwrap_or(0);
    let limit = stage.wait_max();
    stage.eventually("a node takes more events", limit, |stage| {
        stage.nodes[at].last_accepted().is_some_and(|last| last >= first + SOME)
    });
}

/// The log's server stops without breaking a connection.
pub(crate) fn paused(stage: &mut Stage) {
    stage.log().pause(true);
    stage.suffers();
    stage.log().pause(false);
}

/// The log's server is killed and restarted with the data that it had written. With files, the node is killed.
pub(crate) fn killed(stage: &mut Stage) {
    if stage.engine == Engine::File {
        return node_killed(stage);
    }
    stage.log_mut().kill();
    stage.suffers();
    stage.log_mut().resume();
}

/// A node is killed and restarted. Its reader resumes.
pub(crate) fn node_killed(stage: &mut Stage) {
    stage.nodes[0].crash(|| {});
}

/// The log's server is restarted without the feature that the log depends on, then with it.
pub(crate) fn without_its_feature(stage: &mut Stage) {
    stage.log_mut().kill();
    stage.log_mut().kind = Kind::PlainNats;
    stage.log_mut().resume();
    stage.suffers();
    stage.log_mut().kill();
    stage.log_mut().kind = Kind::Nats;
    stage.log_mut().resume();
}

fn delete(stage: &Stage) {
    match stage.engine {
        Engine::Redis => drop(stage.log().redis_ask(&["DEL", SHARD_KEY])),
        _ => {
            let answer = stage.log().nats_ask(&format!("$JS.API.STREAM.DELETE.{STREAM}"), &json!({}));
            assert_eq!(answer["success"], true, "{answer}");
        }
    }
}

/// The shard's stream is deleted under the running nodes, twice.
pub(crate) fn deleted(stage: &mut Stage) {
    delete(stage);
    stage.flows("after the stream was deleted");
    delete(stage);
}

/// The stream of one shard of several is deleted, with nothing published to it and while all shards get events. The other
/// shards' events have one id each, on all nodes.
pub(crate) fn one_of_several_deleted(stage: &mut Stage) {
    delete(stage);
    publishes_some(stage, 0);
    publishes_some(stage, 1);
    stage.flows("after one stream was deleted");
    publishes_some(stage, 1);
    delete(stage);
    publishes_some(stage, 0);
}

/// The shard's stream is deleted while a node is behind.
pub(crate) fn deleted_while_a_node_is_behind(stage: &mut Stage) {
    stage.nodes[1].pause(true);
    publishes_some(stage, 0);
    delete(stage);
    publishes_some(stage, 0);
    stage.nodes[1].pause(false);
}

/// The stream of one shard of several is deleted while a node is behind in the others.
pub(crate) fn one_of_several_deleted_while_a_node_is_behind(stage: &mut Stage) {
    stage.nodes[1].pause(true);
    publishes_some(stage, 0);
    delete(stage);
    publishes_some(stage, 0);
    publishes_some(stage, 2);
    stage.nodes[1].pause(false);
    stage.flows("after one stream was deleted");
    // A node that starts later has seen nothing of the previous streams.
    stage.nodes[2].crash(|| {});
}

/// The record of the log's epoch is deleted.
pub(crate) fn meta_deleted(stage: &mut Stage) {
    stage.log().redis_ask(&["DEL", META_KEY]);
}

/// All entries of the log are trimmed while a node is behind.
pub(crate) fn trimmed(stage: &mut Stage) {
    stage.nodes[1].pause(true);
    publishes_some(stage, 0);
    match stage.engine {
        Engine::Redis => drop(stage.log().redis_ask(&["XTRIM", SHARD_KEY, "MAXLEN", "0"])),
        _ => drop(stage.log().nats_ask(&format!("$JS.API.STREAM.PURGE.{STREAM}"), &json!({}))),
    }
    publishes_some(stage, 0);
    stage.nodes[1].pause(false);
}

/// The log's server deletes all data while it runs, or is restarted without its files.
pub(crate) fn flushed(stage: &mut Stage) {
    if stage.engine == Engine::Redis {
        stage.log().redis_ask(&["FLUSHALL"]);
        return;
    }
    let folder = stage.log().folder().to_owned();
    stage.log_mut().kill();
    let _ = std::fs::remove_dir_all(&folder);
    stage.log_mut().resume();
}

/// Redis evicts keys because its memory is short.
pub(crate) fn evicted(stage: &mut Stage) {
    let publisher = stage.another_publisher();
    let log = stage.log();
    let number = |section: &str, name: &str| -> u64 {
        let info = stage.log().redis_ask(&["INFO", section]).expect("text");
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.expect("it is told").trim().parse().expect("a number")
    };
    let used = number("memory", "used_memory");
    log.redis_ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    log.redis_ask(&["CONFIG", "SET", "maxmemory", &(used + 400_000).to_string()]);
    // The least recently used keys are evicted first. After this many, the stream has been evicted more than once.
    const KEYS: u64 = 10;
    let mut next = 0;
    while number("stats", "evicted_keys") < KEYS && next < 4_000 {
        stage.nodes[0].publish_once(publisher, next, 20, 2_000);
        next += 20;
    }
    if number("stats", "evicted_keys") < KEYS {
        stage.fault("too little was evicted: the trial shows nothing");
    }
    stage.log().redis_ask(&["CONFIG", "SET", "maxmemory", "0"]);
}

/// The newest events are lost: one node has read them and confirmed them to publishers, and the node that publishes
/// next has not read them.
pub(crate) fn tail_lost(stage: &mut Stage) {
    if stage.engine == Engine::File {
        return tail_of_file_lost(stage);
    }
    let (folder, older) = (stage.log().folder().to_owned(), Place::new());
    // Only the first node has read the newest events.
    for node in &stage.nodes[1..] {
        node.pause(true);
    }
    stage.log_mut().kill();
    copy(&folder, older.path());
    stage.log_mut().resume();
    publishes_some(stage, 0);
    stage.nodes[0].pause(true);
    stage.log_mut().kill();
    copy(older.path(), &folder);
    stage.log_mut().resume();
    for node in &stage.nodes[1..] {
        node.pause(false);
    }
    publishes_some(stage, 1);
    stage.nodes[0].pause(false);
}

/// A crash of the machine loses everything that was not synced.
fn tail_of_file_lost(stage: &mut Stage) {
    let newest = stage.place().segments().pop().expect("a segment");
    stage.nodes[0].crash(|| segment::lose_tail(&newest));
}

/// The log refuses writes.
pub(crate) fn read_only(stage: &mut Stage) {
    match stage.engine {
        Engine::Redis => {
            // The server becomes a replica of one that does not exist.
            stage.log().redis_ask(&["REPLICAOF", "127.0.0.1", "1"]);
            stage.suffers();
            stage.log().redis_ask(&["REPLICAOF", "NO", "ONE"]);
        }
        _ => {
            stage.place.as_mut().expect("a place").cover();
            publish_until_refused(stage);
            stage.suffers();
            stage.place.as_mut().expect("a place").uncover();
        }
    }
}

/// Publishes until the open segment is full and the next one cannot be created.
fn publish_until_refused(stage: &mut Stage) {
    let publisher = stage.another_publisher();
    let is_refused = (0..200).any(|n| stage.nodes[0].publish_once(publisher, n, 1, 4_000) != 200);
    if !is_refused {
        stage.fault("nothing was refused: the trial shows nothing");
    }
}

/// The log's server has no memory left for writes.
pub(crate) fn out_of_memory(stage: &mut Stage) {
    if stage.engine == Engine::Redis {
        stage.log().redis_ask(&["CONFIG", "SET", "maxmemory", "1"]);
        stage.suffers();
        stage.log().redis_ask(&["CONFIG", "SET", "maxmemory", "0"]);
        return;
    }
    let names: Vec<String> = (0..stage.shards).map(|shard| format!("fanwire-{shard}")).collect();
    let ask = |stage: &Stage, name: &str, config: &Value| {
        let answer = stage.log().nats_ask(&format!("$JS.API.STREAM.UPDATE.{name}"), config);
        assert!(answer["config"].is_object(), "{answer}");
    };
    let info = |name: &String| stage.log().nats_ask(&format!("$JS.API.STREAM.INFO.{name}"), &json!({}));
    let before: Vec<Value> = names.iter().map(|name| info(name)["config"].clone()).collect();
    for (name, before) in names.iter().zip(&before) {
        let mut full = before.clone();
        full["max_bytes"] = json!(1000);
        full["discard"] = json!("new");
        ask(stage, name, &full);
    }
    stage.suffers();
    for (name, before) in names.iter().zip(&before) {
        ask(stage, name, before);
    }
}

/// The account has used up its limits on the server, until an operator makes room.
pub(crate) fn account_full(stage: &mut Stage) {
    publish_until_refused(stage);
    stage.suffers();
    stage.log().nats_ask(&format!("$JS.API.STREAM.PURGE.{STREAM}"), &json!({}));
}

/// The disk is full in the middle of a write, and has room again.
pub(crate) fn disk_full(stage: &mut Stage) {
    stage.place().fill();
    stage.suffers();
    stage.place().empty();
    if stage.engine == Engine::JetStream {
        // A NATS server turns JetStream off when its disk is full. Its operator restarts it.
        stage.log_mut().kill();
        stage.log_mut().resume();
    }
}

/// The disk is full at the moment when the next segment begins.
pub(crate) fn disk_full_at_a_segments_end(stage: &mut Stage) {
    let size = |stage: &Stage| {
        stage.place().segments().pop().map_or(0, |path| path.metadata().map_or(0, |of| of.len()))
    };
    // An eighth of the smallest size of the files. One more record needs another file.
    const FULL: u64 = 128 << 10;
    stage.nodes[0].hold(true);
    let publisher = stage.another_publisher();
    let mut n = 0;
    while size(stage) < FULL {
        let left = FULL - size(stage);
        stage.nodes[0].publish_once(publisher, n, 1, left.min(8_000) as usize);
        n += 1;
    }
    stage.place().fill();
    stage.nodes[0].hold(false);
    stage.suffers();
    stage.place().empty();
}

/// A node gets SIGTERM while the disk is full: it ends in time, and its successor has every accepted event.
pub(crate) fn ended_with_a_full_disk(stage: &mut Stage) {
    stage.place().fill();
    stage.suffers();
    let fault = stage.nodes[0].terminate();
    if let Some(what) = fault {
        stage.fault(what);
    }
    stage.place().empty();
    stage.nodes[0].revive();
}

/// An event that the log's server can never accept.
pub(crate) fn oversized(stage: &mut Stage) {
    let marks: Vec<usize> = stage.nodes.iter().map(crate::node::Node::attempts).collect();
    let publisher = stage.another_publisher();
    let status = stage.nodes[0].publish_once(publisher, 0, 1, 1_200_000);
    let expected: u16 = if stage.engine == Engine::File { 200 } else { 413 };
    if status != expected {
        stage.fault(format!("an oversized event was answered with {status}, not {expected}"));
    }
    // With one such event in a batch, none is accepted, and the answer gives the reason.
    let pad = |n: u64| if n == 2 { 1_200_000 } else { 10 };
    let publisher = stage.another_publisher();
    let status = stage.nodes[0].publish_padded(publisher, 0, 4, &pad);
    if status != expected {
        stage.fault(format!("a batch with an oversized event was answered with {status}, not {expected}"));
    }
    stage.flows("beside an oversized event");
    for (node, mark) in marks.into_iter().enumerate() {
        if stage.nodes[node].has_refused_from_own(mark) {
            stage.fault(format!("node {node} refused others because of an oversized event"));
        }
    }
}

/// One request of 20,000 events, and one of many larger ones.
pub(crate) fn large_batch(stage: &mut Stage) {
    for (count, pad) in [(20_000, 0), (350, 10_000)] {
        let publisher = stage.another_publisher();
        let status = stage.nodes[0].publish_once(publisher, 0, count, pad);
        if !(status == 200 || (400..500).contains(&status)) {
            stage.fault(format!("a batch of {count} events was answered with {status}"));
        }
        stage.flows("after a large batch");
    }
}

/// The log's epoch is a day ahead of the clock, and its record is lost.
pub(crate) fn clock_ahead(stage: &mut Stage) {
    if stage.engine == Engine::File {
        let newest = stage.place().segments().pop().expect("a segment");
        stage.nodes[0].crash(|| segment::put_ahead(&newest));
        return;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let ahead = (now + Duration::from_secs(86_400)).as_micros().to_string();
    let shards = stage.log().redis_ask(&["HGET", META_KEY, "shards"]).expect("a number");
    stage.log().redis_ask(&["FLUSHALL"]);
    stage.log().redis_ask(&["HSET", META_KEY, "epoch", &ahead, "shards", &shards]);
    stage.flows("with a log from a clock that was ahead");
    stage.log().redis_ask(&["DEL", META_KEY]);
}

/// One node's connection to the log is slow.
pub(crate) fn slow(stage: &mut Stage) {
    stage.proxy.as_ref().expect("a proxy").delay(Duration::from_millis(100));
    std::thread::sleep(Duration::from_millis(500));
    stage.flows("while the log is slow");
    stage.proxy.as_ref().expect("a proxy").delay(Duration::ZERO);
}

/// The log's answers do not reach one node for a while. The other nodes continue.
pub(crate) fn cut_off(stage: &mut Stage) {
    stage.proxy.as_ref().expect("a proxy").stall(true);
    let mark = stage.nodes[1].attempts();
    stage.suffers_at(&[0]);
    if stage.nodes[1].has_refused_from_own(mark) {
        stage.fault("a node refused events because another one was cut off");
    }
    stage.proxy.as_ref().expect("a proxy").stall(false);
}

/// One node's connections break, again and again.
pub(crate) fn connections_cut(stage: &mut Stage) {
    for _ in 0..6 {
        stage.proxy.as_ref().expect("a proxy").cut();
        std::thread::sleep(ACCEPT_TIMEOUT / 5);
    }
}

/// The shards' keys hold data of another type for a while.
pub(crate) fn of_another_type(stage: &mut Stage) {
    let keys: Vec<String> = (0..stage.shards).map(|shard| format!("{{fanwire}}:shard:{shard}")).collect();
    for key in &keys {
        stage.log().redis_ask(&["SET", key, "something else"]);
    }
    stage.suffers();
    for key in &keys {
        stage.log().redis_ask(&["DEL", key]);
    }
}

/// Another program writes to the log: an entry that is no event, and the highest possible number.
pub(crate) fn foreign_entries(stage: &mut Stage) {
    match stage.engine {
        Engine::JetStream => stage.log().say("fanwire.0", "not an event"),
        Engine::PlainNats => stage.log().say("fanwire.events.0.x", "not an event"),
        _ => {
            let epoch = stage.log().redis_ask(&["HGET", META_KEY, "epoch"]).expect("an epoch");
            stage.log().redis_ask(&["XADD", SHARD_KEY, &format!("{epoch}-*"), "e", "not an event"]);
            stage.flows("beside a foreign entry");
            stage.log().redis_ask(&[
                "XADD",
                SHARD_KEY,
                &format!("{epoch}-{}", u64::MAX),
                "e",
                "not an event",
            ]);
        }
    }
    // The highest number of each reader still grows: no event is repeated.
    let followed = stage.nodes[0].server.metric("fanwire_engine_events_followed_total").unwrap_or(0.0);
    std::thread::sleep(Duration::from_secs(1));
    let after = stage.nodes[0].server.metric("fanwire_engine_events_followed_total").unwrap_or(0.0);
    if after - followed > 5_000.0 {
        stage.fault(format!("the log was read without end: {} events in a second", after - followed));
    }
}

/// The log's server deletes its consumers.
pub(crate) fn readers_deleted(stage: &mut Stage) {
    let names = stage.log().nats_ask(&format!("$JS.API.CONSUMER.NAMES.{STREAM}"), &json!({}));
    let names = names["consumers"].as_array().cloned().unwrap_or_default();
    if names.is_empty() {
        stage.fault("no client reads the stream: the trial shows nothing");
    }
    for name in names.iter().filter_map(Value::as_str) {
        stage.log().nats_ask(&format!("$JS.API.CONSUMER.DELETE.{STREAM}.{name}"), &json!({}));
    }
}

/// A user leaves and another joins while the log is unavailable: watchers on every node get both events, or a gap.
pub(crate) fn presence_changes(stage: &mut Stage) {
    let join = |stage: &Stage, at: usize, user: &str| {
        let mut ws = Ws::over(Wire::connect(stage.nodes[at].server.addr), &format!("/ws?user={user}"), "");
        ws.send(&json!({"type": "subscribe", "payload": {"channels": ["room.1"]}}));
        ws
    };
    let mut watchers: Vec<Ws> = (0..2).map(|at| join(stage, at, &format!("watcher-{at}"))).collect();
    let ann = join(stage, 0, "ann");
    for watcher in &mut watchers {
        presence(watcher, "presence.joined", "ann");
    }
    stage.log_mut().kill();
    drop(ann);
    let bob = join(stage, 0, "bob");
    // Longer than any wait for the log.
    stage.suffers_at(&[0, 1]);
    stage.log_mut().resume();
    stage.flows("after the log was away");
    for (at, watcher) in watchers.iter_mut().enumerate() {
        for (what, user) in [("presence.left", "ann"), ("presence.joined", "bob")] {
            if !presence(watcher, what, user) {
                stage.fault(format!("the watcher on node {at} was not told: {what} of {user}"));
            }
        }
    }
    drop(bob);
}

/// Reads until a watcher gets this presence event of a user, or a gap. Returns whether it was the event.
fn presence(watcher: &mut Ws, what: &str, user: &str) -> bool {
    let end = deadline();
    while let Ok(frame) = watcher.read_frame(end) {
        let Ok(message) = serde_json::from_slice::<Value>(&frame.payload) else { continue };
        let event = &message["payload"];
        if message["type"] == "gap" || (event["event_type"] == what && event["payload"]["user"] == user) {
            return true;
        }
    }
    false
}
