//! Valid and invalid messages of each dialect, row by row: the answer is the expected one, and the connection remains
//! open.

mod support;

use serde_json::{Value, json};
use support::Server;
use support::wire::{Wire, deadline};
use support::ws::{BINARY, CLOSE, Ws, frame};

/// Expected outcome of a message.
enum Then {
    /// An answer with at least these fields.
    Says(Value),
    /// No answer.
    Nothing,
}
use Then::{Nothing, Says};

type Row = (&'static str, Then);

/// Returns whether `whole` contains everything in `part`, at the same place.
fn has(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| has(whole, part)))
        }
        (whole, part) => whole == part,
    }
}

/// Sends all rows on one connection. A ping after each row shows that the connection is open and that there was no
/// other answer.
fn check(path: &str, ping: &Value, rows: Vec<Row>) {
    let server = Server::with(&["--limits-messages", "100000"]);
    let mut client = Ws::over(Wire::connect(server.addr), path, "");
    if path == "/autosdlc" {
        assert_eq!(client.message()["type"], "connect");
    }
    for (text, then) in rows {
        client.send_text(text);
        if let Says(wanted) = then {
            let answer = client.message();
            assert!(has(&answer, &wanted), "{path} {text}: {answer}, not {wanted}");
        }
        client.send(ping);
        let pong = client.message();
        assert_eq!(pong["type"], "pong", "{path} {text}");
    }
    for odd in [&b"\xff\xfe"[..], b"", b"{"] {
        client.wire.send(&frame(BINARY, odd));
        client.send(ping);
        while client.message()["type"] != "pong" {}
    }
    let deep = format!("{{\"type\":\"subscribe\",\"action\":\"subscribe\",\"data\":{}", "[".repeat(50_000));
    client.send_text(&deep);
    client.send(ping);
    while client.message()["type"] != "pong" {}
    server.assert_serving();
}

#[test]
fn native_messages_good_and_bad() {
    let error =
        |code: &str, text: &str| Says(json!({"type": "error", "payload": {"code": code, "error": text}}));
    let coded = |code: &str| Says(json!({"type": "error", "payload": {"code": code}}));
    let invalid = || error("invalid_message", "Invalid message format");
    let says = |kind: &str| Says(json!({"type": kind}));
    check(
        "/ws",
        &json!({"type": "ping"}),
        vec![
            (r#"{"type":"subscribe"}"#, says("ack")),
            (r#"{"type":"subscribe","payload":null}"#, says("ack")),
            (
                r#"{"type":"subscribe","message_id":"m1","payload":{"subscription_id":"s1","event_types":["workflow.started"],"sources":["sim"]}}"#,
                Says(json!({"type": "ack", "correlation_id": "m1", "payload": {"subscription_id": "s1"}})),
            ),
            (
                r#"{"type":"subscribe","payload":{"subscription_id":"s2","event_types":"a.*","correlation_id":"run-42"}}"#,
                says("ack"),
            ),
            (
                r#"{"type":"subscribe","payload":{"subscription_id":"s3","correlation_ids":["a","b"],"entities":["task:*",{"kind":"agent","id":"7"}]}}"#,
                says("ack"),
            ),
            // Older versions ignored an unknown key, so a typo in a filter's name made a subscription to everything.
            (r#"{"type":"subscribe","payload":{"subscription_id":"s4","unknown":{}}}"#, coded("unknown_key")),
            (
                r#"{"type":"request","payload":{"action":"subscription_count"}}"#,
                Says(json!({"type": "response", "payload": {"count": 5}})),
            ),
            (r#"{"type":"request","payload":{"action":"list_subscriptions"}}"#, says("response")),
            (
                r#"{"type":"unsubscribe","payload":{"subscription_id":"s1"}}"#,
                Says(json!({"type": "ack", "payload": {"subscription_id": "s1"}})),
            ),
            (
                r#"{"type":"unsubscribe","payload":{"subscription_id":"s1"}}"#,
                error("unknown_subscription", "Unknown subscription: s1"),
            ),
            (r#"{"type":"unsubscribe","payload":{"subscription_id":"*"}}"#, says("ack")),
            (
                r#"{"type":"request","payload":{"action":"subscription_count"}}"#,
                Says(json!({"payload": {"count": 0}})),
            ),
            (
                r#"{"type":"request","message_id":"q","payload":{"action":"fly"}}"#,
                Says(
                    json!({"type": "error", "correlation_id": "q", "payload": {"error": "Unknown action: fly"}}),
                ),
            ),
            (r#"{"type":"request"}"#, error("unknown_action", "Unknown action: ")),
            (r#"{"type":"ack","payload":{}}"#, Nothing),
            (r#"{"type":"pong"}"#, Nothing),
            (r#"{"type":"publish","payload":{"type":"a.b","payload":[1,{"x":null}]}}"#, says("ack")),
            (r#"{"type":"publish","payload":{"event_type":"a.b","ts":1703775135000,"data":5}}"#, says("ack")),
            (
                r#"{"type":"publish","payload":{"type":"a.b","timestamp":"yesterday"}}"#,
                coded("invalid_event"),
            ),
            (r#"{"type":"publish","payload":[]}"#, coded("invalid_event")),
            (r#"{"type":"publish","payload":{"payload":{}}}"#, coded("invalid_event")),
            (r#"{"type":"auth","payload":{"token":"any is good where none is needed"}}"#, says("ack")),
            (r#"{"type":"auth","payload":{}}"#, error("invalid_payload", "token is missing")),
            (r#"{"type":"subscribe","payload":5}"#, coded("invalid_payload")),
            (r#"{"type":"subscribe","payload":[]}"#, coded("invalid_payload")),
            (r#"{"type":"subscribe","payload":{"sources":{"a":1}}}"#, coded("invalid_payload")),
            (r#"{"type":"subscribe","payload":{"since":"x"}}"#, coded("invalid_since")),
            (r#"{"type":"subscribe","payload":{"on_lag":"cry"}}"#, coded("invalid_on_lag")),
            (r#"{"type":"subscribe","payload":{"history":-1}}"#, coded("invalid_payload")),
            (r#"{"type":"fly"}"#, error("unknown_type", "Unknown message type: fly")),
            ("hello", invalid()),
            ("", invalid()),
            ("{}", invalid()),
            ("[]", invalid()),
            (r#"{"type":7}"#, invalid()),
            (r#"{"type":"ping"} {"type":"ping"}"#, invalid()),
            (r#"{"type":"ping","message_id":5}"#, invalid()),
        ],
    );
}

#[test]
fn agentos_messages_good_and_bad() {
    check(
        "/ws/events",
        &json!({"type": "ping"}),
        vec![
            (r#"{"type":"ping","id":7}"#, Says(json!({"type": "pong"}))),
            (
                r#"{"type":"auth","token":"any is good where none is needed"}"#,
                Says(json!({"type": "authenticated"})),
            ),
            (r#"{"type":"auth"}"#, Says(json!({"type": "error", "error": "token is missing"}))),
            // AgentOS's protocol has no other client messages. They are ignored.
            (r#"{"type":"subscribe","filter":"x"}"#, Nothing),
            (r#"{"type":"task.started","payload":{}}"#, Nothing),
            (r#"{"type":null}"#, Nothing),
            (r#"{"ping":true}"#, Nothing),
            ("hello", Nothing),
            ("", Nothing),
            ("[1,", Nothing),
            ("null", Nothing),
        ],
    );
}

#[test]
fn hive_messages_good_and_bad() {
    let error = |code: &str, text: &str| Says(json!({"type": "error", "code": code, "error": text}));
    let coded = |code: &str| Says(json!({"type": "error", "code": code}));
    let subscribed = || Says(json!({"type": "subscribed"}));
    check(
        "/hive",
        &json!({"action": "ping"}),
        vec![
            (r#"{"action":"subscribe"}"#, subscribed()),
            (r#"{"action":"subscribe","stream_id":"webhook"}"#, subscribed()),
            (
                r#"{"action":"subscribe","stream_id":null,"event_types":["EXECUTION_STARTED","goal_progress"]}"#,
                subscribed(),
            ),
            (
                r#"{"action":"subscribe","subscription_id":"mine","execution_id":"ex-1","more":[]}"#,
                Says(json!({"type": "subscribed", "subscription_id": "mine"})),
            ),
            (
                r#"{"action":"unsubscribe","subscription_id":"mine"}"#,
                Says(json!({"type": "unsubscribed", "subscription_id": "mine"})),
            ),
            (r#"{"action":"unsubscribe"}"#, Says(json!({"type": "unsubscribed"}))),
            (r#"{"action":"pong"}"#, Nothing),
            (
                r#"{"action":"auth","token":"any is good where none is needed"}"#,
                Says(json!({"type": "authenticated"})),
            ),
            (r#"{"action":"auth"}"#, error("auth_failed", "token is missing")),
            (r#"{"action":"fly"}"#, error("unknown_action", "Unknown action: fly")),
            (r#"{"action":"subscribe","stream_id":5}"#, coded("invalid_message")),
            (r#"{"action":"subscribe","event_types":{}}"#, coded("invalid_message")),
            (r#"{"type":"subscribe"}"#, coded("invalid_message")),
            (r#"{"action":["subscribe"]}"#, coded("invalid_message")),
            ("subscribe", error("invalid_message", "Invalid message format")),
            ("", coded("invalid_message")),
            ("[]", coded("invalid_message")),
            ("5", coded("invalid_message")),
        ],
    );
}

#[test]
fn autosdlc_messages_good_and_bad() {
    let invalid = || Says(json!({"type": "error", "data": {"error": "Invalid message format"}}));
    let coded = |code: &str| Says(json!({"type": "error", "data": {"code": code}}));
    let active = || Says(json!({"type": "subscription_update", "data": {"status": "active"}}));
    check(
        "/autosdlc",
        &json!({"type": "ping"}),
        vec![
            // Without a subscription the event is not delivered.
            (r#"{"type":"github_pr_update","data":{"number":5}}"#, Nothing),
            (
                r#"{"id":"m1","type":"subscribe","timestamp":1,"data":{"subscriptionId":"s1","resource":"agent","resourceId":"coder-001","events":["status"]},"metadata":{"version":"1.0"}}"#,
                Says(
                    json!({"type": "subscription_update", "data": {"subscriptionId": "s1", "status": "active"},
                    "metadata": {"version": "1.0", "correlationId": "m1"}}),
                ),
            ),
            (r#"{"type":"subscribe","data":{"resource":"workflow"}}"#, active()),
            (r#"{"type":"subscribe","data":{"pattern":"agent:*:status"}}"#, active()),
            (r#"{"type":"subscribe","data":{"resource":"agent:*:log"}}"#, active()),
            (r#"{"type":"subscribe"}"#, active()),
            (
                r#"{"type":"unsubscribe","data":{"subscriptionId":"s1"}}"#,
                Says(
                    json!({"type": "subscription_update", "data": {"subscriptionId": "s1", "status": "removed"}}),
                ),
            ),
            (
                r#"{"type":"unsubscribe","data":{"subscriptionId":"unknown does nothing"}}"#,
                Says(json!({"data": {"status": "removed"}})),
            ),
            (
                r#"{"type":"auth_request","data":{"token":"any is good where none is needed"}}"#,
                Says(json!({"type": "auth_success"})),
            ),
            (r#"{"type":"auth_request","data":{}}"#, coded("auth_failed")),
            (r#"{"type":"disconnect"}"#, Nothing),
            (r#"{"type":"fly","data":{}}"#, Nothing),
            (r#"{"type":"subscribe","data":[]}"#, coded("invalid_data")),
            (r#"{"type":"subscribe","data":{"resourceId":5}}"#, coded("invalid_data")),
            (r#"{"type":"subscribe","data":{"pattern":"*a*b*c*d*e*f*g*"}}"#, coded("invalid_pattern")),
            (r#"{"type":"unsubscribe","data":5}"#, coded("invalid_data")),
            ("hello", invalid()),
            ("", invalid()),
            ("[]", invalid()),
            ("{}", invalid()),
            (r#"{"type":[]}"#, invalid()),
            (r#"{"type":"ping","metadata":"1.0"}"#, invalid()),
        ],
    );
}

#[test]
fn gathering_messages_good_and_bad() {
    let error = |code: &str| Says(json!({"type": "error", "data": {"code": code}}));
    check(
        "/ws/circles/dev-team",
        &json!({"type": "ping"}),
        vec![
            (r#"{"type":"user_message","content":"Hello, agents!"}"#, Nothing),
            (
                r#"{"type":"message","content":"Hello","data":{"own":1},"channel":"another","timestamp":5}"#,
                Nothing,
            ),
            (r#"{"type":"user_message"}"#, Nothing),
            (r#"{"type":"pong"}"#, Nothing),
            (
                r#"{"type":"auth","token":"any is good where none is needed"}"#,
                Says(json!({"type": "authenticated"})),
            ),
            (r#"{"type":"auth"}"#, error("invalid_payload")),
            (r#"{"content":"no type"}"#, error("invalid_message")),
            (r#"{"type":""}"#, error("invalid_message")),
            (r#"{"type":5}"#, error("invalid_message")),
            (r#"{"type":"a\u0000b"}"#, error("invalid_event")),
            ("hello", error("invalid_message")),
            ("", error("invalid_message")),
            ("[]", error("invalid_message")),
            ("5", error("invalid_message")),
        ],
    );
}

/// An answer, or a close code and the beginning of the close reason.
type Answered = Result<Value, (u16, &'static str)>;

#[test]
fn another_message_before_authentication_is_refused_in_the_dialects_words() {
    let secret = "only-this-test-and-its-server-know-it-55d0";
    let server = Server::with(&["--auth-jwt-hs256-secret", secret]);
    // The path, the first message, and the expected outcome.
    let rows: [(&str, &str, Answered); 14] = [
        (
            "/ws",
            r#"{"type":"subscribe"}"#,
            Ok(json!({"type": "error", "payload": {"code": "auth_required"}})),
        ),
        (
            "/ws",
            r#"{"type":"publish","payload":{"type":"x"}}"#,
            Ok(json!({"payload": {"code": "auth_required"}})),
        ),
        ("/ws", "nonsense", Ok(json!({"payload": {"error": "Invalid message format"}}))),
        ("/ws/events", r#"{"type":"hello"}"#, Err((1008, "authentication required"))),
        ("/ws/events", r#"{"type":"auth","token":"x"}"#, Err((1008, "authentication failed: Invalid token"))),
        ("/hive", r#"{"action":"subscribe"}"#, Err((1008, "Auth required"))),
        ("/hive", r#"{"action":"auth","token":"x"}"#, Err((1008, "Auth failed: Invalid token"))),
        ("/hive", "nonsense", Err((1008, "Auth failed: "))),
        (
            "/autosdlc",
            r#"{"type":"subscribe","data":{}}"#,
            Ok(json!({"type": "error", "data": {"code": "auth_required"}})),
        ),
        (
            "/autosdlc",
            r#"{"type":"auth_request","data":{"token":"x"}}"#,
            Ok(json!({"type": "auth_failure", "data": {"error": "Invalid token"}})),
        ),
        ("/autosdlc", "nonsense", Ok(json!({"type": "error", "data": {"error": "Invalid message format"}}))),
        ("/ws/circles/a", r#"{"type":"user_message"}"#, Err((4001, "Auth required"))),
        ("/ws/circles/a", r#"{"type":"auth","token":"x"}"#, Err((4001, "Invalid token"))),
        ("/ws/circles/a", "nonsense", Err((4001, ""))),
    ];
    for (path, first, then) in rows {
        let mut client = Ws::over(Wire::connect(server.addr), path, "");
        if path == "/autosdlc" {
            client.message();
        }
        client.send_text(first);
        match then {
            Ok(wanted) => {
                let answer = client.message();
                assert!(has(&answer, &wanted), "{path} {first}: {answer}, not {wanted}");
            }
            Err((code, reason)) => {
                let last = loop {
                    let frame = client.read_frame(deadline()).expect("a close");
                    if frame.opcode() == CLOSE {
                        break frame.close();
                    }
                };
                assert!(last.0 == code && last.1.starts_with(reason), "{path} {first}: {last:?}");
            }
        }
    }
    server.assert_serving();
}
