//! Replays from kept logs: from the beginning, or after a place that the ring has dropped.
//!
//! Invariants:
//! - One place in each shard decides what comes from the logs and what live: that of the next event that the loop reads, when the
//!   client joins its feed. The client joins in the step in which the replay begins, so no event is missing or duplicated in between.
//! - The engine's follower may have recorded events after that place. They are live ones. If a newer life or a purge is among them,
//!   the replay begins after the loop has read it (`place_of_unread_lives`).
//! - Logs and rings are merged in the order in which the loops read events. The rings are read only where events of the filters
//!   may be under no rule, and of their events those that a rule keeps, or one of the logs has, are left out.
//! - No event is kept between two steps.
//! - A client that wants every event of its only log gets encoded blocks, which such clients share. They have the bytes that
//!   the client gets event by event.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::forward::{BlockSink, EventSink, Forward, Step, Store, notice};
use crate::dialect::{Encoding, GapNotice, Missed, SequenceEncoder};
use crate::engine::LogPlace;
use crate::event::{Event, EventId, Position, Sequence, Since, Timestamp};
use crate::feed::Compression;
use crate::filter::Filter;
use crate::kept::{KeptContent, KeptCursor, KeptItem, KeptLogs, KeptPart, OrderPlace, order_place};
use crate::server::limits::budget::Budget;
use crate::server::shared::Shared;
use crate::server::shared::blocks::{BLOCK_BYTES_MAX, EncodedBlock, GrowingBlock};
use crate::sync::MutexGuard;

/// Number of events taken from the logs together.
const CHUNK: usize = 64;

/// Approximate size of a frame without the payload, in bytes.
const FRAME_BYTES: usize = 320;

/// Instructions for the frame of an event in a block.
const ENCODE_INSTRUCTIONS: usize = 2_500;

/// Instructions for such a frame with a template, and the copy of a few hundred bytes.
const QUICK_INSTRUCTIONS: usize = 500;

/// Bytes by which frames of neighbours differ in the length of their numbers.
const NUMBERS_BYTES: usize = 8;

/// Past of one client in kept logs, and in the rings for events under no rule.
#[derive(Debug)]
pub(super) struct KeptPast {
    cursor: KeptCursor,
    filters: Vec<Filter>,
    /// Place of the client's first live event in each shard.
    until: SmallVec<[LogPlace; 1]>,
    rings: Option<Forward>,
    /// Last event of the logs that was passed on.
    last: Option<EventId>,
    /// Whether a gap was reported for events that the loops have not read.
    has_reported_unread: bool,
}

impl KeptPast {
    pub(super) fn new(
        cursor: KeptCursor,
        filters: &[Filter],
        until: impl Iterator<Item = LogPlace>,
        rings: Option<Forward>,
    ) -> Self {
        let until: SmallVec<[LogPlace; 1]> = until.collect();
        let unread_first = until.len() > 1;
        let rings = rings.map(|rings| Forward { unread_first, ..rings });
        Self { cursor, filters: filters.to_vec(), until, rings, last: None, has_reported_unread: false }
    }

    /// Returns the places after which it reads; none if it reads from the beginning.
    pub(super) fn places(&self) -> SmallVec<[EventId; 1]> {
        self.cursor.after().into()
    }

    /// Returns the place up to which it has read everything, if there is one shard.
    pub(super) fn place(&self) -> Option<Since> {
        match (self.cursor.after(), &self.rings) {
            ([after], None) => Some(Since::Event(self.last.unwrap_or(*after))),
            _ => None,
        }
    }

    /// Returns whether the past is complete; `None` while that is unknown.
    pub(super) fn is_complete(&self) -> Option<bool> {
        let rings = self.rings.as_ref().map(|rings| rings.start().complete);
        if self.cursor.has_gap() { Some(false) } else { rings.unwrap_or(Some(true)) }
    }

    /// Moves the end forward to the client's new first live event.
    pub(super) fn extend(
        &mut self,
        shared: &Shared,
        until: impl Iterator<Item = LogPlace>,
        end: impl Fn(u16) -> (Sequence, LogPlace),
        now: Timestamp,
    ) {
        self.until = until.collect();
        if let Some(logs) = shared.kept.lock() {
            logs.extend(&mut self.cursor, &self.filters, now);
        }
        if let Some(rings) = &mut self.rings {
            rings.extend(end);
        }
    }

    /// Continues reading.
    pub(super) fn step(
        &mut self,
        store: &mut Store<'_>,
        sink: &mut dyn EventSink,
        budget: &mut Budget,
    ) -> Step {
        let Self { cursor, until, rings, last, has_reported_unread, .. } = self;
        let (shared, now) = (store.shared, store.now);
        let mut merged = MergedLogs {
            shared,
            now,
            cursor,
            last,
            until,
            items: VecDeque::new(),
            is_over: false,
            judged: None,
            has_reported_unread,
            has_rings: rings.is_some(),
            sink,
        };
        if let Some(rings) = rings {
            match rings.step(store, &mut merged, budget) {
                Step::Over => {}
                other => return other,
            }
        }
        if merged.pass_before(None, budget) { Step::Over } else { Step::More }
    }

    pub(super) fn held_bytes(&self) -> usize {
        let filters: usize = self.filters.iter().map(Filter::held_bytes).sum();
        let rings = self.rings.as_ref().map_or(0, Forward::held_bytes);
        size_of::<Self>() + self.cursor.held_bytes() + filters + rings
    }
}

/// Sink that merges the events of logs with those of the rings.
pub(super) struct MergedLogs<'a> {
    pub(super) shared: &'a Shared,
    pub(super) now: Timestamp,
    pub(super) cursor: &'a mut KeptCursor,
    pub(super) last: &'a mut Option<EventId>,
    pub(super) until: &'a [LogPlace],
    /// Next items of the logs.
    items: VecDeque<KeptItem>,
    /// Whether the logs have no more.
    is_over: bool,
    /// Last event of a ring, and whether a rule keeps it.
    judged: Option<(EventId, bool)>,
    has_reported_unread: &'a mut bool,
    has_rings: bool,
    pub(super) sink: &'a mut dyn EventSink,
}

impl MergedLogs<'_> {
    /// Reads the next items of the logs.
    fn fill(&mut self, budget: &mut Budget) {
        let Some(logs) = self.shared.kept.lock() else {
            self.is_over = true;
            return;
        };
        // About 100 instructions for each log and each event.
        budget.spend(2 + (self.cursor.len() / 10) as u32);
        logs.read(self.cursor, before(self.until), self.now, CHUNK, &mut self.items);
        budget.spend((self.items.len() / 10) as u32);
        self.is_over = self.items.is_empty();
    }

    /// Passes on the logs' next events as encoded blocks, as long as the sink takes them. Returns false if that continues in the
    /// next step.
    fn pass_blocks(&mut self, budget: &mut Budget) -> bool {
        let Some(sink) = self.sink.blocks() else { return true };
        let form = sink.form();
        loop {
            if self.sink.is_full() || budget.is_spent() {
                return false;
            }
            let kept = &self.shared.kept;
            let Some(logs) = kept.lock() else { return true };
            let Some(part) = logs.part(self.cursor, before(self.until), self.now) else { return true };
            let Some(sink) = self.sink.blocks() else { return true };
            let frames = |block: &EncodedBlock| block.frames(part.from, part.end);
            let (found, known) = match kept.blocks().find(form, &part) {
                Some(block) => (frames(block), Some(Arc::clone(block))),
                None => (None, None),
            };
            let frames = match found {
                Some(frames) => frames,
                None => {
                    let known = known.filter(|block| (block.first()..=block.end()).contains(&part.from));
                    let Some(block) = encode(logs, (self.cursor, self.now), &part, known, sink, budget)
                    else {
                        return true;
                    };
                    kept.blocks().keep(form, &part, &block);
                    let Some(frames) = frames(&block) else { return true };
                    frames
                }
            };
            sink.block(frames, (part.end - part.from) as u32, part.last, budget);
            *self.last = Some(part.last);
            self.cursor.pass_part(&part);
        }
    }

    /// Passes on the logs' events before this place, or all. Returns false if that continues in the next step.
    fn pass_before(&mut self, place: Option<OrderPlace>, budget: &mut Budget) -> bool {
        loop {
            if self.items.is_empty() && !self.is_over {
                let is_alone = place.is_none() && !self.has_rings;
                if is_alone && !(self.pass_blocks(budget) && self.pass_packed(budget)) {
                    return false;
                }
                self.fill(budget);
            }
            let Some(item) = self.items.front() else { return true };
            match &item.content {
                KeptContent::Event(event) => {
                    if place.is_some_and(|place| order_place(event, self.until.len()) > Some(place)) {
                        return true;
                    }
                    if self.sink.is_full() || budget.is_spent() || !self.sink.decides(event, budget) {
                        return false;
                    }
                    self.sink.event(event, None, budget);
                    *self.last = event.id();
                }
                KeptContent::Gap { missed, to } => {
                    let from = self.last.map(Since::Event);
                    // The bound counts events of a log, so it does not fit a gap after that place of the shard.
                    let missed = if from.is_some() { Missed::Unknown } else { *missed };
                    self.sink.gap(&notice(missed, from, *to, self.now));
                }
            }
            self.cursor.pass(item);
            if let Some(KeptItem { content: KeptContent::Event(event), .. }) = self.items.pop_front() {
                // The log's next events are built in its body.
                event.recycle();
            }
        }
    }

    /// Returns whether no loop has read an event of a ring in time. With several shards such an event has no place in
    /// the order.
    fn is_unread(&self, event: &Event) -> bool {
        self.until.len() > 1 && event.position().is_none()
    }

    /// Returns whether a rule keeps an event of a ring, or a log of the reader has it from an earlier rule.
    fn is_kept(&mut self, event: &Event) -> bool {
        let id = event.id();
        if id.is_some() && *self.last == id {
            return true;
        }
        if let Some((judged, is_kept)) = self.judged
            && Some(judged) == id
        {
            return is_kept;
        }
        let is_kept = self
            .shared
            .kept
            .lock()
            .is_some_and(|logs| logs.covers_event(event) || logs.have_by_old_rule(self.cursor, event));
        self.judged = id.map(|id| (id, is_kept));
        is_kept
    }
}

/// Returns a test of whether an event comes before the client's first live event of its shard.
pub(super) fn before(until: &[LogPlace]) -> impl Fn(EventId) -> bool {
    |id| until.get(usize::from(id.shard)).is_some_and(|until| (id.epoch, id.sequence) < *until)
}

/// Returns a block with the frames of a part's events, after those of a known block if there is one. Returns `None` if they
/// are too large.
fn encode(
    logs: MutexGuard<'_, KeptLogs>,
    (cursor, now): (&KeptCursor, Timestamp),
    part: &KeptPart,
    known: Option<Arc<EncodedBlock>>,
    sink: &mut dyn BlockSink,
    budget: &mut Budget,
) -> Option<Arc<EncodedBlock>> {
    let new = || GrowingBlock { first: part.first, ..GrowingBlock::default() };
    let mut block = known.map_or_else(new, |known| known.grow());
    let from = block.first + block.ends.len() as u64;
    let size = logs.part_bytes(cursor, from..part.end, now);
    // The size may be that of twice as many events.
    if block.bytes.len() + size > 2 * BLOCK_BYTES_MAX {
        return None;
    }
    let (begin, count) = (block.ends.len(), (part.end - from) as usize);
    block.ends.reserve_exact(count);
    let indexes = from..part.end;
    if sink.form().compression == Compression::None && SequenceEncoder::has_templates(sink.encoding()) {
        // Reading packed events takes less time than building events, to encode them without the lock.
        let encoded_alone = put_quickly(&logs, (cursor, indexes, now), size, sink.encoding(), &mut block);
        drop(logs);
        let quick = block.ends.len() - begin - encoded_alone;
        budget.spend_bytes(quick, QUICK_INSTRUCTIONS);
        budget.spend_bytes(encoded_alone, ENCODE_INSTRUCTIONS);
        sink.count_frames(&mut block.lens_from(begin));
    } else {
        let events: Vec<Event> = logs.part_events(cursor, indexes, now).map(|event| event.event()).collect();
        drop(logs);
        budget.spend_bytes(events.len(), ENCODE_INSTRUCTIONS);
        block.bytes.reserve(size + events.len() * FRAME_BYTES);
        for event in &events {
            sink.put_frame(event, &mut block.bytes);
            block.ends.push(block.bytes.len() as u32);
        }
        events.into_iter().for_each(Event::recycle);
    }
    (block.bytes.len() <= 2 * BLOCK_BYTES_MAX && block.ends.len() == begin + count)
        .then(|| Arc::new(block.finish()))
}

/// Appends the frames of the events at these indexes, of about `size` bytes, unless they are too large. Returns the number of events that were
/// encoded without a template.
fn put_quickly(
    logs: &KeptLogs,
    (cursor, indexes, now): (&KeptCursor, Range<u64>, Timestamp),
    size: usize,
    encoding: Encoding,
    block: &mut GrowingBlock,
) -> usize {
    let mut encoder = SequenceEncoder::new(encoding);
    let (begin, frames) = (block.bytes.len(), &mut block.bytes);
    let (mut is_first, others) = (true, (indexes.end - indexes.start) as usize - 1);
    let ends = &mut block.ends;
    // Stops at an event that is too large.
    logs.visit_part(cursor, indexes, now, |event| {
        let payload = match event.plain() {
            Some(plain) => {
                encoder.put_plain(&plain, || event.event(), frames);
                plain.payload.len()
            }
            None => {
                let event = event.event();
                encoder.put(&event, frames);
                event.payload().len()
            }
        };
        ends.push(frames.len() as u32);
        if std::mem::take(&mut is_first) {
            // The others differ in their payloads, and a little in the length of their numbers.
            let others = (frames.len() - begin - payload + NUMBERS_BYTES) * others + size;
            frames.reserve_exact(others.min(2 * BLOCK_BYTES_MAX));
        }
        frames.len() <= 2 * BLOCK_BYTES_MAX
    });
    encoder.encoded_alone()
}

impl EventSink for MergedLogs<'_> {
    fn is_full(&self) -> bool {
        self.sink.is_full()
    }

    fn decides(&mut self, event: &Event, budget: &mut Budget) -> bool {
        self.is_unread(event)
            || self.pass_before(order_place(event, self.until.len()), budget)
                && (self.is_kept(event) || self.sink.decides(event, budget))
    }

    fn event(&mut self, event: &Event, at: Option<&Position>, budget: &mut Budget) {
        if self.is_unread(event) {
            if !std::mem::replace(self.has_reported_unread, true) {
                self.sink.gap(&notice(Missed::Unknown, None, None, self.now));
            }
        } else if self.is_kept(event) {
            budget.spend(1);
        } else {
            self.sink.event(event, at, budget);
        }
    }

    fn gap(&mut self, gap: &GapNotice) {
        self.sink.gap(gap);
    }
}
