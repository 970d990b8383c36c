//! FCC's event types, in the categories of its document.

/// `workflow.started`, of category Workflow.
pub const WORKFLOW_STARTED: &str = "workflow.started";
/// `workflow.completed`, of category Workflow.
pub const WORKFLOW_COMPLETED: &str = "workflow.completed";
/// `workflow.failed`, of category Workflow.
pub const WORKFLOW_FAILED: &str = "workflow.failed";
/// `node.entered`, of category Node.
pub const NODE_ENTERED: &str = "node.entered";
/// `node.exited`, of category Node.
pub const NODE_EXITED: &str = "node.exited";
/// `persona.activated`, of category Persona.
pub const PERSONA_ACTIVATED: &str = "persona.activated";
/// `persona.deactivated`, of category Persona.
pub const PERSONA_DEACTIVATED: &str = "persona.deactivated";
/// `simulation.started`, of category Simulation.
pub const SIMULATION_STARTED: &str = "simulation.started";
/// `simulation.step`, of category Simulation.
pub const SIMULATION_STEP: &str = "simulation.step";
/// `simulation.completed`, of category Simulation.
pub const SIMULATION_COMPLETED: &str = "simulation.completed";
/// `simulation.failed`, of category Simulation.
pub const SIMULATION_FAILED: &str = "simulation.failed";
/// `governance.gate.evaluated`, of category Governance.
pub const GOVERNANCE_GATE_EVALUATED: &str = "governance.gate.evaluated";
/// `governance.gate.passed`, of category Governance.
pub const GOVERNANCE_GATE_PASSED: &str = "governance.gate.passed";
/// `governance.gate.failed`, of category Governance.
pub const GOVERNANCE_GATE_FAILED: &str = "governance.gate.failed";
/// `deliverable.created`, of category Deliverable.
pub const DELIVERABLE_CREATED: &str = "deliverable.created";
/// `deliverable.reviewed`, of category Deliverable.
pub const DELIVERABLE_REVIEWED: &str = "deliverable.reviewed";
/// `action.started`, of category Action.
pub const ACTION_STARTED: &str = "action.started";
/// `action.completed`, of category Action.
pub const ACTION_COMPLETED: &str = "action.completed";
/// `action.failed`, of category Action.
pub const ACTION_FAILED: &str = "action.failed";
/// `collaboration.session.created`, of category Collaboration.
pub const COLLABORATION_SESSION_CREATED: &str = "collaboration.session.created";
/// `collaboration.session.started`, of category Collaboration.
pub const COLLABORATION_SESSION_STARTED: &str = "collaboration.session.started";
/// `collaboration.session.completed`, of category Collaboration.
pub const COLLABORATION_SESSION_COMPLETED: &str = "collaboration.session.completed";
/// `collaboration.turn.taken`, of category Collaboration.
pub const COLLABORATION_TURN_TAKEN: &str = "collaboration.turn.taken";
/// `plugin.loaded`, of category Plugin.
pub const PLUGIN_LOADED: &str = "plugin.loaded";
/// `plugin.error`, of category Plugin.
pub const PLUGIN_ERROR: &str = "plugin.error";
/// `protocol.a2a.task.received`, of category Protocol A2A.
pub const PROTOCOL_A2A_TASK_RECEIVED: &str = "protocol.a2a.task.received";
/// `protocol.a2a.task.completed`, of category Protocol A2A.
pub const PROTOCOL_A2A_TASK_COMPLETED: &str = "protocol.a2a.task.completed";
/// `protocol.a2a.task.failed`, of category Protocol A2A.
pub const PROTOCOL_A2A_TASK_FAILED: &str = "protocol.a2a.task.failed";
/// `protocol.a2a.card.requested`, of category Protocol A2A.
pub const PROTOCOL_A2A_CARD_REQUESTED: &str = "protocol.a2a.card.requested";
/// `protocol.mcp.tool.called`, of category Protocol MCP.
pub const PROTOCOL_MCP_TOOL_CALLED: &str = "protocol.mcp.tool.called";
/// `protocol.mcp.tool.completed`, of category Protocol MCP.
pub const PROTOCOL_MCP_TOOL_COMPLETED: &str = "protocol.mcp.tool.completed";
/// `protocol.mcp.tool.failed`, of category Protocol MCP.
pub const PROTOCOL_MCP_TOOL_FAILED: &str = "protocol.mcp.tool.failed";
/// `protocol.mcp.resource.read`, of category Protocol MCP.
pub const PROTOCOL_MCP_RESOURCE_READ: &str = "protocol.mcp.resource.read";
/// `protocol.mcp.prompt.rendered`, of category Protocol MCP.
pub const PROTOCOL_MCP_PROMPT_RENDERED: &str = "protocol.mcp.prompt.rendered";
/// `protocol.bridge.error`, of category Protocol Bridge.
pub const PROTOCOL_BRIDGE_ERROR: &str = "protocol.bridge.error";
/// `simulation.budget.warning`, of category Simulation Budget.
pub const SIMULATION_BUDGET_WARNING: &str = "simulation.budget.warning";
/// `simulation.budget.exceeded`, of category Simulation Budget.
pub const SIMULATION_BUDGET_EXCEEDED: &str = "simulation.budget.exceeded";

/// The categories with their types, in the document's order.
pub const CATEGORIES: [(&str, &[&str]); 13] = [
    ("Workflow", &[WORKFLOW_STARTED, WORKFLOW_COMPLETED, WORKFLOW_FAILED]),
    ("Node", &[NODE_ENTERED, NODE_EXITED]),
    ("Persona", &[PERSONA_ACTIVATED, PERSONA_DEACTIVATED]),
    ("Simulation", &[SIMULATION_STARTED, SIMULATION_STEP, SIMULATION_COMPLETED, SIMULATION_FAILED]),
    ("Governance", &[GOVERNANCE_GATE_EVALUATED, GOVERNANCE_GATE_PASSED, GOVERNANCE_GATE_FAILED]),
    ("Deliverable", &[DELIVERABLE_CREATED, DELIVERABLE_REVIEWED]),
    ("Action", &[ACTION_STARTED, ACTION_COMPLETED, ACTION_FAILED]),
    (
        "Collaboration",
        &[
            COLLABORATION_SESSION_CREATED,
            COLLABORATION_SESSION_STARTED,
            COLLABORATION_SESSION_COMPLETED,
            COLLABORATION_TURN_TAKEN,
        ],
    ),
    ("Plugin", &[PLUGIN_LOADED, PLUGIN_ERROR]),
    (
        "Protocol A2A",
        &[
            PROTOCOL_A2A_TASK_RECEIVED,
            PROTOCOL_A2A_TASK_COMPLETED,
            PROTOCOL_A2A_TASK_FAILED,
            PROTOCOL_A2A_CARD_REQUESTED,
        ],
    ),
    (
        "Protocol MCP",
        &[
            PROTOCOL_MCP_TOOL_CALLED,
            PROTOCOL_MCP_TOOL_COMPLETED,
            PROTOCOL_MCP_TOOL_FAILED,
            PROTOCOL_MCP_RESOURCE_READ,
            PROTOCOL_MCP_PROMPT_RENDERED,
        ],
    ),
    ("Protocol Bridge", &[PROTOCOL_BRIDGE_ERROR]),
    ("Simulation Budget", &[SIMULATION_BUDGET_WARNING, SIMULATION_BUDGET_EXCEEDED]),
];

/// Returns every type of the document, category by category.
pub fn types() -> impl Iterator<Item = &'static str> {
    CATEGORIES.iter().flat_map(|(_, types)| types.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_37_types_in_13_categories() {
        let listed = [
            ("Workflow", "workflow.started workflow.completed workflow.failed"),
            ("Node", "node.entered node.exited"),
            ("Persona", "persona.activated persona.deactivated"),
            ("Simulation", "simulation.started simulation.step simulation.completed simulation.failed"),
            ("Governance", "governance.gate.evaluated governance.gate.passed governance.gate.failed"),
            ("Deliverable", "deliverable.created deliverable.reviewed"),
            ("Action", "action.started action.completed action.failed"),
            (
                "Collaboration",
                "collaboration.session.created collaboration.session.started collaboration.session.completed \
                 collaboration.turn.taken",
            ),
            ("Plugin", "plugin.loaded plugin.error"),
            (
                "Protocol A2A",
                "protocol.a2a.task.received protocol.a2a.task.completed protocol.a2a.task.failed \
                 protocol.a2a.card.requested",
            ),
            (
                "Protocol MCP",
                "protocol.mcp.tool.called protocol.mcp.tool.completed protocol.mcp.tool.failed \
                 protocol.mcp.resource.read protocol.mcp.prompt.rendered",
            ),
            ("Protocol Bridge", "protocol.bridge.error"),
            ("Simulation Budget", "simulation.budget.warning simulation.budget.exceeded"),
        ];
        let ours = CATEGORIES.map(|(category, types)| (category, types.join(" ")));
        assert_eq!(ours, listed.map(|(category, types)| (category, types.to_owned())));
        let all: Vec<_> = types().collect();
        assert_eq!(all.len(), 37);
        assert!(all.iter().all(|name| name.split('.').count() >= 2));
    }
}
