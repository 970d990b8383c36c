//! Position of a connection in its feed, and the bytes that it still has to write, in order.
//!
//! Invariants:
//! - A frame that was partly written is completed: its rest is kept, even if the feed trims the frame.
//! - Replies keep the position in the feed at which they were sent, and are never dropped.
//! - A connection that is caught up holds nothing: its backlog is freed.
//! - In a feed that compresses with a window, a connection gets those frames only while it is *in sync*: it has read every frame
//!   since the window's last restart.
//! - Each event of the feed is, for the connection, written, pending, dropped (and reported in a gap notice) or
//!   conflated, and is counted as such.
//!
//! # States
//!
//! The fields determine the state, the first one that applies. The pieces are written in this order; see [`pending`].
//!
//! | state | fields | pieces |
//! |---|---|---|
//! | `NoFeed` | no `membership` | partial frame, inserted bytes |
//! | `Replaying` | `replaying` | partial frame, inserted bytes: the replay's events are among them, and the feed's frames wait |
//! | `GapOpen` | `newest_gap` in the backlog | partial frame, inserted bytes, gap notice; new frames are dropped until it is due |
//! | `Conflating` | `required_before_next` in the backlog | partial frame, inserted bytes among the latest frames of keys |
//! | `Lagging` | a `backlog` | partial frame, inserted bytes among the feed's frames |
//! | `Ready` | `next` before the feed's end | the feed's frames: the fast path |
//! | `CaughtUp` | `next` at the feed's end | none |
//!
//! # Transitions
//!
//! A function leaves a state that its rows do not have as it is. `tests/states.rs` checks both directions.
//!
//! | function | from | to | when |
//! |---|---|---|---|
//! | `join`, `change` | NoFeed | CaughtUp, Lagging | the member starts at the feed's end; inserted bytes may be pending |
//! | `leave`, `change`, `save`, `abandon` | CaughtUp, Ready, Lagging, Conflating, GapOpen | NoFeed | pending frames are detached, or dropped |
//! | `change` | CaughtUp, Ready, Conflating, GapOpen | Lagging | pending frames are detached, or the place is recorded |
//! | `change` | Lagging | CaughtUp | the backlog held nothing but a place |
//! | `seal` | CaughtUp | Ready | the feed has new frames |
//! | `flush` | Ready, Lagging, Conflating, GapOpen | CaughtUp | everything is written |
//! | `flush` | CaughtUp, Ready, Lagging, GapOpen | Conflating | the socket is full, and the feed conflates |
//! | `flush` | CaughtUp, Ready, GapOpen | Lagging | the socket is full |
//! | `flush` | CaughtUp | Ready | new frames are sealed, and the budget is used up |
//! | `flush`, `enforce_drop_newest` | Lagging, Conflating | GapOpen | the newest frames are dropped |
//! | `enforce_drop_newest` | Ready | Lagging, GapOpen | frames are detached, and those without room are dropped |
//! | `send` | CaughtUp, Ready | Lagging | the bytes wait |
//! | `send` | GapOpen | Lagging, Conflating | the gap notice comes before the bytes |
//! | `record_place` | CaughtUp | Lagging | the backlog holds the place |
//! | `skip_for_replay` | Ready | CaughtUp | frames are skipped |
//! | `skip_for_replay` | CaughtUp, Ready, GapOpen | Lagging | the place is recorded, or the gap notice is inserted |
//! | `skip_for_replay` | Ready, Lagging, GapOpen | Conflating | the feed conflates, so its frames are detached |
//! | `begin_catch_up` | Lagging | Replaying | the feed has trimmed pending frames |
//! | `set_replaying` | CaughtUp, Lagging, Conflating | Replaying | a replay begins |
//! | `set_replaying` | Replaying | CaughtUp, Ready, Lagging, Conflating | the replay is over |
//!
//! # Falling off
//!
//! In any state but `NoFeed` and `Replaying` the feed may have trimmed pending frames: `next` is below its `base`. The lag
//! policy decides what the next flush does.
//!
//! | policy | result | function |
//! |---|---|---|
//! | `Disconnect` | [`Flushed::Lagged`]: the caller closes the connection | `should_disconnect` |
//! | `CatchUp`, unless the feed conflates | [`Flushed::Behind`]: the caller begins a replay | `is_behind` |
//! | `DropNewest` | all pending frames are dropped, too: `GapOpen` | `drop_newest` |
//! | others, in a feed that conflates | a gap notice for required frames; the latest of each key is still pending | `skip_trimmed_conflated` |
//! | others | a gap notice, and the oldest retained frame is next | `skip_trimmed` |

mod advance;
mod backlog;
mod catch_up;
mod conflating;
mod context;
mod detach;
mod flush;
mod gap;
mod insert;
mod inserted;
mod lag;
mod membership;
mod pending;
pub(super) mod saved;
pub(super) mod tail;
mod through;

use super::compressor::Compression;
use super::conflate::LagPolicy;
#[cfg(test)]
use super::fanout::Fanout;
use super::feed::Feed;
use super::keys::Membership;
use backlog::OutboxBacklog;

pub(crate) use catch_up::HeldReplies;
pub(crate) use context::{Flushed, OutboxContext, ResumeLookup, Tally};
pub(crate) use inserted::REPLY_COST;
pub(crate) use lag::Lag;

/// Position of a connection in its feed, if it has one, and its backlog.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    membership: Option<Membership>,
    lag_policy: LagPolicy,
    /// Whether a replay is under way: no frame of the feed is written before it is over.
    replaying: bool,
    compression: Compression,
    /// Whether the connection can read the feed's next frame in the form that uses the window.
    in_sync: bool,
    /// Low bits of `next` at the last heartbeat of an event stream.
    next_at_heartbeat: u16,
    /// Index of the next frame.
    next: u64,
    /// Pending bytes and losses; `None` if the connection is caught up.
    backlog: Option<Box<OutboxBacklog>>,
}

const _: () = assert!(size_of::<Outbox>() <= 32, "each connection has one");

/// State of an outbox, which its fields determine. The first one that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OutboxState {
    /// The connection has no feed. Inserted bytes may be pending.
    NoFeed,
    /// A replay is under way, and frames of the feed wait for its end.
    Replaying,
    /// Frames were dropped at the newest end, and the gap notice is not inserted yet.
    GapOpen,
    /// A backlog of which only the latest frames of keys are written.
    Conflating,
    /// A backlog: the rest of a frame, inserted bytes, or frames that the socket did not accept.
    Lagging,
    /// Frames of the feed are pending, and nothing else.
    Ready,
    /// Nothing is pending.
    CaughtUp,
}

impl Outbox {
    /// Returns the state in this feed, which is the connection's.
    #[inline]
    fn state(&self, feed: Option<&Feed>) -> OutboxState {
        let Some(feed) = feed else { return OutboxState::NoFeed };
        match &self.backlog {
            _ if self.replaying => OutboxState::Replaying,
            Some(backlog) if backlog.newest_gap.is_some() => OutboxState::GapOpen,
            Some(backlog) if backlog.required_before_next.is_some() => OutboxState::Conflating,
            Some(_) => OutboxState::Lagging,
            None if self.next < feed.next => OutboxState::Ready,
            None => OutboxState::CaughtUp,
        }
    }

    /// Sets the events that the connection loses when it falls off its feed.
    pub(crate) fn set_lag_policy(&mut self, lag_policy: LagPolicy) {
        self.lag_policy = lag_policy;
    }

    /// Sets the compression of all bytes from here on. The connection must have no feed.
    pub(crate) fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// Returns the compression of the connection's bytes.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Sets whether a replay is under way, so that frames of the feed are held back.
    pub(crate) fn set_replaying(&mut self, replaying: bool) {
        self.replaying = replaying;
    }

    /// Returns whether bytes with no position among the events can be written directly: no other bytes are waiting or
    /// partly written, and none are compressed.
    pub(crate) fn is_clear(&self) -> bool {
        self.backlog.is_none() && self.compression == Compression::None
    }
}

#[cfg(test)]
impl Outbox {
    pub(crate) fn feed(&self) -> Option<u32> {
        self.membership.map(Membership::feed)
    }

    /// Returns the state in the connection's feed.
    pub(crate) fn state_in(&self, fanout: &Fanout) -> OutboxState {
        self.state(self.membership.map(|membership| fanout.feed(membership.feed())))
    }

    /// Returns whether the connection is caught up.
    pub(crate) fn is_done(&self, fanout: &Fanout) -> bool {
        let state = self.state_in(fanout);
        state == OutboxState::CaughtUp || (state == OutboxState::NoFeed && self.backlog.is_none())
    }
}
