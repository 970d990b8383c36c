//! The contract of listening to a channel of another system, which `redis` and `nats` implement for [`super::ingest`].

use std::time::Duration;

/// Maximum time that a listener waits for a message before it calls [`OnMessage`] with `None`.
pub(super) const LISTEN_WAIT: Duration = Duration::from_millis(500);

/// Takes a message with the name of its channel, or `None` after [`LISTEN_WAIT`] without one. Returns whether to
/// continue.
pub(super) type OnMessage<'a> = &'a mut dyn FnMut(Option<(&str, &[u8])>) -> bool;
