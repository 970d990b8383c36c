//! Index of a loop's interests: the filters in the matcher, the feeds that each class goes to, and feeds by their interest.
//!
//! Invariants:
//! - A feed holds each of its classes once in the matcher.
//! - A class's events go to each feed that has the class, once.
//! - A feed is found by a hash that is a sum over its classes, so adding or removing a class changes the hash in one step.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use slab::Slab;

use crate::feed::conflate::Conflation;
use crate::feed::feed::{Feed, FeedClasses, FeedForm};
use crate::feed::keys::FeedKey;
use crate::filter::{ClassId, Filter, FilterLimits, Matcher};

/// Maximum size of filters removed from the matcher at once, in bytes: about a million instructions.
const SWEEP_BYTES: usize = 4096;

/// Route of a class without a feed.
const NO_FEED: u32 = u32::MAX;

/// Mark of a route that is the index of a list of feeds.
const SHARED: u32 = 1 << 31;

/// Interests of one loop.
#[derive(Debug)]
pub(super) struct InterestIndex {
    pub(super) matcher: Matcher,
    /// Feeds, found by the hash of their interest.
    by_hash: HashTable<FeedKey>,
    hasher: foldhash::quality::RandomState,
    /// Classes that no feed has, and that the matcher still holds.
    unwanted: Vec<ClassId>,
    /// Feeds that get a class's events, by class: none, one, or an entry of `shared_routes`.
    routes: Vec<u32>,
    /// Feeds of the classes that several feeds have, or had.
    shared_routes: Slab<Vec<FeedKey>>,
    /// Number of values and patterns in filters that could not be edited in place.
    pub(super) rebuilt: usize,
}

impl InterestIndex {
    pub(super) fn new() -> Self {
        Self {
            matcher: Matcher::new(FilterLimits::default()),
            by_hash: HashTable::new(),
            hasher: foldhash::quality::RandomState::default(),
            unwanted: Vec::new(),
            routes: Vec::new(),
            shared_routes: Slab::new(),
            rebuilt: 0,
        }
    }

    /// Returns the feeds that get a class's events.
    pub(super) fn routes(&self, class: ClassId) -> &[FeedKey] {
        match self.routes.get(class.index()) {
            None | Some(&NO_FEED) => &[],
            Some(route) if route & SHARED != 0 => &self.shared_routes[(route & !SHARED) as usize],
            Some(key) => std::slice::from_ref(key),
        }
    }

    /// Routes a class's events to a feed.
    pub(super) fn route(&mut self, class: ClassId, feed: FeedKey) {
        let index = class.index();
        if self.routes.len() <= index {
            self.routes.resize(index + 1, NO_FEED);
        }
        let route = &mut self.routes[index];
        match *route {
            NO_FEED => *route = feed,
            shared if shared & SHARED != 0 => self.shared_routes[(shared & !SHARED) as usize].push(feed),
            // Never collides with `SHARED`: a loop has fewer than 2^31 feeds and shared routes.
            key => *route = self.shared_routes.insert(vec![key, feed]) as u32 | SHARED,
        }
    }

    /// Removes the route of a class to a feed.
    pub(super) fn unroute(&mut self, class: ClassId, feed: FeedKey) {
        let Some(route) = self.routes.get_mut(class.index()) else { return };
        if *route == feed {
            *route = NO_FEED;
        } else if *route != NO_FEED && *route & SHARED != 0 {
            let shared = (*route & !SHARED) as usize;
            let feeds = &mut self.shared_routes[shared];
            if let Some(at) = feeds.iter().position(|key| *key == feed) {
                feeds.swap_remove(at);
            }
            if feeds.is_empty() {
                self.shared_routes.remove(shared);
                *route = NO_FEED;
            }
        }
    }

    /// Returns a class's share of the hash of an interest.
    pub(super) fn class_hash(&self, class: ClassId, conflation: Conflation) -> u64 {
        self.hasher.hash_one((class, conflation))
    }

    /// Returns the hash of a feed's interest.
    pub(super) fn hash_of(&self, feed: &Feed) -> u64 {
        Self::hash_with(&self.hasher, feed)
    }

    fn hash_with(hasher: &foldhash::quality::RandomState, feed: &Feed) -> u64 {
        feed.interest_hash().unwrap_or_else(|class| {
            hasher.hash_one(feed.form).wrapping_add(hasher.hash_one((class, Conflation::None)))
        })
    }

    /// Returns the hash of an interest.
    pub(super) fn interest_hash(&self, form: FeedForm, classes: &[(ClassId, Conflation)]) -> u64 {
        let base = self.hasher.hash_one(form);
        classes
            .iter()
            .fold(base, |hash, &(class, conflation)| hash.wrapping_add(self.class_hash(class, conflation)))
    }

    /// Returns the feed with this interest hash for which `is_it` returns true.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(FeedKey) -> bool) -> Option<FeedKey> {
        self.by_hash.find(hash, |key| is_it(*key)).copied()
    }

    /// Adds a feed with this interest hash. `feeds` has all feeds of the index.
    pub(super) fn register(&mut self, feed: FeedKey, hash: u64, feeds: &Slab<Feed>) {
        let Self { by_hash, hasher, .. } = self;
        by_hash.insert_unique(hash, feed, |key| Self::hash_with(hasher, &feeds[*key as usize]));
    }

    pub(super) fn unregister(&mut self, feed: FeedKey, hash: u64) {
        if let Ok(entry) = self.by_hash.find_entry(hash, |key| *key == feed) {
            entry.remove();
        }
    }

    /// Releases a removed feed's classes. If their filters are larger than [`SWEEP_BYTES`], [`sweep`](Self::sweep)
    /// removes them from the matcher later.
    pub(super) fn release(&mut self, classes: FeedClasses, feed: FeedKey) {
        let mut bytes = 0;
        for (class, _) in classes {
            self.unroute(class, feed);
            bytes += self.matcher.filter(class).map_or(0, Filter::spelled_len);
            // A removal would restart an unfinished match.
            if bytes <= SWEEP_BYTES && !self.matcher.is_matching() {
                self.matcher.remove(class);
            } else {
                self.unwanted.push(class);
            }
        }
    }

    /// Removes some classes that no feed has from the matcher, and returns whether more are left.
    pub(super) fn sweep(&mut self) -> bool {
        let mut bytes = 0;
        while bytes < SWEEP_BYTES
            && !self.matcher.is_matching()
            && let Some(class) = self.unwanted.pop()
        {
            bytes += 8 + self.matcher.filter(class).map_or(0, Filter::spelled_len);
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
            + self.routes.capacity() * size_of::<u32>()
            + self.shared_routes.capacity() * size_of::<Vec<FeedKey>>()
            + self
                .shared_routes
                .iter()
                .map(|(_, feeds)| feeds.capacity() * size_of::<FeedKey>())
                .sum::<usize>()
    }
}
