//! Attributes that payloads of the catalogues' types imply.

use super::inferred::{Implied, Inferred};
use crate::catalogue::{autosdlc, gathering, hive};
use crate::dialect::keys::plain_key;
use crate::event::json;

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
#[derive(Default)]
struct SubjectFields<'a> {
    agent: Option<&'a str>,
    workflow: Option<&'a str>,
    deployment: Option<&'a str>,
    alert: Option<&'a str>,
    circle_name: Option<&'a str>,
    workspace_id: Option<&'a str>,
    stream_id: Option<&'a str>,
    execution_id: Option<&'a str>,
}

impl<'a> SubjectFields<'a> {
    /// Reads the fields of an object. Returns `None` if it has one of them twice.
    fn read(payload: &'a str) -> Option<Self> {
        let mut fields = Self::default();
        let mut seen = [false; 8];
        for member in json::members(payload) {
            let (key, value) = member.ok()?;
            let (nth, field) = match &*plain_key(key)? {
                "agentId" => (0, &mut fields.agent),
                "workflowId" => (1, &mut fields.workflow),
                "deploymentId" => (2, &mut fields.deployment),
                "alertId" => (3, &mut fields.alert),
                "circle_name" => (4, &mut fields.circle_name),
                "workspace_id" => (5, &mut fields.workspace_id),
                "stream_id" => (6, &mut fields.stream_id),
                "execution_id" => (7, &mut fields.execution_id),
                _ => continue,
            };
            if std::mem::replace(&mut seen[nth], true) {
                return None;
            }
            *field = Some(value);
        }
        Some(fields)
    }
}

/// Returns a text, or a number as its text.
fn word(value: Option<&str>) -> Option<String> {
    let text = value?;
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
    let Some(fields) = SubjectFields::read(payload) else { return Inferred::default() };
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
pub(super) fn infer_from_key(event_type: &str, key: &str) -> Option<(&'static str, String)> {
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
    fn known_types_have_their_subject_in_their_payload() {
        let entity = infer("agent_status", r#"{"agentId":"coder-001"}"#).entity;
        assert_eq!(entity, Some(("agent", "coder-001".to_owned())));
        let channel = infer("agent.message", r#"{"circle_name":"dev-team","content":"x"}"#).channel;
        assert_eq!(channel.as_deref(), Some("dev-team"));
        let channel = infer("workspace.file_changed", r#"{"workspace_id":7}"#).channel;
        assert_eq!(channel.as_deref(), Some("workspace-7"));
        let keyed = |key: &str| infer_from_key("agent.status", &serde_json::to_string(key).expect("a text"));
        assert_eq!(keyed("agent:coder-001:status"), Some(("agent", "coder-001".to_owned())));
        assert_eq!(keyed("agent:a:b:status"), Some(("agent", "a:b".to_owned())));
        for no in ["", "agent", "agent:status", "agent::status", "workflow:w:status"] {
            assert_eq!(keyed(no), None, "{no}");
        }
        assert_eq!(infer_from_key("agent.status", "null"), None);
        let run = infer("EXECUTION_STARTED", r#"{"stream_id":"s","execution_id":"e"}"#);
        assert_eq!((run.stream.as_deref(), run.execution.as_deref()), (Some("s"), Some("e")));
    }

    #[test]
    fn other_events_imply_nothing() {
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
