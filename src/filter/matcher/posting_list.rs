//! Lists of postings, ascending, each as its distance from the one before: a byte where a tenth of the classes is in a list.
//!
//! A symbol that a thousand clients name has a thousand postings, so a list is most of what a long filter costs. Up to four
//! postings are stored in place. More are in blocks of at most [`BLOCK_BYTES_MAX`] bytes: the first and the last
//! posting, and the distances as LEB128. An insertion or a removal rewrites a few bytes of one block.
//!
//! Always:
//! - A list ascends, without repetition, in its blocks and from block to block.
//! - No block is empty, and two neighbours do not both fit in half a block.

use smallvec::SmallVec;

use super::posting::Posting;

/// Number of postings that are stored in place.
const IN_PLACE: usize = 4;

/// Place without a posting.
const VACANT: u32 = u32::MAX;

/// Maximum length of a block: with the allocator's header 256 bytes.
const BLOCK_BYTES_MAX: usize = 248;

/// Length of the first and the last posting of a block.
const HEAD: usize = 8;

/// Step in which a block's capacity grows. The allocator's sizes have this step.
const GROWTH: usize = 16;

/// Ascending list of postings.
#[derive(Debug)]
pub(super) enum PostingList {
    /// Postings, and [`VACANT`] after them.
    Few([u32; IN_PLACE]),
    One(Block),
    #[expect(clippy::box_collection, reason = "a second vector in place would make each node larger")]
    Many(Box<Vec<Block>>),
}

/// Part of a list.
#[derive(Debug)]
pub(super) struct Block(Vec<u8>);

const _: () = assert!(size_of::<PostingList>() == 24, "each node of an index has one");

impl Default for PostingList {
    fn default() -> Self {
        Self::Few([VACANT; IN_PLACE])
    }
}

fn put_distance(mut distance: u32, out: &mut SmallVec<[u8; 16]>) {
    while distance >= 0x80 {
        out.push(distance as u8 | 0x80);
        distance >>= 7;
    }
    out.push(distance as u8);
}

/// Reads the distance at `at`. Returns it and the place after it.
#[inline]
fn distance_at(bytes: &[u8], mut at: usize) -> (u32, usize) {
    let (mut distance, mut shift) = (0u32, 0u32);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        distance |= u32::from(byte & 0x7f) << (shift & 31);
        if byte < 0x80 {
            break;
        }
        shift += 7;
    }
    (distance, at)
}

impl Block {
    /// Returns a block of these postings, of which there is at least one.
    fn of(postings: &[u32]) -> Self {
        let mut distances = SmallVec::<[u8; 16]>::new();
        for pair in postings.windows(2) {
            put_distance(pair[1] - pair[0], &mut distances);
        }
        let [first, .., last] = postings else {
            return Self::of_one(postings.first().copied().unwrap_or(VACANT));
        };
        let mut bytes = Vec::with_capacity(HEAD + distances.len());
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&last.to_le_bytes());
        bytes.extend_from_slice(&distances);
        Self(bytes)
    }

    fn of_one(posting: u32) -> Self {
        let one = posting.to_le_bytes();
        let mut bytes = Vec::with_capacity(HEAD + GROWTH);
        bytes.extend_from_slice(&one);
        bytes.extend_from_slice(&one);
        Self(bytes)
    }

    fn word(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(VACANT, u32::from_le_bytes)
    }

    fn first(&self) -> u32 {
        self.word(0)
    }

    fn last(&self) -> u32 {
        self.word(4)
    }

    fn set_word(&mut self, at: usize, posting: u32) {
        self.0[at..at + 4].copy_from_slice(&posting.to_le_bytes());
    }

    /// Appends the postings to `out`.
    fn read(&self, out: &mut Vec<Posting>) {
        let mut posting = self.first();
        out.reserve(self.0.len() + 1 - HEAD);
        out.push(Posting::from_bits(posting));
        let distances = &self.0[HEAD..];
        if distances.is_ascii() {
            // All are of one byte, the usual case: without a look at each.
            out.extend(distances.iter().map(|distance| {
                posting += u32::from(*distance);
                Posting::from_bits(posting)
            }));
            return;
        }
        let mut at = HEAD;
        while let Some(&byte) = self.0.get(at) {
            if byte < 0x80 {
                posting += u32::from(byte);
                at += 1;
            } else {
                let (distance, after) = distance_at(&self.0, at);
                posting += distance;
                at = after;
            }
            out.push(Posting::from_bits(posting));
        }
    }

    fn postings(&self) -> Vec<u32> {
        let mut out = Vec::new();
        self.read(&mut out);
        out.into_iter().map(Posting::to_bits).collect()
    }

    /// Replaces a range of bytes by distances.
    fn replace(&mut self, range: std::ops::Range<usize>, distances: &[u32]) {
        let mut fresh = SmallVec::<[u8; 16]>::new();
        for distance in distances {
            put_distance(*distance, &mut fresh);
        }
        let bytes = &mut self.0;
        let more = fresh.len().saturating_sub(range.len());
        if bytes.capacity() - bytes.len() < more {
            bytes.reserve_exact(more.max(GROWTH));
        }
        bytes.splice(range, fresh);
        if bytes.capacity() > bytes.len() + 3 * GROWTH {
            bytes.shrink_to(bytes.len() + GROWTH);
        }
    }

    /// Returns the place of the distance that leads to the first posting from `posting` on, the place after it, and the
    /// postings on both of its ends. `first < posting <= last`.
    fn find(&self, posting: u32) -> (usize, usize, u32, u32) {
        let (mut before, mut at) = (self.first(), HEAD);
        loop {
            let (distance, after) = distance_at(&self.0, at);
            if before + distance >= posting || after >= self.0.len() {
                return (at, after, before, before + distance);
            }
            (before, at) = (before + distance, after);
        }
    }

    fn insert(&mut self, posting: u32) {
        let (first, last, end) = (self.first(), self.last(), self.0.len());
        if posting > last {
            self.replace(end..end, &[posting - last]);
            self.set_word(4, posting);
        } else if posting < first {
            self.replace(HEAD..HEAD, &[first - posting]);
            self.set_word(0, posting);
        } else if posting > first {
            let (at, after, before, next) = self.find(posting);
            if next != posting {
                self.replace(at..after, &[posting - before, next - posting]);
            }
        }
    }

    /// Removes a posting. Returns whether the block is empty then.
    fn remove(&mut self, posting: u32) -> bool {
        let (first, last) = (self.first(), self.last());
        if posting < first || posting > last {
            return false;
        }
        if first == last {
            return true;
        }
        if posting == first {
            let (distance, after) = distance_at(&self.0, HEAD);
            self.replace(HEAD..after, &[]);
            self.set_word(0, first + distance);
            return false;
        }
        let (at, after, before, found) = self.find(posting);
        if found != posting {
            return false;
        }
        if posting == last {
            self.replace(at..after, &[]);
            self.set_word(4, before);
        } else {
            let (distance, end) = distance_at(&self.0, after);
            self.replace(at..end, &[posting - before + distance]);
        }
        false
    }

    /// Returns whether a posting comes after the block's last one, and the block has no room for it.
    fn ends_before(&self, posting: u32) -> bool {
        let last = self.last();
        posting > last
            && self.0.len() + (u32::BITS - (posting - last).leading_zeros()).div_ceil(7) as usize
                > BLOCK_BYTES_MAX
    }

    /// Returns the second half of a block that is longer than it may be.
    fn split(&mut self) -> Option<Self> {
        if self.0.len() <= BLOCK_BYTES_MAX {
            return None;
        }
        let all = self.postings();
        let (one, other) = all.split_at(all.len() / 2);
        *self = Self::of(one);
        Some(Self::of(other))
    }
}

impl PostingList {
    /// Adds a posting that is not in the list.
    pub(super) fn insert(&mut self, posting: Posting) {
        let posting = posting.to_bits();
        match self {
            Self::Few(few) => {
                let at = few.partition_point(|other| *other < posting);
                if few.get(at) == Some(&posting) {
                    return;
                }
                if few[IN_PLACE - 1] == VACANT {
                    few.copy_within(at..IN_PLACE - 1, at + 1);
                    few[at] = posting;
                } else {
                    let mut block = Block::of(few);
                    block.insert(posting);
                    *self = Self::One(block);
                }
            }
            Self::One(block) => {
                // Classes are numbered upwards, so most insertions are at the end. There a block stays full.
                if block.ends_before(posting) {
                    let full = Block(std::mem::take(&mut block.0));
                    *self = Self::Many(Box::new(vec![full, Block::of_one(posting)]));
                    return;
                }
                block.insert(posting);
                if let Some(other) = block.split() {
                    let one = Block(std::mem::take(&mut block.0));
                    *self = Self::Many(Box::new(vec![one, other]));
                }
            }
            Self::Many(blocks) => {
                let at = blocks.partition_point(|block| block.first() <= posting).saturating_sub(1);
                let is_last = at + 1 == blocks.len();
                let block = &mut blocks[at];
                if is_last && block.ends_before(posting) {
                    blocks.push(Block::of_one(posting));
                    return;
                }
                block.insert(posting);
                if let Some(other) = block.split() {
                    blocks.insert(at + 1, other);
                }
            }
        }
    }

    /// Removes a posting, if it is in the list.
    pub(super) fn remove(&mut self, posting: Posting) {
        let posting = posting.to_bits();
        match self {
            Self::Few(few) => {
                if let Some(at) = few.iter().position(|other| *other == posting) {
                    few.copy_within(at + 1.., at);
                    few[IN_PLACE - 1] = VACANT;
                }
            }
            Self::One(block) => {
                block.remove(posting);
                if block.0.len() <= HEAD + 1 {
                    let mut few = [VACANT; IN_PLACE];
                    few.iter_mut().zip(block.postings()).for_each(|(place, posting)| *place = posting);
                    *self = Self::Few(few);
                }
            }
            Self::Many(blocks) => {
                let at = blocks.partition_point(|block| block.first() <= posting).saturating_sub(1);
                if blocks[at].remove(posting) {
                    blocks.remove(at);
                } else {
                    Self::merge(blocks, at + 1);
                    Self::merge(blocks, at);
                }
                if blocks.len() == 1
                    && let Some(block) = blocks.pop()
                {
                    *self = Self::One(block);
                }
            }
        }
    }

    /// Merges the block at an index into the one before, if both are small.
    fn merge(blocks: &mut Vec<Block>, at: usize) {
        let Some([one, other]) = at.checked_sub(1).and_then(|before| blocks.get(before..=at)) else { return };
        if one.0.len() + other.0.len() > BLOCK_BYTES_MAX / 2 {
            return;
        }
        let all = [one.postings(), other.postings()].concat();
        blocks[at - 1] = Block::of(&all);
        blocks.remove(at);
    }

    /// Appends the postings to `out`.
    pub(super) fn read(&self, out: &mut Vec<Posting>) {
        match self {
            Self::Few(few) => {
                let postings = few.iter().take_while(|posting| **posting != VACANT);
                out.extend(postings.map(|posting| Posting::from_bits(*posting)));
            }
            Self::One(block) => block.read(out),
            Self::Many(blocks) => blocks.iter().for_each(|block| block.read(out)),
        }
    }

    /// Returns whether there are two postings or more.
    pub(super) fn has_several(&self) -> bool {
        !matches!(self, Self::Few([_, VACANT, ..]))
    }

    /// Returns the least posting.
    pub(super) fn first(&self) -> Option<Posting> {
        let first = match self {
            Self::Few(few) => few[0],
            Self::One(block) => block.first(),
            Self::Many(blocks) => blocks.first().map_or(VACANT, Block::first),
        };
        (first != VACANT).then(|| Posting::from_bits(first))
    }

    /// Returns the memory of the list outside its struct, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Few(_) => 0,
            Self::One(block) => block.0.capacity(),
            Self::Many(blocks) => {
                let bytes: usize = blocks.iter().map(|block| block.0.capacity()).sum();
                size_of::<Vec<Block>>() + blocks.capacity() * size_of::<Block>() + bytes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn check(list: &PostingList, want: &BTreeSet<u32>) {
        let mut out = Vec::new();
        list.read(&mut out);
        assert!(out.iter().map(|posting| posting.to_bits()).eq(want.iter().copied()), "{list:?}\n{want:?}");
        assert_eq!(list.has_several(), want.len() > 1);
        assert_eq!(list.first().map(Posting::to_bits), want.first().copied());
        if let PostingList::Many(blocks) = list {
            assert!(blocks.len() > 1);
            assert!(blocks.iter().all(|block| block.0.len() <= BLOCK_BYTES_MAX));
        }
    }

    #[test]
    fn a_list_is_the_set_of_its_postings() {
        let mut word = 1u64;
        let mut dice = move |sides: u32| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((word >> 33) % u64::from(sides)) as u32
        };
        // Dense, sparse, and as far apart as two kinds of postings.
        for range in [40, 1_000, 40_000, 1 << 31] {
            let (mut list, mut want) = (PostingList::default(), BTreeSet::new());
            for round in 0..12_000 {
                let posting = dice(range - 1);
                // Grows and shrinks in turn.
                if dice(100) < if round / 1_500 % 2 == 0 { 80 } else { 20 } {
                    if want.insert(posting) {
                        list.insert(Posting::from_bits(posting));
                    }
                } else {
                    let near = want.range(posting..).next().copied();
                    let gone = near.filter(|_| dice(10) > 0).unwrap_or(posting);
                    want.remove(&gone);
                    list.remove(Posting::from_bits(gone));
                }
                if round % 50 == 0 || want.len() < 12 {
                    check(&list, &want);
                }
            }
            while let Some(posting) = want.pop_last() {
                list.remove(Posting::from_bits(posting));
                check(&list, &want);
            }
            assert_eq!(list.held_bytes(), 0, "an empty list holds nothing");
        }
    }

    #[test]
    fn a_tenth_of_the_classes_takes_little_more_than_a_byte_each() {
        let mut list = PostingList::default();
        for n in 0..2_500 {
            list.insert(Posting::class(n * 10 + n * n % 7, true));
        }
        assert!(list.held_bytes() < 2_500 * 5 / 4, "{}", list.held_bytes());
    }
}
