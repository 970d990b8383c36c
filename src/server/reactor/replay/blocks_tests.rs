//! Compares readers that take encoded blocks with readers that take events one by one, while logs grow, end, begin again,
//! and are evicted and purged.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::bus::Bus;
use crate::dialect::GapNotice;
use crate::event::{Event, Timestamp};
use crate::kept::tests::dice;
use crate::kept::{LogName, RetainBy};
use crate::server::shared::Shared;
use crate::server::shared::blocks::{BLOCKS_BYTES_MAX, BlockForm};
use crate::server::{RetainConfig, RetainRule, ServerConfig};
use forward::BlockSink;

const EPOCH: u64 = 7;
const ENCODING: Encoding = Encoding::NativeSse;

fn filter(text: &str) -> Filter {
    text.parse().expect("a filter")
}

/// Bytes that a client gets.
struct Client {
    selector: ReplaySelector,
    takes_blocks: bool,
    bytes: Vec<u8>,
    events: u64,
    blocks: u64,
    /// Number of bytes that it takes in this step.
    room: usize,
}

impl Client {
    fn new(filters: &[Filter], takes_blocks: bool) -> Self {
        let selector = ReplaySelector::any(filters.to_vec(), Vec::new());
        Self { selector, takes_blocks, bytes: Vec::new(), events: 0, blocks: 0, room: 0 }
    }

    fn takes(&mut self, frames: &[u8], events: u64) {
        self.bytes.extend_from_slice(frames);
        self.events += events;
        self.room = self.room.saturating_sub(frames.len());
    }
}

impl EventSink for Client {
    fn is_full(&self) -> bool {
        self.room == 0
    }

    fn decides(&mut self, event: &Event, budget: &mut Budget) -> bool {
        self.selector.decides(event, budget)
    }

    fn event(&mut self, event: &Event, _: Option<&Position>, budget: &mut Budget) {
        if self.selector.wants(event, budget) {
            budget.spend(1);
            self.takes(&ENCODING.encode(event, event.position()), 1);
        }
    }

    fn gap(&mut self, gap: &GapNotice) {
        let GapNotice { missed, from, to, .. } = gap;
        self.bytes.extend_from_slice(format!("gap {missed:?} {from:?} {to:?}\n").as_bytes());
    }

    fn blocks(&mut self) -> Option<&mut dyn BlockSink> {
        (self.takes_blocks && self.selector.is_alone()).then_some(self)
    }
}

impl BlockSink for Client {
    fn form(&self) -> BlockForm {
        BlockForm { slot: ENCODING.slot(), compression: crate::feed::Compression::None }
    }

    fn encoding(&self) -> Encoding {
        ENCODING
    }

    fn put_frame(&mut self, event: &Event, frames: &mut Vec<u8>) {
        ENCODING.put(event, event.position(), frames);
    }

    fn count_frames(&self, lens: &mut dyn Iterator<Item = usize>) {
        lens.for_each(|len| assert!(len > 0, "no frame is empty"));
    }

    fn block(&mut self, frames: Bytes, events: u32, last: EventId, budget: &mut Budget) {
        assert!(frames.ends_with(format!("id: {last}\n\n").as_bytes()), "the last event");
        budget.spend(1);
        self.blocks += 1;
        self.takes(&frames, u64::from(events));
    }
}

/// Two readers with one request.
struct Pair {
    readers: [(KeptPast, Client); 2],
}

/// Logs, their events' next places, and the readers.
struct World {
    shared: Shared,
    next: Vec<Sequence>,
    /// Next places after each event.
    places: Vec<Vec<LogPlace>>,
    now: i64,
    pairs: Vec<Pair>,
    blocks: u64,
}

impl World {
    fn new(shards: usize, next: &mut impl FnMut(u64) -> u64) -> Self {
        let mut rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("valid").end(["end"]);
        (rule.events, rule.keep_for) = (100 + next(300) as usize, Duration::from_secs(40));
        let retain = RetainConfig { rules: vec![rule], max_logs: 3, ..RetainConfig::default() };
        let bus = Bus::builder().shards(shards).capacity(64).build().expect("valid");
        let shared = Shared::new(bus, ServerConfig { retain, ..ServerConfig::default() }, 1);
        let places = vec![vec![(EPOCH, 0); shards]];
        Self { shared, next: vec![0; shards], places, now: 0, pairs: Vec::new(), blocks: 0 }
    }

    fn id(&mut self, shard: usize) -> EventId {
        let sequence = self.next[shard];
        self.next[shard] += 1;
        self.places.push(self.ends());
        EventId { epoch: EPOCH, shard: shard as u16, sequence }
    }

    fn record(&mut self, next: &mut impl FnMut(u64) -> u64) {
        let stream = format!("run-{}", next(4));
        let size = if next(20) == 0 { 3_000 } else { 20 };
        for _ in 0..=next(90) {
            let kind =
                ["token", "token", "tool", if next(30) == 0 { "end" } else { "token" }][next(4) as usize];
            let payload = format!("\"{}\"", "x".repeat(next(size) as usize));
            let event = Event::builder(kind).stream(&stream).json(payload).build().expect("valid");
            event.set_id(self.id(next(self.next.len() as u64) as usize));
            self.shared.kept.lock().expect("rules").record(&event, Timestamp(self.now));
        }
    }

    fn lose(&mut self, next: &mut impl FnMut(u64) -> u64) {
        let shard = next(self.next.len() as u64) as usize;
        self.next[shard] += next(5);
        let last = self.id(shard);
        self.shared.kept.lock().expect("rules").record_gap(last);
    }

    fn purge(&mut self, next: &mut impl FnMut(u64) -> u64) {
        let name = LogName::new(RetainBy::Stream, &format!("run-{}", next(4)));
        self.shared.kept.purge(&[name], &self.next, Timestamp(self.now)).expect("all is recorded");
    }

    fn ends(&self) -> Vec<LogPlace> {
        self.next.iter().map(|next| (EPOCH, *next)).collect()
    }

    fn begin(&mut self, next: &mut impl FnMut(u64) -> u64) {
        let run = format!("stream=run-{}", next(4));
        let filters = match next(8) {
            0 => vec![filter(&format!("{run} type=token,end"))],
            1 => vec![filter(&run).and(&filter("stream=run-0,run-1"))],
            2 => vec![filter(&run).and(&filter("type!=tool"))],
            3 => vec![filter(&run), filter(&format!("{run} type=tool"))],
            4 => vec![filter(&format!("{run},run-1"))],
            _ => vec![filter(&run).and(&filter("stream=run-*"))],
        };
        let mark = |(shard, head): (usize, &Sequence)| {
            EventId::before(EPOCH, shard as u16, head.saturating_sub(next(500)))
        };
        let after: Vec<EventId> = self.next.iter().enumerate().map(mark).collect();
        let after = if next(2) == 0 { after } else { Vec::new() };
        let begun = |takes_blocks| {
            let logs = self.shared.kept.lock().expect("rules");
            let cursor = logs.cursor(&filters, &after, Timestamp(self.now)).expect("few logs");
            let past = KeptPast::new(cursor, &filters, self.ends().into_iter(), None);
            (past, Client::new(&filters, takes_blocks))
        };
        let readers = [begun(false), begun(true)];
        self.pairs.push(Pair { readers });
    }

    /// Reads up to a place before the end of the events, and compares both readers.
    fn read(&mut self, next: &mut impl FnMut(u64) -> u64) {
        if self.pairs.is_empty() {
            return;
        }
        let at = next(self.pairs.len() as u64) as usize;
        // A loop has read the events up to a place in the order of recording.
        let short = (next(3) * next(100)) as usize;
        let until = self.places[self.places.len().saturating_sub(1 + short)].clone();
        let now = Timestamp(self.now);
        for (past, client) in &mut self.pairs[at].readers {
            past.extend(&self.shared, until.iter().copied(), |_| (0, (0, 0)), now);
            for steps in 0.. {
                assert!(steps < 100_000, "the replay does not end");
                client.room = 1 + next(20_000) as usize;
                let mut arrived = None;
                let mut store = Store { shared: &self.shared, arrived: &mut arrived, now };
                while !client.selector.prepare(&mut Budget::new(1_000)) {}
                if past.step(&mut store, client, &mut Budget::new(1 + next(300) as u32)) == Step::Over {
                    break;
                }
            }
        }
        let [(_, one_by_one), (_, in_blocks)] = &self.pairs[at].readers;
        let (want, got) = (&one_by_one.bytes, &in_blocks.bytes);
        let same = want.iter().zip(got).take_while(|(want, got)| want == got).count();
        let near = |bytes: &[u8]| {
            let range = same.saturating_sub(200)..(same + 300).min(bytes.len());
            String::from_utf8_lossy(&bytes[range]).into_owned()
        };
        assert!(want == got, "{at}, after {same} bytes: {}\n\ninstead of: {}", near(got), near(want));
        assert_eq!(in_blocks.events, one_by_one.events);
        self.blocks += in_blocks.blocks;
        if next(3) == 0 {
            self.pairs.swap_remove(at);
        }
    }
}

#[test]
fn encoded_blocks_are_what_a_client_gets_event_by_event() {
    let mut blocks = 0;
    for seed in 1..28 {
        let mut next = dice(seed);
        let mut world = World::new(if seed % 3 == 0 { 3 } else { 1 }, &mut next);
        for _ in 0..300 {
            match next(24) {
                0 => world.purge(&mut next),
                1 => world.lose(&mut next),
                2 => world.shared.kept.blocks().clear(),
                3 => world.now += next(20_000_000) as i64,
                4..10 => world.record(&mut next),
                10..15 => world.begin(&mut next),
                _ => world.read(&mut next),
            }
        }
        let held = world.shared.kept.blocks().held_bytes();
        assert_eq!(held, world.shared.kept.blocks().counted_bytes(), "what is counted is there");
        assert!(held <= BLOCKS_BYTES_MAX);
        blocks += world.blocks;
    }
    assert!(blocks > 500, "{blocks}");
}
