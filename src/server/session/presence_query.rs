//! Response to a client that queries the users of a channel.

use std::sync::Arc;

use serde_json::{Value, json};

use super::rights::{forbidden, may_see};
use crate::dialect::{ClientError, ErrorCode, shortened};
use crate::event::{Attribute, Timestamp};
use crate::filter::{Filter, Pattern};
use crate::server::auth::Grant;
use crate::server::config::Prepared;
use crate::server::presence::{JOINED, event};
use crate::server::shared::Shared;
use crate::sync::lock;

/// Lists a channel's users to a client that may subscribe to the channel's presence events.
pub(crate) fn answer(
    shared: &Shared,
    config: &Prepared,
    channel: &str,
    grant: Option<&Grant>,
) -> Result<Value, ClientError> {
    let own =
        grant.and_then(|grant| grant.channel_of(channel)).transpose().map_err(|what| forbidden(&what))?;
    let channel = own.as_deref().unwrap_or(channel);
    if let Some(grant) = grant {
        let wanted = Filter::new().types([JOINED]).any_of(Attribute::Channel, [Pattern::exact(channel)]);
        may_see(grant, &wanted)?;
    }
    if !config.presence.covers(channel) {
        let text = format!("no presence is kept of '{}': see presence.channels", shortened(channel));
        return Err(ClientError::new(ErrorCode::NoPresence, text));
    }
    let node = shared.bus.epoch();
    let sees = |user: &str| {
        grant.is_none_or(|grant| event(JOINED, channel, user, node).is_some_and(|event| grant.sees(&event)))
    };
    let ((mut users, others), is_complete) = {
        let presence = lock(&shared.clients.presence);
        (presence.list(channel), presence.is_complete())
    };
    users.retain(|(user, ..)| sees(user));
    if users.is_empty() && !sees("") {
        return Err(ClientError::new(ErrorCode::Forbidden, "beyond what the token allows: who is there"));
    }
    let one = |(user, connections, since): &(Arc<str>, u32, Timestamp)| json!({ "user": **user, "connections": connections, "since": since.to_string() });
    Ok(json!({
        "channel": channel,
        "users": users.iter().map(one).collect::<Vec<_>>(),
        "others": others,
        "complete": is_complete,
        "node": node.to_string(),
    }))
}
