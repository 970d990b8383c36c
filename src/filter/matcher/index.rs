//! From what an event satisfies to the classes that want it. Imports its siblings only.
//!
//! A class has one *path* for each combination of its sets' members: the exact values it names (a tuple of
//! symbols, one for each attribute of the path's *shape*) and then its patterns, ascending. A shape in use has
//! one hash table from tuples to *spots*; a spot is one class, or a node with several and with edges on to
//! further patterns. An event costs one look-up for each shape whose values it has, and then what matches.
//!
//! Always: a node has at least two classes or an edge; what was inserted is found until it is removed, and
//! leaves nothing behind then.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use smallvec::SmallVec;

use super::flat::{Entry, Flat};
use super::symbols::NONE;
use crate::event::Attribute;

/// One symbol for each attribute, or [`NONE`].
pub(super) type Symbols8 = [u32; Attribute::COUNT];

/// A class in the index. Marked ones must be looked at before they are believed: they have several paths, or
/// conditions that no path holds.
pub(super) const MARKED: u32 = 1 << 30;
const NODE: u32 = 1 << 31;
const NOWHERE: u32 = u32::MAX;

/// Where a class is, or shall be.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) symbols: Symbols8,
    /// Ascending, each once.
    pub(super) patterns: SmallVec<[u32; 2]>,
}

impl Path {
    fn shape(&self) -> u8 {
        shape_of(&self.symbols)
    }
}

/// The attributes that have a symbol, as bits.
pub(super) fn shape_of(symbols: &Symbols8) -> u8 {
    symbols.iter().enumerate().fold(0, |mask, (nth, &symbol)| mask | u8::from(symbol != NONE) << nth)
}

fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().hash_one(1u8) | 1)
}

/// Mixes small numbers so that nobody outside can choose ones that collide: the multiplier is drawn once for
/// each process.
fn mix(numbers: impl IntoIterator<Item = u32>) -> u64 {
    let seed = seed();
    let mut hash = seed >> 7;
    for number in numbers {
        let product = u128::from(hash ^ u64::from(number)) * u128::from(seed);
        hash = (product as u64) ^ (product >> 64) as u64;
    }
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// One shape's table, whatever its width.
trait Tuples: std::fmt::Debug + Send {
    fn get(&self, symbols: &Symbols8) -> u32;
    fn set(&mut self, symbols: &Symbols8, spot: u32);
    fn clear(&mut self, symbols: &Symbols8);
    fn is_empty(&self) -> bool;
    fn memory_bytes(&self) -> usize;
}

#[derive(Debug)]
struct Tuple<const K: usize> {
    symbols: [u32; K],
    spot: u32,
}

impl<const K: usize> Default for Tuple<K> {
    fn default() -> Self {
        Self { symbols: [0; K], spot: NOWHERE }
    }
}

impl<const K: usize> Entry for Tuple<K> {
    fn is_vacant(&self) -> bool {
        self.spot == NOWHERE
    }

    fn hash(&self) -> u64 {
        mix(self.symbols)
    }
}

#[derive(Debug)]
struct Table<const K: usize> {
    columns: [u8; K],
    table: Flat<Tuple<K>>,
}

impl<const K: usize> Table<K> {
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

impl<const K: usize> Tuples for Table<K> {
    fn get(&self, symbols: &Symbols8) -> u32 {
        let key = self.key(symbols);
        self.table.find(mix(key), |tuple| tuple.symbols == key).map_or(NOWHERE, |tuple| tuple.spot)
    }

    fn set(&mut self, symbols: &Symbols8, spot: u32) {
        let key = self.key(symbols);
        match self.table.find_mut(mix(key), |tuple| tuple.symbols == key) {
            Some(tuple) => tuple.spot = spot,
            None => self.table.insert(Tuple { symbols: key, spot }),
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

fn table(mask: u8) -> Box<dyn Tuples> {
    match mask.count_ones() {
        0 => Box::new(Table::<0>::new(mask)),
        1 => Box::new(Table::<1>::new(mask)),
        2 => Box::new(Table::<2>::new(mask)),
        3 => Box::new(Table::<3>::new(mask)),
        4 => Box::new(Table::<4>::new(mask)),
        5 => Box::new(Table::<5>::new(mask)),
        6 => Box::new(Table::<6>::new(mask)),
        7 => Box::new(Table::<7>::new(mask)),
        _ => Box::new(Table::<8>::new(mask)),
    }
}

#[derive(Debug, Default)]
struct Node {
    classes: SmallVec<[u32; 4]>,
    /// The patterns that edges lead on by.
    patterns: Vec<u32>,
}

#[derive(Debug)]
struct Edge {
    node: u32,
    pattern: u32,
    spot: u32,
    /// Where the pattern is in the node's list.
    place: u32,
}

impl Default for Edge {
    fn default() -> Self {
        Self { node: 0, pattern: 0, spot: NOWHERE, place: 0 }
    }
}

impl Entry for Edge {
    fn is_vacant(&self) -> bool {
        self.spot == NOWHERE
    }

    fn hash(&self) -> u64 {
        mix([self.node, self.pattern])
    }
}

impl Edge {
    fn is(&self, node: u32, pattern: u32) -> bool {
        self.node == node && self.pattern == pattern
    }
}

/// A spot's address.
#[derive(Clone, Copy)]
enum Place {
    Tuple,
    Edge(u32, u32),
}

#[derive(Debug, Default)]
pub(super) struct Index {
    shapes: Vec<(u8, Box<dyn Tuples>)>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    edges: Flat<Edge>,
}

impl Index {
    fn table(&self, mask: u8) -> Option<&dyn Tuples> {
        self.shapes.iter().find(|shape| shape.0 == mask).map(|shape| &*shape.1)
    }

    fn edge(&self, node: u32, pattern: u32) -> Option<&Edge> {
        self.edges.find(mix([node, pattern]), |edge| edge.is(node, pattern))
    }

    fn get(&self, place: Place, path: &Path) -> u32 {
        match place {
            Place::Tuple => self.table(path.shape()).map_or(NOWHERE, |table| table.get(&path.symbols)),
            Place::Edge(node, pattern) => self.edge(node, pattern).map_or(NOWHERE, |edge| edge.spot),
        }
    }

    fn set(&mut self, place: Place, path: &Path, spot: u32) {
        match place {
            Place::Tuple => {
                let mask = path.shape();
                let nth = self.shapes.iter().position(|shape| shape.0 == mask).unwrap_or_else(|| {
                    self.shapes.push((mask, table(mask)));
                    self.shapes.len() - 1
                });
                self.shapes[nth].1.set(&path.symbols, spot);
            }
            Place::Edge(node, pattern) => {
                match self.edges.find_mut(mix([node, pattern]), |edge| edge.is(node, pattern)) {
                    Some(edge) => edge.spot = spot,
                    None => {
                        let patterns = &mut self.nodes[node as usize].patterns;
                        self.edges.insert(Edge { node, pattern, spot, place: patterns.len() as u32 });
                        patterns.push(pattern);
                    }
                }
            }
        }
    }

    fn clear(&mut self, place: Place, path: &Path) {
        match place {
            Place::Tuple => {
                let mask = path.shape();
                if let Some(nth) = self.shapes.iter().position(|shape| shape.0 == mask) {
                    self.shapes[nth].1.clear(&path.symbols);
                    if self.shapes[nth].1.is_empty() {
                        self.shapes.swap_remove(nth);
                    }
                }
            }
            Place::Edge(node, pattern) => {
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
                    // A node of classes only keeps no list.
                    self.nodes[node as usize].patterns = Vec::new();
                }
            }
        }
    }

    /// The node at a place; one is made where there is none, around the class that is there.
    fn node(&mut self, place: Place, path: &Path) -> u32 {
        let spot = self.get(place, path);
        if spot != NOWHERE && spot & NODE != 0 {
            return spot & !NODE;
        }
        let mut fresh = Node::default();
        if spot != NOWHERE {
            fresh.classes.push(spot);
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
        self.set(place, path, node | NODE);
        node
    }

    /// Puts a class at a path. It must not be there yet.
    pub(super) fn insert(&mut self, path: &Path, class: u32) {
        let mut place = Place::Tuple;
        for &pattern in &path.patterns {
            place = Place::Edge(self.node(place, path), pattern);
        }
        if self.get(place, path) == NOWHERE {
            self.set(place, path, class);
        } else {
            let node = self.node(place, path);
            self.nodes[node as usize].classes.push(class);
        }
    }

    /// Takes a class from a path, and every node that it alone kept.
    pub(super) fn remove(&mut self, path: &Path, class: u32) {
        let mut places: SmallVec<[Place; 4]> = SmallVec::from_slice(&[Place::Tuple]);
        for &pattern in &path.patterns {
            let spot = self.get(places[places.len() - 1], path);
            if spot == NOWHERE || spot & NODE == 0 {
                return;
            }
            places.push(Place::Edge(spot & !NODE, pattern));
        }
        let mut last = true;
        while let Some(place) = places.pop() {
            let spot = self.get(place, path);
            if spot == NOWHERE {
                return;
            }
            if spot & NODE == 0 {
                if last && spot == class {
                    self.clear(place, path);
                }
            } else {
                let node = &mut self.nodes[(spot & !NODE) as usize];
                if last && let Some(at) = node.classes.iter().position(|&other| other == class) {
                    node.classes.swap_remove(at);
                }
                if !node.patterns.is_empty() || node.classes.len() > 1 {
                    return;
                }
                let left = node.classes.first().copied();
                *node = Node::default();
                self.free.push(spot & !NODE);
                match left {
                    Some(class) => self.set(place, path, class),
                    None => self.clear(place, path),
                }
            }
            last = false;
        }
    }

    /// Appends the classes that want an event with these symbols and patterns (ascending), marks and all; one
    /// with several paths may come several times.
    pub(super) fn find(&self, symbols: &Symbols8, patterns: &[u32], out: &mut Vec<u32>) {
        let known = shape_of(symbols);
        for (mask, table) in &self.shapes {
            if mask & !known == 0 {
                let spot = table.get(symbols);
                if spot != NOWHERE {
                    self.visit(spot, patterns, out);
                }
            }
        }
    }

    fn visit(&self, spot: u32, patterns: &[u32], out: &mut Vec<u32>) {
        if spot & NODE == 0 {
            out.push(spot);
            return;
        }
        let number = spot & !NODE;
        let node = &self.nodes[number as usize];
        out.extend_from_slice(&node.classes);
        if node.patterns.is_empty() {
            return;
        }
        // Paths ascend, so what is before a pattern cannot come after it. At most nine deep: a path has no
        // more patterns than a filter has sets in its paths.
        if node.patterns.len() < patterns.len() {
            for &pattern in &node.patterns {
                if let Ok(at) = patterns.binary_search(&pattern)
                    && let Some(edge) = self.edge(number, pattern)
                {
                    self.visit(edge.spot, &patterns[at + 1..], out);
                }
            }
        } else {
            for (at, &pattern) in patterns.iter().enumerate() {
                if let Some(edge) = self.edge(number, pattern) {
                    self.visit(edge.spot, &patterns[at + 1..], out);
                }
            }
        }
    }

    /// How many shapes are in use.
    pub(super) fn shapes(&self) -> usize {
        self.shapes.len()
    }

    /// Of [`Self::memory_bytes`], what the next paths take before more is allocated.
    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        self.free.len() * size_of::<Node>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let nodes: usize = self
            .nodes
            .iter()
            .map(|node| {
                let spilled = if node.classes.spilled() { node.classes.capacity() } else { 0 };
                (spilled + node.patterns.capacity()) * size_of::<u32>()
            })
            .sum();
        nodes
            + self.nodes.capacity() * size_of::<Node>()
            + self.edges.memory_bytes()
            + self.free.capacity() * size_of::<u32>()
            + self.shapes.iter().map(|shape| shape.1.memory_bytes()).sum::<usize>()
    }
}
