//! The fields of a payload that conditions are on, all found in one walk over the payload.
//!
//! Paths form a tree of keys. A walk enters only the containers that some path leads through, and skips all others.
//!
//! Invariants:
//! - A payload is walked once for an event, whatever the number of conditions. Nothing of it is kept for the next
//!   event.
//! - The walk finds what [`ComparisonRef::found`](crate::filter::comparison::ComparisonRef::found) finds: if an object
//!   has a key twice, the last one counts, and what is below an earlier one is not found.
//! - A walk ends at the text's end, also in text that is not JSON: no recursion, no index beyond the bytes.
//! - A node has a condition or a child.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::filter::comparison::Scalar;
use crate::filter::json_path::{container_end, place_of, string_span, unescape, value_end};

/// Node of the whole payload.
const ROOT: u32 = 0;

/// Place of a node without a value in this event.
const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Default)]
struct FieldNode {
    parent: u32,
    key: Box<[u8]>,
    /// Number of conditions on this field.
    holders: u32,
    children: u32,
    /// A bit for each child, by [`bit_of`] its key. Bits of removed children may remain.
    keys: u64,
    /// One more than the highest array index among the children's keys, removed ones included.
    places: usize,
    /// Event for which the field was last found, and where.
    turn: u32,
    start: usize,
    end: usize,
    /// Index among the values of that event, or [`NOWHERE`].
    place: u32,
}

/// Field of the present event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) node: u32,
    scalar: StoredScalar,
}

/// [`Scalar`] with offsets instead of bytes.
#[derive(Clone, Copy, Debug)]
enum StoredScalar {
    Null,
    Bool(bool),
    Number {
        integer: Option<i128>,
        float: f64,
    },
    Raw {
        start: usize,
        end: usize,
    },
    /// Offsets in the buffer of unescaped texts.
    Unescaped {
        start: usize,
        end: usize,
    },
    Other,
}

/// Container that a walk is in.
struct OpenContainer {
    node: u32,
    /// Index of the next item, in an array.
    index: Option<usize>,
}

/// Tree of paths, and the values of one event.
#[derive(Debug)]
pub(super) struct FieldTree {
    nodes: Vec<FieldNode>,
    free: Vec<u32>,
    children: HashTable<u32>,
    hasher: RandomState,
    /// Event that the values are of.
    turn: u32,
    /// Nodes in the order in which they were first found: parents before children.
    found: Vec<u32>,
    values: Vec<Value>,
    texts: Vec<u8>,
    key: Vec<u8>,
    key_bytes: usize,
    /// Instructions that walks took so far, about.
    worked: u64,
}

/// Returns a bit that shows for most keys, without a look-up, that no child has them.
fn bit_of(key: &[u8]) -> u64 {
    let first = key.first().copied().unwrap_or_default();
    let last = key.last().copied().unwrap_or_default();
    1 << ((usize::from(first) ^ (usize::from(last) << 2) ^ key.len()) & 63)
}

impl Default for FieldTree {
    fn default() -> Self {
        Self {
            nodes: vec![FieldNode::default()],
            free: Vec::new(),
            children: HashTable::new(),
            hasher: RandomState::default(),
            turn: 0,
            found: Vec::new(),
            values: Vec::new(),
            texts: Vec::new(),
            key: Vec::new(),
            key_bytes: 0,
            worked: 0,
        }
    }
}

impl FieldTree {
    fn child(&self, parent: u32, key: &[u8]) -> Option<u32> {
        if self.nodes[parent as usize].keys & bit_of(key) == 0 {
            return None;
        }
        let is = |&id: &u32| {
            let node = &self.nodes[id as usize];
            node.parent == parent && *node.key == *key
        };
        self.children.find(self.hasher.hash_one((parent, key)), is).copied()
    }

    /// Adds a condition on the field at a path, and returns the field.
    pub(super) fn acquire<'k>(&mut self, path: impl Iterator<Item = &'k [u8]>) -> u32 {
        let mut at = ROOT;
        for key in path {
            at = match self.child(at, key) {
                Some(child) => child,
                None => self.add(at, key),
            };
        }
        self.nodes[at as usize].holders += 1;
        at
    }

    fn add(&mut self, parent: u32, key: &[u8]) -> u32 {
        let node = FieldNode { parent, key: key.into(), place: NOWHERE, ..FieldNode::default() };
        self.key_bytes += key.len();
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        let Self { nodes, children, hasher, .. } = self;
        let hash_of = |&id: &u32| hasher.hash_one((nodes[id as usize].parent, &*nodes[id as usize].key));
        children.insert_unique(hasher.hash_one((parent, key)), id, hash_of);
        let above = &mut self.nodes[parent as usize];
        above.children += 1;
        above.keys |= bit_of(key);
        above.places = above.places.max(place_of(key).map_or(0, |place| place + 1));
        id
    }

    /// Removes a condition. The field goes with the last one, and so do the keys that only it needed.
    pub(super) fn release(&mut self, field: u32) {
        let mut at = field;
        self.nodes[at as usize].holders -= 1;
        while at != ROOT && self.nodes[at as usize].holders == 0 && self.nodes[at as usize].children == 0 {
            let FieldNode { parent, key, .. } = std::mem::take(&mut self.nodes[at as usize]);
            let hash = self.hasher.hash_one((parent, &*key));
            if let Ok(entry) = self.children.find_entry(hash, |&id| id == at) {
                entry.remove();
            }
            self.key_bytes -= key.len();
            self.free.push(at);
            let above = &mut self.nodes[parent as usize];
            above.children -= 1;
            if above.children == 0 {
                (above.keys, above.places) = (0, 0);
            }
            at = parent;
        }
    }

    /// Finds the values of an event, unless it is the present one. Turns count from 1.
    pub(super) fn read(&mut self, payload: &str, turn: u32) {
        if self.turn != turn {
            self.turn = turn;
            self.walk(payload.as_bytes());
            self.take_values(payload.as_bytes());
        }
    }

    /// Forgets which event was the last, before turns start again.
    pub(super) fn forget_turns(&mut self) {
        self.turn = 0;
        for node in &mut self.nodes {
            node.turn = 0;
        }
    }

    fn note(&mut self, id: u32, start: usize, end: usize) {
        let node = &mut self.nodes[id as usize];
        if node.turn != self.turn {
            node.turn = self.turn;
            node.place = NOWHERE;
            self.found.push(id);
        }
        (node.start, node.end) = (start, end);
    }

    fn walk(&mut self, json: &[u8]) {
        self.found.clear();
        self.note(ROOT, 0, json.len());
        let mut open: SmallVec<[OpenContainer; 8]> = SmallVec::new();
        let container = |node, at: usize| match json.get(at) {
            Some(b'{') => Some(OpenContainer { node, index: None }),
            Some(b'[') => Some(OpenContainer { node, index: Some(0) }),
            _ => None,
        };
        let mut at = 0;
        if self.nodes[ROOT as usize].children > 0
            && let Some(root) = container(ROOT, 0)
        {
            open.push(root);
            at = 1;
        }
        let mut keys = 0u64;
        while let Some(OpenContainer { node, index }) = open.last_mut() {
            let node = *node;
            let child = match (json.get(at), index) {
                (Some(b','), _) => {
                    at += 1;
                    continue;
                }
                (Some(b'}' | b']'), _) => {
                    at += 1;
                    self.nodes[node as usize].end = at;
                    open.pop();
                    continue;
                }
                (Some(_), Some(index)) if *index >= self.nodes[node as usize].places => {
                    // No path leads further into the array.
                    at = container_end(json, at).saturating_sub(1);
                    continue;
                }
                (Some(_), Some(index)) => {
                    let nth = *index;
                    *index += 1;
                    let mut digits = [0; 20];
                    self.child(node, decimal(nth, &mut digits))
                }
                (Some(b'"'), None) => {
                    let (end, has_escape) = string_span(json, at);
                    let raw = json.get(at + 1..end.saturating_sub(1)).unwrap_or_default();
                    // After the colon.
                    at = end + 1;
                    if has_escape {
                        let mut key = std::mem::take(&mut self.key);
                        key.clear();
                        unescape(raw, &mut key);
                        let child = self.child(node, &key);
                        self.key = key;
                        child
                    } else {
                        self.child(node, raw)
                    }
                }
                _ => break,
            };
            keys += 1;
            match child {
                Some(child) if self.nodes[child as usize].children > 0 && container(child, at).is_some() => {
                    // Its end is set when it is closed.
                    self.note(child, at, json.len());
                    open.extend(container(child, at));
                    at += 1;
                }
                Some(child) => {
                    let end = value_end(json, at);
                    self.note(child, at, end);
                    at = end;
                }
                None => at = value_end(json, at),
            }
        }
        // Counted under callgrind: brackets take about six instructions a byte, texts two, a key 150 and its bytes.
        self.worked += (at.min(json.len()) * 6) as u64 + keys * 150;
    }

    /// Reads the values of the fields that were found and have conditions.
    fn take_values(&mut self, json: &[u8]) {
        self.values.clear();
        self.texts.clear();
        for at in 0..self.found.len() {
            let id = self.found[at];
            let node = &self.nodes[id as usize];
            let above = &self.nodes[node.parent as usize];
            // Values within an earlier value of the same key are outside of the one that counts.
            let is_inside =
                id == ROOT || (above.place != NOWHERE && (above.start..above.end).contains(&node.start));
            if !is_inside {
                continue;
            }
            let (start, end) = (node.start, node.end);
            self.nodes[id as usize].place = self.values.len() as u32;
            let has_condition = self.nodes[id as usize].holders > 0;
            let scalar = if has_condition { self.keep(json, start, end) } else { StoredScalar::Other };
            self.values.push(Value { node: id, scalar });
        }
        self.worked += self.values.len() as u64 * 200 + self.texts.len() as u64 * 15;
    }

    fn keep(&mut self, json: &[u8], start: usize, end: usize) -> StoredScalar {
        match Scalar::read(json.get(start..end).unwrap_or_default()) {
            Scalar::Null => StoredScalar::Null,
            Scalar::Bool(value) => StoredScalar::Bool(value),
            Scalar::Number { integer, float } => StoredScalar::Number { integer, float },
            Scalar::Text(raw) if raw.contains(&b'\\') => {
                let begin = self.texts.len();
                unescape(raw, &mut self.texts);
                StoredScalar::Unescaped { start: begin, end: self.texts.len() }
            }
            Scalar::Text(_) => StoredScalar::Raw { start: start + 1, end: end - 1 },
            Scalar::Other => StoredScalar::Other,
        }
    }

    /// Returns the values of the event, including containers on the way to others.
    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    /// Returns the value of a field, if the event has it.
    pub(super) fn value(&self, field: u32) -> Option<Value> {
        let node = &self.nodes[field as usize];
        (node.turn == self.turn).then(|| self.values.get(node.place as usize).copied()).flatten()
    }

    /// Returns a value for comparisons. `payload` is the event's.
    pub(super) fn scalar<'a>(&'a self, value: Value, payload: &'a str) -> Scalar<'a> {
        let json = payload.as_bytes();
        let bytes = |start, end| json.get(start..end).unwrap_or_default();
        match value.scalar {
            StoredScalar::Null => Scalar::Null,
            StoredScalar::Bool(value) => Scalar::Bool(value),
            StoredScalar::Number { integer, float } => Scalar::Number { integer, float },
            StoredScalar::Raw { start, end } => Scalar::Text(bytes(start, end)),
            StoredScalar::Unescaped { start, end } => Scalar::Text(&self.texts[start..end]),
            StoredScalar::Other => Scalar::Other,
        }
    }

    /// Returns the number of fields and of keys on the way to them, without the payload itself.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - 1 - self.free.len()
    }

    /// Returns the number of instructions that walks took so far, about.
    #[cfg(any(feature = "server", test))]
    pub(super) fn worked(&self) -> u64 {
        self.worked
    }

    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        self.free.len() * size_of::<FieldNode>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<FieldNode>()
            + self.key_bytes
            + self.children.allocation_size()
            + (self.free.capacity() + self.found.capacity()) * size_of::<u32>()
            + self.values.capacity() * size_of::<Value>()
            + self.texts.capacity()
            + self.key.capacity()
    }
}

/// Returns an array index as a key.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::json_path::find;

    const PATHS: [&str; 14] =
        ["", "a", "a.b", "a.b.c", "a.0", "a.0.b", "a.10", "b", "b.a", "a\"", "\u{e9}", "0", "a.a.a.a", "c"];

    fn path(text: &str) -> Vec<&[u8]> {
        text.split('.').filter(|_| !text.is_empty()).map(str::as_bytes).collect()
    }

    fn fields() -> (FieldTree, Vec<u32>) {
        let mut fields = FieldTree::default();
        let ids = PATHS.iter().map(|text| fields.acquire(path(text).into_iter())).collect();
        (fields, ids)
    }

    fn check(fields: &mut FieldTree, ids: &[u32], json: &str, turn: u32) {
        fields.read(json, turn);
        for (text, &id) in PATHS.iter().zip(ids) {
            let want = find(json.as_bytes(), path(text).into_iter());
            let range = fields.value(id).map(|_| {
                let node = &fields.nodes[id as usize];
                &json.as_bytes()[node.start..node.end]
            });
            assert_eq!(range, want, "{text} in {json}");
        }
    }

    #[test]
    fn one_walk_finds_what_a_look_for_each_path_finds() {
        let (mut fields, ids) = fields();
        for (turn, json) in [
            r#"{"a":{"b":{"c":1}},"b":2}"#,
            r#"{"a":{"b":1},"a":{"c":2}}"#,
            r#"{"a":{"b":{"c":1}},"a":{"b":{"d":[]}},"b":{"a":"}]\""}}"#,
            r#"{"a":{"b":1},"a":5,"a":{"b":{"c":[1,2]}}}"#,
            r#"{"a":[{"b":1},2,3,4,5,6,7,8,9,10,{"x":[[]]}],"\u0061\"":"\ud83d","é":{}}"#,
            r#"{"a":{"a":{"a":{"a":[]}}},"0":"zero","c":null}"#,
            r#"{"a":{"a":{"a":{"a":1},"a":{}}}}"#,
            r#"["x",{"a":1}]"#,
            r#""text""#,
            "5",
            "{}",
            "[]",
            r#"{"c":[{"a":{"b":[]}}],"a":[[{"b":1}],{"b":2}]}"#,
        ]
        .into_iter()
        .enumerate()
        {
            check(&mut fields, &ids, json, turn as u32 + 1);
        }
        for id in ids {
            fields.release(id);
        }
        assert_eq!((fields.len(), fields.key_bytes, fields.children.len()), (0, 0, 0));
    }

    #[test]
    fn a_walk_through_broken_text_ends() {
        let (mut fields, _) = fields();
        for (turn, json) in [
            "",
            "{",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":{",
            "[1",
            "{\"a\\",
            "{\"a\":[\"\\",
            "}",
            "{\"a\"}",
            "{\"a\":{]}]",
        ]
        .into_iter()
        .enumerate()
        {
            fields.read(json, turn as u32 + 1);
        }
    }

    #[test]
    fn numbers_of_places_are_written_as_keys_say_them() {
        for number in [0, 9, 10, 123_456_789, usize::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
