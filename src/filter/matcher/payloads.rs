//! Filters with conditions on the payload: which of them want an event whose attributes they match.
//!
//! Filters with the same conditions on attributes are a *group*; the index finds the group, once for all of them. Each filter
//! of a group is a *member*, and lies under one of its conditions, its *anchor*: under the values of an equality, at the
//! bound of a comparison of numbers, or, where the anchor is neither, under the field's presence or under nothing. An event
//! costs one walk over its payload, a look-up for each field that it has and a group asks for, and the members that lie
//! where its values point. Their other conditions are evaluated then, each distinct one once for an event.
//!
//! Invariants:
//! - A member is found by exactly the events that match its filter: an anchor points to a superset, and every condition is
//!   evaluated exactly before a member is believed.
//! - A member that went leaves nothing: no entry, condition or field.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use super::ClassId;
use super::fields::Fields;
use crate::filter::comparison::{ComparisonRef, LiteralRef, Scalar, holds};
use crate::filter::definition::Filter;
use crate::filter::encoding::Clause;
use crate::filter::literal::Operator;

/// A condition, whichever filters have it.
#[derive(Debug, Default)]
struct Condition {
    field: u32,
    /// As in a filter's bytes.
    body: Box<[u8]>,
    operator: Option<Operator>,
    /// Where in the body its literals begin.
    literals: u32,
    /// The one literal, where that is an integer: most are.
    integer: Option<i64>,
    holders: u32,
    /// Members whose anchor it is.
    anchored: u32,
    /// The event for which it was evaluated last.
    turn: u32,
    holds: bool,
}

/// A filter with conditions on the payload.
#[derive(Debug)]
struct Member {
    class: u32,
    group: u32,
    /// The anchor is the first.
    conditions: SmallVec<[u32; 2]>,
}

/// Filters with the same conditions on attributes.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Those conditions.
    pub(super) base: Filter,
    /// Sets that the base's plan left; see [`Plan::left`](super::plan::Plan::left).
    pub(super) left: u32,
    /// The event this group was last found for.
    pub(super) found_for: u32,
    members: u32,
    /// The exclusive or of their numbers: where there is one member, its number.
    sole: u32,
    /// Members under nothing.
    anywhere: u32,
    /// Fields that anchors are on, and how many of each way.
    fields: HashMap<u32, [u32; WAYS], RandomState>,
}

/// How anchors point at members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Way {
    /// By a value.
    Equal,
    /// By a number that the value is not below.
    Above,
    /// By a number that the value is not above.
    Below,
    /// By the field's presence.
    Present,
    /// By nothing: looked at for every event of the group.
    Anywhere,
}

const WAYS: usize = Way::Anywhere as usize;

/// How many members may lie under one equality before a comparison of numbers is a better anchor.
const CROWDED: u32 = 64;

/// Where a member lies: a hash of what points there, then a number's place in the order, then the member.
type Spot = (u64, u64, u32);

/// All groups of a matcher.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    fields: Fields,
    conditions: Vec<Condition>,
    conditions_free: Vec<u32>,
    known: HashTable<u32>,
    members: Vec<Member>,
    members_free: Vec<u32>,
    groups: Vec<Group>,
    groups_free: Vec<u32>,
    by_base: HashTable<u32>,
    spots: BTreeSet<Spot>,
    hasher: RandomState,
    /// Bytes of conditions.
    body_bytes: usize,
    /// Bytes of the longest text of a literal so far: no longer value equals one.
    longest_text: usize,
    worked: u64,
}

impl Condition {
    /// Whether it holds where the field has this value, or is not there.
    fn evaluate(&self, value: Option<Scalar<'_>>) -> bool {
        match (self.operator, self.integer, value) {
            (Some(operator), Some(other), Some(Scalar::Number { integer: Some(own), .. })) => {
                operator.orders(own.cmp(&i128::from(other)))
            }
            (Some(operator), _, value) => holds(operator, &self.body[self.literals as usize..], value),
            (None, ..) => false,
        }
    }
}

/// A float's place in the order of all, where `-0.0` is `0.0`.
fn in_order(float: f64) -> u64 {
    let bits = (float + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// Returns the part of a filter that is about attributes, where it has a condition on the payload too.
pub(super) fn base_of(filter: &Filter) -> Option<Filter> {
    let mut clauses = filter.clauses();
    loop {
        let before = clauses.rest.len();
        match clauses.next()? {
            Clause::Set(_) => {}
            // Comparisons stand behind all sets.
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

/// How an anchor with this condition points.
fn way_of(comparison: ComparisonRef<'_>) -> Way {
    let is_of_numbers = || comparison.literals().all(|literal| matches!(literal, LiteralRef::Number(_)));
    match comparison.operator() {
        Operator::Equal => Way::Equal,
        Operator::Greater | Operator::GreaterOrEqual if is_of_numbers() => Way::Above,
        Operator::Less | Operator::LessOrEqual if is_of_numbers() => Way::Below,
        Operator::NotEqual | Operator::Missing => Way::Anywhere,
        _ => Way::Present,
    }
}

impl Payloads {
    /// Adds a filter with conditions on the payload to the group of its base; the second answer is the group, where it is new
    /// and has to be put into the index.
    pub(super) fn insert(&mut self, filter: &Filter, base: &Filter, class: u32) -> (u32, Option<u32>) {
        let (group, is_new) = self.group(base);
        let mut conditions: SmallVec<[u32; 2]> = comparisons(filter).map(|one| self.acquire(one)).collect();
        let anchor = self.choose(&conditions);
        conditions.swap(0, anchor);
        let member = Member { class, group, conditions };
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
        let held = &mut self.groups[group as usize];
        held.members += 1;
        held.sole ^= id;
        self.anchor(id, true);
        (id, is_new.then_some(group))
    }

    /// Takes a member away; the answer is its group, where that has no other and has to be taken from the index.
    pub(super) fn remove(&mut self, id: u32) -> Option<u32> {
        self.anchor(id, false);
        let member = &mut self.members[id as usize];
        let group = member.group;
        let conditions = std::mem::take(&mut member.conditions);
        self.members_free.push(id);
        for condition in conditions {
            self.release(condition);
        }
        let held = &mut self.groups[group as usize];
        held.members -= 1;
        held.sole ^= id;
        (held.members == 0).then_some(group)
    }

    /// Forgets a group that has no member and is not in the index.
    pub(super) fn forget_group(&mut self, id: u32) {
        let Group { base, .. } = std::mem::take(&mut self.groups[id as usize]);
        let hash = self.hasher.hash_one(base.bytes());
        if let Ok(entry) = self.by_base.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.groups_free.push(id);
    }

    pub(super) fn group_mut(&mut self, id: u32) -> &mut Group {
        &mut self.groups[id as usize]
    }

    fn group(&mut self, base: &Filter) -> (u32, bool) {
        let Self { groups, by_base, hasher, .. } = self;
        let hash_of = |&id: &u32| hasher.hash_one(groups[id as usize].base.bytes());
        let hash = hasher.hash_one(base.bytes());
        if let Some(&id) = by_base.find(hash, |&id| groups[id as usize].base == *base) {
            return (id, false);
        }
        let fresh = Group { base: base.clone(), ..Group::default() };
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

    fn acquire(&mut self, comparison: ComparisonRef<'_>) -> u32 {
        let Self { conditions, known, hasher, .. } = self;
        let hash_of = |&id: &u32| hasher.hash_one(&*conditions[id as usize].body);
        let hash = hasher.hash_one(comparison.body());
        if let Some(&id) = known.find(hash, |&id| *conditions[id as usize].body == *comparison.body()) {
            conditions[id as usize].holders += 1;
            return id;
        }
        let id = match self.conditions_free.pop() {
            Some(id) => id,
            None => conditions.len() as u32,
        };
        known.insert_unique(hash, id, hash_of);
        let field = self.fields.acquire(comparison.path());
        self.body_bytes += comparison.body().len();
        let (operator, literals) = comparison.split();
        let fresh = Condition {
            field,
            body: comparison.body().into(),
            operator: Some(operator),
            literals: literals as u32,
            integer: comparison.integer(),
            holders: 1,
            ..Condition::default()
        };
        match conditions.get_mut(id as usize) {
            Some(condition) => *condition = fresh,
            None => conditions.push(fresh),
        }
        id
    }

    fn release(&mut self, id: u32) {
        let condition = &mut self.conditions[id as usize];
        condition.holders -= 1;
        if condition.holders > 0 {
            return;
        }
        let Condition { field, body, .. } = std::mem::take(condition);
        let hash = self.hasher.hash_one(&*body);
        if let Ok(entry) = self.known.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.body_bytes -= body.len();
        self.fields.release(field);
        self.conditions_free.push(id);
    }

    /// The place of the condition that points to the fewest events, as far as is known without any: an equality that few
    /// lie under, then a comparison of numbers, then a field's presence.
    fn choose(&self, conditions: &[u32]) -> usize {
        let rank = |&id: &u32| {
            let Condition { body, anchored, .. } = &self.conditions[id as usize];
            match way_of(ComparisonRef::new(body)) {
                Way::Equal if *anchored < CROWDED => (0, *anchored),
                Way::Above | Way::Below => (1, *anchored),
                Way::Equal => (2, *anchored),
                Way::Present => (3, *anchored),
                Way::Anywhere => (4, *anchored),
            }
        };
        (0..conditions.len()).min_by_key(|&at| rank(&conditions[at])).unwrap_or_default()
    }

    /// Puts a member under its anchor, or takes it away from there.
    fn anchor(&mut self, id: u32, comes: bool) {
        let Member { group, conditions, .. } = &self.members[id as usize];
        let (group, anchor) = (*group, conditions[0]);
        let condition = &mut self.conditions[anchor as usize];
        let comparison = ComparisonRef::new(&condition.body);
        let (field, way) = (condition.field, way_of(comparison));
        let held = &mut self.groups[group as usize];
        let count = match way {
            Way::Anywhere => &mut held.anywhere,
            way => &mut held.fields.entry(field).or_default()[way as usize],
        };
        *count = if comes { *count + 1 } else { *count - 1 };
        condition.anchored = if comes { condition.anchored + 1 } else { condition.anchored - 1 };
        if held.fields.get(&field).is_some_and(|ways| ways.iter().all(|count| *count == 0)) {
            held.fields.remove(&field);
        }
        let numbers = || {
            comparison.literals().filter_map(|literal| match literal {
                LiteralRef::Number(float) => Some(in_order(float)),
                _ => None,
            })
        };
        let hasher = &self.hasher;
        let mut spots: SmallVec<[(u64, u64); 4]> = SmallVec::new();
        let key = |way: Way| hasher.hash_one((way, group, field));
        match way {
            Way::Equal => {
                for literal in comparison.literals() {
                    if let LiteralRef::Text(text) = literal {
                        self.longest_text = self.longest_text.max(text.len());
                    }
                    spots.push((equal_key(hasher, group, field, Literal::from(literal)), 0));
                }
            }
            // One of the values is enough, so the widest bound says when it may hold.
            Way::Above => spots.extend(numbers().min().map(|bound| (key(way), bound))),
            Way::Below => spots.extend(numbers().max().map(|bound| (key(way), bound))),
            Way::Present => spots.push((key(way), 0)),
            Way::Anywhere => spots.push((hasher.hash_one((way, group)), 0)),
        }
        for (key, order) in spots {
            if comes {
                self.spots.insert((key, order, id));
            } else {
                self.spots.remove(&(key, order, id));
            }
        }
    }

    /// Appends the classes of a group that want an event with this payload, whose attributes the group's base matches.
    pub(super) fn find(&mut self, group: u32, payload: &str, turn: u32, out: &mut Vec<ClassId>) {
        let Self { fields, conditions, members, groups, spots, hasher, longest_text, worked, .. } = self;
        fields.read(payload, turn);
        let fields = &*fields;
        let held = &groups[group as usize];
        // The conditions of one member, each evaluated where it was not for this event.
        let mut ask = |id: u32, worked: &mut u64| {
            let Member { class, conditions: all, .. } = &members[id as usize];
            *worked += 60;
            let is_wanted = all.iter().all(|&id| {
                let condition = &mut conditions[id as usize];
                if condition.turn != turn {
                    let scalar = fields.value(condition.field).map(|value| fields.scalar(value, payload));
                    (condition.turn, condition.holds) = (turn, condition.evaluate(scalar));
                    // A text of eight bytes takes about 80, a number of eight digits 160.
                    let literals = condition.body.len() as u64 - u64::from(condition.literals);
                    *worked += 100 + if condition.integer.is_some() { 0 } else { literals * 20 };
                }
                condition.holds
            });
            if is_wanted {
                out.push(ClassId(*class));
            }
        };
        if held.members == 1 {
            return ask(held.sole, worked);
        }
        let mut visit = |key: u64, orders: std::ops::RangeInclusive<u64>| {
            // A look-up in a tree takes about 300.
            *worked += 300;
            let range = (key, *orders.start(), 0)..=(key, *orders.end(), u32::MAX);
            for &(_, _, id) in spots.range(range) {
                ask(id, worked);
            }
        };
        let mut look = |field: u32, ways: &[u32; WAYS]| {
            let Some(value) = fields.value(field) else { return };
            let key = |way: Way| hasher.hash_one((way, group, field));
            let scalar = fields.scalar(value, payload);
            if ways[Way::Present as usize] > 0 {
                visit(key(Way::Present), 0..=0);
            }
            if let Scalar::Number { float, .. } = scalar {
                if ways[Way::Above as usize] > 0 {
                    visit(key(Way::Above), 0..=in_order(float));
                }
                if ways[Way::Below as usize] > 0 {
                    visit(key(Way::Below), in_order(float)..=u64::MAX);
                }
            }
            if ways[Way::Equal as usize] > 0
                && let Some(literal) = Literal::of(scalar, *longest_text)
            {
                visit(equal_key(hasher, group, field, literal), 0..=0);
            }
        };
        let values = fields.values();
        if held.fields.len() <= values.len() {
            for (&field, ways) in &held.fields {
                look(field, ways);
            }
        } else {
            for value in values {
                if let Some(ways) = held.fields.get(&value.node) {
                    look(value.node, ways);
                }
            }
        }
        if held.anywhere > 0 {
            visit(hasher.hash_one((Way::Anywhere, group)), 0..=0);
        }
        *worked += 100 + held.fields.len().min(values.len()) as u64 * 100;
    }

    /// Forgets which event was the last, before turns begin anew.
    pub(super) fn forget(&mut self) {
        self.fields.forget();
        for condition in &mut self.conditions {
            condition.turn = 0;
        }
        for group in &mut self.groups {
            group.found_for = 0;
        }
    }

    /// How many members there are.
    #[cfg(feature = "server")]
    pub(super) fn len(&self) -> usize {
        self.members.len() - self.members_free.len()
    }

    /// How many fields conditions ask for, with the keys on the way there.
    pub(super) fn fields(&self) -> usize {
        self.fields.len()
    }

    /// Returns about the instructions that looking into payloads took so far.
    #[cfg(any(feature = "server", test))]
    pub(super) fn worked(&self) -> u64 {
        self.worked + self.fields.worked()
    }

    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        self.fields.spare_bytes()
            + self.conditions_free.len() * size_of::<Condition>()
            + self.members_free.len() * size_of::<Member>()
            + self.groups_free.len() * size_of::<Group>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let spilled =
            |member: &Member| if member.conditions.spilled() { member.conditions.capacity() * 4 } else { 0 };
        let of_group = |group: &Group| group.base.bytes().len() + 32 + group.fields.allocation_size();
        self.fields.memory_bytes()
            + self.conditions.capacity() * size_of::<Condition>()
            + self.body_bytes
            + self.members.capacity() * size_of::<Member>()
            + self.members.iter().map(spilled).sum::<usize>()
            + self.groups.capacity() * size_of::<Group>()
            + self.groups.iter().map(of_group).sum::<usize>()
            + self.known.allocation_size()
            + self.by_base.allocation_size()
            // A tree's node holds 11 entries and is two thirds full.
            + self.spots.len() * (size_of::<Spot>() * 3 / 2 + 8)
            + (self.conditions_free.capacity() + self.members_free.capacity() + self.groups_free.capacity())
                * 4
    }
}

/// Key that a value or a literal has in common with all that may equal it.
#[derive(Hash)]
enum Literal<'a> {
    Word(u8),
    /// Numbers that are equal have one place in the order of floats.
    Number(u64),
    Text(&'a [u8]),
}

impl<'a> From<LiteralRef<'a>> for Literal<'a> {
    fn from(literal: LiteralRef<'a>) -> Self {
        match literal {
            LiteralRef::Word(word) => Self::Word(word),
            LiteralRef::Number(float) => Self::Number(in_order(float)),
            LiteralRef::Text(text) => Self::Text(text),
        }
    }
}

impl<'a> Literal<'a> {
    /// Returns the key of a value that some literal may equal.
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

fn equal_key(hasher: &RandomState, group: u32, field: u32, literal: Literal<'_>) -> u64 {
    hasher.hash_one((Way::Equal, group, field, literal))
}
