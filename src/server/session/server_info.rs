//! The answer of `server_info`: what clients have to know of a server before they ask it for something.

use serde_json::{Value, json};

use super::context::Context;

/// Abilities of this server that older ones lack, or that a client must not request from a server without them. A
/// server that sends no list has none.
const CAPABILITIES: [&str; 12] = [
    "catch_up",
    "concat",
    "filter",
    "from_start",
    "history_end",
    "lean",
    "own_past",
    "pages",
    "publish_once",
    "publish_unacked",
    "refill",
    "update",
];

/// Returns whether this server has a capability. The shards of an engine's log have no order of pages.
fn is_able(capability: &str, cx: &Context<'_>) -> bool {
    capability != "pages" || cx.shared.engine.is_none() || cx.shared.bus.shards() == 1
}

/// Returns the properties of the server for a client that speaks this protocol.
pub(crate) fn server_info(protocol: &str, cx: &Context<'_>) -> Value {
    let capabilities: Vec<&str> = CAPABILITIES.into_iter().filter(|name| is_able(name, cx)).collect();
    json!({
        "name": "fanwire",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": protocol,
        "dialect": "native",
        "capabilities": capabilities,
        "epoch": cx.shared.bus.epoch().to_string(),
        "max_message_bytes": cx.config.max_message_bytes,
        "max_subscriptions": cx.config.max_subscriptions,
        "heartbeat_seconds": cx.config.heartbeat.as_secs_f64(),
        "dedupe_seconds": cx.config.dedupe.window.as_secs_f64(),
    })
}
