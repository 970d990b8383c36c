//! Hive's event types, as its clients name them. Imports nothing. On the wire they are in lower case.

/// An agent starts: `input_data`, `stream_id`, `execution_id`.
pub const EXECUTION_STARTED: &str = "EXECUTION_STARTED";
/// An agent succeeds: `output`, `execution_id`.
pub const EXECUTION_COMPLETED: &str = "EXECUTION_COMPLETED";
/// An agent fails: `error`, `execution_id`.
pub const EXECUTION_FAILED: &str = "EXECUTION_FAILED";
/// A goal's criteria move: `progress` from 0 to 1, `criteria_status`.
pub const GOAL_PROGRESS: &str = "GOAL_PROGRESS";
/// A goal is reached: `final_status`.
pub const GOAL_ACHIEVED: &str = "GOAL_ACHIEVED";
/// Shared state changes: `key`, `old_value`, `new_value`.
pub const STATE_CHANGED: &str = "STATE_CHANGED";
/// A human is waited for: `node_id`, `reason`.
pub const EXECUTION_PAUSED: &str = "EXECUTION_PAUSED";
/// The human decided: `node_id`, `decision`.
pub const EXECUTION_RESUMED: &str = "EXECUTION_RESUMED";
/// A node of the graph has run.
pub const NODE_EXECUTED: &str = "NODE_EXECUTED";
/// A constraint was broken.
pub const CONSTRAINT_VIOLATION: &str = "CONSTRAINT_VIOLATION";

/// Every type of the document.
pub const TYPES: [&str; 10] = [
    EXECUTION_STARTED,
    EXECUTION_COMPLETED,
    EXECUTION_FAILED,
    GOAL_PROGRESS,
    GOAL_ACHIEVED,
    STATE_CHANGED,
    EXECUTION_PAUSED,
    EXECUTION_RESUMED,
    NODE_EXECUTED,
    CONSTRAINT_VIOLATION,
];

/// Whether Hive has this type, in whatever case.
#[cfg(feature = "server")]
pub(crate) fn knows(event_type: &str) -> bool {
    TYPES.iter().any(|name| name.eq_ignore_ascii_case(event_type))
}
