//! Who wants an event: interests, their feeds and the feeds' members, as one loop holds them.
//!
//! Imports `event`, `filter`, `dialect`, `metrics`. Always: a feed has a member; equal interests in one
//! encoding share one feed; an event is appended to a feed once, however many of its filters match.

mod members;

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use super::compressor::CompressorPool;
use super::conflate::{Conflation, KeyRule, Sampled};
use super::keys::{ConnIndex, FeedKey};
use super::{Compression, Feed, FeedLimits, FrameSource, count_frame};
use crate::dialect::{Encoding, GapNotice};
use crate::event::{ENCODINGS_MAX, Event, EventId, Position, Timestamp};
use crate::filter::{ClassId, Filter, FilterLimits, Matcher};
use crate::metrics::Metrics;

#[derive(Clone, Copy, Debug)]
struct ClassRoute {
    feed: FeedKey,
    conflation: Conflation,
}

/// What was owed to members, and what of it samples left out; each counted once for each member.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FanoutTotals {
    pub(crate) matched: u64,
    pub(crate) sampled_out: u64,
}

/// One event that was appended to a feed of an observed encoding.
#[derive(Debug)]
pub(crate) struct FeedDelivery {
    pub(crate) feed: FeedKey,
    pub(crate) event: Event,
    /// Members of the feed when the event was appended.
    pub(crate) members: usize,
}

/// A feed as an operator sees it.
#[derive(Clone, Debug)]
pub(crate) struct FeedView {
    /// What its interest is made of; some of it where that is much.
    pub(crate) filters: Vec<Filter>,
    pub(crate) encoding: Encoding,
    pub(crate) is_compressed: bool,
    pub(crate) members: usize,
    /// What it keeps for members that are behind.
    pub(crate) retained_events: u64,
    pub(crate) retained_bytes: usize,
}

/// Filters of one interest that a view has at the most.
const FILTERS_SHOWN: usize = 8;

/// The interests, feeds and members of one loop.
#[derive(Debug)]
pub(crate) struct Fanout {
    matcher: Matcher,
    feeds: Slab<Feed>,
    /// By the hash of what they are of; two of them meet with a chance of one in 2^64.
    by_interest: HashMap<u64, SmallVec<[FeedKey; 1]>, foldhash::fast::RandomState>,
    hasher: foldhash::quality::RandomState,
    /// Classes that no feed wants any more, and the matcher still has.
    unwanted: Vec<ClassId>,
    /// By class: the feeds whose interest has it.
    routes: Vec<SmallVec<[ClassRoute; 1]>>,
    dirty: Vec<FeedKey>,
    /// Feeds that thin and want the event at hand.
    thinned: Vec<FeedKey>,
    /// Feeds with a sample that waits for its time.
    sampling: Vec<FeedKey>,
    key_rule: KeyRule,
    pub(crate) totals: FanoutTotals,
    matched: Vec<ClassId>,
    limits: FeedLimits,
    compressor: CompressorPool,
    metrics: Arc<Metrics>,
    /// How many feeds there are in each encoding.
    feeds_in: [u32; ENCODINGS_MAX],
    /// Others want the same events' frames too: other loops.
    shares_frames: bool,
    /// Counts events, so that a feed knows whether it has this one.
    event_number: u64,
    /// Whether deliveries in an encoding are recorded.
    is_observed: fn(Encoding) -> bool,
    deliveries: Vec<FeedDelivery>,
}

impl Fanout {
    pub(crate) fn new(limits: FeedLimits, key_rule: KeyRule, metrics: Arc<Metrics>) -> Self {
        Self {
            matcher: Matcher::new(FilterLimits::default()),
            feeds: Slab::new(),
            by_interest: HashMap::default(),
            hasher: foldhash::quality::RandomState::default(),
            unwanted: Vec::new(),
            routes: Vec::new(),
            dirty: Vec::new(),
            thinned: Vec::new(),
            sampling: Vec::new(),
            key_rule,
            totals: FanoutTotals::default(),
            matched: Vec::new(),
            compressor: CompressorPool::new(limits.compressor, Arc::clone(&metrics)),
            limits,
            metrics,
            feeds_in: [0; ENCODINGS_MAX],
            shares_frames: false,
            event_number: 0,
            is_observed: |_| false,
            deliveries: Vec::new(),
        }
    }

    /// Whether others, beside this one, may want the frames that it makes. As long as nobody says so: no.
    pub(crate) fn share_frames(&mut self, shares: bool) {
        self.shares_frames = shares;
    }

    /// Records deliveries in the encodings for which `is_observed` returns true. Default: none.
    pub(crate) fn observe(&mut self, is_observed: fn(Encoding) -> bool) {
        self.is_observed = is_observed;
    }

    /// Returns the deliveries that were recorded since the last call.
    pub(crate) fn take_deliveries(&mut self) -> Vec<FeedDelivery> {
        std::mem::take(&mut self.deliveries)
    }

    pub(crate) fn feed(&self, key: FeedKey) -> &Feed {
        &self.feeds[key as usize]
    }

    /// The feeds with the most members, so many. Looks at every feed.
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
                filters: classes.filter_map(|(class, _)| self.matcher.filter(*class).cloned()).collect(),
                encoding: feed.encoding,
                is_compressed: feed.compression != Compression::None,
                members: feed.members.len(),
                retained_events: feed.next - feed.base,
                retained_bytes: feed.bytes,
            }
        };
        feeds.into_iter().map(view).collect()
    }

    /// What feeds may keep from now on.
    pub(crate) fn set_limits(&mut self, limits: FeedLimits) {
        self.limits = limits;
        self.compressor.limits = limits.compressor;
    }

    /// Returns whether a filter of some feed has a condition on the payload.
    pub(crate) fn reads_payloads(&self) -> bool {
        self.matcher.reads_payloads()
    }

    /// Returns about the instructions that looking into payloads took so far.
    pub(crate) fn payload_work(&self) -> u64 {
        self.matcher.payload_work()
    }

    /// The limits of its feeds.
    pub(super) fn limits(&self) -> FeedLimits {
        self.limits
    }

    /// The filter of a class.
    pub(super) fn filter(&self, class: ClassId) -> Option<&Filter> {
        self.matcher.filter(class)
    }

    /// The filter of a feed that equals this one.
    pub(crate) fn interned(&self, filter: &Filter) -> Option<&Filter> {
        self.matcher.interned(filter)
    }

    /// Appends an event to every feed that wants it. Encodes it where it is the first of its encoding.
    pub(crate) fn append(&mut self, event: &Event, now: Timestamp) {
        if self.feeds.is_empty() {
            return;
        }
        let Some(id) = event.id() else { return };
        self.event_number += 1;
        self.compressor.now = now;
        self.matcher.matches(event, &mut self.matched);
        for class in &self.matched {
            for &ClassRoute { feed: key, conflation } in &self.routes[class.index()] {
                let feed = &mut self.feeds[key as usize];
                if let Some(conflate) = &mut feed.conflate {
                    if conflate.event == self.event_number {
                        conflate.least = conflate.least.min(conflation);
                    } else {
                        (conflate.event, conflate.least) = (self.event_number, conflation);
                        self.thinned.push(key);
                    }
                    continue;
                }
                if feed.newest_event == self.event_number {
                    continue;
                }
                feed.newest_event = self.event_number;
                let is_shared = self.shares_frames || self.feeds_in[feed.encoding.slot()] > 1;
                let frame =
                    frame_for(&mut self.feeds, key, event, &mut self.compressor, &self.metrics, is_shared);
                let feed = &mut self.feeds[key as usize];
                self.totals.matched += feed.members.len() as u64;
                if feed.is_observed {
                    let members = feed.members.len();
                    self.deliveries.push(FeedDelivery { feed: key, event: event.clone(), members });
                }
                if feed.append(frame, id, 0) {
                    self.dirty.push(key);
                }
                self.metrics.events_matched.inc();
            }
        }
        if !self.thinned.is_empty() {
            self.append_thinned(event, id, now);
        }
    }

    fn append_thinned(&mut self, event: &Event, id: EventId, now: Timestamp) {
        for key in self.thinned.drain(..) {
            let (frame, ready) =
                frame_for(&mut self.feeds, key, event, &mut self.compressor, &self.metrics, true);
            let feed = &mut self.feeds[key as usize];
            let frame = (frame.into_bytes(feed.encoding), ready);
            let members = feed.members.len() as u64;
            let Some(conflate) = &mut feed.conflate else { continue };
            self.metrics.events_matched.inc();
            self.totals.matched += members;
            let (frame, id, event_key) = match conflate.least {
                Conflation::None => (frame, id, 0),
                Conflation::Conflate => (frame, id, self.key_rule.key(event)),
                Conflation::Sample(interval) => match conflate.samplers.take(interval, now, frame, id) {
                    Sampled::Now(frame, id) => (frame, id, 0),
                    Sampled::Waits => {
                        if !self.sampling.contains(&key) {
                            self.sampling.push(key);
                        }
                        continue;
                    }
                    Sampled::Instead => {
                        self.totals.sampled_out += members;
                        continue;
                    }
                },
            };
            // What waits is older, and would come behind it: so it goes early.
            let older = conflate.samplers.release_shard(id.shard, now);
            let was_clean = feed.append_samples(older);
            let (frame, ready) = frame;
            if feed.append((FrameSource::Owned(frame), ready), id, event_key) || was_clean {
                self.dirty.push(key);
            }
        }
    }

    /// Appends the samples whose time has come.
    pub(crate) fn release_samples(&mut self, now: Timestamp) {
        self.compressor.now = now;
        let Self { sampling, feeds, dirty, .. } = self;
        sampling.retain(|&key| {
            let feed = &mut feeds[key as usize];
            let Some(conflate) = &mut feed.conflate else { return false };
            let released = conflate.samplers.release(now);
            let replaying = conflate.samplers.waiting() > 0;
            if feed.append_samples(released) {
                dirty.push(key);
            }
            replaying
        });
    }

    /// Appends the samples of one feed, though their time has not come.
    pub(crate) fn release_samples_of(&mut self, key: FeedKey) {
        let feed = &mut self.feeds[key as usize];
        let Some(conflate) = &mut feed.conflate else { return };
        let released = conflate.samplers.release_all(self.compressor.now);
        if feed.append_samples(released) {
            self.dirty.push(key);
        }
    }

    /// The event's frame in this encoding, for one connection: it looks back at nothing.
    pub(crate) fn frame(&mut self, event: &Event, encoding: Encoding, compression: Compression) -> Bytes {
        alone(event, encoding, compression, &mut self.compressor, &self.metrics)
    }

    /// The same for one connection that stands elsewhere behind the event than who gets it live.
    pub(crate) fn frame_at(
        &mut self,
        event: &Event,
        position: &Position,
        encoding: Encoding,
        compression: Compression,
    ) -> Bytes {
        self.metrics.encodings.inc();
        self.compressor.alone(compression, &encoding.encode(event, Some(position)))
    }

    /// Whether samples wait for their time.
    pub(crate) fn is_sampling(&self) -> bool {
        !self.sampling.is_empty()
    }

    /// Samples that wait in a feed: each member is owed them.
    fn waiting_in(&self, feed: FeedKey) -> u64 {
        self.feeds[feed as usize].conflate.as_ref().map_or(0, |conflate| conflate.samplers.waiting() as u64)
    }

    /// Samples that wait, once for each member.
    pub(crate) fn samples_waiting(&self) -> u64 {
        let members = |feed: FeedKey| self.feeds[feed as usize].members.len() as u64;
        self.sampling.iter().map(|&feed| self.waiting_in(feed) * members(feed)).sum()
    }

    /// Bytes that feeds keep for members that are slow, and that their compressors take.
    pub(crate) fn bytes(&self) -> usize {
        self.retained_bytes() + self.compressor.bytes()
    }

    /// Bytes that the tables of filters, feeds and members take. Walks them.
    pub(crate) fn table_bytes(&self) -> usize {
        let feed = |feed: &Feed| {
            let classes = feed.classes.len() * 2 * size_of::<(ClassId, Conflation)>();
            feed.members.capacity() * size_of::<ConnIndex>() + classes + feed.table_bytes()
        };
        self.matcher.memory_bytes()
            + self.matcher.filter_bytes()
            + self.feeds.capacity() * size_of::<Feed>()
            + self.feeds.iter().map(|(_, one)| feed(one)).sum::<usize>()
            + self.by_interest.allocation_size()
            + self.routes.capacity() * size_of::<SmallVec<[ClassRoute; 1]>>()
    }

    /// Of [`Self::table_bytes`], what the next filters take before more is allocated.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.matcher.spare_bytes()
    }

    pub(super) fn retained_bytes(&self) -> usize {
        self.feeds.iter().map(|(_, feed)| feed.bytes).sum()
    }

    /// Tells the members of the feeds that may want some of them that events are missing from here: `id` is one at an
    /// edge. `gap` counts all that are missing, whoever wanted them; `to_some` is for members who want some events only.
    /// `hides`: those are to learn of no event that is not theirs, so in their feeds it stands at one of their own.
    pub(crate) fn append_gap(&mut self, id: EventId, gap: &GapNotice, to_some: &GapNotice, hides: bool) {
        for (key, feed) in &mut self.feeds {
            let filters = || feed.classes.iter().filter_map(|(class, _)| self.matcher.filter(*class));
            if filters().all(Filter::is_nothing) {
                continue;
            }
            let wants_all = filters().any(Filter::is_everything);
            let gap = if wants_all { gap } else { to_some };
            let own = feed.newest_appended().unwrap_or(EventId::before(id.epoch, id.shard, 0));
            let id = if hides && !wants_all { own } else { id };
            // Events that a feed leaves out are not missing.
            let missed = if feed.conflate.is_some() { gap.missed.as_bound() } else { gap.missed };
            let frame = feed.encoding.gap(&GapNotice { missed, ..gap.clone() });
            // It has a place in the feed, so it has one in the books.
            self.totals.matched += feed.members.len() as u64;
            let before =
                feed.conflate.as_mut().map(|conflate| conflate.samplers.release_all(self.compressor.now));
            let was_clean = feed.append_samples(before.unwrap_or_default());
            if feed.append_gap(feed.compression.own(frame), id, missed) || was_clean {
                self.dirty.push(key as FeedKey);
            }
        }
    }

    /// Lets go of the feeds' windows, and of the oldest frames of all, until they hold about so many bytes together.
    pub(crate) fn shed(&mut self, bytes: usize) {
        for key in self.compressor.holders().to_vec() {
            close_window(&mut self.feeds, key, &mut self.compressor);
        }
        self.compressor.pause();
        let interned = self.retained_bytes().max(1);
        for (_, feed) in &mut self.feeds {
            let share = (feed.bytes as u128 * bytes as u128 / interned as u128) as usize;
            feed.trim(&FeedLimits { max_bytes: share, ..self.limits });
        }
    }

    /// Lets go of a feed's frames: every member has them.
    pub(crate) fn forget_written(&mut self, feed: FeedKey) {
        self.feeds[feed as usize].forget_written();
    }

    /// Makes what was appended to a feed readable by its members.
    pub(crate) fn seal(&mut self, feed: FeedKey) {
        self.feeds[feed as usize].seal(&self.limits, &mut self.compressor);
    }

    /// Moves the feeds that have something new to `out`, sealed.
    pub(crate) fn take_dirty(&mut self, out: &mut Vec<FeedKey>) {
        for &feed in &self.dirty {
            self.feeds[feed as usize].seal(&self.limits, &mut self.compressor);
        }
        out.append(&mut self.dirty);
    }
}

/// The event's frame, made and counted where it is the first of its encoding.
fn frame_of<'a>(event: &'a Event, encoding: Encoding, metrics: &Metrics) -> &'a Bytes {
    let make = |event: &Event| {
        let frame = encoding.encode(event, event.position());
        count_frame(metrics, frame.len());
        frame
    };
    event.frame(encoding.slot(), make)
}

/// The event's frame compressed by itself, and kept with it where others may want the same.
fn alone(
    event: &Event,
    encoding: Encoding,
    compression: Compression,
    compressor: &mut CompressorPool,
    metrics: &Metrics,
) -> Bytes {
    let plain = frame_of(event, encoding, metrics);
    if compression.is_kept() {
        event.deflated(encoding.slot(), || compressor.alone(compression, plain)).clone()
    } else {
        compressor.alone(compression, plain)
    }
}

/// The event's frame as this feed takes it, and whether it is sent as it is.
fn frame_for(
    feeds: &mut Slab<Feed>,
    key: FeedKey,
    event: &Event,
    compressor: &mut CompressorPool,
    metrics: &Metrics,
    is_shared: bool,
) -> (FrameSource, bool) {
    let feed = &feeds[key as usize];
    let (encoding, compression) = (feed.encoding, feed.compression);
    let is_plain = compression == Compression::None;
    if is_plain && !is_shared {
        return (FrameSource::Deferred(event.clone()), true);
    }
    if is_plain || (compression.looks_back() && open_window(feeds, key, compressor)) {
        frame_of(event, encoding, metrics);
        return (FrameSource::Shared(event.clone()), is_plain);
    }
    (FrameSource::Owned(alone(event, encoding, compression, compressor, metrics)), true)
}

/// Whether the feed has a window, perhaps from now on.
fn open_window(feeds: &mut Slab<Feed>, key: FeedKey, compressor: &mut CompressorPool) -> bool {
    let has_window = |feed: &Feed| feed.shared.as_ref().is_some_and(|shared| shared.has_window());
    if has_window(&feeds[key as usize]) {
        return true;
    }
    let used = |key: FeedKey| feeds.get(key as usize)?.shared.as_ref()?.used();
    if let Some(idle) = compressor.idle(used) {
        close_window(feeds, idle, compressor);
    }
    let feed = &mut feeds[key as usize];
    let compression = feed.compression;
    feed.shared.as_mut().is_some_and(|shared| compressor.open(key, compression, shared))
}

fn close_window(feeds: &mut Slab<Feed>, key: FeedKey, compressor: &mut CompressorPool) {
    let Some(feed) = feeds.get_mut(key as usize) else { return };
    if let Some(shared) = &mut feed.shared {
        shared.close();
    }
    compressor.closed(key, feed.compression);
}
