//! Reports of a loop, some times a second: its ledger, its laggards, and its memory.
//!
//! Always: nothing here runs per event; a quiet loop reports once and sleeps.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::accounts::TallyTotals;
use super::clients::Conn;
use super::loop_state::LoopState;
use super::socket::Socket;
use super::token::Token;
use crate::feed::Lag;
use crate::metrics::Kind;
use crate::server::shared::report::{ClientTransport, Laggard, LoopLedger, LoopReport, worst_first};

/// Feeds shown of each loop.
const FEEDS_MAX: usize = 50;

/// Connections that the kernel is asked about once a second, in turn, besides the laggards: so slow clients are known before
/// anything waits here.
const ASKED_A_TIME: usize = 64;

/// Bytes in the kernel below which nobody is slow: they may be on their way.
const KERNEL_BYTES_MIN: u64 = 32 * 1024;

/// Ticks between two observations of everybody's lag for the histograms.
const HISTOGRAM_TICKS: u64 = 10;

/// Connections that may be closed at once because memory is short: those that hold the most.
const HOLDERS_MAX: usize = 64;

/// A connection that holds less is not closed for want of memory: closing many small ones frees little, and they are
/// mostly those that ask for least.
const HOLDER_BYTES_MIN: usize = 16 * 1024;

/// Bytes that may still wait for a stalled client that is closed to free memory: the notice that says so.
const LAST_WORDS_BYTES: usize = 4 * 1024;

/// Bytes of a connection besides its struct and its own buffers: places in the wheel and in tables, the allocator's part.
const CONNECTION_BYTES: usize = 64;

/// Parts of its budget that a loop may grow by before it counts again.
const COUNT_PARTS: usize = 16;
const COUNT_BYTES_MIN: usize = 256 * 1024;

/// Bytes kept elsewhere too that are counted for each connection, without a look at which are the same.
const SHARED_BYTES_MIN: usize = 1024 * 1024;

impl<S: Socket> LoopState<S> {
    /// The account of all connections, those that are gone included.
    fn ledger(&self) -> LoopLedger {
        let mut pending = self.delivery.fanout.samples_waiting();
        for (_, conn) in &self.clients.conns {
            pending += conn.outbox.pending(&self.delivery.fanout);
        }
        let TallyTotals { written, dropped, conflated } = self.accounts.books;
        let feeds = self.delivery.fanout.totals;
        let conflated = conflated + self.delivery.tally.conflated + feeds.sampled_out as i64;
        // Events counted as dropped ahead of their place do not wait there any more; those that were also dropped at their place
        // were counted twice.
        let twice = conflated.min(0).unsigned_abs();
        let dropped = dropped + self.delivery.tally.dropped - twice.saturating_sub(pending);
        LoopLedger {
            matched: feeds.matched,
            written: written + self.delivery.tally.events,
            pending: pending.saturating_sub(twice),
            dropped,
            conflated: conflated.max(0) as u64,
        }
    }

    /// Whether so much has come or was queued that what the loop holds must be counted now, and not with the tick.
    fn must_count(&self) -> bool {
        let Some(budget) = self.turn.config.max_memory_bytes else { return false };
        let budget = budget / self.shared.loops.count;
        self.accounts.grown > (budget / COUNT_PARTS).max(COUNT_BYTES_MIN)
    }

    /// Reports what changed, at most once a tick, or more often where much comes. Looks at every connection.
    pub(super) fn report(&mut self) {
        let is_due = self.accounts.unreported && self.accounts.reported != self.turn.tick;
        if !is_due && !self.must_count() {
            return;
        }
        self.accounts.reported = self.turn.tick;
        self.accounts.unreported = false;
        self.accounts.grown = 0;
        let ledger = self.ledger();
        debug_assert_eq!(ledger.difference(), 0, "{ledger:?}");
        let mut laggards = Vec::new();
        let observe = self.turn.tick >= self.accounts.observed + HISTOGRAM_TICKS;
        if observe {
            self.accounts.observed = self.turn.tick;
            // Walks the tables, so once a second only. Messages bound the growth by subscriptions in between.
            let snapshot = self.delivery.snapshot.as_ref().map_or(0, |snapshot| snapshot.held_bytes());
            self.accounts.tables =
                self.delivery.fanout.table_bytes() + snapshot + self.delivery.kind_log.held_bytes();
            self.accounts.spare = self.delivery.fanout.spare_bytes();
        }
        let mut holders = Holders::default();
        for (slot, conn) in &self.clients.conns {
            let token = conn.token(slot);
            holders.take(token, conn);
            let lag = conn.outbox.lag(&self.delivery.fanout, self.turn.now);
            if lag == Lag::default() {
                continue;
            }
            if observe {
                self.shared.metrics.lag_events.observe(lag.events as f64);
                self.shared.metrics.lag_seconds.observe(lag.milliseconds as f64 / 1000.0);
            }
            laggards.push(Laggard {
                connection: token,
                speaks: conn.connection.speaks(),
                lag,
                kernel_bytes: 0,
            });
            // Looks at laggards again, even if nothing else happens.
            self.accounts.unreported = true;
        }
        worst_first(&mut laggards);
        let shared = self.shared_once(holders.shared);
        let apart = self.delivery.fanout.bytes() + self.accounts.tables + self.presence_bytes();
        let held_bytes = self.shed(holders, shared + apart);
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
            self.accounts.largest = self.delivery.fanout.largest(FEEDS_MAX).into();
        } else {
            // The next look sees the clients that came and left since the last one.
            self.accounts.unreported = true;
        }
        let report = LoopReport { ledger, laggards, held_bytes, feeds: Arc::clone(&self.accounts.largest) };
        self.shared.tell(self.accounts.loop_number, report);
        if observe {
            self.shared.note_history(self.turn.now);
        }
    }

    /// Bytes that wait for connections and are kept elsewhere too, each once; `sum` is what they come to for each
    /// connection. Looked up only where the sum is much: it costs a step for each piece.
    fn shared_once(&self, sum: usize) -> usize {
        if sum < SHARED_BYTES_MIN {
            return sum;
        }
        let mut pieces: HashMap<usize, usize, foldhash::fast::RandomState> = HashMap::default();
        for (end, len) in self.clients.conns.iter().flat_map(|(_, conn)| conn.outbox.shared_pieces()) {
            let longest = pieces.entry(end).or_default();
            *longest = len.max(*longest);
        }
        pieces.into_values().sum()
    }

    /// Adds what the kernel holds to what laggards are behind.
    fn ask_of(&mut self, laggards: &mut [Laggard]) {
        for laggard in laggards.iter_mut().filter(|laggard| laggard.kernel_bytes == 0) {
            let slot = (laggard.connection & 0xffff_ffff) as usize;
            let ends = self.clients.conns.get(slot).and_then(|conn| conn.socket.ends());
            laggard.kernel_bytes = ends.and_then(|ends| self.accounts.kernel.of(ends)).unwrap_or(0);
            laggard.lag.bytes += laggard.kernel_bytes;
        }
    }

    /// Asks the kernel about some connections that do not lag here, and adds those with many bytes in the kernel.
    fn ask_of_some(&mut self, laggards: &mut Vec<Laggard>) {
        let end = self.clients.conns.iter().next_back().map_or(0, |(slot, _)| slot + 1);
        for _ in 0..ASKED_A_TIME.min(end) {
            let slot = self.accounts.asked % end;
            self.accounts.asked = slot + 1;
            let Some(conn) = self.clients.conns.get(slot).filter(|conn| !conn.blocked) else { continue };
            let told = conn.socket.ends().and_then(|ends| self.accounts.kernel.of(ends));
            if let Some(kernel_bytes) = told.filter(|bytes| *bytes >= KERNEL_BYTES_MIN) {
                let connection = conn.token(slot);
                let lag = Lag { bytes: kernel_bytes, ..Lag::default() };
                laggards.push(Laggard { connection, speaks: conn.connection.speaks(), lag, kernel_bytes });
            }
        }
    }

    /// Frees memory if the loop holds more than it may: first the past that feeds keep for laggards, then the connections that
    /// hold the most, those with many unfinished bodies before others. Returns the bytes held then. While that is still too
    /// much, the loop accepts no new stream; it always accepts publishers.
    fn shed(&mut self, holders: Holders, apart: usize) -> usize {
        let mut held = holders.own + apart;
        // Closed connections left free places in the tables, which do not keep new clients out.
        let budget = self
            .shared
            .loop_budget(&self.turn.config)
            .map(|budget| budget.saturating_add(self.accounts.spare));
        let Some(budget) = budget.filter(|budget| held > *budget) else {
            self.shared.set_short_of_memory(self.accounts.loop_number, false);
            return held;
        };
        let metrics = Arc::clone(&self.shared.metrics);
        let before = self.delivery.fanout.bytes();
        self.delivery.fanout.shed(budget / 2);
        let freed = (before - self.delivery.fanout.bytes()).min(held);
        held -= freed;
        metrics.shed.get_or_create(&Kind { kind: "feed_bytes" }).inc_by(freed as u64);
        for Holder { token, bytes, .. } in holders.largest_first(self) {
            if held <= budget {
                break;
            }
            held = held.saturating_sub(bytes);
            self.shed_connection(token);
        }
        self.shared.set_short_of_memory(self.accounts.loop_number, held > budget);
        self.accounts.unreported = true;
        held
    }

    /// Ends a connection that holds much.
    fn shed_connection(&mut self, token: Token) {
        let Some(slot) = self.find(token) else { return };
        let conn = &self.clients.conns[slot];
        let is_body = conn.connection.speaks() == ClientTransport::Http && conn.connection.input_bytes() > 0;
        self.count_shed(if is_body { "bodies" } else { "connections" });
        self.let_go_of_feed(slot);
        let conn = &mut self.clients.conns[slot];
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        conn.connection.shed(&mut cx);
        if self.apply(slot)
            && let Some(slot) = self.find(token)
            && self.clients.conns[slot].blocked
            && self.clients.conns[slot].waiting_bytes() > LAST_WORDS_BYTES
        {
            // The last words stand behind what it does not read.
            self.remove(slot);
        }
    }
}

/// A connection that holds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    bytes: usize,
    token: Token,
}

/// Memory of connections, and the largest holders.
#[derive(Debug, Default)]
struct Holders {
    /// Bytes of all, each its own.
    own: usize,
    /// Bytes that are kept elsewhere too, for each of them.
    shared: usize,
    largest: BinaryHeap<Reverse<Holder>>,
}

impl Holders {
    fn take<S: Socket>(&mut self, token: Token, conn: &Conn<S>) {
        let (waits, shared) = conn.outbox.held_bytes();
        let replay = conn.replay.as_ref().map_or(0, |replay| replay.held_bytes());
        let beside = waits + replay + conn.socket.held_bytes() + conn.connection.held_bytes();
        self.own += CONNECTION_BYTES + size_of::<Conn<S>>() + beside;
        self.shared += shared;
        // Its subscriptions' part of the loop's tables is freed too.
        let bytes = beside + shared + conn.connection.table_bytes();
        if bytes < HOLDER_BYTES_MIN {
            return;
        }
        self.largest.push(Reverse(Holder { bytes, token }));
        if self.largest.len() > HOLDERS_MAX {
            self.largest.pop();
        }
    }

    /// The largest, unfinished bodies of greedy clients first.
    fn largest_first<S: Socket>(self, core: &LoopState<S>) -> Vec<Holder> {
        let mut all: Vec<Holder> = self.largest.into_iter().map(|Reverse(holder)| holder).collect();
        let is_greedy = |holder: &Holder| {
            core.find(holder.token)
                .is_some_and(|slot| core.clients.conns[slot].connection.is_greedy(&core.turn.config))
        };
        all.sort_by_cached_key(|holder| Reverse((is_greedy(holder), *holder)));
        all
    }
}

/// State of a loop for tests.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(crate) struct Audit {
    /// Imbalance of the ledger.
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
impl<S: Socket> LoopState<S> {
    pub(crate) fn audit(&self) -> Audit {
        let ledger = self.ledger();
        let own: usize = self.clients.conns.iter().map(|(_, conn)| conn.outbox.inserted_bytes()).sum();
        Audit {
            difference: ledger.difference(),
            pending: ledger.pending,
            words: if ledger.difference() == 0 { String::new() } else { format!("{ledger:?}") },
            held_bytes: self.delivery.fanout.bytes() + own,
            connections: self.clients.conns.len(),
            feeds: self.shared.metrics.feeds.get() as usize,
            events_read: (0..self.shared.bus.shards() as u16)
                .map(|s| self.delivery.reader.position(s))
                .collect(),
        }
    }
}
