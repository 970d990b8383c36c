//! Budget of a turn: the units that it spends, and long work that continues in later turns.

use std::io::Write as _;

use super::super::auth::{Claims, SigningKey};
use super::super::harness::{OneClient, SECRET, frame};
use crate::event::Event;
use crate::server::limits::budget;
use crate::server::shared::adoption::AdoptedHead;

/// Runs turns until nothing is left to do. Returns the text sent to the client, and the number of turns.
fn settled(client: &mut OneClient) -> (String, u64) {
    let (turns, sent) = client.settle();
    (String::from_utf8_lossy(&sent).into_owned(), turns)
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(text.as_bytes()).expect("a vector takes all");
    packed.finish().expect("a vector takes all")
}

/// 2,127 bytes held the loop for 18 s: 87,341 patterns, compressed, before any token.
#[test]
fn before_a_token_a_message_is_read_for_its_type_alone() {
    let patterns = vec![r#""***a:b***""#; 87_341].join(",");
    let message = format!(r#"{{"type":"subscribe","data":{{"patterns":[{patterns}]}}}}"#);
    let mut client = OneClient::at("/autosdlc", true);
    client.forget();
    client.spent();
    client.arrives(&frame(2, &gzip(&message)));
    let (answer, _) = settled(&mut client);
    assert!(answer.contains("bytes, uncompressed"), "{answer}");
    let most = budget::UNAUTHENTICATED + budget::UNAUTHENTICATED_STEP_MAX;
    let spent = client.spent();
    assert!(spent <= most, "{spent} units");
    for (path, open) in [
        ("/ws", r#"{"type":"subscribe","payload":{"event_types":"#),
        ("/hive", r#"{"action":"subscribe","event_types":"#),
        ("/autosdlc", r#"{"type":"subscribe","data":{"patterns":"#),
        ("/ws/circles/a", r#"{"type":"subscribe","list":"#),
    ] {
        for size in [100, 500, 3000] {
            let list = vec![r#""***a:b***""#; size].join(",");
            let close = if open.matches('{').count() == 2 { "}}" } else { "}" };
            let mut client = OneClient::at(path, true);
            client.forget();
            client.arrives(&frame(1, format!("{open}[{list}]{close}").as_bytes()));
            client.spent();
            client.turn();
            let spent = client.spent();
            assert!(spent <= most, "{path} {size}: {spent} units");
        }
    }
}

/// A token in a message is accepted as before, and later messages are read.
#[test]
fn a_client_that_shows_a_token_is_read() {
    let mut client = OneClient::at("/ws", true);
    client.says(r#"{"type":"subscribe","payload":{}}"#);
    assert!(settled(&mut client).0.contains("auth_required"));
    client.says(r#"{"type":"auth","payload":{"token":"none"}}"#);
    assert!(settled(&mut client).0.contains("Invalid token"));
    let claims =
        Claims { sub: Some("ann".to_owned()), streams: Some(vec!["*".to_owned()]), ..Claims::default() };
    let token = SigningKey::hs256(&SECRET.into()).sign(&claims).expect("a token");
    let mut client = OneClient::at("/ws", true);
    client.says(&format!(r#"{{"type":"auth","payload":{{"token":"{token}"}}}}"#));
    client.says(r#"{"type":"subscribe","payload":{"subscription_id":"mine"}}"#);
    let (answers, _) = settled(&mut client);
    assert!(
        answers.contains("authenticated") && answers.contains(r#""subscription_id":"mine""#),
        "{answers}"
    );
}

/// Lists are counted before they are parsed, and the answer is the protocol's.
#[test]
fn lists_that_are_too_long_cost_in_proportion_to_their_length() {
    let values = vec![r#""a""#; 15_000].join(",");
    for (path, message) in [
        ("/ws", format!(r#"{{"type":"subscribe","payload":{{"event_types":[{values}]}}}}"#)),
        ("/ws", format!(r#"{{"type":"subscribe","payload":{{"entities":[{values}]}}}}"#)),
        ("/hive", format!(r#"{{"action":"subscribe","event_types":[{values}]}}"#)),
        ("/autosdlc", format!(r#"{{"type":"subscribe","data":{{"patterns":[{values}]}}}}"#)),
        ("/autosdlc", format!(r#"{{"type":"subscribe","data":{{"events":[{values}]}}}}"#)),
    ] {
        let mut client = OneClient::at(path, false);
        client.forget();
        client.says(&message);
        let (answer, _) = settled(&mut client);
        // Equal values count once, so lists of them are short in places that are only read up to the limit.
        assert!(
            answer.contains("error") || answer.contains("ack") || answer.contains("subscri"),
            "{path} {answer}"
        );
        let spent = client.spent();
        assert!(spent <= budget::STEP_MAX, "{path}: {spent} units");
    }
}

/// The last of 1,000 subscriptions costs at most twice the first, in charged units.
#[test]
fn a_change_of_one_of_a_thousand_costs_as_the_first() {
    let mut client = OneClient::at("/ws", false);
    let mut subscribe = |n: usize| {
        client.says(&format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"s{n}","event_types":["kind{n}.*"]}}}}"#
        ));
        assert!(settled(&mut client).0.contains("ack"));
        client.spent()
    };
    let first = subscribe(0);
    let last = (1..1000).map(&mut subscribe).last().expect("one");
    assert!(last <= 2 * first, "{last} units, of the first {first}");
}

/// Many filters in one message are added over several turns, and acknowledged after the last.
#[test]
fn a_long_change_goes_on_in_later_turns() {
    let mut client = OneClient::at("/autosdlc", false);
    let patterns: Vec<String> = (0..64).map(|n| format!("\"r{n}:a{n}*:e{n}\"")).collect();
    client.says(&format!(r#"{{"type":"subscribe","data":{{"patterns":[{}]}}}}"#, patterns.join(",")));
    let (answer, turns) = settled(&mut client);
    assert!(answer.contains("active") && turns > 3, "{turns} turns: {answer}");
    client.says(r#"{"type":"unsubscribe","data":{"subscriptionId":"*"}}"#);
    assert!(settled(&mut client).0.contains("removed"));
}

/// No event of a new interest comes before the reply, however much of its part of the turn the client has used.
#[test]
fn a_change_holds_from_its_reply_on_at_any_place_of_a_turn() {
    let mut delivered = 0;
    for before in 0..80 {
        let mut client = OneClient::at("/ws", false);
        subscribe(&mut client, "s", "type=a");
        assert!(settled(&mut client).0.contains("ack"));
        (0..before).for_each(|_| client.says(r#"{"type":"ping"}"#));
        client.says(r#"{"type":"publish","payload":{"type":"b"}}"#);
        subscribe(&mut client, "s", "type=b");
        let (answer, _) = settled(&mut client);
        let ack = answer.find(r#""subscription_id":"s""#).expect("the change is confirmed");
        // If the turn ended after the publish, its event came before the subscribe was read.
        let Some(event) = answer.find(r#""event_type":"b""#) else { continue };
        assert!(ack < event, "after {before} pings");
        delivered += 1;
    }
    assert!(delivered > 70, "{delivered} of 80");
}

/// The values of all subscriptions together have a limit, and its error says what it counts.
#[test]
fn a_clients_values_are_bounded_together() {
    let mut client = OneClient::at("/ws", false);
    let mut subscribe = |n: usize, count: usize| {
        let values: Vec<String> = (0..count).map(|at| format!("\"v{n}.{at}\"")).collect();
        client.says(&format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"s{n}","event_types":[{}]}}}}"#,
            values.join(",")
        ));
        settled(&mut client).0
    };
    for n in 0..128 {
        assert!(subscribe(n, 256).contains("ack"), "{n}");
    }
    assert!(subscribe(128, 1).contains("too_many_values"));
    assert!(subscribe(127, 1).contains("ack"), "in place of 256");
    assert!(subscribe(128, 255).contains("ack"));
}

/// Names chosen by the server never equal a client's own, and no subscription has the name `*`.
#[test]
fn names_that_the_server_gives_are_free() {
    let mut client = OneClient::at("/ws", false);
    let mut ask = |text: &str| {
        client.says(text);
        settled(&mut client).0
    };
    assert!(
        ask(r#"{"type":"subscribe","payload":{"subscription_id":"sub-1","event_types":["a"]}}"#)
            .contains("sub-1")
    );
    assert!(
        ask(r#"{"type":"subscribe","payload":{"subscription_id":"sub-3","event_types":["b"]}}"#)
            .contains("sub-3")
    );
    assert!(ask(r#"{"type":"subscribe","payload":{"event_types":["c"]}}"#).contains("sub-2"));
    assert!(ask(r#"{"type":"subscribe","payload":{"event_types":["d"]}}"#).contains("sub-4"));
    assert!(ask(r#"{"type":"request","payload":{"action":"subscription_count"}}"#).contains(r#""count":4"#));
    let refused = ask(r#"{"type":"subscribe","payload":{"subscription_id":"*","event_types":["e"]}}"#);
    assert!(refused.contains("invalid_subscription_id"), "{refused}");
    assert!(ask(r#"{"type":"request","payload":{"action":"subscription_count"}}"#).contains(r#""count":4"#));
    assert!(ask(r#"{"type":"unsubscribe","payload":{"subscription_id":"*"}}"#).contains("ack"));
    assert!(ask(r#"{"type":"request","payload":{"action":"subscription_count"}}"#).contains(r#""count":0"#));
}

/// With two equal subscriptions, removing one keeps the other's events.
#[test]
fn a_filter_that_two_subscriptions_want_is_wanted_until_both_are_gone() {
    let mut client = OneClient::at("/ws", false);
    let mut ask = |text: &str| {
        client.says(text);
        settled(&mut client).0
    };
    for id in ["a", "b"] {
        ask(&format!(r#"{{"type":"subscribe","payload":{{"subscription_id":"{id}","event_types":["t"]}}}}"#));
    }
    let publish = r#"{"type":"publish","payload":{"type":"t"}}"#;
    assert!(ask(publish).contains(r#""type":"event""#));
    ask(r#"{"type":"unsubscribe","payload":{"subscription_id":"a"}}"#);
    assert!(ask(publish).contains(r#""type":"event""#));
    ask(r#"{"type":"unsubscribe","payload":{"subscription_id":"b"}}"#);
    assert!(!ask(publish).contains(r#""type":"event""#));
}

/// A batch of many events is published over several turns and answered once, after the last.
#[test]
fn a_long_batch_is_committed_over_several_turns() {
    let mut client = OneClient::new(false);
    let lines = "{\"type\":\"a\"}\n".repeat(10_000);
    client.arrives(
        format!(
            "POST /publish HTTP/1.1\r\nHost: t\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{lines}",
            lines.len()
        )
        .as_bytes(),
    );
    client.arrives(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    let (answer, turns) = settled(&mut client);
    assert!(answer.contains(r#""accepted":10000"#) && turns > 30, "{turns} turns: {answer}");
    let (first, second) = (answer.find("accepted"), answer.find(r#""status":"ok""#));
    assert!(first < second, "answers keep the order of the requests: {answer}");
}

/// A flood of any kind is read within the budget of each turn. It may take the whole budget if no other client needs
/// it.
#[test]
fn a_flood_takes_no_more_than_a_turn() {
    let text = |payload: &str| frame(1, payload.as_bytes());
    for (path, flood) in [
        ("/ws", frame(9, b"")),
        ("/ws", text("x")),
        ("/ws", text(r#"{"type":"ping"}"#)),
        ("/ws", text(r#"{"type":"publish","payload":{"type":"a"}}"#)),
        ("/ws", text(r#"{"type":"subscribe","payload":{"subscription_id":"s"}}"#)),
        ("/ws", text(r#"{"type":"request","payload":{"action":"list_subscriptions"}}"#)),
        ("", b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n".to_vec()),
        ("", b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n".to_vec()),
        ("", b"GET /api/stats HTTP/1.1\r\nHost: t\r\n\r\n".to_vec()),
        ("", b"POST /publish HTTP/1.1\r\nHost: t\r\nContent-Length: 12\r\n\r\n{\"type\":\"a\"}".to_vec()),
    ] {
        let mut client = if path.is_empty() { OneClient::new(false) } else { OneClient::at(path, false) };
        client.repeats(&flood);
        for _ in 0..20 {
            client.turn();
            client.forget();
            let spent = client.spent();
            // A small last step comes on top. All metrics are one step of about 30 kB. Each new metric makes it larger.
            let step = if flood.starts_with(b"GET /metrics") { 600 } else { 100 };
            assert!(spent > 0 && spent <= budget::TURN + step, "{path} {flood:?}: {spent} units");
        }
    }
}

/// A burst is read in few parts, and its events are gathered while more input waits. Each turn that writes costs a system
/// call for each receiver.
#[test]
fn a_burst_is_read_and_written_in_few_parts() {
    let mut client = OneClient::at("/ws", false);
    subscribe(&mut client, "s", "type=a");
    settled(&mut client);
    for _ in 0..400 {
        client.says(r#"{"type":"publish","ack":false,"payload":{"type":"a"}}"#);
    }
    let (mut writes, mut events) = (0, 0);
    for _ in 0..20 {
        client.turn();
        let sent = client.sent();
        writes += u32::from(!sent.is_empty());
        events += sent.matches(r#""event_type":"a""#).count();
    }
    assert_eq!(events, 400);
    assert!(writes <= 3, "{writes} turns wrote");
}

/// A flood takes the rest of a turn, and another client is served in the turn in which its input arrives.
#[test]
fn another_client_is_served_beside_a_flood() {
    let mut client = OneClient::at("/ws", false);
    client.repeats(&frame(1, br#"{"type":"publish","ack":false,"payload":{"type":"a"}}"#));
    for _ in 0..3 {
        client.turn();
    }
    client.another("/ws");
    for _ in 0..20 {
        client.forget();
        client.says(r#"{"type":"ping"}"#);
        client.turn();
        let sent = client.sent();
        assert!(sent.contains("pong"), "{sent}");
    }
}

/// Returns an event with a payload that takes long to search.
fn long_event(name: &str, payload: &str) -> Event {
    Event::builder(name).json(payload).build().expect("valid")
}

fn subscribe(client: &mut OneClient, id: &str, filter: &str) {
    client.says(&format!(
        r#"{{"type":"subscribe","payload":{{"subscription_id":"{id}","filter":"{filter}"}}}}"#
    ));
}

/// The match of one event continues in later turns, whatever takes long: its fields, its length, or filters that are
/// compared one by one.
#[test]
fn a_match_of_one_event_takes_a_part_of_each_turn() {
    // The conditions' part of a turn, and a last step.
    let most = u64::from(budget::TURN) * 1_000 + 2_000_000;
    let many: Vec<String> = (0..6_000).map(|n| format!(r#""a{n}":{n}"#)).collect();
    let filters: Vec<String> = (0..1_000)
        .map(|n| {
            let one = |at: usize| format!("payload.a{}>=0", n * 6 + at);
            let all: Vec<String> = (0..6).map(one).collect();
            format!("{} payload.a0!=0", all.join(" "))
        })
        .collect();
    let patterns: Vec<String> = (0..250).map(|n| format!("**.{}x{n}.**", "b.".repeat(28))).collect();
    // All of these patterns continue with each segment of the type.
    let leading: Vec<String> = (0..600u64)
        .map(|n| {
            let bits = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let segments = (0..28).map(|at| if bits >> at & 1 == 0 { "b" } else { "*" });
            format!("type=**.{}.x{n}", segments.collect::<Vec<_>>().join("."))
        })
        .collect();
    let long_type = "b.".repeat(500) + "b";
    for (filters, event, least) in [
        (filters, long_event("e", &format!("{{{}}}", many.join(","))), 2),
        (vec!["payload.x==1".to_owned()], long_event("e", &format!("[{}1]", "[],".repeat(1_000_000))), 4),
        (
            vec!["payload.x==1".to_owned()],
            long_event("e", &format!(r#"{{"y":"{}"}}"#, r"\n".repeat(1_500_000))),
            4,
        ),
        (vec![format!("type!={}", patterns.join(","))], long_event(&long_type, "{}"), 4),
        (leading, long_event(&long_type, "{}"), 4),
        (vec!["payload.x==1".to_owned()], long_event("e", "{}"), 2),
    ] {
        let mut client = OneClient::at("/ws", false);
        for (n, filter) in filters.iter().enumerate() {
            if n % 200 == 199 {
                // A client holds 32,768 values at most.
                client.another("/ws");
            }
            subscribe(&mut client, &format!("s{n}"), filter);
            assert!(settled(&mut client).0.contains("ack"), "{filter}");
        }
        subscribe(&mut client, "all", "type=*,b.**");
        assert!(settled(&mut client).0.contains("ack"));
        client.matched();
        client.publishes(event);
        let (text, turns) = settled(&mut client);
        let matched = client.matched();
        assert!(text.contains(r#""type":"event""#), "{} bytes", text.len());
        assert!(matched <= most, "{matched} instructions in a turn");
        assert!(turns >= least, "{turns} turns, {least} at the least");
    }
}

/// A request during the match of an event takes effect after that event, and a client that leaves is removed.
#[test]
fn requests_during_a_match_begin_after_the_event() {
    let payload = format!("[{}1]", "[],".repeat(400_000));
    let mut client = OneClient::at("/ws", false);
    subscribe(&mut client, "first", "payload.0 exists");
    assert!(settled(&mut client).0.contains("ack"));
    client.publishes(long_event("long", &payload));
    client.turn();
    assert_eq!(client.forget(), 0, "it is not matched yet");
    subscribe(&mut client, "second", "type=long,short payload.x != 5");
    client.publishes(long_event("short", "[7]"));
    let (text, _) = settled(&mut client);
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is not there"));
    assert_eq!(text.matches(r#""event_type":"long""#).count(), 1);
    assert_eq!(text.matches(r#""event_type":"short""#).count(), 1);
    assert!(place(r#""event_type":"long""#) < place("ack"));
    // The client's place is that of the long event, so a return there misses nothing.
    client.publishes(long_event("long", &payload));
    client.turn();
    client.comes_again("/ws");
    assert_eq!(settled(&mut client).0, "");
    client.publishes(long_event("short", "[7]"));
    assert_eq!(settled(&mut client).0, "", "a new client has asked for nothing");
}

/// A connection that the program hands over during the match of an event is read after the event, as any other.
#[test]
fn an_adopted_request_begins_after_the_event_that_is_matched() {
    let mut client = OneClient::at("/ws", false);
    subscribe(&mut client, "first", "payload.0 exists");
    assert!(settled(&mut client).0.contains("ack"));
    client.publishes(long_event("long", &format!("[{}1]", "[],".repeat(400_000))));
    client.turn();
    assert_eq!(client.forget(), 0, "it is not matched yet");
    let message = r#"{"type":"subscribe","payload":{"filter":"type=long,short payload.x != 5"}}"#;
    client.another_adopted("/ws", frame(1, message.as_bytes()));
    client.publishes(long_event("short", "[7]"));
    let (text, _) = settled(&mut client);
    assert_eq!(text.matches(r#""event_type":"long""#).count(), 0, "{text}");
    assert_eq!(text.matches(r#""event_type":"short""#).count(), 1, "{text}");
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains("ack"), "{text}");
}

/// A page whose first event alone takes more than a turn may is made by a worker, and the next ones as before.
#[test]
fn a_page_that_takes_long_is_left_to_a_worker() {
    let long = [
        // Long to search, and long to copy.
        ("filter=payload.x%3D%3D1", long_event("e", &format!("[{}1]", "[],".repeat(1_000_000)))),
        ("limit=10", long_event("e", &format!(r#"{{"y":"{}"}}"#, "x".repeat(4 << 20)))),
        ("type=e", long_event("e", &format!(r#"{{"y":"{}"}}"#, "x".repeat(1 << 20)))),
    ];
    for (query, event) in long {
        for order in ["asc", "desc"] {
            let mut client = OneClient::new(false);
            client.publishes(long_event("first", "{}"));
            client.publishes(event.clone());
            client.publishes(long_event("last", "{}"));
            settled(&mut client);
            client.spent();
            let (mut place, mut events, mut pages) = (String::new(), 0, 0);
            loop {
                pages += 1;
                let request = format!("GET /events?{query}&order={order}{place} HTTP/1.1\r\nHost: t\r\n\r\n");
                client.arrives(request.as_bytes());
                let (answer, _) = settled(&mut client);
                let spent = client.spent();
                assert!(spent <= budget::STEP_MAX, "{query}: {spent} units");
                assert!(answer.starts_with("HTTP/1.1 200 "), "{query}: {} bytes", answer.len());
                let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
                let page: serde_json::Value = serde_json::from_str(body).expect("JSON");
                events += page["events"].as_array().expect("a list").len();
                assert_eq!(page["complete"], true);
                let Some(next) = page["next"].as_str() else { break };
                place = format!("&{}={next}", if order == "asc" { "after" } else { "before" });
            }
            let expected = match query {
                "limit=10" => 3,
                "type=e" => 1,
                _ => 0,
            };
            assert_eq!(events, expected, "{query} {order}");
            assert!((2..=4).contains(&pages), "{query}: {pages} pages");
            client.arrives(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n");
            assert!(settled(&mut client).0.contains("fanwire_server_long_pages_total 1\n"), "{query}");
        }
    }
}

/// A head that the program gives is written before the stream. A client that can't be served gets the server's refusal
/// instead.
#[test]
fn a_given_head_is_written_before_its_stream_only() {
    let mut client = OneClient::at("/ws", false);
    let given = || AdoptedHead::Given(b"HTTP/1.1 200 OK\r\nx-own: 1\r\n\r\n".to_vec());
    client.adopts("GET /sse HTTP/1.1\r\nHost: t\r\n\r\n", Vec::new(), given());
    let (text, _) = settled(&mut client);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\nx-own: 1\r\n\r\nid: "), "{text}");
    client.adopts("GET /nowhere HTTP/1.1\r\nHost: t\r\n\r\n", Vec::new(), given());
    let (text, _) = settled(&mut client);
    assert!(text.starts_with("HTTP/1.1 404 ") && !text.contains("x-own"), "{text}");
}
