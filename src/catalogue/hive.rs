//! Hive's event types, as its clients name them. On the wire they are in lower case.

/// The start of an agent: `input_data`, `stream_id`, `execution_id`.
pub const EXECUTION_STARTED: &str = "EXECUTION_STARTED";
/// The success of an agent: `output`, `execution_id`.
pub const EXECUTION_COMPLETED: &str = "EXECUTION_COMPLETED";
/// The failure of an agent: `error`, `execution_id`.
pub const EXECUTION_FAILED: &str = "EXECUTION_FAILED";
/// Progress of a goal's criteria: `progress` from 0 to 1, `criteria_status`.
pub const GOAL_PROGRESS: &str = "GOAL_PROGRESS";
/// The end of a goal: `final_status`.
pub const GOAL_ACHIEVED: &str = "GOAL_ACHIEVED";
/// A change of shared state: `key`, `old_value`, `new_value`.
pub const STATE_CHANGED: &str = "STATE_CHANGED";
/// The agent waits for a human: `node_id`, `reason`.
pub const EXECUTION_PAUSED: &str = "EXECUTION_PAUSED";
/// The human's decision: `node_id`, `decision`.
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

/// Returns whether Hive has this type, in any case.
#[cfg(feature = "server")]
pub(crate) fn knows(event_type: &str) -> bool {
    TYPES.iter().any(|name| name.eq_ignore_ascii_case(event_type))
}
