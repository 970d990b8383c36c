//! One feed: frames appended by the loop, sealed into runs, and trimmed to a bounded tail.
//!
//! Invariants:
//! - Appended frames become visible to outboxes when the feed is sealed, and never move afterwards.
//! - `runs` covers exactly `base..next`, in order.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::compressor::{
    Compression, CompressorLimits, CompressorPool, FeedCompressor, FrameForms, WindowUse,
};
use super::conflate::{Conflation, LatestByKey, Samplers};
use super::frame::{FrameKind, FrameSource, UnsealedFrame, count_frame};
use super::gap_log::GapLog;
use super::keys::ConnIndex;
use super::run::FrameRun;
use crate::dialect::{Encoding, Missed};
use crate::event::EventId;
use crate::filter::ClassId;
use crate::metrics::Metrics;

/// Retention limits of a feed.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names, reason = "each is a maximum, and says so")]
pub(crate) struct FeedLimits {
    /// Maximum number of retained frames.
    pub(crate) max_events: usize,
    /// Maximum total size of retained frames, in bytes.
    pub(crate) max_bytes: usize,
    /// Maximum number of keys with a retained latest frame, for members that conflate.
    pub(crate) max_keys: usize,
    pub(crate) compressor: CompressorLimits,
}

/// Merge limit for a feed with several members, in bytes: smaller frames are copied into one run, larger ones stay where
/// they lie.
pub(super) const MERGE_FRAME_BYTES_MAX: usize = 4096;

/// Merge limit for a feed with one member, in bytes: no other member shares the copy, and an extra `writev` segment costs
/// about as much as copying this many bytes.
pub(super) const MERGE_LONE_FRAME_BYTES_MAX: usize = 1024;

/// Size of a run of small frames, in bytes: large enough that the cost of the write call no longer matters.
const RUN_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a feed's frames on the wire: their encoding and their compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FeedForm {
    pub(crate) encoding: Encoding,
    pub(crate) compression: Compression,
}

/// Frames of one interest in one form.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) form: FeedForm,
    /// Whether deliveries are recorded.
    pub(super) is_observed: bool,
    /// Classes of the interest, sorted and distinct.
    pub(crate) classes: Vec<(ClassId, Conflation)>,
    /// Hash of the form and the classes, by which an equal feed is found.
    pub(super) interest_hash: u64,
    pub(crate) members: Vec<ConnIndex>,
    /// Fan-out number of the newest event appended.
    pub(crate) newest_event: u64,
    pub(super) runs: VecDeque<FrameRun>,
    /// Frames appended since the last seal; not yet visible to outboxes.
    unsealed: Vec<UnsealedFrame>,
    /// State of the window, in a feed that compresses with one.
    pub(super) compressor: Option<Box<FeedCompressor>>,
    /// State of conflation, in a feed with a subscription that does not want every event.
    pub(super) conflator: Option<Box<Conflator>>,
    pub(super) base: u64,
    pub(super) next: u64,
    /// Bytes of the retained frames.
    pub(super) bytes: usize,
    /// Id of the newest event that was trimmed.
    pub(super) newest_trimmed: Option<EventId>,
    gaps: GapLog,
}

/// State of a feed that may leave events out.
#[derive(Debug, Default)]
pub(super) struct Conflator {
    latest: LatestByKey<(Bytes, EventId)>,
    pub(super) samplers: Samplers,
    /// Fan-out number of the event that is being matched.
    pub(super) event: u64,
    /// Least conflation among the classes that matched that event so far.
    pub(super) least: Conflation,
    /// Number of required frames before the feed's `base`.
    pub(super) required_before_base: u64,
}

impl Feed {
    pub(super) fn new(form: FeedForm, conflates: bool, is_observed: bool) -> Self {
        Self {
            form,
            is_observed,
            classes: Vec::new(),
            interest_hash: 0,
            members: Vec::new(),
            newest_event: 0,
            runs: VecDeque::new(),
            unsealed: Vec::new(),
            compressor: form.compression.uses_window().then(Box::default),
            conflator: conflates.then(Box::default),
            base: 0,
            next: 0,
            bytes: 0,
            newest_trimmed: None,
            gaps: GapLog::default(),
        }
    }

    /// Appends `frame` and returns `true` if it is the first since the last seal.
    ///
    /// The frame becomes visible to outboxes at the next [`seal`](Self::seal).
    pub(super) fn append(&mut self, frame: UnsealedFrame) -> bool {
        self.unsealed.push(frame);
        self.unsealed.len() == 1
    }

    /// Appends a gap notice for `missed` events and returns `true` if it is the first frame since the last seal.
    pub(super) fn append_gap(&mut self, frame: Bytes, id: EventId, missed: Missed) -> bool {
        self.gaps.push(missed);
        self.append(UnsealedFrame {
            source: FrameSource::Owned(frame),
            id,
            kind: FrameKind::Gap,
            is_final: true,
        })
    }

    /// Appends samples that are due and returns `true` if they are the first frames since the last seal.
    pub(super) fn append_samples(&mut self, samples: impl IntoIterator<Item = UnsealedFrame>) -> bool {
        let was_clean = self.unsealed.is_empty();
        self.unsealed.extend(samples);
        was_clean && !self.unsealed.is_empty()
    }

    /// Makes the appended frames visible to outboxes, and trims the feed to its limits.
    pub(super) fn seal(&mut self, limits: &FeedLimits, pool: &mut CompressorPool) {
        let unsealed = std::mem::take(&mut self.unsealed);
        let mut rest = unsealed.as_slice();
        while !rest.is_empty() {
            let (run, taken) = if self.compressor.is_some() {
                self.compressed_run(rest, pool)
            } else {
                self.merged_run(rest, &pool.metrics)
            };
            let (frames, after) = rest.split_at(taken);
            for (_, index) in frames.iter().zip(self.next..).filter(|(frame, _)| frame.kind == FrameKind::Gap)
            {
                self.gaps.seal(index);
            }
            if let Some(conflator) = &mut self.conflator {
                for (UnsealedFrame { source, id, kind, .. }, index) in frames.iter().zip(self.next..) {
                    if let FrameKind::Keyed(key) = kind {
                        let frame = source.bytes(self.form.encoding);
                        let frame =
                            run.forms(index).map_or(frame, |forms| forms.standalone(self.form.compression));
                        conflator.latest.put(*key, index, (frame.clone(), *id), limits.max_keys);
                    }
                }
            }
            self.next = run.next();
            self.bytes += run.held_bytes();
            self.runs.push_back(run);
            rest = after;
        }
        // The frames are in runs now; the vector's capacity serves the next turn.
        self.unsealed = unsealed;
        self.unsealed.clear();
        self.trim(limits);
    }

    /// Returns a run of the first of these frames, and how many it took. A large frame is taken as it is; small ones are
    /// copied together, once for the feed.
    fn merged_run(&self, rest: &[UnsealedFrame], metrics: &Metrics) -> (FrameRun, usize) {
        let encoding = self.form.encoding;
        let small = if self.members.len() > 1 { MERGE_FRAME_BYTES_MAX } else { MERGE_LONE_FRAME_BYTES_MAX };
        let is_small = |frame: &UnsealedFrame| match &frame.source {
            // The bytes around a payload are few.
            FrameSource::Deferred(event) => event.payload().len() < small,
            encoded => encoded.bytes(encoding).len() <= small,
        };
        if rest.len() < 2 || !rest[..2].iter().all(is_small) {
            let bytes = match &rest[0].source {
                FrameSource::Deferred(event) => {
                    let bytes = encoding.encode(event, event.position());
                    count_frame(metrics, bytes.len());
                    bytes
                }
                encoded => encoded.bytes(encoding).clone(),
            };
            return (FrameRun::new(self.next, &rest[..1], [bytes.len() as u32], bytes, Box::default()), 1);
        }
        let mut together = Vec::new();
        let mut ends = Vec::with_capacity(rest.len());
        for frame in rest {
            let start = together.len();
            if start > RUN_BYTES_MAX || !is_small(frame) {
                break;
            }
            match &frame.source {
                FrameSource::Deferred(event) => {
                    encoding.put(event, event.position(), &mut together);
                    count_frame(metrics, together.len() - start);
                }
                encoded => together.extend_from_slice(encoded.bytes(encoding)),
            }
            if start == 0 {
                // Frames of a burst mostly have similar lengths.
                let similar = (together.len() + 16) * (rest.len() - 1);
                together.reserve_exact(similar.min(RUN_BYTES_MAX + small));
            }
            ends.push(together.len() as u32);
        }
        if together.capacity() / 4 > together.len() / 3 {
            together.shrink_to_fit();
        }
        let taken = ends.len();
        (FrameRun::new(self.next, &rest[..taken], ends, together.into(), Box::default()), taken)
    }

    /// Returns a run of the first of these frames, compressed with the feed's window, and how many it took.
    fn compressed_run(&mut self, rest: &[UnsealedFrame], pool: &mut CompressorPool) -> (FrameRun, usize) {
        let FeedForm { encoding, compression } = self.form;
        let (mut bytes, mut ends, mut forms) = (Vec::new(), Vec::new(), Vec::new());
        let Some(compressor) = &mut self.compressor else { return self.merged_run(rest, &pool.metrics) };
        for UnsealedFrame { source, is_final, .. } in rest {
            let frame = source.bytes(encoding);
            let start = bytes.len();
            let window_use = if *is_final {
                bytes.extend_from_slice(frame);
                compressor.force_restart();
                WindowUse::None
            } else {
                compressor.compress(compression, frame, pool, &mut bytes)
            };
            // A frame in the run that uses no window is its own standalone form.
            let standalone = match window_use {
                WindowUse::None if !*is_final && compression == Compression::Gzip => {
                    Bytes::copy_from_slice(&bytes[start..])
                }
                _ => frame.clone(),
            };
            forms.push(FrameForms::new(window_use, standalone));
            ends.push(bytes.len() as u32);
            if bytes.len() > RUN_BYTES_MAX {
                break;
            }
        }
        let taken = ends.len();
        (FrameRun::new(self.next, &rest[..taken], ends, bytes.into(), forms.into()), taken)
    }

    /// Drops the oldest runs until the feed is within its limits. The newest run always stays, because members that are one
    /// run late must get it.
    pub(super) fn trim(&mut self, limits: &FeedLimits) {
        while (self.next - self.base) as usize > limits.max_events || self.bytes > limits.max_bytes {
            if self.runs.len() <= 1 {
                break;
            }
            let Some(oldest) = self.runs.pop_front() else { break };
            self.bytes -= oldest.held_bytes();
            self.base = oldest.next();
            if let Some(conflator) = &mut self.conflator {
                conflator.required_before_base += oldest.required_before(oldest.next());
            }
            self.newest_trimmed = Some(oldest.id_of(oldest.next() - 1));
        }
        self.gaps.trim(self.base);
    }

    /// Returns how many events these frames stand for: one for each event, and the missing ones of each gap notice.
    pub(super) fn missed_in(&self, indices: Range<u64>) -> Missed {
        self.gaps.missed_in(indices)
    }

    /// Returns the run that holds the frame at `index`; `base <= index < next`.
    pub(super) fn run_of(&self, index: u64) -> &FrameRun {
        &self.runs[self.runs.partition_point(|run| run.next() <= index)]
    }

    /// Returns the id of the event at `index`, if still retained.
    pub(super) fn id_of(&self, index: u64) -> Option<EventId> {
        if index >= self.base && index < self.next {
            return Some(self.run_of(index).id_of(index));
        }
        self.conflator.as_ref().and_then(|conflator| conflator.latest.get(index)).map(|(_, id)| *id)
    }

    /// Returns the id of the event before `index`, if still known.
    pub(super) fn id_before(&self, index: u64) -> Option<EventId> {
        if index == self.base {
            return self.newest_trimmed;
        }
        index.checked_sub(1).and_then(|index| self.id_of(index))
    }

    /// Drops all sealed frames. Called when every member has received them.
    pub(crate) fn forget_written(&mut self) {
        if let Some(newest) = self.runs.back() {
            self.newest_trimmed = Some(newest.id_of(newest.next() - 1));
        }
        if let Some(conflator) = &mut self.conflator {
            conflator.latest.clear();
            conflator.required_before_base +=
                self.runs.iter().map(|run| run.required_before(run.next())).sum::<u64>();
        }
        self.runs.clear();
        self.gaps.clear_sealed();
        self.bytes = 0;
        self.base = self.next;
    }

    /// Returns the bytes of the tables that describe the frames, and of the frames that conflation retains.
    pub(super) fn table_bytes(&self) -> usize {
        let marks = (self.next - self.base) as usize * 24 + self.runs.capacity() * size_of::<FrameRun>();
        let latest = |conflator: &Conflator| size_of::<Conflator>() + conflator.latest.held_bytes();
        let latest = self.conflator.as_deref().map_or(0, latest);
        marks + self.unsealed.capacity() * size_of::<UnsealedFrame>() + latest
    }

    /// Returns the number of bytes retained from `index` on.
    pub(super) fn bytes_from(&self, index: u64) -> u64 {
        let runs = self.runs.iter().skip_while(|run| run.next() <= index);
        runs.map(|run| (run.bytes.len() - run.start_of(index.max(run.first))) as u64).sum()
    }

    /// Returns the id of the newest sealed event.
    pub(super) fn newest_id(&self) -> Option<EventId> {
        self.runs.back().map(|run| run.id_of(run.next() - 1)).or(self.newest_trimmed)
    }

    /// Returns the id of the newest appended event, sealed or not.
    pub(super) fn newest_appended(&self) -> Option<EventId> {
        self.unsealed.last().map(|frame| frame.id).or_else(|| self.newest_id())
    }

    /// Returns whether some events may be left out.
    pub(super) fn conflates(&self) -> bool {
        self.conflator.is_some()
    }

    /// Returns the number of required frames before `base`, in a feed that conflates.
    pub(super) fn required_before_base(&self) -> u64 {
        self.conflator.as_ref().map_or(0, |conflator| conflator.required_before_base)
    }

    /// Returns the number of required frames before `index`; `base <= index`.
    pub(super) fn required_before(&self, index: u64) -> u64 {
        let runs = self.runs.iter().take_while(|run| run.first < index);
        self.required_before_base() + runs.map(|run| run.required_before(index.min(run.next()))).sum::<u64>()
    }

    /// Returns the index below which latest frames of keys may have been forgotten.
    pub(super) fn latest_floor(&self) -> u64 {
        self.conflator.as_ref().map_or(0, |conflator| conflator.latest.floor)
    }

    /// Returns the first frame at or after `index` that a lagging member of a feed that conflates must get: its index, its
    /// bytes, and the buffer that they are a part of.
    pub(super) fn next_retained(&self, mut index: u64) -> Option<(u64, &[u8], &Bytes)> {
        let latest = self.conflator.as_ref().map(|conflator| &conflator.latest)?;
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
                // Below the floor the table no longer knows whether a frame is the latest of its key.
                if run.is_required(index) || index < latest.floor || latest.get(index).is_some() {
                    if let Some(forms) = run.forms(index) {
                        let frame = forms.standalone(self.form.compression);
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
