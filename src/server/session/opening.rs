//! Opening of an event stream that is allowed: everything that its beginning needs.

use std::sync::Arc;

use super::past::ReplayFrom;
use crate::dialect::{Concat, Encoding, OnLag};
use crate::event::Timestamp;
use crate::filter::Filter;
use crate::server::auth::Grant;

/// Event stream that is allowed, and not begun.
#[derive(Clone, Debug)]
pub(crate) struct StreamOpening {
    pub(crate) filter: Filter,
    pub(crate) encoding: Encoding,
    pub(crate) from: Option<ReplayFrom>,
    pub(crate) on_lag: OnLag,
    pub(crate) concat: Option<Concat>,
    /// Rights of the client, if they are limited.
    pub(crate) grant: Option<Arc<Grant>>,
    pub(crate) is_gzip: bool,
    /// Whether `from` is a place of the server's choosing: events before it may be passed over, and the client sees it as its
    /// grant demands.
    pub(crate) is_own_place: bool,
    /// Whether there is no stream for a client that has received the ends of all its logs.
    pub(crate) may_be_over: bool,
    pub(crate) head: StreamHead,
}

/// Parts of the response's head.
#[derive(Clone, Debug)]
pub(crate) struct StreamHead {
    /// CORS headers for the client's origin.
    pub(crate) cors: Vec<(&'static str, String)>,
    /// Whether the connection remains open after a response that is not a stream.
    pub(crate) keep_alive: bool,
    /// Time when the request was read.
    pub(crate) received_at: Timestamp,
}
