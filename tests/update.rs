//! `update`: a subscription's lists change by their difference, with a client written from docs/protocol.md.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use support::ws::Ws;
use support::{Server, numbered};

/// Time within which an unwanted event would have arrived.
const SILENCE: Duration = Duration::from_millis(200);

fn quote(symbol: &str, n: usize) -> String {
    json!({"type": "quote", "entity": {"kind": "symbol", "id": symbol}, "data": {"n": n}}).to_string()
}

fn update(payload: &Value) -> Value {
    json!({"type": "update", "message_id": "u", "payload": payload})
}

/// Sends an update that must be accepted. Returns the payload of its ack.
fn updated(client: &mut Ws, payload: &Value) -> Value {
    let ack = client.ask(&update(payload));
    assert_eq!((&ack["type"], &ack["correlation_id"]), (&json!("ack"), &json!("u")), "{ack}");
    assert!(ack["payload"]["last_event_id"].is_string(), "{ack}");
    ack["payload"].clone()
}

/// Sends an update that must be refused with this code.
fn refused(client: &mut Ws, payload: &Value, code: &str) -> String {
    let error = client.ask(&update(payload));
    assert_eq!((&error["type"], &error["payload"]["code"]), (&json!("error"), &json!(code)), "{error}");
    error["payload"]["error"].as_str().expect("a text").to_owned()
}

/// Returns the client's only subscription, as the server lists it.
fn listed(client: &mut Ws) -> Value {
    let answer = client.ask(&json!({"type": "request", "payload": {"action": "list_subscriptions"}}));
    let list = answer["payload"]["subscriptions"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
    assert_eq!(list.len(), 1, "{answer}");
    let count = client.ask(&json!({"type": "request", "payload": {"action": "subscription_count"}}));
    assert_eq!(count["payload"]["count"], 1);
    list[0].clone()
}

fn watch(server: &Server, payload: Value) -> Ws {
    let mut payload = payload;
    payload["subscription_id"] = json!("w");
    Ws::subscribed(server.addr, payload)
}

/// Publishes one event for each symbol, and asserts that the client gets those of `wanted`, in order.
fn assert_wanted(server: &Server, client: &mut Ws, symbols: &[&str], wanted: &[&str]) {
    for (n, symbol) in symbols.iter().enumerate() {
        server.publish(quote(symbol, n));
    }
    for symbol in wanted {
        assert_eq!(client.event()["entity"]["id"], *symbol);
    }
    assert!(client.is_silent_for(SILENCE));
}

#[test]
fn added_values_are_delivered_and_removed_ones_are_not() {
    let server = Server::start();
    let mut client = watch(&server, json!({"event_types": ["quote"], "entities": ["symbol:A", "symbol:B"]}));
    assert_wanted(&server, &mut client, &["A", "B", "C", "D"], &["A", "B"]);
    let payload = json!({"subscription_id": "w", "add": {"entities": ["symbol:C", {"kind": "symbol", "id": "B"}]},
        "remove": {"entities": ["symbol:A", "symbol:X"]}});
    let ack = updated(&mut client, &payload);
    let want = json!({"added": 1, "removed": 1, "not_held": 1, "last_event_id": ack["last_event_id"]});
    assert_eq!(ack, want, "B was held, X was not");
    assert_wanted(&server, &mut client, &["A", "B", "C", "D"], &["B", "C"]);
    assert_eq!(listed(&mut client)["entities"], json!(["symbol:B", "symbol:C"]));

    // Several lists at once, and patterns.
    let ack = updated(
        &mut client,
        &json!({"subscription_id": "w", "add": {"event_types": ["trade.*"], "entities": "symbol:D".split(',').collect::<Vec<_>>()},
            "remove": {"event_types": "quote", "entities": ["symbol:B"]}}),
    );
    assert_eq!((&ack["added"], &ack["removed"]), (&json!(2), &json!(2)));
    for (kind, symbol) in [("quote", "C"), ("trade.new", "B"), ("trade.new", "C"), ("trade.old", "D")] {
        server.publish(json!({"type": kind, "entity": {"kind": "symbol", "id": symbol}}).to_string());
    }
    assert_eq!(client.event()["entity"]["id"], "C");
    assert_eq!(client.event()["event_type"], "trade.old");
    assert!(client.is_silent_for(SILENCE));
}

#[test]
fn an_update_of_nothing_is_acked() {
    let server = Server::start();
    let mut client = watch(&server, json!({"channels": ["a"]}));
    for payload in [
        json!({"subscription_id": "w"}),
        json!({"subscription_id": "w", "add": {}, "remove": null}),
        json!({"subscription_id": "w", "add": {"channels": []}, "remove": {"channels": null}}),
        json!({"subscription_id": "w", "add": {"channels": ["a", "a"]}}),
    ] {
        let ack = updated(&mut client, &payload);
        assert_eq!((&ack["added"], &ack["removed"]), (&json!(0), &json!(0)), "{payload}");
    }
    assert_eq!(listed(&mut client)["channels"], json!(["a"]));
}

#[test]
fn an_empty_list_matches_nothing_and_can_be_filled_again() {
    let server = Server::start();
    let mut client = watch(&server, json!({"event_types": ["quote"], "entities": ["symbol:A", "symbol:B"]}));
    let ack = updated(
        &mut client,
        &json!({"subscription_id": "w", "remove": {"entities": ["symbol:A", "symbol:B"]}}),
    );
    assert_eq!(ack["removed"], 2);
    assert_eq!(listed(&mut client)["entities"], json!([]));
    server.publish(numbered(1));
    assert_wanted(&server, &mut client, &["A", "B", "C"], &[]);
    let ack = updated(&mut client, &json!({"subscription_id": "w", "remove": {"entities": ["symbol:A"]}}));
    assert_eq!((&ack["removed"], &ack["not_held"]), (&json!(0), &json!(1)));
    // Another list changes meanwhile.
    updated(&mut client, &json!({"subscription_id": "w", "add": {"event_types": ["trade"]}}));
    assert_wanted(&server, &mut client, &["A", "B", "C"], &[]);
    let ack =
        updated(&mut client, &json!({"subscription_id": "w", "add": {"entities": ["symbol:C", "symbol:A"]}}));
    assert_eq!(ack["added"], 2);
    assert_wanted(&server, &mut client, &["A", "B", "C"], &["A", "C"]);
    let subscription = listed(&mut client);
    assert_eq!(
        (&subscription["entities"], &subscription["event_types"]),
        (&json!(["symbol:A", "symbol:C"]), &json!(["quote", "trade"]))
    );
}

#[test]
fn the_snapshot_of_added_values_follows_the_ack() {
    let server = Server::start();
    for (n, symbol) in ["A", "B", "C", "A", "B"].into_iter().enumerate() {
        server.publish(quote(symbol, n));
    }
    let mut client = watch(&server, json!({"entities": ["symbol:A"], "snapshot": true}));
    assert_eq!(client.event()["payload"], json!({"n": 3}));
    assert_eq!(client.any_message()["type"], "history_end");
    let payload = json!({"subscription_id": "w", "add": {"entities": ["symbol:B", "symbol:C", "symbol:Z"]}});
    let ack = updated(&mut client, &payload);
    assert_eq!((&ack["added"], &ack["history"]), (&json!(3), &json!({"from": null, "complete": true})));
    assert_eq!(client.event()["payload"], json!({"n": 2}));
    assert_eq!(client.event()["payload"], json!({"n": 4}));
    let end = client.any_message();
    let want = json!({"subscription_id": "w", "events": 2, "complete": true});
    assert_eq!((&end["type"], &end["payload"]), (&json!("history_end"), &want));
    // Values that are already in the list are not sent again, and a removal sends nothing.
    let ack = updated(
        &mut client,
        &json!({"subscription_id": "w", "add": {"entities": ["symbol:B"]}, "remove": {"entities": ["symbol:C"]}}),
    );
    assert_eq!((&ack["added"], &ack["removed"]), (&json!(0), &json!(1)));
    assert_wanted(&server, &mut client, &["A", "B", "C"], &["A", "B"]);
    // A change of two lists sends everything that is new, and nothing that the client already got.
    server.publish(json!({"type": "trade", "entity": {"kind": "symbol", "id": "C"}}).to_string());
    let mut both =
        watch(&server, json!({"event_types": ["quote"], "entities": ["symbol:A"], "snapshot": true}));
    assert_eq!(both.event()["entity"]["id"], "A");
    updated(
        &mut both,
        &json!({"subscription_id": "w", "add": {"event_types": ["trade"], "entities": ["symbol:C"]}}),
    );
    assert_eq!(both.event()["event_type"], "quote");
    assert_eq!(both.event()["event_type"], "trade");
    assert!(both.is_silent_for(SILENCE));
    // From an empty list.
    updated(&mut both, &json!({"subscription_id": "w", "remove": {"entities": ["symbol:A", "symbol:C"]}}));
    updated(&mut both, &json!({"subscription_id": "w", "add": {"entities": ["symbol:B"]}}));
    assert_eq!(both.event()["entity"]["id"], "B");
}

#[test]
fn a_refused_update_changes_nothing() {
    let server = Server::start();
    let mut client = watch(&server, json!({"event_types": ["quote"], "entities": ["symbol:A"]}));
    refused(
        &mut client,
        &json!({"subscription_id": "other", "add": {"entities": ["symbol:B"]}}),
        "unknown_subscription",
    );
    let text = refused(
        &mut client,
        &json!({"subscription_id": "w", "add": {"entities": ["symbol:B"], "channels": ["c"]}}),
        "invalid_payload",
    );
    assert!(text.contains("channels"), "{text}");
    refused(&mut client, &json!({"subscription_id": "w", "remove": {"sources": ["c"]}}), "invalid_payload");
    refused(
        &mut client,
        &json!({"subscription_id": "w", "add": {"entities": ["symbol:B"]}, "remove": {"entities": ["symbol:B"]}}),
        "invalid_payload",
    );
    let long = "x".repeat(1025);
    refused(
        &mut client,
        &json!({"subscription_id": "w", "add": {"entities": ["symbol:B", format!("symbol:{long}")]}}),
        "invalid_filter",
    );
    let many: Vec<String> = (0..1025).map(|n| format!("k:{n}")).collect();
    refused(&mut client, &json!({"subscription_id": "w", "add": {"entities": many}}), "invalid_filter");
    assert_eq!(listed(&mut client)["entities"], json!(["symbol:A"]));
    assert_wanted(&server, &mut client, &["A", "B"], &["A"]);
}

/// The text holds as well as the lists, so an update does not widen what it names.
#[test]
fn a_list_that_the_text_names_too_stays() {
    let server = Server::start();
    let mut client = watch(
        &server,
        json!({"event_types": ["quote"], "channels": ["a"], "filter": "channel=a,b entity=symbol:A source!=x"}),
    );
    for (list, value) in [("channels", "c"), ("channels", "b"), ("entities", "symbol:B")] {
        let text =
            refused(&mut client, &json!({"subscription_id": "w", "add": {list: [value]}}), "invalid_payload");
        assert!(text.contains(list) && text.contains("text"), "{text}");
    }
    refused(&mut client, &json!({"subscription_id": "w", "remove": {"channels": ["a"]}}), "invalid_payload");
    let ack = updated(&mut client, &json!({"subscription_id": "w", "add": {"event_types": ["trade"]}}));
    assert_eq!(ack["added"], 1);
    for (kind, channel) in [("trade", "b"), ("quote", "c"), ("trade", "a")] {
        server.publish(
            json!({"type": kind, "channel": channel, "entity": {"kind": "symbol", "id": "A"}}).to_string(),
        );
    }
    let event = client.event();
    assert_eq!((&event["event_type"], &event["channel"]), (&json!("trade"), &json!("a")));
}

#[test]
fn the_limits_of_a_client_apply_to_added_values() {
    let server = Server::with(&["--max-subscription-values", "20"]);
    let mut client = watch(&server, json!({"channels": ["a", "b"]}));
    let many: Vec<String> = (0..18).map(|n| format!("c{n}")).collect();
    updated(&mut client, &json!({"subscription_id": "w", "add": {"channels": many}}));
    refused(&mut client, &json!({"subscription_id": "w", "add": {"channels": ["x"]}}), "too_many_values");
    updated(
        &mut client,
        &json!({"subscription_id": "w", "add": {"channels": ["x"]}, "remove": {"channels": ["a"]}}),
    );
    refused(&mut client, &json!({"subscription_id": "w", "add": {"channels": ["y"]}}), "too_many_values");
}

#[test]
fn a_list_of_a_thousand_values_is_one_subscription() {
    let server = Server::start();
    let symbol = |n: usize| format!("S{n:04}");
    let entity = |n: usize| format!("symbol:{}", symbol(n));
    let all: Vec<String> = (0..1000).map(entity).collect();
    let mut client = watch(&server, json!({"event_types": ["quote"], "entities": all, "snapshot": true}));
    assert_eq!(listed(&mut client)["entities"], json!(all));
    let (first, last) = (symbol(0), symbol(999));
    assert_wanted(&server, &mut client, &[&first, "T", &last], &[&first, &last]);
    let ack = updated(
        &mut client,
        &json!({"subscription_id": "w", "add": {"entities": ["symbol:T", "symbol:A", "symbol:S0500x"]}, "remove": {"entities": [entity(0), entity(500)]}}),
    );
    assert_eq!((&ack["added"], &ack["removed"]), (&json!(3), &json!(2)));
    assert_eq!(client.event()["entity"]["id"], "T", "its snapshot");
    assert_wanted(
        &server,
        &mut client,
        &[&first, "T", "A", &last, "S0500", "S0500x"],
        &["T", "A", &last, "S0500x"],
    );
    // Other lists are the same in all parts.
    updated(
        &mut client,
        &json!({"subscription_id": "w", "add": {"event_types": ["trade"]}, "remove": {"event_types": ["quote"]}}),
    );
    assert_wanted(&server, &mut client, &["T", &last], &[]);
    for (n, kind) in [(999, "trade"), (998, "quote"), (1, "trade")] {
        server.publish(json!({"type": kind, "entity": {"kind": "symbol", "id": symbol(n)}}).to_string());
    }
    assert_eq!(client.event()["entity"]["id"], symbol(999));
    assert_eq!(client.event()["entity"]["id"], symbol(1));
    // All values but one are removed, and then that one.
    let mut rest: Vec<Value> = listed(&mut client)["entities"].as_array().expect("a list").clone();
    let one = rest.pop().expect("a value");
    let ack = updated(&mut client, &json!({"subscription_id": "w", "remove": {"entities": rest}}));
    assert_eq!(ack["removed"], 1000);
    assert_eq!(listed(&mut client)["entities"], json!([one]));
    updated(&mut client, &json!({"subscription_id": "w", "remove": {"entities": [one]}}));
    assert_eq!(listed(&mut client)["entities"], json!([]));
    let ack = updated(&mut client, &json!({"subscription_id": "w", "add": {"entities": all}}));
    assert_eq!(ack["added"], 1000);
    for n in [999, 1] {
        assert_eq!(client.event()["entity"]["id"], symbol(n), "the snapshot, of trades");
    }
    assert_eq!(listed(&mut client)["entities"], json!(all));
    client.ask(&json!({"type": "unsubscribe", "payload": {"subscription_id": "w"}}));
    assert_wanted(&server, &mut client, &[&first, &last], &[]);
}

/// Random updates of two clients with overlapping and sometimes equal lists, compared with a model: a set.
#[test]
fn random_updates_leave_the_lists_of_their_answers() {
    let server = Server::start();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut dice = move |most: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % most as u64) as usize
    };
    let name = |n: usize| if n.is_multiple_of(9) { format!("p.{n}.*") } else { format!("v{n}") };
    let start: Vec<String> = (0..300).map(name).collect();
    let mut clients: Vec<(Ws, BTreeSet<String>)> = (0..2)
        .map(|_| (watch(&server, json!({"channels": start})), start.iter().cloned().collect()))
        .collect();
    for round in 0..120 {
        let (client, held) = &mut clients[dice(2)];
        let size = [1, 3, 40, 300][dice(4)];
        let mut add: BTreeSet<String> = (0..dice(size + 1)).map(|_| name(dice(600))).collect();
        let remove: BTreeSet<String> = (0..dice(size + 1)).map(|_| name(dice(600))).collect();
        add.retain(|value| !remove.contains(value));
        let fits = held.union(&add).count() <= 2000;
        assert!(fits);
        let ack = updated(
            client,
            &json!({"subscription_id": "w", "add": {"channels": add}, "remove": {"channels": remove}}),
        );
        assert_eq!(ack["added"], add.difference(held).count(), "round {round}");
        assert_eq!(ack["removed"], remove.intersection(held).count(), "round {round}");
        held.extend(add);
        held.retain(|value| !remove.contains(value));
        if round % 10 == 0 {
            let listed: BTreeSet<String> =
                serde_json::from_value(listed(client)["channels"].clone()).expect("texts");
            assert_eq!(&listed, held, "round {round}");
            let n = dice(600);
            let channel = if n.is_multiple_of(9) { format!("p.{n}.x") } else { format!("v{n}") };
            server.publish(json!({"type": "x", "channel": channel, "data": {"n": round}}).to_string());
            for (client, held) in &mut clients {
                if held.contains(&name(n)) {
                    assert_eq!(client.event()["payload"]["n"], round);
                }
            }
        }
    }
    server.balanced_ledger();
}

/// A publisher publishes while a client changes its list. Each event has its symbol and its number, so the client knows
/// which events it should have received.
#[test]
fn nothing_is_lost_or_doubled_around_an_update() {
    let server = Server::start();
    let mut client = watch(&server, json!({"entities": ["symbol:stays", "symbol:odd"]}));
    let mut publisher = Ws::connect(server.addr);
    let (mut next, mut seen, mut holds_odd) = (0, 0, true);
    for round in 0..60 {
        for _ in 0..20 {
            for symbol in ["stays", "odd", "even"] {
                let event: Value = serde_json::from_str(&quote(symbol, next)).expect("JSON");
                publisher.send(&json!({"type": "publish", "ack": false, "payload": event}));
            }
            next += 1;
        }
        let (add, remove) =
            if holds_odd { ("symbol:even", "symbol:odd") } else { ("symbol:odd", "symbol:even") };
        client.send(&update(
            &json!({"subscription_id": "w", "add": {"entities": [add]}, "remove": {"entities": [remove]}}),
        ));
        loop {
            let message = client.message();
            if message["type"] == "ack" {
                break;
            }
            let symbol = message["payload"]["entity"]["id"].as_str().expect("a symbol");
            match symbol {
                "stays" => {
                    assert_eq!(message["payload"]["payload"]["n"], seen, "round {round}");
                    seen += 1;
                }
                _ => assert_eq!(symbol == "odd", holds_odd, "round {round}: {symbol} after the ack"),
            }
        }
        holds_odd = !holds_odd;
    }
    while seen < next {
        let event = client.event();
        if event["entity"]["id"] == "stays" {
            assert_eq!(event["payload"]["n"], seen);
            seen += 1;
        }
    }
    server.balanced_ledger();
}

#[test]
fn two_subscriptions_with_a_value_in_common_share_it_until_both_have_removed_it() {
    let server = Server::start();
    let mut client = watch(&server, json!({"entities": ["symbol:A", "symbol:B"]}));
    let other = json!({"subscription_id": "v", "entities": ["symbol:B", "symbol:C"]});
    assert_eq!(client.ask(&json!({"type": "subscribe", "payload": other}))["type"], "ack");
    updated(&mut client, &json!({"subscription_id": "w", "remove": {"entities": ["symbol:B"]}}));
    assert_wanted(&server, &mut client, &["A", "B", "C"], &["A", "B", "C"]);
    // Now both have the same list, then different ones again.
    updated(
        &mut client,
        &json!({"subscription_id": "w", "add": {"entities": ["symbol:B", "symbol:C"]}, "remove": {"entities": ["symbol:A"]}}),
    );
    assert_wanted(&server, &mut client, &["A", "B", "C"], &["B", "C"]);
    updated(&mut client, &json!({"subscription_id": "v", "remove": {"entities": ["symbol:B"]}}));
    assert_wanted(&server, &mut client, &["A", "B", "C"], &["B", "C"]);
    updated(&mut client, &json!({"subscription_id": "w", "remove": {"entities": ["symbol:B", "symbol:C"]}}));
    assert_wanted(&server, &mut client, &["A", "B", "C"], &["C"]);
}

#[test]
fn the_server_announces_updates() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    let info = client.ask(&json!({"type": "request", "payload": {"action": "server_info"}}));
    let capabilities = info["payload"]["capabilities"].as_array().expect("a list");
    assert!(capabilities.contains(&json!("update")) && capabilities.contains(&json!("publish_unacked")));
}

#[test]
fn a_publish_without_an_ack_is_answered_only_if_it_fails() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let mut client = Ws::connect(server.addr);
    client.send(&json!({"type": "publish", "ack": false, "message_id": "p", "payload": {"type": "x", "data": {"n": 1}}}));
    assert_eq!(reader.event()["payload"], json!({"n": 1}));
    client.send(&json!({"type": "publish", "ack": true, "message_id": "q", "payload": {"type": "x", "data": {"n": 2}}}));
    let ack = client.message();
    assert_eq!(
        (&ack["type"], &ack["correlation_id"]),
        (&json!("ack"), &json!("q")),
        "the first is not answered"
    );
    for (message, code) in [
        (json!({"type": "publish", "ack": false, "message_id": "p", "payload": {}}), "invalid_event"),
        (
            json!({"type": "publish", "ack": "no", "message_id": "p", "payload": {"type": "x"}}),
            "invalid_message",
        ),
        (json!({"type": "ping", "ack": false, "message_id": "p"}), ""),
        (json!({"type": "subscribe", "ack": false, "message_id": "p"}), "unknown_key"),
    ] {
        let answer = client.ask(&message);
        assert_eq!(answer["correlation_id"], "p", "{message}");
        if code.is_empty() {
            assert_eq!(answer["type"], "pong");
        } else {
            assert_eq!(
                (&answer["type"], &answer["payload"]["code"]),
                (&json!("error"), &json!(code)),
                "{message}"
            );
        }
    }
    assert_eq!(server.metric("fanwire_server_events_published_total"), Some(2.0));
}
