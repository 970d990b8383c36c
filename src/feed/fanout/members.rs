//! Joining, leaving and changing feeds. A change of an interest costs what changes, whatever else the connection wants.
//!
//! Invariants:
//! - A feed's classes are sorted, each once; the feed holds each of them once in the matcher.
//! - A feed is found by a hash that is a sum over its classes, so one class more or less changes it in one step.
//! - A feed with one member is changed in place, unless another feed has the new interest already: then that is shared.
//!   A feed with several members is copied for the one that changes.

use std::hash::BuildHasher;

use smallvec::SmallVec;

use super::{Fanout, FeedKey, FeedOf, Membership, Slot, Wish};
use crate::dialect::Encoding;
use crate::feed::{Compression, Feed, Thinning};
use crate::filter::{ClassId, Filter};

/// One filter of a connection's interest that comes, goes, or is thinned otherwise than before.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) filter: Filter,
    /// Whether it was wanted before.
    pub(crate) was: bool,
    /// What may be left out of what it matches from now on; `None`: it is no longer wanted.
    pub(crate) to: Option<Thinning>,
}

impl Change {
    /// The work that it takes, in thousands of instructions: 20 for the feed, and one or two for each value or pattern.
    pub(crate) fn units(&self) -> u32 {
        let members = u32::try_from(self.filter.members_count()).unwrap_or(u32::MAX);
        20 + members.saturating_mul(2)
    }
}

/// Where a connection whose interest changed gets its events from now on.
#[derive(Debug)]
pub(crate) enum Revised {
    /// From the feed that it is in.
    Same,
    /// From the feed of these classes, which are held for it already; without classes from none.
    Elsewhere(Vec<(ClassId, Thinning)>),
}

/// Bytes of filters that a feed that ends takes out of the matcher at once: about a million instructions. What is beyond
/// is left to [`Fanout::sweep`].
const SWEPT_AT_ONCE: usize = 4096;

impl Fanout {
    /// Makes `slot` a member of the feed for these wishes; it gets what is appended from now on.
    pub(crate) fn join(
        &mut self,
        encoding: Encoding,
        compression: Compression,
        wishes: &[Wish],
        slot: Slot,
    ) -> Membership {
        let mut classes: Vec<(ClassId, Thinning)> =
            wishes.iter().map(|wish| (self.matcher.insert(&wish.filter), wish.thinning)).collect();
        // Of one filter wanted twice, the least thinning; `insert` counted each time, so it is given back.
        classes.sort_unstable();
        classes.dedup_by(|later, kept| {
            let twice = later.0 == kept.0;
            if twice {
                self.matcher.remove(later.0);
            }
            twice
        });
        self.join_classes(encoding, compression, classes, slot)
    }

    /// As [`join`](Self::join), for sorted classes that are held for it.
    pub(crate) fn join_classes(
        &mut self,
        encoding: Encoding,
        compression: Compression,
        classes: Vec<(ClassId, Thinning)>,
        slot: Slot,
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
            let is_thin = classes.iter().any(|(_, thinning)| *thinning != Thinning::None);
            let feed = self.feeds.insert(Feed::new(encoding, compression, is_thin)) as FeedKey;
            for &(class, thinning) in &classes {
                self.lead(class, feed, thinning);
            }
            self.feeds[feed as usize].classes = classes;
            self.register(feed, sum);
            self.feeds_in[encoding.slot()] += 1;
            self.metrics.feeds.inc();
            feed
        };
        if let Some(shared) = &self.feeds[feed as usize].shared {
            shared.want_fresh();
        }
        let members = &mut self.feeds[feed as usize].members;
        members.push(slot);
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
            let thins = |edit: &(ClassId, Option<Thinning>)| !matches!(edit.1, None | Some(Thinning::None));
            feed.members.len() == 1
                && (feed.encoding, feed.compression) == (encoding, compression)
                && (feed.thin.is_some() || !edits.iter().any(thins))
        });
        let Some(key) = own else {
            let before = membership.map(|membership| &self.feeds[membership.feed() as usize].classes);
            let mut classes = before.cloned().unwrap_or_default();
            for (class, _) in &classes {
                self.matcher.hold(*class);
            }
            for (class, to) in edits {
                match (classes.binary_search_by_key(&class, |held| held.0), to) {
                    (Ok(at), Some(thinning)) => {
                        classes[at].1 = thinning;
                        self.matcher.remove(class);
                    }
                    (Ok(at), None) => {
                        classes.remove(at);
                        self.matcher.remove(class);
                    }
                    (Err(at), Some(thinning)) => classes.insert(at, (class, thinning)),
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
    fn edits(&mut self, changes: &[Change]) -> SmallVec<[(ClassId, Option<Thinning>); 2]> {
        let mut edits: SmallVec<[(ClassId, Option<Thinning>); 2]> = SmallVec::new();
        for Change { filter, to, .. } in changes {
            match to {
                Some(thinning) => edits.push((self.matcher.insert(filter), Some(*thinning))),
                None => edits.extend(self.matcher.class_of(filter).map(|class| (class, None))),
            }
        }
        edits.sort_unstable();
        edits
    }

    /// Changes the classes of a feed in place. A class that is to be wanted is held for it; where the feed holds it
    /// already, that is given back.
    fn edit(&mut self, key: FeedKey, edits: impl IntoIterator<Item = (ClassId, Option<Thinning>)>) {
        let feed = &mut self.feeds[key as usize];
        let mut classes = std::mem::take(&mut feed.classes);
        let before = feed.sum;
        let mut sum = before;
        for (class, to) in edits {
            match (classes.binary_search_by_key(&class, |held| held.0), to) {
                (Ok(at), Some(thinning)) => {
                    let old = std::mem::replace(&mut classes[at].1, thinning);
                    sum = sum.wrapping_sub(self.part(class, old)).wrapping_add(self.part(class, thinning));
                    let mut leads = self.feeds_of[class.index()].iter_mut();
                    if let Some(lead) = leads.find(|lead| lead.feed == key) {
                        lead.thinning = thinning;
                    }
                    self.matcher.remove(class);
                }
                (Ok(at), None) => {
                    let (_, old) = classes.remove(at);
                    sum = sum.wrapping_sub(self.part(class, old));
                    self.lead_no_more(class, key);
                    self.matcher.remove(class);
                }
                (Err(at), Some(thinning)) => {
                    classes.insert(at, (class, thinning));
                    sum = sum.wrapping_add(self.part(class, thinning));
                    self.lead(class, key, thinning);
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

    /// Ends a membership. Another member may take its place: then that one's slot is the answer. The feed goes
    /// with its last member.
    pub(crate) fn leave(&mut self, membership: Membership) -> Option<Slot> {
        let (feed, place) = (membership.feed(), membership.place);
        self.books.sampled_out += self.waiting_in(feed);
        let members = &mut self.feeds[feed as usize].members;
        members.swap_remove(place as usize);
        if let Some(&moved) = members.get(place as usize) {
            return Some(moved);
        }
        if members.is_empty() {
            self.unregister(feed);
            let gone = self.feeds.remove(feed as usize);
            let mut bytes = 0;
            for (class, _) in gone.classes {
                self.lead_no_more(class, feed);
                bytes += self.matcher.filter(class).map_or(0, |filter| filter.bytes().len());
                if bytes <= SWEPT_AT_ONCE {
                    self.matcher.remove(class);
                } else {
                    self.unwanted.push(class);
                }
            }
            self.sampling.retain(|f| *f != feed);
            self.press.closed(feed, gone.compression);
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

    fn part(&self, class: ClassId, thinning: Thinning) -> u64 {
        self.hasher.hash_one((class, thinning))
    }

    fn sum(&self, encoding: Encoding, compression: Compression, classes: &[(ClassId, Thinning)]) -> u64 {
        let base = self.hasher.hash_one((encoding, compression));
        classes.iter().fold(base, |sum, &(class, thinning)| sum.wrapping_add(self.part(class, thinning)))
    }

    /// A feed of just these classes.
    fn equal(
        &self,
        sum: u64,
        encoding: Encoding,
        compression: Compression,
        classes: &[(ClassId, Thinning)],
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
    fn lead(&mut self, class: ClassId, feed: FeedKey, thinning: Thinning) {
        let index = class.index();
        if self.feeds_of.len() <= index {
            self.feeds_of.resize_with(index + 1, SmallVec::new);
        }
        self.feeds_of[index].push(FeedOf { feed, thinning });
    }

    fn lead_no_more(&mut self, class: ClassId, feed: FeedKey) {
        let leads = &mut self.feeds_of[class.index()];
        if let Some(at) = leads.iter().position(|lead| lead.feed == feed) {
            leads.swap_remove(at);
        }
    }
}
