//! A connection's place as another process takes it over: what it is owed, as bytes of its own.
//!
//! Imports its parent. Always: what was owed in one process is owed in the other, once, in order; a member that was
//! saved has left its feed, and joins one again wherever it goes on.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Backlog, Compression, Fanout, Inserted, Outbox, OutboxContext, ResumeLookup};
use crate::codec::portable;
use crate::event::EventId;
use crate::feed::interest::{FeedInterest, Selection};
use crate::feed::keys::MovedMember;

/// What a outbox owes, without its feed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedOutbox {
    compression: Compression,
    /// The rest of what was begun.
    #[serde(with = "portable::bytes")]
    partial: Bytes,
    #[serde(rename = "direct")]
    inserted: Vec<SavedInserted>,
    #[serde(with = "portable::text::option")]
    last: Option<EventId>,
    /// When it began to lag, in microseconds.
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
    /// What it wants of its feed, if it has one.
    pub(crate) fn interest(&self, fanout: &Fanout) -> Option<FeedInterest> {
        let feed = fanout.feed(self.membership?.feed());
        let selections = feed.classes.iter().filter_map(|(class, conflation)| {
            Some(Selection { filter: fanout.filter(*class)?.clone(), conflation: *conflation })
        });
        Some(FeedInterest {
            encoding: feed.encoding,
            lag_policy: self.lag_policy,
            selections: selections.collect(),
        })
    }

    /// Leaves its feed, and gives what it owes in a form for another process; the outbox itself owes it still.
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
            saved.since = backlog.since;
        }
        (saved, moved)
    }

    /// A outbox that owes what was saved, and has no feed.
    pub(crate) fn restored(saved: SavedOutbox, fanout: &mut Fanout) -> Self {
        let SavedOutbox { compression, partial, inserted, last, since } = saved;
        let mut outbox = Self { compression, ..Self::default() };
        if partial.is_empty() && inserted.is_empty() {
            return outbox;
        }
        let mut backlog = Backlog { partial, last, since, ..Backlog::default() };
        for SavedInserted { bytes, events, last } in inserted {
            // It is in the books of this process from here on.
            fanout.totals.matched += u64::from(events);
            // What moves a window matters to who is in step with one: it is not, before it has read all of this.
            backlog.push(Inserted { place: 0, bytes, events, shifts: false, last, is_shared: false });
        }
        outbox.backlog = Some(Box::new(backlog));
        outbox
    }
}
