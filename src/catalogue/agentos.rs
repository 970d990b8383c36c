//! AgentOS's frozen event types, and makers of its events.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::event::{Event, EventBuilder, EventError, json};

/// The start of a task.
pub const TASK_STARTED: &str = "task.started";
/// The progress of a task: `progress`, `message`.
pub const TASK_PROGRESS: &str = "task.progress";
/// The success of a task.
pub const TASK_COMPLETED: &str = "task.completed";
/// The failure of a task: `error`.
pub const TASK_FAILED: &str = "task.failed";
/// A change of a provider's state: `state`, `endpoint`, `latency_ms`, `last_error`.
pub const PROVIDER_STATUS_CHANGED: &str = "provider.status_changed";
/// The start of a self-check.
pub const SELFCHECK_STARTED: &str = "selfcheck.started";
/// The progress of a self-check.
pub const SELFCHECK_PROGRESS: &str = "selfcheck.progress";
/// The success of a self-check.
pub const SELFCHECK_COMPLETED: &str = "selfcheck.completed";
/// The failure of a self-check.
pub const SELFCHECK_FAILED: &str = "selfcheck.failed";

/// Every type of protocol v1.
pub const TYPES: [&str; 9] = [
    TASK_STARTED,
    TASK_PROGRESS,
    TASK_COMPLETED,
    TASK_FAILED,
    PROVIDER_STATUS_CHANGED,
    SELFCHECK_STARTED,
    SELFCHECK_PROGRESS,
    SELFCHECK_COMPLETED,
    SELFCHECK_FAILED,
];

fn core(event_type: &str, kind: &str, id: &str) -> EventBuilder {
    Event::builder(event_type).source("core").entity(kind, id)
}

fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    json::write_string(value, &mut out);
    out
}

/// Returns a `task.started` event.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn task_started(task_id: &str) -> Result<Event, EventError> {
    core(TASK_STARTED, "task", task_id).build()
}

/// Returns a `task.progress` event, in percent.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn task_progress(task_id: &str, progress: u32, message: &str) -> Result<Event, EventError> {
    let payload = format!(r#"{{"progress":{progress},"message":{}}}"#, text(message));
    core(TASK_PROGRESS, "task", task_id).json(&payload).build()
}

/// Returns a `task.completed` event.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn task_completed(task_id: &str) -> Result<Event, EventError> {
    core(TASK_COMPLETED, "task", task_id).build()
}

/// Returns a `task.failed` event.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn task_failed(task_id: &str, error: &str) -> Result<Event, EventError> {
    core(TASK_FAILED, "task", task_id).json(format!(r#"{{"error":{}}}"#, text(error))).build()
}

/// Details of a provider in addition to its state.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ProviderDetails {
    /// The provider's URL.
    pub endpoint: Option<String>,
    /// The time that the provider took to answer, in milliseconds.
    pub latency_ms: Option<f64>,
    /// The latest error.
    pub last_error: Option<String>,
}

/// Returns a `provider.status_changed` event. Details that are `None` are null.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn provider_status_changed(
    provider_id: &str,
    state: &str,
    details: &ProviderDetails,
) -> Result<Event, EventError> {
    let or_null = |value: &Option<String>| value.as_deref().map_or_else(|| "null".to_owned(), text);
    let mut payload = format!(r#"{{"state":{},"endpoint":{}"#, text(state), or_null(&details.endpoint));
    // Writing to a String does not fail. A number that JSON cannot express is null.
    let _ = match details.latency_ms.filter(|ms| ms.is_finite()) {
        Some(ms) => write!(payload, r#","latency_ms":{ms:?}"#),
        None => write!(payload, r#","latency_ms":null"#),
    };
    let _ = write!(payload, r#","last_error":{}}}"#, or_null(&details.last_error));
    core(PROVIDER_STATUS_CHANGED, "provider", provider_id).json(&payload).build()
}

/// Returns a `selfcheck.started` event.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn selfcheck_started(check_id: &str) -> Result<Event, EventError> {
    core(SELFCHECK_STARTED, "selfcheck", check_id).build()
}

/// Returns a `selfcheck.progress` event, in percent.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn selfcheck_progress(check_id: &str, progress: u32, message: &str) -> Result<Event, EventError> {
    let payload = format!(r#"{{"progress":{progress},"message":{}}}"#, text(message));
    core(SELFCHECK_PROGRESS, "selfcheck", check_id).json(&payload).build()
}

/// Returns a `selfcheck.completed` event.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn selfcheck_completed(check_id: &str) -> Result<Event, EventError> {
    core(SELFCHECK_COMPLETED, "selfcheck", check_id).build()
}

/// Returns a `selfcheck.failed` event.
///
/// # Errors
///
/// Fails if the id is longer than an attribute may be.
pub fn selfcheck_failed(check_id: &str, error: &str) -> Result<Event, EventError> {
    core(SELFCHECK_FAILED, "selfcheck", check_id).json(format!(r#"{{"error":{}}}"#, text(error))).build()
}

/// The last known state of each provider, so that only changes are published.
///
/// ```
/// # use fanwire::dialects::agentos::{ProviderDetails, ProviderStates};
/// let mut states = ProviderStates::default();
/// let details = ProviderDetails::default();
/// assert!(states.changed("ollama", "READY", &details)?.is_some(), "the first is news");
/// assert!(states.changed("ollama", "READY", &details)?.is_none());
/// assert!(states.changed("ollama", "ERROR", &details)?.is_some());
/// # Ok::<(), fanwire::event::EventError>(())
/// ```
#[derive(Debug, Default)]
pub struct ProviderStates {
    last: HashMap<String, String>,
}

impl ProviderStates {
    /// Returns the event to publish if the state is new.
    ///
    /// # Errors
    ///
    /// Fails if no event can be made, because the id is too long. The state then counts as new the next time.
    pub fn changed(
        &mut self,
        provider_id: &str,
        state: &str,
        details: &ProviderDetails,
    ) -> Result<Option<Event>, EventError> {
        if self.last.get(provider_id).is_some_and(|last| last == state) {
            return Ok(None);
        }
        let event = provider_status_changed(provider_id, state, details)?;
        self.last.insert(provider_id.to_owned(), state.to_owned());
        Ok(Some(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_give_the_documents_events() {
        let event = task_progress("task_abc123", 42, "Indexing \"documents\"").expect("valid");
        assert_eq!((event.source(), event.entity()), (Some("core"), Some(("task", "task_abc123"))));
        assert_eq!(event.payload(), r#"{"progress":42,"message":"Indexing \"documents\""}"#);
        let details = ProviderDetails {
            endpoint: Some("http://127.0.0.1:11434".to_owned()),
            latency_ms: Some(45.2),
            last_error: None,
        };
        let event = provider_status_changed("ollama", "READY", &details).expect("valid");
        assert_eq!(
            event.payload(),
            r#"{"state":"READY","endpoint":"http://127.0.0.1:11434","latency_ms":45.2,"last_error":null}"#
        );
        let all = [
            task_started("t"),
            task_progress("t", 1, ""),
            task_completed("t"),
            task_failed("t", "e"),
            provider_status_changed("p", "s", &details),
            selfcheck_started("c"),
            selfcheck_progress("c", 1, ""),
            selfcheck_completed("c"),
            selfcheck_failed("c", "e"),
        ];
        let all = all.map(|event| event.expect("valid"));
        let types: Vec<_> = all.iter().map(Event::event_type).collect();
        assert_eq!(types, TYPES);
        let texts: Vec<_> =
            all.iter().map(|event| (event.source(), event.entity(), event.payload())).collect();
        let ready =
            r#"{"state":"s","endpoint":"http://127.0.0.1:11434","latency_ms":45.2,"last_error":null}"#;
        let core = Some("core");
        let (task, check) = (Some(("task", "t")), Some(("selfcheck", "c")));
        assert_eq!(
            texts,
            [
                (core, task, "{}"),
                (core, task, r#"{"progress":1,"message":""}"#),
                (core, task, "{}"),
                (core, task, r#"{"error":"e"}"#),
                (core, Some(("provider", "p")), ready),
                (core, check, "{}"),
                (core, check, r#"{"progress":1,"message":""}"#),
                (core, check, "{}"),
                (core, check, r#"{"error":"e"}"#),
            ]
        );
    }

    #[test]
    fn a_providers_status_is_an_event_only_where_its_state_is_another() {
        let mut states = ProviderStates::default();
        let slow = ProviderDetails { latency_ms: Some(900.0), ..ProviderDetails::default() };
        let mut texts = Vec::new();
        for (provider, state) in [
            ("ollama", "READY"),
            ("ollama", "READY"),
            ("openai", "READY"),
            ("ollama", "ERROR"),
            ("ollama", "ERROR"),
            ("ollama", "READY"),
        ] {
            let event = states.changed(provider, state, &slow).expect("an event can be made");
            texts
                .extend(event.map(|event| format!("{provider} {state} {}", event.payload().contains("900"))));
        }
        assert_eq!(
            texts,
            ["ollama READY true", "openai READY true", "ollama ERROR true", "ollama READY true"]
        );
        let bad = "x".repeat(10_000);
        assert!(states.changed(&bad, "READY", &slow).is_err());
        assert!(states.changed(&bad, "READY", &slow).is_err(), "it is still news");
    }
}
