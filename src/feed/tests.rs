//! Feeds under writers that take what they like.

use std::io::{self, Write};
use std::sync::Arc;

use super::*;
use crate::event::{Event, Timestamp};
use crate::filter::Filter;
use crate::metrics::Metrics;

/// A socket with room for so many bytes.
#[derive(Default)]
struct Pipe {
    room: usize,
    taken: Vec<u8>,
    writes: usize,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        if self.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.taken.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write(&all)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A world in which everything is kept and no time goes by.
struct Still;

impl Ring for Still {
    fn keeps_behind(&self, _: EventId) -> bool {
        true
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

const ENCODING: Encoding = Encoding::NativeSseUnnamed;

struct World {
    fanout: Fanout,
    tally: Tally,
    published: u64,
}

impl World {
    fn new(max_events: usize) -> Self {
        let limits = FeedLimits { max_events, max_bytes: 1 << 20 };
        Self {
            fanout: Fanout::new(limits, Arc::new(Metrics::default())),
            tally: Tally::default(),
            published: 0,
        }
    }

    fn publish(&mut self, event_type: &str) {
        let event =
            Event::builder(event_type).json(format!("{{\"n\":{}}}", self.published)).build().expect("valid");
        event.place(EventId { epoch: 1, shard: 0, sequence: self.published });
        self.published += 1;
        self.fanout.append(&event);
    }

    fn seal(&mut self) {
        self.fanout.take_dirty(&mut Vec::new());
    }

    fn flush(&mut self, cursor: &mut Cursor, pipe: &mut Pipe) -> bool {
        matches!(cursor.flush(&self.fanout, pipe, usize::MAX, &mut self.tally, &Still), Flushed::Done)
    }

    fn join(&mut self, filter: &str, slot: Slot) -> Cursor {
        let mut cursor = Cursor::default();
        let filter: Filter = filter.parse().expect("a filter");
        cursor.join(&mut self.fanout, ENCODING, &[filter], slot);
        cursor
    }
}

/// The numbers of the events, `-missed` for gaps, and 1000 + k for the k-th reply, in the order written.
fn read(pipe: &Pipe) -> Vec<i64> {
    let text = std::str::from_utf8(&pipe.taken).expect("UTF-8");
    let number = |text: &str, behind: &str| -> Option<i64> {
        let at = text.find(behind)? + behind.len();
        let digits: String = text[at..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let mut parts: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(parts.pop(), Some(""), "every frame is whole");
    (parts.into_iter())
        .map(|part| match (number(part, "\"missed\":"), number(part, "\"n\":"), number(part, ": reply ")) {
            (Some(missed), ..) => -missed,
            (_, Some(n), _) => n,
            (_, _, Some(k)) => 1000 + k,
            _ => panic!("{part}"),
        })
        .collect()
}

#[test]
fn a_burst_is_one_write_for_each_member() {
    let mut world = World::new(100);
    let mut cursors: Vec<_> = (0..3).map(|slot| world.join("", slot)).collect();
    (0..10).for_each(|_| world.publish("a"));
    world.seal();
    for cursor in &mut cursors {
        let mut pipe = Pipe { room: 1 << 20, ..Pipe::default() };
        assert!(world.flush(cursor, &mut pipe));
        assert_eq!((pipe.writes, read(&pipe)), (1, (0..10).collect()));
    }
}

#[test]
fn equal_interests_share_a_feed_and_an_event_is_appended_once() {
    let mut world = World::new(100);
    let mut twice = Cursor::default();
    let filters = ["type=a", "type=a", "type=*"].map(|f| f.parse::<Filter>().expect("a filter"));
    twice.join(&mut world.fanout, ENCODING, &filters, 0);
    let mut same = Cursor::default();
    same.join(&mut world.fanout, ENCODING, &[filters[2].clone(), filters[0].clone()], 1);
    assert_eq!(twice.feed(), same.feed());
    world.publish("a");
    world.seal();
    let mut pipe = Pipe { room: 1000, ..Pipe::default() };
    assert!(world.flush(&mut twice, &mut pipe));
    assert_eq!(read(&pipe), [0]);
}

#[test]
fn replies_stand_where_they_happened() {
    let mut world = World::new(100);
    let mut cursor = world.join("", 0);
    let reply = |k: usize| Bytes::from(format!(": reply {k}\n\n"));
    world.publish("a");
    cursor.send(&mut world.fanout, reply(1));
    world.publish("a");
    world.publish("a");
    world.seal();
    cursor.send(&mut world.fanout, reply(2));
    let mut pipe = Pipe::default();
    // Byte by byte, so that every place is a place to stop.
    while !world.flush(&mut cursor, &mut pipe) {
        pipe.room = 1;
    }
    assert_eq!(read(&pipe), [0, 1001, 1, 2, 1002]);
    assert!(cursor.is_done(&world.fanout));
}

#[test]
fn who_sleeps_is_told_exactly_how_many_events_it_missed() {
    let mut world = World::new(10);
    let mut sleeper = world.join("", 0);
    let _other = world.join("", 1);
    let mut pipe = Pipe { room: 30, ..Pipe::default() };
    for _ in 0..100 {
        world.publish("a");
        world.seal();
        world.flush(&mut sleeper, &mut pipe);
    }
    pipe.room = usize::MAX;
    assert!(world.flush(&mut sleeper, &mut pipe));
    let seen = read(&pipe);
    let missed: i64 = seen.iter().filter(|n| **n < 0).map(|n| -n).sum();
    let events: Vec<i64> = seen.iter().copied().filter(|n| *n >= 0).collect();
    assert_eq!(events.len() as i64 + missed, 100);
    assert_eq!(events.last(), Some(&99));
    assert_eq!((world.tally.dropped as i64, world.tally.events as usize), (missed, events.len()));
}

#[test]
fn what_was_owed_before_an_interest_changed_is_still_written() {
    let mut world = World::new(100);
    let mut cursor = world.join("type=a", 7);
    let mut stays = world.join("type=a", 8);
    world.publish("a");
    world.publish("b");
    world.publish("a");
    let moved = cursor.leave(&mut world.fanout, &mut world.tally, &Still);
    assert_eq!(moved, Some((8, 0)), "the last member takes the place of the one that left");
    stays.moved(0);
    cursor.join(&mut world.fanout, ENCODING, &["type=b".parse().expect("a filter")], 7);
    world.publish("a");
    world.publish("b");
    world.seal();
    let mut pipe = Pipe { room: 1000, ..Pipe::default() };
    assert!(world.flush(&mut cursor, &mut pipe));
    assert_eq!(read(&pipe), [0, 2, 4]);
    assert!(stays.leave(&mut world.fanout, &mut world.tally, &Still).is_none());
}

proptest::proptest! {
    /// Whatever the sizes of the writes, the bursts and the moments of sleep: in order, each once, and what
    /// is missing is told where it is missing.
    #[test]
    fn seen_and_missed_make_up_the_whole(steps in proptest::collection::vec((0u8..6, 0usize..200), 1..120)) {
        let mut world = World::new(8);
        let mut pipes = [Pipe::default(), Pipe::default()];
        let mut cursors = [world.join("", 0), world.join("", 1)];
        let mut replies = [0usize; 2];
        for (what, size) in steps {
            match what {
                0 | 1 => (0..size % 7).for_each(|_| world.publish("a")),
                2 | 3 => {
                    world.seal();
                    let who = usize::from(what - 2);
                    pipes[who].room = size;
                    world.flush(&mut cursors[who], &mut pipes[who]);
                }
                _ => {
                    let who = usize::from(what - 4);
                    cursors[who].send(&mut world.fanout, format!(": reply {}\n\n", replies[who]).into());
                    replies[who] += 1;
                }
            }
        }
        world.seal();
        for who in 0..2 {
            pipes[who].room = usize::MAX;
            proptest::prop_assert!(world.flush(&mut cursors[who], &mut pipes[who]));
            let (mut next, mut reply) = (0, 1000);
            for n in read(&pipes[who]) {
                if n < 0 {
                    next += -n;
                } else if n >= 1000 {
                    proptest::prop_assert_eq!(n, reply);
                    reply += 1;
                } else {
                    proptest::prop_assert_eq!(n, next);
                    next += 1;
                }
            }
            proptest::prop_assert_eq!(next as u64, world.published);
            proptest::prop_assert_eq!(reply as usize, 1000 + replies[who]);
        }
    }
}
