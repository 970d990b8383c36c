//! GatheRing's message types. The protocol itself has `error`, `ping` and `pong`.

/// An agent's message: `agent_id`, `content`.
pub const AGENT_MESSAGE: &str = "agent_message";
/// The arrival of an agent in a circle.
pub const AGENT_JOINED: &str = "agent_joined";
/// The departure of an agent from a circle.
pub const AGENT_LEFT: &str = "agent_left";
/// The status of a circle.
pub const CIRCLE_STATUS: &str = "circle_status";
/// The change of a file.
pub const FILE_CHANGED: &str = "file_changed";
/// A new file.
pub const FILE_CREATED: &str = "file_created";
/// The removal of a file.
pub const FILE_DELETED: &str = "file_deleted";
/// Git's status.
pub const GIT_STATUS: &str = "git_status";

/// Types of circles.
pub const CIRCLE: [&str; 4] = [AGENT_MESSAGE, AGENT_JOINED, AGENT_LEFT, CIRCLE_STATUS];

/// Types of workspaces.
pub const WORKSPACE: [&str; 4] = [FILE_CHANGED, FILE_CREATED, FILE_DELETED, GIT_STATUS];

/// Returns the clients' name of an event type of GatheRing's event bus: `agent.message` is `agent_message`,
/// `workspace.file_changed` is `file_changed`, and `presence.joined` is `agent_joined`. Returns `None` for other types.
#[must_use]
pub fn message_type(event_type: &str) -> Option<&'static str> {
    let known = |name: &str| CIRCLE.iter().chain(&WORKSPACE).find(|known| **known == name).copied();
    known(event_type).or_else(|| {
        let (domain, action) = event_type.split_once('.')?;
        match domain {
            "agent" | "circle" => known(&format!("{domain}_{action}")),
            // Arrivals and departures in a circle, as the server's presence reports them.
            "presence" => known(&format!("agent_{action}")),
            "workspace" | "file" | "git" => known(action).or_else(|| known(&format!("{domain}_{action}"))),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_buses_names_are_the_clients_again() {
        assert_eq!(message_type("agent.message"), Some("agent_message"));
        assert_eq!(message_type("workspace.file_changed"), Some("file_changed"));
        assert_eq!(message_type("git.status"), Some("git_status"));
        assert_eq!(message_type("presence.joined"), Some("agent_joined"));
        assert_eq!(message_type("file_deleted"), Some("file_deleted"));
        assert_eq!((message_type("agent.slept"), message_type("task.message")), (None, None));
    }
}
