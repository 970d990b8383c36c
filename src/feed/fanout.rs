//! Fan-out of one loop: matches each event to feeds, and appends its frame once to each feed that wants it.
//!
//! Invariants:
//! - Every feed has a member.
//! - Equal interests in one form share one feed.
//! - An event is appended to a feed once, however many of the feed's filters match.

mod append;
mod current_event;
mod index;
mod members;

use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use super::compressor::{Compression, CompressorPool};
use super::conflate::KeyRule;
use super::encode::{close_window, standalone_frame};
use super::feed::{Feed, FeedLimits};
use super::frame::count_frame;
use super::frame_log::{FrameLog, Gathered, shared_frame};
use super::keys::FeedKey;
use crate::dialect::{Encoding, GapNotice, MergedPayload};
use crate::event::{ENCODINGS_MAX, Event, EventId, Position, Timestamp};
use crate::filter::{ClassId, Filter};
use crate::metrics::Metrics;
use current_event::CurrentEvent;
use index::InterestIndex;

/// Counts of events to deliver to members since the start, each event once per member.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FanoutTotals {
    pub(crate) matched: u64,
    /// Part of `matched` that sampling left out.
    pub(crate) sampled_out: u64,
}

/// One event that was appended to a feed of an observed encoding.
#[derive(Debug)]
pub(crate) struct FeedDelivery {
    pub(crate) feed: FeedKey,
    pub(crate) event: Event,
    /// Number of members when the event was appended.
    pub(crate) members: usize,
}

/// Record of deliveries in the encodings that the server observes.
#[derive(Debug)]
struct DeliveryRecord {
    is_observed: fn(Encoding) -> bool,
    deliveries: Vec<FeedDelivery>,
}

impl DeliveryRecord {
    fn is_observed(&self, encoding: Encoding) -> bool {
        (self.is_observed)(encoding)
    }

    fn record(&mut self, key: FeedKey, feed: &Feed, event: &Event) {
        let members = feed.members().len();
        self.deliveries.push(FeedDelivery { feed: key, event: event.clone(), members });
    }
}

/// A feed as an operator sees it.
#[derive(Clone, Debug)]
pub(crate) struct FeedView {
    /// Filters of the interest, at most [`FILTERS_SHOWN`].
    pub(crate) filters: Vec<Filter>,
    pub(crate) encoding: Encoding,
    pub(crate) is_compressed: bool,
    pub(crate) members: usize,
    /// Frames retained for members that lag.
    pub(crate) retained_events: u64,
    pub(crate) retained_bytes: usize,
}

/// Maximum number of filters in a [`FeedView`].
const FILTERS_SHOWN: usize = 8;

/// Interests, feeds and members of one loop.
#[derive(Debug)]
pub(crate) struct Fanout {
    index: InterestIndex,
    feeds: Slab<Feed>,
    /// Feeds with unsealed frames.
    dirty: Vec<FeedKey>,
    /// Unsealed frames of feeds that neither compress nor conflate.
    log: FrameLog,
    current: CurrentEvent,
    /// Feeds with a waiting sample.
    sampling: Vec<FeedKey>,
    key_rule: KeyRule,
    pub(crate) totals: FanoutTotals,
    limits: FeedLimits,
    pool: CompressorPool,
    metrics: Arc<Metrics>,
    /// Number of feeds that compress or conflate, by frame slot of their encoding.
    own_forms_in: [u32; ENCODINGS_MAX],
    /// Whether other loops may reuse frames encoded here.
    shares_frames: bool,
    observed: DeliveryRecord,
}

impl Fanout {
    pub(crate) fn new(limits: FeedLimits, key_rule: KeyRule, metrics: Arc<Metrics>) -> Self {
        Self {
            index: InterestIndex::new(),
            feeds: Slab::new(),
            dirty: Vec::new(),
            log: FrameLog::default(),
            current: CurrentEvent::default(),
            sampling: Vec::new(),
            key_rule,
            totals: FanoutTotals::default(),
            pool: CompressorPool::new(limits.compressor, Arc::clone(&metrics)),
            limits,
            metrics,
            own_forms_in: [0; ENCODINGS_MAX],
            shares_frames: false,
            observed: DeliveryRecord { is_observed: |_| false, deliveries: Vec::new() },
        }
    }

    /// Sets whether other loops may reuse frames encoded here. Default: false.
    pub(crate) fn share_frames(&mut self, shares: bool) {
        self.shares_frames = shares;
    }

    /// Records deliveries of feeds that are created from now on, in the encodings for which `is_observed` returns true.
    /// Default: none.
    pub(crate) fn observe(&mut self, is_observed: fn(Encoding) -> bool) {
        self.observed.is_observed = is_observed;
    }

    /// Returns the deliveries that were recorded since the last call.
    pub(crate) fn take_deliveries(&mut self) -> Vec<FeedDelivery> {
        std::mem::take(&mut self.observed.deliveries)
    }

    #[inline]
    pub(crate) fn feed(&self, key: FeedKey) -> &Feed {
        &self.feeds[key as usize]
    }

    /// Returns the `count` feeds with the most members, largest first. Walks all feeds.
    pub(crate) fn largest(&self, count: usize) -> Vec<FeedView> {
        let mut feeds: Vec<&Feed> = self.feeds.iter().map(|(_, feed)| feed).collect();
        let by_size = |feed: &&Feed| std::cmp::Reverse((feed.members().len(), feed.bytes()));
        if feeds.len() > count {
            feeds.select_nth_unstable_by_key(count, by_size);
            feeds.truncate(count);
        }
        feeds.sort_by_key(by_size);
        let view = |feed: &Feed| {
            let classes = feed.classes().take(FILTERS_SHOWN);
            FeedView {
                filters: classes.filter_map(|(class, _)| self.filter(class).cloned()).collect(),
                encoding: feed.form.encoding,
                is_compressed: feed.form.compression != Compression::None,
                members: feed.members().len(),
                retained_events: feed.next - feed.base(),
                retained_bytes: feed.bytes(),
            }
        };
        feeds.into_iter().map(view).collect()
    }

    /// Sets the limits of all feeds from now on.
    pub(crate) fn set_limits(&mut self, limits: FeedLimits) {
        self.limits = limits;
        self.pool.limits = limits.compressor;
    }

    /// Returns whether matching one event may take much work.
    pub(crate) fn may_work_long(&self) -> bool {
        self.index.matcher.may_work_long()
    }

    /// Returns the approximate number of instructions so far for conditions on payloads and for those evaluated one by
    /// one.
    pub(crate) fn worked(&self) -> u64 {
        self.index.matcher.worked()
    }

    /// Returns the number of clients for which frames were appended since their feeds were last written.
    pub(crate) fn receivers(&self) -> usize {
        self.dirty.iter().map(|key| self.feeds[*key as usize].members().len()).sum()
    }

    /// Returns the limits of the feeds.
    pub(crate) fn limits(&self) -> FeedLimits {
        self.limits
    }

    /// Returns the filter of a class.
    pub(super) fn filter(&self, class: ClassId) -> Option<&Filter> {
        self.index.matcher.filter(class)
    }

    /// Returns the matcher's own copy of a filter equal to `filter`, so that equal filters share their memory.
    pub(crate) fn interned(&self, filter: &Filter) -> Option<&Filter> {
        self.index.matcher.interned(filter)
    }

    /// Appends the samples that are due.
    pub(crate) fn release_samples(&mut self, now: Timestamp) {
        self.pool.now = now;
        let Self { sampling, feeds, dirty, .. } = self;
        sampling.retain(|&key| {
            let feed = &mut feeds[key as usize];
            let Some(conflator) = feed.conflator_mut() else { return false };
            let released = conflator.samplers.release(now);
            let waits = conflator.samplers.waiting() > 0;
            if feed.append_all(released) {
                dirty.push(key);
            }
            waits
        });
    }

    /// Appends all waiting samples of one feed, due or not.
    pub(crate) fn release_samples_of(&mut self, key: FeedKey) {
        let feed = &mut self.feeds[key as usize];
        let Some(conflator) = feed.conflator_mut() else { return };
        let released = conflator.samplers.release_all(self.pool.now);
        if feed.append_all(released) {
            self.dirty.push(key);
        }
    }

    /// Returns the event's frame for one connection, in a form that every connection can read.
    pub(crate) fn frame(&mut self, event: &Event, encoding: Encoding, compression: Compression) -> Bytes {
        standalone_frame(event, encoding, compression, &mut self.pool, &self.metrics)
    }

    /// Appends the frame that [`frame`](Self::frame) returns. The event caches none.
    pub(crate) fn put_frame(
        &mut self,
        event: &Event,
        encoding: Encoding,
        compression: Compression,
        frames: &mut Vec<u8>,
    ) {
        let start = frames.len();
        if event.has_frame(encoding.slot()) {
            frames.extend_from_slice(shared_frame(event, encoding, &self.metrics));
        } else {
            encoding.put(event, event.position(), frames);
            count_frame(&self.metrics, frames.len() - start);
        }
        if compression != Compression::None {
            let plain = Bytes::copy_from_slice(&frames[start..]);
            frames.truncate(start);
            frames.extend_from_slice(&self.pool.standalone(compression, &plain));
        }
    }

    /// Counts encoded frames of these lengths.
    pub(crate) fn count_frames(&self, lens: impl Iterator<Item = usize>) {
        let (mut len, mut times) = (0, 0);
        let count = |len: usize, times: u64| {
            if times > 0 {
                self.metrics.encodings.inc_by(times);
                self.metrics.frame_bytes.observe(len as u64, times);
            }
        };
        // Most neighbours are of one length.
        for next in lens {
            if next != len {
                count(len, std::mem::take(&mut times));
                len = next;
            }
            times += 1;
        }
        count(len, times);
    }

    /// Returns the event's frame for one connection, as [`frame`](Self::frame) does, with an explicit position. A replay
    /// needs one, because its client's position differs from the live one.
    pub(crate) fn frame_at(
        &mut self,
        event: &Event,
        position: &Position,
        encoding: Encoding,
        compression: Compression,
    ) -> Bytes {
        self.metrics.encodings.inc();
        self.pool.standalone(compression, &encoding.encode(event, Some(position)))
    }

    /// Returns the frame of an event that stands for several, for one connection.
    pub(crate) fn frame_merged(
        &mut self,
        event: &Event,
        merged: &MergedPayload,
        position: Option<&Position>,
        encoding: Encoding,
        compression: Compression,
    ) -> Option<Bytes> {
        self.metrics.encodings.inc();
        Some(self.pool.standalone(compression, &encoding.encode_merged(event, merged, position)?))
    }

    /// Returns whether any sample waits.
    pub(crate) fn is_sampling(&self) -> bool {
        !self.sampling.is_empty()
    }

    /// Returns the number of waiting samples of a feed. Each is pending for every member.
    fn waiting_in(&self, feed: FeedKey) -> u64 {
        self.feeds[feed as usize].samples_waiting() as u64
    }

    /// Returns the number of waiting samples, each counted once per member.
    pub(crate) fn samples_waiting(&self) -> u64 {
        let members = |feed: FeedKey| self.feeds[feed as usize].members().len() as u64;
        self.sampling.iter().map(|&feed| self.waiting_in(feed) * members(feed)).sum()
    }

    /// Returns the bytes of retained frames and of compressors.
    pub(crate) fn bytes(&self) -> usize {
        self.retained_bytes() + self.pool.bytes()
    }

    /// Returns the bytes of the tables of filters, feeds and members. Walks them.
    pub(crate) fn table_bytes(&self) -> usize {
        self.index.table_bytes()
            + self.log.held_bytes()
            + self.feeds.capacity() * size_of::<Feed>()
            + self.feeds.iter().map(|(_, feed)| feed.table_bytes()).sum::<usize>()
    }

    /// Returns the part of [`Self::table_bytes`] that the feeds take besides their structs.
    #[cfg(test)]
    pub(super) fn feeds_bytes(&self) -> usize {
        self.feeds.iter().map(|(_, feed)| feed.table_bytes()).sum()
    }

    /// Returns the part of [`Self::table_bytes`] that the next filters use before more is allocated.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.index.matcher.spare_bytes()
    }

    pub(super) fn retained_bytes(&self) -> usize {
        self.feeds.iter().map(|(_, feed)| feed.bytes()).sum()
    }

    /// Appends a gap notice at `id`, an event at the edge of the gap, to every feed that may want some of the missing events.
    ///
    /// `gap` counts all missing events; `to_some` is for feeds that do not want every event. With `hides`, such feeds
    /// receive the notice at one of their own events, because its position must not reveal an event that their members
    /// may not see.
    pub(crate) fn append_gap(&mut self, id: EventId, gap: &GapNotice, to_some: &GapNotice, hides: bool) {
        let mut from = 0;
        while let Some(key) = self.feed_from(from) {
            from = key + 1;
            let feed = &self.feeds[key as usize];
            let matcher = &self.index.matcher;
            let filters = || feed.classes().filter_map(|(class, _)| matcher.filter(class));
            if filters().all(Filter::is_nothing) {
                continue;
            }
            let wants_all = filters().any(Filter::is_everything);
            let gap = if wants_all { gap } else { to_some };
            let own = feed.newest_appended(&self.log).unwrap_or(EventId::before(id.epoch, id.shard, 0));
            self.append_notice(key, if hides && !wants_all { own } else { id }, gap, false);
        }
    }

    /// Returns the key of the first feed from this one on.
    pub(crate) fn feed_from(&self, from: FeedKey) -> Option<FeedKey> {
        (from..self.feeds.capacity() as FeedKey).find(|key| self.feeds.contains(*key as usize))
    }

    /// Appends a gap notice to a feed if it `concerns` one of its filters, at the feed's newest event, or at `before` if it has
    /// none.
    pub(crate) fn append_gap_to(
        &mut self,
        feed: FeedKey,
        before: EventId,
        gap: &GapNotice,
        mut concerns: impl FnMut(&Filter) -> bool,
    ) {
        let matcher = &self.index.matcher;
        let mut is_concerned = |class| matcher.filter(class).is_some_and(&mut concerns);
        if self.feeds[feed as usize].classes().any(|(class, _)| is_concerned(class)) {
            let id = self.newest_appended(feed).unwrap_or(before);
            self.append_notice(feed, id, gap, true);
        }
    }

    /// Appends a gap notice to a feed. `is_purge`: the events that are missing were purged.
    fn append_notice(&mut self, key: FeedKey, id: EventId, gap: &GapNotice, is_purge: bool) {
        let feed = &mut self.feeds[key as usize];
        // Events that a feed would have left out are not missing.
        let missed = if feed.conflates() { gap.missed.as_bound() } else { gap.missed };
        let frame = feed.form.encoding.gap(&GapNotice { missed, ..gap.clone() });
        // The notice has an index in the feed, so the totals count it as an event.
        self.totals.matched += feed.members().len() as u64;
        let now = self.pool.now;
        let before = feed.conflator_mut().map(|conflator| conflator.samplers.release_all(now));
        let was_clean = feed.append_all(before.unwrap_or_default());
        let frame = feed.form.compression.own(frame);
        if feed.append_gap(&mut self.log, frame, id, missed, is_purge) || was_clean {
            self.dirty.push(key);
        }
    }

    /// Frees the feeds' windows, and trims all feeds in proportion until they retain about `bytes` together.
    pub(crate) fn shed(&mut self, bytes: usize) {
        for key in self.pool.holders().to_vec() {
            close_window(&mut self.feeds, key, &mut self.pool);
        }
        self.pool.pause();
        let retained = self.retained_bytes().max(1);
        for (_, feed) in &mut self.feeds {
            let share = (feed.bytes() as u128 * bytes as u128 / retained as u128) as usize;
            feed.trim(&FeedLimits { max_bytes: share, ..self.limits });
        }
    }

    /// Drops a feed's frames. Called when every member has received them.
    pub(crate) fn forget_written(&mut self, feed: FeedKey) {
        self.feeds[feed as usize].forget_written();
    }

    /// Makes the frames that were appended to a feed visible to its members.
    pub(crate) fn seal(&mut self, feed: FeedKey) {
        self.feeds[feed as usize].seal(&mut self.log, &self.limits, &mut self.pool);
    }

    /// Moves the keys of the feeds with newly appended frames to `out`. The caller seals them, or writes their lone
    /// members through.
    pub(crate) fn take_dirty(&mut self, out: &mut Vec<FeedKey>) {
        out.append(&mut self.dirty);
    }

    /// Returns the id of the newest event appended to a feed, sealed or not.
    pub(super) fn newest_appended(&self, feed: FeedKey) -> Option<EventId> {
        self.feeds[feed as usize].newest_appended(&self.log)
    }

    /// Returns the unsealed frames of a feed as one stretch of at most `max` bytes, if they can be written through to
    /// the feed's only member, which is at `next`.
    pub(super) fn gather(&mut self, feed: FeedKey, next: u64, max: usize) -> Option<Gathered> {
        let feed = &self.feeds[feed as usize];
        if !feed.is_written_through(next, &self.limits) {
            return None;
        }
        let gathered = self.log.gather(feed.form.encoding, feed.list, max.min(self.limits.max_bytes))?;
        debug_assert!(
            self.log
                .frames(feed.form.encoding, feed.list)
                .flat_map(|(_, bytes)| bytes)
                .eq(self.log.bytes(feed.form.encoding, &gathered)),
            "the list decides"
        );
        Some(gathered)
    }

    /// Returns the bytes that were gathered for a feed.
    pub(super) fn gathered(&self, feed: FeedKey, gathered: &Gathered) -> &[u8] {
        self.log.bytes(self.feeds[feed as usize].form.encoding, gathered)
    }

    /// Counts the gathered frames of a feed as written. Returns their number.
    pub(super) fn pass(&mut self, feed: FeedKey) -> u64 {
        self.feeds[feed as usize].pass(&mut self.log)
    }
}
