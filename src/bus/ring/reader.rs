//! Reads the rings of a bus as one participant.
//!
//! Invariant: I5 of the room.
#![allow(unsafe_code, reason = "looks at bodies; the invariants are the room's")]

use std::sync::Arc as Count;

use super::super::event_count::Wake;
use super::pin::{PIN_SPAN, Pinned, pin_word};
use super::registry::Participant;
use super::slots::{Peek, SlotRead, VisitEnd};
use super::{RingSet, Sequence, SlotCodec};
use crate::sync::Arc;

/// Reads the rings of a ring set.
pub(crate) struct RingReader<C: SlotCodec> {
    rings: Arc<RingSet<C>>,
    participant: Count<Participant>,
}

impl<C: SlotCodec> RingReader<C> {
    pub(crate) fn new(rings: Arc<RingSet<C>>) -> Self {
        let participant = rings.registry.register();
        Self { rings, participant }
    }

    pub(crate) fn rings(&self) -> &Arc<RingSet<C>> {
        &self.rings
    }

    /// Shows items to `visit`, from `*next` on, until `visit` returns false, there are no more, or a span is over.
    /// Moves `*next` past an item before it is shown.
    #[inline]
    pub(crate) fn visit(
        &mut self,
        shard: usize,
        next: &mut Sequence,
        mut visit: impl FnMut(&C::Item) -> bool,
    ) -> VisitEnd {
        let ring = &self.rings.shards[shard];
        if C::COUNTED {
            // Looks without a pin first: most looks find nothing.
            match ring.peek(*next) {
                Peek::NotYet => return VisitEnd::NotYet,
                Peek::Lapped => return VisitEnd::Lapped,
                Peek::Ready => {}
            }
        }
        let pinned = C::COUNTED.then(|| Pinned::new(&self.participant, pin_word(shard, *next)));
        let end = *next + PIN_SPAN;
        let outcome = loop {
            if *next == end {
                break VisitEnd::Enough;
            }
            match ring.read(*next) {
                SlotRead::NotYet => break VisitEnd::NotYet,
                SlotRead::Lapped => break VisitEnd::Lapped,
                SlotRead::Image(image) => {
                    *next += 1;
                    // SAFETY: the stamp was right after the words were read, so the image is whole (E1, E2)
                    // and as packed. A body: the stamp was right after the fence of our pin, which covers
                    // this sequence (I5), so it is not released before the pin is taken off (I4).
                    if !unsafe { C::with_item(&image, &mut visit) } {
                        break VisitEnd::Enough;
                    }
                }
            }
        };
        drop(pinned);
        outcome
    }

    /// Announces that this reader goes to sleep. The reader must look once more, then sleep or not, and call
    /// [`Self::cancel_sleep`].
    pub(crate) fn prepare_sleep(&self, wake: Wake) {
        self.rings.event_count.prepare_wait(&self.participant.waiter, wake);
    }

    /// Returns whether the announcement is still in effect: no publisher has woken this reader since.
    #[cfg(any(feature = "server", loom))]
    pub(crate) fn is_announced(&self) -> bool {
        self.participant.waiter.is_asleep()
    }

    /// Wakes every other reader that sleeps. Called after a publication by this reader's own thread, which is awake.
    #[cfg(feature = "server")]
    pub(crate) fn notify_others(&self) {
        self.rings.notify_except(&self.participant);
    }

    /// Withdraws the announcement.
    pub(crate) fn cancel_sleep(&self) {
        self.rings.event_count.cancel_wait(&self.participant.waiter);
    }
}

impl<C: SlotCodec> Drop for RingReader<C> {
    fn drop(&mut self) {
        self.cancel_sleep();
        self.participant.release();
    }
}
