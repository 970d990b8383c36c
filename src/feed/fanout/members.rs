//! Joining, leaving and changing feeds. A change of an interest costs what changes, whatever else the connection wants.
//!
//! Invariants:
//! - A feed's classes are sorted, each once; the feed holds each of them once in the matcher.
//! - A feed is found by a hash that is a sum over its classes, so one class more or less changes it in one step.
//! - A feed with one member is changed in place, unless another feed has the new interest already: then that is shared.
//!   A feed with several members is copied for the one that changes.

use std::hash::BuildHasher;

use smallvec::SmallVec;

use super::{ClassRoute, Fanout};
use crate::dialect::Encoding;
use crate::feed::interest::{Change, Revised, Selection};
use crate::feed::keys::{ConnIndex, FeedKey, Membership, MovedMember};
use crate::feed::{Compression, Conflation, Feed};
use crate::filter::ClassId;

/// Bytes of filters that a feed that ends takes out of the matcher at once: about a million instructions. What is beyond
/// is left to [`Fanout::sweep`].
const SWEPT_AT_ONCE: usize = 4096;

impl Fanout {
    /// Makes `conn` a member of the feed for these wishes; it gets what is appended from now on.
    pub(crate) fn join(
        &mut self,
        encoding: Encoding,
        compression: Compression,
        selections: &[Selection],
        conn: ConnIndex,
    ) -> Membership {
        let mut classes: Vec<(ClassId, Conflation)> = selections
            .iter()
            .map(|selection| (self.matcher.insert(&selection.filter), selection.conflation))
            .collect();
        // Of one filter wanted twice, the least conflation; `insert` counted each time, so it is given back.
        classes.sort_unstable();
        classes.dedup_by(|later, kept| {
            let twice = later.0 == kept.0;
            if twice {
                self.matcher.remove(later.0);
            }
            twice
        });
        self.join_classes(encoding, compression, classes, conn)
    }

    /// As [`join`](Self::join), for sorted classes that are held for it.
    pub(crate) fn join_classes(
        &mut self,
        encoding: Encoding,
        compression: Compression,
        classes: Vec<(ClassId, Conflation)>,
        conn: ConnIndex,
    ) -> Membership {
        let sum = self.sum(encoding, compression, &classes);
        let feed = if let Some(feed) = self.equal(sum, encoding, compression, &classes) {
            for (class, _) in &classes {
                self.matcher.remove(*class);
            }
            // What waits for its time is older than the newcomer: it goes to the others now.
            self.release_samples_of(feed);
            self.seal(feed);
            feed
        } else {
            let is_conflated = classes.iter().any(|(_, conflation)| *conflation != Conflation::None);
            let feed = self.feeds.insert(Feed::new(
                encoding,
                compression,
                is_conflated,
                (self.is_observed)(encoding),
            )) as FeedKey;
            for &(class, conflation) in &classes {
                self.route(class, feed, conflation);
            }
            self.feeds[feed as usize].classes = classes;
            self.register(feed, sum);
            self.feeds_in[encoding.slot()] += 1;
            self.metrics.feeds.inc();
            feed
        };
        if let Some(shared) = &self.feeds[feed as usize].shared {
            shared.request_restart();
        }
        let members = &mut self.feeds[feed as usize].members;
        members.push(conn);
        Membership::new(feed, members.len() as u32 - 1)
    }

    /// Changes what a member's feed is of, or says which feed the member is to join instead. The member must have made
    /// its own what the feed owes it.
    pub(crate) fn revise(
        &mut self,
        membership: Option<Membership>,
        encoding: Encoding,
        compression: Compression,
        changes: &[Change],
    ) -> Revised {
        let edits = self.edits(changes);
        let own = membership.map(Membership::feed).filter(|&key| {
            let feed = &self.feeds[key as usize];
            let thins =
                |edit: &(ClassId, Option<Conflation>)| !matches!(edit.1, None | Some(Conflation::None));
            feed.members.len() == 1
                && (feed.encoding, feed.compression) == (encoding, compression)
                && (feed.conflate.is_some() || !edits.iter().any(thins))
        });
        let Some(key) = own else {
            let before = membership.map(|membership| &self.feeds[membership.feed() as usize].classes);
            let mut classes = before.cloned().unwrap_or_default();
            for (class, _) in &classes {
                self.matcher.hold(*class);
            }
            for (class, to) in edits {
                match (classes.binary_search_by_key(&class, |interned| interned.0), to) {
                    (Ok(at), Some(conflation)) => {
                        classes[at].1 = conflation;
                        self.matcher.remove(class);
                    }
                    (Ok(at), None) => {
                        classes.remove(at);
                        self.matcher.remove(class);
                    }
                    (Err(at), Some(conflation)) => classes.insert(at, (class, conflation)),
                    (Err(_), None) => {}
                }
            }
            return Revised::Elsewhere(classes);
        };
        self.edit(key, edits);
        let Feed { sum, ref classes, .. } = self.feeds[key as usize];
        if classes.is_empty() {
            return Revised::Elsewhere(Vec::new());
        }
        if self.equal(sum, encoding, compression, classes).is_none_or(|other| other == key) {
            return Revised::Same;
        }
        let classes = classes.clone();
        for (class, _) in &classes {
            self.matcher.hold(*class);
        }
        Revised::Elsewhere(classes)
    }

    /// The classes that are to change, sorted; those that are to be wanted are held.
    fn edits(&mut self, changes: &[Change]) -> SmallVec<[(ClassId, Option<Conflation>); 2]> {
        let mut edits: SmallVec<[(ClassId, Option<Conflation>); 2]> = SmallVec::new();
        for Change { filter, to, .. } in changes {
            match to {
                Some(conflation) => edits.push((self.matcher.insert(filter), Some(*conflation))),
                None => edits.extend(self.matcher.class_of(filter).map(|class| (class, None))),
            }
        }
        edits.sort_unstable();
        edits
    }

    /// Changes the classes of a feed in place. A class that is to be wanted is held for it; where the feed holds it
    /// already, that is given back.
    fn edit(&mut self, key: FeedKey, edits: impl IntoIterator<Item = (ClassId, Option<Conflation>)>) {
        let feed = &mut self.feeds[key as usize];
        let mut classes = std::mem::take(&mut feed.classes);
        let before = feed.sum;
        let mut sum = before;
        for (class, to) in edits {
            match (classes.binary_search_by_key(&class, |interned| interned.0), to) {
                (Ok(at), Some(conflation)) => {
                    let old = std::mem::replace(&mut classes[at].1, conflation);
                    sum = sum.wrapping_sub(self.part(class, old)).wrapping_add(self.part(class, conflation));
                    let mut leads = self.routes[class.index()].iter_mut();
                    if let Some(route) = leads.find(|route| route.feed == key) {
                        route.conflation = conflation;
                    }
                    self.matcher.remove(class);
                }
                (Ok(at), None) => {
                    let (_, old) = classes.remove(at);
                    sum = sum.wrapping_sub(self.part(class, old));
                    self.unroute(class, key);
                    self.matcher.remove(class);
                }
                (Err(at), Some(conflation)) => {
                    classes.insert(at, (class, conflation));
                    sum = sum.wrapping_add(self.part(class, conflation));
                    self.route(class, key, conflation);
                }
                (Err(_), None) => {}
            }
        }
        self.feeds[key as usize].classes = classes;
        if sum != before {
            self.unregister(key);
            self.register(key, sum);
        }
    }

    /// Ends a membership. Another member may take its place: then that one's conn is the answer. The feed goes
    /// with its last member.
    pub(crate) fn leave(&mut self, membership: Membership) -> Option<MovedMember> {
        let (feed, index) = (membership.feed(), membership.index);
        self.totals.sampled_out += self.waiting_in(feed);
        let members = &mut self.feeds[feed as usize].members;
        members.swap_remove(index as usize);
        if let Some(&conn) = members.get(index as usize) {
            return Some(MovedMember { conn, index });
        }
        if members.is_empty() {
            self.unregister(feed);
            let gone = self.feeds.remove(feed as usize);
            let mut bytes = 0;
            for (class, _) in gone.classes {
                self.unroute(class, feed);
                bytes += self.matcher.filter(class).map_or(0, |filter| filter.bytes().len());
                if bytes <= SWEPT_AT_ONCE {
                    self.matcher.remove(class);
                } else {
                    self.unwanted.push(class);
                }
            }
            self.sampling.retain(|f| *f != feed);
            self.compressor.closed(feed, gone.compression);
            self.feeds_in[gone.encoding.slot()] -= 1;
            self.dirty.retain(|f| *f != feed);
            self.metrics.feeds.dec();
        }
        None
    }

    /// Takes some of what no feed wants any more out of the matcher, and returns whether something is left.
    pub(crate) fn sweep(&mut self) -> bool {
        let mut bytes = 0;
        while bytes < SWEPT_AT_ONCE
            && let Some(class) = self.unwanted.pop()
        {
            bytes += 8 + self.matcher.filter(class).map_or(0, |filter| filter.bytes().len());
            self.matcher.remove(class);
        }
        !self.unwanted.is_empty()
    }

    /// How many filters the matcher has.
    #[cfg(test)]
    pub(crate) fn distinct(&self) -> usize {
        self.matcher.len()
    }

    /// Whether [`sweep`](Self::sweep) has something to do.
    pub(crate) fn has_unwanted(&self) -> bool {
        !self.unwanted.is_empty()
    }

    fn part(&self, class: ClassId, conflation: Conflation) -> u64 {
        self.hasher.hash_one((class, conflation))
    }

    fn sum(&self, encoding: Encoding, compression: Compression, classes: &[(ClassId, Conflation)]) -> u64 {
        let base = self.hasher.hash_one((encoding, compression));
        classes.iter().fold(base, |sum, &(class, conflation)| sum.wrapping_add(self.part(class, conflation)))
    }

    /// A feed of just these classes.
    fn equal(
        &self,
        sum: u64,
        encoding: Encoding,
        compression: Compression,
        classes: &[(ClassId, Conflation)],
    ) -> Option<FeedKey> {
        let is_equal = |key: &&FeedKey| {
            let feed = &self.feeds[**key as usize];
            (feed.encoding, feed.compression) == (encoding, compression) && feed.classes == classes
        };
        // The oldest first: who changed in place to what another feed is of moves there.
        self.by_interest.get(&sum)?.iter().find(is_equal).copied()
    }

    fn register(&mut self, feed: FeedKey, sum: u64) {
        self.feeds[feed as usize].sum = sum;
        self.by_interest.entry(sum).or_default().push(feed);
    }

    fn unregister(&mut self, feed: FeedKey) {
        let sum = self.feeds[feed as usize].sum;
        if let Some(keys) = self.by_interest.get_mut(&sum) {
            keys.retain(|key| *key != feed);
            if keys.is_empty() {
                self.by_interest.remove(&sum);
            }
        }
    }

    /// Events of a class go to a feed.
    fn route(&mut self, class: ClassId, feed: FeedKey, conflation: Conflation) {
        let index = class.index();
        if self.routes.len() <= index {
            self.routes.resize_with(index + 1, SmallVec::new);
        }
        self.routes[index].push(ClassRoute { feed, conflation });
    }

    fn unroute(&mut self, class: ClassId, feed: FeedKey) {
        let leads = &mut self.routes[class.index()];
        if let Some(at) = leads.iter().position(|route| route.feed == feed) {
            leads.swap_remove(at);
        }
    }
}
