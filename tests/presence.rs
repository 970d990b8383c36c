//! Presence from outside: members of a channel, with and without tokens, in the native protocol, over HTTP and
//! in GatheRing's circles.

mod support;

use serde_json::{Value, json};
use support::http::{self, Response};
use support::service::{Kind, Service};
use support::sse::Sse;
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, eventually};

const SECRET: &str = "only-this-test-and-its-server-know-it-77b1";

/// Returns a member's token: for room.1, and for the presence and messages in it.
fn token(subject: &str, options: &[&str]) -> String {
    support::token(SECRET, &[&["--sub", subject], options].concat())
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn get(server: &Server, channel: &str, headers: &str) -> Response {
    let request = format!(
        "GET /api/presence/{channel} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"
    );
    http::exchange(server.addr, request.as_bytes())
}

fn users(list: &Value) -> Vec<(&str, u64)> {
    let one = |user: &'_ Value| user["connections"].as_u64().expect("a number");
    list["users"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|user| (user["user"].as_str().expect("a name"), one(user)))
        .collect()
}

/// Returns type and user of the next event.
fn next_news(client: &mut Ws) -> (String, String) {
    let event = client.event();
    let payload = event.get("payload").cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["event_type"]), text(&payload["user"]))
}

/// A server that requires tokens, and keeps presence of every channel, without grace.
fn guarded() -> Server {
    Server::with(&["--auth-jwt-hs256-secret", SECRET, "--presence-channels", "**", "--presence-grace", "0s"])
}

#[test]
fn users_are_known_by_their_tokens_however_many_connections_they_have() {
    let server = Server::with(&[
        "--auth-jwt-hs256-secret",
        SECRET,
        "--presence-channels",
        "room.*",
        "--presence-grace",
        "0s",
        "--loops",
        "2",
    ]);
    let watch = bearer(&token("watcher", &["--channel", "room.*"]));
    let mut watcher = Ws::over(Wire::connect(server.addr), "/ws", &watch);
    watcher.ask(&json!({"type": "subscribe", "payload": {"channels": ["room.*"]}}));
    let ann = bearer(&token("ann", &["--channel", "room.1"]));
    let mut tabs: Vec<Ws> = (0..4).map(|_| Ws::over(Wire::connect(server.addr), "/ws", &ann)).collect();
    for tab in &mut tabs {
        let ack =
            tab.ask(&json!({"type": "subscribe", "payload": {"channels": ["room.1"]}, "message_id": "s"}));
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    assert_eq!(next_news(&mut watcher), ("presence.joined".into(), "ann".into()));
    // If tokens name the user, a client's own name does not count.
    let bob = bearer(&token("bob", &["--channel", "room.1"]));
    let stream = Sse::with(server.addr, "?channel=room.1&user=eve", &bob);
    assert_eq!(next_news(&mut watcher), ("presence.joined".into(), "bob".into()));
    let ask = json!({"type": "request", "payload": {"action": "presence", "channel": "room.1"}, "message_id": "who"});
    let here = watcher.ask(&ask);
    assert_eq!(here["type"], "response");
    assert_eq!(users(&here["payload"]), [("ann", 4), ("bob", 1)]);
    assert_eq!((&here["payload"]["channel"], &here["payload"]["complete"]), (&json!("room.1"), &json!(true)));
    let over_http = get(&server, "room.1", &watch);
    assert_eq!((over_http.status, over_http.json()), (200, here["payload"].clone()));

    drop(stream);
    assert_eq!(next_news(&mut watcher), ("presence.left".into(), "bob".into()));
    drop(tabs);
    assert_eq!(next_news(&mut watcher), ("presence.left".into(), "ann".into()));
    assert_eq!(users(&get(&server, "room.1", &watch).json()), []);
}

#[test]
fn a_client_that_may_not_see_a_channel_gets_neither_its_list_nor_its_events() {
    let server = guarded();
    let inside = bearer(&token("ann", &["--channel", "room.1"]));
    let _ann = Sse::with(server.addr, "?channel=room.1", &inside);
    let status = |headers: &str| get(&server, "room.1", headers).status;
    assert_eq!(status(""), 401);
    assert_eq!(status(&bearer("nonsense")), 401);
    assert_eq!(status(&inside), 200);
    for (options, why) in [
        (&["--channel", "room.2"][..], "another channel"),
        (&["--type", "chat.*"], "other types, in whatever channel"),
        (&["--stream", "s"], "a stream, which has no presence events"),
        (&["--entity", "task:**"], "entities, which users are not"),
        (&["--publish"], "nothing to see"),
    ] {
        let outside = bearer(&token("eve", options));
        assert_eq!(status(&outside), 403, "{why}");
        let mut client = Ws::over(Wire::connect(server.addr), "/ws", &outside);
        let answer =
            client.ask(&json!({"type": "request", "payload": {"action": "presence", "channel": "room.1"}}));
        assert_eq!(
            (&answer["type"], &answer["payload"]["code"]),
            (&json!("error"), &json!("forbidden")),
            "{why}"
        );
    }
    // A client cannot be a member of a channel that it may not see.
    let sees_presence_only = bearer(&token("sam", &["--channel", "room.1", "--type", "presence.*"]));
    let mut sam = Ws::over(Wire::connect(server.addr), "/ws", &sees_presence_only);
    let refused = sam.ask(&json!({"type": "subscribe", "payload": {"channels": ["room.2"]}}));
    assert_eq!(refused["payload"]["code"], "forbidden");
    assert_eq!(users(&get(&server, "room.1", &sees_presence_only).json()), [("ann", 1)]);
    let all = bearer(&token("root", &["--channel", "*"]));
    assert_eq!(users(&get(&server, "room.2", &all).json()), []);
}

#[test]
fn a_revoked_user_leaves_and_a_new_token_may_be_another_user() {
    let server = guarded();
    let all = bearer(&token("root", &["--channel", "*", "--admin"]));
    let mut client =
        Ws::over(Wire::connect(server.addr), "/ws", &bearer(&token("ann", &["--channel", "room.1"])));
    client.ask(&json!({"type": "subscribe", "payload": {"channels": ["room.1"]}}));
    let here = || {
        users(&get(&server, "room.1", &all).json())
            .iter()
            .map(|(user, _)| (*user).to_owned())
            .collect::<Vec<_>>()
    };
    eventually("ann is there", || here() == ["ann"]);
    client.send(&json!({"type": "auth", "payload": {"token": token("bob", &["--channel", "room.1"])}}));
    eventually("she is bob now", || here() == ["bob"]);
    let body = r#"{"sub":"bob"}"#;
    let request = format!(
        "POST /api/revoke HTTP/1.1\r\nHost: localhost\r\n{all}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(http::exchange(server.addr, request.as_bytes()).status, 200);
    eventually("bob may not be there", || here().is_empty());
}

#[test]
fn a_circles_clients_are_in_it_and_get_its_arrivals() {
    let server = Server::with(&["--presence-channels", "**", "--presence-grace", "0s"]);
    let mut one = Ws::over(Wire::connect(server.addr), "/ws/circles/dev-team?user=ann", "");
    let receives = |client: &mut Ws, kind: &str, user: &str| loop {
        let message = client.message();
        // Pings may arrive at any time.
        if message["type"] != "ping" {
            assert_eq!(
                (&message["type"], &message["data"]["user"]),
                (&json!(kind), &json!(user)),
                "{message}"
            );
            assert_eq!(message["channel"], "dev-team");
            break;
        }
    };
    receives(&mut one, "agent_joined", "ann");
    let two = Ws::over(Wire::connect(server.addr), "/ws/circles/dev-team?user=bob", "");
    receives(&mut one, "agent_joined", "bob");
    assert_eq!(users(&get(&server, "dev-team", "").json()), [("ann", 1), ("bob", 1)]);
    drop(two);
    receives(&mut one, "agent_left", "bob");
    let mut bad = Wire::connect(server.addr);
    bad.send(support::ws::upgrade_request("/ws?user=", "").as_bytes());
    let answer = http::read_response(&mut bad, support::wire::deadline()).expect("an answer");
    assert_eq!(answer.status, 400);
}

#[test]
fn the_list_names_its_node() {
    let (one, two) =
        (Server::with(&["--presence-channels", "**"]), Server::with(&["--presence-channels", "**"]));
    let node = |server: &Server| get(server, "room.1", "").json()["node"].clone();
    assert_ne!(node(&one), node(&two));
}

#[test]
fn one_reader_neither_fills_the_table_nor_empties_the_ring() {
    let server = Server::with(&[
        "--auth-jwt-hs256-secret",
        SECRET,
        "--presence-channels",
        "**",
        "--presence-grace",
        "0s",
        "--presence-max-channels",
        "1000",
        "--bus-capacity",
        "1024",
    ]);
    // The client may read, but not publish.
    let mut greedy = Ws::over(Wire::connect(server.addr), "/ws", &bearer(&token("eve", &["--stream", "*"])));
    for _ in 0..3 {
        for part in 0..8 {
            let channels: Vec<String> = (0..250).map(|n| format!("taken.{part}.{n}")).collect();
            let subscription = format!("s{part}");
            greedy.ask(&json!({ "type": "subscribe", "payload": { "subscription_id": subscription, "channels": channels, "event_types": ["none"] } }));
        }
        greedy.ask(&json!({ "type": "unsubscribe", "payload": { "subscription_id": "*" } }));
    }
    let operator = bearer(&token("ops", &["--metrics", "--admin"]));
    let look = |path: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{operator}Connection: close\r\n\r\n");
        http::exchange(server.addr, request.as_bytes())
    };
    let metrics = look("/metrics");
    let number = |name: &str| {
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or(f64::MAX)
    };
    assert!(number("fanwire_presence_channels ") <= 100.0, "by one user");
    assert!(number("fanwire_presence_joins_total ") <= 200.0, "in a minute");
    let stats = look("/api/stats").json();
    assert_eq!(stats["shards"][0]["oldest"], 0, "the ring has all there ever was");
    // Other clients are not affected.
    let ann = token("ann", &["--stream", "*"]);
    let mut honest = Ws::over(Wire::connect(server.addr), "/ws", &bearer(&ann));
    honest.ask(&json!({ "type": "subscribe", "payload": { "channels": ["room.1"] } }));
    let list = get(&server, "room.1", &bearer(&ann)).json();
    assert_eq!(users(&list), [("ann", 1)], "{list}");
}

#[test]
fn leaves_during_an_outage_of_the_log_are_published_after_it() {
    let redis = Service::start(Kind::Redis);
    let server = Server::with(&[
        "--engine",
        &redis.url(),
        "--engine-accept-timeout",
        "500ms",
        "--presence-channels",
        "room.*",
        "--presence-grace",
        "0s",
    ]);
    eventually("the log is followed", || http::get(server.addr, "/readyz").status == 200);
    let mut watcher =
        Ws::subscribed(server.addr, json!({ "channels": ["room.*"], "event_types": ["presence.*"] }));
    let ann = Sse::open(server.addr, "?channel=room.1&user=ann");
    assert_eq!(next_news(&mut watcher), ("presence.joined".to_owned(), "ann".to_owned()));
    redis.pause(true);
    drop(ann);
    // The log is away for longer than a publisher may wait, so the submitted message is refused.
    eventually("it was refused", || server.metric("fanwire_engine_events_refused_total") >= Some(1.0));
    // A user that joins and leaves unnoticed causes no presence event.
    drop(Sse::open(server.addr, "?channel=room.1&user=bob"));
    redis.pause(false);
    let mut news = next_news(&mut watcher);
    while news.1 != "ann" {
        news = next_news(&mut watcher);
    }
    assert_eq!(news, ("presence.left".to_owned(), "ann".to_owned()));
}
