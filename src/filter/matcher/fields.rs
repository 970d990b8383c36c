//! The fields of a payload that conditions are on, all found in one walk over the payload.
//!
//! Paths form a tree of keys. A walk enters only the containers that some path leads through, and skips all others.
//!
//! Invariants:
//! - A payload is walked once for an event, regardless of the number of conditions. Nothing of it is kept for the next
//!   event.
//! - A walk stops when its allowance of work is used up, and continues where it stopped. One step takes at most about
//!   500,000 instructions, regardless of the payload.
//! - The walk finds what [`ComparisonRef::found`](crate::filter::comparison::ComparisonRef::found) finds: if an object
//!   has a key twice, the last one counts, and what is below an earlier one is not found.
//! - A walk ends at the text's end, also in text that is not JSON: no recursion, no index beyond the bytes.
//! - A node has a condition or a child.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::event::json_path::{container_end, place_of, string_span, unescape, value_end};
use crate::filter::comparison::Scalar;

/// Node of the whole payload.
const ROOT: u32 = 0;

/// Place of a node without a value in this event.
const NOWHERE: u32 = u32::MAX;

/// Maximum number of bytes of a payload that are skipped in one step.
const STEP_BYTES: usize = 64 << 10;

/// Instructions for a byte of a payload, at most: brackets take about six, texts two.
const BYTE_INSTRUCTIONS: u64 = 6;

/// Instructions for a key, besides its bytes.
const KEY_INSTRUCTIONS: u64 = 150;

/// Maximum length of the escape of one byte of text: `\u0061`.
const ESCAPE_BYTES_MAX: usize = 6;

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
    /// Number of the event for which the field was last found.
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
#[derive(Debug)]
struct OpenContainer {
    node: u32,
    /// Index of the next item, in an array.
    index: Option<usize>,
}

/// Part of a payload that a walk skips.
#[derive(Clone, Copy, Debug)]
enum Passed {
    /// The key of an object's member.
    Key,
    /// A value, and its node if a path ends at it.
    Value(Option<u32>),
    /// The items of an array that no path leads to.
    Rest,
}

/// Part of a payload that is longer than a step.
#[derive(Debug)]
struct LongPart {
    passed: Passed,
    start: usize,
    /// Number of open brackets.
    depth: usize,
    in_text: bool,
    is_plain: bool,
}

/// Place of an unfinished walk.
#[derive(Debug, Default)]
struct Walk {
    at: usize,
    open: SmallVec<[OpenContainer; 8]>,
    long: Option<LongPart>,
    /// Number of nodes that were found and read.
    taken: usize,
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
    /// Nodes found in this event, in order: parents before children.
    found: Vec<u32>,
    values: Vec<Value>,
    texts: Vec<u8>,
    key: Vec<u8>,
    key_bytes: usize,
    /// Length of the longest key so far, in bytes. No longer key of a payload is in the tree.
    longest_key: usize,
    /// Length of the longest text of a literal so far, in bytes. One byte more of a value's text is enough to decide
    /// every comparison.
    longest_text: usize,
    walk: Walk,
    /// Approximate number of instructions of all walks so far.
    worked: u64,
}

/// Returns the bit of a key in [`FieldNode::keys`]. For most keys that no child has, the bit is not set, which saves a
/// look-up.
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
            longest_key: 0,
            longest_text: 0,
            walk: Walk::default(),
            worked: 0,
        }
    }
}

impl FieldTree {
    fn child(&self, parent: u32, key: &[u8]) -> Option<u32> {
        if self.nodes[parent as usize].keys & bit_of(key) == 0 || key.len() > self.longest_key {
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
        self.longest_key = self.longest_key.max(key.len());
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

    /// Removes a condition. The last one's removal removes the field, and the keys that only it needed.
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

    /// Records the length of a literal's text.
    pub(super) fn record_text(&mut self, length: usize) {
        self.longest_text = self.longest_text.max(length);
    }

    /// Finds the values of an event, unless they were found before. Turns count from 1. Returns false if it stopped
    /// after about `allowance` instructions: the next call with the same event continues.
    pub(super) fn read(&mut self, payload: &str, turn: u32, allowance: u64) -> bool {
        let json = payload.as_bytes();
        if self.turn != turn {
            self.turn = turn;
            self.begin(json);
        }
        let until = self.worked.saturating_add(allowance);
        if !self.walk.open.is_empty() {
            let mut walk = std::mem::take(&mut self.walk);
            let is_over = self.walk_on(&mut walk, json, allowance);
            self.walk = walk;
            if !is_over {
                return false;
            }
        }
        self.take_values(json, until)
    }

    /// Forgets which event was the last, before turns start again.
    pub(super) fn forget_turns(&mut self) {
        self.turn = 0;
        self.walk = Walk::default();
        for node in &mut self.nodes {
            node.turn = 0;
        }
    }

    fn record(&mut self, id: u32, start: usize, end: usize) {
        let node = &mut self.nodes[id as usize];
        if node.turn != self.turn {
            node.turn = self.turn;
            node.place = NOWHERE;
            self.found.push(id);
        }
        (node.start, node.end) = (start, end);
    }

    fn begin(&mut self, json: &[u8]) {
        self.found.clear();
        self.values.clear();
        self.texts.clear();
        self.walk.open.clear();
        (self.walk.at, self.walk.long, self.walk.taken) = (0, None, 0);
        self.record(ROOT, 0, json.len());
        if self.nodes[ROOT as usize].children > 0
            && let Some(root) = container(json, ROOT, 0)
        {
            self.walk.open.push(root);
            self.walk.at = 1;
        }
    }

    /// Continues a walk. Returns false if it stopped after about `allowance` instructions, and at least one step.
    fn walk_on(&mut self, walk: &mut Walk, json: &[u8], allowance: u64) -> bool {
        let begun = walk.at;
        let mut keys = 0u64;
        let work = |at: usize, keys: u64| {
            at.saturating_sub(begun) as u64 * BYTE_INSTRUCTIONS + keys * KEY_INSTRUCTIONS
        };
        let is_over = loop {
            if walk.long.is_some() {
                let before = walk.at;
                self.pass_long(walk, json);
                // A byte of a long part takes about 30.
                keys += walk.at.saturating_sub(before) as u64 * 24 / KEY_INSTRUCTIONS;
            } else if let Some(OpenContainer { node, index }) = walk.open.last_mut() {
                let (node, at) = (*node, walk.at);
                match (json.get(at), index) {
                    (Some(b','), _) => walk.at += 1,
                    (Some(b'}' | b']'), _) => {
                        walk.at += 1;
                        self.nodes[node as usize].end = walk.at;
                        walk.open.pop();
                    }
                    (Some(_), Some(index)) if *index >= self.nodes[node as usize].places => {
                        if let Some((end, _)) = Self::pass(walk, json, Passed::Rest) {
                            Self::passed_rest(walk, json, end);
                        }
                    }
                    (Some(_), Some(index)) => {
                        let nth = *index;
                        *index += 1;
                        keys += 1;
                        let mut digits = [0; 20];
                        let child = self.child(node, decimal(nth, &mut digits));
                        self.enter(walk, json, child);
                    }
                    (Some(b'"'), None) => {
                        keys += 1;
                        if let Some((end, is_plain)) = Self::pass(walk, json, Passed::Key) {
                            self.passed_key(walk, json, at, end, is_plain);
                        }
                    }
                    _ => break true,
                }
            } else {
                break true;
            }
            if work(walk.at, keys) >= allowance {
                break false;
            }
        };
        self.worked += work(walk.at.min(json.len()), keys);
        if is_over {
            walk.open.clear();
        }
        is_over
    }

    /// Enters the value at the walk's place, or skips it.
    #[inline]
    fn enter(&mut self, walk: &mut Walk, json: &[u8], child: Option<u32>) {
        let at = walk.at;
        match child {
            Some(child)
                if self.nodes[child as usize].children > 0 && container(json, child, at).is_some() =>
            {
                // A container's end is set when the walk leaves it.
                self.record(child, at, json.len());
                walk.open.extend(container(json, child, at));
                walk.at += 1;
            }
            child => {
                if let Some((end, _)) = Self::pass(walk, json, Passed::Value(child)) {
                    self.passed_value(walk, child, at, end);
                }
            }
        }
    }

    /// Returns the end of the part that begins at the walk's place, and whether it has no escape. Returns `None` if the
    /// part is longer than a step: then it is skipped step by step. Always inlined, because the kind is known at each
    /// call: calls were a quarter of a small payload's walk.
    #[inline(always)]
    fn pass(walk: &mut Walk, json: &[u8], passed: Passed) -> Option<(usize, bool)> {
        let at = walk.at;
        // Cuts the text at the step's end, where every search then ends.
        let step = &json[..json.len().min(at.saturating_add(STEP_BYTES))];
        let (end, has_escape) = match passed {
            Passed::Key => string_span(step, at),
            Passed::Value(_) => (value_end(step, at), false),
            Passed::Rest => (container_end(step, at), false),
        };
        if end < step.len() || step.len() == json.len() {
            return Some((end, !has_escape));
        }
        let depth = usize::from(matches!(passed, Passed::Rest));
        walk.long = Some(LongPart { passed, start: at, depth, in_text: false, is_plain: true });
        None
    }

    /// Skips the next step of a long part.
    fn pass_long(&mut self, walk: &mut Walk, json: &[u8]) {
        let Some(mut part) = walk.long.take() else { return };
        // A byte takes longer here than in `pass`.
        let step = json.len().min(walk.at.saturating_add(STEP_BYTES / 4));
        while walk.at < step {
            let byte = json[walk.at];
            match byte {
                b'"' if part.in_text => part.in_text = false,
                b'\\' if part.in_text => {
                    part.is_plain = false;
                    walk.at += 1;
                }
                _ if part.in_text => {}
                b'"' => part.in_text = true,
                b'{' | b'[' => part.depth += 1,
                b'}' | b']' if part.depth > 0 => part.depth -= 1,
                // A number ends before these.
                b',' | b':' | b'}' | b']' if part.depth == 0 => {
                    let end = walk.at;
                    return self.passed(walk, json, &part, end);
                }
                _ => {}
            }
            walk.at += 1;
            if part.depth == 0 && !part.in_text && matches!(byte, b'}' | b']' | b'"') {
                let end = walk.at;
                return self.passed(walk, json, &part, end);
            }
        }
        walk.at = walk.at.min(json.len());
        if walk.at < json.len() {
            walk.long = Some(part);
        } else {
            self.passed(walk, json, &part, json.len());
        }
    }

    /// Continues after a long part.
    fn passed(&mut self, walk: &mut Walk, json: &[u8], part: &LongPart, end: usize) {
        match part.passed {
            Passed::Rest => Self::passed_rest(walk, json, end),
            Passed::Value(child) => self.passed_value(walk, child, part.start, end),
            Passed::Key => self.passed_key(walk, json, part.start, end, part.is_plain),
        }
    }

    fn passed_rest(walk: &mut Walk, json: &[u8], end: usize) {
        // Text that is not JSON may end there.
        walk.at = if json.get(end - 1) == Some(&b']') { end - 1 } else { json.len() };
    }

    #[inline]
    fn passed_value(&mut self, walk: &mut Walk, child: Option<u32>, start: usize, end: usize) {
        if let Some(child) = child {
            self.record(child, start, end);
        }
        walk.at = end;
    }

    #[inline]
    fn passed_key(&mut self, walk: &mut Walk, json: &[u8], start: usize, end: usize, is_plain: bool) {
        // After the colon.
        walk.at = end + 1;
        let raw = json.get(start + 1..end.saturating_sub(1)).unwrap_or_default();
        let node = walk.open.last().map_or(ROOT, |open| open.node);
        let child = if is_plain {
            self.child(node, raw)
        } else if raw.len() > self.longest_key * ESCAPE_BYTES_MAX {
            None
        } else {
            let mut key = std::mem::take(&mut self.key);
            key.clear();
            unescape(raw, &mut key);
            let child = self.child(node, &key);
            self.key = key;
            child
        };
        self.enter(walk, json, child);
    }

    /// Reads the values of the fields that were found and have conditions. Returns false if it stopped when `worked` reached
    /// `until`, after at least one.
    fn take_values(&mut self, json: &[u8], until: u64) -> bool {
        while self.walk.taken < self.found.len() {
            let id = self.found[self.walk.taken];
            self.walk.taken += 1;
            let node = &self.nodes[id as usize];
            let above = &self.nodes[node.parent as usize];
            // A value inside an earlier value of a repeated key does not count: the last one does.
            let is_inside =
                id == ROOT || (above.place != NOWHERE && (above.start..above.end).contains(&node.start));
            if is_inside {
                let (start, end) = (node.start, node.end);
                let before = self.texts.len();
                self.nodes[id as usize].place = self.values.len() as u32;
                let has_condition = self.nodes[id as usize].holders > 0;
                let scalar = if has_condition { self.keep(json, start, end) } else { StoredScalar::Other };
                self.values.push(Value { node: id, scalar });
                self.worked += 200 + (self.texts.len() - before) as u64 * 15;
            }
            if self.worked >= until && self.walk.taken < self.found.len() {
                return false;
            }
        }
        true
    }

    fn keep(&mut self, json: &[u8], start: usize, end: usize) -> StoredScalar {
        match Scalar::read(json.get(start..end).unwrap_or_default()) {
            Scalar::Null => StoredScalar::Null,
            Scalar::Bool(value) => StoredScalar::Bool(value),
            Scalar::Number { integer, float } => StoredScalar::Number { integer, float },
            Scalar::Text(raw) => {
                // Keeps only as much as decides every comparison.
                let most = self.longest_text + 1;
                let raw = &raw[..raw.len().min(most.saturating_mul(ESCAPE_BYTES_MAX * 2))];
                if !raw.contains(&b'\\') {
                    return StoredScalar::Raw { start: start + 1, end: start + 1 + raw.len().min(most) };
                }
                let begin = self.texts.len();
                unescape(raw, &mut self.texts);
                self.texts.truncate(begin + most);
                StoredScalar::Unescaped { start: begin, end: self.texts.len() }
            }
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

    /// Returns the approximate number of instructions of all walks so far.
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
            + self.walk.open.capacity() * size_of::<OpenContainer>()
    }
}

/// Returns the container that begins at this place, as one of this node.
fn container(json: &[u8], node: u32, at: usize) -> Option<OpenContainer> {
    match json.get(at) {
        Some(b'{') => Some(OpenContainer { node, index: None }),
        Some(b'[') => Some(OpenContainer { node, index: Some(0) }),
        _ => None,
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
    use crate::event::json_path::find;

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
        // In even turns the payload is read as a whole, in odd ones in the smallest steps.
        if turn.is_multiple_of(2) {
            assert!(fields.read(json, turn, u64::MAX));
        } else {
            while !fields.read(json, turn, 1) {}
        }
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
    fn one_walk_finds_the_values_that_a_search_for_each_path_finds() {
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
            check(&mut fields, &ids, json, 2 * turn as u32 + 1);
            check(&mut fields, &ids, json, 2 * turn as u32 + 2);
        }
        for id in ids {
            fields.release(id);
        }
        assert_eq!((fields.len(), fields.key_bytes, fields.children.len()), (0, 0, 0));
    }

    #[test]
    fn parts_longer_than_a_step_are_passed_over() {
        let (mut fields, ids) = fields();
        let (text, escaped) = ("x,:]}".repeat(STEP_BYTES), r#"\"\\\u0061]}"#.repeat(STEP_BYTES));
        let digits = "1".repeat(3 * STEP_BYTES);
        let nested = r#"{"a":["]",{}]},"#.repeat(STEP_BYTES / 4);
        for (turn, json) in [
            format!(r#"{{"x":"{text}","a":{{"b":1}}}}"#),
            format!(r#"{{"a":"{text}","b":{{"a":"{escaped}"}},"c":3}}"#),
            format!(r#"{{"{text}":1,"{escaped}":{{"a":2}},"c":3}}"#),
            format!(r#"{{"a":{digits},"b":[{digits}],"c":-{digits}}}"#),
            format!(r#"{{"x":[{nested}1],"a":[{nested}{nested}2],"c":{{"x":[{nested}4]}}}}"#),
            format!(r#"{{"a":"{escaped}"#),
            format!(r#"{{"a":"{text}\"#),
            format!(r#"{{"a":{digits}"#),
        ]
        .iter()
        .enumerate()
        {
            check(&mut fields, &ids, json, 2 * turn as u32 + 1);
            check(&mut fields, &ids, json, 2 * turn as u32 + 2);
        }
    }

    #[test]
    fn a_step_takes_a_bounded_part_of_the_payload() {
        let (mut fields, _) = fields();
        let json = format!(r#"{{"x":"{}","a":[{}1]}}"#, "x".repeat(1 << 20), "[{}],".repeat(1 << 18));
        let (mut steps, mut before) = (0, fields.worked());
        while !fields.read(&json, 1, 100_000) {
            steps += 1;
            assert!(fields.worked() - before < 600_000, "step {steps}");
            before = fields.worked();
        }
        assert!(steps > 20, "{steps}");
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
            while !fields.read(json, turn as u32 + 1, 1) {}
        }
    }

    #[test]
    fn indices_are_written_in_decimal_as_keys() {
        for number in [0, 9, 10, 123_456_789, usize::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
