//! An outbox in a form that another process can take over: everything pending, as bytes of the connection's own.
//!
//! Invariants:
//! - Bytes that were pending in one process are pending in the other, once and in order.
//! - A member that was saved has left its feed, and joins a feed again in the process that continues its connection.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::backlog::OutboxBacklog;
use super::inserted::Inserted;
use super::{Outbox, OutboxContext, ResumeLookup};
use crate::codec::portable;
use crate::event::{EventId, Timestamp};
use crate::feed::compressor::Compression;
use crate::feed::fanout::Fanout;
use crate::feed::interest::{FeedInterest, FilterSelection};
use crate::feed::keys::MovedMember;

/// Pending bytes of an outbox, without its feed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedOutbox {
    compression: Compression,
    /// Rest of the partly written frame.
    #[serde(with = "portable::bytes")]
    partial: Bytes,
    #[serde(rename = "direct")]
    inserted: Vec<SavedInserted>,
    #[serde(with = "portable::text::option")]
    last: Option<EventId>,
    /// Time at which the connection began to lag, in microseconds; 0 if it does not lag.
    since: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedInserted {
    #[serde(with = "portable::bytes")]
    bytes: Bytes,
    events: u32,
    #[serde(with = "portable::text::option")]
    last: Option<EventId>,
}

impl Outbox {
    /// Returns the connection's interest in its feed, if it has one.
    pub(crate) fn interest(&self, fanout: &Fanout) -> Option<FeedInterest> {
        let feed = fanout.feed(self.membership?.feed());
        let selections = feed.classes().filter_map(|(class, conflation)| {
            Some(FilterSelection { filter: fanout.filter(class)?.clone(), conflation })
        });
        Some(FeedInterest {
            encoding: feed.form.encoding,
            lag_policy: self.lag_policy,
            selections: selections.collect(),
        })
    }

    /// Leaves the feed, and returns the pending bytes in a form for another process. They also stay pending here.
    ///
    /// Another member may have moved, as in [`leave`](Self::leave).
    pub(crate) fn save(
        &mut self,
        fanout: &mut Fanout,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> (SavedOutbox, Option<MovedMember>) {
        let moved = self.leave(fanout, cx);
        let mut saved = SavedOutbox { compression: self.compression, ..SavedOutbox::default() };
        if let Some(backlog) = &self.backlog {
            let inserted = |inserted: &Inserted| SavedInserted {
                bytes: inserted.bytes.clone(),
                events: inserted.events,
                last: inserted.last,
            };
            saved.partial = backlog.partial.clone();
            saved.inserted = backlog.inserted.iter().map(inserted).collect();
            saved.last = backlog.last;
            saved.since = backlog.lagging_since.map_or(0, |since| since.0);
        }
        (saved, moved)
    }

    /// Returns an outbox with the saved bytes pending, and without a feed.
    pub(crate) fn restored(saved: SavedOutbox, fanout: &mut Fanout) -> Self {
        let SavedOutbox { compression, partial, inserted, last, since } = saved;
        let mut outbox = Self { compression, ..Self::default() };
        if partial.is_empty() && inserted.is_empty() {
            return outbox;
        }
        let lagging_since = (since != 0).then_some(Timestamp(since));
        let mut backlog = OutboxBacklog { partial, last, lagging_since, ..OutboxBacklog::default() };
        for SavedInserted { bytes, events, last } in inserted {
            // This process counts the events from here on.
            fanout.totals.matched += u64::from(events);
            // The outbox is not in sync with any window before all of these bytes are written, so their effect on a
            // window does not matter.
            let (before, changes_window, is_shared) = (0, false, false);
            backlog.inserted.push(Inserted { before, bytes, events, changes_window, last, is_shared });
        }
        outbox.backlog = Some(Box::new(backlog));
        outbox
    }
}
