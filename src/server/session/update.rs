//! Changes of a subscription's lists: values are added and removed while all other values stay.
//!
//! Always:
//! - An update is applied as a whole or not at all.
//! - A subscription with a long list has several filters, each with a part of the list, in the order of its values. So an
//!   update costs as much as the parts that it changes, of at most 256 values, however long the list is.
//! - A list without values matches nothing.

use std::ops::Range;

use super::Session;
use super::began::{Began, DeliveredElsewhere};
use super::context::Context;
use super::effect::Effect;
use super::past::{PastReport, ReplayFrom};
use super::rights::forbidden;
use super::subscription::{AffectedFilter, SessionSubscription};
use super::weight::Weight;
use crate::dialect::{
    ClientError, ErrorCode, ListUpdate, OwnChannel, Reply, ReplyTag, Stamp, Update, UpdateCounts, shortened,
};
use crate::event::Attribute;
use crate::feed::Conflation;
use crate::filter::{EditedList, Filter, FilterErrorKind, FilterLimits, MemberPatterns, Pattern, encoded};
use crate::server::auth::Grant;

/// Maximum number of filters of one subscription, and of their bytes: they are shown in one message.
const PARTS_MAX: usize = 16;
const BYTES_MAX: usize = 256 * 1024;

/// Number of values that are checked at once, as many as a filter may have.
const CHECKED_AT_ONCE: usize = 256;

/// One filter of the subscription after the update.
#[derive(Clone, Debug)]
struct Part {
    /// Index of the filter before the update, among those of the subscription. Parts of a divided filter share one
    /// index.
    of: usize,
    filter: Filter,
    weight: u32,
    is_changed: bool,
    gained: Gained,
}

/// Events that a filter matches after an update and that no filter of the subscription matched before.
#[derive(Clone, Debug, PartialEq)]
enum Gained {
    Nothing,
    /// The events that this filter matches.
    Values(Filter),
    /// Possibly all events.
    All,
    /// The events of the [`Gained::Values`] of an earlier part.
    Elsewhere,
}

/// A subscription while its lists are updated.
struct Draft {
    parts: Vec<Part>,
    empty_lists: u16,
    /// Bits of lists that the filter's text names.
    fixed_lists: u16,
    counts: UpdateCounts,
}

/// Returns the range of sorted values that belongs to the `nth` of these parts.
fn share<'a>(parts: &[Part], nth: usize, about: u8, values: &'a [MemberPatterns]) -> &'a [MemberPatterns] {
    // A value belongs to the last part that begins before it.
    let first_of =
        |part: &Part| values.partition_point(|value| part.filter.first_member_is_after(about, value));
    let from = if nth == 0 { 0 } else { first_of(&parts[nth]) };
    let to = parts.get(nth + 1).map_or(values.len(), first_of);
    &values[from..to.max(from)]
}

fn too_many(count: usize, max: usize) -> ClientError {
    ClientError::new(ErrorCode::InvalidFilter, FilterErrorKind::TooManyValues(count, max).to_string())
}

/// Replaces templates of channels by the client's own channels. Returns those among the added values.
fn replace_templates(grant: &Grant, list: &mut ListUpdate) -> Result<Vec<OwnChannel>, ClientError> {
    let mut own = Vec::new();
    if usize::from(list.about) != Attribute::Channel.index() {
        return Ok(own);
    }
    let mut replaced = false;
    for (values, are_added) in [(&mut list.add, true), (&mut list.remove, false)] {
        for (value, _) in values.iter_mut() {
            if let Some(channel) = grant.channel_of(value.as_str()) {
                let channel = channel.map_err(|what| forbidden(&what))?;
                if are_added {
                    own.push(OwnChannel {
                        template: value.as_str().into(),
                        channel: channel.as_str().into(),
                    });
                }
                *value = Pattern::exact(channel);
                replaced = true;
            }
        }
        values.sort_unstable();
        values.dedup();
    }
    if replaced {
        list.check_apart()?;
    }
    Ok(own)
}

impl Draft {
    fn of(subscriptions: &[SessionSubscription]) -> Self {
        let part = |(of, s): (usize, &SessionSubscription)| Part {
            of,
            filter: s.filter.clone(),
            weight: s.weight,
            is_changed: false,
            gained: Gained::Nothing,
        };
        Self {
            parts: subscriptions.iter().enumerate().map(part).collect(),
            empty_lists: subscriptions.first().map_or(0, SessionSubscription::empty_lists),
            fixed_lists: subscriptions.first().map_or(0, |first| first.marks.fixed_lists()),
            counts: UpdateCounts::default(),
        }
    }

    /// Returns the attribute of the list that the parts divide.
    fn divided_by(&self) -> Option<u8> {
        match self.parts.as_slice() {
            [one, other, ..] => one.filter.divided_by(&other.filter),
            _ => None,
        }
    }

    /// Adds and removes the values of one list. `is_only` is true if the update has no other list.
    fn apply(
        &mut self,
        update: &ListUpdate,
        is_only: bool,
        limits: &FilterLimits,
    ) -> Result<(), ClientError> {
        let ListUpdate { name, about, add, remove } = update;
        let bit = 1 << about;
        if self.fixed_lists & bit != 0 {
            let text = format!(
                "{name}: the subscription's text names some too; an update changes lists, not the text"
            );
            return Err(ClientError::new(ErrorCode::InvalidPayload, text));
        }
        if !self.parts.iter().all(|part| part.filter.list(*about).is_some()) {
            let text = format!("{name}: the subscription names none; an update changes lists that it has");
            return Err(ClientError::new(ErrorCode::InvalidPayload, text));
        }
        if self.empty_lists & bit != 0 {
            return self.fill(*about, add, remove.len(), limits);
        }
        let divided_by = self.divided_by();
        if self.parts.len() > 1 && divided_by != Some(*about) {
            // Each part has the whole list.
            let mut counts = UpdateCounts::default();
            for part in &mut self.parts {
                let edited = part.edited(*about, add, remove);
                counts =
                    UpdateCounts { added: edited.added_count, removed: edited.removed_count, not_held: 0 };
                if edited.count == 0 {
                    self.empty_lists |= bit;
                    part.keep_one(*about);
                    continue;
                }
                let mut after = Vec::with_capacity(1);
                part.divide(*about, &edited, is_only, &mut after)?;
                match after.as_mut_slice() {
                    [one] => std::mem::swap(part, one),
                    _ => return Err(too_many(edited.count, part.filter.room_for(*about))),
                }
            }
            self.count(counts, remove.len());
            return Ok(());
        }
        let mut after: Vec<Part> = Vec::with_capacity(self.parts.len());
        let mut counts = UpdateCounts::default();
        for nth in 0..self.parts.len() {
            let part = &self.parts[nth];
            let (add, remove) =
                (share(&self.parts, nth, *about, add), share(&self.parts, nth, *about, remove));
            if add.is_empty() && remove.is_empty() {
                after.push(part.clone());
                continue;
            }
            let edited = part.edited(*about, add, remove);
            counts.added += edited.added_count;
            counts.removed += edited.removed_count;
            if edited.count > 0 {
                part.divide(*about, &edited, is_only, &mut after)?;
            }
        }
        self.count(counts, remove.len());
        if after.is_empty() {
            self.empty_lists |= bit;
            self.parts.truncate(1);
            self.parts[0].keep_one(*about);
        } else {
            self.parts = after;
        }
        Ok(())
    }

    /// Adds the first values to a list that is empty.
    fn fill(
        &mut self,
        about: u8,
        add: &[MemberPatterns],
        removed: usize,
        limits: &FilterLimits,
    ) -> Result<(), ClientError> {
        self.count(UpdateCounts::default(), removed);
        if add.is_empty() {
            return Ok(());
        }
        let mut after = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            // Replaces the value that was kept for the empty list.
            let whole = part.filter.with_list(about, &encoded(add));
            let is_alone = self.parts.len() == 1;
            let parts = if is_alone { whole.in_parts() } else { vec![whole] };
            for filter in parts {
                filter.check(limits)?;
                let (of, weight) = (part.of, filter.weight());
                after.push(Part { of, filter, weight, is_changed: true, gained: Gained::All });
            }
        }
        self.counts.added += add.len();
        self.empty_lists &= !(1 << about);
        self.parts = after;
        Ok(())
    }

    fn count(&mut self, counts: UpdateCounts, asked: usize) {
        self.counts.added += counts.added;
        self.counts.removed += counts.removed;
        self.counts.not_held += asked - counts.removed;
    }
}

impl Part {
    fn edited(&self, about: u8, add: &[MemberPatterns], remove: &[MemberPatterns]) -> EditedList {
        // Always found: the caller has checked.
        self.filter.list(about).map_or_else(EditedList::default, |list| EditedList::of(list, add, remove))
    }

    /// Appends the part with the values of an edited list, or several parts if it has too many.
    fn divide(
        &self,
        about: u8,
        edited: &EditedList,
        is_only: bool,
        after: &mut Vec<Self>,
    ) -> Result<(), ClientError> {
        if edited.added_count + edited.removed_count == 0 {
            after.push(self.clone());
            return Ok(());
        }
        let mut gained = match edited.added_count {
            0 => self.gained.clone(),
            _ if is_only => Gained::Values(self.filter.with_list(about, &edited.added)),
            _ => Gained::All,
        };
        let filters = self.filter.with_edited(about, edited);
        let is_whole = filters.len() == 1;
        let room = self.filter.room_for(about);
        if is_whole && edited.count > room {
            return Err(too_many(edited.count, room));
        }
        for filter in filters {
            let edited_weight = self.weight + edited.added_weight - edited.removed_weight;
            let weight = if is_whole { edited_weight } else { filter.weight() };
            let next = if let Gained::Values(_) = gained { Gained::Elsewhere } else { gained.clone() };
            let gained = std::mem::replace(&mut gained, next);
            after.push(Self { of: self.of, filter, weight, is_changed: true, gained });
        }
        Ok(())
    }

    /// Keeps one value of a list that is empty from now on.
    fn keep_one(&mut self, about: u8) {
        let first = self.filter.first_member(about);
        self.filter = self.filter.with_list(about, &first);
        self.weight = self.filter.weight();
        self.is_changed = true;
    }
}

impl Session {
    /// Changes the lists of a subscription, and responds.
    pub(super) fn update(
        &mut self,
        mut update: Update,
        tag: &ReplyTag,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        let mut named = Vec::new();
        if let Some(grant) = self.grant() {
            for list in &mut update.lists {
                named.extend(replace_templates(grant, list)?);
            }
        }
        let range = self.named(&update.subscription_id);
        let own = &self.subscriptions[range.clone()];
        let Some(first) = own.first() else {
            let text = format!("Unknown subscription: {}", shortened(&update.subscription_id));
            return Err(ClientError::new(ErrorCode::UnknownSubscription, text));
        };
        let has_snapshot = first.marks.has_snapshot();
        let mut draft = Draft::of(own);
        let was_empty = draft.empty_lists != 0;
        // A walk over the parts that change: about 60 instructions for each value.
        cx.budget.spend(10 + u32::try_from(own.len()).unwrap_or(u32::MAX));
        let limits = FilterLimits::default();
        for list in &update.lists {
            self.check_values(list, &limits, cx)?;
        }
        for list in &update.lists {
            cx.budget.spend(u32::try_from(CHECKED_AT_ONCE / 16 + list.add.len()).unwrap_or(u32::MAX));
            draft.apply(list, update.lists.len() == 1, &limits)?;
        }
        let is_whole = was_empty || update.lists.len() > 1;
        self.check_draft(&draft, &range, cx)?;
        let Draft { parts, empty_lists, counts, .. } = draft;
        let is_past_due =
            has_snapshot && empty_lists == 0 && parts.iter().any(|part| part.gained != Gained::Nothing);
        let stamp = is_past_due.then(|| {
            let position = self.place(true, cx);
            Stamp { random: cx.rng.next_u128(), now: cx.now, position }
        });
        if let Some(stamp) = stamp {
            let report =
                PastReport::answering(&update.subscription_id, tag.clone(), stamp, Some(counts), &named);
            self.begin_snapshot_of(&parts, &range, is_whole && !was_empty, report, cx);
        }
        if counts.added + counts.removed > 0 {
            self.take_parts(parts, empty_lists, range, cx);
        }
        if !is_past_due {
            let place = self.place(true, cx);
            self.reply_at(place, &Reply::Updated { counts, past: None, own: &named }, tag, cx);
        }
        Ok(())
    }

    /// Checks the values to add: their form, and that the client may see them.
    fn check_values(
        &self,
        list: &ListUpdate,
        limits: &FilterLimits,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        for values in list.add.chunks(CHECKED_AT_ONCE) {
            let filter = Filter::of_list(list.about, values.to_vec());
            filter.check(limits)?;
            // About 50 instructions for each value, and some for the grant.
            cx.budget.spend(u32::try_from(values.len() / 16 + 1).unwrap_or(u32::MAX));
            if let Some(rights) = self.rights() {
                rights.may_see(&filter, self.encoding.protocol().spells_types())?;
            }
        }
        Ok(())
    }

    /// Checks that the subscription stays within the client's limits. Removing values is always allowed.
    fn check_draft(&self, draft: &Draft, range: &Range<usize>, cx: &Context<'_>) -> Result<(), ClientError> {
        let parts = &draft.parts;
        if draft.counts.added == 0 {
            return Ok(());
        }
        let bytes: usize = parts.iter().map(|part| part.filter.spelled_len()).sum();
        if parts.len() > PARTS_MAX || bytes > BYTES_MAX {
            let text = format!(
                "a subscription takes at most {PARTS_MAX} filters of {CHECKED_AT_ONCE} values, and {BYTES_MAX} bytes: make another"
            );
            return Err(ClientError::new(ErrorCode::SubscriptionsTooLarge, text));
        }
        let max = cx.config.max_subscriptions;
        let others = self.subscriptions.len() - range.len();
        if parts.len() > range.len() && others + parts.len() > max {
            let text = format!("subscription limit of {max} reached");
            return Err(ClientError::new(ErrorCode::TooManySubscriptions, text));
        }
        let asked: u32 = parts.iter().map(|part| part.weight).sum();
        self.check_values_held(asked, range, cx)?;
        let own = &self.subscriptions[range.clone()];
        let changed = parts.iter().filter(|part| part.is_changed);
        let added: usize = changed.clone().map(|part| Weight::of_filter(&part.filter)).sum();
        let is_gone = |of: usize| !parts.iter().any(|part| part.of == of && !part.is_changed);
        let removed = own.iter().enumerate().filter(|(of, _)| is_gone(*of));
        let removed: usize = removed.map(|(_, s)| Weight::of_filter(&s.filter)).sum();
        self.check_bytes_held(added.saturating_sub(removed), cx)
    }

    /// Requests the past of the values that were added, to be sent after the response.
    fn begin_snapshot_of(
        &self,
        parts: &[Part],
        range: &Range<usize>,
        had_values: bool,
        report: PastReport,
        cx: &mut Context<'_>,
    ) {
        let gained = parts.iter().filter_map(|part| match &part.gained {
            Gained::Values(values) => Some(self.narrow(values)),
            Gained::All => Some(self.narrow(&part.filter)),
            Gained::Nothing | Gained::Elsewhere => None,
        });
        let filters: Vec<Filter> = gained.collect();
        let is_all = parts.iter().any(|part| part.gained == Gained::All);
        // The client has already received the events that the subscription matched before.
        let own = self.subscriptions[range.clone()].iter().filter(|_| is_all && had_values);
        let own = own.map(|s| DeliveredElsewhere { filter: self.interest(s), began: None });
        let others = self.subscriptions[..range.start].iter().chain(&self.subscriptions[range.end..]);
        let others = others.map(|s| DeliveredElsewhere { filter: self.interest(s), began: s.began.clone() });
        let except = own.chain(others).collect();
        let (encoding, from) = (self.encoding, ReplayFrom::Snapshot);
        cx.effects.push(Effect::Replay { encoding, filters, except, from, report, merge: None });
        cx.hold_input();
    }

    /// Replaces the filters of a subscription.
    fn take_parts(&mut self, parts: Vec<Part>, empty_lists: u16, range: Range<usize>, cx: &mut Context<'_>) {
        let began = Began::from_here(cx.view.position());
        let is_edit = parts.len() == range.len() && parts.iter().enumerate().all(|(at, part)| part.of == at);
        if is_edit {
            for (at, part) in range.zip(parts).filter(|(_, part)| part.is_changed) {
                let before = self.touched(at);
                let weight = self.weight_at(at);
                let s = &mut self.subscriptions[at];
                (s.filter, s.weight) = (part.filter, part.weight);
                s.marks = s.marks.with_empty(empty_lists);
                if part.gained != Gained::Nothing {
                    s.began = Some(began.clone());
                }
                self.count_changed(weight, at);
                self.emit_edit(before, at, cx);
            }
            return;
        }
        let before: Vec<AffectedFilter> = range.clone().map(|at| self.touched(at)).collect();
        let old: Vec<SessionSubscription> = self.subscriptions.drain(range.clone()).collect();
        let fresh: Vec<SessionSubscription> = parts
            .into_iter()
            .filter_map(|Part { of, filter, weight, is_changed, gained }| {
                let old = old.get(of)?;
                let is_new = is_changed && gained != Gained::Nothing;
                let began = if is_new { Some(began.clone()) } else { old.began.clone() };
                let marks = old.marks.with_empty(empty_lists);
                Some(SessionSubscription { filter, began, marks, weight, ..old.clone() })
            })
            .collect();
        let added = range.start..range.start + fresh.len();
        cx.shared.metrics.subscriptions.inc_by(fresh.len() as i64 - old.len() as i64);
        self.subscriptions.insert_many(range.start, fresh);
        self.recount();
        self.emit_change(before, added, 0, cx);
    }

    /// Returns a subscription's filter in the interest, to be removed from it.
    fn touched(&self, at: usize) -> AffectedFilter {
        let s = &self.subscriptions[at];
        let was = Some(Conflation::from(s.on_lag));
        AffectedFilter { wish: s.wish, filter: self.interest(s), was, to: None }
    }
}
