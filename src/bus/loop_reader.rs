//! The bus as an event loop reads it: never waits, and is woken by a function of its own.
//!
//! Imports the cursor. Always: after [`LoopReader::prepare_sleep`] answered true, the next publication calls
//! the waker.

use super::Visit;
use super::carried::Carried;
use super::cursor::Cursor;
use super::park::Wake;
use crate::event::{Event, Sequence};
use crate::sync::Callback;

/// One thing that a loop reads.
pub(crate) enum ReaderItem<'a, T = Event> {
    /// The next event of its shard.
    Event(&'a T),
    /// `from..to` of a shard are lost to this reader.
    Gap { shard: u16, missed: u64, from: Sequence, to: Sequence },
}

/// A loop's reader over all shards.
pub(crate) struct LoopReader<T: Carried = Event> {
    cursor: Cursor<T>,
    waker: Callback,
}

impl<T: Carried> LoopReader<T> {
    pub(super) fn new(cursor: Cursor<T>, waker: Callback) -> Self {
        Self { cursor, waker }
    }

    /// The next sequence it will read in a shard.
    pub(crate) fn position(&self, shard: u16) -> Sequence {
        self.cursor.next(usize::from(shard))
    }

    /// Shows up to `max` events and gaps, in order for each shard. Answers how many.
    pub(crate) fn poll_batch(&mut self, max: usize, mut f: impl FnMut(ReaderItem<'_, T>)) -> usize {
        let mut count = 0;
        if max > 0 {
            self.cursor.visit(|visit| {
                count += 1;
                f(match visit {
                    Visit::Event(event) => ReaderItem::Event(event),
                    Visit::Gap(gap) => {
                        ReaderItem::Gap { shard: gap.shard, missed: gap.missed, from: gap.from, to: gap.to }
                    }
                });
                count < max
            });
        }
        count
    }

    /// Announces that the loop goes to sleep, and looks again. True: nothing to read, it may sleep, and a
    /// wake-up is certain. False: there is more.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        self.cursor.is_closed() || self.cursor.prepare_sleep(Wake::Call(Callback::clone(&self.waker)))
    }

    /// Takes the announcement back, after the loop woke up for whatever reason.
    pub(crate) fn awake(&mut self) {
        self.cursor.awake();
    }
}
