//! Interest of this node's clients in a log that can deliver less than everything: plain NATS.
//!
//! Loops register the filters of their clients. The follower subscribes accordingly, and reports the place from which
//! each subscription is complete.
//!
//! Invariants:
//! - A subject that a client wants is followed, or will be soon.
//! - A subject that no client wants stays followed for a while, so that a client that returns soon has missed nothing.
//! - [`InterestRegistry::since`] returns a place only if the subject was followed without a break since then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::subject::{ALL, covers, of_filter};
use crate::event::Sequence;
use crate::filter::Filter;
use crate::sync::{Callback, Mutex, lock};

/// Maximum number of subscribed subjects. Beyond it the node subscribes to everything.
const SUBJECTS_MAX: usize = 256;

/// Place of the follower in each shard when it began to follow a subject.
type FollowedSince = Box<[Sequence]>;

#[derive(Default)]
struct SubjectHolders {
    count: usize,
    /// Time at which the last holder left.
    left: Option<Instant>,
}

#[derive(Default)]
struct InterestState {
    wanted: BTreeMap<Arc<str>, SubjectHolders>,
    /// Subscribed subjects, and the places since which each is followed; `None`: not confirmed yet.
    asked: BTreeMap<Arc<str>, Option<FollowedSince>>,
    /// Epoch of the log to which the places belong; `None` if the log delivers everything.
    epoch: Option<u64>,
}

/// Registry of the subjects that clients of this node want.
pub(crate) struct InterestRegistry {
    state: Mutex<InterestState>,
    linger: Duration,
    /// Callback that wakes the follower.
    changed: Mutex<Option<Callback>>,
    /// Callback after more subjects are followed.
    on_followed: Callback,
}

/// Registration of a client's subjects; dropping it withdraws them.
pub(crate) struct InterestGuard {
    interest: Arc<InterestRegistry>,
    subjects: Vec<Arc<str>>,
}

impl Drop for InterestGuard {
    fn drop(&mut self) {
        self.interest.release(&self.subjects);
    }
}

/// Changes for the follower to make to its subscriptions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SubjectChange {
    pub(super) subscribe: Vec<Arc<str>>,
    pub(super) unsubscribe: Vec<Arc<str>>,
}

impl InterestRegistry {
    pub(super) fn new(linger: Duration, on_followed: Callback) -> Self {
        Self { state: Mutex::default(), linger, changed: Mutex::default(), on_followed }
    }

    /// Registers the subjects of these filters.
    pub(crate) fn want<'a>(self: &Arc<Self>, filters: impl Iterator<Item = &'a Filter>) -> InterestGuard {
        let subjects: BTreeSet<String> = filters.flat_map(of_filter).collect();
        self.want_subjects(subjects.iter().map(String::as_str))
    }

    /// Registers all subjects.
    pub(super) fn want_all(self: &Arc<Self>) -> InterestGuard {
        self.want_subjects(std::iter::once(ALL))
    }

    fn want_subjects<'a>(self: &Arc<Self>, subjects: impl Iterator<Item = &'a str>) -> InterestGuard {
        let mut is_new = false;
        let mut held = Vec::new();
        let mut state = lock(&self.state);
        for subject in subjects {
            let is_full = state.wanted.len() >= SUBJECTS_MAX && !state.wanted.contains_key(subject);
            let subject = if is_full { ALL } else { subject };
            let subject = match state.wanted.get_key_value(subject) {
                Some((known, _)) => Arc::clone(known),
                None => Arc::from(subject),
            };
            is_new |= !state.wanted.contains_key(&subject);
            let holders = state.wanted.entry(Arc::clone(&subject)).or_default();
            holders.count += 1;
            holders.left = None;
            held.push(subject);
        }
        drop(state);
        if is_new {
            self.wake();
        }
        InterestGuard { interest: Arc::clone(self), subjects: held }
    }

    fn release(&self, subjects: &[Arc<str>]) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        for subject in subjects {
            if let Some(holders) = state.wanted.get_mut(subject) {
                holders.count -= 1;
                holders.left = (holders.count == 0).then_some(now);
            }
        }
    }

    fn wake(&self) {
        if let Some(wake) = lock(&self.changed).clone() {
            wake();
        }
    }

    /// Returns whether every event that these filters match is followed.
    pub(crate) fn is_followed<'a>(&self, mut filters: impl Iterator<Item = &'a Filter>) -> bool {
        let state = lock(&self.state);
        state.epoch.is_none()
            || filters.all(|filter| {
                of_filter(filter).iter().all(|subject| {
                    let mut asked = state.asked.iter();
                    asked.any(|(wide, since)| since.is_some() && covers(wide, subject))
                })
            })
    }

    /// Returns the epoch of the log and, for each shard, the place since which every event that the filter matches
    /// was followed. Returns `None` if the log delivers everything.
    pub(crate) fn since(&self, filter: &Filter, shards: usize) -> Option<(u64, FollowedSince)> {
        let state = lock(&self.state);
        let epoch = state.epoch?;
        let mut since = vec![0; shards].into_boxed_slice();
        for subject in of_filter(filter) {
            let covered = state.covered(&subject);
            for (shard, since) in since.iter_mut().enumerate() {
                let place = covered.as_ref().and_then(|covered| covered.get(shard));
                *since = (*since).max(place.copied().unwrap_or(Sequence::MAX));
            }
        }
        Some((epoch, since))
    }

    /// Records a new connection of the follower, which is subscribed to nothing yet. If `epoch` is `None`, the connection
    /// delivers everything.
    pub(super) fn reset(&self, epoch: Option<u64>, wake: Option<Callback>) {
        let mut state = lock(&self.state);
        state.asked.clear();
        state.epoch = epoch;
        drop(state);
        *lock(&self.changed) = wake;
    }

    /// Returns the subjects that the follower should subscribe to, and those that it should unsubscribe from. It
    /// unsubscribes from nothing before every subscription is confirmed, so that a narrower replacement is followed
    /// before the wider subject is dropped.
    pub(super) fn changes(&self, now: Instant) -> SubjectChange {
        let mut state = lock(&self.state);
        let InterestState { wanted, asked, .. } = &mut *state;
        wanted.retain(|_, holders| holders.left.is_none_or(|left| now - left < self.linger));
        // A subject that a wider one covers needs no subscription.
        let needed: Vec<Arc<str>> = wanted
            .keys()
            .filter(|subject| !wanted.keys().any(|wide| wide != *subject && covers(wide, subject)))
            .cloned()
            .collect();
        let mut change = SubjectChange::default();
        for subject in &needed {
            if !asked.contains_key(subject) {
                asked.insert(Arc::clone(subject), None);
                change.subscribe.push(Arc::clone(subject));
            }
        }
        if change.subscribe.is_empty() && asked.values().all(Option::is_some) {
            change.unsubscribe = asked.keys().filter(|subject| !needed.contains(subject)).cloned().collect();
            asked.retain(|subject, _| needed.contains(subject));
        }
        change
    }

    /// Records that these subscriptions are confirmed from these places on.
    pub(super) fn confirm(&self, subjects: &[Arc<str>], next: &[Sequence]) {
        let mut state = lock(&self.state);
        for subject in subjects {
            // A subject that a wider one covered until now was followed all along.
            let since = state.covered(subject).unwrap_or_else(|| next.into());
            if let Some(asked) = state.asked.get_mut(subject) {
                *asked = Some(since);
            }
        }
        drop(state);
        (self.on_followed)();
    }
}

impl InterestState {
    /// Returns the places since which a subject is followed, through any subject that covers it.
    fn covered(&self, subject: &str) -> Option<FollowedSince> {
        let wider = self.asked.iter().filter(|(wide, _)| covers(wide, subject));
        wider.filter_map(|(_, since)| since.clone()).reduce(|mut first, other| {
            for (place, other) in first.iter_mut().zip(&other) {
                *place = (*place).min(*other);
            }
            first
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicUsize, Ordering};

    fn filter(text: &str) -> Filter {
        text.parse().expect(text)
    }

    fn texts(subjects: &[Arc<str>]) -> Vec<&str> {
        subjects.iter().map(|subject| &**subject).collect()
    }

    struct Fixture {
        interest: Arc<InterestRegistry>,
        notified: Arc<AtomicUsize>,
    }

    fn table(linger: Duration) -> Fixture {
        let notified = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&notified);
        let on_followed = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        Fixture { interest: Arc::new(InterestRegistry::new(linger, Arc::new(on_followed))), notified }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn wanted_subjects_are_subscribed_and_recognized() {
        let Fixture { interest, notified } = table(LONG);
        let done = filter("type=task.done");
        assert!(interest.is_followed([&done].into_iter()), "a log that delivers everything");
        assert_eq!(interest.since(&done, 1), None);
        interest.reset(Some(5), None);
        assert!(!interest.is_followed([&done].into_iter()));
        assert_eq!(interest.since(&done, 1), Some((5, [Sequence::MAX].into())));
        let _held = interest.want([&done].into_iter());
        let change = interest.changes(Instant::now());
        assert_eq!((texts(&change.subscribe), change.unsubscribe.len()), (vec!["*.*.*.*.task.done"], 0));
        assert_eq!(interest.changes(Instant::now()), SubjectChange::default(), "once");
        assert!(!interest.is_followed([&done].into_iter()), "requested is not followed");
        interest.confirm(&change.subscribe, &[40]);
        assert_eq!(notified.load(Ordering::Relaxed), 1);
        assert!(interest.is_followed([&done].into_iter()));
        assert_eq!(interest.since(&done, 1), Some((5, [40].into())));
        // A narrower filter is followed with it; another one is not.
        assert!(interest.is_followed([&filter("type=task.done stream=a")].into_iter()));
        assert!(!interest.is_followed([&done, &filter("type=task.*")].into_iter()));
    }

    #[test]
    fn a_resume_within_the_linger_time_is_complete_and_a_later_one_is_not() {
        let Fixture { interest, .. } = table(LONG);
        interest.reset(Some(5), None);
        let filter_of_a = filter("type=a");
        let held = interest.want([&filter_of_a].into_iter());
        let change = interest.changes(Instant::now());
        interest.confirm(&change.subscribe, &[7]);
        drop(held);
        let now = Instant::now();
        assert_eq!(interest.changes(now + LONG / 2), SubjectChange::default(), "it lingers");
        assert_eq!(interest.since(&filter_of_a, 1), Some((5, [7].into())));
        let held = interest.want([&filter_of_a].into_iter());
        assert_eq!(interest.changes(now + LONG * 2), SubjectChange::default(), "somebody wants it again");
        drop(held);
        let change = interest.changes(Instant::now() + LONG * 2);
        assert_eq!(texts(&change.unsubscribe), ["*.*.*.*.a"]);
        assert_eq!(interest.since(&filter_of_a, 1), Some((5, [Sequence::MAX].into())));
        let _held = interest.want([&filter_of_a].into_iter());
        let change = interest.changes(Instant::now());
        interest.confirm(&change.subscribe, &[90]);
        assert_eq!(
            interest.since(&filter_of_a, 1),
            Some((5, [90].into())),
            "between 7 and 90 something may be missing"
        );
    }

    #[test]
    fn a_narrower_interest_is_followed_before_the_wider_one_is_left() {
        let Fixture { interest, .. } = table(Duration::ZERO);
        interest.reset(Some(5), None);
        let all = interest.want_all();
        let change = interest.changes(Instant::now());
        interest.confirm(&change.subscribe, &[3, 4]);
        let filter_of_a = filter("type=a");
        let _held = interest.want([&filter_of_a].into_iter());
        assert_eq!(interest.changes(Instant::now()), SubjectChange::default(), "it is followed already");
        drop(all);
        let change = interest.changes(Instant::now());
        assert_eq!((texts(&change.subscribe), change.unsubscribe.len()), (vec!["*.*.*.*.a"], 0));
        assert_eq!(interest.changes(Instant::now()), SubjectChange::default());
        interest.confirm(&change.subscribe, &[50, 60]);
        assert_eq!(interest.since(&filter_of_a, 2), Some((5, [3, 4].into())), "without a break");
        assert_eq!(texts(&interest.changes(Instant::now()).unsubscribe), [">"]);
        assert!(interest.is_followed([&filter_of_a].into_iter()));
        assert_eq!(interest.since(&Filter::new(), 2), Some((5, [Sequence::MAX; 2].into())));
    }

    #[test]
    fn too_many_wants_are_a_want_for_everything() {
        let Fixture { interest, .. } = table(Duration::ZERO);
        interest.reset(Some(5), None);
        let filters: Vec<Filter> = (0..=SUBJECTS_MAX).map(|n| filter(&format!("type=t{n}"))).collect();
        let held: Vec<InterestGuard> =
            filters.iter().map(|filter| interest.want(std::iter::once(filter))).collect();
        assert_eq!(texts(&interest.changes(Instant::now()).subscribe), [">"]);
        drop(held);
        let _last = interest.want(std::iter::once(&filters[0]));
        assert_eq!(texts(&interest.changes(Instant::now()).subscribe), ["*.*.*.*.t0"]);
    }
}
