//! Cache of postings by the key of an event, for keys that recur.
//!
//! Direct-mapped and bounded: a slot holds the last answer that hashed to it, valid while its generation is the current
//! one. While few keys recur, most are not looked up at all, so that a memo that cannot help costs almost nothing.
//!
//! Always: a hit is an equal key under an equal generation.

use smallvec::SmallVec;

use super::posting::Posting;

/// The properties of an event that the index looks at: for each attribute a symbol, a set of patterns, or neither.
pub(super) type MemoKey = [u32; 8];

const SLOTS_MIN: usize = 64;
/// Maximum number of slots: 1.2 MB.
const SLOTS_MAX: usize = 16 * 1024;
/// Maximum length of a kept answer. It bounds a memo to 16 MB.
const ANSWER_MAX: usize = 256;
/// While bypassed, one key of this many is looked up, to see whether keys recur.
const SAMPLED: u64 = 16;

#[derive(Debug, Default)]
struct MemoSlot {
    key: MemoKey,
    /// Generation of the answer; 0 in a slot that was never filled.
    generation: u64,
    postings: SmallVec<[Posting; 4]>,
}

#[derive(Debug, Default)]
pub(super) struct Memo {
    slots: Vec<MemoSlot>,
    bypassed: bool,
    /// Look-ups and hits of the current window.
    asked: u32,
    hits: u32,
}

/// Result of a look-up.
pub(super) enum Lookup<'a> {
    Hit(&'a [Posting]),
    /// No answer; [`Memo::put`] takes this number.
    Miss(u64),
    /// The answer is not to be kept.
    Bypassed,
}

fn hash(key: &MemoKey) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = 0u64;
    for pair in key.chunks_exact(2) {
        let word = u64::from(pair[0]) << 32 | u64::from(pair[1]);
        hash = (hash.rotate_left(25) ^ word).wrapping_mul(ODD);
        hash ^= hash >> 29;
    }
    hash
}

impl Memo {
    /// Looks a key up. Generations start at 1.
    pub(super) fn get(&mut self, key: &MemoKey, generation: u64) -> Lookup<'_> {
        let hash = hash(key);
        if self.bypassed && !(hash >> 40).is_multiple_of(SAMPLED) {
            return Lookup::Bypassed;
        }
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS_MIN, MemoSlot::default);
        }
        let window = if self.bypassed { self.slots.len() / 4 } else { self.slots.len() * 4 };
        if self.asked as usize >= window {
            self.review();
        }
        self.asked += 1;
        let place = self.place(hash);
        let slot = &self.slots[place];
        if slot.key == *key && slot.generation == generation {
            self.hits += 1;
            return Lookup::Hit(&self.slots[place].postings);
        }
        Lookup::Miss(hash)
    }

    /// Returns the slot of a key. Sampled keys use their share of the slots only, so that the hit rate of the sample
    /// predicts that of all keys.
    fn place(&self, hash: u64) -> usize {
        let slots = if self.bypassed { self.slots.len() / SAMPLED as usize } else { self.slots.len() };
        hash as usize & (slots.max(1) - 1)
    }

    /// Ends a window: grows while growing can help, then bypasses while few keys recur.
    fn review(&mut self) {
        let hit = |share: u32| self.hits >= self.asked / 100 * share;
        if self.slots.len() < SLOTS_MAX {
            if hit(95) {
                (self.asked, self.hits) = (0, 0);
                return;
            }
            let slots = self.slots.len() * 4;
            self.slots.clear();
            self.slots.resize_with(slots, MemoSlot::default);
        } else {
            self.bypassed = if self.bypassed { !hit(40) } else { !hit(25) };
        }
        (self.asked, self.hits) = (0, 0);
    }

    pub(super) fn put(&mut self, hash: u64, key: &MemoKey, generation: u64, postings: &[Posting]) {
        if postings.len() > ANSWER_MAX {
            return;
        }
        let place = self.place(hash);
        let slot = &mut self.slots[place];
        slot.key = *key;
        slot.generation = generation;
        slot.postings.clear();
        slot.postings.extend_from_slice(postings);
    }

    #[cfg(test)]
    pub(super) fn is_bypassed(&self) -> bool {
        self.bypassed
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let spilled =
            |slot: &MemoSlot| if slot.postings.spilled() { slot.postings.capacity() * 4 } else { 0 };
        self.slots.capacity() * size_of::<MemoSlot>() + self.slots.iter().map(spilled).sum::<usize>()
    }
}

/// Number of counters in [`Generations`].
const BUCKETS: usize = 1024;

/// Generations of the memo's answers. An answer is valid while the generations of its key's symbols have not changed.
#[derive(Debug)]
pub(super) struct Generations {
    all: u64,
    /// Counters by symbol. Several symbols share one, so a change voids a few answers too many.
    of_symbols: Box<[u64; BUCKETS]>,
}

impl Default for Generations {
    fn default() -> Self {
        Self { all: 1, of_symbols: Box::new([0; BUCKETS]) }
    }
}

impl Generations {
    /// Returns the generation that all answers share.
    pub(super) fn all(&self) -> u64 {
        self.all
    }

    pub(super) fn of(&self, symbol: u32) -> u64 {
        self.of_symbols[symbol as usize % BUCKETS]
    }

    /// Voids the answers under keys with this symbol; all answers if there is none.
    pub(super) fn advance(&mut self, symbol: Option<u32>) {
        match symbol {
            Some(symbol) => self.of_symbols[symbol as usize % BUCKETS] += 1,
            None => self.all += 1,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.of_symbols)
    }
}
