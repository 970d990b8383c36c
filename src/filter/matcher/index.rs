//! Finds the postings for an event by its values and patterns.
//!
//! A filter has one *path* for each combination of its sets' members: the exact values (a tuple of symbols, one for
//! each attribute of the path's *shape*) and then the patterns, ascending. Each shape of several attributes in use has one
//! hash table of tuples. A tuple of one symbol is a place in a vector, because symbols are numbered without gaps, and each
//! belongs to one attribute. A tuple leads to one posting, or to a node with several postings and with edges for further
//! patterns. An event costs one look-up for each shape with attributes that it has, and then its matches.
//!
//! Always:
//! - A node has at least two postings or an edge.
//! - A posting is found until it is removed. A removal leaves nothing behind.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use smallvec::SmallVec;

use super::flat::{Flat, FlatEntry};
use super::posting::Posting;
use super::posting_list::PostingList;
use super::symbols::NONE;
use crate::event::Attribute;

/// One symbol for each attribute, or [`NONE`].
pub(super) type Symbols8 = [u32; Attribute::COUNT];

/// Target of a tuple or an edge, in 32 bits: nothing, a posting or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexRef(u32);

/// [`IndexRef`], taken apart.
enum IndexRefKind {
    Posting(Posting),
    Node(u32),
}

const NODE: u32 = 1 << 31;

impl IndexRef {
    const NOTHING: Self = Self(u32::MAX);

    fn posting(posting: Posting) -> Self {
        Self(posting.to_bits())
    }

    fn node(node: u32) -> Self {
        Self(node | NODE)
    }

    /// Returns the posting or the node. Not for [`Self::NOTHING`].
    fn kind(self) -> IndexRefKind {
        if self.0 & NODE == 0 {
            IndexRefKind::Posting(Posting::from_bits(self.0))
        } else {
            IndexRefKind::Node(self.0 & !NODE)
        }
    }

    /// Returns what the reference leads to, or `None` for [`Self::NOTHING`].
    fn get(self) -> Option<IndexRefKind> {
        (self != Self::NOTHING).then(|| self.kind())
    }
}

/// Place of a posting in the index.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) symbols: Symbols8,
    /// Numbers of patterns, ascending, without repetition.
    pub(super) patterns: SmallVec<[u32; 2]>,
}

impl Path {
    fn shape(&self) -> u8 {
        shape_of(&self.symbols)
    }
}

/// Returns the attributes that have a symbol, as bits.
pub(super) fn shape_of(symbols: &Symbols8) -> u8 {
    symbols.iter().enumerate().fold(0, |mask, (nth, &symbol)| mask | u8::from(symbol != NONE) << nth)
}

fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().hash_one(1u8) | 1)
}

/// Mixes small numbers. The multiplier is drawn once for each process, so that an outsider can't choose numbers that
/// collide.
fn mix(numbers: impl IntoIterator<Item = u32>) -> u64 {
    let seed = seed();
    let mut hash = seed >> 7;
    for number in numbers {
        let product = u128::from(hash ^ u64::from(number)) * u128::from(seed);
        hash = (product as u64) ^ (product >> 64) as u64;
    }
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Table of one shape, regardless of its width.
trait Tuples: std::fmt::Debug + Send {
    fn get(&self, symbols: &Symbols8) -> IndexRef;
    fn set(&mut self, symbols: &Symbols8, to: IndexRef);
    fn clear(&mut self, symbols: &Symbols8);
    fn is_empty(&self) -> bool;
    fn memory_bytes(&self) -> usize;
}

#[derive(Debug)]
struct Tuple<const K: usize> {
    symbols: [u32; K],
    to: IndexRef,
}

impl<const K: usize> Default for Tuple<K> {
    fn default() -> Self {
        Self { symbols: [0; K], to: IndexRef::NOTHING }
    }
}

impl<const K: usize> FlatEntry for Tuple<K> {
    fn is_vacant(&self) -> bool {
        self.to == IndexRef::NOTHING
    }

    fn hash(&self) -> u64 {
        mix(self.symbols)
    }
}

#[derive(Debug)]
struct ShapeTable<const K: usize> {
    columns: [u8; K],
    table: Flat<Tuple<K>>,
}

impl<const K: usize> ShapeTable<K> {
    fn new(mask: u8) -> Self {
        let mut columns = [0; K];
        let set = (0..Attribute::COUNT as u8).filter(|bit| mask & (1 << bit) != 0);
        for (column, bit) in columns.iter_mut().zip(set) {
            *column = bit;
        }
        Self { columns, table: Flat::default() }
    }

    fn key(&self, symbols: &Symbols8) -> [u32; K] {
        self.columns.map(|column| symbols[usize::from(column)])
    }
}

impl<const K: usize> Tuples for ShapeTable<K> {
    fn get(&self, symbols: &Symbols8) -> IndexRef {
        let key = self.key(symbols);
        self.table.find(mix(key), |tuple| tuple.symbols == key).map_or(IndexRef::NOTHING, |tuple| tuple.to)
    }

    fn set(&mut self, symbols: &Symbols8, to: IndexRef) {
        let key = self.key(symbols);
        match self.table.find_mut(mix(key), |tuple| tuple.symbols == key) {
            Some(tuple) => tuple.to = to,
            None => self.table.insert(Tuple { symbols: key, to }),
        }
    }

    fn clear(&mut self, symbols: &Symbols8) {
        let key = self.key(symbols);
        self.table.remove(mix(key), |tuple| tuple.symbols == key);
    }

    fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.table.memory_bytes()
    }
}

/// Tuples of one symbol, of all shapes with one attribute.
#[derive(Debug, Default)]
struct Singles {
    /// Targets by the symbols' numbers without their attributes.
    table: Vec<IndexRef>,
    /// Number of targets of each attribute.
    counts: [u32; Attribute::COUNT],
}

impl Singles {
    /// Returns the only symbol of a tuple.
    fn symbol_of(path: &Path) -> Option<u32> {
        let shape = path.shape();
        shape.is_power_of_two().then(|| path.symbols[shape.trailing_zeros() as usize])
    }

    fn place(symbol: u32) -> usize {
        (symbol >> 3) as usize
    }

    fn get(&self, symbol: u32) -> IndexRef {
        self.table.get(Self::place(symbol)).copied().unwrap_or(IndexRef::NOTHING)
    }

    fn set(&mut self, symbol: u32, to: IndexRef) {
        let place = Self::place(symbol);
        if place >= self.table.len() {
            self.table.resize(place + 1, IndexRef::NOTHING);
        }
        let before = std::mem::replace(&mut self.table[place], to);
        let count = &mut self.counts[symbol as usize & 7];
        match (before == IndexRef::NOTHING, to == IndexRef::NOTHING) {
            (true, false) => *count += 1,
            (false, true) => *count -= 1,
            _ => {}
        }
        if self.counts == [0; Attribute::COUNT] {
            self.table = Vec::new();
        }
    }

    fn shapes(&self) -> usize {
        self.counts.iter().filter(|count| **count > 0).count()
    }
}

fn table(mask: u8) -> Box<dyn Tuples> {
    match mask.count_ones() {
        0 => Box::new(ShapeTable::<0>::new(mask)),
        2 => Box::new(ShapeTable::<2>::new(mask)),
        3 => Box::new(ShapeTable::<3>::new(mask)),
        4 => Box::new(ShapeTable::<4>::new(mask)),
        5 => Box::new(ShapeTable::<5>::new(mask)),
        6 => Box::new(ShapeTable::<6>::new(mask)),
        7 => Box::new(ShapeTable::<7>::new(mask)),
        _ => Box::new(ShapeTable::<8>::new(mask)),
    }
}

#[derive(Debug, Default)]
struct IndexNode {
    postings: PostingList,
    /// Patterns of the edges from this node.
    patterns: Vec<u32>,
}

#[derive(Debug)]
struct PatternEdge {
    node: u32,
    pattern: u32,
    to: IndexRef,
    /// Index of the pattern in the node's list.
    place: u32,
}

impl Default for PatternEdge {
    fn default() -> Self {
        Self { node: 0, pattern: 0, to: IndexRef::NOTHING, place: 0 }
    }
}

impl FlatEntry for PatternEdge {
    fn is_vacant(&self) -> bool {
        self.to == IndexRef::NOTHING
    }

    fn hash(&self) -> u64 {
        mix([self.node, self.pattern])
    }
}

impl PatternEdge {
    fn is(&self, node: u32, pattern: u32) -> bool {
        self.node == node && self.pattern == pattern
    }
}

/// Place of an [`IndexRef`].
#[derive(Clone, Copy)]
enum Location {
    Tuple,
    Edge(u32, u32),
}

#[derive(Debug, Default)]
pub(super) struct Index {
    singles: Singles,
    /// Tables of the shapes in use that have not exactly one attribute.
    shapes: Vec<(u8, Box<dyn Tuples>)>,
    nodes: Vec<IndexNode>,
    free: Vec<u32>,
    edges: Flat<PatternEdge>,
}

impl Index {
    fn table(&self, mask: u8) -> Option<&dyn Tuples> {
        self.shapes.iter().find(|shape| shape.0 == mask).map(|shape| &*shape.1)
    }

    fn edge(&self, node: u32, pattern: u32) -> Option<&PatternEdge> {
        self.edges.find(mix([node, pattern]), |edge| edge.is(node, pattern))
    }

    fn get(&self, place: Location, path: &Path) -> IndexRef {
        match place {
            Location::Tuple => match Singles::symbol_of(path) {
                Some(symbol) => self.singles.get(symbol),
                None => self.table(path.shape()).map_or(IndexRef::NOTHING, |table| table.get(&path.symbols)),
            },
            Location::Edge(node, pattern) => {
                self.edge(node, pattern).map_or(IndexRef::NOTHING, |edge| edge.to)
            }
        }
    }

    fn set(&mut self, place: Location, path: &Path, to: IndexRef) {
        match place {
            Location::Tuple => {
                if let Some(symbol) = Singles::symbol_of(path) {
                    return self.singles.set(symbol, to);
                }
                let mask = path.shape();
                let nth = self.shapes.iter().position(|shape| shape.0 == mask).unwrap_or_else(|| {
                    self.shapes.push((mask, table(mask)));
                    self.shapes.len() - 1
                });
                self.shapes[nth].1.set(&path.symbols, to);
            }
            Location::Edge(node, pattern) => {
                match self.edges.find_mut(mix([node, pattern]), |edge| edge.is(node, pattern)) {
                    Some(edge) => edge.to = to,
                    None => {
                        let patterns = &mut self.nodes[node as usize].patterns;
                        self.edges.insert(PatternEdge { node, pattern, to, place: patterns.len() as u32 });
                        patterns.push(pattern);
                    }
                }
            }
        }
    }

    fn clear(&mut self, place: Location, path: &Path) {
        match place {
            Location::Tuple => {
                if let Some(symbol) = Singles::symbol_of(path) {
                    return self.singles.set(symbol, IndexRef::NOTHING);
                }
                let mask = path.shape();
                if let Some(nth) = self.shapes.iter().position(|shape| shape.0 == mask) {
                    self.shapes[nth].1.clear(&path.symbols);
                    if self.shapes[nth].1.is_empty() {
                        self.shapes.swap_remove(nth);
                    }
                }
            }
            Location::Edge(node, pattern) => {
                let removed = self.edges.remove(mix([node, pattern]), |edge| edge.is(node, pattern));
                let Some(edge) = removed else { return };
                let patterns = &mut self.nodes[node as usize].patterns;
                patterns.swap_remove(edge.place as usize);
                if let Some(&moved) = patterns.get(edge.place as usize)
                    && let Some(moved) = self.edges.find_mut(mix([node, moved]), |edge| edge.is(node, moved))
                {
                    moved.place = edge.place;
                }
                if patterns.is_empty() {
                    // A node with postings only keeps no list.
                    self.nodes[node as usize].patterns = Vec::new();
                }
            }
        }
    }

    /// Returns the node at a place. If there is none, makes one around the posting that is there.
    fn node(&mut self, place: Location, path: &Path) -> u32 {
        let mut fresh = IndexNode::default();
        match self.get(place, path).get() {
            Some(IndexRefKind::Node(node)) => return node,
            Some(IndexRefKind::Posting(posting)) => fresh.postings.insert(posting),
            None => {}
        }
        let node = match self.free.pop() {
            Some(free) => {
                self.nodes[free as usize] = fresh;
                free
            }
            None => {
                self.nodes.push(fresh);
                self.nodes.len() as u32 - 1
            }
        };
        self.set(place, path, IndexRef::node(node));
        node
    }

    /// Adds a posting at a path. It must not be there yet.
    pub(super) fn insert(&mut self, path: &Path, posting: Posting) {
        let mut place = Location::Tuple;
        for &pattern in &path.patterns {
            place = Location::Edge(self.node(place, path), pattern);
        }
        if self.get(place, path) == IndexRef::NOTHING {
            self.set(place, path, IndexRef::posting(posting));
        } else {
            let node = self.node(place, path);
            self.nodes[node as usize].postings.insert(posting);
        }
    }

    /// Removes a posting from a path, and every node that only it needed.
    pub(super) fn remove(&mut self, path: &Path, posting: Posting) {
        let mut places: SmallVec<[Location; 4]> = SmallVec::from_slice(&[Location::Tuple]);
        for &pattern in &path.patterns {
            let Some(IndexRefKind::Node(node)) = self.get(places[places.len() - 1], path).get() else {
                return;
            };
            places.push(Location::Edge(node, pattern));
        }
        let mut last = true;
        while let Some(place) = places.pop() {
            match self.get(place, path).get() {
                None => return,
                Some(IndexRefKind::Posting(found)) => {
                    if last && found == posting {
                        self.clear(place, path);
                    }
                }
                Some(IndexRefKind::Node(number)) => {
                    let node = &mut self.nodes[number as usize];
                    if last {
                        node.postings.remove(posting);
                    }
                    if !node.patterns.is_empty() || node.postings.has_several() {
                        return;
                    }
                    let left = node.postings.first();
                    *node = IndexNode::default();
                    self.free.push(number);
                    match left {
                        Some(posting) => self.set(place, path, IndexRef::posting(posting)),
                        None => self.clear(place, path),
                    }
                }
            }
            last = false;
        }
    }

    /// Appends the postings at the paths that these symbols and patterns (ascending) satisfy. A posting with several paths may
    /// come several times.
    pub(super) fn find(&self, symbols: &Symbols8, patterns: &[u32], out: &mut Vec<Posting>) {
        let known = shape_of(symbols);
        for (symbol, count) in symbols.iter().zip(&self.singles.counts) {
            if *symbol != NONE && *count > 0 {
                let to = self.singles.get(*symbol);
                if to != IndexRef::NOTHING {
                    self.visit(to, patterns, out);
                }
            }
        }
        for (mask, table) in &self.shapes {
            if mask & !known == 0 {
                let to = table.get(symbols);
                if to != IndexRef::NOTHING {
                    self.visit(to, patterns, out);
                }
            }
        }
    }

    fn visit(&self, to: IndexRef, patterns: &[u32], out: &mut Vec<Posting>) {
        let number = match to.kind() {
            IndexRefKind::Posting(posting) => return out.push(posting),
            IndexRefKind::Node(number) => number,
        };
        let node = &self.nodes[number as usize];
        node.postings.read(out);
        if node.patterns.is_empty() {
            return;
        }
        // The patterns of a path ascend, so those before this pattern cannot follow it. At most nine deep: a path has no
        // more patterns than a filter has sets in its paths.
        if node.patterns.len() < patterns.len() {
            for &pattern in &node.patterns {
                if let Ok(at) = patterns.binary_search(&pattern)
                    && let Some(edge) = self.edge(number, pattern)
                {
                    self.visit(edge.to, &patterns[at + 1..], out);
                }
            }
        } else {
            for (at, &pattern) in patterns.iter().enumerate() {
                if let Some(edge) = self.edge(number, pattern) {
                    self.visit(edge.to, &patterns[at + 1..], out);
                }
            }
        }
    }

    /// Returns the number of shapes in use.
    pub(super) fn shapes(&self) -> usize {
        self.shapes.len() + self.singles.shapes()
    }

    /// Returns the part of [`Self::memory_bytes`] that the next paths take before more is allocated.
    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        self.free.len() * size_of::<IndexNode>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let nodes: usize = self
            .nodes
            .iter()
            .map(|node| node.postings.held_bytes() + node.patterns.capacity() * size_of::<u32>())
            .sum();
        nodes
            + self.nodes.capacity() * size_of::<IndexNode>()
            + self.singles.table.capacity() * size_of::<IndexRef>()
            + self.edges.memory_bytes()
            + self.free.capacity() * size_of::<u32>()
            + self.shapes.iter().map(|shape| shape.1.memory_bytes()).sum::<usize>()
    }
}
