//! Attributes that payloads of the catalogues' types imply.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::inferred::{Implied, Inferred};
use crate::catalogue::{autosdlc, gathering, hive};

/// Returns the attributes that a payload of this type may imply.
pub(super) fn implied(event_type: &str) -> Implied {
    let is_hive = hive::knows(event_type);
    Implied {
        entity: autosdlc::event_type(event_type).is_some(),
        channel: gathering::message_type(event_type).is_some(),
        stream: is_hive,
        execution: is_hive,
    }
}

/// Payload fields that name the subject of an event.
#[derive(Deserialize, Default)]
#[serde(default)]
struct SubjectFields<'a> {
    #[serde(borrow, rename = "agentId")]
    agent: Option<&'a RawValue>,
    #[serde(borrow, rename = "workflowId")]
    workflow: Option<&'a RawValue>,
    #[serde(borrow, rename = "deploymentId")]
    deployment: Option<&'a RawValue>,
    #[serde(borrow, rename = "alertId")]
    alert: Option<&'a RawValue>,
    #[serde(borrow)]
    circle_name: Option<&'a RawValue>,
    #[serde(borrow)]
    workspace_id: Option<&'a RawValue>,
    #[serde(borrow)]
    stream_id: Option<&'a RawValue>,
    #[serde(borrow)]
    execution_id: Option<&'a RawValue>,
}

/// Returns a text, or a number as its text.
fn word(value: Option<&RawValue>) -> Option<String> {
    let text = value?.get();
    match text.as_bytes().first()? {
        b'"' => serde_json::from_str(text).ok().filter(|word: &String| !word.is_empty()),
        b'0'..=b'9' | b'-' => Some(text.to_owned()),
        _ => None,
    }
}

/// Returns the attributes that the payload of an event of this type implies.
pub(super) fn infer(event_type: &str, payload: &str) -> Inferred {
    let sdlc = autosdlc::event_type(event_type);
    let message = gathering::message_type(event_type);
    let is_hive = hive::knows(event_type);
    if (sdlc.is_none() && message.is_none() && !is_hive) || !payload.trim_ascii_start().starts_with('{') {
        return Inferred::default();
    }
    let Ok(fields) = serde_json::from_str::<SubjectFields<'_>>(payload) else { return Inferred::default() };
    let mut inferred = Inferred::default();
    if let Some(known) = sdlc {
        let id = match known.resource {
            "agent" => fields.agent,
            "workflow" => fields.workflow,
            "deployment" => fields.deployment,
            "system" => fields.alert,
            _ => None,
        };
        inferred.entity = word(id).map(|id| (known.resource, id));
    }
    if let Some(message) = message {
        inferred.channel = if gathering::CIRCLE.contains(&message) {
            word(fields.circle_name)
        } else {
            word(fields.workspace_id).map(|id| format!("workspace-{id}"))
        };
    }
    if is_hive {
        inferred.stream = word(fields.stream_id);
        inferred.execution = word(fields.execution_id);
    }
    inferred
}

/// Returns the entity in the key `resource:id:event` of an AutoSDLC event.
pub(super) fn infer_from_key(event_type: &str, key: &RawValue) -> Option<(&'static str, String)> {
    let known = autosdlc::event_type(event_type)?;
    let key = word(Some(key))?;
    // The event has no colon; the id may have some.
    let (id, _) = key.strip_prefix(known.resource)?.strip_prefix(':')?.rsplit_once(':')?;
    (!id.is_empty()).then(|| (known.resource, id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_types_say_in_their_payload_what_they_are_about() {
        let entity = infer("agent_status", r#"{"agentId":"coder-001"}"#).entity;
        assert_eq!(entity, Some(("agent", "coder-001".to_owned())));
        let channel = infer("agent.message", r#"{"circle_name":"dev-team","content":"x"}"#).channel;
        assert_eq!(channel.as_deref(), Some("dev-team"));
        let channel = infer("workspace.file_changed", r#"{"workspace_id":7}"#).channel;
        assert_eq!(channel.as_deref(), Some("workspace-7"));
        let keyed = |key: &str| {
            let text = serde_json::value::to_raw_value(key).expect("a text");
            infer_from_key("agent.status", &text)
        };
        assert_eq!(keyed("agent:coder-001:status"), Some(("agent", "coder-001".to_owned())));
        assert_eq!(keyed("agent:a:b:status"), Some(("agent", "a:b".to_owned())));
        for no in ["", "agent", "agent:status", "agent::status", "workflow:w:status"] {
            assert_eq!(keyed(no), None, "{no}");
        }
        assert_eq!(infer_from_key("agent.status", RawValue::NULL), None);
        let run = infer("EXECUTION_STARTED", r#"{"stream_id":"s","execution_id":"e"}"#);
        assert_eq!((run.stream.as_deref(), run.execution.as_deref()), (Some("s"), Some("e")));
    }

    #[test]
    fn others_say_nothing() {
        for (name, payload) in [
            ("task.progress", r#"{"agentId":"a","circle_name":"c","stream_id":"s"}"#),
            ("agent_status", r#"{"agentId":{}}"#),
            ("agent_status", "[]"),
            ("agent_status", r#"{"agentId":"#),
            ("agent.message", r#"{"circle_name":""}"#),
        ] {
            assert_eq!(infer(name, payload), Inferred::default(), "{name} {payload}");
        }
    }
}
