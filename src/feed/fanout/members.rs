//! Joins, leaves and changes feeds. A change costs in proportion to the filters that change, however large the rest of
//! the interest is.
//!
//! Invariants:
//! - A feed's classes are sorted and distinct.
//! - A feed with one member is changed in place, unless another feed already has the new interest: then the member
//!   joins that feed. A member of a feed with several members moves to a feed with a changed copy of the interest.

use smallvec::SmallVec;

use super::Fanout;
use crate::feed::conflate::Conflation;
use crate::feed::feed::{Feed, FeedClasses, FeedForm};
use crate::feed::interest::{Change, FilterSelection, Revised};
use crate::feed::keys::{ConnIndex, FeedKey, Membership, MovedMember};
use crate::filter::ClassId;

/// A class and its new conflation; `None` removes the class.
type Edit = (ClassId, Option<Conflation>);

impl Fanout {
    /// Makes `conn` a member of the feed for these selections. The member gets events that are appended from now on.
    pub(crate) fn join(
        &mut self,
        form: FeedForm,
        selections: &[FilterSelection],
        conn: ConnIndex,
    ) -> Membership {
        let matcher = &mut self.index.matcher;
        let mut classes: FeedClasses = selections
            .iter()
            .map(|selection| (matcher.insert(&selection.filter), selection.conflation))
            .collect();
        // If a filter is selected twice, the least conflation applies. `insert` counted both, so one hold is released.
        classes.sort_unstable();
        classes.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                matcher.remove(later.0);
            }
            is_same
        });
        self.join_classes(form, classes, conn)
    }

    /// Joins as [`join`](Self::join) does, for sorted classes that the matcher already holds for the feed.
    pub(crate) fn join_classes(
        &mut self,
        form: FeedForm,
        classes: FeedClasses,
        conn: ConnIndex,
    ) -> Membership {
        let hash = self.index.interest_hash(form, &classes);
        let is_equal = |feed: &Feed| feed.classes().eq(classes.iter().copied());
        let (key, index) = if let Some(key) = self.find_equal(hash, form, is_equal, None) {
            for (class, _) in &classes {
                self.index.matcher.remove(*class);
            }
            // Waiting samples are older than the membership, so they are appended now, for the other members.
            self.release_samples_of(key);
            self.seal(key);
            (key, self.feeds[key as usize].add_member(conn, hash))
        } else {
            let key = self.feeds.vacant_key() as FeedKey;
            for &(class, _) in &classes {
                self.index.route(class, key);
            }
            let feed = Feed::new(form, (classes, hash), conn, self.observed.is_observed(form.encoding));
            self.own_forms_in[form.encoding.slot()] += u32::from(feed.has_own_form());
            self.feeds.insert(feed);
            self.index.register(key, hash, &self.feeds);
            self.metrics.feeds.inc();
            (key, 0)
        };
        if let Some(compressor) = self.feeds[key as usize].compressor() {
            compressor.request_restart();
        }
        Membership::new(key, index)
    }

    /// Changes the interest of a member's feed in place, or returns the classes of the feed that the member must join instead.
    /// The member must have detached all pending frames of the feed.
    pub(crate) fn revise(
        &mut self,
        membership: Option<Membership>,
        form: FeedForm,
        changes: &[Change],
    ) -> Revised {
        if let [Change { filter, from: Some(from), .. }] = changes
            && membership.is_some_and(|membership| self.is_alone(membership.feed(), form))
            && self.index.matcher.edit(from, filter)
        {
            // The class had one holder: the member's feed.
            return Revised::Same;
        }
        let edits = self.edits(changes);
        let own = membership.map(Membership::feed).filter(|&key| {
            let feed = &self.feeds[key as usize];
            let conflates = |edit: &Edit| !matches!(edit.1, None | Some(Conflation::None));
            self.is_alone(key, form) && (feed.conflates() || !edits.iter().any(conflates))
        });
        let Some(key) = own else {
            let before =
                membership.map(|membership| self.feeds[membership.feed() as usize].classes().collect());
            let classes: FeedClasses = before.unwrap_or_default();
            return Revised::Elsewhere(self.edited(classes, edits));
        };
        self.edit(key, edits);
        let feed = &self.feeds[key as usize];
        if feed.classes().next().is_none() {
            return Revised::Elsewhere(FeedClasses::new());
        }
        let is_equal = |other: &Feed| other.classes().eq(feed.classes());
        if self.find_equal(self.index.hash_of(feed), form, is_equal, Some(key)).is_none() {
            return Revised::Same;
        }
        let classes: FeedClasses = feed.classes().collect();
        for (class, _) in &classes {
            self.index.matcher.hold(*class);
        }
        Revised::Elsewhere(classes)
    }

    /// Returns whether a feed has one member, and this form.
    fn is_alone(&self, key: FeedKey, form: FeedForm) -> bool {
        let feed = &self.feeds[key as usize];
        feed.members().len() == 1 && feed.form == form
    }

    /// Returns the number of members of filters that could not be edited in place, since the last call.
    pub(crate) fn take_rebuilt(&mut self) -> usize {
        std::mem::take(&mut self.index.rebuilt)
    }

    /// Returns the classes that change, sorted. The matcher holds those that are added or kept.
    fn edits(&mut self, changes: &[Change]) -> SmallVec<[Edit; 2]> {
        let mut edits: SmallVec<[Edit; 2]> = SmallVec::new();
        let matcher = &mut self.index.matcher;
        for Change { filter, to, from, .. } in changes {
            match to {
                Some(conflation) => edits.push((matcher.insert(filter), Some(*conflation))),
                None => edits.extend(matcher.class_of(filter).map(|class| (class, None))),
            }
            if let Some(from) = from {
                edits.extend(matcher.class_of(from).map(|class| (class, None)));
                self.index.rebuilt += filter.members_count() + from.members_count();
            }
        }
        edits.sort_unstable();
        edits
    }

    /// Returns a feed's classes with the edits applied. Adds a hold in the matcher to each of them.
    fn edited(&mut self, mut classes: FeedClasses, edits: impl IntoIterator<Item = Edit>) -> FeedClasses {
        let matcher = &mut self.index.matcher;
        for (class, _) in &classes {
            matcher.hold(*class);
        }
        for (class, to) in edits {
            match (classes.binary_search_by_key(&class, |held| held.0), to) {
                (Ok(at), Some(conflation)) => {
                    classes[at].1 = conflation;
                    matcher.remove(class);
                }
                (Ok(at), None) => {
                    classes.remove(at);
                    matcher.remove(class);
                }
                (Err(at), Some(conflation)) => classes.insert(at, (class, conflation)),
                (Err(_), None) => {}
            }
        }
        classes
    }

    /// Edits the classes of a feed in place. [`edits`](Self::edits) took a hold on each class that is added or kept; if
    /// the feed has the class already, that hold is released.
    fn edit(&mut self, key: FeedKey, edits: impl IntoIterator<Item = Edit>) {
        let feed = &mut self.feeds[key as usize];
        let before = self.index.hash_of(feed);
        let mut classes = feed.take_classes();
        let mut hash = before;
        let index = &mut self.index;
        for (class, to) in edits {
            match (classes.binary_search_by_key(&class, |held| held.0), to) {
                (Ok(at), Some(conflation)) => {
                    let old = std::mem::replace(&mut classes[at].1, conflation);
                    hash = hash
                        .wrapping_sub(index.class_hash(class, old))
                        .wrapping_add(index.class_hash(class, conflation));
                    index.matcher.remove(class);
                }
                (Ok(at), None) => {
                    let (_, old) = classes.remove(at);
                    hash = hash.wrapping_sub(index.class_hash(class, old));
                    index.unroute(class, key);
                    index.matcher.remove(class);
                }
                (Err(at), Some(conflation)) => {
                    classes.insert(at, (class, conflation));
                    hash = hash.wrapping_add(index.class_hash(class, conflation));
                    index.route(class, key);
                }
                (Err(_), None) => {}
            }
        }
        self.feeds[key as usize].set_classes(classes, hash);
        if hash != before {
            self.index.unregister(key, before);
            self.index.register(key, hash, &self.feeds);
        }
    }

    /// Ends a membership, and removes the feed if it was the last one. Returns the member that took over the index, if
    /// any.
    pub(crate) fn leave(&mut self, membership: Membership) -> Option<MovedMember> {
        let (key, index) = (membership.feed(), membership.index);
        self.totals.sampled_out += self.waiting_in(key);
        let feed = &mut self.feeds[key as usize];
        if feed.members().len() > 1 {
            return feed.remove_member(index).map(|conn| MovedMember { conn, index });
        }
        let mut feed = self.feeds.remove(key as usize);
        self.log.take(&mut feed.list);
        self.index.unregister(key, self.index.hash_of(&feed));
        self.own_forms_in[feed.form.encoding.slot()] -= u32::from(feed.has_own_form());
        self.index.release(feed.take_classes(), key);
        self.sampling.retain(|other| *other != key);
        self.pool.closed(key, feed.form.compression);
        self.dirty.retain(|other| *other != key);
        self.metrics.feeds.dec();
        None
    }

    /// Removes some classes that no feed has from the matcher, and returns whether more are left.
    pub(crate) fn sweep(&mut self) -> bool {
        self.index.sweep()
    }

    /// Returns whether [`sweep`](Self::sweep) has something to do.
    pub(crate) fn has_unwanted(&self) -> bool {
        self.index.has_unwanted()
    }

    /// Returns the number of distinct filters in the matcher.
    #[cfg(test)]
    pub(crate) fn distinct(&self) -> usize {
        self.index.matcher.len()
    }

    /// Returns the feed in this form whose classes are equal, other than `except`. After a change in place two feeds may have
    /// them, until the member of the changed feed has moved to the other.
    fn find_equal(
        &self,
        hash: u64,
        form: FeedForm,
        is_equal: impl Fn(&Feed) -> bool,
        except: Option<FeedKey>,
    ) -> Option<FeedKey> {
        self.index.find(hash, |key| {
            let feed = &self.feeds[key as usize];
            Some(key) != except && feed.form == form && is_equal(feed)
        })
    }
}
