//! A misspelt key from a client is an error that names the likely key: in messages, bodies and queries. Data from a log
//! or another system may have unknown keys.

mod support;

use serde_json::{Value, json};
use support::http::{get, post};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, http};

fn error_of(answer: &Value) -> &str {
    assert_eq!(answer["type"], "error", "{answer}");
    answer["payload"]["error"].as_str().expect("a text")
}

#[test]
fn a_subscribe_with_a_misspelt_key_is_refused() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    for (payload, says) in [
        (json!({"types": ["task.*"]}), "unknown key `types`: did you mean `event_types`?"),
        (json!({"event_type": ["task.*"]}), "`event_types`"),
        (json!({"eventTypes": ["task.*"]}), "`event_types`"),
        (json!({"event_types": ["task.*"], "fliter": "source=a"}), "`filter`"),
        (json!({"source": "a"}), "`sources`"),
        (json!({"histroy": 5}), "`history`"),
        (json!({"subscriptionId": "a"}), "`subscription_id`"),
        (json!({"snapshots": true}), "`snapshot`"),
        (json!({"quite": 1}), "the known keys are subscription_id, "),
        (json!({"entities": [{"kind": "task", "ident": "t-1"}]}), "an object of kind and id"),
    ] {
        let answer = client.ask(&json!({"type": "subscribe", "message_id": "m", "payload": payload}));
        assert!(error_of(&answer).contains(says), "{payload}: {answer}");
        assert_eq!(answer["correlation_id"], "m");
    }
    // Next to the payload, where it would be ignored.
    let answer = client.ask(&json!({"type": "subscribe", "event_types": ["task.*"]}));
    assert!(error_of(&answer).contains("`event_types` belongs into the payload"), "{answer}");
    let answer = client.ask(&json!({"type": "subscribe", "paylod": {"event_types": ["task.*"]}}));
    assert!(error_of(&answer).contains("did you mean `payload`?"), "{answer}");
    for (kind, payload, says) in [
        ("unsubscribe", json!({"subscription": "a"}), "`subscription_id`"),
        ("request", json!({"acton": "server_info"}), "`action`"),
        ("request", json!({"action": "presence", "chanel": "a"}), "`channel`"),
        ("publish", json!({"type": "x", "entitty": {"kind": "k", "id": "i"}}), "`entity`"),
    ] {
        let answer = client.ask(&json!({"type": kind, "payload": payload}));
        assert!(error_of(&answer).contains(says), "{payload}: {answer}");
    }
    let count = client.ask(&json!({"type": "request", "payload": {"action": "subscription_count"}}));
    assert_eq!(count["payload"]["count"], 0, "{count}");
    // All fields of FCC's message are accepted. A message that is no request may have any field.
    let whole = json!({"type": "subscribe", "message_id": "m", "timestamp": "2026-01-27T10:21:33Z", "correlation_id": null,
        "payload": {"subscription_id": "s", "event_types": [], "sources": null, "correlation_id": null}});
    assert_eq!(client.ask(&whole)["type"], "ack");
    let ping = json!({"type": "ping", "sent": 5, "payload": {"sent": 5}});
    assert_eq!(client.ask(&ping)["type"], "pong");
}

#[test]
fn an_event_with_a_misspelt_key_is_refused_in_every_form() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let bad = r#"{"type":"x","entitty":{"kind":"k","id":"i"}}"#;
    for (kind, body, line) in [
        ("application/json", bad.to_owned(), 1),
        ("text/plain", bad.to_owned(), 1),
        ("application/json", format!("[{{\"type\":\"a\"}},\n{bad}]"), 2),
        ("application/x-ndjson", format!("{{\"type\":\"a\"}}\n{bad}\n"), 2),
        // Parsed by the parser that accepts every JSON text, and by the fast one.
        ("application/json", bad.replace("\"x\"", "\"\\u0078\""), 1),
        ("application/json", bad.replace("entitty", "entitt\\u0079"), 1),
    ] {
        let answer = post(server.addr, "/publish", kind, body.as_bytes());
        assert_eq!(answer.status, 400, "{body}");
        let refusal = answer.json();
        assert_eq!(refusal["error"], "unknown key `entitty`: did you mean `entity`?", "{body}");
        assert_eq!(refusal["line"], line, "{body}");
    }
    let deep = post(
        server.addr,
        "/publish",
        "application/json",
        br#"{"type":"x","entity":{"kind":"k","ident":"i"}}"#,
    );
    assert_eq!(
        (deep.status, deep.json()["error"].as_str()),
        (400, Some("unknown key `entity.ident`: did you mean `entity.id`?"))
    );
    let cloud = post(
        server.addr,
        "/publish",
        "application/json",
        br#"{"specversion":"1.0","type":"x","source":"s","id":"1"}"#,
    );
    assert!(
        cloud.json()["error"].as_str().is_some_and(|text| text.contains("application/cloudevents+json")),
        "{cloud:?}"
    );
    // A payload may have any keys, and a CloudEvent any extensions.
    server.publish(r#"{"type":"x","payload":{"entitty":1}}"#);
    assert_eq!(reader.event()["payload"]["entitty"], 1);
    let extended = br#"{"specversion":"1.0","type":"y","source":"s","id":"1","entitty":"z"}"#;
    assert_eq!(post(server.addr, "/publish", "application/cloudevents+json", extended).status, 200);
    assert_eq!(reader.event()["event_type"], "y", "no part of a refused body was published");
}

#[test]
fn a_received_event_goes_out_again_as_it_is_in_every_form() {
    let server = Server::with(&["--bus-shards", "2"]);
    let mut whole = Ws::subscribed(server.addr, json!({}));
    let mut lean = Ws::over(Wire::connect(server.addr), "/ws", "Sec-WebSocket-Protocol: fanwire.v1.lean\r\n");
    lean.ask(&json!({"type": "subscribe", "payload": {}}));
    let mut sse = Sse::open(server.addr, "");
    let mut publisher = Ws::connect(server.addr);
    let event = json!({"type": "task.done", "source": "s", "ts": 1500, "correlation_id": "c", "stream_id": "st",
        "execution_id": "ex", "entity": {"kind": "k", "id": "i"}, "channel": "ch", "payload": {"n": 1},
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"});
    server.publish(event.to_string());
    let forms = [whole.event(), lean.message(), sse.event().json()];
    assert!(forms[1].get("position").is_some(), "{}", forms[1]);
    for form in forms {
        server.publish(form.to_string());
        let again = whole.event();
        for key in ["source", "timestamp", "correlation_id", "entity", "channel", "payload", "traceparent"] {
            assert_eq!(again[key], form[key], "{key} of {form}");
        }
        let asked = json!({"type": "publish", "message_id": "m", "payload": form});
        assert_eq!(publisher.ask(&asked)["type"], "ack", "{form}");
        assert_eq!(whole.event()["payload"], form["payload"]);
    }
    let marked = json!({"event_id": "a-1", "event_type": "x", "position": "a~1", "merged": 3, "payload": {}});
    server.publish(marked.to_string());
}

#[test]
fn event_fields_of_the_five_documents_are_accepted() {
    let server = Server::start();
    for event in [
        // FCC's event, and its message's id.
        json!({"event_id": "e", "event_type": "workflow.started", "source": "s", "timestamp": "2026-01-27T10:21:33Z", "correlation_id": null, "payload": {}, "message_id": "m"}),
        // AgentOS's envelope.
        json!({"type": "task.progress", "ts": "2026-01-27T10:21:33.123Z", "source": "core", "entity": null, "payload": {}}),
        // Hive's event.
        json!({"type": "EXECUTION_STARTED", "stream_id": "s", "execution_id": "e", "data": {}, "timestamp": "2026-01-27T10:21:33Z"}),
        // AutoSDLC's message, and the one that its broadcaster sends.
        json!({"id": "evt-1", "type": "agent_status", "timestamp": 1_703_775_135_000_u64, "data": {"agentId": "a"}, "metadata": {"version": "1.0", "source": "m"}}),
        json!({"type": "agent_status", "key": "agent:coder-001:status", "source": "m", "data": {}}),
        // GatheRing's message.
        json!({"type": "agent_message", "data": {"content": "hi"}, "timestamp": "2026-01-27T10:21:33Z", "channel": "dev-team"}),
    ] {
        server.publish(event.to_string());
    }
}

#[test]
fn a_query_with_a_typo_is_refused_and_foreign_parameters_are_ignored() {
    let server = Server::start();
    for (path, says) in [
        ("/sse?snapshot=yes", "snapshot is neither 1, true, 0 nor false"),
        ("/sse?lean=2", "lean is neither"),
        ("/sse?types=task.*", "did you mean `type`?"),
        ("/sse?event_types=task.*", "did you mean `type`?"),
        ("/sse?fliter=type%3Da", "did you mean `filter`?"),
        ("/sse/events?histroy=5", "did you mean `history`?"),
        ("/events?afer=a-1", "did you mean `after`?"),
        ("/api/history?minutes=5", "unknown key `minutes`: no key is allowed here"),
        ("/api/stats?x=1", "no key is allowed here"),
        ("/api/explain?eventId=a-1", "did you mean `event_id`?"),
        ("/api/subscriptions?clientid=a", "did you mean `client_id`?"),
    ] {
        let answer = get(server.addr, path);
        assert_eq!(answer.status, 400, "{path} {answer:?}");
        assert!(
            answer.json()["error"].as_str().is_some_and(|text| text.contains(says)),
            "{path}: {answer:?}"
        );
    }
    let slip = post(server.addr, "/publish?type=x", "application/json", br#"{"type":"a"}"#);
    assert_eq!(slip.status, 400, "{slip:?}");
    let mut wire = Wire::connect(server.addr);
    wire.send(support::ws::upgrade_request("/ws?type=task.*", "").as_bytes());
    let refused = http::read_response(&mut wire, deadline()).expect("an answer");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("goes into its subscribe"), "{refused:?}");

    let added =
        "_=123&utm_source=mail&utm_campaign=x&gclid=1&fbclid=2&msclkid=3&access_token=t&token=t&user=ann";
    let mut stream = Sse::open(server.addr, &format!("?type=a&lastEventId=&snapshot=0&lean=false&{added}"));
    drop(Ws::over(Wire::connect(server.addr), &format!("/ws?{added}"), ""));
    assert_eq!(get(server.addr, &format!("/api/stats?{added}")).status, 200);
    let answer = post(server.addr, &format!("/publish?{added}"), "application/json", br#"{"type":"a"}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(stream.event().json()["event_type"], "a");
    // These routes ignore the query, and scrapers and probes add their own parameters.
    for path in ["/healthz?x=1", "/readyz?probe=lb", "/metrics?name[]=a", "/?ref=a"] {
        assert_eq!(get(server.addr, path).status, 200, "{path}");
    }
}
