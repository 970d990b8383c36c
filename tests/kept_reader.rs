//! Kept logs read within the embedding program, beside its server.

mod support;

use std::time::Duration;

use fanwire::engine::EngineConfig;
use fanwire::server::{
    KeptDelivery, KeptEnd, KeptReader, NotKept, ReadFrom, RetainBy, RetainRule, ServerConfig, ServerHandle,
};
use fanwire::{Bus, Event, Filter, Server};
use futures_util::StreamExt as _;
use serde_json::json;
use support::log_home::LogHome;
use support::sse::Sse;
use support::{eventually, http};

fn event(stream: &str, event_type: &str, n: u32) -> Event {
    let event = Event::builder(event_type).stream(stream);
    event.payload(&n).build().expect("valid")
}

/// A server of this many shards, with rings of 64 events.
fn start(shards: usize) -> (Bus, ServerHandle) {
    let bus = Bus::builder().capacity(64).shards(shards).build().expect("valid");
    let mut config = ServerConfig::default();
    let rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("a filter");
    config.retain.rules = vec![rule.end(["run.finished"])];
    let server = Server::builder(&bus).config(config).listen("127.0.0.1:0").spawn().expect("it starts");
    (bus, server)
}

/// Publishes tokens of run-1, and as many events of no rule, no faster than the loops read.
fn publish(bus: &Bus, live: &mut Sse, numbers: std::ops::Range<u32>) {
    for n in numbers {
        bus.publish(event("noise", "noise", n));
        bus.publish(event("run-1", "token", n));
        if n % 8 == 7 {
            (0..8).for_each(|_| drop(live.event()));
        }
    }
}

fn number(delivery: &KeptDelivery) -> u32 {
    match delivery {
        KeptDelivery::Event(event) => event.payload().parse().expect("a number"),
        other => panic!("{other:?}"),
    }
}

fn stop(bus: &Bus, server: ServerHandle) {
    bus.close();
    server.drain(Duration::ZERO);
    server.join().expect("it ends");
}

#[test]
fn a_run_comes_from_its_start_to_its_end() {
    for shards in [1, 4] {
        let (bus, server) = start(shards);
        let mut live = Sse::open(server.local_addr(), "?stream=run-1");
        publish(&bus, &mut live, 0..160);
        // The ring has only the last of them. One of the two filters leaves the end out.
        let all = server.subscribe_from("stream=run-1".parse::<Filter>().expect("a filter"), ReadFrom::Start);
        let tokens = "stream=run-1 type=token".parse::<Filter>().expect("a filter");
        let tokens = server.subscribe_from(tokens, ReadFrom::Start);
        let (mut all, mut tokens) = (all.expect("it is kept"), tokens.expect("it is kept"));
        assert_eq!(
            (0..100).map(|_| number(&all.recv().expect("an item"))).collect::<Vec<_>>(),
            (0..100).collect::<Vec<_>>()
        );
        for n in 160..176 {
            bus.publish(event("run-1", "token", n));
        }
        let last = bus.publish(event("run-1", "run.finished", 176));
        bus.publish(event("run-2", "token", 0));
        let mut rest: Vec<KeptDelivery> = all.into_iter().collect();
        let Some(KeptDelivery::End(KeptEnd { by, value, last_event_id, event_type, complete, .. })) =
            rest.pop()
        else {
            panic!("{rest:?}")
        };
        assert_eq!(
            (by, value.as_str(), event_type.as_str(), complete),
            (RetainBy::Stream, "run-1", "run.finished", true)
        );
        assert_eq!(Some(last_event_id), last.id, "{shards} shards");
        assert_eq!(rest.iter().map(number).collect::<Vec<_>>(), (100..177).collect::<Vec<_>>());
        let mut count = 0;
        while let Ok(KeptDelivery::Event(_)) = tokens.try_recv() {
            count += 1;
        }
        assert_eq!(count, 176, "the end came instead of another event");
        assert!(tokens.try_recv().is_err(), "nothing follows the end");
        stop(&bus, server);
    }
}

#[test]
fn in_async_code_it_is_a_stream() {
    let (bus, server) = start(1);
    for n in 0..5 {
        bus.publish(event("run-1", "token", n));
    }
    let reader = server.subscribe_from("stream=run-1".parse::<Filter>().expect("a filter"), ReadFrom::Start);
    let reader = reader.expect("it is kept");
    bus.publish(event("run-1", "run.finished", 5));
    let items: Vec<KeptDelivery> = smol::block_on(reader.collect());
    assert_eq!(items[..6].iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(matches!(&items[6..], [KeptDelivery::End(end)] if end.complete), "{items:?}");
    stop(&bus, server);
}

#[test]
fn what_no_rule_keeps_is_refused() {
    let (bus, server) = start(1);
    for text in ["stream=other", "type=token", "stream=run-1,other"] {
        let refused = server.subscribe_from(text.parse::<Filter>().expect("a filter"), ReadFrom::Start);
        assert_eq!(refused.err(), Some(NotKept::NotCovered), "{text}");
    }
    stop(&bus, server);
}

/// A server with this log, and a ring that holds all events of a test, because its readers are not read all the time.
fn start_on(home: &LogHome) -> (Bus, ServerHandle) {
    let bus = Bus::builder().capacity(1024).build().expect("valid");
    let mut config = ServerConfig::default();
    let rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("a filter");
    config.retain.rules = vec![rule.end(["run.finished"])];
    let server = Server::builder(&bus).config(config).listen("127.0.0.1:0");
    let server = server.engine(EngineConfig::new(home.url.clone())).spawn().expect("it starts");
    (bus, server)
}

/// Publishes events of run-1 with these numbers through the engine, one noise before each. Returns the last id.
fn post(server: &ServerHandle, event_type: &str, numbers: std::ops::Range<u32>) -> String {
    let events: Vec<_> = numbers
        .flat_map(|n| {
            let event = json!({"type": event_type, "stream_id": "run-1", "payload": n});
            [json!({"type": "noise", "stream_id": "noise"}), event]
        })
        .collect();
    let body = json!(events).to_string();
    let answer = http::post(server.local_addr(), "/publish", "application/json", body.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["last_event_id"].as_str().expect("an id").to_owned()
}

fn read_run(server: &ServerHandle) -> KeptReader {
    let filter = "stream=run-1".parse::<Filter>().expect("a filter");
    let mut reader = None;
    eventually("the engine's log is read", || {
        reader = match server.subscribe_from(filter.clone(), ReadFrom::Start) {
            Err(NotKept::NotReady) => None,
            other => Some(other.expect("it is kept")),
        };
        reader.is_some()
    });
    reader.expect("it is there")
}

#[test]
fn with_an_engine_a_run_comes_from_the_log_of_all_nodes() {
    for kind in ["files", "redis", "nats"] {
        let home = LogHome::new(kind);
        let (bus, server) = start_on(&home);
        eventually("it is ready", || http::get(server.local_addr(), "/readyz").status == 200);
        post(&server, "token", 0..100);
        let early = read_run(&server);
        // Events come while readers begin: between the past and live events none is missing or repeated.
        let mut readers = std::thread::scope(|scope| {
            let writer = scope.spawn(|| (100..200).for_each(|n| drop(post(&server, "token", n..n + 1))));
            let mut readers = vec![early];
            while !writer.is_finished() || readers.len() < 3 {
                let mut reader = read_run(&server);
                readers.truncate(20);
                (0..100).for_each(|n| assert_eq!(number(&reader.recv().expect("an item")), n, "{kind}"));
                readers.push(reader);
            }
            readers
        });
        let mut first = readers.remove(0);
        (0..200).for_each(|n| assert_eq!(number(&first.recv().expect("an item")), n, "{kind}"));
        for reader in &mut readers {
            (100..200).for_each(|n| assert_eq!(number(&reader.recv().expect("an item")), n, "{kind}"));
        }
        let last = post(&server, "run.finished", 200..201);
        for reader in [first].into_iter().chain(readers) {
            let items: Vec<KeptDelivery> = reader.into_iter().collect();
            assert_eq!(number(&items[0]), 200, "{kind}");
            let [_, KeptDelivery::End(end)] = &items[..] else { panic!("{kind}: {items:?}") };
            assert_eq!((end.last_event_id.to_string(), end.complete), (last.clone(), true), "{kind}");
        }
        stop(&bus, server);
        // The next process reads it from the log.
        let (bus, server) = start_on(&home);
        let items: Vec<KeptDelivery> = read_run(&server).into_iter().collect();
        assert_eq!(items[..201].iter().map(number).collect::<Vec<_>>(), (0..201).collect::<Vec<_>>());
        assert!(matches!(&items[201..], [KeptDelivery::End(end)] if end.complete), "{kind}");
        stop(&bus, server);
    }
}

#[test]
fn a_reader_is_told_of_a_purge() {
    let home = LogHome::new("files");
    for has_engine in [false, true] {
        let (bus, server) = if has_engine { start_on(&home) } else { start(1) };
        eventually("it is ready", || http::get(server.local_addr(), "/readyz").status == 200);
        post(&server, "token", 0..1);
        let (mut reader, addr) = (read_run(&server), server.local_addr());
        assert_eq!(number(&reader.recv().expect("an item")), 0);
        eventually("it is purged", || {
            let request = "DELETE /events?stream=run-1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
            http::exchange(addr, request.as_bytes()).status == 200
        });
        post(&server, "token", 1..2);
        assert!(matches!(reader.recv(), Ok(KeptDelivery::Gap(None))), "{has_engine}");
        assert_eq!(number(&reader.recv().expect("an item")), 1);
        post(&server, "run.finished", 2..3);
        assert_eq!(number(&reader.recv().expect("an item")), 2);
        assert!(matches!(reader.recv(), Ok(KeptDelivery::End(end)) if !end.complete), "{has_engine}");
        stop(&bus, server);
    }
}
