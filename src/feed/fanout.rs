//! Fan-out of one loop: matches each event to feeds, and appends its frame once to each feed that wants it.
//!
//! Invariants:
//! - Every feed has a member.
//! - Equal interests in one form share one feed.
//! - An event is appended to a feed once, however many of the feed's filters match.

mod index;
mod members;

use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use super::compressor::{Compression, CompressorPool};
use super::conflate::{Conflation, KeyRule, Sampled};
use super::encode::{EncodedFrame, close_window, frame_for, standalone_frame};
use super::feed::{Feed, FeedLimits};
use super::frame::{FrameKind, FrameSource, UnsealedFrame};
use super::keys::{ConnIndex, FeedKey};
use crate::dialect::{Encoding, GapNotice};
use crate::event::{ENCODINGS_MAX, Event, EventId, Position, Timestamp};
use crate::filter::{ClassId, Filter};
use crate::metrics::Metrics;
use index::{ClassRoute, InterestIndex};

/// Events to deliver to members since the start, each counted once per member.
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
    /// Feeds that conflate and match the event that is being appended.
    conflating: Vec<FeedKey>,
    /// Feeds with a sample that waits.
    sampling: Vec<FeedKey>,
    key_rule: KeyRule,
    pub(crate) totals: FanoutTotals,
    /// Classes that the current event matches.
    matched: Vec<ClassId>,
    limits: FeedLimits,
    pool: CompressorPool,
    metrics: Arc<Metrics>,
    /// Number of feeds by frame slot of their encoding.
    feeds_in: [u32; ENCODINGS_MAX],
    /// Whether other loops may reuse frames encoded here.
    shares_frames: bool,
    /// Number of the current event, by which a feed knows whether it has the event already.
    event_number: u64,
    observed: DeliveryRecord,
}

impl Fanout {
    pub(crate) fn new(limits: FeedLimits, key_rule: KeyRule, metrics: Arc<Metrics>) -> Self {
        Self {
            index: InterestIndex::new(),
            feeds: Slab::new(),
            dirty: Vec::new(),
            conflating: Vec::new(),
            sampling: Vec::new(),
            key_rule,
            totals: FanoutTotals::default(),
            matched: Vec::new(),
            pool: CompressorPool::new(limits.compressor, Arc::clone(&metrics)),
            limits,
            metrics,
            feeds_in: [0; ENCODINGS_MAX],
            shares_frames: false,
            event_number: 0,
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

    pub(crate) fn feed(&self, key: FeedKey) -> &Feed {
        &self.feeds[key as usize]
    }

    /// Returns the `count` feeds with the most members, largest first. Walks all feeds.
    pub(crate) fn largest(&self, count: usize) -> Vec<FeedView> {
        let mut feeds: Vec<&Feed> = self.feeds.iter().map(|(_, feed)| feed).collect();
        let by_size = |feed: &&Feed| std::cmp::Reverse((feed.members.len(), feed.bytes));
        if feeds.len() > count {
            feeds.select_nth_unstable_by_key(count, by_size);
            feeds.truncate(count);
        }
        feeds.sort_by_key(by_size);
        let view = |feed: &Feed| {
            let classes = feed.classes.iter().take(FILTERS_SHOWN);
            FeedView {
                filters: classes.filter_map(|(class, _)| self.filter(*class).cloned()).collect(),
                encoding: feed.form.encoding,
                is_compressed: feed.form.compression != Compression::None,
                members: feed.members.len(),
                retained_events: feed.next - feed.base,
                retained_bytes: feed.bytes,
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

    /// Returns about how many instructions conditions took so far that are on payloads or evaluated one by one.
    pub(crate) fn worked(&self) -> u64 {
        self.index.matcher.worked()
    }

    /// Returns the limits of the feeds.
    pub(super) fn limits(&self) -> FeedLimits {
        self.limits
    }

    /// Returns the filter of a class.
    pub(super) fn filter(&self, class: ClassId) -> Option<&Filter> {
        self.index.matcher.filter(class)
    }

    /// Returns the filter of a feed that equals `filter`, so that equal filters share their memory.
    pub(crate) fn interned(&self, filter: &Filter) -> Option<&Filter> {
        self.index.matcher.interned(filter)
    }

    /// Appends an event to every feed that wants it, and encodes it the first time its encoding is needed.
    #[cfg(test)]
    pub(crate) fn append(&mut self, event: &Event, now: Timestamp) {
        while !self.append_within(event, now, u64::MAX) {}
    }

    /// Appends an event as [`append`](Self::append), unless matching it takes more than about `allowance` instructions: then
    /// returns false, and the next call with the same event goes on. No other event may come in between.
    pub(crate) fn append_within(&mut self, event: &Event, now: Timestamp, allowance: u64) -> bool {
        if self.feeds.is_empty() {
            self.index.matcher.give_up();
            return true;
        }
        let Some(id) = event.id() else { return true };
        if !self.index.matcher.matches_within(event, &mut self.matched, allowance) {
            return false;
        }
        self.event_number += 1;
        self.pool.now = now;
        for class in &self.matched {
            for &ClassRoute { feed: key, conflation } in self.index.routes(*class) {
                let feed = &mut self.feeds[key as usize];
                if let Some(conflator) = &mut feed.conflator {
                    if conflator.event == self.event_number {
                        conflator.least = conflator.least.min(conflation);
                    } else {
                        (conflator.event, conflator.least) = (self.event_number, conflation);
                        self.conflating.push(key);
                    }
                    continue;
                }
                if feed.newest_event == self.event_number {
                    continue;
                }
                feed.newest_event = self.event_number;
                let is_shared = self.shares_frames || self.feeds_in[feed.form.encoding.slot()] > 1;
                let EncodedFrame { source, is_final } =
                    frame_for(&mut self.feeds, key, event, &mut self.pool, &self.metrics, is_shared);
                let feed = &mut self.feeds[key as usize];
                let members = feed.members.len();
                self.totals.matched += members as u64;
                if feed.is_observed {
                    self.observed.deliveries.push(FeedDelivery { feed: key, event: event.clone(), members });
                }
                if feed.append(UnsealedFrame { source, id, kind: FrameKind::Required, is_final }) {
                    self.dirty.push(key);
                }
                self.metrics.events_matched.inc();
            }
        }
        if !self.conflating.is_empty() {
            self.append_conflated(event, id, now);
        }
        true
    }

    /// Appends the event to the feeds in `conflating`, or offers it to their samplers.
    fn append_conflated(&mut self, event: &Event, id: EventId, now: Timestamp) {
        for key in self.conflating.drain(..) {
            let EncodedFrame { source, is_final } =
                frame_for(&mut self.feeds, key, event, &mut self.pool, &self.metrics, true);
            let feed = &mut self.feeds[key as usize];
            let source = FrameSource::Owned(source.into_bytes(feed.form.encoding));
            let members = feed.members.len() as u64;
            let Some(conflator) = &mut feed.conflator else { continue };
            self.metrics.events_matched.inc();
            self.totals.matched += members;
            let mut frame = UnsealedFrame { source, id, kind: FrameKind::Required, is_final };
            match conflator.least {
                Conflation::None => {}
                Conflation::LatestPerKey => frame.kind = FrameKind::Keyed(self.key_rule.key(event)),
                Conflation::Sample(interval) => match conflator.samplers.offer(interval, now, frame) {
                    Sampled::Send(sample) => frame = sample,
                    Sampled::Waits => {
                        if !self.sampling.contains(&key) {
                            self.sampling.push(key);
                        }
                        continue;
                    }
                    Sampled::Replaces => {
                        self.totals.sampled_out += members;
                        continue;
                    }
                },
            }
            // Waiting samples of the shard are older, and must come before this frame.
            let older = conflator.samplers.release_shard(frame.id.shard, now);
            let was_clean = feed.append_samples(older);
            if feed.append(frame) || was_clean {
                self.dirty.push(key);
            }
        }
    }

    /// Appends the samples that are due.
    pub(crate) fn release_samples(&mut self, now: Timestamp) {
        self.pool.now = now;
        let Self { sampling, feeds, dirty, .. } = self;
        sampling.retain(|&key| {
            let feed = &mut feeds[key as usize];
            let Some(conflator) = &mut feed.conflator else { return false };
            let released = conflator.samplers.release(now);
            let waits = conflator.samplers.waiting() > 0;
            if feed.append_samples(released) {
                dirty.push(key);
            }
            waits
        });
    }

    /// Appends all waiting samples of one feed, due or not.
    pub(crate) fn release_samples_of(&mut self, key: FeedKey) {
        let feed = &mut self.feeds[key as usize];
        let Some(conflator) = &mut feed.conflator else { return };
        let released = conflator.samplers.release_all(self.pool.now);
        if feed.append_samples(released) {
            self.dirty.push(key);
        }
    }

    /// Returns the event's frame for one connection, in a form that every connection can read.
    pub(crate) fn frame(&mut self, event: &Event, encoding: Encoding, compression: Compression) -> Bytes {
        standalone_frame(event, encoding, compression, &mut self.pool, &self.metrics)
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

    /// Returns whether samples wait.
    pub(crate) fn is_sampling(&self) -> bool {
        !self.sampling.is_empty()
    }

    /// Returns the number of samples that wait in a feed. Each is due to every member.
    fn waiting_in(&self, feed: FeedKey) -> u64 {
        let conflator = self.feeds[feed as usize].conflator.as_ref();
        conflator.map_or(0, |conflator| conflator.samplers.waiting() as u64)
    }

    /// Returns the number of waiting samples, each counted once per member.
    pub(crate) fn samples_waiting(&self) -> u64 {
        let members = |feed: FeedKey| self.feeds[feed as usize].members.len() as u64;
        self.sampling.iter().map(|&feed| self.waiting_in(feed) * members(feed)).sum()
    }

    /// Returns the bytes of retained frames and of compressors.
    pub(crate) fn bytes(&self) -> usize {
        self.retained_bytes() + self.pool.bytes()
    }

    /// Returns the bytes of the tables of filters, feeds and members. Walks them.
    pub(crate) fn table_bytes(&self) -> usize {
        let feed = |feed: &Feed| {
            let classes = feed.classes.len() * 2 * size_of::<(ClassId, Conflation)>();
            feed.members.capacity() * size_of::<ConnIndex>() + classes + feed.table_bytes()
        };
        self.index.table_bytes()
            + self.feeds.capacity() * size_of::<Feed>()
            + self.feeds.iter().map(|(_, one)| feed(one)).sum::<usize>()
    }

    /// Returns the part of [`Self::table_bytes`] that the next filters use before more is allocated.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.index.matcher.spare_bytes()
    }

    pub(super) fn retained_bytes(&self) -> usize {
        self.feeds.iter().map(|(_, feed)| feed.bytes).sum()
    }

    /// Appends a gap notice at `id`, an event at the edge of the gap, to every feed that may want some of the missing events.
    ///
    /// `gap` counts all missing events; `to_some` is for feeds that do not want every event. With `hides`, such feeds get the
    /// notice at one of their own events, because their members must not learn of events that they may not see.
    pub(crate) fn append_gap(&mut self, id: EventId, gap: &GapNotice, to_some: &GapNotice, hides: bool) {
        for (key, feed) in &mut self.feeds {
            let matcher = &self.index.matcher;
            let filters = || feed.classes.iter().filter_map(|(class, _)| matcher.filter(*class));
            if filters().all(Filter::is_nothing) {
                continue;
            }
            let wants_all = filters().any(Filter::is_everything);
            let gap = if wants_all { gap } else { to_some };
            let own = feed.newest_appended().unwrap_or(EventId::before(id.epoch, id.shard, 0));
            let id = if hides && !wants_all { own } else { id };
            // Events that a feed would have left out are not missing.
            let missed = if feed.conflates() { gap.missed.as_bound() } else { gap.missed };
            let frame = feed.form.encoding.gap(&GapNotice { missed, ..gap.clone() });
            // The notice has an index in the feed, so the totals count it like an event.
            self.totals.matched += feed.members.len() as u64;
            let now = self.pool.now;
            let before = feed.conflator.as_mut().map(|conflator| conflator.samplers.release_all(now));
            let was_clean = feed.append_samples(before.unwrap_or_default());
            if feed.append_gap(feed.form.compression.own(frame), id, missed) || was_clean {
                self.dirty.push(key as FeedKey);
            }
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
            let share = (feed.bytes as u128 * bytes as u128 / retained as u128) as usize;
            feed.trim(&FeedLimits { max_bytes: share, ..self.limits });
        }
    }

    /// Drops a feed's frames. Called when every member has received them.
    pub(crate) fn forget_written(&mut self, feed: FeedKey) {
        self.feeds[feed as usize].forget_written();
    }

    /// Makes the frames that were appended to a feed visible to its members.
    pub(crate) fn seal(&mut self, feed: FeedKey) {
        self.feeds[feed as usize].seal(&self.limits, &mut self.pool);
    }

    /// Seals the feeds with unsealed frames, and moves their keys to `out`.
    pub(crate) fn take_dirty(&mut self, out: &mut Vec<FeedKey>) {
        for &feed in &self.dirty {
            self.feeds[feed as usize].seal(&self.limits, &mut self.pool);
        }
        out.append(&mut self.dirty);
    }
}
