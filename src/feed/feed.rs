//! One feed: frames appended by the loop, sealed into blocks, and trimmed to a bounded tail.
//!
//! Invariants:
//! - Appended frames become visible to outboxes when the feed is sealed, and never move afterwards.
//! - The blocks cover exactly `base..next`, in order.
//! - A feed with one member that keeps up retains nothing: its frames are written from the loop's log and only counted.

mod seal;

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::block::{FrameBlock, FrameMark};
use super::compressor::{Compression, CompressorLimits, FeedCompressor};
use super::conflate::{Conflation, LatestByKey, Samplers};
use super::frame::{FrameKind, FrameSource, UnsealedFrame};
use super::frame_log::{FrameList, FrameLog};
use super::gap_log::GapLog;
use super::keys::ConnIndex;
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
///
/// The struct is small because a client with an interest of its own has a feed of its own: mostly one with one class, which
/// needs no [`FeedDetail`].
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) form: FeedForm,
    /// Whether deliveries are recorded.
    pub(super) is_observed: bool,
    /// Whether the feed compresses or conflates. Then its frames are not in the loop's log.
    has_own_form: bool,
    /// Class and member, without a `detail`.
    class: ClassId,
    member: ConnIndex,
    /// Fan-out number of the newest event appended.
    pub(crate) newest_event: u32,
    /// Frames in the loop's log that were appended since the last seal; not yet visible to outboxes.
    pub(super) list: FrameList,
    /// Sealed frames; `None` if there are none.
    retained: Option<Box<RetainedFrames>>,
    /// Members and classes, if there are several of either, and the state of an own form.
    detail: Option<Box<FeedDetail>>,
    pub(super) next: u64,
    /// Whether the id of the newest event before the retained ones is known. The id has three fields, which take less memory
    /// than an `Option`.
    has_passed: bool,
    passed_shard: u16,
    passed_epoch: u64,
    passed_sequence: u64,
}

/// State that a feed with one member, one class and no form of its own does without.
#[derive(Debug)]
struct FeedDetail {
    members: Vec<ConnIndex>,
    /// Classes of the interest, sorted and distinct.
    classes: Vec<(ClassId, Conflation)>,
    /// Hash of the form and the classes, by which an equal feed is found.
    interest_hash: u64,
    /// State of a feed that compresses or conflates.
    own_form: Option<Box<OwnForm>>,
}

/// Classes of an interest, with their conflation.
pub(crate) type FeedClasses = SmallVec<[(ClassId, Conflation); 1]>;

const _: () = assert!(size_of::<Feed>() <= 72, "each client with an interest of its own has one");

/// Sealed frames of a feed: those from `base` on.
#[derive(Debug, Default)]
struct RetainedFrames {
    blocks: VecDeque<FrameBlock>,
    base: u64,
    /// Bytes of the blocks.
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
    /// Returns a feed of these classes, which are sorted and distinct, for a first member. `hash` is that of the interest.
    pub(super) fn new(
        form: FeedForm,
        (classes, hash): (FeedClasses, u64),
        member: ConnIndex,
        is_observed: bool,
    ) -> Self {
        let conflates = classes.iter().any(|(_, conflation)| *conflation != Conflation::None);
        let has_own_form = conflates || form.compression != Compression::None;
        let mut feed = Self {
            form,
            is_observed,
            has_own_form,
            class: ClassId(0),
            member,
            newest_event: 0,
            list: FrameList::default(),
            retained: None,
            detail: None,
            next: 0,
            has_passed: false,
            passed_shard: 0,
            passed_epoch: 0,
            passed_sequence: 0,
        };
        if has_own_form {
            let compressor = form.compression.uses_window().then(FeedCompressor::default);
            let conflator = conflates.then(Conflator::default);
            let own_form = OwnForm { unsealed: Vec::new(), compressor, conflator };
            feed.detail().own_form = Some(Box::new(own_form));
        }
        feed.set_classes(classes, hash);
        feed
    }

    /// Returns whether the feed compresses or conflates. Then its frames are not in the loop's log.
    #[inline]
    pub(super) fn has_own_form(&self) -> bool {
        self.has_own_form
    }

    fn own_form(&self) -> Option<&OwnForm> {
        self.detail.as_ref()?.own_form.as_deref()
    }

    fn own_form_mut(&mut self) -> Option<&mut OwnForm> {
        self.detail.as_mut()?.own_form.as_deref_mut()
    }

    /// Returns the detail. Creates it around the class and the member.
    fn detail(&mut self) -> &mut FeedDetail {
        let (class, member) = (self.class, self.member);
        self.detail.get_or_insert_with(|| {
            Box::new(FeedDetail {
                members: vec![member],
                classes: vec![(class, Conflation::None)],
                interest_hash: 0,
                own_form: None,
            })
        })
    }

    /// Drops a detail that the feed can do without.
    fn drop_plain_detail(&mut self) {
        if let Some(detail) = &self.detail
            && detail.own_form.is_none()
            && let ([member], [(class, Conflation::None)]) = (&*detail.members, &*detail.classes)
        {
            (self.member, self.class) = (*member, *class);
            self.detail = None;
        }
    }

    /// Returns the members, at least one.
    #[inline]
    pub(crate) fn members(&self) -> &[ConnIndex] {
        match &self.detail {
            None => std::slice::from_ref(&self.member),
            Some(detail) => &detail.members,
        }
    }

    /// Adds a member, and returns its index. `hash` is that of the interest.
    pub(super) fn add_member(&mut self, member: ConnIndex, hash: u64) -> u32 {
        let detail = self.detail();
        detail.interest_hash = hash;
        detail.members.push(member);
        detail.members.len() as u32 - 1
    }

    /// Removes a member that is not the last one. Returns the member that took over the index, if any.
    pub(super) fn remove_member(&mut self, index: u32) -> Option<ConnIndex> {
        let members = &mut self.detail.as_mut()?.members;
        members.swap_remove(index as usize);
        let moved = members.get(index as usize).copied();
        self.drop_plain_detail();
        moved
    }

    /// Returns the classes of the interest with their conflation, sorted and distinct.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (ClassId, Conflation)> {
        let lone = self.detail.is_none().then_some((self.class, Conflation::None));
        lone.into_iter().chain(self.detail.iter().flat_map(|detail| detail.classes.iter().copied()))
    }

    /// Moves the classes out. [`set_classes`](Self::set_classes) must follow.
    pub(super) fn take_classes(&mut self) -> FeedClasses {
        match &mut self.detail {
            None => FeedClasses::from_iter([(self.class, Conflation::None)]),
            Some(detail) => std::mem::take(&mut detail.classes).into(),
        }
    }

    /// Replaces the classes. `hash` is that of the interest.
    pub(super) fn set_classes(&mut self, classes: FeedClasses, hash: u64) {
        if let (None, [(class, Conflation::None)]) = (&self.detail, &*classes) {
            self.class = *class;
            return;
        }
        let detail = self.detail();
        (detail.classes, detail.interest_hash) = (classes.into_vec(), hash);
        self.drop_plain_detail();
    }

    /// Returns the hash of the interest, or the class of a plain interest instead, whose hash is not stored.
    pub(super) fn interest_hash(&self) -> Result<u64, ClassId> {
        self.detail.as_ref().map_or(Err(self.class), |detail| Ok(detail.interest_hash))
    }

    #[inline]
    pub(super) fn compressor(&self) -> Option<&FeedCompressor> {
        self.own_form()?.compressor.as_ref()
    }

    pub(super) fn compressor_mut(&mut self) -> Option<&mut FeedCompressor> {
        self.own_form_mut()?.compressor.as_mut()
    }

    #[inline]
    fn conflator(&self) -> Option<&Conflator> {
        self.own_form()?.conflator.as_ref()
    }

    pub(super) fn conflator_mut(&mut self) -> Option<&mut Conflator> {
        self.own_form_mut()?.conflator.as_mut()
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

    /// Returns the retained blocks.
    #[inline]
    pub(super) fn blocks(&self) -> Option<&VecDeque<FrameBlock>> {
        self.retained.as_ref().map(|retained| &retained.blocks)
    }

    fn blocks_from(&self, index: u64) -> impl Iterator<Item = &FrameBlock> {
        self.blocks().into_iter().flatten().skip_while(move |block| block.next() <= index)
    }

    /// Returns the retained frames for a seal to append to. Allocates them if there are none.
    fn retain(&mut self) -> &mut RetainedFrames {
        let base = self.next;
        self.retained.get_or_insert_with(|| Box::new(RetainedFrames { base, ..RetainedFrames::default() }))
    }

    /// Returns the number of frames that are not sealed yet.
    #[inline]
    pub(super) fn unsealed(&self) -> u64 {
        let own = self.own_form().map_or(0, |own| own.unsealed.len());
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
        is_purge: bool,
    ) -> bool {
        self.retain().gaps.push(missed, is_purge);
        if self.has_own_form() {
            let source = FrameSource::Owned(frame);
            return self.append(UnsealedFrame { source, id, kind: FrameKind::Gap, is_final: true });
        }
        let frame = log.gap(self.form.encoding, frame, id);
        log.push(&mut self.list, frame)
    }

    /// Appends frames, as [`append`](Self::append) does, and returns `true` if they are the first since the last seal.
    pub(super) fn append_all(&mut self, frames: impl IntoIterator<Item = UnsealedFrame>) -> bool {
        let Some(own) = self.own_form_mut() else { return false };
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

    /// Returns whether a notice of a purge is among the frames from this index on.
    pub(super) fn has_purge_from(&self, index: u64) -> bool {
        self.retained.as_ref().is_some_and(|retained| retained.gaps.has_purge_from(index))
    }

    /// Returns the block that holds the frame at `index`; `base <= index < next`.
    pub(super) fn block_of(&self, index: u64) -> Option<&FrameBlock> {
        let blocks = self.blocks()?;
        blocks.get(blocks.partition_point(|block| block.next() <= index))
    }

    /// Returns the id of the event at `index`, if still retained.
    pub(super) fn id_of(&self, index: u64) -> Option<EventId> {
        if index >= self.base() && index < self.next {
            return self.block_of(index).map(|block| block.id_of(index));
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
        let is_lone = self.members().len() == 1;
        let Some(retained) = &mut self.retained else { return };
        let newest = retained.blocks.back().map(FrameBlock::newest_id);
        let own = self.detail.as_mut().and_then(|detail| detail.own_form.as_mut());
        if let Some(conflator) = own.and_then(|own| own.conflator.as_mut()) {
            conflator.latest.clear();
            conflator.required_before_base +=
                retained.blocks.iter().map(|block| block.required_before(block.next())).sum::<u64>();
        }
        if is_lone && unsealed == 0 {
            self.retained = None;
        } else {
            // A shared feed keeps the capacity for its next frames.
            retained.blocks.clear();
            retained.gaps.clear_sealed();
            (retained.bytes, retained.base) = (0, next);
        }
        self.set_passed(newest);
    }

    /// Returns whether the frames in the feed's list can be written from the log to a member at `next`: they are its
    /// next frames, nothing else is retained, and no gap notice is among them.
    pub(super) fn is_written_through(&self, next: u64, limits: &FeedLimits) -> bool {
        self.list.len > 0
            && self.members().len() == 1
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
            size_of::<RetainedFrames>() + retained.blocks.capacity() * size_of::<FrameBlock>() + marks
        });
        let own = self.own_form().map_or(0, |own| {
            let latest = own.conflator.as_ref().map_or(0, |conflator| conflator.latest.held_bytes());
            size_of::<OwnForm>() + own.unsealed.capacity() * size_of::<UnsealedFrame>() + latest
        });
        let detail = self.detail.as_ref().map_or(0, |detail| {
            let classes = detail.classes.capacity() * size_of::<(ClassId, Conflation)>();
            size_of::<FeedDetail>() + detail.members.capacity() * size_of::<ConnIndex>() + classes
        });
        retained + own + detail
    }

    /// Returns the number of bytes retained from `index` on.
    pub(super) fn bytes_from(&self, index: u64) -> u64 {
        self.blocks_from(index)
            .map(|block| (block.bytes.len() - block.start_of(index.max(block.first))) as u64)
            .sum()
    }

    /// Returns the id of the newest sealed event.
    pub(super) fn newest_id(&self) -> Option<EventId> {
        let newest = self.blocks().and_then(VecDeque::back);
        newest.map(FrameBlock::newest_id).or_else(|| self.newest_passed())
    }

    /// Returns the id of the newest appended event, sealed or not.
    pub(super) fn newest_appended(&self, log: &FrameLog) -> Option<EventId> {
        let own = self.own_form().and_then(|own| own.unsealed.last()).map(|frame| frame.id);
        own.or_else(|| log.newest(self.form.encoding, self.list)).or_else(|| self.newest_id())
    }

    /// Returns the id of the newest event before those that are retained.
    pub(super) fn newest_passed(&self) -> Option<EventId> {
        let id =
            EventId { epoch: self.passed_epoch, shard: self.passed_shard, sequence: self.passed_sequence };
        self.has_passed.then_some(id)
    }

    /// Records the newest event before the retained ones, if `id` is some.
    fn set_passed(&mut self, id: Option<EventId>) {
        if let Some(EventId { epoch, shard, sequence }) = id {
            self.has_passed = true;
            (self.passed_epoch, self.passed_shard, self.passed_sequence) = (epoch, shard, sequence);
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
        let classes = self.detail.as_ref().map_or(&[][..], |detail| &detail.classes);
        let at = classes.binary_search_by_key(&class, |held| held.0);
        at.map_or(Conflation::None, |at| classes[at].1)
    }

    /// Returns the number of required frames before `base`, in a feed that conflates.
    pub(super) fn required_before_base(&self) -> u64 {
        self.conflator().map_or(0, |conflator| conflator.required_before_base)
    }

    /// Returns the number of required frames before `index`; `base <= index`.
    pub(super) fn required_before(&self, index: u64) -> u64 {
        let blocks = self.blocks().into_iter().flatten().take_while(|block| block.first < index);
        self.required_before_base()
            + blocks.map(|block| block.required_before(index.min(block.next()))).sum::<u64>()
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
            let block = self.block_of(index)?;
            let end = block.next();
            while index < end {
                // Below the floor the table cannot tell whether a frame is the latest of its key.
                if block.is_required(index) || index < latest.floor || latest.get(index).is_some() {
                    if let Some(forms) = block.forms(index) {
                        let frame = forms.standalone(self.form.compression);
                        return Some((index, frame, frame));
                    }
                    let bytes = &block.bytes[block.start_of(index)..block.start_of(index + 1)];
                    return Some((index, bytes, &block.bytes));
                }
                index += 1;
            }
        }
        None
    }
}
