//! Distinct conditions on the payload, each evaluated at most once for an event.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::fields::FieldTree;
use crate::filter::comparison::{ComparisonRef, LiteralRef, Scalar, holds};
use crate::filter::literal::Operator;

/// A condition, shared by all filters that have it.
#[derive(Debug, Default)]
struct PayloadCondition {
    field: u32,
    /// The condition as in a filter's bytes.
    body: Box<[u8]>,
    operator: Option<Operator>,
    /// Offset of the literals in `body`.
    literals: u32,
    /// Literal, if there is exactly one and it is an integer, as in most conditions.
    integer: Option<i64>,
    holders: u32,
    /// Number of members anchored at this condition.
    anchored: u32,
    /// Event for which it was last evaluated, and the result.
    turn: u32,
    holds: bool,
}

impl PayloadCondition {
    /// Returns whether the condition holds for this value of the field, or for its absence.
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

/// Table of conditions.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    table: Vec<PayloadCondition>,
    free: Vec<u32>,
    known: HashTable<u32>,
    hasher: RandomState,
    body_bytes: usize,
}

impl Conditions {
    /// Adds a holder of a condition, and of its field if the condition is new. Returns its number.
    pub(super) fn acquire(&mut self, comparison: ComparisonRef<'_>, fields: &mut FieldTree) -> u32 {
        let Self { table, known, hasher, .. } = self;
        let hash_of = |&id: &u32| hasher.hash_one(&*table[id as usize].body);
        let hash = hasher.hash_one(comparison.body());
        if let Some(&id) = known.find(hash, |&id| *table[id as usize].body == *comparison.body()) {
            table[id as usize].holders += 1;
            return id;
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None => table.len() as u32,
        };
        known.insert_unique(hash, id, hash_of);
        self.body_bytes += comparison.body().len();
        for literal in comparison.literals() {
            if let LiteralRef::Text(text) = literal {
                fields.record_text(text.len());
            }
        }
        let (operator, literals) = comparison.split();
        let fresh = PayloadCondition {
            field: fields.acquire(comparison.path()),
            body: comparison.body().into(),
            operator: Some(operator),
            literals: literals as u32,
            integer: comparison.integer(),
            holders: 1,
            ..PayloadCondition::default()
        };
        match table.get_mut(id as usize) {
            Some(condition) => *condition = fresh,
            None => table.push(fresh),
        }
        id
    }

    /// Removes a holder of a condition. The last holder's removal removes the condition and releases its field.
    pub(super) fn release(&mut self, id: u32, fields: &mut FieldTree) {
        let condition = &mut self.table[id as usize];
        condition.holders -= 1;
        if condition.holders > 0 {
            return;
        }
        let PayloadCondition { field, body, .. } = std::mem::take(condition);
        let hash = self.hasher.hash_one(&*body);
        if let Ok(entry) = self.known.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.body_bytes -= body.len();
        fields.release(field);
        self.free.push(id);
    }

    /// Returns the field that a condition is on.
    pub(super) fn field(&self, id: u32) -> u32 {
        self.table[id as usize].field
    }

    pub(super) fn comparison(&self, id: u32) -> ComparisonRef<'_> {
        ComparisonRef::new(&self.table[id as usize].body)
    }

    /// Returns the number of members anchored at a condition.
    pub(super) fn anchored(&self, id: u32) -> u32 {
        self.table[id as usize].anchored
    }

    pub(super) fn anchored_mut(&mut self, id: u32) -> &mut u32 {
        &mut self.table[id as usize].anchored
    }

    /// Returns whether a condition holds for the event last read into `fields`, and adds the instructions that this took to
    /// `worked`.
    pub(super) fn holds(
        &mut self,
        id: u32,
        turn: u32,
        fields: &FieldTree,
        payload: &str,
        worked: &mut u64,
    ) -> bool {
        let condition = &mut self.table[id as usize];
        if condition.turn != turn {
            let scalar = fields.value(condition.field).map(|value| fields.scalar(value, payload));
            (condition.turn, condition.holds) = (turn, condition.evaluate(scalar));
            // A text of eight bytes takes about 80, a number of eight digits 160.
            let literals = condition.body.len() as u64 - u64::from(condition.literals);
            *worked += 100 + if condition.integer.is_some() { 0 } else { literals * 20 };
        }
        condition.holds
    }

    /// Forgets which event was the last, before turns start again.
    pub(super) fn forget_turns(&mut self) {
        for condition in &mut self.table {
            condition.turn = 0;
        }
    }

    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        self.free.len() * size_of::<PayloadCondition>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.capacity() * size_of::<PayloadCondition>()
            + self.body_bytes
            + self.known.allocation_size()
            + self.free.capacity() * size_of::<u32>()
    }
}
