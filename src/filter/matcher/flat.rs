//! An open-addressing hash table of small entries: one allocation, one cache line for a search.
//!
//! `hashbrown` keeps a byte of each hash apart from the entries. In tables of many megabytes that is a second cache and
//! TLB miss for each search, and these tables are searched at random.
//!
//! Linear probing. The table is at most 70% full, grows by a quarter, and shrinks when a sixth is used. A removal moves
//! later entries back, so there are no tombstones.
//!
//! Always: a search from the place of an entry's hash finds the entry before it meets a vacant slot.

/// Entry of a [`Flat`]. The default is a vacant slot.
pub(super) trait FlatEntry: Default {
    fn is_vacant(&self) -> bool;
    /// Returns a well mixed hash: its highest bits choose the slot.
    fn hash(&self) -> u64;
}

#[derive(Debug)]
pub(super) struct Flat<E> {
    slots: Vec<E>,
    len: usize,
}

impl<E> Default for Flat<E> {
    fn default() -> Self {
        Self { slots: Vec::new(), len: 0 }
    }
}

const SLOTS_MIN: usize = 8;

impl<E: FlatEntry> Flat<E> {
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    fn place(&self, hash: u64, is: impl Fn(&E) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let slot = &self.slots[at];
            if slot.is_vacant() {
                return None;
            }
            if is(slot) {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    pub(super) fn find(&self, hash: u64, is: impl Fn(&E) -> bool) -> Option<&E> {
        self.place(hash, is).map(|at| &self.slots[at])
    }

    pub(super) fn find_mut(&mut self, hash: u64, is: impl Fn(&E) -> bool) -> Option<&mut E> {
        self.place(hash, is).map(|at| &mut self.slots[at])
    }

    /// Inserts an entry that is not in the table.
    pub(super) fn insert(&mut self, entry: E) {
        if (self.len + 1) * 10 > self.slots.len() * 7 {
            self.resize((self.slots.len() + self.slots.len() / 4).max(SLOTS_MIN));
        }
        self.len += 1;
        self.settle(entry);
    }

    fn settle(&mut self, entry: E) {
        let mut at = self.home(entry.hash());
        while !self.slots[at].is_vacant() {
            at = self.next(at);
        }
        self.slots[at] = entry;
    }

    fn resize(&mut self, slots: usize) {
        let mut fresh = Vec::new();
        fresh.resize_with(slots, E::default);
        for entry in std::mem::replace(&mut self.slots, fresh) {
            if !entry.is_vacant() {
                self.settle(entry);
            }
        }
    }

    pub(super) fn remove(&mut self, hash: u64, is: impl Fn(&E) -> bool) -> Option<E> {
        let mut hole = self.place(hash, is)?;
        let removed = std::mem::take(&mut self.slots[hole]);
        self.len -= 1;
        let slots = self.slots.len();
        let mut at = self.next(hole);
        while !self.slots[at].is_vacant() {
            // The distance of an entry from its home shows whether the hole is between the two.
            let home = self.home(self.slots[at].hash());
            let from_home = (at + slots - home) % slots;
            let from_hole = (at + slots - hole) % slots;
            if from_home >= from_hole {
                self.slots.swap(hole, at);
                hole = at;
            }
            at = self.next(at);
        }
        if slots > SLOTS_MIN && self.len * 6 < slots {
            self.resize((slots / 2).max(SLOTS_MIN));
        }
        Some(removed)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<E>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Clone, Copy, PartialEq)]
    struct Number(u64);

    impl FlatEntry for Number {
        fn is_vacant(&self) -> bool {
            self.0 == 0
        }

        // Sixteen homes, so that runs are long and wrap around.
        fn hash(&self) -> u64 {
            self.0 << 60
        }
    }

    #[test]
    fn present_entries_are_found_and_removed_ones_are_not() {
        let mut table = Flat::<Number>::default();
        let mut inside = std::collections::BTreeSet::new();
        let mut word = 1u64;
        for round in 0..20_000 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = Number((word >> 33) % 300 + 1);
            let is = |other: &Number| *other == number;
            let grows = round / 2000 % 2 == 0;
            if grows && inside.insert(number.0) {
                table.insert(number);
            } else if !grows {
                assert_eq!(table.remove(number.hash(), is).is_some(), inside.remove(&number.0));
            }
            assert_eq!(table.len(), inside.len());
            let other = Number((word >> 40) % 300 + 1);
            assert_eq!(table.find(other.hash(), |n| *n == other).is_some(), inside.contains(&other.0));
        }
        for number in inside {
            assert!(table.remove(number << 60, |other| other.0 == number).is_some());
        }
        assert_eq!((table.len(), table.slots.len()), (0, SLOTS_MIN), "an empty table is small again");
    }
}
