//! Every type and field in the documents of FCC, AgentOS and Hive, published by a program that embeds the
//! server, and received by their clients.

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanwire::dialects::{agentos, fcc, hive};
use fanwire::protocol::Protocol;
use fanwire::sse::SseBridge;
use fanwire::{Bus, Event, Filter, Server, ServerConfig, ServerHandle};
use serde_json::{Value, json};
use support::wire::Wire;
use support::ws::Ws;

/// A bus, and a server on it. Code that publishes to the bus does not use the server.
struct Within {
    bus: Bus,
    server: ServerHandle,
}

impl Within {
    fn new() -> Self {
        let bus = Bus::new();
        let server = Server::builder(&bus).listen("127.0.0.1:0").spawn().expect("a free port");
        Self { bus, server }
    }

    fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    fn open(&self, path: &str) -> Ws {
        Ws::over(Wire::connect(self.addr()), path, "")
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.server.drain(Duration::from_millis(1));
    }
}

fn event(event_type: &str) -> Event {
    Event::builder(event_type).source("demo").build().expect("valid")
}

#[test]
fn fccs_layers_work_alone_and_composed() {
    // The document's forwarder: it takes events from the bus and sends them, with the protocol, to every client with a
    // matching subscription.
    let (bus, bridge) = (Bus::new(), SseBridge::default());
    let protocol = Arc::new(Mutex::new(Protocol::default()));
    let sent = Arc::new(Mutex::new(Vec::new()));
    let (asked, out) = (Arc::clone(&protocol), Arc::clone(&sent));
    let forwarder = bus.on_sync(Filter::new(), move |event: &Event| {
        let protocol = asked.lock().expect("no panic holds it");
        for id in protocol.should_deliver(event) {
            let text = protocol.create_event_message(event).to_json();
            out.lock().expect("no panic holds it").push((id.to_owned(), text));
        }
    });
    let buffered = bus.on_sync(Filter::new(), bridge.create_subscriber());
    assert_eq!(bus.publish(event("workflow.started")).handled, 2);
    assert!(sent.lock().expect("no panic holds it").is_empty(), "nobody has subscribed");
    for (id, event_type) in [("s1", "workflow.started"), ("s2", "node.entered")] {
        let payload = json!({"subscription_id": id, "event_types": [event_type]});
        let subscribe = json!({"type": "subscribe", "payload": payload}).to_string();
        protocol.lock().expect("no panic holds it").handle_message(&subscribe).expect("an ack");
    }
    for event_type in ["workflow.started", "workflow.failed", "node.entered"] {
        bus.publish(event(event_type));
    }
    let sent: Vec<(String, Value)> = (sent.lock().expect("no panic holds it").iter())
        .map(|(id, text)| (id.clone(), serde_json::from_str(text).expect("JSON text")))
        .collect();
    let delivered: Vec<_> =
        sent.iter().map(|(id, m)| (id.as_str(), &m["type"], &m["payload"]["event_type"])).collect();
    assert_eq!(
        delivered,
        [
            ("s1", &json!("event"), &json!("workflow.started")),
            ("s2", &json!("event"), &json!("node.entered"))
        ]
    );
    assert_eq!(bridge.buffer_size(), 4, "event streams carry all");
    drop((forwarder, buffered));
}

#[test]
fn the_times_and_sizes_of_the_documents_are_the_defaults() {
    let config = ServerConfig::default();
    assert_eq!(config.handshake_timeout, Duration::from_secs(5), "Hive's time for the first message");
    assert_eq!(config.max_lag_events, 1000, "AgentOS's queue");
}

#[test]
fn every_type_of_fccs_catalogue_reaches_its_subscribers() {
    let within = Within::new();
    let types: Vec<&str> = fcc::types().collect();
    let mut client = Ws::subscribed(within.addr(), json!({"event_types": types}));
    within.bus.publish(event("another.type"));
    for event_type in &types {
        within.bus.publish(event(event_type));
    }
    for event_type in types {
        assert_eq!(client.event()["event_type"], event_type);
    }
}

#[test]
fn every_event_of_agentos_arrives_with_its_payload() {
    let within = Within::new();
    let mut client = within.open("/ws/events");
    let mut details = agentos::ProviderDetails::default();
    details.endpoint = Some("http://127.0.0.1:11434".to_owned());
    details.latency_ms = Some(45.2);
    let mut states = agentos::ProviderStates::default();
    let provider = states.changed("ollama", "READY", &details).expect("valid").expect("the first is news");
    let task = json!({"kind": "task", "id": "t-1"});
    let check = json!({"kind": "selfcheck", "id": "boot"});
    let ready = json!({"state": "READY", "endpoint": "http://127.0.0.1:11434", "latency_ms": 45.2, "last_error": null});
    for (event, event_type, entity, payload) in [
        (agentos::task_started("t-1"), "task.started", &task, json!({})),
        (
            agentos::task_progress("t-1", 42, "Indexing"),
            "task.progress",
            &task,
            json!({"progress": 42, "message": "Indexing"}),
        ),
        (agentos::task_completed("t-1"), "task.completed", &task, json!({})),
        (agentos::task_failed("t-1", "no disk"), "task.failed", &task, json!({"error": "no disk"})),
        (Ok(provider), "provider.status_changed", &json!({"kind": "provider", "id": "ollama"}), ready),
        (agentos::selfcheck_started("boot"), "selfcheck.started", &check, json!({})),
        (
            agentos::selfcheck_progress("boot", 1, "disk"),
            "selfcheck.progress",
            &check,
            json!({"progress": 1, "message": "disk"}),
        ),
        (agentos::selfcheck_completed("boot"), "selfcheck.completed", &check, json!({})),
        (agentos::selfcheck_failed("boot", "e"), "selfcheck.failed", &check, json!({"error": "e"})),
    ] {
        let event = event.expect("valid");
        let want = json!({"type": event_type, "source": "core", "entity": entity, "payload": payload});
        within.bus.publish(event);
        let mut got = client.message();
        let time = got.as_object_mut().expect("an object").remove("ts").expect("it is made by itself");
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
        assert_eq!(got, want);
    }
}

#[test]
fn an_agentos_client_that_cannot_be_written_to_is_removed_alone() {
    let within = Within::new();
    let (mut stays, gone) = (within.open("/ws/events"), within.open("/ws/events"));
    within.bus.publish(event("task.started"));
    assert_eq!(stays.message()["type"], "task.started");
    // The client has not read its events, so the server's next write is refused.
    drop(gone);
    let sessions = || {
        let stats = support::http::get(within.addr(), "/api/stats").json();
        stats["connections"]["ws"].as_u64().expect("a count")
    };
    support::eventually("it is removed", || {
        within.bus.publish(event("task.progress"));
        sessions() == 1
    });
    within.bus.publish(event("task.completed"));
    loop {
        let message = stays.message();
        if message["type"] == "task.completed" {
            break;
        }
        assert_eq!(message["type"], "task.progress");
    }
}

#[test]
fn every_event_of_hives_table_arrives_with_its_data() {
    let within = Within::new();
    let mut client = within.open("/hive");
    assert_eq!(client.ask(&json!({"action": "subscribe", "event_types": hive::TYPES}))["type"], "subscribed");
    for (event_type, data) in [
        (
            "EXECUTION_STARTED",
            json!({"input_data": {"a": 1}, "stream_id": "webhook", "execution_id": "ex-1"}),
        ),
        ("EXECUTION_COMPLETED", json!({"output": [1, 2], "execution_id": "ex-1"})),
        ("EXECUTION_FAILED", json!({"error": "no more", "execution_id": "ex-1"})),
        ("GOAL_PROGRESS", json!({"progress": 0.5, "criteria_status": {"c": true}})),
        ("GOAL_ACHIEVED", json!({"final_status": "done"})),
        ("STATE_CHANGED", json!({"key": "k", "old_value": null, "new_value": 2})),
        ("EXECUTION_PAUSED", json!({"node_id": "n", "reason": "approval"})),
        ("EXECUTION_RESUMED", json!({"node_id": "n", "decision": "yes"})),
        ("NODE_EXECUTED", json!({"node_id": "n"})),
        ("CONSTRAINT_VIOLATION", json!({"limit": 3})),
    ] {
        let post = json!({"type": event_type, "payload": data}).to_string();
        let answer = support::http::post(within.addr(), "/publish", "application/json", post.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        let message = client.message();
        let got = &message["event"];
        assert_eq!((&message["type"], &got["data"]), (&json!("event"), &data));
        assert_eq!(got["type"], event_type.to_lowercase());
        // If the event has no such attribute, its data has the value.
        assert_eq!((&got["stream_id"], &got["execution_id"]), (&data["stream_id"], &data["execution_id"]));
    }
}

#[test]
fn hives_filters_select_exactly_the_events_of_an_independent_publisher() {
    let within = Within::new();
    let mut by_stream = within.open("/hive");
    let mut by_execution = within.open("/hive");
    let (mut by_asterisk, mut all) = (within.open("/hive"), within.open("/hive"));
    for (client, subscribe) in [
        (&mut by_stream, json!({"action": "subscribe", "stream_id": "webhook"})),
        (&mut by_execution, json!({"action": "subscribe", "execution_id": "ex-2"})),
        (&mut by_asterisk, json!({"action": "subscribe", "stream_id": "*"})),
        (&mut all, json!({"action": "subscribe"})),
    ] {
        assert_eq!(client.ask(&subscribe)["type"], "subscribed");
    }
    let runs = [
        ("EXECUTION_STARTED", "webhook-2", "ex-20"),
        ("EXECUTION_STARTED", "Webhook", "EX-2"),
        ("EXECUTION_STARTED", "web", "ex"),
        ("EXECUTION_STARTED", "*", "ex-3"),
        ("EXECUTION_STARTED", "webhook", "ex-1"),
        ("NODE_EXECUTED", "webhook", "ex-2"),
        ("NODE_EXECUTED", "mail", "ex-2"),
        ("GOAL_PROGRESS", "webhook", "ex-1"),
        ("EXECUTION_COMPLETED", "webhook", "ex-1"),
    ];
    for (event_type, stream, execution) in runs {
        let event = Event::builder(event_type).stream(stream).execution(execution).build();
        within.bus.publish(event.expect("valid"));
    }
    type Wants = fn(&str, &str) -> bool;
    let wants: [Wants; 4] = [
        |stream, _| stream == "webhook",
        |_, execution| execution == "ex-2",
        |stream, _| stream == "*",
        |_, _| true,
    ];
    for (client, wants) in [by_stream, by_execution, by_asterisk, all].iter_mut().zip(wants) {
        for (event_type, stream, execution) in runs.iter().filter(|(_, stream, run)| wants(stream, run)) {
            let got = client.message()["event"].clone();
            assert_eq!(
                (&got["type"], &got["stream_id"], &got["execution_id"]),
                (&json!(event_type.to_lowercase()), &json!(stream), &json!(execution))
            );
        }
        client.send(&json!({"action": "ping"}));
        assert_eq!(client.message()["type"], "pong", "and nothing more");
    }
}

/// Lines logged by a thread of the test.
#[cfg(feature = "cli")]
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

#[cfg(feature = "cli")]
impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic holds it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "cli")]
#[test]
fn a_handlers_failure_is_logged_and_goes_no_further() {
    let log = Log::default();
    let into = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || into.clone()).finish();
    let bus = Bus::new();
    let count = tracing::subscriber::with_default(subscriber, || {
        let _bad = bus.on_sync(Filter::new(), |_: &Event| panic!("as asked"));
        let _good = bus.on_sync(Filter::new(), |_: &Event| {});
        bus.publish(event("task.started")).handled
    });
    assert_eq!(count, 1, "the other one took it");
    let text = String::from_utf8(log.0.lock().expect("no panic holds it").clone()).expect("UTF-8");
    assert!(text.contains("ERROR") && text.contains("a handler panicked"), "{text:?}");
}
