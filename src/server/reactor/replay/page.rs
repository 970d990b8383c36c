//! A page of a past: encodes the events that a reader passes on, for one client, and queues them.

use bytes::Bytes;

use super::super::kind_log::{Count, KindLog};
use super::forward::{BlockSink, EventSink, PackedSink, Step, notice};
use super::merge::{Merger, WaitingMerge};
use super::selector::ReplaySelector;
use crate::dialect::{Encoding, GapNotice, Missed, SequenceEncoder};
use crate::event::{Event, EventId, Position, Since, Timestamp};
use crate::feed::{Compression, Fanout, Outbox, Snapshot, Tally};
use crate::server::auth::Auth;
use crate::server::limits::budget::{self, Budget};
use crate::server::rng::Rng;
use crate::server::shared::blocks::BlockForm;

/// Approximate size of a page, in bytes.
pub(in crate::server::reactor) const PAGE_BYTES: usize = 64 * 1024;

/// Size up to which a frame is copied after the one before it, in bytes. A copy is freed with the connection; a frame that
/// the event caches stays with it.
const COPIED_BYTES_MAX: usize = 4096;

/// Instructions for an event sent to a client, in addition to those for its bytes: its frame and its place in the queue.
const EVENT_INSTRUCTIONS: u32 = 1_500;

/// Instructions for a byte of a payload that is searched for the string to merge.
pub(super) const MERGE_INSTRUCTIONS: usize = 4;

/// Instructions for a byte sent to a client: the copy into its frame and the kernel's copy.
pub(super) const BYTE_INSTRUCTIONS: usize = 3;

/// Instructions for a byte of a block: the kernel's copy, 0.1 ns on a machine's own network, and as much again for others.
const BLOCK_BYTE_INSTRUCTIONS: usize = 1;

/// Small frames that are queued as one piece.
#[derive(Debug, Default)]
pub(super) struct SmallFrames {
    pub(super) bytes: Vec<u8>,
    pub(super) events: u32,
    pub(super) last: Option<EventId>,
}

/// Page being queued for one connection.
pub(super) struct Page<'a> {
    /// Seal of places, for a client that must not see the volume of events beyond its grant.
    pub(super) seals: Option<(&'a Auth, &'a mut Rng)>,
    pub(super) kind_log: &'a KindLog,
    /// Budget units spent on lookups of dropped events.
    pub(super) spent: &'a mut u32,
    pub(super) encoding: Encoding,
    pub(super) selector: &'a mut ReplaySelector,
    pub(super) outbox: &'a mut Outbox,
    pub(super) fanout: &'a mut Fanout,
    pub(super) tally: &'a mut Tally,
    pub(super) events: &'a mut u64,
    pub(super) has_gap: &'a mut bool,
    pub(super) merger: &'a mut Option<Merger>,
    pub(super) size: usize,
    /// Frames that are not queued yet.
    pub(super) small: SmallFrames,
}

impl Page<'_> {
    /// Reports once that keys may be missing from a snapshot.
    pub(super) fn report_short_snapshot(&mut self, snapshot: &Snapshot, is_followed: bool, now: Timestamp) {
        if !*self.has_gap && (snapshot.is_short() || !is_followed) {
            self.gap(&notice(Missed::Unknown, None, None, now));
        }
    }

    /// Looks up the events of a gap. Returns `None` if it is known that the client wanted none of them.
    fn gap_size(&mut self, missed: Missed, gap: &GapNotice) -> Option<Missed> {
        let (Missed::AtMost(gone), Some(Since::Event(after))) = (missed, &gap.from) else {
            return Some(missed);
        };
        let (shard, from) = ((after.epoch, after.shard), after.next_sequence());
        let count = self.kind_log.count(self.selector.requested(), shard, from, gone, self.spent);
        match count {
            None => Some(missed),
            Some(Count { most: 0, .. }) => None,
            // Other subscriptions may have delivered some, and a search for the newest events may have requested fewer.
            Some(Count { least, most }) => {
                let is_asked_for = matches!(gap.missed, Missed::Exactly(_)) && self.selector.is_alone();
                let is_exact = least == most && is_asked_for;
                Some(if is_exact { Missed::Exactly(most) } else { Missed::AtMost(most) })
            }
        }
    }
}

impl Page<'_> {
    /// Queues an unmerged event.
    pub(super) fn send(&mut self, event: &Event, at: Option<&Position>, budget: &mut Budget) {
        let frame = match at.filter(|at| event.position() != Some(at)) {
            None => self.fanout.frame(event, self.encoding, self.outbox.compression()),
            Some(at) => self.fanout.frame_at(event, at, self.encoding, self.outbox.compression()),
        };
        self.queue(frame, event, budget);
    }

    fn queue(&mut self, frame: Bytes, event: &Event, budget: &mut Budget) {
        self.size += frame.len();
        budget.spend(EVENT_INSTRUCTIONS / 1_000);
        budget.spend_bytes(frame.len().min(PAGE_BYTES * 4), BYTE_INSTRUCTIONS);
        *self.events += 1;
        if frame.len() > COPIED_BYTES_MAX {
            self.flush();
            self.outbox.send_replayed(self.fanout, frame, 1, event.id());
            return;
        }
        self.small.bytes.extend_from_slice(&frame);
        self.small.events += 1;
        self.small.last = event.id().or(self.small.last);
    }

    /// Queues the small frames. To be called before anything else is queued, and at the end of a step.
    pub(super) fn flush(&mut self) {
        if self.small.events > 0 {
            let SmallFrames { mut bytes, events, last } = std::mem::take(&mut self.small);
            bytes.shrink_to_fit();
            self.outbox.send_replayed(self.fanout, bytes.into(), events, last);
        }
    }

    /// Queues a waiting merge.
    pub(super) fn send_merged(&mut self, waiting: &WaitingMerge, budget: &mut Budget) {
        let (event, at) = (&waiting.last, waiting.at.as_ref());
        let compression = self.outbox.compression();
        let merged = waiting.merged().and_then(|merged| {
            self.fanout.frame_merged(event, &merged, at.or(event.position()), self.encoding, compression)
        });
        match merged {
            Some(frame) => {
                let merged = u64::from(waiting.count) - 1;
                self.tally.merged += merged;
                self.fanout.totals.matched += merged;
                self.queue(frame, event, budget);
            }
            None => self.send(event, at, budget),
        }
    }

    /// Queues the step's frames, and the waiting merge if the step was the last one.
    pub(super) fn finish(&mut self, step: &Step, budget: &mut Budget) {
        if *step == Step::Over
            && let Some(waiting) = self.merger.as_mut().and_then(Merger::take)
        {
            self.send_merged(&waiting, budget);
        }
        self.flush();
    }
}

impl BlockSink for Page<'_> {
    fn form(&self) -> BlockForm {
        BlockForm { slot: self.encoding.slot(), compression: self.outbox.compression() }
    }

    fn encoding(&self) -> Encoding {
        self.encoding
    }

    fn put_frame(&mut self, event: &Event, frames: &mut Vec<u8>) {
        self.fanout.put_frame(event, self.encoding, self.outbox.compression(), frames);
    }

    fn count_frames(&self, lens: &mut dyn Iterator<Item = usize>) {
        self.fanout.count_frames(lens);
    }

    fn block(&mut self, frames: Bytes, events: u32, last: EventId, budget: &mut Budget) {
        self.flush();
        self.size += frames.len();
        budget.spend_bytes(frames.len(), BLOCK_BYTE_INSTRUCTIONS);
        *self.events += u64::from(events);
        self.outbox.send_replayed(self.fanout, frames, events, Some(last));
    }
}

impl EventSink for Page<'_> {
    fn is_full(&self) -> bool {
        // Looking up the gaps of a thousand shards takes several turns.
        self.size >= PAGE_BYTES || *self.spent >= budget::CLIENT
    }

    fn decides(&mut self, event: &Event, budget: &mut Budget) -> bool {
        self.selector.decides(event, budget)
    }

    /// A client's position after an event of several shards may differ from the loop's, if shards have their own
    /// order here or the client came from another node: then it gets a frame of its own.
    fn event(&mut self, event: &Event, at: Option<&Position>, budget: &mut Budget) {
        if !self.selector.wants(event, budget) {
            return;
        }
        let Some(merger) = self.merger.as_mut() else { return self.send(event, at, budget) };
        budget.spend_bytes(event.payload().len(), MERGE_INSTRUCTIONS);
        let (before, is_apart) = merger.offer(event, at);
        if let Some(before) = before {
            self.send_merged(&before, budget);
        }
        if is_apart {
            self.send(event, at, budget);
        }
    }

    fn gap(&mut self, gap: &GapNotice) {
        let Some(missed) = self.selector.missed(gap.missed).and_then(|missed| self.gap_size(missed, gap))
        else {
            return;
        };
        if let Some(waiting) = self.merger.as_mut().and_then(Merger::take) {
            // One event beyond the budget.
            self.send_merged(&waiting, &mut Budget::new(budget::CLIENT));
        }
        self.flush();
        self.tally.gaps += 1;
        *self.has_gap = true;
        let to = gap.to;
        let mut gap = GapNotice { missed, ..gap.clone() };
        if let Some((auth, rng)) = &mut self.seals {
            gap = gap.within_a_grant(|since| auth.seal(since, rng.next_u128() as u64));
        }
        self.outbox.send_in_replay(self.encoding.gap(&gap), to);
    }

    /// Decisions and merges need single events.
    fn blocks(&mut self) -> Option<&mut dyn BlockSink> {
        (self.merger.is_none() && self.selector.is_alone()).then_some(self)
    }

    fn packed(&mut self) -> Option<&mut dyn PackedSink> {
        let is_encoded_here =
            self.outbox.compression() == Compression::None && SequenceEncoder::has_templates(self.encoding);
        let is_taken = self.selector.is_alone() && self.selector.decides_by_attributes();
        (is_taken && (self.merger.is_some() || is_encoded_here)).then_some(self)
    }
}
