//! Outboxes whose feeds have dropped their frames and that read these from the past: the place at which they leave the
//! feed, and their replies.

use super::*;
use crate::dialect::{GapNotice, Missed};
use crate::event::Position;

/// A loop's places before the newest batch and after it.
pub(super) struct Places(Position, Position);

impl Places {
    pub(super) fn of(before: u64, now: u64) -> Self {
        Self(Position::new(1, [before]), Position::new(1, [now]))
    }
}

impl ResumeLookup for Places {
    fn resume_after(&self, id: EventId) -> Option<Since> {
        Some(Since::Event(id))
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }

    fn place(&self) -> Option<&Position> {
        Some(&self.1)
    }

    fn place_before_batch(&self) -> Option<&Position> {
        Some(&self.0)
    }
}

/// A loop that has no place yet.
struct Unplaced;

impl ResumeLookup for Unplaced {
    fn resume_after(&self, _id: EventId) -> Option<Since> {
        None
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

struct Slow {
    world: World,
    outbox: Outbox,
    pipe: Pipe,
}

impl Slow {
    /// Returns a client of "a" that catches up, in a loop with these places.
    fn new(places: &impl ResumeLookup) -> Self {
        let mut world = World::new(3);
        let mut outbox = world.join("type=a", 0);
        outbox.set_lag_policy(LagPolicy::CatchUp);
        outbox.record_place(&world.fanout, places);
        Self { world, outbox, pipe: Pipe::default() }
    }

    /// Publishes a batch of these types, and writes `room` bytes.
    fn batch(&mut self, types: &str, room: usize) -> Flushed {
        let before = self.world.published;
        // Each frame is a block, so that all of a batch except the newest may be evicted.
        let more = "x".repeat(MERGE_FRAME_BYTES_MAX);
        types
            .split(' ')
            .filter(|name| !name.is_empty())
            .for_each(|name| self.world.publish_with(name, &more));
        let places = Places::of(before, self.world.published);
        self.world.seal();
        self.pipe.room = room;
        let mut cx = OutboxContext::new(&mut self.world.tally, &places);
        self.outbox.flush_appended(&mut self.world.fanout, &mut self.pipe, usize::MAX, &mut cx)
    }

    fn reply(&mut self, k: usize) {
        let places = Places::of(self.world.published, self.world.published);
        let mut cx = OutboxContext::new(&mut self.world.tally, &places);
        self.outbox.send(&mut self.world.fanout, format!(": reply {k}\n\n").into(), &mut cx);
    }

    /// Begins to catch up. Returns the place, and the number of replies that wait for it.
    fn leave(&mut self) -> (Option<u64>, HeldReplies) {
        let places = Places::of(0, self.world.published);
        let (since, held) = self.outbox.begin_catch_up(&mut self.world.fanout, &places);
        let Some(Since::Position(place)) = since else { return (None, held) };
        (Some(place.sequences()[0]), held)
    }
}

#[test]
fn a_client_that_falls_off_leaves_at_the_place_up_to_which_it_was_written() {
    let mut slow = Slow::new(&Places::of(0, 0));
    assert_eq!(slow.batch("a b b", 1 << 20), Flushed::Done);
    // The first event of this batch is written whole, and the second is begun.
    assert_eq!(slow.batch("b a b a a", 5000), Flushed::Blocked);
    slow.reply(1);
    assert_eq!(slow.batch("a a a", 0), Flushed::Behind);
    let begun = read_numbers(&slow.pipe);
    let (place, held) = slow.leave();
    assert_eq!(place, begun.last().map(|last| last + 1));
    assert!(held.held_bytes() > 0 && slow.outbox.inserted_bytes() == 0);
    slow.outbox.send_replayed(&mut slow.world.fanout, ": reply 7\n\n".into(), 1, None);
    slow.outbox.send_held(held);
    slow.outbox.set_replaying(false);
    assert_eq!(slow.batch("a", 1 << 20), Flushed::Done);
    let text = String::from_utf8(std::mem::take(&mut slow.pipe.taken)).expect("UTF-8");
    let at = |part: &str| text.find(part).expect("written");
    assert!(at(": reply 7") < at(": reply 1") && at(": reply 1") < at("\"n\":11,"), "{text}");
}

#[test]
fn a_burst_that_is_trimmed_at_once_is_read_from_before_it() {
    let mut slow = Slow::new(&Places::of(0, 0));
    assert_eq!(slow.batch("a", 1 << 20), Flushed::Done);
    assert_eq!(slow.batch("b b", 1 << 20), Flushed::Done);
    assert_eq!(slow.batch("b a a a a a", 1 << 20), Flushed::Behind);
    assert_eq!(slow.leave().0, Some(3));
    // The feed continues from here.
    slow.outbox.set_replaying(false);
    assert_eq!(slow.batch("a", 1 << 20), Flushed::Done);
    assert_eq!(read(&slow.pipe), [0, 9]);
}

/// A client that joined without a place, and for which a replay holds back several batches, was taken to be before the newest.
#[test]
fn a_client_that_joined_before_its_loop_had_a_place_reads_everything_again() {
    let mut slow = Slow::new(&Unplaced);
    slow.outbox.set_replaying(true);
    for batch in ["", "a a", "a a a a a"] {
        assert_eq!(slow.batch(batch, 1 << 20), Flushed::Done);
    }
    slow.outbox.set_replaying(false);
    assert!(slow.outbox.is_behind(&slow.world.fanout));
    assert_eq!(slow.leave().0, None);
}

/// A notice stands for no event, and has the id of an earlier one.
#[test]
fn a_notice_does_not_move_the_place_back() {
    let mut slow = Slow::new(&Places::of(7, 7));
    let notice =
        GapNotice { missed: Missed::Unknown, from: None, to: None, recoverable: false, at: Timestamp(0) };
    let before = EventId::before(1, 0, 3);
    let feed = slow.outbox.feed().expect("it has one");
    slow.world.fanout.append_gap_to(feed, before, &notice, |_| true);
    slow.world.published = 7;
    assert_eq!(slow.batch("", 5), Flushed::Blocked);
    assert_eq!(slow.batch("a a a a a", 0), Flushed::Behind);
    assert_eq!(slow.leave().0, Some(7));
}

/// Returns the numbers of the events that were begun.
fn read_numbers(pipe: &Pipe) -> Vec<u64> {
    let text = String::from_utf8_lossy(&pipe.taken).into_owned();
    let events = text.split("\"n\":").skip(1);
    events.filter_map(|rest| rest.split(',').next()?.parse().ok()).collect()
}
