//! All patterns as one automaton over segments: a trie of segments, walked with a set of states.
//!
//! Always:
//! - A pattern's number is the number of its node.
//! - A node is removed with the last pattern through it.
//! - One walk costs at most (segments of the value) x (nodes it can be in), and gives up beyond its limit.

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

use super::segment_texts::{SegmentTexts, UNKNOWN};
use crate::event::Attribute;
use crate::filter::pattern::{NameSegment, segments};

/// Numbers of the segments `*` and `**`. A literal segment has the number of its text.
const ONE: u32 = u32::MAX;
const MANY: u32 = u32::MAX - 1;

#[derive(Debug, Default)]
struct TrieNode {
    parent: u32,
    segment: u32,
    separator: u8,
    /// Separators before which the node has a child `*` (bits 0-3) or `**` (bits 4-7).
    wild: u8,
    /// Number of children by literal segments.
    literals: u32,
    /// Number of holders of the pattern that ends here.
    holders: u32,
    /// Step at which a walk was last at this node, and within this `**`.
    current_at: u32,
    inside_many_at: u32,
}

#[derive(Debug)]
struct Transition {
    node: u32,
    segment: u32,
    separator: u8,
    child: u32,
}

/// Trie of the patterns of all attributes.
#[derive(Debug)]
pub(super) struct Automaton {
    /// Nodes. The first ones are the roots, one for each attribute.
    nodes: Vec<TrieNode>,
    free: Vec<u32>,
    transitions: HashTable<Transition>,
    texts: SegmentTexts,
    hasher: RandomState,
    step: u32,
    /// Number of nodes visited by all walks so far: a measure of their cost.
    walked: u64,
    current: Vec<u32>,
    inside_many: Vec<u32>,
    current_next: Vec<u32>,
    inside_many_next: Vec<u32>,
    /// Number of patterns of each attribute, and of changes to them.
    counts: [u32; Attribute::COUNT],
    generations: [u64; Attribute::COUNT],
}

impl Automaton {
    pub(super) fn new() -> Self {
        Self {
            nodes: (0..Attribute::COUNT).map(|_| TrieNode::default()).collect(),
            free: Vec::new(),
            transitions: HashTable::new(),
            texts: SegmentTexts::default(),
            hasher: RandomState::default(),
            step: 0,
            walked: 0,
            current: Vec::new(),
            inside_many: Vec::new(),
            current_next: Vec::new(),
            inside_many_next: Vec::new(),
            counts: [0; Attribute::COUNT],
            generations: [0; Attribute::COUNT],
        }
    }

    /// Returns whether any filter has a pattern on this attribute.
    pub(super) fn has_patterns(&self, attribute: usize) -> bool {
        self.counts[attribute] > 0
    }

    /// Returns a number that changes whenever an attribute's patterns do.
    pub(super) fn generation(&self, attribute: usize) -> u64 {
        self.generations[attribute]
    }

    fn transition_hash(hasher: &RandomState, node: u32, separator: u8, segment: u32) -> u64 {
        hasher.hash_one(u128::from(node) << 64 | u128::from(separator) << 32 | u128::from(segment))
    }

    fn child(&self, node: u32, separator: u8, segment: u32) -> Option<u32> {
        self.transitions
            .find(Self::transition_hash(&self.hasher, node, separator, segment), |transition| {
                transition.node == node && transition.segment == segment && transition.separator == separator
            })
            .map(|transition| transition.child)
    }

    /// Returns the number of a pattern that has a holder.
    pub(super) fn lookup(&self, attribute: usize, pattern: &[u8]) -> u32 {
        let mut node = attribute as u32;
        for segment in segments(pattern) {
            let number = match segment.text {
                b"*" => ONE,
                b"**" => MANY,
                text => self.texts.find(text),
            };
            match self.child(node, segment.separator_code(), number) {
                Some(child) => node = child,
                None => return UNKNOWN,
            }
        }
        node
    }

    /// Adds a holder of a pattern and returns its number.
    pub(super) fn acquire(&mut self, attribute: usize, pattern: &[u8]) -> u32 {
        let mut node = attribute as u32;
        for segment in segments(pattern) {
            node = self.grow(node, segment);
        }
        let end = &mut self.nodes[node as usize];
        end.holders += 1;
        if end.holders == 1 {
            self.counts[attribute] += 1;
            self.generations[attribute] += 1;
        }
        node
    }

    fn grow(&mut self, node: u32, segment: NameSegment<'_>) -> u32 {
        let separator = segment.separator_code();
        let number = match segment.text {
            b"*" => ONE,
            b"**" => MANY,
            text => match self.texts.find(text) {
                UNKNOWN => self.texts.acquire(text),
                known => {
                    if let Some(child) = self.child(node, separator, known) {
                        return child;
                    }
                    self.texts.acquire(text)
                }
            },
        };
        if let Some(child) = self.child(node, separator, number) {
            return child;
        }
        let fresh = TrieNode { parent: node, segment: number, separator, ..TrieNode::default() };
        let child = match self.free.pop() {
            Some(free) => {
                self.nodes[free as usize] = fresh;
                free
            }
            None => {
                self.nodes.push(fresh);
                self.nodes.len() as u32 - 1
            }
        };
        let parent = &mut self.nodes[node as usize];
        match number {
            ONE => parent.wild |= 1 << separator,
            MANY => parent.wild |= 0x10 << separator,
            _ => parent.literals += 1,
        }
        let Self { transitions, hasher, .. } = self;
        transitions.insert_unique(
            Self::transition_hash(hasher, node, separator, number),
            Transition { node, segment: number, separator, child },
            |transition| {
                Self::transition_hash(hasher, transition.node, transition.separator, transition.segment)
            },
        );
        child
    }

    /// Removes a holder of a pattern.
    pub(super) fn release(&mut self, attribute: usize, pattern: &[u8]) {
        let mut node = self.lookup(attribute, pattern);
        if node == UNKNOWN {
            return;
        }
        let end = &mut self.nodes[node as usize];
        end.holders -= 1;
        if end.holders > 0 {
            return;
        }
        self.counts[attribute] -= 1;
        self.generations[attribute] += 1;
        // Prunes from the end, so the segments are visited in reverse order.
        let mut texts: Vec<&[u8]> = segments(pattern).map(|segment| segment.text).collect();
        while let Some(text) = texts.pop() {
            let gone = &self.nodes[node as usize];
            if gone.holders > 0 || gone.literals > 0 || gone.wild != 0 {
                return;
            }
            let (parent, separator, segment) = (gone.parent, gone.separator, gone.segment);
            let hash = Self::transition_hash(&self.hasher, parent, separator, segment);
            if let Ok(entry) = self.transitions.find_entry(hash, |transition| transition.child == node) {
                entry.remove();
            }
            self.free.push(node);
            let up = &mut self.nodes[parent as usize];
            match segment {
                ONE => up.wild &= !(1 << separator),
                MANY => up.wild &= !(0x10 << separator),
                _ => {
                    up.literals -= 1;
                    self.texts.release(text);
                }
            }
            node = parent;
        }
    }

    /// Appends the numbers of all patterns of an attribute that match a value. The value must not be empty. Returns false if
    /// it gave up after about `visits_max` nodes.
    #[must_use]
    pub(super) fn walk(
        &mut self,
        attribute: usize,
        value: &[u8],
        visits_max: u64,
        out: &mut Vec<u32>,
    ) -> bool {
        let root = attribute as u32;
        let walked_max = self.walked.saturating_add(visits_max);
        self.next_step();
        self.current.clear();
        self.inside_many.clear();
        self.current.push(root);
        self.skip_empty_many();
        let mut first = true;
        for segment in segments(value) {
            if self.current.is_empty() && self.inside_many.is_empty() {
                return true;
            }
            if self.walked >= walked_max {
                return false;
            }
            let number = self.texts.find(segment.text);
            let separator = segment.separator_code();
            self.next_step();
            self.walked += 1 + (self.current.len() + self.inside_many.len()) as u64;
            for place in 0..self.current.len() {
                let node = self.current[place];
                if first && node != root {
                    // After a leading `**` that matched nothing, any separator may be dropped.
                    for separator in 1..4 {
                        self.follow(node, separator, number);
                    }
                } else {
                    self.follow(node, separator, number);
                }
            }
            for place in 0..self.inside_many.len() {
                self.enter_many(self.inside_many[place]);
            }
            first = false;
            std::mem::swap(&mut self.current, &mut self.current_next);
            std::mem::swap(&mut self.inside_many, &mut self.inside_many_next);
            self.current_next.clear();
            self.inside_many_next.clear();
            // A `**` may also end here.
            for place in 0..self.inside_many.len() {
                self.add_current(self.inside_many[place]);
            }
            self.skip_empty_many();
        }
        out.extend(self.current.iter().copied().filter(|&node| self.nodes[node as usize].holders > 0));
        true
    }

    fn next_step(&mut self) {
        self.step = self.step.wrapping_add(1);
        if self.step == 0 {
            self.step = 1;
            for node in &mut self.nodes {
                (node.current_at, node.inside_many_at) = (0, 0);
            }
        }
    }

    /// Follows the transitions from a node over one segment of the value.
    fn follow(&mut self, node: u32, separator: u8, number: u32) {
        let TrieNode { wild, literals, .. } = self.nodes[node as usize];
        if literals > 0
            && number != UNKNOWN
            && let Some(child) = self.child(node, separator, number)
        {
            self.current_next.push(child);
        }
        if wild & (1 << separator) != 0
            && let Some(child) = self.child(node, separator, ONE)
        {
            self.current_next.push(child);
        }
        if wild & (0x10 << separator) != 0
            && let Some(child) = self.child(node, separator, MANY)
        {
            self.enter_many(child);
        }
    }

    fn enter_many(&mut self, node: u32) {
        let many = &mut self.nodes[node as usize];
        if many.inside_many_at != self.step {
            many.inside_many_at = self.step;
            self.inside_many_next.push(node);
        }
    }

    fn add_current(&mut self, node: u32) {
        let here = &mut self.nodes[node as usize];
        if here.current_at != self.step {
            here.current_at = self.step;
            self.current.push(node);
        }
    }

    /// Follows each `**` that matches nothing.
    fn skip_empty_many(&mut self) {
        let mut place = 0;
        while let Some(&node) = self.current.get(place) {
            let wild = self.nodes[node as usize].wild;
            for separator in 0..4 {
                if wild & (0x10 << separator) != 0
                    && let Some(child) = self.child(node, separator, MANY)
                {
                    self.add_current(child);
                }
            }
            place += 1;
        }
    }

    /// Returns the number of nodes that walks have visited so far.
    pub(super) fn nodes_visited(&self) -> u64 {
        self.walked
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Returns the part of [`Self::memory_bytes`] that the next patterns take before more is allocated.
    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        self.free.len() * size_of::<TrieNode>()
            + (self.transitions.capacity() - self.transitions.len()) * size_of::<Transition>()
            + self.texts.spare_bytes()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<TrieNode>()
            + self.transitions.allocation_size()
            + self.texts.memory_bytes()
            + (self.free.capacity()
                + self.current.capacity()
                + self.inside_many.capacity()
                + self.current_next.capacity()
                + self.inside_many_next.capacity())
                * size_of::<u32>()
    }
}
