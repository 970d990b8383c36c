//! Feeds without sockets, for benchmarks of a delivery without the kernel. Not part of the crate's interface.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use bytes::Bytes;

use super::{
    ByteSink, Compression, CompressorLimits, Fanout, FeedLimits, Flushed, KeyRule, Outbox, OutboxContext,
    ResumeLookup, Tally,
};
use crate::dialect::Encoding;
use crate::event::{Event, EventId, Since, Timestamp};
use crate::filter::Filter;
use crate::metrics::Metrics;

/// A socket that accepts all bytes and drops them.
#[derive(Debug, Default)]
struct Nowhere;

impl Write for Nowhere {
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

impl ByteSink for Nowhere {}

impl ResumeLookup for Nowhere {
    fn resume_after(&self, id: EventId) -> Option<Since> {
        Some(Since::Event(id))
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// Compression of the members' bytes.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// No compression.
    Plain,
    /// WebSocket messages that refer back to earlier ones.
    ContextTakeover,
    /// Standalone WebSocket messages.
    NoContextTakeover,
    /// An event stream as one gzip stream.
    Gzip,
}

/// Returns the event's frame as a native WebSocket message.
#[must_use]
pub fn native_frame(event: &Event) -> Bytes {
    Encoding::NativeWs.encode(event, None)
}

/// A fan-out with members whose sockets accept everything.
#[derive(Debug)]
pub struct Fan {
    fanout: Fanout,
    outboxes: Vec<Outbox>,
    tally: Tally,
    sequence: u64,
    metrics: Arc<Metrics>,
}

impl Fan {
    /// Returns a fan-out to `members` WebSocket clients. The n-th wants the types `kind{n % interests}.*`.
    #[must_use]
    pub fn new(members: u32, interests: u32) -> Self {
        let filter = |conn| Filter::new().types([format!("kind{}.*", conn % interests)]);
        Self::with(members, Encoding::NativeWs, Compression::None, filter)
    }

    /// Returns a fan-out to `members` clients that want every event, in this form.
    #[must_use]
    pub fn compressed(members: u32, form: Form) -> Self {
        let (encoding, compression) = match form {
            Form::Plain => (Encoding::NativeWs, Compression::None),
            Form::ContextTakeover => (Encoding::NativeWs, Compression::ContextTakeover { bits: 15 }),
            Form::NoContextTakeover => (Encoding::NativeWs, Compression::NoContextTakeover { bits: 15 }),
            Form::Gzip => (Encoding::NativeSse, Compression::Gzip),
        };
        Self::with(members, encoding, compression, |_| Filter::new())
    }

    /// Returns a fan-out to `members` WebSocket clients, each with a channel of its own: `user-{n}`.
    #[must_use]
    pub fn own_channels(members: u32) -> Self {
        let filter = |conn| Filter::new().channels([format!("user-{conn}")]);
        Self::with(members, Encoding::NativeWs, Compression::None, filter)
    }

    /// Returns a fan-out to `members` WebSocket clients, each with a watch list of `count` of 1,000 entities: `symbol:{n}`.
    #[must_use]
    pub fn watch_lists(members: u32, count: u32) -> Self {
        let filter = |conn: u32| {
            let symbols = (0..count).map(|n| (conn * 37 + n * 11 + n * n) % 1000);
            Filter::new().entities(symbols.map(|symbol| ("symbol", symbol.to_string())))
        };
        Self::with(members, Encoding::NativeWs, Compression::None, filter)
    }

    fn with(
        members: u32,
        encoding: Encoding,
        compression: Compression,
        filter: impl Fn(u32) -> Filter,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        let limits = FeedLimits {
            max_events: 1000,
            max_bytes: 1 << 20,
            max_keys: 1000,
            compressor: CompressorLimits::default(),
        };
        let mut fanout = Fanout::new(limits, KeyRule::default(), Arc::clone(&metrics));
        let outboxes = (0..members)
            .map(|conn| {
                let mut outbox = Outbox::default();
                outbox.set_compression(compression);
                outbox.join(&mut fanout, encoding, &[filter(conn).into()], conn);
                outbox
            })
            .collect();
        Self { fanout, outboxes, tally: Tally::default(), sequence: 0, metrics }
    }

    /// Appends events, writes them to the members that want them, and returns the number of deliveries.
    pub fn deliver(&mut self, events: Vec<Event>) -> u64 {
        for event in events {
            let event = event.into_publishable();
            event.set_id(EventId { epoch: 1, shard: 0, sequence: self.sequence });
            self.sequence += 1;
            self.fanout.append_within(&event, Timestamp(0), u64::MAX);
        }
        let mut dirty = Vec::new();
        self.fanout.take_dirty(&mut dirty);
        let before = self.tally.events;
        for feed in dirty {
            // Written as in `reactor::deliver`.
            let members = self.fanout.feed(feed).members().len();
            if members > 1 {
                self.fanout.seal(feed);
            }
            for index in 0..members {
                let conn = self.fanout.feed(feed).members()[index] as usize;
                let outbox = &mut self.outboxes[conn];
                let cx = &mut OutboxContext::new(&mut self.tally, &Nowhere);
                let flushed = if members > 1 {
                    outbox.flush(&self.fanout, &mut Nowhere, usize::MAX, cx)
                } else {
                    outbox.flush_appended(&mut self.fanout, &mut Nowhere, usize::MAX, cx)
                };
                debug_assert!(matches!(flushed, Flushed::Done));
            }
            self.fanout.forget_written(feed);
        }
        self.tally.events - before
    }

    /// Returns the number of bytes written so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// Returns the number of frames compressed so far.
    #[must_use]
    pub fn deflates(&self) -> u64 {
        self.metrics.deflates.get()
    }

    /// Returns the number of write calls so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.tally.writes
    }
}
