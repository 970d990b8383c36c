//! Symbols: the exact values that filters name, as numbers.
//!
//! Always:
//! - Events never add to the table.
//! - A value is removed with the last filter that names it.
//! - Two values of one attribute have the same number only if they are the same text.

use super::flat::{Flat, FlatEntry};
use crate::event::Attribute;
use crate::event::signature::value_hash;

/// Number of a value that no filter names.
pub(super) const NONE: u32 = u32::MAX;

/// Upper bound of symbols. The lowest three bits of a symbol are the attribute's number.
pub(super) const SYMBOLS_MAX: u32 = 1 << 31;

/// Maximum length of a text that is stored in the table's entry, in bytes. This saves a search one cache miss.
const INLINE: usize = 22;

#[derive(Debug)]
enum SymbolText {
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

impl SymbolText {
    fn new(text: &[u8]) -> Self {
        if text.len() > INLINE {
            return Self::Heap(text.into());
        }
        let mut bytes = [0; INLINE];
        bytes[..text.len()].copy_from_slice(text);
        Self::Inline(text.len() as u8, bytes)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline(length, bytes) => &bytes[..usize::from(*length)],
            Self::Heap(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Symbol {
    id: u32,
    holders: u32,
    text: SymbolText,
}

impl Default for Symbol {
    fn default() -> Self {
        Self { id: 0, holders: 0, text: SymbolText::Inline(0, [0; INLINE]) }
    }
}

impl FlatEntry for Symbol {
    fn is_vacant(&self) -> bool {
        self.holders == 0
    }

    fn hash(&self) -> u64 {
        text_hash(self.id as usize & 7, self.text.bytes())
    }
}

impl Symbol {
    fn is(&self, attribute: usize, text: &[u8]) -> bool {
        self.id & 7 == attribute as u32 && self.text.bytes() == text
    }
}

const _: () = assert!(size_of::<Symbol>() == 32, "two to a cache line");
const _: () = assert!(Attribute::COUNT == 8, "three bits of a symbol are the attribute");

/// Table of values that filters name, by attribute and text.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    table: Flat<Symbol>,
    /// Number of values of each attribute, and whether the empty one is among them.
    counts: [u32; Attribute::COUNT],
    absent: [bool; Attribute::COUNT],
    free: Vec<u32>,
    next: u32,
    heap_bytes: usize,
}

fn spread(attribute: usize, hash: u32) -> u64 {
    // The value's hash is random in all its bits. This only spreads it to the high bits that the table uses.
    (u64::from(hash) ^ ((attribute as u64) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn text_hash(attribute: usize, text: &[u8]) -> u64 {
    spread(attribute, value_hash(std::str::from_utf8(text).unwrap_or_default()))
}

impl Symbols {
    /// Returns whether a filter names a value of this attribute that an event with this hash may have.
    pub(super) fn may_have(&self, attribute: usize, hash: u32) -> bool {
        if hash == 0 { self.absent[attribute] } else { self.counts[attribute] > 0 }
    }

    /// Returns the number of a value with this hash, or [`NONE`].
    pub(super) fn find(&self, attribute: usize, hash: u32, text: &[u8]) -> u32 {
        self.table
            .find(spread(attribute, hash), |symbol| symbol.is(attribute, text))
            .map_or(NONE, |symbol| symbol.id)
    }

    /// Returns the number of a value that has a holder, and the number of its holders.
    pub(super) fn lookup(&self, attribute: usize, text: &[u8]) -> (u32, u32) {
        self.table
            .find(text_hash(attribute, text), |symbol| symbol.is(attribute, text))
            .map_or((NONE, 0), |symbol| (symbol.id, symbol.holders))
    }

    /// Adds a holder of a value. Returns its number, and the number of its holders.
    pub(super) fn acquire(&mut self, attribute: usize, text: &[u8]) -> (u32, u32) {
        let hash = text_hash(attribute, text);
        if let Some(symbol) = self.table.find_mut(hash, |symbol| symbol.is(attribute, text)) {
            symbol.holders += 1;
            return (symbol.id, symbol.holders);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let id = place << 3 | attribute as u32;
        debug_assert!(id < SYMBOLS_MAX, "2^28 values would fill 12 GB before this");
        let kept = SymbolText::new(text);
        if let SymbolText::Heap(bytes) = &kept {
            self.heap_bytes += bytes.len();
        }
        self.absent[attribute] |= text.is_empty();
        self.counts[attribute] += 1;
        self.table.insert(Symbol { id, holders: 1, text: kept });
        (id, 1)
    }

    /// Removes a holder of a value. Returns the value's number if it was the last one.
    pub(super) fn release(&mut self, attribute: usize, text: &[u8]) -> Option<u32> {
        let hash = text_hash(attribute, text);
        let symbol = self.table.find_mut(hash, |symbol| symbol.is(attribute, text))?;
        if symbol.holders > 1 {
            symbol.holders -= 1;
            return None;
        }
        let symbol = self.table.remove(hash, |symbol| symbol.is(attribute, text))?;
        if let SymbolText::Heap(bytes) = &symbol.text {
            self.heap_bytes -= bytes.len();
        }
        if text.is_empty() {
            self.absent[attribute] = false;
        }
        self.counts[attribute] -= 1;
        self.free.push(symbol.id >> 3);
        Some(symbol.id)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.heap_bytes + self.free.capacity() * size_of::<u32>()
    }
}
