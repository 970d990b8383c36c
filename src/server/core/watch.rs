//! What a loop tells of itself, some times a second: the ledger, who lags, and what it all takes in memory.
//!
//! Imports every lower room. Always: nothing here is per event; a quiet loop reports once and sleeps.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::connection::Speaks;
use super::{Core, Socket};
use crate::feed::{FeedView, Lag};
use crate::metrics::Kind;

/// Laggards shown.
const LAGGARDS_MAX: usize = 20;

/// Feeds shown of each loop.
const FEEDS_MAX: usize = 50;

/// Connections of which the kernel is asked once a second, besides those that lag, one after the other: so who
/// is slow is seen before anything waits here.
const ASKED_A_TIME: usize = 64;

/// Bytes in the kernel below which nobody is slow: they may be on their way.
const KERNEL_BYTES_MIN: u64 = 32 * 1024;

/// Ticks between two observations of everybody's lag for the histograms.
const HISTOGRAM_TICKS: u64 = 10;

/// What the tallies came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Books {
    pub(super) written: u64,
    pub(super) dropped: u64,
    pub(super) conflated: i64,
}

/// What became of every event that a connection was owed: `matched` is the sum of the others, at any moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ledger {
    /// Events owed, once for each connection.
    matched: u64,
    /// Written, or begun.
    written: u64,
    /// Waiting.
    pending: u64,
    /// Lost and told in a gap, or waiting when the connection went.
    dropped: u64,
    /// Left out because a subscription conflates or samples.
    conflated: u64,
}

impl Ledger {
    /// What is wrong with it; 0 always.
    fn difference(&self) -> i64 {
        let parts = self.written + self.pending + self.dropped + self.conflated;
        self.matched.wrapping_sub(parts) as i64
    }
}

/// A connection that is behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Laggard {
    connection: u64,
    speaks: Speaks,
    lag: Lag,
    /// Of its bytes, those that the kernel has and its peer has not.
    kernel_bytes: u64,
}

/// What one loop said last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    ledger: Ledger,
    laggards: Vec<Laggard>,
    /// Bytes held for clients: feeds, and what is each connection's own, requests that are coming in too.
    held_bytes: usize,
    /// The largest feeds, as of the last second.
    feeds: Arc<[FeedView]>,
}

impl Report {
    /// Events that wait for clients of the loop.
    pub(crate) fn pending(&self) -> u64 {
        self.ledger.pending
    }

    /// The largest feeds of the loop.
    pub(crate) fn feeds(&self) -> &[FeedView] {
        &self.feeds
    }

    /// All loops' reports as `/api/stats` shows them.
    pub(crate) fn together<'a>(reports: impl Iterator<Item = &'a Self>) -> (Value, Value, usize) {
        let mut sum = Ledger::default();
        let mut laggards = Vec::new();
        let mut held = 0;
        for report in reports {
            let Ledger { matched, written, pending, dropped, conflated } = report.ledger;
            sum.matched += matched;
            sum.written += written;
            sum.pending += pending;
            sum.dropped += dropped;
            sum.conflated += conflated;
            held += report.held_bytes;
            laggards.extend(&report.laggards);
        }
        worst_first(&mut laggards);
        let laggards: Vec<Value> = (laggards.iter())
            .map(|laggard| {
                let Lag { events, bytes, milliseconds } = laggard.lag;
                json!({
                    "connection": format!("{:x}", laggard.connection), "speaks": laggard.speaks.name(),
                    "events": events, "bytes": bytes, "kernel_bytes": laggard.kernel_bytes,
                    "milliseconds": milliseconds,
                })
            })
            .collect();
        let ledger = json!({
            "matched": sum.matched, "written": sum.written, "pending": sum.pending,
            "dropped": sum.dropped, "conflated": sum.conflated,
        });
        (ledger, laggards.into(), held)
    }
}

fn worst_first(laggards: &mut Vec<Laggard>) {
    laggards.sort_by_key(|laggard| std::cmp::Reverse((laggard.lag.bytes, laggard.lag.events)));
    laggards.truncate(LAGGARDS_MAX);
}

impl<S: Socket> Core<S> {
    /// The account of all connections, those that are gone included.
    fn ledger(&self) -> Ledger {
        let mut pending = self.fanout.samples_waiting();
        for (_, conn) in &self.conns {
            pending += conn.cursor.pending(&self.fanout);
        }
        let Books { written, dropped, conflated } = self.books;
        let feeds = self.fanout.books;
        let conflated = conflated + self.tally.conflated + feeds.sampled_out as i64;
        // What was counted as dropped ahead of its place waits there no more; and if it was let go there, it was
        // counted twice.
        let twice = conflated.min(0).unsigned_abs();
        let dropped = dropped + self.tally.dropped - twice.saturating_sub(pending);
        Ledger {
            matched: feeds.matched,
            written: written + self.tally.events,
            pending: pending.saturating_sub(twice),
            dropped,
            conflated: conflated.max(0) as u64,
        }
    }

    /// Reports what changed, at most once a tick. Looks at every connection.
    pub(super) fn report(&mut self) {
        if !self.unreported || self.reported == self.tick {
            return;
        }
        self.reported = self.tick;
        self.unreported = false;
        let ledger = self.ledger();
        debug_assert_eq!(ledger.difference(), 0, "{ledger:?}");
        let mut laggards = Vec::new();
        let mut held_bytes = self.fanout.bytes();
        let observe = self.tick >= self.observed + HISTOGRAM_TICKS;
        if observe {
            self.observed = self.tick;
        }
        for (slot, conn) in &self.conns {
            held_bytes +=
                conn.cursor.direct_bytes() + conn.socket.held_bytes() + conn.connection.input_bytes();
            let lag = conn.cursor.lag(&self.fanout, self.now);
            if lag == Lag::default() {
                continue;
            }
            if observe {
                self.shared.metrics.lag_events.observe(lag.events as f64);
                self.shared.metrics.lag_seconds.observe(lag.milliseconds as f64 / 1000.0);
            }
            let connection = super::token_of(slot, conn.generation);
            laggards.push(Laggard { connection, speaks: conn.connection.speaks(), lag, kernel_bytes: 0 });
            // Who lags is looked at again, though nothing else happens.
            self.unreported = true;
        }
        worst_first(&mut laggards);
        self.shed(held_bytes, &laggards);
        if observe {
            self.ask_of_some(&mut laggards);
        }
        self.ask_of(&mut laggards);
        worst_first(&mut laggards);
        if observe {
            for laggard in &laggards {
                self.shared.metrics.lag_bytes.observe(laggard.lag.bytes as f64);
            }
        }
        if observe {
            self.largest = self.fanout.largest(FEEDS_MAX).into();
        } else {
            // Who came and went since the last look is seen at the next.
            self.unreported = true;
        }
        let report = Report { ledger, laggards, held_bytes, feeds: Arc::clone(&self.largest) };
        self.shared.tell(self.number, report);
        if observe {
            self.shared.note_history(self.now);
        }
    }

    /// Adds what the kernel holds to what laggards are behind.
    fn ask_of(&mut self, laggards: &mut [Laggard]) {
        for laggard in laggards.iter_mut().filter(|laggard| laggard.kernel_bytes == 0) {
            let slot = (laggard.connection & 0xffff_ffff) as usize;
            let ends = self.conns.get(slot).and_then(|conn| conn.socket.ends());
            laggard.kernel_bytes = ends.and_then(|ends| self.kernel.of(ends)).unwrap_or(0);
            laggard.lag.bytes += laggard.kernel_bytes;
        }
    }

    /// Asks about some that do not lag here, and adds those for whom much waits in the kernel.
    fn ask_of_some(&mut self, laggards: &mut Vec<Laggard>) {
        let end = self.conns.iter().next_back().map_or(0, |(slot, _)| slot + 1);
        for _ in 0..ASKED_A_TIME.min(end) {
            let slot = self.asked % end;
            self.asked = slot + 1;
            let Some(conn) = self.conns.get(slot).filter(|conn| !conn.blocked) else { continue };
            let told = conn.socket.ends().and_then(|ends| self.kernel.of(ends));
            if let Some(kernel_bytes) = told.filter(|bytes| *bytes >= KERNEL_BYTES_MIN) {
                let connection = super::token_of(slot, conn.generation);
                let lag = Lag { bytes: kernel_bytes, ..Lag::default() };
                laggards.push(Laggard { connection, speaks: conn.connection.speaks(), lag, kernel_bytes });
            }
        }
    }

    /// Where the loops hold more than they may: first the past that feeds keep for laggards, then the worst
    /// laggards themselves; and as long as it lasts, no new streams. Publishers never.
    fn shed(&mut self, held_bytes: usize, laggards: &[Laggard]) {
        let Some(budget) = self.shared.loop_budget(&self.config) else { return };
        let is_short = held_bytes > budget;
        self.shared.set_short_of_memory(self.number, is_short);
        if !is_short {
            return;
        }
        let metrics = Arc::clone(&self.shared.metrics);
        let shed = |kind: &'static str| metrics.shed.get_or_create(&Kind { kind }).clone();
        let before = self.fanout.bytes();
        self.fanout.shed(budget / 2);
        let mut held = held_bytes - (before - self.fanout.bytes());
        shed("feed_bytes").inc_by((held_bytes - held) as u64);
        for laggard in laggards {
            if held <= budget {
                break;
            }
            if let Some(slot) = self.find(laggard.connection) {
                held -= self.conns[slot].cursor.direct_bytes().min(held);
                shed("connections").inc();
                self.close_lagged(slot);
            }
        }
        self.unreported = true;
    }
}

/// What a loop has, as tests look at it.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(crate) struct Audit {
    /// What the ledger is out by.
    pub(crate) difference: i64,
    pub(crate) pending: u64,
    pub(crate) words: String,
    pub(crate) held_bytes: usize,
    pub(crate) connections: usize,
    pub(crate) feeds: usize,
    /// Events taken from each shard of the bus.
    pub(crate) events_read: Box<[u64]>,
}

#[cfg(any(test, fuzzing))]
impl<S: Socket> Core<S> {
    pub(crate) fn audit(&self) -> Audit {
        let ledger = self.ledger();
        let own: usize = self.conns.iter().map(|(_, conn)| conn.cursor.direct_bytes()).sum();
        Audit {
            difference: ledger.difference(),
            pending: ledger.pending,
            words: if ledger.difference() == 0 { String::new() } else { format!("{ledger:?}") },
            held_bytes: self.fanout.bytes() + own,
            connections: self.conns.len(),
            feeds: self.shared.metrics.feeds.get() as usize,
            events_read: (0..self.shared.bus.shards() as u16).map(|s| self.reader.position(s)).collect(),
        }
    }
}
