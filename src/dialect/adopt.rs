//! Attributes that an event has in its payload only: events of the systems whose publishers know no attributes.
//!
//! Imports `catalogue` and `event`. Always: only types of the catalogue are looked at, only what the event does not
//! say itself is taken, and the payload stays as it is.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::catalogue::{autosdlc, gathering, hive};
use crate::event::{Attribute, EventBuilder};

/// What a payload says of its event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Adopted {
    pub(super) entity: Option<(&'static str, String)>,
    pub(super) channel: Option<String>,
    pub(super) stream: Option<String>,
    pub(super) execution: Option<String>,
}

impl Adopted {
    /// Sets what the event lacks; of an entity its kind is asked for.
    pub(super) fn fill(self, builder: &mut EventBuilder, lacks: impl Fn(Attribute) -> bool) {
        for (attribute, value) in [
            (Attribute::Channel, self.channel),
            (Attribute::Stream, self.stream),
            (Attribute::Execution, self.execution),
        ] {
            if let Some(value) = value.filter(|_| lacks(attribute)) {
                builder.set(attribute, &value);
            }
        }
        if let Some((kind, id)) = self.entity.filter(|_| lacks(Attribute::EntityKind)) {
            builder.set(Attribute::EntityKind, kind);
            builder.set(Attribute::EntityId, &id);
        }
    }
}

/// The fields of payloads that name what the event is about.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Fields<'a> {
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

/// A text, or a number as its text.
fn word(value: Option<&RawValue>) -> Option<String> {
    let text = value?.get();
    match text.as_bytes().first()? {
        b'"' => serde_json::from_str(text).ok().filter(|word: &String| !word.is_empty()),
        b'0'..=b'9' | b'-' => Some(text.to_owned()),
        _ => None,
    }
}

/// What the payload of an event of this type says.
pub(super) fn of(event_type: &str, payload: &str) -> Adopted {
    let sdlc = autosdlc::event_type(event_type);
    let message = gathering::message_type(event_type);
    let is_hive = hive::knows(event_type);
    if (sdlc.is_none() && message.is_none() && !is_hive) || !payload.trim_ascii_start().starts_with('{') {
        return Adopted::default();
    }
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(payload) else { return Adopted::default() };
    let mut adopted = Adopted::default();
    if let Some(known) = sdlc {
        let id = match known.resource {
            "agent" => fields.agent,
            "workflow" => fields.workflow,
            "deployment" => fields.deployment,
            "system" => fields.alert,
            _ => None,
        };
        adopted.entity = word(id).map(|id| (known.resource, id));
    }
    if let Some(message) = message {
        adopted.channel = if gathering::CIRCLE.contains(&message) {
            word(fields.circle_name)
        } else {
            word(fields.workspace_id).map(|id| format!("workspace-{id}"))
        };
    }
    if is_hive {
        adopted.stream = word(fields.stream_id);
        adopted.execution = word(fields.execution_id);
    }
    adopted
}

/// What the key `resource:id:event` of an event of AutoSDLC's says that it is about.
pub(super) fn of_key(event_type: &str, key: &RawValue) -> Option<(&'static str, String)> {
    let known = autosdlc::event_type(event_type)?;
    let key = word(Some(key))?;
    // The event has no colon, the id may have some.
    let (id, _) = key.strip_prefix(known.resource)?.strip_prefix(':')?.rsplit_once(':')?;
    (!id.is_empty()).then(|| (known.resource, id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_types_say_in_their_payload_what_they_are_about() {
        let entity = of("agent_status", r#"{"agentId":"coder-001"}"#).entity;
        assert_eq!(entity, Some(("agent", "coder-001".to_owned())));
        let channel = of("agent.message", r#"{"circle_name":"dev-team","content":"x"}"#).channel;
        assert_eq!(channel.as_deref(), Some("dev-team"));
        let channel = of("workspace.file_changed", r#"{"workspace_id":7}"#).channel;
        assert_eq!(channel.as_deref(), Some("workspace-7"));
        let keyed = |key: &str| {
            let text = serde_json::value::to_raw_value(key).expect("a text");
            of_key("agent.status", &text)
        };
        assert_eq!(keyed("agent:coder-001:status"), Some(("agent", "coder-001".to_owned())));
        assert_eq!(keyed("agent:a:b:status"), Some(("agent", "a:b".to_owned())));
        for no in ["", "agent", "agent:status", "agent::status", "workflow:w:status"] {
            assert_eq!(keyed(no), None, "{no}");
        }
        assert_eq!(of_key("agent.status", RawValue::NULL), None);
        let run = of("EXECUTION_STARTED", r#"{"stream_id":"s","execution_id":"e"}"#);
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
            assert_eq!(of(name, payload), Adopted::default(), "{name} {payload}");
        }
    }
}
