//! GatheRing's message types. Imports nothing. `error`, `ping` and `pong` are the protocol's own.

/// An agent says something: `agent_id`, `content`.
pub const AGENT_MESSAGE: &str = "agent_message";
/// An agent came into a circle.
pub const AGENT_JOINED: &str = "agent_joined";
/// An agent left it.
pub const AGENT_LEFT: &str = "agent_left";
/// How a circle is.
pub const CIRCLE_STATUS: &str = "circle_status";
/// A file changed.
pub const FILE_CHANGED: &str = "file_changed";
/// A file is new.
pub const FILE_CREATED: &str = "file_created";
/// A file is gone.
pub const FILE_DELETED: &str = "file_deleted";
/// What git says.
pub const GIT_STATUS: &str = "git_status";

/// Those of circles.
pub const CIRCLE: [&str; 4] = [AGENT_MESSAGE, AGENT_JOINED, AGENT_LEFT, CIRCLE_STATUS];

/// Those of workspaces.
pub const WORKSPACE: [&str; 4] = [FILE_CHANGED, FILE_CREATED, FILE_DELETED, GIT_STATUS];

/// What clients know this event of GatheRing's event bus as: `agent.message` is `agent_message` to them,
/// `workspace.file_changed` is `file_changed`, and who joins by presence is an agent that joined. `None`: it is none of these.
pub fn message_type(event_type: &str) -> Option<&'static str> {
    let known = |name: &str| CIRCLE.iter().chain(&WORKSPACE).find(|known| **known == name).copied();
    known(event_type).or_else(|| {
        let (domain, action) = event_type.split_once('.')?;
        match domain {
            "agent" | "circle" => known(&format!("{domain}_{action}")),
            // Who comes into a circle, and goes, as the server's presence tells it.
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
