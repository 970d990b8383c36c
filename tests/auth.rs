//! Authentication from outside: each way to show a token, each right, and each way in which a client loses access.

mod support;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::{self, Response};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::{Ws, upgrade_request};
use support::{Server, eventually, fanwire, run};

/// Time within which an unwanted event would have arrived.
const SILENCE: Duration = Duration::from_millis(200);

const SECRET: &str = "only-this-test-and-its-server-know-it-3f9a";

fn guarded(options: &[&str]) -> Server {
    Server::with(&[&["--auth-jwt-hs256-secret", SECRET], options].concat())
}

/// Makes a token with `fanwire token` and these options.
fn token(options: &[&str]) -> String {
    support::token(SECRET, options)
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn send(server: &Server, method: &str, path: &str, headers: &str, body: &str) -> Response {
    let len = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    );
    http::exchange(server.addr, request.as_bytes())
}

fn get(server: &Server, path: &str, headers: &str) -> Response {
    send(server, "GET", path, headers, "")
}

fn publish(server: &Server, token: &str, body: &str) -> Response {
    send(server, "POST", "/publish", &bearer(token), body)
}

/// Publishes a body that must be accepted.
fn publish_all(server: &Server, body: &str) {
    let answer = publish(server, &token(&["--publish"]), body);
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn ws(server: &Server, path: &str, headers: &str) -> Ws {
    Ws::over(Wire::connect(server.addr), path, headers)
}

fn subscribe(client: &mut Ws, payload: Value) -> Value {
    client.ask(&json!({"type": "subscribe", "payload": payload}))
}

fn temp(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fanwire-outside-auth-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("a temporary file");
    path
}

#[test]
fn without_authentication_other_machines_are_served_only_if_configured() {
    let out = run(fanwire().args(["serve", "--listen", "0.0.0.0:0"]));
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{errors}");
    assert!(errors.contains("no authentication is configured") && errors.contains("--insecure"), "{errors}");
    assert!(out.stdout.is_empty());
    for options in [&["--insecure"][..], &["--auth-jwt-hs256-secret", SECRET]] {
        let server = Server::at("0.0.0.0:0", options);
        let answer = http::get(([127, 0, 0, 1], server.addr.port()).into(), "/healthz");
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn each_way_in_carries_a_token() {
    let server = guarded(&[]);
    let good = token(&["--stream", "a", "--sub", "ann"]);
    let ticket = || {
        let answer = send(&server, "POST", "/ticket", &bearer(&good), "");
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
        assert_eq!(answer.json()["expires_in"], 30);
        answer.json()["ticket"].as_str().expect("a ticket").to_owned()
    };
    let cookie = format!("Cookie: other=1; auth-token={good}\r\n");
    let protocol = format!("Sec-WebSocket-Protocol: fanwire.v1, bearer.{good}\r\n");
    let ways = || {
        [
            (format!("token={good}"), String::new()),
            (format!("access_token={good}"), String::new()),
            (format!("ticket={}", ticket()), String::new()),
            (String::new(), bearer(&good)),
            (String::new(), cookie.clone()),
            (String::new(), format!("Origin: http://localhost\r\n{cookie}")),
        ]
    };
    let mut streams: Vec<Sse> =
        ways().iter().map(|(query, headers)| Sse::with(server.addr, &format!("?{query}"), headers)).collect();
    let mut sockets: Vec<Ws> =
        ways().iter().map(|(query, headers)| ws(&server, &format!("/ws?{query}"), headers)).collect();
    sockets.push(ws(&server, "/ws", &protocol));
    assert_eq!(sockets.last().expect("one").response.header("sec-websocket-protocol"), Some("fanwire.v1"));
    let mut by_message = ws(&server, "/ws", "");
    let auth = json!({"type": "auth", "message_id": "m", "payload": {"token": good}});
    let answer = by_message.ask(&auth);
    assert_eq!((&answer["type"], &answer["correlation_id"]), (&json!("ack"), &json!("m")), "{answer}");
    sockets.push(by_message);
    for client in &mut sockets {
        assert_eq!(subscribe(client, json!({}))["type"], "ack");
    }
    publish_all(&server, r#"[{"type":"x","stream_id":"b"},{"type":"x"},{"type":"y","stream_id":"a"}]"#);
    for stream in &mut streams {
        assert_eq!(stream.event().json()["event_type"], "y");
    }
    for client in &mut sockets {
        assert_eq!(client.event()["event_type"], "y");
    }
}

#[test]
fn a_page_that_is_named_may_use_its_visitors_cookie() {
    let good = token(&["--stream", "*"]);
    for (named, status, credentials) in [("https://app.example", 200, Some("true")), ("*", 401, None)] {
        let server = guarded(&["--cors-origin", named]);
        let headers = format!("Origin: https://app.example\r\nCookie: auth-token={good}\r\n");
        let answer = send(&server, "POST", "/ticket", &headers, "");
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), credentials);
    }
}

#[test]
fn bad_credentials_are_refused_at_the_handshake() {
    let server = guarded(&[]);
    let used = {
        let headers = bearer(&token(&["--stream", "a"]));
        let ticket = send(&server, "POST", "/ticket", &headers, "").json()["ticket"].clone();
        let ticket = ticket.as_str().expect("a ticket").to_owned();
        drop(Sse::open(server.addr, &format!("?ticket={ticket}")));
        ticket
    };
    let evil =
        format!("Origin: https://evil.example\r\nCookie: auth-token={}\r\n", token(&["--stream", "*"]));
    for (query, headers, code) in [
        ("token=nonsense".to_owned(), String::new(), "invalid_token"),
        (format!("token={}", support::token("another", &["--stream", "*"])), String::new(), "invalid_token"),
        (
            format!("token={}", token(&["--stream", "*", "--audience", "others"])),
            String::new(),
            "invalid_token",
        ),
        (format!("ticket={used}"), String::new(), "invalid_ticket"),
        ("ticket=nonsense".to_owned(), String::new(), "invalid_ticket"),
        (String::new(), bearer("eyJhbGciOiJub25lIn0.eyJzdHJlYW1zIjpbIioiXX0."), "invalid_token"),
        (String::new(), evil, "auth_required"),
        (String::new(), String::new(), "auth_required"),
    ] {
        let answer = get(&server, &format!("/sse?{query}"), &headers);
        assert_eq!((answer.status, &answer.json()["code"]), (401, &json!(code)), "{answer:?}");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
        if code != "auth_required" {
            let request = upgrade_request(&format!("/ws?{query}"), &headers);
            let answer = http::exchange(server.addr, request.as_bytes());
            assert_eq!((answer.status, &answer.json()["code"]), (401, &json!(code)), "{answer:?}");
        }
    }
    // The server does not wait for an unauthenticated body.
    let request = b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n";
    assert_eq!(http::exchange(server.addr, request).status, 401);
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(get(&server, path, "").status, 200, "{path} tells nothing");
    }
}

#[test]
fn a_subscription_beyond_the_grant_is_an_error_that_names_it() {
    let server = guarded(&[]);
    let good = token(&["--stream", "a", "--type", "task.**"]);
    let mut client = ws(&server, &format!("/ws?token={good}"), "");
    let answer = subscribe(&mut client, json!({"stream_ids": ["a", "b"]}));
    assert_eq!((&answer["type"], &answer["payload"]["code"]), (&json!("error"), &json!("forbidden")));
    assert!(answer["payload"]["error"].as_str().is_some_and(|text| text.contains("stream 'b'")), "{answer}");
    for query in ["type=task.done&stream=b", "type=alert"] {
        let answer = get(&server, &format!("/sse?{query}&token={good}"), "");
        assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("forbidden")), "{answer:?}");
    }
    let writer = token(&["--publish"]);
    assert_eq!(get(&server, "/sse", &bearer(&writer)).status, 403, "who may publish only sees nothing");
    // A pattern requests all matching events. The client gets those that its token allows, also from the past.
    publish_all(
        &server,
        r#"[{"type":"task.a","stream_id":"b"},{"type":"task.b","stream_id":"a"},{"type":"alert","stream_id":"a"}]"#,
    );
    let mut past = Sse::open(server.addr, &format!("?history=10&stream=*&token={good}"));
    assert_eq!(past.event().json()["event_type"], "task.b");
    assert_eq!(subscribe(&mut client, json!({"event_types": ["**"], "history": 10}))["type"], "ack");
    assert_eq!(client.event()["event_type"], "task.b");
    assert!(client.is_silent_for(SILENCE));
}

#[test]
fn publishing_needs_a_token_with_the_right() {
    let server = guarded(&[]);
    let event = r#"{"type":"build.done"}"#;
    assert_eq!(send(&server, "POST", "/publish", "", event).status, 401);
    assert_eq!(publish(&server, &token(&["--stream", "*"]), event).status, 403);
    let builds = token(&["--publish=build.*"]);
    assert_eq!(publish(&server, &builds, event).json()["accepted"], 1);
    let answer = publish(&server, &builds, "{\"type\":\"build.done\"}\n{\"type\":\"deploy\"}");
    assert_eq!(answer.status, 403, "all or nothing");
    assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains("type 'deploy'")), "{answer:?}");

    let mut client = ws(&server, "/ws", &bearer(&token(&["--stream", "*", "--publish=build.*"])));
    let ask = |kind: &str| json!({"type": "publish", "payload": {"type": kind}});
    assert_eq!(client.ask(&ask("build.done"))["type"], "ack");
    assert_eq!(client.ask(&ask("deploy"))["payload"]["code"], "forbidden");
    let mut stranger = ws(&server, "/ws", "");
    assert_eq!(stranger.ask(&ask("build.done"))["payload"]["code"], "auth_required");
    assert_eq!(stranger.ask(&json!({"type": "ping"}))["type"], "pong");
    assert_eq!(subscribe(&mut stranger, json!({}))["payload"]["code"], "auth_required");
}

#[test]
fn metrics_and_api_are_rights_of_their_own() {
    let server = guarded(&[]);
    let (metrics, admin) = (token(&["--metrics"]), token(&["--admin"]));
    let all = token(&["--stream", "*", "--publish"]);
    for (path, good) in [("/metrics", &metrics), ("/api/stats", &admin), ("/api/history", &admin)] {
        assert_eq!(get(&server, path, "").status, 401, "{path}");
        for one in [&metrics, &admin, &all] {
            let expected = if one == good { 200 } else { 403 };
            assert_eq!(get(&server, path, &bearer(one)).status, expected, "{path}");
        }
    }
    // The refusal does not reveal whether such an event exists.
    let journey = "/api/explain?event_id=1-1";
    assert_eq!(get(&server, journey, &bearer(&all)).status, 403);
    assert_eq!(get(&server, journey, &bearer(&admin)).status, 404);
    let subscriptions = "/api/subscriptions?client_id=x";
    assert_eq!(get(&server, subscriptions, &bearer(&all)).status, 403);
    assert_eq!(get(&server, subscriptions, &bearer(&admin)).status, 200);
    assert_eq!(send(&server, "POST", "/api/revoke", &bearer(&metrics), r#"{"jti":"x"}"#).status, 403);
    assert_eq!(send(&server, "POST", "/api/revoke", &bearer(&admin), "{}").status, 400);
}

#[test]
fn a_connection_ends_with_its_token_unless_it_is_refreshed() {
    let server = guarded(&[]);
    let short = || token(&["--stream", "*", "--ttl", "2s"]);
    let mut kept = ws(&server, "/ws", "");
    assert_eq!(kept.ask(&json!({"type": "auth", "payload": {"token": short()}}))["type"], "ack");
    assert_eq!(subscribe(&mut kept, json!({}))["type"], "ack");
    let long = token(&["--stream", "a"]);
    assert_eq!(kept.ask(&json!({"type": "auth", "payload": {"token": long}}))["type"], "ack");

    let mut socket = ws(&server, &format!("/ws?token={}", short()), "");
    assert_eq!(subscribe(&mut socket, json!({}))["type"], "ack");
    let mut stream = Sse::open(server.addr, &format!("?token={}", short()));
    let notice = socket.message();
    assert_eq!((&notice["type"], &notice["payload"]["code"]), (&json!("error"), &json!("token_expired")));
    let (code, reason) = socket.closed();
    assert_eq!(code, 1008);
    assert!(reason.contains("Token expired"), "{reason}");
    let closed = stream.event();
    assert_eq!((closed.event.as_deref(), &closed.json()["code"]), (Some("closed"), &json!("token_expired")));
    assert!(stream.block(deadline()).is_err(), "the stream ends");

    // The refreshed connection is still open, with the rights of the newer token.
    publish_all(&server, r#"[{"type":"x","stream_id":"b"},{"type":"y","stream_id":"a"}]"#);
    assert_eq!(kept.event()["event_type"], "y");
}

#[test]
fn a_client_that_does_not_authenticate_in_time_is_closed() {
    let server = guarded(&["--handshake-timeout", "500ms"]);
    let mut client = ws(&server, "/ws", "");
    let (code, reason) = client.closed();
    assert_eq!(code, 1008, "{reason}");
}

#[test]
fn a_revocation_takes_effect_before_the_next_event() {
    let server = guarded(&["--loops", "4"]);
    let (admin, writer) = (token(&["--admin"]), token(&["--publish"]));
    let revoke = |body: &str| {
        let answer = send(&server, "POST", "/api/revoke", &bearer(&admin), body);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    for round in 0..20 {
        let (sub, id) = (format!("eve-{round}"), format!("t-{round}"));
        let eve = token(&["--stream", "*", "--sub", &sub]);
        let by_id = token(&["--stream", "*", "--id", &id]);
        let good = token(&["--stream", "*", "--sub", "ann"]);
        let mut gone: Vec<Ws> = Vec::new();
        for one in [&eve, &by_id, &eve, &by_id] {
            let mut client = ws(&server, &format!("/ws?token={one}"), "");
            assert_eq!(subscribe(&mut client, json!({}))["type"], "ack");
            gone.push(client);
        }
        let mut stream = Sse::open(server.addr, &format!("?token={eve}"));
        let mut stays = Sse::open(server.addr, &format!("?token={good}"));
        revoke(&json!({"sub": sub}).to_string());
        revoke(&json!({"jti": id}).to_string());
        assert_eq!(publish(&server, &writer, r#"{"type":"secret"}"#).status, 200);
        assert_eq!(stays.event().json()["event_type"], "secret");
        for mut client in gone {
            let notice = client.message();
            assert_eq!(notice["payload"]["code"], "token_revoked", "no event comes first: {notice}");
            assert_eq!(client.closed().0, 1008);
        }
        let notice = stream.event();
        assert_eq!(
            (notice.event.as_deref(), &notice.json()["code"]),
            (Some("closed"), &json!("token_revoked"))
        );
        assert_eq!(get(&server, &format!("/sse?token={eve}"), "").json()["code"], "token_revoked");
    }
    revoke(r#"{"sub":"eve-0","lift":true}"#);
    drop(Sse::open(server.addr, &format!("?token={}", token(&["--stream", "*", "--sub", "eve-0"]))));
}

#[test]
fn api_keys_come_and_go_with_their_file() {
    let make = |id: &str, options: &[&str]| -> (String, String) {
        let out = run(fanwire().args(["token", "--api-key", id, "--json"]).args(options));
        assert!(out.status.success(), "{out:?}");
        let made: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        (text("key"), text("line"))
    };
    let (reader, reader_line) = make("screen", &["--stream", "*"]);
    let (writer, writer_line) = make("ci", &["--publish"]);
    let file = temp("keys", &format!("# ours\n{reader_line}\n{writer_line}\n"));
    let server = Server::with(&["--auth-api-keys-file", file.to_str().expect("a path")]);
    let mut client = ws(&server, &format!("/ws?token={reader}"), "");
    assert_eq!(subscribe(&mut client, json!({}))["type"], "ack");
    assert_eq!(publish(&server, &writer, r#"{"type":"a"}"#).status, 200);
    assert_eq!(publish(&server, &reader, r#"{"type":"a"}"#).status, 403);
    assert_eq!(client.event()["event_type"], "a");

    // A fault in the file changes nothing. When its line is removed, the key's holder is disconnected.
    std::fs::write(&file, format!("{writer_line}\nnonsense\n")).expect("a temporary file");
    server.signal("HUP");
    eventually("the log says so", || server.log().contains("line 2"));
    assert_eq!(publish(&server, &writer, r#"{"type":"b"}"#).status, 200);
    assert_eq!(client.event()["event_type"], "b");
    std::fs::write(&file, format!("{writer_line}\n")).expect("a temporary file");
    server.signal("HUP");
    assert_eq!(client.message()["payload"]["code"], "token_revoked");
    assert_eq!(get(&server, "/sse", &bearer(&reader)).status, 401);
    assert_eq!(publish(&server, &writer, r#"{"type":"c"}"#).status, 200);
}

#[test]
fn a_file_of_revocations_is_read_again() {
    let file = temp("revoked", "");
    let server = guarded(&["--auth-revoked-file", file.to_str().expect("a path")]);
    let mut stream = Sse::open(server.addr, &format!("?token={}", token(&["--stream", "*", "--sub", "eve"])));
    std::fs::write(&file, "{\"sub\":\"eve\"}\n").expect("a temporary file");
    server.signal("HUP");
    assert_eq!(stream.event().json()["code"], "token_revoked");
}

#[test]
fn clients_without_a_token_may_have_rights_of_their_own() {
    let server = guarded(&["--auth-anonymous-streams", "status"]);
    let mut stream = Sse::open(server.addr, "");
    let mut client = ws(&server, "/ws", "");
    assert_eq!(subscribe(&mut client, json!({}))["type"], "ack");
    publish_all(&server, r#"[{"type":"x","stream_id":"inner"},{"type":"y","stream_id":"status"}]"#);
    assert_eq!(stream.event().json()["event_type"], "y");
    assert_eq!(client.event()["event_type"], "y");
    assert_eq!(send(&server, "POST", "/publish", "", r#"{"type":"x"}"#).status, 403);
    assert_eq!(get(&server, "/metrics", "").status, 403);
}

#[test]
fn hive_authenticates_by_its_first_message() {
    let server = guarded(&["--handshake-timeout", "500ms"]);
    let hive = || ws(&server, "/hive", "");
    let mut client = hive();
    let good = token(&["--stream", "webhook", "--user", "u-1"]);
    assert_eq!(client.ask(&json!({"action": "auth", "token": good})), json!({"type": "authenticated"}));
    client.send(&json!({"action": "subscribe", "stream_id": "other"}));
    let answer = client.message();
    assert!(answer.to_string().contains("stream 'other'"), "{answer}");
    client.send(&json!({"action": "subscribe"}));
    // `*` means every stream. A token that lists no stream gives access to none, but its holder may connect.
    let (mut all, mut none) = (hive(), hive());
    for (client, token, answer) in
        [(&mut all, token(&["--stream", "*"]), "subscribed"), (&mut none, token(&["--publish"]), "error")]
    {
        assert_eq!(client.ask(&json!({"action": "auth", "token": token}))["type"], "authenticated");
        assert_eq!(client.ask(&json!({"action": "subscribe"}))["type"], answer);
    }

    for (first, said) in [
        (json!({"action": "subscribe"}).to_string(), "Auth required"),
        (json!({"action": "auth", "token": "x"}).to_string(), "Auth failed: Invalid token"),
        ("nonsense".to_owned(), "Auth failed: "),
    ] {
        let mut client = hive();
        client.send_text(&first);
        let (code, reason) = last_words(&mut client);
        assert_eq!(code, 1008);
        assert!(reason.starts_with(said), "{reason}");
    }
    let mut late = token(&["--stream", "*", "--ttl", "1s"]);
    eventually("the token's time is up", || {
        get(&server, &format!("/sse?token={late}"), "").status == 401 || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }
    });
    late = json!({"action": "auth", "token": late}).to_string();
    let mut client_late = hive();
    client_late.send_text(&late);
    assert_eq!(last_words(&mut client_late), (1008, "Auth failed: Token expired".to_owned()));
    assert_eq!(hive().closed().0, 1008, "nothing in time");

    publish_all(
        &server,
        r#"[{"type":"goal_progress","stream_id":"other"},{"type":"goal_achieved","stream_id":"webhook"}]"#,
    );
    let event = loop {
        let message = client.message();
        if message["type"] == "event" {
            break message;
        }
    };
    assert_eq!(event["event"]["type"], "goal_achieved");
    for stream in ["other", "webhook"] {
        assert_eq!(all.message()["event"]["stream_id"], stream);
    }
    assert!(none.is_silent_for(SILENCE));
}

/// Returns the close frame, after any messages before it.
fn last_words(client: &mut Ws) -> (u16, String) {
    loop {
        let frame = client.read_frame(deadline()).expect("a close");
        if frame.opcode() == support::ws::CLOSE {
            return frame.close();
        }
    }
}

#[test]
fn gathering_authenticates_by_query_or_first_message() {
    let server = guarded(&["--handshake-timeout", "500ms"]);
    let member = token(&["--channel", "dev-team", "--publish"]);
    let mut by_query = ws(&server, &format!("/ws/circles/dev-team?token={member}"), "");
    let mut by_message = ws(&server, "/ws/circles/dev-team", "");
    by_message.send(&json!({"type": "auth", "token": member}));
    assert_eq!(by_message.message()["type"], "authenticated");
    let request = upgrade_request("/ws/circles/dev-team?token=x", "");
    let answer = http::exchange(server.addr, request.as_bytes());
    assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("Invalid token")));
    let request = upgrade_request(&format!("/ws/circles/board?token={member}"), "");
    assert_eq!(http::exchange(server.addr, request.as_bytes()).status, 403);
    for first in [json!({"type": "user_message", "content": "hi"}), json!({"type": "auth", "token": "x"})] {
        let mut client = ws(&server, "/ws/circles/dev-team", "");
        client.send(&first);
        assert_eq!(last_words(&mut client).0, 4001, "{first}");
    }
    assert_eq!(last_words(&mut ws(&server, "/ws/circles/dev-team", "")).0, 4001, "nothing in time");
    by_query.send(&json!({"type": "user_message", "content": "hello"}));
    assert_eq!(by_message.message()["content"], "hello");
}

#[test]
fn autosdlc_authenticates_by_handshake_or_request() {
    let server = guarded(&[]);
    let good = token(&["--entity", "agent:coder-1"]);
    let subscribe = json!({"id": "s", "type": "subscribe", "data":
        {"subscriptionId": "s", "resource": "agent", "resourceId": "coder-1", "events": ["status"]}});
    let request = |token: &str| json!({"id": "r", "type": "auth_request", "data": {"token": token}});
    let cookie = format!("Cookie: auth-token={good}\r\n");
    let ways =
        [(format!("?token={good}"), String::new()), (String::new(), bearer(&good)), (String::new(), cookie)];
    let mut clients: Vec<Ws> =
        ways.iter().map(|(query, headers)| ws(&server, &format!("/autosdlc{query}"), headers)).collect();
    for client in &mut clients {
        assert_eq!(client.message()["type"], "connect");
    }
    let mut by_request = ws(&server, "/autosdlc", "");
    assert_eq!(by_request.message()["type"], "connect");
    assert_eq!(by_request.ask(&subscribe)["type"], "error", "it may only authenticate");
    assert_eq!(by_request.ask(&request("nonsense"))["type"], "auth_failure");
    assert_eq!(by_request.ask(&request(&good))["type"], "auth_success");
    clients.push(by_request);
    for client in &mut clients {
        assert_eq!(client.ask(&subscribe)["type"], "subscription_update");
        let mut beyond = subscribe.clone();
        beyond["data"]["resourceId"] = json!("coder-2");
        let answer = client.ask(&beyond);
        assert_eq!((&answer["type"], &answer["data"]["code"]), (&json!("error"), &json!("forbidden")));
        let text = answer["data"]["error"].as_str().expect("a text");
        assert!(text.contains("entity 'agent:coder-2'"), "{answer}");
        // A pattern requests all matching events. The client gets those that its token allows.
        let all =
            json!({"type": "subscribe", "data": {"subscriptionId": "all", "pattern": "agent:*:status"}});
        assert_eq!(client.ask(&all)["type"], "subscription_update");
    }
    // A token for one type gives access to that type under each of its names, and to no other type.
    let typed = token(&["--entity", "agent:*", "--type", "agent_status"]);
    let mut one_type = ws(&server, &format!("/autosdlc?token={typed}"), "");
    one_type.message();
    assert_eq!(one_type.ask(&subscribe)["type"], "subscription_update");
    let logs = json!({"type": "subscribe", "data": {"resource": "agent", "resourceId": "coder-1", "events": ["log"]}});
    assert_eq!(one_type.ask(&logs)["data"]["code"], "forbidden");
    clients.push(one_type);
    let bad = upgrade_request("/autosdlc?token=nonsense", "");
    assert_eq!(http::exchange(server.addr, bad.as_bytes()).status, 401);
    publish_all(
        &server,
        r#"[{"type":"agent_status","entity":{"kind":"agent","id":"coder-2"}},{"type":"agent_status","entity":{"kind":"agent","id":"coder-1"}}]"#,
    );
    for client in &mut clients {
        assert_eq!(client.message()["type"], "agent_status");
        assert!(client.is_silent_for(Duration::from_millis(50)));
    }
}

#[test]
fn autosdlc_has_its_documents_limits() {
    let server = Server::start();
    let mut client = ws(&server, "/autosdlc", "");
    assert_eq!(client.message()["type"], "connect");
    let ping = json!({"id": "p", "type": "ping", "data": {}});
    for _ in 0..60 {
        assert_eq!(client.ask(&ping)["type"], "pong");
    }
    let refused = client.ask(&ping);
    assert_eq!((&refused["type"], &refused["data"]["code"]), (&json!("error"), &json!("rate_limited")));
    assert!(
        refused["data"]["error"].as_str().is_some_and(|text| text.contains("limit of 60 ping")),
        "{refused}"
    );
    for n in 0..51 {
        let id = format!("s{n}");
        let subscribe = json!({"type": "subscribe", "data": {"subscriptionId": id, "resource": "agent",
            "resourceId": "a", "events": ["log"]}});
        let expected = if n < 50 { "subscription_update" } else { "error" };
        assert_eq!(client.ask(&subscribe)["type"], expected, "subscribe {n}");
    }
    let mut other = ws(&server, "/autosdlc", "");
    other.message();
    assert_eq!(other.ask(&ping)["type"], "pong", "one client's limit is not another's");
    for (kind, data, max) in
        [("unsubscribe", json!({"subscriptionId": "x"}), 100), ("agent_log", json!({"agentId": "a"}), 1000)]
    {
        for n in 0..=max {
            other.send(&json!({"type": kind, "data": data}));
            if kind == "unsubscribe" || n == max {
                let expected = if n < max { "subscription_update" } else { "error" };
                assert_eq!(other.message()["type"], expected, "{kind} {n}");
            }
        }
    }
}

#[test]
fn agentos_sends_everything_from_the_moment_of_authentication() {
    let server = guarded(&[]);
    let good = token(&["--type", "task.*"]);
    let mut by_query = ws(&server, &format!("/ws/events?token={good}"), "");
    let mut by_message = ws(&server, "/ws/events", "");
    publish_all(&server, r#"{"type":"task.started"}"#);
    assert_eq!(by_query.message()["type"], "task.started");
    by_message.send(&json!({"type": "auth", "token": good}));
    assert_eq!(by_message.message()["type"], "authenticated");
    publish_all(&server, r#"[{"type":"provider.status_changed"},{"type":"task.completed"}]"#);
    assert_eq!(by_query.message()["type"], "task.completed");
    assert_eq!(by_message.message()["type"], "task.completed");
}

#[test]
fn a_client_that_sends_too_often_gets_an_error_and_is_then_closed() {
    let server = Server::with(&[
        "--limits-message-kinds",
        "ping=3",
        "--limits-refused-messages",
        "2",
        "--limits-publishes",
        "2",
    ]);
    let mut client = Ws::connect(server.addr);
    let ping = json!({"type": "ping", "message_id": "p"});
    for _ in 0..3 {
        assert_eq!(client.ask(&ping)["type"], "pong");
    }
    let refused = client.ask(&ping);
    assert_eq!(
        (&refused["payload"]["code"], &refused["correlation_id"]),
        (&json!("rate_limited"), &json!("p"))
    );
    assert!(refused["payload"]["error"].as_str().is_some_and(|text| text.contains("limit of 3 ping")));
    assert_eq!(subscribe(&mut client, json!({}))["type"], "ack", "another kind is not limited");
    for _ in 0..2 {
        client.send(&ping);
    }
    assert_eq!(last_words(&mut client), (1008, "rate limit exceeded".to_owned()));
    assert_eq!(Ws::connect(server.addr).ask(&ping)["type"], "pong", "one client's limit is not another's");

    for status in [200, 200, 429] {
        let answer = http::post(server.addr, "/publish", "application/json", br#"{"type":"x"}"#);
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
    }
    assert_eq!(
        server
            .metrics("fanwire_server_faults_total")
            .iter()
            .filter(|(l, _)| l.contains("rate_limited"))
            .count(),
        1
    );
}

#[test]
fn one_address_has_a_limited_number_of_connections() {
    let server = Server::with(&["--limits-connections-per-address", "2"]);
    let mut held: Vec<Wire> = (0..2).map(|_| Wire::connect(server.addr)).collect();
    for wire in &mut held {
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(http::read_response(wire, deadline()).expect("an answer").status, 200);
    }
    let mut third = Wire::connect(server.addr);
    third.send_if_taken(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let refused = http::read_response(&mut third, deadline());
    assert!(
        refused.is_err() || refused.is_ok_and(|answer| answer.status == 503),
        "it gets the reason and is closed"
    );
    held.pop();
    eventually("room for another", || {
        let mut wire = Wire::connect(server.addr);
        wire.send_if_taken(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        http::read_response(&mut wire, deadline()).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn behind_a_trusted_proxy_each_client_has_its_own_limits() {
    let limits = ["--limits-connections-per-address", "1", "--limits-publishes", "1"];
    let server = Server::with(&[&limits[..], &["--limits-trusted-proxy", "127.0.0.0/8"]].concat());
    let from = |client: &str| format!("X-Forwarded-For: 8.8.8.8, {client}\r\n");
    let upgrade =
        |client: &str| http::exchange(server.addr, upgrade_request("/ws", &from(client)).as_bytes()).status;
    let first = ws(&server, "/ws", &from("198.51.100.1"));
    assert_eq!(upgrade("198.51.100.1"), 429, "it has one");
    assert_eq!(get(&server, "/sse", &from("198.51.100.1")).status, 429, "of either kind");
    let mut second = ws(&server, "/ws", &from("198.51.100.2"));
    assert_eq!(second.ask(&json!({"type": "ping"}))["type"], "pong");
    drop(first);
    eventually("room for another", || upgrade("198.51.100.1") == 101);
    let publish = |client: &str| send(&server, "POST", "/publish", &from(client), r#"{"type":"x"}"#).status;
    let statuses = ["198.51.100.1", "198.51.100.1", "198.51.100.2"].map(publish);
    assert_eq!(statuses, [200, 429, 200]);
    let refused = server.metrics("fanwire_server_connections_refused_total");
    assert!(refused.iter().any(|(labels, count)| labels.contains("address") && *count >= 2.0), "{refused:?}");

    // An untrusted client can send any value of the header.
    let server = Server::with(&limits[2..]);
    let publish = |client: &str| send(&server, "POST", "/publish", &from(client), r#"{"type":"x"}"#).status;
    assert_eq!(["198.51.100.1", "198.51.100.2"].map(publish), [200, 429]);
}

#[test]
fn secrets_are_in_no_log_answer_or_count() {
    let (key, line) = {
        let out = run(fanwire().args(["token", "--api-key", "k", "--stream", "*", "--json"]));
        let made: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        (made["key"].as_str().expect("a key").to_owned(), made["line"].as_str().expect("a line").to_owned())
    };
    let file = temp("logged-keys", &line);
    let file = file.to_str().expect("a path");
    // Logs everything, as an operator does to find a fault.
    let server = guarded(&["--auth-api-keys-file", file, "--log-level", "trace"]);
    let good = token(&["--stream", "*", "--admin", "--metrics", "--publish"]);
    let bad = support::token("another secret", &["--stream", "*"]);
    let mut transcript = String::new();
    for one in [&good, &bad, &key] {
        for answer in [
            get(&server, &format!("/sse?token={one}&nonsense=1"), "").text().to_owned(),
            get(&server, "/nowhere", &bearer(one)).text().to_owned(),
            publish(&server, one, "nonsense").text().to_owned(),
        ] {
            transcript.push_str(&answer);
        }
        let mut client = ws(&server, "/ws", "");
        for message in [
            json!({"type": "auth", "payload": one}),
            json!({"type": "auth", "payload": {"token": [one]}}),
            json!({"type": "auth", "payload": {"token": one}}),
        ] {
            transcript.push_str(&client.ask(&message).to_string());
        }
        for path in ["/autosdlc", "/autosdlc?compress=gzip"] {
            let mut client = ws(&server, path, "");
            transcript.push_str(&client.message().to_string());
            let right = json!({"id": "1", "type": "auth_request", "data": {"token": one}}).to_string();
            let slips = [
                json!({"id": "1", "type": "auth_request", "data": {"token": [one]}}).to_string(),
                json!({"id": "1", "type": "auth_request", "data": one}).to_string(),
                json!({"id": "1", "type": "auth_request", "data": {}, "metadata": one}).to_string(),
                json!({"id": "1", "type": "auth", "data": {"token": one}}).to_string(),
                json!({"id": "1", "type": "ping", "data": {"accessToken": one}}).to_string(),
                right.trim_end_matches('}').to_owned(),
            ];
            for slip in slips {
                client.send_text(&slip);
            }
            client.send_text(&right);
            // The answers to the faulty tokens do not matter, but the server must accept the good ones at the end.
            if one != &bad {
                loop {
                    let answer = client.message();
                    transcript.push_str(&answer.to_string());
                    if answer["type"] == "auth_success" {
                        break;
                    }
                }
            }
        }
    }
    server.signal("HUP");
    eventually("the reload", || server.log().contains("reload"));
    for path in ["/api/stats", "/metrics"] {
        let answer = get(&server, path, &bearer(&good));
        assert_eq!(answer.status, 200);
        transcript.push_str(answer.text());
    }
    transcript.push_str(&server.log());
    for secret in [SECRET, &good, &bad, &key] {
        let tail = secret.rsplit('.').next().expect("some");
        let is_said = transcript.contains(secret) || transcript.contains(tail);
        let line = transcript.lines().find(|line| line.contains(tail)).unwrap_or_default();
        assert!(!is_said, "a secret was said: {}", line.replace(tail, "(SECRET)"));
    }
    for slip in ["redis//u:", "redis:u:", "u:", "redis://u:", "nats://h:1,redis://u:", ""] {
        let address = format!("{slip}{SECRET}@h");
        for option in ["--engine", "--ingest"] {
            let output = run(fanwire().args(["check", option, &address]));
            let output = [output.stdout, output.stderr].concat();
            assert!(!String::from_utf8_lossy(&output).contains(SECRET), "{option} {slip}");
        }
    }
    let output = run(fanwire().args(["check", "--auth-jwt-hs256-secret", SECRET]));
    let output = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&output).contains(SECRET));
}

#[test]
fn a_narrow_client_gets_its_own_of_many_events_and_none_else() {
    let server = guarded(&["--max-lag-events", "1000000", "--max-lag-bytes", "1GiB"]);
    let narrow = token(&["--stream", "s7", "--type", "task.**", "--channel", "c1,c2"]);
    let mut socket = ws(&server, &format!("/ws?token={narrow}"), "");
    assert_eq!(subscribe(&mut socket, json!({}))["type"], "ack");
    let mut stream = Sse::open(server.addr, &format!("?token={narrow}&type=**"));
    let writer = token(&["--publish"]);
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut own = Vec::new();
    for batch in 0..20 {
        let mut body = String::new();
        for at in 0..2500 {
            let n = batch * 2500 + at;
            let kind = ["task.a", "task.b.c", "alert", "task"][random(4) as usize];
            let (stream, channel) = (random(20), random(4));
            if stream == 7 && kind != "alert" && (channel == 1 || channel == 2) {
                own.push(n);
            }
            // Writing to a String does not fail.
            let _ = writeln!(
                body,
                "{{\"type\":\"{kind}\",\"stream_id\":\"s{stream}\",\"channel\":\"c{channel}\",\"payload\":{{\"n\":{n}}}}}"
            );
        }
        assert_eq!(publish(&server, &writer, &body).json()["accepted"], 2500);
    }
    assert!(own.len() > 500);
    let until = Instant::now() + support::PATIENCE;
    for n in own {
        assert_eq!(socket.event()["payload"]["n"], n);
        assert_eq!(stream.event().json()["payload"]["n"], n);
        assert!(Instant::now() < until);
    }
    assert!(socket.is_silent_for(SILENCE) && stream.is_silent_until(Instant::now() + SILENCE));
}

#[test]
fn tokens_have_the_requested_claims() {
    let out = run(fanwire().args([
        "token",
        "--secret",
        SECRET,
        "--sub",
        "ann",
        "--stream",
        "a,b",
        "--publish",
        "--ttl",
        "1h",
        "--json",
    ]));
    let made: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let claims = &made["claims"];
    assert_eq!((&claims["streams"], &claims["publish"]), (&json!(["a", "b"]), &json!(true)));
    assert_eq!(claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(exp, iat)| exp - iat), Some(3600));
    assert!(claims["jti"].as_str().is_some_and(|id| id.len() == 22));
    let out = run(fanwire().args(["token", "--secret", SECRET, "--user", "u-1", "--stream", "*", "--json"]));
    let made: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let claims = &made["claims"];
    assert_eq!(
        claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(exp, iat)| exp - iat),
        Some(24 * 3600)
    );
    for (options, said) in [
        (&["--stream", "*"][..], "no secret or key to sign with"),
        (&["--secret", "x"], "the token would allow nothing"),
        (&["--stream", "*", "--private-key", "tests/keys/rsa.public.pem"], "not a private key"),
    ] {
        let out = run(fanwire().arg("token").args(options));
        assert!(!out.status.success());
        assert!(String::from_utf8_lossy(&out.stderr).contains(said), "{out:?}");
    }
}

#[test]
fn the_programs_own_clients_show_a_token() {
    let server = guarded(&[]);
    let url = format!("http://{}", server.addr);
    let publish = |token: &str| {
        run(fanwire().args(["publish", "--url", &url, "--type", "x"]).env("FANWIRE_TOKEN", token))
    };
    let refused = publish("nonsense");
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && errors.contains("Invalid token") && errors.contains("--token"),
        "{errors}"
    );
    assert!(publish(&token(&["--publish"])).status.success());
    for more in [&[][..], &["--sse"]] {
        let tail = |token: &str| {
            let mut command = fanwire();
            run(command
                .args(["tail", "--url", &url, "--history", "1", "--count", "1", "--json", "--no-reconnect"])
                .args(more)
                .env("FANWIRE_TOKEN", token))
        };
        let out = tail(&token(&["--stream", "*"]));
        assert!(String::from_utf8_lossy(&out.stdout).contains(r#""event_type":"x""#), "{out:?}");
        let refused = tail("nonsense");
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("Invalid token"), "{refused:?}");
    }
}

#[test]
fn the_bridge_needs_the_right_to_publish() {
    let server = guarded(&[]);
    let call = |headers: &str| send(&server, "POST", "/bridge/a2a", headers, r#"{"message_id":"m"}"#).status;
    assert_eq!(call(""), 401);
    assert_eq!(call(&bearer(&token(&["--stream", "*"]))), 403);
    assert_eq!(call(&bearer(&token(&["--publish=task.*"]))), 403);
    assert_eq!(call(&bearer(&token(&["--publish=protocol.**"]))), 200);
    assert_eq!(get(&server, "/bridge", "").status, 401);
}

#[test]
fn a_key_pair_signs_for_a_server_that_has_the_public_half() {
    for name in ["rsa", "p256", "p384", "ed25519"] {
        let (private, public) =
            (format!("tests/keys/{name}.private.pem"), format!("tests/keys/{name}.public.pem"));
        let server = Server::with(&["--auth-jwt-public-key-file", &public]);
        let out = run(fanwire().args(["token", "--stream", "*", "--private-key", &private]));
        assert!(out.status.success(), "{out:?}");
        let token = String::from_utf8(out.stdout).expect("text");
        drop(Sse::open(server.addr, &format!("?token={}", token.trim())));
        assert_eq!(
            get(&server, &format!("/sse?token={}", support::token(SECRET, &["--stream", "*"])), "").status,
            401
        );
    }
}

/// Each holder can use its own channel, by its name and by the template, at every entrance, and no other channel, for
/// any subject.
#[test]
fn a_personal_channel_is_for_its_subject_alone() {
    let server = guarded(&["--auth-grant-channels", "user:{sub}"]);
    let channel_of = |subject: &str| format!("user:{subject}");
    let subjects = ["alice", "bob", "*", "**", "a:b", "a.b", "{sub}", "a*"];
    let note = |channel: &str, n: usize| json!({"type": "note", "channel": channel, "data": {"n": n}});
    for (nth, subject) in subjects.into_iter().enumerate() {
        let sub = token(&["--sub", subject]);
        let own = channel_of(subject);
        let mut by_template = ws(&server, &format!("/ws?token={sub}"), "");
        let ack = subscribe(&mut by_template, json!({"subscription_id": "s", "channels": ["user:{sub}"]}));
        assert_eq!(ack["type"], "ack", "{subject}: {ack}");
        assert_eq!(ack["payload"]["own_channels"], json!({"user:{sub}": own}), "{ack}");
        let mut of_all = ws(&server, &format!("/ws?token={sub}"), "");
        let ack = subscribe(&mut of_all, json!({}));
        assert_eq!((&ack["type"], &ack["payload"]["own_channels"]), (&json!("ack"), &Value::Null));
        let mut of_pattern = ws(&server, &format!("/ws?token={sub}"), "");
        assert_eq!(subscribe(&mut of_pattern, json!({"channels": ["user:**"]}))["type"], "ack");
        let mut stream = Sse::open(server.addr, &format!("?channel=user:%7Bsub%7D&token={sub}"));
        let text = format!("?filter=channel%3D%22user%3A%7Bsub%7D%22&token={sub}");
        let mut by_text = Sse::open(server.addr, &text);
        for other in subjects {
            publish_all(&server, &note(&channel_of(other), nth).to_string());
        }
        publish_all(&server, &note("lobby", nth).to_string());
        publish_all(&server, &json!({"type": "note", "data": {"n": "no channel"}}).to_string());
        for client in [&mut by_template, &mut of_all, &mut of_pattern] {
            assert_eq!(client.event()["channel"], own, "{subject}");
            assert!(client.is_silent_for(SILENCE / 4), "{subject}");
        }
        for stream in [&mut stream, &mut by_text] {
            assert_eq!(stream.event().json()["channel"], own, "{subject}");
            assert!(stream.is_silent_until(Instant::now() + SILENCE / 4), "{subject}");
        }
        // Another holder's channel by its name is refused; a pattern is narrowed instead.
        for other in
            subjects.into_iter().filter(|other| *other != subject && !matches!(*other, "*" | "**" | "{sub}"))
        {
            let refused = subscribe(&mut of_all, json!({"channels": [channel_of(other)]}));
            assert_eq!(refused["payload"]["code"], "forbidden", "{subject} of {other}: {refused}");
            let add = json!({"subscription_id": "s", "add": {"channels": [channel_of(other)]}});
            let refused = by_template.ask(&json!({"type": "update", "payload": add}));
            assert_eq!(refused["payload"]["code"], "forbidden", "{subject} of {other}: {refused}");
            let path = format!("/sse?channel=user:{other}&token={sub}");
            assert_eq!(get(&server, &path, "").status, 403, "{subject} of {other}");
        }
        // The channel is removed and added again by the template.
        for (verb, count, named) in
            [("remove", "removed", Value::Null), ("add", "added", json!({"user:{sub}": own}))]
        {
            let update = json!({"subscription_id": "s", verb: {"channels": ["user:{sub}"]}});
            let ack = by_template.ask(&json!({"type": "update", "payload": update}));
            assert_eq!(
                (&ack["payload"][count], &ack["payload"]["own_channels"]),
                (&json!(1), &named),
                "{subject}: {ack}"
            );
        }
        if !matches!(subject, "*" | "**" | "{sub}") {
            let both = json!({"subscription_id": "s", "add": {"channels": ["user:{sub}"]}, "remove": {"channels": [own]}});
            let refused = by_template.ask(&json!({"type": "update", "payload": both}));
            assert_eq!(refused["payload"]["code"], "invalid_payload", "{subject}: {refused}");
        }
        publish_all(&server, &note(&own, nth).to_string());
        assert_eq!(by_template.event()["channel"], own);
    }
}

/// The tokens stay valid, so clients connect again instead of giving up.
#[test]
fn a_reload_of_templates_or_anonymous_rights_asks_clients_to_connect_again() {
    let text = |channel: &str, stream: &str| {
        format!(
            "[auth.jwt]\nhs256_secret = \"{SECRET}\"\n[auth.grant]\nchannels = [\"{channel}\"]\n[auth.anonymous]\nstreams = [\"{stream}\"]\n"
        )
    };
    let path = temp("templates.toml", &text("user:{sub}", "open"));
    let server = Server::with(&["--config", path.to_str().expect("a text")]);
    let sub = token(&["--sub", "alice"]);
    let mut client = ws(&server, &format!("/ws?token={sub}"), "");
    assert_eq!(subscribe(&mut client, json!({"channels": ["user:{sub}"]}))["type"], "ack");
    let mut anonymous = ws(&server, "/ws", "");
    assert_eq!(subscribe(&mut anonymous, json!({}))["type"], "ack");
    let mut stream = Sse::open(server.addr, &format!("?channel=user:alice&token={sub}"));
    std::fs::write(&path, text("team:{sub}", "public")).expect("a temporary file");
    server.signal("HUP");
    for client in [&mut client, &mut anonymous] {
        let error = client.any_message();
        assert_eq!((&error["type"], &error["payload"]["code"]), (&json!("error"), &json!("rights_changed")));
        let (code, reason) = last_words(client);
        assert!(code == 1012 && reason.contains("connect again"), "{code} {reason}");
    }
    let closed = stream.event();
    assert_eq!(closed.event.as_deref(), Some("closed"));
    assert_eq!(closed.json()["code"], "rights_changed");
    let mut client = ws(&server, &format!("/ws?token={sub}"), "");
    let ack = subscribe(&mut client, json!({"channels": ["team:{sub}"]}));
    assert_eq!(ack["payload"]["own_channels"], json!({"team:{sub}": "team:alice"}), "{ack}");
    let _ = std::fs::remove_file(path);
}

/// A list that is kept in parts stays in the order of its values, wherever the template's channel belongs.
#[test]
fn a_long_list_with_a_personal_channel_can_be_changed_by_any_value() {
    let server = guarded(&["--auth-grant-channels", "user:{sub}"]);
    let channels: Vec<String> =
        (0..600).map(|n| format!("user:{n:04}")).chain(["user:{sub}".into()]).collect();
    let sub = token(&["--sub", "0000x", "--channel", "user:*"]);
    let mut client = ws(&server, &format!("/ws?token={sub}"), "");
    let ack = subscribe(&mut client, json!({"subscription_id": "s", "channels": channels, "snapshot": true}));
    assert_eq!(ack["payload"]["own_channels"], json!({"user:{sub}": "user:0000x"}), "{ack}");
    assert_eq!(client.any_message()["type"], "history_end");
    for channel in ["user:0001", "user:0599", "user:{sub}", "user:0300"] {
        let update = json!({"subscription_id": "s", "remove": {"channels": [channel]}});
        let ack = client.ask(&json!({"type": "update", "payload": update}));
        assert_eq!(ack["payload"]["removed"], 1, "{channel}: {ack}");
    }
    for channel in ["user:0001", "user:0599", "user:0000x", "user:0300", "user:0002"] {
        publish_all(&server, &json!({"type": "note", "channel": channel}).to_string());
    }
    assert_eq!(client.event()["channel"], "user:0002");
}

#[test]
fn a_template_without_its_claim_opens_nothing() {
    let server = guarded(&["--auth-grant-channels", "user:{sub}", "--auth-anonymous-streams", "open"]);
    let without_events = token(&["--metrics"]);
    for way in [
        format!("/ws?token={without_events}"),
        format!("/ws?token={}", token(&["--stream", "*"])),
        // No channel is that long.
        format!("/ws?token={}", token(&["--sub", &"x".repeat(1020), "--stream", "*"])),
        "/ws".to_owned(),
    ] {
        let mut client = ws(&server, &way, "");
        let refused = subscribe(&mut client, json!({"channels": ["user:{sub}"]}));
        assert_eq!(refused["payload"]["code"], "forbidden", "{way}: {refused}");
    }
    assert_eq!(get(&server, &format!("/sse?channel=user:%7Bsub%7D&token={without_events}"), "").status, 403);
    let mut client = ws(&server, &format!("/ws?token={without_events}"), "");
    let refused = subscribe(&mut client, json!({}));
    assert_eq!(refused["payload"]["code"], "forbidden", "a token without any right sees nothing: {refused}");
}

#[test]
fn a_personal_channel_is_added_to_the_channels_of_a_token() {
    let server = guarded(&["--auth-grant-channels", "user:{sub},team"]);
    let both = token(&["--sub", "alice", "--channel", "news.*"]);
    let mut client = ws(&server, &format!("/ws?token={both}"), "");
    assert_eq!(subscribe(&mut client, json!({}))["type"], "ack");
    for channel in ["user:bob", "user:alice", "other", "news.a", "team"] {
        publish_all(&server, &json!({"type": "note", "channel": channel}).to_string());
    }
    for channel in ["user:alice", "news.a", "team"] {
        assert_eq!(client.event()["channel"], channel);
    }
    assert!(client.is_silent_for(SILENCE));
    // The right to publish covers the token's channels and the holder's own. A token without any list has no limits.
    let post = |token: &str, channel: &str| {
        publish(&server, token, &json!({"type": "note", "channel": channel}).to_string()).status
    };
    let bounded = token(&["--sub", "alice", "--channel", "news.*", "--publish"]);
    for (channel, status) in
        [("user:alice", 200), ("team", 200), ("news.a", 200), ("user:bob", 403), ("other", 403)]
    {
        assert_eq!(post(&bounded, channel), status, "{channel}");
    }
    assert_eq!(post(&token(&["--sub", "service", "--publish"]), "user:bob"), 200);
    for (options, reason) in [
        (&["--auth-grant-channels", "user:{sub}"][..], "means nothing without keys"),
        (&["--auth-jwt-hs256-secret", SECRET, "--auth-grant-channels", "user:{mail}"], "{mail}"),
        (&["--auth-jwt-hs256-secret", SECRET, "--auth-grant-channels", "user:*"], "one channel"),
    ] {
        let out = run(fanwire().args(["serve", "--listen", "127.0.0.1:0"]).args(options));
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() != Some(0) && errors.contains(reason), "{errors}");
    }
}
