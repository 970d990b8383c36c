//! Who wants an event: interests, their feeds and the feeds' members, as one loop holds them.
//!
//! Imports `event`, `filter`, `dialect`, `metrics`. Always: a feed has a member; equal interests in one
//! encoding share one feed; an event is appended to a feed once, however many of its filters match.

use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use super::{Feed, FeedLimits};
use crate::dialect::{Encoding, GapNotice};
use crate::event::Event;
use crate::filter::{ClassId, Filter, FilterLimits, Matcher};
use crate::metrics::Metrics;

/// A feed's number within its loop.
pub(crate) type FeedKey = u32;

/// A connection's number within its loop.
pub(crate) type Slot = u32;

/// Where a connection stands in a feed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) feed: FeedKey,
    /// The place among the feed's members.
    pub(crate) place: u32,
}

type Interest = (Encoding, Box<[ClassId]>);

/// The interests, feeds and members of one loop.
#[derive(Debug)]
pub(crate) struct Fanout {
    matcher: Matcher,
    feeds: Slab<Feed>,
    by_interest: HashMap<Interest, FeedKey, foldhash::fast::RandomState>,
    /// By class: the feeds whose interest has it.
    feeds_of: Vec<SmallVec<[FeedKey; 2]>>,
    dirty: Vec<FeedKey>,
    matched: Vec<ClassId>,
    limits: FeedLimits,
    metrics: Arc<Metrics>,
    /// Counts events, so that a feed knows whether it has this one.
    event_number: u64,
}

impl Fanout {
    pub(crate) fn new(limits: FeedLimits, metrics: Arc<Metrics>) -> Self {
        Self {
            matcher: Matcher::new(FilterLimits::default()),
            feeds: Slab::new(),
            by_interest: HashMap::default(),
            feeds_of: Vec::new(),
            dirty: Vec::new(),
            matched: Vec::new(),
            limits,
            metrics,
            event_number: 0,
        }
    }

    pub(crate) fn feed(&self, key: FeedKey) -> &Feed {
        &self.feeds[key as usize]
    }

    /// Makes `slot` a member of the feed for these filters; it gets what is appended from now on.
    pub(crate) fn join(&mut self, encoding: Encoding, filters: &[Filter], slot: Slot) -> Membership {
        let mut classes: Vec<ClassId> = filters.iter().map(|filter| self.matcher.insert(filter)).collect();
        classes.sort_unstable();
        // `insert` counted each time: what stands twice is given back.
        classes.dedup_by(|a, b| {
            let twice = a == b;
            if twice {
                self.matcher.remove(*a);
            }
            twice
        });
        let interest: Interest = (encoding, classes.into_boxed_slice());
        let feed = if let Some(&feed) = self.by_interest.get(&interest) {
            for class in &interest.1 {
                self.matcher.remove(*class);
            }
            self.seal(feed);
            feed
        } else {
            let feed = self.feeds.insert(Feed::new(encoding)) as FeedKey;
            for class in &interest.1 {
                let index = class.index();
                if self.feeds_of.len() <= index {
                    self.feeds_of.resize_with(index + 1, SmallVec::new);
                }
                self.feeds_of[index].push(feed);
            }
            self.feeds[feed as usize].classes.clone_from(&interest.1);
            self.by_interest.insert(interest, feed);
            self.metrics.feeds.inc();
            feed
        };
        let members = &mut self.feeds[feed as usize].members;
        members.push(slot);
        Membership { feed, place: members.len() as u32 - 1 }
    }

    /// The filter of a feed that equals this one.
    pub(crate) fn held(&self, filter: &Filter) -> Option<&Filter> {
        self.matcher.held(filter)
    }

    /// Ends a membership. Another member may take its place: then that one's slot is the answer. The feed goes
    /// with its last member.
    pub(crate) fn leave(&mut self, Membership { feed, place }: Membership) -> Option<Slot> {
        let members = &mut self.feeds[feed as usize].members;
        members.swap_remove(place as usize);
        if let Some(&moved) = members.get(place as usize) {
            return Some(moved);
        }
        if members.is_empty() {
            let gone = self.feeds.remove(feed as usize);
            for class in &gone.classes {
                self.feeds_of[class.index()].retain(|f| *f != feed);
                self.matcher.remove(*class);
            }
            self.by_interest.remove(&(gone.encoding, gone.classes));
            self.dirty.retain(|f| *f != feed);
            self.metrics.feeds.dec();
        }
        None
    }

    /// Appends an event to every feed that wants it. Encodes it where it is the first of its encoding.
    pub(crate) fn append(&mut self, event: &Event) {
        if self.feeds.is_empty() {
            return;
        }
        let Some(id) = event.id() else { return };
        self.event_number += 1;
        self.matcher.matches(event, &mut self.matched);
        for class in &self.matched {
            for &key in &self.feeds_of[class.index()] {
                let feed = &mut self.feeds[key as usize];
                if feed.newest_event == self.event_number {
                    continue;
                }
                feed.newest_event = self.event_number;
                let encoding = feed.encoding;
                let frame = event.frame(encoding as usize, |event| {
                    self.metrics.encodings.inc();
                    encoding.encode(event)
                });
                if feed.append(frame.clone(), id) {
                    self.dirty.push(key);
                }
                self.metrics.events_matched.inc();
            }
        }
    }

    /// Tells the members of every feed that events are missing from here.
    pub(crate) fn append_gap(&mut self, gap: &GapNotice) {
        let Some(id) = gap.to else { return };
        for (key, feed) in &mut self.feeds {
            let frame = feed.encoding.gap(gap);
            if feed.append(frame, id) {
                self.dirty.push(key as FeedKey);
            }
        }
    }

    /// Lets go of a feed's frames: every member has them.
    pub(crate) fn forget_written(&mut self, feed: FeedKey) {
        self.feeds[feed as usize].forget_written();
    }

    /// Makes what was appended to a feed readable by its members.
    pub(crate) fn seal(&mut self, feed: FeedKey) {
        self.feeds[feed as usize].seal(&self.limits);
    }

    /// Moves the feeds that have something new to `out`, sealed.
    pub(crate) fn take_dirty(&mut self, out: &mut Vec<FeedKey>) {
        for &feed in &self.dirty {
            self.feeds[feed as usize].seal(&self.limits);
        }
        out.append(&mut self.dirty);
    }
}
