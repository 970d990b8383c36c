//! Last report of each loop, and their sum.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::feed::{FeedView, Lag};

/// Protocol of a connection, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientTransport {
    Http,
    Ws,
    Sse,
}

impl ClientTransport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Ws => "ws",
            Self::Sse => "sse",
        }
    }
}

/// Maximum number of laggards shown.
const LAGGARDS_MAX: usize = 20;

/// Ledger of all events that connections should get. `matched` is the sum of the other fields at any moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoopLedger {
    /// Number of matched events, counted once for each connection.
    pub(crate) matched: u64,
    /// Events written, completely or in part.
    pub(crate) written: u64,
    /// Events waiting.
    pub(crate) pending: u64,
    /// Events lost and reported in a gap, or waiting when the connection closed.
    pub(crate) dropped: u64,
    /// Events left out because a subscription conflates or samples.
    pub(crate) conflated: u64,
    /// Events written as part of a later one, which alone counts as written (`concat`).
    pub(crate) merged: u64,
}

impl LoopLedger {
    /// Returns the imbalance of the ledger, which is always 0.
    pub(crate) fn difference(&self) -> i64 {
        let parts = self.written + self.pending + self.dropped + self.conflated + self.merged;
        self.matched.wrapping_sub(parts) as i64
    }
}

/// Connection that lags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Laggard {
    pub(crate) connection: u64,
    pub(crate) transport: ClientTransport,
    pub(crate) lag: Lag,
    /// Number of these bytes that are in the kernel and not acknowledged by the peer.
    pub(crate) kernel_bytes: u64,
}

/// Report of one loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoopReport {
    pub(crate) ledger: LoopLedger,
    pub(crate) laggards: Vec<Laggard>,
    /// Memory held for clients, in bytes: feeds, and the connections' own, incomplete requests included.
    pub(crate) held_bytes: usize,
    /// Largest feeds, as of the last second.
    pub(crate) feeds: Arc<[FeedView]>,
}

impl LoopReport {
    /// Returns the number of events that wait for clients of the loop.
    pub(crate) fn pending(&self) -> u64 {
        self.ledger.pending
    }

    /// Returns the largest feeds of the loop.
    pub(crate) fn feeds(&self) -> &[FeedView] {
        &self.feeds
    }

    /// Returns all loops' reports in the form of `/api/stats`.
    pub(crate) fn together<'a>(reports: impl Iterator<Item = &'a Self>) -> (Value, Value, usize) {
        let mut sum = LoopLedger::default();
        let mut laggards = Vec::new();
        let mut held = 0;
        for report in reports {
            let LoopLedger { matched, written, pending, dropped, conflated, merged } = report.ledger;
            sum.matched += matched;
            sum.written += written;
            sum.pending += pending;
            sum.dropped += dropped;
            sum.conflated += conflated;
            sum.merged += merged;
            held += report.held_bytes;
            laggards.extend(&report.laggards);
        }
        worst_first(&mut laggards);
        let laggards: Vec<Value> = (laggards.iter())
            .map(|laggard| {
                let Lag { events, bytes, milliseconds } = laggard.lag;
                json!({
                    "connection": format!("{:x}", laggard.connection), "speaks": laggard.transport.name(),
                    "events": events, "bytes": bytes, "kernel_bytes": laggard.kernel_bytes,
                    "milliseconds": milliseconds,
                })
            })
            .collect();
        let ledger = json!({
            "matched": sum.matched, "written": sum.written, "pending": sum.pending,
            "dropped": sum.dropped, "conflated": sum.conflated, "merged": sum.merged,
        });
        (ledger, laggards.into(), held)
    }
}

pub(crate) fn worst_first(laggards: &mut Vec<Laggard>) {
    laggards.sort_by_key(|laggard| std::cmp::Reverse((laggard.lag.bytes, laggard.lag.events)));
    laggards.truncate(LAGGARDS_MAX);
}
