//! One order over all shards, common to every loop of a bus. So a position names the same events in all loops, and they
//! can share an event's frame, which contains its position.
//!
//! Invariants:
//! - The order is made of segments. The first loop that comes to its end makes the next segment; every other loop reads the
//!   same one.
//! - A shard's own order stays as it is.
//! - An event's position follows from the start of its segment alone, so all loops compute the same one.
//!
//! With one shard no order is kept. The lock is held to take a segment, or to read a new one of up to 64 events: once
//! for a batch, not once for an event.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::event::{Position, Sequence};

/// Maximum number of segments kept for a loop that is behind; a loop that is further behind has lost events.
const SEGMENTS_MAX: usize = 1 << 16;

/// Consecutive events of one shard.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) shard: usize,
    /// First sequence of the shard after the segment.
    pub(super) to: Sequence,
    /// Position of a client that has received everything before the segment.
    pub(super) before: Position,
}

/// The order: the segments that some loop has not read yet.
#[derive(Debug)]
pub(super) struct Order {
    segments: VecDeque<Segment>,
    /// Number of the oldest segment that is kept.
    base: u64,
    /// Next sequence of each shard before the oldest segment.
    base_next: SmallVec<[Sequence; 4]>,
    /// Next sequence of each shard after the newest segment.
    next: SmallVec<[Sequence; 4]>,
    /// Position of a client after the newest segment: in the ids of a log if events come from one.
    client_position: Position,
    /// For each loop: number of the segment that it reads next; `None` if the loop is gone.
    readers: Vec<Option<u64>>,
}

/// Answer to a loop that asks for its next segment.
pub(super) enum NextSegment {
    Segment(Segment),
    /// The loop is at the end.
    End,
    /// The loop was too far behind: its next segments were dropped.
    Lost {
        /// Number of the segment at which the loop continues.
        number: u64,
        /// Next sequence of each shard there.
        sequences: SmallVec<[Sequence; 4]>,
    },
}

impl Order {
    /// Creates an order that begins at this position.
    pub(super) fn new(start: Position) -> Self {
        let next = start.sequences.clone();
        Self {
            segments: VecDeque::new(),
            base: 0,
            base_next: next.clone(),
            next,
            client_position: start,
            readers: Vec::new(),
        }
    }

    /// Adds a reader, and returns its number and the number of its next segment.
    pub(super) fn enter(&mut self) -> (usize, u64) {
        let end = self.end();
        self.readers.push(Some(end));
        (self.readers.len() - 1, end)
    }

    /// Removes a reader.
    pub(super) fn leave(&mut self, reader: usize) {
        self.readers[reader] = None;
        self.forget();
    }

    /// Returns the number of the next segment to be made.
    pub(super) fn end(&self) -> u64 {
        self.base + self.segments.len() as u64
    }

    /// Returns the next sequence of each shard that is in no segment.
    pub(super) fn next_sequences(&self) -> &[Sequence] {
        &self.next
    }

    /// Returns the position of a client that has received everything.
    pub(super) fn client_position(&self) -> &Position {
        &self.client_position
    }

    /// Sets the clients' position in a log, unless an event of the log has set a later one already.
    pub(super) fn begin_at(&mut self, own_epoch: u64, log: Position) {
        if self.client_position.epoch == own_epoch && log.sequences.len() == self.next.len() {
            self.client_position = log;
        }
    }

    /// Returns the segment `number` to a reader that has read all before it.
    pub(super) fn segment(&mut self, reader: usize, number: u64) -> NextSegment {
        self.readers[reader] = Some(number);
        let Some(index) = number.checked_sub(self.base) else {
            return NextSegment::Lost { number: self.base, sequences: self.base_next.clone() };
        };
        match self.segments.get(index as usize) {
            Some(segment) => NextSegment::Segment(segment.clone()),
            None => {
                self.forget();
                NextSegment::End
            }
        }
    }

    /// Appends the segment that a reader at the end has read: one shard's events up to `to`. `client_position` is the
    /// position after it. Returns the number of the segment after this one.
    pub(super) fn push(
        &mut self,
        reader: usize,
        shard: usize,
        to: Sequence,
        client_position: Position,
    ) -> u64 {
        let before = std::mem::replace(&mut self.client_position, client_position);
        self.next[shard] = to;
        self.segments.push_back(Segment { shard, to, before });
        self.readers[reader] = Some(self.end());
        self.forget();
        self.end()
    }

    /// Drops the segments that every reader has read.
    fn forget(&mut self) {
        let needed = self.readers.iter().flatten().min().copied().unwrap_or(u64::MAX);
        while let Some(segment) = self.segments.front()
            && (self.base < needed || self.segments.len() > SEGMENTS_MAX)
        {
            self.base_next[segment.shard] = segment.to;
            self.segments.pop_front();
            self.base += 1;
        }
    }
}
