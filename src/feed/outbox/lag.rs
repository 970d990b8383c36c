//! Sizes of an outbox: pending events and bytes, the memory that they take, and the time for which the client lags.
//!
//! Invariant: the sums here are kept, not walked, because the loop reads them often. Debug builds compare them with
//! the walk at each flush.

use std::num::NonZeroU32;

use bytes::Bytes;

use super::Outbox;
use super::pending::PendingPiece;
use crate::event::{EventId, Timestamp};
use crate::feed::fanout::Fanout;
use crate::feed::feed::Feed;

/// Lag of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) milliseconds: u64,
}

impl Outbox {
    /// Returns the number of pending events, of which no byte is written.
    pub(crate) fn pending(&self, fanout: &Fanout) -> u64 {
        let feed = self.membership.map(|membership| fanout.feed(membership.feed()));
        self.pending_events(feed) + feed.map_or(0, Feed::unsealed)
    }

    /// Returns the number of pending events that are sealed or inserted.
    fn pending_events(&self, feed: Option<&Feed>) -> u64 {
        let inserted = self.backlog.as_ref().map_or(0, |backlog| backlog.inserted.sums().events);
        feed.map_or(0, |feed| feed.next - self.next) + inserted
    }

    /// Returns the number of pending bytes: those inserted, and those that the feed still retains for the connection.
    fn pending_bytes(&self, feed: Option<&Feed>) -> u64 {
        let own = self.backlog.as_ref().map_or(0, |b| b.partial.len() + b.inserted.sums().bytes);
        feed.map_or(0, |feed| feed.bytes_from(self.next)) + own as u64
    }

    /// Returns the connection's lag. It is zero while the connection has no backlog.
    pub(crate) fn lag(&self, fanout: &Fanout, now: Timestamp) -> Lag {
        let Some(backlog) = &self.backlog else { return Lag::default() };
        Lag {
            events: self.pending(fanout),
            bytes: self.pending_bytes(self.membership.map(|membership| fanout.feed(membership.feed()))),
            milliseconds: backlog.lagging_since.map_or(0, |since| (now.0 - since.0).max(0) as u64 / 1000),
        }
    }

    /// Returns the newest event of the feed.
    pub(crate) fn newest(&self, fanout: &Fanout) -> Option<EventId> {
        self.membership.and_then(|membership| fanout.newest_appended(membership.feed()))
    }

    /// Returns the number of waiting inserted bytes.
    pub(crate) fn inserted_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.inserted.sums().bytes)
    }

    /// Returns the number of bytes that only this outbox retains besides its own struct, and the number of waiting
    /// bytes that are also retained elsewhere.
    pub(crate) fn held_bytes(&self) -> (usize, usize) {
        self.backlog.as_ref().map_or((0, 0), |backlog| (backlog.own_bytes(), backlog.shared_bytes()))
    }

    /// Returns the waiting pieces that are also retained elsewhere: the address of each piece's end, and its length.
    /// Partly written copies of one frame end at the same address, wherever they begin.
    pub(crate) fn shared_pieces(&self) -> impl Iterator<Item = (usize, usize)> {
        let end_of = |bytes: &Bytes| (bytes.as_ptr() as usize + bytes.len(), bytes.len());
        let has_shared = self.backlog.as_ref().is_some_and(|backlog| backlog.shared_bytes() > 0);
        let pieces = has_shared.then(|| self.pending_pieces(None)).into_iter().flatten();
        pieces.filter_map(move |piece| match piece {
            PendingPiece::Partial(bytes) if !bytes.is_unique() => Some(end_of(bytes)),
            PendingPiece::Inserted(inserted) if inserted.is_shared => Some(end_of(&inserted.bytes)),
            _ => None,
        })
    }

    /// Records that the socket is full at `tick`. `progressed` is true if it has just accepted bytes.
    pub(crate) fn record_full(&mut self, tick: u64, progressed: bool) {
        if let Some(backlog) = &mut self.backlog
            && (progressed || backlog.progress_tick.is_none())
        {
            backlog.progress_tick = Some(NonZeroU32::new(tick as u32).unwrap_or(NonZeroU32::MIN));
        }
    }

    /// Returns the number of ticks since a full socket last accepted bytes; 0 if it is not full.
    pub(crate) fn full_for(&self, tick: u64) -> u64 {
        let progress = self.backlog.as_ref().and_then(|backlog| backlog.progress_tick);
        progress.map_or(0, |progress| u64::from((tick as u32).wrapping_sub(progress.get())))
    }

    /// Compares the sums with the walk over everything that is pending. Long backlogs are not compared.
    #[cfg(debug_assertions)]
    pub(super) fn check_sums(&self, feed: Option<&Feed>) {
        use super::OutboxState;

        const PIECES_MAX: usize = 100;
        if let Some(backlog) = &self.backlog {
            if backlog.inserted.len() > PIECES_MAX {
                return;
            }
            backlog.inserted.check();
        }
        // These states hide the feed's frames.
        let hides = [OutboxState::Replaying, OutboxState::GapOpen].contains(&self.state(feed));
        let feed = feed.filter(|_| !hides);
        let (mut events, mut bytes, mut next) = (0, 0, self.next);
        for piece in self.pending_pieces(feed) {
            match piece {
                PendingPiece::Partial(rest) => bytes += rest.len(),
                PendingPiece::Inserted(inserted) => {
                    events += u64::from(inserted.events);
                    bytes += inserted.bytes.len();
                }
                PendingPiece::Frames(frames) => {
                    // Frames that are left out are pending until the position moves past them.
                    events += frames.end - next;
                    bytes += frames.bytes.len();
                    next = frames.end;
                }
                PendingPiece::NewestGap => {}
            }
        }
        assert_eq!(events, self.pending_events(feed), "the walk has all pending events");
        let has_other_forms = feed.is_some_and(|feed| feed.conflates() || feed.compressor().is_some());
        assert!(has_other_forms || bytes as u64 == self.pending_bytes(feed), "and all pending bytes");
    }
}
