//! Checks of messages against the schemas of AutoSDLC's document: every fault, each with its place.
//!
//! Invariant: a message of an event type needs the whole envelope; a request of a client needs only its type and data, as
//! the document's Python client sends it.

use std::collections::HashMap;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::super::{ClientError, Incoming, shortened};
use super::text::text_of;
use crate::catalogue::autosdlc::{SCHEMAS, event_type};

/// Maximum number of faults reported for one message.
const FAULTS_MAX: usize = 20;

/// Maximum length of a fault's text in characters: the text may hold the value.
const FAULT_CHARS_MAX: usize = 300;

/// The schemas of the document's message types.
///
/// ```
/// use fanwire::dialects::MessageValidator;
///
/// let validator = MessageValidator::new();
/// let message = r#"{"id":"evt-123e4567-e89b-12d3-a456-426614174000","type":"agent_status","timestamp":1703775135000,
///     "data":{"agentId":"coder-001","agentType":"coder","status":"busy"}}"#;
/// assert_eq!(validator.validate(message), Ok(()));
/// assert_eq!(validator.validate(r#"{"type":"fly"}"#), Err(vec!["Unknown message type: fly".to_owned()]));
/// ```
#[derive(Debug)]
pub struct MessageValidator {
    data: HashMap<String, Validator>,
    /// Envelope of events.
    envelope: Validator,
    /// Envelope of clients' requests.
    request: Validator,
}

impl Default for MessageValidator {
    fn default() -> Self {
        Self::new()
    }
}

impl MessageValidator {
    /// Compiles the schemas, which takes a few milliseconds.
    ///
    /// # Panics
    ///
    /// Never: the schemas are compiled in, and a test compiles each.
    #[must_use]
    pub fn new() -> Self {
        let compile = |schema: &Value| jsonschema::validator_for(schema).expect("a test compiles each");
        let all: Value = serde_json::from_str(SCHEMAS).expect("a test reads it");
        let schemas = all.as_object().into_iter().flatten().filter(|(name, _)| !name.starts_with('$'));
        let metadata = json!({ "type": "object", "properties": {
            "version": { "type": "string" }, "source": { "type": "string" }, "correlationId": { "type": "string" },
            "compressed": { "type": "boolean" }, "encrypted": { "type": "boolean" },
        } });
        // The ids in the document's examples have a word before the UUID.
        let id = r"^([a-z]+-)?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";
        let envelope = json!({
            "required": ["id", "type", "timestamp", "data"],
            "properties": {
                "id": { "type": "string", "pattern": id }, "timestamp": { "type": "number" }, "metadata": metadata,
            },
        });
        let request = json!({
            "properties": {
                "id": { "type": "string" }, "timestamp": { "type": "number" }, "metadata": metadata,
            },
        });
        Self {
            data: schemas.map(|(name, schema)| (name.clone(), compile(schema))).collect(),
            envelope: compile(&envelope),
            request: compile(&request),
        }
    }

    /// Checks a message as JSON.
    ///
    /// # Errors
    ///
    /// Returns every fault, each with its place; at most 20.
    pub fn validate(&self, message: &str) -> Result<(), Vec<String>> {
        match serde_json::from_str(message) {
            Ok(message) => self.validate_value(&message),
            Err(error) => Err(vec![format!("not JSON: {error}")]),
        }
    }

    pub(crate) fn validate_value(&self, message: &Value) -> Result<(), Vec<String>> {
        let Some(kind) = message.get("type").and_then(Value::as_str) else {
            return Err(vec!["/type: a text is required".to_owned()]);
        };
        let Some(data) = self.data.get(kind) else {
            return Err(vec![format!("Unknown message type: {}", shortened(kind))]);
        };
        let envelope = if event_type(kind).is_some() { &self.envelope } else { &self.request };
        let nothing = json!({});
        let held = message.get("data").filter(|data| !data.is_null()).unwrap_or(&nothing);
        let mut all = faults(envelope, message, "");
        all.extend(faults(data, held, "/data"));
        all.truncate(FAULTS_MAX);
        if all.is_empty() { Ok(()) } else { Err(all) }
    }

    /// Checks a client's message. Bytes that are no message pass: reading them reports a better error.
    pub(super) fn check_message(&self, message: Incoming<'_>, bytes_max: usize) -> Result<(), ClientError> {
        let Ok(text) = text_of(message, bytes_max) else { return Ok(()) };
        let Ok(Value::Object(fields)) = serde_json::from_str(&text) else { return Ok(()) };
        let is_auth = fields.get("type").is_some_and(|kind| kind == "auth_request");
        self.validate_value(&Value::Object(fields)).map_err(|mut faults| {
            if is_auth {
                // The text of a fault repeats the value, which may be a token in the wrong place.
                faults.retain(|fault| fault.ends_with("is a required property"));
                faults.push("/data: expected {\"token\": TEXT}".to_owned());
            }
            ClientError::faulty(faults)
        })
    }

    /// Checks an event's payload against the schema of its type; types that the document lacks pass. The error has every
    /// fault.
    pub(crate) fn validate_data(&self, kind: &str, payload: &Value) -> Result<(), Vec<String>> {
        let known = event_type(kind).and_then(|known| self.data.get(known.name));
        let all = known.map_or_else(Vec::new, |data| faults(data, payload, ""));
        if all.is_empty() { Ok(()) } else { Err(all) }
    }
}

fn faults(validator: &Validator, value: &Value, place: &str) -> Vec<String> {
    let reported = |error: jsonschema::ValidationError<'_>| {
        let text = format!("{place}{}: {error}", error.instance_path());
        text.chars().take(FAULT_CHARS_MAX).collect()
    };
    validator.iter_errors(value).take(FAULTS_MAX).map(reported).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::autosdlc::{MESSAGE_TYPES, TYPES};

    #[test]
    fn every_message_type_of_the_document_has_a_schema_and_no_other() {
        let validator = MessageValidator::new();
        let mut wanted: Vec<&str> = MESSAGE_TYPES.into_iter().chain(TYPES.map(|known| known.name)).collect();
        let mut found: Vec<&str> = validator.data.keys().map(String::as_str).collect();
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted);
        assert_eq!(wanted.len(), 29);
    }

    #[test]
    fn bad_messages_are_refused_with_every_fault() {
        let validator = MessageValidator::new();
        let id = "123e4567-e89b-12d3-a456-426614174000";
        let event = |kind: &str, data: Value| json!({ "id": id, "type": kind, "timestamp": 1, "data": data });
        for good in [
            event(
                "agent_status",
                json!({ "agentId": "a", "agentType": "coder", "previousStatus": "idle",
                "currentStatus": "busy" }),
            ),
            event(
                "agent_log",
                json!({ "agentId": "a", "level": "info", "message": "m", "timestamp": "2025-01-01" }),
            ),
            event(
                "system_alert",
                json!({ "alertId": "x", "severity": "high", "title": "t", "description": "d",
                "affectedComponents": ["db"], "recommendedActions": [] }),
            ),
            json!({ "type": "subscribe", "data": { "resource": "agent", "events": ["status"] } }),
            json!({ "type": "ping" }),
            json!({ "id": "any", "type": "auth_request", "data": { "token": "t" }, "metadata": { "version": "1.0" } }),
        ] {
            assert_eq!(validator.validate(&good.to_string()), Ok(()), "{good}");
        }
        for (bad, faults) in [
            (json!({ "type": "fly" }), vec!["Unknown message type: fly"]),
            (json!([]), vec!["/type: a text is required"]),
            (json!({ "type": "auth_request" }), vec!["/data: \"token\" is a required property"]),
            (
                json!({ "type": "subscribe", "data": { "events": [5], "resource": 7 } }),
                vec!["/data/events/0: ", "/data/resource: "],
            ),
            (
                json!({ "type": "agent_status", "timestamp": "now", "data": { "agentType": 5, "status": "x" } }),
                vec![
                    ": \"id\" is a required",
                    "/timestamp: ",
                    "/data: \"agentId\" is a required",
                    "/data/agentType: ",
                ],
            ),
            (
                event("system_notification", json!({ "level": "loud", "title": "t", "message": "m" })),
                vec!["/data/level: "],
            ),
            (json!({ "id": "5", "type": "github_pr_update", "timestamp": 1, "data": {} }), vec!["/id: "]),
        ] {
            let mut reported = validator.validate(&bad.to_string()).expect_err("it is bad");
            assert_eq!(reported.len(), faults.len(), "{reported:?}");
            for fault in faults {
                let at = reported.iter().position(|text| text.starts_with(fault));
                reported.remove(at.unwrap_or_else(|| panic!("{fault} is not among {reported:?}")));
            }
        }
        let error = validator.validate("{").expect_err("half a message");
        assert!(error[0].starts_with("not JSON: "), "{error:?}");
        let long = event(
            "agent_log",
            json!({ "agentId": 5, "level": "x".repeat(10_000), "message": vec![1; 5000] }),
        );
        let reported = validator.validate(&long.to_string()).expect_err("kinds");
        assert!(reported.iter().all(|text| text.len() < 400), "values are cut");
    }
}
