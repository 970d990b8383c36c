//! Cache of the patterns that a value matches, for values that recur.
//!
//! Direct-mapped and bounded. Each fill of a slot draws a new serial number, so a serial stands for one list of patterns
//! forever. The memo uses serials in its keys.

use smallvec::SmallVec;

use super::automaton::Automaton;

const SLOTS_MIN: usize = 256;
const SLOTS_MAX: usize = 16 * 1024;
/// Maximum length of a kept list. With the limit on values it bounds the cache to 32 MB.
const PATTERNS_MAX: usize = 256;

#[derive(Debug, Default)]
struct CachedValue {
    hash: u32,
    serial: u32,
    attribute: u8,
    /// Generation of the automaton plus one; 0 in a slot that was never filled.
    generation: u64,
    text: SmallVec<[u8; 24]>,
    patterns: SmallVec<[u32; 4]>,
}

#[derive(Debug, Default)]
pub(super) struct ValueCache {
    slots: Vec<CachedValue>,
    next_serial: u32,
    /// Number of values that replaced another one since the slots were made.
    evicted: usize,
    /// List that is too long to keep.
    long: Vec<u32>,
}

/// Place and serial of a value's pattern list.
#[derive(Clone, Copy, Debug)]
pub(super) struct CachedList {
    slot: Option<usize>,
    /// Serial of the list; `None` if it is not kept.
    pub(super) serial: Option<u32>,
}

impl ValueCache {
    /// Returns the patterns of `attribute` that match `value`, ascending, and whether serials have restarted. Returns `None`
    /// if that takes a walk over more than `visits_max` nodes.
    pub(super) fn find(
        &mut self,
        automaton: &mut Automaton,
        attribute: usize,
        hash: u32,
        value: &[u8],
        visits_max: u64,
    ) -> Option<(CachedList, bool)> {
        if self.slots.is_empty() || (self.evicted > self.slots.len() && self.slots.len() < SLOTS_MAX) {
            let slots = (self.slots.len() * 4).max(SLOTS_MIN);
            self.slots.clear();
            self.slots.resize_with(slots, CachedValue::default);
            self.evicted = 0;
        }
        let generation = automaton.generation(attribute) + 1;
        // The low bits of the hash, rotated by the attribute.
        let at = (hash.rotate_left(attribute as u32 * 4) as usize) & (self.slots.len() - 1);
        let slot = &mut self.slots[at];
        if slot.hash == hash
            && slot.generation == generation
            && usize::from(slot.attribute) == attribute
            && slot.text.as_slice() == value
        {
            return Some((CachedList { slot: Some(at), serial: Some(slot.serial) }, false));
        }
        self.long.clear();
        if !automaton.walk(attribute, value, visits_max, &mut self.long) {
            return None;
        }
        self.long.sort_unstable();
        if self.long.len() > PATTERNS_MAX {
            return Some((CachedList { slot: None, serial: None }, false));
        }
        self.next_serial += 1;
        // Serials stay below `NONE`, also with the highest bit set, as in the keys of the memo.
        let restarted = self.next_serial >= u32::MAX >> 1;
        if restarted {
            self.next_serial = 1;
        }
        self.evicted += usize::from(slot.generation == generation);
        slot.hash = hash;
        slot.serial = self.next_serial;
        slot.attribute = attribute as u8;
        slot.generation = generation;
        slot.text.clear();
        slot.text.extend_from_slice(value);
        slot.patterns.clear();
        slot.patterns.extend_from_slice(&self.long);
        Some((CachedList { slot: Some(at), serial: Some(slot.serial) }, restarted))
    }

    /// Returns the patterns of the last list found, or of one in a slot.
    pub(super) fn patterns(&self, found: CachedList) -> &[u32] {
        match found.slot {
            Some(at) => &self.slots[at].patterns,
            None => &self.long,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let spilled = |slot: &CachedValue| {
            let text = if slot.text.spilled() { slot.text.capacity() } else { 0 };
            let patterns = if slot.patterns.spilled() { slot.patterns.capacity() * 4 } else { 0 };
            text + patterns
        };
        self.slots.capacity() * size_of::<CachedValue>()
            + self.slots.iter().map(spilled).sum::<usize>()
            + self.long.capacity() * size_of::<u32>()
    }
}
