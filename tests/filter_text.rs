//! Every entrance has the same filter language: a text of docs/filters.md over WebSocket, SSE, `fanwire tail` and in
//! tokens selects the events that the library's own definition selects.

mod support;

use std::fmt::Write as _;
use std::time::Duration;

use fanwire::{Event, Filter};
use serde_json::{Value, json};
use support::http;
use support::sse::Sse;
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, fanwire, run};

/// Time within which an unwanted event would have arrived.
const SILENCE: Duration = Duration::from_millis(200);

const SECRET: &str = "only-this-test-and-its-server-know-it-51e5";

/// Events of every kind that conditions distinguish: kinds of numbers, texts with escapes, absent fields,
/// payloads that are not objects.
fn events() -> Vec<Value> {
    let payloads = [
        json!({"progress": 50, "state": "READY", "user": {"id": "u1", "tags": ["a", "b"]}}),
        json!({"progress": 49.5, "state": "DONE", "user": {"id": "u2", "tags": []}}),
        json!({"progress": 9_007_199_254_740_993_i64}),
        json!({"progress": 9_007_199_254_740_992_i64, "state": "a\"b\n\u{e9}"}),
        json!({"progress": "50", "error": null}),
        json!({"progress": [50], "state": {"READY": true}}),
        json!({"a.b": 1, "": 2, "flag": true}),
        json!([{"progress": 50}, 7]),
        json!("progress"),
        json!(50),
        Value::Null,
    ];
    let mut all = Vec::new();
    for (nth, payload) in payloads.into_iter().enumerate() {
        for (event_type, source) in
            [("task.progress", Some("core")), ("task.done", Some("edge")), ("alert", None)]
        {
            let mut event =
                json!({"type": event_type, "stream_id": format!("s{}", nth % 3), "payload": payload});
            if let Some(source) = source {
                event["source"] = json!(source);
            }
            if nth % 2 == 0 {
                event["entity"] = json!({"kind": "task", "id": format!("t{nth}")});
            }
            all.push(event);
        }
    }
    all
}

const TEXTS: &[&str] = &[
    "",
    "type=task.*",
    "source!=core",
    "type=task.* source!=core payload.progress >= 50",
    "payload.progress>=50",
    "payload.progress == 50",
    "payload.progress == \"50\"",
    "payload.progress != 50",
    "payload.progress > 9007199254740992",
    "payload.progress < 9007199254740993 payload.progress > 50",
    "payload.state == READY,DONE",
    "payload.state != READY",
    "payload.state == \"a\\\"b\\n\\u00e9\"",
    "payload.error exists",
    "payload.error == null",
    "payload.progress !exists",
    "payload.user.id == u1",
    "payload.user.tags.1 == b",
    "payload.\"a.b\" == 1",
    "payload.\"\" >= 2 payload.flag == true",
    "payload.0.progress == 50",
    "payload == 50",
    "payload == progress",
    "payload == null",
    "entity=task:* payload.progress exists",
    "entity_id!=t0 stream=s0 & stream=s0,s1",
    "type=task.* & type=**.done",
    "nothing",
];

/// Returns the numbers of the events that a filter selects, by the library's own definition.
fn wanted(filter: &Filter) -> Vec<usize> {
    let wants = |event: &Value| {
        let text = |name: &str| event[name].as_str();
        let mut builder = Event::builder(text("type").expect("each has one"));
        builder = builder.stream(text("stream_id").expect("each has one"));
        if let Some(source) = text("source") {
            builder = builder.source(source);
        }
        if let (Some(kind), Some(id)) = (event["entity"]["kind"].as_str(), event["entity"]["id"].as_str()) {
            builder = builder.entity(kind, id);
        }
        // A payload of `null` counts as absent, which means `{}`.
        if !event["payload"].is_null() {
            builder = builder.json(event["payload"].to_string());
        }
        filter.matches(&builder.build().expect("valid"))
    };
    let all = events();
    all.iter().enumerate().filter(|(_, event)| wants(event)).map(|(nth, _)| nth).collect()
}

/// Returns the events, each with its number, and a last one that ends the row.
fn numbered() -> Value {
    let mut all = events();
    for (nth, event) in all.iter_mut().enumerate() {
        event["correlation_id"] = json!(nth.to_string());
    }
    Value::from(all)
}

fn number(event: &Value) -> usize {
    event["correlation_id"].as_str().and_then(|text| text.parse().ok()).expect("numbered")
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "%{byte:02X}");
        all
    })
}

fn subscribe(client: &mut Ws, payload: Value) -> Value {
    client.ask(&json!({"type": "subscribe", "message_id": "m", "payload": payload}))
}

#[test]
fn each_filter_text_has_one_meaning_at_every_entrance() {
    let server = Server::with(&["--max-subscriptions", "100"]);
    let filters: Vec<Filter> = TEXTS.iter().map(|text| text.parse().expect(text)).collect();
    let mut sockets: Vec<Ws> =
        TEXTS.iter().map(|text| Ws::subscribed(server.addr, json!({"filter": text}))).collect();
    let mut streams: Vec<Sse> =
        TEXTS.iter().map(|text| Sse::open(server.addr, &format!("?filter={}", escaped(text)))).collect();
    server.publish(numbered().to_string());
    for ((text, filter), (socket, stream)) in
        TEXTS.iter().zip(&filters).zip(sockets.iter_mut().zip(&mut streams))
    {
        let want = wanted(filter);
        let over_socket: Vec<usize> = want.iter().map(|_| number(&socket.event())).collect();
        let over_stream: Vec<usize> = want.iter().map(|_| number(&stream.event().json())).collect();
        assert_eq!((&over_socket, &over_stream), (&want, &want), "{text}");
    }
    for (text, socket) in TEXTS.iter().zip(&mut sockets) {
        assert!(socket.is_silent_for(SILENCE / 20), "{text}");
    }
    // The past is filtered by the text, too, and `fanwire tail` sends an equal text.
    let url = format!("http://{}", server.addr);
    for (text, filter) in TEXTS.iter().zip(&filters) {
        let want = wanted(filter);
        if want.is_empty() {
            continue;
        }
        let mut late = Ws::connect(server.addr);
        assert_eq!(subscribe(&mut late, json!({"filter": text, "history": 1000}))["type"], "ack", "{text}");
        let past: Vec<usize> = want.iter().map(|_| number(&late.event())).collect();
        let mut stream = Sse::open(server.addr, &format!("?history=1000&filter={}", escaped(text)));
        let streamed: Vec<usize> = want.iter().map(|_| number(&stream.event().json())).collect();
        assert_eq!((&past, &streamed), (&want, &want), "{text}");
    }
    for (text, is_sse) in [(TEXTS[3], false), (TEXTS[3], true), ("payload.state != READY", true)] {
        let want = wanted(&text.parse().expect("valid"));
        let mut command = fanwire();
        command.args(["tail", "--url", &url, "--json", "--history", "1000", "--filter", text]);
        command.args(["--count", &want.len().to_string()]);
        let output = run(if is_sse { command.arg("--sse") } else { &mut command });
        let lines = String::from_utf8(output.stdout).expect("UTF-8");
        let numbers: Vec<usize> =
            lines.lines().map(|line| number(&serde_json::from_str(line).expect("JSON"))).collect();
        assert_eq!(numbers, want, "{text}");
    }
}

#[test]
fn a_text_narrows_the_other_fields() {
    let server = Server::start();
    let payload = json!({"event_types": ["task.*"], "stream_ids": ["s0"], "filter": "source!=core payload.progress exists"});
    let mut socket = Ws::subscribed(server.addr, payload);
    let text = escaped("source!=core payload.progress exists");
    let mut stream = Sse::open(server.addr, &format!("?type=task.*&stream=s0&filter={text}"));
    let mut none = Ws::subscribed(server.addr, json!({"event_types": ["alert"], "filter": "type=task.*"}));
    server.publish(numbered().to_string());
    let filter = "type=task.* stream=s0 source!=core payload.progress exists".parse().expect("valid");
    let want = wanted(&filter);
    assert!(!want.is_empty());
    for nth in want {
        assert_eq!((number(&socket.event()), number(&stream.event().json())), (nth, nth));
    }
    assert!(socket.is_silent_for(SILENCE) && none.is_silent_for(SILENCE));
    // In `tail`, an option next to the text narrows the selection, too.
    let mut command = fanwire();
    command.args(["tail", "--url", &format!("http://{}", server.addr), "--json", "--history", "1000"]);
    command.args(["--type", "task.*", "--filter", "source!=core", "--count", "1"]);
    let line = String::from_utf8(run(&mut command).stdout).expect("UTF-8");
    let event: Value = serde_json::from_str(&line).expect("one event");
    assert_eq!((&event["event_type"], &event["source"]), (&json!("task.done"), &json!("edge")));
}

#[test]
fn a_list_of_subscriptions_has_the_whole_filter() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    for (id, payload) in [
        ("plain", json!({"event_types": ["task.*"]})),
        ("text", json!({"filter": "type=task.* source=core"})),
        ("more", json!({"event_types": ["task.*"], "filter": "source!=core payload.n>=5"})),
        ("empty", json!({"filter": ""})),
        ("null", json!({"filter": null})),
    ] {
        let mut payload = payload;
        payload["subscription_id"] = json!(id);
        assert_eq!(subscribe(&mut client, payload)["type"], "ack", "{id}");
    }
    let list = client.ask(&json!({"type": "request", "payload": {"action": "list_subscriptions"}}));
    let list = list["payload"]["subscriptions"].as_array().expect("a list").clone();
    let of = |id: &str| list.iter().find(|one| one["subscription_id"] == id).expect("listed").clone();
    for id in ["plain", "text", "empty", "null"] {
        assert_eq!(of(id).get("filter"), None, "lists say it all: {}", of(id));
    }
    assert_eq!(of("text")["sources"], json!(["core"]));
    assert_eq!(of("more")["filter"], "type=task.* source!=core payload.n >= 5");
    assert_eq!(of("more")["event_types"], json!(["task.*"]));
}

#[test]
fn a_faulty_text_is_refused_with_its_place_and_the_next_step() {
    let server = Server::start();
    let many = (0..17).map(|n| format!("payload.f{n} exists")).collect::<Vec<_>>().join(" ");
    let values = (0..257).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    for (text, column, says) in [
        ("type=task.* colour=red", json!(13), "at \"colour=red\": unknown attribute \"colour\""),
        ("payload.a >", json!(12), "at the end: expected a value"),
        ("type=\u{e9}a payload. > 1", json!(17), "expected a key"),
        ("source=\"a", json!(8), "closing quote"),
        ("type>5", json!(5), "payload fields only"),
        (many.as_str(), Value::Null, "17 payload comparisons is over the limit of 16"),
        (&format!("type={values}"), json!(920), "257 values is over the limit of 256"),
    ] {
        let mut client = Ws::connect(server.addr);
        let answer = subscribe(&mut client, json!({"filter": text}));
        assert_eq!((&answer["type"], &answer["correlation_id"]), (&json!("error"), &json!("m")), "{answer}");
        let refused = http::get(server.addr, &format!("/sse?filter={}", escaped(text)));
        assert_eq!(refused.status, 400, "{refused:?}");
        for said in [&answer["payload"], &refused.json()] {
            assert_eq!((&said["code"], &said["column"]), (&json!("invalid_filter"), &column), "{said}");
            assert!(said["error"].as_str().expect("a text").contains(says), "{said}");
        }
        assert!(client.is_silent_for(SILENCE / 20), "it is subscribed to nothing");
        let mut command = fanwire();
        let output = run(command.args(["tail", "--url", "http://127.0.0.1:1", "--filter", text]));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    let twice = http::get(server.addr, "/sse?filter=type=a&filter=type=b").json();
    assert!(twice["error"].as_str().expect("a text").contains("join the texts with &"), "{twice}");
    for other in [json!(5), json!(["type=a"]), json!({"type": "a"})] {
        let answer = subscribe(&mut Ws::connect(server.addr), json!({"filter": other}));
        assert_eq!(
            (&answer["type"], &answer["payload"]["code"]),
            (&json!("error"), &json!("invalid_payload"))
        );
    }
}

/// The AgentOS document gives the name another meaning: types of events.
#[test]
fn a_filter_of_agentos_is_still_a_list_of_types() {
    let server = Server::start();
    let mut client = Ws::over(Wire::connect(server.addr), "/ws/events?filter=task.progress&filter=a%3Db", "");
    server.publish(r#"[{"type":"task.done"},{"type":"task.progress"},{"type":"a=b"}]"#);
    assert_eq!(client.message()["type"], "task.progress");
    assert_eq!(client.message()["type"], "a=b");
}

fn token(options: &[&str]) -> String {
    support::token(SECRET, options)
}

#[test]
fn a_tokens_filter_narrows_the_events_that_its_holder_sees_and_publishes() {
    let server = Server::with(&["--auth-jwt-hs256-secret", SECRET]);
    let all = token(&["--stream", "*", "--publish"]);
    let narrow = token(&["--filter", "source!=core payload.progress >= 50", "--publish"]);
    let both = token(&["--stream", "s0", "--filter", "payload.state == READY,DONE"]);
    let post = |token: &str, body: &str| {
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        http::exchange(server.addr, request.as_bytes())
    };
    let open = |token: &str, query: &str| Sse::open(server.addr, &format!("?token={token}{query}"));
    let mut sees = [
        (open(&narrow, ""), "source!=core payload.progress >= 50"),
        (open(&narrow, "&type=task.*"), "type=task.* source!=core payload.progress >= 50"),
        (open(&both, ""), "stream=s0 payload.state == READY,DONE"),
        (
            open(&both, &format!("&filter={}", escaped("payload.progress < 50"))),
            "stream=s0 payload.state == READY,DONE payload.progress < 50",
        ),
    ];
    let mut socket = Ws::over(Wire::connect(server.addr), &format!("/ws?token={narrow}"), "");
    assert_eq!(subscribe(&mut socket, json!({}))["type"], "ack");
    assert_eq!(post(&all, &numbered().to_string()).status, 200);
    for (stream, filter) in &mut sees {
        for nth in wanted(&filter.parse().expect("valid")) {
            assert_eq!(number(&stream.event().json()), nth, "{filter}");
        }
    }
    for nth in wanted(&"source!=core payload.progress >= 50".parse().expect("valid")) {
        assert_eq!(number(&socket.event()), nth);
    }
    assert!(socket.is_silent_for(SILENCE));

    // A value that is named but can never be visible is refused, as in the lists.
    for (token, asked, what) in [
        (&narrow, "source=core", "source 'core'"),
        (&narrow, "payload.progress == 49", "payload.progress 49"),
        (&both, "payload.state == GONE", "payload.state \"GONE\""),
        (&both, "stream=s1", "stream 's1'"),
    ] {
        let refused = http::get(server.addr, &format!("/sse?token={token}&filter={}", escaped(asked)));
        assert_eq!(refused.status, 403, "{asked}: {refused:?}");
        assert!(refused.text().contains(&what.replace('"', "\\\"")), "{}", refused.text());
        let mut client = Ws::over(Wire::connect(server.addr), &format!("/ws?token={token}"), "");
        let answer = subscribe(&mut client, json!({"filter": asked}));
        assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
    }

    // A publisher needs a right for each attribute of the event. Absent attributes need no right.
    let mut publisher = Ws::over(Wire::connect(server.addr), &format!("/ws?token={narrow}"), "");
    for (event, status) in [
        (r#"{"type":"a"}"#, 200),
        (r#"{"type":"a","source":"edge","payload":{"progress":50}}"#, 200),
        (r#"{"type":"a","source":"core"}"#, 403),
        (r#"{"type":"a","source":"edge","payload":{"progress":49}}"#, 403),
        (r#"{"type":"a","payload":{"progress":"50"}}"#, 403),
    ] {
        let answer = post(&narrow, event);
        assert_eq!(answer.status, status, "{event}: {answer:?}");
        let published = publisher
            .ask(&json!({"type": "publish", "payload": serde_json::from_str::<Value>(event).expect("JSON")}));
        let refused = published["payload"]["code"] == "forbidden";
        assert_eq!(refused, status == 403, "{event}: {published}");
    }
    for option in ["colour=red", "payload.a >"] {
        let output = run(fanwire().args(["token", "--filter", option, "--secret", SECRET]));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}
