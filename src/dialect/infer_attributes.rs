//! Attributes that an event has in its payload only: events of the systems whose publishers know no attributes.
//!
//! Invariants:
//! - Only types of the catalogue are looked at, only attributes that the publisher did not name are filled in, and the
//!   payload stays as it is.
//! - [`complete`] is the only maker of a [`Complete`] event, and rights are asked of complete events alone. An event is
//!   therefore routed by exactly the attributes that its publisher's right was asked for.

use std::ops::Deref;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::catalogue::{autosdlc, gathering, hive};
use crate::event::{Attribute, Event, EventBuilder, EventError};

/// An event from a publisher with its final attributes.
///
/// Every door of the server (HTTP, WebSocket dialects, CloudEvents, ingest) makes its events by [`complete`]. Asking for
/// the right to publish, and publishing for a client, both take this type, so a door can't ask before it fills in.
#[derive(Clone, Debug)]
pub(crate) struct Complete(Event);

impl Complete {
    /// Returns the event, to be published or kept.
    pub(crate) fn into_event(self) -> Event {
        self.0
    }

    /// Returns the event with this trace context, which is no routing attribute.
    pub(crate) fn traced(self, parent: &str, state: Option<&str>) -> Self {
        Self(self.0.traced(parent, state))
    }
}

impl Deref for Complete {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.0
    }
}

/// Builds the event after filling in the attributes that its payload implies and its publisher did not name.
///
/// An attribute that was set to the empty value counts as named: the publisher says that there is none.
pub(crate) fn complete(builder: EventBuilder) -> Result<Complete, EventError> {
    complete_with_key(builder, None)
}

/// Does the work of [`complete`] for an object with AutoSDLC's `key`, which names an entity where the payload does not.
pub(super) fn complete_with_key(
    mut builder: EventBuilder,
    key: Option<&RawValue>,
) -> Result<Complete, EventError> {
    let (event_type, payload) = builder.type_and_payload();
    let mut adopted = of(event_type, payload);
    if let Some(key) = key {
        adopted.entity = adopted.entity.or_else(|| of_key(event_type, key));
    }
    adopted.fill(&mut builder);
    builder.build().map(Complete)
}

/// Attributes that payloads of one type may imply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Implied {
    pub(super) entity: bool,
    pub(super) channel: bool,
    pub(super) stream: bool,
    pub(super) execution: bool,
}

impl Implied {
    /// Returns the attributes that a payload of this type may imply.
    ///
    /// Nodes of older versions read the log by a list of types that is fixed: it must stay a part of this one (see
    /// [`write_stored`](super::envelope::write_stored)).
    pub(super) fn by(event_type: &str) -> Self {
        let is_hive = hive::knows(event_type);
        Self {
            entity: autosdlc::event_type(event_type).is_some(),
            channel: gathering::message_type(event_type).is_some(),
            stream: is_hive,
            execution: is_hive,
        }
    }
}

/// What a payload says of its event.
#[derive(Debug, Default, PartialEq, Eq)]
struct Adopted {
    entity: Option<(&'static str, String)>,
    channel: Option<String>,
    stream: Option<String>,
    execution: Option<String>,
}

impl Adopted {
    /// Sets the attributes that the builder does not name.
    fn fill(self, builder: &mut EventBuilder) {
        for (attribute, value) in [
            (Attribute::Channel, self.channel),
            (Attribute::Stream, self.stream),
            (Attribute::Execution, self.execution),
        ] {
            if let Some(value) = value.filter(|_| !builder.names(attribute)) {
                builder.set(attribute, &value);
            }
        }
        let names_entity = builder.names(Attribute::EntityKind) || builder.names(Attribute::EntityId);
        if let Some((kind, id)) = self.entity.filter(|_| !names_entity) {
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
fn of(event_type: &str, payload: &str) -> Adopted {
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
fn of_key(event_type: &str, key: &RawValue) -> Option<(&'static str, String)> {
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
