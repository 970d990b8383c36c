//! Deadlines of many connections: a timing wheel (Varghese and Lauck, 1987, scheme 6 without the sorting), with its lists
//! in one table.
//!
//! Invariants:
//! - A key waits for at most one tick: the earliest requested one. It fires at its tick or later, never earlier.
//! - A removed key leaves nothing behind.
//! - Adding, moving and removing take constant time.

use crate::server::tick::Tick;

const SLOTS: usize = 512;

/// No key.
const NONE: u32 = u32::MAX;

/// One key's place in a list, in 12 bytes. Ticks are cut to 32 bits, which last 13 years.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Tick at which it fires; meaningless while `before` is the entry itself.
    tick: u32,
    next: u32,
    /// Key before it; `NONE` for the first of a list, its own key if it is in no list.
    before: u32,
}

const _: () = assert!(size_of::<Entry>() == 12, "one for each connection");

/// Keys by the tick at which they fire.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// First key of each slot's list.
    heads: Box<[u32]>,
    /// Entries by key.
    entries: Vec<Entry>,
    /// Every tick before this one has fired.
    next: Tick,
    waiting: usize,
}

impl Wheel {
    pub(crate) fn new(now: Tick) -> Self {
        Self { heads: vec![NONE; SLOTS].into(), entries: Vec::new(), next: now + 1, waiting: 0 }
    }

    /// Schedules `key` for `tick`, at the earliest for the next tick. An earlier time of the key stays.
    pub(crate) fn add(&mut self, tick: Tick, key: u32) {
        let tick = tick.max(self.next);
        for absent in self.entries.len() as u32..=key {
            self.entries.push(Entry { tick: 0, next: NONE, before: absent });
        }
        if self.waits(key) {
            if u64::from(self.entries[key as usize].tick) <= tick {
                return;
            }
            self.remove(key);
        }
        let head = &mut self.heads[tick as usize % SLOTS];
        let next = std::mem::replace(head, key);
        self.entries[key as usize] = Entry { tick: tick as u32, next, before: NONE };
        if let Some(entry) = self.entries.get_mut(next as usize) {
            entry.before = key;
        }
        self.waiting += 1;
    }

    fn waits(&self, key: u32) -> bool {
        self.entries.get(key as usize).is_some_and(|entry| entry.before != key)
    }

    /// Cancels `key`.
    pub(crate) fn remove(&mut self, key: u32) {
        if !self.waits(key) {
            return;
        }
        let Entry { tick, next, before } = self.entries[key as usize];
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.next = next,
            None => self.heads[tick as usize % SLOTS] = next,
        }
        if let Some(entry) = self.entries.get_mut(next as usize) {
            entry.before = before;
        }
        self.entries[key as usize].before = key;
        self.waiting -= 1;
    }

    /// Moves the due keys to `out`.
    pub(crate) fn advance(&mut self, now: Tick, out: &mut Vec<u32>) {
        if now < self.next {
            return;
        }
        // After a long sleep one round of the wheel covers everything.
        let first = self.next.max((now + 1).saturating_sub(SLOTS as u64));
        for tick in first..=now {
            let mut key = self.heads[tick as usize % SLOTS];
            while let Some(&Entry { tick, next, .. }) = self.entries.get(key as usize) {
                if u64::from(tick) <= now {
                    self.remove(key);
                    out.push(key);
                }
                key = next;
            }
        }
        self.next = now + 1;
    }

    /// Returns the number of ticks until a key may fire; `None` if no key is scheduled.
    pub(crate) fn ticks_to_next(&self, now: Tick) -> Option<u64> {
        if self.waiting == 0 {
            return None;
        }
        let from = self.next;
        let ahead = (from..from + SLOTS as u64).find(|tick| self.heads[*tick as usize % SLOTS] != NONE);
        Some((ahead.unwrap_or(from) + 1).saturating_sub(now).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(wheel: &mut Wheel, now: Tick) -> Vec<u32> {
        let mut out = Vec::new();
        wheel.advance(now, &mut out);
        out.sort_unstable();
        out
    }

    #[test]
    fn every_key_fires_once_at_its_tick_or_later() {
        let mut wheel = Wheel::new(10);
        for (tick, key) in [(11, 1), (5, 2), (12, 3), (10 + SLOTS as u64 + 1, 4), (2000, 5)] {
            wheel.add(tick, key);
        }
        assert!(fired(&mut wheel, 10).is_empty());
        assert_eq!(fired(&mut wheel, 11), [1, 2]);
        assert_eq!(fired(&mut wheel, 12), [3]);
        assert!(fired(&mut wheel, 522).is_empty());
        assert_eq!(fired(&mut wheel, 5000), [4, 5]);
        assert_eq!(wheel.ticks_to_next(5000), None);
    }

    #[test]
    fn a_key_asked_for_twice_fires_at_the_earlier_tick_and_one_removed_never() {
        let mut wheel = Wheel::new(0);
        for (tick, key) in [(9, 0), (3, 0), (5, 0), (4, 1), (4, 2), (4, 3)] {
            wheel.add(tick, key);
        }
        wheel.remove(2);
        wheel.remove(2);
        wheel.remove(7);
        assert_eq!(fired(&mut wheel, 3), [0]);
        assert_eq!(fired(&mut wheel, 20), [1, 3]);
        assert_eq!(wheel.ticks_to_next(20), None);
    }
}
