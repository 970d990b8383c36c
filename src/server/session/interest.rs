//! A client's subscriptions, and how a change of them becomes a change of its interest.
//!
//! Invariants:
//! - The filters of one subscription are adjacent and share its name. Names are compared by a hash first.
//! - A change costs a look at each subscription, about three instructions, and the work for those that changed.
//! - A filter of two subscriptions remains in the interest until both are gone.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Session;
use super::began::{Began, DeliveredElsewhere};
use super::context::Context;
use super::effect::Effect;
use super::kept::{check_absent, check_from_start, report_ended};
use super::past::PastReport;
use super::past::ReplayFrom;
use super::rights::name_own_channels;
use super::subscription::{
    ALL, AffectedFilter, SessionSubscription, SubscriptionMarks, SubscriptionName, hash, name_hash,
};
use super::weight::Weight;
use crate::dialect::{
    ClientError, ConcatTarget, ErrorCode, Observed, OnLag, OwnChannel, Reply, ReplyTag, Stamp, Subscribe,
};
use crate::event::EventId;
use crate::feed::{Change, Conflation, LagPolicy};
use crate::filter::{Filter, FilterLimits};

/// Form of a past that a subscription requests.
struct PastStyle {
    /// Whether it is sent whole, including events that other subscriptions have delivered.
    own_past: bool,
    /// String that neighbours are merged by.
    merge: Option<Arc<ConcatTarget>>,
}

impl Session {
    /// Returns the name for a new subscription. A number from the server never equals one that a client has given.
    fn name(&self, subscribe: &Subscribe) -> SubscriptionName {
        if let Some(id) = &subscribe.subscription_id {
            return SubscriptionName::Given(id.as_str().into());
        }
        let mut free = self.unnamed.wrapping_add(1);
        let mut taken: SmallVec<[u32; 8]> = self
            .subscriptions
            .iter()
            .filter_map(|s| s.name.number())
            .filter(|number| *number >= free)
            .collect();
        taken.sort_unstable();
        for number in taken {
            if number == free {
                free = free.wrapping_add(1);
            }
        }
        SubscriptionName::Numbered(free)
    }

    /// Returns the range of the filters with this name. They are adjacent.
    pub(super) fn named(&self, id: &str) -> Range<usize> {
        let name_hash = name_hash(id);
        let is = |s: &SessionSubscription| s.name_hash == name_hash && s.name.is(id);
        let first = self.subscriptions.iter().position(is).unwrap_or(self.subscriptions.len());
        let count = self.subscriptions[first..].iter().take_while(|s| is(s)).count();
        first..first + count
    }

    /// Checks that a subscription is allowed, if it replaces those in `replaced`.
    fn check(
        &self,
        subscribe: &Subscribe,
        replaced: &Range<usize>,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        if subscribe.subscription_id.as_deref() == Some(ALL) {
            let text = format!("subscription_id {ALL} is reserved: it means all subscriptions");
            return Err(ClientError::new(ErrorCode::InvalidSubscriptionId, text));
        }
        let limits = FilterLimits::default();
        let mut weight: u32 = 0;
        for filter in std::iter::once(&subscribe.filter).chain(&subscribe.or) {
            filter.check(&limits)?;
            let own = filter.weight();
            weight = weight.saturating_add(own);
            // About 50 instructions for each member, and some for the grant.
            cx.budget.spend(u32::try_from(filter.members_count() / 16 + 1).unwrap_or(u32::MAX));
            if let Some(rights) = self.rights() {
                rights.may_see(filter, self.encoding.protocol().spells_types())?;
            }
        }
        let max = cx.config.max_subscriptions;
        let others = self.subscriptions.len() - replaced.len();
        if others + 1 + subscribe.or.len() > max {
            let text = format!("subscription limit of {max} reached");
            return Err(ClientError::new(ErrorCode::TooManySubscriptions, text));
        }
        self.check_values_held(weight, replaced, cx)?;
        self.check_on_lag(subscribe.on_lag, replaced)?;
        self.check_weight(subscribe, cx)
    }

    /// Checks that a connection can have this policy together with those of its other subscriptions.
    fn check_on_lag(&self, on_lag: OnLag, replaced: &Range<usize>) -> Result<(), ClientError> {
        let others = self.subscriptions.iter().enumerate().filter(|(at, _)| !replaced.contains(at));
        if others.map(|(_, other)| other.on_lag).all(|other| other.fits(on_lag)) {
            return Ok(());
        }
        let text = "on_lag catch_up delivers every event, and concat merges those of all subscriptions: catch_up can't be combined with conflate or sample on one connection, nor concat beside another policy";
        Err(ClientError::new(ErrorCode::InvalidOnLag, text))
    }

    /// Checks that the client may hold values of this weight instead of those in `replaced`.
    pub(super) fn check_values_held(
        &self,
        weight: u32,
        replaced: &Range<usize>,
        cx: &Context<'_>,
    ) -> Result<(), ClientError> {
        let max = cx.config.max_subscription_values;
        let held: u32 = self.subscriptions.iter().map(|s| s.weight).sum();
        let replaced: u32 = self.subscriptions[replaced.clone()].iter().map(|s| s.weight).sum();
        if u64::from(held - replaced) + u64::from(weight) > max as u64 {
            let text = format!(
                "limit of {max} values and pattern segments in all subscriptions together reached: {} are held, {weight} asked for (** counts {})",
                held - replaced,
                crate::filter::MANY_WEIGHT
            );
            return Err(ClientError::new(ErrorCode::TooManyValues, text));
        }
        Ok(())
    }

    /// Adds a subscription, and responds to the message that requested it, if there is one.
    pub(super) fn subscribe(
        &mut self,
        mut subscribe: Subscribe,
        mut tag: Option<&ReplyTag>,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        let own = match self.grant() {
            Some(grant) => name_own_channels(grant, &mut subscribe)?,
            None => Vec::new(),
        };
        let name = self.name(&subscribe);
        let id = name.to_string();
        let replaced = self.named(&id);
        self.check(&subscribe, &replaced, cx)?;
        let Subscribe { filter, or, since, history, snapshot, own_past, on_lag, concat, config, .. } =
            subscribe;
        let start = subscribe.from_start.then_some(ReplayFrom::Start);
        let past = since.map(ReplayFrom::After).or(start).or(history.map(ReplayFrom::Newest));
        let past = past.or(snapshot.then_some(ReplayFrom::Snapshot));
        let filters: SmallVec<[Filter; 1]> = std::iter::once(filter).chain(or).collect();
        if subscribe.absent_is_error || past == Some(ReplayFrom::Start) {
            let wanted: Vec<Filter> = filters.iter().map(|filter| self.narrow(filter)).collect();
            if subscribe.absent_is_error {
                check_absent(&wanted, cx)?;
            }
            if past == Some(ReplayFrom::Start) {
                check_from_start(&wanted, cx)?;
            }
        }
        let marks = SubscriptionMarks::new(snapshot, 0, subscribe.fixed_lists);
        if let SubscriptionName::Numbered(number) = name {
            self.unnamed = number;
        }
        // A snapshot and kept logs hold some of the past.
        let is_partial = matches!(past, Some(ReplayFrom::Snapshot | ReplayFrom::Start));
        let began = if is_partial { None } else { cx.view.position().map(Began::from) };
        let has_past = past.is_some();
        if let Some(from) = past {
            let answered = tag.take_if(|_| self.encoding.protocol().reports_past_start());
            let merge = concat.as_ref().filter(|concat| concat.compacts);
            let style = PastStyle { own_past, merge: merge.map(|concat| Arc::clone(&concat.target)) };
            let answered = answered.map(|tag| (tag, &*own));
            self.request_past(&id, &filters, style, from, answered, cx);
        }
        if matches!(on_lag, OnLag::CatchUp | OnLag::Concat) {
            let target = concat.filter(|_| on_lag == OnLag::Concat).map(|concat| concat.target);
            cx.effects.push(Effect::Concat(target));
        }
        let gone = self.forget(replaced, cx);
        self.observe(Observed::Subscribed { id: &id, config, filters: &filters }, cx);
        let first = self.subscriptions.len();
        for filter in filters {
            let weight = filter.weight();
            let name = name.clone();
            self.subscriptions.push(SessionSubscription {
                name,
                filter,
                on_lag,
                began: began.clone(),
                marks,
                name_hash: name_hash(&id),
                weight,
                wish: 0,
            });
            self.count_newest();
            cx.shared.metrics.subscriptions.inc();
        }
        let added = self.subscriptions.len() - first;
        self.emit_change(gone, first..self.subscriptions.len(), added, cx);
        if let Some(tag) = tag {
            let place = self.place(true, cx);
            self.reply_at(place, &Reply::Subscribed { id: &id, past: None, own: &own }, tag, cx);
        }
        if !has_past {
            report_ended(&id, cx);
        }
        Ok(())
    }

    /// Requests the past of a new subscription, before the interest changes, so that live events come after it. `tag`
    /// belongs to the message that is answered when the start of the past is known; with it, the channels that the message
    /// named by templates.
    fn request_past(
        &mut self,
        id: &str,
        filters: &[Filter],
        style: PastStyle,
        from: ReplayFrom,
        tag: Option<(&ReplyTag, &[OwnChannel])>,
        cx: &mut Context<'_>,
    ) {
        let report = match tag {
            Some((tag, own)) => {
                let position = self.place(true, cx);
                let stamp = Stamp { random: cx.rng.next_u128(), now: cx.now, position };
                PastReport::answering(id, tag.clone(), stamp, None, own)
            }
            None => PastReport::of(id),
        };
        let brought =
            |s: &SessionSubscription| DeliveredElsewhere { filter: self.interest(s), began: s.began.clone() };
        let except = if self.subscriptions.is_empty() || !style.own_past {
            self.subscriptions.iter().map(brought).collect()
        } else {
            // From here on, the other subscriptions deliver live events only.
            vec![DeliveredElsewhere {
                filter: Filter::new(),
                began: Some(Began::from_here(cx.view.position())),
            }]
        };
        let (encoding, filters) = (self.encoding, filters.iter().map(|filter| self.narrow(filter)).collect());
        let merge = style.merge;
        cx.effects.push(Effect::Replay { encoding, filters, except, from, report, merge });
        cx.hold_input();
    }

    /// Records that the past of the newest subscription begins after these places.
    pub(crate) fn past_begins(&mut self, places: impl Iterator<Item = EventId>) {
        let places: SmallVec<[EventId; 1]> = places.collect();
        let Some(newest) = self.subscriptions.last() else { return };
        let count = self.subscriptions.iter().rev().take_while(|s| s.is_part_of(newest)).count();
        for began in self.subscriptions.iter_mut().rev().take(count).filter_map(|s| s.began.as_mut()) {
            places.iter().for_each(|place| began.move_back(*place));
        }
    }

    /// Records that everything after these places that the subscriptions match is delivered again.
    pub(crate) fn record_refill(&mut self, places: impl Iterator<Item = EventId>) {
        let places: SmallVec<[EventId; 1]> = places.collect();
        for began in self.subscriptions.iter_mut().filter_map(|s| s.began.as_mut()) {
            places.iter().for_each(|place| began.move_back(*place));
        }
    }

    /// Removes these subscriptions. Returns their filters in the interest.
    pub(super) fn forget(&mut self, which: Range<usize>, cx: &Context<'_>) -> Vec<AffectedFilter> {
        let narrowed = self.grant().is_some();
        let gone: SmallVec<[SessionSubscription; 1]> = self.subscriptions.drain(which).collect();
        cx.shared.metrics.subscriptions.dec_by(gone.len() as i64);
        let weight = gone.iter().fold(Weight::default(), |sum, s| {
            let Weight { all, own } = Self::weight_of(s, narrowed);
            Weight { all: sum.all + all, own: sum.own + own }
        });
        self.count_gone(weight);
        if self.encoding.protocol().observes() {
            for same in gone.chunk_by(|one, other| one.name.is(&other.name.to_string())) {
                let (id, mut filters) = (same[0].name.to_string(), same.iter().map(|s| &s.filter));
                self.observe(Observed::Unsubscribed { id: &id, filters: &mut filters }, cx);
            }
        }
        let touched = |s: &SessionSubscription| AffectedFilter {
            wish: s.wish,
            filter: self.interest(s),
            was: Some(Conflation::from(s.on_lag)),
            to: None,
        };
        gone.iter().map(touched).collect()
    }

    /// Computes the hashes and weights of all subscriptions.
    pub(super) fn mark_all(&mut self) {
        for at in 0..self.subscriptions.len() {
            let wish = hash(self.interest(&self.subscriptions[at]).bytes());
            let s = &mut self.subscriptions[at];
            (s.name_hash, s.weight, s.wish) = (name_hash(&s.name.to_string()), s.filter.weight(), wish);
        }
    }

    /// Requests that the loop sets the client's whole interest.
    pub(super) fn emit_interest(&self, cx: &mut Context<'_>) {
        if cx.config.presence.is_on() {
            // A presence query right after this must already include the client.
            cx.hold_input();
        }
        let wishes = self.subscriptions.iter().map(|s| (self.interest(s), s.on_lag)).collect();
        cx.effects.push(Effect::Interest { encoding: self.encoding, wishes });
    }

    /// Sends the edit of one filter of a subscription to the loop.
    pub(super) fn emit_edit(&mut self, before: AffectedFilter, at: usize, cx: &mut Context<'_>) {
        self.emit(vec![before], at..at + 1, 0, true, cx);
    }

    /// Sends the change of the client's interest to the loop. `touched` has the affected filters before the change. The
    /// subscriptions in `fresh` replace them, and the newest `added` of these are new. The cost is a look at each
    /// subscription, and the work for those that changed.
    pub(super) fn emit_change(
        &mut self,
        touched: Vec<AffectedFilter>,
        fresh: Range<usize>,
        added: usize,
        cx: &mut Context<'_>,
    ) {
        self.emit(touched, fresh, added, false, cx);
    }

    /// Sends a change as [`emit_change`](Self::emit_change) does. With `is_edit`, a filter that is replaced by another
    /// is edited in place.
    fn emit(
        &mut self,
        mut touched: Vec<AffectedFilter>,
        fresh: Range<usize>,
        added: usize,
        is_edit: bool,
        cx: &mut Context<'_>,
    ) {
        if cx.config.presence.is_on() {
            cx.hold_input();
        }
        for at in fresh.clone() {
            let filter = self.interest(&self.subscriptions[at]);
            let s = &mut self.subscriptions[at];
            s.wish = hash(filter.bytes());
            touched.push(AffectedFilter {
                wish: s.wish,
                filter,
                was: None,
                to: Some(Conflation::from(s.on_lag)),
            });
        }
        let least = |one: Option<Conflation>, other: Option<Conflation>| one.into_iter().chain(other).min();
        touched.sort_unstable_by_key(|touched| touched.wish);
        touched.dedup_by(|later, kept| {
            let is_one = later.wish == kept.wish;
            if is_one {
                (kept.was, kept.to) = (least(kept.was, later.was), least(kept.to, later.to));
            }
            is_one
        });
        let mut lag_policy = LagPolicy::default();
        for (at, s) in self.subscriptions.iter().enumerate() {
            // Most subscriptions drop the oldest events, which no stricter policy overrides.
            if !matches!(s.on_lag, OnLag::DropOldest) {
                lag_policy = lag_policy.max(LagPolicy::from(s.on_lag));
            }
            let found = match touched.as_slice() {
                [one] => (one.wish == s.wish).then_some(0),
                all => all.binary_search_by_key(&s.wish, |touched| touched.wish).ok(),
            };
            if let Some(found) = found
                && !fresh.contains(&at)
            {
                // Another subscription wants the filter, before and after.
                let (one, wants) = (&mut touched[found], Some(Conflation::from(s.on_lag)));
                (one.was, one.to) = (least(one.was, wants), least(one.to, wants));
            }
        }
        // About three instructions each.
        cx.budget.spend(u32::try_from(self.subscriptions.len() / 100).unwrap_or(u32::MAX));
        touched.retain(|touched| touched.was != touched.to);
        let change =
            |AffectedFilter { filter, was, to, .. }| Change { filter, was: was.is_some(), to, from: None };
        // Filters that are added come before those that are removed, so that a feed in both is never left.
        touched.sort_by_key(|touched| touched.to.is_none());
        let mut changes: Vec<Change> = touched.into_iter().map(change).collect();
        if is_edit
            && let [Change { to: Some(_), was: false, .. }, Change { to: None, .. }] = changes.as_slice()
        {
            let from = changes.pop().map(|gone| gone.filter);
            changes[0].from = from;
        }
        cx.effects.push(Effect::Change { encoding: self.encoding, lag_policy, changes, added });
    }

    /// Replaces filters of the newest `count` subscriptions by equal ones that the loop holds.
    pub(crate) fn share_filters<'a>(&mut self, count: usize, held: impl Fn(&Filter) -> Option<&'a Filter>) {
        for subscription in self.subscriptions.iter_mut().rev().take(count) {
            if let Some(same) = held(&subscription.filter) {
                subscription.filter = same.clone();
            }
        }
    }
}
