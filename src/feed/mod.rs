//! The one idea: connections that want the same in the same encoding share one run of encoded frames, and a
//! connection is a outbox into it.
//!
//! Imports `event`, `codec`, `filter`, `dialect`, `metrics`; knows no socket and no clock. Always:
//! - a frame is encoded once and shared; what is copied is copied once for the feed, never for a member;
//! - a feed keeps a bounded tail of its frames, whatever its members do; a member that falls off it is told
//!   how many events it missed, where it missed them;
//! - frames have indices that only grow; `base..next` are kept, and a outbox at `next` has everything.

mod compressor;
mod conflate;
mod fanout;
pub(crate) mod harness;
mod interest;
mod keys;
mod outbox;
mod run;
mod snapshot;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::dialect::{Encoding, Missed};
use crate::event::{Event, EventId};
use crate::filter::ClassId;
use crate::metrics::Metrics;
use compressor::{CompressorPool, FeedCompressor, FrameForms, WindowUse};
use conflate::{LatestByKey, Released, Samplers};
use run::Run;

pub(crate) use compressor::{Compression, CompressorLimits};
pub(crate) use conflate::{Conflation, KeyRule, LagPolicy};
pub(crate) use fanout::{Fanout, FeedDelivery, FeedView};
pub(crate) use interest::{Change, FeedInterest, Selection};
pub(crate) use keys::{ConnIndex, FeedKey, MovedMember};
pub(crate) use outbox::saved::SavedOutbox;
pub(crate) use outbox::{Flushed, Lag, Outbox, OutboxContext, REPLY_COST, ResumeLookup, Sink, Tail, Tally};
pub(crate) use snapshot::Snapshot;

/// How much of its past a feed keeps for members that are slow.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names, reason = "each is a most, and says so")]
pub(crate) struct FeedLimits {
    pub(crate) max_events: usize,
    pub(crate) max_bytes: usize,
    /// Keys of which a feed keeps the latest frame, for members that conflate.
    pub(crate) max_keys: usize,
    pub(crate) compressor: CompressorLimits,
}

/// Frames up to this size are copied together where several wait; larger ones are cheaper as they are.
const MERGE_FRAME_BYTES_MAX: usize = 4096;

/// The same where a feed has one member: the copy serves nobody else, and a part of a `writev` costs as much as this.
const MERGE_LONE_FRAME_BYTES_MAX: usize = 1024;

/// The size of a run of small frames: large enough that the write call no longer counts.
const RUN_BYTES_MAX: usize = 64 * 1024;

/// Who keeps the bytes of a frame that is not sealed.
#[derive(Debug)]
enum FrameSource {
    Owned(Bytes),
    /// Nobody yet: nobody else will want them, so they are made where they are to lie.
    Deferred(Event),
    /// The event has them: a count of it costs no memory, where the first of a [`Bytes`] does.
    Shared(Event),
}

impl FrameSource {
    /// The bytes, in their feed's encoding.
    fn bytes(&self, encoding: Encoding) -> &Bytes {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(event) | Self::Deferred(event) => {
                event.frame(encoding.slot(), |event| encoding.encode(event, event.position()))
            }
        }
    }

    fn into_bytes(self, encoding: Encoding) -> Bytes {
        match self {
            Self::Owned(bytes) => bytes,
            interned => interned.bytes(encoding).clone(),
        }
    }
}

/// A frame that was appended and is not sealed.
#[derive(Debug)]
struct UnsealedFrame {
    frame: FrameSource,
    id: EventId,
    /// 0 where it is never left out.
    key: u64,
    /// It is sent as it is, though the feed compresses.
    ready: bool,
}

/// The frames of one interest in one encoding.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) encoding: Encoding,
    pub(crate) compression: Compression,
    /// Whether deliveries are recorded.
    is_observed: bool,
    /// Sorted, each once.
    pub(crate) classes: Vec<(ClassId, Conflation)>,
    /// What it is found by.
    sum: u64,
    pub(crate) members: Vec<ConnIndex>,
    /// The fan-out's number of the newest event appended.
    pub(crate) newest_event: u64,
    runs: VecDeque<Run>,
    /// Appended since the last seal; not yet visible to outboxes.
    fresh: Vec<UnsealedFrame>,
    /// Where frames look back at those before.
    shared: Option<Box<FeedCompressor>>,
    /// Where some subscriptions do not want everything.
    conflate: Option<Box<Conflator>>,
    /// Frames before `base` that are never left out.
    required_before_base: u64,
    base: u64,
    next: u64,
    bytes: usize,
    /// The newest event that was let go.
    newest_trimmed: Option<EventId>,
    /// Which frames tell of a gap, and how many events each stands for: those that are kept, and the newest that was let go.
    gaps: VecDeque<(u64, Missed)>,
    /// Gaps among the frames that are not sealed.
    unsealed_gaps: VecDeque<Missed>,
    /// The newest gap of which nothing is known any more.
    forgotten_gap: Option<u64>,
}

/// In place of a key: the frame is no event, but tells that some are missing.
pub(super) const GAP: u64 = 2;

/// What conflation takes.
#[derive(Debug, Default)]
struct Conflator {
    latest: LatestByKey<(Bytes, EventId)>,
    samplers: Samplers,
    /// The fan-out's number of an event, and the least conflation of those that match it.
    event: u64,
    least: Conflation,
}

/// A frame was made.
fn count_frame(metrics: &Metrics, len: usize) {
    metrics.encodings.inc();
    metrics.frame_bytes.observe(len as u64, 1);
}

/// Whether a frame of this key is never left out.
fn is_required(key: u64) -> bool {
    matches!(key, 0 | GAP)
}

impl Feed {
    fn new(encoding: Encoding, compression: Compression, conflate: bool, is_observed: bool) -> Self {
        Self {
            encoding,
            compression,
            is_observed,
            shared: compression.looks_back().then(Box::default),
            classes: Vec::new(),
            sum: 0,
            members: Vec::new(),
            newest_event: 0,
            runs: VecDeque::new(),
            fresh: Vec::new(),
            conflate: conflate.then(Box::default),
            required_before_base: 0,
            base: 0,
            next: 0,
            bytes: 0,
            newest_trimmed: None,
            gaps: VecDeque::new(),
            unsealed_gaps: VecDeque::new(),
            forgotten_gap: None,
        }
    }

    /// Takes a frame; true where it is the first since the last seal.
    fn append(&mut self, (frame, ready): (FrameSource, bool), id: EventId, key: u64) -> bool {
        self.fresh.push(UnsealedFrame { frame, id, key, ready });
        self.fresh.len() == 1
    }

    /// Takes a frame that tells of so many missing events; true where it is the first since the last seal.
    fn append_gap(&mut self, frame: Bytes, id: EventId, missed: Missed) -> bool {
        self.unsealed_gaps.push_back(missed);
        self.append((FrameSource::Owned(frame), true), id, GAP)
    }

    /// Takes samples that waited; true where they are the first since the last seal.
    fn append_samples(&mut self, samples: Released) -> bool {
        let was_clean = self.fresh.is_empty();
        for ((frame, ready), id) in samples {
            self.fresh.push(UnsealedFrame { frame: FrameSource::Owned(frame), id, key: 0, ready });
        }
        was_clean && !self.fresh.is_empty()
    }

    fn seal(&mut self, limits: &FeedLimits, compressor: &mut CompressorPool) {
        let fresh = std::mem::take(&mut self.fresh);
        let mut rest = fresh.as_slice();
        while !rest.is_empty() {
            let (run, taken) = if self.shared.is_some() {
                self.compressor(rest, compressor)
            } else {
                self.merge(rest, &compressor.metrics)
            };
            let (frames, behind) = rest.split_at(taken);
            let gaps = frames.iter().zip(self.next..).filter(|(fresh, _)| fresh.key == GAP);
            let unsealed_gaps = &mut self.unsealed_gaps;
            self.gaps
                .extend(gaps.map(|(_, index)| (index, unsealed_gaps.pop_front().unwrap_or(Missed::Unknown))));
            if let Some(conflate) = &mut self.conflate {
                for (UnsealedFrame { frame, id, key, .. }, index) in frames.iter().zip(self.next..) {
                    if !is_required(*key) {
                        let frame = frame.bytes(self.encoding);
                        let frame = run.forms(index).map_or(frame, |forms| forms.alone(self.compression));
                        conflate.latest.put(*key, index, (frame.clone(), *id), limits.max_keys);
                    }
                }
            }
            self.next = run.next();
            self.bytes += run.held_bytes();
            self.runs.push_back(run);
            rest = behind;
        }
        // The vector goes back for the next turn; its frames are in runs now.
        self.fresh = fresh;
        self.fresh.clear();
        self.trim(limits);
    }

    /// A run of the first of these frames, and how many it took. One frame is taken as it is; several small ones are put
    /// together, once for the feed.
    fn merge(&self, rest: &[UnsealedFrame], metrics: &Metrics) -> (Run, usize) {
        let small = if self.members.len() > 1 { MERGE_FRAME_BYTES_MAX } else { MERGE_LONE_FRAME_BYTES_MAX };
        let is_small = |fresh: &UnsealedFrame| match &fresh.frame {
            // What stands around a payload is little.
            FrameSource::Deferred(event) => event.payload().len() < small,
            made => made.bytes(self.encoding).len() <= small,
        };
        if rest.len() < 2 || !rest[..2].iter().all(is_small) {
            let bytes = match &rest[0].frame {
                FrameSource::Deferred(event) => {
                    let bytes = self.encoding.encode(event, event.position());
                    count_frame(metrics, bytes.len());
                    bytes
                }
                made => made.bytes(self.encoding).clone(),
            };
            return (Run::new(self.next, &rest[..1], [bytes.len() as u32], bytes, Box::default()), 1);
        }
        let mut together = Vec::new();
        let mut ends = Vec::with_capacity(rest.len());
        for fresh in rest {
            let start = together.len();
            if start > RUN_BYTES_MAX || !is_small(fresh) {
                break;
            }
            match &fresh.frame {
                FrameSource::Deferred(event) => {
                    self.encoding.put(event, event.position(), &mut together);
                    count_frame(metrics, together.len() - start);
                }
                made => together.extend_from_slice(made.bytes(self.encoding)),
            }
            if start == 0 {
                // The others of a burst are mostly as long.
                let like_it = (together.len() + 16) * (rest.len() - 1);
                together.reserve_exact(like_it.min(RUN_BYTES_MAX + small));
            }
            ends.push(together.len() as u32);
        }
        if together.capacity() / 4 > together.len() / 3 {
            together.shrink_to_fit();
        }
        let taken = ends.len();
        (Run::new(self.next, &rest[..taken], ends, together.into(), Box::default()), taken)
    }

    /// The same, compressed.
    fn compressor(&mut self, rest: &[UnsealedFrame], compressor: &mut CompressorPool) -> (Run, usize) {
        let (mut bytes, mut ends, mut forms) = (Vec::new(), Vec::new(), Vec::new());
        let Some(shared) = &mut self.shared else { return self.merge(rest, &compressor.metrics) };
        for UnsealedFrame { frame, ready, .. } in rest {
            let frame = frame.bytes(self.encoding);
            let start = bytes.len();
            let step = if *ready {
                bytes.extend_from_slice(frame);
                shared.force_restart();
                WindowUse::None
            } else {
                shared.compressor(self.compression, frame, compressor, &mut bytes)
            };
            // Where anybody can read it, the form in the run is the one that looks back at nothing.
            let alone = match step {
                WindowUse::None if !*ready && self.compression == Compression::Gzip => {
                    Bytes::copy_from_slice(&bytes[start..])
                }
                _ => frame.clone(),
            };
            forms.push(FrameForms::new(step, alone));
            ends.push(bytes.len() as u32);
            if bytes.len() > RUN_BYTES_MAX {
                break;
            }
        }
        let taken = ends.len();
        (Run::new(self.next, &rest[..taken], ends, bytes.into(), forms.into()), taken)
    }

    fn trim(&mut self, limits: &FeedLimits) {
        while (self.next - self.base) as usize > limits.max_events || self.bytes > limits.max_bytes {
            // The newest run stays: who is just behind it must get it.
            if self.runs.len() <= 1 {
                break;
            }
            let Some(oldest) = self.runs.pop_front() else { break };
            self.bytes -= oldest.held_bytes();
            self.base = oldest.next();
            if self.conflate.is_some() {
                self.required_before_base += oldest.required_before(oldest.next());
            }
            self.newest_trimmed = Some(oldest.id_of(oldest.next() - 1));
        }
        while self.gaps.get(1).is_some_and(|(second, _)| *second < self.base) {
            self.forgotten_gap = self.gaps.pop_front().map(|(index, _)| index);
        }
    }

    /// How many events these frames stand for: each for its own, but for those that told of a gap.
    fn missed_in(&self, indices: std::ops::Range<u64>) -> Missed {
        if self.forgotten_gap.is_some_and(|gap| gap >= indices.start) {
            return Missed::Unknown;
        }
        let gaps = self.gaps.iter().filter(|(index, _)| indices.contains(index));
        let (count, missed) =
            gaps.fold((0, Missed::default()), |(count, sum), (_, missed)| (count + 1, sum.and(*missed)));
        Missed::Exactly(indices.end.saturating_sub(indices.start).saturating_sub(count)).and(missed)
    }

    /// The run that holds the frame of this index; `base <= index < next`.
    fn run_of(&self, index: u64) -> &Run {
        &self.runs[self.runs.partition_point(|run| run.next() <= index)]
    }

    /// Whose frame has this index, while it is kept.
    fn id_of(&self, index: u64) -> Option<EventId> {
        if index >= self.base && index < self.next {
            return Some(self.run_of(index).id_of(index));
        }
        self.conflate.as_ref().and_then(|conflate| conflate.latest.get(index)).map(|(_, id)| *id)
    }

    /// Whose frame stands before this place, as far as that is known.
    fn id_before(&self, index: u64) -> Option<EventId> {
        if index == self.base {
            return self.newest_trimmed;
        }
        index.checked_sub(1).and_then(|index| self.id_of(index))
    }

    /// Lets go of what every member has, when the loop knows that all have everything.
    pub(crate) fn forget_written(&mut self) {
        if let Some(newest) = self.runs.back() {
            self.newest_trimmed = Some(newest.id_of(newest.next() - 1));
        }
        if let Some(conflate) = &mut self.conflate {
            conflate.latest.clear();
            self.required_before_base +=
                self.runs.iter().map(|run| run.required_before(run.next())).sum::<u64>();
        }
        self.runs.clear();
        self.gaps.clear();
        self.bytes = 0;
        self.base = self.next;
    }

    /// Bytes that it takes to know its frames, and for what conflation keeps of them.
    fn table_bytes(&self) -> usize {
        let marks = (self.next - self.base) as usize * 24 + self.runs.capacity() * size_of::<Run>();
        let latest = self
            .conflate
            .as_ref()
            .map_or(0, |conflate| size_of::<Conflator>() + conflate.latest.held_bytes());
        marks + self.fresh.capacity() * size_of::<UnsealedFrame>() + latest
    }

    /// Bytes kept from this index on.
    fn bytes_from(&self, index: u64) -> u64 {
        let runs = self.runs.iter().skip_while(|run| run.next() <= index);
        runs.map(|run| (run.bytes.len() - run.start_of(index.max(run.first))) as u64).sum()
    }

    /// Whose frame came last.
    fn newest_id(&self) -> Option<EventId> {
        self.runs.back().map(|run| run.id_of(run.next() - 1)).or(self.newest_trimmed)
    }

    /// Returns the event whose frame was appended last, readable or not yet.
    fn newest_appended(&self) -> Option<EventId> {
        self.fresh.last().map(|fresh| fresh.id).or_else(|| self.newest_id())
    }

    /// Whether some frames have a key.
    fn is_conflated(&self) -> bool {
        self.conflate.is_some()
    }

    /// How many frames before this index are never left out; `base <= index`.
    fn required_before(&self, index: u64) -> u64 {
        let runs = self.runs.iter().take_while(|run| run.first < index);
        self.required_before_base + runs.map(|run| run.required_before(index.min(run.next()))).sum::<u64>()
    }

    /// Below this index, frames that were the latest of their keys are gone.
    fn latest_floor(&self) -> u64 {
        self.conflate.as_ref().map_or(0, |conflate| conflate.latest.floor)
    }

    /// The first frame at this index or behind it that a member which conflates is to get: its bytes, and what they
    /// are a part of.
    fn next_retained(&self, mut index: u64) -> Option<(u64, &[u8], &Bytes)> {
        let latest = self.conflate.as_ref().map(|conflate| &conflate.latest)?;
        if index < self.base {
            if let Some((index, (frame, _))) = latest.range(index..self.base).next() {
                return Some((index, frame, frame));
            }
            index = self.base;
        }
        while index < self.next {
            let run = self.run_of(index);
            let end = run.next();
            while index < end {
                // Of what the table forgot nobody knows whether it was the latest.
                if run.is_required(index) || index < latest.floor || latest.get(index).is_some() {
                    if let Some(forms) = run.forms(index) {
                        let frame = forms.alone(self.compression);
                        return Some((index, frame, frame));
                    }
                    let bytes = &run.bytes[run.start_of(index)..run.start_of(index + 1)];
                    return Some((index, bytes, &run.bytes));
                }
                index += 1;
            }
        }
        None
    }
}

#[cfg(all(test, feature = "deflate"))]
mod compressor_tests;
#[cfg(test)]
mod tests;
