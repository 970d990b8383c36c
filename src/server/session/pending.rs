//! Partly done work on all of a client's subscriptions.

use crate::dialect::{ReplyTag, Subscribe};
use crate::filter::Filter;

/// Work on all subscriptions, done for some of them.
#[derive(Debug)]
pub(super) enum Unfinished {
    Narrowing(Narrowing),
    Listing(Listing),
}

/// Narrowing of all subscriptions by a new token.
#[derive(Debug)]
pub(super) struct Narrowing {
    /// Filter of the events that the client could see before.
    pub(super) saw: Filter,
    /// Index of the next subscription to narrow.
    pub(super) next: usize,
    /// Message with the token.
    pub(super) tag: ReplyTag,
    /// Subscription that waited for the token.
    pub(super) waiting: Option<Box<Subscribe>>,
}

/// List of a client's subscriptions.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) tag: ReplyTag,
    /// Index of the next subscription to write.
    pub(super) next: usize,
    /// Response so far.
    pub(super) text: String,
}

impl Unfinished {
    /// Returns the heap memory, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Narrowing(narrowing) => narrowing.saw.held_bytes(),
            Self::Listing(listing) => listing.text.capacity(),
        }
    }
}
