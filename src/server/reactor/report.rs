//! Periodic reports of a loop: its ledger, its laggards, and its memory.
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

/// Maximum number of feeds shown for each loop.
const FEEDS_MAX: usize = 50;

/// Number of connections, besides the laggards, whose kernel queue is read each second, in turn. So a slow client is
/// detected before bytes wait here.
const PROBES_A_SECOND: usize = 64;

/// Bytes in the kernel's queue below which a client does not count as slow: they may be in flight.
const KERNEL_BYTES_MIN: u64 = 32 * 1024;

/// Ticks between two observations of all clients' lag for the histograms.
const HISTOGRAM_TICKS: u64 = 10;

/// Average number of connections that reports look at in a tick. With more connections, reports are made less often,
/// down to once a second: with 10,000 connections, ten reports a second took 1 to 2% of a core while only heartbeats
/// were sent.
const CONNECTIONS_A_TICK: u64 = 1000;

/// Maximum number of connections closed at once to free memory, largest first.
const HOLDERS_MAX: usize = 64;

/// Memory below which a connection is not closed to free memory. Closing many small ones frees little, and they are
/// usually the clients with the smallest demands.
const HOLDER_BYTES_MIN: usize = 16 * 1024;

/// Maximum unsent bytes of a stalled client at which it still receives a notice before it is closed to free memory.
const NOTICE_BYTES: usize = 4 * 1024;

/// Bytes of a connection without its struct and its own buffers: entries in the wheel and tables, and the allocator's
/// overhead.
const CONNECTION_BYTES: usize = 64;

/// Divisor of a loop's memory budget: after growth by one part, the loop counts its memory again.
const RECOUNT_PARTS: usize = 16;
const COUNT_BYTES_MIN: usize = 256 * 1024;

/// Sum of shared bytes below which they are counted once per connection, without finding duplicates.
const SHARED_BYTES_MIN: usize = 1024 * 1024;

impl<S: Socket> LoopState<S> {
    /// Returns the ledger of all connections, past ones included.
    fn ledger(&self) -> LoopLedger {
        let mut pending = self.delivery.fanout.samples_waiting();
        for (_, conn) in &self.clients.conns {
            pending += conn.outbox.pending(&self.delivery.fanout);
        }
        let TallyTotals { written, dropped, conflated, merged } = self.accounts.books;
        let feeds = self.delivery.fanout.totals;
        let conflated = conflated + self.delivery.tally.conflated + feeds.sampled_out as i64;
        // Conflation counts an event ahead of its place. If the event was then also dropped at its place, it was counted
        // twice.
        let twice = conflated.min(0).unsigned_abs();
        let dropped = dropped + self.delivery.tally.dropped - twice.saturating_sub(pending);
        LoopLedger {
            matched: feeds.matched,
            written: written + self.delivery.tally.events,
            pending: pending.saturating_sub(twice),
            dropped,
            conflated: conflated.max(0) as u64,
            merged: merged + self.delivery.tally.merged,
        }
    }

    /// Returns whether enough bytes were received or queued that memory must be counted before the next tick.
    fn must_count(&self) -> bool {
        let Some(budget) = self.turn.config.max_memory_bytes else { return false };
        let budget = budget / self.shared.loops.count;
        self.accounts.bytes_since_count > (budget / RECOUNT_PARTS).max(COUNT_BYTES_MIN)
    }

    /// Returns the number of ticks until the next report, if one is due; 0: now.
    pub(super) fn ticks_to_report(&self) -> Option<u64> {
        let pause = (self.clients.conns.len() as u64 / CONNECTIONS_A_TICK).clamp(1, HISTOGRAM_TICKS);
        let next = self.accounts.reported + pause;
        self.accounts.report_due.then(|| next.saturating_sub(self.turn.tick))
    }

    /// Reports changes, when [`ticks_to_report`](Self::ticks_to_report) is 0 or many bytes have arrived. Looks at every
    /// connection.
    pub(super) fn report(&mut self) {
        let is_due = self.ticks_to_report() == Some(0);
        if !is_due && !self.must_count() {
            return;
        }
        self.accounts.reported = self.turn.tick;
        self.accounts.report_due = false;
        self.accounts.bytes_since_count = 0;
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
        let mut held = HeldSums::default();
        for (slot, conn) in &self.clients.conns {
            let token = conn.token(slot);
            held.add(conn);
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
                transport: conn.connection.transport(),
                lag,
                kernel_bytes: 0,
            });
            // Makes the next report look at laggards again, even if nothing else happens.
            self.accounts.report_due = true;
        }
        worst_first(&mut laggards);
        let shared = self.shared_once(held.shared);
        let apart = self.delivery.fanout.bytes()
            + self.accounts.tables
            + self.presence_bytes()
            + self.clients.ends.held_bytes();
        let held_bytes = self.shed(held.own + shared + apart);
        if observe {
            self.probe_kernel_queues(&mut laggards);
        }
        self.add_kernel_bytes(&mut laggards);
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
            self.accounts.report_due = true;
        }
        let report = LoopReport { ledger, laggards, held_bytes, feeds: Arc::clone(&self.accounts.largest) };
        self.shared.store_report(self.accounts.loop_number, report);
        if observe {
            self.shared.record_history(self.turn.now);
        }
    }

    /// Returns the bytes that wait for connections and are shared, each counted once. `sum` counts them once per connection.
    /// Duplicates are looked up only if the sum is large, because that takes a step for each piece.
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

    /// Adds the bytes of the kernel's queues to the lag of laggards.
    fn add_kernel_bytes(&mut self, laggards: &mut [Laggard]) {
        for laggard in laggards.iter_mut().filter(|laggard| laggard.kernel_bytes == 0) {
            let slot = (laggard.connection & 0xffff_ffff) as usize;
            let ends = self.clients.conns.get(slot).and_then(|conn| conn.socket.ends());
            laggard.kernel_bytes = ends.and_then(|ends| self.accounts.kernel.of(ends)).unwrap_or(0);
            laggard.lag.bytes += laggard.kernel_bytes;
        }
    }

    /// Reads the kernel's queue of some connections that do not lag, and adds those with many bytes in it.
    fn probe_kernel_queues(&mut self, laggards: &mut Vec<Laggard>) {
        let end = self.clients.conns.iter().next_back().map_or(0, |(slot, _)| slot + 1);
        for _ in 0..PROBES_A_SECOND.min(end) {
            let slot = self.accounts.next_probe % end;
            self.accounts.next_probe = slot + 1;
            let Some(conn) = self.clients.conns.get(slot).filter(|conn| !conn.blocked) else { continue };
            let reported = conn.socket.ends().and_then(|ends| self.accounts.kernel.of(ends));
            if let Some(kernel_bytes) = reported.filter(|bytes| *bytes >= KERNEL_BYTES_MIN) {
                let connection = conn.token(slot);
                let lag = Lag { bytes: kernel_bytes, ..Lag::default() };
                laggards.push(Laggard {
                    connection,
                    transport: conn.connection.transport(),
                    lag,
                    kernel_bytes,
                });
            }
        }
    }

    /// Frees memory if the loop is over its budget: first the frames that feeds keep for laggards, then the largest
    /// connections, those with many unfinished bodies first. Returns the bytes held afterwards. While the loop is still over
    /// its budget, it accepts no new stream; it always accepts publishers.
    fn shed(&mut self, mut held: usize) -> usize {
        // Free places that closed connections left in the tables do not count against new clients.
        let budget = self
            .shared
            .loop_budget(&self.turn.config)
            .map(|budget| budget.saturating_add(self.accounts.spare));
        let Some(budget) = budget.filter(|budget| held > *budget) else {
            self.shared.set_short_of_memory(self.accounts.loop_number, false);
            return held;
        };
        let metrics = Arc::clone(&self.shared.metrics);
        let holders = self.largest_holders();
        self.shared.kept.blocks().clear();
        let before = self.delivery.fanout.bytes();
        self.delivery.fanout.shed(budget / 2);
        let freed = (before - self.delivery.fanout.bytes()).min(held);
        held -= freed;
        metrics.shed.get_or_create(&Kind { kind: "feed_bytes" }).inc_by(freed as u64);
        for Holder { token, bytes } in holders {
            if held <= budget {
                break;
            }
            held = held.saturating_sub(bytes);
            self.shed_connection(token);
        }
        self.shared.set_short_of_memory(self.accounts.loop_number, held > budget);
        self.accounts.report_due = true;
        held
    }

    /// Returns the connections that hold the most memory, those with many unfinished bodies first. Looks at every member of every
    /// filter, so only where memory is short.
    fn largest_holders(&self) -> Vec<Holder> {
        let mut largest = BinaryHeap::new();
        for (slot, conn) in &self.clients.conns {
            let (beside, shared) = held_bytes(conn);
            // Closing it also frees its subscriptions' part of the loop's tables.
            let bytes = beside + shared + conn.connection.table_bytes();
            if bytes < HOLDER_BYTES_MIN {
                continue;
            }
            largest.push(Reverse(Holder { bytes, token: conn.token(slot) }));
            if largest.len() > HOLDERS_MAX {
                largest.pop();
            }
        }
        let mut all: Vec<Holder> = largest.into_iter().map(|Reverse(holder)| holder).collect();
        let is_greedy = |holder: &Holder| {
            self.find(holder.token)
                .is_some_and(|slot| self.clients.conns[slot].connection.is_greedy(&self.turn.config))
        };
        all.sort_by_cached_key(|holder| Reverse((is_greedy(holder), *holder)));
        all
    }

    /// Closes a connection to free its memory.
    fn shed_connection(&mut self, token: Token) {
        let Some(slot) = self.find(token) else { return };
        let conn = &self.clients.conns[slot];
        let is_body =
            conn.connection.transport() == ClientTransport::Http && conn.connection.input_bytes() > 0;
        self.count_shed(if is_body { "bodies" } else { "connections" });
        self.stop_delivery(slot);
        let conn = &mut self.clients.conns[slot];
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        conn.connection.shed(&mut cx);
        if self.apply(slot)
            && let Some(slot) = self.find(token)
            && self.clients.conns[slot].blocked
            && self.clients.conns[slot].waiting_bytes() > NOTICE_BYTES
        {
            // A notice would wait after bytes that the client does not read.
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

/// Returns the bytes of a connection beside its struct, and those that wait for it and are shared.
fn held_bytes<S: Socket>(conn: &Conn<S>) -> (usize, usize) {
    let (waits, shared) = conn.outbox.held_bytes();
    let replay = conn.replay.as_ref().map_or(0, |replay| replay.held_bytes());
    (waits + replay + conn.socket.held_bytes() + conn.connection.held_bytes(), shared)
}

/// Sums of the connections' memory.
#[derive(Debug, Default)]
struct HeldSums {
    /// Sum of the bytes of each connection alone.
    own: usize,
    /// Sum of the shared bytes, counted once per connection.
    shared: usize,
}

impl HeldSums {
    fn add<S: Socket>(&mut self, conn: &Conn<S>) {
        let (beside, shared) = held_bytes(conn);
        self.own += CONNECTION_BYTES + size_of::<Conn<S>>() + beside;
        self.shared += shared;
    }
}

/// State of a loop for tests.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(crate) struct Audit {
    /// Imbalance of the ledger.
    pub(crate) difference: i64,
    #[cfg(test)]
    pub(crate) pending: u64,
    pub(crate) ledger: String,
    #[cfg(test)]
    pub(crate) held_bytes: usize,
    pub(crate) connections: usize,
    pub(crate) feeds: usize,
    /// Events taken from each shard of the bus.
    #[cfg(test)]
    pub(crate) events_read: Box<[u64]>,
}

#[cfg(any(test, fuzzing))]
impl<S: Socket> LoopState<S> {
    pub(crate) fn audit(&self) -> Audit {
        let ledger = self.ledger();
        Audit {
            difference: ledger.difference(),
            #[cfg(test)]
            pending: ledger.pending,
            ledger: if ledger.difference() == 0 { String::new() } else { format!("{ledger:?}") },
            #[cfg(test)]
            held_bytes: self.held_by_outboxes(),
            connections: self.clients.conns.len(),
            feeds: self.shared.metrics.feeds.get() as usize,
            #[cfg(test)]
            events_read: (0..self.shared.bus.shards() as u16)
                .map(|s| self.delivery.reader.position(s))
                .collect(),
        }
    }

    /// Returns the bytes of retained frames and of bytes that are inserted between them.
    #[cfg(test)]
    fn held_by_outboxes(&self) -> usize {
        let own: usize = self.clients.conns.iter().map(|(_, conn)| conn.outbox.inserted_bytes()).sum();
        self.delivery.fanout.bytes() + own
    }
}
