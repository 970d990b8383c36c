//! Filters with conditions on the payload: finds those that match an event whose attributes have matched.
//!
//! Filters with the same conditions on attributes form a *group*; the index finds the group, once for all of them. Each
//! filter of a group is a *member*. It is stored under one of its conditions, its *anchor*: under the values of an
//! equality, at the bound of a comparison of numbers or, for other conditions, under the field's presence or under
//! nothing. An event costs one walk over its payload, a look-up for each of its fields that a group has an anchor on,
//! and the members found there. The other conditions of these members are then evaluated, each distinct one once for an
//! event.
//!
//! Invariants:
//! - A member is found by exactly the events that match its filter: an anchor points to a superset, and every condition is
//!   evaluated exactly before a member is reported.
//! - A removed member leaves nothing: no entry, condition or field.
//! - A search stops when its allowance of work is used up, and continues where it stopped. A step evaluates one member.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use super::class::ClassId;
use super::conditions::Conditions;
use super::fields::FieldTree;
use crate::filter::comparison::{ComparisonRef, LiteralRef, Scalar};
use crate::filter::definition::Filter;
use crate::filter::encoding::Clause;
use crate::filter::literal::Operator;

/// Filter with conditions on the payload.
#[derive(Debug)]
struct GroupMember {
    class: u32,
    group: u32,
    /// Conditions. The first one is the anchor.
    conditions: SmallVec<[u32; 2]>,
}

/// Group of filters with the same conditions on attributes.
#[derive(Debug, Default)]
struct PayloadGroup {
    /// The shared conditions on attributes.
    base: Filter,
    /// Sets of the base that no path holds; see [`Plan::residual`](super::plan::Plan::residual).
    residual: u32,
    /// Event for which the group was last found.
    found_for: u32,
    members: u32,
    /// Exclusive or of the members' numbers. If the group has one member, this is its number.
    sole: u32,
    /// Number of members with the anchor [`AnchorKind::Anywhere`].
    anywhere: u32,
    /// Fields that anchors are on, and the number of anchors of each kind.
    fields: HashMap<u32, [u32; ANCHOR_KINDS], RandomState>,
}

/// Way in which an anchor selects members for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum AnchorKind {
    /// By the value of the field.
    Equal,
    /// By a lower bound of the value.
    Above,
    /// By an upper bound of the value.
    Below,
    /// By the field's presence.
    Present,
    /// By nothing: the member is evaluated for every event of the group.
    Anywhere,
}

const ANCHOR_KINDS: usize = AnchorKind::Anywhere as usize;

/// Maximum number of members under one equality before a comparison of numbers is a better anchor.
const CROWDED: u32 = 64;

/// Place of a member: a hash of the anchor, a number's rank in the order of floats, the member.
type AnchorEntry = (u64, u64, u32);

/// Maximum number of fields of a group that are looked up for each event, whatever fields the event has.
const FEW_FIELDS: usize = 64;

/// Members to evaluate: those under one anchor's hash, between two ranks.
#[derive(Debug)]
struct AnchorRange {
    key: u64,
    from: u64,
    to: u64,
    /// First of the members with the rank `from`.
    member: u32,
}

/// Unfinished search through a group.
#[derive(Debug, Default)]
struct GroupSearch {
    is_begun: bool,
    /// Number of the event's values that were looked at.
    values: usize,
    ranges: Vec<AnchorRange>,
}

/// Groups of a matcher, with their members and conditions.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    fields: FieldTree,
    conditions: Conditions,
    members: Vec<GroupMember>,
    members_free: Vec<u32>,
    groups: Vec<PayloadGroup>,
    groups_free: Vec<u32>,
    by_base: HashTable<u32>,
    anchors: BTreeSet<AnchorEntry>,
    hasher: RandomState,
    /// Length of the longest text of a literal so far, in bytes. No longer value equals a literal.
    longest_text: usize,
    search: GroupSearch,
    worked: u64,
}

/// Returns a float's rank in the order of all floats, where `-0.0` is `0.0`.
fn in_order(float: f64) -> u64 {
    let bits = (float + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// Returns the clauses on attributes of a filter that has comparisons; `None` if it has none.
pub(super) fn base_of(filter: &Filter) -> Option<Filter> {
    let mut clauses = filter.clauses();
    loop {
        let before = clauses.rest.len();
        match clauses.next()? {
            Clause::Set(_) => {}
            // Comparisons come after all sets.
            Clause::Comparison(_) => {
                let bytes = &filter.bytes()[..filter.bytes().len() - before];
                return Some(Filter::from_canonical(bytes));
            }
        }
    }
}

fn comparisons(filter: &Filter) -> impl Iterator<Item = ComparisonRef<'_>> {
    filter.clauses().filter_map(|clause| match clause {
        Clause::Comparison(comparison) => Some(comparison),
        Clause::Set(_) => None,
    })
}

/// Returns the kind of an anchor with this condition.
fn anchor_kind(comparison: ComparisonRef<'_>) -> AnchorKind {
    let is_of_numbers = || comparison.literals().all(|literal| matches!(literal, LiteralRef::Number(_)));
    match comparison.operator() {
        Operator::Equal => AnchorKind::Equal,
        Operator::Greater | Operator::GreaterOrEqual if is_of_numbers() => AnchorKind::Above,
        Operator::Less | Operator::LessOrEqual if is_of_numbers() => AnchorKind::Below,
        Operator::NotEqual | Operator::Missing => AnchorKind::Anywhere,
        _ => AnchorKind::Present,
    }
}

impl Payloads {
    /// Adds a filter with comparisons to the group of its base. Returns the member, and the group if it is new and has
    /// to be added to the index.
    pub(super) fn insert(&mut self, filter: &Filter, base: &Filter, class: u32) -> (u32, Option<u32>) {
        let (group, is_new) = self.group(base);
        let Self { conditions, fields, .. } = self;
        let mut conditions: SmallVec<[u32; 2]> =
            comparisons(filter).map(|comparison| conditions.acquire(comparison, fields)).collect();
        let anchor = self.choose(&conditions);
        conditions.swap(0, anchor);
        let member = GroupMember { class, group, conditions };
        let id = match self.members_free.pop() {
            Some(id) => {
                self.members[id as usize] = member;
                id
            }
            None => {
                self.members.push(member);
                self.members.len() as u32 - 1
            }
        };
        let owner = &mut self.groups[group as usize];
        owner.members += 1;
        owner.sole ^= id;
        self.anchor(id, true);
        (id, is_new.then_some(group))
    }

    /// Removes a member. Returns its group if that was the last one and has to be removed from the index.
    pub(super) fn remove(&mut self, id: u32) -> Option<u32> {
        self.anchor(id, false);
        let member = &mut self.members[id as usize];
        let group = member.group;
        let conditions = std::mem::take(&mut member.conditions);
        self.members_free.push(id);
        for condition in conditions {
            self.conditions.release(condition, &mut self.fields);
        }
        let owner = &mut self.groups[group as usize];
        owner.members -= 1;
        owner.sole ^= id;
        (owner.members == 0).then_some(group)
    }

    /// Removes a group that has no member and is not in the index.
    pub(super) fn forget_group(&mut self, id: u32) {
        let PayloadGroup { base, .. } = std::mem::take(&mut self.groups[id as usize]);
        let hash = self.hasher.hash_one(base.bytes());
        if let Ok(entry) = self.by_base.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.groups_free.push(id);
    }

    /// Returns the conditions on attributes that a group's members share.
    pub(super) fn base(&self, group: u32) -> &Filter {
        &self.groups[group as usize].base
    }

    /// Records the sets of a new group's base that no path holds. `turn` is the last event that was matched.
    pub(super) fn set_residual(&mut self, group: u32, residual: u32, turn: u32) {
        let group = &mut self.groups[group as usize];
        (group.residual, group.found_for) = (residual, turn);
    }

    /// Returns whether a group is found for the first time for this event.
    pub(super) fn is_first_for(&mut self, group: u32, turn: u32) -> bool {
        std::mem::replace(&mut self.groups[group as usize].found_for, turn) != turn
    }

    /// Returns the base of a group, and its conditions that no path holds.
    pub(super) fn residual(&self, group: u32) -> (&Filter, u32) {
        let PayloadGroup { base, residual, .. } = &self.groups[group as usize];
        (base, *residual)
    }

    /// Returns the groups that have members.
    pub(super) fn groups(&self) -> impl Iterator<Item = u32> {
        self.by_base.iter().copied()
    }

    fn group(&mut self, base: &Filter) -> (u32, bool) {
        let Self { groups, by_base, hasher, .. } = self;
        let hash_of = |&id: &u32| hasher.hash_one(groups[id as usize].base.bytes());
        let hash = hasher.hash_one(base.bytes());
        if let Some(&id) = by_base.find(hash, |&id| groups[id as usize].base == *base) {
            return (id, false);
        }
        let fresh = PayloadGroup { base: base.clone(), ..PayloadGroup::default() };
        let id = match self.groups_free.pop() {
            Some(id) => id,
            None => groups.len() as u32,
        };
        by_base.insert_unique(hash, id, hash_of);
        match groups.get_mut(id as usize) {
            Some(group) => *group = fresh,
            None => groups.push(fresh),
        }
        (id, true)
    }

    /// Returns the index of the most selective condition, as far as can be known without events: an equality with few
    /// members, then a comparison of numbers, then a field's presence.
    fn choose(&self, conditions: &[u32]) -> usize {
        let rank = |&id: &u32| {
            let anchored = self.conditions.anchored(id);
            match anchor_kind(self.conditions.comparison(id)) {
                AnchorKind::Equal if anchored < CROWDED => (0, anchored),
                AnchorKind::Above | AnchorKind::Below => (1, anchored),
                AnchorKind::Equal => (2, anchored),
                AnchorKind::Present => (3, anchored),
                AnchorKind::Anywhere => (4, anchored),
            }
        };
        (0..conditions.len()).min_by_key(|&at| rank(&conditions[at])).unwrap_or_default()
    }

    /// Adds a member under its anchor, or removes it from there.
    fn anchor(&mut self, id: u32, comes: bool) {
        let GroupMember { group, conditions, .. } = &self.members[id as usize];
        let (group, anchor) = (*group, conditions[0]);
        let anchored = self.conditions.anchored_mut(anchor);
        *anchored = if comes { *anchored + 1 } else { *anchored - 1 };
        let comparison = self.conditions.comparison(anchor);
        let (field, kind) = (self.conditions.field(anchor), anchor_kind(comparison));
        let owner = &mut self.groups[group as usize];
        let count = match kind {
            AnchorKind::Anywhere => &mut owner.anywhere,
            kind => &mut owner.fields.entry(field).or_default()[kind as usize],
        };
        *count = if comes { *count + 1 } else { *count - 1 };
        if owner.fields.get(&field).is_some_and(|kinds| kinds.iter().all(|count| *count == 0)) {
            owner.fields.remove(&field);
        }
        let numbers = || {
            comparison.literals().filter_map(|literal| match literal {
                LiteralRef::Number(float) => Some(in_order(float)),
                _ => None,
            })
        };
        let hasher = &self.hasher;
        let mut anchors: SmallVec<[(u64, u64); 4]> = SmallVec::new();
        let key = |kind: AnchorKind| hasher.hash_one((kind, group, field));
        match kind {
            AnchorKind::Equal => {
                for literal in comparison.literals() {
                    if let LiteralRef::Text(text) = literal {
                        self.longest_text = self.longest_text.max(text.len());
                    }
                    anchors.push((equal_key(hasher, group, field, LiteralKey::from(literal)), 0));
                }
            }
            // Matching one of the values is enough, so the widest bound is the anchor.
            AnchorKind::Above => anchors.extend(numbers().min().map(|bound| (key(kind), bound))),
            AnchorKind::Below => anchors.extend(numbers().max().map(|bound| (key(kind), bound))),
            AnchorKind::Present => anchors.push((key(kind), 0)),
            AnchorKind::Anywhere => anchors.push((hasher.hash_one((kind, group)), 0)),
        }
        for (key, order) in anchors {
            if comes {
                self.anchors.insert((key, order, id));
            } else {
                self.anchors.remove(&(key, order, id));
            }
        }
    }

    /// Appends the classes of a group that match an event with this payload. The event must match the group's base.
    /// Returns false if it stopped after about `allowance` instructions: the next call with the same group and event
    /// continues.
    pub(super) fn find(
        &mut self,
        group: u32,
        payload: &str,
        turn: u32,
        out: &mut Vec<ClassId>,
        allowance: u64,
    ) -> bool {
        let until = self.worked().saturating_add(allowance);
        if !self.fields.read(payload, turn, allowance) {
            return false;
        }
        let Self {
            fields, conditions, members, groups, anchors, hasher, longest_text, search, worked, ..
        } = self;
        let fields = &*fields;
        let until = until.saturating_sub(fields.worked());
        let owner = &groups[group as usize];
        let mut ask = |id: u32, worked: &mut u64| {
            let GroupMember { class, conditions: all, .. } = &members[id as usize];
            *worked += 60;
            let is_wanted = all.iter().all(|&id| conditions.holds(id, turn, fields, payload, worked));
            if is_wanted {
                out.push(ClassId(*class));
            }
        };
        if owner.members == 1 {
            ask(owner.sole, worked);
            return true;
        }
        let look = |field: u32, kinds: &[u32; ANCHOR_KINDS], ranges: &mut Vec<AnchorRange>| {
            let Some(value) = fields.value(field) else { return };
            let mut push = |key: u64, from: u64, to: u64| {
                ranges.push(AnchorRange { key, from, to, member: 0 });
            };
            let key = |kind: AnchorKind| hasher.hash_one((kind, group, field));
            let scalar = fields.scalar(value, payload);
            if kinds[AnchorKind::Present as usize] > 0 {
                push(key(AnchorKind::Present), 0, 0);
            }
            if let Scalar::Number { float, .. } = scalar {
                if kinds[AnchorKind::Above as usize] > 0 {
                    push(key(AnchorKind::Above), 0, in_order(float));
                }
                if kinds[AnchorKind::Below as usize] > 0 {
                    push(key(AnchorKind::Below), in_order(float), u64::MAX);
                }
            }
            if kinds[AnchorKind::Equal as usize] > 0
                && let Some(literal) = LiteralKey::of(scalar, *longest_text)
            {
                push(equal_key(hasher, group, field, literal), 0, 0);
            }
        };
        let values = fields.values();
        // Each call takes at least one step, so the search ends.
        let mut has_stepped = false;
        if !search.is_begun {
            (search.is_begun, search.values) = (true, 0);
            search.ranges.clear();
            *worked += 100;
            if owner.anywhere > 0 {
                let key = hasher.hash_one((AnchorKind::Anywhere, group));
                search.ranges.push(AnchorRange { key, from: 0, to: 0, member: 0 });
            }
            if owner.fields.len() <= values.len().min(FEW_FIELDS) {
                *worked += owner.fields.len() as u64 * 100;
                for (&field, kinds) in &owner.fields {
                    look(field, kinds, &mut search.ranges);
                }
                search.values = values.len();
            }
        }
        loop {
            while let Some(AnchorRange { key, from, to, member }) = search.ranges.pop() {
                // A look-up in the tree takes about 300 instructions.
                *worked += 300;
                // Open above: the tree is searched for one end instead of two.
                for &(found, order, id) in anchors.range((key, from, member)..) {
                    if found != key || order > to {
                        break;
                    }
                    if has_stepped && *worked >= until {
                        search.ranges.push(AnchorRange { key, from: order, to, member: id });
                        return false;
                    }
                    ask(id, worked);
                    has_stepped = true;
                }
            }
            if search.values == values.len() {
                search.is_begun = false;
                return true;
            }
            if has_stepped && *worked >= until {
                return false;
            }
            has_stepped = true;
            let node = values[search.values].node;
            search.values += 1;
            *worked += 100;
            if let Some(kinds) = owner.fields.get(&node) {
                look(node, kinds, &mut search.ranges);
            }
        }
    }

    /// Forgets the place of an unfinished search.
    pub(super) fn stop(&mut self) {
        self.search.is_begun = false;
    }

    /// Forgets which event was the last, before turns start again.
    pub(super) fn forget_turns(&mut self) {
        self.fields.forget_turns();
        self.conditions.forget_turns();
        for group in &mut self.groups {
            group.found_for = 0;
        }
    }

    /// Returns the number of members.
    #[cfg(feature = "server")]
    pub(super) fn len(&self) -> usize {
        self.members.len() - self.members_free.len()
    }

    /// Returns the number of fields that conditions are on, and of the keys of their paths.
    pub(super) fn fields(&self) -> usize {
        self.fields.len()
    }

    /// Returns the approximate number of instructions spent on payloads so far.
    pub(super) fn worked(&self) -> u64 {
        self.worked + self.fields.worked()
    }

    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        self.fields.spare_bytes()
            + self.conditions.spare_bytes()
            + self.members_free.len() * size_of::<GroupMember>()
            + self.groups_free.len() * size_of::<PayloadGroup>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let spilled = |member: &GroupMember| {
            if member.conditions.spilled() { member.conditions.capacity() * 4 } else { 0 }
        };
        let of_group = |group: &PayloadGroup| group.base.bytes().len() + 32 + group.fields.allocation_size();
        self.fields.memory_bytes()
            + self.conditions.memory_bytes()
            + self.members.capacity() * size_of::<GroupMember>()
            + self.members.iter().map(spilled).sum::<usize>()
            + self.groups.capacity() * size_of::<PayloadGroup>()
            + self.groups.iter().map(of_group).sum::<usize>()
            + self.by_base.allocation_size()
            + self.search.ranges.capacity() * size_of::<AnchorRange>()
            // A node of the tree holds 11 entries and is two thirds full.
            + self.anchors.len() * (size_of::<AnchorEntry>() * 3 / 2 + 8)
            + (self.members_free.capacity() + self.groups_free.capacity())
                * 4
    }
}

/// Key that a value shares with all literals that may equal it.
#[derive(Hash)]
enum LiteralKey<'a> {
    Word(u8),
    /// Rank in the order of floats; equal numbers have the same rank.
    Number(u64),
    Text(&'a [u8]),
}

impl<'a> From<LiteralRef<'a>> for LiteralKey<'a> {
    fn from(literal: LiteralRef<'a>) -> Self {
        match literal {
            LiteralRef::Word(word) => Self::Word(word),
            LiteralRef::Number(float) => Self::Number(in_order(float)),
            LiteralRef::Text(text) => Self::Text(text),
        }
    }
}

impl<'a> LiteralKey<'a> {
    /// Returns the key of a value, or `None` if no literal may equal it.
    fn of(scalar: Scalar<'a>, longest_text: usize) -> Option<Self> {
        match scalar {
            Scalar::Null => Some(Self::Word(0)),
            Scalar::Bool(value) => Some(Self::Word(1 + u8::from(value))),
            Scalar::Number { float, .. } => Some(Self::Number(in_order(float))),
            Scalar::Text(text) => (text.len() <= longest_text).then_some(Self::Text(text)),
            Scalar::Other => None,
        }
    }
}

fn equal_key(hasher: &RandomState, group: u32, field: u32, literal: LiteralKey<'_>) -> u64 {
    hasher.hash_one((AnchorKind::Equal, group, field, literal))
}
