//! Every entrance for events, with every attribute that a payload can imply. Without a right to the attribute, the
//! event is refused in that entrance's error format, and no client receives it. With the right, it is accepted and
//! routed by the attribute.

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::http::{self, Response};
use support::service::{Kind, Service};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, eventually};

/// Time within which an unwanted event would have arrived.
const SILENCE: Duration = Duration::from_millis(200);

const SECRET: &str = "only-this-test-and-its-server-know-it-77c1";

/// An attribute that a payload implies.
struct Case {
    event_type: &'static str,
    payload: Value,
    /// Form of the attribute in the delivered event.
    says: fn(&Value) -> Value,
    value: Value,
    /// Options of a token with a right to the attribute, and of one without. The client's circle is `a`.
    with: [&'static str; 2],
    lacks: [&'static str; 2],
    /// Text that the refusal contains.
    beyond: &'static str,
}

fn stream_of(event: &Value) -> Value {
    event["stream_id"].clone()
}

fn channel_of(event: &Value) -> Value {
    event["channel"].clone()
}

fn entity_of(event: &Value) -> Value {
    event["entity"].clone()
}

/// One row for each rule of the three systems, and for each spelling of a type.
fn cases() -> Vec<Case> {
    let stream = |event_type| Case {
        event_type,
        payload: json!({"stream_id": "b"}),
        says: stream_of,
        value: json!("b"),
        with: ["--stream", "b"],
        lacks: ["--stream", "a"],
        beyond: "stream 'b'",
    };
    let channel = |event_type, payload, value: &'static str, beyond| Case {
        event_type,
        payload,
        says: channel_of,
        value: json!(value),
        with: ["--channel", value],
        lacks: ["--channel", "a"],
        beyond,
    };
    let entity = |event_type, key: &str, kind: &str, with, lacks, beyond| Case {
        event_type,
        payload: json!({ key: "b" }),
        says: entity_of,
        value: json!({"kind": kind, "id": "b"}),
        with: ["--entity", with],
        lacks: ["--entity", lacks],
        beyond,
    };
    vec![
        stream("STATE_CHANGED"),
        stream("state_changed"),
        Case { payload: json!({"stream_id": "b", "execution_id": "e"}), ..stream("EXECUTION_STARTED") },
        channel("agent_message", json!({"circle_name": "b"}), "b", "channel 'b'"),
        channel("agent.message", json!({"circle_name": "b"}), "b", "channel 'b'"),
        channel("presence.joined", json!({"circle_name": "b"}), "b", "channel 'b'"),
        channel("file_changed", json!({"workspace_id": 7}), "workspace-7", "channel 'workspace-7'"),
        channel(
            "workspace.file_changed",
            json!({"workspace_id": "7"}),
            "workspace-7",
            "channel 'workspace-7'",
        ),
        // The channel of a token's subject, `user:{sub}`. A subject that looks like a pattern is an exact value.
        Case {
            with: ["--channel=team", "--sub=b"],
            lacks: ["--channel=team", "--sub=a"],
            ..channel("agent_message", json!({"circle_name": "user:b"}), "user:b", "channel 'user:b'")
        },
        Case {
            with: ["--channel=team", "--sub=b"],
            lacks: ["--channel=team", "--sub=**"],
            ..channel("agent.message", json!({"circle_name": "user:b"}), "user:b", "channel 'user:b'")
        },
        Case {
            with: ["--channel=team", "--sub=*"],
            lacks: ["--channel=team", "--sub=b"],
            ..channel("agent_message", json!({"circle_name": "user:*"}), "user:*", "channel 'user:*'")
        },
        entity("agent_status", "agentId", "agent", "agent:b", "agent:a", "entity 'agent:b'"),
        entity("agent:status", "agentId", "agent", "agent:b", "agent:a", "entity 'agent:b'"),
        entity(
            "workflow_started",
            "workflowId",
            "workflow",
            "workflow:b",
            "workflow:a",
            "entity 'workflow:b'",
        ),
        entity(
            "deployment_status",
            "deploymentId",
            "deployment",
            "deployment:b",
            "deployment:a",
            "entity 'deployment:b'",
        ),
        entity("system_alert", "alertId", "system", "system:b", "system:a", "entity 'system:b'"),
    ]
}

/// Answer of an entrance.
enum Said {
    Taken,
    Refused(String),
    /// This entrance has no form for such an event.
    NoDoor,
}

type Door = fn(SocketAddr, &str, &Case) -> Said;

/// All entrances for clients, by name.
const DOORS: [(&str, Door); 15] = [
    ("JSON object", |addr, token, case| {
        let body = json!({"type": case.event_type, "payload": case.payload});
        of_http(&post(addr, token, "Content-Type: application/json\r\n", &body.to_string()))
    }),
    ("JSON object by short names", |addr, token, case| {
        let body = json!({"event_type": case.event_type, "data": case.payload, "ts": 1, "metadata": {}});
        of_http(&post(addr, token, "Content-Type: text/plain\r\n", &body.to_string()))
    }),
    ("JSON with an escape", |addr, token, case| {
        // The fast parser leaves such a text to the one that accepts every JSON text.
        let body = json!({"type": case.event_type, "source": "a\tb".replace('\t', "\u{e9}\u{2028}"), "payload": case.payload});
        let body = body.to_string().replace("\"type\"", "\"\\u0074ype\"");
        of_http(&post(addr, token, "Content-Type: application/json\r\n", &body))
    }),
    ("JSON with a key", |addr, token, case| {
        if case.value.get("kind").is_none() {
            return Said::NoDoor;
        }
        let key = format!("{}:{}:status", text(&case.value["kind"]), text(&case.value["id"]));
        let body = json!({"type": case.event_type, "key": key, "data": {}});
        of_http(&post(addr, token, "Content-Type: application/json\r\n", &body.to_string()))
    }),
    ("run", |addr, token, case| {
        // The path has the stream, and the response is one that does not end.
        if case.beyond.starts_with("stream") {
            return Said::NoDoor;
        }
        let body = json!({"type": case.event_type, "payload": case.payload}).to_string();
        let mut wire = Wire::connect(addr);
        let request = format!(
            "POST /runs/r HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        wire.send(request.as_bytes());
        let mut answer = http::read_head(&mut wire, deadline()).expect("an answer");
        if let Some(length) = answer.header("content-length") {
            answer.body = wire.take(length.parse().expect("a number"), deadline()).expect("a body");
        }
        of_http(&answer)
    }),
    ("JSON array", |addr, token, case| {
        let body = json!([{"type": "plain"}, {"type": case.event_type, "payload": case.payload}]);
        of_http(&post(addr, token, "Content-Type: application/json\r\n", &body.to_string()))
    }),
    ("NDJSON", |addr, token, case| {
        let line = json!({"type": case.event_type, "payload": case.payload});
        let body = format!("{}\n{line}\n", json!({"type": "plain"}));
        of_http(&post(addr, token, "Content-Type: application/x-ndjson\r\n", &body))
    }),
    ("CloudEvents, structured", |addr, token, case| {
        let body = cloud_event(case).to_string();
        of_http(&post(addr, token, "Content-Type: application/cloudevents+json\r\n", &body))
    }),
    ("CloudEvents, a batch", |addr, token, case| {
        let body = json!([cloud_event(case)]).to_string();
        of_http(&post(addr, token, "Content-Type: application/cloudevents-batch+json\r\n", &body))
    }),
    ("CloudEvents, binary", |addr, token, case| {
        let headers = format!(
            "Content-Type: application/json\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: s\r\nce-type: {}\r\n",
            case.event_type
        );
        of_http(&post(addr, token, &headers, &case.payload.to_string()))
    }),
    ("native WebSocket", |addr, token, case| {
        let mut client = open(addr, "/ws", token);
        let event = json!({"type": case.event_type, "payload": case.payload});
        match client.ask(&json!({"type": "publish", "message_id": "m", "payload": event})) {
            answer if answer["type"] == "ack" => Said::Taken,
            answer => {
                let error = &answer["payload"];
                assert_eq!((&answer["type"], &answer["correlation_id"]), (&json!("error"), &json!("m")));
                assert_eq!(error["code"], "forbidden", "{answer}");
                Said::Refused(text(&error["error"]))
            }
        }
    }),
    ("AutoSDLC", |addr, token, case| {
        if case.value.get("kind").is_none() {
            return Said::NoDoor;
        }
        let mut client = open(addr, "/autosdlc", token);
        assert_eq!(client.message()["type"], "connect");
        client.send(&json!({"id": "m", "type": case.event_type, "data": case.payload}));
        // An accepted message has no answer, so the next message is the answer to the ping.
        match client.ask(&json!({"id": "p", "type": "ping"})) {
            answer if answer["type"] == "pong" => Said::Taken,
            answer => {
                assert_eq!(
                    (&answer["type"], &answer["data"]["code"]),
                    (&json!("error"), &json!("forbidden"))
                );
                Said::Refused(text(&answer["data"]["error"]))
            }
        }
    }),
    ("a circle", |addr, token, case| say(addr, token, case, "/ws/circles/a")),
    ("an agent's channel", |addr, token, case| say(addr, token, case, "/ws/agents/a")),
    ("a workspace", |addr, token, case| say(addr, token, case, "/ws/workspaces/a")),
];

/// Sends the event in a channel. The path decides the channel, so a payload that names another one can't be tested
/// here.
fn say(addr: SocketAddr, token: &str, case: &Case, path: &str) -> Said {
    if case.beyond.starts_with("channel") {
        return Said::NoDoor;
    }
    let mut client = open(addr, path, token);
    let mut message = case.payload.clone();
    message["type"] = case.event_type.into();
    client.send(&message);
    match client.ask(&json!({"type": "ping"})) {
        answer if answer["type"] == "pong" => Said::Taken,
        answer => {
            assert_eq!((&answer["type"], &answer["data"]["code"]), (&json!("error"), &json!("forbidden")));
            Said::Refused(text(&answer["data"]["error"]))
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

fn cloud_event(case: &Case) -> Value {
    json!({"specversion": "1.0", "id": "1", "source": "s", "type": case.event_type, "data": case.payload})
}

fn of_http(answer: &Response) -> Said {
    match answer.status {
        200 => Said::Taken,
        403 => Said::Refused(text(&answer.json()["error"])),
        _ => panic!("{answer:?}"),
    }
}

fn post(addr: SocketAddr, token: &str, headers: &str, body: &str) -> Response {
    post_to(addr, "/publish", token, headers, body)
}

fn post_to(addr: SocketAddr, path: &str, token: &str, headers: &str, body: &str) -> Response {
    let len = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{headers}Content-Length: {len}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    http::exchange(addr, request.as_bytes())
}

fn open(addr: SocketAddr, path: &str, token: &str) -> Ws {
    Ws::over(Wire::connect(addr), path, &format!("Authorization: Bearer {token}\r\n"))
}

fn token(options: &[&str]) -> String {
    support::token(SECRET, options)
}

/// A reader of all events, and the marker event up to which it reads.
struct Reader {
    addr: SocketAddr,
    socket: Ws,
    all: String,
    marks: usize,
}

impl Reader {
    fn new(addr: SocketAddr) -> Self {
        let all = token(&["--stream", "*", "--publish"]);
        let mut socket = open(addr, "/ws", &all);
        assert_eq!(socket.ask(&json!({"type": "subscribe"}))["type"], "ack");
        Self { addr, socket, all, marks: 0 }
    }

    /// Returns all events so far, except those of the type `plain`.
    fn events(&mut self) -> Vec<Value> {
        self.marks += 1;
        let mark = format!("mark.{}", self.marks);
        let answer = post(self.addr, &self.all, "", &json!({"type": mark}).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut events = Vec::new();
        loop {
            let event = self.socket.event();
            if event["event_type"] == mark.as_str() {
                return events;
            }
            if event["event_type"] != "plain" {
                events.push(event);
            }
        }
    }
}

fn guarded(options: &[&str]) -> Server {
    Server::with(
        &[&["--auth-jwt-hs256-secret", SECRET, "--auth-grant-channels", "user:{sub}"], options].concat(),
    )
}

/// Checks the whole table: events are published through one server and read from another, which may be the same.
fn every_entrance_checks_every_attribute(publishing: SocketAddr, reading: SocketAddr) {
    let mut reader = Reader::new(reading);
    let mut doors = 0;
    for case in cases() {
        let lacks = token(&[&case.lacks[..], &["--publish"]].concat());
        let with = token(&[&case.with[..], &["--publish"]].concat());
        let mut narrow = open(reading, "/ws", &with);
        assert_eq!(narrow.ask(&json!({"type": "subscribe"}))["type"], "ack");
        for (name, door) in DOORS {
            let what = format!("{name}: {} {}", case.event_type, case.payload);
            match door(publishing, &lacks, &case) {
                Said::NoDoor => continue,
                Said::Taken => panic!("{what} was taken from {:?}", case.lacks),
                Said::Refused(why) => {
                    assert_eq!(why, format!("beyond what the token allows: {}", case.beyond), "{what}");
                }
            }
            doors += 1;
            let come = reader.events();
            assert!(come.is_empty(), "{what} was refused, and came: {come:?}");
            match door(publishing, &with, &case) {
                Said::Taken => {}
                Said::Refused(why) => panic!("{what} was refused to {:?}: {why}", case.with),
                Said::NoDoor => unreachable!("it was one"),
            }
            eventually("what was taken came", || {
                let come = reader.events();
                assert!(come.len() <= 1, "{what}: {come:?}");
                come.iter().any(|event| (case.says)(event) == case.value)
            });
            assert_eq!((case.says)(&narrow.event()), case.value, "{what}");
        }
        assert!(narrow.is_silent_for(Duration::from_millis(1)));
    }
    assert!(doors > 150, "{doors}");
}

#[test]
fn in_one_process() {
    let server = guarded(&[]);
    every_entrance_checks_every_attribute(server.addr, server.addr);
}

#[test]
fn over_redis_from_another_node() {
    let service = Service::start(Kind::Redis);
    over_a_log(&service.url());
}

#[test]
fn over_jetstream_from_another_node() {
    let service = Service::start(Kind::Nats);
    over_a_log(&service.url());
}

#[test]
fn over_plain_nats_from_another_node() {
    let service = Service::start(Kind::PlainNats);
    over_a_log(&service.url());
}

#[test]
fn over_files() {
    let folder = std::env::temp_dir().join(format!("fanwire-rights-{}", std::process::id()));
    let server = guarded(&["--engine", &format!("file://{}", folder.display())]);
    eventually("the node follows the log", || http::get(server.addr, "/readyz").status == 200);
    every_entrance_checks_every_attribute(server.addr, server.addr);
    drop(server);
    let _ = std::fs::remove_dir_all(folder);
}

fn over_a_log(url: &str) {
    let nodes: Vec<Server> = (0..2).map(|_| guarded(&["--engine", url])).collect();
    for node in &nodes {
        eventually("the node follows the log", || http::get(node.addr, "/readyz").status == 200);
    }
    every_entrance_checks_every_attribute(nodes[0].addr, nodes[1].addr);
}

/// Returns an attribute of an event as delivered.
type AttributeOf = fn(&Value) -> Value;

/// Returns bodies in which the publisher sends the attribute as empty, although the payload names one. With each, how
/// to read the attribute of the delivered event.
fn unnamed() -> Vec<(Value, AttributeOf)> {
    vec![
        (json!({"type": "STATE_CHANGED", "stream_id": "", "payload": {"stream_id": "b"}}), stream_of),
        (json!({"type": "agent_message", "channel": "", "payload": {"circle_name": "b"}}), channel_of),
        (json!({"type": "agent_status", "entity": {}, "payload": {"agentId": "b"}}), entity_of),
    ]
}

#[test]
fn an_event_checked_without_an_attribute_stays_without_it_over_a_log() {
    let service = Service::start(Kind::Redis);
    let url = service.url();
    let node = guarded(&["--engine", &url]);
    eventually("the node follows the log", || http::get(node.addr, "/readyz").status == 200);
    let mut reader = Reader::new(node.addr);
    let publisher = token(&["--stream", "a", "--channel", "a", "--entity", "agent:a", "--publish"]);
    for (body, says) in unnamed() {
        let answer = post(node.addr, &publisher, "", &body.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        let come = reader.events();
        assert_eq!(come.len(), 1, "{come:?}");
        assert_eq!(says(&come[0]), Value::Null, "{come:?}");
    }
    // A node that reads the log later delivers the same events.
    let later = guarded(&["--engine", &url]);
    eventually("the node follows the log", || http::get(later.addr, "/readyz").status == 200);
    let all = token(&["--stream", "*"]);
    let mut past =
        Sse::open(later.addr, &format!("?history=100&type=STATE_CHANGED&type=agent_*&token={all}"));
    for (body, says) in unnamed().into_iter().take(1) {
        let event = past.event().json();
        assert_eq!(event["event_type"], body["type"]);
        assert_eq!(says(&event), Value::Null, "{event}");
    }
}

#[test]
fn an_event_checked_without_an_attribute_stays_without_it_through_an_upgrade() {
    let server = guarded(&["--log-level", "info"]);
    let publisher = token(&["--stream", "a", "--channel", "a", "--entity", "agent:a", "--publish"]);
    for (body, _) in unnamed() {
        let answer = post(server.addr, &publisher, "", &body.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    server.signal("USR2");
    eventually("the successor takes over", || server.log().contains("handed over"));
    let log = server.log();
    let successor = log.split("successor=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let successor = successor.expect("its process").to_owned();
    let all = token(&["--stream", "*"]);
    let mut past = Sse::open(server.addr, &format!("?history=100&token={all}"));
    for (body, says) in unnamed() {
        let event = past.event().json();
        assert_eq!(event["event_type"], body["type"]);
        assert_eq!(says(&event), Value::Null, "{event}");
    }
    assert!(Command::new("kill").args(["-KILL", &successor]).status().expect("kill runs").success());
}

#[test]
fn bridge_messages_imply_no_attributes() {
    let server = guarded(&[]);
    let mut reader = Reader::new(server.addr);
    let narrow = token(&["--stream", "a", "--channel", "a", "--entity", "agent:a", "--publish=protocol.**"]);
    let message = json!({
        "type": "STATE_CHANGED", "stream_id": "b", "circle_name": "b", "agentId": "b", "channel": "b",
        "entity": {"kind": "agent", "id": "b"}, "task_id": "t"
    });
    for protocol in ["a2a", "mcp", "STATE_CHANGED"] {
        let answer = post_to(server.addr, &format!("/bridge/{protocol}"), &narrow, "", &message.to_string());
        assert_eq!(answer.status, if protocol == "STATE_CHANGED" { 404 } else { 200 }, "{answer:?}");
        let come = reader.events();
        assert_eq!(come.len(), 1, "{come:?}");
        let event = &come[0];
        assert!(text(&event["event_type"]).starts_with("protocol."), "{event}");
        let delivered = (stream_of(event), channel_of(event), entity_of(event));
        assert_eq!(delivered, (Value::Null, Value::Null, Value::Null), "{event}");
    }
    let other = token(&["--stream", "*", "--publish=protocol.mcp"]);
    let answer = post_to(server.addr, "/bridge/a2a", &other, "", &message.to_string());
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(reader.events().is_empty());
}

#[test]
fn dialects_without_a_word_for_it_publish_nothing() {
    let server = guarded(&[]);
    let mut reader = Reader::new(server.addr);
    let all = token(&["--stream", "*", "--publish"]);
    let event = json!({"type": "STATE_CHANGED", "payload": {"stream_id": "b"}});
    for path in ["/hive", "/ws/events"] {
        for message in [
            json!({"type": "publish", "payload": event}),
            json!({"action": "publish", "event": event}),
            json!({"type": "STATE_CHANGED", "data": {"stream_id": "b"}}),
        ] {
            let mut client = open(server.addr, path, &all);
            client.send(&message);
            assert!(reader.events().is_empty(), "{path} {message}");
        }
    }
    assert!(reader.socket.is_silent_for(SILENCE));
}

#[test]
fn an_ingested_message_is_routed_once_by_what_it_implies() {
    let service = Service::start(Kind::Redis);
    let url = service.url();
    let ingest = format!("{url}#agent_message");
    let node = guarded(&["--engine", &url, "--ingest", &ingest]);
    eventually("the node follows the log", || http::get(node.addr, "/readyz").status == 200);
    let mut reader = Reader::new(node.addr);
    let publish = |text: &str| {
        let output = Command::new("redis-cli")
            .args(["-p", &service.addr.port().to_string(), "publish", "agent_message", text])
            .output()
            .expect("redis-cli runs");
        String::from_utf8_lossy(&output.stdout).trim() == "1"
    };
    let mut come = Vec::new();
    eventually("the node listens", || publish(r#"{"circle_name":"b"}"#));
    eventually("it came", || {
        come.extend(reader.events());
        !come.is_empty()
    });
    assert_eq!(channel_of(&come[0]), "b", "{come:?}");
    assert!(publish(r#"{"type":"agent_message","channel":"","payload":{"circle_name":"b"}}"#));
    come.clear();
    eventually("it came", || {
        come.extend(reader.events());
        !come.is_empty()
    });
    assert_eq!(channel_of(&come[0]), Value::Null, "{come:?}");
}
