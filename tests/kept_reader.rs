//! Kept logs read within the embedding program, beside its server.

mod support;

use std::time::Duration;

use fanwire::server::{
    KeptDelivery, KeptEnd, NotKept, ReadFrom, RetainBy, RetainRule, ServerConfig, ServerHandle,
};
use fanwire::{Bus, Event, Filter, Server};
use futures_util::StreamExt as _;
use support::sse::Sse;

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
