//! The ring compared with a model that is obviously correct: a plain list on one thread.

use std::collections::VecDeque;

use fanwire::event::Position;
use fanwire::{Bus, Delivery, Gap, Predicate, Subscriber};
use proptest::prelude::*;

/// All published items, a reader's position, and the range that the ring retains.
struct Model {
    capacity: u64,
    published: Vec<u32>,
}

impl Model {
    fn oldest(&self) -> u64 {
        (self.published.len() as u64).saturating_sub(self.capacity)
    }

    /// Returns what a reader at `next` gets, and its next position.
    fn read(&self, next: u64) -> Option<(Delivery<u32>, u64)> {
        if next < self.oldest() {
            // A lapped reader continues a quarter of the ring after the oldest item, as documented.
            let head = self.published.len() as u64;
            let to = head.saturating_sub(self.capacity - self.capacity / 4).max(next + 1);
            return Some((Delivery::Gap(Gap::new(0, next, to)), to));
        }
        self.published.get(next as usize).map(|item| (Delivery::Event(*item), next + 1))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u32),
    Batch(Vec<u32>),
    Join,
    Leave(usize),
    Read(usize, usize),
    Remember,
    Seek(usize, usize),
    Replay(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<u32>().prop_map(Step::Publish),
        3 => proptest::collection::vec(any::<u32>(), 0..90).prop_map(Step::Batch),
        2 => Just(Step::Join),
        1 => (0_usize..8).prop_map(Step::Leave),
        8 => ((0_usize..8), (0_usize..20)).prop_map(|(who, count)| Step::Read(who, count)),
        2 => Just(Step::Remember),
        2 => ((0_usize..8), (0_usize..8)).prop_map(|(who, which)| Step::Seek(who, which)),
        2 => (0_usize..8).prop_map(Step::Replay),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #[test]
    fn the_ring_behaves_as_the_model(bits in 0_u32..7, steps in steps()) {
        let capacity = 1_u64 << bits;
        let bus = Bus::builder().carrying::<u32>().capacity(capacity as usize).build().expect("valid");
        let mut model = Model { capacity, published: Vec::new() };
        let mut readers: VecDeque<(Subscriber<u32>, u64, u64)> = VecDeque::new();
        let mut places: Vec<(Position, u64)> = vec![(bus.position(), 0)];
        for step in steps {
            match step {
                Step::Publish(item) => {
                    let sequence = bus.publish(item).id.expect("open").sequence;
                    prop_assert_eq!(sequence, model.published.len() as u64);
                    model.published.push(item);
                }
                Step::Batch(items) => {
                    let count = items.len();
                    model.published.extend(&items);
                    let answer = bus.publish_batch(items);
                    prop_assert_eq!(answer.count, count);
                    let last = (count > 0).then(|| model.published.len() as u64 - 1);
                    prop_assert_eq!(answer.last.map(|id| id.sequence), last);
                }
                Step::Join => {
                    let head = model.published.len() as u64;
                    readers.push_back((bus.subscribe(Predicate::all()), head, head));
                }
                Step::Leave(who) => drop(readers.remove(who)),
                Step::Read(who, count) => {
                    let Some((reader, next, start)) = readers.get_mut(who) else { continue };
                    for _ in 0..count {
                        let expected = model.read(*next);
                        let got = reader.try_recv().ok();
                        prop_assert_eq!(got, expected.as_ref().map(|e| e.0.clone()));
                        let Some((_, after)) = expected else { break };
                        *next = after;
                    }
                    let books = reader.ledger();
                    prop_assert_eq!(books.lag, model.published.len() as u64 - *next);
                    prop_assert_eq!(books.seen + books.missed, *next - *start);
                }
                Step::Remember => places.push((bus.position(), model.published.len() as u64)),
                Step::Seek(who, which) => {
                    let (Some((reader, next, start)), Some((place, at))) = (readers.get_mut(who), places.get(which)) else { continue };
                    prop_assert!(reader.seek(place).is_ok());
                    (*next, *start) = (*at, *at);
                }
                Step::Replay(which) => {
                    let Some((place, at)) = places.get(which) else { continue };
                    let got: Vec<_> = bus.replay(Predicate::all(), place).expect("the same bus").collect();
                    let mut expected = Vec::new();
                    let mut next = *at;
                    while let Some((delivery, after)) = model.read(next) {
                        expected.push(delivery);
                        next = after;
                    }
                    prop_assert_eq!(got, expected);
                }
            }
        }
    }
}
