//! Compressed feeds: the bytes of each member, read by an inflater that shares no code with the compressor.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush};
use proptest::prelude::*;

use super::fanout::FanoutTotals;
use super::tests::{Pipe, Still};
use super::*;
use crate::codec::deflate::TAIL;
use crate::codec::ws;
use crate::dialect::{Encoding, GapNotice, Missed};
use crate::event::{Event, EventId, Timestamp};
use crate::filter::Filter;
use crate::metrics::Metrics;

struct World {
    fanout: Fanout,
    metrics: Arc<Metrics>,
    tally: Tally,
    now: Timestamp,
    encoding: Encoding,
    /// Uncompressed frames of all events.
    plain: Vec<Bytes>,
}

/// A member and its socket.
struct Member {
    outbox: Outbox,
    pipe: Pipe,
    conn: ConnIndex,
    /// Number of bytes that `reader` has read.
    read: usize,
    reader: Box<InflateState>,
    /// Messages that were read: an event's number, or the text of any other message.
    seen: Vec<Result<usize, String>>,
}

const WORDS: [&str; 7] = ["one", "two", "three", "four", "five", "six", "seven"];

const BIG: usize = usize::MAX;

fn limits(max_events: usize, max_windows: usize) -> FeedLimits {
    let compressor = CompressorLimits { max_windows, min_bytes: 100, min_standalone_bytes: 300, level: 6 };
    FeedLimits { max_events, max_bytes: 1 << 20, max_keys: 3, compressor }
}

impl World {
    fn new(encoding: Encoding, limits: FeedLimits) -> Self {
        let metrics = Arc::new(Metrics::default());
        let fanout = Fanout::new(limits, KeyRule::default(), Arc::clone(&metrics));
        Self { fanout, metrics, tally: Tally::default(), now: Timestamp(0), encoding, plain: Vec::new() }
    }

    fn member(
        &mut self,
        compression: Compression,
        selections: &[FilterSelection],
        lag_policy: LagPolicy,
        conn: ConnIndex,
    ) -> Member {
        let mut outbox = Outbox::default();
        outbox.set_compression(compression);
        outbox.set_lag_policy(lag_policy);
        outbox.join(&mut self.fanout, self.encoding, selections, conn);
        let reader = InflateState::new_boxed(DataFormat::Raw);
        Member { outbox, pipe: Pipe::default(), conn, read: 0, reader, seen: Vec::new() }
    }

    fn publish(&mut self, event_type: &str, words: usize) {
        let sequence = self.plain.len() as u64;
        let text: String =
            (0..words).flat_map(|n| ["word ", WORDS[(sequence as usize + n) % 7], " and "]).collect();
        let event = Event::builder(event_type)
            .json(format!("{{\"n\":{sequence},\"text\":\"{text}\"}}"))
            .build()
            .expect("valid");
        event.set_id(EventId { epoch: 1, shard: 0, sequence });
        self.plain.push(self.encoding.encode(&event, None));
        self.fanout.append(&event, self.now);
    }

    fn seal(&mut self) {
        let mut dirty = Vec::new();
        self.fanout.take_dirty(&mut dirty);
        for feed in dirty {
            self.fanout.seal(feed);
        }
    }

    /// Runs one pass of the loop over one member, and lets the member read the bytes.
    fn pass(&mut self, member: &mut Member) -> Flushed {
        let Member { outbox, pipe, .. } = member;
        let flushed =
            outbox.flush(&self.fanout, pipe, usize::MAX, &mut OutboxContext::new(&mut self.tally, &Still));
        if flushed == Flushed::Blocked {
            outbox.enforce_drop_newest(&self.fanout, &mut OutboxContext::new(&mut self.tally, &Still));
        }
        member.read_on(self.encoding);
        for seen in &mut member.seen {
            // A message that differs from an event's frame in any byte is not that event.
            if let Err(text) = seen
                && let Some(n) = self.plain.iter().position(|plain| *text == text_of(self.encoding, plain))
            {
                *seen = Ok(n);
            }
        }
        flushed
    }

    fn difference(&self, members: &[Member]) -> i64 {
        let pending: u64 = members.iter().map(|member| member.outbox.pending(&self.fanout)).sum();
        let FanoutTotals { matched, sampled_out } = self.fanout.totals;
        let Tally { events, dropped, conflated, .. } = self.tally;
        (events + dropped + pending + self.fanout.samples_waiting() + sampled_out) as i64 + conflated
            - matched as i64
    }

    fn deflates(&self) -> u64 {
        self.metrics.deflates.get()
    }
}

fn text_of(encoding: Encoding, plain: &[u8]) -> String {
    let text = match encoding {
        Encoding::NativeWs => ws::payload_of(plain).expect("a frame").1,
        _ => plain.strip_suffix(b"\n\n").expect("an event"),
    };
    String::from_utf8(text.to_vec()).expect("text")
}

impl Member {
    fn inflate(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut piece = vec![0; 4096];
        loop {
            let result = inflate(&mut self.reader, bytes, &mut piece, MZFlush::None);
            out.extend_from_slice(&piece[..result.bytes_written]);
            bytes = &bytes[result.bytes_consumed..];
            match result.status {
                Ok(_) if bytes.is_empty() && result.bytes_written < piece.len() => return out,
                Ok(_) => {}
                Err(MZError::Buf) if bytes.is_empty() => return out,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Reads the complete messages among the bytes received so far.
    fn read_on(&mut self, encoding: Encoding) {
        if encoding != Encoding::NativeWs {
            let bytes = self.pipe.taken[self.read..].to_vec();
            self.read = self.pipe.taken.len();
            let text = match self.outbox.compression() {
                Compression::None => bytes,
                _ => self.inflate(&bytes),
            };
            let text = self.rest() + std::str::from_utf8(&text).expect("text");
            let mut parts: Vec<&str> = text.split("\n\n").collect();
            let rest = parts.pop().unwrap_or_default();
            self.seen.extend(parts.into_iter().map(|part| Err(part.to_owned())));
            if !rest.is_empty() {
                self.seen.push(Err(format!("{CUT}{rest}")));
            }
            return;
        }
        loop {
            let bytes = &self.pipe.taken[self.read..];
            let (len, at) = match bytes {
                [_, 126, a, b, ..] => (usize::from(u16::from_be_bytes([*a, *b])), 4),
                [_, short @ 0..=125, ..] => (usize::from(*short), 2),
                _ => return,
            };
            if bytes.len() < at + len {
                return;
            }
            let (first, mut payload) = (bytes[0], bytes[at..at + len].to_vec());
            self.read += at + len;
            if first & 0x40 != 0 {
                payload.extend_from_slice(&TAIL);
                payload = self.inflate(&payload);
                if matches!(self.outbox.compression(), Compression::NoContextTakeover { .. }) {
                    self.reader = InflateState::new_boxed(DataFormat::Raw);
                }
            }
            self.seen.push(Err(String::from_utf8(payload).expect("text")));
        }
    }

    /// Takes the incomplete message at the end.
    fn rest(&mut self) -> String {
        match self.seen.last() {
            Some(Err(text)) if text.starts_with(CUT) => {
                let rest = text[CUT.len()..].to_owned();
                self.seen.pop();
                rest
            }
            _ => String::new(),
        }
    }

    fn events(&self) -> Vec<usize> {
        self.seen.iter().filter_map(|seen| seen.as_ref().ok().copied()).collect()
    }
}

/// Mark before an incomplete message.
const CUT: &str = "\0";

fn all() -> FilterSelection {
    FilterSelection::from(Filter::new())
}

const MESSAGES: Compression = Compression::ContextTakeover { bits: 15 };
const FORMS: [(Encoding, Compression); 4] = [
    (Encoding::NativeWs, MESSAGES),
    (Encoding::NativeWs, Compression::ContextTakeover { bits: 9 }),
    (Encoding::NativeWs, Compression::NoContextTakeover { bits: 15 }),
    (Encoding::NativeSseUnnamed, Compression::Gzip),
];

#[test]
fn a_lower_level_makes_larger_frames_with_equal_content() {
    let bytes = [1, 9].map(|level| {
        let mut limits = limits(1000, 1);
        limits.compressor.level = level;
        let mut world = World::new(Encoding::NativeWs, limits);
        let mut member =
            world.member(Compression::ContextTakeover { bits: 15 }, &[all()], LagPolicy::DropOldest, 0);
        member.pipe.room = BIG;
        (0..50).for_each(|n| world.publish("a", 10 + n % 7));
        world.seal();
        assert_eq!(world.pass(&mut member), Flushed::Done);
        assert_eq!(member.events(), (0..50).collect::<Vec<_>>());
        member.pipe.taken.len()
    });
    assert!(bytes[0] > bytes[1], "{bytes:?}");
}

#[test]
fn an_event_is_deflated_once_whatever_the_number_of_members() {
    for (encoding, compression) in FORMS {
        let mut world = World::new(encoding, limits(1000, 4));
        let mut members: Vec<Member> =
            (0..300).map(|conn| world.member(compression, &[all()], LagPolicy::DropOldest, conn)).collect();
        for n in 1..=50 {
            world.publish("a", 40);
            world.seal();
            for member in &mut members {
                member.pipe.room = BIG;
                assert_eq!(world.pass(member), Flushed::Done);
            }
            assert_eq!(world.deflates(), n, "{compression:?}");
        }
        let total: usize = world.plain.iter().map(Bytes::len).sum();
        for member in &members {
            assert_eq!(member.events(), (0..50).collect::<Vec<_>>(), "{compression:?}");
            assert!(member.pipe.taken.len() * 2 < total, "{} of {total}", member.pipe.taken.len());
        }
    }
}

#[test]
fn members_without_context_takeover_share_one_form_over_all_feeds() {
    let mut world = World::new(Encoding::NativeWs, limits(1000, 4));
    let filters = ["type=a", "type=*", "type=a,b"]
        .map(|f| FilterSelection::from(f.parse::<Filter>().expect("a filter")));
    let mut members: Vec<Member> = (filters.iter().zip(0..))
        .map(|(filter, conn)| {
            let alone = Compression::NoContextTakeover { bits: 15 };
            world.member(alone, std::slice::from_ref(filter), LagPolicy::DropOldest, conn)
        })
        .collect();
    world.publish("a", 100);
    world.seal();
    for member in &mut members {
        member.pipe.room = BIG;
        world.pass(member);
        assert_eq!(member.events(), [0]);
    }
    assert_eq!(world.deflates(), 1);
}

#[test]
fn a_newcomer_reads_plain_frames_until_a_restart_puts_it_in_sync() {
    for (encoding, compression) in [FORMS[0], FORMS[3]] {
        let mut world = World::new(encoding, limits(1000, 4));
        let mut old = world.member(compression, &[all()], LagPolicy::DropOldest, 0);
        old.pipe.room = BIG;
        for _ in 0..20 {
            world.publish("a", 40);
            world.seal();
            world.pass(&mut old);
        }
        let mut new = world.member(compression, &[all()], LagPolicy::DropOldest, 1);
        new.pipe.room = BIG;
        let mut step = |world: &mut World| {
            world.publish("a", 40);
            world.seal();
            let before = (old.pipe.taken.len(), new.pipe.taken.len());
            world.pass(&mut old);
            world.pass(&mut new);
            (old.pipe.taken.len() - before.0, new.pipe.taken.len() - before.1)
        };
        // The last restart was a moment ago, so the newcomer gets plain frames until the next one is allowed.
        let (compressed, plain) = step(&mut world);
        assert!(compressed * 2 < plain, "{compressed} and {plain}");
        assert_eq!(world.metrics.deflate_fresh.get(), 1);
        world.now = Timestamp(world.now.0 + 1_000_000);
        let (for_old, for_new) = step(&mut world);
        assert_eq!(for_old, for_new);
        assert_eq!(world.metrics.deflate_fresh.get(), 2);
        let (again, _) = step(&mut world);
        assert!(again < for_old, "{again} and {for_old}: no need for another restart");
        assert_eq!(old.events(), (0..23).collect::<Vec<_>>());
        assert_eq!(new.events(), (20..23).collect::<Vec<_>>());
    }
}

#[test]
fn restarts_are_bounded_however_often_members_join() {
    let mut world = World::new(Encoding::NativeWs, limits(1000, 4));
    let mut old = world.member(MESSAGES, &[all()], LagPolicy::DropOldest, 0);
    old.pipe.room = BIG;
    for n in 1..500 {
        let mut guest = world.member(MESSAGES, &[all()], LagPolicy::DropOldest, 1);
        guest.pipe.room = BIG;
        world.publish("a", 40);
        world.seal();
        world.pass(&mut old);
        world.pass(&mut guest);
        assert_eq!(guest.events(), [n - 1]);
        guest.outbox.leave(&mut world.fanout, &mut OutboxContext::new(&mut world.tally, &Still));
    }
    let total: usize = world.plain.iter().map(Bytes::len).sum();
    let restarts = world.metrics.deflate_fresh.get() as usize;
    assert!((2..=total / (64 * 1024) + 1).contains(&restarts), "{restarts} for {total} bytes");
    assert_eq!(old.events().len(), 499);
}

#[test]
fn windows_are_bounded_counted_and_go_to_active_feeds() {
    let mut world = World::new(Encoding::NativeWs, limits(1000, 2));
    let bare = world.fanout.bytes();
    let types = ["a", "b", "c"];
    let mut members: Vec<Member> = (types.iter().zip(0..))
        .map(|(kind, conn)| {
            let selection: FilterSelection = Filter::new().types([*kind]).into();
            let mut member = world.member(MESSAGES, &[selection], LagPolicy::DropOldest, conn);
            member.pipe.room = BIG;
            member
        })
        .collect();
    let mut turn = |world: &mut World, kinds: &[&str]| {
        for kind in kinds {
            world.publish(kind, 100);
        }
        world.seal();
        for member in &mut members {
            assert_eq!(world.pass(member), Flushed::Done);
        }
        for feed in 0..3 {
            world.fanout.forget_written(feed);
        }
        members.iter().map(|member| member.pipe.taken.len()).collect::<Vec<_>>()
    };
    for _ in 0..5 {
        turn(&mut world, &types);
    }
    assert_eq!(world.metrics.deflate_windows.get(), 2);
    assert!(world.fanout.bytes() - bare > 2 * 300 * 1024, "{}", world.fanout.bytes());
    let before = turn(&mut world, &types);
    let after = turn(&mut world, &types);
    let cost: Vec<usize> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    assert!(cost[0] * 2 < cost[2], "the third has no window: {cost:?}");
    // The first feed sends nothing any more, so its window goes to the third.
    for _ in 0..10 {
        world.now = Timestamp(world.now.0 + 1_000_000);
        turn(&mut world, &["b", "c"]);
    }
    let before = turn(&mut world, &["b", "c"]);
    let after = turn(&mut world, &["b", "c"]);
    assert!((after[2] - before[2]) * 2 < cost[2], "{} compared with {cost:?}", after[2] - before[2]);
    turn(&mut world, &types);
    assert_eq!(world.metrics.deflate_windows.get(), 2);
    world.fanout.shed(0);
    assert_eq!(world.metrics.deflate_windows.get(), 0);
    turn(&mut world, &types);
    let counts: Vec<usize> = members.iter().map(|member| member.events().len()).collect();
    assert_eq!(counts, [9, 21, 21]);
    for mut member in members {
        member.outbox.leave(&mut world.fanout, &mut OutboxContext::new(&mut world.tally, &Still));
    }
    assert_eq!((world.metrics.deflate_windows.get(), world.fanout.retained_bytes()), (0, 0));
}

fn wishes_of(policy: u8) -> (Vec<FilterSelection>, LagPolicy) {
    let selection =
        |filter: &str, conflation| FilterSelection { filter: filter.parse().expect("a filter"), conflation };
    match policy {
        0 => (vec![all()], LagPolicy::DropOldest),
        1 => (vec![all()], LagPolicy::DropNewest),
        2 => (vec![selection("", Conflation::LatestPerKey)], LagPolicy::DropOldest),
        3 => (vec![selection("", Conflation::Sample(50_000))], LagPolicy::DropOldest),
        _ => (
            vec![selection("", Conflation::LatestPerKey), selection("type=a", Conflation::None)],
            LagPolicy::DropNewest,
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// For all forms, policies, joins, skips, blocks and replies: every member can read every byte, each message is exactly
    /// an event's, a gap or a reply, in order and once, and the totals balance.
    #[test]
    fn every_members_bytes_can_be_read(
        form in 0usize..4,
        windows in 0usize..3,
        policies in proptest::array::uniform3(0u8..5),
        steps in proptest::collection::vec((0u8..10, 0usize..3, 0usize..600), 1..120),
    ) {
        let (encoding, compression) = FORMS[form];
        let mut world = World::new(encoding, limits(5, windows));
        let mut members: Vec<Member> = (policies.iter().zip(0..)).map(|(policy, conn)| {
            let (selections, lag_policy) = wishes_of(*policy);
            world.member(compression, &selections, lag_policy, conn)
        }).collect();
        let mut replies = 0;
        for (what, who, size) in steps {
            world.now = Timestamp(world.now.0 + 17_000 * (size as i64 % 7));
            world.fanout.release_samples(world.now);
            match what {
                0..=3 => for n in 0..size % 4 {
                    world.publish(["a", "b", "c", "d"][(size + n) % 4], size / 9);
                },
                4 | 5 => members[who].pipe.room = size,
                6 => members[who].pipe.room = BIG,
                7 => {
                    let text = format!("reply {replies}");
                    replies += 1;
                    let bytes = match encoding {
                        Encoding::NativeWs => ws::frame(ws::OpCode::Text, text.as_bytes()),
                        _ => format!("{text}\n\n").into(),
                    };
                    members[who].outbox.send(&mut world.fanout, bytes, &mut OutboxContext::new(&mut world.tally, &Still));
                }
                8 => {
                    // A new member of a sampled feed receives the waiting sample, even if it had the event already, so
                    // members of sampled feeds stay there.
                    let others = [0, 1, 2, 4];
                    let policy = if policies[who] == 3 { 3 } else { others[size % 4] };
                    let (selections, _) = wishes_of(policy);
                    let member = &mut members[who];
                    let moved = member.outbox.leave(&mut world.fanout, &mut OutboxContext::new(&mut world.tally, &Still));
                    member.outbox.join(&mut world.fanout, encoding, &selections, member.conn);
                    if let Some(MovedMember { conn, index }) = moved {
                        members[conn as usize].outbox.set_member_index(index);
                    }
                }
                _ => {
                    let id = EventId { epoch: 1, shard: 0, sequence: world.plain.len() as u64 };
                    let gap = GapNotice {
                        missed: Missed::Unknown, from: None, to: Some(id), recoverable: false, at: world.now,
                    };
                    world.fanout.append_gap(id, &gap, &gap, false);
                }
            }
            world.seal();
            for member in &mut members {
                world.pass(member);
            }
            prop_assert_eq!(world.difference(&members), 0);
        }
        world.now = Timestamp(world.now.0 + 10_000_000);
        world.fanout.release_samples(world.now);
        world.seal();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for member in &mut members {
            member.pipe.room = BIG;
            prop_assert_eq!(world.pass(member), Flushed::Done);
            let events = member.events();
            prop_assert!(events.is_sorted_by(|a, b| a < b), "{events:?}");
            for text in member.seen.iter().filter_map(|seen| seen.as_ref().err()) {
                prop_assert!(text.contains("\"missed\":") || text.starts_with("reply "), "{text:?}");
                *seen.entry(text.clone()).or_default() += usize::from(text.starts_with("reply "));
            }
        }
        prop_assert_eq!(seen.values().sum::<usize>(), replies);
        prop_assert_eq!(world.difference(&members), 0);
    }
}
