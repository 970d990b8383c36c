//! Numbers by which a loop names its feeds, its connections and their memberships.

use std::num::NonZeroU32;

/// Number of a feed within its loop.
pub(crate) type FeedKey = u32;

/// Number of a connection within its loop.
pub(crate) type ConnIndex = u32;

/// A connection's entry in a feed's member list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    /// The feed's key plus one, so that `Option<Membership>` is no larger.
    feed: NonZeroU32,
    /// Index in the feed's member list.
    pub(crate) index: u32,
}

impl Membership {
    pub(super) fn new(feed: FeedKey, index: u32) -> Self {
        // A loop has fewer than 2^32 - 1 feeds, so the key always fits.
        Self { feed: NonZeroU32::MIN.saturating_add(feed), index }
    }

    pub(crate) fn feed(self) -> FeedKey {
        self.feed.get() - 1
    }
}

/// A member that has a new index because another member left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MovedMember {
    pub(crate) conn: ConnIndex,
    /// New index in the feed's member list.
    pub(crate) index: u32,
}
