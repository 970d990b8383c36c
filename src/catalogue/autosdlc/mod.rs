//! AutoSDLC's event types: the resource of each, its name in a subscription to that resource, and the schema of its data.

/// One event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventType {
    /// Message type: `agent_status`.
    pub name: &'static str,
    /// Resource: `agent`.
    pub resource: &'static str,
    /// Name in a subscription to the resource: `status`.
    pub event: &'static str,
}

const fn event(resource: &'static str, event: &'static str, name: &'static str) -> EventType {
    EventType { name, resource, event }
}

/// About an agent: `data` has agentId, agentType, status or previousStatus and currentStatus, reason, currentTask, metrics.
pub const AGENT_STATUS: &str = "agent_status";
/// About an agent: `data` has agentId, taskId, taskType, status, progress, details.
pub const AGENT_TASK_UPDATE: &str = "agent_task_update";
/// About an agent: `data` has agentId, level, message, context, timestamp.
pub const AGENT_LOG: &str = "agent_log";
/// About an agent: `data` has agentId, metrics, timestamp.
pub const AGENT_METRIC: &str = "agent_metric";
/// About an agent: `data` has agentId.
pub const AGENT_ERROR: &str = "agent_error";
/// About an agent: `data` has agentId, taskId, previousPhase, currentPhase, testResults, coverage.
pub const TDD_PHASE_CHANGE: &str = "tdd_phase_change";
/// About an agent: `data` has agentId, taskId, testFile, results, failures.
pub const TEST_RESULT: &str = "test_result";
/// About an agent: `data` has agentId, taskId, coverage, uncoveredLines.
pub const COVERAGE_UPDATE: &str = "coverage_update";
/// About a workflow: `data` has workflowId, workflowType, initiator, parameters, steps, estimatedDuration.
pub const WORKFLOW_STARTED: &str = "workflow_started";
/// About a workflow: `data` has workflowId, stepId, stepType, result, duration, nextStep.
pub const WORKFLOW_STEP_COMPLETE: &str = "workflow_step_complete";
/// About a workflow: `data` has workflowId, result, duration, outputs, metrics.
pub const WORKFLOW_COMPLETE: &str = "workflow_complete";
/// About a workflow: `data` has workflowId.
pub const WORKFLOW_FAILED: &str = "workflow_failed";
/// About a system: `data` has level, title, message, actions, persistent.
pub const SYSTEM_NOTIFICATION: &str = "system_notification";
/// About a system: `data` has alertId, severity, title, description, affectedComponents, recommendedActions.
pub const SYSTEM_ALERT: &str = "system_alert";
/// About a deployment: `data` has deploymentId, environment, status, progress, components, estimatedCompletion.
pub const DEPLOYMENT_STATUS: &str = "deployment_status";
/// About GitHub: an issue.
pub const GITHUB_ISSUE_UPDATE: &str = "github_issue_update";
/// About GitHub: a pull request.
pub const GITHUB_PR_UPDATE: &str = "github_pr_update";
/// About GitHub: a workflow.
pub const GITHUB_WORKFLOW_UPDATE: &str = "github_workflow_update";

/// Every event type of the document.
pub const TYPES: [EventType; 18] = [
    event("agent", "status", AGENT_STATUS),
    event("agent", "task_update", AGENT_TASK_UPDATE),
    event("agent", "log", AGENT_LOG),
    event("agent", "metric", AGENT_METRIC),
    event("agent", "error", AGENT_ERROR),
    event("agent", "tdd_phase_change", TDD_PHASE_CHANGE),
    event("agent", "test_result", TEST_RESULT),
    event("agent", "coverage_update", COVERAGE_UPDATE),
    event("workflow", "started", WORKFLOW_STARTED),
    event("workflow", "step_complete", WORKFLOW_STEP_COMPLETE),
    event("workflow", "complete", WORKFLOW_COMPLETE),
    event("workflow", "failed", WORKFLOW_FAILED),
    event("system", "notification", SYSTEM_NOTIFICATION),
    event("system", "alert", SYSTEM_ALERT),
    event("deployment", "status", DEPLOYMENT_STATUS),
    event("github", "issue_update", GITHUB_ISSUE_UPDATE),
    event("github", "pr_update", GITHUB_PR_UPDATE),
    event("github", "workflow_update", GITHUB_WORKFLOW_UPDATE),
];

/// The other message types of the document, which clients and servers exchange.
pub const MESSAGE_TYPES: [&str; 11] = [
    "connect",
    "disconnect",
    "ping",
    "pong",
    "error",
    "auth_request",
    "auth_success",
    "auth_failure",
    "subscribe",
    "unsubscribe",
    "subscription_update",
];

/// JSON Schemas of each message type's `data`, as one JSON object with the types as its keys.
pub const SCHEMAS: &str = include_str!("schemas.json");

/// Returns the type of this name, also in the spellings `agent.status` and `agent:status` of event buses and handlers.
#[must_use]
pub fn event_type(name: &str) -> Option<&'static EventType> {
    let plain = |a: u8| if matches!(a, b'.' | b':') { b'_' } else { a };
    let same = |known: &str| known.len() == name.len() && known.bytes().eq(name.bytes().map(plain));
    TYPES.iter().find(|known| same(known.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_known_by_each_of_its_spellings() {
        for name in ["agent_task_update", "agent.task_update", "agent:task_update", "agent.task.update"] {
            assert_eq!(event_type(name).map(|known| known.name), Some(AGENT_TASK_UPDATE), "{name}");
        }
        assert_eq!(event_type("tdd:phase_change").map(|known| known.resource), Some("agent"));
        assert_eq!(event_type("task.progress"), None);
    }
}
