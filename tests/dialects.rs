//! Each dialect at its own path, with a client written from its document.

#![cfg(feature = "cli")]

mod support;

use std::time::Duration;

use fanwire::sse::SseBridge;
use fanwire::{Bus, Event, Filter};
use serde_json::{Value, json};
use support::wire::Wire;
use support::ws::{BINARY, PING, PONG, TEXT, Ws};
use support::{Server, http};

/// Time within which an unwanted event would have arrived.
const SILENCE: Duration = Duration::from_millis(200);

fn open(server: &Server, path: &str) -> Ws {
    Ws::over(Wire::connect(server.addr), path, "")
}

/// Names of a message's fields.
fn names(message: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = message.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn agentos_sends_every_event_as_the_frozen_envelope_from_the_moment_of_connecting() {
    let server = Server::start();
    server.publish(r#"{"type":"task.started"}"#);
    let mut client = open(&server, "/ws/events");
    // The document's examples, identical except for white space.
    for example in [
        r#"{"type":"task.progress","ts":"2026-01-27T10:21:33.123Z","source":"core","entity":{"kind":"task","id":"task_abc123"},"payload":{"progress":42,"message":"Indexing documents"}}"#,
        r#"{"type":"provider.status_changed","ts":"2026-01-27T11:45:23.456Z","source":"core","entity":{"kind":"provider","id":"ollama"},"payload":{"state":"READY","endpoint":"http://127.0.0.1:11434","latency_ms":45.2,"last_error":null}}"#,
    ] {
        server.publish(example);
        let frame = client.read_frame(support::wire::deadline()).expect("an event");
        // Events from before the connect are not delivered.
        assert_eq!((frame.opcode(), String::from_utf8_lossy(&frame.payload).as_ref()), (TEXT, example));
    }
    server.publish(r#"{"type":"x"}"#);
    let event = client.message();
    assert_eq!(
        (&event["source"], &event["entity"], &event["payload"]),
        (&json!("core"), &Value::Null, &json!({}))
    );
}

#[test]
fn agentos_answers_a_ping_in_kind_and_takes_anything_else_silently() {
    let server = Server::start();
    let mut client = open(&server, "/ws/events");
    client.send_text("hello? {");
    client.send(&json!({"type": "subscribe", "x": 1}));
    client.send_text("ping");
    let until = support::wire::deadline();
    assert_eq!(client.read_frame(until).expect("a pong").payload, b"pong");
    assert_eq!(client.ask(&json!({"type": "ping"}))["type"], "pong");
}

#[test]
fn agentos_filters_by_query_and_replays_only_when_asked() {
    let server = Server::start();
    server.publish(r#"[{"type":"task.progress","payload":{"n":1}},{"type":"task.started"},{"type":"task.progress","payload":{"n":2}}]"#);
    let mut client = open(&server, "/ws/events?filter=task.progress&filter=provider.**&history=1");
    assert_eq!(client.message()["payload"], json!({"n": 2}));
    server.publish(r#"[{"type":"task.started"},{"type":"provider.status_changed"}]"#);
    assert_eq!(client.message()["type"], "provider.status_changed");

    let mut about = open(&server, "/ws/events?entity=task:t-1");
    server.publish(r#"[{"type":"a","entity":{"kind":"task","id":"t-2"}},{"type":"b","entity":{"kind":"task","id":"t-1"}}]"#);
    assert_eq!(about.message()["type"], "b");

    let refused =
        http::exchange(server.addr, support::ws::upgrade_request("/ws/events?history=some", "").as_bytes());
    assert_eq!(refused.status, 400);
}

#[test]
fn without_an_agentos_client_nothing_is_encoded_nor_kept() {
    let server = Server::start();
    let events = r#"[{"type":"task.started"},{"type":"task.completed"}]"#;
    let count = |name: &str| server.metric(name).unwrap_or_default() as u64;
    server.publish(events);
    assert_eq!((count("fanwire_feed_encodings_total"), count("fanwire_feed_feeds")), (0, 0));
    let mut client = open(&server, "/ws/events");
    server.publish(events);
    assert_eq!(client.message()["type"], "task.started");
    assert_eq!((count("fanwire_feed_encodings_total"), count("fanwire_feed_feeds")), (2, 1));
    drop(client);
    support::eventually("it is cleaned up", || count("fanwire_feed_feeds") == 0);
    server.publish(events);
    assert_eq!(count("fanwire_feed_encodings_total"), 2, "and costs nothing more");
}

#[test]
fn an_agentos_client_may_bound_how_many_events_a_second_it_gets() {
    let server = Server::start();
    let mut client = open(&server, "/ws/events?max_per_second=2");
    let events: Vec<Value> =
        (1..=100).map(|n| json!({"type": "task.progress", "payload": {"progress": n}})).collect();
    server.publish(json!(events).to_string());
    assert_eq!(client.message()["payload"]["progress"], 1);
    assert_eq!(client.message()["payload"]["progress"], 100, "then the newest of those within half a second");
    let refused = http::exchange(
        server.addr,
        support::ws::upgrade_request("/ws/events?max_per_second=few", "").as_bytes(),
    );
    assert_eq!(refused.status, 400);
}

#[test]
fn ten_agentos_clients_take_a_hundred_events_a_second() {
    const EVENTS: u64 = 300;
    let server = Server::start();
    let mut clients: Vec<Ws> = (0..10).map(|_| open(&server, "/ws/events")).collect();
    let mut publisher = Wire::connect(server.addr);
    let begin = std::time::Instant::now();
    for n in 0..EVENTS {
        let event = json!({"type": "task.progress", "payload": {"progress": n}}).to_string();
        publisher.send(&http::post_request("/publish", "application/json", event.as_bytes()));
        let answer = http::read_response(&mut publisher, support::wire::deadline()).expect("an answer");
        assert_eq!(answer.status, 200);
        std::thread::sleep(
            (begin + Duration::from_millis(10 * n)).saturating_duration_since(std::time::Instant::now()),
        );
    }
    for client in &mut clients {
        for n in 0..EVENTS {
            assert_eq!(client.message()["payload"]["progress"], n, "each one, in order");
        }
    }
    // Deliveries are counted after they are written.
    support::eventually("all are counted", || {
        server.metric("fanwire_feed_deliveries_total") >= Some((10 * EVENTS) as f64)
    });
    assert_eq!(server.metric("fanwire_feed_deliveries_total"), Some((10 * EVENTS) as f64));
    assert_eq!(server.metric("fanwire_feed_events_dropped_total"), Some(0.0));
    assert_eq!(server.metric("fanwire_feed_encodings_total"), Some(EVENTS as f64), "one for all ten");
}

#[test]
fn hive_filters_in_any_case_and_answers_in_lower_case() {
    let server = Server::start();
    let mut client = open(&server, "/hive");
    server.publish(r#"{"type":"EXECUTION_STARTED","stream_id":"webhook"}"#);
    assert!(client.is_silent_for(SILENCE), "nothing comes before a subscribe");
    let answer = client.ask(&json!({
        "action": "subscribe", "stream_id": "webhook", "event_types": ["EXECUTION_STARTED", "GOAL_PROGRESS"],
    }));
    assert_ne!(answer["type"], "event");
    server.publish(
        r#"[{"type":"EXECUTION_STARTED","stream_id":"other"},{"type":"STATE_CHANGED","stream_id":"webhook"},
            {"type":"goal_progress","stream_id":"webhook","execution_id":"ex-1","payload":{"progress":0.5}}]"#,
    );
    let message = client.message();
    assert_eq!(names(&message), ["event", "type"]);
    assert_eq!(message["type"], "event");
    let event = &message["event"];
    assert_eq!(names(event), ["data", "execution_id", "stream_id", "timestamp", "type"]);
    assert_eq!(
        (&event["type"], &event["stream_id"], &event["execution_id"], &event["data"]),
        (&json!("goal_progress"), &json!("webhook"), &json!("ex-1"), &json!({"progress": 0.5}))
    );
    // A second subscribe adds.
    client.ask(&json!({"action": "subscribe", "execution_id": "ex-9"}));
    server.publish(
        r#"[{"type":"X","execution_id":"ex-9"},{"type":"EXECUTION_STARTED","stream_id":"webhook"}]"#,
    );
    assert_eq!(client.message()["event"]["type"], "x");
    let event = client.message();
    assert_eq!(
        (&event["event"]["type"], &event["event"]["execution_id"]),
        (&json!("execution_started"), &Value::Null)
    );
}

#[test]
fn hive_serves_the_root_and_binary_frames_when_configured() {
    let server = Server::with(&["--dialect", "hive"]);
    let mut client = open(&server, "/");
    assert_eq!(client.ask(&json!({"action": "subscribe"}))["type"], "subscribed");
    let mut binary = open(&server, "/?binary=1");
    binary.send(&json!({"action": "subscribe"}));
    let until = support::wire::deadline();
    assert_eq!(binary.read_frame(until).expect("an answer").opcode(), BINARY);
    server.publish(r#"{"type":"EXECUTION_COMPLETED","payload":{"output":1}}"#);
    assert_eq!(client.message()["event"]["data"], json!({"output": 1}));
    let frame = binary.read_frame(until).expect("an event");
    assert_eq!(frame.opcode(), BINARY);
    let message: Value = serde_json::from_slice(&frame.payload).expect("JSON");
    assert_eq!(message["event"]["type"], "execution_completed");
    // A request without an upgrade gets the page.
    assert!(http::get(server.addr, "/").text().contains("<html"));
}

#[test]
fn gathering_keeps_channels_apart_and_passes_words_on_to_the_others() {
    let server = Server::start();
    let mut one = open(&server, "/ws/circles/dev-team");
    let mut two = open(&server, "/ws/circles/dev-team");
    let mut other = open(&server, "/ws/circles/ops");
    let mut workspace = open(&server, "/ws/workspaces/7");
    one.send(&json!({"type": "message", "content": "Hello"}));
    let heard = two.message();
    assert_eq!((&heard["type"], &heard["content"]), (&json!("message"), &json!("Hello")));
    assert_eq!((&heard["channel"], &heard["data"]), (&json!("dev-team"), &json!({"content": "Hello"})));
    server.publish(
        r#"[{"type":"file_changed","channel":"workspace-7","payload":{"path":"a"}},
            {"type":"agent_message","channel":"ops","payload":{"agent_id":1,"content":"hi"}},
            {"type":"agent.message","channel":"dev-team","payload":{"agent_id":2,"content":"ho"}}]"#,
    );
    let message = workspace.message();
    assert_eq!(names(&message), ["channel", "data", "timestamp", "type"]);
    assert_eq!((&message["type"], &message["data"]), (&json!("file_changed"), &json!({"path": "a"})));
    assert_eq!(other.message()["data"]["content"], "hi");
    // The client does not get its own event. The event bus's names are converted to the clients' names.
    let message = one.message();
    assert_eq!(
        (&message["type"], &message["data"]),
        (&json!("agent_message"), &json!({"agent_id": 2, "content": "ho"}))
    );
    assert_eq!(two.message()["type"], "agent_message");
    two.send(&json!({"type": "message", "data": {"content": "back"}}));
    assert_eq!(one.message()["data"]["content"], "back");
    assert_eq!(one.ask(&json!({"type": "ping"}))["type"], "pong");
    one.send_text("nonsense");
    assert_eq!(one.message()["type"], "error");
}

#[test]
fn gathering_pings_in_json_and_takes_a_pong_silently() {
    let server = Server::with(&["--heartbeat", "1s"]);
    let mut client = open(&server, "/ws/agents/1");
    let until = support::wire::deadline();
    for _ in 0..3 {
        let ping = client.read_frame(until).expect("a ping");
        assert_eq!((ping.opcode(), &*ping.payload), (TEXT, br#"{"type":"ping"}"#.as_slice()));
        assert_eq!(client.read_frame(until).expect("the protocol's too").opcode(), PING);
        client.send(&json!({"type": "pong"}));
        client.wire.send(&support::ws::frame(PONG, b""));
    }
    server.publish(r#"{"type":"agent_joined","channel":"agent-1"}"#);
    assert_eq!(client.message()["type"], "agent_joined");
}

#[test]
fn a_client_of_the_native_subprotocol_speaks_it_wherever_it_comes() {
    let server = Server::with(&["--dialect", "fcc"]);
    let mut plain = open(&server, "/ws/events");
    assert_eq!(plain.ask(&json!({"type": "subscribe"}))["type"], "ack", "--dialect fcc is native there");
    let mut named = Ws::over(Wire::connect(server.addr), "/hive", "Sec-WebSocket-Protocol: fanwire.v1\r\n");
    assert_eq!(named.ask(&json!({"type": "ping"}))["type"], "pong");
}

#[test]
fn a_bridge_on_a_bus_has_all_that_is_published_until_it_is_cleared() {
    let (bus, bridge) = (Bus::new(), SseBridge::new(1000));
    let wired = bus.on_sync(Filter::new(), bridge.create_subscriber());
    for kind in ["workflow.started", "node.entered"] {
        bus.publish(Event::builder(kind).source("demo").build().expect("valid"));
    }
    let names: Vec<_> = bridge.stream().iter().map(|text| text.lines().next().map(str::to_owned)).collect();
    assert_eq!(names, [Some("event: workflow.started".to_owned()), Some("event: node.entered".to_owned())]);
    assert_eq!(bridge.stream().len(), 2, "what is shown stays");
    bridge.clear();
    assert_eq!((bridge.buffer_size(), bridge.event_count()), (0, 2));
    drop(wired);
    bus.publish(Event::builder("node.exited").build().expect("valid"));
    assert_eq!((bridge.buffer_size(), bridge.event_count()), (0, 2));
}

#[test]
fn bare_events_come_over_sse() {
    let server = Server::start();
    let mut wire = Wire::connect(server.addr);
    wire.send(b"GET /sse/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = http::read_head(&mut wire, support::wire::deadline()).expect("a head");
    assert_eq!(head.status, 200);
    let mut bare = support::sse::Sse::from_wire(wire, head);
    server.publish(r#"{"type":"task.started","payload":{"n":1}}"#);
    let block = bare.event();
    assert_eq!((block.event.as_deref(), &block.json()["event_type"]), (None, &json!("task.started")));
    assert!(block.id.is_some());
}

#[test]
fn autosdlc_greets_subscribes_and_delivers_by_resource() {
    let server = Server::start();
    let mut client = open(&server, "/autosdlc");
    let hello = client.message();
    assert_eq!(hello["type"], "connect");
    assert!(hello["data"]["clientId"].is_string() && hello["timestamp"].is_u64(), "{hello}");
    let other = open(&server, "/autosdlc").message();
    assert_ne!(hello["data"]["clientId"], other["data"]["clientId"]);

    let update = client.ask(&json!({
        "id": "m1", "type": "subscribe", "timestamp": 1, "metadata": {"version": "1.0"},
        "data": {"subscriptionId": "s1", "resource": "agent", "resourceId": "coder-001",
                 "events": ["status", "task_update", "log", "metric"]},
    }));
    assert_eq!(
        (&update["type"], &update["data"]["subscriptionId"]),
        (&json!("subscription_update"), &json!("s1"))
    );
    assert_eq!(update["metadata"], json!({"version": "1.0", "correlationId": "m1"}));
    server.publish(
        r#"[{"type":"agent_status","data":{"agentId":"coder-002","status":"idle"}},
            {"type":"agent_error","data":{"agentId":"coder-001"}},
            {"type":"agent.status","ts":1703775135000,"source":"agent-monitor","data":{"agentId":"coder-001","status":"busy"}}]"#,
    );
    let event = client.message();
    assert_eq!(names(&event), ["data", "id", "metadata", "timestamp", "type"]);
    assert_eq!(
        (&event["type"], &event["timestamp"]),
        (&json!("agent_status"), &json!(1_703_775_135_000_u64))
    );
    assert_eq!(event["data"], json!({"agentId": "coder-001", "status": "busy"}));
    assert_eq!(event["metadata"], json!({"version": "1.0", "source": "agent-monitor"}));

    // Subscribes by pattern twice, like the Python client. Each event is delivered once.
    client.ask(&json!({"type": "subscribe", "data": {"subscriptionId": "s2", "pattern": "agent:*:status"}}));
    server.publish(
        r#"[{"type":"agent_status","data":{"agentId":"coder-001","n":1}},{"type":"agent_status","data":{"agentId":"coder-009","n":2}}]"#,
    );
    assert_eq!(
        (client.message()["data"]["n"].clone(), client.message()["data"]["n"].clone()),
        (json!(1), json!(2))
    );
    let update = client.ask(&json!({"type": "unsubscribe", "data": {"subscriptionId": "s2"}}));
    assert_eq!(update["data"], json!({"subscriptionId": "s2", "status": "removed"}));
    server.publish(
        r#"[{"type":"agent_status","data":{"agentId":"coder-009"}},{"type":"agent_log","data":{"agentId":"coder-001"}}]"#,
    );
    assert_eq!(client.message()["type"], "agent_log");
}

#[test]
fn an_operator_lists_the_subscriptions_of_an_autosdlc_client() {
    let server = Server::start();
    let mut client = open(&server, "/autosdlc");
    let id = client.message()["data"]["clientId"].as_str().expect("an id").to_owned();
    let asked = |id: &str| {
        let answer = http::get(server.addr, &format!("/api/subscriptions?client_id={id}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["subscriptions"].as_array().expect("a list").clone()
    };
    assert_eq!(asked(&id), [] as [Value; 0]);
    let s1 =
        json!({"subscriptionId": "s1", "resource": "agent", "resourceId": "coder-001", "events": ["status"]});
    client.ask(&json!({"type": "subscribe", "data": s1}));
    client.ask(&json!({"type": "subscribe", "data": {"resource": "system", "junk": 1}}));
    client.ask(&json!({"type": "subscribe", "data": {"subscriptionId": "s3", "pattern": "agent:*:status", "events": ["x"]}}));
    let listed = asked(&id);
    assert_eq!(names(&listed[0]), ["active", "clientId", "config", "createdAt", "id"]);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["clientId"], &listed[0]["active"]),
        (&json!("s1"), &json!(id), &json!(true))
    );
    assert!(
        listed[0]["createdAt"].as_str().expect("a time") <= listed[1]["createdAt"].as_str().expect("a time")
    );
    // Events that the client was not subscribed to are not listed.
    let system = json!({"resource": "system", "resourceId": "*", "events": ["*"]});
    let pattern = json!({"subscriptionId": "s3", "pattern": ["agent:*:status"]});
    assert_eq!([&listed[0]["config"], &listed[1]["config"], &listed[2]["config"]], [&s1, &system, &pattern]);
    assert_eq!((&listed[1]["id"], listed.len()), (&json!("sub-1"), 3));
    assert_eq!(asked(&id.to_uppercase()).len(), 3, "a UUID's case means nothing");

    // A subscription of the same name is replaced, a refused one does not exist, and another client has its
    // own.
    client.ask(&json!({"type": "subscribe", "data": {"subscriptionId": "s1", "resource": "workflow"}}));
    assert_eq!(
        client.ask(&json!({"type": "subscribe", "data": {"pattern": "*****a*b*c*d"}}))["type"],
        "error"
    );
    let listed = asked(&id);
    assert_eq!(
        (listed.len(), &listed[2]["id"], &listed[2]["config"]["resource"]),
        (3, &json!("s1"), &json!("workflow"))
    );
    let mut other = open(&server, "/autosdlc");
    let others = other.message()["data"]["clientId"].as_str().expect("an id").to_owned();
    other.ask(&json!({"type": "subscribe", "data": s1}));
    assert_eq!((asked(&others).len(), asked(&id).len()), (1, 3));
    // `sub-01` has the same number as `sub-1`, so it removes that subscription.
    client.ask(&json!({"type": "unsubscribe", "data": {"subscriptionId": "sub-01"}}));
    client.ask(&json!({"type": "unsubscribe", "data": {"subscriptionId": "s3"}}));
    let listed = asked(&id);
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &json!("s1")));
    drop(client);
    support::eventually("it is gone with its client", || asked(&id).is_empty());
    assert_eq!(asked(&others).len(), 1);
    assert_eq!(asked("nobody").len(), 0);
    assert_eq!(http::get(server.addr, "/api/subscriptions").status, 400);
}

#[test]
fn a_program_lists_the_subscriptions_of_a_client_of_any_loop() {
    let bus = Bus::new();
    let server = fanwire::Server::builder(&bus).listen("127.0.0.1:0").loops(2).spawn().expect("a free port");
    // The kernel distributes connections over the loops. With eight clients, both loops have some.
    for n in 0..8 {
        let mut client = Ws::over(Wire::connect(server.local_addr()), "/autosdlc", "");
        let id = client.message()["data"]["clientId"].as_str().expect("an id").to_owned();
        let subscription = format!("s{n}");
        client.ask(
            &json!({"type": "subscribe", "data": {"subscriptionId": subscription, "resource": "agent"}}),
        );
        let subscriptions = server.client_subscriptions(&id);
        assert_eq!(
            (subscriptions.len(), subscriptions[0].id(), subscriptions[0].client_id()),
            (1, &*subscription, &*id)
        );
        assert!(subscriptions[0].config().contains(r#""resource":"agent""#), "{}", subscriptions[0].config());
        assert!(subscriptions[0].created_at().0 > 0);
    }
    server.drain(Duration::ZERO);
    server.join().expect("its loops end well");
}

#[test]
fn autosdlc_is_counted_by_its_own_names() {
    let server = Server::start();
    let mut client = open(&server, "/autosdlc");
    client.message();
    let wanted = json!({"subscriptionId": "s", "resource": "agent", "resourceId": "a"});
    client.ask(&json!({"type": "subscribe", "data": wanted}));
    client.send(&json!({"type": "whatever"}));
    server.publish(r#"{"type":"agent_status","data":{"agentId":"a"}}"#);
    client.message();
    let count = |name: &str, label: &str| {
        let samples = server.metrics(name);
        samples.iter().filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum::<f64>()
            as u64
    };
    assert_eq!(count("websocket_connections_total", ""), 1);
    assert_eq!(count("websocket_active_connections", ""), 1);
    assert_eq!(count("websocket_messages_received_total", "subscribe"), 1);
    assert_eq!(count("websocket_messages_received_total", "unknown"), 1);
    assert_eq!(count("websocket_messages_sent_total", "agent_status"), 1);
    assert_eq!(count("websocket_message_size_bytes_count", "direction=\"in\""), 2);
    // The welcome, the answer and the event.
    for sent in ["connect", "subscription_update", "agent_status"] {
        let labels = format!("{{type=\"{sent}\",direction=\"out\"}}");
        assert_eq!(count("websocket_message_size_bytes_count", &labels), 1, "{sent}");
    }
    for edge in ["100.0", "500.0", "1000.0", "5000.0", "10000.0", "50000.0", "+Inf"] {
        assert_eq!(
            count("websocket_message_size_bytes_bucket", &format!("le=\"{edge}\",type=\"subscribe\"")),
            1,
            "{edge}"
        );
    }
    assert_eq!(server.metrics("websocket_message_size_bytes_bucket").len() % 7, 0, "no other edges");
    assert_eq!(count("websocket_active_subscriptions", "agent"), 1);
    client.ask(&json!({"type": "unsubscribe", "data": {"subscriptionId": "s"}}));
    assert_eq!(count("websocket_active_subscriptions", "agent"), 0);
    client.ask(&json!({"type": "subscribe", "data": wanted}));
    drop(client);
    support::eventually("it has left", || count("websocket_active_connections", "") == 0);
    assert_eq!(count("websocket_active_subscriptions", "agent"), 0, "its subscriptions with it");
    assert_eq!(count("websocket_connections_total", ""), 1);
}

/// Returns the lines of AutoSDLC's message log.
fn message_lines(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["target"] == "fanwire::messages")
        .inspect(|line| assert!(line["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}"))
        .map(|line| line["fields"].clone())
        .collect()
}

#[test]
fn autosdlcs_messages_are_logged_with_their_data_filtered_by_default() {
    let listen = |level: &str, more: &[&str]| {
        Server::with(&[&["--log-format", "json", "--log-level", level], more].concat())
    };
    let converse = |server: &Server| {
        let mut client = open(server, "/autosdlc");
        let hello = client.message();
        client.ask(&json!({"id": "m1", "type": "subscribe", "data": {"resource": "agent"}}));
        server.publish(r#"{"type":"agent_log","data":{"agentId":"a","message":"very private"}}"#);
        let event = client.message();
        client.ask(&json!({"id": "m2", "type": "auth_request", "data": {"token": "very-secret"}}));
        (hello, event)
    };

    let server = listen("warn,fanwire::messages=debug", &[]);
    let (hello, event) = converse(&server);
    support::eventually("all is logged", || message_lines(&server).len() == 6);
    let lines = message_lines(&server);
    let logged: Vec<_> =
        lines.iter().map(|line| (line["direction"].as_str(), line["type"].as_str())).collect();
    let (incoming, outgoing) = (Some("in"), Some("out"));
    assert_eq!(
        logged,
        [
            (outgoing, Some("connect")),
            (incoming, Some("subscribe")),
            (outgoing, Some("subscription_update")),
            (outgoing, Some("agent_log")),
            (incoming, Some("auth_request")),
            (outgoing, Some("auth_success")),
        ]
    );
    for line in &lines {
        assert_eq!((&line["clientId"], &line["data"]), (&hello["data"]["clientId"], &json!("[FILTERED]")));
        assert!(line["size"].as_u64().is_some_and(|size| size > 10), "{line}");
    }
    assert_eq!((&lines[0]["messageId"], &lines[1]["messageId"]), (&hello["id"], &json!("m1")));
    assert_eq!(lines[3]["messageId"], event["id"]);
    let log = server.log();
    assert!(!log.contains("very private") && !log.contains("very-secret"), "{log}");

    let server = listen("warn,fanwire::messages=trace", &["--log-message-types", "agent_log"]);
    converse(&server);
    support::eventually("one is logged", || message_lines(&server).len() == 1);
    assert_eq!(message_lines(&server)[0]["data"], r#"{"agentId":"a","message":"very private"}"#);

    let server =
        listen("warn,fanwire::messages=debug", &["--log-message-types-except", "agent_log,auth_request"]);
    converse(&server);
    support::eventually("the others are", || message_lines(&server).len() == 4);

    let server = listen("debug,fanwire::messages=off", &[]);
    converse(&server);
    assert!(message_lines(&server).is_empty(), "nobody asked for it");
}

#[test]
fn autosdlc_checks_messages_against_its_documents_schemas_if_configured() {
    let server = Server::with(&["--schemas-autosdlc"]);
    let mut client = open(&server, "/autosdlc");
    client.message();
    // Asks like the Python client: no id, no time.
    client.ask(&json!({"type": "subscribe", "data": {"resource": "agent", "resourceId": "coder-001"}}));
    let id = "evt-123e4567-e89b-12d3-a456-426614174000";
    let status = |data: Value| json!({"id": id, "type": "agent_status", "timestamp": 1_703_775_135_000_u64, "data": data});
    for (bad, errors) in [
        (json!({"id": "1", "type": "fly", "data": {}}), json!(["Unknown message type: fly"])),
        (
            json!({"id": "2", "type": "unsubscribe", "data": {}}),
            json!(["/data: \"subscriptionId\" is a required property"]),
        ),
        (
            status(json!({"agentId": 5, "agentType": "coder", "status": "busy"})),
            json!(["/data/agentId: 5 is not of type \"string\""]),
        ),
        (json!({"id": "evt", "type": "agent_error", "data": {"agentId": "a"}}), json!(["", "/id: "])),
    ] {
        let error = client.ask(&bad);
        assert_eq!(
            (&error["type"], &error["data"]["error"]),
            (&json!("error"), &json!("Invalid message format"))
        );
        assert_eq!(
            (&error["data"]["valid"], &error["metadata"]["correlationId"]),
            (&json!(false), &bad["id"])
        );
        let faults = error["data"]["errors"].as_array().expect("a list");
        assert_eq!(faults.len(), errors.as_array().expect("a list").len(), "{error}");
        if faults.len() == 1 {
            assert_eq!(error["data"]["errors"], errors);
            assert_eq!(error["data"]["details"], faults[0]);
        }
    }
    client.send(&status(json!({"agentId": "coder-001", "agentType": "coder", "status": "busy"})));
    assert_eq!(client.message()["data"]["status"], "busy", "a good one is published");

    let post = |body: &str| http::post(server.addr, "/publish", "application/json", body.as_bytes());
    let refused = post(r#"{"type":"agent.status","payload":{"agentId":"coder-001"}}"#);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text().contains("agentType"), "{refused:?}");
    assert_eq!(
        post(r#"{"type":"task.progress","payload":{"agentId":5}}"#).status,
        200,
        "others' types are free"
    );
}

#[test]
fn autosdlc_answers_pings_ignores_unknown_types_and_refuses_other_texts() {
    let server = Server::start();
    let mut client = open(&server, "/autosdlc");
    client.message();
    for _ in 0..3 {
        client.send(&json!({"type": "fly", "data": {}}));
    }
    let pong = client.ask(&json!({"id": "p", "type": "ping", "data": {}}));
    assert_eq!(pong["type"], "pong", "an unknown type has no answer");
    // The log line is a warning, but a client that repeats it does not fill the log.
    support::eventually("it is warned of", || server.log().contains("seen=2"));
    assert_eq!(server.log().matches("unknown message type").count(), 2, "{}", server.log());
    assert!(server.log().contains("fly"), "{}", server.log());
    assert!(pong["data"]["timestamp"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{pong}");
    for bad in ["not json", "[]", "{}", r#"{"type":5}"#] {
        client.send_text(bad);
        let error = client.message();
        assert_eq!(
            (&error["type"], &error["data"]["error"]),
            (&json!("error"), &json!("Invalid message format")),
            "{bad}"
        );
        assert!(error["data"]["details"].as_str().is_some_and(|d| !d.is_empty()), "{error}");
    }
    assert_eq!(
        client.ask(&json!({"type": "auth_request", "data": {"token": "any"}}))["type"],
        "auth_success"
    );
}

#[test]
fn autosdlc_compresses_long_messages_on_request_and_reads_compressed_ones() {
    let server = Server::with(&["--dialect", "autosdlc"]);
    let mut client = open(&server, "/ws?compress=gzip");
    client.message();
    client
        .wire
        .send(&support::ws::frame(BINARY, &gzip(br#"{"type":"subscribe","data":{"resource":"agent"}}"#)));
    assert_eq!(client.message()["type"], "subscription_update");
    let long = "x".repeat(2000);
    server.publish(format!(r#"{{"type":"agent_log","data":{{"agentId":"a","message":"{long}"}}}}"#));
    let frame = client.read_frame(support::wire::deadline()).expect("an event");
    assert_eq!((frame.opcode(), &frame.payload[..2]), (BINARY, &[0x1f, 0x8b][..]));
    assert!(frame.payload.len() < 500);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*frame.payload), &mut text)
        .expect("gzip");
    let message: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(message["data"]["message"], long);
    server.publish(r#"{"type":"agent_log","data":{"agentId":"a"}}"#);
    assert_eq!(client.message()["type"], "agent_log", "what is short stays text");
    // A decompression bomb is refused, and the connection remains usable.
    client.wire.send(&support::ws::frame(BINARY, &gzip(&vec![b' '; 30 << 20])));
    assert_eq!(client.message()["type"], "error");
    client.wire.send(&support::ws::frame(BINARY, &[0x1f, 0x8b, 0, 1, 2]));
    assert_eq!(client.message()["type"], "error");
    assert_eq!(client.ask(&json!({"type": "ping"}))["type"], "pong");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, bytes).expect("a vector");
    encoder.finish().expect("a vector")
}

#[test]
fn one_event_reaches_clients_of_all_five_encoded_once_for_each() {
    let server = Server::start();
    let mut native: Vec<Ws> = (0..3).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    let mut agentos: Vec<Ws> = ["", "?gap=1", "?filter=agent_message"]
        .map(|query| open(&server, &format!("/ws/events{query}")))
        .into();
    let mut hive: Vec<Ws> = (0..3).map(|_| open(&server, "/hive")).collect();
    let mut autosdlc: Vec<Ws> = (0..3).map(|_| open(&server, "/autosdlc")).collect();
    let mut gathering: Vec<Ws> = (0..3).map(|_| open(&server, "/ws/circles/dev-team")).collect();
    for client in &mut hive {
        client.ask(&json!({"action": "subscribe"}));
    }
    for client in &mut autosdlc {
        client.message();
        client.ask(&json!({"type": "subscribe", "data": {"resource": "agent", "resourceId": "7"}}));
    }
    for client in &mut gathering {
        client.ask(&json!({"type": "ping"}));
    }
    let before = server.metric("fanwire_feed_encodings_total").unwrap_or_default();
    server.publish(
        r#"{"type":"agent_message","source":"core","stream_id":"s","execution_id":"e","correlation_id":"c",
            "entity":{"kind":"agent","id":"7"},"channel":"dev-team","ts":"2026-01-27T10:21:33.123Z",
            "payload":{"agent_id":7,"content":"hi"}}"#,
    );
    let payload = json!({"agent_id": 7, "content": "hi"});
    for client in &mut native {
        assert_eq!(client.event()["payload"], payload);
    }
    for client in &mut agentos {
        let want = json!({"type": "agent_message", "ts": "2026-01-27T10:21:33.123Z", "source": "core",
            "entity": {"kind": "agent", "id": "7"}, "payload": payload});
        assert_eq!(client.message(), want);
    }
    for client in &mut hive {
        let want = json!({"type": "event", "event": {"type": "agent_message", "stream_id": "s", "execution_id": "e",
            "data": payload, "timestamp": "2026-01-27T10:21:33.123000Z"}});
        assert_eq!(client.message(), want);
    }
    for client in &mut autosdlc {
        let message = client.message();
        assert_eq!((&message["type"], &message["data"]), (&json!("agent_message"), &payload));
        assert_eq!(message["metadata"], json!({"version": "1.0", "source": "core", "correlationId": "c"}));
        assert_eq!(message["timestamp"], 1_769_509_293_123_u64);
    }
    for client in &mut gathering {
        let want = json!({"type": "agent_message", "data": payload, "timestamp": "2026-01-27T10:21:33.123000Z",
            "channel": "dev-team"});
        assert_eq!(client.message(), want);
    }
    let after = server.metric("fanwire_feed_encodings_total").unwrap_or_default();
    assert!((after - before - 5.0).abs() < 0.5, "five encodings for fifteen clients, not {}", after - before);
}

/// Parses the numbers in a table cell, as `FCC-001..006, 010`.
fn numbers(cell: &str) -> Vec<(String, u32)> {
    let mut system = String::new();
    let mut all = Vec::new();
    for part in cell.split(',').map(str::trim) {
        let range = match part.split_once('-') {
            Some((name, range)) => {
                name.clone_into(&mut system);
                range
            }
            None => part,
        };
        let (from, to) = range.split_once("..").unwrap_or((range, range));
        let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("{text:?} in {cell:?}"));
        all.extend((number(from)..=number(to)).map(|number| (system.clone(), number)));
    }
    all
}

#[test]
fn the_document_of_dialects_speaks_of_every_behaviour_and_names_tests_that_exist() {
    let document =
        std::fs::read_to_string(support::script::in_project("docs/dialects.md")).expect("the document");
    let code = support::named::code();
    let mut behaviours = std::collections::BTreeMap::<String, std::collections::BTreeSet<u32>>::new();
    let mut points = Vec::new();
    for line in document
        .lines()
        .skip_while(|line| !line.starts_with("## Each document's promises, and the tests that show them"))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[_, point, detail, _, shown, _] = cells.as_slice() else { continue };
        if point == "point" || point.starts_with('-') {
            continue;
        }
        points.push(point.to_owned());
        for (system, number) in numbers(detail) {
            assert!(behaviours.entry(system).or_default().insert(number), "{detail} says {number} again");
        }
        let names: Vec<&str> =
            shown.split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect();
        assert!(!shown.is_empty(), "{point} says nothing");
        for name in names.into_iter().filter(|name| !name.contains("::")) {
            assert!(support::named::is_test(name, &code), "{point} names {name}, which is no test");
        }
    }
    for (letter, last) in [("F", 17), ("A", 9), ("H", 9), ("S", 13), ("G", 7)] {
        for number in 1..=last {
            assert!(points.contains(&format!("{letter}{number}")), "{letter}{number} is missing");
        }
    }
    for (system, last) in [("FCC", 101), ("AOS", 59), ("HIV", 61), ("ASD", 122), ("GAT", 42)] {
        let missing: Vec<u32> = (1..=last).filter(|number| !behaviours[system].contains(number)).collect();
        assert!(missing.is_empty(), "{system}: {missing:?}");
    }
}
