//! Restores each publisher's order among messages that arrive over several subscriptions of one connection, each with
//! its own queue.
//!
//! Each message has its publisher's number and a stamp that increases with that publisher's messages. Queues are
//! emptied in passes, one queue after the other, while more messages arrive.
//!
//! Invariants:
//! - Each message is released once, in the order of its publisher's stamps.
//! - A message is held for two passes at most.
//!
//! Why two passes suffice: a publisher's messages arrive in the order of their stamps. When a pass finds a message, all
//! earlier messages of its publisher are already in their queues, so the next pass finds them. Hence after a pass,
//! every message up to the newest stamp of the previous pass is known.

use std::collections::{BTreeMap, HashMap};

/// Maximum number of remembered publishers, including nodes that ended since this one began to follow.
const PUBLISHERS_MAX: usize = 4096;

/// Stamps of one publisher.
#[derive(Debug)]
struct PublisherStamps {
    /// Newest released stamp.
    gone: u64,
    /// Newest stamp found before the current pass.
    found: u64,
    /// Newest stamp found.
    newest: u64,
}

/// Messages held until all earlier messages of their publishers are known.
#[derive(Debug)]
pub(super) struct ReorderBuffer<T> {
    waiting: BTreeMap<(u64, u64), T>,
    known: HashMap<u64, PublisherStamps>,
}

impl<T> Default for ReorderBuffer<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), known: HashMap::new() }
    }
}

impl<T> ReorderBuffer<T> {
    /// Returns a buffer that skips messages released by an earlier buffer; `gone` is the result of its
    /// [`newest_gone`](Self::newest_gone).
    pub(super) fn after(gone: &HashMap<u64, u64>) -> Self {
        let known = |(publisher, gone): (&u64, &u64)| {
            (*publisher, PublisherStamps { gone: *gone, found: 0, newest: 0 })
        };
        Self { waiting: BTreeMap::new(), known: gone.iter().map(known).collect() }
    }

    /// Returns the newest released stamp of each publisher, except publisher 0, which has no stamps.
    pub(super) fn newest_gone(&self) -> HashMap<u64, u64> {
        let known = self.known.iter().filter(|(publisher, known)| **publisher != 0 && known.gone > 0);
        known.map(|(publisher, known)| (*publisher, known.gone)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a message. A message that already arrived by another subscription is skipped.
    pub(super) fn found(&mut self, publisher: u64, stamp: u64, message: T) {
        let known = self.known.entry(publisher).or_insert(PublisherStamps { gone: 0, found: 0, newest: 0 });
        if stamp > known.gone {
            known.newest = known.newest.max(stamp);
            self.waiting.entry((stamp, publisher)).or_insert(message);
        }
    }

    /// Ends a pass. Releases, in the order of stamps, the messages whose publisher's earlier messages are all known; or
    /// all messages if the pass found nothing.
    pub(super) fn pass(&mut self, found_nothing: bool, mut take: impl FnMut(T)) {
        let known = &mut self.known;
        let mut rest = BTreeMap::new();
        for ((stamp, publisher), message) in std::mem::take(&mut self.waiting) {
            match known.get_mut(&publisher) {
                Some(known) if found_nothing || stamp <= known.found => {
                    known.gone = known.gone.max(stamp);
                    take(message);
                }
                _ => {
                    rest.insert((stamp, publisher), message);
                }
            }
        }
        self.waiting = rest;
        if known.len() > PUBLISHERS_MAX && self.waiting.is_empty() {
            known.clear();
        }
        for known in known.values_mut() {
            known.found = known.newest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_publishers_order_stays_while_channels_are_emptied() {
        let mut state = 1_u64;
        let mut dice = move |sides: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % sides
        };
        for _ in 0..300 {
            const CHANNELS: usize = 5;
            let mut channels: [Vec<(u64, u64)>; CHANNELS] = Default::default();
            let mut arrivals = ReorderBuffer::default();
            let mut stamps = [0_u64; 3];
            let mut sent = 0;
            let mut got: Vec<(u64, u64)> = Vec::new();
            let mut arrive = |channels: &mut [Vec<(u64, u64)>; CHANNELS],
                              dice: &mut dyn FnMut(usize) -> usize| {
                for _ in 0..dice(4) {
                    let publisher = dice(3);
                    stamps[publisher] += 1 + dice(3) as u64;
                    let message = (publisher as u64, stamps[publisher]);
                    sent += 1;
                    // Subscriptions overlap: one or two of them carry the message.
                    for at in [dice(CHANNELS), dice(CHANNELS)] {
                        if channels[at].last() != Some(&message) {
                            channels[at].push(message);
                        }
                    }
                }
                sent
            };
            let mut total = 0;
            for round in 0.. {
                let mut count = 0;
                for at in 0..CHANNELS {
                    if round < 40 {
                        total = arrive(&mut channels, &mut dice);
                    }
                    for (publisher, stamp) in channels[at].drain(..) {
                        count += 1;
                        arrivals.found(publisher, stamp, (publisher, stamp));
                    }
                }
                arrivals.pass(count == 0, |message| got.push(message));
                if round >= 40 && count == 0 {
                    break;
                }
            }
            assert!(arrivals.is_empty());
            assert_eq!(got.len(), total);
            for publisher in 0..3 {
                let stamps: Vec<u64> = got.iter().filter(|one| one.0 == publisher).map(|one| one.1).collect();
                assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
            }
        }
    }

    #[test]
    fn a_message_is_held_for_the_next_pass_and_no_longer() {
        let mut arrivals = ReorderBuffer::default();
        let mut got = Vec::new();
        arrivals.found(1, 5, 'b');
        arrivals.pass(false, |message| got.push(message));
        assert_eq!((got.len(), arrivals.len()), (0, 1));
        arrivals.found(1, 4, 'a');
        arrivals.found(1, 6, 'c');
        arrivals.pass(false, |message| got.push(message));
        assert_eq!(got, ['a', 'b']);
        arrivals.found(1, 5, 'x');
        arrivals.pass(true, |message| got.push(message));
        assert_eq!(got, ['a', 'b', 'c']);
    }

    #[test]
    fn messages_already_passed_are_skipped_by_a_later_buffer() {
        let mut arrivals = ReorderBuffer::default();
        (4..6).for_each(|stamp| arrivals.found(1, stamp, stamp));
        arrivals.found(0, 1, 1);
        arrivals.pass(true, |_| {});
        let mut arrivals = ReorderBuffer::after(&arrivals.newest_gone());
        let mut got = Vec::new();
        (3..8).for_each(|stamp| arrivals.found(1, stamp, stamp));
        arrivals.found(0, 1, 1);
        arrivals.found(2, 2, 2);
        arrivals.pass(true, |message| got.push(message));
        assert_eq!(got, [1, 2, 6, 7]);
    }
}
