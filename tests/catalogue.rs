//! Every event type in the documents of AutoSDLC and GatheRing, with the data of their examples, as a subscriber gets
//! it.

#![cfg(feature = "cli")]

mod support;

use fanwire::dialects::{autosdlc, gathering};
use serde_json::{Value, json};
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, eventually, http};

fn open(server: &Server, path: &str) -> Ws {
    Ws::over(Wire::connect(server.addr), path, "")
}

/// An event of AutoSDLC: its type, the resource and id that a subscription names, the required data (without
/// its `timestamp`, which the message carries), and the optional data.
fn autosdlc_events() -> Vec<(&'static str, &'static str, &'static str, Value, Value)> {
    let tests = json!({"total": 45, "passing": 45, "failing": 0, "skipped": 0});
    let coverage = json!({"lines": 98.5, "branches": 95.2, "functions": 100, "statements": 97.8});
    let at = "2023-12-28T16:05:35.000Z";
    vec![
        (
            "agent_status",
            "agent",
            "coder-001",
            json!({"agentId": "coder-001", "agentType": "coder"}),
            json!({"status": "busy",
                "currentTask": {"id": "task-789", "type": "implement_feature", "progress": 65, "startTime": 1_703_774_300_000_u64},
                "metrics": {"cpuUsage": 45.2, "memoryUsage": 1_024_000_000, "tasksCompleted": 12, "uptime": 86400}}),
        ),
        (
            "agent_status",
            "agent",
            "coder-001",
            json!({"agentId": "coder-001", "agentType": "coder"}),
            json!({"previousStatus": "idle", "currentStatus": "busy", "reason": "a task", "timestamp": at}),
        ),
        (
            "agent_task_update",
            "agent",
            "coder-001",
            json!({"agentId": "coder-001", "taskId": "t", "taskType": "code", "status": "running", "progress": 65}),
            json!({"details": {"any": [1]}}),
        ),
        (
            "agent_log",
            "agent",
            "coder-001",
            json!({"agentId": "coder-001", "level": "info", "message": "m"}),
            json!({"context": {"line": 7}, "timestamp": at}),
        ),
        (
            "agent_metric",
            "agent",
            "coder-001",
            json!({"agentId": "coder-001",
                "metrics": {"cpuUsage": 45.2, "memoryUsage": 1, "taskQueueDepth": 3, "responseTime": 0.5}}),
            json!({"timestamp": at}),
        ),
        ("agent_error", "agent", "coder-001", json!({"agentId": "coder-001"}), json!({"error": "no disk"})),
        (
            "tdd_phase_change",
            "agent",
            "coder-001",
            json!({"agentId": "coder-001", "taskId": "task-789", "previousPhase": "red", "currentPhase": "green",
                "testResults": tests, "coverage": coverage}),
            json!({"duration": 1847, "timestamp": at}),
        ),
        (
            "test_result",
            "agent",
            "coder-001",
            json!({"agentId": "coder-001", "taskId": "t", "testFile": "a.test.ts",
                "results": {"total": 2, "passing": 1, "failing": 1, "skipped": 0, "duration": 12}}),
            json!({"failures": [{"name": "adds"}]}),
        ),
        (
            "coverage_update",
            "agent",
            "coder-001",
            json!({"agentId": "coder-001", "taskId": "t", "coverage": coverage}),
            json!({"uncoveredLines": [3, 4]}),
        ),
        (
            "workflow_started",
            "workflow",
            "w-1",
            json!({"workflowId": "w-1", "workflowType": "feature", "initiator": "ann", "parameters": {"a": 1},
                "steps": [{"id": "s"}], "estimatedDuration": 60}),
            json!({}),
        ),
        (
            "workflow_step_complete",
            "workflow",
            "w-1",
            json!({"workflowId": "w-1", "stepId": "s", "stepType": "build", "result": "ok", "duration": 5}),
            json!({"nextStep": "test"}),
        ),
        (
            "workflow_complete",
            "workflow",
            "w-1",
            json!({"workflowId": "w-1", "result": {"ok": true}, "duration": 50, "outputs": [], "metrics": {}}),
            json!({}),
        ),
        ("workflow_failed", "workflow", "w-1", json!({"workflowId": "w-1"}), json!({"error": "no"})),
        (
            "system_notification",
            "system",
            "*",
            json!({"level": "warning", "title": "t", "message": "m"}),
            json!({"actions": [{"label": "go"}], "persistent": true}),
        ),
        (
            "system_alert",
            "system",
            "al-1",
            json!({"alertId": "al-1", "severity": "critical", "title": "t", "description": "d",
                "affectedComponents": ["db"], "recommendedActions": ["restart"]}),
            json!({}),
        ),
        (
            "deployment_status",
            "deployment",
            "d-1",
            json!({"deploymentId": "d-1", "environment": "prod", "status": "running", "progress": 30,
                "components": [{"name": "api"}]}),
            json!({"estimatedCompletion": at}),
        ),
        ("github_issue_update", "github", "*", json!({}), json!({"number": 1})),
        ("github_pr_update", "github", "*", json!({}), json!({"number": 2})),
        ("github_workflow_update", "github", "*", json!({}), json!({"number": 3})),
    ]
}

fn merged(one: &Value, two: &Value) -> Value {
    let mut all = one.clone();
    all.as_object_mut().expect("an object").extend(two.as_object().expect("an object").clone());
    all
}

#[test]
fn each_type_of_autosdlc_reaches_subscribers_of_its_resource_with_its_data() {
    let server = Server::with(&["--schemas-autosdlc"]);
    let events = autosdlc_events();
    for known in autosdlc::TYPES {
        assert!(events.iter().any(|event| event.0 == known.name), "{} is not here", known.name);
    }
    for (kind, resource, id, required, optional) in &events {
        let event = autosdlc::event_type(kind).expect("known").event;
        let mut client = open(&server, "/autosdlc");
        client.message();
        let wanted =
            json!({"subscriptionId": "s", "resource": resource, "resourceId": id, "events": [event]});
        assert_eq!(client.ask(&json!({"type": "subscribe", "data": wanted}))["type"], "subscription_update");
        // Another event of the same resource is published first. The client has not subscribed to it.
        let another = events.iter().find(|other| other.1 == *resource && other.0 != *kind);
        let data = merged(required, optional);
        let text = [another.map(|other| json!({"type": other.0, "data": merged(&other.3, &other.4)}))]
            .into_iter()
            .flatten()
            .chain([
                json!({"type": kind, "source": "agent-monitor", "ts": 1_703_775_200_000_u64, "data": data}),
            ])
            .map(|event| event.to_string() + "\n")
            .collect::<String>();
        server.publish(text);
        let mut message = client.message();
        assert!(message["id"].as_str().is_some_and(|id| id.len() == 36), "{message}");
        message["id"] = Value::Null;
        let whole = json!({"id": null, "type": kind, "timestamp": 1_703_775_200_000_u64, "data": data,
            "metadata": {"version": "1.0", "source": "agent-monitor"}});
        assert_eq!(message, whole);
    }
}

#[test]
fn each_type_of_autosdlc_needs_the_data_that_its_document_does_not_call_optional() {
    let server = Server::with(&["--schemas-autosdlc"]);
    let post = |kind: &str, data: &Value| {
        let event = json!({"type": kind, "data": data}).to_string();
        http::post(server.addr, "/publish", "application/json", event.as_bytes())
    };
    for (kind, _, _, required, optional) in autosdlc_events() {
        let whole = merged(&required, &optional);
        for name in required.as_object().expect("an object").keys() {
            let mut less = whole.clone();
            less.as_object_mut().expect("an object").remove(name);
            let refused = post(kind, &less);
            assert_eq!(refused.status, 400, "{kind} without {name}");
            let error = format!("payload: \"{name}\" is a required property");
            assert_eq!(refused.json()["error"], error, "{kind} without {name}");
        }
        // This event must have either `status` or `currentStatus`.
        let want = if kind == "agent_status" { 400 } else { 200 };
        assert_eq!(post(kind, &required).status, want, "{kind}: optional data may be absent");
    }
    for (kind, data, place) in [
        ("system_notification", json!({"level": "loud", "title": "t", "message": "m"}), "payload/level: "),
        (
            "test_result",
            json!({"agentId": "a", "taskId": "t", "testFile": "f", "results": {"total": 1, "passing": "all",
                "failing": 0, "skipped": 0, "duration": 1}}),
            "payload/results/passing: ",
        ),
    ] {
        let refused = post(kind, &data);
        assert!(refused.json()["error"].as_str().is_some_and(|e| e.starts_with(place)), "{refused:?}");
    }
}

#[test]
fn each_type_of_gathering_reaches_its_channel_under_both_its_names() {
    let server = Server::start();
    let buses = ["agent.message", "agent.joined", "agent.left", "circle.status"];
    let works = ["workspace.file_changed", "workspace.file_created", "workspace.file_deleted", "git.status"];
    let mut circle = open(&server, "/ws/circles/dev-team");
    let mut workspace = open(&server, "/ws/workspaces/7");
    let mut agent = open(&server, "/ws/agents/3");
    let all = gathering::CIRCLE.into_iter().zip(buses).map(|pair| (pair, true));
    for ((name, bus), is_circle) in
        all.chain(gathering::WORKSPACE.into_iter().zip(works).map(|pair| (pair, false)))
    {
        // In the form of its event bus: the channel is only in the data, which is delivered unchanged.
        let data = if is_circle {
            json!({"circle_name": "dev-team", "agent_id": 3, "content": "hi"})
        } else {
            json!({"workspace_id": 7, "path": "src/a.py"})
        };
        let (client, channel) =
            if is_circle { (&mut circle, "dev-team") } else { (&mut workspace, "workspace-7") };
        for kind in [bus, name] {
            let event = json!({"type": kind, "timestamp": "2026-01-27T10:21:33.123Z", "payload": data});
            server.publish(event.to_string());
            let want = json!({"type": name, "data": data, "timestamp": "2026-01-27T10:21:33.123000Z",
                "channel": channel});
            assert_eq!(client.message(), want);
        }
        // Data can be any JSON, and each agent has a channel of its own.
        let event = json!({"type": name, "channel": "agent-3", "payload": [1, null]});
        server.publish(event.to_string());
        let message = agent.message();
        assert_eq!(
            (&message["type"], &message["data"], &message["channel"]),
            (&json!(name), &json!([1, null]), &json!("agent-3"))
        );
    }
    circle.send_text("nonsense");
    let error = circle.message();
    assert_eq!((&error["type"], error.get("channel")), (&json!("error"), Some(&Value::Null)));
    assert!(error["data"].is_object() && error["timestamp"].is_string(), "{error}");

    // A channel without members keeps no state.
    drop((circle, workspace, agent));
    eventually("all have left", || server.metric("fanwire_feed_feeds") == Some(0.0));
    let encodings = server.metric("fanwire_feed_encodings_total");
    server.publish(r#"{"type":"agent_message","channel":"dev-team","payload":{"agent_id":1,"content":"?"}}"#);
    assert_eq!(server.metric("fanwire_feed_encodings_total"), encodings);
}
