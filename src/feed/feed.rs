//! One feed: frames appended by the loop, sealed into runs, and trimmed to a bounded tail.
//!
//! Invariants:
//! - Appended frames become visible to outboxes when the feed is sealed, and never move afterwards.
//! - The runs cover exactly `base..next`, in order.
//! - A feed with one member that keeps up retains nothing: its frames are written from the loop's log and only counted.

mod seal;

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::compressor::{Compression, CompressorLimits, FeedCompressor};
use super::conflate::{Conflation, LatestByKey, Samplers};
use super::frame::{FrameKind, FrameSource, UnsealedFrame};
use super::frame_log::{FrameList, FrameLog};
use super::gap_log::GapLog;
use super::keys::ConnIndex;
use super::run::{FrameMark, FrameRun};
use crate::dialect::{Encoding, Missed};
use crate::event::EventId;
use crate::filter::ClassId;

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
    pub(crate) classes: FeedClasses,
    /// Hash of the form and the classes, by which an equal feed is found.
    pub(super) interest_hash: u64,
    pub(crate) members: SmallVec<[ConnIndex; 4]>,
    /// Fan-out number of the newest event appended.
    pub(crate) newest_event: u32,
    /// Frames in the loop's log that were appended since the last seal; not yet visible to outboxes.
    pub(super) list: FrameList,
    /// Sealed frames; `None` if there are none.
    retained: Option<Box<RetainedFrames>>,
    /// State of a feed that compresses or conflates. Its frames are not in the loop's log.
    own_form: Option<Box<OwnForm>>,
    pub(super) next: u64,
    /// Id of the newest event before the retained ones, in three fields, which take less memory. Unknown if there is no
    /// shard.
    passed_shard: Option<u16>,
    passed_epoch: u64,
    passed_sequence: u64,
}

/// Classes of an interest, with their conflation.
pub(crate) type FeedClasses = SmallVec<[(ClassId, Conflation); 1]>;

const _: () = assert!(size_of::<Feed>() <= 120, "each client with an interest of its own has one");

/// Sealed frames of a feed: those from `base` on.
#[derive(Debug, Default)]
struct RetainedFrames {
    runs: VecDeque<FrameRun>,
    base: u64,
    /// Bytes of the runs.
    bytes: usize,
    gaps: GapLog,
}

/// State of a feed that compresses or conflates.
#[derive(Debug, Default)]
struct OwnForm {
    /// Frames appended since the last seal; not yet visible to outboxes.
    unsealed: Vec<UnsealedFrame>,
    /// State of the window, in a feed that compresses with one.
    compressor: Option<FeedCompressor>,
    /// State of conflation, in a feed with a subscription that allows events to be left out.
    conflator: Option<Conflator>,
}

/// State of a feed that may leave events out.
#[derive(Debug, Default)]
pub(super) struct Conflator {
    latest: LatestByKey<(Bytes, EventId)>,
    pub(super) samplers: Samplers,
    /// Fan-out number of the event that is being matched.
    pub(super) event: u32,
    /// Least conflation among the classes that matched that event so far.
    pub(super) least: Conflation,
    /// Number of required frames before the feed's `base`.
    pub(super) required_before_base: u64,
}

impl Feed {
    pub(super) fn new(form: FeedForm, conflates: bool, is_observed: bool) -> Self {
        let compressor = form.compression.uses_window().then(FeedCompressor::default);
        let conflator = conflates.then(Conflator::default);
        let has_own_form = conflates || form.compression != Compression::None;
        Self {
            form,
            is_observed,
            classes: FeedClasses::new(),
            interest_hash: 0,
            members: SmallVec::new(),
            newest_event: 0,
            list: FrameList::default(),
            retained: None,
            own_form: has_own_form.then(|| Box::new(OwnForm { unsealed: Vec::new(), compressor, conflator })),
            next: 0,
            passed_shard: None,
            passed_epoch: 0,
            passed_sequence: 0,
        }
    }

    /// Returns whether the feed compresses or conflates. Then its frames are not in the loop's log.
    pub(super) fn has_own_form(&self) -> bool {
        self.own_form.is_some()
    }

    #[inline]
    pub(super) fn compressor(&self) -> Option<&FeedCompressor> {
        self.own_form.as_ref()?.compressor.as_ref()
    }

    pub(super) fn compressor_mut(&mut self) -> Option<&mut FeedCompressor> {
        self.own_form.as_mut()?.compressor.as_mut()
    }

    #[inline]
    fn conflator(&self) -> Option<&Conflator> {
        self.own_form.as_ref()?.conflator.as_ref()
    }

    pub(super) fn conflator_mut(&mut self) -> Option<&mut Conflator> {
        self.own_form.as_mut()?.conflator.as_mut()
    }

    /// Returns the index of the oldest retained frame.
    #[inline]
    pub(super) fn base(&self) -> u64 {
        self.retained.as_ref().map_or(self.next, |retained| retained.base)
    }

    /// Returns the bytes of the retained frames.
    pub(super) fn bytes(&self) -> usize {
        self.retained.as_ref().map_or(0, |retained| retained.bytes)
    }

    /// Returns the retained runs.
    #[inline]
    pub(super) fn runs(&self) -> Option<&VecDeque<FrameRun>> {
        self.retained.as_ref().map(|retained| &retained.runs)
    }

    fn runs_from(&self, index: u64) -> impl Iterator<Item = &FrameRun> {
        self.runs().into_iter().flatten().skip_while(move |run| run.next() <= index)
    }

    /// Returns the retained frames for a seal to append to. Allocates them if there are none.
    fn retain(&mut self) -> &mut RetainedFrames {
        let base = self.next;
        self.retained.get_or_insert_with(|| Box::new(RetainedFrames { base, ..RetainedFrames::default() }))
    }

    /// Returns the number of frames that are not sealed yet.
    #[inline]
    pub(super) fn unsealed(&self) -> u64 {
        let own = self.own_form.as_ref().map_or(0, |own| own.unsealed.len());
        u64::from(self.list.len) + own as u64
    }

    /// Appends `frame` to a feed that compresses or conflates, and returns `true` if it is the first since the last seal.
    ///
    /// The frame becomes visible to outboxes at the next [`seal`](Self::seal).
    pub(super) fn append(&mut self, frame: UnsealedFrame) -> bool {
        self.append_all([frame])
    }

    /// Appends a gap notice for `missed` events and returns `true` if it is the first frame since the last seal.
    pub(super) fn append_gap(
        &mut self,
        log: &mut FrameLog,
        frame: Bytes,
        id: EventId,
        missed: Missed,
    ) -> bool {
        self.retain().gaps.push(missed);
        if self.has_own_form() {
            let source = FrameSource::Owned(frame);
            return self.append(UnsealedFrame { source, id, kind: FrameKind::Gap, is_final: true });
        }
        let frame = log.gap(self.form.encoding, frame, id);
        log.push(&mut self.list, frame)
    }

    /// Appends frames, as [`append`](Self::append) does, and returns `true` if they are the first since the last seal.
    pub(super) fn append_all(&mut self, frames: impl IntoIterator<Item = UnsealedFrame>) -> bool {
        let Some(own) = &mut self.own_form else { return false };
        let was_clean = own.unsealed.is_empty();
        own.unsealed.extend(frames);
        was_clean && !own.unsealed.is_empty()
    }

    /// Returns the number of events that these frames represent: one for each event, and the missing ones of each gap
    /// notice.
    pub(super) fn missed_in(&self, indices: Range<u64>) -> Missed {
        match &self.retained {
            Some(retained) => retained.gaps.missed_in(indices),
            None => GapLog::default().missed_in(indices),
        }
    }

    /// Returns the run that holds the frame at `index`; `base <= index < next`.
    pub(super) fn run_of(&self, index: u64) -> Option<&FrameRun> {
        let runs = self.runs()?;
        runs.get(runs.partition_point(|run| run.next() <= index))
    }

    /// Returns the id of the event at `index`, if still retained.
    pub(super) fn id_of(&self, index: u64) -> Option<EventId> {
        if index >= self.base() && index < self.next {
            return self.run_of(index).map(|run| run.id_of(index));
        }
        self.conflator().and_then(|conflator| conflator.latest.get(index)).map(|(_, id)| *id)
    }

    /// Returns the id of the event before `index`, if still known.
    pub(super) fn id_before(&self, index: u64) -> Option<EventId> {
        if index == self.base() {
            return self.newest_passed();
        }
        index.checked_sub(1).and_then(|index| self.id_of(index))
    }

    /// Drops all sealed frames. Called when every member has received them.
    #[inline]
    pub(crate) fn forget_written(&mut self) {
        if self.retained.is_none() {
            // The usual case in feeds of one member.
            return;
        }
        let (next, unsealed) = (self.next, self.unsealed());
        let Some(retained) = &mut self.retained else { return };
        let newest = retained.runs.back().map(FrameRun::newest_id);
        if let Some(conflator) = self.own_form.as_mut().and_then(|own| own.conflator.as_mut()) {
            conflator.latest.clear();
            conflator.required_before_base +=
                retained.runs.iter().map(|run| run.required_before(run.next())).sum::<u64>();
        }
        if self.members.len() == 1 && unsealed == 0 {
            self.retained = None;
        } else {
            // A shared feed keeps the capacity for its next frames.
            retained.runs.clear();
            retained.gaps.clear_sealed();
            (retained.bytes, retained.base) = (0, next);
        }
        self.set_passed(newest);
    }

    /// Returns whether the frames in the feed's list can be written from the log to a member at `next`: they are its
    /// next frames, nothing else is retained, and no gap notice is among them.
    pub(super) fn is_written_through(&self, next: u64, limits: &FeedLimits) -> bool {
        self.list.len > 0
            && self.members.len() == 1
            && self.retained.is_none()
            && next == self.next
            && self.list.len as usize <= limits.max_events
    }

    /// Counts the frames of the feed's list as sealed, written and forgotten. Returns their number.
    pub(super) fn pass(&mut self, log: &mut FrameLog) -> u64 {
        let count = u64::from(self.list.len);
        self.next += count;
        self.set_passed(log.newest(self.form.encoding, self.list));
        log.take(&mut self.list);
        count
    }

    /// Returns the bytes of the tables that describe the frames, and of the frames that conflation retains.
    pub(super) fn table_bytes(&self) -> usize {
        let retained = self.retained.as_ref().map_or(0, |retained| {
            let marks = (self.next - retained.base) as usize * size_of::<FrameMark>();
            size_of::<RetainedFrames>() + retained.runs.capacity() * size_of::<FrameRun>() + marks
        });
        let own = self.own_form.as_ref().map_or(0, |own| {
            let latest = own.conflator.as_ref().map_or(0, |conflator| conflator.latest.held_bytes());
            size_of::<OwnForm>() + own.unsealed.capacity() * size_of::<UnsealedFrame>() + latest
        });
        let members =
            if self.members.spilled() { self.members.capacity() * size_of::<ConnIndex>() } else { 0 };
        let classes = self.classes.capacity() * size_of::<(ClassId, Conflation)>();
        retained + own + members + if self.classes.spilled() { classes } else { 0 }
    }

    /// Returns the number of bytes retained from `index` on.
    pub(super) fn bytes_from(&self, index: u64) -> u64 {
        self.runs_from(index).map(|run| (run.bytes.len() - run.start_of(index.max(run.first))) as u64).sum()
    }

    /// Returns the id of the newest sealed event.
    pub(super) fn newest_id(&self) -> Option<EventId> {
        let newest = self.runs().and_then(VecDeque::back);
        newest.map(FrameRun::newest_id).or_else(|| self.newest_passed())
    }

    /// Returns the id of the newest appended event, sealed or not.
    pub(super) fn newest_appended(&self, log: &FrameLog) -> Option<EventId> {
        let own = self.own_form.as_ref().and_then(|own| own.unsealed.last()).map(|frame| frame.id);
        own.or_else(|| log.newest(self.form.encoding, self.list)).or_else(|| self.newest_id())
    }

    /// Returns the id of the newest event before those that are retained.
    pub(super) fn newest_passed(&self) -> Option<EventId> {
        let shard = self.passed_shard?;
        Some(EventId { epoch: self.passed_epoch, shard, sequence: self.passed_sequence })
    }

    /// Records the newest event before the retained ones, if `id` is some.
    fn set_passed(&mut self, id: Option<EventId>) {
        if let Some(EventId { epoch, shard, sequence }) = id {
            (self.passed_epoch, self.passed_shard, self.passed_sequence) = (epoch, Some(shard), sequence);
        }
    }

    /// Returns the number of waiting samples.
    pub(super) fn samples_waiting(&self) -> usize {
        self.conflator().map_or(0, |conflator| conflator.samplers.waiting())
    }

    /// Returns whether some events may be left out.
    pub(super) fn conflates(&self) -> bool {
        self.conflator().is_some()
    }

    /// Returns the conflation of a class of the interest.
    pub(super) fn conflation_of(&self, class: ClassId) -> Conflation {
        let at = self.classes.binary_search_by_key(&class, |held| held.0);
        at.map_or(Conflation::None, |at| self.classes[at].1)
    }

    /// Returns the number of required frames before `base`, in a feed that conflates.
    pub(super) fn required_before_base(&self) -> u64 {
        self.conflator().map_or(0, |conflator| conflator.required_before_base)
    }

    /// Returns the number of required frames before `index`; `base <= index`.
    pub(super) fn required_before(&self, index: u64) -> u64 {
        let runs = self.runs().into_iter().flatten().take_while(|run| run.first < index);
        self.required_before_base() + runs.map(|run| run.required_before(index.min(run.next()))).sum::<u64>()
    }

    /// Returns the index below which latest frames of keys may have been forgotten.
    pub(super) fn latest_floor(&self) -> u64 {
        self.conflator().map_or(0, |conflator| conflator.latest.floor)
    }

    /// Returns the first frame at or after `index` that a lagging member of a feed that conflates must receive: its
    /// index, its bytes, and the buffer that contains them.
    pub(super) fn next_retained(&self, mut index: u64) -> Option<(u64, &[u8], &Bytes)> {
        let latest = self.conflator().map(|conflator| &conflator.latest)?;
        let base = self.base();
        if index < base {
            if let Some((index, (frame, _))) = latest.range(index..base).next() {
                return Some((index, frame, frame));
            }
            index = base;
        }
        while index < self.next {
            let run = self.run_of(index)?;
            let end = run.next();
            while index < end {
                // Below the floor the table cannot tell whether a frame is the latest of its key.
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
