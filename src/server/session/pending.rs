//! Partly done work on all of a client's subscriptions, and a request that waits for the loop.

use crate::dialect::{ReplyTag, Subscribe};
use crate::event::Since;
use crate::filter::Filter;

/// Work on all subscriptions, done for some of them, or a request that waits.
#[derive(Debug)]
pub(super) enum Unfinished {
    Narrowing(Narrowing),
    Listing(Listing),
    Resuming(Resuming),
}

/// Request to resume after an event that the loop has not read yet.
#[derive(Debug)]
pub(super) enum Resuming {
    /// A subscription, with the tag of its message. The path's subscription has no message.
    Subscribe(Box<Subscribe>, Option<ReplyTag>),
    Refill(Since, ReplyTag),
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
            Self::Resuming(Resuming::Subscribe(subscribe, _)) => {
                let filters = std::iter::once(&subscribe.filter).chain(&subscribe.or);
                size_of::<Subscribe>() + filters.map(Filter::held_bytes).sum::<usize>()
            }
            Self::Resuming(Resuming::Refill(..)) => 0,
        }
    }
}
