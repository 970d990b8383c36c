//! Feeds without sockets, for the benchmarks: what a delivery costs before the kernel's part.
//!
//! Imports its siblings, `event`, `filter`, `dialect`. No part of the crate's interface.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use super::{Cursor, Fanout, FeedLimits, Flushed, KeyRule, Ring, Tally};
use crate::dialect::Encoding;
use crate::event::{Event, EventId, Timestamp};
use crate::filter::Filter;
use crate::metrics::Metrics;

/// A socket that takes everything and keeps nothing.
#[derive(Debug, Default)]
struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ring for Sink {
    fn keeps_behind(&self, _: EventId) -> bool {
        true
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// So many members, spread over so many interests.
#[derive(Debug)]
pub struct Fan {
    fanout: Fanout,
    cursors: Vec<Cursor>,
    tally: Tally,
    sequence: u64,
}

impl Fan {
    /// `members` WebSocket clients; the n-th wants the types `kind{n % interests}.*`.
    pub fn new(members: u32, interests: u32) -> Self {
        let limits = FeedLimits { max_events: 1000, max_bytes: 1 << 20, max_keys: 1000 };
        let mut fanout = Fanout::new(limits, KeyRule::default(), Arc::new(Metrics::default()));
        let cursors = (0..members)
            .map(|slot| {
                let mut cursor = Cursor::default();
                let filter = Filter::new().types([format!("kind{}.*", slot % interests)]);
                cursor.join(&mut fanout, Encoding::NativeWs, &[filter.into()], slot);
                cursor
            })
            .collect();
        Self { fanout, cursors, tally: Tally::default(), sequence: 0 }
    }

    /// Publishes events and writes them to whoever wants them; answers how many deliveries that were.
    pub fn deliver(&mut self, events: Vec<Event>) -> u64 {
        for event in events {
            let event = event.into_publishable();
            event.place(EventId { epoch: 1, shard: 0, sequence: self.sequence });
            self.sequence += 1;
            self.fanout.append(&event, Timestamp(0));
        }
        let mut dirty = Vec::new();
        self.fanout.take_dirty(&mut dirty);
        let before = self.tally.events;
        for feed in dirty {
            for place in 0..self.fanout.feed(feed).members.len() {
                let slot = self.fanout.feed(feed).members[place] as usize;
                let flushed =
                    self.cursors[slot].flush(&self.fanout, &mut Sink, usize::MAX, &mut self.tally, &Sink);
                debug_assert!(matches!(flushed, Flushed::Done));
            }
            self.fanout.forget_written(feed);
        }
        self.tally.events - before
    }

    /// Write calls so far.
    pub fn writes(&self) -> u64 {
        self.tally.writes
    }
}
