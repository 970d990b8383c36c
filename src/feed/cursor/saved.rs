//! A connection's place as another process takes it over: what it is owed, as bytes of its own.
//!
//! Imports its parent. Always: what was owed in one process is owed in the other, once, in order; a member that was
//! saved has left its feed, and joins one again wherever it goes on.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Backlog, Compression, Cursor, Direct, Fanout, Ring, Tally};
use crate::codec::portable;
use crate::dialect::Encoding;
use crate::event::EventId;
use crate::feed::{Cut, Slot, Wish};

/// What a cursor owes, without its feed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedCursor {
    compression: Compression,
    /// The rest of what was begun.
    #[serde(with = "portable::bytes")]
    partial: Bytes,
    direct: Vec<SavedDirect>,
    #[serde(with = "portable::text::option")]
    last: Option<EventId>,
    /// When it began to lag, in microseconds.
    since: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedDirect {
    #[serde(with = "portable::bytes")]
    bytes: Bytes,
    events: u32,
    #[serde(with = "portable::text::option")]
    last: Option<EventId>,
}

/// What a member wanted of its feed.
pub(crate) type Interest = (Encoding, Cut, Vec<Wish>);

impl Cursor {
    /// What it wants of its feed, if it has one.
    pub(crate) fn interest(&self, fanout: &Fanout) -> Option<Interest> {
        let feed = fanout.feed(self.membership?.feed());
        let wishes = feed.classes.iter().filter_map(|(class, thinning)| {
            Some(Wish { filter: fanout.filter(*class)?.clone(), thinning: *thinning })
        });
        Some((feed.encoding, self.cut, wishes.collect()))
    }

    /// Leaves its feed, and gives what it owes in a form for another process; the cursor itself owes it still.
    /// Another member may have moved, as in [`leave`](Self::leave).
    pub(crate) fn save(
        &mut self,
        fanout: &mut Fanout,
        tally: &mut Tally,
        ring: &impl Ring,
    ) -> (SavedCursor, Option<(Slot, u32)>) {
        let moved = self.leave(fanout, tally, ring);
        let mut saved = SavedCursor { compression: self.compression, ..SavedCursor::default() };
        if let Some(backlog) = &self.backlog {
            let direct = |direct: &Direct| SavedDirect {
                bytes: direct.bytes.clone(),
                events: direct.events,
                last: direct.last,
            };
            saved.partial = backlog.partial.clone();
            saved.direct = backlog.direct.iter().map(direct).collect();
            saved.last = backlog.last;
            saved.since = backlog.since;
        }
        (saved, moved)
    }

    /// A cursor that owes what was saved, and has no feed.
    pub(crate) fn restored(saved: SavedCursor, fanout: &mut Fanout) -> Self {
        let SavedCursor { compression, partial, direct, last, since } = saved;
        let mut cursor = Self { compression, ..Self::default() };
        if partial.is_empty() && direct.is_empty() {
            return cursor;
        }
        let mut backlog = Backlog { partial, last, since, ..Backlog::default() };
        for SavedDirect { bytes, events, last } in direct {
            // It is in the books of this process from here on.
            fanout.books.matched += u64::from(events);
            // What moves a window matters to who is in step with one: it is not, before it has read all of this.
            backlog.push(Direct { place: 0, bytes, events, shifts: false, last, is_shared: false });
        }
        cursor.backlog = Some(Box::new(backlog));
        cursor
    }
}
