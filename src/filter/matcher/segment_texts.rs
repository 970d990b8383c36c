//! Texts of the patterns' literal segments, as numbers.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Number of a text that no pattern has. The two numbers above it are the automaton's.
pub(super) const UNKNOWN: u32 = u32::MAX - 2;

#[derive(Debug)]
struct SegmentText {
    id: u32,
    holders: u32,
    text: Box<[u8]>,
}

/// Table of texts, each with the number of nodes that hold it.
#[derive(Debug, Default)]
pub(super) struct SegmentTexts {
    table: HashTable<SegmentText>,
    free: Vec<u32>,
    next: u32,
    text_bytes: usize,
    hasher: RandomState,
}

impl SegmentTexts {
    /// Returns the number of a text, or [`UNKNOWN`].
    pub(super) fn find(&self, text: &[u8]) -> u32 {
        self.table
            .find(self.hasher.hash_one(text), |known| *known.text == *text)
            .map_or(UNKNOWN, |known| known.id)
    }

    /// Adds a holder of a text and returns its number.
    pub(super) fn acquire(&mut self, text: &[u8]) -> u32 {
        let Self { table, hasher, .. } = self;
        let entry = table.entry(
            hasher.hash_one(text),
            |known| *known.text == *text,
            |known| hasher.hash_one(&*known.text),
        );
        match entry {
            Entry::Occupied(mut entry) => {
                entry.get_mut().holders += 1;
                entry.get().id
            }
            Entry::Vacant(entry) => {
                let id = self.free.pop().unwrap_or_else(|| {
                    self.next += 1;
                    self.next - 1
                });
                self.text_bytes += text.len();
                entry.insert(SegmentText { id, holders: 1, text: text.into() });
                id
            }
        }
    }

    /// Removes a holder of a text. The last holder's removal removes the text, and its number may be reused.
    pub(super) fn release(&mut self, text: &[u8]) {
        let hash = self.hasher.hash_one(text);
        let Ok(mut entry) = self.table.find_entry(hash, |known| *known.text == *text) else { return };
        entry.get_mut().holders -= 1;
        if entry.get().holders == 0 {
            let (gone, _) = entry.remove();
            self.text_bytes -= text.len();
            self.free.push(gone.id);
        }
    }

    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        (self.table.capacity() - self.table.len()) * size_of::<SegmentText>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.allocation_size() + self.text_bytes + self.free.capacity() * size_of::<u32>()
    }
}
