//! Shared feeds: one log of encoded frames per (interest, encoding), read by many connections.
//!
//! A connection has no send queue. Its [`Outbox`] is a position in the feed that it joined, so a slow client costs a position,
//! not a buffer.
//!
//! Invariants:
//! - Each frame is encoded once, into the loop's log. Copies, where they pay off, are made once per feed, never per member.
//! - A feed's only member is written from the log while it keeps up, and its feed retains nothing.
//! - A feed keeps a bounded tail of its frames, independent of its members. A member that falls off the tail receives a gap
//!   notice with the number of events it missed, at the position of the loss.
//! - Frame indices only grow. Frames `base..next` are retained; an outbox at `next` is caught up.
//! - No code here opens a socket or reads a clock.

mod block;
mod compressor;
mod conflate;
mod encode;
mod fanout;
#[allow(clippy::module_inception, reason = "the room is named after its main type")]
mod feed;
mod frame;
mod frame_log;
mod gap_log;
pub(crate) mod harness;
mod interest;
mod keys;
mod outbox;
mod snapshot;

pub(crate) use compressor::{Compression, CompressorLimits};
pub(crate) use conflate::{Conflation, KeyRule, LagPolicy};
pub(crate) use fanout::{Fanout, FeedDelivery, FeedView};
pub(crate) use feed::FeedLimits;
pub(crate) use interest::{Change, FeedInterest, FilterSelection};
pub(crate) use keys::{ConnIndex, FeedKey, MovedMember};
pub(crate) use outbox::saved::SavedOutbox;
pub(crate) use outbox::tail::{ByteSink, FeedTail};
pub(crate) use outbox::{Flushed, HeldReplies, Lag, Outbox, OutboxContext, REPLY_COST, ResumeLookup, Tally};
pub(crate) use snapshot::Snapshot;

#[cfg(all(test, feature = "deflate"))]
mod compressor_tests;
#[cfg(test)]
mod tests;
