//! Small operations, each repeated a given number of times. `cargo xtask instructions` counts the instructions
//! of one under callgrind: times vary with the machine's load, counts do not.
//!
//! `instructions OPERATION TIMES`; `instructions machine`; without arguments the operations' names. No operation may
//! depend on random numbers, except for the seed of the matcher's hash tables.

mod common;

use std::hint::black_box;

use common::{MASK, masked};
use fanwire::filter::FilterLimits;
use fanwire::internals::http::{BodyDecoder, BodyFraming, HttpLimits, parse_request};
use fanwire::internals::sse::{SseParser, encode_event};
use fanwire::internals::ws::{Decoder, OpCode, Role, WsLimits, encode, unmask};
use fanwire::internals::{Fan, Matcher, OneClient, client_frame, native_frame};
use fanwire::{Bus, Event, Filter, LosslessBus, Predicate};

const WS: WsLimits = WsLimits { max_message_bytes: 1 << 20, max_frame_bytes: 1 << 20 };
const DATA: &str =
    r#"{"event_type":"task.progress","payload":{"text":"reading the sources, sixteen of them"}}"#;
const HEAD: &[u8] =
    b"POST /publish HTTP/1.1\r\nHost: 127.0.0.1:8765\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\
    Content-Type: application/json\r\nContent-Length: 120\r\n\r\n";

/// Decodes one frame repeatedly.
fn decode(op: OpCode, len: usize, times: u64) {
    let frame = masked(op, len);
    let mut bytes = frame.clone();
    let mut decoder = Decoder::new(Role::Server);
    for _ in 0..times {
        bytes.copy_from_slice(&frame);
        let (used, message) = decoder.decode(black_box(&mut bytes), &WS).expect("valid");
        assert!(message.is_some());
        black_box(used);
    }
}

fn encode_frames(times: u64) {
    let payload = [b'x'; 128];
    let mut out = Vec::with_capacity(256);
    for _ in 0..times {
        out.clear();
        encode(&mut out, OpCode::Text, black_box(&payload));
        black_box(&out);
    }
}

fn unmask_4k(times: u64) {
    let mut payload = vec![b'x'; 4096];
    for _ in 0..times {
        unmask(black_box(&mut payload), MASK, 1);
    }
}

fn encode_sse(times: u64) {
    let mut out = Vec::with_capacity(1024);
    for _ in 0..times {
        out.clear();
        encode_event(&mut out, Some("task.progress"), black_box(DATA), Some("abc-123"));
        black_box(&out);
    }
}

fn parse_sse(times: u64) {
    let mut block = Vec::new();
    encode_event(&mut block, Some("task.progress"), DATA, Some("abc-123"));
    let mut parser = SseParser::new(1 << 20);
    for _ in 0..times {
        black_box(parser.feed(&mut black_box(block.as_slice())).expect("valid").expect("an event"));
    }
}

fn parse_head(times: u64) {
    let limits = HttpLimits::default();
    for _ in 0..times {
        black_box(parse_request(black_box(HEAD), &limits).expect("valid").expect("whole"));
    }
}

fn decode_chunks(times: u64) {
    let body = format!("{:x}\r\n{DATA}\r\n0\r\n\r\n", DATA.len());
    let limits = HttpLimits::default();
    let mut out = Vec::with_capacity(256);
    for _ in 0..times {
        out.clear();
        let mut decoder = BodyDecoder::new(&BodyFraming::Chunked, &limits).expect("within the limits");
        let (_, done) = decoder.decode(black_box(body.as_bytes()), &mut out).expect("valid");
        assert!(done);
    }
}

fn event(nth: u64) -> Event {
    let stream = format!("s{}", nth % 1000);
    Event::builder("task.progress").source("core").stream(&stream).json(DATA).build().expect("valid")
}

fn read_event(times: u64) {
    for _ in 0..times {
        black_box(Event::from_json(black_box(DATA)).expect("valid"));
    }
}

fn encode_native(times: u64) {
    let event = event(0);
    for _ in 0..times {
        black_box(native_frame(black_box(&event)));
    }
}

fn publish_plain(times: u64) {
    let bus: Bus<u64> = Bus::builder().carrying().capacity(1024).build().expect("valid");
    for n in 0..times {
        black_box(bus.publish(black_box(n)));
    }
}

fn publish_and_read(times: u64) {
    let bus: Bus<u64> = Bus::builder().carrying().capacity(1024).build().expect("valid");
    let mut reader = bus.subscribe(Predicate::all());
    for n in 0..times {
        bus.publish(black_box(n));
        black_box(reader.try_recv().expect("it is there"));
    }
}

fn publish_events(times: u64) {
    let bus = Bus::builder().capacity(64).build().expect("valid");
    let mut reader = bus.subscribe(Filter::new());
    let mut publisher = bus.publisher();
    for n in 0..times {
        publisher.publish(event(n));
        black_box(reader.try_recv().expect("it is there"));
    }
}

fn publish_lossless(times: u64) {
    let bus = LosslessBus::builder().carrying::<u64>().capacity(1024).build_lossless().expect("valid");
    for n in 0..times {
        bus.publish_blocking(black_box(n)).expect("open");
    }
}

fn filters(pattern: bool) -> Vec<Filter> {
    let kind = if pattern { "task.*" } else { "task.progress" };
    (0..1000).map(|n| Filter::new().types([kind]).streams([format!("s{n}")])).collect()
}

fn matching(pattern: bool, times: u64) {
    let mut matcher = Matcher::new(FilterLimits::default());
    for filter in filters(pattern) {
        matcher.insert(&filter);
    }
    let events: Vec<Event> = (0..100).map(event).collect();
    let mut out = Vec::new();
    for event in events.iter().cycle().take(times as usize) {
        matcher.matches(black_box(event), &mut out);
        assert_eq!(out.len(), 1);
    }
}

/// Matches events with the same payload against these filters. `want` of them match.
fn matching_payloads(filters: impl Iterator<Item = String>, want: usize, times: u64) {
    let mut matcher = Matcher::new(FilterLimits::default());
    for filter in filters {
        matcher.insert(&filter.parse().expect("valid"));
    }
    let payload = r#"{"message":"reading the sources, sixteen of them so far","progress":10,"user":"u7","of":{"id":"t-1","a":1}}"#;
    let event = Event::builder("task.progress").source("core").json(payload).build().expect("valid");
    let mut out = Vec::new();
    for _ in 0..times {
        matcher.matches(black_box(&event), &mut out);
        assert_eq!(out.len(), want);
    }
}

fn subscribe(times: u64) {
    let mut matcher = Matcher::new(FilterLimits::default());
    let filters = filters(false);
    for filter in &filters[1..] {
        matcher.insert(filter);
    }
    for _ in 0..times {
        let class = matcher.insert(black_box(&filters[0]));
        matcher.remove(class);
    }
}

fn deliver(times: u64) {
    let mut fan = Fan::new(100, 1);
    for _ in 0..times {
        let event = Event::builder("kind0.progress").source("core").json(DATA).build().expect("valid");
        assert_eq!(fan.deliver(vec![event]), 100);
    }
}

/// Returns an event in the channel of one of 1,000 clients.
fn in_own_channel(n: u64) -> Event {
    let channel = format!("user-{}", n * 7 % 1000);
    Event::builder("kind0.progress").source("core").channel(&channel).json(DATA).build().expect("valid")
}

/// Returns an event of one of 1,000 symbols.
fn quote(n: u64) -> Event {
    let symbol = (n * 7 % 1000).to_string();
    Event::builder("quote").source("core").entity("symbol", &symbol).json(DATA).build().expect("valid")
}

/// Sends single events to 1,000 clients, each to the owner of its channel.
fn deliver_to_own_channels(times: u64) {
    let mut fan = Fan::own_channels(1000);
    for n in 0..times {
        assert_eq!(fan.deliver(vec![in_own_channel(n)]), 1);
    }
}

/// Sends bursts of events to 500 clients with 100 of 1,000 symbols each: about 50 deliveries for each event.
fn deliver_to_watch_lists(times: u64) {
    let mut fan = Fan::watch_lists(500, 100);
    for from in (0..times).step_by(500) {
        assert!(fan.deliver((from..times.min(from + 500)).map(quote).collect()) > 0);
    }
}

/// Runs a loop's turn for single events, each for the owner of its channel.
fn turn_for_own_channels(times: u64) {
    let mut client = OneClient::subscribed(1_000, |n| format!(r#""channels":["user-{n}"]"#));
    for n in 0..times {
        client.publishes(in_own_channel(n));
        client.quiet_turn();
    }
}

/// Returns a loop with 1,000 clients that have 20 of 1,000 symbols each.
fn watch_lists() -> OneClient {
    OneClient::subscribed(1_000, |conn| {
        let symbols = (0..20).map(|n| format!(r#""symbol:{}""#, (conn * 37 + n * n * 7 + n * 11) % 1000));
        format!(r#""entities":[{}]"#, symbols.collect::<Vec<_>>().join(","))
    })
}

/// Publishes to a loop of 1,000 clients with watch lists. Each 20th event comes in a tick of its own, and then the loop looks at
/// all connections and their memory. Few enough ticks that no heartbeat is due.
fn report_of_watch_lists(times: u64) {
    let mut client = watch_lists();
    for n in 0..times {
        client.publishes(quote(n));
        if n % 20 == 19 {
            client.quiet_tick(2 + n / 20);
        }
    }
}

/// Runs a loop's turn for each burst of 50 events to 1,000 clients with 20 of 1,000 symbols each: about 20 deliveries for each event.
fn turn_for_watch_lists(times: u64) {
    let mut client = watch_lists();
    for n in 0..times {
        client.publishes(quote(n));
        if n % 50 == 49 {
            client.quiet_turn();
        }
    }
}

/// Fills turns of a loop with the most expensive messages of a kind. `cargo xtask instructions` limits the most
/// expensive turn of each to 6 million instructions, and to 300,000 if the client has shown no token.
fn turns(mut client: OneClient, endless: &[u8], times: u64) {
    client.forget();
    client.repeats(endless);
    for _ in 0..times {
        client.counted_turn();
        answered(&mut client);
    }
}

/// Sends one message at a time, and counts its turns.
fn messages(mut client: OneClient, says: impl Fn(u64) -> Vec<u8>, times: u64) {
    for n in 0..times {
        client.forget();
        client.arrives(&says(n));
        client.settle_counted();
        answered(&mut client);
    }
}

/// Checks that the client is connected: turns of a disconnected one would cost nothing.
fn answered(client: &mut OneClient) {
    assert!(client.forget() > 0, "the client is not answered");
}

fn text(payload: &str) -> Vec<u8> {
    client_frame(1, payload.as_bytes())
}

fn native() -> OneClient {
    OneClient::at("/ws", false)
}

/// Returns a `subscribe` with enough values to fill 64 KiB. Each message has other values.
fn wide(count: usize, n: u64) -> Vec<u8> {
    let pad = "x".repeat((60_000 / count).saturating_sub(10));
    let values: Vec<String> = (0..count).map(|at| format!("\"{pad}{at}.{n}\"")).collect();
    text(&format!(
        r#"{{"type":"subscribe","payload":{{"subscription_id":"s","event_types":[{}]}}}}"#,
        values.join(",")
    ))
}

/// Returns a `subscribe` of 256 patterns with the maximum of segments and two `**` each.
fn deep(n: u64) -> Vec<u8> {
    let values: Vec<String> = (0..256).map(|at| format!("\"**.{}a{at}.{n}.**\"", "b.".repeat(28))).collect();
    text(&format!(
        r#"{{"type":"subscribe","payload":{{"subscription_id":"s","event_types":[{}]}}}}"#,
        values.join(",")
    ))
}

/// Returns a `subscribe` with lists of 256 combinations, so the index has as many paths.
fn product(n: u64) -> Vec<u8> {
    let list = |name: &str| (0..16).map(|at| format!("\"{name}{at}.{n}\"")).collect::<Vec<_>>().join(",");
    text(&format!(
        r#"{{"type":"subscribe","payload":{{"subscription_id":"s","event_types":[{}],"sources":[{}]}}}}"#,
        list("t"),
        list("s")
    ))
}

fn subscribe_text(filter: &str) -> Vec<u8> {
    text(&format!(r#"{{"type":"subscribe","payload":{{"subscription_id":"s","filter":"{filter}"}}}}"#))
}

/// Returns a text with two groups of one attribute: each value of one is compared with each pattern of the
/// other.
fn groups(n: u64) -> Vec<u8> {
    let pad = "b.".repeat(20);
    let values: Vec<String> = (0..128).map(|at| format!("{pad}{n}.{at}.{pad}c")).collect();
    let patterns: Vec<String> = (0..127).map(|at| format!("**.{pad}**.{at}x")).collect();
    subscribe_text(&format!("type={} & type={}", values.join(","), patterns.join(",")))
}

/// Returns a text with the maximum number of conditions and keys, each on its own field.
fn conditions(n: u64) -> Vec<u8> {
    let values: Vec<String> = (0..16).map(|at| format!("v{n}.{at}")).collect();
    let one = |at| format!("payload{}.f{at} == {}", ".key".repeat(31), values.join(","));
    subscribe_text(&(0..16).map(one).collect::<Vec<_>>().join(" "))
}

/// Subscribes and unsubscribes one client beside this many others.
fn change(held: usize, times: u64) {
    let mut client = native();
    for n in 0..held {
        client.says(&format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"h{n}","event_types":["kind{n}.*"],"sources":["s{n}"]}}}}"#
        ));
        client.settle();
    }
    for n in 0..times {
        client.says(&format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"x","event_types":["one{n}.*"],"sources":["core"]}}}}"#
        ));
        client.settle();
        client.says(r#"{"type":"unsubscribe","payload":{"subscription_id":"x"}}"#);
        client.settle();
    }
}

/// Requests pages of a ring with 1,000 events that have this payload. No page is created by a worker.
fn pages(payload: String, query: &str, times: u64) {
    let client = OneClient::new(false);
    for _ in 0..1_000 {
        client.publishes(Event::builder("step").json(&*payload).build().expect("valid"));
    }
    let request = format!("GET /events?{query} HTTP/1.1\r\nHost: t\r\n\r\n").into_bytes();
    messages(client, |_| request.clone(), times);
}

/// Changes one of 1,000 values of a list repeatedly. If the subscription has snapshots, there are events for all
/// values.
fn update_one(has_snapshot: bool, times: u64) {
    let mut client = native();
    let symbol = |n: u64| format!("symbol:S{n:04}");
    if has_snapshot {
        for n in 0..2_000 {
            let event = format!(
                r#"{{"type":"quote","entity":{{"kind":"symbol","id":"S{n:04}"}},"data":{{"bid":{n}}}}}"#
            );
            client.says(&format!(r#"{{"type":"publish","payload":{event}}}"#));
            client.settle();
        }
    }
    let all: Vec<String> = (0..1_000).map(|n| format!("\"{}\"", symbol(n))).collect();
    client.says(&format!(
        r#"{{"type":"subscribe","payload":{{"subscription_id":"w","event_types":["quote"],"entities":[{}],"snapshot":{has_snapshot}}}}}"#,
        all.join(",")
    ));
    client.settle();
    for n in 0..times {
        let (add, remove) =
            (symbol(1_000 + n % 1_000), symbol(if n < 1_000 { n } else { 1_000 + (n - 1_000) % 1_000 }));
        client.says(&format!(
            r#"{{"type":"update","payload":{{"subscription_id":"w","add":{{"entities":["{add}"]}},"remove":{{"entities":["{remove}"]}}}}}}"#
        ));
        client.settle();
    }
}

/// Number of events of a kept run.
const RUN: u64 = 1_000;

/// Attaches clients to a kept run, and reads it to its end: one client for each of its events, so a count is that of one event.
/// With `is_first`, no client has read the run before.
fn attaches(is_first: bool, fields: &str, times: u64) {
    let mut client = OneClient::keeping();
    for n in 0..RUN {
        let payload = format!(r#"{{"n":{n},"delta":"reading "}}"#);
        client.publishes(Event::builder("token").stream("run-1").json(payload).build().expect("valid"));
        client.quiet_turn();
    }
    for nth in 0..=times / RUN {
        if is_first {
            client.drops_blocks();
        }
        client.comes_again("/ws");
        if nth > 0 {
            // Long copies count by the byte or by 32 bytes, by how they are aligned.
            client.drops_output();
        }
        client.says(&format!(
            r#"{{"type":"subscribe","payload":{{"stream_ids":["run-1"],"from":"start"{fields}}}}}"#
        ));
        assert!(client.settle().1.len() > 1_000 || nth > 0);
    }
}

fn subscribes_in_one_write(times: u64) {
    let mut client = native();
    for n in 0..999 {
        client.says(&format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"h{n}","event_types":["kind{n}.*"]}}}}"#
        ));
        client.settle();
    }
    let one = |kind: &str| {
        text(&format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"x","event_types":["{kind}"]}}}}"#
        ))
    };
    turns(client, &[one("a.*"), one("b.*")].concat(), times);
}

/// Returns AutoSDLC patterns with the maximum number of types for one message.
fn autosdlc_runs(n: u64) -> Vec<u8> {
    autosdlc((0..8).map(|at| format!("\"*:a{at}.{n}:*{}e\"", "*".repeat(at / 4))))
}

/// Returns the maximum number of AutoSDLC pairs of resource and event for one message.
fn autosdlc_pairs(n: u64) -> Vec<u8> {
    autosdlc((0..64).map(|at| format!("\"agent:a.{n}:e{at}\"")))
}

/// Returns the maximum number of AutoSDLC patterns for one message, each of one known type.
fn autosdlc_patterns(n: u64) -> Vec<u8> {
    autosdlc((0..256).map(|at| format!("\"agent:a{at}.{n}.*:status\"")))
}

fn autosdlc(patterns: impl Iterator<Item = String>) -> Vec<u8> {
    let patterns = patterns.collect::<Vec<_>>().join(",");
    text(&format!(r#"{{"type":"subscribe","data":{{"subscriptionId":"s","patterns":[{patterns}]}}}}"#))
}

/// Returns the maximum number of events of an AutoSDLC resource for one message.
fn autosdlc_events(n: u64) -> Vec<u8> {
    let events: Vec<String> = (0..256).map(|at| format!("\"a{at}.{n}.*\"")).collect();
    let events = events.join(",");
    text(&format!(
        r#"{{"type":"subscribe","data":{{"subscriptionId":"s","resource":"a*","events":[{events}]}}}}"#
    ))
}

/// Requests a list of 1,000 subscriptions with 100 values each (1.2 MB) repeatedly.
fn lists(times: u64) {
    let mut client = native();
    for n in 0..1_000 {
        let values: Vec<String> = (0..100).map(|at| format!("\"value.{n}.{at}\"")).collect();
        let values = values.join(",");
        client.says(&format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"h{n}","event_types":[{values}]}}}}"#
        ));
        client.settle();
    }
    let ask = text(r#"{"type":"request","payload":{"action":"list_subscriptions"}}"#);
    messages(client, |_| ask.clone(), times);
}

fn publish_64k(n: u64) -> Vec<u8> {
    let numbers = "1,".repeat(30_000);
    text(&format!(r#"{{"type":"publish","payload":{{"type":"a.b","payload":[{numbers}{n}]}}}}"#))
}

/// Returns a `publish` with AutoSDLC's `key` at its end, of a type whose payload names the entity.
fn publish_unusual(n: u64) -> Vec<u8> {
    let numbers = "1,".repeat(29_900);
    text(&format!(
        r#"{{"type":"publish","payload":{{"type":"agent.status","payload":{{"x":[{numbers}{n}]}},"key":"agent:a:status"}}}}"#
    ))
}

/// Returns a `publish` with an unknown last key.
fn publish_refused(n: u64) -> Vec<u8> {
    let numbers = "1,".repeat(29_900);
    text(&format!(r#"{{"type":"publish","payload":{{"type":"a","payload":[{numbers}{n}],"entitty":1}}}}"#))
}

/// Matches one event against these filters of a client, in as many turns as that takes.
fn matches_one(filters: impl Iterator<Item = String>, event_type: &str, payload: &str, times: u64) {
    let mut client = native();
    for (n, filter) in filters.chain(["type=*,b.**".to_owned()]).enumerate() {
        if n % 200 == 199 {
            // A client may hold at most 32,768 values, so there are several.
            client.another("/ws");
        }
        client.says(&format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"s{n}","filter":"{filter}"}}}}"#
        ));
        client.settle();
    }
    for _ in 0..times {
        client.forget();
        client.publishes(Event::builder(event_type).json(payload).build().expect("valid"));
        client.settle_counted();
        answered(&mut client);
    }
}

/// Matches an event of 64 KiB with 6,000 fields against 1,000 filters on these fields, of which none matches.
fn matches_fields(times: u64) {
    let fields: Vec<String> = (0..6_000).map(|n| format!("\"a{n}\":{n}")).collect();
    let one = |n: usize| format!("payload.a{n}>=0");
    let filter = |n: usize| {
        let own: Vec<String> = (0..6).map(|at| one(n * 6 + at)).collect();
        format!("{} payload.a0!=0", own.join(" "))
    };
    matches_one((0..1_000).map(filter), "a", &format!("{{{}}}", fields.join(",")), times);
}

/// Matches an event of a megabyte, which a body may contain, against one condition.
fn matches_1m(times: u64) {
    let payload = format!("[{}1]", "[],".repeat(330_000));
    matches_one(std::iter::once("payload.x==1".to_owned()), "a", &payload, times);
}

/// Matches an event against 250 patterns that no index holds.
fn matches_negated(times: u64) {
    let patterns: Vec<String> = (0..250).map(|n| format!("**.{}x{n}.**", "b.".repeat(28))).collect();
    let filter = format!("type!={}", patterns.join(","));
    matches_one(std::iter::once(filter), &("b.".repeat(500) + "b"), "{}", times);
}

/// Returns a message of a client without a token: as long as a token may be, filled with brackets.
fn stranger(open: &str) -> Vec<u8> {
    stranger_with(open, "[],")
}

/// Like [`stranger`], filled with other values.
fn stranger_with(open: &str, value: &str) -> Vec<u8> {
    let list = value.repeat((8_700 - open.len()) / value.len());
    text(&format!("{open}[{list}0]}}"))
}

/// Sends messages of a client without a token. The dialect of `path` disconnects it at the first one that is no token,
/// so each message has a new connection.
fn strangers(path: &str, message: &[u8], times: u64) {
    let mut client = OneClient::at(path, true);
    for _ in 0..times {
        client.comes_again(path);
        client.repeats(message);
        client.counted_turn();
        answered(&mut client);
    }
}

fn body(n: u64) -> Vec<u8> {
    let line = "{\"type\":\"a\"}\n";
    let lines = line.repeat(16 * 1024 / line.len());
    format!(
        "POST /publish HTTP/1.1\r\nHost: t\r\nContent-Type: application/x-ndjson\r\nX-N: {n}\r\nContent-Length: {}\r\n\r\n{lines}",
        lines.len()
    )
    .into_bytes()
}

type Operation = (&'static str, fn(u64));

/// Returns an update of 1,024 values that fill 64 KiB. Every other update removes what the previous one has added.
fn wide_update(n: u64) -> Vec<u8> {
    let pad = "x".repeat(45);
    let values: Vec<String> = (0..1_024).map(|at| format!("\"{pad}{at}.{}\"", n / 2)).collect();
    let verb = if n.is_multiple_of(2) { "add" } else { "remove" };
    text(&format!(
        r#"{{"type":"update","payload":{{"subscription_id":"s","{verb}":{{"event_types":[{}]}}}}}}"#,
        values.join(",")
    ))
}

const OPERATIONS: &[Operation] = &[
    ("frame-encode-128", encode_frames),
    ("frame-decode-binary-128", |times| decode(OpCode::Binary, 128, times)),
    ("frame-decode-text-128", |times| decode(OpCode::Text, 128, times)),
    ("unmask-4096", unmask_4k),
    ("sse-encode", encode_sse),
    ("sse-parse", parse_sse),
    ("http-parse-head", parse_head),
    ("http-decode-chunked", decode_chunks),
    ("event-read", read_event),
    ("event-encode-native", encode_native),
    ("bus-publish-u64", publish_plain),
    ("bus-publish-and-read-u64", publish_and_read),
    ("bus-make-publish-and-read-event", publish_events),
    ("lossless-publish-u64", publish_lossless),
    ("match-exact-of-1000", |times| matching(false, times)),
    ("match-patterns-of-1000", |times| matching(true, times)),
    ("match-payload-equal-of-1000", |times| {
        matching_payloads((0..1000).map(|n| format!("type=task.* payload.user==u{n}")), 1, times);
    }),
    ("match-payload-bounds-of-1000", |times| {
        matching_payloads((0..1000).map(|n| format!("type=task.* payload.progress>={n}")), 11, times);
    }),
    // Each condition is evaluated and fails.
    ("match-payload-hard-100", |times| {
        let filter = |n| format!("payload.progress<={} payload.progress>={}", n + 11, n + 12);
        matching_payloads((0..100).map(filter), 0, times);
    }),
    ("matcher-insert-and-remove", subscribe),
    ("deliver-to-100", deliver),
    ("deliver-to-own-channel", deliver_to_own_channels),
    ("deliver-to-50-watch-lists", deliver_to_watch_lists),
    ("loop-own-channel", turn_for_own_channels),
    ("loop-20-watch-lists", turn_for_watch_lists),
    ("report-1000-watch-lists", report_of_watch_lists),
    ("attach-first", |times| attaches(true, "", times)),
    ("attach-again", |times| attaches(false, "", times)),
    // Also a condition that every event meets, so each is decided for the client.
    ("attach-narrowed", |times| attaches(false, r#","event_types":["token"]"#, times)),
    ("attach-concat", |times| {
        attaches(false, r#","compact":"concat","concat":"/payload/delta""#, times);
    }),
    ("change-1-of-1", |times| change(0, times)),
    ("change-1-of-1000", |times| change(999, times)),
    ("update-1-of-1000", |times| update_one(false, times)),
    ("update-1-of-1000-snapshot", |times| update_one(true, times)),
    ("turn-pings", |times| turns(native(), &client_frame(9, b""), times)),
    ("turn-requests", |times| turns(native(), &text(r#"{"type":"ping"}"#), times)),
    ("turn-faults", |times| turns(native(), &text("x"), times)),
    ("turn-subscribes-1000-held", subscribes_in_one_write),
    ("turn-subscribe-256-long", |times| messages(native(), |n| wide(256, n), times)),
    ("turn-subscribe-1024-values", |times| messages(native(), |n| wide(1024, n), times)),
    ("turn-update-1024-values", |times| {
        let mut client = native();
        client.says(r#"{"type":"subscribe","payload":{"subscription_id":"s","event_types":["a"]}}"#);
        client.settle();
        messages(client, wide_update, times);
    }),
    ("turn-subscribe-5000-values", |times| messages(native(), |n| wide(5000, n), times)),
    ("turn-subscribe-256-deep", |times| messages(native(), deep, times)),
    ("turn-subscribe-product", |times| messages(native(), product, times)),
    ("turn-subscribe-text-groups", |times| messages(native(), groups, times)),
    ("turn-subscribe-text-conditions", |times| messages(native(), conditions, times)),
    ("turn-autosdlc-ways", |times| messages(OneClient::at("/autosdlc", false), autosdlc_runs, times)),
    ("turn-autosdlc-64-pairs", |times| messages(OneClient::at("/autosdlc", false), autosdlc_pairs, times)),
    ("turn-autosdlc-256-patterns", |times| {
        messages(OneClient::at("/autosdlc", false), autosdlc_patterns, times);
    }),
    ("turn-autosdlc-256-events", |times| {
        messages(OneClient::at("/autosdlc", false), autosdlc_events, times);
    }),
    ("turn-list-subscriptions", lists),
    ("turn-publish-64k", |times| messages(native(), publish_64k, times)),
    ("turn-publish-64k-unusual", |times| messages(native(), publish_unusual, times)),
    ("turn-publish-64k-refused", |times| messages(native(), publish_refused, times)),
    ("turn-page-small", |times| pages(r#"{"n":1}"#.to_owned(), "limit=1000", times)),
    ("turn-page-searched", |times| {
        let fields: Vec<String> = (0..500).map(|n| format!("\"f{n}\":{n}")).collect();
        pages(format!("{{{}}}", fields.join(",")), "filter=payload.f499%3D%3D1", times);
    }),
    ("turn-page-700k", |times| {
        pages(format!(r#"{{"y":"{}"}}"#, "x".repeat(7_000)), "filter=payload.x%21exists&limit=1000", times);
    }),
    ("turn-match-6000-fields", matches_fields),
    ("turn-match-1m", matches_1m),
    ("turn-match-250-negated", matches_negated),
    ("turn-publishes", |times| {
        turns(native(), &text(r#"{"type":"publish","payload":{"type":"a"}}"#), times);
    }),
    ("turn-body-16k", |times| messages(OneClient::new(false), body, times)),
    ("turn-http-heads", |times| {
        turns(OneClient::new(false), b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n", times);
    }),
    ("turn-http-metrics", |times| {
        turns(OneClient::new(false), b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n", times);
    }),
    ("turn-http-stats", |times| {
        turns(OneClient::new(false), b"GET /api/stats HTTP/1.1\r\nHost: t\r\n\r\n", times);
    }),
    ("turn-stranger-native", |times| {
        let message = stranger(r#"{"type":"subscribe","message_id":"m","payload":"#);
        turns(OneClient::at("/ws", true), &message, times);
    }),
    // Numbers with a fraction take longest to check.
    ("turn-stranger-native-numbers", |times| {
        let message = stranger_with(r#"{"type":"subscribe","message_id":"m","payload":"#, "0.0,");
        turns(OneClient::at("/ws", true), &message, times);
    }),
    ("turn-stranger-hive", |times| {
        strangers("/hive", &stranger(r#"{"action":"subscribe","event_types":"#), times);
    }),
    ("turn-stranger-autosdlc", |times| {
        let message = stranger(r#"{"type":"subscribe","data":"#);
        turns(OneClient::at("/autosdlc", true), &message, times);
    }),
    ("turn-stranger-64k", |times| {
        let list = "[],".repeat(21_000);
        let message = text(&format!(r#"{{"type":"subscribe","payload":[{list}0]}}"#));
        turns(OneClient::at("/ws", true), &message, times);
    }),
    ("turn-stranger-http", |times| {
        turns(OneClient::new(true), b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n", times);
    }),
];

/// Returns the CPU features by which libraries choose their code.
fn machine() -> String {
    let mut words = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    for (word, has) in [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
    ] {
        words.extend(has.then_some(word));
    }
    words.join(" ")
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = args.as_slice() else {
        if args.first().is_some_and(|arg| arg == "machine") {
            println!("{}", machine());
        } else {
            // Cargo passes the argument `--bench`.
            for (name, _) in OPERATIONS {
                println!("{name}");
            }
        }
        return;
    };
    let (_, run) = OPERATIONS.iter().find(|(known, _)| known == name).expect("one of the operations");
    run(times.parse().expect("how often"));
}
