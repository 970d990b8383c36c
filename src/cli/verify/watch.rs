//! Keys of a reader of `fanwire verify --watch`, which change while it runs.
//!
//! Invariants:
//! - A change takes effect at one position of the stream, its `ack`: events before it follow the old set, events after
//!   it the new one.
//! - Events of an added key may be missing only before the first event after the `ack`: they may be older than the
//!   change.
//! - A new connection resumes with the new set after the last event received, so nothing may be missing.

use super::super::dice::Dice;

/// Keys of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct WatchKeys {
    pub(super) seed: u64,
    pub(super) keys: usize,
}

impl WatchKeys {
    /// Returns the key of a lane's event. Publisher and readers compute the same.
    pub(super) fn of(self, lane: usize, n: u64) -> usize {
        let mut dice = Dice(self.seed ^ (lane as u64) << 48 ^ n.wrapping_mul(0xd134_2543_de82_ef95));
        dice.below(self.keys as u64) as usize
    }

    /// Returns the key of each lane's last event. All readers subscribe to it.
    pub(super) fn end(self) -> usize {
        self.keys
    }
}

/// Kind of the entities that are keys.
pub(super) const KEY_KIND: &str = "verify";

/// Returns a key as a value of `entities`.
pub(super) fn entity(key: usize) -> String {
    format!("{KEY_KIND}:{key}")
}

/// State of a key in a reader's set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    No,
    Yes,
    /// Requested, not confirmed.
    Adding,
    /// Confirmed; no event has arrived since.
    Fresh,
    /// Cancelled, not confirmed.
    Removing,
}

/// Change of a set that the server has not confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WatchChange {
    pub(super) add: Vec<usize>,
    pub(super) remove: Vec<usize>,
}

/// A reader's keys.
#[derive(Debug)]
pub(super) struct WatchSet {
    keys: WatchKeys,
    lane: usize,
    /// State of each key except the [end](WatchKeys::end).
    holds: Vec<Hold>,
    /// Maximum number of keys.
    most: usize,
    is_pending: bool,
    /// Number of confirmed changes.
    pub(super) changes: u64,
}

impl WatchSet {
    /// Chooses `count` keys at random.
    pub(super) fn new(keys: WatchKeys, lane: usize, count: usize, dice: &mut Dice) -> Self {
        let holds = vec![Hold::No; keys.keys];
        let most = (count * 2).min(keys.keys);
        let mut set = Self { keys, lane, holds, most, is_pending: false, changes: 0 };
        for key in set.some(Hold::No, count, dice) {
            set.holds[key] = Hold::Yes;
        }
        set
    }

    /// Returns up to `count` different keys in this state.
    fn some(&self, hold: Hold, count: usize, dice: &mut Dice) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.holds.len()).filter(|key| self.holds[*key] == hold).collect();
        let mut chosen = Vec::new();
        while chosen.len() < count && !all.is_empty() {
            chosen.push(all.swap_remove(dice.below(all.len() as u64) as usize));
        }
        chosen
    }

    /// Returns the keys to subscribe to, as values of `entities`: the set after all requested changes.
    pub(super) fn entities(&self) -> Vec<String> {
        let is_held = |key: &usize| matches!(self.holds[*key], Hold::Yes | Hold::Fresh | Hold::Adding);
        (0..self.holds.len()).filter(is_held).chain([self.keys.end()]).map(entity).collect()
    }

    /// Begins a random change, if the last one is confirmed.
    pub(super) fn change(&mut self, dice: &mut Dice) -> Option<WatchChange> {
        if self.is_pending {
            return None;
        }
        let held = self.holds.iter().filter(|hold| **hold != Hold::No).count();
        let remove = self.some(Hold::Yes, dice.below(4) as usize, dice);
        let room = (self.most + remove.len()).saturating_sub(held);
        let add = self.some(Hold::No, room.min(dice.below(4) as usize), dice);
        if add.is_empty() && remove.is_empty() {
            return None;
        }
        for (keys, hold) in [(&add, Hold::Adding), (&remove, Hold::Removing)] {
            for key in keys {
                self.holds[*key] = hold;
            }
        }
        self.is_pending = true;
        Some(WatchChange { add, remove })
    }

    fn settle(&mut self, adding: Hold) {
        for hold in &mut self.holds {
            *hold = match *hold {
                Hold::Adding => adding,
                Hold::Removing => Hold::No,
                other => other,
            };
        }
        self.changes += u64::from(std::mem::take(&mut self.is_pending));
    }

    /// Records the server's confirmation of the change.
    pub(super) fn confirmed(&mut self) {
        self.settle(Hold::Fresh);
    }

    /// Records that a new connection subscribes with the new set, after the last event received.
    pub(super) fn resumed(&mut self) {
        self.settle(Hold::Yes);
        self.firm();
    }

    /// Records that an event arrived: from here on, events of all confirmed keys must arrive.
    pub(super) fn firm(&mut self) {
        for hold in self.holds.iter_mut().filter(|hold| **hold == Hold::Fresh) {
            *hold = Hold::Yes;
        }
    }

    /// Returns whether an event must arrive at this position of the stream.
    pub(super) fn must_come(&self, n: u64) -> bool {
        matches!(self.holds[self.keys.of(self.lane, n)], Hold::Yes | Hold::Removing)
    }

    /// Returns whether events of a key may arrive at this position of the stream.
    pub(super) fn may_come(&self, key: usize) -> bool {
        self.holds.get(key).is_none_or(|hold| *hold != Hold::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: WatchKeys = WatchKeys { seed: 7, keys: 10 };

    #[test]
    fn sets_overlap_and_change_within_their_bounds() {
        let mut dice = Dice(3);
        let mut set = WatchSet::new(KEYS, 0, 4, &mut dice);
        assert_eq!(set.entities().len(), 5, "four, and the end");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            if let Some(change) = set.change(&mut dice) {
                assert_eq!(set.change(&mut dice), None, "one at a time");
                assert!(change.add.iter().all(|key| !change.remove.contains(key)));
                set.confirmed();
                set.firm();
            }
            assert!(set.entities().len() <= 9, "{:?}", set.entities());
            seen.extend(set.entities());
        }
        assert_eq!(seen.len(), 11);
        assert!(set.changes > 100);
    }

    #[test]
    fn a_change_takes_effect_at_its_confirmation_and_binds_from_the_next_event_on() {
        let mut set = WatchSet::new(KEYS, 0, 4, &mut Dice(3));
        let number = |key| (1..500).find(|n| KEYS.of(0, *n) == key).expect("every key occurs");
        set.holds.fill(Hold::No);
        (set.holds[1], set.holds[2]) = (Hold::Removing, Hold::Adding);
        set.is_pending = true;
        assert!(set.must_come(number(1)) && set.may_come(1));
        assert!(!set.must_come(number(2)) && set.may_come(2));
        set.confirmed();
        assert!(!set.must_come(number(1)) && !set.may_come(1));
        assert!(!set.must_come(number(2)) && set.may_come(2));
        set.firm();
        assert!(set.must_come(number(2)));
        assert!(set.may_come(KEYS.end()));
        set.holds[3] = Hold::Adding;
        set.resumed();
        assert!(set.must_come(number(3)), "a resume leaves nothing out");
    }
}
