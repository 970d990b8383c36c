//! Index of a loop's interests: the filters in the matcher, the feeds that each class goes to, and feeds by their interest.
//!
//! Invariants:
//! - A feed holds each of its classes once in the matcher.
//! - A feed is found by a hash that is a sum over its classes, so adding or removing a class changes the hash in one step.

use std::hash::BuildHasher;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::feed::conflate::Conflation;
use crate::feed::feed::FeedForm;
use crate::feed::keys::FeedKey;
use crate::filter::{ClassId, FilterLimits, Matcher};

/// Maximum size of filters removed from the matcher at once, in bytes: about a million instructions.
const SWEEP_BYTES: usize = 4096;

/// Route of a class's events to a feed.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClassRoute {
    pub(super) feed: FeedKey,
    pub(super) conflation: Conflation,
}

/// Interests of one loop.
#[derive(Debug)]
pub(super) struct InterestIndex {
    pub(super) matcher: Matcher,
    /// Feeds by the hash of their interest; two interests collide with a probability of 2^-64.
    by_hash: HashMap<u64, SmallVec<[FeedKey; 1]>, foldhash::fast::RandomState>,
    hasher: foldhash::quality::RandomState,
    /// Classes that no feed has any more, and that the matcher still holds.
    unwanted: Vec<ClassId>,
    /// Routes by class.
    routes: Vec<SmallVec<[ClassRoute; 1]>>,
    /// Members of filters that could not be edited in place.
    pub(super) rebuilt: usize,
}

impl InterestIndex {
    pub(super) fn new() -> Self {
        Self {
            matcher: Matcher::new(FilterLimits::default()),
            by_hash: HashMap::default(),
            hasher: foldhash::quality::RandomState::default(),
            unwanted: Vec::new(),
            routes: Vec::new(),
            rebuilt: 0,
        }
    }

    /// Returns the feeds that get a class's events.
    pub(super) fn routes(&self, class: ClassId) -> &[ClassRoute] {
        &self.routes[class.index()]
    }

    /// Routes a class's events to a feed.
    pub(super) fn route(&mut self, class: ClassId, feed: FeedKey, conflation: Conflation) {
        let index = class.index();
        if self.routes.len() <= index {
            self.routes.resize_with(index + 1, SmallVec::new);
        }
        self.routes[index].push(ClassRoute { feed, conflation });
    }

    /// Changes the conflation of a route.
    pub(super) fn reroute(&mut self, class: ClassId, feed: FeedKey, conflation: Conflation) {
        if let Some(route) = self.routes[class.index()].iter_mut().find(|route| route.feed == feed) {
            route.conflation = conflation;
        }
    }

    /// Removes the route of a class to a feed.
    pub(super) fn unroute(&mut self, class: ClassId, feed: FeedKey) {
        let routes = &mut self.routes[class.index()];
        if let Some(at) = routes.iter().position(|route| route.feed == feed) {
            routes.swap_remove(at);
        }
    }

    /// Returns a class's share of the hash of an interest.
    pub(super) fn class_hash(&self, class: ClassId, conflation: Conflation) -> u64 {
        self.hasher.hash_one((class, conflation))
    }

    /// Returns the hash of an interest.
    pub(super) fn interest_hash(&self, form: FeedForm, classes: &[(ClassId, Conflation)]) -> u64 {
        let base = self.hasher.hash_one(form);
        classes
            .iter()
            .fold(base, |hash, &(class, conflation)| hash.wrapping_add(self.class_hash(class, conflation)))
    }

    /// Returns the feeds with this interest hash, oldest first.
    pub(super) fn feeds_with(&self, hash: u64) -> &[FeedKey] {
        self.by_hash.get(&hash).map_or(&[], SmallVec::as_slice)
    }

    pub(super) fn register(&mut self, feed: FeedKey, hash: u64) {
        self.by_hash.entry(hash).or_default().push(feed);
    }

    pub(super) fn unregister(&mut self, feed: FeedKey, hash: u64) {
        if let Some(keys) = self.by_hash.get_mut(&hash) {
            keys.retain(|key| *key != feed);
            if keys.is_empty() {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// Gives up a removed feed's classes. Beyond [`SWEEP_BYTES`] the matcher's share is left
    /// to [`sweep`](Self::sweep).
    pub(super) fn release(&mut self, classes: Vec<(ClassId, Conflation)>, feed: FeedKey) {
        let mut bytes = 0;
        for (class, _) in classes {
            self.unroute(class, feed);
            bytes += self.matcher.filter(class).map_or(0, |filter| filter.bytes().len());
            // A removal would make an unfinished match begin again.
            if bytes <= SWEEP_BYTES && !self.matcher.is_matching() {
                self.matcher.remove(class);
            } else {
                self.unwanted.push(class);
            }
        }
    }

    /// Takes some classes that no feed has any more out of the matcher, and returns whether some are left.
    pub(super) fn sweep(&mut self) -> bool {
        let mut bytes = 0;
        while bytes < SWEEP_BYTES
            && !self.matcher.is_matching()
            && let Some(class) = self.unwanted.pop()
        {
            bytes += 8 + self.matcher.filter(class).map_or(0, |filter| filter.bytes().len());
            self.matcher.remove(class);
        }
        !self.unwanted.is_empty()
    }

    /// Returns whether [`sweep`](Self::sweep) has something to do.
    pub(super) fn has_unwanted(&self) -> bool {
        !self.unwanted.is_empty()
    }

    /// Returns the memory of the index, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.matcher.memory_bytes()
            + self.matcher.filter_bytes()
            + self.by_hash.allocation_size()
            + self.routes.capacity() * size_of::<SmallVec<[ClassRoute; 1]>>()
    }
}
